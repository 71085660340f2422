//! Ten tasks share three permits.
//!
//! `cargo run --release --example semaphore`, with servers from `make cluster`.

use std::time::Duration;

use conclave_client::{Client, SessionOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoints =
        std::env::var("CONCLAVE_ENDPOINTS").unwrap_or("127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403".into());
    let client = Client::connect(endpoints.as_str()).await?;
    let session = client.session(SessionOptions::new()).await?;
    let tasks = (0..10).map(|task| {
        let session = session.clone();
        tokio::spawn(async move {
            let permit = session.semaphore("/semaphores/example", 3).label(format!("task {task}")).await?;
            println!("task {task} works, token {}", permit.token());
            tokio::time::sleep(Duration::from_millis(500)).await;
            permit.release().await
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await??;
    }
    Ok(session.close().await?)
}
