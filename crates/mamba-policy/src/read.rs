//! Reading a definitions document: as a whole, or not at all.

use std::collections::BTreeMap;

use mamba_auth::HashAlgorithm;
use mamba_types::{FieldTable, table};
use serde_json::{Map, Value};

use crate::{
    convert::table_from_json,
    definitions::{
        BindingDefinition, Credentials, Definitions, DefinitionsError, DestinationKind,
        ExchangeDefinition, GlobalParameter, Parameter, Permission, PolicyDefinition,
        QueueDefinition, TopicPermission, User, VirtualHost, in_vhost, on_one_line,
    },
    key::{QueueType, Scope},
    pattern::Pattern,
    policy::Policy,
};

/// Most octets of a name.
const NAME_BYTES_MAX: usize = 255;

/// Most tags of a user or virtual host.
const TAGS_MAX: usize = 32;

/// Parameters of parts this broker does not have: kept for the next export, with a warning.
const FOREIGN_COMPONENTS: [&str; 4] = [
    "federation",
    "federation-upstream",
    "federation-upstream-set",
    "shovel",
];

/// Settings of policies that mean nothing here: left out, with a warning. Mirrored queues are those of older
/// versions, whose export would otherwise be refused.
const FOREIGN_SETTINGS: [&str; 2] = ["ha-", "federation-upstream"];

impl Definitions {
    /// Reads the definitions of a whole broker. Every object outside of `users` and the like names its virtual
    /// host. Unknown keys are ignored; objects named `amq.*` and bindings of the default exchange are left out,
    /// with a warning.
    ///
    /// # Errors
    /// [`DefinitionsError`] names the object at fault.
    pub fn parse(document: &[u8]) -> Result<Self, DefinitionsError> {
        read(document, None)
    }

    /// Reads the definitions of one virtual host, for the virtual host given: its queues, exchanges, bindings,
    /// policies, parameters and limits. Users, virtual hosts and permissions in it are ignored, and so is what
    /// objects say their virtual host is.
    ///
    /// # Errors
    /// [`DefinitionsError`] names the object at fault.
    pub fn parse_for_vhost(document: &[u8], vhost: &str) -> Result<Self, DefinitionsError> {
        read(document, Some(vhost))
    }
}

fn read(document: &[u8], into: Option<&str>) -> Result<Definitions, DefinitionsError> {
    let parsed: Value = serde_json::from_slice(document)
        .map_err(|error| DefinitionsError::NotJson(error.to_string()))?;
    let Value::Object(root) = parsed else {
        return Err(DefinitionsError::NotJson(
            "an object was expected at the top".to_owned(),
        ));
    };
    let mut reader = Reader {
        root: &root,
        into,
        definitions: Definitions::default(),
    };
    if into.is_none() {
        reader.each("users", Reader::user)?;
        reader.each("vhosts", Reader::vhost)?;
        reader.each("permissions", Reader::permission)?;
        reader.each("topic_permissions", Reader::topic_permission)?;
        reader.each("global_parameters", Reader::global_parameter)?;
    }
    reader.each("exchanges", Reader::exchange)?;
    reader.each("policies", Reader::policy)?;
    reader.each("parameters", Reader::parameter)?;
    reader.each("queues", Reader::queue)?;
    reader.each("bindings", Reader::binding)?;
    if into.is_some() {
        reader.own_limits()?;
    }
    Ok(reader.definitions)
}

struct Reader<'d> {
    root: &'d Map<String, Value>,
    /// The virtual host everything goes to.
    into: Option<&'d str>,
    definitions: Definitions,
}

/// One object of a list.
struct Item<'d> {
    list: &'static str,
    index: usize,
    fields: &'d Map<String, Value>,
    /// How errors call it; grows as more is known.
    called: String,
}

type Outcome<T> = Result<T, DefinitionsError>;

