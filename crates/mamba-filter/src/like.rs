//! `LIKE` patterns, matched in time linear in the text.
//!
//! A pattern is cut at every `%`. The first and the last piece are anchored; each piece between is looked
//! for from left to right, and the leftmost place is always good enough, so nothing is ever tried twice.

/// Most characters of a pattern; a search keeps one bit for each.
pub(crate) const PATTERN_CHARS_MAX: usize = 256;

const WORDS: usize = PATTERN_CHARS_MAX / 64;

/// One character of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Exactly(char),
    AnyOne,
}

/// Text without `%`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// No wildcard in it.
    Plain(String),
    /// With `_` in it: the characters, and for each that occurs the bits of the places where it fits.
    Mixed {
        items: Vec<Item>,
        masks: Vec<(char, [u64; WORDS])>,
        any: [u64; WORDS],
    },
}

/// A pattern, ready to be matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    first: Piece,
    /// `None` when the pattern has no `%`.
    rest: Option<(Vec<Piece>, Piece)>,
}

/// Why a pattern is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatternError {
    /// More than [`PATTERN_CHARS_MAX`] characters.
    TooLong,
    /// The escape character is not followed by `%`, `_` or itself.
    Escape,
}

impl Pattern {
    pub(crate) fn parse(text: &str, escape: Option<char>) -> Result<Self, PatternError> {
        let mut pieces = vec![Vec::new()];
        let mut characters = text.chars();
        let mut count = 0;
        while let Some(character) = characters.next() {
            count += 1;
            if count > PATTERN_CHARS_MAX {
                return Err(PatternError::TooLong);
            }
            let item = if Some(character) == escape {
                match characters.next() {
                    Some(next) if next == '%' || next == '_' || next == character => {
                        Item::Exactly(next)
                    }
                    _ => return Err(PatternError::Escape),
                }
            } else if character == '%' {
                pieces.push(Vec::new());
                continue;
            } else if character == '_' {
                Item::AnyOne
            } else {
                Item::Exactly(character)
            };
            if let Some(last) = pieces.last_mut() {
                last.push(item);
            }
        }
        let mut pieces = pieces.into_iter();
        let first = Piece::new(pieces.next().unwrap_or_default());
        let last = pieces.next_back().map(Piece::new);
        let middle = pieces
            .filter(|items| !items.is_empty())
            .map(Piece::new)
            .collect();
        Ok(Self {
            first,
            rest: last.map(|last| (middle, last)),
        })
    }

    /// Whether the whole text fits.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let Some(mut left) = self.first.strip_from_start(text) else {
            return false;
        };
        let Some((middle, last)) = &self.rest else {
            return left.is_empty();
        };
        for piece in middle {
            match piece.skip_past(left) {
                Some(after) => left = after,
                None => return false,
            }
        }
        last.ends(left)
    }
}

impl Piece {
    fn new(items: Vec<Item>) -> Self {
        let plain: Option<String> = items
            .iter()
            .map(|item| match item {
                Item::Exactly(character) => Some(*character),
                Item::AnyOne => None,
            })
            .collect();
        if let Some(plain) = plain {
            return Self::Plain(plain);
        }
        let mut any = [0; WORDS];
        let mut masks: Vec<(char, [u64; WORDS])> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let mask = match item {
                Item::AnyOne => &mut any,
                Item::Exactly(character) => {
                    let at = match masks.binary_search_by_key(character, |(known, _)| *known) {
                        Ok(at) => at,
                        Err(at) => {
                            masks.insert(at, (*character, [0; WORDS]));
                            at
                        }
                    };
                    &mut masks[at].1
                }
            };
            mask[index / 64] |= 1 << (index % 64);
        }
        Self::Mixed { items, masks, any }
    }

    /// What follows the piece when the text begins with it.
    fn strip_from_start<'t>(&self, text: &'t str) -> Option<&'t str> {
        match self {
            Self::Plain(plain) => text.strip_prefix(plain.as_str()),
            Self::Mixed { items, .. } => {
                let mut characters = text.chars();
                items
                    .iter()
                    .all(|item| characters.next().is_some_and(|next| item.fits(next)))
                    .then_some(characters.as_str())
            }
        }
    }

    fn ends(&self, text: &str) -> bool {
        match self {
            Self::Plain(plain) => text.ends_with(plain.as_str()),
            Self::Mixed { items, .. } => {
                let mut characters = text.chars();
                items
                    .iter()
                    .rev()
                    .all(|item| characters.next_back().is_some_and(|last| item.fits(last)))
            }
        }
    }

    /// What follows the leftmost place of the piece in the text.
    fn skip_past<'t>(&self, text: &'t str) -> Option<&'t str> {
        let (items, masks, any) = match self {
            Self::Plain(plain) => {
                let at = text.find(plain.as_str())?;
                return text.get(at + plain.len()..);
            }
            Self::Mixed { items, masks, any } => (items, masks, any),
        };
        // Bit n says that the characters just read fit the first n + 1 items.
        let words = items.len().div_ceil(64);
        let (last_word, last_bit) = ((items.len() - 1) / 64, (items.len() - 1) % 64);
        let mut state = [0_u64; WORDS];
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            let mask = masks
                .binary_search_by_key(&character, |(known, _)| *known)
                .ok()
                .map(|at| &masks[at].1);
            let mut carry = 1;
            for word in 0..words {
                let fits = any[word] | mask.map_or(0, |mask| mask[word]);
                let next_carry = state[word] >> 63;
                state[word] = ((state[word] << 1) | carry) & fits;
                carry = next_carry;
            }
            if state[last_word] >> last_bit & 1 == 1 {
                return Some(characters.as_str());
            }
        }
        None
    }
}

