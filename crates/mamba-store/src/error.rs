//! What can go wrong, by whose fault, and what to do about it.

use std::{io, path::PathBuf};

/// Why the data folder could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the folder.
    #[error(
        "the data folder {} is in use by process {}: stop that process, or give this one its own folder",
        path.display(), pid.map_or_else(|| "(unknown)".to_owned(), |pid| pid.to_string())
    )]
    Locked {
        /// The data folder.
        path: PathBuf,
        /// The process that holds it, if it said so.
        pid: Option<u32>,
    },
    /// The path exists and is something else than a folder.
    #[error("the data folder {} is not a folder: name a folder, or a path that does not exist yet", path.display())]
    NotADirectory {
        /// The path given.
        path: PathBuf,
    },
    /// The file system refuses us.
    #[error("no permission to {action} {}: let the user that runs the broker own it and everything below", path.display())]
    Permission {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
    },
    /// The file system is mounted read-only.
    #[error("cannot {action} {}: the file system is read-only; remount it writable or choose another data folder", path.display())]
    ReadOnly {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
    },
    /// The file system has no room for what an open needs.
    #[error("cannot {action} {}: the file system is full; free space and start again", path.display())]
    Full {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
    },
    /// The folder holds files that are not the broker's.
    #[error("the folder {} holds {found:?}, which is not a file of MambaMQ: choose an empty folder or the one used before", path.display())]
    Foreign {
        /// The data folder.
        path: PathBuf,
        /// One name that does not belong.
        found: String,
    },
    /// The folder holds files of a broker, but not the one that says of which format they are.
    #[error("the folder {} holds {found:?}, but the file \"format\" is missing: put it back from a backup; it says which version of the broker wrote the others", path.display())]
    NoFormat {
        /// The data folder.
        path: PathBuf,
        /// One name that is there.
        found: String,
    },
    /// The log is there, and the definitions database is not.
    #[error("the definitions database {} is missing or empty, while the message log beside it is not: restore definitions.redb from a backup; the log alone does not say which queues exist. To start anew without the messages, choose another folder", path.display())]
    NoDefinitions {
        /// Where the database should be.
        path: PathBuf,
    },
    /// Written by a version of the broker with another stored format.
    #[error("{} has stored format {found}, this broker knows {known}: start the version that wrote it, or choose another folder", path.display())]
    Version {
        /// The file that says so.
        path: PathBuf,
        /// The version it names.
        found: String,
        /// The version this code writes.
        known: u32,
    },
    /// There is no data folder, where one must be.
    #[error("{} is not a data folder of MambaMQ (it has no file \"format\"): name the folder that the broker was given as --data-dir", path.display())]
    Absent {
        /// The path given.
        path: PathBuf,
    },
    /// A restore into this folder was cut short.
    #[error("a restore into the data folder {} was cut short, it is incomplete: remove the folder and restore again", path.display())]
    UnfinishedRestore {
        /// The data folder.
        path: PathBuf,
    },
    /// The log was not written for this folder's node.
    #[error("the log file {} belongs to another node's folder: put back the folder's own files", path.display())]
    ForeignLog {
        /// The file.
        path: PathBuf,
    },
    /// The definitions database cannot be read.
    #[error("the definitions database {} cannot be read ({reason}): restore it from a backup; the log alone does not say which queues exist", path.display())]
    Definitions {
        /// The database file.
        path: PathBuf,
        /// What the database said.
        reason: String,
    },
    /// Any other answer of the disk.
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

impl OpenError {
    /// Sorts the system's answer to `action` on `path` by what the operator has to do.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission { action, path },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { action, path },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { action, path }
            }
            io::ErrorKind::NotADirectory => Self::NotADirectory { path },
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }
}

/// Why a change of definitions did not become durable. Clones are cheap: one failed commit answers many.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// No room; later changes may succeed.
    #[error("the definitions database could not be written: no space left on the device")]
    Full,
    /// The database refused; later changes are refused too until a restart.
    #[error("the definitions database failed: {0}")]
    Failed(std::sync::Arc<str>),
    /// A stored value could not be encoded or decoded: our bug.
    #[error("a definition could not be encoded: {0}")]
    Encoding(std::sync::Arc<str>),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}
