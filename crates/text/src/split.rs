//! Pre-tokenization: the regular expressions that cut a text into words before bytes are merged.
//!
//! The patterns of byte-level tokenizers are plain regular expressions but for one look-ahead at the end,
//! `\s+(?!\S)|\s+`: white space, without its last character if a word follows. That end is taken off the pattern and
//! done here, so that the rest runs in an automaton whose time is linear in the text.

use crate::TextError;
use crate::schema::{Pattern, PreTokenizer};
use regex_automata::Input;
use regex_automata::meta::Regex;

/// The end that GPT-2's pattern and all its descendants have.
const TAIL: &str = r"|\s+(?!\S)|\s+";
/// The pattern of the ByteLevel step with `use_regex`, as GPT-2 defined it.
pub(crate) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Which parts of a text a step keeps as pieces.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Keep {
    /// Matches and what is between them.
    All,
    Matches,
    Gaps,
    /// Each match with what is before it.
    WithBefore,
    /// Each match with what is after it.
    WithAfter,
}

#[derive(Debug)]
struct Step {
    /// Pattern 0 is the pattern without [`TAIL`]; pattern 1, if there, is `\s+`.
    regex: Regex,
    keep: Keep,
}

/// All steps of a pre-tokenizer.
#[derive(Debug)]
pub(crate) struct Splitter {
    steps: Vec<Step>,
}

impl Splitter {
    /// Compiles the steps of `tokenizer.json`, the last of which must be ByteLevel.
    pub fn new(file: &str, pre_tokenizer: Option<&PreTokenizer>) -> Result<Splitter, TextError> {
        let mut flat = Vec::new();
        if let Some(step) = pre_tokenizer {
            flatten(step, &mut flat);
        }
        let Some((PreTokenizer::ByteLevel { add_prefix_space, use_regex }, before)) = flat.split_last() else {
            return Err(TextError::unsupported(file, "a pre-tokenizer that does not end in ByteLevel"));
        };
        if *add_prefix_space {
            return Err(TextError::unsupported(file, "ByteLevel with add_prefix_space"));
        }
        let mut steps = before.iter().map(|step| compile_step(file, step)).collect::<Result<Vec<_>, _>>()?;
        if *use_regex {
            steps.push(Step { regex: compile(file, GPT2)?, keep: Keep::All });
        }
        Ok(Splitter { steps })
    }

    /// Compiles the steps before a model of characters.
    pub fn of_pieces(file: &str, pre_tokenizer: Option<&PreTokenizer>) -> Result<Splitter, TextError> {
        let mut flat = Vec::new();
        if let Some(step) = pre_tokenizer {
            flatten(step, &mut flat);
        }
        let steps = flat.into_iter().filter(|step| !matches!(step, PreTokenizer::Metaspace { split: false, .. }));
        Ok(Splitter { steps: steps.map(|step| compile_step(file, step)).collect::<Result<_, _>>()? })
    }

    /// Calls `piece` for every non-empty piece of `text`, left to right.
    pub fn split(&self, text: &str, piece: &mut dyn FnMut(&str)) {
        split_by(&self.steps, text, piece);
    }
}

fn flatten<'a>(step: &'a PreTokenizer, flat: &mut Vec<&'a PreTokenizer>) {
    match step {
        PreTokenizer::Sequence { pretokenizers } => pretokenizers.iter().for_each(|step| flatten(step, flat)),
        step => flat.push(step),
    }
}

