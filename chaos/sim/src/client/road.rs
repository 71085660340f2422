//! The roads between clients and servers, and the session streams that travel on them.
//!
//! What travels on a stream arrives in order, or not at all because the stream broke; then both ends learn of it, sooner
//! or later. A blocked road holds everything up, news of a break too. Each direction has room for a window of bytes: who
//! writes to a reader that does not read has to wait.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::Stream;
use parking_lot::Mutex;

use crate::{
    exec::{Process, Sim, Sleep},
    time::{Micros, SECOND},
};

/// A connection attempt that meets a blocked road fails after this.
const CONNECT_US: Micros = SECOND;
/// A blocked road breaks what is on it after this, as HTTP/2's pings go unanswered.
const SILENCE_US: Micros = 6 * SECOND;
/// Bytes on their way in one direction of a stream.
pub const WINDOW_BYTES: usize = 4 << 10;

/// Which way something travels.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// From the client.
    Up,
    /// To the client.
    Down,
}

/// Takes the server's side of a new stream: what the client sends, and where to write what it is told.
pub type Accept = Arc<dyn Fn(Reader, Writer) + Send + Sync>;

#[derive(Default)]
struct Lane {
    /// What is on its way, and when it arrives.
    frames: VecDeque<(Micros, Bytes)>,
    bytes: usize,
    last_arrival: Micros,
    /// The writer has written its last.
    finished: bool,
    /// Nobody reads any more.
    deaf: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct Line {
    lanes: [Lane; 2],
    /// When the news that it broke arrives, if the road is open; later otherwise.
    broken: Option<Micros>,
    /// The ends know it by themselves.
    given_up: bool,
}

impl Line {
    fn lane(&mut self, way: Way) -> &mut Lane {
        &mut self.lanes[way as usize]
    }

    fn is_broken(&self, now: Micros, blocked: bool) -> bool {
        self.given_up || (!blocked && self.broken.is_some_and(|at| at <= now))
    }

    fn wake_all(&mut self) {
        for lane in &mut self.lanes {
            for waker in [lane.reader.take(), lane.writer.take()].into_iter().flatten() {
                waker.wake();
            }
        }
    }
}

#[derive(Default)]
struct Road {
    /// Faults that block each way.
    blocked: [u32; 2],
    /// Counts blocks, so that the end of one is told from the end of the next.
    blocks: u64,
    /// Beside the usual, up to so much longer.
    jitter_us: Micros,
    lines: Vec<Weak<Mutex<Line>>>,
}

/// What became of streams.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Streams that were opened.
    pub opened: u64,
    /// Attempts that found nobody.
    pub refused: u64,
    /// Frames that arrived.
    pub frames: u64,
    /// Streams that broke.
    pub broken: u64,
    /// Times that a writer found no room.
    pub full: u64,
}

struct Inner {
    rng: fastrand::Rng,
    roads: BTreeMap<(u64, u64), Road>,
    servers: BTreeMap<u64, Accept>,
    counts: Counts,
}

/// All roads. Cheap to clone.
#[derive(Clone)]
pub struct Roads {
    sim: Sim,
    inner: Arc<Mutex<Inner>>,
}

impl Roads {
    /// Without servers.
    #[must_use]
    pub fn new(sim: Sim, rng: fastrand::Rng) -> Self {
        let inner = Inner { rng, roads: BTreeMap::new(), servers: BTreeMap::new(), counts: Counts::default() };
        Self { sim, inner: Arc::new(Mutex::new(inner)) }
    }

