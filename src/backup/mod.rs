//! `mambamq backup` and `mambamq restore`: a copy of a node as of one moment, and a node from such a copy.
//!
//! ```text
//! running node: connect -> backup_begin (fixes a moment) -> copy -> manifest -> backup_end
//! stopped node: lock the folder -> copy -> manifest
//! restore:      read and compare all -> marker -> write -> read back and compare all -> remove the marker
//! ```

mod copy;
mod manifest;
mod source;
mod target;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use clap::Args;
use mamba_server::control::BackupPlan;
use mamba_store::{OpenError, RESTORE_MARKER, inspect::Folder};
use parking_lot::Mutex;
use serde_json::Map;

use self::{
    copy::Digest,
    manifest::{FORMAT_NAME, Listed, Manifest},
    source::Source,
    target::{Target, empty_or_absent, sync_folder, sync_folders, write_file},
};
use crate::{
    cli::DataDir,
    control::{Control, ControlError},
    process,
};

/// How often the broker is told that the copying goes on.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// Flags of `mambamq backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Where to write: a folder that is empty or does not exist, or NAME.tar or NAME.tar.gz
    #[arg(long, value_name = "PATH")]
    to: PathBuf,
}

/// Flags of `mambamq restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// The backup: a folder or an archive that `mambamq backup` wrote
    #[arg(long, value_name = "PATH")]
    from: PathBuf,
}

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} exists already: a backup replaces nothing, choose another name or remove it", .0.display())]
    TargetExists(PathBuf),
    #[error("the folder {} is not empty: choose an empty one, or one that does not exist yet", .0.display())]
    TargetNotEmpty(PathBuf),
    #[error("{} lies in the data folder: write the backup to another place, best to another disk", .0.display())]
    TargetInside(PathBuf),
    #[error("archives like {} cannot be written: name a .tar or .tar.gz, or a folder, and compress it as you like", .0.display())]
    Archive(PathBuf),
    #[error(
        "the file {name} ended after {octets} octets, {expected} were expected: the backup was given up; check the disk, then mambamq store verify"
    )]
    Short {
        name: String,
        octets: u64,
        expected: u64,
    },
    #[error(
        "{} is not a complete backup (it has no file {:?}, which is written last): use another one",
        .0.display(), manifest::MANIFEST_NAME
    )]
    NoManifest(PathBuf),
    #[error("the backup's own description cannot be used: {0}")]
    Manifest(String),
    #[error(
        "the backup has {what} {found}, this version of mambamq restores {known}: use the version that wrote the backup"
    )]
    Version {
        what: &'static str,
        found: String,
        known: String,
    },
    #[error("the backup {} is damaged, the file {name:?} is missing: nothing was restored; use another backup", path.display())]
    Missing { path: PathBuf, name: String },
    #[error(
        "the backup {} is damaged: the file {name:?} has {found}, written were {expected}; nothing was restored, use another backup",
        path.display()
    )]
    Damaged {
        path: PathBuf,
        name: String,
        expected: String,
        found: String,
    },
    #[error("the archive {} cannot be read ({source}): it is no archive of mambamq backup, or it is cut or damaged", path.display())]
    BrokenArchive { path: PathBuf, source: io::Error },
    #[error("the archive {} holds {name:?}, which is not part of a backup: nothing was restored", path.display())]
    Foreign { path: PathBuf, name: String },
    #[error("an earlier restore into {} was cut short: remove the folder's content and restore again", .0.display())]
    Unfinished(PathBuf),
    #[error("the data folder {} is not empty: a restore replaces nothing, name a folder that is empty or does not exist yet", .0.display())]
    NotEmpty(PathBuf),
    #[error("the backup has {needed} octets and the file system of {} has room for {free}: free some, or choose another folder", path.display())]
    NoRoom {
        path: PathBuf,
        needed: u64,
        free: u64,
    },
    #[error(
        "what was written to {} is not what can be read back (file {name:?}): check the disk; the broker will not start on this folder",
        path.display()
    )]
    ReadBack { path: PathBuf, name: String },
}

