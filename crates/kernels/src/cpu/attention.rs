//! `out = softmax(scale · q·Kᵀ) · V`, causal, with a running maximum and sum (arXiv 1805.02867, 2205.14135)
//!
//! Positions are taken in steps of [`STEP`] at absolute borders, and a query's maximum, sum and output are rescaled
//! once a step. They begin anew with each segment of [`SEGMENT`] positions, and segments are merged in their order; so the
//! threads may share a long past. A query's arithmetic is the same alone and among others, whatever the block size, wherever
//! the prompt was cut, and however many threads there are.

use std::ops::Range;

use super::Cpu;
use super::isa::{Dots, Kernels, LINE_BYTES, Mix, prefetch};
use super::pool::lock;
use crate::host::{self, Shared};
use crate::quant::{self, q8_unpack};
use crate::{Attend, DType, Format, KvLayout, Tensor};

/// Positions between two rescalings. Divides `block_tokens`.
const STEP: usize = 64;

/// Query heads (rows times the heads that share a kv head) that pass over the keys together, where there are as many.
const TILE_QUERIES: usize = 64;

/// Positions whose maximum, sum and output are computed on their own. A multiple of [`STEP`]. What a window bounds is one
/// segment: its positions count from the first block that is still there.
const SEGMENT: usize = 8 * STEP;

/// With few queries a step is read from memory while it is multiplied, so as many keys, and values, are multiplied as of what comes
/// next are asked for. The processor's own guesses end with a page, and a step's keys of a head are a few pages.
const FEW_QUERIES: usize = 16;
const KEYS_OF_FEW: usize = 4;
const VALUES_OF_FEW: usize = 8;

/// With more its time is that of multiplying, so a step's keys and values are widened to f32 before, and keys of so many bytes are
/// multiplied at once: they stay in a first-level cache while all queries pass.
const KEY_BYTES_OF_MANY: usize = 16 << 10;

/// Query heads of a kv head that stay together where threads share them: fewer would only read the keys once more.
const HEADS_MIN: usize = 8;

