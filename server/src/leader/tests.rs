//! Transcripts of time. Each line is a moment, what happens, and (after `=>`) what the leader makes of it; proposals
//! wait until a line says that they are applied, or lost. Times in milliseconds.

use std::collections::BTreeMap;

use conclave_proto::{Index, NodePath, Revision, SessionId, Term};
use conclave_state::{Command, EndReason, Entry, Kind, Limits, Machine, Op, Outcome, RequestId, Txn};

use super::{Duties, Options, Renewal};

struct Play {
    machine: Machine,
    duties: Duties,
    options: Options,
    term: Term,
    proposed: Vec<Command>,
    names: BTreeMap<String, SessionId>,
}

fn play(script: &str) {
    let options = Options { container_grace_ms: 60_000, history_age_ms: 0, limits: Limits::default() };
    let machine = Machine::new();
    let duties = Duties::new(options.clone(), Term(1), 0, &machine);
    let mut play = Play { machine, duties, options, term: Term(1), proposed: Vec::new(), names: BTreeMap::new() };
    let mut lines = 0;
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (what, expected) = line.split_once("=>").unwrap_or((line, ""));
        let words: Vec<&str> = what.split_whitespace().collect();
        let at = words[0].parse().unwrap_or_else(|_| panic!("a line begins with a time: {line}"));
        let words = match &words[1..] {
            ["woke", words @ ..] => words,
            words => {
                // The owner looks at the clock all the time.
                while play.duties.clock.last_ms < at {
                    let next = at.min(play.duties.clock.last_ms + super::GAP_MS_MAX);
                    play.duties.clock.look(next);
                }
                words
            }
        };
        assert_eq!(play.line(at, words), expected.trim(), "in the line {line:?} of\n{script}");
        lines += 1;
    }
    assert!(lines > 0, "an empty transcript proves nothing");
}

impl Play {
    fn line(&mut self, at: u64, words: &[&str]) -> String {
        match words {
            ["open", name, ttl] => {
                let ttl_ms = ttl.parse().expect("milliseconds");
                let outcome =
                    self.apply(at, Command::OpenSession { secret: [1; 16], run: 0, ttl_ms, name: String::new() });
                let Outcome::Opened { session } = outcome else { panic!("{outcome:?}") };
                self.names.insert((*name).to_owned(), session);
                String::new()
            }
            ["close", name] => {
                let session = self.names[*name];
                self.apply(at, Command::EndSession { session, run: None, reason: EndReason::Closed });
                self.settled()
            }
            ["receive", name] => {
                self.duties.received(at, self.names[*name]);
                String::new()
            }
            ["renew", name] => self.renew(at, name),
            // Confirmed now, received earlier.
            ["renew", name, "received", received] => self.renew(received.parse().expect("milliseconds"), name),
            ["tick"] => {
                let commands = self.duties.tick(at, &self.machine);
                let told: Vec<String> = commands.iter().map(|command| self.tell(command)).collect();
                self.proposed.extend(commands);
                told.join("; ")
            }
            ["apply"] => {
                for command in std::mem::take(&mut self.proposed) {
                    self.apply(at, command);
                }
                self.settled()
            }
            ["apply", "first"] => {
                let command = self.proposed.remove(0);
                self.apply(at, command);
                self.settled()
            }
            ["lose"] => {
                self.proposed.clear();
                String::new()
            }
            ["elect"] => {
                self.term = self.term.next();
                self.duties = Duties::new(self.options.clone(), self.term, at, &self.machine);
                String::new()
            }
            ["left", name] => {
                let session = self.names[*name];
                let left = self.duties.remaining();
                left.iter().find(|(id, _)| *id == session).map_or("none".to_owned(), |(_, ms)| ms.to_string())
            }
            ["create", kind, path] => {
                let kind = match *kind {
                    "container" => Kind::Container,
                    "persistent" => Kind::Persistent,
                    ttl => Kind::Ttl { ttl_ms: ttl.parse().expect("milliseconds") },
                };
                let path = NodePath::parse(path).expect("a path");
                let data = Default::default();
                self.txn(at, Op::Create { path, data, kind, sequential: false, create_parents: None })
            }
            ["put", path] => {
                let path = NodePath::parse(path).expect("a path");
                self.txn(at, Op::Put { path, data: Default::default(), create_parents: false })
            }
            ["delete", path] => {
                self.txn(at, Op::Delete { path: NodePath::parse(path).expect("a path"), recursive: false })
            }
            ["exists", path] => self.machine.get(&NodePath::parse(path).expect("a path")).is_some().to_string(),
            ["history", "age", age] => {
                self.options.history_age_ms = age.parse().expect("milliseconds");
                self.duties = Duties::new(self.options.clone(), self.term, at, &self.machine);
                String::new()
            }
            ["want", "sessions_max", max] => {
                self.options.limits.sessions_max = max.parse().expect("a number");
                self.duties = Duties::new(self.options.clone(), self.term, at, &self.machine);
                String::new()
            }
            _ => panic!("what is {words:?}?"),
        }
    }

