//! `launch`: what a client is told, with clients that only write it down and ask the server what it serves.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::http::Server;
use serde_json::Value;

/// Writes down its arguments and environment, and what it is told of the settings file, and asks where it was told to.
const CLIENT: &str = r#"#!/bin/sh
printf '%s\n' "$@" > "$WRITTEN/args"
env > "$WRITTEN/env"
[ "$1" = --settings ] && cp "$2" "$WRITTEN/settings" && ls -l "$2" > "$WRITTEN/mode"
exit 7
"#;

struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    fn new() -> Desk {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["claude", "codex", "opencode"] {
            let path = folder.path().join("bin").join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(&path, CLIENT).expect("a file");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("it is a program");
        }
        Desk { folder }
    }

    fn launch(&self, args: &[&str]) -> Output {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let bin = self.folder.path().join("bin");
        let path = std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&path))).expect("a path");
        self.with_path(args).env("PATH", path).output().expect("outpour runs")
    }

    fn with_path(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outpour"));
        command.arg("launch").args(args).stdin(Stdio::null()).env("WRITTEN", self.folder.path());
        command.env("ANTHROPIC_API_KEY", "the-users-own").env("XDG_CACHE_HOME", self.folder.path().join("cache"));
        command.env("XDG_CONFIG_HOME", self.folder.path().join("config")).env("HOME", self.folder.path());
        command
    }

    fn written(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).expect("the client wrote it")
    }

    fn variable(&self, name: &str) -> Option<String> {
        let prefix = format!("{name}=");
        self.written("env").lines().find_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
    }
}

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/model")
}

#[test]
fn clients_are_told_of_a_server_that_runs() {
    let server = Server::start_with_key(&demo(), &["--ram", "200M", "--threads", "1", "--name", "org/\"x\""], "a-key");
    let url = format!("http://{}", server.address);
    let desk = Desk::new();
    let launched = desk.launch(&["claude", "--url", &url, "--api-key", "a-key", "--", "-p", "hello"]);
    assert_eq!(launched.status.code(), Some(7), "the client's own code: {launched:?}");
    let args = desk.written("args");
    assert!(args.ends_with("-p\nhello\n") && !args.contains("a-key"), "{args}");
    assert_eq!(desk.variable("ANTHROPIC_API_KEY"), None);
    assert!(desk.written("mode").starts_with("-rw-------"));
    let settings: Value = serde_json::from_str(&desk.written("settings")).expect("JSON");
    let env = |name: &str| settings["env"][name].as_str().unwrap_or_default().to_owned();
    assert_eq!((env("ANTHROPIC_BASE_URL"), env("ANTHROPIC_AUTH_TOKEN")), (url.clone(), "a-key".to_owned()));
    assert_eq!((env("ANTHROPIC_MODEL"), env("CLAUDE_CODE_ATTRIBUTION_HEADER")), ("org/\"x\"".into(), "0".into()));

    desk.launch(&["codex", "--url", &format!("{url}/"), "--api-key", "a-key"]);
    let args = desk.written("args");
    assert!(
        args.contains(&format!("model_providers.outpour.base_url=\"{url}/v1\"")) && !args.contains("a-key"),
        "{args}"
    );
    assert!(args.contains("model_provider=\"outpour\"") && args.contains("wire_api=\"responses\""), "{args}");
    assert_eq!(desk.variable("OUTPOUR_API_KEY").as_deref(), Some("a-key"));

    desk.launch(&["opencode", "--url", &url, "--api-key", "a-key"]);
    let config: Value =
        serde_json::from_str(&desk.variable("OPENCODE_CONFIG_CONTENT").expect("a config")).expect("JSON");
    assert_eq!(config["model"], "outpour/org/\"x\"");
    assert_eq!(config["provider"]["outpour"]["options"]["baseURL"], format!("{url}/v1"));

    let refused = desk.launch(&["codex", "--url", &url]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("it wants a key: give --api-key"), "{refused:?}");
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn a_server_is_started_and_ends_with_the_client() {
    let desk = Desk::new();
    let model = demo();
    let launched = desk.launch(&["opencode", model.to_str().expect("UTF-8"), "--ram", "200M", "--ctx", "512"]);
    assert_eq!(launched.status.code(), Some(7), "{launched:?}");
    let config: Value =
        serde_json::from_str(&desk.variable("OPENCODE_CONFIG_CONTENT").expect("a config")).expect("JSON");
    let outpour = &config["provider"]["outpour"];
    assert_eq!(outpour["models"]["model"]["limit"]["context"], 512, "{config}");
    let address = outpour["options"]["baseURL"].as_str().expect("a URL");
    let address = address.trim_start_matches("http://").trim_end_matches("/v1");
    assert!(std::net::TcpStream::connect(address).is_err(), "the server is still there");
}

#[test]
fn what_lacks_is_said_in_one_line() {
    let desk = Desk::new();
    let said = |output: Output| {
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(said.lines().count(), 1, "{said}");
        said
    };
    let nobody = said(desk.launch(&["claude", "--url", "http://127.0.0.1:9"]));
    assert!(
        nobody.contains("no server answers at http://127.0.0.1:9") && nobody.contains("outpour serve MODEL"),
        "{nobody}"
    );
    let empty = tempfile::tempdir().expect("a folder");
    let lacking = said(desk.with_path(&["codex", "demo"]).env("PATH", empty.path()).output().expect("outpour runs"));
    assert!(lacking.contains("codex is not installed") && lacking.contains("npm install"), "{lacking}");
    let small = said(desk.launch(&["codex", demo().to_str().expect("UTF-8"), "--ram", "1M"]));
    assert!(small.contains("the server does not start") && small.contains("--ram"), "{small}");
}
