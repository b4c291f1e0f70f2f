//! The octets of the log: entry header and payloads. Drawn in `docs/storage.md`.

use crate::log::SeenId;
use mamba_types::{
    Message, QueueId, Sequence,
    message::{RECORD_HEADER_LEN, RecordError},
};

/// Octets of an entry before its payload.
pub(crate) const HEADER_LEN: usize = 56;
/// Version of the entry format.
pub(crate) const VERSION: u8 = 2;
/// What every entry begins with.
pub(crate) const MAGIC: [u8; 4] = *b"\xabMQ\x1e";
/// Octets of the entry every file begins with.
pub(crate) const FILE_ENTRY_LEN: u64 = (HEADER_LEN + FILE_PAYLOAD_LEN) as u64;
const FILE_PAYLOAD_LEN: usize = 40;

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    File = 0,
    Messages = 1,
    Enqueued = 2,
    Settled = 3,
    Delivered = 4,
    DeliveryCount = 5,
    State = 6,
    Checkpoint = 7,
    Moved = 8,
    CleanStop = 9,
    Seen = 10,
    SeenState = 11,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::File,
        Self::Messages,
        Self::Enqueued,
        Self::Settled,
        Self::Delivered,
        Self::DeliveryCount,
        Self::State,
        Self::Checkpoint,
        Self::Moved,
        Self::CleanStop,
        Self::Seen,
        Self::SeenState,
    ];

    fn from_octet(octet: u8) -> Option<Self> {
        Self::ALL.get(usize::from(octet)).copied()
    }
}

/// An entry's header, as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) payload_len: u32,
    pub(crate) log_id: u32,
    pub(crate) payload_crc: u32,
    pub(crate) position: u64,
    pub(crate) synced: u64,
}

/// Why octets are not an entry header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    /// Cut, stale or damaged.
    Damaged,
    /// Sound, but of another version.
    Version(u8),
}

impl Header {
    /// Appends the header of an entry with an empty payload; [`set_payload_len`] and [`seal`] finish it.
    pub(crate) fn write(to: &mut Vec<u8>, kind: Kind, log_id: u32, position: u64, synced: u64) {
        let mut header = [0; HEADER_LEN];
        header[..4].copy_from_slice(&MAGIC);
        header[8] = VERSION;
        header[9] = kind as u8;
        header[16..20].copy_from_slice(&log_id.to_le_bytes());
        header[24..32].copy_from_slice(&position.to_le_bytes());
        header[32..40].copy_from_slice(&synced.to_le_bytes());
        to.extend_from_slice(&header);
    }

    pub(crate) fn read(octets: &[u8]) -> Result<Self, BadHeader> {
        let Some(header) = octets.first_chunk::<HEADER_LEN>() else {
            return Err(BadHeader::Damaged);
        };
        if header[..4] != MAGIC || u32_at(header, 4) != crc32c::crc32c(&header[8..]) {
            return Err(BadHeader::Damaged);
        }
        if header[8] != VERSION {
            return Err(BadHeader::Version(header[8]));
        }
        Ok(Self {
            kind: Kind::from_octet(header[9]).ok_or(BadHeader::Damaged)?,
            payload_len: u32_at(header, 12),
            log_id: u32_at(header, 16),
            payload_crc: u32_at(header, 20),
            position: u64_at(header, 24),
            synced: u64_at(header, 32),
        })
    }
}

pub(crate) fn set_payload_len(header: &mut [u8], len: u32) {
    header[12..16].copy_from_slice(&len.to_le_bytes());
}

