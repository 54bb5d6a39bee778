//! The decoder that families are: layers of halves, each behind a norm, whose output joins the residual stream in one of a few
//! ways; from the tokens to the logits, this is the forward pass.

use outpour_kernels::{Bias, DType, Matrix, Ops, RmsNorm, Tensor};
use outpour_store::StoreError;

use super::feed_forward::FeedForward;
use super::hyper::{Connection, Mix};
use super::mixer::{At, Mixer};
use super::ngrams::Ngrams;
use super::norm::Norm;
use crate::config::{Config, ModelError};
use crate::weights::{Norms, Weights};
use crate::{Batch, Facts, Model, Run, State, StateLayout, Workspace};

/// The model with its weights.
pub struct Decoder {
    facts: Facts,
    state_layout: StateLayout,
    parts: Parts,
    /// By layer and half: what the mixers before it keep.
    before: Vec<Vec<Kept>>,
}

/// What mixers of a layer keep.
#[derive(Clone, Copy, Default)]
struct Kept {
    caches: usize,
    /// Bytes of recurrent states.
    recurrent: usize,
}

/// What a decoder is made of.
pub struct Parts {
    /// `[vocab, hidden]`.
    pub embedding: Matrix,
    /// What embeddings are multiplied with, if with anything.
    pub embedding_scale: Option<f32>,
    /// Its layers.
    pub layers: Vec<Layer>,
    /// Where there are several residual streams: what makes one of them, behind the layers.
    pub mix: Option<Mix>,
    /// Behind the layers: `[hidden]`.
    pub norm: Norm,
    /// `[vocab, hidden]`.
    pub lm_head: Matrix,
    /// `[vocab]`: added to the logits, if there is one.
    pub head_bias: Option<Bias>,
    /// What logits are multiplied with, if with anything.
    pub logits_scale: Option<f32>,
    /// What logits are squeezed between, if they are.
    pub softcap: Option<f32>,
}

impl Parts {
    /// Those of most families: one stream of embeddings as they are, logits as they come.
    pub fn plain(embedding: Matrix, layers: Vec<Layer>, norm: impl Into<Norm>, lm_head: Matrix) -> Self {
        Parts {
            embedding,
            embedding_scale: None,
            layers,
            mix: None,
            norm: norm.into(),
            lm_head,
            head_bias: None,
            logits_scale: None,
            softcap: None,
        }
    }
}

/// A layer: mostly two halves.
pub struct Layer {
    /// One after the other.
    pub halves: Vec<Half>,
    /// What the stream is multiplied with behind them, if with anything: `[1]`.
    pub scalar: Option<Tensor>,
    /// What the last tokens add to the streams before them, if anything (Qwen4-Exp).
    pub ngrams: Option<Ngrams>,
}

impl From<Vec<Half>> for Layer {
    fn from(halves: Vec<Half>) -> Self {
        Layer { halves, scalar: None, ngrams: None }
    }
}

/// Something behind a norm, whose output joins the residual stream.
pub struct Half {
    /// `[hidden]`.
    pub norm: Norm,
    /// What is behind the norm.
    pub inner: Inner,
    /// How its output joins the stream.
    pub join: Join,
}

/// How the output of a half joins the residual stream.
pub enum Join {
    /// It is added.
    Added,
    /// It is added times such a factor (Granite).
    Scaled(f32),
    /// It is added to its own normed input, times such a factor, and not to the stream as it came (MiniMax-01).
    AddedToInput(f32),
    /// It is added behind a norm `[hidden]` (Gemma).
    Normed(RmsNorm),
    /// It is added behind the last of the layer's halves (LongCat).
    Later,
    /// Its input is a mixture of several streams, and it goes to each of them (DeepSeek-V4).
    Mixed(Box<dyn Connection>),
}

