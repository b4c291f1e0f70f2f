//! Content headers and the properties of class basic (AMQP 0-9-1, 4.2.6.1).

use mamba_types::{HardError, Limits, Violation};

use crate::erlang::Snip;
use crate::octets::{Reader, short};
use crate::table::{TableError, check_table};

/// A content header frame's payload, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentHeader<'a> {
    /// Class id; 60 for messages.
    pub class: u16,
    /// Unused, must be 0.
    pub weight: u16,
    /// Octets of body that follow.
    pub body_size: u64,
    /// Property flags and values, for [`scan_properties`].
    pub properties: &'a [u8],
}

/// A payload too short for a content header: to the reference broker, no frame it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("type 2, {snip}: unknown_frame")]
pub struct HeaderError {
    /// The payload.
    pub snip: Snip,
}

impl HeaderError {
    /// The connection error this is: 501.
    #[must_use]
    pub fn violation(&self) -> Violation {
        Violation::connection(HardError::FrameError, self.to_string())
    }
}

/// Takes a content header frame's payload apart; the properties are not looked at.
///
/// # Errors
/// [`HeaderError`] when it is too short.
#[inline]
pub fn content_header(payload: &[u8]) -> Result<ContentHeader<'_>, HeaderError> {
    let mut reader = Reader::new(payload);
    let (Some(class), Some(weight), Some(body_size), properties) =
        (reader.u16(), reader.u16(), reader.u64(), reader.rest())
    else {
        return Err(HeaderError {
            snip: Snip::of(payload),
        });
    };
    if properties.len() < 2 {
        return Err(HeaderError {
            snip: Snip::of(payload),
        });
    }
    Ok(ContentHeader {
        class,
        weight,
        body_size,
        properties,
    })
}

/// The properties that are present, borrowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties<'a> {
    /// MIME type.
    pub content_type: Option<&'a [u8]>,
    /// MIME encoding.
    pub content_encoding: Option<&'a [u8]>,
    /// Table octets of the headers.
    pub headers: Option<&'a [u8]>,
    /// 2 is persistent, anything else transient.
    pub delivery_mode: Option<u8>,
    /// Message priority.
    pub priority: Option<u8>,
    /// For the application.
    pub correlation_id: Option<&'a [u8]>,
    /// Where to answer.
    pub reply_to: Option<&'a [u8]>,
    /// Per-message time to live, decimal milliseconds.
    pub expiration: Option<&'a [u8]>,
    /// For the application.
    pub message_id: Option<&'a [u8]>,
    /// Seconds since 1970.
    pub timestamp: Option<u64>,
    /// The property called `type`.
    pub kind: Option<&'a [u8]>,
    /// Validated by the broker.
    pub user_id: Option<&'a [u8]>,
    /// For the application.
    pub app_id: Option<&'a [u8]>,
    /// Carried through.
    pub cluster_id: Option<&'a [u8]>,
    /// One of the two flag bits without a property is set; [`rewrite_header`] clears them.
    pub reserved_flags: bool,
}

impl Properties<'_> {
    /// delivery-mode 2.
    #[must_use]
    pub fn persistent(&self) -> bool {
        self.delivery_mode == Some(2)
    }
}

/// Properties that are malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PropertyError {
    /// The octets end inside this property, or inside the flags.
    #[error("message properties end inside {0}")]
    Truncated(&'static str),
    /// Octets after the last property.
    #[error("message properties are followed by {0} octets that belong to none of them")]
    Extra(usize),
    /// The headers table is malformed.
    #[error("message property headers: {0}")]
    Headers(TableError),
}

impl PropertyError {
    /// The connection error this is: 502.
    #[must_use]
    pub fn violation(&self) -> Violation {
        Violation::connection(HardError::SyntaxError, self.to_string())
    }
}

