//! The node: overview, nodes, name of the cluster, features (`spec: http-api §5.1, §5.2, §5.12`).

use std::sync::atomic::Ordering;

use mamba_broker::Snapshot;
use mamba_routing::{DELAYED, ExchangeKind};
use serde_json::{Map, Value, json};

use crate::{
    answer::{Answer, List, Outcome, Refusal},
    rates::{Object, Windows, node_stats},
    request::Request,
    server::{Management, Readings},
    vhosts,
};

/// The global parameter that holds the cluster's name.
const CLUSTER_NAME: &str = "cluster_name";

/// What always holds here; tools ask for these before they use what they stand for.
const FEATURE_FLAGS: [(&str, &str); 7] = [
    (
        "classic_queue_type_delivery_support",
        "Deliveries from classic queues",
    ),
    ("drop_unroutable_metric", "Unroutable messages are counted"),
    (
        "empty_basic_get_metric",
        "basic.get on empty queues is counted",
    ),
    (
        "implicit_default_bindings",
        "Bindings of the default exchange are implicit",
    ),
    ("quorum_queue", "Queues of type quorum"),
    ("user_limits", "Limits of connections and channels per user"),
    (
        "virtual_host_metadata",
        "Virtual hosts have a description, tags and a default queue type",
    ),
];

