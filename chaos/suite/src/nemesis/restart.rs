//! A rolling restart, as an upgrade is: one server after the other is told to end, ends, is started again, and is waited
//! for.

use std::{
    cell::RefCell,
    os::unix::process::ExitStatusExt as _,
    process::ExitStatus,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use nix::sys::signal::Signal;

use super::{Begin, Broken, Form, Reach};
use crate::{
    clock::now_ns,
    place::{NotAvailable, Place},
    target::Target,
};

/// By then a server that was told to end has ended.
const ENDED_WITHIN: Duration = Duration::from_secs(15);
/// By then one that was started answers, and knows who leads.
const HEALTHY_WITHIN: Duration = Duration::from_secs(15);

pub const FORMS: &[Form] = &[
    Form {
        what: "restart all servers, one by one",
        servers_min: 1,
        begin: Begin::Server(|reach, first, _| {
            roll_on(reach, (0..reach.servers.count()).map(|at| (first + at) % reach.servers.count()).collect())
        }),
    },
    Form { what: "restart the leader", servers_min: 2, begin: Begin::Leader(|reach, at, _| roll_on(reach, vec![at])) },
];

#[expect(clippy::unnecessary_wraps, reason = "as of every class")]
pub fn available(_: &dyn Place, _: &dyn Target) -> Result<(), NotAvailable> {
    Ok(())
}

/// Where a rolling restart is.
struct Roll {
    /// Still to be restarted, the next one last.
    next: Vec<usize>,
    now: Phase,
    restarted: usize,
}

enum Phase {
    Idle,
    Ends { at: usize, until: Instant },
    Starts { at: usize, from_ns: i64, until: Instant },
}

impl Roll {
    /// Does what can be done now.
    ///
    /// # Errors
    /// If a server does not end, or does not come back.
    fn turn(&mut self, reach: &mut Reach<'_, '_>) -> anyhow::Result<()> {
        match self.now {
            Phase::Idle => {
                let Some(at) = self.next.pop() else { return Ok(()) };
                // Another fault may have it down, and will start it again.
                if reach.servers.get(at).is_there() && reach.servers.get(at).ended().is_none() {
                    reach.servers.get(at).terminate()?;
                } else {
                    return Ok(());
                }
                self.now = Phase::Ends { at, until: Instant::now() + ENDED_WITHIN };
            }
            Phase::Ends { at, .. } if !reach.servers.get(at).is_there() => self.now = Phase::Idle,
            Phase::Ends { at, until } => match reach.servers.get(at).ended() {
                Some(status) => {
                    reach.servers.start_one(at)?;
                    self.now = Phase::Starts { at, from_ns: now_ns(), until: Instant::now() + HEALTHY_WITHIN };
                    ensure!(as_told(status), "server {} was told to end, and ended with {status}", at + 1);
                }
                None if Instant::now() > until => {
                    // The run goes on with it, whatever it was busy with.
                    reach.servers.get(at).kill();
                    reach.servers.start_one(at)?;
                    self.now = Phase::Idle;
                    bail!("server {} did not end within {ENDED_WITHIN:?} of SIGTERM", at + 1);
                }
                None => {}
            },
            Phase::Starts { at, from_ns, until } => {
                let board = reach.board.lock();
                let (seen_ns, servers) = &board.servers;
                let answers = *seen_ns > from_ns && servers.get(at).is_some_and(|server| server.answers);
                if answers && (board.leader().is_some() || servers.len() < 2) {
                    self.restarted += 1;
                    self.now = Phase::Idle;
                } else if Instant::now() > until {
                    // Another fault may keep it; whether all is well is looked at after that is mended.
                    self.now = Phase::Idle;
                }
            }
        }
        Ok(())
    }

    fn done(&self) -> bool {
        self.next.is_empty() && matches!(self.now, Phase::Idle)
    }
}

/// Some programs end by the signal after all, and some say so in their status as a shell does.
fn as_told(status: ExitStatus) -> bool {
    let signal = Signal::SIGTERM as i32;
    status.success() || status.signal() == Some(signal) || status.code() == Some(128 + signal)
}

/// Restarts these in their order while the fault lasts, and the rest when it is mended.
fn roll_on(reach: &mut Reach<'_, '_>, mut order: Vec<usize>) -> anyhow::Result<Broken> {
    let names = super::servers(&order);
    order.reverse();
    let mut roll = Roll { next: order, now: Phase::Idle, restarted: 0 };
    roll.turn(reach)?;
    let roll = Rc::new(RefCell::new((roll, Ok(()))));
    let (rolling, asked, rolled) = (Rc::clone(&roll), Rc::clone(&roll), roll);
    let meanwhile = move |reach: &mut Reach<'_, '_>| {
        let (roll, trouble) = &mut *rolling.borrow_mut();
        if let Err(error) = roll.turn(reach) {
            *trouble = Err(error);
        }
    };
    let mend = move |reach: &mut Reach<'_, '_>| {
        let (roll, trouble) = &mut *rolled.borrow_mut();
        while !roll.done() {
            roll.turn(reach)?;
            thread::sleep(Duration::from_millis(10));
        }
        std::mem::replace(trouble, Ok(()))
    };
    let evidence = move |_: &Reach<'_, '_>| {
        let (roll, _) = &*asked.borrow();
        ensure!(!roll.done() || roll.restarted > 0, "another fault had them down");
        Ok(format!("{} done by then", roll.restarted))
    };
    Ok(Broken {
        meanwhile: Some(Box::new(meanwhile)),
        evidence: Some(Box::new(evidence)),
        needs_cluster: true,
        ..Broken::network(names, mend)
    })
}
