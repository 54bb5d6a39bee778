//! Math on buffers: the operations that a forward pass is made of, defined once in [`mod@reference`] and made fast in
//! [`cpu`]. No files, no model names.
//!
//! [`Ops`] owns its buffers and runs what it is given in order. Callers hold [`Tensor`] handles; numbers cross to the
//! host only through [`Ops::fetch`], at the router's choice and at the logits.

pub mod cpu;
mod host;
pub mod quant;
pub mod reference;
pub mod speed;
pub mod tensor;

use std::ops::Range;

pub use cpu::exp;
pub use host::allocated_bytes;
pub use quant::{Code, Coded, Format, GgmlType, Matrix, Second};
pub use tensor::{Buffer, DType, Memory, Shape, Tensor};

/// What a backend can fail at. Shapes are the caller's contract and asserted, never returned.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    /// The backend has no memory left.
    #[error("cannot allocate {bytes} bytes: {why}")]
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
        /// The system's own words.
        why: String,
    },
    /// The backend cannot run on this machine.
    #[error("{0}")]
    Unavailable(String),
}

/// Waits until everything enqueued before it is done. For a backend that runs at once there is nothing to wait for.
#[must_use = "the data is not there before wait() returns"]
pub struct Fence<'a> {
    pending: Option<Box<dyn FnOnce() + Send + 'a>>,
}

impl<'a> Fence<'a> {
    /// The fence of work that is already done.
    pub fn done() -> Self {
        Fence { pending: None }
    }

    /// A fence whose wait runs `wait`.
    pub fn new(wait: impl FnOnce() + Send + 'a) -> Self {
        Fence { pending: Some(Box::new(wait)) }
    }

    /// Blocks until the work is done and its data is on the host.
    pub fn wait(self) {
        if let Some(wait) = self.pending {
            wait();
        }
    }
}

/// Rotary position embedding (RoFormer, arXiv 2104.09864) of a slice of every head.
#[derive(Clone, Debug)]
pub struct Rope {
    /// θ_i of each rotated pair, `rotary_dim / 2` of them, in f32 as the reference computes them.
    pub inv_freq: Vec<f32>,
    /// First rotated dimension within the head.
    pub first: usize,
    /// Which dimensions make a pair.
    pub pairs: RopePairs,
    /// Multiplies cos and sin (YaRN's attention factor); 1 for plain RoPE.
    pub scale: f32,
    /// `[rotary_dim / 2]` of F32, F16 or BF16: learnt logarithms of what frequencies are multiplied with, if there are any (Mistral
    /// Large 4).
    pub stretch: Option<Tensor>,
}

impl Rope {
    /// The frequency of pair i.
    pub fn frequency(&self, i: usize) -> f32 {
        self.stretch.as_ref().map_or(self.inv_freq[i], |stretch| self.inv_freq[i] * quant::value(stretch, i).exp())
    }
}

/// Which two dimensions of the rotated slice of width `2·m` are turned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairs {
    /// `(i, i + m)`: `rotate_half`, most families.
    Half,
    /// `(2i, 2i + 1)`: DeepSeek, GLM-5, Llama 4.
    Interleaved,
}

/// Where one layer's keys and values lie inside each KV block of a sequence: K is `[heads, block_tokens, k_dim]` at
/// byte `k_at`, V is `[heads, block_tokens, v_dim]` at byte `v_at`, both of `dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// F16 by default, F32 with `--precise`; BF16 and Q8 also work, Q8 where widths are multiples of 32.
    pub dtype: DType,
    /// Key-value heads.
    pub heads: usize,
    /// Width of a key.
    pub k_dim: usize,
    /// Width of a value.
    pub v_dim: usize,
    /// Positions in a block, a multiple of 64.
    pub block_tokens: usize,
    /// First byte of K within the block.
    pub k_at: usize,
    /// First byte of V within the block.
    pub v_at: usize,
    /// Whether a value is the beginning of its key, and is stored once: MLA's latent vector. `v_at` is then `k_at`.
    pub v_in_k: bool,
}

impl KvLayout {
    /// Bytes of K and V of this layer in one block.
    pub fn bytes(&self) -> usize {
        let v_bytes = if self.v_in_k { 0 } else { self.dtype.row_bytes(self.v_dim) };
        self.heads * self.block_tokens * (self.dtype.row_bytes(self.k_dim) + v_bytes)
    }

    /// Bytes from a value to the next one.
    pub fn v_stride(&self) -> usize {
        self.dtype.row_bytes(if self.v_in_k { self.k_dim } else { self.v_dim })
    }
}

