//! The IQ1, IQ2 and IQ3 types: eight or four weights are an entry of a codebook, of points near a lattice, with a sign for each.
//!
//! The codebooks are ggml's, as its gguf-py packs them: see `reference/gguf_blocks.py`.

use super::{Block, bytes, f16};

/// The codebooks of [`Codebook`].
#[repr(align(64))]
struct Packed([u8; 9216]);

static PACKED: Packed = Packed(*include_bytes!("codebooks.bin"));

/// A codebook: where its entries lie, packed, and what their codes stand for.
pub(crate) struct Codebook<const VALUES: usize> {
    at: usize,
    pub values: [u8; VALUES],
}

impl<const VALUES: usize> Codebook<VALUES> {
    /// Its entries of 16 bits: eight codes of two bits or four of four, the first in the lowest.
    #[cfg(target_arch = "x86_64")]
    pub fn packed(&self) -> *const u8 {
        PACKED.0[self.at..].as_ptr()
    }
}

const IQ2_VALUES: [u8; 3] = [8, 25, 43];
pub(crate) const IQ2_XXS_CODES: Codebook<3> = Codebook { at: 0, values: IQ2_VALUES };
pub(crate) const IQ2_XS_CODES: Codebook<3> = Codebook { at: 512, values: IQ2_VALUES };
pub(crate) const IQ2_S_CODES: Codebook<3> = Codebook { at: 1536, values: IQ2_VALUES };
pub(crate) const IQ3_XXS_CODES: Codebook<8> = Codebook { at: 3584, values: [4, 12, 20, 28, 36, 44, 52, 62] };
pub(crate) const IQ3_S_CODES: Codebook<8> = Codebook { at: 4096, values: [1, 3, 5, 7, 9, 11, 13, 15] };
/// Eight times -1, 0 or 1, plus 128.
pub(crate) const IQ1_CODES: Codebook<3> = Codebook { at: 5120, values: [120, 128, 136] };

/// Its entries, each code replaced by what it stands for, a byte to each.
const fn entries<const N: usize, const VALUES: usize>(codes: &Codebook<VALUES>) -> [u64; N] {
    let (weights, bits) = if VALUES > 4 { (4, 4) } else { (8, 2) };
    let (mut entries, mut entry) = ([0; N], 0);
    while entry < N {
        let mut weight = 0;
        while weight < weights {
            let bit = (entry * weights + weight) * bits;
            let code = PACKED.0[codes.at + bit / 8] >> (bit % 8) & ((1 << bits) - 1);
            entries[entry] |= (codes.values[code as usize] as u64) << (8 * weight);
            weight += 1;
        }
        entry += 1;
    }
    entries
}

pub(crate) static IQ2_XXS: [u64; 256] = entries(&IQ2_XXS_CODES);
pub(crate) static IQ2_XS: [u64; 512] = entries(&IQ2_XS_CODES);
pub(crate) static IQ2_S: [u64; 1024] = entries(&IQ2_S_CODES);
pub(crate) static IQ3_XXS: [u64; 256] = entries(&IQ3_XXS_CODES);
pub(crate) static IQ3_S: [u64; 512] = entries(&IQ3_S_CODES);
pub(crate) static IQ1: [u64; 2048] = entries(&IQ1_CODES);

/// For each byte of signs, 0xff in the bytes of those that are set.
static SIGNS: [u64; 256] = {
    let (mut signs, mut byte) = ([0; 256], 0);
    while byte < 256 {
        let mut bit = 0;
        while bit < 8 {
            signs[byte] |= (0xff * (byte as u64 >> bit & 1)) << (8 * bit);
            bit += 1;
        }
        byte += 1;
    }
    signs
};

const ONES: u64 = 0x0101_0101_0101_0101;

/// Eight weights plus 128, from their sizes, each at least 1, and their signs.
#[inline(always)]
fn signed(sizes: u64, signs: u8) -> [u8; 8] {
    let signs = SIGNS[usize::from(signs)];
    // −x is the complement of x, plus 1: no byte runs over, since none is 0.
    (((sizes ^ signs) + (signs & ONES)) ^ (0x80 * ONES)).to_le_bytes()
}

