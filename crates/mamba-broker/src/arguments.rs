//! Queue and consumer arguments: what they may be, what they mean, and when two declarations are the same
//! (`spec: semantics §5–6, errors §2`).

use std::sync::Arc;

use mamba_policy::{Applied, DelayedRetry, QueueSettings, QueueType};
use mamba_queue::{Overflow, QueueKind, Retry, RetryOn, Selector, Settings};
use mamba_types::{
    FieldTable, FieldValue, SoftError, Violation,
    limits::SEEN_IDS_MAX,
    table::{self, ShortString},
};

use crate::filter;

/// Ten years in milliseconds: the longest time an argument may ask for.
pub(crate) const TIME_MAX_MS: i64 = 315_360_000_000;
/// A quorum queue's delivery limit when the declaration names none.
const QUORUM_DELIVERY_LIMIT: u32 = 20;

const CLASSIC: u8 = 1;
const QUORUM: u8 = 2;
const STREAM: u8 = 4;

/// How an argument's value is checked.
#[derive(Clone, Copy)]
enum Check {
    QueueType,
    /// An integer in a range; a value above says `too large` with that word.
    Integer {
        min: i64,
        max: i64,
        above: &'static str,
    },
    /// One of these words, or the reason given.
    Word(&'static [&'static str], &'static str),
    Boolean,
    Text,
    DeadLetterKey,
    /// A time that is not below `x-delayed-retry-min`.
    RetryMax,
    AnyInteger,
    QueueMode,
    QueueVersion,
    Anything,
    MaxAge,
}

struct Known {
    key: &'static str,
    types: u8,
    check: Check,
}

const fn known(key: &'static str, types: u8, check: Check) -> Known {
    Known { key, types, check }
}

const COUNT: Check = Check::Integer {
    min: 0,
    max: i64::MAX,
    above: "",
};
const TIME: Check = Check::Integer {
    min: 0,
    max: TIME_MAX_MS,
    above: "value_too_large",
};
const POSITIVE: Check = Check::Integer {
    min: 1,
    max: i64::MAX,
    above: "",
};
const LOCATORS: &[&str] = &[
    "client-local",
    "balanced",
    "random",
    "least-leaders",
    "min-masters",
];

/// Every argument some queue type knows; others are stored, shown and ignored.
const KNOWN: &[Known] = &[
    known("x-queue-type", CLASSIC | QUORUM | STREAM, Check::QueueType),
    known("x-message-ttl", CLASSIC | QUORUM, TIME),
    known(
        "x-expires",
        CLASSIC | QUORUM,
        Check::Integer {
            min: 1,
            max: TIME_MAX_MS,
            above: "value_too_large",
        },
    ),
    known("x-max-length", CLASSIC | QUORUM, COUNT),
    known("x-max-length-bytes", CLASSIC | QUORUM | STREAM, COUNT),
    known(
        "x-overflow",
        CLASSIC | QUORUM,
        Check::Word(
            &["drop-head", "reject-publish", "reject-publish-dlx"],
            "invalid_overflow",
        ),
    ),
    known("x-dead-letter-exchange", CLASSIC | QUORUM, Check::Text),
    known(
        "x-dead-letter-routing-key",
        CLASSIC | QUORUM,
        Check::DeadLetterKey,
    ),
    known(
        "x-dead-letter-strategy",
        QUORUM,
        Check::Word(&["at-most-once", "at-least-once"], "invalid_dlx_strategy"),
    ),
    known(
        "x-max-priority",
        CLASSIC,
        Check::Integer {
            min: 0,
            max: 255,
            above: "max_value_exceeded",
        },
    ),
    known("x-single-active-consumer", CLASSIC | QUORUM, Check::Boolean),
    known("x-queue-mode", CLASSIC, Check::QueueMode),
    known("x-queue-version", CLASSIC, Check::QueueVersion),
    known("x-queue-master-locator", CLASSIC, Check::Anything),
    known(
        "x-queue-leader-locator",
        CLASSIC | QUORUM | STREAM,
        Check::Word(LOCATORS, "invalid_queue_locator_arg"),
    ),
    known("x-delivery-limit", CLASSIC | QUORUM, Check::AnyInteger),
    known("x-quorum-initial-group-size", QUORUM, POSITIVE),
    known("x-max-in-memory-length", QUORUM, COUNT),
    known("x-max-in-memory-bytes", QUORUM, COUNT),
    known("x-consumer-timeout", CLASSIC | QUORUM, COUNT),
    known("x-consumer-disconnected-timeout", QUORUM, COUNT),
    known(
        "x-delayed-retry-type",
        CLASSIC | QUORUM,
        Check::Word(
            &["disabled", "all", "failed", "returned"],
            "invalid_delayed_retry_type",
        ),
    ),
    known("x-message-deduplication", CLASSIC | QUORUM, Check::Boolean),
    known(
        "x-cache-size",
        CLASSIC | QUORUM,
        Check::Integer {
            min: 1,
            max: SEEN_IDS_MAX as i64,
            above: "value_too_large",
        },
    ),
    known(
        "x-cache-ttl",
        CLASSIC | QUORUM,
        Check::Integer {
            min: 1,
            max: TIME_MAX_MS,
            above: "value_too_large",
        },
    ),
    known("x-deduplication-header", CLASSIC | QUORUM, Check::Text),
    known("x-delayed-retry-min", CLASSIC | QUORUM, TIME),
    known("x-delayed-retry-max", CLASSIC | QUORUM, Check::RetryMax),
    known("x-max-age", STREAM, Check::MaxAge),
    known("x-stream-max-segment-size-bytes", STREAM, COUNT),
    known("x-stream-filter-size-bytes", STREAM, COUNT),
    known("x-initial-cluster-size", STREAM, POSITIVE),
];