/// What of the past a query sees, and how.
#[derive(Clone, Debug)]
pub struct Attend {
    /// Multiplies the products of queries and keys.
    pub scale: f32,
    /// Positions that a query sees, its own included; all of the past where there is none.
    pub window: Option<usize>,
    /// `[q_heads]` of F32, F16 or BF16: a logit for each head that takes its share of the softmax and adds nothing (gpt-oss,
    /// arXiv 2309.17453).
    pub sinks: Option<Tensor>,
}

/// What one cache gives to the queries of [`Ops::sparse_attention`].
#[derive(Clone, Copy, Debug)]
pub struct Past<'a> {
    /// Where its entries lie in a block.
    pub layout: &'a KvLayout,
    /// The blocks.
    pub blocks: &'a [Tensor],
    /// Which entries a query sees.
    pub seen: Seen<'a>,
}

/// Which entries of a cache a query sees. Entries and positions are counted from the first block.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// The last `window` up to its own position, the first query's being `start`.
    Window {
        /// Position of the first query.
        start: usize,
        /// Entries that are seen.
        window: usize,
    },
    /// All that have ended, where an entry stands for `every` positions: the query at position p sees the first
    /// `(p + 1) / every`.
    Ended {
        /// Position of the first query.
        start: usize,
        /// Positions of an entry.
        every: usize,
    },
    /// Those chosen for it: `[n, k]` I32, ascending, and -1 behind the last.
    Chosen(&'a Tensor),
}

/// Blocks of consecutive positions, of which a query sees some (MiniMax-M3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PositionBlocks {
    /// Positions of a block.
    pub every: usize,
    /// How many of the last ones are always seen, the query's own included.
    pub local: usize,
}

/// How router logits become a choice of experts.
#[derive(Clone, Debug)]
pub struct Router {
    /// Experts chosen for each token.
    pub top_k: usize,
    /// Score of a logit.
    pub score: RouterScore,
    /// `[experts]` of F32, F16 or BF16: added to the scores for the choice, not to the weights (`e_score_correction_bias`).
    pub bias: Option<Tensor>,
    /// Where only experts of some groups may be chosen.
    pub groups: Option<RouterGroups>,
    /// Divide the chosen scores by their sum (`norm_topk_prob`).
    pub renormalise: bool,
    /// Added to that sum: were all scores 0, so would the weights be.
    pub eps: f32,
    /// Multiplies the weights at last (`routed_scaling_factor`).
    pub scale: f32,
    /// `[experts]` of F32, F16 or BF16: multiplies each expert's weight (Gemma 4's `per_expert_scale`).
    pub expert_scale: Option<Tensor>,
}

impl Router {
    /// A plain router: no bias, no groups, weights as they are.
    pub fn new(top_k: usize, score: RouterScore) -> Self {
        Router {
            top_k,
            score,
            bias: None,
            groups: None,
            renormalise: false,
            eps: 1e-20,
            scale: 1.0,
            expert_scale: None,
        }
    }
}

/// The score function of a [`Router`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RouterScore {
    /// softmax over all experts.
    Softmax,
    /// softmax over the chosen experts only; the choice is by logits.
    SoftmaxOfChosen,
    /// sigmoid of each.
    Sigmoid,
    /// softmax for each chosen one over those not chosen before it whose logits z come near its own: no further below than
    /// `2 · jitter · max(z, |z'|)` is z'; the choice is by logits (SparseMixer, arXiv 2409.12136).
    SparseMixer {
        /// Half the share by which a logit may be lower.
        jitter: f32,
    },
    /// √softplus of each, with `softplus(z) = ln(1 + e^z)` (DeepSeek-V4).
    SqrtSoftplus,
}

/// Groups of consecutive experts, of which the best are kept (DeepSeek-V2, arXiv 2405.04434; V3, arXiv 2412.19437).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterGroups {
    /// Number of groups, all of one size.
    pub count: usize,
    /// How many of them are kept.
    pub keep: usize,
    /// How many of a group's best scores make up its own: 1 in DeepSeek-V2, 2 in V3.
    pub best: usize,
}

