//! Linear attention with decay (Lightning Attention, arXiv 2401.04658; Mamba-2, arXiv 2405.21060), one position and value head
//! after the other

use super::gated_delta::softplus;
use crate::operands::decay_rate;
use crate::{Decay, LinearAttention, Tensor, host, quant};

pub(super) fn linear_attention(
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
    for i in 0..n {
        for h in 0..v_heads {
            let key_head = h / (v_heads / k_heads);
            let at = (i * k_heads + key_head) * k_dim;
            let (q, k) = (&host::f32s(q)[at..][..k_dim], &host::f32s(k)[at..][..k_dim]);
            let v = &host::f32s(v)[(i * v_heads + h) * v_dim..][..v_dim];
            let (decay, factor, direct) = match &attention.decay {
                Decay::Rates(rates) => ((-rates[h]).exp(), 1.0, 0.0),
                Decay::Selective { a_log, exponentiated, dt_bias, d } => {
                    let dt = host::f32s(dt.expect("linear_attention: a selective decay has dt"))[i * v_heads + h];
                    let delta = softplus(dt + quant::value(dt_bias, h));
                    let rate = decay_rate(quant::value(a_log, h), *exponentiated);
                    ((-rate * delta).exp(), delta, quant::value(d, h))
                }
            };
            let s = &mut host::f32s_mut(state)[h * k_dim * v_dim..][..k_dim * v_dim];
            let out = &mut host::f32s_mut(out)[(i * v_heads + h) * v_dim..][..v_dim];
            for c in 0..v_dim {
                for r in 0..k_dim {
                    s[r * v_dim + c] = decay * s[r * v_dim + c] + k[r] * (factor * v[c]);
                }
                out[c] = direct * v[c] + (0..k_dim).map(|r| s[r * v_dim + c] * q[r]).sum::<f32>();
            }
        }
    }
}
