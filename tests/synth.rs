//! Models with random weights: written, read back, run; and how they choose their experts.
//! This file is long because every format, block type and knob is made and computed with here.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use common::cli::{assert_refused, outpour};
use common::{engine, logits, roomy};
use outpour_engine::routing::{self, Measured};
use outpour_engine::{Inspection, Options};
use outpour_kernels::GgmlType;
use outpour_model::synth::{self, Format, GgufTypes, Routing, Synth};
use outpour_store::layout::{ExpertId, Extent};
use outpour_store::read::ReaderKind;
use outpour_store::trace::Policy;
use serde_json::{Value, json};

/// Qwen3-MoE with a dense layer among two.
fn qwen3_moe() -> Value {
    json!({
        "model_type": "qwen3_moe", "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 192, "moe_intermediate_size": 64,
        "num_experts": 16, "num_experts_per_tok": 4, "norm_topk_prob": true, "vocab_size": 400,
        "max_position_embeddings": 512, "mlp_only_layers": [1],
    })
}

/// The keys of Qwen3-Next and Qwen3.5; the width of its experts is no whole number of groups.
fn hybrid(model_type: &str) -> Value {
    json!({
        "model_type": model_type, "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 64, "moe_intermediate_size": 96, "shared_expert_intermediate_size": 64,
        "num_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": true, "vocab_size": 400,
        "max_position_embeddings": 512, "full_attention_interval": 4, "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_value_head_dim": 32,
    })
}

fn gpt_oss() -> Value {
    json!({
        "model_type": "gpt_oss", "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 96, "num_local_experts": 16,
        "num_experts_per_tok": 3, "sliding_window": 24, "vocab_size": 400, "max_position_embeddings": 1024,
        "rope_scaling": { "rope_type": "default" },
    })
}

fn wrapped() -> Value {
    json!({"model_type": "qwen3_5_moe", "text_config": hybrid("qwen3_5_moe_text"), "tie_word_embeddings": false})
}

/// The config of a fixture.
fn of_fixture(name: &str) -> Value {
    let config = fs::read(common::fixture(name).join("config.json")).expect("a fixture has a config");
    serde_json::from_slice(&config).expect("a config is JSON")
}

/// Name, config, and experts in all layers.
fn every_family() -> [(&'static str, Value, usize); 45] {
    let of = |name: &'static str, experts| (name, of_fixture(name), experts);
    [
        ("gpt_oss", gpt_oss(), 2 * 16),
        ("qwen3_moe", qwen3_moe(), 2 * 16),
        ("qwen3_next", hybrid("qwen3_next"), 4 * 8),
        ("qwen3_5_moe_text", hybrid("qwen3_5_moe_text"), 4 * 8),
        ("qwen3_5_moe", wrapped(), 4 * 8),
        ("deepseek_v32", of_fixture("deepseek_v32"), 2 * 8),
        ("glm_moe_dsa", of_fixture("glm_moe_dsa"), 3 * 6),
        ("nemotron_h", of_fixture("nemotron_h_latent"), 2 * 12),
        ("bailing_hybrid", of_fixture("ling25"), 3 * 6),
        ("deepseek_v4", of_fixture("deepseek_v4"), 4 * 5),
        ("kimi_k25", json!({"model_type": "kimi_k25", "text_config": of_fixture("deepseek_v3")}), 2 * 12),
        of("mixtral", 2 * 12),
        of("qwen2_moe", 2 * 12),
        of("olmoe", 2 * 12),
        of("dots1", 2 * 12),
        of("solar_open", 2 * 12),
        of("hy_v3", 2 * 12),
        of("ernie4_5_moe", 2 * 12),
        of("hunyuan_v1_moe", 2 * 12),
        of("glm4_moe_lite", 2 * 12),
        of("glm4_moe", 2 * 8),
        of("minimax_m2", 2 * 12),
        of("llama", 0),
        of("qwen3", 0),
        of("deepseek_v2", 2 * 8),
        of("deepseek_v3", 2 * 12),
        of("mistral4", 2 * 12),
        of("gemma3", 0),
        of("gemma4", 4 * 6),
        of("minimax", 4 * 6),
        of("kimi_linear", 3 * 6),
        of("granitemoehybrid", 3 * 12),
        of("lfm2_moe", 3 * 12),
        of("jamba", 2 * 12),
        ("bailing_hybrid", of_fixture("ling3"), 3 * 12),
        of("longcat_flash", 2 * 9),
        of("hy_v4", 2 * 12),
        of("glm5_next", 3 * 12),
        ("minimax_m3_vl", of_fixture("minimax_m3"), 2 * 12),
        of("mistral_large4", 4 * 6),
        of("phimoe", 2 * 12),
        of("mimo_v2_flash", 3 * 12),
        of("llama4", 2 * 12),
        of("exaone_moe", 3 * 12),
        of("qwen4_exp", 3 * 12),
    ]
}

fn write(config: &Value, format: Format, seed: u64, dir: &Path) {
    let synth =
        Synth::new(config, format, Vec::new(), Routing::default(), seed).unwrap_or_else(|error| panic!("{error}"));
    let done = synth.write(dir, &mut |_, _| ControlFlow::Continue(())).unwrap_or_else(|error| panic!("{error}"));
    assert!(done.is_continue());
}

fn inspect(dir: &Path) -> Inspection {
    Inspection::open(dir, false).unwrap_or_else(|error| panic!("{error}"))
}

/// Every file's content by its name.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("a folder").flatten();
    let read = |path: &Path| fs::read(path).expect("a file");
    entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), read(&entry.path()))).collect()
}

