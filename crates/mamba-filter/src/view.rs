//! A message of the broker, as an expression sees it.

use mamba_codec::table_get;
use mamba_types::Message;

use crate::{
    property::{Properties, Property},
    value::Value,
};

/// Reads a message's properties in place; nothing is decoded before it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct MessageView<'m> {
    message: &'m Message,
}

impl<'m> MessageView<'m> {
    /// A view of a message whose content header was checked when it came in; of any other, parts that make no
    /// sense are absent.
    #[must_use]
    pub const fn new(message: &'m Message) -> Self {
        Self { message }
    }
}

/// The properties in the order of their flags, highest bit first (AMQP 0-9-1, 4.2.6.1).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Short,
    Table,
    Octet,
    Timestamp,
}

/// Where each property stands in the order, and how long its octets are.
const SHAPES: [Shape; 13] = [
    Shape::Short,
    Shape::Short,
    Shape::Table,
    Shape::Octet,
    Shape::Octet,
    Shape::Short,
    Shape::Short,
    Shape::Short,
    Shape::Short,
    Shape::Timestamp,
    Shape::Short,
    Shape::Short,
    Shape::Short,
];

const HEADERS: usize = 2;

/// Class, weight and body size stand before the flags.
const FLAGS_AT: usize = 12;

/// The octets of the property at `index` in the order of flags, without its length.
fn octets(header: &[u8], index: usize) -> Option<&[u8]> {
    let (flags, mut rest) = header.get(FLAGS_AT..)?.split_first_chunk::<2>()?;
    let flags = u16::from_be_bytes(*flags);
    if flags & 0x8000 >> index == 0 {
        return None;
    }
    for (at, shape) in SHAPES.iter().enumerate().take(index + 1) {
        if flags & 0x8000 >> at == 0 {
            continue;
        }
        let len = match shape {
            Shape::Octet => 1,
            Shape::Timestamp => 8,
            Shape::Short => {
                let (len, after) = rest.split_first()?;
                rest = after;
                usize::from(*len)
            }
            Shape::Table => {
                let (len, after) = rest.split_first_chunk::<4>()?;
                rest = after;
                usize::try_from(u32::from_be_bytes(*len)).ok()?
            }
        };
        let (octets, after) = rest.split_at_checked(len)?;
        if at == index {
            return Some(octets);
        }
        rest = after;
    }
    None
}

/// A number that may be too large for an `i64`.
#[expect(
    clippy::cast_precision_loss,
    reason = "beyond 2⁶³, a time of day more or less means nothing"
)]
fn unsigned(number: u64) -> Value<'static> {
    i64::try_from(number).map_or(Value::Decimal(number as f64), Value::Integer)
}

impl Properties for MessageView<'_> {
    fn property(&self, property: Property) -> Option<Value<'_>> {
        let header = self.message.header();
        let index = match property {
            Property::Exchange => return Some(Value::Text(self.message.exchange())),
            Property::RoutingKey => return Some(Value::Text(self.message.routing_key())),
            Property::Priority => {
                let priority = self.message.priority()?;
                return Some(Value::Integer(priority.into()));
            }
            Property::Expiration => {
                return self.message.expiration_ms().map(unsigned);
            }
            Property::DeliveryMode => {
                let octet = octets(header, 3)?.first()?;
                return Some(Value::Integer((*octet).into()));
            }
            Property::Timestamp => {
                let octets = octets(header, 9)?.first_chunk::<8>()?;
                return Some(unsigned(u64::from_be_bytes(*octets)));
            }
            Property::ContentType => 0,
            Property::ContentEncoding => 1,
            Property::CorrelationId => 5,
            Property::ReplyTo => 6,
            Property::MessageId => 8,
            Property::Type => 10,
            Property::UserId => 11,
            Property::AppId => 12,
        };
        octets(header, index).map(Value::Text)
    }

    fn header(&self, name: &str) -> Option<Value<'_>> {
        let value = table_get(octets(self.message.header(), HEADERS)?, name.as_bytes())?;
        if let Some(number) = value.integer() {
            return Some(Value::Integer(number));
        }
        if let Some(boolean) = value.boolean() {
            return Some(Value::Boolean(boolean));
        }
        Some(match value.tag {
            b'V' => return None,
            b'S' | b'x' => Value::Text(value.octets),
            b'T' => unsigned(u64::from_be_bytes(*value.octets.first_chunk()?)),
            b'f' => Value::Decimal(f32::from_be_bytes(*value.octets.first_chunk()?).into()),
            b'd' => Value::Decimal(f64::from_be_bytes(*value.octets.first_chunk()?)),
            b'D' => decimal(value.octets)?,
            _ => Value::Opaque,
        })
    }
}

/// An AMQP decimal: the number of decimal places, then the digits.
fn decimal(octets: &[u8]) -> Option<Value<'static>> {
    let (places, digits) = octets.split_first()?;
    let digits = f64::from(u32::from_be_bytes(*digits.first_chunk()?));
    Some(Value::Decimal(digits / 10_f64.powi((*places).into())))
}
