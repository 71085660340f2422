//! A client that takes locks, does something under them, and gives them back.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use conclave_client::FencingToken;
use serde_json::Value;

use super::{
    Happened, Outcome, Spec, Workload,
    lock::{Acquired, Lock},
    recipes::Recipes,
    tell, tell_at,
};
use crate::{
    clock::{now_ns, ns},
    resource::{Resource, Touch},
    workload::Touched,
};

/// How often a holder looks whether it still holds.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// After a service that cannot be reached.
const RETRY_AFTER: Duration = Duration::from_millis(50);

pub fn run(spec: &Spec, recipes: &dyn Recipes, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(spec.seed);
    let mut resource = match &spec.resource {
        Some(address) => Some(Resource::open(address, spec.workload.touched() == Touched::Fenced)?),
        None => None,
    };
    let mut lock = recipes.lock(spec)?;
    let mut ready = false;
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = lock.prepare() {
            tell(Happened::Trouble { error: format!("{error:#}") });
            thread::sleep(RETRY_AFTER);
            continue;
        }
        if !ready {
            tell(Happened::Ready);
            ready = true;
        }
        let key = &spec.keys[random.usize(..spec.keys.len())];
        let (f, wait) = way(spec, &mut random);
        tell(Happened::Call { f: f.into(), key: key.clone(), value: Value::Null });
        match lock.acquire(key, wait) {
            Acquired::Held { token, lease_from_ns } => {
                let range = (spec.hold.0.as_micros() as u64)..=(spec.hold.1.as_micros() as u64);
                let hold = Duration::from_micros(random.u64(range));
                under(spec, lock.as_mut(), f, key, token, lease_from_ns, hold, resource.as_mut());
            }
            Acquired::Not(outcome, error) => {
                returned(f, key, outcome, None, Some(error));
                thread::sleep(Duration::from_millis(random.u64(1..20)));
            }
        }
        // Somebody else's turn: a lock that its last holder takes again at once is no test of handing over.
        thread::sleep(Duration::from_millis(random.u64(0..10)));
    }
    lock.close();
    Ok(())
}

/// Mostly waiting long; with nothing to do under the lock, also not at all or for a short time.
fn way(spec: &Spec, random: &mut fastrand::Rng) -> (&'static str, Duration) {
    match random.u32(..10) {
        0 | 1 if spec.workload == Workload::Lock => ("try_acquire", Duration::ZERO),
        2 | 3 if spec.workload == Workload::Lock => ("acquire", Duration::from_millis(random.u64(20..200))),
        _ => ("acquire", spec.wait),
    }
}

fn returned(f: &str, key: &str, outcome: Outcome, token: Option<i64>, error: Option<String>) {
    let value = token.map_or(Value::Null, Value::from);
    tell(Happened::Return { f: f.into(), key: key.into(), outcome, value, error, lease_from_ns: None });
}

fn under(
    spec: &Spec,
    lock: &mut dyn Lock,
    f: &str,
    key: &str,
    token: Option<FencingToken>,
    lease_from_ns: Option<i64>,
    hold: Duration,
    resource: Option<&mut Resource>,
) {
    let (key, number) = (key.to_owned(), token.map(FencingToken::as_i64));
    let at = now_ns();
    tell_at(
        at,
        Happened::Return {
            f: f.into(),
            key: key.clone(),
            outcome: Outcome::Ok,
            value: number.map_or(Value::Null, Value::from),
            error: None,
            lease_from_ns,
        },
    );
    // Looked at after the moment that is told, so that it was true then.
    if lock.held() {
        tell_at(at, Happened::Begin { key: key.clone(), token: number, room: 1 });
        let held = lock.belief();
        match resource {
            None => {
                let until = now_ns() + ns(hold);
                believe(held.as_ref(), &key, at, &|| now_ns() >= until);
            }
            Some(resource) => {
                let over = AtomicBool::new(false);
                thread::scope(|scope| {
                    let (held, over, key) = (held, &over, &key);
                    scope.spawn(move || believe(held.as_ref(), key, at, &|| over.load(Ordering::Relaxed)));
                    // Blocking on purpose, as a library's call that no cancellation reaches: what is done does not look
                    // at the lock between the read and the write, which is how locks are used.
                    let read = || tell(Happened::Read { key: key.clone() });
                    match resource.section(&spec.name, key, token, hold, read) {
                        Ok(Touch::Done) => {}
                        Ok(Touch::Refused(error)) => {
                            tell(Happened::Refused { key: key.clone(), token: number, error });
                        }
                        Err(error) => tell(Happened::Trouble { error: format!("{error:#}") }),
                    }
                    over.store(true, Ordering::Relaxed);
                });
            }
        }
    }
    tell(Happened::Call { f: "release".into(), key: key.clone(), value: number.map_or(Value::Null, Value::from) });
    let (outcome, error) = lock.release();
    returned("release", &key, outcome, number, error);
}

/// Looks at the lock until it is lost or `over`, and tells when the client stopped to take it for its own.
fn believe(held: &dyn Fn() -> bool, key: &str, from_ns: i64, over: &dyn Fn() -> bool) {
    let mut seen_ns = from_ns;
    let lost = loop {
        let at = now_ns();
        // Lost is lost for good: held after this moment is held at it.
        if !held() {
            break true;
        }
        seen_ns = at;
        if over() {
            break false;
        }
        thread::sleep(LOOK_EVERY);
    };
    tell(Happened::End { key: key.to_owned(), lost, seen_ns });
}
