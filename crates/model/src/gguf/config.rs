//! Metadata of GGUF files (ggml `docs/gguf.md`, llama.cpp `llama-arch.cpp`) as the `config.json` of the family.

use outpour_store::StoreError;
use outpour_store::checkpoint::{Checkpoint, Metadata};
use serde_json::{Map, Value, json};

use super::architectures::ARCHITECTURES;
use super::assumed;
use super::said::Said;
use super::told;
use crate::blocks::{attention, moe, rope};
use crate::config::{Config, ModelError};

/// Families of which files can be made, and their architectures.
const MADE: [(&str, &str); 16] = [
    ("qwen3_moe", "qwen3moe"),
    ("qwen3_next", "qwen3next"),
    ("qwen3_5_moe", "qwen35moe"),
    ("qwen2_moe", "qwen2moe"),
    ("olmoe", "olmoe"),
    ("qwen3", "qwen3"),
    ("mixtral", "llama"),
    ("llama", "llama"),
    ("minimax_m2", "minimax-m2"),
    ("glm4_moe", "glm4moe"),
    ("solar_open", "glm4moe"),
    ("dots1", "dots1"),
    ("hy_v3", "hy_v3"),
    ("deepseek_v2", "deepseek2"),
    ("deepseek_v3", "deepseek2"),
    ("kimi_k2", "deepseek2"),
];
/// Of these, the ones without experts.
const DENSE: [&str; 2] = ["qwen3", "llama"];
/// Those of them whose layers are of two kinds.
const HYBRID: [&str; 2] = ["qwen3next", "qwen35moe"];

/// Share of a head's dimensions that Qwen3-Next and Qwen3.5 turn.
const DEFAULT_ROTARY: f64 = 0.25;

