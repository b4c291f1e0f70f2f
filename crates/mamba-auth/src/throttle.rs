//! A brake on guessing passwords.
//!
//! Failures are counted per address and user together, per address, and per user; the counts halve every minute. Above
//! what mistakes explain, the next attempt is refused unlooked-at until a delay is over that doubles with every further
//! failure. Who got in lately from the same address is spared the counts of others: a guesser cannot lock out the
//! clients that are there.

use std::{collections::HashMap, hash::BuildHasher, net::IpAddr, time::Duration};

use foldhash::quality::FixedState;

/// Entries per table; the longest untouched one makes room.
const ENTRIES_MAX: usize = 8192;
/// A count halves in this time, in milliseconds.
const HALF_LIFE_MS: u64 = 60_000;
/// Who got in is known for this long, in milliseconds: a day.
const KNOWN_MS: u64 = 86_400_000;
/// The first delay, in milliseconds.
const DELAY_MS: u64 = 100;

/// How many failures go unpunished, and the longest delay.
struct Rule {
    free: u32,
    delay_max_ms: u64,
}

/// One user from one address.
const PAIR: Rule = Rule {
    free: 5,
    delay_max_ms: 30_000,
};
/// Anyone from one address.
const ADDRESS: Rule = Rule {
    free: 50,
    delay_max_ms: 1_000,
};
/// One user from anywhere.
const USER: Rule = Rule {
    free: 50,
    delay_max_ms: 1_000,
};

/// Whether an attempt is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Look at it.
    Look,
    /// Refuse it unlooked-at: it comes too early by this much.
    TooEarly(Duration),
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    failures: f64,
    touched_ms: u64,
    failed_ms: u64,
    known_until_ms: u64,
}

impl Entry {
    fn count(&self, now_ms: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a decay need not be exact")]
        let age = now_ms.saturating_sub(self.failed_ms) as f64 / HALF_LIFE_MS as f64;
        self.failures * (-age).exp2()
    }

    fn waits_ms(&self, rule: &Rule, now_ms: u64) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count is small and never negative"
        )]
        let count = self.count(now_ms).round() as u32;
        if count < rule.free {
            return 0;
        }
        let doublings = (count - rule.free).min(32);
        let delay = (DELAY_MS << doublings).min(rule.delay_max_ms);
        (self.failed_ms + delay).saturating_sub(now_ms)
    }
}

/// Failed logins, in bounded memory.
#[derive(Debug)]
pub struct Throttle {
    hasher: FixedState,
    pairs: HashMap<u64, Entry>,
    addresses: HashMap<u64, Entry>,
    users: HashMap<u64, Entry>,
}

impl Throttle {
    /// An empty one. `seed` keeps others from choosing names that share an entry.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            hasher: FixedState::with_seed(seed),
            pairs: HashMap::default(),
            addresses: HashMap::default(),
            users: HashMap::default(),
        }
    }

    /// Whether to look at an attempt now. `now_ms` is the time in milliseconds since 1970.
    #[must_use]
    pub fn admit(&self, from: IpAddr, user: &[u8], now_ms: u64) -> Verdict {
        let keys = self.keys(from, user);
        let waits = |table: &HashMap<u64, Entry>, key: u64, rule: &Rule| {
            let entry = table.get(&key);
            entry.map_or(0, |entry| entry.waits_ms(rule, now_ms))
        };
        let mut wait = waits(&self.pairs, keys.pair, &PAIR);
        let known = self
            .pairs
            .get(&keys.pair)
            .is_some_and(|entry| entry.known_until_ms > now_ms);
        if !known {
            wait = wait
                .max(waits(&self.addresses, keys.address, &ADDRESS))
                .max(waits(&self.users, keys.user, &USER));
        }
        if wait == 0 {
            Verdict::Look
        } else {
            Verdict::TooEarly(Duration::from_millis(wait))
        }
    }

    /// An attempt that was looked at was wrong.
    pub fn failed(&mut self, from: IpAddr, user: &[u8], now_ms: u64) {
        let keys = self.keys(from, user);
        let count = |table: &mut HashMap<u64, Entry>, key: u64| {
            let entry = touch(table, key, now_ms);
            entry.failures = entry.count(now_ms) + 1.0;
            entry.failed_ms = now_ms;
        };
        count(&mut self.pairs, keys.pair);
        count(&mut self.addresses, keys.address);
        count(&mut self.users, keys.user);
    }

    /// An attempt was right.
    pub fn succeeded(&mut self, from: IpAddr, user: &[u8], now_ms: u64) {
        let key = self.keys(from, user).pair;
        let entry = touch(&mut self.pairs, key, now_ms);
        entry.failures = 0.0;
        entry.known_until_ms = now_ms + KNOWN_MS;
    }

    fn keys(&self, from: IpAddr, user: &[u8]) -> Keys {
        let network = network(from);
        Keys {
            pair: self.hasher.hash_one((network, user)),
            address: self.hasher.hash_one(network),
            user: self.hasher.hash_one(user),
        }
    }
}

