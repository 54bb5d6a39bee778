//! The feed-forward halves of DeepSeek (DeepSeekMoE, arXiv 2401.06066; V2, 2405.04434; V3, 2412.19437), which GLM, Kimi, Ling
//! and others took over: MLPs in the first layers, then many small experts, chosen within groups, and shared ones beside.

use outpour_kernels::{Activation, Router, RouterGroups, RouterScore};

use super::feed_forward::FeedForward;
use super::mlp;
use super::moe::{Moe, SharedExpert, Sizes};
use crate::config::{Config, ModelError};
use crate::weights::{ExpertsOf, Weights};

/// How experts are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// By softmax; a group is as good as its best expert (V2).
    Softmax,
    /// By softmax, weights made to sum to 1; a group is as good as its two best experts (Mistral).
    SoftmaxShares,
    /// By sigmoid and a learnt bias; a group is as good as its two best experts (V3).
    SigmoidBiased,
}

/// What a family takes for keys that its config lacks: what its class in `transformers`, or its maker's own, takes.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// Layers with an MLP in place of experts: `first_k_dense_replace`.
    pub dense_layers: usize,
    /// Shared experts: `n_shared_experts`.
    pub shared_experts: usize,
    /// Groups of experts, and how many are kept: `n_group` and `topk_group`.
    pub groups: [usize; 2],
    /// What weights are multiplied with: `routed_scaling_factor`.
    pub scale: f64,
    /// Whether weights are made to sum to 1: `norm_topk_prob`.
    pub renormalise: bool,
}

impl Defaults {
    /// GLM-4.5's, which others share in part.
    pub const GLM: Defaults =
        Defaults { dense_layers: 1, shared_experts: 1, groups: [1, 1], scale: 1.0, renormalise: true };
    /// DeepSeek-V3's.
    pub const V3: Defaults = Defaults { dense_layers: 3, groups: [8, 4], scale: 2.5, ..Defaults::GLM };
}

/// What a config says of all layers.
pub struct DeepSeekMoe {
    hidden: usize,
    sizes: Sizes,
    /// Width of the shared experts together.
    pub shared_width: usize,
    dense_width: usize,
    /// How many of the first layers have an MLP in place of experts.
    pub dense_layers: usize,
    choice: Choice,
    router: Router,
    /// Of experts.
    pub activation: Activation,
    /// Of shared ones, where it is another.
    pub shared_activation: Option<Activation>,
    /// Of MLPs in place of experts.
    pub dense_activation: Activation,
    /// Module that a sparse layer's tensors lie under.
    pub module: &'static str,
    /// Name below it of the router.
    pub gate: &'static str,
    /// Of the router's learnt bias.
    pub bias: &'static str,
    /// Of the shared experts.
    pub shared: &'static str,
    /// Of gate, up and down of MLPs and shared experts.
    pub mlp_names: [&'static str; 3],
    /// Width of what experts read and write, where it is not the stream's.
    pub latent: Option<usize>,
}

impl DeepSeekMoe {
    /// Reads `n_routed_experts`, `num_experts_per_tok`, `moe_intermediate_size`, `n_shared_experts`, `first_k_dense_replace`,
    /// `intermediate_size`, `n_group`, `topk_group`, `norm_topk_prob` and `routed_scaling_factor`.
    ///
    /// # Errors
    /// When a key is missing, or they do not fit each other, or the config says of another choice of experts.
    pub fn read(config: &Config, choice: Choice, defaults: Defaults) -> Result<Self, ModelError> {
        config.only("hidden_act", "silu")?;
        let score = if choice == Choice::SigmoidBiased { "sigmoid" } else { "softmax" };
        for key in ["scoring_func", "score_function", "moe_router_activation_func"] {
            // dots.llm1 calls its score by the name of the method.
            let by_method = choice == Choice::SigmoidBiased && config.text_or(key, "")? == "noaux_tc";
            if !by_method {
                config.only(key, score)?;
            }
        }
        let grouped = match choice {
            // Without the other method groups make no difference, whatever the config says of them.
            Choice::Softmax => {
                config.never("norm_topk_prob")?;
                config.one_of("topk_method", &["greedy", "group_limited_greedy"])? == "group_limited_greedy"
            }
            Choice::SoftmaxShares => true,
            Choice::SigmoidBiased => config.only("topk_method", "noaux_tc").map(|()| true)?,
        };
        let every = if config.is_list("moe_layer_freq") { 1 } else { config.size_or("moe_layer_freq", 1)? };
        if every != 1 {
            return Err(ModelError::Config(format!(
                "moe_layer_freq is {every}, and 1 in every released model of this family"
            )));
        }
        let sizes =
            Sizes::read(config, &["n_routed_experts", "num_experts", "num_local_experts"], "moe_intermediate_size")?;
        let (score, best) = match choice {
            Choice::Softmax => (RouterScore::Softmax, 1),
            Choice::SoftmaxShares => (RouterScore::Softmax, 2),
            Choice::SigmoidBiased => (RouterScore::Sigmoid, 2),
        };
        let router = Router {
            groups: groups(config, &sizes, defaults.groups, best)?.filter(|_| grouped),
            renormalise: config
                .flag_or(config.spelling(&["norm_topk_prob", "moe_renormalize"]), defaults.renormalise)?,
            scale: config
                .positive_or(config.spelling(&["routed_scaling_factor", "router_scaling_factor"]), defaults.scale)?
                as f32,
            ..Router::new(sizes.top_k, score)
        };
        Ok(DeepSeekMoe {
            hidden: config.size("hidden_size")?,
            sizes,
            shared_width: config
                .count_or(config.spelling(&["n_shared_experts", "num_shared_experts"]), defaults.shared_experts)?
                * sizes.width,
            dense_width: config.size_or("intermediate_size", 1)?,
            dense_layers: dense_layers(config, defaults.dense_layers)?,
            choice,
            router,
            activation: Activation::SwiGlu,
            shared_activation: None,
            dense_activation: Activation::SwiGlu,
            module: "mlp",
            gate: "gate",
            bias: "gate.e_score_correction_bias",
            shared: "shared_experts",
            mlp_names: mlp::NAMES,
            latent: None,
        })
    }

