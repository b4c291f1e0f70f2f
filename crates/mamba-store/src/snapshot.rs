//! What a copy of a node is made of: which files, and how much of each.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use crate::{
    definitions::Exported,
    disk::Disk,
    error::StoreError,
    format::{file_base, file_name},
    log::{LogHold, LogStatus},
    store::{DEFINITIONS_FILE, LOG_DIR, Store},
};

/// One file of a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Its name in a data folder, with `/` between folder and file.
    pub name: String,
    /// Where it can be read.
    pub path: PathBuf,
    /// Octets that belong to the snapshot; the file may be longer, and grow.
    pub octets: u64,
}

/// A moment of a data folder. While it lives, its files stay as they are.
pub struct Snapshot {
    /// The definitions, then the log files, oldest first. The file `format` is [`crate::format_line`].
    pub files: Vec<SnapshotFile>,
    /// How many definitions there are.
    pub definitions: Exported,
    _hold: Option<LogHold>,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The definitions could not be copied.
    #[error(transparent)]
    Definitions(#[from] StoreError),
    /// The log could not be written to the disk.
    #[error(
        "the message log cannot be written at present, so that a copy would lack what clients were told is safe: look at the broker's log"
    )]
    Log,
    /// The disk refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

impl Snapshot {
    /// Of files that nobody writes to.
    pub(crate) fn of(files: Vec<SnapshotFile>, definitions: Exported) -> Self {
        Self {
            files,
            definitions,
            _hold: None,
        }
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("files", &self.files)
            .field("definitions", &self.definitions)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// A consistent moment of the running store: everything confirmed before the call is in it. The definitions are
    /// written into a new file in `folder`, which must exist; removing it afterwards is the caller's affair. Blocks
    /// the thread until the log is flushed.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn snapshot(&self, folder: &Path) -> Result<Snapshot, SnapshotError> {
        // Taken first: from here on no file that the list will name can go.
        let hold = self.log().hold();
        let path = folder.join(DEFINITIONS_FILE);
        // Before the log, so that a queue of the snapshot never lacks what was confirmed before.
        let definitions = self.definitions().export(&path)?;
        // A flush waits for room on the disk, however long that takes.
        if self.log().status() != LogStatus::Ok || !self.log().flush() {
            return Err(SnapshotError::Log);
        }
        let octets = len(&path)?;
        let mut files = vec![SnapshotFile {
            name: DEFINITIONS_FILE.to_owned(),
            path,
            octets,
        }];
        files.extend(self.log().files().into_iter().map(|file| SnapshotFile {
            name: format!("{LOG_DIR}/{}", file_name(file.base.0)),
            path: file.path,
            octets: file.len,
        }));
        Ok(Snapshot {
            files,
            definitions,
            _hold: Some(hold),
        })
    }
}

/// The log files of a data folder nobody writes to, oldest first.
pub(crate) fn log_files(dir: &Path, disk: &dyn Disk) -> Result<Vec<SnapshotFile>, SnapshotError> {
    let folder = dir.join(LOG_DIR);
    let names = match disk.list(&folder) {
        // Nothing was ever written.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => listed.map_err(|source| SnapshotError::Io {
            action: "list",
            path: folder.clone(),
            source,
        })?,
    };
    let names = names.iter().filter_map(|name| name.to_str());
    names
        .filter(|name| file_base(name).is_some())
        .map(|name| {
            let path = folder.join(name);
            Ok(SnapshotFile {
                name: format!("{LOG_DIR}/{name}"),
                octets: len(&path)?,
                path,
            })
        })
        .collect()
}

pub(crate) fn len(path: &Path) -> Result<u64, SnapshotError> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(source) => Err(SnapshotError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        }),
    }
}
