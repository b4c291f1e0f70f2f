//! Who may do what, live: the directory of users behind one lock, and each connection's view of it.
//!
//! A connection keeps the [`Grants`] of its user in its virtual host and asks for new ones when the directory's generation has
//! moved: one relaxed read per publish, and nothing else while nothing changes.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mamba_auth::{
    Attempts, Directory, Grants, HashAlgorithm, Limit, PasswordHash, Resource, Right, Throttle,
    TopicRight, User, Verdict,
    oauth::{Token, TokenRefused, looks_like_token},
};
use mamba_types::{SoftError, Violation};
use parking_lot::{Mutex, RwLock};

use crate::oauth::{Bell, Tokens, Verified};

/// Generations of tokens' rights begin here, above all of the directory's.
const TOKEN_GENERATIONS: u64 = 1 << 63;

/// Why nobody was let in. The peer is told nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginRefused {
    /// Name or password.
    #[error("wrong name or password")]
    Wrong,
    /// The user may only come from this machine.
    #[error("the user may only log in from this machine")]
    NotLocal,
    /// Too many failures before; the attempt was not looked at.
    #[error("too many failed logins before; the next is looked at in {} ms", .0.as_millis())]
    TooEarly(Duration),
    /// The mechanism is not set up.
    #[error("the mechanism proves nobody here")]
    Nobody,
    /// The password is a token that lets nobody in.
    #[error(transparent)]
    Token(#[from] TokenRefused),
}

/// Somebody who got in.
#[derive(Clone, Debug)]
pub struct Account {
    /// Who it is.
    pub user: Arc<User>,
    /// What it came with, if that was no password: then the directory knows nothing of it.
    token: Option<Arc<Token>>,
}

impl Account {
    /// A user of the directory.
    #[must_use]
    pub const fn internal(user: Arc<User>) -> Self {
        Self { user, token: None }
    }

    fn of_token(token: Arc<Token>) -> Self {
        Self {
            user: Arc::clone(token.user()),
            token: Some(token),
        }
    }

    /// What it came with, unless it was a password.
    #[must_use]
    pub const fn token(&self) -> Option<&Arc<Token>> {
        self.token.as_ref()
    }
}

/// What becomes of an attempt to get in.
#[derive(Clone, Debug)]
pub enum Attempt {
    /// It is this one.
    In(Account),
    /// Nobody.
    Refused(LoginRefused),
    /// Its key is being fetched: ask again when the bell has rung.
    Later,
}

/// What a user has open.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    connections: AtomicUsize,
    channels: AtomicUsize,
}

/// Users and their rights at this moment.
#[derive(Debug)]
pub(crate) struct Access {
    directory: RwLock<Directory>,
    generation: AtomicU64,
    throttle: Mutex<Throttle>,
    /// By source, for whoever asks.
    pub(crate) attempts: Mutex<Attempts>,
    usage: Mutex<HashMap<Arc<str>, Arc<Usage>>>,
    loopback_only: Vec<String>,
    tokens: Option<Arc<Tokens>>,
    /// Counts the identities made of tokens.
    token_generation: AtomicU64,
    /// Verified when there is no such user, so that the answer takes as long.
    nobody: PasswordHash,
}

impl Access {
    pub(crate) fn new(
        directory: Directory,
        loopback_only: Vec<String>,
        tokens: Option<Arc<Tokens>>,
        seed: u64,
    ) -> Self {
        Self {
            generation: AtomicU64::new(directory.generation()),
            directory: RwLock::new(directory),
            throttle: Mutex::new(Throttle::new(seed)),
            attempts: Mutex::default(),
            usage: Mutex::default(),
            loopback_only,
            tokens,
            token_generation: AtomicU64::new(TOKEN_GENERATIONS),
            nobody: PasswordHash::new(HashAlgorithm::Sha256, [0; 4], &seed.to_le_bytes()),
        }
    }

