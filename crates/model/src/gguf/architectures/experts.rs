//! DeepSeek's experts, latent attention, and what GLM makes of both.

use serde_json::{Map, Value, json};

use super::super::said::{Said, kinds};
use crate::config::ModelError;

/// Experts as DeepSeek's: layers with an MLP in their place, and shared ones.
pub fn deepseek_experts(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    let layers = said.layers()?;
    let dense = || (0..layers).take_while(|&layer| !said.is_sparse(layer)).count() as u64;
    let dense = said.number("leading_dense_block_count").unwrap_or_else(dense);
    config.insert("first_k_dense_replace".into(), json!(dense));
    let width = said.needed("expert_feed_forward_length")?;
    let by_width = || said.number("expert_shared_feed_forward_length").unwrap_or(0).checked_div(width).unwrap_or(0);
    let shared = said.number("expert_shared_count").unwrap_or_else(by_width);
    config.insert("n_shared_experts".into(), json!(shared));
    config.entry("norm_topk_prob").or_insert(json!(false));
    Ok(())
}

/// DeepSeek-V3.2: latent attention, whose matrix of keys and values is in two, the keys' transposed.
pub fn latent(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    deepseek_experts(said, config)?;
    if said.get("attention.temperature_scale").is_some() {
        return Err(said.malformed("has queries that grow along the context (Mistral), which is not supported in GGUF files; take its safetensors".into()));
    }
    // Files made before the matrix was split have a head's own widths there.
    let width = |of: &str| {
        let apart = said.number(&format!("attention.{of}_length_mla"));
        apart.map_or_else(|| said.needed(&format!("attention.{of}_length")), Ok)
    };
    let (key, value, rotary) = (width("key")?, width("value")?, said.needed("rope.dimension_count")?);
    config.retain(|key, _| !["head_dim", "num_key_value_heads", "partial_rotary_factor"].contains(&key.as_str()));
    config.insert("qk_rope_head_dim".into(), json!(rotary));
    config.insert("qk_nope_head_dim".into(), json!(key.saturating_sub(rotary)));
    config.insert("v_head_dim".into(), json!(value));
    let yarn = config.get_mut("rope_scaling").and_then(Value::as_object_mut);
    if let (Some(yarn), Some(log)) = (yarn, said.get("rope.scaling.yarn_log_multiplier").and_then(Value::as_f64)) {
        // A tenth of mscale_all_dim; mscale is the same in every released model.
        yarn.extend(["mscale", "mscale_all_dim"].map(|key| (key.to_owned(), json!(10.0 * log))));
    }
    Ok(())
}

/// DeepSeek-V2 and V3, Kimi-K2, Moonlight, GLM-4.7-Flash.
pub fn deepseek2(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    latent(said, config)?;
    let layers = said.layers()?;
    let biased = (0..layers).any(|layer| said.checkpoint.tensor(&format!("blk.{layer}.exp_probs_b.bias")).is_some());
    // Files without groups are of models without them, but for those of V3 made before groups were written.
    let groups = match said.number("expert_count") {
        Some(256) if biased => [8, 4],
        _ => [1, 1],
    };
    ["n_group", "topk_group"].iter().zip(groups).for_each(|(key, count)| {
        config.entry(*key).or_insert(json!(count));
    });
    if !biased {
        config.insert("model_type".into(), json!("deepseek_v2"));
        let method = if config["n_group"] == json!(1) { "greedy" } else { "group_limited_greedy" };
        config.insert("topk_method".into(), json!(method));
    }
    Ok(())
}

/// Mistral 4. By how much its queries grow is not said, and taken as released.
pub fn mistral4(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    latent(said, config)?;
    if let Some(yarn) = config.get_mut("rope_scaling").and_then(Value::as_object_mut) {
        yarn.insert("llama_4_scaling_beta".into(), json!(0.1));
    }
    Ok(())
}

/// DeepSeek-V4.
pub fn deepseek4(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    limited(said, config)
}

/// Experts whose activations are limited, in all layers alike.
pub fn limited(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    const LIMIT: &str = "swiglu_clamp_exp";
    let limits = if said.get(LIMIT).is_some() { said.by_layer(LIMIT, Value::as_f64)? } else { vec![0.0] };
    match limits.iter().find(|limit| **limit != limits[0]) {
        Some(other) => return Err(said.malformed(format!("limits activations to {} and to {other}", limits[0]))),
        // Without a limit the family's own would stand; none is as large as this one.
        None => {
            config.insert("swiglu_limit".into(), json!(if limits[0] > 0.0 { limits[0] } else { f64::from(f32::MAX) }))
        }
    };
    Ok(())
}

/// Hunyuan 4.
pub fn hy_v4(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    glm_dsa(said, config)?;
    limited(said, config)
}

/// GLM-5.
pub fn glm_dsa(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    latent(said, config)?;
    if said.get("attention.indexer.types").is_some() {
        config.insert("indexer_types".into(), kinds(&said.marked("attention.indexer.types")?, ["shared", "full"]));
    }
    Ok(())
}

/// GLM-4.5 to 4.7.
pub fn glm4moe(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    deepseek_experts(said, config)?;
    config.insert("attention_bias".into(), json!(said.in_first_layer("attn_q.bias")));
    config.insert("use_qk_norm".into(), json!(said.in_first_layer("attn_q_norm.weight")));
    Ok(())
}
