//! Managing tenants: users, virtual hosts, permissions, limits and global parameters (`spec: semantics §21, §22, §24`).
//!
//! Every change takes effect at once, on open connections too, and is durable before its method returns: the methods block
//! and must not be called on a thread that drives connections. One change at a time is validated, applied and handed to
//! the disk; waiting for the disk is done outside that order, so that many changes share one commit. After
//! [`TenantError::Storage`] a change is in effect but will not survive a restart.

use std::{collections::HashMap, convert::Infallible, net::IpAddr, sync::Arc};

use mamba_auth::{
    Directory, HashAlgorithm, InvalidHash, InvalidPattern, Limit, PasswordHash, Permissions, Tags,
    TooManyTags, TopicPermissions, User, UserLimits, VhostLimits,
};
use mamba_policy::ValidationError;
use mamba_store::{
    BindingDefinition, DefinitionChange, ExchangeDefinition, GlobalParameterDefinition, OpenError,
    ParameterDefinition, PermissionDefinition, PolicyDefinition, QueueDefinition, Store,
    StoreError, StoredDefinitions, TopicPermissionDefinition, UserDefinition, VhostDefinition,
};
use parking_lot::MutexGuard;
use serde_json::{Map, Value};

use crate::{
    access::Attempt,
    broker::{Broker, BrokerConfig, Changes},
    commit::CommitState,
    metrics::Counts,
    oauth::Bell,
    vhost::{Vhost, VhostSettings},
};

/// Octets of a virtual host's name: it has to fit into `connection.open`.
const VHOST_NAME_MAX: usize = 255;
/// Octets of a user's name.
const USER_NAME_MAX: usize = 1024;
/// Queue types a virtual host can have as its default.
const QUEUE_TYPES: [&str; 3] = ["classic", "quorum", "stream"];

