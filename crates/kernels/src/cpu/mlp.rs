//! `out[i] = down(act(gate·x[rows[i]], up·x[rows[i]]))`
//!
//! The same arithmetic as the operations it is made of, with two regions instead of five.

use std::ops::Range;

use super::Cpu;
use super::linear::{Input, product, reserve, row_blocks, rows_of_task};
use super::pool::lock;
use super::swiglu::swiglu_at;
use crate::host::{self, Shared};
use crate::{Activation, Format, Matrix, Mlp, MlpScratch, Tensor};

pub(super) fn mlp(cpu: &Cpu, x: &Tensor, rows: &[u32], mlp: &Mlp, scratch: &MlpScratch, out: &Tensor) {
    let (tokens, hidden) = host::rows_of(x);
    let width = mlp.gate.rows();
    for (matrix, shape) in [(&mlp.gate, (width, hidden)), (&mlp.up, (width, hidden)), (&mlp.down, (hidden, width))] {
        assert_eq!((matrix.rows(), matrix.cols()), shape, "mlp: a matrix does not fit the others");
    }
    assert_eq!(host::rows_of(out), (rows.len(), hidden), "mlp: out does not fit");
    for (scratch, d) in [(&scratch.x, hidden), (&scratch.gate, width), (&scratch.up, width)] {
        let (room, columns) = host::rows_of(scratch);
        assert!(room >= rows.len() && columns == d, "mlp: scratch {scratch:?} for {} rows of {d}", rows.len());
    }
    assert!(rows.iter().all(|&row| (row as usize) < tokens), "mlp: a row beyond the {tokens} of x");
    let out = Shared::new(host::f32_address(out));
    let mut rounded = lock(&cpu.rounded);
    for block in row_blocks(rows.len()) {
        let n = block.len();
        let inputs = Inputs {
            rounded: reserve(&mut rounded.input, 2 * hidden * n),
            plain: Shared::new(host::f32_address(&scratch.x)),
        };
        inputs.gather(cpu, x, &rows[block.clone()], mlp);
        let halves = Halves {
            gate: Shared::new(host::f32_address(&scratch.gate)),
            up: Shared::new(host::f32_address(&scratch.up)),
            rounded: reserve(&mut rounded.hidden, 2 * width * n),
        };
        let gated = halves.compute(cpu, mlp, &inputs, n);
        let chunk = rows_of_task(cpu, hidden, mlp.down.format().row_bytes(width), n);
        cpu.pool.run(hidden.div_ceil(chunk), &|task, _| {
            let columns = task * chunk..hidden.min((task + 1) * chunk);
            // SAFETY: `gated` is what `down` multiplies, and these columns of `out` are this task's alone.
            unsafe { product(cpu, &mlp.down, columns, gated, Shared::new(out.at(block.start * hidden))) };
        });
    }
}

/// The rows of x to compute, in the types that gate and up are multiplied with: room for both.
struct Inputs {
    plain: Shared<f32>,
    rounded: Shared<u8>,
}

impl Inputs {
    fn gather(&self, cpu: &Cpu, x: &Tensor, rows: &[u32], mlp: &Mlp) {
        let x_at = host::f32s(x);
        let hidden = mlp.gate.cols();
        let formats = [mlp.gate.format(), mlp.up.format()];
        let round = formats.into_iter().find_map(|format| cpu.bf16_for(format));
        let plain = formats.into_iter().any(|format| cpu.bf16_for(format).is_none());
        cpu.split(rows.len(), 8 * hidden, |range, _| {
            for i in range {
                let from = &x_at[rows[i] as usize * hidden..][..hidden];
                // SAFETY: row i of both scratches is this range's alone.
                unsafe {
                    if let Some(bf16) = round {
                        (bf16.round)(from.as_ptr().cast(), self.rounded.at(i * 2 * hidden), hidden);
                    }
                    if plain {
                        self.plain.slice_mut(i * hidden, hidden).copy_from_slice(from);
                    }
                }
            }
        });
    }

    fn of(&self, cpu: &Cpu, w: &Matrix, rows: usize) -> Input {
        input(cpu, w.format(), self.plain, self.rounded, w.cols(), rows)
    }
}

/// Of two copies of the activations, the one that weights of `format` are multiplied with.
fn input(cpu: &Cpu, format: Format, plain: Shared<f32>, rounded: Shared<u8>, cols: usize, rows: usize) -> Input {
    match cpu.bf16_for(format) {
        Some(_) => Input { at: rounded, row_bytes: 2 * cols, rows },
        None => Input { at: Shared::new(plain.at(0).cast()), row_bytes: 4 * cols, rows },
    }
}

/// What lies between the two halves of the MLP, `[n, width]`: gate (then the activation's output), up, and the
/// output rounded.
struct Halves {
    gate: Shared<f32>,
    up: Shared<f32>,
    rounded: Shared<u8>,
}

impl Halves {
    /// gate, up and the activation between them, in one region; returns what `down` is to be multiplied with.
    fn compute(&self, cpu: &Cpu, mlp: &Mlp, inputs: &Inputs, n: usize) -> Input {
        let width = mlp.gate.rows();
        let chunk = rows_of_task(cpu, width, mlp.gate.format().row_bytes(mlp.gate.cols()), n);
        cpu.pool.run(width.div_ceil(chunk), &|task, _| {
            let columns = task * chunk..width.min((task + 1) * chunk);
            // SAFETY: `inputs` are what gate and up are multiplied with; these columns are this task's alone.
            unsafe {
                product(cpu, &mlp.gate, columns.clone(), inputs.of(cpu, &mlp.gate, n), self.gate);
                product(cpu, &mlp.up, columns.clone(), inputs.of(cpu, &mlp.up, n), self.up);
                self.activate(cpu, mlp, columns, n);
            }
        });
        input(cpu, mlp.down.format(), self.gate, self.rounded, width, n)
    }

    /// # Safety
    /// No one else uses these columns.
    unsafe fn activate(&self, cpu: &Cpu, mlp: &Mlp, columns: Range<usize>, n: usize) {
        let width = mlp.gate.rows();
        let round = cpu.bf16_for(mlp.down.format());
        for row in 0..n {
            let at = row * width + columns.start;
            // SAFETY: the columns of row `row`, which are the caller's alone.
            unsafe {
                match mlp.activation {
                    Activation::SwiGlu => {
                        swiglu_at(self.gate.at(at), self.up.at(at), self.gate.at(at), columns.len());
                    }
                }
                if let Some(bf16) = round {
                    (bf16.round)(self.gate.at(at).cast(), self.rounded.at(2 * at), columns.len());
                }
            }
        }
    }
}
