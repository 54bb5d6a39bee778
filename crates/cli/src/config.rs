//! Where flags come from that are not given: `OUTPOUR_*` variables, then the configuration file, then the defaults of the program
//! and the model. `--prefill-chunk` is `OUTPOUR_PREFILL_CHUNK`, and `prefill-chunk` in the file: for every verb that has the flag,
//! or in a table of a verb's name for that verb alone.
//!
//! ```toml
//! ram = "24G"
//! [serve]
//! port = 9000
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::builder::BoolishValueParser;
use clap::{Arg, ArgAction, Command};
use outpour_store::machine::home_dir;
use strsim::normalized_damerau_levenshtein;
use toml::{Table, Value};

/// What the variables of flags begin with.
const PREFIX: &str = "OUTPOUR_";
/// From here on a name is taken for a misspelt one, of 1.
const LIKENESS_MIN: f64 = 0.6;
/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// `$XDG_CONFIG_HOME/outpour/config.toml`, or below `~/.config`.
pub fn path() -> Option<PathBuf> {
    let home = || home_dir().map(|home| home.join(".config"));
    let dir = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute()).or_else(home)?;
    Some(dir.join("outpour/config.toml"))
}

/// The program's flags, with what the file and variables say of them; without the file where that is no TOML, or names what is no
/// flag, and then one line with the file and the key.
pub fn configured(command: Command) -> (Command, Option<anyhow::Error>) {
    let filled = match path().filter(|path| path.exists()) {
        None => with_file(command.clone(), &Table::new()),
        Some(path) => {
            read(&path).and_then(|file| with_file(command.clone(), &file).with_context(|| path.display().to_string()))
        }
    };
    match filled {
        Ok(filled) => (filled, None),
        Err(flaw) => (with_file(command.clone(), &Table::new()).unwrap_or(command), Some(flaw)),
    }
}

fn read(path: &Path) -> Result<Table> {
    if !path.is_file() {
        bail!("{}: is no file; remove it, or write the flags to a file of that name", path.display());
    }
    let bytes = outpour_store::read::whole::read_whole(path, FILE_BYTES_MAX)?;
    let path = path.display();
    let text = String::from_utf8(bytes).with_context(|| format!("{path}: is not UTF-8 text; write it again"))?;
    text.parse::<Table>().map_err(|error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        anyhow::anyhow!("{path}: line {line} is no TOML: {}", error.message())
    })
}

fn with_file(command: Command, file: &Table) -> Result<Command> {
    let verbs: Vec<String> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    let flags = flags(&command);
    for (key, value) in file {
        match value {
            Value::Table(table) if verbs.contains(key) => {
                if let Some(unknown) = table.keys().find(|key| !flags.contains(key)) {
                    bail!("[{key}] {unknown} is no flag; {}", meant(unknown, &flags));
                }
            }
            Value::Table(_) => bail!("[{key}] is no verb; {}", meant(key, &verbs)),
            _ if flags.contains(key) => {}
            _ => bail!("{key} is no flag; {}", meant(key, &flags)),
        }
    }
    let mut command = fill(command, &|flag| file.get(flag).filter(|value| !value.is_table()))?;
    for verb in verbs {
        let own = file.get(&verb).and_then(Value::as_table);
        let value =
            |flag: &str| own.and_then(|own| own.get(flag)).or_else(|| file.get(flag).filter(|value| !value.is_table()));
        let mut problem = None;
        command = command.mut_subcommand(&verb, |verb| {
            fill(verb.clone(), &value).unwrap_or_else(|error| {
                problem = Some(error);
                verb
            })
        });
        if let Some(problem) = problem {
            return Err(problem);
        }
    }
    Ok(command)
}

/// The names of all flags of a command and its verbs.
fn flags(command: &Command) -> Vec<String> {
    let own = command.get_arguments().filter_map(Arg::get_long).map(str::to_owned);
    own.chain(command.get_subcommands().flat_map(flags)).collect()
}

