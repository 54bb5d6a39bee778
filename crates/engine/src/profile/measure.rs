//! Measures what a [`Profile`](super::Profile) holds of the processor.

use std::ops::ControlFlow;
use std::time::Duration;

use outpour_kernels::cpu::{Cpu, CpuOptions};
use outpour_kernels::speed::{self, FORMATS, ProductSpeed, Weights};

use super::{Peaks, Product, Profile, VERSION};
use crate::EngineError;

/// Rows of the products that are measured.
const PRODUCT_ROWS: [usize; 5] = [1, 4, 16, 64, 512];

/// How long to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Effort {
    /// About six seconds.
    #[default]
    Full,
    /// About one second, for tests; figures may be off by tens of percent.
    Quick,
}

impl Effort {
    /// The time for one figure.
    fn budget(self) -> Duration {
        Duration::from_millis(if self == Effort::Full { 110 } else { 1 })
    }
}

/// How to measure.
#[derive(Clone, Copy, Debug, Default)]
pub struct ComputeOptions {
    /// Threads that compute; by default the physical cores that the process may use, the fast ones where they differ.
    pub threads: Option<usize>,
    /// How long.
    pub effort: Effort,
    /// Memory for random weights, in bytes; by default as much as no cache holds.
    pub weights_bytes: Option<usize>,
}

impl Profile {
    /// Measures the processor and its memory; drives are added by the caller. `progress` is told what comes next, and
    /// may break off.
    ///
    /// # Errors
    /// When there is no memory, or no threads; [`EngineError::Cancelled`] when `progress` broke off.
    pub fn measure_compute(
        options: ComputeOptions,
        progress: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Profile, EngineError> {
        let cpu = Cpu::new(CpuOptions { threads: options.threads.unwrap_or(0), ..CpuOptions::default() })?;
        let budget = options.effort.budget();
        let bytes = options.weights_bytes.unwrap_or_else(speed::weights_bytes);
        let weights = Weights::new(&cpu, bytes)?;
        let threads = cpu.threads();
        let mut next = |what: &str| match progress(what) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(EngineError::Cancelled),
        };
        next("memory")?;
        let memory_read_bytes_per_second = weights.read_bytes_per_second(threads, 3 * budget);
        next("instructions")?;
        let peaks = speed::peaks(cpu.isa(), threads, 6 * budget).map(Peaks::from);
        let products = products(&weights, budget, &mut next)?;
        let small_op_seconds = speed::small_op_seconds(&cpu)?;
        Ok(Profile {
            version: VERSION,
            measured_at: std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            quick: options.effort == Effort::Quick,
            cpu: super::cpu_name(),
            isa: cpu.isa().name().to_owned(),
            threads,
            memory_read_bytes_per_second,
            peaks,
            products,
            small_op_seconds,
            drives: Vec::new(),
        })
    }
}

impl From<speed::Peaks> for Peaks {
    fn from(peaks: speed::Peaks) -> Self {
        let speed::Peaks { int8_ops_per_second, bf16_flops_per_second, f32_flops_per_second } = peaks;
        Peaks { int8_ops_per_second, bf16_flops_per_second, f32_flops_per_second }
    }
}

impl From<ProductSpeed> for Product {
    fn from(speed: ProductSpeed) -> Self {
        let ProductSpeed { format, rows, weight_bytes_per_second, ops_per_second } = speed;
        Product { format, rows, weight_bytes_per_second, ops_per_second }
    }
}

fn products(
    weights: &Weights,
    budget: Duration,
    next: &mut dyn FnMut(&str) -> Result<(), EngineError>,
) -> Result<Vec<Product>, EngineError> {
    let mut measured = Vec::new();
    for format in FORMATS {
        for rows in PRODUCT_ROWS {
            next("products")?;
            measured.push(weights.product(format, rows, budget)?.into());
        }
    }
    Ok(measured)
}
