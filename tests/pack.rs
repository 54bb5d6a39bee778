//! Packs: the same bits as in place, one read an expert, damage found, and no pack lost or half there however it ends.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::cli::{assert_refused, command, outpour, run};
use common::damage::{copy, edit_json};
use common::{engine, fixture, logits, minimum_ram, roomy};
use outpour_engine::{Inspection, Options};
use outpour_model::packing::Affine;
use outpour_model::synth;
use outpour_store::bytes::Bytes;
use outpour_store::checkpoint::Checkpoint;
use outpour_store::layout::ExpertId;
use outpour_store::pack::{MANIFEST, UNFINISHED};
use outpour_store::read::ReaderKind;
use serde_json::{Value, json};

const FIXTURES: [&str; 14] = [
    "qwen3_moe",
    "qwen3_moe_odd",
    "qwen3_next",
    "qwen3_5_moe",
    "qwen3_5_moe_mlx4",
    "qwen3_next_mlx_mixed",
    "qwen3_moe_fp8",
    "gpt_oss_mxfp4",
    "gpt_oss_transposed",
    "llama4_transposed",
    "glm4_moe_compressed",
    "qwen3_moe_gptq",
    "nemotron_h_nvfp4",
    "qwen3_moe_mlx_fp4",
];

/// Packs a model without the program around it.
fn pack(model: &Path, out: &Path, requantise: Option<Affine>) {
    let inspection = Inspection::open(model, false).unwrap_or_else(|error| panic!("{error}"));
    let packed = inspection.pack(requantise, out, &mut |_, _| std::ops::ControlFlow::Continue(()));
    assert!(packed.unwrap_or_else(|error| panic!("{error}")).flow.is_continue());
}

/// 4 layers of 16 experts of 72 KiB.
fn streamed_model(dir: &Path) {
    let config = json!({
        "model_type": "qwen3_moe", "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 64, "moe_intermediate_size": 128,
        "num_experts": 16, "num_experts_per_tok": 4, "norm_topk_prob": true, "vocab_size": 300,
        "max_position_embeddings": 512,
    });
    synth::write(&config, dir, 7).expect("the model is written");
}

fn bits(model: &Path, options: &Options, reader: ReaderKind) -> Vec<u32> {
    let mut engine = engine(model, options, reader);
    let ids: Vec<u32> = (0..40u32).map(|i| (i * i * 31 + 7 * i + 3) % engine.facts().vocab as u32).collect();
    logits(&mut engine, &ids, 30).logits.iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn transposed_experts_are_not_requantised() {
    let dir = tempfile::tempdir().expect("a folder");
    for name in ["gpt_oss_transposed", "llama4_transposed"] {
        let inspection = Inspection::open(&fixture(name), false).unwrap_or_else(|error| panic!("{error}"));
        let affine = Some(Affine { bits: 4, group: 32 });
        let packed = inspection.pack(affine, dir.path(), &mut |_, _| std::ops::ControlFlow::Continue(()));
        let error = packed.map(|_| ()).expect_err("it is refused").to_string();
        assert!(error.contains("experts.gate_up_proj is stored transposed") && error.contains("--experts"), "{error}");
    }
}

#[test]
fn packed_gives_the_same_bits_as_in_place() {
    let dir = tempfile::tempdir().expect("a folder");
    let streamed = dir.path().join("streamed");
    streamed_model(&streamed);
    let models = FIXTURES.map(fixture).into_iter().chain([streamed]);
    for (i, model) in models.enumerate() {
        let (packed, repacked) = (dir.path().join(format!("pack-{i}")), dir.path().join(format!("repack-{i}")));
        pack(&model, &packed, None);
        pack(&packed, &repacked, None);
        for precise in [false, true] {
            let options = Options { precise, threads: Some(2), prefill_chunk: Some(16), ..roomy() };
            let expected = bits(&model, &options, ReaderKind::Auto);
            let least = Options { ram: minimum_ram(&packed, &options), ..options };
            for (options, reader) in
                [(options, ReaderKind::Auto), (options, ReaderKind::Pread), (least, ReaderKind::Auto)]
            {
                assert!(bits(&packed, &options, reader) == expected, "other bits from a pack of {}", model.display());
            }
            assert!(bits(&repacked, &options, ReaderKind::Auto) == expected, "other bits from a pack of a pack");
        }
    }
}

#[test]
fn an_expert_is_one_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut saved = 0;
    for name in FIXTURES {
        let out = dir.path().join(name);
        pack(&fixture(name), &out, None);
        let reads = |model: &Path| {
            let inspection = Inspection::open(model, false).unwrap_or_else(|error| panic!("{error}"));
            let layout = &inspection.layout;
            let ids =
                (0..layout.layers()).flat_map(|layer| (0..layout.experts(layer)).map(move |expert| (layer, expert)));
            let ids = ids.map(|(layer, expert)| ExpertId { layer: layer as u32, expert: expert as u32 });
            let runs = |id| layout.place(id, inspection.checkpoint().files()).runs().len();
            (ids.map(runs).collect::<Vec<_>>(), layout.bytes_total(), inspection.trunk.bytes())
        };
        let ((in_place, bytes, _), (packed, packed_bytes, _)) = (reads(&fixture(name)), reads(&out));
        assert!(packed.iter().all(|&runs| runs == 1) && packed.len() == in_place.len());
        saved += in_place.iter().sum::<usize>() - packed.len();
        assert_eq!(bytes, packed_bytes);
    }
    assert!(saved > 100, "in place there are hardly more reads: {saved}");
}

