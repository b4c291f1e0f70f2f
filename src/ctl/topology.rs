//! What there is in a virtual host: queues, exchanges, bindings.

use serde_json::{Value, json};

use super::{Done, Invocation, Node, output};

/// The commands of this file and how they are called.
pub(super) const COMMANDS: [(&str, &str); 3] = [
    (
        "list_queues",
        "list_queues [--vhost <vhost>] [--online] [--offline] [--local] [--no-table-headers] [<column>, ...]",
    ),
    (
        "list_exchanges",
        "list_exchanges [--vhost <vhost>] [--no-table-headers] [<column> ...]",
    ),
    (
        "list_bindings",
        "list_bindings [--vhost <vhost>] [--no-table-headers] [<column> ...]",
    ),
];

/// Columns of queues; those this broker has nothing to say about are empty.
const QUEUE_COLUMNS: [&str; 39] = [
    "name",
    "durable",
    "auto_delete",
    "arguments",
    "policy",
    "operator_policy",
    "effective_policy_definition",
    "pid",
    "owner_pid",
    "exclusive",
    "exclusive_consumer_pid",
    "exclusive_consumer_tag",
    "messages_ready",
    "messages_unacknowledged",
    "messages",
    "messages_ready_ram",
    "messages_unacknowledged_ram",
    "messages_ram",
    "messages_persistent",
    "message_bytes",
    "message_bytes_ready",
    "message_bytes_unacknowledged",
    "message_bytes_ram",
    "message_bytes_persistent",
    "head_message_timestamp",
    "disk_reads",
    "disk_writes",
    "consumers",
    "consumer_utilisation",
    "consumer_capacity",
    "memory",
    "slave_pids",
    "synchronised_slave_pids",
    "state",
    "type",
    "leader",
    "members",
    "online",
    "mirror_pids",
];

const EXCHANGE_COLUMNS: [&str; 7] = [
    "name",
    "type",
    "durable",
    "auto_delete",
    "internal",
    "arguments",
    "policy",
];

const BINDING_COLUMNS: [&str; 6] = [
    "source_name",
    "source_kind",
    "destination_name",
    "destination_kind",
    "routing_key",
    "arguments",
];

/// Does one command.
pub(super) fn perform(node: &mut Node, invocation: &Invocation) -> Done {
    let (command, vhost) = (invocation.command.as_str(), invocation.vhost());
    let (known, usual, banner): (&[&str], &[&str], String) = match command {
        "list_queues" => (
            &QUEUE_COLUMNS,
            &["name", "messages"],
            format!("Listing queues for vhost {vhost} ..."),
        ),
        "list_exchanges" => (
            &EXCHANGE_COLUMNS,
            &["name", "type"],
            format!("Listing exchanges for vhost {vhost} ..."),
        ),
        _ => (
            &BINDING_COLUMNS,
            &BINDING_COLUMNS,
            format!("Listing bindings for vhost {vhost}..."),
        ),
    };
    let columns = invocation.columns(known, usual)?;
    if command == "list_queues" {
        invocation.banner("Timeout: 60.0 seconds ...");
    }
    invocation.banner(&banner);
    // Queues of this broker are all here and all up.
    let none = invocation.has("offline");
    let mut found = if none {
        Value::Array(Vec::new())
    } else {
        node.ask(command, json!({"vhost": vhost, "columns": columns}))?
    };
    if invocation.format.has_cells() {
        for row in found.as_array_mut().into_iter().flatten() {
            if let Some(arguments) = row.get_mut("arguments") {
                *arguments = output::term(arguments).into();
            }
            if let Some(definition) = row.get_mut("effective_policy_definition") {
                *definition = definition_term(definition).into();
            }
        }
    }
    let columns: Vec<(&str, &str)> = columns.iter().map(|name| (*name, *name)).collect();
    output::list(invocation, &columns, output::rows(&found));
    Ok(())
}

/// A policy's definition is a list of pairs whose names are binaries.
fn definition_term(definition: &Value) -> String {
    let pairs = definition.as_object().into_iter().flatten();
    let pairs: Vec<String> = pairs
        .map(|(name, value)| {
            let value = match value {
                Value::String(text) => format!("<<\"{text}\">>"),
                other => other.to_string(),
            };
            format!("{{<<\"{name}\">>, {value}}}")
        })
        .collect();
    format!("[{}]", pairs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms() {
        let arguments = json!({"a": [1, true], "k": 1, "n": {"x": "y"}, "s": "x"});
        assert_eq!(
            output::term(&arguments),
            "[{\"a\",[1,true]},{\"k\",1},{\"n\",[{\"x\",\"y\"}]},{\"s\",\"x\"}]"
        );
        assert_eq!(output::term(&json!({})), "[]");
        let definition = json!({"max-length": 5, "overflow": "drop-head"});
        assert_eq!(
            definition_term(&definition),
            "[{<<\"max-length\">>, 5}, {<<\"overflow\">>, <<\"drop-head\">>}]"
        );
    }
}
