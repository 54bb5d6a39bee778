//! The definition of every operation, in plain Rust: one thread, f32 on dequantised weights, loops that read like the
//! formula. Every other backend is tested against it.

mod add;
mod add_bias;
mod add_gated;
mod agreement;
mod attention;
mod block_positions;
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
mod kv_write;
mod layer_norm;
mod linear;
mod linear_attention;
mod linear_heads;
mod look_up;
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

use crate::host::{self, HostMemory};
use crate::{
    Activation, Attend, Bias, Buffer, CausalConv, ColumnRun, Compress, Contribution, Fence, GatedDelta, Hyper,
    KvLayout, LayerNorm, LinearAttention, Matrix, Ops, OpsError, Past, PositionBlocks, RmsNorm, Rope, Router,
    SelectiveScan, Tensor,
};

pub(crate) use agreement::signed_root;
pub(crate) use block_positions::block_positions;
pub(crate) use hyper::hyper_weights;
pub(crate) use look_up::look_up;

/// The backend that defines the others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

impl Ops for Reference {
    fn describe(&self) -> String {
        "reference, 1 thread".into()
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
        embed::embed(table, ids, out);
    }

    fn look_up(&self, table: &Tensor, below: usize, ids: &[u32], out: &Tensor) {
        look_up::look_up(table, below, ids, out);
    }

    fn gather(&self, x: &Tensor, rows: &[u32], out: &Tensor) {
        gather::gather(x, rows, out);
    }

    fn rms_norm(&self, x: &Tensor, norm: &RmsNorm, out: &Tensor) {
        rms_norm::rms_norm(x, norm, out);
    }

    fn layer_norm(&self, x: &Tensor, norm: &LayerNorm, out: &Tensor) {
        layer_norm::layer_norm(x, norm, out);
    }

    fn rms_norm_gated(&self, x: &Tensor, gate: &Tensor, norm: &RmsNorm, out: &Tensor) {
        rms_norm_gated::rms_norm_gated(x, gate, norm, out);
    }

    fn sigmoid_gate(&self, x: &Tensor, gate: &Tensor) {
        sigmoid_gate::sigmoid_gate(x, gate);
    }

    fn add_gated(&self, x: &Tensor, gate: &Tensor, into: &Tensor) {
        add_gated::add_gated(x, gate, into);
    }

    fn agreement(&self, x: &Tensor, y: &Tensor, out: &Tensor) {
        agreement::agreement(x, y, out);
    }

    fn copy_columns(&self, x: &Tensor, runs: &[ColumnRun], out: &Tensor) {
        copy_columns::copy_columns(x, runs, out);
    }

    fn causal_conv(&self, x: &Tensor, conv: &CausalConv, tail: &Tensor, out: &Tensor) {
        causal_conv::causal_conv(x, conv, tail, out);
    }

    fn zero(&self, x: &Tensor) {
        host::bytes_mut(x).fill(0);
    }

    fn scale(&self, x: &Tensor, factor: f32, by: Option<&Tensor>) {
        scale::scale(x, factor, by);
    }

    fn clamp(&self, x: &Tensor, limit: f32) {
        clamp::clamp(x, limit);
    }

    fn softcap(&self, x: &Tensor, cap: f32) {
        softcap::softcap(x, cap);
    }

    fn selective_scan(
        &self,
        x_dt: [&Tensor; 2],
        b_c: [&Tensor; 2],
        scan: &SelectiveScan,
        state: &Tensor,
        out: &Tensor,
    ) {
        selective_scan::selective_scan(x_dt, b_c, scan, state, out);
    }

    fn linear_attention(
        &self,
        qkv: [&Tensor; 3],
        dt: Option<&Tensor>,
        attention: &LinearAttention,
        state: &Tensor,
        out: &Tensor,
    ) {
        linear_attention::linear_attention(qkv, dt, attention, state, out);
    }

    fn gated_delta(&self, qkv: &Tensor, a: &Tensor, b: &Tensor, delta: &GatedDelta, state: &Tensor, out: &Tensor) {
        gated_delta::gated_delta(qkv, a, b, delta, state, out);
    }

    fn linear(&self, x: &Tensor, w: &Matrix, out: &Tensor) {
        linear::linear(x, w, out);
    }

    fn add(&self, x: &Tensor, into: &Tensor) {
        add::add(x, into);
    }

    fn add_bias(&self, x: &Tensor, bias: &Bias) {
        add_bias::add_bias(x, bias);
    }

    fn glu(&self, gate: &Tensor, up: &Tensor, activation: Activation, out: &Tensor) {
        glu::glu(gate, up, activation, out);
    }

    fn linear_heads(&self, x: &Tensor, w: &Matrix, first: usize, out: &Tensor) {
        linear_heads::linear_heads(x, w, first, out);
    }

    fn linear_heads_transposed(&self, x: &Tensor, w: &Matrix, first: usize, out: &Tensor) {
        linear_heads::linear_heads_transposed(x, w, first, out);
    }

    fn rope(&self, x: &Tensor, positions: &[u32], rope: &Rope) {
        rope::rope(x, positions, rope);
    }

    fn kv_write(&self, k: &Tensor, v: &Tensor, layout: &KvLayout, blocks: &[Tensor], start: usize) {
        kv_write::kv_write(k, v, layout, blocks, start);
    }

    fn attention(&self, q: &Tensor, attend: &Attend, layout: &KvLayout, blocks: &[Tensor], start: usize, out: &Tensor) {
        attention::attention(q, attend, layout, blocks, start, out);
    }

    fn select(&self, q: &Tensor, weights: &Tensor, keys: &Past, choice: &Tensor) {
        select::select(q, weights, keys, choice);
    }

    fn select_blocks(&self, q: &Tensor, keys: &Past, by: PositionBlocks, choice: &Tensor) {
        select::select_blocks(q, keys, by, choice);
    }

    fn block_positions(&self, choice: &Tensor, every: usize, start: usize, out: &Tensor) {
        block_positions::block_positions(choice, every, start, out);
    }

    fn scale_heads(&self, x: &Tensor, positions: &[u32], by: [&Tensor; 2]) {
        scale_heads::scale_heads(x, positions, by);
    }

    fn sparse_attention(&self, q: &Tensor, attend: &Attend, pasts: &[Past], out: &Tensor) {
        sparse_attention::sparse_attention(q, attend, pasts, out);
    }

    fn route(&self, logits: &Tensor, router: &Router, choice: &Tensor, weights: &Tensor) {
        route::route(logits, router, choice, weights);
    }

    fn weigh(&self, logits: &Tensor, router: &Router, choice: &Tensor, weights: &Tensor) {
        route::weigh(logits, router, choice, weights);
    }

    fn compress(&self, rows: &Tensor, gates: &Tensor, by: &Compress, tail: &Tensor, start: usize, out: &Tensor) {
        compress::compress(rows, gates, by, tail, start, out);
    }

    fn hyper_weights(&self, weights: &Tensor, hyper: &Hyper) {
        hyper::hyper_weights(weights, hyper);
    }

    fn hyper_collapse(&self, x: &Tensor, weights: &Tensor, out: &Tensor) {
        hyper::hyper_collapse(x, weights, out);
    }

    fn hyper_expand(&self, out: &Tensor, weights: &Tensor, x: &Tensor) {
        hyper::hyper_expand(out, weights, x);
    }

    fn combine(&self, parts: &Tensor, contributions: &[Contribution], into: &Tensor) {
        combine::combine(parts, contributions, into);
    }
}
