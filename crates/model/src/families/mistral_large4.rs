//! Mistral Large 4 (1T-A52B, text): latent attention to positions that an indexer chooses, without positions in every fourth layer;
//! frequencies of positions that are learnt; queries that grow with their position by factors of their heads; layers that attend to
//! what an earlier one keeps; and softmax experts (`transformers` `modeling_mistral_large4.py`). Tensors have Mistral's names.

use outpour_kernels::{Activation, DType, Rope, RopePairs, Router, RouterScore};

use super::deepseek;
use crate::blocks::decoder::{Decoder, Half, Inner, Join, Layer, Parts, Said};
use crate::blocks::deepseek_moe::dense_layers;
use crate::blocks::feed_forward::FeedForward;
use crate::blocks::indexer::{self, Indexer, Selector};
use crate::blocks::mla::{Mla, Names, Sizes};
use crate::blocks::moe::{self, Moe, SharedExpert};
use crate::blocks::{mlp, rope};
use crate::config::{Config, ModelError};
use crate::weights::{ExpertsOf, Norms, Weights};

/// Builds the model from its config, asking `weights` for every tensor.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Decoder, ModelError> {
    let tied = config.flag_or("tie_word_embeddings", false)?;
    config.never("attention_bias")?;
    let (layers, hidden, vocab) =
        (config.size("num_hidden_layers")?, config.size("hidden_size")?, config.size("vocab_size")?);
    let norms = Norms { eps: config.positive_or("rms_norm_eps", 1e-5)? as f32, plus_one: false };
    let attends = Attends::read(config, layers, norms.eps)?;
    let moe::Sizes { experts, top_k, width } =
        moe::Sizes::read(config, &["n_routed_experts", "num_experts"], "moe_intermediate_size")?;
    if config.size_or("n_group", 1)? != 1 {
        return Err(ModelError::Config("n_group is not 1, as in every released model of this family".into()));
    }
    let router = Router {
        renormalise: true,
        scale: config.positive_or("routed_scaling_factor", 1.0)? as f32,
        ..Router::new(top_k, RouterScore::Softmax)
    };
    let shared_width = config.size_or("n_shared_experts", 1)? * width;
    let dense_width = config.size("intermediate_size")?;
    let dense_layers = dense_layers(config, 1)?;

    let embedding = weights.embedding("tok_embeddings.weight", vocab, hidden, tied)?;
    let stretch = weights.vector("lerope.alpha", attends.rope.inv_freq.len())?;
    let rope = Rope { stretch: Some(stretch), ..attends.rope.clone() };
    let load_layer = |layer: usize| {
        let prefix = format!("layers.{layer}");
        let norm = |part: &str, weights: &mut Weights| norms.load(weights, &format!("{prefix}.{part}.weight"), hidden);
        let before = norm("attention_norm", weights)?;
        let inner = Inner::Mixer(Box::new(attends.load(layer, &rope, weights)?));
        let attention = Half { norm: before.into(), inner, join: Join::Added };
        let before = norm("ffn_norm", weights)?;
        let swiglu = Activation::SwiGlu;
        let feed_forward = if layer < dense_layers {
            let name = format!("{prefix}.feed_forward");
            FeedForward::Dense(mlp::load_numbered(weights, &name, hidden, dense_width, swiglu)?)
        } else {
            let gate = weights.matrix(&format!("{prefix}.gate.weight"), experts, hidden)?;
            let name = format!("{prefix}.shared_experts");
            let shared = SharedExpert::ungated(mlp::load_numbered(weights, &name, hidden, shared_width, swiglu)?);
            let of = ExpertsOf {
                layer,
                prefix: prefix.clone(),
                experts,
                hidden,
                width,
                activation: swiglu,
                transposed: None,
            };
            FeedForward::Sparse(Moe::load(weights, &of, gate, router.clone(), Some(shared))?)
        };
        let experts = Half { norm: before.into(), inner: Inner::FeedForward(feed_forward), join: Join::Added };
        Ok(Layer::from(vec![attention, experts]))
    };
    let layers: Vec<Layer> = (0..layers).map(load_layer).collect::<Result<_, ModelError>>()?;
    let lm_head = if tied { embedding.clone() } else { weights.matrix("output.weight", vocab, hidden)? };
    let said = Said {
        family: "mistral_large4",
        context_max: config.size_or("max_position_embeddings", 1 << 20)?,
        pattern: layers.iter().map(Layer::letter).collect(),
        legend: "S latent attention to chosen positions (DSA), R to what the layer before chose, capitals: experts, small letters: a dense MLP".into(),
    };
    let norm = norms.load(weights, "norm.weight", hidden)?;
    let softcap = Some(config.positive_or("final_logit_softcapping", 30.0)? as f32);
    Ok(Decoder::new(Parts { softcap, ..Parts::plain(embedding, layers, norm, lm_head) }, said, kv))
}

