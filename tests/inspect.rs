//! `inspect`: what a context costs, by hand from the published sizes; and what it takes for a model.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::cli::{assert_refused, outpour};
use common::fixture;
use outpour_model::synth::Format;
use serde_json::Value;

/// Bytes of a key or a value, and of what a recurrence keeps.
const F16: u64 = 2;
const F32: u64 = 4;

/// A vector of 512 for all heads and a rotary key of 64 (DeepSeek-V2, arXiv 2405.04434).
const LATENT: u64 = (512 + 64) * F16;
/// A key of the indexer (DeepSeek-V3.2, arXiv 2512.02556).
const INDEX: u64 = 128 * F16;

/// Keys and values of a position in one layer.
const fn gqa(kv_heads: u64, head_dim: u64) -> u64 {
    2 * kv_heads * head_dim * F16
}

/// Matrices of a recurrence, and the last three inputs of its convolution.
const fn recurrent(heads: u64, k_dim: u64, v_dim: u64, conv_channels: u64) -> u64 {
    (heads * k_dim * v_dim + 3 * conv_channels) * F32
}

/// Rows and gates that compressed entries of DeepSeek-V4 are still to be made of: of the positions of one entry, or of two that
/// overlap, whose rows are twice as wide.
const fn unfinished(every: u64, width: u64, overlap: bool) -> u64 {
    let twice = if overlap { 2 } else { 1 };
    (twice * every) * 2 * (twice * width) * F32
}

