//! The K types: blocks of 256, whose groups' scales and mins are whole multiples of the block's own.

use super::{Block, bytes, f16};

/// `16 bytes of 4-bit scale | min, 64 bytes of four q's, f16 d, f16 dmin`: `w = d · scale · q − dmin · min`, in groups of 16.
pub(crate) struct Q2K;

impl Block for Q2K {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 84;
    const GROUP: usize = 16;
    const BITS: usize = 4;
    const OFFSET: u8 = 0;
    const MINS: bool = true;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], mins: &mut [f32]) {
        let (d, dmin) = (f16(block, 80), f16(block, 82));
        let packed: &[u8; 16] = bytes(block, 0);
        // Whole arrays, which the compiler makes vectors of.
        scales.copy_from_slice(&packed.map(|both| d * f32::from(both & 15)));
        mins.copy_from_slice(&packed.map(|both| dmin * f32::from(both >> 4)));
        crumbs(bytes(block, 16), u);
    }
}

/// In each half of 32 bytes, first the weights in their lowest two bits, then those in the next.
#[inline(always)]
fn crumbs(q: &[u8; 64], u: &mut [u8]) {
    for half in 0..2 {
        for part in 0..4 {
            let (q, u) = (&q[32 * half..][..32], &mut u[128 * half + 32 * part..][..32]);
            for i in 0..32 {
                u[i] = q[i] >> (2 * part) & 3;
            }
        }
    }
}

/// `32 bytes of third bits, 64 bytes of four q's, 12 bytes of 6-bit scales, f16 d`: `w = d · (scale − 32) · (q − 4)`, in groups
/// of 16.
pub(crate) struct Q3K;

impl Block for Q3K {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 110;
    const GROUP: usize = 16;
    const BITS: usize = 4;
    const OFFSET: u8 = 4;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        let d = f16(block, 108);
        let packed: &[u8; 12] = bytes(block, 96);
        for group in 0..16 {
            let low = packed[group % 8] >> (4 * (group / 8)) & 15;
            let high = packed[8 + group % 4] >> (2 * (group / 4)) & 3;
            scales[group] = d * f32::from((low | high << 4) as i8 - 32);
        }
        crumbs(bytes(block, 32), u);
        let third: &[u8; 32] = bytes(block, 0);
        for part in 0..8 {
            let u = &mut u[32 * part..][..32];
            for i in 0..32 {
                u[i] |= (third[i] >> part & 1) << 2;
            }
        }
    }
}

/// Scales and mins of six bits, eight of each in 12 bytes, times d and dmin.
#[inline(always)]
fn scales_and_mins(packed: &[u8; 12], d: f32, dmin: f32, scales: &mut [f32], mins: &mut [f32]) {
    for i in 0..4 {
        let (low, middle, high) = (packed[i], packed[4 + i], packed[8 + i]);
        scales[i] = d * f32::from(low & 63);
        mins[i] = dmin * f32::from(middle & 63);
        scales[4 + i] = d * f32::from(high & 15 | low >> 2 & 48);
        mins[4 + i] = dmin * f32::from(high >> 4 | middle >> 2 & 48);
    }
}

/// In each quarter of 32 bytes, first their lower four bits, then the upper.
#[inline(always)]
fn nibbles(q: &[u8; 128], u: &mut [u8]) {
    for quarter in 0..4 {
        let (q, u) = (&q[32 * quarter..][..32], &mut u[64 * quarter..][..64]);
        for i in 0..32 {
            u[i] = q[i] & 15;
            u[32 + i] = q[i] >> 4;
        }
    }
}

/// `f16 d, f16 dmin, 12 bytes of 6-bit scales and mins, 128 bytes of two q's`: `w = d · scale · q − dmin · min`, in groups of 32.
pub(crate) struct Q4K;

impl Block for Q4K {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 144;
    const GROUP: usize = 32;
    const BITS: usize = 4;
    const OFFSET: u8 = 0;
    const MINS: bool = true;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], mins: &mut [f32]) {
        scales_and_mins(bytes(block, 4), f16(block, 0), f16(block, 2), scales, mins);
        nibbles(bytes(block, 16), u);
    }
}

/// As [`Q4K`], with 32 bytes of fifth bits before the q's.
pub(crate) struct Q5K;

impl Block for Q5K {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 176;
    const GROUP: usize = 32;
    const BITS: usize = 5;
    const OFFSET: u8 = 0;
    const MINS: bool = true;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], mins: &mut [f32]) {
        scales_and_mins(bytes(block, 4), f16(block, 0), f16(block, 2), scales, mins);
        nibbles(bytes(block, 48), u);
        let fifth: &[u8; 32] = bytes(block, 16);
        for part in 0..8 {
            let u = &mut u[32 * part..][..32];
            for i in 0..32 {
                u[i] |= (fifth[i] >> part & 1) << 4;
            }
        }
    }
}

/// `128 bytes of two lower halves, 64 bytes of four upper two bits, 16 signed scales, f16 d`: `w = d · scale · (q − 32)`, in
/// groups of 16.
pub(crate) struct Q6K;

impl Block for Q6K {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 210;
    const GROUP: usize = 16;
    const BITS: usize = 6;
    const OFFSET: u8 = 32;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        let d = f16(block, 208);
        let packed: &[u8; 16] = bytes(block, 192);
        for group in 0..16 {
            scales[group] = d * f32::from(packed[group] as i8);
        }
        let (low, high): (&[u8; 128], &[u8; 64]) = (bytes(block, 0), bytes(block, 128));
        for half in 0..2 {
            let high = &high[32 * half..][..32];
            for part in 0..4 {
                let low = &low[64 * half + 32 * (part % 2)..][..32];
                let u = &mut u[128 * half + 32 * part..][..32];
                for i in 0..32 {
                    u[i] = low[i] >> (4 * (part / 2)) & 15 | (high[i] >> (2 * part) & 3) << 4;
                }
            }
        }
    }
}
