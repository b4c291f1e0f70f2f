//! The node at a glance, over the control socket.

use mamba_broker::Broker;
use serde_json::{Map, Value, json};

use super::Outcome;

/// The commands of this file.
pub(super) const COMMANDS: [&str; 1] = ["status"];

/// Version, alarms and how much there is.
pub(super) fn perform(broker: &Broker, _: &str, _: &Map<String, Value>) -> Outcome {
    let (config, alarms, counts) = (broker.config(), broker.alarms(), broker.snapshot());
    let cluster_name = broker.global_parameter("cluster_name");
    let active: Vec<&str> = [("memory", alarms.memory), ("disk", alarms.disk)]
        .into_iter()
        .filter_map(|(name, on)| on.then_some(name))
        .collect();
    Ok(json!({
        "node": config.node_name,
        "product_name": "MambaMQ",
        "product_version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "data_directory": config.data_dir.display().to_string(),
        "cluster_name": cluster_name.unwrap_or_else(|| config.cluster_name.clone().into()),
        "alarms": active,
        "totals": {
            "connection_count": counts.connections,
            "queue_count": counts.queues,
            "virtual_host_count": broker.vhosts().len(),
        },
    }))
}
