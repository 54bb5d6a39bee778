//! Families of which some layers have attention, those with key-value heads, and others a recurrence.

use serde_json::{Map, Value, json};

use super::super::said::{Said, kinds};
use super::experts::{glm_dsa, latent, limited};
use super::shares;
use crate::config::ModelError;

/// Which layers have attention, and how many key-value heads.
fn attention_layers(said: &Said, config: &mut Map<String, Value>) -> Result<Vec<bool>, ModelError> {
    const KV_HEADS: &str = "attention.head_count_kv";
    let full = said.marked(KV_HEADS)?;
    // A model without any has none to give them.
    config.insert("num_key_value_heads".into(), json!(said.common(KV_HEADS, &full)?.max(1)));
    Ok(full)
}

/// LFM2.
pub fn lfm2moe(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    let full = attention_layers(said, config)?;
    config.insert("layer_types".into(), kinds(&full, ["conv", "full_attention"]));
    Ok(())
}

/// Granite 4 with layers of Mamba-2.
pub fn granite_hybrid(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    let full = attention_layers(said, config)?;
    config.insert("layer_types".into(), kinds(&full, ["mamba", "attention"]));
    let width = said.needed("ssm.inner_size")?.checked_div(said.needed("ssm.time_step_rank")?);
    config.insert("mamba_d_head".into(), json!(width));
    turns(said, config)
}

/// Granite 4 without.
pub fn granite(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    let layers = vec![true; said.layers()? as usize];
    config.insert("layer_types".into(), kinds(&layers, ["mamba", "attention"]));
    turns(said, config)
}

/// What of Granite's is the same with Mamba-2 and without: whether there is RoPE, which turns neighbours as Llama's does in these
/// files, and the width of the MLP.
fn turns(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    let turned = said.get("rope.scaling.finetuned").and_then(Value::as_bool).unwrap_or(true);
    config.insert("position_embedding_type".into(), json!(if turned { "rope" } else { "nope" }));
    config.insert("rope_interleave".into(), json!(true));
    config.entry("num_local_experts").or_insert(json!(0));
    let shared = said.shape(0, "ffn_up_shexp.weight").or(said.shape(0, "ffn_up.weight"));
    let Some(width) = shared.and_then(|shape| shape.first()) else {
        return Err(said.malformed("has experts without a shared MLP (Granite 3), which is not supported".into()));
    };
    config.insert("shared_intermediate_size".into(), json!(width));
    Ok(())
}

/// Jamba, whose layers of attention, and of experts, come at even distances.
pub fn jamba(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    let full = attention_layers(said, config)?;
    let sparse: Vec<bool> = (0..said.layers()?).map(|layer| said.is_sparse(layer)).collect();
    for (what, marks) in [("attn", full), ("expert", sparse)] {
        let Some((offset, period)) = even_distance(&marks) else {
            let problem = format!("has {what} layers at uneven distances, which no released model of jamba has");
            return Err(said.malformed(problem));
        };
        config.insert(format!("{what}_layer_offset"), json!(offset));
        config.insert(format!("{what}_layer_period"), json!(period));
    }
    let expand = said.needed("ssm.inner_size")?.checked_div(said.needed("embedding_length")?);
    config.insert("mamba_expand".into(), json!(expand));
    Ok(())
}

/// The first layer that is marked and the distance to the next, if all that are marked lie so.
fn even_distance(marks: &[bool]) -> Option<(usize, usize)> {
    let mut places = (0..marks.len()).filter(|&layer| marks[layer]);
    let first = places.next()?;
    let period = places.next().map_or(marks.len(), |second| second - first);
    (0..marks.len()).all(|layer| marks[layer] == (layer % period == first)).then_some((first, period))
}

/// Kimi-Linear, which counts its layers of attention from 1.
pub fn kimi_linear(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    config.entry("norm_topk_prob").or_insert(json!(true));
    let full = attention_layers(said, config)?;
    latent(said, config)?;
    let full: Vec<usize> = (0..full.len()).filter(|&layer| full[layer]).map(|layer| layer + 1).collect();
    let linear = json!({
        "num_heads": said.needed("attention.head_count")?,
        "head_dim": said.needed("kda.head_dim")?,
        "short_conv_kernel_size": said.needed("ssm.conv_kernel")?,
        "full_attn_layers": full,
    });
    config.insert("linear_attn_config".into(), linear);
    Ok(())
}

