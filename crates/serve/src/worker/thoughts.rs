//! Which tokens of an answer are thoughts, and how many there may be.

use outpour_text::Tokenizer;

/// The thoughts of one answer, told by the tokens that mark them.
#[derive(Clone, Debug)]
pub(crate) struct Thoughts {
    marks: Marks,
    budget: Option<Budget>,
    /// Whether the next token is one of them.
    inside: bool,
    /// Tokens of them so far, with their marks.
    count: usize,
    /// Tokens since they last began.
    since: usize,
}

/// The tokens around thoughts.
#[derive(Clone, Debug)]
pub(crate) struct Marks {
    pub(crate) open: Vec<u32>,
    pub(crate) close: u32,
    /// Whether thoughts may come anywhere in an answer, and not only at its beginning.
    pub(crate) again: bool,
}

/// A limit of thoughts.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    /// Tokens that may be thought.
    pub(crate) tokens: usize,
    /// What ends them where the model does not.
    pub(crate) closing: Vec<u32>,
}

impl Thoughts {
    /// Those of an answer at its beginning, which is `inside` of them where the prompt began them.
    pub(crate) fn new(marks: Marks, inside: bool, budget: Option<Budget>) -> Thoughts {
        Thoughts { marks, budget, inside, count: 0, since: 0 }
    }

    /// Whether the next token is one of them.
    pub(super) fn inside(&self) -> bool {
        self.inside
    }

    /// Tokens so far, with the marks that the answer itself wrote.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Notes the last token of `answer`, which is all that was generated.
    pub(super) fn note(&mut self, answer: &[u32], tokenizer: &Tokenizer) {
        if self.inside {
            self.count += 1;
            self.since += 1;
            self.inside = answer.last() != Some(&self.marks.close);
        } else if self.begin(answer, tokenizer) {
            self.count += self.marks.open.len();
            self.since = 0;
            self.inside = true;
        }
    }

    /// Whether `answer` ends with what begins thoughts.
    fn begin(&self, answer: &[u32], tokenizer: &Tokenizer) -> bool {
        let Some(before) = answer.strip_suffix(self.marks.open.as_slice()) else { return false };
        !self.marks.open.is_empty() && (self.marks.again || tokenizer.decode(before).trim().is_empty())
    }

    /// What must come next, where as much was thought as may be.
    pub(super) fn closing(&self) -> Option<&[u32]> {
        let budget = self.budget.as_ref().filter(|budget| self.inside && self.since >= budget.tokens)?;
        Some(&budget.closing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts the thoughts of an answer, and tells after which of its tokens they must end.
    fn follow(mut thoughts: Thoughts, answer: &[u32], tokenizer: &Tokenizer) -> (usize, Vec<usize>) {
        let mut closed = Vec::new();
        for end in 1..=answer.len() {
            thoughts.note(&answer[..end], tokenizer);
            closed.extend(thoughts.closing().map(|_| end));
        }
        (thoughts.count(), closed)
    }

    #[test]
    fn thoughts_are_counted_from_mark_to_mark() {
        let json = include_bytes!("../../../../tests/fixtures/text/tokenizer.json");
        let tokenizer = Tokenizer::from_json(json, None).expect("the fixture");
        let (open, close) = (vec![900, 901], 902);
        let space = tokenizer.encode("\n", false).expect("tokens");
        let word = tokenizer.encode("so", false).expect("tokens")[0];
        let marks = |again| Marks { open: open.clone(), close, again };
        let budget = |tokens| Some(Budget { tokens, closing: vec![close] });
        let answer = [&space[..], &[900, 901, word, word, close, word, 900, 901, word, close, word]].concat();
        let at = space.len();
        let thoughts = |inside, again, budget| Thoughts::new(marks(again), inside, budget);
        assert_eq!(follow(thoughts(false, false, None), &answer, &tokenizer), (5, vec![]));
        assert_eq!(follow(thoughts(false, true, None), &answer, &tokenizer), (9, vec![]));
        assert_eq!(follow(thoughts(true, false, None), &[word, close, word], &tokenizer), (2, vec![]));
        // Two may be thought: after those, and as long as they go on.
        assert_eq!(follow(thoughts(false, false, budget(2)), &answer, &tokenizer).1, [at + 4]);
        assert_eq!(
            follow(thoughts(false, true, budget(0)), &answer, &tokenizer).1,
            [at + 2, at + 3, at + 4, at + 8, at + 9]
        );
        assert!(
            thoughts(true, false, budget(0)).closing().is_some()
                && thoughts(false, false, budget(0)).closing().is_none()
        );
    }
}
