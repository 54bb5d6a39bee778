//! Products of quantised weights with a lone activation row: a generated token's.
//!
//! Nothing is used twice, so reading the weights is what should take the time. Rows are read one after the other, each from
//! its first byte to its last: processors foresee that, and no hint of ours made up for it where sixteen rows were read side
//! by side (one core of Zen 4 read 10 to 24 GB/s so, and 35 in order). What a row's groups add to its output is computed with a
//! group to each lane; of as many rows as a vector has lanes these terms are transposed, and added in ascending order, as
//! `affine` describes.

// Vectors are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::mem::MaybeUninit;

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
    /// The scale of each part, a block or half of one: of each `PER · N` parts, where `PER` make a group, first those of the
    /// groups' first parts, then of their second.
    scales: [f32; PARTS_MAX],
    /// The sums of each group.
    sums: [f32; PARTS_MAX],
}

impl Arranged {
    /// Those of a row that `round` made for groups of `group` weights.
    ///
    /// # Safety
    /// The place is inside the row, and no longer than [`K_MAX`], or for groups of less than a block half of that; the machine
    /// has the instructions.
    #[inline(always)]
    pub(super) unsafe fn new<B: Bytes, const BITS: usize, const PER: usize>(
        d: &Dots,
        group: usize,
        k: usize,
        len: usize,
    ) -> Self {
        let mut arranged = Arranged { q: [0; K_MAX], scales: [0.0; PARTS_MAX], sums: [0.0; PARTS_MAX] };
        let n = <B::I as Ints>::F::N;
        let part = group.min(BLOCK);
        debug_assert_eq!(PER, group.div_ceil(BLOCK));
        let scale = |index: usize| d.x.wrapping_add(d.k + 4 * index).cast::<f32>();
        // SAFETY: the caller's promise; whole units fit.
        unsafe {
            std::ptr::copy_nonoverlapping(d.x.add(k), arranged.q.as_mut_ptr(), len);
            for at in (0..len).step_by(n * BLOCK) {
                B::arrange::<BITS>(arranged.q.as_mut_ptr().add(at));
            }
            for p in 0..len / part {
                let (unit, within) = (p / (PER * n), p % (PER * n));
                let to = unit * PER * n + within % PER * n + within / PER;
                arranged.scales[to] = scale((k + p * part) / BLOCK).read_unaligned();
            }
            for g in 0..len / group {
                arranged.sums[g] = scale(d.k / BLOCK + k / group + g).read_unaligned();
            }
        }
        arranged
    }

    /// Activations from block `block` on.
    #[inline(always)]
    pub(super) fn blocks(&self, block: usize) -> *const u8 {
        self.q.as_ptr().wrapping_add(block * BLOCK)
    }

    /// Scales from place `at` on.
    #[inline(always)]
    pub(super) unsafe fn scales<L: Lanes>(&self, at: usize) -> L {
        // SAFETY: the caller has the instructions; a vector is inside.
        unsafe { L::load_f32(self.scales[at..at + L::N].as_ptr().cast()) }
    }

    /// Sums of groups from `group` on.
    #[inline(always)]
    pub(super) unsafe fn sums<L: Lanes>(&self, group: usize) -> L {
        // SAFETY: as above.
        unsafe { L::load_f32(self.sums[group..group + L::N].as_ptr().cast()) }
    }
}

/// Asks for as many bytes as those at `w`, so far behind them: see [`Ints::ahead`].
///
/// # Safety
/// The machine has the instructions.
#[inline(always)]
pub(super) unsafe fn ask_ahead<I: Ints>(w: *const u8, bytes: usize, ahead: usize) {
    if ahead > 0 {
        for byte in (0..bytes).step_by(LINE_BYTES) {
            // SAFETY: the caller's promise.
            unsafe { I::prefetch(w.wrapping_add(ahead + byte)) };
        }
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

/// What the groups of some rows, `N` of each at most, add to their outputs.
#[repr(align(64))]
pub(super) struct Terms<const N: usize>([MaybeUninit<[f32; N]>; LANES_MAX]);

impl<const N: usize> Terms<N> {
    pub(super) fn new() -> Self {
        Terms([const { MaybeUninit::uninit() }; LANES_MAX])
    }

    /// Sets those of a row's groups from `group` on.
    #[inline(always)]
    pub(super) unsafe fn set<L: Lanes>(&mut self, lane: usize, group: usize, terms: L) {
        debug_assert!(group + L::N <= N);
        // SAFETY: the caller has the instructions, and the groups are some of a row's.
        unsafe { terms.store_f32(self.0[lane].as_mut_ptr().cast::<u8>().add(4 * group)) };
    }

    /// Adds all of a place to the outputs.
    ///
    /// # Safety
    /// The machine has the instructions, the place is inside `d`, and the terms of all its groups have been set.
    #[inline(always)]
    pub(super) unsafe fn add<I: Ints>(&self, d: &Dots, at: Place, groups: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut sum = if at.k > 0 { load_outputs(d, at, 0) } else { I::F::zero() };
            for first in (0..groups).step_by(I::WORDS) {
                let n = I::WORDS.min(groups - first);
                let rows = rows_at::<I>(at.rows, |row| self.0[row].as_ptr().cast::<u8>().wrapping_add(4 * first));
                if n == I::WORDS {
                    let terms = I::transposed(&rows, I::WORDS);
                    for i in 0..I::WORDS {
                        sum = sum.add(terms[i].as_f32());
                    }
                } else {
                    for terms in &I::transposed(&rows, n)[..n] {
                        sum = sum.add(terms.as_f32());
                    }
                }
            }
            store_outputs(d, at, 0, sum);
        }
    }
}
