//! `bench` and `plan`: what they report fits together, and what happened.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::random::random_model;
use serde_json::Value;

fn json(verb: &str, model: &Path, args: &[&str]) -> Value {
    let ran = Command::new(env!("CARGO_BIN_EXE_outpour")).arg(verb).arg(model).args(args).output().expect("runs");
    assert!(ran.status.success(), "{verb} {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    serde_json::from_slice(&ran.stdout).unwrap_or_else(|error| panic!("{verb}: {error}"))
}

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("{key} is no number in {row:#}"))
}

#[test]
fn bench_reports_what_happened() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let model = random_model(&dir.path().join("model"));
    let ram = "80M";
    let rows = json("bench", &model, &["-p", "48", "-n", "12", "-r", "2", "--cold", "-o", "json", "--ram", ram]);
    let [prompt, generate] = rows.as_array().expect("a list").as_slice() else { panic!("two tests: {rows:#}") };
    assert_eq!((prompt["test"].as_str(), generate["test"].as_str()), (Some("pp48"), Some("tg12")));
    for row in [prompt, generate] {
        println!("{row:#}");
        assert_eq!(number(row, "ram_bytes"), (80u64 << 20) as f64);
        for key in [
            "tokens_per_second",
            "bound_tokens_per_second",
            "drive_bytes_per_second",
            "trunk_seconds",
            "drive_limit_bytes_per_second",
            "expert_seconds",
            "read_seconds",
            "bytes_read_per_token",
        ] {
            assert!(number(row, key) > 0.0, "{key}");
        }
        assert!(number(row, "stddev") >= 0.0);
        let seconds = number(row, "seconds");
        let parts = number(row, "trunk_seconds") + number(row, "expert_seconds") + number(row, "blocked_seconds");
        assert!((parts / seconds - 1.0).abs() < 0.02, "{parts} of {seconds} seconds are accounted for");
        assert!((0.0..1.0).contains(&number(row, "hit_rate")));
        // No policy reads less than one that knows the future, and the engine's reads little more than the least recently used
        // first out, whatever the routes; but for the pieces that the growing context took.
        let read = number(row, "bytes_read_per_token");
        assert!(read <= 1.07 * number(row, "bytes_read_per_token_lru"), "{row:#}");
        assert!(read >= 0.93 * number(row, "bytes_read_per_token_belady"), "{row:#}");
        assert!(number(row, "bytes_read_per_token_belady") <= 1.001 * number(row, "bytes_read_per_token_lru"));
        assert!(["drive", "experts", "trunk"].contains(&row["bound_by"].as_str().unwrap_or("")));
        let early = ["experts_missing_per_token", "experts_read_early_per_token", "experts_used_of_those_per_token"];
        let [missing, early, used] = early.map(|key| number(row, key));
        assert!(missing > 0.0 && used <= early && used <= missing, "{row:#}");
        let percent = number(row, "percent_of_bound");
        assert!(percent > 0.0 && percent <= 100.0 && percent <= number(row, "percent_of_bound_by_sum"), "{row:#}");
    }
    // From a cold start a prompt reads each expert that it uses once.
    assert_eq!(number(prompt, "hit_rate"), 0.0);
    let read = number(prompt, "bytes_read_per_token") / number(prompt, "bytes_needed_per_token");
    assert!((1.0..1.1).contains(&read), "{read} of what is needed was read");
    // With memory for everything, the second repetition finds all experts there.
    let rows = json("bench", &model, &["-p", "0", "-n", "8", "-r", "1", "-o", "json", "--ram", "600M"]);
    let row = &rows[0];
    assert!(number(row, "hit_rate") > 0.5 && row["start"] == "warm", "{row:#}");
}

/// A dense model has no experts to measure a drive with, and no limit of the drive; all else is there.
#[test]
fn a_dense_model_is_measured_too() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 512, "vocab_size": 2000, "rms_norm_eps": 1e-6, "max_position_embeddings": 512,
    });
    outpour_model::synth::write(&config, dir.path(), 3).expect("the model is written");
    let rows = json("bench", dir.path(), &["-p", "48", "-n", "8", "-r", "2", "-o", "json", "--ram", "64M"]);
    let [prompt, generate] = rows.as_array().expect("a list").as_slice() else { panic!("two tests: {rows:#}") };
    for row in [prompt, generate] {
        assert!(number(row, "tokens_per_second") > 0.0 && number(row, "trunk_seconds") > 0.0, "{row:#}");
        assert!(row["drive_limit_bytes_per_second"].is_null(), "{row:#}");
        let zero = ["hit_rate", "bytes_read_per_token", "bytes_needed_per_token", "blocked_seconds"];
        assert!(zero.iter().all(|key| number(row, key) == 0.0), "{row:#}");
        assert!((98.0..=100.0).contains(&number(row, "percent_of_bound")), "{row:#}");
    }
    // A trunk that does not fit is read, and no bound is claimed.
    let config = serde_json::json!({
        "model_type": "qwen3", "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": 64, "intermediate_size": 2048, "vocab_size": 2000, "rms_norm_eps": 1e-6, "max_position_embeddings": 512,
    });
    let deep = dir.path().join("deep");
    outpour_model::synth::write(&config, &deep, 3).expect("the model is written");
    let rows = json("bench", &deep, &["-p", "16", "-n", "4", "-r", "1", "-o", "json", "--ram", "48M", "--ctx", "64"]);
    for row in rows.as_array().expect("a list") {
        assert!(number(row, "bytes_read_per_token") > 0.0 && row["percent_of_bound"].is_null(), "{row:#}");
    }
}

/// A shape of configs/.
fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(format!("{name}.json"))
}

