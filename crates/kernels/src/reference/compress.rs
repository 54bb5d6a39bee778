//! Entries that each stand for several positions: weighted means of their rows (DeepSeek-V4)

use crate::{Compress, Tensor, host, quant};

pub(super) fn compress(rows: &Tensor, gates: &Tensor, by: &Compress, tail: &Tensor, start: usize, out: &Tensor) {
    let (n, width) = host::rows_of(rows);
    let (entries, d) = host::rows_of(out);
    assert_eq!(width, if by.overlap { 2 * d } else { d }, "compress: rows fit out");
    assert_eq!(gates.dims(), rows.dims(), "compress: a gate for each element of a row");
    assert_eq!(by.bias.dims(), [by.every, width], "compress: a bias for each position of an entry");
    assert_eq!(tail.dims(), [by.tail(), 2 * width], "compress: the tail holds what an entry is made of");
    let first = start / by.every;
    assert_eq!(entries, (start + n) / by.every - first, "compress: as many entries as end here");
    let (rows, gates) = (host::f32s(rows), host::f32s(gates));
    // Row and gate of a position, whether it lies in the tail or is new.
    let stored = |position: usize, column: usize| match position.checked_sub(start) {
        Some(i) => (rows[i * width + column], gates[i * width + column]),
        None => {
            let kept = &host::f32s(tail)[position % by.tail() * 2 * width..][..2 * width];
            (kept[column], kept[width + column])
        }
    };
    for i in 0..entries {
        let entry = first + i;
        for c in 0..d {
            let of = |entry: usize, column: usize| {
                (0..by.every).map(move |j| {
                    let (value, gate) = stored(entry * by.every + j, column);
                    (value, gate + quant::value(&by.bias, j * width + column))
                })
            };
            let before = (by.overlap && entry > 0).then(|| of(entry - 1, c));
            let terms: Vec<(f32, f32)> = before.into_iter().flatten().chain(of(entry, width - d + c)).collect();
            let max = terms.iter().map(|term| term.1).fold(f32::NEG_INFINITY, f32::max);
            let exp: Vec<f32> = terms.iter().map(|term| (term.1 - max).exp()).collect();
            let sum: f32 = exp.iter().sum();
            host::f32s_mut(out)[i * d + c] = terms.iter().zip(&exp).map(|(term, exp)| term.0 * exp).sum::<f32>() / sum;
        }
    }
    for i in n.saturating_sub(by.tail())..n {
        let kept = &mut host::f32s_mut(tail)[(start + i) % by.tail() * 2 * width..][..2 * width];
        kept[..width].copy_from_slice(&rows[i * width..][..width]);
        kept[width..].copy_from_slice(&gates[i * width..][..width]);
    }
}
