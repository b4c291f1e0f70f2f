//! The audit log's own file: JSON lines, in as many files of as many octets as are wanted.
//!
//! ```text
//! audit.log   audit.log.1   audit.log.2   ...     the number grows with age
//! ```

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

/// An open audit log.
#[derive(Debug)]
pub(crate) struct AuditFile {
    path: PathBuf,
    /// Octets a file may have.
    size_max: u64,
    /// Files kept, the current one included.
    files_max: usize,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    file: File,
    size: u64,
}

impl Current {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }
}

impl AuditFile {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn open(path: &Path, size_max: u64, files_max: usize) -> io::Result<Self> {
        Ok(Self {
            current: Mutex::new(Current::open(path)?),
            path: path.to_owned(),
            size_max,
            files_max,
        })
    }

    /// Opens it again: somebody may have moved it away.
    ///
    /// # Errors
    /// The system's; then it goes on with what it has.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        *self.current.lock() = Current::open(&self.path)?;
        Ok(())
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut name = OsString::from(&self.path);
        if number > 0 {
            name.push(format!(".{number}"));
        }
        PathBuf::from(name)
    }

    /// Moves every file one on; the oldest goes.
    fn rotate(&self, current: &mut Current) -> io::Result<()> {
        let oldest = self.files_max.saturating_sub(1);
        if oldest == 0 {
            current.file.set_len(0)?;
            current.size = 0;
            return Ok(());
        }
        for number in (0..oldest).rev() {
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        *current = Current::open(&self.path)?;
        Ok(())
    }
}

/// One line per write: it goes into one file whole.
impl Write for &AuditFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut current = self.current.lock();
        let octets = line.len() as u64;
        if current.size > 0 && current.size + octets > self.size_max {
            self.rotate(&mut current)?;
        }
        current.file.write_all(line)?;
        current.size += octets;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_bounded_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let open = || AuditFile::open(&path, 10, 3).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let log = open();
        for line in [
            "1111\n",
            "2222\n",
            "3333\n",
            "a line above the size\n",
            "5\n",
        ] {
            (&log).write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(read("audit.log"), "5\n");
        assert_eq!(read("audit.log.1"), "a line above the size\n");
        assert_eq!(read("audit.log.2"), "3333\n");
        assert!(!folder.path().join("audit.log.3").exists());
        drop(log);
        let log = open();
        (&log).write_all(b"6\n").unwrap();
        assert_eq!(read("audit.log"), "5\n6\n");
        fs::rename(&path, folder.path().join("moved")).unwrap();
        log.reopen().unwrap();
        (&log).write_all(b"7\n").unwrap();
        assert_eq!(read("audit.log"), "7\n");
        assert_eq!(read("moved"), "5\n6\n");
    }

    #[test]
    fn one_file_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let log = AuditFile::open(&path, 4, 1).unwrap();
        (&log).write_all(b"123\n").unwrap();
        (&log).write_all(b"4\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "4\n");
    }
}
