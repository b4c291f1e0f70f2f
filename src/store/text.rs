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

#[cfg(test)]
mod tests {
    use super::*;

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
