//! Flags of verbs that measure: `bench`, `routes`, `doctor`, `eval`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use outpour_store::bytes::Bytes;
use outpour_store::trace::{Policy, Scope};

use super::LoadArgs;

/// `bench`.
#[derive(Args)]
#[command(
    after_help = "Without --ctx the context is as long as the longest test, which leaves more memory to experts than a run's longer one: give the run's to measure its plan."
)]
pub struct BenchArgs {
    /// The model: a folder or file, ORG/REPO[:QUANT], or demo
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
    /// Measure after an unmeasured repetition, with all experts in memory if they fit (the default)
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
    /// Least recently used first out, with so many percent of the memory kept for the experts that the skipped steps used most;
    /// several, separated by commas
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', value_parser = percent)]
    pub pin: Vec<f64>,
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
    /// The engine's own: `lru` or `decayed-lfu`, whichever missed less of late
    Adaptive,
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
            PolicyArg::Adaptive => Policy::Adaptive,
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
    /// Threads that compute [default: the physical cores that may be used, the fast ones where they differ]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Measure in a hurry, for tests: figures may be off by tens of percent
    #[arg(long, hide = true)]
    pub quick: bool,
}

/// `eval`.
#[derive(Args)]
#[command(after_help = EVAL_HELP)]
pub struct EvalArgs {
    /// The model: a folder or file, ORG/REPO[:QUANT], or demo
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
Texts are computed in windows of --ctx tokens [default here: 2048], each of which begins half a window before the end of the \
one before; every token but the first is scored once. Perplexity is exp of the mean negative log-likelihood of a token.

A line of --choices has `question`, `choices` (texts) and `answer` (their number from 0, letter or text). With letters, the \
choices are listed and the likeliest letter is the answer; with texts, the likeliest choice after the question alone is, and \
\"by length\" divides its log-likelihood by its bytes.

A line of --generate has `messages` (and `tools`, `thinking`) or `prompt`, and `expect`: a text, or an object of what must \
hold: `text` (equal but for white space; several in a list), `number` (the last one said), `json` (equal as JSON), `calls` \
(these calls of tools: [name, arguments]), `contains` (texts), `items` (so many in a list). An answer that calls tools which \
nobody expects is wrong. Thoughts do not count. If the messages end with an answer, its perplexity is measured too; and that \
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
