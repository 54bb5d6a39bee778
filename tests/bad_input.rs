//! What bad input gets: one line that names the file, tensor or flag and says what to do, exit code 2, and nothing
//! written; never a panic, a hang, or memory taken on the word of a damaged file.

mod common;

#[path = "bad_input/calls.rs"]
mod calls;
#[path = "bad_input/configs.rs"]
mod configs;
#[path = "bad_input/mutations.rs"]
mod mutations;
#[path = "bad_input/while_running.rs"]
mod while_running;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::cli::{assert_refused, outpour};
use common::damage::{self, copy, copy_with_text, edit_header, edit_json, make_pipe, replace_header, set};
use serde_json::{Value, json};

const SHARDS: [&str; 3] =
    ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"];
const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// What is damaged, how, and what the message must name.
type Damage = (&'static str, fn(&Path), &'static [&'static str]);

/// Asserts that `logits` refuses a model and leaves nothing where it was to write.
fn assert_logits_refused(model: &Path, what: &str, args: &[&str], names: &[&str]) {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("logits.npy");
    let out = ["--ids", "1,2,3", "--out", out.to_str().expect("UTF-8")];
    assert_refused(&outpour("logits", model, &[&out, args].concat()), what, names);
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0, "{what}: something was written");
}

fn assert_damages_are_refused(fixture: &str, damages: &[Damage]) {
    for (what, damage, names) in damages {
        let model = copy(fixture);
        damage(model.path());
        assert_logits_refused(model.path(), what, &[], names);
    }
}

/// What was said besides the rows that tell what an answer cost.
fn besides_costs(said: &str) -> Vec<&str> {
    const ROWS: [&str; 7] = ["answer  ", "prompt  ", "memory  ", "experts  ", "read  ", "possible  ", "          "];
    said.lines().filter(|line| !ROWS.iter().any(|row| line.starts_with(row))).collect()
}

#[test]
fn undamaged_copies_work() {
    for fixture in ["qwen3_moe", "qwen3_moe_odd"] {
        let model = copy_with_text(fixture);
        let out = model.path().join("logits.npy");
        let ran = outpour("logits", model.path(), &["--ids", "1,2,3", "--out", out.to_str().expect("UTF-8")]);
        assert!(ran.status.success() && ran.stderr.is_empty(), "{ran:?}");
        assert!(out.exists() && !model.path().join("logits.npy.partial").exists());
        let ran = outpour("run", model.path(), &["hi", "--raw", "-n", "3"]);
        assert!(ran.status.success() && ran.stderr.starts_with("answer  "), "{ran:?}");
        assert!(besides_costs(&ran.stderr).is_empty(), "{ran:?}");
    }
}

const MISPLACED_FILES: &[Damage] = &[
    ("a shard is missing", |m| fs::remove_file(m.join(SHARDS[1])).unwrap(), &[SHARDS[1], "missing", "1 of 3"]),
    ("all shards are missing", |m| SHARDS.iter().for_each(|s| fs::remove_file(m.join(s)).unwrap()), &["3 of 3"]),
    ("config.json is missing", |m| fs::remove_file(m.join("config.json")).unwrap(), &["config.json", "missing"]),
    (
        "Mistral's own layout",
        |m| fs::rename(m.join("config.json"), m.join("params.json")).unwrap(),
        &["config.json", "params.json tells of files in Mistral's own layout", "download"],
    ),
    (
        "config.json is a folder",
        |m| {
            fs::remove_file(m.join("config.json")).unwrap();
            fs::create_dir(m.join("config.json")).unwrap();
        },
        &["config.json", "not a regular file"],
    ),
    ("config.json is a pipe", |m| make_pipe(&m.join("config.json")), &["config.json", "not a regular file"]),
    (
        "config.json has no end",
        |m| {
            fs::remove_file(m.join("config.json")).unwrap();
            symlink("/dev/zero", m.join("config.json")).unwrap();
        },
        &["config.json", "not a regular file"],
    ),
    ("a shard is a pipe", |m| make_pipe(&m.join(SHARDS[0])), &[SHARDS[0], "not a regular file"]),
    (
        "a shard is a folder",
        |m| {
            fs::remove_file(m.join(SHARDS[0])).unwrap();
            fs::create_dir(m.join(SHARDS[0])).unwrap();
        },
        &[SHARDS[0], "not a regular file"],
    ),
    (
        "a shard is a loop of links",
        |m| {
            fs::remove_file(m.join(SHARDS[0])).unwrap();
            symlink(SHARDS[0], m.join(SHARDS[0])).unwrap();
        },
        &[SHARDS[0], "missing"],
    ),
    (
        "a shard of another conversion of the same shapes",
        |m| edit_header(&m.join(SHARDS[1]), |header| header["__metadata__"]["format"] = json!("mlx")),
        &["\"mlx\"", "\"pt\"", "of another conversion", SHARDS[1]],
    ),
    ("the index is a pipe", |m| make_pipe(&m.join(INDEX)), &[INDEX, "not a regular file"]),
    (
        "no weights at all",
        |m| {
            fs::remove_file(m.join(INDEX)).unwrap();
            SHARDS.iter().for_each(|s| fs::remove_file(m.join(s)).unwrap());
        },
        &["holds neither"],
    ),
];

#[test]
fn folders_and_files() {
    assert_damages_are_refused("qwen3_moe", MISPLACED_FILES);
    let model = copy("qwen3_moe");
    let at = |name: &str| model.path().join(name);
    assert_logits_refused(&at("nowhere"), "no such path", &[], &["nowhere", "no such folder"]);
    assert_logits_refused(&at("config.json"), "a file", &[], &["config.json", "the folder that holds"]);
    make_pipe(&at("pipe.safetensors"));
    assert_logits_refused(&at("pipe.safetensors"), "a pipe", &[], &["pipe.safetensors", "the folder that holds"]);
    fs::create_dir(at("empty")).expect("a folder");
    assert_logits_refused(&at("empty"), "an empty folder", &[], &["empty", "config.json"]);
    assert_logits_refused(Path::new("/dev/null"), "a device", &[], &["/dev/null"]);
}

#[test]
fn indexes() {
    fn place(model: &Path, tensor: &str, shard: Value) {
        edit_json(&model.join(INDEX), |index| index["weight_map"][tensor] = shard);
    }
    assert_damages_are_refused(
        "qwen3_moe",
        &[
            ("not JSON", |m| fs::write(m.join(INDEX), "{").unwrap(), &[INDEX, "not valid JSON"]),
            ("empty", |m| fs::write(m.join(INDEX), "").unwrap(), &[INDEX, "not valid JSON"]),
            ("an array", |m| fs::write(m.join(INDEX), "[]").unwrap(), &[INDEX, "not a JSON object"]),
            ("no map", |m| fs::write(m.join(INDEX), "{}").unwrap(), &[INDEX, "weight_map"]),
            (
                "an empty map",
                |m| set(&m.join(INDEX), "weight_map", json!({})),
                &["has no tensor model.embed_tokens.weight"],
            ),
            ("outside the folder", |m| place(m, "x", json!("../x.safetensors")), &[INDEX, "../x.safetensors"]),
            ("an absolute path", |m| place(m, "x", json!("/etc/passwd")), &[INDEX, "/etc/passwd"]),
            ("the folder itself", |m| place(m, "x", json!(".")), &[INDEX, "no file name"]),
            ("an empty name", |m| place(m, "x", json!("")), &[INDEX, "no file name"]),
            ("a number", |m| place(m, "x", json!(7)), &[INDEX, "no file name"]),
            ("no safetensors file", |m| place(m, "x", json!("config.json")), &["config.json", "header"]),
            (
                "a tensor that its shard lacks",
                |m| place(m, "x", json!(SHARDS[0])),
                &[SHARDS[0], "has no tensor x", INDEX],
            ),
        ],
    );
}

#[test]
fn headers() {
    fn raw(model: &Path, header: &str) {
        replace_header(&model.join(SINGLE), header.as_bytes());
    }
    fn length(model: &Path, length: u64) {
        let mut file = fs::read(model.join(SINGLE)).unwrap();
        file[..8].copy_from_slice(&length.to_le_bytes());
        fs::write(model.join(SINGLE), file).unwrap();
    }
    assert_damages_are_refused(
        "qwen3_moe_odd",
        &[
            ("an empty file", |m| fs::write(m.join(SINGLE), "").unwrap(), &[SINGLE, "0 bytes long"]),
            ("seven bytes", |m| fs::write(m.join(SINGLE), [0; 7]).unwrap(), &[SINGLE, "7 bytes long"]),
            ("a length of 0", |m| length(m, 0), &[SINGLE, "header is not valid"]),
            ("a length of 1", |m| length(m, 1), &[SINGLE, "header is not valid"]),
            ("longer than the file", |m| length(m, 193_355), &[SINGLE, "193355 bytes", "truncated"]),
            ("a length of 2^63", |m| length(m, 1 << 63), &[SINGLE, "9223372036854775808", "truncated"]),
            ("a length of 2^64 - 1", |m| length(m, u64::MAX), &[SINGLE, "truncated"]),
            (
                "a header of 90 MB of zeros",
                |m| {
                    length(m, 90_000_000);
                    fs::File::options().write(true).open(m.join(SINGLE)).unwrap().set_len(100_000_000).unwrap();
                },
                &[SINGLE, "header is not valid"],
            ),
            (
                "an exabyte",
                |m| {
                    let file = fs::File::options().write(true).open(m.join(SINGLE)).unwrap();
                    // On a file system without such files, an empty one.
                    if file.set_len(1 << 60).is_err() {
                        file.set_len(0).unwrap();
                    }
                },
                &[SINGLE, "bytes long"],
            ),
            ("not JSON", |m| raw(m, "nonsense"), &[SINGLE, "header is not valid"]),
            ("not UTF-8", |m| replace_header(&m.join(SINGLE), b"{\"\xff\": 1}"), &[SINGLE, "header is not valid"]),
            ("an array", |m| raw(m, "[]"), &[SINGLE, "header is not valid"]),
            ("no tensors", |m| raw(m, "{}"), &["has no tensor model.embed_tokens.weight"]),
            ("deeply nested", |m| raw(m, &"[".repeat(100_000)), &[SINGLE, "header is not valid"]),
            ("a deeply nested tensor", |m| raw(m, &format!("{{\"t\":{}", "[".repeat(100_000))), &[SINGLE, "tensor t"]),
            ("deeply nested metadata", |m| raw(m, &format!("{{\"__metadata__\":{}", "[".repeat(100_000))), &[SINGLE]),
            ("text behind the JSON", |m| raw(m, "{} x"), &[SINGLE, "header is not valid"]),
            ("a name with line ends and colours", |m| raw(m, r#"{"a\nb\u001b[31m": 1}"#), &[r"tensor a\nb\u{1b}[31m"]),
            (
                "a name of a megabyte",
                |m| raw(m, &format!("{{\"{}\": 1}}", "n".repeat(1 << 20))),
                &[SINGLE, "tensor nnn"],
            ),
        ],
    );
}

#[test]
fn files_cut_short() {
    let file = fs::read(common::fixture("qwen3_moe_odd").join(SINGLE)).expect("the fixture");
    let data_start = 8 + damage::split(&file).0.len();
    let model = copy("qwen3_moe_odd");
    let path = model.path().join(SINGLE);
    let interesting = [1, 4, 8, 9, 100, data_start - 1, data_start, data_start + 1, file.len() / 2, file.len() - 1];
    for bytes in interesting {
        fs::write(&path, &file[..bytes]).expect("written");
        assert_logits_refused(model.path(), &format!("cut to {bytes} bytes"), &[], &[SINGLE]);
    }
}

const GATE_UP: &str = "model.layers.0.mlp.experts.gate_up_proj";

/// Changes an entry of a tensor in the header.
fn change(model: &Path, tensor: &str, key: &str, value: Value) {
    edit_header(&model.join(SINGLE), |header| header[tensor][key] = value);
}

/// Leaves one tensor in the header, with this entry.
fn raw(model: &Path, entry: &str) {
    replace_header(&model.join(SINGLE), format!("{{\"t\": {entry}}}").as_bytes());
}

const WRONG_TENSORS: &[Damage] = &[
    ("missing", |m| edit_header(&m.join(SINGLE), |h| drop(h.remove("model.norm.weight"))), &["model.norm.weight"]),
    (
        "beyond the file",
        |m| change(m, "model.norm.weight", "data_offsets", json!([190_752, 190_992])),
        &[SINGLE, "model.norm.weight", "190752..190992"],
    ),
    (
        "far beyond the file",
        |m| change(m, "model.norm.weight", "data_offsets", json!([0, u64::MAX])),
        &[SINGLE, "model.norm.weight"],
    ),
    ("backwards", |m| change(m, "model.norm.weight", "data_offsets", json!([120, 0])), &["model.norm.weight"]),
    (
        "overlapping",
        |m| change(m, "model.norm.weight", "data_offsets", json!([190_700, 190_820])),
        &[SINGLE, "model.norm.weight", "model.layers.1.post_attention_layernorm.weight", "overlap"],
    ),
    ("another size", |m| change(m, "model.norm.weight", "shape", json!([61])), &["model.norm.weight", "[61]"]),
    (
        "a shape that does not fit the config",
        |m| change(m, "model.embed_tokens.weight", "shape", json!([60, 120])),
        &[SINGLE, "model.embed_tokens.weight", "[60, 120]", "[120, 60]"],
    ),
    ("an unsupported type", |m| change(m, "model.norm.weight", "dtype", json!("F4")), &["model.norm.weight", "F4"]),
    (
        "integers",
        |m| {
            change(m, "model.norm.weight", "dtype", json!("I8"));
            change(m, "model.norm.weight", "shape", json!([120]));
        },
        &["model.norm.weight", "[120]"],
    ),
    (
        "integers of the right shape",
        |m| change(m, "model.norm.weight", "dtype", json!("I16")),
        &[SINGLE, "model.norm.weight", "I16", "BF16, F16 and F32"],
    ),
    ("experts missing", |m| edit_header(&m.join(SINGLE), |h| drop(h.remove(GATE_UP))), &["model.layers.0.mlp"]),
    ("experts of another shape", |m| change(m, GATE_UP, "shape", json!([24, 12, 60])), &[GATE_UP, "[24, 12, 60]"]),
];

const WRONG_ENTRIES: &[Damage] = &[
    ("no type", |m| raw(m, r#"{"shape": [], "data_offsets": [0, 0]}"#), &[SINGLE, "tensor t", "dtype"]),
    ("a negative dimension", |m| raw(m, r#"{"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}"#), &["tensor t"]),
    ("half a dimension", |m| raw(m, r#"{"dtype": "F32", "shape": [1.5], "data_offsets": [0, 6]}"#), &["tensor t"]),
    ("negative offsets", |m| raw(m, r#"{"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}"#), &["tensor t"]),
    ("three offsets", |m| raw(m, r#"{"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}"#), &["tensor t"]),
    (
        "a shape that overflows",
        |m| raw(m, r#"{"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 0]}"#),
        &["tensor t", "larger than any"],
    ),
    (
        "a shape that overflows, of an unknown type",
        |m| raw(m, r#"{"dtype": "Q9", "shape": [4294967296, 4294967296], "data_offsets": [0, 4]}"#),
        &["tensor t", "larger than any"],
    ),
    (
        "bits that overflow",
        |m| raw(m, r#"{"dtype": "F32", "shape": [2305843009213693952], "data_offsets": [0, 0]}"#),
        &["tensor t", "2305843009213693952"],
    ),
    (
        "twice",
        |m| {
            replace_header(&m.join(SINGLE),
            br#"{"t": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "t": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}}"#)
        },
        &[SINGLE, "tensor t", "twice"],
    ),
];

#[test]
fn tensors() {
    assert_damages_are_refused("qwen3_moe_odd", WRONG_TENSORS);
    assert_damages_are_refused("qwen3_moe_odd", WRONG_ENTRIES);
}

#[test]
fn experts_one_by_one() {
    const LAST: &str = "model.layers.2.mlp.experts.7.down_proj.weight";
    assert_damages_are_refused(
        "qwen3_moe",
        &[
            (
                "the last expert is missing",
                |m| {
                    edit_header(&m.join(SHARDS[2]), |h| drop(h.remove(LAST)));
                    edit_json(&m.join(INDEX), |index| drop(index["weight_map"].as_object_mut().unwrap().remove(LAST)));
                },
                &[LAST],
            ),
            (
                "of mixed types",
                |m| edit_header(&m.join(SHARDS[2]), |h| h[LAST]["dtype"] = json!("F16")),
                &[LAST, "F16", "BF16"],
            ),
            (
                "of an unknown type",
                |m| edit_header(&m.join(SHARDS[2]), |h| h[LAST]["dtype"] = json!("F4")),
                &[LAST, "F4"],
            ),
            (
                "a tensor in two shards",
                |m| {
                    edit_header(&m.join(SHARDS[2]), |h| {
                        h.insert(
                            "model.layers.0.input_layernorm.weight".into(),
                            json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
                        );
                    })
                },
                &["model.layers.0.input_layernorm.weight", SHARDS[1], SHARDS[2]],
            ),
        ],
    );
    let model = copy("qwen3_moe_odd");
    edit_header(&model.path().join(SINGLE), |header| {
        header.insert("unneeded".into(), json!({"dtype": "F4", "shape": [3, 5], "data_offsets": [0, 0]}));
    });
    let ran = outpour("inspect", model.path(), &[]);
    assert!(ran.status.success(), "an unknown type of a tensor that nothing needs: {ran:?}");
}
