//! DeepSeek-V4: compressed sparse attention, several residual streams mixed by hyper-connections, and experts that the first
//! layers choose by the token's id alone (`transformers` `modeling_deepseek_v4.py`; arXiv 2409.19606 for hyper-connections).

use outpour_kernels::Tensor;
use outpour_kernels::{
    Activation, DType, Hyper, Matrix, Ops, RmsNorm, Rope, RopePairs, Router, RouterScore, STREAMS_MAX,
};
use outpour_store::StoreError;

use crate::blocks::compressed::{Beyond, CompressedAttention, Sizes};
use crate::blocks::mixer::{At, Mixer};
use crate::blocks::moe::{self, Moe, SharedExpert};
use crate::blocks::{mlp, rope};
use crate::config::{Config, ModelError};
use crate::weights::{ExpertsOf, Norms, Weights};
use crate::{Batch, Facts, Model, Run, State, StateLayout, Workspace};

/// The model with its weights.
pub struct DeepSeekV4 {
    facts: Facts,
    state_layout: StateLayout,
    embed: Matrix, // [vocab, hidden]
    layers: Vec<Layer>,
    hyper_head: HyperConnection,
    norm: RmsNorm, // [hidden]
    head: Matrix,  // [vocab, hidden]
}

struct Layer {
    attention_hyper: HyperConnection,
    attention_norm: RmsNorm, // [hidden]
    attention: CompressedAttention,
    experts_hyper: HyperConnection,
    experts_norm: RmsNorm, // [hidden]
    experts: Moe,
}

/// What makes the weights of streams out of the streams.
struct HyperConnection {
    /// Over all streams of a token, without weights.
    norm: RmsNorm,
    mix: Matrix, // [streams, streams · hidden] or [(2 + streams) · streams, streams · hidden]
    hyper: Hyper,
}

impl HyperConnection {
    /// Loads `{prefix}_{fn,base,scale}`: `columns` weights of each token in so many parts.
    fn load(
        weights: &mut Weights,
        prefix: &str,
        of: &Streams,
        columns: usize,
        parts: usize,
    ) -> Result<Self, ModelError> {
        let Streams { count, hidden, iterations, eps, norm_eps } = *of;
        let mix = weights.tensor(&format!("{prefix}_fn"), &[columns, count * hidden])?;
        Ok(HyperConnection {
            norm: RmsNorm { weight: None, plus_one: false, eps: norm_eps },
            mix: Matrix::dense(mix).exact(),
            hyper: Hyper {
                streams: count,
                iterations,
                eps,
                base: weights.vector(&format!("{prefix}_base"), columns)?,
                scale: weights.vector(&format!("{prefix}_scale"), parts)?,
            },
        })
    }

    /// x `[n, streams · hidden]` → the weights of its streams `[n, columns]` in the workspace, and into `out` `[n, hidden]` what
    /// goes into the half of a layer, or the head.
    fn collapse(&self, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, out: &Tensor) -> Tensor {
        let n = x.dim(0);
        let weights = workspace.f32([n, self.mix.rows()]); // [n, columns]
        let mark = workspace.mark();
        let normed = workspace.f32([n, self.mix.cols()]); // [n, streams · hidden]
        ops.rms_norm(x, &self.norm, &normed);
        ops.linear(&normed, &self.mix, &weights);
        ops.hyper_weights(&weights, &self.hyper);
        workspace.release(mark);
        ops.hyper_collapse(&self.streams(x), &weights, out);
        weights
    }

    /// x as `[n, streams, hidden]`.
    fn streams(&self, x: &Tensor) -> Tensor {
        x.reshape([x.dim(0), self.hyper.streams, x.dim(1) / self.hyper.streams])
    }

    /// Bytes of workspace of [`Self::collapse`] for `n` tokens.
    fn workspace_bytes(&self, n: usize) -> usize {
        Workspace::f32_bytes(n * self.mix.rows()) + Workspace::f32_bytes(n * self.mix.cols())
    }
}

/// What the config says of the streams.
struct Streams {
    count: usize,
    hidden: usize,
    iterations: usize,
    eps: f32,
    norm_eps: f32,
}

impl Streams {
    fn read(config: &Config, norm_eps: f32) -> Result<Self, ModelError> {
        let count = config.size_or("hc_mult", 4)?;
        if count > STREAMS_MAX {
            return Err(ModelError::Config(format!("hc_mult {count} is more than {STREAMS_MAX}; download it again")));
        }
        Ok(Streams {
            count,
            hidden: config.size("hidden_size")?,
            iterations: config.size_or("hc_sinkhorn_iters", 20)?,
            eps: config.positive_or("hc_eps", 1e-6)? as f32,
            norm_eps,
        })
    }

