//! Definitions over the control socket: the document as one string, so that what is wrong with it is said by who reads it.
//!
//! `export_definitions` and `import_definitions` take a `vhost`, or the whole node without one.

use mamba_broker::Broker;
use serde_json::{Map, Value, json};

use super::{
    Outcome, Refusal,
    arguments::{Arguments, refused},
};
use crate::unix_ms;

/// The commands of this file. They wait for the disk.
pub(super) const COMMANDS: [&str; 2] = ["export_definitions", "import_definitions"];

/// Does one command; blocks until it is durable.
pub(super) fn perform(broker: &Broker, command: &str, arguments: &Map<String, Value>) -> Outcome {
    let arguments = Arguments::of(arguments);
    let vhost = arguments.optional("vhost")?;
    if command == "export_definitions" {
        let document = broker.export_definitions(vhost).map_err(refused)?;
        return Ok(json!({"definitions": document}));
    }
    let document = arguments.text("definitions")?;
    let imported = broker
        .import_definitions(document.as_bytes(), vhost, unix_ms())
        .map_err(|error| Refusal::new("invalid_definitions", error.to_string()))?;
    Ok(json!({"objects": imported.objects, "warnings": imported.warnings}))
}
