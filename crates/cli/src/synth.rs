//! `synth`: writes a model with random weights, and measures how it chooses its experts.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use outpour_engine::routing::{self, Extent, Measured};
use outpour_engine::{EngineError, Inspection, Options};
use outpour_model::ModelError;
use outpour_model::synth::{self, Routing, Synth};
use outpour_store::bytes::Bytes;
use outpour_store::checkpoint::parse_json;
use outpour_store::machine::Machine;
use outpour_store::read::ReaderKind;
use outpour_store::read::whole::read_whole;
use outpour_store::trace::Policy;
use outpour_store::write::free_bytes;
use outpour_text::made;
use serde_json::{Value, json};

use crate::args::SynthArgs;
use crate::{model, term};

/// Largest config.json that is read.
const CONFIG_BYTES_MAX: u64 = 16 << 20;
/// Left free on the drive beside the model.
const MARGIN_BYTES: u64 = 64 << 20;
/// The check generates no more: enough for a trace over a dozen topics.
const CHECK_TOKENS_MAX: usize = 512;
/// The check begins no further token after this time.
const CHECK_TIME_MAX: Duration = Duration::from_secs(50);

/// Makes a model.
///
/// # Errors
/// One line about the config, a flag or the folder; what was begun is removed.
pub fn synth(args: &SynthArgs) -> Result<ExitCode> {
    let routing = Routing { skew: args.skew, locality: args.locality, residual: args.residual };
    routing.check().map_err(anyhow::Error::msg)?;
    let mut config = read_config(&args.config)?;
    if let Some(layers) = args.layers {
        synth::cut(&mut config, layers).map_err(|error| about(&args.config, error))?;
    }
    check_unused(&args.out)?;
    let texts = texts(&mut config);
    let without_tokenizer = texts.is_empty();
    let synth =
        Synth::new(&config, args.format, texts, routing, args.seed).map_err(|error| about(&args.config, error))?;
    let synth = match args.shard {
        Some(Bytes(0)) => bail!("--shard 0: give the size of a file, such as 4G"),
        Some(Bytes(bytes)) => synth.in_shards(bytes),
        None => synth,
    };
    check_room(&args.out, synth.bytes())?;
    term::catch_interrupt()?;
    if without_tokenizer {
        term::note("Its vocabulary is too small for a tokenizer: it gets none.");
    }
    let progress = term::WriteProgress::start();
    let done = synth.write(&args.out, &mut |written, total| progress.written(written, total))?;
    let seconds = progress.finish();
    if done.is_break() {
        term::note(&format!("Stopped; what was written to {} is removed.", args.out.display()));
        return Err(EngineError::Cancelled.into());
    }
    let bytes = synth.bytes();
    term::note(&format!(
        "Made {} of {} in {}: {} in {seconds:.1} s, {:.2} GB/s.",
        args.format,
        config["model_type"].as_str().unwrap_or("?"),
        args.out.display(),
        Bytes(bytes),
        bytes as f64 / seconds / 1e9
    ));
    if !args.no_check { check(&args.out, args.seed) } else { Ok(ExitCode::SUCCESS) }
}

/// An error with the path of the config that it is about, which need not be called config.json.
fn about(path: &Path, error: ModelError) -> anyhow::Error {
    match error {
        ModelError::Config(problem) => anyhow!("{}: {problem}", path.display()),
        error => error.into(),
    }
}

fn read_config(path: &Path) -> Result<Value> {
    let path: PathBuf = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    let bytes = read_whole(&path, CONFIG_BYTES_MAX)?;
    let config: Value = parse_json(&bytes).with_context(|| format!("{}: is not valid JSON", path.display()))?;
    if !config.is_object() {
        bail!("{}: is not a JSON object; give a model's config.json", path.display());
    }
    Ok(config)
}

