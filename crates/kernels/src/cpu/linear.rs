//! `out = x · wᵀ`

use std::ops::Range;

use super::Cpu;
use super::add_bias::add_bias_at;
use super::isa::{AffineDots, Dots, Mix, Packed, UnpackedDots, group};
use super::pool::lock;
use super::widen::widen;
use crate::host::{self, Shared};
use crate::quant::Columns;
use crate::quant::coded::Rows;
use crate::{Bias, Code, Coded, Format, Matrix, Tensor};

/// Activation rows that are multiplied at once. Bounds the scratch of rounded activations, and is enough for the
/// arithmetic to outweigh reading the weights once for every so many rows.
pub(super) const ROWS_MAX: usize = 512;

/// Bytes of weights in one task: for few activation rows, a microsecond or two of reading at least; for many, in [`rows_of_task`],
/// what stays in a second-level cache while the activations pass.
const FEW_ROWS_BYTES: usize = 32 << 10;
const MANY_ROWS_BYTES: usize = 256 << 10;

/// Activation rows that are few.
const FEW_INPUTS: usize = 8;

/// How activations enter products with weights of some format.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Entry {
    /// As they are.
    F32,
    /// Rounded to bf16.
    Bf16,
    /// Rounded to int8, for quantised weights whose groups have such parts: see [`group::round`].
    Int8 { bits: usize, part: usize },
    /// In f32 with their groups' sums, for affine-quantised weights: see [`group::sum`].
    Summed { bits: usize, group: usize },
}

impl Entry {
    /// Bytes of a row of `cols` activations.
    pub(super) fn row_bytes(self, cols: usize) -> usize {
        match self {
            Entry::F32 => 4 * cols,
            Entry::Bf16 => 2 * cols,
            Entry::Int8 { part, .. } => group::rounded_bytes(cols, part),
            Entry::Summed { group, .. } => group::precise_bytes(cols, group),
        }
    }
}

/// Activations as they enter products: the input of a product, and what lies between the halves of MLPs; and where the rows of
/// each of these end.
#[derive(Default)]
pub(super) struct Entered {
    pub input: Vec<u8>,
    pub hidden: Vec<u8>,
    pub ends: Vec<usize>,
}

/// Makes sure that `scratch` holds `len` bytes.
pub(super) fn reserve(scratch: &mut Vec<u8>, len: usize) -> Shared<u8> {
    if scratch.len() < len {
        scratch.resize(len, 0);
    }
    Shared::new(scratch.as_mut_ptr())
}

/// `0..n` in ranges of at most [`ROWS_MAX`].
pub(super) fn row_blocks(n: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(ROWS_MAX).map(move |first| first..n.min(first + ROWS_MAX))
}

/// Activations of a product, as they enter it, one row behind the other.
#[derive(Clone, Copy)]
pub(super) struct Input {
    pub at: Shared<u8>,
    pub row_bytes: usize,
    pub rows: usize,
}

/// Where outputs go: those of the first row of activations, one for each row of weights, and how far the next ones are.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub at: Shared<f32>,
    pub stride: usize,
}

pub(super) fn linears(cpu: &Cpu, x: &Tensor, products: &[(&Matrix, &Tensor)]) {
    let Some(&(first, _)) = products.first() else { return };
    let entry = cpu.entry(first);
    if products.iter().any(|(w, _)| cpu.entry(w) != entry) {
        return products.iter().for_each(|&product| linears(cpu, x, &[product]));
    }
    let (n, cols) = host::rows_of(x);
    for (w, out) in products {
        assert_eq!(cols, w.cols(), "linear: x does not fit w");
        assert_eq!(host::rows_of(out), (n, w.rows()), "linear: out does not fit w");
    }
    let x = Shared::new(host::f32_address(x));
    let mut entered = lock(&cpu.entered);
    for rows in row_blocks(n) {
        let from = |row: usize| x.at((rows.start + row) * cols).cast_const();
        let at = match entry {
            Entry::F32 => Shared::new(x.at(rows.start * cols).cast()),
            _ => reserve(&mut entered.input, entry.row_bytes(cols) * rows.len()),
        };
        let input = Input { at, row_bytes: entry.row_bytes(cols), rows: rows.len() };
        if entry != Entry::F32 {
            // SAFETY: rows of x, and scratch for as many.
            unsafe { enter(cpu, entry, from, input, cols) };
        }
        multiply(cpu, products.len(), |i| {
            let (w, out) = products[i];
            let out = Shared::new(host::f32_address(out).wrapping_add(rows.start * w.rows()));
            Product { w, input, out, bias: None }
        });
    }
}

