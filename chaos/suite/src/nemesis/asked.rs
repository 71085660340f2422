//! What a run is asked to break.

use std::{collections::BTreeSet, fmt, str::FromStr};

use super::Class;

/// Each waits for a cluster that works, or takes a member's data or disk: two of them at once would be one after the other,
/// or more than a cluster has to survive.
const ONE_AT_A_TIME: &[Class] =
    &[Class::Membership, Class::Compaction, Class::Restart, Class::Disk, Class::Power, Class::Files, Class::Wipe];

/// What is to be broken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Nemeses {
    /// These groups of classes in turn, those of a group at once.
    Groups(Vec<Vec<Class>>),
    /// Every class that can be had, alone.
    All,
    /// Every two that can be had and make sense at once.
    Pairs,
    /// One or two at a time of all that can be had, at random.
    Random,
}

impl Nemeses {
    /// The classes that are asked for, if they can be had.
    #[must_use]
    pub fn classes(&self) -> BTreeSet<Class> {
        match self {
            Self::Groups(groups) => groups.iter().flatten().copied().collect(),
            Self::All | Self::Pairs | Self::Random => Class::ALL.iter().copied().collect(),
        }
    }

    /// Whether each of them has to be had: they are named.
    #[must_use]
    pub fn names_them(&self) -> bool {
        matches!(self, Self::Groups(_))
    }

    /// Without what cannot be had: groups of what is there at once.
    #[must_use]
    pub fn groups(&self, lacking: &BTreeSet<Class>) -> Vec<Vec<Class>> {
        let alone = || Class::ALL.iter().map(|class| vec![*class]);
        let pairs = || {
            let each = Class::ALL.iter().enumerate();
            let pairs = each.flat_map(|(at, one)| Class::ALL[at + 1..].iter().map(move |other| vec![*one, *other]));
            pairs.filter(|pair| !pair.iter().all(|class| ONE_AT_A_TIME.contains(class)))
        };
        let mut groups: Vec<_> = match self {
            Self::Groups(groups) => groups.clone(),
            Self::All => alone().collect(),
            Self::Pairs => pairs().collect(),
            Self::Random => alone().chain(pairs()).collect(),
        };
        groups.retain(|group| !group.iter().any(|class| lacking.contains(class)));
        groups
    }
}

impl Default for Nemeses {
    /// Nothing.
    fn default() -> Self {
        Self::Groups(Vec::new())
    }
}

impl FromIterator<Vec<Class>> for Nemeses {
    fn from_iter<I: IntoIterator<Item = Vec<Class>>>(groups: I) -> Self {
        Self::Groups(groups.into_iter().collect())
    }
}

impl fmt::Display for Nemeses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = |classes: &Vec<Class>| classes.iter().map(|class| class.name()).collect::<Vec<_>>().join("+");
        match self {
            Self::Groups(groups) if groups.is_empty() => f.write_str("none"),
            Self::Groups(groups) => f.write_str(&groups.iter().map(group).collect::<Vec<_>>().join(",")),
            Self::All => f.write_str("all"),
            Self::Pairs => f.write_str("pairs"),
            Self::Random => f.write_str("random"),
        }
    }
}

impl FromStr for Nemeses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let group = |text: &str| text.split('+').map(str::parse).collect();
        match text {
            "none" => Ok(Self::default()),
            "all" => Ok(Self::All),
            "pairs" => Ok(Self::Pairs),
            "random" => Ok(Self::Random),
            _ => text.split(',').map(group).collect::<Result<Vec<_>, _>>().map(Self::Groups),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_said_as_it_was_asked() {
        for text in ["none", "all", "pairs", "random", "pause", "pause,kill+partition", "delay+loss"] {
            assert_eq!(text.parse::<Nemeses>().expect(text).to_string(), text);
        }
        let unknown = "pause,pars".parse::<Nemeses>().expect_err("no such class");
        assert!(
            unknown.contains("\"pars\"") && unknown.contains("partition") && unknown.contains("pairs"),
            "{unknown}"
        );
    }

    #[test]
    fn pairs_are_of_two_once_and_without_what_is_lacking() {
        let pairs = Nemeses::Pairs.groups(&BTreeSet::from([Class::Delay]));
        let once: BTreeSet<_> = pairs.iter().cloned().collect();
        assert_eq!(once.len(), pairs.len());
        assert!(pairs.iter().all(|pair| pair.len() == 2 && pair[0] != pair[1] && !pair.contains(&Class::Delay)));
        assert!(pairs.contains(&vec![Class::Pause, Class::Partition]));
        assert!(!pairs.contains(&vec![Class::Membership, Class::Restart]), "the one waits for the other");
        let all = Nemeses::All.groups(&BTreeSet::new());
        assert_eq!(all.len(), Class::ALL.len());
    }
}
