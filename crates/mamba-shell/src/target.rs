//! Which broker, and the way to it: TCP or TLS.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use mamba_perf::uri::Uri;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

use crate::error::Error;

const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Where systems keep the authorities that they trust.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Which broker to talk to.
#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// The broker: amqp://user:password@host:port/vhost, or amqps:// for TLS. Where others can see the arguments, set the variable
    #[arg(
        short,
        long,
        value_name = "URI",
        env = "MAMBAMQ_URI",
        hide_env_values = true,
        default_value = "amqp://guest:guest@127.0.0.1:5672/"
    )]
    uri: String,
    /// With amqps: certificates of the authorities to trust, PEM [default: those of the system]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// With amqps: the client's certificate, PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// With amqps: the key of the client's certificate, PEM
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
}

/// A connection's octets.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl TargetArgs {
    /// Connects; what comes next is AMQP's.
    pub(crate) async fn connect(&self) -> Result<(Uri, Box<dyn Stream>), Error> {
        let uri = Uri::parse(&self.uri)?;
        let failed = |source| Error::Connect {
            address: uri.address(),
            source,
        };
        let connecting = timeout(
            CONNECT_TIME,
            TcpStream::connect((uri.host.as_str(), uri.port)),
        );
        let stream = connecting
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        if !uri.tls {
            return Ok((uri, Box::new(stream)));
        }
        let name = ServerName::try_from(uri.host.clone())
            .map_err(|error| Error::Tls(format!("{}: {error}", uri.host)))?;
        let connector = TlsConnector::from(Arc::new(self.tls()?));
        let secured = timeout(CONNECT_TIME, connector.connect(name, stream)).await;
        let secured = secured.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let secured = secured.map_err(|error| Error::Tls(error.to_string()))?;
        Ok((uri, Box::new(secured)))
    }

    fn tls(&self) -> Result<ClientConfig, Error> {
        let mut roots = RootCertStore::empty();
        let authorities = match &self.ca {
            Some(file) => file.as_path(),
            None => SYSTEM_AUTHORITIES
                .iter()
                .map(Path::new)
                .find(|file| file.exists())
                .ok_or_else(|| {
                    Error::Tls("this system has no list of authorities: name one with --ca".into())
                })?,
        };
        // A system's list may hold what nobody understands any more.
        let (added, _) = roots.add_parsable_certificates(certificates(authorities)?);
        if added == 0 {
            let file = authorities.display();
            return Err(Error::Usage(format!("{file}: no certificate in it")));
        }
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Tls(error.to_string()))?
            .with_root_certificates(roots);
        let (Some(certificate), Some(key)) = (&self.certificate, &self.key) else {
            return Ok(config.with_no_client_auth());
        };
        let secret = PrivateKeyDer::from_pem_file(key)
            .map_err(|error| Error::Usage(format!("{}: {error}", key.display())))?;
        config
            .with_client_auth_cert(certificates(certificate)?, secret)
            .map_err(|error| Error::Usage(format!("{}: {error}", certificate.display())))
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let unusable =
        |error: &dyn std::fmt::Display| Error::Usage(format!("{}: {error}", file.display()));
    CertificateDer::pem_file_iter(file)
        .map_err(|error| unusable(&error))?
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(&error))
}
