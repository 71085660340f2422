//! Replicas that compare notes: at agreed indexes each tells the others the hash of its state.

use std::collections::BTreeMap;

use conclave_proto::{
    ServerId,
    peer::{StateHash, peer_item::Item},
};
use conclave_state::Machine;

use super::{ConfirmError, Core, Outbound, ProposeError};
use crate::storage::Store;

/// A hash is told after every entry whose index is a multiple of this.
const EVERY: u64 = 1024;
/// Indexes whose hashes are remembered.
const REMEMBERED: usize = 16;

#[derive(Default)]
pub(super) struct Hashes {
    told: BTreeMap<u64, BTreeMap<u64, u128>>,
}

impl Hashes {
    fn note(&mut self, index: u64, server: u64, hash: u128) {
        self.told.entry(index).or_default().insert(server, hash);
        while self.told.len() > REMEMBERED {
            self.told.pop_first();
        }
    }
}

impl<S: Store> Core<S> {
    pub(super) fn tell_hash(&mut self, machine: &Machine, out: &mut impl Outbound) {
        let index = self.applied.index;
        if !index.is_multiple_of(EVERY) {
            return;
        }
        let hash = machine.hash().0;
        self.hashes.note(index, self.id, hash);
        for member in self.membership.members.iter().filter(|member| member.id.0 != self.id) {
            let item = StateHash { from: self.id, index, hash: hash.to_be_bytes().to_vec().into() };
            out.send(member.id, Item::StateHash(item));
        }
        self.judge(index);
    }

    pub(super) fn compare_hash(&mut self, told: &StateHash) {
        let Ok(hash) = <[u8; 16]>::try_from(&told.hash[..]) else { return };
        let known = self.membership.members.iter().any(|member| member.id == ServerId(told.from));
        if !known || !told.index.is_multiple_of(EVERY) {
            return;
        }
        self.hashes.note(told.index, told.from, u128::from_be_bytes(hash));
        self.judge(told.index);
    }

    /// A majority that agrees on another hash is right, and this replica wrong.
    fn judge(&mut self, index: u64) {
        let Some(told) = self.hashes.told.get(&index) else { return };
        let Some(&ours) = told.get(&self.id) else { return };
        let different: Vec<u64> = told.iter().filter(|&(_, &hash)| hash != ours).map(|(&server, _)| server).collect();
        if different.is_empty() || self.diverged {
            return;
        }
        tracing::error!(index, ours = format_args!("{ours:032x}"), ?different, "replicas differ in their state");
        let majority = self.membership.conf.voters.len() / 2 + 1;
        let against = |server: &u64| {
            let hash = told[server];
            different.iter().filter(|other| told[other] == hash).count()
        };
        if different.iter().any(|server| against(server) >= majority) {
            tracing::error!(index, "a majority agrees on another state: this server stops serving");
            self.diverged = true;
            self.status_due = true;
            self.duties = None;
            self.fail_everything(ProposeError::LeadershipLost, ConfirmError::Diverged);
        }
    }
}
