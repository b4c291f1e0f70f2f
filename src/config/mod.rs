//! The configuration: defaults, then the file, then the environment, then the flags.
//!
//! `config/mambamq.toml` shows every key with its default, `docs/configuration.md` explains them. Every key can be set from the
//! environment as `MAMBAMQ_<SECTION>__<KEY>`. An error names the key, where its value came from, what came and what was expected.

mod oauth2;
mod tls;
pub(crate) mod value;

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use mamba_server::IpNet;
use mamba_types::{
    Limits,
    limits::{BODY_SIZE_CAP, FRAME_MIN_SIZE},
};
use serde::{Deserialize, Serialize};
use toml::{Spanned, Table, Value, de::DeTable, de::DeValue};

use crate::logging;

pub(crate) use self::oauth2::Oauth2;
use self::{
    tls::Tls,
    value::{ByteSize, ListenAddress, MessageMemory, OptionalListen, Threshold},
};

/// What every environment variable of the broker starts with.
const ENVIRONMENT_PREFIX: &str = "MAMBAMQ_";

/// Everything an operator can set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) node: Node,
    pub(crate) listeners: Listeners,
    pub(crate) tls: Tls,
    pub(crate) store: Store,
    pub(crate) limits: LimitKeys,
    pub(crate) memory: Memory,
    pub(crate) alarms: Alarms,
    pub(crate) auth: Auth,
    pub(crate) events: Events,
    pub(crate) oauth2: Oauth2,
    pub(crate) server_properties: ServerProperties,
    pub(crate) management: Management,
    pub(crate) metrics: Metrics,
    pub(crate) logging: Logging,
    pub(crate) shutdown: Shutdown,
}

/// Telling clients what happens on the node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Events {
    /// Whether events are published.
    pub(crate) enabled: bool,
    /// The virtual host they are published in.
    pub(crate) vhost: String,
}

/// Who this node is and how much of the machine it uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Node {
    /// Empty: `rabbit@` and the host's name.
    pub(crate) name: String,
    /// 0: one per core.
    pub(crate) worker_threads: usize,
    /// Definitions to import at every start; empty: none.
    pub(crate) load_definitions: PathBuf,
}

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Listeners {
    pub(crate) amqp: Vec<ListenAddress>,
    pub(crate) amqps: Vec<ListenAddress>,
    /// Networks of proxies that say who the client is.
    pub(crate) proxies: Vec<IpNet>,
}

/// What makes a message durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SyncMode {
    /// `fdatasync` before a confirm.
    Fsync,
    /// A confirm waits for the operating system only; `fdatasync` follows at intervals.
    Interval,
    /// The same without syncs: the operating system writes when it likes.
    Os,
}

/// Where and how data is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Store {
    /// Empty: the platform's usual place, see [`default_data_dir`].
    pub(crate) data_dir: PathBuf,
    pub(crate) sync: SyncMode,
    pub(crate) sync_interval_ms: u64,
    pub(crate) sync_batch_size: u64,
    pub(crate) log_file_size: ByteSize,
}

/// [`Limits`] in the file's units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LimitKeys {
    pub(crate) frame_max: u32,
    pub(crate) initial_frame_max: u32,
    pub(crate) channel_max: u16,
    pub(crate) heartbeat_secs: u16,
    pub(crate) handshake_timeout_ms: u64,
    pub(crate) message_size_max: ByteSize,
    pub(crate) unfinished_bytes_max: ByteSize,
    pub(crate) table_depth_max: usize,
    pub(crate) outbox_bytes_max: ByteSize,
    pub(crate) output_bytes_max: ByteSize,
    pub(crate) consumers_per_channel_max: usize,
    pub(crate) connections_max: usize,
    pub(crate) queues_max: usize,
    pub(crate) exchanges_max: usize,
    pub(crate) vhosts_max: usize,
    pub(crate) unacked_max: usize,
    /// Milliseconds, under RabbitMQ's name; 0: what each type of queue has by itself.
    pub(crate) consumer_timeout: u64,
}

/// What the broker keeps in memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Memory {
    /// Messages that wait in queues; what is beyond lies on the disk only.
    pub(crate) messages: MessageMemory,
}

/// When publishers are blocked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Alarms {
    pub(crate) memory_high_watermark: Threshold,
    pub(crate) disk_free_limit: Threshold,
}

