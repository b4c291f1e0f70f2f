//! Tokens in place of passwords: who gets in, what it may do, and for how long.

#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers may unwrap like the test"
)]

mod support;

use std::{fs, path::PathBuf};

use amq_protocol::protocol::{AMQPClass, basic, connection};
use serde_json::{Value, json};
use support::{
    ctl::{ctl_on, leaked, run},
    http::Api,
    oauth::{ALL, Issuer, KeyServer, key_set, now},
    tls::{Authority, Subject},
    *,
};

/// A broker that takes tokens, with these further lines in `[oauth2]`.
struct Setup {
    folder: PathBuf,
    file: PathBuf,
}

impl Setup {
    fn new(lines: &str) -> Self {
        let folder = broker::fresh_folder();
        let file = folder.join("mambamq.toml");
        let this = Self { folder, file };
        this.configure(&format!(
            "[oauth2]\nresource_server_id = \"mq\"\nleeway_secs = 0\n{lines}\n"
        ));
        this
    }

    fn configure(&self, text: &str) {
        fs::write(&self.file, text).unwrap();
    }

    /// A file beside the configuration.
    fn keep(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn start(&self, flags: &[&str]) -> Broker {
        let flags = [&["--config", self.file.to_str().unwrap()], flags].concat();
        Broker::start(&flags)
    }

    fn refused(&self) -> String {
        let flags = ["--config", self.file.to_str().unwrap()];
        Broker::try_start_on(broker::fresh_folder(), &flags)
            .unwrap_err()
            .text
    }
}

/// A broker that knows the issuer's key from a file.
fn broker_of(issuer: &Issuer) -> Broker {
    let setup = Setup::new("");
    let keys = setup.keep("keys.json", &key_set(&[issuer]));
    setup.configure(&format!(
        "[oauth2]\nresource_server_id = \"mq\"\nleeway_secs = 0\nkeys = [{{ file = {keys:?} }}]\n"
    ));
    setup.start(&[])
}

fn options(broker: &Broker, user: &str, token: &str) -> Options {
    Options {
        address: Some(broker.amqp),
        user: leaked(user.to_owned()),
        password: leaked(token.to_owned()),
        ..Options::default()
    }
}

fn connect(broker: &Broker, token: &str) -> Client {
    Client::with(&options(broker, "", token))
}

/// Starts a login and leaves its answer to be read.
fn attempt(broker: &Broker, user: &str, token: &str) -> Client {
    let options = options(broker, user, token);
    let client = Client::bare(options.address);
    client.begin();
    let response = options.plain_response();
    client.send(
        0,
        &start_ok(options.client_properties(), "PLAIN", &response),
    );
    client
}

#[track_caller]
fn refused(broker: &Broker, token: &str) {
    let client = attempt(broker, "somebody", token);
    let text = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.";
    client.expect_error(403, text, (0, 0));
}

fn is_in(client: &Client) -> bool {
    let answer = client.method(0);
    matches!(
        answer,
        AMQPClass::Connection(connection::AMQPMethod::Tune(_))
    )
}

fn all(issuer: &Issuer) -> String {
    issuer.token(&json!({"scope": ALL}))
}

/// Whether the broker has logged a line with all of these.
fn logged(broker: &Broker, words: &[&str]) -> bool {
    let log = broker.log();
    log.lines()
        .any(|line| words.iter().all(|word| line.contains(word)))
}

#[test]
fn keys_come_from_a_server_and_from_files() {
    let (fetched, rsa) = (Issuer::ec("fetched"), Issuer::rsa("rsa"));
    let (secret, pem) = (Issuer::secret("secret"), Issuer::ec("pem"));
    let server = KeyServer::start(key_set(&[&fetched, &rsa]), None);
    let setup = Setup::new("");
    let (secrets, public) = (
        setup.keep("secret.json", &key_set(&[&secret])),
        setup.keep("public.pem", &pem.pem()),
    );
    setup.configure(&format!(
        "[oauth2]\nresource_server_id = \"mq\"\njwks_url = \"http://{}/keys\"\nkeys = [{{ file = {secrets:?} }}, {{ id = \"pem\", file = {public:?} }}]\n",
        server.address
    ));
    let broker = setup.start(&[]);
    for issuer in [&fetched, &rsa, &secret, &pem] {
        let token = issuer.token(&json!({"scope": format!("{ALL} mq.tag:administrator")}));
        let client = connect(&broker, &token);
        let channel = client.channel(1);
        channel.own_queue("q");
        client.close();
        // A name does no harm, and AMQPLAIN is as good.
        assert!(is_in(&attempt(&broker, "ignored", &token)));
        let client = Client::bare(Some(broker.amqp));
        client.begin();
        let response = amqplain(&[("LOGIN", b'S', ""), ("PASSWORD", b'S', &token)]);
        client.send(
            0,
            &start_ok(
                Options::default().client_properties(),
                "AMQPLAIN",
                &response,
            ),
        );
        assert!(is_in(&client));
        for api in [
            Api::bearer(broker.management, &token),
            Api::new(broker.management, "", &token),
            Api::new(broker.management, "ignored", &token),
        ] {
            let me = api.get("/whoami").json();
            assert_eq!(me["name"], "bob");
            assert_eq!(me["tags"], json!(["administrator"]));
            assert_eq!(me["is_internal_user"], false);
        }
    }
    // Passwords go on.
    Client::to(&broker).close();
}

#[test]
fn keys_come_over_tls_from_whom_the_authority_vouches_for() {
    let folder = broker::fresh_folder();
    let (authority, other) = (
        Authority::new(&folder, "ca"),
        Authority::new(&folder, "other"),
    );
    let subject = Subject {
        hosts: &["localhost"],
        ..Subject::named("localhost")
    };
    let pair = authority.sign("server", &subject);
    let issuer = Issuer::ec("k");
    let server = KeyServer::start(key_set(&[&issuer]), Some(&pair));
    let start = |ca: PathBuf| {
        let port = server.address.port();
        let lines = format!("jwks_url = \"https://localhost:{port}/keys\"\njwks_ca = {ca:?}");
        Setup::new(&lines).start(&[])
    };
    connect(&start(authority.certificate()), &all(&issuer)).close();
    let suspicious = start(other.certificate());
    refused(&suspicious, &all(&issuer));
    assert!(logged(
        &suspicious,
        &["keys for tokens cannot be fetched", "certificate"]
    ));
}

#[test]
fn a_token_that_is_wrong_lets_nobody_in() {
    let issuer = Issuer::ec("k");
    let broker = broker_of(&issuer);
    let (stranger, unknown) = (Issuer::ec("k"), Issuer::ec("unknown"));
    let unsigned = issuer.token_with(&json!({"alg": "none"}), &json!({"scope": ALL}));
    let good = all(&issuer);
    let (message, _) = good.rsplit_once('.').unwrap();
    let table = [
        (
            issuer.token(&json!({"scope": ALL, "exp": now() - 1})),
            "has expired",
        ),
        (
            issuer.token(&json!({"scope": ALL, "nbf": now() + 1000})),
            "is not valid yet",
        ),
        (
            issuer.token(&json!({"scope": ALL, "aud": "other"})),
            "audience",
        ),
        (
            issuer.token(&json!({"scope": ALL, "exp": "never"})),
            "malformed",
        ),
        (unsigned, "algorithm is not accepted"),
        (all(&stranger), "signature is wrong"),
        (all(&unknown), "key that is not known"),
        (format!("{message}."), "signature is wrong"),
    ];
    for (token, reason) in table {
        refused(&broker, &token);
        assert!(logged(&broker, &["login refused", reason]), "{reason}");
        let status = Api::bearer(broker.management, &token).get("/whoami").status;
        assert_eq!(status, 401, "{reason}");
        assert!(!broker.log().contains(&token));
        // Guesses are slowed down: who is right waits a moment and may try again.
        eventually("a right token lets in", || {
            is_in(&attempt(&broker, "somebody", &good))
        });
        let api = Api::bearer(
            broker.management,
            &issuer.token(&json!({"scope": "mq.tag:management"})),
        );
        eventually("also over HTTP", || api.get("/whoami").status == 200);
    }
}

#[test]
fn guesses_are_slowed_down() {
    let issuer = Issuer::ec("k");
    let broker = broker_of(&issuer);
    let forged = all(&Issuer::ec("k"));
    for _ in 0..7 {
        refused(&broker, &forged);
    }
    assert!(logged(
        &broker,
        &["login refused", "too many failed logins"]
    ));
    // One that was true once is no guess.
    let old = issuer.token(&json!({"exp": now() - 1}));
    for _ in 0..10 {
        let client = attempt(&broker, "old", &old);
        let text = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see the broker logfile.";
        client.expect_error(403, text, (0, 0));
    }
    assert!(!logged(
        &broker,
        &["too many failed logins", "user=\"old\""]
    ));
    assert!(is_in(&attempt(&broker, "old", &all(&issuer))));
}

#[test]
fn scopes_are_permissions() {
    let issuer = Issuer::secret("k");
    let broker = broker_of(&issuer);
    ctl_on(Some(&broker), &["add_vhost", "v/1"]);
    let permit = ["set_permissions", "-p", "v/1", "guest", ".*", ".*", ".*"];
    ctl_on(Some(&broker), &permit);
    let scope = "mq.configure:v%2F1/q* mq.write:v%2F1/q1 mq.read:v%2F1/q1 mq.read:v%2F1/t/r.* mq.write:v%2F1/t/w.* mq.write:v%2F1/plain openid";
    let token = issuer.token(&json!({"scope": scope}));
    let options = Options {
        virtual_host: "v/1",
        ..options(&broker, "", &token)
    };
    {
        let admin = Api::new(broker.management, "guest", "guest");
        for (name, kind) in [("t", "topic"), ("plain", "direct"), ("bare", "topic")] {
            let made = admin.put(
                &format!("/exchanges/v%2F1/{name}"),
                &json!({"type": kind}).to_string(),
            );
            assert_eq!(made.status, 201);
        }
    }
    let client = Client::with(&options);
    let channel = client.channel(1);
    let reopen = || {
        channel.send(&channel_close_ok());
        channel.call(&channel_open());
    };
    let refusal =
        |what: &str| format!("ACCESS_REFUSED - {what} in vhost 'v/1' refused for user 'bob'");
    channel.queue("q1", "", table([]));
    channel.queue("q2", "", table([]));
    channel.send(&queue_declare("x", "", table([])));
    channel.expect_close(403, &refusal("configure access to queue 'x'"), (50, 10));
    reopen();
    channel.send(&queue_purge("q2"));
    channel.expect_close(403, &refusal("read access to queue 'q2'"), (50, 30));
    reopen();
    channel.bind("q1", "t", "r.1");
    channel.send(&queue_bind("q1", "t", "w.1", table([])));
    channel.expect_close(
        403,
        &refusal("read access to topic 'w.1' in exchange 't'"),
        (50, 20),
    );
    reopen();
    channel.call(&confirm_select());
    channel.publish("t", "w.1", "1");
    channel.publish("t", "w.1", "2");
    channel.publish("plain", "anything", "3");
    channel.confirms(1, 3);
    channel.publish("t", "r.1", "4");
    channel.expect_close(
        403,
        &refusal("write access to topic 'r.1' in exchange 't'"),
        (60, 40),
    );
    reopen();
    channel.publish("bare", "w.1", "5");
    channel.expect_close(403, &refusal("write access to exchange 'bare'"), (60, 40));
    // No scope speaks of another virtual host.
    let elsewhere = Options {
        virtual_host: "/",
        ..options.clone()
    };
    let client = Client::bare(elsewhere.address);
    client.negotiate(&elsewhere);
    client.send(0, &connection_open("/"));
    let text = "NOT_ALLOWED - access to vhost '/' refused for user 'bob'";
    client.expect_error(530, text, (10, 40));
}

#[test]
fn scopes_come_by_other_claims_and_names() {
    let issuer = Issuer::secret("k");
    let setup = Setup::new("");
    let keys = setup.keep("keys.json", &key_set(&[&issuer]));
    setup.configure(&format!(
        "[oauth2]\nresource_server_id = \"mq\"\nscope_prefix = \"\"\nverify_aud = false\nissuer = \"https://id\"\nadditional_scopes_key = \"roles realm.access\"\n\
         preferred_username_claims = [\"user_name\", \"sub\"]\nscope_aliases = [{{ alias = \"dev\", scope = \"configure:*/{{user_name}}-* read:*/* tag:management\" }}]\n\
         keys = [{{ file = {keys:?} }}]\n"
    ));
    let broker = setup.start(&[]);
    let claims = json!({"iss": "https://id", "aud": "other", "user_name": "eve", "realm": {"access": ["dev"]}});
    let client = connect(&broker, &issuer.token(&claims));
    let channel = client.channel(1);
    channel.own_queue("eve-q");
    channel.send(&queue_declare("bob-q", "", table([])));
    let text =
        "ACCESS_REFUSED - configure access to queue 'bob-q' in vhost '/' refused for user 'eve'";
    channel.expect_close(403, text, (50, 10));
    let mut foreign = claims;
    foreign["iss"] = "https://evil".into();
    refused(&broker, &issuer.token(&foreign));
}

#[test]
fn a_connection_ends_with_its_token() {
    let issuer = Issuer::ec("k");
    let broker = broker_of(&issuer);
    let token = issuer.token(&json!({"scope": ALL, "exp": now() + 2}));
    let client = connect(&broker, &token);
    client.channel(1).own_queue("q");
    client.expect_error(320, "CONNECTION_FORCED - credential expired", (0, 0));
    refused(&broker, &token);
}

#[test]
fn a_new_token_renews_time_and_rights() {
    let issuer = Issuer::ec("k");
    let broker = broker_of(&issuer);
    let client = connect(
        &broker,
        &issuer.token(&json!({"scope": ALL, "exp": now() + 2})),
    );
    let channel = client.channel(1);
    for queue in ["a", "b"] {
        channel.queue(queue, "", table([]));
        channel.consume(queue, queue, "");
    }
    channel.call(&confirm_select());
    channel.publish("", "a", "1");
    channel.confirms(1, 1);
    channel.delivery();
    // What it may do from now on: no more writing, and only one of the queues.
    let renewed = issuer.token(&json!({"scope": "mq.read:*/a mq.configure:*/*"}));
    client.send(0, &update_secret(&renewed));
    let answer = format!("{:?}", client.method(0));
    assert!(answer.contains("UpdateSecretOk"), "{answer}");
    let event = client.event(1);
    let Event::Method(AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel))) = event else {
        panic!("a cancel was due: {event:?}")
    };
    assert_eq!(cancel.consumer_tag.as_str(), "b");
    // The old token is over by now, and nobody minds.
    eventually("the first token is over", || {
        refused_quietly(&broker, &issuer.token(&json!({"exp": now() - 1})));
        channel.flow();
        logged(&broker, &["token renewed"])
    });
    std::thread::sleep(std::time::Duration::from_secs(3));
    channel.flow();
    channel.publish("", "a", "2");
    let text = "ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused for user 'bob'";
    channel.expect_close(403, text, (60, 40));
}

