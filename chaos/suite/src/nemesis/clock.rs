//! Wall clocks that are wrong. No lock should care; one that counts its leases by them does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};

use super::{Begin, Broken, Form, Reach, servers};
use crate::{
    clocks::{self, Clock, Wrong},
    place::{NotAvailable, Place},
    target::Target,
};

/// How far clocks jump, in seconds: past a lease, past a time-out of minutes, past a certificate of days.
const JUMPS: &[i64] = &[3, 45, 900, 7_200, 3 * 86_400];
/// How fast they go when they drift.
const RATES: &[f64] = &[0.5, 0.9, 1.1, 2.0];
/// How long a flickering clock shows each of its two times.
const FLICKER: Duration = Duration::from_millis(50);

pub const FORMS: &[Form] = &[
    Form {
        what: "set the leader's wall clock ahead",
        servers_min: 2,
        begin: Begin::Leader(|reach, at, roll| jump(reach, &[at], pick(JUMPS, roll))),
    },
    Form {
        what: "set the leader's wall clock back",
        servers_min: 2,
        begin: Begin::Leader(|reach, at, roll| jump(reach, &[at], -pick(JUMPS, roll))),
    },
    Form {
        what: "set the wall clocks of a minority of servers ahead",
        servers_min: 1,
        begin: Begin::Any(|reach, roll| {
            let few = reach.some(((reach.servers.count() - 1) / 2).max(1), roll);
            jump(reach, &few, pick(JUMPS, roll >> 32))
        }),
    },
    Form {
        what: "set the wall clocks of all servers back",
        servers_min: 1,
        begin: Begin::Any(|reach, roll| {
            let all: Vec<_> = (0..reach.servers.count()).collect();
            jump(reach, &all, -pick(JUMPS, roll))
        }),
    },
    Form {
        what: "let a server's wall clock drift",
        servers_min: 1,
        begin: Begin::Any(|reach, roll| {
            let (few, rate) = (reach.some(1, roll), pick(RATES, roll >> 32));
            wrong(reach, &few, Wrong::Rate(rate), format!("{}, {rate} times as fast", servers(&few)))
        }),
    },
    Form { what: "let a server's wall clock flicker", servers_min: 1, begin: Begin::Any(flicker) },
    Form { what: "set a client's wall clock ahead or back", servers_min: 0, begin: Begin::Any(client) },
];

pub fn available(_: &dyn Place, _: &dyn Target) -> Result<(), NotAvailable> {
    clocks::available()
}

fn pick<T: Copy>(from: &[T], roll: u64) -> T {
    from[usize::try_from(roll % from.len() as u64).expect("less than the length")]
}

fn jump(reach: &mut Reach<'_, '_>, few: &[usize], seconds: i64) -> anyhow::Result<Broken> {
    wrong(reach, few, Wrong::By(seconds), format!("{}, {seconds:+} s", servers(few)))
}

/// Makes the clocks of some servers wrong.
pub fn wrong(reach: &mut Reach<'_, '_>, few: &[usize], how: Wrong, target: String) -> anyhow::Result<Broken> {
    let clocks = few.iter().map(|at| own(reach.servers.get(*at).clock.as_ref())).collect::<Result<_, _>>()?;
    set(clocks, how, target)
}

fn own(clock: Option<&Clock>) -> anyhow::Result<Clock> {
    clock.cloned().context("it has no wall clock of its own")
}

fn set(clocks: Vec<Clock>, how: Wrong, target: String) -> anyhow::Result<Broken> {
    // All at the same moment, as near as it goes.
    if let Err(error) = clocks.iter().try_for_each(|clock| clock.set(how)) {
        clocks.iter().try_for_each(Clock::correct)?;
        return Err(error);
    }
    let looked = clocks.clone();
    Ok(Broken {
        evidence: Some(Box::new(move |_| {
            // Who does not look at a clock is not met by what is done to it.
            let seen = looked.iter().filter(|clock| clock.seen().is_ok_and(|seen| seen)).count();
            ensure!(seen > 0, "nobody looked at the wall clock");
            Ok(format!("{seen} of {} looked", looked.len()))
        })),
        ..Broken::network(target, move |_| clocks.iter().try_for_each(Clock::correct))
    })
}

fn client(reach: &mut Reach<'_, '_>, roll: u64) -> anyhow::Result<Broken> {
    ensure!(!reach.clients.is_empty(), "there are no clients");
    let who = usize::try_from(roll % reach.clients.len() as u64).expect("less than the count");
    let seconds = pick(JUMPS, roll >> 16) * if roll >> 48 & 1 == 0 { 1 } else { -1 };
    let client = &reach.clients[who];
    let clock = own(client.process.clock.as_ref())?;
    set(vec![clock], Wrong::By(seconds), format!("{}, {seconds:+} s", client.name))
}

/// Right and wrong in turn, many times a second.
fn flicker(reach: &mut Reach<'_, '_>, roll: u64) -> anyhow::Result<Broken> {
    let (few, seconds) = (reach.some(1, roll), pick(JUMPS, roll >> 32));
    let clock = own(reach.servers.get(few[0]).clock.as_ref())?;
    let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (told, count, flickering) = (Arc::clone(&stop), Arc::clone(&seen), clock.clone());
    let thread = thread::Builder::new().name("flicker".into()).spawn(move || -> anyhow::Result<()> {
        while !told.load(Ordering::Relaxed) {
            flickering.set(Wrong::By(seconds))?;
            thread::sleep(FLICKER);
            count.fetch_add(flickering.seen()?.into(), Ordering::Relaxed);
            flickering.correct()?;
            thread::sleep(FLICKER);
        }
        Ok(())
    })?;
    Ok(Broken {
        evidence: Some(Box::new(move |_| {
            let seen = seen.load(Ordering::Relaxed);
            ensure!(seen > 0, "nobody looked at the wall clock");
            Ok(format!("looked at {seen} times while it was wrong"))
        })),
        ..Broken::network(format!("{}, {seconds:+} s and back", servers(&few)), move |_| {
            stop.store(true, Ordering::Relaxed);
            thread.join().expect("it does not panic")?;
            clock.correct()
        })
    })
}
