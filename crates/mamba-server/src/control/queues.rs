//! Queues over the control socket.

use mamba_broker::{
    Broker,
    operator::{DeleteConditions, OperatorError},
    peek::PeekError,
};
use serde_json::{Map, Value, json};

use super::{Outcome, Refusal, arguments::Arguments};
use crate::message_json::{add_body, properties};

/// The commands of this file. They wait for the disk.
pub(super) const COMMANDS: [&str; 3] = ["peek_queue", "purge_queue", "delete_queue"];

/// Octets of each body unless the request says otherwise.
const BODY_LIMIT: u64 = 256;
/// Most octets of each body.
const BODY_LIMIT_MAX: u64 = 64 << 10;
/// Messages unless the request says otherwise.
const COUNT: u64 = 10;

/// Does one command.
pub(super) fn perform(broker: &Broker, command: &str, arguments: &Map<String, Value>) -> Outcome {
    match command {
        "peek_queue" => peek(broker, arguments),
        "purge_queue" => {
            let (vhost, name) = queue(arguments)?;
            let count = broker.purge_queue(vhost, name).map_err(refused)?;
            Ok(json!({"messages": count}))
        }
        "delete_queue" => {
            let (vhost, name) = queue(arguments)?;
            let arguments = Arguments::of(arguments);
            let conditions = DeleteConditions {
                if_empty: arguments.flag("if_empty").unwrap_or(false),
                if_unused: arguments.flag("if_unused").unwrap_or(false),
            };
            let count = broker.delete_queue(vhost, name, conditions);
            Ok(json!({"messages": count.map_err(refused)?}))
        }
        other => Err(Refusal::new("unknown_command", other)),
    }
}

fn queue(arguments: &Map<String, Value>) -> Result<(&str, &str), Refusal> {
    let arguments = Arguments::of(arguments);
    Ok((arguments.text("vhost")?, arguments.text("name")?))
}

fn refused(error: OperatorError) -> Refusal {
    let code = match error {
        OperatorError::NoSuchVhost(_) => "no_such_vhost",
        OperatorError::NoSuchQueue { .. } => "no_such_queue",
        OperatorError::NotEmpty(_) => "not_empty",
        OperatorError::InUse(_) => "in_use",
        OperatorError::NoConditions(_) => "unsupported",
        OperatorError::Storage => "failed",
    };
    Refusal::new(code, error.to_string())
}

/// `name`, `vhost` (`/`), `offset` (0), `count` (10, at most 1,000), `body_limit` (256 octets of each body, at most 65,536).
/// Answers `ready` and `messages`.
fn peek(broker: &Broker, arguments: &Map<String, Value>) -> Outcome {
    let text = |name: &str| arguments.get(name).and_then(Value::as_str);
    let name = text("name")
        .ok_or_else(|| Refusal::new("bad_request", "the command needs a string \"name\""))?;
    let number = |name: &str, default| match arguments.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value.as_u64().ok_or_else(|| {
            let text = format!("{name:?} has to be a number, not less than 0");
            Refusal::new("bad_request", text)
        }),
    };
    let body_limit = number("body_limit", BODY_LIMIT)?.min(BODY_LIMIT_MAX);
    let body_limit = usize::try_from(body_limit).unwrap_or(usize::MAX);
    let vhost = text("vhost").unwrap_or("/");
    let page = broker
        .peek(vhost, name, number("offset", 0)?, number("count", COUNT)?)
        .map_err(|error| {
            let code = match error {
                PeekError::NoSuchVhost(_) => "no_such_vhost",
                PeekError::NoSuchQueue { .. } => "no_such_queue",
                PeekError::TooDeep(_) => "too_deep",
            };
            Refusal::new(code, error.to_string())
        })?;
    let messages = page.messages.iter().map(|one| {
        let mut value = json!({
            "position": one.position,
            "sequence": one.sequence.0,
            "exchange": String::from_utf8_lossy(one.message.exchange()),
            "routing_key": String::from_utf8_lossy(one.message.routing_key()),
            "redelivered": one.redelivered,
            "delivery_count": one.returns,
            "accepted_at_ms": one.message.accepted_at_ms(),
            "properties": properties(&one.message),
        });
        add_body(one.message.body(), body_limit, &mut value);
        value
    });
    Ok(json!({"ready": page.ready, "messages": messages.collect::<Vec<_>>()}))
}