#[test]
fn requantised_experts_are_near_the_release() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = dir.path().join("model");
    streamed_model(&model);
    let options = Options { precise: true, ..roomy() };
    let values = |model: &Path| -> Vec<f32> {
        bits(model, &options, ReaderKind::Auto).into_iter().map(f32::from_bits).collect()
    };
    let expected = values(&model);
    let mean = |values: &[f32]| values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64;
    let deviation = |values: &[f32]| {
        let mean = mean(values);
        mean_square(values.iter().map(|&value| f64::from(value) - mean))
    };
    let mut before = f64::INFINITY;
    for bits in [4, 5, 6, 8] {
        let out = dir.path().join(format!("affine{bits}"));
        pack(&model, &out, Some(Affine { bits, group: 32 }));
        let apart =
            mean_square(values(&out).iter().zip(&expected).map(|(a, b)| f64::from(a - b))) / deviation(&expected);
        println!("{bits} bits: {apart:.2e} of the logits' variance");
        assert!(apart > 0.0 && apart < before / 2.0, "{bits} bits are {apart} apart, fewer bits {before}");
        before = apart;
        let checkpoint = Checkpoint::open(&out).unwrap_or_else(|error| panic!("{error}"));
        let stored = checkpoint.tensor("model.layers.0.mlp.experts.down_proj.weight").expect("packed under this name");
        assert_eq!(stored.shape, [16, 96, 128 * bits / 32]);
    }
    assert!(before < 1e-4, "8 bits are {before} of the logits' variance apart");
    // Whoever runs it is told.
    let told = |model: &Path| {
        let to = dir.path().join("logits.npy");
        let ran = outpour("logits", model, &["--ids", "1,2,3", "--out", to.to_str().expect("UTF-8")]);
        assert!(ran.status.success(), "{ran:?}");
        ran.stderr.contains("Lossy: experts requantised to affine8 in groups of 32")
    };
    assert!(told(&dir.path().join("affine8")) && !told(&model));
}

fn mean_square(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.map(|value| value * value).sum::<f64>() / count
}

