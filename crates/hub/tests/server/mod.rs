//! A server on this machine that speaks the hub's protocol, as far as models are downloaded with it, and breaks as it is told: the
//! list of files, `resolve` with redirects to another host for large files and to another path for small ones, hashes and sizes in
//! headers, ranges. What the headers are called, and who redirects where, is what the hub answers (November 2026).

#![allow(dead_code, reason = "each test uses its own part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The version that is there.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A file of a model.
#[derive(Clone)]
pub struct File {
    pub path: String,
    pub bytes: Vec<u8>,
    /// Whether it is in large storage.
    pub large: bool,
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whether it came to the host of large files.
    pub cdn: bool,
    pub method: String,
    pub target: String,
    pub authorization: Option<String>,
    /// The first byte asked for.
    pub from: Option<u64>,
    pub until: Option<u64>,
}

/// What goes wrong with an answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// A status with headers, and no body.
    Status(u16, Vec<(&'static str, String)>),
    /// One bit of the body is another.
    Flip,
    /// The range is overlooked: all of it comes.
    Whole,
}

type Faults = Box<dyn FnMut(&Request) -> Option<Fault> + Send>;

/// A server, until the process ends.
#[derive(Clone)]
pub struct Hub {
    pub address: SocketAddr,
    pub cdn: SocketAddr,
    state: Arc<State>,
}

struct State {
    model: String,
    files: Mutex<Vec<File>>,
    /// Whether the list tells hashes and sizes, as the hub does where it is asked.
    detailed: Mutex<bool>,
    faults: Mutex<Faults>,
    requests: Mutex<Vec<Request>>,
    sent: Mutex<u64>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl File {
    pub fn new(path: &str, bytes: Vec<u8>) -> File {
        let large = path.ends_with(".safetensors") || path.ends_with(".gguf");
        File { path: path.to_owned(), bytes, large }
    }

    pub fn sha256(&self) -> String {
        hex(&Sha256::digest(&self.bytes))
    }

    /// Git's name of these bytes.
    pub fn git(&self) -> String {
        hex(&Sha1::new_with_prefix(format!("blob {}\0", self.bytes.len())).chain_update(&self.bytes).finalize())
    }

    /// What the hub calls the file's content.
    pub fn etag(&self) -> String {
        if self.large { self.sha256() } else { self.git() }
    }
}

impl Hub {
    pub fn start(model: &str, files: Vec<File>) -> Hub {
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let (hub, cdn) = (listen(), listen());
        let state = Arc::new(State {
            model: model.to_owned(),
            files: Mutex::new(files),
            detailed: Mutex::new(true),
            faults: Mutex::new(Box::new(|_| None)),
            requests: Mutex::default(),
            sent: Mutex::default(),
        });
        let address = |listener: &TcpListener| listener.local_addr().expect("an address");
        let server = Hub { address: address(&hub), cdn: address(&cdn), state };
        for (listener, cdn) in [(hub, false), (cdn, true)] {
            let server = server.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let server = server.clone();
                    std::thread::spawn(move || server.answer(&stream, cdn));
                }
            });
        }
        server
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What goes wrong from now on.
    pub fn break_with(&self, faults: impl FnMut(&Request) -> Option<Fault> + Send + 'static) {
        *locked(&self.state.faults) = Box::new(faults);
    }

    pub fn change(&self, change: impl FnOnce(&mut Vec<File>)) {
        change(&mut locked(&self.state.files));
    }

    /// Makes the list as servers give it that do not tell hashes and sizes.
    pub fn be_terse(&self) {
        *locked(&self.state.detailed) = false;
    }

    pub fn files(&self) -> Vec<File> {
        locked(&self.state.files).clone()
    }

    /// The requests since the last call.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut locked(&self.state.requests))
    }

    /// Bytes of bodies sent since the last call.
    pub fn take_sent(&self) -> u64 {
        std::mem::take(&mut locked(&self.state.sent))
    }

    fn answer(&self, stream: &TcpStream, cdn: bool) {
        let Some(request) = read_request(stream, cdn) else { return };
        locked(&self.state.requests).push(request.clone());
        let fault = (locked(&self.state.faults))(&request);
        let (status, headers, body) = match &fault {
            Some(Fault::Status(status, headers)) => {
                (*status, headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(), Vec::new())
            }
            _ => self.respond(&request, matches!(fault, Some(Fault::Whole))),
        };
        let mut body = body;
        if let (Some(Fault::Flip), Some(byte)) = (&fault, body.last_mut()) {
            *byte ^= 1;
        }
        let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        let sent = match fault {
            _ if request.method == "HEAD" => &[][..],
            Some(Fault::Cut(bytes)) => &body[..bytes.min(body.len())],
            _ => &body[..],
        };
        *locked(&self.state.sent) += sent.len() as u64;
        // A client that went away needs no answer.
        let mut stream = stream;
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(sent));
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn respond(&self, request: &Request, whole: bool) -> (u16, Vec<(String, String)>, Vec<u8>) {
        let owned = |headers: &[(&str, &str)]| -> Vec<(String, String)> {
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let files = self.files();
        let model = &self.state.model;
        let target = request.target.split('?').next().unwrap_or_default();
        let api = [format!("/api/models/{model}/revision/main"), format!("/api/models/{model}/revision/{COMMIT}")];
        let resolve = [format!("/{model}/resolve/main/"), format!("/{model}/resolve/{COMMIT}/")];
        let by_path = |path: &str| files.iter().find(|file| file.path == path.replace("%20", " "));
        if request.cdn {
            let Some(file) = files.iter().find(|file| format!("/large/{}", file.sha256()) == target) else {
                return (404, Vec::new(), Vec::new());
            };
            return ranged(request, file, whole);
        }
        if api.iter().any(|api| api == target) {
            return (200, owned(&[("Content-Type", "application/json")]), self.list(&files).to_string().into_bytes());
        }
        let cached = format!("/api/resolve-cache/models/{model}/{COMMIT}/");
        if let Some(path) = target.strip_prefix(&cached) {
            let Some(file) = by_path(path) else { return (404, Vec::new(), Vec::new()) };
            return ranged(request, file, whole);
        }
        let Some(path) = resolve.iter().find_map(|resolve| target.strip_prefix(resolve.as_str())) else {
            return (401, owned(&[("X-Error-Code", "RepoNotFound")]), Vec::new());
        };
        let Some(file) = by_path(path) else {
            return (404, owned(&[("X-Error-Code", "EntryNotFound"), ("X-Repo-Commit", COMMIT)]), Vec::new());
        };
        let etag = format!("\"{}\"", file.etag());
        if file.large {
            let location = format!("http://{}/large/{}?signature=x", self.cdn, file.sha256());
            let size = file.bytes.len().to_string();
            let headers = [
                ("Location", &*location),
                ("X-Linked-Etag", &etag),
                ("X-Linked-Size", &size),
                ("X-Repo-Commit", COMMIT),
            ];
            return (302, owned(&headers), Vec::new());
        }
        let location = format!("{cached}{path}?etag=x");
        (307, owned(&[("Location", &location), ("ETag", &etag), ("X-Repo-Commit", COMMIT)]), Vec::new())
    }

    fn list(&self, files: &[File]) -> Value {
        let detailed = *locked(&self.state.detailed);
        let sibling = |file: &File| match (detailed, file.large) {
            (false, _) => json!({"rfilename": file.path}),
            (true, false) => json!({"rfilename": file.path, "size": file.bytes.len(), "blobId": file.git()}),
            (true, true) => json!({
                "rfilename": file.path, "size": file.bytes.len(), "blobId": "f".repeat(40),
                "lfs": {"sha256": file.sha256(), "size": file.bytes.len(), "pointerSize": 135},
            }),
        };
        let siblings: Vec<Value> = files.iter().map(sibling).collect();
        json!({"id": self.state.model, "sha": COMMIT, "private": false, "gated": false, "siblings": siblings})
    }
}

