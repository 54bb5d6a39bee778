//! Flags, as data.

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Args, Parser, Subcommand, ValueEnum};
use outpour_engine::{Backend, LookaheadMode, Numerics, Options};
use outpour_kernels::DType;
use outpour_kernels::cpu::Isa;
use outpour_model::synth::{Format, Routing};
use outpour_store::bytes::{Bytes, Rate};
use outpour_store::machine::Machine;
use outpour_store::read::ReaderKind;
use outpour_store::trace::{Policy, Scope};

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let isa = Isa::available().next().map_or("portable", Isa::name);
    format!("{} ({isa})", env!("CARGO_PKG_VERSION"))
});

/// Runs Mixture-of-Experts language models far larger than memory, exactly, streaming their experts from the drive.
#[derive(Parser)]
#[command(name = "outpour", version = VERSION.as_str(), arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Subcommand)]
pub enum Verb {
    /// Answer a prompt
    Run(RunArgs),
    /// Serve a model over HTTP, to clients of OpenAI's, Anthropic's and Ollama's APIs
    Serve(ServeArgs),
    /// Run the small trained model that is built in: a story and a tool call, streamed
    Demo(DemoArgs),
    /// Show what a model is: architecture, experts, bytes
    Inspect(InspectArgs),
    /// Show what every buffer takes for a given --ram
    Plan(PlanArgs),
    /// Write the logits after every token, to compare with other engines
    Logits(LogitsArgs),
    /// Show the tokens of a text
    Tokenize(TokenizeArgs),
    /// Measure tokens a second, against the limit of this drive and this memory
    Bench(BenchArgs),
    /// Measure this machine: its drive, memory and processor; `plan` predicts from it
    Doctor(DoctorArgs),
    /// Write a model with random weights, of any supported family and size
    Synth(SynthArgs),
    /// Replay recorded routes against caches of other policies and sizes
    #[command(subcommand)]
    Routes(RoutesVerb),
    /// Measure what a model can do, and what its numbers cost: perplexity, choices, answers, tool calls
    Eval(EvalArgs),
    /// Copy a model into a folder where each expert is one read, checksummed; and measure what that gains
    Pack(PackArgs),
    /// Compare every byte of a pack with its checksums, of a download with the hub's hashes
    Verify(VerifyArgs),
}

/// Flags of every verb that loads a model.
#[derive(Args, Clone)]
pub struct LoadArgs {
    /// The whole memory to use, page cache included: bytes, or as 24G or 512M [default: what is free here, less a margin]
    #[arg(long, value_name = "BYTES")]
    pub ram: Option<Bytes>,
    /// Threads that compute [default: the physical cores that may be used]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// How the drive is read [default: uring where the kernel allows it, else pread]
    #[arg(long, value_enum)]
    pub reader: Option<ReaderArg>,
    /// A copy of the model's folder on another drive: reads are spread over both. May be given several times
    #[arg(long, value_name = "DIR")]
    pub mirror: Vec<PathBuf>,
    /// Longest context, prompt and answer together [default: what an eighth of the memory for experts holds, at most
    /// 32768 and the model's own]
    #[arg(long, value_name = "N")]
    pub ctx: Option<usize>,
    /// f32 inside products, and f32 keys and values: slower, and the definition of the model
    #[arg(long)]
    pub precise: bool,
    /// How keys and values are stored [default: f16, with --precise f32]
    #[arg(long, value_enum, value_name = "TYPE")]
    pub kv: Option<KvArg>,
    /// Lossy: for each token only the N best of the experts that the router chooses
    #[arg(long, value_name = "N")]
    pub top_k_experts: Option<usize>,
    /// Which implementation computes
    #[arg(long, value_enum, default_value_t = BackendArg::Cpu)]
    pub backend: BackendArg,
    /// Whether experts that are probably needed next are read before they are asked for
    #[arg(long, value_enum, default_value_t = LookaheadArg::Auto)]
    pub lookahead: LookaheadArg,
    /// Prompt tokens computed together [default: as many as a quarter of the memory beside the trunk holds, at most 8192]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub prefill_chunk: Option<u32>,
}

