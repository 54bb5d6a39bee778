//! What a server keeps on a drive is found again by the next one.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::cli::wait_for;
use crate::common::http::{Server, WAIT_MAX};
use crate::{demo, resident_bytes, said, serve_demo, serve_streamed, streamed, user};

fn serve_with(model: &Path, dir: &Path, more: &[&str]) -> Server {
    let dir = dir.to_str().expect("UTF-8");
    let threads: &[&str] = if more.contains(&"--threads") { &[] } else { &["--threads", "2"] };
    Server::start(model, &[&["--ram", "200M", "--state-dir", dir], threads, more].concat())
}

/// A turn of a conversation under a long system message: the answer's text, and tokens found and in all.
fn turn(server: &Server, messages: &mut Vec<Value>, text: &str) -> (String, u64, u64) {
    messages.push(user(text));
    let body = json!({"messages": messages, "max_tokens": 24, "temperature": 0.8, "seed": 3});
    let answer = server.ask("/v1/chat/completions", &body);
    let usage = &answer["usage"];
    let number = |value: &Value| value.as_u64().expect("a number");
    let said = said(&answer).to_owned();
    messages.push(json!({"role": "assistant", "content": said}));
    (said, number(&usage["prompt_tokens_details"]["cached_tokens"]), number(&usage["prompt_tokens"]))
}

fn begin() -> Vec<Value> {
    vec![json!({"role": "system", "content": "You tell stories of a fox, an owl and a river. ".repeat(20)})]
}

/// Ends a server as an operator does.
fn end(mut server: Server) {
    server.terminate();
    assert!(wait_for(&mut server.child).success());
}

/// Memory full of the states of others is no reason to forget the present conversation.
#[test]
fn a_conversation_is_found_again_after_many_others() {
    for ram in ["120M", "512M", "700M"] {
        let server = Server::start(&demo(), &["--ram", ram, "--threads", "2"]);
        for i in 0..30 {
            turn(&server, &mut vec![], &format!("What is {} + {}?", i + 30, i * 7 + 11));
        }
        let mut messages = begin();
        turn(&server, &mut messages, "Who is there?");
        let (_, found, total) = turn(&server, &mut messages, "And then?");
        // What the model says is computed with the prompt of the next turn where a template shows it otherwise.
        assert!(total - found < 64 + 24 + 40, "--ram {ram}: {found} of {total} are found");
    }
}

#[test]
fn the_second_turn_after_a_restart_computes_what_is_new() {
    for model in [demo().as_path(), streamed()] {
        let (dir, mut messages) = (tempfile::tempdir().expect("a folder"), begin());
        let server = serve_with(model, dir.path(), &[]);
        turn(&server, &mut messages, "Who is there?");
        let mut alone = messages.clone();
        let expected = turn(&server, &mut alone, "And then?");
        end(server);

        // Of the same conversation and of one that shares its system message.
        for threads in ["2", "1"] {
            let server = serve_with(model, dir.path(), &["--threads", threads]);
            let (text, found, total) = turn(&server, &mut messages.clone(), "And then?");
            assert_eq!(text, expected.0);
            // What the model says is computed with the prompt of the next turn where a template shows it otherwise.
            assert!(total - found < 64 + 24 + 40, "{found} of {total} are found; without a restart {}", expected.1);
            let mut other = begin();
            let (_, found, total) = turn(&server, &mut other, "Is it night?");
            assert!(total - found < 64 + 30, "{found} of {total} are found");
            end(server);
        }
    }
}

#[test]
fn a_killed_server_leaves_what_the_next_one_can_use_or_leave() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut messages = begin();
    let expected = turn(&serve_demo(), &mut messages.clone(), "Who is there?").0;
    for round in 0..6 {
        let server = serve_with(&demo(), dir.path(), &[]);
        let (text, ..) = turn(&server, &mut messages.clone(), "Who is there?");
        assert_eq!(text, expected, "round {round}");
        std::thread::sleep(Duration::from_millis(3 * round));
        // Dropping it kills it.
        drop(server);
        for file in std::fs::read_dir(dir.path()).expect("the folder").flatten().take(round as usize) {
            let bytes = std::fs::read(file.path()).expect("the file");
            std::fs::write(file.path(), &bytes[..bytes.len() / 2]).expect("cut");
        }
    }
    turn(&serve_with(&demo(), dir.path(), &["--precise"]), &mut messages, "Who is there?");
}

#[test]
fn the_drive_takes_no_more_than_it_may() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = serve_with(streamed(), dir.path(), &["--state-size", "3M"]);
    for i in 0..12 {
        let body = json!({"prompt": format!("{i} fox owl ").repeat(60), "max_tokens": 2, "temperature": 0});
        server.ask("/v1/completions", &body);
    }
    let began = Instant::now();
    while server.metric("outpour_state_dir_bytes") < f64::from(1 << 20) {
        assert!(began.elapsed() < WAIT_MAX, "states are written");
    }
    end(server);
    let files = std::fs::read_dir(dir.path()).expect("the folder").flatten();
    let bytes: u64 = files.map(|file| file.metadata().expect("a file").len()).sum();
    assert!(bytes <= 3 << 20 && bytes > 1 << 20, "{bytes}");
}

/// Two processes would each count and remove the other's files: the second one is refused, and the first one keeps its own.
#[test]
fn a_folder_of_states_belongs_to_one_server() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = serve_with(streamed(), dir.path(), &[]);
    let mut second = Command::new(env!("CARGO_BIN_EXE_outpour"));
    second.arg("serve").arg(streamed()).args(["--ram", "200M", "--port", "0", "--state-dir"]).arg(dir.path());
    let refused = second.output().expect("it runs");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("--state-dir") && said.contains(dir.path().to_str().expect("UTF-8")), "{said}");
    let mut messages = begin();
    let expected = turn(&server, &mut messages.clone(), "Who is there?").0;
    end(server);
    // The lock ends with its process, however that ends.
    let server = serve_with(streamed(), dir.path(), &[]);
    assert_eq!(turn(&server, &mut messages, "Who is there?").0, expected);
    drop(server);
    end(serve_with(streamed(), dir.path(), &[]));
}

#[test]
fn idle_memory_is_given_back_and_the_next_request_loads_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().to_str().expect("UTF-8");
    let server = serve_streamed(&["--idle-release", "0.02", "--state-dir", path]);
    let body = json!({"prompt": "fox owl river ".repeat(50), "max_tokens": 20, "temperature": 0.7, "seed": 5});
    let answer = server.ask("/v1/completions", &body);
    let loaded = resident_bytes(server.child.id());
    let began = Instant::now();
    while server.get("/health").json()["status"] != "released" {
        assert!(began.elapsed() < WAIT_MAX, "the memory is not given back");
        std::thread::sleep(Duration::from_millis(20));
    }
    let released = resident_bytes(server.child.id());
    println!("{} MiB loaded, {} MiB released", loaded >> 20, released >> 20);
    assert!(released < loaded / 2, "{released} of {loaded} bytes are held still");
    let again = server.ask("/v1/completions", &body);
    assert_eq!(again["choices"][0]["text"], answer["choices"][0]["text"]);
    let cached = again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0);
    assert!(cached >= 64, "{cached} tokens come back from the drive");
}
