//! What a definitions document says, once it has been read (`spec: semantics §25`).

use std::collections::{BTreeMap, BTreeSet};

use mamba_auth::HashAlgorithm;
use mamba_types::FieldTable;
use serde_json::Value;

use crate::{
    key::QueueType,
    policy::{Policy, ValidationError},
};

/// Everything a document defines. Names and arguments are checked as far as that is possible without a broker;
/// [`check`](Self::check) does the rest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Definitions {
    /// Users.
    pub users: Vec<User>,
    /// Virtual hosts.
    pub vhosts: Vec<VirtualHost>,
    /// `max-connections` and `max-queues` by virtual host; negative is unlimited.
    pub vhost_limits: BTreeMap<String, BTreeMap<String, i64>>,
    /// What users may do.
    pub permissions: Vec<Permission>,
    /// What users may do with topics.
    pub topic_permissions: Vec<TopicPermission>,
    /// Runtime parameters, without operator policies and limits.
    pub parameters: Vec<Parameter>,
    /// Parameters of the whole broker.
    pub global_parameters: Vec<GlobalParameter>,
    /// Policies and operator policies.
    pub policies: Vec<PolicyDefinition>,
    /// Queues.
    pub queues: Vec<QueueDefinition>,
    /// Exchanges.
    pub exchanges: Vec<ExchangeDefinition>,
    /// Bindings.
    pub bindings: Vec<BindingDefinition>,
    /// What was left out, and why: to be logged.
    pub warnings: Vec<String>,
}

/// What a user proves to be with.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing: no password lets this user in.
    None,
    /// base64(salt ++ hash(salt ++ password)), a salt of four octets, and how it was hashed.
    Hash(String, HashAlgorithm),
    /// A password in clear; to be hashed at once. Never exported.
    Password(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Hash(..) => "Hash(..)",
            Self::Password(_) => "Password(..)",
        })
    }
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// How to log in.
    pub credentials: Credentials,
    /// `administrator`, `monitoring`, others.
    pub tags: Vec<String>,
    /// `max-connections`, `max-channels`; negative is unlimited.
    pub limits: BTreeMap<String, i64>,
}

/// A virtual host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualHost {
    /// The name.
    pub name: String,
    /// For people.
    pub description: String,
    /// For people.
    pub tags: Vec<String>,
    /// Type of the queues whose declaration names none; `None` leaves it to the broker.
    pub default_queue_type: Option<QueueType>,
}

/// What a user may do in a virtual host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// The user.
    pub user: String,
    /// The virtual host.
    pub vhost: String,
    /// Pattern of names.
    pub configure: String,
    /// Pattern of names.
    pub write: String,
    /// Pattern of names.
    pub read: String,
}

/// What a user may do with the topics of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPermission {
    /// The user.
    pub user: String,
    /// The virtual host.
    pub vhost: String,
    /// The exchange.
    pub exchange: String,
    /// Pattern of routing keys.
    pub write: String,
    /// Pattern of binding keys.
    pub read: String,
}

/// A runtime parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// The virtual host.
    pub vhost: String,
    /// `shovel`, `federation-upstream`, …
    pub component: String,
    /// The name.
    pub name: String,
    /// Whatever the component wants.
    pub value: Value,
}

/// A parameter of the whole broker.
#[derive(Clone, Debug, PartialEq)]
pub struct GlobalParameter {
    /// The name.
    pub name: String,
    /// Whatever.
    pub value: Value,
}

/// A policy and where it holds.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyDefinition {
    /// The virtual host.
    pub vhost: String,
    /// The policy, or operator policy.
    pub policy: Policy,
}

/// A queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueDefinition {
    /// The virtual host.
    pub vhost: String,
    /// The name.
    pub name: String,
    /// `x-queue-type`, or the key `type`; `None` leaves it to the virtual host's default.
    pub queue_type: Option<QueueType>,
    /// Survives a restart.
    pub durable: bool,
    /// Goes with its last consumer.
    pub auto_delete: bool,
    /// The rest.
    pub arguments: FieldTable,
}

/// An exchange.
#[derive(Clone, Debug, PartialEq)]
pub struct ExchangeDefinition {
    /// The virtual host.
    pub vhost: String,
    /// The name.
    pub name: String,
    /// `direct`, `topic`, …
    pub kind: String,
    /// Survives a restart.
    pub durable: bool,
    /// Goes with its last binding.
    pub auto_delete: bool,
    /// Clients cannot publish to it.
    pub internal: bool,
    /// The rest.
    pub arguments: FieldTable,
}