/// The node's gauges that have rates.
pub(crate) fn gauges(s: &Snapshot) -> [(&'static str, u64); 3] {
    [
        ("messages", s.messages_ready + s.messages_unacked),
        ("messages_ready", s.messages_ready),
        ("messages_unacknowledged", s.messages_unacked),
    ]
}

const fn churn(s: &Snapshot) -> [(&'static str, u64); 7] {
    [
        ("connection_created", s.connections_opened),
        ("connection_closed", s.connections_closed),
        ("channel_created", s.channels_opened),
        ("channel_closed", s.channels_closed),
        ("queue_declared", s.queues_declared),
        ("queue_created", s.queues_created),
        ("queue_deleted", s.queues_deleted),
    ]
}

fn exchange_types() -> Value {
    let words = ExchangeKind::ALL.iter().map(|kind| {
        let description = match kind {
            ExchangeKind::Direct => "AMQP direct exchange, as per the AMQP specification",
            ExchangeKind::Fanout => "AMQP fanout exchange, as per the AMQP specification",
            ExchangeKind::Headers => "AMQP headers exchange, as per the AMQP specification",
            ExchangeKind::Topic => "AMQP topic exchange, as per the AMQP specification",
            ExchangeKind::ConsistentHash => "Consistent Hashing Exchange",
            ExchangeKind::ModulusHash => "Modulus Hashing Exchange",
            ExchangeKind::Random => "Picks one random binding to route via (to).",
            ExchangeKind::LocalRandom => {
                "Picks one random local binding (queue) to route via (to)."
            }
            ExchangeKind::MessageDeduplication => "Message Deduplication Exchange.",
        };
        (kind.word(), description)
    });
    let delayed = (DELAYED, "Delayed Message Exchange.");
    words
        .chain([delayed])
        .map(|(name, description)| json!({"name": name, "description": description, "enabled": true}))
        .collect()
}

fn shown_cluster_name(request: &Request<'_>) -> Value {
    let set = request.broker().global_parameter(CLUSTER_NAME);
    set.filter(Value::is_string)
        .unwrap_or_else(|| request.node().cluster_name.clone().into())
}

pub(crate) fn overview(request: &Request<'_>) -> Outcome {
    let (node, broker, now_ms) = (request.node(), request.broker(), request.now.unix_ms);
    let s = broker.snapshot();
    let monitor = request.is_monitor();
    let vhosts = request.visible_vhosts()?;
    let exchanges: usize = vhosts.iter().map(|vhost| vhost.exchange_count()).sum();
    let mut fields = match json!({
        "management_version": node.version, "rates_mode": "basic",
        "sample_retention_policies": {"global": [600, 3600, 28800, 86400], "basic": [600, 3600], "detailed": [600]},
        "exchange_types": exchange_types(),
        "product_name": node.product, "product_version": node.version, "rabbitmq_version": node.version,
        "mambamq_version": env!("CARGO_PKG_VERSION"),
        "cluster_name": shown_cluster_name(request), "cluster_tags": {}, "node_tags": {},
        "erlang_version": "none", "erlang_full_version": "none, MambaMQ is written in Rust", "crypto_lib_version": "none",
        "disable_stats": false, "enable_queue_totals": false,
        "default_queue_type": "classic", "is_op_policy_updating_enabled": true,
        "statistics_db_event_queue": 0,
    }) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    if monitor {
        let windows = request.query.windows()?;
        let mut stats = Map::new();
        request.rates().add_stats(
            &mut stats,
            Object::Node,
            now_ms,
            &gauges(&s),
            &node_stats(&s),
            &windows,
        );
        add_totals(&mut fields, stats);
        let churn =
            request
                .rates()
                .counters(Object::NodeCounters, now_ms, &churn(&s), windows.node);
        fields.insert("churn_rates".to_owned(), churn.into());
        fields.insert(
            "object_totals".to_owned(),
            json!({
                "channels": s.channels_opened.saturating_sub(s.channels_closed), "connections": s.connections,
                "consumers": s.consumers, "exchanges": exchanges, "queues": s.queues,
            }),
        );
        fields.insert("node".to_owned(), node.name.clone().into());
        fields.insert("listeners".to_owned(), listeners(request));
        fields.insert("contexts".to_owned(), contexts(request, true));
    } else {
        add_visible_totals(request, &mut fields, exchanges)?;
    }
    Ok(Answer::Json(fields.into()))
}

/// `queue_totals`, and `message_stats` also when nothing was counted.
fn add_totals(fields: &mut Map<String, Value>, mut stats: Map<String, Value>) {
    let messages = stats.remove("message_stats");
    let messages = messages.unwrap_or_else(|| json!({}));
    fields.insert("message_stats".to_owned(), messages);
    fields.insert("queue_totals".to_owned(), stats.into());
}

/// Takes samples of the node, so that there are rates and graphs whoever asks first.
pub(crate) fn sample(management: &Management, now_ms: u64) {
    let (s, rates) = (management.broker.snapshot(), &management.rates);
    let windows = Windows::default();
    let (gauges, stats) = (gauges(&s), node_stats(&s));
    rates.add_stats(
        &mut Map::new(),
        Object::Node,
        now_ms,
        &gauges,
        &stats,
        &windows,
    );
    rates.counters(Object::NodeCounters, now_ms, &churn(&s), None);
    let readings = (management.node.readings)();
    let counted = process_counters(&s, &readings);
    rates.counters(Object::NodeProcess, now_ms, &counted, None);
}

/// What somebody sees who sees not everything.
fn add_visible_totals(
    request: &Request<'_>,
    fields: &mut Map<String, Value>,
    exchanges: usize,
) -> Result<(), Refusal> {
    let mut sum = vhosts::Totals::default();
    for vhost in request.visible_vhosts()? {
        sum.add(&vhosts::Totals::of(&vhost));
    }
    let mut stats = Map::new();
    request.rates().add_stats(
        &mut stats,
        Object::user(&request.user().name),
        request.now.unix_ms,
        &sum.gauges(),
        &sum.stats,
        &request.query.windows()?,
    );
    add_totals(fields, stats);
    let user = &request.user().name;
    let own = request
        .broker()
        .connection_views(|view| view.login.as_ref().is_some_and(|(owner, _)| owner == user));
    let channels: usize = own
        .iter()
        .filter_map(|view| view.detail.as_ref())
        .map(|detail| detail.channels.len())
        .sum();
    let objects = json!({
        "channels": channels, "connections": own.len(), "consumers": sum.consumers,
        "exchanges": exchanges, "queues": sum.queues,
    });
    fields.insert("object_totals".to_owned(), objects);
    fields.insert("churn_rates".to_owned(), json!({}));
    Ok(())
}

fn listeners(request: &Request<'_>) -> Value {
    let node = request.node();
    let shown = node.listeners.iter().map(|listener| {
        json!({
            "node": node.name, "protocol": listener.protocol, "ip_address": listener.address.ip().to_string(),
            "port": listener.address.port(), "socket_opts": {}, "tls": matches!(listener.protocol, "amqp/ssl" | "https"),
        })
    });
    shown.collect()
}

fn contexts(request: &Request<'_>, with_node: bool) -> Value {
    let node = request.node();
    let pages = node.listeners.iter().filter_map(|listener| {
        let description = match listener.protocol {
            "http" | "https" => "RabbitMQ Management",
            "http/prometheus" => "RabbitMQ Prometheus",
            _ => return None,
        };
        let mut context = json!({
            "description": description, "path": "/", "ip": listener.address.ip().to_string(),
            "port": listener.address.port().to_string(), "cowboy_opts": "[]", "ssl_opts": [],
        });
        if listener.protocol != "http" {
            context["protocol"] = format!("'{}'", listener.protocol).into();
        }
        if with_node {
            context["node"] = node.name.clone().into();
        }
        Some(context)
    });
    pages.collect()
}

pub(crate) fn cluster_name(request: &Request<'_>) -> Outcome {
    Ok(Answer::Json(json!({"name": shown_cluster_name(request)})))
}

pub(crate) fn set_cluster_name(request: &Request<'_>) -> Outcome {
    let fields = request.fields()?;
    fields.require(&["name"])?;
    let name = fields.mandatory_text("name")?;
    tracing::info!(name, user = %request.user().name, "cluster renamed");
    request
        .broker()
        .set_global_parameter(CLUSTER_NAME, name.into())?;
    Ok(Answer::Done)
}

pub(crate) fn version(request: &Request<'_>) -> Outcome {
    Ok(Answer::Json(request.node().version.clone().into()))
}

pub(crate) fn nodes(request: &Request<'_>) -> Outcome {
    Ok(Answer::List(List::of(vec![node_view(request)?])))
}

pub(crate) fn node(request: &Request<'_>) -> Outcome {
    check_node(request)?;
    let mut view = node_view(request)?;
    if request.query.is_true("memory") {
        view["memory"] = memory_view(request);
    }
    Ok(Answer::Json(view))
}

/// 404 for every node but this one.
fn check_node(request: &Request<'_>) -> Result<(), Refusal> {
    if request.name("node") == request.node().name {
        Ok(())
    } else {
        Err(Refusal::missing())
    }
}

fn node_view(request: &Request<'_>) -> Result<Value, Refusal> {
    let (node, broker, now_ms) = (request.node(), request.broker(), request.now.unix_ms);
    let readings = (node.readings)();
    let (s, alarms) = (broker.snapshot(), broker.alarms());
    let uptime = request.now.instant.duration_since(node.started).as_millis();
    let anonymous = broker.config().anonymous_user.is_some();
    let mut view = json!({
        "name": node.name, "type": "disc", "running": true, "being_drained": false,
        "os_pid": std::process::id().to_string(), "uptime": u64::try_from(uptime).unwrap_or(u64::MAX),
        "processors": node.processors, "run_queue": 0, "rates_mode": "basic", "net_ticktime": 60,
        "fd_total": readings.max_fds, "sockets_total": readings.max_fds, "proc_total": broker.config().limits.connections_max,
        "mem_limit": readings.memory_limit_bytes, "mem_alarm": alarms.memory, "mem_calculation_strategy": "rss",
        "disk_free_limit": readings.disk_free_limit_bytes, "disk_free_alarm": alarms.disk,
        "db_dir": node.data_dir.display().to_string(), "log_files": ["<stderr>"],
        "config_files": [],
        "enabled_plugins": ["rabbitmq_management", "rabbitmq_prometheus", "rabbitmq_consistent_hash_exchange"],
        "applications": [{"name": "mambamq", "description": "MambaMQ", "version": env!("CARGO_PKG_VERSION")}],
        "auth_mechanisms": [
            {"name": "PLAIN", "description": "SASL PLAIN authentication mechanism", "enabled": true},
            {"name": "AMQPLAIN", "description": "QPid AMQPLAIN mechanism", "enabled": true},
            {"name": "ANONYMOUS", "description": "SASL ANONYMOUS authentication mechanism", "enabled": anonymous},
        ],
        "exchange_types": exchange_types(), "contexts": contexts(request, false),
        "partitions": [], "cluster_links": [], "metrics_gc_queue_length": {},
        "ra_open_file_metrics": {"ra_log_wal": 0, "ra_log_segment_writer": 0},
    });
    let counted = process_counters(&s, &readings);
    let window = request.query.windows()?.node;
    let counted = request
        .rates()
        .counters(Object::NodeProcess, now_ms, &counted, window);
    if let Some(fields) = view.as_object_mut() {
        fields.extend(counted);
    }
    Ok(view)
}

/// What of the node and its process has rates.
fn process_counters(s: &Snapshot, readings: &Readings) -> Vec<(&'static str, u64)> {
    let channels = s.channels_opened.saturating_sub(s.channels_closed);
    let gauges = [
        ("mem_used", readings.resident_bytes),
        ("fd_used", readings.open_fds),
        ("sockets_used", s.connections),
        ("proc_used", s.connections + channels),
        ("disk_free", readings.disk_free_bytes),
        ("io_write_count", s.log_groups),
        ("io_write_bytes", s.log_bytes_written),
        ("io_sync_count", s.log_syncs),
        ("msg_store_read_count", s.messages_read_back),
        ("msg_store_write_count", s.log_entries),
    ];
    gauges.into_iter().chain(churn(s)).collect()
}

pub(crate) fn memory(request: &Request<'_>) -> Outcome {
    check_node(request)?;
    Ok(Answer::Json(json!({"memory": memory_view(request)})))
}

/// What is measured stands under its closest name, what does not exist here is 0, the rest is `other_proc`.
fn memory_view(request: &Request<'_>) -> Value {
    const ABSENT: [&str; 17] = [
        "connection_readers",
        "connection_channels",
        "connection_other",
        "quorum_queue_dlx_procs",
        "stream_queue_procs",
        "stream_queue_replica_reader_procs",
        "stream_queue_coordinator_procs",
        "plugins",
        "metadata_store",
        "metrics",
        "mnesia",
        "quorum_ets",
        "metadata_store_ets",
        "other_ets",
        "msg_index",
        "atom",
        "other_system",
    ];
    let readings = (request.node().readings)();
    let resident = readings.resident_bytes;
    let s = request.broker().snapshot();
    let measured = [
        ("queue_procs", s.classic_queue_memory),
        ("quorum_queue_procs", s.quorum_queue_memory),
        ("connection_writers", s.outbox_bytes),
        ("binary", s.message_bytes_unacked),
        ("mgmt_db", request.rates().bytes() as u64),
        ("code", readings.resident_file_bytes),
    ];
    // Some octets stand under two names: a message on its way to a client may be unacknowledged as well.
    let named: u64 = measured.iter().map(|(_, octets)| octets).sum();
    let mut fields: Map<String, Value> = ABSENT
        .iter()
        .map(|name| ((*name).to_owned(), 0.into()))
        .collect();
    let known = [
        ("other_proc", json!(resident.saturating_sub(named))),
        ("allocated_unused", json!(0)),
        ("reserved_unallocated", json!(0)),
        ("strategy", json!("rss")),
        (
            "total",
            json!({"erlang": resident, "rss": resident, "allocated": resident}),
        ),
    ];
    fields.extend(measured.map(|(name, octets)| (name.to_owned(), octets.into())));
    fields.extend(known.map(|(name, value)| (name.to_owned(), value)));
    fields.into()
}

/// The same in per cent of what the process has, rounded up, so that only what is not there is 0.
pub(crate) fn relative_memory(request: &Request<'_>) -> Outcome {
    check_node(request)?;
    let view = memory_view(request);
    let total = view["total"]["rss"].as_u64().unwrap_or(0).max(1);
    let parts = view.as_object().into_iter().flatten();
    let mut shares: Map<String, Value> = parts
        .filter_map(|(name, octets)| {
            let share = octets.as_u64()?.saturating_mul(100).div_ceil(total);
            Some((name.clone(), share.into()))
        })
        .collect();
    shares.insert("total".to_owned(), 100.into());
    Ok(Answer::Json(json!({"memory": shares})))
}

pub(crate) fn extensions(_: &Request<'_>) -> Outcome {
    Ok(Answer::Json(json!([])))
}

pub(crate) fn auth(_: &Request<'_>) -> Outcome {
    Ok(Answer::Json(json!({"oauth_enabled": false})))
}

pub(crate) fn auth_attempts(request: &Request<'_>) -> Outcome {
    check_node(request)?;
    let s = request.broker().snapshot();
    let logins = &request.management.logins;
    let row = |protocol: &str, succeeded: u64, failed: u64| {
        json!({
            "protocol": protocol, "auth_attempts": succeeded + failed,
            "auth_attempts_failed": failed, "auth_attempts_succeeded": succeeded,
        })
    };
    let (succeeded, failed) = (&logins.succeeded, &logins.failed);
    Ok(Answer::Json(json!([
        row(
            "http",
            succeeded.load(Ordering::Relaxed),
            failed.load(Ordering::Relaxed)
        ),
        row(
            "amqp091",
            s.auth_attempts.saturating_sub(s.auth_failures),
            s.auth_failures
        ),
    ])))
}

pub(crate) fn auth_attempts_by_source(request: &Request<'_>) -> Outcome {
    check_node(request)?;
    let rows = request.broker().attempts().into_iter().map(|(source, count)| {
        json!({
            "remote_address": source.address.to_string(), "username": source.user, "protocol": source.protocol,
            "auth_attempts": count.succeeded + count.failed, "auth_attempts_failed": count.failed,
            "auth_attempts_succeeded": count.succeeded,
        })
    });
    Ok(Answer::Json(rows.collect()))
}

pub(crate) fn feature_flags(_: &Request<'_>) -> Outcome {
    let flags = FEATURE_FLAGS.iter();
    let shown = flags.map(|(name, description)| {
        json!({
            "name": name, "desc": description, "doc_url": "", "state": "enabled",
            "stability": "required", "provided_by": "rabbit",
        })
    });
    Ok(Answer::List(List::of(shown.collect())))
}

/// Those that are known are on for good.
pub(crate) fn enable_feature_flag(request: &Request<'_>) -> Outcome {
    let asked = request.name("name");
    let known = FEATURE_FLAGS.iter().any(|(name, _)| *name == asked);
    known
        .then_some(Answer::Done)
        .ok_or_else(|| Refusal::bad("unsupported"))
}

/// There are none: what RabbitMQ deprecates is either here to stay or was never here.
pub(crate) fn deprecated_features(_: &Request<'_>) -> Outcome {
    Ok(Answer::Json(json!([])))
}

pub(crate) fn deprecated_features_used(_: &Request<'_>) -> Outcome {
    Ok(Answer::Json(json!([])))
}

pub(crate) fn reset(request: &Request<'_>) -> Outcome {
    if !request.name("node").is_empty() {
        check_node(request)?;
    }
    request.rates().reset();
    Ok(Answer::Done)
}

pub(crate) fn rebalance(_: &Request<'_>) -> Outcome {
    Ok(Answer::Done)
}
