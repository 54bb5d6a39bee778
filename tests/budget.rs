//! `--ram` is a ceiling: under a real memory cgroup, page cache included, as root and as an ordinary user.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::group::Group;
use common::random::random_model;
use outpour_model::synth::{Format, Routing, Synth};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
/// The random model's experts and trunk take 295 MiB.
const RAM: u64 = 64 * MIB;

fn random(dir: &Path) -> String {
    random_model(dir).to_str().expect("a UTF-8 path").to_owned()
}

/// A Qwen3.5 or Qwen3-Next of eight layers: 64 experts of 442 KB a layer at 4 bits.
fn hybrid(model_type: &str) -> Value {
    json!({
        "model_type": model_type, "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 64, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 256,
        "num_experts": 64, "num_experts_per_tok": 6, "norm_topk_prob": true, "vocab_size": 2048,
        "max_position_embeddings": 4096, "full_attention_interval": 4, "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 64, "linear_num_key_heads": 4, "linear_num_value_heads": 8, "linear_value_head_dim": 64,
    })
}

/// A model of such a config, with random weights in a format.
fn made_model(dir: &Path, config: &Value, format: &str) -> String {
    let (path, out) = (dir.join("config.json"), dir.join("model"));
    fs::write(&path, config.to_string()).expect("a config");
    let made = Command::new(env!("CARGO_BIN_EXE_outpour"))
        .args(["synth", "--no-check", "--format", format])
        .args([&path, &out])
        .output()
        .expect("outpour runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    out.to_str().expect("a UTF-8 path").to_owned()
}

/// Some hundred tokens: scratch and context are filled, and every expert is read.
fn prompt() -> String {
    "Once upon a time there was a small engine that read its words from a drive. ".repeat(30)
}

fn check(group: &Group, uid: Option<u32>, model: &str) {
    check_with(group, uid, model, &prompt());
}

fn check_with(group: &Group, uid: Option<u32>, model: &str, prompt: &str) {
    let ram = RAM.to_string();
    let output = group
        .run(uid, &["run", model, prompt, "--raw", "--ram", &ram, "-n", "24", "--temperature", "0", "--ignore-eos"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.contains("24 generated"), "as {uid:?}: {:?} {stderr}", output.status);
    println!(
        "as {uid:?}: peak {:.3} of --ram, limit hit {} times; {stderr}",
        group.peak_bytes() as f64 / RAM as f64,
        group.limit_hits()
    );
}

#[test]
fn logits_and_routes_keep_ram_too() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let model = random(dir.path());
    let Some(group) = Group::new("logits", RAM + RAM / 20) else {
        println!("SKIPPED: this user may not make memory cgroups; run as root to test --ram under one");
        return;
    };
    let ids: Vec<String> = (0..2000).map(|i| (i * 7 % 1200).to_string()).collect();
    let path = |name: &str| dir.path().join(name).to_str().expect("a UTF-8 path").to_owned();
    let (ram, out, routes) = (RAM.to_string(), path("logits.npy"), path("routes.json"));
    let ids = ids.join(",");
    let args = ["logits", &model, "--ids", &ids, "--ctx", "2048", "--ram", &ram, "--out", &out, "--routes", &routes];
    let output = group.run(None, &args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("logits: peak {:.3} of --ram", group.peak_bytes() as f64 / RAM as f64);
    assert!(group.peak_bytes() <= RAM + RAM / 20, "peak {} of --ram {RAM}", group.peak_bytes());
    assert_eq!(group.limit_hits(), 0, "the limit was hit");
    let routes: serde_json::Value = serde_json::from_slice(&fs::read(routes).expect("routes")).expect("JSON");
    assert_eq!(routes["layers"][7]["experts"].as_array().map(Vec::len), Some(2000));
}

#[test]
fn bench_keeps_ram_too() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let model = random(dir.path());
    // With 64 MiB there is no room to measure memory; with 320 MiB there is, before the model is loaded.
    for ram in [RAM, 5 * RAM] {
        let Some(group) = Group::new(&format!("bench-{}", ram / MIB), ram + ram / 20) else {
            println!("SKIPPED: this user may not make memory cgroups; run as root to test --ram under one");
            return;
        };
        let given = ram.to_string();
        let args = ["bench", &model, "--ram", &given, "-p", "128", "-n", "8", "-r", "1", "-o", "json"];
        let output = group.run(None, &args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        println!("bench: peak {:.3} of --ram", group.peak_bytes() as f64 / ram as f64);
        assert!(group.peak_bytes() <= ram + ram / 20, "peak {} of --ram {ram}", group.peak_bytes());
        assert_eq!(group.limit_hits(), 0, "the limit was hit");
    }
}

#[test]
fn mlx_models_keep_ram_too() {
    for (model_type, format) in [("qwen3_5_moe_text", "mlx4"), ("qwen3_5_moe_text", "mlx8"), ("qwen3_next", "mlx3")] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let model = made_model(dir.path(), &hybrid(model_type), format);
        let user = (format != "mlx8" && common::is_root()).then_some(65_534);
        common::open_to_everyone(dir.path());
        let Some(group) = Group::new(format, RAM + RAM / 20) else {
            println!("SKIPPED: this user may not make memory cgroups; run as root to test --ram under one");
            return;
        };
        check(&group, user, &model);
        assert!(group.peak_bytes() <= RAM + RAM / 20, "{format}: peak {} of --ram {RAM}", group.peak_bytes());
        assert_eq!(group.limit_hits(), 0, "{format}: the limit was hit");
    }
}

/// One model of each way to store weights, of as many layers as make it larger than `--ram`.
#[test]
fn every_format_keeps_ram_too() {
    let mut config = json!({
        "model_type": "qwen3_moe", "hidden_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 512, "moe_intermediate_size": 512,
        "num_experts": 64, "num_experts_per_tok": 6, "norm_topk_prob": true, "vocab_size": 2048,
        "max_position_embeddings": 4096,
    });
    for format in Format::all() {
        config["num_hidden_layers"] = json!(2);
        let bytes = |config: &Value| {
            let made = Synth::new(config, format, Vec::new(), Routing::default(), 0);
            made.unwrap_or_else(|error| panic!("{format}: {error}")).bytes()
        };
        while bytes(&config) < 3 * RAM / 2 {
            config["num_hidden_layers"] = json!(config["num_hidden_layers"].as_u64().map(|layers| layers + 2));
        }
        let format = &format.to_string();
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let model = made_model(dir.path(), &config, format);
        let Some(group) = Group::new(format, RAM + RAM / 20) else {
            println!("SKIPPED: this user may not make memory cgroups; run as root to test --ram under one");
            return;
        };
        // Where only experts have the format, the context that is left is shorter.
        check_with(&group, None, &model, &prompt()[..prompt().len() / 3]);
        assert!(group.peak_bytes() <= RAM + RAM / 20, "{format}: peak {} of --ram {RAM}", group.peak_bytes());
        assert_eq!(group.limit_hits(), 0, "{format}: the limit was hit");
    }
}

/// One model of each kind of attention that the other tests have none of.
#[test]
fn every_kind_of_attention_keeps_ram_too() {
    for name in common::ATTENTION_KINDS {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let model = made_model(dir.path(), &common::enlarged(name, 64, 512), "mlx4");
        let Some(group) = Group::new(name, RAM + RAM / 20) else {
            println!("SKIPPED: this user may not make memory cgroups; run as root to test --ram under one");
            return;
        };
        check(&group, None, &model);
        assert!(group.peak_bytes() <= RAM + RAM / 20, "{name}: peak {} of --ram {RAM}", group.peak_bytes());
        assert_eq!(group.limit_hits(), 0, "{name}: the limit was hit");
    }
}

#[test]
fn ram_is_kept_under_a_cgroup() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let model = random(dir.path());
    let users = if common::is_root() { vec![None, Some(65_534)] } else { vec![None] };
    common::open_to_everyone(dir.path());
    for (name, limit_bytes) in [("wide", 4 * RAM), ("tight", RAM + RAM / 20)] {
        for &uid in &users {
            let Some(group) = Group::new(&format!("{name}-{}", uid.unwrap_or(0)), limit_bytes) else {
                println!("SKIPPED: this user may not make memory cgroups; run as root to test --ram under one");
                return;
            };
            check(&group, uid, &model);
            assert!(
                group.peak_bytes() <= RAM + RAM / 20,
                "{name}, {uid:?}: peak {} of --ram {RAM}",
                group.peak_bytes()
            );
            assert_eq!(group.limit_hits(), 0, "{name}, {uid:?}: the limit was hit");
        }
    }
}