/// Writes both checksums of the header at the start of `header`.
pub(crate) fn seal(header: &mut [u8], payload_crc: u32) {
    header[20..24].copy_from_slice(&payload_crc.to_le_bytes());
    let crc = crc32c::crc32c(&header[8..HEADER_LEN]);
    header[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// The digest of a chunk: CRC32C over its records' own checksum fields, in order. It ties the chunk to its
/// entry without a second pass over the bodies: a recycled file may hold sound records of the past in
/// exactly these places. `None` if the records' lengths do not add up to the chunk.
pub(crate) fn chunk_digest(chunk: &[u8]) -> Option<u32> {
    let mut digest = 0;
    let mut rest = chunk;
    while !rest.is_empty() {
        let length = record_len(rest)?;
        digest = crc32c::crc32c_append(digest, &rest[4..8]);
        rest = &rest[length..];
    }
    Some(digest)
}

/// Like [`Message::check`].
pub(crate) fn check_record(octets: &[u8]) -> Result<usize, RecordError> {
    #[cfg(feature = "mutants")]
    if crate::mutants::on(crate::mutants::Mutant::ChecksumIgnored)
        && let Some(len) = record_len(octets)
    {
        return Ok(len);
    }
    Message::check(octets)
}

/// The length of the record at the start of `octets`, if it can be one that ends inside them.
pub(crate) fn record_len(octets: &[u8]) -> Option<usize> {
    if octets.len() < RECORD_HEADER_LEN {
        return None;
    }
    let length = u32_at(octets, 0) as usize;
    (RECORD_HEADER_LEN..=octets.len())
        .contains(&length)
        .then_some(length)
}

/// First entry of every file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileStart {
    pub(crate) node_id: [u8; 16],
    /// From here to this file's start nothing was known to be durable when the file was begun: holes there
    /// are unfinished writes, not damage. Equal to the file's start except after a recovery.
    pub(crate) undurable_from: u64,
    /// The file held other entries before, which may still stand after the last one of ours.
    pub(crate) recycled: bool,
    /// Where the newest complete checkpoint began when the file was begun; 0: there was none.
    pub(crate) checkpoint: u64,
}

impl FileStart {
    /// The whole sealed entry.
    pub(crate) fn entry(&self, log_id: u32, position: u64, synced: u64) -> Vec<u8> {
        let mut entry = Vec::with_capacity(HEADER_LEN + FILE_PAYLOAD_LEN);
        Header::write(&mut entry, Kind::File, log_id, position, synced);
        entry.extend_from_slice(&self.node_id);
        entry.extend_from_slice(&self.undurable_from.to_le_bytes());
        entry.extend_from_slice(&u64::from(self.recycled).to_le_bytes());
        entry.extend_from_slice(&self.checkpoint.to_le_bytes());
        let len = u32::try_from(FILE_PAYLOAD_LEN).unwrap_or(0);
        set_payload_len(&mut entry, len);
        let crc = crc32c::crc32c(&entry[HEADER_LEN..]);
        seal(&mut entry, crc);
        entry
    }

    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let payload = payload.first_chunk::<FILE_PAYLOAD_LEN>()?;
        let mut node_id = [0; 16];
        node_id.copy_from_slice(&payload[..16]);
        Some(Self {
            node_id,
            undurable_from: u64_at(payload, 16),
            recycled: u64_at(payload, 24) & 1 != 0,
            checkpoint: u64_at(payload, 32),
        })
    }
}

/// One run of an ENQUEUED entry: messages of one level of a queue with consecutive sequences, whose records lie
/// back to back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EnqueuedItem {
    pub(crate) queue: QueueId,
    pub(crate) first: Sequence,
    pub(crate) at: u64,
    pub(crate) count: u32,
    /// Octets of the records.
    pub(crate) octets: u32,
    /// Octets of the bodies in them.
    pub(crate) body_octets: u32,
    pub(crate) delivery_count: u32,
    pub(crate) level: u8,
    pub(crate) may_be_delivered: bool,
    /// Of no account after a restart.
    pub(crate) volatile: bool,
    /// The start of the file that the records were copied from to empty it; `None` when they are new.
    pub(crate) copied_from: Option<u64>,
}

impl EnqueuedItem {
    pub(crate) const LEN: usize = 56;
    const DELIVERED: u8 = 1;
    const VOLATILE: u8 = 2;
    const COPY: u8 = 4;

    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        let mut item = [0; Self::LEN];
        item[..8].copy_from_slice(&self.queue.0.to_le_bytes());
        item[8..16].copy_from_slice(&self.first.0.to_le_bytes());
        item[16..24].copy_from_slice(&self.at.to_le_bytes());
        item[24..28].copy_from_slice(&self.count.to_le_bytes());
        item[28..32].copy_from_slice(&self.octets.to_le_bytes());
        item[32..36].copy_from_slice(&self.body_octets.to_le_bytes());
        item[36..40].copy_from_slice(&self.delivery_count.to_le_bytes());
        item[40] = self.level;
        item[41] = u8::from(self.may_be_delivered) * Self::DELIVERED
            + u8::from(self.volatile) * Self::VOLATILE
            + u8::from(self.copied_from.is_some()) * Self::COPY;
        item[48..].copy_from_slice(&self.copied_from.unwrap_or(0).to_le_bytes());
        to.extend_from_slice(&item);
    }

    pub(crate) fn read_all(payload: &[u8]) -> impl Iterator<Item = Self> {
        payload
            .as_chunks::<{ Self::LEN }>()
            .0
            .iter()
            .map(|item| Self {
                queue: QueueId(u64_at(item, 0)),
                first: Sequence(u64_at(item, 8)),
                at: u64_at(item, 16),
                count: u32_at(item, 24),
                octets: u32_at(item, 28),
                body_octets: u32_at(item, 32),
                delivery_count: u32_at(item, 36),
                level: item[40],
                may_be_delivered: item[41] & Self::DELIVERED != 0,
                volatile: item[41] & Self::VOLATILE != 0,
                copied_from: (item[41] & Self::COPY != 0).then(|| u64_at(item, 48)),
            })
    }
}

