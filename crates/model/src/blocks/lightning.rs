//! Lightning Attention: linear attention in which each head forgets at a fixed rate (arXiv 2401.04658, 2501.08313;
//! `transformers` `modeling_minimax.py`). Ling's has norms of queries and keys and RoPE in place of silu.

use outpour_kernels::{Activation, ColumnRun, Decay, LinearAttention, Matrix, RmsNorm, Rope, Tensor};

use super::attention;
use super::mixer::{At, Mixer};
use crate::config::ModelError;
use crate::state::RecurrentLayout;
use crate::weights::{Norms, Weights};
use crate::{Run, Workspace};

/// MiniMax's norm of all heads adds this, whatever `rms_norm_eps` says.
const NORM_EPS: f32 = 1e-6;

/// The weights of one layer.
pub struct Lightning {
    sizes: attention::Sizes,
    qkv_proj: Matrix, // [3 · heads · head_dim, hidden]
    /// Where q, k and v of each head are in its output.
    runs: [Vec<ColumnRun>; 3],
    before: Before,
    linear: LinearAttention,
    norm: RmsNorm, // [heads · head_dim]
    /// Equal parts of all heads' outputs that are normalised each.
    norm_parts: usize,
    output_gate: Matrix, // [heads · head_dim, hidden]
    out_proj: Matrix,    // [hidden, heads · head_dim]
}

/// What is done to queries, keys and values before they meet.
enum Before {
    /// silu of all (MiniMax).
    Silu,
    /// Queries and keys are normalised over each head and turned, and queries multiplied by `head_dim^-½` (Ling).
    Turned { norms: [RmsNorm; 2], rope: Rope },
}

impl Lightning {
    /// Loads MiniMax's `{prefix}.{qkv_proj,norm,output_gate,out_proj}.weight` of one of `layers` layers. The first layers forget
    /// fastest, and in each layer the first heads.
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
            before: Before::Silu,
            linear: linear(sizes, (0..heads).map(rate).collect()),
            norm_parts: 1,
            qkv_proj: weights.matrix(&name("qkv_proj"), 3 * width, hidden)?,
            norm: norms.load(weights, &name("norm"), width)?,
            output_gate: weights.matrix(&name("output_gate"), width, hidden)?,
            out_proj: weights.matrix(&name("out_proj"), hidden, width)?,
        })
    }

    /// Loads Ling's `{prefix}.{query_key_value,query_layernorm,key_layernorm,g_norm,g_proj,dense}.weight` of one of `layers` layers,
    /// whose norm is over each of `norm_parts` parts of all heads. `rope` turns the first dimensions of a head.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load_turned(
        weights: &mut Weights,
        prefix: &str,
        sizes: attention::Sizes,
        (layer, layers): (usize, usize),
        norm_parts: usize,
        rope: Rope,
        norms: Norms,
    ) -> Result<Self, ModelError> {
        let attention::Sizes { hidden, heads, head_dim, .. } = sizes;
        let width = heads * head_dim;
        let runs = |part: usize| vec![ColumnRun { from: part * width, to: 0, len: width }];
        let slower = 1.0 - (layer as f32 - 1.0) / (layers as f32 - 1.0) + 1e-5;
        let name = |part: &str| format!("{prefix}.{part}.weight");
        let mut norm = |part: &str, elements: usize| norms.load(weights, &name(part), elements);
        let before =
            Before::Turned { norms: [norm("query_layernorm", head_dim)?, norm("key_layernorm", head_dim)?], rope };
        Ok(Lightning {
            sizes,
            runs: [runs(0), runs(1), runs(2)],
            before,
            linear: linear(sizes, slopes(heads).map(|slope| slope * slower).collect()),
            norm: norm("g_norm", width)?,
            norm_parts,
            qkv_proj: weights.matrix(&name("query_key_value"), 3 * width, hidden)?,
            output_gate: weights.matrix(&name("g_proj"), width, hidden)?,
            out_proj: weights.matrix(&name("dense"), hidden, width)?,
        })
    }

    /// Queries and keys `[n, heads · head_dim]`, in place.
    fn turn(&self, at: &At, [q, k]: [&Tensor; 2], run: &Run) {
        let Before::Turned { norms, rope } = &self.before else { return };
        let attention::Sizes { heads, head_dim, .. } = self.sizes;
        for (x, norm) in [q, k].into_iter().zip(norms) {
            let x = x.reshape([x.dim(0), heads, head_dim]);
            run.ops.rms_norm(&x, norm, &x);
            run.ops.rope(&x, &at.batch.positions, rope);
        }
        run.ops.scale(q, (head_dim as f32).powf(-0.5), None);
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
        if matches!(self.before, Before::Silu) {
            ops.glu(&qkv, &qkv, Activation::Silu, &qkv);
        }
        for (part, runs) in [&q, &k, &v].into_iter().zip(&self.runs) {
            ops.copy_columns(&qkv, runs, part);
        }
        self.turn(at, [&q, &k], run);
        for span in &at.batch.spans {
            let rows = |t: &Tensor| t.rows(span.rows.clone());
            let matrices = self.layout().matrices(&at.recurrent(span.state));
            ops.linear_attention([&rows(&q), &rows(&k), &rows(&v)], None, &self.linear, &matrices, &rows(&values));
        }
        let values = values.reshape([n, width]);
        let parts = values.reshape([n, self.norm_parts, width / self.norm_parts]);
        ops.rms_norm(&parts, &self.norm, &parts);
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

fn linear(sizes: attention::Sizes, rates: Vec<f32>) -> LinearAttention {
    let attention::Sizes { heads, head_dim, .. } = sizes;
    LinearAttention { k_heads: heads, v_heads: heads, k_dim: head_dim, v_dim: head_dim, decay: Decay::Rates(rates) }
}

/// The slopes of ALiBi (arXiv 2108.12409): a geometric row where heads are a power of two; else that of the power below, and
/// every other one of the power above.
fn slopes(heads: usize) -> impl Iterator<Item = f32> {
    let whole = if heads.is_power_of_two() { heads } else { heads.next_power_of_two() / 2 };
    let slope = |i: usize, of: usize| 2f32.powf(-8.0 * (i + 1) as f32 / of as f32);
    let between = (0..heads - whole).map(move |i| slope(2 * i, 2 * whole));
    (0..whole).map(move |i| slope(i, whole)).chain(between)
}
