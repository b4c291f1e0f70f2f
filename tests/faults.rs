//! What goes wrong around the broker: full disks, missing permissions, damaged and foreign files.
//!
//! Each has a defined answer. Either the broker starts and says what it met, or it refuses with exit code 1 and says what happened, what
//! it expected and what to do. It never confirms what it cannot keep, and never takes another's files for its own.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(
    clippy::disallowed_methods,
    reason = "a failing test is bounded by the clock"
)]
#![allow(clippy::print_stdout, reason = "what was skipped or run is said")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use amq_protocol::protocol::{AMQPClass, basic, connection};
use support::*;

/// How long anything here may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A broker with small log files on a folder of its own.
struct Node {
    folder: PathBuf,
    flags: Vec<String>,
}

impl Node {
    fn new() -> Self {
        Self::on(broker::fresh_folder(), "")
    }

    /// On this folder, with further lines in its configuration.
    fn on(folder: PathBuf, settings: &str) -> Self {
        let config = folder.with_extension("toml");
        fs::write(
            &config,
            format!("[store]\nlog_file_size = \"1MiB\"\n{settings}"),
        )
        .unwrap();
        Self {
            folder,
            flags: vec!["--config".to_owned(), config.to_str().unwrap().to_owned()],
        }
    }

    fn try_start(&self) -> Result<Broker, broker::Refusal> {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        Broker::try_start_on(self.folder.clone(), &flags)
    }

    #[track_caller]
    fn start(&self) -> Broker {
        self.try_start()
            .unwrap_or_else(|refusal| panic!("{}: {}", refusal.status, refusal.text))
    }

    /// The broker refuses to start, with exit code 1, and says each of these words.
    #[track_caller]
    fn refuses(&self, words: &[&str]) -> String {
        match self.try_start() {
            Ok(broker) => panic!("it started:\n{}", broker.log()),
            Err(refusal) => {
                assert_eq!(refusal.status.code(), Some(1), "{}", refusal.text);
                says(&refusal.text, words);
                assert!(!refusal.text.contains("panicked"), "{}", refusal.text);
                refusal.text
            }
        }
    }

    fn log_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.folder.join("log"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|ending| ending == "log"))
            .collect();
        files.sort();
        files
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
            let _ = fs::remove_file(self.folder.with_extension("toml"));
            let _ = fs::remove_file(self.folder.with_extension("log"));
        }
    }
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in:\n{text}");
    }
}

fn elsewhere() -> bool {
    support::elsewhere("the broker there is not ours")
}

/// A body that names its number and cannot be confused with the log's own octets.
fn numbered(number: usize, size: usize) -> Vec<u8> {
    let mut body = format!("message {number:06} ").into_bytes();
    body.resize(size.max(body.len()), b'.');
    body
}

fn number_of(body: &[u8]) -> usize {
    let digits = std::str::from_utf8(&body[8..14]).unwrap();
    let number: usize = digits.parse().unwrap();
    assert_eq!(body, numbered(number, body.len()), "message {number}");
    number
}

/// Confirmed messages 0..count in the durable queue `q`, each in an entry of its own; the broker ends by SIGKILL.
fn filled(count: usize, size: usize) -> Node {
    let node = Node::new();
    let broker = node.start();
    let client = Client::to(&broker);
    client.channel(1).queue("q", "durable", table([]));
    for number in 0..count {
        client.put_persistent("q", numbered(number, size));
    }
    broker.kill();
    node
}

/// The numbers of everything in `q`, in order of delivery.
fn drained(broker: &Broker) -> Vec<usize> {
    let client = Client::to(broker);
    let channel = client.channel(1);
    std::iter::from_fn(|| channel.get("q", "no_ack"))
        .map(|content| number_of(&content.body))
        .collect()
}

/// Starts, holds exactly these messages, takes new ones, and they are there after another crash.
#[track_caller]
fn goes_on(node: &Node, expected: &[usize]) -> String {
    let before = fs::read_to_string(node.folder.with_extension("log"))
        .unwrap_or_default()
        .len();
    let broker = node.start();
    assert_eq!(drained(&broker), expected);
    Client::to(&broker).put_persistent("q", numbered(999_999, 100));
    let text = broker.log().split_off(before);
    assert!(!text.contains("panicked"), "{text}");
    broker.kill();
    let broker = node.start();
    assert_eq!(drained(&broker), [999_999]);
    broker.kill();
    text
}

