//! What is broken, when and for how long: a list grown from the seed before anything runs.

use std::{collections::BTreeMap, time::Duration};

use crate::nemesis::{Class, Fault, Form};

/// Faults that are there at once, with their times.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Quiet before it, after the step before is healed.
    pub after: Duration,
    /// What; those that begin at the same moment, in this order.
    pub faults: Vec<Fault>,
}

impl Step {
    /// From the first beginning to the last end.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.faults.iter().map(|fault| fault.from + fault.length).max().unwrap_or_default()
    }
}

/// How faults follow each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pace {
    /// Each group in turn, in an order of the seed's; those of a group begin and end together.
    InTurn,
    /// One group after the other by the throw of the dice; those of a group begin and end when they like, within each
    /// other, and last from a fraction of a lease to several.
    Random,
}

/// The steps that may fit into a run, one group of classes at a time, and within a class each form in turn. Same seed, same
/// steps.
///
/// Of a class that has forms with one of these words, only those are there.
///
/// In turn, a fault lasts longer than the lease, or a lock service had nothing to decide.
#[must_use]
pub fn plan(
    seed: u64,
    groups: &[Vec<Class>],
    words: &[String],
    pace: Pace,
    servers: usize,
    lease: Duration,
    length: Duration,
) -> Vec<Step> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut groups = groups.to_vec();
    groups.sort_unstable();
    groups.dedup();
    // What makes no sense with so few servers would be looked for in vain.
    groups.retain(|group| group.iter().all(|class| !forms(*class, words, servers).is_empty()));
    let (singles, several): (Vec<_>, Vec<_>) = groups.iter().cloned().partition(|group| group.len() < 2);
    let mut bags = BTreeMap::<Class, Vec<&'static Form>>::new();
    let (mut steps, mut used) = (Vec::<Step>::new(), Duration::ZERO);
    while used < length && !groups.is_empty() {
        random.shuffle(&mut groups);
        let round = match pace {
            Pace::InTurn => groups.clone(),
            Pace::Random => {
                // One class is as likely as two, however many twos there are.
                let of = if several.is_empty() || !singles.is_empty() && random.bool() { &singles } else { &several };
                vec![of[random.usize(..of.len())].clone()]
            }
        };
        for group in round {
            let times = times(pace, group.len(), lease, &mut random);
            let mut fault = |(class, (from, length))| {
                let bag = bags.entry(class).or_default();
                if bag.is_empty() {
                    *bag = forms(class, words, servers);
                    random.shuffle(bag);
                }
                let form = bag.pop().expect("it has one with so many servers");
                Fault { class, form, roll: random.u64(..), from, length }
            };
            let faults: Vec<_> = group.into_iter().zip(times).map(&mut fault).collect();
            let step = Step { after: Duration::from_millis(random.u64(500..1_500)), faults };
            used += step.after + step.length();
            steps.push(step);
        }
    }
    steps
}

/// When each fault of a group begins, and how long it lasts.
fn times(pace: Pace, count: usize, lease: Duration, random: &mut fastrand::Rng) -> Vec<(Duration, Duration)> {
    match pace {
        Pace::InTurn => vec![(Duration::ZERO, lease + Duration::from_millis(random.u64(500..2_000))); count],
        Pace::Random => {
            let mut lengths: Vec<_> = (0..count).map(|_| lease.mul_f64(0.2 + 3.8 * random.f64().powi(2))).collect();
            lengths.sort_unstable_by(|one, other| other.cmp(one));
            // All begin while the longest lasts, which is the first.
            let longest = lengths.first().copied().unwrap_or_default();
            let from = |(at, length)| (if at == 0 { Duration::ZERO } else { longest.mul_f64(random.f64()) }, length);
            lengths.into_iter().enumerate().map(from).collect()
        }
    }
}

