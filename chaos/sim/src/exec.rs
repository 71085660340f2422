//! A tiny executor: tasks, a queue of what is due, and virtual time. One thread, no clock, no chance.
//!
//! Always true:
//! * tasks that are ready run in rounds, each in the order of their making; who is woken meanwhile is in the next one;
//! * what is due runs in the order of its time, and of two things due at once the one asked for first;
//! * time stands still while a task runs.

use std::{
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
};

use parking_lot::Mutex;

use crate::{event::Event, time::Micros, trace::Trace};

/// What a task belongs to: it dies with it, and stands still with it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Process {
    /// Of the simulator itself: never dies.
    World,
    /// One start of a server: its id, and which start.
    Server(u64, u64),
    /// One start of a client.
    Client(u64, u64),
}

/// What is to become of a process; see [`Sim::order`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// See [`Executor::kill`].
    Kill,
    /// See [`Executor::stop`].
    Stop,
    /// See [`Executor::go_on`].
    GoOn,
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Handed to everybody: the time, timers, new tasks, the trace. Cheap to clone.
#[derive(Clone)]
pub struct Sim(Arc<Inner>);

struct Inner {
    now: AtomicU64,
    due: Mutex<Due>,
    ready: Arc<Mutex<VecDeque<u64>>>,
    spawned: Mutex<Vec<(Process, Task)>>,
    orders: Mutex<Vec<(Process, Order)>>,
    trace: Mutex<Trace>,
}

#[derive(Default)]
struct Due {
    heap: BinaryHeap<Entry>,
    next: u64,
}

enum What {
    Wake(Waker),
    Event(Event),
}

struct Entry {
    at: Micros,
    number: u64,
    what: What,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    /// The earliest is the greatest: what the heap gives first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl Sim {
    /// Time 0, nothing due.
    #[must_use]
    pub fn new(trace: Trace) -> Self {
        Self(Arc::new(Inner {
            now: AtomicU64::new(0),
            due: Mutex::default(),
            ready: Arc::default(),
            spawned: Mutex::default(),
            orders: Mutex::default(),
            trace: Mutex::new(trace),
        }))
    }

    /// The true time.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.0.now.load(Relaxed)
    }

    fn push(&self, at: Micros, what: What) {
        let mut due = self.0.due.lock();
        let number = due.next;
        due.next += 1;
        due.heap.push(Entry { at: at.max(self.now()), number, what });
    }

    /// Something happens to the world at `at`; not before now.
    pub fn schedule(&self, at: Micros, event: Event) {
        self.push(at, What::Event(event));
    }

    /// Resolves at `at`.
    #[must_use]
    pub fn sleep_until(&self, at: Micros) -> Sleep {
        Sleep { sim: self.clone(), at, waker: None }
    }

    /// Resolves after so long.
    #[must_use]
    pub fn sleep(&self, us: Micros) -> Sleep {
        self.sleep_until(self.now() + us)
    }

    /// A new task of a process.
    pub fn spawn(&self, process: Process, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawned.lock().push((process, Box::pin(task)));
    }

    /// Before the next task runs, a process is killed, stopped, or goes on.
    pub fn order(&self, process: Process, order: Order) {
        self.0.orders.lock().push((process, order));
    }

    /// Notes what happened; see [`Trace::note`].
    pub fn note(&self, what: &'static str, numbers: [u64; 3], text: impl FnOnce() -> String) {
        self.0.trace.lock().note(self.now(), what, numbers, text);
    }

    /// Nothing is due any more, nobody waits: what was to come may hold on to this, and is let go.
    pub fn end(&self) {
        let due = std::mem::take(&mut *self.0.due.lock());
        let spawned = std::mem::take(&mut *self.0.spawned.lock());
        drop((due, spawned));
    }

    /// The trace so far: hash and number of events.
    #[must_use]
    pub fn traced(&self) -> (u64, u64) {
        self.0.trace.lock().sum()
    }
}

/// See [`Sim::sleep_until`].
pub struct Sleep {
    sim: Sim,
    at: Micros,
    waker: Option<Waker>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.sim.now() >= self.at {
            return Poll::Ready(());
        }
        if self.waker.as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
            let waker = context.waker().clone();
            self.waker = Some(waker.clone());
            self.sim.push(self.at, What::Wake(waker));
        }
        Poll::Pending
    }
}

struct Bell {
    task: u64,
    ready: Arc<Mutex<VecDeque<u64>>>,
    rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Relaxed) {
            self.ready.lock().push_back(self.task);
        }
    }
}

struct Running {
    process: Process,
    task: Task,
    bell: Arc<Bell>,
    waker: Waker,
}

/// Owns the tasks.
pub struct Executor {
    sim: Sim,
    tasks: BTreeMap<u64, Running>,
    next: u64,
    /// Tasks of stopped processes that were woken meanwhile.
    stopped: BTreeMap<Process, Vec<u64>>,
    polls: u64,
}

/// So many polls without time passing are no progress.
const POLLS_AT_ONCE_MAX: u64 = 1_000_000;

impl Executor {
    /// Without tasks.
    #[must_use]
    pub fn new(sim: Sim) -> Self {
        Self { sim, tasks: BTreeMap::new(), next: 0, stopped: BTreeMap::new(), polls: 0 }
    }

    /// Polls so far.
    #[must_use]
    pub fn polls(&self) -> u64 {
        self.polls
    }

    fn admit(&mut self) {
        let spawned = std::mem::take(&mut *self.sim.0.spawned.lock());
        for (process, task) in spawned {
            let id = self.next;
            self.next += 1;
            let ready = self.sim.0.ready.clone();
            let bell = Arc::new(Bell { task: id, ready, rung: AtomicBool::new(false) });
            let waker = Waker::from(bell.clone());
            bell.wake_by_ref();
            self.tasks.insert(id, Running { process, task, bell, waker });
        }
    }

