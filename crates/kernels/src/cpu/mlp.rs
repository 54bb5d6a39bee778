//! `out[i] = down(act(gate·x[rows[i]], up·x[rows[i]]))`
//!
//! The same arithmetic as the operations it is made of, with two regions instead of five, for one MLP or several.

use std::ops::Range;

use super::Cpu;
use super::add_bias::add_bias_at;
use super::glu::glu_at;
use super::linear::{
    Entered, Entry, Input, Output, Product, ROWS_MAX, enter, multiply, product, reserve, reserve_widened, row_blocks,
    share,
};
use super::pool::lock;
use crate::host::{self, Shared};
use crate::{Matrix, Mlp, MlpJob, MlpScratch, Ops, Tensor};

pub(super) fn mlp(cpu: &Cpu, x: &Tensor, rows: &[u32], mlp: &Mlp, scratch: &MlpScratch, out: &Tensor) {
    check(x, rows, mlp, scratch, out);
    if cpu.entry(mlp.first().0) != cpu.entry(&mlp.up) {
        return composed(cpu, x, rows, mlp, scratch, out);
    }
    for block in row_blocks(rows.len()) {
        together(cpu, x, &rows[block.clone()], 1, |_| (mlp, 0..block.len()), scratch, &out.rows(block.clone()));
    }
}

pub(super) fn mlps(cpu: &Cpu, x: &Tensor, tokens: &[u32], jobs: &[MlpJob], scratch: &MlpScratch, parts: &Tensor) {
    let mut left = jobs;
    while !left.is_empty() {
        let (some, rest) = left.split_at(joined(cpu, left, scratch));
        if let [MlpJob { mlp, rows }] = some {
            self::mlp(cpu, x, &tokens[rows.clone()], mlp, scratch, &parts.rows(rows.clone()));
        } else {
            for MlpJob { mlp, rows } in some {
                check(x, &tokens[rows.clone()], mlp, scratch, &parts.rows(rows.clone()));
            }
            let of = |i: usize| (&some[i].mlp, some[i].rows.clone());
            together(cpu, x, tokens, some.len(), of, scratch, parts);
        }
        left = rest;
    }
}

/// How many of the first jobs are computed together: those that take their activations as the first does, and have room with it.
fn joined(cpu: &Cpu, jobs: &[MlpJob], scratch: &MlpScratch) -> usize {
    let entries = |mlp: &Mlp| [mlp.first().0, &mlp.up, &mlp.down].map(|w| cpu.entry(w));
    let room = [&scratch.x, &scratch.gate, &scratch.up].map(|scratch| host::rows_of(scratch).0);
    let room = room.into_iter().fold(ROWS_MAX, usize::min);
    let (of_first, width) = (entries(&jobs[0].mlp), jobs[0].mlp.width());
    let mut rows = 0;
    let fits = |MlpJob { mlp, rows: own }: &&MlpJob| {
        rows += own.len();
        rows <= room && of_first[0] == of_first[1] && entries(mlp) == of_first && mlp.width() == width
    };
    jobs.iter().take_while(fits).count().max(1)
}

fn check(x: &Tensor, rows: &[u32], mlp: &Mlp, scratch: &MlpScratch, out: &Tensor) {
    let (tokens, hidden) = host::rows_of(x);
    let (width, (first, _)) = (mlp.width(), mlp.first());
    for (matrix, shape) in [(first, (width, hidden)), (&mlp.up, (width, hidden)), (&mlp.down, (hidden, width))] {
        assert_eq!((matrix.rows(), matrix.cols()), shape, "mlp: a matrix does not fit the others");
    }
    assert_eq!(host::rows_of(out), (rows.len(), hidden), "mlp: out does not fit");
    for (scratch, d) in [(&scratch.x, hidden), (&scratch.gate, width), (&scratch.up, width)] {
        let (room, columns) = host::rows_of(scratch);
        assert!(room >= rows.len() && columns == d, "mlp: scratch {scratch:?} for {} rows of {d}", rows.len());
    }
    assert!(rows.iter().all(|&row| (row as usize) < tokens), "mlp: a row beyond the {tokens} of x");
}

/// `count` MLPs of one width that take their activations alike, each with its rows of `tokens` and of `out`. In scratch their
/// rows lie one behind the other.
fn together<'a>(
    cpu: &Cpu,
    x: &Tensor,
    tokens: &[u32],
    count: usize,
    of: impl Fn(usize) -> (&'a Mlp, Range<usize>) + Sync,
    scratch: &MlpScratch,
    out: &Tensor,
) {
    let (mlp, hidden) = (of(0).0, host::rows_of(x).1);
    let (width, first) = (mlp.width(), mlp.first().0);
    let out = Shared::new(host::f32_address(out));
    let [gathered, gate, up] =
        [&scratch.x, &scratch.gate, &scratch.up].map(|tensor| Shared::new(host::f32_address(tensor)));
    let mut entered = lock(&cpu.entered);
    let Entered { input, hidden: between, ends } = &mut *entered;
    ends.clear();
    ends.extend((0..count).scan(0, |end, i| {
        *end += of(i).1.len();
        Some(*end)
    }));
    let ends = &*ends;
    // The rows of MLP i in scratch; and the token of a row there.
    let rows_of = |i: usize| ends[i] - of(i).1.len()..ends[i];
    let token = |row: usize| {
        let i = ends.partition_point(|end| *end <= row);
        tokens[of(i).1.end - (ends[i] - row)] as usize
    };
    let input = gather(cpu, x, first, gathered, input, ends.last().copied().unwrap_or(0), &token);
    let gated = input_at(cpu, &mlp.down, gate, between, width, input.rows);
    (0..count).for_each(|i| [of(i).0.first().0, &of(i).0.up].iter().for_each(|w| reserve_widened(cpu, w)));
    share(
        cpu,
        count,
        |i| (&of(i).0.up, of(i).1.len()),
        |i, columns, worker| {
            let (mlp, rows) = (of(i).0, rows_of(i));
            // SAFETY: these rows of the input are what gate and up are multiplied with; these columns are this task's alone.
            unsafe {
                halves(cpu, worker, mlp, columns, part(input, &rows), [gate, up].map(|of| of.rows(rows.start, width)))
            };
        },
    );
    if cpu.entry(&mlp.down) != Entry::F32 {
        let row_of_gate = |row: usize| gate.at(row * width).cast_const();
        // SAFETY: rows of the gate's scratch, and scratch for as many.
        unsafe { enter(cpu, cpu.entry(&mlp.down), row_of_gate, gated, width) };
    }
    multiply(cpu, count, |i| {
        let (mlp, rows) = of(i);
        let bias = mlp.biases.as_ref().map(|[.., down]| down);
        let input = part(gated, &rows_of(i));
        Product { w: &mlp.down, input, out: out.rows(rows.start, hidden), bias }
    });
}

