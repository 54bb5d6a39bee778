//! The operations on the host's processor: vector instructions chosen when the backend is made, and a pool of threads.
//!
//! Unless [`CpuOptions::precise`], activations are rounded for products with quantised weights, to int8 in blocks of
//! 32, or of 64 with affine groups of 64 and 128, and with bf16 weights, to bf16 where the instruction set multiplies
//! bf16 pairs. Everything else is f32 with weights widened exactly.

mod add;
mod add_bias;
mod add_gated;
mod agreement;
mod attention;
mod causal_conv;
mod clamp;
mod combine;
mod compress;
mod copy_columns;
mod embed;
mod gated_delta;
mod gather;
mod glu;
mod hyper;
mod isa;
mod kv_write;
mod layer_norm;
mod linear;
mod linear_attention;
mod linear_heads;
mod mlp;
mod pool;
mod rms_norm;
mod rms_norm_gated;
mod rope;
mod route;
mod scale;
mod scale_heads;
mod select;
mod selective_scan;
mod sigmoid_gate;
mod softcap;
mod sparse_attention;
mod topology;
mod vectorised;
mod widen;

use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

pub use isa::Isa;
pub(crate) use isa::{LINE_BYTES, prefetch};
pub use topology::{default_threads, last_level_cache_bytes};
pub use vectorised::exp;

use crate::host::{self, HostMemory};
use crate::reference;
use crate::{
    Activation, Attend, Bias, Buffer, CausalConv, ColumnRun, Compress, Contribution, Fence, GatedDelta, Hyper,
    KvLayout, LayerNorm, LinearAttention, Matrix, Mlp, MlpJob, MlpScratch, Ops, OpsError, Past, PositionBlocks,
    RmsNorm, Rope, Router, SelectiveScan, Tensor,
};
use isa::Kernels;
use pool::{Pool, lock};

/// Bytes or so that an operation has to touch before it is worth sharing among threads: a region costs about 1 µs.
const SHARE_BYTES_MIN: usize = 64 << 10;

/// How a [`Cpu`] is set up.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuOptions {
    /// Threads to compute with, the caller's included; 0 takes one for each physical performance core.
    pub threads: usize,
    /// Keep activations in f32 inside all products.
    pub precise: bool,
    /// Use this instruction set instead of the best that the machine has.
    pub isa: Option<Isa>,
}

/// The backend that computes on the host's processor.
pub struct Cpu {
    isa: Isa,
    kernels: Kernels,
    precise: bool,
    pool: Pool,
    /// Activations as they enter products; grows to the largest call and stays.
    entered: Mutex<linear::Entered>,
    /// What [`Ops::gated_delta`] prepares for all heads; grows to the largest call and stays.
    prepared: Mutex<Vec<f32>>,
    /// Scores of [`Ops::select`]; grows to the largest call and stays.
    scores: Mutex<Vec<f32>>,
    /// What tasks of [`Ops::attention`] found in segments of a long past; grows to the largest call and stays.
    partials: Mutex<Vec<f32>>,
    /// f32 scratch of each worker; grows to the largest call and stays.
    scratch: Vec<Mutex<Vec<f32>>>,
}

impl Cpu {
    /// Starts the threads.
    ///
    /// # Errors
    /// If the machine lacks the instruction set asked for, or gives no threads.
    pub fn new(options: CpuOptions) -> Result<Self, OpsError> {
        let isa = options.isa.or_else(|| Isa::available().next()).unwrap_or(Isa::Portable);
        let Some(kernels) = isa.kernels() else {
            return Err(OpsError::Unavailable(format!("this processor has no {} instructions", isa.name())));
        };
        let threads = if options.threads == 0 { topology::default_threads() } else { options.threads };
        let pool = Pool::new(threads)
            .map_err(|error| OpsError::Unavailable(format!("cannot start {threads} threads: {error}")))?;
        let scratch = (0..threads).map(|_| Mutex::new(Vec::new())).collect();
        let entered = Mutex::new(linear::Entered::default());
        let [prepared, scores, partials] = [const { Mutex::new(Vec::new()) }; 3];
        Ok(Cpu { isa, kernels, precise: options.precise, pool, entered, prepared, scores, partials, scratch })
    }

    /// The instruction set it computes with.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The threads it computes with.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Calls `work` with ranges that make up `0..n`, and the worker, on several threads if `n` elements of `bytes` each
    /// are worth it.
    fn split(&self, n: usize, bytes: usize, work: impl Fn(Range<usize>, usize) + Sync) {
        if n == 0 {
            return;
        }
        let most = (n * bytes / SHARE_BYTES_MIN).clamp(1, 4 * self.threads());
        let each = n.div_ceil(most);
        self.pool.run(n.div_ceil(each), &|task, worker| work(task * each..n.min((task + 1) * each), worker));
    }

