//! Verifying a token (RFC 7515, RFC 7519) and reading what it says.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use crate::{
    limit::UserLimits,
    oauth::{
        key::{Algorithm, KeySet},
        scope::{Scope, VhostScopes},
    },
    password::{HashAlgorithm, PasswordHash},
    user::{Tags, User},
};

/// Octets of a token.
const TOKEN_LEN_MAX: usize = 65_536;
/// Scopes of a token, as RabbitMQ has it.
const SCOPES_MAX: usize = 2048;
/// Octets of the user's name in a token, as users have them.
const NAME_LEN_MAX: usize = 1024;
/// Where requesting party tokens (Keycloak) have their scopes.
const REQUESTING_PARTY_PATH: &str = "authorization.permissions.scopes";
/// What a scope that names a tag begins with, behind the prefix.
const TAG: &str = "tag:";

/// Why a token lets nobody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// No token, or one that says what it must not.
    #[error("the token is malformed")]
    Malformed,
    /// Above [`TOKEN_LEN_MAX`].
    #[error("the token has more than {TOKEN_LEN_MAX} octets")]
    TooLong,
    /// `none`, or one nobody here knows.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// No key of that name is known.
    #[error("the token names a key that is not known")]
    UnknownKey,
    /// Somebody else signed it, or nobody.
    #[error("the token's signature is wrong")]
    Signature,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not begun.
    #[error("the token is not valid yet")]
    NotYet,
    /// It would be valid for ever.
    #[error("the token has no expiry (claim exp)")]
    NoExpiry,
    /// It is meant for somebody else.
    #[error("the token's audience (claim aud) is not this resource server")]
    Audience,
    /// Somebody else made it.
    #[error("the token's issuer (claim iss) is not the one configured")]
    Issuer,
    /// Above [`SCOPES_MAX`].
    #[error("the token has more than {SCOPES_MAX} scopes")]
    TooManyScopes,
    /// A renewed token has to be the same user's.
    #[error("the token is another user's")]
    OtherUser,
}

impl TokenRefused {
    /// Whether it may be an attempt to make one up: a token that was signed by a known key is none.
    #[must_use]
    pub const fn is_guess(self) -> bool {
        matches!(
            self,
            Self::Malformed | Self::TooLong | Self::Algorithm | Self::UnknownKey | Self::Signature
        )
    }
}

/// What tokens are held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSettings {
    /// Who this broker is; has to be among a token's audience.
    pub resource_server_id: String,
    /// Whether it has to.
    pub audience: Audience,
    /// What scopes for this broker begin with.
    pub scope_prefix: String,
    /// Who makes tokens; `None`: whoever has a key.
    pub issuer: Option<String>,
    /// More claims with scopes: paths of names with dots between.
    pub additional_scopes: Vec<String>,
    /// Claims that hold the user's name; the first that is there counts.
    pub name_claims: Vec<String>,
    /// What scopes with other names stand for.
    pub aliases: Vec<(String, Vec<String>)>,
    /// The key of tokens that name none.
    pub default_key: Option<String>,
    /// How far clocks may be apart.
    pub leeway: Duration,
}

/// Whether a token has to be meant for this broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Audience {
    /// It has to.
    #[default]
    Verified,
    /// It may be meant for others.
    Any,
}

/// A token that was found to be true.
#[derive(Debug)]
pub struct Token {
    user: Arc<User>,
    scopes: Box<[Scope]>,
    expires_ms: u64,
}

impl Token {
    /// Who it is, with the tags from its scopes; without a password and limits.
    #[must_use]
    pub const fn user(&self) -> &Arc<User> {
        &self.user
    }

    /// When it ends, in milliseconds since 1970, the leeway included.
    #[must_use]
    pub const fn expires_ms(&self) -> u64 {
        self.expires_ms
    }

    /// What it allows in a virtual host.
    pub(crate) fn in_vhost(&self, vhost: &str) -> VhostScopes {
        VhostScopes::new(&self.scopes, vhost)
    }

