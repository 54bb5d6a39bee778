//! Flags, as data.

#![allow(rustdoc::broken_intra_doc_links, reason = "in help texts brackets mean that something may be left out")]

mod answer;
mod load;
mod measure;
mod named;
mod weights;

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Args, Parser, Subcommand};
use outpour_kernels::cpu::Isa;
use outpour_model::synth::Format;
use outpour_store::bytes::Rate;

pub use answer::{BatchArgs, ChatArgs, DemoArgs, RunArgs, ServeArgs};
pub use load::{LoadArgs, SamplingArgs, StateArgs};
pub use measure::{BenchArgs, CompareArg, DoctorArgs, EvalArgs, ReplayArgs, RoutesVerb, SuiteArg, TableForm};
pub use named::{ClientArg, CompletionsArgs, LaunchArgs, LsArgs, ManArgs, PullArgs, RmArgs};
pub use weights::{PackArgs, SynthArgs, VerifyArgs};

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let isa = Isa::available().next().map_or("portable", Isa::name);
    format!("{} ({isa})", env!("CARGO_PKG_VERSION"))
});

/// Runs Mixture-of-Experts language models far larger than memory, exactly, streaming their experts from the drive.
#[derive(Parser)]
#[command(name = "outpour", version = VERSION.as_str(), arg_required_else_help = true, after_help = CONFIG_HELP)]
pub struct Cli {
    /// Download nothing: models by name must be in the cache (as HF_HUB_OFFLINE=1)
    #[arg(long, global = true)]
    pub offline: bool,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

const CONFIG_HELP: &str = "\
A model is a folder or file; ORG/REPO or ORG/REPO:QUANT of the Hugging Face hub, which is downloaded unless it is in the cache; \
or demo, which is built in. A flag such as --prefill-chunk may also be given as OUTPOUR_PREFILL_CHUNK, or as prefill-chunk in \
$XDG_CONFIG_HOME/outpour/config.toml (~/.config/outpour/config.toml).";

/// What to do.
#[derive(Subcommand)]
pub enum Verb {
    /// Answer a prompt
    Run(RunArgs),
    /// Hold a conversation in the terminal
    Chat(ChatArgs),
    /// Serve a model over HTTP, to clients of OpenAI's, Anthropic's and Ollama's APIs
    Serve(ServeArgs),
    /// Answer a file of prompts together, so that one read of an expert serves all of them
    Batch(BatchArgs),
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
    /// Download a model from the Hugging Face hub, or go on with it, or get its newest version
    Pull(PullArgs),
    /// List the models in the Hugging Face cache
    Ls(LsArgs),
    /// Remove a model from the Hugging Face cache
    Rm(RmArgs),
    /// Start Claude Code, Codex or opencode with a model that is served here
    Launch(LaunchArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Print the manual page
    Man(ManArgs),
    /// Print docs/cli.md
    #[command(hide = true)]
    CliPage,
}

/// `inspect`.
#[derive(Args)]
pub struct InspectArgs {
    /// The model: a folder or file, ORG/REPO[:QUANT], or demo; or a config.json alone, before any download
    pub model: PathBuf,
    /// Of a config.json alone: how weights will be stored, bf16, mlx4, fp8, gguf-q4_k and others as `synth` makes them [default: as the config says]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `plan`.
#[derive(Args)]
pub struct PlanArgs {
    /// The model: a folder or file, ORG/REPO[:QUANT], of which headers are enough, or demo; or a config.json alone, for an
    /// estimate
    pub model: PathBuf,
    /// What the drive gives in a second, as 2.5G [default: what `doctor` measured, else measured for two
    /// seconds with the model's experts, or with a temporary file of 512 MiB, less where
    /// there is less room]
    #[arg(long, value_name = "BYTES")]
    pub drive: Option<Rate>,
    /// Of a config.json alone: how weights will be stored, bf16, mlx4, fp8, gguf-q4_k and others as `synth` makes them [default: as the config says]
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
    /// Flags of states on a drive, as `serve` takes them.
    #[command(flatten)]
    pub states: StateArgs,
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
    /// The model: a folder or file, ORG/REPO[:QUANT], or demo
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
    /// The model: a folder or file, ORG/REPO[:QUANT], or demo
    pub model: PathBuf,
    /// The text [default: read from standard input]
    pub text: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
