//! How a server is brought to each fail point.

/// Whom it happens to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    Leader,
    Follower,
}

/// What is done until the point is hit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Doing {
    /// Everything a client can ask of one server, beside the writers who never stop.
    Asking,
    /// A change of membership, and back.
    Members,
    /// A transfer of leadership.
    Transfer,
    /// The streams between servers break.
    Reconnect,
}

/// When a server comes by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    Start,
    FirstStart,
    Serving(Side, Doing),
    Stop,
    SnapshotOut,
    SnapshotIn,
    Install,
    FinishInstall,
    Discard,
    Diverge,
}

/// # Panics
/// For a point that is not known here: it would not be tested.
pub fn way(point: &str) -> Way {
    use {Doing::*, Side::*, Way::*};
    match point {
        "store-initialize" => FirstStart,
        "config-read"
        | "listen-bind"
        | "store-create"
        | "store-open"
        | "store-sync-dir"
        | "node-start"
        | "node-first-turn"
        | "install-finish-remove"
        | "install-finish-sync" => Start,
        "install-finish-rename" => FinishInstall,
        "install-discard" => Discard,
        "apply-entry" => Diverge,
        "node-members" | "members-apply" | "admin-members" => Serving(Follower, Members),
        "node-transfer" | "admin-transfer" => Serving(Follower, Transfer),
        "peer-connect" | "peer-hello" | "peer-probe" | "peer-accept" | "peer-check-hello" => {
            Serving(Follower, Reconnect)
        }
        "node-stop" | "stop-hand-over" | "stop-drain" => Stop,
        "turn-forward" => Serving(Follower, Asking),
        _ => match point.split_once('-').expect("area-what").0 {
            "recover" => Start,
            "log" | "state" | "turn" => Serving(Leader, Asking),
            "node" | "peer" | "door" | "session" | "unary" | "admin" | "http" | "status" => Serving(Follower, Asking),
            "snapshot" => SnapshotOut,
            "fetch" => SnapshotIn,
            "install" => Install,
            _ => panic!("it is not known here how a server is brought to {point}"),
        },
    }
}