    /// Whether it allows anything in a virtual host.
    #[must_use]
    pub fn may_open(&self, vhost: &str) -> bool {
        self.in_vhost(vhost).may_open()
    }
}

/// Whether a password is a token: three parts with dots between, the first of which says how it is signed.
#[must_use]
pub fn looks_like_token(password: &[u8]) -> bool {
    std::str::from_utf8(password)
        .ok()
        .and_then(Parts::read)
        .is_some()
}

/// A token's parts before anything in them is believed.
struct Parts<'a> {
    header: Map<String, Value>,
    /// What is signed.
    message: &'a str,
    payload: &'a str,
    signature: &'a str,
}

impl<'a> Parts<'a> {
    fn read(token: &'a str) -> Option<Self> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        if payload.contains('.') {
            return None;
        }
        let header = object(header)?;
        header.get("alg")?.as_str()?;
        Some(Self {
            header,
            message,
            payload,
            signature,
        })
    }
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

impl TokenSettings {
    /// Who a token is and what it may do. `keys` are asked in order; `now_ms` is the time in milliseconds since 1970.
    ///
    /// # Errors
    /// The first thing that is wrong: form, algorithm, key, signature, then what it claims.
    pub fn verify(
        &self,
        keys: &[&KeySet],
        token: &[u8],
        now_ms: u64,
    ) -> Result<Token, TokenRefused> {
        if token.len() > TOKEN_LEN_MAX {
            return Err(TokenRefused::TooLong);
        }
        let parts = std::str::from_utf8(token).ok().and_then(Parts::read);
        let parts = parts.ok_or(TokenRefused::Malformed)?;
        self.verify_signature(keys, &parts)?;
        let claims = object(parts.payload).ok_or(TokenRefused::Malformed)?;
        let expires_ms = self.check_time(&claims, now_ms)?;
        self.check_addressee(&claims)?;
        let (tags, scopes) = self.scopes(&claims)?;
        let name = self
            .name_claims
            .iter()
            .find_map(|claim| claims.get(claim)?.as_str())
            .unwrap_or("unknown");
        if name.is_empty() || name.len() > NAME_LEN_MAX {
            return Err(TokenRefused::Malformed);
        }
        Ok(Token {
            user: Arc::new(User {
                name: name.into(),
                password: PasswordHash::disabled(HashAlgorithm::default()),
                tags,
                limits: UserLimits::default(),
            }),
            scopes,
            expires_ms,
        })
    }

    fn verify_signature(&self, keys: &[&KeySet], parts: &Parts<'_>) -> Result<(), TokenRefused> {
        let algorithm = parts.header.get("alg").and_then(Value::as_str);
        let algorithm = algorithm.and_then(Algorithm::by_name);
        let algorithm = algorithm.ok_or(TokenRefused::Algorithm)?;
        // What has to be understood and is not (RFC 7515, 4.1.11).
        if parts.header.contains_key("crit") {
            return Err(TokenRefused::Malformed);
        }
        let id = match parts.header.get("kid") {
            None => self.default_key.as_deref(),
            Some(Value::String(id)) => Some(id.as_str()),
            Some(_) => return Err(TokenRefused::Malformed),
        };
        let key = match id {
            Some(id) => keys.iter().find_map(|set| set.named(id)),
            // Nobody says which: then it has to be plain.
            None => {
                let mut fitting = keys.iter().flat_map(|set| set.fitting(algorithm));
                fitting.next().filter(|_| fitting.next().is_none())
            }
        };
        let key = key.ok_or(TokenRefused::UnknownKey)?;
        let signature = URL_SAFE_NO_PAD.decode(parts.signature);
        let signature = signature.map_err(|_| TokenRefused::Malformed)?;
        if !key.verifies(algorithm, parts.message.as_bytes(), &signature) {
            return Err(TokenRefused::Signature);
        }
        Ok(())
    }