/// The activation between the two halves of a gated MLP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `silu(gate) · up`, with `silu(z) = z / (1 + e^-z)`.
    SwiGlu,
    /// `(u + 1) · g · sigmoid(alpha · g)` with `g = min(gate, limit)` and `u = clamp(up, -limit, limit)` (gpt-oss).
    SwiGluClamped {
        /// 1.702.
        alpha: f32,
        /// 7.
        limit: f32,
    },
    /// `silu(min(gate, limit)) · clamp(up, -limit, limit)` (DeepSeek-V4).
    SwiGluLimited {
        /// 10.
        limit: f32,
    },
    /// `silu(gate)`: up is not read.
    Silu,
    /// `max(gate, 0)²`: up is not read (Nemotron, arXiv 2109.08668).
    Relu2,
    /// `gelu(gate) · up`, with gelu's approximation by tanh (Gemma).
    GeGlu,
    /// `gate · up`: the gates of a short convolution (LFM2).
    Product,
}

/// An MLP: `down( act(gate·x, up·x) )`, with biases where there are any. One routed expert, a shared one, or a dense layer's.
#[derive(Clone, Debug)]
pub struct Mlp {
    /// `[width, hidden]`; where there is none, the activation takes up's product alone.
    pub gate: Option<Matrix>,
    /// `[width, hidden]`.
    pub up: Matrix,
    /// `[hidden, width]`.
    pub down: Matrix,
    /// Added to the products with gate, up and down.
    pub biases: Option<[Bias; 3]>,
    /// Between them.
    pub activation: Activation,
}

impl Mlp {
    /// What the activation takes first: gate, or up where there is none; and its place among the biases.
    pub fn first(&self) -> (&Matrix, usize) {
        self.gate.as_ref().map_or((&self.up, 1), |gate| (gate, 0))
    }

    /// Its width.
    pub fn width(&self) -> usize {
        self.up.rows()
    }
}

/// One of several MLPs over parts of the same rows: see [`Ops::mlps`].
#[derive(Clone, Debug)]
pub struct MlpJob {
    /// The weights.
    pub mlp: Mlp,
    /// Its rows.
    pub rows: Range<usize>,
}

/// What is added to every row of a product.
#[derive(Clone, Debug)]
pub struct Bias {
    /// F32, F16 or BF16.
    pub values: Tensor,
    /// The value for the first column.
    pub first: usize,
    /// From there to the value for the next column: 2 where those of gate and up alternate.
    pub step: usize,
}

impl Bias {
    /// The values one after the other.
    pub fn plain(values: Tensor) -> Self {
        Bias { values, first: 0, step: 1 }
    }
}

/// Room for [`Ops::mlp`]: f32 tensors with at least as many rows as are computed at once.
#[derive(Clone, Debug)]
pub struct MlpScratch {
    /// `[rows, hidden]`: gathered inputs.
    pub x: Tensor,
    /// `[rows, width]`.
    pub gate: Tensor,
    /// `[rows, width]`.
    pub up: Tensor,
}

/// One expert's part of one token: `into[token] += weight · parts[row]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contribution {
    /// Row of the token in the batch.
    pub token: u32,
    /// Row of the expert's output.
    pub row: u32,
    /// The router's weight.
    pub weight: f32,
}

/// Root-mean-square normalisation over the last dimension (arXiv 1910.07467).
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// `[d]` of F32, F16 or BF16, or `[groups · d]` in [`Ops::rms_norm`], where row i takes those of group `i % groups`; 1
    /// where there is none.
    pub weight: Option<Tensor>,
    /// Whether the weight is stored as its distance from 1 (Gemma, Qwen3-Next, Qwen3.5).
    pub plus_one: bool,
    /// Added to the mean of squares.
    pub eps: f32,
}

/// Normalisation by mean and variance (arXiv 1607.06450).
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// `[d]` of F32, F16 or BF16.
    pub weight: Tensor,
    /// `[d]` of F32, F16 or BF16.
    pub bias: Tensor,
    /// Added to the variance.
    pub eps: f32,
}

/// The gated delta rule (Gated DeltaNet, arXiv 2412.06464) of one layer: sizes, and the weights of its decay.
#[derive(Clone, Debug)]
pub struct GatedDelta {
    /// Heads of queries and keys.
    pub k_heads: usize,
    /// Heads of values, a multiple of `k_heads`.
    pub v_heads: usize,
    /// Value head h reads key head `h / (v_heads / k_heads)`, or, where heads are tiled, as llama.cpp's converter orders
    /// those of Qwen3.5, `h % k_heads`.
    pub tiled: bool,
    /// Width of a query and of a key.
    pub k_dim: usize,
    /// Width of a value.
    pub v_dim: usize,
    /// Whether each channel of a key has a decay of its own (Kimi Delta Attention, arXiv 2510.26692): a and `dt_bias` then
    /// have `k_dim` values a head, and there are as many value heads as key heads.
    pub per_channel: bool,
    /// `[v_heads]` of F32, F16 or BF16.
    pub a_log: Tensor,
    /// Whether `a_log` is stored as `−exp(a_log)`, as in GGUF files.
    pub exponentiated: bool,
    /// `[v_heads]`, or `[v_heads · k_dim]`, of F32, F16 or BF16.
    pub dt_bias: Tensor,
    /// Where decays have a lower bound, its logarithm, below zero: `g = exp(bound · sigmoid(exp(a_log) · (a + dt_bias)))` (Ling 3).
    pub bound: Option<f32>,
}

