//! Content headers and the properties of class basic (AMQP 0-9-1, 4.2.6.1).

use mamba_types::{HardError, Limits, Violation};

use crate::table::TableError;

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

/// A payload too short for a content header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("content header has {octets} octets, at least 14 are needed")]
pub struct HeaderError {
    /// Octets there.
    pub octets: usize,
}

impl HeaderError {
    /// The connection error this is: 502.
    #[must_use]
    pub fn violation(&self) -> Violation {
        Violation::connection(HardError::SyntaxError, self.to_string())
    }
}

/// Takes a content header frame's payload apart; the properties are not looked at.
///
/// # Errors
/// [`HeaderError`] when it is too short.
pub fn content_header(payload: &[u8]) -> Result<ContentHeader<'_>, HeaderError> {
    let _ = payload;
    todo!()
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
pub fn scan_properties<'a>(
    properties: &'a [u8],
    limits: &Limits,
) -> Result<Properties<'a>, PropertyError> {
    let _ = (properties, limits);
    todo!()
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
    let _ = (header_payload, change);
    todo!()
}
