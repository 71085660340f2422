//! Leader election.

use std::{collections::BTreeMap, ops::Deref, sync::Arc};

use bytes::Bytes;
use conclave_proto::{FencingToken, Revision, SessionId, v1};

use super::line::Line;
use crate::{
    ErrorKind, EventKind, Guard, ListRequest, Node, Result, Watch, WatchRequest,
    requests::Via,
    session::{Handle, gone},
};

/// Names of candidates begin so.
const CANDIDATE: &str = "candidate-";

/// An election: candidates in line, the first of them leads.
///
/// ```no_run
/// # async fn example(session: conclave_client::Session) -> Result<(), Box<dyn std::error::Error>> {
/// let leadership = session.election("/elections/billing").campaign("10.0.0.7:9000").await?;
/// leadership
///     .run(async {
///         // Work as the leader, and show `leadership.token()` to whatever must not hear from an earlier one.
///     })
///     .await?;
/// leadership.resign().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Election {
    session: Arc<Handle>,
    path: String,
}

/// Who leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Leader {
    /// What the leader says of itself.
    pub value: Bytes,
    /// Its session.
    pub session: SessionId,
    /// Its token: larger than that of every leader before.
    pub token: FencingToken,
    /// Its node.
    pub node_path: String,
}

impl Election {
    pub(crate) fn new(session: Arc<Handle>, path: String) -> Self {
        Self { session, path }
    }

    /// Gets in line and waits to lead. `value` is what the leader says of itself, such as its address. Safe to drop, as
    /// [`crate::LockRequest::acquire`].
    ///
    /// # Errors
    /// Those of [`crate::LockRequest::acquire`].
    pub async fn campaign(&self, value: impl Into<Bytes>) -> Result<Leadership> {
        let line = Line {
            session: self.session.clone(),
            path: self.path.clone(),
            prefix: CANDIDATE,
            blocking: CANDIDATE,
            permits: 1,
            data: value.into(),
            wait: None,
            no_wait: false,
        };
        let txn = v1::Txn { then: vec![line.create()], ..Default::default() };
        let guard = line.acquire(txn, 0).await?.map_err(|_| gone())?;
        Ok(Leadership { guard })
    }

    /// Who leads now (linearizable), if anyone.
    ///
    /// # Errors
    /// Definite always.
    pub async fn leader(&self) -> Result<Option<Leader>> {
        let (candidates, _) = self.candidates().await?;
        Ok(candidates.into_values().next())
    }

    /// Follows who leads: the present state at once, then every change.
    ///
    /// # Errors
    /// Those of [`crate::WatchRequest::open`].
    pub async fn observe(&self) -> Result<Leaders> {
        let (candidates, as_of, watch) = self.follow().await?;
        Ok(Leaders { election: self.clone(), candidates, as_of, watch: Some(watch), told: None })
    }

    fn via(&self) -> Via {
        Via::Session(self.session.clone())
    }

    /// All candidates by their number, and as of which revision.
    async fn candidates(&self) -> Result<(BTreeMap<u64, Leader>, Revision)> {
        let mut candidates = BTreeMap::new();
        let mut after = String::new();
        let mut revision = Revision(0);
        loop {
            let mut list = ListRequest::new(self.via(), self.path.clone()).with_data();
            if !after.is_empty() {
                // Further pages as of the first one, so that together they are one moment.
                list = list.after(after).at(revision);
            }
            let page = match list.await {
                Ok(page) => page,
                Err(error) if error.kind() == ErrorKind::NoNode => return Ok((candidates, revision)),
                Err(error) => return Err(error),
            };
            if revision == Revision(0) {
                revision = page.revision;
            }
            after = page.nodes.last().map(|node| node.path.clone()).unwrap_or_default();
            candidates.extend(page.nodes.into_iter().filter_map(|node| self.candidate(node)));
            if !page.more || after.is_empty() {
                return Ok((candidates, revision));
            }
        }
    }

    fn candidate(&self, node: Node) -> Option<(u64, Leader)> {
        let (sequence, session) = (node.sequence?, node.owner?);
        if !node.name().starts_with(CANDIDATE) || node.create_revision.0 == 0 {
            return None;
        }
        let token = FencingToken::new(self.session.shared.with(|core, _| core.fence_epoch()), node.create_revision);
        Some((sequence, Leader { value: node.data, session, token, node_path: node.path }))
    }

    /// The candidates as of a revision, and a watch that tells of every change since (and perhaps of some before).
    async fn follow(&self) -> Result<(BTreeMap<u64, Leader>, Revision, Watch)> {
        // The watch first, so that no change falls between the two.
        let watch = WatchRequest::new(self.via(), self.path.clone()).children().open().await?;
        let (candidates, as_of) = self.candidates().await?;
        Ok((candidates, as_of, watch))
    }
}

/// Changes of leadership. Several in quick succession may be told as one; the last one always is.
pub struct Leaders {
    election: Election,
    candidates: BTreeMap<u64, Leader>,
    as_of: Revision,
    watch: Option<Watch>,
    /// What was said last, if anything was.
    told: Option<Option<Leader>>,
}

impl Leaders {
    /// The leader, or `None` while nobody leads; the outer `None` after the end.
    ///
    /// # Errors
    /// [`crate::ErrorKind::SessionLost`], once.
    pub async fn next(&mut self) -> Option<Result<Option<Leader>>> {
        loop {
            self.watch.as_ref()?;
            let leader = self.candidates.values().next();
            if self.told.as_ref().is_none_or(|told| told.as_ref() != leader) {
                let leader = leader.cloned();
                self.told = Some(leader.clone());
                return Some(Ok(leader));
            }
            match self.watch.as_mut()?.next().await {
                Some(Ok(events)) if events.revision <= self.as_of => {}
                Some(Ok(events)) => {
                    for event in events.events {
                        self.learn(event.kind, event.node);
                    }
                }
                Some(Err(error)) if error.resume_revision().is_some() => match self.election.follow().await {
                    Ok((candidates, as_of, watch)) => {
                        self.candidates = candidates;
                        self.as_of = as_of;
                        self.watch = Some(watch);
                    }
                    Err(error) => {
                        self.watch = None;
                        return Some(Err(error));
                    }
                },
                Some(Err(error)) => {
                    self.watch = None;
                    return Some(Err(error));
                }
                None => self.watch = None,
            }
        }
    }

    fn learn(&mut self, kind: EventKind, node: Node) {
        let Some((sequence, leader)) = self.election.candidate(node) else { return };
        if kind == EventKind::Deleted {
            self.candidates.remove(&sequence);
        } else {
            self.candidates.insert(sequence, leader);
        }
    }
}

/// Leadership that is held; a [`Guard`] with a value. Dropping it resigns.
#[must_use = "a leadership that is dropped is resigned at once"]
pub struct Leadership {
    guard: Guard,
}

impl Leadership {
    /// Changes what the leader says of itself; refused by the server unless this leadership still holds.
    ///
    /// # Errors
    /// [`crate::ErrorKind::LockLost`], [`crate::ErrorKind::SessionLost`].
    pub async fn update(&self, value: impl Into<Bytes>) -> Result<()> {
        self.guard.txn().put(self.guard.node_path(), value).commit().await.map(drop)
    }

    /// Steps down.
    ///
    /// # Errors
    /// Those of [`Guard::release`].
    pub async fn resign(self) -> Result<()> {
        self.guard.release().await
    }
}

impl Deref for Leadership {
    type Target = Guard;

    fn deref(&self) -> &Guard {
        &self.guard
    }
}
