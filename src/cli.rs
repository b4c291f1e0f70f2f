//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, builder::BoolishValueParser};
use toml::Value;

use crate::{
    backup::{BackupArgs, RestoreArgs},
    config::{
        LogFormat,
        value::{ListenAddress, OptionalListen},
    },
    definitions::DefinitionsArgs,
    shell::GenerateArgs,
    store::StoreArgs,
};

const AFTER_HELP: &str = "\
Every key of the configuration file can also be set from the environment, as MAMBAMQ_<SECTION>__<KEY>.
Precedence: flag, environment, file, default.

Exit codes:
  0  stopped as asked, or the configuration is valid
  1  could not start or had to stop: the message says why; check-config: the configuration is not valid
  2  the command line or the configuration is not valid

Signals: SIGTERM and SIGINT stop the broker cleanly; a second one stops it at once. SIGHUP reads its certificates again.";

/// An AMQP 0-9-1 broker: RabbitMQ clients use it unchanged.
#[derive(Debug, Parser)]
#[command(name = "mambamq", version, args_conflicts_with_subcommands = true, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

/// What to do; `serve` when nothing is said.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the broker (the default)
    #[command(after_help = AFTER_HELP)]
    Serve(ServeArgs),
    /// Print the configuration the broker would use, or what is wrong with it
    CheckConfig {
        /// The file to check
        #[arg(value_name = "FILE", env = "MAMBAMQ_CONFIG")]
        file: Option<PathBuf>,
    },
    /// Copy a node, running or stopped, into a folder or an archive
    Backup(BackupArgs),
    /// Make a data folder of a backup
    Restore(RestoreArgs),
    /// Look into the data folder of a stopped node: what is in it, and whether it is sound
    Store(StoreArgs),
    /// Take the definitions of the running node out as JSON, or add some to it
    Definitions(DefinitionsArgs),
    /// Publish messages from arguments, files, standard input or lines of JSON
    Publish(Box<mamba_shell::PublishArgs>),
    /// Write messages of a queue to standard output or files
    Consume(Box<mamba_shell::ConsumeArgs>),
    /// Put load on any AMQP 0-9-1 broker and measure it
    Perf(Box<mamba_perf::Args>),
    /// Manage a broker as with rabbitmqctl, on this machine or elsewhere with --url: users, permissions, policies, queues, connections, checks
    #[command(disable_help_flag = true)]
    Ctl {
        /// COMMAND with its arguments and options; `help` lists them
        #[arg(
            value_name = "COMMAND",
            trailing_var_arg = true,
            allow_hyphen_values = true
        )]
        words: Vec<String>,
    },
    /// Print the manual page, or completions for a shell
    Generate(GenerateArgs),
    /// Print the version
    Version,
}

