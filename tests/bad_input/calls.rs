//! Flags, prompts, and places to write to.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use super::common::cli::{Ran, command, run, wait};
use super::*;

/// Asserts that a flag is refused in one line that names it, with exit code 2.
fn assert_usage(ran: &Ran, flag: &str) {
    assert_eq!(ran.status.code(), Some(2), "{ran:?}");
    assert!(
        ran.stderr.starts_with("outpour: ") && ran.stderr.lines().count() == 1 && ran.stderr.contains(flag),
        "{ran:?}"
    );
    assert!(ran.stdout.is_empty(), "{ran:?}");
}

#[test]
fn flags_without_sense() {
    let model = copy_with_text("qwen3_moe");
    for (flag, value) in [
        ("--ram", "x"),
        ("--ram", "-1"),
        ("--ram", "1e3"),
        ("--ram", "9999999T"),
        ("--ram", ""),
        ("--threads", "0"),
        ("--threads", "-1"),
        ("--threads", "99999"),
        ("--ctx", "-1"),
        ("--ctx", "many"),
        ("--prefill-chunk", "0"),
        ("--reader", "mmap"),
        ("--backend", "tpu"),
        ("--max-tokens", "-1"),
        ("--temperature", "hot"),
        ("--logit-bias", "x:1"),
        ("--logit-bias", "1"),
        ("--logit-bias", "1:nan"),
        ("--seed", "-1"),
        ("--flag", "1"),
    ] {
        assert_usage(&outpour("run", model.path(), &["hi", "--raw", &format!("{flag}={value}")]), flag);
    }
    for (flag, value, names) in [
        ("--ctx", "0", &["--ctx 0"][..]),
        ("--ctx", "4097", &["--ctx 4097", "4096"]),
        ("--ctx", "18446744073709551615", &["--ctx", "4096"]),
        ("--temperature", "nan", &["--temperature NaN"]),
        ("--temperature", "-1", &["--temperature -1"]),
        ("--top-p", "0", &["--top-p 0"]),
        ("--min-p", "2", &["--min-p 2"]),
        ("--repetition-penalty", "inf", &["--repetition-penalty inf"]),
        ("--logit-bias", "256:1", &["--logit-bias", "256", "0 to 255"]),
        ("--stop", "", &["stop string"]),
    ] {
        let ran = outpour("run", model.path(), &["hi", "--raw", &format!("{flag}={value}")]);
        assert_refused(&ran, &format!("{flag}={value}"), names);
    }
    assert_usage(&outpour("run", model.path(), &["hi", "--raw", "--system", "x"]), "--system");
}

#[test]
fn token_ids() {
    let model = copy("qwen3_moe");
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("x.npy");
    let logits = |ids: &str, args: &[&str]| {
        let all = [&["--ids", ids, "--out", out.to_str().expect("UTF-8")], args].concat();
        outpour("logits", model.path(), &all)
    };
    for ids in ["", "x", "1,,2", "-1", "1.5", "4294967296", "1;2", "0x10"] {
        assert_usage(&logits(ids, &[]), "--ids");
    }
    for (ids, args, names) in [
        ("1,2,256", &[][..], &["token id 256", "0 to 255"][..]),
        ("4294967295", &[], &["token id 4294967295"]),
        ("1,2,3", &["--step-from", "0"], &["--step-from 0"]),
        ("1,2,3", &["--step-from", "4"], &["--step-from 4", "3 tokens"]),
        ("1,2,3", &["--ctx", "2"], &["3 tokens", "context of 2", "--ctx"]),
        ("1,2,3", &["--routes", out.to_str().expect("UTF-8")], &["--routes", "--out"]),
        ("1,2,3", &["--routes", "/nonexistent/r.json"], &["/nonexistent/r.json", "cannot write"]),
    ] {
        assert_refused(&logits(ids, args), &format!("{ids} {args:?}"), names);
    }
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0, "something was written");
}

