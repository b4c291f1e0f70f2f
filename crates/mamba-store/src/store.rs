//! Opening a data folder: who may, whether it is ours, and everything in it.

use std::{
    collections::BTreeSet,
    fmt,
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mamba_types::QueueId;
use parking_lot::Mutex;

use crate::{
    definitions::{self, Definitions, DefinitionsThread},
    disk::{Disk, DiskFile},
    error::OpenError,
    log::{Log, LogConfig, LogThreads, StatusListener, SyncMode},
    recovery::Recovered,
};

/// Version of the folder's layout.
const FORMAT: u32 = 3;
const LOCK_FILE: &str = "node.lock";
const FORMAT_FILE: &str = "format";
pub(crate) const DEFINITIONS_FILE: &str = "definitions.redb";
pub(crate) const LOG_DIR: &str = "log";
/// Stands in a folder while a backup is being restored into it.
pub const RESTORE_MARKER: &str = "restore-unfinished";
/// What the format file begins with.
const FORMAT_MAGIC: &str = "mambamq data folder, format ";

/// How to keep a data folder.
#[derive(Clone)]
pub struct StoreConfig {
    /// The data folder; created if absent.
    pub dir: PathBuf,
    /// When an appended state counts as durable.
    pub sync: SyncMode,
    /// Octets per log file; a larger entry gets a larger file. At least 4096.
    pub file_size: u64,
    /// Called on the log writer's thread whenever [`Log::status`] changes.
    pub on_status: Option<StatusListener>,
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreConfig")
            .field("dir", &self.dir)
            .field("sync", &self.sync)
            .field("file_size", &self.file_size)
            .finish_non_exhaustive()
    }
}

impl StoreConfig {
    /// The defaults: `fsync`, 64 MiB files.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            sync: SyncMode::Fsync,
            file_size: 64 << 20,
            on_status: None,
        }
    }
}

/// An open data folder.
///
/// Dropping it is [`Store::close`]. Handles to its log and definitions may outlive it and refuse then.
pub struct Store {
    // The order is the order of dropping: the lock goes last.
    log: Log,
    _log_threads: LogThreads,
    definitions: Definitions,
    _definitions_thread: DefinitionsThread,
    epoch: u64,
    node_id: [u8; 16],
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    lock: StoreLock,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("dir", &self.dir)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens or creates the folder, counts the epoch up, reads everything back and starts the threads.
    ///
    /// # Errors
    /// [`OpenError`] says what to do.
    pub fn open(config: StoreConfig, disk: Arc<dyn Disk>) -> Result<(Self, Recovered), OpenError> {
        Self::open_with(config, disk, true)
    }

    /// Like [`Store::open`], without threads: nothing is written or committed unless [`Store::turn`] is called.
    /// For simulations, where one seed has to mean one run.
    ///
    /// # Errors
    /// [`OpenError`] says what to do.
    pub fn open_manual(
        config: StoreConfig,
        disk: Arc<dyn Disk>,
    ) -> Result<(Self, Recovered), OpenError> {
        Self::open_with(config, disk, false)
    }

    /// Fills `octets` with unpredictable ones, from the disk's source of chance.
    ///
    /// # Errors
    /// The system's.
    pub fn random(&self, octets: &mut [u8]) -> io::Result<()> {
        self.disk.random(octets)
    }

    /// One round of each of the store's duties, for a store without threads. Returns whether anything was done.
    pub fn turn(&self) -> bool {
        let defined = self.definitions.turn();
        self.log.turn() || defined
    }