/// What a `queue.declare` asks for, besides its name.
#[derive(Clone, Debug)]
pub(crate) struct Flags {
    pub(crate) durable: bool,
    pub(crate) exclusive: bool,
    pub(crate) auto_delete: bool,
}

fn precondition(text: String) -> Violation {
    Violation::channel(SoftError::PreconditionFailed, text)
}

/// The table's value for a key.
pub(crate) fn get<'a>(arguments: &'a FieldTable, key: &str) -> Option<&'a FieldValue> {
    arguments.inner().get(key)
}

/// The queue type the arguments name; absent, empty and `undefined` mean classic.
fn type_name(arguments: &FieldTable) -> Option<&str> {
    let name = get(arguments, "x-queue-type").and_then(table::text)?;
    (!name.is_empty() && name != "undefined").then_some(name)
}

/// The type of a queue that names none: the virtual host's default, if a queue of that type can be declared so.
pub(crate) fn default_type<'a>(of_vhost: Option<&'a str>, asked: &Flags) -> &'a str {
    let replicated = asked.durable && !asked.exclusive && !asked.auto_delete;
    of_vhost
        .filter(|kind| *kind == "classic" || replicated)
        .unwrap_or("classic")
}

/// Makes the queue type explicit, as it is stored, shown and compared.
pub(crate) fn with_queue_type(mut arguments: FieldTable, default: &str) -> FieldTable {
    if !matches!(get(&arguments, "x-queue-type"), Some(value) if table::text(value) != Some("") && table::text(value) != Some("undefined"))
    {
        arguments.insert(
            ShortString::from("x-queue-type"),
            FieldValue::LongString(default.into()),
        );
    }
    arguments
}

/// The dead-letter exchange named by the arguments.
///
/// # Errors
/// 406 when it is no string.
pub(crate) fn dead_letter_exchange<'a>(
    arguments: &'a FieldTable,
    printed: &str,
) -> Result<Option<&'a str>, Violation> {
    match get(arguments, "x-dead-letter-exchange") {
        None => Ok(None),
        Some(value) => match table::text(value) {
            Some(text) => Ok(Some(text)),
            None => Err(precondition(format!(
                "invalid type '{}' for arg 'x-dead-letter-exchange' in {printed}",
                table::type_word(value)
            ))),
        },
    }
}

