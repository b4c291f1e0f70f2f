//! A backup being read: a folder or an archive.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, ErrorKind, Read, Seek},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;

use super::{
    BackupError,
    copy::{Digest, copy},
    manifest::{Listed, MANIFEST_BYTES_MAX, MANIFEST_NAME, Manifest, belongs},
};

/// A finished backup.
pub(super) enum Source {
    Folder(PathBuf),
    Archive { path: PathBuf, gzip: bool },
}

/// Told each file: its name in the data folder and its content, to be read to the end.
pub(super) type Visitor<'a> = dyn FnMut(&str, &mut dyn Read) -> Result<(), BackupError> + 'a;

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, BackupError> {
        let metadata = std::fs::metadata(path).map_err(BackupError::io("read", path))?;
        if metadata.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        let mut file = File::open(path).map_err(BackupError::io("read", path))?;
        let mut magic = [0; 2];
        let read = file
            .read(&mut magic)
            .map_err(BackupError::io("read", path))?;
        Ok(Self::Archive {
            path: path.to_owned(),
            gzip: read == 2 && magic == [0x1f, 0x8b],
        })
    }

    /// Reads every octet of the backup and compares it with the manifest, which is returned.
    pub(super) fn verify(&self) -> Result<Manifest, BackupError> {
        self.walk(&mut |_, content| {
            copy(content, &mut io::sink()).map_err(BackupError::io("read", self.path()))
        })
    }

    /// Shows every file to `visit`; afterwards what was read is compared with the manifest.
    pub(super) fn walk(&self, visit: &mut Visitor<'_>) -> Result<Manifest, BackupError> {
        let mut seen = BTreeMap::new();
        let mut look = |name: &str, content: &mut dyn Read| {
            let mut content = Digest::new(content);
            visit(name, &mut content)?;
            seen.insert(
                name.to_owned(),
                Listed::new(name, content.octets, content.crc),
            );
            Ok(())
        };
        let manifest = match self {
            Self::Folder(folder) => walk_folder(folder, &mut look)?,
            Self::Archive { path, gzip } => walk_archive(path, *gzip, &mut look)?,
        };
        for file in &manifest.files {
            match seen.get(&file.name) {
                None => {
                    return Err(BackupError::Missing {
                        path: self.path().to_owned(),
                        name: file.name.clone(),
                    });
                }
                Some(found) if found != file => {
                    return Err(BackupError::Damaged {
                        path: self.path().to_owned(),
                        name: file.name.clone(),
                        expected: file.to_string(),
                        found: found.to_string(),
                    });
                }
                Some(_) => {}
            }
        }
        if let Some(name) = seen
            .keys()
            .find(|name| manifest.files.iter().all(|file| file.name != **name))
        {
            return Err(BackupError::Manifest(format!(
                "it does not name {name:?}, which is there"
            )));
        }
        Ok(manifest)
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Folder(path) | Self::Archive { path, .. } => path,
        }
    }
}

fn walk_folder(folder: &Path, look: &mut Visitor<'_>) -> Result<Manifest, BackupError> {
    let path = folder.join(MANIFEST_NAME);
    let mut text = Vec::new();
    match File::open(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(BackupError::NoManifest(folder.to_owned()));
        }
        opened => opened
            .and_then(|file| file.take(MANIFEST_BYTES_MAX).read_to_end(&mut text))
            .map_err(BackupError::io("read", &path))?,
    };
    let manifest = Manifest::read(&text)?;
    for file in &manifest.files {
        let path = folder.join(&file.name);
        match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(BackupError::Missing {
                    path: folder.to_owned(),
                    name: file.name.clone(),
                });
            }
            opened => look(
                &file.name,
                &mut opened.map_err(BackupError::io("read", &path))?,
            )?,
        }
    }
    Ok(manifest)
}

fn walk_archive(path: &Path, gzip: bool, look: &mut Visitor<'_>) -> Result<Manifest, BackupError> {
    let mut file = File::open(path).map_err(BackupError::io("read", path))?;
    file.rewind().map_err(BackupError::io("read", path))?;
    let file = BufReader::with_capacity(1 << 20, file);
    let content: Box<dyn Read> = if gzip {
        Box::new(MultiGzDecoder::new(file))
    } else {
        Box::new(file)
    };
    let mut archive = tar::Archive::new(content);
    let broken = |error: io::Error| BackupError::BrokenArchive {
        path: path.to_owned(),
        source: error,
    };
    let mut manifest = None;
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = entry.path().map_err(broken)?.to_string_lossy().into_owned();
        if name == MANIFEST_NAME {
            let mut text = Vec::new();
            (&mut entry)
                .take(MANIFEST_BYTES_MAX)
                .read_to_end(&mut text)
                .map_err(broken)?;
            manifest = Some(Manifest::read(&text)?);
        } else if entry.header().entry_type().is_file() && belongs(&name) {
            look(&name, &mut entry)?;
        } else {
            return Err(BackupError::Foreign {
                path: path.to_owned(),
                name,
            });
        }
    }
    manifest.ok_or_else(|| BackupError::NoManifest(path.to_owned()))
}
