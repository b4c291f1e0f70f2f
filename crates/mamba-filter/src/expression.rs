//! The tree of an expression, and its canonical text.

use std::fmt::{Display, Formatter, Result, Write as _};

use crate::{like::Pattern, property::Property, value::Value};

/// Something written down in the expression.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Null,
    Integer(i64),
    Decimal(f64),
    Text(String),
    Boolean(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
}

/// One node. `AND` and `OR` are flat: none of their operands is the same again.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expression {
    Literal(Literal),
    Property(Property),
    Header(String),
    Negate(Box<Self>),
    Arithmetic(Arithmetic, Box<Self>, Box<Self>),
    Compare(Comparison, Box<Self>, Box<Self>),
    Like {
        value: Box<Self>,
        negated: bool,
        text: String,
        escape: Option<char>,
        pattern: Box<Pattern>,
    },
    /// The list is sorted and has no doubles, so that its order does not make a difference.
    In {
        value: Box<Self>,
        negated: bool,
        list: Vec<Literal>,
    },
    Between {
        value: Box<Self>,
        negated: bool,
        low: Box<Self>,
        high: Box<Self>,
    },
    IsNull {
        value: Box<Self>,
        negated: bool,
    },
    Not(Box<Self>),
    And(Vec<Self>),
    Or(Vec<Self>),
}

/// What can be said of a value before any message is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Number,
    Text,
    Condition,
    /// A header, or NULL.
    Any,
}

impl Kind {
    /// The words of an error text.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Number => "a number",
            Self::Text => "a string",
            Self::Condition => "a condition",
            Self::Any => "a value",
        }
    }
}

impl Literal {
    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Null => Kind::Any,
            Self::Integer(_) | Self::Decimal(_) => Kind::Number,
            Self::Text(_) => Kind::Text,
            Self::Boolean(_) => Kind::Condition,
        }
    }

    pub(crate) const fn value(&self) -> Option<Value<'_>> {
        match self {
            Self::Null => None,
            Self::Integer(number) => Some(Value::Integer(*number)),
            Self::Decimal(number) => Some(Value::Decimal(*number)),
            Self::Text(text) => Some(Value::Text(text.as_bytes())),
            Self::Boolean(boolean) => Some(Value::Boolean(*boolean)),
        }
    }
}

impl Expression {
    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Literal(literal) => literal.kind(),
            Self::Property(property) => {
                if property.is_number() {
                    Kind::Number
                } else {
                    Kind::Text
                }
            }
            Self::Header(_) => Kind::Any,
            Self::Negate(_) | Self::Arithmetic(..) => Kind::Number,
            Self::Compare(..)
            | Self::Like { .. }
            | Self::In { .. }
            | Self::Between { .. }
            | Self::IsNull { .. }
            | Self::Not(_)
            | Self::And(_)
            | Self::Or(_) => Kind::Condition,
        }
    }

    /// How tightly the outermost operator binds; a larger number binds tighter.
    const fn level(&self) -> u8 {
        match self {
            Self::Or(_) => 1,
            Self::And(_) => 2,
            Self::Not(_) => 3,
            Self::Compare(..)
            | Self::Like { .. }
            | Self::In { .. }
            | Self::Between { .. }
            | Self::IsNull { .. } => 4,
            Self::Arithmetic(Arithmetic::Add | Arithmetic::Subtract, ..) => 5,
            Self::Arithmetic(Arithmetic::Multiply | Arithmetic::Divide, ..) => 6,
            Self::Negate(_) => 7,
            Self::Literal(_) | Self::Property(_) | Self::Header(_) => 8,
        }
    }

    /// Calls `visit` for every node, the outer ones first.
    pub(crate) fn visit<'e>(&'e self, visit: &mut impl FnMut(&'e Self)) {
        visit(self);
        match self {
            Self::Literal(_) | Self::Property(_) | Self::Header(_) => {}
            Self::Negate(inner) | Self::Not(inner) => inner.visit(visit),
            Self::Arithmetic(_, left, right) | Self::Compare(_, left, right) => {
                left.visit(visit);
                right.visit(visit);
            }
            Self::Like { value, .. } | Self::In { value, .. } | Self::IsNull { value, .. } => {
                value.visit(visit);
            }
            Self::Between {
                value, low, high, ..
            } => {
                value.visit(visit);
                low.visit(visit);
                high.visit(visit);
            }
            Self::And(all) | Self::Or(all) => {
                for each in all {
                    each.visit(visit);
                }
            }
        }
    }
}

