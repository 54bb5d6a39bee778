//! Gated DeltaNet: a linear recurrence in place of attention (arXiv 2412.06464; `transformers` `modeling_qwen3_next.py`).

use outpour_kernels::{CausalConv, ColumnRun, GatedDelta, Matrix, RmsNorm, Tensor};

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
    /// Heads of queries and keys.
    pub k_heads: usize,
    /// Heads of values.
    pub v_heads: usize,
    /// Width of a query and of a key.
    pub k_dim: usize,
    /// Width of a value.
    pub v_dim: usize,
    /// Width of the convolution.
    pub kernel: usize,
}

impl Sizes {
    /// Reads `linear_*` of the config.
    ///
    /// # Errors
    /// When a key is missing, or they do not fit each other.
    pub fn read(config: &Config, hidden: usize) -> Result<Self, ModelError> {
        let sizes = Sizes {
            hidden,
            k_heads: config.size("linear_num_key_heads")?,
            v_heads: config.size("linear_num_value_heads")?,
            k_dim: config.size("linear_key_head_dim")?,
            v_dim: config.size("linear_value_head_dim")?,
            kernel: config.size_or("linear_conv_kernel_dim", 4)?,
        };
        if !sizes.v_heads.is_multiple_of(sizes.k_heads) || sizes.kernel < 2 {
            let Sizes { k_heads, v_heads, kernel, .. } = sizes;
            return Err(ModelError::Config(format!(
                "linear_num_value_heads {v_heads} of linear_num_key_heads {k_heads} with linear_conv_kernel_dim {kernel} make no Gated DeltaNet; download it again"
            )));
        }
        Ok(sizes)
    }

    fn keys(&self) -> usize {
        self.k_heads * self.k_dim
    }

    fn values(&self) -> usize {
        self.v_heads * self.v_dim
    }

    /// Channels of the convolution: queries, keys and values.
    fn channels(&self) -> usize {
        2 * self.keys() + self.values()
    }

    fn recurrent(&self) -> RecurrentLayout {
        let Sizes { kernel, v_heads, k_dim, v_dim, .. } = *self;
        RecurrentLayout { kernel, channels: self.channels(), heads: v_heads, k_dim, v_dim }
    }
}

/// The weights of one layer.
pub struct DeltaNet {
    sizes: Sizes,
    inputs: Inputs,
    coefficients: Coefficients,
    runs: PackedRuns,
    conv: CausalConv,
    delta: GatedDelta,
    norm: RmsNorm, // [v_dim]
    /// Whether z gates by its sigmoid, not by its silu (Qwen4-Exp).
    sigmoid: bool,
    out_proj: Matrix, // [hidden, values]
}

/// How queries, keys, values and gate z are projected: in Qwen3.5 by two matrices; in Qwen3-Next by one, whose rows are
/// grouped by key head, `[q | k | v.. | z..]`.
enum Inputs {
    Apart { qkv: Matrix, z: Matrix },
    Packed { qkvz: Matrix },
}

/// How the coefficients a and b are projected: the same, and `[b.. | a..]`.
enum Coefficients {
    Apart { a: Matrix, b: Matrix },
    Packed { ba: Matrix },
}

/// Which columns of the packed projections make which tensor.
struct PackedRuns {
    qkv: Vec<ColumnRun>,
    z: Vec<ColumnRun>,
    a: Vec<ColumnRun>,
    b: Vec<ColumnRun>,
}

impl PackedRuns {
    fn new(sizes: &Sizes) -> Self {
        let Sizes { k_heads, v_heads, k_dim, v_dim, .. } = *sizes;
        let ratio = v_heads / k_heads;
        let (values, group) = (ratio * v_dim, 2 * k_dim + 2 * ratio * v_dim);
        let runs = |of: &dyn Fn(usize) -> ColumnRun| (0..k_heads).map(of).collect::<Vec<_>>();
        let run = |from, to, len| ColumnRun { from, to, len };
        let mut qkv = runs(&|head| run(head * group, head * k_dim, k_dim));
        qkv.extend(runs(&|head| run(head * group + k_dim, sizes.keys() + head * k_dim, k_dim)));
        qkv.extend(runs(&|head| run(head * group + 2 * k_dim, 2 * sizes.keys() + head * values, values)));
        PackedRuns {
            qkv,
            z: runs(&|head| run(head * group + 2 * k_dim + values, head * values, values)),
            b: runs(&|head| run(head * 2 * ratio, head * ratio, ratio)),
            a: runs(&|head| run(head * 2 * ratio + ratio, head * ratio, ratio)),
        }
    }
}

