//! `out = softmax(scale · q·Kᵀ) · V`, causal, with a running maximum and sum (arXiv 1805.02867, 2205.14135)
//!
//! Positions are taken in steps of [`STEP`] at absolute borders, and a query's maximum, sum and output are rescaled
//! once a step. So a query's arithmetic is the same alone and among others, whatever the block size and wherever the
//! prompt was cut.

use std::ops::Range;

use super::Cpu;
use super::isa::{Dots, Kernels, Mix};
use crate::host::{self, Shared};
use crate::quant::{self, q8_unpack};
use crate::{Attend, DType, Format, KvLayout, Tensor};

/// Positions between two rescalings. Divides `block_tokens`.
const STEP: usize = 64;

/// Query heads (rows times the heads that share a kv head) that pass over the keys together, where there are as many.
const TILE_QUERIES: usize = 64;

pub(super) fn attention(
    cpu: &Cpu,
    q: &Tensor,
    attend: &Attend,
    layout: &KvLayout,
    blocks: &[Tensor],
    start: usize,
    out: &Tensor,
) {
    let &[n, q_heads, k_dim] = q.dims() else { panic!("attention: q is [n, q_heads, k_dim], not {q:?}") };
    assert_eq!(k_dim, layout.k_dim, "attention: q does not fit the layout");
    assert_eq!(out.dims(), [n, q_heads, layout.v_dim], "attention: out does not fit q and the layout");
    assert_eq!(q_heads % layout.heads, 0, "attention: every kv head serves as many query heads");
    assert_eq!(layout.block_tokens % STEP, 0, "attention: blocks of a multiple of {STEP} positions");
    assert!(attend.window != Some(0), "attention: a window holds the query's own position");
    assert!(!layout.v_in_k || layout.v_dim <= k_dim, "attention: a value inside its key is no wider");
    for block in &blocks[..(start + n).div_ceil(layout.block_tokens)] {
        let plane_bytes = |stride| layout.heads * layout.block_tokens * stride;
        let k_end = layout.k_at + plane_bytes(layout.dtype.row_bytes(k_dim));
        let end = k_end.max(layout.v_at + plane_bytes(layout.v_stride()));
        assert!(end <= block.bytes(), "attention: the layout leaves its block");
    }
    let group = q_heads / layout.heads;
    let tile_rows = (TILE_QUERIES / group).max(1);
    let tiles = n.div_ceil(tile_rows);
    // Q8 is unpacked a step at a time; from there on it is f32.
    let unpacks = layout.dtype == DType::Q8;
    let format = if unpacks { Some(Format::F32) } else { Format::of(layout.dtype) };
    let unpacked = if unpacks { STEP * k_dim.max(layout.v_dim) } else { 0 };
    let call = Call {
        cpu,
        format: format.expect("attention: keys and values of F32, F16, BF16 or Q8"),
        unpacked,
        q: Shared::new(host::f32_address(q)),
        out: Shared::new(host::f32_address(out)),
        attend,
        layout,
        blocks,
        start,
        group,
    };
    cpu.reserve_scratch(tile_rows * group * (k_dim + layout.v_dim + STEP + 2) + unpacked);
    cpu.pool.run(tiles * layout.heads, &|task, worker| {
        // The last rows see the most keys, so they go first.
        let (tile, head) = (tiles - 1 - task / layout.heads, task % layout.heads);
        let rows = tile * tile_rows..n.min((tile + 1) * tile_rows);
        Tile::new(&call, head, rows, &mut cpu.scratch_of(worker)).compute();
    });
}

/// What all tiles of a call share.
struct Call<'a> {
    cpu: &'a Cpu,
    /// Of keys and values as they are multiplied.
    format: Format,
    /// Values of a step that are unpacked before; 0 where they are used as stored.
    unpacked: usize,
    q: Shared<f32>,
    out: Shared<f32>,
    attend: &'a Attend,
    layout: &'a KvLayout,
    blocks: &'a [Tensor],
    start: usize,
    group: usize,
}

