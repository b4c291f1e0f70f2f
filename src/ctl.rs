//! `mambamq ctl COMMAND`: rabbitmqctl's commands for users, virtual hosts, permissions, limits, policies, parameters, definitions and connections, over the
//! control socket of a broker on this machine, or the management API of one elsewhere (`--url`). Arguments, output and exit codes are
//! rabbitmqctl's.

mod checks;
mod connections;
mod definitions;
mod node;
mod output;
mod parameters;
mod policies;
mod queues;
mod startup;
mod status;
mod tenants;
mod topology;

use std::{
    io::{self, BufRead, Write},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use serde_json::{Map, Value};

use self::output::Format;
use crate::{
    control::{ANSWER_TIME, Control, ControlError},
    remote::{Remote, RemoteOptions},
};

const EX_OK: u8 = 0;
const EX_USAGE: u8 = 64;
const EX_DATAERR: u8 = 65;
const EX_NOUSER: u8 = 67;
const EX_UNAVAILABLE: u8 = 69;
const EX_SOFTWARE: u8 = 70;
const EX_TEMPFAIL: u8 = 75;

/// What went wrong, and what the shell is told.
#[derive(Debug)]
struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    fn new(code: u8, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }

    /// Like the tool that people know: the text below a line of its own.
    fn error(code: u8, text: impl std::fmt::Display) -> Self {
        Self::new(code, format!("Error:\n{text}"))
    }
}

type Done = Result<(), Failure>;

/// The words of a command line, sorted.
#[derive(Debug, Default)]
struct Invocation {
    command: String,
    words: Vec<String>,
    /// Options only some commands know, without their dashes.
    options: Map<String, Value>,
    vhost: Option<String>,
    quiet: bool,
    silent: bool,
    no_headers: bool,
    format: Format,
    data_dir: Option<PathBuf>,
    config: Option<PathBuf>,
    remote: RemoteOptions,
    /// `--timeout`.
    time: Option<Duration>,
}

/// Options without a value that only some commands know.
const FLAGS: [&str; 9] = [
    "--force",
    "--if-empty",
    "--if-unused",
    "--pre-hashed-password",
    "--global",
    "--clear-password",
    "--online",
    "--offline",
    "--local",
];
/// Options with a value that only some commands know.
const VALUES: [&str; 14] = [
    "--pid",
    "--address",
    "--offset",
    "--count",
    "--body-limit",
    "--priority",
    "--apply-to",
    "--description",
    "--tags",
    "--default-queue-type",
    "--protected-from-deletion",
    "--user",
    "--hashing-algorithm",
    "--limit",
];