/// Formats of which every family can be made: folders of safetensors files.
fn in_folders() -> impl Iterator<Item = Format> {
    Format::all().filter(|format| !matches!(format, Format::Gguf(_)))
}

/// Configs of the families that there are GGUF files of, with the tensors that have the blocks asked for, of all matrices.
fn in_gguf() -> [(&'static str, Value); 4] {
    let wide = |mut config: Value| {
        for (key, size) in [
            ("hidden_size", 256),
            ("moe_intermediate_size", 256),
            ("shared_expert_intermediate_size", 256),
            ("head_dim", 128),
            ("linear_value_head_dim", 64),
        ] {
            if !config[key].is_null() {
                config[key] = json!(size);
            }
        }
        config
    };
    let mut plain = qwen3_moe();
    plain["mlp_only_layers"] = json!([]);
    let wrapped = json!({"model_type": "qwen3_5_moe", "text_config": wide(hybrid("qwen3_5_moe_text"))});
    [
        ("qwen3moe, narrow", plain.clone()),
        ("qwen3moe", wide(plain)),
        ("qwen3next", wide(hybrid("qwen3_next"))),
        ("qwen35moe", wrapped),
    ]
}

#[test]
fn gguf_files_of_every_block_type_run() {
    for (name, config) in in_gguf() {
        for format in Format::all().filter(|format| matches!(format, Format::Gguf(_))) {
            let dir = tempfile::tempdir().expect("a folder");
            write(&config, format, 1, dir.path());
            assert_eq!(contents(dir.path()).keys().collect::<Vec<_>>(), ["model.gguf"], "{name} {format}");
            let inspection = inspect(dir.path());
            let (layers, experts) = (inspection.facts().layers, inspection.layout.experts_total());
            assert_eq!(experts, layers * if name.starts_with("qwen3moe") { 16 } else { 8 }, "{name} {format}");
            let Format::Gguf(types) = format else { unreachable!("only these are left") };
            let of_type = |wanted: &str, stem: &str| {
                let tensors = inspection.checkpoint().tensors().filter(|(name, _)| name.contains(stem));
                tensors.filter(|(_, info)| info.dtype.to_string() == wanted).count()
            };
            // Rows of 64 and 128 are whole blocks of 32 weights only.
            let fits = |weights: usize| !name.ends_with("narrow") || weights <= 32;
            let (wanted, expected) = match types {
                GgufTypes::Blocks(blocks) if fits(blocks.block_weights()) => (blocks.name(), 3 * layers),
                GgufTypes::Q4KM if fits(256) => ("Q4_K", 2 * layers + (layers - of_type("Q6_K", "ffn_down_exps."))),
                GgufTypes::Blocks(_) | GgufTypes::Q4KM => ("Q8_0", 3 * layers),
                GgufTypes::F32 => ("F32", 3 * layers),
                GgufTypes::F16 => ("F16", 3 * layers),
                GgufTypes::Bf16 => ("BF16", 3 * layers),
            };
            assert_eq!(of_type(wanted, "_exps."), expected, "{name} {format}");
            if types == GgufTypes::Q4KM && fits(256) {
                let more = of_type("Q6_K", "ffn_down_exps.");
                assert!((1..layers).contains(&more), "{name}: {more} of {layers} layers have more bits");
            }
            let mut first: Vec<Vec<f32>> = Vec::new();
            for precise in [true, false] {
                let options = Options { precise, threads: Some(1), ..roomy() };
                let mut engine = engine(dir.path(), &options, ReaderKind::Auto);
                let ids: Vec<u32> = (0..24).map(|i| (i * i * 31 + 7) % 400).collect();
                let recorded = logits(&mut engine, &ids, 20);
                let n = recorded.logits.len() as f32;
                let deviation = (recorded.logits.iter().map(|logit| logit * logit).sum::<f32>() / n).sqrt();
                assert!((0.5..8.0).contains(&deviation), "{name} {format}: logits of {deviation}");
                first.push(recorded.logits);
            }
            let away: f32 = first[0].iter().zip(&first[1]).map(|(a, b)| (a - b).abs()).sum();
            assert!(away / (first[0].len() as f32) < 1.0, "{name} {format}: both ways to compute are near");
            let outline = tempfile::tempdir().expect("a folder");
            synth::outline(&config, format, outline.path()).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(places(dir.path()), places(outline.path()), "{name} {format}");
        }
    }
}

/// Families whose files differ by names and keys only: their configs, where a norm and a matrix are found, and experts of a layer.
#[test]
fn gguf_files_of_further_families_run() {
    let wide = |name: &str| {
        let mut config = of_fixture(name);
        for (key, size) in [("hidden_size", 256), ("intermediate_size", 256), ("moe_intermediate_size", 256)] {
            if !config[key].is_null() {
                config[key] = json!(size);
            }
        }
        config["num_attention_heads"] = json!(4);
        config["num_key_value_heads"] = json!(2);
        config["mlp_only_layers"] = json!([]);
        config["clip_qkv"] = Value::Null;
        // Which RoPE Llama 3.1 has no number tells.
        if config["rope_scaling"]["rope_type"] == "llama3" {
            config["rope_scaling"] = Value::Null;
        }
        config
    };
    for (name, tensors, experts) in [
        ("mixtral", ["blk.0.ffn_norm.weight", "blk.0.ffn_up_exps.weight", "blk.0.attn_k.weight"], 24),
        ("llama", ["blk.0.ffn_norm.weight", "blk.0.ffn_up.weight", "blk.0.attn_output.weight"], 0),
        ("minimax_m2", ["blk.0.ffn_norm.weight", "blk.0.exp_probs_b.bias", "blk.0.attn_q_norm.weight"], 24),
        ("glm4_moe", ["blk.0.ffn_up.weight", "blk.1.exp_probs_b.bias", "blk.1.ffn_up_shexp.weight"], 16),
        ("dots1", ["blk.0.ffn_up.weight", "blk.1.exp_probs_b.bias", "blk.1.ffn_up_shexp.weight"], 24),
        ("hy_v3", ["blk.0.ffn_up.weight", "blk.1.exp_probs_b.bias", "blk.1.ffn_gate_inp.weight"], 24),
        ("deepseek_v2", ["blk.0.ffn_up.weight", "blk.1.attn_kv_b.weight", "blk.1.ffn_gate_inp.weight"], 0),
        ("deepseek_v3", ["blk.0.ffn_up.weight", "blk.1.attn_kv_b.weight", "blk.1.exp_probs_b.bias"], 24),
        ("qwen2_moe", ["blk.0.ffn_norm.weight", "blk.0.ffn_gate_inp_shexp.weight", "blk.0.attn_q.bias"], 24),
        ("olmoe", ["blk.0.ffn_norm.weight", "blk.0.ffn_up_exps.weight", "blk.0.attn_q_norm.weight"], 24),
        ("qwen3", ["blk.0.ffn_norm.weight", "blk.0.ffn_up.weight", "blk.0.attn_k_norm.weight"], 0),
    ] {
        let config = wide(name);
        let facts = |dir: &Path| {
            let inspection = inspect(dir);
            let facts = inspection.facts();
            let told = (facts.layers, facts.hidden, facts.vocab, facts.context_max, facts.top_k, facts.family);
            (told, inspection.layout.experts_total(), inspection.parameters().expect("tensors").0)
        };
        let folder = tempfile::tempdir().expect("a folder");
        write(&config, Format::Bf16, 1, folder.path());
        for types in [GgufTypes::Blocks(GgmlType::Q4K), GgufTypes::Q4KM, GgufTypes::F16] {
            let file = tempfile::tempdir().expect("a folder");
            write(&config, Format::Gguf(types), 1, file.path());
            assert_eq!(facts(folder.path()), facts(file.path()), "{name} {types}");
            let inspection = inspect(file.path());
            if name != "deepseek_v2" {
                assert_eq!(inspection.layout.experts_total(), experts, "{name}");
            }
            for tensor in tensors {
                assert!(inspection.checkpoint().tensor(tensor).is_some(), "{name}: no {tensor}");
            }
            let mut engine = engine(file.path(), &Options { threads: Some(1), ..roomy() }, ReaderKind::Auto);
            let vocab = engine.facts().vocab as u32;
            let ids: Vec<u32> = (0..24).map(|i| (i * i * 31 + 7) % vocab).collect();
            let logits = logits(&mut engine, &ids, 20).logits;
            let deviation = (logits.iter().map(|logit| logit * logit).sum::<f32>() / logits.len() as f32).sqrt();
            assert!((0.5..8.0).contains(&deviation), "{name} {types}: logits of {deviation}");
        }
    }
}

/// A model in parts is the same model, whether its files are GGUF or safetensors.
#[test]
fn parts_are_the_same_model() {
    let ids: Vec<u32> = (0..24).map(|i| (i * i * 31 + 7) % 400).collect();
    let compute = |dir: &Path| logits(&mut engine(dir, &roomy(), ReaderKind::Auto), &ids, 20).logits;
    for format in [Format::Gguf(GgufTypes::Q4KM), Format::Gguf(GgufTypes::Bf16), Format::Bf16] {
        let (_, config) = &in_gguf()[3];
        let (whole, parts) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        write(config, format, 1, whole.path());
        let made = Synth::new(config, format, Vec::new(), Routing::default(), 1).expect("a model").in_shards(1 << 20);
        let done = made.write(parts.path(), &mut |_, _| ControlFlow::Continue(())).expect("it is written");
        assert!(done.is_continue());
        let count = inspect(parts.path()).checkpoint().files().len();
        assert!(count > 3, "{format}: {count} files");
        if let Format::Gguf(_) = format {
            let names: Vec<String> = contents(parts.path()).into_keys().collect();
            assert_eq!(names[0], format!("model-00001-of-{count:05}.gguf"));
            assert_eq!(names.len(), count);
        }
        assert!(compute(whole.path()) == compute(parts.path()), "{format}: other logits");
    }
}

/// The same config read from the file as from config.json.
#[test]
fn a_gguf_file_says_what_the_config_says() {
    for (name, config) in in_gguf() {
        let (folder, file) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        write(&config, Format::Bf16, 1, folder.path());
        write(&config, Format::Gguf(GgufTypes::Blocks(GgmlType::Q8_0)), 1, file.path());
        let of = |dir: &Path| {
            let inspection = inspect(dir);
            let facts = inspection.facts();
            (facts.layers, facts.hidden, facts.vocab, facts.context_max, inspection.layout.experts_total())
        };
        assert_eq!(of(folder.path()), of(file.path()), "{name}");
        // llama.cpp finds a norm by the one name that its converter gives it, as the fixtures of the same architectures have it.
        let norms = |dir: &Path| -> BTreeSet<String> {
            let inspection = inspect(dir);
            let of_layer = |name: &str| name.splitn(3, '.').nth(2).unwrap_or(name).to_owned();
            inspection
                .checkpoint()
                .tensors()
                .map(|(name, _)| of_layer(name))
                .filter(|name| name.contains("norm"))
                .collect()
        };
        let (architecture, _) = name.split_once(',').unwrap_or((name, ""));
        assert_eq!(norms(file.path()), norms(&common::fixture(&format!("{architecture}_gguf"))), "{name}");
    }
    let refused = |config: &Value, names: &[&str]| {
        let made =
            Synth::new(config, Format::Gguf(GgufTypes::Blocks(GgmlType::Q4K)), Vec::new(), Routing::default(), 1);
        let problem = made.err().expect("refused").to_string();
        assert!(names.iter().all(|name| problem.contains(name)), "{problem}");
    };
    refused(&qwen3_moe(), &["layers without experts", "--format"]);
    refused(&gpt_oss(), &["gpt_oss", "qwen3_moe", "--format"]);
    let mut other = hybrid("qwen3_next");
    other["layer_types"] = json!(["full_attention", "linear_attention", "linear_attention", "linear_attention"]);
    refused(&other, &["layer_types", "full_attention_interval"]);
}

#[test]
fn every_family_in_every_format_runs() {
    for (name, config, experts) in every_family() {
        for format in in_folders() {
            let dir = tempfile::tempdir().expect("a folder");
            write(&config, format, 1, dir.path());
            let inspection = inspect(dir.path());
            assert_eq!(inspection.layout.experts_total(), experts, "{name} {format}");
            let mut first: Vec<Vec<f32>> = Vec::new();
            for precise in [true, false] {
                let options = Options { precise, threads: Some(1), ..roomy() };
                let mut engine = engine(dir.path(), &options, ReaderKind::Auto);
                let vocab = engine.facts().vocab as u32;
                let ids: Vec<u32> = (0..24).map(|i| (i * i * 31 + 7) % vocab).collect();
                let recorded = logits(&mut engine, &ids, 20);
                assert!(recorded.logits.iter().all(|logit| logit.is_finite()), "{name} {format}: logits are finite");
                let n = recorded.logits.len() as f32;
                let deviation = (recorded.logits.iter().map(|logit| logit * logit).sum::<f32>() / n).sqrt();
                assert!((0.5..8.0).contains(&deviation), "{name} {format}: logits of {deviation}");
                first.push(recorded.logits);
            }
            let away: f32 = first[0].iter().zip(&first[1]).map(|(a, b)| (a - b).abs()).sum();
            assert!(away / (first[0].len() as f32) < 1.0, "{name} {format}: both ways to compute are near");
        }
    }
}

#[test]
fn tied_embeddings_are_the_head_too() {
    let mut config = qwen3_moe();
    config["tie_word_embeddings"] = json!(true);
    let mut wrapped = wrapped();
    wrapped["tie_word_embeddings"] = json!(true);
    for (name, config) in [("qwen3_moe", config), ("qwen3_5_moe", wrapped)] {
        for format in [Format::Bf16, Format::Mlx { bits: 4 }] {
            let dir = tempfile::tempdir().expect("a folder");
            write(&config, format, 1, dir.path());
            let heads = inspect(dir.path()).checkpoint().tensors().filter(|(name, _)| name.contains("lm_head")).count();
            assert_eq!(heads, 0, "{name} {format}: one matrix for both");
            let mut engine = engine(dir.path(), &Options { threads: Some(1), ..roomy() }, ReaderKind::Auto);
            let ids: Vec<u32> = (0..24).map(|i| (i * i * 31 + 7) % 400).collect();
            let recorded = logits(&mut engine, &ids, 20);
            let n = recorded.logits.len() as f32;
            let deviation = (recorded.logits.iter().map(|logit| logit * logit).sum::<f32>() / n).sqrt();
            assert!((0.5..8.0).contains(&deviation), "{name} {format}: logits of {deviation}");
            // A head that is the embedding must not say again what it was told.
            let echoes = recorded.logits.chunks(400).zip(&ids).filter(|(logits, id)| {
                let best = (0..400).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
                best == Some(**id as usize)
            });
            assert!(echoes.count() <= ids.len() / 4, "{name} {format}: it repeats its input");
        }
    }
}

#[test]
fn names_and_sizes_are_those_of_releases() {
    let names = |config: &Value, format: Format| -> Vec<String> {
        let dir = tempfile::tempdir().expect("a folder");
        synth::outline(config, format, dir.path()).unwrap_or_else(|error| panic!("{error}"));
        let inspection = inspect(dir.path());
        let stored = |(name, info): (&str, &outpour_store::checkpoint::TensorInfo)| {
            format!("{name} {} {:?}", info.dtype, info.shape)
        };
        inspection.checkpoint().tensors().map(stored).collect()
    };
    let has = |all: &[String], name: &str| assert!(all.iter().any(|one| one == name), "no {name} in {all:#?}");
    let bf16 = names(&wrapped(), Format::Bf16);
    has(&bf16, "model.language_model.layers.0.mlp.experts.gate_up_proj BF16 [8, 192, 128]");
    has(&bf16, "model.language_model.layers.0.mlp.experts.down_proj BF16 [8, 128, 96]");
    has(&bf16, "model.language_model.layers.0.linear_attn.conv1d.weight BF16 [256, 1, 4]");
    has(&bf16, "lm_head.weight BF16 [400, 128]");
    let mlx = names(&wrapped(), Format::Mlx { bits: 4 });
    has(&mlx, "language_model.model.layers.0.mlp.switch_mlp.gate_proj.weight U32 [8, 96, 16]");
    has(&mlx, "language_model.model.layers.0.mlp.switch_mlp.gate_proj.scales BF16 [8, 96, 2]");
    // 96 is no multiple of 64: mlx-lm leaves such a matrix as it is.
    has(&mlx, "language_model.model.layers.0.mlp.switch_mlp.down_proj.weight BF16 [8, 128, 96]");
    has(&mlx, "language_model.model.layers.0.mlp.gate.weight U32 [8, 32]");
    has(&mlx, "language_model.model.layers.0.linear_attn.conv1d.weight BF16 [256, 4, 1]");
    has(&mlx, "language_model.lm_head.weight U32 [400, 16]");
    has(&names(&qwen3_moe(), Format::Bf16), "model.layers.0.mlp.experts.15.down_proj.weight BF16 [128, 64]");
    let fp8 = names(&qwen3_moe(), Format::Coded("fp8"));
    has(&fp8, "model.layers.0.mlp.experts.15.down_proj.weight F8_E4M3 [128, 64]");
    has(&fp8, "model.layers.1.mlp.up_proj.weight_scale_inv F32 [2, 1]");
    has(&fp8, "model.layers.0.mlp.gate.weight BF16 [16, 128]");
    let int4 = names(&qwen3_moe(), Format::Coded("int4"));
    has(&int4, "model.layers.0.mlp.experts.15.up_proj.weight_packed I32 [64, 16]");
    has(&int4, "model.layers.0.mlp.experts.15.up_proj.weight_scale BF16 [64, 4]");
    has(&int4, "model.layers.0.self_attn.q_proj.weight BF16 [128, 128]");
    let gptq = names(&qwen3_moe(), Format::Coded("gptq"));
    has(&gptq, "model.layers.0.self_attn.q_proj.qweight I32 [16, 128]");
    has(&gptq, "model.layers.0.self_attn.q_proj.qzeros I32 [1, 16]");
    has(&names(&qwen3_moe(), Format::Coded("awq")), "model.layers.0.self_attn.q_proj.qweight I32 [128, 16]");
    has(&names(&qwen3_moe(), Format::Coded("nvfp4")), "model.layers.0.mlp.experts.0.up_proj.weight_scale_2 F32 []");
    let mxfp4 = names(&gpt_oss(), Format::Coded("mxfp4"));
    has(&mxfp4, "model.layers.0.mlp.experts.gate_up_proj_blocks U8 [16, 192, 3, 16]");
    has(&mxfp4, "model.layers.0.mlp.experts.down_proj_scales U8 [16, 96, 3]");
    let v2 = names(&qwen3_moe(), Format::Coded("gptq_v2"));
    has(&v2, "model.layers.0.self_attn.q_proj.qzeros I32 [1, 16]");
    let powers = names(&qwen3_moe(), Format::Coded("fp8-e8m0"));
    has(&powers, "model.layers.1.mlp.up_proj.weight_scale_inv F8_E8M0 [2, 1]");
    let by_row = names(&qwen3_moe(), Format::Coded("fp8-row"));
    has(&by_row, "model.layers.1.mlp.up_proj.weight_scale F32 [192, 1]");
    let compressed = names(&qwen3_moe(), Format::Coded("ct-nvfp4"));
    has(&compressed, "model.layers.0.self_attn.q_proj.weight_packed U8 [128, 64]");
    has(&compressed, "model.layers.0.self_attn.q_proj.weight_scale F8_E4M3 [128, 8]");
    has(&compressed, "model.layers.0.mlp.experts.0.up_proj.weight_global_scale F32 [1]");
    let compressed = names(&qwen3_moe(), Format::Coded("ct-mxfp4"));
    has(&compressed, "model.layers.0.mlp.experts.0.up_proj.weight_scale U8 [64, 4]");
    has(&names(&qwen3_moe(), Format::Coded("int8")), "model.layers.0.self_attn.q_proj.weight I8 [128, 128]");
    for (mode, width, group) in [("mlx-mxfp4", 16, 32), ("mlx-nvfp4", 16, 16), ("mlx-mxfp8", 32, 32)] {
        let all = names(&qwen3_moe(), Format::Coded(mode));
        has(&all, &format!("model.layers.0.mlp.switch_mlp.up_proj.weight U32 [16, 64, {width}]"));
        has(&all, &format!("model.layers.0.mlp.switch_mlp.up_proj.scales U8 [16, 64, {}]", 128 / group));
        has(&all, "model.layers.0.mlp.gate.biases BF16 [16, 2]");
        has(&all, "model.embed_tokens.weight U32 [400, 32]");
    }
    let mut v4 = of_fixture("deepseek_v4");
    v4["hidden_size"] = json!(64);
    v4["moe_intermediate_size"] = json!(32);
    let v4 = names(&v4, Format::Coded("deepseek-v4"));
    has(&v4, "layers.0.ffn.experts.0.w1.weight I8 [32, 32]");
    has(&v4, "layers.0.ffn.experts.0.w1.scale F8_E8M0 [32, 2]");
    has(&v4, "layers.0.attn.wq_a.scale F8_E8M0 [1, 1]");
    has(&names(&qwen3_moe(), Format::Mlx { bits: 3 }), "model.layers.0.mlp.switch_mlp.up_proj.weight U32 [16, 64, 12]");
}

/// What a format is called where a model is described.
#[test]
fn inspect_names_every_format() {
    let mut config = qwen3_moe();
    for key in ["hidden_size", "moe_intermediate_size"] {
        config[key] = json!(256);
    }
    let e8m0 = "FP8 E4M3 in blocks of 128×128 with F8_E8M0 scales";
    for (format, name) in [
        ("bf16", "BF16"),
        ("mlx3", "MLX affine of 3 bits in groups of 64 with BF16 scales"),
        ("mlx-mxfp4", "MXFP4 (FP4 E2M1 in groups of 32 with F8_E8M0 scales)"),
        ("mlx-nvfp4", "NVFP4 (FP4 E2M1 in groups of 16 with F8_E4M3 scales)"),
        ("mlx-mxfp8", "MXFP8 (FP8 E4M3 in groups of 32 with F8_E8M0 scales)"),
        ("fp8", "FP8 E4M3 in blocks of 128×128 with F32 scales"),
        ("fp8-e8m0", e8m0),
        ("fp8-row", "FP8 E4M3 with a scale for each row with F32 scales"),
        ("ct-mxfp4", "MXFP4 (FP4 E2M1 in groups of 32 with F8_E8M0 scales)"),
        ("ct-nvfp4", "NVFP4 (FP4 E2M1 in groups of 16 with F8_E4M3 scales)"),
        ("ct-mxfp8", "MXFP8 (FP8 E4M3 in groups of 32 with F8_E8M0 scales)"),
        ("mxfp4", "MXFP4 (FP4 E2M1 in groups of 32 with F8_E8M0 scales)"),
        ("nvfp4", "NVFP4 (FP4 E2M1 in groups of 16 with F8_E4M3 scales)"),
        ("int4", "int4 in groups of 32 with BF16 scales"),
        ("int8", "int8 with a scale for each row with BF16 scales"),
        ("gptq", "GPTQ int4 in groups of 128 with F16 scales"),
        ("gptq_v2", "GPTQ int4 in groups of 128 with F16 scales"),
        ("awq", "AWQ int4 in groups of 128 with F16 scales"),
        ("deepseek-v4", "MXFP4 (FP4 E2M1 in groups of 32 with F8_E8M0 scales)"),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        let format: Format = format.parse().expect("a format");
        synth::outline(&config, format, dir.path()).unwrap_or_else(|error| panic!("{error}"));
        let [trunk, experts] = inspect(dir.path()).stored();
        assert!(experts.keys().eq([name]), "{format}: {experts:?}");
        let all_of_it = !["bf16", "mxfp4", "nvfp4", "int4"].contains(&format.to_string().as_str());
        let rest = if format.to_string() == "deepseek-v4" { e8m0 } else { name };
        assert!(trunk.contains_key(rest) == (all_of_it || name == "BF16"), "{format}: {trunk:?}");
        // The config that it writes is one that says the same format again.
        let said = fs::read(dir.path().join("config.json")).expect("a config");
        let said = Format::of_config(&serde_json::from_slice(&said).expect("JSON")).expect("a format");
        let same = if format.to_string() == "mxfp4" { "ct-mxfp4".parse().expect("a format") } else { format };
        assert_eq!(said, same);
    }
    let fp8 = json!({"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0", "weight_block_size": [128, 128]});
    let released = json!({"model_type": "deepseek_v4", "expert_dtype": "fp4", "quantization_config": fp8});
    assert_eq!(Format::of_config(&released).expect("a format").to_string(), "deepseek-v4");
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    for format in [Format::Bf16, Format::Mlx { bits: 5 }] {
        let made = |seed| {
            let dir = tempfile::tempdir().expect("a folder");
            write(&wrapped(), format, seed, dir.path());
            contents(dir.path())
        };
        let (one, again, other) = (made(1), made(1), made(2));
        assert_eq!(one, again);
        let weights = |all: &BTreeMap<String, Vec<u8>>| all["model-00001-of-00001.safetensors"].clone();
        assert_ne!(weights(&one), weights(&other));
        assert_eq!(weights(&one).len(), weights(&other).len());
    }
}

/// Where everything lies, in bytes: of the trunk how many, of each expert its ranges, of all experts how many.
fn places(dir: &Path) -> (usize, Vec<Vec<Extent>>, u64) {
    let inspection = inspect(dir);
    let layout = &inspection.layout;
    let ids = (0..layout.layers()).flat_map(|layer| {
        (0..layout.experts(layer)).map(move |expert| ExpertId { layer: layer as u32, expert: expert as u32 })
    });
    let extents = ids.map(|id| layout.extents(id).to_vec());
    (inspection.trunk.bytes(), extents.collect(), layout.bytes_total())
}

#[test]
fn an_outline_is_the_model_without_its_data() {
    for (name, config, _) in every_family() {
        for format in in_folders() {
            let (real, outline) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
            write(&config, format, 1, real.path());
            synth::outline(&config, format, outline.path()).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(places(real.path()), places(outline.path()), "{name} {format}");
            let length = |dir: &Path| contents(dir).into_iter().map(|(name, c)| (name, c.len())).collect::<Vec<_>>();
            assert_eq!(length(real.path()), length(outline.path()), "{name} {format}");
        }
    }
}

#[test]
fn an_outline_of_the_largest_model_takes_no_room() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/Qwen3.5-397B-A17B.json");
    let config = serde_json::from_slice(&fs::read(path).expect("the config")).expect("JSON");
    let dir = tempfile::tempdir().expect("a folder");
    let began = Instant::now();
    synth::outline(&config, Format::Mlx { bits: 4 }, dir.path()).unwrap_or_else(|error| panic!("{error}"));
    let took = began.elapsed();
    let room: u64 = fs::read_dir(dir.path())
        .expect("it is there")
        .flatten()
        .map(|e| e.metadata().expect("a file").blocks() * 512)
        .sum();
    println!("made in {took:?}, {room} bytes on the drive");
    assert!(took < Duration::from_secs(5) && room < 8 << 20, "{took:?}, {room} bytes");
    let (trunk_bytes, _, experts_bytes) = places(dir.path());
    assert_eq!(experts_bytes, 7_077_888 * 30_720);
    assert!((4 << 30..7 << 30).contains(&trunk_bytes), "a trunk of {trunk_bytes} bytes");
}

