//! `mambamq ctl` as operators use it: a broker on another machine over HTTPS, queues, thresholds, checks, and the forms of its output.

#![expect(
    clippy::unwrap_used,
    reason = "a test's helpers may unwrap like the test"
)]

mod support;

use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::{Value, json};
use support::{
    ctl::{Vhost, ctl_on, refused_on, run},
    http::Api,
    tls::{Authority, Subject},
    *,
};

/// A broker with the API over HTTPS, and who has signed its certificate.
struct Elsewhere {
    broker: Broker,
    folder: PathBuf,
    authority: Authority,
}

impl Elsewhere {
    fn new() -> Self {
        let folder = broker::fresh_folder();
        let authority = Authority::new(&folder, "authority");
        let subject = Subject {
            hosts: &["localhost"],
            ..Subject::named("localhost")
        };
        let pair = authority.sign("server", &subject);
        let config = folder.join("mambamq.toml");
        let text = format!(
            "[tls]\ncertificate = {:?}\nkey = {:?}\n[management]\ntls_listen = \"127.0.0.1:0\"\n[logging]\naudit_file = {:?}\n",
            pair.certificate,
            pair.key,
            folder.join("audit.log"),
        );
        fs::write(&config, text).unwrap();
        Self {
            broker: Broker::start(&["--config", config.to_str().unwrap()]),
            folder,
            authority,
        }
    }

    fn https(&self) -> String {
        format!("https://localhost:{}", self.broker.management_tls().port())
    }

    fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.broker.management.port())
    }

    /// The tool as this user, trusting the authority.
    fn command(&self, url: &str, user: &str, password: &str) -> Command {
        let mut command = elsewhere_command(url, user);
        command.env("MAMBAMQ_CTL_PASSWORD", password);
        command.arg("--tls-ca-cert-file");
        command.arg(self.authority.certificate());
        command
    }

    /// What it says over HTTPS, when all is well.
    #[track_caller]
    fn ctl(&self, words: &[&str]) -> String {
        let mut command = self.command(&self.https(), "guest", "guest");
        let output = command.args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The audit log's lines of operators' commands.
    fn audited(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.join("audit.log")).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .filter(|line: &Value| line["message"] == "operator command")
            .collect()
    }
}

fn elsewhere_command(url: &str, user: &str) -> Command {
    let mut command = broker::bare_command();
    command.args(["ctl", "--url", url, "--username", user]);
    command
}

#[track_caller]
fn fails(output: &Output, code: i32, with: &str) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(with), "{text:?} lacks {with:?}");
}

mod over_https {
    use super::*;