/// Octets of a file, changed in place.
fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut octets = fs::read(path).unwrap();
    change(&mut octets);
    fs::write(path, octets).unwrap();
}

fn find(octets: &[u8], what: &[u8]) -> Option<usize> {
    octets.windows(what.len()).position(|window| window == what)
}

/// Where the entries of a log file begin, with their kinds (docs/storage.md).
fn entries(octets: &[u8]) -> Vec<(usize, u8)> {
    octets
        .windows(10)
        .enumerate()
        .filter(|(_, window)| window[..4] == *b"\xabMQ\x1e")
        .map(|(at, window)| (at, window[9]))
        .collect()
}

const MESSAGES: u8 = 1;
const ENQUEUED: u8 = 2;

/// A file system of its own for one test, unmounted at its end.
struct Mount(PathBuf);

impl Mount {
    /// `None` where mounting is not permitted.
    fn new(mebibytes: u32) -> Option<Self> {
        let folder = broker::fresh_folder();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m,mode=755")])
            .arg("mambamq-test")
            .arg(&folder)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if mounted {
            Some(Self(folder))
        } else {
            println!("skipped: mounting a tmpfs is not permitted here; it takes root");
            let _ = fs::remove_dir(&folder);
            None
        }
    }

    fn folder(&self) -> PathBuf {
        self.0.clone()
    }

    fn remount(&self, how: &str) {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,{how}")])
            .arg(&self.0)
            .status()
            .unwrap();
        assert!(status.success(), "remount {how}");
    }

    /// Takes up this much of the file system, or all that is left.
    fn ballast(&self, mebibytes: Option<usize>) {
        use std::io::Write;
        let mut file = fs::File::create(self.0.join(".ballast")).unwrap();
        let chunk = vec![0x55; 4096];
        for _ in 0..mebibytes.map_or(1 << 20, |mebibytes| mebibytes * 256) {
            if file.write_all(&chunk).is_err() {
                return;
            }
        }
    }

    fn drop_ballast(&self) {
        fs::remove_file(self.0.join(".ballast")).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
        let _ = fs::remove_file(self.0.with_extension("log"));
        let _ = fs::remove_file(self.0.with_extension("toml"));
    }
}

/// The file systems of these tests are smaller than the usual limit of the disk alarm.
const NO_ALARM: &str = "[alarms]\ndisk_free_limit = 0\n";

mod full_disk {
    use super::*;

    /// Publishes with a window until the broker takes no more.
    struct Publisher {
        client: Client,
        channel: Channel,
        published: usize,
        /// By number; `Some(true)` for basic.ack.
        settled: Vec<Option<bool>>,
        blocked: bool,
    }

    impl Publisher {
        fn new(broker: &Broker) -> Self {
            let client = Client::to(broker);
            let channel = client.channel(1);
            channel.queue("q", "durable", table([]));
            channel.call(&confirm_select());
            Self {
                client,
                channel,
                published: 0,
                settled: Vec::new(),
                blocked: false,
            }
        }

        fn outstanding(&self) -> usize {
            self.settled.iter().filter(|one| one.is_none()).count()
        }

        fn publish(&mut self, size: usize) {
            self.channel
                .publish_with("", "q", "", &persistent(), numbered(self.published, size));
            self.published += 1;
            self.settled.push(None);
        }

        /// Takes what comes within this time; false if nothing did.
        fn hear(&mut self, patience: Duration) -> bool {
            let mut heard = false;
            while let Ok(Event::Method(method)) = self.client.try_take(0, Duration::ZERO, |_| true)
            {
                heard = true;
                match method {
                    AMQPClass::Connection(connection::AMQPMethod::Blocked(_)) => {
                        self.blocked = true;
                    }
                    AMQPClass::Connection(connection::AMQPMethod::Unblocked(_)) => {
                        self.blocked = false;
                    }
                    other => panic!("{other:?}"),
                }
            }
            if heard {
                return true;
            }
            match self.client.try_take(1, patience, |_| true) {
                Ok(Event::Method(AMQPClass::Basic(basic::AMQPMethod::Ack(ack)))) => {
                    self.settle(ack.delivery_tag, ack.multiple, true);
                    true
                }
                Ok(Event::Method(AMQPClass::Basic(basic::AMQPMethod::Nack(nack)))) => {
                    self.settle(nack.delivery_tag, nack.multiple, false);
                    true
                }
                Ok(other) => panic!("a confirm was due: {other:?}"),
                Err(Silence::Timeout) => false,
                Err(Silence::Closed) => panic!("the broker closed the connection"),
            }
        }

