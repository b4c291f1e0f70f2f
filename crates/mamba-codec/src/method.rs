//! Methods that clients send: the hot ones by hand, the others through `amq-protocol` behind checks.

use amq_protocol::protocol::AMQPClass;
use mamba_types::{DeliveryTag, Limits, Violation};

use crate::table::TableError;

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
}

impl MethodError {
    /// The connection error this is: 501, 502 for tables, 540 for unknown ids.
    #[must_use]
    pub fn violation(&self) -> Violation {
        todo!()
    }

    /// Class and method id for the close method; 0 when there is none.
    #[must_use]
    pub fn class_method(&self) -> (u16, u16) {
        todo!()
    }
}

/// Class and method id of a method frame's payload.
#[must_use]
pub fn class_method(payload: &[u8]) -> Option<(u16, u16)> {
    let mut reader = crate::octets::Reader::new(payload);
    Some((reader.u16()?, reader.u16()?))
}

/// Decodes a method frame's payload.
///
/// # Errors
/// [`MethodError`] for anything but exactly one well-formed method.
pub fn method<'a>(payload: &'a [u8], limits: &Limits) -> Result<Method<'a>, MethodError> {
    let _ = (payload, limits);
    todo!()
}
