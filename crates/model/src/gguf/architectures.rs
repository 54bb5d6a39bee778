//! Architectures of GGUF files (llama.cpp `llama-arch.cpp`), the families of the same models, and what a family's config says that
//! others' do not.

mod attention;
mod experts;
mod hybrid;

use serde_json::{Map, Value, json};

use super::said::Said;
use crate::config::ModelError;
use attention::{exaone_moe, gemma3, gemma4, gpt_oss, llama, llama4, mimo2, minimax_m3, phimoe};
use experts::{deepseek_experts, deepseek2, deepseek4, glm_dsa, glm4moe, hy_v4, latent, mistral4};
use hybrid::{
    bailingmoe3, glm5_next, granite, granite_hybrid, jamba, kimi_linear, lfm2moe, minimax_01, nemotron_h, qwen4exp,
};

/// An architecture, and how its metadata become a config.
pub struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// `model_type`, which `more` may change.
    pub family: &'static str,
    /// Keys beside [`super::config::KEYS`], and what `config.json` calls them.
    pub keys: &'static [(&'static str, &'static str)],
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

/// Those and the keys of several residual streams.
const LATENT_STREAMS: [(&str, &str); 11] = [
    LATENT_SPARSE[0],
    LATENT_SPARSE[1],
    LATENT_SPARSE[2],
    LATENT_SPARSE[3],
    LATENT_SPARSE[4],
    LATENT_SPARSE[5],
    LATENT_SPARSE[6],
    LATENT_SPARSE[7],
    ("hyper_connection.count", "hc_mult"),
    ("hyper_connection.epsilon", "hc_eps"),
    ("hyper_connection.magnitude", "hc_magnitude"),
];

const GEMMA: [(&str, &str); 5] = [
    ("attention.sliding_window", "sliding_window"),
    ("final_logit_softcapping", "final_logit_softcapping"),
    ("attention.shared_kv_layers", "num_kv_shared_layers"),
    ("embedding_length_per_layer_input", "hidden_size_per_layer_input"),
    ("rope.freq_base_swa", "rope_local_base_freq"),
];
const GRANITE: [(&str, &str); 10] = [
    ("expert_count", "num_local_experts"),
    ("expert_shared_feed_forward_length", "shared_intermediate_size"),
    ("attention.scale", "attention_multiplier"),
    ("embedding_scale", "embedding_multiplier"),
    ("residual_scale", "residual_multiplier"),
    ("logit_scale", "logits_scaling"),
    ("ssm.conv_kernel", "mamba_d_conv"),
    ("ssm.state_size", "mamba_d_state"),
    ("ssm.group_count", "mamba_n_groups"),
    ("ssm.time_step_rank", "mamba_n_heads"),
];
const NEMOTRON: [(&str, &str); 11] = [
    DEEPSEEK_EXPERTS[0],
    DEEPSEEK_EXPERTS[1],
    DEEPSEEK_EXPERTS[2],
    ("attention.layer_norm_epsilon", "layer_norm_epsilon"),
    ("attention.layer_norm_rms_epsilon", "norm_eps"),
    ("expert_shared_feed_forward_length", "moe_shared_expert_intermediate_size"),
    ("moe_latent_size", "moe_latent_size"),
    ("ssm.conv_kernel", "conv_kernel"),
    ("ssm.state_size", "ssm_state_size"),
    ("ssm.group_count", "n_groups"),
    ("ssm.time_step_rank", "mamba_num_heads"),
];

