//! Flags of verbs that write and check weights: `synth`, `pack`, `verify`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use outpour_model::synth::{Format, Routing};
use outpour_store::bytes::Bytes;

/// `synth`.
#[derive(Args)]
pub struct SynthArgs {
    /// The config.json of the model to make
    pub config: PathBuf,
    /// The folder to make it in: new, or empty
    pub out: PathBuf,
    /// How weights are stored: bf16; MLX's quantisation to so many bits, mlx2, mlx3, mlx4, mlx5, mlx6 or mlx8; fp8, int4, gptq, awq,
    /// mxfp4 or nvfp4; or a GGUF file of these blocks, gguf-q4_k or any other type of them, or mixed, gguf-q4_k_m
    #[arg(long, value_name = "FORMAT", default_value = "bf16")]
    pub format: Format,
    /// Cut weights into files of about this size [default: 4G; a GGUF file is whole]
    #[arg(long, value_name = "SIZE")]
    pub shard: Option<Bytes>,
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
    /// The model, of safetensors: a folder, ORG/REPO, or demo
    pub model: PathBuf,
    /// The folder to pack it into: new, or of the same pack that was broken off
    pub out: PathBuf,
    /// Lossy: requantise experts that are BF16, F16, F32, FP8 or int8, as mlx-lm would
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
    /// The model: a folder or file, ORG/REPO[:QUANT], or demo
    pub model: PathBuf,
}
