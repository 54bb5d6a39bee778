//! Measures the operations of a backend, and what the machine's memory and instructions give at most.
//!
//! Times are of calls on random weights that no cache holds, as in a forward pass: each call takes another matrix, expert
//! or state than the one before, and pays for waking the threads. Of all calls a quarter were faster than the time taken:
//! on a busy machine others' work shows in the slower half, and on a quiet one it is the median within a few percent.

mod peaks;
mod weights;

use std::time::{Duration, Instant};

pub use peaks::{Peaks, peaks};
pub use weights::{FORMATS, Weights, weights_bytes};

use crate::{
    Attend, DType, Format, GatedDelta, KvLayout, Mlp, MlpScratch, Ops, OpsError, RmsNorm, Rope, RopePairs, Router,
    RouterScore, Tensor,
};

/// Rows and columns of the matrices of [`Weights::product`].
pub const PRODUCT_DIM: usize = 2048;

/// Calls that are timed at least, where one does not take the whole budget.
const CALLS_MIN: usize = 3;
/// Calls that are timed at most.
const CALLS_MAX: usize = 1 << 14;

/// How fast products with weights of one format are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProductSpeed {
    /// How the weights are stored.
    pub format: Format,
    /// Activation rows of each product.
    pub rows: usize,
    /// Bytes of weights as stored, scales included, in a second.
    pub weight_bytes_per_second: f64,
    /// Multiplications and additions: `2 · rows · m · k` in a second.
    pub ops_per_second: f64,
}

/// How fast attention is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpeed {
    /// Keys and values of all positions, read once for each call: what bounds one row.
    pub kv_bytes_per_second: f64,
    /// `4 · head width · query heads · positions seen` by each row: what bounds many rows.
    pub flops_per_second: f64,
}

impl Weights<'_> {
    /// Matrix products of `rows` rows with weights of this format, in matrices of 2048 × 2048, many of them.
    ///
    /// # Errors
    /// When there is no memory for activations.
    pub fn product(&self, format: Format, rows: usize, budget: Duration) -> Result<ProductSpeed, OpsError> {
        let matrices = self.matrices(format, PRODUCT_DIM, PRODUCT_DIM)?;
        let (x, out) = (self.activations(rows, PRODUCT_DIM)?, self.activations(rows, PRODUCT_DIM)?);
        let seconds = typical_seconds(budget, |i| self.ops().linear(&x, &matrices[i % matrices.len()], &out));
        Ok(ProductSpeed {
            format,
            rows,
            weight_bytes_per_second: matrices[0].bytes() as f64 / seconds,
            ops_per_second: 2.0 * (rows * PRODUCT_DIM * PRODUCT_DIM) as f64 / seconds,
        })
    }

    /// `rows` tokens through each of many experts of `hidden` × `width`, by [`Ops::mlp`].
    ///
    /// # Errors
    /// When there is no memory for activations.
    pub fn experts(
        &self,
        format: Format,
        hidden: usize,
        width: usize,
        rows: usize,
        budget: Duration,
    ) -> Result<ProductSpeed, OpsError> {
        let experts: Vec<Mlp> = self.mlps(format, hidden, width)?;
        let (x, out) = (self.activations(rows, hidden)?, self.activations(rows, hidden)?);
        let scratch = MlpScratch {
            x: self.activations(rows, hidden)?,
            gate: self.activations(rows, width)?,
            up: self.activations(rows, width)?,
        };
        let all: Vec<u32> = (0..rows as u32).collect();
        let work = |i: usize| self.ops().mlp(&x, &all, &experts[i % experts.len()], &scratch, &out);
        let seconds = typical_seconds(budget, work);
        let bytes = experts[0].first().0.bytes() + experts[0].up.bytes() + experts[0].down.bytes();
        Ok(ProductSpeed {
            format,
            rows,
            weight_bytes_per_second: bytes as f64 / seconds,
            ops_per_second: 2.0 * (rows * 3 * hidden * width) as f64 / seconds,
        })
    }

    /// [`Ops::attention`] of `rows` queries, the last of `positions`, in 32 heads on 4 of keys and values, 128 wide, f16.
    ///
    /// # Errors
    /// When there is no memory for them.
    ///
    /// # Panics
    /// Where there are more rows than positions.
    pub fn attention(&self, rows: usize, positions: usize, budget: Duration) -> Result<AttentionSpeed, OpsError> {
        const Q_HEADS: usize = 32;
        const HEAD_DIM: usize = 128;
        assert!(rows <= positions, "each row is at a position of its own");
        let mut layout = KvLayout {
            dtype: DType::F16,
            heads: 4,
            k_dim: HEAD_DIM,
            v_dim: HEAD_DIM,
            block_tokens: 64,
            k_at: 0,
            v_at: 0,
            v_in_k: false,
        };
        layout.v_at = layout.bytes() / 2;
        // Each call is another layer, with keys and values of its own.
        let layers = self.blocks(layout.bytes(), positions.div_ceil(64))?;
        let heads = |rows| Ok(self.activations(rows, Q_HEADS * HEAD_DIM)?.reshape([rows, Q_HEADS, HEAD_DIM]));
        let (q, out): (Tensor, Tensor) = (heads(rows)?, heads(rows)?);
        let work = |i: usize| {
            self.ops().attention(
                &q,
                &Attend { scale: 0.09, window: None, sinks: None },
                &layout,
                &layers[i % layers.len()],
                positions - rows,
                &out,
            );
        };
        let seconds = typical_seconds(budget, work);
        let seen = (positions - rows) as f64 + (rows as f64 + 1.0) / 2.0;
        Ok(AttentionSpeed {
            kv_bytes_per_second: (positions * layout.bytes() / layout.block_tokens) as f64 / seconds,
            flops_per_second: (4 * HEAD_DIM * Q_HEADS * rows) as f64 * seen / seconds,
        })
    }

    /// [`Ops::gated_delta`] over `rows` positions, with 16 heads of keys and 32 of values, 128 wide: bytes of state, one
    /// way, times positions, in a second. At one row that is how fast states are read, and as fast are they written back.
    /// The weights are the states, and are worth nothing else afterwards.
    ///
    /// # Errors
    /// When there is no memory for activations.
    pub fn delta(&self, rows: usize, budget: Duration) -> Result<f64, OpsError> {
        let (k_heads, v_heads, dim) = (16, 32, 128);
        let states = self.tensors([v_heads, dim, dim], DType::F32)?;
        let vector = || Ok(self.activations(1, v_heads)?.reshape([v_heads]));
        let (a_log, dt_bias): (Tensor, Tensor) = (vector()?, vector()?);
        let delta = GatedDelta {
            k_heads,
            v_heads,
            k_dim: dim,
            v_dim: dim,
            per_channel: false,
            tiled: false,
            a_log,
            exponentiated: false,
            dt_bias,
            bound: None,
        };
        let qkv = self.activations(rows, (2 * k_heads + v_heads) * dim)?;
        let (a, b) = (self.activations(rows, v_heads)?, self.activations(rows, v_heads)?);
        let out = self.activations(rows, v_heads * dim)?.reshape([rows, v_heads, dim]);
        let work = |i: usize| self.ops().gated_delta(&qkv, &a, &b, &delta, &states[i % states.len()], &out);
        let seconds = typical_seconds(budget, work);
        Ok((rows * states[0].bytes()) as f64 / seconds)
    }
}