/// Why a tenant was not changed.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    /// The user is there already.
    #[error("User \"{0}\" already exists")]
    UserExists(String),
    /// There is no such user.
    #[error("User \"{0}\" does not exist")]
    NoSuchUser(String),
    /// There is no such virtual host.
    #[error("Virtual host '{0}' does not exist")]
    NoSuchVhost(String),
    /// A name that cannot be one.
    #[error("{0}")]
    Name(&'static str),
    /// A pattern that is no regular expression.
    #[error(transparent)]
    Pattern(#[from] InvalidPattern),
    /// Too many tags.
    #[error(transparent)]
    Tags(#[from] TooManyTags),
    /// A password hash that is none.
    #[error(transparent)]
    Hash(#[from] InvalidHash),
    /// A limit that is unknown or no number.
    #[error("{0}")]
    Limits(String),
    /// A queue type nobody knows.
    #[error("invalid queue type '{0}': expected classic, quorum or stream")]
    QueueType(String),
    /// The node has as many virtual hosts as it may.
    #[error("cannot create vhost '{name}': vhost limit of {max} is reached")]
    TooManyVhosts {
        /// The one too many.
        name: String,
        /// `limits.vhosts_max`.
        max: usize,
    },
    /// The virtual host refuses.
    #[error("Cannot delete virtual host '{0}': it is protected from deletion")]
    Protected(String),
    /// There is no such kind of runtime parameters.
    #[error("Validation failed\n\ncomponent {0} not found\n")]
    NoSuchComponent(String),
    /// Policies have methods of their own.
    #[error("policies may not be set using this method")]
    PolicyAsParameter,
    /// What is no policy.
    #[error(transparent)]
    Policy(#[from] ValidationError),
    /// There is no such policy or parameter.
    #[error("Parameter does not exist")]
    NoSuchParameter,
    /// The change is in effect and could not be stored.
    #[error("the change could not be stored and will be gone after a restart: {0}")]
    Storage(#[from] StoreError),
    /// No chance could be drawn for a salt.
    #[error("no random salt could be drawn: {0}")]
    Random(#[from] std::io::Error),
}

/// A password as somebody sets it.
#[derive(Clone)]
pub enum NewPassword<'a> {
    /// To be hashed with a fresh salt.
    Plain(&'a str),
    /// Hashed elsewhere.
    Hashed(PasswordHash),
    /// No login with a password.
    Disabled,
}

impl std::fmt::Debug for NewPassword<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewPassword(..)")
    }
}

/// A user's permissions in a virtual host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// Virtual host.
    pub vhost: Arc<str>,
    /// User.
    pub user: Arc<str>,
    /// What it may create and delete.
    pub configure: String,
    /// Where it may publish and bind to.
    pub write: String,
    /// What it may consume and bind from.
    pub read: String,
}

/// A user's permissions for the topics of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPermission {
    /// Virtual host.
    pub vhost: Arc<str>,
    /// User.
    pub user: Arc<str>,
    /// Topic exchange.
    pub exchange: Arc<str>,
    /// Routing keys to publish with.
    pub write: String,
    /// Binding keys to bind with.
    pub read: String,
}

/// Users.
impl Broker {
    /// All users, by name.
    #[must_use]
    pub fn users(&self) -> Vec<Arc<User>> {
        self.access
            .read(|directory| directory.users().cloned().collect())
    }

    /// A user by name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<Arc<User>> {
        self.access.read(|directory| directory.user(name).cloned())
    }

    /// Connections a user has open.
    #[must_use]
    pub fn connections_of_user(&self, name: &str) -> usize {
        self.access.connections_of(name)
    }

    /// Who is behind these credentials, for whoever lets in by name and password or token. `now_ms` is the time in milliseconds
    /// since 1970; without a bell an unknown key of a token is a refusal at once. The reason of one is to be logged, not to be told.
    #[must_use]
    pub fn authenticate(
        &self,
        name: &str,
        password: &str,
        from: IpAddr,
        now_ms: u64,
        bell: Option<Bell>,
    ) -> Attempt {
        self.access
            .login(name.as_bytes(), password.as_bytes(), from, now_ms, bell)
    }

    /// Adds a user without permissions.
    ///
    /// # Errors
    /// [`TenantError::UserExists`] and what else is wrong with it.
    pub fn add_user(
        &self,
        name: &str,
        password: NewPassword<'_>,
        tags: Tags,
    ) -> Result<(), TenantError> {
        check_user_name(name)?;
        let password = self.hashed(password)?;
        let changing = self.changing.lock();
        if self.user(name).is_some() {
            return Err(TenantError::UserExists(name.to_owned()));
        }
        let user = User {
            name: name.into(),
            password,
            tags,
            limits: UserLimits::default(),
        };
        tracing::info!(user = name, "user added");
        self.tell_user("user.created", name);
        if user.tags.iter().next().is_some() {
            self.tell_tags(&user);
        }
        self.keep_user(changing, user)
    }

    /// Adds a user, or replaces the password and the tags of the one that is there. Returns whether it is new.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn put_user(
        &self,
        name: &str,
        password: NewPassword<'_>,
        tags: Tags,
    ) -> Result<bool, TenantError> {
        check_user_name(name)?;
        let password = self.hashed(password)?;
        let changing = self.changing.lock();
        let before = self.user(name);
        let user = User {
            name: name.into(),
            password,
            tags,
            limits: before.as_ref().map(|user| user.limits).unwrap_or_default(),
        };
        tracing::info!(user = name, new = before.is_none(), "user set");
        let told = match &before {
            None => "user.created",
            Some(_) => "user.password.changed",
        };
        self.tell_user(told, name);
        self.tell_tags(&user);
        self.keep_user(changing, user)?;
        Ok(before.is_none())
    }

    /// Deletes a user with its permissions and closes its connections.
    ///
    /// # Errors
    /// [`TenantError::NoSuchUser`].
    pub fn delete_user(&self, name: &str) -> Result<(), TenantError> {
        let changing = self.changing.lock();
        let mut changes = Vec::new();
        self.access.change(|directory| {
            for (vhost, user, permissions) in directory.all_permissions() {
                if **user == *name {
                    let definition = permission_definition(vhost, user, permissions);
                    changes.push(DefinitionChange::delete(&definition));
                }
            }
            for (vhost, user, exchange, topics) in directory.all_topic_permissions() {
                if **user == *name {
                    let definition = topic_definition(vhost, user, exchange, topics);
                    changes.push(DefinitionChange::delete(&definition));
                }
            }
            let user = directory
                .remove_user(name)
                .ok_or_else(|| TenantError::NoSuchUser(name.to_owned()))?;
            changes.push(DefinitionChange::delete(&user_definition(&user)));
            Ok::<(), TenantError>(())
        })?;
        self.access.forget_usage(name);
        let closed =
            self.close_connections_of(|user, _| user == name, &format!("user '{name}' is deleted"));
        tracing::info!(user = name, connections = closed, "user deleted");
        self.tell_user("user.deleted", name);
        self.keep(changing, changes)
    }

    /// Replaces a user's password; open connections stay.
    ///
    /// # Errors
    /// [`TenantError::NoSuchUser`].
    pub fn change_password(
        &self,
        name: &str,
        password: NewPassword<'_>,
    ) -> Result<(), TenantError> {
        let told = match &password {
            NewPassword::Disabled => "user.password.cleared",
            NewPassword::Plain(_) | NewPassword::Hashed(_) => "user.password.changed",
        };
        let password = self.hashed(password)?;
        self.change_user(name, |user| user.password = password)?;
        tracing::info!(user = name, "password changed");
        self.tell_user(told, name);
        Ok(())
    }

    /// Replaces a user's tags.
    ///
    /// # Errors
    /// [`TenantError::NoSuchUser`].
    pub fn set_user_tags(&self, name: &str, tags: Tags) -> Result<(), TenantError> {
        self.change_user(name, |user| {
            user.tags = tags;
            self.tell_tags(user);
        })
    }

    /// Changes a user's limits. What is open beyond a new limit stays.
    ///
    /// # Errors
    /// [`TenantError::NoSuchUser`].
    pub fn change_user_limits(
        &self,
        name: &str,
        change: impl FnOnce(&mut UserLimits),
    ) -> Result<(), TenantError> {
        self.change_user(name, |user| {
            change(&mut user.limits);
            let limits = user_limits_json(&user.limits);
            let told = match limits.is_empty() {
                true => "user.limits.cleared",
                false => "user.limits.set",
            };
            self.tell(told, |event| {
                event.text("name", "limits").text("username", name);
                event.fields(&limits).actor();
            });
        })
    }

    fn change_user(&self, name: &str, change: impl FnOnce(&mut User)) -> Result<(), TenantError> {
        let changing = self.changing.lock();
        let user = self
            .user(name)
            .ok_or_else(|| TenantError::NoSuchUser(name.to_owned()))?;
        let mut user = User::clone(&user);
        change(&mut user);
        self.keep_user(changing, user)
    }

    fn tell_user(&self, told: &'static str, name: &str) {
        self.tell(told, |event| {
            event.text("name", name).actor();
        });
    }

    fn tell_tags(&self, user: &User) {
        self.tell("user.tags.set", |event| {
            event
                .text("name", &user.name)
                .texts("tags", user.tags.iter())
                .actor();
        });
    }

    fn keep_user(&self, changing: MutexGuard<'_, ()>, user: User) -> Result<(), TenantError> {
        let change = DefinitionChange::put(&user_definition(&user));
        self.access.change(|directory| directory.put_user(user));
        self.keep(changing, vec![change])
    }

    /// Hashes a password with a fresh salt.
    ///
    /// # Errors
    /// [`TenantError::Random`].
    pub fn hashed(&self, password: NewPassword<'_>) -> Result<PasswordHash, TenantError> {
        Ok(match password {
            NewPassword::Plain(password) => {
                let mut salt = [0; 4];
                self.store.0.random(&mut salt)?;
                PasswordHash::new(HashAlgorithm::default(), salt, password.as_bytes())
            }
            NewPassword::Hashed(hash) => hash,
            NewPassword::Disabled => PasswordHash::disabled(HashAlgorithm::default()),
        })
    }

    /// Hands changes to the disk in the order they were made in, and waits for them outside that order.
    pub(crate) fn keep(
        &self,
        changing: MutexGuard<'_, ()>,
        changes: Vec<DefinitionChange>,
    ) -> Result<(), TenantError> {
        let pending = self.store.0.definitions().begin(changes);
        drop(changing);
        Ok(pending.wait()?)
    }
}

