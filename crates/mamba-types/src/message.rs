//! The message record: one contiguous run of octets that the queue holds, the log writes and the
//! connection copies into frames.
//!
//! ```text
//! offset size  (little-endian)
//!      0    4  length of the whole record, this header included
//!      4    4  CRC32C of everything after this field; 0 in a transient record, which never reaches a disk
//!      8    1  version, 1
//!      9    1  flags: bit 0 persistent (delivery-mode 2), bit 1 priority present, bit 2 dead-lettered here,
//!              bit 3 expiration present, bit 4 not before, bits 5 to 7 why it died: 0 it did not, 1 rejected,
//!              2 delivery limit, 3 expired, 4 length limit
//!     10    1  priority property, 0 when absent
//!     11    5  expiration property, milliseconds, 0 when absent
//!     16    4  content header length h
//!     20    4  body length b
//!     24    6  time of acceptance, milliseconds since 1970; with "not before" the time the message waits for
//!     30    2  address length a
//!     32    a  address: exchange and routing key, each a short string, as in `basic.deliver`
//!   32+a    h  content header payload as received: class, weight, body size, flags, properties
//! 32+a+h    b  body
//! ```
//!
//! Many records stand back to back in one shared buffer (a *chunk*); a [`Message`] is a counted slice of it.

use bytes::{Bytes, BytesMut};

/// Octets before the address.
pub const RECORD_HEADER_LEN: usize = 32;
const VERSION: u8 = 1;
const FLAG_PERSISTENT: u8 = 1;
const FLAG_PRIORITY: u8 = 2;
const FLAG_DEAD_LETTERED: u8 = 4;
const FLAG_EXPIRATION: u8 = 8;
const FLAG_NOT_BEFORE: u8 = 16;
/// Where the reason of a death begins among the flags.
const DEATH_SHIFT: u32 = 5;
/// Largest expiration a record can say, in milliseconds: 34 years.
const EXPIRATION_MAX_MS: u64 = (1 << 40) - 1;
/// Latest time a record can say, in milliseconds since 1970: the year 10889.
pub const TIME_MAX_MS: u64 = (1 << 48) - 1;

/// Why a message left for the dead-letter exchange (`spec: semantics §9`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeathReason {
    /// Rejected, not to come back.
    Rejected,
    /// Came back too often.
    DeliveryLimit,
    /// Its time was over.
    Expired,
    /// The queue was too long.
    MaxLength,
}

impl DeathReason {
    /// The word in `x-death`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::DeliveryLimit => "delivery_limit",
            Self::Expired => "expired",
            Self::MaxLength => "maxlen",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Rejected => 1,
            Self::DeliveryLimit => 2,
            Self::Expired => 3,
            Self::MaxLength => 4,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Rejected),
            2 => Some(Self::DeliveryLimit),
            3 => Some(Self::Expired),
            4 => Some(Self::MaxLength),
            _ => None,
        }
    }
}

/// What the broker knows of a message besides its octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordMeta {
    /// delivery-mode was 2.
    pub persistent: bool,
    /// The priority property.
    pub priority: Option<u8>,
    /// The broker itself has dead-lettered the message before, so that its death headers can be believed.
    pub dead_lettered: bool,
    /// The expiration property, in milliseconds; at most 34 years.
    pub expiration_ms: Option<u64>,
    /// When the broker took the message, in milliseconds since 1970, [`TIME_MAX_MS`] at most. Of a message that is
    /// [`Self::not_before`] a time, that time.
    pub accepted_at_ms: u64,
    /// The message waits: it is ready from `accepted_at_ms` on.
    pub not_before: bool,
    /// The message is dead, and waits for a queue that takes it as a dead letter.
    pub died: Option<DeathReason>,
}

/// One message: exchange, routing key, content header and body, in one counted slice.
#[derive(Clone, Debug)]
pub struct Message {
    record: Bytes,
}

/// Why octets are not a message record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer octets than the record says it has.
    #[error("the record needs {needed} octets and {present} are there")]
    Short {
        /// Octets the record claims, or the least a record has.
        needed: usize,
        /// Octets present.
        present: usize,
    },
    /// The lengths inside the record contradict each other.
    #[error("the record's lengths contradict each other")]
    Lengths,
    /// A version this code does not know.
    #[error("record version {0} is not known")]
    Version(u8),
    /// The checksum does not match.
    #[error("checksum mismatch: stored {stored:#010x}, computed {computed:#010x}")]
    Checksum {
        /// CRC32C found in the record.
        stored: u32,
        /// CRC32C of the octets.
        computed: u32,
    },
}