/// `--reader`.
#[derive(Clone, Copy, ValueEnum)]
pub enum ReaderArg {
    /// io_uring
    Uring,
    /// A pool of threads
    Pread,
}

/// `--kv`.
#[derive(Clone, Copy, ValueEnum)]
pub enum KvArg {
    /// As they were computed
    F32,
    /// 11 bits of precision
    F16,
    /// Lossy: 8 bits of precision
    Bf16,
    /// Lossy: 8 bits in blocks of 32 that share a scale; half the memory of f16
    Q8,
}

/// `--lookahead`.
#[derive(Clone, Copy, ValueEnum)]
pub enum LookaheadArg {
    /// Where it is measured to help
    Auto,
    /// Always
    On,
    /// Never
    Off,
}

/// `--backend`.
#[derive(Clone, Copy, ValueEnum)]
pub enum BackendArg {
    /// Vector instructions and threads
    Cpu,
    /// Plain code, the definition of every operation; slow
    Reference,
}

impl LoadArgs {
    /// As the engine takes them. `beside` is what this process holds itself.
    ///
    /// # Errors
    /// When no --ram was given and the system does not tell what is free.
    pub fn options(&self, beside: usize) -> anyhow::Result<Options> {
        let ram = match self.ram {
            Some(Bytes(ram)) => ram,
            None => Machine::here()
                .default_ram_bytes()
                .ok_or_else(|| anyhow::anyhow!("the system does not tell how much memory is free: give --ram"))?,
        };
        Ok(Options {
            ram: usize::try_from(ram)?,
            beside,
            ctx: self.ctx,
            prefill_chunk: self.prefill_chunk.map(|chunk| chunk as usize),
            threads: self.threads.map(usize::from),
            precise: self.precise,
            backend: match self.backend {
                BackendArg::Cpu => Backend::Cpu,
                BackendArg::Reference => Backend::Reference,
            },
            lookahead: match self.lookahead {
                LookaheadArg::Auto => LookaheadMode::Auto,
                LookaheadArg::On => LookaheadMode::On,
                LookaheadArg::Off => LookaheadMode::Off,
            },
        })
    }

    /// How numbers are kept, as the engine takes it when it opens a model.
    pub fn numerics(&self) -> Numerics {
        let kv = self.kv.map(|kv| match kv {
            KvArg::F32 => DType::F32,
            KvArg::F16 => DType::F16,
            KvArg::Bf16 => DType::Bf16,
            KvArg::Q8 => DType::Q8,
        });
        Numerics { precise: self.precise, kv, top_k: self.top_k_experts }
    }

    /// Which reader.
    pub fn reader(&self) -> ReaderKind {
        match self.reader {
            None => ReaderKind::Auto,
            Some(ReaderArg::Uring) => ReaderKind::Uring,
            Some(ReaderArg::Pread) => ReaderKind::Pread,
        }
    }
}

/// How tokens are chosen. What is not given comes from the model's generation_config.json.
#[derive(Args, Clone, Default)]
pub struct SamplingArgs {
    /// Divides the logits; 0 takes the most likely token
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Keep the K most likely tokens; 0 keeps all
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Keep the most likely tokens up to this sum of probabilities
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Keep tokens with this share of the most likely one's probability
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,
    /// Divide the logits of tokens seen before
    #[arg(long, value_name = "X")]
    pub repetition_penalty: Option<f32>,
    /// Subtract from the logits of tokens generated before
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,
    /// Subtract once for each time a token was generated before
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub frequency_penalty: Option<f32>,
    /// Add to a token's logit, as ID:BIAS; may be given several times
    #[arg(long, value_name = "ID:BIAS", value_parser = parse_bias, allow_hyphen_values = true)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the randomness; the same seed gives the same text [default: another one each time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once(':').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse::<f32>().ok()?)));
    parsed.filter(|(_, bias)| !bias.is_nan()).ok_or_else(|| format!("{text:?} is not ID:BIAS, as in 151645:-100"))
}

