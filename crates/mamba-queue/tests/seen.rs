//! The cache of ids against a list that forgets nothing.

use std::collections::BTreeSet;

use mamba_queue::{Lasting, SeenCache};
use proptest::prelude::*;

/// An id by a small number, spread like a real one.
fn hash(id: u8) -> [u8; 16] {
    let mut hash = [0; 16];
    hash[..8].copy_from_slice(
        &u64::from(id)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .to_le_bytes(),
    );
    hash[15] = id;
    hash
}

#[derive(Clone, Debug)]
struct Came {
    id: u8,
    until: Option<u64>,
    lasting: Lasting,
}

/// All that ever came, each id where it came last.
#[derive(Debug, Default)]
struct Naive {
    size_max: usize,
    came: Vec<Came>,
}

impl Naive {
    fn remembered(&self, now: u64) -> impl Iterator<Item = &Came> {
        let old = self.came.len().saturating_sub(self.size_max);
        let lives = move |one: &&Came| one.until.is_none_or(|until| now < until);
        self.came[old..].iter().filter(lives)
    }

    fn contains(&self, id: u8, now: u64) -> bool {
        self.remembered(now).any(|one| one.id == id)
    }

    fn insert(&mut self, came: Came) {
        self.came.retain(|one| one.id != came.id);
        self.came.push(came);
    }
}

fn steps() -> impl Strategy<Value = Vec<(u8, Option<u64>, bool, u64)>> {
    let step = (
        any::<u8>().prop_map(|id| id % 48),
        prop::option::of(1_u64..40),
        any::<bool>(),
        0_u64..6,
    );
    prop::collection::vec(step, 0..600)
}

proptest! {
    #[test]
    fn remembers_what_the_last_ids_say(size_max in 1_usize..40, steps in steps()) {
        let mut cache = SeenCache::new(size_max);
        let mut naive = Naive { size_max, came: Vec::new() };
        let mut now = 1_000;
        for (id, ttl, stored, passes) in steps {
            now += passes;
            let known = naive.contains(id, now);
            prop_assert_eq!(cache.contains(&hash(id), now), known, "id {} at {}", id, now);
            // As its owner does: what is known does not count as new.
            if !known {
                let until = ttl.map(|ttl| now + ttl);
                let lasting = if stored { Lasting::Stored } else { Lasting::Volatile };
                cache.insert(&hash(id), until, lasting, now);
                naive.insert(Came { id, until, lasting });
            }
            cache.check_invariants();
        }
        for id in 0..48 {
            prop_assert_eq!(cache.contains(&hash(id), now), naive.contains(id, now));
        }
        let stored: Vec<_> = cache.stored(now).collect();
        let wanted: Vec<_> = naive
            .remembered(now)
            .filter(|one| one.lasting == Lasting::Stored)
            .map(|one| (hash(one.id), one.until))
            .collect();
        prop_assert_eq!(stored, wanted);
    }

    #[test]
    fn what_was_written_down_makes_the_same_cache(steps in steps()) {
        let mut cache = SeenCache::new(20);
        let mut now = 1_000;
        for (id, ttl, _, passes) in steps {
            now += passes;
            cache.insert(&hash(id), ttl.map(|ttl| now + ttl), Lasting::Stored, now);
            cache.check_invariants();
        }
        let mut again = SeenCache::new(20);
        for (hash, until) in cache.stored(now) {
            again.insert(&hash, until, Lasting::Stored, now);
        }
        prop_assert_eq!(again.stored(now).collect::<Vec<_>>(), cache.stored(now).collect::<Vec<_>>());
    }
}

#[test]
fn one_id_that_comes_again_and_again_takes_no_room() {
    let mut cache = SeenCache::new(1_000);
    cache.insert(&hash(1), None, Lasting::Stored, 0);
    for now in 0..10_000 {
        cache.insert(&hash(2), Some(now + 1), Lasting::Stored, now);
        cache.check_invariants();
    }
    assert_eq!(cache.len(), 2);
}

#[test]
fn at_the_limit_the_oldest_goes() {
    let mut cache = SeenCache::new(3);
    for id in 0..5 {
        cache.insert(&hash(id), None, Lasting::Stored, 0);
    }
    let remembered: BTreeSet<u8> = (0..5).filter(|id| cache.contains(&hash(*id), 0)).collect();
    assert_eq!(remembered, BTreeSet::from([2, 3, 4]));
}

#[test]
fn an_id_is_forgotten_at_its_time() {
    let mut cache = SeenCache::new(3);
    cache.insert(&hash(1), Some(100), Lasting::Stored, 50);
    assert!(cache.contains(&hash(1), 99));
    assert!(!cache.contains(&hash(1), 100));
}