    fn renew(&mut self, received: u64, name: &str) -> String {
        match self.duties.renew(received, self.names[name]) {
            Renewal::Granted => "granted",
            Renewal::Held => "held",
            Renewal::NoSession => "no session",
        }
        .to_owned()
    }

    fn txn(&mut self, at: u64, op: Op) -> String {
        let outcome = self.apply(at, Command::Txn { by: None, txn: Txn { then: vec![op], ..Txn::default() } });
        assert!(matches!(outcome, Outcome::Txn(_)), "{outcome:?}");
        String::new()
    }

    fn apply(&mut self, at: u64, command: Command) -> Outcome {
        let index = self.machine.applied().next();
        let request = RequestId { server: 1, run: 1, count: index.0 };
        let term = command.term().unwrap_or(self.term);
        let applied = self.machine.apply(Index(index.0), term, Some(Entry { request, at_ms: 0, command }));
        self.duties.on_applied(at, &self.machine, &applied);
        applied.outcome
    }

    fn settled(&mut self) -> String {
        let settled = self.duties.settled();
        let told = settled
            .iter()
            .map(|(id, granted)| format!("{} {}", self.name(*id), if *granted { "granted" } else { "refused" }));
        told.collect::<Vec<_>>().join("; ")
    }

    fn name(&self, id: SessionId) -> &str {
        self.names.iter().find(|(_, session)| **session == id).map(|(name, _)| name.as_str()).expect("a known session")
    }

    fn tell(&self, command: &Command) -> String {
        let join = |words: Vec<String>| words.join(" ");
        match command {
            Command::ExpireSessions { term, sessions } => {
                assert_eq!(*term, self.term);
                format!("expire {}", join(sessions.iter().map(|id| self.name(*id).to_owned()).collect()))
            }
            Command::CheckpointSessions { term, remaining_ms, .. } => {
                assert_eq!(*term, self.term);
                let told = remaining_ms.iter().map(|(id, ms)| format!("{}={ms}", self.name(*id)));
                format!("checkpoint {}", join(told.collect()))
            }
            Command::Reap { term, nodes } => {
                assert_eq!(*term, self.term);
                format!("reap {}", join(nodes.iter().map(|(path, ..)| path.to_string()).collect()))
            }
            Command::Compact { term, through } => {
                assert_eq!(*term, self.term);
                format!("compact {through}")
            }
            Command::Configure { term, limits } => {
                assert_eq!(*term, self.term);
                format!("configure sessions_max={}", limits.sessions_max)
            }
            other => panic!("not a leader's duty: {other:?}"),
        }
    }
}

#[test]
fn a_silent_session_is_checkpointed_then_expired() {
    play(
        "0 open a 4000
         0 open b 8000
         500 tick =>
         1500 tick =>
         1999 tick =>
         # half of a's TTL
         2000 tick => checkpoint a=2000
         2000 apply =>
         2499 tick =>
         # and again every eighth of it
         2500 tick => checkpoint a=1500
         2600 lose =>
         3000 tick => checkpoint a=1000
         3000 apply =>
         3500 tick => checkpoint a=500
         3999 tick =>
         4000 tick => checkpoint b=4000; expire a
         4000 left a => 0
         4000 apply =>
         4000 left a => none
         4000 left b => 4000",
    );
}

