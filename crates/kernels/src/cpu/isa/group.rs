//! Activations as quantised weights are multiplied with them: in the order in which the weights are unpacked, and with what is
//! shared by all outputs, the scale and the sum of each part of a group.
//!
//! Inlined into functions that enable the instructions; what is plain Rust, the compiler vectorises.

// Blocks are indexed by place of fixed number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use super::panel::{BLOCK, order};
use super::tile::Lanes;

/// Weights of a part at most. Its integer is the sum of as many products, 64 · 127 · 255 at most, which [`SHIFT`] has room for.
const PART_MAX: usize = 64;

/// Weights of a part of a group of so many: what an output gains by one term.
pub(in crate::cpu) const fn part_of(group: usize) -> usize {
    if group < PART_MAX { group } else { PART_MAX }
}

/// Bytes of an activation row that [`round`] writes.
pub(in crate::cpu) const fn rounded_bytes(k: usize, part: usize) -> usize {
    k + 8 * (k / part)
}

/// A number so large that those next to it are 1 apart, and so are the 2^22 on either side: 1.5 · 2^23.
pub(super) const SHIFT: f32 = 12_582_912.0;

/// Bytes of an activation row that [`sum`] writes.
pub(in crate::cpu) const fn precise_bytes(k: usize, group: usize) -> usize {
    4 * k + 4 * (k / group)
}

/// Rounds a row of activations to int8, for weights of which a part shares a scale: `x8 = round(x · 127 / max|x|)`,
/// `scale = max|x| / 127`, to nearest even, by blocks of 32 or, for parts of 64, of as many. Writes all x8, reordered for `bits`;
/// the scale of each part; and Σ x8 of each.
/// A block with a NaN or an infinity has NaN for a scale; one below 1e-36 is zero.
///
/// # Safety
/// The machine has the instructions, and `to` has room for [`rounded_bytes`].
#[inline(always)]
pub(super) unsafe fn round<L: Lanes>(x: &[f32], bits: usize, part: usize, to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe {
        match bits {
            2 => round_in::<L, 4>(x, part, to),
            4 => round_in::<L, 2>(x, part, to),
            _ => round_in::<L, 1>(x, part, to),
        }
    }
}

/// The same for weights of which so many share a byte.
#[inline(always)]
unsafe fn round_in<L: Lanes, const SHARE: usize>(x: &[f32], part: usize, to: *mut u8) {
    let k = x.len();
    let scales = to.wrapping_add(k).cast::<f32>();
    let sums = scales.wrapping_add(k / part);
    let shared = part.max(BLOCK);
    for (i, x) in x.chunks_exact(shared).enumerate() {
        let (blocks, _) = x.as_chunks::<BLOCK>();
        // Sizes in the order of their bits, in which a NaN is the largest.
        let mut largest = [0; BLOCK];
        for block in blocks {
            for i in 0..BLOCK {
                largest[i] = block[i].abs().to_bits().max(largest[i]);
            }
        }
        let max = f32::from_bits(largest.into_iter().fold(0, u32::max));
        let (scale, per_step) = match max {
            ..1e-36 => (0.0, 0.0),
            1e-36..=f32::MAX => (max / 127.0, 127.0 / max),
            _ => (f32::NAN, 0.0),
        };
        let mut sum = 0.0;
        for (b, block) in blocks.iter().enumerate() {
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
            // SAFETY: the caller has the instructions; whole vectors are inside a half; a block of the row, and its parts' numbers.
            unsafe {
                to.add(i * shared + b * BLOCK).cast::<[u8; BLOCK]>().write_unaligned(dealt::<SHARE>(&x8));
                let [first, second] = halves::<L>(&rounded, -SHIFT);
                sum += first + second;
                if part < BLOCK {
                    scales.cast::<[f32; 2]>().add(i).write_unaligned([scale; 2]);
                    sums.cast::<[f32; 2]>().add(i).write_unaligned([first, second]);
                }
            }
        }
        if part >= BLOCK {
            // SAFETY: as above.
            unsafe {
                scales.add(i).write_unaligned(scale);
                sums.add(i).write_unaligned(sum);
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
