//! Takes a lock, shows its token to the resource it protects, works under it, and releases it.
//!
//! Run it twice at the same time: `cargo run --release --example lock`, with servers from `make cluster`.

use std::time::Duration;

use conclave_client::{
    Client, SessionOptions,
    fence::{Fence, Fenced},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoints =
        std::env::var("CONCLAVE_ENDPOINTS").unwrap_or("127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403".into());
    let client = Client::connect(endpoints.as_str()).await?;
    let session = client.session(SessionOptions::new().ttl(Duration::from_secs(10))).await?;
    // Stands for the database that keeps the orders; see `fence::sqlite` for a real one.
    let mut orders = Fence::default();

    println!("waiting for /locks/orders/42");
    let guard = session.lock("/locks/orders/42").label("shipping").wait(Duration::from_secs(60)).await?;
    println!("held, token {}", guard.token());
    orders.enter("orders/42", guard.token())?;
    guard
        .run(async {
            for step in 1..=3 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                println!("step {step} of 3");
            }
        })
        .await?;
    guard.txn().put("/orders-42-status", "shipped").commit().await?;
    guard.release().await?;
    println!("released");
    Ok(session.close().await?)
}
