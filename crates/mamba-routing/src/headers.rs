//! Headers bindings, found by the values they ask for (`spec: semantics §3.2`).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use mamba_types::{FieldTable, FieldValue, table};

use crate::binding::Destination;

/// How a binding's arguments combine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Match {
    any: bool,
    with_x: bool,
}

impl Match {
    fn of(arguments: &FieldTable) -> Self {
        let word = arguments
            .inner()
            .get("x-match")
            .and_then(table::text)
            .unwrap_or("all");
        Self {
            any: word.starts_with("any"),
            with_x: word.ends_with("-with-x"),
        }
    }

    fn counts(self, key: &str) -> bool {
        if self.with_x {
            key != "x-match"
        } else {
            !key.starts_with("x-")
        }
    }
}

/// A value reduced to what equality looks at. Collisions are sorted out by comparing the values.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Reduced {
    Integer(i64),
    Float(u64),
    Octets(Vec<u8>),
    Other(String),
}

impl Reduced {
    fn of(value: &FieldValue) -> Self {
        if let Some(number) = table::integer(value) {
            return Self::Integer(number);
        }
        if let Some(octets) = table::octets(value) {
            return Self::Octets(octets.to_vec());
        }
        match value {
            // Adding 0.0 turns -0.0 into 0.0, which it equals.
            FieldValue::Float(v) => Self::Float((f64::from(*v) + 0.0).to_bits()),
            FieldValue::Double(v) => Self::Float((v + 0.0).to_bits()),
            other => Self::Other(format!("{other:?}")),
        }
    }
}

#[derive(Debug)]
struct Entry {
    rule: Match,
    wanted: Vec<(String, FieldValue)>,
    destination: Destination,
    arguments: FieldTable,
}

impl Entry {
    fn accepts(&self, headers: &FieldTable) -> bool {
        let holds = |(key, wanted): &(String, FieldValue)| {
            headers.inner().get(key.as_str()).is_some_and(|value| {
                *wanted == FieldValue::Void || table::same_value(wanted, value)
            })
        };
        if self.rule.any {
            self.wanted.iter().any(holds)
        } else {
            self.wanted.iter().all(holds)
        }
    }
}

type Ids = BTreeSet<u64>;

/// The bindings of a headers exchange: `all` stands under its first pair, `any` under each, so that a message's own
/// headers lead to the few bindings worth a look.
#[derive(Debug, Default)]
pub(crate) struct HeaderIndex {
    entries: BTreeMap<u64, Entry>,
    next: u64,
    by_value: HashMap<(String, Reduced), Ids, foldhash::fast::FixedState>,
    by_presence: HashMap<String, Ids, foldhash::fast::FixedState>,
    /// `all` without a condition.
    always: Ids,
}

impl HeaderIndex {
    pub(crate) fn add(&mut self, arguments: &FieldTable, destination: &Destination) {
        let rule = Match::of(arguments);
        let wanted: Vec<_> = arguments
            .into_iter()
            .filter(|(key, _)| rule.counts(key.as_str()))
            .map(|(key, value)| (key.as_str().to_owned(), value.clone()))
            .collect();
        let id = self.next;
        self.next += 1;
        let entry = Entry {
            rule,
            wanted,
            destination: destination.clone(),
            arguments: arguments.clone(),
        };
        self.for_each_place(&entry, |ids| {
            ids.insert(id);
        });
        self.entries.insert(id, entry);
    }

    pub(crate) fn remove(&mut self, arguments: &FieldTable, destination: &Destination) {
        let found = self
            .entries
            .iter()
            .find(|(_, entry)| entry.destination == *destination && entry.arguments == *arguments);
        let Some(id) = found.map(|(id, _)| *id) else {
            return;
        };
        if let Some(entry) = self.entries.remove(&id) {
            self.for_each_place(&entry, |ids| {
                ids.remove(&id);
            });
            self.by_value.retain(|_, ids| !ids.is_empty());
            self.by_presence.retain(|_, ids| !ids.is_empty());
        }
    }

    fn for_each_place(&mut self, entry: &Entry, mut act: impl FnMut(&mut Ids)) {
        if entry.wanted.is_empty() {
            if !entry.rule.any {
                act(&mut self.always);
            }
            return;
        }
        let places = if entry.rule.any {
            entry.wanted.len()
        } else {
            1
        };
        for (key, value) in entry.wanted.iter().take(places) {
            match value {
                FieldValue::Void => act(self.by_presence.entry(key.clone()).or_default()),
                value => act(self
                    .by_value
                    .entry((key.clone(), Reduced::of(value)))
                    .or_default()),
            }
        }
    }

    pub(crate) fn select(&self, headers: Option<&FieldTable>, selected: &mut Vec<Destination>) {
        let mut candidates = self.always.clone();
        if let Some(headers) = headers {
            for (key, value) in headers {
                let key = key.as_str().to_owned();
                candidates.extend(self.by_presence.get(&key).into_iter().flatten());
                candidates.extend(
                    self.by_value
                        .get(&(key, Reduced::of(value)))
                        .into_iter()
                        .flatten(),
                );
            }
        }
        let none = FieldTable::default();
        let headers = headers.unwrap_or(&none);
        let accepted = candidates
            .iter()
            .filter_map(|id| self.entries.get(id))
            .filter(|entry| entry.accepts(headers));
        selected.extend(accepted.map(|entry| entry.destination.clone()));
    }
}
