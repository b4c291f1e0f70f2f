//! The routing table against a model that scans all bindings, under generated operations.
//!
//! After every operation the table checks itself and routes are compared; every route that was called cacheable is kept and
//! must still be what the model says for as long as its stamps are current.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use mamba_routing::{
    Binding, Bound, Declared, Destination, ExchangeSpec, RouteInput, Routes, RoutingTable, Stamp,
};
use mamba_types::{FieldTable, FieldValue, table::same_value};
use proptest::{collection::vec, prelude::*, sample::select};
use support::{Headers, Queue, arguments};

const EXCHANGES: [&str; 5] = ["x0", "x1", "x2", "x3", "x4"];
const QUEUES: [&str; 5] = ["q0", "q1", "q2", "q3", "a"];
const BINDING_KEYS: [&str; 16] = [
    "",
    "a",
    "b",
    "a.b",
    "a.*",
    "*.b",
    "#",
    "a.#",
    "#.b",
    "a.#.b",
    "*",
    "#.#",
    "*.#",
    "#.a.#.b.#",
    "a.",
    "q0",
];
const ROUTING_KEYS: [&str; 11] = [
    "", "a", "b", "a.b", "b.b", "a.c.b", "a.a.b.b", "x.y.z", ".", "a.", "q0",
];

