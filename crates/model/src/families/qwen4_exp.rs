//! Qwen4-Exp (text): three layers of Gated DeltaNet to one of gated attention to chosen blocks of positions, Qwen3.5's experts,
//! several residual streams with gates of low rank, and rows of tables that hashes of the last tokens name (`transformers`
//! `modeling_qwen4_exp.py`).

use std::sync::Arc;

use outpour_kernels::DType;

use super::qwen3_5_moe::Experts;
use crate::blocks::attention::{self, Attention, Kind, QkNorm};
use crate::blocks::decoder::{Decoder, Half, Inner, Join, Layer, Parts, Said};
use crate::blocks::delta_net::{self, DeltaNet};
use crate::blocks::gated_residual::{self, GatedResidual};
use crate::blocks::hyper::Mix;
use crate::blocks::mixer::Mixer;
use crate::blocks::ngrams::{self, Hashes, Ngrams};
use crate::blocks::norm::Norm;
use crate::blocks::pooled_index::{self, PooledIndex};
use crate::blocks::rope;
use crate::config::{Config, ModelError};
use crate::weights::{Norms, Weights};

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    let tied = config.flag_or("tie_word_embeddings", false)?;
    config.only("hidden_act", "silu")?;
    config.never("attention_bias")?;
    config.always("attn_output_gate")?;
    let layers = config.size("num_hidden_layers")?;
    let (sizes, vocab) = (attention::Sizes::read(config)?, config.size("vocab_size")?);
    let delta = delta_net::Sizes::read(config, sizes.hidden)?;
    let by_sigmoid = match config.text_or("output_gate_type", "silu")? {
        "sigmoid" => true,
        "silu" => false,
        other => {
            return Err(ModelError::Config(format!("output_gate_type {other:?} is neither sigmoid nor silu")));
        }
    };
    let interval = config.size_or("full_attention_interval", 4)?;
    let is_full = is_full(config, layers, interval)?;
    let experts = Experts::read(config)?;
    let rope = rope::partial(config, sizes.head_dim, 0.25, 10_000_000.0)?;
    let kind = Kind { qk_norm: QkNorm::PerHead, gated: true, ..Kind::plain(rope.clone()) };
    let rope = Arc::new(rope);
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-6)? as f32, plus_one: !weights.are_gguf() };
    let streams = gated_residual::Sizes::read(config)?;
    let index = is_full.contains(&true).then(|| pooled_index::Sizes::read(config)).transpose()?;
    // Counted from 1; a layer beyond the last is one that was cut off.
    let mut with_ngrams = if config.has("ple_layer_ids") { config.layers("ple_layer_ids")? } else { Vec::new() };
    with_ngrams.sort_unstable();
    with_ngrams.dedup();
    let grams = (!with_ngrams.is_empty()).then(|| ngrams::Sizes::read(config, streams)).transpose()?;

    weights.check_layers(layers)?;
    let embedding = weights.embedding("model.embed_tokens.weight", vocab, sizes.hidden, tied)?;
    let load_layer = |layer: usize| {
        let prefix = format!("model.layers.{layer}");
        let mut join = |half: &str| {
            let name = format!("{prefix}.{half}_hyper_connection");
            GatedResidual::load(weights, &name, streams, true, norms).map(Join::mixed)
        };
        let [of_attention, of_experts] = [join("attn")?, join("mlp")?];
        let mixer: Box<dyn Mixer> = match index.filter(|_| is_full[layer]) {
            Some(index) => {
                let name = format!("{prefix}.self_attn");
                let chosen = PooledIndex::load(weights, &format!("{name}.indexer"), index, rope.clone(), norms)?;
                Box::new(Attention::load(weights, &name, sizes, &kind, norms)?.sparse(chosen))
            }
            None => {
                let net = DeltaNet::load(weights, &format!("{prefix}.linear_attn"), delta, false, norms.eps)?;
                Box::new(if by_sigmoid { net.gated_by_sigmoid() } else { net })
            }
        };
        let number = with_ngrams.iter().position(|&with| with == layer + 1);
        let ngrams = match grams.zip(number) {
            Some((sizes, number)) => {
                let hashes = Hashes::read(config, &sizes, number)?;
                Some(Ngrams::load(weights, &format!("{prefix}.ple"), sizes, hashes, norms)?)
            }
            None => None,
        };
        let feed_forward = experts.load(weights, layer, format!("{prefix}.mlp"))?;
        let half = |inner, join| Half { norm: Norm::None, inner, join };
        let halves = vec![half(Inner::Mixer(mixer), of_attention), half(Inner::FeedForward(feed_forward), of_experts)];
        Ok(Layer { ngrams, ..Layer::from(halves) })
    };
    let layers: Vec<Layer> = (0..layers).map(load_layer).collect::<Result<_, ModelError>>()?;
    let mix = GatedResidual::load(weights, "model.hyper_connection_mixer", streams, false, norms)?;
    let lm_head = if tied { embedding.clone() } else { weights.matrix("lm_head.weight", vocab, sizes.hidden)? };
    let said = Said {
        family: "qwen4_exp",
        context_max: config.size_or("max_position_embeddings", 32_768)?,
        pattern: layers.iter().map(Layer::letter).collect(),
        legend: "D Gated DeltaNet, B attention to chosen blocks of positions (QSA), capitals: experts".into(),
    };
    let mix = Some(Mix::Weighted(Box::new(mix)));
    Ok(Decoder::new(Parts { mix, ..Parts::plain(embedding, layers, Norm::None, lm_head) }, said, kv))
}

/// Which layers have attention: those that `layer_types` calls so, in either of two spellings, or every `interval`-th.
fn is_full(config: &Config, layers: usize, interval: usize) -> Result<Vec<bool>, ModelError> {
    let Some(types) = config.texts("layer_types")? else {
        return Ok((1..=layers).map(|layer| layer.is_multiple_of(interval)).collect());
    };
    let known = |kind: &&str| match *kind {
        "indexed_attention" | "full_attention" => Ok(true),
        "linear_attention" => Ok(false),
        kind => Err(ModelError::Config(format!(
            "layer_types has {kind:?}; supported are full_attention and linear_attention"
        ))),
    };
    match types.len() == layers {
        true => types.iter().map(known).collect(),
        false => {
            Err(ModelError::Config(format!("layer_types names {} layers of {layers}; download it again", types.len())))
        }
    }
}
