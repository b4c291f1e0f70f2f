//! Definitions: everything about a node but its messages, as a document, out of it and into it (`spec: semantics §25`).
//!
//! An import adds and replaces, it never takes away. It is checked as a whole before anything of it is done, so that a
//! refused document changes nothing. What is there already stays as it is: queues and exchanges are not compared.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use mamba_auth::{Limit, PasswordHash, Tags, UserLimits};
use mamba_policy::{
    About, BindingDefinition, Credentials, Definitions, DefinitionsError, DestinationKind,
    ExchangeDefinition, Existing, GlobalParameter, Parameter, Permission, PolicyDefinition,
    QueueDefinition, QueueType, Step, TopicPermission, User, VirtualHost,
};
use mamba_routing::{Binding, Destination, ExchangeSpec, check};
use mamba_types::Violation;
use serde_json::{Map, Value};

use crate::{
    arguments::{self, Flags},
    broker::Broker,
    queue_cell::Declaration,
    tenants::{
        NewPassword, TenantError, read_user_limits, read_vhost_limits, user_limits_json,
        vhost_limits_json,
    },
    vhost::{Vhost, VhostSettings},
};

/// Parameters that are this node's own.
const INTERNAL: &str = "internal";

/// Why definitions were not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The document is refused; nothing was changed.
    #[error(transparent)]
    Refused(#[from] DefinitionsError),
    /// Something changed while the import was under way, or the disk failed: what came before this object is done. The
    /// same document can be imported again.
    #[error("{object}: {reason}; what stands before it in the document is imported")]
    Interrupted {
        /// The object it stopped at.
        object: String,
        /// What was in the way.
        reason: String,
    },
}

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Objects of the document that are in force now.
    pub objects: usize,
    /// What was left out or does nothing here.
    pub warnings: Vec<String>,
}

/// Export.
impl Broker {
    /// The definitions of the whole node, or of one virtual host, as JSON. Left out are exclusive queues, the exchanges
    /// every virtual host has, and parameters whose name begins with `internal`.
    ///
    /// # Errors
    /// [`TenantError::NoSuchVhost`].
    pub fn export_definitions(&self, vhost: Option<&str>) -> Result<String, TenantError> {
        let definitions = self.definitions(vhost)?;
        let about = About {
            product_name: "MambaMQ",
            product_version: env!("CARGO_PKG_VERSION"),
            rabbitmq_version: &self.config.version,
            cluster_name: &self.config.cluster_name,
        };
        Ok(match vhost {
            None => definitions.to_json(&about),
            Some(name) => definitions
                .to_vhost_json(&about, name)
                .ok_or_else(|| TenantError::NoSuchVhost(name.to_owned()))?,
        })
    }

    /// The definitions of the whole node, or what belongs to one virtual host.
    ///
    /// # Errors
    /// [`TenantError::NoSuchVhost`].
    pub fn definitions(&self, vhost: Option<&str>) -> Result<Definitions, TenantError> {
        let vhosts = match vhost {
            None => self.vhosts(),
            Some(name) => vec![self.known_vhost(name)?],
        };
        let mut definitions = Definitions::default();
        if vhost.is_none() {
            self.add_tenants(&mut definitions);
        }
        for vhost in vhosts {
            add_vhost(&vhost, &mut definitions);
        }
        Ok(definitions)
    }