/// Checks a new queue's arguments and says what they mean. `printed` is the queue as error texts name it;
/// `named_by_client` is false for a server-named queue.
///
/// # Errors
/// 406 with the texts of `spec: errors §2.2, §3.4`.
pub(crate) fn settings(
    arguments: &FieldTable,
    flags: &Flags,
    printed: &str,
    named_by_client: bool,
) -> Result<Settings, Violation> {
    let invalid = |key: &str, reason: String| {
        precondition(format!("invalid arg '{key}' for {printed}: {reason}"))
    };
    let kind = match type_name(arguments) {
        None | Some("classic") => QueueKind::Classic,
        Some("quorum") => QueueKind::Quorum,
        Some("stream") => {
            let reason = "\"unsupported queue type 'stream'\": this broker has no streams yet, declare 'classic' or 'quorum'";
            return Err(invalid("x-queue-type", reason.to_owned()));
        }
        Some(other) => {
            return Err(invalid(
                "x-queue-type",
                format!("\"unsupported queue type '{other}'\""),
            ));
        }
    };
    let (own, word) = match kind {
        QueueKind::Classic => (CLASSIC, "rabbit_classic_queue"),
        QueueKind::Quorum => (QUORUM, "rabbit_quorum_queue"),
    };
    for Known { key, types, check } in KNOWN {
        let Some(value) = get(arguments, key) else {
            continue;
        };
        if types & own == 0 {
            return Err(precondition(format!(
                "invalid arg '{key}' for {printed} of queue type {word}"
            )));
        }
        check_value(*check, value, arguments).map_err(|reason| invalid(key, reason))?;
    }
    if kind == QueueKind::Quorum {
        check_quorum(flags, printed, named_by_client)?;
    }
    let declared = Settings {
        kind,
        single_active_consumer: matches!(
            get(arguments, "x-single-active-consumer"),
            Some(FieldValue::Boolean(true))
        ),
        max_priority: get(arguments, "x-max-priority")
            .and_then(table::integer)
            .and_then(|max| u8::try_from(max).ok())
            .unwrap_or(0),
        ..Settings::default()
    };
    let alone = QueueSettings::new(queue_type(kind), arguments, &Applied::default());
    Ok(effective(declared, &alone))
}

/// The type that policies know a queue by.
pub(crate) const fn queue_type(kind: QueueKind) -> QueueType {
    match kind {
        QueueKind::Classic => QueueType::Classic,
        QueueKind::Quorum => QueueType::Quorum,
    }
}

/// What holds for a queue that was declared so, once its arguments and its policies are joined (`spec: semantics §23`).
pub(crate) fn effective(declared: Settings, joined: &QueueSettings) -> Settings {
    let kind = declared.kind;
    Settings {
        delivery_limit: match (kind, joined.delivery_limit) {
            (QueueKind::Classic, None) => None,
            (QueueKind::Quorum, None) => Some(QUORUM_DELIVERY_LIMIT),
            (_, Some(limit)) => u32::try_from(limit.value).ok(),
        },
        retry: retry(joined),
        message_ttl_ms: joined.message_ttl_ms.map(|ttl| ttl.value),
        max_length: joined.max_length.map(|max| max.value),
        max_length_bytes: joined.max_length_bytes.map(|max| max.value),
        overflow: match (joined.overflow.map(|overflow| overflow.value), kind) {
            (Some(mamba_policy::Overflow::RejectPublish), _) => Overflow::RejectPublish,
            (Some(mamba_policy::Overflow::RejectPublishDlx), QueueKind::Classic) => {
                Overflow::RejectPublishDeadLetter
            }
            (Some(_) | None, _) => Overflow::DropHead,
        },
        dead_letters: joined.dead_letter_exchange.is_some(),
        consumer_timeout_ms: joined.consumer_timeout_ms.map(|timeout| timeout.value),
        ..declared
    }
}

