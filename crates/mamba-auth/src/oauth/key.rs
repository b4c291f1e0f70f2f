//! Keys that tokens are verified with, and JSON Web Key Sets (RFC 7517).

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{hmac, signature};
use serde_json::{Map, Value};

/// Keys a set may have.
const KEYS_MAX: usize = 256;
/// Octets a shared secret needs at least (RFC 7518, 3.2): shorter ones can be guessed from a token.
const SECRET_LEN_MIN: usize = 32;

/// How a token is signed (RFC 7518, 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    /// The algorithm of that name. `none` is none.
    pub(super) fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "HS256" => Self::Hs256,
            "HS384" => Self::Hs384,
            "HS512" => Self::Hs512,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }
}

/// Where a key set comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file of this node: it may hold shared secrets.
    File,
    /// The network: whoever publishes a secret has none, so secrets in it are left out.
    Network,
}

/// What cannot be used as keys.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidKeys {
    /// No JSON Web Key Set.
    #[error("it is no JSON Web Key Set: expected {{\"keys\": [...]}}")]
    NotAKeySet,
    /// More than anybody has.
    #[error("it holds {0} keys, {KEYS_MAX} are allowed")]
    TooMany(usize),
    /// Nothing in it verifies a token.
    #[error(
        "it holds no key that can verify tokens: expected RSA of 2048 bits or more, EC on P-256 or P-384, Ed25519, or oct"
    )]
    NoneUsable,
    /// A secret that can be guessed.
    #[error(
        "a shared secret in it has {0} octets, {SECRET_LEN_MIN} are needed: shorter ones can be guessed from a token"
    )]
    ShortSecret(usize),
}

/// One key, with the name tokens call it by.
#[derive(Clone)]
pub struct Key {
    id: Option<Box<str>>,
    /// The only one it may be used with, where its owner says so.
    algorithm: Option<Algorithm>,
    material: Material,
}

#[derive(Clone)]
enum Material {
    Secret(Vec<u8>),
    /// Modulus and exponent, big-endian, without leading zeros.
    Rsa(Vec<u8>, Vec<u8>),
    /// Uncompressed points.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.material {
            Material::Secret(_) => "oct",
            Material::Rsa(..) => "RSA",
            Material::P256(_) => "P-256",
            Material::P384(_) => "P-384",
            Material::Ed25519(_) => "Ed25519",
        };
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("kind", &kind)
            .finish_non_exhaustive()
    }
}

impl Key {
    /// An RSA key; modulus and exponent are big-endian.
    #[must_use]
    pub fn rsa(id: Option<&str>, modulus: &[u8], exponent: &[u8]) -> Self {
        let trimmed = |number: &[u8]| {
            let zeros = number.iter().take_while(|octet| **octet == 0).count();
            number[zeros..].to_vec()
        };
        Self::new(id, Material::Rsa(trimmed(modulus), trimmed(exponent)))
    }

    /// A key on the curve P-256 or P-384, as an uncompressed point; `None` if it is neither.
    #[must_use]
    pub fn ec(id: Option<&str>, point: &[u8]) -> Option<Self> {
        let material = match (point.len(), point.first()) {
            (65, Some(4)) => Material::P256(point.to_vec()),
            (97, Some(4)) => Material::P384(point.to_vec()),
            _ => return None,
        };
        Some(Self::new(id, material))
    }

    /// An Ed25519 key, 32 octets.
    #[must_use]
    pub fn ed25519(id: Option<&str>, key: &[u8; 32]) -> Self {
        Self::new(id, Material::Ed25519(key.to_vec()))
    }

    fn new(id: Option<&str>, material: Material) -> Self {
        Self {
            id: id.map(Into::into),
            algorithm: None,
            material,
        }
    }

    /// A key of a set; `None` for one that verifies no tokens.
    fn read(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let octets = |name: &str| {
            URL_SAFE_NO_PAD
                .decode(text(name)?.trim_end_matches('='))
                .ok()
        };
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let id = text("kid");
        let mut key = match (text("kty")?, text("crv")) {
            ("RSA", _) => Self::rsa(id, &octets("n")?, &octets("e")?),
            ("EC", Some("P-256" | "P-384")) => {
                let point = [vec![4], octets("x")?, octets("y")?].concat();
                Self::ec(id, &point)?
            }
            ("OKP", Some("Ed25519")) => Self::ed25519(id, &octets("x")?.try_into().ok()?),
            ("oct", _) => Self::new(id, Material::Secret(octets("k")?)),
            _ => return None,
        };
        // An algorithm nobody here knows is one it must not be used without.
        if let Some(name) = text("alg") {
            key.algorithm = Some(Algorithm::by_name(name)?);
        }
        key.is_usable().then_some(key)
    }