/// `run`.
#[derive(Args)]
pub struct RunArgs {
    /// Folder of the model, or demo: the one that is built in
    pub model: PathBuf,
    /// The prompt [default: read from standard input]
    pub prompt: Option<String>,
    /// Flags of loading.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Flags of sampling.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Generate at most N tokens [default: until the model ends or the context is full]
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true)]
    pub max_tokens: Option<usize>,
    /// Stop before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Use no chat template: continue the prompt as it stands
    #[arg(long, conflicts_with = "system")]
    pub raw: bool,
    /// A system message before the prompt
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Go on where the model would end
    #[arg(long)]
    pub ignore_eos: bool,
    /// Write the experts chosen, step by step: `outpour routes replay` reads it
    #[arg(long, value_name = "FILE")]
    pub trace_routes: Option<PathBuf>,
    /// Write a timeline of every read and operation, which chrome://tracing and ui.perfetto.dev show
    #[arg(long, value_name = "FILE")]
    pub trace_out: Option<PathBuf>,
}

/// `serve`.
#[derive(Args)]
#[command(
    after_help = "The same memory, --ram, holds the server too. To end it, press Ctrl-C: answers under way are finished."
)]
pub struct ServeArgs {
    /// Folder of the model, or demo: the one that is built in
    pub model: PathBuf,
    /// Flags of loading.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Address or name to listen on; 0.0.0.0 lets every machine of the network in
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 takes any that is free
    #[arg(long, value_name = "N", default_value_t = 8420)]
    pub port: u16,
    /// Answer only requests that bring this key; also as OUTPOUR_API_KEY, which other users of the machine do not see
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
    /// Let web pages of this origin call, such as `https://chat.example`; may be given several times; * is all of them
    #[arg(long, value_name = "ORIGIN")]
    pub cors: Vec<String>,
    /// What clients call the model [default: the folder's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Give the memory back after so long without a request; the next one loads the model again
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u32).range(1..=525_600))]
    pub idle_release: Option<u32>,
}

/// `demo`.
#[derive(Args)]
#[command(after_help = "Of the demo, --ram is 24M unless given: less than a third of the experts fit.")]
pub struct DemoArgs {
    /// Flags of loading.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Generate at most N tokens for each answer
    #[arg(short = 'n', long, value_name = "N", default_value_t = 400)]
    pub max_tokens: usize,
}

