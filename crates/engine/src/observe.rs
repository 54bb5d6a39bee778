//! Watching the engine work: progress, routes, logits.

use std::ops::ControlFlow;
use std::time::Duration;

use outpour_model::RouteSink;
use outpour_model::experts::StreamStats;

/// A sequence of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceId(pub(crate) usize);

/// How far a sequence of a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The sequence.
    pub sequence: SequenceId,
    /// Tokens of the sequence that are computed, those of this batch not counted.
    pub tokens_done: usize,
    /// Tokens of the sequence.
    pub tokens_total: usize,
    /// Tokens of it in this batch.
    pub batch_tokens: usize,
    /// Layers of this batch that are computed.
    pub layers_done: usize,
    /// Layers of the model.
    pub layers: usize,
}

/// What a layer of a batch cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct LayerCost {
    /// The layer.
    pub layer: usize,
    /// Tokens of the batch.
    pub batch_tokens: usize,
    /// Whether they are of prompts, and not steps of answers.
    pub prompt: bool,
    /// The whole layer.
    pub time: Duration,
    /// What streaming did in it.
    pub stream: StreamStats,
}

/// Watches the engine work. Every method has an empty default.
pub trait Observer {
    /// The router's choice of a layer: `[positions, top_k]`, in descending order of weight. Idle experts (LongCat) have the numbers
    /// behind those of real ones: see [`outpour_store::trace::routed`].
    fn routes(&mut self, _layer: usize, _positions: &[u32], _choice: &[i32], _weights: &[f32]) {}

    /// Logits `[vocab]` after the token at `position`; only of sequences that asked for all of them.
    fn logits(&mut self, _sequence: SequenceId, _position: usize, _logits: &[f32]) {}

    /// What a layer cost, told after each.
    fn layer(&mut self, _cost: &LayerCost) {}

    /// Whether the engine is to compute [`Self::guess`], which costs a router's work a layer.
    fn wants_guesses(&self) -> bool {
        false
    }

    /// What the router of `layer` would choose, `[positions, top_k]`, from the output of the layer before; comes before
    /// that layer's [`Self::routes`], and is empty for a layer without a router.
    fn guess(&mut self, _layer: usize, _positions: &[u32], _choice: &[i32]) {}

    /// Told of each sequence after every layer, and every chunk of a prompt within it; [`ControlFlow::Break`] stops a batch of that sequence alone, and its tokens stay pending.
    fn progress(&mut self, _progress: Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

impl Observer for () {}

pub(crate) struct Routes<'a>(pub &'a mut dyn Observer);

impl RouteSink for Routes<'_> {
    fn chosen(&mut self, layer: usize, positions: &[u32], choice: &[i32], weights: &[f32]) {
        self.0.routes(layer, positions, choice, weights);
    }
}
