//! Writing a definitions document: the keys of RabbitMQ's, in its order.

use std::collections::BTreeMap;

use mamba_auth::HashAlgorithm;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    convert::table_to_json,
    definitions::{Credentials, Definitions, VirtualHost},
    key::{QueueType, Scope},
};

/// Who writes a document.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// `RabbitMQ`, or another name.
    pub product_name: &'a str,
    /// The version of RabbitMQ readers should think of.
    pub rabbitmq_version: &'a str,
    /// The product's own version.
    pub product_version: &'a str,
    /// The cluster's name: `rabbit@host`.
    pub cluster_name: &'a str,
}

type Limits = BTreeMap<String, i64>;

#[derive(Serialize)]
struct Head<'a> {
    rabbit_version: &'a str,
    rabbitmq_version: &'a str,
    product_name: &'a str,
    product_version: &'a str,
    rabbitmq_definition_format: &'a str,
}

#[derive(Serialize)]
struct Cluster<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    original_cluster_name: &'a str,
    explanation: String,
    users: Vec<User<'a>>,
    vhosts: Vec<Vhost<'a>>,
    permissions: Vec<Permission<'a>>,
    topic_permissions: Vec<TopicPermission<'a>>,
    parameters: Vec<Parameter<'a>>,
    global_parameters: Vec<GlobalParameter<'a>>,
    #[serde(flatten)]
    objects: Objects<'a>,
}

#[derive(Serialize)]
struct Single<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    original_vhost_name: &'a str,
    explanation: String,
    metadata: Metadata<'a>,
    description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_queue_type: Option<&'a str>,
    limits: Limits,
    parameters: Vec<Parameter<'a>>,
    #[serde(flatten)]
    objects: Objects<'a>,
}

#[derive(Serialize)]
struct Objects<'a> {
    policies: Vec<Policy<'a>>,
    queues: Vec<Queue<'a>>,
    exchanges: Vec<Exchange<'a>>,
    bindings: Vec<Binding<'a>>,
}

#[derive(Serialize)]
struct User<'a> {
    name: &'a str,
    password_hash: &'a str,
    hashing_algorithm: &'a str,
    tags: &'a [String],
    limits: &'a Limits,
}

#[derive(Serialize)]
struct Vhost<'a> {
    name: &'a str,
    description: &'a str,
    tags: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    default_queue_type: Option<&'a str>,
    metadata: Metadata<'a>,
    limits: Limits,
}

#[derive(Serialize)]
struct Metadata<'a> {
    description: &'a str,
    tags: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    default_queue_type: Option<&'a str>,
}

#[derive(Serialize)]
struct Permission<'a> {
    user: &'a str,
    vhost: &'a str,
    configure: &'a str,
    write: &'a str,
    read: &'a str,
}

#[derive(Serialize)]
struct TopicPermission<'a> {
    user: &'a str,
    vhost: &'a str,
    exchange: &'a str,
    write: &'a str,
    read: &'a str,
}

#[derive(Serialize)]
struct Parameter<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    vhost: Option<&'a str>,
    component: &'a str,
    name: &'a str,
    value: Value,
}

#[derive(Serialize)]
struct GlobalParameter<'a> {
    name: &'a str,
    value: &'a Value,
}

#[derive(Serialize)]
struct Policy<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    vhost: Option<&'a str>,
    name: &'a str,
    pattern: &'a str,
    #[serde(rename = "apply-to")]
    apply_to: &'a str,
    priority: Value,
    definition: &'a BTreeMap<String, Value>,
}

#[derive(Serialize)]
struct Queue<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    vhost: Option<&'a str>,
    #[serde(rename = "type")]
    kind: &'a str,
    durable: bool,
    auto_delete: bool,
    arguments: Map<String, Value>,
}

#[derive(Serialize)]
struct Exchange<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    vhost: Option<&'a str>,
    #[serde(rename = "type")]
    kind: &'a str,
    durable: bool,
    auto_delete: bool,
    internal: bool,
    arguments: Map<String, Value>,
}