/// Ling 3, whose `model_type` is also Ling 2.5's.
pub fn bailingmoe3(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    let full = attention_layers(said, config)?;
    latent(said, config)?;
    config.insert("architectures".into(), json!(["BailingHybridForCausalLM"]));
    config.insert("layer_types".into(), kinds(&full, ["linear_attention", "full_attention"]));
    config.insert("linear_num_heads".into(), json!(said.needed("attention.head_count")?));
    Ok(())
}

/// GLM-5.3-Flash. A file without a bound of its decays has none.
pub fn glm5_next(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    let full = attention_layers(said, config)?;
    glm_dsa(said, config)?;
    limited(said, config)?;
    config.insert("layer_types".into(), kinds(&full, ["linear_attention", "indexed_attention"]));
    config.insert("linear_num_heads".into(), json!(said.needed("attention.head_count")?));
    config.insert("linear_lower_bound".into(), json!(said.get("kda.gate_lower_bound")));
    Ok(())
}

/// Qwen4-Exp, of which one layer has n-grams, whose hashes are said number by number. Gates are sigmoids always.
pub fn qwen4exp(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    const RATIOS: &str = "attention.compress_ratios";
    shares(said, config)?;
    config.insert("output_gate_type".into(), json!("sigmoid"));
    let indexed = said.marked(RATIOS)?;
    if !indexed.contains(&true) {
        let problem = format!(
            "says of no layer that it chooses blocks (qwen4exp.{RATIOS}), as every released model does; convert it again"
        );
        return Err(said.malformed(problem));
    }
    config.insert("indexer_compress_ratio".into(), json!(said.common(RATIOS, &indexed)?));
    let numbers = |key: &str| said.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let counted = |layer: &Value| layer.as_u64().map(|layer| layer.saturating_add(1));
    // Counted from 1 in a config.
    let layers: Option<Vec<u64>> = numbers("ple.layers").iter().map(counted).collect();
    let layers = layers.ok_or_else(|| said.malformed("has no layers' numbers as qwen4exp.ple.layers".into()))?;
    if layers.len() > 1 {
        let problem = format!("has n-grams in {} layers (qwen4exp.ple.layers), and the hashes of one", layers.len());
        return Err(said.malformed(problem));
    }
    if !layers.is_empty() {
        let hashes = numbers("ple.head_vocab_sizes");
        let width = said.needed("embedding_length_per_layer_input")?.saturating_mul(hashes.len() as u64);
        config.insert("ple_embed_dim".into(), json!(width));
        config.insert("split_ngram_parts".into(), json!(1));
        config.insert("ngram_vocab_size_base".into(), json!(hashes.iter().filter_map(Value::as_u64).max()));
    }
    config.insert("ple_layer_ids".into(), json!(layers));
    Ok(())
}

/// MiniMax-Text-01, of which every eighth layer has full attention, unless a file says which.
pub fn minimax_01(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    const RECURRENT: &str = "attention.recurrent_layers";
    let interval = said.number("full_attention_interval").unwrap_or(8).max(1);
    let linear = match said.get(RECURRENT) {
        Some(_) => said.marked(RECURRENT)?,
        None => (1..=said.layers()?).map(|layer| !layer.is_multiple_of(interval)).collect(),
    };
    config.insert("layer_types".into(), kinds(&linear, ["full_attention", "linear_attention"]));
    Ok(())
}

/// Nemotron-3 and Nemotron-H: a layer is what its tensors are.
pub fn nemotron_h(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    let full = attention_layers(said, config)?;
    let letter = |(layer, full): (u64, &bool)| match full {
        true => '*',
        false if said.is_sparse(layer) => 'E',
        false if said.shape(layer, "ffn_up.weight").is_some() => '-',
        false => 'M',
    };
    let pattern: String = (0..).zip(&full).map(letter).collect();
    config.insert("hybrid_override_pattern".into(), json!(pattern));
    let widths = said.by_layer("feed_forward_length", Value::as_u64)?;
    config.insert("intermediate_size".into(), json!(widths.into_iter().max().unwrap_or(0).max(1)));
    let width = said.needed("ssm.inner_size")?.checked_div(said.needed("ssm.time_step_rank")?);
    config.insert("mamba_head_dim".into(), json!(width));
    Ok(())
}
