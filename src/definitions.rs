//! `mambamq definitions`: what a node has but its messages, as RabbitMQ's JSON, out of the running node and into it.

use std::{
    fs,
    io::{self, Read, Write},
    path::Path,
};

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use crate::{
    cli::DataDir,
    complain,
    control::{Control, ControlError},
};

/// Longest document, in octets: what the control socket takes, with room for the escapes.
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 64 << 20;

/// `mambamq definitions`.
#[derive(Debug, Args)]
pub(crate) struct DefinitionsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write users, virtual hosts, policies, queues, exchanges and bindings of the running node
    Export(Operand),
    /// Add what a file defines to the running node; refused as a whole if anything in it is wrong
    Import(Operand),
}

#[derive(Debug, Args)]
struct Operand {
    /// The JSON file; `-` is standard output or input
    #[arg(value_name = "FILE", default_value = "-")]
    file: String,
    /// Only this virtual host: a document of its own form
    #[arg(long, value_name = "VHOST")]
    vhost: Option<String>,
    #[command(flatten)]
    data: DataDir,
}

impl DefinitionsArgs {
    /// Which node.
    pub(crate) const fn data(&self) -> &DataDir {
        match &self.action {
            Action::Export(operand) | Action::Import(operand) => &operand.data,
        }
    }
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DefinitionsError {
    #[error("cannot {what} {file}: {source}")]
    File {
        what: &'static str,
        file: String,
        source: io::Error,
    },
    #[error("{0} is longer than {DOCUMENT_BYTES_MAX} octets")]
    TooLong(String),
    #[error("definitions were not imported: {0}")]
    Refused(String),
    #[error(transparent)]
    Control(ControlError),
}

/// Does it with the node that runs on this folder; returns what there is to tell.
pub(crate) fn run(
    data_dir: &Path,
    arguments: &DefinitionsArgs,
) -> Result<String, DefinitionsError> {
    let mut control = Control::connect(data_dir).map_err(DefinitionsError::Control)?;
    match &arguments.action {
        Action::Export(operand) => {
            let asked = request(operand.vhost.as_deref(), None);
            let answer = control
                .ask("export_definitions", asked)
                .map_err(DefinitionsError::Control)?;
            write(&operand.file, &answer)?;
            Ok(String::new())
        }
        Action::Import(operand) => {
            let document = read(&operand.file)?;
            let asked = request(operand.vhost.as_deref(), Some(document));
            let answer = control
                .ask("import_definitions", asked)
                .map_err(|error| match error {
                    ControlError::Refused { message, .. } => DefinitionsError::Refused(message),
                    other => DefinitionsError::Control(other),
                })?;
            tell_warnings(&answer);
            Ok(format!("{} objects imported\n", answer["objects"]))
        }
    }
}

/// What the node is asked with.
pub(crate) fn request(vhost: Option<&str>, document: Option<String>) -> Map<String, Value> {
    let vhost = vhost.map(|vhost| ("vhost".to_owned(), Value::from(vhost)));
    let document = document.map(|text| ("definitions".to_owned(), Value::from(text)));
    vhost.into_iter().chain(document).collect()
}

/// Writes the document of an answer to a file, or to standard output.
pub(crate) fn write(file: &str, answer: &Value) -> Result<(), DefinitionsError> {
    let text = answer["definitions"].as_str().unwrap_or_default();
    let written = if file == "-" {
        writeln!(io::stdout(), "{text}")
    } else {
        fs::write(file, text)
    };
    written.map_err(|source| DefinitionsError::File {
        what: "write",
        file: file.to_owned(),
        source,
    })
}

/// Reads a document from a file, or from standard input.
pub(crate) fn read(file: &str) -> Result<String, DefinitionsError> {
    if file == "-" {
        bounded(file, Ok(io::stdin().lock()))
    } else {
        read_file(Path::new(file))
    }
}

/// Reads a document from a file.
pub(crate) fn read_file(path: &Path) -> Result<String, DefinitionsError> {
    bounded(&path.to_string_lossy(), fs::File::open(path))
}

fn bounded(file: &str, input: io::Result<impl Read>) -> Result<String, DefinitionsError> {
    let mut text = String::new();
    input
        .and_then(|input| input.take(DOCUMENT_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|source| DefinitionsError::File {
            what: "read",
            file: file.to_owned(),
            source,
        })?;
    if text.len() as u64 > DOCUMENT_BYTES_MAX {
        return Err(DefinitionsError::TooLong(file.to_owned()));
    }
    Ok(text)
}

/// Tells what of an import was left out.
pub(crate) fn tell_warnings(answer: &Value) {
    let warnings = answer["warnings"].as_array().into_iter().flatten();
    for warning in warnings.filter_map(Value::as_str) {
        complain(warning);
    }
}
