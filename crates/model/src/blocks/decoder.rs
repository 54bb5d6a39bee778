//! The decoder that most families are: layers of two halves, each behind a norm and added to the residual stream.

use outpour_kernels::{DType, Matrix, Ops, RmsNorm, Tensor};
use outpour_store::StoreError;

use super::feed_forward::FeedForward;
use super::mixer::{At, Mixer};
use crate::config::{Config, ModelError};
use crate::weights::{Norms, Weights};
use crate::{Batch, Facts, Model, Run, State, StateLayout, Workspace};

/// The model with its weights.
pub struct Decoder {
    facts: Facts,
    state_layout: StateLayout,
    embed_tokens: Matrix, // [vocab, hidden]
    layers: Vec<Layer>,
    norm: RmsNorm,   // [hidden]
    lm_head: Matrix, // [vocab, hidden]
}

struct Layer {
    input_norm: RmsNorm, // [hidden]
    mixer: Box<dyn Mixer>,
    post_attention_norm: RmsNorm, // [hidden]
    feed_forward: FeedForward,
    alphas: Option<[f32; 2]>,
}

/// What is before and behind the layers.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Name of the embedding.
    pub embedding: &'static str,
    /// Whether the head is the embedding.
    pub tied: bool,
}

impl Ends {
    /// Those of most families: `model.embed_tokens`, and a head of its own but for `tie_word_embeddings`.
    ///
    /// # Errors
    /// When the key has the wrong type.
    pub fn read(config: &Config) -> Result<Self, ModelError> {
        let tied = config.flag_or("tie_word_embeddings", false)?;
        Ok(Ends { embedding: "model.embed_tokens.weight", tied })
    }
}

/// A layer's halves.
pub struct Halves {
    /// Attention, or a recurrence.
    pub mixer: Box<dyn Mixer>,
    /// Experts, or an MLP.
    pub feed_forward: FeedForward,
    /// Where each half is added to its own normed input, times such a factor, and not to the stream as it came (MiniMax-01).
    pub alphas: Option<[f32; 2]>,
}

impl Decoder {
    /// Loads embedding, norms and head under `model.` and `lm_head`; `halves` loads the halves of a layer, whose tensors begin
    /// with the prefix it is given, `model.layers.N`.
    ///
    /// # Errors
    /// When a key or a tensor is missing, or they do not fit each other.
    pub fn load(
        family: &'static str,
        config: &Config,
        weights: &mut Weights,
        kv: DType,
        norms: Norms,
        halves: impl FnMut(usize, &str, &mut Weights) -> Result<Halves, ModelError>,
    ) -> Result<Self, ModelError> {
        Self::load_between(family, Ends::read(config)?, config, weights, kv, norms, halves)
    }

    /// The same between such ends: the config of a multimodal model, which wraps this one, may have said more of them.
    ///
    /// # Errors
    /// As [`Self::load`].
    #[allow(clippy::too_many_arguments)]
    pub fn load_between(
        family: &'static str,
        Ends { embedding, tied }: Ends,
        config: &Config,
        weights: &mut Weights,
        kv: DType,
        norms: Norms,
        mut halves: impl FnMut(usize, &str, &mut Weights) -> Result<Halves, ModelError>,
    ) -> Result<Self, ModelError> {
        let layers = config.size("num_hidden_layers")?;
        let (hidden, vocab) = (config.size("hidden_size")?, config.size("vocab_size")?);
        // Layers beyond those, if any, predict further tokens, and are not read.
        weights.check_layers(layers + config.count_or("num_nextn_predict_layers", 0)?)?;
        let embed_tokens = weights.matrix(embedding, vocab, hidden)?;
        let load_layer = |layer: usize| {
            let prefix = format!("model.layers.{layer}");
            let input_norm = norms.load(weights, &format!("{prefix}.input_layernorm.weight"), hidden)?;
            let Halves { mixer, feed_forward, alphas } = halves(layer, &prefix, weights)?;
            let post_attention_norm =
                norms.load(weights, &format!("{prefix}.post_attention_layernorm.weight"), hidden)?;
            Ok(Layer { input_norm, mixer, post_attention_norm, feed_forward, alphas })
        };
        let built: Vec<Layer> = (0..layers).map(load_layer).collect::<Result<_, ModelError>>()?;
        let norm = norms.load(weights, "model.norm.weight", hidden)?;
        let lm_head = if tied { embed_tokens.clone() } else { weights.matrix("lm_head.weight", vocab, hidden)? };
        let kv_widths: Vec<_> = built.iter().map(|layer| layer.mixer.kv()).collect();
        let recurrent = built.iter().map(|layer| layer.mixer.recurrent()).collect();
        Ok(Decoder {
            facts: Facts {
                family,
                layers,
                hidden,
                streams: 1,
                carried: built.iter().map(|layer| layer.mixer.carried()).max().unwrap_or(0),
                vocab,
                context_max: config
                    .size_or(config.spelling(&["max_position_embeddings", "model_max_length"]), 32_768)?,
                top_k: built.iter().filter_map(|layer| layer.feed_forward.top_k()).max().unwrap_or(0),
                pattern: built.iter().map(Layer::letter).collect(),
                legend: legend(&built),
            },
            state_layout: StateLayout::new(&kv_widths, recurrent, kv),
            embed_tokens,
            layers: built,
            norm,
            lm_head,
        })
    }
}

impl Layer {
    /// `x = alpha · normed`, where the half is added to that.
    fn restart(&self, half: usize, normed: &Tensor, x: &Tensor, ops: &dyn Ops) {
        if let Some(alphas) = self.alphas {
            ops.copy(normed, x);
            ops.scale(x, alphas[half], None);
        }
    }

    /// The mixer's letter: a capital with experts, a small one with an MLP.
    fn letter(&self) -> char {
        let (letter, _) = self.mixer.letter();
        if self.feed_forward.top_k().is_some() { letter } else { letter.to_ascii_lowercase() }
    }
}

/// What the letters of a pattern mean.
fn legend(layers: &[Layer]) -> String {
    let mut letters: Vec<(char, &str)> = layers.iter().map(|layer| layer.mixer.letter()).collect();
    letters.sort_unstable();
    letters.dedup();
    let mut parts: Vec<String> = letters.iter().map(|(letter, what)| format!("{letter} {what}")).collect();
    parts.push("capitals: experts, small letters: a dense MLP".into());
    parts.join(", ")
}

impl Model for Decoder {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn state_layout(&self) -> &StateLayout {
        &self.state_layout
    }

    fn workspace_bytes(&self, n: usize) -> usize {
        let of_layer = |layer: &Layer| layer.mixer.workspace_bytes(n).max(layer.feed_forward.workspace_bytes(n));
        Workspace::f32_bytes(n * self.facts.hidden) + self.layers.iter().map(of_layer).max().unwrap_or(0)
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
        layer.restart(0, &normed, x, run.ops);
        let at = At { layer: l, layout: &self.state_layout, batch, states };
        layer.mixer.forward(&at, &normed, x, run); // x += attention
        run.workspace.release(inner);

        run.ops.rms_norm(x, &layer.post_attention_norm, &normed);
        layer.restart(1, &normed, x, run.ops);
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