impl GatedDelta {
    /// Decays of a position.
    pub fn decays(&self) -> usize {
        self.v_heads * if self.per_channel { self.k_dim } else { 1 }
    }

    /// The key head that a value head reads.
    pub fn key_head(&self, v_head: usize) -> usize {
        if self.tiled { v_head % self.k_heads } else { v_head / (self.v_heads / self.k_heads) }
    }

    /// The i-th of the value heads that read a key head.
    pub fn value_head(&self, k_head: usize, i: usize) -> usize {
        if self.tiled { i * self.k_heads + k_head } else { k_head * (self.v_heads / self.k_heads) + i }
    }
}

/// How a linear attention forgets.
#[derive(Clone, Debug)]
pub enum Decay {
    /// Each head at a rate of its own, the same always: `g = e^-rate` (Lightning Attention, arXiv 2401.04658).
    Rates(Vec<f32>),
    /// By the input (Mamba-2, arXiv 2405.21060): with `Δ = softplus(dt + dt_bias)`, `g = exp(−exp(a_log) · Δ)`, v is multiplied
    /// by Δ, and `d · v` is added to the output. All are `[heads]` of F32, F16 or BF16.
    Selective {
        /// Logarithm of the rate.
        a_log: Tensor,
        /// Added to dt.
        dt_bias: Tensor,
        /// What of a value goes to the output at once.
        d: Tensor,
    },
}

/// Weights of Mamba's selective scan (arXiv 2312.00752), of F32, F16 or BF16.
#[derive(Clone, Debug)]
pub struct SelectiveScan {
    /// `[channels, k]`: logarithms of the rates.
    pub a_log: Tensor,
    /// `[channels]`: added to dt.
    pub dt_bias: Tensor,
    /// `[channels]`: what of an input goes to the output at once.
    pub d: Tensor,
}

/// A causal depthwise convolution.
#[derive(Clone, Debug)]
pub struct CausalConv {
    /// `[channels, kernel]` of F32, F16 or BF16.
    pub weight: Tensor,
    /// `[channels]` of F32, F16 or BF16, if there is one.
    pub bias: Option<Tensor>,
    /// Whether silu comes behind it.
    pub silu: bool,
}

/// Sizes of a linear attention, and how it forgets.
#[derive(Clone, Debug)]
pub struct LinearAttention {
    /// Heads of queries and keys.
    pub k_heads: usize,
    /// Heads of values, a multiple of `k_heads`; value head h reads key head `h / (v_heads / k_heads)`.
    pub v_heads: usize,
    /// Width of a query and of a key.
    pub k_dim: usize,
    /// Width of a value.
    pub v_dim: usize,
    /// How it forgets.
    pub decay: Decay,
}

/// How entries that stand for several positions are made of the positions' rows (DeepSeek-V4).
#[derive(Clone, Debug)]
pub struct Compress {
    /// Positions of an entry.
    pub every: usize,
    /// Whether rows are twice as wide as entries, the first half being for the entry after the position's own.
    pub overlap: bool,
    /// `[every, width of a row]` of F32, F16 or BF16: added to the gates, by place within an entry.
    pub bias: Tensor,
}

impl Compress {
    /// Positions whose rows an entry is made of at most.
    pub fn tail(&self) -> usize {
        if self.overlap { 2 * self.every } else { self.every }
    }
}

/// Residual streams of a token at most.
pub const STREAMS_MAX: usize = 16;

/// How the weights of residual streams are made (hyper-connections, arXiv 2409.19606, kept from growing as in DeepSeek-V4).
#[derive(Clone, Debug)]
pub struct Hyper {
    /// Residual streams, at most [`STREAMS_MAX`].
    pub streams: usize,
    /// Passes that bring rows and columns of the mixing matrix near to sums of 1 (Sinkhorn and Knopp, 1967).
    pub iterations: usize,
    /// Added to weights, and to sums before they divide.
    pub eps: f32,
    /// Factor of what of an output goes to each stream, and what is added to it: 2 and 0 in DeepSeek-V4.
    pub behind: [f32; 2],
    /// `[columns]` of F32, F16 or BF16: added to the logits.
    pub base: Tensor,
    /// `[3]`, `[2]`, or `[1]`, of F32, F16 or BF16: multiplies the logits of each of the parts.
    pub scale: Tensor,
}