/// Some rows of the query heads of one kv head. Its queries are numbered row by row: `row · group + head of the group`.
struct Tile<'a> {
    call: &'a Call<'a>,
    head: usize,
    rows: Range<usize>,
    /// `[queries, k_dim]`
    q: &'a mut [f32],
    /// `[queries, v_dim]`
    mixed: &'a mut [f32],
    /// `[queries, STEP]`
    scores: &'a mut [f32],
    /// `[queries]`
    max: &'a mut [f32],
    /// `[queries]`
    sum: &'a mut [f32],
    /// `[STEP, k_dim or v_dim]` where keys and values are unpacked.
    unpacked: &'a mut [f32],
}

impl<'a> Tile<'a> {
    fn new(call: &'a Call<'a>, head: usize, rows: Range<usize>, scratch: &'a mut [f32]) -> Self {
        let queries = rows.len() * call.group;
        let (q, scratch) = scratch.split_at_mut(queries * call.layout.k_dim);
        let (mixed, scratch) = scratch.split_at_mut(queries * call.layout.v_dim);
        let (scores, scratch) = scratch.split_at_mut(queries * STEP);
        let (max, scratch) = scratch.split_at_mut(queries);
        let (sum, scratch) = scratch.split_at_mut(queries);
        Tile { call, head, rows, q, mixed, scores, max, sum, unpacked: &mut scratch[..call.unpacked] }
    }

    fn compute(mut self) {
        let (start, group, rows) = (self.call.start, self.call.group, self.rows.clone());
        let window = self.call.attend.window.unwrap_or(usize::MAX);
        self.begin();
        // Row i sees positions from first_seen(i) up to start + i.
        let first_seen = |row: usize| (start + row + 1).saturating_sub(window);
        let first_base = first_seen(rows.start) / STEP * STEP;
        for base in (first_base..start + rows.end).step_by(STEP) {
            // The whole step is seen by rows from `whole` on that do not begin behind its first position.
            let whole = (base + STEP - 1).saturating_sub(start).clamp(rows.start, rows.end);
            let behind = base.saturating_add(window).saturating_sub(start).clamp(whole, rows.end);
            let query = |row: usize| (row - rows.start) * group;
            self.step(query(whole)..query(behind), base..base + STEP);
            let parted = (rows.start.max(base.saturating_sub(start))..whole).chain(behind..rows.end);
            for row in parted {
                let seen = base.max(first_seen(row))..(base + STEP).min(start + row + 1);
                if !seen.is_empty() {
                    self.step(query(row)..query(row) + group, seen);
                }
            }
        }
        self.finish();
    }

    fn begin(&mut self) {
        let width = self.call.group * self.call.layout.k_dim;
        for (row, q) in self.rows.clone().zip(self.q.chunks_exact_mut(width)) {
            let at = (row * self.call.layout.heads + self.head) * width;
            // SAFETY: the query heads of one kv head lie behind each other in q, [n, q_heads, k_dim], which is only read.
            q.copy_from_slice(unsafe { self.call.q.slice(at, width) });
        }
        self.mixed.fill(0.0);
        self.max.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
    }

    fn finish(&mut self) {
        let v_dim = self.call.layout.v_dim;
        let width = self.call.group * v_dim;
        for (i, row) in self.rows.clone().enumerate() {
            let at = (row * self.call.layout.heads + self.head) * width;
            // SAFETY: these heads of this row, in out [n, q_heads, v_dim], are this tile's alone.
            let out = unsafe { self.call.out.slice_mut(at, width) };
            for (j, out) in out.chunks_exact_mut(v_dim).enumerate() {
                let query = i * self.call.group + j;
                let (factor, sum) = self.last(query, self.head * self.call.group + j);
                let mixed = &self.mixed[query * v_dim..][..v_dim];
                out.iter_mut().zip(mixed).for_each(|(out, mixed)| *out = mixed * factor / sum);
            }
        }
    }

    /// What a query's output is multiplied with, and divided by.
    fn last(&self, query: usize, q_head: usize) -> (f32, f32) {
        with_sink(self.call.attend, q_head, self.max[query], self.sum[query])
    }