/// What is between a layer's products, in seconds a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BetweenSpeed {
    /// [`Ops::route`] of logits of 128 experts to 8 of them.
    pub route_seconds: f64,
    /// [`Ops::rms_norm`] of rows of 2048.
    pub norm_seconds: f64,
    /// [`Ops::rope`] of 32 heads 128 wide.
    pub rope_seconds: f64,
}

/// Router, norm and RoPE of so many rows, which are small enough to stay in a cache.
///
/// # Errors
/// When there is no memory for them.
pub fn between(ops: &dyn Ops, rows: usize, budget: Duration) -> Result<BetweenSpeed, OpsError> {
    const EXPERTS: usize = 128;
    const TOP_K: usize = 8;
    const HEADS: usize = 32;
    const HEAD_DIM: usize = 128;
    let small = Weights::new(ops, 1 << 20)?;
    let (logits, weights) = (small.activations(rows, EXPERTS)?, small.activations(rows, TOP_K)?);
    let choice = Tensor::new(ops.alloc(rows * TOP_K * DType::I32.bytes())?, 0, [rows, TOP_K], DType::I32);
    let router = Router::new(TOP_K, RouterScore::Softmax);
    let route_seconds = typical_seconds(budget, |_| ops.route(&logits, &router, &choice, &weights));
    let (x, out) = (small.activations(rows, PRODUCT_DIM)?, small.activations(rows, PRODUCT_DIM)?);
    let weight = small.activations(1, PRODUCT_DIM)?.reshape([PRODUCT_DIM]);
    let norm = RmsNorm { weight: Some(weight), plus_one: false, eps: 1e-6 };
    let norm_seconds = typical_seconds(budget, |_| ops.rms_norm(&x, &norm, &out));
    let heads: Tensor = small.activations(rows, HEADS * HEAD_DIM)?.reshape([rows, HEADS, HEAD_DIM]);
    let positions: Vec<u32> = (1000..1000 + rows as u32).collect();
    let inv_freq = (0..HEAD_DIM / 2).map(|i| 1e6f32.powf(-2.0 * i as f32 / HEAD_DIM as f32)).collect();
    let rope = Rope { inv_freq, first: 0, pairs: RopePairs::Half, scale: 1.0, stretch: None };
    let rope_seconds = typical_seconds(budget, |_| ops.rope(&heads, &positions, &rope));
    Ok(BetweenSpeed { route_seconds, norm_seconds, rope_seconds })
}

