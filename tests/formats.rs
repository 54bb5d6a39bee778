//! Formats of weights beside their fixtures: what config.json decides, and what is refused before a weight is read.

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use common::damage::{copy, edit_json};
use common::{Recorded, engine, fixture, logits, roomy};
use outpour_engine::{EngineError, Inspection, Options, Session, Work};
use outpour_model::synth::{Format, Routing, Synth};
use outpour_store::read::ReaderKind;
use serde_json::{Value, json};

/// A copy of a fixture with another config.json, and its weights changed.
fn altered(name: &str, config: impl Fn(&mut Value), weights: impl Fn(&Value, &mut [u8])) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let read = |file: &str| fs::read(fixture(name).join(file)).expect("a file of the fixture");
    let mut said: Value = serde_json::from_slice(&read("config.json")).expect("JSON");
    config(&mut said);
    fs::write(dir.path().join("config.json"), said.to_string()).expect("a file");
    let mut file = read("model.safetensors");
    let (length, rest) = file.split_at_mut(8);
    let length = u64::from_le_bytes(length.try_into().expect("8 bytes")) as usize;
    let (header, data) = rest.split_at_mut(length);
    weights(&serde_json::from_slice(header).expect("a header"), data);
    fs::write(dir.path().join("model.safetensors"), file).expect("a file");
    dir
}

/// The bytes of all tensors whose names end so.
fn each<'d>(header: &Value, data: &'d mut [u8], ending: &str) -> Vec<&'d mut [u8]> {
    let tensors = header.as_object().expect("tensors").iter().filter(|(name, _)| name.ends_with(ending));
    let range = |entry: &Value| [0, 1].map(|i| entry["data_offsets"][i].as_u64().expect("an offset") as usize);
    let mut ranges: Vec<[usize; 2]> = tensors.map(|(_, entry)| range(entry)).collect();
    ranges.sort_unstable();
    let (mut rest, mut at, mut parts) = (data, 0, Vec::new());
    for [begin, end] in ranges {
        let (before, after) = std::mem::take(&mut rest).split_at_mut(end - at);
        parts.push(&mut before[begin - at..]);
        (rest, at) = (after, end);
    }
    parts
}

fn bits(model: &Path) -> Vec<u32> {
    let mut engine = engine(model, &Options { precise: true, ..roomy() }, ReaderKind::Auto);
    let ids: Vec<u32> = (0..40).map(|i| (i * i * 31 + 7) % 60).collect();
    logits(&mut engine, &ids, 30).logits.iter().map(|logit| logit.to_bits()).collect()
}

/// The model of `dir` with one FP8 scale for each matrix, in the shape `shape`, or as often as there are blocks.
fn with_one_scale(dir: &Path, shape: Option<&[usize]>) -> tempfile::TempDir {
    let out = tempfile::tempdir().expect("a folder");
    let name = "model-00001-of-00001.safetensors";
    for file in ["config.json", "model.safetensors.index.json"] {
        fs::copy(dir.join(file), out.path().join(file)).expect("copied");
    }
    let file = fs::read(dir.join(name)).expect("the weights");
    let length = u64::from_le_bytes(file[..8].try_into().expect("8 bytes")) as usize;
    let (header, data) = file[8..].split_at(length);
    let mut header: Value = serde_json::from_slice(header).expect("a header");
    let mut whole = Vec::new();
    for (name, entry) in header.as_object_mut().expect("tensors").iter_mut().filter(|(name, _)| *name != "__metadata__")
    {
        let [begin, end] = [0, 1].map(|i| entry["data_offsets"][i].as_u64().expect("an offset") as usize);
        let at = whole.len();
        match name.ends_with(".weight_scale_inv") {
            true => {
                let times = if shape.is_some() { 1 } else { (end - begin) / 4 };
                whole.extend(data[begin..begin + 4].repeat(times));
                shape.iter().for_each(|&shape| entry["shape"] = json!(shape));
            }
            false => whole.extend(&data[begin..end]),
        }
        entry["data_offsets"] = json!([at, whole.len()]);
    }
    let header = header.to_string();
    fs::write(out.path().join(name), [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &whole].concat())
        .expect("written");
    edit_json(&out.path().join("config.json"), |config| {
        config["quantization_config"]["weight_block_size"] = Value::Null
    });
    out
}

