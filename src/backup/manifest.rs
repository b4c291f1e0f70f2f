//! What a backup says about itself: `backup.json`.

use std::{
    fmt,
    path::{Component, Path},
};

use mamba_server::control::BackupPlan;
use serde::{Deserialize, Serialize};

use super::BackupError;

/// Version of a backup's layout.
const VERSION: u32 = 1;
/// The manifest's name; it is written last, so that what lacks it is no backup.
pub(super) const MANIFEST_NAME: &str = "backup.json";
/// Longest manifest, in octets.
pub(super) const MANIFEST_BYTES_MAX: u64 = 256 << 20;
/// The file that says which stored format a data folder has.
pub(super) const FORMAT_NAME: &str = "format";

/// What is in a backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Version of the backup's layout.
    pub(super) backup_version: u32,
    /// When it was begun, as people read it.
    pub(super) created: String,
    /// The same, in milliseconds since 1970.
    pub(super) created_ms: u64,
    /// Version of the broker.
    pub(super) server_version: String,
    /// The node's name; empty if it was stopped.
    pub(super) node: String,
    /// The identity of the data folder.
    pub(super) node_id: String,
    /// What the data folder's file `format` says.
    pub(super) format: String,
    pub(super) queues: u64,
    pub(super) exchanges: u64,
    pub(super) bindings: u64,
    pub(super) files: Vec<Listed>,
}

/// One file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Listed {
    /// Name in the data folder, with `/` between folder and file.
    pub(super) name: String,
    pub(super) octets: u64,
    /// CRC32C of its octets, eight hexadecimal digits.
    pub(super) crc32c: String,
}

impl Listed {
    pub(super) fn new(name: &str, octets: u64, crc: u32) -> Self {
        Self {
            name: name.to_owned(),
            octets,
            crc32c: format!("{crc:08x}"),
        }
    }
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} octets with checksum {}", self.octets, self.crc32c)
    }
}

impl Manifest {
    pub(super) fn new(plan: &BackupPlan, created_ms: u64) -> Self {
        Self {
            backup_version: VERSION,
            created: utc(created_ms),
            created_ms,
            server_version: plan.server_version.clone(),
            node: plan.node.clone(),
            node_id: plan.node_id.clone(),
            format: plan.format.clone(),
            queues: plan.queues,
            exchanges: plan.exchanges,
            bindings: plan.bindings,
            files: Vec::new(),
        }
    }

    /// Octets of all files.
    pub(super) fn octets(&self) -> u64 {
        self.files.iter().map(|file| file.octets).sum()
    }

    pub(super) fn to_json(&self) -> Result<Vec<u8>, BackupError> {
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| BackupError::Manifest(error.to_string()))?;
        text.push(b'\n');
        Ok(text)
    }

    /// Reads a manifest and refuses one that this broker cannot restore.
    pub(super) fn read(text: &[u8]) -> Result<Self, BackupError> {
        #[derive(Deserialize)]
        struct Version {
            backup_version: u32,
        }
        let bad = |error: serde_json::Error| BackupError::Manifest(error.to_string());
        let Version { backup_version } = serde_json::from_slice(text).map_err(bad)?;
        if backup_version != VERSION {
            return Err(BackupError::Version {
                what: "layout",
                found: backup_version.to_string(),
                known: VERSION.to_string(),
            });
        }
        let manifest: Self = serde_json::from_slice(text).map_err(bad)?;
        let known = mamba_store::format_line();
        if manifest.format != known {
            return Err(BackupError::Version {
                what: "stored format",
                found: format!(
                    "{:?} (written by version {})",
                    manifest.format.trim(),
                    manifest.server_version
                ),
                known: format!("{:?}", known.trim()),
            });
        }
        if let Some(file) = manifest.files.iter().find(|file| !belongs(&file.name)) {
            return Err(BackupError::Manifest(format!(
                "it names the file {:?}, which no data folder has",
                file.name
            )));
        }
        if !manifest.files.iter().any(|file| file.name == FORMAT_NAME) {
            return Err(BackupError::Manifest(format!(
                "it does not name the file {FORMAT_NAME:?}"
            )));
        }
        Ok(manifest)
    }
}

/// Whether a name stays inside the folder it is put into.
pub(super) fn belongs(name: &str) -> bool {
    !name.is_empty()
        && name != MANIFEST_NAME
        && name != mamba_store::RESTORE_MARKER
        && Path::new(name)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
}

/// A moment in universal time, to the second.
fn utc(unix_ms: u64) -> String {
    let secs = unix_ms / 1000;
    let (mut days, second) = (secs / 86_400, secs % 86_400);
    let mut year = 1970;
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!(
        "{year:04}-{month:02}-{:02}T{:02}:{:02}:{:02}Z",
        days + 1,
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

const fn leap(year: u64) -> bool {
    (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_399_999), "2000-02-28T23:59:59Z");
        assert_eq!(utc(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_798_761_599_000), "2026-12-31T23:59:59Z");
    }

    #[test]
    fn names_stay_inside() {
        for (name, inside) in [
            ("format", true),
            ("log/0000000000000000.log", true),
            ("", false),
            ("../x", false),
            ("log/../../x", false),
            ("/etc/x", false),
            (MANIFEST_NAME, false),
        ] {
            assert_eq!(belongs(name), inside, "{name}");
        }
    }
}
