//! Policies, and which of them apply to an object.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    key::{self, Definition, QueueType, Scope},
    pattern::Pattern,
    term::term,
};

/// Kinds of objects a policy is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ApplyTo {
    /// Queues and exchanges.
    #[default]
    All,
    /// Queues of every type.
    Queues,
    /// Classic queues.
    ClassicQueues,
    /// Quorum queues.
    QuorumQueues,
    /// Streams.
    Streams,
    /// Exchanges.
    Exchanges,
}

impl ApplyTo {
    const ALL: [Self; 6] = [
        Self::All,
        Self::Queues,
        Self::ClassicQueues,
        Self::QuorumQueues,
        Self::Streams,
        Self::Exchanges,
    ];

    /// The kinds of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kinds| kinds.name() == name)
    }

    /// As in a policy's `apply-to`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Queues => "queues",
            Self::ClassicQueues => "classic_queues",
            Self::QuorumQueues => "quorum_queues",
            Self::Streams => "streams",
            Self::Exchanges => "exchanges",
        }
    }

    const fn covers(self, kind: ObjectKind) -> bool {
        match (self, kind) {
            (Self::All, _)
            | (Self::Exchanges, ObjectKind::Exchange)
            | (Self::Queues, ObjectKind::Queue(_))
            | (Self::ClassicQueues, ObjectKind::Queue(QueueType::Classic))
            | (Self::QuorumQueues, ObjectKind::Queue(QueueType::Quorum))
            | (Self::Streams, ObjectKind::Queue(QueueType::Stream)) => true,
            (
                Self::Queues
                | Self::ClassicQueues
                | Self::QuorumQueues
                | Self::Streams
                | Self::Exchanges,
                ObjectKind::Queue(_) | ObjectKind::Exchange,
            ) => false,
        }
    }
}

/// What a policy may apply to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// A queue of the type.
    Queue(QueueType),
    /// An exchange.
    Exchange,
}

/// A policy or operator policy of a virtual host, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    name: String,
    scope: Scope,
    pattern: Pattern,
    apply_to: ApplyTo,
    priority: f64,
    definition: Definition,
}

/// Why something is no policy: all complaints, as the reference broker words them.
///
/// Printed as `Validation failed`, an empty line, and each complaint on its own line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Validation failed\n\n{}\n", .messages.join("\n"))]
pub struct ValidationError {
    /// At least one.
    pub messages: Vec<String>,
}

impl Policy {
    /// Makes a policy of its parts; those left out have defaults: `apply-to` is `all`, `priority` 0.
    ///
    /// # Errors
    /// [`ValidationError`] with a message for each part that is wrong.
    pub fn new(
        scope: Scope,
        name: &str,
        pattern: &str,
        definition: Definition,
    ) -> Result<Self, ValidationError> {
        let mut messages = Vec::new();
        if let Err(message) = key::check(scope, &definition) {
            messages.push(message);
        }
        match Pattern::new(pattern) {
            Ok(pattern) if messages.is_empty() => Ok(Self {
                name: name.to_owned(),
                scope,
                pattern,
                apply_to: ApplyTo::All,
                priority: 0.0,
                definition,
            }),
            Ok(_) => Err(ValidationError { messages }),
            Err(message) => {
                messages.push(message);
                Err(ValidationError { messages })
            }
        }
    }

    /// The same policy for other kinds of objects.
    #[must_use]
    pub fn applying_to(self, apply_to: ApplyTo) -> Self {
        Self { apply_to, ..self }
    }

    /// The same policy with another priority; a greater one wins. One that is no number counts as 0.
    #[must_use]
    pub fn with_priority(self, priority: f64) -> Self {
        Self {
            priority: if priority.is_finite() { priority } else { 0.0 },
            ..self
        }
    }

    /// Reads `{"pattern": …, "definition": {…}, "apply-to": …, "priority": …}`, the last two optional and other
    /// keys ignored: the body of the HTTP API, the value of an operator policy's parameter.
    ///
    /// # Errors
    /// [`ValidationError`] with a message for each part that is wrong or missing.
    pub fn from_json(scope: Scope, name: &str, json: &Value) -> Result<Self, ValidationError> {
        let mut messages = Vec::new();
        let absent = |value: Option<&Value>| value.map_or_else(|| "undefined".to_owned(), term);
        let apply_to = match json.get("apply-to") {
            None => ApplyTo::All,
            Some(value) => {
                let parsed = value.as_str().and_then(ApplyTo::parse);
                if parsed.is_none() {
                    let word = value.as_str().map_or_else(|| term(value), str::to_owned);
                    messages.push(format!(
                        "apply-to '{word}' unrecognised; should be one of: 'queues', 'classic_queues',  \
                         'quorum_queues', 'streams', 'exchanges', or 'all'"
                    ));
                }
                parsed.unwrap_or_default()
            }
        };
        let mut definition = Definition::new();
        match json.get("definition") {
            Some(Value::Object(settings)) => {
                definition = settings
                    .iter()
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect();
                if let Err(message) = key::check(scope, &definition) {
                    messages.push(message);
                }
            }
            other => messages.push(format!(
                "parse error while reading policy definition: {}. Validator: policy_validator.",
                absent(other)
            )),
        }
        let mut pattern = None;
        match json.get("pattern") {
            Some(Value::String(text)) => match Pattern::new(text) {
                Ok(compiled) => pattern = Some(compiled),
                Err(message) => messages.push(message),
            },
            other => messages.push(format!(
                "pattern should be a binary but was {}",
                absent(other)
            )),
        }
        let mut priority = 0.0;
        if let Some(value) = json.get("priority") {
            match value.as_f64() {
                Some(number) => priority = number,
                None => messages.push(format!(
                    "priority should be a number, actually was {}",
                    term(value)
                )),
            }
        }
        match pattern {
            Some(pattern) if messages.is_empty() => Ok(Self {
                name: name.to_owned(),
                scope,
                pattern,
                apply_to,
                priority,
                definition,
            }),
            _ => Err(ValidationError { messages }),
        }
    }