/// What a binding leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DestinationKind {
    /// `queue`.
    Queue,
    /// `exchange`.
    Exchange,
}

impl DestinationKind {
    /// As in a document.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Exchange => "exchange",
        }
    }
}

/// A binding.
#[derive(Clone, Debug, PartialEq)]
pub struct BindingDefinition {
    /// The virtual host.
    pub vhost: String,
    /// The exchange messages come from.
    pub source: String,
    /// Where they go.
    pub destination: String,
    /// What that is.
    pub destination_kind: DestinationKind,
    /// The binding key.
    pub routing_key: String,
    /// The rest.
    pub arguments: FieldTable,
}

/// Why a document is refused. Nothing of it may be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionsError {
    /// The octets are no JSON object.
    #[error("not_json: {0}")]
    NotJson(String),
    /// An object is wrong.
    #[error("{object}: {reason}")]
    Object {
        /// Which: `queues[3] 'orders' in vhost '/'`.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Objects belong to a virtual host that is neither here nor in the document.
    #[error("Please create virtual host \"{0}\" prior to importing definitions.")]
    MissingVhost(String),
}

/// What a broker knows, for [`Definitions::check`].
pub trait Existing {
    /// Whether there is such a virtual host.
    fn vhost(&self, name: &str) -> bool;

    /// Whether there is such a user.
    fn user(&self, name: &str) -> bool;

    /// Whether there is such a queue.
    fn queue(&self, vhost: &str, name: &str) -> bool;

    /// Whether there is such an exchange; those every virtual host begins with need not be known.
    fn exchange(&self, vhost: &str, name: &str) -> bool;

    /// Whether a queue could be declared so; it is not said whether it exists.
    ///
    /// # Errors
    /// The explanation, as a channel error would have it.
    fn check_queue(&self, queue: &QueueDefinition) -> Result<(), String>;

    /// Whether an exchange could be declared so.
    ///
    /// # Errors
    /// The explanation, as a channel error would have it.
    fn check_exchange(&self, exchange: &ExchangeDefinition) -> Result<(), String>;
}

