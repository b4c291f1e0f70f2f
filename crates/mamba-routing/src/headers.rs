//! Headers bindings, indexed by their arguments (`spec: semantics §3.2`).
//!
//! A binding that needs all its arguments waits in the bucket of one of them, one that needs any waits in
//! the buckets of each. A message looks only into the buckets of its own headers, and every binding found
//! there is compared in full.

use std::collections::HashMap;
use std::sync::Arc;

use mamba_types::{FieldTable, FieldValue, table};

use crate::binding::Binding;
use crate::hashing::{hash_octets, hash_value};
use crate::route::{Scratch, Target};

/// What `x-match` asks for: `all` (also when absent), `any`, `all-with-x` or `any-with-x`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Match {
    any: bool,
    with_x: bool,
}

impl Match {
    /// Absent means `all`. `None`: a word or type that means nothing.
    pub(crate) fn of(arguments: &FieldTable) -> Option<Self> {
        let Some(value) = arguments.inner().get("x-match") else {
            return Some(Self {
                any: false,
                with_x: false,
            });
        };
        let FieldValue::LongString(word) = value else {
            return None;
        };
        let (any, with_x) = match word.as_bytes() {
            b"all" => (false, false),
            b"any" => (true, false),
            b"all-with-x" => (false, true),
            b"any-with-x" => (true, true),
            _ => return None,
        };
        Some(Self { any, with_x })
    }

    /// The arguments that take part.
    pub(crate) fn effective<'a>(
        &self,
        arguments: &'a FieldTable,
    ) -> impl Iterator<Item = (&'a str, &'a FieldValue)> + use<'a> {
        let skip_x = !self.with_x;
        arguments
            .into_iter()
            .map(|(key, value)| (key.as_str(), value))
            .filter(move |(key, _)| *key != "x-match" && !(skip_x && key.starts_with("x-")))
    }
}

#[derive(Debug)]
struct Entry {
    id: u32,
    rule: Match,
    target: Target,
    binding: Arc<Binding>,
    /// Where it waits.
    buckets: Vec<u64>,
}

impl Entry {
    fn matches(&self, headers: &FieldTable) -> bool {
        let mut pairs = self.rule.effective(&self.binding.arguments);
        let fits = |(key, wanted): (&str, &FieldValue)| {
            headers.inner().get(key).is_some_and(|value| {
                matches!(wanted, FieldValue::Void) || table::same_value(wanted, value)
            })
        };
        if self.rule.any {
            pairs.any(fits)
        } else {
            pairs.all(fits)
        }
    }
}

/// All bindings of one headers exchange.
#[derive(Debug, Default)]
pub(crate) struct HeaderIndex {
    entries: HashMap<u32, Arc<Entry>, foldhash::fast::FixedState>,
    /// By (header, value), and by (header, present).
    buckets: HashMap<u64, Vec<Arc<Entry>>, foldhash::fast::FixedState>,
    /// Bindings that wait for a header's mere presence.
    by_presence: usize,
    /// Bindings that match every message.
    always: Vec<(u32, Target)>,
}

fn present_bucket(key: &str) -> u64 {
    hash_octets(1, key.as_bytes())
}

fn value_bucket(key: &str, value: &FieldValue) -> u64 {
    hash_octets(hash_value(value), key.as_bytes())
}

fn bucket_of(key: &str, wanted: &FieldValue) -> u64 {
    if matches!(wanted, FieldValue::Void) {
        present_bucket(key)
    } else {
        value_bucket(key, wanted)
    }
}

impl HeaderIndex {
    pub(crate) fn insert(&mut self, id: u32, binding: &Arc<Binding>, target: Target) {
        let Some(rule) = Match::of(&binding.arguments) else {
            return;
        };
        let mut buckets: Vec<u64> = rule
            .effective(&binding.arguments)
            .map(|(key, wanted)| bucket_of(key, wanted))
            .collect();
        if !rule.any {
            if buckets.is_empty() {
                self.always.push((id, target));
                return;
            }
            // The emptiest bucket costs messages the least.
            let load = |bucket: &u64| self.buckets.get(bucket).map_or(0, Vec::len);
            let best = buckets.iter().copied().min_by_key(load);
            buckets.clear();
            buckets.extend(best);
        }
        buckets.sort_unstable();
        buckets.dedup();
        let entry = Arc::new(Entry {
            id,
            rule,
            target,
            binding: Arc::clone(binding),
            buckets,
        });
        self.by_presence += usize::from(entry.waits_for_presence());
        for bucket in &entry.buckets {
            self.buckets
                .entry(*bucket)
                .or_default()
                .push(Arc::clone(&entry));
        }
        self.entries.insert(id, entry);
    }

    pub(crate) fn remove(&mut self, id: u32) {
        let Some(entry) = self.entries.remove(&id) else {
            self.always.retain(|(other, _)| *other != id);
            return;
        };
        self.by_presence -= usize::from(entry.waits_for_presence());
        for bucket in &entry.buckets {
            if let Some(waiting) = self.buckets.get_mut(bucket) {
                if let Some(at) = waiting.iter().rposition(|other| other.id == id) {
                    waiting.swap_remove(at);
                }
                if waiting.is_empty() {
                    self.buckets.remove(bucket);
                }
            }
        }
        if self.entries.is_empty() {
            self.entries = HashMap::default();
            self.buckets = HashMap::default();
        }
    }

    /// Selects the destinations of all bindings that match; `headers` is asked only if some binding cares.
    pub(crate) fn select<'a>(
        &self,
        headers: impl FnOnce() -> Option<&'a FieldTable>,
        scratch: &mut Scratch,
    ) {
        for (_, target) in &self.always {
            scratch.select(*target);
        }
        if self.buckets.is_empty() {
            return;
        }
        let Some(headers) = headers() else {
            return;
        };
        let mut look = |bucket: u64| {
            for entry in self.buckets.get(&bucket).into_iter().flatten() {
                if entry.matches(headers) {
                    scratch.select(entry.target);
                }
            }
        };
        for (key, value) in headers {
            look(value_bucket(key.as_str(), value));
            if self.by_presence > 0 {
                look(present_bucket(key.as_str()));
            }
        }
    }

    /// # Panics
    /// When the index contradicts itself.
    pub(crate) fn check_invariants(&self) {
        let waiting: usize = self.buckets.values().map(Vec::len).sum();
        let expected: usize = self.entries.values().map(|entry| entry.buckets.len()).sum();
        assert_eq!(waiting, expected);
        assert!(self.buckets.values().all(|waiting| !waiting.is_empty()));
        let by_presence = self
            .entries
            .values()
            .filter(|entry| entry.waits_for_presence())
            .count();
        assert_eq!(by_presence, self.by_presence);
    }
}

impl Entry {
    fn waits_for_presence(&self) -> bool {
        self.rule
            .effective(&self.binding.arguments)
            .any(|(_, wanted)| matches!(wanted, FieldValue::Void))
    }
}
