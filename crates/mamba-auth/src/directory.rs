//! Everyone who may log in, and what they may do where.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use crate::{
    oauth::{Token, VhostScopes},
    permission::{Permissions, Resource, Right, TopicPermissions, TopicRight},
    user::User,
};

/// Answers a [`Grants`] remembers; at the limit it starts over.
const ANSWERS_MAX: usize = 128;

/// Users, their permissions and topic permissions.
///
/// Every change counts [`Directory::generation`] up, so that whoever holds [`Grants`] knows when to ask anew.
#[derive(Debug, Default)]
pub struct Directory {
    users: BTreeMap<Arc<str>, Arc<User>>,
    /// By virtual host, then user.
    permissions: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<Permissions>>>,
    /// By virtual host, user and exchange.
    topics: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Topics>>,
    generation: u64,
}

type Topics = BTreeMap<Arc<str>, Arc<TopicPermissions>>;

impl Directory {
    /// Counts the changes.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// A user by name.
    #[must_use]
    pub fn user(&self, name: &str) -> Option<&Arc<User>> {
        self.users.get(name)
    }

    /// All users, by name.
    pub fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.values()
    }

    /// Adds or replaces a user.
    pub fn put_user(&mut self, user: User) {
        self.generation += 1;
        self.users.insert(Arc::clone(&user.name), Arc::new(user));
    }

    /// Takes a user away with all its permissions; `None` if there is none.
    pub fn remove_user(&mut self, name: &str) -> Option<Arc<User>> {
        let user = self.users.remove(name)?;
        self.generation += 1;
        for users in self.permissions.values_mut() {
            users.remove(name);
        }
        for users in self.topics.values_mut() {
            users.remove(name);
        }
        Some(user)
    }

    /// A user's permissions in a virtual host.
    #[must_use]
    pub fn permissions(&self, vhost: &str, user: &str) -> Option<&Arc<Permissions>> {
        self.permissions.get(vhost)?.get(user)
    }

    /// All permissions as (virtual host, user, permissions), in that order.
    pub fn all_permissions(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, &Permissions)> {
        self.permissions.iter().flat_map(|(vhost, users)| {
            users
                .iter()
                .map(move |(user, permissions)| (vhost, user, &**permissions))
        })
    }

    /// Sets a user's permissions in a virtual host.
    pub fn put_permissions(&mut self, vhost: &str, user: &str, permissions: Permissions) {
        self.generation += 1;
        let users = self.permissions.entry(vhost.into()).or_default();
        users.insert(user.into(), Arc::new(permissions));
    }

    /// Takes a user's permissions in a virtual host away; false if there were none.
    pub fn remove_permissions(&mut self, vhost: &str, user: &str) -> bool {
        let removed = self
            .permissions
            .get_mut(vhost)
            .is_some_and(|users| users.remove(user).is_some());
        self.generation += u64::from(removed);
        removed
    }

    /// A user's topic permissions in a virtual host, by exchange.
    pub fn topic_permissions(
        &self,
        vhost: &str,
        user: &str,
    ) -> impl Iterator<Item = (&Arc<str>, &TopicPermissions)> {
        let topics = self.topics.get(vhost).and_then(|users| users.get(user));
        topics
            .into_iter()
            .flatten()
            .map(|(exchange, topics)| (exchange, &**topics))
    }

    /// All topic permissions as (virtual host, user, exchange, permissions), in that order.
    pub fn all_topic_permissions(
        &self,
    ) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, &Arc<str>, &TopicPermissions)> {
        self.topics
            .iter()
            .flat_map(|(vhost, users)| {
                users
                    .iter()
                    .map(move |(user, topics)| (vhost, user, topics))
            })
            .flat_map(|(vhost, user, topics)| {
                topics
                    .iter()
                    .map(move |(exchange, topics)| (vhost, user, exchange, &**topics))
            })
    }

    /// Sets a user's topic permissions for an exchange.
    pub fn put_topic_permissions(
        &mut self,
        vhost: &str,
        user: &str,
        exchange: &str,
        topics: TopicPermissions,
    ) {
        self.generation += 1;
        let users = self.topics.entry(vhost.into()).or_default();
        let exchanges = users.entry(user.into()).or_default();
        exchanges.insert(exchange.into(), Arc::new(topics));
    }

    /// Takes a user's topic permissions away: those for one exchange, or all in the virtual host. The exchanges concerned.
    pub fn remove_topic_permissions(
        &mut self,
        vhost: &str,
        user: &str,
        exchange: Option<&str>,
    ) -> Vec<Arc<str>> {
        let Some(topics) = self
            .topics
            .get_mut(vhost)
            .and_then(|users| users.get_mut(user))
        else {
            return Vec::new();
        };
        let removed: Vec<Arc<str>> = topics
            .keys()
            .filter(|known| exchange.is_none_or(|exchange| exchange == &***known))
            .cloned()
            .collect();
        for exchange in &removed {
            topics.remove(exchange);
        }
        self.generation += u64::from(!removed.is_empty());
        removed
    }

    /// Forgets everything about a virtual host.
    pub fn remove_vhost(&mut self, vhost: &str) {
        self.generation += 1;
        self.permissions.remove(vhost);
        self.topics.remove(vhost);
    }

    /// What a user may do in a virtual host at this moment; `None` if there is no such user.
    #[must_use]
    pub fn grants(&self, vhost: &str, user: &str) -> Option<Grants> {
        let user = Arc::clone(self.users.get(user)?);
        let topics = self
            .topics
            .get(vhost)
            .and_then(|users| users.get(&user.name));
        Some(Grants {
            rights: Rights::Set {
                permissions: self.permissions(vhost, &user.name).cloned(),
                topics: topics.cloned().unwrap_or_default(),
            },
            user,
            vhost: vhost.into(),
            generation: self.generation,
            answers: HashMap::default(),
        })
    }
}

