//! Mamba's selective scan (arXiv 2312.00752), one position and channel after the other

use super::gated_delta::softplus;
use crate::operands::decay_rate;
use crate::{SelectiveScan, Tensor, host, quant};

pub(super) fn selective_scan(
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
    for i in 0..n {
        for channel in 0..channels {
            let x = x[i * channels + channel];
            let delta = softplus(dt[i * channels + channel] + quant::value(&scan.dt_bias, channel));
            let mut sum = 0.0;
            for j in 0..k {
                let rate = decay_rate(quant::value(&scan.a_log, channel * k + j), scan.exponentiated);
                let s = &mut host::f32s_mut(state)[j * channels + channel];
                *s = (-rate * delta).exp() * *s + b[i * k + j] * (delta * x);
                sum += c[i * k + j] * *s;
            }
            host::f32s_mut(out)[i * channels + channel] = sum + quant::value(&scan.d, channel) * x;
        }
    }
}
