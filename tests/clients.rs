//! The official Python clients of OpenAI and Anthropic against a server of the demo model. Where there is no Python, or its
//! packages cannot be had, this is skipped with a word.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::http::Server;

#[test]
fn official_clients_understand_the_server() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients");
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients-venv");
    let made = Command::new("sh").arg(here.join("make_venv.sh")).arg(&venv).stdin(Stdio::null()).output();
    match made {
        Ok(made) if made.status.success() => {}
        Ok(made) => {
            let why = String::from_utf8_lossy(&made.stderr);
            println!("skipped: the clients' environment cannot be made: {}", why.lines().last().unwrap_or_default());
            return;
        }
        Err(why) => {
            println!("skipped: no shell: {why}");
            return;
        }
    }
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/model");
    let server = Server::start_with_key(&model, &["--ram", "200M", "--threads", "2"], "a-key");
    let url = format!("http://{}", server.address);
    let ran = Command::new(venv.join("bin/python")).arg(here.join("clients.py")).args([&url, "a-key"]).output();
    let ran = ran.expect("Python runs");
    println!("{}", String::from_utf8_lossy(&ran.stdout));
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}