    /// When it ends, leeway included.
    fn check_time(&self, claims: &Map<String, Value>, now_ms: u64) -> Result<u64, TokenRefused> {
        let millis = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a time before 1970 or after the end of all times is as good as these"
                )]
                Some(seconds) => Ok(Some((seconds * 1000.0) as u64)),
                None => Err(TokenRefused::Malformed),
            },
        };
        let leeway_ms = u64::try_from(self.leeway.as_millis()).unwrap_or(u64::MAX);
        let expires = millis("exp")?.ok_or(TokenRefused::NoExpiry)?;
        let expires = expires.saturating_add(leeway_ms);
        if expires <= now_ms {
            return Err(TokenRefused::Expired);
        }
        if millis("nbf")?.is_some_and(|begins| begins > now_ms.saturating_add(leeway_ms)) {
            return Err(TokenRefused::NotYet);
        }
        Ok(expires)
    }

    fn check_addressee(&self, claims: &Map<String, Value>) -> Result<(), TokenRefused> {
        if let Some(issuer) = &self.issuer
            && claims.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err(TokenRefused::Issuer);
        }
        let this = self.resource_server_id.as_str();
        let is_meant = match (self.audience, claims.get("aud")) {
            (Audience::Any, _) => true,
            (Audience::Verified, Some(Value::String(all))) => all.split(' ').any(|one| one == this),
            (Audience::Verified, Some(Value::Array(all))) => all.iter().any(|one| one == this),
            (Audience::Verified, _) => false,
        };
        is_meant.then_some(()).ok_or(TokenRefused::Audience)
    }

    /// Tags and scopes for this broker. What is no scope of ours is left out.
    fn scopes(&self, claims: &Map<String, Value>) -> Result<(Tags, Box<[Scope]>), TokenRefused> {
        let mut all: Vec<String> = Vec::new();
        let own = ["scope", REQUESTING_PARTY_PATH].into_iter();
        for path in own.chain(self.additional_scopes.iter().map(String::as_str)) {
            let path: Vec<&str> = path.split('.').collect();
            self.gather(&Value::Object(claims.clone()), &path, &mut all);
        }
        let aliased = self
            .aliases
            .iter()
            .filter(|(alias, _)| all.contains(alias))
            .flat_map(|(_, scopes)| scopes.iter().cloned());
        let aliased: Vec<String> = aliased.collect();
        all.extend(aliased);
        let mut ours: Vec<&str> = all
            .iter()
            .filter_map(|scope| scope.strip_prefix(&self.scope_prefix))
            .collect();
        ours.sort_unstable();
        ours.dedup();
        if ours.len() > SCOPES_MAX {
            return Err(TokenRefused::TooManyScopes);
        }
        let tags = ours.iter().filter_map(|scope| scope.strip_prefix(TAG));
        let tags = Tags::new(tags).map_err(|_| TokenRefused::TooManyScopes)?;
        let scopes = ours.iter().filter_map(|scope| Scope::read(scope, claims));
        Ok((tags, scopes.collect()))
    }

    /// Adds the scopes at the end of a path: a list, a text with blanks between, or what an object has for this broker. A list on
    /// the way has one more way for each of its elements.
    fn gather(&self, value: &Value, path: &[&str], all: &mut Vec<String>) {
        match (value, path) {
            (Value::Object(fields), [name, rest @ ..]) => {
                if let Some(value) = fields.get(*name) {
                    self.gather(value, rest, all);
                }
            }
            (Value::Array(items), [_, ..]) => {
                for item in items {
                    self.gather(item, path, all);
                }
            }
            (value, []) => match value {
                Value::Object(fields) => {
                    let id = &self.resource_server_id;
                    let own = fields.get(id).map(words).unwrap_or_default();
                    all.extend(own.into_iter().map(|scope| format!("{id}.{scope}")));
                }
                other => all.extend(words(other).into_iter().map(str::to_owned)),
            },
            _ => {}
        }
    }
}

