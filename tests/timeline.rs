//! `--trace-out`: every layer, operation and read of an answer, as other programs read it.

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::damage::copy_files;
use serde_json::Value;

#[test]
fn every_layer_operation_and_read_is_drawn() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("timeline.json");
    let mut outpour = Command::new(env!("CARGO_BIN_EXE_outpour"));
    outpour.args(["run", "demo", "Hello", "-n", "4", "--temperature", "0", "--ram", "40M", "--trace-out"]).arg(&file);
    let output = outpour.output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let events: Vec<Value> = serde_json::from_slice(&fs::read(&file).expect("a file")).expect("JSON");

    let named = |event: &Value| event["args"]["name"].as_str().unwrap_or_default().to_owned();
    let rows: HashMap<u64, String> = events
        .iter()
        .filter(|event| event["ph"] == "M")
        .map(|event| (event["tid"].as_u64().expect("a row"), named(event)))
        .collect();
    let of = |row: &str| -> Vec<&Value> {
        let is_there =
            |event: &&Value| event["ph"] == "X" && rows[&event["tid"].as_u64().expect("a row")].starts_with(row);
        events.iter().filter(is_there).collect()
    };
    let times = |event: &Value| {
        let at = event["ts"].as_f64().expect("a time");
        (at, at + event["dur"].as_f64().expect("a time"))
    };
    let (layers, operations, reads) = (of("layers"), of("operations"), of("reads"));

    // A prompt, then the tokens of the answer but the last.
    let first = layers.iter().filter(|layer| layer["name"] == "layer 0").count();
    assert!(first >= 2 && layers.len() % first == 0, "{} layers, {first} of them the first", layers.len());
    for name in ["linear", "rms_norm", "gated_delta", "attention", "route", "mlps", "combine", "embed"] {
        assert!(operations.iter().any(|operation| operation["name"] == name), "no {name}");
    }
    let within = |layer: &Value| {
        let (from, to) = times(layer);
        operations.iter().filter(|operation| times(operation).0 >= from - 1.0 && times(operation).1 <= to + 1.0).count()
    };
    assert!(layers.iter().all(|layer| within(layer) > 10), "a layer without operations");
    let bytes: u64 = reads.iter().map(|read| read["args"]["bytes"].as_u64().expect("bytes")).sum();
    assert!(bytes > 4 << 20, "trunk and experts were read: {bytes} bytes");
    // Reads in one lane come one after the other.
    let mut lanes: HashMap<u64, f64> = HashMap::new();
    let mut in_order = reads.clone();
    in_order.sort_by(|a, b| times(a).0.total_cmp(&times(b).0));
    for read in in_order {
        let end = lanes.entry(read["tid"].as_u64().expect("a lane")).or_default();
        assert!(times(read).0 >= *end - 1.0, "two reads at once in a lane");
        *end = times(read).1;
    }
}

#[test]
fn reads_of_each_drive_are_drawn() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/model").canonicalize().expect("the demo model");
    let (copy, file) = (dir.path().join("copy"), dir.path().join("timeline.json"));
    fs::create_dir(&copy).expect("a folder");
    copy_files(&model, &copy, |_| true);
    let mut outpour = Command::new(env!("CARGO_BIN_EXE_outpour"));
    outpour.arg("run").arg(&model).args(["Hello", "-n", "4", "--ram", "40M", "--mirror"]).arg(&copy);
    let output = outpour.arg("--trace-out").arg(&file).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = fs::read_to_string(&file).expect("a file");
    for folder in [&model, &copy] {
        let path = folder.join("model.safetensors");
        assert!(text.contains(path.to_str().expect("UTF-8")), "no read of {}", path.display());
    }
}
