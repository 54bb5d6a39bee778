//! A short convolution between two gates, in place of attention (LFM2; `transformers` `modeling_lfm2_moe.py`): what is kept of a
//! sequence is its last inputs.

use outpour_kernels::{Activation, CausalConv, ColumnRun, Matrix, Tensor};

use super::mixer::{At, Mixer};
use crate::config::{Config, ModelError};
use crate::state::RecurrentLayout;
use crate::weights::Weights;
use crate::{Run, Workspace};

/// Sizes of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Width of the residual stream, and channels of the convolution.
    pub hidden: usize,
    /// Width of the convolution.
    pub kernel: usize,
}

impl Sizes {
    /// Reads `hidden_size` and `conv_L_cache` of the config.
    ///
    /// # Errors
    /// When a key is missing, or makes no convolution.
    pub fn read(config: &Config) -> Result<Self, ModelError> {
        let sizes = Sizes { hidden: config.size("hidden_size")?, kernel: config.size_or("conv_L_cache", 3)? };
        match sizes.kernel > 1 {
            true => Ok(sizes),
            false => Err(ModelError::Config("conv_L_cache 1 makes no convolution; download it again".into())),
        }
    }

    fn recurrent(&self) -> RecurrentLayout {
        RecurrentLayout { kernel: self.kernel, channels: self.hidden, heads: 0, k_dim: 0, v_dim: 0 }
    }
}

/// The weights of one layer.
pub struct ShortConv {
    sizes: Sizes,
    in_proj: Matrix, // [3 · hidden, hidden]: the gate before, the one behind, and what is convolved
    inputs: [[ColumnRun; 1]; 3],
    conv: CausalConv,
    out_proj: Matrix, // [hidden, hidden]
}

impl ShortConv {
    /// Loads `{prefix}.{in_proj,conv,out_proj}`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(weights: &mut Weights, prefix: &str, sizes: Sizes) -> Result<Self, ModelError> {
        let Sizes { hidden, kernel } = sizes;
        let weight = weights.convolution(&format!("{prefix}.conv.weight"), hidden, kernel)?;
        Ok(ShortConv {
            sizes,
            in_proj: weights.matrix(&format!("{prefix}.in_proj.weight"), 3 * hidden, hidden)?,
            inputs: [0, 1, 2].map(|part| [ColumnRun { from: part * hidden, to: 0, len: hidden }]),
            conv: CausalConv { weight, bias: None, silu: false, dilation: 1 },
            out_proj: weights.matrix(&format!("{prefix}.out_proj.weight"), hidden, hidden)?,
        })
    }
}

impl Mixer for ShortConv {
    fn forward(&self, at: &At, x: &Tensor, into: &Tensor, run: &mut Run) {
        let (n, hidden, ops) = (at.batch.len(), self.sizes.hidden, run.ops);
        let projected = run.workspace.f32([n, 3 * hidden]);
        let [before, behind, input] = [(); 3].map(|()| run.workspace.f32([n, hidden]));
        let mixed = run.workspace.f32([n, hidden]);

        ops.linear(x, &self.in_proj, &projected);
        for (part, runs) in [&before, &behind, &input].into_iter().zip(&self.inputs) {
            ops.copy_columns(&projected, runs, part);
        }
        ops.glu(&before, &input, Activation::Product, &input);
        let layout = self.sizes.recurrent();
        for span in &at.batch.spans {
            let rows = |t: &Tensor| t.rows(span.rows.clone());
            let tail = layout.tail(&at.recurrent(span.state));
            ops.causal_conv(&rows(&input), &self.conv, &tail, &rows(&mixed));
        }
        ops.glu(&behind, &mixed, Activation::Product, &mixed);
        ops.linear(&mixed, &self.out_proj, &input);
        ops.add(&input, into);
    }

    fn workspace_bytes(&self, n: usize) -> usize {
        Workspace::f32_bytes(3 * n * self.sizes.hidden) + 4 * Workspace::f32_bytes(n * self.sizes.hidden)
    }

    fn recurrent(&self) -> Option<RecurrentLayout> {
        Some(self.sizes.recurrent())
    }

    fn letter(&self) -> (char, &'static str) {
        ('C', "a short convolution")
    }
}
