//! A data folder read without a broker: nothing in it is changed.

use std::path::{Path, PathBuf};

use crate::{
    definitions::{self, Exported},
    disk::RealDisk,
    error::OpenError,
    snapshot::{self, Snapshot, SnapshotError, SnapshotFile},
    store::{DEFINITIONS_FILE, StoreLock, require_folder},
};

/// A data folder of a stopped node, locked against a start.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    disk: RealDisk,
    _lock: StoreLock,
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
            disk,
            _lock: lock,
        })
    }

    /// The identity of the node that writes this folder, and how many definitions it has. Reads a copy made in
    /// `scratch`, since opening a database may change it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn snapshot(&self, scratch: &Path) -> Result<(Snapshot, [u8; 16]), OpenError> {
        let path = scratch.join(DEFINITIONS_FILE);
        let source = self.dir.join(DEFINITIONS_FILE);
        std::fs::copy(&source, &path).map_err(|error| OpenError::io("copy", &source, error))?;
        let (node_id, definitions) = definitions::export::settle(&path, &self.disk)?;
        let mut files = vec![SnapshotFile {
            name: DEFINITIONS_FILE.to_owned(),
            octets: std::fs::metadata(&path)
                .map_err(|error| OpenError::io("read", &path, error))?
                .len(),
            path,
        }];
        files.extend(self.log_files()?);
        Ok((Snapshot::of(files, definitions), node_id))
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
}

/// Reads a database file at rest: how many definitions it holds.
///
/// # Errors
/// When it cannot be read.
pub fn count_definitions(path: &Path) -> Result<Exported, OpenError> {
    Ok(definitions::export::settle(path, &RealDisk::new())?.1)
}
