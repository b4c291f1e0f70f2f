//! The checks on names and arguments, one by one, with the reply texts clients know (`spec: errors §3`).
//!
//! [`crate::RoutingTable`] runs those that belong to an operation by itself; the caller runs them earlier
//! where its own checks, permissions above all, come in between (`spec: errors §8`).

use mamba_types::{FieldTable, FieldValue, SoftError, Violation, table};

use crate::deduplication;
use crate::exchange::{DELAYED, Exchange, ExchangeKind, ExchangeSpec};
use crate::hashing::{self, BadWeight};
use crate::headers::Match;
use crate::topic::{self, TOPIC_HASH_WORDS_MAX};

const RESERVED: &str = "amq.";
const DELAYED_TYPE: &str = "x-delayed-type";
const ALTERNATE: &str = "alternate-exchange";

pub(crate) fn precondition(text: String) -> Violation {
    Violation::channel(SoftError::PreconditionFailed, text)
}

fn refused(text: String) -> Violation {
    Violation::channel(SoftError::AccessRefused, text)
}

/// `exchange 'NAME' in vhost 'VHOST'`.
#[must_use]
pub fn printed(vhost: &str, name: &str) -> String {
    format!("exchange '{name}' in vhost '{vhost}'")
}

/// 404 for an exchange.
#[must_use]
pub fn no_exchange(vhost: &str, name: &str) -> Violation {
    Violation::channel(
        SoftError::NotFound,
        format!("no exchange '{name}' in vhost '{vhost}'"),
    )
}

/// 404 for a queue.
#[must_use]
pub fn no_queue(vhost: &str, name: &str) -> Violation {
    Violation::channel(
        SoftError::NotFound,
        format!("no queue '{name}' in vhost '{vhost}'"),
    )
}

/// The type a word names.
///
/// # Errors
/// 406 when no exchange type has this name.
pub fn kind(word: &str) -> Result<ExchangeKind, Violation> {
    ExchangeKind::parse(word).ok_or_else(|| precondition(format!("unknown exchange type '{word}'")))
}

/// How an exchange declared so routes: like its type, or the type that a delayed exchange names.
///
/// # Errors
/// 406 when no exchange type has this name, or a delayed exchange names none.
pub fn routing_kind(word: &str, arguments: &FieldTable) -> Result<ExchangeKind, Violation> {
    if word != DELAYED {
        return kind(word);
    }
    match arguments.inner().get(DELAYED_TYPE).and_then(table::text) {
        // One delay is enough.
        Some(inner) if inner != DELAYED => kind(inner),
        _ => Err(precondition(
            "Invalid argument, 'x-delayed-type' must be an existing exchange type".to_owned(),
        )),
    }
}

/// Declare, delete, bind and unbind leave the default exchange alone.
///
/// # Errors
/// 403 when `name` is the default exchange's.
pub fn not_default(name: &str) -> Result<(), Violation> {
    if name.is_empty() {
        return Err(refused(
            "operation not permitted on the default exchange".to_owned(),
        ));
    }
    Ok(())
}

/// New exchanges stay out of the broker's name space.
///
/// # Errors
/// 403 when `name` begins with `amq.`.
pub fn not_reserved(name: &str) -> Result<(), Violation> {
    if name.starts_with(RESERVED) {
        return Err(refused(format!(
            "exchange name '{name}' contains reserved prefix 'amq.*'"
        )));
    }
    Ok(())
}

/// Whether a client may delete an exchange of this name, existing or not.
///
/// # Errors
/// 403 for the default exchange and for `amq.*`.
pub fn deletable(vhost: &str, name: &str) -> Result<(), Violation> {
    not_default(name)?;
    if name.starts_with(RESERVED) {
        return Err(refused(format!(
            "deletion of system {} not allowed",
            printed(vhost, name)
        )));
    }
    Ok(())
}

/// The alternate exchange the arguments name.
///
/// # Errors
/// 406 when the argument is not a long string.
pub fn alternate_exchange<'a>(
    vhost: &str,
    name: &str,
    arguments: &'a FieldTable,
) -> Result<Option<&'a [u8]>, Violation> {
    long_string(vhost, name, ALTERNATE, arguments)
}

