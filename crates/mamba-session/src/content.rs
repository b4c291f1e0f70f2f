//! Messages on their way in.

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
        todo!()
    }

    /// Routing key.
    #[must_use]
    pub fn routing_key(&self) -> &[u8] {
        todo!()
    }

    /// Content header payload; empty if the message was too large.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        todo!()
    }

    /// Body; empty if the message was too large.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        todo!()
    }
}

/// A message record without meta data, built while its body arrived.
#[derive(Clone, Debug)]
pub struct Assembled {
    pub(crate) message: Message,
}

impl Assembled {
    /// The message with its meta data; the body is not copied. The checksum is computed if it is persistent.
    #[must_use]
    pub fn into_message(self, meta: RecordMeta) -> Message {
        let _ = meta;
        todo!()
    }
}
