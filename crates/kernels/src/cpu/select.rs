//! The lightning indexer's choice: the best-scored entries of a cache (DeepSeek-V3.2, arXiv 2512.02556)
//!
//! Scores of a few queries are computed at a time, in parts that the threads share. Then each query's `top_k`-th best score is
//! found: what is better is chosen, and of what equals it the earliest entries.

use std::ops::Range;

use super::Cpu;
use super::isa::Dots;
use super::pool::lock;
use crate::host::{self, Shared};
use crate::quant::q8_unpack;
use crate::{DType, Format, KvLayout, Past, PositionBlocks, Seen, Tensor};

/// Queries whose scores are held together: a score takes 4 bytes, and a context may have a hundred thousand.
const ROWS: usize = 4;
/// Entries scored by one product. Divides `block_tokens`.
const STEP: usize = 64;
/// Entries of a task.
const TASK_ENTRIES: usize = 8 * STEP;

pub(super) fn select(cpu: &Cpu, q: &Tensor, weights: &Tensor, keys: &Past, choice: &Tensor) {
    let Past { layout, blocks, seen: Seen::Ended { start, every } } = *keys else {
        panic!("select: among entries that have ended, not {:?}", keys.seen);
    };
    let &[n, heads, k_dim] = q.dims() else { panic!("select: q is [n, heads, k_dim], not {q:?}") };
    let top_k = choice.dim(1);
    assert_eq!((layout.heads, layout.k_dim), (1, k_dim), "select: keys of one head that fit q");
    assert_eq!((weights.dims(), choice.dim(0)), (&[n, heads][..], n), "select: weights and choice fit q");
    assert_eq!(layout.block_tokens % STEP, 0, "select: blocks of a multiple of {STEP} entries");
    let most = (start + n) / every;
    let bytes = layout.k_at + layout.block_tokens * layout.dtype.row_bytes(k_dim);
    for block in &blocks[..most.div_ceil(layout.block_tokens)] {
        assert!(bytes <= block.bytes(), "select: the layout leaves its block");
    }
    let seen = |row: usize| (start + row + 1) / every;
    let width = if most > top_k { most } else { 0 };
    let mut scores = lock(&cpu.scores);
    if scores.len() < ROWS * width {
        scores.resize(ROWS * width, 0.0);
    }
    let scores = Shared::new(scores.as_mut_ptr());
    let unpacked = if layout.dtype == DType::Q8 { STEP * k_dim } else { 0 };
    cpu.reserve_scratch((heads * STEP + unpacked).max(width));
    let keys = Keys { cpu, layout, blocks, k_dim };
    let (q, weights) = (host::f32s(q), host::f32s(weights));
    let choice = Shared::new(host::i32s_mut(choice).as_mut_ptr());
    let parts = width.div_ceil(TASK_ENTRIES);
    for first in (0..n).step_by(ROWS) {
        let rows = first..n.min(first + ROWS);
        cpu.pool.run(rows.len() * parts, &|task, worker| {
            let (row, part) = (rows.start + task / parts, task % parts);
            let entries = part * TASK_ENTRIES..seen(row).min((part + 1) * TASK_ENTRIES);
            if seen(row) > top_k && !entries.is_empty() {
                let (q, weights) = (&q[row * heads * k_dim..][..heads * k_dim], &weights[row * heads..][..heads]);
                // SAFETY: these entries of this row's scores are this task's alone.
                let scores = unsafe { scores.slice_mut((row - first) * width + entries.start, entries.len()) };
                keys.score(q, weights, entries, &mut cpu.scratch_of(worker), scores);
            }
        });
        cpu.pool.run(rows.len(), &|task, worker| {
            let row = rows.start + task;
            // SAFETY: row `row` of the choice is this task's alone; scores are only read.
            let choice = unsafe { choice.slice_mut(row * top_k, top_k) };
            if seen(row) > top_k {
                // SAFETY: as above.
                let scores = unsafe { scores.slice(task * width, seen(row)) };
                take_best(scores, &mut cpu.scratch_of(worker)[..scores.len()], choice);
            } else {
                let all = (0..seen(row) as i32).chain(std::iter::repeat(-1));
                choice.iter_mut().zip(all).for_each(|(choice, entry)| *choice = entry);
            }
        });
    }
}

/// A task's part of scores `[heads, width]`.
struct Scores {
    all: Shared<f32>,
    width: usize,
    part: Range<usize>,
}