#[test]
fn renewals_keep_a_session_and_cost_no_proposal() {
    play(
        "0 open a 3000
         900 renew a => granted
         1800 renew a => granted
         # what arrived earlier and is confirmed late counts from when it arrived
         2700 renew a received 2500 => granted
         2700 tick =>
         3300 renew a => granted
         4200 renew a => granted
         4200 left a => 3000
         5000 tick =>
         5699 tick =>
         5700 tick => checkpoint a=1500
         6600 tick => checkpoint a=600
         7199 tick => checkpoint a=1
         7200 tick => expire a",
    );
}

#[test]
fn never_earlier_than_the_last_renewal_and_its_ttl_though_the_tick_saw_the_session_late() {
    play(
        "0 open a 1000
         500 tick => checkpoint a=500
         500 apply =>
         # the full TTL is replicated first
         900 renew a => held
         900 tick => checkpoint a=1000
         # nothing expires it while that is under way
         1200 tick =>
         1500 apply => a granted
         1899 left a => 1
         1899 tick => checkpoint a=1
         1900 tick => expire a",
    );
}

#[test]
fn a_renewal_after_the_end_was_proposed_is_not_granted() {
    play(
        "0 open a 1000
         999 tick => checkpoint a=1
         1000 tick => expire a
         1001 renew a => held
         1002 renew a => held
         1003 tick =>
         1100 apply => a refused
         1101 renew a => no session
         1200 tick =>",
    );
}

#[test]
fn an_end_that_got_lost_is_proposed_again_and_only_then() {
    play(
        "0 open a 500
         249 tick =>
         500 tick => expire a
         500 lose =>
         600 tick =>
         1499 tick =>
         1500 tick => expire a
         1500 renew a => held
         2000 tick =>
         2000 apply => a refused
         3000 tick =>",
    );
}

#[test]
fn a_renewal_that_waits_for_its_quorum_keeps_the_session_for_a_bounded_while() {
    play(
        "0 open a 1000
         999 receive a =>
         1000 tick => checkpoint a=0
         1000 lose =>
         # the lowering may be yet to come: the renewal needs the full TTL replicated after it
         1100 renew a received 999 => held
         1100 tick => checkpoint a=1000
         1150 apply => a granted
         1200 left a => 799
         1990 receive a =>
         2000 tick => checkpoint a=0
         2250 tick => checkpoint a=0
         2998 tick => checkpoint a=0
         2999 tick => expire a",
    );
}

#[test]
fn a_lowering_checkpoint_still_under_way_holds_a_renewal() {
    play(
        "0 open a 4000
         1000 tick =>
         2000 tick => checkpoint a=2000
         # not applied yet, so the replicated time is full: yet the renewal must not pass it by
         2100 renew a => held
         2100 tick => checkpoint a=4000
         2200 apply first =>
         2200 apply first => a granted
         2300 renew a => granted",
    );
}

#[test]
fn a_raise_that_came_before_the_lowering_does_not_free_a_renewal_that_came_after_it() {
    play(
        "0 open a 4000
         1000 tick =>
         2000 tick => checkpoint a=2000
         2000 apply =>
         2100 renew a => held
         2100 tick => checkpoint a=4000
         # slow: asked for again
         3100 tick => checkpoint a=4000
         3200 apply first => a granted
         # silent again, lowered again, while the second raise is still under way
         4100 tick => checkpoint a=2000
         4200 renew a => held
         4200 apply first =>
         4200 tick => checkpoint a=4000
         4300 apply first =>
         4300 apply first => a granted",
    );
}

#[test]
fn a_new_leader_grants_what_is_replicated_and_elections_do_not_add_up() {
    play(
        "0 open a 8000
         0 open b 8000
         1000 tick =>
         2000 tick =>
         3000 renew b => granted
         4000 tick => checkpoint a=4000
         4000 apply =>
         # the old leader falls silent at 4100; the new one knows nothing of that time
         5000 elect =>
         5000 left a => 4000
         5000 left b => 8000
         5999 tick =>
         # sessions not heard of since the election are checkpointed early
         6000 tick => checkpoint a=3000 b=7000
         6000 apply =>
         6100 elect =>
         6100 left a => 3000
         # b's client is alive: granted once its full TTL is replicated
         6200 renew b => held
         6200 tick => checkpoint b=8000
         6250 apply => b granted
         7100 tick => checkpoint a=2000
         8100 tick => checkpoint a=1000
         9099 tick =>
         9100 tick => expire a",
    );
}