/// One range of a STATE entry; the payload is the queue (8 octets) and its ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateItem {
    pub(crate) from: Sequence,
    /// The first sequence that is not in the range any more.
    pub(crate) to: Sequence,
    pub(crate) delivery_count: u32,
    pub(crate) level: u8,
    pub(crate) delivered: bool,
}

impl StateItem {
    pub(crate) const LEN: usize = 24;

    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        let mut item = [0; Self::LEN];
        item[..8].copy_from_slice(&self.from.0.to_le_bytes());
        item[8..16].copy_from_slice(&self.to.0.to_le_bytes());
        item[16..20].copy_from_slice(&self.delivery_count.to_le_bytes());
        item[20] = self.level;
        item[21] = u8::from(self.delivered);
        to.extend_from_slice(&item);
    }

    /// The queue and its ranges.
    pub(crate) fn read_all(payload: &[u8]) -> Option<(QueueId, impl Iterator<Item = Self>)> {
        let (queue, items) = payload.split_first_chunk::<8>()?;
        let items = items
            .as_chunks::<{ Self::LEN }>()
            .0
            .iter()
            .map(|item| Self {
                from: Sequence(u64_at(item, 0)),
                to: Sequence(u64_at(item, 8)),
                delivery_count: u32_at(item, 16),
                level: item[20],
                delivered: item[21] & 1 != 0,
            });
        Some((QueueId(u64::from_le_bytes(*queue)), items))
    }
}

/// One id of a SEEN entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeenItem {
    /// The queue or exchange that remembers it.
    pub(crate) owner: QueueId,
    pub(crate) id: SeenId,
    /// The record whose message it came with, enqueued by the same entry. `None`: by entries before it.
    pub(crate) at: Option<u64>,
}

impl SeenItem {
    pub(crate) const LEN: usize = 40;

    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.owner.0.to_le_bytes());
        to.extend_from_slice(&self.at.unwrap_or(0).to_le_bytes());
        self.id.write(to);
    }
}

/// Octets of a SEEN entry before its runs: how many there are, and how many ids follow.
const SEEN_HEAD_LEN: usize = 8;

/// The payload of a SEEN entry: ENQUEUED runs, and the ids that came with their messages. Being one entry, it is there as a
/// whole or not at all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    runs: &'a [u8],
    ids: &'a [u8],
}

impl<'a> Seen<'a> {
    pub(crate) fn write(runs: &[EnqueuedItem], ids: &[SeenItem]) -> Vec<u8> {
        let len = SEEN_HEAD_LEN + runs.len() * EnqueuedItem::LEN + ids.len() * SeenItem::LEN;
        let mut payload = Vec::with_capacity(len);
        for count in [runs.len(), ids.len()] {
            let count = u32::try_from(count).expect("a payload is smaller than 4 GiB");
            payload.extend_from_slice(&count.to_le_bytes());
        }
        runs.iter().for_each(|run| run.write(&mut payload));
        ids.iter().for_each(|id| id.write(&mut payload));
        payload
    }

    pub(crate) fn read(payload: &'a [u8]) -> Option<Self> {
        let (head, rest) = payload.split_first_chunk::<SEEN_HEAD_LEN>()?;
        let runs = (u32_at(head, 0) as usize).checked_mul(EnqueuedItem::LEN)?;
        let ids = (u32_at(head, 4) as usize).checked_mul(SeenItem::LEN)?;
        let (runs, ids_at) = rest.split_at_checked(runs)?;
        Some(Self {
            runs,
            ids: ids_at.get(..ids)?,
        })
    }

