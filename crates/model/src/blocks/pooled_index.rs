//! Attention to chosen blocks of positions by pooled keys (Qwen4-Exp's QSA; `transformers` `modeling_qwen4_exp.py`): small queries choose
//! blocks by the mean of each block's small keys, for all heads alike; positions of a block that has not ended are seen always.

use std::sync::Arc;

use outpour_kernels::{Attend, ColumnRun, Compress, DType, Matrix, Past, RmsNorm, Rope, Seen, Tensor};

use super::attention::Index;
use super::mixer::At;
use crate::config::{Config, ModelError, SIZE_MAX};
use crate::state::{KvWidth, RecurrentLayout};
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
    /// Small queries of a position.
    pub heads: usize,
    /// Width of a small query and key.
    pub head_dim: usize,
    /// Blocks chosen for each query.
    pub top_k: usize,
    /// Positions of a block.
    pub every: usize,
}

impl Sizes {
    /// Reads `indexer_*` of the config.
    ///
    /// # Errors
    /// When a key is missing, or they do not fit each other.
    pub fn read(config: &Config) -> Result<Self, ModelError> {
        let (budget, every) = (config.size("indexer_budget")?, config.size("indexer_compress_ratio")?);
        let (heads, head_dim) = (config.size("indexer_n_heads")?, config.size("indexer_head_dim")?);
        let keys = config.size_or("indexer_kv_heads", 1)?;
        let fits = keys == 1 && budget.is_multiple_of(every) && head_dim.is_multiple_of(2);
        match fits && (heads as u64 + 1) * (head_dim as u64) < SIZE_MAX && (budget + every) as u64 <= SIZE_MAX / 2 {
            true => Ok(Sizes { hidden: config.size("hidden_size")?, heads, head_dim, top_k: budget / every, every }),
            false => Err(ModelError::Config(format!(
                "indexer_n_heads {heads} of indexer_head_dim {head_dim}, indexer_kv_heads {keys}, indexer_budget {budget} and indexer_compress_ratio {every} make no index; download it again"
            ))),
        }
    }

    /// Positions that a query sees at most; while there are no more, it sees all.
    fn seen(&self) -> usize {
        self.top_k * self.every + self.every - 1
    }

    /// Rows of small keys of a block that has not ended.
    fn tail(&self) -> RecurrentLayout {
        RecurrentLayout { kernel: 2, channels: self.every * 2 * self.head_dim, heads: 0, k_dim: 0, v_dim: 0 }
    }
}

/// What makes small queries and keys.
enum Projections {
    Joined(Matrix),     // [(heads + 1) · head_dim, hidden]
    Apart([Matrix; 2]), // [heads · head_dim, hidden], [head_dim, hidden]
}

/// The weights of one index.
pub struct PooledIndex {
    sizes: Sizes,
    projections: Projections,
    norms: [RmsNorm; 2],
    rope: Arc<Rope>,
    /// What each head counts in a score.
    ones: Vec<f32>,
}

impl PooledIndex {
    /// Loads `{prefix}.{index_qk_proj,q_layernorm,k_layernorm}`; of GGUF files `{q,k}_proj` for the first.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape, or `rope` turns more than a small query has.
    pub fn load(
        weights: &mut Weights,
        prefix: &str,
        sizes: Sizes,
        rope: Arc<Rope>,
        norms: Norms,
    ) -> Result<Self, ModelError> {
        let Sizes { hidden, heads, head_dim, .. } = sizes;
        if 2 * rope.inv_freq.len() > head_dim {
            let turned = 2 * rope.inv_freq.len();
            return Err(ModelError::Config(format!(
                "indexer_head_dim {head_dim} is less than the {turned} dimensions that are turned; download it again"
            )));
        }
        let name = |part: &str| format!("{prefix}.{part}.weight");
        let projections = match weights.are_gguf() {
            false => Projections::Joined(weights.matrix(&name("index_qk_proj"), (heads + 1) * head_dim, hidden)?),
            true => Projections::Apart([
                weights.matrix(&name("q_proj"), heads * head_dim, hidden)?,
                weights.matrix(&name("k_proj"), head_dim, hidden)?,
            ]),
        };
        Ok(PooledIndex {
            sizes,
            projections,
            norms: [
                norms.load(weights, &name("q_layernorm"), head_dim)?,
                norms.load(weights, &name("k_layernorm"), head_dim)?,
            ],
            rope,
            ones: vec![1.0; ROWS * heads],
        })
    }