impl DeltaNet {
    /// Loads `{prefix}.*`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(weights: &mut Weights, prefix: &str, sizes: Sizes, packed: bool, eps: f32) -> Result<Self, ModelError> {
        let Sizes { hidden, k_heads, v_heads, k_dim, v_dim, kernel } = sizes;
        let (channels, values) = (sizes.channels(), sizes.values());
        let name = |part: &str| format!("{prefix}.{part}");
        // llama.cpp's newer conversions of Qwen3-Next have queries, keys and values apart from z, and a and b packed.
        let inputs = if packed && weights.shape_of(&name("in_proj_qkv.weight")).is_none() {
            Inputs::Packed { qkvz: weights.matrix(&name("in_proj_qkvz.weight"), channels + values, hidden)? }
        } else {
            Inputs::Apart {
                qkv: weights.matrix(&name("in_proj_qkv.weight"), channels, hidden)?,
                z: weights.matrix(&name("in_proj_z.weight"), values, hidden)?,
            }
        };
        let coefficients = if packed {
            Coefficients::Packed { ba: weights.matrix(&name("in_proj_ba.weight"), 2 * v_heads, hidden)?.exact() }
        } else {
            Coefficients::Apart {
                a: weights.matrix(&name("in_proj_a.weight"), v_heads, hidden)?.exact(),
                b: weights.matrix(&name("in_proj_b.weight"), v_heads, hidden)?.exact(),
            }
        };
        // [channels, 1, kernel] as released, [channels, kernel, 1] in MLX's exports.
        Ok(DeltaNet {
            sizes,
            inputs,
            coefficients,
            runs: PackedRuns::new(&sizes),
            conv: CausalConv {
                weight: weights.convolution(&name("conv1d.weight"), channels, kernel)?,
                bias: None,
                silu: true,
                dilation: 1,
            },
            delta: GatedDelta {
                k_heads,
                v_heads,
                k_dim,
                v_dim,
                per_channel: false,
                tiled: !packed && weights.are_gguf(),
                exponentiated: weights.are_gguf(),
                a_log: weights.vector(&name("A_log"), v_heads)?,
                dt_bias: weights.vector(&name("dt_bias"), v_heads)?,
                bound: None,
            },
            norm: RmsNorm { weight: Some(weights.norm(&name("norm.weight"), v_dim, false)?), plus_one: false, eps },
            sigmoid: false,
            out_proj: weights.matrix(&name("out_proj.weight"), hidden, values)?,
        })
    }

    /// The same gated by the sigmoid of z.
    pub fn gated_by_sigmoid(self) -> Self {
        DeltaNet { sigmoid: true, ..self }
    }

    fn project(&self, x: &Tensor, qkv: &Tensor, z: &Tensor, a: &Tensor, b: &Tensor, run: &mut Run) {
        let (n, ops) = (x.dim(0), run.ops);
        match &self.inputs {
            Inputs::Apart { qkv: qkv_proj, z: z_proj } => {
                ops.linears(x, &[(qkv_proj, qkv), (z_proj, z)]);
            }
            Inputs::Packed { qkvz } => {
                let packed = run.workspace.f32([n, qkvz.rows()]);
                ops.linear(x, qkvz, &packed);
                ops.copy_columns(&packed, &self.runs.qkv, qkv);
                ops.copy_columns(&packed, &self.runs.z, z);
            }
        }
        match &self.coefficients {
            Coefficients::Apart { a: a_proj, b: b_proj } => {
                ops.linears(x, &[(a_proj, a), (b_proj, b)]);
            }
            Coefficients::Packed { ba } => {
                let packed = run.workspace.f32([n, ba.rows()]);
                ops.linear(x, ba, &packed);
                ops.copy_columns(&packed, &self.runs.a, a);
                ops.copy_columns(&packed, &self.runs.b, b);
            }
        }
    }
}

impl Mixer for DeltaNet {
    fn forward(&self, at: &At, x: &Tensor, into: &Tensor, run: &mut Run) {
        let Sizes { hidden, v_heads, v_dim, .. } = self.sizes;
        let (n, ops) = (at.batch.len(), run.ops);
        let qkv = run.workspace.f32([n, self.sizes.channels()]);
        let mixed = run.workspace.f32([n, self.sizes.channels()]);
        let z = run.workspace.f32([n, self.sizes.values()]);
        let a = run.workspace.f32([n, v_heads]);
        let b = run.workspace.f32([n, v_heads]);
        let values = run.workspace.f32([n, v_heads, v_dim]);
        let out = run.workspace.f32([n, hidden]);

        self.project(x, &qkv, &z, &a, &b, run);
        let layout = self.sizes.recurrent();
        for span in &at.batch.spans {
            let rows = |t: &Tensor| t.rows(span.rows.clone());
            let state = &at.recurrent(span.state);
            ops.causal_conv(&rows(&qkv), &self.conv, &layout.tail(state), &rows(&mixed));
            ops.gated_delta(&rows(&mixed), &rows(&a), &rows(&b), &self.delta, &layout.matrices(state), &rows(&values));
        }
        match self.sigmoid {
            true => {
                ops.rms_norm(&values, &self.norm, &values);
                ops.sigmoid_gate(&values, &z);
            }
            false => ops.rms_norm_gated(&values, &z, &self.norm, &values),
        }
        ops.linear(&values.reshape([n, v_heads * v_dim]), &self.out_proj, &out);
        ops.add(&out, into);
    }

    fn workspace_bytes(&self, n: usize) -> usize {
        let Sizes { hidden, v_heads, .. } = self.sizes;
        let (channels, values) = (self.sizes.channels(), self.sizes.values());
        let f32s = Workspace::f32_bytes;
        let packed_inputs = match &self.inputs {
            Inputs::Apart { .. } => 0,
            Inputs::Packed { .. } => f32s(n * (channels + values)),
        };
        let packed_coefficients = match &self.coefficients {
            Coefficients::Apart { .. } => 0,
            Coefficients::Packed { .. } => f32s(n * 2 * v_heads),
        };
        let apart = 2 * f32s(n * channels) + 2 * f32s(n * v_heads);
        packed_inputs + packed_coefficients + apart + 2 * f32s(n * values) + f32s(n * hidden)
    }

    fn recurrent(&self) -> Option<RecurrentLayout> {
        Some(self.sizes.recurrent())
    }

    fn letter(&self) -> (char, &'static str) {
        ('D', "Gated DeltaNet")
    }
}