/// As transformers writes Mistral Small 4.
#[test]
fn fp8_may_have_one_scale_for_a_matrix() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = json!({
        "model_type": "qwen3_moe", "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 64, "moe_intermediate_size": 192,
        "num_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": true, "vocab_size": 100,
        "max_position_embeddings": 512,
    });
    let format: Format = "fp8".parse().expect("a format");
    let made = Synth::new(&config, format, Vec::new(), Routing::default(), 3).expect("it can be made");
    made.write(dir.path(), &mut |_, _| ControlFlow::Continue(()))
        .expect("the model is written")
        .continue_value()
        .expect("whole");
    let blocks = bits(with_one_scale(dir.path(), None).path());
    for shape in [&[][..], &[1], &[1, 1]] {
        assert!(bits(with_one_scale(dir.path(), Some(shape)).path()) == blocks, "{shape:?}");
    }
}

/// Version 2 of GPTQ stores the zeros that version 1 stores less 1.
#[test]
fn both_versions_of_gptq_are_the_same_model() {
    let version_2 = altered(
        "qwen3_moe_gptq",
        |config| config["quantization_config"]["checkpoint_format"] = json!("gptq_v2"),
        |header, data| {
            for zeros in each(header, data, ".qzeros") {
                // No zero is 15 before, so that none runs over.
                zeros.iter_mut().for_each(|byte| *byte += 0x11);
            }
        },
    );
    assert!(bits(version_2.path()) == bits(&fixture("qwen3_moe_gptq")), "other logits");
    let mistaken = altered(
        "qwen3_moe_gptq",
        |config| config["quantization_config"]["checkpoint_format"] = json!("gptq_v2"),
        |_, _| {},
    );
    assert!(bits(mistaken.path()) != bits(&fixture("qwen3_moe_gptq")), "the version counts");
}

/// Columns are in order where `g_idx` says so, whatever `desc_act` does; without it, `desc_act` counts.
#[test]
fn gptq_of_columns_in_order_is_read_with_desc_act_too() {
    let model = altered("qwen3_moe_gptq", |config| config["quantization_config"]["desc_act"] = json!(true), |_, _| {});
    assert!(bits(model.path()) == bits(&fixture("qwen3_moe_gptq")), "other logits");
    let weights = model.path().join("model.safetensors");
    let mut file = fs::read(&weights).expect("a file");
    let name = b".g_idx\"";
    let places: Vec<usize> = (0..file.len() - name.len()).filter(|&at| file[at..].starts_with(name)).collect();
    assert!(!places.is_empty());
    places.iter().for_each(|&at| file[at..][..6].copy_from_slice(b".other"));
    fs::write(&weights, file).expect("written");
    let error = Inspection::open(model.path(), false).map(|_| ()).expect_err("no order is known").to_string();
    assert!(error.contains("desc_act true, without") && error.contains("q_proj.g_idx"), "{error}");
}