#[test]
fn a_closed_session_leaves_nothing_behind() {
    play(
        "0 open a 1000
         500 tick => checkpoint a=500
         500 apply =>
         600 renew a => held
         700 close a => a refused
         900 tick =>
         1500 tick =>
         2500 tick =>",
    );
}

#[test]
fn what_the_leader_slept_through_counts_for_nobody() {
    play(
        "0 open a 3000
         100 tick =>
         # stopped for a minute; keep-alives wait in the sockets
         60100 woke tick =>
         60100 left a => 1900
         60200 renew a => granted
         60200 left a => 3000",
    );
}

#[test]
fn containers_and_ttl_nodes_go_when_due() {
    play(
        "0 create container /c =>
         0 create 5000 /t =>
         0 create 5000 /u =>
         900 tick =>
         1800 put /t =>
         2700 tick =>
         3600 tick =>
         4500 create persistent /u/child =>
         # u has a child now
         5400 tick =>
         6300 tick =>
         6799 tick =>
         6800 tick => reap /t
         6800 lose =>
         7700 tick =>
         7800 tick => reap /t
         7800 apply =>
         7800 exists /t => false
         7800 exists /u => true
         # never had a child
         7800 exists /c => true",
    );
}

#[test]
fn a_container_in_use_again_stays() {
    let idle = |from: u64, to: u64| (from..to).step_by(1_000).map(|at| format!("{at} tick =>\n")).collect::<String>();
    play(&format!(
        "0 create container /c =>
         0 create persistent /c/x =>
         100 delete /c/x =>
         {}
         59900 create persistent /c/x =>
         {}
         90000 delete /c/x =>
         {}
         150000 tick => reap /c
         150000 put /c/x =>
         # it has a child after all: the guard refuses
         150000 apply =>
         150000 exists /c => true
         150900 tick =>",
        idle(500, 59_900),
        idle(60_500, 90_000),
        idle(90_500, 150_000),
    ));
}

#[test]
fn history_goes_with_age() {
    play(
        "0 create persistent /a =>
         0 history age 10000 =>
         900 put /a =>
         1000 tick =>
         1900 tick =>
         2800 put /a =>
         2800 tick =>
         3700 tick =>
         4600 tick =>
         5500 tick =>
         6400 tick =>
         7300 tick =>
         8200 tick =>
         9100 tick =>
         9999 tick =>
         10000 tick => compact 1
         10000 apply =>
         10900 tick =>
         11000 tick => compact 2
         11900 tick =>
         12800 tick => compact 3",
    );
}

#[test]
fn limits_are_configured_once() {
    play(
        "0 want sessions_max 7 =>
         0 tick => configure sessions_max=7
         500 tick =>
         1000 tick => configure sessions_max=7
         1100 apply =>
         2500 tick =>",
    );
}

#[test]
fn a_hundred_thousand_sessions_expire_in_batches_each_once() {
    const SESSIONS: u64 = 100_000;
    let mut machine = Machine::new();
    for index in 1..=SESSIONS {
        let command = Command::OpenSession { secret: [0; 16], run: 0, ttl_ms: 10_000, name: String::new() };
        let request = RequestId { server: 1, run: 1, count: index };
        machine.apply(Index(index), Term(1), Some(Entry { request, at_ms: 0, command }));
    }
    let mut duties = Duties::new(Options::default(), Term(2), 0, &machine);
    let (mut now, mut expired, mut index) = (0, std::collections::BTreeSet::new(), SESSIONS);
    while now < 12_000 {
        now += 500;
        for command in duties.tick(now, &machine) {
            if let Command::ExpireSessions { sessions, .. } = &command {
                assert!(sessions.len() <= 256);
                assert!(now >= 10_000);
                for session in sessions {
                    assert!(expired.insert(*session), "{session:x} twice");
                }
            }
            index += 1;
            let request = RequestId { server: 1, run: 1, count: index };
            let applied = machine.apply(Index(index), Term(2), Some(Entry { request, at_ms: 0, command }));
            duties.on_applied(now, &machine, &applied);
        }
    }
    assert_eq!(expired.len() as u64, SESSIONS);
    assert_eq!((machine.counts().sessions, machine.revision()), (0, Revision(0)));
    assert!(duties.remaining().is_empty());
}
