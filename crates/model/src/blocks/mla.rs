//! Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434) in its absorbed form: what is kept of a position is one latent
//! vector and one rotary key for all heads. A query is taken into the latent space by its head's part of `kv_b_proj`, attends
//! there, and what it mixes is brought out by the other part. A prompt is computed as a token is, so that both have the same
//! bits. With an indexer (DeepSeek-V3.2) a query attends to the positions that it chooses, as soon as there are more.

use std::ops::Range;

use outpour_kernels::{Attend, ColumnRun, Matrix, Ops, Past, RmsNorm, Rope, Seen, Tensor};

use super::growth::Growth;
use super::indexer::Selector;
use super::mixer::{At, Mixer};
use crate::config::{Config, ModelError, SIZE_MAX};
use crate::state::{KvWidth, LayerKv, RecurrentLayout};
use crate::weights::{Norms, Weights};
use crate::{Run, Workspace};

/// Tokens that attend together: a head's query in the latent space is several times as wide as outside.
const ROWS: usize = 64;
/// Norms of the low-rank vectors add this in most families, whatever `rms_norm_eps` says.
const LOW_RANK_EPS: f32 = 1e-6;

/// Sizes of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Heads.
    pub heads: usize,
    /// Width of the low-rank vector that queries are made of, if they are.
    pub q_rank: Option<usize>,
    /// Width of the latent vector.
    pub kv_rank: usize,
    /// Width of a head's query and key without positions.
    pub nope_dim: usize,
    /// Width of the part with rotary positions.
    pub rope_dim: usize,
    /// Width of a head's value.
    pub v_dim: usize,
    /// Names of its tensors.
    pub names: Names,
    /// What norms of the low-rank vectors add.
    pub low_rank_eps: f32,
}

impl Sizes {
    /// Reads `q_lora_rank`, `kv_lora_rank`, `qk_nope_head_dim`, `qk_rope_head_dim` and `v_head_dim` of the config.
    ///
    /// # Errors
    /// When a key is missing, or they do not fit each other.
    pub fn read(config: &Config) -> Result<Self, ModelError> {
        let sizes = Sizes {
            hidden: config.size("hidden_size")?,
            heads: config.size("num_attention_heads")?,
            q_rank: config.size_or_none("q_lora_rank")?,
            kv_rank: config.size("kv_lora_rank")?,
            nope_dim: config.size("qk_nope_head_dim")?,
            rope_dim: config.count_or("qk_rope_head_dim", 0)?,
            v_dim: config.size("v_head_dim")?,
            names: Names::DEEPSEEK,
            low_rank_eps: LOW_RANK_EPS,
        };
        let Sizes { heads, kv_rank, nope_dim, rope_dim, v_dim, .. } = sizes;
        let widest = (nope_dim + v_dim).max(nope_dim + rope_dim).max(kv_rank + rope_dim) as u64;
        if heads as u64 * widest >= SIZE_MAX {
            return Err(ModelError::Config(format!(
                "num_attention_heads {heads} with kv_lora_rank {kv_rank} make no attention; download it again"
            )));
        }
        if !rope_dim.is_multiple_of(2) {
            return Err(ModelError::Config(format!(
                "qk_rope_head_dim {rope_dim} is odd, and RoPE turns pairs; download it again"
            )));
        }
        Ok(sizes)
    }

    fn q_dim(&self) -> usize {
        self.nope_dim + self.rope_dim
    }

    fn latent_dim(&self) -> usize {
        self.kv_rank + self.rope_dim
    }
}

/// Names of a layer's tensors.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// Queries, where they are made in one step.
    pub q: &'static str,
    /// Latent vectors.
    pub kv_a: &'static str,
    /// Their norm.
    pub kv_a_norm: &'static str,
    /// Keys and values out of latent vectors.
    pub kv_b: &'static str,
    /// The output projection.
    pub o: &'static str,
}