    #[test]
    fn every_kind_of_command_is_done_and_noted() {
        let far = Elsewhere::new();
        far.ctl(&["add_user", "u", "very-secret"]);
        far.ctl(&["set_user_tags", "u", "monitoring"]);
        assert_eq!(
            far.ctl(&["-q", "list_users"]),
            "user\ttags\nguest\t[administrator]\nu\t[monitoring]\n"
        );
        far.ctl(&["add_vhost", "v"]);
        far.ctl(&["set_permissions", "-p", "v", "u", "^a", "", ".*"]);
        let policy = ["set_policy", "-p", "v", "limit", "^q", "{\"max-length\":7}"];
        far.ctl(&policy);
        let api = Api::new(far.broker.management, "guest", "guest");
        assert_eq!(api.get("/permissions/v/u").json()["configure"], "^a");
        let policy = api.get("/policies/v/limit").json();
        assert_eq!(policy["definition"], json!({"max-length": 7}));
        assert!(far.ctl(&["status"]).contains("MambaMQ version: "));
        let definitions: Value =
            serde_json::from_str(&far.ctl(&["-q", "export_definitions", "-"])).unwrap();
        assert_eq!(definitions["policies"][0]["name"], "limit");

        // The log names the user and what it was about, never the password, and only what may change something.
        let noted = far.audited();
        let commands: Vec<&str> = noted
            .iter()
            .map(|line| line["command"].as_str().unwrap())
            .collect();
        assert_eq!(
            commands,
            [
                "add_user",
                "set_user_tags",
                "add_vhost",
                "set_permissions",
                "set_policy"
            ]
        );
        let first = &noted[0];
        assert_eq!(first["user"], "guest", "{first}");
        assert_eq!(first["via"], "management API");
        assert_eq!(first["what"], "name=u");
        assert!(first["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
        let everything =
            fs::read_to_string(far.folder.join("audit.log")).unwrap() + &far.broker.log();
        assert!(!everything.contains("very-secret"), "{everything}");
    }

    #[test]
    fn who_cannot_be_trusted_is_not_asked() {
        let far = Elsewhere::new();
        let list = |mut command: Command| command.arg("list_users").output().unwrap();
        // Signed by nobody the system knows.
        let mut unknown = elsewhere_command(&far.https(), "guest");
        unknown.env("MAMBAMQ_CTL_PASSWORD", "guest");
        fails(&list(unknown), 69, "--tls-ca-cert-file");
        let other = Authority::new(&far.folder, "other");
        let mut foreign = elsewhere_command(&far.https(), "guest");
        foreign.env("MAMBAMQ_CTL_PASSWORD", "guest");
        foreign.arg("--tls-ca-cert-file").arg(other.certificate());
        fails(&list(foreign), 69, "TLS handshake failed");
        // A certificate for another name.
        let address = far.https().replace("localhost", "127.0.0.1");
        fails(
            &list(far.command(&address, "guest", "guest")),
            69,
            "127.0.0.1",
        );
        // The other protocol, on either side.
        let swapped = far.http().replace("http:", "https:");
        fails(
            &list(far.command(&swapped, "guest", "guest")),
            69,
            "TLS handshake failed",
        );
        let swapped = far.https().replace("https:", "http:");
        fails(&list(far.command(&swapped, "guest", "guest")), 69, "https");
        // Nobody is there.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let nobody = format!("https://localhost:{port}");
        fails(
            &list(far.command(&nobody, "guest", "guest")),
            69,
            "cannot connect to localhost",
        );
        assert_eq!(far.audited(), Vec::<Value>::new());
    }

    #[test]
    fn only_administrators_with_their_password() {
        let far = Elsewhere::new();
        let folder = Some(&far.broker);
        for tag in ["management", "policymaker", "monitoring"] {
            ctl_on(folder, &["add_user", tag, "p"]);
            ctl_on(folder, &["set_user_tags", tag, tag]);
            ctl_on(folder, &["set_permissions", tag, ".*", ".*", ".*"]);
            let mut command = far.command(&far.https(), tag, "p");
            let output = command.args(["add_user", "x", "p"]).output().unwrap();
            fails(&output, 69, "administrator");
        }
        let mut wrong = far.command(&far.https(), "guest", "wrong");
        let output = wrong.args(["add_user", "x", "p"]).output().unwrap();
        fails(&output, 69, "the name or the password of user 'guest'");
        assert!(!ctl_on(folder, &["list_users"]).contains('x'));
        let anonymous = Api::anonymous(far.broker.management);
        assert_eq!(anonymous.post("/control/list_users", "{}").status, 401);
    }

    #[test]
    fn the_password_comes_from_a_file_or_the_environment() {
        let far = Elsewhere::new();
        let path = far.folder.join("password");
        fs::write(&path, "guest\n").unwrap();
        let mut command = elsewhere_command(&far.http(), "guest");
        command.arg("--password-file").arg(&path);
        assert!(command.arg("list_users").output().unwrap().status.success());
        let mut command = broker::bare_command();
        command.env("MAMBAMQ_CTL_URL", far.http());
        command.env("MAMBAMQ_CTL_USERNAME", "guest");
        command.env("MAMBAMQ_CTL_PASSWORD", "guest");
        let output = command.args(["ctl", "-q", "list_vhosts"]).output().unwrap();
        assert_eq!(output.stdout, b"name\n/\n", "{output:?}");
        // A folder on the command line counts more than an address in the environment.
        let mut command = broker::bare_command();
        command.env("MAMBAMQ_CTL_URL", "http://127.0.0.1:1");
        command.args(["ctl", "--data-dir"]).arg(far.broker.folder());
        assert!(command.arg("ping").output().unwrap().status.success());
    }

    #[test]
    fn what_is_for_this_machine_only() {
        let far = Elsewhere::new();
        for word in ["stop", "shutdown"] {
            let mut command = far.command(&far.https(), "guest", "guest");
            fails(&command.arg(word).output().unwrap(), 64, "own machine");
        }
        let api = Api::new(far.broker.management, "guest", "guest");
        for command in ["backup_begin", "backup_end"] {
            let answer = api.post(&format!("/control/{command}"), "{}");
            assert_eq!(answer.status, 400, "{answer:?}");
            assert_eq!(answer.json()["error"], "local_only");
        }
        // What was refused is noted as well.
        let noted = far.audited();
        assert_eq!(noted[0]["result"], "refused", "{noted:?}");
    }

    #[test]
    fn words_that_do_not_fit_together() {
        for (words, with) in [
            (
                &["--url", "http://h", "--data-dir", "/d", "ping"][..],
                "only one of them",
            ),
            (&["--username", "u", "ping"], "need --url"),
            (
                &["--url", "h:15671", "--username", "u", "ping"],
                "--url has to be",
            ),
            (
                &["--url", "http://u:p@h", "--username", "u", "ping"],
                "given apart",
            ),
            (
                &["--url", "http://h?x", "--username", "u", "ping"],
                "without a query",
            ),
            (&["--url", "http://h", "ping"], "needs --username"),
            (
                &["--url", "http://h", "--tls-cert-file", "f", "ping"],
                "go together",
            ),
            (&["--timeout", "soon", "ping"], "--timeout"),
        ] {
            let mut command = broker::bare_command();
            let output = command.arg("ctl").args(words).output().unwrap();
            fails(&output, 64, with);
        }
    }
}

/// `POST /api/control/COMMAND` with a client of one's own.
#[test]
fn the_endpoint_says_what_is_wrong() {
    if elsewhere("the management API of our own process") {
        return;
    }
    let api = Api::new(broker::shared().management, "guest", "guest");
    let check = |command: &str, body: &str, status: u16, error: &str| {
        let answer = api.post(&format!("/control/{command}"), body);
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.json()["error"], error);
    };
    check("sing", "{}", 404, "unknown_command");
    check("add_user", "{}", 400, "bad_request");
    check("add_user", "[]", 400, "bad_request");
    check("add_user", "{\"name\":7}", 400, "bad_request");
    check("add_user", "{", 400, "bad_request");
    check("delete_user", "{\"name\":\"nobody\"}", 404, "no_such_user");
    check(
        "purge_queue",
        "{\"vhost\":\"/\",\"name\":\"no-such\"}",
        404,
        "no_such_queue",
    );
    check("..%2F..%2Fetc%2Fpasswd", "{}", 404, "unknown_command");
    assert_eq!(api.get("/control/list_users").status, 405);
    let vhosts = api.post("/control/list_vhosts", "");
    assert_eq!(vhosts.status, 200, "{vhosts:?}");
    assert!(vhosts.json().is_array());
}

mod queue {
    use super::*;

