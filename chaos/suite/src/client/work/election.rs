//! Candidates that campaign, lead for a while and resign; a second thread asks who leads.

use conclave_client::{Leader, Leadership, Session};
use serde_json::{Value, json};

use super::{
    Work,
    hold::{acquire, hold, release},
    seat::Seat,
};
use crate::client::Outcome;

pub struct Candidate;

impl Work for Candidate {
    const TASKS: u32 = 2;

    fn new(_: &Seat) -> Self {
        Self
    }

    async fn turn(&mut self, seat: &mut Seat, session: &Session) {
        let key = seat.key();
        let election = session.election(seat.lock(&key));
        if seat.task == 1 {
            let said = |leader: &Option<Leader>| {
                (Outcome::Ok, leader.as_ref().map_or(Value::Null, |leader| json!(leader.token.as_i64())))
            };
            seat.ask("observe", &key, Value::Null, election.leader(), said).await;
            return;
        }
        let campaign = election.campaign(seat.spec.name.clone());
        if let Some(leadership) = acquire(seat, session, "campaign", &key, campaign, |l: &Leadership| l).await {
            hold(seat, &key, &leadership, 1).await;
            let token = leadership.token();
            release(seat, "resign", &key, token, leadership.resign()).await;
        }
    }
}