/// Tasks for each thread, so that all end at about the same time.
const TASKS_PER_THREAD: usize = 2;

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
    let known = layout.dtype == DType::Q8 || Format::of(layout.dtype).is_some();
    assert!(known, "attention: keys and values of F32, F16, BF16 or Q8, not {:?}", layout.dtype);
    assert!(attend.window != Some(0), "attention: a window holds the query's own position");
    let begins = layout.v_dim <= k_dim && layout.v_at == layout.k_at;
    assert!(!layout.v_in_k || begins, "attention: a value inside its key is its beginning");
    for block in &blocks[..(start + n).div_ceil(layout.block_tokens)] {
        let plane_bytes = |stride| layout.heads * layout.block_tokens * stride;
        let k_end = layout.k_at + plane_bytes(layout.dtype.row_bytes(k_dim));
        let end = k_end.max(layout.v_at + plane_bytes(layout.v_stride()));
        assert!(end <= block.bytes(), "attention: the layout leaves its block");
    }
    if n == 0 {
        return;
    }
    let group = q_heads / layout.heads;
    let tile_rows = (TILE_QUERIES / group).max(1);
    let tiles = n.div_ceil(tile_rows);
    let segment = if attend.window.is_some() { usize::MAX } else { SEGMENT };
    let segments = (start + n).div_ceil(segment);
    let tasks_wanted = TASKS_PER_THREAD * cpu.threads();
    let parts = tasks_wanted.div_ceil(tiles * layout.heads * segments).min(group.div_ceil(HEADS_MIN));
    let part_heads = group.div_ceil(parts);
    let parts = group.div_ceil(part_heads);
    let call = Call {
        cpu,
        q: Shared::new(host::f32_address(q)),
        out: Shared::new(host::f32_address(out)),
        attend,
        layout,
        blocks,
        start,
        group,
        segment,
    };
    let queries_max = tile_rows * part_heads;
    let partial_len = Partial::len(queries_max, layout.v_dim);
    cpu.reserve_scratch(queries_max * (k_dim + STEP) + STEP * k_dim.max(layout.v_dim) + 2 * partial_len);
    let tile = |task: usize| {
        // The last rows see the most keys, so they go first.
        let (tile, head, part) = (tiles - 1 - task / parts / layout.heads, task / parts % layout.heads, task % parts);
        let rows = tile * tile_rows..n.min((tile + 1) * tile_rows);
        Tile { call: &call, head, rows, heads: part * part_heads..group.min((part + 1) * part_heads) }
    };
    let tasks = tiles * layout.heads * parts;
    if tasks >= tasks_wanted || segments == 1 {
        cpu.pool.run(tasks, &|task, worker| {
            let mut scratch = cpu.scratch_of(worker);
            let (total, scratch) = scratch.split_at_mut(partial_len);
            let (partial, scratch) = scratch.split_at_mut(partial_len);
            let tile = tile(task);
            let (mut total, mut partial) = (tile.partial(total), tile.partial(partial));
            total.clear();
            for segment in 0..tile.segments() {
                tile.segment(segment, &mut partial, scratch);
                total.merge(&partial);
            }
            tile.finish(&total);
        });
        return;
    }
    // Each task computes a segment, as many at once as threads need; then what they found is merged.
    let at_once = tasks_wanted.div_ceil(tasks);
    let mut partials = lock(&cpu.partials);
    if partials.len() < tasks * (1 + at_once) * partial_len {
        partials.resize(tasks * (1 + at_once) * partial_len, 0.0);
    }
    let partials = Shared::new(partials.as_mut_ptr());
    // SAFETY: one place for each total and for each segment of a tile; tasks write to different ones, and those that are merged
    // are not written meanwhile.
    let place =
        |task: usize, i: usize| unsafe { partials.slice_mut((task * (1 + at_once) + i) * partial_len, partial_len) };
    (0..tasks).for_each(|task| tile(task).partial(place(task, 0)).clear());
    for first in (0..segments).step_by(at_once) {
        let some = at_once.min(segments - first);
        cpu.pool.run(tasks * some, &|i, worker| {
            let (task, segment) = (i / some, i % some);
            let tile = tile(task);
            let mut partial = tile.partial(place(task, 1 + segment));
            tile.segment(first + segment, &mut partial, &mut cpu.scratch_of(worker));
        });
        cpu.pool.run(tasks, &|task, _| {
            let tile = tile(task);
            let mut total = tile.partial(place(task, 0));
            (0..some).for_each(|segment| total.merge(&tile.partial(place(task, 1 + segment))));
            if first + some == segments {
                tile.finish(&total);
            }
        });
    }
}

/// What all tiles of a call share.
struct Call<'a> {
    cpu: &'a Cpu,
    q: Shared<f32>,
    out: Shared<f32>,
    attend: &'a Attend,
    layout: &'a KvLayout,
    blocks: &'a [Tensor],
    start: usize,
    group: usize,
    /// Positions of a segment.
    segment: usize,
}

/// What some positions came to, for some queries.
struct Partial<'a> {
    /// `[queries, v_dim]`, to be divided by the sum.
    mixed: &'a mut [f32],
    /// `[queries]`
    max: &'a mut [f32],
    /// `[queries]`; 0 where a query saw nothing yet.
    sum: &'a mut [f32],
}

impl<'a> Partial<'a> {
    /// Values that it takes.
    fn len(queries: usize, v_dim: usize) -> usize {
        queries * (v_dim + 2)
    }

    fn of(memory: &'a mut [f32], queries: usize, v_dim: usize) -> Self {
        let (mixed, memory) = memory.split_at_mut(queries * v_dim);
        let (max, memory) = memory.split_at_mut(queries);
        Partial { mixed, max, sum: &mut memory[..queries] }
    }

    fn clear(&mut self) {
        self.mixed.fill(0.0);
        self.max.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
    }

