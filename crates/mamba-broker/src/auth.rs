//! Users and what they may do. One built-in user for now; every place that will ask already asks.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use mamba_types::{SoftError, Violation};

/// Which of the three rights an operation needs (`spec: semantics §21`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Create, change, delete.
    Configure,
    /// Put messages in.
    Write,
    /// Take messages out.
    Read,
}

impl Right {
    const fn word(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// A resource a right is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource<'a> {
    /// A queue's name.
    Queue(&'a str),
    /// An exchange's name; the empty one is called `amq.default`.
    Exchange(&'a str),
}

/// What a right extends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Every resource (`.*`).
    Everything,
    /// No resource (the empty pattern).
    Nothing,
}

/// A user's rights in one virtual host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// What it may create and delete.
    pub configure: Pattern,
    /// Where it may publish and bind to.
    pub write: Pattern,
    /// What it may consume and bind from.
    pub read: Pattern,
}

impl Permissions {
    /// Everything.
    pub const ALL: Self = Self {
        configure: Pattern::Everything,
        write: Pattern::Everything,
        read: Pattern::Everything,
    };
}

/// A user.
#[derive(Clone, Debug)]
pub struct User {
    /// Login name.
    pub name: Arc<str>,
    password: Arc<str>,
    /// May set another user's name as a message's user-id.
    pub impersonator: bool,
    permissions: HashMap<Arc<str>, Permissions>,
}

impl User {
    /// A user with rights in one virtual host.
    #[must_use]
    pub fn new(name: &str, password: &str, vhost: &str, permissions: Permissions) -> Self {
        Self {
            name: name.into(),
            password: password.into(),
            impersonator: false,
            permissions: HashMap::from([(vhost.into(), permissions)]),
        }
    }

    /// Whether it may open this virtual host at all.
    #[must_use]
    pub fn may_open(&self, vhost: &str) -> bool {
        self.permissions.contains_key(vhost)
    }

    fn grants(&self, vhost: &str, right: Right) -> bool {
        let pattern = self.permissions.get(vhost).map(|permissions| match right {
            Right::Configure => permissions.configure,
            Right::Write => permissions.write,
            Right::Read => permissions.read,
        });
        pattern == Some(Pattern::Everything)
    }

    /// Asks for one right.
    ///
    /// # Errors
    /// 403 naming the right, the resource and the user.
    pub fn check(
        &self,
        vhost: &str,
        right: Right,
        resource: Resource<'_>,
    ) -> Result<(), Violation> {
        if self.grants(vhost, right) {
            return Ok(());
        }
        let (kind, name) = match resource {
            Resource::Queue(name) => ("queue", name),
            Resource::Exchange("") => ("exchange", "amq.default"),
            Resource::Exchange(name) => ("exchange", name),
        };
        let text = format!(
            "{} access to {kind} '{name}' in vhost '{vhost}' refused for user '{}'",
            right.word(),
            self.name
        );
        Err(Violation::channel(SoftError::AccessRefused, text))
    }

    /// Asks for any of the three rights: a passive declaration needs no particular one.
    ///
    /// # Errors
    /// 403 naming the configure right.
    pub fn check_any(&self, vhost: &str, resource: Resource<'_>) -> Result<(), Violation> {
        if self.grants(vhost, Right::Write) || self.grants(vhost, Right::Read) {
            return Ok(());
        }
        self.check(vhost, Right::Configure, resource)
    }
}

/// Everyone who may log in.
#[derive(Debug)]
pub struct Users {
    users: HashMap<Arc<str>, Arc<User>>,
    loopback_only: Vec<String>,
}

impl Users {
    /// These users; those named in `loopback_only` may only come from this machine.
    #[must_use]
    pub fn new(users: Vec<User>, loopback_only: Vec<String>) -> Self {
        let users = users
            .into_iter()
            .map(|user| (Arc::clone(&user.name), Arc::new(user)))
            .collect();
        Self {
            users,
            loopback_only,
        }
    }

    /// The user behind these credentials, if they are right and may come from there. An empty password never
    /// is. Every failure looks alike to the peer.
    #[must_use]
    pub fn login(&self, name: &[u8], password: &[u8], from: IpAddr) -> Option<Arc<User>> {
        let name = std::str::from_utf8(name).ok()?;
        let user = self.users.get(name);
        let known = user.map_or("", |user| &user.password);
        let right = same(known.as_bytes(), password) && !password.is_empty();
        let here = is_loopback(from) || !self.loopback_only.iter().any(|only| only == name);
        user.filter(|_| right && here).cloned()
    }
}

fn is_loopback(from: IpAddr) -> bool {
    match from {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
        }
    }
}

/// Compares in a time that depends on the lengths only.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left
            .iter()
            .zip(right)
            .fold(0, |differ, (l, r)| differ | (l ^ r))
            == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Users {
        Users::new(
            vec![User::new("guest", "guest", "/", Permissions::ALL)],
            vec!["guest".to_owned()],
        )
    }

    #[track_caller]
    fn check(name: &str, password: &str, from: &str, expected: bool) {
        let from = from.parse().unwrap();
        assert_eq!(
            users()
                .login(name.as_bytes(), password.as_bytes(), from)
                .is_some(),
            expected
        );
    }

    #[test]
    fn login_needs_name_password_and_place() {
        check("guest", "guest", "127.0.0.1", true);
        check("guest", "guest", "::1", true);
        check("guest", "guest", "::ffff:127.0.0.1", true);
        check("guest", "guest", "192.0.2.1", false);
        check("guest", "wrong", "127.0.0.1", false);
        check("guest", "", "127.0.0.1", false);
        check("nobody", "", "127.0.0.1", false);
        check("nobody", "guest", "127.0.0.1", false);
    }

    #[test]
    fn refusals_name_right_resource_and_user() {
        let user = User::new(
            "u",
            "p",
            "/",
            Permissions {
                write: Pattern::Nothing,
                ..Permissions::ALL
            },
        );
        assert!(user.check("/", Right::Read, Resource::Queue("q")).is_ok());
        let refused = user
            .check("/", Right::Write, Resource::Exchange(""))
            .unwrap_err();
        let expected = "ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused for user 'u'";
        assert_eq!(refused.reply_text(), expected);
        assert!(!user.may_open("other"));
    }
}
