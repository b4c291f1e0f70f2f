//! Numbers and octets as people read them.

use std::{fmt::Write, time::SystemTime};

/// An amount of octets in the unit that fits it.
pub(super) fn octets(count: u64) -> String {
    const UNITS: [(u32, &str); 3] = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (shift, unit) in UNITS {
        if count >> shift > 0 {
            let tenths = (u128::from(count) * 10) >> shift;
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{count} B")
}

/// The time since a file was written, in the unit that fits it.
pub(super) fn age(modified: Option<SystemTime>, now: SystemTime) -> String {
    let Some(age) = modified.and_then(|modified| now.duration_since(modified).ok()) else {
        return "0 s".to_owned();
    };
    let secs = age.as_secs();
    match secs {
        0..120 => format!("{secs} s"),
        120..7200 => format!("{} min", secs / 60),
        7200..172_800 => format!("{} h", secs / 3600),
        _ => format!("{} d", secs / 86_400),
    }
}

/// Cells of one line; the last one takes what room it needs.
pub(super) fn row(text: &mut String, cells: &[&str]) {
    if let Some((last, cells)) = cells.split_last() {
        for cell in cells {
            let _ = write!(text, "{cell:>12}  ");
        }
        let _ = writeln!(text, "{last}");
    }
}

/// Hexadecimal digits.
pub(super) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The octets as text, if they are one that a terminal can show.
pub(super) fn readable(octets: &[u8]) -> Option<&str> {
    let text = str::from_utf8(octets).ok()?;
    text.chars()
        .all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t'))
        .then_some(text)
}

/// Base64 with padding (RFC 4648, 4).
pub(super) fn base64(octets: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(octets.len().div_ceil(3) * 4);
    for group in octets.chunks(3) {
        let mut number = 0u32;
        for index in 0..3 {
            number = number << 8 | u32::from(group.get(index).copied().unwrap_or(0));
        }
        for index in 0..4 {
            let digit = number >> (18 - 6 * index) & 63;
            text.push(if index > group.len() {
                '='
            } else {
                char::from(DIGITS[digit as usize])
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_rfc() {
        for (octets, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(octets.as_bytes()), text);
        }
    }

    #[test]
    fn amounts() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (64 << 20, "64.0 MiB"),
        ] {
            assert_eq!(octets(count), text);
        }
    }
}
