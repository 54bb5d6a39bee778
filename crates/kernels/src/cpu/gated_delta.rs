//! The gated delta rule (Gated DeltaNet, arXiv 2412.06464)
//!
//! A column of a head's state is on its own: it takes in `v` at that column and gives `out` there. So the work is cut
//! into blocks of [`WIDTH`] columns, and the positions pass over a block while it stays in the first-level cache. What
//! the columns share, normalised queries and keys, decay and β, is prepared for [`CHUNK`] positions at a time.
//! An element's arithmetic is the same in every block and chunk.

// Columns are indexed in several arrays at once.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::Cpu;
use super::pool::lock;
use super::rms_norm::sum_of_squares;
use super::vectorised::{Loop, fma};
use crate::host::{self, Shared};
use crate::operands::decay_rate;
use crate::{Format, GatedDelta, Tensor, quant};

/// Columns of a block: 16 KiB of state if keys are 128 wide.
const WIDTH: usize = 32;

/// Positions prepared at once: bounds the scratch.
const CHUNK: usize = 64;

/// Up to so many positions pass over the state where it lies. For more it is copied: rows of a block lie `v_dim`
/// elements apart, and few such rows fit a cache of eight ways.
const IN_PLACE_MAX: usize = 2;

/// f32 of a cache line.
const LINE: usize = 16;

type Columns = [f32; WIDTH];

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
    cpu.reserve_scratch(k_dim * WIDTH + LINE);
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
    /// What is prepared of a position and a key head: q and k, then the decays and β of each of its value heads.
    fn prepared_len(&self) -> usize {
        2 * self.delta.k_dim + self.decays() + self.group
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
        let (decays, betas) = rest.split_at_mut(self.decays());
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
    }

    /// Elements of a row of qkv.
    fn row_len(&self) -> usize {
        2 * self.delta.k_heads * self.delta.k_dim + self.delta.v_heads * self.delta.v_dim
    }

    /// Passes the positions over all blocks of the state.
    fn advance(&self, positions: Range<usize>, prepared: &[f32]) {
        let blocks = self.delta.v_dim.div_ceil(WIDTH);
        let bytes = 8 * self.delta.k_dim * WIDTH * positions.len();
        self.cpu.split(self.delta.v_heads * blocks, bytes, |range, worker| {
            let mut scratch = self.cpu.scratch_of(worker);
            let unaligned = scratch.as_ptr().align_offset(4 * LINE);
            for i in range {
                let (head, first) = (i / blocks, i % blocks * WIDTH);
                let width = WIDTH.min(self.delta.v_dim - first);
                let copy = &mut scratch[unaligned..][..self.delta.k_dim * WIDTH];
                self.cpu.vectorised(Block {
                    call: self,
                    positions: positions.clone(),
                    prepared,
                    head,
                    first,
                    width,
                    copy,
                });
            }
        });
    }
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
struct Block<'a> {
    call: &'a Call<'a>,
    positions: Range<usize>,
    prepared: &'a [f32],
    head: usize,
    first: usize,
    width: usize,
    /// `[k_dim, WIDTH]`: room for a copy. What lies beyond `width` is computed with, and left there.
    copy: &'a mut [f32],
}

impl Loop for Block<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let &GatedDelta { k_dim, v_dim, .. } = self.call.delta;
        let state = self.call.state.at(self.head * k_dim * v_dim + self.first);
        if self.width == WIDTH && self.positions.len() <= IN_PLACE_MAX {
            let state = State { at: state, stride: v_dim };
            // SAFETY: a whole block, inside the state.
            unsafe { self.pass::<FUSED>(&state) };
            return;
        }
        let copy = self.copy.as_mut_ptr();
        // SAFETY: the columns of this block, and room for as many rows of whole blocks.
        unsafe {
            for r in 0..k_dim {
                copy.add(r * WIDTH).copy_from_nonoverlapping(state.add(r * v_dim), self.width);
            }
            self.pass::<FUSED>(&State { at: copy, stride: WIDTH });
            for r in 0..k_dim {
                state.add(r * v_dim).copy_from_nonoverlapping(copy.add(r * WIDTH), self.width);
            }
        }
    }
}

