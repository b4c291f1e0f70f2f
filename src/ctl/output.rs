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
    /// Columns with lines around them.
    PrettyTable,
    /// One line of names and values for each.
    Text,
    /// A term of Erlang.
    Erlang,
}

impl Format {
    pub(super) fn by_name(name: &str) -> Option<Self> {
        match name {
            "table" => Some(Self::Table),
            "pretty_table" => Some(Self::PrettyTable),
            "string" => Some(Self::Text),
            "erlang" => Some(Self::Erlang),
            "json" => Some(Self::Json),
            "json_stream" => Some(Self::JsonStream),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }

    /// Whether it says first what is done.
    pub(super) const fn has_banner(self) -> bool {
        match self {
            Self::Table | Self::PrettyTable | Self::Text | Self::Erlang => true,
            Self::Json | Self::JsonStream | Self::Csv => false,
        }
    }

    /// Whether its values are texts for people: objects are shown as terms in it.
    pub(super) const fn has_cells(self) -> bool {
        matches!(self, Self::Table | Self::PrettyTable | Self::Csv)
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
        Format::PrettyTable => {
            let names: Vec<String> = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
            let rows: Vec<Vec<String>> = rows.map(|row| cells(row, shown)).collect();
            draw(headings.then_some(names), &rows);
        }
        Format::Text => {
            for row in rows {
                let values = cells(row, inspected).into_iter();
                let pairs = columns.iter().zip(values);
                let pairs: Vec<String> = pairs
                    .map(|((name, _), value)| format!("{name}: {value}"))
                    .collect();
                say(&format!("[{}]", pairs.join(", ")));
            }
        }
        Format::Erlang => {
            let rows = rows.map(|row| {
                let values = cells(row, erlang).into_iter();
                let pairs = columns.iter().zip(values);
                let pairs: Vec<String> = pairs
                    .map(|((name, _), value)| format!("{{{name},{value}}}"))
                    .collect();
                format!("[{}]", pairs.join(","))
            });
            say(&format!("[{}]", rows.collect::<Vec<_>>().join(",\n ")));
        }
    }
}

/// Prints one thing that is not a list.
pub(super) fn message(invocation: &Invocation, text: &str) {
    match invocation.format {
        Format::Table | Format::Csv | Format::Text => say(text),
        Format::PrettyTable => draw(Some(vec!["Output".to_owned()]), &[vec![text.to_owned()]]),
        Format::Erlang => say(&erlang(&text.into())),
        Format::Json | Format::JsonStream => {
            say(&format!("{{\"message\":{}}}", Value::from(text)));
        }
    }
}

/// Prints cells with lines around them. Rows have as many cells as the first.
fn draw(headings: Option<Vec<String>>, rows: &[Vec<String>]) {
    let all: Vec<&Vec<String>> = headings.iter().chain(rows).collect();
    let Some(first) = all.first() else {
        return;
    };
    let mut widths = vec![0; first.len()];
    for line in all.iter().copied().flatten().zip((0..first.len()).cycle()) {
        let (cell, column) = line;
        let longest = cell.lines().map(|line| line.chars().count()).max();
        if let Some(width) = widths.get_mut(column) {
            *width = longest.unwrap_or(0).max(*width);
        }
    }
    let rule = |left: &str, cross: &str, right: &str| {
        let parts: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        say(&format!("{left}{}{right}", parts.join(cross)));
    };
    rule("┌", "┬", "┐");
    for (index, row) in all.iter().enumerate() {
        if index > 0 {
            rule("├", "┼", "┤");
        }
        let height = row.iter().map(|cell| cell.lines().count()).max();
        for line in 0..height.unwrap_or(1).max(1) {
            let cells = row.iter().zip(&widths).map(|(cell, width)| {
                let text = cell.lines().nth(line).unwrap_or_default();
                format!(" {text:<width$} ")
            });
            say(&format!("│{}│", cells.collect::<Vec<_>>().join("│")));
        }
    }
    rule("└", "┴", "┘");
}

/// A value as Elixir would show it.
fn inspected(value: &Value) -> String {
    match value {
        Value::Null => "nil".to_owned(),
        Value::Object(fields) => {
            let fields = fields.iter();
            let pairs: Vec<String> = fields
                .map(|(name, value)| {
                    format!("{{{}, {}}}", Value::from(name.as_str()), inspected(value))
                })
                .collect();
            format!("[{}]", pairs.join(", "))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(inspected).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

/// A value as a term of Erlang: texts as binaries, objects as lists of pairs.
fn erlang(value: &Value) -> String {
    match value {
        Value::Null => "undefined".to_owned(),
        Value::String(_) => format!("<<{value}>>"),
        Value::Object(fields) => {
            let fields = fields.iter();
            let pairs: Vec<String> = fields
                .map(|(name, value)| {
                    format!("{{<<{}>>,{}}}", Value::from(name.as_str()), erlang(value))
                })
                .collect();
            format!("[{}]", pairs.join(","))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(erlang).collect();
            format!("[{}]", items.join(","))
        }
        other => other.to_string(),
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

    #[test]
    fn values_as_terms() {
        let value = json!({"a": ["x", 1, true], "n": null});
        assert_eq!(
            erlang(&value),
            "[{<<\"a\">>,[<<\"x\">>,1,true]},{<<\"n\">>,undefined}]"
        );
        assert_eq!(
            inspected(&value),
            "[{\"a\", [\"x\", 1, true]}, {\"n\", nil}]"
        );
    }
}
