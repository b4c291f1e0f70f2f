//! Messages as JSON, for tools.

use mamba_codec::{content_header, scan_properties, table};
use mamba_types::{FieldTable, FieldValue, Limits, Message};
use serde_json::{Map, Value, json};

/// Adds a body to a message's object, at most `limit` octets of it: `body_bytes`, `body`, `body_encoding` (`text` or `base64`)
/// and `body_cut`.
pub fn add_body(body: &[u8], limit: usize, object: &mut Value) {
    let cut = &body[..body.len().min(limit)];
    let (content, encoding) = match readable(whole_characters(cut, body)) {
        Some(content) => (content.to_owned(), "text"),
        None => (base64(cut), "base64"),
    };
    object["body_bytes"] = body.len().into();
    object["body"] = content.into();
    object["body_encoding"] = encoding.into();
    object["body_cut"] = (cut.len() < body.len()).into();
}

/// A body that was cut inside a character is still text.
#[must_use]
pub fn whole_characters<'a>(cut: &'a [u8], body: &[u8]) -> &'a [u8] {
    match str::from_utf8(cut) {
        Err(error) if cut.len() < body.len() && error.error_len().is_none() => {
            &cut[..error.valid_up_to()]
        }
        _ => cut,
    }
}

/// A message's properties by their names in the specification.
#[must_use]
pub fn properties(message: &Message) -> Map<String, Value> {
    header_properties(message.header())
}

/// The same, of a content header's payload.
#[must_use]
pub fn header_properties(header: &[u8]) -> Map<String, Value> {
    let mut map = Map::new();
    let limits = Limits::default();
    let Ok(header) = content_header(header) else {
        map.insert("error".to_owned(), "no content header".into());
        return map;
    };
    let found = match scan_properties(header.properties, &limits) {
        Ok(found) => found,
        Err(error) => {
            map.insert("error".to_owned(), error.to_string().into());
            return map;
        }
    };
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            map.insert(name.to_owned(), value);
        }
    };
    let text = |octets: Option<&[u8]>| octets.map(octets_value);
    put("content_type", text(found.content_type));
    put("content_encoding", text(found.content_encoding));
    put(
        "headers",
        found.headers.map(|octets| match table(octets, &limits) {
            Ok(table) => table_value(&table),
            Err(error) => error.to_string().into(),
        }),
    );
    put("delivery_mode", found.delivery_mode.map(Value::from));
    put("priority", found.priority.map(Value::from));
    put("correlation_id", text(found.correlation_id));
    put("reply_to", text(found.reply_to));
    put("expiration", text(found.expiration));
    put("message_id", text(found.message_id));
    put("timestamp", found.timestamp.map(Value::from));
    put("type", text(found.kind));
    put("user_id", text(found.user_id));
    put("app_id", text(found.app_id));
    put("cluster_id", text(found.cluster_id));
    map
}

fn octets_value(octets: &[u8]) -> Value {
    match readable(octets) {
        Some(text) => text.into(),
        None => json!({"base64": base64(octets)}),
    }
}

fn table_value(table: &FieldTable) -> Value {
    let entries = table.inner().iter();
    entries
        .map(|(name, value)| (name.as_str().to_owned(), field_value(value)))
        .collect::<Map<_, _>>()
        .into()
}

fn field_value(value: &FieldValue) -> Value {
    match value {
        FieldValue::Boolean(value) => (*value).into(),
        FieldValue::ShortShortInt(value) => (*value).into(),
        FieldValue::ShortShortUInt(value) => (*value).into(),
        FieldValue::ShortInt(value) => (*value).into(),
        FieldValue::ShortUInt(value) => (*value).into(),
        FieldValue::LongInt(value) => (*value).into(),
        FieldValue::LongUInt(value) => (*value).into(),
        FieldValue::LongLongInt(value) => (*value).into(),
        FieldValue::Float(value) => (*value).into(),
        FieldValue::Double(value) => (*value).into(),
        FieldValue::DecimalValue(value) => {
            json!({"decimal": {"scale": value.scale, "value": value.value}})
        }
        FieldValue::ShortString(text) => text.as_str().into(),
        FieldValue::LongString(text) => octets_value(text.as_bytes()),
        FieldValue::FieldArray(list) => list.as_slice().iter().map(field_value).collect(),
        FieldValue::Timestamp(secs) => json!({"timestamp": secs}),
        FieldValue::FieldTable(table) => table_value(table),
        FieldValue::ByteArray(octets) => json!({"base64": base64(octets.as_slice())}),
        FieldValue::Void => Value::Null,
    }
}

/// The octets as text, if they are one that a terminal can show.
#[must_use]
pub fn readable(octets: &[u8]) -> Option<&str> {
    let text = str::from_utf8(octets).ok()?;
    text.chars()
        .all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t'))
        .then_some(text)
}

/// Base64 with padding (RFC 4648, 4).
#[must_use]
pub fn base64(octets: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(octets.len().div_ceil(3) * 4);
    for group in octets.chunks(3) {
        let mut number = 0u32;
        for index in 0..3 {
            number = number << 8 | u32::from(group.get(index).copied().unwrap_or(0));
        }
        for index in 0..4 {
            let digit = number >> (18 - 6 * index) & 63;
            text.push(if index > group.len() {
                '='
            } else {
                char::from(DIGITS[digit as usize])
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_rfc() {
        for (octets, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(octets.as_bytes()), text);
        }
    }
}
