//! What locks protect, without any lock: both databases let in the same, and PostgreSQL's fence holds what it says.
//!
//! PostgreSQL is installed by `scripts/setup.sh --tests`; where it is missing they say so and judge nothing.

use std::{path::Path, time::Duration};

use conclave_client::{FencingToken, Revision, fence::postgres::Fence};
use conclave_suite::{
    client::runtime,
    disks::Room,
    judge::touches::{Touches, touches},
    resource::{
        Address, Resource, Touch,
        server::{Server, available},
    },
};
use tokio_postgres::{Client, NoTls};

fn server(logs: &Path) -> Option<(Server, Room)> {
    if let Err(lacks) = available() {
        eprintln!("NOT TESTED: {lacks}");
        return None;
    }
    let room = Room::make(false).expect("a directory");
    // The server goes first.
    Some((Server::start(&room, logs).expect("a server"), room))
}

fn token(revision: u64) -> FencingToken {
    FencingToken::new(0, Revision(revision))
}

/// The next holder reads and writes while the first one works, and again after it. Whether the first one could write, and the log.
fn overtaken(address: &Address, key: &str, fenced: bool) -> (bool, Touches) {
    let mut first = Resource::open(address, fenced).expect("open");
    let mut next = Resource::open(address, fenced).expect("open");
    let during = || {
        let touch = next.section("next", key, Some(token(9)), Duration::ZERO, || {}).expect("a section");
        assert!(matches!(touch, Touch::Done));
    };
    let touch = first.section("first", key, Some(token(7)), Duration::ZERO, during).expect("a section");
    let written = matches!(touch, Touch::Done);
    if let Touch::Refused(why) = touch {
        assert!(why.contains("token=7, the resource has seen 9"), "{why}");
    }
    // Who was refused is in nobody's way.
    let touch = next.section("next", key, Some(token(9)), Duration::ZERO, || {}).expect("a section");
    assert!(matches!(touch, Touch::Done));
    let mut log = first.log().expect("a log");
    log.retain(|touch| touch.key == key);
    (written, touches(&log))
}

#[test]
fn both_databases_refuse_who_comes_late_and_only_if_they_are_fenced() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = server(dir.path());
    let sqlite = Address::Sqlite(dir.path().join("resource.db"));
    for address in server.iter().map(|(server, _)| server.address()).chain([sqlite]) {
        let (written, found) = overtaken(&address, "fenced", true);
        assert!(!written, "{address:?}");
        assert_eq!(found, Touches { writes: 2, ..Touches::default() }, "{address:?}");
        let (written, found) = overtaken(&address, "open", false);
        assert!(written, "{address:?}");
        assert_eq!((found.writes, found.lost, found.backwards), (3, 1, 1), "{address:?}");
    }
}

async fn connect(address: &Address) -> Client {
    let Address::Postgres(socket) = address else { panic!("a PostgreSQL server") };
    let mut config = tokio_postgres::Config::new();
    let (client, connection) =
        config.host_path(socket).user("conclave").dbname("postgres").connect(NoTls).await.expect("connect");
    tokio::spawn(connection);
    client
}

#[test]
fn the_next_holder_waits_for_a_transaction_that_entered_and_keeps_its_holder_out_afterwards() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some((server, _room)) = server(dir.path()) else { return };
    runtime().expect("threads").block_on(wait_and_keep_out(&server.address()));
}

async fn wait_and_keep_out(address: &Address) {
    let (mut early, mut late) = (connect(address).await, connect(address).await);
    // Both make the table, at once.
    let (fence, other) = tokio::join!(Fence::new(&early), Fence::new(&late));
    let fence = fence.and(other).expect("table");

    let first = early.transaction().await.expect("begin");
    fence.enter(&first, "orders/42", token(7)).await.expect("first");
    let second = late.transaction().await.expect("begin");
    let mut entered = Box::pin(fence.enter(&second, "orders/42", token(9)));
    let soon = tokio::time::timeout(Duration::from_millis(300), &mut entered).await;
    assert!(soon.is_err(), "it did not wait: {soon:?}");
    first.commit().await.expect("commit");
    entered.await.expect("the next holder");
    second.commit().await.expect("commit");

    let again = early.transaction().await.expect("begin");
    let error = fence.enter(&again, "orders/42", token(7)).await.expect_err("stale");
    assert!(error.is_stale() && error.to_string().contains("has seen 9"), "{error}");
    drop(again);
    assert_eq!(fence.seen(&early, "orders/42").await.expect("read"), Some(9));
    assert_eq!(fence.seen(&early, "orders/43").await.expect("read"), None);

    let undone = early.transaction().await.expect("begin");
    fence.enter(&undone, "orders/43", token(9)).await.expect("enter");
    undone.rollback().await.expect("rollback");
    let after = early.transaction().await.expect("begin");
    fence.enter(&after, "orders/43", token(7)).await.expect("nothing was committed");
}
