//! Field tables and the broker's rules about their values: how they compare, and how they are printed in
//! reply texts (`spec: errors §2`).

pub use amq_protocol_types::{
    AMQPValue as FieldValue, DecimalValue, FieldArray, FieldTable, LongString, ShortString,
};

/// The word error texts use for a value's type.
#[must_use]
pub const fn type_word(value: &FieldValue) -> &'static str {
    match value {
        FieldValue::Boolean(_) => "bool",
        FieldValue::ShortShortInt(_) => "byte",
        FieldValue::ShortShortUInt(_) => "unsignedbyte",
        FieldValue::ShortInt(_) => "short",
        FieldValue::ShortUInt(_) => "unsignedshort",
        FieldValue::LongInt(_) => "signedint",
        FieldValue::LongUInt(_) => "unsignedint",
        FieldValue::LongLongInt(_) => "long",
        FieldValue::Float(_) => "float",
        FieldValue::Double(_) => "double",
        FieldValue::DecimalValue(_) => "decimal",
        FieldValue::ShortString(_) | FieldValue::LongString(_) => "longstr",
        FieldValue::FieldArray(_) => "array",
        FieldValue::Timestamp(_) => "timestamp",
        FieldValue::FieldTable(_) => "table",
        FieldValue::ByteArray(_) => "binary",
        FieldValue::Void => "void",
    }
}

/// The value as a number if it carries any of the integer tags.
#[must_use]
pub fn integer(value: &FieldValue) -> Option<i64> {
    Some(match value {
        FieldValue::ShortShortInt(v) => i64::from(*v),
        FieldValue::ShortShortUInt(v) => i64::from(*v),
        FieldValue::ShortInt(v) => i64::from(*v),
        FieldValue::ShortUInt(v) => i64::from(*v),
        FieldValue::LongInt(v) => i64::from(*v),
        FieldValue::LongUInt(v) => i64::from(*v),
        FieldValue::LongLongInt(v) => *v,
        _ => return None,
    })
}

/// The value as a number if it carries any of the integer tags, or is a decimal number as text: some clients know no other way.
#[must_use]
pub fn number(value: &FieldValue) -> Option<i64> {
    integer(value).or_else(|| text(value)?.parse().ok())
}

/// The octets of a long string or byte array.
#[must_use]
pub fn octets(value: &FieldValue) -> Option<&[u8]> {
    match value {
        FieldValue::LongString(v) => Some(v.as_bytes()),
        FieldValue::ByteArray(v) => Some(v.as_slice()),
        FieldValue::ShortString(v) => Some(v.as_str().as_bytes()),
        _ => None,
    }
}

/// The text of a long string, if it is UTF-8.
#[must_use]
pub fn text(value: &FieldValue) -> Option<&str> {
    match value {
        FieldValue::LongString(v) => std::str::from_utf8(v.as_bytes()).ok(),
        FieldValue::ShortString(v) => Some(v.as_str()),
        _ => None,
    }
}

/// Whether two values are the same for the headers exchange and for redeclaration: integers of all widths
/// compare by number, floats of both widths by number, strings and byte arrays by octets; everything else
/// with its type.
#[must_use]
pub fn same_value(left: &FieldValue, right: &FieldValue) -> bool {
    if let (Some(l), Some(r)) = (integer(left), integer(right)) {
        return l == r;
    }
    if let (Some(l), Some(r)) = (float(left), float(right)) {
        return l == r;
    }
    if let (Some(l), Some(r)) = (octets(left), octets(right)) {
        return l == r;
    }
    left == right
}

fn float(value: &FieldValue) -> Option<f64> {
    match value {
        FieldValue::Float(v) => Some(f64::from(*v)),
        FieldValue::Double(v) => Some(*v),
        _ => None,
    }
}

/// The bare value as reply texts print it, without quotes: `1000`, `dlx`, `true`.
#[must_use]
pub fn bare(value: &FieldValue) -> String {
    if let Some(number) = integer(value) {
        return number.to_string();
    }
    if let Some(octets) = octets(value) {
        return String::from_utf8_lossy(octets).into_owned();
    }
    match value {
        FieldValue::Boolean(v) => v.to_string(),
        FieldValue::Float(v) => v.to_string(),
        FieldValue::Double(v) => v.to_string(),
        FieldValue::Timestamp(v) => v.to_string(),
        FieldValue::Void => "undefined".to_owned(),
        other => format!("{other:?}"),
    }
}

/// One side of an `inequivalent arg` text when the other side has no such argument.
#[must_use]
pub fn described(value: Option<&FieldValue>) -> String {
    value.map_or_else(
        || "none".to_owned(),
        |value| format!("the value '{}' of type '{}'", bare(value), type_word(value)),
    )
}