    fn add_tenants(&self, definitions: &mut Definitions) {
        definitions.users = self
            .users()
            .iter()
            .map(|user| User {
                name: user.name.to_string(),
                credentials: if user.password.is_disabled() {
                    Credentials::None
                } else {
                    Credentials::Hash(user.password.to_text(), user.password.algorithm())
                },
                tags: user.tags.iter().map(str::to_owned).collect(),
                limits: numbers(user_limits_json(&user.limits)),
            })
            .collect();
        let permissions = self.permissions().into_iter().map(|permission| Permission {
            user: permission.user.to_string(),
            vhost: permission.vhost.to_string(),
            configure: permission.configure,
            write: permission.write,
            read: permission.read,
        });
        definitions.permissions = permissions.collect();
        let topics = self.topic_permissions().into_iter();
        let topics = topics.map(|permission| TopicPermission {
            user: permission.user.to_string(),
            vhost: permission.vhost.to_string(),
            exchange: permission.exchange.to_string(),
            write: permission.write,
            read: permission.read,
        });
        definitions.topic_permissions = topics.collect();
        definitions.global_parameters = self
            .global_parameters()
            .into_iter()
            .filter(|(name, _)| !name.starts_with(INTERNAL))
            .map(|(name, value)| GlobalParameter { name, value })
            .collect();
    }
}

fn add_vhost(vhost: &Vhost, definitions: &mut Definitions) {
    let (name, settings) = (vhost.name.to_string(), vhost.settings());
    definitions.vhosts.push(VirtualHost {
        name: name.clone(),
        description: settings.description.clone(),
        tags: settings.tags.clone(),
        default_queue_type: settings
            .default_queue_type
            .as_deref()
            .and_then(QueueType::parse),
    });
    let limits = numbers(vhost_limits_json(&settings.limits));
    if !limits.is_empty() {
        definitions.vhost_limits.insert(name.clone(), limits);
    }
    let parameters = vhost.parameters.read();
    let parameters = parameters
        .iter()
        .map(|((component, parameter), value)| Parameter {
            vhost: name.clone(),
            component: component.clone(),
            name: parameter.clone(),
            value: value.clone(),
        });
    definitions.parameters.extend(parameters);
    let policies = vhost.policies();
    let policies = policies.iter().map(|policy| PolicyDefinition {
        vhost: name.clone(),
        policy: policy.clone(),
    });
    definitions.policies.extend(policies);
    // Under one lock, so that every binding has both its ends.
    let table = vhost.table.read();
    let lasting = |queue: &str| {
        table
            .queue(queue)
            .is_some_and(|queue| queue.0.declaration.exclusive_owner.is_none())
    };
    let queues = table.queues().filter(|queue| lasting(&queue.0.name));
    definitions
        .queues
        .extend(queues.map(|queue| QueueDefinition {
            vhost: name.clone(),
            name: queue.0.name.to_string(),
            queue_type: Some(arguments::queue_type(queue.0.declaration.settings.kind)),
            durable: queue.0.declaration.durable,
            auto_delete: queue.0.declaration.auto_delete,
            arguments: (*queue.0.declaration.arguments).clone(),
        }));
    let exchanges = table.exchanges().map(|exchange| exchange.spec());
    let own = exchanges.filter(|spec| !spec.name.is_empty() && !spec.name.starts_with("amq."));
    definitions
        .exchanges
        .extend(own.map(|spec| ExchangeDefinition {
            vhost: name.clone(),
            name: spec.name.to_string(),
            kind: spec.kind.to_string(),
            durable: spec.durable,
            auto_delete: spec.auto_delete,
            internal: spec.internal,
            arguments: spec.arguments.clone(),
        }));
    for binding in table.bindings() {
        let (destination_kind, destination) = match &binding.destination {
            Destination::Queue(queue) if !lasting(queue) => continue,
            Destination::Queue(queue) => (DestinationKind::Queue, queue),
            Destination::Exchange(exchange) => (DestinationKind::Exchange, exchange),
        };
        definitions.bindings.push(BindingDefinition {
            vhost: name.clone(),
            source: binding.source.to_string(),
            destination: destination.to_string(),
            destination_kind,
            routing_key: binding.routing_key.to_string(),
            arguments: binding.arguments.clone(),
        });
    }
}

