//! Flags that several verbs share: how a model is loaded, how tokens are chosen, what is kept on a drive.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use outpour_engine::{Backend, LookaheadMode, Numerics, Options};
use outpour_kernels::DType;
use outpour_store::bytes::Bytes;
use outpour_store::machine::Machine;
use outpour_store::read::ReaderKind;

/// Flags of every verb that loads a model.
#[derive(Args, Clone)]
pub struct LoadArgs {
    /// The whole memory to use, page cache included: bytes, or as 24G or 512M [default: what is free here, less a margin]
    #[arg(long, value_name = "BYTES")]
    pub ram: Option<Bytes>,
    /// Threads that compute [default: the physical cores that may be used, the fast ones where they differ]
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
    /// Prompt tokens computed together [default: by what one read of each expert serves the most: as many as a quarter of the memory beside the trunk holds, half where it holds no more than one token's experts, at most 4096; up to four times as many share one read, 4096 at most, where memory holds a layer's experts]
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
    /// In answers where it is measured to help, in prompts always
    Auto,
    /// Always
    On,
    /// Never
    Off,
}

/// `--backend`.
#[derive(Clone, Copy, Debug, ValueEnum)]
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
            ..Options::default()
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

/// States that are kept on a drive.
#[derive(Args, Clone)]
pub struct StateArgs {
    /// Keep what was computed of prompts in this folder, where it is found again after a restart
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Bytes that --state-dir may take; what was not used for longest goes first
    #[arg(long, value_name = "BYTES", default_value = "4G")]
    pub state_size: Bytes,
}
