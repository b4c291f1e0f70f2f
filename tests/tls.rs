//! TLS listeners, client certificates as logins, certificates read again, and proxies that name the client.

#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers may unwrap like the test"
)]

mod support;

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use amq_protocol::{
    protocol::{AMQPClass, connection},
    types::FieldTable,
};
use support::{
    ctl::ctl_on,
    tls::{Authority, Pair, Subject, Tunnel},
    *,
};
use tokio_rustls::rustls::{
    SupportedProtocolVersion,
    version::{TLS12, TLS13},
};

const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];
const OLD: &[&SupportedProtocolVersion] = &[&TLS12];
const NEW: &[&SupportedProtocolVersion] = &[&TLS13];

/// A folder with an authority and the server's certificate for `localhost`.
struct Setup {
    folder: PathBuf,
    authority: Authority,
    server: Pair,
}

impl Setup {
    fn new() -> Self {
        let folder = broker::fresh_folder();
        let authority = Authority::new(&folder, "authority");
        let subject = Subject {
            hosts: &["localhost"],
            ..Subject::named("localhost")
        };
        let server = authority.sign("server", &subject);
        Self {
            folder,
            authority,
            server,
        }
    }

    /// A configuration file with these lines in `[tls]` after certificate and key.
    fn config(&self, more: &str) -> String {
        self.config_of(&self.server.certificate, &self.server.key, more)
    }

    fn config_of(&self, certificate: &Path, key: &Path, more: &str) -> String {
        let path = self.folder.join("mambamq.toml");
        let text = format!(
            "[listeners]\namqps = [\"127.0.0.1:0\"]\n[tls]\ncertificate = {certificate:?}\nkey = {key:?}\n{more}\n"
        );
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn start(&self, more: &str) -> Broker {
        Broker::start(&["--config", &self.config(more)])
    }

    fn asking(&self, more: &str) -> String {
        format!("client_ca = {:?}\n{more}", self.authority.certificate())
    }

    fn tunnel<'a>(&'a self, pair: Option<&'a Pair>) -> Tunnel<'a> {
        Tunnel {
            authority: &self.authority,
            pair,
            server_name: "localhost",
            versions: BOTH,
        }
    }
}

fn options(address: SocketAddr) -> Options {
    Options {
        address: Some(address),
        ..Options::default()
    }
}

/// Whether a handshake and a login succeed through the tunnel.
fn gets_in(address: SocketAddr) -> bool {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(client::PATIENCE)).unwrap();
    // The tunnel closes when its handshake fails: then there is an end, or an error.
    let _ = stream.write_all(b"AMQP\x00\x00\x09\x01");
    matches!(stream.read(&mut [0; 64]), Ok(1..))
}

/// Mechanisms offered, and the answer to EXTERNAL if it is offered.
fn external(address: SocketAddr) -> (String, Option<AMQPClass>) {
    let client = Client::bare(Some(address));
    let start = client.begin();
    let offered = start.mechanisms.to_string();
    if !offered.contains("EXTERNAL") {
        return (offered, None);
    }
    let properties: FieldTable = Options::default().client_properties();
    client.send(0, &start_ok(properties, "EXTERNAL", b""));
    (offered, Some(client.method(0)))
}

#[track_caller]
fn assert_let_in(answer: Option<AMQPClass>) {
    assert!(
        matches!(
            answer,
            Some(AMQPClass::Connection(connection::AMQPMethod::Tune(_)))
        ),
        "{answer:?}"
    );
}

#[track_caller]
fn assert_refused(answer: Option<AMQPClass>) {
    let Some(AMQPClass::Connection(connection::AMQPMethod::Close(close))) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(
        (close.reply_code, close.reply_text.as_str()),
        (
            403,
            "ACCESS_REFUSED - Login was refused using authentication mechanism EXTERNAL. For details see the broker logfile."
        )
    );
}

