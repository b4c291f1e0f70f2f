//! Events for whoever watches the node with a client: what is made and deleted, who connects, logs in or is refused. With
//! [`BrokerConfig::event_vhost`](crate::BrokerConfig::event_vhost) they go to the topic exchange `amq.rabbitmq.event` of that virtual
//! host, the event's name as routing key, all that is known in the headers, as RabbitMQ's event exchange plugin has them.
//!
//! Sources never wait: an event goes into a list of limited length, and one thread publishes what is in it. What does not fit is
//! counted and dropped.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use mamba_codec::{Properties, encode_table};
use mamba_routing::{Binding, Destination, ExchangeSpec, Removed};
use mamba_types::{FieldTable, FieldValue, table};
use parking_lot::Mutex;

use crate::{broker::Broker, queue_cell::QueueCell, vhost::Vhost};

/// Where events go.
pub(crate) const EVENT_EXCHANGE: &str = "amq.rabbitmq.event";
/// Events that may wait to be published.
const WAITING_MAX: usize = 4096;
/// Who acts when nobody is named: an operator on this machine.
const OPERATOR: &str = "rmq-cli";

thread_local! {
    /// In whose name this thread acts.
    static ACTOR: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
}

/// While it lives, what its thread does is done in somebody's name. An argument of every method that changes something would be the
/// alternative, for the sake of one header that is off by default.
#[derive(Debug)]
#[must_use]
pub struct Acting(Option<Arc<str>>);

impl Acting {
    /// Acts in the name of `user` from now on.
    pub fn as_user(user: &Arc<str>) -> Self {
        Self(ACTOR.replace(Some(Arc::clone(user))))
    }
}

impl Drop for Acting {
    fn drop(&mut self) {
        ACTOR.set(self.0.take());
    }
}

/// Something that happened.
#[derive(Debug)]
pub struct Event {
    /// Its name, such as `queue.created`.
    name: &'static str,
    headers: FieldTable,
}

/// Where sources leave their events.
#[derive(Debug)]
pub(crate) struct Events {
    vhost: String,
    sender: SyncSender<Event>,
    /// Until somebody publishes.
    receiver: Mutex<Option<Receiver<Event>>>,
    dropped: AtomicU64,
}

impl Events {
    pub(crate) fn new(vhost: String) -> Self {
        let (sender, receiver) = sync_channel(WAITING_MAX);
        Self {
            vhost,
            sender,
            receiver: Mutex::new(Some(receiver)),
            dropped: AtomicU64::new(0),
        }
    }
}

/// What is said of an event.
pub(crate) struct Headers(FieldTable);

impl Headers {
    pub(crate) fn put(&mut self, name: &str, value: FieldValue) -> &mut Self {
        self.0.insert(name.into(), value);
        self
    }

    pub(crate) fn text(&mut self, name: &str, text: &str) -> &mut Self {
        self.put(name, FieldValue::LongString(text.into()))
    }

    pub(crate) fn flag(&mut self, name: &str, flag: bool) -> &mut Self {
        self.put(name, FieldValue::Boolean(flag))
    }

    pub(crate) fn number(&mut self, name: &str, number: impl TryInto<i64>) -> &mut Self {
        let number = number.try_into().unwrap_or(i64::MAX);
        self.put(name, FieldValue::LongLongInt(number))
    }

    pub(crate) fn texts<'t>(
        &mut self,
        name: &str,
        texts: impl IntoIterator<Item = &'t str>,
    ) -> &mut Self {
        let texts = texts
            .into_iter()
            .map(|text| FieldValue::LongString(text.into()));
        self.put(
            name,
            FieldValue::FieldArray(texts.collect::<Vec<_>>().into()),
        )
    }

    /// A table as a list of terms: `{<<"x-max-length">>,signedint,5}`.
    pub(crate) fn arguments(&mut self, name: &str, arguments: &FieldTable) -> &mut Self {
        let terms: Vec<String> = arguments
            .inner()
            .iter()
            .map(|(name, value)| entry(name.as_str(), value))
            .collect();
        self.texts(name, terms.iter().map(String::as_str))
    }

    /// Any JSON.
    pub(crate) fn json(&mut self, name: &str, value: &serde_json::Value) -> &mut Self {
        let fields = serde_json::Map::from_iter([(name.to_owned(), value.clone())]);
        // What is no value of a table has no place here.
        if let Ok(table) = mamba_policy::table_from_json(&fields) {
            for (name, value) in table.inner() {
                self.put(name.as_str(), value.clone());
            }
        }
        self
    }

    /// All fields of a JSON object.
    pub(crate) fn fields(
        &mut self,
        fields: &serde_json::Map<String, serde_json::Value>,
    ) -> &mut Self {
        for (name, value) in fields {
            self.json(name, value);
        }
        self
    }

    /// An end of a connection.
    pub(crate) fn address(&mut self, name: &str, address: SocketAddr) -> &mut Self {
        let address = match address.ip().to_canonical() {
            IpAddr::V4(v4) => joined(v4.octets()),
            IpAddr::V6(v6) => joined(v6.segments()),
        };
        self.text(name, &format!("{{{address}}}"))
    }

    /// Who did it.
    pub(crate) fn actor(&mut self) -> &mut Self {
        let actor = ACTOR.with_borrow(Clone::clone);
        self.text(
            "user_who_performed_action",
            actor.as_deref().unwrap_or(OPERATOR),
        )
    }
}

