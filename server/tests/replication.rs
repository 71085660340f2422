//! Nodes on real disks, talking over loopback sockets.

mod common;

use std::time::Duration;

use common::{Cluster, PATIENCE, put};
use conclave_proto::ServerId;
use conclave_server::raft::{Member, MemberChange, Options, Role};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_elect_and_whoever_is_asked_commits() {
    let cluster = Cluster::start(3).await;
    cluster.leader().await;
    for (number, node) in cluster.nodes().enumerate() {
        put(&node.handle, &format!("/from-{number}"), b"value").await.expect("applied");
    }
    for node in cluster.nodes() {
        node.handle.barrier(PATIENCE).await.expect("confirmed");
        for number in 0..3 {
            let path = conclave_proto::NodePath::parse(&format!("/from-{number}")).unwrap();
            assert_eq!(&node.handle.state().get(&path).expect("replicated").data[..], b"value");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_the_leader_and_a_restart_of_all() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    put(&cluster.node(leader).handle, "/kept", b"1").await.expect("applied");
    cluster.kill(leader).await;
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    put(&cluster.node(next).handle, "/kept", b"2").await.expect("applied");
    cluster.restart(leader).await;
    for id in cluster.ids() {
        cluster.kill(id).await;
    }
    for id in cluster.ids() {
        cluster.restart(id).await;
    }
    cluster.leader().await;
    for id in cluster.ids() {
        let handle = &cluster.node(id).handle;
        common::eventually("a barrier", || async { handle.barrier(Duration::from_secs(1)).await.is_ok() }).await;
        let path = conclave_proto::NodePath::parse("/kept").unwrap();
        let node = handle.state().get(&path).expect("kept").clone();
        assert_eq!((&node.data[..], node.version), (&b"2"[..], 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_hands_leadership_over_first() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let term = cluster.node(leader).handle.status().borrow().term;
    cluster.stop(leader).await;
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    // No election timeout passed in between: the successor was told to campaign.
    assert_eq!(cluster.node(next).handle.status().borrow().term.0, term.0 + 1);
    assert_eq!(cluster.node(next).handle.status().borrow().role, Role::Leader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_away_past_compaction_returns_by_snapshot_under_load() {
    let mut cluster = Cluster::start_with(3, |options| {
        options.log_entries_max = 300;
        options.log_entries_keep = 50;
    })
    .await;
    let leader = cluster.leader().await;
    let away = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    put(&cluster.node(leader).handle, "/before", b"x").await.expect("applied");
    cluster.kill(away).await;
    let handle = cluster.node(leader).handle.clone();
    let load = {
        let handle = handle.clone();
        tokio::spawn(async move {
            for number in 0_u64.. {
                put(&handle, &format!("/load/{}", number % 500), &[1; 2_000]).await.expect("applied");
                tokio::task::yield_now().await;
            }
        })
    };
    let began = handle.status().borrow().applied.0;
    common::eventually("the log is compacted", || async { handle.status().borrow().compacted.0 > began + 500 }).await;
    cluster.restart(away).await;
    let returned = cluster.node(away).handle.clone();
    common::eventually("it has returned", || async {
        let (there, here) = (returned.status().borrow().clone(), handle.status().borrow().clone());
        there.snapshot.0 > 0 && there.applied.0 + 500 > here.applied.0
    })
    .await;
    load.abort();
    let _ = load.await;
    common::eventually("both have applied the same", || async {
        returned.barrier(PATIENCE).await.is_ok() && returned.state().applied() == handle.state().applied()
    })
    .await;
    assert_eq!(returned.state().hash(), handle.state().hash());
    // What was installed is what the disk holds.
    cluster.kill(away).await;
    cluster.restart(away).await;
    cluster.leader().await;
    let again = cluster.node(away).handle.clone();
    common::eventually("a barrier", || async { again.barrier(Duration::from_secs(1)).await.is_ok() }).await;
    common::eventually("the same state", || async { again.state().hash() == handle.state().hash() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_added_promoted_and_another_removed() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    put(&cluster.node(leader).handle, "/before", b"x").await.expect("applied");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let newcomer = Member { id: ServerId(4), peer_address: address.clone(), client_address: address, learner: false };
    let options = Options::new(ServerId(4), "test", cluster.data_dir(4), cluster.members.clone());
    cluster.start_with_options(options, listener);
    let handle = cluster.node(leader).handle.clone();
    handle.change_members(MemberChange::AddLearner(newcomer)).await.expect("added");
    let fourth = cluster.node(4).handle.clone();
    common::eventually("it has learned", || async {
        fourth.state().get(&conclave_proto::NodePath::parse("/before").unwrap()).is_some()
    })
    .await;
    common::eventually("promoted", || async {
        handle.change_members(MemberChange::Promote(ServerId(4))).await.is_ok()
    })
    .await;
    let gone = cluster.ids().into_iter().find(|id| *id != leader && *id != 4).unwrap();
    handle.change_members(MemberChange::Remove(ServerId(gone))).await.expect("removed");
    cluster.kill(gone).await;
    let status = handle.status().borrow().clone();
    assert_eq!(status.members.len(), 3);
    assert!(status.members.iter().all(|member| !member.learner && member.id.0 != gone));
    common::eventually("it is a voter", || async { fourth.status().borrow().role == Role::Follower }).await;
    put(&fourth, "/after", b"y").await.expect("applied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_another_cluster_or_for_another_server_is_refused() {
    use conclave_proto::peer::{PeerFrame, PeerHello, PeerItem, peer_client::PeerClient, peer_item::Item};
    let cluster = Cluster::start(1).await;
    let address = cluster.members[0].peer_address.clone();
    let mut client = PeerClient::connect(format!("http://{address}")).await.unwrap();
    let good = PeerHello { cluster: "test".to_owned(), from: 2, to: 1, protocol: 1, address: String::new() };
    let cases = [
        (PeerHello { cluster: "other".to_owned(), ..good.clone() }, "belongs to cluster \"other\""),
        (PeerHello { to: 3, ..good.clone() }, "this is server 1"),
        (PeerHello { from: 1, ..good.clone() }, "two servers have id 1"),
        (PeerHello { protocol: 9, ..good.clone() }, "version 9"),
    ];
    for (hello, expected) in cases {
        let frame = PeerFrame { items: vec![PeerItem { item: Some(Item::Hello(hello)) }] };
        let status = client.stream(tokio_stream::iter([frame])).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        assert!(status.message().contains(expected), "{status}");
    }
    let status = client.stream(tokio_stream::iter([PeerFrame::default()])).await.unwrap_err();
    assert!(status.message().contains("hello"), "{status}");
    let frame = PeerFrame { items: vec![PeerItem { item: Some(Item::Hello(good)) }] };
    client.stream(tokio_stream::iter([frame])).await.expect("welcome");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_answers_what_waits_and_what_comes_late() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for id in cluster.ids().into_iter().filter(|id| *id != leader) {
        cluster.kill(id).await;
    }
    let handle = cluster.node(leader).handle.clone();
    let waiting = tokio::spawn({
        let handle = handle.clone();
        async move { common::propose(&handle, common::put_command("/a", b"x")).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.stop(leader).await;
    let error = waiting.await.unwrap().unwrap_err();
    assert!(error.is_indefinite(), "it was in the log: {error}");
    let late = common::propose(&handle, common::put_command("/a", b"x")).await.unwrap_err();
    assert!(!late.is_indefinite(), "{late}");
    assert!(handle.barrier(PATIENCE).await.is_err());
    assert_eq!(handle.ended().await, Ok(()));
}
