//! Attempts to log in, counted by where they came from and whom they named.

use std::{collections::HashMap, net::IpAddr};

use foldhash::fast::RandomState;

/// Sources that are remembered; the longest silent one makes room.
const SOURCES_MAX: usize = 1024;
/// Characters of a user's name that are kept.
const NAME_LEN_MAX: usize = 255;

/// Where an attempt came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The client.
    pub address: IpAddr,
    /// Whom it named.
    pub user: String,
    /// How it came: `amqp091`, `http`.
    pub protocol: &'static str,
}

/// How often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// It got in.
    pub succeeded: u64,
    /// It did not.
    pub failed: u64,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It got in.
    Succeeded,
    /// It did not.
    Failed,
}

/// Attempts by source, in bounded memory.
#[derive(Debug, Default)]
pub struct Attempts {
    sources: HashMap<Source, (Count, u64), RandomState>,
    /// Counts the attempts, so that the order of sources is known.
    noted: u64,
}

impl Attempts {
    /// Counts an attempt.
    pub fn note(&mut self, address: IpAddr, user: &str, protocol: &'static str, ending: Ending) {
        let source = Source {
            address: address.to_canonical(),
            user: user.chars().take(NAME_LEN_MAX).collect(),
            protocol,
        };
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&source) {
            let silent = self.sources.iter().min_by_key(|(_, (_, noted))| *noted);
            if let Some(silent) = silent.map(|(source, _)| source.clone()) {
                self.sources.remove(&silent);
            }
        }
        self.noted += 1;
        let (count, noted) = self.sources.entry(source).or_default();
        *noted = self.noted;
        match ending {
            Ending::Succeeded => count.succeeded += 1,
            Ending::Failed => count.failed += 1,
        }
    }

    /// All that are remembered, by address, user and protocol.
    #[must_use]
    pub fn list(&self) -> Vec<(Source, Count)> {
        let all = self.sources.iter();
        let mut all: Vec<_> = all
            .map(|(source, (count, _))| (source.clone(), *count))
            .collect();
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_counted_by_source_in_bounded_memory() {
        let mut attempts = Attempts::default();
        let here: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        attempts.note(here, "first", "amqp091", Ending::Failed);
        for n in 0..2 * SOURCES_MAX {
            attempts.note(here, &n.to_string(), "amqp091", Ending::Failed);
            attempts.note(here, "busy", "http", Ending::Succeeded);
        }
        attempts.note(here, &"x".repeat(1000), "http", Ending::Failed);
        let list = attempts.list();
        assert_eq!(list.len(), SOURCES_MAX);
        let count = |user: &str| list.iter().find(|(source, _)| source.user == user);
        assert_eq!(count("first"), None);
        let (source, busy) = count("busy").unwrap();
        assert_eq!(source.address.to_string(), "127.0.0.1");
        assert_eq!(busy.succeeded, 2 * SOURCES_MAX as u64);
        assert!(
            list.iter()
                .all(|(source, _)| source.user.len() <= NAME_LEN_MAX)
        );
    }
}