    /// Looks something up.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Directory) -> T) -> T {
        look(&self.directory.read())
    }

    /// Changes something; connections notice with their next method.
    pub(crate) fn change<T>(&self, act: impl FnOnce(&mut Directory) -> T) -> T {
        let mut directory = self.directory.write();
        let outcome = act(&mut directory);
        self.generation
            .store(directory.generation(), Ordering::Release);
        outcome
    }

    /// The user behind these credentials. `now_ms` is the time in milliseconds since 1970. Without a bell an unknown key of a token
    /// is a refusal at once.
    pub(crate) fn login(
        &self,
        name: &[u8],
        password: &[u8],
        from: IpAddr,
        now_ms: u64,
        bell: Option<Bell>,
    ) -> Attempt {
        if let Verdict::TooEarly(wait) = self.throttle.lock().admit(from, name, now_ms) {
            return Attempt::Refused(LoginRefused::TooEarly(wait));
        }
        let tokens = self.tokens.as_ref();
        let outcome = match tokens.filter(|_| looks_like_token(password)) {
            Some(tokens) => match tokens.verify_or_fetch(password, now_ms, bell) {
                Verified::True(token) => Ok(Account::of_token(token)),
                Verified::Refused(reason) => Err(LoginRefused::Token(reason)),
                Verified::Later => return Attempt::Later,
            },
            None => self.known(name, password).ok_or(LoginRefused::Wrong),
        };
        let outcome = outcome.and_then(|account| self.let_in(account, from));
        let mut throttle = self.throttle.lock();
        match outcome {
            Ok(account) => {
                throttle.succeeded(from, name, now_ms);
                Attempt::In(account)
            }
            Err(reason) => {
                if !matches!(reason, LoginRefused::Token(reason) if !reason.is_guess()) {
                    throttle.failed(from, name, now_ms);
                }
                Attempt::Refused(reason)
            }
        }
    }

    /// The user of that name and password.
    fn known(&self, name: &[u8], password: &[u8]) -> Option<Account> {
        let user = std::str::from_utf8(name)
            .ok()
            .and_then(|name| self.directory.read().user(name).cloned());
        let hash = user.as_ref().map_or(&self.nobody, |user| &user.password);
        let is_right = hash.verify(password);
        user.filter(|_| is_right).map(Account::internal)
    }

    /// A user that needs no password, because the configuration or the transport vouches for it.
    pub(crate) fn vouched_for(&self, name: &str, from: IpAddr) -> Result<Account, LoginRefused> {
        let user = self.directory.read().user(name).cloned();
        let user = user.ok_or(LoginRefused::Nobody)?;
        self.let_in(Account::internal(user), from)
    }

    fn let_in(&self, account: Account, from: IpAddr) -> Result<Account, LoginRefused> {
        if self.may_come_from(&account.user.name, from) {
            return Ok(account);
        }
        Err(LoginRefused::NotLocal)
    }

    /// The token that takes the place of another, or what is wrong with it.
    pub(crate) fn renewed(&self, secret: &[u8], now_ms: u64, bell: Option<Bell>) -> Verified {
        match &self.tokens {
            Some(tokens) => tokens.verify_or_fetch(secret, now_ms, bell),
            None => Verified::Refused(TokenRefused::UnknownKey),
        }
    }

    /// Whether an account may open a virtual host.
    pub(crate) fn may_open(&self, account: &Account, vhost: &str) -> bool {
        match &account.token {
            Some(token) => token.may_open(vhost),
            None => {
                self.read(|directory| directory.permissions(vhost, &account.user.name).is_some())
            }
        }
    }

    fn may_come_from(&self, name: &str, from: IpAddr) -> bool {
        from.to_canonical().is_loopback() || !self.loopback_only.iter().any(|only| only == name)
    }

    /// A connection's view of its user; `None` if the user is gone.
    pub(crate) fn identity(self: &Arc<Self>, account: &Account, vhost: &str) -> Option<Identity> {
        let (grants, source) = match &account.token {
            Some(token) => {
                let generation = self.token_generation.fetch_add(1, Ordering::Relaxed);
                let source = Source::Token(Arc::clone(token), generation);
                (Grants::of_token(token, vhost), source)
            }
            None => {
                let grants = self.directory.read().grants(vhost, &account.user.name)?;
                (grants, Source::Directory)
            }
        };
        Some(Identity {
            access: Arc::clone(self),
            name: Arc::clone(&grants.user().name),
            vhost: vhost.into(),
            grants: Mutex::new(grants),
            source,
        })
    }

    fn usage_of(&self, user: &Arc<str>) -> Arc<Usage> {
        let mut usage = self.usage.lock();
        Arc::clone(usage.entry(Arc::clone(user)).or_default())
    }

    /// Forgets what a deleted user has open.
    pub(crate) fn forget_usage(&self, user: &str) {
        self.usage.lock().remove(user);
    }

    /// Connections a user has open.
    pub(crate) fn connections_of(&self, user: &str) -> usize {
        let usage = self.usage.lock();
        usage
            .get(user)
            .map_or(0, |usage| usage.connections.load(Ordering::Relaxed))
    }
}

/// A connection's user, in the connection's virtual host.
#[derive(Debug)]
pub(crate) struct Identity {
    access: Arc<Access>,
    /// Login name.
    pub(crate) name: Arc<str>,
    vhost: Arc<str>,
    grants: Mutex<Grants>,
    source: Source,
}

