//! Entries that each stand for several positions: weighted means of their rows (DeepSeek-V4)

use super::Cpu;
use super::vectorised::{Loop, exp};
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
    cpu.reserve_scratch(2 * d + by.every * width);
    // Each element is an exponential, and comes twice.
    cpu.split(entries, 64 * by.every * width, |range, worker| {
        let mut scratch = cpu.scratch_of(worker);
        let (max, rest) = scratch.split_at_mut(d);
        let (sum, rest) = rest.split_at_mut(d);
        let bias = &mut rest[..by.every * width];
        bias.iter_mut().enumerate().for_each(|(i, bias)| *bias = quant::value(&by.bias, i));
        for i in range {
            // SAFETY: row i of out is this range's alone.
            let out = unsafe { out.slice_mut(i * d, d) };
            let entry = first + i;
            let before = (by.overlap && entry > 0).then(|| (0..by.every).map(|j| ((entry - 1) * by.every, j, 0)));
            // Where its entry begins, a position's place in it, and the first of the columns that count.
            let own = (0..by.every).map(|j| (entry * by.every, j, width - d));
            let terms = || before.clone().into_iter().flatten().chain(own.clone());
            max.fill(f32::NEG_INFINITY);
            sum.fill(0.0);
            out.fill(0.0);
            for (base, j, column) in terms() {
                let gates = &stored(base + j).1[column..][..d];
                cpu.vectorised(Highest { gates, bias: &bias[j * width + column..][..d], max });
            }
            for (base, j, column) in terms() {
                let (row, gates) = stored(base + j);
                let (row, gates) = (&row[column..][..d], &gates[column..][..d]);
                cpu.vectorised(Weigh { row, gates, bias: &bias[j * width + column..][..d], max, sum, out });
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

/// The highest gate of each column so far.
struct Highest<'a> {
    gates: &'a [f32],
    bias: &'a [f32],
    max: &'a mut [f32],
}

impl Loop for Highest<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        for ((max, gate), bias) in self.max.iter_mut().zip(self.gates).zip(self.bias) {
            *max = max.max(gate + bias);
        }
    }
}

/// A row, by the exponentials of its gates.
struct Weigh<'a> {
    row: &'a [f32],
    gates: &'a [f32],
    bias: &'a [f32],
    max: &'a [f32],
    sum: &'a mut [f32],
    out: &'a mut [f32],
}

impl Loop for Weigh<'_> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        let gates = self.gates.iter().zip(self.bias).zip(self.max);
        let sums = self.sum.iter_mut().zip(self.out);
        for (((sum, out), row), ((gate, bias), max)) in sums.zip(self.row).zip(gates) {
            let weight = exp(gate + bias - max);
            *sum += weight;
            *out += row * weight;
        }
    }
}