/// Checks flags and values to the last octet, headers table included, and returns the values in place.
///
/// # Errors
/// [`PropertyError`] says what is wrong.
#[inline]
pub fn scan_properties<'a>(
    properties: &'a [u8],
    limits: &Limits,
) -> Result<Properties<'a>, PropertyError> {
    let mut reader = Reader::new(properties);
    let flags = reader.u16().ok_or(PropertyError::Truncated("the flags"))?;
    let mut found = Properties {
        reserved_flags: flags & RESERVED != 0,
        ..Properties::default()
    };
    let text = |reader: &mut Reader<'a>, mask: u16, name: &'static str| {
        if flags & mask == 0 {
            return Ok(None);
        }
        reader
            .short()
            .map(Some)
            .ok_or(PropertyError::Truncated(name))
    };
    found.content_type = text(&mut reader, CONTENT_TYPE, "content-type")?;
    found.content_encoding = text(&mut reader, CONTENT_ENCODING, "content-encoding")?;
    if flags & HEADERS != 0 {
        let octets = reader.long().ok_or(PropertyError::Truncated("headers"))?;
        check_table(octets, limits).map_err(PropertyError::Headers)?;
        found.headers = Some(octets);
    }
    if flags & DELIVERY_MODE != 0 {
        found.delivery_mode = Some(
            reader
                .u8()
                .ok_or(PropertyError::Truncated("delivery-mode"))?,
        );
    }
    if flags & PRIORITY != 0 {
        found.priority = Some(reader.u8().ok_or(PropertyError::Truncated("priority"))?);
    }
    found.correlation_id = text(&mut reader, CORRELATION_ID, "correlation-id")?;
    found.reply_to = text(&mut reader, REPLY_TO, "reply-to")?;
    found.expiration = text(&mut reader, EXPIRATION, "expiration")?;
    found.message_id = text(&mut reader, MESSAGE_ID, "message-id")?;
    if flags & TIMESTAMP != 0 {
        found.timestamp = Some(reader.u64().ok_or(PropertyError::Truncated("timestamp"))?);
    }
    found.kind = text(&mut reader, TYPE, "type")?;
    found.user_id = text(&mut reader, USER_ID, "user-id")?;
    found.app_id = text(&mut reader, APP_ID, "app-id")?;
    found.cluster_id = text(&mut reader, CLUSTER_ID, "cluster-id")?;
    if !reader.is_empty() {
        return Err(PropertyError::Extra(reader.rest().len()));
    }
    Ok(found)
}

/// A content header payload for these properties and so many octets of body.
///
/// Texts above 255 octets are cut: check them first.
#[must_use]
pub fn encode_header(properties: &Properties<'_>, body_size: u64) -> Vec<u8> {
    let mut payload = Vec::with_capacity(64);
    payload.extend_from_slice(&CLASS_BASIC.to_be_bytes());
    payload.extend_from_slice(&[0, 0]);
    payload.extend_from_slice(&body_size.to_be_bytes());
    let mut flags = 0;
    let mut values = Vec::new();
    let text = |values: &mut Vec<u8>, mask: u16, value: Option<&[u8]>| {
        value.map_or(0, |value| {
            short(values, value.get(..255).unwrap_or(value));
            mask
        })
    };
    flags |= text(&mut values, CONTENT_TYPE, properties.content_type);
    flags |= text(&mut values, CONTENT_ENCODING, properties.content_encoding);
    if let Some(headers) = properties.headers
        && let Ok(len) = u32::try_from(headers.len())
    {
        flags |= HEADERS;
        values.extend_from_slice(&len.to_be_bytes());
        values.extend_from_slice(headers);
    }
    for (mask, octet) in [
        (DELIVERY_MODE, properties.delivery_mode),
        (PRIORITY, properties.priority),
    ] {
        if let Some(octet) = octet {
            flags |= mask;
            values.push(octet);
        }
    }
    flags |= text(&mut values, CORRELATION_ID, properties.correlation_id);
    flags |= text(&mut values, REPLY_TO, properties.reply_to);
    flags |= text(&mut values, EXPIRATION, properties.expiration);
    flags |= text(&mut values, MESSAGE_ID, properties.message_id);
    if let Some(seconds) = properties.timestamp {
        flags |= TIMESTAMP;
        values.extend_from_slice(&seconds.to_be_bytes());
    }
    flags |= text(&mut values, TYPE, properties.kind);
    flags |= text(&mut values, USER_ID, properties.user_id);
    flags |= text(&mut values, APP_ID, properties.app_id);
    flags |= text(&mut values, CLUSTER_ID, properties.cluster_id);
    payload.extend_from_slice(&flags.to_be_bytes());
    payload.extend_from_slice(&values);
    payload
}