impl Join {
    /// Several streams, mixed in such a way.
    pub fn mixed(connection: impl Connection + 'static) -> Self {
        Join::Mixed(Box::new(connection))
    }
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
    /// Names of the norms before a layer's halves, within the layer.
    pub half_norms: [&'static str; 2],
    /// Name of the norm behind the layers.
    pub norm: &'static str,
    /// Whether these norms are layer norms with biases.
    pub layer_norms: bool,
    /// Whether the head has a bias.
    pub head_bias: bool,
    /// Longest context.
    pub context_max: usize,
}

impl Ends {
    /// Those of most families: `model.embed_tokens`, and a head of its own but for `tie_word_embeddings`.
    ///
    /// # Errors
    /// When the key has the wrong type.
    pub fn read(config: &Config) -> Result<Self, ModelError> {
        let tied = config.flag_or("tie_word_embeddings", false)?;
        let context = config.spelling(&["max_position_embeddings", "model_max_length"]);
        Ok(Ends {
            embedding: "model.embed_tokens.weight",
            tied,
            half_norms: ["input_layernorm", "post_attention_layernorm"],
            norm: "model.norm",
            layer_norms: false,
            head_bias: false,
            context_max: config.size_or(context, 32_768)?,
        })
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
        Ends { embedding, tied, half_norms, norm, layer_norms, head_bias, context_max }: Ends,
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
        let embedding = weights.embedding(embedding, vocab, hidden, tied)?;
        let load_layer = |layer: usize| {
            let prefix = format!("model.layers.{layer}");
            let mut half_norm = |half: usize| {
                Norm::load(norms, layer_norms, weights, &format!("{prefix}.{}", half_norms[half]), hidden)
            };
            let [input_norm, half_norm] = [half_norm(0)?, half_norm(1)?];
            let Halves { mixer, feed_forward, alphas } = halves(layer, &prefix, weights)?;
            let join = |half: usize| alphas.map_or(Join::Added, |alphas| Join::AddedToInput(alphas[half]));
            let mixer = Half { norm: input_norm, inner: Inner::Mixer(mixer), join: join(0) };
            Ok(Layer::from(vec![
                mixer,
                Half { norm: half_norm, inner: Inner::FeedForward(feed_forward), join: join(1) },
            ]))
        };
        let layers: Vec<Layer> = (0..layers).map(load_layer).collect::<Result<_, ModelError>>()?;
        let norm = Norm::load(norms, layer_norms, weights, norm, hidden)?;
        let lm_head = if tied { embedding.clone() } else { weights.matrix("lm_head.weight", vocab, hidden)? };
        let head_bias = head_bias.then(|| weights.vector("lm_head.bias", vocab).map(Bias::plain)).transpose()?;
        let said =
            Said { family, context_max, pattern: layers.iter().map(Layer::letter).collect(), legend: legend(&layers) };
        Ok(Self::new(Parts { head_bias, ..Parts::plain(embedding, layers, norm, lm_head) }, said, kv))
    }

