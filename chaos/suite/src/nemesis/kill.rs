//! SIGKILL, and a start on the same disk; of a client, and another in its place.

use super::{Begin, Broken, Form, Reach, pause};
use crate::{
    place::{NotAvailable, Place},
    target::Target,
};

pub const FORMS: &[Form] = &[
    Form { what: "kill the leader", servers_min: 2, begin: Begin::Leader(|reach, at, _| Ok(server(reach, at))) },
    Form { what: "kill a server", servers_min: 1, begin: Begin::Server(|reach, at, _| Ok(server(reach, at))) },
    Form { what: "kill the client that holds", servers_min: 0, begin: Begin::Any(|reach, _| holder(reach)) },
];

#[expect(clippy::unnecessary_wraps, reason = "as of every class")]
pub fn available(_: &dyn Place, _: &dyn Target) -> Result<(), NotAvailable> {
    Ok(())
}

fn server(reach: &mut Reach<'_, '_>, at: usize) -> Broken {
    reach.servers.hold(at);
    Broken::server(at, move |reach| reach.servers.release(at))
}

/// A client that holds dies without a word; later another process takes its place. It is stopped first, to be sure that it
/// holds.
fn holder(reach: &mut Reach<'_, '_>) -> anyhow::Result<Broken> {
    let (who, from_ns) = pause::stop_holder(reach)?;
    reach.clients[who].kill();
    let again = move |reach: &mut Reach<'_, '_>| reach.clients[who].start_again(reach.place);
    Ok(Broken { from_ns: Some(from_ns), ..Broken::network(reach.clients[who].name.clone(), again) })
}
