//! Types with one scale for a block of 32, and those of 256 whose q's are a table's or ternary.

use super::{Block, bytes, f16};
use crate::quant::coded::{E2M1_ZERO, e2m1};

/// The lower four bits of 16 bytes, and behind them the upper four.
#[inline(always)]
fn nibbles(q: &[u8; 16], u: &mut [u8]) {
    let (low, high) = u[..32].split_at_mut(16);
    for i in 0..16 {
        low[i] = q[i] & 15;
        high[i] = q[i] >> 4;
    }
}

/// Adds 16 where a bit of `high` is set.
#[inline(always)]
fn fifth_bits(high: &[u8; 4], u: &mut [u8]) {
    let high = u32::from_le_bytes(*high);
    for (i, u) in u[..32].iter_mut().enumerate() {
        *u |= ((high >> i) as u8 & 1) << 4;
    }
}

/// `f16 d, 16 bytes`: `w = d · (q − 8)`, weight i < 16 in the lower half of byte i, i + 16 in the upper.
pub(crate) struct Q4_0;

impl Block for Q4_0 {
    const WEIGHTS: usize = 32;
    const BYTES: usize = 18;
    const GROUP: usize = 32;
    const BITS: usize = 4;
    const OFFSET: u8 = 8;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        scales[0] = f16(block, 0);
        nibbles(bytes(block, 2), u);
    }
}

/// `f16 d, f16 m, 16 bytes`: `w = d · q + m`.
pub(crate) struct Q4_1;

impl Block for Q4_1 {
    const WEIGHTS: usize = 32;
    const BYTES: usize = 20;
    const GROUP: usize = 32;
    const BITS: usize = 4;
    const OFFSET: u8 = 0;
    const MINS: bool = true;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], mins: &mut [f32]) {
        (scales[0], mins[0]) = (f16(block, 0), -f16(block, 2));
        nibbles(bytes(block, 4), u);
    }
}

/// `f16 d, u32 fifth bits, 16 bytes`: `w = d · (q − 16)`.
pub(crate) struct Q5_0;

impl Block for Q5_0 {
    const WEIGHTS: usize = 32;
    const BYTES: usize = 22;
    const GROUP: usize = 32;
    const BITS: usize = 5;
    const OFFSET: u8 = 16;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        scales[0] = f16(block, 0);
        nibbles(bytes(block, 6), u);
        fifth_bits(bytes(block, 2), u);
    }
}

/// `f16 d, f16 m, u32 fifth bits, 16 bytes`: `w = d · q + m`.
pub(crate) struct Q5_1;

impl Block for Q5_1 {
    const WEIGHTS: usize = 32;
    const BYTES: usize = 24;
    const GROUP: usize = 32;
    const BITS: usize = 5;
    const OFFSET: u8 = 0;
    const MINS: bool = true;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], mins: &mut [f32]) {
        (scales[0], mins[0]) = (f16(block, 0), -f16(block, 2));
        nibbles(bytes(block, 8), u);
        fifth_bits(bytes(block, 4), u);
    }
}

/// `f16 d, 32 signed bytes`: `w = d · q`.
pub(crate) struct Q8_0;

impl Block for Q8_0 {
    const WEIGHTS: usize = 32;
    const BYTES: usize = 34;
    const GROUP: usize = 32;
    const BITS: usize = 8;
    const OFFSET: u8 = 128;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        scales[0] = f16(block, 0);
        let q: &[u8; 32] = bytes(block, 2);
        for i in 0..32 {
            u[i] = q[i] ^ 0x80;
        }
    }
}