/// An operand that needs parentheses when it binds less tightly than its surroundings.
struct Within<'e>(&'e Expression, u8);

impl Display for Within<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if self.0.level() < self.1 {
            write!(f, "({})", self.0)
        } else {
            self.0.fmt(f)
        }
    }
}

fn quoted(f: &mut Formatter<'_>, text: &str) -> Result {
    f.write_char('\'')?;
    for character in text.chars() {
        if character == '\'' {
            f.write_char('\'')?;
        }
        f.write_char(character)?;
    }
    f.write_char('\'')
}

const fn not(negated: bool) -> &'static str {
    if negated { "NOT " } else { "" }
}

impl Display for Literal {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Integer(number) => write!(f, "{number}"),
            Self::Decimal(number) => write!(f, "{number:?}"),
            Self::Text(text) => quoted(f, text),
            Self::Boolean(true) => f.write_str("TRUE"),
            Self::Boolean(false) => f.write_str("FALSE"),
        }
    }
}

impl Comparison {
    pub(crate) const fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

impl Arithmetic {
    pub(crate) const fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
        }
    }
}

impl Display for Expression {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Literal(literal) => literal.fmt(f),
            Self::Property(property) => f.write_str(property.name()),
            Self::Header(name) if is_word(name) => write!(f, "headers.{name}"),
            Self::Header(name) => {
                f.write_str("headers[")?;
                quoted(f, name)?;
                f.write_char(']')
            }
            Self::Negate(inner) => write!(f, "-{}", Within(inner, 7)),
            Self::Arithmetic(operator, left, right) => {
                let level = self.level();
                let (left, right) = (Within(left, level), Within(right, level + 1));
                write!(f, "{left} {} {right}", operator.symbol())
            }
            Self::Compare(operator, left, right) => {
                let (left, right) = (Within(left, 5), Within(right, 5));
                write!(f, "{left} {} {right}", operator.symbol())
            }
            Self::Like {
                value,
                negated,
                text,
                escape,
                ..
            } => {
                write!(f, "{} {}LIKE ", Within(value, 5), not(*negated))?;
                quoted(f, text)?;
                if let Some(escape) = escape {
                    f.write_str(" ESCAPE ")?;
                    quoted(f, escape.encode_utf8(&mut [0; 4]))?;
                }
                Ok(())
            }
            Self::In {
                value,
                negated,
                list,
            } => {
                write!(f, "{} {}IN (", Within(value, 5), not(*negated))?;
                for (index, literal) in list.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{literal}")?;
                }
                f.write_char(')')
            }
            Self::Between {
                value,
                negated,
                low,
                high,
            } => write!(
                f,
                "{} {}BETWEEN {} AND {}",
                Within(value, 5),
                not(*negated),
                Within(low, 5),
                Within(high, 5)
            ),
            Self::IsNull { value, negated } => {
                write!(f, "{} IS {}NULL", Within(value, 5), not(*negated))
            }
            Self::Not(inner) => write!(f, "NOT {}", Within(inner, 3)),
            Self::And(all) => joined(f, all, " AND ", 3),
            Self::Or(all) => joined(f, all, " OR ", 2),
        }
    }
}

fn joined(f: &mut Formatter<'_>, all: &[Expression], word: &str, level: u8) -> Result {
    for (index, each) in all.iter().enumerate() {
        if index > 0 {
            f.write_str(word)?;
        }
        Within(each, level).fmt(f)?;
    }
    Ok(())
}

/// Whether a header of this name can be written `headers.NAME`.
fn is_word(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(starts_word) && characters.all(continues_word)
}

pub(crate) const fn starts_word(character: char) -> bool {
    character.is_ascii_alphabetic() || character == '_' || character == '$'
}

pub(crate) const fn continues_word(character: char) -> bool {
    starts_word(character) || character.is_ascii_digit()
}