        fn settle(&mut self, tag: u64, multiple: bool, accepted: bool) {
            let last = usize::try_from(tag).unwrap();
            let first = if multiple { 0 } else { last - 1 };
            for one in &mut self.settled[first..last] {
                one.get_or_insert(accepted);
            }
        }

        /// Until the broker blocks, or nacks.
        fn fill(&mut self, size: usize) {
            let deadline = std::time::Instant::now() + PATIENCE;
            while !self.blocked && !self.settled.contains(&Some(false)) {
                assert!(
                    std::time::Instant::now() < deadline && self.published < 2000,
                    "{} published, {} outstanding, and neither connection.blocked nor basic.nack",
                    self.published,
                    self.outstanding()
                );
                if self.outstanding() < 8 {
                    self.publish(size);
                }
                let full = self.outstanding() >= 8;
                let heard = self.hear(Duration::from_millis(if full { 200 } else { 0 }));
                if full && !heard {
                    // A connection is told that it is blocked when it publishes.
                    self.publish(100);
                }
            }
        }

        /// Until everything is settled and the broker takes more.
        fn resumes(&mut self) {
            let deadline = std::time::Instant::now() + PATIENCE;
            while self.outstanding() > 0 || self.blocked {
                assert!(
                    std::time::Instant::now() < deadline,
                    "{} outstanding, blocked: {}: the broker does not resume",
                    self.outstanding(),
                    self.blocked
                );
                self.hear(Duration::from_millis(200));
            }
            for _ in 0..20 {
                self.publish(1000);
            }
            while self.outstanding() > 0 {
                assert!(self.hear(PATIENCE), "no confirm after the disk had space");
            }
        }

        fn confirmed(&self) -> Vec<usize> {
            (0..self.published)
                .filter(|number| self.settled[*number] == Some(true))
                .collect()
        }
    }

    /// Everything confirmed is in `all`, in order, nothing twice.
    #[track_caller]
    fn holds(all: &[usize], confirmed: &[usize]) {
        assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
        let lost: Vec<_> = confirmed
            .iter()
            .filter(|one| all.binary_search(one).is_err())
            .collect();
        assert!(lost.is_empty(), "confirmed and lost: {lost:?}");
    }

    /// The log itself meets the end of the disk.
    #[test]
    fn without_an_alarm() {
        if elsewhere() {
            return;
        }
        let Some(mount) = Mount::new(24) else { return };
        let node = Node::on(mount.folder(), NO_ALARM);
        mount.ballast(Some(12));
        let broker = node.start();
        let mut publisher = Publisher::new(&broker);
        publisher.fill(64 << 10);
        let confirmed_before = publisher.confirmed();
        assert!(!confirmed_before.is_empty());
        // Consumers go on.
        let consumer = Client::to(&broker);
        let channel = consumer.channel(1);
        for number in 0..5 {
            let got = channel.get("q", "").expect("a message");
            assert_eq!(number_of(&got.body), number);
            channel.send(&ack(got.tag, ""));
        }
        channel.flow();
        says(&broker.log(), &["full"]);
        mount.drop_ballast();
        publisher.resumes();
        let confirmed = publisher.confirmed();
        assert!(confirmed.len() > confirmed_before.len());
        broker.kill();
        let broker = node.start();
        let all = drained(&broker);
        holds(&all, &confirmed[5..]);
        broker.kill();
    }

    /// Killed while the disk is full: what was confirmed is there, also with the disk still full.
    #[test]
    fn killed_while_full() {
        if elsewhere() {
            return;
        }
        let Some(mount) = Mount::new(24) else { return };
        let node = Node::on(mount.folder(), NO_ALARM);
        mount.ballast(Some(12));
        let broker = node.start();
        let mut publisher = Publisher::new(&broker);
        publisher.fill(64 << 10);
        let confirmed = publisher.confirmed();
        broker.kill();
        mount.ballast(None);
        if let Ok(broker) = node.try_start() {
            let client = Client::to(&broker);
            assert!(client.channel(1).get("q", "").is_some());
            broker.kill();
        }
        mount.drop_ballast();
        let broker = node.start();
        holds(&drained(&broker), &confirmed);
        broker.kill();
    }

