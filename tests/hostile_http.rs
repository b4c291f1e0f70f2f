//! Clients of the management API that mean harm: what they send has a defined answer, costs a bounded amount of memory, and message
//! traffic goes on meanwhile.

mod support;

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use support::{
    Broker, Client, Options, Random, confirm_select, elsewhere,
    http::{Api, connect},
    plain, table,
};

/// `guest:guest`.
const GUEST: &str = "authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n";
/// What a crowd of clients may cost, in octets.
const GROWTH_MAX: u64 = 160 << 20;

/// A broker of its own; `None` where another broker is tested.
fn victim() -> Option<Broker> {
    (!elsewhere("the management API of our own process")).then(|| Broker::start(&[]))
}

/// Runs `attack` while messages are published, confirmed and taken; at least one has to pass from its beginning to its end.
fn under_attack(broker: &Broker, attack: impl FnOnce()) {
    let over = AtomicBool::new(false);
    let (amqp, before) = (broker.amqp, broker.resident_bytes());
    let passed = thread::scope(|scope| {
        let traffic = scope.spawn(|| messages_until(amqp, &over));
        let ending = Ending(&over);
        attack();
        drop(ending);
        traffic.join().expect("the traffic goes on")
    });
    assert!(passed > 0);
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "{grown} octets more than before");
    still_answers(broker.management);
}

/// Says that it is over, also when the attack fails as a test.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Messages that went through a queue until `over`, and one more.
fn messages_until(amqp: SocketAddr, over: &AtomicBool) -> u32 {
    let client = Client::with(&Options {
        address: Some(amqp),
        ..Options::default()
    });
    let channel = client.channel(1);
    channel.queue("traffic", "exclusive", table([]));
    channel.call(&confirm_select());
    channel.consume("traffic", "taker", "no_ack");
    let mut passed = 0;
    loop {
        let last = over.load(Ordering::Acquire);
        channel.publish_with("", "traffic", "", &plain(), passed.to_string());
        assert_eq!(channel.delivery().text(), passed.to_string());
        passed += 1;
        if last {
            return passed;
        }
    }
}

#[track_caller]
fn still_answers(management: SocketAddr) {
    let answer = Api::new(management, "guest", "guest").get("/whoami");
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Everything that comes back; nothing when the connection is cut.
fn all(stream: &mut TcpStream) -> Vec<u8> {
    let mut octets = Vec::new();
    let _ = stream.read_to_end(&mut octets);
    octets
}

/// The status of each answer on a connection, in order.
fn statuses(octets: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(octets);
    let heads = text.split("HTTP/1.").skip(1);
    heads
        .filter_map(|head| head.get(2..5)?.parse().ok())
        .collect()
}

/// Sends these octets and ends; the statuses that come back.
fn sent(management: SocketAddr, octets: &[u8]) -> Vec<u16> {
    let mut stream = connect(management);
    // Refused before it was read: the answer says why, or the connection is cut.
    let _ = stream.write_all(octets);
    let _ = stream.shutdown(Shutdown::Write);
    statuses(&all(&mut stream))
}

fn spoken(management: SocketAddr, text: &str) -> Vec<u16> {
    sent(management, text.replace('\n', "\r\n").as_bytes())
}

/// As many as the file limits of a test bear; each sends its header an octet at a time.
#[test]
fn headers_that_never_end() {
    let Some(broker) = victim() else { return };
    under_attack(&broker, || {
        let request = format!("GET /api/whoami HTTP/1.1\r\nhost: x\r\n{GUEST}x-slow: ");
        let mut slow: Vec<TcpStream> = (0..400).map(|_| connect(broker.management)).collect();
        for octet in request.bytes() {
            for stream in &mut slow {
                stream.write_all(&[octet]).unwrap();
            }
        }
        still_answers(broker.management);
    });
}

/// More connections than are served at a time: the rest waits with the system, and is served when the others have gone.
#[test]
fn more_connections_than_places() {
    let Some(broker) = victim() else { return };
    under_attack(&broker, || {
        let mut open = Vec::new();
        for _ in 0..1_100 {
            match TcpStream::connect(broker.management) {
                Ok(stream) => open.push(stream),
                // This process has no more descriptors, or the system's queue is full.
                Err(_) => break,
            }
        }
        drop(open);
        still_answers(broker.management);
    });
}

/// 10,000 requests before the first answer is read.
#[test]
fn requests_in_a_crowd() {
    const CONNECTIONS: usize = 200;
    const EACH: usize = 50;
    let Some(broker) = victim() else { return };
    under_attack(&broker, || {
        let one = format!("GET /api/whoami HTTP/1.1\r\nhost: x\r\n{GUEST}\r\n");
        let last =
            format!("GET /api/overview HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{GUEST}\r\n");
        let requests = one.repeat(EACH - 1) + &last;
        let mut open: Vec<TcpStream> = (0..CONNECTIONS)
            .map(|_| connect(broker.management))
            .collect();
        for stream in &mut open {
            stream.write_all(requests.as_bytes()).unwrap();
        }
        let answered: usize = open
            .iter_mut()
            .map(|stream| {
                let statuses = statuses(&all(stream));
                statuses.iter().filter(|status| **status == 200).count()
            })
            .sum();
        assert_eq!(answered, CONNECTIONS * EACH);
    });
}

/// Announced, a gigabyte is refused before it is waited for.
#[test]
fn a_gigabyte_announced() {
    let Some(broker) = victim() else { return };
    under_attack(&broker, || {
        let request = format!(
            "PUT /api/queues/%2F/q HTTP/1.1\r\nhost: x\r\n{GUEST}content-length: 1000000000\r\n\r\n{{"
        );
        let mut open: Vec<TcpStream> = (0..100).map(|_| connect(broker.management)).collect();
        for stream in &mut open {
            stream.write_all(request.as_bytes()).unwrap();
        }
        for stream in &mut open {
            assert_eq!(statuses(&all(stream)), [400]);
        }
    });
}

/// Bodies without an announced end are cut at the limit, however many come at once.
#[test]
fn chunks_without_end() {
    let Some(broker) = victim() else { return };
    under_attack(&broker, || {
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut stream = connect(broker.management);
                    let head = format!(
                        "PUT /api/queues/%2F/q HTTP/1.1\r\nhost: x\r\n{GUEST}transfer-encoding: chunked\r\n\r\n"
                    );
                    stream.write_all(head.as_bytes()).unwrap();
                    let chunk = [&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat();
                    let refused = (0..1_000).any(|_| stream.write_all(&chunk).is_err());
                    let answered = statuses(&all(&mut stream));
                    // The answer may be lost with the connection, which is cut over what was still to come.
                    assert!(refused || answered == [400], "{answered:?}");
                });
            }
        });
    });
}

