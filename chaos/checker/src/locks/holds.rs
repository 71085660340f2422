//! Which release ends which grant: the holds of one lock, put together from its operations.

use std::collections::{HashMap, HashSet};

use super::{
    object::{Deed, Object},
    rules::{Release, Saying, Token},
};
use crate::{Value, history::NEVER};

/// The last slot there is. A slot is the time between two events: slot `n` lies between event `n` and `n + 1`.
pub(super) const END: u32 = NEVER - 1;

/// A moment at which something happened: within these slots, by this operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// The operation.
    pub at: u32,
    /// The first slot.
    pub from: u32,
    /// The last slot.
    pub to: u32,
    /// The operation that sets the last slot: itself, or what had to come after it.
    pub before: u32,
}

/// When a hold ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// Fenced: at any moment. Unfenced: never.
    Open,
    /// Then, and it lasted until then.
    Strict(Span),
    /// Fenced: then at last; perhaps before.
    Soft(Span),
}

/// Something that was granted.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    pub shared: bool,
    pub permits: u32,
    pub token: Option<Token>,
    /// Elections: the candidate.
    pub name: Value,
    pub grant: Span,
    pub end: End,
    /// Observations that must lie within: the one called last and the one that returned first.
    pub seen: Option<(Span, Span)>,
}

/// An attempt that found no room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    pub span: Span,
    pub permits: u32,
}

/// A grant of which nobody knows whether it happened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Maybe {
    pub from: u32,
    pub permits: u32,
    /// Something may end it early.
    pub ends: bool,
}

/// A lock's history, put together.
#[derive(Debug, Default)]
pub(super) struct Holds {
    /// Fenced: by token. Unfenced: by the return of the grant.
    pub holds: Vec<Hold>,
    pub refusals: Vec<Refusal>,
    /// Elections: observations of nobody.
    pub vacancies: Vec<Span>,
    /// By call.
    pub maybes: Vec<Maybe>,
    /// Some holds are of grants whose outcome is unknown, but whose token somebody mentions: a choice was made.
    pub revealed: bool,
}

/// Why there are none.
pub(super) enum NoHolds {
    /// The history is bad: the operations, the culprit and the cause.
    Bad(Vec<u32>, u32, String),
    /// It takes a search to know.
    Ambiguous,
}

impl Span {
    fn of(deed: &Deed) -> Self {
        Self {
            at: deed.at,
            from: deed.called,
            to: if deed.returned == NEVER { END } else { deed.returned - 1 },
            before: deed.at,
        }
    }

    /// The same, but over before the other is.
    fn before(self, other: Self) -> Self {
        if other.to < self.to { Self { to: other.to, before: other.at, ..self } } else { self }
    }
}

/// What one process holds, as far as the walk has come.
#[derive(Default)]
struct Process {
    /// Indexes of holds that have no strict end yet, oldest first.
    open: Vec<u32>,
    /// How often the reentrant holder has to release.
    depth: u32,
    /// It called a grant of unknown outcome: its index among the maybes.
    maybe: Option<u32>,
    /// Return of the last operation.
    last: u32,
    /// An expiry by somebody else, or a grant that only others tell of: what follows here takes a search.
    gone: bool,
}

