//! What holds for a queue or exchange once its arguments, its policy and its operator policy are joined
//! (`spec: semantics §23`).

use mamba_types::{FieldTable, FieldValue, table};
use serde_json::Value;

use crate::{
    key::{QueueType, Scope, limit},
    policy::{Applied, ObjectKind, PolicySet},
};

/// Who made a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The declaration.
    Argument,
    /// The policy.
    Policy,
    /// The operator policy.
    OperatorPolicy,
}

impl From<Scope> for Source {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Policy => Self::Policy,
            Scope::OperatorPolicy => Self::OperatorPolicy,
        }
    }
}

/// A value and who set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value that holds.
    pub value: T,
    /// Where it came from.
    pub source: Source,
}

/// What happens to a message too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// `drop-head`.
    DropHead,
    /// `reject-publish`.
    RejectPublish,
    /// `reject-publish-dlx`.
    RejectPublishDlx,
}

impl Overflow {
    /// The behaviour of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "drop-head" => Self::DropHead,
            "reject-publish" => Self::RejectPublish,
            "reject-publish-dlx" => Self::RejectPublishDlx,
            _ => return None,
        })
    }
}

/// Which messages wait before they are delivered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DelayedRetry {
    /// `disabled`: none.
    Disabled,
    /// `all`.
    All,
    /// `failed`: rejected ones and those of a lost consumer.
    Failed,
    /// `returned`: those given back.
    Returned,
}

impl DelayedRetry {
    /// The type of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "disabled" => Self::Disabled,
            "all" => Self::All,
            "failed" => Self::Failed,
            "returned" => Self::Returned,
            _ => return None,
        })
    }
}

/// How dead letters are handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetterStrategy {
    /// `at-most-once`.
    AtMostOnce,
    /// `at-least-once`.
    AtLeastOnce,
}

impl DeadLetterStrategy {
    /// The strategy of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "at-most-once" => Self::AtMostOnce,
            "at-least-once" => Self::AtLeastOnce,
            _ => return None,
        })
    }
}

/// What holds for a queue; `None` where nobody said anything. Settings no policy can make are not here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueSettings {
    /// Time to live of messages, in milliseconds; 0 is right.
    pub message_ttl_ms: Option<Setting<u64>>,
    /// Time without use after which the queue is deleted, in milliseconds; never 0.
    pub expires_ms: Option<Setting<u64>>,
    /// Most ready messages.
    pub max_length: Option<Setting<u64>>,
    /// Most octets of ready messages' bodies.
    pub max_length_bytes: Option<Setting<u64>>,
    /// What happens beyond either.
    pub overflow: Option<Setting<Overflow>>,
    /// Where dead letters go; `""` is the default exchange.
    pub dead_letter_exchange: Option<Setting<String>>,
    /// The routing key they get.
    pub dead_letter_routing_key: Option<Setting<String>>,
    /// How they are handed over.
    pub dead_letter_strategy: Option<Setting<DeadLetterStrategy>>,
    /// Deliveries before a message is a dead letter; negative is unlimited.
    pub delivery_limit: Option<Setting<i64>>,
    /// Time a delivery may stay unacknowledged, in milliseconds.
    pub consumer_timeout_ms: Option<Setting<u64>>,
    /// Time a consumer that cannot be reached keeps its deliveries, in milliseconds.
    pub consumer_disconnected_timeout_ms: Option<Setting<u64>>,
    /// Which messages wait before their next delivery.
    pub delayed_retry_type: Option<Setting<DelayedRetry>>,
    /// Wait after the first failure, in milliseconds.
    pub delayed_retry_min_ms: Option<Setting<u64>>,
    /// Longest wait, in milliseconds.
    pub delayed_retry_max_ms: Option<Setting<u64>>,
    /// Replicas wanted.
    pub target_group_size: Option<Setting<u64>>,
}

/// How an argument joins what policies say.
#[derive(Clone, Copy)]
enum Join {
    Minimum,
    Limit,
    Argument,
    Policy,
}

/// Reads one setting after the other.
struct Joiner<'a> {
    arguments: &'a FieldTable,
    policies: std::collections::BTreeMap<&'a str, (&'a Value, Scope)>,
}

