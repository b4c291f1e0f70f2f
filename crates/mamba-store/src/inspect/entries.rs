//! The entries of one log file, for whoever works on the log itself.

use std::path::PathBuf;

use super::Folder;
use crate::{
    error::OpenError,
    format::{
        EnqueuedItem, FILE_ENTRY_LEN, FileStart, HEADER_LEN, Header, Kind, Seen, SequenceItem,
        StateItem, file_base, file_name, read_checkpoint, read_moved, record_len,
    },
    log::{SeenId, scan::Reader},
};

/// An entry, or a place where there should be one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Where it begins in the file.
    pub offset: u64,
    /// Where it begins in the log.
    pub position: u64,
    /// As in `docs/storage.md`; `hole` where no sound entry is.
    pub kind: &'static str,
    /// Octets, header included.
    pub octets: u64,
    /// The position known to be on the disk when it was made.
    pub synced: u64,
    /// What it says, one line per item.
    pub items: Vec<String>,
}

impl Folder {
    /// Shows the entries of a log file, named by its start (16 hexadecimal digits, `.log` may follow), until `visit` says false.
    ///
    /// # Errors
    /// When there is no such file, or it cannot be read.
    pub fn entries(
        &self,
        file: &str,
        visit: &mut dyn FnMut(&Entry) -> bool,
    ) -> Result<(), OpenError> {
        let digits = file.strip_suffix(".log").unwrap_or(file);
        let name = format!("{digits}.log");
        let path: PathBuf = self.log_dir().join(&name);
        let fault = |error| OpenError::io("read", &path, error);
        let base = file_base(&name).ok_or_else(|| fault(std::io::ErrorKind::NotFound.into()))?;
        let log_files = self.log_files()?;
        let mut bases: Vec<_> = log_files
            .iter()
            .filter_map(|file| file_base(file.name.rsplit('/').next()?))
            .collect();
        bases.sort_unstable();
        let next = bases.iter().copied().find(|other| *other > base);
        let mut reader = Reader::open(&self.log_dir(), &self.disk, base, next).map_err(fault)?;
        let log_id = self.log_id(&mut reader).map_err(fault)?;
        let mut at = 0;
        while at < reader.len {
            let entry = match reader.entry(log_id, at).map_err(fault)? {
                Some(header) => describe(&mut reader, at, &header).map_err(fault)?,
                None => {
                    let found = reader.next_entry(log_id, at + 1).map_err(fault)?;
                    let end = found.unwrap_or(reader.len);
                    Entry {
                        offset: at,
                        position: base + at,
                        kind: if found.is_some() { "hole" } else { "rest" },
                        octets: end - at,
                        ..Entry::default()
                    }
                }
            };
            at += entry.octets;
            if !visit(&entry) {
                break;
            }
        }
        Ok(())
    }

    /// What marks the file's entries, by its own first one.
    fn log_id(&self, reader: &mut Reader) -> std::io::Result<u32> {
        let head = reader.octets(0, usize::try_from(FILE_ENTRY_LEN).unwrap_or(0))?;
        Ok(Header::read(head).map_or_else(
            |_| {
                self.node_id_of_the_log()
                    .map_or(0, |node_id| crc32c::crc32c(&node_id))
            },
            |header| header.log_id,
        ))
    }
}