#[test]
fn what_is_not_supported_is_refused_by_the_tensors_name() {
    let refused = |name: &str, change: &dyn Fn(&mut Value), says: &[&str]| {
        let model = altered(name, change, |_, _| {});
        let error = Inspection::open(model.path(), false).map(|_| ()).expect_err("it is refused").to_string();
        assert!(!error.contains('\n'), "{error}");
        for what in says {
            assert!(error.contains(what), "{error}\ndoes not say {what:?}");
        }
    };
    let said =
        |key: &'static str, value: Value| move |config: &mut Value| config["quantization_config"][key] = value.clone();
    refused("qwen3_moe_awq", &said("version", json!("gemv")), &["q_proj", "gemv", "gemm"]);
    refused("deepseek_v3_int4", &said("transform_config", json!({"a": {}})), &["experts.0", "transform_config"]);
    refused("qwen3_moe_fp8", &said("weight_block_size", json!([64, 64])), &["weight_scale_inv", "E4m3"]);
    for sizes in [json!([0, 128]), json!([-1, 128]), json!("128"), json!([128])] {
        refused("qwen3_moe_fp8", &said("weight_block_size", sizes), &["q_proj", "weight_block_size", "[128, 128]"]);
    }
    refused("qwen3_moe_fp8", &said("quant_method", json!("hqq")), &["hqq", "quant_method", "compressed-tensors"]);
    refused("qwen3_moe_fp8", &said("quant_method", json!(7)), &["q_proj", "quantisation 7", "quant_method"]);
    refused("qwen3_moe_gptq", &said("quant_method", json!("quip")), &["q_proj", "quip", "gptq"]);
    refused("qwen3_moe_gptq", &said("checkpoint_format", json!("marlin")), &["q_proj", "marlin", "gptq_v2"]);
    refused("qwen3_moe_gptq", &said("bits", json!(3)), &["q_proj", "bits 3"]);
    refused("qwen3_moe_awq", &said("bits", json!(8)), &["q_proj", "bits 8"]);
    refused("qwen3_moe_gptq", &said("group_size", json!(64)), &["q_proj.qweight", "group_size 64"]);
    refused("qwen3_moe_awq", &said("group_size", json!(-1)), &["q_proj.qweight", "group_size -1"]);
    refused("qwen3_moe_awq", &said("zero_point", json!(false)), &["q_proj", "zero_point false", "zero_point true"]);
    let group = |key: &'static str, value: Value| {
        move |config: &mut Value| {
            config["quantization_config"]["config_groups"]["group_0"]["weights"][key] = value.clone();
        }
    };
    let packed = "experts.0.gate_proj.weight_packed";
    refused("deepseek_v3_int4", &group("group_size", json!(64)), &[packed, "groups of 32", "group_size 64"]);
    refused("deepseek_v3_int4", &group("num_bits", json!(8)), &[packed, "num_bits 8"]);
    refused("deepseek_v3_int4", &group("symmetric", json!(false)), &[packed, "symmetric false"]);
    refused("deepseek_v3_int4", &group("actorder", json!("group")), &[packed, "actorder \"group\"", "weight_g_idx"]);
    for order in ["static", "weight"] {
        let model = altered("deepseek_v3_int4", group("actorder", json!(order)), |_, _| {});
        Inspection::open(model.path(), false).map(|_| ()).unwrap_or_else(|error| panic!("{order}: {error}"));
    }
    // Of two groups, one has what the tensors are, and neither has what they are not.
    refused("qwen3_moe_nvfp4", &group("group_size", json!(64)), &["mlp.experts.0.gate_proj", "NVFP4", "group_size 64"]);
    let zeros = |config: &mut Value| {
        config["quantization_config"]["config_groups"]["group_0"]["weights"] = json!({"symmetric": true});
    };
    refused("glm4_moe_compressed", &zeros, &["down_proj.weight_packed", "symmetric true", "with zero points"]);
    // Whatever is no object would be taken for nothing at all.
    for none in [json!([{"quant_method": "fp8"}]), json!("fp8"), json!(8)] {
        let instead = |config: &mut Value| config["quantization_config"] = none.clone();
        refused("qwen3_moe_fp8", &instead, &["config.json", "quantization_config is", "a JSON object"]);
    }
    let of_mlx = |module: &'static str, key: &'static str, value: Value| {
        move |config: &mut Value| config["quantization"][module][key] = value.clone()
    };
    let queries = "model.layers.0.self_attn.q_proj";
    for mode in ["mxfp4", "affine"] {
        let says = [&format!("{queries}.weight"), "mode \"mxfp8\"", &format!("mode {mode:?}"), "quantization"];
        refused("qwen3_moe_mlx_fp4", &of_mlx(queries, "mode", json!(mode)), &says);
    }
    let gate = "model.layers.0.mlp.gate";
    refused("qwen3_moe_mlx_fp4", &of_mlx(gate, "bits", json!(4)), &[gate, "8 bits", "4 bits in groups of 64"]);
    refused("qwen3_moe_mlx_fp4", &of_mlx(gate, "group_size", json!(32)), &[gate, "groups of 64", "groups of 32"]);
    refused("qwen3_moe_mlx_fp4", &|config: &mut Value| config["quantization"] = json!("4 bits"), &["quantization is"]);
    let wider = |config: &mut Value| config["moe_intermediate_size"] = json!(64);
    refused("qwen3_moe_gptq", &wider, &["experts.0", "its bits or groups are not supported"]);
}