/// What to do about a name that is none of the `known` ones: the nearest of them, if one is near.
fn meant(unknown: &str, known: &[String]) -> String {
    let bare = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).to_owned();
    let likeness = |name: &str| normalized_damerau_levenshtein(&bare(unknown), &bare(name));
    let near = known.iter().map(|name| (likeness(name), name)).max_by(|a, b| a.0.total_cmp(&b.0));
    match near.filter(|(likeness, _)| *likeness >= LIKENESS_MIN) {
        Some((_, name)) => format!("did you mean {name}? `outpour help VERB` lists the flags of a verb"),
        None => "`outpour help VERB` lists the flags of a verb".to_owned(),
    }
}

/// What there is to say of variables that begin like the program's and are not: a line for each.
pub fn unknown_variables(command: &Command, names: impl Iterator<Item = String>) -> Vec<String> {
    let known: Vec<String> = flags(command).iter().map(|flag| variable(flag)).collect();
    let unknown = names.filter(|name| name.starts_with(PREFIX) && !known.contains(name));
    let said = |name: String| {
        let next = meant(&name, &known);
        format!("{name} is the variable of no flag and changes nothing; {next}")
    };
    unknown.map(said).collect()
}

/// A command whose flags have these values unless they are given.
fn fill<'v>(command: Command, value: &dyn Fn(&str) -> Option<&'v Value>) -> Result<Command> {
    let mut problem = None;
    let mut filled = command.mut_args(|arg| {
        fill_one(arg.clone(), value).unwrap_or_else(|error| {
            problem = Some(error);
            arg
        })
    });
    let verbs: Vec<String> = filled.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
    for verb in verbs {
        filled = filled.mut_subcommand(verb, |verb| {
            fill(verb.clone(), value).unwrap_or_else(|error| {
                problem = Some(error);
                verb
            })
        });
    }
    problem.map_or(Ok(filled), Err)
}

fn fill_one<'v>(arg: Arg, value: &dyn Fn(&str) -> Option<&'v Value>) -> Result<Arg> {
    let Some(flag) = arg.get_long().map(str::to_owned) else { return Ok(arg) };
    if ["help", "version"].contains(&flag.as_str()) {
        return Ok(arg);
    }
    // Mentioned once, in the help of all verbs. An empty one says nothing.
    let empty = std::env::var_os(variable(&flag)).is_some_and(|value| value.is_empty());
    let mut arg = if empty { arg } else { arg.env(variable(&flag)).hide_env(true) };
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        arg = arg.value_parser(BoolishValueParser::new());
    }
    match value(&flag) {
        None => Ok(arg),
        Some(value) => {
            let texts = texts(value)
                .with_context(|| format!("{flag}: is neither text, number nor switch, nor a list of them"))?;
            Ok(arg.required(false).default_values(texts).hide_default_value(true))
        }
    }
}

/// The variable of a flag.
pub fn variable(flag: &str) -> String {
    format!("{PREFIX}{}", flag.to_ascii_uppercase().replace('-', "_"))
}

fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Integer(number) => Some(vec![number.to_string()]),
        Value::Float(number) => Some(vec![number.to_string()]),
        Value::Boolean(switch) => Some(vec![switch.to_string()]),
        Value::Array(values) => values.iter().map(texts).collect::<Option<Vec<_>>>().map(|texts| texts.concat()),
        Value::Datetime(_) | Value::Table(_) => None,
    }
}