    /// Makes sure that every worker has `len` f32 of scratch.
    fn reserve_scratch(&self, len: usize) {
        for scratch in &self.scratch {
            let mut scratch = lock(scratch);
            if scratch.len() < len {
                scratch.resize(len, 0.0);
            }
        }
    }

    /// The scratch of a worker. Only that worker asks for it.
    fn scratch_of(&self, worker: usize) -> MutexGuard<'_, Vec<f32>> {
        lock(&self.scratch[worker])
    }
}

impl Ops for Cpu {
    fn describe(&self) -> String {
        let threads = self.threads();
        let plural = if threads == 1 { "" } else { "s" };
        let precise = if self.precise { ", precise" } else { "" };
        format!("cpu {}, {threads} thread{plural}{precise}", self.isa.name())
    }

    fn threads(&self) -> usize {
        self.pool.threads()
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer, OpsError> {
        Ok(Buffer::new(HostMemory::new(bytes)?))
    }

    fn alloc_host(&self, bytes: usize) -> Result<Buffer, OpsError> {
        self.alloc(bytes)
    }

    fn write(&self, src: &[u8], dst: &Tensor) {
        host::bytes_mut(dst).copy_from_slice(src);
    }

    fn fetch<'a>(&self, src: &Tensor, dst: &'a mut [u8]) -> Fence<'a> {
        dst.copy_from_slice(host::bytes(src));
        Fence::done()
    }

    fn copy(&self, src: &Tensor, dst: &Tensor) {
        host::bytes_mut(dst).copy_from_slice(host::bytes(src));
    }

    fn embed(&self, table: &Matrix, ids: &[u32], out: &Tensor) {
        embed::embed(self, table, ids, out);
    }

    fn look_up(&self, table: &Tensor, below: usize, ids: &[u32], out: &Tensor) {
        reference::look_up(table, below, ids, out);
    }

    fn gather(&self, x: &Tensor, rows: &[u32], out: &Tensor) {
        gather::gather(self, x, rows, out);
    }

    fn rms_norm(&self, x: &Tensor, norm: &RmsNorm, out: &Tensor) {
        rms_norm::rms_norm(self, x, norm, out);
    }

    fn layer_norm(&self, x: &Tensor, norm: &LayerNorm, out: &Tensor) {
        layer_norm::layer_norm(self, x, norm, out);
    }

    fn rms_norm_gated(&self, x: &Tensor, gate: &Tensor, norm: &RmsNorm, out: &Tensor) {
        rms_norm_gated::rms_norm_gated(self, x, gate, norm, out);
    }

    fn sigmoid_gate(&self, x: &Tensor, gate: &Tensor) {
        sigmoid_gate::sigmoid_gate(self, x, gate);
    }

    fn add_gated(&self, x: &Tensor, gate: &Tensor, into: &Tensor) {
        add_gated::add_gated(self, x, gate, into);
    }

    fn agreement(&self, x: &Tensor, y: &Tensor, out: &Tensor) {
        agreement::agreement(self, x, y, out);
    }

    fn copy_columns(&self, x: &Tensor, runs: &[ColumnRun], out: &Tensor) {
        copy_columns::copy_columns(self, x, runs, out);
    }

    fn causal_conv(&self, x: &Tensor, conv: &CausalConv, tail: &Tensor, out: &Tensor) {
        causal_conv::causal_conv(self, x, conv, tail, out);
    }

    fn zero(&self, x: &Tensor) {
        host::bytes_mut(x).fill(0);
    }

    fn scale(&self, x: &Tensor, factor: f32, by: Option<&Tensor>) {
        scale::scale(self, x, factor, by);
    }

    fn clamp(&self, x: &Tensor, limit: f32) {
        clamp::clamp(self, x, limit);
    }

    fn softcap(&self, x: &Tensor, cap: f32) {
        softcap::softcap(self, x, cap);
    }

    fn selective_scan(
        &self,
        x_dt: [&Tensor; 2],
        b_c: [&Tensor; 2],
        scan: &SelectiveScan,
        state: &Tensor,
        out: &Tensor,
    ) {
        selective_scan::selective_scan(self, x_dt, b_c, scan, state, out);
    }

    fn linear_attention(
        &self,
        qkv: [&Tensor; 3],
        dt: Option<&Tensor>,
        attention: &LinearAttention,
        state: &Tensor,
        out: &Tensor,
    ) {
        linear_attention::linear_attention(self, qkv, dt, attention, state, out);
    }

    fn gated_delta(&self, qkv: &Tensor, a: &Tensor, b: &Tensor, delta: &GatedDelta, state: &Tensor, out: &Tensor) {
        gated_delta::gated_delta(self, qkv, a, b, delta, state, out);
    }

    fn linear(&self, x: &Tensor, w: &Matrix, out: &Tensor) {
        linear::linears(self, x, &[(w, out)]);
    }

    fn linears(&self, x: &Tensor, products: &[(&Matrix, &Tensor)]) {
        linear::linears(self, x, products);
    }

    fn add(&self, x: &Tensor, into: &Tensor) {
        add::add(self, x, into);
    }

    fn add_bias(&self, x: &Tensor, bias: &Bias) {
        add_bias::add_bias(self, x, bias);
    }

    fn glu(&self, gate: &Tensor, up: &Tensor, activation: Activation, out: &Tensor) {
        glu::glu(self, gate, up, activation, out);
    }

    fn linear_heads(&self, x: &Tensor, w: &Matrix, first: usize, out: &Tensor) {
        linear_heads::linear_heads(self, x, w, first, out);
    }

    fn linear_heads_transposed(&self, x: &Tensor, w: &Matrix, first: usize, out: &Tensor) {
        linear_heads::linear_heads_transposed(self, x, w, first, out);
    }

    fn rope(&self, x: &Tensor, positions: &[u32], rope: &Rope) {
        rope::rope(self, x, positions, rope);
    }

    fn kv_write(&self, k: &Tensor, v: &Tensor, layout: &KvLayout, blocks: &[Tensor], start: usize) {
        kv_write::kv_write(self, k, v, layout, blocks, start);
    }

    fn attention(&self, q: &Tensor, attend: &Attend, layout: &KvLayout, blocks: &[Tensor], start: usize, out: &Tensor) {
        attention::attention(self, q, attend, layout, blocks, start, out);
    }

    fn select(&self, q: &Tensor, weights: &Tensor, keys: &Past, choice: &Tensor) {
        select::select(self, q, weights, keys, choice);
    }

    fn select_blocks(&self, q: &Tensor, keys: &Past, by: PositionBlocks, choice: &Tensor) {
        select::select_blocks(self, q, keys, by, choice);
    }

    fn block_positions(&self, choice: &Tensor, every: usize, start: usize, out: &Tensor) {
        reference::block_positions(choice, every, start, out);
    }

    fn scale_heads(&self, x: &Tensor, positions: &[u32], by: [&Tensor; 2]) {
        scale_heads::scale_heads(self, x, positions, by);
    }

    fn sparse_attention(&self, q: &Tensor, attend: &Attend, pasts: &[Past], out: &Tensor) {
        sparse_attention::sparse_attention(self, q, attend, pasts, out);
    }

    fn route(&self, logits: &Tensor, router: &Router, choice: &Tensor, weights: &Tensor) {
        route::route(self, logits, router, choice, weights);
    }

    fn mlp(&self, x: &Tensor, rows: &[u32], mlp: &Mlp, scratch: &MlpScratch, out: &Tensor) {
        mlp::mlp(self, x, rows, mlp, scratch, out);
    }

    fn mlps(&self, x: &Tensor, tokens: &[u32], jobs: &[MlpJob], scratch: &MlpScratch, parts: &Tensor) {
        mlp::mlps(self, x, tokens, jobs, scratch, parts);
    }

    fn weigh(&self, logits: &Tensor, router: &Router, choice: &Tensor, weights: &Tensor) {
        route::weigh(self, logits, router, choice, weights);
    }

    fn compress(&self, rows: &Tensor, gates: &Tensor, by: &Compress, tail: &Tensor, start: usize, out: &Tensor) {
        compress::compress(self, rows, gates, by, tail, start, out);
    }

    fn hyper_weights(&self, weights: &Tensor, hyper: &Hyper) {
        hyper::hyper_weights(self, weights, hyper);
    }

    fn hyper_collapse(&self, x: &Tensor, weights: &Tensor, out: &Tensor) {
        hyper::hyper_collapse(self, x, weights, out);
    }

    fn hyper_expand(&self, out: &Tensor, weights: &Tensor, x: &Tensor) {
        hyper::hyper_expand(self, out, weights, x);
    }

    fn combine(&self, parts: &Tensor, contributions: &[Contribution], into: &Tensor) {
        combine::combine(self, parts, contributions, into);
    }
}