impl Scores {
    fn of_head(&mut self, head: usize) -> &mut [f32] {
        // SAFETY: this part of every head's scores is one task's alone.
        unsafe { self.all.slice_mut(head * self.width + self.part.start, self.part.len()) }
    }
}

pub(super) fn select_blocks(cpu: &Cpu, q: &Tensor, keys: &Past, by: PositionBlocks, choice: &Tensor) {
    let Past { layout, blocks, seen: Seen::Ended { start, every: 1 } } = *keys else {
        panic!("select_blocks: entries of one position each, not {:?}", keys.seen);
    };
    let &[n, heads, k_dim] = q.dims() else { panic!("select_blocks: q is [n, heads, k_dim], not {q:?}") };
    let &[choice_heads, choice_n, top_k] = choice.dims() else { panic!("select_blocks: choice is [heads, n, k]") };
    assert_eq!((layout.heads, layout.k_dim), (1, k_dim), "select_blocks: keys of one head that fit q");
    assert_eq!((choice_heads, choice_n), (heads, n), "select_blocks: choice fits q");
    assert_eq!(layout.block_tokens % STEP, 0, "select_blocks: blocks of a multiple of {STEP} entries");
    let bytes = layout.k_at + layout.block_tokens * layout.dtype.row_bytes(k_dim);
    for block in &blocks[..(start + n).div_ceil(layout.block_tokens)] {
        assert!(bytes <= block.bytes(), "select_blocks: the layout leaves its block");
    }
    let seen = |row: usize| (start + row + 1).div_ceil(by.every);
    let width = (start + n).div_ceil(by.every);
    let mut scores = lock(&cpu.scores);
    if scores.len() < ROWS * heads * width {
        scores.resize(ROWS * heads * width, 0.0);
    }
    let scores = Shared::new(scores.as_mut_ptr());
    let unpacked = if layout.dtype == DType::Q8 { STEP * k_dim } else { 0 };
    cpu.reserve_scratch((heads * STEP + unpacked).max(width));
    let keys = Keys { cpu, layout, blocks, k_dim };
    let q = host::f32s(q);
    let choice = Shared::new(host::i32s_mut(choice).as_mut_ptr());
    let of_task = (TASK_ENTRIES / by.every).max(1);
    let parts = width.div_ceil(of_task);
    for first in (0..n).step_by(ROWS) {
        let rows = first..n.min(first + ROWS);
        let of_row = |row: usize| scores.at((row - first) * heads * width);
        cpu.pool.run(rows.len() * parts, &|task, worker| {
            let row = rows.start + task / parts;
            let first_block = task % parts * of_task;
            let part = first_block..seen(row).min(first_block + of_task);
            if seen(row) > top_k && !part.is_empty() {
                let entries = part.start * by.every..(start + row + 1).min(part.end * by.every);
                let mut scores = Scores { all: Shared::new(of_row(row)), width, part };
                let q = &q[row * heads * k_dim..][..heads * k_dim];
                keys.best_of_blocks(q, entries, by.every, &mut cpu.scratch_of(worker), &mut scores);
            }
        });
        cpu.pool.run(rows.len() * heads, &|task, worker| {
            let (row, head) = (rows.start + task / heads, task % heads);
            // SAFETY: row `row` of a head's choice is this task's alone, and so are a row's scores of a head.
            let choice = unsafe { choice.slice_mut((head * n + row) * top_k, top_k) };
            if seen(row) > top_k {
                // SAFETY: as above.
                let scores = unsafe { Shared::new(of_row(row)).slice_mut(head * width, seen(row)) };
                scores[seen(row).saturating_sub(by.local)..].fill(f32::INFINITY);
                take_best(scores, &mut cpu.scratch_of(worker)[..scores.len()], choice);
            } else {
                let all = (0..seen(row) as i32).chain(std::iter::repeat(-1));
                choice.iter_mut().zip(all).for_each(|(choice, block)| *choice = block);
            }
        });
    }
}

/// Keys of a cache.
struct Keys<'a> {
    cpu: &'a Cpu,
    layout: &'a KvLayout,
    blocks: &'a [Tensor],
    k_dim: usize,
}