/// Appends the part of a record before the body and returns where the record begins in `buffer`.
///
/// Append exactly `body_len` octets of body, then call [`finish`]. `header` is the content header's payload.
///
/// # Panics
/// If `exchange` or `routing_key` is longer than a short string's 255 octets.
pub fn begin(
    buffer: &mut Vec<u8>,
    meta: RecordMeta,
    exchange: &[u8],
    routing_key: &[u8],
    header: &[u8],
    body_len: u32,
) -> usize {
    let address = 2 + exchange.len() + routing_key.len();
    buffer.reserve(RECORD_HEADER_LEN + address + header.len() + body_len as usize);
    begin_growing(buffer, meta, exchange, routing_key, header, body_len)
}

/// Like [`begin`], without room for the body: for a body that is still arriving from a peer that may have lied
/// about its length.
///
/// # Panics
/// As [`begin`].
pub fn begin_growing(
    buffer: &mut Vec<u8>,
    meta: RecordMeta,
    exchange: &[u8],
    routing_key: &[u8],
    header: &[u8],
    body_len: u32,
) -> usize {
    let start = buffer.len();
    let exchange_len = u8::try_from(exchange.len()).expect("an exchange name is a short string");
    let key_len = u8::try_from(routing_key.len()).expect("a routing key is a short string");
    let address_len = 2 + u16::from(exchange_len) + u16::from(key_len);
    let header_len = u32::try_from(header.len()).expect("a content header fits a frame");
    let prefix = RECORD_HEADER_LEN + usize::from(address_len) + header.len();
    let mut head = [0u8; RECORD_HEADER_LEN];
    head[0..4].copy_from_slice(
        &u32::try_from(prefix + body_len as usize)
            .expect("a body is at most 512 MiB")
            .to_le_bytes(),
    );
    head[8] = VERSION;
    head[30..32].copy_from_slice(&address_len.to_le_bytes());
    head[16..20].copy_from_slice(&header_len.to_le_bytes());
    head[20..24].copy_from_slice(&body_len.to_le_bytes());
    set_meta(&mut head, 0, meta);
    buffer.reserve(prefix);
    buffer.extend_from_slice(&head);
    buffer.push(exchange_len);
    buffer.extend_from_slice(exchange);
    buffer.push(key_len);
    buffer.extend_from_slice(routing_key);
    buffer.extend_from_slice(header);
    start
}

/// Replaces what the broker knows of the message in the record that begins at `start`.
///
/// Call it before [`finish`]: the checksum covers it.
///
/// # Panics
/// If `buffer` holds less than a record's first 32 octets from `start` on.
pub fn set_meta(buffer: &mut [u8], start: usize, meta: RecordMeta) {
    let head = &mut buffer[start..start + RECORD_HEADER_LEN];
    head[9] = u8::from(meta.persistent) * FLAG_PERSISTENT
        + u8::from(meta.priority.is_some()) * FLAG_PRIORITY
        + u8::from(meta.dead_lettered) * FLAG_DEAD_LETTERED
        + u8::from(meta.expiration_ms.is_some()) * FLAG_EXPIRATION
        + u8::from(meta.not_before) * FLAG_NOT_BEFORE
        + (meta.died.map_or(0, DeathReason::number) << DEATH_SHIFT);
    head[10] = meta.priority.unwrap_or(0);
    let expiration = meta.expiration_ms.unwrap_or(0).min(EXPIRATION_MAX_MS);
    head[11..16].copy_from_slice(&expiration.to_le_bytes()[..5]);
    head[24..30].copy_from_slice(&meta.accepted_at_ms.to_le_bytes()[..6]);
}

