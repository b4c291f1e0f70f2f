//! Salted password hashes in RabbitMQ's format (`spec: semantics §21`).
//!
//! ```text
//! base64( salt[4] ++ H(salt ++ password) )
//! ```

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::Digest;

/// Octets of salt in front of the digest.
const SALT_LEN: usize = 4;

/// What turns salt and password into a digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// The default.
    #[default]
    Sha256,
    /// The long one.
    Sha512,
    /// Only for users brought along from ancient brokers.
    Md5,
}

impl HashAlgorithm {
    /// The name definitions and the HTTP API use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "rabbit_password_hashing_sha256",
            Self::Sha512 => "rabbit_password_hashing_sha512",
            Self::Md5 => "rabbit_password_hashing_md5",
        }
    }

    /// The algorithm of that name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::Sha256, Self::Sha512, Self::Md5]
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    const fn digest_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
            Self::Md5 => 16,
        }
    }

    fn digest(self, salt: &[u8], password: &[u8]) -> Vec<u8> {
        fn of<D: Digest>(salt: &[u8], password: &[u8]) -> Vec<u8> {
            D::new()
                .chain_update(salt)
                .chain_update(password)
                .finalize()
                .to_vec()
        }
        match self {
            Self::Sha256 => of::<sha2::Sha256>(salt, password),
            Self::Sha512 => of::<sha2::Sha512>(salt, password),
            Self::Md5 => of::<md5::Md5>(salt, password),
        }
    }
}

/// A hash that no password of that algorithm can have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidHash {
    /// Not base64.
    #[error("the password hash is not valid base64")]
    NotBase64,
    /// A digest of another length.
    #[error(
        "the password hash holds {found} octets, {expected} were expected: a salt of 4 and the digest"
    )]
    Length {
        /// What came.
        found: usize,
        /// Salt and digest of the algorithm.
        expected: usize,
    },
}

/// What is kept of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    algorithm: HashAlgorithm,
    /// Salt and digest; empty: nobody logs in with a password.
    octets: Vec<u8>,
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordHash")
            .field("algorithm", &self.algorithm)
            .field("octets", &self.octets.len())
            .finish()
    }
}

impl PasswordHash {
    /// Hashes a password with a salt drawn by chance.
    #[must_use]
    pub fn new(algorithm: HashAlgorithm, salt: [u8; SALT_LEN], password: &[u8]) -> Self {
        let mut octets = salt.to_vec();
        octets.extend(algorithm.digest(&salt, password));
        Self { algorithm, octets }
    }

    /// No password is right.
    #[must_use]
    pub const fn disabled(algorithm: HashAlgorithm) -> Self {
        Self {
            algorithm,
            octets: Vec::new(),
        }
    }

    /// Reads the form that is stored and exported; the empty text disables the login.
    ///
    /// # Errors
    /// [`InvalidHash`] when it is no base64 or no salt and digest of the algorithm.
    pub fn from_text(algorithm: HashAlgorithm, text: &str) -> Result<Self, InvalidHash> {
        let octets = STANDARD
            .decode(text.trim())
            .map_err(|_| InvalidHash::NotBase64)?;
        let expected = SALT_LEN + algorithm.digest_len();
        if !octets.is_empty() && octets.len() != expected {
            return Err(InvalidHash::Length {
                found: octets.len(),
                expected,
            });
        }
        Ok(Self { algorithm, octets })
    }

    /// The form that is stored and exported.
    #[must_use]
    pub fn to_text(&self) -> String {
        STANDARD.encode(&self.octets)
    }

    /// How it was made.
    #[must_use]
    pub const fn algorithm(&self) -> HashAlgorithm {
        self.algorithm
    }

    /// Whether no password is right.
    #[must_use]
    pub const fn is_disabled(&self) -> bool {
        self.octets.is_empty()
    }

    /// Whether this is the password. An empty one never is. Takes a time that depends on the password's length only.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        let Some((salt, digest)) = self.octets.split_at_checked(SALT_LEN) else {
            return false;
        };
        is_same(&self.algorithm.digest(salt, password), digest) && !password.is_empty()
    }
}

/// Compares in a time that depends on the lengths only.
#[must_use]
pub fn is_same(left: &[u8], right: &[u8]) -> bool {
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

    #[track_caller]
    fn check(algorithm: HashAlgorithm, text: &str, password: &str, expected: bool) {
        let hash = PasswordHash::from_text(algorithm, text).unwrap();
        assert_eq!(hash.verify(password.as_bytes()), expected);
        assert_eq!(hash.to_text(), text);
    }

    #[test]
    fn hashes_made_elsewhere_verify() {
        // The documented example: salt 908DC60A, password test12.
        let sha256 = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";
        check(HashAlgorithm::Sha256, sha256, "test12", true);
        check(HashAlgorithm::Sha256, sha256, "test13", false);
        check(HashAlgorithm::Sha256, sha256, "", false);
        check(HashAlgorithm::Sha256, "", "", false);
        check(HashAlgorithm::Sha256, "", "x", false);
    }

    #[test]
    fn every_algorithm_verifies_its_own() {
        for algorithm in [
            HashAlgorithm::Sha256,
            HashAlgorithm::Sha512,
            HashAlgorithm::Md5,
        ] {
            let hash = PasswordHash::new(algorithm, [1, 2, 3, 4], b"secret");
            check(algorithm, &hash.to_text(), "secret", true);
            check(algorithm, &hash.to_text(), "Secret", false);
            assert_eq!(HashAlgorithm::by_name(algorithm.name()), Some(algorithm));
            assert!(!format!("{hash:?}").contains(&hash.to_text()));
        }
        assert!(!PasswordHash::disabled(HashAlgorithm::Md5).verify(b""));
    }

    #[test]
    fn an_empty_password_is_never_right() {
        let hash = PasswordHash::new(HashAlgorithm::Sha256, [0; 4], b"");
        assert!(!hash.verify(b""));
    }

    #[test]
    fn what_cannot_be_a_hash_is_refused() {
        let read = |text| PasswordHash::from_text(HashAlgorithm::Sha256, text).unwrap_err();
        assert_eq!(read("no base64!"), InvalidHash::NotBase64);
        let expected = InvalidHash::Length {
            found: 3,
            expected: 36,
        };
        assert_eq!(read("AAAA"), expected);
    }
}
