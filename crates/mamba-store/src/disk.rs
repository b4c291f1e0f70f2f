//! The one door to the disk, so that a simulated disk with faults can stand behind the same code.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, IoSlice},
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use rustix::fs::{FallocateFlags, FlockOperation};

/// Folders and whole-file operations.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file for reading and writing and creates it if it is not there; never truncates.
    ///
    /// # Errors
    /// The system's.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading.
    ///
    /// # Errors
    /// The system's; `NotFound` if there is none.
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Takes an exclusive lock on the file at `path`, created if absent, for as long as the result lives.
    ///
    /// # Errors
    /// `WouldBlock` if another process holds it, otherwise the system's.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Renames within one file system; durable after [`Disk::sync_dir`] of both folders.
    ///
    /// # Errors
    /// The system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; durable after [`Disk::sync_dir`].
    ///
    /// # Errors
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Creates a folder and the missing ones above it.
    ///
    /// # Errors
    /// The system's.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes creations, renames and removals in the folder durable.
    ///
    /// # Errors
    /// The system's.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// The names in a folder, sorted.
    ///
    /// # Errors
    /// The system's; `NotADirectory` or `NotFound` if there is no such folder.
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>>;

    /// Octets an unprivileged process may still write to the file system of `path`.
    ///
    /// # Errors
    /// The system's.
    fn free_space(&self, path: &Path) -> io::Result<u64>;

    /// A clock that never goes back, for statistics and intervals only.
    fn now(&self) -> Duration;

    /// Fills `octets` with what nobody can guess.
    ///
    /// # Errors
    /// The system's.
    fn random(&self, octets: &mut [u8]) -> io::Result<()> {
        rustix::rand::getrandom(octets, rustix::rand::GetRandomFlags::empty())?;
        Ok(())
    }
}

/// One open file.
pub trait DiskFile: Send + Sync {
    /// Writes the slices one after another at `offset` and returns how many octets it took; at least one
    /// unless there was nothing to write.
    ///
    /// # Errors
    /// The system's; `StorageFull` or `QuotaExceeded` may be retried with the same octets at the same place.
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;

    /// Fills `buffer` from `offset` on and returns how many octets the file had; fewer only at its end.
    ///
    /// # Errors
    /// The system's.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Makes everything written before durable, and the size. After an error nothing written since the last
    /// success may be trusted.
    ///
    /// # Errors
    /// The system's.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes sure that `len` octets have a place on the disk; the file is at least that long afterwards.
    ///
    /// # Errors
    /// The system's, `StorageFull` among them.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Cuts or extends the file.
    ///
    /// # Errors
    /// The system's.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Octets in the file.
    ///
    /// # Errors
    /// The system's.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no octets.
    ///
    /// # Errors
    /// The system's.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }
}

/// The operating system's disk.
#[derive(Debug)]
pub struct RealDisk {
    started: Instant,
}

impl Default for RealDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl RealDisk {
    /// The disk; its clock starts now.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the disk is the store's door to the outside, clock included"
    )]
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
        }
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(read_write(path)?)))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(File::open(path)?)))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = read_write(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(RealFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let mut names = std::fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        let room = rustix::fs::statvfs(path)?;
        Ok(room.f_bavail.saturating_mul(room.f_frsize))
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

fn read_write(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn write_at(&self, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        loop {
            match rustix::io::pwritev(&self.0, slices, offset) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(0) if slices.iter().any(|slice| !slice.is_empty()) => {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                other => return Ok(other?),
            }
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self
                .0
                .read_at(&mut buffer[filled..], offset + filled as u64)
            {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len) {
            // File systems that cannot reserve space only lose the early warning.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                if self.0.metadata()?.len() < len {
                    self.0.set_len(len)?;
                }
                Ok(())
            }
            other => Ok(other?),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.metadata().map(|metadata| metadata.len())
    }
}
