//! TLS: certificates from files, exchanged while the node runs, and what a handshake proved.
//!
//! [`Tls::load`] reads every file and says which one is wrong and why. [`Tls::reload`] reads them again: connections that are
//! open keep what they agreed on, later ones get the new certificates; when a file is wrong, the old ones stay.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use mamba_broker::{PeerCertificate, TlsFacts};
use parking_lot::RwLock;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
        sign::CertifiedKey,
        version::{TLS12, TLS13},
    },
};

use crate::certificate::{self, NameSource};

/// The oldest version of the protocol that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    Tls12,
    /// TLS 1.3 only.
    Tls13,
}

impl MinVersion {
    fn versions(self) -> Vec<&'static SupportedProtocolVersion> {
        match self {
            Self::Tls12 => vec![&TLS13, &TLS12],
            Self::Tls13 => vec![&TLS13],
        }
    }
}

/// A certificate chain and its private key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// The server's certificate, followed by those that lead to its root.
    pub certificate: PathBuf,
    /// Its key: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: PathBuf,
}

/// What is asked of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    /// Certificates of the authorities that sign clients' certificates, PEM.
    pub authorities: PathBuf,
    /// A client without a certificate is turned away.
    pub required: bool,
    /// SASL EXTERNAL is offered, and takes the user's name from there.
    pub external: Option<NameSource>,
}

/// What TLS is set up from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// For clients that name no server, or one that has no certificate of its own.
    pub default: KeyPair,
    /// By server name (SNI): `mq.example.com`, or `*.example.com` for one label more.
    pub hosts: Vec<(String, KeyPair)>,
    /// `None`: clients are not asked for certificates.
    pub clients: Option<ClientCertificates>,
    /// The oldest version accepted.
    pub min_version: MinVersion,
}

/// A file that TLS cannot be set up from.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not there, not allowed, or no PEM.
    #[error(
        "cannot read the {what} {path}: {reason}; expected a PEM file the broker's user may read"
    )]
    Read {
        /// What it was to be.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// PEM without what was looked for.
    #[error("{path} holds no {what}; {hint}")]
    Missing {
        /// What was looked for.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// Certificate and key do not go together, or cannot be used.
    #[error("the certificate {certificate} and the key {key} cannot be used together: {reason}")]
    Pair {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// What rustls said.
        reason: String,
    },
    /// The authorities cannot verify anybody.
    #[error("the certificates of authorities in {path} cannot be used: {reason}")]
    Authorities {
        /// Where.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// TLS for listeners; its certificates can be exchanged.
pub struct Tls {
    config: TlsConfig,
    current: RwLock<Current>,
}

/// What holds for handshakes at this moment.
struct Current {
    server: Arc<ServerConfig>,
    expiries: Arc<[Expiry]>,
}

/// When the certificates of a file end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The file.
    pub path: PathBuf,
    /// Whose they are.
    pub of: Holder,
    /// When each of them ends, in seconds since 1970.
    pub not_after: Vec<i64>,
}

/// Whose certificates a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The server's.
    Server,
    /// Authorities that sign clients' certificates.
    Authorities,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads every file `config` names.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn load(config: TlsConfig) -> Result<Self, TlsError> {
        let current = RwLock::new(build(&config)?);
        Ok(Self { config, current })
    }

    /// Reads the files again, for connections to come.
    ///
    /// # Errors
    /// The first file that cannot be used; then everything stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = build(&self.config)?;
        *self.current.write() = fresh;
        Ok(())
    }

    /// Does handshakes with the certificates of this moment.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.read().server))
    }

    /// When the certificates in use end, file by file.
    #[must_use]
    pub fn expiries(&self) -> Arc<[Expiry]> {
        Arc::clone(&self.current.read().expiries)
    }

    /// What a finished handshake agreed on and proved.
    #[must_use]
    pub fn facts(&self, session: &ServerConnection) -> TlsFacts {
        let external = self
            .config
            .clients
            .as_ref()
            .and_then(|clients| clients.external);
        let suite = session
            .negotiated_cipher_suite()
            .map(|suite| format!("{:?}", suite.suite()).to_ascii_lowercase())
            .unwrap_or_default();
        let (key_exchange, cipher, hash) = suite_parts(&suite);
        let peer: Option<PeerCertificate> = session
            .peer_certificates()
            .and_then(<[_]>::first)
            .map(|certificate| certificate::describe(certificate, external));
        TlsFacts {
            protocol: match session.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_3) => "tlsv1.3",
                _ => "tlsv1.2",
            },
            key_exchange,
            cipher,
            hash,
            offers_external: external.is_some(),
            peer,
        }
    }
}

