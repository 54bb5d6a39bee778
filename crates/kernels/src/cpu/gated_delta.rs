//! The gated delta rule (Gated DeltaNet, arXiv 2412.06464)
//!
//! A column of a head's state is on its own: it takes in `v` at that column and gives `out` there. So the work is cut
//! into blocks of some columns, and the positions pass over a block while it stays in the first-level cache: once for each
//! position, for while one changes the state, what the next one recalls of it is summed. What the columns share, normalised
//! queries and keys, decay and β, is prepared for [`CHUNK`] positions at a time.
//! An element's arithmetic is the same in every block and chunk.

use std::ops::Range;

use super::Cpu;
use super::isa::recurrence::{Block, COLUMNS, Passage, Recall};
use super::isa::{LINE_BYTES, prefetch};
use super::pool::lock;
use super::rms_norm::sum_of_squares;
use crate::host::{self, Shared};
use crate::operands::decay_rate;
use crate::{Format, GatedDelta, Tensor, quant};

/// Positions prepared at once: bounds the scratch.
const CHUNK: usize = 64;

/// Up to so many positions pass over the state where it lies. For more it is copied: rows of a block lie `v_dim`
/// elements apart, and few such rows fit a cache of eight ways.
const IN_PLACE_MAX: usize = 2;

/// How many positions before it is needed a value is asked for.
const VALUES_AHEAD: usize = 4;

/// f32 of a cache line.
const LINE: usize = 16;

pub(super) fn gated_delta(
    cpu: &Cpu,
    qkv: &Tensor,
    a: &Tensor,
    b: &Tensor,
    delta: &GatedDelta,
    state: &Tensor,
    out: &Tensor,
) {
    let &GatedDelta { k_heads, v_heads, k_dim, v_dim, .. } = delta;
    let (n, width) = host::rows_of(qkv);
    assert_eq!(v_heads % k_heads, 0, "gated_delta: every key head serves as many value heads");
    assert_eq!(width, 2 * k_heads * k_dim + v_heads * v_dim, "gated_delta: qkv does not fit the heads");
    assert_eq!((host::rows_of(a), host::rows_of(b)), ((n, delta.decays()), (n, v_heads)), "gated_delta: a and b");
    assert!(!delta.per_channel || v_heads == k_heads, "gated_delta: decays of channels are of as many heads");
    assert_eq!(delta.a_log.elements(), v_heads, "gated_delta: one a_log a head");
    assert_eq!(delta.dt_bias.elements(), delta.decays(), "gated_delta: one dt_bias a decay");
    assert_eq!(state.elements(), v_heads * k_dim * v_dim, "gated_delta: state is [v_heads, k_dim, v_dim]");
    assert_eq!(out.elements(), n * v_heads * v_dim, "gated_delta: out is [n, v_heads, v_dim]");
    let call = Call {
        cpu,
        delta,
        group: v_heads / k_heads,
        qkv: host::f32s(qkv),
        a: host::f32s(a),
        b: host::f32s(b),
        state: Shared::new(host::f32_address(state)),
        out: Shared::new(host::f32_address(out)),
    };
    let mut prepared = lock(&cpu.prepared);
    let len = n.min(CHUNK) * k_heads * call.prepared_len();
    if prepared.len() < len {
        prepared.resize(len, 0.0);
    }
    cpu.reserve_scratch(k_dim * COLUMNS + LINE);
    for first in (0..n).step_by(CHUNK) {
        let positions = first..n.min(first + CHUNK);
        call.prepare(positions.clone(), &mut prepared);
        call.advance(positions, &prepared);
    }
}

struct Call<'a> {
    cpu: &'a Cpu,
    delta: &'a GatedDelta,
    /// Value heads of a key head.
    group: usize,
    qkv: &'a [f32],
    a: &'a [f32],
    b: &'a [f32],
    state: Shared<f32>,
    out: Shared<f32>,
}

