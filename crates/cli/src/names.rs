//! What a model may be called wherever one is taken: a path; `demo`, the one that is built in; `org/repo[:quant]`, which is found
//! in the Hugging Face cache, or downloaded into it. A path that exists is always a path.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use outpour_hub::{Hub, ModelName, Outline, Patience, Pulled, Settings};
use outpour_store::bytes::Bytes;

use crate::args::Verb;
use crate::{builtin, term};

/// Puts paths wherever a verb names models. Of a model that is not here, `plan`, `inspect` and `tokenize` get outlines, which are
/// there as long as what is given back.
///
/// # Errors
/// One line about the name, the hub or the drive.
pub fn resolve(verb: &mut Verb, offline: bool) -> Result<Vec<Outline>> {
    let headers_suffice = matches!(verb, Verb::Plan(_) | Verb::Inspect(_) | Verb::Tokenize(_));
    let mut outlines = Vec::new();
    for path in models(verb) {
        if path.as_path() == Path::new(builtin::NAME) {
            *path = builtin::folder()?;
            continue;
        }
        let name = path.to_str().filter(|_| !path.exists()).and_then(ModelName::parse);
        let Some(name) = name else { continue };
        let hub = hub(offline)?;
        let asked = || match hub.is_offline() {
            true => format!("{name} is no folder here and not in the cache"),
            false => format!("{name} is no folder here and not in the cache, so the hub was asked"),
        };
        *path = match hub.find(&name)? {
            Some(found) => found,
            None if headers_suffice => {
                term::catch_interrupt()?;
                let outline = outline(&hub, &name).with_context(asked)?;
                let path = outline.path.clone();
                outlines.push(outline);
                path
            }
            None => {
                term::catch_interrupt()?;
                pull(&hub, &name).with_context(asked)?.path
            }
        };
    }
    Ok(outlines)
}

/// Where a verb names models.
fn models(verb: &mut Verb) -> Vec<&mut PathBuf> {
    match verb {
        Verb::Run(args) => vec![&mut args.model],
        Verb::Chat(args) => vec![&mut args.model],
        Verb::Serve(args) => vec![&mut args.model],
        Verb::Batch(args) => vec![&mut args.model],
        Verb::Inspect(args) => vec![&mut args.model],
        Verb::Plan(args) => vec![&mut args.model],
        Verb::Logits(args) => vec![&mut args.model],
        Verb::Tokenize(args) => vec![&mut args.model],
        Verb::Bench(args) => vec![&mut args.model],
        Verb::Doctor(args) => args.model.iter_mut().collect(),
        Verb::Eval(args) => std::iter::once(&mut args.model).chain(&mut args.against).collect(),
        Verb::Pack(args) => vec![&mut args.model],
        Verb::Verify(args) => vec![&mut args.model],
        Verb::Launch(args) => args.model.iter_mut().collect(),
        Verb::Demo(_)
        | Verb::Synth(_)
        | Verb::Routes(_)
        | Verb::Pull(_)
        | Verb::Ls(_)
        | Verb::Rm(_)
        | Verb::Completions(_)
        | Verb::Man(_)
        | Verb::CliPage => Vec::new(),
    }
}

/// The hub as the environment says.
///
/// # Errors
/// When HF_ENDPOINT or HF_TOKEN make no sense.
pub fn hub(offline: bool) -> Result<Hub> {
    let mut settings = Settings::from_env()?;
    settings.offline |= offline;
    Ok(Hub::new(settings, Patience::default(), term::note)?)
}

/// A name of the hub.
///
/// # Errors
/// When it is none.
pub fn parse(text: &str) -> Result<ModelName> {
    match ModelName::parse(text) {
        Some(name) => Ok(name),
        None => bail!("{text:?} is no name of a model on the hub: give ORG/REPO, or ORG/REPO:QUANT"),
    }
}

/// Downloads a model, with the progress shown.
///
/// # Errors
/// As [`Hub::pull`].
pub fn pull(hub: &Hub, name: &ModelName) -> Result<Pulled> {
    if !hub.is_offline() {
        term::note(&format!("Downloading what is missing of {name} into {}.", hub.cache().dir.display()));
    }
    let bar = term::DownloadProgress::start();
    let pulled = hub.pull(name, &mut |progress| bar.show(progress));
    let seconds = bar.finish();
    let pulled = pulled?;
    let came = match pulled.fetched {
        0 => "nothing was missing".to_owned(),
        fetched => {
            let speed = fetched as f64 / seconds.max(1e-3) / 1e6;
            let digits = usize::from(seconds < 10.0) + usize::from(seconds < 1.0);
            format!("of which {} came now, in {seconds:.digits$} s ({speed:.1} MB/s)", Bytes(fetched))
        }
    };
    term::note(&format!("{name} is there: {} in {} files, {came}.", Bytes(pulled.bytes), pulled.files));
    Ok(pulled)
}

fn outline(hub: &Hub, name: &ModelName) -> Result<Outline> {
    let steps = term::Steps::start_of("reading headers");
    let outline = hub.outline(name, &mut |progress| match progress.total {
        0 => steps.next(&format!("of {name}: {}", Bytes(progress.there))),
        _ => steps.next(&format!("and small files of {name}: {}", Bytes(progress.there))),
    });
    steps.finish();
    let outline = outline?;
    term::note(&format!(
        "{name} is not here: this is from {} of the headers of its {}, as the hub has them.",
        Bytes(outline.header_bytes),
        Bytes(outline.weights_bytes)
    ));
    Ok(outline)
}

/// What a model is called that lies in a folder of the cache, or in an outline.
pub fn called(path: &Path) -> Option<String> {
    let folders = path.components().filter_map(|folder| folder.as_os_str().to_str());
    folders.filter_map(ModelName::of_folder).next_back().map(|name| name.repo_id())
}