/// Signs of which seven are stored; the eighth makes their number even.
#[inline(always)]
pub(crate) const fn even_signs(seven: u32) -> u8 {
    let seven = seven as u8 & 127;
    seven | ((seven.count_ones() & 1) << 7) as u8
}

/// `f16 d, 8 × (4 bytes of entries, u32 of four 7-bit signs and a 4-bit scale)`: `w = d · (scale + ½) / 4 · entry`, in groups
/// of 32.
pub(crate) struct Iq2Xxs;

impl Block for Iq2Xxs {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 66;
    const GROUP: usize = 32;
    const BITS: usize = 8;
    const OFFSET: u8 = 128;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        let d = f16(block, 0);
        for group in 0..8 {
            let q: &[u8; 4] = bytes(block, 2 + 8 * group);
            let signs = u32::from_le_bytes(*bytes(block, 6 + 8 * group));
            scales[group] = d * (0.5 + (signs >> 28) as f32) * 0.25;
            for i in 0..4 {
                let weights = signed(IQ2_XXS[usize::from(q[i])], even_signs(signs >> (7 * i)));
                u[32 * group + 8 * i..][..8].copy_from_slice(&weights);
            }
        }
    }
}

/// `f16 d, 32 × u16 of a 9-bit entry and 7-bit signs, 8 bytes of two 4-bit scales`: in groups of 16.
pub(crate) struct Iq2Xs;

impl Block for Iq2Xs {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 74;
    const GROUP: usize = 16;
    const BITS: usize = 8;
    const OFFSET: u8 = 128;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        halved_scales(f16(block, 0), bytes(block, 66), scales);
        for i in 0..32 {
            let q = u16::from_le_bytes(*bytes(block, 2 + 2 * i));
            let weights = signed(IQ2_XS[usize::from(q & 511)], even_signs(u32::from(q >> 9)));
            u[8 * i..][..8].copy_from_slice(&weights);
        }
    }
}

/// `d · (scale + ½) / 4` of sixteen scales of four bits.
#[inline(always)]
fn halved_scales(d: f32, packed: &[u8; 8], scales: &mut [f32]) {
    for (i, scale) in scales[..16].iter_mut().enumerate() {
        *scale = d * (0.5 + f32::from(packed[i / 2] >> (4 * (i % 2)) & 15)) * 0.25;
    }
}

/// `f16 d, 32 bytes of entries, 32 bytes of signs, 8 bytes of the entries' upper two bits, 8 bytes of two 4-bit scales`: in
/// groups of 16.
pub(crate) struct Iq2S;

impl Block for Iq2S {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 82;
    const GROUP: usize = 16;
    const BITS: usize = 8;
    const OFFSET: u8 = 128;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        halved_scales(f16(block, 0), bytes(block, 74), scales);
        let (q, signs): (&[u8; 32], &[u8; 32]) = (bytes(block, 2), bytes(block, 34));
        let high: &[u8; 8] = bytes(block, 66);
        for i in 0..32 {
            let entry = usize::from(q[i]) | usize::from(high[i / 4] >> (2 * (i % 4)) & 3) << 8;
            u[8 * i..][..8].copy_from_slice(&signed(IQ2_S[entry], signs[i]));
        }
    }
}

/// `f16 d, 64 bytes of entries of four, 8 × u32 of four 7-bit signs and a 4-bit scale`: `w = d · (scale + ½) / 2 · entry`, in
/// groups of 32.
pub(crate) struct Iq3Xxs;

impl Block for Iq3Xxs {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 98;
    const GROUP: usize = 32;
    const BITS: usize = 8;
    const OFFSET: u8 = 128;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        let d = f16(block, 0);
        let q: &[u8; 64] = bytes(block, 2);
        for (group, scale) in scales[..8].iter_mut().enumerate() {
            let signs = u32::from_le_bytes(*bytes(block, 66 + 4 * group));
            *scale = d * (0.5 + (signs >> 28) as f32) * 0.5;
            for i in 4 * group..4 * group + 4 {
                let sizes = IQ3_XXS[usize::from(q[2 * i])] | IQ3_XXS[usize::from(q[2 * i + 1])] << 32;
                u[8 * i..][..8].copy_from_slice(&signed(sizes, even_signs(signs >> (7 * (i % 4)))));
            }
        }
    }
}

