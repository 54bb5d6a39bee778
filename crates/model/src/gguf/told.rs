//! What GGUF files that are made say of latent attention and of DeepSeek's experts: what [`super::architectures`] reads again.

use serde_json::{Map, Value, json};

use crate::blocks::deepseek_moe::Defaults;
use crate::config::{Config, ModelError};
use crate::families::{deepseek, glm4_moe};

/// What a family takes of experts where its config says nothing; `None` where its experts are none of DeepSeek's.
pub fn experts_of(family: &str) -> Option<Defaults> {
    Some(match family {
        "glm4_moe" => glm4_moe::defaults(glm4_moe::Family::Glm4),
        "solar_open" => glm4_moe::defaults(glm4_moe::Family::SolarOpen),
        "dots1" => glm4_moe::defaults(glm4_moe::Family::Dots),
        "hy_v3" => glm4_moe::defaults(glm4_moe::Family::Hunyuan3),
        "deepseek_v2" | "deepseek_v3" | "kimi_k2" => deepseek::defaults(family).0,
        _ => return None,
    })
}

/// The keys of DeepSeek's experts.
///
/// # Errors
/// When a key of the config has the wrong type.
pub fn deepseek_experts(config: &Config, defaults: Defaults, all: &mut Map<String, Value>) -> Result<(), ModelError> {
    let mut insert = |key: &str, value: Value| drop(all.insert(key.into(), value));
    insert("expert_count", json!(config.size_of(&["n_routed_experts", "num_experts", "num_local_experts"])?));
    insert("leading_dense_block_count", json!(config.count_or("first_k_dense_replace", defaults.dense_layers)?));
    let shared = config.spelling(&["n_shared_experts", "num_shared_experts"]);
    insert("expert_shared_count", json!(config.count_or(shared, defaults.shared_experts)?));
    let scale = config.spelling(&["routed_scaling_factor", "router_scaling_factor"]);
    insert("expert_weights_scale", json!(config.positive_or(scale, defaults.scale)?));
    let norm = config.spelling(&["norm_topk_prob", "moe_renormalize"]);
    insert("expert_weights_norm", json!(config.flag_or(norm, defaults.renormalise)?));
    // Without the other method groups make no difference, and files of such a model have none.
    let grouped = config.text_or("topk_method", "noaux_tc")? != "greedy";
    for (i, (key, ours)) in
        [("expert_group_count", "n_group"), ("expert_group_used_count", "topk_group")].iter().enumerate()
    {
        let groups = if grouped { config.count_or(ours, defaults.groups[i])?.max(1) } else { 1 };
        insert(key, json!(groups));
    }
    Ok(())
}

/// The widths of latent attention, of files in which the matrix of keys and values is whole.
///
/// # Errors
/// When a key is missing, or RoPE turns halves of a head, which no file tells.
pub fn latent(config: &Config, all: &mut Map<String, Value>) -> Result<(), ModelError> {
    if !config.flag_or("rope_interleave", true)? {
        return Err(ModelError::Config(
            "has rope_interleave false, which GGUF files cannot tell; give another --format".into(),
        ));
    }
    let rotary = config.size("qk_rope_head_dim")?;
    let mut insert = |key: &str, value: usize| drop(all.insert(key.into(), json!(value)));
    insert("attention.key_length", config.size("qk_nope_head_dim")?.saturating_add(rotary));
    insert("attention.value_length", config.size("v_head_dim")?);
    insert("attention.head_count_kv", config.size("num_attention_heads")?);
    insert("rope.dimension_count", rotary);
    Ok(())
}