    /// Weights of a token: what of each stream goes in, what of the output goes to each stream, and the mixing matrix.
    fn columns(&self) -> usize {
        (2 + self.count) * self.count
    }
}

impl DeepSeekV4 {
    /// Builds the model from its config, asking `weights` for every tensor.
    ///
    /// # Errors
    /// When a key or a tensor is missing, or they do not fit each other.
    pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Self, ModelError> {
        config.only("hidden_act", "silu")?;
        config.only("scoring_func", "sqrtsoftplus")?;
        ["attention_bias", "mlp_bias"].into_iter().try_for_each(|key| config.never(key))?;
        let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-6)? as f32, plus_one: false };
        let (layers, hidden, vocab) =
            (config.size("num_hidden_layers")?, config.size("hidden_size")?, config.size("vocab_size")?);
        let (streams, sizes, beyond) = (Streams::read(config, norms.eps)?, sizes(config)?, beyond(config)?);
        let [near, far] = ropes(config, sizes.rope_dim)?;
        let experts = Experts::read(config)?;

        let tied = config.flag_or("tie_word_embeddings", false)?;
        let embed = match tied {
            true => weights.matrix("embed.weight", vocab, hidden)?,
            false => weights.embedding("embed.weight", vocab, hidden)?,
        };
        let load_layer = |layer: usize| {
            let prefix = format!("layers.{layer}");
            let mut hyper = |half: &str| {
                HyperConnection::load(weights, &format!("{prefix}.hc_{half}"), &streams, streams.columns(), 3)
            };
            let (attention_hyper, experts_hyper) = (hyper("attn")?, hyper("ffn")?);
            let rope = if beyond[layer] == Beyond::Nothing { &near } else { &far };
            let name = format!("{prefix}.attn");
            Ok(Layer {
                attention_hyper,
                attention_norm: norms.load(weights, &format!("{prefix}.attn_norm.weight"), hidden)?,
                attention: CompressedAttention::load(weights, &name, sizes, beyond[layer], rope, norms)?,
                experts_hyper,
                experts_norm: norms.load(weights, &format!("{prefix}.ffn_norm.weight"), hidden)?,
                experts: experts.load(weights, layer, hidden, vocab)?,
            })
        };
        let built: Vec<Layer> = (0..layers).map(load_layer).collect::<Result<_, ModelError>>()?;
        let hyper_head = HyperConnection::load(weights, "hc_head", &streams, streams.count, 1)?;
        let kv_widths: Vec<_> = built.iter().map(|layer| layer.attention.kv()).collect();
        let recurrent = built.iter().map(|layer| layer.attention.recurrent()).collect();
        Ok(DeepSeekV4 {
            facts: Facts {
                family: "deepseek_v4",
                layers,
                hidden,
                streams: streams.count,
                carried: 0,
                vocab,
                context_max: config.size_or("max_position_embeddings", 1 << 20)?,
                top_k: experts.sizes.top_k,
                pattern: built.iter().map(|layer| layer.attention.letter().0).collect(),
                legend: "W attention within a window; beside it H to all of the past, heavily compressed (HCA), C to what is chosen of it, lightly compressed (CSA)".into(),
            },
            state_layout: StateLayout::new(&kv_widths, recurrent, kv),
            head: if tied { embed.clone() } else { weights.matrix("head.weight", vocab, hidden)? },
            embed,
            layers: built,
            hyper_head,
            norm: norms.load(weights, "norm.weight", hidden)?,
        })
    }
}

fn sizes(config: &Config) -> Result<Sizes, ModelError> {
    let sizes = Sizes {
        hidden: config.size("hidden_size")?,
        heads: config.size("num_attention_heads")?,
        head_dim: config.size("head_dim")?,
        rope_dim: config.size_or("qk_rope_head_dim", 64)?,
        q_rank: config.size("q_lora_rank")?,
        groups: config.size("o_groups")?,
        o_rank: config.size("o_lora_rank")?,
        window: config.size_or("sliding_window", 128)?,
        index: [config.size("index_n_heads")?, config.size("index_head_dim")?, config.size("index_topk")?],
    };
    let Sizes { heads, head_dim, rope_dim, groups, index: [index_heads, index_dim, _], .. } = sizes;
    let most = (heads as u64 * head_dim as u64).max(index_heads as u64 * index_dim as u64);
    let problem = if most >= crate::config::SIZE_MAX {
        format!("num_attention_heads {heads} of head_dim {head_dim} make no attention")
    } else if !heads.is_multiple_of(groups) {
        format!("num_attention_heads {heads} is no multiple of o_groups {groups}")
    } else if rope_dim > head_dim.min(index_dim) || !rope_dim.is_multiple_of(2) {
        format!(
            "qk_rope_head_dim {rope_dim} of head_dim {head_dim} and index_head_dim {index_dim} leaves no whole pairs"
        )
    } else {
        return Ok(sizes);
    };
    Err(ModelError::Config(format!("{problem}; download it again")))
}

