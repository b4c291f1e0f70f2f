//! Values that are more than a number or a string in the configuration file.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("B", 1),
];

/// A number of octets: an integer, or a string with a unit such as `"64MiB"` or `"50 MB"`.
///
/// `kB`, `MB`, `GB`, `TB` are powers of 1000; `KiB`, `MiB`, `GiB`, `TiB` are powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(pub(crate) u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || {
            format!(
                "{text:?} is not a size: expected octets such as 1048576, or a number with a unit such as \"64MiB\" or \"50MB\""
            )
        };
        let text = text.trim();
        let digits_end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (digits, unit) = text.split_at(digits_end);
        let number: u64 = digits.parse().map_err(|_| refuse())?;
        let unit = unit.trim();
        let factor = if unit.is_empty() {
            1
        } else {
            UNITS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))
                .ok_or_else(refuse)?
                .1
        };
        number.checked_mul(factor).map(Self).ok_or_else(refuse)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |(_, factor): &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(*factor);
        let (unit, factor) = UNITS.iter().find(exact).unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(SizeVisitor)
            .and_then(|value| match value {
                Threshold::Absolute(size) => Ok(size),
                Threshold::Relative(part) => Err(de::Error::custom(format!(
                    "{part} is not a size: expected whole octets, or a string such as \"64MiB\""
                ))),
            })
    }
}

/// How much memory waiting messages may take: `"auto"`, or a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageMemory {
    /// By the machine's memory.
    Automatic,
    /// So many octets.
    Fixed(ByteSize),
}

impl MessageMemory {
    /// Least and most that "auto" stands for, in octets.
    const AUTOMATIC: (u64, u64) = (8 << 20, 16 << 20);

    /// The octets on a machine with so much memory.
    pub(crate) fn octets(self, memory: u64) -> u64 {
        let (least, most) = Self::AUTOMATIC;
        match self {
            Self::Automatic => (memory / 64).clamp(least, most),
            Self::Fixed(ByteSize(octets)) => octets,
        }
    }
}

impl Serialize for MessageMemory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Automatic => serializer.serialize_str("auto"),
            Self::Fixed(size) => size.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for MessageMemory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(u64),
            Text(String),
        }
        let refuse = |_| de::Error::custom("expected \"auto\" or a size such as \"32MiB\"");
        match Raw::deserialize(deserializer).map_err(|error| refuse(error.to_string()))? {
            Raw::Text(text) if text.trim() == "auto" => Ok(Self::Automatic),
            Raw::Text(text) => text.parse().map(Self::Fixed).map_err(refuse),
            Raw::Number(octets) => Ok(Self::Fixed(ByteSize(octets))),
        }
    }
}

/// A threshold: octets, or a part of the machine's memory.
///
/// A number with a decimal point is relative (`0.6`); an integer or a string is absolute (`"2GiB"`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Threshold {
    /// This part of the memory the process may use.
    Relative(f64),
    /// So many octets.
    Absolute(ByteSize),
}

impl Threshold {
    /// The threshold in octets on a machine with so much memory.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a product of a non-negative factor and a memory size; saturates"
    )]
    pub(crate) fn octets(self, memory: u64) -> u64 {
        match self {
            Self::Relative(part) => (memory as f64 * part) as u64,
            Self::Absolute(ByteSize(octets)) => octets,
        }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relative(part) => write!(f, "{part}"),
            Self::Absolute(size) => size.fmt(f),
        }
    }
}

impl Serialize for Threshold {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Relative(part) => serializer.serialize_f64(*part),
            Self::Absolute(size) => size.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Threshold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

struct SizeVisitor;

impl de::Visitor<'_> for SizeVisitor {
    type Value = Threshold;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of octets, or a string with a unit such as \"64MiB\"")
    }

    fn visit_u64<E: de::Error>(self, octets: u64) -> Result<Threshold, E> {
        Ok(Threshold::Absolute(ByteSize(octets)))
    }

    fn visit_i64<E: de::Error>(self, octets: i64) -> Result<Threshold, E> {
        u64::try_from(octets)
            .map_err(|_| E::invalid_value(de::Unexpected::Signed(octets), &self))
            .and_then(|octets| self.visit_u64(octets))
    }

    fn visit_f64<E: de::Error>(self, part: f64) -> Result<Threshold, E> {
        if part.is_finite() && part >= 0.0 {
            Ok(Threshold::Relative(part))
        } else {
            Err(E::invalid_value(de::Unexpected::Float(part), &self))
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Threshold, E> {
        text.parse()
            .map(Threshold::Absolute)
            .or_else(|error| match text.parse() {
                Ok(part) => self.visit_f64(part),
                Err(_) => Err(E::custom(error)),
            })
    }
}

/// An address to listen on: `127.0.0.1:5672`, `[::1]:5672`, `host:5672`, or `*:5672` for every interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenAddress {
    host: String,
    port: u16,
}

