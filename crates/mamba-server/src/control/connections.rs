//! Connections, their channels and consumers over the control socket.
//!
//! A listing names the `columns` it wants; the answer is an array of objects with these keys.

use mamba_broker::{
    Broker,
    queue_cell::{ConsumerView, QueueCell},
    registry::{ChannelView, ConnectionView},
};
use mamba_policy::table_to_json;
use serde_json::{Map, Value, json};

use super::{Outcome, Refusal, arguments::Arguments, topology::row};

/// The commands of this file.
pub(super) const COMMANDS: [&str; 5] = [
    "list_connections",
    "list_channels",
    "list_consumers",
    "close_connection",
    "close_connections",
];

/// Does one command.
pub(super) fn perform(broker: &Broker, command: &str, arguments: &Map<String, Value>) -> Outcome {
    let arguments = Arguments::of(arguments);
    match command {
        "close_connection" => close(broker, &arguments),
        "close_connections" => close_all(broker, &arguments),
        listing => {
            let columns = arguments.list("columns")?.unwrap_or_default();
            match listing {
                "list_connections" => Ok(connections(broker, &columns)),
                "list_channels" => Ok(channels(broker, &columns)),
                _ => consumers(broker, &columns, arguments.text("vhost")?),
            }
        }
    }
}

/// What tools call a connection: opaque, and taken back by `close_connection`.
fn pid(broker: &Broker, id: u64) -> Value {
    format!("<{}.{id}.0>", broker.config().node_name).into()
}

fn channel_pid(broker: &Broker, id: u64, channel: u16) -> Value {
    format!("<{}.{id}.{channel}>", broker.config().node_name).into()
}

fn connections(broker: &Broker, columns: &[&str]) -> Value {
    let views = broker.connection_views(|_| true);
    let rows = views
        .iter()
        .map(|view| row(columns, |column| connection_column(broker, view, column)));
    rows.collect()
}

fn connection_column(broker: &Broker, view: &ConnectionView, column: &str) -> Value {
    let (tls, detail) = (view.tls.as_deref(), view.detail.as_ref());
    let peer = tls.and_then(|tls| tls.peer.as_ref());
    let host = |address: std::net::SocketAddr| Value::from(address.ip().to_canonical().to_string());
    let text = |text: Option<&str>| text.map_or(Value::Null, Value::from);
    match column {
        "pid" => pid(broker, view.id),
        "name" => view.name().into(),
        "host" => host(view.local),
        "port" => view.local.port().into(),
        "peer_host" => host(view.peer),
        "peer_port" => view.peer.port().into(),
        "ssl" => tls.is_some().into(),
        "ssl_protocol" => text(tls.map(|tls| tls.protocol)),
        "ssl_key_exchange" => text(tls.map(|tls| tls.key_exchange.as_str())),
        "ssl_cipher" => text(tls.map(|tls| tls.cipher.as_str())),
        "ssl_hash" => text(tls.map(|tls| tls.hash.as_str())),
        "peer_cert_subject" => text(peer.map(|peer| peer.subject.as_str())),
        "peer_cert_issuer" => text(peer.map(|peer| peer.issuer.as_str())),
        "peer_cert_validity" => text(peer.map(|peer| peer.validity.as_str())),
        "state" => match detail {
            Some(detail) => detail.state.into(),
            None if view.login.is_some() => "running".into(),
            None => "opening".into(),
        },
        "protocol" => "{0,9,1}".into(),
        "user" => text(view.login.as_ref().map(|(user, _)| &**user)),
        "vhost" => text(view.login.as_ref().map(|(_, vhost)| &**vhost)),
        "connected_at" => view.connected_at_ms.into(),
        "recv_oct" => view.traffic.received_bytes.into(),
        "recv_cnt" => view.traffic.received_packets.into(),
        "send_oct" => view.traffic.sent_bytes.into(),
        "send_cnt" => view.traffic.sent_packets.into(),
        other => detail.map_or(Value::Null, |detail| match other {
            "channels" => detail.channels.len().into(),
            "auth_mechanism" => detail.client.mechanism.as_str().into(),
            "timeout" => detail.heartbeat_secs.into(),
            "frame_max" => detail.frame_max.into(),
            "channel_max" => detail.channel_max.into(),
            "client_properties" => Value::Object(table_to_json(&detail.client.properties)),
            "send_pend" => detail.output_bytes.into(),
            _ => Value::Null,
        }),
    }
}

