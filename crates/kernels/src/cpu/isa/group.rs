//! Activations as affine-quantised weights are multiplied with them: in the order in which the weights are unpacked,
//! and with what is shared by all outputs, their sums over each group.
//!
//! Inlined into functions that enable the instructions; what is plain Rust, the compiler vectorises.

// Blocks are indexed by place of fixed number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use super::panel::{BLOCK, order};
use super::tile::Lanes;

/// Bytes of an activation row that [`round`] writes.
pub(in crate::cpu) const fn rounded_bytes(k: usize, group: usize) -> usize {
    shifts_at(k, group) + 4 * (k / if group < BLOCK { BLOCK } else { group })
}

/// Where its shifts begin, a number for the first block of each group, or for each block that is several.
pub(super) const fn shifts_at(k: usize, group: usize) -> usize {
    k + 4 * (k / BLOCK) + 4 * (k / group)
}

/// A number so large that those next to it are 1 apart, and so are the 2^22 on either side: 1.5 · 2^23.
pub(super) const SHIFT: f32 = 12_582_912.0;

/// A scale, rounded to 22 bits: its product with [`SHIFT`] has 24 at most, so it is exact.
#[inline(always)]
fn of_few_bits(scale: f32) -> f32 {
    f32::from_bits((scale.to_bits() + 2) & !3)
}

/// Larger activations count as infinite: from somewhat above it on the product of their scale with [`SHIFT`] is.
const LARGEST: f32 = 1e33;

/// Bytes of an activation row that [`sum`] writes.
pub(in crate::cpu) const fn precise_bytes(k: usize, group: usize) -> usize {
    4 * k + 4 * (k / group)
}

/// Rounds a row of activations to int8 in blocks of 32: `x8 = round(x · 127 / max|x|)`, `scale = max|x| / 127`, to nearest
/// even. Writes all x8, reordered for `bits`; the scale of each block; for each group Σ scale · Σ x8 of its blocks; and the shifts,
/// `-SHIFT · scale`.
/// A block with a NaN, an infinity or a number above 1e33 has NaN for a scale; one below 1e-36 is zero.
///
/// # Safety
/// The machine has the instructions, and `to` has room for [`rounded_bytes`].
#[inline(always)]
pub(super) unsafe fn round<L: Lanes>(x: &[f32], bits: usize, group: usize, to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        match bits {
            2 => round_in::<L, 4>(x, group, to),
            4 => round_in::<L, 2>(x, group, to),
            _ => round_in::<L, 1>(x, group, to),
        }
    }
}

/// The same for weights of which so many share a byte.
#[inline(always)]
unsafe fn round_in<L: Lanes, const SHARE: usize>(x: &[f32], group: usize, to: *mut u8) {
    let k = x.len();
    let (scales, sums) = (to.wrapping_add(k), to.wrapping_add(k + 4 * (k / BLOCK)));
    let shifts = to.wrapping_add(shifts_at(k, group)).cast::<f32>();
    let (blocks, _) = x.as_chunks::<BLOCK>();
    // Of a group: its number, the sum of its blocks, and how many are still to come.
    let (mut g, mut sum, mut more) = (0, 0.0, group / BLOCK);
    for (b, block) in blocks.iter().enumerate() {
        // Sizes in the order of their bits, in which a NaN is the largest.
        let mut max = 0;
        for i in 0..BLOCK {
            max = block[i].abs().to_bits().max(max);
        }
        let max = f32::from_bits(max);
        let (scale, per_step) = match max {
            ..1e-36 => (0.0, 0.0),
            1e-36..=LARGEST => (of_few_bits(max / 127.0), 127.0 / max),
            _ => (f32::NAN, 0.0),
        };
        let mut rounded = [0.0; BLOCK];
        for i in 0..BLOCK {
            // Leaves an integer in the low bits of the sum.
            rounded[i] = block[i] * per_step + SHIFT;
        }
        // Not by `map`, which a compiler may call, and then without the instructions.
        let mut x8 = [0; BLOCK];
        for i in 0..BLOCK {
            x8[i] = rounded[i].to_bits() as u8;
        }
        // SAFETY: the caller has the instructions; whole vectors are inside a half.
        let [first, second] = unsafe { halves::<L>(&rounded, -SHIFT) };
        sum += scale * (first + second);
        // SAFETY: block b of the row, its scale, and its group's sum.
        unsafe {
            to.add(b * BLOCK).cast::<[u8; BLOCK]>().write_unaligned(dealt::<SHARE>(&x8));
            scales.cast::<f32>().add(b).write_unaligned(scale);
            if group < BLOCK {
                sums.cast::<[f32; 2]>().add(b).write_unaligned([scale * first, scale * second]);
                shifts.add(b).write_unaligned(-SHIFT * scale);
                continue;
            }
            if more == group / BLOCK {
                shifts.add(g).write_unaligned(-SHIFT * scale);
            }
            more -= 1;
            if more == 0 {
                sums.cast::<f32>().add(g).write_unaligned(sum);
                (g, sum, more) = (g + 1, 0.0, group / BLOCK);
            }
        }
    }
}

