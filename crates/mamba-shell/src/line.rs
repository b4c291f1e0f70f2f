//! A message as a line of JSON, in both directions: what `mambamq consume` writes, `mambamq publish` reads, and so are messages that
//! `mambamq store dump` and `peek_queue` show.
//!
//! ```text
//! {"body":"text","body_encoding":"text","exchange":"e","properties":{"headers":{"n":1}},"redelivered":false,"routing_key":"k"}
//! ```
//!
//! What JSON cannot say is an object with one field: `{"base64": "..."}` for octets that are no text, `{"timestamp": seconds}`,
//! `{"decimal": {"scale": 2, "value": 314}}`. All whole numbers of headers become 64-bit ones.

use base64::{Engine, engine::general_purpose::STANDARD};
use mamba_codec::{Properties, encode_header, encode_table};
use mamba_server::message_json::{base64, header_properties, readable};
use mamba_types::{
    FieldTable, FieldValue,
    table::{FieldArray, ShortString},
};
use serde_json::{Map, Value, json};

use crate::client::Message;

/// Octets of a short string: names, keys, most properties.
const SHORT_MAX: usize = 255;
/// Fields of a line that say what is already known, or nothing about the message.
const IGNORED: [&str; 8] = [
    "body_bytes",
    "body_encoding",
    "delivery_count",
    "position",
    "queue",
    "redelivered",
    "sequence",
    "vhost",
];

/// The properties that a client may set, owned.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct OwnedProperties {
    texts: [Option<Vec<u8>>; TEXTS.len()],
    pub(crate) headers: FieldTable,
    /// There is a headers table, even if it is empty.
    pub(crate) has_headers: bool,
    pub(crate) delivery_mode: Option<u8>,
    priority: Option<u8>,
    timestamp: Option<u64>,
}

/// Properties that are texts, by their names in the specification.
const TEXTS: [&str; 10] = [
    "content_type",
    "content_encoding",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "type",
    "user_id",
    "app_id",
    "cluster_id",
];

impl OwnedProperties {
    /// Sets a property, `headers` excepted, from a word of the command line or a value of JSON.
    pub(crate) fn set(&mut self, name: &str, value: &Value) -> Result<(), String> {
        // `content-type` is written as often.
        let name = name.replace('-', "_");
        let number = || match value {
            Value::String(text) => text.parse().ok(),
            other => other.as_u64(),
        };
        let octet = || {
            let number = number().and_then(|number: u64| u8::try_from(number).ok());
            number.ok_or_else(|| format!("{name}: a number from 0 to 255 was expected"))
        };
        match name.as_str() {
            "delivery_mode" => self.delivery_mode = Some(octet()?),
            "priority" => self.priority = Some(octet()?),
            "timestamp" => {
                let seconds = number().ok_or("timestamp: seconds since 1970 were expected")?;
                self.timestamp = Some(seconds);
            }
            "headers" => {
                let fields = value.as_object().ok_or("headers: an object was expected")?;
                self.headers = table_of(fields)?;
                self.has_headers = true;
            }
            _ => {
                let Some(at) = TEXTS.iter().position(|text| *text == name) else {
                    return Err(format!(
                        "there is no property {name}: headers, delivery_mode, priority, timestamp, {}",
                        TEXTS.join(", ")
                    ));
                };
                let octets = octets_of(value)
                    .filter(|octets| octets.len() <= SHORT_MAX)
                    .ok_or_else(|| {
                        format!("{name}: a text of at most {SHORT_MAX} octets was expected")
                    })?;
                self.texts[at] = Some(octets);
            }
        }
        Ok(())
    }

    /// Sets a header.
    pub(crate) fn set_header(&mut self, name: &str, value: &Value) -> Result<(), String> {
        let (name, value) = (short(name)?, field_of(value)?);
        self.headers.insert(name, value);
        self.has_headers = true;
        Ok(())
    }