#[test]
fn headers_without_measure() {
    let Some(broker) = victim() else { return };
    under_attack(&broker, || {
        let start = format!("GET /api/whoami HTTP/1.1\r\nhost: x\r\n{GUEST}");
        let long = format!("{start}x-long: {}\r\n\r\n", "x".repeat(10 << 20));
        let many = format!("{start}{}\r\n", "x-many: x\r\n".repeat(100_000));
        let path = format!(
            "GET /api/queues/%2F/{} HTTP/1.1\r\nhost: x\r\n{GUEST}\r\n",
            "x".repeat(1 << 20)
        );
        for request in [long, many, path] {
            let answered = sent(broker.management, request.as_bytes());
            let expected = [vec![], vec![414], vec![431]];
            assert!(expected.contains(&answered), "{answered:?}");
        }
    });
}

/// Octets that are no HTTP/1.1, or wrong, or ambiguous about where a body ends.
#[test]
fn what_is_no_request() {
    let Some(broker) = victim() else { return };
    let at = broker.management;
    under_attack(&broker, || {
        for text in [
            "PRI * HTTP/2.0\n\nSM\n\n",
            "\u{1}\u{2}\u{3}\n\n",
            "GET\n\n",
            "GET /api/whoami\n\n",
            "GET /api/whoami HTTP/9.9\nhost: x\n\n",
            "GET  /api/whoami HTTP/1.1\nhost: x\n\n",
            "GET /api/whoami HTTP/1.1\nbad header\n\n",
            "GET /api/whoami HTTP/1.1\nbad name: x\n\n",
            "GET /api/who\u{0}ami HTTP/1.1\nhost: x\n\n",
            "PUT /api/users/u HTTP/1.1\nhost: x\ncontent-length: -1\n\n",
            "PUT /api/users/u HTTP/1.1\nhost: x\ncontent-length: x\n\n",
            "PUT /api/users/u HTTP/1.1\nhost: x\ncontent-length: 1\ncontent-length: 2\n\nxy",
            "PUT /api/users/u HTTP/1.1\nhost: x\ncontent-length: 99999999999999999999999\n\n",
            "PUT /api/users/u HTTP/1.1\nhost: x\ntransfer-encoding: bogus\n\n",
        ] {
            let answered = spoken(at, text);
            let cut = answered.is_empty();
            assert!(cut || answered == [400], "{text:?}: {answered:?}");
        }
        // The preface of TLS, the header of AMQP, and noise.
        for octets in [
            &b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03"[..],
            b"AMQP\0\0\x09\x01",
        ] {
            let answered = sent(at, octets);
            assert!(answered.is_empty() || answered == [400], "{answered:?}");
        }
        let mut random = Random::new(7);
        for _ in 0..100 {
            let noise = random.bytes(500);
            let answered = sent(at, &noise);
            assert!(answered.is_empty() || answered == [400], "{answered:?}");
        }
    });
}

