//! Does what the plan says, waits, undoes it, and looks whether all is well again.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{Broken, Done, Fault, Reach};
use crate::{clock::now_ns, plan::Step};

/// After healing all servers have to answer and take writes within this time.
pub const HEALED_WITHIN: Duration = Duration::from_secs(15);
/// How often it looks whether something is to be done.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A fault that is there.
struct Live {
    /// Its place among those of the step.
    at: usize,
    /// All of it was there from here on.
    there_ns: i64,
    until: Instant,
    broken: Broken,
}

/// Does one step, its length (or until `stop`) included: what became of each of its faults.
pub fn step(reach: &mut Reach<'_, '_>, step: &Step, stop: &dyn Fn() -> bool, beat: &mut dyn FnMut(&str)) -> Vec<Done> {
    let (mut all, mut live) = (Vec::<Done>::new(), Vec::<Live>::new());
    let mut to_come = step.faults.clone();
    to_come.sort_by_key(|fault| fault.from);
    let begun = Instant::now();
    let (mut mended_ns, mut there) = (None, Vec::new());
    loop {
        let due = to_come.iter().take_while(|fault| fault.from <= begun.elapsed()).count();
        if stop() {
            to_come.clear();
        } else if due > 0 {
            let mut broken = Vec::new();
            for fault in to_come.drain(..due) {
                let (done, met) = begin(reach, &fault);
                broken.extend(met.map(|met| (all.len(), now_ns(), fault.length, met)));
                all.push(done);
            }
            // From here on, however long it took to meet the last of them: they are to be there at once.
            let now = Instant::now();
            live.extend(broken.into_iter().map(|(at, there_ns, length, broken)| {
                let until = now + length;
                Live { at, there_ns, until, broken }
            }));
        }
        // The last to be broken is mended first; what needs a cluster, when nothing else is broken.
        let over = |live: &Live| stop() || Instant::now() >= live.until;
        let only = live.iter().all(|live| live.broken.needs_cluster) && to_come.is_empty();
        let next = live.iter().rposition(|live| over(live) && (only || !live.broken.needs_cluster));
        if let Some(next) = next {
            let Live { at, there_ns, broken, .. } = live.remove(next);
            there.push((at, there_ns));
            beat("healing");
            mend(reach, &mut all[at], broken);
            mended_ns = Some(now_ns());
            continue;
        }
        if live.is_empty() && to_come.is_empty() {
            break;
        }
        for Live { broken, .. } in &mut live {
            if let Some(meanwhile) = &mut broken.meanwhile {
                meanwhile(reach);
            }
        }
        let names: Vec<_> =
            live.iter().map(|live| format!("{} ({})", all[live.at].what, all[live.at].target)).collect();
        beat(&names.join(" and "));
        thread::sleep(LOOK_EVERY);
    }
    let Some(mended_ns) = mended_ns else { return all };
    let trouble = all.iter().any(|done| done.trouble.is_some());
    let healed = if trouble { None } else { healed(reach, mended_ns, beat) };
    for (at, there_ns) in there {
        let done = &mut all[at];
        if !done.missed {
            done.healed_ns = healed;
            // Counted from the beginning; but what was written before all of it was there says nothing.
            done.first_write_ns = reach.board.lock().written_since(there_ns).map(|at| at - done.from_ns);
        }
    }
    all
}

fn begin(reach: &mut Reach<'_, '_>, fault: &Fault) -> (Done, Option<Broken>) {
    let mut done = Done {
        class: fault.class,
        what: fault.form.what.to_owned(),
        target: String::new(),
        missed: false,
        paused_client: None,
        servers: Vec::new(),
        beyond: false,
        from_ns: now_ns(),
        until_ns: 0,
        first_write_ns: None,
        healed_ns: None,
        trouble: None,
    };
    match fault.form.begin(reach, fault.roll) {
        Ok(broken) => {
            done.from_ns = broken.from_ns.unwrap_or(done.from_ns);
            (done.target, done.paused_client) = (broken.target.clone(), broken.paused_client);
            done.beyond = broken.beyond;
            done.servers.clone_from(&broken.servers);
            (done, Some(broken))
        }
        Err(error) => {
            (done.missed, done.target, done.until_ns) = (true, format!("{error:#}"), now_ns());
            (done, None)
        }
    }
}

