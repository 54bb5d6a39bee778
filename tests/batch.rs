//! A file of prompts, answered together: each line says what it would say alone, and none is answered twice.

mod common;

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::cli::{Ran, assert_refused, command, outpour};
use common::damage::copy_files;
use common::http::Server;
use common::random::random_model;
use serde_json::{Value, json};

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/model")
}

/// Lines of every form, some of which make no sense.
fn lines() -> Vec<String> {
    let words = ["fox", "owl", "river", "mountain", "letter", "lamp", "storm"];
    let line = |i: usize| {
        let text = format!("Tell me of the {} and the {} ", words[i % 7], words[i * 3 % 5]).repeat(1 + i * 5 % 7);
        let sampling = json!({"max_tokens": 5 + i % 20, "temperature": 0.9, "seed": i});
        let mut line = match i % 3 {
            0 => json!({"id": i, "prompt": text}),
            _ => json!({"custom_id": format!("line {i}"), "messages": [{"role": "user", "content": text}]}),
        };
        for (key, value) in sampling.as_object().expect("an object") {
            line[key] = value.clone();
        }
        if i % 3 == 2 {
            let custom_id = line.as_object_mut().and_then(|line| line.remove("custom_id"));
            line = json!({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": line});
        }
        line.to_string()
    };
    let mut lines: Vec<String> = (0..40).map(line).collect();
    let senseless = [
        "no JSON",
        "[]",
        "{\"id\": \"none\"}",
        "{\"prompt\": \"a\", \"url\": \"/metrics\"}",
        "{\"id\": \"hot\", \"prompt\": \"a\", \"temperature\": \"hot\"}",
    ];
    senseless.iter().enumerate().for_each(|(i, line)| lines.insert(7 * i, (*line).to_owned()));
    lines.insert(3, String::new());
    lines
}

struct Batch {
    dir: tempfile::TempDir,
}

impl Batch {
    fn of(lines: &[String]) -> Batch {
        let batch = Batch { dir: tempfile::tempdir().expect("a folder") };
        // As some editors write it.
        fs::write(batch.path("in.jsonl"), format!("\u{feff}{}", lines.join("\n"))).expect("written");
        batch
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn args(&self) -> [String; 3] {
        let path = |name: &str| self.path(name).to_str().expect("UTF-8").to_owned();
        [path("in.jsonl"), "--out".into(), path("out.jsonl")]
    }

    fn run(&self, model: &Path, more: &[&str]) -> Ran {
        let args = self.args();
        let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
        outpour("batch", model, &args)
    }

    /// The answers by their line; each line has one.
    fn answers(&self) -> HashMap<u64, Value> {
        let text = fs::read_to_string(self.path("out.jsonl")).expect("the answers");
        let mut answers = HashMap::new();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            let number = line["line"].as_u64().expect("a number");
            assert!(answers.insert(number, line).is_none(), "line {number} is answered once");
        }
        answers
    }
}

fn said(body: &Value) -> String {
    let choice = &body["choices"][0];
    format!("{}{}", choice["text"], choice["message"])
}

#[test]
fn each_line_says_what_it_says_alone() {
    let lines = lines();
    let server = Server::start(&demo(), &["--ram", "200M", "--threads", "2"]);
    let batches: Vec<Batch> = [&["--ram", "200M"][..], &["--ram", "90M", "--threads", "1", "--prefill-chunk", "16"]]
        .into_iter()
        .map(|more| {
            let batch = Batch::of(&lines);
            let ran = batch.run(&demo(), more);
            assert_eq!(ran.status.code(), Some(1), "lines that make no sense are told: {ran:?}");
            assert!(ran.stderr.contains("40 answered, 5 not"), "{}", ran.stderr);
            batch
        })
        .collect();
    for batch in &batches {
        let answers = batch.answers();
        assert_eq!(answers.len(), 45);
        for (i, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_empty()) {
            let answer = &answers[&(i as u64 + 1)];
            let asked: Value = serde_json::from_str(line).unwrap_or(Value::Null);
            let id = asked.get("custom_id").or(asked.get("id")).unwrap_or(&Value::Null);
            assert_eq!(&answer["custom_id"], id);
            let body = asked.get("body").unwrap_or(&asked);
            if !body["max_tokens"].is_number() {
                let (status, error) = (&answer["response"]["status_code"], &answer["error"]["message"]);
                assert!(*status == 400 || error.is_string(), "{answer}");
                continue;
            }
            let path = if body.get("messages").is_some() { "/v1/chat/completions" } else { "/v1/completions" };
            assert_eq!(answer["response"]["status_code"], 200, "{answer}");
            assert_eq!(said(&answer["response"]["body"]), said(&server.ask(path, body)), "line {}", i + 1);
        }
    }
}

#[test]
fn a_killed_batch_goes_on_where_it_was() {
    let lines = lines();
    let whole = Batch::of(&lines);
    let began = Instant::now();
    whole.run(&demo(), &["--ram", "200M"]);
    let time = began.elapsed();
    let expected = whole.answers();
    let batch = Batch::of(&lines);
    let mut lengths = Vec::new();
    for round in 1..7u32 {
        let mut child =
            command("batch", &demo(), &[]).args(batch.args()).args(["--ram", "200M"]).spawn().expect("it starts");
        std::thread::sleep(time * round / 8);
        let _ = child.kill();
        let _ = child.wait();
        lengths.push(fs::metadata(batch.path("out.jsonl")).map_or(0, |metadata| metadata.len()));
    }
    println!("bytes written when killed: {lengths:?}");
    // A line that a kill left unfinished.
    let mut text = fs::read(batch.path("out.jsonl")).expect("the answers");
    if text.iter().filter(|&&byte| byte == b'\n').count() > 1 {
        text.truncate(text.len() - 9);
        fs::write(batch.path("out.jsonl"), text).expect("cut");
    }
    let ran = batch.run(&demo(), &["--ram", "200M"]);
    assert!(lengths.last() == Some(&0) || !ran.stderr.contains(", 0 were answered before"), "{}", ran.stderr);
    let answers = batch.answers();
    assert_eq!(answers.len(), expected.len());
    for (number, answer) in &answers {
        assert_eq!(said(&answer["response"]["body"]), said(&expected[number]["response"]["body"]), "line {number}");
    }
    // All is there: nothing is loaded for long, nothing is written.
    let before = fs::read(batch.path("out.jsonl")).expect("the answers");
    let ran = batch.run(&demo(), &["--ram", "200M"]);
    assert!(
        ran.stderr.contains("0 answered, 5 not") && ran.stderr.contains("40 were answered before"),
        "{}",
        ran.stderr
    );
    assert_eq!(fs::read(batch.path("out.jsonl")).expect("the answers"), before);
}

#[test]
fn what_changed_is_answered_anew() {
    let line = |i: u64, text: &str| json!({"id": i, "prompt": text, "max_tokens": 3, "temperature": 0}).to_string();
    let mut lines = vec![line(1, "the fox"), line(2, "the owl"), line(2, "the owl")];
    let batch = Batch::of(&lines);
    let count = |ran: &Ran, said: &str| assert!(ran.stderr.contains(said), "{said:?} in {}", ran.stderr);
    count(&batch.run(&demo(), &["--ram", "200M"]), "3 answered, 0 not (their lines say why), 0 were");
    lines[0] = line(1, "the river");
    lines.push(line(3, "the lamp"));
    fs::write(batch.path("in.jsonl"), lines.join("\n")).expect("written");
    count(&batch.run(&demo(), &["--ram", "200M"]), "2 answered, 0 not (their lines say why), 2 were");
    count(&batch.run(&demo(), &["--ram", "200M", "--precise"]), "4 answered, 0 not (their lines say why), 0 were");
    count(&batch.run(&demo(), &["--ram", "200M", "--seed", "5"]), "4 answered, 0 not (their lines say why), 0 were");
    count(&batch.run(&demo(), &["--ram", "200M", "--backend", "reference"]), "4 answered, 0 not");
    let copy = batch.path("model");
    fs::create_dir(&copy).expect("a folder");
    copy_files(&demo(), &copy, |_| true);
    // A copy counts as another model.
    count(&batch.run(&copy, &["--ram", "200M"]), "4 answered, 0 not (their lines say why), 0 were");
    count(&batch.run(&copy, &["--ram", "200M"]), "0 answered, 0 not (their lines say why), 4 were");
    fs::write(copy.join("generation_config.json"), r#"{"temperature": 0.2}"#).expect("written");
    count(&batch.run(&copy, &["--ram", "200M"]), "4 answered, 0 not (their lines say why), 0 were");

    fs::write(batch.path("out.jsonl"), "my notes\n").expect("written");
    assert_refused(&batch.run(&demo(), &["--ram", "200M"]), "notes", &["out.jsonl line 1", "name another file"]);
    assert_eq!(fs::read_to_string(batch.path("out.jsonl")).expect("it"), "my notes\n");
    fs::write(batch.path("in.jsonl"), "\n").expect("written");
    assert_refused(&batch.run(&demo(), &["--ram", "200M"]), "no line", &["in.jsonl", "holds no prompt"]);
    fs::remove_file(batch.path("in.jsonl")).expect("removed");
    fs::remove_file(batch.path("out.jsonl")).expect("removed");
    assert_refused(&batch.run(&demo(), &["--ram", "200M"]), "no input", &["in.jsonl", "cannot open"]);
}

#[test]
fn lines_that_are_alike_are_told_apart() {
    let batch = Batch::of(&vec![json!({"prompt": "the fox", "max_tokens": 3}).to_string(); 4]);
    assert!(batch.run(&demo(), &["--ram", "200M"]).status.success());
    let out = batch.path("out.jsonl");
    let text = fs::read_to_string(&out).expect("the answers");
    let third = text.lines().find(|line| line.starts_with(r#"{"id":"batch_req_3""#) || line.contains(r#""line":3"#));
    fs::write(&out, format!("{}\n", third.expect("the third's"))).expect("written");
    let ran = batch.run(&demo(), &["--ram", "200M"]);
    assert!(ran.stderr.contains("3 answered") && ran.stderr.contains("1 were answered before"), "{}", ran.stderr);
    assert_eq!(batch.answers().into_keys().collect::<std::collections::BTreeSet<_>>(), (1..=4).collect());
}

/// The demo's answers to so many lines that are all the same.
fn same_lines(count: usize, more: &Value, flags: &[&str]) -> Vec<String> {
    let mut line = json!({"prompt": "Once upon a time", "max_tokens": 24, "temperature": 1});
    more.as_object().into_iter().flatten().for_each(|(key, value)| line[key] = value.clone());
    let batch = Batch::of(&vec![line.to_string(); count]);
    let ran = batch.run(&demo(), &[&["--ram", "200M"], flags].concat());
    assert_eq!(ran.status.code(), Some(0), "{}", ran.stderr);
    let answers = batch.answers();
    (1..=count as u64).map(|number| said(&answers[&number]["response"]["body"])).collect()
}

#[test]
fn lines_have_seeds_of_their_own() {
    let six = same_lines(6, &json!({}), &["--seed", "1"]);
    let distinct: std::collections::HashSet<&String> = six.iter().collect();
    assert_eq!(distinct.len(), 6, "{six:?}");
    assert_eq!(same_lines(1, &json!({"seed": 4}), &[]), six[2..3], "the third is that of seed 1 + 3");
}

#[test]
fn prompts_may_come_through_a_pipe() {
    let lines: Vec<String> =
        (0..3).map(|i| json!({"prompt": format!("Number {i}"), "max_tokens": 3, "seed": i}).to_string()).collect();
    let batch = Batch::of(&lines);
    let out = batch.path("out.jsonl");
    let mut command = command("batch", &demo(), &["-", "--out", out.to_str().expect("UTF-8"), "--ram", "200M"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    child.stdin.take().expect("a pipe").write_all(lines.join("\n").as_bytes()).expect("written");
    let ran = child.wait_with_output().expect("it ends");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(batch.answers().len(), 3);
}

#[test]
fn what_is_no_file_is_refused() {
    let batch = Batch::of(&lines());
    let input = batch.args()[0].clone();
    for (out, why) in [("-", "kept in a file"), ("/dev/full", "is no file")] {
        let ran = outpour("batch", &demo(), &[&input, "--out", out, "--ram", "200M"]);
        assert_refused(&ran, why, &[out, why]);
    }
    let out = batch.args()[2].clone();
    assert_refused(
        &outpour("batch", &demo(), &["/dev/zero", "--out", &out, "--ram", "200M"]),
        "/dev/zero",
        &["neither a file nor a pipe"],
    );
    let held = fs::File::create(&out).expect("created");
    held.lock().expect("locked");
    assert_refused(&batch.run(&demo(), &["--ram", "200M"]), "out", &["another `outpour batch` writes to it"]);
}

/// A stop, a full drive or a power cut may leave a part of a line, also of the first, or zeros in its place; nothing of
/// another file is cut off.
#[test]
fn a_torn_line_is_answered_again() {
    let line = json!({"prompt": "Once", "max_tokens": 3, "seed": 1}).to_string();
    for torn in ["{", "{\"id\":\"batch_req_1\",\"custom_id\":nu", "{\"id\":\"bat\0\0\0"] {
        let batch = Batch::of(std::slice::from_ref(&line));
        fs::write(batch.path("out.jsonl"), torn).expect("written");
        let ran = batch.run(&demo(), &["--ram", "200M"]);
        assert_eq!(ran.status.code(), Some(0), "{}", ran.stderr);
        assert_eq!(batch.answers().len(), 1);
        let answered = fs::read_to_string(batch.path("out.jsonl")).expect("there");
        fs::write(batch.path("out.jsonl"), answered.clone() + "\0\0\0").expect("written");
        let ran = batch.run(&demo(), &["--ram", "200M"]);
        assert_eq!(ran.status.code(), Some(0), "{}", ran.stderr);
        assert_eq!(fs::read_to_string(batch.path("out.jsonl")).expect("there"), answered);
    }
    for other in ["a note of mine", "{\"id\": 5}", "[1, 2]\n", "\0\0"] {
        let batch = Batch::of(std::slice::from_ref(&line));
        fs::write(batch.path("out.jsonl"), other).expect("written");
        assert_refused(&batch.run(&demo(), &["--ram", "200M"]), "out", &["is no answer of `outpour batch`"]);
        assert_eq!(fs::read_to_string(batch.path("out.jsonl")).expect("there"), other);
    }
}

/// What was refused is not asked again, and is still no success.
#[test]
fn refused_lines_stay_refused() {
    let batch = Batch::of(&[json!({"prompt": "Once", "max_tokens": 3, "seed": 1}).to_string(), "no JSON".into()]);
    for _ in 0..2 {
        let ran = batch.run(&demo(), &["--ram", "200M"]);
        assert_eq!(ran.status.code(), Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains("1 not (their lines say why)"), "{}", ran.stderr);
        assert_eq!(batch.answers().len(), 2);
    }
}

/// Bytes read for each token generated, as `batch` tells it, of lines that go to a model whose experts do not fit.
fn read_per_token(model: &Path, lines: &[Value]) -> f64 {
    let batch = Batch::of(&lines.iter().map(Value::to_string).collect::<Vec<_>>());
    let began = Instant::now();
    let ran = batch.run(model, &["--ram", "160M", "--ctx", "512", "--threads", "2"]);
    assert!(ran.status.success() && began.elapsed() < Duration::from_secs(60), "{ran:?}");
    let said = ran.stderr.split_once("with prompts, ").and_then(|(_, said)| said.split_once(" read for each"));
    let (number, unit) = said.and_then(|(said, _)| said.split_once(' ')).expect("a number of bytes");
    println!("{} together: {number} {unit} read for each token", lines.len());
    let units = [("B", 1.0), ("KiB", 1024.0), ("MiB", 1024.0 * 1024.0)];
    let unit = units.into_iter().find(|(name, _)| *name == unit).expect("a unit").1;
    let read = number.parse::<f64>().expect("a number") * unit;
    assert!(read > 0.0, "this model lies where no reads are counted: {}", model.display());
    read
}

/// A model on the drive that holds the build, for the folder of temporary files may be in memory.
fn model_on_drive() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let model = random_model(dir.path());
    (dir, model)
}

#[test]
fn one_read_of_an_expert_serves_all() {
    let (_dir, model) = model_on_drive();
    let line = |i: usize| json!({"prompt": format!("{i} fox owl "), "max_tokens": 24, "seed": i, "temperature": 1, "ignore_eos": true});
    let [alone, together] = [1, 32].map(|lines| read_per_token(&model, &(0..lines).map(line).collect::<Vec<_>>()));
    assert!(together < 0.7 * alone, "{together} bytes for each token together, {alone} alone");
}

#[test]
fn one_sweep_serves_all_prompts() {
    let (_dir, model) = model_on_drive();
    let line = |i: usize| json!({"prompt": format!("{i} fox owl river ").repeat(9), "max_tokens": 1, "temperature": 0});
    let [alone, together] = [1, 8].map(|lines| read_per_token(&model, &(0..lines).map(line).collect::<Vec<_>>()));
    let together = 8.0 * together;
    assert!(together < 3.0 * alone, "8 prompts read {together} bytes, one {alone}");
}
