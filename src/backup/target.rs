//! Where a backup is written: a folder or an archive.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufWriter, ErrorKind, Read, Write},
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};

use super::{
    BackupError,
    copy::Digest,
    manifest::{Listed, MANIFEST_NAME, Manifest},
};

/// A backup being written. Dropped before [`Target::finish`], it leaves nothing that could be taken for a backup.
pub(super) enum Target {
    Folder(PathBuf),
    Archive(Box<Archive>),
}

/// An archive under a name of its own until it is complete.
pub(super) struct Archive {
    builder: Option<tar::Builder<Sink>>,
    path: PathBuf,
    partial: PathBuf,
    mtime: u64,
}

enum Sink {
    Plain(BufWriter<File>),
    Gzip(GzEncoder<BufWriter<File>>),
}

impl Target {
    /// Begins a backup at `path`: an archive if the name ends like one, otherwise a folder.
    pub(super) fn create(path: &Path, unix_ms: u64) -> Result<Self, BackupError> {
        let name = path.to_string_lossy();
        let gzip = name.ends_with(".tar.gz") || name.ends_with(".tgz");
        if [".tar.zst", ".tar.xz", ".tar.bz2", ".zip"]
            .iter()
            .any(|end| name.ends_with(end))
        {
            return Err(BackupError::Archive(path.to_owned()));
        }
        if gzip || name.ends_with(".tar") {
            return Archive::create(path, gzip, unix_ms)
                .map(|archive| Self::Archive(Box::new(archive)));
        }
        if !empty_or_absent(path)? {
            return Err(BackupError::TargetNotEmpty(path.to_owned()));
        }
        fs::create_dir_all(path).map_err(BackupError::io("create", path))?;
        Ok(Self::Folder(path.to_owned()))
    }

    /// Copies `octets` octets of `from` into the file `name`.
    pub(super) fn add(
        &mut self,
        name: &str,
        octets: u64,
        from: &mut dyn Read,
    ) -> Result<Listed, BackupError> {
        let mut from = Digest::new(from.take(octets));
        match self {
            Self::Folder(folder) => write_file(&folder.join(name), &mut from)?,
            Self::Archive(archive) => archive.add(name, octets, &mut from)?,
        }
        if from.octets != octets {
            return Err(BackupError::Short {
                name: name.to_owned(),
                octets: from.octets,
                expected: octets,
            });
        }
        Ok(Listed::new(name, octets, from.crc))
    }

    /// Writes the manifest and makes everything durable.
    pub(super) fn finish(self, manifest: &Manifest) -> Result<(), BackupError> {
        let text = manifest.to_json()?;
        match self {
            Self::Folder(folder) => {
                let (partial, path) = (
                    folder.join(format!("{MANIFEST_NAME}.new")),
                    folder.join(MANIFEST_NAME),
                );
                write_file(&partial, &mut &text[..])?;
                sync_folders(&folder)?;
                fs::rename(&partial, &path).map_err(BackupError::io("rename", &partial))?;
                sync_folder(&folder)
            }
            Self::Archive(archive) => archive.finish(&text),
        }
    }
}

impl Archive {
    fn create(path: &Path, gzip: bool, unix_ms: u64) -> Result<Self, BackupError> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(BackupError::io("look at", path)(error)),
            Ok(_) => return Err(BackupError::TargetExists(path.to_owned())),
        }
        let mut partial = OsString::from(path);
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial).map_err(BackupError::io("create", &partial))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        let sink = if gzip {
            // Bodies that compress at all do so at the first level, and a log is read faster than it is squeezed.
            Sink::Gzip(GzEncoder::new(file, Compression::fast()))
        } else {
            Sink::Plain(file)
        };
        Ok(Self {
            builder: Some(tar::Builder::new(sink)),
            path: path.to_owned(),
            partial,
            mtime: unix_ms / 1000,
        })
    }

    fn add(&mut self, name: &str, octets: u64, from: &mut dyn Read) -> Result<(), BackupError> {
        let mut header = tar::Header::new_gnu();
        header.set_size(octets);
        header.set_mode(0o600);
        header.set_mtime(self.mtime);
        let Some(builder) = &mut self.builder else {
            return Ok(());
        };
        builder
            .append_data(&mut header, name, from)
            .map_err(BackupError::io("write", &self.partial))
    }

    fn finish(mut self, manifest: &[u8]) -> Result<(), BackupError> {
        self.add(MANIFEST_NAME, manifest.len() as u64, &mut &manifest[..])?;
        let write = |builder: tar::Builder<Sink>| {
            let file = match builder.into_inner()? {
                Sink::Plain(file) => file,
                Sink::Gzip(encoder) => encoder.finish()?,
            };
            file.into_inner()
                .map_err(io::IntoInnerError::into_error)?
                .sync_all()
        };
        if let Some(builder) = self.builder.take() {
            write(builder).map_err(BackupError::io("write", &self.partial))?;
        }
        fs::rename(&self.partial, &self.path).map_err(BackupError::io("rename", &self.partial))?;
        sync_folder(
            self.path
                .parent()
                .filter(|parent| *parent != Path::new(""))
                .unwrap_or_else(|| Path::new(".")),
        )
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        // After a finish there is no such file any more.
        let _ = fs::remove_file(&self.partial);
    }
}

impl Write for Sink {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.write(octets),
            Self::Gzip(encoder) => encoder.write(octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.flush(),
            Self::Gzip(encoder) => encoder.flush(),
        }
    }
}

/// Whether nothing stands at `path`, or a folder without any content.
pub(super) fn empty_or_absent(path: &Path) -> Result<bool, BackupError> {
    match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(BackupError::io("list", path)(error)),
        // A file system of its own has that from the beginning.
        Ok(entries) => Ok(entries
            .flatten()
            .all(|entry| entry.file_name() == "lost+found")),
    }
}

/// Writes a new file, durably, with its folder.
pub(super) fn write_file(path: &Path, from: &mut dyn Read) -> Result<(), BackupError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(BackupError::io("create", folder))?;
    }
    let mut file = File::create_new(path).map_err(BackupError::io("create", path))?;
    super::copy::copy(from, &mut file).map_err(BackupError::io("write", path))?;
    file.sync_all().map_err(BackupError::io("write", path))
}

/// Makes the names in a folder and in the folders right below it durable.
pub(super) fn sync_folders(folder: &Path) -> Result<(), BackupError> {
    let entries = fs::read_dir(folder).map_err(BackupError::io("list", folder))?;
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name() != "lost+found" {
            sync_folder(&entry.path())?;
        }
    }
    sync_folder(folder)
}

pub(super) fn sync_folder(folder: &Path) -> Result<(), BackupError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(BackupError::io("sync", folder))
}
