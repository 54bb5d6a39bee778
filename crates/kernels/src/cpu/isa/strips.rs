//! Blocks and codes of as many rows as a vector has lanes, unpacked to a panel side by side: a strip.
//!
//! Words are transposed as they are stored, so that each lane holds its row's, and taken apart there: nothing but unpacked
//! weights goes to memory, and a block's scales are unpacked for all rows at once. What comes out is, to the bit, what
//! [`Block::unpack`] makes of each block.

// Words are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

mod blocks;
pub(super) mod codes;
#[cfg(test)]
mod tests;

use super::affine::Ints;
use super::panel::{LANES_MAX, Place, rows_at};
use super::tile::Lanes;
use super::unpacked::Panel;
use super::{Dots, Packed, UnpackedDots};
use crate::quant::coded::e2m1_table;
use crate::quant::ggml::{Block, of_type};

/// Most bytes of a row that are unpacked at once, where these are several blocks.
const BYTES_MAX: usize = 72;

static E2M1_VALUES: [u8; 16] = e2m1_table();

/// A type whose blocks are known side by side.
pub(super) trait Strip: Block {
    /// Blocks of a row that are unpacked at once, so that they are whole words; 0 where they are unpacked row by row.
    const BLOCKS: usize = 0;
    /// Unpacks so many of each row.
    ///
    /// # Safety
    /// The machine has the instructions, and the blocks are stored there.
    unsafe fn unpack_strip<I: Ints>(_w: &Stored, _to: &mut Out<I>) {
        unreachable!("no strips of such blocks")
    }
}

/// Where the blocks of each row begin.
pub(super) struct Stored([*const u8; LANES_MAX]);

impl Stored {
    /// `N` words of each row from byte `at` on.
    #[inline(always)]
    unsafe fn words<I: Ints, const N: usize>(&self, at: usize) -> [I; N] {
        // SAFETY: the caller has the instructions, and the rows hold so many words.
        unsafe {
            let mut words = [I::splat(0); N];
            let whole = N / I::WORDS * I::WORDS;
            for first in (0..whole).step_by(I::WORDS) {
                let some = I::transposed(&self.behind(at + 4 * first).0, I::WORDS);
                words[first..first + I::WORDS].copy_from_slice(&some[..I::WORDS]);
            }
            if whole < N {
                let some = I::transposed(&self.behind(at + 4 * whole).0, N - whole);
                words[whole..].copy_from_slice(&some[..N - whole]);
            }
            words
        }
    }

    /// The same so many bytes further.
    #[inline(always)]
    fn behind(&self, bytes: usize) -> Stored {
        let mut rows = self.0;
        for row in &mut rows {
            *row = row.wrapping_add(bytes);
        }
        Stored(rows)
    }
}

/// Where a strip is unpacked to: a panel, from some word and some group on.
pub(super) struct Out<'a, I: Ints> {
    panel: &'a mut Panel,
    word: usize,
    group: usize,
    /// What a u stands for that is worth a scale of -1: biases are of `u - base`.
    zero: I::F,
}

impl<'a, I: Ints> Out<'a, I> {
    #[inline(always)]
    unsafe fn new(panel: &'a mut Panel, base: u8, offset: u8) -> Self {
        // SAFETY: the caller has the instructions, here and below.
        let zero = unsafe { I::F::splat(f32::from(i16::from(base) - i16::from(offset))) };
        Out { panel, word: 0, group: 0, zero }
    }

    /// Goes on behind so many weights.
    #[inline(always)]
    fn advance(&mut self, weights: usize, group: usize) {
        self.word += weights / 4;
        self.group += weights / group;
    }

    /// Four weights of each row.
    #[inline(always)]
    unsafe fn put(&mut self, word: usize, bytes: I) {
        // SAFETY: as above; a strip ends inside the panel.
        unsafe { bytes.store(self.panel.q().add((self.word + word) * 4 * I::F::N)) };
    }

    #[inline(always)]
    unsafe fn scale(&mut self, group: usize, scale: I::F) {
        // SAFETY: as above.
        unsafe { self.panel.set(self.group + group, scale, scale.mul(self.zero)) };
    }

    /// With what is taken from a weight.
    #[inline(always)]
    unsafe fn scale_and_min(&mut self, group: usize, scale: I::F, min: I::F) {
        // SAFETY: as above.
        unsafe { self.scale_and_less(group, scale, min.mul(I::F::splat(-1.0))) };
    }

    /// With what is added to a weight.
    #[inline(always)]
    unsafe fn scale_and_less(&mut self, group: usize, scale: I::F, less: I::F) {
        // SAFETY: as above.
        unsafe { self.panel.set(self.group + group, scale, scale.mul(self.zero).add(less)) };
    }
}

/// Whether weights whose rows lie one behind the other are unpacked side by side.
pub(super) fn are_known(weights: &Packed) -> bool {
    fn blocks<T: Strip>() -> usize {
        T::BLOCKS
    }
    match weights {
        Packed::Ggml(format) => of_type!(*format => blocks [] ()) > 0,
        Packed::Coded(..) => true,
    }
}

/// Unpacks a place, with biases of `u - base`; or says that it cannot. Lanes beyond its rows hold another row's.
///
/// # Safety
/// The machine has the instructions; the place is inside what `UnpackedDots` says.
#[inline(always)]
pub(super) unsafe fn fill<I: Ints>(d: &UnpackedDots, at: Place, base: u8, panel: &mut Panel) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        match &d.weights {
            Packed::Ggml(format) => of_type!(*format => of_blocks [I] (&d.dots, at, base, panel)),
            Packed::Coded(rows, group) => codes::fill::<I>(rows, *group, at, base, panel),
        }
    }
}

#[inline(always)]
unsafe fn of_blocks<T: Strip, I: Ints>(d: &Dots, at: Place, base: u8, panel: &mut Panel) -> bool {
    if T::BLOCKS == 0 {
        return false;
    }
    let (weights, bytes) = (T::BLOCKS * T::WEIGHTS, T::BLOCKS * T::BYTES);
    let first = at.k / T::WEIGHTS * T::BYTES;
    let rows = Stored(rows_at::<I>(at.rows, |row| d.w.wrapping_add((at.row + row) * d.w_stride + first)));
    let (whole, rest) = (at.len / weights, at.len % weights);
    // SAFETY: the caller's promise; what is no whole strip is copied. A panel is some whole strips.
    unsafe {
        let mut out = Out::<I>::new(panel, base, T::OFFSET);
        for i in 0..whole {
            T::unpack_strip::<I>(&rows.behind(i * bytes), &mut out);
            out.advance(weights, T::GROUP);
        }
        if rest > 0 {
            let mut copies = [[0u8; BYTES_MAX]; LANES_MAX];
            for (copy, row) in copies.iter_mut().zip(rows.behind(whole * bytes).0) {
                std::ptr::copy_nonoverlapping(row, copy.as_mut_ptr(), rest / T::WEIGHTS * T::BYTES);
            }
            T::unpack_strip::<I>(&Stored(std::array::from_fn(|lane| copies[lane].as_ptr())), &mut out);
        }
    }
    true
}
