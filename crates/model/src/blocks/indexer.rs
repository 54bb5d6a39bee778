//! The lightning indexer and token selector of DeepSeek sparse attention (V3.2, arXiv 2512.02556): small keys of each position,
//! by which a query chooses the `index_topk` positions that it attends to. In GLM-5.2 some layers take the choice of the layer
//! before (arXiv 2603.12201). In GLM-5.3 a key stands for several positions, whose learnt mean it is, and positions that no key
//! stands for yet are seen always. In Mistral Large 4 queries are made of the stream itself. (`transformers`
//! `modeling_deepseek_v32.py`, `modeling_glm_moe_dsa.py`, `modeling_glm5_next.py`, `modeling_mistral_large4.py`.)

use outpour_kernels::{Compress, DType, LayerNorm, Matrix, Past, Rope, Seen, Tensor};

use super::mixer::At;
use crate::config::{Config, ModelError, SIZE_MAX};
use crate::state::{KvWidth, RecurrentLayout};
use crate::weights::Weights;
use crate::{Run, Workspace};

/// Keys are normalised with this in most families, whatever `rms_norm_eps` says.
const KEY_EPS: f32 = 1e-6;
/// Queries that choose together: a query here is several times as wide as a token's residual stream.
const ROWS: usize = 64;

/// Sizes of an indexer.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the vector that queries are made of.
    pub q_rank: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Width of a query's head and of a key.
    pub head_dim: usize,
    /// Positions chosen for each query.
    pub top_k: usize,
    /// What norms of keys add.
    pub key_eps: f32,
    /// Positions that a key stands for.
    pub every: usize,
}

impl Sizes {
    /// Reads `index_n_heads`, `index_head_dim` and `index_topk` of the config.
    ///
    /// # Errors
    /// When a key is missing, or they do not fit each other.
    pub fn read(config: &Config) -> Result<Self, ModelError> {
        let sizes = Sizes {
            hidden: config.size("hidden_size")?,
            q_rank: config.size_or("q_lora_rank", config.size("hidden_size")?)?,
            heads: config.size("index_n_heads")?,
            head_dim: config.size("index_head_dim")?,
            top_k: config.size("index_topk")?,
            key_eps: KEY_EPS,
            every: 1,
        };
        let (heads, head_dim) = (sizes.heads, sizes.head_dim);
        if heads as u64 * head_dim as u64 >= SIZE_MAX || config.count_or("qk_rope_head_dim", 0)? > head_dim {
            return Err(ModelError::Config(format!(
                "index_n_heads {heads} of index_head_dim {head_dim} make no indexer; download it again"
            )));
        }
        Ok(sizes)
    }

    /// Keys chosen for each query.
    fn keys(&self) -> usize {
        self.top_k / self.every
    }

    /// Positions that a query sees at most: of chosen keys, and those that no key stands for yet.
    pub fn seen(&self) -> usize {
        self.keys() * self.every + self.every - 1
    }
}

/// What chooses the positions that a layer's queries attend to.
pub enum Selector {
    /// An indexer of its own.
    Own(Indexer),
    /// The layer before, whose indexer has such sizes.
    Shared(Sizes),
}

/// The weights of one indexer.
pub struct Indexer {
    sizes: Sizes,
    wq_b: Matrix,         // [heads · head_dim, q_rank]
    wk: Matrix,           // [head_dim, hidden]
    k_norm: LayerNorm,    // [head_dim]
    weights_proj: Matrix, // [heads, hidden]
    rope: Option<Rope>,
    pool: Option<Pool>,
    of_stream: Option<OfStream>,
}

/// What makes a key of the keys of several positions.
struct Pool {
    gate: Matrix, // [head_dim, hidden]
    by: Compress,
}

/// What makes queries of the stream, where there is no vector of low rank.
struct OfStream {
    norm: LayerNorm, // [hidden]
    /// Of a head's queries: see [`outpour_kernels::Ops::scale_heads`].
    scale: [Tensor; 2], // [heads] each
}

