//! Exchanges, queues and bindings that survive a stop.

use mamba_types::QueueId;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;

/// A durable exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeDefinition {
    /// Virtual host.
    pub vhost: String,
    /// Name inside the virtual host.
    pub name: String,
    /// `direct`, `fanout`, `topic`, `headers` or an extension's.
    pub kind: String,
    /// Deleted with its last binding.
    pub auto_delete: bool,
    /// Only for exchange-to-exchange bindings.
    pub internal: bool,
    /// The arguments as an encoded field table; opaque here.
    #[serde(with = "octets")]
    pub arguments: Vec<u8>,
}

/// A durable queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueDefinition {
    /// Virtual host.
    pub vhost: String,
    /// Name inside the virtual host.
    pub name: String,
    /// The identity its messages carry in the log; from [`Definitions::next_queue_id`].
    #[serde(with = "queue_id")]
    pub id: QueueId,
    /// Deleted with its last consumer.
    pub auto_delete: bool,
    /// Belonged to one connection; kept so that the broker can tell what to delete at a start.
    pub exclusive: bool,
    /// The arguments as an encoded field table; opaque here.
    #[serde(with = "octets")]
    pub arguments: Vec<u8>,
}

/// What a binding leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DestinationKind {
    /// A queue.
    Queue,
    /// Another exchange.
    Exchange,
}

/// A durable binding: durable exchange to durable queue or exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingDefinition {
    /// Virtual host.
    pub vhost: String,
    /// The exchange messages come from.
    pub source: String,
    /// What `destination` names.
    pub destination_kind: DestinationKind,
    /// Queue or exchange messages go to.
    pub destination: String,
    /// Binding key.
    pub binding_key: String,
    /// The arguments as an encoded field table; opaque here. Part of the binding's identity.
    #[serde(with = "octets")]
    pub arguments: Vec<u8>,
}

/// Everything the database held at open, each list in key order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredDefinitions {
    /// Durable exchanges.
    pub exchanges: Vec<ExchangeDefinition>,
    /// Durable queues.
    pub queues: Vec<QueueDefinition>,
    /// Durable bindings.
    pub bindings: Vec<BindingDefinition>,
}

/// One change; a submission's changes become durable together or not at all.
#[derive(Clone, Debug)]
pub struct DefinitionChange;

impl DefinitionChange {
    /// Stores or replaces a definition.
    #[must_use]
    pub fn put<T: Stored>(_definition: &T) -> Self {
        Self
    }

    /// Removes the definition with this one's key; removing what is not there is no error.
    #[must_use]
    pub fn delete<T: Stored>(_definition: &T) -> Self {
        Self
    }
}

/// What can stand in the database: its table and its key. Another kind of definition is one more `impl`.
pub trait Stored: Serialize + for<'a> Deserialize<'a> {
    /// The table's name; part of the stored format.
    const TABLE: &'static str;

    /// The parts of the key, in order.
    fn key(&self) -> Vec<&[u8]>;
}

/// Handle to the definitions database; clones share it.
#[derive(Clone)]
pub struct Definitions;

impl Definitions {
    /// Hands over changes and returns at once. `done` runs on the database's thread, in the order of
    /// submission, after the changes are durable or have failed.
    pub fn submit(
        &self,
        _changes: Vec<DefinitionChange>,
        _done: Box<dyn FnOnce(Result<(), StoreError>) + Send>,
    ) {
        unimplemented!()
    }

    /// Waits until everything submitted before is durable or has failed.
    pub fn flush(&self) {
        unimplemented!()
    }

    /// A queue identity that was never given out before, on this start or an earlier one.
    #[must_use]
    pub fn next_queue_id(&self) -> QueueId {
        unimplemented!()
    }
}

mod octets {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    // Hexadecimal keeps the stored values readable and the format independent of a binary encoding's version.
    pub(super) fn serialize<S: Serializer>(octets: &[u8], to: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(octets.len() * 2);
        for octet in octets {
            text.push(char::from(DIGITS[usize::from(octet >> 4)]));
            text.push(char::from(DIGITS[usize::from(octet & 15)]));
        }
        to.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let digit = |octet: u8| {
            char::from(octet)
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
                .ok_or_else(|| D::Error::custom("not a hexadecimal digit"))
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if !rest.is_empty() {
            return Err(D::Error::custom("odd number of hexadecimal digits"));
        }
        pairs
            .iter()
            .map(|[high, low]| Ok(digit(*high)? << 4 | digit(*low)?))
            .collect()
    }
}

mod queue_id {
    use mamba_types::QueueId;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(id: &QueueId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(id.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<QueueId, D::Error> {
        u64::deserialize(from).map(QueueId)
    }
}
