//! Random values, made at the speed of a drive. Every value is a function of (seed, name, place), so that blocks of a file
//! can be made in any order.

use std::ops::Range;
use std::sync::Arc;

use half::bf16;

use super::routing::Rows;

/// How the bytes of a stored tensor are made.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// Normal values.
    Bf16 {
        mean: f32,
        deviation: f32,
    },
    /// The same in F32.
    F32 {
        mean: f32,
        deviation: f32,
    },
    /// Bits that are all random: packed weights, evenly distributed.
    Packed,
    /// Scales of those, `step` in the mean.
    Scales {
        step: f32,
    },
    /// Biases that centre them: `-scale · q_max / 2`.
    Biases {
        step: f32,
        q_max: f32,
    },
    /// Rows with structure, plain.
    RowsBf16(Arc<Rows>),
    /// The same quantised to so many bits: packed weights, scales and biases.
    RowsPacked(Arc<Rows>, usize),
    RowsScales(Arc<Rows>, usize),
    RowsBiases(Arc<Rows>, usize),
}

/// Weights that share a scale and a bias.
const GROUP: usize = 64;
/// Values of the table of [`Normals`], and the bits that choose one.
const TABLE_BITS: u32 = 12;

impl Content {
    /// Packed weights, scales and biases of random weights with this deviation.
    pub fn affine(bits: usize, deviation: f32) -> [Content; 3] {
        let q_max = ((1 << bits) - 1) as f32;
        // The deviation of whole numbers evenly distributed over 0..=q_max.
        let step = deviation / (((q_max + 1.0) * (q_max + 1.0) - 1.0) / 12.0).sqrt();
        [Content::Packed, Content::Scales { step }, Content::Biases { step, q_max }]
    }

    /// Fills `out` with the tensor's bytes from `offset` on. `key` names tensor and seed.
    pub fn fill(&self, key: u64, offset: u64, out: &mut [u8], normals: &Normals) {
        let random = Random(key);
        match self {
            Content::Bf16 { mean, deviation } => {
                let table = normals.0.map(|z| bf16::from_f32(mean + deviation * z).to_bits());
                cells(offset, out, |cell| {
                    let bits = random.at(cell);
                    let lane = |lane: u32| u64::from(table[lookup(bits, lane)]) << (16 * lane);
                    (lane(0) | lane(1) | lane(2) | lane(3)).to_le_bytes()
                });
            }
            Content::F32 { mean, deviation } => {
                cells(offset, out, |cell| (mean + deviation * normals.at(random, cell)).to_le_bytes());
            }
            Content::Packed => cells(offset, out, |cell| random.at(cell).to_le_bytes()),
            Content::Scales { step } => cells(offset, out, |cell| scale(random, cell, *step).to_le_bytes()),
            Content::Biases { step, q_max } => cells(offset, out, |cell| {
                bf16::from_f32(-0.5 * q_max * scale(random, cell, *step).to_f32()).to_le_bytes()
            }),
            Content::RowsBf16(rows) => {
                let mut reader = RowReader::new(rows, random, normals);
                cells(offset, out, |cell| bf16::from_f32(reader.value(cell)).to_le_bytes());
            }
            Content::RowsPacked(rows, bits) => {
                let mut reader = RowReader::new(rows, random, normals);
                match bits {
                    2 => cells(offset, out, |cell| reader.group(cell, 2).pack::<16>()),
                    3 => cells(offset, out, |cell| reader.group(cell, 3).pack::<24>()),
                    4 => cells(offset, out, |cell| reader.group(cell, 4).pack::<32>()),
                    5 => cells(offset, out, |cell| reader.group(cell, 5).pack::<40>()),
                    6 => cells(offset, out, |cell| reader.group(cell, 6).pack::<48>()),
                    _ => cells(offset, out, |cell| reader.group(cell, 8).pack::<64>()),
                }
            }
            Content::RowsScales(rows, bits) => {
                let mut reader = RowReader::new(rows, random, normals);
                cells(offset, out, |cell| reader.group(cell, *bits).scale.to_le_bytes());
            }
            Content::RowsBiases(rows, bits) => {
                let mut reader = RowReader::new(rows, random, normals);
                cells(offset, out, |cell| reader.group(cell, *bits).bias.to_le_bytes());
            }
        }
    }
}

/// The key of a tensor's values: FNV-1a of its name, so that they do not depend on the order of tensors. The parts of a
/// quantised matrix share one.
pub(super) fn key(seed: u64, name: &str) -> u64 {
    let stem = ["weight", "scales", "biases"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
    stem.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ byte as u64).wrapping_mul(0x100_0000_01b3))
}