/// What an operation costs that has hardly any work: a norm of one row of 2048, in seconds.
///
/// # Errors
/// When there is no memory at all.
pub fn small_op_seconds(ops: &dyn Ops) -> Result<f64, OpsError> {
    const CALLS: usize = 64;
    let small = Weights::new(ops, 1 << 20)?;
    let weight = small.activations(1, PRODUCT_DIM)?.reshape([PRODUCT_DIM]);
    let norm = RmsNorm { weight: Some(weight), plus_one: false, eps: 1e-6 };
    let (x, out) = (small.activations(1, PRODUCT_DIM)?, small.activations(1, PRODUCT_DIM)?);
    let many = |_| (0..CALLS).for_each(|_| ops.rms_norm(&x, &norm, &out));
    Ok(typical_seconds(Duration::from_millis(20), many) / CALLS as f64)
}

/// How fast so many threads read memory that no cache holds.
///
/// # Errors
/// When there is no memory to read.
pub fn memory_read_bytes_per_second(threads: usize) -> Result<f64, OpsError> {
    let ops = crate::reference::Reference;
    Ok(Weights::new(&ops, weights_bytes())?.read_bytes_per_second(threads, Duration::from_millis(300)))
}

/// Time of a call that a quarter of them were faster than, in seconds, of as many calls as the budget allows. The first is
/// counted only if it takes all of it.
fn typical_seconds(budget: Duration, mut work: impl FnMut(usize)) -> f64 {
    let began = Instant::now();
    work(0);
    let mut times = Vec::new();
    if began.elapsed() > budget.max(Duration::from_millis(1)) {
        return began.elapsed().as_secs_f64();
    }
    while times.len() < CALLS_MIN || (began.elapsed() < budget && times.len() < CALLS_MAX) {
        let start = Instant::now();
        work(times.len() + 1);
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    // A clock that does not move would make the speed infinite.
    times[times.len() / 4].max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{Cpu, CpuOptions, Isa};

    const QUICK: Duration = Duration::from_millis(1);

    #[test]
    fn a_known_time_is_found() {
        let mut calls = Vec::new();
        let seconds = typical_seconds(Duration::from_millis(60), |i| {
            calls.push(i);
            std::thread::sleep(Duration::from_millis(5));
        });
        assert!((5e-3..15e-3).contains(&seconds), "{seconds}");
        assert!(calls.len() > CALLS_MIN && calls.iter().enumerate().all(|(n, &i)| n == i), "{calls:?}");
        // One long call is enough.
        let mut calls = 0;
        let long = |_| {
            calls += 1;
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(typical_seconds(QUICK, long) >= 5e-3);
        assert_eq!(calls, 1);
    }

    #[test]
    fn every_format_and_operation_is_measured() {
        let cpu = Cpu::new(CpuOptions { threads: 1, ..CpuOptions::default() }).unwrap();
        let weights = Weights::new(&cpu, 20 << 20).unwrap();
        let finite = |value: f64| assert!(value > 0.0 && value.is_finite(), "{value}");
        for format in FORMATS {
            let speed = weights.product(format, 2, QUICK).unwrap();
            assert_eq!((speed.format, speed.rows), (format, 2));
            // Operations and bytes are of the same calls.
            let scales = if matches!(format, Format::Affine { .. }) { 2 * 2 * PRODUCT_DIM / 64 } else { 0 };
            let bytes = PRODUCT_DIM * (format.row_bytes(PRODUCT_DIM) + scales);
            let ratio = 4.0 * (PRODUCT_DIM * PRODUCT_DIM) as f64 / bytes as f64;
            assert!((speed.ops_per_second / speed.weight_bytes_per_second / ratio - 1.0).abs() < 1e-9);
            finite(weights.experts(format, 256, 128, 3, QUICK).unwrap().ops_per_second);
        }
        let attention = weights.attention(4, 256, QUICK).unwrap();
        finite(attention.kv_bytes_per_second);
        finite(attention.flops_per_second);
        finite(weights.read_bytes_per_second(2, QUICK));
        finite(small_op_seconds(&cpu).unwrap());
        finite(weights.delta(2, QUICK).unwrap());
        let BetweenSpeed { route_seconds, norm_seconds, rope_seconds } = between(&cpu, 2, QUICK).unwrap();
        [route_seconds, norm_seconds, rope_seconds].into_iter().for_each(finite);
        assert!(Weights::new(&cpu, 1 << 20).unwrap().product(Format::F32, 1, QUICK).is_err(), "none fits");
    }

    #[test]
    fn peaks_are_known_where_there_are_instructions() {
        for isa in Isa::available() {
            let found = peaks(isa, 1, Duration::from_millis(30));
            assert_eq!(found.is_some(), isa != Isa::Portable, "{isa:?}");
            let Some(peaks) = found else { continue };
            let speeds = [peaks.f32_flops_per_second, peaks.bf16_flops_per_second, peaks.int8_ops_per_second];
            assert!(speeds.iter().all(|&speed| speed > 1e6), "{peaks:?}");
        }
    }
}