fn refused_quietly(broker: &Broker, token: &str) {
    drop(attempt(broker, "", token));
}

#[test]
fn a_token_that_is_wrong_renews_nothing() {
    let issuer = Issuer::ec("k");
    let broker = broker_of(&issuer);
    let table = [
        ("no token at all".to_owned(), "malformed"),
        (
            issuer.token(&json!({"scope": ALL, "exp": now() - 1})),
            "has expired",
        ),
        (all(&Issuer::ec("k")), "signature is wrong"),
        (all(&Issuer::ec("unknown")), "key that is not known"),
        (
            issuer.token(&json!({"scope": ALL, "sub": "eve"})),
            "another user's",
        ),
        (
            issuer.token(&json!({"scope": "mq.read:other/*"})),
            "does not open the virtual host",
        ),
    ];
    for (token, reason) in table {
        let client = connect(&broker, &all(&issuer));
        client.channel(1).own_queue("q");
        client.send(0, &update_secret(&token));
        let text = "NOT_ALLOWED - New secret was refused by one of the backends";
        client.expect_error(530, text, (10, 70));
        assert!(logged(&broker, &["token not renewed", reason]), "{reason}");
        assert!(!broker.log().contains(&token));
    }
}

#[test]
fn new_keys_are_fetched_when_a_token_names_them_and_not_too_often() {
    let (old, new) = (Issuer::ec("old"), Issuer::rsa("new"));
    let server = KeyServer::start(key_set(&[&old]), None);
    let broker = Setup::new(&format!("jwks_url = \"http://{}/keys\"", server.address)).start(&[]);
    let client = connect(&broker, &all(&old));
    let asked = server.asked();
    server.publish("200 OK", key_set(&[&new]));
    // The login waits for the key, and so would others.
    let waiting: Vec<Client> = (0..3).map(|_| attempt(&broker, "", &all(&new))).collect();
    assert!(waiting.iter().all(is_in));
    assert_eq!(server.asked(), asked + 1);
    // A key that is gone lets nobody in any more; who is in stays until its token ends.
    refused(&broker, &all(&old));
    refused(&broker, &all(&Issuer::ec("made up")));
    assert_eq!(
        server.asked(),
        asked + 1,
        "a made-up key causes no further fetch"
    );
    client.channel(1).flow();
}

