//! Attention of families whose files say more of it than the common keys.

use outpour_store::StoreError;
use outpour_store::checkpoint::StoredType;
use outpour_store::checkpoint::gguf::{ROPE_FACTORS, ROPE_FACTORS_SHORT};
use outpour_store::read::whole::WholeFile;
use serde_json::{Map, Value, json};

use super::super::said::{Said, kinds};
use super::deepseek_experts;
use crate::config::ModelError;

/// Which layers see a window.
const WINDOWED: &str = "attention.sliding_window_pattern";
const FULL_OR_WINDOWED: [&str; 2] = ["full_attention", "sliding_attention"];
const KV_HEADS: &str = "attention.head_count_kv";

/// Llama and Mixtral, whose queries and keys are permuted so that RoPE turns neighbours.
pub fn llama(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    if said.number("expert_count").unwrap_or(0) == 0 {
        config.insert("model_type".into(), json!("llama"));
    }
    config.insert("rope_interleave".into(), json!(true));
    rope_factors(said, config)
}

/// Llama 4. Its chunks and the growth of its queries are in no file: they are what the family takes.
pub fn llama4(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    // Of the two released models the one of 128 experts has no norms of queries and keys, which have no weights.
    config.insert("use_qk_norm".into(), json!(said.number("expert_count") != Some(128)));
    rope_factors(said, config)
}

/// K-EXAONE.
pub fn exaone_moe(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    deepseek_experts(said, config)?;
    config.insert("sliding_window".into(), json!(said.needed("attention.sliding_window")?));
    if said.get(WINDOWED).is_some() {
        config.insert("layer_types".into(), kinds(&said.marked(WINDOWED)?, FULL_OR_WINDOWED));
    }
    Ok(())
}

/// gpt-oss, the ends of whose ramp of YaRN are not rounded.
pub fn gpt_oss(_: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    if let Some(yarn) = config.get_mut("rope_scaling").and_then(Value::as_object_mut) {
        yarn.insert("truncate".into(), json!(false));
    }
    Ok(())
}

/// Gemma 3, of which all layers but every sixth see a window.
pub fn gemma3(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    // Of the released models the one of 62 layers scales scores by the width of a head's share of the stream, the others by that of
    // a head.
    let share = said.needed("embedding_length")?.checked_div(said.needed("attention.head_count")?);
    let width = if said.layers()? == 62 { share } else { Some(said.needed("attention.key_length")?) };
    config.insert("query_pre_attn_scalar".into(), json!(width));
    Ok(())
}

/// Gemma 4, whose full layers have heads and RoPE of their own; values that are what keys are have no tensor.
pub fn gemma4(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    let windowed = said.marked(WINDOWED)?;
    let full: Vec<bool> = windowed.iter().map(|windowed| !windowed).collect();
    config.insert("layer_types".into(), kinds(&windowed, FULL_OR_WINDOWED));
    config.insert("head_dim".into(), json!(said.needed("attention.key_length_swa")?));
    config.insert("global_head_dim".into(), json!(said.needed("attention.key_length")?));
    if said.get(KV_HEADS).is_some_and(Value::is_array) {
        config.insert("num_key_value_heads".into(), json!(said.common(KV_HEADS, &windowed)?));
        config.insert("num_global_key_value_heads".into(), json!(said.common(KV_HEADS, &full)?));
    }
    let last_full = full.iter().rposition(|full| *full).unwrap_or(0) as u64;
    config.insert("attention_k_eq_v".into(), json!(said.shape(last_full, "attn_v.weight").is_none()));
    config.insert("enable_moe_block".into(), json!(said.number("expert_count").unwrap_or(0) > 0));
    let theta = |key: &str| said.get(key).cloned().ok_or_else(|| said.malformed(format!("has no number gemma4.{key}")));
    let mut of_full = json!({"rope_theta": theta("rope.freq_base")?});
    if let Some(factors) = factors(said, ROPE_FACTORS)? {
        of_full["rope_type"] = json!("factors");
        of_full["factors"] = json!(factors);
    }
    let of_windowed = json!({"rope_theta": theta("rope.freq_base_swa")?});
    config.insert("rope_parameters".into(), json!({"full_attention": of_full, "sliding_attention": of_windowed}));
    Ok(())
}

