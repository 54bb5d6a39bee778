//! Qwen3.5-MoE (35B-A3B, 122B-A10B, 397B-A17B) and Qwen3-Next (80B-A3B, Coder-Next): three layers of Gated DeltaNet to one
//! of gated attention, many small experts and a shared one (`transformers` `modeling_qwen3_5_moe.py`,
//! `modeling_qwen3_next.py`). The two differ in how the DeltaNet's inputs are packed; both are text models here: images
//! are not read, and the heads for multi-token prediction (`mtp.*`) are left where they are.

use outpour_kernels::{Activation, DType, Matrix, Ops, RmsNorm, Rope, Router, RouterScore, Tensor};
use outpour_store::StoreError;

use crate::blocks::attention::{self, Attention};
use crate::blocks::delta_net::{self, DeltaNet};
use crate::blocks::feed_forward::FeedForward;
use crate::blocks::moe::{Moe, SharedExpert};
use crate::blocks::{mlp, rope};
use crate::config::{Config, ModelError};
use crate::weights::{ExpertsOf, Norms, Weights};
use crate::{Batch, Facts, Model, Run, State, StateLayout, Workspace};

/// How the inputs of the DeltaNet lie in the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Two matrices, grouped by key head.
    Qwen3Next,
    /// Four matrices.
    Qwen35,
}

/// The model with its weights.
pub struct Qwen35Moe {
    facts: Facts,
    state_layout: StateLayout,
    sizes: Sizes,
    rope: Rope,
    embed_tokens: Matrix, // [vocab, hidden]
    layers: Vec<Layer>,
    norm: RmsNorm,   // [hidden]
    lm_head: Matrix, // [vocab, hidden]
}

struct Layer {
    input_norm: RmsNorm, // [hidden]
    mixer: Mixer,
    post_attention_norm: RmsNorm, // [hidden]
    feed_forward: FeedForward,
}

enum Mixer {
    Linear(DeltaNet),
    Full(Attention),
}

/// What sizes a layer.
struct Sizes {
    attention: attention::Sizes,
    delta: delta_net::Sizes,
    experts: ExpertsOf,
    top_k: usize,
    shared_width: usize,
    dense_width: usize,
}

impl Sizes {
    fn read(config: &Config) -> Result<Self, ModelError> {
        let hidden = config.size("hidden_size")?;
        let heads = config.size("num_attention_heads")?;
        let kv_heads = config.size_or("num_key_value_heads", heads)?;
        let head_dim = config.size_or("head_dim", hidden / heads)?;
        let attention = attention::Sizes { hidden, heads, kv_heads, head_dim, gated: true };
        attention.check()?;
        let experts = config.size_of(&["num_experts", "num_local_experts"])?;
        let top_k = config.size("num_experts_per_tok")?;
        if top_k > experts {
            return Err(ModelError::Config(format!(
                "num_experts_per_tok {top_k} is more than num_experts {experts}; download it again"
            )));
        }
        let (prefix, width) = (String::new(), config.size("moe_intermediate_size")?);
        Ok(Sizes {
            attention,
            delta: delta_net::Sizes::read(config, hidden)?,
            experts: ExpertsOf { layer: 0, prefix, experts, hidden, width, activation: Activation::SwiGlu },
            top_k,
            shared_width: config.size("shared_expert_intermediate_size")?,
            dense_width: config.size_or("intermediate_size", 1)?,
        })
    }

    fn experts_of(&self, layer: usize) -> ExpertsOf {
        ExpertsOf { layer, prefix: format!("model.layers.{layer}.mlp"), ..self.experts.clone() }
    }
}

/// Which layers attend, and which are sparse.
struct Pattern {
    full: Vec<bool>,
    sparse: Vec<bool>,
}