/// Every architecture.
pub const ARCHITECTURES: &[Architecture] = &[
    Architecture { name: "qwen3moe", family: "qwen3_moe", keys: &[], more: shares },
    Architecture { name: "qwen3next", family: "qwen3_next", keys: &[], more: shares },
    Architecture { name: "qwen35moe", family: "qwen3_5_moe_text", keys: &[], more: shares },
    Architecture {
        name: "qwen4exp",
        family: "qwen4_exp_text",
        keys: &[
            ("hyper_connection.count", "hc_count"),
            ("hyper_connection.low_rank", "hc_lowrank"),
            ("attention.indexer.head_count", "indexer_n_heads"),
            ("attention.indexer.key_length", "indexer_head_dim"),
            ("attention.indexer.top_k", "indexer_budget"),
            ("embedding_length_per_layer_input", "ple_row_dim"),
            ("ple.ngram_size", "ngram_size"),
            ("ple.heads_per_ngram", "heads_per_ngram"),
            ("ple.conv_kernel", "ple_conv_kernel_size"),
            ("ple.eos_token_id", "eos_token_id"),
            ("ple.layer_multipliers", "ple_layer_multipliers"),
            ("ple.head_offsets", "ple_head_offsets"),
            ("ple.head_vocab_sizes", "ple_head_vocab_sizes"),
        ],
        more: qwen4exp,
    },
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
    Architecture { name: "mistral4", family: "mistral4", keys: &LATENT, more: mistral4 },
    Architecture { name: "glm-dsa", family: "glm_moe_dsa", keys: &LATENT_SPARSE, more: glm_dsa },
    Architecture {
        name: "deepseek4",
        family: "deepseek_v4",
        keys: &[
            ("expert_count", "n_routed_experts"),
            ("expert_shared_count", "n_shared_experts"),
            ("expert_weights_scale", "routed_scaling_factor"),
            ("hash_layer_count", "num_hash_layers"),
            ("rope.dimension_count", "qk_rope_head_dim"),
            ("attention.q_lora_rank", "q_lora_rank"),
            ("attention.sliding_window", "sliding_window"),
            ("attention.output_group_count", "o_groups"),
            ("attention.output_lora_rank", "o_lora_rank"),
            ("attention.compress_ratios", "compress_ratios"),
            ("attention.compress_rope_freq_base", "compress_rope_theta"),
            ("attention.indexer.head_count", "index_n_heads"),
            ("attention.indexer.key_length", "index_head_dim"),
            ("attention.indexer.top_k", "index_topk"),
            ("hyper_connection.count", "hc_mult"),
            ("hyper_connection.sinkhorn_iterations", "hc_sinkhorn_iters"),
            ("hyper_connection.epsilon", "hc_eps"),
        ],
        more: deepseek4,
    },
    Architecture { name: "glm4moe", family: "glm4_moe", keys: &DEEPSEEK_EXPERTS, more: glm4moe },
    Architecture { name: "dots1", family: "dots1", keys: &DEEPSEEK_EXPERTS, more: deepseek_experts },
    Architecture { name: "hy_v3", family: "hy_v3", keys: &DEEPSEEK_EXPERTS, more: deepseek_experts },
    Architecture { name: "hy_v4", family: "hy_v4", keys: &LATENT_STREAMS, more: hy_v4 },
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
        name: "minimax-01",
        family: "minimax",
        keys: &[
            ("expert_count", "num_local_experts"),
            ("rope.dimension_count", "rotary_dim"),
            ("residual_scale", "full_attn_alpha_factor"),
            ("residual_scale", "linear_attn_alpha_factor"),
            ("residual_scale", "mlp_alpha_factor"),
        ],
        more: minimax_01,
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
        name: "minimax-m3",
        family: "minimax_m3_vl_text",
        keys: &[
            ("expert_count", "num_local_experts"),
            ("expert_weights_scale", "routed_scaling_factor"),
            ("feed_forward_length", "dense_intermediate_size"),
            ("expert_feed_forward_length", "intermediate_size"),
            ("rope.dimension_count", "rotary_dim"),
            ("attention.indexer.head_count", "index_n_heads"),
            ("attention.indexer.key_length", "index_head_dim"),
            ("attention.indexer.top_k", "index_topk_blocks"),
            ("attention.indexer.block_size", "index_block_size"),
            ("attention.indexer.local_blocks", "index_local_blocks"),
        ],
        more: minimax_m3,
    },
    Architecture {
        name: "hunyuan-moe",
        family: "hunyuan_v1_moe",
        keys: &[
            ("expert_shared_feed_forward_length", "intermediate_size"),
            ("expert_shared_count", "num_shared_expert"),
        ],
        more: nothing,
    },
    Architecture { name: "gemma3", family: "gemma3_text", keys: &GEMMA, more: gemma3 },
    Architecture { name: "gemma4", family: "gemma4_text", keys: &GEMMA, more: gemma4 },
    Architecture { name: "mimo2", family: "mimo_v2_flash", keys: &DEEPSEEK_EXPERTS, more: mimo2 },
    Architecture {
        name: "phimoe",
        family: "phimoe",
        keys: &[("expert_count", "num_local_experts"), ("attention.sliding_window", "sliding_window")],
        more: phimoe,
    },
    Architecture {
        name: "lfm2moe",
        family: "lfm2_moe",
        keys: &[
            ("shortconv.l_cache", "conv_L_cache"),
            ("leading_dense_block_count", "num_dense_layers"),
            ("attention.layer_norm_rms_epsilon", "norm_eps"),
            ("expert_weights_scale", "routed_scaling_factor"),
        ],
        more: lfm2moe,
    },
    Architecture { name: "granitehybrid", family: "granitemoehybrid", keys: &GRANITE, more: granite_hybrid },
    Architecture { name: "granitemoe", family: "granitemoehybrid", keys: &GRANITE, more: granite },
    Architecture { name: "granite", family: "granitemoehybrid", keys: &GRANITE, more: granite },
    Architecture {
        name: "jamba",
        family: "jamba",
        keys: &[
            ("ssm.conv_kernel", "mamba_d_conv"),
            ("ssm.state_size", "mamba_d_state"),
            ("ssm.time_step_rank", "mamba_dt_rank"),
        ],
        more: jamba,
    },
    Architecture { name: "kimi-linear", family: "kimi_linear", keys: &LATENT, more: kimi_linear },
    Architecture {
        name: "bailingmoe3",
        family: "bailing_hybrid",
        keys: &[
            DEEPSEEK_EXPERTS[0],
            DEEPSEEK_EXPERTS[1],
            DEEPSEEK_EXPERTS[2],
            LATENT[3],
            LATENT[4],
            ("kda.head_dim", "linear_head_dim"),
            ("kda.safe_gate", "kda_safe_gate"),
            ("kda.gate_lower_bound", "kda_lower_bound"),
        ],
        more: bailingmoe3,
    },
    Architecture {
        name: "glm5-next",
        family: "glm5_next",
        keys: &[
            LATENT[0],
            LATENT[1],
            LATENT[2],
            LATENT[3],
            LATENT[4],
            LATENT_SPARSE[5],
            LATENT_SPARSE[6],
            LATENT_SPARSE[7],
            LATENT_STREAMS[8],
            LATENT_STREAMS[9],
            ("hyper_connection.sinkhorn_iterations", "hc_sinkhorn_iters"),
            ("attention.indexer.kpool", "index_kpool"),
            ("attention.indexer.kpool_select_tail", "index_kpool_always_select_tail"),
            ("kda.head_dim", "linear_head_dim"),
        ],
        more: glm5_next,
    },
    Architecture { name: "nemotron_h", family: "nemotron_h", keys: &NEMOTRON, more: nemotron_h },
    Architecture { name: "nemotron_h_moe", family: "nemotron_h", keys: &NEMOTRON, more: nemotron_h },
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

fn nothing(_: &Said, _: &mut Map<String, Value>) -> Result<(), ModelError> {
    Ok(())
}

/// llama.cpp makes the weights of these families' experts sum to 1 without being told.
pub(super) fn shares(_: &Said, config: &mut Map<String, Value>) -> Result<(), ModelError> {
    config.entry("norm_topk_prob").or_insert(json!(true));
    Ok(())
}
