//! Queues.

use serde_json::{Value, json};

use super::{Done, EX_USAGE, Failure, Invocation, Node, output};

/// Commands and how they are called.
pub(super) const COMMANDS: [(&str, &str); 1] = [(
    "peek_queue",
    "peek_queue [--vhost <vhost>] <queue> [--offset <number>] [--count <number>] [--body-limit <octets>]",
)];

/// Does one command.
pub(super) fn perform(node: &mut Node, invocation: &Invocation) -> Done {
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