#[derive(Serialize)]
struct Binding<'a> {
    source: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    vhost: Option<&'a str>,
    destination: &'a str,
    destination_type: &'a str,
    routing_key: &'a str,
    arguments: Map<String, Value>,
}

/// Which objects are written, and whether they say where they belong.
#[derive(Clone, Copy)]
enum Part<'a> {
    Whole,
    Of(&'a str),
}

impl Part<'_> {
    fn has(self, vhost: &str) -> bool {
        match self {
            Self::Whole => true,
            Self::Of(only) => only == vhost,
        }
    }

    const fn shown(self, vhost: &str) -> Option<&str> {
        match self {
            Self::Whole => Some(vhost),
            Self::Of(_) => None,
        }
    }
}

impl Metadata<'_> {
    fn of(vhost: &VirtualHost) -> Metadata<'_> {
        Metadata {
            description: &vhost.description,
            tags: &vhost.tags,
            default_queue_type: vhost.default_queue_type.map(QueueType::name),
        }
    }
}

const fn head<'a>(about: &About<'a>, format: &'a str) -> Head<'a> {
    Head {
        rabbit_version: about.rabbitmq_version,
        rabbitmq_version: about.rabbitmq_version,
        product_name: about.product_name,
        product_version: about.product_version,
        rabbitmq_definition_format: format,
    }
}

fn printed(document: &impl Serialize) -> String {
    // Names are strings and numbers are finite, so that nothing here can fail.
    serde_json::to_string(document).unwrap_or_default()
}

impl Definitions {
    /// The document of a whole broker. What must not be exported (exclusive queues, the exchanges every virtual
    /// host has, parameters whose name begins with `internal`) is not to be in here; passwords in clear are left
    /// out.
    #[must_use]
    pub fn to_json(&self, about: &About<'_>) -> String {
        let part = Part::Whole;
        printed(&Cluster {
            head: head(about, "cluster"),
            original_cluster_name: about.cluster_name,
            explanation: format!("Definitions of cluster '{}'", about.cluster_name),
            users: self.users.iter().map(user).collect(),
            vhosts: self
                .vhosts
                .iter()
                .map(|vhost| Vhost {
                    name: &vhost.name,
                    description: &vhost.description,
                    tags: &vhost.tags,
                    default_queue_type: vhost.default_queue_type.map(QueueType::name),
                    metadata: Metadata::of(vhost),
                    limits: self.limits_of(&vhost.name),
                })
                .collect(),
            permissions: self
                .permissions
                .iter()
                .map(|permission| Permission {
                    user: &permission.user,
                    vhost: &permission.vhost,
                    configure: &permission.configure,
                    write: &permission.write,
                    read: &permission.read,
                })
                .collect(),
            topic_permissions: self
                .topic_permissions
                .iter()
                .map(|permission| TopicPermission {
                    user: &permission.user,
                    vhost: &permission.vhost,
                    exchange: &permission.exchange,
                    write: &permission.write,
                    read: &permission.read,
                })
                .collect(),
            parameters: self.parameters_of(part),
            global_parameters: self
                .global_parameters
                .iter()
                .map(|parameter| GlobalParameter {
                    name: &parameter.name,
                    value: &parameter.value,
                })
                .collect(),
            objects: self.objects_of(part),
        })
    }

    /// The document of one virtual host, whose objects do not say where they belong. `None` when the virtual
    /// host is not among [`vhosts`](Self::vhosts).
    #[must_use]
    pub fn to_vhost_json(&self, about: &About<'_>, vhost: &str) -> Option<String> {
        let vhost = self.vhosts.iter().find(|known| known.name == vhost)?;
        let part = Part::Of(&vhost.name);
        Some(printed(&Single {
            head: head(about, "single_virtual_host"),
            original_vhost_name: &vhost.name,
            explanation: format!("Definitions of virtual host '{}'", vhost.name),
            metadata: Metadata::of(vhost),
            description: &vhost.description,
            default_queue_type: vhost.default_queue_type.map(QueueType::name),
            limits: self.limits_of(&vhost.name),
            parameters: self.parameters_of(part),
            objects: self.objects_of(part),
        }))
    }

