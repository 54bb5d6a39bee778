//! The definition of every operation, in plain Rust: one thread, f32 on dequantised weights, loops that read like the
//! formula. Every other backend is tested against it.

mod add;
mod attention;
mod combine;
mod embed;
mod gather;
mod kv_write;
mod linear;
mod rms_norm;
mod rope;
mod route;
mod swiglu;

use crate::host::{self, HostMemory};
use crate::{Buffer, Contribution, Fence, KvLayout, Matrix, Ops, OpsError, Rope, Router, Tensor};

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

    fn gather(&self, x: &Tensor, rows: &[u32], out: &Tensor) {
        gather::gather(x, rows, out);
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32, out: &Tensor) {
        rms_norm::rms_norm(x, weight, eps, out);
    }

    fn linear(&self, x: &Tensor, w: &Matrix, out: &Tensor) {
        linear::linear(x, w, out);
    }

    fn add(&self, x: &Tensor, into: &Tensor) {
        add::add(x, into);
    }

    fn swiglu(&self, gate: &Tensor, up: &Tensor, out: &Tensor) {
        swiglu::swiglu(gate, up, out);
    }

    fn rope(&self, x: &Tensor, positions: &[u32], rope: &Rope) {
        rope::rope(x, positions, rope);
    }

    fn kv_write(&self, k: &Tensor, v: &Tensor, layout: &KvLayout, blocks: &[Tensor], start: usize) {
        kv_write::kv_write(k, v, layout, blocks, start);
    }

    fn attention(&self, q: &Tensor, scale: f32, layout: &KvLayout, blocks: &[Tensor], start: usize, out: &Tensor) {
        attention::attention(q, scale, layout, blocks, start, out);
    }

    fn route(&self, logits: &Tensor, router: &Router, choice: &Tensor, weights: &Tensor) {
        route::route(logits, router, choice, weights);
    }

    fn combine(&self, parts: &Tensor, contributions: &[Contribution], into: &Tensor) {
        combine::combine(parts, contributions, into);
    }
}
