//! States on a drive: found again by their tokens, the same to the bit, and never taken for others.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::cli::{assert_refused, outpour};
use common::damage::copy_with_text;
use common::{engine, fixture, is_root, roomy};
use outpour_engine::sample::argmax;
use outpour_engine::{Engine, Options, SequenceId, Snapshots, Work};
use outpour_kernels::DType;
use outpour_model::synth;
use outpour_store::read::{self, ReaderKind};
use serde_json::json;

/// Layers with keys and values only, with windows, with recurrent states, and with latents.
const MODELS: [&str; 8] =
    ["qwen3_moe", "gpt_oss", "gemma3", "qwen3_next", "kimi_linear", "minimax", "nemotron_h", "deepseek_v3"];

const ROOM: u64 = 1 << 30;

fn ids(count: u32) -> Vec<u32> {
    (0..count).map(|i| (i * i * 31 + 7 * i + 3) % 60).collect()
}

fn open(model: &Path) -> Engine {
    engine(model, &Options { ctx: Some(400), prefill_chunk: Some(64), ..roomy() }, ReaderKind::Auto)
}

fn compute(engine: &mut Engine, sequence: SequenceId, tokens: &[u32]) {
    engine.enqueue(sequence, tokens, Work::Prompt).expect("it fits");
    while engine.logits(sequence).is_none() {
        engine.tick(&mut ()).expect("it is computed");
    }
}

/// Some tokens after what a sequence holds, and the bits of the last logits.
fn go_on(engine: &mut Engine, sequence: SequenceId) -> (Vec<u32>, Vec<u32>) {
    let mut said = Vec::new();
    for _ in 0..6 {
        said.push(argmax(engine.logits(sequence).expect("logits")));
        compute(engine, sequence, &said[said.len() - 1..]);
    }
    let bits = engine.logits(sequence).expect("logits").iter().map(|logit| logit.to_bits()).collect();
    engine.close_sequence(sequence);
    (said, bits)
}

fn alone(engine: &mut Engine, tokens: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let sequence = engine.open_sequence();
    compute(engine, sequence, tokens);
    go_on(engine, sequence)
}

/// Computes tokens and keeps their state; returns the problems.
fn keep(engine: &mut Engine, snapshots: &mut Snapshots, tokens: &[u32]) -> Vec<String> {
    let sequence = engine.open_sequence();
    compute(engine, sequence, tokens);
    let mut saving = snapshots.begin(engine, tokens);
    while snapshots.write_next(engine, sequence, &mut saving) {}
    engine.close_sequence(sequence);
    snapshots.take_problems()
}

/// Answers with what the drive holds; returns how much that was.
fn resume(engine: &mut Engine, snapshots: &mut Snapshots, tokens: &[u32]) -> (usize, (Vec<u32>, Vec<u32>)) {
    let restored = snapshots.restore(engine, tokens, 0);
    let (sequence, found) = restored.unwrap_or_else(|| (engine.open_sequence(), 0));
    compute(engine, sequence, &tokens[found..]);
    (found, go_on(engine, sequence))
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).expect("the folder").map(|entry| entry.expect("one").path()).collect();
    files.sort();
    files
}

fn bytes_of(dir: &Path) -> u64 {
    files(dir).iter().map(|file| fs::metadata(file).expect("a file").len().next_multiple_of(4096)).sum()
}

#[test]
fn every_kind_of_state_comes_back_to_the_bit_after_a_restart() {
    for name in MODELS {
        let (model, dir) = (fixture(name), tempfile::tempdir().expect("a folder"));
        let (long, ids) = (ids(220), ids(150));
        let mut first = open(&model);
        let expected = [&ids, &long].map(|tokens| alone(&mut first, tokens));
        let mut snapshots = Snapshots::open(dir.path(), ROOM).expect("a folder");
        assert!(keep(&mut first, &mut snapshots, &ids).is_empty());
        let goes_back = first.goes_back();
        drop((first, snapshots));

        let mut engine = open(&model);
        let mut snapshots = Snapshots::open(dir.path(), ROOM).expect("a folder");
        assert_eq!(snapshots.bytes(), bytes_of(dir.path()), "{name}");
        let (found, said) = resume(&mut engine, &mut snapshots, &long);
        assert_eq!((found, &said), (150, &expected[1]), "{name}: a longer prompt computes what is new");
        // The last token is always computed: of the same prompt, keys and values serve up to the last full block.
        let (found, said) = resume(&mut engine, &mut snapshots, &ids);
        assert_eq!((found, &said), (if goes_back { 128 } else { 0 }, &expected[0]), "{name}: the same prompt");
        let other: Vec<u32> = ids[..70].iter().copied().chain(long[..70].iter().map(|id| id + 1)).collect();
        let (found, said) = resume(&mut engine, &mut snapshots, &other);
        assert_eq!((found, said), (if goes_back { 64 } else { 0 }, alone(&mut engine, &other)), "{name}: another end");
        assert!(snapshots.take_problems().is_empty(), "{name}");
        let before = bytes_of(dir.path());
        assert!(keep(&mut engine, &mut snapshots, &ids).is_empty());
        assert_eq!(bytes_of(dir.path()), before, "{name}: what is there is not written again");
    }
}

