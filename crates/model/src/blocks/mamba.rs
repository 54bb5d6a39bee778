//! Mamba: a selective state space of a few numbers for each channel, in place of attention (arXiv 2312.00752), with the norms of
//! Jamba (arXiv 2403.19887; `transformers` `modeling_jamba.py`).

use outpour_kernels::{Activation, CausalConv, ColumnRun, Matrix, RmsNorm, SelectiveScan, Tensor};

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
    /// Channels.
    pub inner: usize,
    /// Numbers that a channel keeps.
    pub state: usize,
    /// Width of the vector that time steps are made of.
    pub dt_rank: usize,
    /// Width of the convolution.
    pub kernel: usize,
}

impl Sizes {
    /// Reads `mamba_expand`, `mamba_d_state`, `mamba_dt_rank` and `mamba_d_conv` of the config.
    ///
    /// # Errors
    /// When a key is missing, or they make no Mamba.
    pub fn read(config: &Config) -> Result<Self, ModelError> {
        let hidden = config.size("hidden_size")?;
        let expand = config.size_or("mamba_expand", 2)?;
        let auto = config.text_or("mamba_dt_rank", "").is_ok();
        let sizes = Sizes {
            hidden,
            inner: hidden.saturating_mul(expand),
            state: config.size_or("mamba_d_state", 16)?,
            dt_rank: if auto { hidden.div_ceil(16) } else { config.size("mamba_dt_rank")? },
            kernel: config.size_or("mamba_d_conv", 4)?,
        };
        let Sizes { inner, state, kernel, .. } = sizes;
        match kernel > 1 && (inner as u64).saturating_mul(state as u64) < SIZE_MAX {
            true => Ok(sizes),
            false => Err(ModelError::Config(format!(
                "mamba_expand {expand}, mamba_d_state {state} and mamba_d_conv {kernel} make no Mamba; download it again"
            ))),
        }
    }

    fn recurrent(&self) -> RecurrentLayout {
        let Sizes { inner, state, kernel, .. } = *self;
        RecurrentLayout { kernel, channels: inner, heads: 1, k_dim: state, v_dim: inner }
    }
}

/// The weights of one layer.
pub struct Mamba {
    sizes: Sizes,
    in_proj: Matrix, // [2 · inner, hidden]: what is convolved, then z
    inputs: [[ColumnRun; 1]; 2],
    conv: CausalConv,
    x_proj: Matrix, // [dt_rank + 2 · state, inner]
    parts: [[ColumnRun; 1]; 3],
    norms: [RmsNorm; 3], // of dt, B and C
    dt_proj: Matrix,     // [inner, dt_rank]
    scan: SelectiveScan,
    out_proj: Matrix, // [hidden, inner]
}

impl Mamba {
    /// Loads `{prefix}.*`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(weights: &mut Weights, prefix: &str, sizes: Sizes, norms: Norms) -> Result<Self, ModelError> {
        let Sizes { hidden, inner, state, dt_rank, kernel } = sizes;
        let name = |part: &str| format!("{prefix}.{part}");
        let run = |from, len| [ColumnRun { from, to: 0, len }];
        let mut norm = |part: &str, elements| norms.load(weights, &name(&format!("{part}_layernorm.weight")), elements);
        Ok(Mamba {
            sizes,
            norms: [norm("dt", dt_rank)?, norm("b", state)?, norm("c", state)?],
            in_proj: weights.matrix(&name("in_proj.weight"), 2 * inner, hidden)?,
            inputs: [run(0, inner), run(inner, inner)],
            conv: CausalConv {
                weight: weights.convolution(&name("conv1d.weight"), inner, kernel)?,
                bias: Some(weights.vector(&name("conv1d.bias"), inner)?),
                silu: true,
                dilation: 1,
            },
            x_proj: weights.matrix(&name("x_proj.weight"), dt_rank + 2 * state, inner)?,
            parts: [run(0, dt_rank), run(dt_rank, state), run(dt_rank + state, state)],
            dt_proj: weights.matrix(&name("dt_proj.weight"), inner, dt_rank)?.exact(),
            scan: SelectiveScan {
                a_log: weights.tensor(&name("A_log"), &[inner, state])?,
                exponentiated: weights.are_gguf(),
                dt_bias: weights.vector(&name("dt_proj.bias"), inner)?,
                d: weights.vector(&name("D"), inner)?,
            },
            out_proj: weights.matrix(&name("out_proj.weight"), hidden, inner)?,
        })
    }
}

impl Mixer for Mamba {
    fn forward(&self, at: &At, x: &Tensor, into: &Tensor, run: &mut Run) {
        let Sizes { hidden, inner, state, dt_rank, .. } = self.sizes;
        let (n, ops) = (at.batch.len(), run.ops);
        let projected = run.workspace.f32([n, 2 * inner]);
        let [input, z, mixed, dt, y] = [(); 5].map(|()| run.workspace.f32([n, inner]));
        let small = run.workspace.f32([n, dt_rank + 2 * state]);
        let low_rank = run.workspace.f32([n, dt_rank]);
        let [b, c] = [(); 2].map(|()| run.workspace.f32([n, state]));
        let out = run.workspace.f32([n, hidden]);

        ops.linear(x, &self.in_proj, &projected);
        for (part, runs) in [&input, &z].into_iter().zip(&self.inputs) {
            ops.copy_columns(&projected, runs, part);
        }
        let layout = self.sizes.recurrent();
        for span in &at.batch.spans {
            let rows = |t: &Tensor| t.rows(span.rows.clone());
            let tail = layout.tail(&at.recurrent(span.state));
            ops.causal_conv(&rows(&input), &self.conv, &tail, &rows(&mixed));
        }
        ops.linear(&mixed, &self.x_proj, &small);
        for ((part, runs), norm) in [&low_rank, &b, &c].into_iter().zip(&self.parts).zip(&self.norms) {
            ops.copy_columns(&small, runs, part);
            ops.rms_norm(part, norm, part);
        }
        ops.linear(&low_rank, &self.dt_proj, &dt);
        for span in &at.batch.spans {
            let rows = |t: &Tensor| t.rows(span.rows.clone());
            let matrices = layout.matrices(&at.recurrent(span.state));
            let (mixed, dt, b, c) = (rows(&mixed), rows(&dt), rows(&b), rows(&c));
            ops.selective_scan([&mixed, &dt], [&b, &c], &self.scan, &matrices, &rows(&y));
        }
        ops.glu(&z, &y, Activation::SwiGlu, &y); // y · silu(z)
        ops.linear(&y, &self.out_proj, &out);
        ops.add(&out, into);
    }

    fn workspace_bytes(&self, n: usize) -> usize {
        let Sizes { hidden, inner, state, dt_rank, .. } = self.sizes;
        let f32s = |columns: usize| Workspace::f32_bytes(n * columns);
        f32s(2 * inner) + 5 * f32s(inner) + f32s(dt_rank + 2 * state) + f32s(dt_rank) + 2 * f32s(state) + f32s(hidden)
    }

    fn recurrent(&self) -> Option<RecurrentLayout> {
        Some(self.sizes.recurrent())
    }

    fn letter(&self) -> (char, &'static str) {
        ('M', "Mamba")
    }
}
