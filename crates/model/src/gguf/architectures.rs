//! Architectures of GGUF files (llama.cpp `llama-arch.cpp`), the families of the same models, and what a family's config says that
//! others' do not.

use outpour_store::StoreError;
use outpour_store::checkpoint::{Checkpoint, Metadata, StoredType};
use outpour_store::read::whole::WholeFile;
use serde_json::{Map, Value, json};

use crate::config::ModelError;

/// An architecture, and how its metadata become a config.
pub struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// `model_type`, which `more` may change.
    pub family: &'static str,
    /// Keys beside [`super::config::KEYS`], and what `config.json` calls them.
    keys: &'static [(&'static str, &'static str)],
    /// What does not follow from single keys.
    more: fn(&Said, &mut Map<String, Value>) -> Result<(), ModelError>,
}

/// Keys of DeepSeek's experts, which others took over.
const DEEPSEEK_EXPERTS: [(&str, &str); 3] = [
    ("expert_group_count", "n_group"),
    ("expert_group_used_count", "topk_group"),
    ("expert_weights_scale", "routed_scaling_factor"),
];
/// Those and the keys of latent attention, with and without an indexer.
const LATENT: [(&str, &str); 5] = [
    DEEPSEEK_EXPERTS[0],
    DEEPSEEK_EXPERTS[1],
    DEEPSEEK_EXPERTS[2],
    ("attention.q_lora_rank", "q_lora_rank"),
    ("attention.kv_lora_rank", "kv_lora_rank"),
];
const LATENT_SPARSE: [(&str, &str); 8] = [
    LATENT[0],
    LATENT[1],
    LATENT[2],
    LATENT[3],
    LATENT[4],
    ("attention.indexer.head_count", "index_n_heads"),
    ("attention.indexer.key_length", "index_head_dim"),
    ("attention.indexer.top_k", "index_topk"),
];

/// Every architecture; the first three can be made too.
pub const ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "qwen3moe", family: "qwen3_moe", keys: &[], more: shares },
    Architecture { name: "qwen3next", family: "qwen3_next", keys: &[], more: shares },
    Architecture { name: "qwen35moe", family: "qwen3_5_moe_text", keys: &[], more: shares },
    Architecture { name: "qwen2moe", family: "qwen2_moe", keys: &[], more: nothing },
    Architecture { name: "olmoe", family: "olmoe", keys: &[], more: nothing },
    Architecture { name: "qwen3", family: "qwen3", keys: &[], more: nothing },
    Architecture { name: "llama", family: "mixtral", keys: &[("expert_count", "num_local_experts")], more: llama },
    Architecture {
        name: "llama4",
        family: "llama4",
        keys: &[
            ("expert_count", "num_local_experts"),
            ("feed_forward_length", "intermediate_size_mlp"),
            ("expert_feed_forward_length", "intermediate_size"),
            ("interleave_moe_layer_step", "interleave_moe_layer_step"),
        ],
        more: llama4,
    },
    Architecture { name: "deepseek2", family: "deepseek_v3", keys: &LATENT, more: deepseek2 },
    Architecture { name: "deepseek32", family: "deepseek_v32", keys: &LATENT_SPARSE, more: latent },
    Architecture { name: "glm-dsa", family: "glm_moe_dsa", keys: &LATENT_SPARSE, more: glm_dsa },
    Architecture { name: "glm4moe", family: "glm4_moe", keys: &DEEPSEEK_EXPERTS, more: glm4moe },
    Architecture { name: "dots1", family: "dots1", keys: &DEEPSEEK_EXPERTS, more: deepseek_experts },
    Architecture { name: "hy_v3", family: "hy_v3", keys: &DEEPSEEK_EXPERTS, more: deepseek_experts },
    Architecture { name: "exaone-moe", family: "exaone_moe", keys: &DEEPSEEK_EXPERTS, more: exaone_moe },
    Architecture {
        name: "ernie4_5-moe",
        family: "ernie4_5_moe",
        keys: &[
            ("expert_count", "moe_num_experts"),
            ("interleave_moe_layer_step", "moe_layer_interval"),
            ("leading_dense_block_count", "moe_layer_start_index"),
            ("expert_shared_count", "moe_num_shared_experts"),
        ],
        more: nothing,
    },
    Architecture {
        name: "minimax-m2",
        family: "minimax_m2",
        keys: &[
            ("expert_count", "num_local_experts"),
            ("expert_feed_forward_length", "intermediate_size"),
            ("rope.dimension_count", "rotary_dim"),
        ],
        more: nothing,
    },
    Architecture {
        name: "gpt-oss",
        family: "gpt_oss",
        keys: &[("expert_feed_forward_length", "intermediate_size"), ("attention.sliding_window", "sliding_window")],
        more: gpt_oss,
    },
];

impl Architecture {
    /// Adds to a config what this architecture's metadata say beside the common keys.
    ///
    /// # Errors
    /// Names a key that is missing, or that is not supported.
    pub fn complete(&self, said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
        for (key, ours) in self.keys {
            if let Some(value) = said.get(key) {
                config.insert((*ours).into(), value.clone());
            }
        }
        (self.more)(said, config)
    }
}

