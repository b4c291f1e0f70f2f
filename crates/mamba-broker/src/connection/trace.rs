//! The firehose: while a virtual host is traced, a copy of every message that a client publishes or gets goes to the exchange
//! `amq.rabbitmq.trace`, with routing key `publish.EXCHANGE` or `deliver.QUEUE`, the message's own body, and all else about it in
//! the headers.
//!
//! A connection looks once per turn whether its virtual host is traced. Copies are not copied again.

use mamba_codec::{Properties, RawValue, content_header, put_entry, put_value, scan_properties};
use mamba_queue::Stored;
use mamba_routing::TRACE_EXCHANGE;
use mamba_types::ChannelId;

use super::{Core, LoggedIn, consume::outgoing, publish::Route};
use crate::{
    broker::Broker,
    dead_letters::routing_keys,
    queue_cell::QueueCell,
    registry::{Presence, connection_name},
};

/// Room that a copy's other headers may need in its header frame, in octets: names of at most 255 octets, and keys.
const FRAME_ROOM: usize = 4096;

/// A message as its publisher sent it.
pub(super) struct Published<'a> {
    pub(super) exchange: &'a [u8],
    pub(super) routing_key: &'a [u8],
    /// Those of CC and BCC.
    pub(super) extra_keys: &'a [Vec<u8>],
    /// A content header's payload.
    pub(super) header: &'a [u8],
    pub(super) body: &'a [u8],
}

/// What a copy says of its message.
struct Copied<'a> {
    /// Its routing key: what happened, and where.
    happened: (&'a str, &'a [u8]),
    /// Only copies of publishes or of deliveries have this.
    own: (&'a [u8], RawValue<'a>),
    exchange: &'a [u8],
    routing_keys: &'a [&'a [u8]],
    header: &'a [u8],
    body: &'a [u8],
}

impl Core {
    /// Looks whether the virtual host is traced.
    pub(super) fn look_for_tracing(&mut self) {
        let login = self.login.as_ref();
        self.traced = login.is_some_and(|login| login.vhost.is_traced());
    }

    /// Copies a delivery, or what `basic.get` got, to the firehose.
    pub(super) fn trace_delivery(&self, id: ChannelId, queue: &QueueCell, stored: &Stored) {
        if let Some(login) = &self.login {
            Tracer::new(&self.broker, &self.presence, login).delivery(id, queue, stored);
        }
    }
}

/// Who publishes or gets what is copied.
pub(super) struct Tracer<'a> {
    broker: &'a Broker,
    presence: &'a Presence,
    login: &'a LoggedIn,
}

impl<'a> Tracer<'a> {
    pub(super) const fn new(
        broker: &'a Broker,
        presence: &'a Presence,
        login: &'a LoggedIn,
    ) -> Self {
        Self {
            broker,
            presence,
            login,
        }
    }

    /// Copies a publish to the firehose.
    pub(super) fn publish(&self, id: ChannelId, published: &Published<'_>, route: &Route) {
        let mut keys = vec![published.routing_key];
        keys.extend(published.extra_keys.iter().map(Vec::as_slice));
        let queues = route.queues.iter().map(|queue| queue.name.as_bytes());
        let queues: Vec<&[u8]> = queues.chain(route.reply()).collect();
        let queues = strings(&queues);
        let copied = Copied {
            happened: ("publish.", published.exchange),
            own: (b"routed_queues", array(&queues)),
            exchange: published.exchange,
            routing_keys: &keys,
            header: published.header,
            body: published.body,
        };
        self.copy(id, &copied);
    }

    fn delivery(&self, id: ChannelId, queue: &QueueCell, stored: &Stored) {
        if stored.message.exchange() == TRACE_EXCHANGE.as_bytes() {
            return;
        }
        let limits = &self.broker.config.limits;
        let message = outgoing(stored, queue.settings().counts_returns(), limits);
        let keys = routing_keys(&message, &properties(message.header(), limits));
        let redelivered = i32::from(stored.redelivered).to_be_bytes();
        let copied = Copied {
            happened: ("deliver.", queue.name.as_bytes()),
            own: (b"redelivered", number(&redelivered)),
            exchange: message.exchange(),
            routing_keys: &keys,
            header: message.header(),
            body: message.body(),
        };
        self.copy(id, &copied);
    }