fn long_string<'a>(
    vhost: &str,
    name: &str,
    key: &str,
    arguments: &'a FieldTable,
) -> Result<Option<&'a [u8]>, Violation> {
    match arguments.inner().get(key) {
        None => Ok(None),
        Some(FieldValue::LongString(text)) => Ok(Some(text.as_bytes())),
        Some(other) => Err(precondition(format!(
            "invalid type '{}' for arg '{key}' in {}",
            table::type_word(other),
            printed(vhost, name)
        ))),
    }
}

/// The arguments of a new exchange.
///
/// # Errors
/// 406 when the alternate exchange is not a string, a consistent-hash exchange cannot tell what to hash, or an
/// argument of de-duplication is not what it should be.
pub fn new_arguments(vhost: &str, spec: &ExchangeSpec) -> Result<(), Violation> {
    alternate_exchange(vhost, &spec.name, &spec.arguments)?;
    deduplication::check(vhost, spec)?;
    if routing_kind(&spec.kind, &spec.arguments)? != ExchangeKind::ConsistentHash {
        return Ok(());
    }
    let header = long_string(vhost, &spec.name, "hash-header", &spec.arguments)?;
    let property = long_string(vhost, &spec.name, "hash-property", &spec.arguments)?;
    match (header, property) {
        (Some(_), Some(_)) => Err(precondition(
            "hash-header and hash-property are mutually exclusive".to_owned(),
        )),
        (None, Some(property))
            if !matches!(property, b"message_id" | b"correlation_id" | b"timestamp") =>
        {
            Err(precondition(format!(
                "Unsupported property: {}",
                String::from_utf8_lossy(property)
            )))
        }
        _ => Ok(()),
    }
}

/// Whether a declaration describes the exchange that exists (`spec: semantics §2`).
///
/// # Errors
/// 406 with the first difference: type, durable, `auto_delete`, internal, alternate-exchange, arguments of de-duplication.
pub fn equivalent(vhost: &str, existing: &Exchange, spec: &ExchangeSpec) -> Result<(), Violation> {
    let current = existing.spec();
    let inequivalent = |key: &str, received: &str, current: &str| {
        Err(precondition(format!(
            "inequivalent arg '{key}' for {}: received {received} but current is {current}",
            printed(vhost, &spec.name)
        )))
    };
    if current.kind != spec.kind {
        return inequivalent(
            "type",
            &format!("'{}'", spec.kind),
            &format!("'{}'", current.kind),
        );
    }
    for (key, received, current) in [
        ("durable", spec.durable, current.durable),
        ("auto_delete", spec.auto_delete, current.auto_delete),
        ("internal", spec.internal, current.internal),
    ] {
        if received != current {
            return inequivalent(key, &format!("'{received}'"), &format!("'{current}'"));
        }
    }
    let inner = existing.delays().then_some(DELAYED_TYPE);
    let deduplication =
        existing.deduplicates() || deduplication::wanted(existing.kind(), &spec.arguments);
    let more = deduplication::KEYS.into_iter().filter(|_| deduplication);
    for key in [ALTERNATE].into_iter().chain(inner).chain(more) {
        let received = spec.arguments.inner().get(key);
        let current = current.arguments.inner().get(key);
        match (received, current) {
            (None, None) => {}
            (Some(received), Some(current)) if table::same_value(received, current) => {}
            (Some(received), Some(current)) => {
                return inequivalent(
                    key,
                    &format!("'{}'", table::bare(received)),
                    &format!("'{}'", table::bare(current)),
                );
            }
            (received, current) => {
                return inequivalent(key, &table::described(received), &table::described(current));
            }
        }
    }
    Ok(())
}

/// What a binding's destination is to the exchange types that are choosy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationType {
    /// A classic queue.
    ClassicQueue,
    /// Another queue, with its type as reply texts name it, e.g. `rabbit_quorum_queue`.
    OtherQueue(&'static str),
    /// An exchange.
    Exchange,
}