/// Makes an input of rows of f32 activations.
///
/// # Safety
/// `from` gives addresses of rows of `cols`, and `input` is room for all of them that no one else uses.
pub(super) unsafe fn enter(
    cpu: &Cpu,
    entry: Entry,
    from: impl Fn(usize) -> *const f32 + Sync,
    input: Input,
    cols: usize,
) {
    cpu.split(input.rows, 6 * cols, |range, _| {
        for row in range {
            // SAFETY: the row of both, the latter this range's alone.
            unsafe { enter_row(cpu, entry, from(row), input.at.at(row * input.row_bytes), cols) };
        }
    });
}

/// One row of them.
///
/// # Safety
/// `from` holds `cols` activations, `to` has room for `entry.row_bytes(cols)`, and the entry is one of this backend's.
pub(super) unsafe fn enter_row(cpu: &Cpu, entry: Entry, from: *const f32, to: *mut u8, cols: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let x = std::slice::from_raw_parts(from, cols);
        match entry {
            Entry::F32 => to.cast::<f32>().copy_from_nonoverlapping(from, cols),
            Entry::Bf16 => (cpu.kernels.bf16.expect("bf16 products").round)(from.cast(), to, cols),
            Entry::Int8 { bits, part } => (cpu.kernels.quantised.round)(x, bits, part, to),
            Entry::Summed { bits, group } => (cpu.kernels.quantised.sum)(x, bits, group, to),
        }
    }
}

/// `out = input · wᵀ + bias`: out is `[input.rows, w.rows]`.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub w: &'a Matrix,
    pub input: Input,
    pub out: Shared<f32>,
    pub bias: Option<&'a Bias>,
}

/// Some products in one region.
pub(super) fn multiply<'a>(cpu: &Cpu, count: usize, of: impl Fn(usize) -> Product<'a> + Sync) {
    (0..count).for_each(|i| reserve_widened(cpu, of(i).w));
    share(
        cpu,
        count,
        |i| (of(i).w, of(i).input.rows),
        |i, rows, worker| {
            let Product { w, input, out, bias } = of(i);
            let to = Output { at: Shared::new(out.at(rows.start)), stride: w.rows() };
            // SAFETY: the columns `rows` of the output are this task's alone.
            unsafe { product(cpu, worker, w, rows.clone(), input, to) };
            if let Some(bias) = bias {
                for row in 0..input.rows {
                    // SAFETY: as above.
                    let part = unsafe { out.slice_mut(row * w.rows() + rows.start, rows.len()) };
                    add_bias_at(part, bias, rows.clone());
                }
            }
        },
    );
}

/// Weight rows that are never parted.
const ROWS_TOGETHER: usize = 16;

/// The same for so many rows of weights and of activations: as many as are computed together, if there is enough for all threads.
fn rows_together(cpu: &Cpu, entry: Entry, rows: usize, inputs: usize) -> usize {
    let together = cpu.kernels.quantised.rows;
    let several = matches!(entry, Entry::Int8 { .. }) && inputs > 1 && rows >= 2 * cpu.threads() * together;
    if several { together.max(ROWS_TOGETHER) } else { ROWS_TOGETHER }
}