    /// See [`Counts`].
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.inner.lock().counts
    }

    /// A server's process listens.
    pub fn listen(&self, server: u64, accept: Accept) {
        self.inner.lock().servers.insert(server, accept);
    }

    /// It does no more.
    pub fn deafen(&self, server: u64) {
        self.inner.lock().servers.remove(&server);
    }

    /// A road is blocked one way; once more for each call.
    pub fn block(&self, client: u64, server: u64, way: Way) {
        let mut inner = self.inner.lock();
        let road = inner.roads.entry((client, server)).or_default();
        road.blocked[way as usize] += 1;
        road.blocks += 1;
        let block = road.blocks;
        drop(inner);
        let (roads, sim) = (self.clone(), self.sim.clone());
        self.sim.spawn(Process::World, async move {
            sim.sleep(SILENCE_US).await;
            let still = {
                let mut inner = roads.inner.lock();
                let road = inner.roads.entry((client, server)).or_default();
                road.blocks == block && road.blocked != [0, 0]
            };
            if still {
                roads.reset(client, server);
            }
        });
    }

    /// As often as it was blocked, it has to be unblocked.
    pub fn unblock(&self, client: u64, server: u64, way: Way) {
        let mut inner = self.inner.lock();
        let road = inner.roads.entry((client, server)).or_default();
        let blocked = &mut road.blocked[way as usize];
        *blocked = blocked.saturating_sub(1);
        let lines: Vec<_> = road.lines.iter().filter_map(Weak::upgrade).collect();
        drop(inner);
        for line in lines {
            line.lock().wake_all();
        }
    }

    /// No road is blocked any more.
    pub fn open_all(&self) {
        let mut inner = self.inner.lock();
        let mut lines = Vec::new();
        for road in inner.roads.values_mut() {
            road.blocked = [0, 0];
            road.jitter_us = 0;
            lines.extend(road.lines.iter().filter_map(Weak::upgrade));
        }
        drop(inner);
        for line in lines {
            line.lock().wake_all();
        }
    }

    /// Up to so much more delay; 0 for fair weather.
    pub fn jitter(&self, client: u64, server: u64, jitter_us: Micros) {
        self.inner.lock().roads.entry((client, server)).or_default().jitter_us = jitter_us;
    }

    /// What is on the road breaks, and both ends learn of it now.
    pub fn reset(&self, client: u64, server: u64) {
        let mut inner = self.inner.lock();
        let lines = std::mem::take(&mut inner.roads.entry((client, server)).or_default().lines);
        let lines: Vec<_> = lines.iter().filter_map(Weak::upgrade).collect();
        inner.counts.broken += lines.len() as u64;
        drop(inner);
        for line in lines {
            let mut line = line.lock();
            line.given_up = true;
            line.wake_all();
        }
    }

    fn blocked(&self, client: u64, server: u64, way: Way) -> bool {
        self.inner.lock().roads.get(&(client, server)).is_some_and(|road| road.blocked[way as usize] > 0)
    }

    fn delay(&self, client: u64, server: u64) -> Micros {
        let mut inner = self.inner.lock();
        let jitter = inner.roads.get(&(client, server)).map_or(0, |road| road.jitter_us);
        let usual = 40 + inner.rng.u64(..120);
        if jitter > 0 { usual + inner.rng.u64(..jitter) } else { usual }
    }

    /// A client opens a stream.
    ///
    /// # Errors
    /// In words, why there is none.
    pub async fn connect(&self, client: u64, server: u64) -> Result<(Reader, Writer), String> {
        for way in [Way::Up, Way::Down] {
            if self.blocked(client, server, way) {
                self.sim.sleep(CONNECT_US).await;
                return Err("no connection in time".to_owned());
            }
            self.sim.sleep(self.delay(client, server)).await;
        }
        let (accept, line) = {
            let mut inner = self.inner.lock();
            let Some(accept) = inner.servers.get(&server).cloned() else {
                inner.counts.refused += 1;
                return Err("connection refused".to_owned());
            };
            inner.counts.opened += 1;
            let line = Arc::new(Mutex::new(Line { lanes: Default::default(), broken: None, given_up: false }));
            let road = inner.roads.entry((client, server)).or_default();
            road.lines.retain(|line| line.strong_count() > 0);
            road.lines.push(Arc::downgrade(&line));
            (accept, line)
        };
        let end = |way, reads| End { roads: self.clone(), client, server, way, reads, line: line.clone() };
        accept(Reader::new(end(Way::Up, true)), Writer(end(Way::Down, false)));
        Ok((Reader::new(end(Way::Down, true)), Writer(end(Way::Up, false))))
    }
}

/// One end of one direction. Dropped before its time, the stream breaks; but a server that reads no more may still write.
struct End {
    roads: Roads,
    client: u64,
    server: u64,
    way: Way,
    reads: bool,
    line: Arc<Mutex<Line>>,
}

