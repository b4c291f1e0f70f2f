//! `mambamq store dump`: messages of a queue, entries of a log file.

use std::{
    fmt::Write as _,
    io::{self, BufWriter, Write},
};

use clap::Args;
use mamba_codec::{content_header, scan_properties, table};
use mamba_store::{
    OpenError,
    inspect::{Dumped, DumpedMessage, Entry, Folder},
};
use mamba_types::{FieldTable, FieldValue, Limits, Message};
use serde_json::{Map, Value, json};

use super::{
    StoreError,
    text::{base64, readable},
};
use crate::cli::DataDir;

/// Items of an entry shown as text.
const ITEMS_MAX: usize = 20;

#[derive(Debug, Args)]
#[group(id = "what", required = true, multiple = false, args = ["queue", "file"])]
pub(super) struct DumpArgs {
    #[command(flatten)]
    pub(super) data: DataDir,
    /// Show what this queue holds, in the order of delivery
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// The queue's virtual host
    #[arg(
        long,
        value_name = "NAME",
        default_value = "/",
        conflicts_with = "file"
    )]
    vhost: String,
    /// Show the entries of this log file (its name, or the sixteen digits of it), for work on the log itself
    #[arg(long, value_name = "BASE")]
    file: Option<String>,
    /// Most messages or entries to show
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: u64,
    /// Most octets of a body to show
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    body_limit: usize,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(folder: &Folder, arguments: &DumpArgs) -> Result<(), StoreError> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut result = Ok(());
    let mut shown = 0;
    // A reader that has seen enough is no error.
    let mut line = |text: String| {
        shown += 1;
        result = out.write_all(text.as_bytes());
        result.is_ok()
    };
    let limit = arguments.limit;
    let mut more = false;
    if let Some(name) = &arguments.queue {
        let stored = folder.definitions()?;
        let found = stored
            .queues
            .iter()
            .find(|queue| queue.name == *name && queue.vhost == arguments.vhost);
        let Some(queue) = found else {
            return Err(StoreError::NoQueue {
                vhost: arguments.vhost.clone(),
                name: name.clone(),
            });
        };
        let mut left = limit;
        folder.messages(queue.id, &mut |item| {
            more = left == 0;
            left = left.saturating_sub(1);
            !more && line(message(&item, arguments))
        })?;
    } else if let Some(file) = &arguments.file {
        let mut left = limit;
        let shown = folder.entries(file, &mut |entry| {
            more = left == 0;
            left = left.saturating_sub(1);
            !more && line(self::entry(entry, arguments.json))
        });
        shown.map_err(|error| match error {
            OpenError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                StoreError::NoFile(file.clone())
            }
            other => other.into(),
        })?;
    }
    let mut result = result.and_then(|()| out.flush());
    if !arguments.json && result.is_ok() {
        let end = match (more, shown) {
            (true, _) => format!("more follow; --limit {limit} was reached\n"),
            (false, 0) => "empty\n".to_owned(),
            (false, _) => String::new(),
        };
        result = out.write_all(end.as_bytes()).and_then(|()| out.flush());
    }
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(StoreError::Output(error)),
        _ => Ok(()),
    }
}

fn message(item: &Dumped, arguments: &DumpArgs) -> String {
    match item {
        Dumped::Message(one) if arguments.json => {
            format!("{}\n", message_json(one, arguments.body_limit))
        }
        Dumped::Message(one) => message_text(one, arguments.body_limit),
        Dumped::Damaged {
            first,
            count,
            reason,
        } if arguments.json => {
            let value = json!({"sequence": first.0, "count": count, "damaged": reason});
            format!("{value}\n")
        }
        Dumped::Damaged {
            first,
            count,
            reason,
        } => format!("{} DAMAGED, {count} messages: {reason}\n", first.0),
    }
}

fn message_text(one: &DumpedMessage, body_limit: usize) -> String {
    let message = &one.message;
    let mut text = format!(
        "{} exchange {:?}, routing key {:?}, {} octets, {}",
        one.sequence.0,
        String::from_utf8_lossy(message.exchange()),
        String::from_utf8_lossy(message.routing_key()),
        message.body_len(),
        if message.persistent() {
            "persistent"
        } else {
            "transient"
        },
    );
    if one.level > 0 {
        let _ = write!(text, ", priority {}", one.level);
    }
    if one.redelivered {
        text.push_str(", may have been delivered");
    }
    if one.delivery_count > 0 {
        let _ = write!(text, ", came back {} times", one.delivery_count);
    }
    let _ = writeln!(text, "; {} at {}", one.file, one.offset);
    for (name, value) in properties(message) {
        let _ = writeln!(text, "    {name}: {value}");
    }
    let body = message.body();
    let cut = &body[..body.len().min(body_limit)];
    let end = if cut.len() < body.len() { " …" } else { "" };
    let _ = match readable(whole_characters(cut, body)) {
        _ if body.is_empty() => Ok(()),
        Some(content) => writeln!(text, "    body: {content:?}{end}"),
        None => writeln!(text, "    body, base64: {}{end}", base64(cut)),
    };
    text
}

fn message_json(one: &DumpedMessage, body_limit: usize) -> Value {
    let message = &one.message;
    let body = message.body();
    let cut = &body[..body.len().min(body_limit)];
    let (content, encoding) = match readable(whole_characters(cut, body)) {
        Some(content) => (content.to_owned(), "text"),
        None => (base64(cut), "base64"),
    };
    json!({
        "sequence": one.sequence.0,
        "priority": one.level,
        "exchange": String::from_utf8_lossy(message.exchange()),
        "routing_key": String::from_utf8_lossy(message.routing_key()),
        "redelivered": one.redelivered,
        "delivery_count": one.delivery_count,
        "accepted_at_ms": message.accepted_at_ms(),
        "properties": properties(message),
        "body_bytes": body.len(),
        "body": content,
        "body_encoding": encoding,
        "body_cut": cut.len() < body.len(),
        "file": one.file,
        "offset": one.offset,
    })
}

/// A body that was cut inside a character is still text.
fn whole_characters<'a>(cut: &'a [u8], body: &[u8]) -> &'a [u8] {
    match str::from_utf8(cut) {
        Err(error) if cut.len() < body.len() && error.error_len().is_none() => {
            &cut[..error.valid_up_to()]
        }
        _ => cut,
    }
}

/// The content header's properties by their names in the specification.
fn properties(message: &Message) -> Map<String, Value> {
    let mut map = Map::new();
    let limits = Limits::default();
    let Ok(header) = content_header(message.header()) else {
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

fn entry(entry: &Entry, as_json: bool) -> String {
    if as_json {
        let value = json!({
            "offset": entry.offset,
            "position": entry.position,
            "kind": entry.kind,
            "bytes": entry.octets,
            "synced": entry.synced,
            "items": entry.items,
        });
        return format!("{value}\n");
    }
    let mut text = format!(
        "{:>10} {:<14} {} octets, position {}, synced {}\n",
        entry.offset, entry.kind, entry.octets, entry.position, entry.synced
    );
    for item in entry.items.iter().take(ITEMS_MAX) {
        let _ = writeln!(text, "           {item}");
    }
    if entry.items.len() > ITEMS_MAX {
        let _ = writeln!(
            text,
            "           and {} more",
            entry.items.len() - ITEMS_MAX
        );
    }
    text
}
