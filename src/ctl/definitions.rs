//! Definitions, out of the node and into it.

use std::path::Path;

use serde_json::Value;

use super::{Done, EX_DATAERR, EX_UNAVAILABLE, Failure, Invocation, Node};
use crate::definitions::{read, request, tell_warnings, write};

/// The commands of this file and how they are called.
pub(super) const COMMANDS: [(&str, &str); 2] = [
    (
        "export_definitions",
        "export_definitions <file_path | \"-\"> [--vhost <vhost>]",
    ),
    (
        "import_definitions",
        "import_definitions [<file_path | \"-\">] [--vhost <vhost>]",
    ),
];

/// Does one command.
pub(super) fn perform(node: &mut Node, invocation: &Invocation) -> Done {
    let (command, vhost) = (invocation.command.as_str(), invocation.vhost.as_deref());
    let bad_file = |reason: String| {
        Failure::new(
            EX_DATAERR,
            format!("Error (argument validation): Bad argument: {reason}"),
        )
    };
    if command == "export_definitions" {
        let [path] = invocation.exactly()?;
        let folder = Path::new(path).parent();
        if let Some(folder) =
            folder.filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir())
        {
            let reason = format!("Directory {} does not exist", folder.display());
            return Err(bad_file(reason));
        }
        if path != "-" {
            invocation.banner(&format!(
                "Exporting definitions in JSON to a file at \"{path}\" ..."
            ));
        }
        let answer = node.ask(command, Value::Object(request(vhost, None)))?;
        return write(path, &answer).map_err(|error| Failure::error(EX_DATAERR, error));
    }
    let path = match invocation.words.as_slice() {
        [] => "-",
        [path] => path,
        _ => return Err(invocation.wrong_count(false)),
    };
    if path == "-" {
        invocation.banner("Importing definitions in JSON from standard input ...");
    } else if Path::new(path).exists() {
        invocation.banner(&format!(
            "Importing definitions in JSON from a file at \"{path}\" ..."
        ));
    } else {
        return Err(bad_file(format!("File {path} does not exist")));
    }
    let document = read(path).map_err(|error| Failure::error(EX_DATAERR, error))?;
    let asked = Value::Object(request(vhost, Some(document)));
    let answer = node
        .try_ask(command, asked)?
        .map_err(|refused| Failure::error(EX_UNAVAILABLE, refused.message))?;
    tell_warnings(&answer);
    Ok(())
}
