//! The gated delta rule (Gated DeltaNet, arXiv 2412.06464), one position and value head after the other

use super::sigmoid_gate::sigmoid;
use crate::operands::decay_rate;
use crate::{Format, GatedDelta, Tensor, host, quant};

pub(super) fn gated_delta(qkv: &Tensor, a: &Tensor, b: &Tensor, delta: &GatedDelta, state: &Tensor, out: &Tensor) {
    let &GatedDelta { k_heads, v_heads, k_dim, v_dim, .. } = delta;
    let (n, width) = host::rows_of(qkv);
    assert_eq!(v_heads % k_heads, 0, "gated_delta: every key head serves as many value heads");
    assert_eq!(width, 2 * k_heads * k_dim + v_heads * v_dim, "gated_delta: qkv does not fit the heads");
    assert_eq!((host::rows_of(a), host::rows_of(b)), ((n, delta.decays()), (n, v_heads)), "gated_delta: a and b");
    assert_eq!(state.elements(), v_heads * k_dim * v_dim, "gated_delta: state is [v_heads, k_dim, v_dim]");
    assert_eq!(out.elements(), n * v_heads * v_dim, "gated_delta: out is [n, v_heads, v_dim]");
    for i in 0..n {
        let (queries, rest) = host::f32s(qkv)[i * width..][..width].split_at(k_heads * k_dim);
        let (keys, values) = rest.split_at(k_heads * k_dim);
        for h in 0..v_heads {
            let key_head = delta.key_head(h);
            let q = normalised(&queries[key_head * k_dim..][..k_dim], 1.0 / (k_dim as f32).sqrt());
            let k = normalised(&keys[key_head * k_dim..][..k_dim], 1.0);
            let v = &values[h * v_dim..][..v_dim];
            let beta = sigmoid(host::f32s(b)[i * v_heads + h]);
            let rate = decay_rate(element(&delta.a_log, h), delta.exponentiated);
            let of_head = delta.decays() / v_heads;
            let decay = |r: usize| {
                let at = h * of_head + r % of_head;
                let a = host::f32s(a)[i * delta.decays() + at];
                let a = a + element(&delta.dt_bias, at);
                match delta.bound {
                    None => (-rate * softplus(a)).exp(),
                    Some(bound) => (bound * sigmoid(rate * a)).exp(),
                }
            };
            let s = &mut host::f32s_mut(state)[h * k_dim * v_dim..][..k_dim * v_dim];
            let out = &mut host::f32s_mut(out)[(i * v_heads + h) * v_dim..][..v_dim];
            for (r, row) in s.chunks_exact_mut(v_dim).enumerate() {
                let decay = decay(r);
                row.iter_mut().for_each(|s| *s *= decay);
            }
            for c in 0..v_dim {
                let recalled: f32 = (0..k_dim).map(|r| s[r * v_dim + c] * k[r]).sum();
                let correction = beta * (v[c] - recalled);
                (0..k_dim).for_each(|r| s[r * v_dim + c] += k[r] * correction);
                out[c] = (0..k_dim).map(|r| s[r * v_dim + c] * q[r]).sum();
            }
        }
    }
}

/// `x · rsqrt(Σx² + 1e-6) · scale`
fn normalised(x: &[f32], scale: f32) -> Vec<f32> {
    let rsqrt = 1.0 / (x.iter().map(|x| x * x).sum::<f32>() + 1e-6).sqrt();
    x.iter().map(|x| x * rsqrt * scale).collect()
}

/// `ln(1 + e^x)`, and x itself above 20, where they are the same in f32.
pub(super) fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

fn element(weight: &Tensor, index: usize) -> f32 {
    let format = Format::of(weight.dtype()).expect("gated_delta: weights of F32, F16 or BF16");
    quant::element(format, host::bytes(weight), index)
}