/// What one user may do in one virtual host, as of one [`Directory::generation`], with the answers it gave lately.
#[derive(Debug)]
pub struct Grants {
    user: Arc<User>,
    vhost: Arc<str>,
    rights: Rights,
    generation: u64,
    answers: HashMap<(Right, bool, Box<str>), bool, foldhash::fast::FixedState>,
}

#[derive(Debug)]
enum Rights {
    /// What was set for a user.
    Set {
        permissions: Option<Arc<Permissions>>,
        topics: Topics,
    },
    /// What a token says.
    Token(VhostScopes),
}

impl Grants {
    /// What a token allows in a virtual host. No change of the directory touches it.
    #[must_use]
    pub fn of_token(token: &Token, vhost: &str) -> Self {
        Self {
            user: Arc::clone(token.user()),
            vhost: vhost.into(),
            rights: Rights::Token(token.in_vhost(vhost)),
            generation: 0,
            answers: HashMap::default(),
        }
    }

    /// The user.
    #[must_use]
    pub const fn user(&self) -> &Arc<User> {
        &self.user
    }

    /// When they were looked up.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Takes everything away: the user is gone.
    pub fn revoke(&mut self) {
        self.rights = Rights::Set {
            permissions: None,
            topics: Topics::default(),
        };
        self.answers.clear();
    }

    /// Whether the user may open the virtual host: any entry will do.
    #[must_use]
    pub const fn may_open(&self) -> bool {
        match &self.rights {
            Rights::Set { permissions, .. } => permissions.is_some(),
            Rights::Token(scopes) => scopes.may_open(),
        }
    }

    /// Whether there is any topic permission to ask for: a token has to name the topics it allows.
    #[must_use]
    pub fn has_topics(&self) -> bool {
        match &self.rights {
            Rights::Set { topics, .. } => !topics.is_empty(),
            Rights::Token(_) => true,
        }
    }

    /// Asks for one right.
    ///
    /// # Errors
    /// The text of the refusal, naming the right, the resource and the user.
    pub fn check(&mut self, right: Right, resource: Resource<'_>) -> Result<(), String> {
        if self.holds(right, resource) {
            return Ok(());
        }
        Err(format!(
            "{} access to {} '{}' in vhost '{}' refused for user '{}'",
            right.word(),
            resource.kind(),
            resource.name(),
            self.vhost,
            self.user.name
        ))
    }

    /// Asks for any of the three rights: a passive declaration needs no particular one.
    ///
    /// # Errors
    /// The text of the refusal, naming the configure right.
    pub fn check_any(&mut self, resource: Resource<'_>) -> Result<(), String> {
        if self.holds(Right::Read, resource) || self.holds(Right::Write, resource) {
            return Ok(());
        }
        self.check(Right::Configure, resource)
    }

    fn holds(&mut self, right: Right, resource: Resource<'_>) -> bool {
        let name = resource.name();
        if let Rights::Set { permissions, .. } = &self.rights {
            match permissions.as_ref().map(|set| set.pattern(right)) {
                None => return false,
                Some(pattern) if pattern.is_trivial() => return pattern.matches(name),
                Some(_) => {}
            }
        }
        let key = (right, matches!(resource, Resource::Queue(_)), name.into());
        if let Some(answer) = self.answers.get(&key) {
            return *answer;
        }
        let answer = match &self.rights {
            Rights::Set { permissions, .. } => permissions
                .as_ref()
                .is_some_and(|set| set.pattern(right).matches(name)),
            Rights::Token(scopes) => scopes.holds(right, resource),
        };
        if self.answers.len() >= ANSWERS_MAX {
            self.answers.clear();
        }
        self.answers.insert(key, answer);
        answer
    }

