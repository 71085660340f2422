//! The workloads.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use conclave_client::{Error, ErrorKind, Session, SessionState};
use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};

use super::Bench;
use crate::exit::{self, Failure};

/// TTL of the sessions that put, get and lock.
const TTL: Duration = Duration::from_secs(10);
/// After a failure a loop rests, so that a dead server is not hammered.
const REST: Duration = Duration::from_millis(10);
/// Requests in flight while keys are made.
const PREPARE_DEPTH: usize = 256;
/// A stamped value carries the moment it was sent: 8 bytes.
const STAMP_BYTES: usize = 8;

type Notes = Result<Vec<String>, Failure>;

/// Does `op` over and over while the meter runs.
async fn repeat<F>(bench: &Bench, mut op: impl FnMut() -> F)
where
    F: Future<Output = Result<(), Error>>,
{
    let mut start = Instant::now();
    while bench.meter.is_running() {
        match op().await {
            Ok(()) => {
                let now = Instant::now();
                bench.meter.done(now - start);
                start = now;
            }
            Err(error) => {
                bench.meter.failed(&error);
                tokio::time::sleep(REST).await;
                start = Instant::now();
            }
        }
    }
}

/// Runs the loops beside the clock until all have ended.
async fn all(bench: &Bench, loops: impl Iterator<Item = impl Future<Output = ()>>) {
    let loops: FuturesUnordered<_> = loops.collect();
    tokio::join!(bench.clock(), loops.collect::<()>());
}

async fn close(sessions: &[Session]) {
    // A session that is not closed ends by its TTL.
    let _ = tokio::time::timeout(TTL, join_all(sessions.iter().map(Session::close))).await;
}

fn keys(bench: &Bench) -> Rc<[String]> {
    (0..bench.load.keys).map(|at| format!("{}/key-{at:07}", bench.home)).collect()
}

fn value(bench: &Bench) -> Bytes {
    (0..bench.load.value_size.0).map(|at| b"conclave"[at % 8]).collect()
}

/// Each loop begins at another key and takes the next one each time.
fn starts(bench: &Bench, sessions: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
    let (depth, keys) = (bench.load.depth as usize, bench.load.keys as usize);
    let loops = sessions * depth;
    (0..loops).map(move |at| (at / depth, at * keys / loops))
}

pub async fn put(bench: &Bench) -> Notes {
    let sessions = bench.sessions(TTL).await?;
    let (keys, value) = (keys(bench), value(bench));
    let loops = starts(bench, sessions.len()).map(|(session, start)| {
        let (session, keys, value) = (&sessions[session], &keys, &value);
        let mut next = start;
        repeat(bench, move || {
            let key = &keys[next % keys.len()];
            next += 1;
            let put = session.put(key.as_str(), value.clone()).into_future();
            async { put.await.map(drop) }
        })
    });
    all(bench, loops).await;
    close(&sessions).await;
    Ok(Vec::new())
}

pub async fn get(bench: &Bench, stale: bool) -> Notes {
    let sessions = bench.sessions(TTL).await?;
    let (keys, value) = (keys(bench), value(bench));
    futures_util::stream::iter(keys.iter())
        .map(|key| sessions[0].put(key.as_str(), value.clone()).into_future())
        .buffer_unordered(PREPARE_DEPTH)
        .fold(Ok(()), async |all: Result<(), Error>, one| all.and(one.map(drop)))
        .await?;
    let loops = starts(bench, sessions.len()).map(|(session, start)| {
        let (session, keys) = (&sessions[session], &keys);
        let mut next = start;
        repeat(bench, move || {
            let key = &keys[next % keys.len()];
            next += 1;
            let mut get = session.get(key.as_str());
            if stale {
                get = get.stale_ok();
            }
            let get = get.into_future();
            async { get.await.map(drop) }
        })
    });
    all(bench, loops).await;
    close(&sessions).await;
    Ok(Vec::new())
}

pub async fn lock(bench: &Bench, shared: bool) -> Notes {
    let sessions = bench.sessions(TTL).await?;
    let loops = starts(bench, sessions.len()).enumerate().map(|(at, (session, _))| {
        let session = &sessions[session];
        let path = if shared { format!("{}/shared", bench.home) } else { format!("{}/own-{at}", bench.home) };
        repeat(bench, move || {
            let acquire = session.lock(path.as_str()).acquire();
            async { acquire.await?.release().await }
        })
    });
    all(bench, loops).await;
    close(&sessions).await;
    Ok(Vec::new())
}