/// Permissions.
impl Broker {
    /// All permissions, by virtual host and user.
    #[must_use]
    pub fn permissions(&self) -> Vec<Permission> {
        self.access.read(|directory| {
            let view =
                |(vhost, user, permissions): (&Arc<str>, &Arc<str>, &Permissions)| Permission {
                    vhost: Arc::clone(vhost),
                    user: Arc::clone(user),
                    configure: permissions.configure.as_str().to_owned(),
                    write: permissions.write.as_str().to_owned(),
                    read: permissions.read.as_str().to_owned(),
                };
            directory.all_permissions().map(view).collect()
        })
    }

    /// Sets a user's permissions in a virtual host; open connections feel it with their next method.
    ///
    /// # Errors
    /// [`TenantError::NoSuchUser`], [`TenantError::NoSuchVhost`], [`TenantError::Pattern`].
    pub fn set_permissions(
        &self,
        vhost: &str,
        user: &str,
        configure: &str,
        write: &str,
        read: &str,
    ) -> Result<(), TenantError> {
        let permissions = Permissions::new(configure, write, read)?;
        let changing = self.changing.lock();
        self.check_tenant(vhost, user)?;
        let change = DefinitionChange::put(&permission_definition(vhost, user, &permissions));
        self.access
            .change(|directory| directory.put_permissions(vhost, user, permissions));
        tracing::info!(user, vhost, configure, write, read, "permissions set");
        self.tell("permission.created", |event| {
            event
                .text("user", user)
                .text("vhost", vhost)
                .text("configure", configure)
                .text("write", write)
                .text("read", read)
                .actor();
        });
        self.keep(changing, vec![change])
    }