#[test]
fn what_cannot_be_packed_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("out");
    let path = |path: &Path| path.to_str().expect("a UTF-8 path").to_owned();
    let refused = |name: &str, out: &Path, args: &[&str], names: &[&str]| {
        let out = path(out);
        let args = [&[out.as_str()], args].concat();
        assert_refused(&outpour("pack", &fixture(name), &args), name, names);
    };
    refused("qwen3_5_moe_mlx4", &out, &["--experts", "affine8"], &["model.layers.0.mlp.experts.gate_proj", "4 bits"]);
    refused("qwen3_moe_gptq", &out, &["--experts", "affine8"], &["model.layers.0.mlp.experts.gate_proj", "GPTQ"]);
    refused("qwen3moe_gguf", &out, &[], &["is of GGUF files", "in place"]);
    refused("qwen3_moe_odd", &out, &["--experts", "affine4"], &["gate_proj", "whole groups of 64"]);
    refused("qwen3_moe", &out, &["--experts", "affine7"], &["affine7"]);
    refused("qwen3_moe", &out, &["--group", "32"], &["--experts"]);
    refused("qwen3_moe", &out, &["--experts", "affine4", "--group", "48"], &["32, 64 or 128"]);
    let file = dir.path().join("file");
    fs::write(&file, "mine").expect("a file");
    refused("qwen3_moe", &file, &[], &["file", "is no folder", "name one"]);
    fs::create_dir(&out).expect("a folder");
    fs::write(out.join("mine.txt"), "mine").expect("a file");
    refused("qwen3_moe", &out, &[], &["mine.txt", "name a new one"]);
    assert_eq!(fs::read(out.join("mine.txt")).expect("it is still there"), b"mine");
    let packed = dir.path().join("packed");
    pack(&fixture("qwen3_moe"), &packed, None);
    refused("qwen3_next", &packed, &["--no-check"], &["another model"]);
    refused("qwen3_moe", &packed, &["--no-check", "--experts", "affine8", "--group", "32"], &["other flags"]);
    let again = outpour("pack", &fixture("qwen3_moe"), &[&path(&packed), "--no-check"]);
    assert!(again.status.success() && again.stderr.contains("already"), "{again:?}");
}

/// Flips a bit of each of these bytes, which depend on the file's length.
fn flip(path: &Path, places: impl Fn(usize) -> Vec<usize>) {
    let mut bytes = fs::read(path).expect("the file");
    for at in places(bytes.len()) {
        bytes[at] ^= 4;
    }
    fs::write(path, bytes).expect("written");
}

#[test]
fn every_flipped_bit_is_found() {
    let dir = tempfile::tempdir().expect("a folder");
    let (model, out) = (dir.path().join("model"), dir.path().join("out"));
    streamed_model(&model);
    pack(&model, &out, None);
    let npy = dir.path().join("logits.npy").to_str().expect("UTF-8").to_owned();
    let ids: Vec<String> = (0..60).map(|i| (i * 5 % 300).to_string()).collect();
    let args = ["--ids", &ids.join(","), "--out", &npy];
    assert!(outpour("verify", &out, &[]).status.success() && outpour("logits", &out, &args).status.success());
    let manifest: Value = serde_json::from_slice(&fs::read(out.join(MANIFEST)).expect("it")).expect("JSON");
    let files: Vec<&str> =
        manifest["files"].as_array().expect("files").iter().filter_map(|f| f["name"].as_str()).collect();
    assert!(files.len() >= 6, "{files:?}");
    for name in files {
        let path = out.join(name);
        let good = fs::read(&path).expect("the file");
        let experts = name.ends_with(".experts");
        // In the weights of every expert: some will be read. Or in the embedding, which begins the trunk.
        flip(
            &path,
            |bytes| if experts { (0..16).map(|e| bytes / 16 * e + 1000).collect() } else { vec![bytes / 20 * 3] },
        );
        let found = outpour("verify", &out, &[]);
        let said = String::from_utf8_lossy(&found.stdout).into_owned();
        assert_eq!(found.status.code(), Some(1), "{name}: {found:?}");
        assert!(said.contains(name) && said.contains("at byte"), "{said}");
        if experts || name.ends_with(".weights") {
            let ran = outpour("logits", &out, &args);
            assert_eq!(ran.status.code(), Some(1), "{name}: {ran:?}");
            let what = if experts { "expert " } else { "model." };
            assert!([name, what, "at byte", "checksum"].iter().all(|word| ran.stderr.contains(word)), "{}", ran.stderr);
            assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
            assert_eq!(
                said.matches(if experts { "expert " } else { "tensor model." }).count(),
                if experts { 16 } else { 1 }
            );
        }
        fs::write(&path, good).expect("written");
    }
    assert!(outpour("verify", &out, &[]).status.success());
    fs::remove_file(out.join("layer-001.experts")).expect("removed");
    // What is missing comes first, though a file before it is damaged.
    flip(&out.join("layer-000.experts"), |bytes| (0..16).map(|e| bytes / 16 * e + 1000).collect());
    let found = outpour("verify", &out, &[]);
    let said = String::from_utf8_lossy(&found.stdout).into_owned();
    assert_eq!(found.status.code(), Some(1));
    let first = said.lines().next().unwrap_or_default();
    assert!(first.matches("layer-001.experts").count() == 1 && first.contains("cannot open"), "{said}");
    assert_refused(&outpour("inspect", &out, &[]), "a file that is missing", &["layer-001.experts"]);
}

