//! `cli-page`: `docs/cli.md`, made of the flags as `help` knows them.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Arg, Command, CommandFactory};

use crate::args::Cli;
use crate::term;

/// Prints the page.
///
/// # Errors
/// When standard output takes nothing.
pub fn show() -> Result<ExitCode> {
    term::show(&page())?;
    Ok(ExitCode::SUCCESS)
}

const HEAD: &str = "\
# Command line

This page is made from the flags by `cargo run --release -p outpour -- cli-page > docs/cli.md`. `outpour help VERB` says the same.

Text goes to standard output, everything else to standard error. Exit codes: 0, 2 for what you can mend in the call or the files, 1
for what failed while running, 130 after Ctrl-C. A MODEL is a folder, a GGUF file, or `demo`, the small model that is built in.
";

fn page() -> String {
    let mut cli = Cli::command();
    cli.build();
    let verbs = verbs(&cli, "");
    let shared = shared_groups(&verbs);
    let mut page = HEAD.to_owned() + "\n| verb | |\n|---|---|\n";
    for (name, verb) in &verbs {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(page, "| [{name}](#{}) | {} |", anchor(name), escaped(&about));
    }
    for (name, verb) in &verbs {
        page += &section(name, verb, &shared);
    }
    for group in &shared {
        let (_, verb) = verbs.iter().find(|(_, verb)| members(verb, group).next().is_some()).expect("a verb has it");
        let title = title(group);
        let _ = write!(page, "\n## {title}\n\n{}", table(members(verb, group)));
    }
    page
}

/// Every verb that `help` lists, by its whole name; verbs of verbs in place of those that hold them.
fn verbs<'a>(command: &'a Command, before: &str) -> Vec<(String, &'a Command)> {
    let listed = command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help");
    listed
        .flat_map(|verb| {
            let name = format!("{before}{}", verb.get_name());
            let inner = verbs(verb, &format!("{name} "));
            if inner.is_empty() { vec![(name, verb)] } else { inner }
        })
        .collect()
}

/// Groups of flags that more than one verb takes: each is told once.
fn shared_groups(verbs: &[(String, &Command)]) -> Vec<String> {
    let mut shared = Vec::new();
    let all = verbs.iter().flat_map(|(_, verb)| verb.get_groups().map(|group| group.get_id().as_str()));
    let all: Vec<&str> = all.collect();
    for id in &all {
        if all.iter().filter(|other| other == &id).count() > 1 && !shared.iter().any(|known| known == id) {
            shared.push((*id).to_owned());
        }
    }
    shared
}

fn members<'a>(verb: &'a Command, group: &str) -> impl Iterator<Item = &'a Arg> {
    let group = verb.get_groups().find(|other| other.get_id() == group);
    let ids: Vec<_> = group.into_iter().flat_map(|group| group.get_args()).collect();
    verb.get_arguments().filter(move |arg| ids.contains(&arg.get_id()))
}

/// `LoadArgs` as a heading.
fn title(group: &str) -> String {
    format!("{} flags", group.trim_end_matches("Args"))
}

fn section(name: &str, verb: &Command, shared: &[String]) -> String {
    let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
    let positional = verb.get_positionals().map(|arg| format!(" {}", shown(arg))).collect::<String>();
    let required =
        verb.get_opts().filter(|arg| arg.is_required_set()).map(|arg| format!(" {}", shown(arg))).collect::<String>();
    let call = format!("outpour {name}{positional}{required} [FLAGS]");
    let mut text = format!("\n## {name}\n\n{}.\n\n```text\n{call}\n```\n", escaped(&about));
    let taken: Vec<&String> = shared.iter().filter(|group| members(verb, group).next().is_some()).collect();
    let elsewhere = |arg: &&Arg| taken.iter().any(|group| members(verb, group).any(|one| one.get_id() == arg.get_id()));
    let own: Vec<&Arg> = verb.get_arguments().filter(|arg| !elsewhere(arg)).collect();
    let own = table(own.into_iter());
    if !own.is_empty() {
        text += &format!("\n{own}");
    }
    if !taken.is_empty() {
        let links: Vec<String> =
            taken.iter().map(|group| format!("[{0}](#{1})", title(group), anchor(&title(group)))).collect();
        text += &format!("\nIt takes the {} as well.\n", links.join(" and the "));
    }
    if let Some(after) = verb.get_after_help() {
        text += &match after.to_string() {
            // A list: a title, and what is indented below it.
            after if after.contains('\n') && after.lines().skip(1).all(|line| line.starts_with("  ")) => {
                format!("\n```text\n{after}\n```\n")
            }
            after => format!("\n{}\n", escaped(&after)),
        };
    }
    text
}

/// A row for each argument that `help` shows.
fn table<'a>(args: impl Iterator<Item = &'a Arg>) -> String {
    let listed: Vec<&Arg> =
        args.filter(|arg| !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str())).collect();
    if listed.is_empty() {
        return String::new();
    }
    let mut text = "| | |\n|---|---|\n".to_owned();
    for arg in listed {
        let mut help = arg.get_help().map(ToString::to_string).map(|help| escaped(&help)).unwrap_or_default();
        let values = arg.get_possible_values();
        if arg.get_action().takes_values() && !values.is_empty() {
            let value = |value: &clap::builder::PossibleValue| match value.get_help() {
                Some(help) => format!("`{}`: {}", value.get_name(), escaped(&help.to_string())),
                None => format!("`{}`", value.get_name()),
            };
            help += &format!(". {}", values.iter().map(value).collect::<Vec<_>>().join("; "));
        }
        let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        if arg.get_action().takes_values() && !defaults.is_empty() {
            help += &format!(" [default: {}]", defaults.join(" "));
        }
        let _ = writeln!(text, "| `{}` | {help} |", shown(arg));
    }
    text
}

/// An argument as it is typed: `-n, --max-tokens <N>`.
fn shown(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    let values = names.iter().map(|name| format!("<{name}>")).collect::<Vec<_>>().join(" ");
    if arg.is_positional() {
        return if arg.is_required_set() { values } else { format!("[{}]", values.trim_matches(['<', '>'])) };
    }
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    let flags = short.into_iter().chain(long).collect::<Vec<_>>().join(", ");
    if arg.get_action().takes_values() { format!("{flags} {values}") } else { flags }
}

/// The place of a heading, as renderers of Markdown name it.
fn anchor(heading: &str) -> String {
    heading.to_lowercase().replace(' ', "-")
}

/// Plain text as Markdown that reads the same, also in a cell of a table; `code` stays code.
fn escaped(text: &str) -> String {
    let parts = text.split('`').enumerate().map(|(i, part)| {
        let part = part.replace('|', "\\|");
        if i % 2 == 1 { part } else { part.replace('<', "&lt;").replace('*', "\\*") }
    });
    parts.collect::<Vec<_>>().join("`")
}
