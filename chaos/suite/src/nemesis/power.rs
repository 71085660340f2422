//! A power cut: processes are gone, and with them all that they had not synced.

use super::{Begin, Broken, Form, Reach};
use crate::{
    disks,
    place::{NotAvailable, Place},
    target::Target,
};

pub const FORMS: &[Form] = &[
    Form {
        what: "cut the power of the leader",
        servers_min: 2,
        begin: Begin::Leader(|reach, at, _| cut(reach, vec![at])),
    },
    Form {
        what: "cut the power of a server",
        servers_min: 1,
        begin: Begin::Any(|reach, roll| cut(reach, reach.some(1, roll))),
    },
    Form {
        what: "cut the power of a minority",
        servers_min: 5,
        begin: Begin::Any(|reach, roll| cut(reach, reach.some((reach.servers.count() - 1) / 2, roll))),
    },
    Form {
        what: "cut the power of all servers",
        servers_min: 1,
        begin: Begin::Any(|reach, _| cut(reach, (0..reach.servers.count()).collect())),
    },
];

pub fn available(_: &dyn Place, _: &dyn Target) -> Result<(), NotAvailable> {
    disks::available()
}

fn cut(reach: &mut Reach<'_, '_>, all: Vec<usize>) -> anyhow::Result<Broken> {
    for at in &all {
        reach.servers.hold(*at);
    }
    let done: anyhow::Result<()> = all.iter().try_for_each(|at| reach.servers.disk(*at)?.shut_down());
    let mend = {
        let all = all.clone();
        move |reach: &mut Reach<'_, '_>| {
            for at in all {
                reach.servers.disk(at)?.restart()?;
                reach.servers.release(at)?;
            }
            Ok(())
        }
    };
    // What is begun has to be ended, also if the rest fails.
    match done {
        Ok(()) => Ok(Broken::servers(all, mend)),
        Err(error) => {
            mend(reach)?;
            Err(error)
        }
    }
}
