//! Embeddings of n-grams (Qwen4-Exp's per-layer embedding; `transformers` `modeling_qwen4_exp.py`): hashes of the last tokens name rows of
//! a table, which stays on the drive; what a token's rows say goes to each residual stream as far as the stream agrees with it, and
//! so do the tokens before, through a convolution with gaps.

use outpour_kernels::{CausalConv, ColumnRun, DType, Matrix, RmsNorm, Tensor};
use outpour_store::StoreError;

use super::gated_residual;
use super::mixer::At;
use crate::config::{Config, ModelError, SIZE_MAX};
use crate::state::RecurrentLayout;
use crate::weights::{Norms, RowTable, Weights};
use crate::{Run, Workspace};

/// Parts of a table at most.
const SHARDS_MAX: usize = 1 << 16;
/// Hashes of a token at most.
const HEADS_MAX: usize = 1 << 10;
/// Tokens that are hashed together at most.
const TOKENS_MAX: usize = 64;

/// Sizes of an embedding of n-grams.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// The residual streams.
    streams: gated_residual::Sizes,
    /// Numbers of what a token's rows make together.
    width: usize,
    /// Tokens of the longest n-gram.
    tokens: usize,
    /// Hashes of each length from two tokens on.
    heads: usize,
    /// Rows of a hash at least.
    rows: usize,
    /// What the rows of all hashes together are a multiple of.
    multiple: usize,
    /// Tensors of the table.
    shards: usize,
    /// Width of the convolution; its gaps are `tokens` wide.
    kernel: usize,
    /// Tokens of the vocabulary.
    vocab: usize,
    /// What factors of the hashes are made of.
    seed: u64,
    /// The token that ends what is before it.
    end: u32,
}

impl Sizes {
    /// Reads `ple_*`, `ngram_*`, `heads_per_ngram`, `split_ngram_parts`, `make_ngram_vocab_size_divisible_by`, `seed` and
    /// `eos_token_id` of the config.
    ///
    /// # Errors
    /// When a key is missing, or they do not fit each other.
    pub fn read(config: &Config, streams: gated_residual::Sizes) -> Result<Self, ModelError> {
        let end = match config.is_list("eos_token_id") {
            true => config.layers("eos_token_id")?.first().copied(),
            false => config.has("eos_token_id").then(|| config.count_or("eos_token_id", 0)).transpose()?,
        };
        let end = end.ok_or_else(|| ModelError::Config("has no eos_token_id, which ends n-grams".into()))?;
        let sizes = Sizes {
            streams,
            width: config.size_or("ple_embed_dim", streams.hidden)?,
            tokens: config.size_or("ngram_size", 3)?,
            heads: config.size_or("heads_per_ngram", 8)?,
            rows: config.size_or("ngram_vocab_size_base", 20_000_000)?,
            multiple: config.size_or("make_ngram_vocab_size_divisible_by", 128)?,
            shards: config.size_or("split_ngram_parts", 512)?,
            kernel: config.size_or("ple_conv_kernel_size", 4)?,
            vocab: config.size("vocab_size")?,
            seed: config.count_or("seed", 1234)? as u64,
            end: end as u32,
        };
        let Sizes { width, tokens, rows, multiple, shards, kernel, .. } = sizes;
        let hashes = sizes.hashes();
        let small = (2..=TOKENS_MAX).contains(&tokens) && hashes <= HEADS_MAX && shards <= SHARDS_MAX && kernel >= 2;
        let fits = small && width.is_multiple_of(hashes) && (kernel as u64) < 64 && (multiple as u64) < 1 << 20;
        // Primes lie close to each other: a hash has hardly more rows than the least.
        match fits && (hashes as u64) * (2 * rows as u64 + 64) < SIZE_MAX {
            true => Ok(sizes),
            false => Err(ModelError::Config(format!(
                "ngram_size {tokens}, heads_per_ngram {}, ngram_vocab_size_base {rows}, split_ngram_parts {shards} and ple_conv_kernel_size {kernel} make no n-grams of ple_embed_dim {width}; download it again",
                sizes.heads
            ))),
        }
    }

