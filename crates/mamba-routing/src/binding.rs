//! A binding and what makes two bindings the same one.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use mamba_types::{FieldTable, FieldValue};

/// Where a binding leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// An exchange's name.
    Exchange(Arc<str>),
    /// A queue's name.
    Queue(Arc<str>),
}

impl Destination {
    /// The name without its kind.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        match self {
            Self::Exchange(name) | Self::Queue(name) => name,
        }
    }
}

/// A binding. All four fields together are its identity: several bindings between the same two ends may
/// coexist (`spec: semantics §4`).
///
/// Arguments compare with their types: an `I` 5 and an `l` 5 make two bindings. The order is that of
/// listings: source, destination, binding key, arguments.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The exchange that messages come from.
    pub source: Arc<str>,
    /// Where they go.
    pub destination: Destination,
    /// The binding key.
    pub routing_key: Arc<str>,
    /// What the exchange's type makes of them, e.g. `x-match`.
    pub arguments: FieldTable,
}

impl Binding {
    /// A binding without arguments to a queue.
    pub fn to_queue(
        source: impl Into<Arc<str>>,
        queue: impl Into<Arc<str>>,
        routing_key: impl Into<Arc<str>>,
    ) -> Self {
        Self {
            source: source.into(),
            destination: Destination::Queue(queue.into()),
            routing_key: routing_key.into(),
            arguments: FieldTable::default(),
        }
    }

    /// A binding without arguments to an exchange.
    pub fn to_exchange(
        source: impl Into<Arc<str>>,
        exchange: impl Into<Arc<str>>,
        routing_key: impl Into<Arc<str>>,
    ) -> Self {
        Self {
            source: source.into(),
            destination: Destination::Exchange(exchange.into()),
            routing_key: routing_key.into(),
            arguments: FieldTable::default(),
        }
    }

    /// The same binding with these arguments.
    #[must_use]
    pub fn with_arguments(mut self, arguments: FieldTable) -> Self {
        self.arguments = arguments;
        self
    }
}

impl Ord for Binding {
    fn cmp(&self, other: &Self) -> Ordering {
        self.source
            .cmp(&other.source)
            .then_with(|| self.destination.cmp(&other.destination))
            .then_with(|| self.routing_key.cmp(&other.routing_key))
            .then_with(|| compare_tables(&self.arguments, &other.arguments))
    }
}

impl PartialOrd for Binding {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Binding {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Binding {}

impl Hash for Binding {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.source.hash(state);
        self.destination.hash(state);
        self.routing_key.hash(state);
        hash_table(&self.arguments, state);
    }
}

/// A total order, floats by their bits: equal means the same octets on the wire.
fn compare_tables(left: &FieldTable, right: &FieldTable) -> Ordering {
    let mut left = left.into_iter();
    let mut right = right.into_iter();
    loop {
        match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some((left_key, left_value)), Some((right_key, right_value))) => {
                let order = left_key
                    .cmp(right_key)
                    .then_with(|| compare_values(left_value, right_value));
                if order != Ordering::Equal {
                    return order;
                }
            }
        }
    }
}

fn compare_values(left: &FieldValue, right: &FieldValue) -> Ordering {
    use FieldValue as V;
    match (left, right) {
        (V::Boolean(l), V::Boolean(r)) => l.cmp(r),
        (V::ShortShortInt(l), V::ShortShortInt(r)) => l.cmp(r),
        (V::ShortShortUInt(l), V::ShortShortUInt(r)) => l.cmp(r),
        (V::ShortInt(l), V::ShortInt(r)) => l.cmp(r),
        (V::ShortUInt(l), V::ShortUInt(r)) => l.cmp(r),
        (V::LongInt(l), V::LongInt(r)) => l.cmp(r),
        (V::LongUInt(l), V::LongUInt(r)) => l.cmp(r),
        (V::LongLongInt(l), V::LongLongInt(r)) => l.cmp(r),
        (V::Float(l), V::Float(r)) => l.total_cmp(r),
        (V::Double(l), V::Double(r)) => l.total_cmp(r),
        (V::DecimalValue(l), V::DecimalValue(r)) => (l.scale, l.value).cmp(&(r.scale, r.value)),
        (V::ShortString(l), V::ShortString(r)) => l.cmp(r),
        (V::LongString(l), V::LongString(r)) => l.cmp(r),
        (V::Timestamp(l), V::Timestamp(r)) => l.cmp(r),
        (V::ByteArray(l), V::ByteArray(r)) => l.as_slice().cmp(r.as_slice()),
        (V::Void, V::Void) => Ordering::Equal,
        (V::FieldTable(l), V::FieldTable(r)) => compare_tables(l, r),
        (V::FieldArray(l), V::FieldArray(r)) => {
            let (l, r) = (l.as_slice(), r.as_slice());
            for (l, r) in l.iter().zip(r) {
                let order = compare_values(l, r);
                if order != Ordering::Equal {
                    return order;
                }
            }
            l.len().cmp(&r.len())
        }
        (l, r) => l.get_type().get_id().cmp(&r.get_type().get_id()),
    }
}

fn hash_table<H: Hasher>(table: &FieldTable, state: &mut H) {
    state.write_usize(table.inner().len());
    for (key, value) in table {
        key.hash(state);
        state.write_u8(value.get_type() as u8);
        match value {
            FieldValue::Boolean(v) => v.hash(state),
            FieldValue::LongString(v) => v.hash(state),
            FieldValue::Timestamp(v) => v.hash(state),
            // Rare in binding arguments: equality sorts out what shares a hash.
            other => mamba_types::table::integer(other).hash(state),
        }
    }
}