fn compile_step(file: &str, step: &PreTokenizer) -> Result<Step, TextError> {
    match step {
        PreTokenizer::Split { pattern, behavior, invert } => {
            let keep = match (behavior.as_str(), invert) {
                ("Isolated", _) => Keep::All,
                ("Removed", false) => Keep::Gaps,
                ("Removed", true) => Keep::Matches,
                ("MergedWithPrevious", false) => Keep::WithBefore,
                ("MergedWithNext", false) => Keep::WithAfter,
                _ => return Err(TextError::unsupported(file, format!("the split behaviour {behavior:?}"))),
            };
            let regex = match pattern {
                Pattern::Regex(pattern) => compile(file, pattern)?,
                Pattern::String(text) => compile(file, &escape(text))?,
            };
            Ok(Step { regex, keep })
        }
        PreTokenizer::Digits { individual_digits } => {
            let regex = compile(file, if *individual_digits { r"\p{N}" } else { r"\p{N}+" })?;
            Ok(Step { regex, keep: Keep::All })
        }
        PreTokenizer::Metaspace { replacement, .. } => {
            Ok(Step { regex: compile(file, &escape(replacement))?, keep: Keep::WithAfter })
        }
        PreTokenizer::ByteLevel { .. } => Err(TextError::unsupported(file, "a pre-tokenizer step after ByteLevel")),
        _ => Err(TextError::unsupported(file, "a pre-tokenizer other than Split, Digits and ByteLevel")),
    }
}

fn compile(file: &str, pattern: &str) -> Result<Regex, TextError> {
    let refuse = |why: &str| Err(TextError::unsupported(file, format!("the split pattern {pattern:?} ({why})")));
    let (head, tail) = match pattern.strip_suffix(TAIL) {
        Some(head) => (head, Some(r"\s+")),
        None => (pattern, None),
    };
    if has_possessive(head) {
        return refuse("possessive quantifier");
    }
    let patterns: Vec<&str> = std::iter::once(head).chain(tail).collect();
    match Regex::builder().build_many(&patterns) {
        Ok(regex) if regex.is_match("") => refuse("it matches the empty text"),
        Ok(regex) => Ok(regex),
        Err(_) => refuse("not a regular expression, or look-around before its end"),
    }
}

/// `x?+`, `x*+` and `x++` never give back what they took; the automaton would read them as something else.
fn has_possessive(pattern: &str) -> bool {
    let (mut escaped, mut class, mut quantified) = (false, 0usize, false);
    for c in pattern.chars() {
        let was_quantified = std::mem::take(&mut quantified);
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => class += 1,
            ']' => class = class.saturating_sub(1),
            '+' if was_quantified => return true,
            '?' | '*' | '+' if class == 0 => quantified = true,
            _ => {}
        }
    }
    false
}

/// `text` as a pattern that matches just it.
fn escape(text: &str) -> String {
    text.chars().flat_map(|c| r"\.+*?()|[]{}^$#&-~".contains(c).then_some('\\').into_iter().chain([c])).collect()
}

fn split_by(steps: &[Step], text: &str, piece: &mut dyn FnMut(&str)) {
    let Some((step, steps)) = steps.split_first() else {
        if !text.is_empty() {
            piece(text);
        }
        return;
    };
    let mut done = 0;
    let mut at = 0;
    while at < text.len() {
        let input = Input::new(text).range(at..);
        let Some(found) = step.regex.search(&input) else { break };
        let (start, mut end) = (found.start(), found.end());
        if found.pattern().as_usize() == 1 {
            end = without_last_space(text, start, end);
        }
        if end == start {
            at = text[start..].chars().next().map_or(text.len(), |c| start + c.len_utf8());
            continue;
        }
        let (before, own) = match step.keep {
            Keep::All => (done..start, start..end),
            Keep::Matches => (done..done, start..end),
            Keep::Gaps => (done..start, start..start),
            Keep::WithBefore => (done..done, done..end),
            Keep::WithAfter => (done..start, start..start),
        };
        split_by(steps, &text[before], piece);
        split_by(steps, &text[own], piece);
        done = if step.keep == Keep::WithAfter { start } else { end };
        at = end;
    }
    if step.keep != Keep::Matches {
        split_by(steps, &text[done..], piece);
    }
}

/// The end of `\s+(?!\S)` for the white space `start..end`, or `end` where only `\s+` matches.
fn without_last_space(text: &str, start: usize, end: usize) -> usize {
    if end == text.len() {
        return end;
    }
    match text[start..end].char_indices().next_back() {
        Some((last, _)) if last > 0 => start + last,
        _ => end,
    }
}
