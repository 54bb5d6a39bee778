//! DeepSeek-V4: compressed sparse attention, several residual streams mixed by hyper-connections, and experts that the first
//! layers choose by the token's id alone (`transformers` `modeling_deepseek_v4.py`; arXiv 2409.19606 for hyper-connections).

use outpour_kernels::{Activation, DType, Rope, RopePairs, Router, RouterScore};

use crate::blocks::compressed::{Beyond, CompressedAttention, Sizes};
use crate::blocks::decoder::{Decoder, Half, Inner, Join, Layer, Parts, Said};
use crate::blocks::feed_forward::FeedForward;
use crate::blocks::hyper::{HyperConnection, Mix, Streams};
use crate::blocks::moe::{self, Moe, SharedExpert};
use crate::blocks::{mlp, rope};
use crate::config::{Config, ModelError};
use crate::weights::{ExpertsOf, Norms, Weights};

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    config.only("hidden_act", "silu")?;
    config.only("scoring_func", "sqrtsoftplus")?;
    config.only("topk_method", "noaux_tc")?;
    ["attention_bias", "mlp_bias"].into_iter().try_for_each(|key| config.never(key))?;
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-6)? as f32, plus_one: false };
    let (layers, hidden, vocab) =
        (config.size("num_hidden_layers")?, config.size("hidden_size")?, config.size("vocab_size")?);
    let (streams, sizes, beyond) = (Streams::read(config, norms.eps)?, sizes(config)?, beyond(config)?);
    let [near, far] = ropes(config, sizes.rope_dim)?;
    let experts = Experts::read(config)?;

    let tied = config.flag_or("tie_word_embeddings", false)?;
    let embedding = weights.embedding("embed.weight", vocab, hidden, tied)?;
    let load_layer = |layer: usize| {
        let prefix = format!("layers.{layer}");
        let norm = |part: &str, weights: &mut Weights| norms.load(weights, &format!("{prefix}.{part}.weight"), hidden);
        let mut hyper =
            |half: &str| HyperConnection::load(weights, &format!("{prefix}.hc_{half}"), &streams, streams.columns(), 3);
        let [of_attention, of_experts] = [hyper("attn")?, hyper("ffn")?].map(Join::mixed);
        let rope = if beyond[layer] == Beyond::Nothing { &near } else { &far };
        let attention = Half {
            norm: norm("attn_norm", weights)?.into(),
            inner: Inner::Mixer(Box::new(CompressedAttention::load(
                weights,
                &format!("{prefix}.attn"),
                sizes,
                beyond[layer],
                rope,
                norms,
            )?)),
            join: of_attention,
        };
        let experts = Half {
            norm: norm("ffn_norm", weights)?.into(),
            inner: Inner::FeedForward(FeedForward::Sparse(experts.load(weights, layer, hidden, vocab)?)),
            join: of_experts,
        };
        Ok(Layer::from(vec![attention, experts]))
    };
    let layers: Vec<Layer> = (0..layers).map(load_layer).collect::<Result<_, ModelError>>()?;
    let mix = HyperConnection::load(weights, "hc_head", &streams, streams.count, 1)?;
    let lm_head = if tied { embedding.clone() } else { weights.matrix("head.weight", vocab, hidden)? };
    let said = Said {
        family: "deepseek_v4",
        context_max: config.size_or("max_position_embeddings", 1 << 20)?,
        pattern: layers.iter().map(Layer::letter).collect(),
        legend: "W attention within a window; beside it H to all of the past, heavily compressed (HCA), C to what is chosen of it, lightly compressed (CSA)".into(),
    };
    let norm = norms.load(weights, "norm.weight", hidden)?;
    Ok(Decoder::new(
        Parts { mix: Some(Mix::Weighted(Box::new(mix))), ..Parts::plain(embedding, layers, norm, lm_head) },
        said,
        kv,
    ))
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
        let of = ExpertsOf {
            layer,
            prefix: prefix.clone(),
            experts,
            hidden,
            width,
            activation: self.activation,
            transposed: None,
        };
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
