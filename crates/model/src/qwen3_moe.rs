//! Qwen3-MoE (Qwen3-30B-A3B, Qwen3-235B-A22B, Qwen3-Coder): grouped-query attention with per-head norms, RoPE, and 128
//! experts of which a softmax router picks 8 (arXiv 2505.09388; `transformers` `modeling_qwen3_moe.py`).

use outpour_kernels::{Activation, DType, Matrix, Ops, RmsNorm, Rope, Router, RouterScore, Tensor};
use outpour_store::StoreError;

use crate::blocks::attention::{Attention, Sizes};
use crate::blocks::feed_forward::FeedForward;
use crate::blocks::moe::Moe;
use crate::blocks::{mlp, rope};
use crate::config::{Config, ModelError};
use crate::weights::{ExpertsOf, Norms, Weights};
use crate::{Batch, Facts, Model, Run, State, StateLayout, Workspace};

/// The model with its weights.
pub struct Qwen3Moe {
    facts: Facts,
    state_layout: StateLayout,
    workspace: LayerWorkspace,
    rope: Rope,
    embed_tokens: Matrix, // [vocab, hidden]
    layers: Vec<Layer>,
    norm: RmsNorm,   // [hidden]
    lm_head: Matrix, // [vocab, hidden]
}

struct Layer {
    input_norm: RmsNorm, // [hidden]
    attention: Attention,
    post_attention_norm: RmsNorm, // [hidden]
    feed_forward: FeedForward,
}

/// What sizes the workspace of a layer.
struct LayerWorkspace {
    attention: Sizes,
    dense_width: usize,
    experts: ExpertsOf,
    top_k: usize,
}

impl Qwen3Moe {
    /// Builds the model from its config, asking `weights` for every tensor.
    ///
    /// # Errors
    /// When a key or a tensor is missing, or they do not fit each other.
    pub fn build(config: &Config, weights: &mut Weights, kv: DType) -> Result<Self, ModelError> {
        let hidden = config.size("hidden_size")?;
        let layers = config.size("num_hidden_layers")?;
        let vocab = config.size("vocab_size")?;
        let heads = config.size("num_attention_heads")?;
        let kv_heads = config.size_or("num_key_value_heads", heads)?;
        let head_dim = config.size_or("head_dim", hidden / heads)?;
        let experts = config.size_of(&["num_experts", "num_local_experts"])?;
        let top_k = config.size("num_experts_per_tok")?;
        let dense_width = config.size_or("intermediate_size", 1)?;
        let eps = config.positive_or("rms_norm_eps", 1e-6)? as f32;
        let sizes = Sizes { hidden, heads, kv_heads, head_dim, gated: false };
        check(config, &sizes, experts, top_k)?;

        let norms = Norms { eps, plus_one: false };
        let router =
            Router { top_k, score: RouterScore::Softmax, renormalise: config.flag_or("norm_topk_prob", false)? };
        let width = config.size("moe_intermediate_size")?;
        let experts_of = |layer| {
            let prefix = format!("model.layers.{layer}.mlp");
            ExpertsOf { layer, prefix, experts, hidden, width, activation: Activation::SwiGlu }
        };
        let mlp_only = config.layers("mlp_only_layers")?;
        let sparse_step = config.size_or("decoder_sparse_step", 1)?;
        let is_sparse = |layer: usize| !mlp_only.contains(&layer) && (layer + 1).is_multiple_of(sparse_step);

        weights.check_layers(layers)?;
        let embed_tokens = weights.matrix("model.embed_tokens.weight", vocab, hidden)?;
        let mut build_layer = |layer: usize| -> Result<Layer, ModelError> {
            let prefix = format!("model.layers.{layer}");
            Ok(Layer {
                input_norm: norms.load(weights, &format!("{prefix}.input_layernorm.weight"), hidden)?,
                attention: Attention::load(weights, &format!("{prefix}.self_attn"), sizes, norms)?,
                post_attention_norm: norms.load(
                    weights,
                    &format!("{prefix}.post_attention_layernorm.weight"),
                    hidden,
                )?,
                feed_forward: match is_sparse(layer) {
                    true => FeedForward::Sparse(Moe::load(weights, &experts_of(layer), router, None)?),
                    false => FeedForward::Dense(mlp::load(weights, &format!("{prefix}.mlp"), hidden, dense_width)?),
                },
            })
        };
        let built: Vec<Layer> = (0..layers).map(&mut build_layer).collect::<Result<_, _>>()?;
        let norm = norms.load(weights, "model.norm.weight", hidden)?;
        let tied = config.flag_or("tie_word_embeddings", false)?;
        let lm_head = if tied { embed_tokens.clone() } else { weights.matrix("lm_head.weight", vocab, hidden)? };
        Ok(Qwen3Moe {
            facts: Facts {
                family: "qwen3_moe",
                layers,
                hidden,
                vocab,
                context_max: config.size_or("max_position_embeddings", 32_768)?,
                top_k,
                pattern: (0..layers).map(|layer| if is_sparse(layer) { 'A' } else { 'a' }).collect(),
                legend: "A attention and experts, a attention and a dense MLP",
            },
            state_layout: StateLayout::new(&vec![Some(sizes.kv()); layers], Vec::new(), kv),
            workspace: LayerWorkspace { attention: sizes, dense_width, experts: experts_of(0), top_k },
            rope: rope::plain(config, head_dim, 10_000.0)?,
            embed_tokens,
            layers: built,
            norm,
            lm_head,
        })
    }
}

/// What a config of this family must fulfil.
fn check(config: &Config, sizes: &Sizes, experts: usize, top_k: usize) -> Result<(), ModelError> {
    sizes.check()?;
    let problem = if top_k > experts {
        format!("num_experts_per_tok {top_k} is more than num_experts {experts}; download it again")
    } else if config.text_or("hidden_act", "silu")? != "silu" {
        format!("hidden_act {:?} is not this family's silu", config.text_or("hidden_act", "silu")?)
    } else if config.flag_or("attention_bias", false)? {
        "attention_bias is true, which no released model of this family has".into()
    } else if config.flag_or("use_sliding_window", false)? {
        "use_sliding_window is true, which no released model of this family has".into()
    } else {
        return Ok(());
    };
    Err(ModelError::Config(problem))
}

impl Model for Qwen3Moe {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn state_layout(&self) -> &StateLayout {
        &self.state_layout
    }

    fn workspace_bytes(&self, n: usize) -> usize {
        let LayerWorkspace { attention, dense_width, experts, top_k } = &self.workspace;
        let sparse = Moe::workspace_bytes(n, experts, *top_k, 0);
        let feed_forward = sparse.max(mlp::workspace_bytes(n, attention.hidden, *dense_width));
        Workspace::f32_bytes(n * attention.hidden) + attention.workspace_bytes(n).max(feed_forward)
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
        layer.attention.forward(l, &self.rope, &self.state_layout, batch, states, &normed, x, run); // x += attention
        run.workspace.release(inner);

        run.ops.rms_norm(x, &layer.post_attention_norm, &normed);
        let done = layer.feed_forward.forward(batch, &normed, x, run); // x += Σ weight · expert, or mlp
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
