//! Publishing and getting messages (`spec: http-api §6`).

use base64::{Engine, engine::general_purpose::STANDARD};
use mamba_broker::connection::{Got, Published, Verdict};
use mamba_codec::{Properties, content_header, encode_header, encode_table, scan_properties};
use mamba_types::{Limits, SoftError, Violation};
use serde_json::{Map, Value, json};

use crate::{
    answer::{Answer, Outcome, Refusal},
    request::{Fields, Request},
};

/// Octets of bodies one request may take out, so that an answer stays small enough to hold.
const GET_BYTES_MAX: usize = 64 << 20;

pub(crate) fn publish(request: &Request<'_>) -> Outcome {
    let vhost = request.broker().vhost(request.name("vhost"));
    let vhost = vhost.ok_or_else(Refusal::no_vhost)?;
    let exchange = request.exchange("exchange");
    if vhost.exchange(exchange).is_none() {
        return Err(Refusal::new(404, "not_found", "exchange_not_found"));
    }
    let fields = request.fields()?;
    fields.require(&["properties", "routing_key", "payload", "payload_encoding"])?;
    let routing_key = fields.mandatory_text("routing_key")?;
    if routing_key.len() > 255 {
        return Err(Refusal::bad("the routing key has more than 255 octets"));
    }
    let Some(payload) = fields.0.get("payload").and_then(Value::as_str) else {
        return Err(Refusal::bad("payload_not_string"));
    };
    let encoding = fields.0.get("payload_encoding").cloned();
    let body = match encoding.as_ref().and_then(Value::as_str) {
        Some("string") => payload.as_bytes().to_vec(),
        Some("base64") => STANDARD
            .decode(payload)
            .map_err(|_| Refusal::bad(json!(["not_base64", payload])))?,
        _ => return Err(Refusal::bad(json!(["unsupported_encoding", encoding]))),
    };
    let header = header(&Fields(fields.object("properties")?), body.len())?;
    let outcome = request
        .direct()?
        .publish(exchange, routing_key, &header, &body)
        .map_err(|violation| match violation {
            Violation::Channel {
                code: SoftError::NotFound,
                ..
            } => Refusal::of_method(&violation),
            other => Refusal::of_publish(&other),
        })?;
    match outcome {
        Published::Routed => Ok(Answer::Json(json!({"routed": true}))),
        Published::Unroutable => Ok(Answer::Json(json!({"routed": false}))),
        Published::Refused => Err(Refusal::bad("a queue has refused the message: it is full")),
    }
}

/// The content header that these properties make; unknown ones are ignored.
fn header(properties: &Fields, body_size: usize) -> Result<Vec<u8>, Refusal> {
    let text = |key: &str| -> Result<Option<&[u8]>, Refusal> {
        match properties.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.len() <= 255 => Ok(Some(text.as_bytes())),
            Some(_) => Err(Refusal::bad(json!(["not_string", key]))),
        }
    };
    let number = |key: &str| -> Result<Option<u64>, Refusal> {
        match properties.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_u64()
                .map(Some)
                .ok_or_else(|| Refusal::bad(json!(["not_int", key]))),
        }
    };
    let octet = |key: &str| -> Result<Option<u8>, Refusal> {
        number(key)?
            .map(|number| u8::try_from(number).map_err(|_| Refusal::bad(json!(["not_int", key]))))
            .transpose()
    };
    let headers = match properties.0.get("headers") {
        None | Some(Value::Null) => None,
        Some(_) => Some(encode_table(&properties.arguments("headers")?)),
    };
    let kind = text("type")?;
    Ok(encode_header(
        &Properties {
            content_type: text("content_type")?,
            content_encoding: text("content_encoding")?,
            headers: headers.as_deref(),
            delivery_mode: octet("delivery_mode")?,
            priority: octet("priority")?,
            correlation_id: text("correlation_id")?,
            reply_to: text("reply_to")?,
            expiration: text("expiration")?,
            message_id: text("message_id")?,
            timestamp: number("timestamp")?,
            kind,
            user_id: text("user_id")?,
            app_id: text("app_id")?,
            cluster_id: text("cluster_id")?,
            reserved_flags: false,
        },
        body_size as u64,
    ))
}

/// What becomes of the messages.
#[derive(Clone, Copy)]
enum Mode {
    Keep,
    Take,
    Reject,
}

pub(crate) fn get(request: &Request<'_>) -> Outcome {
    let vhost = request.broker().vhost(request.name("vhost"));
    let vhost = vhost.ok_or_else(Refusal::no_vhost)?;
    let queue = request.name("queue");
    if vhost.queue(queue).is_none() {
        return Err(Refusal::new(404, "not_found", "queue_not_found"));
    }
    let fields = request.fields()?;
    // `requeue` is how older tools say it.
    let mode_key = if fields.0.contains_key("requeue") && !fields.0.contains_key("ackmode") {
        "requeue"
    } else {
        "ackmode"
    };
    fields.require(&[mode_key, "count", "encoding"])?;
    let mode = mode(&fields, mode_key)?;
    let count = fields.integer("count")?.unwrap_or(0);
    let base64 = match fields.0.get("encoding").and_then(Value::as_str) {
        Some("auto") => false,
        Some("base64") => true,
        _ => {
            return Err(Refusal::bad(
                "Unsupported encoding. Please use auto or base64.",
            ));
        }
    };
    let truncate = fields
        .integer("truncate")?
        .map(|octets| usize::try_from(octets).unwrap_or(0));
    let mut direct = request.direct()?;
    let (mut messages, mut octets) = (Vec::new(), 0);
    let limits = &request.broker().config().limits;
    for _ in 0..count {
        let no_ack = matches!(mode, Mode::Take);
        let got = direct
            .get(queue, no_ack)
            .map_err(|violation| Refusal::of_get(&violation))?;
        let Some(got) = got else { break };
        octets += got.message.record_len();
        messages.push(view(&got, base64, truncate, limits));
        if octets > GET_BYTES_MAX {
            break;
        }
    }
    match mode {
        Mode::Keep => direct.settle(Verdict::Requeue),
        Mode::Reject => direct.settle(Verdict::Discard),
        Mode::Take => {}
    }
    Ok(Answer::Json(messages.into()))
}

