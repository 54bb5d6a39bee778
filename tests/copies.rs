//! Copies of a model, as packs and on other drives: what is damaged, of another model, or written to while it is used is never
//! taken for the model; and experts of eight bits requantised.

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use common::cli::{assert_refused, outpour};
use common::{engine, roomy};
use outpour_engine::sample::argmax;
use outpour_engine::{Engine, Inspection, Options, Session};
use outpour_model::packing::Affine;
use outpour_model::synth;
use outpour_store::NOTICE;
use outpour_store::pack::MANIFEST;
use outpour_store::read::{self, ReaderKind};
use serde_json::{Value, json};

/// The weights of a small model that `synth` makes.
const WEIGHTS: &str = "model-00001-of-00001.safetensors";

/// 2 layers of 8 experts, and an embedding of 2 MiB that a small memory does not hold.
fn config(vocab: usize) -> Value {
    json!({
        "model_type": "qwen3_moe", "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 64, "moe_intermediate_size": 128,
        "num_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": true, "vocab_size": vocab,
        "max_position_embeddings": 512, "tie_word_embeddings": false,
    })
}

fn model(dir: &Path, vocab: usize, seed: u64) {
    synth::write(&config(vocab), dir, seed).expect("the model is written");
}

fn pack(model: &Path, out: &Path, requantise: Option<Affine>) {
    let inspection = Inspection::open(model, false).unwrap_or_else(|error| panic!("{error}"));
    let packed = inspection.pack(requantise, out, &mut |_, _| ControlFlow::Continue(()));
    assert!(packed.unwrap_or_else(|error| panic!("{error}")).flow.is_continue());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a folder");
    for entry in fs::read_dir(from).expect("the model").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
}

/// Changes bytes of a file in place.
fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("the file");
    change(&mut bytes);
    fs::write(path, bytes).expect("written");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// Where a tensor of a pack lies: its file's number, its first byte, and the bytes of its records.
fn packed_tensor(pack: &Path, name: &str) -> (usize, Option<u64>) {
    let manifest: Value = serde_json::from_slice(&fs::read(pack.join(MANIFEST)).expect("it")).expect("JSON");
    let tensors = manifest["files"][0]["tensors"].as_array().expect("tensors").clone();
    let tensor = tensors.into_iter().find(|tensor| tensor["name"] == name).expect("the tensor");
    (tensor["offset"].as_u64().expect("an offset") as usize, tensor["cut"].as_u64())
}

fn load(model: &Path, mirrors: &[PathBuf], ram: usize) -> Engine {
    let inspection = Inspection::open_mirrored(model, mirrors, false).unwrap_or_else(|error| panic!("{error}"));
    let options = Options { ram, threads: Some(2), ctx: Some(64), prefill_chunk: Some(16), ..roomy() };
    let reader = read::open_mirrored(ReaderKind::Auto, 1 + mirrors.len()).expect("a reader");
    Engine::load(inspection, &options, reader, &mut |_, _| ControlFlow::Continue(()))
        .unwrap_or_else(|error| panic!("{error}"))
}

/// The logits' bits after a prompt and each of some tokens, with every expert read anew for each; `between` before each.
fn bits(engine: &mut Engine, between: &mut dyn FnMut(usize)) -> Result<Vec<u32>, String> {
    let (mut session, mut bits) = (Session::open(engine), Vec::new());
    let mut ids: Vec<u32> = (0..30u32).map(|i| (i * i * 31 + 7 * i + 3) % engine.facts().vocab as u32).collect();
    for turn in 0..4 {
        between(turn);
        engine.drop_experts();
        session.sync(engine, &ids, &mut ()).map_err(|error| error.to_string())?;
        let logits = session.logits(engine, &mut ()).map_err(|error| error.to_string())?;
        bits.extend(logits.iter().map(|logit| logit.to_bits()));
        ids.push(argmax(logits));
    }
    session.close(engine);
    Ok(bits)
}

