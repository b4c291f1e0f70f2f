//! A data folder read without a broker: what is in it, and whether it is sound. Nothing in it is changed.
//!
//! Built on the same reading as a start ([`crate::recovery`]), on a disk that refuses to write.

mod entries;
mod messages;
mod verify;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use mamba_types::QueueId;

pub use self::{
    entries::Entry,
    messages::{Dumped, DumpedMessage},
    verify::{Affected, Finding, Verification},
};
use crate::{
    definitions::{Exported, QueueDefinition, StoredDefinitions, export},
    disk::{Disk, DiskFile, RealDisk},
    error::OpenError,
    format::{FILE_ENTRY_LEN, FileStart, HEADER_LEN, Header, Kind, file_base, file_name},
    log::{
        LogConfig,
        scan::{self, Scanned},
    },
    recovery::{RecoveredRun, RecoveryReport},
    snapshot::{self, Snapshot, SnapshotError, SnapshotFile},
    store::{DEFINITIONS_FILE, LOG_DIR, StoreLock, require_folder},
};

/// A data folder of a stopped node, locked against a start.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    disk: ReadOnly,
    _lock: StoreLock,
}

/// What a folder holds.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// The identity of the folder.
    pub node_id: [u8; 16],
    /// Durable queues, in order of their names; those without messages too.
    pub queues: Vec<QueueStats>,
    /// How many definitions there are.
    pub definitions: Exported,
    /// Log files, oldest first.
    pub files: Vec<FileStats>,
    /// Ids that exchanges remember, expired ones included.
    pub exchange_seen_ids: u64,
    /// Files kept to be used again.
    pub spares: u64,
    /// What a start would report.
    pub report: RecoveryReport,
}

/// What a queue holds.
#[derive(Clone, Debug)]
pub struct QueueStats {
    /// Its definition.
    pub queue: QueueDefinition,
    /// Messages.
    pub messages: u64,
    /// Messages that wait until they are ready, not among the others.
    pub delayed: u64,
    /// Octets of their bodies; an estimate after many acknowledgements.
    pub body_bytes: u64,
    /// Ids it remembers, expired ones included.
    pub seen_ids: u64,
    /// By level and sequence.
    pub runs: Vec<RecoveredRun>,
}

/// One log file.
#[derive(Clone, Debug)]
pub struct FileStats {
    /// Its name.
    pub name: String,
    /// Octets of entries in it.
    pub octets: u64,
    /// Octets it takes on the disk's accounts: files are made longer before they are filled.
    pub size: u64,
    /// Octets of it that a queue still needs; an estimate.
    pub live_octets: u64,
    /// Live (queue, message) pairs whose record lies in it.
    pub live: u64,
    /// Its index was used; otherwise the file had to be read.
    pub indexed: bool,
    /// When it was last written, if the system says so.
    pub modified: Option<SystemTime>,
}

