//! Choosing one of several destinations: consistent hash, modulus, chance.

use std::sync::atomic::{AtomicU64, Ordering};

use mamba_types::{FieldTable, FieldValue, table};

use crate::binding::Destination;
use crate::route::{RouteInput, Target};

/// Spreads a number's bits over all 64 (the finaliser of splitmix64).
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// FNV-1a with a finaliser: fixed for ever, because the consistent hash has to send a key to the same queue
/// after a restart and an upgrade.
pub(crate) fn hash_octets(start: u64, octets: &[u8]) -> u64 {
    let mut hash = start ^ 0xcbf2_9ce4_8422_2325;
    for octet in octets {
        hash = (hash ^ u64::from(*octet)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    mix(hash ^ octets.len() as u64)
}

/// Equal for values that are the same by [`table::same_value`].
pub(crate) fn hash_value(value: &FieldValue) -> u64 {
    if let Some(number) = table::integer(value) {
        return mix(number.cast_unsigned()) ^ 1;
    }
    if let Some(octets) = table::octets(value) {
        return hash_octets(2, octets);
    }
    let float = |number: f64| {
        // Both zeros are the same number.
        mix(if number == 0.0 { 0 } else { number.to_bits() }) ^ 3
    };
    match value {
        FieldValue::Boolean(flag) => mix(4 + u64::from(*flag)),
        FieldValue::Timestamp(seconds) => mix(*seconds) ^ 6,
        FieldValue::Float(number) => float(f64::from(*number)),
        FieldValue::Double(number) => float(*number),
        FieldValue::Void => mix(7),
        // Rare, and told apart by comparing.
        _ => mix(8),
    }
}

/// What a consistent-hash exchange hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HashOn {
    RoutingKeys,
    Header(Box<str>),
    MessageId,
    CorrelationId,
    Timestamp,
}

impl HashOn {
    /// Whether two messages with the same routing keys may differ.
    pub(crate) const fn needs_properties(&self) -> bool {
        !matches!(self, Self::RoutingKeys)
    }

    fn hash(&self, input: &RouteInput<'_>) -> u64 {
        let octets = |octets: Option<&[u8]>| octets.map_or(0, |octets| hash_octets(2, octets));
        match self {
            Self::RoutingKeys => hash_keys(input),
            Self::Header(name) => input
                .properties
                .headers()
                .and_then(|headers| headers.inner().get(&**name))
                .map_or(0, hash_value),
            Self::MessageId => octets(input.properties.message_id()),
            Self::CorrelationId => octets(input.properties.correlation_id()),
            Self::Timestamp => input.properties.timestamp().map_or(0, mix),
        }
    }
}

fn hash_keys(input: &RouteInput<'_>) -> u64 {
    input
        .keys
        .iter()
        .fold(0, |hash, key| hash_octets(hash, key))
}

/// Weighted rendezvous hashing: every destination draws a score from (message, itself), the best one wins.
///
/// A destination that comes or goes moves only the messages it wins or had won, and weights cost no memory.
/// A route costs one logarithm per destination.
#[derive(Debug)]
pub(crate) struct HashIndex {
    pub(crate) on: HashOn,
    candidates: Vec<Candidate>,
}

#[derive(Debug)]
struct Candidate {
    target: Target,
    hash: u64,
    /// One per binding; the oldest binding's counts, as with the reference.
    weights: Vec<(u32, f64)>,
}

impl HashIndex {
    pub(crate) const fn new(on: HashOn) -> Self {
        Self {
            on,
            candidates: Vec::new(),
        }
    }

    pub(crate) fn insert(
        &mut self,
        id: u32,
        destination: &Destination,
        target: Target,
        weight: f64,
    ) {
        match self
            .candidates
            .iter_mut()
            .find(|candidate| candidate.target == target)
        {
            Some(candidate) => candidate.weights.push((id, weight)),
            None => {
                let kind = u64::from(matches!(destination, Destination::Queue(_)));
                self.candidates.push(Candidate {
                    target,
                    hash: hash_octets(kind, destination.name().as_bytes()),
                    weights: vec![(id, weight)],
                });
            }
        }
    }

    pub(crate) fn remove(&mut self, id: u32, target: Target) {
        let Some(at) = self
            .candidates
            .iter()
            .position(|candidate| candidate.target == target)
        else {
            return;
        };
        self.candidates[at].weights.retain(|(of, _)| *of != id);
        if self.candidates[at].weights.is_empty() {
            self.candidates.swap_remove(at);
        }
    }

    pub(crate) fn select(&self, input: &RouteInput<'_>) -> Option<Target> {
        if let [only] = self.candidates.as_slice() {
            return Some(only.target);
        }
        let message = self.on.hash(input);
        self.candidates
            .iter()
            .map(|candidate| (candidate.score(message), candidate))
            .min_by(|(left_score, left), (right_score, right)| {
                left_score
                    .total_cmp(right_score)
                    .then_with(|| left.hash.cmp(&right.hash))
            })
            .map(|(_, candidate)| candidate.target)
    }
}

impl Candidate {
    /// Exponentially distributed with rate = weight: the smallest of several is this one's with a
    /// probability proportional to its weight.
    #[expect(
        clippy::cast_precision_loss,
        reason = "the 53 bits that are kept all fit"
    )]
    fn score(&self, message: u64) -> f64 {
        let drawn = mix(message ^ self.hash) >> 11;
        let unit = (drawn as f64 + 0.5) / (1u64 << 53) as f64;
        let weight = self.weights.first().map_or(1.0, |(_, weight)| *weight);
        -unit.ln() / weight
    }
}

