//! Grouped-query attention with rotary positions (arXiv 2305.13245), and what families add to it: norms of queries and keys,
//! biases, a window or chunks, sinks, an output gate beside each query.

use std::sync::Arc;

use outpour_kernels::{Attend, Bias, ColumnRun, Matrix, Ops, RmsNorm, Rope, Tensor};

use super::growth::Growth;
use super::mixer::{At, Mixer};
use crate::config::{Config, ModelError, SIZE_MAX};
use crate::state::{KvWidth, LayerKv, RecurrentLayout};
use crate::weights::{Norms, Weights};
use crate::{Run, Workspace};

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
    /// Reads `hidden_size`, `num_attention_heads`, `num_key_value_heads` and `head_dim` of the config.
    ///
    /// # Errors
    /// When a key is missing, or they do not fit each other.
    pub fn read(config: &Config) -> Result<Self, ModelError> {
        let heads = config.size("num_attention_heads")?;
        Self::read_or(config, [heads, heads, config.size("hidden_size")? / heads])
    }

    /// The same where heads, key-value heads and the width of a head have defaults.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_or(config: &Config, [heads, kv_heads, head_dim]: [usize; 3]) -> Result<Self, ModelError> {
        let sizes = Sizes {
            hidden: config.size("hidden_size")?,
            heads: config.size_or("num_attention_heads", heads)?,
            kv_heads: config.size_or("num_key_value_heads", kv_heads)?,
            head_dim: config.size_or("head_dim", head_dim)?,
        };
        sizes.check()?;
        Ok(sizes)
    }

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
}

/// What a family's attention has beside four matrices.
#[derive(Clone, Debug)]
pub struct Kind {
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// Whether the projections to queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the output projection has one.
    pub o_bias: bool,
    /// Whether each query comes with a gate: `q_proj` gives `[query | gate]` for each head, and the head's output is multiplied
    /// by sigmoid(gate).
    pub gated: bool,
    /// Name of the sinks, where each head has one: a logit that takes part in its softmax and adds nothing.
    pub sinks: Option<&'static str>,
    /// Positions that a query sees, if not all.
    pub window: Option<usize>,
    /// Positions of a chunk, where a query sees those of its own only (Llama 4).
    pub chunk: Option<usize>,
    /// How queries grow along the context, if they do.
    pub growth: Option<Growth>,
    /// Rotary positions, if there are any.
    pub rope: Option<Arc<Rope>>,
    /// What products of queries and keys are multiplied with, if not `head_dim^-½`.
    pub scale: Option<f32>,
    /// Width of a value, if not a key's.
    pub v_dim: Option<usize>,
    /// What values are multiplied with, if with anything.
    pub v_scale: Option<f32>,
    /// Whether values are normalised over each head, without weights.
    pub v_norm: bool,
    /// Whether values are what keys are before their norm: there is no `v_proj`.
    pub v_from_k: bool,
    /// Whether queries and keys are normalised behind their turn, not before it.
    pub norm_turned: bool,
    /// What queries, keys and values lie between, with either sign, if anything.
    pub clip: Option<f32>,
    /// Names of the norms of queries and keys, and of the output projection.
    pub names: [&'static str; 3],
}

impl Kind {
    /// Four matrices and RoPE.
    pub fn plain(rope: Rope) -> Self {
        Kind {
            qk_norm: QkNorm::None,
            qkv_bias: false,
            o_bias: false,
            gated: false,
            sinks: None,
            window: None,
            chunk: None,
            growth: None,
            rope: Some(Arc::new(rope)),
            scale: None,
            v_dim: None,
            v_scale: None,
            v_norm: false,
            v_from_k: false,
            norm_turned: false,
            clip: None,
            names: ["q_norm", "k_norm", "o_proj"],
        }
    }
}

/// Norms of queries and keys, as a rule before they are turned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// There are none.
    None,
    /// Over each head (Qwen3).
    PerHead,
    /// The same without weights (Llama 4).
    Unweighted,
    /// Over all heads together (MiniMax-M2).
    Whole,
}

/// A projection and its bias.
struct Projection {
    matrix: Matrix,
    bias: Option<Bias>,
}

impl Projection {
    fn load(weights: &mut Weights, name: &str, rows: usize, cols: usize, biased: bool) -> Result<Self, ModelError> {
        let bias = |weights: &mut Weights| weights.vector(&format!("{name}.bias"), rows).map(Bias::plain);
        Ok(Projection {
            matrix: weights.matrix(&format!("{name}.weight"), rows, cols)?,
            bias: biased.then(|| bias(weights)).transpose()?,
        })
    }

