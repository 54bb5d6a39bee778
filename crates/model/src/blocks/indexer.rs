//! The lightning indexer and token selector of DeepSeek sparse attention (V3.2, arXiv 2512.02556): small keys of each position,
//! by which a query chooses the `index_topk` positions that it attends to. In GLM-5.2 some layers take the choice of the layer
//! before (arXiv 2603.12201). (`transformers` `modeling_deepseek_v32.py`, `modeling_glm_moe_dsa.py`.)

use outpour_kernels::{LayerNorm, Matrix, Past, Rope, Seen, Tensor};

use super::mixer::At;
use crate::config::{Config, ModelError, SIZE_MAX};
use crate::state::KvWidth;
use crate::weights::Weights;
use crate::{Run, Workspace};

/// Keys are normalised with this, whatever `rms_norm_eps` says.
const KEY_EPS: f32 = 1e-6;
/// Queries that choose together: a query here is several times as wide as a token's residual stream.
const ROWS: usize = 64;
/// Of a layer's caches, the one that holds the indexer's keys; the first holds what attention needs.
const CACHE: usize = 1;

/// Sizes of an indexer.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the low-rank vector that queries are made of.
    pub q_rank: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Width of a query's head and of a key.
    pub head_dim: usize,
    /// Positions chosen for each query.
    pub top_k: usize,
}

impl Sizes {
    /// Reads `index_n_heads`, `index_head_dim` and `index_topk` of the config.
    ///
    /// # Errors
    /// When a key is missing, or they do not fit each other.
    pub fn read(config: &Config) -> Result<Self, ModelError> {
        let sizes = Sizes {
            hidden: config.size("hidden_size")?,
            q_rank: config.size("q_lora_rank")?,
            heads: config.size("index_n_heads")?,
            head_dim: config.size("index_head_dim")?,
            top_k: config.size("index_topk")?,
        };
        let (heads, head_dim) = (sizes.heads, sizes.head_dim);
        if heads as u64 * head_dim as u64 >= SIZE_MAX || config.size("qk_rope_head_dim")? > head_dim {
            return Err(ModelError::Config(format!(
                "index_n_heads {heads} of index_head_dim {head_dim} make no indexer; download it again"
            )));
        }
        Ok(sizes)
    }
}

/// What chooses the positions that a layer's queries attend to.
pub enum Selector {
    /// An indexer of its own.
    Own(Indexer),
    /// The layer before.
    Shared {
        /// Positions chosen for each query.
        top_k: usize,
    },
}

/// The weights of one indexer.
pub struct Indexer {
    sizes: Sizes,
    wq_b: Matrix,         // [heads · head_dim, q_rank]
    wk: Matrix,           // [head_dim, hidden]
    k_norm: LayerNorm,    // [head_dim]
    weights_proj: Matrix, // [heads, hidden]
    rope: Rope,
}

impl Indexer {
    /// Loads `{prefix}.{wq_b,wk,k_norm,weights_proj}`. `rope` turns the first dimensions of queries and keys.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(weights: &mut Weights, prefix: &str, sizes: Sizes, rope: Rope) -> Result<Self, ModelError> {
        let Sizes { hidden, q_rank, heads, head_dim, .. } = sizes;
        Ok(Indexer {
            sizes,
            wq_b: weights.matrix(&format!("{prefix}.wq_b.weight"), heads * head_dim, q_rank)?,
            wk: weights.matrix(&format!("{prefix}.wk.weight"), head_dim, hidden)?,
            k_norm: LayerNorm {
                weight: weights.norm(&format!("{prefix}.k_norm.weight"), head_dim, false)?,
                bias: weights.vector(&format!("{prefix}.k_norm.bias"), head_dim)?,
                eps: KEY_EPS,
            },
            weights_proj: weights.matrix(&format!("{prefix}.weights_proj.weight"), heads, hidden)?.exact(),
            rope,
        })
    }

    /// Keeps the keys of x `[n, hidden]`, and chooses from low_rank `[n, q_rank]` the positions that each query sees. Factors
    /// of all scores (`head_dim^-½`, `heads^-½`) choose nothing else, and are left out.
    fn index(&self, at: &At, x: &Tensor, low_rank: &Tensor, run: &mut Run) {
        let Sizes { heads, head_dim, .. } = self.sizes;
        let (n, ops) = (x.dim(0), run.ops);
        let mark = run.workspace.mark();
        let key = run.workspace.f32([n, 1, head_dim]);
        let weights = run.workspace.f32([n, heads]);
        let q = run.workspace.f32([n.min(ROWS), heads, head_dim]);
        let flat = key.reshape([n, head_dim]);
        ops.linear(x, &self.wk, &flat);
        ops.layer_norm(&flat, &self.k_norm, &flat);
        ops.rope(&key, &at.batch.positions, &self.rope);
        ops.linear(x, &self.weights_proj, &weights);
        for span in &at.batch.spans {
            let kv = at.states[span.state].kv(at.layer, CACHE, at.layout);
            let keys = key.rows(span.rows.clone());
            ops.kv_write(&keys, &keys, kv.layout, kv.blocks, span.start);
            for first in span.rows.clone().step_by(ROWS) {
                let rows = first..span.rows.end.min(first + ROWS);
                let start = span.start + first - span.rows.start;
                if start + rows.len() <= self.sizes.top_k {
                    continue; // All of the past is seen.
                }
                let q = q.rows(0..rows.len());
                ops.linear(&low_rank.rows(rows.clone()), &self.wq_b, &q.reshape([rows.len(), heads * head_dim]));
                ops.rope(&q, &at.batch.positions[rows.clone()], &self.rope);
                let (weights, choice) = (weights.rows(rows.clone()), run.carried.rows(rows));
                let seen = Seen::Ended { start, every: 1 };
                ops.select(&q, &weights, &Past { layout: kv.layout, blocks: kv.blocks, seen }, &choice);
            }
        }
        run.workspace.release(mark);
    }
}

impl Selector {
    /// Positions chosen for each query.
    pub fn top_k(&self) -> usize {
        match self {
            Selector::Own(indexer) => indexer.sizes.top_k,
            Selector::Shared { top_k } => *top_k,
        }
    }

    /// Leaves in [`Run::carried`] the positions that each row sees, where it does not see all: x `[n, hidden]`, low_rank
    /// `[n, q_rank]`.
    pub fn index(&self, at: &At, x: &Tensor, low_rank: &Tensor, run: &mut Run) {
        if let Selector::Own(indexer) = self {
            indexer.index(at, x, low_rank, run);
        }
    }

    /// Bytes of workspace of [`Self::index`] for `n` tokens.
    pub fn workspace_bytes(&self, n: usize) -> usize {
        let Selector::Own(Indexer { sizes: Sizes { heads, head_dim, .. }, .. }) = self else { return 0 };
        let f32s = Workspace::f32_bytes;
        f32s(n * head_dim) + f32s(n * heads) + f32s(n.min(ROWS) * heads * head_dim)
    }

    /// What it keeps of each position.
    pub fn kv(&self) -> Option<KvWidth> {
        match self {
            Selector::Own(indexer) => Some(KvWidth::shared(indexer.sizes.head_dim)),
            Selector::Shared { .. } => None,
        }
    }
}
