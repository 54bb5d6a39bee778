//! Models by name, as a user calls them: headers instead of a download, downloads instead of paths, what is in the cache without
//! anybody asked; and the cache laid out as `huggingface_hub` does.

mod common;

#[path = "../crates/hub/tests/server/mod.rs"]
mod server;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::fixture;
use outpour_store::checkpoint::gguf;
use serde_json::Value;
use server::{COMMIT, Fault, File};

const TOKEN: &str = "hf_neverShown";

/// The files of a folder, beside copies of the weights that nobody needs.
fn files_of(dir: &Path) -> Vec<File> {
    let mut files = vec![File::new("README.md", b"# a model".to_vec()), File::new("pytorch_model.bin", vec![1; 4096])];
    for entry in fs::read_dir(dir).expect("a folder").flatten().filter(|entry| entry.path().is_file()) {
        let name = entry.file_name().into_string().expect("UTF-8");
        files.push(File::new(&name, fs::read(entry.path()).expect("a file")));
    }
    files
}

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/model")
}

/// A user: a cache, and a hub that is asked.
struct User {
    home: tempfile::TempDir,
    endpoint: String,
}

impl User {
    fn of(server: &server::Hub) -> User {
        User { home: tempfile::tempdir().expect("a folder"), endpoint: server.endpoint() }
    }

    fn cache(&self) -> PathBuf {
        self.home.path().join("hub")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outpour"));
        command.args(args).stdin(Stdio::null()).env("HF_ENDPOINT", &self.endpoint).env("HF_HOME", self.home.path());
        command.env("HF_TOKEN", TOKEN).env("XDG_CACHE_HOME", self.home.path().join("cache"));
        command.env_remove("HF_HUB_CACHE").env_remove("HF_HUB_OFFLINE").env_remove("TRANSFORMERS_OFFLINE");
        command.env("XDG_CONFIG_HOME", self.home.path());
        command
    }

    fn outpour(&self, args: &[&str]) -> Output {
        let output = self.command(args).output().expect("outpour runs");
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        assert!(!String::from_utf8_lossy(&said).contains(TOKEN), "the token is shown");
        output
    }

    fn shown(&self, args: &[&str]) -> String {
        let output = self.outpour(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.shown(args)).expect("JSON")
    }

    /// The last line of a call that fails with this code.
    fn refused(&self, args: &[&str], code: i32, words: &[&str]) {
        let output = self.outpour(args);
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        let line = said.lines().last().unwrap_or_default();
        assert!(line.starts_with("outpour: "), "{said}");
        for word in words {
            assert!(line.contains(word), "no {word:?} in: {line}");
        }
    }
}

/// What the plan says of memory, without what this machine's speed goes into.
fn sizes(mut plan: Value) -> Value {
    let timed = ["tokens_per_second", "bound_by", "decode", "decode_cold", "prefill", "prefill_cold"];
    plan.as_object_mut().expect("an object").retain(|key, _| !timed.iter().any(|timed| key.contains(timed)));
    plan
}

/// Asserts that `inspect`, `plan` and `tokenize` say the same by name as with the files, and fetch nothing of the weights.
fn assert_headers_suffice(name: &str, dir: &Path, path: &Path, text: bool) {
    let server = server::Hub::start(name, files_of(dir));
    let user = User::of(&server);
    let path = path.to_str().expect("UTF-8");
    let plan =
        |model| sizes(user.json(&["plan", model, "--ram", "200M", "--drive", "2G", "-p", "16", "-n", "4", "--json"]));
    let (mut here, mut there) = (user.json(&["inspect", path, "--json"]), user.json(&["inspect", name, "--json"]));
    assert_eq!(there["model"].take(), Value::from(name));
    here["model"].take();
    assert!(here == there, "{here:#} is not {there:#}");
    let (here, there) = (plan(path), plan(name));
    assert!(here["buffers"].as_array().is_some_and(|buffers| buffers.len() >= 4), "{here:#}");
    assert!(here == there, "{here:#} is not {there:#}");
    if text {
        let tokens = |model| user.json(&["tokenize", model, "--json", "Once upon a time"]);
        assert_eq!(tokens(path), tokens(name));
    }
    let requests = server.take_requests();
    let large: Vec<_> = requests.iter().filter(|request| request.cdn).collect();
    assert!(!large.is_empty() && large.iter().all(|request| request.from == Some(0)), "{large:?}");
    let weights: BTreeSet<String> = server.files().iter().filter(|file| file.large).map(File::sha256).collect();
    let repo = user.cache().join(format!("models--{}", name.replace('/', "--")));
    for blob in fs::read_dir(repo.join("blobs")).into_iter().flatten().flatten() {
        let blob = blob.file_name().into_string().expect("UTF-8");
        assert!(!weights.iter().any(|weights| blob.starts_with(weights)), "weights are in the cache: {blob}");
    }
    assert!(!repo.join("refs").exists(), "a model that is not there has no newest version");
    assert_eq!(user.json(&["ls", "--json"]), Value::Array(Vec::new()), "what was only asked about is not listed");
    let left: Vec<_> =
        fs::read_dir(user.cache()).expect("the cache").flatten().map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("headers")), "{left:?}");
}