/// The flag that a message speaks of, and where its value came from, if that was not the call.
pub fn source_of(message: &str) -> Option<(&str, String)> {
    let flag = message.split("--").nth(1)?.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').next()?;
    let given =
        std::env::args().any(|arg| arg.strip_prefix("--").is_some_and(|arg| arg.split('=').next() == Some(flag)));
    if given {
        return None;
    }
    if std::env::var_os(variable(flag)).is_some_and(|value| !value.is_empty()) {
        return Some((flag, format!("in {}", variable(flag))));
    }
    let path = path().filter(|path| path.exists())?;
    let file = read(&path).ok()?;
    let of_verb = |verb: String| file.get(&verb)?.as_table()?.get(flag);
    let set = file.get(flag).or_else(|| std::env::args().find_map(of_verb));
    set.map(|_| (flag, format!("in {}", path.display())))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::*;
    use crate::args::{Cli, Verb};

    fn parse(file: &str, args: &[&str]) -> Result<Cli, String> {
        let table = file.parse::<Table>().map_err(|error| error.to_string())?;
        let command = with_file(Cli::command(), &table).map_err(|error| format!("{error:#}"))?;
        let matches = command.try_get_matches_from(args).map_err(|error| error.to_string())?;
        Cli::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_win_over_the_file_and_a_verbs_table_over_the_rest_of_it() {
        let file = "ram = '2G'\nprecise = true\nctx = 77\ntemperature = 0.5\n[serve]\nport = 9000\nram = '3G'\ncors = ['http://a', 'http://b']\n";
        let Verb::Serve(serve) = parse(file, &["outpour", "serve", "x"]).expect("flags").verb else { panic!() };
        assert_eq!((serve.port, serve.load.ctx, serve.load.precise), (9000, Some(77), true));
        assert_eq!(serve.load.ram.map(|ram| ram.0), Some(3 << 30));
        assert_eq!(serve.cors, ["http://a", "http://b"]);
        let Verb::Serve(serve) = parse(file, &["outpour", "serve", "x", "--port", "1", "--ctx=5"]).expect("flags").verb
        else {
            panic!()
        };
        assert_eq!((serve.port, serve.load.ctx), (1, Some(5)));
        let Verb::Run(run) = parse(file, &["outpour", "run", "x", "--ram", "1G"]).expect("flags").verb else {
            panic!()
        };
        assert_eq!((run.load.ram.map(|ram| ram.0), run.sampling.temperature), (Some(1 << 30), Some(0.5)));
    }

    #[test]
    fn what_is_no_flag_is_refused_by_its_name() {
        for (file, named) in [
            ("rma = 1", "rma is no flag; did you mean ram?"),
            ("qqq = 1", "qqq is no flag; `outpour help"),
            ("[serve]\nprot = 1", "[serve] prot is no flag; did you mean port?"),
            ("[srve]\nport = 1", "[srve] is no verb; did you mean serve?"),
        ] {
            let problem = parse(file, &["outpour", "serve", "x"]).err().expect("no flag");
            assert!(problem.starts_with(named), "{problem}");
        }
        assert!(parse("ram = 'much'", &["outpour", "serve", "x"]).err().expect("no amount").contains("--ram"));
        assert!(
            parse("ram = 2020-01-01", &["outpour", "serve", "x"]).err().expect("no amount").contains("ram: is neither")
        );
    }

    #[test]
    fn variables_of_no_flag_are_named_with_the_nearest_one() {
        let names = ["OUTPOUR_RAM", "OUTPOUR_PREFIL_CHUNK", "HOME", "OUTPOUR_QQQ"].map(str::to_owned);
        let said = unknown_variables(&Cli::command(), names.into_iter());
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("OUTPOUR_PREFIL_CHUNK") && said[0].contains("OUTPOUR_PREFILL_CHUNK?"), "{said:?}");
        assert!(said[1].starts_with("OUTPOUR_QQQ") && !said[1].contains("did you mean"), "{said:?}");
    }

    #[test]
    fn every_flag_takes_its_variable_and_its_key() {
        let mut command = with_file(Cli::command(), &Table::new()).expect("no file");
        command.build();
        let mut flags = 0;
        for verb in command.get_subcommands() {
            for arg in verb.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str())) {
                let Some(long) = arg.get_long() else { continue };
                assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(variable(long).as_str()));
                flags += 1;
            }
        }
        assert!(flags > 100, "{flags}");
        command.debug_assert();
    }
}
