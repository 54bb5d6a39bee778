//! Block-sparse attention (MiniMax-M3): small queries, one for each key-value head, choose blocks of positions by the best of their
//! small keys, and the head's own queries attend to what is in them (`transformers` `modeling_minimax_m3_vl.py`).

use outpour_kernels::{Attend, ColumnRun, KvLayout, Matrix, Past, PositionBlocks, RmsNorm, Rope, Seen, Tensor};

use super::attention::Index;
use super::mixer::At;
use crate::config::{Config, ModelError, SIZE_MAX};
use crate::state::KvWidth;
use crate::weights::{Norms, Weights};
use crate::{Run, Workspace};

/// Queries that choose and attend together.
const ROWS: usize = 64;
/// The layer's caches: what attention keeps, and the small keys.
const KEYS: usize = 0;
const INDEX: usize = 1;

/// Sizes of an index.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Small queries of a position: as many as there are key-value heads.
    pub heads: usize,
    /// Width of a small query and key.
    pub head_dim: usize,
    /// Blocks chosen for each query.
    pub top_k: usize,
    /// What a block is.
    pub blocks: PositionBlocks,
}

impl Sizes {
    /// Reads `index_n_heads`, `index_head_dim`, `index_block_size`, `index_topk_blocks` and `index_local_blocks` of the config, or
    /// what `sparse_attention_config` calls so.
    ///
    /// # Errors
    /// When a key is missing, or they do not fit each other and `kv_heads`.
    pub fn read(config: &Config, kv_heads: usize) -> Result<Self, ModelError> {
        let part = config.part("sparse_attention_config")?;
        let size = |old: &str, new: &str| part.size_or_none(old)?.map_or_else(|| config.size(new), Ok);
        let every = size("sparse_block_size", "index_block_size")?;
        let local = size("sparse_local_block", "index_local_blocks")?;
        let sizes = Sizes {
            hidden: config.size("hidden_size")?,
            heads: size("sparse_num_index_heads", "index_n_heads")?,
            head_dim: size("sparse_index_dim", "index_head_dim")?,
            top_k: size("sparse_topk_blocks", "index_topk_blocks")?,
            blocks: PositionBlocks { every, local },
        };
        let Sizes { heads, head_dim, top_k, .. } = sizes;
        let fits = heads == kv_heads && local <= top_k && head_dim.is_multiple_of(2);
        match fits && (top_k as u64) * (every as u64) < SIZE_MAX && (heads as u64) * (head_dim as u64) < SIZE_MAX {
            true => Ok(sizes),
            false => Err(ModelError::Config(format!(
                "{heads} heads of {head_dim} that choose {top_k} blocks of {every}, {local} of them the last, make no index over {kv_heads} key-value heads; download it again"
            ))),
        }
    }

    /// Positions that a query sees at most; while there are no more, it sees all.
    fn seen(&self) -> usize {
        self.top_k * self.blocks.every
    }
}

/// The weights of one index.
pub struct BlockIndex {
    sizes: Sizes,
    q: Matrix, // [heads · head_dim, hidden]
    k: Matrix, // [head_dim, hidden]
    norms: [RmsNorm; 2],
    rope: Rope,
}

