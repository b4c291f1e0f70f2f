//! The data folder: one broker at a time, and `node.lock` tells tools where it listens.
//!
//! `node.lock` is locked (`flock`) while a broker runs. It holds the line `pid N` from the start and, once clients can connect,
//! one line `amqp ADDRESS:PORT` per listener and `metrics ADDRESS:PORT`. A clean stop empties it.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read, Seek, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// Name of the lock file in the data folder.
const LOCK_FILE: &str = "node.lock";

/// Why the data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataDirError {
    /// The folder is not there and cannot be made.
    #[error(
        "cannot create the data folder {path}: {source}; create it for the broker's user, or name another with --data-dir"
    )]
    Create {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The lock file cannot be opened or written.
    #[error(
        "cannot write {path}: {source}; the broker's user needs read and write permission in the data folder"
    )]
    Write {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else has the lock.
    #[error(
        "the data folder {path} is in use by another broker{owner}; stop that one, or give this one a folder of its own with --data-dir"
    )]
    InUse {
        /// The folder.
        path: PathBuf,
        /// ` (pid N)`, or nothing.
        owner: String,
    },
}

/// The data folder, locked for this process until dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    lock_path: PathBuf,
    lock: File,
}

impl DataDir {
    /// Creates the folder if need be and locks it.
    ///
    /// # Errors
    /// When the folder cannot be created, written, or is in use.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        fs::create_dir_all(path).map_err(|source| DataDirError::Create {
            path: path.to_owned(),
            source,
        })?;
        let lock_path = path.join(LOCK_FILE);
        let failed = |source| DataDirError::Write {
            path: lock_path.clone(),
            source,
        };
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = lock
                    .read_to_string(&mut text)
                    .ok()
                    .and_then(|_| text.lines().next()?.strip_prefix("pid "));
                let owner = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
                return Err(DataDirError::InUse {
                    path: path.to_owned(),
                    owner,
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let mut folder = Self {
            path: path.to_owned(),
            lock_path,
            lock,
        };
        folder.write(&format!("pid {}\n", std::process::id()))?;
        Ok(folder)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Tells tools that clients can connect now.
    ///
    /// # Errors
    /// When the lock file cannot be written.
    pub(crate) fn announce(
        &mut self,
        amqp: &[SocketAddr],
        metrics: Option<SocketAddr>,
    ) -> Result<(), DataDirError> {
        let mut text = format!("pid {}\n", std::process::id());
        // The metrics line first: who sees an amqp line may rely on all of it.
        for (kind, address) in metrics
            .iter()
            .map(|address| ("metrics", address))
            .chain(amqp.iter().map(|address| ("amqp", address)))
        {
            text.push_str(&format!("{kind} {address}\n"));
        }
        self.write(&text)
    }

    /// Tells tools that nobody listens any more.
    ///
    /// # Errors
    /// When the lock file cannot be written.
    pub(crate) fn withdraw(&mut self) -> Result<(), DataDirError> {
        self.write("")
    }

    /// One write call, so that readers see either the old text, nothing, or the new text.
    fn write(&mut self, text: &str) -> Result<(), DataDirError> {
        self.lock
            .set_len(0)
            .and_then(|()| self.lock.rewind())
            .and_then(|()| self.lock.write_all(text.as_bytes()))
            .map_err(|source| DataDirError::Write {
                path: self.lock_path.clone(),
                source,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broker_per_folder() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let mut first = DataDir::open(&path).unwrap();
        let error = DataDir::open(&path).unwrap_err().to_string();
        assert!(
            error.contains(&format!(
                "in use by another broker (pid {})",
                std::process::id()
            )),
            "{error}"
        );
        let address = "127.0.0.1:5672".parse().unwrap();
        first.announce(&[address], Some(address)).unwrap();
        let text = fs::read_to_string(path.join(LOCK_FILE)).unwrap();
        assert_eq!(
            text,
            format!(
                "pid {}\nmetrics 127.0.0.1:5672\namqp 127.0.0.1:5672\n",
                std::process::id()
            )
        );
        first.withdraw().unwrap();
        drop(first);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_made() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(
            DataDir::open(&file.join("data")),
            Err(DataDirError::Create { .. })
        ));
    }
}
