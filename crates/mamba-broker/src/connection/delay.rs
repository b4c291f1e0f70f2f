//! `x-delay`: messages that a delayed exchange lets wait.

use mamba_codec::{
    Change, HeaderChange, content_header, encode_table, rewrite_header, scan_properties,
    table as parse_table, table_get,
};
use mamba_types::{
    FieldValue, Limits, Message, RecordMeta, SoftError, Violation,
    message::TIME_MAX_MS,
    table::{self, ShortString},
};

const DELAY: &str = "x-delay";

/// A message that is not ready yet.
#[derive(Debug)]
pub(crate) struct Late {
    /// When it is, in milliseconds since 1970.
    due_ms: u64,
    /// The content header it is delivered with: its `x-delay` is negative, so that it does not wait again.
    pub(crate) header: Vec<u8>,
}

impl Late {
    /// What its record says.
    pub(crate) const fn meta(&self, meta: RecordMeta) -> RecordMeta {
        RecordMeta {
            accepted_at_ms: self.due_ms,
            not_before: true,
            ..meta
        }
    }

    /// The message as it waits.
    pub(crate) fn message(&self, message: &Message) -> Message {
        Message::build(
            self.meta(message.meta()),
            message.exchange(),
            message.routing_key(),
            &self.header,
            message.body(),
        )
    }
}

/// Whether a message asks to wait: `x-delay` above 0, in milliseconds. `received` is its content header,
/// `passed_on` the one to pass on where it differs.
///
/// # Errors
/// 406 when the header is no number, or its time lies beyond the year 10889.
pub(crate) fn look(
    received: &[u8],
    passed_on: Option<&[u8]>,
    now_ms: u64,
    limits: &Limits,
) -> Result<Option<Late>, Violation> {
    let passed_on = passed_on.unwrap_or(received);
    let content = content_header(passed_on).map_err(|error| error.violation())?;
    let properties =
        scan_properties(content.properties, limits).map_err(|error| error.violation())?;
    let Some(headers) = properties.headers else {
        return Ok(None);
    };
    let Some(value) = table_get(headers, DELAY.as_bytes()) else {
        return Ok(None);
    };
    let invalid = |reason: String| {
        let text = format!("invalid header '{DELAY}': {reason}");
        Violation::channel(SoftError::PreconditionFailed, text)
    };
    let known = value.value(limits).ok();
    let Some(delay) = known.as_ref().and_then(milliseconds) else {
        let shown = known.as_ref().map(table::bare).unwrap_or_default();
        return Err(invalid(format!(
            "expected a number of milliseconds, got '{shown}' of type '{}'",
            value.type_word()
        )));
    };
    if delay <= 0 {
        return Ok(None);
    }
    let due_ms = u64::try_from(delay).ok().and_then(|delay| {
        // The clock cuts off: a part of this millisecond has passed, and nothing is to be early.
        (now_ms + 1)
            .checked_add(delay)
            .filter(|due_ms| *due_ms <= TIME_MAX_MS)
    });
    let Some(due_ms) = due_ms else {
        return Err(invalid(format!(
            "{delay} milliseconds from now are later than {TIME_MAX_MS} milliseconds after 1970"
        )));
    };
    let mut table = parse_table(headers, limits)
        .map_err(|error| invalid(format!("message headers: {error}")))?;
    let spent = i32::try_from(-delay).map_or(FieldValue::LongLongInt(-delay), FieldValue::LongInt);
    table.insert(ShortString::from(DELAY), spent);
    let encoded = encode_table(&table);
    let change = HeaderChange {
        headers: Change::Set(&encoded),
        ..HeaderChange::default()
    };
    Ok(Some(Late {
        due_ms,
        header: rewrite_header(passed_on, &change),
    }))
}

/// Integers of all widths, numbers in decimal digits, and what lies before the point of others.
#[expect(
    clippy::cast_possible_truncation,
    reason = "what is beyond 64 bits becomes the greatest number, which is refused"
)]
fn milliseconds(value: &FieldValue) -> Option<i64> {
    let whole = |number: f64| number.is_finite().then(|| number.trunc() as i64);
    match value {
        FieldValue::Float(number) => whole(f64::from(*number)),
        FieldValue::Double(number) => whole(*number),
        other => table::integer(other).or_else(|| table::text(other)?.parse().ok()),
    }
}