/// Calls `work(i, rows, worker)` until it has had all rows of the matrices `of(i)`, which are multiplied with so many
/// inputs, in one region. It decides who computes an output, never how.
///
/// Tasks are long at first, half of what is left for all threads together, for what one reads lies in one piece, and memory is read
/// fastest in long ones. The last ones are short, so that all threads end at about the same time, also where one of them is slower
/// than the others.
pub(super) fn share<'a>(
    cpu: &Cpu,
    count: usize,
    of: impl Fn(usize) -> (&'a Matrix, usize) + Sync,
    work: impl Fn(usize, Range<usize>, usize) + Sync,
) {
    let (mut rows, mut row_bytes, mut inputs) = (0, 1, 0);
    for i in 0..count {
        let (w, own) = of(i);
        rows += w.rows();
        row_bytes = row_bytes.max(w.format().row_bytes(w.cols()));
        inputs = inputs.max(own);
    }
    let together = if count == 0 { ROWS_TOGETHER } else { rows_together(cpu, cpu.entry(of(0).0), rows, inputs) };
    let units_of = |i: usize| of(i).0.rows().div_ceil(together);
    let units = (0..count).map(units_of).sum::<usize>();
    let threads = cpu.threads();
    let least = match inputs {
        ..=FEW_INPUTS => (FEW_ROWS_BYTES / (together * row_bytes)).min(units.div_ceil(4 * threads)).max(1),
        _ => 1,
    };
    let cut = Cut { units, least, threads };
    cpu.pool.run(cut.tasks(), &|task, worker| {
        let units = cut.range(task);
        let mut first = 0;
        for i in 0..count {
            if first >= units.end {
                break;
            }
            let own = units_of(i);
            let (from, to) = (units.start.max(first) - first, units.end.min(first + own).saturating_sub(first));
            if from < to {
                work(i, from * together..of(i).0.rows().min(to * together), worker);
            }
            first += own;
        }
    });
}

/// Some units of work in tasks that get smaller: as many tasks as there are threads take half of what is left, but `least` units
/// each at the least.
#[derive(Clone, Copy, Debug)]
struct Cut {
    units: usize,
    least: usize,
    threads: usize,
}

impl Cut {
    /// The size of the tasks that come next, when so many units are left.
    fn next(&self, left: usize) -> usize {
        (left / (2 * self.threads)).max(self.least)
    }

    fn tasks(&self) -> usize {
        let (mut left, mut tasks) = (self.units, 0);
        while left > 0 {
            let size = self.next(left);
            let round = left.div_ceil(size).min(self.threads);
            tasks += round;
            left = left.saturating_sub(round * size);
        }
        tasks
    }

    fn range(&self, task: usize) -> Range<usize> {
        let (mut at, mut left) = (0, task);
        loop {
            let size = self.next(self.units - at);
            if left < self.threads {
                return (at + left * size).min(self.units)..(at + (left + 1) * size).min(self.units);
            }
            left -= self.threads;
            at = (at + self.threads * size).min(self.units);
        }
    }
}

/// The outputs of rows `rows` of w, for every row of the input. The worker has room for [`reserve_widened`].
///
/// # Safety
/// The input holds rows of `w.cols()` elements of the type that `w` is multiplied with, and no one else uses these outputs.
pub(super) unsafe fn product(cpu: &Cpu, worker: usize, w: &Matrix, rows: Range<usize>, input: Input, out: Output) {
    if let Some(columns) = w.columns() {
        // SAFETY: the caller's promise.
        return unsafe { by_column(cpu, w, columns, rows, input, out) };
    }
    let dots = dots(w, &rows, input, out);
    // SAFETY: `rows` are rows of w, whose tensors hold them all; the rest is the caller's promise.
    unsafe {
        match (cpu.entry(w), w.format()) {
            (Entry::F32, Format::Coded(Coded { code: Code::E4m3, .. }))
                if (cpu.kernels.quantised.e4m3)(&dots, &coded_rows(w, rows.start)) => {}
            (Entry::F32, Format::Ggml(_) | Format::Coded(_)) => widened(cpu, worker, w, rows.start, &dots),
            (Entry::Int8 { part, .. }, Format::Coded(_)) => {
                let weights = Packed::Coded(coded_rows(w, rows.start), part);
                (cpu.kernels.quantised.unpacked)(&UnpackedDots { dots, weights });
            }
            (entry, Format::Affine { bits, group }) => {
                let dots = affine(w, rows.start, dots, bits.into(), group.into());
                let precise = matches!(entry, Entry::Summed { .. });
                (if precise { cpu.kernels.quantised.precise } else { cpu.kernels.quantised.rounded })(&dots);
            }
            (Entry::Int8 { .. }, Format::Ggml(blocks)) => {
                (cpu.kernels.quantised.unpacked)(&UnpackedDots { dots, weights: Packed::Ggml(blocks) });
            }
            (Entry::Bf16, _) => (cpu.kernels.bf16.expect("bf16 products").dots)(&dots),
            (_, plain) => (cpu.kernels.dots.of(plain))(&dots),
        }
    }
}