/// A run of columns that [`Ops::copy_columns`] moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnRun {
    /// First column in the source.
    pub from: usize,
    /// First column in the destination.
    pub to: usize,
    /// Number of columns.
    pub len: usize,
}

/// The operations of a backend.
///
/// Activations are f32, row-major, one row a token. Calls return when the work is enqueued, and run in the order of
/// the calls; only [`Fence::wait`] waits. Inputs and outputs do not overlap, except where an operation says `in place`.
/// Every output element is computed by arithmetic that depends on neither the number of rows computed with it, nor on
/// threads, nor on where a prompt was cut ("batch-invariant"). Shapes are asserted.
pub trait Ops: Send + Sync {
    /// Backend, instruction set and threads, for people: `cpu avx512-bf16, 2 threads`.
    fn describe(&self) -> String;

    /// Threads that compute.
    fn threads(&self) -> usize {
        1
    }

    /// Memory for weights and activations: zeroed, aligned to 4 KiB at least, given back when dropped.
    fn alloc(&self, bytes: usize) -> Result<Buffer, OpsError>;

    /// Memory that a drive can be read into, with a host address; also usable as weights by this backend.
    fn alloc_host(&self, bytes: usize) -> Result<Buffer, OpsError>;

    /// Copies host bytes into a tensor of the same size.
    fn write(&self, src: &[u8], dst: &Tensor);