    /// As a content header's payload.
    pub(crate) fn header(&self, body_size: usize) -> Vec<u8> {
        let headers = self.has_headers.then(|| encode_table(&self.headers));
        let text = |at: usize| self.texts[at].as_deref();
        let properties = Properties {
            content_type: text(0),
            content_encoding: text(1),
            headers: headers.as_deref(),
            delivery_mode: self.delivery_mode,
            priority: self.priority,
            correlation_id: text(2),
            reply_to: text(3),
            expiration: text(4),
            message_id: text(5),
            timestamp: self.timestamp,
            kind: text(6),
            user_id: text(7),
            app_id: text(8),
            cluster_id: text(9),
            reserved_flags: false,
        };
        encode_header(&properties, body_size as u64)
    }
}

/// What a line says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Line {
    pub(crate) exchange: Option<String>,
    pub(crate) routing_key: Option<String>,
    pub(crate) properties: OwnedProperties,
    pub(crate) body: Vec<u8>,
}

/// A message as a line, without its end.
pub(crate) fn write(message: &Message) -> String {
    let name = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let (body, encoding) = match readable(&message.body) {
        Some(text) => (text.to_owned(), "text"),
        None => (base64(&message.body), "base64"),
    };
    json!({
        "exchange": name(&message.exchange),
        "routing_key": name(&message.routing_key),
        "redelivered": message.redelivered,
        "properties": header_properties(&message.header),
        "body": body,
        "body_encoding": encoding,
    })
    .to_string()
}

/// Reads a line.
pub(crate) fn read(text: &str) -> Result<Line, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let Value::Object(mut fields) = value else {
        return Err("an object was expected".to_owned());
    };
    if fields.remove("body_cut") == Some(Value::Bool(true)) {
        return Err("its body was cut: show it whole, with a larger --body-limit".to_owned());
    }
    let mut line = Line::default();
    let encoding = fields.remove("body_encoding");
    let mut name = |field: &str| match fields.remove(field) {
        None => Ok(None),
        Some(Value::String(text)) if text.len() <= SHORT_MAX => Ok(Some(text)),
        Some(_) => Err(format!(
            "{field}: a text of at most {SHORT_MAX} octets was expected"
        )),
    };
    line.exchange = name("exchange")?;
    line.routing_key = name("routing_key")?;
    line.body = match (fields.remove("body"), encoding) {
        (None, _) => Vec::new(),
        (Some(Value::String(text)), None) => text.into_bytes(),
        (Some(Value::String(text)), Some(encoding)) => match encoding.as_str() {
            Some("text") => text.into_bytes(),
            Some("base64") => {
                let decoded = STANDARD.decode(text);
                decoded.map_err(|error| format!("body: no base64: {error}"))?
            }
            _ => return Err("body_encoding: text or base64 was expected".to_owned()),
        },
        (Some(_), _) => return Err("body: a text was expected".to_owned()),
    };
    match fields.remove("properties") {
        None => {}
        Some(Value::Object(properties)) => {
            for (name, value) in &properties {
                line.properties.set(name, value)?;
            }
        }
        Some(_) => return Err("properties: an object was expected".to_owned()),
    }
    // What nobody understands is an error, never ignored.
    match fields.keys().find(|name| !IGNORED.contains(&name.as_str())) {
        None => Ok(line),
        Some(unknown) => Err(format!("there is no field {unknown}")),
    }
}

fn short(name: &str) -> Result<ShortString, String> {
    if name.len() > SHORT_MAX {
        let start: String = name.chars().take(32).collect();
        return Err(format!("header {start}...: more than {SHORT_MAX} octets"));
    }
    Ok(name.into())
}

/// A text, or octets that are none.
fn octets_of(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.as_bytes().to_vec()),
        Value::Object(fields) => match only(fields)? {
            ("base64", Value::String(text)) => STANDARD.decode(text).ok(),
            _ => None,
        },
        _ => None,
    }
}

/// The one field of an object.
fn only(fields: &Map<String, Value>) -> Option<(&str, &Value)> {
    let (name, value) = fields.iter().next()?;
    (fields.len() == 1).then_some((name, value))
}

fn table_of(fields: &Map<String, Value>) -> Result<FieldTable, String> {
    let mut table = FieldTable::default();
    for (name, value) in fields {
        let value = field_of(value).map_err(|reason| format!("header {name}: {reason}"))?;
        table.insert(short(name)?, value);
    }
    Ok(table)
}