    pub(crate) fn runs(self) -> impl Iterator<Item = EnqueuedItem> + 'a {
        EnqueuedItem::read_all(self.runs)
    }

    pub(crate) fn ids(self) -> impl Iterator<Item = SeenItem> + 'a {
        let items = self.ids.as_chunks::<{ SeenItem::LEN }>().0.iter();
        items.map(|item| SeenItem {
            owner: QueueId(u64_at(item, 0)),
            id: SeenId::read(&item[16..]),
            at: Some(u64_at(item, 8)).filter(|at| *at > 0),
        })
    }
}

impl SeenId {
    pub(crate) const LEN: usize = 24;

    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.expires_at_ms.unwrap_or(0).to_le_bytes());
        to.extend_from_slice(&self.hash);
    }

    fn read(octets: &[u8]) -> Self {
        let mut hash = [0; 16];
        hash.copy_from_slice(&octets[8..Self::LEN]);
        Self {
            hash,
            expires_at_ms: Some(u64_at(octets, 0)).filter(|at| *at > 0),
        }
    }

    /// The payload of a SEEN_STATE entry: who remembers, and what.
    pub(crate) fn read_state(payload: &[u8]) -> Option<(QueueId, impl Iterator<Item = Self>)> {
        let (owner, ids) = payload.split_first_chunk::<8>()?;
        let ids = ids.as_chunks::<{ Self::LEN }>().0.iter();
        let ids = ids.map(|id| Self::read(id));
        Some((QueueId(u64::from_le_bytes(*owner)), ids))
    }
}

/// Calls `take` for each run of messages that an entry enqueues.
pub(crate) fn enqueued_runs(kind: Kind, payload: &[u8], take: impl FnMut(EnqueuedItem)) {
    match kind {
        Kind::Enqueued => EnqueuedItem::read_all(payload).for_each(take),
        Kind::Seen => Seen::read(payload)
            .into_iter()
            .flat_map(Seen::runs)
            .for_each(take),
        _ => {}
    }
}

/// The payload of a CHECKPOINT entry: where the checkpoint began.
pub(crate) fn read_checkpoint(payload: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*payload.first_chunk()?))
}

/// The payload of a MOVED entry: the start of the file that no longer counts.
pub(crate) fn read_moved(payload: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*payload.first_chunk()?))
}

/// What SETTLED, DELIVERED and DELIVERY_COUNT are made of: a queue, a sequence and a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SequenceItem {
    pub(crate) queue: QueueId,
    pub(crate) sequence: Sequence,
    /// SETTLED: sequences in the run. DELIVERY_COUNT: the count. DELIVERED: 0.
    pub(crate) number: u32,
}

impl SequenceItem {
    pub(crate) const LEN: usize = 20;

    pub(crate) fn write(&self, to: &mut Vec<u8>) {
        let mut item = [0; Self::LEN];
        item[..8].copy_from_slice(&self.queue.0.to_le_bytes());
        item[8..16].copy_from_slice(&self.sequence.0.to_le_bytes());
        item[16..20].copy_from_slice(&self.number.to_le_bytes());
        to.extend_from_slice(&item);
    }

    pub(crate) fn read_all(payload: &[u8]) -> impl Iterator<Item = Self> {
        payload
            .as_chunks::<{ Self::LEN }>()
            .0
            .iter()
            .map(|item| Self {
                queue: QueueId(u64_at(item, 0)),
                sequence: Sequence(u64_at(item, 8)),
                number: u32_at(item, 16),
            })
    }
}

/// A log file's name: its first octet's position, so that the names sort like the positions.
pub(crate) fn file_name(base: u64) -> String {
    format!("{base:016x}.log")
}

/// The name of a log file's index.
pub(crate) fn index_name(base: u64) -> String {
    format!("{base:016x}.idx")
}

/// The position in an index's name.
pub(crate) fn index_base(name: &str) -> Option<u64> {
    position_in(name, ".idx")
}

/// The position in a log file's name.
pub(crate) fn file_base(name: &str) -> Option<u64> {
    position_in(name, ".log")
}

fn position_in(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    (digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| u64::from_str_radix(digits, 16).ok())?
}

pub(crate) fn u32_at(octets: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&octets[at..at + 4]);
    u32::from_le_bytes(four)
}

pub(crate) fn u64_at(octets: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&octets[at..at + 8]);
    u64::from_le_bytes(eight)
}
