//! The MambaMQ broker binary: flags, configuration, logging, metrics, signals and exit codes around the broker.
//!
//! Assembles the other crates and knows nothing of AMQP methods. Start reading at [`serve`].

mod alarms;
mod audit;
mod backup;
mod cli;
mod config;
mod control;
mod ctl;
mod definitions;
mod logging;
mod metrics;
mod node;
mod process;
mod remote;
mod serve;
mod shell;
mod store;
mod supervisor;

use std::{
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;

use crate::{
    cli::{Cli, Command, DataDir},
    config::{Config, ConfigError},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The broker could not start or run, or a check failed.
const EXIT_FAILURE: u8 = 1;
/// Wrong command line (clap's own code) or configuration.
const EXIT_USAGE: u8 = 2;

/// Names under which the binary is the tool that operators know.
const TOOLS: [&str; 2] = ["rabbitmqctl", "rabbitmq-diagnostics"];

/// The command line; called as one of [`TOOLS`], the words of `mambamq ctl`.
fn command_line() -> Vec<OsString> {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    let is_tool = words
        .first()
        .and_then(|name| Path::new(name).file_name())
        .is_some_and(|name| TOOLS.iter().any(|tool| name == *tool));
    if is_tool {
        words.insert(1, "ctl".into());
    }
    words
}

fn main() -> ExitCode {
    mamba_memory::give_back_early();
    let cli = Cli::parse_from(command_line());
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(arguments) => match load(arguments.config.as_deref(), arguments.overrides())
        {
            Ok(config) => serve::serve(&config, arguments.stop_with_stdin),
            Err(error) => {
                complain(&format!("the configuration is not valid\n{error}"));
                ExitCode::from(EXIT_USAGE)
            }
        },
        Command::CheckConfig { file } => match load(file.as_deref(), Vec::new()) {
            Ok(config) => print(&config.to_toml()),
            Err(error) => {
                complain(&error.to_string());
                ExitCode::from(EXIT_FAILURE)
            }
        },
        Command::Backup(arguments) => on_folder(&arguments.data, |folder| {
            backup::backup(folder, &arguments).map(|text| print(&text))
        }),
        Command::Restore(arguments) => on_folder(&arguments.data, |folder| {
            backup::restore(folder, &arguments).map(|text| print(&text))
        }),
        Command::Store(arguments) => on_folder(arguments.data(), |folder| {
            let sound = store::run(folder, &arguments)?;
            Ok::<_, store::StoreError>(if sound {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(EXIT_FAILURE)
            })
        }),
        Command::Definitions(arguments) => on_folder(arguments.data(), |folder| {
            definitions::run(folder, &arguments).map(|text| print(&text))
        }),
        Command::Ctl { words } => ctl::run(words, |folder, config| {
            let of = |name| std::env::var_os(name).map(PathBuf::from);
            if let Some(folder) = folder.or_else(|| of("MAMBAMQ_DATA_DIR")) {
                return Ok(folder);
            }
            let config = config.or_else(|| of("MAMBAMQ_CONFIG"));
            load(config.as_deref(), Vec::new())
                .map(|config| config.store.data_dir)
                .map_err(|error| format!("the configuration is not valid\n{error}"))
        }),
        Command::Publish(arguments) => mamba_shell::publish(&arguments),
        Command::Consume(arguments) => mamba_shell::consume(&arguments),
        Command::Perf(arguments) => mamba_perf::run(*arguments),
        Command::Generate(arguments) => match shell::generate(&arguments) {
            Ok(text) => print(&text),
            Err(error) => {
                complain(&error.to_string());
                ExitCode::from(EXIT_FAILURE)
            }
        },
        Command::Version => print(concat!("mambamq ", env!("CARGO_PKG_VERSION"), "\n")),
    }
}

/// Finds the data folder as the broker would, and complains about what kept `work` from being done.
fn on_folder<E: std::fmt::Display>(
    data: &DataDir,
    work: impl FnOnce(&Path) -> Result<ExitCode, E>,
) -> ExitCode {
    let folder = match &data.data_dir {
        Some(folder) => folder.clone(),
        None => match load(data.config.as_deref(), Vec::new()) {
            Ok(config) => config.store.data_dir,
            Err(error) => {
                complain(&format!("the configuration is not valid\n{error}"));
                return ExitCode::from(EXIT_USAGE);
            }
        },
    };
    match work(&folder) {
        Ok(code) => code,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn load(
    file: Option<&Path>,
    overrides: Vec<(&'static str, toml::Value, &'static str)>,
) -> Result<Config, ConfigError> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Config::load(file, environment, overrides).map(Config::resolved)
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(EXIT_FAILURE),
    }
}

/// Tells the operator what is wrong; nothing more can be done when standard error is closed.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "mambamq: {text}");
}