    fn open_with(
        config: StoreConfig,
        disk: Arc<dyn Disk>,
        threads: bool,
    ) -> Result<(Self, Recovered), OpenError> {
        let dir = config.dir;
        check_folder(&dir, &*disk)?;
        let lock = StoreLock::take(&dir, &*disk)?;
        check_format(&dir, &*disk)?;
        check_definitions(&dir, &*disk)?;
        let opened = definitions::open(&dir.join(DEFINITIONS_FILE), Arc::clone(&disk), threads)?;
        disk.sync_dir(&dir)
            .map_err(|error| OpenError::io("sync", &dir, error))?;
        let ids: BTreeSet<_> = opened.stored.log_ids().collect();
        let known = |queue: QueueId| ids.contains(&queue.owner());
        let log_config = LogConfig {
            sync: config.sync,
            file_size: config.file_size.max(4096),
            retry: Duration::from_secs(1),
            node_id: opened.node_id,
            on_status: config.on_status,
        };
        let open_log = if threads { Log::open } else { Log::open_manual };
        let (log, log_threads, mut recovered) =
            open_log(&dir.join(LOG_DIR), log_config, Arc::clone(&disk), &known)?;
        recovered.definitions = opened.stored;
        let store = Self {
            log,
            _log_threads: log_threads,
            definitions: opened.definitions,
            _definitions_thread: opened.thread,
            epoch: opened.epoch,
            node_id: opened.node_id,
            dir,
            disk,
            lock,
        };
        Ok((store, recovered))
    }

    /// The message log.
    #[must_use]
    pub const fn log(&self) -> &Log {
        &self.log
    }

    /// The definitions database.
    #[must_use]
    pub const fn definitions(&self) -> &Definitions {
        &self.definitions
    }

    /// The folder's lock.
    #[must_use]
    pub const fn lock(&self) -> &StoreLock {
        &self.lock
    }

    /// How often this folder was opened, this time included: from 1 up. A queue starts its sequences at
    /// `epoch << 40`, so that none is ever used twice.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// 16 random octets drawn when the folder was created.
    #[must_use]
    pub const fn node_id(&self) -> [u8; 16] {
        self.node_id
    }

    /// The data folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Octets still free on the folder's file system.
    ///
    /// # Errors
    /// The system's.
    pub fn free_space(&self) -> io::Result<u64> {
        self.disk.free_space(&self.dir)
    }

    /// Writes what is staged, waits for the definitions, stops the threads and gives the folder free. Call
    /// [`Log::clean_stop`] before.
    pub fn close(self) {}
}

/// Holds the data folder against other processes; its file says who we are and where we listen.
pub struct StoreLock {
    file: Mutex<Box<dyn DiskFile>>,
}

impl fmt::Debug for StoreLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreLock").finish_non_exhaustive()
    }
}

impl StoreLock {
    pub(crate) fn take(dir: &Path, disk: &dyn Disk) -> Result<Self, OpenError> {
        let path = dir.join(LOCK_FILE);
        let file = disk.lock(&path).map_err(|error| {
            if error.kind() == io::ErrorKind::WouldBlock {
                OpenError::Locked {
                    path: dir.to_owned(),
                    pid: read_text(disk, &path).ok().and_then(|text| {
                        text.lines()
                            .find_map(|line| line.strip_prefix("pid ")?.parse().ok())
                    }),
                }
            } else {
                OpenError::io("lock", &path, error)
            }
        })?;
        let lock = Self {
            file: Mutex::new(file),
        };
        lock.publish(&[])
            .map_err(|error| OpenError::io("write", path, error))?;
        Ok(lock)
    }

    /// Replaces the lines of the lock file: `pid N`, then one `name value` per pair.
    ///
    /// One write puts all lines there: a reader sees the old ones, none, or all of the new ones.
    ///
    /// # Errors
    /// The system's.
    pub fn publish(&self, lines: &[(&str, &str)]) -> io::Result<()> {
        let mut text = format!("pid {}\n", std::process::id());
        for (name, value) in lines {
            text.push_str(name);
            text.push(' ');
            text.push_str(value);
            text.push('\n');
        }
        let file = self.file.lock();
        file.set_len(0)?;
        file.write_at(&[IoSlice::new(text.as_bytes())], 0)?;
        Ok(())
    }
}

impl Drop for StoreLock {
    fn drop(&mut self) {
        // Nobody listens at the published addresses any more.
        let _ = self.file.lock().set_len(0);
    }
}

