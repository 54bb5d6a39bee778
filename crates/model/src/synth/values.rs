//! Random values, made at the speed of a drive. Every value is a function of (seed, name, place), so that blocks of a file
//! can be made in any order.

use std::sync::Arc;

use half::bf16;
use half::f16;
use outpour_kernels::quant::coded::e4m3;
use outpour_kernels::{Code, Coded, DType, GgmlType, Second};

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
    /// The same in F16.
    F16 {
        mean: f32,
        deviation: f32,
    },
    /// Rows of so many whole numbers below another one, no two of a row the same.
    Table {
        columns: usize,
        below: usize,
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
    /// Numbers of E4M3, all but NaN alike.
    E4m3,
    /// Scales `step` in the mean, of a type.
    ScalesOf {
        step: f32,
        dtype: DType,
    },
    /// One byte again and again.
    Fill(u8),
    /// Rows with structure, plain.
    RowsBf16(Arc<Rows>),
    /// The same quantised to so many bits: packed weights, scales and biases.
    RowsPacked(Arc<Rows>, usize),
    RowsScales(Arc<Rows>, usize),
    RowsBiases(Arc<Rows>, usize),
    /// The same in F32.
    RowsF32(Arc<Rows>),
    /// The same in F16.
    RowsF16(Arc<Rows>),
    /// The same in blocks of Q8_0.
    RowsQ8_0(Arc<Rows>),
    /// Blocks of ggml with random bits, and `d` as their scale in the mean.
    Blocks {
        blocks: GgmlType,
        d: f32,
    },
    /// -exp of normal values, in F32.
    Decay {
        mean: f32,
        deviation: f32,
    },
}

/// Weights that share a scale and a bias.
const GROUP: usize = 64;
/// At which byte a block has its min, and what of its scale centres its weights.
type Min = (usize, f32);

/// How a block has its scale.
#[derive(Clone, Copy)]
enum Scale {
    /// As binary16 at this byte.
    Half(usize),
    /// As binary16 in the upper four bits of four words from this byte on.
    Nibbles(usize),
    /// As an exponent, the byte at this place.
    Exponent(usize),
}

impl Scale {
    fn write(self, block: &mut [u8], scale: f16, exponent: u8) {
        match self {
            Scale::Half(at) => block[at..at + 2].copy_from_slice(&scale.to_le_bytes()),
            Scale::Nibbles(at) => block[at..].chunks_exact_mut(2).zip(0..4).for_each(|(word, i)| {
                word[1] = word[1] & 15 | ((scale.to_bits() >> (4 * i)) as u8 & 15) << 4;
            }),
            Scale::Exponent(at) => block[at] = exponent,
        }
    }
}

/// The exponent of a power of two near `d`, with random bits so that squares are those of `d` in the mean.
fn exponent(d: f32, random: u64) -> u8 {
    let below = d.log2().floor();
    let share = ((d / below.exp2()).powi(2) - 1.0) / 3.0;
    let up = (random >> 40) as f32 / (1u32 << 24) as f32 <= share && share > 0.0;
    (below + f32::from(u8::from(up)) + 127.0).clamp(0.0, 254.0) as u8
}

/// E4M3 beside `value`, of its sign, with random bits so that squares are those of `value` in the mean: few are as small as scales.
fn near_e4m3(value: f32, random: u64) -> u8 {
    let size = value.abs();
    // Numbers ascend with their bytes; 0x7e is the largest.
    let (mut below, mut above) = (0u8, 0x7eu8);
    while above - below > 1 {
        let middle = below + (above - below) / 2;
        *if e4m3(middle) <= size { &mut below } else { &mut above } = middle;
    }
    let [low, high] = [below, above].map(|byte| e4m3(byte).powi(2));
    let share = (size * size - low) / (high - low);
    let up = (random >> 40) as f32 / (1u32 << 24) as f32 <= share && share > 0.0;
    u8::from(value < 0.0) << 7 | if up { above } else { below }
}

