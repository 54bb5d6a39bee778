//! Mamba-2: a selective state space in place of attention (arXiv 2405.21060; `transformers` `modeling_nemotron_h.py`, but for its
//! lower limit of time steps in prompts only, which the others have not).

use outpour_kernels::{Activation, CausalConv, ColumnRun, Decay, LinearAttention, Matrix, RmsNorm, Tensor};
use serde_json::Value;

use super::mixer::{At, Mixer};
use crate::config::{Config, ModelError};
use crate::state::RecurrentLayout;
use crate::weights::Weights;
use crate::{Run, Workspace};

/// Sizes of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Heads of the values x.
    pub heads: usize,
    /// Width of each.
    pub head_dim: usize,
    /// Groups of heads that share B and C, and a norm.
    pub groups: usize,
    /// Width of B and of C.
    pub state: usize,
    /// Width of the convolution.
    pub kernel: usize,
}

impl Sizes {
    /// Reads `mamba_num_heads`, `mamba_head_dim`, `n_groups`, `ssm_state_size` and `conv_kernel` of the config, or as Granite
    /// spells them.
    ///
    /// # Errors
    /// When a key is missing, or they do not fit each other.
    pub fn read(config: &Config) -> Result<Self, ModelError> {
        check_time_steps(config)?;
        let sizes = Sizes {
            hidden: config.size("hidden_size")?,
            heads: config.size_of(&["mamba_num_heads", "mamba_n_heads"])?,
            head_dim: config.size_of(&["mamba_head_dim", "mamba_d_head"])?,
            groups: config.size_of(&["n_groups", "mamba_n_groups"])?,
            state: config.size_of(&["ssm_state_size", "mamba_d_state"])?,
            kernel: config.size_or(config.spelling(&["conv_kernel", "mamba_d_conv"]), 4)?,
        };
        let Sizes { heads, groups, kernel, .. } = sizes;
        match heads.is_multiple_of(groups) && kernel > 1 {
            true => Ok(sizes),
            false => Err(ModelError::Config(format!(
                "{} {heads} of {} {groups} with a convolution of {kernel} make no Mamba-2; download it again",
                config.spelling(&["mamba_num_heads", "mamba_n_heads"]),
                config.spelling(&["n_groups", "mamba_n_groups"])
            ))),
        }
    }

    fn inner(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Columns of B, and of C.
    fn shared(&self) -> usize {
        self.groups * self.state
    }

    /// Channels of the convolution: x, B and C.
    fn channels(&self) -> usize {
        self.inner() + 2 * self.shared()
    }

    fn recurrent(&self) -> RecurrentLayout {
        let Sizes { heads, head_dim, state, kernel, .. } = *self;
        RecurrentLayout { kernel, channels: self.channels(), heads, k_dim: state, v_dim: head_dim }
    }
}

/// Time steps from here on are beyond what a softplus of weights comes to: converters write such for infinity, which JSON lacks.
const TIME_STEP_UNBOUNDED: f64 = 1e20;

/// Refuses a `time_step_limit` that limits, as no released model's does.
fn check_time_steps(config: &Config) -> Result<(), ModelError> {
    let unbounded = |above: &Value| match above {
        Value::Number(number) => number.as_f64().is_some_and(|above| above >= TIME_STEP_UNBOUNDED),
        Value::String(word) => word == "Infinity",
        // As `transformers` writes it since its fifth version.
        object => object.get("__float__").is_some_and(|word| word == "Infinity"),
    };
    for key in ["time_step_limit", "mamba_dt_limit"] {
        match config.0.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::Array(limits)) if matches!(&limits[..], [below, above] if below.as_f64() == Some(0.0) && unbounded(above)) =>
                {}
            Some(limits) => {
                return Err(ModelError::Config(format!(
                    "{key} is {limits}, and no released model of this family limits its time steps; supported is [0, Infinity]"
                )));
            }
        }
    }
    Ok(())
}

/// The weights of one layer.
pub struct Mamba2 {
    sizes: Sizes,
    in_proj: Matrix, // [inner + channels + heads, hidden]: z, then what is convolved, then dt
    inputs: [[ColumnRun; 1]; 3],
    conv: CausalConv,
    parts: [[ColumnRun; 1]; 3],
    ssm: LinearAttention,
    norm: RmsNorm,    // [inner], over each group
    out_proj: Matrix, // [hidden, inner]
}