    /// Adds what later positions came to.
    fn merge(&mut self, later: &Partial) {
        let v_dim = self.mixed.len() / self.sum.len();
        let rows = self.mixed.chunks_exact_mut(v_dim).zip(later.mixed.chunks_exact(v_dim));
        for (i, (mixed, later_mixed)) in rows.enumerate() {
            if later.sum[i] == 0.0 {
                continue;
            }
            if self.sum[i] == 0.0 {
                mixed.copy_from_slice(later_mixed);
                (self.max[i], self.sum[i]) = (later.max[i], later.sum[i]);
                continue;
            }
            let highest = self.max[i].max(later.max[i]);
            let (factor, later_factor) = ((self.max[i] - highest).exp(), (later.max[i] - highest).exp());
            mixed
                .iter_mut()
                .zip(later_mixed)
                .for_each(|(mixed, later)| *mixed = *mixed * factor + *later * later_factor);
            self.sum[i] = self.sum[i] * factor + later.sum[i] * later_factor;
            self.max[i] = highest;
        }
    }
}

/// Some rows of some query heads of one kv head. Its queries are numbered row by row: `row · heads + head`.
struct Tile<'a> {
    call: &'a Call<'a>,
    head: usize,
    rows: Range<usize>,
    /// Of the kv head's group.
    heads: Range<usize>,
}

impl Tile<'_> {
    fn queries(&self) -> usize {
        self.rows.len() * self.heads.len()
    }

    fn partial<'a>(&self, memory: &'a mut [f32]) -> Partial<'a> {
        Partial::of(memory, self.queries(), self.call.layout.v_dim)
    }

    /// Segments up to the last that a row sees.
    fn segments(&self) -> usize {
        (self.call.start + self.rows.end).div_ceil(self.call.segment)
    }

    /// Which head of all, from the head of the group.
    fn q_head(&self, head: usize) -> usize {
        self.head * self.call.group + head
    }

    /// Where this tile's heads of a row begin, in `[n, q_heads, dim]`.
    fn at(&self, row: usize, dim: usize) -> usize {
        (row * self.call.layout.heads * self.call.group + self.q_head(self.heads.start)) * dim
    }

    /// Computes one segment.
    fn segment(&self, segment: usize, partial: &mut Partial, scratch: &mut [f32]) {
        let k_dim = self.call.layout.k_dim;
        let (q, scratch) = scratch.split_at_mut(self.queries() * k_dim);
        let (scores, scratch) = scratch.split_at_mut(self.queries() * STEP);
        let width = self.heads.len() * k_dim;
        for (row, q) in self.rows.clone().zip(q.chunks_exact_mut(width)) {
            // SAFETY: these query heads lie behind each other in q, [n, q_heads, k_dim], which is only read.
            q.copy_from_slice(unsafe { self.call.q.slice(self.at(row, k_dim), width) });
        }
        partial.clear();
        let begin = segment * self.call.segment;
        let positions = begin..begin.saturating_add(self.call.segment);
        Segment { tile: self, q, partial, scores, widened: scratch }.compute(positions);
    }

    /// Writes the output.
    fn finish(&self, total: &Partial) {
        let v_dim = self.call.layout.v_dim;
        let width = self.heads.len() * v_dim;
        for (i, row) in self.rows.clone().enumerate() {
            // SAFETY: these heads of this row, in out [n, q_heads, v_dim], are this tile's alone.
            let out = unsafe { self.call.out.slice_mut(self.at(row, v_dim), width) };
            for (j, out) in out.chunks_exact_mut(v_dim).enumerate() {
                let query = i * self.heads.len() + j;
                let q_head = self.q_head(self.heads.start + j);
                let (factor, sum) = with_sink(self.call.attend, q_head, total.max[query], total.sum[query]);
                let mixed = &total.mixed[query * v_dim..][..v_dim];
                out.iter_mut().zip(mixed).for_each(|(out, mixed)| *out = mixed * factor / sum);
            }
        }
    }
}

/// A tile's pass over one segment.
struct Segment<'a, 'p> {
    tile: &'a Tile<'a>,
    /// `[queries, k_dim]`
    q: &'a [f32],
    partial: &'a mut Partial<'p>,
    /// `[queries, STEP]`
    scores: &'a mut [f32],
    /// `[STEP, k_dim or v_dim]`: keys, and then values, where they are not multiplied as they are stored.
    widened: &'a mut [f32],
}