/// The block types that are made: how they have their scale, and at which byte their min, which is binary16.
const BLOCKS: [(GgmlType, Scale, Option<Min>); 22] = [
    (GgmlType::Q4_0, Scale::Half(0), None),
    (GgmlType::Q4_1, Scale::Half(0), Some((2, -7.5))),
    (GgmlType::Q5_0, Scale::Half(0), None),
    (GgmlType::Q5_1, Scale::Half(0), Some((2, -15.5))),
    (GgmlType::Q8_0, Scale::Half(0), None),
    (GgmlType::Q2K, Scale::Half(80), Some((82, 1.5))),
    (GgmlType::Q3K, Scale::Half(108), None),
    (GgmlType::Q4K, Scale::Half(0), Some((2, 7.5))),
    (GgmlType::Q5K, Scale::Half(0), Some((2, 15.5))),
    (GgmlType::Q6K, Scale::Half(208), None),
    (GgmlType::Iq1S, Scale::Half(0), None),
    (GgmlType::Iq2Xxs, Scale::Half(0), None),
    (GgmlType::Iq2Xs, Scale::Half(0), None),
    (GgmlType::Iq2S, Scale::Half(0), None),
    (GgmlType::Iq3Xxs, Scale::Half(0), None),
    (GgmlType::Iq3S, Scale::Half(0), None),
    (GgmlType::Iq4Nl, Scale::Half(0), None),
    (GgmlType::Iq4Xs, Scale::Half(0), None),
    (GgmlType::Iq1M, Scale::Nibbles(48), None),
    (GgmlType::Tq1_0, Scale::Half(52), None),
    (GgmlType::Tq2_0, Scale::Half(64), None),
    (GgmlType::Mxfp4, Scale::Exponent(0), None),
];
/// The most bytes of such a block.
const BLOCK_BYTES_MAX: usize = 256;