impl Block<'_> {
    /// # Safety
    /// `state` has `k_dim` rows, which no one else uses.
    #[inline(always)]
    unsafe fn pass<const FUSED: bool>(&self, state: &State) {
        let (call, GatedDelta { k_heads, v_heads, k_dim, v_dim, .. }) = (self.call, self.call.delta);
        let key_head = call.delta.key_head(self.head);
        let of_group = if call.delta.tiled { self.head / k_heads } else { self.head % call.group };
        for position in self.positions.clone() {
            let part = (position - self.positions.start) * k_heads + key_head;
            let prepared = &self.prepared[part * call.prepared_len()..][..call.prepared_len()];
            let (q, rest) = prepared.split_at(*k_dim);
            let (k, rest) = rest.split_at(*k_dim);
            let (decays, betas) = rest.split_at(call.decays());
            let beta = betas[of_group];
            let values = &call.qkv[position * call.row_len() + 2 * k_heads * k_dim + self.head * v_dim + self.first..];
            let mut columns = [0f32; WIDTH];
            columns[..self.width].copy_from_slice(&values[..self.width]);
            // SAFETY: the caller's promise; q and k have `k_dim` elements.
            let mixed = unsafe {
                match call.delta.per_channel {
                    false => {
                        let decay = decays[of_group];
                        state.step::<FUSED>(q, k, &columns, |r| k[r], decay, |_| decay, beta)
                    }
                    true => state.step::<FUSED>(q, k, &columns, |r| k[r] * decays[r], 1.0, |r| decays[r], beta),
                }
            };
            // SAFETY: these columns of this position and head are this block's alone.
            let out = unsafe { call.out.slice_mut((position * v_heads + self.head) * v_dim + self.first, self.width) };
            out.copy_from_slice(&mixed[..self.width]);
        }
    }
}

/// Rows of [`WIDTH`] columns, `stride` elements apart.
struct State {
    at: *mut f32,
    stride: usize,
}

impl State {
    /// Takes in one position and returns its output. What is recalled is `recalled · Σ recall(r) · s`, by the state before it
    /// decays. Even and odd rows are summed apart, so that more sums are under way at once than one addition takes steps.
    ///
    /// # Safety
    /// There are as many rows as q and k have elements, and no one else uses them.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    unsafe fn step<const FUSED: bool>(
        &self,
        q: &[f32],
        k: &[f32],
        v: &Columns,
        recall: impl Fn(usize) -> f32,
        recalled: f32,
        decay: impl Fn(usize) -> f32,
        beta: f32,
    ) -> Columns {
        let rows = k.len();
        let (mut even, mut odd) = ([0f32; WIDTH], [0f32; WIDTH]);
        // SAFETY: rows below `rows`, the caller's promise, here and below.
        unsafe {
            for r in (0..rows - rows % 2).step_by(2) {
                self.recall::<FUSED>(r, recall(r), &mut even);
                self.recall::<FUSED>(r + 1, recall(r + 1), &mut odd);
            }
            if rows % 2 == 1 {
                self.recall::<FUSED>(rows - 1, recall(rows - 1), &mut even);
            }
        }
        // A loop of its own: within the next one, rustc 1.95 cuts the odd sums above into vectors of unequal widths.
        for c in 0..WIDTH {
            even[c] += odd[c];
        }
        let mut correction = *v;
        for c in 0..WIDTH {
            correction[c] = beta * (correction[c] - recalled * even[c]);
        }
        let (mut even, mut odd) = ([0f32; WIDTH], [0f32; WIDTH]);
        // SAFETY: as above.
        unsafe {
            for r in (0..rows - rows % 2).step_by(2) {
                self.update::<FUSED>(r, decay(r), k[r], &correction, q[r], &mut even);
                self.update::<FUSED>(r + 1, decay(r + 1), k[r + 1], &correction, q[r + 1], &mut odd);
            }
            if rows % 2 == 1 {
                self.update::<FUSED>(rows - 1, decay(rows - 1), k[rows - 1], &correction, q[rows - 1], &mut even);
            }
        }
        for c in 0..WIDTH {
            even[c] += odd[c];
        }
        even
    }

    /// `sum += k · s` of row r.
    ///
    /// # Safety
    /// There is such a row.
    #[inline(always)]
    unsafe fn recall<const FUSED: bool>(&self, r: usize, k: f32, sum: &mut Columns) {
        // SAFETY: row r, the caller's promise.
        let s = unsafe { &*self.at.add(r * self.stride).cast::<Columns>() };
        for c in 0..WIDTH {
            sum[c] = fma::<FUSED>(s[c], k, sum[c]);
        }
    }

    /// `s ← decay · s + k · correction`, and `sum += q · s`, of row r.
    ///
    /// # Safety
    /// There is such a row, and no one else uses it.
    #[inline(always)]
    unsafe fn update<const FUSED: bool>(
        &self,
        r: usize,
        decay: f32,
        k: f32,
        correction: &Columns,
        q: f32,
        sum: &mut Columns,
    ) {
        // SAFETY: row r, the caller's promise.
        let s = unsafe { &mut *self.at.add(r * self.stride).cast::<Columns>() };
        for c in 0..WIDTH {
            s[c] = fma::<FUSED>(k, correction[c], decay * s[c]);
            sum[c] = fma::<FUSED>(s[c], q, sum[c]);
        }
    }
}
