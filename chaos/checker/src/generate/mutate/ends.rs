//! What goes on after its end, or ends without having begun.

use fastrand::Rng;

use super::tools::{GRANTS, chosen, fresh, insert};
use crate::{Function, History, Model, Value};

pub(super) fn foreign_release(history: &mut History, model: &Model, rng: &mut Rng) -> Option<u32> {
    let grant = *chosen(history, rng, GRANTS).first()?;
    let operation = &history.operations[grant as usize];
    let (key, before) = (operation.key, operation.returned + 1);
    let function = if *model == Model::Election { Function::Resign } else { Function::Release };
    let release = fresh(history, key, function, Value::Null, Value::Null, 0);
    Some(insert(history, before, vec![release]))
}

pub(super) fn grant_after_expiry(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    let grant = *chosen(history, rng, GRANTS).first()?;
    let operation = &history.operations[grant as usize];
    let (key, before, token) = (operation.key, operation.called, operation.result.clone());
    let expiry = fresh(history, key, Function::Expire, token, Value::Null, 0);
    Some(insert(history, before, vec![expiry]))
}

pub(super) fn renew_after_end(history: &mut History, _: &Model, rng: &mut Rng) -> Option<u32> {
    let end = *chosen(history, rng, &[Function::Close, Function::Expire]).first()?;
    let operation = &history.operations[end as usize];
    let (key, before) = (operation.key, operation.returned + 1);
    let renewal = fresh(history, key, Function::Renew, Value::Null, Value::Null, 0);
    Some(insert(history, before, vec![renewal]))
}
