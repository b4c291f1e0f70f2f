//! Getting in and staying in: logins, new secrets, and tokens that end.
//!
//! A token whose key is not known yet is looked at again when keys have been fetched; the connection reads nothing meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use mamba_auth::{
    Ending, Resource, Right,
    oauth::{Token, TokenRefused, looks_like_token},
};
use mamba_codec::Output;
use mamba_session::{Credentials, Login, Secret, SessionState};
use mamba_types::{HardError, Violation};

use super::{Connection, Core, Now};
use crate::{
    access::{Attempt, LoginRefused},
    audit,
    oauth::{Bell, Verified},
    outbox::ConsumerSlot,
    registry::Introduced,
};

/// What logins here are counted as.
const PROTOCOL: &str = "amqp091";

/// What is looked at again when keys have been fetched.
#[derive(Debug)]
pub(super) struct Proving {
    proof: Proof,
    /// The bell has rung.
    rung: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Proof {
    Login(Box<Login>),
    Secret(Secret),
}

/// What became of a new secret.
enum Renewal {
    Done,
    Later,
}

impl Connection {
    pub(super) fn log_in(&mut self, login: Box<Login>, now: Now) {
        let (bell, rung) = self.core.bell();
        self.decide_login(login, now, Some((bell, rung)));
    }

    fn decide_login(&mut self, login: Box<Login>, now: Now, bell: Option<(Bell, Arc<AtomicBool>)>) {
        let Self {
            session, out, core, ..
        } = self;
        let (bell, rung) = bell.unzip();
        match core.authenticate(&login, now, bell) {
            Attempt::In(_) => session.login_accepted(out),
            Attempt::Refused(_) => session.login_refused(now.instant, out),
            Attempt::Later => {
                core.proving = rung.map(|rung| Proving {
                    proof: Proof::Login(login),
                    rung,
                });
            }
        }
    }

    pub(super) fn renew_secret(&mut self, secret: Secret, now: Now) {
        let (bell, rung) = self.core.bell();
        self.decide_secret(secret, now, Some((bell, rung)));
    }

    fn decide_secret(&mut self, secret: Secret, now: Now, bell: Option<(Bell, Arc<AtomicBool>)>) {
        let Self {
            session, out, core, ..
        } = self;
        let (bell, rung) = bell.unzip();
        // What came before was allowed by the old one.
        core.flush();
        match core.renew(&secret, now, bell, out) {
            Ok(Renewal::Done) => session.secret_updated(out),
            Ok(Renewal::Later) => {
                core.proving = rung.map(|rung| Proving {
                    proof: Proof::Secret(secret),
                    rung,
                });
            }
            Err(violation) => {
                core.flush();
                core.clean_up();
                session.close(&violation, 10, 70, now.instant, out);
            }
        }
    }

    /// Looks again at what waited for keys, once they are there or could not be had.
    pub(super) fn finish_proving(&mut self, now: Now) {
        let has_rung = |proving: &Proving| proving.rung.load(Ordering::Acquire);
        if !self.core.proving.as_ref().is_some_and(has_rung) {
            return;
        }
        match self.core.proving.take().map(|proving| proving.proof) {
            Some(Proof::Login(login)) if self.session.state() == SessionState::Authenticating => {
                self.decide_login(login, now, None);
            }
            Some(Proof::Secret(secret)) if self.session.state() == SessionState::Running => {
                self.decide_secret(secret, now, None);
            }
            Some(Proof::Login(_) | Proof::Secret(_)) | None => {}
        }
    }

    /// Closes the connection when its token has ended (`spec: errors §4`).
    pub(super) fn end_expired(&mut self, now: Now) {
        let Self {
            session, out, core, ..
        } = self;
        if core.expires.is_none_or(|at| at > now.instant) {
            return;
        }
        core.expires = None;
        tracing::info!(target: audit::TARGET, connection = core.id, peer = %core.presence.origin.peer, user = core.user_name(), result = "expired", "token expired, connection closed");
        core.flush();
        core.clean_up();
        let violation = Violation::connection(HardError::ConnectionForced, "credential expired");
        session.close(&violation, 0, 0, now.instant, out);
    }
}

impl Core {
    /// A bell that wakes this connection, and what tells that it has rung.
    fn bell(&self) -> (Bell, Arc<AtomicBool>) {
        let rung = Arc::new(AtomicBool::new(false));
        let (outbox, rings) = (Arc::clone(&self.outbox), Arc::clone(&rung));
        let bell = Box::new(move || {
            rings.store(true, Ordering::Release);
            outbox.ring();
        });
        (bell, rung)
    }

    fn user_name(&self) -> &str {
        self.login.as_ref().map_or("", |login| &login.user.name)
    }

