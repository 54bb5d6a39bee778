//! Grouped-query attention with per-head norms of queries and keys and rotary positions (arXiv 2305.13245, 2505.09388).

use outpour_kernels::{Matrix, Rope, Tensor};

use crate::config::ModelError;
use crate::state::KvWidth;
use crate::weights::Weights;
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
}

impl Sizes {
    /// What a layer keeps of each position.
    pub fn kv(&self) -> KvWidth {
        KvWidth { heads: self.kv_heads, k_dim: self.head_dim, v_dim: self.head_dim }
    }

    /// Bytes of workspace of [`Attention::forward`] for `n` tokens.
    pub fn workspace_bytes(&self, n: usize) -> usize {
        2 * Workspace::f32_bytes(n * self.heads * self.head_dim)
            + 2 * Workspace::f32_bytes(n * self.kv_heads * self.head_dim)
            + Workspace::f32_bytes(n * self.hidden)
    }
}

/// The weights of one attention layer.
pub struct Attention {
    sizes: Sizes,
    eps: f32,
    q_proj: Matrix,
    k_proj: Matrix,
    v_proj: Matrix,
    o_proj: Matrix,
    q_norm: Tensor,
    k_norm: Tensor,
}

impl Attention {
    /// Loads `{prefix}.{q,k,v,o}_proj.weight` and `{prefix}.{q,k}_norm.weight`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(weights: &mut Weights, prefix: &str, sizes: Sizes, eps: f32) -> Result<Self, ModelError> {
        let Sizes { hidden, heads, kv_heads, head_dim } = sizes;
        Ok(Attention {
            sizes,
            eps,
            q_proj: weights.matrix(&format!("{prefix}.q_proj.weight"), heads * head_dim, hidden)?,
            k_proj: weights.matrix(&format!("{prefix}.k_proj.weight"), kv_heads * head_dim, hidden)?,
            v_proj: weights.matrix(&format!("{prefix}.v_proj.weight"), kv_heads * head_dim, hidden)?,
            o_proj: weights.matrix(&format!("{prefix}.o_proj.weight"), hidden, heads * head_dim)?,
            q_norm: weights.vector(&format!("{prefix}.q_norm.weight"), head_dim)?,
            k_norm: weights.vector(&format!("{prefix}.k_norm.weight"), head_dim)?,
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
        let Sizes { hidden, heads, kv_heads, head_dim } = self.sizes;
        let kv = layout.kv[layer].as_ref().expect("invariant: an attention layer has keys and values in the layout");
        let (n, ops) = (batch.len(), run.ops);
        let q = run.workspace.f32([n, heads, head_dim]);
        let k = run.workspace.f32([n, kv_heads, head_dim]);
        let v = run.workspace.f32([n, kv_heads, head_dim]);
        let mixed = run.workspace.f32([n, heads, head_dim]);
        let out = run.workspace.f32([n, hidden]);

        ops.linear(x, &self.q_proj, &q.reshape([n, heads * head_dim]));
        ops.linear(x, &self.k_proj, &k.reshape([n, kv_heads * head_dim]));
        ops.linear(x, &self.v_proj, &v.reshape([n, kv_heads * head_dim]));
        ops.rms_norm(&q, &self.q_norm, self.eps, &q);
        ops.rms_norm(&k, &self.k_norm, self.eps, &k);
        ops.rope(&q, &batch.positions, rope);
        ops.rope(&k, &batch.positions, rope);
        let scale = (head_dim as f32).powf(-0.5);
        for span in &batch.spans {
            let rows = |t: &Tensor| t.rows(span.rows.clone());
            let blocks = states[span.state].blocks();
            ops.kv_write(&rows(&k), &rows(&v), kv, blocks, span.start);
            ops.attention(&rows(&q), scale, kv, blocks, span.start, &rows(&mixed));
        }
        ops.linear(&mixed.reshape([n, heads * head_dim]), &self.o_proj, &out);
        ops.add(&out, into);
    }
}
