//! Keys of tokens: read from files, and fetched from a URL in the background.
//!
//! Nothing that serves a client fetches: one task does, now and then, and when a login names a key that is not known.

use std::{
    fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, StatusCode, Uri,
    client::conn::http1,
    header::{ACCEPT, HOST},
};
use hyper_util::rt::TokioIo;
use mamba_auth::oauth::{InvalidKeys, Key, KeySet, Origin};
use mamba_broker::oauth::Tokens;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, pem::PemObject},
        version::{TLS12, TLS13},
    },
};
use x509_parser::{
    certificate::X509Certificate, prelude::FromDer, public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
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

/// Where keys are fetched from: `http` or `https`, a host, a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysUrl {
    uri: Uri,
    host: String,
    port: u16,
    secured: bool,
}

impl FromStr for KeysUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let uri: Uri = text.parse().ok()?;
            let secured = match uri.scheme_str()? {
                "http" => false,
                "https" => true,
                _ => return None,
            };
            // An IPv6 address comes in brackets.
            let host = uri.host()?.trim_matches(['[', ']']).to_owned();
            let port = uri.port_u16().unwrap_or(if secured { 443 } else { 80 });
            // Nobody would send what stands before the @.
            let plain = !uri.authority()?.as_str().contains('@') && !host.is_empty();
            plain.then_some(Self {
                uri,
                host,
                port,
                secured,
            })
        };
        read().ok_or_else(|| "an address such as https://HOST/PATH".to_owned())
    }
}

/// What is fetched, and how often.
#[derive(Clone, Debug)]
pub struct KeySource {
    /// Where.
    pub url: KeysUrl,
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
        client_config(Some(path))
            .map(drop)
            .map_err(|error| KeyFileError {
                what: "the certificates of authorities",
                path: path.clone(),
                reason: error.to_string(),
            })
    }
}

/// Why there are no new keys.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("no answer within {} s", FETCH_TIME.as_secs())]
    Timeout,
    #[error(transparent)]
    System(#[from] io::Error),
    #[error("no certificate of an authority can be read: {0}")]
    Authorities(String),
    #[error(transparent)]
    Tls(#[from] tokio_rustls::rustls::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("the server answered with status {0}")]
    Status(StatusCode),
    #[error("the body ended early or has more than {KEY_SET_BYTES_MAX} octets")]
    Body,
    #[error(transparent)]
    Keys(#[from] InvalidKeys),
}

/// Fetches keys until `stop` becomes true: at once, when they get old, and when somebody asks for them.
pub async fn keep_keys(tokens: Arc<Tokens>, source: KeySource, mut stop: watch::Receiver<bool>) {
    let asked = Arc::new(Notify::new());
    let rings = Arc::clone(&asked);
    tokens.listen(Arc::new(move || rings.notify_one()));
    let url = &source.url.uri;
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
    let KeysUrl {
        host,
        port,
        secured,
        ..
    } = &source.url;
    let stream = TcpStream::connect((host.as_str(), *port)).await?;
    if !secured {
        return get(stream, &source.url).await;
    }
    let authorities = source.authorities.clone();
    // Files.
    let config = tokio::task::spawn_blocking(move || client_config(authorities.as_deref()))
        .await
        .map_err(io::Error::other)??;
    let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    get(stream, &source.url).await
}

async fn get(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    url: &KeysUrl,
) -> Result<KeySet, FetchError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let path = url.uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = url
        .uri
        .authority()
        .map_or("", |authority| authority.as_str());
    let request = Request::get(path)
        .header(HOST, authority)
        .header(ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let answer = async {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), KEY_SET_BYTES_MAX).collect();
        let body = body.await.map_err(|_| FetchError::Body)?.to_bytes();
        Ok(KeySet::read(&body, Origin::Network)?)
    };
    let mut answer = std::pin::pin!(answer);
    // The connection moves while the answer is waited for, and ends with it.
    tokio::select! {
        outcome = &mut answer => outcome,
        ended = connection => {
            ended?;
            answer.await
        }
    }
}

fn client_config(authorities: Option<&Path>) -> Result<ClientConfig, FetchError> {
    let unread = |error: &dyn std::fmt::Display| FetchError::Authorities(error.to_string());
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(path) => {
            let found = CertificateDer::pem_file_iter(path).map_err(|error| unread(&error))?;
            for certificate in found {
                roots.add(certificate.map_err(|error| unread(&error))?)?;
            }
        }
        None => {
            // Systems carry certificates that nobody can use; some of them are enough.
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
    }
    if roots.is_empty() {
        return Err(FetchError::Authorities("there are none".to_owned()));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let parts = |text: &str| {
            let url: KeysUrl = text.parse().ok()?;
            Some((url.host, url.port, url.secured))
        };
        let found = |host: &str, port, secured| Some((host.to_owned(), port, secured));
        assert_eq!(
            parts("https://id.example/keys?x=1"),
            found("id.example", 443, true)
        );
        assert_eq!(
            parts("http://127.0.0.1:8080"),
            found("127.0.0.1", 8080, false)
        );
        assert_eq!(parts("http://[::1]/k"), found("::1", 80, false));
        for bad in [
            "",
            "id.example",
            "/keys",
            "ftp://id.example/",
            "https://",
            "https://user:secret@id.example/",
        ] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }
}
