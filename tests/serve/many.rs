//! Many clients at once: each is told what it would be told alone.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::http::{Response, Server, WAIT_MAX};
use crate::{resident_bytes, serve_demo, serve_streamed};

/// A request of its own for each number.
fn request(i: u64) -> Value {
    let words = ["fox", "owl", "river", "mountain", "letter", "lamp", "storm"];
    let said: Vec<&str> = (0..3 + i * 7 % 60).map(|k| words[((k * 5 + i) % 7) as usize]).collect();
    json!({
        "prompt": format!("{i} {}", said.join(" ")), "max_tokens": 4 + i * 5 % 28, "temperature": 0.9, "seed": i,
        "ignore_eos": true,
    })
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().expect("a text")
}

#[test]
fn answers_together_are_the_answers_alone() {
    let starts: [fn() -> Server; 2] = [serve_demo, || serve_streamed(&[])];
    for start in starts {
        let server = start();
        let expected: Vec<Value> = (0..12).map(|i| server.ask("/v1/completions", &request(i))).collect();
        let server = start();
        let server = &server;
        let given: Vec<Value> = std::thread::scope(|scope| {
            let asked: Vec<_> =
                (0..12).map(|i| scope.spawn(move || server.ask("/v1/completions", &request(i)))).collect();
            asked.into_iter().map(|asked| asked.join().expect("an answer")).collect()
        });
        for (i, (given, expected)) in given.iter().zip(&expected).enumerate() {
            assert_eq!(text(given), text(expected), "request {i}");
        }
    }
}

#[test]
fn more_than_the_queue_holds_are_told_to_come_again() {
    let server = serve_streamed(&[]);
    let body = json!({"prompt": "Once", "max_tokens": 3000, "ignore_eos": true, "stream": true}).to_string();
    // 32 run and 128 wait; some may have ended meanwhile.
    let mut open = Vec::new();
    while server.metric("outpour_requests_refused_total") < 1.0 {
        assert!(open.len() < 2000, "nobody is refused");
        open.push(server.open("POST", "/v1/completions", &[], &body));
    }
    let refused = refused_of(&mut open);
    assert_eq!(refused.status, 429, "{}", refused.body);
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    drop(open);
    server.wait_for("outpour_requests_running", 0.0);
    server.wait_for("outpour_requests_waiting", 0.0);
    assert_eq!(server.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 1})).status, 200);
}

/// The answer of the first of these connections that was refused; the others stay as they are.
fn refused_of(open: &mut [TcpStream]) -> Response {
    let began = Instant::now();
    let mut status = [0; "HTTP/1.1 429".len()];
    while began.elapsed() < WAIT_MAX {
        for stream in &mut *open {
            stream.set_nonblocking(true).expect("a socket");
            let seen = stream.peek(&mut status).is_ok_and(|n| n == status.len()) && status.ends_with(b"429");
            stream.set_nonblocking(false).expect("a socket");
            if seen {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).expect("an answer that ends");
                return Response::parse(&bytes);
            }
        }
    }
    panic!("none of {} was refused", open.len());
}

#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    let seconds = std::env::var("OUTPOUR_LOAD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    load(&serve_streamed(&[]), Duration::from_secs(seconds));
}

/// 64 clients that ask, break off, read slowly, and send what is no request, for a time.
fn load(server: &Server, time: Duration) {
    let kinds = 16;
    let expected: Vec<Value> = (0..kinds).map(|i| server.ask("/v1/completions", &request(i))).collect();
    let resident = || resident_bytes(server.child.id());
    let before = resident();
    let ends = Instant::now() + time;
    let counts: Vec<[usize; 3]> = std::thread::scope(|scope| {
        let client = |client: u64| {
            let (mut random, mut counts) = (client * 7919 + 1, [0; 3]);
            let expected = &expected;
            move || {
                while Instant::now() < ends {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let kind = (random >> 40) % kinds;
                    let outcome = visit(server, kind, (random >> 33) % 8, &expected[kind as usize]);
                    counts[outcome] += 1;
                }
                counts
            }
        };
        let clients: Vec<_> = (0..64).map(|i| scope.spawn(client(i))).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });
    let sum = |at: usize| counts.iter().map(|counts| counts[at]).sum::<usize>();
    println!("{} answered, {} refused, {} broken off", sum(0), sum(1), sum(2));
    assert!(sum(0) > 0 && sum(2) > 0);
    server.wait_for("outpour_requests_running", 0.0);
    server.wait_for("outpour_requests_waiting", 0.0);
    for (i, expected) in expected.iter().enumerate() {
        assert_eq!(text(&server.ask("/v1/completions", &request(i as u64))), text(expected), "request {i}, afterwards");
    }
    let grown = resident().saturating_sub(before);
    println!("resident memory has grown by {} MiB", grown >> 20);
    assert!(grown < 32 << 20, "{grown} bytes more are held");
    assert!(resident() <= crate::RAM_MIB << 20, "{} bytes are held", resident());
}

/// One visit: 0 answered, 1 refused, 2 broken off.
fn visit(server: &Server, kind: u64, manner: u64, expected: &Value) -> usize {
    let mut body = request(kind);
    match manner {
        0 => {
            let malformed = server.send("POST", "/v1/completions", &[], &body.to_string()[..20]);
            assert_eq!(malformed.status, 400);
            1
        }
        1 => {
            body["max_tokens"] = json!(2000);
            body["stream"] = json!(true);
            let mut open = server.open("POST", "/v1/completions", &[], &body.to_string());
            let mut some = [0; 300];
            let _ = open.read(&mut some);
            2
        }
        2 => {
            drop(server.open("POST", "/v1/completions", &[], &body.to_string()));
            2
        }
        3 => {
            body["stream"] = json!(true);
            let mut open = server.open("POST", "/v1/completions", &[], &body.to_string());
            let (mut bytes, mut some) = (Vec::new(), [0; 64]);
            loop {
                match open.read(&mut some) {
                    Ok(0) => break,
                    Ok(read) => bytes.extend_from_slice(&some[..read]),
                    // Such as where this process was stopped for a while.
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => panic!("the answer breaks off: {error}"),
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            let response = Response::parse(&bytes);
            if response.status == 429 {
                return 1;
            }
            let events = response.body.lines().filter_map(|line| line.strip_prefix("data: {"));
            let said = |event: &str| {
                let event: Value = serde_json::from_str(&format!("{{{event}")).expect("JSON");
                event["choices"][0]["text"].as_str().unwrap_or_default().to_owned()
            };
            assert_eq!(events.map(said).collect::<String>(), text(expected));
            0
        }
        _ => {
            let response = server.post("/v1/completions", &body);
            if response.status == 429 {
                return 1;
            }
            assert_eq!(response.status, 200, "{}", response.body);
            assert_eq!(text(&response.json()), text(expected));
            0
        }
    }
}
