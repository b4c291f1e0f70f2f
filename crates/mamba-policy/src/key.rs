//! The settings a policy can make: where each is allowed, what its values may be, and how two values of it
//! merge (`spec: semantics §23`).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::term::{binary, term};

/// What a policy says: settings by name, sorted.
pub type Definition = BTreeMap<String, Value>;

/// Whose policy it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// A user's.
    Policy,
    /// The operator's, who may bound what users set.
    OperatorPolicy,
}

/// How the value of an operator policy joins that of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merge {
    Minimum,
    Maximum,
    /// The smaller, unless one is negative, which means unlimited: then the larger.
    Limit,
    Operator,
}

/// Which values are right.
enum Allowed {
    /// Whole numbers in a range.
    Whole(i64, i64),
    Text,
    OneOf(&'static [&'static str]),
    Age,
}

const CLASSIC: u8 = 1;
const QUORUM: u8 = 2;
const STREAM: u8 = 4;
const ANY: u8 = CLASSIC | QUORUM | STREAM;

struct Key {
    name: &'static str,
    allowed: Allowed,
    /// `V is not a valid …`.
    words: &'static str,
    /// Queue types to which a policy with this key can apply.
    types: u8,
    /// `None`: not for operator policies.
    operator: Option<Merge>,
}

const fn key(
    name: &'static str,
    allowed: Allowed,
    words: &'static str,
    types: u8,
    operator: Option<Merge>,
) -> Key {
    Key {
        name,
        allowed,
        words,
        types,
        operator,
    }
}

const COUNT: Allowed = Allowed::Whole(0, i64::MAX);
const POSITIVE: Allowed = Allowed::Whole(1, i64::MAX);
const MINIMUM: Option<Merge> = Some(Merge::Minimum);
const OPERATOR: Option<Merge> = Some(Merge::Operator);

/// All of them, in alphabetical order.
static KEYS: [Key; 26] = [
    key(
        "alternate-exchange",
        Allowed::Text,
        "alternate exchange name",
        ANY,
        None,
    ),
    key(
        "consumer-disconnected-timeout",
        COUNT,
        "consumer disconnected timeout",
        ANY,
        None,
    ),
    key("consumer-timeout", COUNT, "consumer timeout", ANY, None),
    key(
        "dead-letter-exchange",
        Allowed::Text,
        "dead letter exchange name",
        CLASSIC | QUORUM,
        None,
    ),
    key(
        "dead-letter-routing-key",
        Allowed::Text,
        "dead letter routing key",
        CLASSIC | QUORUM,
        None,
    ),
    key(
        "dead-letter-strategy",
        Allowed::OneOf(&["at-most-once", "at-least-once"]),
        "dead letter strategy",
        QUORUM,
        None,
    ),
    key(
        "delayed-retry-max",
        COUNT,
        "delayed retry maximum",
        ANY,
        MINIMUM,
    ),
    key(
        "delayed-retry-min",
        COUNT,
        "delayed retry minimum",
        ANY,
        Some(Merge::Maximum),
    ),
    key(
        "delayed-retry-type",
        Allowed::OneOf(&["disabled", "all", "failed", "returned"]),
        "delayed retry type",
        ANY,
        OPERATOR,
    ),
    key(
        "delivery-limit",
        Allowed::Whole(i64::MIN, i64::MAX),
        "delivery limit",
        QUORUM,
        Some(Merge::Limit),
    ),
    key(
        "expires",
        POSITIVE,
        "queue expiry",
        CLASSIC | QUORUM,
        MINIMUM,
    ),
    key("initial-cluster-size", COUNT, "cluster size", STREAM, None),
    key("max-age", Allowed::Age, "max age", STREAM, None),
    key(
        "max-in-memory-bytes",
        COUNT,
        "maximum memory in bytes",
        QUORUM,
        MINIMUM,
    ),
    key(
        "max-in-memory-length",
        COUNT,
        "maximum memory in bytes",
        QUORUM,
        MINIMUM,
    ),
    key(
        "max-length",
        COUNT,
        "maximum length",
        CLASSIC | QUORUM,
        MINIMUM,
    ),
    key(
        "max-length-bytes",
        COUNT,
        "maximum length in bytes",
        ANY,
        MINIMUM,
    ),
    key(
        "message-ttl",
        COUNT,
        "message TTL",
        CLASSIC | QUORUM,
        MINIMUM,
    ),
    key(
        "overflow",
        Allowed::OneOf(&["drop-head", "reject-publish", "reject-publish-dlx"]),
        "overflow value",
        CLASSIC | QUORUM,
        OPERATOR,
    ),
    key(
        "queue-leader-locator",
        Allowed::OneOf(&[
            "client-local",
            "balanced",
            "random",
            "least-leaders",
            "min-masters",
        ]),
        "queue leader locator value",
        ANY,
        None,
    ),
    key(
        "queue-master-locator",
        Allowed::OneOf(&["min-masters", "client-local", "random"]),
        "master locator",
        CLASSIC,
        OPERATOR,
    ),
    key(
        "queue-mode",
        Allowed::OneOf(&["default", "lazy"]),
        "queue-mode value",
        CLASSIC,
        None,
    ),
    key(
        "queue-version",
        Allowed::Whole(1, 2),
        "queue-version value",
        ANY,
        OPERATOR,
    ),
    key(
        "stream-filter-size-bytes",
        Allowed::Whole(16, 255),
        "filter size. Valid range is 16-255",
        ANY,
        None,
    ),
    key(
        "stream-max-segment-size-bytes",
        Allowed::Whole(0, 3_000_000_000),
        "segment size",
        STREAM,
        None,
    ),
    key(
        "target-group-size",
        POSITIVE,
        "qq target count value",
        QUORUM,
        Some(Merge::Maximum),
    ),
];