impl BackupError {
    /// Says what was tried with an answer of the system.
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// Copies a node, running or not; answers what to tell people.
pub(crate) fn backup(data_dir: &Path, arguments: &BackupArgs) -> Result<String, BackupError> {
    let to = &arguments.to;
    if inside(to, data_dir) {
        return Err(BackupError::TargetInside(to.clone()));
    }
    let (manifest, how) = match Folder::open(data_dir) {
        Ok(folder) => (stopped(&folder, to)?, "stopped"),
        Err(OpenError::Locked { .. }) => (running(data_dir, to)?, "running"),
        Err(error) => return Err(error.into()),
    };
    Ok(format!(
        "backed up the {how} node in {} to {}: {}\n",
        data_dir.display(),
        to.display(),
        summary(&manifest)
    ))
}

fn running(data_dir: &Path, to: &Path) -> Result<Manifest, BackupError> {
    let mut control = Control::connect(data_dir)?;
    let mut target = Target::create(to, mamba_server::unix_ms())?;
    // Whatever ends this process ends the connection, and with it what the broker holds for us.
    let created_ms = mamba_server::unix_ms();
    let plan: BackupPlan = serde_json::from_value(control.ask("backup_begin", Map::new())?)
        .map_err(|error| ControlError::Answer(error.to_string()))?;
    let control = Arc::new(Mutex::new(control));
    let life = SignsOfLife::begin(&control)?;
    let manifest = write(&plan, created_ms, &mut target)?;
    drop(life);
    // The broker has kept its files until here only if it still answers.
    control.lock().ask("backup_end", Map::new())?;
    target.finish(&manifest)?;
    Ok(manifest)
}

fn stopped(folder: &Folder, to: &Path) -> Result<Manifest, BackupError> {
    let created_ms = mamba_server::unix_ms();
    let mut target = Target::create(to, created_ms)?;
    let (snapshot, node_id) = folder.snapshot()?;
    let plan = BackupPlan::new(&snapshot, "", node_id);
    let manifest = write(&plan, created_ms, &mut target)?;
    target.finish(&manifest)?;
    Ok(manifest)
}

fn write(plan: &BackupPlan, created_ms: u64, target: &mut Target) -> Result<Manifest, BackupError> {
    let mut manifest = Manifest::new(plan, created_ms);
    let format = plan.format.as_bytes();
    let octets = format.len() as u64;
    manifest
        .files
        .push(target.add(FORMAT_NAME, octets, &mut &*format)?);
    for file in &plan.files {
        let mut from = File::open(&file.path).map_err(BackupError::io("read", &file.path))?;
        manifest
            .files
            .push(target.add(&file.name, file.octets, &mut from)?);
    }
    Ok(manifest)
}

/// Makes a data folder of a backup; answers what to tell people.
pub(crate) fn restore(data_dir: &Path, arguments: &RestoreArgs) -> Result<String, BackupError> {
    let source = Source::open(&arguments.from)?;
    let marker = data_dir.join(RESTORE_MARKER);
    if marker.exists() {
        return Err(BackupError::Unfinished(data_dir.to_owned()));
    }
    if !empty_or_absent(data_dir)? {
        return Err(BackupError::NotEmpty(data_dir.to_owned()));
    }
    let manifest = source.verify()?;
    fs::create_dir_all(data_dir).map_err(BackupError::io("create", data_dir))?;
    if let Some(free) = process::disk_free(data_dir)
        && free < manifest.octets()
    {
        return Err(BackupError::NoRoom {
            path: data_dir.to_owned(),
            needed: manifest.octets(),
            free,
        });
    }
    write_file(
        &marker,
        &mut &b"A restore is under way, or was cut short: then remove this folder's content and restore again.\n"[..],
    )?;
    sync_folder(data_dir)?;
    source.walk(&mut |name, content| write_file(&data_dir.join(name), content))?;
    for file in &manifest.files {
        let path = data_dir.join(&file.name);
        let mut content = Digest::new(File::open(&path).map_err(BackupError::io("read", &path))?);
        copy::copy(&mut content, &mut io::sink()).map_err(BackupError::io("read", &path))?;
        if Listed::new(&file.name, content.octets, content.crc) != *file {
            return Err(BackupError::ReadBack {
                path,
                name: file.name.clone(),
            });
        }
    }
    sync_folders(data_dir)?;
    fs::remove_file(&marker).map_err(BackupError::io("remove", &marker))?;
    sync_folder(data_dir)?;
    if let Some(parent) = data_dir.parent().filter(|path| *path != Path::new("")) {
        // Some parents may not be opened; then the system decides when the folder is durable.
        let _ = sync_folder(parent);
    }
    Ok(format!(
        "restored the backup of {} ({}) to {}: {}\nstart the broker with --data-dir {}\n",
        manifest.created,
        arguments.from.display(),
        data_dir.display(),
        summary(&manifest),
        data_dir.display()
    ))
}

fn summary(manifest: &Manifest) -> String {
    format!(
        "{} durable queues, {} exchanges, {} bindings, {} octets in {} files, every checksum as written",
        manifest.queues,
        manifest.exchanges,
        manifest.bindings,
        manifest.octets(),
        manifest.files.len()
    )
}

/// Whether `path` would lie in `folder`, by the part of it that exists.
fn inside(path: &Path, folder: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else {
        return false;
    };
    let Ok(path) = std::path::absolute(path) else {
        return false;
    };
    path.ancestors()
        .find_map(|ancestor| ancestor.canonicalize().ok())
        .is_some_and(|real| real.starts_with(&folder))
}

/// Tells the broker now and then that its client lives; ends when dropped.
struct SignsOfLife {
    end: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl SignsOfLife {
    fn begin(control: &Arc<Mutex<Control>>) -> Result<Self, BackupError> {
        let control = Arc::clone(control);
        let (end, ended) = mpsc::channel::<()>();
        let thread = thread::Builder::new()
            .name("signs-of-life".to_owned())
            .spawn(move || {
                while ended.recv_timeout(SIGN_OF_LIFE) == Err(mpsc::RecvTimeoutError::Timeout) {
                    // A failure shows itself at the end of the backup.
                    let _ = control.lock().ask("ping", Map::new());
                }
            })
            .map_err(BackupError::io("start a thread for", Path::new("backup")))?;
        Ok(Self {
            end: Some(end),
            thread: Some(thread),
        })
    }
}

impl Drop for SignsOfLife {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