impl Joiner<'_> {
    /// Joins the argument `x-NAME` to the setting `NAME`; what neither can be read as is not there.
    fn join<T: Copy>(
        &self,
        name: &str,
        argument: impl Fn(&FieldValue) -> Option<T>,
        setting: impl Fn(&Value) -> Option<T>,
        stricter: impl Fn(T, T) -> Source,
    ) -> Option<Setting<T>> {
        let argument = self
            .arguments
            .inner()
            .get(format!("x-{name}").as_str())
            .and_then(argument)
            .map(|value| Setting {
                value,
                source: Source::Argument,
            });
        let policy = self.policies.get(name).and_then(|(value, scope)| {
            setting(value).map(|value| Setting {
                value,
                source: (*scope).into(),
            })
        });
        match (argument, policy) {
            (Some(argument), Some(policy)) => Some(match stricter(argument.value, policy.value) {
                Source::Argument => argument,
                Source::Policy | Source::OperatorPolicy => policy,
            }),
            (argument, policy) => argument.or(policy),
        }
    }

    fn count(&self, name: &str) -> Option<Setting<u64>> {
        self.join(
            name,
            |value| table::integer(value).and_then(|number| u64::try_from(number).ok()),
            Value::as_u64,
            |argument, policy| Join::Minimum.chosen(i128::from(argument), i128::from(policy)),
        )
    }

    fn word<T: Copy>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Option<T>,
        join: Join,
    ) -> Option<Setting<T>> {
        self.join(
            name,
            |value| table::text(value).and_then(&parse),
            |value| value.as_str().and_then(&parse),
            |_, _| join.chosen(0, 0),
        )
    }

    fn text(&self, name: &str) -> Option<Setting<String>> {
        let argument = self.arguments.inner().get(format!("x-{name}").as_str());
        if let Some(text) = argument.and_then(table::text) {
            return Some(Setting {
                value: text.to_owned(),
                source: Source::Argument,
            });
        }
        let (value, scope) = self.policies.get(name)?;
        Some(Setting {
            value: value.as_str()?.to_owned(),
            source: (*scope).into(),
        })
    }
}

impl Join {
    /// The argument, or the policies.
    fn chosen(self, argument: i128, policy: i128) -> Source {
        let argument_wins = match self {
            Self::Minimum => argument <= policy,
            Self::Limit => {
                let narrow = |number| i64::try_from(number).unwrap_or(i64::MAX);
                let (argument, policy) = (narrow(argument), narrow(policy));
                limit(argument, policy) == argument
            }
            Self::Argument => true,
            Self::Policy => false,
        };
        if argument_wins {
            Source::Argument
        } else {
            Source::Policy
        }
    }
}

impl QueueSettings {
    /// Joins a queue's arguments to the policies that apply to it. An argument of the wrong type, which no
    /// declaration lets pass, counts as absent.
    #[must_use]
    pub fn new(queue: QueueType, arguments: &FieldTable, applied: &Applied<'_>) -> Self {
        let joiner = Joiner {
            arguments,
            policies: applied.settings(),
        };
        // Classic queues take the declaration's word on overflow, others the policy's.
        let overflow = match queue {
            QueueType::Classic => Join::Argument,
            QueueType::Quorum | QueueType::Stream => Join::Policy,
        };
        Self {
            message_ttl_ms: joiner.count("message-ttl"),
            expires_ms: joiner.count("expires").filter(|expires| expires.value > 0),
            max_length: joiner.count("max-length"),
            max_length_bytes: joiner.count("max-length-bytes"),
            overflow: joiner.word("overflow", Overflow::parse, overflow),
            dead_letter_exchange: joiner.text("dead-letter-exchange"),
            dead_letter_routing_key: joiner.text("dead-letter-routing-key"),
            dead_letter_strategy: joiner.word(
                "dead-letter-strategy",
                DeadLetterStrategy::parse,
                Join::Argument,
            ),
            delivery_limit: joiner.join(
                "delivery-limit",
                table::integer,
                Value::as_i64,
                |argument, policy| Join::Limit.chosen(argument.into(), policy.into()),
            ),
            consumer_timeout_ms: joiner.count("consumer-timeout"),
            consumer_disconnected_timeout_ms: joiner.count("consumer-disconnected-timeout"),
            delayed_retry_type: joiner.word(
                "delayed-retry-type",
                DelayedRetry::parse,
                Join::Argument,
            ),
            delayed_retry_min_ms: joiner.count("delayed-retry-min"),
            delayed_retry_max_ms: joiner.count("delayed-retry-max"),
            target_group_size: joiner.count("target-group-size"),
        }
    }
}

impl PolicySet {
    /// What holds for a queue.
    #[must_use]
    pub fn queue_settings(
        &self,
        name: &str,
        queue: QueueType,
        arguments: &FieldTable,
    ) -> QueueSettings {
        let applied = self.matching(name, ObjectKind::Queue(queue));
        QueueSettings::new(queue, arguments, &applied)
    }

    /// Where an exchange sends what it cannot route: its argument's word before its policy's.
    #[must_use]
    pub fn alternate_exchange(
        &self,
        name: &str,
        arguments: &FieldTable,
    ) -> Option<Setting<String>> {
        let argument = arguments.inner().get("alternate-exchange");
        if let Some(text) = argument.and_then(table::text) {
            return Some(Setting {
                value: text.to_owned(),
                source: Source::Argument,
            });
        }
        let applied = self.matching(name, ObjectKind::Exchange);
        let (value, scope) = *applied.settings().get("alternate-exchange")?;
        Some(Setting {
            value: value.as_str()?.to_owned(),
            source: scope.into(),
        })
    }
}
