//! `mambamq store verify|stats|dump`: looking into a data folder without a broker.

mod dump;
mod text;

use std::{
    fmt::Write as _,
    io::{self, Write},
    path::{Path, PathBuf},
    time::SystemTime,
};

use clap::{Args, Subcommand};
use mamba_store::{
    OpenError,
    inspect::{Affected, Finding, Folder, Stats, Verification},
};
use serde_json::{Value, json};

use self::text::{age, hex, octets, row};
use crate::cli::DataDir;

/// Look into the data folder of a stopped node: what is in it, and whether it is sound
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Check every entry, record and index, and the definitions; exit code 1 if something is damaged
    Verify(LookArgs),
    /// Show queues and log files: messages, octets, what is still needed
    Stats(LookArgs),
    /// Show what a queue holds, or the entries of a log file
    Dump(dump::DumpArgs),
}

#[derive(Debug, Args)]
struct LookArgs {
    #[command(flatten)]
    data: DataDir,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

impl StoreArgs {
    /// Which folder it is about.
    pub(crate) const fn data(&self) -> &DataDir {
        match &self.command {
            StoreCommand::Verify(look) | StoreCommand::Stats(look) => &look.data,
            StoreCommand::Dump(dump) => &dump.data,
        }
    }
}

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(
        "a broker (process {}) runs on {}: stop it first, or look at a copy made by mambamq backup and mambamq restore",
        pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string()), path.display()
    )]
    Running { path: PathBuf, pid: Option<u32> },
    #[error(transparent)]
    Open(OpenError),
    #[error(
        "there is no durable queue {name:?} in virtual host {vhost:?}: mambamq store stats shows the queues there are"
    )]
    NoQueue { vhost: String, name: String },
    #[error(
        "there is no log file {0:?}: name one as mambamq store stats shows it, sixteen hexadecimal digits"
    )]
    NoFile(String),
    #[error("cannot write the output: {0}")]
    Output(io::Error),
}

impl From<OpenError> for StoreError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Locked { path, pid } => Self::Running { path, pid },
            other => Self::Open(other),
        }
    }
}

/// Does it; false if something is damaged.
pub(crate) fn run(data_dir: &Path, arguments: &StoreArgs) -> Result<bool, StoreError> {
    let folder = Folder::open(data_dir)?;
    match &arguments.command {
        StoreCommand::Verify(look) => {
            let result = folder.verify()?;
            show(&if look.json {
                pretty(&verification_json(&result))
            } else {
                verification_text(&result)
            })?;
            Ok(result.findings.is_empty())
        }
        StoreCommand::Stats(look) => {
            let stats = folder.stats()?;
            show(&if look.json {
                pretty(&stats_json(&stats))
            } else {
                stats_text(&stats)
            })?;
            Ok(true)
        }
        StoreCommand::Dump(dump) => dump::run(&folder, dump).map(|()| true),
    }
}

/// Writes to standard output; a reader that has seen enough is no error.
fn show(text: &str) -> Result<(), StoreError> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(StoreError::Output(error)),
        _ => Ok(()),
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn verification_text(result: &Verification) -> String {
    let mut text = String::new();
    for finding in &result.findings {
        damage(&mut text, finding);
    }
    let _ = writeln!(
        text,
        "checked {} log files with {} entries, {} message records, {}; {} indexes; {} durable queues with {} messages",
        result.files,
        result.entries,
        result.records,
        octets(result.octets),
        result.indexes,
        result.queues,
        result.messages
    );
    if result.torn_octets > 0 {
        let _ = writeln!(
            text,
            "{} of an unfinished write stand at the end of the log: no damage, nothing in it was confirmed, the next start cuts it off",
            octets(result.torn_octets)
        );
    }
    let redundant = result.findings.iter().filter(|one| one.redundant).count();
    let real = result.findings.len() - redundant;
    text.push_str(&match (real, redundant) {
        (0, 0) => "no damage\n".to_owned(),
        (0, _) => format!("{redundant} damaged files that the broker makes anew by itself: no message is lost, but look at the disk\n"),
        _ => format!("{} places are damaged: see docs/operations.md for what to do\n", real + redundant),
    });
    text
}

fn damage(text: &mut String, finding: &Finding) {
    let _ = write!(text, "DAMAGED {}", finding.file);
    if finding.octets > 0 {
        let _ = write!(
            text,
            " at offset {}, {} octets",
            finding.offset, finding.octets
        );
    }
    let _ = writeln!(text, ": {}", finding.what);
    for messages in &finding.affected {
        let _ = writeln!(text, "    {}", affected(messages));
    }
    if finding.affected.is_empty() && !finding.redundant && finding.octets > 0 {
        text.push_str("    no live message is known to be lost by it\n");
    }
}

fn affected(messages: &Affected) -> String {
    let queue = match &messages.name {
        Some((vhost, name)) => format!("queue {name:?} in {vhost:?}"),
        None => format!("queue {:#x}, which has no definition", messages.queue.0),
    };
    let first = messages.first.0;
    let which = match messages.count {
        1 => format!("message {first}"),
        count => format!("{count} messages, {first} to {}", first + count - 1),
    };
    format!("lost: {queue}, {which}")
}

