//! DeepSeek-V2, V2.5 and Lite (arXiv 2405.04434), DeepSeek-V3, R1 and V3.1 (arXiv 2412.19437), Kimi-K2 and Moonlight: latent
//! attention and many small experts; Mistral 4 and Mistral Large 3, whose queries grow along long contexts; and DeepSeek-V3.2
//! (arXiv 2512.02556) and GLM-5, where an indexer chooses the positions that are attended to (`transformers`
//! `modeling_deepseek_v2.py`, `_v3.py`, `_v32.py`, `modeling_mistral4.py`, `modeling_glm_moe_dsa.py`).

use outpour_kernels::{DType, Rope, RopePairs};

use crate::blocks::decoder::{Decoder, Halves};
use crate::blocks::deepseek_moe::{Choice, DeepSeekMoe, Defaults};
use crate::blocks::growth::Growth;
use crate::blocks::indexer::{self, Indexer, Selector};
use crate::blocks::mla::{Mla, Sizes};
use crate::blocks::rope;
use crate::config::{Config, ModelError};
use crate::weights::{Norms, Weights};

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// To all of the past.
    Dense,
    /// To what an indexer chooses, whose RoPE turns such pairs by default.
    Sparse(RopePairs),
}

/// Builds the model from its config, asking `weights` for every tensor. `choice` is how experts are chosen.
///
/// # Errors
/// When a key or a tensor is missing, or they do not fit each other.
pub fn build(
    family: &'static str,
    choice: Choice,
    attention: Attention,
    config: &Config,
    weights: &mut Weights,
    kv: DType,
) -> Result<Decoder, ModelError> {
    ["attention_bias", "mlp_bias"].into_iter().try_for_each(|key| config.never(key))?;
    if family == "mistral4" {
        config.needs_rope_scaling()?;
    }
    let (defaults, eps) = defaults(family);
    let (sizes, experts) = (Sizes::read(config)?, DeepSeekMoe::read(config, choice, defaults)?);
    let rope = Rope { pairs: rope::pairs(config, true)?, ..rope::plain(config, sizes.rope_dim, 10_000.0)? };
    let selectors = selectors(attention, &rope, config)?;
    let (scale, growth) = (rope::yarn_attention_scale(config)?, Growth::read(config)?);
    let norms = Norms { eps: config.positive_or("rms_norm_eps", eps)? as f32, plus_one: false };
    Decoder::load(family, config, weights, kv, norms, |layer, prefix, weights| {
        let name = format!("{prefix}.self_attn");
        let mla = Mla::load(weights, &name, sizes, Some(&rope), scale)?.growing(growth);
        let mla = match &selectors {
            None => mla,
            Some(selectors) => mla.sparse(selectors.load(layer, &format!("{name}.indexer"), weights)?),
        };
        Ok(Halves { alphas: None, mixer: Box::new(mla), feed_forward: experts.load(layer, prefix, weights)? })
    })
}

/// What each takes for keys that its config lacks: of experts, and `rms_norm_eps`.
pub fn defaults(family: &str) -> (Defaults, f64) {
    match family {
        "deepseek_v2" => (Defaults { dense_layers: 0, shared_experts: 2, renormalise: false, ..Defaults::GLM }, 1e-6),
        "glm4_moe_lite" => (Defaults { scale: 1.8, ..Defaults::GLM }, 1e-5),
        "glm_moe_dsa" => (Defaults { dense_layers: 3, scale: 2.5, ..Defaults::GLM }, 1e-5),
        "mistral4" => (Defaults { dense_layers: 0, ..Defaults::GLM }, 1e-6),
        _ => (Defaults::V3, 1e-6),
    }
}

/// What the config says of all layers' indexers.
struct Selectors {
    sizes: indexer::Sizes,
    rope: Rope,
    /// Which layers take the choice of the one before.
    shared: Vec<bool>,
}

impl Selectors {
    fn load(&self, layer: usize, prefix: &str, weights: &mut Weights) -> Result<Selector, ModelError> {
        Ok(match self.shared[layer] {
            true => Selector::Shared(self.sizes),
            false => Selector::Own(Indexer::load(weights, prefix, self.sizes, Some(self.rope.clone()))?),
        })
    }
}

fn selectors(attention: Attention, rope: &Rope, config: &Config) -> Result<Option<Selectors>, ModelError> {
    let Attention::Sparse(pairs) = attention else { return Ok(None) };
    let interleaved = config.flag_or("indexer_rope_interleave", pairs == RopePairs::Interleaved)?;
    let pairs = if interleaved { RopePairs::Interleaved } else { RopePairs::Half };
    let rope = Rope { pairs, ..rope.clone() };
    Ok(Some(Selectors { sizes: indexer::Sizes::read(config)?, rope, shared: shared_layers(config)? }))
}

/// Which layers take the choice of the one before: those that `indexer_types` calls `shared`, or `index_topk_pattern` S, or all
/// behind the first `index_skip_topk_offset` but every `index_topk_freq`-th.
pub(super) fn shared_layers(config: &Config) -> Result<Vec<bool>, ModelError> {
    let layers = config.size("num_hidden_layers")?;
    let shared: Vec<bool> = if let Some(types) = config.texts("indexer_types")? {
        types.iter().map(|kind| *kind == "shared").collect()
    } else if config.has("index_topk_pattern") {
        config.text_or("index_topk_pattern", "")?.chars().map(|letter| letter == 'S').collect()
    } else {
        let (every, first) = (config.size_or("index_topk_freq", 1)?, config.count_or("index_skip_topk_offset", 2)?);
        (0..layers).map(|layer| !(layer + 1).saturating_sub(first).is_multiple_of(every)).collect()
    };
    match shared.len() < layers || shared.first() == Some(&true) {
        true => Err(ModelError::Config(format!(
            "its indexers are named for {} of {layers} layers, the first of which has one of its own; download it again",
            shared.len()
        ))),
        false => Ok(shared),
    }
}
