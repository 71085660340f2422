//! Campaigns, leads for a while, and resigns; tells of every leader meanwhile.
//!
//! Run it several times at the same time: `cargo run --release --example leader NAME`, with servers from `make cluster`.

use std::time::Duration;

use conclave_client::{Client, SessionOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoints =
        std::env::var("CONCLAVE_ENDPOINTS").unwrap_or("127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403".into());
    let name = std::env::args().nth(1).unwrap_or_else(|| format!("process {}", std::process::id()));
    let client = Client::connect(endpoints.as_str()).await?;
    let session = client.session(SessionOptions::new().name(&name)).await?;
    let election = session.election("/elections/example");

    let mut leaders = election.observe().await?;
    let observer = tokio::spawn(async move {
        while let Some(Ok(leader)) = leaders.next().await {
            match leader {
                Some(leader) => println!("{} leads, token {}", String::from_utf8_lossy(&leader.value), leader.token),
                None => println!("nobody leads"),
            }
        }
    });
    let leadership = election.campaign(name.clone()).await?;
    leadership.run(tokio::time::sleep(Duration::from_secs(5))).await?;
    leadership.resign().await?;
    observer.abort();
    Ok(session.close().await?)
}
