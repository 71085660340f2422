//! Clocks that go too fast or too slow, timers with them. A lease rests on clocks that go at nearly the same speed: within the
//! allowance for drift nothing may come of it, beyond it clients may believe too long, and no fence may let them in.

use super::{Begin, Broken, Form, Reach, clock, servers};
use crate::{
    clocks::{self, Wrong},
    place::{NotAvailable, Place},
    target::Target,
};

/// The client library allows for one part in a hundred.
const WITHIN: f64 = 0.005;

pub const FORMS: &[Form] = &[
    Form {
        what: "let the leader's clocks go a little fast",
        servers_min: 1,
        begin: Begin::Any(|reach, _| leader(reach, 1.0 + WITHIN, false)),
    },
    Form {
        what: "let the leader's clocks go a little slow",
        servers_min: 1,
        begin: Begin::Any(|reach, _| leader(reach, 1.0 - WITHIN, false)),
    },
    Form {
        what: "let the leader's clocks race",
        servers_min: 1,
        begin: Begin::Any(|reach, roll| {
            leader(reach, [1.5, 3.0, 8.0][usize::try_from(roll % 3).expect("small")], true)
        }),
    },
    // Slow is the safe side; that its clock is also set ahead, by up to half a second, is not.
    Form {
        what: "let the leader's clocks crawl",
        servers_min: 1,
        begin: Begin::Any(|reach, _| leader(reach, 0.5, true)),
    },
];

pub fn available(_: &dyn Place, _: &dyn Target) -> Result<(), NotAvailable> {
    clocks::available()
}

fn leader(reach: &mut Reach<'_, '_>, rate: f64, beyond: bool) -> anyhow::Result<Broken> {
    let at = if reach.servers.count() == 1 { 0 } else { reach.leader()? };
    let target = format!("{}, {rate} times as fast", servers(&[at]));
    Ok(Broken { beyond, ..clock::wrong(reach, &[at], Wrong::Rate(rate), target)? })
}
