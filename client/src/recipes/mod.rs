//! Locks, permits and leaderships: an ephemeral sequential node and the server's queue watch.

mod election;
mod guard;
mod line;
mod lock;
mod semaphore;

pub use election::{Election, Leader, Leaders, Leadership};
pub(crate) use guard::HoldRef;
pub use guard::{Guard, Lost};
pub use lock::LockRequest;
pub use semaphore::SemaphoreRequest;
