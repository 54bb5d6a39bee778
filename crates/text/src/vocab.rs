//! The bytes of every token, flat, and the GPT-2 alphabet in which `tokenizer.json` writes bytes as letters.

use crate::TextError;

/// Ids at or above this are refused: the largest vocabulary seen has 262,208 tokens.
pub(crate) const TOKENS_MAX: u32 = 1 << 22;

/// The bytes of each token id: `bytes[ends[id - 1]..ends[id]]`.
#[derive(Debug)]
pub(crate) struct Vocab {
    bytes: Vec<u8>,
    /// One per id, `ends[id] & !HOLE`; the top bit says that no token has this id.
    ends: Vec<u32>,
    /// Ids in the order of their bytes, for the search by bytes.
    sorted: Vec<u32>,
    longest: usize,
}

const HOLE: u32 = 1 << 31;

impl Vocab {
    /// Lays out `tokens` (id, text as written in the file); ids may come in any order, each once.
    pub fn new(file: &str, mut tokens: Vec<(u32, &str)>, written: &Written) -> Result<Vocab, TextError> {
        tokens.sort_unstable_by_key(|&(id, _)| id);
        let total: usize = tokens.iter().map(|(_, text)| text.len()).sum();
        if total >= HOLE as usize {
            return Err(TextError::invalid(file, "its tokens have more than 2 GiB of text"));
        }
        let last = tokens.last().map_or(0, |&(id, _)| id);
        if last >= TOKENS_MAX {
            return Err(TextError::invalid(file, format!("token id {last} is above the limit of {TOKENS_MAX}")));
        }
        let mut vocab = Vocab { bytes: Vec::with_capacity(total), ends: Vec::new(), sorted: Vec::new(), longest: 0 };
        for &(id, text) in &tokens {
            if (id as usize) < vocab.ends.len() {
                return Err(TextError::invalid(file, format!("two tokens have the id {id}")));
            }
            let start = vocab.bytes.len();
            vocab.ends.resize(id as usize, start as u32 | HOLE);
            written.decode_into(text, &mut vocab.bytes);
            vocab.ends.push(vocab.bytes.len() as u32);
            vocab.longest = vocab.longest.max(vocab.bytes.len() - start);
        }
        vocab.bytes.shrink_to_fit();
        // Of `A` and `<0x41>`, the same byte, a search finds the first.
        let key = |&(id, text): &(u32, &str)| (vocab.get(id), text.len(), id);
        tokens.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
        vocab.sorted = tokens.iter().map(|&(id, _)| id).collect();
        Ok(vocab)
    }

    /// The token's bytes; `None` for an id without a token.
    pub fn get(&self, id: u32) -> Option<&[u8]> {
        let end = *self.ends.get(id as usize)?;
        if end & HOLE != 0 {
            return None;
        }
        let start = match id.checked_sub(1) {
            Some(before) => self.ends.get(before as usize)? & !HOLE,
            None => 0,
        };
        self.bytes.get(start as usize..end as usize)
    }

    /// The id with exactly these bytes; of several the one that is written shortest, then the lowest.
    pub fn find(&self, bytes: &[u8]) -> Option<u32> {
        let at = self.sorted.partition_point(|&id| self.get(id) < Some(bytes));
        self.sorted.get(at).copied().filter(|&id| self.get(id) == Some(bytes))
    }

    /// One past the highest id.
    pub fn size(&self) -> usize {
        self.ends.len()
    }

    /// Length of the longest token in bytes.
    pub fn longest(&self) -> usize {
        self.longest
    }
}

/// The letter that stands for each byte: printable Latin-1 stands for itself, the rest for U+0100 and up.
pub(crate) fn byte_letters() -> [char; 256] {
    let mut letters = ['\0'; 256];
    let mut next = 0x100;
    for (byte, letter) in letters.iter_mut().enumerate() {
        *letter = match byte {
            0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(byte as u8),
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap_or('\u{fffd}')
            }
        };
    }
    letters
}

/// How a file writes the bytes of its tokens.
pub(crate) enum Written {
    /// In the letters of [`byte_letters`].
    Letters(ByteAlphabet),
    /// As text, with [`SPACE`] for a space, and `<0x0A>` for a single byte.
    Pieces,
}

/// What stands for a space in SentencePiece's tokens, `▁`.
pub(crate) const SPACE: char = '\u{2581}';

impl Written {
    /// Appends what `token` is decoded to.
    fn decode_into(&self, token: &str, bytes: &mut Vec<u8>) {
        match (self, byte_of(token)) {
            (Written::Letters(alphabet), _) => alphabet.decode_into(token, bytes),
            (Written::Pieces, Some(byte)) => bytes.push(byte),
            (Written::Pieces, None) => bytes.extend_from_slice(token.replace(SPACE, " ").as_bytes()),
        }
    }
}

/// The byte that `<0x0A>` stands for.
pub(crate) fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>').filter(|digits| digits.len() == 2)?;
    u8::from_str_radix(digits, 16).ok()
}

/// Reads tokens written in the letters of [`byte_letters`].
pub(crate) struct ByteAlphabet {
    /// Indexed by code point, 0x000..0x200; 256 means that the letter stands for no byte.
    bytes: [u16; 0x200],
}

impl ByteAlphabet {
    pub fn new() -> ByteAlphabet {
        let mut bytes = [256; 0x200];
        for (byte, letter) in byte_letters().into_iter().enumerate() {
            if let Some(slot) = bytes.get_mut(letter as usize) {
                *slot = byte as u16;
            }
        }
        ByteAlphabet { bytes }
    }

    /// Appends what `token` is decoded to: letter by letter, or its own UTF-8 if any letter stands for no byte.
    fn decode_into(&self, token: &str, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        for c in token.chars() {
            match self.bytes.get(c as usize).and_then(|&byte| u8::try_from(byte).ok()) {
                Some(byte) => bytes.push(byte),
                None => {
                    bytes.truncate(start);
                    bytes.extend_from_slice(token.as_bytes());
                    return;
                }
            }
        }
    }
}
