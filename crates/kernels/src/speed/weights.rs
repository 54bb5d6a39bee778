//! Random weights in one piece of memory, seen as matrices of any format.

use std::time::Duration;

use super::typical_seconds;
use crate::cpu::{LINE_BYTES, last_level_cache_bytes, prefetch};
use crate::{Activation, Buffer, DType, Format, Matrix, Mlp, Ops, OpsError, Tensor};

/// Weights are this large at least, and at most.
const BYTES_MIN: usize = 128 << 20;
const BYTES_MAX: usize = 1 << 30;

/// Random bytes are made for so many, and repeated: no cache and no prefetcher knows.
const RANDOM_BYTES: usize = 1 << 20;

/// Weights of one group of quantised ones, as most checkpoints have it.
const GROUP: usize = 64;

/// Bytes of random weights that no cache of this machine holds.
pub fn weights_bytes() -> usize {
    (2 * last_level_cache_bytes()).clamp(BYTES_MIN, BYTES_MAX)
}

/// Random weights: matrices, experts, keys and values are views of the same bytes, which as bf16, f16 and f32 are numbers
/// of moderate size, and as packed integers any.
pub struct Weights<'a> {
    ops: &'a dyn Ops,
    buffer: Buffer,
}

impl<'a> Weights<'a> {
    /// Makes them.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn new(ops: &'a dyn Ops, bytes: usize) -> Result<Self, OpsError> {
        let weights = Weights { ops, buffer: ops.alloc_host(bytes)? };
        weights.fill();
        Ok(weights)
    }

    /// Makes random numbers of all bytes.
    pub(super) fn fill(&self) {
        let mut state = 1u32;
        let mut number = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            half::bf16::from_f32((state >> 8) as f32 / (1 << 24) as f32 - 0.5)
        };
        let random: Vec<u8> = (0..RANDOM_BYTES.min(self.bytes()) / 2).flat_map(|_| number().to_le_bytes()).collect();
        for at in (0..self.bytes()).step_by(random.len().max(1)) {
            let part = random.len().min(self.bytes() - at);
            self.ops.write(&random[..part], &Tensor::new(self.buffer.clone(), at, [part], DType::U8));
        }
    }

    /// The same bytes, computed with by another backend on the host's memory.
    pub fn with<'b>(&self, ops: &'b dyn Ops) -> Weights<'b> {
        Weights { ops, buffer: self.buffer.clone() }
    }

    /// The backend.
    pub fn ops(&self) -> &'a dyn Ops {
        self.ops
    }

    /// Their size.
    pub fn bytes(&self) -> usize {
        self.buffer.bytes()
    }

    /// As many matrices as there is room for.
    pub(super) fn matrices(&self, format: Format, rows: usize, cols: usize) -> Result<Vec<Matrix>, OpsError> {
        let mut used = 0;
        let matrices: Vec<Matrix> = std::iter::from_fn(|| self.matrix(format, rows, cols, &mut used)).collect();
        self.some(matrices)
    }

    /// As many experts as there is room for.
    pub(super) fn mlps(&self, format: Format, hidden: usize, width: usize) -> Result<Vec<Mlp>, OpsError> {
        let mut used = 0;
        let experts = std::iter::from_fn(|| {
            let gate = self.matrix(format, width, hidden, &mut used)?;
            let up = self.matrix(format, width, hidden, &mut used)?;
            let down = self.matrix(format, hidden, width, &mut used)?;
            Some(Mlp { gate: Some(gate), up, down, biases: None, activation: Activation::SwiGlu })
        });
        self.some(experts.collect())
    }

    /// As many tensors of a shape as there is room for.
    pub(super) fn tensors<const N: usize>(&self, shape: [usize; N], dtype: DType) -> Result<Vec<Tensor>, OpsError> {
        let bytes = shape.iter().product::<usize>() * dtype.bytes();
        let tensors = (0..self.bytes() / bytes).map(|i| Tensor::new(self.buffer.clone(), i * bytes, shape, dtype));
        self.some(tensors.collect())
    }

    /// As many layers of `count` blocks of keys and values as there is room for.
    pub(super) fn blocks(&self, block_bytes: usize, count: usize) -> Result<Vec<Vec<Tensor>>, OpsError> {
        let blocks = self.tensors([block_bytes], DType::U8)?;
        self.some(blocks.chunks_exact(count).map(<[Tensor]>::to_vec).collect())
    }

    /// f32 activations `[rows, width]`.
    pub(super) fn activations(&self, rows: usize, width: usize) -> Result<Tensor, OpsError> {
        let tensor = Tensor::new(self.ops.alloc(rows * width * 4)?, 0, [rows, width], DType::F32);
        let mut state = 7u32;
        let mut number = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / (1 << 24) as f32 - 0.5).to_le_bytes()
        };
        let bytes: Vec<u8> = (0..rows * width).flat_map(|_| number()).collect();
        self.ops.write(&bytes, &tensor);
        Ok(tensor)
    }

    /// The next matrix behind `used` bytes: weights, scales, biases.
    fn matrix(&self, format: Format, rows: usize, cols: usize, used: &mut usize) -> Option<Matrix> {
        let mut at = *used;
        let mut tensor = |shape: [usize; 2], dtype: DType| {
            let bytes = shape.iter().product::<usize>() * dtype.bytes();
            let fits = at + bytes <= self.bytes();
            let tensor = fits.then(|| Tensor::new(self.buffer.clone(), at, shape, dtype));
            at += bytes;
            tensor
        };
        let mut next = |columns: usize, dtype: DType| tensor([rows, columns], dtype);
        let matrix = match format {
            Format::F32 => Matrix::dense(next(cols, DType::F32)?),
            Format::F16 => Matrix::dense(next(cols, DType::F16)?),
            Format::Bf16 => Matrix::dense(next(cols, DType::Bf16)?),
            Format::Affine { bits, group } => {
                let (data, groups) = (next(format.row_bytes(cols), DType::U8)?, cols / usize::from(group));
                let (scales, biases) = (next(groups, DType::Bf16)?, next(groups, DType::Bf16)?);
                Matrix::affine(bits.into(), group.into(), data, scales, biases)
            }
            Format::Ggml(blocks) => Matrix::ggml(blocks, next(format.row_bytes(cols), DType::U8)?),
            Format::Coded(coded) => {
                let [data, scales, second] = coded.shapes(rows, cols);
                let (data, scales) = (tensor(data?, DType::U8)?, tensor(scales?, DType::Bf16)?);
                let second = match second.zip(coded.second_type()) {
                    Some((shape, dtype)) => Some(tensor(shape, dtype)?),
                    None => None,
                };
                Matrix::coded(coded, [rows, cols], data, scales, second)
            }
        };
        *used = at;
        Some(matrix)
    }

    fn some<T>(&self, all: Vec<T>) -> Result<Vec<T>, OpsError> {
        let why = || "not one fits the memory for random weights".to_owned();
        if all.is_empty() { Err(OpsError::OutOfMemory { bytes: self.bytes(), why: why() }) } else { Ok(all) }
    }

    /// How fast so many threads read them.
    pub fn read_bytes_per_second(&self, threads: usize, budget: Duration) -> f64 {
        let Some(start) = self.buffer.host() else { return 0.0 };
        // SAFETY: the buffer's own bytes, which nobody writes now; host memory is page-aligned.
        let words = unsafe { std::slice::from_raw_parts(start.as_ptr().cast::<u64>(), self.bytes() / 8) };
        // Some processors foresee as much as memory gives, others have to be asked.
        let seconds =
            [sums_of::<0>, sums_of::<FAR>].map(|sums| typical_seconds(budget / 2, |_| read(words, threads, sums)));
        self.bytes() as f64 / seconds[0].min(seconds[1])
    }
}