fn mode(fields: &Fields, key: &str) -> Result<Mode, Refusal> {
    if key == "requeue" {
        return Ok(if fields.flag(key)?.unwrap_or(true) {
            Mode::Keep
        } else {
            Mode::Take
        });
    }
    match fields.0.get(key).and_then(Value::as_str) {
        Some("ack_requeue_true" | "reject_requeue_true") => Ok(Mode::Keep),
        Some("ack_requeue_false") => Ok(Mode::Take),
        Some("reject_requeue_false") => Ok(Mode::Reject),
        _ => Err(Refusal::bad(
            "Unsupported ackmode. Please use ack_requeue_true, ack_requeue_false, reject_requeue_true or reject_requeue_false.",
        )),
    }
}

fn view(got: &Got, base64: bool, truncate: Option<usize>, limits: &Limits) -> Value {
    let message = &got.message;
    let body = message.body();
    let shown = body.get(..truncate.unwrap_or(body.len())).unwrap_or(body);
    let (payload, encoding) = match std::str::from_utf8(shown) {
        Ok(text) if !base64 => (text.to_owned(), "string"),
        _ => (STANDARD.encode(shown), "base64"),
    };
    let properties = content_header(message.header())
        .ok()
        .and_then(|header| scan_properties(header.properties, limits).ok());
    json!({
        "payload_bytes": body.len(), "redelivered": got.redelivered,
        "exchange": String::from_utf8_lossy(message.exchange()),
        "routing_key": String::from_utf8_lossy(message.routing_key()),
        "message_count": got.remaining, "properties": properties.map_or_else(|| json!({}), |found| shown_properties(&found, limits)),
        "payload": payload, "payload_encoding": encoding,
    })
}

fn shown_properties(properties: &Properties<'_>, limits: &Limits) -> Value {
    let mut fields = Map::new();
    for (key, text) in [
        ("content_type", properties.content_type),
        ("content_encoding", properties.content_encoding),
        ("correlation_id", properties.correlation_id),
        ("reply_to", properties.reply_to),
        ("expiration", properties.expiration),
        ("message_id", properties.message_id),
        ("type", properties.kind),
        ("user_id", properties.user_id),
        ("app_id", properties.app_id),
        ("cluster_id", properties.cluster_id),
    ] {
        if let Some(text) = text {
            fields.insert(key.to_owned(), String::from_utf8_lossy(text).into());
        }
    }
    for (key, number) in [
        ("delivery_mode", properties.delivery_mode.map(u64::from)),
        ("priority", properties.priority.map(u64::from)),
        ("timestamp", properties.timestamp),
    ] {
        if let Some(number) = number {
            fields.insert(key.to_owned(), number.into());
        }
    }
    let headers = properties.headers;
    if let Some(headers) = headers.and_then(|octets| mamba_codec::table(octets, limits).ok()) {
        let headers = mamba_policy::table_to_json(&headers);
        fields.insert("headers".to_owned(), headers.into());
    }
    fields.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_come_back_as_they_went() {
        let given = json!({
            "content_type": "text/plain", "content_encoding": "utf-8", "headers": {"a": 1, "b": ["x", true, 1.5]},
            "delivery_mode": 2, "priority": 3, "correlation_id": "c", "reply_to": "r", "expiration": "60000",
            "message_id": "m", "timestamp": 5, "type": "t", "user_id": "u", "app_id": "a", "cluster_id": "k",
        });
        let Value::Object(fields) = given.clone() else {
            panic!("it is an object");
        };
        let header = header(&Fields(fields), 7).unwrap();
        let parsed = content_header(&header).unwrap();
        assert_eq!((parsed.class, parsed.body_size), (60, 7));
        let limits = Limits::default();
        let found = scan_properties(parsed.properties, &limits).unwrap();
        assert_eq!(shown_properties(&found, &limits), given);
    }

    #[test]
    fn wrong_properties_are_named() {
        let refused = |properties: Value| {
            let Value::Object(fields) = properties else {
                panic!("it is an object");
            };
            header(&Fields(fields), 0).unwrap_err().reason
        };
        assert_eq!(
            refused(json!({"delivery_mode": "x"})),
            json!(["not_int", "delivery_mode"])
        );
        assert_eq!(
            refused(json!({"priority": 256})),
            json!(["not_int", "priority"])
        );
        assert_eq!(
            refused(json!({"app_id": 1})),
            json!(["not_string", "app_id"])
        );
        assert_eq!(
            refused(json!({"headers": {"x": null}})),
            json!("null_not_allowed")
        );
    }
}