/// What files say of a model.
pub struct Said<'c> {
    /// Their metadata.
    pub metadata: &'c Metadata,
    /// Their tensors.
    pub checkpoint: &'c Checkpoint,
    /// What keys begin with.
    pub architecture: &'c str,
}

impl Said<'_> {
    /// The value under a key of the architecture.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(&format!("{}.{key}", self.architecture))
    }

    /// A whole number.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    /// A number that has to be there.
    ///
    /// # Errors
    /// Names the key.
    pub fn needed(&self, key: &str) -> Result<u64, ModelError> {
        self.number(key).ok_or_else(|| self.malformed(format!("has no number {}.{key}", self.architecture)))
    }

    /// A problem with the file.
    pub fn malformed(&self, problem: String) -> ModelError {
        ModelError::Store(StoreError::Malformed { path: self.metadata.path().to_owned(), problem })
    }

    /// Layers without those for multi-token prediction.
    ///
    /// # Errors
    /// When it is not said how many there are.
    pub fn layers(&self) -> Result<u64, ModelError> {
        Ok(self.needed("block_count")?.saturating_sub(self.number("nextn_predict_layers").unwrap_or(0)))
    }

    fn in_first_layer(&self, tensor: &str) -> bool {
        self.checkpoint.tensor(&format!("blk.0.{tensor}")).is_some()
    }

    fn is_sparse(&self, layer: u64) -> bool {
        self.checkpoint.tensor(&format!("blk.{layer}.ffn_gate_inp.weight")).is_some()
    }
}

fn nothing(_: &Said, _: &mut Map<String, Value>) -> Result<(), ModelError> {
    Ok(())
}

/// llama.cpp makes the weights of these families' experts sum to 1 without being told.
fn shares(_: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    config.entry("norm_topk_prob").or_insert(json!(true));
    Ok(())
}

/// Llama and Mixtral, whose queries and keys are permuted so that RoPE turns neighbours.
fn llama(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    if said.number("expert_count").unwrap_or(0) == 0 {
        config.insert("model_type".into(), json!("llama"));
    }
    config.insert("rope_interleave".into(), json!(true));
    rope_factors(said, config)
}

/// Llama 4. Its chunks and the growth of its queries are in no file: they are what the family takes.
fn llama4(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    // Of the two released models the one of 128 experts has no norms of queries and keys, which have no weights.
    config.insert("use_qk_norm".into(), json!(said.number("expert_count") != Some(128)));
    rope_factors(said, config)
}

/// What each of RoPE's frequencies is divided by, where that is a tensor.
fn rope_factors(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    const NAME: &str = "rope_freqs.weight";
    const PAIRS_MAX: u64 = 1 << 16;
    let Some(info) = said.checkpoint.tensor(NAME) else { return Ok(()) };
    let path = said.checkpoint.files()[info.file].path();
    let malformed = |problem: String| ModelError::Store(StoreError::Malformed { path: path.to_owned(), problem });
    if info.dtype != StoredType::F32 || info.bytes > 4 * PAIRS_MAX {
        return Err(malformed(format!("tensor {NAME} is {} {:?}, and no list of F32", info.dtype, info.shape)));
    }
    let bytes = WholeFile::open(path)?.read_at(info.offset, info.bytes as usize)?;
    let factors: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    config.insert("rope_scaling".into(), json!({"rope_type": "factors", "factors": factors}));
    Ok(())
}

/// Experts as DeepSeek's: layers with an MLP in their place, and shared ones.
fn deepseek_experts(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
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
fn latent(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
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
fn deepseek2(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
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

/// GLM-5.
fn glm_dsa(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    latent(said, config)?;
    if let Some(types) = said.get("attention.indexer.types").and_then(Value::as_array) {
        let kind = |own: &Value| if *own == json!(true) { "full" } else { "shared" };
        config.insert("indexer_types".into(), types.iter().map(kind).collect());
    }
    Ok(())
}

/// GLM-4.5 to 4.7.
fn glm4moe(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    deepseek_experts(said, config)?;
    config.insert("attention_bias".into(), json!(said.in_first_layer("attn_q.bias")));
    config.insert("use_qk_norm".into(), json!(said.in_first_layer("attn_q_norm.weight")));
    Ok(())
}

/// K-EXAONE.
fn exaone_moe(said: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    deepseek_experts(said, config)?;
    config.insert("sliding_window".into(), json!(said.needed("attention.sliding_window")?));
    if let Some(windowed) = said.get("attention.sliding_window_pattern").and_then(Value::as_array) {
        let kind = |windowed: &Value| if *windowed == json!(true) { "sliding_attention" } else { "full_attention" };
        config.insert("layer_types".into(), windowed.iter().map(kind).collect());
    }
    Ok(())
}

/// gpt-oss, the ends of whose ramp of YaRN are not rounded.
fn gpt_oss(_: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    if let Some(yarn) = config.get_mut("rope_scaling").and_then(Value::as_object_mut) {
        yarn.insert("truncate".into(), json!(false));
    }
    Ok(())
}