/// What each key may say of tensors that are otherwise, in the format that has the key.
#[test]
fn settings_that_the_tensors_contradict_are_refused() {
    let set = |model: &Path, pointer: &str, value: &Value| {
        edit_json(&model.join("config.json"), |config| {
            let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
            config.pointer_mut(parent).expect(pointer)[key] = value.clone();
        });
    };
    let open = |model: &Path| Inspection::open(model, false).map(|_| ()).map_err(|error| error.to_string());
    let (own, group) = ("/quantization_config", "/quantization_config/config_groups/group_0/weights");
    let quark_group = "/quantization_config/layer_quant_config/*down_proj/weight";
    for (name, parent, key, value) in [
        ("qwen3_moe_fp8", own, "fmt", json!("e5m2")),
        ("deepseek_v3_fp8", own, "fmt", json!("E5M2")),
        ("deepseek_v4_fp8_mxfp4", own, "fmt", json!("e5m2")),
        ("deepseek_v4_fp8_mxfp4", own, "expert_dtype", json!("fp8")),
        ("qwen3_moe_fp8", own, "expert_dtype", json!("fp4")),
        ("nemotron_h_nvfp4", own, "quant_algo", json!("FP8")),
        ("nemotron_h_nvfp4", own, "quant_algo", json!("MXFP8")),
        ("nemotron_h_nvfp4", own, "quant_algo", json!("W4A16_AWQ")),
        ("nemotron_h_nvfp4", own, "group_size", json!(32)),
        ("nemotron_h_nvfp4", own, "quant_method", json!("compressed-tensors")),
        ("qwen3_moe_fp8", own, "quant_method", json!("compressed-tensors")),
        ("qwen3_moe_fp8", own, "quant_method", json!("gptq")),
        ("qwen3_moe_gptq", own, "quant_method", json!("awq")),
        ("qwen3_moe_awq", own, "quant_method", json!("gptq")),
        ("deepseek_v3_int4", own, "quant_method", json!("modelopt")),
        ("gpt_oss_mxfp4", own, "quant_method", json!("fp8")),
        ("qwen3_moe_gptq", own, "bits", json!(8)),
        ("qwen3_moe_awq", own, "w_bit", json!(8)),
        ("qwen3_moe_awq", own, "q_group_size", json!(64)),
        ("gpt_oss_mxfp4", own, "bits", json!(8)),
        ("qwen3_moe_awq", own, "format", json!("gemv")),
        ("qwen3_moe_gptq", own, "format", json!("marlin")),
        ("deepseek_v3_int4", own, "format", json!("int-quantized")),
        ("deepseek_v3_int4", own, "format", json!("marlin-24")),
        ("qwen3_moe_nvfp4", own, "format", json!("nvfp4-pack-quantized")),
        ("deepseek_v3_int4", group, "type", json!("float")),
        ("deepseek_v3_int4", group, "strategy", json!("channel")),
        ("deepseek_v3_int4", group, "strategy", json!("block")),
        ("glm4_moe_compressed", own, "weight_block_size", json!([64, 64])),
        ("qwen3_moe_w4a8", group, "num_bits", json!(16)),
        ("qwen3_moe_w4a8", group, "type", json!("float")),
        ("qwen3_moe_w4a8", own, "format", json!("pack-quantized")),
        ("qwen3_moe_auto_round", own, "packing_format", json!("auto_round:auto_awq")),
        ("qwen3_moe_auto_round", own, "packing_format", json!("auto_round:llm_compressor")),
        ("qwen3_moe_auto_round", own, "packing_format", json!("auto_round:marlin")),
        ("qwen3_moe_auto_round", own, "bits", json!(2)),
        ("qwen3_moe_auto_round", own, "group_size", json!(64)),
        ("qwen3_moe_auto_round", own, "quant_method", json!("quark")),
        ("qwen3_moe_quark", quark_group, "group_size", json!(16)),
        ("qwen3_moe_quark", quark_group, "dtype", json!("int4")),
        ("qwen3_moe_quark", "/quantization_config/export", "pack_method", json!("order")),
    ] {
        let model = copy(name);
        open(model.path()).unwrap_or_else(|error| panic!("{name} as it is: {error}"));
        set(model.path(), &format!("{parent}/{key}"), &value);
        let error = open(model.path()).expect_err(&format!("{name} with {key} {value}"));
        let says = if value.is_string() && !error.contains("supported is") {
            format!("{key} {value}")
        } else {
            value.to_string()
        };
        assert!(
            !error.contains('\n') && error.contains(&says) && error.contains("tensor "),
            "{name}, {key} {value}: {error}"
        );
    }
    // What says the same in other words, and what says nothing of the tensors.
    for (name, key, value) in [
        ("qwen3_moe_fp8", "fmt", json!("float8_e4m3fn")),
        ("deepseek_v3_fp8", "fmt", Value::Null),
        ("deepseek_v4_fp8_mxfp4", "expert_dtype", json!("FP4")),
        ("nemotron_h_nvfp4", "quant_algo", json!("MIXED_PRECISION")),
        ("qwen3_moe_awq", "w_bit", json!(4)),
        ("qwen3_moe_awq", "q_group_size", json!(32)),
        ("qwen3_moe_awq", "format", json!("GEMM")),
        ("qwen3_moe_fp8", "kv_cache_scheme", json!({"num_bits": 8})),
        ("deepseek_v3_mlx4", "quant_method", json!("fp8")),
        ("qwen3_moe_fp8", "quant_method", json!("FP8")),
        ("qwen3_moe_gptq", "quant_method", json!("GPTQ")),
        ("qwen3_moe_w4a8", "quant_method", json!("Compressed-Tensors")),
        ("qwen3_moe_auto_round", "packing_format", json!("auto_round:gptq")),
        ("qwen3_moe_auto_round", "packing_format", Value::Null),
        // Other numbers for some modules.
        ("qwen3_moe_auto_round", "extra_config", json!({"lm_head": {"bits": 8}})),
        ("qwen3_moe_quark", "pack_method", json!("reorder")),
    ] {
        let model = copy(name);
        set(model.path(), &format!("{own}/{key}"), &value);
        open(model.path()).unwrap_or_else(|error| panic!("{name} with {key} {value}: {error}"));
    }
}

