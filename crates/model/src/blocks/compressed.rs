//! Compressed sparse attention (DeepSeek-V4): one vector of each position is key and value to all heads. A query sees those
//! within a window, each as it is, and of all the past entries that stand for several positions each: few heavily compressed
//! ones (HCA), or, of many lightly compressed ones, those that an indexer chooses (CSA). What RoPE turned of the values is turned
//! back behind the attention, and heads are brought together in groups. (`transformers` `modeling_deepseek_v4.py`.)

use outpour_kernels::{Attend, Compress, DType, Matrix, Past, RmsNorm, Rope, Seen, Tensor};

use super::mixer::{At, Mixer};
use crate::config::ModelError;
use crate::state::{KvWidth, RecurrentLayout};
use crate::weights::{Norms, Weights};
use crate::{Run, Workspace};

/// Queries that attend together.
const ROWS: usize = 64;
/// Entries whose keys are made together.
const ENTRIES: usize = 64;

/// A layer's caches: what its window holds, the entries, and the indexer's keys of them.
const WINDOW: usize = 0;
const ENTRY: usize = 1;
const INDEX: usize = 2;

/// Sizes of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of a head's last part, with rotary positions.
    pub rope_dim: usize,
    /// Width of the low-rank vector that queries are made of.
    pub q_rank: usize,
    /// Groups of heads that are brought together.
    pub groups: usize,
    /// Width that a group is brought to.
    pub o_rank: usize,
    /// Positions that a query sees as they are.
    pub window: usize,
    /// Heads of the indexer, the width of one, and the entries that it chooses.
    pub index: [usize; 3],
}

/// What a query sees beyond its window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// Nothing.
    Nothing,
    /// Entries of so many positions, all of them (HCA).
    All(usize),
    /// Entries of so many positions, each of which overlaps the one before, and of those the best (CSA).
    Chosen(usize),
}

/// The weights of one layer.
pub struct CompressedAttention {
    sizes: Sizes,
    wq_a: Matrix, // [q_rank, hidden]
    q_norm: RmsNorm,
    wq_b: Matrix, // [heads · head_dim, q_rank]
    head_norm: RmsNorm,
    wkv: Matrix, // [head_dim, hidden]
    kv_norm: RmsNorm,
    wo_a: Matrix, // [groups · o_rank, heads / groups · head_dim]
    wo_b: Matrix, // [hidden, groups · o_rank]
    attend: Attend,
    /// Of queries and keys, and its inverse.
    ropes: [Rope; 2],
    beyond: Beyond,
    compressor: Option<Compressor>,
    indexer: Option<Indexer>,
}

/// Makes entries of positions.
struct Compressor {
    wkv: Matrix,   // [width, hidden]: width is dim, or 2 · dim where entries overlap
    wgate: Matrix, // [width, hidden]
    by: Compress,
    norm: RmsNorm, // [dim]
    rope: Rope,
    dim: usize,
    /// The cache that its entries go to.
    cache: usize,
    /// Where its part of the layer's recurrent state begins, in f32 numbers.
    tail_at: usize,
}

/// Chooses entries.
struct Indexer {
    wq_b: Matrix,         // [heads · dim, q_rank]
    weights_proj: Matrix, // [heads, hidden]
    rope: Rope,
    keys: Compressor,
}