/// Where an identity has its rights from.
#[derive(Debug)]
enum Source {
    Directory,
    /// A token, with the generation of its rights: they never change, but another token may take its place.
    Token(Arc<Token>, u64),
}

impl Identity {
    /// Moves whenever any user's rights may have changed; no two tokens have the same.
    pub(crate) fn generation(&self) -> u64 {
        match self.source {
            Source::Directory => self.access.generation.load(Ordering::Relaxed),
            Source::Token(_, generation) => generation,
        }
    }

    /// What it came with, unless it was a password.
    pub(crate) const fn token(&self) -> Option<&Arc<Token>> {
        match &self.source {
            Source::Directory => None,
            Source::Token(token, _) => Some(token),
        }
    }

    /// The same user with a new token.
    ///
    /// # Errors
    /// When it is another user's.
    pub(crate) fn renewed(&self, token: Arc<Token>) -> Result<Self, TokenRefused> {
        let account = Account::of_token(token);
        if account.user.name != self.name {
            return Err(TokenRefused::OtherUser);
        }
        let identity = self.access.identity(&account, &self.vhost);
        identity.ok_or(TokenRefused::OtherUser)
    }

    fn with<T>(&self, ask: impl FnOnce(&mut Grants) -> T) -> T {
        let mut grants = self.grants.lock();
        if matches!(self.source, Source::Directory) && grants.generation() != self.generation() {
            match self.access.directory.read().grants(&self.vhost, &self.name) {
                Some(current) => *grants = current,
                None => grants.revoke(),
            }
        }
        ask(&mut grants)
    }

    /// Whether the user is still there and may open the virtual host.
    pub(crate) fn may_open(&self) -> bool {
        self.with(|grants| grants.may_open())
    }

    /// Whether it may set another user's name as a message's user-id.
    pub(crate) fn impersonator(&self) -> bool {
        self.with(|grants| grants.user().tags.impersonator())
    }

    /// Whether topics have to be asked for at all.
    pub(crate) fn has_topics(&self) -> bool {
        self.with(|grants| grants.has_topics())
    }

    /// Asks for one right.
    ///
    /// # Errors
    /// 403 naming the right, the resource and the user.
    pub(crate) fn check(&self, right: Right, resource: Resource<'_>) -> Result<(), Violation> {
        self.with(|grants| grants.check(right, resource))
            .map_err(refused)
    }

    /// Asks for any of the three rights.
    ///
    /// # Errors
    /// 403 naming the configure right.
    pub(crate) fn check_any(&self, resource: Resource<'_>) -> Result<(), Violation> {
        self.with(|grants| grants.check_any(resource))
            .map_err(refused)
    }

    /// Asks for a topic of a topic exchange.
    ///
    /// # Errors
    /// 403 naming the right, the topic, the exchange and the user.
    pub(crate) fn check_topic(
        &self,
        right: TopicRight,
        exchange: &str,
        key: &str,
    ) -> Result<(), Violation> {
        self.with(|grants| grants.check_topic(right, exchange, key))
            .map_err(refused)
    }

    /// A connection's place among its user's; the limit if all are taken.
    pub(crate) fn seat(&self) -> Result<UserSeat, u64> {
        // Who comes with a token has no limits, and nobody is told when the last of that name has gone.
        if self.token().is_some() {
            return Ok(UserSeat::uncounted());
        }
        let limit = self.with(|grants| grants.user().limits.connections_max);
        let usage = self.access.usage_of(&self.name);
        take(&usage.connections, limit)?;
        Ok(UserSeat { usage, channels: 0 })
    }

    /// Counts one more channel; the limit if there are as many as may be.
    pub(crate) fn take_channel(&self, seat: &mut UserSeat) -> Result<(), u64> {
        let limit = self.with(|grants| grants.user().limits.channels_max);
        take(&seat.usage.channels, limit)?;
        seat.channels += 1;
        Ok(())
    }
}

fn refused(text: String) -> Violation {
    Violation::channel(SoftError::AccessRefused, text)
}

/// Counts one more, unless the limit is reached.
pub(crate) fn take(count: &AtomicUsize, limit: Limit) -> Result<(), u64> {
    count
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
            limit.reached_by(count).is_none().then_some(count + 1)
        })
        .map(drop)
        .map_err(|count| limit.reached_by(count).unwrap_or_default())
}

/// What a connection has of its user's limits; given back on drop.
#[derive(Debug)]
pub(crate) struct UserSeat {
    usage: Arc<Usage>,
    channels: usize,
}

impl UserSeat {
    /// A place that counts nowhere.
    pub(crate) fn uncounted() -> Self {
        let usage = Usage {
            connections: AtomicUsize::new(1),
            channels: AtomicUsize::default(),
        };
        Self {
            usage: Arc::new(usage),
            channels: 0,
        }
    }