impl Names {
    /// Those of DeepSeek, and of most others.
    pub const DEEPSEEK: Names =
        Names { q: "q_proj", kv_a: "kv_a_proj_with_mqa", kv_a_norm: "kv_a_layernorm", kv_b: "kv_b_proj", o: "o_proj" };
    /// Those of Ling.
    pub const LING: Names = Names { o: "dense", ..Names::DEEPSEEK };
    /// Those of Mistral.
    pub const MISTRAL: Names =
        Names { q: "wq", kv_a: "wkv_a_with_mqa", kv_a_norm: "kv_a_norm", kv_b: "wkv_b", o: "wo" };
}

/// Where latent vectors come from.
enum Latents {
    /// Matrix `[kv_rank + rope_dim, hidden]` and norm `[kv_rank]`.
    Own(Matrix, RmsNorm),
    /// The cache of an earlier layer.
    Of(usize),
}

/// The weights of one layer.
pub struct Mla {
    sizes: Sizes,
    queries: Queries,
    latents: Latents,
    kv_b: Heads,
    o_proj: Matrix,
    /// Of queries and of keys, where they have positions.
    ropes: Option<[Rope; 2]>,
    growth: Option<Growth>,
    /// What queries of a head are multiplied with: see [`Ops::scale_heads`].
    head_scale: Option<[Tensor; 2]>,
    /// What the normed latent vector is multiplied with.
    latent_scale: f32,
    gate: Option<Gate>,
    attend: Attend,
    runs: Runs,
    /// What chooses the positions that a query sees, if not all of the past.
    selector: Option<Selector>,
}

/// What each gate is of, by whose sigmoid what was mixed is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gates {
    /// A head: `[heads, hidden]` makes them (Ling 3).
    Heads,
    /// A number of a head: `[heads · v_dim, hidden]` makes them (Hunyuan 4).
    Values,
}

/// Gates of what was mixed.
struct Gate {
    gates: Gates,
    matrix: Matrix,
}

impl Gate {
    /// values `[n, heads, v_dim]`, in place, by gates of x `[n, hidden]`.
    fn apply(&self, x: &Tensor, values: &Tensor, run: &mut Run) {
        let (n, ops) = (x.dim(0), run.ops);
        let gate = run.workspace.f32([n, self.matrix.rows()]);
        ops.linear(x, &self.matrix, &gate);
        match self.gates {
            Gates::Values => ops.sigmoid_gate(values, &gate),
            Gates::Heads => {
                let rows = n * values.dim(1);
                let gated = run.workspace.f32([rows, values.dim(2)]);
                ops.zero(&gated);
                ops.add_gated(&values.reshape([rows, values.dim(2)]), &gate.reshape([rows, 1]), &gated);
                ops.copy(&gated, values);
            }
        }
    }

    /// Bytes of workspace of [`Self::apply`] for `n` tokens of so many values.
    fn workspace_bytes(&self, n: usize, values: usize) -> usize {
        let gated = if self.gates == Gates::Heads { Workspace::f32_bytes(n * values) } else { 0 };
        Workspace::f32_bytes(n * self.matrix.rows()) + gated
    }
}

/// How queries are made.
enum Queries {
    Whole(Matrix),                                   // [heads · q_dim, hidden]
    LowRank { a: Matrix, norm: RmsNorm, b: Matrix }, // [q_rank, hidden], [q_rank], [heads · q_dim, q_rank]
}

/// What takes a head's query into the latent space, and what takes what it mixed out of it.
enum Heads {
    /// `kv_b_proj` `[heads · (nope_dim + v_dim), kv_rank]`: of each head its keys, then its values.
    Joined(Matrix),
    /// As MLX's exports have it: `embed_q` `[heads · kv_rank, nope_dim]`, the keys transposed, and `unembed_out`
    /// `[heads · v_dim, kv_rank]`, the values.
    Apart { embed_q: Matrix, unembed_out: Matrix },
}