impl CompressedAttention {
    /// Loads `{prefix}.{wq_a,q_norm,wq_b,wkv,kv_norm,wo_a,wo_b,attn_sink}`, and of `{prefix}.compressor` and `{prefix}.indexer` what
    /// `beyond` says there is. `rope` is of the rotary part alone.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(
        weights: &mut Weights,
        prefix: &str,
        sizes: Sizes,
        beyond: Beyond,
        rope: &Rope,
        norms: Norms,
    ) -> Result<Self, ModelError> {
        let Sizes { hidden, heads, head_dim, rope_dim, q_rank, groups, o_rank, index, .. } = sizes;
        let turned = |dim: usize| Rope { first: dim - rope_dim, ..rope.clone() };
        let back = Rope { inv_freq: rope.inv_freq.iter().map(|freq| -freq).collect(), ..turned(head_dim) };
        let (compressor, indexer) = match beyond {
            Beyond::Nothing => (None, None),
            Beyond::All(every) => {
                let name = format!("{prefix}.compressor");
                let of = Entries { every, overlap: false, dim: head_dim, cache: ENTRY, tail_at: 0 };
                (Some(Compressor::load(weights, &name, hidden, of, turned(head_dim), norms)?), None)
            }
            Beyond::Chosen(every) => {
                let of = Entries { every, overlap: true, dim: head_dim, cache: ENTRY, tail_at: 0 };
                let name = format!("{prefix}.compressor");
                let entries = Compressor::load(weights, &name, hidden, of, turned(head_dim), norms)?;
                let [heads, dim, _] = index;
                let of = Entries { dim, cache: INDEX, tail_at: entries.tail_numbers(), ..of };
                let name = format!("{prefix}.indexer");
                let indexer = Indexer {
                    wq_b: weights.matrix(&format!("{name}.wq_b.weight"), heads * dim, q_rank)?,
                    weights_proj: weights.matrix(&format!("{name}.weights_proj.weight"), heads, hidden)?.exact(),
                    rope: turned(dim),
                    keys: Compressor::load(weights, &format!("{name}.compressor"), hidden, of, turned(dim), norms)?,
                };
                (Some(entries), Some(indexer))
            }
        };
        let name = |part: &str| format!("{prefix}.{part}.weight");
        Ok(CompressedAttention {
            sizes,
            wq_a: weights.matrix(&name("wq_a"), q_rank, hidden)?,
            q_norm: norms.load(weights, &name("q_norm"), q_rank)?,
            wq_b: weights.matrix(&name("wq_b"), heads * head_dim, q_rank)?,
            head_norm: RmsNorm { weight: None, plus_one: false, eps: norms.eps },
            wkv: weights.matrix(&name("wkv"), head_dim, hidden)?,
            kv_norm: norms.load(weights, &name("kv_norm"), head_dim)?,
            wo_a: weights.matrix(&name("wo_a"), groups * o_rank, heads / groups * head_dim)?,
            wo_b: weights.matrix(&name("wo_b"), hidden, groups * o_rank)?,
            attend: Attend {
                scale: (head_dim as f32).powf(-0.5),
                window: Some(sizes.window),
                sinks: Some(weights.vector(&format!("{prefix}.attn_sink"), heads)?),
            },
            ropes: [turned(head_dim), back],
            beyond,
            compressor,
            indexer,
        })
    }
}

/// What entries a compressor makes.
#[derive(Clone, Copy)]
struct Entries {
    every: usize,
    overlap: bool,
    dim: usize,
    cache: usize,
    tail_at: usize,
}

impl Compressor {
    fn load(
        weights: &mut Weights,
        prefix: &str,
        hidden: usize,
        of: Entries,
        rope: Rope,
        norms: Norms,
    ) -> Result<Self, ModelError> {
        let Entries { every, overlap, dim, cache, tail_at } = of;
        let width = if overlap { 2 * dim } else { dim };
        let name = |part: &str| format!("{prefix}.{part}.weight");
        Ok(Compressor {
            wkv: weights.matrix(&name("wkv"), width, hidden)?,
            wgate: weights.matrix(&name("wgate"), width, hidden)?,
            by: Compress { every, overlap, bias: weights.tensor(&format!("{prefix}.ape"), &[every, width])? },
            norm: norms.load(weights, &name("norm"), dim)?,
            rope,
            dim,
            cache,
            tail_at,
        })
    }

    fn width(&self) -> usize {
        self.wkv.rows()
    }

    /// f32 numbers that it keeps of a sequence.
    fn tail_numbers(&self) -> usize {
        self.by.tail() * 2 * self.width()
    }

