//! Which models a kind of mutation suits.

use crate::Model;

pub(super) fn is_store(model: &Model) -> bool {
    matches!(model, Model::Register { .. } | Model::CasRegister { .. } | Model::Kv | Model::KvRevision)
}

/// Without appends and comparisons, which make one value depend on another.
pub(super) fn is_plain_store(model: &Model) -> bool {
    matches!(model, Model::Register { .. } | Model::KvRevision)
}

pub(super) fn has_reads(model: &Model) -> bool {
    is_store(model) || matches!(model, Model::FifoQueue | Model::ListAppend)
}

pub(super) fn is_counter(model: &Model) -> bool {
    *model == Model::Counter
}

pub(super) fn is_queue(model: &Model) -> bool {
    *model == Model::FifoQueue
}

pub(super) fn is_lists(model: &Model) -> bool {
    *model == Model::ListAppend
}

pub(super) fn is_election(model: &Model) -> bool {
    *model == Model::Election
}

pub(super) fn is_fenced(model: &Model) -> bool {
    matches!(model, Model::FencedMutex | Model::FencedSemaphore(_) | Model::Election)
}

pub(super) fn is_owned(model: &Model) -> bool {
    (is_lock(model) && *model != Model::Mutex) || is_election(model)
}

pub(super) fn is_lock(model: &Model) -> bool {
    matches!(
        model,
        Model::Mutex
            | Model::OwnerMutex
            | Model::ReentrantMutex
            | Model::FencedMutex
            | Model::Semaphore(_)
            | Model::FencedSemaphore(_)
            | Model::RwLock
    )
}

pub(super) fn is_session(model: &Model) -> bool {
    *model == Model::Session
}

pub(super) fn is_directory(model: &Model) -> bool {
    *model == Model::SequentialDirectory
}