/// The sums of both halves of a block of whole numbers, which are exact, when so much has been added to each of them.
#[inline(always)]
unsafe fn halves<L: Lanes>(block: &[f32; BLOCK], add: f32) -> [f32; 2] {
    // SAFETY: the caller has the instructions; the vectors are inside the block.
    unsafe {
        let mut sums = [L::zero(); 4];
        for i in (0..BLOCK).step_by(L::N) {
            let half = 2 * i / BLOCK;
            sums[half] = sums[half].add(L::load_f32(block[i..].as_ptr().cast()).add(L::splat(add)));
        }
        let [first, second, ..] = L::sums(sums);
        [first, second]
    }
}

/// A block in the order of [`order`]: every so many-th byte, then those behind them. By shifts of wider words, which the
/// compiler makes vectors of.
#[inline(always)]
fn dealt<const SHARE: usize>(x8: &[u8; BLOCK]) -> [u8; BLOCK] {
    let mut dealt = *x8;
    match SHARE {
        2 => {
            for (i, pair) in x8.as_chunks::<2>().0.iter().enumerate() {
                let pair = u16::from_le_bytes(*pair);
                (dealt[i], dealt[BLOCK / 2 + i]) = (pair as u8, (pair >> 8) as u8);
            }
        }
        4 => {
            for (i, four) in x8.as_chunks::<4>().0.iter().enumerate() {
                let four = u32::from_le_bytes(*four);
                for part in 0..4 {
                    dealt[BLOCK / 4 * part + i] = (four >> (8 * part)) as u8;
                }
            }
        }
        _ => {}
    }
    dealt
}

/// Writes a row of f32 activations, reordered for `bits`, and the sum of each group.
///
/// # Safety
/// `to` has room for [`precise_bytes`].
#[inline(always)]
pub(super) unsafe fn sum(x: &[f32], bits: usize, group: usize, to: *mut u8) {
    let sums = to.wrapping_add(4 * x.len());
    for (g, x) in x.chunks_exact(group).enumerate() {
        let mut parts = [0f32; 16];
        for (b, block) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
            for i in 0..BLOCK {
                parts[i % 16] += block[i];
            }
            let mut ordered = [0f32; BLOCK];
            reorder(bits, block, &mut ordered);
            // SAFETY: block b of group g.
            unsafe { to.add(4 * (g * group + b * BLOCK)).cast::<[f32; BLOCK]>().write_unaligned(ordered) };
        }
        // SAFETY: the group's sum.
        unsafe { sums.cast::<f32>().add(g).write_unaligned(parts.into_iter().sum()) };
    }
}

#[inline(always)]
fn reorder<T: Copy>(bits: usize, from: &[T; BLOCK], to: &mut [T; BLOCK]) {
    match bits {
        2 => (0..BLOCK).for_each(|at| to[at] = from[order(2, at)]),
        4 => (0..BLOCK).for_each(|at| to[at] = from[order(4, at)]),
        _ => *to = *from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dealt_is_the_order_of_unpacked_weights() {
        let block: [u8; BLOCK] = std::array::from_fn(|i| i as u8);
        for (bits, dealt) in [(2, dealt::<4>(&block)), (4, dealt::<2>(&block)), (6, dealt::<1>(&block))] {
            assert_eq!(dealt, std::array::from_fn(|at| order(bits, at) as u8), "{bits} bits");
        }
    }
}