    /// Consumers make room: nobody has to do anything.
    #[test]
    fn consumers_make_room() {
        if elsewhere() {
            return;
        }
        let Some(mount) = Mount::new(16) else { return };
        let node = Node::on(mount.folder(), NO_ALARM);
        let broker = node.start();
        let mut publisher = Publisher::new(&broker);
        publisher.fill(64 << 10);
        let consumer = Client::to(&broker);
        let channel = consumer.channel(1);
        let mut taken = Vec::new();
        while let Some(got) = channel.get("q", "") {
            taken.push(number_of(&got.body));
            channel.send(&ack(got.tag, ""));
        }
        channel.flow();
        publisher.resumes();
        let confirmed = publisher.confirmed();
        broker.kill();
        let broker = node.start();
        let all = drained(&broker);
        let rest: Vec<usize> = confirmed
            .into_iter()
            .filter(|number| !taken.contains(number))
            .collect();
        holds(&all, &rest);
        broker.kill();
    }

    /// The alarm comes before the end of the disk, and goes by itself.
    #[test]
    fn with_the_alarm() {
        if elsewhere() {
            return;
        }
        let Some(mount) = Mount::new(32) else { return };
        let node = Node::on(mount.folder(), "[alarms]\ndisk_free_limit = \"8MiB\"\n");
        let broker = node.start();
        let mut publisher = Publisher::new(&broker);
        publisher.publish(100);
        assert!(publisher.hear(PATIENCE));
        mount.ballast(Some(26));
        eventually("the disk alarm is on", || broker.log().contains("alarm"));
        publisher.fill(100);
        assert!(publisher.blocked, "connection.blocked");
        let consumer = Client::to(&broker);
        let got = consumer.channel(1).get("q", "").expect("a message");
        assert_eq!(number_of(&got.body), 0);
        mount.drop_ballast();
        publisher.resumes();
        broker.kill();
    }

    /// Whether the broker closes the connection instead of an answer.
    #[track_caller]
    fn closes(client: &Client, channel: &Channel, method: &AMQPClass) -> bool {
        channel.send(method);
        let deadline = std::time::Instant::now() + PATIENCE;
        while std::time::Instant::now() < deadline {
            let answered = client.try_take(1, Duration::from_millis(5), |_| true);
            let closed = client.try_take(0, Duration::ZERO, |_| true);
            match (answered, closed) {
                (Ok(_), _) => return false,
                (_, Ok(_)) | (Err(Silence::Closed), _) => return true,
                (Err(Silence::Timeout), _) => {}
            }
        }
        panic!("neither an answer nor the end of the connection");
    }

    /// A queue that could not be stored when it was declared is as good as any other once there is room, and what a queue held
    /// whose deletion could not be stored does not take up room for ever.
    #[test]
    fn definitions_that_could_not_be_stored() {
        if elsewhere() {
            return;
        }
        let Some(mount) = Mount::new(48) else { return };
        let node = Node::on(mount.folder(), NO_ALARM);
        let broker = node.start();
        let client = Client::to(&broker);
        let channel = client.channel(1);
        channel.queue("gone", "durable", table([]));
        channel.call(&confirm_select());
        for number in 0..20 {
            let body = numbered(number, 64 << 10);
            channel.publish_with("", "gone", "", &persistent(), body);
        }
        assert!(channel.confirms(1, 20).into_values().all(|stored| stored));
        let live = || broker.metric("mambamq_log_live_bytes").unwrap();
        assert!(live() > f64::from(20 << 16));
        mount.ballast(None);

        // The database has some room of its own: until it wants more.
        let failed = (0..2000)
            .map(|number| format!("{number:0>250}"))
            .find(|name| {
                let declare = queue_declare(name, "durable", table([]));
                closes(&client, &channel, &declare)
            });
        let failed = failed.expect("no declaration failed on a full disk");
        let deleting = Client::to(&broker);
        let channel = deleting.channel(1);
        assert!(closes(&deleting, &channel, &queue_delete("gone", "")));
        assert!(live() > f64::from(20 << 16));

        mount.drop_ballast();
        let client = Client::to(&broker);
        let channel = client.channel(1);
        channel.call(&confirm_select());
        channel.publish_with("", &failed, "", &persistent(), numbered(7, 100));
        assert_eq!(channel.confirms(1, 1), [(1, true)].into());
        eventually("the deleted queue's messages are forgotten", || {
            live() < f64::from(1 << 16)
        });
        broker.kill();
        let broker = node.start();
        let client = Client::to(&broker);
        let channel = client.channel(1);
        assert_eq!(number_of(&channel.get(&failed, "").unwrap().body), 7);
        channel.send(&queue_declare("gone", "passive", table([])));
        channel.expect_close(404, "NOT_FOUND - no queue 'gone' in vhost '/'", (50, 10));
        broker.kill();
    }