impl Indexer {
    /// Loads `{prefix}.{wq_b,wk,k_norm,weights_proj}`. `rope` turns queries and keys.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(weights: &mut Weights, prefix: &str, sizes: Sizes, rope: Option<Rope>) -> Result<Self, ModelError> {
        let Sizes { hidden, q_rank, heads, head_dim, .. } = sizes;
        Ok(Indexer {
            sizes,
            wq_b: weights.matrix(&format!("{prefix}.wq_b.weight"), heads * head_dim, q_rank)?,
            wk: weights.matrix(&format!("{prefix}.wk.weight"), head_dim, hidden)?,
            k_norm: LayerNorm {
                weight: weights.norm(&format!("{prefix}.k_norm.weight"), head_dim, false)?,
                bias: weights.vector(&format!("{prefix}.k_norm.bias"), head_dim)?,
                eps: sizes.key_eps,
            },
            weights_proj: weights.matrix(&format!("{prefix}.weights_proj.weight"), heads, hidden)?.exact(),
            rope,
            pool: None,
            of_stream: None,
        })
    }

    /// The same where a key stands for several positions: loads `{prefix}.index_kpool_compress_{gate,ape}`.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn pooled(self, weights: &mut Weights, prefix: &str) -> Result<Self, ModelError> {
        let Sizes { hidden, head_dim, every, .. } = self.sizes;
        let name = |part: &str| format!("{prefix}.index_kpool_compress_{part}");
        let gate = weights.matrix(&name("gate"), head_dim, hidden)?.exact();
        let bias = weights.tensor(&name("ape"), &[every, head_dim])?;
        Ok(Indexer { pool: Some(Pool { gate, by: Compress { every, overlap: false, bias } }), ..self })
    }

    /// The same where queries are made of the stream: loads `{prefix}.{q_input_norm,ssmax_scaling}`.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn of_stream(self, weights: &mut Weights, prefix: &str) -> Result<Self, ModelError> {
        let Sizes { hidden, heads, .. } = self.sizes;
        let norm = LayerNorm {
            weight: weights.norm(&format!("{prefix}.q_input_norm.weight"), hidden, false)?,
            bias: weights.vector(&format!("{prefix}.q_input_norm.bias"), hidden)?,
            eps: KEY_EPS,
        };
        let mut scale = |part: &str| weights.vector(&format!("{prefix}.ssmax_scaling.{part}"), heads);
        Ok(Indexer { of_stream: Some(OfStream { norm, scale: [scale("s")?, scale("b")?] }), ..self })
    }

    /// Keeps the keys of x `[n, hidden]` in the layer's cache number `cache`, and chooses from low_rank `[n, q_rank]` the positions
    /// that each query sees. Factors of all scores (`head_dim^-½`, `heads^-½`) choose nothing else, and are left out.
    fn index(&self, at: &At, [x, low_rank]: [&Tensor; 2], cache: usize, run: &mut Run) {
        let Sizes { heads, head_dim, every, .. } = self.sizes;
        let (n, ops) = (x.dim(0), run.ops);
        let mark = run.workspace.mark();
        let key = run.workspace.f32([n, 1, head_dim]);
        let weights = run.workspace.f32([n, heads]);
        let flat = key.reshape([n, head_dim]);
        ops.linear(x, &self.wk, &flat);
        ops.layer_norm(&flat, &self.k_norm, &flat);
        if let Some(rope) = &self.rope {
            ops.rope(&key, &at.batch.positions, rope);
        }
        ops.linear(x, &self.weights_proj, &weights);
        let source = match &self.of_stream {
            None => low_rank.clone(),
            Some(OfStream { norm, .. }) => {
                let normed = run.workspace.f32([n, x.dim(1)]);
                ops.layer_norm(x, norm, &normed);
                normed
            }
        };
        self.keep(at, x, &key, cache, run);
        let q = run.workspace.f32([n.min(ROWS), heads, head_dim]);
        let chosen = run.workspace.i32([n.min(ROWS), self.sizes.keys()]);
        for span in &at.batch.spans {
            let kv = at.kv(span.state, cache);
            for first in span.rows.clone().step_by(ROWS) {
                let rows = first..span.rows.end.min(first + ROWS);
                let start = span.start + first - span.rows.start;
                if start + rows.len() <= self.sizes.seen() {
                    continue; // All of the past is seen.
                }
                let q = q.rows(0..rows.len());
                ops.linear(&source.rows(rows.clone()), &self.wq_b, &q.reshape([rows.len(), heads * head_dim]));
                let positions = &at.batch.positions[rows.clone()];
                if let Some(OfStream { scale, .. }) = &self.of_stream {
                    ops.scale_heads(&q, positions, scale.each_ref());
                }
                if let Some(rope) = &self.rope {
                    ops.rope(&q, positions, rope);
                }
                let (weights, choice) = (weights.rows(rows.clone()), run.carried.rows(rows.clone()));
                let keys = Past { layout: kv.layout, blocks: kv.blocks, seen: Seen::Ended { start, every } };
                if every == 1 {
                    ops.select(&q, &weights, &keys, &choice);
                } else {
                    let chosen = chosen.rows(0..rows.len());
                    ops.select(&q, &weights, &keys, &chosen);
                    ops.block_positions(&chosen, every, start, &choice);
                }
            }
        }
        run.workspace.release(mark);
    }

    /// Keeps the keys `[n, 1, head_dim]` of x `[n, hidden]`, or those that end with them of several positions each.
    fn keep(&self, at: &At, x: &Tensor, key: &Tensor, cache: usize, run: &mut Run) {
        let (n, head_dim, ops) = (x.dim(0), self.sizes.head_dim, run.ops);
        let Some(Pool { gate, by }) = &self.pool else {
            for span in &at.batch.spans {
                let kv = at.kv(span.state, cache);
                let keys = key.rows(span.rows.clone());
                ops.kv_write(&keys, &keys, kv.layout, kv.blocks, span.start);
            }
            return;
        };
        let mark = run.workspace.mark();
        let gates = run.workspace.f32([n, head_dim]);
        // A batch has a span a token at most.
        let entries = run.workspace.f32([n / by.every + n, head_dim]);
        ops.linear(x, gate, &gates);
        for span in &at.batch.spans {
            let kv = at.kv(span.state, cache);
            let tail = at.recurrent(span.state).view(0, [by.tail(), 2 * head_dim], DType::F32);
            let (first, end) = (span.start / by.every, (span.start + span.rows.len()) / by.every);
            let out = entries.rows(0..end - first);
            let keys = key.rows(span.rows.clone()).reshape([span.rows.len(), head_dim]);
            ops.compress(&keys, &gates.rows(span.rows.clone()), by, &tail, span.start, &out);
            let out = out.reshape([end - first, 1, head_dim]);
            ops.kv_write(&out, &out, kv.layout, kv.blocks, first);
        }
        run.workspace.release(mark);
    }
}