    /// Loads the half of a layer whose tensors begin with `prefix`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(&self, layer: usize, prefix: &str, weights: &mut Weights) -> Result<FeedForward, ModelError> {
        if layer < self.dense_layers {
            let name = format!("{prefix}.mlp");
            let sizes = [self.hidden, self.dense_width];
            let mlp = mlp::load_named(weights, &name, self.mlp_names, sizes, self.dense_activation)?;
            return Ok(FeedForward::Dense(mlp));
        }
        let (prefix, hidden, Sizes { experts, width, .. }) =
            (format!("{prefix}.{}", self.module), self.hidden, self.sizes);
        let gate = weights.matrix(&format!("{prefix}.{}.weight", self.gate), experts, hidden)?;
        let bias = match self.choice {
            Choice::Softmax | Choice::SoftmaxShares => None,
            Choice::SigmoidBiased => Some(weights.vector(&format!("{prefix}.{}", self.bias), experts)?),
        };
        let shared = match self.shared_width {
            0 => None,
            width => {
                let activation = self.shared_activation.unwrap_or(self.activation);
                let name = format!("{prefix}.{}", self.shared);
                let mlp = mlp::load_named(weights, &name, self.mlp_names, [hidden, width], activation)?;
                Some(SharedExpert::ungated(mlp))
            }
        };
        let mut latent = |latent: usize| -> Result<_, ModelError> {
            let name = |part: &str| format!("{prefix}.{part}_latent_proj.weight");
            Ok([weights.matrix(&name("fc1"), latent, hidden)?, weights.matrix(&name("fc2"), hidden, latent)?])
        };
        let projections = self.latent.map(&mut latent).transpose()?;
        let hidden = self.latent.unwrap_or(hidden);
        let of = ExpertsOf { layer, prefix, experts, hidden, width, activation: self.activation, transposed: None };
        let moe = Moe::load(weights, &of, gate, Router { bias, ..self.router.clone() }, shared)?;
        Ok(FeedForward::Sparse(moe.latent(projections)))
    }
}

/// How many layers have an MLP in place of experts: the first ones that `mlp_layer_types` calls `dense`, or that a list
/// `moe_layer_freq` has a 0 for, or `first_k_dense_replace`, or `default`.
///
/// # Errors
/// When a key has another value.
pub fn dense_layers(config: &Config, default: usize) -> Result<usize, ModelError> {
    let Some(types) = config.texts("mlp_layer_types")? else {
        if config.is_list("moe_layer_freq") {
            let sparse = config.layers("moe_layer_freq")?;
            let dense = sparse.iter().take_while(|sparse| **sparse == 0).count();
            return match sparse[dense..].contains(&0) {
                false => Ok(dense),
                true => Err(ModelError::Config(
                    "moe_layer_freq has a 0 behind the first layers; supported are some that are dense, and then sparse ones".into(),
                )),
            };
        }
        return config.count_or("first_k_dense_replace", default);
    };
    let dense = types.iter().take_while(|kind| **kind == "dense").count();
    match types[dense..].iter().find(|kind| **kind != "sparse") {
        None => Ok(dense),
        Some(kind) => Err(ModelError::Config(format!(
            "mlp_layer_types has {kind:?} behind the first layers; supported are some that are dense, and then sparse ones"
        ))),
    }
}

/// The groups that experts are chosen within, where there are more than are kept.
fn groups(
    config: &Config,
    sizes: &Sizes,
    [count, keep]: [usize; 2],
    best: usize,
) -> Result<Option<RouterGroups>, ModelError> {
    let count = config.size_or(config.spelling(&["n_group", "num_expert_group"]), count)?;
    let keep = config.size_or("topk_group", keep)?;
    let Sizes { experts, top_k, .. } = *sizes;
    if !experts.is_multiple_of(count) || keep > count || top_k > experts / count * keep {
        return Err(ModelError::Config(format!(
            "n_group {count} and topk_group {keep} do not divide {experts} experts so that {top_k} can be chosen; download it again"
        )));
    }
    Ok((count > keep).then_some(RouterGroups { count, keep, best }))
}
