//! The same HTTP calls with MambaMQ and with the reference broker, compared key by key.
//!
//! A scene is a file `tests/http-reference/SCENE.txt`: questions, and below each what the reference broker answers, one line per key
//! of the document. What is different stands in `tests/http-reference/differences.txt` with its reason; everything else has to be
//! equal. See `tests/http-reference/README.md`.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test's helpers may unwrap like the test"
)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    net::SocketAddr,
    path::PathBuf,
    thread,
    time::Duration,
};

use serde_json::Value;
use support::{
    Broker, Client, Options, array, boolean,
    ctl::leaked,
    eventually, headers,
    http::{Answer, Api},
    int, long, table, text,
};

/// What differs from run to run, from machine to machine, or is a matter of taste: only its type is compared.
const MASKED: &[&str] = &[
    "rate",
    "avg",
    "avg_rate",
    "memory",
    "reductions",
    "connected_at",
    "idle_since",
    "peer_port",
    "port",
    "garbage_collection",
    "password_hash",
    "ok",
    "pid",
    "uptime",
    "timestamp",
    "recv_oct",
    "send_oct",
    "recv_cnt",
    "send_cnt",
    "send_pend",
    "os_pid",
    "missing",
    "message_bytes_ram",
    "product_version",
    "version",
    "rabbitmq_version",
    "erlang_version",
    "management_version",
    "cluster_name",
    "platform",
];

/// How long the reference broker may take to gather its statistics.
const STATISTICS: Duration = Duration::from_secs(11);

/// One question of a scene.
#[derive(Clone, Debug)]
struct Question {
    /// The line as it stands in the file.
    line: String,
    /// What the reference answered: key and value, in order.
    answer: Vec<(String, String)>,
}

/// One line of a scene.
#[derive(Clone, Debug)]
enum Line {
    Remark(String),
    /// `! …`: something done over AMQP.
    Deed(String),
    Question(Question),
}

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "http-reference"]
        .iter()
        .collect()
}

fn read(title: &str) -> Vec<Line> {
    let text = std::fs::read_to_string(folder().join(format!("{title}.txt"))).unwrap();
    let mut lines: Vec<Line> = Vec::new();
    for line in text.lines() {
        if line.starts_with(['>', '~', '*']) {
            lines.push(Line::Question(Question {
                line: line.to_owned(),
                answer: Vec::new(),
            }));
        } else if line.starts_with('!') {
            lines.push(Line::Deed(line.to_owned()));
        } else if let Some(found) = line.strip_prefix("  ") {
            let Some(Line::Question(question)) = lines.last_mut() else {
                panic!("{title}: an answer without a question: {line}");
            };
            let (key, value) = found.split_once(": ").unwrap();
            question.answer.push((key.to_owned(), value.to_owned()));
        } else {
            lines.push(Line::Remark(line.to_owned()));
        }
    }
    lines
}

/// A broker that answers a scene's questions.
struct Answering {
    vhost: String,
    node: String,
    http: SocketAddr,
    amqp: SocketAddr,
    /// Kept until the scene ends.
    own: Option<Broker>,
    clients: Vec<Client>,
}

/// The other broker's management API, `MAMBAMQ_TEST_HTTP=HOST:PORT` beside `MAMBAMQ_TEST_URL`.
fn other() -> Option<(SocketAddr, SocketAddr)> {
    let amqp = support::url()?;
    let http = std::env::var("MAMBAMQ_TEST_HTTP").expect("MAMBAMQ_TEST_HTTP=HOST:PORT");
    Some((http.parse().unwrap(), amqp))
}

impl Answering {
    fn begin(title: &str) -> Self {
        let (own, http, amqp) = match other() {
            Some((http, amqp)) => (None, http, amqp),
            None => {
                let broker = Broker::start(&[]);
                let (http, amqp) = (broker.management, broker.amqp);
                (Some(broker), http, amqp)
            }
        };
        let api = Api::new(http, "guest", "guest");
        let node = api.get("/overview?columns=node").json()["node"].clone();
        let answering = Self {
            vhost: format!("http-{title}"),
            node: node.as_str().unwrap().to_owned(),
            http,
            amqp,
            own,
            clients: Vec::new(),
        };
        answering.clear();
        let made = api.put(&format!("/vhosts/{}", answering.vhost), "{}");
        assert_eq!(made.status, 201, "{made:?}");
        answering
    }