#[test]
fn plan_follows_the_arithmetic_of_the_397b() {
    let config = config("Qwen3.5-397B-A17B");
    let plan = |drive: &str, hit_rate: &str, prompt: &str| {
        let args =
            ["--format", "mlx4", "--ram", "48G", "--drive", drive, "--hit-rate", hit_rate, "-p", prompt, "--json"];
        json("plan", &config, &args)
    };
    // 60 layers × 10 experts of 7,077,888 bytes for each token.
    let token_bytes = 60.0 * 10.0 * 7_077_888.0;
    for (drive, bytes_per_second) in [("2500000000", 2.5e9), ("7000000000", 7e9), ("17500000000", 17.5e9)] {
        let cold = plan(drive, "0", "16");
        assert_eq!(cold["estimated"], true);
        assert_eq!(number(&cold, "bytes_read_per_token"), token_bytes);
        let ceiling = bytes_per_second / token_bytes;
        let decode = number(&cold, "decode_tokens_per_second");
        println!("{drive}: {decode:.3} of at most {ceiling:.3} tok/s");
        assert!(decode <= ceiling, "{decode} of {ceiling} at {drive}");
        let read = number(&cold["decode"], "read_seconds_per_token");
        assert!((read * ceiling - 1.0).abs() < 1e-9, "{read} seconds");
        // No trunk or experts are computed for nothing: 17 billion weights of 4 bits and more.
        assert!(number(&cold["decode"], "trunk_seconds_per_token") > 1e-3);
        assert!(number(&cold["decode"], "expert_seconds_per_token") > 1e-3);
    }
    // On a slow drive nothing else counts: half the bytes, almost twice the speed.
    let (cold, half) = (plan("100000000", "0", "512"), plan("100000000", "0.5", "16"));
    assert_eq!(number(&half, "bytes_read_per_token"), token_bytes / 2.0);
    let ratio = number(&half, "decode_tokens_per_second") / number(&cold, "decode_tokens_per_second");
    assert!((1.9..=2.0).contains(&ratio), "{ratio}");
    assert_eq!(cold["bound_by"], "drive");
    // A prompt reads each expert that it uses once.
    let sweep = number(&cold["prefill_cold"], "tokens_per_second");
    let all_experts = 60.0 * 512.0 * 7_077_888.0;
    assert!(sweep <= 512.0 * 1e8 / (0.99 * all_experts), "{sweep}");
    assert!(sweep >= 0.8 * 512.0 * 1e8 / all_experts, "{sweep}");
    // An answer that begins with an empty memory of 48 GB reads more than one that finds it full.
    let known = plan("7000000000", "0.6", "16");
    assert!((number(&known, "hit_rate") - 0.6).abs() < 1e-9);
    let cold_rate = number(&known["decode_cold"], "hit_rate");
    assert!((0.2..0.6).contains(&cold_rate), "{cold_rate}");
}

#[test]
fn a_config_that_is_no_models_is_refused_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("config.json");
    let known: Value =
        serde_json::from_slice(&std::fs::read(config("Qwen3-30B-A3B")).expect("a config")).expect("JSON");
    // Tables for so many layers or experts would take all memory there is.
    for (key, value, names) in [
        ("num_hidden_layers", Value::from(1_000_000_000), "num_hidden_layers"),
        ("num_experts", Value::from(2_000_000_000), "num_experts"),
        ("quantization", serde_json::json!({"bits": 7}), "quantization.bits"),
    ] {
        let mut config = known.clone();
        config[key] = value;
        std::fs::write(&path, config.to_string()).expect("written");
        let ran = common::cli::outpour("plan", &path, &["--ram", "8G", "--drive", "1G"]);
        common::cli::assert_refused(&ran, key, &["config.json", names]);
    }
}

#[test]
fn every_family_is_rehearsed() {
    let names = ["qwen3_moe", "qwen3_moe_odd", "qwen3_next", "qwen3_5_moe", "qwen3_5_moe_mlx4", "qwen3_next_mlx_mixed"];
    for name in names {
        let args = ["--ram", "64M", "--drive", "1G", "-p", "16", "-n", "8", "--json"];
        let plan = json("plan", &common::fixture(name), &args);
        for key in ["decode", "decode_cold", "prefill", "prefill_cold"] {
            for part in ["tokens_per_second", "trunk_seconds_per_token", "expert_seconds_per_token"] {
                assert!(number(&plan[key], part) > 0.0, "{name}: {key}, {part}");
            }
        }
        // All of it fits: nothing is read once it is there, and all that is used before.
        let hits = |key: &str| number(&plan[key], "hit_rate");
        assert_eq!((hits("decode"), hits("prefill"), hits("prefill_cold")), (1.0, 1.0, 0.0), "{name}");
        assert!((0.01..0.99).contains(&hits("decode_cold")), "{name}: {}", hits("decode_cold"));
    }
}

#[test]
fn plan_refuses_what_no_context_holds() {
    for (flag, tokens) in [("-n", "1000000000000"), ("-p", "2000000")] {
        let args = ["--ram", "48G", "--drive", "1G", "--format", "mlx4", flag, tokens];
        let ran = common::cli::outpour("plan", &config("Qwen3.5-397B-A17B"), &args);
        common::cli::assert_refused(&ran, flag, &[flag, tokens, "context"]);
    }
}

#[test]
fn nothing_to_measure_is_refused() {
    let model = common::fixture("qwen3_moe");
    let ran = common::cli::outpour("bench", &model, &["-p", "0", "-n", "0"]);
    common::cli::assert_refused(&ran, "no test", &["-p", "-n"]);
}
