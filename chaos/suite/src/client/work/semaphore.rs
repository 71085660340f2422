//! Permits, fewer than clients.

use conclave_client::{Guard, Session};

use super::{
    Work,
    hold::{acquire, hold, release},
    seat::Seat,
};
use crate::workload::PERMITS;

pub struct Semaphore;

impl Work for Semaphore {
    fn new(_: &Seat) -> Self {
        Self
    }

    async fn turn(&mut self, seat: &mut Seat, session: &Session) {
        let key = seat.key();
        let permit = session.semaphore(seat.lock(&key), PERMITS).wait(seat.spec.wait);
        if let Some(guard) = acquire(seat, session, "acquire", &key, permit, |guard: &Guard| guard).await {
            hold(seat, &key, &guard, PERMITS).await;
            release(seat, "release", &key, guard.token(), guard.release()).await;
        }
    }
}