impl Keys<'_> {
    /// Scores `entries` for one query: q `[heads, k_dim]`, weights `[heads]`.
    fn score(&self, q: &[f32], weights: &[f32], entries: Range<usize>, scratch: &mut [f32], scores: &mut [f32]) {
        let (products, unpacked) = scratch.split_at_mut(weights.len() * STEP);
        for (base, scores) in entries.step_by(STEP).zip(scores.chunks_mut(STEP)) {
            self.products(q, base..base + scores.len(), products, unpacked);
            scores.fill(0.0);
            for (products, weight) in products.chunks_exact(STEP).zip(weights) {
                scores.iter_mut().zip(products).for_each(|(score, product)| *score += weight * product.max(0.0));
            }
        }
    }

    /// Products of each head of one query, q `[heads, k_dim]`, with the keys of entries that lie in one block, [`STEP`] at most:
    /// products `[heads, STEP]`.
    fn products(&self, q: &[f32], entries: Range<usize>, products: &mut [f32], unpacked: &mut [f32]) {
        let (w, w_stride, format) = self.rows(entries.start, entries.len(), unpacked);
        let dots = Dots {
            w,
            w_stride,
            rows: entries.len(),
            x: q.as_ptr().cast(),
            x_stride: 4 * self.k_dim,
            columns: q.len() / self.k_dim,
            k: self.k_dim,
            out: products.as_mut_ptr(),
            out_stride: STEP,
        };
        // SAFETY: these keys lie in one block, which the layout fits, or in `unpacked`; q and products are slices.
        unsafe { (self.cpu.kernels.dots.of(format))(&dots) };
    }

    /// The greatest product of each head of one query with a block's keys, of some blocks: scores `[heads, blocks]`, blocks beginning
    /// at `entries.start`.
    fn best_of_blocks(&self, q: &[f32], entries: Range<usize>, every: usize, scratch: &mut [f32], scores: &mut Scores) {
        let (first, heads) = (entries.start, q.len() / self.k_dim);
        let (products, unpacked) = scratch.split_at_mut(heads * STEP);
        (0..heads).for_each(|head| scores.of_head(head).fill(f32::NEG_INFINITY));
        let mut base = first;
        while base < entries.end {
            let end = entries.end.min((base / STEP + 1) * STEP);
            self.products(q, base..end, products, unpacked);
            for (head, products) in products.chunks_exact(STEP).enumerate() {
                let scores = scores.of_head(head);
                for (entry, product) in (base..end).zip(products) {
                    let score = &mut scores[(entry - first) / every];
                    *score = score.max(*product);
                }
            }
            base = end;
        }
    }

    /// Where the keys of `count` entries from `base` on lie, the bytes from one to the next, and what they are.
    fn rows(&self, base: usize, count: usize, unpacked: &mut [f32]) -> (*const u8, usize, Format) {
        let bytes = self.layout.dtype.row_bytes(self.k_dim);
        let (block, slot) = (base / self.layout.block_tokens, base % self.layout.block_tokens);
        let start = host::address(&self.blocks[block]).wrapping_add(self.layout.k_at + slot * bytes).cast_const();
        if let Some(format) = Format::of(self.layout.dtype) {
            return (start, bytes, format);
        }
        assert_eq!(self.layout.dtype, DType::Q8, "select: keys of F32, F16, BF16 or Q8");
        // SAFETY: these entries lie in one block, which the layout fits, and which nobody writes meanwhile.
        let stored = unsafe { std::slice::from_raw_parts(start, count * bytes) };
        for (stored, key) in stored.chunks_exact(bytes).zip(unpacked.chunks_exact_mut(self.k_dim)) {
            q8_unpack(stored, key);
        }
        (unpacked.as_ptr().cast(), 4 * self.k_dim, Format::F32)
    }
}

/// The entries of the best scores, ascending: there are more scores than are chosen.
fn take_best(scores: &[f32], scratch: &mut [f32], choice: &mut [i32]) {
    scratch.copy_from_slice(scores);
    let (_, &mut last, _) = scratch.select_nth_unstable_by(choice.len() - 1, |a, b| b.total_cmp(a));
    let better = scores.iter().filter(|score| score.total_cmp(&last).is_gt()).count();
    let mut equal = choice.len() - better;
    let mut chosen = choice.iter_mut();
    for (entry, score) in scores.iter().enumerate() {
        let order = score.total_cmp(&last);
        if order.is_lt() || order.is_eq() && equal == 0 {
            continue;
        }
        equal -= usize::from(order.is_eq());
        *chosen.next().expect("invariant: as many are better or equal as are chosen") = entry as i32;
    }
}