    fn limits_of(&self, vhost: &str) -> Limits {
        self.vhost_limits.get(vhost).cloned().unwrap_or_default()
    }

    fn parameters_of<'a>(&'a self, part: Part<'a>) -> Vec<Parameter<'a>> {
        let limits = self
            .vhost_limits
            .iter()
            .filter(|(vhost, limits)| part.has(vhost) && !limits.is_empty())
            .map(|(vhost, limits)| Parameter {
                vhost: part.shown(vhost),
                component: "vhost-limits",
                name: "limits",
                value: limits
                    .iter()
                    .map(|(name, limit)| (name.clone(), Value::from(*limit)))
                    .collect(),
            });
        let operator = self
            .policies
            .iter()
            .filter(|known| part.has(&known.vhost) && known.policy.scope() == Scope::OperatorPolicy)
            .map(|known| Parameter {
                vhost: part.shown(&known.vhost),
                component: "operator_policy",
                name: known.policy.name(),
                value: serde_json::json!({
                    "pattern": known.policy.pattern().text(),
                    "definition": known.policy.definition(),
                    "priority": known.policy.priority_json(),
                    "apply-to": known.policy.apply_to().name(),
                }),
            });
        let others = self
            .parameters
            .iter()
            .filter(|parameter| part.has(&parameter.vhost))
            .map(|parameter| Parameter {
                vhost: part.shown(&parameter.vhost),
                component: &parameter.component,
                name: &parameter.name,
                value: parameter.value.clone(),
            });
        limits.chain(operator).chain(others).collect()
    }

    fn objects_of<'a>(&'a self, part: Part<'a>) -> Objects<'a> {
        Objects {
            policies: self
                .policies
                .iter()
                .filter(|known| part.has(&known.vhost) && known.policy.scope() == Scope::Policy)
                .map(|known| Policy {
                    vhost: part.shown(&known.vhost),
                    name: known.policy.name(),
                    pattern: known.policy.pattern().text(),
                    apply_to: known.policy.apply_to().name(),
                    priority: known.policy.priority_json(),
                    definition: known.policy.definition(),
                })
                .collect(),
            queues: self
                .queues
                .iter()
                .filter(|queue| part.has(&queue.vhost))
                .map(|queue| Queue {
                    name: &queue.name,
                    vhost: part.shown(&queue.vhost),
                    kind: queue.queue_type.unwrap_or_default().name(),
                    durable: queue.durable,
                    auto_delete: queue.auto_delete,
                    arguments: table_to_json(&queue.arguments),
                })
                .collect(),
            exchanges: self
                .exchanges
                .iter()
                .filter(|exchange| part.has(&exchange.vhost))
                .map(|exchange| Exchange {
                    name: &exchange.name,
                    vhost: part.shown(&exchange.vhost),
                    kind: &exchange.kind,
                    durable: exchange.durable,
                    auto_delete: exchange.auto_delete,
                    internal: exchange.internal,
                    arguments: table_to_json(&exchange.arguments),
                })
                .collect(),
            bindings: self
                .bindings
                .iter()
                .filter(|binding| part.has(&binding.vhost))
                .map(|binding| Binding {
                    source: &binding.source,
                    vhost: part.shown(&binding.vhost),
                    destination: &binding.destination,
                    destination_type: binding.destination_kind.name(),
                    routing_key: &binding.routing_key,
                    arguments: table_to_json(&binding.arguments),
                })
                .collect(),
        }
    }
}

fn user(user: &crate::definitions::User) -> User<'_> {
    let (password_hash, algorithm) = match &user.credentials {
        Credentials::Hash(hash, algorithm) => (hash.as_str(), *algorithm),
        Credentials::None | Credentials::Password(_) => ("", HashAlgorithm::Sha256),
    };
    User {
        name: &user.name,
        password_hash,
        hashing_algorithm: algorithm.name(),
        tags: &user.tags,
        limits: &user.limits,
    }
}