    /// x `[n, cols]` → each out `[n, rows]`, of whatever shape.
    fn apply<const N: usize>(projections: [(&Self, &Tensor); N], x: &Tensor, run: &Run) {
        let outs = projections.map(|(projection, out)| out.reshape([x.dim(0), projection.matrix.rows()]));
        run.ops.linears(x, &std::array::from_fn::<_, N, _>(|i| (&projections[i].0.matrix, &outs[i])));
        for ((projection, _), out) in projections.iter().zip(&outs) {
            if let Some(bias) = &projection.bias {
                run.ops.add_bias(out, bias);
            }
        }
    }
}

/// What chooses the positions that queries attend to, in the layer's second cache.
pub trait Index: Send + Sync {
    /// Attention of x `[n, hidden]`, whose keys and values are kept already: queries `q` → `mixed`, both `[n, q_heads, head_dim]`.
    fn attend(&self, at: &At, x: &Tensor, q_mixed: [&Tensor; 2], attend: &Attend, run: &mut Run);

    /// Bytes of workspace of [`Self::attend`] for `n` tokens of so many queries.
    fn workspace_bytes(&self, n: usize, q_heads: usize, dim: usize) -> usize;

    /// What it keeps of each position.
    fn kv(&self) -> KvWidth;

    /// What it keeps of a sequence, if anything.
    fn recurrent(&self) -> Option<RecurrentLayout> {
        None
    }
}

/// The weights of one attention layer.
pub struct Attention {
    sizes: Sizes,
    v_dim: usize,
    q: Projection,
    k: Projection,
    v: Option<Projection>,
    o: Projection,
    v_norm: Option<RmsNorm>,
    qk_norm: Option<[RmsNorm; 2]>,
    norm_whole: bool,
    norm_turned: bool,
    clip: Option<f32>,
    rope: Option<Arc<Rope>>,
    attend: Attend,
    chunk: Option<usize>,
    growth: Option<Growth>,
    v_scale: Option<f32>,
    /// What chooses the blocks of positions that a query sees, if not all.
    index: Option<Box<dyn Index>>,
    /// Columns of `q_proj`'s output that are queries, and gates.
    gate_runs: Option<[Vec<ColumnRun>; 2]>,
}