/// How long returned messages wait; nothing without a type and a time to wait.
fn retry(joined: &QueueSettings) -> Option<Retry> {
    let on = match joined.delayed_retry_type?.value {
        DelayedRetry::Disabled => return None,
        DelayedRetry::All => RetryOn::All,
        DelayedRetry::Failed => RetryOn::Failed,
        DelayedRetry::Returned => RetryOn::Returned,
    };
    let min_ms = joined.delayed_retry_min_ms?.value;
    (min_ms > 0).then_some(Retry {
        on,
        min_ms,
        max_ms: joined.delayed_retry_max_ms.map(|max| max.value),
    })
}

fn check_quorum(flags: &Flags, printed: &str, named_by_client: bool) -> Result<(), Violation> {
    let invalid = |property| {
        Err(precondition(format!(
            "invalid property '{property}' for {printed}"
        )))
    };
    if !named_by_client {
        return Err(precondition(
            "Cannot declare a server-named queue for type rabbit_quorum_queue".to_owned(),
        ));
    }
    if flags.auto_delete {
        return invalid("auto-delete");
    }
    if flags.exclusive {
        return invalid("exclusive-owner");
    }
    if !flags.durable {
        return invalid("non-durable");
    }
    Ok(())
}

/// The reason as the reply text prints it, when the value does not do.
fn check_value(check: Check, value: &FieldValue, arguments: &FieldTable) -> Result<(), String> {
    let unacceptable = || format!("{{unacceptable_type,{}}}", table::type_word(value));
    match check {
        Check::QueueType | Check::Text | Check::MaxAge => {
            table::text(value).map(drop).ok_or_else(unacceptable)
        }
        Check::AnyInteger => expect_integer(value).map(drop),
        Check::Anything => Ok(()),
        Check::QueueMode => match table::text(value) {
            Some("default" | "lazy") => Ok(()),
            Some(mode) => Err(format!("\"unsupported queue mode '{mode}'\"")),
            None => Err(unacceptable()),
        },
        Check::QueueVersion => match expect_integer(value)? {
            1 | 2 => Ok(()),
            negative if negative < 0 => Err(format!("{{value_negative,{negative}}}")),
            version => Err(format!("\"unsupported queue version '{version}'\"")),
        },
        Check::Integer { min, max, above } => {
            let number = expect_integer(value)?;
            if number < 0 {
                Err(format!("{{value_negative,{number}}}"))
            } else if number < min {
                Err(format!("{{value_zero,{number}}}"))
            } else if number > max {
                Err(format!("{{{above},{number}}}"))
            } else {
                Ok(())
            }
        }
        Check::Word(words, reason) => match table::text(value) {
            Some(word) if words.contains(&word) => Ok(()),
            Some(_) => Err(reason.to_owned()),
            None => Err(unacceptable()),
        },
        Check::RetryMax => {
            check_value(TIME, value, arguments)?;
            let max = expect_integer(value)?;
            match get(arguments, "x-delayed-retry-min").and_then(table::integer) {
                Some(min) if min > max => Err(format!(
                    "\"{max} is less than x-delayed-retry-min, which is {min}\""
                )),
                _ => Ok(()),
            }
        }
        Check::Boolean => match value {
            FieldValue::Boolean(_) => Ok(()),
            _ => Err(unacceptable()),
        },
        Check::DeadLetterKey => match table::text(value) {
            None => Err(unacceptable()),
            Some(_) if get(arguments, "x-dead-letter-exchange").is_none() => {
                Err("routing_key_but_no_dlx_defined".to_owned())
            }
            Some(_) => Ok(()),
        },
    }
}

fn expect_integer(value: &FieldValue) -> Result<i64, String> {
    table::integer(value)
        .ok_or_else(|| format!("\"expected integer, got {}\"", table::type_word(value)))
}

