//! TLS for servers and clients alike: who we are, from files; accepting and connecting; whose certificate the other end has.
//!
//! True everywhere:
//! * TLS 1.3 only, with `ring`: both ends are ours, and everything else that speaks gRPC or scrapes metrics has it;
//! * nothing is resumed: each connection shows a certificate that is valid now, by the CA that is configured now;
//! * files that change are taken over by [`Identity::refresh`], all of them or none: connections that are open live on,
//!   new ones see the new certificate, and files that cannot be used change nothing;
//! * what goes wrong is told in a sentence that says whose fault it is.

#![warn(missing_docs)]

mod accept;
mod certificate;
mod connect;
mod dial;
mod explain;
mod files;
mod identity;
#[cfg(feature = "make")]
pub mod make;

pub use self::{
    accept::{AcceptError, Accepted, Acceptor, Port},
    certificate::Certificate,
    connect::{First, Stream},
    dial::{Dial, bare_host},
    files::{FileError, Files, Pair},
    identity::Identity,
};
