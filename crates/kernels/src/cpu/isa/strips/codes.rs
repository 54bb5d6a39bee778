//! Codes side by side.

// Words are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use super::{E2M1_VALUES, Out, Stored};
use crate::cpu::isa::affine::Ints;
use crate::cpu::isa::panel::{BLOCK, LANES_MAX, Place, rows_at, spread, transpose};
use crate::cpu::isa::tile::Lanes;
use crate::cpu::isa::unpacked::{GROUPS_MAX, Panel};
use crate::quant::Code;
use crate::quant::coded::Rows;

/// See [`super::fill`].
#[inline(always)]
pub(super) unsafe fn fill<I: Ints>(w: &Rows, group: usize, at: Place, base: u8, panel: &mut Panel) -> bool {
    let (cols, code_bits) = (w.shape[1], w.coded.bits());
    let rows = Stored(rows_at::<I>(at.rows, |row| {
        w.data.as_ptr().wrapping_add(((w.first + w.step * (at.row + row)) * cols + at.k) * code_bits / 8)
    }));
    // SAFETY: the caller's promise.
    unsafe {
        let mut out = Out::<I>::new(panel, 0, 0);
        match w.coded.code {
            Code::Int8 => of_bytes(&rows, at.len, I::splat(0), &mut out),
            Code::Signed8 => of_bytes(&rows, at.len, I::splat(0x8080_8080_u32.cast_signed()), &mut out),
            Code::Int4 => of_nibbles::<I, false>(&rows, at.len, &mut out),
            Code::E2m1 => of_nibbles::<I, true>(&rows, at.len, &mut out),
            Code::Gptq if w.step == 1 => of_columns(w, at, &mut out),
            Code::Gptq | Code::Awq | Code::E4m3 => return false,
        }
        put_scales_of_codes::<I>(w, group, at, base, panel);
    }
    true
}

#[inline(always)]
unsafe fn of_bytes<I: Ints>(rows: &Stored, len: usize, sign: I, to: &mut Out<I>) {
    for k in (0..len).step_by(BLOCK) {
        // SAFETY: the caller has the instructions, and rows of so many weights, some whole blocks, here and below.
        unsafe {
            let words = rows.words::<I, 8>(k);
            for j in 0..8 {
                to.put(j, words[j].xor(sign));
            }
        }
        to.advance(BLOCK, BLOCK);
    }
}

/// Of four bits, the lower of a byte first.
#[inline(always)]
unsafe fn of_nibbles<I: Ints, const E2M1: bool>(rows: &Stored, len: usize, to: &mut Out<I>) {
    const AT_ONCE: usize = 4 * BLOCK;
    let whole = len / AT_ONCE * AT_ONCE;
    for k in (0..whole).step_by(AT_ONCE) {
        // SAFETY: as above.
        unsafe { put_nibbles::<I, 16, E2M1>(rows, k, to) };
    }
    for k in (whole..len).step_by(BLOCK) {
        // SAFETY: as above.
        unsafe { put_nibbles::<I, 4, E2M1>(rows, k, to) };
    }
}

/// Those of `WORDS` words.
#[inline(always)]
unsafe fn put_nibbles<I: Ints, const WORDS: usize, const E2M1: bool>(rows: &Stored, k: usize, to: &mut Out<I>) {
    // SAFETY: as above.
    unsafe {
        let words = rows.words::<I, WORDS>(k / 2);
        for j in 0..2 * WORDS {
            let bytes = spread::<I, 4>(&words, 16 * j);
            to.put(j, if E2M1 { bytes.look_up(&E2M1_VALUES) } else { bytes });
        }
    }
    to.advance(8 * WORDS, BLOCK);
}

/// Words of eight weights of a row, those of neighbouring rows side by side.
#[inline(always)]
unsafe fn of_columns<I: Ints>(w: &Rows, at: Place, to: &mut Out<I>) {
    let rows = w.shape[0];
    for i in 0..at.len / 8 {
        let words = w.data.as_ptr().wrapping_add(4 * ((at.k / 8 + i) * rows + w.first + at.row));
        // SAFETY: as above; fewer words than a vector's are copied.
        unsafe {
            let word = if at.rows == I::F::N {
                I::load(words)
            } else {
                let mut copy = [0u8; 4 * LANES_MAX];
                std::ptr::copy_nonoverlapping(words, copy.as_mut_ptr(), 4 * at.rows);
                I::load(copy.as_ptr())
            };
            to.put(2 * i, spread::<I, 4>(&[word], 0));
            to.put(2 * i + 1, spread::<I, 4>(&[word], 16));
        }
    }
}

#[inline(always)]
unsafe fn put_scales_of_codes<I: Ints>(w: &Rows, group: usize, at: Place, base: u8, panel: &mut Panel) {
    let groups = at.len / group;
    let (mut scales, mut biases) = ([[0f32; GROUPS_MAX]; LANES_MAX], [[0f32; GROUPS_MAX]; LANES_MAX]);
    for row in 0..at.rows {
        let (scales, biases) = (&mut scales[row][..groups], &mut biases[row][..groups]);
        w.scales_and_biases(at.row + row, at.k, group, base, scales, biases);
    }
    let [to_scales, to_biases] = panel.scales_and_biases();
    // SAFETY: the caller has the instructions.
    unsafe {
        transpose::<I, GROUPS_MAX>(&scales, at.rows, groups, to_scales);
        transpose::<I, GROUPS_MAX>(&biases, at.rows, groups, to_biases);
    }
}
