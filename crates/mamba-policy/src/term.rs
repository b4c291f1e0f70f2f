//! JSON values printed as Erlang terms, as the reply texts of policy validation have them (`spec: errors §2`).

use serde_json::Value;

/// The value as an Erlang term.
pub(crate) fn term(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(boolean) => boolean.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => binary(text),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(term).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| format!("{} => {}", binary(name), term(value)))
                .collect();
            format!("#{{{}}}", fields.join(","))
        }
    }
}

/// A string as an Erlang binary.
pub(crate) fn binary(text: &str) -> String {
    if text.is_empty() {
        return "<<>>".to_owned();
    }
    let kind = if text.is_ascii() { "" } else { "/utf8" };
    format!("<<\"{}\"{kind}>>", escaped(text))
}

/// A list of characters in quotes.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}
