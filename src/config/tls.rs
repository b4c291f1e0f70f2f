//! `[tls]`: certificates, and what is asked of clients.

use std::path::{Path, PathBuf};

use mamba_server::{
    NameSource,
    tls::{ClientCertificates, KeyPair, MinVersion, TlsConfig},
};
use serde::{Deserialize, Serialize};

/// Certificates of the TLS listeners.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tls {
    /// Empty: no TLS.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) min_version: Version,
    /// Empty: clients are not asked for certificates.
    pub(crate) client_ca: PathBuf,
    pub(crate) client_certificate_required: bool,
    pub(crate) external: bool,
    pub(crate) external_name: ExternalName,
    pub(crate) hosts: Vec<Host>,
}

/// The certificate for one server name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Host {
    name: String,
    certificate: PathBuf,
    key: PathBuf,
}

/// The oldest TLS version accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Version {
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

/// What of a certificate is the user's name with SASL EXTERNAL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ExternalName {
    #[default]
    DistinguishedName,
    CommonName,
    SanDns,
    SanEmail,
    SanUri,
}

impl Tls {
    /// What TLS is set up from; `None` without a certificate.
    pub(crate) fn to_config(&self) -> Option<TlsConfig> {
        let pair = |certificate: &Path, key: &Path| KeyPair {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        };
        if self.certificate.as_os_str().is_empty() {
            return None;
        }
        Some(TlsConfig {
            default: pair(&self.certificate, &self.key),
            hosts: self
                .hosts
                .iter()
                .map(|host| (host.name.clone(), pair(&host.certificate, &host.key)))
                .collect(),
            clients: (!self.client_ca.as_os_str().is_empty()).then(|| ClientCertificates {
                authorities: self.client_ca.clone(),
                required: self.client_certificate_required,
                external: self.external.then_some(match self.external_name {
                    ExternalName::DistinguishedName => NameSource::DistinguishedName,
                    ExternalName::CommonName => NameSource::CommonName,
                    ExternalName::SanDns => NameSource::SanDns,
                    ExternalName::SanEmail => NameSource::SanEmail,
                    ExternalName::SanUri => NameSource::SanUri,
                }),
            }),
            min_version: match self.min_version {
                Version::Tls12 => MinVersion::Tls12,
                Version::Tls13 => MinVersion::Tls13,
            },
        })
    }

    /// What makes no sense: (key, what came, what was expected). `needed_by` is a key that needs a certificate.
    pub(crate) fn problems(
        &self,
        needed_by: Option<&'static str>,
    ) -> Vec<(&'static str, String, String)> {
        let mut problems = Vec::new();
        let mut demand = |key, holds: bool, came: &str, expected: &str| {
            if !holds {
                problems.push((key, came.to_owned(), expected.to_owned()));
            }
        };
        let is_set = |path: &Path| !path.as_os_str().is_empty();
        demand(
            "tls.certificate",
            is_set(&self.certificate) || needed_by.is_none(),
            "\"\"",
            &format!(
                "the path of a PEM file, because {} is set",
                needed_by.unwrap_or_default()
            ),
        );
        demand(
            "tls.key",
            is_set(&self.key) || !is_set(&self.certificate),
            "\"\"",
            "the path of the certificate's private key, a PEM file",
        );
        demand(
            "tls.client_certificate_required",
            is_set(&self.client_ca) || !self.client_certificate_required,
            "true",
            "false, or tls.client_ca to name who signs clients' certificates",
        );
        demand(
            "tls.external",
            is_set(&self.client_ca) || !self.external,
            "true",
            "false, or tls.client_ca to name who signs clients' certificates",
        );
        problems
    }
}