impl Heads {
    fn load(weights: &mut Weights, prefix: &str, sizes: Sizes) -> Result<Self, ModelError> {
        let Sizes { heads, kv_rank, nope_dim, v_dim, .. } = sizes;
        let name = |part: &str| format!("{prefix}.{part}.weight");
        if !weights.has_matrix(&name("embed_q")) {
            return Ok(Heads::Joined(weights.matrix(&name(sizes.names.kv_b), heads * (nope_dim + v_dim), kv_rank)?));
        }
        Ok(Heads::Apart {
            embed_q: weights.stack(&name("embed_q"), heads, kv_rank, nope_dim)?,
            unembed_out: weights.stack(&name("unembed_out"), heads, v_dim, kv_rank)?,
        })
    }

    /// q `[n, heads, nope_dim]` → out `[n, heads, kv_rank]`.
    fn absorb(&self, ops: &dyn Ops, q: &Tensor, out: &Tensor) {
        match self {
            Heads::Joined(kv_b) => ops.linear_heads_transposed(q, kv_b, 0, out),
            Heads::Apart { embed_q, .. } => ops.linear_heads(q, embed_q, 0, out),
        }
    }

    /// mixed `[n, heads, kv_rank]` → values `[n, heads, v_dim]`.
    fn values(&self, ops: &dyn Ops, mixed: &Tensor, sizes: Sizes, values: &Tensor) {
        match self {
            Heads::Joined(kv_b) => ops.linear_heads(mixed, kv_b, sizes.nope_dim, values),
            Heads::Apart { unembed_out, .. } => ops.linear_heads(mixed, unembed_out, 0, values),
        }
    }
}

/// Which columns go where.
struct Runs {
    /// Of a token's queries: their parts without positions, one behind the other.
    nope: Vec<ColumnRun>,
    /// Of the same: their rotary parts, behind each head's query in the latent space.
    rotary: Vec<ColumnRun>,
    /// A head's query in the latent space, to where attention takes it.
    absorbed: Vec<ColumnRun>,
    /// Of `kv_a`'s output: the latent vector.
    latent: [ColumnRun; 1],
    /// And the rotary key.
    key: [ColumnRun; 1],
}

impl Runs {
    fn new(sizes: &Sizes) -> Self {
        let Sizes { heads, kv_rank, nope_dim, rope_dim, .. } = *sizes;
        let (q_dim, latent_dim) = (sizes.q_dim(), sizes.latent_dim());
        let runs = |of: &dyn Fn(usize) -> ColumnRun| (0..heads).map(of).collect::<Vec<_>>();
        let run = |from, to, len| ColumnRun { from, to, len };
        Runs {
            nope: runs(&|h| run(h * q_dim, h * nope_dim, nope_dim)),
            rotary: runs(&|h| run(h * q_dim + nope_dim, h * latent_dim + kv_rank, rope_dim)),
            absorbed: runs(&|h| run(h * kv_rank, h * latent_dim, kv_rank)),
            latent: [run(0, 0, kv_rank)],
            key: [run(kv_rank, kv_rank, rope_dim)],
        }
    }
}