/// One thing to do of an import.
#[derive(Clone, Copy, Debug)]
pub enum Step<'d> {
    /// Add or replace a user.
    User(&'d User),
    /// Add a virtual host, or change its metadata.
    VirtualHost(&'d VirtualHost),
    /// Add or replace a permission.
    Permission(&'d Permission),
    /// Declare an exchange unless it is there.
    Exchange(&'d ExchangeDefinition),
    /// Add or replace a topic permission.
    TopicPermission(&'d TopicPermission),
    /// Add or replace a global parameter.
    GlobalParameter(&'d GlobalParameter),
    /// Add or replace a policy or operator policy.
    Policy(&'d PolicyDefinition),
    /// Add or replace a parameter.
    Parameter(&'d Parameter),
    /// Set limits of a virtual host.
    Limits {
        /// The virtual host.
        vhost: &'d str,
        /// The limits.
        limits: &'d BTreeMap<String, i64>,
    },
    /// Declare a queue unless it is there.
    Queue(&'d QueueDefinition),
    /// Bind.
    Binding(&'d BindingDefinition),
}

pub(crate) fn in_vhost(what: &str, index: usize, name: &str, vhost: &str) -> String {
    format!("{what}[{index}] '{name}' in vhost '{vhost}'")
}

impl Definitions {
    /// All that is to be done, in an order in which it can be.
    pub fn steps(&self) -> impl Iterator<Item = Step<'_>> {
        let users = self.users.iter().map(Step::User);
        let vhosts = self.vhosts.iter().map(Step::VirtualHost);
        let permissions = self.permissions.iter().map(Step::Permission);
        let exchanges = self.exchanges.iter().map(Step::Exchange);
        let topics = self.topic_permissions.iter().map(Step::TopicPermission);
        let global = self.global_parameters.iter().map(Step::GlobalParameter);
        let policies = self.policies.iter().map(Step::Policy);
        let parameters = self.parameters.iter().map(Step::Parameter);
        let limits = self
            .vhost_limits
            .iter()
            .map(|(vhost, limits)| Step::Limits { vhost, limits });
        let queues = self.queues.iter().map(Step::Queue);
        let bindings = self.bindings.iter().map(Step::Binding);
        users
            .chain(vhosts)
            .chain(permissions)
            .chain(exchanges)
            .chain(topics)
            .chain(global)
            .chain(policies)
            .chain(parameters)
            .chain(limits)
            .chain(queues)
            .chain(bindings)
    }

    /// Whether the whole document can be applied to a broker: what it refers to is in it or there already, and
    /// its queues and exchanges can be declared.
    ///
    /// # Errors
    /// The first object that cannot.
    pub fn check(&self, existing: &impl Existing) -> Result<(), DefinitionsError> {
        let vhosts: BTreeSet<&str> = self
            .vhosts
            .iter()
            .map(|vhost| vhost.name.as_str())
            .collect();
        let users: BTreeSet<&str> = self.users.iter().map(|user| user.name.as_str()).collect();
        let need_vhost = |name: &str| {
            if vhosts.contains(name) || existing.vhost(name) {
                Ok(())
            } else {
                Err(DefinitionsError::MissingVhost(name.to_owned()))
            }
        };
        let need_user = |what: &str, index: usize, user: &str, vhost: &str| {
            if users.contains(user) || existing.user(user) {
                return Ok(());
            }
            Err(DefinitionsError::Object {
                object: format!("{what}[{index}] in vhost '{vhost}'"),
                reason: format!("there is no user '{user}'"),
            })
        };
        for (index, permission) in self.permissions.iter().enumerate() {
            need_vhost(&permission.vhost)?;
            need_user("permissions", index, &permission.user, &permission.vhost)?;
        }
        for (index, topic) in self.topic_permissions.iter().enumerate() {
            need_vhost(&topic.vhost)?;
            need_user("topic_permissions", index, &topic.user, &topic.vhost)?;
        }
        for vhost in self.vhost_limits.keys() {
            need_vhost(vhost)?;
        }
        for policy in &self.policies {
            need_vhost(&policy.vhost)?;
        }
        for parameter in &self.parameters {
            need_vhost(&parameter.vhost)?;
        }
        for (index, exchange) in self.exchanges.iter().enumerate() {
            need_vhost(&exchange.vhost)?;
            existing
                .check_exchange(exchange)
                .map_err(|reason| DefinitionsError::Object {
                    object: in_vhost("exchanges", index, &exchange.name, &exchange.vhost),
                    reason,
                })?;
        }
        for (index, queue) in self.queues.iter().enumerate() {
            need_vhost(&queue.vhost)?;
            existing
                .check_queue(queue)
                .map_err(|reason| DefinitionsError::Object {
                    object: in_vhost("queues", index, &queue.name, &queue.vhost),
                    reason,
                })?;
        }
        self.check_bindings(existing, need_vhost)
    }

    fn check_bindings(
        &self,
        existing: &impl Existing,
        need_vhost: impl Fn(&str) -> Result<(), DefinitionsError>,
    ) -> Result<(), DefinitionsError> {
        let queues: BTreeSet<(&str, &str)> = self
            .queues
            .iter()
            .map(|queue| (queue.vhost.as_str(), queue.name.as_str()))
            .collect();
        let exchanges: BTreeSet<(&str, &str)> = self
            .exchanges
            .iter()
            .map(|exchange| (exchange.vhost.as_str(), exchange.name.as_str()))
            .collect();
        let has_exchange = |vhost: &str, name: &str| {
            PREDECLARED.contains(&name)
                || exchanges.contains(&(vhost, name))
                || existing.exchange(vhost, name)
        };
        for (index, binding) in self.bindings.iter().enumerate() {
            let (vhost, destination) = (binding.vhost.as_str(), binding.destination.as_str());
            need_vhost(vhost)?;
            let reason = if !has_exchange(vhost, &binding.source) {
                format!("no exchange '{}' in vhost '{vhost}'", binding.source)
            } else {
                let found = match binding.destination_kind {
                    DestinationKind::Queue => {
                        queues.contains(&(vhost, destination)) || existing.queue(vhost, destination)
                    }
                    DestinationKind::Exchange => has_exchange(vhost, destination),
                };
                if found {
                    continue;
                }
                let kind = binding.destination_kind.name();
                format!("no {kind} '{destination}' in vhost '{vhost}'")
            };
            return Err(DefinitionsError::Object {
                object: format!(
                    "bindings[{index}] from '{}' to '{destination}' in vhost '{vhost}'",
                    binding.source
                ),
                reason,
            });
        }
        Ok(())
    }
}

/// Exchanges every virtual host begins with, besides the default one.
const PREDECLARED: [&str; 6] = [
    "amq.direct",
    "amq.fanout",
    "amq.headers",
    "amq.match",
    "amq.rabbitmq.trace",
    "amq.topic",
];

/// A failed validation on one line, without its heading.
pub(crate) fn on_one_line(error: &ValidationError) -> String {
    error.messages.join("; ").replace('\n', " ")
}