    /// Takes a user's permissions in a virtual host away; returns whether there were any.
    ///
    /// # Errors
    /// [`TenantError::Storage`].
    pub fn clear_permissions(&self, vhost: &str, user: &str) -> Result<bool, TenantError> {
        let changing = self.changing.lock();
        let removed = self
            .access
            .change(|directory| directory.remove_permissions(vhost, user));
        if removed {
            tracing::info!(user, vhost, "permissions cleared");
            self.tell("permission.deleted", |event| {
                event.text("user", user).text("vhost", vhost).actor();
            });
            let definition = PermissionDefinition {
                vhost: vhost.to_owned(),
                user: user.to_owned(),
                ..PermissionDefinition::default()
            };
            self.keep(changing, vec![DefinitionChange::delete(&definition)])?;
        }
        Ok(removed)
    }

    /// All topic permissions, by virtual host, user and exchange.
    #[must_use]
    pub fn topic_permissions(&self) -> Vec<TopicPermission> {
        self.access.read(|directory| {
            directory
                .all_topic_permissions()
                .map(|(vhost, user, exchange, topics)| TopicPermission {
                    vhost: Arc::clone(vhost),
                    user: Arc::clone(user),
                    exchange: Arc::clone(exchange),
                    write: topics.write.as_str().to_owned(),
                    read: topics.read.as_str().to_owned(),
                })
                .collect()
        })
    }

    /// Sets a user's permissions for the topics of an exchange. The exchange need not exist.
    ///
    /// # Errors
    /// [`TenantError::NoSuchUser`], [`TenantError::NoSuchVhost`], [`TenantError::Pattern`].
    pub fn set_topic_permissions(
        &self,
        vhost: &str,
        user: &str,
        exchange: &str,
        write: &str,
        read: &str,
    ) -> Result<(), TenantError> {
        let topics = TopicPermissions::new(user, vhost, write, read)?;
        let changing = self.changing.lock();
        self.check_tenant(vhost, user)?;
        let change = DefinitionChange::put(&topic_definition(vhost, user, exchange, &topics));
        self.access
            .change(|directory| directory.put_topic_permissions(vhost, user, exchange, topics));
        tracing::info!(user, vhost, exchange, write, read, "topic permissions set");
        self.tell("topic.permission.created", |event| {
            event
                .text("user", user)
                .text("vhost", vhost)
                .text("exchange", exchange)
                .text("write", write)
                .text("read", read)
                .actor();
        });
        self.keep(changing, vec![change])
    }

    /// Takes a user's topic permissions away, for one exchange or all; returns whether there were any.
    ///
    /// # Errors
    /// [`TenantError::Storage`].
    pub fn clear_topic_permissions(
        &self,
        vhost: &str,
        user: &str,
        exchange: Option<&str>,
    ) -> Result<bool, TenantError> {
        let changing = self.changing.lock();
        let removed = self
            .access
            .change(|directory| directory.remove_topic_permissions(vhost, user, exchange));
        if removed.is_empty() {
            return Ok(false);
        }
        tracing::info!(
            user,
            vhost,
            exchanges = removed.len(),
            "topic permissions cleared"
        );
        self.tell("topic.permission.deleted", |event| {
            event.text("user", user).text("vhost", vhost).actor();
        });
        let changes = removed.iter().map(|exchange| {
            DefinitionChange::delete(&TopicPermissionDefinition {
                vhost: vhost.to_owned(),
                user: user.to_owned(),
                exchange: exchange.to_string(),
                ..TopicPermissionDefinition::default()
            })
        });
        self.keep(changing, changes.collect())?;
        Ok(true)
    }

    fn check_tenant(&self, vhost: &str, user: &str) -> Result<(), TenantError> {
        if self.user(user).is_none() {
            return Err(TenantError::NoSuchUser(user.to_owned()));
        }
        self.known_vhost(vhost).map(drop)
    }
}

/// Virtual hosts.
impl Broker {
    /// Adds a virtual host with the predeclared exchanges; false if it was there already, which then stays as it is.
    ///
    /// # Errors
    /// What is wrong with its name or settings.
    pub fn add_vhost(&self, name: &str, settings: VhostSettings) -> Result<bool, TenantError> {
        if name.is_empty() || name.len() > VHOST_NAME_MAX {
            return Err(TenantError::Name(
                "a virtual host's name has 1 to 255 octets",
            ));
        }
        let settings = checked(settings)?;
        let changing = self.changing.lock();
        if self.vhost(name).is_some() {
            return Ok(false);
        }
        let max = self.config.limits.vhosts_max;
        let there = self.vhosts();
        if max != 0 && there.len() >= max {
            let name = name.to_owned();
            return Err(TenantError::TooManyVhosts { name, max });
        }
        let now_ms = there.iter().map(|vhost| vhost.unix_ms()).max();
        let vhost = Arc::new(self.new_vhost(name, settings.clone(), now_ms.unwrap_or_default()));
        let change = DefinitionChange::put(&vhost.definition(&settings));
        // Handed to the disk before clients can know of it: what they declare in it comes after it.
        let pending = self.store.0.definitions().begin(vec![change]);
        if self.tells() {
            for exchange in vhost.exchanges() {
                self.tell_exchange_made(&vhost, &exchange);
            }
        }
        self.vhosts.write().insert(Arc::clone(&vhost.name), vhost);
        drop(changing);
        tracing::info!(vhost = name, "virtual host added");
        self.tell("vhost.created", |event| {
            let default = settings.default_queue_type.as_deref();
            event
                .text("name", name)
                .text("description", &settings.description)
                .texts("tags", settings.tags.iter().map(String::as_str))
                .text("default_queue_type", default.unwrap_or("classic"))
                .flag("tracing", settings.tracing)
                .actor();
        });
        pending.wait()?;
        Ok(true)
    }

