//! The state's records, as found on a disk or in a snapshot.

use conclave_proto::{Index, Term};
use conclave_state::Machine;

use crate::{Target, joined, parts};

/// Keys and values by turns.
pub const RECORDS: Target = Target {
    name: "state-records",
    about: "the records of a state, keys and values by turns; what is accepted has every invariant and goes on",
    run,
    seeds: || vec![joined(records()), joined(records().into_iter().take(2))],
};

fn run(data: &[u8]) {
    let parts = parts(data);
    let records = parts.chunks_exact(2).map(|pair| (pair[0], pair[1]));
    let Ok(mut machine) = Machine::restore(records) else { return };
    let next = Index(machine.applied().0.saturating_add(1));
    if next > machine.applied() {
        machine.apply(next, Term(1), None);
    }
}

fn records() -> Vec<Vec<u8>> {
    let mut machine = Machine::new();
    for (entry, index) in super::entries::seed_entries().into_iter().take(5).zip(1..) {
        machine.apply(Index(index), Term(1), Some(entry));
    }
    machine
        .take_writes()
        .into_iter()
        .filter_map(|(key, value)| Some([key.to_vec(), value?.to_vec()]))
        .flatten()
        .collect()
}