/// What to do with one property.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Change<'a> {
    /// As it is.
    #[default]
    Keep,
    /// Absent afterwards.
    Remove,
    /// Present afterwards, with these octets: table octets for headers, at most 255 octets of text otherwise.
    Set(&'a [u8]),
}

/// Changes to a content header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeaderChange<'a> {
    /// The headers table.
    pub headers: Change<'a>,
    /// reply-to.
    pub reply_to: Change<'a>,
    /// expiration.
    pub expiration: Change<'a>,
}

/// The content header payload with changed properties; reserved flag bits are cleared.
///
/// A payload that [`scan_properties`] would refuse comes back unchanged.
#[must_use]
pub fn rewrite_header(header_payload: &[u8], change: &HeaderChange<'_>) -> Vec<u8> {
    rewritten(header_payload, change).unwrap_or_else(|| header_payload.to_vec())
}

fn rewritten(header_payload: &[u8], change: &HeaderChange<'_>) -> Option<Vec<u8>> {
    let (head, properties) = header_payload.split_at_checked(HEAD_LEN)?;
    let mut reader = Reader::new(properties);
    let flags = reader.u16()?;
    let mut new_flags = flags & !RESERVED;
    let mut values = Vec::with_capacity(properties.len() + 64);
    for mask in (2..16).rev().map(|bit| 1u16 << bit) {
        let old = if flags & mask == 0 {
            None
        } else {
            Some(match mask {
                HEADERS => reader.long()?,
                DELIVERY_MODE | PRIORITY => reader.take(1)?,
                TIMESTAMP => reader.take(8)?,
                _ => reader.short()?,
            })
        };
        let change = match mask {
            HEADERS => change.headers,
            REPLY_TO => change.reply_to,
            EXPIRATION => change.expiration,
            _ => Change::Keep,
        };
        let new = match change {
            Change::Keep => old,
            Change::Remove => None,
            Change::Set(octets) => Some(octets),
        };
        let Some(octets) = new else {
            new_flags &= !mask;
            continue;
        };
        new_flags |= mask;
        match mask {
            HEADERS => {
                let len = u32::try_from(octets.len()).ok()?;
                values.extend_from_slice(&len.to_be_bytes());
                values.extend_from_slice(octets);
            }
            DELIVERY_MODE | PRIORITY | TIMESTAMP => values.extend_from_slice(octets),
            _ => short(&mut values, octets),
        }
    }
    if !reader.is_empty() {
        return None;
    }
    let mut payload = Vec::with_capacity(HEAD_LEN + 2 + values.len());
    payload.extend_from_slice(head);
    payload.extend_from_slice(&new_flags.to_be_bytes());
    payload.extend_from_slice(&values);
    Some(payload)
}

/// The class of messages.
const CLASS_BASIC: u16 = 60;

/// Octets before the flags: class, weight, body size.
const HEAD_LEN: usize = 12;

const CONTENT_TYPE: u16 = 0x8000;
const CONTENT_ENCODING: u16 = 0x4000;
const HEADERS: u16 = 0x2000;
const DELIVERY_MODE: u16 = 0x1000;
const PRIORITY: u16 = 0x0800;
const CORRELATION_ID: u16 = 0x0400;
const REPLY_TO: u16 = 0x0200;
const EXPIRATION: u16 = 0x0100;
const MESSAGE_ID: u16 = 0x0080;
const TIMESTAMP: u16 = 0x0040;
const TYPE: u16 = 0x0020;
const USER_ID: u16 = 0x0010;
const APP_ID: u16 = 0x0008;
const CLUSTER_ID: u16 = 0x0004;
/// Bits without a property. The specification's continuation bit is among them; nobody uses it.
const RESERVED: u16 = 0x0003;
