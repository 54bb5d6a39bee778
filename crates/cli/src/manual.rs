//! `completions` and `man`: what shells and `man` want to know, from the flags themselves.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Command;

use crate::args::{CompletionsArgs, ManArgs};
use crate::term;

/// Shows a shell's script of completions.
///
/// # Errors
/// When standard output cannot be written to.
pub fn completions(args: &CompletionsArgs, mut command: Command) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "outpour", &mut script);
    term::show(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

/// Shows a page of the manual, in roff.
///
/// # Errors
/// When there is no such verb.
pub fn man(args: &ManArgs, mut command: Command) -> Result<ExitCode> {
    // Builds the verbs' full names, as in `outpour run`.
    command.build();
    let page = match &args.verb {
        None => command,
        Some(verb) => match command.find_subcommand(verb) {
            Some(found) => found.clone(),
            None => bail!("{verb:?} is no verb; `outpour help` lists them"),
        },
    };
    let mut roff = Vec::new();
    clap_mangen::Man::new(page).source(concat!("outpour ", env!("CARGO_PKG_VERSION"))).render(&mut roff)?;
    term::show(&String::from_utf8_lossy(&roff))?;
    Ok(ExitCode::SUCCESS)
}
