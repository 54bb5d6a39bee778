//! Files of text and of lines of JSON, as tasks. Every fault names its file and line.

use std::path::Path;

use anyhow::{Context, Result, bail};
use outpour_store::read::whole::read_whole;
use serde_json::{Map, Value};

use super::judge::Expect;
use crate::args::CompareArg;

/// Largest file of text or of items, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// What is measured, of one file.
pub struct Task {
    /// The file.
    pub file: String,
    /// Its items.
    pub what: What,
}

/// The kinds of tasks.
pub enum What {
    /// A text, of which the perplexity is wanted.
    Text(String),
    /// Questions with choices.
    Choices(Vec<Question>, CompareArg),
    /// Prompts with what is expected of their answers, and texts of which the perplexity is wanted, with their lines.
    Answers(Vec<Dialog>, Vec<(usize, String)>),
}

impl Task {
    /// What the items take in memory, roughly: texts, tokens and their windows.
    pub fn bytes(&self) -> usize {
        match &self.what {
            What::Text(text) => 5 * text.len(),
            What::Choices(questions, _) => questions.iter().map(|q| 2 * q.prompt.len() + 256).sum(),
            What::Answers(dialogs, texts) => {
                let texts: usize = texts.iter().map(|(_, text)| 5 * text.len()).sum();
                texts + dialogs.iter().map(|dialog| dialog.bytes).sum::<usize>()
            }
        }
    }
}

/// A question with choices.
pub struct Question {
    /// Line of the file.
    pub line: usize,
    /// Worked examples and the question, up to where a choice follows.
    pub prompt: String,
    /// What could follow.
    pub continuations: Vec<String>,
    /// Which one is right.
    pub answer: usize,
}

/// A prompt with what is expected of its answer.
pub struct Dialog {
    /// Line of the file.
    pub line: usize,
    /// What kind of task it is; scores are shown for each kind.
    pub kind: String,
    /// The conversation up to the answer.
    pub prompt: Prompt,
    /// The tools, as the template takes them.
    pub tools: Vec<Value>,
    /// Whether the model is to think; by its template where this is none.
    pub thinking: Option<bool>,
    /// An answer by a person, as the template takes it.
    pub given: Option<Value>,
    /// What the answer must fulfil.
    pub expect: Expect,
    /// What it takes in memory, roughly.
    bytes: usize,
}

/// What comes before an answer.
pub enum Prompt {
    /// A conversation.
    Messages(Vec<Value>),
    /// A text.
    Text(String),
}

/// A text.
///
/// # Errors
/// When the file cannot be read, is no UTF-8 or empty.
pub fn text(path: &Path) -> Result<Task> {
    Ok(Task { file: path.display().to_string(), what: What::Text(read(path)?) })
}

fn read(path: &Path) -> Result<String> {
    let text = String::from_utf8(read_whole(path, FILE_BYTES_MAX)?).map_err(|error| {
        let line =
            error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
        anyhow::anyhow!("{} line {line}: is not UTF-8 text; convert it", path.display())
    })?;
    if text.trim().is_empty() {
        bail!("{}: is empty; name a file with something to measure", path.display());
    }
    Ok(text)
}

