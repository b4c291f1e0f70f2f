//! Policies and operator policies.

use serde_json::{Value, json};

use super::{Done, EX_USAGE, Failure, Invocation, Node, output};

/// The commands of this file and how they are called.
pub(super) const COMMANDS: [(&str, &str); 6] = [
    (
        "set_policy",
        "set_policy [--vhost <vhost>] [--priority <priority>] [--apply-to <apply-to>] <name> <pattern> <definition>",
    ),
    ("clear_policy", "clear_policy [--vhost <vhost>] <name>"),
    (
        "list_policies",
        "list_policies [--vhost <vhost>] [--no-table-headers]",
    ),
    (
        "set_operator_policy",
        "set_operator_policy [--vhost <vhost>] [--priority <priority>] [--apply-to <apply-to>] <name> <pattern> <definition>",
    ),
    (
        "clear_operator_policy",
        "clear_operator_policy [--vhost <vhost>] <name>",
    ),
    (
        "list_operator_policies",
        "list_operator_policies [--vhost <vhost>] [--no-table-headers]",
    ),
];

const COLUMNS: [(&str, &str); 6] = [
    ("vhost", "vhost"),
    ("name", "name"),
    ("pattern", "pattern"),
    ("apply-to", "apply-to"),
    ("definition", "definition"),
    ("priority", "priority"),
];

/// Does one command.
pub(super) fn perform(node: &mut Node, invocation: &Invocation) -> Done {
    let (command, vhost) = (invocation.command.as_str(), invocation.vhost());
    let operator = command.contains("operator");
    match command {
        "list_policies" | "list_operator_policies" => {
            invocation.exactly::<0>()?;
            let what = if operator {
                "operator policy overrides"
            } else {
                "policies"
            };
            invocation.banner(&format!("Listing {what} for vhost \"{vhost}\" ..."));
            let mut found = node.ask(command, json!({"vhost": vhost}))?;
            for row in found.as_array_mut().into_iter().flatten() {
                row["definition"] = row["definition"].to_string().into();
            }
            output::list(invocation, &COLUMNS, output::rows(&found));
        }
        "clear_policy" | "clear_operator_policy" => {
            let [name] = invocation.exactly()?;
            let what = if operator {
                "operator policy"
            } else {
                "policy"
            };
            invocation.banner(&format!(
                "Clearing {what} \"{name}\" on vhost \"{vhost}\" ..."
            ));
            node.ask(command, json!({"vhost": vhost, "name": name}))?;
        }
        _ => {
            let [name, pattern, definition] = invocation.exactly()?;
            let priority = priority(invocation)?;
            let what = if operator {
                "operator policy override"
            } else {
                "policy"
            };
            invocation.banner(&format!(
                "Setting {what} \"{name}\" for pattern \"{pattern}\" to \"{definition}\" with priority \"{priority}\" for vhost \"{vhost}\" ..."
            ));
            let mut arguments = json!({
                "vhost": vhost,
                "name": name,
                "pattern": pattern,
                "definition": output::json(definition)?,
                "priority": priority,
            });
            if let Some(apply_to) = invocation.option("apply-to") {
                arguments["apply-to"] = Value::from(apply_to);
            }
            node.ask(command, arguments)?;
        }
    }
    Ok(())
}

fn priority(invocation: &Invocation) -> Result<i64, Failure> {
    let text = invocation.option("priority").unwrap_or("0");
    text.parse().map_err(|_| {
        let reason = format!(
            "Error (argument validation): Invalid options for this command:\n--priority : {text}"
        );
        Failure::new(EX_USAGE, reason)
    })
}