#[test]
fn safetensors_are_planned_by_their_headers() {
    assert_headers_suffice("some/demo-model", &demo(), &demo(), true);
    let sharded = fixture("qwen3_5_moe_mlx4");
    assert_headers_suffice("some/Sharded-MLX", &sharded, &sharded, false);
}

/// What RoPE's frequencies are divided by is a tensor, which lies behind others: it comes too, and nothing of these.
#[test]
fn gguf_files_with_factors_of_rope_are_planned_by_their_headers() {
    const BETWEEN: usize = 8 << 20;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("model.gguf");
    let mut bytes = fs::read(fixture("llama_gguf").join("model.gguf")).expect("a fixture");
    let header = gguf::read_header(&fixture("llama_gguf").join("model.gguf")).expect("a header");
    let (_, factors) = header.tensors.iter().find(|(name, _)| name == gguf::ROPE_FACTORS).expect("factors");
    let values = bytes[factors.offset as usize..][..factors.bytes as usize].to_vec();
    bytes[factors.offset as usize..][..values.len()].fill(0);
    bytes.resize((bytes.len() + BETWEEN).next_multiple_of(32), 0);
    let moved = bytes.len() as u64 - header.bytes;
    let entry = bytes.windows(gguf::ROPE_FACTORS.len()).position(|window| window == gguf::ROPE_FACTORS.as_bytes());
    // Behind the name stand the number of dimensions, the one there is, and the type.
    let offset = entry.expect("an entry") + gguf::ROPE_FACTORS.len() + 4 + 8 + 4;
    assert_eq!(bytes[offset..][..8], (factors.offset - header.bytes).to_le_bytes());
    bytes[offset..][..8].copy_from_slice(&moved.to_le_bytes());
    bytes.extend(&values);
    let whole = bytes.len() as u64;
    fs::write(&path, bytes).expect("a file");

    let name = "some/Llama-GGUF";
    let server = server::Hub::start(name, files_of(dir.path()));
    let user = User::of(&server);
    let path = path.to_str().expect("UTF-8");
    let plan =
        |model| sizes(user.json(&["plan", model, "--ram", "200M", "--drive", "2G", "-p", "16", "-n", "4", "--json"]));
    let (here, there) = (plan(path), plan(name));
    assert!(here == there, "{here:#} is not {there:#}");
    let large: Vec<_> = server.take_requests().into_iter().filter(|request| request.cdn).collect();
    let asked: u64 = large.iter().map(|r| r.until.map_or(whole, |until| until + 1) - r.from.unwrap_or(0)).sum();
    assert!(large.len() == 2 && asked < whole / 2, "more was asked for than a header and factors: {large:?}");
}

#[test]
fn gguf_files_are_planned_by_their_headers() {
    let dir = fixture("qwen35moe_gguf");
    assert_headers_suffice("some/Parts-GGUF", &dir, &dir.join("model-00001-of-00003.gguf"), false);
    let dir = fixture("qwen3moe_gguf");
    assert_headers_suffice("some/One-GGUF", &dir, &dir.join("model.gguf"), false);
}

