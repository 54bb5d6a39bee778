//! A model with random weights that can be prompted: its words are noise, its shape, files and streaming are real.

use std::fs;
use std::path::{Path, PathBuf};

use outpour_model::synth;
use serde_json::{Value, json};

/// A Qwen3-MoE of 8 layers of 64 experts, 4 of them for each token, in `dir`: 295 MiB of experts and trunk.
pub fn random_model(dir: &Path) -> PathBuf {
    let text = super::fixture("text");
    let tokenizer = fs::read(text.join("tokenizer.json")).expect("the tokenizer of the fixtures");
    let tokenizer: Value = serde_json::from_slice(&tokenizer).expect("JSON");
    let added = tokenizer["added_tokens"].as_array().expect("a list");
    let config = json!({
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 256, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 768,
        "moe_intermediate_size": 384, "num_experts": 64, "num_experts_per_tok": 4, "norm_topk_prob": true,
        "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0, "max_position_embeddings": 4096,
        "tie_word_embeddings": false,
        "vocab_size": added.iter().filter_map(|token| token["id"].as_u64()).max().expect("an id") + 1,
    });
    synth::write(&config, dir, 1).expect("the model is written");
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        fs::copy(text.join(name), dir.join(name)).expect("it is copied");
    }
    dir.to_owned()
}