    fn fill(vhost: &Vhost<'_>, queue: &str, count: usize) {
        let client = vhost.connect();
        client.channel(1).queue(queue, "durable", table([]));
        for _ in 0..count {
            client.put(queue, "x");
        }
    }

    #[test]
    fn purge() {
        let vhost = Vhost::new();
        fill(&vhost, "q", 3);
        vhost.ctl(&["purge_queue", "q"]);
        assert_eq!(vhost.ctl(&["list_queues"]), "name\tmessages\nq\t0\n");
        vhost.refused(65, &["purge_queue", "nothing"]);
        vhost.refused(64, &["purge_queue"]);
    }

    #[test]
    fn delete_says_how_many_went_with_it() {
        let vhost = Vhost::new();
        fill(&vhost, "q", 2);
        let refused = vhost.refused(69, &["delete_queue", "q", "--if-empty"]);
        assert!(refused.contains("not empty"), "{refused}");
        let said = vhost.ctl(&["delete_queue", "q"]);
        assert_eq!(
            said,
            "Queue was successfully deleted with 2 ready messages\n"
        );
        assert_eq!(vhost.ctl(&["list_queues"]), "");
        let refused = vhost.refused(64, &["delete_queue", "q"]);
        assert!(refused.contains("Queue not found"), "{refused}");
    }

