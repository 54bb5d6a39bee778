//! Flags of verbs that write and check weights: `synth`, `pack`, `verify`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use outpour_model::synth::{Format, Routing};
use outpour_store::bytes::Bytes;

/// `synth`.
#[derive(Args)]
#[command(after_help = formats())]
pub struct SynthArgs {
    /// The config.json of the model to make
    pub config: PathBuf,
    /// The folder to make it in: new, or empty
    pub out: PathBuf,
    /// How weights are stored: one of the formats below
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

/// What `synth` can make, by kind: how a name of the kind begins, and what it is. The first that fits counts.
const KINDS: [(&[&str], &str); 7] = [
    (&["bf16"], "plain"),
    (&["mlx-"], "MLX's modes of floating-point codes"),
    (&["mlx"], "MLX's affine quantisation to so many bits"),
    (&["fp8"], "FP8: blocks of 128 x 128 with scales in F32 or, -e8m0, powers of two; a scale for each row"),
    (&["int", "ct-"], "compressed-tensors: int4 of experts, int8, MXFP4, NVFP4, MXFP8"),
    (&["gptq", "awq"], "GPTQ with the zeros of its two versions, AWQ; of four bits in groups of 128"),
    (&["gguf-"], "a GGUF file of such blocks, q4_k_m mixed by layer, of sixteen families (docs/formats.md)"),
];
/// Experts alone, and what is in neither of those.
const OTHERS: &str = "experts alone in MXFP4, or in modelopt's NVFP4; experts in four bits and the rest in FP8";
/// Columns of a line of help.
const COLUMNS: usize = 96;

/// Every format by kind, for people.
fn formats() -> String {
    let names: Vec<String> = Format::all().map(|format| format.to_string()).collect();
    let kind_of =
        |name: &String| KINDS.iter().position(|(begins, _)| begins.iter().any(|begin| name.starts_with(begin)));
    let all = KINDS.iter().enumerate().map(|(kind, (_, what))| (Some(kind), *what));
    let mut text = "Formats:".to_owned();
    for (kind, what) in all.chain([(None, OTHERS)]) {
        text += &format!("\n  {what}:");
        let mut line = String::new();
        for name in names.iter().filter(|name| kind_of(name) == kind) {
            if line.is_empty() || line.len() + 1 + name.len() > COLUMNS {
                text += &std::mem::take(&mut line);
                line = "\n     ".to_owned();
            }
            line += &format!(" {name}");
        }
        text += &line;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kind without a name would say nothing, and a name is in one kind alone.
    #[test]
    fn every_format_is_listed_once_under_its_kind() {
        let text = formats();
        let names = Format::all().map(|format| format.to_string());
        let listed: Vec<&str> =
            text.lines().filter(|line| line.starts_with("      ")).flat_map(str::split_whitespace).collect();
        for name in names {
            assert_eq!(listed.iter().filter(|listed| **listed == name).count(), 1, "{name}:\n{text}");
        }
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
        let lines: Vec<&str> = text.lines().skip(1).collect();
        let names_follow = |pair: &[&str]| pair[0].starts_with("      ") || pair[1].starts_with("      ");
        assert!(lines.windows(2).all(names_follow), "{text}");
    }
}
