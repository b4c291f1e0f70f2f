//! The node itself.

use serde_json::json;

use super::{Done, Invocation, Node};

/// The commands of this file and how they are called.
pub(super) const COMMANDS: [(&str, &str); 1] = [("set_log_level", "set_log_level <log_level>")];

/// Does one command.
pub(super) fn perform(node: &mut Node, invocation: &Invocation) -> Done {
    let [level] = invocation.exactly::<1>()?;
    invocation.banner(&format!("Setting log level to \"{level}\" ..."));
    node.ask("set_log_level", json!({"level": level}))?;
    Ok(())
}
