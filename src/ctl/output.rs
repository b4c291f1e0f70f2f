//! Tables as rabbitmqctl prints them, and JSON as it takes it.

use serde_json::{Map, Value};

use super::{EX_UNAVAILABLE, Failure, Invocation, say};

/// Shape of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Format {
    /// Columns between tabulators.
    #[default]
    Table,
    /// One array of objects.
    Json,
    /// One object per line.
    JsonStream,
    /// Values in quotes between commas.
    Csv,
}

impl Format {
    pub(super) fn by_name(name: &str) -> Option<Self> {
        match name {
            "table" | "pretty_table" | "string" | "erlang" => Some(Self::Table),
            "json" => Some(Self::Json),
            "json_stream" => Some(Self::JsonStream),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }
}

/// The objects of a list that the broker gave.
pub(super) fn rows(answer: &Value) -> &[Value] {
    answer.as_array().map_or(&[], Vec::as_slice)
}

/// An argument that is JSON.
pub(super) fn json(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|_| no_json(text))
}

/// An argument that is a JSON object.
pub(super) fn json_object(text: &str) -> Result<Value, Failure> {
    let value = json(text)?;
    value
        .is_object()
        .then_some(value)
        .ok_or_else(|| no_json(text))
}

fn no_json(text: &str) -> Failure {
    let text = text.replace('"', "\\\"");
    let reason = format!(
        "Could not parse JSON document: {{error,{{failed_to_decode_json,<<\"{text}\">>}}}}"
    );
    Failure::error(EX_UNAVAILABLE, reason)
}

/// Prints the columns of a list of objects: (heading, key).
pub(super) fn list(invocation: &Invocation, columns: &[(&str, &str)], rows: &[Value]) {
    let empty = Map::new();
    let rows = rows.iter().map(|row| row.as_object().unwrap_or(&empty));
    let cells = |row: &Map<String, Value>, print: fn(&Value) -> String| -> Vec<String> {
        let cell = |(_, key): &(&str, &str)| print(row.get(*key).unwrap_or(&Value::Null));
        columns.iter().map(cell).collect()
    };
    let object = |row: &Map<String, Value>| {
        let pairs: Vec<String> = columns
            .iter()
            .map(|(heading, key)| {
                let value = row.get(*key).unwrap_or(&Value::Null);
                format!("{}:{value}", Value::from(*heading))
            })
            .collect();
        format!("{{{}}}", pairs.join(","))
    };
    // A list of nothing has no headings, as in the tool that people know.
    let headings = !invocation.silent && !invocation.no_headers && rows.len() > 0;
    match invocation.format {
        Format::Table => {
            if headings {
                let names: Vec<&str> = columns.iter().map(|(heading, _)| *heading).collect();
                say(&names.join("\t"));
            }
            for row in rows {
                say(&cells(row, shown).join("\t"));
            }
        }
        Format::Csv => {
            let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
            if headings {
                let names: Vec<String> = columns.iter().map(|(name, _)| quoted(name)).collect();
                say(&names.join(","));
            }
            for row in rows {
                let cells = cells(row, shown);
                let cells: Vec<String> = cells.iter().map(|cell| quoted(cell)).collect();
                say(&cells.join(","));
            }
        }
        Format::Json => {
            say("[");
            for (index, row) in rows.enumerate() {
                let comma = if index == 0 { "" } else { "," };
                say(&format!("{comma}{}", object(row)));
            }
            say("]");
        }
        Format::JsonStream => rows.for_each(|row| say(&object(row))),
    }
}

/// Prints one thing that is not a list.
pub(super) fn message(invocation: &Invocation, text: &str) {
    match invocation.format {
        Format::Table | Format::Csv => say(text),
        Format::Json | Format::JsonStream => {
            say(&format!("{{\"message\":{}}}", Value::from(text)));
        }
    }
}

/// A value as a term: texts in quotes, objects as lists of pairs.
pub(super) fn term(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let pairs = fields.iter();
            let pairs: Vec<String> = pairs
                .map(|(name, value)| format!("{{\"{name}\",{}}}", term(value)))
                .collect();
            format!("[{}]", pairs.join(","))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(term).collect();
            format!("[{}]", items.join(","))
        }
        other => other.to_string(),
    }
}

/// A value in a table: texts without quotes, lists in brackets, objects as JSON.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(shown).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_in_a_table() {
        assert_eq!(shown(&json!(["a", "b"])), "[a, b]");
        assert_eq!(shown(&json!([])), "[]");
        assert_eq!(shown(&json!(true)), "true");
        assert_eq!(shown(&Value::Null), "");
        assert_eq!(shown(&json!({"max-queues": 1})), "{\"max-queues\":1}");
    }
}