type Change = fn(&mut Value);

const DAMAGES: &[(&str, Change, &str)] = &[
    ("another version", |m| m["version"] = json!(9), "version 9"),
    ("no files", |m| drop(m.as_object_mut().expect("an object").remove("files")), "files"),
    ("a name with a folder", |m| m["files"][1]["name"] = json!("../layer-000.experts"), "no file name"),
    ("a name twice", |m| m["files"][1]["name"] = json!("trunk.weights"), "comes twice"),
    ("an exabyte", |m| m["files"][0]["bytes"] = json!(1u64 << 60), "bytes"),
    ("another size", |m| m["files"][0]["bytes"] = json!(100), "trunk.weights"),
    ("no record bytes", |m| m["files"][1]["record_bytes"] = json!(0), "records of 0"),
    ("odd record bytes", |m| m["files"][1]["record_bytes"] = json!(1000), "records of 1000"),
    ("small records", |m| m["files"][1]["record_bytes"] = json!(4096), "records of 4096"),
    (
        "a shape that overflows",
        |m| m["files"][1]["tensors"][0]["shape"] = json!([1u64 << 62, 1u64 << 62, 8]),
        "known type or size",
    ),
    ("no shape", |m| m["files"][1]["tensors"][0]["shape"] = json!([]), "does not fit records"),
    ("an offset that overflows", |m| m["files"][1]["tensors"][0]["offset"] = json!(u64::MAX), "known type or size"),
    ("an offset behind the record", |m| m["files"][1]["tensors"][0]["offset"] = json!(1 << 20), "of a record"),
    ("an offset behind the file", |m| m["files"][0]["tensors"][0]["offset"] = json!(1u64 << 40), "ends at byte"),
    ("an unknown type", |m| m["files"][0]["tensors"][0]["dtype"] = json!("F4"), "known type or size"),
    ("overlapping tensors", |m| m["files"][1]["tensors"][1]["offset"] = json!(64), "overlap"),
    (
        "a name of a tensor twice",
        |m| m["files"][1]["tensors"][1]["name"] = m["files"][1]["tensors"][0]["name"].clone(),
        "twice",
    ),
    ("no checksums", |m| m["files"][1]["xxh3"] = json!(""), "checksums"),
    ("too few checksums", |m| m["files"][1]["xxh3"] = json!("0123456789abcdef"), "checksums"),
    ("checksums that are none", |m| m["files"][1]["xxh3"] = json!("é".repeat(64)), "checksums"),
];

#[test]
fn damaged_manifests_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("out");
    pack(&fixture("qwen3_moe"), &out, None);
    let path = out.join(MANIFEST);
    let good = fs::read(&path).expect("the manifest");
    for (what, change, names) in DAMAGES {
        edit_json(&path, change);
        assert_refused(&outpour("inspect", &out, &[]), what, &[names]);
        fs::write(&path, &good).expect("written");
    }
    for bytes in (0..good.len()).step_by(good.len() / 12) {
        fs::write(&path, &good[..bytes]).expect("written");
        assert_refused(&outpour("inspect", &out, &[]), "cut short", &[MANIFEST]);
    }
    fs::rename(&path, out.join(UNFINISHED)).expect("renamed");
    assert_refused(&outpour("run", &out, &["x"]), "not finished", &["not finished", "outpour pack"]);
}

