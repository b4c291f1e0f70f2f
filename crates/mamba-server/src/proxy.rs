//! The PROXY protocol, versions 1 and 2: a proxy that is trusted says who the client is before anything else.

use std::{io, net::SocketAddr};

use ipnet::IpNet;
use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How a header of version 2 begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Octets of the longest header of version 1, its line end included.
const LINE_MAX: usize = 107;
/// Octets that follow the fixed part of a header of version 2, at most: addresses and extensions.
const REST_MAX: usize = 4096;

/// Whether connections from there begin with a PROXY header.
pub(crate) fn is_trusted(peer: SocketAddr, trusted: &[IpNet]) -> bool {
    let address = peer.ip().to_canonical();
    trusted.iter().any(|net| net.contains(&address))
}

/// Reads the header, and nothing behind it. The client's address and the one it connected to; `None` when the proxy speaks for
/// itself, as in health checks.
///
/// # Errors
/// When the stream ends or begins otherwise.
pub(crate) async fn read_header(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<(SocketAddr, SocketAddr)>> {
    let invalid = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason.to_owned());
    let mut header = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut header).await?;
    if header == SIGNATURE {
        header.resize(16, 0);
        stream.read_exact(&mut header[12..]).await?;
        let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if rest > REST_MAX {
            return Err(invalid("the PROXY header is too long"));
        }
        header.resize(16 + rest, 0);
        stream.read_exact(&mut header[16..]).await?;
    } else if header.starts_with(b"PROXY ") {
        while !header.ends_with(b"\r\n") {
            if header.len() == LINE_MAX {
                return Err(invalid("the PROXY line does not end"));
            }
            header.push(stream.read_u8().await?);
        }
    } else {
        return Err(invalid("no PROXY header"));
    }
    let (parsed, _) = ProxyHeader::parse(&header, ParseConfig::default())
        .map_err(|error| invalid(&format!("malformed PROXY header: {error}")))?;
    Ok(parsed
        .proxied_address()
        .map(|address| (address.source, address.destination)))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(octets: &[u8]) -> (Result<Option<(SocketAddr, SocketAddr)>, String>, usize) {
        let mut rest = octets;
        let header = read_header(&mut rest).await;
        (header.map_err(|error| error.to_string()), rest.len())
    }

    fn addresses(source: &str, destination: &str) -> Option<(SocketAddr, SocketAddr)> {
        Some((source.parse().unwrap(), destination.parse().unwrap()))
    }

    #[tokio::test]
    async fn both_versions_are_read_and_nothing_behind_them() {
        assert_eq!(
            read(b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 5672\r\nAMQP\0\0\x09\x01").await,
            (Ok(addresses("192.0.2.7:5000", "192.0.2.1:5672")), 8)
        );
        assert_eq!(read(b"PROXY UNKNOWN\r\nAMQP").await, (Ok(None), 4));
        let mut second = SIGNATURE.to_vec();
        second.extend([0x21, 0x11, 0, 12, 192, 0, 2, 7, 192, 0, 2, 1]);
        second.extend([0x13, 0x88, 0x16, 0x28]);
        second.extend(b"AMQP");
        assert_eq!(
            read(&second).await,
            (Ok(addresses("192.0.2.7:5000", "192.0.2.1:5672")), 4)
        );
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let (refused, _) = read(b"AMQP\0\0\x09\x01 and more").await;
        assert_eq!(refused.unwrap_err(), "no PROXY header");
        let (refused, _) = read(&[&b"PROXY TCP4 "[..], &[b'1'; 200]].concat()).await;
        assert_eq!(refused.unwrap_err(), "the PROXY line does not end");
        let mut long = SIGNATURE.to_vec();
        long.extend([0x21, 0x11, 0xff, 0xff]);
        assert_eq!(
            read(&long).await.0.unwrap_err(),
            "the PROXY header is too long"
        );
        assert!(read(b"PROXY").await.0.is_err());
    }

    #[test]
    fn trust_is_by_network() {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        assert!(is_trusted("10.1.2.3:1".parse().unwrap(), &trusted));
        assert!(is_trusted("[::ffff:10.1.2.3]:1".parse().unwrap(), &trusted));
        assert!(!is_trusted("11.1.2.3:1".parse().unwrap(), &trusted));
        assert!(is_trusted("[::1]:1".parse().unwrap(), &trusted));
    }
}