    /// Hashes of a token.
    fn hashes(&self) -> usize {
        (self.tokens - 1).saturating_mul(self.heads)
    }
}

/// How the last tokens name rows.
pub struct Hashes {
    /// By tokens ago.
    factors: Vec<u64>,
    /// By hash: the number of its rows, a prime, and its first one.
    rows: Vec<[u64; 2]>,
    heads: usize,
    end: u32,
}

impl Hashes {
    /// Those of the `number`-th layer that has any: as GGUF files say them, by `ple_layer_multipliers`, `ple_head_vocab_sizes` and
    /// `ple_head_offsets`, or made of the config's seed.
    ///
    /// # Errors
    /// When they are said and are not as many as there have to be, or name more rows than a table has.
    pub fn read(config: &Config, sizes: &Sizes, number: usize) -> Result<Hashes, ModelError> {
        const FACTORS: &str = "ple_layer_multipliers";
        if !config.has(FACTORS) {
            return Ok(Hashes::new(sizes, number));
        }
        let factors = config.layers(FACTORS)?;
        let (counts, firsts) = (config.layers("ple_head_vocab_sizes")?, config.layers("ple_head_offsets")?);
        let hashes = sizes.hashes();
        let ends = counts.iter().zip(&firsts).map(|(count, first)| count.saturating_add(*first));
        let fits = counts.len() == hashes && firsts.len() == hashes && factors.len() == sizes.tokens;
        match fits && counts.iter().all(|count| *count > 0) && ends.max().unwrap_or(0) as u64 <= SIZE_MAX {
            true => Ok(Hashes {
                factors: factors.into_iter().map(|factor| factor as u64).collect(),
                rows: counts.into_iter().zip(firsts).map(|(count, first)| [count as u64, first as u64]).collect(),
                heads: sizes.heads,
                end: sizes.end,
            }),
            false => Err(ModelError::Config(format!(
                "{FACTORS}, ple_head_vocab_sizes and ple_head_offsets are not those of {hashes} hashes of {} tokens; download it again",
                sizes.tokens
            ))),
        }
    }

    fn new(sizes: &Sizes, number: usize) -> Hashes {
        let hashes = sizes.hashes();
        let mut primes = (sizes.rows as u64..).filter(|&number| is_prime(number)).skip(number * hashes);
        let mut first = 0;
        let of_hash = |prime: u64| {
            first += prime;
            [prime, first - prime]
        };
        // Products with a token stay below 2^63.
        let half = (i64::MAX as u64 / sizes.vocab as u64 / 2).max(1);
        let seed = sizes.seed.wrapping_add(10_007 * number as u64);
        let factor = |ago: u64| 2 * (mixed(seed.wrapping_add(GAMMA.wrapping_mul(ago + 1))) % half) + 1;
        Hashes {
            factors: (0..sizes.tokens as u64).map(factor).collect(),
            rows: primes.by_ref().take(hashes).map(of_hash).collect(),
            heads: sizes.heads,
            end: sizes.end,
        }
    }

    /// Rows of all hashes.
    fn rows(&self) -> u64 {
        self.rows.iter().map(|[rows, first]| first + rows).max().unwrap_or(0)
    }

    /// The rows of a token, given what was before it, the last token last.
    fn push(&self, token: u32, before: &[u32], rows: &mut Vec<u32>) {
        let mut mix = u64::from(token).wrapping_mul(self.factors[0]);
        let mut ended = false;
        for (ago, factor) in self.factors.iter().enumerate().skip(1) {
            let token = before.len().checked_sub(ago).map_or(self.end, |at| before[at]);
            ended |= token == self.end;
            mix ^= u64::from(if ended { self.end } else { token }).wrapping_mul(*factor);
            let of_length = &self.rows[(ago - 1) * self.heads..][..self.heads];
            rows.extend(of_length.iter().map(|[count, first]| (mix % count + first) as u32));
        }
    }
}

