//! What `/live` sends, and the map of experts behind it.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use outpour_engine::{Observer, Options, Session, Work};
use outpour_store::read::ReaderKind;
use outpour_store::residency::{Cell, Seen};
use serde_json::{Value, json};

use crate::common::http::{Server, WAIT_MAX};
use crate::common::{engine, minimum_ram};
use crate::{demo, serve_demo};

/// A watcher.
struct Watcher {
    lines: BufReader<TcpStream>,
}

impl Watcher {
    fn new(server: &Server) -> Watcher {
        Watcher::at(server, "/live")
    }

    fn at(server: &Server, path: &str) -> Watcher {
        let mut lines = BufReader::new(server.open("GET", path, &[], ""));
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            assert!(lines.read_line(&mut line).expect("a head in time") > 0, "the head ends");
            assert!(!line.starts_with("HTTP") || line.contains("200"), "{line}");
        }
        Watcher { lines }
    }

    /// The next event, with its name. What HTTP writes between the chunks is passed over.
    fn next(&mut self) -> (String, Value) {
        let mut name = String::new();
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).expect("an event in time") > 0, "the stream goes on");
            if let Some(event) = line.strip_prefix("event: ") {
                name = event.trim().to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (name, serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}")));
            }
        }
    }
}

fn number(event: &Value, name: &str) -> u64 {
    event[name].as_u64().unwrap_or_else(|| panic!("no {name} in {event}"))
}