#[test]
fn messages_of_every_size_go_through_both_versions() {
    let setup = Setup::new();
    let broker = setup.start("");
    for versions in [OLD, NEW] {
        let tunnel = Tunnel {
            versions,
            ..setup.tunnel(None)
        };
        let client = Client::with(&options(tunnel.open(broker.amqps())));
        let channel = client.channel(1);
        let queue = name();
        channel.own_queue(&queue);
        let sizes = [0, 1, 4096, 100_000, 3 << 20];
        for (size, seed) in sizes.iter().zip(1..) {
            channel.publish("", &queue, Random::new(seed).bytes(*size));
        }
        channel.consume(&queue, "all", "no_ack");
        for (size, seed) in sizes.iter().zip(1..) {
            let body = channel.delivery().body;
            assert!(body == Random::new(seed).bytes(*size), "{size} octets");
        }
        client.close();
    }
}

#[test]
fn a_version_too_old_is_refused() {
    let setup = Setup::new();
    let broker = setup.start("min_version = \"1.3\"");
    let old = Tunnel {
        versions: OLD,
        ..setup.tunnel(None)
    };
    assert!(!gets_in(old.open(broker.amqps())));
    assert!(gets_in(setup.tunnel(None).open(broker.amqps())));
}

#[test]
fn what_is_no_tls_is_refused_and_counted() {
    let setup = Setup::new();
    let broker = setup.start("");
    let garbage: [&[u8]; 3] = [
        b"AMQP\x00\x00\x09\x01",
        b"GET / HTTP/1.1\r\n\r\n",
        &[0; 4096],
    ];
    for octets in garbage {
        let mut stream = TcpStream::connect(broker.amqps()).unwrap();
        stream.set_read_timeout(Some(client::PATIENCE)).unwrap();
        stream.write_all(octets).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"AMQP"), "{answer:?}");
    }
    eventually("three refused connections are counted", || {
        broker.metric("mambamq_connections_refused_total") == Some(3.0)
    });
    assert!(gets_in(setup.tunnel(None).open(broker.amqps())));
}

#[test]
fn only_trusted_certificates_are_let_in_where_one_is_required() {
    let setup = Setup::new();
    let broker = setup.start(&setup.asking("client_certificate_required = true"));
    let amqps = broker.amqps();
    let own = setup.authority.sign("own", &Subject::named("orders"));
    let foreign =
        Authority::new(&setup.folder, "foreign").sign("stranger", &Subject::named("orders"));
    let expired = setup.authority.sign(
        "expired",
        &Subject {
            expired: true,
            ..Subject::named("orders")
        },
    );
    assert!(gets_in(setup.tunnel(Some(&own)).open(amqps)));
    assert!(!gets_in(setup.tunnel(None).open(amqps)));
    assert!(!gets_in(setup.tunnel(Some(&foreign)).open(amqps)));
    assert!(!gets_in(setup.tunnel(Some(&expired)).open(amqps)));
    eventually("the refused ones are counted", || {
        broker.metric("mambamq_connections_refused_total") == Some(3.0)
    });
}

#[test]
fn a_certificate_is_a_login() {
    let setup = Setup::new();
    let broker = setup.start(&setup.asking("external = true"));
    ctl_on(
        Some(&broker),
        &["add_user", "CN=orders,O=Example\\, Inc.", "x"],
    );
    let subject = Subject {
        organization: "Example, Inc.",
        ..Subject::named("orders")
    };
    let known = setup.authority.sign("known", &subject);
    let unknown = setup.authority.sign("unknown", &Subject::named("nobody"));
    let amqps = broker.amqps();

    let (offered, answer) = external(setup.tunnel(Some(&known)).open(amqps));
    assert!(offered.contains("PLAIN AMQPLAIN EXTERNAL"), "{offered}");
    assert_let_in(answer);
    assert_refused(external(setup.tunnel(Some(&unknown)).open(amqps)).1);
    assert_refused(external(setup.tunnel(None).open(amqps)).1);
    let (offered, _) = external(broker.amqp);
    assert!(!offered.contains("EXTERNAL"), "{offered}");
}