fn forms(class: Class, words: &[String], servers: usize) -> Vec<&'static Form> {
    let named = |form: &&Form| words.iter().any(|word| form.has_word(word));
    let any_named = class.forms().iter().any(|form| named(&form));
    let forms = class.forms().iter().filter(|form| form.servers_min <= servers);
    forms.filter(|form| !any_named || named(form)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::nemesis::asked::Nemeses;

    fn alone(classes: &[Class]) -> Vec<Vec<Class>> {
        classes.iter().map(|class| vec![*class]).collect()
    }

    const LEASE: Duration = Duration::from_millis(1_500);
    const MINUTE: Duration = Duration::from_secs(60);

    fn in_turn(seed: u64, groups: &[Vec<Class>], servers: usize) -> Vec<Step> {
        plan(seed, groups, &[], Pace::InTurn, servers, LEASE, MINUTE)
    }

    #[test]
    fn words_leave_those_forms_that_have_them() {
        let groups = [vec![Class::Drift, Class::Partition], vec![Class::Kill]];
        let words = ["fast".to_owned(), "client".to_owned()];
        let steps = plan(5, &groups, &words, Pace::InTurn, 3, LEASE, MINUTE);
        let of = |class| -> BTreeSet<_> {
            let faults = steps.iter().flat_map(|step| &step.faults).filter(|fault| fault.class == class);
            faults.map(|fault| fault.form.what).collect()
        };
        assert_eq!(of(Class::Drift), ["let the leader's clocks go a little fast"].into());
        assert_eq!(of(Class::Partition), ["cut the client that holds off from the servers"].into());
        assert_eq!(of(Class::Kill), ["kill the client that holds"].into());
        // A class without such a form has all of its own.
        let others = plan(5, &[vec![Class::Transfer]], &words, Pace::InTurn, 3, LEASE, MINUTE);
        assert!(!others.is_empty());
    }

    #[test]
    fn a_seed_has_one_plan_that_fills_the_run_with_every_class() {
        let all = [Class::Pause, Class::Kill, Class::Partition];
        let steps = in_turn(7, &alone(&all), 3);
        assert_eq!(steps, in_turn(7, &alone(&[Class::Partition, Class::Pause, Class::Kill]), 3));
        assert_ne!(steps, in_turn(8, &alone(&all), 3));
        assert!(steps.iter().map(|step| step.after + step.length()).sum::<Duration>() >= MINUTE);
        assert!(steps.iter().all(|step| step.length() > LEASE));
        for class in all {
            assert!(steps[..3].iter().any(|step| step.faults[0].class == class), "{class:?} in {steps:?}");
        }
        assert!(in_turn(7, &[], 3).is_empty());
    }

    #[test]
    fn a_single_server_has_no_leader_to_lose() {
        let steps = in_turn(1, &alone(Class::ALL), 1);
        assert!(!steps.is_empty());
        for step in steps {
            assert!(step.faults.iter().all(|fault| fault.form.servers_min <= 1), "{step:?}");
        }
    }

    #[test]
    fn a_group_is_broken_at_once_or_not_at_all() {
        let pair = vec![vec![Class::Pause, Class::Partition]];
        for step in in_turn(3, &pair, 3) {
            let classes: Vec<_> = step.faults.iter().map(|fault| fault.class).collect();
            assert_eq!(classes, pair[0]);
            assert!(step.faults.iter().all(|fault| fault.from.is_zero() && fault.length == step.length()));
        }
        // Nobody hands over to nobody.
        assert!(in_turn(3, &[vec![Class::Pause, Class::Transfer]], 1).is_empty());
    }

    #[test]
    fn at_random_there_are_one_or_two_that_overlap_and_last_from_short_to_long() {
        let groups = Nemeses::Random.groups(&BTreeSet::new());
        let hour = Duration::from_secs(3_600);
        let steps = plan(11, &groups, &[], Pace::Random, 5, LEASE, hour);
        assert_eq!(steps, plan(11, &groups, &[], Pace::Random, 5, LEASE, hour));
        let (one, two): (Vec<_>, Vec<_>) = steps.iter().partition(|step| step.faults.len() == 1);
        assert!(one.len() > steps.len() / 3 && two.len() > steps.len() / 3, "{} and {}", one.len(), two.len());
        for step in &two {
            let [first, second] = &step.faults[..] else { panic!("{step:?}") };
            assert!(first.from.is_zero() && second.from < first.length, "{step:?}");
        }
        let lengths: Vec<_> = steps.iter().flat_map(|step| &step.faults).map(|fault| fault.length).collect();
        assert!(lengths.iter().any(|length| *length < LEASE / 2) && lengths.iter().any(|length| *length > LEASE * 3));
        let met: BTreeSet<_> = steps.iter().flat_map(|step| &step.faults).map(|fault| fault.form.what).collect();
        let all = Class::ALL.iter().flat_map(|class| class.forms()).filter(|form| form.servers_min <= 5);
        assert_eq!(met, all.map(|form| form.what).collect(), "an hour has every form in it");
    }
}
