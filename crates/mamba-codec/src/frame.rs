//! Frames: the envelope around everything on the wire (AMQP 0-9-1, 4.2.3).

use mamba_types::limits::FRAME_OVERHEAD;
use mamba_types::{ChannelId, HardError, Violation};

use crate::erlang::Snip;
use crate::octets::Reader;

/// The octet that ends every frame.
pub const FRAME_END: u8 = 0xCE;

/// Octets before a frame's payload: type, channel, size.
pub const FRAME_HEADER_LEN: usize = 7;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// A method and its arguments.
    Method,
    /// A content header.
    Header,
    /// A piece of a content body.
    Body,
    /// A sign of life, always empty and on channel 0.
    Heartbeat,
}

impl FrameKind {
    /// The type octet.
    #[must_use]
    pub const fn octet(self) -> u8 {
        match self {
            Self::Method => 1,
            Self::Header => 2,
            Self::Body => 3,
            Self::Heartbeat => 8,
        }
    }
}

/// One frame, borrowed from the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it carries.
    pub kind: FrameKind,
    /// The channel it belongs to; 0 is the connection.
    pub channel: ChannelId,
    /// Its octets without type, channel, size and end octet.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// `type T, SNIP`: how this frame is named in the text of `505 UNEXPECTED_FRAME`.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("type {}, {}", self.kind.octet(), Snip::of(self.payload))
    }
}

/// Octets that are not a frame. The input after them cannot be read any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The size word is above the limit; nothing of the payload was waited for.
    #[error("type {kind}, all octets = <<>>: {{frame_too_large,{size},{limit}}}")]
    TooLarge {
        /// Type octet.
        kind: u8,
        /// Announced payload, in octets.
        size: u32,
        /// What the reply text names as the limit: the agreed frame size without overhead, in octets.
        limit: u32,
    },
    /// The octet after the payload is not [`FRAME_END`].
    #[error("type {kind}, {snip}: {{invalid_frame_end_marker,{octet}}}")]
    EndMarker {
        /// Type octet.
        kind: u8,
        /// Start of the payload.
        snip: Snip,
        /// The octet found.
        octet: u8,
    },
    /// A type that does not exist, or a heartbeat with a payload.
    #[error("type {kind}, {snip}: unknown_frame")]
    Unknown {
        /// Type octet.
        kind: u8,
        /// Start of the payload.
        snip: Snip,
    },
}

impl FrameError {
    /// The connection error this is: 501.
    #[must_use]
    pub fn violation(&self) -> Violation {
        Violation::connection(HardError::FrameError, self.to_string())
    }
}

/// The first frame of `input` and the octets it takes there; `None` means more octets are needed.
///
/// `payload_max` is the largest payload accepted, in octets; the error's text names it without the frame
/// overhead, because the agreed frame size is tolerated as a payload size.
///
/// # Errors
/// [`FrameError`] as soon as the octets that prove it are there; an oversized frame from its first 7 octets.
#[inline]
pub fn frame(input: &[u8], payload_max: u32) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let mut reader = Reader::new(input);
    let (Some(kind), Some(channel), Some(size)) = (reader.u8(), reader.u16(), reader.u32()) else {
        return Ok(None);
    };
    if size > payload_max {
        return Err(FrameError::TooLarge {
            kind,
            size,
            limit: payload_max.saturating_sub(FRAME_OVERHEAD),
        });
    }
    let size = size as usize;
    let (Some(payload), Some(end)) = (reader.take(size), reader.u8()) else {
        return Ok(None);
    };
    if end != FRAME_END {
        return Err(FrameError::EndMarker {
            kind,
            snip: Snip::of(payload),
            octet: end,
        });
    }
    let kind = match kind {
        1 => FrameKind::Method,
        2 => FrameKind::Header,
        3 => FrameKind::Body,
        8 if payload.is_empty() => FrameKind::Heartbeat,
        _ => {
            return Err(FrameError::Unknown {
                kind,
                snip: Snip::of(payload),
            });
        }
    };
    let frame = Frame {
        kind,
        channel: ChannelId(channel),
        payload,
    };
    Ok(Some((frame, FRAME_HEADER_LEN + size + 1)))
}
