//! What a client's certificate says: names as RabbitMQ writes them, and the user it stands for.

use mamba_broker::PeerCertificate;
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    prelude::FromDer,
    x509::{AttributeTypeAndValue, X509Name},
};

/// Where SASL EXTERNAL takes a user's name from (`spec: wire §6`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameSource {
    /// The subject, as [`describe`] writes it.
    DistinguishedName,
    /// The subject's common names, joined by commas.
    CommonName,
    /// The first alternative name that is a host's.
    SanDns,
    /// The first alternative name that is a mail address.
    SanEmail,
    /// The first alternative name that is a URI.
    SanUri,
}

/// What the certificate says. One that cannot be read, although it was verified, says nothing and stands for nobody.
pub(crate) fn describe(certificate: &[u8], user: Option<NameSource>) -> PeerCertificate {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return PeerCertificate::default();
    };
    let validity = certificate.validity();
    let time = |time: &x509_parser::time::ASN1Time| {
        let time = time.to_datetime();
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
            time.year(),
            u8::from(time.month()),
            time.day(),
            time.hour(),
            time.minute(),
            time.second()
        )
    };
    PeerCertificate {
        subject: distinguished_name(certificate.subject()),
        issuer: distinguished_name(certificate.issuer()),
        validity: format!(
            "{} - {}",
            time(&validity.not_before),
            time(&validity.not_after)
        ),
        user: user
            .and_then(|source| user_name(&certificate, source))
            .filter(|name| !name.is_empty()),
    }
}

/// When a certificate ends, in seconds since 1970; `None` for one that cannot be read.
pub(crate) fn not_after(certificate: &[u8]) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

fn user_name(certificate: &X509Certificate<'_>, source: NameSource) -> Option<String> {
    let alternative = |pick: fn(&GeneralName<'_>) -> Option<String>| {
        let names = certificate.subject_alternative_name().ok()??;
        names.value.general_names.iter().find_map(pick)
    };
    match source {
        NameSource::DistinguishedName => Some(distinguished_name(certificate.subject())),
        NameSource::CommonName => {
            let names: Vec<String> = certificate
                .subject()
                .iter_common_name()
                .filter_map(text_of)
                .collect();
            Some(names.join(","))
        }
        NameSource::SanDns => alternative(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        }),
        NameSource::SanEmail => alternative(|name| match name {
            GeneralName::RFC822Name(name) => Some((*name).to_owned()),
            _ => None,
        }),
        NameSource::SanUri => alternative(|name| match name {
            GeneralName::URI(name) => Some((*name).to_owned()),
            _ => None,
        }),
    }
}

fn text_of(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    attribute.as_str().ok().map(str::to_owned)
}

/// The most specific part first, as in RFC 4514: `CN=orders,O=Example`.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let relative: Vec<String> = name
        .iter_rdn()
        .map(|relative| {
            let parts: Vec<String> = relative.iter().map(attribute).collect();
            parts.join("+")
        })
        .collect();
    relative.into_iter().rev().collect::<Vec<_>>().join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let id = attribute.attr_type().to_id_string();
    let word = match id.as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "SERIALNUMBER",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "TITLE",
        "2.5.4.42" => "GIVENNAME",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "EMAILADDRESS",
        other => other,
    };
    format!(
        "{word}={}",
        escaped(&text_of(attribute).unwrap_or_default())
    )
}

/// What would be taken for structure gets a backslash (RFC 4514 §2.4).
fn escaped(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for (index, character) in value.char_indices() {
        let is_last = index + character.len_utf8() == value.len();
        let is_structure = matches!(character, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
            || (index == 0 && matches!(character, '#' | ' '))
            || (is_last && character == ' ');
        if is_structure {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn structure_is_escaped() {
        assert_eq!(escaped("plain name"), "plain name");
        assert_eq!(escaped("a,b+c"), "a\\,b\\+c");
        assert_eq!(escaped("#x"), "\\#x");
        assert_eq!(escaped(" x "), "\\ x\\ ");
    }
}
