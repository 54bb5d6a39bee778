//! Who may ask, how much, and for how long.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::{serve_streamed, user};

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
    let preflight = server.send("OPTIONS", "/v1/chat/completions", &[("origin", "https://chat.example")], "");
    assert_eq!(preflight.status, 204);
    assert!(preflight.header("access-control-allow-headers").contains("authorization"));
    assert_eq!(server.send("OPTIONS", "/v1/chat/completions", &[("origin", "https://evil.example")], "").status, 403);
    let refused = server.send("POST", "/v1/messages", &[], "{}");
    assert_eq!(refused.json()["error"]["type"], "authentication_error");
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

#[test]
fn headers_that_do_not_come_are_not_waited_for() {
    let server = serve_streamed(&[]);
    let mut slow = server.connect();
    slow.write_all(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nx-").expect("it takes some");
    let began = Instant::now();
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest);
    assert!(began.elapsed() < Duration::from_secs(40), "the connection is closed after {:?}", began.elapsed());
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
