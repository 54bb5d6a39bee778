//! Kimi Delta Attention: the gated delta rule with a decay for each channel of a key (arXiv 2510.26692; `transformers`
//! `modeling_kimi_linear.py`, `modeling_bailing_hybrid.py`, `modeling_glm5_next.py`).

use outpour_kernels::{CausalConv, ColumnRun, GatedDelta, Matrix, RmsNorm, Tensor};

use super::mixer::{At, Mixer};
use crate::config::{Config, ModelError, SIZE_MAX};
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

/// What families differ in.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Whether decays and gates are made in two steps, over a vector as wide as a head.
    pub low_rank: bool,
    /// Whether `A_log` has dimensions of 1 about it.
    pub a_log_4d: bool,
    /// Logarithm of the decays' lower bound, if they have one.
    pub bound: Option<f32>,
    /// Name of the output projection.
    pub o_proj: &'static str,
}

impl Kind {
    /// Kimi-Linear's.
    pub const KIMI: Kind = Kind { low_rank: true, a_log_4d: true, bound: None, o_proj: "o_proj" };

    /// Reads the bound of the decays under such a key, -5 where there is none.
    ///
    /// # Errors
    /// When it is not below zero.
    pub fn bound(config: &Config, key: &str) -> Result<Option<f32>, ModelError> {
        match config.float_or(key, -5.0)? as f32 {
            bound if bound.is_finite() && bound < 0.0 => Ok(Some(bound)),
            bound => Err(ModelError::Config(format!("{key} is {bound}, and must be below 0; download it again"))),
        }
    }
}

impl Sizes {
    /// Checks that they make a layer.
    ///
    /// # Errors
    /// Names what does not.
    pub fn check(&self) -> Result<(), ModelError> {
        let Sizes { heads, head_dim, kernel, .. } = *self;
        match kernel > 1 && (heads as u64) * (head_dim as u64) < SIZE_MAX {
            true => Ok(()),
            false => Err(ModelError::Config(format!(
                "{heads} heads of {head_dim} with convolutions of {kernel} make no delta attention; download it again"
            ))),
        }
    }

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
    conv: CausalConv,
    run: [ColumnRun; 1],
}

/// A projection in one step or two.
enum Projection {
    Whole(Matrix),
    LowRank([Matrix; 2]),
}

impl Projection {
    /// Loads `{prefix}_proj`, or `{prefix}_a_proj` and `{prefix}_b_proj` over `rank`.
    fn load(
        weights: &mut Weights,
        prefix: &str,
        [rows, cols]: [usize; 2],
        rank: Option<usize>,
    ) -> Result<Self, ModelError> {
        let mut matrix = |part: &str, rows, cols| weights.matrix(&format!("{prefix}{part}_proj.weight"), rows, cols);
        Ok(match rank {
            None => Projection::Whole(matrix("", rows, cols)?),
            Some(rank) => Projection::LowRank([matrix("_a", rank, cols)?, matrix("_b", rows, rank)?]),
        })
    }

    /// The same with its last product in f32.
    fn exact(self) -> Self {
        match self {
            Projection::Whole(matrix) => Projection::Whole(matrix.exact()),
            Projection::LowRank([a, b]) => Projection::LowRank([a, b.exact()]),
        }
    }

    /// x `[n, hidden]` → `[n, width]` in the workspace.
    fn apply(&self, x: &Tensor, run: &mut Run) -> Tensor {
        let (Projection::Whole(last) | Projection::LowRank([_, last])) = self;
        let out = run.workspace.f32([x.dim(0), last.rows()]);
        match self {
            Projection::Whole(matrix) => run.ops.linear(x, matrix, &out),
            Projection::LowRank([a, b]) => {
                let between = run.workspace.f32([x.dim(0), a.rows()]);
                run.ops.linear(x, a, &between);
                run.ops.linear(&between, b, &out);
            }
        }
        out
    }
}

/// The weights of one layer.
pub struct Kda {
    sizes: Sizes,
    inputs: [Input; 3],
    f: Projection, // hidden to width: decays
    b: Matrix,     // [heads, hidden]
    g: Projection, // hidden to width: gates
    delta: GatedDelta,
    norm: RmsNorm,  // [head_dim]
    o_proj: Matrix, // [hidden, width]
}

impl Kda {
    /// Loads `{prefix}.*`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(
        weights: &mut Weights,
        prefix: &str,
        sizes: Sizes,
        kind: Kind,
        norms: Norms,
    ) -> Result<Self, ModelError> {
        let Sizes { hidden, heads, head_dim, kernel } = sizes;
        let width = sizes.width();
        let name = |part: &str| format!("{prefix}.{part}");
        let mut input = |part: &str, place: usize| {
            let weight = weights.convolution(&name(&format!("{part}_conv1d.weight")), width, kernel)?;
            Ok::<_, ModelError>(Input {
                proj: weights.matrix(&name(&format!("{part}_proj.weight")), width, hidden)?,
                conv: CausalConv { weight, bias: None, silu: true, dilation: 1 },
                run: [ColumnRun { from: 0, to: place * width, len: width }],
            })
        };
        let inputs = [input("q", 0)?, input("k", 1)?, input("v", 2)?];
        let rank = kind.low_rank.then_some(head_dim);
        let a_log_shape = if kind.a_log_4d { &[1, 1, heads, 1][..] } else { &[heads] };
        Ok(Kda {
            sizes,
            inputs,
            f: Projection::load(weights, &name("f"), [width, hidden], rank)?.exact(),
            b: weights.matrix(&name("b_proj.weight"), heads, hidden)?.exact(),
            g: Projection::load(weights, &name("g"), [width, hidden], rank)?,
            o_proj: weights.matrix(&name(&format!("{}.weight", kind.o_proj)), hidden, width)?,
            delta: GatedDelta {
                k_heads: heads,
                v_heads: heads,
                k_dim: head_dim,
                v_dim: head_dim,
                per_channel: true,
                tiled: false,
                exponentiated: weights.are_gguf(),
                a_log: weights.tensor(&name("A_log"), a_log_shape)?.reshape([heads]),
                dt_bias: weights.vector(&name("dt_bias"), width)?,
                bound: kind.bound,
            },
            norm: norms.load(weights, &name("o_norm.weight"), head_dim)?,
        })
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
                let tail = layout.tail_of(&at.recurrent(span.state), part, 3);
                ops.causal_conv(&rows(&projected), &input.conv, &tail, &rows(&mixed));
            }
            ops.copy_columns(&mixed, &input.run, &qkv);
        }
        let a = self.f.apply(x, run); // [n, width]
        ops.linear(x, &self.b, &b);
        for span in &at.batch.spans {
            let rows = |t: &Tensor| t.rows(span.rows.clone());
            let matrices = layout.matrices(&at.recurrent(span.state));
            ops.gated_delta(&rows(&qkv), &rows(&a), &rows(&b), &self.delta, &matrices, &rows(&values));
        }
        ops.rms_norm(&values, &self.norm, &values);
        let gate = self.g.apply(x, run); // [n, width]
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
