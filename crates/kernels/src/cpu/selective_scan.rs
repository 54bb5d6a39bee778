//! Mamba's selective scan (arXiv 2312.00752)
//!
//! A channel is on its own. The work is cut into blocks of [`WIDTH`] channels, and the positions pass over a block's state one
//! after the other, row by row.

use super::Cpu;
use super::gated_delta::softplus;
use super::vectorised::{Loop, exp, fma};
use crate::host::{self, Shared};
use crate::operands::decay_rate;
use crate::{SelectiveScan, Tensor, quant};

/// Channels of a block: with 16 rows, 4 KiB of state and as much of rates.
const WIDTH: usize = 64;

pub(super) fn selective_scan(
    cpu: &Cpu,
    [x, dt]: [&Tensor; 2],
    [b, c]: [&Tensor; 2],
    scan: &SelectiveScan,
    state: &Tensor,
    out: &Tensor,
) {
    let ((n, channels), (_, k)) = (host::rows_of(x), host::rows_of(b));
    assert_eq!((dt.dims(), out.dims()), (x.dims(), x.dims()), "selective_scan: x, dt and out are alike");
    assert_eq!((b.dims(), c.dims()), (&[n, k][..], &[n, k][..]), "selective_scan: b and c are alike");
    assert_eq!(state.elements(), k * channels, "selective_scan: state is [k, channels]");
    let (x, dt, b, c) = (host::f32s(x), host::f32s(dt), host::f32s(b), host::f32s(c));
    let (state, out) = (Shared::new(host::f32_address(state)), Shared::new(host::f32_address(out)));
    cpu.reserve_scratch((k + 2) * WIDTH);
    // An exponential for each number of the state costs as much as tens of bytes.
    cpu.split(channels.div_ceil(WIDTH), WIDTH * k * 48 * (n + 1), |blocks, worker| {
        let mut scratch = cpu.scratch_of(worker);
        for block in blocks {
            let first = block * WIDTH;
            let len = WIDTH.min(channels - first);
            let (rates, rest) = scratch.split_at_mut(k * len);
            let (delta, rest) = rest.split_at_mut(len);
            let input = &mut rest[..len];
            for (i, rate) in rates.iter_mut().enumerate() {
                let a_log = quant::value(&scan.a_log, (first + i % len) * k + i / len);
                *rate = -decay_rate(a_log, scan.exponentiated);
            }
            for i in 0..n {
                let at = i * channels + first;
                let x = &x[at..][..len];
                for (channel, (delta, input)) in delta.iter_mut().zip(&mut *input).enumerate() {
                    *delta = softplus(dt[at + channel] + quant::value(&scan.dt_bias, first + channel));
                    *input = *delta * x[channel];
                }
                // SAFETY: these channels of out are this block's alone, and of the state too, which has k rows.
                let out = unsafe { out.slice_mut(at, len) };
                let state = State { at: state.at(first), stride: channels };
                let (b, c) = (&b[i * k..][..k], &c[i * k..][..k]);
                cpu.vectorised(Step { b, c, rates, delta, input, state, out });
                for (channel, (out, x)) in out.iter_mut().zip(x).enumerate() {
                    *out += quant::value(&scan.d, first + channel) * x;
                }
            }
        }
    });
}

/// Rows of a block, `stride` elements apart.
struct State {
    at: *mut f32,
    stride: usize,
}

/// One position of a block.
struct Step<'a> {
    b: &'a [f32],
    c: &'a [f32],
    /// `[k, len]`
    rates: &'a [f32],
    delta: &'a [f32],
    /// `Δ · x`
    input: &'a [f32],
    state: State,
    out: &'a mut [f32],
}

impl Loop for Step<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let len = self.out.len();
        self.out.fill(0.0);
        for (row, ((b, c), rates)) in self.b.iter().zip(self.c).zip(self.rates.chunks_exact(len)).enumerate() {
            // SAFETY: row `row` of the state's k rows, of which these channels are this block's alone.
            let state = unsafe { std::slice::from_raw_parts_mut(self.state.at.add(row * self.state.stride), len) };
            let inputs = rates.iter().zip(self.delta).zip(self.input);
            for ((s, out), ((rate, delta), input)) in state.iter_mut().zip(&mut *self.out).zip(inputs) {
                *s = fma::<FUSED>(*b, *input, exp(rate * delta) * *s);
                *out = fma::<FUSED>(*c, *s, *out);
            }
        }
    }
}