fn verification_json(result: &Verification) -> Value {
    let findings = result.findings.iter().map(|finding| {
        let affected = finding.affected.iter().map(|messages| {
            json!({
                "vhost": messages.name.as_ref().map(|(vhost, _)| vhost),
                "queue": messages.name.as_ref().map(|(_, name)| name),
                "queue_id": messages.queue.0,
                "priority": messages.level,
                "first_sequence": messages.first.0,
                "count": messages.count,
            })
        });
        json!({
            "file": finding.file,
            "offset": finding.offset,
            "bytes": finding.octets,
            "what": finding.what,
            "redundant": finding.redundant,
            "lost_messages": affected.collect::<Vec<_>>(),
        })
    });
    json!({
        "sound": result.findings.is_empty(),
        "log_files": result.files,
        "indexes": result.indexes,
        "entries": result.entries,
        "records": result.records,
        "bytes": result.octets,
        "queues": result.queues,
        "messages": result.messages,
        "torn_bytes": result.torn_octets,
        "damage": findings.collect::<Vec<_>>(),
    })
}

fn stats_text(stats: &Stats) -> String {
    let mut text = String::new();
    row(
        &mut text,
        &["messages", "delayed", "bodies", "ranges", "vhost", "queue"],
    );
    for one in &stats.queues {
        row(
            &mut text,
            &[
                &one.messages.to_string(),
                &one.delayed.to_string(),
                &octets(one.body_bytes),
                &one.runs.len().to_string(),
                &one.queue.vhost,
                &one.queue.name,
            ],
        );
    }
    text.push('\n');
    row(&mut text, &["used", "live", "dead", "pairs", "age", "file"]);
    let now = now();
    for file in &stats.files {
        row(
            &mut text,
            &[
                &octets(file.octets),
                &octets(file.live_octets),
                &octets(file.octets.saturating_sub(file.live_octets)),
                &file.live.to_string(),
                &age(file.modified, now),
                &format!(
                    "{}{}",
                    file.name,
                    if file.indexed { " (indexed)" } else { "" }
                ),
            ],
        );
    }
    let report = &stats.report;
    let _ = writeln!(
        text,
        "\nnode {}: {} durable queues, {} exchanges, {} bindings; {} messages; {} log files with {} ({} live), {} spare files; the last stop was {}",
        hex(&stats.node_id),
        stats.definitions.queues,
        stats.definitions.exchanges,
        stats.definitions.bindings,
        report.live,
        stats.files.len(),
        octets(stats.files.iter().map(|file| file.octets).sum()),
        octets(stats.files.iter().map(|file| file.live_octets).sum()),
        stats.spares,
        if report.clean { "clean" } else { "a crash" },
    );
    if report.unknown_queue > 0 {
        let _ = writeln!(
            text,
            "{} messages of queues that were deleted: they go with their files",
            report.unknown_queue
        );
    }
    let queue_ids: u64 = stats.queues.iter().map(|one| one.seen_ids).sum();
    let ids = queue_ids + stats.exchange_seen_ids;
    if ids > 0 {
        let _ = writeln!(
            text,
            "{ids} ids remembered against duplicates, {} of them by exchanges",
            stats.exchange_seen_ids
        );
    }
    if !report.quarantined.is_empty() {
        let _ = writeln!(
            text,
            "{} parts of the log are damaged: see mambamq store verify",
            report.quarantined.len()
        );
    }
    text
}

fn stats_json(stats: &Stats) -> Value {
    let now = now();
    let queues = stats.queues.iter().map(|one| {
        let ranges = one.runs.iter().map(|run| {
            json!({
                "priority": run.level,
                "from": run.from.0,
                "to": run.to.0,
                "messages": run.count,
                "body_bytes": run.body_bytes,
                "redelivered": run.redelivered,
                "delivery_count": run.delivery_count,
            })
        });
        json!({
            "vhost": one.queue.vhost,
            "name": one.queue.name,
            "queue_id": one.queue.id.0,
            "messages": one.messages,
            "delayed": one.delayed,
            "body_bytes": one.body_bytes,
            "seen_ids": one.seen_ids,
            "ranges": ranges.collect::<Vec<_>>(),
        })
    });
    let files = stats.files.iter().map(|file| {
        let age = file
            .modified
            .and_then(|modified| now.duration_since(modified).ok());
        json!({
            "file": file.name,
            "bytes": file.octets,
            "size_on_disk": file.size,
            "live_bytes": file.live_octets,
            "dead_bytes": file.octets.saturating_sub(file.live_octets),
            "live_messages": file.live,
            "indexed": file.indexed,
            "age_secs": age.map(|age| age.as_secs()),
        })
    });
    json!({
        "node_id": hex(&stats.node_id),
        "clean_stop": stats.report.clean,
        "messages": stats.report.live,
        "messages_of_deleted_queues": stats.report.unknown_queue,
        "damaged_ranges": stats.report.quarantined.len(),
        "queues": queues.collect::<Vec<_>>(),
        "exchanges": stats.definitions.exchanges,
        "exchange_seen_ids": stats.exchange_seen_ids,
        "bindings": stats.definitions.bindings,
        "log_files": files.collect::<Vec<_>>(),
        "spare_files": stats.spares,
    })
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(mamba_server::unix_ms())
}