/// Which data folder a tool works on.
#[derive(Debug, Args)]
pub(crate) struct DataDir {
    /// Configuration file (TOML) that names the data folder
    #[arg(long, value_name = "FILE", env = "MAMBAMQ_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// The data folder [default: as for the broker]
    #[arg(long, value_name = "DIR", env = "MAMBAMQ_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// Flags of `mambamq serve`.
#[derive(Debug, Default, Args)]
pub(crate) struct ServeArgs {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "MAMBAMQ_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Folder for definitions and messages [default: /var/lib/mambamq for root, otherwise ~/.local/share/mambamq]
    #[arg(long, value_name = "DIR", env = "MAMBAMQ_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Where clients connect; may be repeated [default: *:5672, every interface]
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "MAMBAMQ_LISTEN",
        value_delimiter = ','
    )]
    listen: Vec<ListenAddress>,
    /// HTTP management API, or off [default: 127.0.0.1:15672]
    #[arg(long, value_name = "ADDRESS:PORT", env = "MAMBAMQ_MANAGEMENT_LISTEN")]
    management_listen: Option<OptionalListen>,
    /// Prometheus endpoint, or off [default: 127.0.0.1:15692]
    #[arg(long, value_name = "ADDRESS:PORT", env = "MAMBAMQ_METRICS_LISTEN")]
    metrics_listen: Option<OptionalListen>,
    /// off, error, warn, info, debug or trace, also per part: info,mamba_store=debug [default: info]
    #[arg(long, value_name = "LEVEL", env = "MAMBAMQ_LOG_LEVEL")]
    log_level: Option<String>,
    /// Shape of log lines [default: text]
    #[arg(long, value_name = "FORMAT", env = "MAMBAMQ_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// Name of this node [default: rabbit@HOST]
    #[arg(long, value_name = "NAME", env = "MAMBAMQ_NODE_NAME")]
    node_name: Option<String>,
    /// Threads that serve connections, 0: one per core [default: 0]
    #[arg(long, value_name = "NUMBER", env = "MAMBAMQ_WORKER_THREADS")]
    worker_threads: Option<u16>,
    /// Stop cleanly when standard input closes
    #[arg(long, env = "MAMBAMQ_STOP_WITH_STDIN", value_parser = BoolishValueParser::new())]
    pub(crate) stop_with_stdin: bool,
}

impl ServeArgs {
    /// What the flags say about keys: (key, value, flag).
    pub(crate) fn overrides(&self) -> Vec<(&'static str, Value, &'static str)> {
        let path = self
            .data_dir
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned());
        let format = self.log_format.map(|format| match format {
            LogFormat::Text => "text".to_owned(),
            LogFormat::Json => "json".to_owned(),
        });
        let listen: Vec<Value> = self
            .listen
            .iter()
            .map(|address| Value::from(address.to_string()))
            .collect();
        let keys = [
            ("store.data_dir", path.map(Value::from), "--data-dir"),
            (
                "listeners.amqp",
                (!listen.is_empty()).then_some(Value::Array(listen)),
                "--listen",
            ),
            (
                "management.listen",
                self.management_listen
                    .as_ref()
                    .map(|listen| Value::from(listen.to_string())),
                "--management-listen",
            ),
            (
                "metrics.listen",
                self.metrics_listen
                    .as_ref()
                    .map(|listen| Value::from(listen.to_string())),
                "--metrics-listen",
            ),
            (
                "logging.level",
                self.log_level.clone().map(Value::from),
                "--log-level",
            ),
            ("logging.format", format.map(Value::from), "--log-format"),
            (
                "node.name",
                self.node_name.clone().map(Value::from),
                "--node-name",
            ),
            (
                "node.worker_threads",
                self.worker_threads
                    .map(|number| Value::from(i64::from(number))),
                "--worker-threads",
            ),
        ];
        keys.into_iter()
            .filter_map(|(key, value, flag)| Some((key, value?, flag)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::Config;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_with_and_without_serve() {
        for start in [&["mambamq"][..], &["mambamq", "serve"]] {
            let words = start.iter().chain(&[
                "--data-dir",
                "/d",
                "--listen",
                "127.0.0.1:1",
                "--listen",
                "[::1]:2,*:3",
                "--log-format",
                "json",
            ]);
            let cli = Cli::try_parse_from(words).unwrap();
            let arguments = match cli.command {
                Some(Command::Serve(arguments)) => arguments,
                _ => cli.serve,
            };
            let config = Config::load(None, std::iter::empty(), arguments.overrides()).unwrap();
            assert_eq!(config.store.data_dir, PathBuf::from("/d"));
            let listen: Vec<String> = config
                .listeners
                .amqp
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(listen, ["127.0.0.1:1", "[::1]:2", "*:3"]);
            assert_eq!(config.logging.format, LogFormat::Json);
        }
        assert!(Cli::try_parse_from(["mambamq", "--listen", "5672"]).is_err());
        assert!(Cli::try_parse_from(["mambamq", "--data-dir", "/d", "serve"]).is_err());
    }
}