#[test]
fn a_cut_model_has_the_first_layers() {
    for (name, config, _) in every_family() {
        let mut cut = config.clone();
        if let Some(text) = cut["text_config"].as_object_mut()
            && name == "qwen3_5_moe"
        {
            text.insert(
                "layer_types".into(),
                json!(["linear_attention", "full_attention", "linear_attention", "linear_attention"]),
            );
        }
        synth::cut(&mut cut, 2).unwrap_or_else(|error| panic!("{error}"));
        let dir = tempfile::tempdir().expect("a folder");
        write(&cut, Format::Bf16, 1, dir.path());
        assert_eq!(inspect(dir.path()).facts().layers, 2, "{name}");
        assert!(synth::cut(&mut cut, 3).is_err() && synth::cut(&mut cut, 0).is_err(), "{name}");
    }
}

#[test]
fn what_is_broken_off_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("a/b");
    let synth = Synth::new(&qwen3_moe(), Format::Bf16, Vec::new(), Routing::default(), 1)
        .unwrap_or_else(|error| panic!("{error}"));
    let done = synth.write(&out, &mut |_, _| ControlFlow::Break(())).unwrap_or_else(|error| panic!("{error}"));
    assert!(done.is_break());
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0, "the folders that were made are gone too");
}

/// Generates with a small model made with these knobs.
fn measure(routing: Routing) -> (Measured, usize) {
    let config = json!({
        "model_type": "qwen3_moe", "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 64, "moe_intermediate_size": 32, "num_experts": 32,
        "num_experts_per_tok": 4, "norm_topk_prob": true, "vocab_size": 600, "max_position_embeddings": 512,
    });
    let dir = tempfile::tempdir().expect("a folder");
    let synth =
        Synth::new(&config, Format::Mlx { bits: 4 }, Vec::new(), routing, 1).unwrap_or_else(|error| panic!("{error}"));
    let done = synth.write(dir.path(), &mut |_, _| ControlFlow::Continue(()));
    assert!(done.unwrap_or_else(|error| panic!("{error}")).is_continue());
    let mut engine = engine(dir.path(), &Options { threads: Some(1), ..roomy() }, ReaderKind::Auto);
    let extent = routing::Extent { tokens_max: 300, time_max: Duration::from_secs(60), seed: 1 };
    let measured = routing::measure(&mut engine, 300, extent, &mut |_| ControlFlow::Continue(()));
    (measured.unwrap_or_else(|error| panic!("{error}")), 6 * 32)
}