impl BlockIndex {
    /// Loads `{prefix}{q,k}_{proj,norm}.weight`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(
        weights: &mut Weights,
        prefix: &str,
        sizes: Sizes,
        rope: Rope,
        norms: Norms,
    ) -> Result<Self, ModelError> {
        let Sizes { hidden, heads, head_dim, .. } = sizes;
        let name = |part: &str| format!("{prefix}{part}.weight");
        Ok(BlockIndex {
            sizes,
            q: weights.matrix(&name("q_proj"), heads * head_dim, hidden)?,
            k: weights.matrix(&name("k_proj"), head_dim, hidden)?,
            norms: [norms.load(weights, &name("q_norm"), head_dim)?, norms.load(weights, &name("k_norm"), head_dim)?],
            rope,
        })
    }

    /// Attention of rows that do not see all, the first at position `start`, each key-value head and its queries by themselves.
    fn attend_chosen(
        &self,
        at: &At,
        state: usize,
        start: usize,
        [small, q, mixed]: [&Tensor; 3],
        attend: &Attend,
        run: &mut Run,
    ) {
        let Sizes { heads, top_k, blocks, .. } = self.sizes;
        let (n, ops) = (q.dim(0), run.ops);
        let (group, dim) = (q.dim(1) / heads, q.dim(2));
        let mark = run.workspace.mark();
        let choice = run.workspace.i32([heads, n, top_k]);
        let positions = run.workspace.i32([n, self.sizes.seen()]);
        let [of_group, out] = [(); 2].map(|()| run.workspace.f32([n, group, dim]));
        let index = at.kv(state, INDEX);
        let keys = Past { layout: index.layout, blocks: index.blocks, seen: Seen::Ended { start, every: 1 } };
        ops.select_blocks(small, &keys, blocks, &choice);
        let kv = at.kv(state, KEYS);
        let flat = |t: &Tensor| t.reshape([n, t.elements() / n]);
        for head in 0..heads {
            let choice = choice.rows(head..head + 1).reshape([n, top_k]);
            ops.block_positions(&choice, blocks.every, start, &positions);
            let run_of = |from, to| [ColumnRun { from, to, len: group * dim }];
            ops.copy_columns(&flat(q), &run_of(head * group * dim, 0), &flat(&of_group));
            let layout = of_head(kv.layout, head);
            let past = Past { layout: &layout, blocks: kv.blocks, seen: Seen::Chosen(&positions) };
            ops.sparse_attention(&of_group, attend, &[past], &out);
            ops.copy_columns(&flat(&out), &run_of(0, head * group * dim), &flat(mixed));
        }
        run.workspace.release(mark);
    }
}

impl Index for BlockIndex {
    fn attend(&self, at: &At, x: &Tensor, [q, mixed]: [&Tensor; 2], attend: &Attend, run: &mut Run) {
        let Sizes { heads, head_dim, .. } = self.sizes;
        let (n, ops) = (x.dim(0), run.ops);
        let mark = run.workspace.mark();
        let key = run.workspace.f32([n, 1, head_dim]);
        let small = run.workspace.f32([n, heads, head_dim]);
        ops.linear(x, &self.k, &key.reshape([n, head_dim]));
        ops.linear(x, &self.q, &small.reshape([n, heads * head_dim]));
        for (x, norm) in [&small, &key].into_iter().zip(&self.norms) {
            ops.rms_norm(x, norm, x);
            ops.rope(x, &at.batch.positions, &self.rope);
        }
        for span in &at.batch.spans {
            let index = at.kv(span.state, INDEX);
            let keys = key.rows(span.rows.clone());
            ops.kv_write(&keys, &keys, index.layout, index.blocks, span.start);
            for first in span.rows.clone().step_by(ROWS) {
                let rows = first..span.rows.end.min(first + ROWS);
                let start = span.start + first - span.rows.start;
                // As long as no more positions are there than may be chosen, all are seen.
                let dense = self.sizes.seen().saturating_sub(start).min(rows.len());
                let (near, far) = (first..first + dense, first + dense..rows.end);
                if !near.is_empty() {
                    let kv = at.kv(span.state, KEYS);
                    ops.attention(&q.rows(near.clone()), attend, kv.layout, kv.blocks, start, &mixed.rows(near));
                }
                if !far.is_empty() {
                    let of = |t: &Tensor| t.rows(far.clone());
                    self.attend_chosen(at, span.state, start + dense, [&of(&small), &of(q), &of(mixed)], attend, run);
                }
            }
        }
        run.workspace.release(mark);
    }

    fn workspace_bytes(&self, n: usize, q_heads: usize, dim: usize) -> usize {
        let Sizes { heads, head_dim, top_k, .. } = self.sizes;
        let (f32s, rows) = (Workspace::f32_bytes, n.min(ROWS));
        f32s(n * head_dim)
            + f32s(n * heads * head_dim)
            + f32s(heads * rows * top_k)
            + f32s(rows * self.sizes.seen())
            + 2 * f32s(rows * q_heads / heads * dim)
    }

    fn kv(&self) -> KvWidth {
        KvWidth::shared(self.sizes.head_dim)
    }
}

/// Where the keys and values of one head lie.
fn of_head(layout: &KvLayout, head: usize) -> KvLayout {
    let plane = |dim: usize| head * layout.block_tokens * layout.dtype.row_bytes(dim);
    let (k_at, v_at) = (layout.k_at + plane(layout.k_dim), layout.v_at + plane(layout.v_dim));
    KvLayout { heads: 1, k_at, v_at, ..*layout }
}
