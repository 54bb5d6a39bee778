//! What operations take beside tensors: settings, weights that belong together, and where things lie.

use std::ops::Range;

use crate::{DType, Matrix, Tensor, quant};

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

/// What one cache gives to the queries of [`crate::Ops::sparse_attention`].
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

/// One of several MLPs over parts of the same rows: see [`crate::Ops::mlps`].
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

/// Room for [`crate::Ops::mlp`]: f32 tensors with at least as many rows as are computed at once.
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
    /// `[d]` of F32, F16 or BF16, or `[groups · d]` in [`crate::Ops::rms_norm`], where row i takes those of group `i % groups`; 1
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
    /// Whether `a_log` is stored as `−exp(a_log)`, as in GGUF files, or as `exp(a_log)`, as in those of Ling 3.
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

/// The rate of a decay, of which its logarithm is stored, or, where it is `exponentiated`, the rate itself, with either sign.
pub(crate) fn decay_rate(a_log: f32, exponentiated: bool) -> f32 {
    if exponentiated { a_log.abs() } else { a_log.exp() }
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
        /// Whether `a_log` is stored as `−exp(a_log)`, as in GGUF files.
        exponentiated: bool,
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
    /// Whether `a_log` is stored as `−exp(a_log)`, as in GGUF files.
    pub exponentiated: bool,
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
    /// Positions from one of its inputs to the next: 1, but in Qwen4-Exp.
    pub dilation: usize,
}

impl CausalConv {
    /// Inputs before a position that it sees.
    pub fn tail(&self) -> usize {
        (self.weight.dim(1) - 1) * self.dilation
    }
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

/// A run of columns that [`crate::Ops::copy_columns`] moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnRun {
    /// First column in the source.
    pub from: usize,
    /// First column in the destination.
    pub to: usize,
    /// Number of columns.
    pub len: usize,
}
