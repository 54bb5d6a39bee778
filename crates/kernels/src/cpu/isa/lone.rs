//! Products of quantised weights with a lone activation row: a generated token's.
//!
//! Nothing is used twice, so reading the weights is what should take the time. Rows are read one after the other, each from
//! its first byte to its last: processors foresee that, and no hint of ours made up for it where sixteen rows were read side
//! by side (one core of Zen 4 read 10 to 24 GB/s so, and 35 in order). What a row's groups add to its output is computed with a
//! part of a group to each lane; of as many rows as a vector has lanes these terms are transposed, and added in ascending order, as
//! `affine` describes.

// Vectors are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::mem::MaybeUninit;
use std::ops::Range;

use super::affine::{Bytes, Ints};
use super::outputs::{load_outputs, store_outputs};
use super::panel::{BLOCK, LANES_MAX, Place, rows_at};
use super::tile::Lanes;
use super::{Dots, LINE_BYTES};

/// Weights of each row between two transpositions: the terms and the activations stay in the first-level cache.
pub(super) const K_MAX: usize = 4096;

/// Blocks of a row at most, or halves of blocks of half as many weights.
pub(super) const PARTS_MAX: usize = K_MAX / BLOCK;

/// Some activations of a row: `x[k..k + len]`.
#[repr(align(64))]
pub(super) struct Arranged {
    /// As [`Bytes::row`] takes them, with zeros behind the last.
    q: [u8; K_MAX],
    /// The scale and the sum of each part.
    scales: [f32; PARTS_MAX],
    sums: [f32; PARTS_MAX],
}

impl Arranged {
    /// Those of a row that `round` made for parts of `part` weights.
    ///
    /// # Safety
    /// The place is inside the row, and no longer than [`K_MAX`], or for parts of less than a block half of that; the machine
    /// has the instructions.
    #[inline(always)]
    pub(super) unsafe fn new<B: Bytes, const BITS: usize>(d: &Dots, part: usize, k: usize, len: usize) -> Self {
        let mut arranged = Arranged { q: [0; K_MAX], scales: [0.0; PARTS_MAX], sums: [0.0; PARTS_MAX] };
        // SAFETY: the caller's promise; whole units fit.
        unsafe {
            std::ptr::copy_nonoverlapping(d.x.add(k), arranged.q.as_mut_ptr(), len);
            for at in (0..len).step_by(<B::I as Ints>::F::N * BLOCK) {
                B::arrange::<BITS>(arranged.q.as_mut_ptr().add(at));
            }
            let scales = d.x.add(d.k + 4 * (k / part));
            let sums = scales.add(4 * (d.k / part));
            std::ptr::copy_nonoverlapping(scales, arranged.scales.as_mut_ptr().cast(), 4 * (len / part));
            std::ptr::copy_nonoverlapping(sums, arranged.sums.as_mut_ptr().cast(), 4 * (len / part));
        }
        arranged
    }

    /// Activations from block `block` on.
    #[inline(always)]
    pub(super) fn blocks(&self, block: usize) -> *const u8 {
        self.q.as_ptr().wrapping_add(block * BLOCK)
    }

    /// The scales of so many parts.
    #[inline(always)]
    pub(super) fn scales(&self, parts: usize) -> &[f32] {
        &self.scales[..parts]
    }

    /// Sums of parts from `part` on.
    #[inline(always)]
    pub(super) unsafe fn sums<L: Lanes>(&self, part: usize) -> L {
        // SAFETY: the caller has the instructions; a vector is inside.
        unsafe { L::load_f32(self.sums[part..part + L::N].as_ptr().cast()) }
    }
}

/// Weights that are read from the first byte to the last, and asked for ahead: see [`Ints::ahead`].
pub(super) struct Stream {
    end: *const u8,
    ahead: usize,
}

impl Stream {
    /// Those of a task, of which the first are asked for at once, so that they come together.
    ///
    /// # Safety
    /// The machine has the instructions.
    #[inline(always)]
    pub(super) unsafe fn new<I: Ints>(weights: Range<*const u8>) -> Self {
        let ahead = I::ahead();
        // SAFETY: the caller's promise.
        unsafe { ask::<I>(weights.start, ahead.min(weights.end.addr().saturating_sub(weights.start.addr()))) };
        Stream { end: weights.end, ahead }
    }