impl Pattern {
    fn read(config: &Config) -> Result<Self, ModelError> {
        let layers = config.size("num_hidden_layers")?;
        let interval = config.size_or("full_attention_interval", 4)?;
        let full = match config.texts("layer_types")? {
            None => (0..layers).map(|layer| (layer + 1).is_multiple_of(interval)).collect(),
            Some(types) if types.len() != layers => {
                let n = types.len();
                return Err(ModelError::Config(format!("layer_types names {n} layers of {layers}; download it again")));
            }
            Some(types) => types
                .iter()
                .map(|kind| match *kind {
                    "full_attention" => Ok(true),
                    "linear_attention" => Ok(false),
                    other => Err(ModelError::Config(format!(
                        "layer_types has {other:?}; supported are full_attention and linear_attention"
                    ))),
                })
                .collect::<Result<_, _>>()?,
        };
        let dense = config.layers("mlp_only_layers")?;
        let step = config.size_or("decoder_sparse_step", 1)?;
        let sparse = (0..layers).map(|layer| !dense.contains(&layer) && (layer + 1).is_multiple_of(step)).collect();
        Ok(Pattern { full, sparse })
    }

    /// One letter a layer.
    fn letters(&self) -> String {
        let letter = |(&full, &sparse)| match (full, sparse) {
            (true, true) => 'A',
            (true, false) => 'a',
            (false, true) => 'D',
            (false, false) => 'd',
        };
        self.full.iter().zip(&self.sparse).map(letter).collect()
    }
}

impl Qwen35Moe {
    /// Builds the model from its config, asking `weights` for every tensor.
    ///
    /// # Errors
    /// When a key or a tensor is missing, or they do not fit each other.
    pub fn build(family: Family, config: &Config, weights: &mut Weights, kv: DType) -> Result<Self, ModelError> {
        let tied = config.flag_or("tie_word_embeddings", false)?;
        let config = &config.text();
        let (sizes, pattern) = (Sizes::read(config)?, Pattern::read(config)?);
        let (hidden, vocab, layers) = (sizes.attention.hidden, config.size("vocab_size")?, pattern.full.len());
        // MLX's exports and GGUF files have the 1 added to norm weights already; MLX's convolutions are [channels, kernel, 1].
        let linear = pattern.full.iter().position(|full| !full);
        let conv = linear.and_then(|l| weights.shape_of(&format!("model.layers.{l}.linear_attn.conv1d.weight")));
        let mlx = conv.is_some_and(|shape| shape.last() == Some(&1) && shape.get(1) != Some(&1));
        let norms =
            Norms { eps: config.positive_or("rms_norm_eps", 1e-6)? as f32, plus_one: !mlx && !weights.are_gguf() };
        let router = Router {
            top_k: sizes.top_k,
            score: RouterScore::Softmax,
            renormalise: config.flag_or("norm_topk_prob", true)?,
        };

        weights.check_layers(layers)?;
        let embed_tokens = weights.matrix("model.embed_tokens.weight", vocab, hidden)?;
        let build_layer = |layer: usize| {
            let prefix = format!("model.layers.{layer}");
            let packed = family == Family::Qwen3Next;
            Ok(Layer {
                input_norm: norms.load(weights, &format!("{prefix}.input_layernorm.weight"), hidden)?,
                mixer: match pattern.full[layer] {
                    true => {
                        Mixer::Full(Attention::load(weights, &format!("{prefix}.self_attn"), sizes.attention, norms)?)
                    }
                    false => {
                        let name = format!("{prefix}.linear_attn");
                        Mixer::Linear(DeltaNet::load(weights, &name, sizes.delta, packed, norms.eps)?)
                    }
                },
                post_attention_norm: norms.load(
                    weights,
                    &format!("{prefix}.post_attention_layernorm.weight"),
                    hidden,
                )?,
                feed_forward: match pattern.sparse[layer] {
                    true => {
                        let of = sizes.experts_of(layer);
                        let shared = SharedExpert::load(weights, &of.prefix, hidden, sizes.shared_width)?;
                        FeedForward::Sparse(Moe::load(weights, &of, router, Some(shared))?)
                    }
                    false => {
                        FeedForward::Dense(mlp::load(weights, &format!("{prefix}.mlp"), hidden, sizes.dense_width)?)
                    }
                },
            })
        };
        let built: Vec<Layer> = (0..layers).map(build_layer).collect::<Result<_, ModelError>>()?;
        let norm = norms.load(weights, "model.norm.weight", hidden)?;
        let tied = tied || config.flag_or("tie_word_embeddings", false)?;
        let lm_head = if tied { embed_tokens.clone() } else { weights.matrix("lm_head.weight", vocab, hidden)? };
        let kv_of = |&full: &bool| full.then(|| sizes.attention.kv());
        let recurrent_of = |&full: &bool| (!full).then(|| sizes.delta.recurrent());
        Ok(Qwen35Moe {
            facts: Facts {
                family: if family == Family::Qwen3Next { "qwen3_next" } else { "qwen3_5_moe" },
                layers,
                hidden,
                vocab,
                context_max: config.size_or("max_position_embeddings", 32_768)?,
                top_k: sizes.top_k,
                pattern: pattern.letters(),
                legend: "D Gated DeltaNet and experts, A gated attention and experts; small letters: a dense MLP",
            },
            state_layout: StateLayout::new(
                &pattern.full.iter().map(kv_of).collect::<Vec<_>>(),
                pattern.full.iter().map(recurrent_of).collect(),
                kv,
            ),
            rope: rope::partial(config, sizes.attention.head_dim, 0.25, 10_000_000.0)?,
            sizes,
            embed_tokens,
            layers: built,
            norm,
            lm_head,
        })
    }
}