/// The type of a queue, as far as policies care.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QueueType {
    /// `classic`.
    #[default]
    Classic,
    /// `quorum`.
    Quorum,
    /// `stream`.
    Stream,
}

impl QueueType {
    /// The type of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Classic, Self::Quorum, Self::Stream]
            .into_iter()
            .find(|kind| kind.name() == name)
    }

    /// As in `x-queue-type`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
            Self::Stream => "stream",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Classic => CLASSIC,
            Self::Quorum => QUORUM,
            Self::Stream => STREAM,
        }
    }
}

fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

impl Allowed {
    fn allows(&self, value: &Value) -> bool {
        match self {
            Self::Whole(min, max) => value
                .as_i64()
                .is_some_and(|number| (*min..=*max).contains(&number)),
            Self::Text => value.is_string(),
            Self::OneOf(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Self::Age => value.as_str().is_some_and(is_age),
        }
    }
}

/// A number and its unit: `7D`.
fn is_age(text: &str) -> bool {
    let Some(number) = text.strip_suffix(['Y', 'M', 'D', 'h', 'm', 's']) else {
        return false;
    };
    !number.is_empty() && number.len() <= 18 && number.bytes().all(|digit| digit.is_ascii_digit())
}

/// Checks what a policy says.
///
/// # Errors
/// The message, as the reference broker words it: of the first wrong value, otherwise of all unknown keys.
pub(crate) fn check(scope: Scope, definition: &Definition) -> Result<(), String> {
    if definition.is_empty() {
        return Err("no policy provided".to_owned());
    }
    let mut unknown = Vec::new();
    for (name, value) in definition {
        match find(name) {
            Some(key) if scope == Scope::Policy || key.operator.is_some() => {
                if !key.allowed.allows(value) {
                    return Err(format!("{} is not a valid {}", term(value), key.words));
                }
            }
            _ => unknown.push(format!("{{{},{}}}", binary(name), term(value))),
        }
    }
    if unknown.is_empty() {
        return Ok(());
    }
    Err(format!(
        "[{}] are not recognised policy settings",
        unknown.join(",")
    ))
}

/// Whether all settings make sense for queues of the type.
///
/// `explicit` says that the policy is for this type and no other. A delivery limit then reaches classic queues
/// as well, which here have one: in the reference broker such a policy applies to nothing.
pub(crate) fn applicable(definition: &Definition, queue: QueueType, explicit: bool) -> bool {
    definition.keys().all(|name| {
        find(name).is_none_or(|key| {
            key.types & queue.bit() != 0
                || explicit && queue == QueueType::Classic && key.name == "delivery-limit"
        })
    })
}

/// Joins the value of an operator policy to that of a policy; says which was taken.
pub(crate) fn merged<'v>(name: &str, policy: &'v Value, operator: &'v Value) -> (&'v Value, Scope) {
    let merge = find(name)
        .and_then(|key| key.operator)
        .unwrap_or(Merge::Operator);
    let (Some(user), Some(bound)) = (policy.as_i64(), operator.as_i64()) else {
        return (operator, Scope::OperatorPolicy);
    };
    let keep = match merge {
        Merge::Operator => false,
        Merge::Minimum => user < bound,
        Merge::Maximum => user > bound,
        Merge::Limit => limit(user, bound) == user && user != bound,
    };
    if keep {
        (policy, Scope::Policy)
    } else {
        (operator, Scope::OperatorPolicy)
    }
}

/// The stricter of two limits of which a negative one is none: of two numbers the smaller, of a number and none,
/// the number.
pub(crate) const fn limit(left: i64, right: i64) -> i64 {
    if (left < 0 || right < 0) == (left < right) {
        right
    } else {
        left
    }
}