    /// Changes what is set about a virtual host.
    ///
    /// # Errors
    /// [`TenantError::NoSuchVhost`], [`TenantError::QueueType`].
    pub fn change_vhost(
        &self,
        name: &str,
        change: impl FnOnce(&mut VhostSettings),
    ) -> Result<(), TenantError> {
        let changing = self.changing.lock();
        let vhost = self.known_vhost(name)?;
        let mut settings = VhostSettings::clone(&vhost.settings());
        change(&mut settings);
        let settings = checked(settings)?;
        let put = DefinitionChange::put(&vhost.definition(&settings));
        if settings.limits != vhost.settings().limits {
            let limits = vhost_limits_json(&settings.limits);
            let told = match limits.is_empty() {
                true => "vhost.limits.cleared",
                false => "vhost.limits.set",
            };
            self.tell(told, |event| {
                event.text("name", "limits").text("vhost", name);
                event.fields(&limits).actor();
            });
        }
        vhost.set_settings(settings);
        self.keep(changing, vec![put])
    }

    /// Deletes a virtual host with everything in it and closes its connections.
    ///
    /// # Errors
    /// [`TenantError::NoSuchVhost`], [`TenantError::Protected`].
    pub fn delete_vhost(&self, name: &str) -> Result<(), TenantError> {
        let changing = self.changing.lock();
        let vhost = self.known_vhost(name)?;
        if vhost.settings().protected_from_deletion {
            return Err(TenantError::Protected(name.to_owned()));
        }
        self.vhosts.write().remove(name);
        let mut table = vhost.table.write();
        vhost.mark_deleted();
        let closed = self.close_connections_of(
            |_, vhost| vhost == name,
            &format!("vhost '{name}' is deleted"),
        );
        let mut changes = Changes::from(everything_in(name));
        let queues: Vec<_> = table.queues().map(|queue| Arc::clone(&queue.0)).collect();
        for queue in &queues {
            let Ok(ended) = queue.end(|_| Ok::<(), Infallible>(()));
            self.timers.remove(queue.id);
            table.remove_queue(&queue.name);
            self.tell_queue_gone(queue);
            changes.forget.push((queue.id, ended));
        }
        let commit = self.commit(changes);
        if self.tells() {
            for exchange in table.exchanges() {
                self.tell_exchange_gone(&vhost, &exchange.spec().name);
            }
        }
        drop(table);
        self.access.change(|directory| directory.remove_vhost(name));
        drop(changing);
        let mut counts = Counts {
            queues_deleted: queues.len() as u64,
            ..Counts::default()
        };
        self.metrics.add(&mut counts);
        tracing::info!(
            vhost = name,
            queues = queues.len(),
            connections = closed,
            "virtual host deleted"
        );
        self.tell("vhost.deleted", |event| {
            event.text("name", name).actor();
        });
        // Whatever was handed over before is decided once this is.
        self.store.0.definitions().flush();
        match commit.map(|commit| commit.state()) {
            None | Some(CommitState::Done) => Ok(()),
            Some(CommitState::Pending | CommitState::Failed) => {
                let reason = "see the broker's log";
                Err(TenantError::Storage(StoreError::Failed(reason.into())))
            }
        }
    }

    pub(crate) fn known_vhost(&self, name: &str) -> Result<Arc<Vhost>, TenantError> {
        self.vhost(name)
            .ok_or_else(|| TenantError::NoSuchVhost(name.to_owned()))
    }
}

/// Global parameters.
impl Broker {
    /// All global parameters, by name.
    #[must_use]
    pub fn global_parameters(&self) -> Vec<(String, Value)> {
        let parameters = self.global_parameters.read();
        let owned = |(name, value): (&String, &Value)| (name.clone(), value.clone());
        parameters.iter().map(owned).collect()
    }