fn joined<T: ToString>(parts: impl IntoIterator<Item = T>) -> String {
    let parts: Vec<String> = parts.into_iter().map(|part| part.to_string()).collect();
    parts.join(",")
}

fn entry(name: &str, value: &FieldValue) -> String {
    format!(
        "{{<<\"{name}\">>,{},{}}}",
        table::type_word(value),
        term(value)
    )
}

/// A value as the plugin prints it.
fn term(value: &FieldValue) -> String {
    match value {
        FieldValue::FieldTable(fields) => {
            let entries = fields.inner().iter();
            let entries = entries.map(|(name, value)| entry(name.as_str(), value));
            format!("[{}]", joined(entries))
        }
        FieldValue::FieldArray(items) => {
            let item = |item: &FieldValue| format!("{{{},{}}}", table::type_word(item), term(item));
            format!("[{}]", joined(items.as_slice().iter().map(item)))
        }
        other if table::octets(other).is_some() => {
            let mut text = String::new();
            // Writing to a string does not fail.
            let _ = write!(text, "<<\"{}\">>", table::bare(other));
            text
        }
        other => table::bare(other),
    }
}

impl Broker {
    /// Notes that something happened; costs nothing when nobody is to know.
    pub(crate) fn tell(&self, name: &'static str, describe: impl FnOnce(&mut Headers)) {
        let Some(events) = &self.events else { return };
        let mut headers = Headers(BTreeMap::new().into());
        describe(&mut headers);
        let event = Event {
            name,
            headers: headers.0,
        };
        if events.sender.try_send(event).is_err() {
            events.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether events are told.
    pub(crate) const fn tells(&self) -> bool {
        self.events.is_some()
    }

    /// The list of events to be published, for one thread; `None` when there are none, or another one has it. Each goes to
    /// [`Self::publish_event`]. The list ends with the broker.
    #[must_use]
    pub fn take_events(&self) -> Option<Receiver<Event>> {
        self.events.as_ref()?.receiver.lock().take()
    }

    /// Publishes an event; `unix_ms` is the time, in milliseconds since 1970.
    pub fn publish_event(&self, event: Event, unix_ms: u64) {
        let Some(events) = &self.events else { return };
        let dropped = events.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(dropped, "more events than could be published at the time");
        }
        let Some(vhost) = self.vhost(&events.vhost) else {
            return;
        };
        let mut headers = Headers(event.headers);
        headers.number("timestamp_in_ms", unix_ms);
        let headers = encode_table(&headers.0);
        let properties = Properties {
            headers: Some(&headers),
            delivery_mode: Some(2),
            timestamp: Some(unix_ms / 1000),
            ..Properties::default()
        };
        // The exchange was made with its virtual host.
        let key = event.name.as_bytes();
        let _ = self.publish_own(&vhost, EVENT_EXCHANGE, key, &properties, b"");
    }

    /// Tells of a queue that was made.
    pub(crate) fn tell_queue_made(&self, queue: &QueueCell) {
        self.tell("queue.created", |event| {
            let declaration = &queue.declaration;
            let owner = declaration.exclusive_owner;
            event
                .text("name", &queue.name)
                .text("vhost", &queue.vhost)
                .text("type", queue_type(queue))
                .flag("durable", declaration.durable)
                .flag("auto_delete", declaration.auto_delete)
                .flag("exclusive", owner.is_some())
                .text(
                    "owner_pid",
                    &owner.map_or_else(String::new, |id| self.pid(id)),
                )
                .text("leader", &self.config.node_name)
                .texts("members", [&*self.config.node_name])
                .arguments("arguments", &declaration.arguments)
                .actor();
        });
    }

    /// Tells of a queue that is gone.
    pub(crate) fn tell_queue_gone(&self, queue: &QueueCell) {
        self.tell("queue.deleted", |event| {
            event
                .text("name", &queue.name)
                .text("vhost", &queue.vhost)
                .text("type", queue_type(queue))
                .actor();
        });
    }

    /// Tells of an exchange that was made.
    pub(crate) fn tell_exchange_made(&self, vhost: &Vhost, spec: &ExchangeSpec) {
        self.tell("exchange.created", |event| {
            let policy = vhost.policies_of_exchange(&spec.name).policy;
            event
                .text("name", &spec.name)
                .text("vhost", &vhost.name)
                .text("type", &spec.kind)
                .flag("durable", spec.durable)
                .flag("auto_delete", spec.auto_delete)
                .flag("internal", spec.internal)
                .text("policy", policy.as_deref().unwrap_or_default())
                .arguments("arguments", &spec.arguments)
                .actor();
        });
    }

    /// Tells of an exchange that is gone.
    pub(crate) fn tell_exchange_gone(&self, vhost: &Vhost, name: &str) {
        self.tell("exchange.deleted", |event| {
            event.text("name", name).text("vhost", &vhost.name).actor();
        });
    }

    /// Tells of a binding that was made or is gone.
    pub(crate) fn tell_binding(&self, name: &'static str, vhost: &Vhost, binding: &Binding) {
        self.tell(name, |event| {
            let (kind, destination) = match &binding.destination {
                Destination::Queue(name) => ("queue", name),
                Destination::Exchange(name) => ("exchange", name),
            };
            event
                .text("source_name", &binding.source)
                .text("source_kind", "exchange")
                .text("destination_name", destination)
                .text("destination_kind", kind)
                .text("routing_key", &binding.routing_key)
                .text("vhost", &vhost.name)
                .arguments("arguments", &binding.arguments)
                .actor();
        });
    }

    /// Tells of everything that a deletion took with it.
    pub(crate) fn tell_removed(&self, vhost: &Vhost, removed: &Removed) {
        if !self.tells() {
            return;
        }
        for gone in &removed.exchanges {
            self.tell_exchange_gone(vhost, &gone.spec.name);
        }
        for gone in &removed.bindings {
            self.tell_binding("binding.deleted", vhost, &gone.binding);
        }
    }

    /// Tells of a parameter that was set, or with `value: None` cleared.
    pub(crate) fn tell_parameter(
        &self,
        vhost: Option<&str>,
        component: &str,
        name: &str,
        value: Option<&serde_json::Value>,
    ) {
        let told = match value {
            Some(_) => "parameter.set",
            None => "parameter.cleared",
        };
        self.tell(told, |event| {
            event.text("component", component).text("name", name);
            if let Some(vhost) = vhost {
                event.text("vhost", vhost);
            }
            if let Some(value) = value {
                event.json("value", value);
            }
            event.actor();
        });
    }

    /// A connection as events call it, by its number.
    pub(crate) fn pid(&self, connection: u64) -> String {
        format!("<{}.{connection}.0>", self.config.node_name)
    }
}

fn queue_type(queue: &QueueCell) -> &'static str {
    if queue.is_quorum() {
        "rabbit_quorum_queue"
    } else {
        "rabbit_classic_queue"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_terms() {
        let mut inner = FieldTable::default();
        inner.insert("a".into(), FieldValue::Boolean(true));
        for (value, expected) in [
            (FieldValue::LongInt(5), "{<<\"k\">>,signedint,5}"),
            (
                FieldValue::LongString("classic".into()),
                "{<<\"k\">>,longstr,<<\"classic\">>}",
            ),
            (
                FieldValue::FieldTable(inner),
                "{<<\"k\">>,table,[{<<\"a\">>,bool,true}]}",
            ),
            (
                FieldValue::FieldArray(vec![FieldValue::LongInt(1)].into()),
                "{<<\"k\">>,array,[{signedint,1}]}",
            ),
        ] {
            assert_eq!(entry("k", &value), expected);
        }
    }

    #[test]
    fn whoever_acts_is_named_until_it_is_over() {
        let actor = || {
            let mut headers = Headers(FieldTable::default());
            headers.actor();
            let value = headers.0.inner().values().next().cloned();
            value.and_then(|value| table::text(&value).map(str::to_owned))
        };
        assert_eq!(actor().unwrap(), OPERATOR);
        let acting = Acting::as_user(&"ann".into());
        assert_eq!(actor().unwrap(), "ann");
        {
            let _other = Acting::as_user(&"bob".into());
            assert_eq!(actor().unwrap(), "bob");
        }
        assert_eq!(actor().unwrap(), "ann");
        drop(acting);
        assert_eq!(actor().unwrap(), OPERATOR);
    }
}