    fn authenticate(&mut self, login: &Login, now: Now, bell: Option<Bell>) -> Attempt {
        let (access, from) = (&self.broker.access, self.presence.origin.peer.ip());
        let anonymous = self.broker.config.anonymous_user.as_deref();
        let tls = self.presence.origin.tls.clone();
        let peer = tls.as_ref().and_then(|tls| tls.peer.as_ref());
        let certified = peer.and_then(|peer| peer.user.as_deref());
        let vouched = |user| match access.vouched_for(user, from) {
            Ok(account) => Attempt::In(account),
            Err(reason) => Attempt::Refused(reason),
        };
        let nobody = ("", Attempt::Refused(LoginRefused::Nobody));
        let (name, attempt) = match (&login.credentials, anonymous, certified) {
            (Credentials::Password { user, password }, ..) => (
                user.as_str(),
                access.login(user.as_bytes(), &password.0, from, now.unix_ms, bell),
            ),
            (Credentials::Anonymous, Some(user), _) => (user, vouched(user)),
            (Credentials::External, _, Some(user)) => (user, vouched(user)),
            (Credentials::Anonymous, None, _) | (Credentials::External, _, None) => nobody,
        };
        let client = login
            .client_properties
            .inner()
            .get("connection_name")
            .and_then(mamba_types::table::text)
            .unwrap_or_default();
        match &attempt {
            Attempt::In(account) => {
                self.counts.auth_attempts += 1;
                let user = &account.user.name;
                self.broker
                    .note_attempt(from, user, PROTOCOL, Ending::Succeeded);
                self.client = Introduced::new(&login.mechanism, &login.client_properties);
                tracing::info!(
                    target: audit::TARGET, connection = self.id, peer = %self.presence.origin.peer, local = %self.presence.origin.local,
                    user = %account.user.name, mechanism = %login.mechanism, token = account.token().is_some(), client, result = "ok",
                    "logged in"
                );
                self.tell_login(user, &login.mechanism, None);
                self.account = Some(account.clone());
            }
            Attempt::Refused(reason) => {
                self.counts.auth_attempts += 1;
                self.counts.auth_failures += 1;
                self.broker
                    .note_attempt(from, shown(name), PROTOCOL, Ending::Failed);
                tracing::warn!(
                    target: audit::TARGET, connection = self.id, peer = %self.presence.origin.peer, user = shown(name),
                    mechanism = %login.mechanism, result = "refused", %reason,
                    "login refused"
                );
                self.tell_login(shown(name), &login.mechanism, Some(reason));
            }
            Attempt::Later => {}
        }
        attempt
    }

    /// Takes a new secret. Whoever came by password proves nothing anew by it, but who is gone or may no longer be here is refused;
    /// whoever came with a token has to bring another.
    fn renew(
        &mut self,
        secret: &Secret,
        now: Now,
        bell: Option<Bell>,
        out: &mut Output,
    ) -> Result<Renewal, Violation> {
        let refused = || {
            let text = "New secret was refused by one of the backends";
            Violation::connection(HardError::NotAllowed, text)
        };
        let login = self.login.as_mut().ok_or_else(refused)?;
        if login.user.token().is_none() {
            return if login.user.may_open() {
                Ok(Renewal::Done)
            } else {
                Err(refused())
            };
        }
        let verified = self.broker.access.renewed(&secret.0, now.unix_ms, bell);
        let identity = match verified {
            Verified::Later => return Ok(Renewal::Later),
            Verified::Refused(reason) => Err(reason),
            Verified::True(token) => login
                .user
                .renewed(Arc::clone(&token))
                .map(|identity| (identity, expiry(&token, now))),
        };
        let renewed = identity.map_err(|reason: TokenRefused| reason.to_string());
        let renewed = renewed.and_then(|(identity, expires)| {
            if identity.may_open() {
                Ok((identity, expires))
            } else {
                Err("the token does not open the virtual host".to_owned())
            }
        });
        let (connection, peer) = (self.id, self.presence.origin.peer);
        match renewed {
            Ok((identity, expires)) => {
                tracing::info!(target: audit::TARGET, connection, %peer, user = %identity.name, result = "ok", "token renewed");
                login.user = Arc::new(identity);
                self.expires = expires;
                self.cancel_unreadable(out);
                Ok(Renewal::Done)
            }
            Err(reason) => {
                tracing::warn!(target: audit::TARGET, connection, %peer, user = %login.user.name, result = "refused", reason, "token not renewed");
                Err(refused())
            }
        }
    }

    /// Cancels consumers of queues that may no longer be read.
    fn cancel_unreadable(&mut self, out: &mut Output) {
        let Some(login) = &self.login else { return };
        let is_unreadable = |slot: &ConsumerSlot| {
            let consumer = self.consumers.get(*slot);
            let queue = consumer.and_then(|consumer| self.queues.get(consumer.queue));
            queue.is_some_and(|queue| {
                let resource = Resource::Queue(&queue.name);
                login.user.check(Right::Read, resource).is_err()
            })
        };
        let slots = self.channels.values();
        let slots = slots.flat_map(|channel| channel.consumers.values().copied());
        let slots: Vec<ConsumerSlot> = slots.filter(is_unreadable).collect();
        if !slots.is_empty() {
            self.recall(&slots);
            self.end_consumers(slots, out);
        }
    }
}

/// When a token ends, on the connection's clock; `None`: not in this machine's life.
pub(super) fn expiry(token: &Token, now: Now) -> Option<Instant> {
    let left = token.expires_ms().saturating_sub(now.unix_ms);
    now.instant.checked_add(Duration::from_millis(left))
}

/// A user's name as logs may have it: some put their token there.
fn shown(name: &str) -> &str {
    if looks_like_token(name.as_bytes()) {
        "(a token)"
    } else {
        name
    }
}