/// The user and the virtual host of a new node, and who may come from where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Auth {
    pub(crate) default_user: String,
    pub(crate) default_password: String,
    pub(crate) default_user_tags: Vec<String>,
    pub(crate) default_vhost: String,
    /// Empty: ANONYMOUS is not offered.
    pub(crate) anonymous_user: String,
    pub(crate) loopback_users: Vec<String>,
}

/// What `connection.start` tells clients about the broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ServerProperties {
    pub(crate) product: String,
    pub(crate) version: String,
    /// Empty: the node's name.
    pub(crate) cluster_name: String,
}

/// The HTTP management API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Management {
    pub(crate) listen: OptionalListen,
    pub(crate) tls_listen: OptionalListen,
}

/// The Prometheus endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Metrics {
    pub(crate) listen: OptionalListen,
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Logging {
    pub(crate) level: String,
    pub(crate) format: LogFormat,
    /// Empty: none.
    pub(crate) audit_file: PathBuf,
    pub(crate) audit_file_size: ByteSize,
    pub(crate) audit_files_max: usize,
}

/// How the broker ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Shutdown {
    pub(crate) grace_secs: u64,
}

impl Default for Listeners {
    fn default() -> Self {
        Self {
            amqp: vec!["*:5672".parse().expect("a constant address")],
            amqps: Vec::new(),
            proxies: Vec::new(),
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::new(),
            sync: SyncMode::Fsync,
            sync_interval_ms: 100,
            sync_batch_size: 10_000,
            log_file_size: ByteSize(64 << 20),
        }
    }
}

impl Default for LimitKeys {
    fn default() -> Self {
        let Limits {
            frame_max,
            initial_frame_max,
            channel_max,
            heartbeat_secs,
            handshake_timeout,
            message_size_max,
            unfinished_bytes_max,
            table_depth_max,
            outbox_bytes_max,
            output_bytes_max,
            consumers_per_channel_max,
            connections_max,
            queues_max,
            exchanges_max,
            vhosts_max,
            unacked_max,
            consumer_timeout_ms,
        } = Limits::default();
        Self {
            frame_max,
            initial_frame_max,
            channel_max,
            heartbeat_secs,
            handshake_timeout_ms: handshake_timeout.as_secs() * 1000
                + u64::from(handshake_timeout.subsec_millis()),
            message_size_max: ByteSize(message_size_max),
            unfinished_bytes_max: ByteSize(unfinished_bytes_max),
            table_depth_max,
            outbox_bytes_max: ByteSize(outbox_bytes_max as u64),
            output_bytes_max: ByteSize(output_bytes_max as u64),
            consumers_per_channel_max,
            connections_max,
            queues_max,
            exchanges_max,
            vhosts_max,
            unacked_max,
            consumer_timeout: consumer_timeout_ms.unwrap_or(0),
        }
    }
}

impl LimitKeys {
    /// The limits every crate takes.
    pub(crate) fn to_limits(&self) -> Limits {
        let in_memory = |size: ByteSize| usize::try_from(size.0).unwrap_or(usize::MAX);
        Limits {
            frame_max: self.frame_max,
            initial_frame_max: self.initial_frame_max,
            channel_max: self.channel_max,
            heartbeat_secs: self.heartbeat_secs,
            handshake_timeout: Duration::from_millis(self.handshake_timeout_ms),
            message_size_max: self.message_size_max.0,
            unfinished_bytes_max: self.unfinished_bytes_max.0,
            table_depth_max: self.table_depth_max,
            outbox_bytes_max: in_memory(self.outbox_bytes_max),
            output_bytes_max: in_memory(self.output_bytes_max),
            consumers_per_channel_max: self.consumers_per_channel_max,
            connections_max: self.connections_max,
            queues_max: self.queues_max,
            exchanges_max: self.exchanges_max,
            vhosts_max: self.vhosts_max,
            unacked_max: self.unacked_max,
            consumer_timeout_ms: Some(self.consumer_timeout).filter(|timeout| *timeout > 0),
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            messages: MessageMemory::Automatic,
        }
    }
}

