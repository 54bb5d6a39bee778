//! Metadata of GGUF files (ggml `docs/gguf.md`, llama.cpp `llama-arch.cpp`) as the `config.json` of the family.

use outpour_store::StoreError;
use outpour_store::checkpoint::{Checkpoint, Metadata};
use serde_json::{Map, Value, json};

use crate::config::ModelError;

/// `general.architecture` and the family of the same models.
const ARCHITECTURES: [(&str, &str); 3] =
    [("qwen3moe", "qwen3_moe"), ("qwen3next", "qwen3_next"), ("qwen35moe", "qwen3_5_moe_text")];

/// Keys, behind the architecture's name, and what `config.json` calls them.
const KEYS: [(&str, &str); 19] = [
    ("embedding_length", "hidden_size"),
    ("context_length", "max_position_embeddings"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
    ("attention.key_length", "head_dim"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    ("rope.freq_base", "rope_theta"),
    ("expert_count", "num_experts"),
    ("expert_used_count", "num_experts_per_tok"),
    ("expert_feed_forward_length", "moe_intermediate_size"),
    ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
    ("expert_weights_norm", "norm_topk_prob"),
    ("full_attention_interval", "full_attention_interval"),
    ("ssm.conv_kernel", "linear_conv_kernel_dim"),
    ("ssm.state_size", "linear_key_head_dim"),
    ("ssm.group_count", "linear_num_key_heads"),
    ("ssm.time_step_rank", "linear_num_value_heads"),
    ("vocab_size", "vocab_size"),
];

/// The `config.json` that the files' metadata amount to.
///
/// # Errors
/// Names an architecture that is not supported, and a key that is missing.
pub fn config(metadata: &Metadata, checkpoint: &Checkpoint) -> Result<Value, ModelError> {
    let malformed =
        |problem: String| ModelError::Store(StoreError::Malformed { path: metadata.path().to_owned(), problem });
    let Some(architecture) = metadata.text("general.architecture") else {
        return Err(malformed("has no general.architecture; give the first part of a model's files".into()));
    };
    let Some((_, model_type)) = ARCHITECTURES.iter().find(|(known, _)| *known == architecture) else {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|(known, _)| *known).collect();
        let problem = format!(
            "is of the architecture {architecture:?}, which is not supported in GGUF files; supported are: {}",
            known.join(", ")
        );
        return Err(malformed(problem));
    };
    let get = |key: &str| metadata.get(&format!("{architecture}.{key}"));
    let number = |key: &str| get(key).and_then(Value::as_u64);
    let needed = |key: &str| number(key).ok_or_else(|| malformed(format!("has no number {architecture}.{key}")));

    let mut config = Map::new();
    config.insert("model_type".into(), json!(model_type));
    for (key, ours) in KEYS {
        if let Some(value) = get(key) {
            config.insert(ours.into(), value.clone());
        }
    }
    // llama.cpp makes the weights of these families' experts sum to 1 without being told.
    config.entry("norm_topk_prob").or_insert(json!(true));
    let layers = needed("block_count")?.saturating_sub(number("nextn_predict_layers").unwrap_or(0));
    config.insert("num_hidden_layers".into(), json!(layers));
    if let Some(embedding) = checkpoint.tensor("token_embd.weight") {
        config.insert("vocab_size".into(), json!(embedding.shape.first()));
    }
    config.insert("tie_word_embeddings".into(), json!(checkpoint.tensor("output.weight").is_none()));
    if let (Some(inner), Some(heads)) = (number("ssm.inner_size"), number("ssm.time_step_rank")) {
        config.insert("linear_value_head_dim".into(), json!(inner.checked_div(heads)));
    }
    if let (Some(rotary), Some(head)) = (number("rope.dimension_count"), number("attention.key_length")) {
        config.insert("partial_rotary_factor".into(), json!(fraction(rotary, head)));
    }
    if let Some(scaling) = get("rope.scaling.type").filter(|scaling| *scaling != "none") {
        let (factor, original) = (get("rope.scaling.factor"), get("rope.scaling.original_context_length"));
        let scaling = json!({ "rope_type": scaling, "factor": factor, "original_max_position_embeddings": original });
        config.insert("rope_scaling".into(), scaling);
    }
    Ok(Value::Object(config))
}

/// `part / whole`, so that times `whole` it is not below `part`.
fn fraction(part: u64, whole: u64) -> f64 {
    let fraction = part as f64 / whole.max(1) as f64;
    if fraction * (whole as f64) < part as f64 { fraction.next_up() } else { fraction }
}

/// The `generation_config.json` that the metadata amount to: tokens that end a text, and how to sample.
pub fn generation(metadata: &Metadata) -> Value {
    let mut generation = Map::new();
    let ends = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
    let ends: Vec<&Value> = ends.iter().filter_map(|key| metadata.get(key)).collect();
    generation.insert("eos_token_id".into(), json!(ends));
    for (key, ours) in [
        ("temp", "temperature"),
        ("top_k", "top_k"),
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("penalty_repeat", "repetition_penalty"),
    ] {
        if let Some(value) = metadata.get(&format!("general.sampling.{key}")) {
            generation.insert(ours.into(), value.clone());
        }
    }
    Value::Object(generation)
}