impl Mamba2 {
    /// Loads `{prefix}.*`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(weights: &mut Weights, prefix: &str, sizes: Sizes, eps: f32) -> Result<Self, ModelError> {
        let Sizes { hidden, heads, head_dim, groups, state, kernel } = sizes;
        let (inner, shared, channels) = (sizes.inner(), sizes.shared(), sizes.channels());
        let name = |part: &str| format!("{prefix}.{part}");
        let run = |from, len| [ColumnRun { from, to: 0, len }];
        // A row for each group in GGUF files.
        let norm = match weights.are_gguf() {
            true => weights.tensor(&name("norm.weight"), &[groups, inner / groups])?.reshape([inner]),
            false => weights.norm(&name("norm.weight"), inner, false)?,
        };
        Ok(Mamba2 {
            sizes,
            in_proj: weights.matrix(&name("in_proj.weight"), inner + channels + heads, hidden)?,
            inputs: [run(0, inner), run(inner, channels), run(inner + channels, heads)],
            conv: CausalConv {
                weight: weights.convolution(&name("conv1d.weight"), channels, kernel)?,
                bias: Some(weights.vector(&name("conv1d.bias"), channels)?),
                silu: true,
                dilation: 1,
            },
            parts: [run(0, inner), run(inner, shared), run(inner + shared, shared)],
            ssm: LinearAttention {
                k_heads: groups,
                v_heads: heads,
                k_dim: state,
                v_dim: head_dim,
                decay: Decay::Selective {
                    a_log: weights.vector(&name("A_log"), heads)?,
                    exponentiated: weights.are_gguf(),
                    dt_bias: weights.vector(&name("dt_bias"), heads)?,
                    d: weights.vector(&name("D"), heads)?,
                },
            },
            norm: RmsNorm { weight: Some(norm), plus_one: false, eps },
            out_proj: weights.matrix(&name("out_proj.weight"), hidden, inner)?,
        })
    }
}

impl Mixer for Mamba2 {
    fn forward(&self, at: &At, x: &Tensor, into: &Tensor, run: &mut Run) {
        let Sizes { hidden, heads, groups, .. } = self.sizes;
        let (n, ops) = (at.batch.len(), run.ops);
        let (inner, shared, channels) = (self.sizes.inner(), self.sizes.shared(), self.sizes.channels());
        let projected = run.workspace.f32([n, inner + channels + heads]);
        let z = run.workspace.f32([n, inner]);
        let xbc = run.workspace.f32([n, channels]);
        let dt = run.workspace.f32([n, heads]);
        let mixed = run.workspace.f32([n, channels]);
        let [values, y] = [(); 2].map(|()| run.workspace.f32([n, inner]));
        let [b, c] = [(); 2].map(|()| run.workspace.f32([n, shared]));
        let out = run.workspace.f32([n, hidden]);

        ops.linear(x, &self.in_proj, &projected);
        for (part, runs) in [&z, &xbc, &dt].into_iter().zip(&self.inputs) {
            ops.copy_columns(&projected, runs, part);
        }
        let layout = self.sizes.recurrent();
        for span in &at.batch.spans {
            let rows = |t: &Tensor| t.rows(span.rows.clone());
            let state = &at.recurrent(span.state);
            ops.causal_conv(&rows(&xbc), &self.conv, &layout.tail(state), &rows(&mixed));
        }
        for (part, runs) in [&values, &b, &c].into_iter().zip(&self.parts) {
            ops.copy_columns(&mixed, runs, part);
        }
        for span in &at.batch.spans {
            let rows = |t: &Tensor| t.rows(span.rows.clone());
            let matrices = layout.matrices(&at.recurrent(span.state));
            let (c, b, values, dt) = (rows(&c), rows(&b), rows(&values), rows(&dt));
            ops.linear_attention([&c, &b, &values], Some(&dt), &self.ssm, &matrices, &rows(&y));
        }
        ops.glu(&z, &y, Activation::SwiGlu, &y); // y · silu(z)
        let grouped = y.reshape([n, groups, inner / groups]);
        ops.rms_norm(&grouped, &self.norm, &grouped);
        ops.linear(&y, &self.out_proj, &out);
        ops.add(&out, into);
    }

    fn workspace_bytes(&self, n: usize) -> usize {
        let Sizes { hidden, heads, .. } = self.sizes;
        let (inner, shared, channels) = (self.sizes.inner(), self.sizes.shared(), self.sizes.channels());
        let f32s = |columns: usize| Workspace::f32_bytes(n * columns);
        f32s(inner + channels + heads)
            + 3 * f32s(inner)
            + 2 * f32s(channels)
            + f32s(heads)
            + 2 * f32s(shared)
            + f32s(hidden)
    }

    fn recurrent(&self) -> Option<RecurrentLayout> {
        Some(self.sizes.recurrent())
    }

    fn letter(&self) -> (char, &'static str) {
        ('M', "Mamba-2")
    }
}
