//! One HTTP request to another server, with or without TLS.

use std::{
    io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
pub use hyper::{Method, StatusCode};
use hyper::{
    Request, Uri,
    client::conn::http1,
    header::{ACCEPT, AUTHORIZATION, HOST},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        version::{TLS12, TLS13},
    },
};

/// An address of a server: `http` or `https`, a host, a path, and no credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl {
    uri: Uri,
    host: String,
    port: u16,
    secured: bool,
}

impl HttpUrl {
    /// The host, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, 80 or 443 if none is named.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is `https`.
    #[must_use]
    pub const fn is_secured(&self) -> bool {
        self.secured
    }

    fn path_and_query(&self) -> &str {
        self.uri.path_and_query().map_or("/", |path| path.as_str())
    }
}

impl std::fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.uri.fmt(f)
    }
}

impl FromStr for HttpUrl {
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

/// Whom a client trusts, and what it shows of itself. PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// Who signs the server's certificate; `None`: the authorities of the system.
    pub authorities: Option<PathBuf>,
    /// The client's own certificate with its chain, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nobody listens there, or the way there is closed.
    #[error(transparent)]
    System(#[from] io::Error),
    /// Without one, no server can be trusted.
    #[error("no certificate of an authority can be read: {0}")]
    Authorities(String),
    /// The client's own certificate or key.
    #[error("cannot use {path}: {reason}")]
    Identity {
        /// Which file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The files do not fit together.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// The handshake failed: mostly a certificate that is not trusted.
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
    /// What came is no HTTP, or ended early.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// The answer is too long, or ended early.
    #[error("the body ended early or has more than {0} octets")]
    Body(usize),
}

/// A request to be sent.
pub struct HttpRequest {
    /// `GET` or another.
    pub method: Method,
    /// A user's name and password.
    pub credentials: Option<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// Longest body of an answer, in octets.
    pub answer_bytes_max: usize,
}

impl std::fmt::Debug for HttpRequest {
    /// There may be a password in it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpRequest")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

/// Connects, sends the request and reads the answer to its end. It may take for ever: callers bound the time.
///
/// # Errors
/// Why there is no answer.
pub async fn exchange(
    url: &HttpUrl,
    files: &ClientFiles,
    request: HttpRequest,
) -> Result<(StatusCode, Bytes), HttpError> {
    let config = if url.secured {
        let files = files.clone();
        let config = tokio::task::spawn_blocking(move || client_config(&files));
        Some(config.await.map_err(io::Error::other)??)
    } else {
        None
    };
    let stream = TcpStream::connect((url.host.as_str(), url.port)).await?;
    let Some(config) = config else {
        return converse(stream, url, request).await;
    };
    let name = ServerName::try_from(url.host.clone()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(HttpError::Handshake)?;
    converse(stream, url, request).await
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    url: &HttpUrl,
    request: HttpRequest,
) -> Result<(StatusCode, Bytes), HttpError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let authority = url.uri.authority();
    let authority = authority.map_or("", |authority| authority.as_str());
    let mut head = Request::builder()
        .method(request.method)
        .uri(url.path_and_query())
        .header(HOST, authority)
        .header(ACCEPT, "application/json");
    if let Some((name, password)) = &request.credentials {
        let credentials = STANDARD.encode(format!("{name}:{password}"));
        head = head.header(AUTHORIZATION, format!("Basic {credentials}"));
    }
    let most = request.answer_bytes_max;
    let request = head
        .body(Full::new(request.body))
        .map_err(io::Error::other)?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), most).collect();
        let body = body.await.map_err(|_| HttpError::Body(most))?;
        Ok((status, body.to_bytes()))
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

/// How handshakes are done with these files.
///
/// # Errors
/// What is wrong with them.
pub fn client_config(files: &ClientFiles) -> Result<ClientConfig, HttpError> {
    let unread = |error: &dyn std::fmt::Display| HttpError::Authorities(error.to_string());
    let mut roots = RootCertStore::empty();
    match &files.authorities {
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
        return Err(HttpError::Authorities("there are none".to_owned()));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &files.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let unusable = |path: &Path, error: &dyn std::fmt::Display| HttpError::Identity {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unusable(certificate, &error))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
    Ok(builder.with_client_auth_cert(chain, key)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let parts = |text: &str| {
            let url: HttpUrl = text.parse().ok()?;
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
