//! Codes side by side.

// Words are indexed by number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use super::{E2M1_VALUES, Out, Stored};
use crate::cpu::isa::affine::Ints;
use crate::cpu::isa::panel::{BLOCK, LANES_MAX, Place, rows_at, spread, transpose};
use crate::cpu::isa::tile::{Bf16, F16, F32, Lanes, convert};
use crate::cpu::isa::unpacked::{K_MAX, Panel};
use crate::quant::Code;
use crate::quant::coded::{Rows, awq_nibble, e8m0, widen_e4m3, word};
use crate::quant::ggml::GROUP_MIN;
use crate::tensor::DType;

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
            Code::Awq if w.step == 1 && (w.first + at.row).is_multiple_of(8) => of_eight_rows(w, at, &mut out),
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

/// Words of eight rows of a column, those of neighbouring columns a line of words apart.
#[inline(always)]
unsafe fn of_eight_rows<I: Ints>(w: &Rows, at: Place, to: &mut Out<I>) {
    let (line, first) = (w.shape[0] / 8, (w.first + at.row) / 8);
    for i in 0..at.len / 4 {
        let mut lanes = [0u32; LANES_MAX];
        for (eight, lanes) in lanes.chunks_exact_mut(8).enumerate().take(at.rows.div_ceil(8)) {
            let columns = std::array::from_fn(|j| word(w.data, (at.k + 4 * i + j) * line + first + eight));
            let bytes = bytes_side_by_side(columns);
            for (row, lane) in lanes.iter_mut().enumerate() {
                let nibble = awq_nibble(row);
                *lane = bytes[nibble / 2] >> (4 * (nibble % 2)) & 0x0f0f_0f0f;
            }
        }
        // SAFETY: as above; a vector has no more lanes than these.
        unsafe { to.put(i, I::load(lanes.as_ptr().cast())) };
    }
}

/// The lowest bytes of four words, the second ones, and so on.
#[inline(always)]
fn bytes_side_by_side([a, b, c, d]: [u32; 4]) -> [u32; 4] {
    let pairs = |a: u32, b: u32| {
        let (even, odd) = (0x00ff_00ff, 0xff00_ff00);
        [a & even | (b & even) << 8, (a & odd) >> 8 | b & odd]
    };
    let ([ab, ab_odd], [cd, cd_odd]) = (pairs(a, b), pairs(c, d));
    let fours = |ab: u32, cd: u32| [ab & 0xffff | cd << 16, ab >> 16 | cd & 0xffff_0000];
    let ([first, third], [second, last]) = (fours(ab, cd), fours(ab_odd, cd_odd));
    [first, second, third, last]
}

#[inline(always)]
unsafe fn put_scales_of_codes<I: Ints>(w: &Rows, group: usize, at: Place, base: u8, panel: &mut Panel) {
    const GROUPS: usize = K_MAX / GROUP_MIN;
    let groups = at.len / group;
    let (mut scales, mut biases) = ([[0f32; GROUPS]; LANES_MAX], [[0f32; GROUPS]; LANES_MAX]);
    let [to_scales, to_biases] = panel.scales_and_biases();
    // SAFETY: the caller has the instructions.
    unsafe {
        for row in 0..at.rows {
            let (scales, biases) = (&mut scales[row][..groups], &mut biases[row][..groups]);
            scales_and_biases::<I::F>(w, at.row + row, at.k, group, base, scales, biases);
        }
        transpose::<I, GROUPS>(&scales, at.rows, groups, to_scales);
        transpose::<I, GROUPS>(&biases, at.rows, groups, to_biases);
    }
}

/// [`Rows::scales_and_biases`], by vectors where scales lie in line.
///
/// # Safety
/// The machine has the instructions.
#[inline(always)]
pub(in crate::cpu::isa) unsafe fn scales_and_biases<L: Lanes>(
    w: &Rows,
    row: usize,
    k: usize,
    group: usize,
    base: u8,
    scales: &mut [f32],
    biases: &mut [f32],
) {
    let groups = scales.len();
    let Some(stored) = w.stored_scales(row, k, groups * group) else {
        return w.scales_and_biases(row, k, group, base, scales, biases);
    };
    let count = stored.len() / w.scale_type.bytes();
    let to = &mut scales[..count];
    // SAFETY: the caller has the instructions; there is room for as many scales as are stored.
    unsafe {
        match w.scale_type {
            DType::F32 => convert::<L, F32, F32>(stored.as_ptr(), to.as_mut_ptr().cast(), count),
            DType::F16 => convert::<L, F16, F32>(stored.as_ptr(), to.as_mut_ptr().cast(), count),
            DType::F8E4m3 => widen_e4m3(stored, 1.0, to),
            DType::F8E8m0 => to.iter_mut().zip(stored).for_each(|(scale, &byte)| *scale = e8m0(byte)),
            _ => convert::<L, Bf16, F32>(stored.as_ptr(), to.as_mut_ptr().cast(), count),
        }
    }
    w.finish_scales(to);
    if count < groups {
        // Those of more columns than a group has, the last first.
        let each = groups / count;
        for i in (0..count).rev() {
            let scale = scales[i];
            scales[i * each..(i + 1) * each].fill(scale);
        }
    }
    let zero = f32::from(i16::from(base) - w.coded.zero());
    biases.iter_mut().zip(scales).for_each(|(bias, scale)| *bias = *scale * zero);
}