impl Folder {
    /// Locks the folder.
    ///
    /// # Errors
    /// [`OpenError::Locked`] while a broker runs on it; otherwise when it is not a data folder that this code can read.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let disk = RealDisk::new();
        require_folder(dir, &disk)?;
        let lock = StoreLock::take(dir, &disk)?;
        Ok(Self {
            dir: dir.to_owned(),
            disk: ReadOnly(disk),
            _lock: lock,
        })
    }

    /// What a copy of the folder is made of, and the identity of its node.
    ///
    /// # Errors
    /// When the definitions cannot be read.
    pub fn snapshot(&self) -> Result<(Snapshot, [u8; 16]), OpenError> {
        let path = self.dir.join(DEFINITIONS_FILE);
        let held = export::read(&path, &self.disk)?;
        let octets = self
            .disk
            .open_read(&path)
            .and_then(|file| file.len())
            .map_err(|error| OpenError::io("read", &path, error))?;
        let mut files = vec![SnapshotFile {
            name: DEFINITIONS_FILE.to_owned(),
            octets,
            path,
        }];
        files.extend(self.log_files()?);
        Ok((Snapshot::of(files, counts(&held.stored)), held.node_id))
    }

    /// Durable definitions.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn definitions(&self) -> Result<StoredDefinitions, OpenError> {
        let path = self.dir.join(DEFINITIONS_FILE);
        Ok(export::read(&path, &self.disk)?.stored)
    }

    /// What the folder holds, without looking at any body.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn stats(&self) -> Result<Stats, OpenError> {
        let Contents {
            node_id,
            stored,
            scanned,
            ..
        } = self.contents()?;
        let definitions = counts(&stored);
        let mut found = scanned.recovered.queues;
        let mut seen = scanned.recovered.seen;
        let mut defined = stored.queues;
        defined.sort_by(|one, other| (&one.vhost, &one.name).cmp(&(&other.vhost, &other.name)));
        let queues = defined.into_iter().map(|queue| {
            let runs = found.remove(&queue.id).unwrap_or_default().runs;
            let ids = seen.remove(&queue.id).unwrap_or_default();
            let waiting = found.remove(&queue.id.waiting_room()).unwrap_or_default();
            QueueStats {
                delayed: waiting.runs.iter().map(|run| run.count).sum(),
                messages: runs.iter().map(|run| run.count).sum(),
                body_bytes: runs.iter().map(|run| run.body_bytes).sum(),
                seen_ids: ids.len() as u64,
                queue,
                runs,
            }
        });
        let queues = queues.collect();
        let files = scanned.files.iter().map(|file| {
            let name = file_name(file.base);
            let metadata = std::fs::metadata(self.log_dir().join(&name)).ok();
            FileStats {
                octets: file.len(),
                size: metadata.as_ref().map_or(0, std::fs::Metadata::len),
                live_octets: file.live_share(),
                live: if file.moved { 0 } else { file.live },
                indexed: file.index.is_sealed(),
                modified: metadata.and_then(|metadata| metadata.modified().ok()),
                name,
            }
        });
        Ok(Stats {
            node_id,
            queues,
            exchange_seen_ids: seen.values().map(|ids| ids.len() as u64).sum(),
            definitions,
            files: files.collect(),
            spares: scanned.spares.len() as u64,
            report: scanned.recovered.report,
        })
    }

    fn log_dir(&self) -> PathBuf {
        self.dir.join(LOG_DIR)
    }

    fn log_files(&self) -> Result<Vec<SnapshotFile>, OpenError> {
        snapshot::log_files(&self.dir, &self.disk).map_err(|error| match error {
            SnapshotError::Io {
                action,
                path,
                source,
            } => OpenError::io(action, path, source),
            other => OpenError::Definitions {
                path: self.dir.clone(),
                reason: other.to_string(),
            },
        })
    }

    /// Reads everything as a start would.
    fn contents(&self) -> Result<Contents, OpenError> {
        let held = export::read(&self.dir.join(DEFINITIONS_FILE), &self.disk)?;
        let known: BTreeSet<_> = held.stored.log_ids().collect();
        let scanned = self.scan(held.node_id, &|queue| known.contains(&queue.owner()))?;
        Ok(Contents {
            node_id: held.node_id,
            stored: held.stored,
            scanned,
            config: LogConfig::new(held.node_id),
        })
    }

    fn scan(
        &self,
        node_id: [u8; 16],
        known: &dyn Fn(QueueId) -> bool,
    ) -> Result<Scanned, OpenError> {
        let dir = self.log_dir();
        if !dir.exists() {
            // A broker that crashed in its first moments.
            return Ok(Scanned::default());
        }
        scan::scan(&dir, &LogConfig::new(node_id), &self.disk, known)
    }

    /// The identity the log was written for, for a folder whose definitions cannot be read.
    fn node_id_of_the_log(&self) -> Option<[u8; 16]> {
        let names = self.disk.list(&self.log_dir()).ok()?;
        let mut names = names.iter().filter_map(|name| name.to_str());
        names.find_map(|name| {
            file_base(name)?;
            let file = self.disk.open_read(&self.log_dir().join(name)).ok()?;
            let mut octets = vec![0; usize::try_from(FILE_ENTRY_LEN).ok()?];
            file.read_at(&mut octets, 0).ok()?;
            let header = Header::read(&octets)
                .ok()
                .filter(|header| header.kind == Kind::File)?;
            let payload = octets.get(HEADER_LEN..)?;
            (header.payload_crc == crc32c::crc32c(payload))
                .then(|| FileStart::read(payload).map(|start| start.node_id))?
        })
    }
}

struct Contents {
    node_id: [u8; 16],
    stored: StoredDefinitions,
    scanned: Scanned,
    config: LogConfig,
}

fn counts(stored: &StoredDefinitions) -> Exported {
    Exported {
        queues: stored.queues.len() as u64,
        exchanges: stored.exchanges.len() as u64,
        bindings: stored.bindings.len() as u64,
    }
}

/// The system's disk for whoever only looks: removing does nothing, and files cannot be written.
#[derive(Debug)]
struct ReadOnly(RealDisk);

impl Disk for ReadOnly {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.open_read(path)
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.open_read(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.lock(path)
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.0.list(path)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        self.0.free_space(path)
    }

    fn now(&self) -> Duration {
        self.0.now()
    }
}
