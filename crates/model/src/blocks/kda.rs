//! Kimi Delta Attention: the gated delta rule with a decay for each channel of a key (arXiv 2510.26692; `transformers`
//! `modeling_kimi_linear.py`).

use outpour_kernels::{ColumnRun, GatedDelta, Matrix, RmsNorm, Tensor};

use super::mixer::{At, Mixer};
use crate::config::ModelError;
use crate::state::RecurrentLayout;
use crate::weights::{Norms, Weights};
use crate::{Run, Workspace};

/// Sizes of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Heads of queries, keys and values.
    pub heads: usize,
    /// Width of each.
    pub head_dim: usize,
    /// Width of the convolutions.
    pub kernel: usize,
}

impl Sizes {
    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn recurrent(&self) -> RecurrentLayout {
        let Sizes { heads, head_dim, kernel, .. } = *self;
        RecurrentLayout { kernel, channels: 3 * self.width(), heads, k_dim: head_dim, v_dim: head_dim }
    }
}

/// Queries, keys and values: a projection, a convolution, and where the result lies among the three.
struct Input {
    proj: Matrix, // [width, hidden]
    conv: Tensor, // [width, kernel]
    run: [ColumnRun; 1],
}

/// The weights of one layer.
pub struct Kda {
    sizes: Sizes,
    inputs: [Input; 3],
    f_a: Matrix, // [head_dim, hidden]
    f_b: Matrix, // [width, head_dim]
    b: Matrix,   // [heads, hidden]
    g_a: Matrix, // [head_dim, hidden]
    g_b: Matrix, // [width, head_dim]
    delta: GatedDelta,
    norm: RmsNorm,  // [head_dim]
    o_proj: Matrix, // [hidden, width]
}

impl Kda {
    /// Loads `{prefix}.*`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(weights: &mut Weights, prefix: &str, sizes: Sizes, norms: Norms) -> Result<Self, ModelError> {
        let Sizes { hidden, heads, head_dim, kernel } = sizes;
        let width = sizes.width();
        let name = |part: &str| format!("{prefix}.{part}");
        let mut input = |part: &str, place: usize| {
            // [width, 1, kernel] as released, [width, kernel, 1] in MLX's exports.
            let conv = name(&format!("{part}_conv1d.weight"));
            let mlx = weights.shape_of(&conv) == Some(&[width, kernel, 1][..]);
            let shape = if mlx { [width, kernel, 1] } else { [width, 1, kernel] };
            Ok::<_, ModelError>(Input {
                proj: weights.matrix(&name(&format!("{part}_proj.weight")), width, hidden)?,
                conv: weights.tensor(&conv, &shape)?.reshape([width, kernel]),
                run: [ColumnRun { from: 0, to: place * width, len: width }],
            })
        };
        let inputs = [input("q", 0)?, input("k", 1)?, input("v", 2)?];
        let mut matrix = |part, rows, cols| weights.matrix(&name(part), rows, cols);
        Ok(Kda {
            sizes,
            inputs,
            f_a: matrix("f_a_proj.weight", head_dim, hidden)?,
            f_b: matrix("f_b_proj.weight", width, head_dim)?.exact(),
            b: matrix("b_proj.weight", heads, hidden)?.exact(),
            g_a: matrix("g_a_proj.weight", head_dim, hidden)?,
            g_b: matrix("g_b_proj.weight", width, head_dim)?,
            o_proj: matrix("o_proj.weight", hidden, width)?,
            delta: GatedDelta {
                k_heads: heads,
                v_heads: heads,
                k_dim: head_dim,
                v_dim: head_dim,
                per_channel: true,
                tiled: false,
                exponentiated: false,
                a_log: weights.tensor(&name("A_log"), &[1, 1, heads, 1])?.reshape([heads]),
                dt_bias: weights.vector(&name("dt_bias"), width)?,
            },
            norm: norms.load(weights, &name("o_norm.weight"), head_dim)?,
        })
    }

    /// `second · (first · x)` in the workspace: x `[n, hidden]`.
    fn low_rank(x: &Tensor, first: &Matrix, second: &Matrix, run: &mut Run) -> Tensor {
        let between = run.workspace.f32([x.dim(0), first.rows()]);
        let out = run.workspace.f32([x.dim(0), second.rows()]);
        run.ops.linear(x, first, &between);
        run.ops.linear(&between, second, &out);
        out
    }
}

impl Mixer for Kda {
    fn forward(&self, at: &At, x: &Tensor, into: &Tensor, run: &mut Run) {
        let Sizes { hidden, heads, head_dim, .. } = self.sizes;
        let (n, width, ops) = (at.batch.len(), self.sizes.width(), run.ops);
        let qkv = run.workspace.f32([n, 3 * width]);
        let projected = run.workspace.f32([n, width]);
        let mixed = run.workspace.f32([n, width]);
        let b = run.workspace.f32([n, heads]);
        let values = run.workspace.f32([n, heads, head_dim]);
        let out = run.workspace.f32([n, hidden]);

        let layout = self.sizes.recurrent();
        for (part, input) in self.inputs.iter().enumerate() {
            ops.linear(x, &input.proj, &projected);
            for span in &at.batch.spans {
                let rows = |t: &Tensor| t.rows(span.rows.clone());
                let tail = layout.tail_of(at.states[span.state].recurrent(at.layer), part, 3);
                ops.causal_conv(&rows(&projected), &input.conv, None, &tail, &rows(&mixed));
            }
            ops.copy_columns(&mixed, &input.run, &qkv);
        }
        let a = Self::low_rank(x, &self.f_a, &self.f_b, run); // [n, width]
        ops.linear(x, &self.b, &b);
        for span in &at.batch.spans {
            let rows = |t: &Tensor| t.rows(span.rows.clone());
            let matrices = layout.matrices(at.states[span.state].recurrent(at.layer));
            ops.gated_delta(&rows(&qkv), &rows(&a), &rows(&b), &self.delta, &matrices, &rows(&values));
        }
        ops.rms_norm(&values, &self.norm, &values);
        let gate = Self::low_rank(x, &self.g_a, &self.g_b, run); // [n, width]
        ops.sigmoid_gate(&values, &gate);
        ops.linear(&values.reshape([n, width]), &self.o_proj, &out);
        ops.add(&out, into);
    }

    fn workspace_bytes(&self, n: usize) -> usize {
        let Sizes { hidden, heads, head_dim, .. } = self.sizes;
        let (width, f32s) = (self.sizes.width(), Workspace::f32_bytes);
        let low_rank = 2 * (f32s(n * head_dim) + f32s(n * width));
        f32s(3 * n * width) + 3 * f32s(n * width) + f32s(n * heads) + f32s(n * hidden) + low_rank
    }

    fn recurrent(&self) -> Option<RecurrentLayout> {
        Some(self.sizes.recurrent())
    }

    fn letter(&self) -> (char, &'static str) {
        ('K', "Kimi Delta Attention")
    }
}