/// Some rows of an input.
fn part(input: Input, rows: &Range<usize>) -> Input {
    Input { at: Shared::new(input.at.at(rows.start * input.row_bytes)), rows: rows.len(), ..input }
}

/// The input of `rows` rows, each a token's row of x as `w` is multiplied with it. A token of several rows is rounded once.
fn gather(
    cpu: &Cpu,
    x: &Tensor,
    w: &Matrix,
    gathered: Shared<f32>,
    scratch: &mut Vec<u8>,
    rows: usize,
    token: &(impl Fn(usize) -> usize + Sync),
) -> Input {
    let ((tokens, hidden), entry) = (host::rows_of(x), cpu.entry(w));
    let x = host::f32s(x);
    let row_of_x = |token: usize| x[token * hidden..][..hidden].as_ptr();
    let row_bytes = entry.row_bytes(hidden);
    if entry == Entry::F32 || tokens >= rows {
        let input = input_at(cpu, w, gathered, scratch, hidden, rows);
        // SAFETY: rows of x, and scratch for as many.
        unsafe { enter(cpu, entry, |row| row_of_x(token(row)), input, hidden) };
        return input;
    }
    let at = reserve(scratch, row_bytes * (rows + tokens));
    let (input, each) =
        (Input { at, row_bytes, rows }, Input { at: Shared::new(at.at(rows * row_bytes)), row_bytes, rows: tokens });
    // SAFETY: rows of x, and scratch for as many, behind which they are copied from.
    unsafe {
        enter(cpu, entry, row_of_x, each, hidden);
        for row in 0..rows {
            at.at(row * row_bytes).copy_from_nonoverlapping(each.at.at(token(row) * row_bytes), row_bytes);
        }
    }
    input
}

/// The same where gate and up take their activations differently.
fn composed(cpu: &Cpu, x: &Tensor, rows: &[u32], mlp: &Mlp, scratch: &MlpScratch, out: &Tensor) {
    let n = rows.len();
    let (inputs, gate, up) = (scratch.x.rows(0..n), scratch.gate.rows(0..n), scratch.up.rows(0..n));
    let biased = |x: &Tensor, w: &Matrix, which: usize, out: &Tensor| {
        cpu.linear(x, w, out);
        if let Some(biases) = &mlp.biases {
            cpu.add_bias(out, &biases[which]);
        }
    };
    cpu.gather(x, rows, &inputs);
    let (first, bias) = mlp.first();
    biased(&inputs, first, bias, &gate);
    if mlp.gate.is_some() {
        biased(&inputs, &mlp.up, 1, &up);
    }
    cpu.glu(&gate, &up, mlp.activation, &gate);
    biased(&gate, &mlp.down, 2, out);
}

/// Where the activations lie that `w` is multiplied with: in an f32 tensor as they are, otherwise in
/// `scratch`.
fn input_at(cpu: &Cpu, w: &Matrix, plain: Shared<f32>, scratch: &mut Vec<u8>, cols: usize, rows: usize) -> Input {
    let entry = cpu.entry(w);
    let row_bytes = entry.row_bytes(cols);
    let at = match entry {
        Entry::F32 => Shared::new(plain.at(0).cast()),
        _ => reserve(scratch, row_bytes * rows),
    };
    Input { at, row_bytes, rows }
}

/// Columns of gate, up and the activation between them; the result replaces gate.
///
/// # Safety
/// The input is what gate and up are multiplied with, and no one else uses these columns of `[gate, up]`.
unsafe fn halves(
    cpu: &Cpu,
    worker: usize,
    mlp: &Mlp,
    columns: Range<usize>,
    input: Input,
    [gate, up]: [Shared<f32>; 2],
) {
    let (width, (first, bias)) = (mlp.width(), mlp.first());
    let out = |of: Shared<f32>| Output { at: Shared::new(of.at(columns.start)), stride: width };
    // SAFETY: the caller's promise.
    unsafe {
        product(cpu, worker, first, columns.clone(), input, out(gate));
        if mlp.gate.is_some() {
            product(cpu, worker, &mlp.up, columns.clone(), input, out(up));
        }
        for row in 0..input.rows {
            let at = row * width + columns.start;
            if let Some(biases) = &mlp.biases {
                add_bias_at(gate.slice_mut(at, columns.len()), &biases[bias], columns.clone());
                if mlp.gate.is_some() {
                    add_bias_at(up.slice_mut(at, columns.len()), &biases[1], columns.clone());
                }
            }
            glu_at(cpu, gate.at(at), up.at(at), mlp.activation, gate.at(at), columns.len());
        }
    }
}