impl Item {
    fn fits(self, character: char) -> bool {
        match self {
            Self::Exactly(expected) => expected == character,
            Self::AnyOne => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(pattern: &str, text: &str, expected: bool) {
        let pattern = Pattern::parse(pattern, Some('!')).unwrap();
        assert_eq!(pattern.matches(text), expected, "{pattern:?} {text}");
    }

    #[test]
    fn wildcards() {
        check("", "", true);
        check("", "a", false);
        check("%", "", true);
        check("%", "abc", true);
        check("%%", "abc", true);
        check("_", "", false);
        check("_", "é", true);
        check("_", "ab", false);
        check("a%", "abc", true);
        check("a%", "bac", false);
        check("%c", "abc", true);
        check("%b%", "abc", true);
        check("a%a", "a", false);
        check("a%a", "aa", true);
        check("%ab%ab", "ab", false);
        check("%ab%ab", "abab", true);
        check("%a_c%", "xxabcxx", true);
        check("%a_c%", "aac", true);
        check("%a_c%", "xxabdxx", false);
        check("%_", "", false);
        check("%_%_%", "ab", true);
        check("%_%_%", "a", false);
        check("1_3", "123", true);
        check("10!%", "10%", true);
        check("10!%", "100", false);
        check("!_!!", "_!", true);
        check("%!_x_%", "a_xb", true);
        check("%!_x_%", "aaxb", false);
    }

    #[test]
    fn a_long_piece_with_a_wildcard_spans_words() {
        let long = "ab".repeat(60);
        let text = format!("x{long}yx{long}cdx");
        check(&format!("%{long}c_x%"), &text, true);
        check(&format!("%{long}z_x%"), &text, false);
    }

    #[test]
    fn what_is_no_pattern() {
        assert_eq!(Pattern::parse("a!", Some('!')), Err(PatternError::Escape));
        assert_eq!(Pattern::parse("a!b", Some('!')), Err(PatternError::Escape));
        assert!(Pattern::parse("a!b", None).is_ok());
        assert!(Pattern::parse(&"a".repeat(256), None).is_ok());
        assert_eq!(
            Pattern::parse(&"a".repeat(257), None),
            Err(PatternError::TooLong)
        );
    }

    /// The definition, with all the time in the world.
    fn model(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('%', rest)) => (0..=text.len()).any(|skip| model(rest, &text[skip..])),
            Some(('_', rest)) => !text.is_empty() && model(rest, &text[1..]),
            Some((first, rest)) => text.first() == Some(first) && model(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab%_]{0,8}", text in "[abc]{0,12}") {
            let expected = model(
                &pattern.chars().collect::<Vec<_>>(),
                &text.chars().collect::<Vec<_>>(),
            );
            prop_assert_eq!(Pattern::parse(&pattern, None).unwrap().matches(&text), expected);
        }
    }
}
