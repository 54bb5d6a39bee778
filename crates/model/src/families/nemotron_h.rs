//! Nemotron-3 Nano (30B-A3B), Super (120B-A12B), whose experts are of a latent width, and the dense Nemotron-H: each layer is one
//! thing behind a norm, Mamba-2, attention without positions, an MLP or experts, the latter without gates (arXiv 2504.03624; `transformers` `modeling_nemotron_h.py`).

use outpour_kernels::{Activation, DType, Matrix, Ops, RmsNorm, Tensor};
use outpour_store::StoreError;

use crate::blocks::attention::{self, Attention, Kind};
use crate::blocks::deepseek_moe::{Choice, DeepSeekMoe};
use crate::blocks::feed_forward::FeedForward;
use crate::blocks::mamba2::{self, Mamba2};
use crate::blocks::mixer::{At, Mixer};
use crate::blocks::{mlp, rope};
use crate::config::{Config, ModelError};
use crate::weights::{Norms, Weights};
use crate::{Batch, Facts, Model, Run, State, StateLayout, Workspace};

/// The model with its weights.
pub struct NemotronH {
    facts: Facts,
    state_layout: StateLayout,
    embeddings: Matrix, // [vocab, hidden]
    layers: Vec<Layer>,
    norm: RmsNorm,   // [hidden]
    lm_head: Matrix, // [vocab, hidden]
}

struct Layer {
    norm: RmsNorm, // [hidden]
    half: Half,
}

/// What a layer is.
enum Half {
    Mixer(Box<dyn Mixer>),
    FeedForward(FeedForward),
}

impl NemotronH {
    /// Builds the model from its config, asking `weights` for every tensor.
    ///
    /// # Errors
    /// When a key or a tensor is missing, or they do not fit each other.
    pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Self, ModelError> {
        config.only("mlp_hidden_act", "relu2")?;
        ["attention_bias", "mlp_bias", "use_bias", "mamba_proj_bias"]
            .into_iter()
            .try_for_each(|key| config.never(key))?;
        let (hidden, vocab) = (config.size("hidden_size")?, config.size("vocab_size")?);
        let pattern = config.text_or("hybrid_override_pattern", "")?;
        if pattern.is_empty() || pattern.chars().any(|letter| !"ME*-".contains(letter)) {
            return Err(ModelError::Config(format!(
                "hybrid_override_pattern {pattern:?} does not name each layer by M, E, * or -; download it again"
            )));
        }
        let mamba = mamba2::Sizes::read(config)?;
        let sizes = attention::Sizes::read(config)?;
        let kind = Kind { rope: None, ..Kind::plain(rope::unscaled(sizes.head_dim, 10_000.0)) };
        let experts = match pattern.contains('E') {
            true => Some(experts(config)?),
            false => None,
        };
        let width = config.size_or("intermediate_size", 1)?;
        let eps = config.positive_or(config.spelling(&["layer_norm_epsilon", "norm_eps"]), 1e-5)? as f32;
        let norms = Norms { eps, plus_one: false };

        let embeddings = weights.matrix("backbone.embeddings.weight", vocab, hidden)?;
        let load_layer = |(layer, letter): (usize, char)| {
            let prefix = format!("backbone.layers.{layer}");
            let norm = norms.load(weights, &format!("{prefix}.norm.weight"), hidden)?;
            let name = format!("{prefix}.mixer");
            let half = match (letter, &experts) {
                ('M', _) => Half::Mixer(Box::new(Mamba2::load(weights, &name, mamba, eps)?)),
                ('*', _) => Half::Mixer(Box::new(Attention::load(weights, &name, sizes, &kind, norms)?)),
                ('E', Some(experts)) => Half::FeedForward(experts.load(layer, &prefix, weights)?),
                _ => {
                    let mlp = mlp::load_with(weights, &name, hidden, width, Activation::Relu2)?;
                    Half::FeedForward(FeedForward::Dense(mlp))
                }
            };
            Ok(Layer { norm, half })
        };
        let layers: Vec<Layer> = pattern.chars().enumerate().map(load_layer).collect::<Result<_, ModelError>>()?;
        let norm = norms.load(weights, "backbone.norm_f.weight", hidden)?;
        let tied = config.flag_or("tie_word_embeddings", false)?;
        let lm_head = if tied { embeddings.clone() } else { weights.matrix("lm_head.weight", vocab, hidden)? };
        let mixers = || layers.iter().map(Layer::mixer);
        let kv_widths: Vec<_> = mixers().map(|mixer| mixer.map(Mixer::kv).unwrap_or_default()).collect();
        let recurrent = mixers().map(|mixer| mixer?.recurrent()).collect();
        Ok(NemotronH {
            facts: Facts {
                family: "nemotron_h",
                layers: layers.len(),
                hidden,
                streams: 1,
                carried: 0,
                vocab,
                context_max: config.size_or("max_position_embeddings", 262_144)?,
                top_k: layers.iter().filter_map(Layer::top_k).max().unwrap_or(0),
                pattern: pattern.to_owned(),
                legend: "M Mamba-2, * attention, E experts, - an MLP".into(),
            },
            state_layout: StateLayout::new(&kv_widths, recurrent, kv),
            embeddings,
            layers,
            norm,
            lm_head,
        })
    }
}