#[derive(Clone, Debug)]
enum Operation {
    Declare {
        name: &'static str,
        kind: &'static str,
        auto_delete: bool,
        alternate: Option<&'static str>,
    },
    DeleteExchange {
        name: &'static str,
        if_unused: bool,
    },
    AddQueue(&'static str),
    RemoveQueue(&'static str),
    Bind(Binding),
    Unbind(Binding),
    PolicyAlternate(&'static str, Option<&'static str>),
}

fn header_table() -> impl Strategy<Value = FieldTable> {
    let value = prop_oneof![
        // Often enough the same that two of them meet.
        8 => Just(FieldValue::LongInt(1)),
        4 => Just(FieldValue::LongLongInt(1)),
        3 => Just(FieldValue::LongString("1".into())),
        1 => Just(FieldValue::ByteArray(b"1".as_slice().into())),
        1 => Just(FieldValue::Double(1.0)),
        1 => Just(FieldValue::Float(1.0)),
        1 => Just(FieldValue::Double(0.0)),
        1 => Just(FieldValue::Double(-0.0)),
        1 => Just(FieldValue::Double(f64::NAN)),
        1 => Just(FieldValue::Timestamp(1)),
        1 => Just(FieldValue::Boolean(true)),
        1 => Just(FieldValue::FieldArray(vec![FieldValue::LongInt(1)].into())),
        2 => Just(FieldValue::Void),
    ];
    vec((select(vec!["a", "b", "x-c"]), value), 0..4).prop_map(arguments)
}

fn binding() -> impl Strategy<Value = Binding> {
    let destination = prop_oneof![
        3 => select(&QUEUES).prop_map(|name| Destination::Queue(name.into())),
        1 => select(&EXCHANGES).prop_map(|name| Destination::Exchange(name.into())),
    ];
    let rule = select(vec![
        None,
        Some("all"),
        Some("any"),
        Some("all-with-x"),
        Some("any-with-x"),
    ]);
    (
        select(&EXCHANGES),
        destination,
        select(&BINDING_KEYS),
        prop_oneof![2 => Just(FieldTable::default()), 1 => header_table()],
        rule,
    )
        .prop_map(|(source, destination, key, mut arguments, rule)| {
            if let Some(rule) = rule {
                arguments.insert("x-match".into(), FieldValue::LongString(rule.into()));
            }
            Binding {
                source: source.into(),
                destination,
                routing_key: key.into(),
                arguments,
            }
        })
}

fn operation() -> impl Strategy<Value = Operation> {
    let alternate = || {
        prop_oneof![
            2 => Just(None),
            1 => select(vec!["x0", "x1", "x4", "", "amq.fanout"]).prop_map(Some),
        ]
    };
    let declare = (
        select(&EXCHANGES),
        select(vec!["direct", "fanout", "topic", "headers"]),
        any::<bool>(),
        alternate(),
    );
    prop_oneof![
        3 => declare.prop_map(|(name, kind, auto_delete, alternate)| Operation::Declare {
            name, kind, auto_delete, alternate,
        }),
        1 => (select(&EXCHANGES), any::<bool>())
            .prop_map(|(name, if_unused)| Operation::DeleteExchange { name, if_unused }),
        3 => select(&QUEUES).prop_map(Operation::AddQueue),
        1 => select(&QUEUES).prop_map(Operation::RemoveQueue),
        8 => binding().prop_map(Operation::Bind),
        3 => binding().prop_map(Operation::Unbind),
        1 => (select(&EXCHANGES), alternate())
            .prop_map(|(name, alternate)| Operation::PolicyAlternate(name, alternate)),
    ]
}

#[derive(Default)]
struct Model {
    exchanges: BTreeMap<String, ModelExchange>,
    queues: BTreeSet<String>,
    bindings: BTreeSet<Binding>,
}

#[derive(Clone, PartialEq)]
struct ModelExchange {
    kind: &'static str,
    auto_delete: bool,
    alternate: Option<&'static str>,
    policy: Option<&'static str>,
}

impl Model {
    fn exists(&self, destination: &Destination) -> bool {
        match destination {
            Destination::Queue(name) => self.queues.contains(&**name),
            Destination::Exchange(name) => self.exchanges.contains_key(&**name),
        }
    }

    /// Takes away every binding `gone` says, and the auto-delete exchanges that lose their last.
    fn drop_bindings(&mut self, gone: impl Fn(&Binding) -> bool) {
        let dropped: Vec<_> = self
            .bindings
            .iter()
            .filter(|binding| gone(binding))
            .cloned()
            .collect();
        self.bindings.retain(|binding| !gone(binding));
        for binding in dropped {
            let left = self
                .bindings
                .iter()
                .any(|other| other.source == binding.source);
            let auto_delete = self
                .exchanges
                .get(&*binding.source)
                .is_some_and(|exchange| exchange.auto_delete);
            if auto_delete && !left {
                self.drop_exchange(&binding.source);
            }
        }
    }

    fn drop_exchange(&mut self, name: &str) {
        self.exchanges.remove(name);
        let destination = Destination::Exchange(name.into());
        self.drop_bindings(|binding| {
            *binding.source == *name || binding.destination == destination
        });
    }

    fn apply(&mut self, operation: &Operation) -> bool {
        match operation {
            Operation::Declare {
                name,
                kind,
                auto_delete,
                alternate,
            } => {
                let new = ModelExchange {
                    kind,
                    auto_delete: *auto_delete,
                    alternate: *alternate,
                    policy: None,
                };
                match self.exchanges.get(*name) {
                    None => {
                        self.exchanges.insert((*name).to_owned(), new);
                        true
                    }
                    Some(old) => {
                        *old == ModelExchange {
                            policy: old.policy,
                            ..new
                        }
                    }
                }
            }
            Operation::DeleteExchange { name, if_unused } => {
                let used = self
                    .bindings
                    .iter()
                    .any(|binding| *binding.source == **name);
                if *if_unused && used {
                    return false;
                }
                self.drop_exchange(name);
                true
            }
            Operation::AddQueue(name) => self.queues.insert((*name).to_owned()),
            Operation::RemoveQueue(name) => {
                self.queues.remove(*name);
                let destination = Destination::Queue((*name).into());
                self.drop_bindings(|binding| binding.destination == destination);
                true
            }
            Operation::Bind(binding) => {
                let possible = self.exchanges.contains_key(&*binding.source)
                    && self.exists(&binding.destination);
                if possible {
                    self.bindings.insert(binding.clone());
                }
                possible
            }
            Operation::Unbind(binding) => {
                self.drop_bindings(|other| other == binding);
                true
            }
            Operation::PolicyAlternate(name, alternate) => {
                let exchange = self.exchanges.get_mut(*name);
                exchange
                    .map(|exchange| exchange.policy = *alternate)
                    .is_some()
            }
        }
    }

    fn route(
        &self,
        exchange: &str,
        keys: &[&[u8]],
        headers: Option<&FieldTable>,
    ) -> BTreeSet<String> {
        let mut visited = BTreeSet::new();
        let mut queues = BTreeSet::new();
        let mut work = vec![exchange.to_owned()];
        while let Some(name) = work.pop() {
            if !visited.insert(name.clone()) {
                continue;
            }
            if name.is_empty() {
                let names = keys.iter().filter_map(|key| std::str::from_utf8(key).ok());
                queues.extend(
                    names
                        .filter(|name| self.queues.contains(*name))
                        .map(str::to_owned),
                );
                continue;
            }
            // The predeclared fanout has no bindings here.
            let Some(exchange) = self.exchanges.get(&name) else {
                continue;
            };
            let mut selected = false;
            for binding in self
                .bindings
                .iter()
                .filter(|binding| *binding.source == *name)
            {
                if matches(exchange.kind, binding, keys, headers) {
                    selected = true;
                    match &binding.destination {
                        Destination::Queue(name) => {
                            queues.insert(name.to_string());
                        }
                        Destination::Exchange(name) => work.push(name.to_string()),
                    }
                }
            }
            if !selected {
                work.extend(exchange.alternate.or(exchange.policy).map(str::to_owned));
            }
        }
        queues
    }
}

fn matches(kind: &str, binding: &Binding, keys: &[&[u8]], headers: Option<&FieldTable>) -> bool {
    match kind {
        "direct" => keys.contains(&binding.routing_key.as_bytes()),
        "fanout" => true,
        "topic" => keys
            .iter()
            .any(|key| topic_matches(&words(binding.routing_key.as_bytes()), &words(key))),
        _ => headers_match(&binding.arguments, headers),
    }
}

fn words(key: &[u8]) -> Vec<&[u8]> {
    if key.is_empty() {
        return Vec::new();
    }
    key.split(|octet| *octet == b'.').collect()
}

fn topic_matches(pattern: &[&[u8]], key: &[&[u8]]) -> bool {
    match (pattern, key) {
        ([], []) => true,
        ([b"#", rest @ ..], _) => {
            (0..=key.len()).any(|skipped| topic_matches(rest, &key[skipped..]))
        }
        ([b"*", rest @ ..], [_, key @ ..]) => topic_matches(rest, key),
        ([word, rest @ ..], [first, key @ ..]) => word == first && topic_matches(rest, key),
        _ => false,
    }
}

fn headers_match(arguments: &FieldTable, headers: Option<&FieldTable>) -> bool {
    let rule = arguments
        .inner()
        .get("x-match")
        .and_then(mamba_types::table::text)
        .unwrap_or("all");
    let mut pairs = arguments.into_iter().filter(|(key, _)| {
        key.as_str() != "x-match" && (rule.ends_with("-with-x") || !key.as_str().starts_with("x-"))
    });
    let fits = |(key, wanted): (&mamba_types::table::ShortString, &FieldValue)| {
        let found = headers.and_then(|headers| headers.inner().get(key.as_str()));
        found.is_some_and(|value| *wanted == FieldValue::Void || same_value(wanted, value))
    };
    if rule.starts_with("any") {
        pairs.any(fits)
    } else {
        pairs.all(fits)
    }
}

struct Cached {
    exchange: &'static str,
    key: &'static str,
    queues: BTreeSet<String>,
    stamps: Vec<Stamp>,
}

struct Run {
    table: RoutingTable<Queue>,
    model: Model,
    routes: Routes<Queue>,
    cached: Vec<Cached>,
    queue_number: u64,
}

impl Run {
    fn apply(&mut self, operation: &Operation) {
        let table = &mut self.table;
        let before: BTreeSet<Binding> = table.bindings().cloned().collect();
        let gone_before = self.model.exchanges.len();
        let is_new = self.model.bindings.len();
        let expected = self.model.apply(operation);
        let mut removed = None;
        let succeeded = match operation {
            Operation::Declare {
                name,
                kind,
                auto_delete,
                alternate,
            } => {
                let mut arguments = FieldTable::default();
                if let Some(alternate) = alternate {
                    let value = FieldValue::LongString((*alternate).into());
                    arguments.insert("alternate-exchange".into(), value);
                }
                let declared = table.declare(ExchangeSpec {
                    name: (*name).into(),
                    kind: (*kind).into(),
                    durable: true,
                    auto_delete: *auto_delete,
                    internal: false,
                    arguments,
                });
                if let Ok(declared) = &declared {
                    let new = matches!(declared, Declared::New(_));
                    assert_eq!(new, self.model.exchanges.len() > gone_before);
                }
                declared.is_ok()
            }
            Operation::DeleteExchange { name, if_unused } => {
                match table.delete_exchange(name, *if_unused) {
                    Ok(gone) => {
                        removed = Some(gone);
                        true
                    }
                    Err(_) => false,
                }
            }
            Operation::AddQueue(name) => {
                self.queue_number += 1;
                if table.queue(name).is_some() {
                    false
                } else {
                    table.add_queue(Queue::new(self.queue_number, name));
                    true
                }
            }
            Operation::RemoveQueue(name) => {
                removed = Some(table.remove_queue(name));
                true
            }
            Operation::Bind(binding) => match table.bind(binding.clone()) {
                Ok(bound) => {
                    assert_eq!(bound == Bound::New, self.model.bindings.len() > is_new);
                    true
                }
                Err(_) => false,
            },
            Operation::Unbind(binding) => {
                removed = Some(table.unbind(binding));
                true
            }
            Operation::PolicyAlternate(name, alternate) => {
                table.set_policy_alternate(name, alternate.map(Into::into))
            }
        };
        assert_eq!(succeeded, expected, "{operation:?}");
        self.compare(&before, removed);
    }

    fn compare(&mut self, before: &BTreeSet<Binding>, removed: Option<mamba_routing::Removed>) {
        self.table.check_invariants();
        let bindings: Vec<Binding> = self.table.bindings().cloned().collect();
        let expected: Vec<Binding> = self.model.bindings.iter().cloned().collect();
        assert_eq!(bindings, expected);
        if let Some(removed) = removed {
            let told: BTreeSet<Binding> = removed
                .bindings
                .iter()
                .map(|gone| (*gone.binding).clone())
                .collect();
            let gone: BTreeSet<Binding> =
                before.difference(&self.model.bindings).cloned().collect();
            assert_eq!(told, gone);
            assert_eq!(told.len(), removed.bindings.len(), "each is reported once");
            for exchange in removed.exchanges {
                assert!(!self.model.exchanges.contains_key(&*exchange.spec.name));
            }
        }
        let own = self
            .table
            .exchanges()
            .filter(|exchange| exchange.spec().name.starts_with('x'));
        assert!(
            own.map(|exchange| &*exchange.spec().name).eq(self
                .model
                .exchanges
                .keys()
                .map(String::as_str))
        );
        for cached in &self.cached {
            if cached.stamps.iter().all(Stamp::is_current) {
                let now = self
                    .model
                    .route(cached.exchange, &[cached.key.as_bytes()], None);
                assert_eq!(
                    cached.queues, now,
                    "a current stamp lies: {} {:?}",
                    cached.exchange, cached.key
                );
            }
        }
        self.cached
            .retain(|cached| cached.stamps.iter().all(Stamp::is_current));
    }

    fn route(
        &mut self,
        exchange: &'static str,
        keys: &[&'static str],
        headers: Option<&FieldTable>,
    ) {
        let octets: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
        let properties = Headers(headers.cloned());
        let input = RouteInput {
            keys: &octets,
            properties: &properties,
        };
        let routed = self.table.route(exchange, &input, &mut self.routes);
        let known = exchange.is_empty() || self.model.exchanges.contains_key(exchange);
        assert_eq!(routed.is_ok(), known);
        if !known {
            return;
        }
        let found: Vec<String> = self
            .routes
            .queues
            .iter()
            .map(|queue| queue.name().to_owned())
            .collect();
        let queues: BTreeSet<String> = found.iter().cloned().collect();
        assert_eq!(queues.len(), found.len(), "one copy per queue");
        assert_eq!(
            queues,
            self.model.route(exchange, &octets, headers),
            "{exchange} {keys:?} {headers:?}"
        );
        if let ([key], None, true) = (keys, headers, self.routes.cacheable) {
            self.cached.push(Cached {
                exchange,
                key,
                queues,
                stamps: self.routes.stamps.clone(),
            });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_table_does_what_the_model_does(
        operations in vec(operation(), 1..80),
        headers in vec(header_table(), 4),
    ) {
        let mut run = Run {
            table: RoutingTable::new("/", 7),
            model: Model::default(),
            routes: Routes::new(),
            cached: Vec::new(),
            queue_number: 0,
        };
        for (step, operation) in operations.iter().enumerate() {
            run.apply(operation);
            let key = ROUTING_KEYS[step % ROUTING_KEYS.len()];
            let other = ROUTING_KEYS[(step * 7 + 3) % ROUTING_KEYS.len()];
            for exchange in EXCHANGES.into_iter().chain([""]) {
                run.route(exchange, &[key], None);
                run.route(exchange, &[other, key], Some(&headers[step % headers.len()]));
            }
        }
    }
}