/// What is in a folder already is never written over.
fn check_unused(dir: &Path) -> Result<()> {
    let entries = std::fs::read_dir(dir);
    if entries.is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{}: the folder is not empty; name a new one, or remove what is in it", dir.display());
    }
    if dir.exists() && !dir.is_dir() {
        bail!("{}: is no folder; name a new one", dir.display());
    }
    Ok(())
}

fn check_room(dir: &Path, bytes: u64) -> Result<()> {
    let absolute = std::path::absolute(dir).with_context(|| format!("{}: is no path", dir.display()))?;
    let there = absolute.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    let free = free_bytes(there).with_context(|| format!("{}: cannot tell the free room", there.display()))?;
    if free < bytes + MARGIN_BYTES {
        bail!(
            "{}: the model takes {}, and {} are free; free some, name another drive, or give --layers",
            dir.display(),
            Bytes(bytes + MARGIN_BYTES),
            Bytes(free)
        );
    }
    Ok(())
}

/// A tokenizer and template for the config's vocabulary, and its ids in the config; nothing where there is no room for the
/// 256 bytes.
fn texts(config: &mut Value) -> Vec<(&'static str, String)> {
    let wrapped = config["text_config"].is_object();
    let text = if wrapped { &config["text_config"] } else { &*config };
    let vocab = text["vocab_size"].as_u64().and_then(|vocab| u32::try_from(vocab).ok());
    let Some(made) = vocab.and_then(made::files) else { return Vec::new() };
    let eos = json!(made.eos);
    if wrapped {
        config["text_config"]["eos_token_id"] = eos.clone();
    }
    config["eos_token_id"] = eos;
    made.files
}

/// Runs the model and says how it chooses its experts.
fn check(dir: &Path, seed: u64) -> Result<ExitCode> {
    match measure(dir, seed) {
        Ok(Some((measured, experts))) => term::show(&describe(&measured, experts))?,
        Ok(None) => {}
        Err(error) if matches!(error.downcast_ref(), Some(EngineError::Cancelled)) => return Err(error),
        // The model is whole; that it does not run here is worth a line.
        Err(error) => term::note(&format!("Its choice of experts was not measured: {error:#}")),
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(dir: &Path, seed: u64) -> Result<Option<(Measured, usize)>> {
    let inspection = Inspection::open(dir, false)?;
    let experts = inspection.layout.experts_total();
    if experts == 0 {
        return Ok(None);
    }
    let ram = Machine::here().default_ram_bytes().context("the system does not tell how much memory is free")?;
    let options = Options {
        ram: usize::try_from(ram)?,
        beside: model::tokenizer_bytes(inspection.checkpoint()),
        ctx: Some(CHECK_TOKENS_MAX.min(inspection.facts().context_max)),
        ..Options::default()
    };
    // A token in the middle of the vocabulary is a word.
    let first = inspection.facts().vocab as u32 / 2;
    let mut engine = model::load(inspection, &options, ReaderKind::Auto)?;
    let extent = Extent { tokens_max: CHECK_TOKENS_MAX, time_max: CHECK_TIME_MAX, seed };
    let progress = term::Steps::start();
    let measured = routing::measure(&mut engine, first, extent, &mut |tokens| {
        progress.next(&format!("its routes: {tokens} tokens"))
    });
    progress.finish();
    Ok(Some((measured?, experts)))
}

fn describe(measured: &Measured, experts: usize) -> String {
    let mut text = format!(
        "{} tokens of its own text, at temperature 1; hits of a cache, counted after the first quarter of them:\n",
        measured.tokens
    );
    for share in [25, 50] {
        let rate = |policy| 100.0 * measured.hit_rate(policy, experts * share / 100);
        let [lru, lfu, belady] = [Policy::Lru, Policy::Lfu, Policy::Belady].map(rate);
        text += &format!("{share:>4} % of the experts   LRU {lru:.1} %   LFU {lfu:.1} %   Belady {belady:.1} %\n");
    }
    text += &format!(
        "The next layer's router, on a layer's output, guesses {:.1} % of the experts.\n",
        100.0 * measured.guess_accuracy()
    );
    text
}