/// The least memory that a model runs in: the embedding stays on the drive there.
fn least(model: &Path, mirrors: &[PathBuf]) -> usize {
    let options = Options { threads: Some(2), ctx: Some(64), prefill_chunk: Some(16), ..roomy() };
    let inspection = Inspection::open_mirrored(model, mirrors, false).unwrap_or_else(|error| panic!("{error}"));
    inspection.plan(&options).unwrap_or_else(|error| panic!("{error}")).minimum_ram
}

#[test]
fn rows_of_the_embedding_are_checked() {
    let dir = tempfile::tempdir().expect("a folder");
    let [source, own, again, other] = ["model", "own", "again", "other"].map(|name| dir.path().join(name));
    model(&source, 8192, 3);
    pack(&source, &own, None);
    pack(&own, &again, None);
    copy(&own, &other);
    let manifest = fs::read(own.join(MANIFEST)).expect("the manifest");
    let (offset, cut) = packed_tensor(&own, "model.embed_tokens.weight");
    assert_eq!(cut, Some(4096));
    assert_eq!(packed_tensor(&again, "model.embed_tokens.weight").1, Some(4096));
    assert_eq!(packed_tensor(&own, "model.norm.weight").1, None);
    let ram = least(&own, &[]);
    let mut by_row = load(&own, &[], ram);
    assert!(by_row.plan().trunk.rows > 0, "the embedding is in memory, and its rows are not read");
    let expected = bits(&mut by_row, &mut |_| ()).expect("all is well");
    drop(by_row);
    assert_eq!(bits(&mut load(&source, &[], roomy().ram), &mut |_| ()).expect("all is well"), expected);
    let embedding = offset..offset + 8192 * 256 * 2;
    change(&other.join("trunk.weights"), |bytes| {
        bytes[embedding].iter_mut().step_by(64).for_each(|byte| *byte ^= 0x55);
    });
    let error = bits(&mut load(&other, &[], ram), &mut |_| ()).expect_err("every row is damaged");
    assert!(error.contains("trunk.weights: the embedding of token ") && error.contains("checksum"), "{error}");
    assert_eq!(outpour("verify", &other, &[]).status.code(), Some(1));
    // What is bad on one drive is read from the other one, whichever it is.
    for (model, mirror) in [(&own, &other), (&other, &own)] {
        let mirrors = std::slice::from_ref(mirror);
        for ram in [least(model, mirrors), roomy().ram] {
            let found = bits(&mut load(model, mirrors, ram), &mut |_| ());
            assert!(found.expect("the other drive has it") == expected, "other bits with {ram} bytes");
        }
    }
    // A pack of before rows were checked: its records are large, so the embedding stays in memory, and is checked there.
    let mut old: Value = serde_json::from_slice(&manifest).expect("JSON");
    let tensors = old["files"][0]["tensors"].as_array_mut().expect("tensors");
    tensors.iter_mut().for_each(|tensor| {
        tensor.as_object_mut().expect("a tensor").remove("cut");
    });
    let weights = fs::read(own.join("trunk.weights")).expect("the trunk");
    let sums = old["files"][0]["tensors"].as_array().expect("tensors").iter().map(|tensor| {
        let elements: u64 = tensor["shape"].as_array().expect("a shape").iter().filter_map(Value::as_u64).product();
        let (start, bytes) = (tensor["offset"].as_u64().expect("it") as usize, elements as usize * 2);
        let records = weights[start..start + bytes].chunks(4 << 20);
        records.map(|record| format!("{:016x}", outpour_store::checksums::checksum(record))).collect::<String>()
    });
    old["files"][0]["xxh3"] = sums.collect::<String>().into();
    fs::write(own.join(MANIFEST), old.to_string()).expect("written");
    assert!(outpour("verify", &own, &[]).status.success());
    let ram = least(&own, &[]);
    let mut old = load(&own, &[], ram);
    assert_eq!(old.plan().trunk.rows, 0);
    assert!(bits(&mut old, &mut |_| ()).expect("all is well") == expected);
}

