//! A lock that readers share and writers take alone.

use conclave_client::{Guard, Session};

use super::{
    Work,
    hold::{acquire, hold, release},
    seat::Seat,
};

pub struct RwLock;

impl Work for RwLock {
    fn new(_: &Seat) -> Self {
        Self
    }

    async fn turn(&mut self, seat: &mut Seat, session: &Session) {
        let key = seat.key();
        let lock = session.lock(seat.lock(&key)).wait(seat.spec.wait);
        let (f, lock, room) = match seat.random.u32(..3) {
            0 => ("acquire", lock, 1),
            _ => ("acquire_shared", lock.shared(), 0),
        };
        if let Some(guard) = acquire(seat, session, f, &key, lock, |guard: &Guard| guard).await {
            hold(seat, &key, &guard, room).await;
            release(seat, "release", &key, guard.token(), guard.release()).await;
        }
    }
}