impl Default for Alarms {
    fn default() -> Self {
        Self {
            memory_high_watermark: Threshold::Relative(0.6),
            disk_free_limit: Threshold::Absolute(ByteSize(50_000_000)),
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            default_user: "guest".to_owned(),
            default_password: "guest".to_owned(),
            default_user_tags: vec!["administrator".to_owned()],
            default_vhost: "/".to_owned(),
            anonymous_user: String::new(),
            loopback_users: vec!["guest".to_owned()],
        }
    }
}

impl Default for ServerProperties {
    fn default() -> Self {
        Self {
            product: "RabbitMQ".to_owned(),
            version: "4.0.5".to_owned(),
            cluster_name: String::new(),
        }
    }
}

impl Default for Management {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:15672".parse().expect("a constant address"),
            tls_listen: OptionalListen::Off,
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:15692".parse().expect("a constant address"),
        }
    }
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Text,
            audit_file: PathBuf::new(),
            audit_file_size: ByteSize(16 << 20),
            audit_files_max: 8,
        }
    }
}

impl Default for Events {
    fn default() -> Self {
        Self {
            enabled: false,
            vhost: mamba_broker::broker::DEFAULT_VHOST.to_owned(),
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { grace_secs: 10 }
    }
}

impl Config {
    /// Puts the layers together: `file`, then the variables of `environment` that name keys, then `overrides` from the flags.
    ///
    /// `overrides` are (key such as `store.data_dir`, value, name of the flag).
    ///
    /// # Errors
    /// Everything that is wrong with the layers, one problem per key.
    pub(crate) fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        overrides: Vec<(&'static str, Value, &'static str)>,
    ) -> Result<Self, ConfigError> {
        let mut layers = Layers::default();
        if let Some(path) = file {
            let text = fs::read_to_string(path).map_err(|error| {
                ConfigError::one(format!("cannot read the configuration file {}: {error}; check the path and its permissions", path.display()))
            })?;
            layers.add_file(path, &text)?;
        }
        for (name, value) in environment {
            layers.add_variable(&name, &value);
        }
        for (key, value, flag) in overrides {
            layers.set(key, value, flag.to_owned());
        }
        layers.finish()
    }

    /// The configuration with every empty value replaced by what it means on this machine.
    pub(crate) fn resolved(mut self) -> Self {
        if self.node.name.is_empty() {
            self.node.name = format!("rabbit@{}", host_name());
        }
        if self.store.data_dir.as_os_str().is_empty() {
            self.store.data_dir = default_data_dir();
        }
        if self.server_properties.cluster_name.is_empty() {
            self.server_properties
                .cluster_name
                .clone_from(&self.node.name);
        }
        self
    }

    /// As TOML, passwords blanked out.
    pub(crate) fn to_toml(&self) -> String {
        let mut shown = self.clone();
        if !shown.auth.default_password.is_empty() {
            shown.auth.default_password = "********".to_owned();
        }
        toml::to_string(&shown).expect("strings, numbers and lists in tables are valid TOML")
    }