/// Import.
impl Broker {
    /// Adds what a document defines: that of a whole node, or with `vhost` that of one virtual host, into this one.
    /// `unix_ms` is the time, in milliseconds since 1970. Blocks until all of it is durable.
    ///
    /// # Errors
    /// [`ImportError::Refused`] names the object at fault; then nothing was changed.
    pub fn import_definitions(
        &self,
        document: &[u8],
        vhost: Option<&str>,
        unix_ms: u64,
    ) -> Result<Imported, ImportError> {
        let definitions = match vhost {
            None => Definitions::parse(document)?,
            Some(vhost) => Definitions::parse_for_vhost(document, vhost)?,
        };
        let _importing = self.importing.lock();
        if let Some(vhost) = vhost.filter(|vhost| self.vhost(vhost).is_none()) {
            return Err(DefinitionsError::MissingVhost(vhost.to_owned()).into());
        }
        let newcomers = Newcomers {
            broker: self,
            definitions: &definitions,
        };
        definitions.check(&newcomers)?;
        newcomers.check_tenants()?;
        newcomers.check_bindings()?;
        newcomers.check_limits()?;
        let objects = self.apply(&definitions, unix_ms)?;
        for warning in &definitions.warnings {
            tracing::warn!(warning, "import of definitions");
        }
        tracing::info!(objects, "definitions imported");
        Ok(Imported {
            objects,
            warnings: definitions.warnings,
        })
    }

    fn apply(&self, definitions: &Definitions, unix_ms: u64) -> Result<usize, ImportError> {
        let mut policies: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for known in &definitions.policies {
            let of_vhost = policies.entry(&known.vhost).or_default();
            of_vhost.push(known.policy.clone());
        }
        let mut objects = 0;
        for step in definitions.steps() {
            let (object, outcome) = self.step(definitions, step, &mut policies, unix_ms);
            outcome.map_err(|reason| ImportError::Interrupted { object, reason })?;
            objects += 1;
        }
        let definitions = self.store.0.definitions();
        definitions.flush();
        if !definitions.is_settled() {
            return Err(ImportError::Interrupted {
                object: "queues, exchanges and bindings".to_owned(),
                reason: "they could not all be stored, see the broker's log".to_owned(),
            });
        }
        Ok(objects)
    }