    /// Deletes what a scene makes: its virtual host, and users whose names begin like it.
    fn clear(&self) {
        let api = Api::new(self.http, "guest", "guest");
        for kind in ["vhosts", "users"] {
            for one in api.get(&format!("/{kind}")).json().as_array().unwrap() {
                let name = one["name"].as_str().unwrap();
                let rest = name.strip_prefix(&self.vhost);
                if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-')) {
                    api.delete(&format!("/{kind}/{name}"));
                }
            }
        }
    }

    fn end(mut self) {
        for client in self.clients.drain(..) {
            client.vanish();
        }
        self.clear();
    }

    /// The names that stand for others in questions.
    fn expanded(&self, line: &str) -> String {
        line.replace("{V}", &self.vhost)
            .replace("{node}", &self.node)
    }

    fn ask(&self, line: &str) -> Vec<(String, String)> {
        let line = self.expanded(line);
        let (mark, rest) = line.split_at(1);
        let mut rest = rest.trim_start();
        let mut api = Api::new(self.http, "guest", "guest");
        if !rest.starts_with(|c: char| c.is_ascii_uppercase()) {
            let (who, behind) = rest.split_once(' ').unwrap();
            api = match who.split_once(':') {
                Some((name, password)) => Api::new(self.http, name, password),
                None => Api::anonymous(self.http),
            };
            rest = behind;
        }
        let mut words = rest.splitn(3, ' ');
        let (verb, path) = (words.next().unwrap(), words.next().unwrap());
        let body = words.next().unwrap_or_default();
        let headers: &[(&str, &str)] = if body.is_empty() {
            &[]
        } else {
            &[("content-type", "application/json")]
        };
        let path = self.with_connection(path);
        let answer = api.request(verb, &path, headers, body.as_bytes());
        self.shown(mark, &answer)
    }

    /// `{connection}` is the name of the scene's connection.
    fn with_connection(&self, path: &str) -> String {
        if !path.contains("{connection}") {
            return path.to_owned();
        }
        let api = Api::new(self.http, "guest", "guest");
        let listed = format!("/vhosts/{}/connections?columns=name", self.vhost);
        let mut name = String::new();
        eventually("the connection is listed", || {
            let found = api.get(&listed).json();
            found[0]["name"]
                .as_str()
                .map(str::to_owned)
                .is_some_and(|found| {
                    name = found.replace(' ', "%20").replace('>', "%3E");
                    true
                })
        });
        path.replace("{connection}", &name)
    }

    fn shown(&self, mark: &str, answer: &Answer) -> Vec<(String, String)> {
        let mut lines = vec![("status".to_owned(), answer.status.to_string())];
        for name in ["content-type", "location", "www-authenticate", "allow"] {
            if let Some(value) = answer.header(name) {
                lines.push((name.to_owned(), self.masked(value)));
            }
        }
        if answer.body.is_empty() {
            return lines;
        }
        let Ok(mut document) = serde_json::from_str::<Value>(&answer.body) else {
            lines.push((
                "body".to_owned(),
                format!("{:?}", self.masked(&answer.body)),
            ));
            return lines;
        };
        if mark == "*"
            && let Some(items) = document.as_array_mut()
        {
            items.sort_by_key(Value::to_string);
        }
        let mut keys = BTreeMap::new();
        self.flatten(&document, "$", mark == "~", &mut keys);
        for (key, values) in keys {
            let values: Vec<String> = values.into_iter().collect();
            lines.push((key, values.join(" | ")));
        }
        lines
    }

    /// What belongs to this broker only.
    fn masked(&self, text: &str) -> String {
        let mut shown = text
            .replace(&self.node, "{node}")
            .replace(&self.http.to_string(), "{http}")
            .replace(&self.amqp.to_string(), "{amqp}");
        // Ports of clients.
        while let Some(at) = shown.find("127.0.0.1:") {
            let behind = &shown[at + 10..];
            let digits = behind.len()
                - behind
                    .trim_start_matches(|c: char| c.is_ascii_digit())
                    .len();
            shown.replace_range(at..at + 10 + digits, "{peer}");
        }
        shown
    }

    /// One entry per leaf. With `shape`, only types; items of lists are one.
    fn flatten(
        &self,
        value: &Value,
        key: &str,
        shape: bool,
        found: &mut BTreeMap<String, BTreeSet<String>>,
    ) {
        let mut add = |text: String| {
            found.entry(key.to_owned()).or_default().insert(text);
        };
        let last = key.rsplit(['.', '[']).next().unwrap_or_default();
        let masked = MASKED.contains(&last);
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        match value {
            _ if masked => add(kind.to_owned()),
            Value::Array(items) if items.is_empty() => add("[]".to_owned()),
            Value::Object(fields) if fields.is_empty() => add("{}".to_owned()),
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    let at = if shape { String::new() } else { at.to_string() };
                    self.flatten(item, &format!("{key}[{at}]"), shape, found);
                }
            }
            Value::Object(fields) => {
                for (name, item) in fields {
                    self.flatten(item, &format!("{key}.{}", self.masked(name)), shape, found);
                }
            }
            _ if shape => add(kind.to_owned()),
            other => add(self.masked(&other.to_string())),
        }
    }

    /// Something over AMQP.
    fn act(&mut self, line: &str) {
        let line = self.expanded(line);
        let words: Vec<&str> = line.split(' ').skip(1).collect();
        let connected = || {
            Client::with(&Options {
                address: Some(self.amqp),
                virtual_host: leaked(self.vhost.clone()),
                ..Options::default()
            })
        };
        match words.as_slice() {
            ["statistics"] => {
                if self.own.is_none() {
                    thread::sleep(STATISTICS);
                }
            }
            ["consume", queue, deliveries] => {
                let client = connected();
                let channel = client.channel(1);
                channel.call(&support::qos(5, ""));
                channel.consume(queue, "tag", "");
                for _ in 0..deliveries.parse().unwrap() {
                    channel.delivery();
                }
                self.clients.push(client);
            }
            ["publish", exchange, key, body] => {
                let client = connected();
                let channel = client.channel(1);
                channel.call(&support::confirm_select());
                let properties = headers([
                    ("long", long(1)),
                    ("text", text("x")),
                    ("flag", boolean(true)),
                    ("list", array(vec![int(1), text("two")])),
                    ("table", support::Value::FieldTable(table([("a", int(1))]))),
                ])
                .with_content_type("text/plain".into())
                .with_delivery_mode(2)
                .with_priority(3);
                channel.publish_with(exchange, key, "", &properties, body);
                channel.confirms(1, 1);
                client.close();
            }
            ["exclusive", queue] => {
                let client = connected();
                client.channel(1).queue(queue, "exclusive", table([]));
                self.clients.push(client);
            }
            ["disconnect"] => self.clients.drain(..).for_each(Client::vanish),
            _ => panic!("no such deed: {line}"),
        }
    }
}

