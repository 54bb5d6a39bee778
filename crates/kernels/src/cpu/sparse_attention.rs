//! `out = softmax(scale · q·Kᵀ) · V` over the entries of several caches that a query sees
//!
//! A task is one query for some of its heads. What it sees is taken in the order of the caches, [`STEP`] entries at a time,
//! brought together first: entries that were chosen lie apart. A query's steps depend on its position alone, so its arithmetic is
//! the same alone and among others.

use std::ops::Range;

use super::Cpu;
use super::attention::{rescale, with_sink};
use super::isa::{Dots, Mix};
use crate::host::{self, Shared};
use crate::quant::q8_unpack;
use crate::{Attend, DType, Format, KvLayout, Past, Seen, Tensor};

/// Entries between two rescalings.
const STEP: usize = 64;
/// Heads of a task at least, where there are few queries: each task brings together what its query sees.
const HEADS_MIN: usize = 8;

pub(super) fn sparse_attention(cpu: &Cpu, q: &Tensor, attend: &Attend, pasts: &[Past], out: &Tensor) {
    let &[n, q_heads, k_dim] = q.dims() else { panic!("sparse_attention: q is [n, q_heads, k_dim], not {q:?}") };
    let (heads, v_dim) = (pasts[0].layout.heads, pasts[0].layout.v_dim);
    let fits = |past: &Past| (past.layout.heads, past.layout.k_dim, past.layout.v_dim) == (heads, k_dim, v_dim);
    assert!(pasts.iter().all(fits), "sparse_attention: caches of other shapes");
    assert_eq!(out.dims(), [n, q_heads, v_dim], "sparse_attention: out does not fit q and the caches");
    assert_eq!(q_heads % heads, 0, "sparse_attention: every kv head serves as many query heads");
    let group = q_heads / heads;
    // Two tasks for each thread, or more.
    let together = group.div_ceil((2 * cpu.threads()).div_ceil((n * heads).max(1))).max(group.min(HEADS_MIN));
    let parts = group.div_ceil(together);
    // Keys or values of a step: as they are stored, or in f32.
    let gathered = STEP * k_dim.max(v_dim);
    cpu.reserve_scratch(together * (v_dim + STEP + 2) + gathered);
    let call = Call {
        cpu,
        q: Shared::new(host::f32_address(q)),
        out: Shared::new(host::f32_address(out)),
        attend,
        pasts,
        q_heads,
        k_dim,
        v_dim,
    };
    cpu.pool.run(n * heads * parts, &|task, worker| {
        let (part, head, row) = (task % parts, task / parts % heads, task / parts / heads);
        let queries = head * group + part * together..head * group + group.min((part + 1) * together);
        Query::new(&call, row, head, queries, &mut cpu.scratch_of(worker)).compute();
    });
}

/// What all tasks share.
struct Call<'a> {
    cpu: &'a Cpu,
    q: Shared<f32>,
    out: Shared<f32>,
    attend: &'a Attend,
    pasts: &'a [Past<'a>],
    q_heads: usize,
    k_dim: usize,
    v_dim: usize,
}

/// One query, for some of the heads that share a kv head.
struct Query<'a> {
    call: &'a Call<'a>,
    row: usize,
    head: usize,
    heads: Range<usize>,
    /// `[heads, v_dim]`
    mixed: &'a mut [f32],
    /// `[heads, STEP]`
    scores: &'a mut [f32],
    /// `[heads]`
    max: &'a mut [f32],
    /// `[heads]`
    sum: &'a mut [f32],
    /// Keys or values of a step.
    gathered: &'a mut [f32],
}

impl<'a> Query<'a> {
    fn new(call: &'a Call<'a>, row: usize, head: usize, heads: Range<usize>, scratch: &'a mut [f32]) -> Self {
        let count = heads.len();
        let (mixed, scratch) = scratch.split_at_mut(count * call.v_dim);
        let (scores, scratch) = scratch.split_at_mut(count * STEP);
        let (max, scratch) = scratch.split_at_mut(count);
        let (sum, gathered) = scratch.split_at_mut(count);
        mixed.fill(0.0);
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        Query { call, row, head, heads, mixed, scores, max, sum, gathered }
    }