/// What one party takes for a body and another for a request is never answered as a request.
#[test]
fn nothing_is_smuggled() {
    let Some(broker) = victim() else { return };
    let at = broker.management;
    under_attack(&broker, || {
        let hidden = "DELETE /api/queues/%2F/kept HTTP/1.1\nhost: x\nauthorization: Basic Z3Vlc3Q6Z3Vlc3Q=\n\n";
        let api = Api::new(at, "guest", "guest");
        assert_eq!(api.put("/queues/%2F/kept", "{}").status, 201);
        for framing in [
            "content-length: 4\ntransfer-encoding: chunked",
            "transfer-encoding: chunked\ncontent-length: 4",
            "transfer-encoding: identity, chunked\ncontent-length: 4",
            "transfer-encoding: chunked, identity",
            "content-length: 0, 4",
            "content-length: +0",
        ] {
            let text = format!("PUT /api/nowhere HTTP/1.1\nhost: x\n{framing}\n\n40\n{hidden}");
            let answered = spoken(at, &text);
            assert!(!answered.contains(&204), "{framing}: {answered:?}");
        }
        assert_eq!(api.get("/queues/%2F/kept").status, 200);
        // Without a smuggler, one request behind the other is two requests.
        let two = format!("GET /api/whoami HTTP/1.1\nhost: x\n{GUEST}\n").replace("\r\n", "\n");
        assert_eq!(spoken(at, &two.repeat(2)), [200, 200]);
        // Garbage behind a good request does not take its answer away.
        assert_eq!(spoken(at, &format!("{two}\u{1}garbage\n\n"))[0], 200);
    });
}

/// Methods and paths that open doors elsewhere.
#[test]
fn methods_and_paths() {
    let Some(broker) = victim() else { return };
    let at = broker.management;
    under_attack(&broker, || {
        for (method, target, expected) in [
            ("TRACE", "/api/whoami", 405),
            ("TRACE", "/", 301),
            ("CONNECT", "example.org:443", 404),
            ("CONNECT", "/api/whoami", 405),
            ("PROPFIND", "/api/whoami", 405),
            ("GET", "http://example.org/api/whoami", 200),
            ("GET", "*", 404),
            ("OPTIONS", "*", 404),
            ("GET", "/../../etc/passwd", 404),
            ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
            ("GET", "/api/../../etc/passwd", 404),
            ("GET", "/api/%2e%2e/whoami", 404),
            ("GET", "/api/%252e%252e/whoami", 404),
            ("GET", "//api/whoami", 404),
            ("GET", "/api//whoami", 404),
            ("GET", "/api/whoami%00", 404),
            ("GET", "/api/whoami%2f", 404),
            ("GET", "/api/queues/%2F/%252e%252e%252f", 404),
            ("GET", "/api/queues/%C0%AF/q", 404),
            ("GET", "/api/queues/%2F/%", 404),
            ("GET", "/api/queues/%2F/%zz", 404),
            ("GET", "/API/whoami", 404),
        ] {
            let request = format!(
                "{method} {target} HTTP/1.1\nhost: x\nconnection: close\n{}\n",
                GUEST.replace("\r\n", "\n")
            );
            assert_eq!(spoken(at, &request), [expected], "{method} {target}");
        }
        // TRACE does not give back what was sent: credentials stay with those who have them.
        let mut stream = connect(at);
        let trace =
            format!("TRACE /api/whoami HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{GUEST}\r\n");
        stream.write_all(trace.as_bytes()).unwrap();
        let answer = String::from_utf8(all(&mut stream)).unwrap();
        assert!(!answer.contains("Basic"), "{answer}");
    });
}

/// A client that asks for much and reads nothing.
#[test]
fn answers_nobody_reads() {
    let Some(broker) = victim() else { return };
    let api = Api::new(broker.management, "guest", "guest");
    for queue in 0..500 {
        let path = format!("/queues/%2F/queue-with-quite-a-long-name-{queue}");
        assert_eq!(api.put(&path, "{}").status, 201);
    }
    under_attack(&broker, || {
        let request = format!("GET /api/queues HTTP/1.1\r\nhost: x\r\n{GUEST}\r\n").repeat(4);
        let mut open: Vec<TcpStream> = (0..50).map(|_| connect(broker.management)).collect();
        for stream in &mut open {
            stream.write_all(request.as_bytes()).unwrap();
        }
        still_answers(broker.management);
    });
}