#[test]
fn other_parts_of_a_certificate_can_be_the_login() {
    let setup = Setup::new();
    for (source, user) in [
        ("common_name", "orders"),
        ("san_dns", "orders.example.com"),
        ("san_email", "orders@example.com"),
    ] {
        let more = format!("external = true\nexternal_name = {source:?}");
        let broker = setup.start(&setup.asking(&more));
        ctl_on(Some(&broker), &["add_user", user, "x"]);
        let subject = Subject {
            hosts: &["orders.example.com"],
            mail: Some("orders@example.com"),
            ..Subject::named("orders")
        };
        let pair = setup.authority.sign("client", &subject);
        assert_let_in(external(setup.tunnel(Some(&pair)).open(broker.amqps())).1);
    }
}

#[test]
fn the_certificate_follows_the_name_that_is_asked_for() {
    let setup = Setup::new();
    let other = setup.authority.sign(
        "other",
        &Subject {
            hosts: &["mq.example.com", "a.example.org"],
            ..Subject::named("other")
        },
    );
    let host = |name: &str| {
        format!(
            "{{ name = {name:?}, certificate = {:?}, key = {:?} }}",
            other.certificate, other.key
        )
    };
    let broker = setup.start(&format!(
        "hosts = [{}, {}]",
        host("MQ.example.com"),
        host("*.example.org")
    ));
    for server_name in ["localhost", "mq.example.com", "a.example.org"] {
        let tunnel = Tunnel {
            server_name,
            ..setup.tunnel(None)
        };
        assert!(gets_in(tunnel.open(broker.amqps())), "{server_name}");
    }
    let unknown = Tunnel {
        server_name: "b.example.com",
        ..setup.tunnel(None)
    };
    assert!(!gets_in(unknown.open(broker.amqps())));
}

#[test]
fn certificates_are_read_again_and_connections_stay() {
    let setup = Setup::new();
    let broker = setup.start("");
    let before = Client::with(&options(setup.tunnel(None).open(broker.amqps())));
    let channel = before.channel(1);

    // A broken file changes nothing.
    let certificate = fs::read(&setup.server.certificate).unwrap();
    fs::write(&setup.server.certificate, "no certificate").unwrap();
    broker.hang_up();
    eventually("the broken file is reported", || {
        broker.log().contains("certificates stay as they were")
            && broker.log().contains("server.pem")
    });
    assert!(gets_in(setup.tunnel(None).open(broker.amqps())));
    fs::write(&setup.server.certificate, certificate).unwrap();

    // A new one is for new connections.
    let successor = Authority::new(&setup.folder, "successor");
    let subject = Subject {
        hosts: &["localhost"],
        ..Subject::named("localhost")
    };
    successor.sign("server", &subject);
    broker.hang_up();
    eventually("the certificates are read again", || {
        broker.log().contains("certificates read again")
    });
    let new = Tunnel {
        authority: &successor,
        ..setup.tunnel(None)
    };
    assert!(gets_in(new.open(broker.amqps())));
    assert!(!gets_in(setup.tunnel(None).open(broker.amqps())));
    let queue = name();
    channel.own_queue(&queue);
    channel.publish("", &queue, "still here");
    assert_eq!(channel.drain(&queue), ["still here"]);
}

#[test]
fn a_file_that_cannot_be_used_is_named_at_the_start() {
    let setup = Setup::new();
    let other = setup.authority.sign("other", &Subject::named("other"));
    let missing = setup.folder.join("missing.pem");
    let garbage = setup.folder.join("garbage.pem");
    fs::write(&garbage, "-----BEGIN CERTIFICATE-----\n%%%\n").unwrap();
    let empty = setup.folder.join("empty.pem");
    fs::write(&empty, "").unwrap();
    let Pair { certificate, key } = &setup.server;
    let cases = [
        (&missing, key, "", "missing.pem: No such file"),
        (&garbage, key, "", "garbage.pem"),
        (&empty, key, "", "empty.pem holds no certificate"),
        (certificate, &empty, "", "empty.pem holds no private key"),
        (
            certificate,
            &other.key,
            "",
            "other.key cannot be used together",
        ),
        (
            certificate,
            key,
            "client_ca = \"/nowhere.pem\"",
            "/nowhere.pem",
        ),
    ];
    for (certificate, key, more, expected) in cases {
        let config = setup.config_of(certificate, key, more);
        let refusal =
            Broker::try_start_on(broker::fresh_folder(), &["--config", &config]).unwrap_err();
        assert_eq!(refusal.status.code(), Some(1), "{}", refusal.text);
        assert!(
            refusal.text.contains(expected),
            "{expected}: {}",
            refusal.text
        );
    }
}