/// Differences with one reason.
#[derive(Debug)]
struct Difference {
    scene: String,
    /// What the question contains.
    asked: String,
    /// The keys, with `*` for anything.
    keys: Vec<String>,
    /// What the reference says; `None`: it does not have the key.
    reference: Option<String>,
    ours: Option<String>,
    /// It is about to go: it need not occur any more.
    passing: bool,
}

fn differences() -> Vec<Difference> {
    let text = std::fs::read_to_string(folder().join("differences.txt")).unwrap();
    let blocks = text.split("\n\n").filter(|block| block.contains("keys: "));
    let read = |block: &str| {
        let field = |name: &str| {
            let start = format!("{name}: ");
            let line = block.lines().find_map(|line| line.strip_prefix(&start));
            line.map(str::to_owned)
        };
        let reason =
            field("reason").unwrap_or_else(|| panic!("a difference without a reason: {block}"));
        Difference {
            scene: field("scene").unwrap_or_else(|| "*".to_owned()),
            asked: field("asked").unwrap_or_default(),
            keys: field("keys")
                .unwrap()
                .split(' ')
                .map(str::to_owned)
                .collect(),
            reference: field("reference"),
            ours: field("ours"),
            passing: reason.starts_with("not yet"),
        }
    };
    blocks.map(read).collect()
}

/// Whether a text fits a pattern in which `*` is anything.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|behind| {
            (0..=behind.len())
                .filter(|at| behind.is_char_boundary(*at))
                .any(|at| fits(rest, &behind[at..]))
        }),
    }
}

