//! Where entries gather while the writer is busy. One mutex; nothing under it does I/O or checksums.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use bytes::Bytes;
use mamba_types::{LogPosition, QueueId, Sequence};

use super::{
    Settled,
    files::{FileInfo, Files, Hold},
};
use crate::format::{
    EnqueuedItem, FILE_ENTRY_LEN, HEADER_LEN, Header, Kind, Seen, SeenItem, SequenceItem,
    set_payload_len,
};

/// Chunks up to this size are copied beside the headers: cheaper than a vector of their own.
const INLINE_MAX: usize = 1024;
/// Runs in memory above which a closed file is sealed at once: each takes some 40 octets.
const OPEN_RUNS_MAX: usize = 128 << 10;
/// Octets of payload up to which neighbouring items of one kind share an entry.
const SHARED_PAYLOAD_MAX: usize = 64 << 10;

/// Whether somebody may be waiting for what is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Write at once.
    Now,
    /// Ride along, or go within some milliseconds.
    Soon,
    /// The same within some more: until then an older entry says nearly the same.
    Lazy,
    /// Worth nothing until something else follows.
    Later,
}

/// What the writer is doing, for those who append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sleep {
    #[default]
    Awake,
    /// Until the time it set for itself; only urgent entries wake it.
    UntilTime,
    /// The same, and entries that have to go soon wake it as well.
    UntilLater,
    /// Until anything is appended.
    UntilWoken,
}

/// A piece of what the writer writes next.
#[derive(Debug)]
pub(crate) enum Piece {
    /// A range of [`Group::inline`].
    Inline(Range<usize>),
    /// A chunk's records or another large payload.
    Chunk(Bytes),
    /// Go on in a new file that begins at this position.
    NextFile(u64),
}

/// Entries for one write.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// Headers and small payloads.
    pub(crate) inline: Vec<u8>,
    pub(crate) pieces: Vec<Piece>,
    /// Where in `inline` each header begins, and which chunk holds its payload if not `inline` does.
    pub(crate) entries: Vec<(usize, Option<Bytes>)>,
    /// Position after the group.
    pub(crate) end: u64,
    /// Messages enqueued by it.
    pub(crate) messages: u64,
}

impl Group {
    pub(crate) fn clear(&mut self) {
        // One giant batch must not hold its room for ever.
        if self.inline.capacity() > 4 << 20 {
            self.inline = Vec::new();
        }
        self.inline.clear();
        self.pieces.clear();
        self.entries.clear();
        self.messages = 0;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Everything behind the staging mutex.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    pub(crate) group: Group,
    /// Position of the next entry.
    pub(crate) next: u64,
    /// The last entry, while more items of its kind may join it.
    pub(crate) open: Option<Kind>,
    pub(crate) files: Files,
    /// The newest DELIVERED of each queue and where it stands, to write it again before its file goes.
    pub(crate) watermarks: BTreeMap<QueueId, (Sequence, u64)>,
    pub(crate) urgent: bool,
    /// Something in the group has to go soon.
    pub(crate) soon: bool,
    /// Where the group begins.
    pub(crate) from: u64,
    /// Somebody needs everything before this position synced, whatever the mode.
    pub(crate) sync_to: u64,
    pub(crate) sleep: Sleep,
    pub(crate) stop: bool,
    /// The entry of a clean stop is the last one: nothing of our own may follow it.
    pub(crate) clean_stopped: bool,
    /// Where the newest complete checkpoint began; 0: there was none.
    pub(crate) checkpoint: u64,
    /// Where the newest checkpoint ended: what it wrote itself is no reason for another one.
    pub(crate) checkpoint_end: u64,
    /// A checkpoint that is written and counts once the second position is synced.
    pub(crate) pending_checkpoint: Option<(u64, u64)>,
    /// Who wants all files kept.
    pub(crate) holds: usize,
    /// A file is being emptied: nothing is sealed meanwhile.
    pub(crate) relocating: bool,
    /// Nothing is sealed before a file younger than this one has begun: the last try failed.
    pub(crate) seal_after: u64,
    /// The log failed or is closed: nothing is kept any more.
    pub(crate) discard: bool,
    pub(crate) log_id: u32,
    pub(crate) file_size: u64,
}

impl Staging {
    /// Makes room for an entry's octets and opens the next file if they do not fit.
    fn place(&mut self, octets: u64) {
        let newest = self.files.newest();
        let fits = self.next - newest.base + octets <= self.file_size;
        if !fits && newest.end > newest.base + FILE_ENTRY_LEN {
            let base = newest.end;
            self.files.push(FileInfo::new(base));
            if !self.discard {
                self.group.pieces.push(Piece::NextFile(base));
            }
            self.open = None;
            self.advance(FILE_ENTRY_LEN);
        }
    }

    fn advance(&mut self, octets: u64) {
        self.next += octets;
        self.files.newest().end = self.next;
        self.group.end = self.next;
    }

    fn inline_written(&mut self, start: usize) {
        let end = self.group.inline.len();
        match self.group.pieces.last_mut() {
            Some(Piece::Inline(range)) if range.end == start => range.end = end,
            _ => self.group.pieces.push(Piece::Inline(start..end)),
        }
    }

