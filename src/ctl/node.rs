//! The node itself.

use serde_json::{Value, json};

use super::{Done, EX_DATAERR, Failure, Invocation, Node};

/// The commands of this file and how they are called.
pub(super) const COMMANDS: [(&str, &str); 3] = [
    ("set_log_level", "set_log_level <log_level>"),
    (
        "set_vm_memory_high_watermark",
        "set_vm_memory_high_watermark <fraction> | absolute <value>",
    ),
    (
        "set_disk_free_limit",
        "set_disk_free_limit <disk_limit> | mem_relative <fraction>",
    ),
];

/// Does one command.
pub(super) fn perform(node: &mut Node, invocation: &Invocation) -> Done {
    let banner = |text: String| invocation.banner(&text);
    let words: Vec<&str> = invocation.words.iter().map(String::as_str).collect();
    let command = invocation.command.as_str();
    let threshold = match (command, words.as_slice()) {
        ("set_log_level", _) => {
            let [level] = invocation.exactly::<1>()?;
            banner(format!("Setting log level to \"{level}\" ..."));
            node.ask(command, json!({"level": level}))?;
            return Ok(());
        }
        ("set_vm_memory_high_watermark", ["absolute", size]) => {
            banner(format!("Setting memory threshold to {size} bytes ..."));
            octets(size)
        }
        ("set_vm_memory_high_watermark", [part]) => {
            banner(format!("Setting memory threshold to {part} ..."));
            fraction(part).filter(|part| part.as_f64() <= Some(1.0))
        }
        ("set_disk_free_limit", ["mem_relative", part]) => {
            banner(format!(
                "Setting disk free limit to {part} times the total RAM ..."
            ));
            fraction(part)
        }
        ("set_disk_free_limit", [size]) => {
            banner(format!("Setting disk free limit to {size} bytes ..."));
            octets(size)
        }
        (_, words) => return Err(invocation.wrong_count(words.is_empty())),
    };
    let Some(threshold) = threshold else {
        let text = format!(
            "Error (argument validation): Bad argument.\nArguments given:\n\t{command} {}",
            words.join(" ")
        );
        return Err(Failure::new(EX_DATAERR, text));
    };
    node.ask(command, json!({"threshold": threshold}))?;
    Ok(())
}

/// A part of the memory.
fn fraction(text: &str) -> Option<Value> {
    let part: f64 = text.parse().ok()?;
    (part.is_finite() && part >= 0.0).then(|| part.into())
}

/// Octets, or a text with a unit, which the broker reads.
fn octets(text: &str) -> Option<Value> {
    let digits = text.starts_with(|first: char| first.is_ascii_digit());
    digits.then(|| {
        text.parse::<u64>()
            .map_or_else(|_| text.into(), Value::from)
    })
}