    /// Puts the entries that end with x `[n, hidden]` into their cache, and keeps what later ones need.
    fn compress(&self, at: &At, x: &Tensor, run: &mut Run) {
        let (n, width, ops) = (x.dim(0), self.width(), run.ops);
        let mark = run.workspace.mark();
        let [rows, gates] = [(); 2].map(|()| run.workspace.f32([n, width]));
        let entries = run.workspace.f32([n / self.by.every + at.batch.spans.len(), self.dim]);
        ops.linear(x, &self.wkv, &rows);
        ops.linear(x, &self.wgate, &gates);
        for span in &at.batch.spans {
            let tail = at.recurrent(span.state).view(4 * self.tail_at, [self.by.tail(), 2 * width], DType::F32);
            let (first, end) = (span.start / self.by.every, (span.start + span.rows.len()) / self.by.every);
            let out = entries.rows(0..end - first);
            let of = |t: &Tensor| t.rows(span.rows.clone());
            ops.compress(&of(&rows), &of(&gates), &self.by, &tail, span.start, &out);
            ops.rms_norm(&out, &self.norm, &out);
            let kv = at.kv(span.state, self.cache);
            for some in (first..end).step_by(ENTRIES) {
                let count = ENTRIES.min(end - some);
                let mut positions = [0; ENTRIES];
                (0..count).for_each(|i| positions[i] = ((some + i) * self.by.every) as u32);
                let keys = out.rows(some - first..some - first + count).reshape([count, 1, self.dim]);
                ops.rope(&keys, &positions[..count], &self.rope);
                ops.kv_write(&keys, &keys, kv.layout, kv.blocks, some);
            }
        }
        run.workspace.release(mark);
    }

    /// Bytes of workspace of [`Self::compress`] for `n` tokens.
    fn workspace_bytes(&self, n: usize) -> usize {
        // A batch has a span a token at most.
        2 * Workspace::f32_bytes(n * self.width()) + Workspace::f32_bytes((n / self.by.every + n) * self.dim)
    }
}

impl CompressedAttention {
    /// Attention of rows `rows` of a batch, all of one span: q and out `[n, heads, head_dim]`, and what the indexer needs, x
    /// `[batch, hidden]` and low_rank `[batch, q_rank]`.
    fn attend(&self, at: &At, rows: Rows, [x, low_rank]: [&Tensor; 2], q: &Tensor, out: &Tensor, run: &mut Run) {
        let Rows { state, first, start } = rows;
        let (n, ops) = (q.dim(0), run.ops);
        let kv = |cache| at.kv(state, cache);
        let near = kv(WINDOW);
        let start_near = start - near.first;
        let window = Seen::Window { start: start_near, window: self.sizes.window };
        let near = Past { layout: near.layout, blocks: near.blocks, seen: window };
        let every = match self.beyond {
            Beyond::Nothing => {
                return ops.attention(q, &self.attend, near.layout, near.blocks, start_near, out);
            }
            Beyond::All(every) | Beyond::Chosen(every) => every,
        };
        let far = kv(ENTRY);
        let past = |seen| Past { layout: far.layout, blocks: far.blocks, seen };
        let Some(indexer) = &self.indexer else {
            return ops.sparse_attention(q, &self.attend, &[near, past(Seen::Ended { start, every })], out);
        };
        let [heads, dim, top_k] = self.sizes.index;
        let mark = run.workspace.mark();
        let index_q = run.workspace.f32([n, heads, dim]);
        let weights = run.workspace.f32([n, heads]);
        let choice = run.workspace.i32([n, top_k]);
        let of = |t: &Tensor| t.rows(first..first + n);
        ops.linear(&of(low_rank), &indexer.wq_b, &index_q.reshape([n, heads * dim]));
        ops.rope(&index_q, &at.batch.positions[first..first + n], &indexer.rope);
        ops.linear(&of(x), &indexer.weights_proj, &weights);
        let keys = kv(INDEX);
        let keys = Past { layout: keys.layout, blocks: keys.blocks, seen: Seen::Ended { start, every } };
        ops.select(&index_q, &weights, &keys, &choice);
        ops.sparse_attention(q, &self.attend, &[near, past(Seen::Chosen(&choice))], out);
        run.workspace.release(mark);
    }

    fn compressors(&self) -> impl Iterator<Item = &Compressor> {
        self.compressor.iter().chain(self.indexer.as_ref().map(|indexer| &indexer.keys))
    }
}

/// Rows of a batch: whose they are, the first of them, and its position.
#[derive(Clone, Copy)]
struct Rows {
    state: usize,
    first: usize,
    start: usize,
}