/// auto-round writes GPTQ's and AWQ's tensors under settings of its own.
#[test]
fn packings_of_auto_round_are_those_of_gptq_and_awq() {
    let as_auto_round = |name: &str, packing: &str| {
        let model = copy(name);
        edit_json(&model.path().join("config.json"), |config| {
            config["quantization_config"] = json!({
                "quant_method": "auto-round", "packing_format": packing, "bits": 4, "group_size": 32, "sym": false,
            });
        });
        bits(model.path())
    };
    assert!(as_auto_round("qwen3_moe_gptq", "auto_round:auto_gptq") == bits(&fixture("qwen3_moe_gptq")));
    assert!(as_auto_round("qwen3_moe_awq", "auto_round:auto_awq") == bits(&fixture("qwen3_moe_awq")));
    let second = copy("qwen3_moe_gptq");
    edit_json(&second.path().join("config.json"), |config| {
        config["quantization_config"]["checkpoint_format"] = json!("gptq_v2");
    });
    assert!(as_auto_round("qwen3_moe_gptq", "auto_round:gptqmodel") == bits(second.path()));
}

/// MLX's tensors in a model that another method is said of, and the other way round.
#[test]
fn tensors_of_mlx_and_of_others_are_not_mistaken_for_each_other() {
    for (name, key, instead, says) in [
        ("deepseek_v3_mlx4", "quantization", json!(null), "quant_method \"gptq\""),
        ("qwen3_moe_mlx_fp4", "quantization", json!(null), "quant_method \"gptq\""),
        ("qwen3_moe_fp8", "quantization", json!({"bits": 4, "group_size": 64}), "bits 4 of MLX (quantization)"),
    ] {
        let model = copy(name);
        edit_json(&model.path().join("config.json"), |config| {
            config["quantization_config"] =
                if instead.is_null() { json!({"quant_method": "gptq"}) } else { Value::Null };
            config[key] = instead.clone();
        });
        let error = Inspection::open(model.path(), false).map(|_| ()).expect_err(name).to_string();
        assert!(error.contains(says) && error.contains("config.json: says") && !error.contains('\n'), "{error}");
    }
}

