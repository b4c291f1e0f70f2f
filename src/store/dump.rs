//! `mambamq store dump`: messages of a queue, entries of a log file.

use std::{
    fmt::Write as _,
    io::{self, BufWriter, Write},
};

use clap::Args;
use mamba_server::message_json::{add_body, base64, properties, readable, whole_characters};
use mamba_store::{
    OpenError,
    inspect::{Dumped, DumpedMessage, Entry, Folder},
};
use serde_json::{Value, json};

use super::StoreError;
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
    let mut value = json!({
        "sequence": one.sequence.0,
        "priority": one.level,
        "exchange": String::from_utf8_lossy(message.exchange()),
        "routing_key": String::from_utf8_lossy(message.routing_key()),
        "redelivered": one.redelivered,
        "delivery_count": one.delivery_count,
        "accepted_at_ms": message.accepted_at_ms(),
        "properties": properties(message),
        "file": one.file,
        "offset": one.offset,
    });
    add_body(message.body(), body_limit, &mut value);
    value
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
