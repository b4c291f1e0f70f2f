//! Connections, channels and consumers (`spec: http-api §5.3, §5.4, §5.6`).

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use mamba_broker::{
    Broker, TlsFacts,
    queue_cell::{ConsumerView, QueueCell},
    registry::{ChannelView, ConnectionDetail, ConnectionView, connection_name},
};
use mamba_types::table;
use serde_json::{Map, Value, json};

use crate::{
    answer::{Answer, List, Outcome, Refusal},
    rates::{Object, Windows},
    request::Request,
    server::Management,
    time::time_text,
};

/// Said to a client whose connection is closed for no given reason.
const DEFAULT_REASON: &str = "Closed via management plugin";

/// The connections the user sees: all, or its own; in the path's virtual host if it names one.
fn visible(
    request: &Request<'_>,
    wanted: impl Fn(&ConnectionView) -> bool,
) -> Result<Vec<ConnectionView>, Refusal> {
    let in_vhost = request.names.iter().any(|(name, _)| *name == "vhost");
    let vhost = in_vhost.then(|| request.vhost()).transpose()?;
    let monitor = request.is_monitor();
    Ok(request.broker().connection_views(|view| {
        let login = view.login.as_ref();
        let own = monitor || login.is_some_and(|(user, _)| *user == request.user().name);
        let here = vhost
            .as_ref()
            .is_none_or(|vhost| login.is_some_and(|(_, name)| *name == vhost.name));
        own && here && wanted(view)
    }))
}

pub(crate) fn list(request: &Request<'_>) -> Outcome {
    let views = visible(request, |_| true)?;
    Ok(Answer::List(listed(request, views)))
}

fn listed(request: &Request<'_>, views: Vec<ConnectionView>) -> List {
    let (management, now_ms) = (Arc::clone(request.management), request.now.unix_ms);
    List::named(views, ConnectionView::name, move |view| {
        shown(&management, now_ms, view, &Windows::default())
    })
}

fn shown(management: &Management, now_ms: u64, view: &ConnectionView, windows: &Windows) -> Value {
    let mut connection = json!({
        "name": view.name(), "node": management.node.name, "type": "network", "protocol": "AMQP 0-9-1",
        "host": host(view.local), "port": view.local.port(),
        "peer_host": host(view.peer), "peer_port": view.peer.port(),
        "connected_at": view.connected_at_ms,
        "user": "", "vhost": "", "client_properties": {}, "channels": 0, "state": "running",
    });
    let Some(fields) = connection.as_object_mut() else {
        return connection;
    };
    let mut add = |key: &str, value: Value| {
        fields.insert(key.to_owned(), value);
    };
    for (key, value) in secured(view.tls.as_deref()) {
        add(key, value);
    }
    match &view.login {
        Some((user, vhost)) => {
            add("user", (**user).into());
            add("user_who_performed_action", (**user).into());
            add("vhost", (**vhost).into());
        }
        None => add("state", "opening".into()),
    }
    if let Some(detail) = &view.detail {
        add("state", detail.state.into());
        add("auth_mechanism", detail.client.mechanism.as_str().into());
        let properties = &detail.client.properties;
        add(
            "client_properties",
            mamba_policy::table_to_json(properties).into(),
        );
        let name = properties.inner().get("connection_name");
        if let Some(name) = name.and_then(table::text) {
            add("user_provided_name", name.into());
        }
        add("channel_max", detail.channel_max.into());
        add("frame_max", detail.frame_max.into());
        add("timeout", detail.heartbeat_secs.into());
        add("channels", detail.channels.len().into());
        add("send_pend", detail.output_bytes.into());
    }
    let traffic = view.traffic;
    let mut add = |key: &str, value: u64| {
        fields.insert(key.to_owned(), value.into());
    };
    add("recv_cnt", traffic.received_packets);
    add("send_cnt", traffic.sent_packets);
    let counters = [
        ("recv_oct", traffic.received_bytes),
        ("send_oct", traffic.sent_bytes),
    ];
    let object = Object::Connection(view.id);
    let rates = &management.rates;
    fields.extend(rates.counters(object, now_ms, &counters, windows.data));
    connection
}