/// Calls `make` for every cell of N bytes that `out`, which begins at byte `offset`, has a share in, in order.
#[inline]
fn cells<const N: usize>(offset: u64, out: &mut [u8], mut make: impl FnMut(u64) -> [u8; N]) {
    let (mut cell, within) = (offset / N as u64, (offset % N as u64) as usize);
    let mut rest = out;
    if within > 0 {
        let bytes = rest.len().min(N - within);
        let (head, tail) = rest.split_at_mut(bytes);
        head.copy_from_slice(&make(cell)[within..within + bytes]);
        (rest, cell) = (tail, cell + 1);
    }
    let mut whole = rest.chunks_exact_mut(N);
    for chunk in &mut whole {
        chunk.copy_from_slice(&make(cell));
        cell += 1;
    }
    let tail = whole.into_remainder();
    if !tail.is_empty() {
        let bytes = tail.len();
        tail.copy_from_slice(&make(cell)[..bytes]);
    }
}

/// A scale within a quarter of `step`, of either sign.
fn scale(random: Random, cell: u64, step: f32) -> bf16 {
    // The scales of a matrix are other draws than its weights.
    let bits = random.at(!cell);
    let even = (bits >> 40) as f32 / (1 << 24) as f32;
    let scale = bf16::from_f32(step * (0.75 + 0.5 * even));
    if bits & 1 == 0 { scale } else { -scale }
}

/// SplitMix64 (Steele, Lea and Flood, 2014), at any place of its sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Random(pub u64);

impl Random {
    #[inline]
    pub fn at(self, index: u64) -> u64 {
        let state = self.0.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The place in the table that a lane of random bits chooses.
#[inline]
fn lookup(bits: u64, lane: u32) -> usize {
    (bits >> (16 * lane)) as usize & ((1 << TABLE_BITS) - 1)
}

/// 4096 values of a standard normal distribution at evenly spaced quantiles.
pub(super) struct Normals([f32; 1 << TABLE_BITS]);

impl Normals {
    pub fn new() -> Self {
        // The logistic distribution of deviation 1 (π / √3 before scaling), whose quantiles need no special function. Its
        // tails are longer, which is no matter.
        let quantile = |p: f32| (p / (1.0 - p)).ln() / 1.813_799_4;
        Normals(std::array::from_fn(|i| quantile((i as f32 + 0.5) / (1 << TABLE_BITS) as f32)))
    }

    /// The normal value at a place.
    #[inline]
    pub fn at(&self, random: Random, index: u64) -> f32 {
        self.0[lookup(random.at(index / 4), (index % 4) as u32)]
    }
}

/// Values of [`Rows`], asked for in order.
struct RowReader<'a> {
    rows: &'a Rows,
    random: Random,
    normals: &'a Normals,
    /// What `base` holds.
    row: Option<usize>,
    base: Vec<f32>,
}

impl<'a> RowReader<'a> {
    fn new(rows: &'a Rows, random: Random, normals: &'a Normals) -> Self {
        RowReader { rows, random, normals, row: None, base: vec![0.0; rows.cols()] }
    }

    fn load(&mut self, row: usize) {
        if self.row != Some(row) {
            self.rows.base(row, &mut self.base);
            self.row = Some(row);
        }
    }

    /// Element `index` of the matrix.
    fn value(&mut self, index: u64) -> f32 {
        let cols = self.base.len() as u64;
        self.load((index / cols) as usize);
        self.base[(index % cols) as usize] + self.rows.noise * self.normals.at(self.random, index)
    }

    /// A group of the matrix, quantised: the least value becomes 0, the greatest the greatest q.
    fn group(&mut self, group: u64, bits: usize) -> Quantised {
        let first = group * GROUP as u64;
        let cols = self.base.len() as u64;
        self.load((first / cols) as usize);
        let base: Range<usize> = (first % cols) as usize..(first % cols) as usize + GROUP;
        let mut values = [0.0; GROUP];
        for (i, (value, base)) in values.iter_mut().zip(&self.base[base]).enumerate() {
            *value = base + self.rows.noise * self.normals.at(self.random, first + i as u64);
        }
        let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(low, high), &v| (low.min(v), high.max(v)));
        let q_max = ((1 << bits) - 1) as f32;
        let (scale, bias) = (bf16::from_f32(((high - low) / q_max).max(f32::MIN_POSITIVE)), bf16::from_f32(low));
        let q = values.map(|value| ((value - bias.to_f32()) / scale.to_f32()).round().clamp(0.0, q_max) as u8);
        Quantised { q, bits, scale, bias }
    }
}

struct Quantised {
    q: [u8; GROUP],
    bits: usize,
    scale: bf16,
    bias: bf16,
}