/// The rows of a coded matrix from row `row` on.
fn coded_rows(w: &Matrix, row: usize) -> Rows<'_> {
    w.coded_rows().expect("a coded matrix").from(row)
}

/// Columns of a transposed matrix that few inputs pass over at once: as many runs of memory are read side by side.
const COLUMNS_AT_ONCE: usize = 16;

/// Rows of a transposed matrix that are computed at once where others lie between them, for so many inputs.
const STEPPED_ROWS: usize = 256;
const STEPPED_INPUTS: usize = 4;

/// The product of rows of a transposed matrix: an output is the sum of its row's elements times activations, added in
/// ascending order, however many are taken at once.
///
/// # Safety
/// As [`product`], with f32 activations.
unsafe fn by_column(cpu: &Cpu, w: &Matrix, columns: Columns, rows: Range<usize>, input: Input, out: Output) {
    let Columns { first, step, width } = columns;
    let (format, cols, mix) = (w.format(), w.cols(), cpu.kernels.mix.of(w.format()));
    let data = host::address(w.data()).cast_const();
    // Sums of `dim` elements of each column, from element `from` on, for some inputs.
    let sums = |from: usize, dim: usize, inputs: Range<usize>, to: *mut f32, out_stride: usize| {
        let at_once = if inputs.len() <= FEW_INPUTS { COLUMNS_AT_ONCE } else { cols };
        // SAFETY: these elements of w's columns, the caller's activations, and outputs that are the caller's alone.
        unsafe {
            (0..inputs.len()).for_each(|i| to.add(i * out_stride).write_bytes(0, dim));
            for column in (0..cols).step_by(at_once) {
                mix(&Mix {
                    p: input.at.at(inputs.start * input.row_bytes).cast::<f32>().add(column),
                    p_stride: input.row_bytes / 4,
                    columns: inputs.len(),
                    v: data.add(format.row_bytes(column * width + from)),
                    v_stride: format.row_bytes(width),
                    terms: at_once.min(cols - column),
                    dim,
                    out: to,
                    out_stride,
                });
            }
        }
    };
    if step == 1 {
        return sums(first + rows.start, rows.len(), 0..input.rows, out.at.at(0), out.stride);
    }
    let mut stepped = [0f32; STEPPED_INPUTS * 2 * STEPPED_ROWS];
    let stride = step * STEPPED_ROWS;
    for row in rows.clone().step_by(STEPPED_ROWS) {
        let some = STEPPED_ROWS.min(rows.end - row);
        for at in (0..input.rows).step_by(STEPPED_INPUTS) {
            let inputs = at..input.rows.min(at + STEPPED_INPUTS);
            sums(first + step * row, step * (some - 1) + 1, inputs.clone(), stepped.as_mut_ptr(), stride);
            for (input, sums) in inputs.zip(stepped.chunks_exact(stride)) {
                // SAFETY: outputs of these rows, which are the caller's alone.
                let out = unsafe { out.at.slice_mut(input * out.stride + row - rows.start, some) };
                out.iter_mut().zip(sums.iter().step_by(step)).for_each(|(out, sum)| *out = *sum);
            }
        }
    }
}

/// Rows of blocks or codes that are multiplied with f32 activations at once.
const WIDENED_ROWS: usize = 4;

/// A product of rows `rows` of w.
pub(super) fn dots(w: &Matrix, rows: &Range<usize>, input: Input, out: Output) -> Dots {
    assert!(rows.end <= w.rows());
    let w_stride = w.format().row_bytes(w.cols());
    Dots {
        w: host::address(w.data()).wrapping_add(rows.start * w_stride),
        w_stride,
        rows: rows.len(),
        x: input.at.at(0),
        x_stride: input.row_bytes,
        columns: input.rows,
        k: w.cols(),
        out: out.at.at(0),
        out_stride: out.stride,
    }
}