#[test]
fn a_new_token_may_have_a_new_key() {
    let (old, new) = (Issuer::ec("old"), Issuer::rsa("new"));
    let server = KeyServer::start(key_set(&[&old]), None);
    let broker = Setup::new(&format!("jwks_url = \"http://{}/keys\"", server.address)).start(&[]);
    let client = connect(&broker, &all(&old));
    server.publish("200 OK", key_set(&[&old, &new]));
    client.send(0, &update_secret(&all(&new)));
    // What comes behind it waits its turn.
    client.unopened(1).send(&channel_open());
    let answer = format!("{:?}", client.method(0));
    assert!(answer.contains("UpdateSecretOk"), "{answer}");
    assert!(format!("{:?}", client.unopened(1).method()).contains("OpenOk"));
}

#[test]
fn keys_that_cannot_be_had_refuse_logins_and_nothing_else() {
    let (fetched, file) = (Issuer::ec("fetched"), Issuer::secret("file"));
    let server = KeyServer::start("no keys".to_owned(), None);
    let setup = Setup::new("");
    let keys = setup.keep("keys.json", &key_set(&[&file]));
    setup.configure(&format!(
        "[oauth2]\nresource_server_id = \"mq\"\njwks_url = \"http://{}/keys\"\nkeys = [{{ file = {keys:?} }}]\n",
        server.address
    ));
    let broker = setup.start(&[]);
    refused(&broker, &all(&fetched));
    assert!(logged(
        &broker,
        &["keys for tokens cannot be fetched", "no JSON Web Key Set"]
    ));
    connect(&broker, &all(&file)).close();
    Client::to(&broker).close();
}

