//! Token ids to text, one at a time, never cutting a character.

use crate::Tokenizer;

/// Decodes a stream of ids. The pieces it gives, joined, equal [`Tokenizer::decode_with`] of all ids. After
/// [`Detokenizer::new`] it allocates nothing.
#[derive(Debug)]
pub struct Detokenizer {
    skip_special: bool,
    /// The next bytes lose the space that they begin with.
    strip_space: bool,
    /// Bytes not yet given out: the beginning of a character, at most three bytes between calls.
    pending: Vec<u8>,
    /// The piece given out last.
    piece: String,
}

impl Detokenizer {
    /// A decoder at the beginning of a text. With `skip_special`, control tokens give no text.
    pub fn new(tokenizer: &Tokenizer, skip_special: bool) -> Detokenizer {
        let bytes_max = tokenizer.token_bytes_max() + 3;
        // A byte that is not UTF-8 becomes the three of U+FFFD.
        Detokenizer {
            skip_special,
            strip_space: tokenizer.strips_space,
            pending: Vec::with_capacity(bytes_max),
            piece: String::with_capacity(3 * bytes_max),
        }
    }

    /// Takes the next id and gives the text that no later token can change: possibly none, possibly several
    /// characters. Ids without a token give no text.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> &str {
        self.piece.clear();
        if self.skip_special && tokenizer.is_special(id) {
            return "";
        }
        if let Some(bytes) = tokenizer.token_bytes(id) {
            let strip = !bytes.is_empty() && std::mem::take(&mut self.strip_space);
            self.pending.extend_from_slice(bytes.strip_prefix(b" ").filter(|_| strip).unwrap_or(bytes));
            self.settle(false);
        }
        &self.piece
    }

    /// Gives what is left, U+FFFD for a character that never became whole, and begins a new text.
    pub fn finish(&mut self) -> &str {
        self.piece.clear();
        self.settle(true);
        &self.piece
    }

    /// Moves whole characters from `pending` to `piece`, and the unfinished one too if this is the `end`.
    fn settle(&mut self, end: bool) {
        let mut settled = 0;
        for chunk in self.pending.utf8_chunks() {
            self.piece.push_str(chunk.valid());
            settled += chunk.valid().len();
            let invalid = chunk.invalid();
            let last = settled + invalid.len() == self.pending.len();
            if invalid.is_empty() || (last && !end && is_unfinished(invalid)) {
                break;
            }
            self.piece.push('\u{fffd}');
            settled += invalid.len();
        }
        self.pending.drain(..settled);
    }
}

/// Whether more bytes could make a character of these.
fn is_unfinished(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::Detokenizer;
    use crate::Tokenizer;

    /// Whatever the ids, the buffers made in `new` are large enough: `push` never allocates.
    #[test]
    fn buffers_do_not_grow() {
        let json = include_bytes!("../../../tests/fixtures/text/tokenizer.json");
        let tokenizer = Tokenizer::from_json(json, None).expect("fixture");
        let mut detokenizer = Detokenizer::new(&tokenizer, false);
        let capacities = |d: &Detokenizer| (d.pending.capacity(), d.piece.capacity());
        let before = capacities(&detokenizer);
        let mut random = 1u64;
        for _ in 0..100_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let id = (random >> 33) % tokenizer.vocab_size() as u64;
            detokenizer.push(&tokenizer, id as u32);
            assert!(detokenizer.pending.len() <= 3);
        }
        detokenizer.finish();
        assert_eq!(capacities(&detokenizer), before);
    }
}
