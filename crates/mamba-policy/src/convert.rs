//! Between the values of JSON and those of field tables (`spec: semantics §25`, rule 8).

use mamba_types::{
    FieldTable, FieldValue,
    table::{FieldArray, LongString, ShortString},
};
use serde_json::{Map, Number, Value};

/// Most octets of an argument's name.
const NAME_BYTES_MAX: usize = 255;

/// Turns a JSON object into a table: whole numbers become 64-bit integers, other numbers doubles, strings long
/// strings, arrays and objects arrays and tables.
///
/// # Errors
/// What is wrong with which argument: a null, a whole number of more than 64 bits, a name of more than 255
/// octets.
pub fn table_from_json(fields: &Map<String, Value>) -> Result<FieldTable, String> {
    let mut table = FieldTable::default();
    for (name, value) in fields {
        let shown: String = name.chars().take(64).collect();
        if name.len() > NAME_BYTES_MAX {
            return Err(format!(
                "argument {shown}...: a name of at most {NAME_BYTES_MAX} bytes was expected"
            ));
        }
        let value =
            value_from_json(value).map_err(|reason| format!("argument {shown}: {reason}"))?;
        table.insert(ShortString::from(name.as_str()), value);
    }
    Ok(table)
}

fn value_from_json(value: &Value) -> Result<FieldValue, String> {
    Ok(match value {
        Value::Null => return Err("null_not_allowed".to_owned()),
        Value::Bool(boolean) => FieldValue::Boolean(*boolean),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => FieldValue::LongLongInt(whole),
            (None, Some(decimal)) if number.is_f64() && is_written_decimal(number) => {
                FieldValue::Double(decimal)
            }
            _ => {
                return Err(format!(
                    "a whole number between {} and {} was expected, found {number}",
                    i64::MIN,
                    i64::MAX
                ));
            }
        },
        Value::String(text) => FieldValue::LongString(LongString::from(text.as_str())),
        Value::Array(items) => {
            let items: Result<Vec<_>, _> = items.iter().map(value_from_json).collect();
            FieldValue::FieldArray(FieldArray::from(items?))
        }
        Value::Object(fields) => FieldValue::FieldTable(table_from_json(fields)?),
    })
}

/// Whole numbers of more than 64 bits are read as floats, too; those are 2⁶³ and more.
fn is_written_decimal(number: &Number) -> bool {
    number
        .as_f64()
        .is_some_and(|value| value.fract() != 0.0 || value.abs() < 9_223_372_036_854_775_808.0)
}

/// Turns a table into a JSON object. What JSON cannot say becomes what comes closest: octets that are no text
/// lose those that are none, a timestamp becomes its seconds, a number that is none becomes null.
#[must_use]
pub fn table_to_json(table: &FieldTable) -> Map<String, Value> {
    table
        .inner()
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value_to_json(value)))
        .collect()
}

fn value_to_json(value: &FieldValue) -> Value {
    match value {
        FieldValue::Boolean(boolean) => Value::from(*boolean),
        FieldValue::ShortShortInt(number) => Value::from(*number),
        FieldValue::ShortShortUInt(number) => Value::from(*number),
        FieldValue::ShortInt(number) => Value::from(*number),
        FieldValue::ShortUInt(number) => Value::from(*number),
        FieldValue::LongInt(number) => Value::from(*number),
        FieldValue::LongUInt(number) => Value::from(*number),
        FieldValue::LongLongInt(number) => Value::from(*number),
        FieldValue::Timestamp(seconds) => Value::from(*seconds),
        FieldValue::Float(number) => Value::from(*number),
        FieldValue::Double(number) => Value::from(*number),
        FieldValue::DecimalValue(number) => {
            Value::from(f64::from(number.value) / 10_f64.powi(number.scale.into()))
        }
        FieldValue::ShortString(text) => Value::from(text.as_str()),
        FieldValue::LongString(text) => Value::from(String::from_utf8_lossy(text.as_bytes())),
        FieldValue::ByteArray(octets) => Value::from(String::from_utf8_lossy(octets.as_slice())),
        FieldValue::FieldArray(items) => items.as_slice().iter().map(value_to_json).collect(),
        FieldValue::FieldTable(table) => Value::Object(table_to_json(table)),
        FieldValue::Void => Value::Null,
    }
}
