//! LongCat-Flash (560B-A27B): layers of two latent attentions and two MLPs, and experts beside all that is behind the first
//! attention, some of which give what they are given (arXiv 2509.01322; `transformers` `modeling_longcat_flash.py`).

use outpour_kernels::{Activation, DType, Rope, RopePairs, Router, RouterScore};

use crate::blocks::decoder::{Decoder, Half, Inner, Join, Layer, Parts, Said};
use crate::blocks::feed_forward::FeedForward;
use crate::blocks::mla::{Mla, Sizes};
use crate::blocks::moe::{self, Moe};
use crate::blocks::{mlp, rope};
use crate::config::{Config, LAYERS, ModelError};
use crate::weights::{ExpertsOf, Norms, Weights};

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    config.only("zero_expert_type", "identity")?;
    config.only("attention_method", "MLA")?;
    ["attention_bias", "router_bias"].into_iter().try_for_each(|key| config.never(key))?;
    let (layers, hidden, vocab) = (config.size_of(LAYERS)?, config.size("hidden_size")?, config.size("vocab_size")?);
    let sizes = Sizes::read(config)?;
    let rope = Rope { pairs: RopePairs::Interleaved, ..rope::plain(config, sizes.rope_dim, 10_000_000.0)? };
    // Vectors of low rank are brought to the size of the stream's.
    let grown = |key: &str, rank: usize| -> Result<f32, ModelError> {
        Ok(if config.flag_or(key, true)? { (hidden as f32 / rank as f32).sqrt() } else { 1.0 })
    };
    let q_scale = grown("mla_scale_q_lora", config.size("q_lora_rank")?)?;
    let latent_scale = grown("mla_scale_kv_lora", sizes.kv_rank)?;
    let scale = q_scale * rope::yarn_attention_scale(config)?;
    let moe::Sizes { experts, top_k, width } =
        moe::Sizes::read(config, &["n_routed_experts"], "expert_ffn_hidden_size")?;
    let idle = config.count_or("zero_expert_num", 0)?;
    let router = Router {
        scale: config.positive_or("routed_scaling_factor", 1.0)? as f32,
        ..Router::new(top_k, RouterScore::Softmax)
    };
    let dense_width = config.size("ffn_hidden_size")?;
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-5)? as f32, plus_one: false };

    let tied = config.flag_or("tie_word_embeddings", false)?;
    let embedding = weights.embedding("model.embed_tokens.weight", vocab, hidden, tied)?;
    let load_layer = |layer: usize| {
        let prefix = format!("model.layers.{layer}");
        let norm = |part: &str, i: usize, weights: &mut Weights| {
            norms.load(weights, &format!("{prefix}.{part}.{i}.weight"), hidden)
        };
        let attention = |i: usize, weights: &mut Weights| {
            let mla = Mla::load(weights, &format!("{prefix}.self_attn.{i}"), sizes, Some(&rope), scale)?;
            let inner = Inner::Mixer(Box::new(mla.latent_scaled(latent_scale)));
            Ok::<_, ModelError>(Half { norm: norm("input_layernorm", i, weights)?.into(), inner, join: Join::Added })
        };
        let mlp = |i: usize, weights: &mut Weights| {
            let mlp = mlp::load(weights, &format!("{prefix}.mlps.{i}"), hidden, dense_width)?;
            let inner = Inner::FeedForward(FeedForward::Dense(mlp));
            Ok::<_, ModelError>(Half {
                norm: norm("post_attention_layernorm", i, weights)?.into(),
                inner,
                join: Join::Added,
            })
        };
        let first = attention(0, weights)?;
        let of_experts = format!("{prefix}.mlp");
        let name = |part: &str| format!("{of_experts}.router.{part}");
        let gate = weights.matrix(&name("classifier.weight"), experts + idle, hidden)?;
        let bias = Some(weights.vector(&name("e_score_correction_bias"), experts + idle)?);
        let of = ExpertsOf {
            layer,
            prefix: of_experts,
            experts,
            hidden,
            width,
            activation: Activation::SwiGlu,
            transposed: None,
        };
        let moe = Moe::load(weights, &of, gate, Router { bias, ..router.clone() }, None)?;
        let inner = Inner::FeedForward(FeedForward::Sparse(moe));
        let beside = Half { norm: norm("post_attention_layernorm", 0, weights)?.into(), inner, join: Join::Later };
        Ok(Layer::from(vec![first, beside, mlp(0, weights)?, attention(1, weights)?, mlp(1, weights)?]))
    };
    let layers: Vec<Layer> = (0..layers).map(load_layer).collect::<Result<_, ModelError>>()?;
    let lm_head = if tied { embedding.clone() } else { weights.matrix("lm_head.weight", vocab, hidden)? };
    let said = Said {
        family: "longcat_flash",
        context_max: config.size_or("max_position_embeddings", 131_072)?,
        pattern: layers.iter().map(Layer::letter).collect(),
        legend: "L two latent attentions (MLA) and two MLPs, and experts beside".into(),
    };
    let norm = norms.load(weights, "model.norm.weight", hidden)?;
    Ok(Decoder::new(Parts::plain(embedding, layers, norm, lm_head), said, kv))
}