/// Keys or values of one head, of some positions of a step, as they are multiplied.
#[derive(Clone, Copy)]
struct Plane {
    at: *const u8,
    /// From one position to the next.
    stride: usize,
    format: Format,
}

impl Segment<'_, '_> {
    fn compute(mut self, positions: Range<usize>) {
        let Tile { call, ref rows, ref heads, .. } = *self.tile;
        let (start, heads) = (call.start, heads.len());
        let window = call.attend.window.unwrap_or(usize::MAX);
        // Row i sees positions from first_seen(i) up to start + i.
        let first_seen = |row: usize| (start + row + 1).saturating_sub(window);
        let first_base = positions.start.max(first_seen(rows.start) / STEP * STEP);
        for base in (first_base..positions.end.min(start + rows.end)).step_by(STEP) {
            // Rows from `first` to `last` see something of this step.
            let first = base.saturating_sub(start).max(rows.start);
            let last = (base + STEP - 1).saturating_add(window).saturating_sub(start).min(rows.end);
            // The whole step is seen by rows from `whole` on that do not begin behind its first position.
            let whole = (base + STEP - 1).saturating_sub(start).clamp(first, last);
            let behind = base.saturating_add(window).saturating_sub(start).clamp(whole, last);
            let query = |row: usize| (row - rows.start) * heads;
            // What rows see of it: the first one sees what lies furthest back.
            let some = base.max(first_seen(first))..(base + STEP).min(start + last);
            let parted = (first..whole).chain(behind..last).map(|row| {
                let seen = base.max(first_seen(row))..(base + STEP).min(start + row + 1);
                (query(row)..query(row + 1), seen.start - some.start..seen.end - some.start)
            });
            let next = match base + STEP {
                next if next < start + rows.end => self.stored(next, call.layout.k_at, call.layout.k_dim),
                _ => None,
            };
            // Scores of positions that a row does not see are not looked at.
            let values = self.score(some.clone(), query(first)..query(last));
            if !self.are_few() {
                ask_for(next, 0..STEP);
            }
            for (queries, seen) in [(query(whole)..query(behind), 0..STEP)].into_iter().chain(parted) {
                self.mix(values, next, queries, seen);
            }
        }
    }

    /// Sets some queries' scores of positions of one step, and returns the values there; its keys are not looked at any more.
    fn score(&mut self, positions: Range<usize>, queries: Range<usize>) -> Plane {
        let (layout, kernels) = (self.tile.call.layout, &self.tile.call.cpu.kernels);
        let k_dim = layout.k_dim;
        let keys = self.plane(&positions, layout.k_at, k_dim);
        let dots = Dots {
            w: keys.at,
            w_stride: keys.stride,
            rows: 0,
            x: self.q[queries.start * k_dim..queries.end * k_dim].as_ptr().cast(),
            x_stride: 4 * k_dim,
            columns: queries.len(),
            k: k_dim,
            out: self.scores[queries.start * STEP..queries.end * STEP].as_mut_ptr(),
            out_stride: STEP,
        };
        let values_ahead = if layout.v_in_k { None } else { self.stored(positions.start, layout.v_at, layout.v_dim) };
        let at_once =
            if self.are_few() { KEYS_OF_FEW } else { (KEY_BYTES_OF_MANY / keys.stride).clamp(KEYS_OF_FEW, STEP) };
        for first in (0..positions.len()).step_by(at_once) {
            let rows = at_once.min(positions.len() - first);
            ask_for(values_ahead, first..first + rows);
            let (w, out) = (keys.at.wrapping_add(first * keys.stride), dots.out.wrapping_add(first));
            // SAFETY: the keys lie in one block, which the layout fits, or in `widened`, which is not written before the next plane
            // is asked for; x and out are slices.
            unsafe { (kernels.dots.of(keys.format))(&Dots { w, rows, out, ..dots }) };
        }
        if layout.v_in_k { keys } else { self.plane(&positions, layout.v_at, layout.v_dim) }
    }

