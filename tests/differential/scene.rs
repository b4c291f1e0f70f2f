//! Plays a script and writes down what the broker answers.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use amq_protocol::{
    frame::{AMQPFrame, parse_frame},
    protocol::{AMQPClass, basic, channel, connection, queue},
    types::FieldTable,
};

use crate::support::{
    self, Client, Frame, Value, channel_close, channel_close_ok, channel_open,
    client::content_frames, confirm_select, exchange_declare, exchange_delete, frame, method_frame,
    queue_bind, queue_declare, queue_delete,
};

pub(crate) use amq_protocol::protocol::BasicProperties as Properties;

/// The channel that declares, publishes and gets.
const MAIN: u16 = 1;
/// How long something that comes by itself may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// One thing the broker said.
struct Said {
    channel: u16,
    what: What,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Answer,
    Delivery,
    Confirm,
    Closed,
}

/// A conversation under way.
pub(crate) struct Scene {
    title: &'static str,
    client: Client,
    lines: Vec<String>,
    said: VecDeque<Said>,
    open: BTreeSet<u16>,
    queues: BTreeSet<String>,
    exchanges: BTreeSet<String>,
    last_tag: u64,
}

impl Scene {
    fn begin(title: &'static str) -> Self {
        let mut scene = Self {
            title,
            client: Client::connect(),
            lines: Vec::new(),
            said: VecDeque::new(),
            open: BTreeSet::new(),
            queues: BTreeSet::new(),
            exchanges: BTreeSet::new(),
            last_tag: 0,
        };
        scene.open(MAIN);
        scene
    }

    /// The name on the wire of a queue or exchange of this scene.
    pub(crate) fn name(&self, short: &str) -> String {
        match short {
            "" => String::new(),
            short if short.starts_with("differential.") => short.to_owned(),
            short => format!("differential.{}.{short}", self.title),
        }
    }

    fn note(&mut self, line: &str) {
        let prefix = format!("differential.{}.", self.title);
        self.lines.push(line.replace(&prefix, ""));
    }

    fn open(&mut self, channel: u16) {
        if !self.open.insert(channel) {
            return;
        }
        self.client.send(channel, &channel_open());
        self.answer(channel);
        if channel == MAIN {
            self.client.send(channel, &confirm_select());
            self.answer(channel);
        }
    }

    /// Reads one method with what belongs to it.
    fn read(&mut self) {
        let raw = self.client.frame();
        let (channel, method) = match parsed(&raw) {
            AMQPFrame::Method(channel, method) => (channel, method),
            AMQPFrame::Heartbeat => return,
            other => panic!("{other:?}"),
        };
        let content = |client: &Client| {
            let header = client.frame().payload;
            let size = u64::from_be_bytes(header[4..12].try_into().unwrap());
            let mut body = Vec::new();
            while (body.len() as u64) < size {
                body.extend(client.frame().payload);
            }
            format!(
                "{} body {:?}",
                shown_properties(&header[12..]),
                String::from_utf8_lossy(&body)
            )
        };
        let (what, text) = match method {
            AMQPClass::Basic(basic::AMQPMethod::Deliver(it)) => (
                What::Delivery,
                format!(
                    "deliver to {} tag {} redelivered {} exchange {:?} key {:?}{}",
                    it.consumer_tag,
                    it.delivery_tag,
                    it.redelivered,
                    it.exchange.as_str(),
                    it.routing_key.as_str(),
                    content(&self.client)
                ),
            ),
            AMQPClass::Basic(basic::AMQPMethod::GetOk(it)) => {
                self.last_tag = it.delivery_tag;
                (
                    What::Answer,
                    format!(
                        "get-ok tag {} redelivered {} exchange {:?} key {:?} left {}{}",
                        it.delivery_tag,
                        it.redelivered,
                        it.exchange.as_str(),
                        it.routing_key.as_str(),
                        it.message_count,
                        content(&self.client)
                    ),
                )
            }
            AMQPClass::Basic(basic::AMQPMethod::GetEmpty(_)) => {
                (What::Answer, "get-empty".to_owned())
            }
            AMQPClass::Basic(basic::AMQPMethod::Ack(_)) => (What::Confirm, "ack".to_owned()),
            AMQPClass::Basic(basic::AMQPMethod::Nack(_)) => (What::Confirm, "nack".to_owned()),
            AMQPClass::Queue(queue::AMQPMethod::DeclareOk(it)) => (
                What::Answer,
                format!(
                    "declare-ok messages {} consumers {}",
                    it.message_count, it.consumer_count
                ),
            ),
            AMQPClass::Channel(channel::AMQPMethod::Close(it)) => (
                What::Closed,
                format!(
                    "channel closed: {} {:?} by method {}.{}",
                    it.reply_code,
                    it.reply_text.as_str(),
                    it.class_id,
                    it.method_id
                ),
            ),
            AMQPClass::Connection(connection::AMQPMethod::Close(it)) => (
                What::Closed,
                format!(
                    "connection closed: {} {:?} by method {}.{}",
                    it.reply_code,
                    it.reply_text.as_str(),
                    it.class_id,
                    it.method_id
                ),
            ),
            other => (What::Answer, name_of(&other)),
        };
        self.said.push_back(Said {
            channel,
            what,
            text,
        });
    }

