//! Policies and operator policies over the control socket.
//!
//! Arguments and fields of answers are called as in the HTTP API: `vhost`, `name`, `pattern`, `definition`, `apply-to`,
//! `priority`.

use mamba_broker::{Broker, tenants::TenantError};
use mamba_policy::{Policy, Scope};
use serde_json::{Map, Value, json};

use super::{
    Outcome,
    arguments::{Arguments, done, refused},
};
use crate::unix_ms;

/// The commands of this file. They wait for the disk.
pub(super) const COMMANDS: [&str; 6] = [
    "set_policy",
    "clear_policy",
    "list_policies",
    "set_operator_policy",
    "clear_operator_policy",
    "list_operator_policies",
];

/// Does one command; blocks until it is durable.
pub(super) fn perform(broker: &Broker, command: &str, arguments: &Map<String, Value>) -> Outcome {
    let body = Value::Object(arguments.clone());
    let arguments = Arguments::of(arguments);
    let vhost = arguments.text("vhost")?;
    let scope = if command.contains("operator") {
        Scope::OperatorPolicy
    } else {
        Scope::Policy
    };
    match command {
        "list_policies" | "list_operator_policies" => {
            let known = broker
                .vhost(vhost)
                .ok_or_else(|| refused(TenantError::NoSuchVhost(vhost.to_owned())))?;
            let policies = known.policies();
            let of_scope = policies.iter().filter(|policy| policy.scope() == scope);
            Ok(of_scope.map(|policy| policy_json(vhost, policy)).collect())
        }
        "clear_policy" | "clear_operator_policy" => {
            done(broker.clear_policy(vhost, scope, arguments.text("name")?, unix_ms()))
        }
        _ => {
            let policy = Policy::from_json(scope, arguments.text("name")?, &body)
                .map_err(|error| refused(error.into()))?;
            done(broker.set_policy(vhost, policy, unix_ms()).map(drop))
        }
    }
}

fn policy_json(vhost: &str, policy: &Policy) -> Value {
    json!({
        "vhost": vhost,
        "name": policy.name(),
        "pattern": policy.pattern().text(),
        "apply-to": policy.apply_to().name(),
        "definition": policy.definition(),
        "priority": policy.priority_json(),
    })
}
