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
    parts: Parts,
}

/// What a decoder is made of.
pub struct Parts {
    /// `[vocab, hidden]`.
    pub embedding: Matrix,
    /// Its layers.
    pub layers: Vec<Layer>,
    /// Behind the layers: `[hidden]`.
    pub norm: RmsNorm,
    /// `[vocab, hidden]`.
    pub lm_head: Matrix,
}

/// A layer: mostly two halves.
pub struct Layer(pub Vec<Half>);

/// Something behind a norm, whose output is added to the residual stream.
pub struct Half {
    /// `[hidden]`.
    pub norm: RmsNorm,
    /// What is behind the norm.
    pub inner: Inner,
    /// Where its output is added to its own normed input, times such a factor, and not to the stream as it came (MiniMax-01).
    pub alpha: Option<f32>,
}

/// What a half is.
pub enum Inner {
    /// Attention, or a recurrence.
    Mixer(Box<dyn Mixer>),
    /// Experts, or an MLP.
    FeedForward(FeedForward),
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
        let embedding = match tied {
            true => weights.matrix(embedding, vocab, hidden)?,
            false => weights.embedding(embedding, vocab, hidden)?,
        };
        let load_layer = |layer: usize| {
            let prefix = format!("model.layers.{layer}");
            let input_norm = norms.load(weights, &format!("{prefix}.input_layernorm.weight"), hidden)?;
            let Halves { mixer, feed_forward, alphas } = halves(layer, &prefix, weights)?;
            let norm = norms.load(weights, &format!("{prefix}.post_attention_layernorm.weight"), hidden)?;
            let alpha = |half: usize| alphas.map(|alphas| alphas[half]);
            let mixer = Half { norm: input_norm, inner: Inner::Mixer(mixer), alpha: alpha(0) };
            Ok(Layer(vec![mixer, Half { norm, inner: Inner::FeedForward(feed_forward), alpha: alpha(1) }]))
        };
        let layers: Vec<Layer> = (0..layers).map(load_layer).collect::<Result<_, ModelError>>()?;
        let norm = norms.load(weights, "model.norm.weight", hidden)?;
        let lm_head = if tied { embedding.clone() } else { weights.matrix("lm_head.weight", vocab, hidden)? };
        let context = config.spelling(&["max_position_embeddings", "model_max_length"]);
        let said = Said {
            family,
            context_max: config.size_or(context, 32_768)?,
            pattern: layers.iter().map(Layer::letter).collect(),
            legend: legend(&layers),
        };
        Ok(Self::new(Parts { embedding, layers, norm, lm_head }, said, kv))
    }

    /// A decoder of these parts, which keeps keys and values in the type given.
    pub fn new(parts: Parts, said: Said, kv: DType) -> Self {
        let (layers, Said { family, context_max, pattern, legend }) = (&parts.layers, said);
        let kv_widths: Vec<_> = layers.iter().map(|layer| layer.mixer().map(Mixer::kv).unwrap_or_default()).collect();
        let recurrent = layers.iter().map(|layer| layer.mixer()?.recurrent()).collect();
        let mixers = layers.iter().filter_map(Layer::mixer);
        Decoder {
            facts: Facts {
                family,
                layers: layers.len(),
                hidden: parts.embedding.cols(),
                streams: 1,
                carried: mixers.map(Mixer::carried).max().unwrap_or(0),
                vocab: parts.embedding.rows(),
                context_max,
                top_k: layers.iter().filter_map(Layer::top_k).max().unwrap_or(0),
                pattern,
                legend,
            },
            state_layout: StateLayout::new(&kv_widths, recurrent, kv),
            parts,
        }
    }
}

/// What is said of a decoder, of [`Facts`].
pub struct Said {
    /// The family.
    pub family: &'static str,
    /// Longest context.
    pub context_max: usize,
    /// A letter a layer.
    pub pattern: String,
    /// What the letters mean.
    pub legend: String,
}

impl Half {
    fn workspace_bytes(&self, n: usize) -> usize {
        match &self.inner {
            Inner::Mixer(mixer) => mixer.workspace_bytes(n),
            Inner::FeedForward(feed_forward) => feed_forward.workspace_bytes(n),
        }
    }
}

impl Layer {
    fn mixer(&self) -> Option<&dyn Mixer> {
        self.0.iter().find_map(|half| match &half.inner {
            Inner::Mixer(mixer) => Some(&**mixer),
            Inner::FeedForward(_) => None,
        })
    }

    /// Its experts or MLP, and the norm before them.
    fn feed_forward(&self) -> Option<(&RmsNorm, &FeedForward)> {
        self.0.iter().find_map(|half| match &half.inner {
            Inner::Mixer(_) => None,
            Inner::FeedForward(feed_forward) => Some((&half.norm, feed_forward)),
        })
    }

    fn top_k(&self) -> Option<usize> {
        self.feed_forward()?.1.top_k()
    }

    /// The mixer's letter: a capital with experts, a small one with an MLP.
    fn letter(&self) -> char {
        let letter = self.mixer().map_or('-', |mixer| mixer.letter().0);
        if self.top_k().is_some() { letter } else { letter.to_ascii_lowercase() }
    }
}

/// What the letters of a pattern mean.
fn legend(layers: &[Layer]) -> String {
    let mut letters: Vec<(char, &str)> = layers.iter().filter_map(Layer::mixer).map(Mixer::letter).collect();
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
        let halves = self.parts.layers.iter().flat_map(|layer| &layer.0);
        Workspace::f32_bytes(n * self.facts.hidden) + halves.map(|half| half.workspace_bytes(n)).max().unwrap_or(0)
    }

    fn embedding(&self) -> &Matrix {
        &self.parts.embedding
    }

    fn embed(&self, ops: &dyn Ops, table: &Matrix, tokens: &[u32], x: &Tensor) {
        ops.embed(table, tokens, x); // [n, hidden]
    }

    fn layer(
        &self,
        l: usize,
        batch: &Batch,
        states: &mut [State],
        x: &Tensor,
        run: &mut Run<'_>,
    ) -> Result<(), StoreError> {
        let mark = run.workspace.mark();
        let normed = run.workspace.f32([batch.len(), self.facts.hidden]); // [n, hidden]
        let inner = run.workspace.mark();
        for half in &self.parts.layers[l].0 {
            run.ops.rms_norm(x, &half.norm, &normed);
            if let Some(alpha) = half.alpha {
                run.ops.copy(&normed, x); // x = alpha · normed
                run.ops.scale(x, alpha, None);
            }
            match &half.inner {
                Inner::Mixer(mixer) => {
                    let at = At { layer: l, layout: &self.state_layout, batch, states };
                    mixer.forward(&at, &normed, x, run); // x += attention
                }
                Inner::FeedForward(feed_forward) => {
                    feed_forward.forward(batch, &normed, x, run)?; // x += shared + Σ weight · expert, or mlp
                }
            }
            run.workspace.release(inner);
        }
        run.workspace.release(mark);
        Ok(())
    }

    fn guess(&self, layer: usize, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, experts: &mut Vec<i32>) {
        match self.parts.layers[layer].feed_forward() {
            Some((norm, feed_forward)) => feed_forward.guess(norm, ops, workspace, x, experts),
            None => experts.clear(),
        }
    }

    fn head(&self, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, logits: &Tensor) {
        let mark = workspace.mark();
        let normed = workspace.f32([x.dim(0), self.facts.hidden]); // [m, hidden]
        ops.rms_norm(x, &self.parts.norm, &normed);
        ops.linear(&normed, &self.parts.lm_head, logits); // [m, vocab]
        workspace.release(mark);
    }
}