    /// Asks for a topic of an exchange of type topic; allowed where no topic permission is set for it, unless a token is asked.
    ///
    /// # Errors
    /// The text of the refusal.
    pub fn check_topic(&self, right: TopicRight, exchange: &str, key: &str) -> Result<(), String> {
        let holds = match &self.rights {
            Rights::Set { topics, .. } => topics
                .get(exchange)
                .is_none_or(|topics| topics.pattern(right).matches(key)),
            Rights::Token(scopes) => scopes.holds_topic(right, exchange, key),
        };
        if holds {
            return Ok(());
        }
        Err(format!(
            "{} access to topic '{key}' in exchange '{exchange}' in vhost '{}' refused for user '{}'",
            right.word(),
            self.vhost,
            self.user.name
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HashAlgorithm, PasswordHash, Tags, UserLimits};

    fn directory() -> Directory {
        let mut directory = Directory::default();
        for name in ["u", "v"] {
            directory.put_user(User {
                name: name.into(),
                password: PasswordHash::disabled(HashAlgorithm::Sha256),
                tags: Tags::default(),
                limits: UserLimits::default(),
            });
        }
        directory.put_permissions("/", "u", Permissions::new("^c", "^w|default", "").unwrap());
        directory
    }

    #[test]
    fn refusals_name_right_resource_and_user() {
        let mut grants = directory().grants("/", "u").unwrap();
        for _ in 0..2 {
            assert_eq!(
                grants.check(Right::Configure, Resource::Queue("c1")),
                Ok(())
            );
            assert_eq!(grants.check(Right::Write, Resource::Exchange("")), Ok(()));
            let refused = grants.check(Right::Read, Resource::Exchange(""));
            let expected =
                "read access to exchange 'amq.default' in vhost '/' refused for user 'u'";
            assert_eq!(refused, Err(expected.to_owned()));
            assert!(grants.check_any(Resource::Queue("w")).is_ok());
            let refused = grants.check_any(Resource::Queue("x"));
            let expected = "configure access to queue 'x' in vhost '/' refused for user 'u'";
            assert_eq!(refused, Err(expected.to_owned()));
        }
    }

    #[test]
    fn an_entry_opens_the_virtual_host() {
        let mut directory = directory();
        let opens = |directory: &Directory, user| directory.grants("/", user).map(|g| g.may_open());
        assert_eq!(opens(&directory, "u"), Some(true));
        assert_eq!(opens(&directory, "v"), Some(false));
        assert_eq!(opens(&directory, "w"), None);
        directory.put_permissions("/", "v", Permissions::new("", "", "").unwrap());
        assert_eq!(opens(&directory, "v"), Some(true));
        directory.remove_vhost("/");
        assert_eq!(opens(&directory, "v"), Some(false));
    }

    #[test]
    fn every_change_counts_the_generation_up() {
        let mut directory = directory();
        let mut last = directory.generation();
        let mut changed = |directory: &Directory| {
            let before = std::mem::replace(&mut last, directory.generation());
            last > before
        };
        directory.put_permissions("/", "v", Permissions::new("", "", "").unwrap());
        assert!(changed(&directory));
        assert!(directory.remove_permissions("/", "v"));
        assert!(changed(&directory));
        assert!(!directory.remove_permissions("/", "v"));
        assert!(!changed(&directory));
        let topics = TopicPermissions::new("u", "/", "a", "b").unwrap();
        directory.put_topic_permissions("/", "u", "x", topics);
        assert!(changed(&directory));
        assert_eq!(directory.remove_topic_permissions("/", "u", None).len(), 1);
        assert!(changed(&directory));
        assert!(directory.remove_user("u").is_some());
        assert!(changed(&directory));
        assert!(directory.remove_user("u").is_none());
        assert_eq!(directory.all_permissions().count(), 0);
    }

    #[test]
    fn topics_without_an_entry_are_free() {
        let mut directory = directory();
        let topics = TopicPermissions::new("u", "/", "^{username}\\.", "^pub").unwrap();
        directory.put_topic_permissions("/", "u", "x", topics);
        let grants = directory.grants("/", "u").unwrap();
        assert!(grants.check_topic(TopicRight::Write, "x", "u.a").is_ok());
        assert!(grants.check_topic(TopicRight::Write, "y", "v.a").is_ok());
        let refused = grants.check_topic(TopicRight::Read, "x", "sub.#");
        let expected =
            "read access to topic 'sub.#' in exchange 'x' in vhost '/' refused for user 'u'";
        assert_eq!(refused, Err(expected.to_owned()));
    }
}