#[test]
fn a_model_runs_by_its_name_and_from_the_cache_without_the_hub() {
    let name = "some/demo-model";
    let server = server::Hub::start(name, files_of(&demo()));
    let user = User::of(&server);
    let run = |model: &str, offline: &[&str]| {
        let args = ["run", model, "--ram", "100M", "--temperature", "0", "What is 12 + 30?"];
        user.shown(&[&args, offline].concat())
    };
    user.refused(
        &["run", name, "--offline", "hi"],
        2,
        &["some/demo-model", "--offline", "outpour pull some/demo-model"],
    );
    assert!(server.take_requests().is_empty(), "offline, nobody is asked");
    let expected = run(demo().to_str().expect("UTF-8"), &[]);
    assert!(expected.contains("42"), "{expected}");
    assert_eq!(run(name, &[]), expected);
    assert!(server.take_requests().iter().any(|request| request.cdn));
    assert_eq!(run(name, &["--offline"]), expected);
    assert_eq!(run(name, &[]), expected);
    assert!(server.take_requests().is_empty(), "what is in the cache just runs");

    let again = user.outpour(&["pull", name]);
    let told = String::from_utf8_lossy(&again.stderr);
    assert!(told.contains("nothing was missing") && !told.contains("MB/s"), "{told}");
    let pulled = user.shown(&["pull", name]);
    assert_eq!(PathBuf::from(pulled.trim()), user.cache().join("models--some--demo-model/snapshots").join(COMMIT));
    assert!(user.shown(&["verify", name]).contains("what the hub left a hash of has that hash"));
    let listed = user.json(&["ls", "--json"]);
    assert_eq!((&listed[0]["name"], &listed[0]["state"]), (&Value::from(name), &Value::from("ready")), "{listed}");
    let weights = fs::metadata(demo().join("model.safetensors")).expect("weights").len();
    assert!(
        listed[0]["bytes"].as_u64().is_some_and(|bytes| bytes > weights && bytes < weights + weights / 10),
        "{listed}"
    );
    assert!(user.shown(&["ls"]).contains("some/demo-model"));

    user.refused(&["rm", name], 2, &["nobody is there to be asked", "--yes"]);
    user.shown(&["rm", name, "--yes"]);
    assert_eq!(user.json(&["ls", "--json"]), Value::Array(Vec::new()));
    assert!(!user.cache().join("models--some--demo-model").exists());
    user.refused(&["rm", name, "--yes"], 2, &["outpour ls"]);
    user.refused(&["rm", "x", "--yes"], 2, &["ORG/REPO"]);
}

#[test]
fn of_gguf_files_one_quant_comes_and_goes() {
    let name = "some/Many-GGUF";
    let one = fs::read(fixture("qwen3moe_gguf").join("model.gguf")).expect("a file");
    let parts = |number| {
        let name = format!("model-0000{number}-of-00003.gguf");
        fs::read(fixture("qwen35moe_gguf").join(name)).expect("a file")
    };
    let mut files = vec![File::new("m-Q4_K_M.gguf", one.clone()), File::new("m-Q5_K_M.gguf", one)];
    files.extend((1..=3).map(|number| File::new(&format!("Q8_0/m-Q8_0-0000{number}-of-00003.gguf"), parts(number))));
    let server = server::Hub::start(name, files.clone());
    let user = User::of(&server);
    let first = user.shown(&["pull", "some/Many-GGUF:q8_0"]);
    assert!(first.trim().ends_with("/Q8_0/m-Q8_0-00001-of-00003.gguf"), "{first}");
    assert!(user.json(&["inspect", "some/Many-GGUF:Q8_0", "--offline", "--json"])["files"] == 3);
    assert!(user.json(&["inspect", name, "--offline", "--json"])["files"] == 3, "the only one that is there");
    user.shown(&["pull", name]);
    let names = |user: &User| -> Vec<String> {
        let listed = user.json(&["ls", "--json"]);
        listed.as_array().expect("a list").iter().filter_map(|model| Some(model["name"].as_str()?.to_owned())).collect()
    };
    assert_eq!(names(&user), ["some/Many-GGUF:Q4_K_M", "some/Many-GGUF:Q8_0"]);
    user.refused(
        &["pull", "some/Many-GGUF:Q6_K"],
        2,
        &["has no Q6_K; it has ", "Q4_K_M (387.2 KiB), Q5_K_M", "Q8_0 (478"],
    );
    // The same bytes under another name are one blob, which stays as long as one of them needs it.
    user.shown(&["pull", "some/Many-GGUF:Q5_K_M"]);
    user.shown(&["rm", "some/Many-GGUF:Q4_K_M", "--yes"]);
    assert_eq!(names(&user), ["some/Many-GGUF:Q5_K_M", "some/Many-GGUF:Q8_0"]);
    let blobs = user.cache().join("models--some--Many-GGUF/blobs");
    assert!(blobs.join(files[0].sha256()).is_file());
    user.shown(&["rm", "some/Many-GGUF:Q5_K_M", "--yes"]);
    assert!(!blobs.join(files[0].sha256()).exists());
    assert_eq!(names(&user), ["some/Many-GGUF:Q8_0"]);
}