impl Attention {
    /// Loads `{prefix}.{q,k,v,o}_proj`, and what `kind` says there is of `{prefix}.{q,k}_norm` and its sinks.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(
        weights: &mut Weights,
        prefix: &str,
        sizes: Sizes,
        kind: &Kind,
        norms: Norms,
    ) -> Result<Self, ModelError> {
        let Sizes { hidden, heads, kv_heads, head_dim } = sizes;
        let (q_dim, kv_dim) = (heads * head_dim, kv_heads * head_dim);
        let v_dim = kind.v_dim.unwrap_or(head_dim);
        let q_rows = if kind.gated { 2 * q_dim } else { q_dim };
        let runs = |first: usize| {
            let run = |head| ColumnRun { from: (2 * head + first) * head_dim, to: head * head_dim, len: head_dim };
            (0..heads).map(run).collect()
        };
        let name = |part: &str| format!("{prefix}.{part}");
        let [q_normed, k_normed] = match kind.qk_norm {
            QkNorm::Whole => [q_dim, kv_dim],
            QkNorm::None | QkNorm::PerHead | QkNorm::Unweighted => [head_dim, head_dim],
        };
        let mut projection = |part, rows, cols, biased| Projection::load(weights, &name(part), rows, cols, biased);
        let q = projection("q_proj", q_rows, hidden, kind.qkv_bias)?;
        let k = projection("k_proj", kv_dim, hidden, kind.qkv_bias)?;
        let v = (!kind.v_from_k).then(|| projection("v_proj", kv_heads * v_dim, hidden, kind.qkv_bias)).transpose()?;
        let [q_norm, k_norm, o_proj] = kind.names;
        let o = projection(o_proj, hidden, heads * v_dim, kind.o_bias)?;
        let unweighted = RmsNorm { weight: None, plus_one: false, eps: norms.eps };
        let mut norm = |part, elements| norms.load(weights, &format!("{prefix}.{part}.weight"), elements);
        let qk_norm = match kind.qk_norm {
            QkNorm::None => None,
            QkNorm::Unweighted => Some([(); 2].map(|()| unweighted.clone())),
            QkNorm::PerHead | QkNorm::Whole => Some([norm(q_norm, q_normed)?, norm(k_norm, k_normed)?]),
        };
        let sinks = kind.sinks.map(|sinks| weights.vector(&name(sinks), heads)).transpose()?;
        Ok(Attention {
            sizes,
            v_dim,
            q,
            k,
            v,
            o,
            v_norm: kind.v_norm.then_some(unweighted),
            qk_norm,
            norm_whole: kind.qk_norm == QkNorm::Whole,
            norm_turned: kind.norm_turned,
            clip: kind.clip,
            rope: kind.rope.clone(),
            attend: Attend { scale: kind.scale.unwrap_or((head_dim as f32).powf(-0.5)), window: kind.window, sinks },
            chunk: kind.chunk,
            growth: kind.growth,
            v_scale: kind.v_scale,
            index: None,
            gate_runs: kind.gated.then(|| [runs(0), runs(1)]),
        })
    }

    /// The same over blocks of positions that are chosen.
    pub fn sparse(self, index: impl Index + 'static) -> Self {
        Attention { index: Some(Box::new(index)), ..self }
    }

    /// Queries, keys and values, each `[n, heads, head_dim]`; returns the queries' gates, of as many elements, where there are
    /// any.
    fn project(&self, x: &Tensor, [q, k, v]: [&Tensor; 3], run: &mut Run) -> Option<Tensor> {
        let (n, width) = (q.dim(0), q.dim(1) * q.dim(2));
        let gated = self.gate_runs.as_ref().map(|runs| {
            let [gate, both] = [width, 2 * width].map(|width| run.workspace.f32([n, width]));
            (runs, gate, both)
        });
        let to = gated.as_ref().map_or(q, |(_, _, both)| both);
        match &self.v {
            Some(v_proj) => Projection::apply([(&self.q, to), (&self.k, k), (v_proj, v)], x, run),
            None => {
                Projection::apply([(&self.q, to), (&self.k, k)], x, run);
                run.ops.copy(k, v);
            }
        }
        gated.map(|([queries, gates], gate, both)| {
            run.ops.copy_columns(&both, queries, &q.reshape([n, width]));
            run.ops.copy_columns(&both, gates, &gate);
            gate
        })
    }

    /// Norms of queries and keys, in place.
    fn normalise(&self, q: &Tensor, k: &Tensor, run: &Run) {
        let Some([q_norm, k_norm]) = &self.qk_norm else { return };
        for (x, norm) in [(q, q_norm), (k, k_norm)] {
            let x = if self.norm_whole { x.reshape([x.dim(0), x.dim(1) * x.dim(2)]) } else { x.clone() };
            run.ops.rms_norm(&x, norm, &x);
        }
    }
}

impl Attention {
    /// `attention(x)` in the workspace: x `[n, hidden]`.
    fn apply(&self, at: &At, x: &Tensor, run: &mut Run) -> Tensor {
        let Sizes { hidden, heads, kv_heads, head_dim } = self.sizes;
        let (n, ops) = (at.batch.len(), run.ops);
        let q = run.workspace.f32([n, heads, head_dim]);
        let k = run.workspace.f32([n, kv_heads, head_dim]);
        let v = run.workspace.f32([n, kv_heads, self.v_dim]);
        let mixed = run.workspace.f32([n, heads, self.v_dim]);
        let out = run.workspace.f32([n, hidden]);

        let gate = self.project(x, [&q, &k, &v], run);
        if let Some(norm) = &self.v_norm {
            ops.rms_norm(&v, norm, &v);
        }
        if let Some(scale) = self.v_scale {
            ops.scale(&v, scale, None);
        }
        if !self.norm_turned {
            self.normalise(&q, &k, run);
        }
        if let Some(limit) = self.clip {
            [&q, &k, &v].into_iter().for_each(|x| ops.clamp(x, limit));
        }
        if let Some(rope) = &self.rope {
            ops.rope(&q, &at.batch.positions, rope);
            ops.rope(&k, &at.batch.positions, rope);
        }
        if self.norm_turned {
            self.normalise(&q, &k, run);
        }
        if let Some(growth) = &self.growth {
            growth.apply(ops, &at.batch.positions, &q);
        }
        for span in &at.batch.spans {
            let rows = |t: &Tensor| t.rows(span.rows.clone());
            let kv = at.kv(span.state, 0);
            let start = span.start - kv.first;
            ops.kv_write(&rows(&k), &rows(&v), kv.layout, kv.blocks, start);
            if self.index.is_none() {
                self.attend(&kv, span.start, [&rows(&q), &rows(&mixed)], ops);
            }
        }
        if let Some(index) = &self.index {
            index.attend(at, x, [&q, &mixed], &self.attend, run);
        }
        if let Some(gate) = gate {
            ops.sigmoid_gate(&mixed, &gate);
        }
        Projection::apply([(&self.o, &out)], &mixed.reshape([n, heads * self.v_dim]), run);
        out
    }
}