/// The weight a consistent-hash binding key stands for, or why it is none.
pub(crate) fn weight(key: &str) -> Result<f64, BadWeight> {
    let (negative, digits) = match key.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        all => (false, all),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(BadWeight::NotAnInteger);
    }
    let weight = digits.iter().fold(0.0, |weight: f64, digit| {
        // 255 digits stay far below the largest f64.
        weight.mul_add(10.0, f64::from(digit - b'0'))
    });
    if negative || weight < 1.0 {
        return Err(BadWeight::BelowOne);
    }
    Ok(weight)
}

pub(crate) enum BadWeight {
    NotAnInteger,
    BelowOne,
}

/// What a consistent-hash exchange's arguments ask it to hash, when they were checked.
pub(crate) fn hash_on(arguments: &FieldTable) -> HashOn {
    let word = |key: &str| arguments.inner().get(key).and_then(table::text);
    if let Some(header) = word("hash-header") {
        return HashOn::Header(header.into());
    }
    match word("hash-property") {
        Some("message_id") => HashOn::MessageId,
        Some("correlation_id") => HashOn::CorrelationId,
        Some("timestamp") => HashOn::Timestamp,
        _ => HashOn::RoutingKeys,
    }
}

/// Destinations in name order, each once; the hash of the routing keys picks one.
#[derive(Debug, Default)]
pub(crate) struct ModulusIndex {
    destinations: Vec<(Destination, Target, usize)>,
}

impl ModulusIndex {
    pub(crate) fn insert(&mut self, destination: &Destination, target: Target) {
        match self
            .destinations
            .binary_search_by(|(other, ..)| other.cmp(destination))
        {
            Ok(at) => self.destinations[at].2 += 1,
            Err(at) => self
                .destinations
                .insert(at, (destination.clone(), target, 1)),
        }
    }

    pub(crate) fn remove(&mut self, destination: &Destination) {
        if let Ok(at) = self
            .destinations
            .binary_search_by(|(other, ..)| other.cmp(destination))
        {
            self.destinations[at].2 -= 1;
            if self.destinations[at].2 == 0 {
                self.destinations.remove(at);
            }
        }
    }

    pub(crate) fn select(&self, input: &RouteInput<'_>) -> Option<Target> {
        let at = below(hash_keys(input), self.destinations.len())?;
        Some(self.destinations[at].1)
    }
}

/// A seeded draw per message without a lock: a counter, mixed.
#[derive(Debug)]
pub(crate) struct Draw {
    seed: u64,
    count: AtomicU64,
}

impl Draw {
    pub(crate) const fn new(seed: u64) -> Self {
        Self {
            seed,
            count: AtomicU64::new(0),
        }
    }

    pub(crate) fn select(&self, targets: &[Target]) -> Option<Target> {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let at = below(mix(self.seed ^ mix(count)), targets.len())?;
        targets.get(at).copied()
    }
}

fn below(hash: u64, count: usize) -> Option<usize> {
    usize::try_from(hash.checked_rem(count as u64)?).ok()
}
