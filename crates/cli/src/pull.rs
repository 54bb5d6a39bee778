//! `pull`, `ls`, `rm`: models in the Hugging Face cache.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use outpour_hub::Cached;
use outpour_model::Config;
use outpour_model::registry;
use outpour_store::bytes::Bytes;
use serde_json::{Value, json};

use crate::args::{LsArgs, PullArgs, RmArgs};
use crate::{model, names, term};

/// Downloads a model, or its newest version; shows where it lies.
///
/// # Errors
/// One line about the hub, the network or the drive.
pub fn pull(args: &PullArgs, offline: bool) -> Result<ExitCode> {
    term::catch_interrupt()?;
    let name = names::parse(&args.name)?;
    let hub = names::hub(offline)?;
    let there = if offline { hub.find(&name)? } else { None };
    let path = match there {
        Some(path) => path,
        None => names::pull(&hub, &name)?.path,
    };
    term::show(&format!("{}\n", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Shows the models in the cache.
///
/// # Errors
/// When standard output cannot be written to.
pub fn ls(args: &LsArgs) -> Result<ExitCode> {
    let hub = names::hub(true)?;
    let models = hub.cache().list();
    let state = |cached: &Cached| cached.path.as_deref().map_or("incomplete: pull it again".to_owned(), state);
    if args.json {
        let of = |cached: &Cached| {
            json!({
                "name": cached.name.to_string(), "bytes": cached.bytes, "path": cached.path, "state": state(cached),
                "whole": cached.path.is_some(),
            })
        };
        let models: Vec<Value> = models.iter().map(of).collect();
        term::show(&format!("{:#}\n", Value::from(models)))?;
        return Ok(ExitCode::SUCCESS);
    }
    if models.is_empty() {
        term::note(&format!("No model is in {}: `outpour pull ORG/REPO` downloads one.", hub.cache().dir.display()));
    }
    let width = models.iter().map(|cached| cached.name.to_string().len()).max().unwrap_or(0);
    let line = |cached: &Cached| {
        format!("{:width$}  {:>10}  {}\n", cached.name.to_string(), Bytes(cached.bytes).to_string(), state(cached))
    };
    term::show(&models.iter().map(line).collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

/// Whether a whole model can be run.
fn state(path: &Path) -> String {
    if path.is_file() {
        return "ready".to_owned();
    }
    let config = model::glance(path, "config.json").unwrap_or(Value::Null);
    match registry::family(&Config(&config)) {
        Ok(_) => "ready".to_owned(),
        Err(_) => match config["model_type"].as_str() {
            Some(kind) => format!("no model that outpour runs ({})", term::one_line(kind)),
            None => "no model that outpour runs".to_owned(),
        },
    }
}

/// Removes a model from the cache, after asking.
///
/// # Errors
/// When it is not there, or nobody is there to be asked.
pub fn rm(args: &RmArgs) -> Result<ExitCode> {
    let name = names::parse(&args.name)?;
    let hub = names::hub(true)?;
    let removal = hub.cache().removal(&name)?;
    let bytes = Bytes(removal.bytes);
    if !args.yes {
        if !io::stdin().is_terminal() {
            bail!("{name}: {bytes} would be removed, and nobody is there to be asked: add --yes");
        }
        let mut answer = String::new();
        write!(io::stderr(), "Remove {name}, {bytes}, from {}? [y/N] ", hub.cache().dir.display())?;
        io::stdin().lock().read_line(&mut answer)?;
        if !answer.trim().eq_ignore_ascii_case("y") {
            term::note("Nothing was removed.");
            return Ok(ExitCode::SUCCESS);
        }
    }
    hub.cache().remove(&removal)?;
    term::note(&format!("Removed {name}: {bytes} are free again."));
    Ok(ExitCode::SUCCESS)
}
