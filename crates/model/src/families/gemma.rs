//! Gemma 3 (dense, 1B to 27B) and Gemma 4 (26B-A4B, and the dense 31B): five layers within a window to one of full attention, a
//! norm before and behind each half, the embedding scaled by √hidden (arXiv 2503.19786; `transformers` `modeling_gemma3.py`,
//! `modeling_gemma4.py`). Gemma 4 has in each sparse layer an MLP and experts side by side; its full layers have wider heads,
//! values that are what their keys are, and a quarter of their pairs turned. Images and sounds are not read.

use outpour_kernels::{Activation, DType, Matrix, Mlp, Ops, RmsNorm, Rope, Router, RouterScore, Tensor};
use outpour_store::StoreError;

use crate::blocks::attention::{Attention, Kind, QkNorm, Sizes};
use crate::blocks::mixer::{At, Mixer};
use crate::blocks::moe::{self, Moe};
use crate::blocks::{mlp, rope};
use crate::config::{Config, ModelError};
use crate::weights::{ExpertsOf, Norms, Weights};
use crate::{Batch, Facts, Model, Run, State, StateLayout, Workspace};

/// The model with its weights.
pub struct Gemma {
    facts: Facts,
    state_layout: StateLayout,
    embed_tokens: Matrix, // [vocab, hidden]: the head too
    layers: Vec<Layer>,
    norm: RmsNorm, // [hidden]
    softcap: Option<f32>,
}

struct Layer {
    input_norm: RmsNorm, // [hidden], as all norms here
    attention: Attention,
    post_attention_norm: RmsNorm,
    pre_feedforward_norm: RmsNorm,
    mlp: Mlp,
    sparse: Option<Sparse>,
    post_feedforward_norm: RmsNorm,
    scalar: Option<Tensor>, // [1]
}

/// Experts beside the MLP.
struct Sparse {
    router_norm: RmsNorm,
    pre_norm: RmsNorm,
    moe: Moe,
    post_norm: RmsNorm,
    mlp_post_norm: RmsNorm,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Norms stored as their distance from 1.
    Gemma3,
    /// Norms as they are, experts, two widths of heads.
    Gemma4,
}

/// Attention of a kind of layer.
struct Attends {
    sizes: Sizes,
    kind: Kind,
}

impl Gemma {
    /// Builds the model from its config, asking `weights` for every tensor.
    ///
    /// # Errors
    /// When a key or a tensor is missing, or they do not fit each other.
    pub fn build(family: Family, config: &Config, weights: &mut Weights, kv: DType) -> Result<Self, ModelError> {
        let config = &config.text();
        config.only("hidden_activation", "gelu_pytorch_tanh")?;
        config.never("attention_bias")?;
        for key in ["hidden_size_per_layer_input", "num_kv_shared_layers"] {
            if config.count_or(key, 0)? > 0 {
                return Err(ModelError::Config(format!("{key} is not 0: the small Gemma 4 models are not supported")));
            }
        }
        let (hidden, layers) = (config.size("hidden_size")?, config.size("num_hidden_layers")?);
        let vocab = config.size_or("vocab_size", 262_208)?;
        let every = config.size_or("sliding_window_pattern", 6)?;
        let is_full = config.layer_types("sliding_attention", |layer| (layer + 1).is_multiple_of(every))?;
        let (full, windowed) = attends(family, config)?;
        let eps = config.positive_or("rms_norm_eps", 1e-6)? as f32;
        let norms = Norms { eps, plus_one: family == Family::Gemma3 };
        let width = config.size("intermediate_size")?;
        let sparse = match config.flag_or("enable_moe_block", false)? {
            true => Some(moe::Sizes::read(config, &["num_experts"], "moe_intermediate_size")?),
            false => None,
        };

        weights.check_layers(layers)?;
        let embed_tokens = weights.matrix("model.embed_tokens.weight", vocab, hidden)?;
        let build_layer = |layer: usize| {
            let prefix = format!("model.layers.{layer}");
            let Attends { sizes, kind } = if is_full[layer] { &full } else { &windowed };
            let name = |part: &str| format!("{prefix}.{part}.weight");
            Ok(Layer {
                input_norm: norms.load(weights, &name("input_layernorm"), hidden)?,
                attention: Attention::load(weights, &format!("{prefix}.self_attn"), *sizes, kind, norms)?,
                post_attention_norm: norms.load(weights, &name("post_attention_layernorm"), hidden)?,
                pre_feedforward_norm: norms.load(weights, &name("pre_feedforward_layernorm"), hidden)?,
                mlp: mlp::load_with(weights, &format!("{prefix}.mlp"), hidden, width, Activation::GeGlu)?,
                sparse: sparse.map(|sizes| Sparse::load(weights, layer, hidden, sizes, norms)).transpose()?,
                post_feedforward_norm: norms.load(weights, &name("post_feedforward_layernorm"), hidden)?,
                scalar: match family {
                    Family::Gemma3 => None,
                    Family::Gemma4 => Some(weights.vector(&format!("{prefix}.layer_scalar"), 1)?),
                },
            })
        };
        let built: Vec<Layer> = (0..layers).map(build_layer).collect::<Result<_, ModelError>>()?;
        let softcap = config.float_or("final_logit_softcapping", 0.0)? as f32;
        let kv_widths: Vec<_> = built.iter().map(|layer| layer.attention.kv()).collect();
        let sparse = sparse.is_some();
        let letter = |full: &bool| if *full { 'A' } else { 'W' };
        let letters = is_full.iter().map(letter);
        Ok(Gemma {
            facts: Facts {
                family: if family == Family::Gemma3 { "gemma3" } else { "gemma4" },
                layers,
                hidden,
                streams: 1,
                carried: 0,
                vocab,
                context_max: config.size_or("max_position_embeddings", 131_072)?,
                top_k: built.iter().filter_map(|layer| Some(layer.sparse.as_ref()?.moe.top_k())).max().unwrap_or(0),
                pattern: letters.map(|letter| if sparse { letter } else { letter.to_ascii_lowercase() }).collect(),
                legend: "A attention, W attention within a window, capitals: an MLP and experts, small letters: an MLP"
                    .into(),
            },
            state_layout: StateLayout::new(&kv_widths, Vec::new(), kv),
            embed_tokens,
            layers: built,
            norm: norms.load(weights, "model.norm.weight", hidden)?,
            softcap: (softcap > 0.0).then_some(softcap),
        })
    }
}