impl Model for Qwen35Moe {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn state_layout(&self) -> &StateLayout {
        &self.state_layout
    }

    fn workspace_bytes(&self, n: usize) -> usize {
        let Sizes { attention, delta, experts, top_k, shared_width, dense_width } = &self.sizes;
        let mixer = attention.workspace_bytes(n).max(delta.workspace_bytes(n));
        let sparse = Moe::workspace_bytes(n, experts, *top_k, *shared_width);
        let feed_forward = sparse.max(mlp::workspace_bytes(n, attention.hidden, *dense_width));
        Workspace::f32_bytes(n * attention.hidden) + mixer.max(feed_forward)
    }

    fn embed(&self, ops: &dyn Ops, batch: &Batch, x: &Tensor) {
        ops.embed(&self.embed_tokens, &batch.tokens, x); // [n, hidden]
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
        let inner = run.workspace.mark();

        run.ops.rms_norm(x, &layer.input_norm, &normed);
        match &layer.mixer {
            // x += delta_net
            Mixer::Linear(delta_net) => delta_net.forward(l, batch, states, &normed, x, run),
            // x += attention
            Mixer::Full(attention) => {
                attention.forward(l, &self.rope, &self.state_layout, batch, states, &normed, x, run);
            }
        }
        run.workspace.release(inner);

        run.ops.rms_norm(x, &layer.post_attention_norm, &normed);
        let done = layer.feed_forward.forward(batch, &normed, x, run); // x += shared + Σ weight · expert, or mlp
        run.workspace.release(mark);
        done
    }

    fn guess(&self, layer: usize, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, experts: &mut Vec<i32>) {
        let Layer { post_attention_norm, feed_forward, .. } = &self.layers[layer];
        feed_forward.guess(post_attention_norm, ops, workspace, x, experts);
    }

    fn head(&self, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, logits: &Tensor) {
        let mark = workspace.mark();
        let normed = workspace.f32([x.dim(0), self.facts.hidden]); // [m, hidden]
        ops.rms_norm(x, &self.norm, &normed);
        ops.linear(&normed, &self.lm_head, logits); // [m, vocab]
        workspace.release(mark);
    }
}
