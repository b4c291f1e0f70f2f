//! Operators' commands for tools on other machines: what they are and what they answer is the node's affair.

use std::{borrow::Cow, net::SocketAddr};

use serde_json::{Map, Value};

use crate::{
    answer::{Answer, Outcome, Refusal},
    request::Request,
};

/// Path of the endpoint.
pub(crate) const PATH: &str = "/control/{command}";

/// Does a command in the name of a user at an address, and notes it in the audit log. It may block.
pub type Perform = Box<
    dyn Fn(&str, SocketAddr, &str, &Map<String, Value>) -> Result<Value, CommandRefused>
        + Send
        + Sync,
>;

/// Why a command was not done.
#[derive(Clone, Debug)]
pub struct CommandRefused {
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
}

/// The body's object are the command's arguments; the answer is what the control socket answers as `result`.
pub(crate) fn perform(request: &Request<'_>) -> Outcome {
    let arguments = request.fields()?.0;
    let (user, command) = (&request.user().name, request.name("command"));
    (request.node().control)(user, request.peer, command, &arguments)
        .map(Answer::Json)
        .map_err(|CommandRefused { code, message }| {
            let status = match code.as_str() {
                "unknown_command" | "no_such_user" | "no_such_vhost" | "no_such_queue" => 404,
                "failed" => 500,
                _ => 400,
            };
            Refusal::new(status, Cow::Owned(code), message)
        })
}