fn describe(reader: &mut Reader, at: u64, header: &Header) -> std::io::Result<Entry> {
    let payload = reader.payload(at, header)?;
    let mut items = Vec::new();
    let kind = match header.kind {
        Kind::File => {
            if let Some(start) = FileStart::read(payload) {
                items.push(format!(
                    "undurable from {}, checkpoint {}{}",
                    start.undurable_from,
                    start.checkpoint,
                    if start.recycled { ", recycled" } else { "" }
                ));
            }
            "FILE"
        }
        Kind::Messages => {
            let mut offset = 0;
            while let Some(len) = payload.get(offset..).and_then(record_len) {
                let sound = mamba_types::Message::check(&payload[offset..]);
                items.push(format!(
                    "record at {}, {len} octets{}",
                    header.position + (HEADER_LEN + offset) as u64,
                    sound
                        .err()
                        .map_or_else(String::new, |error| format!(": {error}"))
                ));
                offset += len;
            }
            if offset < payload.len() {
                items.push(format!(
                    "{} octets that are no record",
                    payload.len() - offset
                ));
            }
            "MESSAGES"
        }
        Kind::Enqueued => {
            items.extend(EnqueuedItem::read_all(payload).map(|item| run_text(&item)));
            "ENQUEUED"
        }
        Kind::Settled | Kind::Delivered | Kind::DeliveryCount => {
            let (kind, number) = match header.kind {
                Kind::Settled => ("SETTLED", "count"),
                Kind::Delivered => ("DELIVERED", "0"),
                _ => ("DELIVERY_COUNT", "times"),
            };
            items.extend(SequenceItem::read_all(payload).map(|item| {
                format!(
                    "queue {:#x} sequence {:#x} {number} {}",
                    item.queue.0, item.sequence.0, item.number
                )
            }));
            kind
        }
        Kind::State => {
            if let Some((queue, ranges)) = StateItem::read_all(payload) {
                items.push(format!("queue {:#x}", queue.0));
                items.extend(ranges.map(|range| {
                    format!(
                        "level {}: {:#x} up to {:#x}, came back {}{}",
                        range.level,
                        range.from.0,
                        range.to.0,
                        range.delivery_count,
                        if range.delivered {
                            ", may be delivered"
                        } else {
                            ""
                        }
                    )
                }));
            }
            "STATE"
        }
        Kind::Checkpoint => {
            items.extend(read_checkpoint(payload).map(|from| format!("from {from}")));
            "CHECKPOINT"
        }
        Kind::Moved => {
            items.extend(read_moved(payload).map(file_name));
            "MOVED"
        }
        Kind::CleanStop => "CLEAN_STOP",
        Kind::Seen => {
            if let Some(seen) = Seen::read(payload) {
                items.extend(seen.runs().map(|item| run_text(&item)));
                items.extend(seen.ids().map(|item| {
                    format!(
                        "owner {:#x} has seen {}{}",
                        item.owner.0,
                        id_text(&item.id),
                        item.at
                            .map_or_else(String::new, |at| format!(", with the record at {at}"))
                    )
                }));
            }
            "SEEN"
        }
        Kind::SeenState => {
            if let Some((owner, ids)) = SeenId::read_state(payload) {
                items.push(format!("owner {:#x}", owner.0));
                items.extend(ids.map(|id| id_text(&id)));
            }
            "SEEN_STATE"
        }
    };
    Ok(Entry {
        offset: at,
        position: header.position,
        kind,
        octets: HEADER_LEN as u64 + u64::from(header.payload_len),
        synced: header.synced,
        items,
    })
}

fn run_text(item: &EnqueuedItem) -> String {
    let mut text = format!(
        "queue {:#x} level {}: {} from {:#x}, records at {}, {} octets, bodies {}, came back {}",
        item.queue.0,
        item.level,
        item.count,
        item.first.0,
        item.at,
        item.octets,
        item.body_octets,
        item.delivery_count
    );
    if item.may_be_delivered {
        text.push_str(", may be delivered");
    }
    if item.volatile {
        text.push_str(", volatile");
    }
    if let Some(origin) = item.copied_from {
        text.push_str(&format!(", copied from {}", file_name(origin)));
    }
    text
}

fn id_text(id: &SeenId) -> String {
    let hash: String = id.hash.iter().map(|octet| format!("{octet:02x}")).collect();
    match id.expires_at_ms {
        Some(at) => format!("id {hash} until {at}"),
        None => format!("id {hash}"),
    }
}