    /// A global parameter's value.
    #[must_use]
    pub fn global_parameter(&self, name: &str) -> Option<Value> {
        self.global_parameters.read().get(name).cloned()
    }

    /// Sets a global parameter; returns whether it is new.
    ///
    /// # Errors
    /// [`TenantError::Storage`].
    pub fn set_global_parameter(&self, name: &str, value: Value) -> Result<bool, TenantError> {
        let changing = self.changing.lock();
        let definition = GlobalParameterDefinition {
            name: name.to_owned(),
            value,
        };
        let change = DefinitionChange::put(&definition);
        self.tell_parameter(None, "global", name, Some(&definition.value));
        let before = self
            .global_parameters
            .write()
            .insert(definition.name, definition.value);
        self.keep(changing, vec![change])?;
        Ok(before.is_none())
    }

    /// Takes a global parameter away.
    ///
    /// # Errors
    /// [`TenantError::NoSuchParameter`].
    pub fn clear_global_parameter(&self, name: &str) -> Result<(), TenantError> {
        let changing = self.changing.lock();
        let value = self
            .global_parameters
            .write()
            .remove(name)
            .ok_or(TenantError::NoSuchParameter)?;
        self.tell_parameter(None, "global", name, None);
        let definition = GlobalParameterDefinition {
            name: name.to_owned(),
            value,
        };
        self.keep(changing, vec![DefinitionChange::delete(&definition)])
    }
}

/// A password's hash as it is stored, with a salt from the system, for tools that have no broker.
///
/// # Errors
/// The system's, when there is no chance to be had.
pub fn hash_with_fresh_salt(password: &str) -> std::io::Result<String> {
    let mut salt = [0; 4];
    mamba_store::Disk::random(&mamba_store::RealDisk::new(), &mut salt)?;
    let hash = PasswordHash::new(HashAlgorithm::default(), salt, password.as_bytes());
    Ok(hash.to_text())
}

fn check_user_name(name: &str) -> Result<(), TenantError> {
    if name.is_empty() || name.len() > USER_NAME_MAX {
        return Err(TenantError::Name("a user's name has 1 to 1024 octets"));
    }
    Ok(())
}

fn checked(mut settings: VhostSettings) -> Result<VhostSettings, TenantError> {
    settings.default_queue_type = match settings.default_queue_type.as_deref() {
        None | Some("" | "undefined") => None,
        Some(kind) if QUEUE_TYPES.contains(&kind) => Some(kind.to_owned()),
        Some(kind) => return Err(TenantError::QueueType(kind.to_owned())),
    };
    Ok(settings)
}

/// Reads `{"max-connections": N, "max-channels": N}` into a user's limits; those it does not name stay.
///
/// # Errors
/// [`TenantError::Limits`] for an unknown name or a value that is no number.
pub fn read_user_limits(
    json: &Map<String, Value>,
    limits: &mut UserLimits,
) -> Result<(), TenantError> {
    let [connections, channels] =
        read_limits(json, ["max-connections", "max-channels"], "user-limits")?;
    limits.connections_max = connections.unwrap_or(limits.connections_max);
    limits.channels_max = channels.unwrap_or(limits.channels_max);
    Ok(())
}

/// Reads `{"max-connections": N, "max-queues": N}`; those it does not name are not limited.
///
/// # Errors
/// [`TenantError::Limits`] for an unknown name or a value that is no number.
pub fn read_vhost_limits(json: &Map<String, Value>) -> Result<VhostLimits, TenantError> {
    let [connections, queues] = read_limits(json, ["max-connections", "max-queues"], "limits")
        .map_err(|error| TenantError::Limits(format!("Validation failed\n\n{error}\n")))?;
    Ok(VhostLimits {
        connections_max: connections.unwrap_or_default(),
        queues_max: queues.unwrap_or_default(),
    })
}

fn read_limits(
    json: &Map<String, Value>,
    names: [&str; 2],
    of: &str,
) -> Result<[Option<Limit>; 2], TenantError> {
    let unknown: Vec<String> = json
        .iter()
        .filter(|(name, _)| !names.contains(&name.as_str()))
        .map(|(name, value)| format!("{{<<\"{name}\">>,{}}}", term(value)))
        .collect();
    if !unknown.is_empty() {
        let text = format!("Unrecognised terms [{}] in {of}", unknown.join(","));
        return Err(TenantError::Limits(text));
    }
    let [first, second] = names.map(|name| match json.get(name) {
        None => Ok(None),
        Some(value) => value.as_i64().map(Limit::new).map(Some).ok_or_else(|| {
            let text = format!("{name} should be a number, actually was {}", term(value));
            TenantError::Limits(text)
        }),
    });
    Ok([first?, second?])
}