fn channels(broker: &Broker, columns: &[&str]) -> Value {
    let views = broker.connection_views(|_| true);
    let open = views.iter().flat_map(|view| {
        let channels = view.detail.iter().flat_map(|detail| &detail.channels);
        channels.map(move |channel| (view, channel))
    });
    let rows = open.map(|(view, channel)| {
        row(columns, |column| {
            channel_column(broker, view, channel, column)
        })
    });
    rows.collect()
}

fn channel_column(
    broker: &Broker,
    view: &ConnectionView,
    channel: &ChannelView,
    column: &str,
) -> Value {
    match column {
        "pid" => channel_pid(broker, view.id, channel.number),
        "connection" => pid(broker, view.id),
        "name" => format!("{} ({})", view.name(), channel.number).into(),
        "number" => channel.number.into(),
        "user" | "vhost" => connection_column(broker, view, column),
        "transactional" => channel.transactional.into(),
        "confirm" => channel.confirm.into(),
        "consumer_count" => channel.consumers.into(),
        "messages_unacknowledged" => channel.unacked.into(),
        "messages_uncommitted" => channel.uncommitted.into(),
        "acks_uncommitted" => channel.acks_uncommitted.into(),
        "messages_unconfirmed" => channel.unconfirmed.into(),
        "prefetch_count" => channel.prefetch.into(),
        "global_prefetch_count" => channel.global_prefetch.into(),
        _ => Value::Null,
    }
}

fn consumers(broker: &Broker, columns: &[&str], vhost: &str) -> Outcome {
    let Some(vhost) = broker.vhost(vhost) else {
        let text = format!("Virtual host '{vhost}' does not exist");
        return Err(Refusal::new("no_such_vhost", text));
    };
    let mut rows = Vec::new();
    for queue in vhost.queues() {
        for consumer in queue.consumers() {
            rows.push(row(columns, |column| {
                consumer_column(broker, &queue, &consumer, column)
            }));
        }
    }
    Ok(rows.into())
}

fn consumer_column(
    broker: &Broker,
    queue: &QueueCell,
    consumer: &ConsumerView,
    column: &str,
) -> Value {
    match column {
        "queue_name" => (*queue.name).into(),
        "channel_pid" => channel_pid(broker, consumer.connection, consumer.channel),
        "consumer_tag" => (*consumer.tag).into(),
        "ack_required" => consumer.ack_required.into(),
        "prefetch_count" => consumer.prefetch.into(),
        "active" => consumer.active.into(),
        "activity_status" => consumer.activity_status().into(),
        "arguments" => Value::Object(table_to_json(&consumer.arguments)),
        _ => Value::Null,
    }
}

/// `pid`, as it was listed, and the `reason` the client is told. One that has gone is as good as closed.
fn close(broker: &Broker, arguments: &Arguments<'_>) -> Outcome {
    let (pid, reason) = (arguments.text("pid")?, arguments.text("reason")?);
    let node = format!("<{}.", broker.config().node_name);
    let id = pid
        .strip_prefix(&node)
        .and_then(|rest| rest.strip_suffix('>')?.split('.').next()?.parse().ok());
    let Some(id) = id else {
        let text = format!("'{pid}' is no pid of a connection, as list_connections shows it");
        return Err(Refusal::new("bad_request", text));
    };
    tracing::info!(
        connection = id,
        reason,
        "connection closed by an operator's command"
    );
    broker.close_connection(id, reason);
    Ok(json!({}))
}

/// Those of a `vhost`, of a `user`, or all; at most `limit` of them.
fn close_all(broker: &Broker, arguments: &Arguments<'_>) -> Outcome {
    let (vhost, user) = (arguments.optional("vhost")?, arguments.optional("user")?);
    let reason = arguments.text("reason")?;
    let limit = arguments.value("limit").as_u64().unwrap_or(u64::MAX);
    let views = broker.connection_views(|view| {
        let login = view.login.as_ref();
        let fits = |wanted: Option<&str>, own: Option<&str>| wanted.is_none() || wanted == own;
        fits(user, login.map(|(user, _)| &**user)) && fits(vhost, login.map(|(_, vhost)| &**vhost))
    });
    let mut closed = 0_u64;
    for view in views {
        if closed < limit && broker.close_connection(view.id, reason) {
            closed += 1;
        }
    }
    tracing::info!(
        closed,
        vhost,
        user,
        reason,
        "connections closed by an operator's command"
    );
    Ok(json!({"closed": closed}))
}