#[test]
fn a_mirror_of_another_model_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let [one, two, trained, packed, others] = ["one", "two", "trained", "p1", "p2"].map(|name| dir.path().join(name));
    model(&one, 300, 1);
    model(&two, 300, 2);
    pack(&one, &packed, None);
    pack(&two, &others, None);
    // The same experts, other attention.
    copy(&one, &trained);
    let file = trained.join(WEIGHTS);
    change(&file, |bytes| {
        let header = u64::from_le_bytes(*bytes.first_chunk().expect("8 bytes")) as usize;
        let tensors: Value = serde_json::from_slice(&bytes[8..8 + header]).expect("JSON");
        let tensors = tensors.as_object().expect("tensors").iter();
        for (_, tensor) in tensors.filter(|(name, _)| name.ends_with("q_proj.weight")) {
            let [from, to] = [0, 1].map(|end| tensor["data_offsets"][end].as_u64().expect("an offset") as usize);
            bytes[8 + header..][from..to].iter_mut().for_each(|byte| *byte ^= 1);
        }
    });
    let npy = dir.path().join("logits.npy");
    let logits = |model: &Path, mirror: &Path| {
        outpour("logits", model, &["--ids", "1,2,3", "--out", text(&npy), "--mirror", text(mirror)])
    };
    for (model, mirror, file) in [(&one, &two, WEIGHTS), (&one, &trained, WEIGHTS), (&packed, &others, "trunk.weights")]
    {
        let names = [text(mirror), file, "holds other weights", "copy the file again"];
        assert_refused(&logits(model, mirror), "another model", &names);
    }
    for model in [&one, &packed] {
        let mirror = dir.path().join("mirror");
        copy(model, &mirror);
        let later = SystemTime::now() + Duration::from_secs(100);
        for entry in fs::read_dir(&mirror).expect("the mirror").flatten() {
            fs::File::options().write(true).open(entry.path()).expect("a file").set_modified(later).expect("set");
        }
        let ran = logits(model, &mirror);
        assert!(ran.status.success(), "a copy made later is one: {ran:?}");
        let flags = ["--ids", "1,2,3", "--out", text(&npy), "--mirror", text(&mirror), "--mirror", text(&mirror)];
        assert_refused(
            &outpour("logits", model, &flags),
            "twice the same",
            &[text(&mirror), "given as a mirror twice"],
        );
        fs::remove_dir_all(mirror).expect("removed");
    }
}

/// Changes a file's bytes.
type Damage<'a> = &'a dyn Fn(&mut Vec<u8>);

static NOTICES: Mutex<Vec<String>> = Mutex::new(Vec::new());

#[test]
fn a_drive_whose_pack_changes_is_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let [source, own] = ["model", "own"].map(|name| dir.path().join(name));
    model(&source, 8192, 3);
    pack(&source, &own, None);
    let notice = |line: &str| NOTICES.lock().expect("a lock").push(line.to_owned());
    assert!(NOTICE.set(notice).is_ok());
    let ram = least(&own, &[]);
    let expected = bits(&mut load(&own, &[], ram), &mut |_| ()).expect("all is well");
    let garbage = |bytes: &mut Vec<u8>| bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 3);
    let rounds: [(bool, &[&str], Damage); 4] = [
        (true, &["layer-000.experts", "trunk.weights"], &garbage),
        (true, &["layer-001.experts"], &cut),
        (false, &["layer-000.experts", "layer-001.experts", "trunk.weights"], &garbage),
        (false, &["trunk.weights", "layer-001.experts"], &cut),
    ];
    for (number, (mirror_changes, files, damage)) in rounds.into_iter().enumerate() {
        let [one, two] = ["one", "two"].map(|name| dir.path().join(format!("{name}-{number}")));
        copy(&own, &one);
        copy(&own, &two);
        let changing = if mirror_changes { two.clone() } else { one.clone() };
        let mirrors = std::slice::from_ref(&two);
        let mut engine = load(&one, mirrors, least(&one, mirrors));
        assert!(engine.plan().trunk.rows > 0);
        NOTICES.lock().expect("a lock").clear();
        let found = bits(&mut engine, &mut |turn| {
            if turn == 1 {
                files.iter().for_each(|file| change(&changing.join(file), damage));
            }
        });
        assert!(found.unwrap_or_else(|error| panic!("round {number}: {error}")) == expected, "round {number}");
        let notices = NOTICES.lock().expect("a lock").clone();
        // Of each file that brings wrong bytes one more may say so before.
        assert!(notices.iter().all(|notice| notice.contains(text(&changing))), "round {number}: {notices:?}");
        let left_alone = notices.iter().filter(|notice| notice.contains("left alone")).count();
        assert!(left_alone == 1 && notices.len() <= 1 + files.len(), "round {number}: {notices:?}");
        // Nothing is left that is as it was.
        let other = if mirror_changes { one } else { two };
        change(&other.join(files[0]), garbage);
        let error = bits(&mut engine, &mut |_| ()).expect_err("both have changed");
        assert!(error.contains(text(&other)), "{error}");
    }
    // Files without checksums: what was read of them may be wrong, so the answer ends.
    let [one, two] = ["plain-1", "plain-2"].map(|name| dir.path().join(name));
    copy(&source, &one);
    copy(&source, &two);
    let mut engine = load(&one, std::slice::from_ref(&two), roomy().ram);
    let error = bits(&mut engine, &mut |turn| {
        if turn == 1 {
            change(&two.join(WEIGHTS), garbage);
        }
    });
    let error = error.expect_err("it changed");
    assert!(error.contains(text(&two)) && error.contains("the file changed while it was in use"), "{error}");
}