impl Mla {
    /// Loads `{prefix}.{q_proj, or q_a_proj, q_a_layernorm and q_b_proj; kv_a_proj_with_mqa, kv_a_layernorm; kv_b_proj, or embed_q
    /// and unembed_out; o_proj}`, or what `sizes` calls them. `rope` is of the rotary part alone; `scale` multiplies the usual scale of attention.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(
        weights: &mut Weights,
        prefix: &str,
        sizes: Sizes,
        rope: Option<&Rope>,
        scale: f32,
    ) -> Result<Self, ModelError> {
        Self::load_over(weights, prefix, sizes, rope, scale, None)
    }

    /// The same over the latent vectors of layer `source`, an earlier one, if it is named (Mistral Large 4).
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_over(
        weights: &mut Weights,
        prefix: &str,
        sizes: Sizes,
        rope: Option<&Rope>,
        scale: f32,
        source: Option<usize>,
    ) -> Result<Self, ModelError> {
        let Sizes { hidden, heads, q_rank, kv_rank, nope_dim, v_dim, .. } = sizes;
        let norms = Norms { eps: sizes.low_rank_eps, plus_one: false };
        let name = |part: &str| format!("{prefix}.{part}.weight");
        let queries = match q_rank {
            None => Queries::Whole(weights.matrix(&name(sizes.names.q), heads * sizes.q_dim(), hidden)?),
            Some(rank) => Queries::LowRank {
                a: weights.matrix(&name("q_a_proj"), rank, hidden)?,
                norm: norms.load(weights, &name("q_a_layernorm"), rank)?,
                b: weights.matrix(&name("q_b_proj"), heads * sizes.q_dim(), rank)?,
            },
        };
        Ok(Mla {
            sizes,
            queries,
            latents: match source {
                Some(layer) => Latents::Of(layer),
                None => Latents::Own(
                    weights.matrix(&name(sizes.names.kv_a), sizes.latent_dim(), hidden)?,
                    norms.load(weights, &name(sizes.names.kv_a_norm), kv_rank)?,
                ),
            },
            kv_b: Heads::load(weights, prefix, sizes)?,
            o_proj: weights.matrix(&name(sizes.names.o), hidden, heads * v_dim)?,
            ropes: rope.map(|rope| [nope_dim, kv_rank].map(|first| Rope { first, ..rope.clone() })),
            attend: Attend { scale: (sizes.q_dim() as f32).powf(-0.5) * scale, window: None, sinks: None },
            growth: None,
            head_scale: None,
            latent_scale: 1.0,
            gate: None,
            runs: Runs::new(&sizes),
            selector: None,
        })
    }

    /// The same with queries that grow so.
    pub fn growing(self, growth: Option<Growth>) -> Self {
        Mla { growth, ..self }
    }

    /// The same where queries of a head are multiplied with `by[0] · ln(position + 1) + by[1]`: each `[heads]`.
    pub fn scaled_by_head(self, by: [Tensor; 2]) -> Self {
        Mla { head_scale: Some(by), ..self }
    }

    /// The same where the normed latent vector is multiplied with this (LongCat).
    pub fn latent_scaled(self, latent_scale: f32) -> Self {
        Mla { latent_scale, ..self }
    }

    /// The same with such gates of values, made by `matrix`.
    pub fn gated(self, gates: Gates, matrix: Matrix) -> Self {
        Mla { gate: Some(Gate { gates, matrix }), ..self }
    }

    /// The same with a sink for each head: `[heads]`.
    pub fn with_sinks(self, sinks: Tensor) -> Self {
        Mla { attend: Attend { sinks: Some(sinks), ..self.attend }, ..self }
    }

    /// The same over positions that are chosen.
    pub fn sparse(self, selector: Selector) -> Self {
        Mla { selector: Some(selector), ..self }
    }

    /// Caches of its own beside the selector's.
    fn own_caches(&self) -> usize {
        usize::from(matches!(self.latents, Latents::Own(..)))
    }

    /// Width of the low-rank vector of queries; 0 where there is none.
    fn low_rank(&self) -> usize {
        self.sizes.q_rank.unwrap_or(0)
    }

    /// x `[n, hidden]` → q `[n, heads · q_dim]`, and the low-rank vectors `[n, q_rank]` that it is made of, if it is.
    fn queries(&self, x: &Tensor, low_rank: &Tensor, q: &Tensor, run: &mut Run) {
        match &self.queries {
            Queries::Whole(q_proj) => run.ops.linear(x, q_proj, q),
            Queries::LowRank { a, norm, b } => {
                run.ops.linear(x, a, low_rank);
                run.ops.rms_norm(low_rank, norm, low_rank);
                run.ops.linear(low_rank, b, q);
            }
        }
    }

    /// x `[n, hidden]` → key `[n, 1, kv_rank + rope_dim]`: the latent vector, which is the value too, and the rotary key. Nothing
    /// where they are an earlier layer's.
    fn keys(&self, at: &At, x: &Tensor, key: &Tensor, run: &mut Run) {
        let Latents::Own(kv_a, kv_a_norm) = &self.latents else { return };
        let (n, ops) = (x.dim(0), run.ops);
        let (kv_rank, latent_dim) = (self.sizes.kv_rank, self.sizes.latent_dim());
        let raw = run.workspace.f32([n, latent_dim]);
        let latent = run.workspace.f32([n, kv_rank]);
        let flat = key.reshape([n, latent_dim]);
        ops.linear(x, kv_a, &raw);
        ops.copy_columns(&raw, &self.runs.latent, &latent);
        ops.rms_norm(&latent, kv_a_norm, &latent);
        if self.latent_scale != 1.0 {
            ops.scale(&latent, self.latent_scale, None);
        }
        ops.copy_columns(&latent, &self.runs.latent, &flat);
        ops.copy_columns(&raw, &self.runs.key, &flat);
        if let Some([_, rope]) = &self.ropes {
            ops.rope(key, &at.batch.positions, rope);
        }
    }
}