/// Makes room for [`WIDENED_ROWS`] of a matrix in every worker's scratch, where it is one whose rows are widened.
pub(super) fn reserve_widened(cpu: &Cpu, w: &Matrix) {
    if matches!((cpu.entry(w), w.format()), (Entry::F32, Format::Ggml(_) | Format::Coded(_))) {
        cpu.reserve_scratch(WIDENED_ROWS * w.cols());
    }
}

/// The product of blocks or codes from row `row` on with f32 activations: rows are widened to what they are worth, some at a
/// time.
///
/// # Safety
/// The addresses hold what `Dots` says, with f32 activations.
unsafe fn widened(cpu: &Cpu, worker: usize, w: &Matrix, row: usize, d: &Dots) {
    let mut scratch = cpu.scratch_of(worker);
    for first in (0..d.rows).step_by(WIDENED_ROWS) {
        let rows = WIDENED_ROWS.min(d.rows - first);
        for (i, values) in scratch[..rows * d.k].chunks_exact_mut(d.k).enumerate() {
            widen(cpu, w, row + first + i, values);
        }
        let (w, w_stride, out) = (scratch.as_ptr().cast(), 4 * d.k, d.out.wrapping_add(first));
        // SAFETY: these rows, widened, and their outputs.
        unsafe { (cpu.kernels.dots.of(Format::F32))(&Dots { w, w_stride, rows, out, ..*d }) };
    }
}

/// The product of a quantised matrix from row `row` on.
fn affine(w: &Matrix, row: usize, dots: Dots, bits: usize, group: usize) -> AffineDots {
    let scales = w.scales().map(|tensor| tensor.expect("an affine-quantised matrix has scales and biases"));
    let dtype = scales[0].dtype();
    let first = row * (w.cols() / group) * dtype.bytes();
    AffineDots {
        dots,
        bits,
        group,
        scales: scales.map(|tensor| host::address(tensor).wrapping_add(first).cast_const()),
        scale_format: Format::of(dtype).expect("scales are plain numbers"),
    }
}

/// How many weight rows make a task, a multiple of [`ROWS_TOGETHER`]. It decides who computes an output, never how.
pub(super) fn rows_of_task(cpu: &Cpu, rows: usize, row_bytes: usize, inputs: usize) -> usize {
    let bytes = if inputs <= FEW_INPUTS { FEW_ROWS_BYTES } else { MANY_ROWS_BYTES };
    let fair = rows.div_ceil(4 * cpu.threads());
    (bytes / row_bytes.max(1)).min(fair).max(1).next_multiple_of(ROWS_TOGETHER)
}

impl Cpu {
    /// How activations enter products with these weights.
    pub(super) fn entry(&self, w: &Matrix) -> Entry {
        let precise = self.precise || w.is_exact();
        match w.format() {
            _ if w.is_transposed() => Entry::F32,
            Format::Affine { bits, group } if precise => Entry::Summed { bits: bits.into(), group: group.into() },
            Format::Affine { bits, group } => Entry::Int8 { bits: bits.into(), part: group::part_of(group.into()) },
            Format::Ggml(blocks) if !precise => Entry::Int8 { bits: 8, part: blocks.group() },
            Format::Coded(coded) if !precise => match coded.group(w.cols()) {
                Some(part) => Entry::Int8 { bits: 8, part },
                None => Entry::F32,
            },
            Format::Bf16 if self.kernels.bf16.is_some() && !precise => Entry::Bf16,
            Format::F32 | Format::F16 | Format::Bf16 | Format::Ggml(_) | Format::Coded(_) => Entry::F32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_all_of_the_work_in_order() {
        for (units, least, threads) in [(1, 1, 1), (7, 2, 3), (256, 2, 2), (9496, 2, 2), (9496, 3, 16), (5, 9, 2)] {
            let cut = Cut { units, least, threads };
            let mut at = 0;
            for task in 0..cut.tasks() {
                let range = cut.range(task);
                assert!(range.start == at && range.end > at, "{cut:?}, task {task}: {range:?}");
                at = range.end;
            }
            assert_eq!(at, units, "{cut:?}");
        }
    }
}
