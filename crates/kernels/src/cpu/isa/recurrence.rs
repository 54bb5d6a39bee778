//! Positions' passage over a state of rows and columns: `s[r] ← decay[r] · s[r] + k[r] · v`, and weighted sums of its rows.
//!
//! A column is on its own, so some of them pass over all rows before the next ones do: as many as have their sums in registers.

// Vectors are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use super::tile::Lanes;
use super::{LINE_BYTES, prefetch};

/// Columns that pass over the rows together: whole vectors of every instruction set.
pub(in crate::cpu) const COLUMNS: usize = 32;

/// [`COLUMNS`] columns of a state.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Block {
    pub at: *mut f32,
    /// Elements from a row to the next.
    pub stride: usize,
    pub rows: usize,
}

/// `out[c] = Σ_r weights[r] · s[r][c]`
pub(in crate::cpu) struct Recall<'a> {
    pub block: Block,
    /// `[rows]`
    pub weights: &'a [f32],
    pub out: &'a mut [f32; COLUMNS],
    /// The block that comes next, of as many rows as far apart: it is asked for. Need not exist.
    pub ahead: *const f32,
}

/// A position's passage, and its output: `out[c] = Σ_r q[r] · s[r][c]`, of what the state has become.
pub(in crate::cpu) struct Passage<'a> {
    pub block: Block,
    /// `[rows]`, or one for all of them.
    pub decays: &'a [f32],
    /// `[rows]`
    pub k: &'a [f32],
    /// `[rows]`
    pub q: &'a [f32],
    pub v: &'a [f32; COLUMNS],
    pub out: &'a mut [f32; COLUMNS],
    /// What the next position recalls, of what the state has become: the weights of its rows, `[rows]`, and where to.
    pub next: Option<(&'a [f32], &'a mut [f32; COLUMNS])>,
}

/// The functions of an instruction set. Both are unsafe: the machine must have the instructions, and the block its rows, which
/// no one else uses.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Recurrence {
    pub recall: unsafe fn(Recall),
    pub pass: unsafe fn(Passage),
}

/// Vectors that [`COLUMNS`] are at most.
const VECTORS_MAX: usize = COLUMNS / 8;

/// Makes [`Recall`]'s sums.
///
/// # Safety
/// The machine has the lanes' instructions, and the block its rows.
#[inline(always)]
pub(super) unsafe fn recall<L: Lanes>(recall: Recall) {
    let Recall { block: Block { at, stride, rows }, weights, out, ahead } = recall;
    for row in 0..rows {
        let line = ahead.wrapping_add(row * stride).cast::<u8>();
        (0..4 * COLUMNS).step_by(LINE_BYTES).for_each(|byte| prefetch(line.wrapping_add(byte)));
    }
    // SAFETY: rows of the block, the caller's promise.
    unsafe {
        let mut sums = [L::zero(); VECTORS_MAX];
        for (row, weight) in weights[..rows].iter().enumerate() {
            let (s, weight) = (at.add(row * stride), L::splat(*weight));
            for i in 0..COLUMNS / L::N {
                sums[i] = sums[i].fma(L::load_f32(s.add(i * L::N).cast()), weight);
            }
        }
        store(sums, out);
    }
}

/// Makes a [`Passage`].
///
/// # Safety
/// As for [`recall`]; no one else uses the block.
#[inline(always)]
pub(super) unsafe fn pass<L: Lanes>(passage: Passage) {
    let Passage { block, decays, k, q, v, out, next } = passage;
    let one = decays.len() == 1;
    // SAFETY: the caller's promise.
    unsafe {
        match next {
            None if one => pass_and_sum::<L, 1, true>(block, [decays, k], v, [q], [out]),
            None => pass_and_sum::<L, 1, false>(block, [decays, k], v, [q], [out]),
            Some((of_next, to)) if one => pass_and_sum::<L, 2, true>(block, [decays, k], v, [q, of_next], [out, to]),
            Some((of_next, to)) => pass_and_sum::<L, 2, false>(block, [decays, k], v, [q, of_next], [out, to]),
        }
    }
}

/// The same with `S` weighted sums, and one decay for all rows, if `ONE`.
#[inline(always)]
unsafe fn pass_and_sum<L: Lanes, const S: usize, const ONE: bool>(
    Block { at, stride, rows }: Block,
    [decays, k]: [&[f32]; 2],
    v: &[f32; COLUMNS],
    weights: [&[f32]; S],
    out: [&mut [f32; COLUMNS]; S],
) {
    let decays = if ONE { &decays[..1] } else { &decays[..rows] }.as_ptr();
    let (k, weights) = (k[..rows].as_ptr(), weights.map(|weights| weights[..rows].as_ptr()));
    // SAFETY: rows of the block, the caller's promise, and as many decays, keys and weights.
    unsafe {
        let mut vs = [L::zero(); VECTORS_MAX];
        for i in 0..COLUMNS / L::N {
            vs[i] = L::load_f32(v.as_ptr().add(i * L::N).cast());
        }
        let mut sums = [[L::zero(); VECTORS_MAX]; S];
        for row in 0..rows {
            let decay = L::splat(decays.add(if ONE { 0 } else { row }).read());
            let k = L::splat(k.add(row).read());
            let mut of_row = [k; S];
            for j in 0..S {
                of_row[j] = L::splat(weights[j].add(row).read());
            }
            for i in 0..COLUMNS / L::N {
                let at = at.add(row * stride + i * L::N);
                let s = decay.mul(L::load_f32(at.cast())).fma(k, vs[i]);
                s.store_f32(at.cast());
                for j in 0..S {
                    sums[j][i] = sums[j][i].fma(s, of_row[j]);
                }
            }
        }
        for (sums, out) in sums.into_iter().zip(out) {
            store(sums, out);
        }
    }
}

#[inline(always)]
unsafe fn store<L: Lanes>(sums: [L; VECTORS_MAX], out: &mut [f32; COLUMNS]) {
    for i in 0..COLUMNS / L::N {
        // SAFETY: the caller has the instructions; some of the columns.
        unsafe { sums[i].store_f32(out.as_mut_ptr().add(i * L::N).cast()) };
    }
}
