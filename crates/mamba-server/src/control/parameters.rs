//! Runtime parameters over the control socket: `vhost`, `component`, `name`, `value`; global ones have only the last two.

use mamba_broker::Broker;
use serde_json::{Map, Value, json};

use super::{
    Outcome,
    arguments::{Arguments, done, refused},
};

/// The commands of this file. They wait for the disk.
pub(super) const COMMANDS: [&str; 6] = [
    "set_parameter",
    "clear_parameter",
    "list_parameters",
    "set_global_parameter",
    "clear_global_parameter",
    "list_global_parameters",
];

/// Does one command; blocks until it is durable.
pub(super) fn perform(broker: &Broker, command: &str, arguments: &Map<String, Value>) -> Outcome {
    let arguments = Arguments::of(arguments);
    let name = || arguments.text("name");
    let value = || arguments.value("value").clone();
    match command {
        "set_global_parameter" => done(broker.set_global_parameter(name()?, value()).map(drop)),
        "clear_global_parameter" => done(broker.clear_global_parameter(name()?)),
        "list_global_parameters" => Ok(broker
            .global_parameters()
            .into_iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect()),
        _ => {
            let vhost = arguments.text("vhost")?;
            let component = || arguments.text("component");
            match command {
                "set_parameter" => {
                    let set = broker.set_parameter(vhost, component()?, name()?, value());
                    done(set.map(drop))
                }
                "clear_parameter" => done(broker.clear_parameter(vhost, component()?, name()?)),
                _ => {
                    let found = broker.parameters(vhost).map_err(refused)?;
                    Ok(found
                        .into_iter()
                        .map(|parameter| {
                            json!({
                                "component": parameter.component,
                                "name": parameter.name,
                                "value": parameter.value,
                            })
                        })
                        .collect())
                }
            }
        }
    }
}