/// Puts the holds together.
pub(super) fn collect(object: &Object) -> Result<Holds, NoHolds> {
    let rules = object.rules();
    let mut found = Holds::default();
    let mut processes: HashMap<u32, Process> = HashMap::new();
    let mut by_token: HashMap<Token, u32> = HashMap::new();
    if rules.fenced {
        reveal(object, &mut found)?;
        grants_by_token(object, &mut found, &mut by_token)?;
    }
    let revealed: HashSet<u32> =
        if found.revealed { found.holds.iter().map(|hold| hold.grant.at).collect() } else { HashSet::new() };
    for deed in object.deeds() {
        let span = Span::of(deed);
        // An expiry that names another process is no operation of that process.
        let process = processes.entry(deed.process).or_default();
        match &deed.saying {
            Saying::Granted { permits, .. } if !deed.certain => {
                if process.gone || process.maybe.is_some() {
                    return Err(NoHolds::Ambiguous);
                }
                if revealed.contains(&deed.at) {
                    process.gone = true;
                    continue;
                }
                process.maybe = Some(found.maybes.len() as u32);
                found.maybes.push(Maybe { from: deed.called, permits: *permits, ends: false });
            }
            Saying::Granted { shared, permits, token, name } => {
                if process.gone || process.maybe.is_some() {
                    return Err(NoHolds::Ambiguous);
                }
                if let Some(token) = token {
                    process.open.push(by_token[token]);
                } else if rules.reentrant && process.depth > 0 {
                    process.depth += 1;
                } else {
                    // A second hold of the same process: the search knows what that means where it is allowed.
                    if !process.open.is_empty() && (rules.release == Release::Any || rules.permits > 1 || rules.shared)
                    {
                        return Err(NoHolds::Ambiguous);
                    }
                    process.depth = 1;
                    process.open.push(found.holds.len() as u32);
                    found.holds.push(Hold {
                        shared: *shared,
                        permits: *permits,
                        token: None,
                        name: name.clone(),
                        grant: span,
                        end: End::Open,
                        seen: None,
                    });
                }
                process.last = deed.returned;
            }
            Saying::Refused { permits, .. } => {
                if process.gone || (rules.reentrant && process.depth > 0) {
                    return Err(NoHolds::Ambiguous);
                }
                found.refusals.push(Refusal { span, permits: *permits });
                process.last = deed.returned;
            }
            Saying::Ended { token: Some(token), .. } => {
                let Some(&hold) = by_token.get(token) else {
                    let what = format!("token {token} was never granted, yet the hold with it ended");
                    return Err(NoHolds::Bad(vec![deed.at], deed.at, what));
                };
                end_strictly(&mut found.holds[hold as usize], span)?;
                process.open.retain(|open| *open != hold);
            }
            Saying::Ended { token: None, permits } => {
                if process.gone || process.maybe.is_some() {
                    return Err(NoHolds::Ambiguous);
                }
                process.last = deed.returned;
                end_own(object, deed, *permits, process, &mut found.holds)?;
            }
            Saying::Gone { .. } => gone(object, deed, process, &mut found)?,
            Saying::Led { name, token: Some(token) } => {
                let Some(&hold) = by_token.get(token) else {
                    let what = format!("term {token} was seen to have a leader, but nobody ever began it");
                    return Err(NoHolds::Bad(vec![deed.at], deed.at, what));
                };
                let leader = &found.holds[hold as usize];
                if *name != Value::Null && *name != leader.name {
                    let what = format!("{name} was seen to lead in term {token}, which was that of {}", leader.name);
                    return Err(NoHolds::Bad(vec![leader.grant.at, deed.at], deed.at, what));
                }
                let seen = &mut found.holds[hold as usize].seen;
                *seen = Some(seen.map_or((span, span), |(last, first)| {
                    (if span.from > last.from { span } else { last }, if span.to < first.to { span } else { first })
                }));
            }
            Saying::Vacant => found.vacancies.push(span),
            Saying::Led { token: None, .. } => return Err(NoHolds::Ambiguous),
        }
    }
    if !rules.fenced {
        found.holds.sort_by_key(|hold| hold.grant.to);
    }
    Ok(found)
}

/// Gives the tokens that no known grant returned to grants of unknown outcome: earlier calls to lower tokens, unless an
/// observation names the candidate. If any choice can be scheduled, this one can: where a lower token has the later call,
/// the higher one comes after that call too, so the two can be exchanged; and an earlier call is never an obstacle.
fn reveal(object: &Object, found: &mut Holds) -> Result<(), NoHolds> {
    let mut maybes: Vec<&Deed> =
        object.deeds().iter().filter(|deed| !deed.certain && matches!(deed.saying, Saying::Granted { .. })).collect();
    if maybes.is_empty() || object.orphans().is_empty() {
        return Ok(());
    }
    // Readers and writers are not to be exchanged; and who is left over is for the search to say.
    if object.rules().shared || maybes.len() < object.orphans().len() {
        return Err(NoHolds::Ambiguous);
    }
    let mut names: HashMap<Token, &Value> = HashMap::new();
    for deed in object.deeds() {
        if let Saying::Led { name, token: Some(token) } = &deed.saying
            && !name.is_null()
        {
            names.insert(*token, name);
        }
    }
    let mut chosen: Vec<(Token, &Deed)> = Vec::new();
    for token in object.orphans() {
        let Some(name) = names.get(token) else { continue };
        let named =
            |deed: &&Deed| matches!(&deed.saying, Saying::Granted { name: candidate, .. } if candidate == *name);
        let mut candidates = maybes.iter().enumerate().filter(|(_, deed)| named(deed)).map(|(at, _)| at);
        match (candidates.next(), candidates.next()) {
            (Some(at), None) => chosen.push((*token, maybes.remove(at))),
            _ => return Err(NoHolds::Ambiguous),
        }
    }
    let others = object.orphans().iter().filter(|token| !names.contains_key(token));
    chosen.extend(others.copied().zip(maybes));
    for (token, deed) in chosen {
        let Saying::Granted { shared, permits, name, .. } = &deed.saying else { continue };
        found.holds.push(Hold {
            shared: *shared,
            permits: *permits,
            token: Some(token),
            name: name.clone(),
            grant: Span::of(deed),
            end: End::Open,
            seen: None,
        });
    }
    found.revealed = true;
    Ok(())
}