    /// Values that have the right type but make no sense: (key, what came, what was expected).
    fn problems(&self) -> Vec<(&'static str, String, String)> {
        let mut problems = Vec::new();
        let mut range = |key: &'static str, value: u64, min: u64, max: u64, unit: &str| {
            if !(min..=max).contains(&value) {
                problems.push((key, value.to_string(), format!("{min} to {max} {unit}")));
            }
        };
        let limits = &self.limits;
        let memory = u64::from(u32::MAX);
        range(
            "node.worker_threads",
            self.node.worker_threads as u64,
            0,
            1024,
            "threads (0: one per core)",
        );
        range(
            "store.sync_interval_ms",
            self.store.sync_interval_ms,
            1,
            60_000,
            "milliseconds",
        );
        range(
            "store.sync_batch_size",
            self.store.sync_batch_size,
            1,
            10_000_000,
            "messages",
        );
        range(
            "store.log_file_size",
            self.store.log_file_size.0,
            1 << 20,
            4 << 30,
            "octets",
        );
        range(
            "limits.frame_max",
            limits.frame_max.into(),
            FRAME_MIN_SIZE.into(),
            16_777_216,
            "octets",
        );
        range(
            "limits.initial_frame_max",
            limits.initial_frame_max.into(),
            FRAME_MIN_SIZE.into(),
            16_777_216,
            "octets",
        );
        range(
            "limits.channel_max",
            limits.channel_max.into(),
            1,
            65_535,
            "channels",
        );
        range(
            "limits.handshake_timeout_ms",
            limits.handshake_timeout_ms,
            100,
            600_000,
            "milliseconds",
        );
        range(
            "limits.message_size_max",
            limits.message_size_max.0,
            1,
            BODY_SIZE_CAP,
            "octets",
        );
        range(
            "limits.unfinished_bytes_max",
            limits.unfinished_bytes_max.0,
            limits.message_size_max.0,
            u64::MAX,
            "octets (one message has to fit)",
        );
        range(
            "limits.table_depth_max",
            limits.table_depth_max as u64,
            1,
            1024,
            "levels",
        );
        range(
            "limits.outbox_bytes_max",
            limits.outbox_bytes_max.0,
            4096,
            memory,
            "octets",
        );
        range(
            "limits.output_bytes_max",
            limits.output_bytes_max.0,
            65_536,
            memory,
            "octets",
        );
        range(
            "limits.connections_max",
            limits.connections_max as u64,
            1,
            10_000_000,
            "connections",
        );
        range(
            "limits.unacked_max",
            limits.unacked_max as u64,
            1,
            memory,
            "deliveries",
        );
        range(
            "limits.consumer_timeout",
            limits.consumer_timeout,
            0,
            315_360_000_000,
            "milliseconds",
        );
        if let MessageMemory::Fixed(size) = self.memory.messages {
            range("memory.messages", size.0, 1 << 20, 64 << 30, "octets");
        }
        range(
            "logging.audit_file_size",
            self.logging.audit_file_size.0,
            65_536,
            1 << 40,
            "octets",
        );
        range(
            "logging.audit_files_max",
            self.logging.audit_files_max as u64,
            1,
            1000,
            "files",
        );
        range(
            "shutdown.grace_secs",
            self.shutdown.grace_secs,
            0,
            3600,
            "seconds",
        );
        let mut demand = |key, holds: bool, came: &str, expected: &str| {
            if !holds {
                problems.push((key, came.to_owned(), expected.to_owned()));
            }
        };
        demand(
            "listeners.amqp",
            !(self.listeners.amqp.is_empty() && self.listeners.amqps.is_empty()),
            "[]",
            "at least one address here or in listeners.amqps, such as \"127.0.0.1:5672\"",
        );
        if let Threshold::Relative(part) = self.alarms.memory_high_watermark {
            let holds = (0.0..=1.0).contains(&part);
            demand(
                "alarms.memory_high_watermark",
                holds,
                &part.to_string(),
                "a part of the memory from 0.0 to 1.0, or a size such as \"2GiB\"",
            );
        }
        if let Threshold::Relative(part) = self.alarms.disk_free_limit {
            let holds = (0.0..=100.0).contains(&part);
            demand(
                "alarms.disk_free_limit",
                holds,
                &part.to_string(),
                "a multiple of the memory from 0.0 to 100.0, or a size such as \"50MB\"",
            );
        }
        let vhost = &self.auth.default_vhost;
        demand(
            "auth.default_vhost",
            (1..=255).contains(&vhost.len()),
            &format!("{} octets", vhost.len()),
            "a name of 1 to 255 octets",
        );
        let tags = self.auth.default_user_tags.len();
        demand(
            "auth.default_user_tags",
            tags <= 32,
            &format!("{tags} tags"),
            "32 tags at most",
        );
        let user = &self.auth.default_user;
        demand(
            "auth.default_user",
            (1..=255).contains(&user.len()),
            &format!("{user:?}"),
            "1 to 255 octets",
        );
        let level = &self.logging.level;
        demand(
            "logging.level",
            logging::targets(level).is_some(),
            &format!("{level:?}"),
            "off, error, warn, info, debug or trace, or a list such as \"info,mamba_store=debug\"",
        );
        let secured = [
            ("listeners.amqps", !self.listeners.amqps.is_empty()),
            (
                "management.tls_listen",
                self.management.tls_listen != OptionalListen::Off,
            ),
        ];
        let secured = secured.into_iter().find(|(_, is_set)| *is_set);
        problems.extend(self.tls.problems(secured.map(|(key, _)| key)));
        problems.extend(self.oauth2.problems());
        problems
    }
}

