//! Methods in one line each: `queue_declare("q", "durable", table([]))`. Flags are the specification's words.

use amq_protocol::{
    protocol::{AMQPClass, access, basic, channel, confirm, connection, exchange, queue, tx},
    types::{AMQPValue, ByteArray, FieldArray, FieldTable, LongString},
};

pub(crate) use amq_protocol::{protocol::BasicProperties, types::AMQPValue as Value};

/// Arguments or headers from pairs.
pub(crate) fn table<const N: usize>(pairs: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in pairs {
        table.insert(key.into(), value);
    }
    table
}

/// A long string value.
pub(crate) fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}

/// A signed 32-bit value (`I`).
pub(crate) fn int(value: i32) -> AMQPValue {
    AMQPValue::LongInt(value)
}

/// A signed 64-bit value (`l`).
pub(crate) fn long(value: i64) -> AMQPValue {
    AMQPValue::LongLongInt(value)
}

/// A boolean value.
pub(crate) fn boolean(value: bool) -> AMQPValue {
    AMQPValue::Boolean(value)
}

/// A byte array value (`x`).
pub(crate) fn bytes(value: &[u8]) -> AMQPValue {
    AMQPValue::ByteArray(ByteArray::from(value))
}

/// An array value.
pub(crate) fn array(values: Vec<AMQPValue>) -> AMQPValue {
    AMQPValue::FieldArray(FieldArray::from(values))
}

/// No properties at all.
pub(crate) fn plain() -> BasicProperties {
    BasicProperties::default()
}

/// delivery-mode 2.
pub(crate) fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

/// Just these headers.
pub(crate) fn headers<const N: usize>(pairs: [(&str, AMQPValue); N]) -> BasicProperties {
    BasicProperties::default().with_headers(table(pairs))
}

/// The set flags, each of which must be one of `known`.
struct Flags<'a>(&'a str);

impl Flags<'_> {
    fn new<'a>(flags: &'a str, known: &[&str]) -> Flags<'a> {
        for word in flags.split_whitespace() {
            assert!(known.contains(&word), "no flag {word:?}: {known:?}");
        }
        Flags(flags)
    }

    fn has(&self, flag: &str) -> bool {
        self.0.split_whitespace().any(|word| word == flag)
    }
}

pub(crate) fn exchange_declare(
    name: &str,
    kind: &str,
    flags: &str,
    arguments: FieldTable,
) -> AMQPClass {
    let set = Flags::new(
        flags,
        &["passive", "durable", "auto_delete", "internal", "nowait"],
    );
    AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
        exchange: name.into(),
        kind: kind.into(),
        passive: set.has("passive"),
        durable: set.has("durable"),
        auto_delete: set.has("auto_delete"),
        internal: set.has("internal"),
        nowait: set.has("nowait"),
        arguments,
    }))
}

pub(crate) fn exchange_delete(name: &str, flags: &str) -> AMQPClass {
    let set = Flags::new(flags, &["if_unused", "nowait"]);
    AMQPClass::Exchange(exchange::AMQPMethod::Delete(exchange::Delete {
        exchange: name.into(),
        if_unused: set.has("if_unused"),
        nowait: set.has("nowait"),
    }))
}

pub(crate) fn exchange_bind(
    destination: &str,
    source: &str,
    key: &str,
    arguments: FieldTable,
) -> AMQPClass {
    AMQPClass::Exchange(exchange::AMQPMethod::Bind(exchange::Bind {
        destination: destination.into(),
        source: source.into(),
        routing_key: key.into(),
        nowait: false,
        arguments,
    }))
}

pub(crate) fn exchange_unbind(
    destination: &str,
    source: &str,
    key: &str,
    arguments: FieldTable,
) -> AMQPClass {
    AMQPClass::Exchange(exchange::AMQPMethod::Unbind(exchange::Unbind {
        destination: destination.into(),
        source: source.into(),
        routing_key: key.into(),
        nowait: false,
        arguments,
    }))
}

pub(crate) fn queue_declare(name: &str, flags: &str, arguments: FieldTable) -> AMQPClass {
    let set = Flags::new(
        flags,
        &["passive", "durable", "exclusive", "auto_delete", "nowait"],
    );
    AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
        queue: name.into(),
        passive: set.has("passive"),
        durable: set.has("durable"),
        exclusive: set.has("exclusive"),
        auto_delete: set.has("auto_delete"),
        nowait: set.has("nowait"),
        arguments,
    }))
}

pub(crate) fn queue_bind(
    queue: &str,
    exchange: &str,
    key: &str,
    arguments: FieldTable,
) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Bind(queue::Bind {
        queue: queue.into(),
        exchange: exchange.into(),
        routing_key: key.into(),
        nowait: false,
        arguments,
    }))
}

pub(crate) fn queue_unbind(
    queue: &str,
    exchange: &str,
    key: &str,
    arguments: FieldTable,
) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Unbind(queue::Unbind {
        queue: queue.into(),
        exchange: exchange.into(),
        routing_key: key.into(),
        arguments,
    }))
}

pub(crate) fn queue_purge(name: &str) -> AMQPClass {
    AMQPClass::Queue(queue::AMQPMethod::Purge(queue::Purge {
        queue: name.into(),
        nowait: false,
    }))
}

pub(crate) fn queue_delete(name: &str, flags: &str) -> AMQPClass {
    let set = Flags::new(flags, &["if_unused", "if_empty", "nowait"]);
    AMQPClass::Queue(queue::AMQPMethod::Delete(queue::Delete {
        queue: name.into(),
        if_unused: set.has("if_unused"),
        if_empty: set.has("if_empty"),
        nowait: set.has("nowait"),
    }))
}