impl Invocation {
    fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, Failure> {
        let mut this = Self::default();
        let mut words = words.into_iter();
        let mut only_words = false;
        let (mut certificate, mut key) = (None, None);
        let missing = |option: &str| {
            Failure::new(
                EX_USAGE,
                format!("Error: the option {option} needs a value"),
            )
        };
        while let Some(word) = words.next() {
            let (name, attached) = match word.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (word.as_str(), None),
            };
            let is_option = name.len() > 1 && name.starts_with('-') && !only_words;
            let mut value = || {
                attached
                    .clone()
                    .or_else(|| words.next())
                    .ok_or_else(|| missing(name))
            };
            match name {
                "--" if !only_words => only_words = true,
                "-q" | "--quiet" if is_option => this.quiet = true,
                "-s" | "--silent" if is_option => this.silent = true,
                "-l" | "--longnames" | "--print-stacktrace" | "--dry-run" if is_option => {}
                "--no-table-headers" if is_option => this.no_headers = true,
                "-p" | "--vhost" if is_option => this.vhost = Some(value()?),
                "-n" | "--node" | "--script-name" if is_option => drop(value()?),
                "-t" | "--timeout" if is_option => this.time = seconds(&value()?)?,
                // Two commands have short forms of their own.
                "-e" if is_option => drop(this.options.insert("if-empty".to_owned(), true.into())),
                "-u" if is_option => drop(this.options.insert("if-unused".to_owned(), true.into())),
                "-P" if is_option => drop(this.options.insert("pid".to_owned(), value()?.into())),
                "--url" if is_option => this.remote.url = Some(value()?),
                "--username" if is_option => this.remote.username = Some(value()?),
                "--password-file" if is_option => {
                    this.remote.password_file = Some(value()?.into());
                }
                "--tls-ca-cert-file" if is_option => {
                    this.remote.files.authorities = Some(value()?.into());
                }
                "--tls-cert-file" if is_option => certificate = Some(PathBuf::from(value()?)),
                "--tls-key-file" if is_option => key = Some(PathBuf::from(value()?)),
                "--formatter" if is_option => {
                    let name = value()?;
                    this.format = Format::by_name(&name).ok_or_else(|| {
                        Failure::new(EX_USAGE, format!("Error: unknown formatter '{name}': expected table, pretty_table, json, json_stream, csv, string or erlang"))
                    })?;
                }
                "--data-dir" if is_option => this.data_dir = Some(value()?.into()),
                "--config" if is_option => this.config = Some(value()?.into()),
                option if is_option && FLAGS.contains(&option) => {
                    this.options
                        .insert(option[2..].to_owned(), Value::Bool(true));
                }
                option if is_option && VALUES.contains(&option) => {
                    this.options
                        .insert(option[2..].to_owned(), Value::String(value()?));
                }
                option if is_option && !option[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                    return Err(Failure::new(
                        EX_USAGE,
                        format!(
                            "Error (argument validation): Invalid options for this command:\n{option}"
                        ),
                    ));
                }
                _ if this.command.is_empty() => this.command = word,
                _ => this.words.push(word),
            }
        }
        this.remote.files.identity = match (certificate, key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => {
                let text = "Error: --tls-cert-file and --tls-key-file go together";
                return Err(Failure::new(EX_USAGE, text));
            }
        };
        Ok(this)
    }

    fn vhost(&self) -> &str {
        self.vhost.as_deref().unwrap_or("/")
    }

    fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).and_then(Value::as_str)
    }

    fn has(&self, flag: &str) -> bool {
        self.options.contains_key(flag)
    }

    /// Exactly the words that were asked for.
    fn exactly<const N: usize>(&self) -> Result<[&str; N], Failure> {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let given = words.len();
        words.try_into().map_err(|_| self.wrong_count(given < N))
    }

    /// The columns that were asked for, or the usual ones.
    fn columns<'a>(&'a self, known: &[&str], usual: &[&'a str]) -> Result<Vec<&'a str>, Failure> {
        let words = self.words.iter().flat_map(|word| word.split([',', ' ']));
        let columns: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
        if columns.is_empty() {
            return Ok(usual.to_vec());
        }
        let mut unknown = columns.clone();
        unknown.retain(|column| !known.contains(column));
        if unknown.is_empty() {
            return Ok(columns);
        }
        let text = format!(
            "Error (argument validation): Info key(s) {} are not supported",
            unknown.join(",")
        );
        Err(Failure::new(EX_USAGE, text))
    }

    fn wrong_count(&self, too_few: bool) -> Failure {
        let what = if too_few {
            "not enough arguments."
        } else {
            "too many arguments."
        };
        let usage = usage(&self.command).unwrap_or_default();
        Failure::new(
            EX_USAGE,
            format!(
                "Error (argument validation): {what}\nArguments given:\n\t{} {}\n\nUsage\n\nmambamq ctl [--data-dir <folder>] [--quiet] {usage}",
                self.command,
                self.words.join(" ")
            ),
        )
    }

    /// What is being done, for people; programs ask for silence or another form.
    fn banner(&self, text: &str) {
        if !self.quiet && !self.silent && self.format.has_banner() {
            say(text);
        }
    }

    /// A secret that was not given as an argument comes on the standard input.
    fn secret(&self, given: Option<&str>) -> Result<String, Failure> {
        if let Some(given) = given {
            return Ok(given.to_owned());
        }
        if !self.quiet && !self.silent {
            let _ = write!(io::stdout(), "Password: ").and_then(|()| io::stdout().flush());
        }
        let mut line = String::new();
        let read = io::stdin().lock().read_line(&mut line);
        let _ = writeln!(io::stdout());
        match read {
            Ok(octets) if octets > 0 => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
            _ => Err(Failure::error(
                EX_SOFTWARE,
                "Password is not provided via argument or stdin",
            )),
        }
    }
}

/// A time in seconds; none for `infinity`.
fn seconds(text: &str) -> Result<Option<Duration>, Failure> {
    if text == "infinity" {
        return Ok(None);
    }
    let seconds = text.parse::<f64>().ok().filter(|seconds| *seconds > 0.0);
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.map(Some).ok_or_else(|| {
        let text =
            format!("Error: --timeout is a number of seconds above 0 or infinity, not '{text}'");
        Failure::new(EX_USAGE, text)
    })
}