impl Mla {
    /// Attention in the latent space of rows `rows` of a batch, the first at position `start`: q `[n, heads, latent_dim]`, out
    /// `[n, heads, kv_rank]`. As long as no more positions are there than may be chosen, all are seen.
    fn attend(&self, q: &Tensor, rows: Range<usize>, start: usize, kv: &LayerKv, out: &Tensor, run: &Run) {
        let seen_all = match &self.selector {
            None => rows.len(),
            Some(selector) => selector.seen().saturating_sub(start).min(rows.len()),
        };
        let of = |t: &Tensor| (t.rows(0..seen_all), t.rows(seen_all..rows.len()));
        let ((q, sparse_q), (out, sparse_out)) = (of(q), of(out));
        if seen_all > 0 {
            run.ops.attention(&q, &self.attend, kv.layout, kv.blocks, start, &out);
        }
        if seen_all < rows.len() {
            let choice = run.carried.rows(rows.start + seen_all..rows.end);
            let past = Past { layout: kv.layout, blocks: kv.blocks, seen: Seen::Chosen(&choice) };
            run.ops.sparse_attention(&sparse_q, &self.attend, &[past], &sparse_out);
        }
    }
}

impl Mixer for Mla {
    fn forward(&self, at: &At, x: &Tensor, into: &Tensor, run: &mut Run) {
        let Sizes { hidden, heads, kv_rank, nope_dim, v_dim, .. } = self.sizes;
        let (q_dim, latent_dim) = (self.sizes.q_dim(), self.sizes.latent_dim());
        let (n, ops) = (at.batch.len(), run.ops);
        let q = run.workspace.f32([n, heads, q_dim]);
        let key = run.workspace.f32([n, 1, latent_dim]);
        let values = run.workspace.f32([n, heads, v_dim]);
        let low_rank = run.workspace.f32([n, self.low_rank()]);
        let out = run.workspace.f32([n, hidden]);
        let inner = run.workspace.mark();

        self.queries(x, &low_rank, &q.reshape([n, heads * q_dim]), run);
        if let Some([rope, _]) = &self.ropes {
            ops.rope(&q, &at.batch.positions, rope);
        }
        if let Some(growth) = &self.growth {
            growth.apply(ops, &at.batch.positions, &q);
        }
        if let Some(by) = &self.head_scale {
            ops.scale_heads(&q, &at.batch.positions, by.each_ref());
        }
        self.keys(at, x, &key, run);
        run.workspace.release(inner);
        if let Some(selector) = &self.selector {
            selector.index(at, x, &low_rank, self.own_caches(), run);
        }
        let some = n.min(ROWS);
        let q_nope = run.workspace.f32([some, heads, nope_dim]);
        let absorbed = run.workspace.f32([some, heads, kv_rank]);
        let q_latent = run.workspace.f32([some, heads, latent_dim]);
        for span in &at.batch.spans {
            let start = span.start;
            let kv = match self.latents {
                Latents::Own(..) => at.kv(span.state, 0),
                Latents::Of(layer) => at.states[span.state].kv(layer, 0, at.layout),
            };
            if matches!(self.latents, Latents::Own(..)) {
                let keys = key.rows(span.rows.clone());
                ops.kv_write(&keys, &keys, kv.layout, kv.blocks, start);
            }
            for first in span.rows.clone().step_by(ROWS) {
                let rows = first..span.rows.end.min(first + ROWS);
                let of = |t: &Tensor| t.rows(0..rows.len());
                let flat = |t: &Tensor| t.reshape([t.dim(0), t.dim(1) * t.dim(2)]);
                let (q, q_nope, absorbed, q_latent) = (q.rows(rows.clone()), of(&q_nope), of(&absorbed), of(&q_latent));
                let start = start + first - span.rows.start;
                ops.copy_columns(&flat(&q), &self.runs.nope, &flat(&q_nope));
                self.kv_b.absorb(ops, &q_nope, &absorbed);
                ops.copy_columns(&flat(&absorbed), &self.runs.absorbed, &flat(&q_latent));
                ops.copy_columns(&flat(&q), &self.runs.rotary, &flat(&q_latent));
                self.attend(&q_latent, rows.clone(), start, &kv, &absorbed, run);
                self.kv_b.values(ops, &absorbed, self.sizes, &values.rows(rows));
            }
        }
        run.workspace.release(inner);
        if let Some(gate) = &self.gate {
            gate.apply(x, &values, run);
        }
        ops.linear(&values.reshape([n, heads * v_dim]), &self.o_proj, &out);
        ops.add(&out, into);
    }