    /// Does one step; says what it was about.
    fn step(
        &self,
        definitions: &Definitions,
        step: Step<'_>,
        policies: &mut BTreeMap<&str, Vec<mamba_policy::Policy>>,
        unix_ms: u64,
    ) -> (String, Result<(), String>) {
        let in_vhost =
            |what: &str, name: &str, vhost: &str| format!("{what} '{name}' in vhost '{vhost}'");
        let said = |outcome: Result<(), TenantError>| outcome.map_err(|error| error.to_string());
        match step {
            Step::User(user) => (
                format!("user '{}'", user.name),
                said(self.import_user(user)),
            ),
            Step::VirtualHost(vhost) => (
                format!("vhost '{}'", vhost.name),
                said(self.import_vhost(vhost)),
            ),
            Step::Permission(permission) => (
                in_vhost("permissions of", &permission.user, &permission.vhost),
                said(self.set_permissions(
                    &permission.vhost,
                    &permission.user,
                    &permission.configure,
                    &permission.write,
                    &permission.read,
                )),
            ),
            Step::TopicPermission(permission) => (
                in_vhost("topic permissions of", &permission.user, &permission.vhost),
                said(self.set_topic_permissions(
                    &permission.vhost,
                    &permission.user,
                    &permission.exchange,
                    &permission.write,
                    &permission.read,
                )),
            ),
            Step::GlobalParameter(parameter) => (
                format!("global parameter '{}'", parameter.name),
                said(
                    self.set_global_parameter(&parameter.name, parameter.value.clone())
                        .map(drop),
                ),
            ),
            // All policies of a virtual host with its first one, so that they are applied once.
            Step::Policy(known) => (
                in_vhost("policy", known.policy.name(), &known.vhost),
                match policies.remove(known.vhost.as_str()) {
                    None => Ok(()),
                    Some(all) => said(self.set_policies(&known.vhost, all, unix_ms)),
                },
            ),
            Step::Parameter(parameter) => (
                in_vhost(&parameter.component, &parameter.name, &parameter.vhost),
                said(
                    self.set_parameter(
                        &parameter.vhost,
                        &parameter.component,
                        &parameter.name,
                        parameter.value.clone(),
                    )
                    .map(drop),
                ),
            ),
            Step::Limits { vhost, limits } => (
                format!("limits of vhost '{vhost}'"),
                said(read_vhost_limits(&object(limits)).and_then(|limits| {
                    self.change_vhost(vhost, |settings| settings.limits = limits)
                })),
            ),
            Step::Exchange(exchange) => (
                in_vhost("exchange", &exchange.name, &exchange.vhost),
                self.in_table(&exchange.vhost, |vhost| {
                    let mut table = vhost.table.write();
                    vhost.check_there()?;
                    if table.exchange(&exchange.name).is_none() {
                        self.make_exchange(vhost, &mut table, spec_of(exchange))?;
                    }
                    Ok(())
                }),
            ),
            Step::Queue(queue) => (
                in_vhost("queue", &queue.name, &queue.vhost),
                self.in_table(&queue.vhost, |vhost| {
                    self.import_queue(definitions, vhost, queue, unix_ms)
                }),
            ),
            Step::Binding(binding) => (
                format!(
                    "binding from '{}' to '{}' in vhost '{}'",
                    binding.source, binding.destination, binding.vhost
                ),
                self.in_table(&binding.vhost, |vhost| {
                    let destination: Arc<str> = binding.destination.as_str().into();
                    let binding = Binding {
                        source: binding.source.as_str().into(),
                        destination: match binding.destination_kind {
                            DestinationKind::Queue => Destination::Queue(destination),
                            DestinationKind::Exchange => Destination::Exchange(destination),
                        },
                        routing_key: binding.routing_key.as_str().into(),
                        arguments: binding.arguments.clone(),
                    };
                    let mut table = vhost.table.write();
                    vhost.check_there()?;
                    table.check_bind(&binding)?;
                    self.make_binding(vhost, &mut table, binding).map(drop)
                }),
            ),
        }
    }

    fn in_table(
        &self,
        vhost: &str,
        make: impl FnOnce(&Arc<Vhost>) -> Result<(), Violation>,
    ) -> Result<(), String> {
        let vhost = self.known_vhost(vhost).map_err(|error| error.to_string())?;
        make(&vhost).map_err(|violation| violation.text().to_owned())
    }

    fn import_user(&self, user: &User) -> Result<(), TenantError> {
        let password = match &user.credentials {
            Credentials::None => NewPassword::Disabled,
            Credentials::Hash(hash, algorithm) => {
                NewPassword::Hashed(PasswordHash::from_text(*algorithm, hash)?)
            }
            Credentials::Password(password) => NewPassword::Plain(password),
        };
        self.put_user(&user.name, password, Tags::new(&user.tags)?)?;
        let mut limits = UserLimits::default();
        read_user_limits(&object(&user.limits), &mut limits)?;
        if self
            .user(&user.name)
            .is_some_and(|known| known.limits != limits)
        {
            self.change_user_limits(&user.name, |known| *known = limits)?;
        }
        Ok(())
    }

    fn import_vhost(&self, vhost: &VirtualHost) -> Result<(), TenantError> {
        let describe = |settings: &mut VhostSettings| {
            if !vhost.description.is_empty() {
                settings.description.clone_from(&vhost.description);
            }
            if !vhost.tags.is_empty() {
                settings.tags.clone_from(&vhost.tags);
            }
            if let Some(kind) = vhost.default_queue_type {
                settings.default_queue_type = Some(kind.name().to_owned());
            }
        };
        let mut settings = VhostSettings::default();
        describe(&mut settings);
        if !self.add_vhost(&vhost.name, settings)? {
            self.change_vhost(&vhost.name, describe)?;
        }
        Ok(())
    }