fn ranged(request: &Request, file: &File, whole: bool) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let etag = ("ETag".to_owned(), format!("\"{}\"", file.etag()));
    let commit = ("X-Repo-Commit".to_owned(), COMMIT.to_owned());
    let bytes = file.bytes.len() as u64;
    match request.from.filter(|_| !whole) {
        Some(from) if from < bytes => {
            let end = request.until.map_or(bytes, |until| (until + 1).min(bytes));
            let range = ("Content-Range".to_owned(), format!("bytes {from}-{}/{bytes}", end - 1));
            (206, vec![etag, commit, range], file.bytes[from as usize..end as usize].to_vec())
        }
        Some(_) => (416, Vec::new(), Vec::new()),
        None => (200, vec![etag, commit], file.bytes.clone()),
    }
}

fn read_request(stream: &TcpStream, cdn: bool) -> Option<Request> {
    let mut lines = BufReader::new(stream.take(1 << 16)).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut request = Request { cdn, method, target, authorization: None, from: None, until: None };
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "authorization" => request.authorization = Some(value.to_owned()),
            "range" => {
                let (from, until) = value.strip_prefix("bytes=")?.split_once('-')?;
                (request.from, request.until) = (from.parse().ok(), until.parse().ok());
            }
            _ => {}
        }
    }
    Some(request)
}

/// Numbers that look random, the same for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn bytes(&mut self, bytes: usize) -> Vec<u8> {
        (0..bytes).map(|_| (self.next() >> 24) as u8).collect()
    }
}