/// The cells of an event: which expert, where it is, uses, reads.
fn cells(event: &Value) -> Vec<(usize, u64, u64, u64)> {
    let numbers: Vec<u64> = event["cells"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    let mut at = -1;
    let cell = |pair: &[u64]| {
        at += pair[0] as i64;
        (at as usize, pair[1] & 3, pair[1] >> 2 & 63, pair[1] >> 8)
    };
    numbers.chunks_exact(2).map(cell).collect()
}

#[test]
fn a_watcher_sees_what_the_engine_did() {
    let server = serve_demo(&[]);
    let ask = json!({"messages": [{"role": "user", "content": "Tell me a story about a fox."}], "max_tokens": 24, "temperature": 0});
    server.ask("/v1/chat/completions", &ask);
    let mut watcher = Watcher::new(&server);
    let (name, model) = watcher.next();
    assert_eq!(name, "model");
    assert_eq!(model["layers"], json!(vec![32; 8]));
    assert_eq!((number(&model, "top_k"), number(&model, "ram")), (4, 70 << 20));
    let planned: u64 = model["buffers"].as_array().into_iter().flatten().map(|buffer| number(buffer, "bytes")).sum();
    assert!(planned > 60 << 20 && planned <= 70 << 20, "{model}");

    // What was done before it came.
    let (name, first) = watcher.next();
    assert_eq!((name.as_str(), &first["state"]), ("now", &json!("ready")));
    let resident = cells(&first).iter().filter(|cell| cell.1 == Seen::Memory as u64).count() as u64;
    assert!(resident > 0 && resident <= number(&model, "expert_slots"), "{first}");
    assert_eq!(number(&first, "misses") as f64, server.metric("outpour_expert_misses_total"));
    assert!(number(&first, "drive_bytes_per_second") > 0);
    // Steps of answers: the first token came with the prompt, and the last one is not computed.
    let steps = |event: &Value| event["steps"].as_array().into_iter().flatten().filter(|step| step[0] == 0).count();
    assert_eq!(steps(&first), 23, "{first}");
    for step in first["steps"].as_array().into_iter().flatten() {
        let [time, trunk, experts, blocked, bound] = [2, 3, 4, 5, 6].map(|i| step[i].as_u64().expect("a number"));
        assert!(time > 0 && bound > 0 && trunk + experts + blocked <= time + 3, "the parts are parts: {step}");
    }

    // What is done while it watches.
    server.ask("/v1/chat/completions", &ask);
    let began = Instant::now();
    let (mut seen_steps, mut used) = (0, 0);
    loop {
        let (_, now) = watcher.next();
        seen_steps += steps(&now);
        used += cells(&now).iter().map(|cell| cell.2).sum::<u64>();
        // Counts come a moment after the answer, here as there.
        let counts = ["hits", "misses"].map(|name| number(&now, name) as f64);
        let counted = ["hits", "misses"].map(|name| server.metric(&format!("outpour_expert_{name}_total")));
        if seen_steps >= 23 && number(&now, "running") == 0 && counts == counted {
            break;
        }
        assert!(began.elapsed() < WAIT_MAX, "{now} does not come to {counted:?}, {seen_steps} steps");
    }
    assert_eq!(seen_steps, 23);
    assert!(used > 0, "experts were used");
}

#[test]
fn a_watcher_may_ask_for_fewer_events() {
    let server = serve_demo(&[]);
    for wrong in ["every_ms=99", "every_ms=10001", "every_ms=often", "every_ms="] {
        let refused = server.get(&format!("/live?{wrong}"));
        assert_eq!(refused.status, 400, "{wrong}: {}", refused.body);
        assert!(refused.body.contains("from 100 to 10000"), "{}", refused.body);
    }
    let mut watcher = Watcher::at(&server, "/live?every_ms=300");
    assert_eq!(watcher.next().0, "model");
    assert_eq!(watcher.next().0, "now");
}

#[test]
fn watchers_are_few_and_a_server_that_ends_does_not_wait_for_them() {
    let mut server = serve_demo(&[]);
    let mut watchers: Vec<Watcher> = (0..8).map(|_| Watcher::new(&server)).collect();
    let refused = server.get("/live");
    assert_eq!(refused.status, 429, "{}", refused.body);
    assert!(refused.body.contains("8 watch already"), "{}", refused.body);
    // One that leaves makes room for another.
    drop(watchers.pop());
    let began = Instant::now();
    loop {
        let mut stream = server.open("GET", "/live", &[], "");
        let mut head = [0; 12];
        stream.read_exact(&mut head).expect("an answer in time");
        if head.ends_with(b"200") {
            break;
        }
        assert!(began.elapsed() < WAIT_MAX, "the place of a watcher that left is free again");
        std::thread::sleep(Duration::from_millis(20));
    }
    server.terminate();
    let began = Instant::now();
    let ended = loop {
        if let Some(ended) = server.child.try_wait().expect("a child") {
            break ended;
        }
        // Answers under way are waited for twice as long.
        assert!(began.elapsed() < Duration::from_secs(30), "watchers hold the server up");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(ended.success(), "{ended}");
}

#[test]
fn a_watcher_stays_while_memory_is_given_back_and_taken_again() {
    // 1.2 s, the time of a dozen events.
    let server = serve_demo(&["--idle-release", "0.02"]);
    let mut watcher = Watcher::new(&server);
    let mut until = |what: &str, holds: &dyn Fn(&str, &Value) -> bool| {
        let began = Instant::now();
        loop {
            let (name, event) = watcher.next();
            if holds(&name, &event) {
                return event;
            }
            assert!(began.elapsed() < WAIT_MAX, "no {what}: {event}");
        }
    };
    until("model", &|name, _| name == "model");
    let released = until("release", &|_, event| event["state"] == "released");
    assert_eq!(released.get("cells"), None, "nothing is there: {released}");
    server.ask("/v1/chat/completions", &json!({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}));
    until("model anew", &|name, _| name == "model");
    // A layer's counts come after its uses: with the same event, or with the next.
    let used = std::cell::Cell::new(false);
    until("uses and misses", &|_, event| {
        used.set(used.get() || !cells(event).is_empty());
        used.get() && event["misses"].as_u64().is_some_and(|misses| misses > 0)
    });
}

/// Counts what is asked for.
#[derive(Default)]
struct Uses(Vec<(usize, Vec<i32>)>);

impl Observer for Uses {
    fn routes(&mut self, layer: usize, _: &[u32], choice: &[i32], _: &[f32]) {
        let mut experts = choice.to_vec();
        experts.sort_unstable();
        experts.dedup();
        self.0.push((layer, experts));
    }
}

#[test]
fn the_map_counts_every_use_and_every_read() {
    let options = Options { threads: Some(2), ..Options::default() };
    let ram = minimum_ram(&demo(), &Options { ram: 1 << 30, ..options }) + (1 << 20);
    let mut engine = engine(&demo(), &Options { ram, ..options }, ReaderKind::Auto);
    let map = engine.residency_map();
    let mut uses = Uses::default();
    let mut session = Session::open(&mut engine);
    session.extend(&mut engine, &[11, 12, 13], Work::Prompt, &mut uses).expect("a prompt");
    for token in 0..40 {
        session.step(&mut engine, &mut uses, &mut |_, _| 20 + token).expect("a step");
    }
    let cells: Vec<Cell> = map.cells().collect();
    let mut asked = vec![0; cells.len()];
    for (layer, experts) in &uses.0 {
        experts.iter().for_each(|&expert| asked[layer * 32 + expert as usize] += 1);
    }
    let counted: Vec<u32> = cells.iter().map(|cell| cell.uses_since(Cell::default())).collect();
    assert_eq!(counted, asked);
    let stream = engine.stats().stream;
    assert_eq!(asked.iter().map(|&n| u64::from(n)).sum::<u64>(), stream.hits + stream.misses);
    let reads: u32 = cells.iter().map(|cell| cell.reads_since(Cell::default())).sum();
    assert_eq!(u64::from(reads), stream.misses - stream.early_used + stream.early);
    let places = |place| cells.iter().filter(|cell| cell.place() == place).count();
    assert!(places(Seen::Memory) > 0 && places(Seen::Memory) + places(Seen::Early) <= engine.expert_slots());
    assert_eq!(places(Seen::Reading), 0, "nothing is on its way between two steps");
    session.close(&mut engine);
    engine.drop_experts();
    assert!(map.cells().all(|cell| cell.place() != Seen::Memory), "what was dropped is on the drive");
}