/// The running broker.
#[derive(Debug)]
enum Node {
    Here(Control),
    Elsewhere(Arc<Remote>, Duration),
}

/// The broker said no.
#[derive(Debug)]
struct Refused {
    code: String,
    message: String,
}

impl Node {
    /// Asks for something the broker may refuse.
    fn try_ask(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> Result<Result<Value, Refused>, Failure> {
        let arguments = match arguments {
            Value::Object(arguments) => arguments,
            _ => Map::new(),
        };
        let answer = match self {
            Self::Here(control) => control.ask(command, arguments),
            Self::Elsewhere(remote, time) => remote.ask(command, arguments, *time),
        };
        match answer {
            Ok(value) => Ok(Ok(value)),
            Err(ControlError::Refused { code, message }) => Ok(Err(Refused { code, message })),
            Err(error) => Err(unanswered(&error)),
        }
    }

    /// Asks for something and turns a refusal into rabbitmqctl's exit code.
    fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, Failure> {
        self.try_ask(command, arguments)?.map_err(|refused| {
            let Refused { code, message } = refused;
            match code.as_str() {
                "no_such_user" => Failure::error(EX_NOUSER, message),
                "no_such_vhost" => Failure::new(EX_DATAERR, message),
                "exists" => Failure::error(EX_SOFTWARE, message),
                "bad_request" => Failure::error(EX_DATAERR, message),
                _ => Failure::error(EX_UNAVAILABLE, message),
            }
        })
    }
}

fn unanswered(error: &ControlError) -> Failure {
    let code = match error {
        ControlError::Slow(_) => EX_TEMPFAIL,
        _ => EX_UNAVAILABLE,
    };
    Failure::new(code, format!("Error: {error}"))
}

fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Commands with how they are called, and who does them.
type Part = (
    &'static [(&'static str, &'static str)],
    fn(&mut Node, &Invocation) -> Done,
);

const PARTS: [Part; 10] = [
    (&tenants::COMMANDS, tenants::perform),
    (&policies::COMMANDS, policies::perform),
    (&topology::COMMANDS, topology::perform),
    (&queues::COMMANDS, queues::perform),
    (&parameters::COMMANDS, parameters::perform),
    (&definitions::COMMANDS, definitions::perform),
    (&connections::COMMANDS, connections::perform),
    (&status::COMMANDS, status::perform),
    (&node::COMMANDS, node::perform),
    (&checks::COMMANDS, checks::perform),
];

/// All commands and how they are called.
fn commands() -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    let parts = PARTS.iter().flat_map(|(commands, _)| commands.iter());
    parts.chain(&startup::COMMANDS)
}

/// How a command is called; `None` if there is none of that name.
fn usage(command: &str) -> Option<&'static str> {
    let mut all = commands();
    all.find_map(|(name, usage)| (*name == command).then_some(*usage))
}

fn performer(command: &str) -> Option<fn(&mut Node, &Invocation) -> Done> {
    PARTS.iter().find_map(|(commands, perform)| {
        let known = commands.iter().any(|(name, _)| *name == command);
        known.then_some(*perform)
    })
}

const ELSEWHERE: &str = "\
A broker on another machine, through its management API:

   --url https://HOST:15671    or MAMBAMQ_CTL_URL
   --username USER             or MAMBAMQ_CTL_USERNAME; the user needs the tag administrator
   --password-file FILE        or the password in MAMBAMQ_CTL_PASSWORD; the terminal is asked otherwise
   --tls-ca-cert-file FILE     who signed the broker's certificate, PEM; the system's authorities otherwise
   --tls-cert-file FILE, --tls-key-file FILE
                               a certificate of one's own, where the broker asks for one
";

/// All commands.
fn help() -> String {
    let mut text = format!(
        "Usage\n\nmambamq ctl [--data-dir <folder>] [--quiet] <command> [<command options>]\n\n{ELSEWHERE}\nAvailable commands:\n\n"
    );
    for (_, usage) in commands() {
        text.push_str("   ");
        text.push_str(usage);
        text.push('\n');
    }
    text
}

