//! config.json, generation_config.json, tokenizer and chat template.

use super::*;

fn assert_config_refused(fixture: &str, key: &str, value: &str, names: &[&str]) {
    let model = copy(fixture);
    set(&model.path().join("config.json"), key, serde_json::from_str(value).expect("JSON"));
    assert_logits_refused(model.path(), &format!("{key}: {value}"), &[], &[&["config.json", key], names].concat());
}

#[test]
fn config_values() {
    let sizes =
        ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"];
    for key in sizes.iter().chain(&["num_experts", "num_experts_per_tok", "moe_intermediate_size"]) {
        for value in ["0", "-1", "1.5", "1e18", "\"64\"", "\"NaN\"", "[]", "{}", "true"] {
            assert_config_refused("qwen3_moe", key, value, &["whole number"]);
        }
        // Where there is a smaller limit, that is named.
        assert_config_refused("qwen3_moe", key, "18446744073709551615", &[]);
    }
    for (key, value, names) in [
        ("num_key_value_heads", "3", &["num_attention_heads 4", "multiple"][..]),
        ("head_dim", "15", &["odd"]),
        ("head_dim", "2147483646", &["num_attention_heads 4"]),
        ("num_experts_per_tok", "9", &["num_experts 8"]),
        ("hidden_act", "\"gelu\"", &["gelu", "silu"]),
        ("hidden_act", "1", &["a text"]),
        ("rms_norm_eps", "\"NaN\"", &["a number"]),
        ("rms_norm_eps", "-1", &["above 0"]),
        ("rope_theta", "0", &["above 0"]),
        ("rope_theta", "1e300", &["above 0"]),
        ("rope_scaling", "\"yarn\"", &["a JSON object"]),
        ("rope_scaling", "{\"rope_type\": \"longrope\", \"factor\": 4}", &["longrope"]),
        ("norm_topk_prob", "\"yes\"", &["true or false"]),
        ("attention_bias", "true", &["attention_bias"]),
        ("mlp_only_layers", "[-1]", &["a list of layer numbers"]),
        ("mlp_only_layers", "7", &["a list of layer numbers"]),
        ("max_position_embeddings", "0", &["whole number"]),
        ("model_type", "\"lama\"", &["not supported", "qwen3_moe"]),
        ("model_type", "null", &["no model_type"]),
        ("model_type", "7", &["no model_type"]),
    ] {
        assert_config_refused("qwen3_moe", key, value, names);
    }
}

/// Sizes that are possible but not this checkpoint's: found out by its tensors, before anything is made for them.
#[test]
fn config_sizes_that_the_tensors_do_not_have() {
    for (fixture, key, tensor) in [
        ("qwen3_moe", "hidden_size", "model.embed_tokens.weight"),
        ("qwen3_moe", "vocab_size", "model.embed_tokens.weight"),
        ("qwen3_moe", "num_hidden_layers", "model.layers.3."),
        ("qwen3_moe", "num_attention_heads", "q_proj"),
        ("qwen3_moe", "num_experts", "model.layers.0.mlp.gate.weight"),
        ("qwen3_moe", "moe_intermediate_size", "model.layers.0.mlp.experts.0"),
        ("qwen3_moe", "intermediate_size", "model.layers.1.mlp.gate_proj.weight"),
        ("qwen3_moe_odd", "num_local_experts", "model.layers.0.mlp.gate.weight"),
        ("qwen3_moe_odd", "moe_intermediate_size", "model.layers.0.mlp.experts.gate_up_proj"),
    ] {
        for value in [130, 100_000_000] {
            let model = copy(fixture);
            set(&model.path().join("config.json"), key, json!(value));
            // So many layers or experts no model has: they are refused before any tensor is looked for.
            let counted = key.ends_with("_layers") || key.ends_with("_experts");
            let named = if counted && value > 4096 { "at most" } else { tensor };
            assert_logits_refused(model.path(), &format!("{key}: {value}"), &[], &[named]);
        }
    }
}

