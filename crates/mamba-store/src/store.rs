//! Opening a data folder.

use std::{io, path::PathBuf, sync::Arc};

use crate::{
    definitions::Definitions,
    disk::Disk,
    error::OpenError,
    log::{Log, LogStatus, SyncMode},
    recovery::Recovered,
};

/// How to keep a data folder.
#[derive(Clone)]
pub struct StoreConfig {
    /// The data folder; created if absent.
    pub dir: PathBuf,
    /// When an appended state counts as durable.
    pub sync: SyncMode,
    /// Octets per log file. At least 64 KiB.
    pub file_size: u64,
    /// Called on the writer's thread whenever [`Log::status`] changes.
    pub on_status: Option<Arc<dyn Fn(&LogStatus) + Send + Sync>>,
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
pub struct Store;

impl Store {
    /// Opens or creates the folder, counts the epoch up, reads everything back and starts the threads.
    ///
    /// # Errors
    /// [`OpenError`] says what to do.
    pub fn open(
        _config: StoreConfig,
        _disk: Arc<dyn Disk>,
    ) -> Result<(Self, Recovered), OpenError> {
        unimplemented!()
    }

    /// The message log.
    #[must_use]
    pub fn log(&self) -> &Log {
        unimplemented!()
    }

    /// The definitions database.
    #[must_use]
    pub fn definitions(&self) -> &Definitions {
        unimplemented!()
    }

    /// The folder's lock.
    #[must_use]
    pub fn lock(&self) -> &StoreLock {
        unimplemented!()
    }

    /// How often this folder was opened, this time included: from 1 up. A queue starts its sequences at
    /// `epoch << 40`, so that none is ever used twice.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        unimplemented!()
    }

    /// 16 random octets drawn when the folder was created.
    #[must_use]
    pub fn node_id(&self) -> [u8; 16] {
        unimplemented!()
    }

    /// Octets still free on the folder's file system.
    ///
    /// # Errors
    /// The system's.
    pub fn free_space(&self) -> io::Result<u64> {
        unimplemented!()
    }

    /// Writes what is staged, waits for the definitions, stops the threads and gives the folder free. Call
    /// [`Log::clean_stop`] before. Dropping the store does the same.
    pub fn close(self) {}
}

/// Holds the data folder against other processes; its file says who we are and where we listen.
pub struct StoreLock;

impl StoreLock {
    /// Replaces the lines of the lock file: `pid N`, then one `name value` per pair.
    ///
    /// # Errors
    /// The system's.
    pub fn publish(&self, _lines: &[(&str, &str)]) -> io::Result<()> {
        unimplemented!()
    }
}
