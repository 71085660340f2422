//! Prints every change below a path until it is stopped.
//!
//! `cargo run --release --example watch /config`, with servers from `make cluster`.

use conclave_client::{Client, EventKind, SessionOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoints =
        std::env::var("CONCLAVE_ENDPOINTS").unwrap_or("127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403".into());
    let path = std::env::args().nth(1).unwrap_or("/".into());
    let client = Client::connect(endpoints.as_str()).await?;
    let session = client.session(SessionOptions::new()).await?;
    let mut watch = session.watch(path).subtree().open().await?;
    while let Some(events) = watch.next().await {
        let events = events?;
        for event in events.events {
            let what = match event.kind {
                EventKind::Created => "created",
                EventKind::Changed => "changed",
                EventKind::Deleted => "deleted",
            };
            println!("{} {what} {} {:?}", events.revision, event.node.path, event.node.data);
        }
    }
    Ok(())
}