impl Mixer for CompressedAttention {
    fn forward(&self, at: &At, x: &Tensor, into: &Tensor, run: &mut Run) {
        let Sizes { hidden, heads, head_dim, q_rank, groups, o_rank, .. } = self.sizes;
        let (n, ops) = (at.batch.len(), run.ops);
        let low_rank = run.workspace.f32([n, q_rank]);
        let q = run.workspace.f32([n, heads, head_dim]);
        let key = run.workspace.f32([n, 1, head_dim]);
        let mixed = run.workspace.f32([n, heads, head_dim]);
        let grouped = run.workspace.f32([n, groups, o_rank]);
        let out = run.workspace.f32([n, hidden]);

        ops.linear(x, &self.wq_a, &low_rank);
        ops.rms_norm(&low_rank, &self.q_norm, &low_rank);
        ops.linear(&low_rank, &self.wq_b, &q.reshape([n, heads * head_dim]));
        ops.rms_norm(&q, &self.head_norm, &q);
        ops.rope(&q, &at.batch.positions, &self.ropes[0]);
        let flat = key.reshape([n, head_dim]);
        ops.linear(x, &self.wkv, &flat);
        ops.rms_norm(&flat, &self.kv_norm, &flat);
        ops.rope(&key, &at.batch.positions, &self.ropes[0]);
        for compressor in self.compressors() {
            compressor.compress(at, x, run);
        }
        for span in &at.batch.spans {
            let kv = at.kv(span.state, WINDOW);
            let keys = key.rows(span.rows.clone());
            ops.kv_write(&keys, &keys, kv.layout, kv.blocks, span.start - kv.first);
            for first in span.rows.clone().step_by(ROWS) {
                let rows = first..span.rows.end.min(first + ROWS);
                let start = span.start + first - span.rows.start;
                let of = Rows { state: span.state, first, start };
                self.attend(at, of, [x, &low_rank], &q.rows(rows.clone()), &mixed.rows(rows), run);
            }
        }
        ops.rope(&mixed, &at.batch.positions, &self.ropes[1]);
        let heads_of_groups = mixed.reshape([n, groups, heads / groups * head_dim]);
        ops.linear_heads(&heads_of_groups, &self.wo_a, 0, &grouped);
        ops.linear(&grouped.reshape([n, groups * o_rank]), &self.wo_b, &out);
        ops.add(&out, into);
    }

    fn workspace_bytes(&self, n: usize) -> usize {
        let Sizes { hidden, heads, head_dim, q_rank, groups, o_rank, index: [index_heads, index_dim, top_k], .. } =
            self.sizes;
        let f32s = Workspace::f32_bytes;
        let rows = n.min(ROWS);
        let choosing = f32s(rows * index_heads * index_dim) + f32s(rows * index_heads) + f32s(rows * top_k);
        let inner = self.compressors().map(|compressor| compressor.workspace_bytes(n)).fold(choosing, usize::max);
        f32s(n * q_rank)
            + 2 * f32s(n * heads * head_dim)
            + f32s(n * head_dim)
            + f32s(n * groups * o_rank)
            + f32s(n * hidden)
            + inner
    }

    fn kv(&self) -> Vec<KvWidth> {
        let near = KvWidth { window: Some(self.sizes.window), ..KvWidth::shared(self.sizes.head_dim) };
        let entries = self.compressors().map(|of| KvWidth { every: of.by.every, ..KvWidth::shared(of.dim) });
        [near].into_iter().chain(entries).collect()
    }

    fn recurrent(&self) -> Option<RecurrentLayout> {
        let numbers = self.compressors().map(Compressor::tail_numbers).sum();
        (numbers > 0).then_some(RecurrentLayout { kernel: 2, channels: numbers, heads: 0, k_dim: 0, v_dim: 0 })
    }

    fn letter(&self) -> (char, &'static str) {
        match self.beyond {
            Beyond::Nothing => ('W', "attention within a window"),
            Beyond::All(_) => ('H', "and to all of the past, heavily compressed (HCA)"),
            Beyond::Chosen(_) => ('C', "and to what is chosen of the past, lightly compressed (CSA)"),
        }
    }
}