#[test]
fn a_pack_of_a_damaged_pack_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let [source, good, bad, out] = ["model", "good", "bad", "out"].map(|name| dir.path().join(name));
    model(&source, 300, 3);
    pack(&source, &good, None);
    let copied = fs::read(good.join("config.json")).expect("it");
    for (file, at, what) in [
        ("layer-001.experts", 5000, "expert 0 of layer 1"),
        ("trunk.weights", 3000, "model."),
        ("config.json", copied.len() - 3, "config.json"),
    ] {
        copy(&good, &bad);
        // With a space more a config is the same.
        change(&bad.join(file), |bytes| match file {
            "config.json" => bytes.insert(at, b' '),
            _ => bytes[at] ^= 4,
        });
        for flags in [&["--no-check"][..], &["--no-check", "--experts", "affine4"]] {
            let ran = outpour("pack", &bad, &[&[text(&out)], flags].concat());
            assert!(ran.status.code().is_some_and(|code| code != 0), "{file}: {ran:?}");
            assert!(ran.stderr.contains(file) && ran.stderr.contains("checksum"), "{file}: {}", ran.stderr);
            assert!(ran.stderr.contains(what) && !out.join(MANIFEST).exists(), "{file}: {}", ran.stderr);
            let _ = fs::remove_dir_all(&out);
        }
        fs::remove_dir_all(&bad).expect("removed");
    }
    let ran = outpour("pack", &good, &[text(&out), "--no-check"]);
    assert!(ran.status.success() && outpour("verify", &out, &[]).status.success(), "{ran:?}");
}

#[test]
fn a_model_that_is_cut_short_while_it_is_packed_has_changed() {
    let dir = tempfile::tempdir().expect("a folder");
    let [source, out] = ["model", "out"].map(|name| dir.path().join(name));
    model(&source, 300, 3);
    let inspection = Inspection::open(&source, false).unwrap_or_else(|error| panic!("{error}"));
    change(&source.join(WEIGHTS), |bytes| bytes.truncate(bytes.len() / 2));
    let packed = inspection.pack(None, &out, &mut |_, _| ControlFlow::Continue(()));
    let error = packed.map(|_| ()).expect_err("half of it is gone").to_string();
    assert!(error.contains(WEIGHTS) && error.contains("the file changed while it was in use"), "{error}");
    assert!(!out.join(MANIFEST).exists());
}