#[test]
fn another_model_or_other_numerics_find_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = json!({
        "model_type": "qwen3_moe", "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 64, "moe_intermediate_size": 64,
        "num_experts": 8, "num_experts_per_tok": 4, "norm_topk_prob": true, "vocab_size": 300,
        "max_position_embeddings": 512,
    });
    let models = [1, 2].map(|seed| {
        let model = tempfile::tempdir().expect("a folder");
        synth::write(&config, model.path(), seed).expect("the model is written");
        model
    });
    let options = Options { ctx: Some(400), ..roomy() };
    let load = |model: usize, kv: Option<DType>, precise: bool, top_k: Option<usize>| {
        let numerics = outpour_engine::Numerics { precise, kv, top_k };
        let inspection = outpour_engine::Inspection::open(models[model].path(), numerics).expect("a model");
        let reader = read::open(ReaderKind::Auto).expect("a reader");
        let options = Options { precise, ..options };
        Engine::load(inspection, &options, reader, &mut |_, _| std::ops::ControlFlow::Continue(())).expect("it loads")
    };
    let ids = ids(150);
    let mut snapshots = Snapshots::open(dir.path(), ROOM).expect("a folder");
    keep(&mut load(0, None, false, None), &mut snapshots, &ids);
    let mut found = |engine: &mut Engine| resume(engine, &mut snapshots, &ids).0;
    assert_eq!(found(&mut load(1, None, false, None)), 0, "other weights of the same shape and size");
    assert_eq!(found(&mut load(0, Some(DType::Q8), false, None)), 0, "--kv q8");
    assert_eq!(found(&mut load(0, Some(DType::Bf16), false, None)), 0, "--kv bf16, as large as f16");
    assert_eq!(found(&mut load(0, None, true, None)), 0, "--precise");
    assert_eq!(found(&mut load(0, Some(DType::F16), true, None)), 0, "--precise --kv f16");
    assert_eq!(found(&mut load(0, None, false, Some(2))), 0, "--top-k-experts");
    assert_eq!(found(&mut load(0, None, false, None)), 128, "and the same finds it");
}