struct Keys {
    pair: u64,
    address: u64,
    user: u64,
}

/// The part of an address that one guesser has to itself: all of an IPv4 address, the first 64 bits of an IPv6 address.
fn network(from: IpAddr) -> (bool, u128) {
    match from.to_canonical() {
        IpAddr::V4(address) => (true, u128::from(u32::from(address))),
        IpAddr::V6(address) => (false, u128::from(address) >> 64),
    }
}

fn touch(table: &mut HashMap<u64, Entry>, key: u64, now_ms: u64) -> &mut Entry {
    if table.len() >= ENTRIES_MAX && !table.contains_key(&key) {
        make_room(table);
    }
    let entry = table.entry(key).or_default();
    entry.touched_ms = now_ms;
    entry
}

/// Drops the half that was not touched for longest: rare, and cheap per entry.
fn make_room(table: &mut HashMap<u64, Entry>) {
    let mut times: Vec<u64> = table.values().map(|entry| entry.touched_ms).collect();
    let middle = times.len() / 2;
    let (_, median, _) = times.select_nth_unstable(middle);
    let median = *median;
    let mut ties = table.len() / 2;
    table.retain(|_, entry| {
        if entry.touched_ms == median && ties > 0 {
            ties -= 1;
            return false;
        }
        entry.touched_ms >= median
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_000_000_000;

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn looks(throttle: &Throttle, from: &str, user: &str, now_ms: u64) -> bool {
        throttle.admit(at(from), user.as_bytes(), now_ms) == Verdict::Look
    }

    #[test]
    fn delays_grow_and_fade() {
        let mut throttle = Throttle::new(1);
        for _ in 0..5 {
            assert!(looks(&throttle, "192.0.2.1", "u", START));
            throttle.failed(at("192.0.2.1"), b"u", START);
        }
        let wait = |throttle: &Throttle, now_ms| match throttle.admit(at("192.0.2.1"), b"u", now_ms)
        {
            Verdict::Look => 0,
            Verdict::TooEarly(wait) => wait.as_millis(),
        };
        assert_eq!(wait(&throttle, START), 100);
        assert_eq!(wait(&throttle, START + 100), 0);
        throttle.failed(at("192.0.2.1"), b"u", START + 100);
        assert_eq!(wait(&throttle, START + 100), 200);
        for _ in 0..100 {
            throttle.failed(at("192.0.2.1"), b"u", START + 100);
        }
        assert_eq!(wait(&throttle, START + 100), 30_000);
        assert!(looks(&throttle, "192.0.2.1", "other", START + 2000));
        assert!(looks(
            &throttle,
            "192.0.2.1",
            "u",
            START + 20 * HALF_LIFE_MS
        ));
    }

    #[test]
    fn a_right_password_ends_the_delays_of_mistakes() {
        let mut throttle = Throttle::new(1);
        for _ in 0..6 {
            throttle.failed(at("192.0.2.1"), b"u", START);
        }
        throttle.succeeded(at("192.0.2.1"), b"u", START + 1000);
        throttle.failed(at("192.0.2.1"), b"u", START + 1000);
        assert!(looks(&throttle, "192.0.2.1", "u", START + 1000));
    }

    #[test]
    fn many_names_from_one_address_and_many_addresses_for_one_name_are_slowed() {
        let mut throttle = Throttle::new(1);
        throttle.succeeded(at("192.0.2.1"), b"known", START);
        for n in 0..100 {
            throttle.failed(at("192.0.2.1"), format!("u{n}").as_bytes(), START);
            throttle.failed(at(&format!("198.51.100.{n}")), b"admin", START);
        }
        assert!(!looks(&throttle, "192.0.2.1", "fresh", START));
        assert!(!looks(&throttle, "203.0.113.1", "admin", START));
        assert!(looks(&throttle, "192.0.2.1", "known", START));
        assert!(looks(&throttle, "203.0.113.1", "fresh", START));
    }

    #[test]
    fn neighbours_in_a_network_share_a_count() {
        let mut throttle = Throttle::new(1);
        for _ in 0..6 {
            throttle.failed(at("2001:db8::1"), b"u", START);
            throttle.failed(at("::ffff:192.0.2.1"), b"u", START);
        }
        assert!(!looks(&throttle, "2001:db8::2", "u", START));
        assert!(looks(&throttle, "2001:db8:0:1::1", "u", START));
        assert!(!looks(&throttle, "192.0.2.1", "u", START));
    }

    #[test]
    fn memory_is_bounded() {
        let mut throttle = Throttle::new(1);
        for n in 0..3 * ENTRIES_MAX as u64 {
            throttle.failed(at("192.0.2.1"), &n.to_be_bytes(), START + n / 1000);
        }
        assert!(throttle.pairs.len() <= ENTRIES_MAX);
        assert!(throttle.users.len() <= ENTRIES_MAX);
        assert!(!looks(&throttle, "192.0.2.1", "x", START + 24));
    }
}
