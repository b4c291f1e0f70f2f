//! Selectors: conditions over a message's properties and headers, in the language of SQL-92, by which a
//! consumer says what it wants (`x-filter`).
//!
//! ```text
//! priority > 5 AND headers.region IN ('eu', 'uk') AND headers['x-kind'] NOT LIKE 'test!_%' ESCAPE '!'
//! ```
//!
//! Owns the language: [`Filter::parse`] once, [`Filter::matches`] per message, through the small trait
//! [`Properties`]; [`MessageView`] is that trait for the broker's own messages. Knows nothing of queues or
//! consumers, does no input or output, and panics on no input. Both steps are bounded: text, terms and nesting
//! have limits, and a match takes time linear in the text it looks at. Start reading at [`Filter`].

mod evaluate;
mod expression;
mod like;
mod parse;
mod property;
mod token;
mod value;
mod view;

use std::{
    fmt::{Display, Formatter},
    hash::{Hash, Hasher},
};

use expression::Expression;
pub use parse::{DEPTH_MAX, TERMS_MAX, TEXT_BYTES_MAX};
pub use property::{Properties, Property};
pub use value::Value;
pub use view::MessageView;

/// A parsed expression.
///
/// Two filters are equal when their canonical texts are: spaces, superfluous parentheses, the case of keywords,
/// and the order and doubles of an IN list make no difference. Equal filters match the same messages, so that
/// one evaluation serves them all.
#[derive(Clone, Debug)]
pub struct Filter {
    root: Expression,
    canonical: String,
}

/// Why a text is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FilterError {
    /// The character the complaint is about, from 1; one past the last is the end of the text.
    pub position: usize,
    /// The whole complaint: `x-filter: expected a value at position 17, found end of text`. Less than 200
    /// octets, so that it fits a reply text.
    pub message: String,
}

impl Filter {
    /// Reads an expression.
    ///
    /// # Errors
    /// [`FilterError`] says what was expected at which character, and what was found there. Besides what the
    /// language forbids, more than [`TEXT_BYTES_MAX`] octets, [`TERMS_MAX`] values or [`DEPTH_MAX`] levels.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        match parse::parse(text) {
            Ok(root) => Ok(Self {
                canonical: root.to_string(),
                root,
            }),
            Err(unexpected) => {
                let (before, after) = text.split_at_checked(unexpected.at).unwrap_or((text, ""));
                let position = before.chars().count() + 1;
                let found = unexpected
                    .found
                    .map_or_else(|| excerpt(after), str::to_owned);
                Err(FilterError {
                    position,
                    message: format!(
                        "x-filter: expected {} at position {position}, found {found}",
                        unexpected.expected
                    ),
                })
            }
        }
    }

    /// Whether the message is wanted; an unknown outcome is a no.
    pub fn matches(&self, message: &impl Properties) -> bool {
        evaluate::condition(&self.root, message) == Some(true)
    }

    /// The expression in its one normal form: parsed again, it gives an equal filter. With its spaces it may be
    /// longer than the text it came from, and than the longest that is accepted.
    #[must_use]
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// The headers the expression names, each as often as it does.
    #[must_use]
    pub fn headers(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.root.visit(&mut |expression| {
            if let Expression::Header(name) = expression {
                names.push(name.as_str());
            }
        });
        names
    }
}

/// The token a text begins with, short and in quotes.
fn excerpt(after: &str) -> String {
    /// Characters shown.
    const SHOWN: usize = 24;
    let text = after.trim_start();
    let len = match text.chars().next() {
        None => return "end of text".to_owned(),
        Some('\'') => text[1..].find('\'').map_or(text.len(), |at| at + 2),
        Some(first) if expression::continues_word(first) => text
            .find(|c| !expression::continues_word(c))
            .unwrap_or(text.len()),
        Some(first) => first.len_utf8(),
    };
    let token = text.get(..len).unwrap_or(text);
    if token.starts_with('\'') && token.chars().count() <= SHOWN {
        return token.to_owned();
    }
    match token.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("'{}...'", token[..cut].trim_start_matches('\'')),
        None => format!("'{token}'"),
    }
}

impl Display for Filter {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.canonical)
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.canonical == other.canonical
    }
}

impl Eq for Filter {}

impl Hash for Filter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.canonical.hash(state);
    }
}
