//! A client that takes locks, does something under them, and gives them back.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use conclave_client::FencingToken;

use super::{
    Happened, Outcome, Spec, Workload,
    lock::{Acquired, Lock, lock},
    tell, tell_at,
};
use crate::{
    clock::{now_ns, ns},
    resource::{Resource, Touch},
};

/// How often a holder looks whether it still holds.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// After a service that cannot be reached.
const RETRY_AFTER: Duration = Duration::from_millis(50);

pub fn run(spec: &Spec, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(spec.seed);
    let mut resource = match &spec.db {
        Some(path) => Some(Resource::open(path, spec.workload == Workload::Fenced)?),
        None => None,
    };
    let mut lock = lock(spec)?;
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
        tell(Happened::Call { f: "acquire".into(), key: key.clone(), token: None });
        match lock.acquire(key, spec.wait) {
            Acquired::Held { token, lease_from_ns } => {
                let range = (spec.hold.0.as_micros() as u64)..=(spec.hold.1.as_micros() as u64);
                let hold = Duration::from_micros(random.u64(range));
                under(spec, lock.as_mut(), key, token, lease_from_ns, hold, resource.as_mut());
            }
            Acquired::Not(outcome, error) => {
                returned("acquire", key, outcome, None, Some(error));
                thread::sleep(Duration::from_millis(random.u64(1..20)));
            }
        }
        // Somebody else's turn: a lock that its last holder takes again at once is no test of handing over.
        thread::sleep(Duration::from_millis(random.u64(0..10)));
    }
    lock.close();
    Ok(())
}

fn returned(f: &str, key: &str, outcome: Outcome, token: Option<i64>, error: Option<String>) {
    tell(Happened::Return { f: f.into(), key: key.into(), outcome, token, error, lease_from_ns: None });
}

fn under(
    spec: &Spec,
    lock: &mut dyn Lock,
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
            f: "acquire".into(),
            key: key.clone(),
            outcome: Outcome::Ok,
            token: number,
            error: None,
            lease_from_ns,
        },
    );
    // Looked at after the moment that is told, so that it was true then.
    if lock.held() {
        tell_at(at, Happened::Begin { key: key.clone(), token: number });
        let lost = match resource {
            None => hold_still(lock, hold),
            Some(resource) => {
                // Blocking on purpose, as a library's call that no cancellation reaches: nothing looks at the lock
                // between the read and the write, which is how locks are used.
                match resource.section(&spec.name, &key, token, hold, || tell(Happened::Read { key: key.clone() })) {
                    Ok(Touch::Done) => {}
                    Ok(Touch::Refused(error)) => {
                        tell(Happened::Refused { key: key.clone(), token: number, error });
                    }
                    Err(error) => tell(Happened::Trouble { error: format!("{error:#}") }),
                }
                !lock.held()
            }
        };
        tell(Happened::End { key: key.clone(), lost });
    }
    tell(Happened::Call { f: "release".into(), key: key.clone(), token: number });
    let (outcome, error) = lock.release();
    returned("release", &key, outcome, number, error);
}

/// Whether it was lost meanwhile.
fn hold_still(lock: &dyn Lock, length: Duration) -> bool {
    let until = now_ns() + ns(length);
    while now_ns() < until {
        if !lock.held() {
            return true;
        }
        thread::sleep(LOOK_EVERY);
    }
    !lock.held()
}
