//! A tool copies the data folder while the broker runs.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use mamba_store::Snapshot;
use serde::{Deserialize, Serialize};

use super::{Node, Refusal};

/// What the names of folders with a copy of the definitions begin with.
const PREFIX: &str = "backup-";

/// What to copy. Answer to `backup_begin`; good until `backup_end`, or the connection ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupPlan {
    /// Version of the broker.
    pub server_version: String,
    /// The node's name.
    pub node: String,
    /// The identity of the data folder, in hexadecimal digits.
    pub node_id: String,
    /// Content of the file `format`.
    pub format: String,
    /// Durable queues.
    pub queues: u64,
    /// Durable exchanges.
    pub exchanges: u64,
    /// Durable bindings.
    pub bindings: u64,
    /// The files, in the order in which to copy them.
    pub files: Vec<BackupFile>,
}

/// One file to copy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupFile {
    /// Its name in the copy.
    pub name: String,
    /// Where it can be read.
    pub path: PathBuf,
    /// Octets to copy; the file may be longer.
    pub octets: u64,
}

impl BackupPlan {
    /// The plan of a moment.
    #[must_use]
    pub fn new(snapshot: &Snapshot, node: &str, node_id: [u8; 16]) -> Self {
        Self {
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            node: node.to_owned(),
            node_id: node_id.iter().map(|octet| format!("{octet:02x}")).collect(),
            format: mamba_store::format_line(),
            queues: snapshot.definitions.queues,
            exchanges: snapshot.definitions.exchanges,
            bindings: snapshot.definitions.bindings,
            files: snapshot
                .files
                .iter()
                .map(|file| BackupFile {
                    name: file.name.clone(),
                    path: file.path.clone(),
                    octets: file.octets,
                })
                .collect(),
        }
    }
}

/// A backup under way: while it lives, the files of its plan stay as they are.
pub(super) struct Backup {
    node: Arc<Node>,
    folder: PathBuf,
    snapshot: Option<Snapshot>,
}

impl Backup {
    /// Fixes a moment; blocks the thread.
    pub(super) fn begin(node: &Arc<Node>) -> Result<(Self, BackupPlan), Refusal> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        if node.backing_up.swap(true, Ordering::AcqRel) {
            return Err(Refusal::new(
                "busy",
                "another backup of this node is under way: wait for its end",
            ));
        }
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut backup = Self {
            node: Arc::clone(node),
            folder: node
                .data_dir
                .join(format!("{PREFIX}{}-{count}", std::process::id())),
            snapshot: None,
        };
        let failed = |error: &dyn std::fmt::Display| {
            Refusal::new("failed", format!("cannot begin a backup: {error}"))
        };
        fs::create_dir(&backup.folder).map_err(|error| failed(&error))?;
        let store = node.broker().store();
        let snapshot = store
            .snapshot(&backup.folder)
            .map_err(|error| failed(&error))?;
        let plan = BackupPlan::new(
            &snapshot,
            &node.broker().config().node_name,
            store.node_id(),
        );
        backup.snapshot = Some(snapshot);
        tracing::info!(
            files = plan.files.len(),
            bytes = plan.files.iter().map(|file| file.octets).sum::<u64>(),
            "backup begins: log files are kept until it ends"
        );
        Ok((backup, plan))
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
        self.node.backing_up.store(false, Ordering::Release);
        if self.snapshot.is_some() {
            tracing::info!("backup ended");
        }
    }
}

/// Removes what a broker left that ended during a backup.
pub(super) fn remove_leftovers(data_dir: &Path) {
    let Ok(entries) = fs::read_dir(data_dir) else {
        return;
    };
    for entry in entries.flatten() {
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PREFIX.as_bytes())
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