/// Where data goes when nobody says: `/var/lib/mambamq` for root, else `$XDG_DATA_HOME/mambamq` or `~/.local/share/mambamq`.
fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/mambamq");
    }
    let folder = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let data_home =
        folder("XDG_DATA_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/share")));
    data_home.map_or_else(
        || PathBuf::from("mambamq-data"),
        |home| home.join("mambamq"),
    )
}

fn host_name() -> String {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    name.split('.')
        .next()
        .filter(|name| !name.is_empty())
        .unwrap_or("localhost")
        .to_owned()
}

/// Everything that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) struct ConfigError {
    problems: Vec<String>,
}

impl ConfigError {
    fn one(problem: String) -> Self {
        Self {
            problems: vec![problem],
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

/// The layers put on top of each other, with the origin of each key.
#[derive(Default)]
struct Layers {
    merged: Table,
    origins: BTreeMap<String, String>,
    problems: Vec<String>,
}

impl Layers {
    fn add_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let place = |offset: usize| format!("{}:{}", path.display(), line_of(text, offset));
        let parsed = DeTable::parse(text).map_err(|error| {
            let place = place(error.span().map_or(0, |span| span.start));
            ConfigError::one(format!("{place}: not valid TOML: {}", error.message()))
        })?;
        self.merged = toml::from_str(text)
            .map_err(|error| ConfigError::one(format!("{}: {error}", path.display())))?;
        note_origins(parsed.get_ref(), "", &place, &mut self.origins);
        Ok(())
    }

    /// `MAMBAMQ_LIMITS__FRAME_MAX=65536` sets `limits.frame_max`; a variable without `__` is a flag's, or somebody else's.
    fn add_variable(&mut self, name: &str, text: &str) {
        let Some((section, key)) = name
            .strip_prefix(ENVIRONMENT_PREFIX)
            .and_then(|rest| rest.split_once("__"))
        else {
            return;
        };
        let key = format!("{}.{}", section.to_lowercase(), key.to_lowercase());
        // A password of digits is still a string; what is not TOML may be a string that needs no quotes here.
        let is_string = lookup(&defaults(), &key).is_some_and(Value::is_str);
        let value = if is_string { None } else { parse_value(text) };
        self.set(
            &key,
            value.unwrap_or_else(|| Value::String(text.to_owned())),
            format!("environment variable {name}"),
        );
    }

    fn set(&mut self, key: &str, value: Value, origin: String) {
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        let table = self
            .merged
            .entry(section.to_owned())
            .or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(table) = table {
            table.insert(name.to_owned(), value);
            self.origins.insert(key.to_owned(), origin);
        }
    }

    fn finish(mut self) -> Result<Config, ConfigError> {
        let known = defaults();
        for (key, origin) in &self.origins {
            if lookup(&known, key).is_none() {
                let hint = nearest(&known, key)
                    .map_or_else(String::new, |near| format!("; did you mean {near}?"));
                self.problems
                    .push(format!("{origin}: unknown key {key}{hint}"));
            }
        }
        if !self.problems.is_empty() {
            return Err(ConfigError {
                problems: self.problems,
            });
        }
        let config: Config = serde_path_to_error::deserialize(Value::Table(self.merged.clone()))
            .map_err(|error| {
                let key = error.path().to_string();
                let at = self.origin(&key);
                let message = error.into_inner().message().to_owned();
                ConfigError::one(format!("{at}: {key}: {message}"))
            })?;
        for (key, came, expected) in config.problems() {
            self.problems.push(format!(
                "{}: {key} is {came}, expected {expected}",
                self.origin(key)
            ));
        }
        if self.problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError {
                problems: self.problems,
            })
        }
    }

    /// Where the value of this key came from; an element of a list came from where the list came from.
    fn origin(&self, key: &str) -> &str {
        let list = key.split('[').next().unwrap_or(key);
        self.origins.get(list).map_or("default", String::as_str)
    }
}

fn defaults() -> Table {
    Table::try_from(Config::default()).expect("the default configuration is a table")
}

fn parse_value(text: &str) -> Option<Value> {
    toml::from_str::<Table>(&format!("value = {text}"))
        .ok()?
        .remove("value")
}