    /// A decoder of these parts, which keeps keys and values in the type given.
    pub fn new(parts: Parts, said: Said, kv: DType) -> Self {
        let (layers, Said { family, context_max, pattern, legend }) = (&parts.layers, said);
        let kv_widths: Vec<_> = layers.iter().map(|layer| layer.mixers().flat_map(Mixer::kv).collect()).collect();
        let recurrent = layers.iter().map(Layer::recurrent).collect();
        let mixers = layers.iter().flat_map(Layer::mixers);
        let before = layers.iter().map(Layer::before).collect();
        Decoder {
            facts: Facts {
                family,
                layers: layers.len(),
                hidden: parts.embedding.cols(),
                streams: parts.mix.as_ref().map_or(1, Mix::count),
                carried: mixers.map(Mixer::carried).max().unwrap_or(0),
                vocab: parts.embedding.rows(),
                context_max,
                top_k: layers.iter().filter_map(Layer::top_k).max().unwrap_or(0),
                pattern,
                legend,
            },
            state_layout: StateLayout::new(&kv_widths, recurrent, kv),
            before,
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
    fn mixer(&self) -> Option<&dyn Mixer> {
        match &self.inner {
            Inner::Mixer(mixer) => Some(&**mixer),
            Inner::FeedForward(_) => None,
        }
    }

    /// x `[n, streams · hidden]` → x behind the half; normed `[n, hidden]` is room for its input, and later `[n, hidden]` the sum of
    /// what is added behind the layer.
    fn forward(&self, at: &At, x: &Tensor, [normed, later]: [&Tensor; 2], run: &mut Run) -> Result<(), StoreError> {
        let (ops, shape) = (run.ops, [normed.dim(0), normed.dim(1)]);
        match &self.join {
            Join::Added => {
                self.norm.apply(ops, x, normed);
                self.inner(at, x, normed, x, run)?;
            }
            Join::AddedToInput(alpha) => {
                self.norm.apply(ops, x, normed);
                ops.copy(normed, x); // x = alpha · normed
                ops.scale(x, *alpha, None);
                self.inner(at, x, normed, x, run)?;
            }
            Join::Scaled(factor) => {
                let out = run.workspace.f32(shape); // [n, hidden]
                self.norm.apply(ops, x, normed);
                ops.zero(&out);
                self.inner(at, x, normed, &out, run)?;
                ops.scale(&out, *factor, None);
                ops.add(&out, x);
            }
            Join::Later => {
                self.norm.apply(ops, x, normed);
                self.inner(at, x, normed, later, run)?;
            }
            Join::Normed(behind) => {
                let out = run.workspace.f32(shape); // [n, hidden]
                self.norm.apply(ops, x, normed);
                ops.zero(&out);
                self.inner(at, x, normed, &out, run)?;
                ops.rms_norm(&out, behind, &out);
                ops.add(&out, x);
            }
            Join::Mixed(hyper) => {
                let out = run.workspace.f32(shape); // [n, hidden]
                let weights = hyper.collapse(ops, run.workspace, x, normed); // [n, (2 + streams) · streams]
                self.norm.apply(ops, normed, normed);
                ops.zero(&out);
                self.inner(at, x, normed, &out, run)?;
                hyper.expand(ops, run.workspace, &out, &weights, x);
            }
        }
        Ok(())
    }

    /// `into += inner(normed)`: normed and into `[n, hidden]`, x the stream.
    fn inner(&self, at: &At, x: &Tensor, normed: &Tensor, into: &Tensor, run: &mut Run) -> Result<(), StoreError> {
        match &self.inner {
            Inner::Mixer(mixer) => {
                mixer.forward(at, normed, into, run); // attention
                Ok(())
            }
            Inner::FeedForward(feed_forward) => feed_forward.forward(at.batch, x, normed, into, run), // experts, or an MLP
        }
    }

    /// Bytes of workspace of [`Self::forward`] for `n` tokens.
    fn workspace_bytes(&self, n: usize, hidden: usize) -> usize {
        let inner = match &self.inner {
            Inner::Mixer(mixer) => mixer.workspace_bytes(n),
            Inner::FeedForward(feed_forward) => feed_forward.workspace_bytes(n),
        };
        let join = match &self.join {
            Join::Added | Join::AddedToInput(_) | Join::Later => 0,
            Join::Scaled(_) | Join::Normed(_) => Workspace::f32_bytes(n * hidden),
            Join::Mixed(hyper) => Workspace::f32_bytes(n * hidden) + hyper.workspace_bytes(n),
        };
        inner + join
    }
}

impl Layer {
    fn mixers(&self) -> impl Iterator<Item = &dyn Mixer> {
        self.halves.iter().filter_map(Half::mixer)
    }

    /// Of each half, what the mixers before it keep; and at last, what all of them do.
    fn before(&self) -> Vec<Kept> {
        let mut before = vec![Kept::default()];
        for half in &self.halves {
            let Kept { caches, recurrent } = *before.last().unwrap_or(&Kept::default());
            let (kv, own) = half.mixer().map_or((0, 0), |mixer| {
                (mixer.kv().len(), mixer.recurrent().map_or(0, |own| own.bytes().next_multiple_of(64)))
            });
            before.push(Kept { caches: caches + kv, recurrent: recurrent + own });
        }
        before
    }

    /// Bytes of recurrent states, if there are any: of the mixers, and of what the last tokens add.
    fn recurrent(&self) -> Option<usize> {
        let own: Vec<usize> = self.mixers().filter_map(Mixer::recurrent).map(|own| own.bytes()).collect();
        let ngrams = self.ngrams.as_ref().map(Ngrams::state_bytes);
        let behind = |end: Option<usize>, bytes| Some(end.unwrap_or(0).next_multiple_of(64) + bytes);
        own.into_iter().chain(ngrams).fold(None, behind)
    }

    /// Whether something is added behind its last half.
    fn adds_later(&self) -> bool {
        self.halves.iter().any(|half| matches!(half.join, Join::Later))
    }

    /// Its experts or MLP, and the half that they are.
    fn feed_forward(&self) -> Option<(&Half, &FeedForward)> {
        self.halves.iter().find_map(|half| match &half.inner {
            Inner::Mixer(_) => None,
            Inner::FeedForward(feed_forward) => Some((half, feed_forward)),
        })
    }

    fn top_k(&self) -> Option<usize> {
        self.feed_forward()?.1.top_k()
    }

    /// The mixer's letter: a capital with experts, a small one with an MLP.
    pub fn letter(&self) -> char {
        let letter = self.mixers().next().map_or('-', |mixer| mixer.letter().0);
        if self.top_k().is_some() { letter } else { letter.to_ascii_lowercase() }
    }
}

/// What the letters of a pattern mean.
fn legend(layers: &[Layer]) -> String {
    let mut letters: Vec<(char, &str)> = layers.iter().flat_map(Layer::mixers).map(Mixer::letter).collect();
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
        let (hidden, layers) = (self.facts.hidden, &self.parts.layers);
        let of_halves = layers.iter().flat_map(|layer| &layer.halves).map(|half| half.workspace_bytes(n, hidden));
        let of_ngrams = layers.iter().filter_map(|layer| layer.ngrams.as_ref()).map(|ngrams| ngrams.workspace_bytes(n));
        let later = if layers.iter().any(Layer::adds_later) { Workspace::f32_bytes(n * hidden) } else { 0 };
        Workspace::f32_bytes(n * hidden) + later + of_halves.chain(of_ngrams).max().unwrap_or(0)
    }

    fn embedding(&self) -> &Matrix {
        &self.parts.embedding
    }

    fn embed(&self, ops: &dyn Ops, table: &Matrix, rows: &[u32], x: &Tensor) {
        let streams = self.facts.streams;
        if streams == 1 {
            ops.embed(table, rows, x); // [n, hidden]
        } else {
            // Every stream begins as the embedding.
            let rows: Vec<u32> = rows.iter().flat_map(|&row| std::iter::repeat_n(row, streams)).collect();
            ops.embed(table, &rows, &x.reshape([rows.len(), self.facts.hidden])); // [n · streams, hidden]
        }
        if let Some(scale) = self.parts.embedding_scale {
            ops.scale(x, scale, None);
        }
    }

    fn layer(
        &self,
        l: usize,
        batch: &Batch,
        states: &mut [State],
        x: &Tensor,
        run: &mut Run<'_>,
    ) -> Result<(), StoreError> {
        let layer = &self.parts.layers[l];
        let at = |Kept { caches, recurrent }: Kept| At {
            layer: l,
            caches_before: caches,
            recurrent_before: recurrent,
            layout: &self.state_layout,
            batch,
            states,
        };
        let mark = run.workspace.mark();
        let normed = run.workspace.f32([batch.len(), self.facts.hidden]); // [n, hidden]
        let later = layer.adds_later().then(|| run.workspace.f32([batch.len(), self.facts.hidden])); // [n, hidden]
        if let Some(later) = &later {
            run.ops.zero(later);
        }
        let inner = run.workspace.mark();
        if let (Some(ngrams), Some(&mixers)) = (&layer.ngrams, self.before[l].last()) {
            ngrams.add(&at(mixers), x, run)?;
            run.workspace.release(inner);
        }
        for (half, &before) in layer.halves.iter().zip(&self.before[l]) {
            half.forward(&at(before), x, [&normed, later.as_ref().unwrap_or(&normed)], run)?;
            run.workspace.release(inner);
        }
        if let Some(later) = &later {
            run.ops.add(later, x);
        }
        if let Some(scalar) = &layer.scalar {
            run.ops.scale(x, 1.0, Some(scalar));
        }
        run.workspace.release(mark);
        Ok(())
    }

    fn guess(&self, layer: usize, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, experts: &mut Vec<i32>) {
        let Some((half, feed_forward)) = self.parts.layers[layer].feed_forward() else { return experts.clear() };
        let mark = workspace.mark();
        let x = match &half.join {
            Join::Mixed(hyper) => {
                let mixed = workspace.f32([x.dim(0), self.facts.hidden]); // [n, hidden]
                hyper.collapse(ops, workspace, x, &mixed);
                mixed
            }
            _ => x.clone(),
        };
        feed_forward.guess(&half.norm, ops, workspace, &x, experts);
        workspace.release(mark);
    }

    fn known(&self, layer: usize, ops: &dyn Ops, workspace: &mut Workspace, tokens: &[u32], experts: &mut Vec<i32>) {
        match self.parts.layers[layer].feed_forward() {
            None => experts.clear(),
            Some((_, feed_forward)) => feed_forward.known(ops, workspace, tokens, experts),
        }
    }

    fn head(&self, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, logits: &Tensor) {
        let Parts { mix, norm, lm_head, head_bias, logits_scale, softcap, .. } = &self.parts;
        let mark = workspace.mark();
        let normed = workspace.f32([x.dim(0), self.facts.hidden]); // [m, hidden]
        match mix {
            None => norm.apply(ops, x, &normed),
            Some(mix) => {
                mix.apply(ops, workspace, x, &normed);
                norm.apply(ops, &normed, &normed);
            }
        }
        ops.linear(&normed, lm_head, logits); // [m, vocab]
        if let Some(bias) = head_bias {
            ops.add_bias(logits, bias);
        }
        if let Some(scale) = logits_scale {
            ops.scale(logits, *scale, None);
        }
        if let Some(cap) = softcap {
            ops.softcap(logits, *cap);
        }
        workspace.release(mark);
    }
}