    #[test]
    fn at_the_first_start() {
        if elsewhere() {
            return;
        }
        let Some(mount) = Mount::new(4) else { return };
        let node = Node::on(mount.folder(), NO_ALARM);
        mount.ballast(None);
        match node.try_start() {
            Ok(broker) => {
                says(&broker.log(), &["full"]);
                broker.kill();
            }
            Err(refusal) => {
                assert_eq!(refusal.status.code(), Some(1), "{}", refusal.text);
                says(&refusal.text, &["full", "free space"]);
            }
        }
        mount.drop_ballast();
        let broker = node.start();
        let client = Client::to(&broker);
        client.channel(1).queue("q", "durable", table([]));
        client.put_persistent("q", numbered(0, 100));
        broker.kill();
        let broker = node.start();
        assert_eq!(drained(&broker), [0]);
        broker.kill();
    }
}

mod permissions {
    use super::*;

    #[test]
    fn a_read_only_file_system() {
        if elsewhere() {
            return;
        }
        let Some(mount) = Mount::new(16) else { return };
        let node = Node::on(mount.folder(), NO_ALARM);
        mount.remount("ro");
        node.refuses(&["read-only", mount.0.to_str().unwrap(), "remount"]);
        mount.remount("rw");
        let broker = node.start();
        let client = Client::to(&broker);
        client.channel(1).queue("q", "durable", table([]));
        client.put_persistent("q", numbered(0, 100));
        broker.kill();
        mount.remount("ro");
        node.refuses(&["read-only", mount.0.to_str().unwrap(), "remount"]);
        mount.remount("rw");
        let broker = node.start();
        assert_eq!(drained(&broker), [0]);
        broker.kill();
    }

    /// The broker as a user who owns nothing. `None` where users cannot be changed.
    fn as_nobody(folder: &Path) -> Option<(Option<i32>, String)> {
        let binary = broker::bare_command().get_program().to_owned();
        let nobody = || {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
                .arg(&binary);
            command
        };
        let able = nobody()
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success());
        if !able {
            println!(
                "skipped: this user cannot run the broker as nobody (setpriv, and a binary that everybody may run)"
            );
            return None;
        }
        let output = nobody()
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--metrics-listen",
                "off",
            ])
            .arg("--stop-with-stdin")
            .arg("--data-dir")
            .arg(folder)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        Some((output.status.code(), text))
    }

    #[track_caller]
    fn not_permitted(folder: &Path, path: &Path) {
        if let Some((code, text)) = as_nobody(folder) {
            assert_eq!(code, Some(1), "{text}");
            says(&text, &["no permission", path.to_str().unwrap(), "own"]);
        }
    }

    fn set_mode(path: &Path, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_folder_that_may_not_be_entered() {
        if elsewhere() {
            return;
        }
        let node = filled(1, 100);
        set_mode(&node.folder, 0o700);
        not_permitted(&node.folder, &node.folder);
    }

    #[test]
    fn a_folder_that_may_not_be_written() {
        if elsewhere() {
            return;
        }
        let folder = broker::fresh_folder();
        set_mode(&folder, 0o755);
        not_permitted(&folder, &folder);
        fs::remove_dir(&folder).unwrap();
    }

    #[test]
    fn a_folder_that_may_not_be_created() {
        if elsewhere() {
            return;
        }
        let parent = broker::fresh_folder();
        set_mode(&parent, 0o755);
        let folder = parent.join("data");
        not_permitted(&folder, &folder);
        fs::remove_dir(&parent).unwrap();
    }

    #[test]
    fn files_of_another_user() {
        if elsewhere() {
            return;
        }
        let node = filled(1, 100);
        set_mode(&node.folder, 0o777);
        set_mode(&node.folder.join("definitions.redb"), 0o600);
        not_permitted(&node.folder, &node.folder);
        goes_on(&node, &[0]);
    }
}