    fn import_queue(
        &self,
        definitions: &Definitions,
        vhost: &Arc<Vhost>,
        queue: &QueueDefinition,
        unix_ms: u64,
    ) -> Result<(), Violation> {
        vhost.set_time(unix_ms);
        let newcomers = Newcomers {
            broker: self,
            definitions,
        };
        let mut table = vhost.table.write();
        vhost.check_there()?;
        if table.queue(&queue.name).is_some() {
            return Ok(());
        }
        let declaration = newcomers.declaration(queue)?;
        let (cell, _) = self.make_queue(vhost, &mut table, queue.name.as_str().into(), declaration);
        drop(table);
        cell.renew_lease();
        let mut counts = crate::metrics::Counts {
            queues_created: 1,
            ..crate::metrics::Counts::default()
        };
        self.metrics.add(&mut counts);
        Ok(())
    }
}

/// A document before it is imported, beside what is there.
struct Newcomers<'a> {
    broker: &'a Broker,
    definitions: &'a Definitions,
}

impl Existing for Newcomers<'_> {
    fn vhost(&self, name: &str) -> bool {
        self.broker.vhost(name).is_some()
    }

    fn user(&self, name: &str) -> bool {
        self.broker.user(name).is_some()
    }

    fn queue(&self, vhost: &str, name: &str) -> bool {
        let vhost = self.broker.vhost(vhost);
        vhost.is_some_and(|vhost| vhost.queue(name).is_some())
    }

    fn exchange(&self, vhost: &str, name: &str) -> bool {
        let vhost = self.broker.vhost(vhost);
        vhost.is_some_and(|vhost| vhost.table.read().exchange(name).is_some())
    }

    fn check_queue(&self, queue: &QueueDefinition) -> Result<(), String> {
        if self.queue(&queue.vhost, &queue.name) {
            return Ok(());
        }
        let declaration = self.declaration(queue).map(drop);
        declaration.map_err(|violation| violation.text().to_owned())
    }

    fn check_exchange(&self, exchange: &ExchangeDefinition) -> Result<(), String> {
        if self.exchange(&exchange.vhost, &exchange.name) {
            return Ok(());
        }
        check::kind(&exchange.kind)
            .and_then(|_| check::new_arguments(&exchange.vhost, &spec_of(exchange)))
            .map_err(|violation| violation.text().to_owned())
    }
}