    /// Keeps the mean of the small keys `[n, head_dim]` of each block that ends with them.
    fn keep(&self, at: &At, keys: &Tensor, run: &mut Run) {
        let Sizes { head_dim, every, .. } = self.sizes;
        let (n, ops, mark) = (keys.dim(0), run.ops, run.workspace.mark());
        // A mean is what equal gates make.
        let gates = run.workspace.f32([n, head_dim]);
        let bias = run.workspace.f32([every, head_dim]);
        // A batch has a span a token at most.
        let entries = run.workspace.f32([n / every + n, head_dim]);
        [&gates, &bias].into_iter().for_each(|t| ops.zero(t));
        let by = Compress { every, overlap: false, bias };
        for span in &at.batch.spans {
            let tail = at.recurrent(span.state).view(0, [every, 2 * head_dim], DType::F32);
            let (first, end) = (span.start / every, (span.start + span.rows.len()) / every);
            let out = entries.rows(0..end - first);
            ops.compress(&keys.rows(span.rows.clone()), &gates.rows(span.rows.clone()), &by, &tail, span.start, &out);
            let out = out.reshape([end - first, 1, head_dim]);
            let starts: Vec<u32> = (first..end).map(|block| (block * every) as u32).collect();
            ops.rms_norm(&out, &self.norms[1], &out);
            ops.rope(&out, &starts, &self.rope);
            let index = at.kv(span.state, INDEX);
            ops.kv_write(&out, &out, index.layout, index.blocks, first);
        }
        run.workspace.release(mark);
    }

    /// Attention of rows that do not see all, the first at position `start`.
    fn attend_chosen(
        &self,
        at: &At,
        state: usize,
        start: usize,
        [small, q, mixed]: [&Tensor; 3],
        attend: &Attend,
        run: &mut Run,
    ) {
        let Sizes { heads, top_k, every, .. } = self.sizes;
        let (n, ops, mark) = (q.dim(0), run.ops, run.workspace.mark());
        let ones = run.workspace.f32([n, heads]);
        let choice = run.workspace.i32([n, top_k]);
        let positions = run.workspace.i32([n, self.sizes.seen()]);
        ops.write(bytemuck::cast_slice(&self.ones[..n * heads]), &ones);
        let (index, kv) = (at.kv(state, INDEX), at.kv(state, KEYS));
        let keys = Past { layout: index.layout, blocks: index.blocks, seen: Seen::Ended { start, every } };
        ops.select(small, &ones, &keys, &choice);
        ops.block_positions(&choice, every, start, &positions);
        let past = Past { layout: kv.layout, blocks: kv.blocks, seen: Seen::Chosen(&positions) };
        ops.sparse_attention(q, attend, &[past], mixed);
        run.workspace.release(mark);
    }
}

impl Index for PooledIndex {
    fn attend(&self, at: &At, x: &Tensor, [q, mixed]: [&Tensor; 2], attend: &Attend, run: &mut Run) {
        let Sizes { heads, head_dim, .. } = self.sizes;
        let (n, ops, width) = (x.dim(0), run.ops, self.sizes.heads * head_dim);
        let mark = run.workspace.mark();
        let both = run.workspace.f32([n, width + head_dim]);
        let small = run.workspace.f32([n, heads, head_dim]);
        let keys = run.workspace.f32([n, head_dim]);
        match &self.projections {
            Projections::Joined(qk) => {
                ops.linear(x, qk, &both);
                ops.copy_columns(&both, &[ColumnRun { from: 0, to: 0, len: width }], &small.reshape([n, width]));
                ops.copy_columns(&both, &[ColumnRun { from: width, to: 0, len: head_dim }], &keys);
            }
            Projections::Apart([q, k]) => ops.linears(x, &[(q, &small.reshape([n, width])), (k, &keys)]),
        }
        ops.rms_norm(&small, &self.norms[0], &small);
        ops.rope(&small, &at.batch.positions, &self.rope);
        self.keep(at, &keys, run);
        for span in &at.batch.spans {
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

    fn workspace_bytes(&self, n: usize, _q_heads: usize, _dim: usize) -> usize {
        let (Sizes { heads, head_dim, top_k, every, .. }, f32s) = (self.sizes, Workspace::f32_bytes);
        let rows = n.min(ROWS);
        let keeping = f32s(n * head_dim) + f32s(every * head_dim) + f32s((n / every + n) * head_dim);
        let choosing = f32s(rows * heads) + f32s(rows * top_k) + f32s(rows * self.sizes.seen());
        f32s(n * (heads + 1) * head_dim) + f32s(n * heads * head_dim) + f32s(n * head_dim) + keeping.max(choosing)
    }

    fn kv(&self) -> KvWidth {
        KvWidth { every: self.sizes.every, ..KvWidth::shared(self.sizes.head_dim) }
    }

    fn recurrent(&self) -> Option<RecurrentLayout> {
        Some(self.sizes.tail())
    }
}