    /// Copies a tensor to the host; `dst` has its size and is filled when the fence has been waited for.
    fn fetch<'a>(&self, src: &Tensor, dst: &'a mut [u8]) -> Fence<'a>;

    /// Copies a tensor into another of the same size.
    fn copy(&self, src: &Tensor, dst: &Tensor);

    /// `out[i] = table[ids[i]]`: table `[vocab, hidden]`, out `[n, hidden]`. Ids were checked by the caller.
    fn embed(&self, table: &Matrix, ids: &[u32], out: &Tensor);

    /// `out[i] = table[ids[i]] mod below`: table `[vocab, 8 · k]` of bytes, which are 64-bit integers, out `[n, k]` I32. Ids were
    /// checked by the caller; what the table holds need not be.
    fn look_up(&self, table: &Tensor, below: usize, ids: &[u32], out: &Tensor);

    /// `out[i] = x[rows[i]]`: x `[n, d]`, out `[rows.len(), d]`.
    fn gather(&self, x: &Tensor, rows: &[u32], out: &Tensor);

    /// `out = x · rsqrt(mean(x²) + eps) · w` over the last dimension, w the weight, 1 + the weight, or 1: x and out `[.., d]`.
    /// `out` may be `x` (in place).
    fn rms_norm(&self, x: &Tensor, norm: &RmsNorm, out: &Tensor);

    /// `out = (x − mean(x)) · rsqrt(var(x) + eps) · weight + bias` over the last dimension (arXiv 1607.06450): x and out `[.., d]`,
    /// weight and bias `[d]` of F32, F16 or BF16. `out` may be `x` (in place).
    fn layer_norm(&self, x: &Tensor, norm: &LayerNorm, out: &Tensor);

    /// `out = x · rsqrt(mean(x²) + eps) · w · silu(gate)`: the norm comes first, then the gate. x and out `[n, heads, d]`,
    /// gate with as many elements. `out` may be `x` (in place).
    fn rms_norm_gated(&self, x: &Tensor, gate: &Tensor, norm: &RmsNorm, out: &Tensor);

    /// `x *= sigmoid(gate)`, elementwise, same number of elements, in place.
    fn sigmoid_gate(&self, x: &Tensor, gate: &Tensor);

    /// `into[i] += sigmoid(gate[i]) · x[i]`, one gate a row: x and into `[n, d]`, gate `[n, 1]`.
    fn add_gated(&self, x: &Tensor, gate: &Tensor, into: &Tensor);

    /// `x = 0`.
    fn zero(&self, x: &Tensor);

    /// `x *= factor`, and `· by[0]` where there is such a tensor `[1]` of F32, F16 or BF16, in place.
    fn scale(&self, x: &Tensor, factor: f32, by: Option<&Tensor>);

    /// `x = min(max(x, -limit), limit)`, in place (OLMoE's queries, keys and values).
    fn clamp(&self, x: &Tensor, limit: f32);

    /// `x = cap · tanh(x / cap)`, in place (Gemma's logits).
    fn softcap(&self, x: &Tensor, cap: f32);

    /// Moves runs of columns: `out[i][to..to + len] = x[i][from..from + len]` for every row; x `[n, a]`, out `[n, b]`.
    fn copy_columns(&self, x: &Tensor, runs: &[ColumnRun], out: &Tensor);

    /// Causal depthwise convolution: `out[i][c] = silu( Σ_j weight[c][j] · in[i − (kernel − 1) + j][c] + bias[c] )`, or without
    /// silu, where `in` is x preceded by `tail`. x and out `[n, channels]`; tail `[kernel − 1, channels]` f32 holds the inputs
    /// before x, zero at the beginning, and afterwards the last ones.
    fn causal_conv(&self, x: &Tensor, conv: &CausalConv, tail: &Tensor, out: &Tensor);

    /// The gated delta rule over consecutive positions of one sequence. qkv `[n, 2·k_heads·k_dim + v_heads·v_dim]` holds all
    /// queries, then all keys, then all values; a `[n, decays]` and b `[n, v_heads]`; state `[v_heads, k_dim, v_dim]` f32 is
    /// updated; out `[n, v_heads, v_dim]`. For each position and value head, in f32, g being one number or one a row of S:
    ///
    /// ```text
    /// q ← q · rsqrt(Σq² + 1e-6) · k_dim^-½      k ← k · rsqrt(Σk² + 1e-6)
    /// β = sigmoid(b)      g = exp(−exp(a_log) · softplus(a + dt_bias)), or by GatedDelta's bound
    /// S ← g·S      S ← S + k ⊗ (β·(v − Sᵀk))      out = Sᵀq
    /// ```
    ///
    /// The same bits however the positions are cut into calls.
    fn gated_delta(&self, qkv: &Tensor, a: &Tensor, b: &Tensor, delta: &GatedDelta, state: &Tensor, out: &Tensor);

    /// Mamba's selective scan (arXiv 2312.00752) over consecutive positions of one sequence. x and dt `[n, channels]`, b and c
    /// `[n, k]`; state `[k, channels]` f32 is updated; out `[n, channels]`. For each position, channel and k, in f32:
    ///
    /// ```text
    /// Δ = softplus(dt + dt_bias)      S_k ← exp(−exp(a_log_k) · Δ) · S_k + b_k · (Δ · x)      out = Σ_k c_k · S_k + d · x
    /// ```
    ///
    /// The same bits however the positions are cut into calls.
    fn selective_scan(&self, x_dt: [&Tensor; 2], b_c: [&Tensor; 2], scan: &SelectiveScan, state: &Tensor, out: &Tensor);

    /// Linear attention with decay over consecutive positions of one sequence. q and k `[n, k_heads · k_dim]`, v
    /// `[n, v_heads · v_dim]`, dt `[n, v_heads]` where the decay is selective; state `[v_heads, k_dim, v_dim]` f32 is updated; out
    /// `[n, v_heads, v_dim]`. For each position and value head, in f32: `S ← g·S + k ⊗ v`, `out = Sᵀq`. The same bits however
    /// the positions are cut into calls.
    fn linear_attention(
        &self,
        qkv: [&Tensor; 3],
        dt: Option<&Tensor>,
        attention: &LinearAttention,
        state: &Tensor,
        out: &Tensor,
    );

    /// `out = x · wᵀ`: x `[n, cols]`, w `[rows, cols]`, out `[n, rows]`.
    fn linear(&self, x: &Tensor, w: &Matrix, out: &Tensor);

    /// Several products of the same rows, each as [`Ops::linear`], which it is composed of by default.
    fn linears(&self, x: &Tensor, products: &[(&Matrix, &Tensor)]) {
        products.iter().for_each(|(w, out)| self.linear(x, w, out));
    }

    /// `out[i][h] = W_h · x[i][h]`, where W_h is rows `h·stride + first ..` of w, as many as out is wide: x `[n, heads, cols]`,
    /// w `[heads · stride, cols]`, out `[n, heads, r]`: MLA's values out of the latent vector. With
    /// quantised weights as in `linear`, with plain ones in f32.
    fn linear_heads(&self, x: &Tensor, w: &Matrix, first: usize, out: &Tensor);

    /// `out[i][h] = W_hᵀ · x[i][h]`, where W_h is rows `h·stride + first ..` of w, as many as x is wide: x `[n, heads, r]`,
    /// w `[heads · stride, cols]`, out `[n, heads, cols]`. In f32 always: MLA's queries into the latent space.
    fn linear_heads_transposed(&self, x: &Tensor, w: &Matrix, first: usize, out: &Tensor);

    /// `into += x`, elementwise, same shape.
    fn add(&self, x: &Tensor, into: &Tensor);

    /// `x[i] += bias` for every row, in place: x `[n, d]`.
    fn add_bias(&self, x: &Tensor, bias: &Bias);

    /// `out = act(gate, up)`, elementwise; `out` may be `gate` or `up` (in place).
    fn glu(&self, gate: &Tensor, up: &Tensor, activation: Activation, out: &Tensor);

    /// Turns the pairs of each head by `position · θ`, in place: x `[n, heads, dim]`, one position a row.
    /// `(a, b) → (a·cos − b·sin, b·cos + a·sin)`, with angle, cos and sin in f32.
    fn rope(&self, x: &Tensor, positions: &[u32], rope: &Rope);

    /// Writes keys `[n, heads, k_dim]` and values `[n, heads, v_dim]` of consecutive positions from `start` on into
    /// the sequence's blocks, rounding to `layout.dtype`. Position p lies in `blocks[p / block_tokens]`. Where values lie in
    /// their keys, v is not read.
    fn kv_write(&self, k: &Tensor, v: &Tensor, layout: &KvLayout, blocks: &[Tensor], start: usize);

    /// Causal softmax attention of consecutive queries from position `start` on over the sequence's blocks: q
    /// `[n, q_heads, k_dim]`, out `[n, q_heads, v_dim]`. Query head h reads kv head `h / (q_heads / kv_heads)`; the query at
    /// position p sees keys 0..=p, or the last `window` of them: `out = softmax(scale · q·Kᵀ) · V` (arXiv 1706.03762,
    /// 2305.13245), with a sink's `e^sink` in the softmax's sum.
    fn attention(&self, q: &Tensor, attend: &Attend, layout: &KvLayout, blocks: &[Tensor], start: usize, out: &Tensor);

    /// The lightning indexer's choice (DeepSeek-V3.2, arXiv 2512.02556): for each of consecutive queries the `top_k` best of the
    /// entries of a cache that have ended, see [`Seen::Ended`]. An entry with key k scores `Σ_h weights_h · max(q_h · k, 0)`; of
    /// equal ones the earlier is better. q `[n, heads, k_dim]`, weights `[n, heads]`, keys of one head; choice `[n, top_k]` I32,
    /// ascending, and -1 behind the last. The same bits however the queries are cut into calls.
    fn select(&self, q: &Tensor, weights: &Tensor, keys: &Past, choice: &Tensor);

    /// The choice of blocks of positions (MiniMax-M3): for each of consecutive queries, the first at position `start` of
    /// [`Seen::Ended`], of one entry a position, and for each of its heads the best blocks up to its own. A block scores its
    /// greatest `q_h · k`, and the last `local` ones more than that; of equal ones the earlier is better. q `[n, heads, k_dim]`,
    /// keys of one head; choice `[heads, n, top_k]` I32, ascending, and -1 behind the last. The same bits however the queries are
    /// cut into calls.
    fn select_blocks(&self, q: &Tensor, keys: &Past, by: PositionBlocks, choice: &Tensor);

    /// The positions of chosen blocks, for consecutive queries from position `start` on: choice `[n, k]` I32, as
    /// [`Ops::select_blocks`] and [`Ops::select`] make it, names blocks of `every` positions; out `[n, w]` I32 has their positions
    /// up to the query's own, then, where w is `k · every + every − 1` and not `k · every`, those of the block that has not ended,
    /// and -1 behind the last.
    fn block_positions(&self, choice: &Tensor, every: usize, start: usize, out: &Tensor);

    /// `x[i][h] *= by[0][h] · ln(position + 1) + by[1][h]`, in place on x `[n, heads, d]`, one position a row: `by` are `[heads]` of
    /// F32, F16 or BF16 (scalable softmax, arXiv 2501.19399, as Mistral Large 4 has it).
    fn scale_heads(&self, x: &Tensor, positions: &[u32], by: [&Tensor; 2]);

    /// Softmax attention of each query over what it sees of one or several caches, taken together in their order: q
    /// `[n, q_heads, k_dim]`, out `[n, q_heads, v_dim]`. All caches have as many heads, and keys and values as wide; of `attend`
    /// scale and sinks count. A query sees something.
    fn sparse_attention(&self, q: &Tensor, attend: &Attend, pasts: &[Past], out: &Tensor);

    /// The router's choice: logits `[n, experts]` f32 → `choice` `[n, k]` I32 and `weights` `[n, k]` f32, in
    /// descending order of score + bias; equal ones go to the lower index. Where there are groups, only experts of the
    /// best ones are chosen, a group's score being the sum of its `best` highest scores + biases.
    fn route(&self, logits: &Tensor, router: &Router, choice: &Tensor, weights: &Tensor);

    /// The weights of [`Ops::route`] where `choice` is made already.
    fn weigh(&self, logits: &Tensor, router: &Router, choice: &Tensor, weights: &Tensor);

    /// Compresses consecutive positions of one sequence, the first at position `start`: entry e, of positions `e·every ..
    /// (e + 1)·every`, is in each column the mean of their rows, weighted by the softmax of their gates + bias. Where entries
    /// overlap, it takes of its own positions the second half of the columns, and of those of the entry before the first half.
    /// rows and gates `[n, width]`; out `[entries, d]` has the entries that end here, in order; tail `[tail, 2 · width]` f32 holds
    /// row and gate of position p before `start` in row `p % tail`, and afterwards those of the last ones. The same bits however
    /// the positions are cut into calls.
    fn compress(&self, rows: &Tensor, gates: &Tensor, by: &Compress, tail: &Tensor, start: usize, out: &Tensor);

    /// The weights of each token's residual streams from their logits, in place: `[n, streams]`, `[n, 2 · streams]` or
    /// `[n, (2 + streams) · streams]`.
    /// First what of each stream goes into a layer, `sigmoid(z) + eps` with `z = logit · scale + base`; then what of its output
    /// goes to each stream, `sigmoid(z)` by `behind`; then a matrix, row i saying what of stream i goes to each: the softmax of a row,
    /// + eps, after which columns, and then `iterations − 1` times rows and columns, are divided by their sums + eps.
    fn hyper_weights(&self, weights: &Tensor, hyper: &Hyper);

    /// `out = Σ_s weights[s] · x[s]`: x `[n, streams, d]`, out `[n, d]`, weights as [`Ops::hyper_weights`] made them.
    fn hyper_collapse(&self, x: &Tensor, weights: &Tensor, out: &Tensor);

    /// `x[s] = post[s] · out + Σ_t matrix[t][s] · x[t]`, or `+ x[s]` where there is no matrix, in place on x `[n, streams, d]`: out
    /// `[n, d]`, weights as [`Ops::hyper_weights`] made them.
    fn hyper_expand(&self, out: &Tensor, weights: &Tensor, x: &Tensor);

    /// One gated MLP over some rows: `out[i] = down(act(gate·x[rows[i]], up·x[rows[i]]))`; out `[rows.len(), hidden]`.
    /// By default composed of the operations above.
    fn mlp(&self, x: &Tensor, rows: &[u32], mlp: &Mlp, scratch: &MlpScratch, out: &Tensor) {
        let n = rows.len();
        let (inputs, gate, up) = (scratch.x.rows(0..n), scratch.gate.rows(0..n), scratch.up.rows(0..n));
        let biased = |x: &Tensor, w: &Matrix, which: usize, out: &Tensor| {
            self.linear(x, w, out);
            if let Some(biases) = &mlp.biases {
                self.add_bias(out, &biases[which]);
            }
        };
        self.gather(x, rows, &inputs);
        let (first, bias) = mlp.first();
        biased(&inputs, first, bias, &gate);
        if mlp.gate.is_some() {
            biased(&inputs, &mlp.up, 1, &up);
        }
        self.glu(&gate, &up, mlp.activation, &gate);
        biased(&gate, &mlp.down, 2, out);
    }

    /// Several MLPs, each as [`Ops::mlp`], which it is composed of by default: job j takes rows `tokens[r]` of x, and writes
    /// rows r of parts `[tokens.len(), hidden]`, for r in its `rows`. `scratch` has room for the rows of all of them.
    fn mlps(&self, x: &Tensor, tokens: &[u32], jobs: &[MlpJob], scratch: &MlpScratch, parts: &Tensor) {
        for MlpJob { mlp, rows } in jobs {
            self.mlp(x, &tokens[rows.clone()], mlp, scratch, &parts.rows(rows.clone()));
        }
    }

    /// Adds experts' outputs to their tokens, in the order given: parts `[r, hidden]`, into `[n, hidden]`.
    fn combine(&self, parts: &Tensor, contributions: &[Contribution], into: &Tensor);
}