/// Reads every word once.
fn read(words: &[u64], threads: usize, sums: fn(&[u64]) -> [u64; TWO_LINES]) {
    std::thread::scope(|scope| {
        for part in words.chunks(words.len().div_ceil(threads.max(1)).max(1)) {
            scope.spawn(move || std::hint::black_box(sums(part)));
        }
    });
}

/// Sums of all words, with the widest loads that there are, lines asked for so many bytes ahead.
fn sums_of<const AHEAD: usize>(words: &[u64]) -> [u64; TWO_LINES] {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn wide<const AHEAD: usize>(words: &[u64]) -> [u64; TWO_LINES] {
            sums_of_runs::<AHEAD>(words)
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the machine has the instructions.
            return unsafe { wide::<AHEAD>(words) };
        }
    }
    sums_of_runs::<AHEAD>(words)
}

/// Words of two cache lines, which are read at once.
const TWO_LINES: usize = 2 * LINE_BYTES / 8;
/// How far ahead: what Sapphire Rapids reads most with.
const FAR: usize = 4096;
/// Runs of words that are read side by side: one alone is foreseen less far (on Zen 3 two threads read 16 GB/s of one run each, and 24
/// of four).
const RUNS: usize = 4;

#[inline(always)]
fn sums_of_runs<const AHEAD: usize>(words: &[u64]) -> [u64; TWO_LINES] {
    let lines = words.as_chunks::<TWO_LINES>().0;
    let (runs, rest) = lines.split_at(lines.len() / RUNS * RUNS);
    let mut runs: [&[[u64; TWO_LINES]]; RUNS] =
        std::array::from_fn(|i| &runs[i * (runs.len() / RUNS)..][..runs.len() / RUNS]);
    let mut sums = [0u64; TWO_LINES];
    let mut add = |line: &[u64; TWO_LINES]| {
        for (sum, word) in sums.iter_mut().zip(line) {
            *sum = sum.wrapping_add(*word);
        }
    };
    while let [Some((a, ra)), Some((b, rb)), Some((c, rc)), Some((d, rd))] = runs.map(<[_]>::split_first) {
        for line in [a, b, c, d] {
            if AHEAD > 0 {
                let ahead = line.as_ptr().cast::<u8>().wrapping_add(AHEAD);
                [ahead, ahead.wrapping_add(LINE_BYTES)].into_iter().for_each(prefetch);
            }
            add(line);
        }
        runs = [ra, rb, rc, rd];
    }
    rest.iter().for_each(add);
    sums
}

/// The formats that are measured: every one, quantised ones in groups of 64.
pub const FORMATS: [Format; 9] = [
    Format::F32,
    Format::F16,
    Format::Bf16,
    Format::Affine { bits: 2, group: GROUP as u8 },
    Format::Affine { bits: 3, group: GROUP as u8 },
    Format::Affine { bits: 4, group: GROUP as u8 },
    Format::Affine { bits: 5, group: GROUP as u8 },
    Format::Affine { bits: 6, group: GROUP as u8 },
    Format::Affine { bits: 8, group: GROUP as u8 },
];
