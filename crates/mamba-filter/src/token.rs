//! Words, numbers, strings and symbols of an expression's text.

use crate::expression::{continues_word, starts_word};

/// One token; `End` stands after the last.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token<'t> {
    Word(&'t str),
    /// Up to 2⁶³: one more than an `i64` holds, for the sake of the smallest number.
    Integer(u64),
    Decimal(f64),
    Text(String),
    Symbol(&'static str),
    End,
}

/// A token and the octet it begins at.
#[derive(Clone, Debug)]
pub(crate) struct Placed<'t> {
    pub(crate) token: Token<'t>,
    pub(crate) from: usize,
}

/// What is wrong, at which octet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unexpected {
    pub(crate) at: usize,
    pub(crate) expected: String,
    /// `None`: what the text has there.
    pub(crate) found: Option<&'static str>,
}

/// The longer before the shorter.
const SYMBOLS: [&str; 17] = [
    "<=", ">=", "<>", "!=", "=", "<", ">", "(", ")", "[", "]", ",", ".", "+", "-", "*", "/",
];

/// 2⁶³.
const INTEGER_MAX: u64 = 1 << 63;

/// Takes the text apart.
pub(crate) fn tokens(text: &str) -> Result<Vec<Placed<'_>>, Unexpected> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let from = text.len() - rest.len();
        let Some(first) = rest.chars().next() else {
            tokens.push(Placed {
                token: Token::End,
                from,
            });
            return Ok(tokens);
        };
        let (token, len) = if first == '\'' {
            string(rest, from)?
        } else if first.is_ascii_digit() {
            number(rest, from)?
        } else if starts_word(first) {
            let len = rest.find(|c| !continues_word(c)).unwrap_or(rest.len());
            let (word, _) = rest.split_at(len);
            (Token::Word(word), len)
        } else if let Some(symbol) = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol)) {
            (Token::Symbol(symbol), symbol.len())
        } else {
            return Err(Unexpected {
                at: from,
                expected: "a value or an operator".to_owned(),
                found: None,
            });
        };
        tokens.push(Placed { token, from });
        rest = rest.get(len..).unwrap_or_default();
    }
}

/// A string in quotes, in which two quotes are one.
fn string<'t>(rest: &'t str, at: usize) -> Result<(Token<'t>, usize), Unexpected> {
    let mut text = String::new();
    let mut characters = rest.char_indices().skip(1).peekable();
    while let Some((offset, character)) = characters.next() {
        if character == '\'' && characters.next_if(|(_, next)| *next == '\'').is_none() {
            return Ok((Token::Text(text), offset + 1));
        }
        text.push(character);
    }
    Err(Unexpected {
        at,
        expected: "a closing quote for the string".to_owned(),
        found: Some("end of text"),
    })
}

/// Digits, perhaps a fraction, perhaps an exponent.
fn number<'t>(rest: &'t str, at: usize) -> Result<(Token<'t>, usize), Unexpected> {
    let octets = rest.as_bytes();
    let digits = |from: usize| {
        octets
            .iter()
            .skip(from)
            .take_while(|octet| octet.is_ascii_digit())
            .count()
    };
    let mut len = digits(0);
    let mut whole = true;
    if octets.get(len) == Some(&b'.') {
        let fraction = digits(len + 1);
        if fraction == 0 {
            return Err(Unexpected {
                at: at + len + 1,
                expected: "a digit after the decimal point".to_owned(),
                found: None,
            });
        }
        whole = false;
        len += 1 + fraction;
    }
    if matches!(octets.get(len), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(octets.get(len + 1), Some(b'+' | b'-')));
        let exponent = digits(len + 1 + sign);
        if exponent == 0 {
            return Err(Unexpected {
                at: at + len + 1 + sign,
                expected: "a digit in the exponent".to_owned(),
                found: None,
            });
        }
        whole = false;
        len += 1 + sign + exponent;
    }
    let digits = rest.get(..len).unwrap_or_default();
    let token = if whole {
        digits
            .parse()
            .ok()
            .filter(|number| *number <= INTEGER_MAX)
            .map(Token::Integer)
    } else {
        digits
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite())
            .map(Token::Decimal)
    };
    token.map(|token| (token, len)).ok_or_else(|| {
        if whole {
            integer_too_large(at)
        } else {
            Unexpected {
                at,
                expected: format!("a number up to {:e}", f64::MAX),
                found: Some("a larger one"),
            }
        }
    })
}

pub(crate) fn integer_too_large(at: usize) -> Unexpected {
    Unexpected {
        at,
        expected: format!("a whole number up to {}", i64::MAX),
        found: Some("a larger one"),
    }
}