/// A broker that believes proxies on this machine.
fn behind_proxy() -> Broker {
    let folder = broker::fresh_folder();
    let config = folder.join("mambamq.toml");
    fs::write(&config, "[listeners]\nproxies = [\"127.0.0.0/8\"]\n").unwrap();
    Broker::start(&["--config", config.to_str().unwrap()])
}

#[test]
fn a_trusted_proxy_says_who_the_client_is() {
    let broker = behind_proxy();
    ctl_on(Some(&broker), &["add_user", "someone", "secret"]);
    ctl_on(
        Some(&broker),
        &["set_permissions", "someone", ".*", ".*", ".*"],
    );
    let login = |header: &[u8], user: &'static str, password| {
        let client = Client::bare(Some(broker.amqp));
        client.raw(header);
        client.begin();
        let options = Options {
            user,
            password,
            ..Options::default()
        };
        let response = options.plain_response();
        client.send(
            0,
            &start_ok(options.client_properties(), "PLAIN", &response),
        );
        client.method(0)
    };
    let header = b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 5672\r\n";
    let tuned = |answer| {
        matches!(
            answer,
            AMQPClass::Connection(connection::AMQPMethod::Tune(_))
        )
    };
    assert!(tuned(login(header, "someone", "secret")));
    assert!(broker.log().contains("192.0.2.7:5000"));
    // A user who may only come from this machine does not, because the client behind the proxy does not.
    assert!(!tuned(login(header, "guest", "guest")));
    assert!(tuned(login(b"PROXY UNKNOWN\r\n", "guest", "guest")));
}

#[test]
fn a_trusted_proxy_without_a_header_is_refused() {
    let broker = behind_proxy();
    let mut stream = TcpStream::connect(broker.amqp).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(b"AMQP\x00\x00\x09\x01 and more").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(answer, b"");
    assert_eq!(
        broker.metric("mambamq_connections_refused_total"),
        Some(1.0)
    );
}

mod management {
    use serde_json::Value;
    use support::http::{self, Api};

    use super::*;

    /// The management API with TLS beside AMQP with TLS.
    fn start(setup: &Setup, more: &str) -> Broker {
        let file = setup.config(more);
        let text = fs::read_to_string(&file).unwrap();
        fs::write(
            &file,
            text + "\n[management]\ntls_listen = \"127.0.0.1:0\"\n",
        )
        .unwrap();
        Broker::start(&["--config", &file])
    }

    fn api(address: SocketAddr) -> Api {
        Api::new(address, "guest", "guest")
    }

    fn listeners(overview: &Value) -> Vec<(String, u16, bool)> {
        let listeners = overview["listeners"].as_array().unwrap().iter();
        let one = |listener: &Value| {
            let port = listener["port"].as_u64().unwrap().try_into().unwrap();
            let protocol = listener["protocol"].as_str().unwrap().to_owned();
            (protocol, port, listener["tls"].as_bool().unwrap())
        };
        listeners.map(one).collect()
    }

    #[test]
    fn answers_with_tls_and_says_so() {
        let setup = Setup::new();
        let broker = start(&setup, "");
        let address = broker.management_tls();
        for versions in [OLD, NEW] {
            let tunnel = Tunnel {
                versions,
                ..setup.tunnel(None)
            };
            let overview = api(tunnel.open(address)).get("/overview");
            assert_eq!(overview.status, 200);
            let listeners = listeners(&overview.json());
            assert!(listeners.contains(&("https".to_owned(), address.port(), true)));
            assert!(listeners.contains(&("http".to_owned(), broker.management.port(), false)));
            assert!(listeners.contains(&("amqp/ssl".to_owned(), broker.amqps().port(), true)));
        }
        // HTTP without TLS is not answered there.
        let mut plain = http::connect(address);
        plain
            .write_all(b"GET /api/overview HTTP/1.1\r\nhost: x\r\n\r\n")
            .unwrap();
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP"));
        let api = api(setup.tunnel(None).open(address));
        let status = |path: &str| api.get(&format!("/health/checks/{path}")).status;
        for protocol in ["https", "http", "amqps", "amqp", "amqp091,https"] {
            assert_eq!(
                status(&format!("protocol-listener/{protocol}")),
                200,
                "{protocol}"
            );
        }
        assert_eq!(status("protocol-listener/mqtt"), 503);
        assert_eq!(status(&format!("port-listener/{}", address.port())), 200);
        assert_eq!(status("port-listener/1"), 503);
    }