/// What the source's type demands of a binding.
///
/// # Errors
/// 406 for a bad `x-match`, a weight that is no positive integer, too many `#`, or what a local random
/// exchange does not take.
pub fn binding(
    kind: ExchangeKind,
    key: &str,
    arguments: &FieldTable,
    destination: DestinationType,
) -> Result<(), Violation> {
    match kind {
        ExchangeKind::Direct
        | ExchangeKind::Fanout
        | ExchangeKind::ModulusHash
        | ExchangeKind::Random
        | ExchangeKind::MessageDeduplication => Ok(()),
        ExchangeKind::Topic => match topic::hash_words(key) {
            count if count > TOPIC_HASH_WORDS_MAX => Err(precondition(format!(
                "Topic binding key '{key}' uses {count} '#' wildcards, at most {TOPIC_HASH_WORDS_MAX} are allowed"
            ))),
            _ => Ok(()),
        },
        ExchangeKind::Headers if Match::of(arguments).is_some() => Ok(()),
        ExchangeKind::Headers => Err(bad_match(arguments.inner().get("x-match"))),
        ExchangeKind::ConsistentHash => match hashing::weight(key) {
            Ok(_) => Ok(()),
            Err(BadWeight::NotAnInteger) => Err(precondition(format!(
                "The binding key must be an integer: {}",
                term(key.as_bytes())
            ))),
            Err(BadWeight::BelowOne) => Err(precondition(
                "The binding key must be greater than 0".to_owned(),
            )),
        },
        ExchangeKind::LocalRandom if !key.is_empty() => Err(precondition(format!(
            "Non empty binding '{key}' key not permitted"
        ))),
        ExchangeKind::LocalRandom => match destination {
            DestinationType::ClassicQueue => Ok(()),
            DestinationType::OtherQueue(kind) => Err(precondition(format!(
                "Queue type {kind} not valid for this exchange type"
            ))),
            DestinationType::Exchange => Err(precondition("Destination not found".to_owned())),
        },
    }
}

fn bad_match(value: Option<&FieldValue>) -> Violation {
    let Some(value) = value else {
        return precondition("x-match is missing".to_owned());
    };
    precondition(match value {
        FieldValue::LongString(word) => format!(
            "Invalid x-match field value {}; expected all, any, all-with-x, or any-with-x",
            term(word.as_bytes())
        ),
        other => format!(
            "Invalid x-match field type {} (value {}); expected longstr",
            table::type_word(other),
            value_term(other)
        ),
    })
}

/// A value as the reference prints it in this one text.
fn value_term(value: &FieldValue) -> String {
    let tagged = |value: &FieldValue| format!("{},{}", table::type_word(value), value_term(value));
    match value {
        FieldValue::FieldArray(values) => {
            let values: Vec<_> = values
                .as_slice()
                .iter()
                .map(|value| format!("{{{}}}", tagged(value)))
                .collect();
            format!("[{}]", values.join(","))
        }
        FieldValue::FieldTable(fields) => {
            let fields: Vec<_> = fields
                .into_iter()
                .map(|(key, value)| {
                    format!("{{{},{}}}", term(key.as_str().as_bytes()), tagged(value))
                })
                .collect();
            format!("[{}]", fields.join(","))
        }
        other => table::octets(other).map_or_else(|| table::bare(other), term),
    }
}

/// Octets as an Erlang term: `<<"text">>`, `<<"té"/utf8>>` or `<<1,255>>`.
fn term(octets: &[u8]) -> String {
    let text = std::str::from_utf8(octets).ok().filter(|text| {
        !text
            .chars()
            .any(|c| c.is_control() && !"\n\r\t".contains(c))
    });
    let Some(text) = text else {
        let numbers: Vec<_> = octets.iter().map(u8::to_string).collect();
        return format!("<<{}>>", numbers.join(","));
    };
    if text.is_empty() {
        return "<<>>".to_owned();
    }
    let suffix = if text.is_ascii() { "" } else { "/utf8" };
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => escaped.push_str("\\\""),
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            other => escaped.push(other),
        }
    }
    format!("<<\"{escaped}\"{suffix}>>")
}

/// Publishing to an exchange of clients' own.
///
/// # Errors
/// 403 when it is internal.
pub fn publishable(vhost: &str, exchange: &Exchange) -> Result<(), Violation> {
    if exchange.spec().internal {
        return Err(refused(format!(
            "cannot publish to internal {}",
            printed(vhost, &exchange.spec().name)
        )));
    }
    Ok(())
}