    /// Takes in those values of the last plane that some queries see, of positions whose scores are set. `next` is asked for
    /// meanwhile.
    fn mix(&mut self, values: Plane, next: Option<(*const u8, usize)>, queries: Range<usize>, seen: Range<usize>) {
        if queries.is_empty() {
            return;
        }
        let (v_dim, kernels) = (self.tile.call.layout.v_dim, &self.tile.call.cpu.kernels);
        let scores = &mut self.scores[queries.start * STEP..queries.end * STEP];
        for (i, scores) in queries.clone().zip(scores.chunks_exact_mut(STEP)) {
            let mixed = &mut self.partial.mixed[i * v_dim..(i + 1) * v_dim];
            rescale(
                kernels,
                &mut scores[seen.clone()],
                self.tile.call.attend.scale,
                &mut self.partial.max[i],
                &mut self.partial.sum[i],
                mixed,
            );
        }
        let mix = Mix {
            p: scores.as_ptr(),
            p_stride: STEP,
            columns: queries.len(),
            v: values.at,
            v_stride: values.stride,
            terms: 0,
            dim: v_dim,
            out: self.partial.mixed[queries.start * v_dim..queries.end * v_dim].as_mut_ptr(),
            out_stride: v_dim,
        };
        let (at_once, next) = if self.are_few() { (VALUES_OF_FEW, next) } else { (STEP, None) };
        for first in seen.clone().step_by(at_once) {
            let terms = at_once.min(seen.end - first);
            ask_for(next, first..first + terms);
            let (p, v) = (mix.p.wrapping_add(first), mix.v.wrapping_add(first * mix.v_stride));
            // SAFETY: values that are seen are inside the plane, which is the last one; out is a slice.
            unsafe { (kernels.mix.of(values.format))(&Mix { p, v, terms, ..mix }) };
        }
    }

    /// Whether so few queries pass that widening keys and values before would take longer than it saves.
    fn are_few(&self) -> bool {
        self.tile.queries() <= FEW_QUERIES
    }

    /// Where this head's key or value of a position is stored, `width` elements wide, and the bytes from one to the next; none where
    /// there is no such block.
    fn stored(&self, position: usize, at: usize, width: usize) -> Option<(*const u8, usize)> {
        let layout = self.tile.call.layout;
        let bytes = layout.dtype.row_bytes(width);
        let (block, slot) = (position / layout.block_tokens, position % layout.block_tokens);
        let start = host::address(self.tile.call.blocks.get(block)?);
        Some((start.wrapping_add(at + (self.tile.head * layout.block_tokens + slot) * bytes).cast_const(), bytes))
    }

    /// This head's keys or values of some positions of one step, of `dim` elements each: as they are stored, or widened, until the
    /// next call.
    fn plane(&mut self, positions: &Range<usize>, at: usize, dim: usize) -> Plane {
        let layout = self.tile.call.layout;
        let (at, stride) =
            self.stored(positions.start, at, dim).expect("invariant: positions that are seen have blocks");
        let format = Format::of(layout.dtype);
        if let Some(format) = format
            && (format == Format::F32 || self.are_few())
        {
            return Plane { at, stride, format };
        }
        for (i, widened) in self.widened[..positions.len() * dim].chunks_exact_mut(dim).enumerate() {
            // SAFETY: these positions lie in one block, which the layout fits, and which nobody writes meanwhile.
            unsafe {
                let stored = at.add(i * stride);
                match format {
                    Some(format) => {
                        (self.tile.call.cpu.kernels.widen.of(format))(stored, widened.as_mut_ptr().cast(), dim)
                    }
                    None => q8_unpack(std::slice::from_raw_parts(stored, stride), widened),
                }
            }
        }
        Plane { at: self.widened.as_ptr().cast(), stride: 4 * dim, format: Format::F32 }
    }
}

/// Asks for some rows of what is read next.
fn ask_for(ahead: Option<(*const u8, usize)>, rows: Range<usize>) {
    let Some((start, stride)) = ahead else { return };
    (rows.start * stride..rows.end * stride).step_by(LINE_BYTES).for_each(|at| prefetch(start.wrapping_add(at)));
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