/// Attention of full layers, and of those within a window.
fn attends(family: Family, config: &Config) -> Result<(Attends, Attends), ModelError> {
    let sizes = Sizes::read_or(config, [8, 4, 256])?;
    let window = config.size_or("sliding_window", 512)?;
    let kind = |rope: Rope| Kind { qk_norm: QkNorm::PerHead, ..Kind::plain(rope) };
    if family == Family::Gemma3 {
        let scale = Some((config.positive_or("query_pre_attn_scalar", 256.0)? as f32).powf(-0.5));
        let local_theta = config.positive_or("rope_local_base_freq", 10_000.0)?;
        let full = Kind { scale, ..kind(rope::plain(config, sizes.head_dim, 1_000_000.0)?) };
        let windowed = Kind { scale, window: Some(window), ..kind(rope::unscaled(sizes.head_dim, local_theta)) };
        return Ok((Attends { sizes, kind: full }, Attends { sizes, kind: windowed }));
    }
    let k_is_v = config.flag_or("attention_k_eq_v", false)?;
    let kv_heads = if k_is_v { config.size_or("num_global_key_value_heads", sizes.kv_heads)? } else { sizes.kv_heads };
    let full_sizes = Sizes { kv_heads, head_dim: config.size_or("global_head_dim", 512)?, ..sizes };
    full_sizes.check()?;
    let parameters = config.part("rope_parameters")?;
    let rope_of = |layers: &str, head_dim: usize, theta: f64| {
        let settings = parameters.part(layers)?;
        rope::scaled(config, &settings, head_dim, settings.positive_or("rope_theta", theta)?)
    };
    let scale = Some(1.0);
    let full =
        Kind { scale, v_norm: true, v_from_k: k_is_v, ..kind(rope_of("full_attention", full_sizes.head_dim, 1e6)?) };
    let local = kind(rope_of("sliding_attention", sizes.head_dim, 1e4)?);
    let windowed = Kind { scale, v_norm: true, window: Some(window), ..local };
    Ok((Attends { sizes: full_sizes, kind: full }, Attends { sizes, kind: windowed }))
}