pub(crate) fn qos(prefetch_count: u16, flags: &str) -> AMQPClass {
    let set = Flags::new(flags, &["global"]);
    AMQPClass::Basic(basic::AMQPMethod::Qos(basic::Qos {
        prefetch_count,
        global: set.has("global"),
    }))
}

pub(crate) fn consume(queue: &str, tag: &str, flags: &str, arguments: FieldTable) -> AMQPClass {
    let set = Flags::new(flags, &["no_local", "no_ack", "exclusive", "nowait"]);
    AMQPClass::Basic(basic::AMQPMethod::Consume(basic::Consume {
        queue: queue.into(),
        consumer_tag: tag.into(),
        no_local: set.has("no_local"),
        no_ack: set.has("no_ack"),
        exclusive: set.has("exclusive"),
        nowait: set.has("nowait"),
        arguments,
    }))
}

pub(crate) fn cancel(tag: &str, flags: &str) -> AMQPClass {
    let set = Flags::new(flags, &["nowait"]);
    AMQPClass::Basic(basic::AMQPMethod::Cancel(basic::Cancel {
        consumer_tag: tag.into(),
        nowait: set.has("nowait"),
    }))
}

pub(crate) fn publish(exchange: &str, key: &str, flags: &str) -> AMQPClass {
    let set = Flags::new(flags, &["mandatory", "immediate"]);
    AMQPClass::Basic(basic::AMQPMethod::Publish(basic::Publish {
        exchange: exchange.into(),
        routing_key: key.into(),
        mandatory: set.has("mandatory"),
        immediate: set.has("immediate"),
    }))
}

pub(crate) fn get(queue: &str, flags: &str) -> AMQPClass {
    let set = Flags::new(flags, &["no_ack"]);
    AMQPClass::Basic(basic::AMQPMethod::Get(basic::Get {
        queue: queue.into(),
        no_ack: set.has("no_ack"),
    }))
}

pub(crate) fn ack(delivery_tag: u64, flags: &str) -> AMQPClass {
    let set = Flags::new(flags, &["multiple"]);
    AMQPClass::Basic(basic::AMQPMethod::Ack(basic::Ack {
        delivery_tag,
        multiple: set.has("multiple"),
    }))
}

pub(crate) fn nack(delivery_tag: u64, flags: &str) -> AMQPClass {
    let set = Flags::new(flags, &["multiple", "requeue"]);
    AMQPClass::Basic(basic::AMQPMethod::Nack(basic::Nack {
        delivery_tag,
        multiple: set.has("multiple"),
        requeue: set.has("requeue"),
    }))
}

pub(crate) fn reject(delivery_tag: u64, flags: &str) -> AMQPClass {
    let set = Flags::new(flags, &["requeue"]);
    AMQPClass::Basic(basic::AMQPMethod::Reject(basic::Reject {
        delivery_tag,
        requeue: set.has("requeue"),
    }))
}

pub(crate) fn recover(flags: &str) -> AMQPClass {
    let requeue = Flags::new(flags, &["requeue"]).has("requeue");
    AMQPClass::Basic(basic::AMQPMethod::Recover(basic::Recover { requeue }))
}

pub(crate) fn recover_async(flags: &str) -> AMQPClass {
    let requeue = Flags::new(flags, &["requeue"]).has("requeue");
    AMQPClass::Basic(basic::AMQPMethod::RecoverAsync(basic::RecoverAsync {
        requeue,
    }))
}

pub(crate) fn confirm_select() -> AMQPClass {
    AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select {
        nowait: false,
    }))
}

pub(crate) fn tx_select() -> AMQPClass {
    AMQPClass::Tx(tx::AMQPMethod::Select(tx::Select {}))
}

pub(crate) fn tx_commit() -> AMQPClass {
    AMQPClass::Tx(tx::AMQPMethod::Commit(tx::Commit {}))
}

pub(crate) fn tx_rollback() -> AMQPClass {
    AMQPClass::Tx(tx::AMQPMethod::Rollback(tx::Rollback {}))
}

pub(crate) fn channel_open() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}))
}

pub(crate) fn channel_close() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Close(channel::Close {
        reply_code: 200,
        reply_text: "bye".into(),
        class_id: 0,
        method_id: 0,
    }))
}

pub(crate) fn channel_close_ok() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {}))
}

pub(crate) fn channel_flow(active: bool) -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Flow(channel::Flow { active }))
}

pub(crate) fn access_request() -> AMQPClass {
    AMQPClass::Access(access::AMQPMethod::Request(access::Request {
        realm: "/data".into(),
        exclusive: false,
        passive: true,
        active: true,
        write: true,
        read: true,
    }))
}

pub(crate) fn connection_open(virtual_host: &str) -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::Open(connection::Open {
        virtual_host: virtual_host.into(),
    }))
}

pub(crate) fn connection_close() -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::Close(connection::Close {
        reply_code: 200,
        reply_text: "bye".into(),
        class_id: 0,
        method_id: 0,
    }))
}

pub(crate) fn connection_close_ok() -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {}))
}

pub(crate) fn start_ok(
    client_properties: FieldTable,
    mechanism: &str,
    response: &[u8],
) -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::StartOk(connection::StartOk {
        client_properties,
        mechanism: mechanism.into(),
        response: response.into(),
        locale: "en_US".into(),
    }))
}

pub(crate) fn tune_ok(channel_max: u16, frame_max: u32, heartbeat: u16) -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::TuneOk(connection::TuneOk {
        channel_max,
        frame_max,
        heartbeat,
    }))
}

pub(crate) fn update_secret(secret: &str) -> AMQPClass {
    AMQPClass::Connection(connection::AMQPMethod::UpdateSecret(
        connection::UpdateSecret {
            new_secret: secret.into(),
            reason: "rotation".into(),
        },
    ))
}
