//! Measures what a [`Profile`](super::Profile) holds of the processor.

use std::ops::ControlFlow;
use std::time::Duration;

use outpour_kernels::cpu::{Cpu, CpuOptions};
use outpour_kernels::speed::{self, FORMATS, ProductSpeed, Weights};
use outpour_kernels::{Format, Ops};

use super::{Attention, Delta, Peaks, Product, Profile, VERSION};
use crate::EngineError;

/// The expert that is measured: of a 30B model with 128 experts a layer.
pub(super) const EXPERT_HIDDEN: usize = 2048;
pub(super) const EXPERT_WIDTH: usize = 768;

/// Rows of the products that are measured.
const PRODUCT_ROWS: [usize; 5] = [1, 4, 16, 64, 512];
/// Rows of an expert: a prompt's tokens are spread over many.
const EXPERT_ROWS: [usize; 4] = [1, 4, 16, 64];
/// Rows and positions of attention: a step, and a chunk of a prompt.
const ATTENTION: [(usize, usize); 2] = [(1, 4096), (512, 4096)];
const DELTA_ROWS: [usize; 3] = [1, 16, 512];

/// How long to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Effort {
    /// About fifteen seconds.
    #[default]
    Full,
    /// About two seconds, for tests; figures may be off by tens of percent.
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
    /// Threads that compute; by default the physical cores that the process may use.
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
        let cpu = |precise| Cpu::new(CpuOptions { threads: options.threads.unwrap_or(0), precise, isa: None });
        let cpu_default = cpu(false)?;
        let budget = options.effort.budget();
        let bytes = options.weights_bytes.unwrap_or_else(speed::weights_bytes);
        let weights = Weights::new(&cpu_default, bytes)?;
        let threads = cpu_default.threads();
        let mut next = |what: &str| match progress(what) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(EngineError::Cancelled),
        };
        next("memory")?;
        let memory_read_bytes_per_second = weights.read_bytes_per_second(threads, 3 * budget);
        next("instructions")?;
        let peaks = speed::peaks(cpu_default.isa(), threads, 6 * budget).map(Peaks::from);
        let products = products(&weights, budget, &mut next)?;
        let experts = experts(&weights, budget, &mut next)?;
        next("attention")?;
        let attention = attention(&weights, budget)?;
        drop(weights);
        next("gated delta")?;
        let delta = delta(&cpu_default, bytes, budget)?;
        let small_op_seconds = speed::small_op_seconds(&cpu_default)?;
        let isa = cpu_default.isa().name().to_owned();
        drop(cpu_default);
        let precise = cpu(true)?;
        let precise_products = self::products(&Weights::new(&precise, bytes)?, budget / 2, &mut next)?;
        Ok(Profile {
            version: VERSION,
            measured_at: std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            quick: options.effort == Effort::Quick,
            cpu: super::cpu_name(),
            isa,
            threads,
            memory_read_bytes_per_second,
            peaks,
            products,
            precise_products,
            experts,
            small_op_seconds,
            delta,
            attention,
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

type Next<'a> = &'a mut dyn FnMut(&str) -> Result<(), EngineError>;

fn products(weights: &Weights, budget: Duration, next: Next) -> Result<Vec<Product>, EngineError> {
    by_format(&PRODUCT_ROWS, next, |format, rows| Ok(weights.product(format, rows, budget)?))
}

fn experts(weights: &Weights, budget: Duration, next: Next) -> Result<Vec<Product>, EngineError> {
    by_format(&EXPERT_ROWS, next, |format, rows| {
        Ok(weights.experts(format, EXPERT_HIDDEN, EXPERT_WIDTH, rows, budget / 2)?)
    })
}

fn by_format(
    rows: &[usize],
    next: Next,
    measure: impl Fn(Format, usize) -> Result<ProductSpeed, EngineError>,
) -> Result<Vec<Product>, EngineError> {
    let mut measured = Vec::new();
    for format in FORMATS {
        for &rows in rows {
            next("products")?;
            measured.push(measure(format, rows)?.into());
        }
    }
    Ok(measured)
}

fn attention(weights: &Weights, budget: Duration) -> Result<Vec<Attention>, EngineError> {
    let measure = |(rows, positions)| {
        let speed::AttentionSpeed { kv_bytes_per_second, flops_per_second } =
            weights.attention(rows, positions, 2 * budget)?;
        Ok(Attention { rows, positions, kv_bytes_per_second, flops_per_second })
    };
    ATTENTION.into_iter().map(measure).collect()
}

fn delta(ops: &dyn Ops, bytes: usize, budget: Duration) -> Result<Vec<Delta>, EngineError> {
    let states = Weights::new(ops, bytes)?;
    let measure = |rows| Ok(Delta { rows, state_bytes_per_second: states.delta(rows, 2 * budget)? });
    DELTA_ROWS.into_iter().map(measure).collect()
}