impl Drop for End {
    fn drop(&mut self) {
        let mut line = self.line.lock();
        let (given_up, broken) = (line.given_up, line.broken.is_some());
        let lane = line.lane(self.way);
        if given_up || broken || lane.finished || lane.deaf {
            return;
        }
        if self.reads && self.way == Way::Up {
            lane.deaf = true;
            if let Some(writer) = lane.writer.take() {
                writer.wake();
            }
            return;
        }
        let sim = self.roads.sim.clone();
        let at = sim.now() + self.roads.delay(self.client, self.server);
        line.broken = Some(at);
        drop(line);
        self.roads.inner.lock().counts.broken += 1;
        let line = Arc::downgrade(&self.line);
        self.roads.sim.spawn(Process::World, async move {
            sim.sleep_until(at).await;
            if let Some(line) = line.upgrade() {
                line.lock().wake_all();
            }
        });
    }
}

/// Where one end writes.
pub struct Writer(End);

impl Writer {
    /// Waits until there is room; false if the stream is broken.
    pub fn poll_room(&self, context: &mut Context<'_>) -> Poll<bool> {
        let now = self.0.roads.sim.now();
        let blocked = self.0.roads.blocked(self.0.client, self.0.server, self.0.way);
        let mut line = self.0.line.lock();
        if line.is_broken(now, blocked) {
            return Poll::Ready(false);
        }
        let lane = line.lane(self.0.way);
        if lane.deaf {
            return Poll::Ready(false);
        }
        lane.writer = Some(context.waker().clone());
        if lane.bytes < WINDOW_BYTES {
            return Poll::Ready(true);
        }
        self.0.roads.inner.lock().counts.full += 1;
        Poll::Pending
    }

    /// Sends a frame.
    pub fn write(&self, frame: Bytes) {
        let delay = self.0.roads.delay(self.0.client, self.0.server);
        let at = self.0.roads.sim.now() + delay;
        let mut line = self.0.line.lock();
        let lane = line.lane(self.0.way);
        lane.last_arrival = lane.last_arrival.max(at);
        lane.bytes += frame.len();
        lane.frames.push_back((lane.last_arrival, frame));
        if let Some(reader) = lane.reader.take() {
            reader.wake();
        }
    }

    /// Nothing more comes.
    pub fn finish(self) {
        let mut line = self.0.line.lock();
        let lane = line.lane(self.0.way);
        lane.finished = true;
        if let Some(reader) = lane.reader.take() {
            reader.wake();
        }
    }

    /// Moves frames from their source until that ends, or the stream breaks.
    pub async fn carry(self, mut frames: impl Stream<Item = Bytes> + Unpin) {
        loop {
            let next = std::future::poll_fn(|context| match self.poll_room(context) {
                Poll::Ready(false) => Poll::Ready(Err(())),
                Poll::Ready(true) => Pin::new(&mut frames).poll_next(context).map(Ok),
                Poll::Pending => Poll::Pending,
            });
            match next.await {
                Ok(Some(frame)) => self.write(frame),
                Ok(None) => return self.finish(),
                Err(()) => return,
            }
        }
    }
}

/// Where one end reads: frames, or that the stream is broken.
pub struct Reader {
    end: End,
    sleep: Option<Sleep>,
    over: bool,
}

impl Reader {
    fn new(end: End) -> Self {
        Self { end, sleep: None, over: false }
    }
}

impl Stream for Reader {
    type Item = Result<Bytes, String>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        loop {
            let end = &this.end;
            let blocked = end.roads.blocked(end.client, end.server, end.way);
            let now = end.roads.sim.now();
            let mut line = end.line.lock();
            if line.is_broken(now, blocked) {
                this.over = true;
                return Poll::Ready(Some(Err("connection reset".to_owned())));
            }
            let lane = line.lane(end.way);
            lane.reader = Some(context.waker().clone());
            if blocked {
                return Poll::Pending;
            }
            match lane.frames.front() {
                Some(&(at, _)) if at <= now => {
                    let (_, frame) = lane.frames.pop_front().expect("just seen");
                    lane.bytes -= frame.len();
                    if let Some(writer) = lane.writer.take() {
                        writer.wake();
                    }
                    drop(line);
                    end.roads.inner.lock().counts.frames += 1;
                    return Poll::Ready(Some(Ok(frame)));
                }
                Some(&(at, _)) => {
                    drop(line);
                    let mut sleep = end.roads.sim.sleep_until(at);
                    if Pin::new(&mut sleep).poll(context).is_pending() {
                        this.sleep = Some(sleep);
                        return Poll::Pending;
                    }
                }
                None if lane.finished => {
                    this.over = true;
                    return Poll::Ready(None);
                }
                None => return Poll::Pending,
            }
        }
    }
}
