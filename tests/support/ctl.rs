//! The command line tool, and a virtual host for one test.

use std::process::{Command, Output};

use super::{Broker, Client, Options, broker, name};

/// Runs the tool against this broker's folder, or the other broker's own tool (`MAMBAMQ_TEST_CTL`).
pub(crate) fn run(broker: Option<&Broker>, words: &[&str]) -> Output {
    if let Ok(tool) = std::env::var("MAMBAMQ_TEST_CTL") {
        let mut tool = tool.split_whitespace();
        let mut command = Command::new(tool.next().unwrap());
        return command.args(tool).args(words).output().unwrap();
    }
    let folder = broker.unwrap_or_else(|| broker::shared()).folder();
    let mut command = broker::bare_command();
    command.arg("ctl").arg("--data-dir").arg(folder);
    command.args(words).output().unwrap()
}

/// What the tool says, when all is well.
#[track_caller]
pub(crate) fn ctl_on(broker: Option<&Broker>, words: &[&str]) -> String {
    let output = run(broker, words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
pub(crate) fn ctl(words: &[&str]) -> String {
    ctl_on(None, words)
}

/// What the tool complains of, with this exit code.
#[track_caller]
pub(crate) fn refused_on(broker: Option<&Broker>, code: i32, words: &[&str]) -> String {
    let output = run(broker, words);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

pub(crate) fn leaked(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

/// A virtual host of one test that guest may use, gone after it.
pub(crate) struct Vhost<'b> {
    pub(crate) name: &'static str,
    broker: Option<&'b Broker>,
}

impl<'b> Vhost<'b> {
    /// On the shared broker.
    pub(crate) fn new() -> Self {
        Self::on(None)
    }

    pub(crate) fn on(broker: Option<&'b Broker>) -> Self {
        let this = Self {
            name: leaked(name()),
            broker,
        };
        ctl_on(broker, &["add_vhost", this.name]);
        this.ctl(&["set_permissions", "guest", ".*", ".*", ".*"]);
        this
    }

    /// Runs the tool for this virtual host.
    #[track_caller]
    pub(crate) fn ctl(&self, words: &[&str]) -> String {
        let (command, rest) = words.split_first().unwrap();
        let mut all = vec![*command, "-q", "-p", self.name];
        all.extend(rest);
        ctl_on(self.broker, &all)
    }

    /// What the tool complains of, with this exit code.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, words: &[&str]) -> String {
        let (command, rest) = words.split_first().unwrap();
        let mut all = vec![*command, "-q", "-p", self.name];
        all.extend(rest);
        refused_on(self.broker, code, &all)
    }

    pub(crate) fn connect(&self) -> Client {
        let options = Options {
            virtual_host: self.name,
            address: self.broker.map(|broker| broker.amqp),
            ..Options::default()
        };
        Client::with(&options)
    }
}

impl Drop for Vhost<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            run(self.broker, &["delete_vhost", self.name]);
        }
    }
}