    /// A channel is closed.
    pub(crate) fn give_channel_back(&mut self) {
        if let Some(left) = self.channels.checked_sub(1) {
            self.channels = left;
            self.usage.channels.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for UserSeat {
    fn drop(&mut self) {
        self.usage.connections.fetch_sub(1, Ordering::AcqRel);
        self.usage
            .channels
            .fetch_sub(self.channels, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mamba_auth::{Permissions, Tags, UserLimits};

    fn access() -> Arc<Access> {
        let mut directory = Directory::default();
        for name in ["guest", "far", "nobody"] {
            let password = match name {
                "nobody" => PasswordHash::disabled(HashAlgorithm::Sha256),
                name => PasswordHash::new(HashAlgorithm::Sha256, [7; 4], name.as_bytes()),
            };
            directory.put_user(User {
                name: name.into(),
                password,
                tags: Tags::default(),
                limits: UserLimits {
                    connections_max: Limit::new(1),
                    channels_max: Limit::new(2),
                },
            });
        }
        Arc::new(Access::new(directory, vec!["guest".to_owned()], None, 1))
    }

    fn login(
        access: &Access,
        name: &str,
        password: &str,
        from: &str,
        now_ms: u64,
    ) -> Result<(), LoginRefused> {
        let from = from.parse().unwrap();
        match access.login(name.as_bytes(), password.as_bytes(), from, now_ms, None) {
            Attempt::In(_) => Ok(()),
            Attempt::Refused(reason) => Err(reason),
            Attempt::Later => panic!("there are no tokens"),
        }
    }

    fn identity(access: &Arc<Access>) -> Identity {
        let far = access.read(|directory| directory.user("far").cloned());
        let far = Account::internal(far.unwrap());
        access.identity(&far, "/").unwrap()
    }

    #[track_caller]
    fn check(name: &str, password: &str, from: &str, expected: Result<(), LoginRefused>) {
        assert_eq!(login(&access(), name, password, from, 1), expected);
    }

    #[test]
    fn login_needs_name_password_and_place() {
        check("guest", "guest", "127.0.0.1", Ok(()));
        check("guest", "guest", "::1", Ok(()));
        check("guest", "guest", "::ffff:127.0.0.1", Ok(()));
        check("guest", "guest", "192.0.2.1", Err(LoginRefused::NotLocal));
        check("far", "far", "192.0.2.1", Ok(()));
        check("guest", "wrong", "127.0.0.1", Err(LoginRefused::Wrong));
        check("guest", "", "127.0.0.1", Err(LoginRefused::Wrong));
        check("unknown", "", "127.0.0.1", Err(LoginRefused::Wrong));
        check("nobody", "", "127.0.0.1", Err(LoginRefused::Wrong));
        check("nobody", "x", "127.0.0.1", Err(LoginRefused::Wrong));
    }

    #[test]
    fn guessing_is_slowed_down() {
        let access = access();
        let far = |password: &str, now_ms| login(&access, "far", password, "192.0.2.1", now_ms);
        for _ in 0..5 {
            assert_eq!(far("x", 1000), Err(LoginRefused::Wrong));
        }
        assert!(matches!(far("far", 1000), Err(LoginRefused::TooEarly(_))));
        assert_eq!(far("far", 2000), Ok(()));
    }

    #[test]
    fn a_change_reaches_who_is_there() {
        let access = access();
        let identity = identity(&access);
        assert!(!identity.may_open());
        let write = |identity: &Identity| identity.check(Right::Write, Resource::Queue("q"));
        let all = Permissions::new(".*", ".*", ".*").unwrap();
        access.change(|directory| directory.put_permissions("/", "far", all));
        assert!(identity.may_open() && write(&identity).is_ok());
        let other = Permissions::new("", "^x", "").unwrap();
        access.change(|directory| directory.put_permissions("/", "far", other));
        assert!(write(&identity).is_err());
        access.change(|directory| directory.remove_user("far"));
        assert!(!identity.may_open());
    }

    #[test]
    fn seats_are_given_back() {
        let access = access();
        let identity = identity(&access);
        let mut seat = identity.seat().unwrap();
        assert_eq!(identity.seat().map(drop), Err(1));
        assert!(identity.take_channel(&mut seat).is_ok());
        assert!(identity.take_channel(&mut seat).is_ok());
        assert_eq!(identity.take_channel(&mut seat), Err(2));
        seat.give_channel_back();
        assert!(identity.take_channel(&mut seat).is_ok());
        drop(seat);
        assert_eq!(access.connections_of("far"), 0);
        let mut seat = identity.seat().unwrap();
        assert!(identity.take_channel(&mut seat).is_ok());
    }
}
