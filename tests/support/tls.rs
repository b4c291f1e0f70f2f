//! Certificates of the test's own authority, and a tunnel that speaks TLS for a client that does not.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, SupportedProtocolVersion,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

/// An authority and what it has signed, as PEM files of one folder.
pub(crate) struct Authority {
    folder: PathBuf,
    name: &'static str,
    issuer: Issuer<'static, KeyPair>,
}

/// What a certificate is for.
pub(crate) struct Subject<'a> {
    pub(crate) common_name: &'a str,
    pub(crate) organization: &'a str,
    pub(crate) hosts: &'a [&'a str],
    pub(crate) mail: Option<&'a str>,
    pub(crate) expired: bool,
}

impl<'a> Subject<'a> {
    pub(crate) const fn named(common_name: &'a str) -> Self {
        Self {
            common_name,
            organization: "Example",
            hosts: &[],
            mail: None,
            expired: false,
        }
    }
}

/// PEM files of a certificate and its key.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new(folder: &Path, name: &'static str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        Self {
            folder: folder.to_owned(),
            name,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.join(format!("{}.pem", self.name))
    }

    /// Signs a certificate and leaves it in `FILE.pem` and `FILE.key`.
    pub(crate) fn sign(&self, file: &str, subject: &Subject<'_>) -> Pair {
        let hosts: Vec<String> = subject
            .hosts
            .iter()
            .map(|host| (*host).to_owned())
            .collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        if let Some(mail) = subject.mail {
            let mail = SanType::Rfc822Name(mail.try_into().unwrap());
            params.subject_alt_names.push(mail);
        }
        // The default has a common name of its own, in front.
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, subject.organization);
        name.push(DnType::CommonName, subject.common_name);
        params.distinguished_name = name;
        if subject.expired {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 2, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair {
            certificate: self.folder.join(format!("{file}.pem")),
            key: self.folder.join(format!("{file}.key")),
        };
        fs::write(&pair.certificate, certificate.pem()).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }
}

/// How a tunnel does its handshakes.
pub(crate) struct Tunnel<'a> {
    pub(crate) authority: &'a Authority,
    pub(crate) pair: Option<&'a Pair>,
    pub(crate) server_name: &'static str,
    pub(crate) versions: &'static [&'static SupportedProtocolVersion],
}

impl Tunnel<'_> {
    /// Listens on the returned address; whatever connects there reaches `to` with TLS. When a handshake fails, the connection ends.
    pub(crate) fn open(&self, to: SocketAddr) -> SocketAddr {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(self.authority.certificate()).unwrap())
            .unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match self.pair {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = vec![CertificateDer::from_pem_file(&pair.certificate).unwrap()];
                let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from(self.server_name).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((mut near, _)) = listener.accept().await {
                    let (connector, name) = (connector.clone(), name.clone());
                    tokio::spawn(async move {
                        let far = tokio::net::TcpStream::connect(to).await?;
                        let mut far = connector.connect(name, far).await?;
                        tokio::io::copy_bidirectional(&mut near, &mut far).await
                    });
                }
            });
        });
        address
    }
}
