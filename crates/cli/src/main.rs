//! The command line: one verb a file. Text goes to standard output, everything else to standard error.

#![forbid(unsafe_code)]

mod args;
mod batch;
mod bench;
mod builtin;
mod chat;
mod cli_page;
mod demo;
mod doctor;
mod eval;
mod generation;
mod gguf_text;
mod inspect;
mod logits;
mod model;
mod npy;
mod outline;
mod pack;
mod plan;
mod routes;
mod run;
mod serve;
mod session;
mod summary;
mod synth;
mod term;
mod tokenize;
mod verify;
mod watch;

use std::process::ExitCode;

use args::{Cli, RoutesVerb, Verb};
use clap::Parser;
use outpour_engine::EngineError;
use outpour_store::StoreError;

fn main() -> ExitCode {
    let mut cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let done = builtin::resolve(&mut cli.verb).and_then(|()| match cli.verb {
        Verb::Run(args) => run::run(&args),
        Verb::Chat(args) => chat::chat(&args),
        Verb::Serve(args) => serve::serve(&args),
        Verb::Batch(args) => batch::batch(&args),
        Verb::Demo(args) => demo::demo(&args),
        Verb::Inspect(args) => inspect::inspect(&args),
        Verb::Plan(args) => plan::plan(&args),
        Verb::Logits(args) => logits::logits(&args),
        Verb::Tokenize(args) => tokenize::tokenize(&args),
        Verb::Bench(args) => bench::bench(&args),
        Verb::Doctor(args) => doctor::doctor(&args),
        Verb::Synth(args) => synth::synth(&args),
        Verb::Routes(RoutesVerb::Replay(args)) => routes::replay(&args),
        Verb::Eval(args) => eval::eval(&args),
        Verb::Pack(args) => pack::pack(&args),
        Verb::Verify(args) => verify::verify(&args),
        Verb::CliPage => cli_page::show(),
    });
    match done {
        Ok(code) => code,
        Err(error) => {
            term::note(&format!("outpour: {}", term::one_line(&message(&error))));
            ExitCode::from(exit_code(&error))
        }
    }
}

/// Help and version as clap shows them; an error in one line.
fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    if matches!(error.kind(), DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand) {
        // Where neither output takes it, nobody is there to be told.
        let _ = error.print();
        return ExitCode::from(error.exit_code() as u8);
    }
    let text = error.to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty() && !line.starts_with("Usage:"));
    let line = lines.collect::<Vec<_>>().join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    term::note(&format!("outpour: {}; `outpour help` lists verbs and flags", term::one_line(line)));
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
    let store = error.chain().find_map(|cause| match cause.downcast_ref::<EngineError>() {
        Some(EngineError::Store(store)) => Some(store),
        _ => cause.downcast_ref::<StoreError>(),
    });
    match store {
        Some(StoreError::Read { .. } | StoreError::Changed { .. }) => 1,
        _ => 2,
    }
}