    /// Takes in some positions of one step, for some queries.
    fn step(&mut self, queries: Range<usize>, seen: Range<usize>) {
        if queries.is_empty() {
            return;
        }
        let (base, positions) = (seen.start, seen.len());
        let (k_dim, v_dim) = (self.call.layout.k_dim, self.call.layout.v_dim);
        let kernels = &self.call.cpu.kernels;
        let (k, k_bytes) = self.plane(base, positions, self.call.layout.k_at, k_dim, k_dim);
        let dots = Dots {
            w: k,
            w_stride: k_bytes,
            rows: positions,
            x: self.q[queries.start * k_dim..queries.end * k_dim].as_ptr().cast(),
            x_stride: 4 * k_dim,
            columns: queries.len(),
            k: k_dim,
            out: self.scores[queries.start * STEP..queries.end * STEP].as_mut_ptr(),
            out_stride: STEP,
        };
        // SAFETY: `positions` keys from `base` on lie in one block, which the layout fits, or in `unpacked`, which is not
        // written before the next plane is asked for; x and out are slices.
        unsafe { (kernels.dots.of(self.call.format))(&dots) };
        let v_width = if self.call.layout.v_in_k { k_dim } else { v_dim };
        let (v, v_bytes) = self.plane(base, positions, self.call.layout.v_at, v_width, v_dim);
        let scores = &mut self.scores[queries.start * STEP..queries.end * STEP];
        for (i, scores) in queries.clone().zip(scores.chunks_exact_mut(STEP)) {
            let mixed = &mut self.mixed[i * v_dim..(i + 1) * v_dim];
            rescale(
                kernels,
                &mut scores[..positions],
                self.call.attend.scale,
                &mut self.max[i],
                &mut self.sum[i],
                mixed,
            );
        }
        let mix = Mix {
            p: scores.as_ptr(),
            p_stride: STEP,
            columns: queries.len(),
            v,
            v_stride: v_bytes,
            terms: positions,
            dim: v_dim,
            out: self.mixed[queries.start * v_dim..queries.end * v_dim].as_mut_ptr(),
            out_stride: v_dim,
        };
        // SAFETY: as for the keys.
        unsafe { (kernels.mix.of(self.call.format))(&mix) };
    }

    /// Where `positions` keys or values of this head lie from position `base` on, of `width` elements each, and the bytes from
    /// one to the next; their first `dim` elements unpacked if need be, until the next call.
    fn plane(&mut self, base: usize, positions: usize, at: usize, width: usize, dim: usize) -> (*const u8, usize) {
        let layout = self.call.layout;
        let bytes = layout.dtype.row_bytes(width);
        let (block, slot) = (base / layout.block_tokens, base % layout.block_tokens);
        let start = host::address(&self.call.blocks[block]);
        let start = start.wrapping_add(at + (self.head * layout.block_tokens + slot) * bytes).cast_const();
        if self.call.unpacked == 0 {
            return (start, bytes);
        }
        // SAFETY: these positions lie in one block, which the layout fits, and which nobody writes meanwhile.
        let stored = unsafe { std::slice::from_raw_parts(start, positions * bytes) };
        let unpacked = &mut self.unpacked[..positions * dim];
        for (stored, unpacked) in stored.chunks_exact(bytes).zip(unpacked.chunks_exact_mut(dim)) {
            q8_unpack(&stored[..layout.dtype.row_bytes(dim)], unpacked);
        }
        (unpacked.as_ptr().cast(), 4 * dim)
    }
}

/// What the output of a head is multiplied with, and divided by: with a sink the maximum may rise once more.
pub(super) fn with_sink(attend: &Attend, q_head: usize, max: f32, sum: f32) -> (f32, f32) {
    let Some(sinks) = &attend.sinks else { return (1.0, sum) };
    let sink = quant::value(sinks, q_head);
    let highest = max.max(sink);
    let factor = (max - highest).exp();
    (factor, sum * factor + (sink - highest).exp())
}

/// Turns a query's scores of one step into weights, relative to the maximum so far.
pub(super) fn rescale(
    kernels: &Kernels,
    scores: &mut [f32],
    scale: f32,
    max: &mut f32,
    sum: &mut f32,
    mixed: &mut [f32],
) {
    // SAFETY: a backend has only kernels that run here.
    let (highest, step_sum) = unsafe { (kernels.softmax)(scores, scale, *max) };
    let factor = (*max - highest).exp();
    *sum = *sum * factor + step_sum;
    if factor != 1.0 {
        mixed.iter_mut().for_each(|mixed| *mixed *= factor);
    }
    *max = highest;
}