/// `f16 d, 64 bytes of entries of four, 8 bytes of their ninth bits, 32 bytes of signs, 4 bytes of two 4-bit scales`:
/// `w = d · (1 + 2 · scale) · entry`, in groups of 32.
pub(crate) struct Iq3S;

impl Block for Iq3S {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 110;
    const GROUP: usize = 32;
    const BITS: usize = 8;
    const OFFSET: u8 = 128;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        let d = f16(block, 0);
        let (q, ninth): (&[u8; 64], &[u8; 8]) = (bytes(block, 2), bytes(block, 66));
        let (signs, packed): (&[u8; 32], &[u8; 4]) = (bytes(block, 74), bytes(block, 106));
        for (group, scale) in scales[..8].iter_mut().enumerate() {
            *scale = d * f32::from(1 + 2 * (packed[group / 2] >> (4 * (group % 2)) & 15));
        }
        for i in 0..32 {
            let entry = |at: usize| IQ3_S[usize::from(q[at]) | usize::from(ninth[at / 8] >> (at % 8) & 1) << 8];
            let sizes = entry(2 * i) | entry(2 * i + 1) << 32;
            u[8 * i..][..8].copy_from_slice(&signed(sizes, signs[i]));
        }
    }
}

/// Eight weights of IQ1: eight times an entry, and 1 more or, where `less`, 1 less.
#[inline(always)]
fn ternary(entry: usize, less: bool) -> [u8; 8] {
    let entry = IQ1[entry];
    (if less { entry - ONES } else { entry + ONES }).to_le_bytes()
}

/// `f16 d, 32 bytes of entries, 8 × u16 of four times three upper bits, a 3-bit scale and a sign`: `w = d · (2 · scale + 1) ·
/// (entry ± ⅛)`, in groups of 32.
pub(crate) struct Iq1S;

impl Block for Iq1S {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 50;
    const GROUP: usize = 32;
    const BITS: usize = 8;
    const OFFSET: u8 = 128;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        let d = f16(block, 0);
        let q: &[u8; 32] = bytes(block, 2);
        for group in 0..8 {
            let high = u16::from_le_bytes(*bytes(block, 34 + 2 * group));
            // The eighth is exact: no f16 is so small that it would be lost.
            scales[group] = d * f32::from(2 * (high >> 12 & 7) + 1) * 0.125;
            for i in 0..4 {
                let entry = usize::from(q[4 * group + i]) | usize::from(high >> (3 * i) & 7) << 8;
                u[32 * group + 8 * i..][..8].copy_from_slice(&ternary(entry, high & 0x8000 != 0));
            }
        }
    }
}

/// `32 bytes of entries, 16 bytes of two times three upper bits and a sign, 4 × u16 of four 3-bit scales and four bits of f16 d`:
/// in groups of 16, with a sign for each eight.
pub(crate) struct Iq1M;

impl Block for Iq1M {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 56;
    const GROUP: usize = 16;
    const BITS: usize = 8;
    const OFFSET: u8 = 128;
    #[inline(always)]
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], _: &mut [f32]) {
        let (q, high): (&[u8; 32], &[u8; 16]) = (bytes(block, 0), bytes(block, 32));
        let word = |i: usize| u16::from_le_bytes(*bytes(block, 48 + 2 * i));
        let d = (0..4).fold(0, |d, i| d | (word(i) >> 12) << (4 * i));
        let d = half::f16::from_bits(d).to_f32();
        for (group, scale) in scales[..16].iter_mut().enumerate() {
            *scale = d * f32::from(2 * (word(group / 4) >> (3 * (group % 4)) & 7) + 1) * 0.125;
        }
        for i in 0..32 {
            let high = high[i / 2] >> (4 * (i % 2));
            let entry = usize::from(q[i]) | usize::from(high & 7) << 8;
            u[8 * i..][..8].copy_from_slice(&ternary(entry, high & 8 != 0));
        }
    }
}