/// Config, bytes of state for each token, bytes of a sequence however short, and how its layers are drawn, first of all.
const CONTEXTS: [(&str, u64, u64, &str); 40] = [
    ("Qwen3-30B-A3B", 48 * gqa(4, 128), 0, "AAAA"),
    ("Llama-3.1-8B", 32 * gqa(8, 128), 0, "aaaa"),
    ("MiniMax-M2", 62 * gqa(8, 128), 0, "AAAA"),
    // 70.272 KB a token, as the paper has it (arXiv 2505.09343, table 1).
    ("DeepSeek-V3", 61 * LATENT, 0, "lllL"),
    ("Kimi-K2", 61 * LATENT, 0, "lLLL"),
    ("Mistral-Large-3", 61 * LATENT, 0, "lllL"),
    ("DeepSeek-V3.2", 61 * (LATENT + INDEX), 0, "sssS"),
    // Three layers and every fourth one from the seventh on have indexers of their own, the others the choice of the one before.
    ("GLM-5.2", 78 * LATENT + 21 * INDEX, 0, "sssRRRSRRRS"),
    // Windows of 128, in every other layer.
    ("gpt-oss-120b", 18 * gqa(8, 64), 18 * 128 * gqa(8, 64), "WAWA"),
    // Windows of 1024 in five layers of six.
    ("Gemma-3-27B", 10 * gqa(16, 128), 52 * 1024 * gqa(16, 128), "wwwwwaw"),
    // The same; full layers have two heads of 512, where the others have eight of 256.
    ("Gemma-4-26B-A4B", 5 * gqa(2, 512), 25 * 1024 * gqa(8, 256), "WWWWWAW"),
    ("Qwen3.5-397B-A17B", 15 * gqa(2, 256), 45 * recurrent(64, 128, 128, 2 * 16 * 128 + 64 * 128), "DDDA"),
    // Queries, keys and values have a convolution each.
    ("Kimi-Linear-48B-A3B", 7 * LATENT, 20 * recurrent(32, 128, 128, 3 * 32 * 128), "kKKLKKKL"),
    ("MiniMax-Text-01", 10 * gqa(8, 128), 70 * recurrent(64, 128, 128, 0), "NNNNNNNA"),
    ("Ling-2.5-1T", 10 * LATENT, 70 * recurrent(64, 128, 128, 0), "nnnnNNNL"),
    // 64 heads of 64, a state of 128, eight groups of B and C.
    ("Nemotron-3-Nano-30B-A3B", 6 * gqa(2, 128), 23 * recurrent(64, 128, 64, 64 * 64 + 2 * 8 * 128), "MEMEM*E"),
    ("Nemotron-3-Super-120B-A12B", 8 * gqa(2, 128), 40 * recurrent(128, 128, 64, 128 * 64 + 2 * 8 * 128), "MEMEMEM*E"),
    // Entries of 512 numbers for four positions, with a key of 128 each, or for 128 positions; windows of 128 in every layer.
    (
        "DeepSeek-V4-Flash",
        21 * (512 * F16 + INDEX) / 4 + 20 * 512 * F16 / 128,
        43 * 128 * 512 * F16
            + 21 * (unfinished(4, 512, true) + unfinished(4, 128, true))
            + 20 * unfinished(128, 512, false),
        "WWCHCH",
    ),
    // 128 heads of 64, a state of 128, one group of B and C.
    ("Granite-4.0-H-Small", 4 * gqa(8, 128), 36 * recurrent(128, 128, 64, 128 * 64 + 2 * 128), "MMMMMAMMMM"),
    // The last two inputs of 18 convolutions.
    ("LFM2-8B-A1B", 6 * gqa(8, 64), 18 * 2 * 2048 * F32, "ccACCCA"),
    // 16 numbers for each of 8192 channels; experts in every other layer.
    ("Jamba-1.5-Mini", 4 * gqa(8, 128), 28 * recurrent(1, 16, 8192, 8192), "mMmMaMmM"),
    ("LongCat-Flash", 28 * 2 * LATENT, 0, "LLLL"),
    ("Ling-3.0-Flash", 7 * LATENT, 35 * recurrent(32, 128, 128, 3 * 32 * 128), "kkKKKL"),
    ("Hy4-preview", 34 * LATENT + 10 * INDEX, 0, "sSRRRSRRR"),
    // Latent vectors without a rotary part, and a key of the indexer for 16 positions.
    (
        "GLM-5.3-Flash",
        11 * (512 * F16 + INDEX / 16),
        34 * recurrent(64, 128, 128, 3 * 64 * 128) + 11 * unfinished(16, 128, false),
        "kkkSKKKS",
    ),
    ("MiniMax-M3", 60 * gqa(4, 128) + 57 * INDEX, 0, "aaaBBB"),
    // 18 layers have no rotary part.
    ("Qwen1.5-MoE-A2.7B", 24 * gqa(16, 128), 0, "AAAA"),
    ("OLMoE-1B-7B", 16 * gqa(16, 128), 0, "AAAA"),
    ("dots.llm1", 62 * gqa(32, 128), 0, "aAAA"),
    ("Solar-Open-100B", 48 * gqa(8, 128), 0, "AAAA"),
    ("Hy3-preview", 80 * gqa(8, 128), 0, "aAAA"),
    ("ERNIE-4.5-21B-A3B", 28 * gqa(4, 128), 0, "aAAA"),
    ("Hunyuan-A13B", 32 * gqa(8, 128), 0, "AAAA"),
    ("Phi-3.5-MoE", 32 * gqa(8, 128), 0, "AAAA"),
    ("GLM-4.7-Flash", 47 * LATENT, 0, "lLLL"),
    // Values of 128 beside keys of 192; windows of 128 before the own position in all but nine layers, with twice as many heads.
    ("MiMo-V2-Flash", 9 * 4 * (192 + 128) * F16, 39 * 129 * 8 * (192 + 128) * F16, "aWWWWAWW"),
    // Chunks of 8192 in three layers of four.
    ("Llama-4-Scout", 12 * gqa(8, 128), 36 * 8192 * gqa(8, 128), "CCCACCCA"),
    ("K-EXAONE-236B-A23B", 12 * gqa(8, 128), 36 * 128 * gqa(8, 128), "wWWAWWWA"),
    // Blocks of 64 positions with a small key of 128 each; the last nine inputs of a convolution over four streams, and two tokens.
    (
        "Qwen4-Exp",
        12 * (gqa(2, 256) + INDEX / 64),
        36 * recurrent(32, 128, 128, 2 * 16 * 128 + 32 * 128)
            + 9 * 4 * 2560 * F32
            + 2 * F32
            + 12 * unfinished(64, 128, false),
        "DDDB",
    ),
    ("Mistral-Large-4", 54 * LATENT + 18 * 512 * F16 + 72 * INDEX, 0, "sSSSS"),
];

fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../configs/{name}.json"))
}

fn shown(model: &Path, args: &[&str]) -> Value {
    let ran = outpour("inspect", model, &[args, &["--json"]].concat());
    assert_eq!(ran.status.code(), Some(0), "{}: {ran:?}", model.display());
    serde_json::from_slice(&ran.stdout).expect("JSON")
}

#[test]
fn a_context_costs_what_the_published_sizes_say() {
    for (name, per_token, fixed, pattern) in CONTEXTS {
        // Experts are stacked there: fewer tensors to lay out.
        let shown = shown(&config(name), &["--format", "mlx4"]);
        assert_eq!(shown["state_bytes_per_token"], per_token, "{name}");
        assert_eq!(shown["state_bytes_fixed"], fixed, "{name}");
        let drawn = shown["pattern"].as_str().expect("a pattern");
        assert!(drawn.starts_with(pattern), "{name}: {drawn}");
        assert_eq!(shown["layers"], drawn.len(), "{name}");
        // Every letter is explained, in Gemma's and Nemotron's words too.
        let legend = shown["legend"].as_str().expect("a legend");
        for letter in drawn.to_ascii_uppercase().chars() {
            assert!(
                legend.split([' ', ',', ';']).any(|word| word == letter.to_string()),
                "{name}: {letter} in {legend}"
            );
        }
    }
}

#[test]
fn every_published_config_is_drawn_without_weights_and_leaves_nothing() {
    let cache = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(config("x").parent().expect("a folder")).expect("configs").flatten() {
        let mut command = common::cli::command("inspect", &entry.path(), &["--format", "mlx4"]);
        let ran = common::cli::run({
            command.env("XDG_CACHE_HOME", cache.path());
            command
        });
        assert_eq!(ran.status.code(), Some(0), "{}: {ran:?}", entry.path().display());
        let text = String::from_utf8(ran.stdout).expect("UTF-8");
        assert!(text.contains("estimated from the config alone"), "{text}");
        assert!(text.contains("each token") && text.contains("each sequence"), "{text}");
        assert!(!text.contains("tokenizer"), "a config has none: {text}");
    }
    let files = files_below(cache.path());
    assert!(files.is_empty(), "left behind: {files:?}");
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a folder").flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn a_format_changes_the_weights_of_a_config_and_is_no_matter_of_files() {
    let bits = |args: &[&str]| shown(&config("Mixtral-8x7B"), args)["bits_per_weight"].as_f64().expect("a number");
    let (plain, quantised) = (bits(&[]), bits(&["--format", "mlx4"]));
    assert!(plain == 16.0 && (4.5..4.6).contains(&quantised), "{plain} and {quantised} bits");
    let weights = fixture("mixtral");
    assert_eq!(shown(&weights, &[])["estimated"], false);
    assert_refused(&outpour("inspect", &weights, &["--format", "mlx4"]), "weights", &["--format", "config.json"]);
}