/// Refuses what is not a folder and what belongs to somebody else; creates what is not there.
fn check_folder(dir: &Path, disk: &dyn Disk) -> Result<(), OpenError> {
    let names = match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            disk.create_dir(dir)
                .map_err(|error| OpenError::io("create", dir, error))?;
            if let Some(parent) = dir.parent().filter(|parent| *parent != Path::new("")) {
                // Some parents may not be opened; then the system decides when the folder is durable.
                let _ = disk.sync_dir(parent);
            }
            return Ok(());
        }
        listed => listed.map_err(|error| OpenError::io("list", dir, error))?,
    };
    if names.iter().any(|name| name == RESTORE_MARKER) {
        return Err(OpenError::UnfinishedRestore {
            path: dir.to_owned(),
        });
    }
    if names.iter().any(|name| name == FORMAT_FILE) {
        return Ok(());
    }
    let foreign = names.iter().find(|name| {
        *name != LOCK_FILE && *name != "lost+found" && !name.as_encoded_bytes().starts_with(b".")
    });
    let Some(found) = foreign else { return Ok(()) };
    let found = found.to_string_lossy().into_owned();
    let path = dir.to_owned();
    let ours = [DEFINITIONS_FILE, LOG_DIR];
    Err(
        if names.iter().any(|name| ours.iter().any(|our| name == our)) {
            OpenError::NoFormat { path, found }
        } else {
            OpenError::Foreign { path, found }
        },
    )
}

/// Refuses a folder whose log has lost its definitions, before anything takes their place.
fn check_definitions(dir: &Path, disk: &dyn Disk) -> Result<(), OpenError> {
    let path = dir.join(DEFINITIONS_FILE);
    let there = disk.open_read(&path).and_then(|file| file.len());
    let missing = match there {
        Ok(len) => len == 0,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    let has_log = || {
        disk.list(&dir.join(LOG_DIR)).is_ok_and(|names| {
            let logs = names.iter().filter_map(|name| name.to_str());
            logs.into_iter().any(|name| name.ends_with(".log"))
        })
    };
    if missing && has_log() {
        return Err(OpenError::NoDefinitions { path });
    }
    Ok(())
}

/// What a folder's file `format` says if this code can read the folder.
#[must_use]
pub fn format_line() -> String {
    format!("{FORMAT_MAGIC}{FORMAT}\n")
}

/// Refuses what is not a data folder of this layout; changes nothing.
pub(crate) fn require_folder(dir: &Path, disk: &dyn Disk) -> Result<(), OpenError> {
    match disk.list(dir) {
        Ok(names) if names.iter().any(|name| name == FORMAT_FILE) => {}
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(OpenError::io("list", dir, error));
        }
        _ => {
            return Err(OpenError::Absent {
                path: dir.to_owned(),
            });
        }
    }
    check_folder(dir, disk)?;
    check_format(dir, disk)
}

/// Marks a new folder as ours and refuses one of another layout.
fn check_format(dir: &Path, disk: &dyn Disk) -> Result<(), OpenError> {
    let path = dir.join(FORMAT_FILE);
    let text = match read_text(disk, &path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read.map_err(|error| OpenError::io("read", &path, error))?,
    };
    // A power cut while it was written for the first time may leave it empty, or full of zeros.
    let text = text.trim_end_matches('\0');
    let known = format_line();
    if text == known {
        return Ok(());
    }
    let unfinished = known.starts_with(text);
    if let Some(found) = text.strip_prefix(FORMAT_MAGIC)
        && !unfinished
    {
        return Err(OpenError::Version {
            path,
            found: found.trim().to_owned(),
            known: FORMAT,
        });
    }
    if !unfinished {
        return Err(OpenError::Foreign {
            path: dir.to_owned(),
            found: FORMAT_FILE.to_owned(),
        });
    }
    disk.open(&path)
        .and_then(|file| {
            file.write_at(&[IoSlice::new(known.as_bytes())], 0)?;
            file.sync_data()
        })
        .and_then(|()| disk.sync_dir(dir))
        .map_err(|error| OpenError::io("write", path, error))
}

fn read_text(disk: &dyn Disk, path: &Path) -> io::Result<String> {
    let file = disk.open_read(path)?;
    let mut octets = vec![0; usize::try_from(file.len()?.min(64 << 10)).unwrap_or(0)];
    let read = file.read_at(&mut octets, 0)?;
    octets.truncate(read);
    Ok(String::from_utf8_lossy(&octets).into_owned())
}
