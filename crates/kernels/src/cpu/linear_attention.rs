//! Linear attention with decay (Lightning Attention, arXiv 2401.04658; Mamba-2, arXiv 2405.21060)
//!
//! A head is one task: its positions pass over its state one after the other, row by row.

use super::Cpu;
use super::gated_delta::softplus;
use super::vectorised::{Loop, fma};
use crate::host::{self, Shared};
use crate::operands::decay_rate;
use crate::{Decay, LinearAttention, Tensor, quant};

#[allow(clippy::too_many_arguments)]
pub(super) fn linear_attention(
    cpu: &Cpu,
    [q, k, v]: [&Tensor; 3],
    dt: Option<&Tensor>,
    attention: &LinearAttention,
    state: &Tensor,
    out: &Tensor,
) {
    let &LinearAttention { k_heads, v_heads, k_dim, v_dim, .. } = attention;
    let n = q.dim(0);
    assert_eq!(v_heads % k_heads, 0, "linear_attention: every key head serves as many value heads");
    assert_eq!((q.elements(), k.elements()), (n * k_heads * k_dim, n * k_heads * k_dim), "linear_attention: q and k");
    assert_eq!((v.elements(), out.elements()), (n * v_heads * v_dim, n * v_heads * v_dim), "linear_attention: v, out");
    assert_eq!(state.elements(), v_heads * k_dim * v_dim, "linear_attention: state is [v_heads, k_dim, v_dim]");
    let (q, k, v, dt) = (host::f32s(q), host::f32s(k), host::f32s(v), dt.map(host::f32s));
    let (state, out) = (Shared::new(host::f32_address(state)), Shared::new(host::f32_address(out)));
    cpu.reserve_scratch(v_dim);
    cpu.split(v_heads, 8 * k_dim * v_dim * n, |heads, worker| {
        let mut scratch = cpu.scratch_of(worker);
        for head in heads {
            let key_head = head / (v_heads / k_heads);
            for i in 0..n {
                let (keys, values) = ((i * k_heads + key_head) * k_dim, (i * v_heads + head) * v_dim);
                let dt = dt.map_or(0.0, |dt| dt[i * v_heads + head]);
                let (decay, factor, direct) = coefficients(&attention.decay, head, dt);
                let v = &v[values..][..v_dim];
                let scaled = &mut scratch[..v_dim];
                scaled.iter_mut().zip(v).for_each(|(scaled, v)| *scaled = factor * v);
                // SAFETY: the state and the outputs of this head are this task's alone.
                let (state, out) =
                    unsafe { (state.slice_mut(head * k_dim * v_dim, k_dim * v_dim), out.slice_mut(values, v_dim)) };
                let (q, k) = (&q[keys..][..k_dim], &k[keys..][..k_dim]);
                cpu.vectorised(Step { q, k, v: scaled, decay, state, out });
                out.iter_mut().zip(v).for_each(|(out, v)| *out += direct * v);
            }
        }
    });
}

/// Decay, what a value is multiplied with before it is kept, and what of it goes to the output at once.
fn coefficients(decay: &Decay, head: usize, dt: f32) -> (f32, f32, f32) {
    match decay {
        Decay::Rates(rates) => ((-rates[head]).exp(), 1.0, 0.0),
        Decay::Selective { a_log, exponentiated, dt_bias, d } => {
            let delta = softplus(dt + quant::value(dt_bias, head));
            let rate = decay_rate(quant::value(a_log, head), *exponentiated);
            ((-rate * delta).exp(), delta, quant::value(d, head))
        }
    }
}

/// One position of one head.
struct Step<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    decay: f32,
    /// `[k_dim, v_dim]`
    state: &'a mut [f32],
    out: &'a mut [f32],
}

impl Loop for Step<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        self.out.fill(0.0);
        for ((row, k), q) in self.state.chunks_exact_mut(self.v.len()).zip(self.k).zip(self.q) {
            for ((s, v), out) in row.iter_mut().zip(self.v).zip(&mut *self.out) {
                *s = fma::<FUSED>(*k, *v, self.decay * *s);
                *out = fma::<FUSED>(*s, *q, *out);
            }
        }
    }
}