impl Newcomers<'_> {
    /// How a queue of the document would be declared.
    fn declaration(&self, queue: &QueueDefinition) -> Result<Declaration, Violation> {
        let printed = format!("queue '{}' in vhost '{}'", queue.name, queue.vhost);
        let flags = Flags {
            durable: queue.durable,
            exclusive: false,
            auto_delete: queue.auto_delete,
        };
        let kind = match queue.queue_type {
            Some(kind) => kind.name(),
            None => arguments::default_type(self.default_type(&queue.vhost), &flags),
        };
        let arguments = arguments::with_queue_type(queue.arguments.clone(), kind);
        arguments::dead_letter_exchange(&arguments, &printed)?;
        let settings = arguments::settings(&arguments, &flags, &printed, true)?;
        Ok(Declaration {
            durable: queue.durable,
            exclusive_owner: None,
            auto_delete: queue.auto_delete,
            arguments: Arc::new(arguments),
            settings,
        })
    }

    /// The default type of queues in a virtual host, as it will be.
    fn default_type(&self, vhost: &str) -> Option<&'static str> {
        let mut new = self.definitions.vhosts.iter();
        let new = new.find(|known| known.name == vhost);
        new.and_then(|new| new.default_queue_type)
            .or_else(|| {
                let settings = self.broker.vhost(vhost)?.settings();
                QueueType::parse(settings.default_queue_type.as_deref()?)
            })
            .map(QueueType::name)
    }

    fn check_tenants(&self) -> Result<(), DefinitionsError> {
        let wrong = |list: &str, index: usize, name: &str, reason: &dyn std::fmt::Display| {
            Err(DefinitionsError::Object {
                object: format!("{list}[{index}] '{name}'"),
                reason: reason.to_string(),
            })
        };
        for (index, user) in self.definitions.users.iter().enumerate() {
            if user.name.is_empty() {
                return wrong("users", index, "", &"a name was expected");
            }
            if let Credentials::Hash(hash, algorithm) = &user.credentials
                && let Err(error) = PasswordHash::from_text(*algorithm, hash)
            {
                return wrong("users", index, &user.name, &error);
            }
        }
        for (index, vhost) in self.definitions.vhosts.iter().enumerate() {
            if vhost.name.is_empty() {
                return wrong("vhosts", index, "", &"a name was expected");
            }
        }
        for (index, known) in self.definitions.policies.iter().enumerate() {
            if known.policy.name().is_empty() {
                return wrong("policies", index, "", &"a name was expected");
            }
        }
        Ok(())
    }

    /// What exchange types demand of the bindings.
    fn check_bindings(&self) -> Result<(), DefinitionsError> {
        let exchanges = self.definitions.exchanges.iter();
        let new_exchanges: HashMap<(&str, &str), &str> = exchanges
            .map(|exchange| {
                let key = (exchange.vhost.as_str(), exchange.name.as_str());
                (key, exchange.kind.as_str())
            })
            .collect();
        let queues = self.definitions.queues.iter();
        let new_queues: HashMap<(&str, &str), &QueueDefinition> = queues
            .map(|queue| ((queue.vhost.as_str(), queue.name.as_str()), queue))
            .collect();
        for (index, binding) in self.definitions.bindings.iter().enumerate() {
            let vhost = self.broker.vhost(&binding.vhost);
            let there = vhost.as_ref().and_then(|vhost| {
                let table = vhost.table.read();
                table.exchange(&binding.source).map(|known| known.kind())
            });
            let new = || {
                let kind = new_exchanges.get(&(binding.vhost.as_str(), binding.source.as_str()));
                check::kind(kind.copied().or_else(|| predeclared(&binding.source))?).ok()
            };
            let Some(kind) = there.or_else(new) else {
                continue;
            };
            let destination = match binding.destination_kind {
                DestinationKind::Exchange => check::DestinationType::Exchange,
                DestinationKind::Queue => {
                    let there = vhost.and_then(|vhost| vhost.queue(&binding.destination));
                    let key = (binding.vhost.as_str(), binding.destination.as_str());
                    let quorum = match (there, new_queues.get(&key)) {
                        (Some(queue), _) => queue.is_quorum(),
                        (None, Some(queue)) => queue.queue_type == Some(QueueType::Quorum),
                        (None, None) => false,
                    };
                    if quorum {
                        check::DestinationType::OtherQueue("rabbit_quorum_queue")
                    } else {
                        check::DestinationType::ClassicQueue
                    }
                }
            };
            check::binding(kind, &binding.routing_key, &binding.arguments, destination).map_err(
                |violation| DefinitionsError::Object {
                    object: format!(
                        "bindings[{index}] from '{}' to '{}' in vhost '{}'",
                        binding.source, binding.destination, binding.vhost
                    ),
                    reason: violation.text().to_owned(),
                },
            )?;
        }
        Ok(())
    }

    /// That there is room for what is new.
    fn check_limits(&self) -> Result<(), DefinitionsError> {
        let limits = &self.broker.config.limits;
        let beyond =
            |max: usize, there: usize, new: usize| max != 0 && new > 0 && there + new > max;
        let wrong = |object: &str, reason: String| {
            let object = object.to_owned();
            Err(DefinitionsError::Object { object, reason })
        };
        let there = self.broker.vhosts();
        let mut new = BTreeSet::new();
        for vhost in &self.definitions.vhosts {
            if !self.vhost(&vhost.name) {
                new.insert(vhost.name.as_str());
            }
        }
        if beyond(limits.vhosts_max, there.len(), new.len()) {
            let max = limits.vhosts_max;
            return wrong("vhosts", format!("vhost limit of {max} is reached"));
        }
        let predeclared_exchanges = new.len() * PREDECLARED.len();
        let mut new = BTreeSet::new();
        for exchange in &self.definitions.exchanges {
            if !self.exchange(&exchange.vhost, &exchange.name) {
                new.insert((exchange.vhost.as_str(), exchange.name.as_str()));
            }
        }
        let count = there
            .iter()
            .map(|vhost| vhost.table.read().exchange_count());
        if beyond(
            limits.exchanges_max,
            count.sum(),
            new.len() + predeclared_exchanges,
        ) {
            let max = limits.exchanges_max;
            return wrong("exchanges", format!("exchange limit of {max} is reached"));
        }
        let mut new = BTreeSet::new();
        for queue in &self.definitions.queues {
            if !self.queue(&queue.vhost, &queue.name) {
                new.insert((queue.vhost.as_str(), queue.name.as_str()));
            }
        }
        let count = there.iter().map(|vhost| vhost.table.read().queue_count());
        if beyond(limits.queues_max, count.sum(), new.len()) {
            let max = limits.queues_max;
            return wrong(
                "queues",
                format!("queue limit in cluster ({max}) is reached"),
            );
        }
        let mut by_vhost: BTreeMap<&str, usize> = BTreeMap::new();
        for (vhost, _) in new {
            *by_vhost.entry(vhost).or_default() += 1;
        }
        for (name, new) in by_vhost {
            let vhost = self.broker.vhost(name);
            let there = vhost
                .as_ref()
                .map_or(0, |vhost| vhost.table.read().queue_count());
            let max = match self.definitions.vhost_limits.get(name) {
                Some(limits) => limits.get("max-queues").copied(),
                None => vhost.and_then(|vhost| vhost.settings().limits.queues_max.get()),
            };
            let limit = max.map_or(Limit::NONE, Limit::new);
            // The last of them must find room, too.
            if let Some(max) = limit.reached_by(there + new - 1) {
                let object = format!("queues in vhost '{name}'");
                return wrong(
                    &object,
                    format!("queue limit in vhost '{name}' ({max}) is reached"),
                );
            }
        }
        Ok(())
    }
}