mod foreign {
    use super::*;

    #[test]
    fn the_path_is_a_file() {
        if elsewhere() {
            return;
        }
        let mut node = Node::new();
        let file = node.folder.join("file");
        fs::write(&file, "").unwrap();
        let parent = std::mem::replace(&mut node.folder, file.clone());
        node.refuses(&[file.to_str().unwrap(), "not a folder"]);
        node.folder = parent;
        let below = file.join("below");
        let output = broker::bare_command()
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--metrics-listen",
                "off",
            ])
            .arg("--data-dir")
            .arg(&below)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        says(&text, &[below.to_str().unwrap(), "not a folder"]);
    }

    #[test]
    fn a_folder_with_other_files() {
        if elsewhere() {
            return;
        }
        let node = Node::new();
        fs::write(node.folder.join("thesis.txt"), "years of work").unwrap();
        node.refuses(&[node.folder.to_str().unwrap(), "thesis.txt", "empty folder"]);
        assert_eq!(fs::read_dir(&node.folder).unwrap().count(), 1);
    }

    /// What others put between the broker's files stays, and disturbs nothing.
    #[test]
    fn other_files_beside_ours() {
        if elsewhere() {
            return;
        }
        let node = filled(3, 100);
        let strangers = ["thesis.txt", "log/notes.txt", "log/x.log", "log/core"];
        for name in strangers {
            fs::write(node.folder.join(name), "years of work").unwrap();
        }
        goes_on(&node, &[0, 1, 2]);
        for name in strangers {
            assert_eq!(
                fs::read_to_string(node.folder.join(name)).unwrap(),
                "years of work",
                "{name}"
            );
        }
    }

    #[test]
    fn another_format() {
        if elsewhere() {
            return;
        }
        let node = filled(1, 100);
        let path = node.folder.join("format");
        let ours = fs::read_to_string(&path).unwrap();
        fs::write(&path, "mambamq data folder, format 77\n").unwrap();
        node.refuses(&[path.to_str().unwrap(), "77", "version"]);
        fs::write(&path, "something else\n").unwrap();
        node.refuses(&[node.folder.to_str().unwrap(), "format"]);
        fs::write(&path, ours).unwrap();
        goes_on(&node, &[0]);
    }

    /// Without `format`, what lies there cannot be told from something older or newer.
    #[test]
    fn the_format_is_missing() {
        if elsewhere() {
            return;
        }
        let node = filled(1, 100);
        let path = node.folder.join("format");
        let ours = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        node.refuses(&[node.folder.to_str().unwrap(), "format"]);
        fs::write(&path, ours).unwrap();
        goes_on(&node, &[0]);
    }

    #[test]
    fn a_log_file_of_another_node() {
        if elsewhere() {
            return;
        }
        let node = filled(3, 100);
        let other = filled(3, 100);
        let newest = node.log_files().pop().unwrap();
        let stranger = newest.with_file_name("0000000000ff0000.log");
        fs::copy(other.log_files().pop().unwrap(), &stranger).unwrap();
        node.refuses(&[stranger.to_str().unwrap(), "another node"]);
        fs::remove_file(&stranger).unwrap();
        // In the place of our own.
        let kept = fs::read(&newest).unwrap();
        fs::copy(other.log_files().pop().unwrap(), &newest).unwrap();
        node.refuses(&[newest.to_str().unwrap(), "another node"]);
        fs::write(&newest, kept).unwrap();
        goes_on(&node, &[0, 1, 2]);
    }

    /// A copy is a folder like any other: it starts, and so does the original, and neither knows of the other.
    #[test]
    fn a_copy_of_a_folder() {
        if elsewhere() {
            return;
        }
        let node = filled(10, 1000);
        let copy = Node::new();
        let copied = Command::new("cp")
            .arg("-a")
            .arg(node.folder.join("."))
            .arg(&copy.folder)
            .status()
            .unwrap();
        assert!(copied.success());
        let all: Vec<usize> = (0..10).collect();
        let original = node.start();
        goes_on(&copy, &all);
        assert_eq!(drained(&original), all);
        original.kill();
    }

    #[test]
    fn two_brokers_by_two_names() {
        if elsewhere() {
            return;
        }
        let node = filled(1, 100);
        let broker = node.start();
        let link = node.folder.with_extension("link");
        std::os::unix::fs::symlink(&node.folder, &link).unwrap();
        let output = broker::bare_command()
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--metrics-listen",
                "off",
            ])
            .arg("--data-dir")
            .arg(&link)
            .output()
            .unwrap();
        fs::remove_file(&link).unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{text}");
        says(&text, &["in use", &broker.pid().to_string()]);
        assert_eq!(drained(&broker), [0]);
        broker.kill();
    }
}