fn note_origins(
    table: &DeTable<'_>,
    prefix: &str,
    place: &impl Fn(usize) -> String,
    origins: &mut BTreeMap<String, String>,
) {
    for (key, value) in table {
        let path = if prefix.is_empty() {
            key.get_ref().to_string()
        } else {
            format!("{prefix}.{}", key.get_ref())
        };
        origins.insert(path.clone(), place(Spanned::span(key).start));
        if let DeValue::Table(inner) = value.get_ref() {
            note_origins(inner, &path, place, origins);
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()
        .iter()
        .take(offset)
        .filter(|&&octet| octet == b'\n')
        .count()
        + 1
}

fn lookup<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((section, rest)) => lookup(table.get(section)?.as_table()?, rest),
    }
}

/// The known key an operator most likely meant.
fn nearest(known: &Table, key: &str) -> Option<String> {
    let mut keys = Vec::new();
    for (section, value) in known {
        keys.push(section.clone());
        keys.extend(
            value
                .as_table()
                .into_iter()
                .flatten()
                .map(|(name, _)| format!("{section}.{name}")),
        );
    }
    let same_name = |candidate: &&String| candidate.rsplit('.').next() == key.rsplit('.').next();
    if let Some(moved) = keys.iter().find(same_name) {
        return Some(moved.clone());
    }
    keys.into_iter()
        .filter(|candidate| candidate.contains('.') == key.contains('.'))
        .map(|candidate| (edits(&candidate, key), candidate))
        .min()
        .filter(|(edits, _)| *edits <= 4)
        .map(|(_, near)| near)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// One line per key: section.key, as documentation and tests need it.
#[cfg(test)]
fn all_keys() -> Vec<String> {
    let mut keys = Vec::new();
    for (section, value) in &defaults() {
        keys.extend(
            value
                .as_table()
                .into_iter()
                .flatten()
                .map(|(name, _)| format!("{section}.{name}")),
        );
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../config/mambamq.toml");
    const REFERENCE: &str = include_str!("../../docs/configuration.md");

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.toml");
        fs::write(&path, text).unwrap();
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let prefix = format!("{}/", folder.path().display());
        Config::load(Some(&path), environment, Vec::new())
            .map_err(|error| error.to_string().replace(&prefix, ""))
    }

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        assert_eq!(load(text, &[]).unwrap_err(), expected);
    }

    #[test]
    fn empty_file_is_the_defaults() {
        assert_eq!(load("", &[]), Ok(Config::default()));
        assert_eq!(Config::default().limits.to_limits(), Limits::default());
        assert_eq!(Config::default().problems(), []);
    }

    #[test]
    fn the_example_shows_every_key_with_its_default() {
        assert_eq!(load(EXAMPLE, &[]), Ok(Config::default()));
        // The same with the comment signs in front of keys removed.
        let uncommented: String = EXAMPLE
            .lines()
            .map(|line| {
                line.strip_prefix("#")
                    .filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
                    .unwrap_or(line)
            })
            .fold(String::new(), |text, line| text + line + "\n");
        assert_eq!(load(&uncommented, &[]), Ok(Config::default()));
        let shown: Table = toml::from_str(&uncommented).unwrap();
        for key in all_keys() {
            assert!(
                lookup(&shown, &key).is_some(),
                "config/mambamq.toml does not show {key}"
            );
        }
    }

    #[test]
    fn the_reference_explains_every_key() {
        for key in all_keys() {
            let (section, name) = key.split_once('.').unwrap();
            let chapter = REFERENCE
                .split("\n## ")
                .find(|chapter| chapter.starts_with(&format!("`[{section}]`")))
                .unwrap_or_default();
            assert!(
                chapter.contains(&format!("| `{name}` |")),
                "docs/configuration.md does not explain {key}"
            );
        }
    }

    #[test]
    fn errors_name_key_line_value_and_expectation() {
        refused(
            "\n[limits]\nframe_max = 100\n",
            "test.toml:3: limits.frame_max is 100, expected 4096 to 16777216 octets",
        );
        refused(
            "[limits]\nframe_maximum = 1",
            "test.toml:2: unknown key limits.frame_maximum; did you mean limits.frame_max?",
        );
        refused(
            "frame_max = 1",
            "test.toml:1: unknown key frame_max; did you mean limits.frame_max?",
        );
        refused(
            "[limits]\nframe_max = \"big\"",
            "test.toml:2: limits.frame_max: invalid type: string \"big\", expected u32",
        );
        refused(
            "[store]\nsync = \"never\"",
            "test.toml:2: store.sync: unknown variant `never`, expected one of `fsync`, `interval`, `os`",
        );
        refused(
            "[listeners]\namqp = [\"127.0.0.1:1\", \"5672\"]",
            "test.toml:2: listeners.amqp[1]: \"5672\" is not an address to listen on: expected ADDRESS:PORT such as 127.0.0.1:5672, [::1]:5672 or *:5672",
        );
        refused(
            "[alarms]\nmemory_high_watermark = 1.5",
            "test.toml:2: alarms.memory_high_watermark is 1.5, expected a part of the memory from 0.0 to 1.0, or a size such as \"2GiB\"",
        );
        assert!(
            load("[limits", &[])
                .unwrap_err()
                .starts_with("test.toml:1: not valid TOML: ")
        );
        assert!(
            load("limits = 1", &[])
                .unwrap_err()
                .starts_with("test.toml:1: limits: ")
        );
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let error = load("[limits]\nchannel_max = 0\nunacked_max = 0\n", &[]).unwrap_err();
        assert_eq!(error.lines().count(), 2, "{error}");
    }

    #[test]
    fn the_environment_overrides_the_file() {
        #[track_caller]
        fn check(name: &str, value: &str, shown: &str) {
            let config = load("[limits]\nframe_max = 8192\n", &[(name, value)])
                .unwrap_or_else(|error| panic!("{error}"));
            let key = name
                .strip_prefix("MAMBAMQ_")
                .unwrap()
                .to_lowercase()
                .replace("__", ".");
            assert_eq!(
                lookup(&Table::try_from(config).unwrap(), &key)
                    .unwrap()
                    .to_string(),
                shown
            );
        }
        check("MAMBAMQ_LIMITS__FRAME_MAX", "65536", "65536");
        check("MAMBAMQ_ALARMS__DISK_FREE_LIMIT", "2.5", "2.5");
        check("MAMBAMQ_AUTH__DEFAULT_PASSWORD", "12345", "\"12345\"");
        check("MAMBAMQ_ALARMS__MEMORY_HIGH_WATERMARK", "2GiB", "\"2GiB\"");
        check("MAMBAMQ_STORE__LOG_FILE_SIZE", "1048576", "\"1MiB\"");
        check("MAMBAMQ_STORE__SYNC", "os", "\"os\"");
        check("MAMBAMQ_STORE__DATA_DIR", "/tmp/x", "\"/tmp/x\"");
        check(
            "MAMBAMQ_LISTENERS__AMQP",
            r#"["127.0.0.1:1"]"#,
            r#"["127.0.0.1:1"]"#,
        );
        assert_eq!(
            load("", &[("MAMBAMQ_LIMITS__FRAME_MAX", "1")]).unwrap_err(),
            "environment variable MAMBAMQ_LIMITS__FRAME_MAX: limits.frame_max is 1, expected 4096 to 16777216 octets"
        );
        assert_eq!(
            load("", &[("MAMBAMQ_LIMITS__FRAMEMAX", "1")]).unwrap_err(),
            "environment variable MAMBAMQ_LIMITS__FRAMEMAX: unknown key limits.framemax; did you mean limits.frame_max?"
        );
        assert_eq!(
            load("", &[("MAMBAMQ_BINARY", "x"), ("PATH", "x")]),
            Ok(Config::default())
        );
    }

    #[test]
    fn a_flag_overrides_everything() {
        let environment = [("MAMBAMQ_NODE__NAME".to_owned(), "a".to_owned())].into_iter();
        let config = Config::load(
            None,
            environment,
            vec![("node.name", Value::from("b"), "--node-name")],
        )
        .unwrap();
        assert_eq!(config.node.name, "b");
    }

    #[test]
    fn passwords_are_not_shown() {
        let config = load("[auth]\ndefault_password = \"s3cret\"", &[])
            .unwrap()
            .resolved();
        assert!(!config.to_toml().contains("s3cret"));
        assert!(!config.node.name.is_empty());
    }
}