#[test]
fn each_knob_does_what_it_says() {
    let even = Routing { skew: 0.0, locality: 0.0, ..Routing::default() };
    let hits = |(measured, experts): &(Measured, usize), policy| measured.hit_rate(policy, experts / 4);
    let (plain, local, skewed) =
        (measure(even), measure(Routing { locality: 0.6, ..even }), measure(Routing { skew: 0.6, ..even }));
    let guessed = measure(Routing { residual: 0.05, ..even }).0.guess_accuracy();
    for (name, model) in [("neither", &plain), ("locality 0.6", &local), ("skew 0.6", &skewed)] {
        let [lru, lfu] = [Policy::Lru, Policy::Lfu].map(|policy| hits(model, policy));
        println!(
            "{name}: {} tokens, LRU {lru:.3}, LFU {lfu:.3}, guessed {:.3}",
            model.0.tokens,
            model.0.guess_accuracy()
        );
    }
    println!("residual 0.05: guessed {guessed:.3}");
    assert!(
        hits(&local, Policy::Lru) > hits(&plain, Policy::Lru) + 0.1,
        "locality makes what was used last come again"
    );
    assert!(hits(&local, Policy::Lru) > hits(&local, Policy::Lfu), "and more than what was used often");
    assert!(hits(&skewed, Policy::Lfu) > hits(&plain, Policy::Lfu) + 0.1, "skew makes the same experts come");
    assert!(guessed > plain.0.guess_accuracy() + 0.05, "the less layers add, the better is the next router guessed");
}