mod definitions {
    use super::*;

    fn damaged(change: impl FnOnce(&Path), words: &[&str]) {
        if elsewhere() {
            return;
        }
        let node = filled(3, 100);
        let path = node.folder.join("definitions.redb");
        let kept = fs::read(&path).unwrap();
        change(&path);
        node.refuses(words);
        // Refusing has changed nothing that the right file would not put right.
        fs::write(&path, kept).unwrap();
        goes_on(&node, &[0, 1, 2]);
    }

    #[test]
    fn truncated() {
        damaged(
            |path| edit(path, |octets| octets.truncate(octets.len() / 2)),
            &["definitions.redb", "backup"],
        );
    }

    #[test]
    fn empty() {
        damaged(
            |path| fs::write(path, "").unwrap(),
            &["definitions.redb", "backup"],
        );
    }

    #[test]
    fn garbage() {
        damaged(
            |path| edit(path, |octets| *octets = Random::new(5).bytes(octets.len())),
            &["definitions.redb", "backup"],
        );
    }

    #[test]
    fn missing() {
        damaged(
            |path| fs::remove_file(path).unwrap(),
            &["definitions.redb", "backup"],
        );
    }
}

mod log_files {
    use super::*;

    /// Enough for several files of 1 MiB.
    const MANY: usize = 60;
    const LARGE: usize = 100_000;

    #[test]
    fn one_in_the_middle_is_missing() {
        if elsewhere() {
            return;
        }
        let node = filled(MANY, LARGE);
        let files = node.log_files();
        assert!(files.len() > 4, "{files:?}");
        let middle = &files[2];
        let octets = fs::read(middle).unwrap();
        fs::remove_file(middle).unwrap();
        let expected: Vec<usize> = (0..MANY)
            .filter(|number| {
                let begin = &numbered(*number, LARGE)[..20];
                find(&octets, begin).is_none()
            })
            .collect();
        assert!(expected.len() < MANY);
        let text = goes_on(&node, &expected);
        says(&text, &["ERROR", "damage"]);
    }

    #[test]
    fn a_flipped_octet_in_a_body() {
        if elsewhere() {
            return;
        }
        let node = filled(MANY, LARGE);
        let file = &node.log_files()[2];
        let mut lost = 0;
        edit(file, |octets| {
            let at = find(octets, b"message ").expect("a message");
            // The first may go on from the file before; this is a whole one all the same: entries never cross files.
            lost = number_of(&octets[at..at + LARGE]);
            octets[at + LARGE / 2] ^= 0x40;
        });
        let expected: Vec<usize> = (0..MANY).filter(|number| *number != lost).collect();
        let text = goes_on(&node, &expected);
        says(&text, &["ERROR", "damage"]);
    }