    fn obey(&mut self) {
        loop {
            let orders = std::mem::take(&mut *self.sim.0.orders.lock());
            if orders.is_empty() {
                return;
            }
            for (process, order) in orders {
                match order {
                    Order::Kill => self.kill(process),
                    Order::Stop => self.stop(process),
                    Order::GoOn => self.go_on(process),
                }
            }
        }
    }

    /// Runs tasks until none is ready.
    ///
    /// # Errors
    /// They never come to rest.
    pub fn run_ready(&mut self) -> Result<(), String> {
        let limit = self.polls + POLLS_AT_ONCE_MAX;
        let mut round = VecDeque::new();
        loop {
            self.obey();
            self.admit();
            if round.is_empty() {
                std::mem::swap(&mut round, &mut *self.sim.0.ready.lock());
                // Whoever wakes several at once may do so in any order: tokio's watch channel does.
                round.make_contiguous().sort_unstable();
            }
            let Some(id) = round.pop_front() else { return Ok(()) };
            let Some(running) = self.tasks.get_mut(&id) else { continue };
            if let Some(waiting) = self.stopped.get_mut(&running.process) {
                waiting.push(id);
                continue;
            }
            running.bell.rung.store(false, Relaxed);
            self.polls += 1;
            if self.polls > limit {
                return Err(format!("tasks never come to rest: one of {:?} was the last", running.process));
            }
            let mut context = Context::from_waker(&running.waker);
            if running.task.as_mut().poll(&mut context).is_ready() {
                self.tasks.remove(&id);
            }
        }
    }

    /// Moves time to the next thing due, if that is not after `until`. Wakes happen here; an event is handed out.
    pub fn next(&mut self, until: Micros) -> Next {
        let mut due = self.sim.0.due.lock();
        match due.heap.peek() {
            Some(entry) if entry.at <= until => {}
            _ => {
                self.sim.0.now.store(until, Relaxed);
                return Next::Over;
            }
        }
        let entry = due.heap.pop().expect("just seen");
        drop(due);
        self.sim.0.now.store(entry.at, Relaxed);
        match entry.what {
            What::Wake(waker) => {
                waker.wake();
                Next::Woke
            }
            What::Event(event) => Next::Event(event),
        }
    }

    /// A process dies: its tasks are dropped where they stand, in the order in which they came.
    pub fn kill(&mut self, process: Process) {
        self.admit();
        let ids: Vec<u64> = self.tasks.iter().filter(|(_, task)| task.process == process).map(|(id, _)| *id).collect();
        for id in ids {
            drop(self.tasks.remove(&id));
        }
        self.stopped.remove(&process);
    }

    /// A process stands still.
    pub fn stop(&mut self, process: Process) {
        self.stopped.entry(process).or_default();
    }

    /// It goes on.
    pub fn go_on(&mut self, process: Process) {
        let waiting = self.stopped.remove(&process).unwrap_or_default();
        self.sim.0.ready.lock().extend(waiting);
    }

    /// All tasks are dropped, in the order in which they came.
    pub fn end(&mut self) {
        self.admit();
        while let Some((_, running)) = self.tasks.pop_first() {
            drop(running);
        }
        self.sim.end();
    }

    /// Processes with tasks, for a look at what is left.
    #[must_use]
    pub fn processes(&self) -> BTreeSet<Process> {
        self.tasks.values().map(|task| task.process).collect()
    }
}

/// See [`Executor::next`].
pub enum Next {
    /// A task was woken.
    Woke,
    /// Something happens to the world.
    Event(Event),
    /// Nothing more until then.
    Over,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(executor: &mut Executor, until: Micros) {
        loop {
            executor.run_ready().expect("comes to rest");
            match executor.next(until) {
                Next::Over => break,
                Next::Woke => {}
                Next::Event(_) => panic!("there are no events here"),
            }
        }
    }

    #[test]
    fn sleepers_wake_in_the_order_of_their_time_and_then_of_their_asking() {
        let sim = Sim::new(Trace::default());
        let mut executor = Executor::new(sim.clone());
        let woken = Arc::new(Mutex::new(Vec::new()));
        for (name, at) in [("c", 30), ("a", 10), ("b", 10)] {
            let (woken, its) = (woken.clone(), sim.clone());
            sim.spawn(Process::World, async move {
                its.sleep_until(at).await;
                woken.lock().push((name, its.now()));
            });
        }
        drive(&mut executor, 100);
        assert_eq!(*woken.lock(), [("a", 10), ("b", 10), ("c", 30)]);
        assert_eq!(sim.now(), 100);
    }

    #[test]
    fn a_stopped_process_goes_on_late_and_a_dead_one_never() {
        let sim = Sim::new(Trace::default());
        let mut executor = Executor::new(sim.clone());
        let woken = Arc::new(Mutex::new(Vec::new()));
        for client in [1, 2] {
            let (woken, its) = (woken.clone(), sim.clone());
            sim.spawn(Process::Client(client, 0), async move {
                its.sleep_until(10).await;
                woken.lock().push((client, its.now()));
            });
        }
        drive(&mut executor, 5);
        executor.stop(Process::Client(1, 0));
        executor.kill(Process::Client(2, 0));
        drive(&mut executor, 50);
        assert_eq!(*woken.lock(), []);
        executor.go_on(Process::Client(1, 0));
        drive(&mut executor, 60);
        assert_eq!(*woken.lock(), [(1, 50)]);
    }
}
