//! Locks, semaphores and elections through the client, on three real servers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use conclave_client::{Client, Config, ErrorKind, LostReason, Session, SessionOptions, fence::Fenced};
use conclave_tests::{Cluster, PATIENCE, eventually};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

async fn session(cluster: &Cluster, first: usize, name: &str) -> Session {
    let client = client(cluster, first);
    client.session(SessionOptions::new().name(name)).await.expect("a session")
}

fn client(cluster: &Cluster, first: usize) -> Client {
    Client::new(Config::new(cluster.endpoints()).with_first_endpoint(first)).expect("endpoints")
}

/// Nobody holds and nobody waits any more.
async fn is_free(client: &Client, path: &str) {
    eventually("the queue empties", || async {
        let left: usize =
            client.queues(path).await.map_err(|e| e.to_string())?.queues.iter().map(|q| q.entries.len()).sum();
        if left == 0 { Ok(()) } else { Err(format!("{left} entries left")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_at_a_time_with_rising_tokens_and_nothing_left_behind() {
    let cluster = Cluster::start(3).await.expect("servers");
    let inside = Arc::new(AtomicI64::new(0));
    let fence = Arc::new(std::sync::Mutex::new(conclave_client::fence::Fence::default()));
    let mut workers = JoinSet::new();
    for worker in 0..8 {
        let session = session(&cluster, worker, &format!("worker-{worker}")).await;
        let (inside, fence) = (inside.clone(), fence.clone());
        workers.spawn(async move {
            for _ in 0..20 {
                let guard = session.lock("/locks/one").label("counting").await.expect("the lock");
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "alone");
                fence
                    .lock()
                    .expect("no panic")
                    .enter("one", guard.token())
                    .expect("tokens rise in the order of holders");
                guard.run(tokio::task::yield_now()).await.expect("held");
                assert!(guard.is_held());
                assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
                guard.release().await.expect("released");
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.expect("no panic");
    }
    is_free(&client(&cluster, 0), "/locks").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_waiters_half_of_them_cancelled() {
    const WAITERS: usize = 1_000;
    let cluster = Cluster::start(3).await.expect("servers");
    let holder = session(&cluster, 0, "holder").await;
    let guard = holder.lock("/locks/busy").await.expect("free");
    let sessions = [session(&cluster, 0, "a").await, session(&cluster, 1, "b").await, session(&cluster, 2, "c").await];
    let (granted, mut grants) = mpsc::unbounded_channel();
    let mut stay = Vec::new();
    let mut leave = Vec::new();
    for waiter in 0..WAITERS {
        let session = sessions[waiter % 3].clone();
        let granted = granted.clone();
        let task = tokio::spawn(async move {
            let guard = session.lock("/locks/busy").await.expect("the lock");
            granted.send((guard.node_path().to_owned(), guard.token())).expect("the test listens");
            guard.release().await.expect("released");
        });
        // A few at a time, so that cancelling meets acquires in every state.
        if waiter % 50 == 49 {
            tokio::task::yield_now().await;
        }
        if waiter % 2 == 0 { stay.push(task) } else { leave.push(task) }
    }
    for (at, task) in leave.into_iter().enumerate() {
        if at % 7 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        task.abort();
    }
    drop(granted);
    guard.release().await.expect("released");
    for task in stay {
        timeout(PATIENCE, task).await.expect("nobody waits for ever").expect("no panic");
    }
    let mut got = Vec::new();
    while let Ok(grant) = grants.try_recv() {
        got.push(grant);
    }
    assert!(got.len() >= WAITERS / 2);
    assert!(got.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1), "first come, first served, with rising tokens");
    is_free(&client(&cluster, 0), "/locks").await;
}

#[tokio::test]
async fn who_does_not_wait_leaves_nothing() {
    let cluster = Cluster::start(1).await.expect("a server");
    let one = session(&cluster, 0, "one").await;
    let other = session(&cluster, 0, "other").await;
    let guard = one.lock("/locks/a").await.expect("free");
    for request in [other.lock("/locks/a").try_now(), other.lock("/locks/a").wait(Duration::from_millis(50))] {
        let error = request.await.err().expect("not free");
        assert_eq!(error.kind(), ErrorKind::NotAcquired, "{error}");
        assert!(error.to_string().contains("path=/locks/a"), "{error}");
    }
    eventually("only the holder stays", || async {
        let queues = other.queues("/locks").await.map_err(|e| e.to_string())?;
        let names: Vec<_> = queues.queues[0].entries.iter().map(|entry| entry.session_name.as_str()).collect();
        if names == ["one"] { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
    drop(guard);
    other
        .lock("/locks/a")
        .wait(PATIENCE)
        .await
        .expect("a dropped guard is released")
        .release()
        .await
        .expect("released");
    let error = one.lock("locks").await.err().expect("no path");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
}

#[tokio::test]
async fn shared_holders_together_exclusive_ones_alone_in_the_order_they_came() {
    let cluster = Cluster::start(1).await.expect("a server");
    let session = session(&cluster, 0, "rw").await;
    let lock = || session.lock("/locks/rw");
    let first = lock().shared().await.expect("shared");
    let second = lock().shared().try_now().await.expect("shared with the first");
    assert!(lock().try_now().await.is_err(), "not exclusive meanwhile");
    let (told, mut order) = mpsc::unbounded_channel();
    let wait_for = async |entries: usize| {
        eventually("in line", || async {
            let queues = session.queues("/locks/rw").await.map_err(|e| e.to_string())?;
            if queues.queues[0].entries.len() == entries { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;
    };
    wait_for(2).await;
    let writer = tokio::spawn({
        let (request, told) = (lock(), told.clone());
        async move {
            let guard = request.await.expect("exclusive");
            told.send("writer").expect("listening");
            guard.release().await.expect("released");
        }
    });
    wait_for(3).await;
    let reader = tokio::spawn({
        let (request, told) = (lock().shared(), told.clone());
        async move {
            let guard = request.await.expect("shared");
            told.send("reader").expect("listening");
            guard.release().await.expect("released");
        }
    });
    wait_for(4).await;
    first.release().await.expect("released");
    assert!(order.try_recv().is_err(), "the second still reads");
    second.release().await.expect("released");
    timeout(PATIENCE, writer).await.expect("in time").expect("no panic");
    timeout(PATIENCE, reader).await.expect("in time").expect("no panic");
    assert_eq!((order.recv().await, order.recv().await), (Some("writer"), Some("reader")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_semaphore_has_as_many_holders_as_permits() {
    let cluster = Cluster::start(3).await.expect("servers");
    let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut workers = JoinSet::new();
    for worker in 0..9 {
        let session = session(&cluster, worker, "worker").await;
        let (inside, most) = (inside.clone(), most.clone());
        workers.spawn(async move {
            for _ in 0..5 {
                let permit = session.semaphore("/semaphores/three", 3).await.expect("a permit");
                let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(2)).await;
                inside.fetch_sub(1, Ordering::SeqCst);
                permit.release().await.expect("released");
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.expect("no panic");
    }
    assert_eq!(most.load(Ordering::SeqCst), 3, "all permits were used, never more");
    let session = session(&cluster, 0, "other").await;
    let error = session.semaphore("/semaphores/three", 5).await.err().expect("another number");
    assert_eq!(error.kind(), ErrorKind::PermitsMismatch);
    assert!(error.to_string().contains("has 3 permits, asked for 5"), "{error}");
    session.put("/plain", "x").await.expect("written");
    let error = session.semaphore("/plain", 5).await.err().expect("no semaphore");
    assert!(error.to_string().contains("no semaphore"), "{error}");
    assert_eq!(session.semaphore("/s", 0).await.err().expect("none").kind(), ErrorKind::InvalidArgument);
    is_free(&client(&cluster, 0), "/semaphores").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_follow_each_other_and_everybody_sees_it() {
    let cluster = Cluster::start(3).await.expect("servers");
    let observer = session(&cluster, 0, "observer").await;
    let mut leaders = observer.election("/elections/e").observe().await.expect("observed");
    let mut next = async || {
        let leader = timeout(PATIENCE, leaders.next()).await.expect("in time").expect("not over").expect("no failure");
        leader.map(|leader| (leader.value, leader.token))
    };
    assert_eq!(next().await, None, "nobody yet");

    let (one, other) = (session(&cluster, 1, "one").await, session(&cluster, 2, "other").await);
    let first = one.election("/elections/e").campaign("one").await.expect("leads");
    assert_eq!(next().await, Some(("one".into(), first.token())));
    first.update("one, changed").await.expect("still leads");
    assert_eq!(next().await, Some(("one, changed".into(), first.token())));

    let second = tokio::spawn(async move { (other.election("/elections/e").campaign("other").await, other) });
    eventually("the second stands in line", || async {
        let queues = observer.queues("/elections").await.map_err(|e| e.to_string())?;
        if queues.queues[0].entries.len() == 2 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let token = first.token();
    first.resign().await.expect("resigned");
    let (second, _other) = timeout(PATIENCE, second).await.expect("in time").expect("no panic");
    let second = second.expect("leads");
    assert!(second.token() > token);
    assert_eq!(next().await, Some(("other".into(), second.token())));
    let leader = observer.election("/elections/e").leader().await.expect("read").expect("a leader");
    assert_eq!((leader.value.as_ref(), leader.node_path.as_str()), (&b"other"[..], second.node_path()));
    drop(second);
    assert_eq!(next().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_is_over_is_over_for_every_use_of_it() {
    let cluster = Cluster::start(1).await.expect("a server");
    let client = client(&cluster, 0);
    let session = session(&cluster, 0, "holder").await;

    // Its node deleted by somebody else.
    let guard = session.lock("/locks/a").await.expect("free");
    guard.verify().await.expect("held");
    guard.txn().put("/status", "mine").commit().await.expect("held");
    assert_eq!(client.delete(guard.node_path()).await.expect("deleted").count, 1);
    let error = guard.txn().put("/status", "late").commit().await.expect_err("refused");
    assert_eq!((error.kind(), error.effect()), (ErrorKind::LockLost, conclave_client::Effect::None), "{error}");
    assert_eq!(client.get("/status").await.expect("read").expect("there").data, "mine");
    assert!(!guard.is_held());
    assert_eq!(guard.lost().await, conclave_client::Lost::Removed);
    let dropped = Arc::new(());
    let work = dropped.clone();
    assert!(
        guard
            .run(async move {
                std::future::pending::<()>().await;
                drop(work)
            })
            .await
            .is_err()
    );
    assert_eq!(Arc::strong_count(&dropped), 1, "the work is dropped");
    assert_eq!(guard.release().await.expect_err("gone").kind(), ErrorKind::LockLost);

    // Its session killed while work runs and others wait.
    let guard = session.lock("/locks/a").await.expect("free");
    let waiting = tokio::spawn({
        let session = session.clone();
        async move { session.lock("/locks/a").await.map(drop) }
    });
    let lost = guard.lost();
    client.admin().kill_session(session.id()).await.expect("killed");
    let reason = timeout(PATIENCE, guard.run(std::future::pending::<()>())).await.expect("in time").expect_err("lost");
    assert_eq!(reason, conclave_client::Lost::Session(LostReason::Killed));
    assert_eq!(lost.await, reason);
    assert_eq!(guard.verify().await.expect_err("lost").lost_reason(), Some(&LostReason::Killed));
    let waiting = timeout(PATIENCE, waiting).await.expect("in time").expect("no panic").expect_err("lost");
    // Its node is deleted with the session, and either news may come first.
    assert!(matches!(waiting.kind(), ErrorKind::SessionLost | ErrorKind::LockLost), "{waiting}");
    is_free(&client, "/locks").await;
}