    #[test]
    fn clients_certificates_are_asked_for_as_on_amqps() {
        let setup = Setup::new();
        let broker = start(&setup, &setup.asking("client_certificate_required = true"));
        let pair = setup.authority.sign("client", &Subject::named("client"));
        let known = setup.tunnel(Some(&pair)).open(broker.management_tls());
        assert_eq!(api(known).get("/whoami").status, 200);
        let mut unknown = http::connect(setup.tunnel(None).open(broker.management_tls()));
        let _ = unknown.write_all(b"GET /api/overview HTTP/1.1\r\nhost: x\r\n\r\n");
        let mut answer = Vec::new();
        let _ = unknown.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP"));
    }

    #[test]
    fn an_expiry_is_seen_before_it_comes_and_new_certificates_count_at_once() {
        let setup = Setup::new();
        let broker = start(&setup, &setup.asking(""));
        let check = |within: &str| {
            let answer = api(broker.management)
                .get(&format!("/health/checks/certificate-expiration/{within}"));
            (answer.status, answer.json())
        };
        assert_eq!(check("10/days").0, 200);
        assert_eq!(check("10/YEARS").0, 200);
        let (status, expiring) = check("3000/years");
        assert_eq!(
            (status, &expiring["reason"]),
            (503, &Value::from("Certificates expiring"))
        );
        let protocols: Vec<&str> = expiring["expired"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["protocol"].as_str().unwrap())
            .collect();
        assert_eq!(protocols, ["amqp/ssl", "https"]);
        let first = &expiring["expired"][0];
        assert_eq!(
            first["certfile"],
            setup.server.certificate.to_str().unwrap()
        );
        assert!(
            first["certfile_expires_on"][0]
                .as_str()
                .unwrap()
                .contains(':')
        );
        for bad in ["x/days", "-1/days", "1/hours"] {
            assert_eq!(check(bad).0, 400, "{bad}");
        }
        // The server's certificate is replaced by one that ended in 2020.
        let subject = Subject {
            hosts: &["localhost"],
            expired: true,
            ..Subject::named("localhost")
        };
        setup.authority.sign("server", &subject);
        broker.hang_up();
        eventually("the new certificate is seen", || check("0/days").0 == 503);
        let (_, expired) = check("0/days");
        assert_eq!(
            expired["expired"][1]["certfile_expires_on"][0],
            "2020-02-01 0:00:00"
        );
        assert_eq!(
            expired["expired"][1]["cacertfile_expires_on"],
            Value::Array(Vec::new())
        );
    }

    #[test]
    fn without_certificates_nothing_expires_and_nothing_listens() {
        let broker = broker::shared();
        let answer = api(broker.management).get("/health/checks/certificate-expiration/9000/years");
        assert_eq!(answer.status, 200);
        let missing = api(broker.management).get("/health/checks/protocol-listener/https");
        assert_eq!(missing.status, 503);
        let folder = broker::fresh_folder();
        let file = folder.join("mambamq.toml");
        fs::write(&file, "[management]\ntls_listen = \"127.0.0.1:0\"\n").unwrap();
        let refusal = Broker::try_start_on(
            broker::fresh_folder(),
            &["--config", file.to_str().unwrap()],
        );
        let text = refusal.unwrap_err().text;
        assert!(text.contains("tls.certificate is \"\", expected the path of a PEM file, because management.tls_listen is set"), "{text}");
    }
}