    #[test]
    fn a_queue_in_use_stays_if_unused_is_asked_for() {
        let vhost = Vhost::new();
        let client = vhost.connect();
        let channel = client.channel(1);
        channel.queue("q", "durable", table([]));
        channel.consume("q", "tag", "");
        let refused = vhost.refused(69, &["delete_queue", "q", "-u"]);
        assert!(refused.contains("in use"), "{refused}");
        vhost.ctl(&["delete_queue", "q", "-e"]);
    }

    /// What was deleted does not come back with the next start.
    #[test]
    fn a_deletion_is_durable_when_it_is_said_to_be_done() {
        if elsewhere("a broker that can be killed") {
            return;
        }
        let broker = Broker::start(&[]);
        let channel = Client::to(&broker).channel(1);
        for queue in ["kept", "deleted"] {
            channel.queue(queue, "durable", table([]));
        }
        ctl_on(Some(&broker), &["delete_queue", "deleted"]);
        let broker = broker.crash_and_restart();
        let listed = ctl_on(Some(&broker), &["-q", "list_queues", "name"]);
        assert_eq!(listed, "name\nkept\n");
    }
}

mod node {
    use super::*;

    #[test]
    fn thresholds_raise_and_clear_alarms_at_once() {
        if elsewhere("a broker of our own") {
            return;
        }
        let broker = Broker::start(&[]);
        let on = Some(&broker);
        ctl_on(on, &["check_local_alarms"]);
        ctl_on(on, &["set_vm_memory_high_watermark", "0.0000001"]);
        let alarmed = || run(on, &["check_local_alarms"]).status.code() == Some(69);
        eventually("a memory alarm", alarmed);
        let refused = refused_on(on, 69, &["check_alarms"]);
        assert!(refused.contains("Memory alarm on node"), "{refused}");
        assert!(ctl_on(on, &["alarms"]).contains("Memory alarm on node"));
        let api = Api::new(broker.management, "guest", "guest");
        assert_eq!(api.get("/health/checks/alarms").status, 503);
        let limit = api.get("/nodes").json()[0]["mem_limit"].as_u64().unwrap();
        assert!(limit < 1_000_000, "{limit}");
        ctl_on(on, &["set_vm_memory_high_watermark", "absolute", "100GB"]);
        eventually("no alarm", || !alarmed());
        let limit = api.get("/nodes").json()[0]["mem_limit"].clone();
        assert_eq!(limit, 100_000_000_000_u64);
        let metric = broker.metric("rabbitmq_resident_memory_limit_bytes");
        assert_eq!(metric, Some(1e11));

        ctl_on(on, &["set_disk_free_limit", "9000000000000000"]);
        let disk = || ctl_on(on, &["alarms"]).contains("disk space alarm");
        eventually("a disk alarm", disk);
        ctl_on(on, &["set_disk_free_limit", "mem_relative", "0.000001"]);
        eventually("no alarm", || !alarmed());
        for bad in [
            &["set_vm_memory_high_watermark", "abc"][..],
            &["set_vm_memory_high_watermark", "1.5"],
            &["set_vm_memory_high_watermark", "absolute", "5parsecs"],
            &["set_disk_free_limit", "-1"],
        ] {
            refused_on(on, 65, bad);
        }
        refused_on(on, 64, &["set_vm_memory_high_watermark"]);
    }

