//! Health checks: 200 when all is well, 503 with what is not.

use serde_json::{Value, json};

use crate::{
    answer::{Answer, Outcome, Refusal},
    request::Request,
};

/// A day, in seconds.
const DAY_SECS: i64 = 86_400;

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

/// Certificates of TLS listeners, and of the authorities clients' certificates are held against.
pub(crate) fn certificates(request: &Request<'_>) -> Outcome {
    let within: i64 = request
        .name("within")
        .parse()
        .ok()
        .filter(|within| *within >= 0)
        .ok_or_else(|| Refusal::bad("Invalid expiration value."))?;
    let seconds = match request.name("unit").to_ascii_lowercase().as_str() {
        "days" => DAY_SECS,
        "weeks" => 7 * DAY_SECS,
        "months" => 365 * DAY_SECS / 12,
        "years" => 365 * DAY_SECS,
        _ => {
            return Err(Refusal::bad(
                "Time unit not recognised. Supported units: days, weeks, months, years.",
            ));
        }
    };
    let now = i64::try_from(request.now.unix_ms / 1000).unwrap_or(i64::MAX);
    let until = now.saturating_add(within.saturating_mul(seconds));
    let files = (request.node().certificates)();
    let ending = |of_authorities: bool| -> Vec<String> {
        let files = files
            .iter()
            .filter(|file| file.of_authorities == of_authorities);
        files
            .flat_map(|file| file.not_after.iter())
            .filter(|ends| **ends < until)
            .map(|ends| date(*ends))
            .collect()
    };
    let (server, authorities) = (ending(false), ending(true));
    let path = |of_authorities: bool| {
        let mut files = files.iter();
        let file = files.find(|file| file.of_authorities == of_authorities);
        file.map(|file| file.path.display().to_string())
    };
    let secured = |protocol: &str| matches!(protocol, "amqp/ssl" | "https");
    let expired: Vec<Value> = request
        .node()
        .listeners
        .iter()
        .filter(|listener| secured(listener.protocol))
        .map(|listener| {
            json!({
                "node": request.node().name, "protocol": listener.protocol,
                "interface": listener.address.ip().to_string(), "port": listener.address.port(),
                "certfile": path(false), "cacertfile": path(true),
                "certfile_expires_on": server, "cacertfile_expires_on": authorities,
            })
        })
        .collect();
    if expired.is_empty() || (server.is_empty() && authorities.is_empty()) {
        return well();
    }
    Ok(Answer::Unwell(json!({
        "status": "failed", "reason": "Certificates expiring", "expired": expired,
    })))
}

/// A time in seconds since 1970 as the reference broker writes it: `2030-01-31 9:05:00`.
fn date(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(DAY_SECS), seconds.rem_euclid(DAY_SECS));
    // Years that begin with March end with the day that is sometimes not there.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = year + era * 400 + next;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day_of_month:02} {hour}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01 0:00:00");
        assert_eq!(date(951_782_400), "2000-02-29 0:00:00");
        assert_eq!(date(1_709_164_799), "2024-02-28 23:59:59");
        assert_eq!(date(1_735_689_600), "2025-01-01 0:00:00");
        assert_eq!(date(4_102_444_799), "2099-12-31 23:59:59");
        assert_eq!(date(-1), "1969-12-31 23:59:59");
    }
}