/// What the config says of all layers' attention.
struct Attends {
    /// Of layers with positions; in the others the rotary part is one of those without.
    sizes: Sizes,
    index: indexer::Sizes,
    rope: Rope,
    scale: f32,
    /// Which layers have positions, which take the choice of the one before, and whose latent vectors each reads.
    turned: Vec<bool>,
    shared: Vec<bool>,
    sources: Vec<usize>,
}

impl Attends {
    fn read(config: &Config, layers: usize, eps: f32) -> Result<Self, ModelError> {
        let sizes = Sizes { names: Names::MISTRAL, low_rank_eps: eps, ..Sizes::read(config)? };
        let rope = Rope { pairs: RopePairs::Interleaved, ..rope::plain(config, sizes.rope_dim, 10_000.0)? };
        let every = config.size_or("no_rope_layer_interval", 4)?;
        let turned = match config.layers("no_rope_layers")? {
            list if list.is_empty() => (0..layers).map(|layer| (layer + 1) % every != 0).collect(),
            list => list.iter().map(|turned| *turned != 0).collect::<Vec<bool>>(),
        };
        let sources = match config.layers("kv_source_layers")? {
            list if list.is_empty() => (0..layers).collect(),
            list => list,
        };
        let attends = Attends {
            index: indexer::Sizes::read(config)?,
            scale: rope::yarn_attention_scale(config)?,
            shared: deepseek::shared_layers(config)?,
            sizes,
            rope,
            turned,
            sources,
        };
        let Attends { turned, sources, .. } = &attends;
        // A source keeps its own, and as its reader needs it.
        let fits = |layer: usize, source: usize| {
            source <= layer && sources[source] == source && turned[source] == turned[layer]
        };
        let counts = [turned.len(), sources.len()];
        match counts.iter().all(|count| *count >= layers) && (0..layers).all(|layer| fits(layer, sources[layer])) {
            true => Ok(attends),
            false => Err(ModelError::Config(format!(
                "no_rope_layers and kv_source_layers name no layer for each of {layers}, earlier and like it; download it again"
            ))),
        }
    }

    fn load(&self, layer: usize, rope: &Rope, weights: &mut Weights) -> Result<Mla, ModelError> {
        let name = format!("layers.{layer}.attention");
        let turned = self.turned[layer];
        let rope = turned.then_some(rope);
        let sizes = match turned {
            true => self.sizes,
            false => Sizes { nope_dim: self.sizes.nope_dim + self.sizes.rope_dim, rope_dim: 0, ..self.sizes },
        };
        let source = Some(self.sources[layer]).filter(|source| *source != layer);
        let mla = Mla::load_over(weights, &name, sizes, rope, self.scale, source)?;
        let mut scale = |part: &str| weights.vector(&format!("{name}.ssmax_scaling.{part}"), sizes.heads);
        let mla = mla.scaled_by_head([scale("s")?, scale("b")?]);
        let indexer = format!("{name}.indexer");
        let selector = match self.shared[layer] {
            true => Selector::Shared(self.index),
            false => {
                let own = Indexer::load(weights, &indexer, self.index, rope.cloned())?;
                Selector::Own(own.of_stream(weights, &indexer)?)
            }
        };
        Ok(mla.sparse(selector))
    }
}
