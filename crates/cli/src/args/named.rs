//! Flags of verbs that have to do with models by name, and with other programs: `pull`, `ls`, `rm`, `launch`, `completions`,
//! `man`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use clap_complete::Shell;
use outpour_store::bytes::Bytes;

/// `pull`.
#[derive(Args)]
#[command(after_help = HUB_HELP)]
pub struct PullArgs {
    /// The model, as ORG/REPO; of GGUF files ORG/REPO:QUANT, as in Q4_K_M
    #[arg(value_name = "ORG/REPO[:QUANT]")]
    pub name: String,
}

const HUB_HELP: &str = "\
Only what is needed is downloaded: not .bin, .pt and other copies of the weights. What was downloaded is resumed after a \
stop, checked by hash, and lies where huggingface_hub and llama.cpp find it too. The address and the folder are those of \
HF_ENDPOINT, HF_HUB_CACHE, HF_HOME and HF_TOKEN.";

/// `ls`.
#[derive(Args)]
pub struct LsArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `rm`.
#[derive(Args)]
pub struct RmArgs {
    /// The model, as `ls` shows it
    #[arg(value_name = "ORG/REPO[:QUANT]")]
    pub name: String,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// `launch`.
#[derive(Args)]
#[command(after_help = LAUNCH_HELP)]
pub struct LaunchArgs {
    /// The client, which must be installed
    #[arg(value_enum)]
    pub client: ClientArg,
    /// The model to serve for as long as the client runs [default: use the server that runs already]
    pub model: Option<PathBuf>,
    /// Where the server is that runs already
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8420", conflicts_with = "model")]
    pub url: String,
    /// The key of that server, if it wants one
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
    /// As of `serve`, for the server that is started
    #[arg(long, value_name = "BYTES")]
    pub ram: Option<Bytes>,
    /// As of `serve`, for the server that is started
    #[arg(long, value_name = "N")]
    pub ctx: Option<usize>,
    /// Arguments of the client, after --
    #[arg(last = true, value_name = "ARGS")]
    pub args: Vec<String>,
}

const LAUNCH_HELP: &str = "\
The client is told by its environment, its arguments or a file of our own where the model is; its own configuration stays \
as it is. Other flags of `serve` come from OUTPOUR_ variables and the configuration file.";

/// The clients that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClientArg {
    /// Claude Code
    Claude,
    /// Codex
    Codex,
    /// opencode
    Opencode,
}

/// `completions`.
#[derive(Args)]
#[command(after_help = "As in: outpour completions bash > ~/.local/share/bash-completion/completions/outpour")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// `man`.
#[derive(Args)]
#[command(after_help = "As in: outpour man > ~/.local/share/man/man1/outpour.1")]
pub struct ManArgs {
    /// The page of a verb [default: the page of all]
    pub verb: Option<String>,
}
