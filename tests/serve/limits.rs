//! Who may ask, how much, and for how long.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::http::{Response, Server, WAIT_MAX};
use crate::{serve_streamed, streamed, user};

/// Of the system: open without waiting, and nobody at the other end.
const O_NONBLOCK: i32 = if cfg!(target_os = "macos") { 0x4 } else { 0o4000 };
const ENXIO: i32 = 6;

#[test]
fn keys_hosts_and_origins_are_checked() {
    let server = serve_streamed(&["--api-key", "s3cret", "--cors", "https://chat.example"]);
    let status = |headers: &[(&str, &str)]| server.send("GET", "/v1/models", headers, "").status;
    assert_eq!(status(&[]), 401);
    assert_eq!(status(&[("authorization", "Bearer wrong")]), 401);
    assert_eq!(status(&[("authorization", "Bearer s3cret")]), 200);
    assert_eq!(status(&[("x-api-key", "s3cret")]), 200);
    assert_eq!(status(&[("x-api-key", "s3cret"), ("host", "rebound.example")]), 403);
    assert_eq!(status(&[("x-api-key", "s3cret"), ("origin", "https://evil.example")]), 403);
    let page = server.send("GET", "/v1/models", &[("x-api-key", "s3cret"), ("origin", "https://chat.example")], "");
    assert_eq!((page.status, page.header("access-control-allow-origin")), (200, "https://chat.example"));
    let asks = [("origin", "https://chat.example"), ("access-control-request-headers", "authorization,x-stainless-os")];
    let preflight = server.send("OPTIONS", "/v1/chat/completions", &asks, "");
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-headers"), "authorization,x-stainless-os");
    assert_eq!(server.send("OPTIONS", "/v1/chat/completions", &[("origin", "https://evil.example")], "").status, 403);
    let refused = server.send("POST", "/v1/messages", &[], "{}");
    assert_eq!(refused.json()["error"]["type"], "authentication_error");
    // Without a word about it no page may call, and none may read.
    let server = serve_streamed(&[]);
    for method in ["GET", "OPTIONS"] {
        let page = server.send(method, "/v1/models", &[("origin", "https://chat.example")], "");
        assert_eq!((page.status, page.header("access-control-allow-origin")), (403, ""));
    }
    assert_eq!(server.send("GET", "/v1/models", &[("host", "rebound.example")], "").status, 403);
}

#[test]
fn bodies_and_headers_are_bounded() {
    let server = serve_streamed(&[]);
    let large = format!("{{\"prompt\": \"{}\"}}", "a".repeat(9 << 20));
    let response = server.send("POST", "/v1/completions", &[], &large);
    assert_eq!(response.status, 413, "{}", response.body);
    // A client that is still sending when the connection is closed may not see the answer.
    let header = "x".repeat(100 << 10);
    assert!([431, 0].contains(&server.send("GET", "/health", &[("x-long", &header)], "").status));
    let names: Vec<String> = (0..150).map(|i| format!("x-{i}")).collect();
    let headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    assert_eq!(server.send("GET", "/health", &headers, "").status, 431);
    assert_eq!(server.get("/health").status, 200);
}

/// Headers that stop, headers of which a byte comes now and then, and such a body: none keeps its connection.
#[test]
fn clients_that_send_slowly_are_dropped() {
    let server = serve_streamed(&[]);
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n";
    let body = format!("{head}content-length: 5000\r\n\r\n{{\"prompt\": \"");
    let said = |sent: &str, trickles: bool| {
        let mut slow = server.connect();
        slow.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        slow.write_all(sent.as_bytes()).expect("it takes some");
        let (began, mut answer, mut some) = (Instant::now(), Vec::new(), [0; 1024]);
        while began.elapsed() < WAIT_MAX {
            if trickles {
                // Once it is closed nothing can be written.
                let _ = slow.write_all(b"a");
            }
            match slow.read(&mut some) {
                Ok(0) => return Response::parse(&answer).status,
                Ok(read) => answer.extend_from_slice(&some[..read]),
                Err(error) if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) => {}
                Err(_) => return Response::parse(&answer).status,
            }
        }
        panic!("the connection is open still: {sent}");
    };
    let (said, cut) = (&said, format!("{head}x-"));
    std::thread::scope(|scope| {
        scope.spawn(|| said(&cut, false));
        scope.spawn(|| said(&cut, true));
        scope.spawn(|| assert!([408, 0].contains(&said(&body, false))));
        scope.spawn(|| assert!([408, 0].contains(&said(&body, true))));
    });
    assert_eq!(server.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 1})).status, 200);
}

