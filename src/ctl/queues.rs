//! Queues.

use serde_json::{Value, json};

use super::{
    Done, EX_DATAERR, EX_UNAVAILABLE, EX_USAGE, Failure, Invocation, Node, Refused, output,
};

/// Commands and how they are called.
pub(super) const COMMANDS: [(&str, &str); 4] = [
    (
        "peek_queue",
        "peek_queue [--vhost <vhost>] <queue> [--offset <number>] [--count <number>] [--body-limit <octets>]",
    ),
    ("purge_queue", "purge_queue [--vhost <vhost>] <queue>"),
    (
        "delete_queue",
        "delete_queue [--vhost <vhost>] <queue_name> [--if-empty|-e] [--if-unused|-u] [--force]",
    ),
    (
        "list_unresponsive_queues",
        "list_unresponsive_queues [--vhost <vhost>] [--no-table-headers]",
    ),
];

/// Does one command.
pub(super) fn perform(node: &mut Node, invocation: &Invocation) -> Done {
    match invocation.command.as_str() {
        "purge_queue" => purge(node, invocation),
        "delete_queue" => delete(node, invocation),
        "list_unresponsive_queues" => {
            let vhost = invocation.vhost();
            invocation.banner(&format!(
                "Listing unresponsive queues for vhost {vhost} ..."
            ));
            // Whoever answers has asked them all.
            let queues = json!({"vhost": vhost, "columns": ["name", "messages"]});
            node.ask("list_queues", queues)?;
            output::list(invocation, &[("name", "name")], &[]);
            Ok(())
        }
        _ => peek(node, invocation),
    }
}

fn purge(node: &mut Node, invocation: &Invocation) -> Done {
    let [name] = invocation.exactly()?;
    let vhost = invocation.vhost();
    invocation.banner(&format!("Purging queue '{name}' in vhost '{vhost}' ..."));
    let asked = json!({"vhost": vhost, "name": name});
    match node.try_ask("purge_queue", asked)? {
        Ok(_) => Ok(()),
        Err(refused) if is_missing(&refused) => Err(Failure::new(
            EX_DATAERR,
            "Object (queue, stream, exchange, etc) was not found",
        )),
        Err(refused) => Err(Failure::error(EX_UNAVAILABLE, refused.message)),
    }
}

fn delete(node: &mut Node, invocation: &Invocation) -> Done {
    let [name] = invocation.exactly()?;
    let vhost = invocation.vhost();
    let (if_empty, if_unused) = (invocation.has("if-empty"), invocation.has("if-unused"));
    let conditions = match (if_empty, if_unused) {
        (false, false) => "",
        (true, false) => " if queue is empty",
        (false, true) => " if queue is unused",
        (true, true) => " if queue is empty and if queue is unused",
    };
    invocation.banner(&format!(
        "Deleting queue '{name}' on vhost '{vhost}'{conditions} ..."
    ));
    let asked = json!({"vhost": vhost, "name": name, "if_empty": if_empty, "if_unused": if_unused});
    match node.try_ask("delete_queue", asked)? {
        Ok(deleted) => {
            let count = &deleted["messages"];
            let text = format!("Queue was successfully deleted with {count} ready messages");
            output::message(invocation, &text);
            Ok(())
        }
        Err(refused) if is_missing(&refused) => Err(Failure::error(EX_USAGE, "Queue not found")),
        Err(refused) => Err(Failure::error(EX_UNAVAILABLE, refused.message)),
    }
}

/// The queue or its virtual host.
fn is_missing(refused: &Refused) -> bool {
    ["no_such_queue", "no_such_vhost"].contains(&refused.code.as_str())
}

fn peek(node: &mut Node, invocation: &Invocation) -> Done {
    let [name] = invocation.exactly::<1>()?;
    let vhost = invocation.vhost();
    let mut arguments = json!({"vhost": vhost, "name": name});
    for (option, field) in [
        ("offset", "offset"),
        ("count", "count"),
        ("body-limit", "body_limit"),
    ] {
        if let Some(text) = invocation.option(option) {
            let number: u64 = text.parse().map_err(|_| {
                let text = format!("Error: the option --{option} needs a number, not '{text}'");
                Failure::new(EX_USAGE, text)
            })?;
            arguments[field] = number.into();
        }
    }
    invocation.banner(&format!(
        "Looking at messages of queue '{name}' in vhost '{vhost}' ..."
    ));
    let page = node.ask("peek_queue", arguments)?;
    let messages = page.get("messages").and_then(Value::as_array);
    let columns = [
        "position",
        "sequence",
        "exchange",
        "routing_key",
        "redelivered",
        "delivery_count",
        "properties",
        "body_bytes",
        "body",
        "body_encoding",
    ];
    output::list(
        invocation,
        &columns.map(|column| (column, column)),
        messages.map_or(&[], Vec::as_slice),
    );
    Ok(())
}