impl ListenAddress {
    /// The socket addresses this means on this machine.
    ///
    /// `*` is every IPv4 interface, and every IPv6 interface where the machine has IPv6.
    ///
    /// # Errors
    /// When the host name does not resolve.
    pub(crate) fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
        if self.host == "*" {
            let mut addresses = vec![SocketAddr::new(
                IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                self.port,
            )];
            if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
                addresses.push(SocketAddr::new(
                    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                    self.port,
                ));
            }
            return Ok(addresses);
        }
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let addresses: Vec<SocketAddr> = (host, self.port)
            .to_socket_addrs()
            .map_err(|error| format!("the host name {host:?} does not resolve ({error}); use an IP address, or * for every interface"))?
            .collect();
        Ok(addresses)
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || {
            format!(
                "{text:?} is not an address to listen on: expected ADDRESS:PORT such as 127.0.0.1:5672, [::1]:5672 or *:5672"
            )
        };
        let (host, port) = text.trim().rsplit_once(':').ok_or_else(refuse)?;
        let port = port.parse().map_err(|_| refuse())?;
        let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        if bare_ipv6 || host.contains(char::is_whitespace) {
            return Err(refuse());
        }
        let host = if host.is_empty() { "*" } else { host };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Serialize for ListenAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// The address of the metrics endpoint, or `off`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OptionalListen {
    /// No endpoint.
    Off,
    /// The endpoint listens here.
    On(ListenAddress),
}

impl FromStr for OptionalListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse()
            .map(Self::On)
            .map_err(|error: String| format!("{error}, or off"))
    }
}

impl fmt::Display for OptionalListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::On(address) => address.fmt(f),
        }
    }
}

impl Serialize for OptionalListen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OptionalListen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        #[track_caller]
        fn check(text: &str, octets: Option<u64>) {
            assert_eq!(
                text.parse::<ByteSize>().ok().map(|size| size.0),
                octets,
                "{text}"
            );
        }
        check("0", Some(0));
        check("4096", Some(4096));
        check("64MiB", Some(64 << 20));
        check("50 MB", Some(50_000_000));
        check("2gib", Some(2 << 30));
        check("1kB", Some(1000));
        check("", None);
        check("MiB", None);
        check("-1", None);
        check("1.5GiB", None);
        check("3 apples", None);
        check("99999999999TiB", None);
    }

    #[test]
    fn sizes_print_with_the_largest_exact_unit() {
        #[track_caller]
        fn check(octets: u64, text: &str) {
            assert_eq!(ByteSize(octets).to_string(), text);
            assert_eq!(text.parse(), Ok(ByteSize(octets)));
        }
        check(0, "0B");
        check(1, "1B");
        check(131_072, "128KiB");
        check(64 << 20, "64MiB");
        check(50_000_000, "50MB");
        check(1025, "1025B");
    }

    #[test]
    fn thresholds() {
        assert_eq!(Threshold::Relative(0.5).octets(1000), 500);
        assert_eq!(Threshold::Absolute(ByteSize(7)).octets(1000), 7);
        assert_eq!(Threshold::Relative(f64::MAX).octets(u64::MAX), u64::MAX);
    }

    #[test]
    fn listen_addresses() {
        #[track_caller]
        fn check(text: &str, addresses: Option<&[&str]>) {
            let resolved = text
                .parse::<ListenAddress>()
                .ok()
                .and_then(|address| address.resolve().ok());
            let expected = addresses.map(|list| {
                list.iter()
                    .map(|address| address.parse().unwrap())
                    .collect::<Vec<SocketAddr>>()
            });
            assert_eq!(resolved, expected, "{text}");
        }
        check("127.0.0.1:5672", Some(&["127.0.0.1:5672"]));
        check("[::1]:0", Some(&["[::1]:0"]));
        check("5672", None);
        check("127.0.0.1:99999", None);
        check("::1:5672", None);
        check("a b:1", None);
        assert_eq!(
            "*:1".parse::<ListenAddress>().unwrap().resolve().unwrap()[0],
            "0.0.0.0:1".parse().unwrap()
        );
        assert_eq!("off".parse(), Ok(OptionalListen::Off));
        assert!(
            "on".parse::<OptionalListen>()
                .unwrap_err()
                .contains("or off")
        );
    }
}