/// A JSON value as RabbitMQ's texts print it.
fn term(value: &Value) -> String {
    match value {
        Value::String(text) => format!("<<\"{text}\">>"),
        other => other.to_string(),
    }
}

/// A user's limits as JSON, those that are set.
#[must_use]
pub fn user_limits_json(limits: &UserLimits) -> Map<String, Value> {
    limits_json([
        ("max-channels", limits.channels_max),
        ("max-connections", limits.connections_max),
    ])
}

/// A virtual host's limits as JSON, those that are set.
#[must_use]
pub fn vhost_limits_json(limits: &VhostLimits) -> Map<String, Value> {
    limits_json([
        ("max-connections", limits.connections_max),
        ("max-queues", limits.queues_max),
    ])
}

fn limits_json(limits: [(&str, Limit); 2]) -> Map<String, Value> {
    limits
        .into_iter()
        .filter_map(|(name, limit)| Some((name.to_owned(), limit.get()?.into())))
        .collect()
}

fn everything_in(vhost: &str) -> Vec<DefinitionChange> {
    let parts: &[&[u8]] = &[vhost.as_bytes()];
    vec![
        DefinitionChange::delete_all::<BindingDefinition>(parts),
        DefinitionChange::delete_all::<ExchangeDefinition>(parts),
        DefinitionChange::delete_all::<QueueDefinition>(parts),
        DefinitionChange::delete_all::<PermissionDefinition>(parts),
        DefinitionChange::delete_all::<TopicPermissionDefinition>(parts),
        DefinitionChange::delete_all::<PolicyDefinition>(parts),
        DefinitionChange::delete_all::<ParameterDefinition>(parts),
        DefinitionChange::delete(&VhostDefinition {
            name: vhost.to_owned(),
            ..VhostDefinition::default()
        }),
    ]
}

fn user_definition(user: &User) -> UserDefinition {
    UserDefinition {
        name: user.name.to_string(),
        password_hash: user.password.to_text(),
        hashing_algorithm: user.password.algorithm().name().to_owned(),
        tags: user.tags.iter().map(str::to_owned).collect(),
        max_connections: user.limits.connections_max.get(),
        max_channels: user.limits.channels_max.get(),
    }
}

fn permission_definition(
    vhost: &str,
    user: &str,
    permissions: &Permissions,
) -> PermissionDefinition {
    PermissionDefinition {
        vhost: vhost.to_owned(),
        user: user.to_owned(),
        configure: permissions.configure.as_str().to_owned(),
        write: permissions.write.as_str().to_owned(),
        read: permissions.read.as_str().to_owned(),
    }
}

fn topic_definition(
    vhost: &str,
    user: &str,
    exchange: &str,
    topics: &TopicPermissions,
) -> TopicPermissionDefinition {
    TopicPermissionDefinition {
        vhost: vhost.to_owned(),
        user: user.to_owned(),
        exchange: exchange.to_owned(),
        write: topics.write.as_str().to_owned(),
        read: topics.read.as_str().to_owned(),
    }
}

/// Gives a node that has neither users nor virtual hosts the configured ones.
pub(crate) fn seed_new_node(
    store: &Store,
    config: &BrokerConfig,
    definitions: &mut StoredDefinitions,
) -> Result<(), OpenError> {
    if !(definitions.users.is_empty()
        && definitions.vhosts.is_empty()
        && definitions.permissions.is_empty())
    {
        return Ok(());
    }
    let fault = |reason: String| OpenError::Definitions {
        path: config.data_dir.clone(),
        reason,
    };
    let vhost = VhostDefinition {
        name: config.default_vhost.clone(),
        description: "Default virtual host".to_owned(),
        ..VhostDefinition::default()
    };
    let mut changes = vec![DefinitionChange::put(&vhost)];
    let (name, password) = &config.user;
    if !name.is_empty() {
        let mut salt = [0; 4];
        store
            .random(&mut salt)
            .map_err(|error| fault(format!("no random salt could be drawn: {error}")))?;
        let hash = PasswordHash::new(HashAlgorithm::default(), salt, password.as_bytes());
        let user = UserDefinition {
            name: name.clone(),
            password_hash: hash.to_text(),
            hashing_algorithm: hash.algorithm().name().to_owned(),
            tags: config.user_tags.clone(),
            ..UserDefinition::default()
        };
        let permission = PermissionDefinition {
            vhost: vhost.name.clone(),
            user: name.clone(),
            configure: ".*".to_owned(),
            write: ".*".to_owned(),
            read: ".*".to_owned(),
        };
        changes.push(DefinitionChange::put(&user));
        changes.push(DefinitionChange::put(&permission));
        definitions.users.push(user);
        definitions.permissions.push(permission);
    }
    tracing::info!(vhost = %vhost.name, user = %name, "a new node: the default virtual host and user are made");
    definitions.vhosts.push(vhost);
    let pending = store.definitions().begin(changes);
    pending
        .wait()
        .map_err(|error| fault(format!("the first user could not be stored: {error}")))
}