#[test]
fn damaged_records_are_said_once_and_computed_anew() {
    for name in ["qwen3_moe", "qwen3_next", "gpt_oss"] {
        let (model, long, ids) = (fixture(name), ids(220), ids(150));
        let mut engine = open(&model);
        let expected = alone(&mut engine, &long);
        let goes_back = engine.goes_back();
        let probe = tempfile::tempdir().expect("a folder");
        keep(&mut engine, &mut Snapshots::open(probe.path(), ROOM).expect("a folder"), &ids);
        for file in 0..files(probe.path()).len() {
            for damage in 0..3 {
                let dir = tempfile::tempdir().expect("a folder");
                let mut snapshots = Snapshots::open(dir.path(), ROOM).expect("a folder");
                keep(&mut engine, &mut snapshots, &ids);
                let path = &files(dir.path())[file];
                let mut bytes = fs::read(path).expect("the file");
                match damage {
                    0 => {
                        let middle = bytes.len() / 2;
                        bytes[middle] ^= 1;
                    }
                    1 => bytes.truncate(bytes.len() - 9),
                    _ => bytes.clear(),
                }
                fs::write(path, &bytes).expect("written");
                let (found, said) = resume(&mut engine, &mut snapshots, &long);
                assert!(found < 150 && (goes_back || found == 0), "{name}: {found}");
                assert_eq!(said, expected, "{name}: damage {damage} of {}", path.display());
                let problems = snapshots.take_problems();
                assert_eq!(problems.len(), 1, "{problems:?}");
                assert!(problems[0].starts_with(&path.display().to_string()), "{problems:?}");
                assert!(!path.exists() && !problems[0].contains('\n'), "{problems:?}");
                resume(&mut engine, &mut snapshots, &long);
                assert!(snapshots.take_problems().is_empty(), "it is said once");
                keep(&mut engine, &mut snapshots, &ids);
                assert_eq!(resume(&mut engine, &mut snapshots, &long).0, 150, "{name}: it is kept again");
            }
        }
        // A record in the place of another one of the same size is another record.
        let dir = tempfile::tempdir().expect("a folder");
        let mut snapshots = Snapshots::open(dir.path(), ROOM).expect("a folder");
        let other: Vec<u32> = ids.iter().map(|id| (id + 1) % 60).collect();
        keep(&mut engine, &mut snapshots, &ids);
        let first = files(dir.path());
        keep(&mut engine, &mut snapshots, &other);
        for file in files(dir.path()).iter().filter(|file| !first.contains(file)) {
            fs::remove_file(file).expect("removed");
        }
        let found = resume(&mut engine, &mut snapshots, &other).0;
        assert_eq!(
            (found, snapshots.take_problems().len()),
            (0, 0),
            "{name}: what another process removed is not there"
        );
    }
}

#[test]
fn the_bound_holds_and_what_was_not_used_for_longest_goes() {
    let (model, dir) = (fixture("qwen3_moe"), tempfile::tempdir().expect("a folder"));
    let mut engine = open(&model);
    let prompt = |i: u32| -> Vec<u32> { ids(150).iter().map(|id| (id + i) % 60).collect() };
    let mut snapshots = Snapshots::open(dir.path(), ROOM).expect("a folder");
    keep(&mut engine, &mut snapshots, &prompt(0));
    let one = snapshots.bytes();
    let room = 3 * one + one / 2;
    drop(snapshots);
    let mut snapshots = Snapshots::open(dir.path(), room).expect("a folder");
    for i in 1..8 {
        assert!(keep(&mut engine, &mut snapshots, &prompt(i)).is_empty());
        let bytes = bytes_of(dir.path());
        assert!(bytes <= room && bytes == snapshots.bytes(), "{bytes} of {room}");
        assert!(resume(&mut engine, &mut snapshots, &prompt(0)).0 > 0, "what is used stays ({i})");
        if i > 3 {
            assert_eq!(resume(&mut engine, &mut snapshots, &prompt(i - 3)).0, 0, "what is not used goes ({i})");
        }
    }
    drop(snapshots);
    let mut snapshots = Snapshots::open(dir.path(), one).expect("a folder");
    assert!(bytes_of(dir.path()) <= one, "a smaller bound holds at once");
    assert_eq!(resume(&mut engine, &mut snapshots, &prompt(0)).0, 128, "and the order is known after a restart");
    drop(snapshots);
    let mut snapshots = Snapshots::open(dir.path(), one / 2).expect("a folder");
    let problems = keep(&mut engine, &mut snapshots, &prompt(9));
    assert!(problems.len() == 1 && problems[0].contains("--state-size"), "{problems:?}");
    assert!(keep(&mut engine, &mut snapshots, &prompt(10)).is_empty(), "it is said once");
}

/// The blocks of a conversation that grows, in a room that holds it just so, are not given up for its end.
#[test]
fn a_prefix_that_is_there_already_stays_while_it_grows() {
    let (model, dir) = (fixture("qwen3_moe"), tempfile::tempdir().expect("a folder"));
    let (mut engine, long) = (open(&model), ids(320));
    let probe = tempfile::tempdir().expect("a folder");
    let mut snapshots = Snapshots::open(probe.path(), ROOM).expect("a folder");
    keep(&mut engine, &mut snapshots, &long);
    let room = snapshots.bytes() + snapshots.bytes() / 4;
    let mut snapshots = Snapshots::open(dir.path(), room).expect("a folder");
    keep(&mut engine, &mut snapshots, &long[..200]);
    let other: Vec<u32> = ids(100).iter().map(|id| id + 1).collect();
    keep(&mut engine, &mut snapshots, &other);
    keep(&mut engine, &mut snapshots, &long);
    assert!(bytes_of(dir.path()) <= room);
    let longer: Vec<u32> = long.iter().copied().chain([1, 2, 3]).collect();
    assert_eq!(resume(&mut engine, &mut snapshots, &longer).0, 320, "all of it is there");
}

