//! A model folder as the verbs use it: weights, tokenizer, template, defaults.

use std::io::{IsTerminal, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use outpour_engine::profile::{DepthSpeed, DriveRate};
use outpour_engine::sample::Sampling;
use outpour_engine::{Engine, EngineError, Inspection, Options, PROBE_EXPERTS, Snapshots, Timeline};
use outpour_kernels::reference::Reference;
use outpour_model::Facts;
use outpour_model::weights::allocate_region;
use outpour_store::bytes::Bytes;
use outpour_store::checkpoint::{Checkpoint, SourceFile, gguf, parse_json};
use outpour_store::layout::ExpertLayout;
use outpour_store::machine::Machine;
use outpour_store::probe::{self, Flow, Order, Scratch, free_bytes};
use outpour_store::read::whole::read_whole;
use outpour_store::read::{self, Reader, ReaderKind};
use outpour_store::slab;
use outpour_text::{ANSWER_ENDS, ChatTemplate, Tokenizer};
use serde_json::Value;

use crate::args::{LoadArgs, SamplingArgs, StateArgs};
use crate::{gguf_text, term};

/// Memory of a loaded tokenizer for each byte of its file. Of tokenizer.json it was measured (EXPERIMENTS.md); a line of
/// tiktoken.model, of some 17 bytes, comes to a few pairs of 17 bytes in a table that is half full, and so does a piece of
/// tokenizer.model, with a merge or two.
const TOKENIZER_BYTES_PER_BYTE: [(&str, usize); 4] =
    [("tokenizer.json", 2), ("tiktoken.model", 12), ("tekken.json", 2), ("tokenizer.model", 12)];

/// Loads the tokenizer of a model.
///
/// # Errors
/// When there is none, or it is damaged or of an unsupported kind.
pub fn tokenizer_of(checkpoint: &Checkpoint) -> Result<Tokenizer> {
    match checkpoint.gguf() {
        Some(metadata) => gguf_text::tokenizer(metadata),
        None => Ok(Tokenizer::load(checkpoint.dir())?),
    }
}

/// Loads the tokenizer of a folder or GGUF file, whatever else it holds.
///
/// # Errors
/// As [`tokenizer_of`].
pub fn tokenizer(path: &Path) -> Result<Tokenizer> {
    let files = if path.join("tokenizer.json").exists() { None } else { gguf::find(path)? };
    match files {
        Some(files) => gguf_text::tokenizer(&gguf::read_header(&files[0])?.metadata),
        None => Ok(Tokenizer::load(path)?),
    }
}

/// What a model's tokenizer will take, without loading it.
pub fn tokenizer_bytes(checkpoint: &Checkpoint) -> usize {
    if let Some(metadata) = checkpoint.gguf() {
        return gguf_text::tokenizer_bytes(metadata);
    }
    let bytes = |(name, factor): (&str, usize)| {
        let file = std::fs::metadata(checkpoint.dir().join(name)).ok()?;
        Some(file.len() as usize * factor)
    };
    TOKENIZER_BYTES_PER_BYTE.into_iter().find_map(bytes).unwrap_or(0)
}

/// Opens the model in `path`, and its mirrors.
///
/// # Errors
/// As [`Inspection::open_mirrored`].
pub fn open(path: &Path, load: &LoadArgs) -> Result<Inspection> {
    let inspection = Inspection::open_mirrored(path, &load.mirror, load.numerics())?;
    let drive = |dir: &Path| Machine::here().drive(dir).map(|drive| drive.name);
    for mirror in &load.mirror {
        if let (Some(own), Some(other)) = (drive(path), drive(mirror))
            && own == other
        {
            let mirror = mirror.display();
            term::note(&format!("--mirror {mirror}: is on the same drive, {own}, as the model; it gains nothing."));
        }
    }
    Ok(inspection)
}

/// The options of a verb that loads a model, with room for its tokenizer.
///
/// # Errors
/// As [`LoadArgs::options`].
pub fn options(load: &LoadArgs, checkpoint: &Checkpoint) -> Result<Options> {
    load.options(tokenizer_bytes(checkpoint))
}

/// Memory that keeping states on a drive takes.
pub fn states_bytes(args: &StateArgs, inspection: &Inspection) -> usize {
    args.state_dir.as_ref().map_or(0, |_| Snapshots::memory_bytes(inspection.model()))
}

/// Loads a model, showing progress on a terminal. It gives memory back where others need it.
///
/// # Errors
/// As [`Engine::load`].
pub fn load(inspection: Inspection, options: &Options, reader: ReaderKind) -> Result<Engine> {
    let mut engine = load_recorded(inspection, options, reader, None)?;
    engine.govern(Machine::here());
    Ok(engine)
}

/// The same, recording everything from the first read on; all of the memory is kept.
///
/// # Errors
/// As [`load`].
pub fn load_recorded(
    inspection: Inspection,
    options: &Options,
    reader: ReaderKind,
    timeline: Option<&Timeline>,
) -> Result<Engine> {
    if let Some(what) = inspection.lossy() {
        term::note(&format!(
            "Lossy: {what}. This is not the model's own output; `outpour eval --against` measures the cost."
        ));
    }
    check_ram(options.ram)?;
    let trunk = &inspection.plan(options)?.trunk;
    if !trunk.streamed.is_empty() {
        term::note(&format!(
            "Not all of the {} outside the experts fits --ram: {} of {} layers are read anew for every token, and for every \
             chunk of a prompt.",
            Bytes(inspection.trunk.bytes() as u64),
            trunk.streamed.len(),
            inspection.facts().layers,
        ));
    }
    // What parsing left on the heap goes back before the buffers fill.
    slab::trim_heap();
    let reader = open_recorded(reader, inspection.checkpoint().copies(), timeline)?;
    let progress = term::LoadProgress::start();
    let mut engine = Engine::load(inspection, options, reader, &mut |read, total| progress.read(read, total))?;
    progress.finish();
    if let Some(timeline) = timeline {
        engine.record(timeline);
    }
    Ok(engine)
}

/// Refuses memory that this machine, or the control group that this process is in, does not have: it would be killed.
///
/// # Errors
/// Then: says how much there is.
pub fn check_ram(ram: usize) -> Result<()> {
    let machine = Machine::here();
    let own = machine.memory().map(|memory| (memory.total_bytes, "this machine has"));
    let group = machine.cgroup().memory_limit_bytes.map(|limit| (limit, "this container or control group may hold"));
    match own.into_iter().chain(group).min() {
        Some((has, whose)) if ram as u64 > has => bail!(
            "--ram {} is more than the {} that {whose}: give less, or leave --ram out{}",
            Bytes(ram as u64),
            Bytes(has),
            if whose.ends_with("hold") { ", or raise its limit" } else { "" }
        ),
        _ => Ok(()),
    }
}

/// Files that are the model's, and are not written over: its weights on all drives, and, where it is a folder, all that is in it.
pub fn own_files(checkpoint: &Checkpoint) -> Vec<PathBuf> {
    let weights = checkpoint.files().iter().flat_map(|file| std::iter::once(file).chain(file.copies()));
    let mut files: Vec<PathBuf> = weights.map(|file| file.path().to_owned()).collect();
    if checkpoint.gguf().is_none()
        && let Ok(entries) = std::fs::read_dir(checkpoint.dir())
    {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files
}

/// A reader of files that lie on so many drives.
///
/// # Errors
/// When there is none of this kind here.
pub fn open_reader(kind: ReaderKind, drives: usize) -> Result<Box<dyn Reader>> {
    open_recorded(kind, drives, None)
}

/// The same, with each read of each drive recorded.
fn open_recorded(kind: ReaderKind, drives: usize, timeline: Option<&Timeline>) -> Result<Box<dyn Reader>> {
    let recorded = |drives| match timeline {
        Some(timeline) => timeline.reader(drives),
        None => drives,
    };
    read::open_watched(kind, drives, recorded).with_context(|| match kind {
        ReaderKind::Uring => "--reader uring cannot be used here; give --reader pread",
        ReaderKind::Auto | ReaderKind::Pread => "no reader can be started",
    })
}

/// How long [`measure_drive`] takes for each figure.
const DRIVE_TIME: Duration = Duration::from_millis(500);

/// What a drive gives in a second, reading experts of `layout` from these files, of which a token takes `top_k` a layer.
///
/// # Errors
/// When a read fails, or there is no reader or memory.
pub fn measure_drive(
    files: &[Arc<SourceFile>],
    layout: &ExpertLayout,
    top_k: usize,
    reader: ReaderKind,
) -> Result<DriveRate> {
    let slot_bytes = layout.classes().last().copied().unwrap_or(0);
    let memory = allocate_region(&Reference, PROBE_EXPERTS * slot_bytes)?;
    let mut reader = open_reader(reader, files.iter().map(|file| 1 + file.copies().len()).min().unwrap_or(1))?;
    reader.register(&memory);
    let mut measure = |flow| {
        let memory = std::slice::from_ref(&memory);
        probe::record_reads(files, layout, &mut *reader, memory, (flow, Order::Random(1)), DRIVE_TIME)
    };
    let mut bursts = Vec::new();
    for depth in [1, top_k.clamp(1, PROBE_EXPERTS)] {
        bursts.push(DepthSpeed { depth, bytes_per_second: measure(Flow::Bursts(depth))?.bytes_per_second() });
    }
    // What a rested drive gives at first counts in bursts only.
    measure(Flow::Steady(PROBE_EXPERTS))?;
    let steady = measure(Flow::Steady(PROBE_EXPERTS))?;
    reader.unregister(&memory);
    let cpu_seconds_per_byte = steady.cpu_seconds_per_byte();
    Ok(DriveRate { steady: steady.bytes_per_second(), bursts, cpu_seconds_per_byte })
}

/// Bytes of a temporary file where there are no experts to read, and the least that tell something.
const SCRATCH_BYTES: u64 = 512 << 20;
const SCRATCH_BYTES_MIN: u64 = 64 << 20;

/// [`measure_drive`] of a folder's drive, with a temporary file seen as such experts; it takes half of the free space at most.
///
/// # Errors
/// When it cannot be written, which names --drive; as [`measure_drive`]; after Ctrl-C.
pub fn measure_drive_at(folder: &Path, expert_bytes: u32, top_k: usize, reader: ReaderKind) -> Result<DriveRate> {
    let shown = folder.display();
    let instead = "give what the drive brings in a second, as --drive 2.5G";
    let free = free_bytes(folder).unwrap_or(u64::MAX);
    let bytes = SCRATCH_BYTES.min(free / 2);
    let bytes_min = SCRATCH_BYTES_MIN.max(u64::from(expert_bytes)).min(SCRATCH_BYTES);
    ensure!(
        bytes >= bytes_min,
        "{shown}: measuring its drive takes a temporary file of {}, and {} are free there: {instead}",
        Bytes(bytes_min),
        Bytes(free)
    );
    term::note(&format!(
        "Measuring the drive of {shown} with a temporary file of {}; `outpour doctor` measures well, and stores it.",
        Bytes(bytes)
    ));
    let go_on = &mut |_| if term::stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    let scratch =
        Scratch::make(folder, bytes, go_on).with_context(|| format!("the drive is not measured; {instead}"))?;
    let Some(scratch) = scratch else {
        return Err(EngineError::Cancelled.into());
    };
    measure_drive(std::slice::from_ref(&scratch.file), &scratch.records(expert_bytes), top_k, reader)
}

/// The model's chat template, if it has one.
///
/// # Errors
/// When it does not compile.
pub fn template(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>> {
    match checkpoint.gguf() {
        Some(metadata) => gguf_text::template(metadata, tokenizer),
        None => Ok(ChatTemplate::load(checkpoint.dir())?),
    }
}

/// Sampling as the flags say, and where they are silent as generation_config.json says.
///
/// # Errors
/// Names the flag or key that makes no sense.
pub fn sampling(inspection: &Inspection, args: &SamplingArgs) -> Result<Sampling> {
    let config = inspection.checkpoint().json("generation_config.json")?.unwrap_or(Value::Null);
    let model = Sampling::from_generation_config(&config).map_err(anyhow::Error::msg)?;
    let sampling = Sampling {
        temperature: args.temperature.unwrap_or(model.temperature),
        top_k: args.top_k.unwrap_or(model.top_k),
        top_p: args.top_p.unwrap_or(model.top_p),
        min_p: args.min_p.unwrap_or(model.min_p),
        repetition_penalty: args.repetition_penalty.unwrap_or(model.repetition_penalty),
        presence_penalty: args.presence_penalty.unwrap_or(model.presence_penalty),
        frequency_penalty: args.frequency_penalty.unwrap_or(model.frequency_penalty),
        logit_bias: args.logit_bias.clone(),
        seed: args.seed.unwrap_or_else(random_seed),
    };
    sampling.check().map_err(|problem| anyhow::anyhow!("--{}", problem.replacen('_', "-", 1)))?;
    let biased: Vec<u32> = sampling.logit_bias.iter().map(|&(id, _)| id).collect();
    check_tokens(&biased, inspection.facts()).context("--logit-bias")?;
    Ok(sampling)
}

/// Checks that these are tokens of the model.
///
/// # Errors
/// Names the first that is none, and the range.
pub fn check_tokens(tokens: &[u32], facts: &Facts) -> Result<(), EngineError> {
    match tokens.iter().find(|&&token| token as usize >= facts.vocab) {
        Some(&token) => Err(EngineError::TokenOutOfRange { token, vocab: facts.vocab }),
        None => Ok(()),
    }
}

/// Checks that what a tokenizer made of a text are tokens of the model.
///
/// # Errors
/// Names the tokenizer's file.
pub fn check_text(tokens: &[u32], tokenizer: &Tokenizer, facts: &Facts) -> Result<()> {
    check_tokens(tokens, facts).with_context(|| {
        format!("{}: is another model's; download it again, from where the weights are of", tokenizer.file())
    })
}

fn random_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as u64 % 1_000_000_000)
}

/// The tokens that end an answer: those of generation_config.json, of config.json and of the tokenizer, and those that end it
/// whatever these say.
///
/// # Errors
/// When generation_config.json is no JSON.
pub fn stop_tokens(inspection: &Inspection, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let generation = inspection.checkpoint().json("generation_config.json")?.unwrap_or(Value::Null);
    let listed = |config: &Value| -> Vec<u32> {
        let ids = match &config["eos_token_id"] {
            Value::Array(ids) => ids.clone(),
            id => vec![id.clone()],
        };
        ids.iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok()).collect()
    };
    let mut ids = listed(&generation);
    if ids.is_empty() {
        ids = listed(inspection.checkpoint().config());
    }
    ids.extend_from_slice(tokenizer.eos_ids());
    let control = |text: &&str| tokenizer.token_id(text).filter(|&id| tokenizer.is_special(id));
    ids.extend(ANSWER_ENDS.iter().filter_map(control));
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// The longest text that could be a prompt of so many tokens; normalisation may shorten a text, to a quarter at most.
pub fn prompt_bytes_max(tokenizer: &Tokenizer, ctx: usize) -> usize {
    4 * ctx.saturating_mul(tokenizer.token_bytes_max())
}

/// A prompt from the flag, or from standard input, of at most `bytes_max` bytes.
///
/// # Errors
/// When it is longer, or standard input is empty, no UTF-8 or cannot be read.
pub fn prompt(argument: Option<&str>, bytes_max: usize) -> Result<String> {
    let too_long = || {
        anyhow::anyhow!(
            "the prompt is longer than {bytes_max} bytes, and cannot fit the context: shorten it, or raise --ctx"
        )
    };
    if let Some(text) = argument {
        return if text.len() <= bytes_max { Ok(text.to_owned()) } else { Err(too_long()) };
    }
    if std::io::stdin().is_terminal() {
        term::note(
            "Reading the prompt from standard input; end it with Ctrl-D. `outpour chat MODEL` holds a conversation.",
        );
    }
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(bytes_max as u64 + 1).read_to_end(&mut bytes);
    read.context("standard input: cannot read")?;
    if bytes.len() > bytes_max {
        return Err(too_long());
    }
    ensure!(!bytes.is_empty(), "the prompt is empty: write it after the model, or to standard input");
    String::from_utf8(bytes)
        .map_err(|error| anyhow::anyhow!("standard input: is not UTF-8 text ({}); convert it", error.utf8_error()))
}

/// Reads a JSON file of the folder for showing; `None` where it is missing or damaged.
pub fn glance(dir: &Path, name: &str) -> Option<Value> {
    parse_json(&read_whole(&dir.join(name), 64 << 20).ok()?).ok()
}