impl<'d> Item<'d> {
    fn wrong(&self, reason: impl Into<String>) -> DefinitionsError {
        DefinitionsError::Object {
            object: self.called.clone(),
            reason: reason.into(),
        }
    }

    /// A string that must be there.
    fn text(&self, key: &str) -> Outcome<&'d str> {
        match self.fields.get(key) {
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(self.wrong(format!("{key}: a string was expected, found {other}"))),
            None => Err(self.wrong(format!("{key} is missing"))),
        }
    }

    /// A name that must be there, and then is part of what errors call the item.
    fn name(&mut self) -> Outcome<&'d str> {
        let name = self.short("name")?;
        self.called = format!("{}[{}] '{name}'", self.list, self.index);
        Ok(name)
    }

    /// A string that fits a short string.
    fn short(&self, key: &str) -> Outcome<&'d str> {
        let text = self.text(key)?;
        if text.len() > NAME_BYTES_MAX {
            return Err(self.wrong(format!(
                "{key}: at most {NAME_BYTES_MAX} bytes were expected, found {}",
                text.len()
            )));
        }
        Ok(text)
    }

    fn boolean(&self, key: &str, default: bool) -> Outcome<bool> {
        match self.fields.get(key) {
            None => Ok(default),
            Some(Value::Bool(boolean)) => Ok(*boolean),
            Some(other) => {
                Err(self.wrong(format!("{key}: true or false was expected, found {other}")))
            }
        }
    }

    fn arguments(&self) -> Outcome<FieldTable> {
        match self.fields.get("arguments") {
            None => Ok(FieldTable::default()),
            // An empty table, as some tools write it.
            Some(Value::Array(items)) if items.is_empty() => Ok(FieldTable::default()),
            Some(Value::Object(fields)) => {
                table_from_json(fields).map_err(|reason| self.wrong(reason))
            }
            Some(other) => {
                Err(self.wrong(format!("arguments: an object was expected, found {other}")))
            }
        }
    }

    /// A list of words, or words with commas between.
    fn tags(&self, value: &Value) -> Outcome<Vec<String>> {
        let tags: Vec<String> = match value {
            Value::String(text) => text
                .split(',')
                .map(str::trim)
                .filter(|tag| !tag.is_empty())
                .map(str::to_owned)
                .collect(),
            Value::Array(items) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .ok_or_else(|| self.wrong(format!("tags: strings were expected, found {value}")))?,
            other => {
                return Err(self.wrong(format!(
                    "tags: a list or a string was expected, found {other}"
                )));
            }
        };
        if tags.len() > TAGS_MAX {
            return Err(self.wrong(format!(
                "tags: at most {TAGS_MAX} were expected, found {}",
                tags.len()
            )));
        }
        Ok(tags)
    }

    fn limits(&self, value: Option<&Value>, known: &[&str]) -> Outcome<BTreeMap<String, i64>> {
        let fields: Vec<(&String, &Value)> = match value {
            None => Vec::new(),
            Some(Value::Object(fields)) => fields.iter().collect(),
            // `rabbitmqctl export_definitions` writes pairs: [["max-queues", 7]].
            Some(Value::Array(pairs)) if pairs.iter().all(|pair| pair_of(pair).is_some()) => {
                pairs.iter().filter_map(pair_of).collect()
            }
            Some(other) => {
                return Err(self.wrong(format!("limits: an object was expected, found {other}")));
            }
        };
        let mut limits = BTreeMap::new();
        for (name, value) in fields {
            if !known.contains(&name.as_str()) {
                return Err(self.wrong(format!(
                    "limits: {} were expected, found {name}",
                    known.join(" and ")
                )));
            }
            let limit = value.as_i64().ok_or_else(|| {
                self.wrong(format!(
                    "limits: {name}: a whole number was expected, found {value}"
                ))
            })?;
            limits.insert(name.clone(), limit);
        }
        Ok(limits)
    }

    /// A regular expression; the empty one is right.
    fn pattern(&self, key: &str) -> Outcome<String> {
        let text = self.text(key)?;
        Pattern::new(text).map_err(|reason| self.wrong(format!("{key}: {}", one_line(&reason))))?;
        Ok(text.to_owned())
    }

    fn queue_type(&self, value: Option<&Value>) -> Outcome<Option<QueueType>> {
        match value {
            None | Some(Value::Null) => Ok(None),
            // What an older version writes for none.
            Some(Value::String(name)) if name == "undefined" || name.is_empty() => Ok(None),
            Some(Value::String(name)) => match QueueType::parse(name) {
                Some(kind) => Ok(Some(kind)),
                None => Err(self.wrong(format!("unsupported queue type '{name}'"))),
            },
            Some(other) => Err(self.wrong(format!("a queue type was expected, found {other}"))),
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

const VHOST_LIMITS: [&str; 2] = ["max-connections", "max-queues"];
const USER_LIMITS: [&str; 2] = ["max-connections", "max-channels"];

impl<'d> Reader<'d> {
    /// Reads each object of a list, which may be absent.
    fn each(
        &mut self,
        list: &'static str,
        read: fn(&mut Self, Item<'d>) -> Outcome<()>,
    ) -> Outcome<()> {
        let items = match self.root.get(list) {
            None | Some(Value::Null) => return Ok(()),
            Some(Value::Array(items)) => items,
            Some(other) => {
                return Err(DefinitionsError::Object {
                    object: list.to_owned(),
                    reason: format!("a list was expected, found {other}"),
                });
            }
        };
        for (index, value) in items.iter().enumerate() {
            let called = format!("{list}[{index}]");
            let Value::Object(fields) = value else {
                return Err(DefinitionsError::Object {
                    object: called,
                    reason: format!("an object was expected, found {value}"),
                });
            };
            read(
                self,
                Item {
                    list,
                    index,
                    fields,
                    called,
                },
            )?;
        }
        Ok(())
    }

    /// The virtual host an item belongs to.
    fn vhost_of(&self, item: &Item<'d>) -> Outcome<&'d str> {
        if let Some(vhost) = self.into {
            return Ok(vhost);
        }
        match item.fields.get("vhost") {
            Some(Value::String(vhost)) => Ok(vhost),
            None if self.root.get("rabbitmq_definition_format")
                == Some(&Value::from("single_virtual_host")) =>
            {
                Err(item.wrong(
                    "invalid_definitions_file: it names no vhost, as this is the export of a single virtual host; \
                     import it into one",
                ))
            }
            None => Err(item.wrong("invalid_definitions_file: vhost is missing")),
            Some(other) => {
                Err(item.wrong(format!("vhost: a string was expected, found {other}")))
            }
        }
    }

    /// Name and virtual host; what errors say names both.
    fn named(&self, item: &mut Item<'d>) -> Outcome<(&'d str, &'d str)> {
        let name = item.name()?;
        let vhost = self.vhost_of(item)?;
        item.called = in_vhost(item.list, item.index, name, vhost);
        Ok((name, vhost))
    }

    fn warn(&mut self, item: &Item<'_>, reason: &str) {
        self.definitions
            .warnings
            .push(format!("{} was left out: {reason}", item.called));
    }

    fn user(&mut self, mut item: Item<'d>) -> Outcome<()> {
        let name = item.name()?;
        let Some(tags) = item.fields.get("tags") else {
            return Err(
                item.wrong("tags_not_present: tags must be there, if only as an empty list")
            );
        };
        let tags = item.tags(tags)?;
        let limits = item.limits(item.fields.get("limits"), &USER_LIMITS)?;
        let hash = item.fields.get("password_hash");
        let credentials = match hash {
            Some(Value::String(hash)) if hash.is_empty() => Credentials::None,
            Some(Value::String(hash)) => {
                let algorithm = self.algorithm(&item)?;
                if !is_base64(hash) {
                    return Err(item.wrong("password_hash: not_base64"));
                }
                Credentials::Hash(hash.clone(), algorithm)
            }
            None | Some(Value::Null) => match item.fields.get("password") {
                None | Some(Value::Null) => Credentials::None,
                Some(Value::String(password)) if password.is_empty() => Credentials::None,
                Some(Value::String(password)) => Credentials::Password(password.clone()),
                Some(_) => return Err(item.wrong("password: a string was expected")),
            },
            Some(_) => return Err(item.wrong("password_hash: a string was expected")),
        };
        self.definitions.users.push(User {
            name: name.to_owned(),
            credentials,
            tags,
            limits,
        });
        Ok(())
    }

    /// How a user's hash was made, where the document does not say: versions before 3.6 knew one way only.
    fn algorithm(&self, item: &Item<'d>) -> Outcome<HashAlgorithm> {
        match item.fields.get("hashing_algorithm") {
            None | Some(Value::Null) => {
                let version = self
                    .root
                    .get("rabbit_version")
                    .or_else(|| self.root.get("rabbitmq_version"))
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
                let ancient = match (numbers.next().flatten(), numbers.next().flatten()) {
                    (Some(major), Some(minor)) => (major, minor) < (3, 6),
                    _ => false,
                };
                Ok(if ancient {
                    HashAlgorithm::Md5
                } else {
                    HashAlgorithm::Sha256
                })
            }
            Some(value) => value
                .as_str()
                .and_then(HashAlgorithm::by_name)
                .ok_or_else(|| {
                    item.wrong(format!(
                        "hashing_algorithm: {}, {} or {} was expected, found {value}",
                        HashAlgorithm::Sha256.name(),
                        HashAlgorithm::Sha512.name(),
                        HashAlgorithm::Md5.name()
                    ))
                }),
        }
    }

    fn vhost(&mut self, mut item: Item<'d>) -> Outcome<()> {
        let name = item.name()?;
        let vhost = metadata(&item, name)?;
        let limits = item.limits(item.fields.get("limits"), &VHOST_LIMITS)?;
        self.definitions.vhosts.push(vhost);
        self.add_limits(name, limits);
        Ok(())
    }

    /// The metadata and limits of the virtual host whose export the document is; metadata that is there already
    /// is not for an import to change, so only limits count.
    fn own_limits(&mut self) -> Outcome<()> {
        let Some(vhost) = self.into else {
            return Ok(());
        };
        let item = Item {
            list: "limits",
            index: 0,
            fields: self.root,
            called: format!("limits of vhost '{vhost}'"),
        };
        let limits = item.limits(self.root.get("limits"), &VHOST_LIMITS)?;
        self.add_limits(vhost, limits);
        Ok(())
    }

    /// Adds limits to a virtual host, which need not be in the document.
    fn add_limits(&mut self, vhost: &str, limits: BTreeMap<String, i64>) {
        if limits.is_empty() {
            return;
        }
        let known = self
            .definitions
            .vhost_limits
            .entry(vhost.to_owned())
            .or_default();
        known.extend(limits);
    }

    fn permission(&mut self, item: Item<'d>) -> Outcome<()> {
        let permission = Permission {
            user: item.short("user")?.to_owned(),
            vhost: self.vhost_of(&item)?.to_owned(),
            configure: item.pattern("configure")?,
            write: item.pattern("write")?,
            read: item.pattern("read")?,
        };
        self.definitions.permissions.push(permission);
        Ok(())
    }

    fn topic_permission(&mut self, item: Item<'d>) -> Outcome<()> {
        let permission = TopicPermission {
            user: item.short("user")?.to_owned(),
            vhost: self.vhost_of(&item)?.to_owned(),
            exchange: item.short("exchange")?.to_owned(),
            write: item.pattern("write")?,
            read: item.pattern("read")?,
        };
        self.definitions.topic_permissions.push(permission);
        Ok(())
    }

    fn global_parameter(&mut self, mut item: Item<'d>) -> Outcome<()> {
        let name = item.name()?;
        // What a cluster knows itself by is its own.
        if name.starts_with("internal") {
            return Ok(());
        }
        // Of a name alone nothing can be learned; the reference broker writes such things if asked to.
        if let Some(value) = item.fields.get("value") {
            self.definitions.global_parameters.push(GlobalParameter {
                name: name.to_owned(),
                value: value.clone(),
            });
        }
        Ok(())
    }

    fn policy(&mut self, mut item: Item<'d>) -> Outcome<()> {
        let (name, vhost) = self.named(&mut item)?;
        let body = Value::Object(item.fields.clone());
        self.add_policy(&item, Scope::Policy, vhost, name, body)
    }

    /// Adds a policy, without the settings that mean nothing here; without any, it is left out.
    fn add_policy(
        &mut self,
        item: &Item<'d>,
        scope: Scope,
        vhost: &str,
        name: &str,
        mut body: Value,
    ) -> Outcome<()> {
        if let Some(Value::Object(settings)) = body.get_mut("definition") {
            let foreign: Vec<String> = settings
                .keys()
                .filter(|key| FOREIGN_SETTINGS.iter().any(|start| key.starts_with(start)))
                .cloned()
                .collect();
            for key in &foreign {
                settings.remove(key);
                self.definitions.warnings.push(format!(
                    "{}: setting {key} was left out: this broker has neither mirrored queues nor federation",
                    item.called
                ));
            }
            if settings.is_empty() && !foreign.is_empty() {
                self.warn(item, "no setting remains");
                return Ok(());
            }
        }
        let policy = Policy::from_json(scope, name, &body)
            .map_err(|error| item.wrong(on_one_line(&error)))?;
        self.definitions.policies.push(PolicyDefinition {
            vhost: vhost.to_owned(),
            policy,
        });
        Ok(())
    }

    fn parameter(&mut self, mut item: Item<'d>) -> Outcome<()> {
        let component = item.text("component")?;
        let (name, vhost) = self.named(&mut item)?;
        let Some(value) = item.fields.get("value") else {
            return Err(item.wrong("value is missing"));
        };
        match component {
            "operator_policy" => {
                self.add_policy(&item, Scope::OperatorPolicy, vhost, name, value.clone())
            }
            "policy" => self.add_policy(&item, Scope::Policy, vhost, name, value.clone()),
            "vhost-limits" => {
                let limits = item.limits(Some(value), &VHOST_LIMITS)?;
                self.add_limits(vhost, limits);
                Ok(())
            }
            foreign if FOREIGN_COMPONENTS.contains(&foreign) => {
                self.definitions.warnings.push(format!(
                    "{} was kept, but does nothing: this broker has no {foreign}",
                    item.called
                ));
                self.definitions.parameters.push(Parameter {
                    vhost: vhost.to_owned(),
                    component: component.to_owned(),
                    name: name.to_owned(),
                    value: value.clone(),
                });
                Ok(())
            }
            _ => Err(item.wrong(format!("component {component} not found"))),
        }
    }

    fn queue(&mut self, mut item: Item<'d>) -> Outcome<()> {
        let (name, vhost) = self.named(&mut item)?;
        if name.is_empty() {
            return Err(item.wrong("a name was expected"));
        }
        if name.starts_with("amq.") {
            self.warn(&item, "its name is reserved");
            return Ok(());
        }
        let arguments = item.arguments()?;
        let by_key = item.queue_type(item.fields.get("type"))?;
        // The argument counts; a wrong one is for whoever checks arguments to complain about.
        let by_argument = arguments
            .inner()
            .get("x-queue-type")
            .and_then(table::text)
            .and_then(QueueType::parse);
        let queue = QueueDefinition {
            vhost: vhost.to_owned(),
            name: name.to_owned(),
            queue_type: by_argument.or(by_key),
            durable: item.boolean("durable", true)?,
            auto_delete: item.boolean("auto_delete", false)?,
            arguments,
        };
        self.definitions.queues.push(queue);
        Ok(())
    }

    fn exchange(&mut self, mut item: Item<'d>) -> Outcome<()> {
        let (name, vhost) = self.named(&mut item)?;
        if name.is_empty() || name.starts_with("amq.") {
            self.warn(&item, "every virtual host has its own");
            return Ok(());
        }
        let exchange = ExchangeDefinition {
            vhost: vhost.to_owned(),
            name: name.to_owned(),
            kind: item.short("type")?.to_owned(),
            durable: item.boolean("durable", true)?,
            auto_delete: item.boolean("auto_delete", false)?,
            internal: item.boolean("internal", false)?,
            arguments: item.arguments()?,
        };
        self.definitions.exchanges.push(exchange);
        Ok(())
    }

    fn binding(&mut self, mut item: Item<'d>) -> Outcome<()> {
        let (source, destination) = (item.short("source")?, item.short("destination")?);
        item.called = format!(
            "bindings[{}] from '{source}' to '{destination}'",
            item.index
        );
        let vhost = self.vhost_of(&item)?;
        item.called = format!("{} in vhost '{vhost}'", item.called);
        let destination_kind = match item.fields.get("destination_type") {
            None => DestinationKind::Queue,
            Some(value) => match value.as_str() {
                Some("queue") => DestinationKind::Queue,
                Some("exchange") => DestinationKind::Exchange,
                _ => {
                    return Err(item.wrong(format!(
                        "destination_type: queue or exchange was expected, found {value}"
                    )));
                }
            },
        };
        if source.is_empty() {
            self.warn(&item, "every queue is bound to the default exchange");
            return Ok(());
        }
        let routing_key = match item.fields.get("routing_key") {
            None => String::new(),
            Some(_) => item.short("routing_key")?.to_owned(),
        };
        let binding = BindingDefinition {
            vhost: vhost.to_owned(),
            source: source.to_owned(),
            destination: destination.to_owned(),
            destination_kind,
            routing_key,
            arguments: item.arguments()?,
        };
        self.definitions.bindings.push(binding);
        Ok(())
    }
}

/// A virtual host's description, tags and default queue type, which stand in its `metadata`, or beside it, or
/// both.
fn metadata(item: &Item<'_>, name: &str) -> Outcome<VirtualHost> {
    let empty = Map::new();
    let inner = match item.fields.get("metadata") {
        None | Some(Value::Null) => &empty,
        Some(Value::Object(fields)) => fields,
        Some(other) => {
            return Err(item.wrong(format!("metadata: an object was expected, found {other}")));
        }
    };
    let field = |key: &str| {
        inner
            .get(key)
            .or_else(|| item.fields.get(key))
            .filter(|value| !value.is_null())
    };
    let description = match field("description") {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => {
            return Err(item.wrong(format!("description: a string was expected, found {other}")));
        }
    };
    Ok(VirtualHost {
        name: name.to_owned(),
        description,
        tags: match field("tags") {
            None => Vec::new(),
            Some(tags) => item.tags(tags)?,
        },
        default_queue_type: item.queue_type(field("default_queue_type"))?,
    })
}

/// Whether the text is base64 with its padding.
fn is_base64(text: &str) -> bool {
    let digits = text.trim_end_matches('=');
    text.len().is_multiple_of(4)
        && text.len() - digits.len() <= 2
        && digits
            .bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || octet == b'+' || octet == b'/')
}

/// A name with a value.
fn pair_of(value: &Value) -> Option<(&String, &Value)> {
    match value.as_array()?.as_slice() {
        [Value::String(name), value] => Some((name, value)),
        _ => None,
    }
}