/// The increment of SplitMix64 (doi 10.1145/2660193.2660195).
const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// A step of SplitMix64, from its state before.
fn mixed(state: u64) -> u64 {
    let z = state.wrapping_add(GAMMA);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn is_prime(number: u64) -> bool {
    number >= 2 && (2..).take_while(|d| d * d <= number).all(|divisor| !number.is_multiple_of(divisor))
}

/// The weights of one layer's n-grams.
pub struct Ngrams {
    sizes: Sizes,
    hashes: Hashes,
    table: RowTable,
    key: Matrix,   // [streams · hidden, width]
    value: Matrix, // [hidden, width]
    /// Of keys, of the streams and before the convolution: `[streams · hidden]` each, over each stream.
    norms: [RmsNorm; 3],
    conv: CausalConv,
    repeated: Vec<ColumnRun>,
}

impl Ngrams {
    /// Loads `{prefix}.*` of a layer that has n-grams.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(
        weights: &mut Weights,
        prefix: &str,
        sizes: Sizes,
        hashes: Hashes,
        norms: Norms,
    ) -> Result<Self, ModelError> {
        let Sizes { streams, width, kernel, .. } = sizes;
        let all = streams.count * streams.hidden;
        let table = format!("{prefix}.ple_embedding.ngram_embedding");
        let mut rows = hashes.rows().next_multiple_of(sizes.multiple as u64) as usize;
        if weights.are_gguf() {
            // Of what it is a multiple is in no file.
            let all = weights.shape_of(&format!("{table}.shard_0.weight")).and_then(|shape| shape.first());
            rows = all.copied().unwrap_or(0).max(hashes.rows() as usize);
        }
        let name = |part: &str| format!("{prefix}.{part}.weight");
        let mut norm = |part: &str| norms.load(weights, &name(part), all);
        let norms = [norm("norm_key")?, norm("norm_query")?, norm("norm_conv")?];
        Ok(Ngrams {
            sizes,
            norms,
            table: weights.row_table(&table, sizes.shards, rows, width / sizes.hashes())?,
            hashes,
            key: weights.matrix(&name("key_proj"), all, width)?,
            value: weights.matrix(&name("value_proj"), streams.hidden, width)?,
            conv: CausalConv {
                weight: weights.convolution(&name("conv1d"), all, kernel)?,
                bias: None,
                silu: true,
                dilation: sizes.tokens,
            },
            repeated: streams.repeated(),
        })
    }

    /// `x += ngrams(x)`: x `[n, streams · hidden]`.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn add(&self, at: &At, x: &Tensor, run: &mut Run) -> Result<(), StoreError> {
        let gated_residual::Sizes { count, hidden, .. } = self.sizes.streams;
        let (n, ops, hashes) = (at.batch.len(), run.ops, self.sizes.hashes());
        let rows = self.rows(at, run);
        let said = run.workspace.f32([n * hashes, self.sizes.width / hashes]);
        run.experts.rows(self.table, &rows, &mut |i, row| ops.embed(row, &[0], &said.rows(i..i + 1)))?;
        let said = said.reshape([n, self.sizes.width]);

        let [keys, queries] = [(); 2].map(|()| run.workspace.f32([n, count * hidden]));
        let value = run.workspace.f32([n, hidden]);
        let gates = run.workspace.f32([n * count, 1]);
        let streams = |t: &Tensor| t.reshape([n, count, hidden]);
        let each = |t: &Tensor| t.reshape([n * count, hidden]);
        let [of_keys, of_queries, of_conv] = &self.norms;
        ops.linears(&said, &[(&self.key, &keys), (&self.value, &value)]);
        ops.rms_norm(&streams(&keys), of_keys, &streams(&keys));
        ops.rms_norm(&streams(x), of_queries, &streams(&queries));
        ops.agreement(&each(&keys), &each(&queries), &gates);
        let [repeated, gated] = [keys, queries];
        ops.copy_columns(&value, &self.repeated, &repeated);
        ops.zero(&gated);
        ops.add_gated(&each(&repeated), &gates, &each(&gated));
        ops.add(&gated, x);
        let [normed, mixed] = [repeated, gated.clone()];
        ops.rms_norm(&streams(&gated), of_conv, &streams(&normed));
        for span in &at.batch.spans {
            let rows = |t: &Tensor| t.rows(span.rows.clone());
            let tail = self.layout().tail(&at.recurrent(span.state));
            ops.causal_conv(&rows(&normed), &self.conv, &tail, &rows(&mixed));
        }
        ops.add(&mixed, x);
        Ok(())
    }

    /// The rows of all tokens, each hash's of the first one first; keeps the last tokens for later.
    fn rows(&self, at: &At, run: &Run) -> Vec<u32> {
        let before = self.sizes.tokens - 1;
        let mut rows = Vec::with_capacity(at.batch.len() * self.sizes.hashes());
        for span in &at.batch.spans {
            let kept = at.recurrent(span.state).view(self.layout().bytes(), [before], DType::I32);
            let mut tokens = vec![0u32; before];
            run.ops.fetch(&kept, bytemuck::cast_slice_mut(&mut tokens)).wait();
            // Of a sequence that is shorter, nothing was kept.
            tokens.drain(..before.saturating_sub(span.start));
            let first = tokens.len();
            tokens.extend(&at.batch.tokens[span.rows.clone()]);
            for i in first..tokens.len() {
                self.hashes.push(tokens[i], &tokens[..i], &mut rows);
            }
            let mut last = vec![0u32; before.saturating_sub(tokens.len())];
            last.extend(&tokens[tokens.len().saturating_sub(before)..]);
            run.ops.write(bytemuck::cast_slice(&last), &kept);
        }
        rows
    }

    /// The convolution's last inputs.
    fn layout(&self) -> RecurrentLayout {
        let gated_residual::Sizes { count, hidden, .. } = self.sizes.streams;
        RecurrentLayout { kernel: self.conv.tail() + 1, channels: count * hidden, heads: 0, k_dim: 0, v_dim: 0 }
    }

    /// Bytes that it keeps of a sequence: these, and the last tokens.
    pub fn state_bytes(&self) -> usize {
        self.layout().bytes() + 4 * (self.sizes.tokens - 1)
    }

    /// Bytes of workspace of [`Self::add`] for `n` tokens.
    pub fn workspace_bytes(&self, n: usize) -> usize {
        let (gated_residual::Sizes { count, hidden, .. }, f32s) = (self.sizes.streams, Workspace::f32_bytes);
        f32s(n * self.sizes.width) + 2 * f32s(n * count * hidden) + f32s(n * hidden) + f32s(n * count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the first prime from 20 on, and three further ones; a token that ends hides what is before it.
    #[test]
    fn rows_are_named_by_the_last_tokens_up_to_an_end() {
        let hashes =
            Hashes { factors: vec![3, 5, 7], rows: vec![[23, 0], [29, 23], [31, 52], [37, 83]], heads: 2, end: 9 };
        let rows = |token: u32, before: &[u32]| {
            let mut rows = Vec::new();
            hashes.push(token, before, &mut rows);
            rows
        };
        let expected = |mixes: [u64; 2]| {
            let [two, three] = mixes;
            [two % 23, 23 + two % 29, 52 + three % 31, 83 + three % 37].map(|row| row as u32)
        };
        assert_eq!(rows(4, &[8, 6, 2]), expected([12 ^ 10, 12 ^ 10 ^ 42]));
        assert_eq!(rows(4, &[2]), expected([12 ^ 10, 12 ^ 10 ^ 63]), "before a sequence there are ends");
        assert_eq!(rows(4, &[6, 9]), expected([12 ^ 45, 12 ^ 45 ^ 63]), "what is before an end is not seen");
        assert_eq!(rows(9, &[6, 2]), expected([27 ^ 10, 27 ^ 10 ^ 42]), "an end sees what it ends");
    }
}