impl Selector {
    fn sizes(&self) -> &Sizes {
        match self {
            Selector::Own(Indexer { sizes, .. }) | Selector::Shared(sizes) => sizes,
        }
    }

    /// Positions that each query sees at most; while there are no more, it sees all.
    pub fn seen(&self) -> usize {
        self.sizes().seen()
    }

    /// Leaves in [`Run::carried`] the positions that each row sees, where it does not see all: x `[n, hidden]`, low_rank
    /// `[n, q_rank]`. Keys lie in the layer's cache number `cache`.
    pub fn index(&self, at: &At, x: &Tensor, low_rank: &Tensor, cache: usize, run: &mut Run) {
        if let Selector::Own(indexer) = self {
            indexer.index(at, [x, low_rank], cache, run);
        }
    }

    /// Bytes of workspace of [`Self::index`] for `n` tokens.
    pub fn workspace_bytes(&self, n: usize) -> usize {
        let Selector::Own(Indexer { sizes, pool, of_stream, .. }) = self else { return 0 };
        let (&Sizes { hidden, heads, head_dim, every, .. }, f32s) = (sizes, Workspace::f32_bytes);
        let normed = of_stream.as_ref().map_or(0, |_| f32s(n * hidden));
        let pooling = pool.as_ref().map_or(0, |_| f32s(n * head_dim) + f32s((n / every + n) * head_dim));
        let rows = n.min(ROWS);
        let choosing = f32s(rows * heads * head_dim) + f32s(rows * sizes.keys());
        f32s(n * head_dim) + f32s(n * heads) + normed + pooling.max(choosing)
    }

    /// What it keeps of positions.
    pub fn kv(&self) -> Option<KvWidth> {
        match self {
            Selector::Own(Indexer { sizes: Sizes { head_dim, every, .. }, .. }) => {
                Some(KvWidth { every: *every, ..KvWidth::shared(*head_dim) })
            }
            Selector::Shared(_) => None,
        }
    }

    /// What it keeps of a sequence: keys and gates that no entry stands for yet.
    pub fn recurrent(&self) -> Option<RecurrentLayout> {
        let Selector::Own(Indexer { sizes, pool: Some(pool), .. }) = self else { return None };
        let channels = pool.by.tail() * 2 * sizes.head_dim;
        Some(RecurrentLayout { kernel: 2, channels, heads: 0, k_dim: 0, v_dim: 0 })
    }
}
