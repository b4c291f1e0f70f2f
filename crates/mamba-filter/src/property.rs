//! What an expression can ask a message for.

use crate::value::Value;

/// A property of a message that is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Property {
    /// `content_type`.
    ContentType,
    /// `content_encoding`.
    ContentEncoding,
    /// `delivery_mode`, a number; 2 is persistent.
    DeliveryMode,
    /// `priority`, a number.
    Priority,
    /// `correlation_id`.
    CorrelationId,
    /// `reply_to`.
    ReplyTo,
    /// `expiration`, a number of milliseconds, though AMQP carries it as text.
    Expiration,
    /// `message_id`.
    MessageId,
    /// `timestamp`, a number of seconds since 1970.
    Timestamp,
    /// `type`.
    Type,
    /// `user_id`.
    UserId,
    /// `app_id`.
    AppId,
    /// `routing_key`, as published.
    RoutingKey,
    /// `exchange`, the name of the one published to.
    Exchange,
}

impl Property {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::ContentType,
        Self::ContentEncoding,
        Self::DeliveryMode,
        Self::Priority,
        Self::CorrelationId,
        Self::ReplyTo,
        Self::Expiration,
        Self::MessageId,
        Self::Timestamp,
        Self::Type,
        Self::UserId,
        Self::AppId,
        Self::RoutingKey,
        Self::Exchange,
    ];

    /// As written in an expression.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ContentType => "content_type",
            Self::ContentEncoding => "content_encoding",
            Self::DeliveryMode => "delivery_mode",
            Self::Priority => "priority",
            Self::CorrelationId => "correlation_id",
            Self::ReplyTo => "reply_to",
            Self::Expiration => "expiration",
            Self::MessageId => "message_id",
            Self::Timestamp => "timestamp",
            Self::Type => "type",
            Self::UserId => "user_id",
            Self::AppId => "app_id",
            Self::RoutingKey => "routing_key",
            Self::Exchange => "exchange",
        }
    }

    /// Whether its values are numbers; the others are strings.
    #[must_use]
    pub const fn is_number(self) -> bool {
        matches!(
            self,
            Self::DeliveryMode | Self::Priority | Self::Expiration | Self::Timestamp
        )
    }
}

/// A message, as an expression sees it.
pub trait Properties {
    /// The value of a property, `None` when the message has none.
    fn property(&self, property: Property) -> Option<Value<'_>>;

    /// The value of a header, `None` when the message has none of that name, or a void one.
    ///
    /// Asked for only when the outcome depends on it.
    fn header(&self, name: &str) -> Option<Value<'_>>;
}