impl Sparse {
    fn load(
        weights: &mut Weights,
        layer: usize,
        hidden: usize,
        sizes: moe::Sizes,
        norms: Norms,
    ) -> Result<Self, ModelError> {
        let prefix = format!("model.layers.{layer}");
        let moe::Sizes { experts, top_k, width } = sizes;
        let gate = weights.matrix(&format!("{prefix}.router.proj.weight"), experts, hidden)?;
        let router = Router {
            renormalise: true,
            expert_scale: Some(weights.vector(&format!("{prefix}.router.per_expert_scale"), experts)?),
            ..Router::new(top_k, RouterScore::Softmax)
        };
        let of = ExpertsOf { layer, prefix: prefix.clone(), experts, hidden, width, activation: Activation::GeGlu };
        let mut norm = |part: &str| norms.load(weights, &format!("{prefix}.{part}"), hidden);
        Ok(Sparse {
            router_norm: norm("router.scale")?,
            pre_norm: norm("pre_feedforward_layernorm_2.weight")?,
            post_norm: norm("post_feedforward_layernorm_2.weight")?,
            mlp_post_norm: norm("post_feedforward_layernorm_1.weight")?,
            moe: Moe::load(weights, &of, gate, router, None)?.scaled((hidden as f32).powf(-0.5)),
        })
    }

    /// `out = norm(out) + norm(Σ weight · expert(norm(x)))`, where out is the MLP's; x and out `[n, hidden]`.
    fn forward(&self, batch: &Batch, x: &Tensor, out: &Tensor, run: &mut Run) -> Result<(), StoreError> {
        let shape = [x.dim(0), x.dim(1)];
        let [router_x, normed, sum] = [(); 3].map(|()| run.workspace.f32(shape));
        run.ops.rms_norm(out, &self.mlp_post_norm, out);
        run.ops.rms_norm(x, &self.router_norm, &router_x);
        run.ops.rms_norm(x, &self.pre_norm, &normed);
        run.ops.zero(&sum);
        self.moe.forward_routed(batch, &router_x, &normed, &sum, run)?;
        run.ops.rms_norm(&sum, &self.post_norm, &sum);
        run.ops.add(&sum, out);
        Ok(())
    }
}

impl Layer {
    fn workspace_bytes(&self, n: usize, hidden: usize) -> usize {
        let rows = Workspace::f32_bytes(n * hidden);
        let sparse = self.sparse.as_ref().map_or(0, |sparse| 3 * rows + sparse.moe.workspace_bytes(n));
        self.attention.workspace_bytes(n).max(mlp::workspace_bytes(n, hidden, self.mlp.width()) + sparse)
    }
}

impl Model for Gemma {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn state_layout(&self) -> &StateLayout {
        &self.state_layout
    }

    fn workspace_bytes(&self, n: usize) -> usize {
        let hidden = self.facts.hidden;
        let of_layer = |layer: &Layer| layer.workspace_bytes(n, hidden);
        Workspace::f32_bytes(n * hidden) + self.layers.iter().map(of_layer).max().unwrap_or(0)
    }

    fn embedding(&self) -> &Matrix {
        &self.embed_tokens
    }

    fn embed(&self, ops: &dyn Ops, table: &Matrix, tokens: &[u32], x: &Tensor) {
        ops.embed(table, tokens, x); // [n, hidden]
        ops.scale(x, (self.facts.hidden as f32).sqrt(), None);
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
        let at = At { layer: l, layout: &self.state_layout, batch, states };
        let out = layer.attention.apply(&at, &normed, run); // [n, hidden]
        run.ops.rms_norm(&out, &layer.post_attention_norm, &out);
        run.ops.add(&out, x);
        run.workspace.release(inner);

        run.ops.rms_norm(x, &layer.pre_feedforward_norm, &normed);
        let out = mlp::apply(&layer.mlp, &normed, run); // [n, hidden]
        let done = match &layer.sparse {
            Some(sparse) => sparse.forward(batch, x, &out, run), // out = norm(mlp) + norm(Σ weight · expert)
            None => Ok(()),
        };
        run.ops.rms_norm(&out, &layer.post_feedforward_norm, &out);
        run.ops.add(&out, x);
        if let Some(scalar) = &layer.scalar {
            run.ops.scale(x, 1.0, Some(scalar));
        }
        run.workspace.release(mark);
        done
    }

    fn guess(&self, layer: usize, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, experts: &mut Vec<i32>) {
        match &self.layers[layer].sparse {
            Some(sparse) => sparse.moe.guess(&sparse.router_norm, ops, workspace, x, experts),
            None => experts.clear(),
        }
    }

    fn head(&self, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, logits: &Tensor) {
        let mark = workspace.mark();
        let normed = workspace.f32([x.dim(0), self.facts.hidden]); // [m, hidden]
        ops.rms_norm(x, &self.norm, &normed);
        ops.linear(&normed, &self.embed_tokens, logits); // [m, vocab]
        if let Some(cap) = self.softcap {
            ops.softcap(logits, cap);
        }
        workspace.release(mark);
    }
}
