//! A server as clients know it, over loopback.

#[path = "serve/agents.rs"]
mod agents;
#[path = "serve/apis.rs"]
mod apis;
#[path = "serve/calls.rs"]
mod calls;
mod common;
#[path = "serve/forms.rs"]
mod forms;
#[path = "serve/limits.rs"]
mod limits;
#[path = "serve/many.rs"]
mod many;
#[path = "serve/refusals.rs"]
mod refusals;
#[path = "serve/restarts.rs"]
mod restarts;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use common::damage::add_text;
use common::http::Server;
use outpour_model::synth;
use serde_json::{Value, json};

/// The small trained model: recurrent states, thoughts, calls of tools.
fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/model")
}

/// A model with random weights, with keys and values only, whose experts are streamed: 4 layers of 32 experts of 72 KiB.
fn streamed() -> &'static Path {
    static MODEL: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
        let dir = tempfile::tempdir().expect("a folder");
        let config = json!({
            "model_type": "qwen3_moe", "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 64, "moe_intermediate_size": 128,
            "num_experts": 32, "num_experts_per_tok": 4, "norm_topk_prob": true, "vocab_size": vocab(),
            "max_position_embeddings": 4096,
        });
        synth::write(&config, dir.path(), 7).expect("the model is written");
        add_text(dir.path());
        dir
    });
    MODEL.path()
}

/// Tokens of the fixtures' tokenizer.
fn vocab() -> u64 {
    let text = std::fs::read(common::fixture("text").join("tokenizer.json")).expect("a tokenizer");
    let json: Value = serde_json::from_slice(&text).expect("JSON");
    let added = json["added_tokens"].as_array().into_iter().flatten().filter_map(|token| token["id"].as_u64());
    1 + added.max().expect("added tokens")
}

/// A server of the trained model.
fn serve_demo() -> Server {
    Server::start(&demo(), &["--ram", "200M", "--threads", "2"])
}

/// Memory of the server of the random model: about half of its experts fit.
const RAM_MIB: usize = 100;

/// A server of the random model.
fn serve_streamed(args: &[&str]) -> Server {
    let ctx: &[&str] = if args.contains(&"--ctx") { &[] } else { &["--ctx", "4096"] };
    Server::start(streamed(), &[&["--ram", &format!("{RAM_MIB}M"), "--threads", "2"], ctx, args].concat())
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}

/// The text of an answer of chat completions.
fn said(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap_or_default()
}

/// Anonymous memory of a process.
fn resident_bytes(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok()).map_or(0, |kib| kib << 10)
}