#[test]
fn a_model_is_neither_packed_into_itself_nor_written_over() {
    let dir = tempfile::tempdir().expect("a folder");
    let [source, link] = ["model", "link"].map(|name| dir.path().join(name));
    model(&source, 300, 3);
    std::os::unix::fs::symlink(&source, &link).expect("a link");
    for out in [source.join("inside"), link.join("a/b"), source.clone(), source.join("x/../../model/y")] {
        let ran = outpour("pack", &source, &[text(&out), "--no-check"]);
        assert_refused(&ran, "a pack inside", &["own folder", "name one outside"]);
    }
    assert!(!source.join("inside").exists());
    let before = fs::read(source.join("config.json")).expect("it");
    let weights = fs::read(source.join(WEIGHTS)).expect("it");
    for file in ["config.json", WEIGHTS] {
        for path in [source.join(file), link.join(file)] {
            let names = [file, "name another"];
            let ids = ["--ids", "1,2,3", "--out"];
            assert_refused(&outpour("logits", &source, &[&ids[..], &[text(&path)]].concat()), "--out", &names);
            for flag in ["--trace-out", "--trace-routes"] {
                let args = ["--raw", "-n", "1", flag, text(&path), "x"];
                common::damage::add_text(&source);
                assert_refused(&outpour("run", &source, &args), flag, &names);
            }
        }
    }
    assert!(fs::read(source.join("config.json")).expect("it") == before);
    assert!(fs::read(source.join(WEIGHTS)).expect("it") == weights);
    let one = source.join("both.json");
    let args = ["--raw", "-n", "1", "--trace-out", text(&one), "--trace-routes", text(&one), "x"];
    assert_refused(&outpour("run", &source, &args), "one file for two", &["both.json", "a file of its own"]);
    assert!(!one.exists());
    // One that is not there yet may be made there.
    let ran = outpour("logits", &source, &["--ids", "1,2,3", "--out", text(&source.join("new.npy"))]);
    assert!(ran.status.success(), "{ran:?}");
}

/// The value of a byte of E4M3 (OCP FP8): a sign, four bits of exponent with a bias of 7, three of mantissa.
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7) / 8.0);
    let size = if exponent == 0 { mantissa * 2f32.powi(-6) } else { (1.0 + mantissa) * 2f32.powi(exponent - 7) };
    if byte & 0x80 == 0 { size } else { -size }
}

/// The nearest number of bfloat16, ties to even.
fn bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// A safetensors file of these tensors: name, type, shape, bytes.
fn safetensors(path: &Path, tensors: &[(String, String, Vec<usize>, Vec<u8>)]) {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        data.extend_from_slice(bytes);
    }
    let header = serde_json::to_vec(&header).expect("JSON");
    fs::write(path, [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()).expect("written");
}

/// Writes a model whose experts are codes of eight bits, and the same with their values in BF16: `of_code` gives a code's
/// value; a scale is of `block` rows and columns.
fn coded_twins(dirs: [&Path; 2], dtype: &str, scale: &str, block: [usize; 2], of_code: fn(u8) -> f32) {
    let [coded, plain] = dirs;
    model(coded, 300, 5);
    model(plain, 300, 5);
    let file = fs::read(plain.join(WEIGHTS)).expect("the model");
    let header = u64::from_le_bytes(*file.first_chunk().expect("8 bytes")) as usize;
    let tensors: Value = serde_json::from_slice(&file[8..8 + header]).expect("JSON");
    let (mut of_codes, mut of_values, mut state) = (Vec::new(), Vec::new(), 17u64);
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as u32
    };
    for (name, tensor) in tensors.as_object().expect("tensors").iter().filter(|(name, _)| *name != "__metadata__") {
        let shape: Vec<usize> =
            tensor["shape"].as_array().expect("a shape").iter().map(|dim| dim.as_u64().expect("it") as usize).collect();
        let [from, to] = [0, 1].map(|end| tensor["data_offsets"][end].as_u64().expect("an offset") as usize);
        let own = file[8 + header..][from..to].to_vec();
        if !name.contains(".experts.") {
            let own = (name.clone(), tensor["dtype"].as_str().expect("a type").to_owned(), shape, own);
            of_codes.push(own.clone());
            of_values.push(own);
            continue;
        }
        let (rows, cols) = (shape[0], shape[1]);
        let codes: Vec<u8> =
            (0..rows * cols).map(|_| random() as u8).map(|c| if c & 0x7f == 0x7f { 1 } else { c }).collect();
        let grid = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
        let scales: Vec<f32> =
            (0..grid[0] * grid[1]).map(|_| 1e-4 * (1.0 + (random() % 1000) as f32 / 500.0)).collect();
        let value = |i: usize| of_code(codes[i]) * scales[i / cols / block[0] * grid[1] + i % cols / block[1]];
        let values = (0..rows * cols).flat_map(|i| bf16(value(i)).to_le_bytes()).collect();
        let bytes = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        of_values.push((name.clone(), "BF16".to_owned(), shape.clone(), values));
        of_codes.push((name.replace(".weight", scale), "F32".to_owned(), grid.to_vec(), bytes));
        of_codes.push((name.clone(), dtype.to_owned(), shape, codes));
    }
    safetensors(&coded.join(WEIGHTS), &of_codes);
    safetensors(&plain.join(WEIGHTS), &of_values);
}