/// Seals the record that begins at `start` and ends with the buffer: writes its checksum.
pub fn finish(buffer: &mut [u8], start: usize) {
    let crc = crc32c::crc32c(&buffer[start + 8..]);
    buffer[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

impl Message {
    /// Wraps a record that [`begin`] wrote. `record` must be exactly the record.
    #[must_use]
    pub fn from_record(record: Bytes) -> Self {
        debug_assert_eq!(u32_at(&record, 0) as usize, record.len());
        Self { record }
    }

    /// A record on its own, for callers without a chunk: tests, dead letters, rewritten properties.
    #[must_use]
    pub fn build(
        meta: RecordMeta,
        exchange: &[u8],
        routing_key: &[u8],
        header: &[u8],
        body: &[u8],
    ) -> Self {
        let mut buffer = Vec::new();
        let body_len = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let start = begin(&mut buffer, meta, exchange, routing_key, header, body_len);
        buffer.extend_from_slice(body);
        finish(&mut buffer, start);
        Self {
            record: Bytes::from(buffer),
        }
    }

    /// The same message with a checksum, for a record that was not meant for the log when it was built.
    #[must_use]
    pub fn sealed(self) -> Self {
        let mut record = self
            .record
            .try_into_mut()
            .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        finish(&mut record, 0);
        Self {
            record: record.freeze(),
        }
    }

    /// The same message with other knowledge of it and a checksum, in a buffer of its own.
    #[must_use]
    pub fn with_meta(&self, meta: RecordMeta) -> Self {
        let mut record = self.record.to_vec();
        set_meta(&mut record, 0, meta);
        finish(&mut record, 0);
        Self {
            record: Bytes::from(record),
        }
    }

    /// Checks the record at the start of `octets` as a disk may return it, and returns its length.
    ///
    /// # Errors
    /// [`RecordError`] says what is wrong; nothing after the record is looked at.
    pub fn check(octets: &[u8]) -> Result<usize, RecordError> {
        if octets.len() < RECORD_HEADER_LEN {
            return Err(RecordError::Short {
                needed: RECORD_HEADER_LEN,
                present: octets.len(),
            });
        }
        let length = u32_at(octets, 0) as usize;
        if length < RECORD_HEADER_LEN {
            return Err(RecordError::Lengths);
        }
        if octets.len() < length {
            return Err(RecordError::Short {
                needed: length,
                present: octets.len(),
            });
        }
        let (stored, computed) = (u32_at(octets, 4), crc32c::crc32c(&octets[8..length]));
        if stored != computed {
            return Err(RecordError::Checksum { stored, computed });
        }
        if octets[8] != VERSION {
            return Err(RecordError::Version(octets[8]));
        }
        let address = usize::from(u16_at(octets, 30));
        let parts = RECORD_HEADER_LEN as u64
            + address as u64
            + u64::from(u32_at(octets, 16))
            + u64::from(u32_at(octets, 20));
        let exchange_len = usize::from(*octets.get(RECORD_HEADER_LEN).ok_or(RecordError::Lengths)?);
        let key_at = RECORD_HEADER_LEN + 1 + exchange_len;
        let key_len = usize::from(*octets.get(key_at).ok_or(RecordError::Lengths)?);
        if parts != length as u64 || address != 2 + exchange_len + key_len {
            return Err(RecordError::Lengths);
        }
        Ok(length)
    }

    /// The whole record, as the log stores it.
    #[must_use]
    pub const fn record(&self) -> &Bytes {
        &self.record
    }

    /// Octets of memory and log this message takes.
    #[must_use]
    pub const fn record_len(&self) -> usize {
        self.record.len()
    }

    /// delivery-mode was 2.
    #[must_use]
    pub fn persistent(&self) -> bool {
        self.record[9] & FLAG_PERSISTENT != 0
    }

    /// The priority property, if there was one.
    #[must_use]
    pub fn priority(&self) -> Option<u8> {
        (self.record[9] & FLAG_PRIORITY != 0).then(|| self.record[10])
    }

    /// The broker itself has dead-lettered the message before.
    #[must_use]
    pub fn dead_lettered(&self) -> bool {
        self.record[9] & FLAG_DEAD_LETTERED != 0
    }

    /// What the broker knows of the message besides its octets.
    #[must_use]
    pub fn meta(&self) -> RecordMeta {
        RecordMeta {
            persistent: self.persistent(),
            priority: self.priority(),
            dead_lettered: self.dead_lettered(),
            expiration_ms: self.expiration_ms(),
            accepted_at_ms: self.accepted_at_ms(),
            not_before: self.not_before(),
            died: self.died(),
        }
    }

    /// The message waits: it is ready from [`Self::accepted_at_ms`] on.
    #[must_use]
    pub fn not_before(&self) -> bool {
        self.record[9] & FLAG_NOT_BEFORE != 0
    }

    /// Why the message died, while it waits for a queue that takes it as a dead letter.
    #[must_use]
    pub fn died(&self) -> Option<DeathReason> {
        DeathReason::from_number(self.record[9] >> DEATH_SHIFT)
    }

    /// When the broker took the message, in milliseconds since 1970; of one that waits, when it is ready.
    #[must_use]
    pub fn accepted_at_ms(&self) -> u64 {
        let mut octets = [0; 8];
        octets[..6].copy_from_slice(&self.record[24..30]);
        u64::from_le_bytes(octets)
    }

    /// The expiration property, in milliseconds.
    #[must_use]
    pub fn expiration_ms(&self) -> Option<u64> {
        if self.record[9] & FLAG_EXPIRATION == 0 {
            return None;
        }
        let mut octets = [0; 8];
        octets[..5].copy_from_slice(&self.record[11..16]);
        Some(u64::from_le_bytes(octets))
    }

    /// Exchange and routing key as two short strings, ready for `basic.deliver`.
    #[must_use]
    pub fn address(&self) -> &[u8] {
        &self.record[RECORD_HEADER_LEN..self.header_at()]
    }

    /// The exchange the message was published to.
    #[must_use]
    pub fn exchange(&self) -> &[u8] {
        let len = usize::from(self.record[RECORD_HEADER_LEN]);
        &self.record[RECORD_HEADER_LEN + 1..RECORD_HEADER_LEN + 1 + len]
    }

    /// The routing key the message was published with.
    #[must_use]
    pub fn routing_key(&self) -> &[u8] {
        let at = RECORD_HEADER_LEN + 1 + usize::from(self.record[RECORD_HEADER_LEN]);
        &self.record[at + 1..self.header_at()]
    }

    /// The content header's payload: class, weight, body size, flags, properties (AMQP 0-9-1, 4.2.6.1).
    #[must_use]
    pub fn header(&self) -> &[u8] {
        &self.record[self.header_at()..self.body_at()]
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.record[self.body_at()..]
    }

    /// The body as a counted slice, for writing without a copy.
    #[must_use]
    pub fn body_shared(&self) -> Bytes {
        self.record.slice(self.body_at()..)
    }

    /// Octets of body.
    #[must_use]
    pub fn body_len(&self) -> usize {
        u32_at(&self.record, 20) as usize
    }

    fn header_at(&self) -> usize {
        RECORD_HEADER_LEN + usize::from(u16_at(&self.record, 30))
    }

    fn body_at(&self) -> usize {
        self.record.len() - self.body_len()
    }
}

fn u32_at(octets: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&octets[at..at + 4]);
    u32::from_le_bytes(four)
}

fn u16_at(octets: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([octets[at], octets[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Message {
        let meta = RecordMeta {
            persistent: true,
            priority: Some(7),
            dead_lettered: false,
            expiration_ms: None,
            accepted_at_ms: 12,
            not_before: false,
            died: None,
        };
        Message::build(
            meta,
            b"orders",
            b"eu.paid",
            b"\0\x3c\0\0\0\0\0\0\0\0\0\x03\0\0",
            b"abc",
        )
    }

    #[test]
    fn parts_come_back_as_written() {
        let message = sample();
        assert_eq!(message.exchange(), b"orders");
        assert_eq!(message.routing_key(), b"eu.paid");
        assert_eq!(message.address(), b"\x06orders\x07eu.paid");
        assert_eq!(message.header().len(), 14);
        assert_eq!(message.body(), b"abc");
        assert_eq!(message.body_shared(), &b"abc"[..]);
        assert_eq!(
            (
                message.persistent(),
                message.priority(),
                message.accepted_at_ms()
            ),
            (true, Some(7), 12)
        );
        assert_eq!(Message::check(message.record()), Ok(message.record_len()));
    }

    #[test]
    fn other_knowledge_leaves_the_message_as_it_is() {
        let message = sample();
        let meta = RecordMeta {
            accepted_at_ms: TIME_MAX_MS,
            not_before: true,
            ..message.meta()
        };
        let waiting = message.with_meta(meta);
        assert_eq!(Message::check(waiting.record()), Ok(message.record_len()));
        assert_eq!(waiting.meta(), meta);
        assert_eq!(waiting.header(), message.header());
        assert_eq!(waiting.with_meta(message.meta()).record(), message.record());
    }

    #[test]
    fn a_record_says_why_its_message_died() {
        for died in [
            DeathReason::Rejected,
            DeathReason::DeliveryLimit,
            DeathReason::Expired,
            DeathReason::MaxLength,
        ] {
            let meta = RecordMeta {
                died: Some(died),
                ..sample().meta()
            };
            assert_eq!(sample().with_meta(meta).meta(), meta);
        }
        assert_eq!(sample().died(), None);
    }

    #[test]
    fn every_single_flipped_bit_is_found() {
        let record = sample().record().to_vec();
        for bit in 0..record.len() * 8 {
            let mut torn = record.clone();
            torn[bit / 8] ^= 1 << (bit % 8);
            assert!(Message::check(&torn).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_cut_is_found() {
        let record = sample().record().to_vec();
        for end in 0..record.len() {
            assert!(Message::check(&record[..end]).is_err(), "cut at {end}");
        }
    }
}