/// Whatever a request names, no file is opened for it: a pipe, which whoever opens it waits at, is opened by nobody.
#[test]
fn no_request_reaches_the_file_system() {
    let dir = tempfile::tempdir().expect("a folder");
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let server = serve_streamed(&[]);
    let pipe = pipe.to_str().expect("UTF-8");
    for path in
        [pipe, &format!("file://{pipe}"), &format!("../../../../../../..{pipe}"), "/etc/passwd", "..", "%2e%2e%2f"]
    {
        let message = |content: serde_json::Value| json!([{"role": "user", "content": content}]);
        let image = json!([{"type": "image_url", "image_url": {"url": path}}]);
        let source = json!([{"type": "image", "source": {"type": "url", "url": path}}]);
        let file = json!([{"type": "input_file", "file_id": path, "file_url": path, "filename": path}]);
        for (to, body, status) in [
            ("/v1/chat/completions", json!({"messages": message(image)}), 400),
            ("/v1/messages", json!({"messages": message(source), "max_tokens": 1}), 400),
            ("/v1/responses", json!({"input": message(file)}), 400),
            ("/v1/responses", json!({"input": "a", "previous_response_id": path}), 400),
            ("/api/chat", json!({"messages": [{"role": "user", "content": "a", "images": [path]}]}), 400),
            // Names of models, sessions, templates and files mean nothing.
            (
                "/v1/completions",
                json!({"model": path, "prompt": "a", "max_tokens": 1, "session": path, "user": path}),
                200,
            ),
            (
                "/v1/chat/completions",
                json!({
                    "model": path, "messages": message(json!("a")), "max_tokens": 1, "chat_template": path, "session_id": path,
                    "chat_template_kwargs": {"template": path, "documents": [path]}, "prompt_cache_key": path,
                }),
                200,
            ),
            (
                "/api/generate",
                json!({"model": path, "prompt": "a", "stream": false, "options": {"num_predict": 1}, "template": path}),
                200,
            ),
        ] {
            let response = server.post(to, &body);
            assert_eq!(response.status, status, "{to} {body}: {}", response.body);
            assert!(!response.body.contains("root:"), "{}", response.body);
        }
        assert_eq!(server.get(&format!("/v1/models/{path}")).status, 404);
        assert_eq!(server.get(&format!("/{path}")).status, 404);
    }
    // A pipe that nobody reads cannot be opened for writing without waiting.
    let mut options = std::fs::OpenOptions::new();
    let nobody = options.write(true).custom_flags(O_NONBLOCK).open(pipe).expect_err("nobody reads");
    assert_eq!(nobody.raw_os_error(), Some(ENXIO));
}

/// A template that would not come to an end is stopped, and others are answered meanwhile.
#[test]
fn templates_are_rendered_with_a_limit() {
    let dir = tempfile::tempdir().expect("a folder");
    for file in std::fs::read_dir(streamed()).expect("the model").flatten() {
        std::fs::copy(file.path(), dir.path().join(file.file_name())).expect("a copy");
    }
    let template = "{% for m in messages %}{% if m.content == 'loop' %}{% for a in range(99999) %}{% for b in range(99999) %}\
        {{ a * b }}{% endfor %}{% endfor %}{% endif %}{{ m.content }}{% endfor %}";
    std::fs::write(dir.path().join("chat_template.jinja"), template).expect("written");
    let server = Server::start(dir.path(), &["--ram", "100M", "--threads", "2"]);
    let ask = |text: &str| server.post("/v1/chat/completions", &json!({"messages": [user(text)], "max_tokens": 1}));
    std::thread::scope(|scope| {
        let endless: Vec<_> = (0..6).map(|_| scope.spawn(|| ask("loop"))).collect();
        assert_eq!(ask("once").status, 200);
        for endless in endless {
            let refused = endless.join().expect("an answer");
            assert_eq!(refused.status, 400, "{}", refused.body);
            assert!(refused.body.contains("does not come to an end"), "{}", refused.body);
            assert!(
                refused.body.contains("\"chat_template.jinja: line 1: "),
                "its folder is nobody's business: {}",
                refused.body
            );
        }
    });
}

#[test]
fn an_answer_ends_with_its_client() {
    let server = serve_streamed(&[]);
    for (path, stream) in [("/v1/completions", true), ("/v1/completions", false), ("/v1/chat/completions", true)] {
        let body = json!({
            "prompt": "Once", "messages": [user("Once")], "max_tokens": 3000, "ignore_eos": true, "stream": stream,
        });
        let open = server.open("POST", path, &[("content-type", "application/json")], &body.to_string());
        server.wait_for("outpour_requests_running", 1.0);
        drop(open);
        server.wait_for("outpour_requests_running", 0.0);
    }
    assert!(server.metric("outpour_generated_tokens_total") < 8000.0, "the answers were broken off");
    // In the middle of a prompt.
    let prompt = "The fox and the owl met at the river. ".repeat(120);
    let open = server.open("POST", "/v1/completions", &[], &json!({"prompt": prompt, "max_tokens": 2}).to_string());
    server.wait_for("outpour_requests_running", 1.0);
    drop(open);
    server.wait_for("outpour_requests_running", 0.0);
}

#[test]
fn a_client_that_takes_nothing_is_dropped() {
    let server = serve_streamed(&[]);
    // So many bytes for each token that the sockets' buffers fill.
    let body = json!({
        "messages": [user("Once")], "max_tokens": 3900, "ignore_eos": true, "stream": true, "logprobs": true,
        "top_logprobs": 20,
    });
    let open = server.open("POST", "/v1/chat/completions", &[], &body.to_string());
    server.wait_for("outpour_requests_running", 1.0);
    server.wait_for("outpour_requests_running", 0.0);
    assert!(server.metric("outpour_requests_cancelled_total") >= 1.0, "it was dropped, and not finished");
    drop(open);
}

#[test]
fn told_to_end_it_finishes_what_it_began() {
    let mut server = serve_streamed(&[]);
    let body = json!({"prompt": "Once", "max_tokens": 300, "ignore_eos": true, "stream": true});
    let mut open = server.open("POST", "/v1/completions", &[], &body.to_string());
    server.wait_for("outpour_requests_running", 1.0);
    server.terminate();
    let mut answer = String::new();
    open.read_to_string(&mut answer).expect("it is finished");
    assert!(answer.contains("data: [DONE]") && answer.contains("\"completion_tokens\":300"), "{answer}");
    let status = crate::common::cli::wait_for(&mut server.child);
    assert!(status.success(), "{status}");
    assert!(std::net::TcpStream::connect(&server.address).is_err(), "nobody listens any more");
}
