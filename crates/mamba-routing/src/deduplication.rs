//! Exchanges that take each message once: which ones, and what their arguments may be. What they have seen is kept elsewhere.

use mamba_types::{FieldTable, FieldValue, Violation, limits::SEEN_IDS_MAX, table};

use crate::{
    check::{self, precondition},
    exchange::{DELAYED, ExchangeKind, ExchangeSpec},
};

/// Switches it on for an exchange of any type.
const WANTED: &str = "x-message-deduplication";
/// Ten years in milliseconds: the longest time an id may be asked to be remembered.
const TTL_MAX_MS: i64 = 315_360_000_000;

/// The arguments, in the order in which they are compared.
pub(crate) const KEYS: [&str; 5] = [
    WANTED,
    "x-cache-size",
    "x-cache-ttl",
    "x-cache-persistence",
    "x-deduplication-header",
];

/// Whether an exchange of this type with these arguments takes each message once.
pub(crate) fn wanted(kind: ExchangeKind, arguments: &FieldTable) -> bool {
    kind == ExchangeKind::MessageDeduplication
        || matches!(
            arguments.inner().get(WANTED),
            Some(FieldValue::Boolean(true))
        )
}

/// The arguments of a new exchange; those that would have no effect may be anything.
pub(crate) fn check(vhost: &str, spec: &ExchangeSpec) -> Result<(), Violation> {
    let value = |key: &str| spec.arguments.inner().get(key);
    let invalid = |key: &str, reason: String| {
        let printed = check::printed(vhost, &spec.name);
        Err(precondition(format!(
            "invalid arg '{key}' for {printed}: {reason}"
        )))
    };
    let unacceptable = |value| format!("{{unacceptable_type,{}}}", table::type_word(value));
    if let Some(value) = value(WANTED)
        && !matches!(value, FieldValue::Boolean(_))
    {
        return invalid(WANTED, unacceptable(value));
    }
    let kind = check::routing_kind(&spec.kind, &spec.arguments)?;
    if !wanted(kind, &spec.arguments) {
        return Ok(());
    }
    if &*spec.kind == DELAYED {
        // The queues behind it can do it.
        return invalid(WANTED, "not_with_delays".to_owned());
    }
    let size_max = i64::try_from(SEEN_IDS_MAX).unwrap_or(i64::MAX);
    for (key, max) in [("x-cache-size", size_max), ("x-cache-ttl", TTL_MAX_MS)] {
        let Some(value) = value(key) else { continue };
        match table::number(value) {
            None => {
                let word = table::type_word(value);
                return invalid(key, format!("\"expected integer, got {word}\""));
            }
            Some(number) if number < 0 => {
                return invalid(key, format!("{{value_negative,{number}}}"));
            }
            Some(0) => return invalid(key, "{value_zero,0}".to_owned()),
            Some(number) if number > max => {
                return invalid(key, format!("{{value_too_large,{number}}}"));
            }
            Some(_) => {}
        }
    }
    if let Some(value) = value("x-cache-persistence")
        && !matches!(table::text(value), Some("disk" | "memory"))
    {
        return invalid(
            "x-cache-persistence",
            "invalid_cache_persistence".to_owned(),
        );
    }
    match value("x-deduplication-header") {
        Some(value) if table::text(value).is_none() => {
            invalid("x-deduplication-header", unacceptable(value))
        }
        _ => Ok(()),
    }
}