    fn is_usable(&self) -> bool {
        match &self.material {
            Material::Rsa(modulus, exponent) => {
                (256..=1024).contains(&modulus.len()) && !exponent.is_empty()
            }
            Material::Secret(_) | Material::P256(_) | Material::P384(_) | Material::Ed25519(_) => {
                true
            }
        }
    }

    /// Whether it can have made a signature by this algorithm.
    fn fits(&self, algorithm: Algorithm) -> bool {
        use Algorithm as A;
        let kind = match algorithm {
            A::Hs256 | A::Hs384 | A::Hs512 => matches!(self.material, Material::Secret(_)),
            A::Rs256 | A::Rs384 | A::Rs512 | A::Ps256 | A::Ps384 | A::Ps512 => {
                matches!(self.material, Material::Rsa(..))
            }
            A::Es256 => matches!(self.material, Material::P256(_)),
            A::Es384 => matches!(self.material, Material::P384(_)),
            A::EdDsa => matches!(self.material, Material::Ed25519(_)),
        };
        kind && self.algorithm.is_none_or(|only| only == algorithm)
    }

    /// Whether the signature is this key's, made by this algorithm. A key that does not fit the algorithm made none.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        use Algorithm as A;
        if !self.fits(algorithm) {
            return false;
        }
        let by = |verification: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            signature::UnparsedPublicKey::new(verification, key)
                .verify(message, signature)
                .is_ok()
        };
        match &self.material {
            Material::Secret(secret) => {
                let hash = match algorithm {
                    A::Hs384 => hmac::HMAC_SHA384,
                    A::Hs512 => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                hmac::verify(&hmac::Key::new(hash, secret), message, signature).is_ok()
            }
            Material::Rsa(n, e) => {
                let parameters = match algorithm {
                    A::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    A::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    A::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    A::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                    A::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => &signature::RSA_PKCS1_2048_8192_SHA256,
                };
                signature::RsaPublicKeyComponents { n, e }
                    .verify(parameters, message, signature)
                    .is_ok()
            }
            Material::P256(point) => by(&signature::ECDSA_P256_SHA256_FIXED, point),
            Material::P384(point) => by(&signature::ECDSA_P384_SHA384_FIXED, point),
            Material::Ed25519(key) => by(&signature::ED25519, key),
        }
    }
}

/// Keys of one origin.
#[derive(Clone, Debug, Default)]
pub struct KeySet(Vec<Key>);

impl FromIterator<Key> for KeySet {
    fn from_iter<T: IntoIterator<Item = Key>>(keys: T) -> Self {
        Self(keys.into_iter().collect())
    }
}

impl IntoIterator for KeySet {
    type Item = Key;
    type IntoIter = std::vec::IntoIter<Key>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl KeySet {
    /// Reads a JSON Web Key Set. Keys of kinds that verify no tokens are left out.
    ///
    /// # Errors
    /// [`InvalidKeys`] when it is none, or nothing is left.
    pub fn read(json: &[u8], origin: Origin) -> Result<Self, InvalidKeys> {
        let document: Value = serde_json::from_slice(json).map_err(|_| InvalidKeys::NotAKeySet)?;
        let all = document.get("keys").and_then(Value::as_array);
        let all = all.ok_or(InvalidKeys::NotAKeySet)?;
        if all.len() > KEYS_MAX {
            return Err(InvalidKeys::TooMany(all.len()));
        }
        let mut keys = Vec::new();
        for key in all.iter().filter_map(|key| Key::read(key.as_object()?)) {
            match &key.material {
                Material::Secret(_) if origin == Origin::Network => {}
                Material::Secret(secret) if secret.len() < SECRET_LEN_MIN => {
                    return Err(InvalidKeys::ShortSecret(secret.len()));
                }
                _ => keys.push(key),
            }
        }
        if keys.is_empty() {
            return Err(InvalidKeys::NoneUsable);
        }
        Ok(Self(keys))
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key of that name.
    pub(super) fn named(&self, id: &str) -> Option<&Key> {
        self.0.iter().find(|key| key.id.as_deref() == Some(id))
    }

    /// Keys that fit an algorithm.
    pub(super) fn fitting(&self, algorithm: Algorithm) -> impl Iterator<Item = &Key> {
        self.0.iter().filter(move |key| key.fits(algorithm))
    }
}
