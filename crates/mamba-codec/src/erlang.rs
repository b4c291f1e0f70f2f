//! How the reference broker prints octets in reply texts.

use std::fmt;

/// Octets a [`Snip`] keeps.
const SNIP_MAX: usize = 16;

/// The start of a payload as frame errors print it: `all octets = <<1,2>>` or `first 16 octets = <<"text">>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snip {
    octets: [u8; SNIP_MAX],
    kept: usize,
    whole: bool,
}

impl Snip {
    /// The start of `payload`.
    #[must_use]
    pub fn of(payload: &[u8]) -> Self {
        let mut octets = [0; SNIP_MAX];
        let kept = payload.len().min(SNIP_MAX);
        for (to, from) in octets.iter_mut().zip(payload) {
            *to = *from;
        }
        Self {
            octets,
            kept,
            whole: payload.len() <= SNIP_MAX,
        }
    }
}

impl fmt::Display for Snip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.whole {
            "all octets = "
        } else {
            "first 16 octets = "
        })?;
        let octets = self.octets.get(..self.kept).unwrap_or_default();
        if !octets.is_empty() && octets.iter().all(|octet| printable(*octet)) {
            f.write_str("<<\"")?;
            for octet in octets {
                match octet {
                    b'"' => f.write_str("\\\"")?,
                    b'\\' => f.write_str("\\\\")?,
                    b'\n' => f.write_str("\\n")?,
                    b'\r' => f.write_str("\\r")?,
                    b'\t' => f.write_str("\\t")?,
                    0x0b => f.write_str("\\v")?,
                    0x08 => f.write_str("\\b")?,
                    0x0c => f.write_str("\\f")?,
                    0x1b => f.write_str("\\e")?,
                    other => write!(f, "{}", char::from(*other))?,
                }
            }
            return f.write_str("\">>");
        }
        decimals(f, octets)
    }
}

/// `<<1,2,3>>`
pub(crate) fn decimals(f: &mut impl fmt::Write, octets: &[u8]) -> fmt::Result {
    f.write_str("<<")?;
    for (at, octet) in octets.iter().enumerate() {
        if at > 0 {
            f.write_char(',')?;
        }
        write!(f, "{octet}")?;
    }
    f.write_str(">>")
}

/// What Erlang prints as a character of a string.
const fn printable(octet: u8) -> bool {
    matches!(octet, 32..=126 | 160..=255 | 8..=13 | 27)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(octets: &[u8], expected: &str) {
        assert_eq!(Snip::of(octets).to_string(), expected);
    }

    #[test]
    fn snip_prints_as_an_erlang_binary() {
        check(b"", "all octets = <<>>");
        check(&[1, 2, 3], "all octets = <<1,2,3>>");
        check(b"hello", "all octets = <<\"hello\">>");
        check(b"a\"b\\\n", "all octets = <<\"a\\\"b\\\\\\n\">>");
        check(&[0; 16], "all octets = <<0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0>>");
        check(&[b'a'; 17], "first 16 octets = <<\"aaaaaaaaaaaaaaaa\">>");
    }
}
