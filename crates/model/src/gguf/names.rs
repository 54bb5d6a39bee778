//! From the names that families ask for to those in GGUF files (`gguf-py/gguf/constants.py`, `tensor_mapping.py`).

/// What a layer's tensors are called, by what stands between `model.layers.N.` and `.weight` or `.bias`.
const OF_LAYER: [(&str, &str); 129] = [
    ("input_layernorm", "attn_norm"),
    ("operator_norm", "attn_norm"),
    ("attn_norm", "attn_norm"),
    ("norm", "attn_norm"),
    // Gemma's files have both.
    ("post_attention_layernorm", "post_attention_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("pre_ff_layernorm", "ffn_norm"),
    ("ffn_norm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
    ("pre_feedforward_layernorm_2", "pre_ffw_norm_2"),
    ("post_feedforward_layernorm_1", "post_ffw_norm_1"),
    ("post_feedforward_layernorm_2", "post_ffw_norm_2"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.out_proj", "attn_output"),
    ("self_attn.dense", "attn_output"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.norm", "attn_norm_2"),
    ("self_attn.output_gate", "attn_gate"),
    ("self_attn.linear_gate", "attn_gate"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.q_layernorm", "attn_q_norm"),
    ("self_attn.query_layernorm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.k_layernorm", "attn_k_norm"),
    ("self_attn.key_layernorm", "attn_k_norm"),
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
    ("self_attn.indexer.q_proj", "indexer.q_proj"),
    ("self_attn.indexer.k_proj", "indexer.k_proj"),
    ("self_attn.indexer.q_norm", "indexer.q_norm"),
    ("self_attn.indexer.q_layernorm", "indexer.q_norm"),
    ("self_attn.indexer.k_layernorm", "indexer.k_norm"),
    ("attn_hyper_connection.hc_norm", "hc_attn_norm"),
    ("attn_hyper_connection.input_mix_weight_down", "hc_attn_down"),
    ("attn_hyper_connection.input_mix_weight_up", "hc_attn_up"),
    ("attn_hyper_connection.block_inject_weight", "hc_attn_inject"),
    ("mlp_hyper_connection.hc_norm", "hc_ffn_norm"),
    ("mlp_hyper_connection.input_mix_weight_down", "hc_ffn_down"),
    ("mlp_hyper_connection.input_mix_weight_up", "hc_ffn_up"),
    ("mlp_hyper_connection.block_inject_weight", "hc_ffn_inject"),
    ("ple.key_proj", "ple_key"),
    ("ple.value_proj", "ple_value"),
    ("ple.norm_key", "ple_norm_key"),
    ("ple.norm_query", "ple_norm_query"),
    ("ple.norm_conv", "ple_norm_conv"),
    ("ple.conv1d", "ple_conv1d"),
    ("self_attn.q_conv1d", "ssm_conv1d_q"),
    ("self_attn.k_conv1d", "ssm_conv1d_k"),
    ("self_attn.v_conv1d", "ssm_conv1d_v"),
    ("self_attn.f_a_proj", "ssm_f_a"),
    ("self_attn.f_b_proj", "ssm_f_b"),
    ("self_attn.b_proj", "ssm_beta"),
    ("self_attn.f_proj", "ssm_f_a"),
    // Of Ling 3, in layers of delta attention and of latent attention.
    ("self_attn.g_proj", "ssm_g_a"),
    ("self_attn.g_proj", "attn_gate"),
    ("self_attn.g_a_proj", "ssm_g_a"),
    ("self_attn.g_b_proj", "ssm_g_b"),
    ("self_attn.o_norm", "ssm_norm"),
    ("attn.wq_a", "attn_q_a"),
    ("attn.q_norm", "attn_q_a_norm"),
    ("attn.wq_b", "attn_q_b"),
    ("attn.wkv", "attn_kv"),
    ("attn.kv_norm", "attn_kv_a_norm"),
    ("attn.wo_a", "attn_output_a"),
    ("attn.wo_b", "attn_output_b"),
    ("attn.compressor.wkv", "attn_compressor_kv"),
    ("attn.compressor.wgate", "attn_compressor_gate"),
    ("attn.compressor.norm", "attn_compressor_norm"),
    ("attn.indexer.wq_b", "indexer.attn_q_b"),
    ("attn.indexer.weights_proj", "indexer.proj"),
    ("attn.indexer.compressor.wkv", "indexer_compressor_kv"),
    ("attn.indexer.compressor.wgate", "indexer_compressor_gate"),
    ("attn.indexer.compressor.norm", "indexer_compressor_norm"),
    ("linear_attn.in_proj_qkv", "attn_qkv"),
    ("linear_attn.in_proj_z", "attn_gate"),
    ("linear_attn.in_proj_qkvz", "ssm_in"),
    ("linear_attn.in_proj_ba", "ssm_ba"),
    ("linear_attn.in_proj_a", "ssm_alpha"),
    ("linear_attn.in_proj_b", "ssm_beta"),
    ("linear_attn.conv1d", "ssm_conv1d"),
    ("linear_attn.norm", "ssm_norm"),
    ("linear_attn.out_proj", "ssm_out"),
    ("linear_attn.in_proj", "ssm_in"),
    ("linear_attn.x_proj", "ssm_x"),
    ("linear_attn.dt_proj", "ssm_dt"),
    ("linear_attn.dt_layernorm", "ssm_dt_norm"),
    ("linear_attn.b_layernorm", "ssm_b_norm"),
    ("linear_attn.c_layernorm", "ssm_c_norm"),
    ("conv.conv", "shortconv.conv"),
    ("conv.in_proj", "shortconv.in_proj"),
    ("conv.out_proj", "shortconv.out_proj"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.gate.wg", "ffn_gate_inp"),
    ("mlp.router", "ffn_gate_inp"),
    ("mlp.router.gate", "ffn_gate_inp"),
    ("mlp.router.layer", "ffn_gate_inp"),
    ("router.proj", "ffn_gate_inp"),
    ("mlp.w1", "ffn_gate"),
    ("mlp.w3", "ffn_up"),
    ("mlp.w2", "ffn_down"),
    ("mlp.fc1_latent_proj", "ffn_latent_down"),
    ("mlp.fc2_latent_proj", "ffn_latent_up"),
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
    ("mlp.shared_expert.w1", "ffn_gate_shexp"),
    ("mlp.shared_expert.w3", "ffn_up_shexp"),
    ("mlp.shared_expert.w2", "ffn_down_shexp"),
];

/// Tensors whose suffixes change too.
const WHOLE: [(&str, &str); 25] = [
    ("self_attn.sinks", "attn_sinks.weight"),
    ("self_attn.attention_sink_bias", "attn_sinks.weight"),
    ("attn.attn_sink", "attn_sinks.weight"),
    ("self_attn.learnable_sink_param", "attn_sinks.weight"),
    ("attn.compressor.ape", "attn_compressor_ape.weight"),
    ("attn.indexer.compressor.ape", "indexer_compressor_ape.weight"),
    ("self_attn.indexer.index_kpool_compress_ape", "indexer_compressor_ape.weight"),
    ("self_attn.indexer.index_kpool_compress_gate", "indexer_compressor_gate.weight"),
    ("mlp.gate.bias", "exp_probs_b.bias"),
    ("mlp.gate.expert_bias", "exp_probs_b.bias"),
    ("mlp.gate.tid2eid", "ffn_gate_tid2eid.weight"),
    ("self_attn.A_log", "ssm_a"),
    ("self_attn.dt_bias", "ssm_dt.bias"),
    ("mlp.gate.e_score_correction_bias", "exp_probs_b.bias"),
    ("mlp.e_score_correction_bias", "exp_probs_b.bias"),
    ("mlp.moe_statics.e_score_correction_bias", "exp_probs_b.bias"),
    ("mlp.expert_bias", "exp_probs_b"),
    ("mlp.expert_bias", "exp_probs_b.bias"),
    ("router.scale", "ffn_gate_inp.scale"),
    ("router.per_expert_scale", "ffn_down_exps.scale"),
    ("layer_scalar", "layer_output_scale.weight"),
    ("linear_attn.D", "ssm_d"),
    ("linear_attn.A_log", "ssm_a"),
    ("linear_attn.dt_bias", "ssm_dt.bias"),
    ("mlp.shared_expert_gate.weight", "ffn_gate_inp_shexp.weight"),
];

/// Tensors outside layers, by what stands before `.weight` or `.bias`.
const OUTSIDE: [(&str, &str); 14] = [
    ("model.embed_tokens", "token_embd"),
    ("model.word_embeddings", "token_embd"),
    ("backbone.embeddings", "token_embd"),
    ("model.norm", "output_norm"),
    ("model.final_layernorm", "output_norm"),
    ("backbone.norm_f", "output_norm"),
    ("model.embedding_norm", "token_embd_norm"),
    ("model.hyper_connection_mixer.hc_norm", "output_hc_norm"),
    ("model.hyper_connection_mixer.input_mix_weight_down", "output_hc_down"),
    ("model.hyper_connection_mixer.input_mix_weight_up", "output_hc_up"),
    ("lm_head", "output"),
    ("embed", "token_embd"),
    ("norm", "output_norm"),
    ("head", "output"),
];

/// Of a layer's streams: what Hunyuan 4 and what others call the weights that mix them, but for their last part.
const MIXES: [(&str, &str); 4] = [
    ("hc_attn_layer.hc_pre.hc_", "hc_attn_"),
    ("hc_mlp_layer.hc_pre.hc_", "hc_ffn_"),
    ("hc_attn_", "hc_attn_"),
    ("hc_ffn_", "hc_ffn_"),
];

/// Of a layer and in no layer: the rows of n-grams, which are one tensor.
const NGRAMS: &str = ".ple.ple_embedding.ngram_embedding.shard_0.weight";

/// What families call the module of a layer's MLP or experts, and that of shared experts in it.
const MODULES: [&str; 4] = ["mlp.", "block_sparse_moe.", "feed_forward.", "ffn."];
const SHARED: [&str; 3] = ["shared_expert.", "shared_experts.", "shared_mlp."];
/// What they call a module that is none of these: Ling's attention, Mamba, whatever a layer of Nemotron is, and Gemma's experts
/// beside an MLP.
const OTHERS: [(&str, &[&str]); 4] = [
    ("attention.", &["self_attn."]),
    ("mamba.", &["linear_attn."]),
    ("mixer.", &["linear_attn.", "self_attn.", "mlp."]),
    ("experts.", &["mlp.experts."]),
];

/// What a tensor may be called in a GGUF file; nothing for one that GGUF files do not have.
pub fn on_disk(name: &str) -> impl Iterator<Item = String> {
    let renamed = |table: &'static [(&str, &str)], name: &str| {
        let (stem, suffix) = name.rsplit_once('.').unwrap_or((name, ""));
        let same = table.iter().filter(|(ours, _)| *ours == stem);
        same.map(|(_, theirs)| format!("{theirs}.{suffix}")).collect::<Vec<_>>()
    };
    let mut outside = renamed(&OUTSIDE, name);
    let head = ["hc_head_", "model.hc_head.hc_head_"].into_iter().find_map(|head| name.strip_prefix(head));
    outside.extend(name.ends_with(NGRAMS).then(|| "per_layer_token_embd.weight".to_owned()));
    outside.extend(head.map(|part| format!("output_hc_{part}.weight")));
    let in_layers =
        ["model.layers.", "backbone.layers.", "layers."].into_iter().find_map(|layers| name.strip_prefix(layers));
    let of_layer = in_layers.and_then(|rest| rest.split_once('.'));
    let of_layer = of_layer.into_iter().flat_map(move |(layer, rest)| {
        let usual = in_usual_modules(rest).into_iter().flat_map(|rest| {
            let whole = WHOLE.iter().filter(|(ours, _)| *ours == rest).map(|(_, theirs)| theirs.to_string());
            let mixes = MIXES.iter().find_map(|(ours, theirs)| Some((theirs, rest.strip_prefix(ours)?)));
            whole
                .chain(mixes.map(|(half, part)| format!("{half}{part}.weight")))
                .chain(renamed(&OF_LAYER, &rest))
                .collect::<Vec<_>>()
        });
        usual.map(|theirs| format!("blk.{layer}.{theirs}")).collect::<Vec<_>>()
    });
    outside.into_iter().chain(of_layer)
}

/// A name in a layer, with the first of [`MODULES`] and of [`SHARED`] in place of others.
fn in_usual_modules(rest: &str) -> Vec<String> {
    for (other, usual) in OTHERS {
        if let Some(inner) = rest.strip_prefix(other) {
            return usual.iter().flat_map(|usual| in_usual_modules(&format!("{usual}{inner}"))).collect();
        }
    }
    let Some(inner) = MODULES.iter().find_map(|module| rest.strip_prefix(module)) else { return vec![rest.to_owned()] };
    vec![match SHARED.iter().find_map(|module| inner.strip_prefix(module)) {
        Some(inner) => format!("{}{}{inner}", MODULES[0], SHARED[0]),
        None => format!("{}{inner}", MODULES[0]),
    }]
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
        assert_eq!(
            all("backbone.layers.3.mixer.out_proj.weight"),
            ["blk.3.ssm_out.weight", "blk.3.attn_output.weight"]
        );
        assert_eq!(all("backbone.layers.3.mixer.shared_experts.up_proj.weight"), ["blk.3.ffn_up_shexp.weight"]);
        assert_eq!(all("model.layers.3.experts.down_proj.weight"), ["blk.3.ffn_down_exps.weight"]);
        let norms = ["blk.0.post_attention_norm.weight", "blk.0.ffn_norm.weight"];
        assert_eq!(all("model.layers.0.post_attention_layernorm.weight"), norms);
        for none in ["model.layers.0.mlp.experts.0.up_proj.weight", "model.layers.0.mlp.experts.down_proj", "x"] {
            assert!(all(none).is_empty(), "{none}");
        }
    }
}