/// MiMo-V2-Flash.
pub fn mimo2(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    config.entry("norm_topk_prob").or_insert(json!(true));
    deepseek_experts(said, config)?;
    let windowed = said.marked(WINDOWED)?;
    let full: Vec<bool> = windowed.iter().map(|windowed| !windowed).collect();
    let sinks = |which: &[bool]| {
        let has = |layer: u64| said.shape(layer, "attn_sinks.weight").is_some();
        (0..).zip(which).any(|(layer, which)| *which && has(layer))
    };
    config.insert("layer_types".into(), kinds(&windowed, FULL_OR_WINDOWED));
    config.insert("num_key_value_heads".into(), json!(said.common(KV_HEADS, &full)?));
    config.insert("swa_num_key_value_heads".into(), json!(said.common(KV_HEADS, &windowed)?));
    config.insert("add_full_attention_sink_bias".into(), json!(sinks(&full)));
    config.insert("add_swa_attention_sink_bias".into(), json!(sinks(&windowed)));
    config.insert("v_head_dim".into(), json!(said.needed("attention.value_length")?));
    config.insert("attention_value_scale".into(), said.get("attention.value_scale").cloned().unwrap_or(json!(1.0)));
    config.insert("sliding_window_size".into(), json!(said.needed("attention.sliding_window")?));
    if let Some(theta) = said.get("rope.freq_base_swa") {
        config.insert("swa_rope_theta".into(), theta.clone());
    }
    Ok(())
}

/// Phi-3.5-MoE, whose factors within the original context are a tensor.
pub fn phimoe(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    config.insert("attention_bias".into(), json!(said.in_first_layer("attn_q.bias")));
    config.insert("lm_head_bias".into(), json!(said.checkpoint.tensor("output.bias").is_some()));
    if let Some(short) = factors(said, ROPE_FACTORS_SHORT)? {
        let scale = said.get("rope.scaling.attn_factor");
        let original = said.needed("rope.scaling.original_context_length")?;
        let rope = json!({
            "rope_type": "longrope", "short_factor": short, "short_mscale": scale, "original_max_position_embeddings": original,
        });
        config.insert("rope_scaling".into(), rope);
    }
    Ok(())
}

/// MiniMax-M3, of which layers behind the first few choose blocks and have experts. Alpha and limit of its activation are not said,
/// and taken as released.
pub fn minimax_m3(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    let layers = said.layers()?;
    let has = |tensor: &str| (0..layers).map(|layer| said.shape(layer, tensor).is_some()).collect::<Vec<_>>();
    config.insert("layer_types".into(), kinds(&has("indexer.q_proj.weight"), ["full_attention", "minimax_m3_sparse"]));
    let sparse = has("ffn_gate_inp.weight");
    let width = (0..layers).find_map(|layer| said.shape(layer, "ffn_up_shexp.weight")?.first());
    config.insert("mlp_layer_types".into(), kinds(&sparse, ["dense", "sparse"]));
    config.insert("shared_intermediate_size".into(), json!(width));
    Ok(())
}

/// What each of RoPE's frequencies is divided by, where that is a tensor.
fn rope_factors(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    if let Some(factors) = factors(said, ROPE_FACTORS)? {
        config.insert("rope_scaling".into(), json!({"rope_type": "factors", "factors": factors}));
    }
    Ok(())
}

/// The numbers of such a tensor, if it is there.
fn factors(said: &Said, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
    const PAIRS_MAX: u64 = 1 << 16;
    let Some(info) = said.checkpoint.tensor(name) else { return Ok(None) };
    let path = said.checkpoint.files()[info.file].path();
    let malformed = |problem: String| ModelError::Store(StoreError::Malformed { path: path.to_owned(), problem });
    if info.dtype != StoredType::F32 || info.bytes > 4 * PAIRS_MAX {
        return Err(malformed(format!("tensor {name} is {} {:?}, and no list of F32", info.dtype, info.shape)));
    }
    let bytes = WholeFile::open(path)?.read_at(info.offset, info.bytes as usize)?;
    Ok(Some(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
}
