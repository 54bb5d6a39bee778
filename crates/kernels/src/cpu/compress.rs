//! Entries that each stand for several positions: weighted means of their rows (DeepSeek-V4)

use super::Cpu;
use crate::host::{self, Shared};
use crate::{Compress, Tensor, quant};

pub(super) fn compress(
    cpu: &Cpu,
    rows: &Tensor,
    gates: &Tensor,
    by: &Compress,
    tail: &Tensor,
    start: usize,
    out: &Tensor,
) {
    let (n, width) = host::rows_of(rows);
    let (entries, d) = host::rows_of(out);
    assert_eq!(width, if by.overlap { 2 * d } else { d }, "compress: rows fit out");
    assert_eq!(gates.dims(), rows.dims(), "compress: a gate for each element of a row");
    assert_eq!(by.bias.dims(), [by.every, width], "compress: a bias for each position of an entry");
    assert_eq!(tail.dims(), [by.tail(), 2 * width], "compress: the tail holds what an entry is made of");
    let first = start / by.every;
    assert_eq!(entries, (start + n) / by.every - first, "compress: as many entries as end here");
    let (rows, gates) = (host::f32s(rows), host::f32s(gates));
    let kept = host::f32s(tail);
    // Row and gates of a position, whether it lies in the tail or is new.
    let stored = |position: usize| match position.checked_sub(start) {
        Some(i) => (&rows[i * width..][..width], &gates[i * width..][..width]),
        None => kept[position % by.tail() * 2 * width..][..2 * width].split_at(width),
    };
    let out = Shared::new(host::f32_address(out));
    cpu.reserve_scratch(2 * d);
    // Each element is an exponential, and comes twice.
    cpu.split(entries, 64 * by.every * width, |range, worker| {
        let mut scratch = cpu.scratch_of(worker);
        let (max, sum) = scratch[..2 * d].split_at_mut(d);
        for i in range {
            // SAFETY: row i of out is this range's alone.
            let out = unsafe { out.slice_mut(i * d, d) };
            let entry = first + i;
            let before = (by.overlap && entry > 0).then(|| (0..by.every).map(|j| ((entry - 1) * by.every, j, 0)));
            // Where its entry begins, a position's place in it, and the first of the columns that count.
            let own = (0..by.every).map(|j| (entry * by.every, j, width - d));
            let terms = || before.clone().into_iter().flatten().chain(own.clone());
            let gate = |gates: &[f32], j: usize, c: usize| gates[c] + quant::value(&by.bias, j * width + c);
            max.fill(f32::NEG_INFINITY);
            sum.fill(0.0);
            out.fill(0.0);
            for (base, j, column) in terms() {
                let (_, gates) = stored(base + j);
                max.iter_mut().enumerate().for_each(|(c, max)| *max = max.max(gate(gates, j, column + c)));
            }
            for (base, j, column) in terms() {
                let (row, gates) = stored(base + j);
                for c in 0..d {
                    let weight = (gate(gates, j, column + c) - max[c]).exp();
                    sum[c] += weight;
                    out[c] += row[column + c] * weight;
                }
            }
            out.iter_mut().zip(&*sum).for_each(|(out, sum)| *out /= sum);
        }
    });
    let kept = host::f32s_mut(tail);
    for i in n.saturating_sub(by.tail())..n {
        let kept = &mut kept[(start + i) % by.tail() * 2 * width..][..2 * width];
        kept[..width].copy_from_slice(&rows[i * width..][..width]);
        kept[width..].copy_from_slice(&gates[i * width..][..width]);
    }
}