/// `inspect`.
#[derive(Args)]
pub struct InspectArgs {
    /// Folder of the model, or demo: the one that is built in
    pub model: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `plan`.
#[derive(Args)]
pub struct PlanArgs {
    /// Folder of the model, or demo; or a config.json alone, for an estimate before any download
    pub model: PathBuf,
    /// What the drive gives in a second, as 2.5G [default: what `doctor` measured, else measured for two
    /// seconds with the model's experts, or with a temporary file of 512 MiB]
    #[arg(long, value_name = "BYTES")]
    pub drive: Option<Rate>,
    /// Of a config.json alone: how weights will be stored, bf16 or mlx2 to mlx8 [default: as the config says]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// Share of a token's experts found in memory in the long run, 0 to 1 [default: by how many fit, as in traces of real
    /// models]
    #[arg(long, value_name = "SHARE")]
    pub hit_rate: Option<f64>,
    /// Length of the prompt to predict for
    #[arg(short = 'p', long, value_name = "N", default_value_t = 512)]
    pub prompt: usize,
    /// Tokens of the answer that begins with no expert in memory
    #[arg(short = 'n', long, value_name = "N", default_value_t = 64)]
    pub generate: usize,
    /// Flags of loading.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `logits`.
#[derive(Args)]
pub struct LogitsArgs {
    /// Folder of the model, or demo: the one that is built in
    pub model: PathBuf,
    /// Token ids, separated by commas
    #[arg(long, value_name = "1,2,3", value_delimiter = ',', required = true, allow_negative_numbers = true)]
    pub ids: Vec<u32>,
    /// Where to write the logits: f32 `[tokens, vocab]` in NumPy's format
    #[arg(long, value_name = "FILE.npy")]
    pub out: PathBuf,
    /// Flags of loading.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Compute tokens from position P on one at a time, as in generation
    #[arg(long, value_name = "P")]
    pub step_from: Option<usize>,
    /// Where to write the chosen experts and their weights, by layer and position
    #[arg(long, value_name = "FILE.json")]
    pub routes: Option<PathBuf>,
}

/// `tokenize`.
#[derive(Args)]
pub struct TokenizeArgs {
    /// Folder of the model, or demo: the one that is built in
    pub model: PathBuf,
    /// The text [default: read from standard input]
    pub text: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `bench`.
#[derive(Args)]
pub struct BenchArgs {
    /// Folder of the model, or demo: the one that is built in
    pub model: PathBuf,
    /// Measure prompts of N tokens; several, separated by commas
    #[arg(short = 'p', long, value_name = "N", value_delimiter = ',', default_value = "512")]
    pub prompt: Vec<usize>,
    /// Measure the generation of N tokens; several, separated by commas
    #[arg(short = 'n', long, value_name = "N", value_delimiter = ',', default_value = "64")]
    pub generate: Vec<usize>,
    /// Repeat each measurement
    #[arg(short = 'r', long, value_name = "N", default_value_t = 3)]
    pub repeat: usize,
    /// Before each repetition, drop every expert from memory
    #[arg(long, conflicts_with = "warm")]
    pub cold: bool,
    /// Measure after an unmeasured repetition (the default)
    #[arg(long)]
    pub warm: bool,
    /// Write a timeline of every read and operation, which chrome://tracing and ui.perfetto.dev show
    #[arg(long, value_name = "FILE")]
    pub trace_out: Option<PathBuf>,
    /// Form of the result
    #[arg(short = 'o', long, value_enum, default_value_t = TableForm::Md)]
    pub output: TableForm,
    /// Flags of loading.
    #[command(flatten)]
    pub load: LoadArgs,
}

/// `--output`.
#[derive(Clone, Copy, ValueEnum)]
pub enum TableForm {
    /// A table in Markdown
    Md,
    /// JSON, one object a measurement
    Json,
}

/// `routes`.
#[derive(Subcommand)]
pub enum RoutesVerb {
    /// How often experts would have been found in memory
    Replay(ReplayArgs),
}

/// `routes replay`.
#[derive(Args)]
pub struct ReplayArgs {
    /// A file of `run --trace-routes`, or a NumPy array of bytes [tokens, layers, top_k]
    pub routes: PathBuf,
    /// Memory for experts; several, separated by commas
    #[arg(long, value_name = "BYTES", value_delimiter = ',', conflicts_with = "share")]
    pub ram: Vec<Bytes>,
    /// Memory for experts in percent of all of them; several, separated by commas
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', default_value = "12.5,25,50", value_parser = percent)]
    pub share: Vec<f64>,
    /// Which expert makes room; several, separated by commas [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub policy: Vec<PolicyArg>,
    /// Whether all layers share the memory [default: both]
    #[arg(long, value_enum)]
    pub scope: Option<ScopeArg>,
    /// The first steps fill the memory and are not counted, in percent of all
    #[arg(long, value_name = "PERCENT", default_value = "25", value_parser = percent)]
    pub skip: f64,
    /// Form of the result
    #[arg(short = 'o', long, value_enum, default_value_t = TableForm::Md)]
    pub output: TableForm,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("is no number from 0 to 100".into()),
    }
}

/// `--policy`.
#[derive(Clone, Copy, ValueEnum)]
pub enum PolicyArg {
    /// The least recently used
    Lru,
    /// The first that a hand, going round, finds not used since it last came by
    Clock,
    /// A tenth for newcomers, the rest for what is used again
    S3Fifo,
    /// The least often used
    Lfu,
    /// The least often used of late
    DecayedLfu,
    /// The one that is not needed for longest: what no policy can beat
    Belady,
}

impl PolicyArg {
    /// As the replay takes it.
    pub fn policy(self) -> Policy {
        match self {
            PolicyArg::Lru => Policy::Lru,
            PolicyArg::Clock => Policy::Clock,
            PolicyArg::S3Fifo => Policy::S3Fifo,
            PolicyArg::Lfu => Policy::Lfu,
            PolicyArg::DecayedLfu => Policy::DecayedLfu,
            PolicyArg::Belady => Policy::Belady,
        }
    }
}

/// `--scope`.
#[derive(Clone, Copy, ValueEnum)]
pub enum ScopeArg {
    /// All layers share it
    Global,
    /// Each layer has the same share
    PerLayer,
}

impl ScopeArg {
    /// As the replay takes it.
    pub fn scope(self) -> Scope {
        match self {
            ScopeArg::Global => Scope::Global,
            ScopeArg::PerLayer => Scope::PerLayer,
        }
    }
}

/// `doctor`.
#[derive(Args)]
pub struct DoctorArgs {
    /// A model: its drive is measured with its experts [default: the drive of the cache folder, with a temporary file of
    /// 1 GiB]
    pub model: Option<PathBuf>,
    /// Threads that compute [default: the physical cores that may be used]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Measure in a hurry, for tests: figures may be off by tens of percent
    #[arg(long, hide = true)]
    pub quick: bool,
}

/// `synth`.
#[derive(Args)]
pub struct SynthArgs {
    /// The config.json of the model to make
    pub config: PathBuf,
    /// The folder to make it in: new, or empty
    pub out: PathBuf,
    /// How weights are stored: bf16, or MLX's quantisation to so many bits, mlx2, mlx3, mlx4, mlx5, mlx6 or mlx8
    #[arg(long, value_name = "FORMAT", default_value = "bf16")]
    pub format: Format,
    /// Make only the first N layers
    #[arg(long, value_name = "N")]
    pub layers: Option<usize>,
    /// Seed of the weights; the same seed gives the same bytes
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Share of the choice of experts that is the same for every token
    #[arg(long, value_name = "X", default_value_t = Routing::default().skew, allow_negative_numbers = true)]
    pub skew: f64,
    /// Share that the topic of the text decides, which changes every few dozen tokens
    #[arg(long, value_name = "X", default_value_t = Routing::default().locality, allow_negative_numbers = true)]
    pub locality: f64,
    /// What each layer's halves add to the residual stream, against the embedding: the less, the better can the next
    /// layer's experts be guessed
    #[arg(long, value_name = "X", default_value_t = Routing::default().residual, allow_negative_numbers = true)]
    pub residual: f64,
    /// Do not run the model to measure its choice of experts
    #[arg(long)]
    pub no_check: bool,
}

/// `pack`.
#[derive(Args)]
pub struct PackArgs {
    /// Folder of the model, or demo: the one that is built in
    pub model: PathBuf,
    /// The folder to pack it into: new, or of the same pack that was broken off
    pub out: PathBuf,
    /// Lossy: requantise experts that are BF16, F16 or F32, as mlx-lm would
    #[arg(long, value_enum)]
    pub experts: Option<AffineArg>,
    /// Weights that share a scale: 32, 64 or 128
    #[arg(long, value_name = "N", default_value_t = 64, requires = "experts", value_parser = parse_group)]
    pub group: usize,
    /// Do not measure what the pack gains over reading in place
    #[arg(long)]
    pub no_check: bool,
}

fn parse_group(text: &str) -> Result<usize, String> {
    let group = text.parse().ok().filter(|group| [32, 64, 128].contains(group));
    group.ok_or_else(|| "give 32, 64 or 128".to_owned())
}

/// `--experts`.
#[derive(Clone, Copy, ValueEnum)]
pub enum AffineArg {
    /// 4 bits
    Affine4,
    /// 5 bits
    Affine5,
    /// 6 bits
    Affine6,
    /// 8 bits
    Affine8,
}

impl AffineArg {
    /// Bits of a weight.
    pub fn bits(self) -> usize {
        match self {
            AffineArg::Affine4 => 4,
            AffineArg::Affine5 => 5,
            AffineArg::Affine6 => 6,
            AffineArg::Affine8 => 8,
        }
    }
}

/// `verify`.
#[derive(Args)]
pub struct VerifyArgs {
    /// Folder of the model, or demo: the one that is built in
    pub model: PathBuf,
}

/// `eval`.
#[derive(Args)]
#[command(after_help = EVAL_HELP)]
pub struct EvalArgs {
    /// Folder of the model, or demo: the one that is built in
    pub model: PathBuf,
    /// Perplexity of a text; may be given several times
    #[arg(long, value_name = "FILE")]
    pub text: Vec<PathBuf>,
    /// Multiple choice by likelihood, from lines of JSON; may be given several times
    #[arg(long, value_name = "FILE.jsonl")]
    pub choices: Vec<PathBuf>,
    /// Answers generated greedily and compared with those expected, from lines of JSON; may be given several times
    #[arg(long, value_name = "FILE.jsonl")]
    pub generate: Vec<PathBuf>,
    /// A set of tasks that comes with outpour
    #[arg(long, value_enum)]
    pub suite: Option<SuiteArg>,
    /// Worked examples before each question of --choices: others of the same file
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub shots: u16,
    /// What of --choices is compared
    #[arg(long, value_enum, default_value_t = CompareArg::Letters)]
    pub compare: CompareArg,
    /// Of each file only the first N items, of each text N windows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Seed of the choice of --shots
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Tokens of an answer at most; a longer one counts as it stands then
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
    /// Use no chat template for a `prompt` of --generate: continue it as it stands
    #[arg(long)]
    pub raw: bool,
    /// Run all of it with another model of the same tokenizer first, or with this one's folder again, and compare
    #[arg(long, value_name = "OTHER")]
    pub against: Option<PathBuf>,
    /// The other model computes in f32 throughout
    #[arg(long, requires = "against")]
    pub against_precise: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Write each result as it comes; what the file holds of this model and these items already is not computed again
    #[arg(long, value_name = "FILE.jsonl")]
    pub out: Option<PathBuf>,
    /// Flags of loading. Those that change numbers, --precise, --kv and --top-k-experts, and --mirror are for MODEL and not
    /// for OTHER.
    #[command(flatten)]
    pub load: LoadArgs,
}

const EVAL_HELP: &str = "\
Texts are computed in windows of --ctx tokens [default here: 2048], each of which begins half a window before the end of the
one before; every token but the first is scored once. Perplexity is exp of the mean negative log-likelihood of a token.

A line of --choices has `question`, `choices` (texts) and `answer` (their number from 0, letter or text). With letters, the
choices are listed and the likeliest letter is the answer; with texts, the likeliest choice after the question alone is, and
\"by length\" divides its log-likelihood by its bytes.

A line of --generate has `messages` (and `tools`, `thinking`) or `prompt`, and `expect`: a text, or an object of what must
hold: `text` (equal but for white space; several in a list), `number` (the last one said), `json` (equal as JSON), `calls`
(these calls of tools: [name, arguments]), `contains` (texts), `items` (so many in a list). An answer that calls tools which
nobody expects is wrong. Thoughts do not count. If the messages end with an answer, its perplexity is measured too; and that
of a line which has only a `text`. `kind` is any name: scores are shown for each kind.";

/// `--suite`.
#[derive(Clone, Copy, ValueEnum)]
pub enum SuiteArg {
    /// What the demo model was trained for, on examples that it was not trained on
    Demo,
}

/// `--compare`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CompareArg {
    /// The letters of listed choices, as for MMLU and GPQA
    Letters,
    /// The texts of the choices, as for HellaSwag and ARC
    Texts,
}
