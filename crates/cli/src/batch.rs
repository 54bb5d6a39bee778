//! `batch`: a file of prompts, answered together, so that one read of an expert serves all.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use outpour_serve::{Question, Reply, serve_bytes};
use outpour_store::bytes::Bytes;
use outpour_store::checkpoint::Checkpoint;
use outpour_store::checksums::checksum;
use outpour_store::machine::Machine;
use serde_json::{Map, Value, json};

use crate::args::BatchArgs;
use crate::term::{INTERRUPTED, TaskProgress};
use crate::{model, serve, term};

/// Longest line of the file, in bytes.
const LINE_BYTES_MAX: u64 = 8 << 20;
/// A byte order mark in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Longest line of an answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// How every line of an answer begins.
const ANSWER_BEGINS: &str = r#"{"id":"batch_req_"#;
/// How the names of files end that hold a model's words and settings.
const TEXT_FILES: [&str; 4] = ["json", "jinja", "model", "tiktoken"];
/// Memory for each line that was answered already.
const DONE_BYTES: usize = 64;

/// Answers every line of the file.
///
/// # Errors
/// One line about the model, the flags or a file; lines that cannot be answered are no errors but say so in the output.
pub fn batch(args: &BatchArgs) -> Result<ExitCode> {
    let inspection = model::open(&args.model, &args.load)?;
    let numerics = args.load.numerics();
    let identity = format!(
        "{:016x} {:016x} {} {:?} {:?} {:?}",
        inspection.checkpoint().fingerprint()?,
        texts(inspection.checkpoint())?,
        numerics.precise,
        numerics.kv,
        numerics.top_k,
        args.load.backend
    );
    let mut input = Input::open(&args.file, args.seed, identity)?;
    let lines = input.lines()?;
    if lines == Some(0) {
        bail!("{}: holds no prompt; give a file with a JSON object a line", args.file.display());
    }
    let mut output = Output::open(&args.out)?;
    let beside = model::tokenizer_bytes(inspection.checkpoint()) + serve_bytes(inspection.facts().vocab);
    let options = args.load.options(beside + DONE_BYTES * (output.done.len() + output.refused_before.len()))?;
    model::check_ram(options.ram)?;
    let plan = inspection.plan(&options)?;
    let served = serve::served(&inspection, &plan, None)?;
    if let Some(what) = inspection.lossy() {
        term::note(&format!("Lossy: {what}."));
    }
    drop(inspection);
    term::catch_interrupt()?;
    let progress = TaskProgress::start(&args.file.to_string_lossy(), lines);
    let (began, read_before) = (Instant::now(), Machine::here().drive_read_bytes());
    let load = serve::loader(args.model.clone(), args.load.clone(), options);
    let run = Run { input: &mut input, output: &mut output, progress, asked: HashMap::new(), failed: None };
    let run = std::cell::RefCell::new(run);
    let ended = outpour_serve::batch(
        served,
        load,
        &mut || run.borrow_mut().next(),
        &mut |reply| run.borrow_mut().answered(reply),
        term::stopped,
    );
    // After Ctrl-C loading ends with an error, which is none.
    ended.or_else(|problem| if term::stopped() { Ok(()) } else { Err(anyhow!(problem)) })?;
    let Run { failed, .. } = run.into_inner();
    if let Some(error) = failed {
        return Err(error);
    }
    let read = Machine::here().drive_read_bytes().zip(read_before).map(|(now, before)| now - before);
    output.summary(began.elapsed().as_secs_f64(), read);
    Ok(match (term::stopped(), output.refused) {
        (true, _) => ExitCode::from(INTERRUPTED),
        (false, 0) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// A hash of the files beside the weights that answers depend on: tokenizer, template, defaults of sampling. A GGUF file holds its
/// own.
fn texts(checkpoint: &Checkpoint) -> Result<u64> {
    let ends = |path: &PathBuf| path.extension().is_some_and(|end| TEXT_FILES.iter().any(|text| end == *text));
    let is_text = |path: &PathBuf| ends(path) && path.is_file();
    let mut files: Vec<PathBuf> = model::own_files(checkpoint).into_iter().filter(is_text).collect();
    files.sort();
    let mut sums = Vec::new();
    for file in files {
        let bytes = std::fs::read(&file).with_context(|| format!("{}: cannot be read", file.display()))?;
        sums.extend(checksum(file.file_name().unwrap_or_default().as_encoded_bytes()).to_le_bytes());
        sums.extend(checksum(&bytes).to_le_bytes());
    }
    Ok(checksum(&sums))
}

/// The way of lines to the engine and back.
struct Run<'a> {
    input: &'a mut Input,
    output: &'a mut Output,
    progress: TaskProgress,
    /// Lines under way, by their number.
    asked: HashMap<usize, (u64, Value)>,
    failed: Option<anyhow::Error>,
}

impl Run<'_> {
    /// The next line that is to be answered. What makes no sense is told at once.
    fn next(&mut self) -> Option<Question> {
        while self.failed.is_none() {
            let line = self.input.next().map_err(|error| self.failed = Some(error)).ok()??;
            if self.output.was_done(line.hash) {
                self.progress.keep();
                continue;
            }
            match line.question {
                Ok(question) => {
                    self.asked.insert(line.number, (line.hash, line.custom_id));
                    return Some(question);
                }
                Err(problem) => {
                    let error = json!({"code": "invalid_request", "message": problem});
                    let place = (line.number, line.hash, &line.custom_id);
                    self.put(place, None, error);
                }
            }
        }
        None
    }

    fn answered(&mut self, reply: Reply) -> ControlFlow<()> {
        let Some((hash, custom_id)) = self.asked.remove(&reply.number) else { return ControlFlow::Continue(()) };
        let number = reply.number;
        self.put((number, hash, &custom_id), Some(reply), Value::Null);
        if self.failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn put(&mut self, place: (usize, u64, &Value), reply: Option<Reply>, error: Value) {
        match self.output.put(place, reply, error) {
            Ok(()) => self.progress.advance(),
            Err(error) => self.failed = Some(error),
        }
    }
}

/// The file of prompts.
struct Input {
    path: PathBuf,
    file: BufReader<File>,
    number: usize,
    seed: Option<u64>,
    /// Names model and numerics.
    identity: String,
}

/// A line of it.
struct Line {
    /// From 1 on.
    number: usize,
    /// Of all that the answer depends on.
    hash: u64,
    custom_id: Value,
    question: Result<Question, String>,
}

impl Input {
    fn open(path: &Path, seed: Option<u64>, identity: String) -> Result<Input> {
        let path = if path == Path::new("-") { Path::new("/dev/stdin") } else { path };
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("{shown}: cannot open"))?;
        let kind = file.metadata().with_context(|| format!("{shown}: cannot open"))?.file_type();
        if !kind.is_file() && !kind.is_fifo() {
            bail!("{shown}: is neither a file nor a pipe; give a file with a JSON object a line");
        }
        Ok(Input { path: path.to_owned(), file: BufReader::new(file), number: 0, seed, identity })
    }

    /// How many lines there are that are not empty; of a pipe, which can be read only once, nobody knows.
    fn lines(&self) -> Result<Option<usize>> {
        if !self.file.get_ref().metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Ok(None);
        }
        let mut file = Input::open(&self.path, None, String::new())?;
        let mut count = 0;
        while file.line()?.is_some() {
            count += 1;
        }
        Ok(Some(count))
    }

    /// The next line that is not empty; only the beginning of one that is too long.
    fn line(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            let mut line = Vec::new();
            self.number += 1;
            let place = format!("{}: cannot read line {}", self.path.display(), self.number);
            let read = (&mut self.file).take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line);
            if read.context(place.clone())? == 0 {
                return Ok(None);
            }
            if line.len() as u64 > LINE_BYTES_MAX && !line.ends_with(b"\n") {
                self.skip_line().context(place)?;
            }
            // What some editors write in front of UTF-8.
            if self.number == 1 && line.starts_with(BYTE_ORDER_MARK) {
                line.drain(..BYTE_ORDER_MARK.len());
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    /// Skips the rest of a line, up to Ctrl-C if it has no end.
    fn skip_line(&mut self) -> io::Result<()> {
        while !term::stopped() {
            let read = self.file.fill_buf()?;
            let end = read.iter().position(|&byte| byte == b'\n');
            let skipped = end.map_or(read.len(), |end| end + 1);
            self.file.consume(skipped);
            if skipped == 0 || end.is_some() {
                break;
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Line>> {
        let Some(line) = self.line()? else { return Ok(None) };
        let number = self.number;
        // Requests hold seeds of 63 bits.
        let seed = self.seed.map(|seed| seed.wrapping_add(number as u64) & (u64::MAX >> 1));
        let parsed = serde_json::from_slice::<Value>(&line);
        let name = |parsed: &Value| ["custom_id", "id"].iter().find_map(|key| parsed.get(*key)).cloned();
        let custom_id = parsed.as_ref().ok().and_then(name).unwrap_or(Value::Null);
        let question = if line.len() as u64 > LINE_BYTES_MAX {
            Err(format!("the line is longer than {}", Bytes(LINE_BYTES_MAX)))
        } else {
            let parsed = parsed.map_err(|error| format!("the line is no JSON: {error}"));
            parsed.and_then(|parsed| question(parsed, number, seed))
        };
        // A line without a name of its own is known by its number.
        let place = (seed, custom_id.is_null().then_some(number));
        let hash =
            checksum(&[self.identity.as_bytes(), &[0], line.trim_ascii(), format!("{place:?}").as_bytes()].concat());
        Ok(Some(Line { number, hash, custom_id, question }))
    }
}

/// A line as a request: one of OpenAI's batches, with `url` and `body`, or the body alone.
fn question(line: Value, number: usize, seed: Option<u64>) -> Result<Question, String> {
    let Value::Object(mut line) = line else { return Err("the line is no JSON object".into()) };
    let url = line.remove("url");
    let mut body: Map<String, Value> = match line.remove("body") {
        Some(Value::Object(body)) => body,
        Some(_) => return Err("body is no object".into()),
        None => line.into_iter().filter(|(key, _)| !["custom_id", "id", "method"].contains(&key.as_str())).collect(),
    };
    let path = match url {
        Some(Value::String(url)) => url,
        Some(_) => return Err("url is no string".into()),
        None if body.contains_key("messages") => "/v1/chat/completions".into(),
        None if body.contains_key("prompt") => "/v1/completions".into(),
        None => return Err("the line has neither messages nor prompt".into()),
    };
    if !["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"].contains(&path.as_str()) {
        return Err(format!("{path:?} answers no batch: give /v1/chat/completions or /v1/completions"));
    }
    body.insert("stream".into(), false.into());
    if let Some(seed) = seed.filter(|_| !body.contains_key("seed")) {
        body.insert("seed".into(), seed.into());
    }
    Ok(Question { number, path, body: body.into() })
}

/// The file of answers.
struct Output {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    whole: u64,
    /// How often a line with this hash was answered in an earlier run.
    done: HashMap<u64, usize>,
    /// How often one was refused for what it says.
    refused_before: HashMap<u64, usize>,
    kept: usize,
    answered: usize,
    refused: usize,
    tokens: u64,
}

impl Output {
    /// Opens the file to go on with, or begins it. A last line that a stopped run left unfinished is cut off.
    fn open(path: &Path) -> Result<Output> {
        let shown = path.display();
        let writable = || format!("--out {shown}: cannot write; name a place that can be written to");
        if path == Path::new("-") {
            bail!("--out -: answers are kept in a file, so that a stopped run can go on; name one");
        }
        let file = File::options().read(true).append(true).create(true).open(path).with_context(writable)?;
        if !file.metadata().with_context(writable)?.is_file() {
            bail!("--out {shown}: is no file; answers are kept in one, so that a stopped run can go on");
        }
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            bail!("--out {shown}: another `outpour batch` writes to it; wait for that one, or name another file");
        }
        let mut output = Output {
            path: path.to_owned(),
            file,
            whole: 0,
            done: HashMap::new(),
            refused_before: HashMap::new(),
            kept: 0,
            answered: 0,
            refused: 0,
            tokens: 0,
        };
        let mut reader = BufReader::new(output.file.try_clone().with_context(writable)?);
        let (mut line, mut number) = (Vec::new(), 0);
        while (&mut reader).take(ANSWER_BYTES_MAX).read_until(b'\n', &mut line).with_context(writable)? > 0 {
            number += 1;
            let ended = line.ends_with(b"\n");
            // After a power cut a file may end in zeros, where its length was written and its text was not.
            let text = line.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            let begins = &ANSWER_BEGINS.as_bytes()[..text.min(ANSWER_BEGINS.len())];
            let ours = line.starts_with(begins) && (text > 0 || output.whole > 0);
            if !ended && ours && (line.len() as u64) < ANSWER_BYTES_MAX {
                output.file.set_len(output.whole).with_context(writable)?;
                break;
            }
            let parsed: Value = serde_json::from_slice(&line).unwrap_or(Value::Null);
            let hash = parsed["input"].as_str().and_then(|hash| u64::from_str_radix(hash, 16).ok());
            let Some(hash) = hash.filter(|_| ended) else {
                bail!("--out {shown} line {number}: is no answer of `outpour batch`; name another file");
            };
            match parsed["response"]["status_code"].as_u64() {
                Some(200) => *output.done.entry(hash).or_default() += 1,
                // What failed for want of something may be tried again.
                Some(500..) => {}
                _ => *output.refused_before.entry(hash).or_default() += 1,
            }
            output.whole += line.len() as u64;
            line.clear();
        }
        Ok(output)
    }

    /// Whether the file has an answer to this line, or a refusal.
    fn was_done(&mut self, hash: u64) -> bool {
        let took = |there: &mut HashMap<u64, usize>| {
            there.get_mut(&hash).filter(|left| **left > 0).map(|left| *left -= 1).is_some()
        };
        if took(&mut self.done) {
            self.kept += 1;
        } else if took(&mut self.refused_before) {
            self.refused += 1;
        } else {
            return false;
        }
        true
    }

    /// Writes a line at once.
    fn put(
        &mut self,
        (number, hash, custom_id): (usize, u64, &Value),
        reply: Option<Reply>,
        error: Value,
    ) -> Result<()> {
        let good = reply.as_ref().is_some_and(|reply| reply.status == 200);
        *(if good { &mut self.answered } else { &mut self.refused }) += 1;
        let usage = |reply: &Reply| {
            let usage = &reply.body["usage"];
            usage["completion_tokens"].as_u64().or(usage["output_tokens"].as_u64()).unwrap_or(0)
        };
        self.tokens += reply.as_ref().map_or(0, usage);
        let id = format!("batch_req_{number}");
        let response =
            reply.map(|Reply { status, body, .. }| json!({"status_code": status, "request_id": id, "body": body}));
        let line = json!({
            "id": id, "custom_id": custom_id, "line": number, "input": format!("{hash:016x}"), "response": response,
            "error": error,
        });
        let line = format!("{line}\n");
        let written = self.file.write_all(line.as_bytes());
        if written.is_ok() {
            self.whole += line.len() as u64;
        } else {
            // What was written of it is cut off at the next start if it cannot be now.
            let _ = self.file.set_len(self.whole);
        }
        written.with_context(|| format!("--out {}: cannot write; free some space", self.path.display()))
    }

    fn summary(&self, seconds: f64, read: Option<u64>) {
        let Output { kept, answered, refused, tokens, .. } = self;
        let read = read
            .filter(|_| *tokens > 0)
            .map_or(String::new(), |read| format!(", {} read for each", Bytes(read / tokens)));
        term::note(&format!(
            "{answered} answered, {refused} not (their lines say why), {kept} were answered before · {tokens} tokens generated, \
             {:.1} a second with prompts{read}",
            *tokens as f64 / seconds.max(1e-9)
        ));
    }
}