/// The 16 numbers that four bits of IQ4 stand for, plus 128.
pub(crate) const IQ4_VALUES: [u8; 16] = {
    let values: [i16; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
    let (mut u, mut i) = ([0; 16], 0);
    while i < 16 {
        u[i] = (values[i] + 128) as u8;
        i += 1;
    }
    u
};

/// Replaces four bits by what they stand for. The table ascends: comparisons, of which the compiler makes vectors, add up its steps.
#[inline(always)]
fn iq4_values(u: &mut [u8]) {
    for u in u {
        let mut value = IQ4_VALUES[0];
        for i in 1..16 {
            value += if usize::from(*u) >= i { IQ4_VALUES[i] - IQ4_VALUES[i - 1] } else { 0 };
        }
        *u = value;
    }
}

/// `f16 d, 16 bytes`: `w = d · table[q]`.
pub(crate) struct Iq4Nl;

impl Block for Iq4Nl {
    const WEIGHTS: usize = 32;
    const BYTES: usize = 18;
    const GROUP: usize = 32;
    const BITS: usize = 8;
    const OFFSET: u8 = 128;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        scales[0] = f16(block, 0);
        nibbles(bytes(block, 2), u);
        iq4_values(u);
    }
}

/// `f16 d, u16 upper two bits of 8 scales, 4 bytes of their lower four, 128 bytes`: `w = d · (scale − 32) · table[q]`, in
/// groups of 32.
pub(crate) struct Iq4Xs;

impl Block for Iq4Xs {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 136;
    const GROUP: usize = 32;
    const BITS: usize = 8;
    const OFFSET: u8 = 128;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        let (d, high) = (f16(block, 0), u16::from_le_bytes(*bytes(block, 2)));
        let low: &[u8; 4] = bytes(block, 4);
        for group in 0..8 {
            let scale = (low[group / 2] >> (4 * (group % 2)) & 15) | ((high >> (2 * group)) as u8 & 3) << 4;
            scales[group] = d * f32::from(scale as i8 - 32);
            nibbles(bytes(block, 8 + 16 * group), &mut u[32 * group..]);
        }
        iq4_values(u);
    }
}

/// `E8M0 scale, 16 bytes`: `w = 2^(scale − 127) · e2m1(q)` (OCP Microscaling 1.0).
pub(crate) struct Mxfp4;

impl Block for Mxfp4 {
    const WEIGHTS: usize = 32;
    const BYTES: usize = 17;
    const GROUP: usize = 32;
    const BITS: usize = 5;
    const OFFSET: u8 = E2M1_ZERO;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        // Half of 2^(scale − 127), since u is doubled: below 2 it is subnormal.
        let exponent = u32::from(block[0]);
        scales[0] = f32::from_bits(if exponent < 2 { 0x0020_0000 << exponent } else { (exponent - 1) << 23 });
        nibbles(bytes(block, 1), u);
        u.iter_mut().for_each(|u| *u = e2m1(*u));
    }
}

/// `32 + 16 bytes of five ternary digits, 4 bytes of four, f16 d`: `w = d · (digit − 1)`. A byte is the digits as a
/// fraction of 256, the first the highest: times three, what runs over is the next.
pub(crate) struct Tq1_0;

impl Block for Tq1_0 {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 54;
    const GROUP: usize = 32;
    const BITS: usize = 4;
    const OFFSET: u8 = 1;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        scales[..8].fill(f16(block, 52));
        let mut at = 0;
        let mut digits = |bytes: &[u8], count: u32| {
            for digit in 0..count {
                for &byte in bytes {
                    let rest = byte.wrapping_mul(3u8.pow(digit));
                    u[at] = ((u16::from(rest) * 3) >> 8) as u8;
                    at += 1;
                }
            }
        };
        digits(&block[..32], 5);
        digits(&block[32..48], 5);
        digits(&block[48..52], 4);
    }
}

/// `64 bytes of four, f16 d`: `w = d · (q − 1)`; in each half, 32 bytes hold first their lowest bits' weights.
pub(crate) struct Tq2_0;

impl Block for Tq2_0 {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 66;
    const GROUP: usize = 32;
    const BITS: usize = 4;
    const OFFSET: u8 = 1;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        scales[..8].fill(f16(block, 64));
        for half in 0..2 {
            let q: &[u8; 32] = bytes(block, 32 * half);
            for part in 0..4 {
                let u = &mut u[128 * half + 32 * part..][..32];
                for i in 0..32 {
                    u[i] = q[i] >> (2 * part) & 3;
                }
            }
        }
    }
}