/// The block types that [`Content::blocks`] makes.
pub(super) fn made_blocks() -> impl Iterator<Item = GgmlType> {
    BLOCKS.iter().map(|(blocks, ..)| *blocks)
}

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

    /// Codes, scales and what is second of random weights with this deviation.
    pub fn coded(coded: Coded, scales: DType, deviation: f32) -> (Content, Content, Content) {
        // The deviations of numbers whose bits are all random.
        let of_code = match coded.code {
            Code::E4m3 => 107.0,
            Code::E2m1 => 2.93,
            Code::Int4 | Code::Gptq | Code::Awq => 4.64,
            Code::Int8 | Code::Signed8 => 73.9,
        };
        let data = if coded.code == Code::E4m3 { Content::E4m3 } else { Content::Packed };
        let step = deviation / of_code;
        let (step, second) = match coded.second {
            // E4M3 has no numbers as small as scales: the second takes them.
            Second::Times => (1.0, Content::F32 { mean: step, deviation: 0.0 }),
            Second::Over => (1.0, Content::F32 { mean: 1.0 / step, deviation: 0.0 }),
            Second::ZerosLessOne => (step, Content::Fill(0x77)),
            Second::Zeros | Second::None => (step, Content::Fill(0x88)),
        };
        (data, Content::ScalesOf { step, dtype: scales }, second)
    }

    /// Blocks of random weights with this deviation, of one of [`made_blocks`].
    pub fn blocks(blocks: GgmlType, deviation: f32) -> Content {
        const COUNT: usize = 64;
        // What weights deviate with a scale of 1 depends on codebooks, and scales within blocks: it is measured.
        let mut bytes = vec![0; COUNT * blocks.block_bytes()];
        Content::Blocks { blocks, d: 1.0 }.fill(0, 0, &mut bytes, &Normals::new());
        let mut values = vec![0.0; COUNT * blocks.block_weights()];
        blocks.dequantise(&bytes, &mut values);
        let square = values.iter().map(|value| f64::from(value * value)).sum::<f64>() / values.len() as f64;
        Content::Blocks { blocks, d: deviation / square.sqrt() as f32 }
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
            Content::F16 { mean, deviation } => {
                cells(offset, out, |cell| f16::from_f32(mean + deviation * normals.at(random, cell)).to_le_bytes());
            }
            Content::Table { columns, below } => cells(offset, out, |cell| {
                let (row, column) = (cell / *columns as u64, cell % *columns as u64);
                // A start of each row's own, and steps that meet nothing twice.
                let bits = random.at(row);
                let step = 1 + (bits >> 32) % (*below / columns).max(1) as u64;
                ((bits % *below as u64 + column * step) % *below as u64).to_le_bytes()
            }),
            Content::Packed => cells(offset, out, |cell| random.at(cell).to_le_bytes()),
            Content::Scales { step } => cells(offset, out, |cell| scale(random, cell, *step).to_le_bytes()),
            Content::Biases { step, q_max } => cells(offset, out, |cell| {
                bf16::from_f32(-0.5 * q_max * scale(random, cell, *step).to_f32()).to_le_bytes()
            }),
            Content::E4m3 => cells(offset, out, |cell| {
                random.at(cell).to_le_bytes().map(|byte| if byte & 0x7f == 0x7f { byte - 1 } else { byte })
            }),
            Content::ScalesOf { step, dtype } => match dtype {
                DType::F32 => cells(offset, out, |cell| scale(random, cell, *step).to_f32().to_le_bytes()),
                DType::F16 => {
                    cells(offset, out, |cell| half::f16::from_f32(scale(random, cell, *step).to_f32()).to_le_bytes())
                }
                DType::F8E8m0 => cells(offset, out, |cell| [exponent(*step, random.at(!cell))]),
                DType::F8E4m3 => {
                    cells(offset, out, |cell| [near_e4m3(scale(random, cell, *step).to_f32(), random.at(!cell) << 23)])
                }
                _ => cells(offset, out, |cell| scale(random, cell, *step).to_le_bytes()),
            },
            Content::Fill(byte) => out.fill(*byte),
            Content::RowsBf16(rows) => {
                let mut reader = RowReader::new(rows, random, normals);
                cells(offset, out, |cell| bf16::from_f32(reader.value(cell)).to_le_bytes());
            }
            Content::RowsF16(rows) => {
                let mut reader = RowReader::new(rows, random, normals);
                cells(offset, out, |cell| f16::from_f32(reader.value(cell)).to_le_bytes());
            }
            Content::RowsPacked(rows, bits) => {
                let (mut reader, range) = (RowReader::new(rows, random, normals), Range::of(rows, *bits));
                match bits {
                    2 => cells(offset, out, |cell| pack::<16>(&reader.group(cell, range), 2)),
                    3 => cells(offset, out, |cell| pack::<24>(&reader.group(cell, range), 3)),
                    4 => cells(offset, out, |cell| pack::<32>(&reader.group(cell, range), 4)),
                    5 => cells(offset, out, |cell| pack::<40>(&reader.group(cell, range), 5)),
                    6 => cells(offset, out, |cell| pack::<48>(&reader.group(cell, range), 6)),
                    _ => cells(offset, out, |cell| reader.group(cell, range)),
                }
            }
            Content::RowsF32(rows) => {
                let mut reader = RowReader::new(rows, random, normals);
                cells(offset, out, |cell| reader.value(cell).to_le_bytes());
            }
            Content::RowsQ8_0(rows) => {
                let mut reader = RowReader::new(rows, random, normals);
                // One scale for all blocks, as in `Range`.
                let d = f16::from_f32(4.0 * rows.deviation() / 127.0);
                cells::<34>(offset, out, |block| {
                    let [low, high] = d.to_le_bytes();
                    let mut q = |i: u64| (reader.value(32 * block + i) / d.to_f32()).round() as i8 as u8;
                    std::array::from_fn(|i| match i {
                        0 => low,
                        1 => high,
                        i => q(i as u64 - 2),
                    })
                });
            }
            Content::Blocks { blocks, d } => {
                let (_, at, min) = *BLOCKS
                    .iter()
                    .find(|(known, ..)| known == blocks)
                    .expect("invariant: only blocks that are made are asked for");
                let mut block = [0; BLOCK_BYTES_MAX];
                let block = &mut block[..blocks.block_bytes()];
                chunks(offset, out, blocks.block_bytes(), |number, within, out| {
                    let words = BLOCK_BYTES_MAX as u64 / 8;
                    for (bytes, i) in block.chunks_mut(8).zip(0..) {
                        bytes.copy_from_slice(&random.at(number * words + i).to_le_bytes()[..bytes.len()]);
                    }
                    let scale = f16::from_f32(scale(random, number, *d).to_f32());
                    at.write(block, scale, exponent(*d, random.at(!number)));
                    if let Some((at, of_scale)) = min {
                        block[at..at + 2].copy_from_slice(&f16::from_f32(of_scale * scale.to_f32()).to_le_bytes());
                    }
                    out.copy_from_slice(&block[within..within + out.len()]);
                });
            }
            Content::Decay { mean, deviation } => {
                cells(offset, out, |cell| (-(mean + deviation * normals.at(random, cell)).exp()).to_le_bytes());
            }
            Content::RowsScales(rows, bits) => cells(offset, out, |_| Range::of(rows, *bits).scale.to_le_bytes()),
            Content::RowsBiases(rows, bits) => cells(offset, out, |_| Range::of(rows, *bits).bias.to_le_bytes()),
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

/// Calls `make` for every chunk of `size` bytes that `out`, which begins at byte `offset`, has a share in, in order: with its number,
/// where in it the share begins, and the share.
fn chunks(offset: u64, mut out: &mut [u8], size: usize, mut make: impl FnMut(u64, usize, &mut [u8])) {
    let (mut number, mut within) = (offset / size as u64, (offset % size as u64) as usize);
    while !out.is_empty() {
        let (share, rest) = out.split_at_mut(out.len().min(size - within));
        make(number, within, share);
        (out, number, within) = (rest, number + 1, 0);
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
    /// First element of the row in `base`.
    start: Option<u64>,
    base: Vec<f32>,
    /// Random bits of four elements, and which four.
    bits: (u64, u64),
}

impl<'a> RowReader<'a> {
    fn new(rows: &'a Rows, random: Random, normals: &'a Normals) -> Self {
        let bits = (random.at(0), 0);
        RowReader { rows, random, normals, start: None, base: vec![0.0; rows.cols()], bits }
    }

    /// The column of element `index`, with its row in `base`.
    #[inline]
    fn column(&mut self, index: u64) -> usize {
        let cols = self.base.len() as u64;
        match self.start {
            Some(start) if (start..start + cols).contains(&index) => (index - start) as usize,
            _ => {
                self.rows.base((index / cols) as usize, &mut self.base);
                self.start = Some(index / cols * cols);
                (index % cols) as usize
            }
        }
    }

    /// Element `index` of the matrix.
    #[inline]
    fn value(&mut self, index: u64) -> f32 {
        if self.bits.1 != index / 4 {
            self.bits = (self.random.at(index / 4), index / 4);
        }
        let z = self.normals.0[lookup(self.bits.0, (index % 4) as u32)];
        let column = self.column(index);
        self.base[column] + self.rows.noise * z
    }

    /// A group of the matrix, quantised; what lies beyond the range becomes its end.
    #[inline]
    fn group(&mut self, group: u64, range: Range) -> [u8; GROUP] {
        let (bias, factor) = (range.bias.to_f32(), 1.0 / range.scale.to_f32());
        let first = group * GROUP as u64;
        // The cast takes what is below 0 to 0.
        std::array::from_fn(|i| ((self.value(first + i as u64) - bias) * factor + 0.5).min(range.q_max) as u8)
    }
}

/// The scale and bias of every group of quantised rows.
#[derive(Clone, Copy)]
struct Range {
    q_max: f32,
    scale: bf16,
    bias: bf16,
}

impl Range {
    /// One for all groups: that its elements' extremes would give in the mean. Looking for each group's own would
    /// make every element three times.
    fn of(rows: &Rows, bits: usize) -> Range {
        let reach = rows.deviation() * if bits == 8 { 4.0 } else { 2.5 };
        let q_max = ((1 << bits) - 1) as f32;
        Range { q_max, scale: bf16::from_f32(2.0 * reach / q_max), bias: bf16::from_f32(-reach) }
    }
}

/// A group as one little-endian stream of bits, the lowest first: 8 · bits bytes.
#[inline]
fn pack<const N: usize>(group: &[u8; GROUP], bits: usize) -> [u8; N] {
    let mut packed = [0; N];
    for (q, out) in group.chunks_exact(8).zip(packed.chunks_exact_mut(bits)) {
        let word = q.iter().enumerate().fold(0u64, |word, (i, &q)| word | u64::from(q) << (i * bits));
        out.copy_from_slice(&word.to_le_bytes()[..bits]);
    }
    packed
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
            (Content::RowsBiases(rows.clone(), 5), 24),
            (Content::RowsF32(rows.clone()), 6 * 128 * 4),
            (Content::RowsQ8_0(rows), 6 * 4 * 34),
            (Content::blocks(GgmlType::Q6K, 0.1), 5 * 210),
            (Content::blocks(GgmlType::Iq2Xxs, 0.1), 5 * 66),
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
    fn blocks_have_the_deviation_asked_for() {
        for blocks in made_blocks() {
            let bytes = bytes(&Content::blocks(blocks, 0.02), 400 * blocks.block_bytes(), &[]);
            let mut values = vec![0.0; 400 * blocks.block_weights()];
            blocks.dequantise(&bytes, &mut values);
            let n = values.len() as f32;
            let mean = values.iter().sum::<f32>() / n;
            let deviation = (values.iter().map(|value| value * value).sum::<f32>() / n).sqrt();
            assert!(mean.abs() < 0.003 && (deviation - 0.02).abs() < 0.002, "{blocks}: {mean} {deviation}");
        }
    }

    #[test]
    fn rows_of_q8_0_are_near_the_plain_ones() {
        let rows = Arc::new(routing::tests::rows(4, 128));
        let plain = bytes(&Content::RowsF32(rows.clone()), 4 * 128 * 4, &[]);
        let blocks = bytes(&Content::RowsQ8_0(rows.clone()), 4 * 4 * 34, &[]);
        let mut values = vec![0.0; 4 * 128];
        GgmlType::Q8_0.dequantise(&blocks, &mut values);
        let step = 4.0 * rows.deviation() / 127.0;
        for (value, plain) in values.iter().zip(plain.chunks(4)) {
            let plain = f32::from_le_bytes([plain[0], plain[1], plain[2], plain[3]]).clamp(-128.0 * step, 127.0 * step);
            assert!((value - plain).abs() < 0.6 * step, "{value} {plain}");
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
                let range = Range::of(&rows, bits);
                let (low, high) = (range.bias.to_f32(), range.bias.to_f32() + range.scale.to_f32() * range.q_max);
                let expected = number(&plain, i).clamp(low, high);
                assert!((value - expected).abs() <= 0.6 * scale + 0.02 * expected.abs(), "{bits}: {value} {expected}");
            }
        }
    }
}
