//! Added tokens: texts such as `<|im_end|>` that are found before the text is split into words.

use std::ops::Range;

/// One added token, as `tokenizer.json` describes it.
#[derive(Debug)]
pub(crate) struct Added {
    pub id: u32,
    pub content: String,
    /// Control tokens, as opposed to ordinary texts that merely have their own id (`<think>`).
    pub special: bool,
    /// The white space before it belongs to it.
    pub lstrip: bool,
    /// The white space after it belongs to it.
    pub rstrip: bool,
}

/// A set of added tokens that are searched in the same text: leftmost match, longest of those.
#[derive(Debug, Default)]
pub(crate) struct AddedSet {
    /// Longest content first.
    tokens: Vec<Added>,
    /// For each first byte the tokens that begin with it.
    by_first: Vec<Vec<u32>>,
}

/// A part of a text: what is still to be tokenized, or an added token.
#[derive(Debug, PartialEq)]
pub(crate) enum Part {
    Text(Range<usize>),
    Token(u32),
}

impl AddedSet {
    pub fn new(mut tokens: Vec<Added>) -> AddedSet {
        tokens.retain(|token| !token.content.is_empty());
        tokens.sort_by_key(|token| std::cmp::Reverse(token.content.len()));
        let mut by_first = vec![Vec::new(); 256];
        for (token, i) in tokens.iter().zip(0u32..) {
            if let Some(&first) = token.content.as_bytes().first() {
                by_first[usize::from(first)].push(i);
            }
        }
        AddedSet { tokens, by_first }
    }

    /// Calls `part` for the pieces of `text` from left to right. Without `special`, special tokens are left as text.
    pub fn split(&self, text: &str, special: bool, mut part: impl FnMut(Part)) {
        let (mut done, mut at) = (0, 0);
        while at < text.len() {
            let Some(token) = self.longest_at(text, at) else {
                at += 1;
                continue;
            };
            let mut start = at;
            at += token.content.len();
            if token.special && !special {
                continue;
            }
            if token.lstrip {
                start = text[..start].trim_end().len().max(done);
            }
            let mut end = at;
            if token.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            if done < start {
                part(Part::Text(done..start));
            }
            part(Part::Token(token.id));
            (done, at) = (end, end);
        }
        if done < text.len() {
            part(Part::Text(done..text.len()));
        }
    }

    /// The longest token that begins at byte `at`.
    fn longest_at(&self, text: &str, at: usize) -> Option<&Added> {
        let rest = &text.as_bytes()[at..];
        let candidates = self.by_first.get(usize::from(*rest.first()?))?;
        let fits = |token: &&Added| rest.starts_with(token.content.as_bytes());
        candidates.iter().filter_map(|&i| self.tokens.get(i as usize)).find(fits)
    }
}
