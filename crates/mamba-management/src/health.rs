//! Health checks: 200 when all is well, 503 with what is not.

use serde_json::{Value, json};

use crate::{
    answer::{Answer, Outcome, Refusal},
    request::Request,
};

fn well() -> Outcome {
    Ok(Answer::Json(json!({"status": "ok"})))
}

fn unwell(reason: &str) -> Outcome {
    Ok(Answer::Unwell(
        json!({"status": "failed", "reason": reason}),
    ))
}

pub(crate) fn aliveness(request: &Request<'_>) -> Outcome {
    request.vhost()?;
    well()
}

pub(crate) fn node(request: &Request<'_>) -> Outcome {
    let name = request.name("node");
    if !name.is_empty() && name != request.node().name {
        return Err(Refusal::missing());
    }
    well()
}

pub(crate) fn alarms(request: &Request<'_>) -> Outcome {
    let alarms = request.broker().alarms();
    let node = &request.node().name;
    let active: Vec<Value> = [("memory", alarms.memory), ("disk", alarms.disk)]
        .into_iter()
        .filter(|(_, on)| *on)
        .map(|(resource, _)| json!({"node": node, "resource": resource}))
        .collect();
    if active.is_empty() {
        return well();
    }
    Ok(Answer::Unwell(json!({
        "status": "failed", "reason": "There are alarms in effect in the cluster", "alarms": active,
    })))
}

/// A virtual host is there, or it is not: none is ever down.
pub(crate) fn virtual_hosts(_: &Request<'_>) -> Outcome {
    well()
}

pub(crate) fn quorum_critical(_: &Request<'_>) -> Outcome {
    Ok(Answer::Json(
        json!({"status": "ok", "reason": "single node cluster"}),
    ))
}

/// Requests are answered from the first listener on until the last connection is closed.
pub(crate) fn in_service(request: &Request<'_>) -> Outcome {
    if request.broker().is_stopping() {
        return unwell("the node is stopping");
    }
    well()
}

pub(crate) fn connection_limit(request: &Request<'_>) -> Outcome {
    let (broker, limit) = (
        request.broker(),
        request.broker().config().limits.connections_max,
    );
    if broker.connection_count() < limit {
        return well();
    }
    unwell(&format!("node connection limit ({limit}) is reached"))
}

pub(crate) fn metadata_store(request: &Request<'_>) -> Outcome {
    if request.broker().store().log().failed() {
        return unwell("the message log has failed; see the broker's log");
    }
    well()
}

pub(crate) fn cluster_size(_: &Request<'_>) -> Outcome {
    well()
}

pub(crate) fn port_listener(request: &Request<'_>) -> Outcome {
    let port: u64 = request
        .name("port")
        .parse()
        .map_err(|_| Refusal::bad("Invalid port"))?;
    let mut ports: Vec<u64> = request
        .node()
        .listeners
        .iter()
        .map(|listener| listener.address.port().into())
        .collect();
    if ports.contains(&port) {
        return Ok(Answer::Json(json!({"status": "ok", "port": port})));
    }
    ports.dedup();
    Ok(Answer::Unwell(json!({
        "status": "failed", "reason": "No active listener", "missing": port, "ports": ports,
    })))
}

/// `amqp091` and the like mean what they are served by.
pub(crate) fn protocol_listener(request: &Request<'_>) -> Outcome {
    let served: Vec<&str> = request
        .node()
        .listeners
        .iter()
        .map(|listener| listener.protocol)
        .collect();
    let asked = request.name("protocols");
    let listens = |protocol: &str| {
        let known = match protocol.trim().to_ascii_lowercase().as_str() {
            "amqp091" | "amqp0.9.1" | "amqp0-9-1" => "amqp".to_owned(),
            "amqps" | "amqp091s" => "amqp/ssl".to_owned(),
            "prometheus" => "http/prometheus".to_owned(),
            other => other.to_owned(),
        };
        served.contains(&known.as_str())
    };
    if let Some(missing) = asked.split(',').find(|protocol| !listens(protocol)) {
        let mut protocols = served.clone();
        protocols.dedup();
        return Ok(Answer::Unwell(json!({
            "status": "failed", "reason": "No active listener", "missing": missing, "protocols": protocols,
        })));
    }
    Ok(Answer::Json(json!({"status": "ok", "protocol": asked})))
}

/// No listener has a certificate yet, so none expires.
pub(crate) fn certificates(request: &Request<'_>) -> Outcome {
    if request.name("within").parse::<u32>().is_err() {
        return Err(Refusal::bad("Invalid expiration value."));
    }
    if !["days", "weeks", "months", "years"].contains(&request.name("unit")) {
        return Err(Refusal::bad(
            "Time unit not recognised. Supported units: days, weeks, months, years.",
        ));
    }
    well()
}
