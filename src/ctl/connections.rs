//! Connections, their channels and consumers.

use serde_json::{Value, json};

use super::{Done, EX_USAGE, Failure, Invocation, Node, output};

/// The commands of this file and how they are called.
pub(super) const COMMANDS: [(&str, &str); 6] = [
    (
        "list_connections",
        "list_connections [--no-table-headers] [<column> ...]",
    ),
    (
        "list_channels",
        "list_channels [--no-table-headers] [<column> ...]",
    ),
    (
        "list_consumers",
        "list_consumers [--vhost <vhost>] [--no-table-headers] [<column> ...]",
    ),
    (
        "close_connection",
        "close_connection <connection pid> <explanation>",
    ),
    (
        "close_all_connections",
        "close_all_connections [--vhost <vhost> --limit <limit>] [--global] <explanation>",
    ),
    (
        "close_all_user_connections",
        "close_all_user_connections <username> <explanation>",
    ),
];

const CONNECTION_COLUMNS: [&str; 31] = [
    "pid",
    "name",
    "port",
    "host",
    "peer_port",
    "peer_host",
    "ssl",
    "ssl_protocol",
    "ssl_key_exchange",
    "ssl_cipher",
    "ssl_hash",
    "peer_cert_subject",
    "peer_cert_issuer",
    "peer_cert_validity",
    "state",
    "channels",
    "protocol",
    "auth_mechanism",
    "user",
    "vhost",
    "timeout",
    "frame_max",
    "channel_max",
    "client_properties",
    "recv_oct",
    "recv_cnt",
    "send_oct",
    "send_cnt",
    "send_pend",
    "connected_at",
    "node",
];

const CHANNEL_COLUMNS: [&str; 14] = [
    "pid",
    "connection",
    "name",
    "number",
    "user",
    "vhost",
    "transactional",
    "confirm",
    "consumer_count",
    "messages_unacknowledged",
    "messages_uncommitted",
    "acks_uncommitted",
    "messages_unconfirmed",
    "prefetch_count",
];

const CONSUMER_COLUMNS: [&str; 8] = [
    "queue_name",
    "channel_pid",
    "consumer_tag",
    "ack_required",
    "prefetch_count",
    "active",
    "activity_status",
    "arguments",
];

/// Does one command.
pub(super) fn perform(node: &mut Node, invocation: &Invocation) -> Done {
    let vhost = invocation.vhost();
    match invocation.command.as_str() {
        "list_connections" => list(
            node,
            invocation,
            &CONNECTION_COLUMNS,
            &["user", "peer_host", "peer_port", "state"],
            "Listing connections ...",
        ),
        "list_channels" => list(
            node,
            invocation,
            &CHANNEL_COLUMNS,
            &["pid", "user", "consumer_count", "messages_unacknowledged"],
            "Listing channels ...",
        ),
        "list_consumers" => list(
            node,
            invocation,
            &CONSUMER_COLUMNS,
            &[
                "queue_name",
                "channel_pid",
                "consumer_tag",
                "ack_required",
                "prefetch_count",
                "active",
                "arguments",
            ],
            &format!("Listing consumers in vhost {vhost} ..."),
        ),
        "close_connection" => {
            let [pid, reason] = invocation.exactly::<2>()?;
            invocation.banner(&format!("Closing connection {pid}, reason: {reason}..."));
            node.ask("close_connection", json!({"pid": pid, "reason": reason}))?;
            Ok(())
        }
        "close_all_user_connections" => {
            let [user, reason] = invocation.exactly::<2>()?;
            invocation.banner(&format!(
                "Closing connections of user {user}, reason: {reason}..."
            ));
            node.ask("close_connections", json!({"user": user, "reason": reason}))?;
            Ok(())
        }
        _ => close_all(node, invocation),
    }
}

fn list(
    node: &mut Node,
    invocation: &Invocation,
    known: &[&str],
    usual: &[&str],
    banner: &str,
) -> Done {
    let columns = invocation.columns(known, usual)?;
    invocation.banner(banner);
    let wanted = json!({"vhost": invocation.vhost(), "columns": columns});
    let mut found = node.ask(&invocation.command, wanted)?;
    if invocation.format.has_cells() {
        for row in found.as_array_mut().into_iter().flatten() {
            for key in ["arguments", "client_properties"] {
                if let Some(table) = row.get_mut(key).filter(|table| table.is_object()) {
                    *table = output::term(table).into();
                }
            }
        }
    }
    let columns: Vec<(&str, &str)> = columns.iter().map(|name| (*name, *name)).collect();
    output::list(invocation, &columns, output::rows(&found));
    Ok(())
}

fn close_all(node: &mut Node, invocation: &Invocation) -> Done {
    let [reason] = invocation.exactly::<1>()?;
    let mut arguments = json!({"reason": reason});
    let whose = if invocation.has("global") || invocation.vhost.is_none() {
        "all connections".to_owned()
    } else {
        arguments["vhost"] = invocation.vhost().into();
        format!("all connections in vhost {}", invocation.vhost())
    };
    if let Some(text) = invocation.option("limit") {
        let limit: u64 = text.parse().map_err(|_| {
            let text = format!("Error: the option --limit needs a number, not '{text}'");
            Failure::new(EX_USAGE, text)
        })?;
        // None, as the tool that people know has it.
        if limit > 0 {
            arguments["limit"] = limit.into();
        }
    }
    invocation.banner(&format!("Closing {whose} (reason: {reason})..."));
    let closed = node.ask("close_connections", arguments)?;
    let count = closed.get("closed").and_then(Value::as_u64);
    invocation.banner(&format!("Closed {} connections", count.unwrap_or(0)));
    Ok(())
}