/// The words of a text, or the texts of a list.
fn words(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => text.split(' ').filter(|word| !word.is_empty()).collect(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::{
        hmac,
        rand::SystemRandom,
        rsa,
        signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair},
    };
    use serde_json::json;

    use super::*;
    use crate::{
        directory::Grants,
        oauth::{InvalidKeys, Key, Origin},
        permission::{Resource, Right, TopicRight},
    };

    const NOW_MS: u64 = 1_000_000_000_000;
    const NOW: u64 = NOW_MS / 1000;
    const SECRET: &[u8; 32] = b"a secret of at least 32 octets!!";
    /// A key of this test alone.
    const RSA_KEY: &[u8] = include_bytes!("test-rsa.pk8");

    fn settings() -> TokenSettings {
        TokenSettings {
            resource_server_id: "mq".to_owned(),
            audience: Audience::Verified,
            scope_prefix: "mq.".to_owned(),
            issuer: None,
            additional_scopes: Vec::new(),
            name_claims: vec!["sub".to_owned(), "client_id".to_owned()],
            aliases: Vec::new(),
            default_key: None,
            leeway: Duration::from_secs(30),
        }
    }

    fn secret_keys() -> KeySet {
        let secret = URL_SAFE_NO_PAD.encode(SECRET);
        let set = json!({"keys": [{"kty": "oct", "kid": "s", "k": secret}]});
        KeySet::read(set.to_string().as_bytes(), Origin::File).unwrap()
    }

    fn claims(more: Value) -> Value {
        let mut claims =
            json!({"sub": "bob", "aud": ["mq", "other"], "exp": NOW + 60, "scope": "mq.read:*/*"});
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }

    fn signed(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    fn mac(algorithm: hmac::Algorithm) -> impl Fn(&[u8]) -> Vec<u8> {
        move |message| {
            let key = hmac::Key::new(algorithm, SECRET);
            hmac::sign(&key, message).as_ref().to_vec()
        }
    }

    fn token(claims: &Value) -> String {
        let header = json!({"alg": "HS256", "kid": "s", "typ": "JWT"});
        signed(&header, claims, mac(hmac::HMAC_SHA256))
    }

    fn verified(settings: &TokenSettings, more: Value) -> Result<Token, TokenRefused> {
        let token = token(&claims(more));
        assert!(looks_like_token(token.as_bytes()));
        settings.verify(&[&secret_keys()], token.as_bytes(), NOW_MS)
    }

    #[track_caller]
    fn refused(more: Value, expected: TokenRefused) {
        assert_eq!(verified(&settings(), more).map(drop), Err(expected));
    }

    #[test]
    fn a_token_says_who_and_until_when() {
        let token = verified(&settings(), json!({})).unwrap();
        assert_eq!(&*token.user().name, "bob");
        assert_eq!(token.expires_ms(), NOW_MS + 90_000);
        assert!(token.may_open("any"));
        assert!(!token.user().password.verify(b""));
    }

    #[test]
    fn claims_are_checked() {
        refused(json!({"exp": NOW - 30}), TokenRefused::Expired);
        assert!(verified(&settings(), json!({"exp": NOW - 29})).is_ok());
        assert!(verified(&settings(), json!({"exp": NOW as f64 + 0.5})).is_ok());
        refused(json!({"exp": null}), TokenRefused::Malformed);
        refused(json!({"exp": "never"}), TokenRefused::Malformed);
        refused(json!({"nbf": NOW + 31}), TokenRefused::NotYet);
        refused(json!({"nbf": "0"}), TokenRefused::Malformed);
        assert!(verified(&settings(), json!({"nbf": NOW + 30})).is_ok());
        refused(json!({"aud": "other"}), TokenRefused::Audience);
        refused(json!({"aud": ["mqx"]}), TokenRefused::Audience);
        refused(json!({"aud": null}), TokenRefused::Audience);
        assert!(verified(&settings(), json!({"aud": "x mq"})).is_ok());
        refused(json!({"sub": ""}), TokenRefused::Malformed);
        refused(json!({"sub": "x".repeat(1025)}), TokenRefused::Malformed);
        let mut claims = claims(json!({}));
        claims.as_object_mut().unwrap().remove("exp");
        let outcome = settings().verify(&[&secret_keys()], token(&claims).as_bytes(), NOW_MS);
        assert_eq!(outcome.map(drop), Err(TokenRefused::NoExpiry));
    }

    #[test]
    fn audience_and_issuer_are_settings() {
        let any = TokenSettings {
            audience: Audience::Any,
            ..settings()
        };
        assert!(verified(&any, json!({"aud": "other"})).is_ok());
        let issued = TokenSettings {
            issuer: Some("https://id".to_owned()),
            ..settings()
        };
        assert!(verified(&issued, json!({"iss": "https://id"})).is_ok());
        let other = verified(&issued, json!({"iss": "https://evil"}));
        assert_eq!(other.map(drop), Err(TokenRefused::Issuer));
        assert_eq!(
            verified(&issued, json!({})).map(drop),
            Err(TokenRefused::Issuer)
        );
    }

    #[test]
    fn names_come_from_the_first_claim_there() {
        let name = |more| verified(&settings(), more).unwrap().user().name.to_string();
        assert_eq!(name(json!({"client_id": "c"})), "bob");
        assert_eq!(name(json!({"sub": 1, "client_id": "c"})), "c");
        assert_eq!(name(json!({"sub": null})), "unknown");
    }

    #[track_caller]
    fn scopes(settings: &TokenSettings, more: Value, reads: &str, expected: bool) {
        let token = Arc::new(verified(settings, more).unwrap());
        let mut grants = Grants::of_token(&token, "v");
        let read = grants.check(Right::Read, Resource::Queue(reads));
        assert_eq!(read.is_ok(), expected, "{reads}");
    }

    #[test]
    fn scopes_come_from_many_places() {
        let plain = settings();
        scopes(&plain, json!({"scope": "openid mq.read:v/a"}), "a", true);
        scopes(
            &plain,
            json!({"scope": ["mq.read:v/a", "mq.read:v/b"]}),
            "b",
            true,
        );
        scopes(&plain, json!({"scope": "read:v/a"}), "a", false);
        scopes(&plain, json!({"scope": "mq.read:w/a"}), "a", false);
        scopes(&plain, json!({"scope": "mq.write:v/a"}), "a", false);
        scopes(&plain, json!({"scope": 5}), "a", false);
        scopes(&plain, json!({"scope": null}), "a", false);
        let party = json!({"scope": "", "authorization": {"permissions": [{"scopes": ["mq.read:v/a"]}, {"scopes": ["mq.read:v/b"]}]}});
        scopes(&plain, party, "b", true);
        let more = TokenSettings {
            additional_scopes: vec!["roles".to_owned(), "realm.access".to_owned()],
            ..settings()
        };
        scopes(
            &more,
            json!({"scope": "", "roles": "mq.read:v/a"}),
            "a",
            true,
        );
        scopes(
            &more,
            json!({"scope": "", "realm": {"access": {"mq": ["read:v/a"]}}}),
            "a",
            true,
        );
        scopes(
            &more,
            json!({"scope": "", "realm": {"access": {"x": ["read:v/a"]}}}),
            "a",
            false,
        );
        let aliased = TokenSettings {
            aliases: vec![("dev".to_owned(), vec!["mq.read:v/a".to_owned()])],
            ..settings()
        };
        scopes(&aliased, json!({"scope": "dev"}), "a", true);
        scopes(&aliased, json!({"scope": "devel"}), "a", false);
        let bare = TokenSettings {
            scope_prefix: String::new(),
            ..settings()
        };
        scopes(&bare, json!({"scope": "read:v/a"}), "a", true);
        let named = json!({"scope": "mq.read:v/{sub}-*"});
        scopes(&plain, named.clone(), "bob-1", true);
        scopes(&plain, named, "eve-1", false);
    }

    #[test]
    fn tags_are_scopes_too() {
        let token = verified(
            &settings(),
            json!({"scope": "mq.tag:administrator mq.tag:x tag:management"}),
        );
        let token = token.unwrap();
        assert!(token.user().tags.administrator());
        assert!(token.user().tags.contains("x") && !token.user().tags.contains("management"));
        assert!(!token.may_open("v"));
    }

    #[test]
    fn topics_need_a_part_of_their_own() {
        let token = verified(
            &settings(),
            json!({"scope": "mq.write:v/x mq.write:v/t/a.*"}),
        );
        let grants = Grants::of_token(&Arc::new(token.unwrap()), "v");
        assert!(grants.has_topics());
        assert!(grants.check_topic(TopicRight::Write, "t", "a.b").is_ok());
        let refused = grants
            .check_topic(TopicRight::Write, "x", "a.b")
            .unwrap_err();
        assert_eq!(
            refused,
            "write access to topic 'a.b' in exchange 'x' in vhost 'v' refused for user 'bob'"
        );
    }

    #[test]
    fn many_scopes_are_refused() {
        let many = |count: usize| {
            let all: Vec<String> = (0..count).map(|n| format!("mq.read:v/{n}")).collect();
            verified(&settings(), json!({"scope": all})).map(drop)
        };
        assert_eq!(many(SCOPES_MAX), Ok(()));
        assert_eq!(many(SCOPES_MAX + 1), Err(TokenRefused::TooManyScopes));
    }

    #[test]
    fn form_algorithm_and_key_are_checked_first() {
        let keys = secret_keys();
        let check = |token: &str, expected| {
            let outcome = settings().verify(&[&keys], token.as_bytes(), NOW_MS);
            assert_eq!(outcome.map(drop), Err(expected), "{token}");
            assert!(TokenRefused::is_guess(expected));
        };
        let with = |header: Value| signed(&header, &claims(json!({})), mac(hmac::HMAC_SHA256));
        check("", TokenRefused::Malformed);
        check("a.b.c", TokenRefused::Malformed);
        check("secret", TokenRefused::Malformed);
        check(&"x".repeat(TOKEN_LEN_MAX + 1), TokenRefused::TooLong);
        check(&with(json!({"alg": "none"})), TokenRefused::Algorithm);
        check(&with(json!({"alg": "HS1"})), TokenRefused::Algorithm);
        check(
            &with(json!({"alg": "HS256", "kid": "t"})),
            TokenRefused::UnknownKey,
        );
        check(
            &with(json!({"alg": "HS256", "kid": 1})),
            TokenRefused::Malformed,
        );
        check(
            &with(json!({"alg": "HS256", "crit": ["exp"]})),
            TokenRefused::Malformed,
        );
        check(
            &with(json!({"alg": "HS512", "kid": "s"})),
            TokenRefused::Signature,
        );
        check(
            &with(json!({"alg": "RS256", "kid": "s"})),
            TokenRefused::Signature,
        );
        let good = token(&claims(json!({})));
        let (message, _) = good.rsplit_once('.').unwrap();
        check(&format!("{message}."), TokenRefused::Signature);
        check(&format!("{message}.AAAA"), TokenRefused::Signature);
        check(&format!("{message}.!"), TokenRefused::Malformed);
        assert!(
            settings()
                .verify(&[&KeySet::default(), &keys], good.as_bytes(), NOW_MS)
                .is_ok()
        );
    }

    #[test]
    fn a_token_without_a_name_takes_the_default_key_or_the_only_one() {
        let bare = signed(
            &json!({"alg": "HS256"}),
            &claims(json!({})),
            mac(hmac::HMAC_SHA256),
        );
        let keys = secret_keys();
        let check = |settings: &TokenSettings, keys: &[&KeySet]| {
            settings.verify(keys, bare.as_bytes(), NOW_MS).map(drop)
        };
        assert_eq!(check(&settings(), &[&keys]), Ok(()));
        assert_eq!(
            check(&settings(), &[&keys, &keys]),
            Err(TokenRefused::UnknownKey)
        );
        let named = TokenSettings {
            default_key: Some("s".to_owned()),
            ..settings()
        };
        assert_eq!(check(&named, &[&keys, &keys]), Ok(()));
    }

    #[test]
    fn every_algorithm_verifies_its_own_signatures() {
        let random = SystemRandom::new();
        let rsa = RsaKeyPair::from_pkcs8(RSA_KEY).unwrap();
        let public: rsa::PublicKeyComponents<Vec<u8>> = rsa.public().into();
        let ec = |algorithm| {
            let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap()
        };
        let p256 = ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING);
        let p384 = ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING);
        let document = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let ed = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        let text = |octets: &[u8]| URL_SAFE_NO_PAD.encode(octets);
        let point = |key: &EcdsaKeyPair, curve, id| {
            let (x, y) =
                key.public_key().as_ref()[1..].split_at(key.public_key().as_ref().len() / 2);
            json!({"kty": "EC", "crv": curve, "kid": id, "x": text(x), "y": text(y)})
        };
        let set = json!({"keys": [
            {"kty": "RSA", "kid": "rsa", "use": "sig", "n": text(&[&[0], public.n.as_slice()].concat()), "e": text(&public.e)},
            {"kty": "RSA", "kid": "only", "alg": "RS256", "n": text(&public.n), "e": text(&public.e)},
            {"kty": "RSA", "kid": "enc", "use": "enc", "n": text(&public.n), "e": text(&public.e)},
            {"kty": "RSA", "kid": "short", "n": text(&public.n[..128]), "e": text(&public.e)},
            {"kty": "oct", "kid": "leaked", "k": text(SECRET)},
            {"kty": "other"}, 5,
            point(&p256, "P-256", "p256"), point(&p384, "P-384", "p384"),
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": text(ed.public_key().as_ref())},
        ]});
        let keys = KeySet::read(set.to_string().as_bytes(), Origin::Network).unwrap();
        assert_eq!(keys.len(), 5);
        let check = |alg: &str, kid: &str, sign: &dyn Fn(&[u8]) -> Vec<u8>, expected| {
            let token = signed(&json!({"alg": alg, "kid": kid}), &claims(json!({})), sign);
            let outcome = settings().verify(&[&keys], token.as_bytes(), NOW_MS);
            assert_eq!(outcome.map(drop), expected, "{alg} {kid}");
        };
        let by_rsa = |encoding: &'static dyn signature::RsaEncoding| {
            let (rsa, random) = (&rsa, &random);
            move |message: &[u8]| {
                let mut signature = vec![0; rsa.public().modulus_len()];
                rsa.sign(encoding, random, message, &mut signature).unwrap();
                signature
            }
        };
        check(
            "RS256",
            "rsa",
            &by_rsa(&signature::RSA_PKCS1_SHA256),
            Ok(()),
        );
        check(
            "RS384",
            "rsa",
            &by_rsa(&signature::RSA_PKCS1_SHA384),
            Ok(()),
        );
        check(
            "RS512",
            "rsa",
            &by_rsa(&signature::RSA_PKCS1_SHA512),
            Ok(()),
        );
        check("PS256", "rsa", &by_rsa(&signature::RSA_PSS_SHA256), Ok(()));
        check("PS384", "rsa", &by_rsa(&signature::RSA_PSS_SHA384), Ok(()));
        check("PS512", "rsa", &by_rsa(&signature::RSA_PSS_SHA512), Ok(()));
        check(
            "RS256",
            "only",
            &by_rsa(&signature::RSA_PKCS1_SHA256),
            Ok(()),
        );
        check(
            "ES256",
            "p256",
            &|message| p256.sign(&random, message).unwrap().as_ref().to_vec(),
            Ok(()),
        );
        check(
            "ES384",
            "p384",
            &|message| p384.sign(&random, message).unwrap().as_ref().to_vec(),
            Ok(()),
        );
        check(
            "EdDSA",
            "ed",
            &|message| ed.sign(message).as_ref().to_vec(),
            Ok(()),
        );
        let wrong = Err(TokenRefused::Signature);
        check(
            "RS512",
            "only",
            &by_rsa(&signature::RSA_PKCS1_SHA512),
            wrong,
        );
        check("PS256", "rsa", &by_rsa(&signature::RSA_PKCS1_SHA256), wrong);
        check(
            "ES256",
            "p384",
            &|message| p384.sign(&random, message).unwrap().as_ref().to_vec(),
            wrong,
        );
        check(
            "HS256",
            "leaked",
            &mac(hmac::HMAC_SHA256),
            Err(TokenRefused::UnknownKey),
        );
        // The oldest trick: a public key taken for a secret.
        let forged = |message: &[u8]| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &public.n);
            hmac::sign(&key, message).as_ref().to_vec()
        };
        check("HS256", "rsa", &forged, wrong);
        for (alg, algorithm) in [
            ("HS256", hmac::HMAC_SHA256),
            ("HS384", hmac::HMAC_SHA384),
            ("HS512", hmac::HMAC_SHA512),
        ] {
            let token = signed(&json!({"alg": alg}), &claims(json!({})), mac(algorithm));
            let outcome = settings().verify(&[&secret_keys()], token.as_bytes(), NOW_MS);
            assert!(outcome.is_ok(), "{alg}");
        }
    }

    #[test]
    fn what_is_no_key_set_is_refused() {
        #[track_caller]
        fn check(text: &str, expected: InvalidKeys) {
            let outcome = KeySet::read(text.as_bytes(), Origin::File);
            assert_eq!(outcome.map(|keys| keys.len()), Err(expected));
        }
        check("", InvalidKeys::NotAKeySet);
        check("[]", InvalidKeys::NotAKeySet);
        check(r#"{"keys": {}}"#, InvalidKeys::NotAKeySet);
        check(r#"{"keys": []}"#, InvalidKeys::NoneUsable);
        check(
            r#"{"keys": [{"kty": "oct", "k": "c2hvcnQ"}]}"#,
            InvalidKeys::ShortSecret(5),
        );
        let many: Vec<Value> = (0..300).map(|_| json!({})).collect();
        check(
            &json!({"keys": many}).to_string(),
            InvalidKeys::TooMany(300),
        );
        assert!(Key::ec(None, &[4; 64]).is_none() && Key::ec(None, &[2; 65]).is_none());
        assert!(!format!("{:?}", secret_keys()).contains("secret of"));
    }

    proptest! {
        #[test]
        fn no_token_panics(token in "\\PC{0,64}", header in "[ -~]{0,40}", payload in "[ -~]{0,40}") {
            let keys = secret_keys();
            let _ = settings().verify(&[&keys], token.as_bytes(), NOW_MS);
            let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
            let signature = URL_SAFE_NO_PAD.encode(mac(hmac::HMAC_SHA256)(message.as_bytes()));
            let _ = settings().verify(&[&keys], format!("{message}.{signature}").as_bytes(), NOW_MS);
        }

        #[test]
        fn no_claims_panic(scope in "\\PC{0,64}", exp in any::<f64>(), aud in "\\PC{0,8}") {
            let token = token(&json!({"scope": [scope.clone(), format!("mq.{scope}"), format!("mq.read:{scope}")], "exp": exp, "aud": [aud, "mq"]}));
            if let Ok(token) = settings().verify(&[&secret_keys()], token.as_bytes(), NOW_MS) {
                let _ = Grants::of_token(&Arc::new(token), &scope).check(Right::Read, Resource::Queue(&scope));
            }
        }
    }
}