    /// Its name, unique among the policies of its scope in its virtual host.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whose policy it is.
    #[must_use]
    pub const fn scope(&self) -> Scope {
        self.scope
    }

    /// The regular expression looked for in names.
    #[must_use]
    pub const fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// What it is for.
    #[must_use]
    pub const fn apply_to(&self) -> ApplyTo {
        self.apply_to
    }

    /// Its priority, a finite number.
    #[must_use]
    pub const fn priority(&self) -> f64 {
        self.priority
    }

    /// The priority as JSON has it: whole when it is.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the number is whole and small enough"
    )]
    pub fn priority_json(&self) -> Value {
        if self.priority.fract() == 0.0 && self.priority.abs() < 9e15 {
            Value::from(self.priority as i64)
        } else {
            Value::from(self.priority)
        }
    }

    /// What it says.
    #[must_use]
    pub const fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Whether it can apply to the object: kind, name, and for a queue that its type knows all settings.
    #[must_use]
    pub fn applies(&self, name: &str, kind: ObjectKind) -> bool {
        if !self.apply_to.covers(kind) {
            return false;
        }
        let explicit = self.apply_to == ApplyTo::ClassicQueues;
        if let ObjectKind::Queue(queue) = kind
            && !key::applicable(&self.definition, queue, explicit)
        {
            return false;
        }
        self.pattern.matches(name)
    }
}

/// The policies of one virtual host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicySet {
    policies: BTreeMap<(Scope, String), Policy>,
}

impl PolicySet {
    /// Adds a policy, or replaces the one of its scope and name, which is returned.
    pub fn set(&mut self, policy: Policy) -> Option<Policy> {
        self.policies
            .insert((policy.scope, policy.name.clone()), policy)
    }

    /// Removes a policy.
    pub fn clear(&mut self, scope: Scope, name: &str) -> Option<Policy> {
        self.policies.remove(&(scope, name.to_owned()))
    }

    /// The policy of that name.
    #[must_use]
    pub fn find(&self, scope: Scope, name: &str) -> Option<&Policy> {
        self.policies.get(&(scope, name.to_owned()))
    }

    /// All of them, policies before operator policies, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Policy> {
        self.policies.values()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// The policy and the operator policy that apply to an object: of each scope the one with the greatest
    /// priority, and among equals the last by name.
    #[must_use]
    pub fn matching(&self, name: &str, kind: ObjectKind) -> Applied<'_> {
        let best = |scope| {
            let mut best: Option<&Policy> = None;
            for policy in self.policies.values() {
                let wins = policy.scope == scope
                    && best.is_none_or(|best| best.priority <= policy.priority)
                    && policy.applies(name, kind);
                if wins {
                    best = Some(policy);
                }
            }
            best
        };
        Applied {
            policy: best(Scope::Policy),
            operator: best(Scope::OperatorPolicy),
        }
    }
}

/// The policies that apply to one object: at most one of each scope.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Applied<'p> {
    /// The user's.
    pub policy: Option<&'p Policy>,
    /// The operator's.
    pub operator: Option<&'p Policy>,
}

impl<'p> Applied<'p> {
    /// What both say together, and who said it: `effective_policy_definition` of the HTTP API.
    #[must_use]
    pub fn settings(&self) -> BTreeMap<&'p str, (&'p Value, Scope)> {
        let mut settings = BTreeMap::new();
        if let Some(policy) = self.policy {
            for (name, value) in &policy.definition {
                settings.insert(name.as_str(), (value, Scope::Policy));
            }
        }
        if let Some(operator) = self.operator {
            for (name, value) in &operator.definition {
                settings
                    .entry(name.as_str())
                    .and_modify(|known| *known = key::merged(name, known.0, value))
                    .or_insert((value, Scope::OperatorPolicy));
            }
        }
        settings
    }

    /// As [`settings`](Self::settings), to keep and to show.
    #[must_use]
    pub fn definition(&self) -> Definition {
        self.settings()
            .into_iter()
            .map(|(name, (value, _))| (name.to_owned(), value.clone()))
            .collect()
    }
}