/// Exchanges every virtual host begins with, and their types.
const PREDECLARED: [(&str, &str); 7] = [
    ("", "direct"),
    ("amq.direct", "direct"),
    ("amq.fanout", "fanout"),
    ("amq.headers", "headers"),
    ("amq.match", "headers"),
    ("amq.rabbitmq.trace", "topic"),
    ("amq.topic", "topic"),
];

fn predeclared(name: &str) -> Option<&'static str> {
    let mut all = PREDECLARED.iter();
    all.find_map(|(known, kind)| (*known == name).then_some(*kind))
}

fn spec_of(exchange: &ExchangeDefinition) -> ExchangeSpec {
    ExchangeSpec {
        name: exchange.name.as_str().into(),
        kind: exchange.kind.as_str().into(),
        durable: exchange.durable,
        auto_delete: exchange.auto_delete,
        internal: exchange.internal,
        arguments: exchange.arguments.clone(),
    }
}

fn object(limits: &BTreeMap<String, i64>) -> Map<String, Value> {
    let limits = limits.iter();
    limits
        .map(|(name, limit)| (name.clone(), Value::from(*limit)))
        .collect()
}

fn numbers(limits: Map<String, Value>) -> BTreeMap<String, i64> {
    let limits = limits.into_iter();
    limits
        .filter_map(|(name, limit)| Some((name, limit.as_i64()?)))
        .collect()
}