    fn copy(&self, id: ChannelId, copied: &Copied<'_>) {
        // Publishers are held back while memory or disk is short; copies of deliveries would go on taking it.
        if self.broker.alarms().reason().is_some() {
            return;
        }
        let config = &self.broker.config;
        let (login, origin) = (self.login, &self.presence.origin);
        let mut properties = properties(copied.header, &config.limits);
        // The copy's header has to fit a frame as well.
        let room = (config.limits.frame_max as usize).saturating_sub(FRAME_ROOM);
        if copied.header.len() > room {
            properties.headers = None;
        }
        let connection = connection_name(origin.peer, origin.local);
        let mut headers = Vec::with_capacity(512 + copied.header.len());
        let mut entry = |name: &[u8], value: RawValue<'_>| put_entry(&mut headers, name, value);
        entry(b"channel", number(&i32::from(id.0).to_be_bytes()));
        entry(b"connection", string(connection.as_bytes()));
        entry(b"exchange_name", string(copied.exchange));
        entry(b"node", string(config.node_name.as_bytes()));
        entry(b"properties", table(&described(&properties)));
        entry(copied.own.0, copied.own.1);
        entry(b"routing_keys", array(&strings(copied.routing_keys)));
        entry(b"user", string(login.user.name.as_bytes()));
        entry(b"vhost", string(login.vhost.name.as_bytes()));
        let properties = Properties {
            headers: Some(&headers),
            ..Properties::default()
        };
        let key = [copied.happened.0.as_bytes(), copied.happened.1].concat();
        // The exchange is always there.
        let _ =
            self.broker
                .publish_own(&login.vhost, TRACE_EXCHANGE, &key, &properties, copied.body);
    }
}

fn properties<'a>(header: &'a [u8], limits: &mamba_types::Limits) -> Properties<'a> {
    content_header(header)
        .ok()
        .and_then(|header| scan_properties(header.properties, limits).ok())
        .unwrap_or_default()
}

/// The properties as a table, the last one first; numbers are 32-bit ones, whatever they were.
fn described(properties: &Properties<'_>) -> Vec<u8> {
    let small = |value: Option<u8>| value.map(|value| i32::from(value).to_be_bytes());
    let timestamp = properties.timestamp.map(|seconds| {
        let [.., a, b, c, d] = seconds.to_be_bytes();
        [a, b, c, d]
    });
    let (priority, delivery_mode) = (small(properties.priority), small(properties.delivery_mode));
    let entries: [(&[u8], Option<RawValue<'_>>); 14] = [
        (b"cluster_id", properties.cluster_id.map(string)),
        (b"app_id", properties.app_id.map(string)),
        (b"user_id", properties.user_id.map(string)),
        (b"type", properties.kind.map(string)),
        (b"timestamp", timestamp.as_ref().map(number)),
        (b"message_id", properties.message_id.map(string)),
        (b"expiration", properties.expiration.map(string)),
        (b"reply_to", properties.reply_to.map(string)),
        (b"correlation_id", properties.correlation_id.map(string)),
        (b"priority", priority.as_ref().map(number)),
        (b"delivery_mode", delivery_mode.as_ref().map(number)),
        (b"headers", properties.headers.map(table)),
        (b"content_encoding", properties.content_encoding.map(string)),
        (b"content_type", properties.content_type.map(string)),
    ];
    let mut octets = Vec::new();
    for (name, value) in entries {
        if let Some(value) = value {
            put_entry(&mut octets, name, value);
        }
    }
    octets
}

const fn string(octets: &[u8]) -> RawValue<'_> {
    RawValue { tag: b'S', octets }
}

const fn number(octets: &[u8; 4]) -> RawValue<'_> {
    RawValue { tag: b'I', octets }
}

const fn table(octets: &[u8]) -> RawValue<'_> {
    RawValue { tag: b'F', octets }
}

const fn array(octets: &[u8]) -> RawValue<'_> {
    RawValue { tag: b'A', octets }
}

fn strings(all: &[&[u8]]) -> Vec<u8> {
    let mut octets = Vec::new();
    for one in all {
        put_value(&mut octets, string(one));
    }
    octets
}