#[test]
fn what_the_hub_refuses_is_said_in_one_line() {
    let name = "some/demo-model";
    let server = server::Hub::start(name, files_of(&demo()));
    let user = User::of(&server);
    user.refused(&["run", "some/other", "hi"], 2, &["some/other is no folder here", "says 401", "check the name"]);
    user.refused(&["run", "nowhere/model.gguf", "hi"], 2, &["nowhere/model.gguf: no such folder"]);
    user.refused(&["pull", "other"], 2, &["is no name of a model on the hub", "ORG/REPO:QUANT"]);
    let refuse = |status: u16, headers: &'static [(&'static str, &'static str)]| {
        server.break_with(move |request| {
            let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            request.cdn.then_some(Fault::Status(status, headers))
        });
    };
    refuse(403, &[("X-Error-Code", "GatedRepo")]);
    user.refused(&["pull", name], 2, &["says 403", "gated"]);
    refuse(404, &[("X-Error-Code", "EntryNotFound")]);
    user.refused(&["pull", name], 2, &["says 404"]);
    refuse(429, &[("Retry-After", "900")]);
    user.refused(&["pull", name], 1, &["says 429", "in 900 s"]);
    server.break_with(|request| request.cdn.then_some(Fault::Flip));
    user.refused(&["pull", name], 1, &["another hash", "was removed"]);
    assert_eq!(user.json(&["ls", "--json"]), Value::Array(Vec::new()), "none of its weights are there");
    server.break_with(|request| {
        let later = request.from.is_some_and(|from| from > 0);
        request.cdn.then(|| if later { Fault::Status(404, Vec::new()) } else { Fault::Cut(1000) })
    });
    user.refused(&["pull", name], 2, &["says 404"]);
    let listed = user.json(&["ls", "--json"]);
    assert_eq!(listed[0]["whole"], false, "{listed}");
    assert!(user.shown(&["ls"]).contains("incomplete"));
}

/// A Python with `huggingface_hub`; `None`, and a word, where it cannot be had.
fn python() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients");
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hub-venv");
    let make = Command::new("sh").arg(here.join("make_venv.sh")).arg(&venv).arg("requirements_hub.txt").output();
    if make.is_ok_and(|make| make.status.success()) {
        return Some(venv.join("bin/python"));
    }
    println!("skipped: huggingface_hub cannot be installed here");
    None
}

/// Files, with their bytes, and links, with their targets, below a folder; without locks.
fn tree(dir: &Path) -> BTreeSet<(PathBuf, Vec<u8>)> {
    let (mut folders, mut found) = (vec![dir.to_owned()], BTreeSet::new());
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path()) {
            let name = path.strip_prefix(dir).expect("below").to_owned();
            if path.is_symlink() {
                found.insert((name, fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes()));
            } else if path.is_dir() {
                folders.push(path);
            } else if !name.starts_with(".locks") && name != Path::new("CACHEDIR.TAG") {
                found.insert((name, fs::read(&path).expect("a file")));
            }
        }
    }
    found
}

