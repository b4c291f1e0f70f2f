//! What there is in a virtual host, over the control socket: queues, exchanges, bindings.
//!
//! A request names the `vhost` and the `columns` it wants; the answer is an array of objects with these keys. A virtual
//! host that is not there has nothing in it.

use mamba_broker::{
    Broker,
    queue_cell::{QueueCell, QueueCounts},
    vhost::{Binding, Destination, Vhost},
};
use mamba_policy::table_to_json;
use serde_json::{Map, Value};

use super::{Outcome, arguments::Arguments};

/// The commands of this file.
pub(super) const COMMANDS: [&str; 3] = ["list_queues", "list_exchanges", "list_bindings"];

/// Does one command.
pub(super) fn perform(broker: &Broker, command: &str, arguments: &Map<String, Value>) -> Outcome {
    let arguments = Arguments::of(arguments);
    let columns = arguments.list("columns")?.unwrap_or_default();
    let Some(vhost) = broker.vhost(arguments.text("vhost")?) else {
        return Ok(Value::Array(Vec::new()));
    };
    Ok(match command {
        "list_queues" => vhost
            .queues()
            .iter()
            .map(|queue| {
                let counts = queue.counts();
                row(&columns, |column| {
                    queue_column(broker, &vhost, queue, &counts, column)
                })
            })
            .collect(),
        "list_exchanges" => vhost
            .exchanges()
            .iter()
            .map(|exchange| {
                row(&columns, |column| match column {
                    "name" => exchange.name.as_ref().into(),
                    "type" => exchange.kind.as_ref().into(),
                    "durable" => exchange.durable.into(),
                    "auto_delete" => exchange.auto_delete.into(),
                    "internal" => exchange.internal.into(),
                    "arguments" => Value::Object(table_to_json(&exchange.arguments)),
                    "policy" => vhost.policies_of_exchange(&exchange.name).policy.into(),
                    _ => Value::Null,
                })
            })
            .collect(),
        _ => {
            // Every queue is bound to the default exchange by its name.
            let implicit = vhost.queues().into_iter().map(|queue| Binding {
                source: "".into(),
                destination: Destination::Queue(std::sync::Arc::clone(&queue.name)),
                routing_key: std::sync::Arc::clone(&queue.name),
                arguments: Default::default(),
            });
            implicit
                .chain(vhost.bindings())
                .map(|binding| row(&columns, |column| binding_column(&binding, column)))
                .collect()
        }
    })
}

pub(super) fn row(columns: &[&str], value: impl Fn(&str) -> Value) -> Value {
    columns
        .iter()
        .map(|column| ((*column).to_owned(), value(column)))
        .collect::<Map<_, _>>()
        .into()
}

fn queue_column(
    broker: &Broker,
    vhost: &Vhost,
    queue: &QueueCell,
    counts: &QueueCounts,
    column: &str,
) -> Value {
    let declaration = &queue.declaration;
    let node = || Value::from(broker.config().node_name.as_str());
    match column {
        "name" => (*queue.name).into(),
        "durable" => declaration.durable.into(),
        "auto_delete" => declaration.auto_delete.into(),
        "exclusive" => declaration.exclusive_owner.is_some().into(),
        "arguments" => Value::Object(table_to_json(&declaration.arguments)),
        "policy" => vhost.policies_of_queue(queue).policy.into(),
        "operator_policy" => vhost.policies_of_queue(queue).operator_policy.into(),
        "effective_policy_definition" => vhost
            .policies_of_queue(queue)
            .definition
            .into_iter()
            .collect::<Map<_, _>>()
            .into(),
        "messages" => (counts.ready + counts.unacked).into(),
        "messages_ready" => counts.ready.into(),
        "messages_unacknowledged" => counts.unacked.into(),
        "message_bytes" => (counts.ready_bytes + counts.unacked_bytes).into(),
        "message_bytes_ready" => counts.ready_bytes.into(),
        "message_bytes_unacknowledged" => counts.unacked_bytes.into(),
        "consumers" => counts.consumers.into(),
        "state" => "running".into(),
        "type" => queue.type_name().into(),
        "pid" => format!("<{}.{}>", broker.config().node_name, queue.id.0).into(),
        "leader" => node(),
        "members" | "online" => Value::Array(vec![node()]),
        _ => Value::Null,
    }
}

fn binding_column(binding: &Binding, column: &str) -> Value {
    let (kind, destination) = match &binding.destination {
        Destination::Queue(name) => ("queue", name),
        Destination::Exchange(name) => ("exchange", name),
    };
    match column {
        "source_name" => (*binding.source).into(),
        "source_kind" => "exchange".into(),
        "destination_name" => (**destination).into(),
        "destination_kind" => kind.into(),
        "routing_key" => (*binding.routing_key).into(),
        "arguments" => Value::Object(table_to_json(&binding.arguments)),
        _ => Value::Null,
    }
}