#[test]
fn the_verb_makes_a_model_that_runs() {
    let dir = tempfile::tempdir().expect("a folder");
    let (config, out) = (dir.path().join("config.json"), dir.path().join("model"));
    fs::write(&config, wrapped().to_string()).expect("written");
    let made = outpour("synth", &config, &[out.to_str().expect("UTF-8"), "--format", "mlx4"]);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let said = String::from_utf8_lossy(&made.stdout);
    assert!(said.contains("LRU") && said.contains("Belady") && said.contains("guesses"), "{said}");
    let shown = outpour("inspect", &out, &["--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert_eq!(shown["family"], "qwen3_5_moe");
    assert_eq!(shown["experts_per_layer"], 8);
    // Gate and up of 96 rows of 128 at 4.5 bits, down as it is.
    assert_eq!(shown["expert_bytes"], 2 * 96 * 72 + 128 * 96 * 2);
    let [experts, trunk] = ["experts", "trunk"].map(|of| shown["stored"][of].to_string());
    assert!(experts.contains("MLX affine of 4 bits in groups of 64") && experts.contains("BF16"), "{experts}");
    assert!(trunk.contains("MLX affine of 8 bits in groups of 64"), "{trunk}");
    assert_eq!(shown["tokenizer"]["vocab"], 397);
    let ran = outpour("run", &out, &["Why?", "--ram", "200M", "-n", "8", "--ignore-eos"]);
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    assert!(ran.stderr.contains("8 generated tokens"), "{ran:?}");
    let file = dir.path().join("file");
    let made = outpour("synth", &config, &[file.to_str().expect("UTF-8"), "--format", "gguf-q4_k", "--no-check"]);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let (folder, file) = (out.clone(), file.join("model.gguf"));
    let ids = |model: &Path| outpour("tokenize", model, &["Why ba baci <|im_end|> Größe 12?", "--json"]).stdout;
    assert_eq!(ids(&folder), ids(&file), "the file has the folder's tokenizer");
    let ran = outpour("run", &file, &["Why?", "--ram", "200M", "-n", "8", "--ignore-eos"]);
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    assert!(ran.stderr.contains("8 generated tokens"), "{ran:?}");
    let again = outpour("synth", &config, &[out.to_str().expect("UTF-8")]);
    assert_refused(&again, "a folder in use", &["model", "not empty"]);
}

#[test]
fn what_cannot_be_made_is_refused_in_one_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let (config, out) = (dir.path().join("config.json"), dir.path().join("model"));
    let out = out.to_str().expect("UTF-8");
    let refused = |text: &str, args: &[&str], names: &[&str]| {
        fs::write(&config, text).expect("written");
        assert_refused(&outpour("synth", &config, &[&[out], args].concat()), text, names);
        assert!(!Path::new(out).exists(), "{text}: nothing is left");
    };
    let good = qwen3_moe().to_string();
    refused("{", &[], &["config.json", "JSON"]);
    refused("[]", &[], &["config.json", "object"]);
    refused(r#"{"model_type": "lama"}"#, &[], &["lama", "qwen3_moe"]);
    refused(r#"{"model_type": "qwen3_moe"}"#, &[], &["num_attention_heads"]);
    // A table for each expert would take gigabytes on the word of one number.
    let mut many = qwen3_moe();
    many["num_experts"] = json!(100_000);
    refused(&many.to_string(), &[], &["num_experts", "262144"]);
    refused(&good, &["--layers", "9"], &["--layers", "3"]);
    refused(&good, &["--skew", "0.9", "--locality", "0.9"], &["--skew", "--locality"]);
    refused(&good, &["--residual", "-1"], &["--residual"]);
    refused(&good, &["--format", "mlx7"], &["mlx7", "mlx8"]);
    let huge = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/Qwen3-235B-A22B.json"));
    refused(&huge.expect("the config"), &[], &["free"]);
}
