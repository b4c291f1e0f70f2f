//! Messages on their way in (AMQP 0-9-1, 4.2.6).

use bytes::Bytes;
use mamba_types::message::{self, RECORD_HEADER_LEN};
use mamba_types::{Message, RecordMeta};

/// A complete `basic.publish`.
#[derive(Debug)]
pub struct Publish<'a> {
    /// Return the message if it reaches no queue.
    pub mandatory: bool,
    /// Not supported; the broker answers 540.
    pub immediate: bool,
    /// The message.
    pub content: Content<'a>,
}

/// A message's content, wherever its octets are.
#[derive(Debug)]
pub enum Content<'a> {
    /// All of it lay in the input.
    Whole {
        /// Exchange name.
        exchange: &'a [u8],
        /// Routing key.
        routing_key: &'a [u8],
        /// Content header payload; properties not checked yet.
        header: &'a [u8],
        /// Body.
        body: &'a [u8],
    },
    /// It came in pieces and is already a message record but for its meta data.
    Assembled(Assembled),
    /// The body is larger than `message_size_max` and was not kept.
    TooLarge {
        /// Exchange name.
        exchange: Vec<u8>,
        /// Routing key.
        routing_key: Vec<u8>,
        /// Octets of body.
        size: u64,
    },
}

impl Content<'_> {
    /// Exchange name.
    #[must_use]
    pub fn exchange(&self) -> &[u8] {
        match self {
            Self::Whole { exchange, .. } => exchange,
            Self::Assembled(assembled) => assembled.exchange(),
            Self::TooLarge { exchange, .. } => exchange,
        }
    }

    /// Routing key.
    #[must_use]
    pub fn routing_key(&self) -> &[u8] {
        match self {
            Self::Whole { routing_key, .. } => routing_key,
            Self::Assembled(assembled) => assembled.routing_key(),
            Self::TooLarge { routing_key, .. } => routing_key,
        }
    }

    /// Content header payload; empty if the message was too large.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        match self {
            Self::Whole { header, .. } => header,
            Self::Assembled(assembled) => assembled.header(),
            Self::TooLarge { .. } => &[],
        }
    }

    /// Body; empty if the message was too large.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        match self {
            Self::Whole { body, .. } => body,
            Self::Assembled(assembled) => assembled.body(),
            Self::TooLarge { .. } => &[],
        }
    }

    /// Octets of body, kept or not.
    #[must_use]
    pub fn body_size(&self) -> u64 {
        match self {
            Self::TooLarge { size, .. } => *size,
            Self::Whole { .. } | Self::Assembled(_) => self.body().len() as u64,
        }
    }
}

/// A message record without meta data, built while its body arrived.
#[derive(Clone, Debug)]
pub struct Assembled {
    record: Vec<u8>,
    exchange_len: usize,
    key_len: usize,
    header_len: usize,
}

impl Assembled {
    /// A record whose body of `body_len` octets is still to be appended.
    pub(crate) fn begin(exchange: &[u8], routing_key: &[u8], header: &[u8], body_len: u32) -> Self {
        let mut record = Vec::new();
        let meta = RecordMeta::default();
        message::begin_growing(&mut record, meta, exchange, routing_key, header, body_len);
        Self {
            record,
            exchange_len: exchange.len(),
            key_len: routing_key.len(),
            header_len: header.len(),
        }
    }

    /// Appends octets of body. Room grows with what has arrived, never by more than that, and not beyond
    /// `remaining`: what the content header announced and has not arrived yet, `octets` included.
    pub(crate) fn append(&mut self, octets: &[u8], remaining: u64) {
        let len = self.record.len();
        if self.record.capacity() - len < octets.len() {
            let room = usize::try_from(remaining).unwrap_or(usize::MAX);
            self.record.reserve_exact(room.min(octets.len().max(len)));
        }
        self.record.extend_from_slice(octets);
    }

    /// Octets of memory held.
    pub(crate) const fn capacity(&self) -> usize {
        self.record.capacity()
    }

    /// Exchange name.
    #[must_use]
    pub fn exchange(&self) -> &[u8] {
        self.part(RECORD_HEADER_LEN + 1, self.exchange_len)
    }

    /// Routing key.
    #[must_use]
    pub fn routing_key(&self) -> &[u8] {
        self.part(RECORD_HEADER_LEN + 2 + self.exchange_len, self.key_len)
    }

    /// Content header payload; properties not checked yet.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        self.part(self.body_at() - self.header_len, self.header_len)
    }

    /// Body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.part(self.body_at(), self.record.len() - self.body_at())
    }

    /// The message with its meta data; the body is not copied. The checksum is computed if it is persistent.
    #[must_use]
    pub fn into_message(mut self, meta: RecordMeta) -> Message {
        message::set_meta(&mut self.record, 0, meta);
        if meta.persistent {
            message::finish(&mut self.record, 0);
        }
        Message::from_record(Bytes::from(self.record))
    }

    const fn body_at(&self) -> usize {
        RECORD_HEADER_LEN + 2 + self.exchange_len + self.key_len + self.header_len
    }

    fn part(&self, at: usize, len: usize) -> &[u8] {
        &self.record[at..at + len]
    }
}
