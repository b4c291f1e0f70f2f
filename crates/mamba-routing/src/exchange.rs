//! An exchange: what it was declared as, and the index of its type.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use mamba_types::{FieldTable, table};

use crate::{
    binding::{Binding, Destination},
    hashing::{ConsistentHash, HashOn, hash_keys},
    headers::HeaderIndex,
    route::RouteInput,
    topic::TopicTrie,
};

/// The types of exchange there are (`spec: semantics §3`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeKind {
    /// Binding key equals routing key.
    Direct,
    /// Every binding.
    Fanout,
    /// Patterns of words.
    Topic,
    /// The headers table.
    Headers,
    /// `x-consistent-hash`: one destination by weight and hash.
    ConsistentHash,
    /// `x-modulus-hash`: one destination by hash modulo their number.
    ModulusHash,
    /// `x-random`: one destination by chance.
    Random,
    /// `x-local-random`: one classic queue by chance.
    LocalRandom,
}

impl ExchangeKind {
    /// The kind behind a type word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "direct" => Self::Direct,
            "fanout" => Self::Fanout,
            "topic" => Self::Topic,
            "headers" => Self::Headers,
            "x-consistent-hash" => Self::ConsistentHash,
            "x-modulus-hash" => Self::ModulusHash,
            "x-random" => Self::Random,
            "x-local-random" => Self::LocalRandom,
            _ => return None,
        })
    }
}

/// What `exchange.declare` says.
#[derive(Clone, Debug)]
pub struct ExchangeSpec {
    /// Name.
    pub name: Arc<str>,
    /// Type word.
    pub kind: Arc<str>,
    /// Survives a restart.
    pub durable: bool,
    /// Deleted with its last binding as a source.
    pub auto_delete: bool,
    /// Not for publishing.
    pub internal: bool,
    /// Arguments as declared.
    pub arguments: FieldTable,
}

/// Destinations, each with the number of bindings that lead there.
pub(crate) type Targets = BTreeMap<Destination, u32>;

pub(crate) fn add_target(targets: &mut Targets, destination: &Destination) {
    *targets.entry(destination.clone()).or_default() += 1;
}

pub(crate) fn remove_target(targets: &mut Targets, destination: &Destination) {
    if let Some(count) = targets.get_mut(destination) {
        *count -= 1;
        if *count == 0 {
            targets.remove(destination);
        }
    }
}

#[derive(Debug)]
enum Index {
    Direct(HashMap<Box<[u8]>, Targets, foldhash::fast::FixedState>),
    Fanout(Targets),
    Topic(TopicTrie),
    Headers(HeaderIndex),
    ConsistentHash(ConsistentHash),
    Modulus(Targets),
    Random {
        targets: Targets,
        draws: AtomicU64,
        seed: u64,
    },
}

/// An exchange of the table.
#[derive(Debug)]
pub struct Exchange {
    spec: ExchangeSpec,
    kind: ExchangeKind,
    alternate: Option<Arc<str>>,
    generation: Arc<AtomicU64>,
    bindings: BTreeSet<Binding>,
    index: Index,
}

impl Exchange {
    pub(crate) fn new(spec: ExchangeSpec, kind: ExchangeKind, seed: u64) -> Self {
        let index = match kind {
            ExchangeKind::Direct => Index::Direct(HashMap::default()),
            ExchangeKind::Fanout => Index::Fanout(Targets::new()),
            ExchangeKind::Topic => Index::Topic(TopicTrie::default()),
            ExchangeKind::Headers => Index::Headers(HeaderIndex::default()),
            ExchangeKind::ConsistentHash => {
                Index::ConsistentHash(ConsistentHash::new(HashOn::of(&spec.arguments)))
            }
            ExchangeKind::ModulusHash => Index::Modulus(Targets::new()),
            ExchangeKind::Random | ExchangeKind::LocalRandom => Index::Random {
                targets: Targets::new(),
                draws: AtomicU64::new(0),
                seed,
            },
        };
        let alternate = spec
            .arguments
            .inner()
            .get("alternate-exchange")
            .and_then(table::text)
            .map(Arc::from);
        Self {
            spec,
            kind,
            alternate,
            generation: Arc::default(),
            bindings: BTreeSet::new(),
            index,
        }
    }

