//! Times as clients read them.

/// `2026-11-21T18:15:24.449+00:00`, of milliseconds since 1970.
pub(crate) fn time_text(unix_ms: u64) -> String {
    let (days, of_day_ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (year, month, day) = date(days);
    let (seconds, millis) = (of_day_ms / 1000, of_day_ms % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}+00:00")
}

/// Year, month and day of the Gregorian calendar, so many days after the first of January 1970. Years are taken to begin in March,
/// so that the day that comes and goes is the last one.
const fn date(days: u64) -> (u64, u64, u64) {
    // Since the first of March of the year 0.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(unix_ms: u64, text: &str) {
        assert_eq!(time_text(unix_ms), text);
    }

    #[test]
    fn times() {
        check(0, "1970-01-01T00:00:00.000+00:00");
        check(951_782_399_999, "2000-02-28T23:59:59.999+00:00");
        check(951_782_400_000, "2000-02-29T00:00:00.000+00:00");
        check(951_868_800_000, "2000-03-01T00:00:00.000+00:00");
        check(1_735_689_599_001, "2024-12-31T23:59:59.001+00:00");
        check(1_795_284_924_449, "2026-11-21T18:15:24.449+00:00");
        check(4_107_542_400_000, "2100-03-01T00:00:00.000+00:00");
    }
}