/// Whether a redeclaration's arguments mean the same as the queue's own.
///
/// # Errors
/// 406 `inequivalent arg …` for the first difference, in the order of the known arguments.
pub(crate) fn check_equivalent(
    current: &FieldTable,
    received: &FieldTable,
    kind: QueueKind,
    printed: &str,
) -> Result<(), Violation> {
    let own = match kind {
        QueueKind::Classic => CLASSIC,
        QueueKind::Quorum => QUORUM,
    };
    for Known { key, .. } in KNOWN.iter().filter(|known| known.types & own != 0) {
        let (current, received) = (get(current, key), get(received, key));
        match (current, received) {
            (None, None) => {}
            (Some(c), Some(r)) if equal(c, r) => {}
            (Some(c), Some(r)) => {
                return Err(inequivalent(
                    key,
                    printed,
                    &format!("'{}'", table::bare(r)),
                    &format!("'{}'", table::bare(c)),
                ));
            }
            _ => {
                return Err(inequivalent(
                    key,
                    printed,
                    &table::described(received),
                    &table::described(current),
                ));
            }
        }
    }
    Ok(())
}

/// 406 `inequivalent arg 'KEY' for Q: received R but current is C`.
pub(crate) fn inequivalent(key: &str, printed: &str, received: &str, current: &str) -> Violation {
    precondition(format!(
        "inequivalent arg '{key}' for {printed}: received {received} but current is {current}"
    ))
}

/// Same value; a number under another tag is the same number.
fn equal(left: &FieldValue, right: &FieldValue) -> bool {
    let timestamp = |value: &FieldValue| match value {
        FieldValue::Timestamp(seconds) => i64::try_from(*seconds).ok(),
        other => table::integer(other),
    };
    table::same_value(left, right)
        || matches!((timestamp(left), timestamp(right)), (Some(l), Some(r)) if l == r)
}

/// A consumer's `x-consumer-timeout`, in milliseconds.
///
/// # Errors
/// 406 when it is no number from 0 on.
pub(crate) fn consumer_timeout_ms(
    arguments: &FieldTable,
    printed: &str,
) -> Result<Option<u64>, Violation> {
    let Some(value) = get(arguments, "x-consumer-timeout") else {
        return Ok(None);
    };
    check_value(COUNT, value, arguments).map_err(|reason| {
        precondition(format!(
            "invalid arg 'x-consumer-timeout' for {printed}: {reason}"
        ))
    })?;
    Ok(table::integer(value).and_then(|ms| u64::try_from(ms).ok()))
}

/// A consumer's `x-priority`.
///
/// # Errors
/// 406 when it is no integer, or when an argument belongs to streams only.
pub(crate) fn consumer_priority(
    arguments: &FieldTable,
    kind: QueueKind,
    printed: &str,
) -> Result<i64, Violation> {
    let word = match kind {
        QueueKind::Classic => "rabbit_classic_queue",
        QueueKind::Quorum => "rabbit_quorum_queue",
    };
    let foreign = |key: &str| {
        precondition(format!(
            "invalid arg '{key}' for {printed} of queue type {word}"
        ))
    };
    for key in [
        "x-stream-offset",
        "x-stream-filter",
        "x-stream-match-unfiltered",
    ] {
        if get(arguments, key).is_some() {
            return Err(foreign(key));
        }
    }
    if kind == QueueKind::Classic && get(arguments, "x-consumer-timeout").is_some() {
        return Err(foreign("x-consumer-timeout"));
    }
    match get(arguments, "x-priority") {
        None => Ok(0),
        Some(value) => expect_integer(value).map_err(|reason| {
            precondition(format!("invalid arg 'x-priority' for {printed}: {reason}"))
        }),
    }
}

/// A consumer's `x-filter`.
///
/// # Errors
/// 406 when it is no string, or no filter: then the text says at which character.
pub(crate) fn consumer_filter(
    arguments: &FieldTable,
    printed: &str,
) -> Result<Option<Arc<dyn Selector>>, Violation> {
    let Some(value) = get(arguments, "x-filter") else {
        return Ok(None);
    };
    check_value(Check::Text, value, arguments).map_err(|reason| {
        precondition(format!("invalid arg 'x-filter' for {printed}: {reason}"))
    })?;
    let text = table::text(value).unwrap_or_default();
    let filter = filter::parse(text).map_err(|error| precondition(error.message))?;
    Ok(Some(filter))
}
