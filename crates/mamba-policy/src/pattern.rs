//! The patterns of policies: regular expressions in Perl's language, found anywhere in a name.

use fancy_regex::{Error, Regex, RegexBuilder};

use crate::term;

/// Octets of a pattern's text.
pub const PATTERN_BYTES_MAX: usize = 4096;

/// Steps after which a search is given up; a pattern that needs more does not match.
const STEPS_MAX: usize = 100_000;

/// A compiled pattern. Two are equal when their texts are.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// The message of a failed validation, as the reference broker words it.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(format!(
                "pattern should be at most {PATTERN_BYTES_MAX} bytes long, actually was {}",
                text.len()
            ));
        }
        match RegexBuilder::new(text).backtrack_limit(STEPS_MAX).build() {
            Ok(regex) => Ok(Self {
                text: text.to_owned(),
                regex,
            }),
            Err(error) => Err(invalid(text, &error)),
        }
    }

    /// Whether the pattern is found in the name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.regex.is_match(name).unwrap_or(false)
    }

    /// The text it was compiled from.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

/// The complaint about a pattern, in the words of the reference broker's engine where the mistake is one of the
/// usual, otherwise in this one's.
fn invalid(text: &str, error: &Error) -> String {
    const BEFORE: &str = "pattern should be regular expression but is invalid: ";
    /// Columns of a line before an Erlang term is broken.
    const LINE: usize = 78;
    let (reason, at) = usual(text).unwrap_or_else(|| (error.to_string().replace('\n', " "), 0));
    let reason = term::quoted(&reason);
    let line = format!("{BEFORE}{{{reason},{at}}}");
    if line.chars().count() <= LINE {
        return line;
    }
    format!("{BEFORE}{{{reason},\n{:1$}{at}}}", "", BEFORE.len() + 1)
}

/// Finds the usual mistakes: parentheses and brackets that do not match, nothing to repeat, a last backslash.
fn usual(text: &str) -> Option<(String, usize)> {
    let mut open = 0_usize;
    let mut repeatable = false;
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => {
                if characters.next().is_none() {
                    return Some(("\\ at end of pattern".to_owned(), text.len()));
                }
                repeatable = true;
            }
            '[' => {
                let mut first = true;
                loop {
                    match characters.next() {
                        None => {
                            return Some((
                                "missing terminating ] for character class".to_owned(),
                                text.len(),
                            ));
                        }
                        Some((_, '\\')) => {
                            characters.next();
                        }
                        Some((_, '^')) if first => continue,
                        Some((_, ']')) if !first => break,
                        Some(_) => {}
                    }
                    first = false;
                }
                repeatable = true;
            }
            '(' => {
                open += 1;
                repeatable = false;
                // The question mark of (?: or (?= repeats nothing.
                if characters.as_str().starts_with('?') {
                    characters.next();
                }
            }
            ')' => {
                let Some(left) = open.checked_sub(1) else {
                    return Some(("unmatched parentheses".to_owned(), at));
                };
                open = left;
                repeatable = true;
            }
            '*' | '+' | '?' => {
                if !repeatable {
                    return Some(("nothing to repeat".to_owned(), at));
                }
                // A quantifier may be followed by one that makes it lazy or possessive.
                if characters.as_str().starts_with(['?', '+']) {
                    characters.next();
                }
                repeatable = false;
            }
            '|' => repeatable = false,
            _ => repeatable = true,
        }
    }
    (open > 0).then(|| ("missing )".to_owned(), text.len()))
}
