//! Keys of `config.json`: what is taken where one is missing, which values are refused, and which spellings are read.

mod common;

use std::path::Path;

use common::damage::{copy, edit_header, edit_json, split};
use common::{engine, logits, roomy};
use outpour_engine::{Inspection, Options};
use outpour_store::read::ReaderKind;
use serde_json::{Map, Value, json};

/// Longer than the windows and than what the indexers of the fixtures choose.
const TOKENS: u32 = 48;

/// What a model comes to: its logits, or the line that refuses it.
fn outcome(model: &Path) -> Result<Vec<f32>, String> {
    let line = |error: String| error.replace(&model.display().to_string(), "MODEL");
    Inspection::open(model, true).map_err(|error| line(error.to_string()))?;
    let options = Options { precise: true, ..roomy() };
    let ids: Vec<u32> = (0..TOKENS).map(|i| (i * 7 + 3) % 41).collect();
    Ok(logits(&mut engine(model, &options, ReaderKind::Auto), &ids, ids.len()).logits)
}

/// The same of a fixture whose config is changed.
fn changed(fixture: &str, change: impl FnOnce(&mut Map<String, Value>)) -> Result<Vec<f32>, String> {
    let model = copy(fixture);
    edit_json(&model.path().join("config.json"), |config| {
        let text = if config["text_config"].is_object() { &mut config["text_config"] } else { config };
        change(text.as_object_mut().expect("an object"));
    });
    outcome(model.path())
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// Fixture, key, and what the family's class in `transformers` (of Ling 2.5 its maker's) takes where there is none.
const DEFAULTS: [(&str, &str, &str); 82] = [
    ("llama", "rms_norm_eps", "1e-6"),
    ("llama", "rope_theta", "10000.0"),
    ("qwen3", "rms_norm_eps", "1e-6"),
    ("qwen3", "rope_theta", "10000.0"),
    ("mixtral", "rms_norm_eps", "1e-5"),
    ("mixtral", "rope_theta", "1e6"),
    ("glm4_moe", "first_k_dense_replace", "1"),
    ("glm4_moe", "n_shared_experts", "1"),
    ("glm4_moe", "partial_rotary_factor", "0.5"),
    ("glm4_moe", "rms_norm_eps", "1e-5"),
    ("glm4_moe", "rope_theta", "10000.0"),
    ("glm4_moe", "routed_scaling_factor", "1.0"),
    ("glm4_moe", "use_qk_norm", "false"),
    ("minimax_m2", "rms_norm_eps", "1e-6"),
    ("minimax_m2", "rope_theta", "5e6"),
    ("minimax_m2", "rotary_dim", "24"),
    ("gpt_oss", "attention_bias", "true"),
    ("gpt_oss", "rms_norm_eps", "1e-5"),
    ("gpt_oss", "rope_theta", "150000.0"),
    ("gpt_oss", "sliding_window", "128"),
    ("gpt_oss", "swiglu_limit", "7.0"),
    ("gemma3", "query_pre_attn_scalar", "256"),
    ("gemma3", "rms_norm_eps", "1e-6"),
    ("gemma3", "rope_local_base_freq", "10000.0"),
    ("gemma3", "rope_theta", "1e6"),
    ("gemma3", "sliding_window", "4096"),
    ("gemma3", "vocab_size", "262208"),
    ("gemma4", "hidden_size_per_layer_input", "256"),
    ("gemma4", "rms_norm_eps", "1e-6"),
    ("gemma4", "sliding_window", "512"),
    ("gemma4", "tie_word_embeddings", "true"),
    ("gemma4", "vocab_size", "262144"),
    ("deepseek_v2", "first_k_dense_replace", "0"),
    ("deepseek_v2", "n_shared_experts", "2"),
    ("deepseek_v2", "rms_norm_eps", "1e-6"),
    ("deepseek_v2", "routed_scaling_factor", "1.0"),
    ("deepseek_v2", "topk_method", "\"greedy\""),
    ("deepseek_v3", "first_k_dense_replace", "3"),
    ("deepseek_v3", "n_group", "8"),
    ("deepseek_v3", "n_shared_experts", "1"),
    ("deepseek_v3", "norm_topk_prob", "true"),
    ("deepseek_v3", "rms_norm_eps", "1e-6"),
    ("deepseek_v3", "routed_scaling_factor", "2.5"),
    ("deepseek_v3", "topk_group", "4"),
    ("deepseek_v32", "first_k_dense_replace", "3"),
    ("deepseek_v32", "n_group", "8"),
    ("deepseek_v32", "n_shared_experts", "1"),
    ("deepseek_v32", "rms_norm_eps", "1e-6"),
    ("deepseek_v32", "routed_scaling_factor", "2.5"),
    ("deepseek_v32", "topk_group", "4"),
    ("glm_moe_dsa", "first_k_dense_replace", "3"),
    ("glm_moe_dsa", "n_shared_experts", "1"),
    ("glm_moe_dsa", "rms_norm_eps", "1e-5"),
    ("glm_moe_dsa", "routed_scaling_factor", "2.5"),
    ("glm4_moe_lite", "first_k_dense_replace", "1"),
    ("glm4_moe_lite", "rms_norm_eps", "1e-5"),
    ("glm4_moe_lite", "routed_scaling_factor", "1.8"),
    ("mistral4", "first_k_dense_replace", "0"),
    ("mistral4", "n_shared_experts", "1"),
    ("dots1", "first_k_dense_replace", "0"),
    ("dots1", "n_shared_experts", "0"),
    ("dots1", "norm_topk_prob", "false"),
    ("hy_v3", "first_k_dense_replace", "1"),
    ("hy_v3", "router_scaling_factor", "2.826"),
    ("deepseek_v4", "norm_topk_prob", "true"),
    ("deepseek_v4", "routed_scaling_factor", "1.5"),
    ("deepseek_v4", "swiglu_limit", "10.0"),
    ("kimi_linear", "first_k_dense_replace", "1"),
    ("kimi_linear", "moe_renormalize", "true"),
    ("kimi_linear", "num_shared_experts", "1"),
    ("kimi_linear", "routed_scaling_factor", "2.446"),
    ("minimax", "full_attn_alpha_factor", "1.0"),
    ("minimax", "rope_theta", "1e6"),
    ("ling25", "first_k_dense_replace", "1"),
    ("ling25", "group_norm_size", "4"),
    ("ling25", "n_group", "8"),
    ("ling25", "num_shared_experts", "1"),
    ("ling25", "partial_rotary_factor", "0.5"),
    ("ling25", "routed_scaling_factor", "1.0"),
    ("ling3", "first_k_dense_replace", "2"),
    ("ling3", "topk_group", "4"),
    ("nemotron_h", "routed_scaling_factor", "1.0"),
];

#[test]
fn a_missing_key_is_what_the_family_takes_for_it() {
    for (fixture, key, default) in DEFAULTS {
        let default = json_of(default);
        let mut own = Value::Null;
        // A refusal names the key where it is there.
        let unnamed = |refused: String| refused.replace(&format!(" (see {key} there)"), "");
        let missing = changed(fixture, |config| own = config.remove(key).expect(key)).map_err(unnamed);
        let said = changed(fixture, |config| drop(config.insert(key.into(), default.clone()))).map_err(unnamed);
        assert!(missing == said, "{fixture} without {key} is not {default}: {:?}", [missing.err(), said.err()]);
        if own.as_f64() != default.as_f64() || own.is_string() || own.is_boolean() && own != default {
            let released = changed(fixture, |_| ()).expect(fixture);
            assert!(said.as_ref() != Ok(&released), "{fixture}: {key} {default} makes no difference to {own}");
        }
    }
}

/// What a family's default would be a scaling of RoPE for is not guessed.
#[test]
fn scalings_of_rope_are_not_guessed() {
    for (fixture, key) in [("gpt_oss", "rope_scaling"), ("mistral4", "rope_parameters"), ("gemma4", "rope_parameters")]
    {
        let refused = changed(fixture, |config| drop(config.remove(key))).expect_err(fixture);
        assert!(
            refused.starts_with("config.json: has no rope_") && refused.ends_with("; download it again"),
            "{refused}"
        );
    }
}

/// Values that would be other mathematics than what is computed.
const REFUSED: [(&str, &str, &str); 57] = [
    ("deepseek_v2", "scoring_func", "\"sigmoid\""),
    ("deepseek_v2", "topk_method", "\"noaux_tc\""),
    ("deepseek_v2", "norm_topk_prob", "true"),
    ("deepseek_v2", "mlp_bias", "true"),
    ("deepseek_v3", "scoring_func", "\"softmax\""),
    ("deepseek_v3", "topk_method", "\"greedy\""),
    ("deepseek_v3", "moe_layer_freq", "2"),
    ("deepseek_v32", "scoring_func", "\"softmax\""),
    ("deepseek_v32", "topk_method", "\"group_limited_greedy\""),
    ("glm_moe_dsa", "scoring_func", "\"softmax\""),
    ("glm_moe_dsa", "topk_method", "\"greedy\""),
    ("glm4_moe", "scoring_func", "\"softmax\""),
    ("glm4_moe", "hidden_act", "\"gelu\""),
    ("glm4_moe_lite", "topk_method", "\"greedy\""),
    ("mistral4", "scoring_func", "\"sigmoid\""),
    ("dots1", "scoring_func", "\"softmax\""),
    ("deepseek_v4", "scoring_func", "\"sigmoid\""),
    ("deepseek_v4", "topk_method", "\"greedy\""),
    ("kimi_linear", "moe_router_activation_func", "\"softmax\""),
    ("kimi_linear", "mla_use_nope", "false"),
    ("kimi_linear", "use_grouped_topk", "false"),
    ("kimi_linear", "attention_bias", "true"),
    ("ling25", "score_function", "\"softmax\""),
    ("ling25", "linear_silu", "true"),
    ("ling25", "rope_interleave", "false"),
    ("ling25", "use_qk_norm", "false"),
    ("ling25", "moe_router_enable_expert_bias", "false"),
    ("ling3", "score_function", "\"softmax\""),
    ("minimax", "postnorm", "false"),
    ("minimax", "shared_intermediate_size", "8"),
    ("minimax", "mlp_beta_factor", "2.5"),
    ("minimax_m2", "qk_norm_type", "\"per_head\""),
    ("minimax_m2", "scoring_func", "\"softmax\""),
    ("minimax_m2", "shared_intermediate_size", "8"),
    ("minimax_m2", "sliding_window", "20"),
    ("minimax_m2", "use_routing_bias", "false"),
    ("nemotron_h", "time_step_limit", "[0.0,0.1]"),
    ("nemotron_h", "time_step_limit", "[0.001,{\"__float__\":\"Infinity\"}]"),
    ("nemotron_h", "use_conv_bias", "false"),
    ("granitemoehybrid", "time_step_limit", "[0.0,0.1]"),
    ("gpt_oss", "hidden_act", "\"gelu\""),
    ("gemma3", "hidden_activation", "\"relu\""),
    ("gemma4", "use_bidirectional_attention", "\"all\""),
    ("gemma3", "attn_logit_softcapping", "50.0"),
    ("qwen4_exp", "attn_output_gate", "false"),
    ("longcat_flash", "attention_method", "\"GQA\""),
    ("ernie4_5_moe", "moe_gate_act", "\"sigmoid\""),
    ("hunyuan_v1_moe", "use_mixed_mlp_moe", "false"),
    ("jamba", "mamba_inner_layernorms", "false"),
    ("hy_v3", "route_norm", "false"),
    ("hy_v3", "mlp_bias", "true"),
    ("ernie4_5_moe", "moe_norm_min", "0.9"),
    ("hy_v4", "swiglu_limit", "0.0"),
    ("ling3", "tie_word_embeddings", "true"),
    ("granitemoehybrid", "mamba_conv_bias", "false"),
    ("jamba", "mamba_conv_bias", "false"),
    ("hy_v3", "moe_router_use_sigmoid", "false"),
];

#[test]
fn other_mathematics_are_refused_by_key_and_value() {
    for (fixture, key, value) in REFUSED {
        let refused = changed(fixture, |config| drop(config.insert(key.into(), json_of(value))));
        let refused = refused.expect_err(&format!("{fixture} with {key} {value}"));
        let is_line = refused.starts_with("config.json: ") && !refused.contains('\n');
        assert!(is_line && refused.contains(key) && refused.contains(value), "{fixture}, {key} {value}: {refused}");
    }
}

/// Keys that ask for tensors, or say their shapes, are named where these are not as they say.
#[test]
fn what_a_tensor_is_asked_for_by_is_named() {
    for (fixture, key, value) in [
        ("llama", "attention_bias", "true"),
        ("llama", "hidden_size", "72"),
        ("qwen2_moe", "decoder_sparse_step", "2"),
        ("gemma4", "attention_k_eq_v", "false"),
        ("mimo_v2_flash", "add_full_attention_sink_bias", "true"),
    ] {
        let refused = changed(fixture, |config| drop(config.insert(key.into(), json_of(value)))).expect_err(fixture);
        assert!(refused.contains("tensor") && refused.contains(key) && !refused.contains('\n'), "{refused}");
    }
    let refused = changed("kimi_linear", |config| drop(config.remove("linear_attn_config"))).expect_err("no sizes");
    assert_eq!(refused, "config.json: has no linear_attn_config; download it again");
}

/// Windows by layer, of families whose releases have none.
#[test]
fn kinds_of_layers_that_no_release_has_are_refused() {
    for fixture in ["llama", "qwen3", "qwen3_moe", "qwen2_moe", "olmoe", "dots1", "hy_v3"] {
        let of = |kind: &str| {
            changed(fixture, |config| {
                let layers = config["num_hidden_layers"].as_u64().expect("a number of layers") as usize;
                config.insert("layer_types".into(), json!(vec![kind; layers]));
            })
        };
        assert!(of("full_attention") == changed(fixture, |_| ()), "{fixture}");
        let refused = of("sliding_attention").expect_err(fixture);
        assert!(refused.starts_with("config.json: layer_types has \"sliding_attention\""), "{fixture}: {refused}");
    }
}

/// What is taken for a score is the score, whatever else is taken too.
#[test]
fn a_refusal_advises_what_the_family_has() {
    let refused = changed("deepseek_v3", |config| drop(config.insert("scoring_func".into(), json!("softmax"))));
    assert_eq!(
        refused.expect_err("another score"),
        "config.json: scoring_func \"softmax\" is not this family's sigmoid"
    );
    let refused = changed("gpt_oss", |config| drop(config.insert("hidden_act".into(), json!("gelu"))));
    assert!(!refused.expect_err("another activation").contains("silu"), "its activation is another");
}

/// Ling 3 as transformers writes it: `head_dim` is the width of RoPE.
#[test]
fn ling_3_as_transformers_saves_it_is_ling_3() {
    let saved = |linear_head_dim: u32| {
        changed("ling3", |config| {
            for (ours, theirs) in [
                ("num_experts_per_tok", "num_experts_per_token"),
                ("n_group", "num_expert_group"),
                ("norm_topk_prob", "moe_renormalize"),
                ("max_position_embeddings", "model_max_length"),
                ("short_conv_kernel_size", "linear_conv_kernel_dim"),
            ] {
                let value = config.remove(ours).expect(ours);
                config.insert(theirs.into(), value);
            }
            let heads = config["num_attention_heads"].clone();
            let own = json!({"head_dim": 8, "linear_head_dim": linear_head_dim, "linear_num_heads": heads});
            config.extend(own.as_object().expect("an object").clone());
        })
    };
    assert!(saved(16) == changed("ling3", |_| ()));
    assert!(saved(8).expect_err("narrower heads").contains("q_conv1d"));
}

/// Hunyuan 4 as transformers writes it: part of a name elsewhere, and another name for gates.
#[test]
fn hunyuan_4_as_transformers_saves_it_is_hunyuan_4() {
    let model = copy("hy_v4");
    let released = outcome(model.path());
    let mut renamed = 0;
    edit_header(&model.path().join("model.safetensors"), |header| {
        for (name, tensor) in std::mem::take(header) {
            let saved = match name.replace(".hc_pre.hc_", ".hc_") {
                without if without.contains(".hc_") => without.replacen(".hc_", ".hc_pre.hc_", 1),
                other => other,
            };
            let saved = saved.replace(".gate_proj.", ".linear_gate.");
            renamed += u32::from(saved != name);
            header.insert(saved, tensor);
        }
    });
    assert!(renamed > 3 && outcome(model.path()) == released);
    assert!(released.is_ok());
}

/// Time steps without a limit, however they are written: as Python, as `transformers` and as converters write them.
#[test]
fn time_steps_without_a_limit_are_no_limit() {
    let released = changed("nemotron_h", |_| ());
    assert!(released.is_ok());
    for above in ["Infinity", "{\"__float__\": \"Infinity\"}", "1e30"] {
        let model = copy("nemotron_h");
        let path = model.path().join("config.json");
        let config = std::fs::read_to_string(&path).expect("a config");
        let limit = format!("{{\"say\": \"\\\"Infinity\", \"time_step_limit\": [0.0, {above}],");
        std::fs::write(&path, config.replacen('{', &limit, 1)).expect("written");
        assert!(outcome(model.path()) == released, "{above}");
    }
}

/// MiniMax-Text-01 as its maker spells it.
#[test]
fn minimax_text_01_is_minimax() {
    const KEYS: [(&str, &str); 6] = [
        ("full_attn_alpha_factor", "layernorm_full_attention_alpha"),
        ("full_attn_beta_factor", "layernorm_full_attention_beta"),
        ("linear_attn_alpha_factor", "layernorm_linear_attention_alpha"),
        ("linear_attn_beta_factor", "layernorm_linear_attention_beta"),
        ("mlp_alpha_factor", "layernorm_mlp_alpha"),
        ("mlp_beta_factor", "layernorm_mlp_beta"),
    ];
    let respelt = |further: &dyn Fn(&mut Map<String, Value>)| {
        changed("minimax", |config| {
            for (ours, theirs) in KEYS {
                let value = config.remove(ours).expect(ours);
                config.insert(theirs.into(), value);
            }
            config.remove("layer_types");
            let own = json!({
                "model_type": "minimax_text_01",
                "architectures": ["MiniMaxText01ForCausalLM"],
                "attn_type_list": [0, 0, 0, 1],
                "postnorm": true,
                "shared_intermediate_size": 0,
                "shared_moe_mode": "sigmoid",
            });
            config.extend(own.as_object().expect("an object").clone());
            further(config);
        })
    };
    assert!(respelt(&|_| ()) == changed("minimax", |_| ()));
    for (key, value, named) in [
        ("postnorm", Value::Null, "postnorm is false"),
        ("layernorm_mlp_beta", json!(2.5), "layernorm_mlp_beta is 2.5"),
        ("attn_type_list", json!([0, 0, 0, 2]), "attn_type_list"),
        ("attn_type_list", json!([0, 1]), "attn_type_list"),
    ] {
        let refused = respelt(&|config| drop(config.insert(key.into(), value.clone()))).expect_err(key);
        assert!(refused.contains(named), "{refused}");
    }
    let other = respelt(&|config| drop(config.insert("layernorm_mlp_alpha".into(), json!(1.0))));
    assert!(other.is_ok() && other != changed("minimax", |_| ()), "alphas make a difference");
}

/// Gemma's head is its embedding unless the config says otherwise: here it is the embedding of the token behind.
#[test]
fn a_head_of_its_own_is_used() {
    let model = copy("gemma3");
    let untied = |config: &mut Value| config["tie_word_embeddings"] = json!(false);
    let tied = outcome(model.path()).expect("logits");
    edit_json(&model.path().join("config.json"), untied);
    let refused = outcome(model.path()).expect_err("no head");
    assert!(refused.contains("lm_head.weight"), "{refused}");

    let path = model.path().join("model.safetensors");
    let file = std::fs::read(&path).expect("the file");
    let (header, data) = split(&file);
    let mut header: Value = serde_json::from_slice(header).expect("a header");
    let mut head = header["model.embed_tokens.weight"].clone();
    let [from, to] = [0, 1].map(|i| head["data_offsets"][i].as_u64().expect("an offset") as usize);
    let vocab = head["shape"][0].as_u64().expect("a size") as usize;
    let mut rows = data[from..to].to_vec();
    rows.rotate_left((to - from) / vocab);
    head["data_offsets"] = json!([data.len(), data.len() + rows.len()]);
    header["lm_head.weight"] = head;
    let header = header.to_string();
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data, &rows].concat();
    std::fs::write(&path, file).expect("written");
    let own = outcome(model.path()).expect("logits");
    for (own, tied) in own.chunks_exact(vocab).zip(tied.chunks_exact(vocab)) {
        assert_eq!(own[..vocab - 1], tied[1..]);
        assert_eq!(own[vocab - 1], tied[0]);
    }
}
