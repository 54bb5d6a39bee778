//! Results, item by item: in memory, and as lines of a file from which a stopped run goes on. A line names the model with its
//! numerics and the item by its content, so a file may hold runs of several models, and changed items are computed anew.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use outpour_store::read::whole::read_whole;
use serde::{Deserialize, Serialize};

/// Largest file of results, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// What became of an item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Of a window of a text, or of an answer by a person.
    Likelihood(Likelihood),
    /// Of a question with choices.
    Choice(Choice),
    /// Of a prompt.
    Answer(Answered),
}

/// How likely a stretch of text is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Likelihood {
    /// Negative logarithm of its probability.
    pub nats: f64,
    /// Its tokens.
    pub tokens: usize,
    /// Its bytes as text.
    pub bytes: usize,
}

/// Which choice was taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The likeliest one is right.
    pub right: bool,
    /// The likeliest one by its length is right.
    pub right_by_length: bool,
    /// Logarithm of each one's probability.
    pub nats: Vec<f64>,
}

/// An answer and what it is worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// The kind of the task.
    pub kind: String,
    /// It is what was expected.
    pub right: bool,
    /// Of calls and JSON: it can be read, and fits its schema.
    pub valid: Option<bool>,
    /// What is not.
    pub problem: Option<String>,
    /// The answer, thoughts included.
    pub text: String,
    /// Its tokens.
    pub tokens: usize,
    /// Whether the model ended it.
    pub ended: bool,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    model: String,
    item: String,
    file: String,
    line: usize,
    #[serde(flatten)]
    outcome: Outcome,
}

/// Outcomes by model and item.
pub struct Results {
    known: HashMap<(String, String), Outcome>,
    out: Option<(PathBuf, File)>,
    bytes: usize,
}

impl Results {
    /// Opens the file to go on with, or begins it; without one, results are kept in memory alone. A last line that a stopped
    /// run left unfinished is cut off.
    ///
    /// # Errors
    /// When the file cannot be written to, or holds something else than results.
    pub fn open(path: Option<&Path>) -> Result<Results> {
        let Some(path) = path else { return Ok(Results { known: HashMap::new(), out: None, bytes: 0 }) };
        let shown = path.display();
        let (mut known, mut bytes) = (HashMap::new(), 0);
        if std::fs::metadata(path).is_ok() {
            let text = read_whole(path, FILE_BYTES_MAX)?;
            let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            for (i, line) in text[..whole].split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty())
            {
                let Ok(line) = serde_json::from_slice::<Line>(line) else {
                    bail!("--out {shown} line {}: is no result of `outpour eval`; name another file", i + 1);
                };
                known.insert((line.model, line.item), line.outcome);
            }
            if whole == 0 && !text.is_empty() {
                bail!("--out {shown} line 1: is no result of `outpour eval`; name another file");
            }
            if whole < text.len() {
                let file = File::options().write(true).open(path).and_then(|file| file.set_len(whole as u64));
                file.with_context(|| format!("--out {shown}: cannot write; name a place that can be written to"))?;
            }
            bytes = text.len();
        }
        let file = File::options().create(true).append(true).open(path);
        let file = file.with_context(|| format!("--out {shown}: cannot write; name a place that can be written to"))?;
        Ok(Results { known, out: Some((path.to_owned(), file)), bytes })
    }

    /// What they take in memory, roughly.
    pub fn bytes(&self) -> usize {
        2 * self.bytes
    }

    /// What is known of an item.
    pub fn get(&self, model: &str, item: &str) -> Option<&Outcome> {
        self.known.get(&(model.to_owned(), item.to_owned()))
    }

    /// Notes an outcome, and writes it at once.
    ///
    /// # Errors
    /// When the drive is full, or failed.
    pub fn put(&mut self, model: &str, item: &str, (file, line): (&str, usize), outcome: &Outcome) -> Result<()> {
        let Some((path, out)) = &mut self.out else { return Ok(()) };
        let line = Line {
            model: model.to_owned(),
            item: item.to_owned(),
            file: file.to_owned(),
            line,
            outcome: outcome.clone(),
        };
        let line = serde_json::to_string(&line)? + "\n";
        out.write_all(line.as_bytes())
            .with_context(|| format!("--out {}: cannot write; free some space", path.display()))
    }
}

/// A name for some content (FNV-1a, 64 bits).
pub fn fingerprint(content: &[u8]) -> String {
    let fnv = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    format!("{:016x}", content.iter().fold(0xcbf2_9ce4_8422_2325, fnv))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(nats: f64) -> Outcome {
        Outcome::Likelihood(Likelihood { nats, tokens: 3, bytes: 9 })
    }

    #[test]
    fn a_file_is_gone_on_with_and_an_unfinished_line_is_cut_off() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("out.jsonl");
        let mut results = Results::open(Some(&path)).expect("a new file");
        results.put("m", "a", ("f", 1), &outcome(1.25)).expect("written");
        results.put("m", "b", ("f", 2), &outcome(2.5)).expect("written");
        let text = std::fs::read(&path).expect("the file");
        std::fs::write(&path, &text[..text.len() - 5]).expect("cut");
        let mut results = Results::open(Some(&path)).expect("the same file");
        assert_eq!(results.get("m", "a"), Some(&outcome(1.25)));
        assert_eq!((results.get("m", "b"), results.get("other", "a")), (None, None));
        results.put("m", "b", ("f", 2), &outcome(2.5)).expect("written");
        assert_eq!(std::fs::read(&path).expect("the file"), text);
    }

    #[test]
    fn files_of_something_else_are_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("notes.txt");
        for text in ["my notes", "my notes\n", "{\"model\": 1}\n"] {
            std::fs::write(&path, text).expect("written");
            assert!(Results::open(Some(&path)).is_err_and(|error| error.to_string().contains("notes.txt line 1")));
            assert_eq!(std::fs::read_to_string(&path).expect("the file"), text, "nothing is lost");
        }
    }
}
