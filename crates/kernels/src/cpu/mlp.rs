//! `out[i] = down(act(gate·x[rows[i]], up·x[rows[i]]))`
//!
//! The same arithmetic as the operations it is made of, with two regions instead of five.

use super::Cpu;
use super::add_bias::add_bias_at;
use super::glu::glu_at;
use super::linear::{
    Entry, Input, Output, enter, multiply, product, reserve, reserve_widened, row_blocks, rows_of_task,
};
use super::pool::lock;
use crate::host::{self, Shared};
use crate::{Matrix, Mlp, MlpScratch, Ops, Tensor};

pub(super) fn mlp(cpu: &Cpu, x: &Tensor, rows: &[u32], mlp: &Mlp, scratch: &MlpScratch, out: &Tensor) {
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
    if cpu.entry(first) != cpu.entry(&mlp.up) {
        return composed(cpu, x, rows, mlp, scratch, out);
    }
    let out_tensor = out;
    let (x, out) = (host::f32s(x), Shared::new(host::f32_address(out)));
    let [gathered, gate, up] =
        [&scratch.x, &scratch.gate, &scratch.up].map(|tensor| Shared::new(host::f32_address(tensor)));
    let mut entered = lock(&cpu.entered);
    for block in row_blocks(rows.len()) {
        let rows = &rows[block.clone()];
        let input = input(cpu, first, gathered, &mut entered.input, hidden, rows.len());
        let row_of_x = |row: usize| x[rows[row] as usize * hidden..][..hidden].as_ptr();
        // SAFETY: rows of x, and scratch for as many.
        unsafe { enter(cpu, cpu.entry(first), row_of_x, input, hidden) };
        halves(cpu, mlp, input, gate, up);
        let gated = self::input(cpu, &mlp.down, gate, &mut entered.hidden, width, rows.len());
        if cpu.entry(&mlp.down) != Entry::F32 {
            let row_of_gate = |row: usize| gate.at(row * width).cast_const();
            // SAFETY: rows of the gate's scratch, and scratch for as many.
            unsafe { enter(cpu, cpu.entry(&mlp.down), row_of_gate, gated, width) };
        }
        multiply(cpu, &mlp.down, gated, Shared::new(out.at(block.start * hidden)));
    }
    if let Some([.., down]) = &mlp.biases {
        cpu.add_bias(out_tensor, down);
    }
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
fn input(cpu: &Cpu, w: &Matrix, plain: Shared<f32>, scratch: &mut Vec<u8>, cols: usize, rows: usize) -> Input {
    let entry = cpu.entry(w);
    let row_bytes = entry.row_bytes(cols);
    let at = match entry {
        Entry::F32 => Shared::new(plain.at(0).cast()),
        _ => reserve(scratch, row_bytes * rows),
    };
    Input { at, row_bytes, rows }
}

/// gate, up and the activation between them, `[n, width]`, in one region; the result replaces gate.
fn halves(cpu: &Cpu, mlp: &Mlp, input: Input, gate: Shared<f32>, up: Shared<f32>) {
    let (width, (first, bias)) = (mlp.width(), mlp.first());
    let chunk = rows_of_task(cpu, width, first.format().row_bytes(first.cols()), input.rows);
    reserve_widened(cpu, first);
    reserve_widened(cpu, &mlp.up);
    cpu.pool.run(width.div_ceil(chunk), &|task, worker| {
        let columns = task * chunk..width.min((task + 1) * chunk);
        let out = |of: Shared<f32>| Output { at: Shared::new(of.at(columns.start)), stride: width };
        // SAFETY: `input` is what gate and up are multiplied with; these columns are this task's alone.
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
                glu_at(gate.at(at), up.at(at), mlp.activation, gate.at(at), columns.len());
            }
        }
    });
}