    /// What it was declared as.
    #[must_use]
    pub const fn spec(&self) -> &ExchangeSpec {
        &self.spec
    }

    /// Its type.
    #[must_use]
    pub const fn kind(&self) -> ExchangeKind {
        self.kind
    }

    /// Its alternate exchange's name.
    #[must_use]
    pub const fn alternate(&self) -> Option<&Arc<str>> {
        self.alternate.as_ref()
    }

    /// The bindings that have it as their source, in order.
    pub fn bindings(&self) -> impl Iterator<Item = &Binding> {
        self.bindings.iter()
    }

    /// Whether it is the source of no binding.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.bindings.is_empty()
    }

    pub(crate) const fn generation(&self) -> &Arc<AtomicU64> {
        &self.generation
    }

    pub(crate) fn changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn contains(&self, binding: &Binding) -> bool {
        self.bindings.contains(binding)
    }

    /// Whether the binding was new.
    pub(crate) fn add(&mut self, binding: &Binding) -> bool {
        if !self.bindings.insert(binding.clone()) {
            return false;
        }
        let Binding {
            destination,
            routing_key,
            arguments,
            ..
        } = binding;
        match &mut self.index {
            Index::Direct(by_key) => add_target(
                by_key.entry(routing_key.as_bytes().into()).or_default(),
                destination,
            ),
            Index::Fanout(targets) | Index::Modulus(targets) | Index::Random { targets, .. } => {
                add_target(targets, destination)
            }
            Index::Topic(trie) => trie.add(routing_key, destination),
            Index::Headers(index) => index.add(arguments, destination),
            Index::ConsistentHash(ring) => ring.add(routing_key, destination),
        }
        self.changed();
        true
    }

    /// Whether the binding was there.
    pub(crate) fn remove(&mut self, binding: &Binding) -> bool {
        if !self.bindings.remove(binding) {
            return false;
        }
        let Binding {
            destination,
            routing_key,
            arguments,
            ..
        } = binding;
        match &mut self.index {
            Index::Direct(by_key) => {
                if let Some(targets) = by_key.get_mut(routing_key.as_bytes()) {
                    remove_target(targets, destination);
                    if targets.is_empty() {
                        by_key.remove(routing_key.as_bytes());
                    }
                }
            }
            Index::Fanout(targets) | Index::Modulus(targets) | Index::Random { targets, .. } => {
                remove_target(targets, destination)
            }
            Index::Topic(trie) => trie.remove(routing_key, destination),
            Index::Headers(index) => index.remove(arguments, destination),
            Index::ConsistentHash(ring) => ring.remove(routing_key, destination),
        }
        self.changed();
        true
    }

    /// Appends the destinations for a message. Returns whether the same keys always lead there while the exchange
    /// does not change.
    pub(crate) fn select(&self, input: &RouteInput<'_>, selected: &mut Vec<Destination>) -> bool {
        match &self.index {
            Index::Direct(by_key) => {
                for key in input.keys {
                    selected.extend(
                        by_key
                            .get(*key)
                            .into_iter()
                            .flat_map(Targets::keys)
                            .cloned(),
                    );
                }
                true
            }
            Index::Fanout(targets) => {
                selected.extend(targets.keys().cloned());
                true
            }
            Index::Topic(trie) => {
                for key in input.keys {
                    trie.select(key, selected);
                }
                true
            }
            Index::Headers(index) => {
                index.select(input.properties.headers(), selected);
                false
            }
            Index::ConsistentHash(ring) => ring.select(input, selected),
            Index::Modulus(targets) => {
                if !targets.is_empty() {
                    let at = hash_keys(input.keys) % targets.len() as u64;
                    let at = usize::try_from(at).unwrap_or(0);
                    selected.extend(targets.keys().nth(at).cloned());
                }
                true
            }
            Index::Random {
                targets,
                draws,
                seed,
            } => {
                if !targets.is_empty() {
                    let draw = draws.fetch_add(1, Ordering::Relaxed).to_le_bytes();
                    let at = hash_keys(&[&draw, &seed.to_le_bytes()]) % targets.len() as u64;
                    let at = usize::try_from(at).unwrap_or(0);
                    selected.extend(targets.keys().nth(at).cloned());
                }
                false
            }
        }
    }
}