#[test]
fn a_full_drive_keeps_less_and_stops_nothing() {
    if !is_root() {
        println!("skipped: a small file system wants root");
        return;
    }
    let (model, dir) = (fixture("qwen3_moe"), tempfile::tempdir().expect("a folder"));
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(dir.path()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("skipped: a small file system cannot be mounted here");
        return;
    }
    let mut engine = open(&model);
    let mut snapshots = Snapshots::open(dir.path(), ROOM).expect("a folder");
    let prompts: Vec<Vec<u32>> = (0..6).map(|i| ids(150).iter().map(|id| (id + i) % 60).collect()).collect();
    let problems: Vec<String> = prompts.iter().flat_map(|prompt| keep(&mut engine, &mut snapshots, prompt)).collect();
    let whole = files(dir.path());
    let answers = prompts.iter().all(|prompt| {
        let expected = alone(&mut engine, prompt);
        resume(&mut engine, &mut snapshots, prompt).1 == expected
    });
    // They hold the folder.
    drop(snapshots);
    let unmounted = Command::new("umount").arg(dir.path()).status().expect("umount runs");
    assert!(unmounted.success());
    assert!(problems.len() == 1 && problems[0].contains("free some space"), "{problems:?}");
    assert!(whole.iter().all(|file| !file.to_string_lossy().contains("under-way")), "nothing half-written: {whole:?}");
    assert!(answers, "answers are the same");
}

#[test]
fn a_process_that_is_killed_while_it_writes_leaves_nothing_that_is_wrong() {
    let dir = tempfile::tempdir().expect("a folder");
    let stale = dir.path().join(format!("{}abc", outpour_store::sealed::UNDER_WAY));
    let (fresh, foreign) = (dir.path().join(".outpour-under-way-new"), dir.path().join("notes.txt"));
    for path in [&stale, &fresh, &foreign] {
        fs::write(path, "half").expect("written");
    }
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    fs::File::open(&stale).and_then(|file| file.set_modified(long_ago)).expect("an old file");
    let snapshots = Snapshots::open(dir.path(), ROOM).expect("a folder");
    assert_eq!(snapshots.bytes(), 0);
    assert!(!stale.exists(), "what was left long ago goes");
    assert!(fresh.exists() && foreign.exists(), "what another process may be writing, and what is not ours, stays");
}

/// One turn of a conversation in a file: what was thought and said, the tokens that were found, and what was told.
fn turn(model: &Path, file: &Path, prompt: &str, more: &[&str]) -> (String, usize, String) {
    let args = [
        &[prompt, "--session", file.to_str().expect("UTF-8"), "--ram", "200M", "-n", "12", "--temperature", "0"],
        more,
    ];
    let ran = outpour("run", model, &args.concat());
    assert!(ran.status.success(), "{ran:?}");
    let found = ran.stderr.split_once(" of them kept").map_or(0, |(before, _)| {
        before.rsplit_once(' ').and_then(|(_, number)| number.parse().ok()).expect("a number")
    });
    let talk: serde_json::Value = serde_json::from_slice(&fs::read(file).expect("the file")).expect("JSON");
    let said = talk["messages"].as_array().and_then(|messages| messages.last()).expect("an answer");
    (said.to_string(), found, ran.stderr)
}

/// What is done to a file.
type Damage = fn(&mut Vec<u8>);