impl Call<'_> {
    /// Values that are prepared of a position and a key head: see [`Prepared`].
    fn prepared_len(&self) -> usize {
        let keys = if self.delta.per_channel { 3 } else { 2 };
        keys * self.delta.k_dim + self.decays() + self.group
    }

    /// Decays of a key head: one for each of its value heads, or one for each channel of its value head.
    fn decays(&self) -> usize {
        if self.delta.per_channel { self.delta.k_dim } else { self.group }
    }

    fn prepare(&self, positions: Range<usize>, prepared: &mut [f32]) {
        let (k_heads, len) = (self.delta.k_heads, self.prepared_len());
        let prepared = Shared::new(prepared.as_mut_ptr());
        // Four transcendental functions a value head cost as much as some hundred bytes.
        self.cpu.split(positions.len() * k_heads, 4 * len + 256 * self.group, |range, _| {
            for i in range {
                // SAFETY: part i, which is this range's alone, of as many as were made room for.
                let prepared = unsafe { prepared.slice_mut(i * len, len) };
                self.prepare_head(positions.start + i / k_heads, i % k_heads, prepared);
            }
        });
    }

    fn prepare_head(&self, position: usize, head: usize, prepared: &mut [f32]) {
        let &GatedDelta { k_heads, v_heads, k_dim, .. } = self.delta;
        let row = &self.qkv[position * self.row_len()..];
        let (q, rest) = prepared.split_at_mut(k_dim);
        let (k, rest) = rest.split_at_mut(k_dim);
        normalise(&row[head * k_dim..][..k_dim], 1.0 / (k_dim as f32).sqrt(), q);
        normalise(&row[(k_heads + head) * k_dim..][..k_dim], 1.0, k);
        let (decays, rest) = rest.split_at_mut(self.decays());
        let (betas, recalled) = rest.split_at_mut(self.group);
        let of_value_head = decays.len() / self.group;
        for (i, decay) in decays.iter_mut().enumerate() {
            let value_head = self.delta.value_head(head, i / of_value_head);
            let at = value_head * of_value_head + i % of_value_head;
            let rate = decay_rate(element(&self.delta.a_log, value_head), self.delta.exponentiated);
            let a = self.a[position * self.delta.decays() + at] + element(&self.delta.dt_bias, at);
            *decay = match self.delta.bound {
                None => (-rate * softplus(a)).exp(),
                Some(bound) => (bound / (1.0 + (-rate * a).exp())).exp(),
            };
        }
        for (i, beta) in betas.iter_mut().enumerate() {
            let b = self.b[position * v_heads + self.delta.value_head(head, i)];
            *beta = 1.0 / (1.0 + (-b).exp());
        }
        for ((recalled, k), decay) in recalled.iter_mut().zip(&*k).zip(&*decays) {
            *recalled = k * decay;
        }
    }

    /// What was prepared of a position, the first of some being `first`, for a value head.
    fn prepared<'a>(&self, prepared: &'a [f32], position: usize, value_head: usize) -> Prepared<'a> {
        let &GatedDelta { k_heads, k_dim, per_channel, tiled, .. } = self.delta;
        let of_group = if tiled { value_head / k_heads } else { value_head % self.group };
        let part = position * k_heads + self.delta.key_head(value_head);
        let (q, rest) = prepared[part * self.prepared_len()..][..self.prepared_len()].split_at(k_dim);
        let (k, rest) = rest.split_at(k_dim);
        let (decays, rest) = rest.split_at(self.decays());
        let (betas, recalled) = rest.split_at(self.group);
        let beta = betas[of_group];
        if per_channel {
            Prepared { q, k, decays, beta, recalled, of_recalled: 1.0 }
        } else {
            let decay = decays[of_group];
            Prepared { q, k, decays: &decays[of_group..=of_group], beta, recalled: k, of_recalled: decay }
        }
    }

    /// Elements of a row of qkv.
    fn row_len(&self) -> usize {
        2 * self.delta.k_heads * self.delta.k_dim + self.delta.v_heads * self.delta.v_dim
    }

    /// Passes the positions over all blocks of the state.
    fn advance(&self, positions: Range<usize>, prepared: &[f32]) {
        let &GatedDelta { v_heads, k_dim, v_dim, .. } = self.delta;
        let blocks = v_dim.div_ceil(COLUMNS);
        let bytes = 8 * k_dim * COLUMNS * positions.len();
        self.cpu.split(v_heads * blocks, bytes, |range, worker| {
            let mut scratch = self.cpu.scratch_of(worker);
            let unaligned = scratch.as_ptr().align_offset(4 * LINE);
            let copy = scratch[unaligned..][..k_dim * COLUMNS].as_mut_ptr();
            for i in range.clone() {
                let (head, first) = (i / blocks, i % blocks * COLUMNS);
                let width = COLUMNS.min(v_dim - first);
                let of = Columns { call: self, positions: positions.clone(), prepared, head, first, width };
                let state = self.state.at(head * k_dim * v_dim + first);
                // What another thread passes over is better not asked for.
                let next = if i + 1 < range.end { i + 1 } else { i };
                let ahead = self.state.at(next / blocks * k_dim * v_dim + next % blocks * COLUMNS);
                if width == COLUMNS && positions.len() <= IN_PLACE_MAX {
                    // SAFETY: a whole block, inside the state.
                    unsafe { of.pass(Block { at: state, stride: v_dim, rows: k_dim }, ahead) };
                    continue;
                }
                // SAFETY: the columns of this block, and room for as many rows of whole blocks.
                unsafe {
                    for row in 0..k_dim {
                        copy.add(row * COLUMNS).copy_from_nonoverlapping(state.add(row * v_dim), width);
                    }
                    of.pass(Block { at: copy, stride: COLUMNS, rows: k_dim }, copy);
                    for row in 0..k_dim {
                        state.add(row * v_dim).copy_from_nonoverlapping(copy.add(row * COLUMNS), width);
                    }
                }
            }
        });
    }
}

