//! The official Python clients of OpenAI, Anthropic and Prometheus, and lm_eval, against a server of the demo model. Where there is no Python,
//! or its packages cannot be had, these are skipped with a word.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::http::Server;

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients")
}

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/model")
}

/// A Python environment with the packages of a file; `None`, and a word, where it cannot be made.
fn environment(name: &str, packages: &str) -> Option<PathBuf> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let made =
        Command::new("sh").arg(here().join("make_venv.sh")).arg(&venv).arg(packages).stdin(Stdio::null()).output();
    match made {
        Ok(made) if made.status.success() => return Some(venv.join("bin/python")),
        Ok(made) => {
            let why = String::from_utf8_lossy(&made.stderr);
            println!("skipped: the environment {name} cannot be made: {}", why.lines().last().unwrap_or_default());
        }
        Err(why) => println!("skipped: no shell: {why}"),
    }
    None
}

fn run(python: &Path, script: &str, args: &[&str]) {
    let ran = Command::new(python).arg(here().join(script)).args(args).output().expect("Python runs");
    println!("{}", String::from_utf8_lossy(&ran.stdout));
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn official_clients_understand_the_server() {
    let Some(python) = environment("clients-venv", "requirements.txt") else { return };
    let server = Server::start_with_key(&demo(), &["--ram", "200M", "--threads", "2"], "a-key");
    run(&python, "clients.py", &[&format!("http://{}", server.address), "a-key"]);
}

#[test]
fn lm_eval_measures_what_the_server_says() {
    let Some(python) = environment("lm-eval-venv", "requirements_lm_eval.txt") else { return };
    let server = Server::start(&demo(), &["--ram", "200M", "--threads", "2"]);
    let model = demo();
    run(&python, "lm_eval_check.py", &[&format!("http://{}", server.address), model.to_str().expect("UTF-8")]);
}