    #[test]
    fn listeners_and_how_they_are_reached() {
        if elsewhere("a broker of our own") {
            return;
        }
        let broker = broker::shared();
        let port = broker.amqp.port().to_string();
        let ctl = |words: &[&str]| ctl_on(None, words);
        assert!(ctl(&["listeners"]).contains(&format!("port: {port}, protocol: amqp,")));
        let json: Value =
            serde_json::from_str(&ctl(&["listeners", "--formatter", "json"])).unwrap();
        let protocols: Vec<&str> = json["listeners"]
            .as_array()
            .unwrap()
            .iter()
            .map(|listener| listener["protocol"].as_str().unwrap())
            .collect();
        assert!(
            protocols.contains(&"amqp") && protocols.contains(&"http"),
            "{json}"
        );
        ctl(&["check_port_listener", &port]);
        ctl(&["check_protocol_listener", "amqp"]);
        ctl(&["check_port_connectivity"]);
        ctl(&["check_running"]);
        ctl(&["check_virtual_hosts"]);
        assert_eq!(ctl(&["-q", "server_version"]), ctl(&["-q", "version"]));
        let refused = refused_on(None, 69, &["check_port_listener", "1"]);
        assert!(refused.contains("No listener for port 1"), "{refused}");
        refused_on(None, 69, &["check_protocol_listener", "amqps"]);
        refused_on(None, 64, &["check_port_listener", "x"]);
    }

    #[test]
    fn waiting_for_start_and_end() {
        if elsewhere("a broker of our own") {
            return;
        }
        let mut broker = Broker::start(&[]);
        let pid = broker.pid().to_string();
        ctl_on(Some(&broker), &["await_startup"]);
        ctl_on(Some(&broker), &["wait", "--pid", &pid]);
        let file = broker.folder().join("pid");
        fs::write(&file, format!("{pid}\n")).unwrap();
        ctl_on(Some(&broker), &["wait", file.to_str().unwrap()]);
        ctl_on(Some(&broker), &["shutdown"]);
        assert!(broker.wait_for_exit().success());
        let late = refused_on(Some(&broker), 75, &["await_startup", "-t", "0.2"]);
        assert!(late.contains("did not start"), "{late}");
        let gone = refused_on(Some(&broker), 69, &["wait", "--pid", &pid]);
        assert!(gone.contains("is not running"), "{gone}");
        refused_on(Some(&broker), 69, &["stop"]);
    }
}

#[test]
fn forms_of_a_list() {
    let vhost = Vhost::new();
    let client = vhost.connect();
    client.channel(1).queue("q", "durable", table([]));
    let list = |form: &str| {
        vhost.ctl(&[
            "list_queues",
            "name",
            "messages",
            "durable",
            "--formatter",
            form,
        ])
    };
    assert_eq!(
        list("pretty_table"),
        "┌──────┬──────────┬─────────┐\n\
         │ name │ messages │ durable │\n\
         ├──────┼──────────┼─────────┤\n\
         │ q    │ 0        │ true    │\n\
         └──────┴──────────┴─────────┘\n"
    );
    assert_eq!(
        list("erlang"),
        "[[{name,<<\"q\">>},{messages,0},{durable,true}]]\n"
    );
    assert_eq!(
        list("string"),
        "[name: \"q\", messages: 0, durable: true]\n"
    );
    assert_eq!(
        list("json_stream"),
        "{\"name\":\"q\",\"messages\":0,\"durable\":true}\n"
    );
    vhost.refused(64, &["list_queues", "--formatter", "nice"]);
}
