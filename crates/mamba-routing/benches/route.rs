//! Routes without the connection's cache in front.

use std::sync::{Arc, atomic::AtomicU64};

use divan::Bencher;
use mamba_routing::{
    Binding, MessageProperties, NoProperties, QueueHandle, RouteInput, Routes, RoutingTable,
};
use mamba_types::{FieldTable, FieldValue, QueueId};

fn main() {
    divan::main();
}

#[derive(Clone)]
struct Queue(Arc<(QueueId, String, Arc<AtomicU64>)>);

impl QueueHandle for Queue {
    fn id(&self) -> QueueId {
        self.0.0
    }

    fn name(&self) -> &str {
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

const BINDINGS: [u64; 4] = [1, 100, 10_000, 100_000];

/// One queue per binding, bound by `key`.
fn table(
    exchange: &str,
    count: u64,
    binding: impl Fn(u64) -> (String, FieldTable),
) -> RoutingTable<Queue> {
    let mut table = RoutingTable::new("/", 1);
    for number in 0..count {
        let name = format!("queue-{number}");
        table.add_queue(Queue(Arc::new((
            QueueId(number),
            name.clone(),
            Arc::default(),
        ))));
        let (key, arguments) = binding(number);
        let binding = Binding::to_queue(exchange, name, key).with_arguments(arguments);
        table.bind(binding).expect("both ends exist");
    }
    table
}

fn measure(
    bencher: Bencher<'_, '_>,
    table: &RoutingTable<Queue>,
    exchange: &str,
    key: &str,
    properties: &dyn MessageProperties,
) {
    let mut routes = Routes::new();
    let keys = [key.as_bytes()];
    let input = RouteInput {
        keys: &keys,
        properties,
    };
    bencher.bench_local(|| {
        table
            .route(exchange, &input, &mut routes)
            .expect("the exchange exists");
        routes.queues.len()
    });
}

#[divan::bench(args = BINDINGS)]
fn default(bencher: Bencher<'_, '_>, count: u64) {
    let table = table("amq.fanout", count, |_| {
        (String::new(), FieldTable::default())
    });
    measure(bencher, &table, "", "queue-0", &NoProperties);
}

#[divan::bench(args = BINDINGS)]
fn direct(bencher: Bencher<'_, '_>, count: u64) {
    let table = table("amq.direct", count, |n| {
        (format!("key.{n}"), FieldTable::default())
    });
    measure(bencher, &table, "amq.direct", "key.0", &NoProperties);
}

#[divan::bench(args = [1, 100, 10_000])]
fn fanout(bencher: Bencher<'_, '_>, count: u64) {
    let table = table("amq.fanout", count, |_| {
        (String::new(), FieldTable::default())
    });
    measure(bencher, &table, "amq.fanout", "key", &NoProperties);
}

#[divan::bench(args = BINDINGS)]
fn topic(bencher: Bencher<'_, '_>, count: u64) {
    let table = table("amq.topic", count, |n| {
        let key = match n % 4 {
            0 => format!("region{}.shop{n}.order.paid", n % 97),
            1 => format!("region{}.*.order.item{n}", n % 97),
            2 => format!("region{}.shop{n}.#", n % 97),
            _ => format!("#.shop{n}.audit"),
        };
        (key, FieldTable::default())
    });
    measure(
        bencher,
        &table,
        "amq.topic",
        "region0.shop0.order.paid",
        &NoProperties,
    );
}

#[divan::bench(args = BINDINGS)]
fn headers(bencher: Bencher<'_, '_>, count: u64) {
    let pairs = |n: u64| {
        let mut table = FieldTable::default();
        table.insert("kind".into(), FieldValue::LongString("order".into()));
        table.insert("shop".into(), FieldValue::LongLongInt(n.cast_signed()));
        table
    };
    let table = table("amq.headers", count, |n| (String::new(), pairs(n)));
    measure(bencher, &table, "amq.headers", "", &Headers(pairs(0)));
}

/// A queue comes, is bound and goes, next to many bindings.
#[divan::bench(args = BINDINGS)]
fn bind_and_remove(bencher: Bencher<'_, '_>, count: u64) {
    let mut table = table("amq.topic", count, |n| {
        (format!("region{}.shop{n}.#", n % 97), FieldTable::default())
    });
    let queue = Queue(Arc::new((QueueId(count), "guest".into(), Arc::default())));
    bencher.bench_local(|| {
        table.add_queue(queue.clone());
        table
            .bind(Binding::to_queue("amq.topic", "guest", "a.#.b"))
            .expect("both ends exist");
        table.remove_queue("guest").bindings.len()
    });
}