    /// Asks for as many bytes as those at `w`, so far behind them, unless all of these are behind the last, where another thread reads.
    ///
    /// # Safety
    /// As for [`Stream::new`].
    #[inline(always)]
    pub(super) unsafe fn ask<I: Ints>(&self, w: *const u8, bytes: usize) {
        let at = w.wrapping_add(self.ahead);
        if self.ahead > 0 && at.addr() < self.end.addr() {
            // SAFETY: the caller's promise.
            unsafe { ask::<I>(at, bytes) };
        }
    }
}

/// Asks for bytes, which need not exist.
///
/// # Safety
/// The machine has the instructions.
#[inline(always)]
pub(super) unsafe fn ask<I: Ints>(at: *const u8, bytes: usize) {
    for byte in (0..bytes).step_by(LINE_BYTES) {
        // SAFETY: the caller's promise.
        unsafe { I::prefetch(at.wrapping_add(byte)) };
    }
}

/// Dot products of `N` blocks of a weight row from block `first` of `blocks` on, of which there may be fewer. Bytes behind them
/// are read where they lie before `end`; they are worth nothing.
///
/// # Safety
/// The machine has the instructions; the blocks are inside the row at `w`, and of `x`.
#[inline(always)]
pub(super) unsafe fn unit<B: Bytes, const BITS: usize>(
    w: *const u8,
    end: *const u8,
    x: &Arranged,
    first: usize,
    blocks: usize,
) -> B::I {
    let n = <B::I as Ints>::F::N;
    // SAFETY: the caller's promise; a unit that leaves the weights is copied, with zeros behind them.
    unsafe {
        let (w, x) = (w.add(first * BLOCK * BITS / 8), x.blocks(first));
        let rest = n.min(blocks - first);
        if w.addr() + n * BLOCK * BITS / 8 > end.addr() {
            let mut copy = [0u8; LANES_MAX * BLOCK];
            std::ptr::copy_nonoverlapping(w, copy.as_mut_ptr(), rest * BLOCK * BITS / 8);
            B::row::<BITS, false>(copy.as_ptr(), x)
        } else if rest <= n / 2 {
            B::row::<BITS, true>(w, x)
        } else {
            B::row::<BITS, false>(w, x)
        }
    }
}

/// What the parts of some rows, `N` of each at most, add to their outputs, before the scales of their activations.
#[repr(align(64))]
pub(super) struct Terms<const N: usize>([MaybeUninit<[f32; N]>; LANES_MAX]);

impl<const N: usize> Terms<N> {
    pub(super) fn new() -> Self {
        Terms([const { MaybeUninit::uninit() }; LANES_MAX])
    }

    /// Sets those of a row's parts from `part` on.
    #[inline(always)]
    pub(super) unsafe fn set<L: Lanes>(&mut self, lane: usize, part: usize, terms: L) {
        debug_assert!(part + L::N <= N);
        // SAFETY: the caller has the instructions, and the parts are some of a row's.
        unsafe { terms.store_f32(self.0[lane].as_mut_ptr().cast::<u8>().add(4 * part)) };
    }

    /// Adds all of a place to the outputs, each times the scale of its activations.
    ///
    /// # Safety
    /// The machine has the instructions, the place is inside `d`, and a term has been set for each scale.
    #[inline(always)]
    pub(super) unsafe fn add<I: Ints>(&self, d: &Dots, at: Place, scales: &[f32]) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sum = if at.k > 0 { load_outputs(d, at, 0) } else { I::F::zero() };
            for (i, scales) in scales.chunks(I::WORDS).enumerate() {
                let first = i * I::WORDS;
                let rows = rows_at::<I>(at.rows, |row| self.0[row].as_ptr().cast::<u8>().wrapping_add(4 * first));
                if scales.len() == I::WORDS {
                    let terms = I::transposed(&rows, I::WORDS);
                    for i in 0..I::WORDS {
                        sum = sum.fma(terms[i].as_f32(), I::F::splat(scales[i]));
                    }
                } else {
                    for (terms, scale) in I::transposed(&rows, scales.len()).iter().zip(scales) {
                        sum = sum.fma(terms.as_f32(), I::F::splat(*scale));
                    }
                }
            }
            store_outputs(d, at, 0, sum);
        }
    }
}