    fn compute(mut self) {
        for past in self.call.pasts {
            match past.seen {
                Seen::Window { start, window } => {
                    let end = start + self.row + 1;
                    self.range(past, end.saturating_sub(window)..end);
                }
                Seen::Ended { start, every } => self.range(past, 0..(start + self.row + 1) / every),
                Seen::Chosen(choice) => {
                    let k = choice.dim(1);
                    let chosen = &host::i32s(choice)[self.row * k..][..k];
                    let count = chosen.iter().position(|&entry| entry < 0).unwrap_or(k);
                    for some in chosen[..count].chunks(STEP) {
                        self.step(past, some.len(), &|i| some[i] as usize);
                    }
                }
            }
        }
        self.finish();
    }

    fn range(&mut self, past: &Past, entries: Range<usize>) {
        for base in entries.clone().step_by(STEP) {
            self.step(past, STEP.min(entries.end - base), &|i| base + i);
        }
    }

    /// Takes in `count` entries.
    fn step(&mut self, past: &Past, count: usize, entry: &dyn Fn(usize) -> usize) {
        let Call { cpu, k_dim, v_dim, .. } = *self.call;
        let (layout, heads) = (past.layout, self.heads.len());
        let k_stride = self.gather(past, layout.k_at, k_dim, count, entry);
        let format = Format::of(layout.dtype).unwrap_or(Format::F32);
        let dots = Dots {
            w: self.gathered.as_ptr().cast(),
            w_stride: k_stride,
            rows: count,
            x: self.call.q.at((self.row * self.call.q_heads + self.heads.start) * k_dim).cast_const().cast(),
            x_stride: 4 * k_dim,
            columns: heads,
            k: k_dim,
            out: self.scores.as_mut_ptr(),
            out_stride: STEP,
        };
        // SAFETY: `count` keys were gathered; these heads of this row lie behind each other in q, which is only read.
        unsafe { (cpu.kernels.dots.of(format))(&dots) };
        let v_stride = if layout.v_in_k { k_stride } else { self.gather(past, layout.v_at, v_dim, count, entry) };
        for (i, scores) in self.scores.chunks_exact_mut(STEP).enumerate() {
            let mixed = &mut self.mixed[i * v_dim..][..v_dim];
            let (max, sum) = (&mut self.max[i], &mut self.sum[i]);
            rescale(&cpu.kernels, &mut scores[..count], self.call.attend.scale, max, sum, mixed);
        }
        let mix = Mix {
            p: self.scores.as_ptr(),
            p_stride: STEP,
            columns: heads,
            v: self.gathered.as_ptr().cast(),
            v_stride,
            terms: count,
            dim: v_dim,
            out: self.mixed.as_mut_ptr(),
            out_stride: v_dim,
        };
        // SAFETY: as above; a value is the beginning of its key, or was gathered.
        unsafe { (cpu.kernels.mix.of(format))(&mix) };
    }

    /// Brings together what was stored of some entries, `width` elements each; returns the bytes from one to the next.
    fn gather(&mut self, past: &Past, at: usize, width: usize, count: usize, entry: &dyn Fn(usize) -> usize) -> usize {
        let KvLayout { dtype, block_tokens, .. } = *past.layout;
        let bytes = dtype.row_bytes(width);
        let to: &mut [u8] = bytemuck::cast_slice_mut(self.gathered);
        for i in 0..count {
            let (block, slot) = (entry(i) / block_tokens, entry(i) % block_tokens);
            let row = at + (self.head * block_tokens + slot) * bytes;
            let stored = &host::bytes(&past.blocks[block])[row..][..bytes];
            if dtype == DType::Q8 {
                q8_unpack(stored, bytemuck::cast_slice_mut(&mut to[4 * i * width..4 * (i + 1) * width]));
            } else {
                to[i * bytes..(i + 1) * bytes].copy_from_slice(stored);
            }
        }
        if dtype == DType::Q8 { 4 * width } else { bytes }
    }

    fn finish(self) {
        let v_dim = self.call.v_dim;
        for (i, head) in self.heads.clone().enumerate() {
            let (factor, sum) = with_sink(self.call.attend, head, self.max[i], self.sum[i]);
            // SAFETY: this head of this row, in out [n, q_heads, v_dim], is this task's alone.
            let out = unsafe { self.call.out.slice_mut((self.row * self.call.q_heads + head) * v_dim, v_dim) };
            out.iter_mut().zip(&self.mixed[i * v_dim..]).for_each(|(out, mixed)| *out = mixed * factor / sum);
        }
    }
}
