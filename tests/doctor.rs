//! `doctor`: what it says of this machine is there and sane, it stores what `plan` reads, and leaves nothing behind.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::damage::copy_with_text;
use outpour_engine::profile::Profile;
use serde_json::Value;

/// Runs `doctor --quick` with a cache folder of its own.
fn doctor(cache: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outpour"));
    command.args(["doctor", "--quick", "--threads", "1"]).args(args).env("XDG_CACHE_HOME", cache);
    command.output().expect("outpour runs")
}

fn report(ran: &Output) -> Value {
    assert!(ran.status.success(), "{ran:?}");
    assert!(ran.stderr.is_empty(), "{ran:?}");
    serde_json::from_slice(&ran.stdout).expect("JSON")
}

/// A folder on a drive: that for temporary files may be memory.
fn cache() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

fn assert_positive(value: &Value, keys: &[&str]) {
    for key in keys {
        let number = value[key].as_f64().unwrap_or_else(|| panic!("{key} is {}", value[key]));
        assert!(number > 0.0 && number.is_finite(), "{key} is {number}");
    }
}

#[test]
fn a_model_is_measured_with_its_experts() {
    let (cache, model) = (cache(), copy_with_text("qwen3_moe"));
    let ran = doctor(cache.path(), &["--json", model.path().to_str().expect("UTF-8")]);
    let report = report(&ran);
    for section in ["processor", "memory", "system", "profile", "drive", "troubles", "unmeasured", "stored"] {
        assert!(report.get(section).is_some(), "no {section}: {report:#}");
    }
    assert_eq!(report["processor"]["threads"], 1);
    assert_eq!(report["unmeasured"], Value::Array(Vec::new()));
    let profile = &report["profile"];
    assert_eq!(profile["quick"], true);
    assert_positive(profile, &["memory_read_bytes_per_second", "small_op_seconds", "threads", "measured_at"]);
    let products = profile["products"].as_array().expect("a list");
    assert_eq!(products.len(), 45);
    for product in products {
        assert_positive(product, &["rows", "weight_bytes_per_second", "ops_per_second"]);
        let ops = product["ops_per_second"].as_f64().expect("a number");
        assert!((1e6..1e15).contains(&ops), "{product}");
    }
    let drive = &report["drive"];
    assert_eq!(drive["of_model"], true);
    assert_eq!(drive["scratch_bytes"], Value::Null);
    let curves = drive["curves"].as_array().expect("a list");
    assert!(!curves.is_empty());
    for curve in curves {
        assert_positive(curve, &["record_bytes", "extents"]);
        let samples = curve["samples"].as_array().expect("a list");
        assert!(!samples.is_empty());
        let bursts = curve["bursts"].as_array().expect("a list");
        let positive =
            |sample| assert_positive(sample, &["depth", "bytes", "bytes_per_second", "cpu_seconds_per_byte"]);
        samples.iter().chain(bursts).for_each(positive);
    }
    // The default reader's first: as many together as the router of this model chooses, and fewer.
    let together = curves[0]["bursts"].as_array().expect("a list").last().expect("bursts")["depth"].as_u64();
    assert_eq!(together, Some(2));
    for trouble in report["troubles"].as_array().expect("a list") {
        assert!(trouble["trouble"].is_string() && trouble["fix"].is_string() && trouble["name"].is_string());
    }
}

#[test]
fn without_a_model_a_temporary_file_is_read_and_removed() {
    let cache = cache();
    let ran = doctor(cache.path(), &[]);
    let text = String::from_utf8(ran.stdout.clone()).expect("UTF-8");
    assert!(ran.status.success(), "{ran:?}");
    for word in ["Processor", "Memory", "Drive", "System", "Troubles", "a temporary file of 48.0 MiB", "machine.json"] {
        assert!(text.contains(word), "no {word}:\n{text}");
    }
    let wide = text.lines().find(|line| line.ends_with(' '));
    assert_eq!(wide, None, "blanks at the end of a line");
    let names = std::fs::read_dir(cache.path().join("outpour")).expect("the cache").flatten();
    let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["machine.json"]);
    let stored = Profile::read(&cache.path().join("outpour/machine.json")).expect("it is whole").expect("it is there");
    assert!(stored.quick && stored.threads == 1 && stored.products.len() == 45);
    let believed = stored.drives.iter().all(|drive| drive.limit_bytes_per_second > 0.0 && !drive.depths.is_empty());
    assert!(believed, "{:?}", stored.drives);
}

#[test]
fn what_is_no_model_is_refused() {
    let cache = cache();
    let ran = doctor(cache.path(), &["/nowhere/at/all"]);
    assert_eq!(ran.status.code(), Some(2), "{ran:?}");
    assert!(String::from_utf8_lossy(&ran.stderr).contains("/nowhere/at/all"));
    assert!(!cache.path().join("outpour").exists(), "nothing is written for a wrong call");
}