impl Difference {
    fn value_fits(pattern: Option<&str>, value: Option<&str>) -> bool {
        match (pattern, value) {
            (None, None) => true,
            (Some(pattern), Some(value)) => fits(pattern, value),
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    fn explains(
        &self,
        question: &str,
        key: &str,
        reference: Option<&str>,
        ours: Option<&str>,
    ) -> bool {
        question.contains(&self.asked)
            && self.keys.iter().any(|pattern| fits(pattern, key))
            && Self::value_fits(self.reference.as_deref(), reference)
            && (self.passing || Self::value_fits(self.ours.as_deref(), ours))
    }
}

/// Plays a scene and compares, or writes what was answered.
fn play(title: &str) {
    let lines = read(title);
    let mut answering = Answering::begin(title);
    let mut answers: Vec<Vec<(String, String)>> = Vec::new();
    for line in &lines {
        match line {
            Line::Remark(_) => {}
            Line::Deed(line) => answering.act(line),
            Line::Question(question) => answers.push(answering.ask(&question.line)),
        }
    }
    let elsewhere = answering.own.is_none();
    answering.end();
    let mut answers = answers.into_iter();
    if std::env::var_os("MAMBAMQ_RECORD").is_some() {
        assert!(
            elsewhere,
            "record the reference broker: set MAMBAMQ_TEST_URL"
        );
        let mut text = String::new();
        for line in &lines {
            match line {
                Line::Remark(line) | Line::Deed(line) => writeln!(text, "{line}").unwrap(),
                Line::Question(question) => {
                    writeln!(text, "{}", question.line).unwrap();
                    for (key, value) in answers.next().unwrap() {
                        writeln!(text, "  {key}: {value}").unwrap();
                    }
                }
            }
        }
        std::fs::write(folder().join(format!("{title}.txt")), text).unwrap();
        return;
    }
    let known = if elsewhere { Vec::new() } else { differences() };
    let mut used = vec![false; known.len()];
    let mut report = String::new();
    for line in &lines {
        let Line::Question(question) = line else {
            continue;
        };
        let reference: BTreeMap<String, String> = question.answer.iter().cloned().collect();
        let ours: BTreeMap<String, String> = answers.next().unwrap().into_iter().collect();
        let keys: BTreeSet<&String> = reference.keys().chain(ours.keys()).collect();
        let mut heading = Some(&question.line);
        if reference["status"] == "500" {
            // What breaks the reference is not compared.
            let status = &ours["status"];
            let answered = status.starts_with(['2', '4']);
            assert!(answered, "{title}: {}: {status}", question.line);
            continue;
        }
        for key in keys {
            let (theirs, own) = (reference.get(key), ours.get(key));
            if theirs == own {
                continue;
            }
            let (theirs, own) = (theirs.map(String::as_str), own.map(String::as_str));
            let explains = |one: &Difference| {
                fits(&one.scene, title) && one.explains(&question.line, key, theirs, own)
            };
            if let Some(at) = known.iter().position(explains) {
                used[at] = true;
                continue;
            }
            if let Some(heading) = heading.take() {
                writeln!(report, "{heading}").unwrap();
            }
            if let Some(theirs) = theirs {
                writeln!(report, "- {key}: {theirs}").unwrap();
            }
            if let Some(own) = own {
                writeln!(report, "+ {key}: {own}").unwrap();
            }
        }
    }
    for (one, used) in known.iter().zip(used) {
        let gone = one.scene == title && !used && !one.passing;
        if gone {
            writeln!(report, "a difference that is no more: {one:?}").unwrap();
        }
    }
    assert!(
        report.is_empty(),
        "{title}: expected (-) and answered (+)\n{report}"
    );
}

/// One test per scene.
macro_rules! scenes {
    ($($scene:ident),* $(,)?) => {
        $(#[test] fn $scene() { play(stringify!($scene)); })*

        #[test]
        fn every_scene_is_played() {
            let mut played = vec![$(concat!(stringify!($scene), ".txt")),*];
            played.push("differences.txt");
            for entry in std::fs::read_dir(folder()).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(name == "README.md" || played.contains(&name.as_str()), "{name}");
            }
        }
    };
}

scenes!(
    access,
    bindings,
    connections,
    exchanges,
    lists,
    messages,
    node,
    parameters,
    policies,
    queues,
    requests,
    users,
    vhosts,
);
