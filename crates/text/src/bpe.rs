//! Byte-pair merges: the pair with the lowest rank first, the leftmost of equals.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

/// A hash for keys that are already two packed ids; the merges come from the model's file, not from a user.
#[derive(Default)]
pub(crate) struct PairHasher(u64);

impl Hasher for PairHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = (self.0 ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// What the pair `left << 32 | right` becomes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Merged {
    /// Place in the list of merges; lower goes first.
    pub rank: u32,
    /// The token that replaces the pair.
    pub id: u32,
}

pub(crate) type Merges = HashMap<u64, Merged, BuildHasherDefault<PairHasher>>;

/// The key of a pair in [`Merges`].
pub(crate) fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

/// The tokens of single bytes; [`NONE`] of those that have none, and give none (as with Hugging Face's).
pub(crate) type ByteIds = Box<[u32; 256]>;

/// What is joined.
#[derive(Debug)]
pub(crate) enum Units {
    /// Bytes, each of which is a token.
    Bytes(ByteIds),
    /// Characters, of which those that are no token become their bytes, or the unknown token.
    Chars(Chars),
}

#[derive(Debug)]
pub(crate) struct Chars {
    pub ids: HashMap<char, u32>,
    pub bytes: Option<ByteIds>,
    pub unknown: Option<u32>,
    /// Unknown characters one after another are one token.
    pub fuse_unknown: bool,
}

impl Units {
    fn each(&self, piece: &str, mut unit: impl FnMut(u32)) {
        match self {
            Units::Bytes(ids) => {
                piece.bytes().map(|byte| ids[usize::from(byte)]).filter(|id| *id != NONE).for_each(unit);
            }
            Units::Chars(chars) => {
                let mut after_unknown = false;
                for c in piece.chars() {
                    let was_unknown = std::mem::take(&mut after_unknown);
                    match (chars.ids.get(&c), &chars.bytes, chars.unknown) {
                        (Some(&id), _, _) => unit(id),
                        (None, Some(bytes), _) => {
                            c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| unit(bytes[usize::from(byte)]));
                        }
                        (None, None, Some(id)) => {
                            after_unknown = true;
                            if !(was_unknown && chars.fuse_unknown) {
                                unit(id);
                            }
                        }
                        (None, None, None) => {}
                    }
                }
            }
        }
    }
}

/// Tokens of single units, and the merges that join them.
#[derive(Debug)]
pub(crate) struct Bpe {
    pub units: Units,
    pub merges: Merges,
}

pub(crate) const NONE: u32 = u32::MAX;

/// One symbol of the piece being merged, linked to its neighbours; `id` is `NONE` once it is merged away.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    prev: u32,
    next: u32,
}

/// Buffers of [`Bpe::encode`], kept between pieces.
#[derive(Default)]
pub(crate) struct Scratch {
    symbols: Vec<Symbol>,
    /// Candidate merges, `rank << 32 | position` of the left symbol; stale ones are skipped when popped.
    queue: BinaryHeap<Reverse<u64>>,
}

impl Bpe {
    /// Appends the tokens of one piece to `ids`. `piece` has fewer than 2^32 - 1 bytes. n log n in its length.
    pub fn encode(&self, piece: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let Scratch { symbols, queue } = scratch;
        symbols.clear();
        queue.clear();
        self.units.each(piece, |id| {
            let at = symbols.len() as u32;
            symbols.push(Symbol { id, prev: at.checked_sub(1).unwrap_or(NONE), next: at + 1 });
        });
        let last = symbols.len() as u32;
        if let Some(symbol) = symbols.last_mut() {
            symbol.next = NONE;
        }
        for at in 1..last {
            self.offer(symbols, queue, at - 1);
        }
        while let Some(Reverse(entry)) = queue.pop() {
            let (rank, at) = ((entry >> 32) as u32, entry as u32);
            let Some(merged) = self.candidate(symbols, at).filter(|m| m.rank == rank) else { continue };
            let Symbol { prev, next: right, .. } = symbols[at as usize];
            let next = symbols[right as usize].next;
            symbols[right as usize].id = NONE;
            symbols[at as usize] = Symbol { id: merged.id, prev, next };
            if next != NONE {
                symbols[next as usize].prev = at;
                self.offer(symbols, queue, at);
            }
            if prev != NONE {
                self.offer(symbols, queue, prev);
            }
        }
        ids.extend(symbols.iter().map(|symbol| symbol.id).filter(|&id| id != NONE));
    }

    /// The merge of the symbol at `at` with the one after it, if both live and there is one.
    fn candidate(&self, symbols: &[Symbol], at: u32) -> Option<Merged> {
        let left = symbols.get(at as usize).filter(|s| s.id != NONE)?;
        let right = symbols.get(left.next as usize)?;
        self.merges.get(&pair(left.id, right.id)).copied()
    }

    fn offer(&self, symbols: &[Symbol], queue: &mut BinaryHeap<Reverse<u64>>, at: u32) {
        if let Some(merged) = self.candidate(symbols, at) {
            queue.push(Reverse(u64::from(merged.rank) << 32 | u64::from(at)));
        }
    }
}
