//! Tokens in place of passwords: what they are held against, and the keys of this moment.
//!
//! Keys come from files, or from a URL that somebody outside fetches: this side only says when ([`Tokens::listen`]) and takes
//! what came ([`Tokens::fetched`]). A login whose token names an unknown key waits for that; nothing else does.

use std::{fmt, sync::Arc};

use mamba_auth::oauth::{KeySet, Token, TokenRefused, TokenSettings};
use parking_lot::{Mutex, RwLock};

use crate::timers::Doorbell;

/// The least time between two fetches for the sake of unknown keys, in milliseconds: whoever makes names up causes no more.
const FETCH_PAUSE_MS: u64 = 10_000;
/// Logins that wait for a fetch; more are refused.
const WAITING_MAX: usize = 4096;

/// Rings when keys have come, or could not be had.
pub type Bell = Box<dyn FnOnce() + Send>;

/// What tokens are held against.
pub struct Tokens {
    settings: TokenSettings,
    files: RwLock<Arc<KeySet>>,
    fetched: RwLock<Arc<KeySet>>,
    fetching: Mutex<Fetching>,
}

#[derive(Default)]
struct Fetching {
    /// Whoever fetches; `None`: there is nothing to fetch.
    doorbell: Option<Doorbell>,
    waiting: Vec<Bell>,
    /// When the last fetch was asked for.
    asked_ms: Option<u64>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Tokens {
    /// With the keys from files.
    #[must_use]
    pub fn new(settings: TokenSettings, files: KeySet) -> Self {
        Self {
            settings,
            files: RwLock::new(Arc::new(files)),
            fetched: RwLock::default(),
            fetching: Mutex::default(),
        }
    }

    /// From now on the doorbell rings when keys are to be fetched; each ring has to be answered by [`Self::fetched`].
    pub fn listen(&self, doorbell: Doorbell) {
        self.fetching.lock().doorbell = Some(doorbell);
    }

    /// Takes other keys from files, and has those of the network fetched again.
    pub fn reload(&self, files: KeySet) {
        *self.files.write() = Arc::new(files);
        let doorbell = self.fetching.lock().doorbell.clone();
        if let Some(doorbell) = doorbell {
            doorbell();
        }
    }

    /// A fetch is over. The keys replace those of the fetch before; without any, those stay.
    pub fn fetched(&self, keys: Option<KeySet>) {
        if let Some(keys) = keys {
            *self.fetched.write() = Arc::new(keys);
        }
        let waiting = std::mem::take(&mut self.fetching.lock().waiting);
        for bell in waiting {
            bell();
        }
    }

    /// Has the bell rung once keys have been fetched; false when there will be none soon.
    fn fetch(&self, bell: Bell, now_ms: u64) -> bool {
        let mut fetching = self.fetching.lock();
        let Some(doorbell) = fetching.doorbell.clone() else {
            return false;
        };
        let under_way = !fetching.waiting.is_empty();
        let too_early = fetching
            .asked_ms
            .is_some_and(|asked| now_ms < asked.saturating_add(FETCH_PAUSE_MS));
        if fetching.waiting.len() >= WAITING_MAX || (too_early && !under_way) {
            return false;
        }
        fetching.waiting.push(bell);
        if !under_way {
            fetching.asked_ms = Some(now_ms);
        }
        drop(fetching);
        if !under_way {
            doorbell();
        }
        true
    }

    /// Who a token is.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn verify(&self, token: &[u8], now_ms: u64) -> Result<Token, TokenRefused> {
        let files = Arc::clone(&self.files.read());
        let fetched = Arc::clone(&self.fetched.read());
        self.settings.verify(&[&files, &fetched], token, now_ms)
    }

    /// The same, for whoever can wait: an unknown key is fetched first.
    pub(crate) fn verify_or_fetch(
        &self,
        token: &[u8],
        now_ms: u64,
        bell: Option<Bell>,
    ) -> Verified {
        match self.verify(token, now_ms) {
            Ok(token) => Verified::True(Arc::new(token)),
            Err(TokenRefused::UnknownKey) if bell.is_some_and(|bell| self.fetch(bell, now_ms)) => {
                Verified::Later
            }
            Err(reason) => Verified::Refused(reason),
        }
    }
}

/// What is known of a token.
#[derive(Debug)]
pub(crate) enum Verified {
    True(Arc<Token>),
    Refused(TokenRefused),
    /// Ask again when the bell has rung.
    Later,
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use mamba_auth::oauth::Audience;

    use super::*;

    /// Signed by a key nobody here knows.
    const TOKEN: &[u8] = b"eyJhbGciOiJIUzI1NiIsImtpZCI6ImsifQ.e30.AAAA";

    fn tokens() -> Arc<Tokens> {
        let settings = TokenSettings {
            resource_server_id: "mq".to_owned(),
            audience: Audience::Verified,
            scope_prefix: "mq.".to_owned(),
            issuer: None,
            additional_scopes: Vec::new(),
            name_claims: vec!["sub".to_owned()],
            aliases: Vec::new(),
            default_key: None,
            leeway: Duration::ZERO,
        };
        Arc::new(Tokens::new(settings, KeySet::default()))
    }

    fn counter() -> (Arc<AtomicUsize>, impl Fn() -> Bell) {
        let count = Arc::new(AtomicUsize::new(0));
        let rung = Arc::clone(&count);
        let bell = move || -> Bell {
            let rung = Arc::clone(&rung);
            Box::new(move || {
                rung.fetch_add(1, Ordering::Relaxed);
            })
        };
        (count, bell)
    }

    #[test]
    fn an_unknown_key_is_fetched_once_for_all_and_not_soon_again() {
        let tokens = tokens();
        let (rung, bell) = counter();
        let waits = |now_ms| {
            let outcome = tokens.verify_or_fetch(TOKEN, now_ms, Some(bell()));
            matches!(outcome, Verified::Later)
        };
        assert!(!waits(0), "there is nobody who fetches");
        let (fetches, ring) = counter();
        tokens.listen(Arc::new(move || ring()()));
        assert!(waits(1) && waits(2) && waits(3));
        assert_eq!(fetches.load(Ordering::Relaxed), 1);
        assert_eq!(rung.load(Ordering::Relaxed), 0);
        tokens.fetched(None);
        assert_eq!(rung.load(Ordering::Relaxed), 3);
        assert!(!waits(FETCH_PAUSE_MS));
        assert!(waits(FETCH_PAUSE_MS + 1));
        assert_eq!(fetches.load(Ordering::Relaxed), 2);
        let hurried = tokens.verify_or_fetch(TOKEN, 0, None);
        assert!(matches!(
            hurried,
            Verified::Refused(TokenRefused::UnknownKey)
        ));
    }

    #[test]
    fn those_who_wait_are_bounded() {
        let tokens = tokens();
        tokens.listen(Arc::new(|| {}));
        let (_, bell) = counter();
        let waits = |_: &usize| {
            let outcome = tokens.verify_or_fetch(TOKEN, 1, Some(bell()));
            matches!(outcome, Verified::Later)
        };
        assert_eq!((0..WAITING_MAX + 10).filter(waits).count(), WAITING_MAX);
    }
}
