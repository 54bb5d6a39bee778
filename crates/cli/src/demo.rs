//! `demo`: makes a small Qwen3-MoE model with random weights and streams it in a fraction of its size.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use outpour_engine::Inspection;
use outpour_engine::sample::Sampling;
use outpour_model::synth;
use outpour_store::bytes::Bytes;
use outpour_store::machine::cache_dir;
use outpour_text::StopStrings;
use serde_json::{Value, json};

use crate::args::{DemoArgs, LoadArgs};
use crate::run::Generation;
use crate::{model, term};

/// The demo's tokenizer and template, trained and written for the tests' fixtures.
const TEXT_FILES: [(&str, &str); 3] = [
    ("tokenizer.json", include_str!("../../../tests/fixtures/text/tokenizer.json")),
    ("tokenizer_config.json", include_str!("../../../tests/fixtures/text/tokenizer_config.json")),
    ("chat_template.jinja", include_str!("../../../tests/fixtures/text/chat_template.jinja")),
];

/// What the demo's model needs, rounded up: it is refused before it is made.
const RAM_MIN: Bytes = Bytes(40 << 20);
/// About a quarter of the demo's model.
const RAM_DEFAULT: Bytes = Bytes(80 << 20);

/// Runs the demo.
///
/// # Errors
/// When the model cannot be written, or `--ram` is too small.
pub fn demo(args: &DemoArgs) -> Result<ExitCode> {
    if !args.load.mirror.is_empty() {
        bail!("--mirror names a copy of a model, and the demo makes its own; leave it out");
    }
    let ram = args.load.ram.unwrap_or(RAM_DEFAULT);
    if ram < RAM_MIN {
        bail!("--ram {ram} is too small for the demo: give at least {RAM_MIN}");
    }
    term::catch_interrupt()?;
    let (dir, _removed) = match &args.keep {
        Some(dir) => {
            check_unused(dir)?;
            (dir.clone(), None)
        }
        None => {
            let dir = cache_dir().join(format!("demo-{}", std::process::id()));
            (dir.clone(), Some(RemovedAtEnd(dir)))
        }
    };
    let began = Instant::now();
    make(&dir)?;
    let inspection = Inspection::open(&dir, args.load.numerics())?;
    let bytes: u64 = inspection.checkpoint().files().iter().map(|file| file.bytes()).sum();
    term::note(&format!(
        "Made a Qwen3-MoE model of {} with random weights in {:.1} s. Its words are noise; its shape, files and streaming are real.",
        Bytes(bytes),
        began.elapsed().as_secs_f64()
    ));
    let text = model::text(inspection.checkpoint())?;
    let options = LoadArgs { ram: Some(ram), ..args.load.clone() }.options(text.bytes)?;
    let plan = inspection.plan(&options)?;
    term::note(&format!(
        "Running it in {}: {} of {} experts fit, the others are read from the drive when the router picks them.",
        ram,
        plan.expert_slots,
        inspection.layout.experts_total()
    ));
    let generation = Generation {
        tokens: text.tokenizer.encode_raw("Once upon a time there was a small engine that")?,
        tokens_max: args.max_tokens,
        stop_tokens: Vec::new(),
        stop_strings: StopStrings::new(Vec::new())?,
        sampling: Sampling { temperature: 0.8, top_k: 40, seed: 1, ..Sampling::default() },
        routes: None,
    };
    let mut engine = model::load(inspection, &options, args.load.reader())?;
    generation.run(&mut engine, &text.tokenizer)
}

/// What is in a folder already is never written over.
fn check_unused(dir: &Path) -> Result<()> {
    if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("--keep {}: the folder is not empty; name a new one", dir.display());
    }
    Ok(())
}

/// Writes the model: 8 layers of 64 experts, 4 of them for each token; 302 MB of experts.
fn make(dir: &Path) -> Result<()> {
    synth::write(&config()?, dir, 1)?;
    for (name, text) in TEXT_FILES {
        std::fs::write(dir.join(name), text).with_context(|| format!("{}: cannot write", dir.join(name).display()))?;
    }
    Ok(())
}

fn config() -> Result<Value> {
    let tokenizer: Value = serde_json::from_str(TEXT_FILES[0].1)?;
    let ids = tokenizer["added_tokens"].as_array().into_iter().flatten().filter_map(|token| token["id"].as_u64()).max();
    Ok(json!({
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "hidden_size": 256,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "intermediate_size": 768,
        "moe_intermediate_size": 384,
        "num_experts": 64,
        "num_experts_per_tok": 4,
        "norm_topk_prob": true,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": false,
        "vocab_size": ids.unwrap_or(0) + 1,
    }))
}

struct RemovedAtEnd(PathBuf);

impl Drop for RemovedAtEnd {
    fn drop(&mut self) {
        // What cannot be removed is a few hundred megabytes in the cache folder, named after us.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