impl Quantised {
    /// The q's as one little-endian stream of bits, the lowest first: 8 · bits bytes.
    fn pack<const N: usize>(&self) -> [u8; N] {
        let mut packed = [0; N];
        for (i, &q) in self.q.iter().enumerate() {
            let (byte, shift) = (i * self.bits / 8, i * self.bits % 8);
            let pair = (u16::from(q) << shift).to_le_bytes();
            packed[byte] |= pair[0];
            if pair[1] > 0 {
                packed[byte + 1] |= pair[1];
            }
        }
        packed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::routing;
    use outpour_kernels::quant::affine_q;

    fn bytes(content: &Content, length: usize, cuts: &[usize]) -> Vec<u8> {
        let mut out = vec![0; length];
        let edges: Vec<usize> = [&[0], cuts, &[length]].concat();
        for edge in edges.windows(2) {
            content.fill(5, edge[0] as u64, &mut out[edge[0]..edge[1]], &Normals::new());
        }
        out
    }

    #[test]
    fn any_cut_gives_the_same_bytes() {
        let rows = Arc::new(routing::tests::rows(6, 128));
        let [packed, scales, biases] = Content::affine(3, 0.1);
        let contents = [
            (Content::Bf16 { mean: 1.0, deviation: 0.1 }, 999),
            (Content::F32 { mean: 1.0, deviation: 0.1 }, 400),
            (packed, 1000),
            (scales, 64),
            (biases, 64),
            (Content::RowsBf16(rows.clone()), 6 * 128 * 2),
            (Content::RowsPacked(rows.clone(), 5), 6 * 128 * 5 / 8),
            (Content::RowsScales(rows.clone(), 5), 24),
            (Content::RowsBiases(rows, 5), 24),
        ];
        for (content, length) in contents {
            let whole = bytes(&content, length, &[]);
            assert_eq!(whole, bytes(&content, length, &[1, 3, 4, 7, length / 2, length - 1]), "{content:?}");
        }
    }

    #[test]
    fn values_have_the_mean_and_deviation_asked_for() {
        let moments = |values: &[f32]| {
            let n = values.len() as f32;
            let mean = values.iter().sum::<f32>() / n;
            (mean, (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / n).sqrt())
        };
        let plain = bytes(&Content::Bf16 { mean: 0.5, deviation: 0.2 }, 40_000, &[]);
        let plain: Vec<f32> = plain.chunks(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
        let (mean, deviation) = moments(&plain);
        assert!((mean - 0.5).abs() < 0.01 && (deviation - 0.2).abs() < 0.01, "{mean} {deviation}");
        for bits in [2, 3, 4, 5, 6, 8] {
            let [packed, scales, biases] = Content::affine(bits, 0.2).map(|content| {
                let of = if matches!(content, Content::Packed) { 8 * bits } else { 2 };
                bytes(&content, 400 * of, &[])
            });
            let number = |all: &[u8], group: usize| bf16::from_le_bytes([all[2 * group], all[2 * group + 1]]).to_f32();
            let value = |i: usize| {
                let q = affine_q(bits, &packed, i) as f32;
                number(&scales, i / 64) * q + number(&biases, i / 64)
            };
            let values: Vec<f32> = (0..400 * 64).map(value).collect();
            let (mean, deviation) = moments(&values);
            assert!(mean.abs() < 0.01 && (deviation - 0.2).abs() < 0.02, "{bits} bits: {mean} {deviation}");
        }
    }

    #[test]
    fn quantised_rows_are_near_the_plain_ones() {
        let rows = Arc::new(routing::tests::rows(4, 128));
        let plain = bytes(&Content::RowsBf16(rows.clone()), 4 * 128 * 2, &[]);
        for bits in [2, 3, 4, 5, 6, 8] {
            let packed = bytes(&Content::RowsPacked(rows.clone(), bits), 4 * 128 * bits / 8, &[]);
            let scales = bytes(&Content::RowsScales(rows.clone(), bits), 16, &[]);
            let biases = bytes(&Content::RowsBiases(rows.clone(), bits), 16, &[]);
            let number = |all: &[u8], i: usize| bf16::from_le_bytes([all[2 * i], all[2 * i + 1]]).to_f32();
            for i in 0..4 * 128 {
                let scale = number(&scales, i / 64);
                let value = scale * affine_q(bits, &packed, i) as f32 + number(&biases, i / 64);
                let expected = number(&plain, i);
                assert!((value - expected).abs() <= 0.6 * scale + 0.02 * expected.abs(), "{bits}: {value} {expected}");
            }
        }
    }
}