/// Every file of a folder.
fn content(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("a folder").flatten();
    entries
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("a file")))
        .collect()
}

#[test]
fn killed_at_any_point_it_goes_on() {
    // OUTPOUR_KILLS=2000 for a long run by hand.
    let kills_wanted = std::env::var("OUTPOUR_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let (model, whole) = (dir.path().join("model"), dir.path().join("whole"));
    streamed_model(&model);
    let args = |out: &Path| [out.to_str().expect("UTF-8").to_owned(), "--no-check".to_owned()];
    let pack = |out: &Path| {
        let args = args(out);
        command("pack", &model, &[&args[0], &args[1]])
    };
    let began = Instant::now();
    assert!(run(pack(&whole)).status.success());
    let took = began.elapsed();
    let expected = content(&whole);
    let (mut kills, mut finished, mut points, mut state) = (0, 0, BTreeSet::new(), 1u64);
    while kills < kills_wanted {
        let out = dir.path().join(format!("out-{finished}"));
        let mut child = pack(&out).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_secs_f64(
            took.as_secs_f64() * (state >> 33) as f64 / (1u64 << 31) as f64 * 0.7,
        ));
        child.kill().expect("killed or over");
        let status = child.wait().expect("waited for");
        if out.join(MANIFEST).exists() {
            assert_eq!(content(&out), expected, "after {kills} kills");
            finished += 1;
            fs::remove_dir_all(&out).expect("removed");
        } else {
            assert!(Checkpoint::open(&out).is_err(), "half a pack was taken for a whole one");
            let there = |name: &str| fs::read(out.join(name)).unwrap_or_default();
            let text = String::from_utf8(there(UNFINISHED)).expect("UTF-8");
            points.insert((text.matches("\"xxh3\":\"\"").count(), out.read_dir().map_or(0, Iterator::count)));
        }
        kills += usize::from(status.code().is_none());
    }
    let out = dir.path().join(format!("out-{finished}"));
    assert!(run(pack(&out)).status.success());
    assert_eq!(content(&out), expected, "at the end");
    println!("{kills} kills at {} states of the folder, {finished} packs finished between", points.len());
    assert!(points.len() >= 5 && finished >= 1, "the kills hit few points: {points:?}");
}

#[test]
fn a_file_that_may_not_grow_is_an_error() {
    let dir = tempfile::tempdir().expect("a folder");
    let [model, out] = ["model", "out"].map(|name| dir.path().join(name));
    streamed_model(&model);
    // 1 MiB, of 1.1 that a layer's experts take.
    let limited = "ulimit -f 1024 2>/dev/null && exec \"$0\" \"$@\"";
    let mut command = Command::new("bash");
    command.args(["-c", limited, env!("CARGO_BIN_EXE_outpour"), "pack"]).args([&model, &out]).arg("--no-check");
    let limited = run(command);
    assert_refused(&limited, "ulimit -f", &["layer-000.experts", "File too large", "ulimit -f"]);
    let whole = outpour("pack", &model, &[out.to_str().expect("UTF-8"), "--no-check"]);
    assert!(whole.status.success() && outpour("verify", &out, &[]).status.success(), "{whole:?}");
}