/// What the queries of each layer see beyond their window, by `compress_ratios` or `layer_types` of the config.
fn beyond(config: &Config) -> Result<Vec<Beyond>, ModelError> {
    let layers = config.size("num_hidden_layers")?;
    let rates = config.part("compress_rates")?;
    let few = rates.size_or("heavily_compressed_attention", config.size_or("compress_rate_hca", 128)?)?;
    let many = rates.size_or("compressed_sparse_attention", config.size_or("compress_rate_csa", 4)?)?;
    let kinds: Option<Vec<Beyond>> = match config.texts("layer_types")? {
        Some(types) => types.iter().map(|kind| of_type(kind, few, many)).collect(),
        None => config.layers("compress_ratios")?.iter().map(|ratio| of_ratio(*ratio, few, many)).collect(),
    };
    // Further ones are of layers that predict further tokens.
    match kinds.filter(|kinds| kinds.len() >= layers) {
        Some(kinds) => Ok(kinds[..layers].to_vec()),
        None => Err(ModelError::Config(format!(
            "compress_ratios does not name each of {layers} layers by 0, 4 or 128; download it again"
        ))),
    }
}

fn of_type(kind: &str, few: usize, many: usize) -> Option<Beyond> {
    match kind {
        "sliding_attention" => Some(Beyond::Nothing),
        "heavily_compressed_attention" => Some(Beyond::All(few)),
        "compressed_sparse_attention" => Some(Beyond::Chosen(many)),
        _ => None,
    }
}

fn of_ratio(ratio: usize, few: usize, many: usize) -> Option<Beyond> {
    match ratio {
        0 => Some(Beyond::Nothing),
        4 => Some(Beyond::Chosen(many)),
        128 => Some(Beyond::All(few)),
        _ => None,
    }
}

/// RoPE of layers that see their window alone, and of the others: YaRN, which scales no product here.
fn ropes(config: &Config, rope_dim: usize) -> Result<[Rope; 2], ModelError> {
    let parameters = config.part("rope_parameters")?;
    let (near, far) = if parameters.has("main") {
        (parameters.part("main")?, parameters.part("compress")?)
    } else {
        (config.part("none")?, config.rope(10_000.0)?.0)
    };
    let near_theta = near.positive_or("rope_theta", config.positive_or("rope_theta", 10_000.0)?)?;
    let far_theta = config.positive_or("compress_rope_theta", 160_000.0)?;
    let far_theta = if parameters.has("main") { far.positive_or("rope_theta", far_theta)? } else { far_theta };
    let scale = far.positive_or("attention_factor", 1.0)? as f32;
    let far = Rope { scale, ..rope::scaled(config, &far, rope_dim, far_theta)? };
    let near = rope::unscaled(rope_dim, near_theta);
    Ok([near, far].map(|rope| Rope { pairs: RopePairs::Interleaved, ..rope }))
}

/// What the config says of all layers' experts.
struct Experts {
    sizes: moe::Sizes,
    shared_width: usize,
    router: Router,
    activation: Activation,
    /// Layers whose experts the token's id chooses.
    hashed: usize,
}

impl Experts {
    fn read(config: &Config) -> Result<Self, ModelError> {
        let sizes = moe::Sizes::read(config, &["n_routed_experts", "num_local_experts"], "moe_intermediate_size")?;
        Ok(Experts {
            sizes,
            shared_width: config.size_or("n_shared_experts", 1)? * sizes.width,
            router: Router {
                renormalise: config.flag_or("norm_topk_prob", true)?,
                scale: config.positive_or("routed_scaling_factor", 1.5)? as f32,
                ..Router::new(sizes.top_k, RouterScore::SqrtSoftplus)
            },
            activation: Activation::SwiGluLimited { limit: config.positive_or("swiglu_limit", 10.0)? as f32 },
            hashed: match config.texts("mlp_layer_types")? {
                Some(types) => types.iter().take_while(|kind| **kind == "hash_moe").count(),
                None => config.count_or("num_hash_layers", 3)?,
            },
        })
    }