/// What is prepared of a position, for a value head.
struct Prepared<'a> {
    /// `[k_dim]`, normalised, and so is `k`.
    q: &'a [f32],
    k: &'a [f32],
    /// `[k_dim]`, or one.
    decays: &'a [f32],
    beta: f32,
    /// `[k_dim]`: what the state's rows are multiplied with to recall, before they decay,
    recalled: &'a [f32],
    /// and then their sum.
    of_recalled: f32,
}

/// `x · rsqrt(Σx² + 1e-6) · scale`
fn normalise(x: &[f32], scale: f32, out: &mut [f32]) {
    let rsqrt = 1.0 / (sum_of_squares(x) + 1e-6).sqrt();
    for (out, x) in out.iter_mut().zip(x) {
        *out = x * rsqrt * scale;
    }
}

/// `ln(1 + e^x)`, and x itself above 20, where they are the same in f32.
pub(super) fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

fn element(weight: &Tensor, index: usize) -> f32 {
    let format = Format::of(weight.dtype()).expect("gated_delta: weights of F32, F16 or BF16");
    quant::element(format, host::bytes(weight), index)
}

/// Columns `first..first + width` of a head's state, which no one else uses, and the positions that pass over them.
struct Columns<'a> {
    call: &'a Call<'a>,
    positions: Range<usize>,
    prepared: &'a [f32],
    head: usize,
    first: usize,
    width: usize,
}

impl Columns<'_> {
    /// Passes the positions over the block that the columns lie in; columns behind `width` are computed with, and worth nothing.
    ///
    /// # Safety
    /// The block has `k_dim` rows, which no one else uses.
    unsafe fn pass(&self, block: Block, ahead: *const f32) {
        let (call, GatedDelta { k_heads, v_heads, k_dim, v_dim, .. }) = (self.call, self.call.delta);
        let recurrence = call.cpu.kernels.recurrence;
        let prepared = |i: usize| call.prepared(self.prepared, i, self.head);
        let [mut recalled, mut out] = [[0f32; COLUMNS]; 2];
        let weights = prepared(0).recalled;
        // SAFETY: a backend has only kernels that run here; the rest is the caller's promise.
        unsafe { (recurrence.recall)(Recall { block, weights, out: &mut recalled, ahead }) };
        for (i, position) in self.positions.clone().enumerate() {
            let Prepared { q, k, decays, beta, of_recalled, .. } = prepared(i);
            let values = &call.qkv[position * call.row_len() + 2 * k_heads * k_dim + self.head * v_dim + self.first..];
            // Rows lie as far apart as few sets of a cache hold.
            let ahead = values.as_ptr().wrapping_add(VALUES_AHEAD * call.row_len()).cast::<u8>();
            (0..4 * COLUMNS).step_by(LINE_BYTES).for_each(|byte| prefetch(ahead.wrapping_add(byte)));
            let mut v = [0f32; COLUMNS];
            v[..self.width].copy_from_slice(&values[..self.width]);
            v.iter_mut().zip(&recalled).for_each(|(v, recalled)| *v = beta * (*v - of_recalled * recalled));
            let next = (i + 1 < self.positions.len()).then(|| (prepared(i + 1).recalled, &mut recalled));
            // SAFETY: as above.
            unsafe { (recurrence.pass)(Passage { block, decays, k, q, v: &v, out: &mut out, next }) };
            // SAFETY: these columns of this position and head are this block's alone.
            let of_out =
                unsafe { call.out.slice_mut((position * v_heads + self.head) * v_dim + self.first, self.width) };
            of_out.copy_from_slice(&out[..self.width]);
        }
    }
}
