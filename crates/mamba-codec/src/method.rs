//! Methods that clients send: the hot ones by hand, the others through `amq-protocol` behind checks.

use amq_protocol::protocol::{AMQPClass, parse_class};
use mamba_types::{DeliveryTag, HardError, Limits, Violation};

use crate::erlang;
use crate::octets::Reader;
use crate::table::{self, TableError};

/// Octets of undecodable arguments kept for the reply text: more would not fit into it.
const DECODE_KEPT: usize = 128;

const BASIC: u16 = 60;
const QOS: u16 = 10;
const PUBLISH: u16 = 40;
const ACK: u16 = 80;
const REJECT: u16 = 90;
const NACK: u16 = 120;

/// A method with its arguments.
#[derive(Clone, Debug, PartialEq)]
pub enum Method<'a> {
    /// `basic.publish`; content follows.
    Publish(PublishArgs<'a>),
    /// `basic.ack`.
    Ack {
        /// The delivery; 0 with `multiple` means all.
        tag: DeliveryTag,
        /// All up to and including `tag`.
        multiple: bool,
    },
    /// `basic.nack`.
    Nack {
        /// The delivery; 0 with `multiple` means all.
        tag: DeliveryTag,
        /// All up to and including `tag`.
        multiple: bool,
        /// Back to the queue, or discard.
        requeue: bool,
    },
    /// `basic.reject`.
    Reject {
        /// The delivery.
        tag: DeliveryTag,
        /// Back to the queue, or discard.
        requeue: bool,
    },
    /// Every other method of every class, of either direction.
    Other(Box<AMQPClass>),
}

/// Arguments of `basic.publish`. Names are not checked for UTF-8 (as in the reference broker).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishArgs<'a> {
    /// Exchange name, empty for the default exchange.
    pub exchange: &'a [u8],
    /// Routing key.
    pub routing_key: &'a [u8],
    /// Return the message if it reaches no queue.
    pub mandatory: bool,
    /// Not supported by the broker; answered with 540.
    pub immediate: bool,
}

/// A method payload that cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MethodError {
    /// Fewer than the four octets of class and method id.
    NoId {
        /// What is there.
        octets: Vec<u8>,
    },
    /// An id the protocol does not have.
    Unknown {
        /// Class id.
        class: u16,
        /// Method id.
        method: u16,
    },
    /// Too few or too many octets for the arguments.
    Decode {
        /// Class id.
        class: u16,
        /// Method id.
        method: u16,
        /// The start of the arguments, as much as a reply text can show.
        octets: Vec<u8>,
    },
    /// A short string argument is not UTF-8.
    Utf8 {
        /// Class id.
        class: u16,
        /// Method id.
        method: u16,
    },
    /// A field table argument is malformed.
    Table {
        /// Class id.
        class: u16,
        /// Method id.
        method: u16,
        /// What is wrong with it.
        error: TableError,
    },
    /// `basic.qos` with a prefetch size: not supported, and nothing that is decoded here could carry it.
    PrefetchSize(u32),
}

impl MethodError {
    /// The connection error this is: 501, 502 for tables, 540 for unknown ids and a prefetch size.
    #[must_use]
    pub fn violation(&self) -> Violation {
        match self {
            Self::NoId { octets } | Self::Decode { octets, .. } => {
                let mut text = "cannot decode ".to_owned();
                // Writing to a string cannot fail.
                let _ = erlang::decimals(&mut text, octets);
                Violation::connection(HardError::FrameError, text)
            }
            Self::Unknown { class, method } => Violation::connection(
                HardError::NotImplemented,
                format!("unknown method: class {class}, method {method}"),
            ),
            Self::Utf8 { .. } => {
                Violation::connection(HardError::FrameError, "Malformed UTF-8 in shortstr")
            }
            Self::Table { error, .. } => {
                Violation::connection(HardError::SyntaxError, error.to_string())
            }
            Self::PrefetchSize(size) => Violation::connection(
                HardError::NotImplemented,
                format!("prefetch_size!=0 ({size})"),
            ),
        }
    }

    /// Class and method id for the close method; 0 when there is none.
    #[must_use]
    pub const fn class_method(&self) -> (u16, u16) {
        match *self {
            // The reference broker names no method for malformed text.
            Self::NoId { .. } | Self::Utf8 { .. } => (0, 0),
            Self::Unknown { class, method }
            | Self::Decode { class, method, .. }
            | Self::Table { class, method, .. } => (class, method),
            Self::PrefetchSize(_) => (BASIC, QOS),
        }
    }
}

/// Class and method id of a method frame's payload.
#[inline]
#[must_use]
pub fn class_method(payload: &[u8]) -> Option<(u16, u16)> {
    let mut reader = Reader::new(payload);
    Some((reader.u16()?, reader.u16()?))
}