/// The users and permissions that were stored. What cannot be read is logged and grants nothing.
pub(crate) fn directory(definitions: &StoredDefinitions) -> Directory {
    let mut directory = Directory::default();
    for user in &definitions.users {
        let algorithm = HashAlgorithm::by_name(&user.hashing_algorithm).unwrap_or_default();
        let password =
            PasswordHash::from_text(algorithm, &user.password_hash).unwrap_or_else(|error| {
                tracing::error!(user = %user.name, %error, "a stored password hash cannot be read: nobody can log in with it");
                PasswordHash::disabled(algorithm)
            });
        directory.put_user(User {
            name: user.name.as_str().into(),
            password,
            tags: Tags::new(&user.tags).unwrap_or_default(),
            limits: UserLimits {
                connections_max: stored_limit(user.max_connections),
                channels_max: stored_limit(user.max_channels),
            },
        });
    }
    for stored in &definitions.permissions {
        let PermissionDefinition {
            vhost,
            user,
            configure,
            write,
            read,
        } = stored;
        match Permissions::new(configure, write, read) {
            Ok(permissions) => directory.put_permissions(vhost, user, permissions),
            Err(error) => {
                tracing::error!(%vhost, %user, %error, "stored permissions cannot be read and grant nothing");
            }
        }
    }
    for stored in &definitions.topic_permissions {
        let TopicPermissionDefinition {
            vhost,
            user,
            exchange,
            write,
            read,
        } = stored;
        match TopicPermissions::new(user, vhost, write, read) {
            Ok(topics) => directory.put_topic_permissions(vhost, user, exchange, topics),
            Err(error) => {
                // Nothing set would allow everything.
                tracing::error!(%vhost, %user, %exchange, %error, "stored topic permissions cannot be read and grant nothing");
                if let Ok(nothing) = TopicPermissions::new(user, vhost, "", "") {
                    directory.put_topic_permissions(vhost, user, exchange, nothing);
                }
            }
        }
    }
    directory
}

fn stored_limit(max: Option<i64>) -> Limit {
    max.map_or(Limit::NONE, Limit::new)
}

/// What is set about a stored virtual host.
pub(crate) fn settings(stored: &VhostDefinition) -> VhostSettings {
    VhostSettings {
        description: stored.description.clone(),
        tags: stored.tags.clone(),
        default_queue_type: stored.default_queue_type.clone(),
        protected_from_deletion: stored.protected_from_deletion,
        tracing: stored.tracing,
        limits: VhostLimits {
            connections_max: stored_limit(stored.max_connections),
            queues_max: stored_limit(stored.max_queues),
        },
    }
}

/// Each virtual host with what lies in it.
pub(crate) fn by_vhost(
    definitions: StoredDefinitions,
) -> Vec<(VhostDefinition, StoredDefinitions)> {
    let StoredDefinitions {
        exchanges,
        queues,
        bindings,
        vhosts,
        policies,
        parameters,
        ..
    } = definitions;
    let index: HashMap<String, usize> = vhosts
        .iter()
        .enumerate()
        .map(|(index, vhost)| (vhost.name.clone(), index))
        .collect();
    let mut all: Vec<_> = vhosts
        .into_iter()
        .map(|vhost| (vhost, StoredDefinitions::default()))
        .collect();
    let lost = |what: &str, vhost: &str, name: &str| {
        tracing::error!(
            vhost,
            name,
            "a stored {what} lies in a virtual host that is not there and is left out"
        );
    };
    for exchange in exchanges {
        match index.get(&exchange.vhost) {
            Some(&vhost) => all[vhost].1.exchanges.push(exchange),
            None => lost("exchange", &exchange.vhost, &exchange.name),
        }
    }
    for queue in queues {
        match index.get(&queue.vhost) {
            Some(&vhost) => all[vhost].1.queues.push(queue),
            None => lost("queue", &queue.vhost, &queue.name),
        }
    }
    for binding in bindings {
        match index.get(&binding.vhost) {
            Some(&vhost) => all[vhost].1.bindings.push(binding),
            None => lost("binding", &binding.vhost, &binding.source),
        }
    }
    for policy in policies {
        match index.get(&policy.vhost) {
            Some(&vhost) => all[vhost].1.policies.push(policy),
            None => lost("policy", &policy.vhost, &policy.name),
        }
    }
    for parameter in parameters {
        match index.get(&parameter.vhost) {
            Some(&vhost) => all[vhost].1.parameters.push(parameter),
            None => lost("parameter", &parameter.vhost, &parameter.name),
        }
    }
    all
}
