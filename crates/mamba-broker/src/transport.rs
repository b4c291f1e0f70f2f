//! What the transport under a connection has agreed on and proved.

/// A finished TLS handshake, in RabbitMQ's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFacts {
    /// `tlsv1.3` or `tlsv1.2`.
    pub protocol: &'static str,
    /// `any` with TLS 1.3, otherwise such as `ecdhe_rsa`.
    pub key_exchange: String,
    /// Such as `aes_256_gcm`.
    pub cipher: String,
    /// Such as `sha384`.
    pub hash: String,
    /// SASL EXTERNAL is offered.
    pub offers_external: bool,
    /// The client's certificate, verified.
    pub peer: Option<PeerCertificate>,
}

/// A client's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Distinguished name, the most specific part first.
    pub subject: String,
    /// The issuer's.
    pub issuer: String,
    /// `BEGIN - END`, both in UTC.
    pub validity: String,
    /// The user it stands for with SASL EXTERNAL.
    pub user: Option<String>,
}