#[test]
fn codes_of_eight_bits_are_requantised_as_their_values_are() {
    type OfCode = fn(u8) -> f32;
    let signed: OfCode = |byte| f32::from(byte as i8);
    let forms: [(&str, &str, [usize; 2], OfCode); 3] = [
        ("F8_E4M3", ".weight_scale_inv", [128, 128], e4m3),
        ("F8_E4M3", ".weight_scale", [1, usize::MAX], e4m3),
        ("I8", ".weight_scale", [1, usize::MAX], signed),
    ];
    for (dtype, scale, block, of_code) in forms {
        let dir = tempfile::tempdir().expect("a folder");
        let [coded, plain] = ["coded", "plain"].map(|name| dir.path().join(name));
        coded_twins([&coded, &plain], dtype, scale, block, of_code);
        // The same numbers to begin with, so the test reads codes as the engine does.
        let options = Options { precise: true, ctx: Some(64), ..roomy() };
        let logits = |model: &Path| {
            let found = bits(&mut engine(model, &options, ReaderKind::Auto), &mut |_| ()).expect("all is well");
            found[..300].iter().map(|&bits| f64::from(f32::from_bits(bits))).collect::<Vec<f64>>()
        };
        let (ours, theirs) = (logits(&coded), logits(&plain));
        let apart: f64 = ours.iter().zip(&theirs).map(|(a, b)| (a - b).powi(2)).sum();
        let size: f64 = theirs.iter().map(|value| value.powi(2)).sum();
        assert!(apart < 1e-4 * size, "{dtype}{scale}: {apart} of {size}");
        for bits in [4, 5, 6, 8] {
            let affine = Some(Affine { bits, group: 64 });
            let [from_codes, from_values] = ["c", "v"].map(|name| dir.path().join(format!("{name}{bits}")));
            pack(&coded, &from_codes, affine);
            pack(&plain, &from_values, affine);
            for file in ["layer-000.experts", "layer-001.experts"] {
                let [ours, theirs] = [&from_codes, &from_values].map(|pack| fs::read(pack.join(file)).expect("it"));
                assert!(ours == theirs, "{dtype}{scale} in {bits} bits: {file} is another");
            }
            load(&from_codes, &[], roomy().ram);
        }
    }
}

#[test]
fn requantising_codes_says_what_it_costs() {
    let dir = tempfile::tempdir().expect("a folder");
    let [coded, plain, out] = ["coded", "plain", "out"].map(|name| dir.path().join(name));
    coded_twins([&coded, &plain], "F8_E4M3", ".weight_scale_inv", [128, 128], e4m3);
    let ran = outpour("pack", &coded, &[text(&out), "--no-check", "--experts", "affine4"]);
    assert!(ran.status.success() && ran.stderr.contains("Lossy") && ran.stderr.contains("outpour eval"), "{ran:?}");
}
