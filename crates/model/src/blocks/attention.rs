//! Grouped-query attention with per-head norms of queries and keys and rotary positions (arXiv 2305.13245, 2505.09388),
//! and, in Qwen3-Next and Qwen3.5, an output gate beside each query.

use outpour_kernels::{ColumnRun, Matrix, RmsNorm, Rope, Tensor};

use crate::config::{ModelError, SIZE_MAX};
use crate::state::KvWidth;
use crate::weights::{Norms, Weights};
use crate::{Batch, Run, State, StateLayout, Workspace};

/// Sizes of an attention layer.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Whether each query comes with a gate: `q_proj` gives `[query | gate]` for each head, and the head's output is multiplied
    /// by sigmoid(gate).
    pub gated: bool,
}

impl Sizes {
    /// Checks that they fit each other.
    ///
    /// # Errors
    /// Names the keys of the config that do not.
    pub fn check(&self) -> Result<(), ModelError> {
        let Sizes { heads, kv_heads, head_dim, .. } = *self;
        let problem = if !heads.is_multiple_of(kv_heads) {
            format!("num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}")
        } else if head_dim == 0 || heads as u64 * head_dim as u64 >= SIZE_MAX {
            format!("num_attention_heads {heads} of head_dim {head_dim} make no attention")
        } else if !head_dim.is_multiple_of(2) {
            format!("head_dim {head_dim} is odd, and RoPE turns pairs")
        } else {
            return Ok(());
        };
        Err(ModelError::Config(format!("{problem}; download it again")))
    }

    /// What a layer keeps of each position.
    pub fn kv(&self) -> KvWidth {
        KvWidth { heads: self.kv_heads, k_dim: self.head_dim, v_dim: self.head_dim }
    }

    /// Bytes of workspace of [`Attention::forward`] for `n` tokens.
    pub fn workspace_bytes(&self, n: usize) -> usize {
        let queries = Workspace::f32_bytes(n * self.heads * self.head_dim);
        let gates = if self.gated { queries + Workspace::f32_bytes(2 * n * self.heads * self.head_dim) } else { 0 };
        gates
            + 2 * queries
            + 2 * Workspace::f32_bytes(n * self.kv_heads * self.head_dim)
            + Workspace::f32_bytes(n * self.hidden)
    }
}

/// The weights of one attention layer.
pub struct Attention {
    sizes: Sizes,
    q_proj: Matrix,
    k_proj: Matrix,
    v_proj: Matrix,
    o_proj: Matrix,
    q_norm: RmsNorm,
    k_norm: RmsNorm,
    /// Columns of `q_proj`'s output that are queries, and gates.
    gate_runs: Option<[Vec<ColumnRun>; 2]>,
}

impl Attention {
    /// Loads `{prefix}.{q,k,v,o}_proj.weight` and `{prefix}.{q,k}_norm.weight`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(weights: &mut Weights, prefix: &str, sizes: Sizes, norms: Norms) -> Result<Self, ModelError> {
        let Sizes { hidden, heads, kv_heads, head_dim, gated } = sizes;
        let q_rows = if gated { 2 * heads * head_dim } else { heads * head_dim };
        let runs = |first: usize| {
            let run = |head| ColumnRun { from: (2 * head + first) * head_dim, to: head * head_dim, len: head_dim };
            (0..heads).map(run).collect()
        };
        Ok(Attention {
            sizes,
            gate_runs: gated.then(|| [runs(0), runs(1)]),
            q_proj: weights.matrix(&format!("{prefix}.q_proj.weight"), q_rows, hidden)?,
            k_proj: weights.matrix(&format!("{prefix}.k_proj.weight"), kv_heads * head_dim, hidden)?,
            v_proj: weights.matrix(&format!("{prefix}.v_proj.weight"), kv_heads * head_dim, hidden)?,
            o_proj: weights.matrix(&format!("{prefix}.o_proj.weight"), hidden, heads * head_dim)?,
            q_norm: norms.load(weights, &format!("{prefix}.q_norm.weight"), head_dim)?,
            k_norm: norms.load(weights, &format!("{prefix}.k_norm.weight"), head_dim)?,
        })
    }

    /// `into += attention(x)`: x and into `[n, hidden]`.
    #[allow(clippy::too_many_arguments)]
    pub fn forward(
        &self,
        layer: usize,
        rope: &Rope,
        layout: &StateLayout,
        batch: &Batch,
        states: &[State],
        x: &Tensor,
        into: &Tensor,
        run: &mut Run,
    ) {
        let Sizes { hidden, heads, kv_heads, head_dim, .. } = self.sizes;
        let kv = layout.kv[layer].as_ref().expect("invariant: an attention layer has keys and values in the layout");
        let (n, ops) = (batch.len(), run.ops);
        let q = run.workspace.f32([n, heads, head_dim]);
        let k = run.workspace.f32([n, kv_heads, head_dim]);
        let v = run.workspace.f32([n, kv_heads, head_dim]);
        let mixed = run.workspace.f32([n, heads, head_dim]);
        let out = run.workspace.f32([n, hidden]);

        let gate = self.queries(x, &q.reshape([n, heads * head_dim]), run);
        ops.linear(x, &self.k_proj, &k.reshape([n, kv_heads * head_dim]));
        ops.linear(x, &self.v_proj, &v.reshape([n, kv_heads * head_dim]));
        ops.rms_norm(&q, &self.q_norm, &q);
        ops.rms_norm(&k, &self.k_norm, &k);
        ops.rope(&q, &batch.positions, rope);
        ops.rope(&k, &batch.positions, rope);
        let scale = (head_dim as f32).powf(-0.5);
        for span in &batch.spans {
            let rows = |t: &Tensor| t.rows(span.rows.clone());
            let blocks = states[span.state].blocks();
            ops.kv_write(&rows(&k), &rows(&v), kv, blocks, span.start);
            ops.attention(&rows(&q), scale, kv, blocks, span.start, &rows(&mixed));
        }
        if let Some(gate) = gate {
            ops.sigmoid_gate(&mixed, &gate);
        }
        ops.linear(&mixed.reshape([n, heads * head_dim]), &self.o_proj, &out);
        ops.add(&out, into);
    }

    /// Queries into `q` `[n, heads · head_dim]`; returns their gates, of the same shape, where there are any.
    fn queries(&self, x: &Tensor, q: &Tensor, run: &mut Run) -> Option<Tensor> {
        let Some([queries, gates]) = &self.gate_runs else {
            run.ops.linear(x, &self.q_proj, q);
            return None;
        };
        let gate = run.workspace.f32([q.dim(0), q.dim(1)]);
        let both = run.workspace.f32([q.dim(0), 2 * q.dim(1)]);
        run.ops.linear(x, &self.q_proj, &both);
        run.ops.copy_columns(&both, queries, q);
        run.ops.copy_columns(&both, gates, &gate);
        Some(gate)
    }
}