    fn workspace_bytes(&self, n: usize) -> usize {
        let Sizes { hidden, heads, kv_rank, nope_dim, v_dim, .. } = self.sizes;
        let (q_dim, latent_dim) = (self.sizes.q_dim(), self.sizes.latent_dim());
        let f32s = Workspace::f32_bytes;
        let kept = f32s(n * heads * q_dim) + f32s(n * latent_dim) + f32s(n * heads * v_dim) + f32s(n * hidden);
        let kept = kept + f32s(n * self.low_rank());
        let projecting = f32s(n * latent_dim) + f32s(n * kv_rank);
        let selecting = self.selector.as_ref().map_or(0, |selector| selector.workspace_bytes(n));
        let rows = n.min(ROWS) * heads;
        let attending = f32s(rows * nope_dim) + f32s(rows * kv_rank) + f32s(rows * latent_dim);
        let gating = self.gate.as_ref().map_or(0, |gate| gate.workspace_bytes(n, heads * v_dim));
        kept + projecting.max(attending).max(selecting).max(gating)
    }

    fn kv(&self) -> Vec<KvWidth> {
        let latent = KvWidth { v_in_k: true, ..KvWidth::new(1, self.sizes.latent_dim(), self.sizes.kv_rank) };
        std::iter::repeat_n(latent, self.own_caches()).chain(self.selector.as_ref().and_then(Selector::kv)).collect()
    }

    fn carried(&self) -> usize {
        self.selector.as_ref().map_or(0, Selector::seen)
    }

    fn recurrent(&self) -> Option<RecurrentLayout> {
        self.selector.as_ref()?.recurrent()
    }

    fn letter(&self) -> (char, &'static str) {
        match &self.selector {
            None => ('L', "latent attention (MLA)"),
            Some(Selector::Own(_)) => ('S', "latent attention to chosen positions (DSA)"),
            Some(Selector::Shared(_)) => ('R', "latent attention to what the layer before chose"),
        }
    }
}