/// Keys, behind the architecture's name, and what `config.json` calls them.
pub(super) const KEYS: [(&str, &str); 19] = [
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

/// The same of how RoPE is scaled.
const SCALING: [(&str, &str); 6] = [
    ("rope.scaling.factor", "factor"),
    ("rope.scaling.original_context_length", "original_max_position_embeddings"),
    ("rope.scaling.attn_factor", "attention_factor"),
    ("rope.scaling.yarn_attn_factor", "attention_factor"),
    ("rope.scaling.yarn_beta_fast", "beta_fast"),
    ("rope.scaling.yarn_beta_slow", "beta_slow"),
];

/// What follows from other keys, of several from the one that says most.
const DERIVED: [(&str, &str); 16] = [
    ("block_count", "num_hidden_layers"),
    ("rope.dimension_count", "partial_rotary_factor"),
    ("rope.dimension_count", "qk_rope_head_dim"),
    ("rope.scaling.type", "rope_type"),
    ("rope.scaling.type", "rope_scaling"),
    ("ssm.inner_size", "linear_value_head_dim"),
    ("attention.key_length_mla", "qk_nope_head_dim"),
    ("attention.value_length_mla", "v_head_dim"),
    ("leading_dense_block_count", "first_k_dense_replace"),
    ("expert_shared_count", "n_shared_experts"),
    ("expert_gating_func", "scoring_func"),
    ("attention.sliding_window_pattern", "layer_types"),
    ("expert_feed_forward_length", "intermediate_size"),
    ("expert_count", "n_routed_experts"),
    ("expert_count", "num_local_experts"),
    ("expert_used_count", "moe_topk"),
];

/// A problem with what [`config`] made, in the words of the file: its keys for those of `config.json`.
pub fn in_words_of(metadata: &Metadata, problem: &str) -> String {
    let name = metadata.text("general.architecture").unwrap_or_default();
    let own = ARCHITECTURES.iter().find(|known| known.name == name).map_or(&[][..], |known| known.keys);
    let key_of = |word: &str| {
        let all = own.iter().chain(&KEYS).chain(&SCALING).chain(&DERIVED).filter(|(_, ours)| *ours == word);
        let keys: Vec<String> = all.map(|(key, _)| format!("{name}.{key}")).collect();
        // Words without an underscore may be words of the sentence.
        let keys = if word.contains('_') { keys } else { Vec::new() };
        keys.iter().find(|key| metadata.get(key).is_some()).or(keys.first()).cloned()
    };
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let (mut out, mut rest) = (String::new(), problem);
    while let Some(at) = rest.find(is_of_word) {
        let word = &rest[at..];
        let (word, behind) = word.split_at(word.find(|c| !is_of_word(c)).unwrap_or(word.len()));
        out += &rest[..at];
        out += key_of(word).as_deref().unwrap_or(word);
        rest = behind;
    }
    (out + rest).replace("config.json", "its metadata")
}

/// The `config.json` that the files' metadata amount to.
///
/// # Errors
/// Names an architecture that is not supported, and a key that is missing.
pub fn config(metadata: &Metadata, checkpoint: &Checkpoint) -> Result<Value, ModelError> {
    let malformed =
        |problem: String| ModelError::Store(StoreError::Malformed { path: metadata.path().to_owned(), problem });
    let Some(name) = metadata.text("general.architecture") else {
        return Err(malformed("has no general.architecture; give the first part of a model's files".into()));
    };
    let Some(architecture) = ARCHITECTURES.iter().find(|known| known.name == name) else {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|known| known.name).collect();
        let problem = format!(
            "is of the architecture {name:?}, which is not supported in GGUF files; supported are: {}",
            known.join(", ")
        );
        return Err(malformed(problem));
    };
    let said = Said { metadata, checkpoint, architecture: name };
    let (get, number) = (|key: &str| said.get(key), |key: &str| said.number(key));

    let mut config = Map::new();
    config.insert("model_type".into(), json!(architecture.family));
    for (key, ours) in KEYS {
        if let Some(value) = get(key) {
            config.insert(ours.into(), value.clone());
        }
    }
    config.insert("num_hidden_layers".into(), json!(said.layers()?));
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
        let said = SCALING.iter().filter_map(|(key, ours)| Some(((*ours).to_owned(), get(key)?.clone())));
        let scaling: Map<String, Value> = [("rope_type".to_owned(), scaling.clone())].into_iter().chain(said).collect();
        config.insert("rope_scaling".into(), Value::Object(scaling));
    }
    architecture.complete(&said, &mut config)?;
    assumed::check(&said, architecture, config["model_type"].as_str().unwrap_or_default())?;
    Ok(Value::Object(config))
}