/// Before config.json said it, a file beside it did.
#[test]
fn settings_of_older_releases_are_read_from_their_own_files() {
    for (name, file, changes) in [
        (
            "qwen3_moe_gptq",
            "quantize_config.json",
            &[("bits", json!(3)), ("checkpoint_format", json!("marlin")), ("group_size", json!(64))][..],
        ),
        ("qwen3_moe_awq", "quant_config.json", &[("w_bit", json!(3)), ("version", json!("GEMV"))][..]),
        ("nemotron_h_nvfp4", "hf_quant_config.json", &[("quant_algo", json!("FP8")), ("group_size", json!(32))][..]),
    ] {
        let model = copy(name);
        let mut said = Value::Null;
        edit_json(&model.path().join("config.json"), |config| {
            said = config.as_object_mut().expect("an object").remove("quantization_config").expect("settings");
        });
        said.as_object_mut().expect("an object").remove("quant_method");
        let write = |said: &Value| {
            let nested = json!({"producer": {"name": "modelopt"}, "quantization": said});
            let said = if file.starts_with("hf_") { &nested } else { said };
            fs::write(model.path().join(file), said.to_string()).expect("written");
        };
        write(&said);
        assert!(bits(model.path()) == bits(&fixture(name)), "{name}: other logits");
        for (key, value) in changes {
            let mut other = said.clone();
            other[*key] = value.clone();
            write(&other);
            let error = Inspection::open(model.path(), false).map(|_| ()).expect_err(key).to_string();
            let value = value.to_string();
            assert!(error.contains(key) && error.contains(&value) && !error.contains('\n'), "{name}, {key}: {error}");
        }
        fs::write(model.path().join(file), "[1]").expect("written");
        let error = Inspection::open(model.path(), false).map(|_| ()).expect_err(file).to_string();
        assert!(
            error.contains(file) && error.contains("no JSON object") || error.contains("not a JSON object"),
            "{error}"
        );
    }
    // Which version the zeros are of, is said there alone.
    let model = copy("qwen3_moe_gptq");
    edit_json(&model.path().join("config.json"), |config| config["quantization_config"] = Value::Null);
    let second = json!({"bits": 4, "group_size": 32, "checkpoint_format": "gptq_v2"});
    fs::write(model.path().join("quantize_config.json"), second.to_string()).expect("written");
    assert!(bits(model.path()) != bits(&fixture("qwen3_moe_gptq")), "the version counts");
    // config.json comes first.
    edit_json(&model.path().join("config.json"), |config| {
        config["quantization_config"] = json!({"quant_method": "gptq", "bits": 4, "group_size": 32});
    });
    assert!(bits(model.path()) == bits(&fixture("qwen3_moe_gptq")));
}

/// Zero points that no known code has, beside weights that would be taken without them.
#[test]
fn zero_points_that_would_be_ignored_are_refused() {
    let dir = altered("glm4_moe_compressed", |_| {}, |_, _| {});
    let path = dir.path().join("model.safetensors");
    let file = fs::read(&path).expect("a file");
    let length = u64::from_le_bytes(*file.first_chunk().expect("8 bytes")) as usize;
    let mut header: Value = serde_json::from_slice(&file[8..8 + length]).expect("a header");
    let module = "model.layers.0.mlp.down_proj";
    let shape = header[format!("{module}.weight_shape")].take();
    header[format!("{module}.weight_zero_point")] = shape;
    header.as_object_mut().expect("tensors").retain(|_, entry| !entry.is_null());
    let header = header.to_string().into_bytes();
    fs::write(&path, [&(header.len() as u64).to_le_bytes(), &header[..], &file[8 + length..]].concat())
        .expect("a file");
    let error = Inspection::open(dir.path(), false).map(|_| ()).expect_err("it is refused").to_string();
    for what in [module, "int8", "weight_zero_point", "int4 in weight_packed", "such as are 0"] {
        assert!(error.contains(what), "{error}\ndoes not say {what:?}");
    }
}