#[test]
fn what_is_whole_is_not_written_again_after_a_full_drive() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let (model, mount) = (dir.path().join("model"), dir.path().join("small"));
    streamed_model(&model);
    fs::create_dir(&mount).expect("a folder");
    let mounted = |options: &str| {
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&mount)
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    // The root, the pack's folder, the manifest, its next version: that leaves three of seven files.
    if !mounted("size=64m,nr_inodes=7") {
        println!("SKIPPED: this user may not mount a small file system");
        return;
    }
    let out = mount.join("out");
    let packed = || outpour("pack", &model, &[out.to_str().expect("UTF-8"), "--no-check"]);
    let full = packed();
    let before = content(&out);
    let modified = |name: &str| fs::metadata(out.join(name)).and_then(|metadata| metadata.modified()).expect("there");
    let manifest: Value = serde_json::from_slice(&before[UNFINISHED]).expect("JSON");
    let done = manifest["files"].as_array().expect("files").iter().filter(|file| file["xxh3"] != json!(""));
    let done = done.filter_map(|file| file["name"].as_str());
    let there: Vec<(String, _)> = done.map(|name| (name.to_owned(), modified(name))).collect();
    let again = packed();
    assert!(mounted("remount,size=64m,nr_inodes=100"), "it can be made larger");
    let whole = packed();
    let after: Vec<(String, _)> = there.iter().map(|(name, _)| (name.clone(), modified(name))).collect();
    let (works, after_all) = (outpour("verify", &out, &[]), content(&out));
    // Too small from the start: refused before anything is written.
    let small = dir.path().join("tiny");
    fs::create_dir(&small).expect("a folder");
    let tiny = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&small).status();
    let refused = outpour("pack", &model, &[small.join("out").to_str().expect("UTF-8"), "--no-check"]);
    let nothing = fs::read_dir(small.join("out")).map_or(0, Iterator::count);
    for place in [&mount, &small] {
        assert!(Command::new("umount").arg(place).status().is_ok_and(|status| status.success()));
    }
    for full in [full, again] {
        assert_refused(&full, "full", &["takes no more", "goes on where it was"]);
    }
    assert!(there.len() >= 2, "some files were whole: {there:?}");
    assert_eq!(there, after, "what was whole was written again");
    assert!(whole.status.success() && works.status.success(), "{whole:?} {works:?}");
    assert!(tiny.is_ok_and(|status| status.success()));
    let files = after_all.iter().filter(|(name, _)| *name != MANIFEST).map(|(_, bytes)| bytes.len() as u64);
    let needed = format!("the drive is full: {} more are needed", Bytes(files.sum()));
    assert_refused(&refused, "too small", &[&needed]);
    assert_eq!(nothing, 0);
}