/// The parts of a suite's name as RabbitMQ lists them: `tls13_aes_256_gcm_sha384`,
/// `tls_ecdhe_rsa_with_aes_128_gcm_sha256`.
fn suite_parts(suite: &str) -> (String, String, String) {
    let (exchange, rest) = match suite.strip_prefix("tls13_") {
        Some(rest) => ("any", rest),
        None => suite
            .strip_prefix("tls_")
            .and_then(|rest| rest.split_once("_with_"))
            .unwrap_or(("", suite)),
    };
    let (cipher, hash) = rest.rsplit_once('_').unwrap_or((rest, ""));
    (exchange.to_owned(), cipher.to_owned(), hash.to_owned())
}

fn build(config: &TlsConfig) -> Result<Current, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let resolver = Certificates {
        default: certified_key(&config.default, &provider)?,
        hosts: config
            .hosts
            .iter()
            .map(|(name, pair)| Ok((name.to_ascii_lowercase(), certified_key(pair, &provider)?)))
            .collect::<Result<_, TlsError>>()?,
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&config.min_version.versions())
        .expect("the provider knows both versions");
    let builder = match &config.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(verifier(clients, provider)?),
    };
    let server = config.hosts.iter().map(|(_, pair)| &pair.certificate);
    let server = std::iter::once(&config.default.certificate).chain(server);
    let authorities = config.clients.iter().map(|clients| &clients.authorities);
    let files = server.map(|path| (path, Holder::Server));
    let expiries = files
        .chain(authorities.map(|path| (path, Holder::Authorities)))
        .map(|(path, of)| {
            Ok(Expiry {
                path: path.clone(),
                of,
                not_after: certificates("certificate", path)?
                    .iter()
                    .filter_map(|certificate| certificate::not_after(certificate))
                    .collect(),
            })
        })
        .collect::<Result<_, TlsError>>()?;
    Ok(Current {
        server: Arc::new(builder.with_cert_resolver(Arc::new(resolver))),
        expiries,
    })
}

fn certified_key(pair: &KeyPair, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = certificates("certificate", &pair.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&pair.key).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => TlsError::Missing {
            what: "private key",
            path: pair.key.clone(),
            hint: "expected a PEM file with an unencrypted key (-----BEGIN PRIVATE KEY-----)",
        },
        error => unreadable("private key", &pair.key, &error),
    })?;
    CertifiedKey::from_der(chain, key, provider)
        .map(Arc::new)
        .map_err(|error| TlsError::Pair {
            certificate: pair.certificate.clone(),
            key: pair.key.clone(),
            reason: error.to_string(),
        })
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(what, path, &error))?;
    if found.is_empty() {
        return Err(TlsError::Missing {
            what: "certificate",
            path: path.to_owned(),
            hint: "expected a PEM file (-----BEGIN CERTIFICATE-----)",
        });
    }
    Ok(found)
}

fn unreadable(what: &'static str, path: &Path, error: &rustls::pki_types::pem::Error) -> TlsError {
    TlsError::Read {
        what,
        path: path.to_owned(),
        reason: match error {
            rustls::pki_types::pem::Error::Io(error) => error.to_string(),
            other => other.to_string(),
        },
    }
}

fn verifier(
    clients: &ClientCertificates,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let refuse = |reason: String| TlsError::Authorities {
        path: clients.authorities.clone(),
        reason,
    };
    let mut roots = RootCertStore::empty();
    for authority in certificates("certificates of authorities", &clients.authorities)? {
        roots
            .add(authority)
            .map_err(|error| refuse(error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if clients.required {
        builder
    } else {
        builder.allow_unauthenticated()
    };
    builder.build().map_err(|error| refuse(error.to_string()))
}

/// Which certificate a client gets, by the server's name it asks for.
#[derive(Debug)]
struct Certificates {
    default: Arc<CertifiedKey>,
    hosts: HashMap<String, Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| {
            let name = name.to_ascii_lowercase();
            self.hosts.get(&name).or_else(|| {
                let (_, parent) = name.split_once('.')?;
                self.hosts.get(&format!("*.{parent}"))
            })
        });
        Some(Arc::clone(named.unwrap_or(&self.default)))
    }
}

#[cfg(test)]
mod tests {
    use super::suite_parts;

    #[test]
    fn suites_are_named_in_parts() {
        let parts = |suite| {
            let (exchange, cipher, hash) = suite_parts(suite);
            format!("{exchange} {cipher} {hash}")
        };
        assert_eq!(parts("tls13_aes_256_gcm_sha384"), "any aes_256_gcm sha384");
        assert_eq!(
            parts("tls_ecdhe_rsa_with_aes_128_gcm_sha256"),
            "ecdhe_rsa aes_128_gcm sha256"
        );
    }
}
