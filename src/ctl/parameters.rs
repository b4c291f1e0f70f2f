//! Runtime parameters, of a virtual host and of the node.

use serde_json::{Value, json};

use super::{Done, Invocation, Node, output};

/// The commands of this file and how they are called.
pub(super) const COMMANDS: [(&str, &str); 7] = [
    (
        "set_parameter",
        "set_parameter [--vhost <vhost>] <component_name> <name> <value>",
    ),
    (
        "clear_parameter",
        "clear_parameter [--vhost <vhost>] <component_name> <name>",
    ),
    (
        "list_parameters",
        "list_parameters [--vhost <vhost>] [--no-table-headers]",
    ),
    (
        "set_global_parameter",
        "set_global_parameter <name> <value>",
    ),
    ("clear_global_parameter", "clear_global_parameter <name>"),
    (
        "list_global_parameters",
        "list_global_parameters [--no-table-headers]",
    ),
    ("set_cluster_name", "set_cluster_name <name>"),
];

/// Does one command.
pub(super) fn perform(node: &mut Node, invocation: &Invocation) -> Done {
    let banner = |text: String| invocation.banner(&text);
    let (command, vhost) = (invocation.command.as_str(), invocation.vhost());
    match command {
        "set_parameter" => {
            let [component, name, value] = invocation.exactly()?;
            banner(format!(
                "Setting runtime parameter \"{name}\" for component \"{component}\" to \"{value}\" in vhost \"{vhost}\" ..."
            ));
            let value = output::json(value)?;
            let arguments =
                json!({"vhost": vhost, "component": component, "name": name, "value": value});
            node.ask(command, arguments)?;
        }
        "clear_parameter" => {
            let [component, name] = invocation.exactly()?;
            banner(format!(
                "Clearing runtime parameter \"{name}\" for component \"{component}\" on vhost \"{vhost}\" ..."
            ));
            let arguments = json!({"vhost": vhost, "component": component, "name": name});
            node.ask(command, arguments)?;
        }
        "list_parameters" => {
            invocation.exactly::<0>()?;
            banner(format!(
                "Listing runtime parameters for vhost \"{vhost}\" ..."
            ));
            let columns = [
                ("component", "component"),
                ("name", "name"),
                ("value", "value"),
            ];
            let found = node.ask(command, json!({"vhost": vhost}))?;
            list(invocation, found, &columns);
        }
        "set_global_parameter" => {
            let [name, value] = invocation.exactly()?;
            banner(format!(
                "Setting global runtime parameter \"{name}\" to \"{value}\" ..."
            ));
            let value = output::json(value)?;
            node.ask(command, json!({"name": name, "value": value}))?;
        }
        "clear_global_parameter" => {
            let [name] = invocation.exactly()?;
            banner(format!("Clearing global runtime parameter \"{name}\" ..."));
            node.ask(command, json!({"name": name}))?;
        }
        "set_cluster_name" => {
            let [name] = invocation.exactly()?;
            banner(format!("Setting cluster name to {name} ..."));
            let arguments = json!({"name": "cluster_name", "value": name});
            node.ask("set_global_parameter", arguments)?;
        }
        _ => {
            invocation.exactly::<0>()?;
            banner("Listing global runtime parameters ...".to_owned());
            let found = node.ask(command, Value::Null)?;
            list(invocation, found, &[("name", "name"), ("value", "value")]);
        }
    }
    Ok(())
}

/// Values are JSON in a table.
fn list(invocation: &Invocation, mut found: Value, columns: &[(&str, &str)]) {
    if invocation.format.has_cells() {
        for row in found.as_array_mut().into_iter().flatten() {
            row["value"] = row["value"].to_string().into();
        }
    }
    output::list(invocation, columns, output::rows(&found));
}
