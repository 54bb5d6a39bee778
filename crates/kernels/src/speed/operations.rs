//! Operations beside products with weights: attention, recurrences, choices, and what is between.

use std::time::Duration;

use super::{PRODUCT_DIM, Weights, typical_seconds};
use crate::{
    Activation, Attend, Compress, DType, Decay, Format, GatedDelta, Hyper, KvLayout, LinearAttention, OpsError, Past,
    RmsNorm, Rope, RopePairs, Router, RouterScore, Seen, SelectiveScan, Tensor,
};

/// How fast an operation is.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationSpeed {
    /// What it is, with its sizes.
    pub name: String,
    /// Of a call.
    pub seconds: f64,
    /// What a call reads at least: keys and values once, states, weights, activations that it does not share with another call.
    pub bytes: f64,
    /// Multiplications and additions of a call; 0 where they are not what takes the time.
    pub flops: f64,
}

const POSITIONS_PER_BLOCK: usize = 64;

impl Weights<'_> {
    /// Every operation over so many rows, consecutive positions of one sequence, the last of `positions`. The weights are keys,
    /// values and states, and random again first: states of an earlier call would be halves of numbers, some of them subnormal,
    /// which Intel's processors are ten times slower with.
    ///
    /// # Errors
    /// When there is no memory for them.
    ///
    /// # Panics
    /// Where there are more rows than positions.
    pub fn operations(&self, rows: usize, positions: usize, budget: Duration) -> Result<Vec<OperationSpeed>, OpsError> {
        assert!(rows <= positions, "each row is at a position of its own");
        self.fill();
        let mut all = vec![
            self.attention(DType::F16, rows, positions, budget)?,
            self.attention(DType::Q8, rows, positions, budget)?,
            self.sparse_attention(rows, positions, budget)?,
            self.select(rows, positions, budget)?,
        ];
        all.extend(self.latent(rows, budget)?);
        all.push(self.delta(rows, budget)?);
        all.extend(self.linear_attentions(rows, budget)?);
        all.push(self.scan(rows, budget)?);
        all.extend(self.streams(rows, budget)?);
        all.extend(self.between(rows, budget)?);
        Ok(all)
    }

    fn timed(
        &self,
        name: impl Into<String>,
        [bytes, flops]: [usize; 2],
        budget: Duration,
        work: impl FnMut(usize),
    ) -> OperationSpeed {
        let seconds = typical_seconds(budget, work);
        OperationSpeed { name: name.into(), seconds, bytes: bytes as f64, flops: flops as f64 }
    }

    fn heads(&self, rows: usize, heads: usize, dim: usize) -> Result<Tensor, OpsError> {
        Ok(self.activations(rows, heads * dim)?.reshape([rows, heads, dim]))
    }

    fn vector(&self, len: usize) -> Result<Tensor, OpsError> {
        Ok(self.activations(1, len)?.reshape([len]))
    }

    fn integers(&self, rows: usize, width: usize, of: impl Fn(usize) -> i32) -> Result<Tensor, OpsError> {
        let tensor = Tensor::new(self.ops().alloc(rows * width * 4)?, 0, [rows, width], DType::I32);
        let bytes: Vec<u8> = (0..rows * width).flat_map(|i| of(i % width).to_le_bytes()).collect();
        self.ops().write(&bytes, &tensor);
        Ok(tensor)
    }

    fn attention(
        &self,
        dtype: DType,
        rows: usize,
        positions: usize,
        budget: Duration,
    ) -> Result<OperationSpeed, OpsError> {
        let (q_heads, heads, dim) = (32, 4, 128);
        let mut layout = KvLayout {
            dtype,
            heads,
            k_dim: dim,
            v_dim: dim,
            block_tokens: POSITIONS_PER_BLOCK,
            k_at: 0,
            v_at: 0,
            v_in_k: false,
        };
        layout.v_at = layout.bytes() / 2;
        // Each call is another layer, with keys and values of its own.
        let layers = self.blocks(layout.bytes(), positions.div_ceil(POSITIONS_PER_BLOCK))?;
        let (q, out) = (self.heads(rows, q_heads, dim)?, self.heads(rows, q_heads, dim)?);
        let attend = Attend { scale: 0.09, window: None, sinks: None };
        let name = format!("attention, {q_heads} heads on {heads} of {dim}, {dtype:?}, {rows} rows at {positions}");
        let bytes = positions * layout.bytes() / POSITIONS_PER_BLOCK;
        let flops = 2 * dim * q_heads * rows * (2 * positions - rows + 1);
        Ok(self.timed(name, [bytes, flops], budget, |i| {
            self.ops().attention(&q, &attend, &layout, &layers[i % layers.len()], positions - rows, &out);
        }))
    }

    /// DeepSeek-V3.2's: of 2048 entries that its indexer chose.
    fn sparse_attention(&self, rows: usize, positions: usize, budget: Duration) -> Result<OperationSpeed, OpsError> {
        let (q_heads, k_dim, v_dim, chosen) = (128, 576, 512, 2048.min(positions));
        let layout = latents(k_dim, v_dim);
        let layers = self.blocks(layout.bytes(), positions.div_ceil(POSITIONS_PER_BLOCK))?;
        let choice = self.integers(rows, chosen, |i| (i * (positions / chosen)) as i32)?;
        let (q, out) = (self.heads(rows, q_heads, k_dim)?, self.heads(rows, q_heads, v_dim)?);
        let attend = Attend { scale: 0.09, window: None, sinks: None };
        let name = format!(
            "sparse attention, {q_heads} heads on a latent of {k_dim}, {chosen} of {positions} entries, {rows} rows"
        );
        let sizes = [chosen * 2 * k_dim, 2 * rows * q_heads * chosen * (k_dim + v_dim)];
        Ok(self.timed(name, sizes, budget, |i| {
            let past = Past { layout: &layout, blocks: &layers[i % layers.len()], seen: Seen::Chosen(&choice) };
            self.ops().sparse_attention(&q, &attend, &[past], &out);
        }))
    }

    /// DeepSeek-V3.2's indexer.
    fn select(&self, rows: usize, positions: usize, budget: Duration) -> Result<OperationSpeed, OpsError> {
        let (heads, dim, chosen) = (64, 128, 2048.min(positions / 2).max(1));
        let layout = latents(dim, dim);
        let layers = self.blocks(layout.bytes(), positions.div_ceil(POSITIONS_PER_BLOCK))?;
        let (q, weights) = (self.heads(rows, heads, dim)?, self.activations(rows, heads)?);
        let choice = self.integers(rows, chosen, |_| 0)?;
        let name = format!("indexer, {heads} heads of {dim}, {chosen} of {positions} entries, {rows} rows");
        Ok(self.timed(name, [positions * 2 * dim, 2 * rows * heads * dim * positions], budget, |i| {
            let seen = Seen::Ended { start: positions - rows, every: 1 };
            let keys = Past { layout: &layout, blocks: &layers[i % layers.len()], seen };
            self.ops().select(&q, &weights, &keys, &choice);
        }))
    }

    /// MLA's products by heads, of 128 heads of 128 with a latent vector of 512.
    fn latent(&self, rows: usize, budget: Duration) -> Result<[OperationSpeed; 2], OpsError> {
        let (heads, dim, latent) = (128, 128, 512);
        let layers = self.matrices(Format::Bf16, 2 * heads * dim, latent)?;
        let (short, long) = (self.heads(rows, heads, dim)?, self.heads(rows, heads, latent)?);
        let sizes = [2 * heads * dim * latent, 2 * rows * heads * dim * latent];
        let name = |what: &str| format!("{what}, {heads} heads of {dim} and {latent}, bf16, {rows} rows");
        let layer = |i: usize| &layers[i % layers.len()];
        Ok([
            self.timed(name("queries into the latent space"), sizes, budget, |i| {
                self.ops().linear_heads_transposed(&short, layer(i), 0, &long);
            }),
            self.timed(name("values out of it"), sizes, budget, |i| {
                self.ops().linear_heads(&long, layer(i), dim, &short);
            }),
        ])
    }

    /// Qwen3.5's recurrence.
    fn delta(&self, rows: usize, budget: Duration) -> Result<OperationSpeed, OpsError> {
        let (k_heads, v_heads, dim) = (16, 32, 128);
        let states = self.tensors([v_heads, dim, dim], DType::F32)?;
        let delta = GatedDelta {
            k_heads,
            v_heads,
            k_dim: dim,
            v_dim: dim,
            per_channel: false,
            tiled: false,
            a_log: self.vector(v_heads)?,
            exponentiated: false,
            dt_bias: self.vector(v_heads)?,
            bound: None,
        };
        let qkv = self.activations(rows, (2 * k_heads + v_heads) * dim)?;
        let (a, b) = (self.activations(rows, v_heads)?, self.activations(rows, v_heads)?);
        let out = self.heads(rows, v_heads, dim)?;
        let name = format!("gated delta rule, {v_heads} states of {dim} x {dim}, {rows} rows");
        let state = v_heads * dim * dim;
        Ok(self.timed(name, [4 * state, 7 * rows * state], budget, |i| {
            self.ops().gated_delta(&qkv, &a, &b, &delta, &states[i % states.len()], &out);
        }))
    }

    /// MiniMax-Text-01's and Nemotron-H's recurrences.
    fn linear_attentions(&self, rows: usize, budget: Duration) -> Result<[OperationSpeed; 2], OpsError> {
        let lightning = LinearAttention {
            k_heads: 64,
            v_heads: 64,
            k_dim: 128,
            v_dim: 128,
            decay: Decay::Rates((0..64).map(|head| 0.01 * (head + 1) as f32).collect()),
        };
        let selective = Decay::Selective {
            a_log: self.vector(128)?,
            exponentiated: false,
            dt_bias: self.vector(128)?,
            d: self.vector(128)?,
        };
        let mamba = LinearAttention { k_heads: 8, v_heads: 128, k_dim: 128, v_dim: 64, decay: selective };
        Ok([
            self.linear_attention("Lightning", &lightning, rows, budget)?,
            self.linear_attention("Mamba-2", &mamba, rows, budget)?,
        ])
    }

    fn linear_attention(
        &self,
        name: &str,
        attention: &LinearAttention,
        rows: usize,
        budget: Duration,
    ) -> Result<OperationSpeed, OpsError> {
        let &LinearAttention { k_heads, v_heads, k_dim, v_dim, .. } = attention;
        let states = self.tensors([v_heads, k_dim, v_dim], DType::F32)?;
        let (q, k) = (self.activations(rows, k_heads * k_dim)?, self.activations(rows, k_heads * k_dim)?);
        let (v, dt) = (self.activations(rows, v_heads * v_dim)?, self.activations(rows, v_heads)?);
        let dt = matches!(attention.decay, Decay::Selective { .. }).then_some(&dt);
        let out = self.heads(rows, v_heads, v_dim)?;
        let state = v_heads * k_dim * v_dim;
        let name = format!("{name}, {v_heads} states of {k_dim} x {v_dim}, {rows} rows");
        Ok(self.timed(name, [4 * state, 5 * rows * state], budget, |i| {
            self.ops().linear_attention([&q, &k, &v], dt, attention, &states[i % states.len()], &out);
        }))
    }

    /// Jamba's recurrence.
    fn scan(&self, rows: usize, budget: Duration) -> Result<OperationSpeed, OpsError> {
        let (channels, k) = (8192, 16);
        let states = self.tensors([k, channels], DType::F32)?;
        let scan = SelectiveScan {
            a_log: self.activations(channels, k)?,
            exponentiated: false,
            dt_bias: self.vector(channels)?,
            d: self.vector(channels)?,
        };
        let (x, dt, out) =
            (self.activations(rows, channels)?, self.activations(rows, channels)?, self.activations(rows, channels)?);
        let (b, c) = (self.activations(rows, k)?, self.activations(rows, k)?);
        let name = format!("selective scan, {channels} channels of {k}, {rows} rows");
        Ok(self.timed(name, [4 * k * channels, 6 * rows * k * channels], budget, |i| {
            self.ops().selective_scan([&x, &dt], [&b, &c], &scan, &states[i % states.len()], &out);
        }))
    }

    /// DeepSeek-V4's residual streams, and its entries of four positions.
    fn streams(&self, rows: usize, budget: Duration) -> Result<Vec<OperationSpeed>, OpsError> {
        let (streams, d) = (4, 4096);
        let hyper = Hyper {
            streams,
            iterations: 20,
            eps: 1e-6,
            behind: [2.0, 0.0],
            base: self.vector((2 + streams) * streams)?,
            scale: self.vector(3)?,
        };
        let weights = self.activations(rows, (2 + streams) * streams)?;
        let (x, out) = (self.heads(rows, streams, d)?, self.activations(rows, d)?);
        let name = |what: &str| format!("{what}, {streams} streams of {d}, {rows} rows");
        let mut all = vec![
            self.timed(name("weights of streams"), [0, 0], budget, |_| self.ops().hyper_weights(&weights, &hyper)),
            self.timed(name("streams into one"), [4 * rows * streams * d, 2 * rows * streams * d], budget, |_| {
                self.ops().hyper_collapse(&x, &weights, &out);
            }),
            self.timed(
                name("one into streams"),
                [4 * rows * (streams + 1) * d, 2 * rows * streams * (streams + 1) * d],
                budget,
                |_| self.ops().hyper_expand(&out, &weights, &x),
            ),
        ];
        let (every, d) = (4, 512);
        let by = Compress { every, overlap: true, bias: self.activations(every, 2 * d)? };
        let (values, gates) = (self.activations(rows, 2 * d)?, self.activations(rows, 2 * d)?);
        let (tail, out) = (self.activations(by.tail(), 4 * d)?, self.activations((rows / every).max(1), d)?);
        // One row ends an entry if it is the last of four.
        let start = every.saturating_sub(rows);
        let out = out.rows(0..(start + rows) / every);
        all.push(self.timed(
            format!("entries of {every} positions, {d} wide, {rows} rows"),
            [16 * rows * d, 0],
            budget,
            |_| {
                self.ops().compress(&values, &gates, &by, &tail, start, &out);
            },
        ));
        Ok(all)
    }

    /// What is between a layer's products, small enough to stay in a cache, and the cap of a large vocabulary's logits.
    fn between(&self, rows: usize, budget: Duration) -> Result<Vec<OperationSpeed>, OpsError> {
        let (experts, top_k, heads, dim, vocab) = (128, 8, 32, 128, 1 << 18);
        let (logits, weights) = (self.activations(rows, experts)?, self.activations(rows, top_k)?);
        let (router, choice) = (Router::new(top_k, RouterScore::Softmax), self.integers(rows, top_k, |_| 0)?);
        let (x, y, out) = (
            self.activations(rows, PRODUCT_DIM)?,
            self.activations(rows, PRODUCT_DIM)?,
            self.activations(rows, PRODUCT_DIM)?,
        );
        let norm = RmsNorm { weight: Some(self.vector(PRODUCT_DIM)?), plus_one: false, eps: 1e-6 };
        let turned = self.heads(rows, heads, dim)?;
        let at: Vec<u32> = (1000..1000 + rows as u32).collect();
        let inv_freq = (0..dim / 2).map(|i| 1e6f32.powf(-2.0 * i as f32 / dim as f32)).collect();
        let rope = Rope { inv_freq, first: 0, pairs: RopePairs::Half, scale: 1.0, stretch: None };
        let capped = self.activations(1, vocab)?;
        let glu = |activation| self.ops().glu(&x, &y, activation, &out);
        let name = |what: String| format!("{what}, {rows} rows");
        Ok(vec![
            self.timed(name(format!("router of {experts} experts, {top_k} chosen")), [0, 0], budget, |_| {
                self.ops().route(&logits, &router, &choice, &weights);
            }),
            self.timed(name(format!("RMS norm of {PRODUCT_DIM}")), [0, 0], budget, |_| {
                self.ops().rms_norm(&x, &norm, &out)
            }),
            self.timed(name(format!("RoPE of {heads} heads of {dim}")), [0, 0], budget, |_| {
                self.ops().rope(&turned, &at, &rope);
            }),
            self.timed(name(format!("SwiGLU of {PRODUCT_DIM}")), [0, 0], budget, |_| glu(Activation::SwiGlu)),
            self.timed(name(format!("GeGLU of {PRODUCT_DIM}")), [0, 0], budget, |_| glu(Activation::GeGlu)),
            self.timed(format!("cap of {vocab} logits"), [0, 0], budget, |_| self.ops().softcap(&capped, 30.0)),
        ])
    }
}

/// Keys of one head, of which values are the beginning.
fn latents(k_dim: usize, v_dim: usize) -> KvLayout {
    KvLayout {
        dtype: DType::F16,
        heads: 1,
        k_dim,
        v_dim,
        block_tokens: POSITIONS_PER_BLOCK,
        k_at: 0,
        v_at: 0,
        v_in_k: true,
    }
}