/// What is known of a connection's TLS; null where there is none.
fn secured(tls: Option<&TlsFacts>) -> [(&'static str, Value); 8] {
    let text = |text: Option<&str>| text.map_or(Value::Null, Value::from);
    let peer = tls.and_then(|tls| tls.peer.as_ref());
    [
        ("ssl", tls.is_some().into()),
        ("ssl_protocol", text(tls.map(|tls| tls.protocol))),
        (
            "ssl_key_exchange",
            text(tls.map(|tls| tls.key_exchange.as_str())),
        ),
        ("ssl_cipher", text(tls.map(|tls| tls.cipher.as_str()))),
        ("ssl_hash", text(tls.map(|tls| tls.hash.as_str()))),
        (
            "peer_cert_subject",
            text(peer.map(|peer| peer.subject.as_str())),
        ),
        (
            "peer_cert_issuer",
            text(peer.map(|peer| peer.issuer.as_str())),
        ),
        (
            "peer_cert_validity",
            text(peer.map(|peer| peer.validity.as_str())),
        ),
    ]
}

fn host(address: SocketAddr) -> String {
    address.ip().to_canonical().to_string()
}

/// The connection of the path, if the user sees it.
fn known(request: &Request<'_>) -> Result<ConnectionView, Refusal> {
    let name = request.name("connection");
    let mut found = request
        .broker()
        .connection_views(|view| view.name() == name);
    let view = found.pop().ok_or_else(Refusal::missing)?;
    let own = view
        .login
        .as_ref()
        .is_some_and(|(user, _)| *user == request.user().name);
    if own || request.is_monitor() {
        Ok(view)
    } else {
        Err(Refusal::denied("User not authorised to access object"))
    }
}

pub(crate) fn one(request: &Request<'_>) -> Outcome {
    let view = known(request)?;
    Ok(Answer::Json(shown(
        request.management,
        request.now.unix_ms,
        &view,
        &request.query.windows()?,
    )))
}

pub(crate) fn close(request: &Request<'_>) -> Outcome {
    let view = known(request)?;
    let own = view
        .login
        .as_ref()
        .is_some_and(|(user, _)| *user == request.user().name);
    if !own && !request.user().tags.administrator() {
        return Err(Refusal::denied("User not authorised to access object"));
    }
    close_with_reason(request, &view);
    Ok(Answer::Done)
}

fn close_with_reason(request: &Request<'_>, view: &ConnectionView) {
    let reason = request.reason.as_deref().unwrap_or(DEFAULT_REASON);
    tracing::info!(connection = view.id, peer = %view.peer, reason, by = %request.user().name, "connection closed by an operator");
    // Gone meanwhile is as good.
    let _ = request.broker().close_connection(view.id, reason);
}

/// The connections of the path's user, if the one who asks may know of them.
fn of_path_user(request: &Request<'_>) -> Result<Vec<ConnectionView>, Refusal> {
    let user = request.name("user");
    visible(request, |view| {
        view.login
            .as_ref()
            .is_some_and(|(owner, _)| **owner == *user)
    })
}

pub(crate) fn of_user(request: &Request<'_>) -> Outcome {
    let views = of_path_user(request)?;
    Ok(Answer::List(listed(request, views)))
}

pub(crate) fn close_of_user(request: &Request<'_>) -> Outcome {
    let own = *request.user().name == *request.name("user");
    if !own && !request.user().tags.administrator() {
        return Err(Refusal::denied("Not administrator user"));
    }
    for view in of_path_user(request)? {
        close_with_reason(request, &view);
    }
    Ok(Answer::Done)
}

/// A channel with what is needed to show it.
#[derive(Clone)]
struct ChannelOf {
    connection: Arc<ConnectionView>,
    channel: ChannelView,
}

impl ChannelOf {
    fn name(&self) -> String {
        format!("{} ({})", self.connection.name(), self.channel.number)
    }

    fn shown(&self, management: &Management, now_ms: u64, windows: &Windows) -> Value {
        let (connection, channel) = (&self.connection, &self.channel);
        let (user, vhost) = match &connection.login {
            Some((user, vhost)) => (&**user, &**vhost),
            None => ("", ""),
        };
        let mut view = json!({
            "name": self.name(), "number": channel.number, "node": management.node.name,
            "user": user, "user_who_performed_action": user, "vhost": vhost,
            "connection_details": owner_of(connection.peer, connection.local),
            "state": connection.detail.as_ref().map_or("running", |detail| detail.state),
            "confirm": channel.confirm, "transactional": channel.transactional,
            "consumer_count": channel.consumers, "prefetch_count": channel.prefetch,
            "global_prefetch_count": channel.global_prefetch,
            "messages_unacknowledged": channel.unacked, "messages_unconfirmed": channel.unconfirmed,
            "messages_uncommitted": channel.uncommitted, "acks_uncommitted": channel.acks_uncommitted,
            "pending_raft_commands": 0,
        });
        if let Some(fields) = view.as_object_mut() {
            let object = Object::Channel(connection.id, channel.number);
            let rates = &management.rates;
            rates.add_stats(fields, object, now_ms, &[], &channel.stats, windows);
            if let Some(since_ms) = rates.idle_since(object, now_ms) {
                fields.insert("idle_since".to_owned(), time_text(since_ms).into());
            }
        }
        view
    }
}

fn channels_in(views: Vec<ConnectionView>) -> Vec<ChannelOf> {
    let of = |view: ConnectionView| {
        let connection = Arc::new(view);
        let details: Option<&ConnectionDetail> = connection.detail.as_ref();
        let channels = details.map_or_else(Vec::new, |detail| detail.channels.clone());
        let of = move |channel| ChannelOf {
            connection: Arc::clone(&connection),
            channel,
        };
        channels.into_iter().map(of).collect::<Vec<_>>()
    };
    views.into_iter().flat_map(of).collect()
}

fn listed_channels(request: &Request<'_>, views: Vec<ConnectionView>) -> List {
    let (management, now_ms) = (Arc::clone(request.management), request.now.unix_ms);
    List::named(channels_in(views), ChannelOf::name, move |channel| {
        channel.shown(&management, now_ms, &Windows::default())
    })
}

pub(crate) fn channels(request: &Request<'_>) -> Outcome {
    let views = visible(request, |_| true)?;
    Ok(Answer::List(listed_channels(request, views)))
}

pub(crate) fn channels_of(request: &Request<'_>) -> Outcome {
    let view = known(request)?;
    Ok(Answer::List(listed_channels(request, vec![view])))
}

pub(crate) fn channel(request: &Request<'_>) -> Outcome {
    let name = request.name("channel");
    let connection = name.rsplit_once(" (").map_or(name, |(name, _)| name);
    let views = visible(request, |view| view.name() == connection)?;
    let found = channels_in(views)
        .into_iter()
        .find(|channel| channel.name() == name);
    let channel = found.ok_or_else(Refusal::missing)?;
    let windows = request.query.windows()?;
    let mut view = channel.shown(request.management, request.now.unix_ms, &windows);
    let id = channel.connection.id;
    let login = channel.connection.login.as_ref();
    let vhost = login.and_then(|(_, vhost)| request.broker().vhost(vhost));
    let queues = vhost.map(|vhost| vhost.queues()).unwrap_or_default();
    let mut consumers = Vec::new();
    for queue in queues {
        for consumer in queue.consumers() {
            if consumer.connection == id && consumer.channel == channel.channel.number {
                let details = channel_details(&channel.connection, request);
                consumers.push(shown_consumer(&queue, &consumer, &details));
            }
        }
    }
    view["consumer_details"] = consumers.into();
    view["deliveries"] = json!([]);
    view["publishes"] = json!([]);
    Ok(Answer::Json(view))
}

/// `{name, peer_host, peer_port}` of a connection by number, while it is there.
pub(crate) fn owner(broker: &Broker, id: u64) -> Option<Value> {
    let (peer, local) = broker.connection_addresses(id)?;
    Some(owner_of(peer, local))
}

fn owner_of(peer: SocketAddr, local: SocketAddr) -> Value {
    json!({"name": connection_name(peer, local), "peer_host": host(peer), "peer_port": peer.port()})
}

fn channel_details(view: &ConnectionView, request: &Request<'_>) -> Map<String, Value> {
    let user = view.login.as_ref().map_or("", |(user, _)| user);
    let details = [
        ("connection_name", json!(view.name())),
        ("node", json!(request.node().name)),
        ("peer_host", json!(host(view.peer))),
        ("peer_port", json!(view.peer.port())),
        ("user", json!(user)),
    ];
    let details = details.into_iter();
    details
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

fn shown_consumer(
    queue: &QueueCell,
    consumer: &ConsumerView,
    connection: &Map<String, Value>,
) -> Value {
    let mut details = connection.clone();
    let name = connection
        .get("connection_name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    details.insert(
        "name".to_owned(),
        format!("{name} ({})", consumer.channel).into(),
    );
    details.insert("number".to_owned(), consumer.channel.into());
    let user = connection.get("user").cloned().unwrap_or_default();
    json!({
        "consumer_tag": *consumer.tag, "queue": {"name": *queue.name, "vhost": *queue.vhost},
        "channel_details": details, "ack_required": consumer.ack_required, "exclusive": consumer.exclusive,
        "active": consumer.active, "activity_status": consumer.activity_status(), "prefetch_count": consumer.prefetch,
        "arguments": mamba_policy::table_to_json(&consumer.arguments),
        // Strict clients want a number.
        "consumer_timeout": consumer.timeout_ms.unwrap_or(0), "user_who_performed_action": user,
    })
}

/// What consumers' connections are called, without asking their tasks.
fn by_number(request: &Request<'_>) -> HashMap<u64, Map<String, Value>> {
    let views = request.broker().connection_entries();
    views
        .iter()
        .map(|view| (view.id, channel_details(view, request)))
        .collect()
}

/// The consumers of one queue.
pub(crate) fn consumers_of(request: &Request<'_>, queue: &QueueCell) -> Vec<Value> {
    let consumers = queue.consumers();
    if consumers.is_empty() {
        return Vec::new();
    }
    let (connections, unknown) = (by_number(request), Map::new());
    let shown = consumers.iter().map(|consumer| {
        let details = connections.get(&consumer.connection).unwrap_or(&unknown);
        shown_consumer(queue, consumer, details)
    });
    shown.collect()
}

pub(crate) fn consumers(request: &Request<'_>) -> Outcome {
    let (connections, unknown) = (by_number(request), Map::new());
    let mut all = Vec::new();
    for vhost in request.visible_vhosts()? {
        for queue in vhost.queues() {
            for consumer in queue.consumers() {
                let details = connections.get(&consumer.connection).unwrap_or(&unknown);
                all.push(shown_consumer(&queue, &consumer, details));
            }
        }
    }
    Ok(Answer::List(List::of(all)))
}
