//! An expression's value for one message, in SQL's three-valued logic: `None` is unknown.

use std::cmp::Ordering;

use crate::{
    expression::{Arithmetic, Comparison, Expression},
    property::Properties,
    value::Value,
};

/// Whether the condition holds.
pub(crate) fn condition(expression: &Expression, message: &impl Properties) -> Option<bool> {
    match expression {
        Expression::And(all) => {
            let mut outcome = Some(true);
            for each in all {
                match condition(each, message) {
                    Some(true) => {}
                    Some(false) => return Some(false),
                    None => outcome = None,
                }
            }
            outcome
        }
        Expression::Or(any) => {
            let mut outcome = Some(false);
            for each in any {
                match condition(each, message) {
                    Some(false) => {}
                    Some(true) => return Some(true),
                    None => outcome = None,
                }
            }
            outcome
        }
        Expression::Not(inner) => condition(inner, message).map(|holds| !holds),
        Expression::Compare(operator, left, right) => {
            let ordering = value(left, message)?.compare(value(right, message)?)?;
            Some(operator.holds(ordering))
        }
        Expression::Like {
            value: inner,
            negated,
            pattern,
            ..
        } => match value(inner, message)? {
            // Characters are what patterns speak of: octets that are none make the outcome unknown.
            Value::Text(text) => {
                let text = std::str::from_utf8(text).ok()?;
                Some(pattern.matches(text) != *negated)
            }
            _ => None,
        },
        Expression::In {
            value: inner,
            negated,
            list,
        } => {
            let found = value(inner, message)?;
            let mut outcome = Some(false);
            for literal in list {
                match literal.value().and_then(|each| found.compare(each)) {
                    Some(Ordering::Equal) => return Some(!negated),
                    Some(_) => {}
                    None => outcome = None,
                }
            }
            outcome.map(|holds| holds != *negated)
        }
        Expression::Between {
            value: inner,
            negated,
            low,
            high,
        } => {
            let found = value(inner, message)?;
            let bound = |bound| value(bound, message).and_then(|bound| found.compare(bound));
            let above = bound(low).map(Ordering::is_ge);
            let below = bound(high).map(Ordering::is_le);
            let within = match (above, below) {
                (Some(false), _) | (_, Some(false)) => false,
                (Some(true), Some(true)) => true,
                (None, _) | (_, None) => return None,
            };
            Some(within != *negated)
        }
        Expression::IsNull {
            value: inner,
            negated,
        } => Some(value(inner, message).is_none() != *negated),
        Expression::Literal(_)
        | Expression::Property(_)
        | Expression::Header(_)
        | Expression::Negate(_)
        | Expression::Arithmetic(..) => match value(expression, message)? {
            Value::Boolean(holds) => Some(holds),
            _ => None,
        },
    }
}

/// The value, `None` when there is none.
fn value<'a>(expression: &'a Expression, message: &'a impl Properties) -> Option<Value<'a>> {
    match expression {
        Expression::Literal(literal) => literal.value(),
        Expression::Property(property) => message.property(*property),
        Expression::Header(name) => message.header(name),
        Expression::Negate(inner) => match value(inner, message)? {
            Value::Integer(number) => number.checked_neg().map(Value::Integer),
            Value::Decimal(number) => Some(Value::Decimal(-number)),
            _ => None,
        },
        Expression::Arithmetic(operator, left, right) => {
            operator.result(value(left, message)?, value(right, message)?)
        }
        _ => condition(expression, message).map(Value::Boolean),
    }
}

impl Comparison {
    const fn holds(self, ordering: Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::NotEqual => ordering.is_ne(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

impl Arithmetic {
    /// Whole numbers stay whole, also divided; what cannot be said (an overflow, a division by zero, something
    /// that is no number) is unknown.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a decimal operand makes the whole calculation approximate"
    )]
    fn result<'a>(self, left: Value<'_>, right: Value<'_>) -> Option<Value<'a>> {
        let (left, right) = match (left, right) {
            (Value::Integer(left), Value::Integer(right)) => {
                return match self {
                    Self::Add => left.checked_add(right),
                    Self::Subtract => left.checked_sub(right),
                    Self::Multiply => left.checked_mul(right),
                    Self::Divide => left.checked_div(right),
                }
                .map(Value::Integer);
            }
            (Value::Integer(left), Value::Decimal(right)) => (left as f64, right),
            (Value::Decimal(left), Value::Integer(right)) => (left, right as f64),
            (Value::Decimal(left), Value::Decimal(right)) => (left, right),
            _ => return None,
        };
        let result = match self {
            Self::Add => left + right,
            Self::Subtract => left - right,
            Self::Multiply => left * right,
            Self::Divide => left / right,
        };
        result.is_finite().then_some(Value::Decimal(result))
    }
}