    /// The next thing of this sort on a channel, or its end.
    fn next(&mut self, channel: u16, what: What) -> (What, String) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let fits = |said: &Said| {
                let ends = said.what == What::Closed && [0, channel].contains(&said.channel);
                ends || (said.channel == channel && said.what == what)
            };
            if let Some(at) = self.said.iter().position(fits) {
                let said = self.said.remove(at).unwrap();
                if said.what == What::Closed {
                    self.reopen(said.channel);
                }
                return (said.what, said.text);
            }
            assert!(Instant::now() < deadline, "nothing came: {:?}", self.lines);
            self.read();
        }
    }

    fn answer(&mut self, channel: u16) -> String {
        self.next(channel, What::Answer).1
    }

    /// After a channel or connection has been closed by the broker.
    fn reopen(&mut self, channel: u16) {
        if channel == 0 {
            self.client = Client::connect();
            self.open.clear();
        } else {
            self.client.send(channel, &channel_close_ok());
            self.open.remove(&channel);
        }
        self.said
            .retain(|said| channel != 0 && said.channel != channel);
        self.open(MAIN);
    }

    fn ask(&mut self, channel: u16, question: &str, method: &AMQPClass) -> String {
        self.open(channel);
        self.note(&format!("> {question}"));
        self.client.send(channel, method);
        let answer = self.answer(channel);
        self.note(&format!("  {answer}"));
        answer
    }

    /// A method without answer. What it leads to is over when a later one is answered.
    fn tell(&mut self, channel: u16, what: &str, method: &AMQPClass) {
        self.note(&format!("> {what}"));
        self.client.send(channel, method);
    }

    fn declared(&mut self, name: &str, flags: &str, arguments: &[(&str, Value)]) -> String {
        let full = self.name(name);
        if self.queues.insert(full.clone()) {
            // Of an earlier run that was cut short.
            self.client.send(MAIN, &queue_delete(&full, ""));
            self.answer(MAIN);
        }
        let arguments = table_of(arguments);
        let question = format!("queue {name} {flags} {}", shown_table(&arguments));
        self.ask(MAIN, &question, &queue_declare(&full, flags, arguments))
    }

    pub(crate) fn queue(&mut self, name: &str, arguments: &[(&str, Value)]) {
        self.declared(name, "durable", arguments);
    }

    pub(crate) fn durable_queue(&mut self, name: &str, arguments: &[(&str, Value)]) {
        self.declared(name, "durable", arguments);
    }

    /// Declares a queue and deletes it.
    pub(crate) fn try_queue(&mut self, name: &str, arguments: &[(&str, Value)]) {
        self.declared(name, "durable", arguments);
        let full = self.name(name);
        self.client.send(MAIN, &queue_delete(&full, ""));
        self.answer(MAIN);
    }

    pub(crate) fn declare_passively(&mut self, name: &str) {
        let full = self.name(name);
        let question = format!("queue {name} passive");
        self.ask(
            MAIN,
            &question,
            &queue_declare(&full, "passive", FieldTable::default()),
        );
    }

    pub(crate) fn exchange(&mut self, name: &str, kind: &str, arguments: &[(&str, Value)]) {
        let full = self.name(name);
        if self.exchanges.insert(full.clone()) {
            self.client.send(MAIN, &exchange_delete(&full, ""));
            self.answer(MAIN);
        }
        let arguments = table_of(arguments);
        let question = format!("exchange {name} {kind}");
        self.ask(
            MAIN,
            &question,
            &exchange_declare(&full, kind, "", arguments),
        );
    }

    pub(crate) fn bind(
        &mut self,
        queue: &str,
        exchange: &str,
        key: &str,
        arguments: &[(&str, Value)],
    ) {
        let arguments = table_of(arguments);
        let question = format!(
            "bind {queue} to {exchange} key {key:?} {}",
            shown_table(&arguments)
        );
        let method = queue_bind(&self.name(queue), &self.name(exchange), key, arguments);
        self.ask(MAIN, &question, &method);
    }

    /// Publishes, to a queue of this scene if the exchange is the default one, and waits for the confirm.
    pub(crate) fn publish(
        &mut self,
        exchange: &str,
        key: &str,
        properties: Properties,
        body: &str,
    ) {
        let on_wire = match exchange {
            "" => self.name(key),
            _ => key.to_owned(),
        };
        let exchange_name = self.name(exchange);
        let mut octets = method_frame(MAIN, &support::publish(&exchange_name, &on_wire, ""));
        let content = content_frames(MAIN, &properties, body.as_bytes(), 131_072);
        let shown = shown_properties(&header_of(&content)[12..]);
        octets.extend(content);
        self.note(&format!(
            "> publish {exchange:?} key {key:?}{shown} body {body:?}"
        ));
        self.client.raw(&octets);
        let (_, confirm) = self.next(MAIN, What::Confirm);
        self.note(&format!("  {confirm}"));
    }

    pub(crate) fn get(&mut self, queue: &str, flags: &str) -> bool {
        let method = support::get(&self.name(queue), flags);
        let answer = self.ask(MAIN, &format!("get {queue} {flags}"), &method);
        answer.starts_with("get-ok")
    }

    /// Gets all there is, which must end.
    pub(crate) fn drain(&mut self, queue: &str) {
        for _ in 0..100 {
            if !self.get(queue, "no_ack") {
                return;
            }
        }
        panic!("{queue} does not come to an end");
    }

    pub(crate) fn consume(
        &mut self,
        channel: u16,
        queue: &str,
        tag: &str,
        flags: &str,
        arguments: &[(&str, Value)],
    ) {
        let arguments = table_of(arguments);
        let question = format!(
            "consume {queue} as {tag} on channel {channel} {flags} {}",
            shown_table(&arguments)
        );
        let method = support::consume(&self.name(queue), tag, flags, arguments);
        self.ask(channel, &question, &method);
    }

    pub(crate) fn cancel(&mut self, channel: u16, tag: &str) {
        self.ask(channel, &format!("cancel {tag}"), &support::cancel(tag, ""));
    }

    pub(crate) fn qos(&mut self, channel: u16, count: u16) {
        self.ask(channel, &format!("qos {count}"), &support::qos(count, ""));
    }

    pub(crate) fn recover(&mut self, channel: u16) {
        self.ask(channel, "recover", &support::recover("requeue"));
    }

    pub(crate) fn deliveries(&mut self, channel: u16, count: usize) {
        self.note(&format!("deliveries on channel {channel}"));
        for _ in 0..count {
            let (_, delivery) = self.next(channel, What::Delivery);
            self.note(&format!("  {delivery}"));
        }
    }

    pub(crate) fn ack(&mut self, channel: u16, tag: u64, flags: &str) {
        self.settle(channel, "ack", tag, flags);
    }

    pub(crate) fn nack(&mut self, channel: u16, tag: u64, flags: &str) {
        self.settle(channel, "nack", tag, flags);
    }

    pub(crate) fn reject(&mut self, channel: u16, tag: u64, flags: &str) {
        self.settle(channel, "reject", tag, flags);
    }

    /// Settles what was got last.
    pub(crate) fn settle_last(&mut self, channel: u16, how: &str, flags: &str) {
        self.settle(channel, how, self.last_tag, flags);
    }

    fn settle(&mut self, channel: u16, how: &str, tag: u64, flags: &str) {
        let method = match how {
            "ack" => support::ack(tag, flags),
            "nack" => support::nack(tag, flags),
            _ => support::reject(tag, flags),
        };
        self.tell(channel, &format!("{how} {tag} {flags}"), &method);
    }

    pub(crate) fn close_channel(&mut self, channel: u16) {
        self.ask(
            channel,
            &format!("close channel {channel}"),
            &channel_close(),
        );
        self.open.remove(&channel);
        self.said.retain(|said| said.channel != channel);
    }

    /// Waits until a queue has so many messages.
    pub(crate) fn until_ready(&mut self, queue: &str, count: u32) {
        let full = self.name(queue);
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.client.send(
                MAIN,
                &queue_declare(&full, "passive", FieldTable::default()),
            );
            let (what, answer) = self.next(MAIN, What::Answer);
            if what == What::Closed || answer.contains(&format!("messages {count} ")) {
                self.note(&format!("until {queue} has {count}: {answer}"));
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{queue} has never {count} messages: {answer}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a queue has expired.
    pub(crate) fn until_gone(&mut self, queue: &str) {
        // Looking at it would keep it alive.
        std::thread::sleep(Duration::from_millis(400));
        self.declare_passively(queue);
    }

    fn end(mut self) -> Vec<String> {
        self.client = Client::connect();
        self.open.clear();
        self.said.clear();
        self.open(MAIN);
        for queue in std::mem::take(&mut self.queues) {
            self.client.send(MAIN, &queue_delete(&queue, ""));
            self.answer(MAIN);
        }
        for exchange in std::mem::take(&mut self.exchanges) {
            self.client.send(MAIN, &exchange_delete(&exchange, ""));
            self.answer(MAIN);
        }
        self.lines
    }
}

fn parsed(raw: &Frame) -> AMQPFrame {
    let octets = frame(raw.kind, raw.channel, &raw.payload);
    parse_frame(&octets[..]).unwrap().1
}

/// An answer that says little else than that.
fn name_of(method: &AMQPClass) -> String {
    match method {
        AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(it)) => {
            format!("consume-ok {}", it.consumer_tag)
        }
        AMQPClass::Basic(basic::AMQPMethod::Cancel(it)) => {
            format!("cancelled by the broker: {}", it.consumer_tag)
        }
        other => {
            let text = format!("{other:?}");
            assert!(text.contains("Ok"), "{text}");
            "ok".to_owned()
        }
    }
}

