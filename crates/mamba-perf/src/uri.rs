//! The broker's address: `amqp://user:password@host:port/vhost`.

use std::fmt;

const DEFAULT_PORT: u16 = 5672;
const DEFAULT_TLS_PORT: u16 = 5671;

/// An address that is not one we can use.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the address {uri:?}: {problem}; expected amqp://user:password@host:port/vhost")]
pub struct UriError {
    /// Without user and password.
    uri: String,
    problem: String,
}

/// Where and as whom to connect.
#[derive(Clone, PartialEq, Eq)]
pub struct Uri {
    /// The scheme is amqps.
    pub tls: bool,
    /// Host name or address, an IPv6 address without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Login name.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Virtual host.
    pub vhost: String,
}

impl fmt::Debug for Uri {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uri")
            .field("address", &self.address())
            .field("user", &self.user)
            .field("vhost", &self.vhost)
            .finish_non_exhaustive()
    }
}

impl Uri {
    /// Takes an address apart. User, password and virtual host are percent-decoded; missing parts are `guest`, `guest`,
    /// port 5672 (5671 with amqps) and the virtual host `/`. So is an empty virtual host (`amqp://host/`), which no broker has in practice.
    ///
    /// # Errors
    /// What is wrong with it, without user and password.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        parse(text).map_err(|problem| UriError {
            uri: without_login(text),
            problem,
        })
    }

    /// `host:port` for messages.
    #[must_use]
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// The address without user and password, which do not belong in messages.
fn without_login(text: &str) -> String {
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://...@{place}"),
        _ => text.to_owned(),
    }
}

fn parse(text: &str) -> Result<Uri, String> {
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| "it has no scheme".to_owned())?;
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "amqp" => false,
        "amqps" => true,
        other => return Err(format!("the scheme is {other:?}")),
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if path.contains('/') {
        return Err("a slash inside the virtual host has to be written %2F".to_owned());
    }
    let (login, place) = match authority.rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, authority),
    };
    let (user, password) = match login {
        None => ("guest".to_owned(), "guest".to_owned()),
        Some(login) => match login.split_once(':') {
            Some((user, password)) => (decode(user)?, decode(password)?),
            None => (decode(login)?, "guest".to_owned()),
        },
    };
    let (host, port) = split_place(place)?;
    let vhost = decode(path)?;
    if vhost.len() > 255 {
        return Err("the virtual host is longer than 255 octets".to_owned());
    }
    let default = if tls { DEFAULT_TLS_PORT } else { DEFAULT_PORT };
    Ok(Uri {
        tls,
        host,
        port: port.unwrap_or(default),
        user,
        password,
        vhost: if vhost.is_empty() {
            "/".to_owned()
        } else {
            vhost
        },
    })
}

/// Host, and port if there is one.
fn split_place(place: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest
                .split_once(']')
                .ok_or_else(|| "the bracket of the IPv6 address is not closed".to_owned())?;
            match after {
                "" => (host.to_owned(), None),
                _ => (
                    host.to_owned(),
                    Some(
                        after
                            .strip_prefix(':')
                            .ok_or_else(|| format!("unexpected {after:?} after the address"))?,
                    ),
                ),
            }
        }
        None => match place.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("an IPv6 address has to stand in brackets".to_owned());
            }
            Some((host, port)) => (decode(host)?, Some(port)),
            None => (decode(place)?, None),
        },
    };
    let port = match port {
        None | Some("") => None,
        Some(digits) => Some(
            digits
                .parse()
                .map_err(|_| format!("{digits:?} is not a port"))?,
        ),
    };
    let host = if host.is_empty() {
        "localhost".to_owned()
    } else {
        host
    };
    Ok((host, port))
}

fn decode(text: &str) -> Result<String, String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet != b'%' {
            octets.push(octet);
            continue;
        }
        let high = rest.next().and_then(hex);
        let low = rest.next().and_then(hex);
        let (Some(high), Some(low)) = (high, low) else {
            return Err("a % is not followed by two hexadecimal digits".to_owned());
        };
        octets.push(high << 4 | low);
    }
    String::from_utf8(octets).map_err(|_| "it is not UTF-8 after percent-decoding".to_owned())
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, user: &str, password: &str, host: &str, port: u16, vhost: &str) {
        let uri = Uri::parse(text).unwrap();
        assert_eq!(
            (
                &*uri.user,
                &*uri.password,
                &*uri.host,
                uri.port,
                &*uri.vhost
            ),
            (user, password, host, port, vhost)
        );
    }

    #[test]
    fn parts_and_defaults() {
        check("amqp://", "guest", "guest", "localhost", 5672, "/");
        check("amqp://h", "guest", "guest", "h", 5672, "/");
        check("amqp://h/", "guest", "guest", "h", 5672, "/");
        check("amqp://h:1/v", "guest", "guest", "h", 1, "v");
        check("AMQP://u:p@h:99", "u", "p", "h", 99, "/");
        check("amqp://u@h", "u", "guest", "h", 5672, "/");
        check("amqp://u:@h", "u", "", "h", 5672, "/");
        check("amqp://u:p@h/%2F", "u", "p", "h", 5672, "/");
        check("amqp://u:p@h/v?heartbeat=5", "u", "p", "h", 5672, "v");
    }

    #[test]
    fn with_tls() {
        let uri = Uri::parse("amqps://h/v").unwrap();
        assert!(uri.tls && uri.port == 5671);
        let uri = Uri::parse("amqps://u:secret@h:1").unwrap();
        assert_eq!(uri.port, 1);
        assert!(!format!("{uri:?}").contains("secret"));
    }

    #[test]
    fn percent_decoding() {
        check(
            "amqp://a%40b:c%3ad%25@h/x%2fy",
            "a@b",
            "c:d%",
            "h",
            5672,
            "x/y",
        );
        check("amqp://%C3%BC:p:q@h/", "\u{fc}", "p:q", "h", 5672, "/");
    }

    #[test]
    fn ipv6() {
        check("amqp://[::1]", "guest", "guest", "::1", 5672, "/");
        check("amqp://u:p@[::1]:7/v", "u", "p", "::1", 7, "v");
        assert_eq!(Uri::parse("amqp://[::1]:7").unwrap().address(), "[::1]:7");
    }

    #[test]
    fn messages_hide_the_password() {
        let text = Uri::parse("amqp://user:secret@h:port")
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("h:port") && !text.contains("secret"),
            "{text}"
        );
    }

    #[test]
    fn refused() {
        for text in [
            "h:5672",
            "http://h",
            "amqp://h:port",
            "amqp://h:70000",
            "amqp://::1",
            "amqp://[::1",
            "amqp://[::1]x",
            "amqp://h/a/b",
            "amqp://u%4:p@h",
            "amqp://u%zz:p@h",
            "amqp://%ff:p@h",
        ] {
            assert!(Uri::parse(text).is_err(), "{text}");
        }
    }
}
