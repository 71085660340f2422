//! Writers that note what they were told, to be held against what the cluster has.
//!
//! The ledger has chapters, so that a loss can be laid at the door of what happened meanwhile: each chapter is judged
//! for itself, while the writers go on with the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use conclave_client::{Client, Effect, Node, Put, Revision, Session, SessionOptions};
use tokio::task::JoinSet;

use crate::{Cluster, eventually};

/// Outlives every outage of a test, so that a session sends again instead of giving up.
const TTL: Duration = Duration::from_secs(60);
/// Between two writes of a writer: the machine is not the point here.
const PAUSE: Duration = Duration::from_millis(2);
const PAGE: u32 = 1_000;

/// A write: of which writer, and its number with that writer.
type Write = (u64, u64);

/// What was told of the writes of one chapter.
#[derive(Clone, Default)]
struct Told {
    acknowledged: BTreeMap<Write, Revision>,
    /// Certainly not applied.
    refused: BTreeSet<Write>,
}

#[derive(Default)]
struct Book {
    chapter: AtomicU64,
    acknowledged: AtomicU64,
    chapters: Mutex<BTreeMap<u64, Told>>,
}

impl Book {
    fn note(&self, chapter: u64, write: Write, written: conclave_client::Result<Put>) {
        let mut chapters = self.chapters.lock().expect("not poisoned");
        let told = chapters.entry(chapter).or_default();
        match written {
            Ok(done) => {
                told.acknowledged.insert(write, done.revision);
                self.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.effect() == Effect::None => {
                told.refused.insert(write);
            }
            Err(_) => {}
        }
    }
}

/// See the module. The writers end when it is dropped.
pub struct Ledger {
    client: Client,
    book: Arc<Book>,
    _writers: JoinSet<()>,
}

impl Ledger {
    /// Starts writers that write through all servers.
    ///
    /// # Panics
    /// If no client can be made, which needs no server.
    pub async fn open(cluster: &Cluster, writers: u64) -> Self {
        let client = Client::connect(cluster.endpoints()).await.expect("a client");
        let book = Arc::<Book>::default();
        let mut tasks = JoinSet::new();
        for writer in 0..writers {
            tasks.spawn(write(client.clone(), writer, Arc::clone(&book)));
        }
        Self { client, book, _writers: tasks }
    }

    /// Waits until that many more writes were acknowledged.
    ///
    /// # Panics
    /// If they are not within [`crate::PATIENCE`].
    pub async fn goes_on(&self, writes: u64) {
        let target = self.book.acknowledged.load(Ordering::Relaxed) + writes;
        eventually("writes are acknowledged", || async {
            let now = self.book.acknowledged.load(Ordering::Relaxed);
            if now >= target { Ok(()) } else { Err(format!("{now} of {target}")) }
        })
        .await;
    }

    /// Ends the present chapter and holds it against what the cluster has; how many acknowledged writes it had. What
    /// was written is removed then, so that a long test stays quick.
    ///
    /// # Panics
    /// If something acknowledged is lost or differs, or something refused was done.
    pub async fn judge(&self) -> usize {
        let chapter = self.book.chapter.fetch_add(1, Ordering::Relaxed);
        let told = self.book.chapters.lock().expect("not poisoned").get(&chapter).cloned().unwrap_or_default();
        let found = self.found(chapter).await;
        for ((writer, number), revision) in &told.acknowledged {
            let node = found.get(&(*writer, *number)).unwrap_or_else(|| {
                panic!("LOST: writer {writer} was told that write {number} of chapter {chapter} is done")
            });
            assert_eq!(node.create_revision, *revision, "write {number} of writer {writer} in chapter {chapter}");
            assert_eq!(node.version, 0, "write {number} of writer {writer} in chapter {chapter} was done twice");
        }
        for (writer, number) in &told.refused {
            let done = found.contains_key(&(*writer, *number));
            assert!(!done, "writer {writer} was told that write {number} of chapter {chapter} is not done");
        }
        // A writer may be a write behind with its chapter: those of the chapter before are all told of by now.
        if let Some(old) = chapter.checked_sub(2) {
            self.book.chapters.lock().expect("not poisoned").remove(&old);
        }
        told.acknowledged.len()
    }

    async fn found(&self, chapter: u64) -> BTreeMap<Write, Node> {
        let path = format!("/ledger/{chapter}");
        let mut found = BTreeMap::new();
        let mut after = None;
        loop {
            let listing = eventually("a listing", || async {
                if self.client.get(&path).await.map_err(|error| error.to_string())?.is_none() {
                    return Ok(None); // nothing was written in this chapter
                }
                let mut request = self.client.list(&path).limit(PAGE);
                if let Some(after) = after.clone() {
                    request = request.after(after);
                }
                request.await.map(Some).map_err(|error| error.to_string())
            })
            .await;
            let Some(listing) = listing else { return found };
            after = listing.nodes.last().map(|node| node.path.clone());
            for node in listing.nodes {
                let (writer, number) = node.name().split_once('-').expect("a writer and its number");
                let write = (writer.parse().expect("a writer"), number.parse().expect("a number"));
                found.insert(write, node);
            }
            if !listing.more {
                return found;
            }
        }
    }
}

async fn open(client: &Client, writer: u64) -> Session {
    eventually("a session", || client.session(SessionOptions::new().ttl(TTL).name(format!("writer-{writer}")))).await
}

async fn write(client: Client, writer: u64, book: Arc<Book>) {
    let mut session = open(&client, writer).await;
    for number in 0.. {
        let chapter = book.chapter.load(Ordering::Relaxed);
        let path = format!("/ledger/{chapter}/{writer}-{number}");
        let written = session.put(path, vec![b'x'; 200]).create_parents().await;
        book.note(chapter, (writer, number), written);
        if !session.is_alive() {
            session = open(&client, writer).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