fn table_of(arguments: &[(&str, Value)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in arguments {
        table.insert((*key).into(), value.clone());
    }
    table
}

/// The payload of the first frame of a content.
fn header_of(content: &[u8]) -> &[u8] {
    let size = u32::from_be_bytes(content[3..7].try_into().unwrap());
    &content[7..7 + usize::try_from(size).unwrap()]
}

fn shown_table(table: &FieldTable) -> String {
    let properties = Properties::default().with_headers(table.clone());
    let content = content_frames(1, &properties, b"", 131_072);
    // Flags and the table's length stand before its octets.
    shown_entries(&header_of(&content)[12 + 2 + 4..])
}

/// Properties in the order of the wire.
fn shown_properties(octets: &[u8]) -> String {
    const NAMES: [&str; 14] = [
        "content-type",
        "content-encoding",
        "headers",
        "delivery-mode",
        "priority",
        "correlation-id",
        "reply-to",
        "expiration",
        "message-id",
        "timestamp",
        "type",
        "user-id",
        "app-id",
        "cluster-id",
    ];
    let flags = u16::from_be_bytes([octets[0], octets[1]]);
    let mut rest = &octets[2..];
    let mut shown = String::new();
    for (at, name) in NAMES.iter().enumerate() {
        if flags & (0x8000 >> at) == 0 {
            continue;
        }
        let value = match *name {
            "headers" => shown_entries(long(&mut rest)),
            "delivery-mode" | "priority" => take(&mut rest, 1)[0].to_string(),
            "timestamp" => number(take(&mut rest, 8)).to_string(),
            _ => format!("{:?}", String::from_utf8_lossy(short(&mut rest))),
        };
        write!(shown, " {name} {value}").unwrap();
    }
    assert!(rest.is_empty());
    shown
}

/// A table's entries in the order of the wire, each value with its tag.
fn shown_entries(mut octets: &[u8]) -> String {
    let mut entries = Vec::new();
    while !octets.is_empty() {
        let name = String::from_utf8_lossy(short(&mut octets)).into_owned();
        let value = shown_value(&mut octets, &name);
        entries.push(format!("{name}: {value}"));
    }
    format!("{{{}}}", entries.join(", "))
}

fn shown_value(octets: &mut &[u8], name: &str) -> String {
    let tag = char::from(take(octets, 1)[0]);
    let value = match tag {
        'S' => format!("{:?}", String::from_utf8_lossy(long(octets))),
        'F' => shown_entries(long(octets)),
        'A' => {
            let mut items = Vec::new();
            let mut rest = long(octets);
            while !rest.is_empty() {
                items.push(shown_value(&mut rest, name));
            }
            format!("[{}]", items.join(", "))
        }
        't' | 'b' | 'B' => number(take(octets, 1)).to_string(),
        's' | 'u' => number(take(octets, 2)).to_string(),
        'I' => i32::from_be_bytes(take(octets, 4).try_into().unwrap()).to_string(),
        'i' | 'f' => number(take(octets, 4)).to_string(),
        'd' => f64::from_be_bytes(take(octets, 8).try_into().unwrap()).to_string(),
        'l' => i64::from_be_bytes(take(octets, 8).try_into().unwrap()).to_string(),
        // Times differ from run to run.
        'T' => {
            take(octets, 8);
            "*".to_owned()
        }
        'V' => String::new(),
        other => panic!("value with tag {other:?} in {name}"),
    };
    format!("{tag}{value}")
}

fn take<'a>(octets: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = octets.split_at(count);
    *octets = rest;
    taken
}

