//! Choosing one destination by a hash.

use std::{collections::BTreeMap, hash::BuildHasher};

use mamba_types::{FieldTable, FieldValue, table};

use crate::{binding::Destination, route::RouteInput};

/// The same on every node and in every run: partitions must not move at a restart.
const STATE: foldhash::quality::FixedState =
    foldhash::quality::FixedState::with_seed(0x6D61_6D62_615F_6D71);

/// One number for a list of octet strings.
pub(crate) fn hash_keys(keys: &[&[u8]]) -> u64 {
    STATE.hash_one(keys)
}

/// What a consistent-hash exchange hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HashOn {
    RoutingKey,
    Header(String),
    Property(String),
}

impl HashOn {
    pub(crate) fn of(arguments: &FieldTable) -> Self {
        let named = |key| {
            arguments
                .inner()
                .get(key)
                .and_then(table::text)
                .map(str::to_owned)
        };
        match (named("hash-header"), named("hash-property")) {
            (Some(header), _) => Self::Header(header),
            (None, Some(property)) => Self::Property(property),
            (None, None) => Self::RoutingKey,
        }
    }
}

/// `x-consistent-hash`: weighted rendezvous hashing. Each destination draws a score from the key; the highest wins,
/// so that a destination that comes or goes moves only its own share of the keys.
#[derive(Debug)]
pub(crate) struct ConsistentHash {
    on: HashOn,
    /// Sum of the weights of each destination's bindings.
    weights: BTreeMap<Destination, u64>,
}

impl ConsistentHash {
    pub(crate) const fn new(on: HashOn) -> Self {
        Self {
            on,
            weights: BTreeMap::new(),
        }
    }

    /// A binding key as a weight: a whole number from 1.
    pub(crate) fn weight(routing_key: &str) -> Option<u64> {
        routing_key.parse().ok().filter(|weight| *weight > 0)
    }

    pub(crate) fn add(&mut self, routing_key: &str, destination: &Destination) {
        let weight = self.weights.entry(destination.clone()).or_default();
        *weight = weight.saturating_add(Self::weight(routing_key).unwrap_or(1));
    }

    pub(crate) fn remove(&mut self, routing_key: &str, destination: &Destination) {
        if let Some(weight) = self.weights.get_mut(destination) {
            *weight = weight.saturating_sub(Self::weight(routing_key).unwrap_or(1));
            if *weight == 0 {
                self.weights.remove(destination);
            }
        }
    }

    pub(crate) fn select(&self, input: &RouteInput<'_>, selected: &mut Vec<Destination>) -> bool {
        match &self.on {
            HashOn::RoutingKey => {
                for key in input.keys {
                    selected.extend(self.winner(key).cloned());
                }
                true
            }
            HashOn::Header(name) => {
                let value = input
                    .properties
                    .headers()
                    .and_then(|headers| headers.inner().get(name.as_str()));
                selected.extend(
                    self.winner(&value.map(printed).unwrap_or_default())
                        .cloned(),
                );
                false
            }
            HashOn::Property(name) => {
                let value = match name.as_str() {
                    "message_id" => input.properties.message_id().map(<[u8]>::to_vec),
                    "correlation_id" => input.properties.correlation_id().map(<[u8]>::to_vec),
                    "timestamp" => input
                        .properties
                        .timestamp()
                        .map(|seconds| seconds.to_string().into_bytes()),
                    _ => None,
                };
                selected.extend(self.winner(&value.unwrap_or_default()).cloned());
                false
            }
        }
    }

    fn winner(&self, key: &[u8]) -> Option<&Destination> {
        let score = |destination: &Destination, weight: u64| {
            let hash = STATE.hash_one((destination.name().as_bytes(), key));
            // Uniform in (0, 1), then the classic weighted draw: -weight / ln(u).
            #[expect(clippy::cast_precision_loss, reason = "53 bits of a hash are plenty")]
            let (uniform, weight) = (
                ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64,
                weight as f64,
            );
            -weight / uniform.ln()
        };
        self.weights
            .iter()
            .map(|(destination, weight)| (score(destination, *weight), destination))
            .max_by(|(left, _), (right, _)| left.total_cmp(right))
            .map(|(_, destination)| destination)
    }
}

/// A header's value as octets to hash.
fn printed(value: &FieldValue) -> Vec<u8> {
    table::octets(value).map_or_else(|| table::bare(value).into_bytes(), <[u8]>::to_vec)
}
