//! From the names that families ask for to those in GGUF files (`gguf-py/gguf/constants.py`, `tensor_mapping.py`).

/// What a layer's tensors are called, by what stands between `model.layers.N.` and `.weight` or `.bias`.
const OF_LAYER: [(&str, &str); 43] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("post_attention_layernorm", "post_attention_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.q_a_proj", "attn_q_a"),
    ("self_attn.q_a_layernorm", "attn_q_a_norm"),
    ("self_attn.q_b_proj", "attn_q_b"),
    ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
    ("self_attn.kv_a_layernorm", "attn_kv_a_norm"),
    ("self_attn.kv_b_proj", "attn_kv_b"),
    ("self_attn.embed_q", "attn_k_b"),
    ("self_attn.unembed_out", "attn_v_b"),
    ("self_attn.indexer.wq_b", "indexer.attn_q_b"),
    ("self_attn.indexer.wk", "indexer.attn_k"),
    ("self_attn.indexer.k_norm", "indexer.k_norm"),
    ("self_attn.indexer.weights_proj", "indexer.proj"),
    ("linear_attn.in_proj_qkv", "attn_qkv"),
    ("linear_attn.in_proj_z", "attn_gate"),
    ("linear_attn.in_proj_qkvz", "ssm_in"),
    ("linear_attn.in_proj_ba", "ssm_ba"),
    ("linear_attn.in_proj_a", "ssm_alpha"),
    ("linear_attn.in_proj_b", "ssm_beta"),
    ("linear_attn.conv1d", "ssm_conv1d"),
    ("linear_attn.norm", "ssm_norm"),
    ("linear_attn.out_proj", "ssm_out"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.router", "ffn_gate_inp"),
    ("mlp.router.gate", "ffn_gate_inp"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.experts.gate_proj", "ffn_gate_exps"),
    ("mlp.experts.up_proj", "ffn_up_exps"),
    ("mlp.experts.down_proj", "ffn_down_exps"),
    ("mlp.experts.gate_up_proj", "ffn_gate_up_exps"),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
];

/// Tensors whose suffixes change too.
const WHOLE: [(&str, &str); 8] = [
    ("self_attn.sinks", "attn_sinks.weight"),
    ("mlp.gate.e_score_correction_bias", "exp_probs_b.bias"),
    ("mlp.e_score_correction_bias", "exp_probs_b.bias"),
    ("mlp.moe_statics.e_score_correction_bias", "exp_probs_b.bias"),
    ("mlp.expert_bias", "exp_probs_b"),
    ("linear_attn.A_log", "ssm_a"),
    ("linear_attn.dt_bias", "ssm_dt.bias"),
    ("mlp.shared_expert_gate.weight", "ffn_gate_inp_shexp.weight"),
];

/// What families call the module of a layer's MLP or experts, and that of shared experts in it.
const MODULES: [&str; 3] = ["mlp.", "block_sparse_moe.", "feed_forward."];
const SHARED: [&str; 3] = ["shared_expert.", "shared_experts.", "shared_mlp."];

/// What a tensor may be called in a GGUF file; nothing for one that GGUF files do not have.
pub fn on_disk(name: &str) -> impl Iterator<Item = String> {
    let outside = match name {
        "model.embed_tokens.weight" => Some("token_embd.weight"),
        "model.norm.weight" => Some("output_norm.weight"),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    let of_layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    let of_layer = of_layer.into_iter().flat_map(|(layer, rest)| {
        let rest = in_usual_modules(rest);
        let whole = WHOLE.iter().filter(|(ours, _)| *ours == rest).map(|(_, theirs)| theirs.to_string());
        let stems = rest.rsplit_once('.').into_iter().flat_map(|(stem, suffix)| {
            OF_LAYER.iter().filter(move |(ours, _)| *ours == stem).map(move |(_, theirs)| format!("{theirs}.{suffix}"))
        });
        whole.chain(stems).map(|theirs| format!("blk.{layer}.{theirs}")).collect::<Vec<_>>()
    });
    outside.map(str::to_owned).into_iter().chain(of_layer)
}

/// A name in a layer, with the first of [`MODULES`] and of [`SHARED`] in place of others.
fn in_usual_modules(rest: &str) -> String {
    let Some(inner) = MODULES.iter().find_map(|module| rest.strip_prefix(module)) else { return rest.to_owned() };
    match SHARED.iter().find_map(|module| inner.strip_prefix(module)) {
        Some(inner) => format!("{}{}{inner}", MODULES[0], SHARED[0]),
        None => format!("{}{inner}", MODULES[0]),
    }
}

#[cfg(test)]
mod tests {
    use super::on_disk;

    #[test]
    fn names_are_those_of_gguf() {
        let all = |name| on_disk(name).collect::<Vec<_>>();
        assert_eq!(all("lm_head.weight"), ["output.weight"]);
        assert_eq!(all("model.layers.7.linear_attn.A_log"), ["blk.7.ssm_a"]);
        assert_eq!(all("model.layers.7.linear_attn.dt_bias"), ["blk.7.ssm_dt.bias"]);
        assert_eq!(all("model.layers.12.mlp.gate.weight"), ["blk.12.ffn_gate_inp.weight"]);
        assert_eq!(all("model.layers.12.mlp.experts.gate_up_proj.weight"), ["blk.12.ffn_gate_up_exps.weight"]);
        let norms = ["blk.0.ffn_norm.weight", "blk.0.post_attention_norm.weight"];
        assert_eq!(all("model.layers.0.post_attention_layernorm.weight"), norms);
        for none in ["model.layers.0.mlp.experts.0.up_proj.weight", "model.layers.0.mlp.experts.down_proj", "x"] {
            assert!(all(none).is_empty(), "{none}");
        }
    }
}