impl Attention {
    /// Queries q `[n, heads, head_dim]` of positions from `start` on → mixed `[n, heads, v_dim]`, chunk by chunk.
    fn attend(&self, kv: &LayerKv, start: usize, [q, mixed]: [&Tensor; 2], ops: &dyn Ops) {
        let chunk = self.chunk.unwrap_or(usize::MAX);
        if !chunk.is_multiple_of(kv.layout.block_tokens) && self.chunk.is_some() {
            return self.attend_windows(kv, start, chunk, [q, mixed], ops);
        }
        let (mut position, end) = (start, start + q.dim(0));
        while position < end {
            let rows = position - start..end.min((position / chunk + 1).saturating_mul(chunk)) - start;
            // What is held of the past begins at the chunk, or before it.
            let first = (position / chunk * chunk).saturating_sub(kv.first);
            let blocks = &kv.blocks[first / kv.layout.block_tokens..];
            let from = position - kv.first - first;
            ops.attention(&q.rows(rows.clone()), &self.attend, kv.layout, blocks, from, &mixed.rows(rows.clone()));
            position = start + rows.end;
        }
    }

    /// The same where chunks begin within blocks, as in no released model: each query has a window of its own.
    fn attend_windows(&self, kv: &LayerKv, start: usize, chunk: usize, [q, mixed]: [&Tensor; 2], ops: &dyn Ops) {
        for row in 0..q.dim(0) {
            let attend = Attend { window: Some((start + row) % chunk + 1), ..self.attend.clone() };
            let row_of = |tensor: &Tensor| tensor.rows(row..row + 1);
            ops.attention(&row_of(q), &attend, kv.layout, kv.blocks, start + row - kv.first, &row_of(mixed));
        }
    }
}

impl Mixer for Attention {
    fn forward(&self, at: &At, x: &Tensor, into: &Tensor, run: &mut Run) {
        let out = self.apply(at, x, run);
        run.ops.add(&out, into);
    }

    fn workspace_bytes(&self, n: usize) -> usize {
        let Sizes { hidden, heads, kv_heads, head_dim } = self.sizes;
        let queries = Workspace::f32_bytes(n * heads * head_dim);
        let gated = self.gate_runs.is_some();
        let gates = if gated { queries + Workspace::f32_bytes(2 * n * heads * head_dim) } else { 0 };
        let index = self.index.as_ref().map_or(0, |index| index.workspace_bytes(n, heads, head_dim));
        let keys = Workspace::f32_bytes(n * kv_heads * head_dim) + Workspace::f32_bytes(n * kv_heads * self.v_dim);
        gates + index + queries + Workspace::f32_bytes(n * heads * self.v_dim) + keys + Workspace::f32_bytes(n * hidden)
    }

    fn kv(&self) -> Vec<KvWidth> {
        let Sizes { kv_heads, head_dim, .. } = self.sizes;
        let window = self.attend.window.or(self.chunk);
        let own = KvWidth { window, ..KvWidth::new(kv_heads, head_dim, self.v_dim) };
        [own].into_iter().chain(self.index.as_ref().map(|index| index.kv())).collect()
    }

    fn recurrent(&self) -> Option<RecurrentLayout> {
        self.index.as_ref()?.recurrent()
    }

    fn letter(&self) -> (char, &'static str) {
        if self.index.is_some() {
            return ('B', "attention to chosen blocks of positions");
        }
        if self.chunk.is_some() {
            return ('C', "attention within a chunk");
        }
        match (self.attend.window, self.gate_runs.is_some()) {
            (Some(_), _) => ('W', "attention within a window"),
            (None, true) => ('A', "gated attention"),
            (None, false) => ('A', "attention"),
        }
    }
}
