//! What happens to the world at a time that was set before.

use conclave_proto::peer::peer_item::Item;
use raft::eraftpb::Message;

use crate::{node::Ask, time::Micros};

/// See the module. `start` tells one start of a server from the next: what was meant for an earlier one is void.
pub enum Event {
    /// A node has something to do.
    Turn {
        /// The server.
        server: u64,
        /// Which start of it.
        start: u64,
    },
    /// What one server sent to another arrives.
    Frame {
        /// Sender.
        from: u64,
        /// Receiver.
        to: u64,
        /// The connection it travels on.
        connection: u64,
        /// In order.
        items: Vec<Item>,
    },
    /// A server that gave its vote loses its power.
    VoterDies {
        /// Which.
        server: u64,
        /// Of what was not synced that share (of 256) survives.
        kept: u8,
        /// It is down for so long.
        down: Micros,
    },
    /// A server tries to connect to another.
    Connect {
        /// Who.
        from: u64,
        /// To whom.
        to: u64,
        /// Void if there was another attempt since.
        connection: u64,
    },
    /// A connection was silent for so long that its ends give it up, if it still is.
    Silence {
        /// Sender.
        from: u64,
        /// Receiver.
        to: u64,
        /// Which connection.
        connection: u64,
    },
    /// A server looks whether another's port refuses connections.
    Probe {
        /// Who looks.
        from: u64,
        /// Which start of it.
        start: u64,
        /// At whom.
        to: u64,
        /// Further looks.
        again: u32,
    },
    /// The next part of a snapshot is due.
    Fetch {
        /// The receiver.
        server: u64,
        /// Which start of it.
        start: u64,
        /// What announced it.
        message: Box<Message>,
        /// Parts still to come.
        parts: u32,
        /// How often it was resumed without success.
        attempts: u32,
    },
    /// Somebody beside the servers asks a node for something.
    Ask {
        /// The server.
        server: u64,
        /// What.
        ask: Box<Ask>,
    },
    /// A step of the plan begins.
    Step(usize),
    /// A fault of the plan ends.
    Ends(usize),
    /// A server's process or host comes back.
    Start(u64),
    /// A server was removed from the cluster, and goes for good.
    Retire(u64),
    /// A newcomer is to be started.
    Join(u64),
}