#[test]
fn a_conversation_in_a_file_goes_on_with_its_state() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/model");
    let random = tempfile::tempdir().expect("a folder");
    let models = [demo, common::random::random_model(random.path())];
    for model in &models {
        let dir = tempfile::tempdir().expect("a folder");
        let (file, state) = (dir.path().join("talk.json"), dir.path().join("talk.json.state"));
        let first = turn(model, &file, "Tell me a story about a fox.", &["--system", &"Be kind. ".repeat(30)]);
        for path in [&file, &state] {
            let mode = fs::metadata(path).expect("it").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{} is its owner's alone", path.display());
        }
        assert_eq!(first.1, 0);
        let (talk, kept) = (fs::read(&file).expect("the file"), fs::read(&state).expect("the state"));
        let back = || fs::write(&file, &talk).expect("written");
        fs::remove_file(&state).expect("removed");
        let (expected, none, _) = turn(model, &file, "And then?", &[]);
        assert_eq!(none, 0, "without the state all is computed");

        let cases: [(&str, Damage, &[&str]); 5] = [
            ("", |_| {}, &[]),
            ("damaged", |bytes| bytes.truncate(bytes.len() / 2), &[]),
            ("damaged", |bytes| bytes[5000] ^= 1, &[]),
            ("damaged", |bytes| bytes.clear(), &[]),
            ("this is", |_| {}, &["--kv", "q8"]),
        ];
        for (word, damage, more) in cases {
            back();
            let mut bytes = kept.clone();
            damage(&mut bytes);
            fs::write(&state, bytes).expect("written");
            let (said, found, stderr) = turn(model, &file, "And then?", more);
            assert!(more.len() == 2 || said == expected, "{word}: {said:?} and not {expected:?}");
            match word {
                "" => assert!(found > 60, "{found} tokens are found: {stderr}"),
                word => {
                    let line = stderr.lines().find(|line| line.contains("talk.json.state")).expect("it is said");
                    assert!(found == 0 && line.contains(word) && line.contains("computed anew"), "{line}");
                }
            }
            let talk: serde_json::Value = serde_json::from_slice(&fs::read(&file).expect("it")).expect("JSON");
            assert_eq!(talk["messages"].as_array().map(Vec::len), Some(5), "{talk}");
            let third = turn(model, &file, "Why?", more);
            assert!(third.1 > 60, "it is kept again: {}", third.2);
        }
        assert_eq!(files(dir.path()).len(), 2, "nothing else is left");
    }
}

#[test]
fn the_plan_tells_what_states_take() {
    let (model, dir) = (fixture("qwen3_next"), tempfile::tempdir().expect("a folder"));
    let path = dir.path().join("states");
    let args = ["--state-dir", path.to_str().expect("UTF-8"), "--state-size", "1G", "--ram", "200M", "--drive", "1G"];
    let ran = outpour("plan", &model, &args);
    let text = String::from_utf8(ran.stdout).expect("text");
    assert!(text.contains("On the drive,") && text.contains("GiB for states"), "{text}");
    let plan = |args: &[&str]| -> serde_json::Value {
        serde_json::from_slice(&outpour("plan", &model, args).stdout).expect("JSON")
    };
    let (with, without) = (plan(&[&args[..], &["--json"]].concat()), plan(&[&args[4..], &["--json"]].concat()));
    assert_eq!((&with["state_dir_bytes_max"], &without["state_dir_bytes_max"]), (&json!(1 << 30), &json!(null)));
    assert!(with["state_fixed_bytes"].as_u64() > Some(0) && with["state_bytes_per_token"].as_u64() > Some(0));
    let process = |plan: &serde_json::Value| {
        let buffers = plan["buffers"].as_array().expect("buffers");
        let line = buffers.iter().find(|line| line["name"] == "process").expect("a line");
        line["bytes"].as_u64().expect("bytes")
    };
    assert!(process(&with) > process(&without) + (8 << 20), "what writing them takes is counted");
    assert!(!path.exists(), "a plan makes no folder");
}

#[test]
fn what_is_no_conversation_is_refused_and_kept() {
    let (model, dir) = (copy_with_text("qwen3_moe"), tempfile::tempdir().expect("a folder"));
    let file = dir.path().join("talk.json");
    let path = file.to_str().expect("UTF-8");
    for content in ["", "my notes", "{}", "{\"messages\": [1]}"] {
        fs::write(&file, content).expect("written");
        let ran = outpour("run", model.path(), &["Hi", "--session", path, "--ram", "200M"]);
        assert_refused(&ran, content, &["talk.json", "holds no conversation"]);
        assert_eq!(fs::read_to_string(&file).expect("it"), content);
    }
    fs::write(&file, json!({"messages": [{"role": "user", "content": "a"}]}).to_string()).expect("written");
    let ran = outpour("run", model.path(), &["Hi", "--session", path, "--system", "x", "--ram", "200M"]);
    assert_refused(&ran, "a second system message", &["--system", "has begun already"]);
}