    fn flipped_header(kind: u8) {
        if elsewhere() {
            return;
        }
        let node = filled(MANY, 1000);
        let file = node.log_files().pop().unwrap();
        let mut around = Vec::new();
        edit(&file, |octets| {
            let of_kind: Vec<usize> = entries(octets)
                .into_iter()
                .filter(|(_, found)| *found == kind)
                .map(|(at, _)| at)
                .collect();
            let at = of_kind[of_kind.len() / 2];
            octets[at + 13] ^= 1;
            let before = octets[..at]
                .windows(8)
                .rposition(|window| window == b"message ")
                .expect("a message before it");
            let before = number_of(&octets[before..before + 1000]);
            // The damaged entry belongs to the message before it or to the one after.
            around = vec![before, before + 1];
        });
        let broker = node.start();
        let left = drained(&broker);
        let lost: Vec<usize> = (0..MANY).filter(|number| !left.contains(number)).collect();
        assert!(left.is_sorted_by(|a, b| a < b), "{left:?}");
        assert!(
            lost.len() <= 1 && lost.iter().all(|one| around.contains(one)),
            "one entry near {around:?} is damaged, {lost:?} are lost"
        );
        says(&broker.log(), &["ERROR", "damage"]);
        broker.kill();
    }

    #[test]
    fn a_flipped_octet_in_the_header_of_messages() {
        flipped_header(MESSAGES);
    }

    #[test]
    fn a_flipped_octet_in_the_header_of_a_run() {
        flipped_header(ENQUEUED);
    }

    /// Where the last sound entry of the newest file begins and its payload ends.
    fn last_entry(octets: &[u8]) -> (usize, usize) {
        let (at, _) = *entries(octets).last().expect("an entry");
        let payload = u32::from_le_bytes(octets[at + 12..at + 16].try_into().unwrap());
        (at, at + 56 + usize::try_from(payload).unwrap())
    }

    /// The end of the log is cut: whatever the last entry said is forgotten, all before it holds.
    #[test]
    fn a_torn_tail() {
        if elsewhere() {
            return;
        }
        for cut in [1, 20, 60] {
            let node = filled(5, 1000);
            edit(&node.log_files().pop().unwrap(), |octets| {
                let (_, end) = last_entry(octets);
                octets.truncate(end - cut);
            });
            let broker = node.start();
            let left = drained(&broker);
            assert!(left == [0, 1, 2, 3] || left == [0, 1, 2, 3, 4], "{left:?}");
            says(&broker.log(), &["unfinished write"]);
            broker.kill();
        }
    }

    #[test]
    fn garbage_behind_the_end() {
        if elsewhere() {
            return;
        }
        for length in [1, 55, 5000, 2_000_000] {
            let node = filled(5, 1000);
            edit(&node.log_files().pop().unwrap(), |octets| {
                let (_, end) = last_entry(octets);
                octets.truncate(end);
                octets.extend(Random::new(7).bytes(length));
            });
            goes_on(&node, &[0, 1, 2, 3, 4]);
        }
    }

    #[test]
    fn an_empty_newest_file() {
        if elsewhere() {
            return;
        }
        let node = filled(5, 1000);
        let newest = node.log_files().pop().unwrap();
        fs::write(newest.with_file_name("0000000010000000.log"), "").unwrap();
        goes_on(&node, &[0, 1, 2, 3, 4]);
    }

    #[test]
    fn the_newest_file_is_cut_to_nothing() {
        if elsewhere() {
            return;
        }
        let node = filled(MANY, LARGE);
        let newest = node.log_files().pop().unwrap();
        let octets = fs::read(&newest).unwrap();
        fs::write(&newest, "").unwrap();
        let expected: Vec<usize> = (0..MANY)
            .filter(|number| {
                let begin = &numbered(*number, LARGE)[..20];
                find(&octets, begin).is_none()
            })
            .collect();
        goes_on(&node, &expected);
    }

    /// An index only saves time.
    #[test]
    fn indexes_are_dispensable() {
        if elsewhere() {
            return;
        }
        let changes: [fn(&Path); 4] = [
            |path| fs::remove_file(path).unwrap(),
            |path| fs::write(path, "").unwrap(),
            |path| edit(path, |octets| octets.truncate(octets.len() / 2)),
            |path| {
                edit(path, |octets| {
                    for at in (0..octets.len()).step_by(7) {
                        octets[at] ^= 0x10;
                    }
                });
            },
        ];
        for change in changes {
            let node = filled(MANY, LARGE);
            for entry in fs::read_dir(node.folder.join("log")).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|ending| ending == "idx") {
                    change(&path);
                }
            }
            let all: Vec<usize> = (0..MANY).collect();
            goes_on(&node, &all);
        }
    }
}