#[test]
fn key_files_are_read_again_at_a_hangup() {
    let (old, new) = (Issuer::ec("old"), Issuer::ec("new"));
    let setup = Setup::new("");
    let keys = setup.keep("keys.json", &key_set(&[&old]));
    setup.configure(&format!(
        "[oauth2]\nresource_server_id = \"mq\"\nkeys = [{{ file = {keys:?} }}]\n"
    ));
    let broker = setup.start(&[]);
    fs::write(&keys, "nonsense").unwrap();
    broker.hang_up();
    eventually("the log says why not", || {
        logged(&broker, &["keys for tokens stay as they were"])
    });
    connect(&broker, &all(&old)).close();
    fs::write(&keys, key_set(&[&new])).unwrap();
    broker.hang_up();
    eventually("the new key counts", || {
        is_in(&attempt(&broker, "", &all(&new)))
    });
    refused(&broker, &all(&old));
}

#[test]
fn the_management_goes_by_tags_and_scopes() {
    let issuer = Issuer::ec("k");
    let broker = broker_of(&issuer);
    let api = |scope: &str| Api::bearer(broker.management, &issuer.token(&json!({"scope": scope})));
    assert_eq!(api(ALL).get("/overview").status, 401, "without a tag");
    let manager = api("mq.tag:management mq.configure:%2F/own-* mq.read:%2F/own-*");
    assert_eq!(manager.get("/overview").status, 200);
    assert_eq!(manager.get("/users").status, 401);
    assert_eq!(manager.put("/queues/%2F/own-1", "{}").status, 201);
    let refused = manager.put("/queues/%2F/other", "{}");
    assert!(refused.status >= 400, "{refused:?}");
    ctl_on(Some(&broker), &["add_vhost", "elsewhere"]);
    assert_eq!(manager.get("/queues/elsewhere").status, 401);
    let names: Vec<Value> = manager.get("/vhosts").json().as_array().unwrap().clone();
    assert_eq!(names.len(), 1);
    let sources = Api::new(broker.management, "guest", "guest");
    let node = sources.get("/overview").json()["node"]
        .as_str()
        .unwrap()
        .to_owned();
    let sources = sources.get(&format!("/auth/attempts/{node}/source")).json();
    let of = |user: &str| {
        let mut sources = sources.as_array().unwrap().iter();
        let source = sources.find(|source| source["username"] == user).unwrap();
        assert_eq!(source["remote_address"], "127.0.0.1");
        assert_eq!(source["protocol"], "http");
        (
            source["auth_attempts"].as_u64(),
            source["auth_attempts_failed"].as_u64(),
        )
    };
    assert_eq!(of("bob"), (Some(7), Some(0)));
    assert_eq!(of("guest"), (Some(2), Some(0)));
    let admin = api("mq.tag:administrator");
    assert_eq!(admin.put("/vhosts/fresh", "{}").status, 201);
    assert_eq!(
        admin
            .put("/users/new", r#"{"password": "p", "tags": ""}"#)
            .status,
        201
    );
    assert_eq!(admin.get("/permissions/fresh/bob").status, 404);
}

#[test]
fn what_is_wrong_with_the_configuration_is_said() {
    let check = |lines: &str, expected: &str| {
        let setup = Setup::new("");
        setup.configure(&format!("[oauth2]\n{lines}\n"));
        let text = setup.refused();
        assert!(text.contains(expected), "{text}");
    };
    check(
        "resource_server_id = \"mq\"",
        "oauth2.jwks_url is \"\", expected an address",
    );
    check(
        "jwks_url = \"http://id/keys\"",
        "oauth2.resource_server_id is \"\", expected the name",
    );
    check(
        "resource_server_id = \"mq\"\njwks_url = \"id/keys\"",
        "oauth2.jwks_url is \"id/keys\", expected an address such as https://HOST/PATH",
    );
    check(
        "resource_server_id = \"mq\"\nkeys = [{ file = \"/nowhere/key.pem\" }]",
        "cannot use the keys for tokens in /nowhere/key.pem: No such file",
    );
    check(
        "resource_server_id = \"mq\"\njwks_url = \"https://localhost/\"\njwks_ca = \"/nowhere/ca.pem\"",
        "cannot use the certificates of authorities in /nowhere/ca.pem",
    );
    let folder = broker::fresh_folder();
    let path = folder.join("bad.pem");
    fs::write(
        &path,
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    )
    .unwrap();
    check(
        &format!("resource_server_id = \"mq\"\nkeys = [{{ file = {path:?} }}]"),
        "expected a JSON Web Key Set, or PEM with a public key",
    );
    fs::write(&path, r#"{"keys": [{"kty": "oct", "k": "c2hvcnQ"}]}"#).unwrap();
    check(
        &format!("resource_server_id = \"mq\"\nkeys = [{{ file = {path:?} }}]"),
        "a shared secret in it has 5 octets, 32 are needed",
    );
}

/// Everything that takes a secret is given one that nobody would write by chance, right and wrong, and the log has none of them.
#[test]
fn no_secret_reaches_the_log_at_any_level() {
    let issuer = Issuer::secret("k");
    let setup = Setup::new("");
    let keys = setup.keep("keys.json", &key_set(&[&issuer]));
    let audit = setup.folder.join("audit.log");
    setup.configure(&format!(
        "[oauth2]\nresource_server_id = \"mq\"\nkeys = [{{ file = {keys:?} }}]\n[logging]\nlevel = \"trace\"\naudit_file = {audit:?}\n"
    ));
    let broker = setup.start(&[]);
    let tokens = [
        issuer.token(&json!({"scope": format!("{ALL} mq.tag:administrator")})),
        issuer.token(&json!({"scope": ALL, "exp": now() - 100})),
        all(&Issuer::ec("k")),
    ];
    let passwords: Vec<String> = (0..6)
        .map(|n| format!("pass-{n}-w0rd-of-this-test"))
        .collect();
    ctl_on(Some(&broker), &["add_user", "u", &passwords[0]]);
    ctl_on(Some(&broker), &["set_permissions", "u", ".*", ".*", ".*"]);
    ctl_on(Some(&broker), &["change_password", "u", &passwords[1]]);
    run(Some(&broker), &["authenticate_user", "u", &passwords[2]]);
    let admin = Api::new(broker.management, "guest", "guest");
    let body = |password: &str| json!({"password": password, "tags": "administrator"}).to_string();
    assert_eq!(admin.put("/users/v", &body(&passwords[3])).status, 201);
    admin.get(&format!("/auth/hash_password/{}", passwords[4]));
    let definitions = json!({"users": [{"name": "w", "password": passwords[5], "tags": []}]});
    admin.post("/definitions", &definitions.to_string());
    for password in passwords
        .iter()
        .map(String::as_str)
        .chain(tokens.iter().map(String::as_str))
    {
        for user in ["u", "", password] {
            drop(attempt(&broker, user, password));
            Api::new(broker.management, user, password).get("/whoami");
        }
        Api::bearer(broker.management, password).get("/whoami");
    }
    // By a name that is known to be right from here: others wait for their many mistakes.
    let client = Client::with(&options(&broker, "guest", &tokens[0]));
    client.send(0, &update_secret(&tokens[0]));
    client.method(0);
    client.send(0, &update_secret(&tokens[1]));
    client.method(0);
    eventually("all of it is logged", || {
        logged(&broker, &["token not renewed"])
    });
    let (log, audit) = (broker.log(), fs::read_to_string(&audit).unwrap());
    assert!(
        log.contains("TRACE") || log.contains("DEBUG"),
        "a log of every level"
    );
    for secret in tokens.iter().chain(&passwords) {
        // Nor the part of a token that would be enough to use it.
        let signature = secret.rsplit('.').next().unwrap();
        for text in [&log, &audit] {
            let line = text.lines().find(|line| line.contains(signature));
            // A wrong password given as a user's name is a name.
            let line = line.filter(|line| {
                !line.contains(&format!("user=\"{secret}\""))
                    && !line.contains(&format!("\"user\":\"{secret}\""))
            });
            assert_eq!(line, None);
        }
    }
    // Who did what, from where, and how it ended.
    let lines: Vec<Value> = audit
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let has = |fields: Value| {
        let fields = fields.as_object().unwrap().clone();
        lines
            .iter()
            .any(|line| fields.iter().all(|(name, value)| line[name] == *value))
    };
    assert!(has(
        json!({"message": "operator command", "command": "add_user", "what": "name=u", "result": "ok"})
    ));
    assert!(has(
        json!({"message": "management request", "method": "PUT", "path": "/api/users/v", "user": "guest", "status": 201})
    ));
    assert!(has(
        json!({"message": "logged in", "user": "bob", "token": true, "result": "ok"})
    ));
    assert!(has(
        json!({"message": "login refused", "user": "u", "result": "refused"})
    ));
    assert!(has(
        json!({"message": "login refused", "user": "(a token)"})
    ));
    assert!(has(
        json!({"message": "management login refused", "user": "u"})
    ));
    assert!(has(json!({"message": "token renewed", "user": "bob"})));
    assert!(
        lines
            .iter()
            .all(|line| line["target"] == "mambamq::audit" && !line["timestamp"].is_null())
    );
}
