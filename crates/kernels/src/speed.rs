//! Measures the operations of a backend, and what the machine's memory and instructions give at most.
//!
//! Times are of calls on random weights that no cache holds, as in a forward pass: each call takes another matrix, expert
//! or state than the one before, and pays for waking the threads. Of all calls a quarter were faster than the time taken:
//! on a busy machine others' work shows in the slower half, and on a quiet one it is the median within a few percent.

mod operations;
mod peaks;
mod weights;

use std::time::{Duration, Instant};

pub use operations::OperationSpeed;
pub use peaks::{Peaks, peaks};
pub use weights::{FORMATS, Weights, weights_bytes};

use crate::{Format, Mlp, MlpScratch, Ops, OpsError, RmsNorm};

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
        let weights = Weights::new(&cpu, 40 << 20).unwrap();
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
        for rows in [1, 6] {
            let all = weights.operations(rows, 192, QUICK).unwrap();
            assert!(all.len() > 15 && all.iter().all(|of| of.seconds > 0.0 && of.seconds.is_finite()), "{all:?}");
        }
        finite(weights.read_bytes_per_second(2, QUICK));
        finite(small_op_seconds(&cpu).unwrap());
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
