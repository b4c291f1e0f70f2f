//! What goes with the binary into a package: manual page and completions, made from the command line's own description.

use std::io;

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;

use crate::cli::Cli;

/// Which of them.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Kind {
    /// The manual page, in roff
    Man,
    /// Completions for bash
    Bash,
    /// Completions for elvish
    Elvish,
    /// Completions for fish
    Fish,
    /// Completions for `PowerShell`
    #[value(name = "powershell")]
    PowerShell,
    /// Completions for zsh
    Zsh,
}

/// Flags of `mambamq generate`.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// What to print
    kind: Kind,
}

/// What `arguments` ask for.
///
/// # Errors
/// None that memory would not make.
pub(crate) fn generate(arguments: &GenerateArgs) -> io::Result<String> {
    let mut command = Cli::command();
    let mut text = Vec::new();
    let shell = match arguments.kind {
        Kind::Man => {
            clap_mangen::Man::new(command).render(&mut text)?;
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
        Kind::Bash => Shell::Bash,
        Kind::Elvish => Shell::Elvish,
        Kind::Fish => Shell::Fish,
        Kind::PowerShell => Shell::PowerShell,
        Kind::Zsh => Shell::Zsh,
    };
    clap_complete::generate(shell, &mut command, "mambamq", &mut text);
    Ok(String::from_utf8_lossy(&text).into_owned())
}