/// Decodes a method frame's payload.
///
/// # Errors
/// [`MethodError`] for anything but exactly one well-formed method.
#[inline]
pub fn method<'a>(payload: &'a [u8], limits: &Limits) -> Result<Method<'a>, MethodError> {
    let mut reader = Reader::new(payload);
    let (Some(class), Some(method)) = (reader.u16(), reader.u16()) else {
        return Err(MethodError::NoId {
            octets: payload.to_vec(),
        });
    };
    let arguments = reader.rest();
    if (class, method) == (BASIC, QOS)
        && let Some(size) = Reader::new(arguments).u32()
        && size != 0
    {
        return Err(MethodError::PrefetchSize(size));
    }
    let hot = match (class, method) {
        (BASIC, PUBLISH) => publish(reader),
        (BASIC, ACK) => tag_and_bits(reader).map(|(tag, bits)| Method::Ack {
            tag,
            multiple: bits & 1 != 0,
        }),
        (BASIC, NACK) => tag_and_bits(reader).map(|(tag, bits)| Method::Nack {
            tag,
            multiple: bits & 1 != 0,
            requeue: bits & 2 != 0,
        }),
        (BASIC, REJECT) => tag_and_bits(reader).map(|(tag, bits)| Method::Reject {
            tag,
            requeue: bits & 1 != 0,
        }),
        _ => return cold(payload, class, method, arguments, limits),
    };
    hot.ok_or_else(|| decode_error(class, method, arguments))
}

#[inline]
fn publish(mut reader: Reader<'_>) -> Option<Method<'_>> {
    let _ticket = reader.u16()?;
    let exchange = reader.short()?;
    let routing_key = reader.short()?;
    let bits = reader.u8()?;
    reader.is_empty().then_some(Method::Publish(PublishArgs {
        exchange,
        routing_key,
        mandatory: bits & 1 != 0,
        immediate: bits & 2 != 0,
    }))
}

#[inline]
fn tag_and_bits(mut reader: Reader<'_>) -> Option<(DeliveryTag, u8)> {
    let tag = DeliveryTag(reader.u64()?);
    let bits = reader.u8()?;
    reader.is_empty().then_some((tag, bits))
}

#[cold]
fn decode_error(class: u16, method: u16, arguments: &[u8]) -> MethodError {
    MethodError::Decode {
        class,
        method,
        octets: arguments.iter().take(DECODE_KEPT).copied().collect(),
    }
}

/// Checks the arguments against the method's signature, then lets `amq-protocol` decode them: its parsers
/// recurse into tables and report every kind of failure alike.
fn cold<'a>(
    payload: &'a [u8],
    class: u16,
    method: u16,
    arguments: &'a [u8],
    limits: &Limits,
) -> Result<Method<'a>, MethodError> {
    let signature = signature(class, method).ok_or(MethodError::Unknown { class, method })?;
    let mut reader = Reader::new(arguments);
    let mut utf8 = true;
    let mut table_error = None;
    for argument in signature.bytes() {
        let fits = match argument {
            b'1' => reader.take(1).is_some(),
            b'2' => reader.take(2).is_some(),
            b'4' => reader.take(4).is_some(),
            b'8' => reader.take(8).is_some(),
            b's' => reader.short().is_some_and(|text| {
                utf8 &= std::str::from_utf8(text).is_ok();
                true
            }),
            b'S' => reader.long().is_some(),
            b't' => reader.long().is_some_and(|octets| {
                table_error = table_error.or_else(|| table::check_names(octets, limits).err());
                true
            }),
            _ => false,
        };
        if !fits {
            return Err(decode_error(class, method, arguments));
        }
    }
    if !reader.is_empty() {
        return Err(decode_error(class, method, arguments));
    }
    if let Some(error) = table_error {
        return Err(MethodError::Table {
            class,
            method,
            error,
        });
    }
    if !utf8 {
        return Err(MethodError::Utf8 { class, method });
    }
    match parse_class(payload) {
        Ok(([], decoded)) => Ok(Method::Other(Box::new(decoded))),
        _ => Err(decode_error(class, method, arguments)),
    }
}

/// The arguments of a method: `1`, `2`, `4`, `8` fixed octets (bits are packed into one octet), `s` short string,
/// `S` long string, `t` field table.
const fn signature(class: u16, method: u16) -> Option<&'static str> {
    Some(match (class, method) {
        (10, 10) => "11tSS",
        (10, 11) => "tsSs",
        (10, 20 | 21) => "S",
        (10, 30 | 31) => "242",
        (10, 40) => "ss1",
        (10, 41 | 60) => "s",
        (10, 50) | (20, 40) => "2s22",
        (10, 51 | 61 | 71) | (20, 41) => "",
        (10, 70) => "Ss",
        (20, 10) => "s",
        (20, 11) => "S",
        (20, 20 | 21) => "1",
        (30, 10) => "s1",
        (30, 11) => "2",
        (40, 10) => "2ss1t",
        (40, 20) => "2s1",
        (40, 30 | 40) => "2sss1t",
        (40, 11 | 21 | 31 | 51) => "",
        (50, 10) => "2s1t",
        (50, 11) => "s44",
        (50, 20) => "2sss1t",
        (50, 30 | 40) => "2s1",
        (50, 31 | 41) => "4",
        (50, 50) => "2ssst",
        (50, 21 | 51) => "",
        (60, 10) => "421",
        (60, 20) => "2ss1t",
        (60, 21 | 31 | 72) => "s",
        (60, 30) => "s1",
        (60, 50) => "2sss",
        (60, 60) => "s81ss",
        (60, 70) => "2s1",
        (60, 71) => "81ss4",
        (60, 100 | 110) => "1",
        (60, 11 | 111) => "",
        (85, 10) => "1",
        (85, 11) | (90, 10 | 11 | 20 | 21 | 30 | 31) => "",
        _ => return None,
    })
}