/// Experts without gates, and a shared one of a width of its own.
fn experts(config: &Config) -> Result<DeepSeekMoe, ModelError> {
    let mut experts = DeepSeekMoe::read(config, Choice::SigmoidBiased)?;
    experts.module = "mixer";
    experts.activation = Activation::Relu2;
    experts.shared_width = config.size("moe_shared_expert_intermediate_size")?;
    experts.latent = config.size_or_none("moe_latent_size")?;
    Ok(experts)
}

impl Layer {
    fn mixer(&self) -> Option<&dyn Mixer> {
        match &self.half {
            Half::Mixer(mixer) => Some(&**mixer),
            Half::FeedForward(_) => None,
        }
    }

    fn top_k(&self) -> Option<usize> {
        match &self.half {
            Half::Mixer(_) => None,
            Half::FeedForward(feed_forward) => feed_forward.top_k(),
        }
    }

    fn workspace_bytes(&self, n: usize) -> usize {
        match &self.half {
            Half::Mixer(mixer) => mixer.workspace_bytes(n),
            Half::FeedForward(feed_forward) => feed_forward.workspace_bytes(n),
        }
    }
}

impl Model for NemotronH {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn state_layout(&self) -> &StateLayout {
        &self.state_layout
    }

    fn workspace_bytes(&self, n: usize) -> usize {
        let layers = self.layers.iter().map(|layer| layer.workspace_bytes(n)).max().unwrap_or(0);
        Workspace::f32_bytes(n * self.facts.hidden) + layers
    }

    fn embed(&self, ops: &dyn Ops, batch: &Batch, x: &Tensor) {
        ops.embed(&self.embeddings, &batch.tokens, x); // [n, hidden]
    }

    fn layer(
        &self,
        l: usize,
        batch: &Batch,
        states: &mut [State],
        x: &Tensor,
        run: &mut Run<'_>,
    ) -> Result<(), StoreError> {
        let layer = &self.layers[l];
        let mark = run.workspace.mark();
        let normed = run.workspace.f32([batch.len(), self.facts.hidden]); // [n, hidden]
        run.ops.rms_norm(x, &layer.norm, &normed);
        let done = match &layer.half {
            Half::Mixer(mixer) => {
                let at = At { layer: l, layout: &self.state_layout, batch, states };
                mixer.forward(&at, &normed, x, run); // x += mixer
                Ok(())
            }
            Half::FeedForward(feed_forward) => feed_forward.forward(batch, &normed, x, run), // x += experts, or mlp
        };
        run.workspace.release(mark);
        done
    }

    fn guess(&self, layer: usize, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, experts: &mut Vec<i32>) {
        let Layer { norm, half } = &self.layers[layer];
        match half {
            Half::Mixer(_) => experts.clear(),
            Half::FeedForward(feed_forward) => feed_forward.guess(norm, ops, workspace, x, experts),
        }
    }

    fn head(&self, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, logits: &Tensor) {
        let mark = workspace.mark();
        let normed = workspace.f32([x.dim(0), self.facts.hidden]); // [m, hidden]
        ops.rms_norm(x, &self.norm, &normed);
        ops.linear(&normed, &self.lm_head, logits); // [m, vocab]
        workspace.release(mark);
    }
}