#[test]
fn memory_below_the_minimum() {
    let model = copy_with_text("qwen3_moe");
    let refused = outpour("run", model.path(), &["hi", "--raw", "-n", "2", "--ram", "90000G"]);
    assert_refused(&refused, "more than any machine has", &["--ram", "more than", "leave --ram out"]);
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("x.npy");
    let out = out.to_str().expect("UTF-8");
    for (verb, args) in [
        ("run", &["hi", "--raw", "-n", "20", "--ctx", "300"][..]),
        ("run", &["hi", "--raw", "-n", "2", "--precise"]),
        ("logits", &["--ids", "1,2,3,4,5,6,7,8,9", "--out", out]),
        ("logits", &["--ids", "1,2,3", "--out", out, "--prefill-chunk", "64", "--threads", "2"]),
        ("plan", &["--ctx", "4096"]),
    ] {
        let with_ram = |ram: &str| outpour(verb, model.path(), &[args, &["--ram", ram]].concat());
        for ram in ["0", "1", "1M"] {
            let names = ["--ram", "too small", "at least", "trunk", "experts", "context", "scratch", "process"];
            assert_refused(&with_ram(ram), &format!("{verb} --ram {ram}"), &names);
        }
        let refusal = with_ram("0").stderr;
        let minimum = refusal.split("at least ").nth(1).and_then(|rest| rest.split(' ').next()).expect("the minimum");
        let below = minimum.parse::<u64>().expect("bytes") - 1;
        assert_refused(&with_ram(&below.to_string()), "one byte below the minimum", &[minimum]);
        let ran = with_ram(minimum);
        assert!(ran.status.success(), "{verb} at its minimum of {minimum}: {ran:?}");
    }
}

fn run_with_input(model: &Path, args: &[&str], input: &[u8]) -> Ran {
    let mut stdin = tempfile::tempfile().expect("a file");
    stdin.write_all(input).and_then(|()| std::io::Seek::rewind(&mut stdin)).expect("the input");
    let mut command = command("run", model, args);
    command.stdin(stdin);
    run(command)
}

#[test]
fn prompts() {
    let model = copy_with_text("qwen3_moe");
    let raw = ["--raw", "-n", "1"];
    assert_refused(&run_with_input(model.path(), &raw, b"a\xff\xfeb"), "not UTF-8", &["standard input", "UTF-8"]);
    assert_refused(&run_with_input(model.path(), &raw, b""), "empty", &["prompt is empty"]);
    assert_refused(&run_with_input(model.path(), &[], b""), "empty, as a message", &["prompt is empty"]);
    assert_refused(&outpour("run", model.path(), &["", "--raw"]), "empty argument", &["prompt is empty"]);
    let long = "q ".repeat(30_000);
    let names = ["context of 512", "--ctx"];
    let ran = run_with_input(model.path(), &["--raw", "--ctx", "512"], long.as_bytes());
    assert_refused(&ran, "longer than the context", &names);
    let ran = outpour("run", model.path(), &["hi", "--raw", "--ctx", "2", "--threads", "1"]);
    assert_refused(&ran, "as long as the context", &["context of 2"]);
    assert_refused(
        &run_with_input(model.path(), &raw, b"\x1b\xf0\x9f\x8e\x89"),
        "ids beyond the model",
        &["tokenizer.json"],
    );
}

#[test]
fn places_that_cannot_be_written_to() {
    let model = copy("qwen3_moe");
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    make_pipe(Path::new(&at("pipe")));
    let weights = model.path().join("model-00001-of-00003.safetensors");
    let before = fs::read(&weights).expect("a shard");
    let out = weights.to_str().expect("UTF-8");
    let ran = outpour("logits", model.path(), &["--ids", "1,2,3", "--out", out]);
    assert_refused(&ran, "--out over a weight file", &["model-00001", "file of the model"]);
    assert!(before == fs::read(&weights).expect("a shard"));
    let (link, target) = (at("link.npy"), at("target.npy"));
    fs::write(&target, "old").expect("it is written");
    std::os::unix::fs::symlink(&target, &link).expect("a link");
    assert!(outpour("logits", model.path(), &["--ids", "1,2,3", "--out", &link]).status.success());
    assert!(fs::symlink_metadata(&link).expect("it is there").is_symlink());
    assert!(fs::read(&target).expect("it is written through").starts_with(b"\x93NUMPY"));
    for out in [&at("missing/x.npy"), &at(""), &at("pipe"), "/dev/null", "/dev/full", "/sys/x.npy", "/proc/x.npy"] {
        let ran = outpour("logits", model.path(), &["--ids", "1,2,3", "--out", out]);
        assert_refused(&ran, &format!("--out {out}"), &[out]);
    }
    assert!(!fs::metadata("/dev/null").expect("it is there").is_file());
}

