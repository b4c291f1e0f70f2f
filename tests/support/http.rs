//! A plain HTTP client: one request per connection, nothing hidden.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

/// How long an answer may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

/// The management API, as one user.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    address: SocketAddr,
    authorization: Option<String>,
}

impl Api {
    /// As a user.
    pub(crate) fn new(address: SocketAddr, name: &str, password: &str) -> Self {
        let credentials = base64(format!("{name}:{password}").as_bytes());
        Self {
            address,
            authorization: Some(format!("Basic {credentials}")),
        }
    }

    /// With a token.
    pub(crate) fn bearer(address: SocketAddr, token: &str) -> Self {
        Self {
            address,
            authorization: Some(format!("Bearer {token}")),
        }
    }

    /// As nobody.
    pub(crate) fn anonymous(address: SocketAddr) -> Self {
        Self {
            address,
            authorization: None,
        }
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], b"")
    }

    #[track_caller]
    pub(crate) fn put(&self, path: &str, body: &str) -> Answer {
        self.request("PUT", path, &[], body.as_bytes())
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        self.request("POST", path, &[], body.as_bytes())
    }

    #[track_caller]
    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.request("DELETE", path, &[], b"")
    }

    /// Sends a request below `/api` and reads the answer to its end.
    #[track_caller]
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut head =
            format!("{method} /api{path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
        if let Some(authorization) = &self.authorization {
            head += &format!("authorization: {authorization}\r\n");
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            head += &format!("content-length: {}\r\n", body.len());
        }
        let mut stream = connect(self.address);
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        // Refused before it was read: the answer says why.
        let _ = stream.write_all(body);
        read(stream)
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads an answer until the connection ends.
#[track_caller]
pub(crate) fn read(mut stream: TcpStream) -> Answer {
    let mut octets = Vec::new();
    // A reset after the answer is as good as an end.
    let _ = stream.read_to_end(&mut octets);
    let end = octets
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(&octets)));
    let body = octets.split_off(end + 4);
    let head = String::from_utf8(octets).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let chunked = headers
        .iter()
        .any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let body = if chunked { dechunk(&body) } else { body };
    Answer {
        status: status.parse().unwrap(),
        headers,
        body: String::from_utf8(body).unwrap(),
    }
}

#[track_caller]
fn dechunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = rest
            .windows(2)
            .position(|window| window == b"\r\n")
            .expect("a chunk's size");
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return body;
        }
        let data = &rest[end + 2..];
        body.extend_from_slice(&data[..size]);
        rest = &data[size + 2..];
    }
}

fn base64(octets: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in octets.chunks(3) {
        let bits = three
            .iter()
            .chain([0, 0].iter())
            .take(3)
            .fold(0usize, |bits, octet| bits << 8 | usize::from(*octet));
        for place in 0..4 {
            text.push(if place <= three.len() {
                char::from(DIGITS[bits >> (18 - 6 * place) & 63])
            } else {
                '='
            });
        }
    }
    text
}