#[test]
fn config_files() {
    const NESTED: &str = "[[[[";
    assert_damages_are_refused(
        "qwen3_moe",
        &[
            ("empty", |m| fs::write(m.join("config.json"), "").unwrap(), &["config.json", "not valid JSON"]),
            (
                "not JSON",
                |m| fs::write(m.join("config.json"), "model_type: x").unwrap(),
                &["config.json", "not valid JSON"],
            ),
            (
                "not UTF-8",
                |m| fs::write(m.join("config.json"), b"{\"\xff\": 1}").unwrap(),
                &["config.json", "not valid JSON"],
            ),
            (
                "NaN",
                |m| fs::write(m.join("config.json"), "{\"rope_theta\": NaN}").unwrap(),
                &["config.json", "not valid JSON"],
            ),
            ("1e999", |m| fs::write(m.join("config.json"), "{\"rope_theta\": 1e999}").unwrap(), &["config.json"]),
            ("an array", |m| fs::write(m.join("config.json"), "[]").unwrap(), &["config.json", "not a JSON object"]),
            (
                "nested",
                |m| fs::write(m.join("config.json"), NESTED.repeat(100_000)).unwrap(),
                &["config.json", "recursion"],
            ),
            ("an empty object", |m| fs::write(m.join("config.json"), "{}").unwrap(), &["config.json", "model_type"]),
            (
                "a model_type alone",
                |m| fs::write(m.join("config.json"), "{\"model_type\": \"qwen3_moe\"}").unwrap(),
                &["config.json", "num_attention_heads"],
            ),
            (
                "a value of a megabyte",
                |m| set(&m.join("config.json"), "model_type", json!("x".repeat(1 << 20))),
                &["config.json", "not supported"],
            ),
        ],
    );
}

/// Damages of files that only `run` reads, and its flags.
const WRONG_TEXT_FILES: &[(Damage, &[&str])] = &[
    (("no tokenizer", |m| fs::remove_file(m.join("tokenizer.json")).unwrap(), &["tokenizer.json"]), &["--raw"]),
    (
        (
            "half a tokenizer",
            |m| {
                let whole = fs::read(m.join("tokenizer.json")).unwrap();
                fs::write(m.join("tokenizer.json"), &whole[..whole.len() / 2]).unwrap();
            },
            &["tokenizer.json"],
        ),
        &["--raw"],
    ),
    (
        (
            "an empty object for a tokenizer",
            |m| fs::write(m.join("tokenizer.json"), "{}").unwrap(),
            &["tokenizer.json"],
        ),
        &["--raw"],
    ),
    (
        ("a tokenizer that is a pipe", |m| make_pipe(&m.join("tokenizer.json")), &["tokenizer.json", "regular"]),
        &["--raw"],
    ),
    (
        (
            "a tokenizer of another kind",
            |m| edit_json(&m.join("tokenizer.json"), |t| t["model"]["type"] = json!("Unigram")),
            &["tokenizer.json", "Unigram"],
        ),
        &["--raw"],
    ),
    (("a tokenizer with more tokens than the model", |_| {}, &["tokenizer.json", "token id 1274", "0 to 255"]), &[]),
    (("no template", |m| fs::remove_file(m.join("chat_template.jinja")).unwrap(), &["chat template", "--raw"]), &[]),
    (
        (
            "a template with an error",
            |m| fs::write(m.join("chat_template.jinja"), "{% if %}").unwrap(),
            &["chat_template.jinja", "line 1"],
        ),
        &[],
    ),
    (
        (
            "a template that fails",
            |m| fs::write(m.join("chat_template.jinja"), "{{ messages.x.y.z }}").unwrap(),
            &["chat_template.jinja", "line 1"],
        ),
        &[],
    ),
    (
        (
            "a template without end",
            |m| {
                fs::write(
                    m.join("chat_template.jinja"),
                    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
                )
                .unwrap()
            },
            &["chat_template.jinja"],
        ),
        &[],
    ),
    (
        (
            "a template that refuses",
            |m| fs::write(m.join("chat_template.jinja"), "{{ raise_exception('no\\nsuch') }}").unwrap(),
            &["refuses", "no such"],
        ),
        &[],
    ),
    (
        (
            "a template that is a pipe",
            |m| make_pipe(&m.join("chat_template.jinja")),
            &["chat_template.jinja", "regular"],
        ),
        &[],
    ),
    (
        (
            "sampling defaults that are no JSON",
            |m| fs::write(m.join("generation_config.json"), "{").unwrap(),
            &["generation_config.json", "not valid JSON"],
        ),
        &["--raw"],
    ),
    (
        (
            "sampling defaults in an array",
            |m| fs::write(m.join("generation_config.json"), "[]").unwrap(),
            &["generation_config.json", "not a JSON object"],
        ),
        &["--raw"],
    ),
    (
        (
            "a text for a temperature",
            |m| set(&m.join("generation_config.json"), "temperature", json!("hot")),
            &["generation_config.json", "temperature", "no number"],
        ),
        &["--raw"],
    ),
    (
        (
            "a negative top_p",
            |m| set(&m.join("generation_config.json"), "top_p", json!(-1)),
            &["generation_config.json", "top_p"],
        ),
        &["--raw"],
    ),
];

#[test]
fn text_files() {
    for ((what, damage, names), args) in WRONG_TEXT_FILES {
        let model = copy_with_text("qwen3_moe");
        damage(model.path());
        assert_refused(&outpour("run", model.path(), &[&["hi", "-n", "1"], *args].concat()), what, names);
    }
}
