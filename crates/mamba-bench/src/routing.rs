//! From exchange and routing key to queues, without the connection's cache in front.

use std::sync::{Arc, atomic::AtomicU64};

use mamba_routing::{
    Binding, MessageProperties, NoProperties, QueueHandle, RouteInput, Routes, RoutingTable,
};
use mamba_types::{FieldTable, FieldValue, QueueId};

use crate::Body;

const BINDINGS: u64 = 10_000;

pub(crate) const BODIES: &[Body] = &[
    Body {
        name: "routing/default",
        items: 1,
        prepare: || default(BINDINGS),
    },
    Body {
        name: "routing/direct-10000",
        items: 1,
        prepare: || direct(BINDINGS),
    },
    Body {
        name: "routing/fanout-100",
        items: 1,
        prepare: || fanout(100),
    },
    Body {
        name: "routing/topic-10000",
        items: 1,
        prepare: || topic(BINDINGS),
    },
    Body {
        name: "routing/headers-10000",
        items: 1,
        prepare: || headers(BINDINGS),
    },
    Body {
        name: "routing/bind-topic-10000",
        items: 1,
        prepare: || bind(BINDINGS),
    },
];

/// Routes to one of `count` queues by its name.
#[must_use]
pub fn default(count: u64) -> Box<dyn FnMut()> {
    let table = table("amq.fanout", count, |_| Default::default());
    route(table, "", "queue-0", NoProperties)
}

/// Routes by one of `count` keys.
#[must_use]
pub fn direct(count: u64) -> Box<dyn FnMut()> {
    let key = |n| (format!("key.{n}"), FieldTable::default());
    let table = table("amq.direct", count, key);
    route(table, "amq.direct", "key.0", NoProperties)
}

/// Routes to all of `count` queues.
#[must_use]
pub fn fanout(count: u64) -> Box<dyn FnMut()> {
    let table = table("amq.fanout", count, |_| Default::default());
    route(table, "amq.fanout", "key", NoProperties)
}

/// Routes by `count` patterns.
#[must_use]
pub fn topic(count: u64) -> Box<dyn FnMut()> {
    let table = table("amq.topic", count, |n| (pattern(n), Default::default()));
    route(table, "amq.topic", "region0.shop0.order.paid", NoProperties)
}

/// Routes by the headers of `count` bindings.
#[must_use]
pub fn headers(count: u64) -> Box<dyn FnMut()> {
    let table = table("amq.headers", count, |n| (String::new(), pairs(n)));
    route(table, "amq.headers", "", Headers(pairs(0)))
}

/// A queue comes, is bound and goes, next to `count` patterns.
///
/// # Panics
/// Never: both ends of the binding are there.
#[must_use]
pub fn bind(count: u64) -> Box<dyn FnMut()> {
    let mut table = table("amq.topic", count, |n| (pattern(n), Default::default()));
    let queue = Queue::new(count, "guest".to_owned());
    Box::new(move || {
        table.add_queue(queue.clone());
        table
            .bind(Binding::to_queue("amq.topic", "guest", "a.#.b"))
            .expect("both ends exist");
        assert!(!table.remove_queue("guest").bindings.is_empty());
    })
}

#[derive(Clone)]
struct Queue(Arc<(QueueId, Arc<str>, Arc<AtomicU64>)>);

impl Queue {
    fn new(number: u64, name: String) -> Self {
        Self(Arc::new((QueueId(number), name.into(), Arc::default())))
    }
}

impl QueueHandle for Queue {
    fn id(&self) -> QueueId {
        self.0.0
    }

    fn name(&self) -> &Arc<str> {
        &self.0.1
    }

    fn is_classic(&self) -> bool {
        true
    }

    fn generation(&self) -> &Arc<AtomicU64> {
        &self.0.2
    }
}

struct Headers(FieldTable);

impl MessageProperties for Headers {
    fn headers(&self) -> Option<&FieldTable> {
        Some(&self.0)
    }
}

fn pattern(number: u64) -> String {
    let region = number % 97;
    match number % 4 {
        0 => format!("region{region}.shop{number}.order.paid"),
        1 => format!("region{region}.*.order.item{number}"),
        2 => format!("region{region}.shop{number}.#"),
        _ => format!("#.shop{number}.audit"),
    }
}

fn pairs(number: u64) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("kind".into(), FieldValue::LongString("order".into()));
    table.insert("shop".into(), FieldValue::LongLongInt(number.cast_signed()));
    table
}

/// One queue per binding, named `queue-` and its number.
fn table(
    exchange: &str,
    count: u64,
    binding: impl Fn(u64) -> (String, FieldTable),
) -> RoutingTable<Queue> {
    let mut table = RoutingTable::new("/", 1);
    for number in 0..count {
        let name = format!("queue-{number}");
        table.add_queue(Queue::new(number, name.clone()));
        let (key, arguments) = binding(number);
        let binding = Binding::to_queue(exchange, name, key).with_arguments(arguments);
        table.bind(binding).expect("both ends exist");
    }
    table
}

fn route(
    table: RoutingTable<Queue>,
    exchange: &'static str,
    key: &'static str,
    properties: impl MessageProperties + 'static,
) -> Box<dyn FnMut()> {
    let mut routes = Routes::new();
    Box::new(move || {
        let keys = [key.as_bytes()];
        let input = RouteInput {
            keys: &keys,
            properties: &properties,
        };
        table
            .route(exchange, &input, &mut routes)
            .expect("the exchange exists");
        assert!(!routes.queues.is_empty());
    })
}