/// The objects of a file, one a line, with their line; at most `limit`.
fn objects(path: &Path, limit: usize) -> Result<Vec<(usize, Map<String, Value>)>> {
    let text = read(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let object = |(i, line): (usize, &str)| match serde_json::from_str(line) {
        Ok(Value::Object(object)) => Ok((i + 1, object)),
        Ok(_) => bail!("{} line {}: is not a JSON object; give one a line", path.display(), i + 1),
        Err(error) => bail!("{} line {}: is not JSON ({error}); give one object a line", path.display(), i + 1),
    };
    lines.take(limit).map(object).collect()
}

/// A question as its file has it.
struct Raw {
    line: usize,
    question: String,
    choices: Vec<String>,
    answer: usize,
}

/// Questions with choices, the first `limit` of a file, each with `shots` worked examples before it.
///
/// # Errors
/// When a line has no question, choices or answer, or the file has too few for the examples.
pub fn choices(path: &Path, limit: usize, shots: usize, compare: CompareArg, seed: u64) -> Result<Task> {
    // The examples come from the whole file, whatever the limit.
    let raw: Vec<Raw> = objects(path, usize::MAX)?
        .iter()
        .map(|(line, object)| raw_question(*line, object).with_context(|| format!("{} line {line}", path.display())))
        .collect::<Result<_>>()?;
    if raw.len() <= shots {
        bail!(
            "{}: has {} questions, too few for --shots {shots}; give at most {}",
            path.display(),
            raw.len(),
            raw.len() - 1
        );
    }
    let drawn = draw(raw.len(), shots + 1, seed);
    let question = |(i, raw_question): (usize, &Raw)| {
        // The same examples for every question, but never the question itself: so their computation is shared.
        let examples: String =
            drawn.iter().filter(|&&other| other != i).take(shots).map(|&other| raw[other].worked(compare)).collect();
        let count = raw_question.choices.len();
        Question {
            line: raw_question.line,
            prompt: examples + &raw_question.asked(compare),
            continuations: (0..count).map(|choice| raw_question.continuation(compare, choice)).collect(),
            answer: raw_question.answer,
        }
    };
    let questions = raw.iter().enumerate().take(limit).map(question).collect();
    Ok(Task { file: path.display().to_string(), what: What::Choices(questions, compare) })
}

/// Draws `count` different numbers below `n`, or all of them (Fisher and Yates, with SplitMix64).
fn draw(n: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut all: Vec<usize> = (0..n).collect();
    for i in 0..count.min(n) {
        let other = i + (next() % (n - i) as u64) as usize;
        all.swap(i, other);
    }
    all.truncate(count);
    all
}

impl Raw {
    fn asked(&self, compare: CompareArg) -> String {
        match compare {
            CompareArg::Texts => format!("Question: {}\nAnswer:", self.question),
            CompareArg::Letters => {
                let listed = self.choices.iter().enumerate().map(|(i, choice)| format!("{}. {choice}\n", letter(i)));
                format!("{}\n{}Answer:", self.question, listed.collect::<String>())
            }
        }
    }

    fn continuation(&self, compare: CompareArg, choice: usize) -> String {
        match compare {
            CompareArg::Texts => format!(" {}", self.choices[choice]),
            CompareArg::Letters => format!(" {}", letter(choice)),
        }
    }

    fn worked(&self, compare: CompareArg) -> String {
        format!("{}{}\n\n", self.asked(compare), self.continuation(compare, self.answer))
    }
}

/// As many choices as there are letters.
const CHOICES_MAX: usize = 26;

fn letter(i: usize) -> char {
    char::from(b'A' + i as u8)
}

fn raw_question(line: usize, object: &Map<String, Value>) -> Result<Raw> {
    let question = object.get("question").and_then(Value::as_str).context("has no text `question`")?;
    let (texts, labels) = match object.get("choices") {
        Some(Value::Array(texts)) => (texts, None),
        // As in ARC: {"text": [...], "label": [...]}.
        Some(Value::Object(both)) => {
            let texts = both.get("text").and_then(Value::as_array).context("has `choices` without a list `text`")?;
            (texts, both.get("label").and_then(Value::as_array))
        }
        _ => bail!("has no list `choices`"),
    };
    let texts: Option<Vec<String>> =
        texts.iter().map(|text| text.as_str().map(|text| text.trim().to_owned())).collect();
    let choices = texts.context("has a choice that is no text")?;
    if !(2..=CHOICES_MAX).contains(&choices.len()) {
        bail!("has {} choices; 2 to {CHOICES_MAX} can be compared", choices.len());
    }
    let answer = object.get("answer").or(object.get("answerKey")).context("has no `answer`")?;
    let index = match answer {
        Value::Number(number) => number.as_u64().map(|number| number as usize),
        Value::String(text) => index_of(text.trim(), &choices, labels),
        _ => None,
    };
    let index = index.filter(|&index| index < choices.len()).with_context(|| {
        format!("has the answer {answer}, which is none of its {} choices, counted from 0", choices.len())
    })?;
    Ok(Raw { line, question: question.trim().to_owned(), choices, answer: index })
}

/// Which choice a text names: its own text, its label, its letter, or its number.
fn index_of(text: &str, choices: &[String], labels: Option<&Vec<Value>>) -> Option<usize> {
    let by_text = choices.iter().position(|choice| choice == text);
    let by_label = || labels?.iter().position(|label| label.as_str() == Some(text));
    let by_letter = || match text.trim_matches(['(', ')', '.']).as_bytes() {
        [letter] if letter.is_ascii_alphabetic() => Some((letter.to_ascii_uppercase() - b'A') as usize),
        _ => None,
    };
    by_text.or_else(by_label).or_else(by_letter).or_else(|| text.parse().ok())
}

/// Prompts with what is expected of their answers, and texts, the first `limit` lines of a file.
///
/// # Errors
/// When a line has neither text nor prompt, or nothing is expected of an answer.
pub fn answers(path: &Path, limit: usize) -> Result<Task> {
    let (mut dialogs, mut texts) = (Vec::new(), Vec::new());
    for (line, object) in objects(path, limit)? {
        match object.get("text") {
            Some(Value::String(text)) if !object.contains_key("messages") && !object.contains_key("prompt") => {
                texts.push((line, text.clone()));
            }
            _ => dialogs.push(dialog(line, &object).with_context(|| format!("{} line {line}", path.display()))?),
        }
    }
    Ok(Task { file: path.display().to_string(), what: What::Answers(dialogs, texts) })
}

fn dialog(line: usize, object: &Map<String, Value>) -> Result<Dialog> {
    let kind = object.get("kind").and_then(Value::as_str);
    let expect = Expect::read(object, kind)?;
    let tools = match object.get("tools") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(tools)) => tools.clone(),
        Some(_) => bail!("has `tools` that are no list"),
    };
    let mut given = None;
    let prompt = match (object.get("messages"), object.get("prompt")) {
        (Some(Value::Array(messages)), None) => {
            let mut messages = messages.clone();
            if messages.iter().any(|message| message.get("role").and_then(Value::as_str).is_none()) {
                bail!("has a message without a `role`");
            }
            given = messages.pop_if(|last| last["role"] == "assistant");
            if messages.is_empty() {
                bail!("has no message before the answer");
            }
            Prompt::Messages(messages)
        }
        (None, Some(Value::String(prompt))) if !prompt.is_empty() => Prompt::Text(prompt.clone()),
        (Some(_), Some(_)) => bail!("has both `messages` and `prompt`; give one"),
        _ => bail!("has neither a list `messages` nor a text `prompt`, and no `text` either"),
    };
    let thinking = object.get("thinking").or(object.get("enable_thinking")).and_then(Value::as_bool);
    let kind = kind.unwrap_or(expect.name()).to_owned();
    // As values and text, and as tokens of prompt and answer.
    let bytes = 8 * Value::Object(object.clone()).to_string().len();
    Ok(Dialog { line, kind, prompt, tools, thinking, given, expect, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_question(object: Value) -> Result<Raw> {
        raw_question(1, object.as_object().expect("an object"))
    }

    #[test]
    fn answers_are_numbers_letters_labels_or_texts() {
        let choices = json!(["red", "blue", "C"]);
        for (answer, index) in [
            (json!(1), 1),
            (json!("blue"), 1),
            (json!("B"), 1),
            (json!("(b)"), 1),
            (json!("1"), 1),
            (json!("C"), 2),
            (json!(0), 0),
        ] {
            let question = read_question(json!({"question": "q", "choices": choices, "answer": answer}));
            assert_eq!(question.map(|q| q.answer).ok(), Some(index), "{answer}");
        }
        let arc = json!({"question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"});
        assert_eq!(read_question(arc).map(|q| q.answer).ok(), Some(1));
        for answer in [json!(3), json!(-1), json!("D"), json!("green"), json!(null), json!([0])] {
            let question = json!({"question": "q", "choices": choices, "answer": answer});
            assert!(read_question(question).is_err_and(|e| e.to_string().contains("answer")), "{answer}");
        }
    }

    #[test]
    fn draws_are_different_numbers_that_the_seed_decides() {
        let drawn = draw(10, 5, 1);
        assert_eq!(drawn, draw(10, 5, 1));
        assert_ne!(drawn, draw(10, 5, 2));
        let mut sorted = drawn.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert!(sorted.len() == 5 && sorted.iter().all(|&i| i < 10));
        assert_eq!(draw(3, 7, 0).len(), 3);
    }

    #[test]
    fn questions_are_asked_in_both_forms() {
        let raw =
            read_question(json!({"question": "Sky?", "choices": ["red", "blue"], "answer": 1})).expect("a question");
        assert_eq!(raw.worked(CompareArg::Letters), "Sky?\nA. red\nB. blue\nAnswer: B\n\n");
        assert_eq!(raw.worked(CompareArg::Texts), "Question: Sky?\nAnswer: blue\n\n");
    }
}