/// Formats with the type that most of their bytes are of, and the bits of a weight that is stored so. Embedding, head and routers have
/// more, and where only experts are quantised the rest has 16.
const FORMATS: [(&str, &str, f64); 49] = [
    ("bf16", "BF16", 16.0),
    ("mlx2", "U32", 2.5),
    ("mlx3", "U32", 3.5),
    ("mlx4", "U32", 4.5),
    ("mlx5", "U32", 5.5),
    ("mlx6", "U32", 6.5),
    ("mlx8", "U32", 8.5),
    ("fp8", "F8_E4M3", 8.0),
    ("fp8-e8m0", "F8_E4M3", 8.0),
    ("fp8-row", "F8_E4M3", 8.0),
    ("ct-mxfp8", "F8_E4M3", 8.25),
    ("ct-mxfp4", "U8", 4.25),
    ("ct-nvfp4", "U8", 4.5),
    ("mlx-mxfp4", "U32", 4.25),
    ("mlx-nvfp4", "U32", 4.5),
    ("mlx-mxfp8", "U32", 8.25),
    ("deepseek-v4", "I8", 4.25),
    ("int8", "I8", 8.0),
    ("gptq_v2", "I32", 4.125),
    ("int4", "I32", 4.5),
    ("gptq", "I32", 4.125),
    ("awq", "I32", 4.125),
    ("mxfp4", "U8", 4.25),
    ("nvfp4", "U8", 4.5),
    ("gguf-f32", "F32", 32.0),
    ("gguf-f16", "F16", 16.0),
    ("gguf-bf16", "BF16", 16.0),
    ("gguf-q4_0", "Q4_0", 4.5),
    ("gguf-q4_1", "Q4_1", 5.0),
    ("gguf-q5_0", "Q5_0", 5.5),
    ("gguf-q5_1", "Q5_1", 6.0),
    ("gguf-q8_0", "Q8_0", 8.5),
    ("gguf-q2_k", "Q2_K", 2.625),
    ("gguf-q3_k", "Q3_K", 3.4375),
    ("gguf-q4_k", "Q4_K", 4.5),
    ("gguf-q5_k", "Q5_K", 5.5),
    ("gguf-q6_k", "Q6_K", 6.5625),
    ("gguf-iq1_s", "IQ1_S", 1.5625),
    ("gguf-iq1_m", "IQ1_M", 1.75),
    ("gguf-iq2_xxs", "IQ2_XXS", 2.0625),
    ("gguf-iq2_xs", "IQ2_XS", 2.3125),
    ("gguf-iq2_s", "IQ2_S", 2.5625),
    ("gguf-iq3_xxs", "IQ3_XXS", 3.0625),
    ("gguf-iq3_s", "IQ3_S", 3.4375),
    ("gguf-iq4_nl", "IQ4_NL", 4.5),
    ("gguf-iq4_xs", "IQ4_XS", 4.25),
    ("gguf-tq1_0", "TQ1_0", 1.6875),
    ("gguf-tq2_0", "TQ2_0", 2.0625),
    ("gguf-mxfp4", "MXFP4", 4.25),
];

#[test]
fn every_format_is_named_by_type_and_bits() {
    let known = FORMATS.iter().map(|(format, ..)| *format).chain(["gguf-q4_k_m"]);
    let all: Vec<String> = Format::all().map(|format| format.to_string()).collect();
    for format in &all {
        assert!(known.clone().any(|known| known == format), "{format} is not in the table");
    }
    assert_eq!(known.count(), all.len());
    let config = config("Qwen3-30B-A3B");
    for (format, dtype, bits) in FORMATS {
        let report = shown(&config, &["--format", format]);
        let dtypes = report["dtypes"].as_object().expect("types");
        let most = dtypes.iter().max_by_key(|(_, bytes)| bytes.as_u64()).expect("a type").0;
        assert_eq!(most, dtype, "{format}: {dtypes:?}");
        let found = report["bits_per_weight"].as_f64().expect("a number");
        assert!((bits..bits + 0.8).contains(&found), "{format}: {found} bits instead of {bits}");
    }
    let mixed = shown(&config, &["--format", "gguf-q4_k_m"]);
    assert!(mixed["dtypes"]["Q4_K"].is_u64() && mixed["dtypes"]["Q6_K"].is_u64(), "{}", mixed["dtypes"]);
    let text = outpour("inspect", &config, &["--format", "gguf-q4_k_m"]);
    let text = String::from_utf8(text.stdout).expect("UTF-8");
    assert!(text.contains("Q4_K") && text.contains("Q6_K") && text.contains("bits"), "{text}");
}

#[test]
fn what_is_no_config_is_refused_in_one_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("some.json");
    assert_refused(&outpour("inspect", &path, &[]), "no file", &["some.json"]);
    for (text, names) in [("{", "JSON"), ("[]", "model_type"), (r#"{"model_type": "lama"}"#, "lama")] {
        fs::write(&path, text).expect("written");
        assert_refused(&outpour("inspect", &path, &[]), text, &[names]);
    }
}