    fn load(&self, weights: &mut Weights, layer: usize, hidden: usize, vocab: usize) -> Result<Moe, ModelError> {
        let moe::Sizes { experts, top_k, width } = self.sizes;
        let prefix = format!("layers.{layer}.ffn");
        let gate = weights.matrix(&format!("{prefix}.gate.weight"), experts, hidden)?;
        let shared = format!("{prefix}.shared_experts");
        let shared = mlp::load_numbered(weights, &shared, hidden, self.shared_width, self.activation)?;
        let of = ExpertsOf { layer, prefix: prefix.clone(), experts, hidden, width, activation: self.activation };
        let bias = match layer < self.hashed {
            true => None,
            false => Some(weights.vector(&format!("{prefix}.gate.bias"), experts)?),
        };
        let router = Router { bias, ..self.router.clone() };
        let moe = Moe::load(weights, &of, gate, router, Some(SharedExpert::ungated(shared)))?;
        match layer < self.hashed {
            true => Ok(moe.by_token(weights.table(&format!("{prefix}.gate.tid2eid"), vocab, top_k, experts)?)),
            false => Ok(moe),
        }
    }
}

impl Model for DeepSeekV4 {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn state_layout(&self) -> &StateLayout {
        &self.state_layout
    }

    fn workspace_bytes(&self, n: usize) -> usize {
        let of_layer = |layer: &Layer| {
            let hyper = layer.attention_hyper.workspace_bytes(n);
            hyper + layer.attention.workspace_bytes(n).max(layer.experts.workspace_bytes(n))
        };
        // Guessing collapses the streams, and then is what the router needs.
        3 * Workspace::f32_bytes(n * self.facts.hidden) + self.layers.iter().map(of_layer).max().unwrap_or(0)
    }

    fn embedding(&self) -> &Matrix {
        &self.embed
    }

    fn embed(&self, ops: &dyn Ops, table: &Matrix, tokens: &[u32], x: &Tensor) {
        let streams = self.facts.streams;
        // Every stream begins as the embedding.
        let ids: Vec<u32> = tokens.iter().flat_map(|&id| std::iter::repeat_n(id, streams)).collect();
        ops.embed(table, &ids, &x.reshape([ids.len(), self.facts.hidden])); // [n · streams, hidden]
    }

    fn layer(
        &self,
        l: usize,
        batch: &Batch,
        states: &mut [State],
        x: &Tensor,
        run: &mut Run<'_>,
    ) -> Result<(), StoreError> {
        let Layer { attention_hyper, attention_norm, attention, experts_hyper, experts_norm, experts } =
            &self.layers[l];
        let mark = run.workspace.mark();
        let [normed, out] = [(); 2].map(|()| run.workspace.f32([batch.len(), self.facts.hidden])); // [n, hidden]
        let inner = run.workspace.mark();

        let weights = attention_hyper.collapse(run.ops, run.workspace, x, &normed); // [n, (2 + streams) · streams]
        run.ops.rms_norm(&normed, attention_norm, &normed);
        run.ops.zero(&out);
        let at = At { layer: l, layout: &self.state_layout, batch, states };
        attention.forward(&at, &normed, &out, run); // out += attention
        run.ops.hyper_expand(&out, &weights, &attention_hyper.streams(x)); // x = post ⊗ out + combᵀ · x
        run.workspace.release(inner);

        let weights = experts_hyper.collapse(run.ops, run.workspace, x, &normed);
        run.ops.rms_norm(&normed, experts_norm, &normed);
        run.ops.zero(&out);
        let done = experts.forward(batch, &normed, &out, run); // out += shared + Σ weight · expert
        run.ops.hyper_expand(&out, &weights, &experts_hyper.streams(x));
        run.workspace.release(mark);
        done
    }

    fn guess(&self, layer: usize, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, experts: &mut Vec<i32>) {
        let layer = &self.layers[layer];
        let mark = workspace.mark();
        let collapsed = workspace.f32([x.dim(0), self.facts.hidden]); // [n, hidden]
        layer.experts_hyper.collapse(ops, workspace, x, &collapsed);
        layer.experts.guess(&layer.experts_norm, ops, workspace, &collapsed, experts);
        workspace.release(mark);
    }

    fn known(&self, layer: usize, ops: &dyn Ops, workspace: &mut Workspace, tokens: &[u32], experts: &mut Vec<i32>) {
        self.layers[layer].experts.known(ops, workspace, tokens, experts);
    }

    fn head(&self, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, logits: &Tensor) {
        let mark = workspace.mark();
        let normed = workspace.f32([x.dim(0), self.facts.hidden]); // [m, hidden]
        self.hyper_head.collapse(ops, workspace, x, &normed);
        ops.rms_norm(&normed, &self.norm, &normed);
        ops.linear(&normed, &self.head, logits); // [m, vocab]
        workspace.release(mark);
    }
}
