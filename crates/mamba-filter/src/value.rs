//! The values an expression works on, and how they compare.

use std::cmp::Ordering;

/// A value met in a message or written in an expression; an absent one is `None` around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Decimal(f64),
    /// A string; from a message it may be any octets.
    Text(&'a [u8]),
    /// True or false.
    Boolean(bool),
    /// Something expressions cannot look into (an array, a table): present, but equal to nothing.
    Opaque,
}

impl Value<'_> {
    /// How two values stand to each other; `None` when that is unknown: values of different types, a number
    /// that is none, something opaque.
    #[must_use]
    pub fn compare(self, other: Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Value::Integer(left), Value::Integer(right)) => Some(left.cmp(&right)),
            (Value::Decimal(left), Value::Decimal(right)) => left.partial_cmp(&right),
            (Value::Integer(left), Value::Decimal(right)) => compare_mixed(left, right),
            (Value::Decimal(left), Value::Integer(right)) => {
                compare_mixed(right, left).map(Ordering::reverse)
            }
            (Value::Text(left), Value::Text(right)) => Some(left.cmp(right)),
            (Value::Boolean(left), Value::Boolean(right)) => Some(left.cmp(&right)),
            _ => None,
        }
    }
}

/// Exact, where turning the integer into a float would round it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the float is whole and within range"
)]
fn compare_mixed(left: i64, right: f64) -> Option<Ordering> {
    /// 2⁶³, the first whole number an `i64` cannot hold.
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if right.is_nan() {
        return None;
    }
    if right >= BEYOND {
        return Some(Ordering::Less);
    }
    if right < -BEYOND {
        return Some(Ordering::Greater);
    }
    let whole = right.floor();
    Some(left.cmp(&(whole as i64)).then(if right > whole {
        Ordering::Less
    } else {
        Ordering::Equal
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_decimals_compare_exactly() {
        let check = |left: i64, right: f64, expected| {
            assert_eq!(
                Value::Integer(left).compare(Value::Decimal(right)),
                expected,
                "{left} {right}"
            );
            assert_eq!(
                Value::Decimal(right).compare(Value::Integer(left)),
                expected.map(Ordering::reverse)
            );
        };
        check(1, 1.0, Some(Ordering::Equal));
        check(1, 1.5, Some(Ordering::Less));
        check(-1, -1.5, Some(Ordering::Greater));
        check(i64::MAX, 9_223_372_036_854_775_808.0, Some(Ordering::Less));
        check(
            i64::MIN,
            -9_223_372_036_854_775_808.0,
            Some(Ordering::Equal),
        );
        check(i64::MIN, f64::NEG_INFINITY, Some(Ordering::Greater));
        check(i64::MAX, f64::INFINITY, Some(Ordering::Less));
        check(
            9_007_199_254_740_993,
            9_007_199_254_740_992.0,
            Some(Ordering::Greater),
        );
        check(0, f64::NAN, None);
    }
}
