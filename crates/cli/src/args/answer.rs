//! Flags of verbs that answer: `run`, `chat`, `serve`, `batch`, `demo`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{LoadArgs, SamplingArgs, StateArgs};

/// Under the flags of `run`.
const RUN_HELP: &str = "\
The answer goes to standard output. What the model thinks goes to standard error, dimmed where that is a terminal, and \
so does all else: `2>/dev/null` leaves the answer alone.";

/// `run`.
#[derive(Args)]
#[command(after_help = RUN_HELP)]
pub struct RunArgs {
    /// The model: a folder or file, ORG/REPO[:QUANT], or demo
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
    /// Use no chat template: continue the prompt as it stands, and take thoughts for text
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
    /// Go on with the conversation in this file, or begin it: its messages as JSON; what was computed of them lies in
    /// FILE.state
    #[arg(long, value_name = "FILE", conflicts_with = "raw")]
    pub session: Option<PathBuf>,
}

/// `chat`.
#[derive(Args)]
#[command(after_help = CHAT_HELP)]
pub struct ChatArgs {
    /// The model: a folder or file, ORG/REPO[:QUANT], or demo
    pub model: PathBuf,
    /// Flags of loading.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Flags of sampling.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Generate at most N tokens for each answer [default: until the model ends or the context is full]
    #[arg(short = 'n', long, value_name = "N")]
    pub max_tokens: Option<usize>,
    /// Stop before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// A system message before the conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Go on with the conversation in this file, or begin it, as `run --session` does; it is written after each answer
    #[arg(long, value_name = "FILE")]
    pub session: Option<PathBuf>,
    /// Commands that the model may ask for, as JSON: each is run only after your yes
    #[arg(long, value_name = "FILE.json")]
    pub tools: Option<PathBuf>,
}

const CHAT_HELP: &str = "\
Type a message and press Return; /help lists what else can be typed. Ctrl-C stops an answer, Ctrl-D ends. Each answer has the seed \
after the one before, beginning with --seed.

A file of --tools:
  {\"tools\": [{\"name\": \"weather\", \"description\": \"The weather of a city\",
    \"parameters\": {\"properties\": {\"city\": {\"type\": \"string\"}}, \"required\": [\"city\"]},
    \"command\": [\"curl\", \"-s\", \"https://wttr.in/{city}?format=3\"]}]}
No shell sees the command. \"stdin\": \"json\" gives it the arguments as JSON, \"timeout_s\" another time than 60 seconds.";

/// `serve`.
#[derive(Args)]
#[command(
    after_help = "The same memory, --ram, holds the server too. To end it, press Ctrl-C: answers under way are finished; press it again to end them too."
)]
pub struct ServeArgs {
    /// The model: a folder or file, ORG/REPO[:QUANT], or demo
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
    /// Answer only requests that bring this key; as OUTPOUR_API_KEY, other users of the machine do not see it
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
    /// Let web pages of this origin call, such as `https://chat.example`; may be given several times; * is all of them
    #[arg(long, value_name = "ORIGIN")]
    pub cors: Vec<String>,
    /// What clients call the model [default: the folder's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Flags of states on a drive.
    #[command(flatten)]
    pub states: StateArgs,
    /// Give the memory back after so long without a request; the next one loads the model again
    #[arg(long, value_name = "MINUTES", value_parser = minutes)]
    pub idle_release: Option<Duration>,
}

/// `batch`.
#[derive(Args)]
#[command(after_help = BATCH_HELP)]
pub struct BatchArgs {
    /// The model: a folder or file, ORG/REPO[:QUANT], or demo
    pub model: PathBuf,
    /// The prompts, as lines of JSON; - reads them from standard input
    #[arg(value_name = "FILE.jsonl")]
    pub file: PathBuf,
    /// Where answers are written, each as it comes; lines that it answers already are not answered again
    #[arg(long, value_name = "FILE.jsonl")]
    pub out: PathBuf,
    /// Lines without a seed of their own have this one plus their number [default: another one each time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Flags of loading.
    #[command(flatten)]
    pub load: LoadArgs,
}

const BATCH_HELP: &str = "\
A line has `messages`, or a `prompt` that is continued as it stands, and beside them whatever the APIs of `serve` take: \
`max_tokens`, `temperature`, `seed`, `stop`, `tools`, `response_format` and others. `custom_id` or `id` is repeated in the \
answer. Lines of OpenAI's batches are understood too: `url` and `body`.

A line of --out has `custom_id`, `line`, and as OpenAI's batches `response`, with `status_code` and `body`, or `error`. Lines \
come as they are ready. After a kill the same call goes on where it was; a line, a model or numerics that changed are answered \
anew, and so is what failed for no fault of the line (a `status_code` of 500 and more).";

fn minutes(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(minutes) if (0.01..=525_600.0).contains(&minutes) => Ok(Duration::from_secs_f64(60.0 * minutes)),
        _ => Err("is no number of minutes from 0.01 to 525600".into()),
    }
}

/// `demo`.
#[derive(Args)]
#[command(
    after_help = "Of the demo, --ram is 24M unless given: six in ten of the experts fit. The story has the seed 3, and the call of a tool the \
                  temperature 0, unless --seed and --temperature say otherwise."
)]
pub struct DemoArgs {
    /// Flags of loading.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Flags of sampling.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Generate at most N tokens for each answer
    #[arg(short = 'n', long, value_name = "N", default_value_t = 400)]
    pub max_tokens: usize,
}
