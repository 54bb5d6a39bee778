//! Lightning Attention: linear attention in which each head forgets at a fixed rate (arXiv 2401.04658, 2501.08313;
//! `transformers` `modeling_minimax.py`).

use outpour_kernels::{Activation, ColumnRun, Decay, LinearAttention, Matrix, RmsNorm, Tensor};

use super::attention;
use super::mixer::{At, Mixer};
use crate::config::ModelError;
use crate::state::RecurrentLayout;
use crate::weights::{Norms, Weights};
use crate::{Run, Workspace};

/// The norm of all heads adds this, whatever `rms_norm_eps` says.
const NORM_EPS: f32 = 1e-6;

/// The weights of one layer.
pub struct Lightning {
    sizes: attention::Sizes,
    qkv_proj: Matrix, // [3 · heads · head_dim, hidden]: q, k and v of each head behind each other
    runs: [Vec<ColumnRun>; 3],
    linear: LinearAttention,
    norm: RmsNorm,       // [heads · head_dim]
    output_gate: Matrix, // [heads · head_dim, hidden]
    out_proj: Matrix,    // [hidden, heads · head_dim]
}

impl Lightning {
    /// Loads `{prefix}.{qkv_proj,norm,output_gate,out_proj}.weight` of one of `layers` layers. The first layers forget fastest, and
    /// in each layer the first heads.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(
        weights: &mut Weights,
        prefix: &str,
        sizes: attention::Sizes,
        layer: usize,
        layers: usize,
    ) -> Result<Self, ModelError> {
        let attention::Sizes { hidden, heads, head_dim, .. } = sizes;
        let width = heads * head_dim;
        let runs = |part: usize| {
            let run = |head| ColumnRun { from: (3 * head + part) * head_dim, to: head * head_dim, len: head_dim };
            (0..heads).map(run).collect()
        };
        let slower = 1.0 - layer as f32 / ((layers - 1) as f32 + 1e-5) + 1e-5;
        let rate = |head: usize| 2f32.powf(-8.0 * (head + 1) as f32 / heads as f32) * slower;
        let norms = Norms { eps: NORM_EPS, plus_one: false };
        let name = |part: &str| format!("{prefix}.{part}.weight");
        Ok(Lightning {
            sizes,
            runs: [runs(0), runs(1), runs(2)],
            linear: LinearAttention {
                k_heads: heads,
                v_heads: heads,
                k_dim: head_dim,
                v_dim: head_dim,
                decay: Decay::Rates((0..heads).map(rate).collect()),
            },
            qkv_proj: weights.matrix(&name("qkv_proj"), 3 * width, hidden)?,
            norm: norms.load(weights, &name("norm"), width)?,
            output_gate: weights.matrix(&name("output_gate"), width, hidden)?,
            out_proj: weights.matrix(&name("out_proj"), hidden, width)?,
        })
    }

    /// What a layer keeps of a sequence: no convolution comes before it.
    fn layout(&self) -> RecurrentLayout {
        let attention::Sizes { heads, head_dim, .. } = self.sizes;
        RecurrentLayout { kernel: 1, channels: 0, heads, k_dim: head_dim, v_dim: head_dim }
    }
}

impl Mixer for Lightning {
    fn forward(&self, at: &At, x: &Tensor, into: &Tensor, run: &mut Run) {
        let attention::Sizes { hidden, heads, head_dim, .. } = self.sizes;
        let (n, width, ops) = (at.batch.len(), heads * head_dim, run.ops);
        let qkv = run.workspace.f32([n, 3 * width]);
        let [q, k, v, gate] = [(); 4].map(|()| run.workspace.f32([n, width]));
        let values = run.workspace.f32([n, heads, head_dim]);
        let out = run.workspace.f32([n, hidden]);

        ops.linear(x, &self.qkv_proj, &qkv);
        ops.glu(&qkv, &qkv, Activation::Silu, &qkv);
        for (part, runs) in [&q, &k, &v].into_iter().zip(&self.runs) {
            ops.copy_columns(&qkv, runs, part);
        }
        for span in &at.batch.spans {
            let rows = |t: &Tensor| t.rows(span.rows.clone());
            let matrices = self.layout().matrices(at.states[span.state].recurrent(at.layer));
            ops.linear_attention(&rows(&q), &rows(&k), &rows(&v), None, &self.linear, &matrices, &rows(&values));
        }
        let values = values.reshape([n, width]);
        ops.rms_norm(&values, &self.norm, &values);
        ops.linear(x, &self.output_gate, &gate);
        ops.sigmoid_gate(&values, &gate);
        ops.linear(&values, &self.out_proj, &out);
        ops.add(&out, into);
    }

    fn workspace_bytes(&self, n: usize) -> usize {
        let attention::Sizes { hidden, heads, head_dim, .. } = self.sizes;
        let (width, f32s) = (heads * head_dim, Workspace::f32_bytes);
        f32s(3 * n * width) + 5 * f32s(n * width) + f32s(n * hidden)
    }

    fn recurrent(&self) -> Option<RecurrentLayout> {
        Some(self.layout())
    }

    fn letter(&self) -> (char, &'static str) {
        ('N', "Lightning Attention")
    }
}