#[test]
fn a_mirror_gives_the_same_bits_and_must_be_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let packed = dir.path().join("packed");
    pack(&fixture("qwen3_moe"), &packed, None);
    let text = |path: &Path| path.to_str().expect("a UTF-8 path").to_owned();
    let npy = text(&dir.path().join("logits.npy"));
    let logits = |model: &Path, mirrors: &[&Path]| {
        let mut args = vec!["--ids".to_owned(), "1,2,3,4,5,6,7".to_owned(), "--out".to_owned(), npy.clone()];
        args.extend(mirrors.iter().flat_map(|mirror| ["--mirror".to_owned(), text(mirror)]));
        outpour("logits", model, &args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    for model in [fixture("qwen3_moe"), packed.clone()] {
        assert!(logits(&model, &[]).status.success());
        let expected = fs::read(&npy).expect("logits");
        let copies = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
        for copy in &copies {
            for entry in fs::read_dir(&model).expect("the model").flatten() {
                fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copied");
            }
        }
        let ran = logits(&model, &[copies[0].path(), copies[1].path()]);
        assert!(ran.status.success(), "{ran:?}");
        assert!(fs::read(&npy).expect("logits") == expected, "other bits from three folders");
        let file = if model == packed { "layer-000.experts" } else { "model-00002-of-00003.safetensors" };
        let damaged = copies[1].path().join(file);
        let good = fs::read(&damaged).expect("the file");
        if model == packed {
            let wrong: Vec<u8> = good.iter().map(|byte| !byte).collect();
            fs::write(&damaged, wrong).expect("written");
            let ran = logits(&model, &[copies[1].path()]);
            let named =
                [damaged.to_string_lossy().into_owned(), format!("outpour verify {}", copies[1].path().display())];
            assert!(ran.status.success() && fs::read(&npy).expect("logits") == expected, "{ran:?}");
            assert!(named.iter().all(|name| ran.stderr.contains(name)), "{}", ran.stderr);
            assert!(!ran.stderr.contains(&*model.join(file).to_string_lossy()), "{}", ran.stderr);
        }
        fs::write(&damaged, &good[..good.len() - 1]).expect("written");
        assert_refused(&logits(&model, &[copies[1].path()]), "a shorter file", &[file]);
        fs::remove_file(&damaged).expect("removed");
        assert_refused(&logits(&model, &[copies[1].path()]), "a missing file", &[file]);
        assert_refused(&logits(&model, &[&model]), "the same folder", &["is no mirror", "same folder"]);
    }
    assert_refused(&logits(&fixture("qwen3_moe"), &[&packed]), "another layout", &["is missing in the mirror"]);
    assert_refused(&logits(&fixture("qwen3_next"), &[&fixture("qwen3_5_moe")]), "another model", &["qwen3_5_moe"]);
    let other = copy("qwen3_moe");
    edit_json(&other.path().join("config.json"), |config| config["rms_norm_eps"] = json!(1e-3));
    assert_refused(&logits(&fixture("qwen3_moe"), &[other.path()]), "another config", &["its config.json is another"]);
}

/// What a tool prints first.
fn first_word(tool: &str, args: &[&str], path: &Path) -> Option<String> {
    let output = Command::new(tool).args(args).arg(path).output().ok()?;
    String::from_utf8(output.stdout).ok()?.split_whitespace().next().map(str::to_owned)
}

#[test]
fn downloads_are_compared_with_the_hashes_of_the_hub() {
    let model = copy("qwen3_moe");
    let said = |what: &str| {
        let ran = outpour("verify", model.path(), &[]);
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        println!("{what}: {said}{}", ran.stderr);
        (ran.status.code(), said)
    };
    let (code, text) = said("nothing known");
    assert!(code == Some(0) && text.contains("Not compared") && text.contains("model-00002-of-00003.safetensors"));
    let (shard, config) = (model.path().join("model-00001-of-00003.safetensors"), model.path().join("config.json"));
    let (Some(sha256), Some(git)) =
        (first_word("sha256sum", &[], &shard), first_word("git", &["hash-object"], &config))
    else {
        println!("SKIPPED: neither sha256sum nor git here");
        return;
    };
    let folder = model.path().join(".cache/huggingface/download");
    fs::create_dir_all(&folder).expect("a folder");
    let note = |name: &str, hash: &str| {
        fs::write(folder.join(format!("{name}.metadata")), format!("0123abc\n{hash}\n1700000000.5\n"))
            .expect("written");
    };
    note("model-00001-of-00003.safetensors", &sha256);
    note("config.json", &git);
    let (code, text) = said("two known");
    assert!(code == Some(0) && !text.contains("model-00001-of") && text.contains("model-00002-of"), "{text}");
    let good = fs::read(&shard).expect("the shard");
    flip(&shard, |bytes| vec![bytes - 10]);
    let (code, text) = said("a flipped bit");
    assert!(code == Some(1) && text.contains("model-00001-of") && text.contains("download it again"), "{text}");
    fs::write(&shard, good).expect("written");
    fs::write(&config, [&fs::read(&config).expect("it")[..], b" "].concat()).expect("written");
    assert!(matches!(said("a space in config.json"), (Some(1), text) if text.contains("config.json")));
    // The hub's own cache: names of blobs that snapshots link to.
    let cache = tempfile::tempdir().expect("a folder");
    let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/main"));
    fs::create_dir_all(&blobs).and_then(|()| fs::create_dir_all(&snapshot)).expect("folders");
    for entry in fs::read_dir(fixture("qwen3_moe")).expect("the fixture").flatten() {
        let hash = first_word("sha256sum", &[], &entry.path()).expect("a hash");
        fs::copy(entry.path(), blobs.join(&hash)).expect("copied");
        std::os::unix::fs::symlink(blobs.join(&hash), snapshot.join(entry.file_name())).expect("linked");
    }
    let ran = outpour("verify", &snapshot, &[]);
    assert!(ran.status.success() && !String::from_utf8_lossy(&ran.stdout).contains("Not compared"), "{ran:?}");
    flip(&fs::canonicalize(snapshot.join("model-00003-of-00003.safetensors")).expect("a blob"), |bytes| {
        vec![bytes - 10]
    });
    assert_eq!(outpour("verify", &snapshot, &[]).status.code(), Some(1));
}
