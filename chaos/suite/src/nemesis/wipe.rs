//! A server loses its disk.
//!
//! Where nobody is told otherwise it starts again on an empty one, as if nothing had been. A member of a Conclave cluster
//! must not: it is removed, and another one takes its place, as docs/operations.md tells.

use super::{Begin, Broken, Form, Reach, membership};
use crate::{
    place::{NotAvailable, Place},
    target::Target,
};

pub const FORMS: &[Form] =
    &[Form { what: "empty a server's disk", servers_min: 1, begin: Begin::Server(|reach, at, _| wipe(reach, at)) }];

pub fn available(place: &dyn Place, target: &dyn Target) -> Result<(), NotAvailable> {
    if target.starts_empty() {
        return Ok(());
    }
    membership::available(place, target).map_err(|lacks| NotAvailable { what: "wipe".into(), ..lacks })
}

fn wipe(reach: &mut Reach<'_, '_>, at: usize) -> anyhow::Result<Broken> {
    let starts = reach.servers.target().starts_empty();
    anyhow::ensure!(starts || reach.servers.count() >= 3, "without it there is no majority that could replace it");
    reach.servers.get(at).kill();
    reach.servers.empty(at)?;
    if starts {
        reach.servers.start_one(at)?;
        return Ok(Broken::server(at, |_| Ok(())));
    }
    let mend = move |reach: &mut Reach<'_, '_>| membership::replace_lost(reach, at);
    Ok(Broken { needs_cluster: true, ..Broken::server(at, mend) })
}