fn field_of(value: &Value) -> Result<FieldValue, String> {
    Ok(match value {
        Value::Null => FieldValue::Void,
        Value::Bool(flag) => FieldValue::Boolean(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => FieldValue::LongLongInt(whole),
            (None, Some(double)) if number.is_f64() => FieldValue::Double(double),
            _ => return Err(format!("{number} does not fit 64 bits with a sign")),
        },
        Value::String(text) => FieldValue::LongString(text.as_str().into()),
        Value::Array(items) => {
            let items: Result<Vec<_>, _> = items.iter().map(field_of).collect();
            FieldValue::FieldArray(FieldArray::from(items?))
        }
        Value::Object(fields) => match special(fields) {
            Some(value) => value,
            None => FieldValue::FieldTable(table_of(fields)?),
        },
    })
}

/// What JSON cannot say.
fn special(fields: &Map<String, Value>) -> Option<FieldValue> {
    match only(fields)? {
        ("base64", Value::String(text)) => {
            let octets = STANDARD.decode(text).ok()?;
            Some(FieldValue::LongString(octets.into()))
        }
        ("timestamp", seconds) => seconds.as_u64().map(FieldValue::Timestamp),
        ("decimal", Value::Object(decimal)) => {
            let scale = decimal.get("scale")?.as_u64()?.try_into().ok()?;
            let value = decimal.get("value")?.as_u64()?.try_into().ok()?;
            let decimal = mamba_types::table::DecimalValue { scale, value };
            (fields.len() == 1).then_some(FieldValue::DecimalValue(decimal))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As it would come back from a broker.
    fn delivered(line: &Line) -> Message {
        Message {
            exchange: line.exchange.clone().unwrap_or_default().into_bytes(),
            routing_key: line.routing_key.clone().unwrap_or_default().into_bytes(),
            redelivered: false,
            header: line.properties.header(line.body.len()),
            body: line.body.clone(),
        }
    }

    #[test]
    fn a_line_comes_back_octet_by_octet() {
        for text in [
            r#"{"body":"","body_encoding":"text","exchange":"","properties":{},"redelivered":false,"routing_key":"q"}"#,
            r#"{"body":"AP8=","body_encoding":"base64","exchange":"e","properties":{"app_id":"a","cluster_id":"c","content_encoding":"gzip","content_type":"t","correlation_id":{"base64":"/w=="},"delivery_mode":2,"expiration":"5","headers":{"array":[1,"two",null,true,1.5],"at":{"timestamp":5},"bytes":{"base64":"/w=="},"price":{"decimal":{"scale":2,"value":314}},"table":{"deep":{"a":-1}}},"message_id":"m","priority":3,"reply_to":"r","timestamp":5000000000,"type":"kind","user_id":"guest"},"redelivered":false,"routing_key":"k"}"#,
        ] {
            let line = read(text).unwrap();
            assert_eq!(write(&delivered(&line)), text);
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, expected) in [
            ("[]", "an object"),
            ("{", "EOF"),
            (r#"{"bodi":"x"}"#, "bodi"),
            (r#"{"body":5}"#, "body"),
            (r#"{"body":"%","body_encoding":"base64"}"#, "base64"),
            (r#"{"body":"x","body_cut":true}"#, "cut"),
            (r#"{"properties":{"colour":"red"}}"#, "colour"),
            (r#"{"properties":{"priority":256}}"#, "priority"),
            (
                r#"{"properties":{"headers":{"n":18446744073709551615}}}"#,
                "64 bits",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(read(&format!(r#"{{"routing_key":"{}"}}"#, "k".repeat(256))).is_err());
    }

    proptest! {
        #[test]
        fn any_body_and_header_come_back(
            body in proptest::collection::vec(any::<u8>(), 0..64),
            text in ".{0,40}",
            number in any::<i64>(),
        ) {
            let mut line = Line { body, ..Line::default() };
            line.properties.set_header("text", &text.clone().into()).unwrap();
            line.properties.set_header("number", &number.into()).unwrap();
            let written = write(&delivered(&line));
            let again = read(&written).unwrap();
            prop_assert_eq!(&again.body, &line.body);
            prop_assert_eq!(&again.properties, &line.properties);
            prop_assert_eq!(write(&delivered(&again)), written);
        }

        #[test]
        fn no_line_panics(text in ".{0,200}") {
            let _ = read(&text);
        }
    }
}
