//! Queues without a broker, and arguments in one line.

#![allow(dead_code, reason = "every test file uses its part")]

use std::sync::{Arc, atomic::AtomicU64};

use mamba_routing::{MessageProperties, QueueHandle, RouteInput, Routes, RoutingTable};
use mamba_types::{FieldTable, FieldValue, QueueId};

/// A queue that only routing knows.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    id: u64,
    name: Arc<str>,
    classic: bool,
    generation: Arc<AtomicU64>,
}

impl Queue {
    pub(crate) fn new(id: u64, name: &str) -> Self {
        Self {
            id,
            name: name.into(),
            classic: true,
            generation: Arc::default(),
        }
    }

    pub(crate) fn quorum(id: u64, name: &str) -> Self {
        Self {
            classic: false,
            ..Self::new(id, name)
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl QueueHandle for Queue {
    fn id(&self) -> QueueId {
        QueueId(self.id)
    }

    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn is_classic(&self) -> bool {
        self.classic
    }

    fn generation(&self) -> &Arc<AtomicU64> {
        &self.generation
    }
}

/// A message that has headers and nothing else.
pub(crate) struct Headers(pub(crate) Option<FieldTable>);

impl MessageProperties for Headers {
    fn headers(&self) -> Option<&FieldTable> {
        self.0.as_ref()
    }
}

pub(crate) fn arguments<'a>(pairs: impl IntoIterator<Item = (&'a str, FieldValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in pairs {
        table.insert(key.into(), value);
    }
    table
}

pub(crate) fn text(value: &str) -> FieldValue {
    FieldValue::LongString(value.into())
}

/// The names of the queues a message reaches.
#[track_caller]
pub(crate) fn route(
    table: &RoutingTable<Queue>,
    exchange: &str,
    keys: &[&str],
    properties: &dyn MessageProperties,
) -> Vec<String> {
    let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
    let mut routes = Routes::new();
    let input = RouteInput {
        keys: &keys,
        properties,
    };
    table
        .route(exchange, &input, &mut routes)
        .expect("the exchange exists");
    routes
        .queues
        .iter()
        .map(|queue| queue.name().to_owned())
        .collect()
}