    /// Appends items of one kind and fixed size, sharing the last entry where possible.
    pub(crate) fn push_item(
        &mut self,
        kind: Kind,
        item_len: usize,
        synced: u64,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let joins = self.open == Some(kind) && {
            let newest = self.files.newest();
            let header = self.group.entries.last().map_or(0, |(at, _)| *at);
            self.group.inline.len() - header + item_len <= SHARED_PAYLOAD_MAX
                && self.next - newest.base + item_len as u64 <= self.file_size
        };
        if !joins {
            self.place((HEADER_LEN + item_len) as u64);
        }
        if self.discard {
            self.advance((HEADER_LEN + item_len) as u64);
            return;
        }
        let start = self.group.inline.len();
        if !joins {
            self.group.entries.push((start, None));
            let (log_id, next) = (self.log_id, self.next);
            Header::write(&mut self.group.inline, kind, log_id, next, synced);
            self.open = Some(kind);
        }
        write(&mut self.group.inline);
        let header = self.group.entries.last().map_or(0, |(at, _)| *at);
        let payload = self.group.inline.len() - header - HEADER_LEN;
        let payload = u32::try_from(payload).expect("a shared payload is at most 64 KiB");
        set_payload_len(&mut self.group.inline[header..], payload);
        let octets = (self.group.inline.len() - start) as u64;
        self.inline_written(start);
        self.advance(octets);
    }

    /// Appends a run of enqueued messages, and counts it.
    pub(crate) fn push_enqueued(&mut self, item: &EnqueuedItem, synced: u64) {
        self.push_item(Kind::Enqueued, EnqueuedItem::LEN, synced, |to| {
            item.write(to);
        });
        self.files.enqueued(item);
        self.group.messages += u64::from(item.count);
    }

    /// Appends runs of enqueued messages together with the ids they came with, and counts them.
    pub(crate) fn push_seen(&mut self, runs: &[EnqueuedItem], ids: &[SeenItem], synced: u64) {
        self.push_payload(Kind::Seen, Bytes::from(Seen::write(runs, ids)), synced);
        for run in runs {
            self.files.enqueued(run);
            self.group.messages += u64::from(run.count);
        }
        self.files.newest().tells_ids = true;
    }

    /// Appends a watermark, and remembers where it stands.
    pub(crate) fn push_delivered(&mut self, queue: QueueId, up_to: Sequence, synced: u64) {
        let item = SequenceItem {
            queue,
            sequence: up_to,
            number: 0,
        };
        self.push_item(Kind::Delivered, SequenceItem::LEN, synced, |to| {
            item.write(to);
        });
        let known = self.watermarks.entry(queue).or_default();
        *known = (known.0.max(up_to), self.next - 1);
    }

    /// A file whose index is to be written beside it.
    pub(crate) fn to_seal(&self, written: u64) -> Option<&FileInfo> {
        if self.relocating || self.clean_stopped {
            return None;
        }
        if self.seal_after > 0 && self.files.iter().next_back()?.base <= self.seal_after {
            return None;
        }
        self.files.to_seal(written, OPEN_RUNS_MAX)
    }

    /// Counts messages that left their queue. A file that dies of it stays until `gate` is synced; 0: nothing has to be.
    pub(crate) fn died(&mut self, settled: &[Settled], gate: u64) {
        let in_log = settled
            .iter()
            .filter(|settled| settled.at != LogPosition::NONE);
        let pairs = in_log.map(|settled| (settled.at.0, settled.octets));
        self.files.dead(pairs, gate);
    }

    /// Appends an entry with its own payload; returns the payload's position and the file's hold.
    pub(crate) fn push_payload(
        &mut self,
        kind: Kind,
        payload: Bytes,
        synced: u64,
    ) -> (u64, Arc<Hold>) {
        let len = u32::try_from(payload.len()).expect("a payload is smaller than 4 GiB");
        let octets = HEADER_LEN as u64 + u64::from(len);
        self.place(octets);
        self.open = None;
        let at = self.next + HEADER_LEN as u64;
        let hold = Arc::clone(&self.files.newest().hold);
        if self.discard {
            self.advance(octets);
            return (at, hold);
        }
        let start = self.group.inline.len();
        let (log_id, next) = (self.log_id, self.next);
        Header::write(&mut self.group.inline, kind, log_id, next, synced);
        set_payload_len(&mut self.group.inline[start..], len);
        if payload.len() <= INLINE_MAX {
            self.group.inline.extend_from_slice(&payload);
            self.inline_written(start);
            self.group.entries.push((start, None));
        } else {
            self.inline_written(start);
            self.group.entries.push((start, Some(payload.clone())));
            self.group.pieces.push(Piece::Chunk(payload));
        }
        self.advance(octets);
        (at, hold)
    }

    /// Notes that something was appended; says whether the writer has to be woken.
    pub(crate) fn note(&mut self, urgency: Urgency) -> bool {
        self.want(urgency);
        let wake = match self.sleep {
            Sleep::Awake => false,
            Sleep::UntilTime => urgency == Urgency::Now,
            Sleep::UntilLater => matches!(urgency, Urgency::Now | Urgency::Soon),
            Sleep::UntilWoken => urgency != Urgency::Later,
        };
        if wake {
            self.sleep = Sleep::Awake;
        }
        wake
    }

    /// Notes when the group has to go, and wakes nobody.
    pub(crate) fn want(&mut self, urgency: Urgency) {
        self.urgent |= urgency == Urgency::Now;
        self.soon |= urgency == Urgency::Soon;
    }

    /// Hands the gathered group over in exchange for an empty one.
    pub(crate) fn take(&mut self, empty: &mut Group) {
        std::mem::swap(&mut self.group, empty);
        self.group.end = self.next;
        self.open = None;
        self.urgent = false;
        self.soon = false;
        self.from = self.next;
    }
}
