//! The ids that a queue or an exchange has seen lately.

use std::collections::VecDeque;

use hashbrown::HashTable;

/// What stands for an id: 128 bits of a hash whose bits are evenly spread and that nobody can steer.
type Hash = [u8; 16];

/// Slots above twice the living ones that are kept before the ring is tidied up.
const SLACK: usize = 64;

/// Whether an id outlives the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// Its message does, and so does the id.
    Stored,
    /// It goes with the process, like its message.
    Volatile,
}

/// The last ids that came, up to a number, each for a time.
///
/// When there is no room the oldest one goes, expired or not: of the last `size_max` ids, those that have not expired are
/// remembered, and no others. Takes some 32 octets for each, and no more than `size_max` ids need.
#[derive(Debug)]
pub struct SeenCache {
    size_max: usize,
    /// In order of coming. One that came again has left an empty slot where it was.
    ring: VecDeque<Slot>,
    /// The number of the ring's first slot; numbers wrap around.
    first: u32,
    /// The numbers of the slots that are not empty, by their hash.
    numbers: HashTable<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: Hash,
    /// Milliseconds since 1970 and [`VOLATILE`], [`NEVER`] or [`EMPTY`].
    expiry: u64,
}

const VOLATILE: u64 = 1 << 63;
const NEVER: u64 = VOLATILE - 1;
const EMPTY: u64 = 0;

impl Slot {
    const fn expires_at_ms(&self) -> u64 {
        self.expiry & !VOLATILE
    }

    const fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_at_ms() <= now_ms
    }
}

fn spread(hash: &Hash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

impl SeenCache {
    /// An empty one for `size_max` ids; at least one.
    #[must_use]
    pub fn new(size_max: usize) -> Self {
        Self {
            size_max: size_max.max(1),
            ring: VecDeque::new(),
            first: 0,
            numbers: HashTable::new(),
        }
    }

    /// Whether the id is remembered at this time, in milliseconds since 1970.
    #[must_use]
    pub fn contains(&self, hash: &Hash, now_ms: u64) -> bool {
        self.find(hash).is_some_and(|slot| !slot.is_expired(now_ms))
    }

    /// Remembers an id that came now, until `expires_at_ms`; `None`: until there is no room for it. One that is there already
    /// counts as new.
    pub fn insert(
        &mut self,
        hash: &Hash,
        expires_at_ms: Option<u64>,
        lasting: Lasting,
        now_ms: u64,
    ) {
        self.remove(hash);
        while self
            .ring
            .front()
            .is_some_and(|front| self.numbers.len() >= self.size_max || front.is_expired(now_ms))
        {
            self.drop_front();
        }
        if self.ring.len() > 2 * self.numbers.len() + SLACK {
            self.tidy();
        }
        let time = expires_at_ms.map_or(NEVER, |at| at.clamp(EMPTY + 1, NEVER));
        let volatile = match lasting {
            Lasting::Stored => 0,
            Lasting::Volatile => VOLATILE,
        };
        let number = self.number(self.ring.len());
        self.ring.push_back(Slot {
            hash: *hash,
            expiry: time | volatile,
        });
        let Self {
            ring,
            first,
            numbers,
            ..
        } = self;
        numbers.insert_unique(spread(hash), number, |number| {
            spread(&ring[number.wrapping_sub(*first) as usize].hash)
        });
    }

    /// The ids to write down, with their expiry, oldest first.
    pub fn stored(&self, now_ms: u64) -> impl Iterator<Item = (Hash, Option<u64>)> {
        let lasts = move |slot: &&Slot| slot.expiry & VOLATILE == 0 && !slot.is_expired(now_ms);
        self.ring.iter().filter(lasts).map(|slot| {
            let at = slot.expires_at_ms();
            (slot.hash, (at != NEVER).then_some(at))
        })
    }

    /// Ids in it; some may have expired.
    #[must_use]
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether it remembers nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Checks that its parts agree with each other.
    ///
    /// # Panics
    /// When they do not.
    pub fn check_invariants(&self) {
        assert!(self.numbers.len() <= self.size_max);
        assert!(self.ring.len() <= 2 * self.numbers.len() + SLACK + 1);
        let filled = self.ring.iter().filter(|slot| slot.expiry != EMPTY);
        assert_eq!(filled.count(), self.numbers.len());
        for slot in self.ring.iter().filter(|slot| slot.expiry != EMPTY) {
            let found = self.find(&slot.hash);
            assert_eq!(found.map(|found| found.expiry), Some(slot.expiry));
        }
    }

    fn find(&self, hash: &Hash) -> Option<&Slot> {
        let number = self.numbers.find(spread(hash), |number| {
            self.ring[self.index(*number)].hash == *hash
        })?;
        self.ring.get(self.index(*number))
    }

    fn remove(&mut self, hash: &Hash) {
        let Self {
            ring,
            first,
            numbers,
            ..
        } = self;
        let index = |number: u32| number.wrapping_sub(*first) as usize;
        let found = numbers.find_entry(spread(hash), |number| ring[index(*number)].hash == *hash);
        if let Ok(found) = found {
            let (number, _) = found.remove();
            ring[index(number)].expiry = EMPTY;
        }
    }

    fn drop_front(&mut self) {
        let Some(front) = self.ring.pop_front() else {
            return;
        };
        let gone = self.first;
        self.first = self.first.wrapping_add(1);
        if front.expiry != EMPTY
            && let Ok(found) = self
                .numbers
                .find_entry(spread(&front.hash), |number| *number == gone)
        {
            found.remove();
        }
    }

    /// Closes the gaps that ids which came again have left.
    fn tidy(&mut self) {
        self.ring.retain(|slot| slot.expiry != EMPTY);
        self.numbers.clear();
        self.first = 0;
        let ring = &self.ring;
        for (number, slot) in (0..).zip(ring) {
            self.numbers
                .insert_unique(spread(&slot.hash), number, |number| {
                    spread(&ring[*number as usize].hash)
                });
        }
    }

    fn index(&self, number: u32) -> usize {
        number.wrapping_sub(self.first) as usize
    }

    fn number(&self, index: usize) -> u32 {
        let index = u32::try_from(index).expect("a cache has far fewer slots than 2^32");
        self.first.wrapping_add(index)
    }
}
