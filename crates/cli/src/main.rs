//! The command line: one verb a file. Text goes to standard output, everything else to standard error.

#![forbid(unsafe_code)]

mod args;
mod batch;
mod bench;
mod builtin;
mod chat;
mod cli_page;
mod config;
mod demo;
mod doctor;
mod eval;
mod floors;
mod generation;
mod gguf_text;
mod inspect;
mod launch;
mod logits;
mod manual;
mod model;
mod names;
mod npy;
mod outline;
mod pack;
mod plan;
mod pull;
mod routes;
mod run;
mod serve;
mod session;
mod shown;
mod summary;
mod synth;
mod term;
mod tokenize;
mod verify;
mod watch;

use std::process::ExitCode;

use args::{Cli, RoutesVerb, Verb};
use clap::{CommandFactory, FromArgMatches};
use outpour_engine::EngineError;
use outpour_hub::HubError;
use outpour_store::StoreError;

fn main() -> ExitCode {
    term::survive_size_limits();
    let (command, flaw) = config::configured(Cli::command());
    let named = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    config::unknown_variables(&command, named)
        .iter()
        .for_each(|line| term::note(&format!("outpour: {}", term::one_line(line))));
    let parsed = command.clone().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let Cli { offline, mut verb } = match (parsed, &flaw) {
        (Ok(cli), Some(flaw)) if is_configured(&cli.verb) => return fail(flaw),
        (Err(error), Some(flaw)) if !is_help(&error) => return fail(flaw),
        (parsed, flaw) => {
            flaw.iter().for_each(warn);
            match parsed {
                Ok(cli) => cli,
                Err(error) => return usage(&error),
            }
        }
    };
    outpour_store::NOTICE.set(|line| term::note(&format!("outpour: {}", term::one_line(line)))).unwrap_or_default();
    // What is not in the cache is described by outlines until the end.
    let done = names::resolve(&mut verb, offline).and_then(|outlines| match verb {
        Verb::Run(args) => run::run(&args),
        Verb::Chat(args) => chat::chat(&args),
        Verb::Serve(args) => serve::serve(&args),
        Verb::Batch(args) => batch::batch(&args),
        Verb::Demo(args) => demo::demo(&args),
        Verb::Inspect(args) => inspect::inspect(&args),
        Verb::Plan(args) => plan::plan(&args, !outlines.is_empty()),
        Verb::Logits(args) => logits::logits(&args),
        Verb::Tokenize(args) => tokenize::tokenize(&args),
        Verb::Bench(args) => bench::bench(&args),
        Verb::Doctor(args) => doctor::doctor(&args),
        Verb::Synth(args) => synth::synth(&args),
        Verb::Routes(RoutesVerb::Replay(args)) => routes::replay(&args),
        Verb::Eval(args) => eval::eval(&args),
        Verb::Pack(args) => pack::pack(&args),
        Verb::Verify(args) => verify::verify(&args),
        Verb::Pull(args) => pull::pull(&args, offline),
        Verb::Ls(args) => pull::ls(&args),
        Verb::Rm(args) => pull::rm(&args),
        Verb::Launch(args) => launch::launch(&args),
        Verb::Completions(args) => manual::completions(&args, command),
        Verb::Man(args) => manual::man(&args, command),
        Verb::CliPage => cli_page::show(),
    });
    done.unwrap_or_else(|error| fail(&error))
}

/// Whether flags that may stand in the configuration file matter to a verb.
fn is_configured(verb: &Verb) -> bool {
    !matches!(verb, Verb::Ls(_) | Verb::Rm(_) | Verb::Completions(_) | Verb::Man(_) | Verb::CliPage)
}

fn fail(error: &anyhow::Error) -> ExitCode {
    warn(error);
    ExitCode::from(exit_code(error))
}

fn warn(error: &anyhow::Error) {
    let message = message(error);
    let source = config::source_of(&message).map(|(flag, place)| format!(" (--{flag} is set {place})"));
    term::note(&format!("outpour: {}{}", term::one_line(&message), source.unwrap_or_default()));
}

/// Help and the version are asked for like errors.
fn is_help(error: &clap::Error) -> bool {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    matches!(error.kind(), DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand)
}

/// Help and version as clap shows them; an error in one line.
fn usage(error: &clap::Error) -> ExitCode {
    if is_help(error) {
        // Where neither output takes it, nobody is there to be told.
        let _ = error.print();
        return ExitCode::from(error.exit_code() as u8);
    }
    let text = error.to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty() && !line.starts_with("Usage:"));
    let line = lines.collect::<Vec<_>>().join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    let source = config::source_of(line).map_or_else(String::new, |(_, place)| format!(" ({place})"));
    term::note(&format!("outpour: {}{source}; `outpour help` lists verbs and flags", term::one_line(line)));
    ExitCode::from(2)
}

/// An error and its causes, each said once: some tell their cause themselves.
fn message(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |message, cause| match message.as_str() {
        "" => cause,
        said if said.contains(&cause) => message,
        _ => format!("{message}: {cause}"),
    })
}

/// 2 for what the user can mend in the call or the files, 1 for what failed while it ran, 130 after Ctrl-C.
fn exit_code(error: &anyhow::Error) -> u8 {
    if matches!(error.downcast_ref(), Some(EngineError::Cancelled)) {
        return term::INTERRUPTED;
    }
    match error.downcast_ref() {
        Some(HubError::Stopped { .. }) => return term::INTERRUPTED,
        Some(
            HubError::Network { .. }
            | HubError::Status { .. }
            | HubError::TooMany { .. }
            | HubError::WrongHash { .. }
            | HubError::Full { .. },
        ) => return 1,
        _ => {}
    }
    let store = error.chain().find_map(|cause| match cause.downcast_ref::<EngineError>() {
        Some(EngineError::Store(store)) => Some(store),
        _ => cause.downcast_ref::<StoreError>(),
    });
    match store {
        Some(StoreError::Read { .. } | StoreError::Changed { .. }) => 1,
        _ => 2,
    }
}