/// The architecture and the metadata of files of `config`'s model: what [`config`] makes the same of again.
///
/// # Errors
/// When there are no GGUF files of its family, or they cannot tell what it says.
pub fn metadata(config: &Config) -> Result<(&'static str, Map<String, Value>), ModelError> {
    let (model_type, text) = (config.model_type()?, config.text());
    let stem = model_type.trim_end_matches("_text");
    let Some(&(_, name)) = MADE.iter().find(|(family, _)| *family == stem) else {
        let known = MADE.map(|(family, _)| family).join(", ");
        return Err(ModelError::Config(format!(
            "GGUF files of {model_type} cannot be made, only those of {known}; give another --format"
        )));
    };
    let architecture = ARCHITECTURES.iter().find(|known| known.name == name);
    let architecture = architecture.expect("invariant: MADE names architectures that are read");
    let untold =
        |what: &str| ModelError::Config(format!("{what}, which GGUF files cannot tell; give another --format"));
    let layers = text.size("num_hidden_layers")?;
    let (keys, architecture) = (architecture.keys, architecture.name);
    let (dense, hybrid) = (DENSE.contains(&stem), HYBRID.contains(&architecture));
    let is_sparse = moe::sparse_layers(&text)?;
    if !dense && !(0..layers).all(is_sparse) {
        return Err(untold("has layers without experts"));
    }
    let mut all = Map::new();
    for (key, ours) in KEYS.iter().chain(keys) {
        if let Some(value) = text.0.get(ours).filter(|value| !value.is_null()) {
            all.insert((*key).into(), value.clone());
        }
    }
    all.insert("block_count".into(), json!(layers));
    let latent = architecture == "deepseek2";
    let head_dim = if latent {
        told::latent(&text, &mut all)?;
        0
    } else {
        let sizes = attention::Sizes::read(&text)?;
        all.insert("attention.head_count_kv".into(), json!(sizes.kv_heads));
        for key in ["attention.key_length", "attention.value_length"] {
            all.insert(key.into(), json!(sizes.head_dim));
        }
        sizes.head_dim
    };
    if let Some(defaults) = told::experts_of(stem) {
        told::deepseek_experts(&text, defaults, &mut all)?;
    }
    all.insert("attention.layer_norm_rms_epsilon".into(), json!(text.positive_or("rms_norm_eps", 1e-6)?));
    if !all.contains_key("feed_forward_length") {
        all.insert("feed_forward_length".into(), json!(text.size("moe_intermediate_size")?));
    }
    let (settings, theta) = text.rope(if hybrid { 10_000_000.0 } else { 10_000.0 })?;
    all.insert("rope.freq_base".into(), json!(theta));
    match settings.text_or("rope_type", settings.text_or("type", "default")?)? {
        "default" => {}
        kind @ ("linear" | "yarn") => {
            all.insert("rope.scaling.type".into(), json!(kind));
            all.insert("rope.scaling.factor".into(), json!(settings.positive_or("factor", 1.0)?));
            if let Some(original) = settings.size_or_none("original_max_position_embeddings")? {
                all.insert("rope.scaling.original_context_length".into(), json!(original));
            }
            for (key, ours) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
                if settings.has(ours) {
                    all.insert(format!("rope.scaling.{key}"), json!(settings.positive_or(ours, 1.0)?));
                }
            }
            let all_dim = settings.float_or("mscale_all_dim", 0.0)?;
            if latent && settings.float_or("mscale", all_dim)? != all_dim {
                return Err(untold("has RoPE of which mscale is not mscale_all_dim"));
            }
            if latent && all_dim > 0.0 {
                all.insert("rope.scaling.yarn_log_multiplier".into(), json!(all_dim / 10.0));
            }
        }
        kind => return Err(untold(&format!("has RoPE of the type {kind:?}"))),
    }
    if hybrid {
        let interval = text.size_or("full_attention_interval", 4)?;
        let is_full = |layer: usize| (layer + 1).is_multiple_of(interval);
        if !text.layer_types("linear_attention", is_full)?.into_iter().enumerate().all(|(i, full)| full == is_full(i)) {
            return Err(untold(&format!("has layer_types that are not those of full_attention_interval {interval}")));
        }
        all.insert("full_attention_interval".into(), json!(interval));
        let inner = text.size("linear_num_value_heads")?.saturating_mul(text.size("linear_value_head_dim")?);
        all.insert("ssm.inner_size".into(), json!(inner));
        let factor =
            settings.float_or("partial_rotary_factor", text.float_or("partial_rotary_factor", DEFAULT_ROTARY)?)?;
        let rotary = rope::rotary_dim(head_dim, factor)?;
        all.insert("rope.dimension_count".into(), json!(rotary));
        let pairs = rotary / 2;
        let sections = json!([pairs - 2 * (pairs / 3), pairs / 3, pairs / 3, 0]);
        all.insert("rope.dimension_sections".into(), sections);
    }
    if ["glm4_moe"].contains(&stem) {
        let factor = settings.float_or("partial_rotary_factor", text.float_or("partial_rotary_factor", 0.5)?)?;
        all.insert("rope.dimension_count".into(), json!(rope::rotary_dim(head_dim, factor)?));
    }
    let of_architecture = all.into_iter().map(|(key, value)| (format!("{architecture}.{key}"), value));
    Ok((
        architecture,
        [("general.architecture".to_owned(), json!(architecture))].into_iter().chain(of_architecture).collect(),
    ))
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
