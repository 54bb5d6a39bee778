//! The built-in model: it works wherever a model is named, from any folder, and says so where it cannot be laid out.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::{Npy, Recorded, engine, fixture, logits, roomy};
use outpour_engine::Options;
use outpour_store::read::ReaderKind;
use serde_json::Value;

/// Runs outpour in an empty folder with a cache folder of its own.
fn outpour(cache: &Path, args: &[&str]) -> Output {
    let elsewhere = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_outpour"));
    command.args(args).env("XDG_CACHE_HOME", cache).current_dir(elsewhere.path()).output().expect("outpour runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn it_tells_a_story_and_calls_the_right_tool_while_experts_stream() {
    let cache = tempfile::tempdir().expect("a folder");
    let ran = outpour(cache.path(), &["demo"]);
    let (stdout, stderr) = (text(&ran.stdout), text(&ran.stderr));
    assert!(ran.status.success(), "{stderr}");
    let (story, call) = stdout.split_once("<tool_call>").unwrap_or_else(|| panic!("a call: {stdout}"));
    assert!(story.contains("fox") && story.len() > 300 && story.trim_end().ends_with('.'), "{story}");
    let expected = "\n<function=set_alarm>\n<parameter=time>\n06:45\n</parameter>\n<parameter=day>\nMonday\n</parameter>\n</function>\n</tool_call>";
    assert_eq!(call.trim_end(), expected);
    assert_eq!(stderr.matches("(the model ended)").count(), 2, "{stderr}");
    // In so little memory experts are missed: each answer's summary says how many were hit.
    let hits: Vec<u32> =
        stderr.split(" % of experts hit").filter_map(|before| before.rsplit(' ').next()?.parse().ok()).collect();
    assert!(hits.len() == 2 && hits.iter().all(|&hit| hit < 100), "{hits:?} {stderr}");
}

#[test]
fn the_name_works_wherever_a_model_is_named() {
    let cache = tempfile::tempdir().expect("a folder");
    let pack = cache.path().join("pack");
    let pack = pack.to_str().expect("UTF-8");
    let npy = cache.path().join("logits.npy");
    let npy = npy.to_str().expect("UTF-8");
    for args in [
        &["run", "demo", "What is 12 + 30?", "--temperature", "0"][..],
        &["inspect", "demo"],
        &["plan", "demo", "--drive", "1G"],
        &["tokenize", "demo", "a fox"],
        &["logits", "demo", "--ids", "1,2,3", "--out", npy],
        &["bench", "demo", "-p", "16", "-n", "4", "-r", "1", "--ram", "64M"],
        &["doctor", "demo", "--quick"],
        &["pack", "demo", pack],
        &["verify", "demo"],
    ] {
        let ran = outpour(cache.path(), args);
        assert!(ran.status.success(), "{args:?}: {}", text(&ran.stderr));
        assert!(args[0] != "run" || text(&ran.stdout).contains("42"), "{}", text(&ran.stdout));
    }
}

#[test]
fn its_held_out_tasks_are_there_too() {
    let cache = tempfile::tempdir().expect("a folder");
    let args = ["eval", "demo", "--suite", "demo", "--limit", "12", "--against", "demo", "--against-precise", "--json"];
    let ran = outpour(cache.path(), &args);
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let report: Value = serde_json::from_slice(&ran.stdout).expect("JSON");
    assert!(report.to_string().contains("tool calls"), "{report:#}");
}

#[test]
fn a_cache_folder_that_cannot_be_written_is_named() {
    let cache = tempfile::tempdir().expect("a folder");
    let file = cache.path().join("file");
    fs::write(&file, "in the way").expect("written");
    let ran = outpour(&file, &["inspect", "demo"]);
    let stderr = text(&ran.stderr);
    assert_eq!(ran.status.code(), Some(2), "{stderr}");
    let line = stderr.lines().last().unwrap_or_default();
    assert!(
        line.contains("built-in model") && line.contains("XDG_CACHE_HOME") && line.contains("file/outpour"),
        "{line}"
    );
}

/// Transformers' logits of the bf16 original are in demo/fixtures; the original itself is 29 MB and not in the repository,
/// so its 4-bit form is held to them: the argmax of nearly all positions, and the greedy text of every prompt but the story's,
/// where many words would do.
#[test]
fn its_logits_are_near_those_of_the_original_in_transformers() {
    let demo = fixture("").join("../../demo");
    let reference: Value =
        serde_json::from_slice(&fs::read(demo.join("fixtures/reference.json")).expect("the reference")).expect("JSON");
    let wanted = Npy::read(&demo.join("fixtures/logits.npy"));
    let (vocab, wanted) = (wanted.shape[1], wanted.f32());
    let mut engine = engine(&demo.join("model"), &Options { precise: true, ..roomy() }, ReaderKind::Pread);
    let (mut rows, mut agreed) = (wanted.chunks_exact(vocab), 0);
    for case in reference["cases"].as_array().expect("a list") {
        let list = |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).expect("numbers") };
        let ids = [list("prompt_ids"), list("greedy_ids")].concat();
        let Recorded { logits: own, .. } = logits(&mut engine, &ids, ids.len());
        let best = |row: &[f32]| (0..vocab as u32).max_by(|&a, &b| row[a as usize].total_cmp(&row[b as usize]));
        let (greedy, first) = (list("greedy_ids"), list("prompt_ids").len() - 1);
        let chosen = own.chunks_exact(vocab).skip(first).zip(&greedy).filter_map(|(row, _)| best(row));
        assert!(case["name"] == "story" || chosen.eq(greedy.iter().copied()), "{}: other tokens", case["name"]);
        for position in list("positions") {
            let row = &own[position as usize * vocab..][..vocab];
            let wanted = rows.next().expect("a row for each position");
            let apart: f64 = row.iter().zip(wanted).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>() / vocab as f64;
            let deviation = case["logits_std"].as_f64().expect("a number");
            assert!(apart.sqrt() < 0.5 * deviation, "{}: {} of {deviation}", case["name"], apart.sqrt());
            agreed += usize::from(best(row) == best(wanted));
        }
    }
    let positions = wanted.len() / vocab;
    assert!(rows.next().is_none() && agreed * 10 >= positions * 9, "{agreed} of {positions} choose the same token");
}