/// A file system of a few pages, while it lasts.
struct TinyDrive(tempfile::TempDir);

impl TinyDrive {
    fn mount() -> Option<TinyDrive> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=16k", "none"]).arg(folder.path()).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success()).then(|| TinyDrive(folder))
    }
}

impl Drop for TinyDrive {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn full_drives() {
    let model = copy("qwen3_moe");
    let Some(drive) = TinyDrive::mount() else {
        println!("SKIPPED: no right to mount a small file system, so none was filled");
        return;
    };
    let out = drive.0.path().join("x.npy");
    let ids = vec!["7"; 100].join(",");
    let ran = outpour("logits", model.path(), &["--ids", &ids, "--out", out.to_str().expect("UTF-8")]);
    assert_refused(&ran, "a full drive", &["x.npy", "No space left"]);
    assert_eq!(fs::read_dir(drive.0.path()).expect("the folder").count(), 0, "something is left");
}

const SHOWING: &[(&str, &[&str])] = &[
    ("inspect", &[]),
    ("inspect", &["--json"]),
    ("plan", &["--ram", "1G"]),
    ("plan", &["--ram", "1G", "--json"]),
    ("tokenize", &["some words"]),
    ("tokenize", &["some words", "--json"]),
    ("run", &["hi", "--raw", "-n", "200", "--ignore-eos"]),
];

/// Lines that a verb says beside what it shows and what an answer cost: that this machine is being measured.
fn notes(verb: &str) -> usize {
    if verb == "plan" { 2 } else { 0 }
}

#[test]
fn outputs_that_nobody_reads() {
    let model = copy_with_text("qwen3_moe");
    for (verb, args) in SHOWING {
        let mut command = command(verb, model.path(), args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("messages");
        assert_eq!(wait(child).code(), Some(0), "{verb} {args:?}: {said}");
        assert_eq!(besides_costs(&said).len(), notes(verb), "{verb} {args:?}: {said}");
        let mut child = command.spawn().expect("the program starts");
        drop((child.stdout.take(), child.stderr.take()));
        assert_eq!(wait(child).code(), Some(0), "{verb} {args:?} with nobody listening at all");
    }
}

#[test]
fn outputs_that_are_full() {
    let Ok(full) = fs::File::options().write(true).open("/dev/full") else {
        println!("SKIPPED: no /dev/full here");
        return;
    };
    let model = copy_with_text("qwen3_moe");
    for (verb, args) in SHOWING {
        let mut command = command(verb, model.path(), args);
        let stdout = full.try_clone().expect("a second handle");
        let output = command.stdout(stdout).stderr(Stdio::piped()).output().expect("the program runs");
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        let last = stderr.lines().last().unwrap_or_default();
        assert_eq!(output.status.code(), Some(2), "{verb} {args:?}: {stderr}");
        assert!(last.starts_with("outpour: standard output: cannot write: No space left"), "{verb}: {stderr}");
        assert_eq!(besides_costs(&stderr).len(), 1 + notes(verb), "{verb} {args:?}: {stderr}");
    }
}

/// What is wrong with a tokenizer is said of its file, with what to do.
#[test]
fn a_tokenizer_of_another_model_is_named() {
    let model = copy_with_text("qwen2_moe");
    let ran = outpour("run", model.path(), &["--raw", "Why is the sky blue today?"]);
    let file = model.path().join("tokenizer.json");
    assert_refused(
        &ran,
        "another model's tokenizer",
        &[&file.display().to_string(), "another model's", "download it again"],
    );

    let model = common::fixture("qwen3moe_gguf").join("model.gguf");
    let ran = outpour("tokenize", &model, &["hi"]);
    assert_refused(&ran, "no tokenizer", &["model.gguf", "tokenizer.ggml.model", "get a conversion"]);
}
