//! The node itself.

use serde_json::{Value, json};

use super::{
    Done, Invocation, Node,
    output::{self, Format},
    say,
};

/// The commands of this file and how they are called.
pub(super) const COMMANDS: [(&str, &str); 4] = [
    ("ping", "ping"),
    ("version", "version"),
    ("status", "status"),
    ("cluster_status", "cluster_status"),
];

/// Does one command.
pub(super) fn perform(node: &mut Node, invocation: &Invocation) -> Done {
    let [] = invocation.exactly::<0>()?;
    let status = node.ask("status", json!({}))?;
    let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
    let name = text("node");
    match invocation.command.as_str() {
        "ping" => {
            invocation.banner(&format!("Will ping {name}."));
            if !invocation.quiet && !invocation.silent {
                output::message(invocation, "Ping succeeded");
            }
        }
        "version" => output::message(invocation, &text("product_version")),
        command => {
            let cluster = command == "cluster_status";
            if matches!(invocation.format, Format::Json | Format::JsonStream) {
                say(&if cluster { clustered(&status) } else { status }.to_string());
                return Ok(());
            }
            let what = if cluster { "Cluster status" } else { "Status" };
            invocation.banner(&format!("{what} of node {name} ..."));
            let sections = if cluster {
                cluster_sections(&status)
            } else {
                node_sections(&status)
            };
            for (heading, lines) in sections {
                say(&format!("{heading}\n"));
                let lines = if lines.is_empty() {
                    vec!["(none)".to_owned()]
                } else {
                    lines
                };
                say(&format!("{}\n", lines.join("\n")));
            }
        }
    }
    Ok(())
}

/// Of a cluster of one node.
fn clustered(status: &Value) -> Value {
    let node = status["node"].as_str().unwrap_or_default();
    json!({
        "cluster_name": status["cluster_name"], "disk_nodes": [node], "ram_nodes": [], "running_nodes": [node],
        "alarms": status["alarms"], "partitions": {}, "cluster_tags": [],
        "versions": {node: {"node": node, "mambamq_version": status["product_version"]}},
    })
}

type Sections = Vec<(&'static str, Vec<String>)>;

fn alarms(status: &Value) -> Vec<String> {
    let active = status["alarms"].as_array().into_iter().flatten();
    let node = status["node"].as_str().unwrap_or_default();
    active
        .filter_map(Value::as_str)
        .map(|resource| format!("{resource} alarm on node {node}"))
        .collect()
}

fn node_sections(status: &Value) -> Sections {
    let text = |key: &str| status[key].as_str().unwrap_or_default();
    let total = |key: &str| status["totals"][key].to_string();
    vec![
        (
            "Runtime",
            vec![
                format!("OS PID: {}", status["pid"]),
                format!(
                    "{} version: {}",
                    text("product_name"),
                    text("product_version")
                ),
                format!("Node name: {}", text("node")),
            ],
        ),
        (
            "Data directory",
            vec![format!("Node data directory: {}", text("data_directory"))],
        ),
        ("Alarms", alarms(status)),
        (
            "Totals",
            vec![
                format!("Connection count: {}", total("connection_count")),
                format!("Queue count: {}", total("queue_count")),
                format!("Virtual host count: {}", total("virtual_host_count")),
            ],
        ),
    ]
}

fn cluster_sections(status: &Value) -> Sections {
    let text = |key: &str| status[key].as_str().unwrap_or_default();
    let node = text("node").to_owned();
    vec![
        (
            "Basics",
            vec![format!("Cluster name: {}", text("cluster_name"))],
        ),
        ("Disk Nodes", vec![node.clone()]),
        ("Running Nodes", vec![node.clone()]),
        (
            "Versions",
            vec![format!(
                "{node}: {} {}",
                text("product_name"),
                text("product_version")
            )],
        ),
        ("Alarms", alarms(status)),
        ("Network Partitions", Vec::new()),
    ]
}
