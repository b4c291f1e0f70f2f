//! The documents that go out and come in, as the OpenAPI document describes them (`spec: http-api §5, §6`).
//!
//! A schema is a line of `key:type`. No key of an answer is required, because `columns` leaves out any of them.

use serde_json::{Map, Value, json};

/// What a path answers to `GET`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// One document.
    One(&'static str),
    /// A list, or one page of it.
    List(&'static str),
}

use Shape::{List, One};

/// Answers to `GET`, by path; what is not named here is any document.
#[rustfmt::skip]
pub(crate) const ANSWERS: &[(&str, Shape)] = &[
    ("/overview", One("Overview")),
    ("/cluster-name", One("ClusterName")),
    ("/nodes", List("Node")),
    ("/nodes/{node}", One("Node")),
    ("/nodes/{node}/memory", One("Memory")),
    ("/nodes/{node}/memory/relative", One("Memory")),
    ("/whoami", One("WhoAmI")),
    ("/auth/hash_password/{password}", One("Hash")),
    ("/feature-flags", List("FeatureFlag")),
    ("/vhosts", List("Vhost")),
    ("/vhosts/{vhost}", One("Vhost")),
    ("/vhosts/{vhost}/permissions", List("Permission")),
    ("/vhosts/{vhost}/topic-permissions", List("TopicPermission")),
    ("/vhosts/{vhost}/connections", List("Connection")),
    ("/vhosts/{vhost}/channels", List("Channel")),
    ("/users", List("User")),
    ("/users/without-permissions", List("User")),
    ("/users/{user}", One("User")),
    ("/users/{user}/permissions", List("Permission")),
    ("/users/{user}/topic-permissions", List("TopicPermission")),
    ("/permissions", List("Permission")),
    ("/permissions/{vhost}/{user}", One("Permission")),
    ("/topic-permissions", List("TopicPermission")),
    ("/topic-permissions/{vhost}/{user}", List("TopicPermission")),
    ("/topic-permissions/{vhost}/{user}/{exchange}", List("TopicPermission")),
    ("/vhost-limits", List("VhostLimits")),
    ("/vhost-limits/{vhost}", List("VhostLimits")),
    ("/user-limits", List("UserLimits")),
    ("/user-limits/{user}", List("UserLimits")),
    ("/global-parameters", List("GlobalParameter")),
    ("/global-parameters/{name}", One("GlobalParameter")),
    ("/parameters", List("Parameter")),
    ("/parameters/{component}", List("Parameter")),
    ("/parameters/{component}/{vhost}", List("Parameter")),
    ("/parameters/{component}/{vhost}/{name}", One("Parameter")),
    ("/policies", List("Policy")),
    ("/policies/{vhost}", List("Policy")),
    ("/policies/{vhost}/{name}", One("Policy")),
    ("/operator-policies", List("Policy")),
    ("/operator-policies/{vhost}", List("Policy")),
    ("/operator-policies/{vhost}/{name}", One("Policy")),
    ("/definitions", One("Definitions")),
    ("/definitions/{vhost}", One("Definitions")),
    ("/all-configuration", One("Definitions")),
    ("/queues", List("Queue")),
    ("/queues/detailed", List("Queue")),
    ("/queues/{vhost}", List("Queue")),
    ("/queues/{vhost}/{queue}", One("Queue")),
    ("/queues/{vhost}/{queue}/bindings", List("Binding")),
    ("/exchanges", List("Exchange")),
    ("/exchanges/{vhost}", List("Exchange")),
    ("/exchanges/{vhost}/{exchange}", One("Exchange")),
    ("/exchanges/{vhost}/{exchange}/bindings/source", List("Binding")),
    ("/exchanges/{vhost}/{exchange}/bindings/destination", List("Binding")),
    ("/bindings", List("Binding")),
    ("/bindings/{vhost}", List("Binding")),
    ("/bindings/{vhost}/e/{source}/q/{queue}", List("Binding")),
    ("/bindings/{vhost}/e/{source}/q/{queue}/{props}", One("Binding")),
    ("/bindings/{vhost}/e/{source}/e/{destination}", List("Binding")),
    ("/bindings/{vhost}/e/{source}/e/{destination}/{props}", One("Binding")),
    ("/connections", List("Connection")),
    ("/connections/username/{user}", List("Connection")),
    ("/connections/{connection}", One("Connection")),
    ("/connections/{connection}/channels", List("Channel")),
    ("/channels", List("Channel")),
    ("/channels/{channel}", One("Channel")),
    ("/consumers", List("Consumer")),
    ("/consumers/{vhost}", List("Consumer")),
];

/// What a `POST` answers with 200; others have no body.
pub(crate) const RESULTS: &[(&str, Shape)] = &[
    ("/queues/{vhost}/{queue}/get", List("Message")),
    ("/exchanges/{vhost}/{exchange}/publish", One("Published")),
];

/// Bodies of `PUT` and `POST`, by path, with the keys that have to be there.
#[rustfmt::skip]
pub(crate) const BODIES: &[(&str, &str, &[&str])] = &[
    ("/cluster-name", "name:string", &["name"]),
    ("/vhosts/{vhost}", "description:string tags:words default_queue_type:string tracing:boolean protected_from_deletion:boolean", &[]),
    ("/users/bulk-delete", "users:array", &["users"]),
    ("/users/{user}", "tags:words password:string password_hash:string hashing_algorithm:string limits:object", &["tags"]),
    ("/permissions/{vhost}/{user}", "configure:string write:string read:string", &["configure", "write", "read"]),
    ("/topic-permissions/{vhost}/{user}", "exchange:string write:string read:string", &["exchange", "write", "read"]),
    ("/vhost-limits/{vhost}/{name}", "value:integer", &["value"]),
    ("/user-limits/{user}/{name}", "value:integer", &["value"]),
    ("/global-parameters/{name}", "value:any", &["value"]),
    ("/parameters/{component}/{vhost}/{name}", "value:object", &["value"]),
    ("/policies/{vhost}/{name}", "pattern:string definition:object priority:integer apply-to:string", &["pattern", "definition"]),
    ("/operator-policies/{vhost}/{name}", "pattern:string definition:object priority:integer apply-to:string", &["pattern", "definition"]),
    ("/queues/{vhost}/{queue}", "durable:boolean auto_delete:boolean arguments:object", &[]),
    ("/queues/{vhost}/{queue}/get", "count:integer ackmode:string encoding:string truncate:integer", &["count", "ackmode", "encoding"]),
    ("/queues/{vhost}/{queue}/actions", "action:string", &["action"]),
    ("/exchanges/{vhost}/{exchange}", "type:string durable:boolean auto_delete:boolean internal:boolean arguments:object", &[]),
    ("/exchanges/{vhost}/{exchange}/publish", "properties:object routing_key:string payload:string payload_encoding:string", &["properties", "routing_key", "payload", "payload_encoding"]),
    ("/bindings/{vhost}/e/{source}/q/{queue}", "routing_key:string arguments:object", &[]),
    ("/bindings/{vhost}/e/{source}/e/{destination}", "routing_key:string arguments:object", &[]),
];

#[rustfmt::skip]
const SCHEMAS: &[(&str, &str)] = &[
    ("Refusal", "error:string reason:any"),
    ("Health", "status:string reason:string alarms:array missing:any ports:array protocols:array port:integer protocol:string"),
    ("Overview", "management_version:string rates_mode:string sample_retention_policies:object exchange_types:array product_version:string product_name:string \
        rabbitmq_version:string mambamq_version:string cluster_name:string cluster_tags:any node_tags:any erlang_version:string erlang_full_version:string \
        disable_stats:boolean default_queue_type:string is_op_policy_updating_enabled:boolean enable_queue_totals:boolean message_stats:object churn_rates:object \
        queue_totals:object object_totals:object statistics_db_event_queue:integer node:string listeners:array contexts:array"),
    ("ClusterName", "name:string"),
    ("Node", "name:string type:string running:boolean being_drained:boolean os_pid:string uptime:integer processors:integer run_queue:integer rates_mode:string \
        fd_used:integer fd_total:integer sockets_used:integer sockets_total:integer proc_used:integer proc_total:integer mem_used:integer mem_limit:integer \
        mem_alarm:boolean mem_calculation_strategy:string disk_free:integer disk_free_limit:integer disk_free_alarm:boolean db_dir:string log_files:array \
        config_files:array enabled_plugins:array applications:array auth_mechanisms:array exchange_types:array contexts:array partitions:array cluster_links:array \
        net_ticktime:integer memory:object"),
    ("Memory", "memory:object"),
    ("WhoAmI", "name:string tags:array is_internal_user:boolean"),
    ("Hash", "ok:string"),
    ("FeatureFlag", "name:string state:string desc:string doc_url:string stability:string provided_by:string"),
    ("Vhost", "name:string description:string tags:array default_queue_type:string protected_from_deletion:boolean metadata:object tracing:boolean \
        cluster_state:object message_stats:object messages:integer messages_ready:integer messages_unacknowledged:integer"),
    ("User", "name:string password_hash:string hashing_algorithm:string tags:array limits:object"),
    ("Permission", "user:string vhost:string configure:string write:string read:string"),
    ("TopicPermission", "user:string vhost:string exchange:string write:string read:string"),
    ("VhostLimits", "vhost:string value:object"),
    ("UserLimits", "user:string value:object"),
    ("GlobalParameter", "name:string value:any"),
    ("Parameter", "vhost:string component:string name:string value:any"),
    ("Policy", "vhost:string name:string pattern:string apply-to:string definition:object priority:number"),
    ("Definitions", "rabbit_version:string rabbitmq_version:string product_name:string product_version:string rabbitmq_definition_format:string explanation:string \
        users:array vhosts:array permissions:array topic_permissions:array parameters:array global_parameters:array policies:array queues:array exchanges:array bindings:array"),
    ("Queue", "name:string vhost:string type:string durable:boolean auto_delete:boolean exclusive:boolean arguments:object node:string state:string policy:string? \
        operator_policy:string? effective_policy_definition:object consumers:integer exclusive_consumer_tag:string? single_active_consumer_tag:string? messages:integer \
        messages_ready:integer messages_unacknowledged:integer messages_ram:integer messages_paged_out:integer messages_delayed:integer message_bytes:integer \
        message_bytes_ready:integer message_bytes_unacknowledged:integer message_bytes_ram:integer memory:integer storage_version:integer message_stats:object \
        leader:string members:array online:array owner_pid_details:object consumer_details:array incoming:array deliveries:array"),
    ("Exchange", "name:string vhost:string type:string durable:boolean auto_delete:boolean internal:boolean arguments:object policy:string message_stats:object \
        incoming:array outgoing:array"),
    ("Binding", "source:string vhost:string destination:string destination_type:string routing_key:string arguments:object properties_key:string"),
    ("Connection", "name:string node:string vhost:string user:string user_who_performed_action:string user_provided_name:string protocol:string type:string \
        state:string host:string port:integer peer_host:string peer_port:integer ssl:boolean ssl_protocol:string? ssl_key_exchange:string? ssl_cipher:string? \
        ssl_hash:string? peer_cert_subject:string? peer_cert_issuer:string? peer_cert_validity:string? auth_mechanism:string channel_max:integer frame_max:integer \
        timeout:integer channels:integer connected_at:integer client_properties:object recv_oct:integer recv_cnt:integer send_oct:integer send_cnt:integer send_pend:integer"),
    ("Channel", "name:string number:integer node:string vhost:string user:string user_who_performed_action:string state:string connection_details:object \
        confirm:boolean transactional:boolean consumer_count:integer prefetch_count:integer global_prefetch_count:integer messages_unacknowledged:integer \
        messages_unconfirmed:integer messages_uncommitted:integer acks_uncommitted:integer pending_raft_commands:integer message_stats:object consumer_details:array \
        deliveries:array publishes:array"),
    ("Consumer", "consumer_tag:string queue:object channel_details:object ack_required:boolean exclusive:boolean active:boolean activity_status:string \
        prefetch_count:integer arguments:object consumer_timeout:integer"),
    ("Message", "payload_bytes:integer redelivered:boolean exchange:string routing_key:string message_count:integer properties:object payload:string payload_encoding:string"),
    ("Published", "routed:boolean"),
];

/// All of them, by name.
pub(crate) fn components() -> Value {
    let mut all: Map<String, Value> = SCHEMAS
        .iter()
        .map(|(name, keys)| ((*name).to_owned(), object(keys, &[])))
        .collect();
    all["Refusal"]["required"] = json!(["error", "reason"]);
    all.into()
}

/// The schema of an object with these keys.
pub(crate) fn object(keys: &str, required: &[&str]) -> Value {
    let properties: Map<String, Value> = keys
        .split_whitespace()
        .filter_map(|key| key.split_once(':'))
        .map(|(key, kind)| (key.to_owned(), typed(kind)))
        .collect();
    let mut schema = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn typed(kind: &str) -> Value {
    match (kind, kind.strip_suffix('?')) {
        ("any", _) => json!({}),
        // Texts in a list, or in one text between commas.
        ("words", _) => json!({"type": ["string", "array"], "items": {"type": "string"}}),
        (_, Some(kind)) => json!({"type": [kind, "null"]}),
        (kind, None) => json!({"type": kind}),
    }
}

/// The schema of an answer of this shape.
pub(crate) fn shaped(shape: Option<Shape>) -> Value {
    let named = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    match shape {
        None => json!({}),
        Some(One(name)) => named(name),
        Some(List(name)) => {
            let items = json!({"type": "array", "items": named(name)});
            let mut page = object(
                "page:integer page_count:integer page_size:integer item_count:integer filtered_count:integer total_count:integer items:array",
                &[
                    "page",
                    "page_count",
                    "page_size",
                    "item_count",
                    "filtered_count",
                    "total_count",
                    "items",
                ],
            );
            page["properties"]["items"] = items.clone();
            json!({"anyOf": [items, page]})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::ENDPOINTS;

    #[test]
    fn what_is_described_is_there() {
        let schemas = components();
        for (path, shape) in ANSWERS.iter().chain(RESULTS) {
            let (One(name) | List(name)) = shape;
            assert!(schemas[name].is_object(), "{name}");
            assert!(ENDPOINTS.iter().any(|one| one.path == *path), "{path}");
        }
        for (path, keys, required) in BODIES {
            assert!(ENDPOINTS.iter().any(|one| one.path == *path), "{path}");
            let schema = object(keys, required);
            for key in *required {
                assert!(schema["properties"][key].is_object(), "{path}: {key}");
            }
        }
    }

    #[test]
    fn types() {
        let schema = object("a:string b:integer? c:any", &["a"]);
        let expected = json!({
            "type": "object", "required": ["a"],
            "properties": {"a": {"type": "string"}, "b": {"type": ["integer", "null"]}, "c": {}},
        });
        assert_eq!(schema, expected);
    }
}