pub async fn watch(bench: &Bench) -> Notes {
    if bench.load.value_size.0 < STAMP_BYTES {
        return Err(Failure::usage(format!("--value-size is at least {STAMP_BYTES} here: values carry a time stamp")));
    }
    let sessions = bench.sessions(TTL).await?;
    let writer = bench.clients[0].session(conclave_client::SessionOptions::new().ttl(TTL)).await?;
    let key = format!("{}/watched", bench.home);
    writer.put(key.as_str(), Bytes::new()).await?;
    let mut watches = Vec::new();
    for session in &sessions {
        watches.push(session.watch(key.as_str()).open().await?);
    }
    let began = Instant::now();
    let filler = value(bench);
    let writes = std::cell::Cell::new(0_u64);
    let write = async || {
        while bench.meter.is_running() {
            let mut value = BytesMut::with_capacity(filler.len());
            value.put_u64(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
            value.put_slice(&filler[STAMP_BYTES..]);
            match writer.put(key.as_str(), value.freeze()).await {
                Ok(_) => writes.set(writes.get() + 1),
                Err(error) => {
                    bench.meter.failed(&error);
                    tokio::time::sleep(REST).await;
                }
            }
        }
    };
    let receive = async |mut watch: conclave_client::Watch| {
        while let Some(events) = watch.next().await {
            let events = match events {
                Ok(events) => events,
                Err(error) => return bench.meter.failed(&error),
            };
            for event in &events.events {
                if let Some(stamp) = event.node.data.first_chunk::<STAMP_BYTES>() {
                    let sent = Duration::from_nanos(u64::from_be_bytes(*stamp));
                    bench.meter.done(began.elapsed().saturating_sub(sent));
                }
            }
        }
    };
    let receivers: FuturesUnordered<_> = watches.into_iter().map(receive).collect();
    let writers: FuturesUnordered<_> = (0..bench.load.depth).map(|_| write()).collect();
    let written = async {
        tokio::join!(bench.clock(), writers.collect::<()>());
    };
    // The watches never end by themselves.
    tokio::select! {
        () = written => {}
        () = receivers.collect::<()>() => {}
    }
    close(&sessions).await;
    close(std::slice::from_ref(&writer)).await;
    let seconds = began.elapsed().as_secs_f64();
    Ok(vec![format!(
        "{} watchers of one key; the writer made {:.0} writes/s; latency is from the write's sending to the delivery",
        bench.load.clients,
        writes.get() as f64 / seconds
    )])
}

/// Opening is what is measured; then they live for the duration, and none may be lost.
pub async fn sessions(bench: &Bench, ttl: Duration) -> Notes {
    bench.meter.begin();
    let mut opened: Vec<Session> = Vec::new();
    let open = |at: usize| async move {
        let start = Instant::now();
        let options = conclave_client::SessionOptions::new().ttl(ttl).name(format!("bench/{at}"));
        let session = bench.clients[at % bench.clients.len()].session(options).await;
        (start.elapsed(), session)
    };
    let mut opening =
        futures_util::stream::iter((0..bench.load.clients as usize).map(open)).buffer_unordered(super::OPENINGS);
    while let Some((took, session)) = opening.next().await {
        match session {
            Ok(session) => {
                bench.meter.done(took);
                opened.push(session);
            }
            // What the servers do not allow for one they do not allow for the next.
            Err(error) if error.kind() == ErrorKind::InvalidArgument => return Err(error.into()),
            Err(error) => bench.meter.failed(&error),
        }
    }
    bench.meter.end();
    let jeopardies = std::cell::Cell::new(0_u64);
    let live = async |session: &Session| {
        let mut state = session.state();
        loop {
            match &*state.borrow_and_update() {
                SessionState::Lost { .. } => return,
                SessionState::Jeopardy { .. } => jeopardies.set(jeopardies.get() + 1),
                SessionState::Connected => {}
            }
            if state.changed().await.is_err() {
                return;
            }
        }
    };
    {
        let lives: FuturesUnordered<_> = opened.iter().map(live).collect();
        let all_lost = lives.collect::<()>();
        tokio::select! {
            () = tokio::time::sleep(bench.load.warmup.0 + bench.load.duration.0) => {}
            _ = tokio::signal::ctrl_c() => {}
            () = all_lost => {}
        }
    }
    let lost = opened.iter().filter(|session| !session.is_alive()).count();
    let note = format!(
        "{} sessions with a TTL of {} lived for {}: {lost} lost, {} times in jeopardy",
        opened.len(),
        crate::units::span(ttl),
        crate::units::span(bench.load.warmup.0 + bench.load.duration.0),
        jeopardies.get()
    );
    close(&opened).await;
    if lost > 0 {
        return Err(Failure::new(exit::NO, note));
    }
    Ok(vec![note])
}
