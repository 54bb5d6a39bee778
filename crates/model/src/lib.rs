//! Architectures: each family's forward pass in one file, over shared blocks; and what joins weights on disk to the
//! operations that use them. Nothing here sees a number: model code passes handles.

#![forbid(unsafe_code)]

pub mod blocks;
pub mod config;
pub mod experts;
pub mod families;
pub mod gguf;
pub mod packing;
pub mod registry;
pub mod state;
pub mod synth;
pub mod weights;
pub mod workspace;

use std::ops::Range;

use outpour_kernels::{Matrix, Ops, Tensor};
use outpour_store::StoreError;

pub use config::{Config, ModelError};
pub use experts::{ExpertStream, RouteSink};
pub use state::{State, StateLayout};
pub use workspace::Workspace;

/// Results of this crate.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;

/// Tokens to compute together: some of one sequence, or some of each of several.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Token ids, one a row.
    pub tokens: Vec<u32>,
    /// Position of each row in its sequence.
    pub positions: Vec<u32>,
    /// Which rows belong to which sequence.
    pub spans: Vec<Span>,
}

/// Consecutive tokens of one sequence within a [`Batch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index of the sequence's state.
    pub state: usize,
    /// Rows of the batch.
    pub rows: Range<usize>,
    /// Position of the first row.
    pub start: usize,
}

impl Batch {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.spans.clear();
    }

    /// Adds tokens of a sequence, from position `start` on.
    pub fn push(&mut self, state: usize, start: usize, tokens: &[u32]) {
        let first = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.positions.extend((start..start + tokens.len()).map(|position| position as u32));
        self.spans.push(Span { state, rows: first..self.tokens.len(), start });
    }

    /// Makes `part` those of the rows that are in `rows`.
    pub fn part(&self, rows: Range<usize>, part: &mut Batch) {
        part.clear();
        for span in &self.spans {
            let shared = span.rows.start.max(rows.start)..span.rows.end.min(rows.end);
            if !shared.is_empty() {
                part.push(span.state, span.start + shared.start - span.rows.start, &self.tokens[shared]);
            }
        }
    }

    /// Takes out a sequence, by the number of its span, and returns the rows that it had; those behind them move up.
    pub fn remove(&mut self, span: usize) -> Range<usize> {
        let Span { rows, .. } = self.spans.remove(span);
        self.tokens.drain(rows.clone());
        self.positions.drain(rows.clone());
        for later in &mut self.spans[span..] {
            later.rows = later.rows.start - rows.len()..later.rows.end - rows.len();
        }
        rows
    }
}

/// What a layer computes with.
pub struct Run<'a> {
    /// The backend.
    pub ops: &'a dyn Ops,
    /// Room for activations, allocated once.
    pub workspace: &'a mut Workspace,
    /// The routed experts, wherever they are.
    pub experts: &'a mut ExpertStream,
    /// The present layer's choice of experts.
    pub choices: &'a mut blocks::moe::Choices,
    /// What layers hand to the next beside the residual stream: I32 `[n, carried]`, see [`Facts::carried`].
    pub carried: Tensor,
    /// Is told of every choice of experts.
    pub routes: &'a mut dyn RouteSink,
}

/// One architecture with its weights. The engine owns the loop over layers.
pub trait Model: Send + Sync {
    /// Numbers that the engine and the user want to know.
    fn facts(&self) -> &Facts;

    /// What one sequence carries.
    fn state_layout(&self) -> &StateLayout;

    /// Bytes of [`Workspace`] that [`Self::layer`] and [`Self::head`] take for a batch of so many tokens.
    fn workspace_bytes(&self, tokens: usize) -> usize;

    /// The table of embeddings, `[vocab, hidden]`; without bytes where they are read by row ([`ExpertStream::rows`]).
    fn embedding(&self) -> &Matrix;

    /// Rows of a table of embeddings → residual streams: x `[n, streams · hidden]`.
    fn embed(&self, ops: &dyn Ops, table: &Matrix, rows: &[u32], x: &Tensor);

    /// One layer, in place on the residual streams x `[n, streams · hidden]`. Each span's state holds its `start` tokens, and has
    /// room for the span's own.
    ///
    /// # Errors
    /// When an expert cannot be read.
    fn layer(
        &self,
        layer: usize,
        batch: &Batch,
        states: &mut [State],
        x: &Tensor,
        run: &mut Run<'_>,
    ) -> Result<(), StoreError>;

    /// Residual stream → the experts `[n, top_k]` that the router of `layer` would choose if x `[n, streams · hidden]` came to it as it
    /// is: those it will most likely choose after the layer's attention too. Leaves `experts` empty where there is no router.
    /// Touches no state, and takes no more workspace than [`Self::layer`].
    fn guess(&self, layer: usize, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, experts: &mut Vec<i32>);

    /// Tokens `[n]` → the experts `[n, top_k]` of `layer`, where it chooses them by the tokens' ids, so that they are known before
    /// anything is computed. Leaves `experts` empty where a router chooses. Otherwise as [`Self::guess`].
    fn known(
        &self,
        _layer: usize,
        _ops: &dyn Ops,
        _workspace: &mut Workspace,
        _tokens: &[u32],
        experts: &mut Vec<i32>,
    ) {
        experts.clear();
    }

    /// Residual streams → logits: x `[m, streams · hidden]`, logits `[m, vocab]`.
    fn head(&self, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, logits: &Tensor);
}

impl Facts {
    /// Width of all residual streams of a token.
    pub fn stream(&self) -> usize {
        self.streams * self.hidden
    }
}

/// Numbers of an architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The family, as `model_type` names it.
    pub family: &'static str,
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Residual streams of each token; 1 but where layers mix several (hyper-connections).
    pub streams: usize,
    /// Numbers of each token that layers hand to the next in [`Run::carried`]; 0 where there are none.
    pub carried: usize,
    /// Tokens of the vocabulary: logits of one position.
    pub vocab: usize,
    /// Longest context the model was made for.
    pub context_max: usize,
    /// Experts chosen for each token; 0 in a dense model.
    pub top_k: usize,
    /// One letter a layer, for people: see [`Facts::legend`].
    pub pattern: String,
    /// What the letters mean.
    pub legend: String,
}