/// Scales that are not numbers make logits that are none, which are no answer.
#[test]
fn weights_that_are_not_numbers_are_an_error() {
    let damaged = altered(
        "qwen3_moe_fp8",
        |_| {},
        |header, data| {
            for scales in each(header, data, "weight_scale_inv") {
                scales.fill(0xff);
            }
        },
    );
    for work in [Work::Prompt, Work::PromptWithLogits] {
        let mut engine = engine(damaged.path(), &roomy(), ReaderKind::Auto);
        let (mut session, mut recorded) = (Session::open(&mut engine), Recorded::default());
        let extended = session.extend(&mut engine, &[1, 2, 3], work, &mut recorded);
        let computed = extended.and_then(|()| session.logits(&mut engine, &mut recorded).map(|_| ()));
        let error = computed.expect_err("there are no logits");
        assert!(matches!(error, EngineError::NotNumbers { .. }), "{error}");
        session.close(&mut engine);
    }
}

/// Codes without their scales, or with scales of a type that these codes do not have.
#[test]
fn codes_without_scales_are_named_with_the_scales() {
    let renamed = |from: &str, to: &str| {
        let dir = altered("qwen3_moe_fp8", |_| {}, |_, _| {});
        let path = dir.path().join("model.safetensors");
        let file = fs::read(&path).expect("a file");
        let at = file.windows(from.len()).position(|bytes| bytes == from.as_bytes()).expect("what is renamed");
        let file = [&file[..at], to.as_bytes(), &file[at + from.len()..]].concat();
        fs::write(&path, file).expect("a file");
        Inspection::open(dir.path(), false).map(|_| ()).expect_err("it is refused").to_string()
    };
    let error = renamed("q_proj.weight_scale_inv", "q_proj.weight_scale_old");
    for what in ["q_proj.weight has the type F8_E4M3", "q_proj.weight_scale_inv or ", "incomplete"] {
        assert!(error.contains(what), "{error}\ndoes not say {what:?}");
    }
}

/// Tensors of a type that no format has.
#[test]
fn an_unknown_type_is_named_with_what_is_supported() {
    let dir = altered("qwen3_moe_fp8", |_| {}, |_, _| {});
    let path = dir.path().join("model.safetensors");
    let mut file = fs::read(&path).expect("a file");
    // The same length, so that offsets stay.
    while let Some(at) = file.windows(7).position(|bytes| bytes == b"F8_E4M3") {
        file[at..at + 7].copy_from_slice(b"F8_E5M2");
    }
    fs::write(&path, file).expect("a file");
    let error = Inspection::open(dir.path(), false).map(|_| ()).expect_err("it is refused").to_string();
    for what in ["self_attn", "F8_E5M2", "config.json says fp8", "FP8 E4M3", "GPTQ"] {
        assert!(error.contains(what), "{error}\ndoes not say {what:?}");
    }
}

/// Columns in another order are seen by the tensors, whatever config.json says.
#[test]
fn gptqs_columns_in_another_order_are_refused() {
    let swapped = altered(
        "qwen3_moe_gptq",
        |_| {},
        |header, data| {
            each(header, data, "q_proj.g_idx").into_iter().for_each(|groups| {
                let last = groups.len() - 4;
                let (first, last) = groups.split_at_mut(last);
                first[..4].swap_with_slice(last);
            });
        },
    );
    let problem = Inspection::open(swapped.path(), false).map(|_| ()).expect_err("refused").to_string();
    assert!(problem.contains("q_proj.g_idx") && problem.contains("another order"), "{problem}");
}

/// Factors of activations are not dropped.
#[test]
fn factors_of_activations_are_refused() {
    for factor in ["pre_quant_scale", "smooth_scale"] {
        let model = altered("qwen3_moe_nvfp4", |_| {}, |_, _| {});
        let file = model.path().join("model.safetensors");
        let bytes = fs::read(&file).expect("the weights");
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
        let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
        let data = &bytes[8 + length..];
        let scaled = "model.layers.0.mlp.experts.0.down_proj";
        let name = format!("{scaled}.{factor}");
        header[&name] = json!({"dtype": "F32", "shape": [2], "data_offsets": [data.len(), data.len() + 8]});
        let header = header.to_string();
        let file_bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data, &[0; 8]].concat();
        fs::write(&file, file_bytes).expect("written");
        let problem = Inspection::open(model.path(), false).map(|_| ()).expect_err("refused").to_string();
        assert!(problem.contains(&name), "{problem}");
    }
}
