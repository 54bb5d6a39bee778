//! Math on buffers: the operations that a forward pass is made of, defined once in [`mod@reference`] and made fast in
//! [`cpu`]. No files, no model names.
//!
//! [`Ops`] owns its buffers and runs what it is given in order. Callers hold [`Tensor`] handles; numbers cross to the
//! host only through [`Ops::fetch`], at the router's choice and at the logits.

pub mod cpu;
mod host;
mod operands;
pub mod quant;
pub mod reference;
pub mod speed;
pub mod tensor;

pub use cpu::exp;
pub use host::allocated_bytes;
pub use operands::{
    Activation, Attend, Bias, CausalConv, ColumnRun, Compress, Contribution, Decay, GatedDelta, Hyper, KvLayout,
    LayerNorm, LinearAttention, Mlp, MlpJob, MlpScratch, Past, PositionBlocks, RmsNorm, Rope, RopePairs, Router,
    RouterGroups, RouterScore, STREAMS_MAX, Seen, SelectiveScan,
};
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

    /// `out[i] = table[ids[i]] mod below`: table `[vocab, 4 · k]` or `[vocab, 8 · k]` of bytes, which are integers of 32 or 64 bits, out
    /// `[n, k]` I32. Ids were checked by the caller; what the table holds need not be.
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

    /// `out[i] = sign(z) · √max(|z|, 1e-6)`, z being `x[i] · y[i] / √d` (Qwen4-Exp): x and y `[n, d]`, out `[n, 1]`.
    fn agreement(&self, x: &Tensor, y: &Tensor, out: &Tensor);

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

    /// Causal depthwise convolution: `out[i][c] = silu( Σ_j weight[c][j] · in[i − dilation · (kernel − 1 − j)][c] + bias[c] )`, or
    /// without silu, where `in` is x preceded by `tail`. x and out `[n, channels]`; tail `[dilation · (kernel − 1), channels]` f32
    /// holds the inputs before x, zero at the beginning, and afterwards the last ones.
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