fn number(octets: &[u8]) -> u64 {
    octets
        .iter()
        .fold(0, |sum, octet| sum << 8 | u64::from(*octet))
}

fn short<'a>(octets: &mut &'a [u8]) -> &'a [u8] {
    let len = number(take(octets, 1));
    take(octets, usize::try_from(len).unwrap())
}

fn long<'a>(octets: &mut &'a [u8]) -> &'a [u8] {
    let len = number(take(octets, 4));
    take(octets, usize::try_from(len).unwrap())
}

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "differential"]
        .iter()
        .collect()
}

/// What is different on purpose: an answer of the reference to certain questions, and ours; `None` where we say nothing.
struct Difference {
    /// What the question contains.
    asked: String,
    reference: String,
    ours: Option<String>,
}

fn differences(title: &str) -> Vec<Difference> {
    let text = std::fs::read_to_string(folder().join("differences.txt")).unwrap();
    let mut found = Vec::new();
    for block in text.split("\n\n") {
        let field = |name: &str| {
            let start = format!("{name}: ");
            let line = block.lines().find_map(|line| line.strip_prefix(&start));
            line.map(str::to_owned)
        };
        let Some(scene) = field("scene") else {
            continue;
        };
        assert!(
            field("reason").is_some(),
            "a difference without a reason: {block}"
        );
        if scene == title {
            found.push(Difference {
                asked: field("asked").unwrap_or_default(),
                reference: field("reference").unwrap(),
                ours: field("ours"),
            });
        }
    }
    found
}