fn grants_by_token(object: &Object, found: &mut Holds, by_token: &mut HashMap<Token, u32>) -> Result<(), NoHolds> {
    for deed in object.deeds() {
        let Saying::Granted { shared, permits, token, name } = &deed.saying else { continue };
        if !deed.certain {
            continue;
        }
        // A grant whose token is not known fits between any two others.
        if token.is_none() {
            return Err(NoHolds::Ambiguous);
        }
        found.holds.push(Hold {
            shared: *shared,
            permits: *permits,
            token: *token,
            name: name.clone(),
            grant: Span::of(deed),
            end: End::Open,
            seen: None,
        });
    }
    found.holds.sort_by_key(|hold| (hold.token, hold.grant.from));
    for pair in found.holds.windows(2) {
        if let (Some(first), Some(second)) = (pair[0].token, pair[1].token)
            && first == second
        {
            let what = format!("token {first} was granted twice");
            return Err(NoHolds::Bad(vec![pair[0].grant.at, pair[1].grant.at], pair[1].grant.at, what));
        }
    }
    by_token.reserve(found.holds.len());
    by_token.extend(found.holds.iter().zip(0..).filter_map(|(hold, at)| Some((hold.token?, at))));
    Ok(())
}

fn end_strictly(hold: &mut Hold, mut span: Span) -> Result<(), NoHolds> {
    match hold.end {
        End::Open => {}
        End::Strict(first) => {
            let what = match hold.token {
                Some(token) => format!("the hold with token {token} ended twice"),
                None => "the hold ended twice".to_owned(),
            };
            return Err(NoHolds::Bad(vec![hold.grant.at, first.at, span.at], span.at, what));
        }
        // It lasted until the release, so the expiry found nothing any more: the release came first.
        End::Soft(expiry) => span = span.before(expiry),
    }
    hold.end = End::Strict(span);
    Ok(())
}

fn end_own(
    object: &Object,
    deed: &Deed,
    permits: u32,
    process: &mut Process,
    holds: &mut [Hold],
) -> Result<(), NoHolds> {
    let rules = object.rules();
    let span = Span::of(deed);
    if process.open.is_empty() {
        if rules.release == Release::Any || !deed.certain {
            return Err(NoHolds::Ambiguous);
        }
        let what = "its process held nothing that it could end".to_owned();
        return Err(NoHolds::Bad(vec![deed.at], deed.at, what));
    }
    if process.open.len() > 1 && (rules.permits > 1 || rules.shared || !rules.fenced) {
        return Err(NoHolds::Ambiguous);
    }
    let hold = *process.open.last().expect("not empty") as usize;
    if rules.fenced {
        process.open.pop();
        return match holds[hold].end {
            // It had been taken away before: a search says what that leaves.
            End::Soft(_) => Err(NoHolds::Ambiguous),
            _ => end_strictly(&mut holds[hold], span),
        };
    }
    if permits != holds[hold].permits || !matches!(holds[hold].end, End::Open) {
        return Err(NoHolds::Ambiguous);
    }
    if rules.reentrant && process.depth > 1 {
        if !deed.certain {
            return Err(NoHolds::Ambiguous);
        }
        process.depth -= 1;
        return Ok(());
    }
    holds[hold].end = End::Strict(span);
    process.depth = 0;
    if deed.certain {
        process.open.pop();
    } else {
        // May yet end, and may yet be ended by an expiry; but the process does nothing more.
        process.gone = true;
    }
    Ok(())
}

fn gone(object: &Object, deed: &Deed, process: &mut Process, found: &mut Holds) -> Result<(), NoHolds> {
    let span = Span::of(deed);
    if let Some(maybe) = process.maybe {
        found.maybes[maybe as usize].ends = true;
    }
    if object.rules().fenced {
        if process.gone {
            return Err(NoHolds::Ambiguous);
        }
        for hold in process.open.drain(..) {
            let hold = &mut found.holds[hold as usize];
            match &mut hold.end {
                End::Open => hold.end = End::Soft(span),
                End::Strict(end) => *end = end.before(span),
                End::Soft(_) => {}
            }
        }
        return Ok(());
    }
    // Unfenced: clear only if it comes after all that the process did.
    if process.last != 0 && deed.called < process.last {
        return Err(NoHolds::Ambiguous);
    }
    process.gone = true;
    for hold in &process.open {
        let hold = &mut found.holds[*hold as usize];
        hold.end = match hold.end {
            End::Strict(first) | End::Soft(first) => {
                End::Strict(Span { from: first.from.min(span.from), ..first.before(span) })
            }
            End::Open => End::Strict(span),
        };
    }
    process.depth = 0;
    Ok(())
}