/// Runs one command. `data_dir` finds the folder of the broker when none was given.
pub(crate) fn run(
    words: Vec<String>,
    data_dir: impl FnOnce(Option<PathBuf>, Option<PathBuf>) -> Result<PathBuf, String>,
) -> ExitCode {
    let outcome = Invocation::parse(words).and_then(|mut invocation| {
        if invocation.command.is_empty() || invocation.command == "help" {
            say(&help());
            return Ok(());
        }
        let perform = performer(&invocation.command);
        if perform.is_none() && !startup::waits(&invocation.command) {
            return Err(Failure::new(
                EX_USAGE,
                format!(
                    "\nCommand '{}' not found. \n\n{}",
                    invocation.command,
                    help()
                ),
            ));
        }
        if let Some(done) = tenants::without_node(&invocation) {
            return done;
        }
        let place = Place::of(&mut invocation, data_dir)?;
        let Some(perform) = perform else {
            return startup::perform(&place, &invocation);
        };
        let mut node = place
            .open(invocation.time)
            .map_err(|error| unanswered(&error))?;
        perform(&mut node, &invocation)
    });
    match outcome {
        Ok(()) => ExitCode::from(EX_OK),
        Err(Failure { code, text }) => {
            let _ = writeln!(io::stderr(), "{text}");
            ExitCode::from(code)
        }
    }
}

/// Where the broker is.
#[derive(Debug)]
enum Place {
    /// This is its data folder.
    Here(PathBuf),
    Elsewhere(Arc<Remote>),
}

impl Place {
    /// What the command line says, then the environment; without either, this machine.
    fn of(
        invocation: &mut Invocation,
        data_dir: impl FnOnce(Option<PathBuf>, Option<PathBuf>) -> Result<PathBuf, String>,
    ) -> Result<Self, Failure> {
        let bad = |text: &dyn std::fmt::Display| Failure::new(EX_USAGE, format!("Error: {text}"));
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let folder = invocation.data_dir.take();
        let mut remote = std::mem::take(&mut invocation.remote);
        if folder.is_some() && remote.url.is_some() {
            return Err(bad(
                &"--data-dir is a broker on this machine and --url one anywhere: only one of them",
            ));
        }
        if folder.is_none() && remote.url.is_none() {
            remote.url = variable("MAMBAMQ_CTL_URL");
        }
        let Some(url) = remote.url.take() else {
            if remote != RemoteOptions::default() {
                return Err(bad(&"--username, --password-file and --tls-… need --url"));
            }
            return data_dir(folder, invocation.config.take())
                .map(Self::Here)
                .map_err(|error| bad(&error));
        };
        remote.username = remote.username.or_else(|| variable("MAMBAMQ_CTL_USERNAME"));
        if remote.password_file.is_none() {
            remote.password = variable("MAMBAMQ_CTL_PASSWORD");
        }
        let remote = Remote::new(url, remote).map_err(|error| bad(&error))?;
        if remote.is_readable_by_others() {
            let _ = writeln!(
                io::stderr(),
                "Warning: name and password travel unencrypted over http; use https"
            );
        }
        Ok(Self::Elsewhere(Arc::new(remote)))
    }

    fn open(&self, time: Option<Duration>) -> Result<Node, ControlError> {
        Ok(match self {
            Self::Here(folder) => {
                let control = Control::connect(folder)?;
                if let Some(time) = time {
                    control.set_time(time)?;
                }
                Node::Here(control)
            }
            Self::Elsewhere(remote) => {
                Node::Elsewhere(Arc::clone(remote), time.unwrap_or(ANSWER_TIME))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Invocation, Failure> {
        Invocation::parse(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn options_stand_anywhere() {
        let one = parse("-q -p v set_permissions u .* .* .*").unwrap();
        let other = parse("set_permissions u .* .* .* --vhost=v --quiet").unwrap();
        for invocation in [one, other] {
            assert_eq!(invocation.command, "set_permissions");
            assert_eq!(invocation.vhost(), "v");
            assert!(invocation.quiet);
            assert_eq!(invocation.exactly::<4>().unwrap()[0], "u");
        }
        let dashes = parse("add_user u -- -q").unwrap();
        assert_eq!(dashes.words, ["u", "-q"]);
    }

    #[test]
    fn what_is_not_understood_is_a_usage_error() {
        for line in [
            "add_user u p --bogus",
            "list_users --formatter x",
            "list_users -p",
        ] {
            assert_eq!(parse(line).unwrap_err().code, EX_USAGE, "{line}");
        }
        let few = parse("set_permissions u").unwrap();
        let text = few.exactly::<4>().unwrap_err().text;
        assert!(text.contains("not enough arguments"));
    }
}