#[test]
fn the_cache_is_what_huggingface_hub_writes_and_reads() {
    let Some(python) = python() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients/hub_cache.py");
    let name = "some/demo-model";
    let mut files = files_of(&demo());
    files.push(File::new("additional_chat_templates/tool_use.jinja", b"{{ messages }}".to_vec()));
    files.retain(|file| !["README.md", "pytorch_model.bin", "SHA256SUMS"].contains(&file.path.as_str()));
    let server = server::Hub::start(name, files.clone());
    let (ours, theirs) = (User::of(&server), User::of(&server));
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let run = |user: &User, what: &str| {
        let mut command = Command::new(&python);
        command.arg(&script).args([what, name]).args(&paths).env("HF_ENDPOINT", server.endpoint());
        command.env("HF_HOME", user.home.path()).env_remove("HF_HUB_CACHE").env("HF_TOKEN", TOKEN);
        let ran = command.env("HF_HUB_DISABLE_XET", "1").output().expect("Python runs");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).expect("UTF-8")
    };
    ours.shown(&["pull", name]);
    run(&theirs, "download");
    let (our_tree, their_tree) = (tree(&ours.cache()), tree(&theirs.cache()));
    let names = |tree: &BTreeSet<(PathBuf, Vec<u8>)>| tree.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&our_tree), names(&their_tree));
    assert!(our_tree == their_tree, "contents or links are others");
    // Each finds everything in the cache of the other, with nobody asked.
    let found = run(&ours, "find");
    assert!(found.contains("1 repo, 1 revision, 0 warnings"), "{found}");
    // What huggingface_hub asks for itself is its own affair.
    server.take_requests();
    assert_eq!(theirs.json(&["ls", "--json"])[0]["state"], "ready");
    assert!(theirs.json(&["inspect", name, "--offline", "--json"])["layers"].as_u64().is_some());
    let requests = server.take_requests();
    assert!(requests.is_empty(), "somebody was asked: {requests:?}");
}

/// A folder that nobody may write to, not even root.
#[cfg(target_os = "linux")]
#[test]
fn a_cache_that_cannot_be_written_to_is_no_hindrance_to_a_plan() {
    let name = "some/demo-model";
    let server = server::Hub::start(name, files_of(&demo()));
    let user = User::of(&server);
    let plan = |model: &str, more: &[&str]| {
        let args = [&["plan", model, "--ram", "200M", "-p", "16", "-n", "4", "--json"], more].concat();
        user.command(&args).env("HF_HUB_CACHE", "/sys/nobody").output().expect("outpour runs")
    };
    let ran = plan(name, &["--drive", "2G"]);
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && said.contains("/sys/nobody: cannot be written to"), "{said}");
    let there = sizes(serde_json::from_slice(&ran.stdout).expect("JSON"));
    let here = plan(demo().to_str().expect("UTF-8"), &["--drive", "2G"]);
    assert!(there == sizes(serde_json::from_slice(&here.stdout).expect("JSON")), "{there:#}");
    // Its drive cannot be measured, and what to do instead is said.
    let ran = plan(name, &[]);
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(2), "{said}");
    assert!(said.lines().last().is_some_and(|line| line.contains("/sys/nobody") && line.contains("--drive")), "{said}");
}

#[test]
fn without_home_models_do_not_go_into_the_current_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let asked = |home: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outpour"));
        command.args(["inspect", "some/name", "--offline"]).current_dir(folder.path());
        for name in ["HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"] {
            command.env_remove(name);
        }
        let ran = command.envs(home.map(|home| ("HOME", home))).output().expect("outpour runs");
        assert_eq!(ran.status.code(), Some(2));
        String::from_utf8(ran.stderr).expect("UTF-8")
    };
    // The system knows this user's folder; where HOME says something that is none, nothing is guessed.
    for unset in [None, Some("")] {
        assert!(asked(unset).contains("is not whole in /"), "{}", asked(unset));
    }
    let said = asked(Some("home"));
    assert!(said.lines().count() == 1 && said.contains("HF_HOME"), "{said}");
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0);
}