/// Plays a scene and compares, or writes the transcript.
pub(crate) fn play(title: &'static str, script: fn(&mut Scene)) {
    let path = folder().join(format!("{title}.txt"));
    let mut scene = Scene::begin(title);
    script(&mut scene);
    let lines = scene.end();
    if std::env::var_os("MAMBAMQ_RECORD").is_some() {
        assert!(
            support::url().is_some(),
            "record the reference broker: set MAMBAMQ_TEST_URL"
        );
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        return;
    }
    let recorded = std::fs::read_to_string(&path).unwrap();
    let mut expected: Vec<Option<String>> =
        recorded.lines().map(|line| Some(line.to_owned())).collect();
    if support::url().is_none() {
        for difference in differences(title) {
            let mut used = false;
            let mut asked = false;
            for line in &mut expected {
                let Some(text) = line else { continue };
                if text.starts_with('>') {
                    asked = text.contains(&difference.asked);
                }
                if asked && text.trim_start() == difference.reference {
                    let indent = &text[..text.len() - text.trim_start().len()];
                    *line = difference
                        .ours
                        .as_ref()
                        .map(|ours| format!("{indent}{ours}"));
                    used = true;
                }
            }
            assert!(
                used,
                "the reference does not say so any more: {}",
                difference.reference
            );
        }
    }
    let expected: Vec<String> = expected.into_iter().flatten().collect();
    let mut report = String::new();
    let mut question = "";
    for at in 0..lines.len().max(expected.len()) {
        let line = |lines: &[String]| {
            lines
                .get(at)
                .cloned()
                .unwrap_or_else(|| "(nothing)".to_owned())
        };
        let (ours, theirs) = (line(&lines), line(&expected));
        if ours != theirs {
            writeln!(report, "{question}\n- {}\n+ {}", theirs.trim(), ours.trim()).unwrap();
        } else if ours.starts_with('>') {
            question = &lines[at];
        }
    }
    assert!(
        report.is_empty(),
        "{title}: expected (-) and said (+)\n{report}"
    );
}

/// One test per scene.
macro_rules! scenes {
    ($($scene:ident),* $(,)?) => {
        mod played {
            $(#[test] fn $scene() { crate::scene::play(stringify!($scene), super::$scene); })*
        }
    };
}

pub(crate) use scenes;