fn mend(reach: &mut Reach<'_, '_>, done: &mut Done, broken: Broken) {
    let evidence = broken.evidence.map(|evidence| evidence(reach));
    done.until_ns = now_ns();
    done.trouble = (broken.mend)(reach).err().map(|error| format!("{error:#}"));
    if broken.needs_cluster {
        // Mending is part of it.
        done.until_ns = now_ns();
    }
    match evidence {
        Some(Ok(figures)) => done.target = format!("{}: {figures}", done.target),
        Some(Err(error)) => {
            done.target = format!("{}: {error:#}", done.target);
            // What could not be mended counts, whomever it met.
            done.missed = done.trouble.is_none();
        }
        None => {}
    }
}

/// How long after `from_ns` all was well again; none: not within [`HEALED_WITHIN`].
pub fn healed(reach: &Reach<'_, '_>, from_ns: i64, beat: &mut dyn FnMut(&str)) -> Option<i64> {
    let until = Instant::now() + HEALED_WITHIN;
    loop {
        beat("healing");
        let board = reach.board.lock();
        let (seen_ns, servers) = &board.servers;
        let leads = board.leader().is_some() || !board.led;
        let answer = reach.servers.all_answer(servers);
        if let Some(written) = board.written_since(from_ns)
            && *seen_ns > from_ns
            && answer
            && leads
        {
            return Some(written.max(*seen_ns) - from_ns);
        }
        drop(board);
        if Instant::now() >= until {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        net::Ipv4Addr,
        path::{Path, PathBuf},
        process::Command,
    };

    use super::*;
    use crate::{
        board::Shared,
        fleet::Servers,
        nemesis::{Begin, Class, Form},
        place::{Host, NotAvailable, Place},
        target::target,
    };

    /// Where nothing runs.
    struct Nowhere;

    impl Place for Nowhere {
        fn name(&self) -> String {
            "nowhere".into()
        }
        fn address(&self, _: Host) -> Ipv4Addr {
            Ipv4Addr::LOCALHOST
        }
        fn command(&self, _: Host, _: &Path) -> Command {
            unreachable!("nothing is started")
        }
        fn network(&self, _: Host) -> Result<PathBuf, NotAvailable> {
            Err(NotAvailable { what: "network".into(), why: "it is nowhere".into() })
        }
        fn unplug(&self, _: Host) -> anyhow::Result<()> {
            Ok(())
        }
        fn plug(&self, _: Host) -> anyhow::Result<()> {
            Ok(())
        }
    }

    thread_local! {
        /// What was done, in its order.
        static LOG: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    }

    fn log(what: &'static str) {
        LOG.with_borrow_mut(|log| log.push(what));
    }

    fn broken(begun: &'static str, mended: &'static str) -> Broken {
        log(begun);
        Broken::network(begun.into(), move |_| {
            log(mended);
            Ok(())
        })
    }

    static NEEDY: Form = Form {
        what: "needy",
        servers_min: 0,
        begin: Begin::Any(|_, _| Ok(Broken { needs_cluster: true, ..broken("needy", "needy mended") })),
    };
    static PLAIN: Form =
        Form { what: "plain", servers_min: 0, begin: Begin::Any(|_, _| Ok(broken("plain", "plain mended"))) };
    static BUSY: Form = Form {
        what: "busy",
        servers_min: 0,
        begin: Begin::Any(|_, _| {
            let meanwhile = |_: &mut Reach<'_, '_>| {
                LOG.with_borrow_mut(|log| {
                    if log.last() != Some(&"still busy") {
                        log.push("still busy");
                    }
                })
            };
            Ok(Broken { meanwhile: Some(Box::new(meanwhile)), ..broken("busy", "busy mended") })
        }),
    };
    static IDLE: Form = Form {
        what: "idle",
        servers_min: 0,
        begin: Begin::Any(|_, _| {
            let evidence = |_: &Reach<'_, '_>| anyhow::bail!("nobody came by");
            Ok(Broken { evidence: Some(Box::new(evidence)), ..broken("idle", "idle mended") })
        }),
    };
    static STUCK: Form = Form {
        what: "stuck",
        servers_min: 0,
        begin: Begin::Any(|_, _| Ok(Broken::network("stuck".into(), |_| anyhow::bail!("it does not go away")))),
    };
    static NOBODY: Form =
        Form { what: "nobody", servers_min: 0, begin: Begin::Any(|_, _| anyhow::bail!("nobody led")) };

    /// What a step of these did: begun after, and lasting, so many milliseconds.
    fn done(forms: &[(&'static Form, u64, u64)]) -> (Vec<Done>, Vec<&'static str>) {
        let target = target("conclave").expect("a target");
        let mut servers = Servers::none(&*target, &Nowhere);
        let board = Shared::default();
        // All is well, now and for ever.
        board.lock().servers.0 = i64::MAX;
        board.lock().writes.push((i64::MAX, i64::MAX));
        let mut reach =
            Reach { place: &Nowhere, servers: &mut servers, clients: &mut [], observer: Host(0), board: &board };
        let ms = Duration::from_millis;
        let fault = |(form, from, length): &(&'static Form, u64, u64)| Fault {
            class: Class::Pause,
            form,
            roll: 0,
            from: ms(*from),
            length: ms(*length),
        };
        let faults = forms.iter().map(fault).collect();
        LOG.with_borrow_mut(Vec::clear);
        let done = step(&mut reach, &Step { after: ms(0), faults }, &|| false, &mut |_| {});
        (done, LOG.with_borrow(Vec::clone))
    }

    #[test]
    fn the_last_to_be_broken_is_mended_first_and_what_needs_a_cluster_after_all() {
        let (all, log) = done(&[(&PLAIN, 0, 60), (&BUSY, 0, 60)]);
        assert_eq!(log, ["plain", "busy", "still busy", "busy mended", "plain mended"]);
        assert!(all.iter().all(|done| done.healed_ns.is_some() && !done.missed), "{all:?}");
        let (_, log) = done(&[(&PLAIN, 0, 60), (&NEEDY, 0, 60)]);
        assert_eq!(log, ["plain", "needy", "plain mended", "needy mended"]);
        let (_, log) = done(&[(&NEEDY, 0, 40), (&PLAIN, 80, 40)]);
        assert_eq!(log, ["needy", "plain", "plain mended", "needy mended"], "it waits for one that is to come");
    }

    #[test]
    fn faults_may_begin_and_end_within_each_other() {
        let (all, log) = done(&[(&PLAIN, 0, 200), (&BUSY, 60, 60)]);
        assert_eq!(log, ["plain", "busy", "still busy", "busy mended", "plain mended"]);
        assert!(all[0].from_ns < all[1].from_ns && all[1].until_ns < all[0].until_ns, "{all:?}");
    }

    #[test]
    fn who_met_nobody_says_why_and_what_is_not_mended_is_never_well() {
        let (all, log) = done(&[(&IDLE, 0, 30)]);
        assert_eq!(log, ["idle", "idle mended"]);
        assert!(all[0].missed && all[0].target.contains("nobody came by"), "{all:?}");
        let (all, _) = done(&[(&NOBODY, 0, 30)]);
        assert!(all[0].missed && all[0].target == "nobody led" && all[0].trouble.is_none(), "{all:?}");
        let (all, log) = done(&[(&PLAIN, 0, 30), (&STUCK, 0, 30)]);
        assert_eq!(log, ["plain", "plain mended"], "the others are mended all the same");
        assert!(all.iter().all(|done| done.healed_ns.is_none()), "{all:?}");
        assert_eq!(all[1].trouble.as_deref(), Some("it does not go away"));
    }
}
