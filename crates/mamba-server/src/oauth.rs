//! Keys of tokens: read from files, and fetched from a URL in the background.
//!
//! Nothing that serves a client fetches: one task does, now and then, and when a login names a key that is not known.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use mamba_auth::oauth::{InvalidKeys, Key, KeySet, Origin};
use mamba_broker::oauth::Tokens;
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_rustls::rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, pem::PemObject};
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer, public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

use crate::http_client::{
    ClientFiles, HttpError, HttpRequest, HttpUrl, Method, StatusCode, client_config, exchange,
};

/// How long a fetch may take.
const FETCH_TIME: Duration = Duration::from_secs(5);
/// Octets of a key set.
const KEY_SET_BYTES_MAX: usize = 1 << 20;
/// The pause after a fetch that failed; it doubles with every further failure.
const RETRY_TIME: Duration = Duration::from_secs(5);
/// The longest such pause.
const RETRY_TIME_MAX: Duration = Duration::from_secs(60);

/// A file that tokens are verified with and that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {what} in {path}: {reason}")]
pub struct KeyFileError {
    what: &'static str,
    path: PathBuf,
    reason: String,
}

/// The keys of a file: a JSON Web Key Set, or PEM with a public key or a certificate, which tokens call by `id`.
///
/// # Errors
/// What is wrong with the file.
pub fn read_keys(path: &Path, id: Option<&str>) -> Result<KeySet, KeyFileError> {
    let refuse = |reason: String| KeyFileError {
        what: "the keys for tokens",
        path: path.to_owned(),
        reason,
    };
    let octets = fs::read(path).map_err(|error| refuse(error.to_string()))?;
    if octets.trim_ascii_start().first() == Some(&b'{') {
        let keys = KeySet::read(&octets, Origin::File);
        return keys.map_err(|error| refuse(error.to_string()));
    }
    public_key(&octets, id)
        .map(|key| std::iter::once(key).collect())
        .ok_or_else(|| {
            refuse(
                "expected a JSON Web Key Set, or PEM with a public key (-----BEGIN PUBLIC KEY-----) or a certificate, RSA or EC on P-256 or P-384 or Ed25519"
                    .to_owned(),
            )
        })
}

fn public_key(pem: &[u8], id: Option<&str>) -> Option<Key> {
    if let Ok(certificate) = CertificateDer::from_pem_slice(pem) {
        let (_, certificate) = X509Certificate::from_der(&certificate).ok()?;
        return key_of(certificate.public_key(), id);
    }
    let key = SubjectPublicKeyInfoDer::from_pem_slice(pem).ok()?;
    let (_, key) = SubjectPublicKeyInfo::from_der(&key).ok()?;
    key_of(&key, id)
}

fn key_of(key: &SubjectPublicKeyInfo<'_>, id: Option<&str>) -> Option<Key> {
    let is_ed25519 = key.algorithm.algorithm.to_id_string() == "1.3.101.112";
    match key.parsed().ok()? {
        PublicKey::RSA(rsa) => Some(Key::rsa(id, rsa.modulus, rsa.exponent)),
        PublicKey::EC(point) => Key::ec(id, point.data()),
        PublicKey::Unknown(key) if is_ed25519 => Some(Key::ed25519(id, key.try_into().ok()?)),
        _ => None,
    }
}

/// What is fetched, and how often.
#[derive(Clone, Debug)]
pub struct KeySource {
    /// Where.
    pub url: HttpUrl,
    /// Who signs that server's certificate, PEM; `None`: the authorities of the system.
    pub authorities: Option<PathBuf>,
    /// How old keys may become.
    pub refresh: Duration,
}

impl KeySource {
    /// Whether the authorities' file can be used.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), KeyFileError> {
        let Some(path) = &self.authorities else {
            return Ok(());
        };
        client_config(&self.files())
            .map(drop)
            .map_err(|error| KeyFileError {
                what: "the certificates of authorities",
                path: path.clone(),
                reason: error.to_string(),
            })
    }

    fn files(&self) -> ClientFiles {
        ClientFiles {
            authorities: self.authorities.clone(),
            identity: None,
        }
    }
}

/// Why there are no new keys.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("no answer within {} s", FETCH_TIME.as_secs())]
    Timeout,
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("the server answered with status {0}")]
    Status(StatusCode),
    #[error(transparent)]
    Keys(#[from] InvalidKeys),
}

/// Fetches keys until `stop` becomes true: at once, when they get old, and when somebody asks for them.
pub async fn keep_keys(tokens: Arc<Tokens>, source: KeySource, mut stop: watch::Receiver<bool>) {
    let asked = Arc::new(Notify::new());
    let rings = Arc::clone(&asked);
    tokens.listen(Arc::new(move || rings.notify_one()));
    let url = &source.url;
    let mut retry = RETRY_TIME;
    loop {
        let outcome = timeout(FETCH_TIME, fetch(&source)).await;
        let pause = match outcome.unwrap_or(Err(FetchError::Timeout)) {
            Ok(keys) => {
                tracing::info!(%url, keys = keys.len(), "keys for tokens fetched");
                tokens.fetched(Some(keys));
                retry = RETRY_TIME;
                source.refresh
            }
            Err(error) => {
                tracing::warn!(%url, %error, retry_secs = retry.as_secs(), "keys for tokens cannot be fetched; those that are known stay");
                tokens.fetched(None);
                let pause = retry;
                retry = (retry * 2).min(RETRY_TIME_MAX);
                pause
            }
        };
        tokio::select! {
            () = asked.notified() => {}
            () = sleep(pause) => {}
            // An error means that nobody can ask any more: stop as well.
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

async fn fetch(source: &KeySource) -> Result<KeySet, FetchError> {
    let request = HttpRequest {
        method: Method::GET,
        credentials: None,
        body: Bytes::new(),
        answer_bytes_max: KEY_SET_BYTES_MAX,
    };
    let (status, body) = exchange(&source.url, &source.files(), request).await?;
    if status != StatusCode::OK {
        return Err(FetchError::Status(status));
    }
    Ok(KeySet::read(&body, Origin::Network)?)
}
