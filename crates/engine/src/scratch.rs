//! Buffers for activations, allocated once.

use std::ops::Range;

use outpour_kernels::{DType, Ops, OpsError, Tensor};
use outpour_model::{Facts, Model, Workspace};

/// Positions whose logits are computed together at most.
pub(crate) const HEAD_ROWS: usize = 8;
/// Rows of a batch of steps at most: tokens of several sequences that are computed together.
pub(crate) const STEP_ROWS: usize = 32;
/// Chunks of prompts that go through each layer one behind the other, at most.
const SWEEP_CHUNKS: usize = 4;
/// Tokens of prompts in a sweep at most: computing them takes longer than reading a model, and a prompt that comes meanwhile waits
/// for all of them.
const SWEEP_ROWS_MAX: usize = 4096;
/// Rows of activations that a backend rounds at a time, and then forgets.
const ROUNDED_ROWS_MAX: usize = 512;

/// Tokens of prompts that one sweep over the layers serves, where `chunk` of them are computed together: what each costs while it
/// waits between two layers is a small part of what it costs while it is computed, and together they take no more than a chunk does.
pub(crate) fn sweep_rows(model: &dyn Model, chunk: usize) -> usize {
    let waiting = Stream::bytes(model.facts(), 1) + model.state_layout().window_bytes_per_token();
    (model.workspace_bytes(chunk) / waiting).clamp(chunk, (SWEEP_CHUNKS * chunk).min(SWEEP_ROWS_MAX).max(chunk))
}

/// Buffers for activations, allocated once.
pub(crate) struct Scratch {
    /// Of prompts, [`sweep_rows`].
    pub prompt: Stream,
    /// Of steps, which are computed between the layers of a prompt.
    pub steps: Stream,
    pub head_x: Tensor,
    pub logits: Tensor,
    pub workspace: Workspace,
    /// `[vocab]`, for whoever is shown those of every position.
    pub logits_host: Vec<f32>,
}

/// What layers hand to each other of some tokens.
pub(crate) struct Stream {
    /// The residual stream `[n, streams · hidden]`.
    pub x: Tensor,
    /// What goes beside it: I32 `[n, carried]`.
    pub carried: Tensor,
}

impl Stream {
    fn bytes(facts: &Facts, n: usize) -> usize {
        Workspace::f32_bytes(n * facts.stream()) + Workspace::f32_bytes(n * facts.carried)
    }

    fn new(facts: &Facts, n: usize, ops: &dyn Ops) -> Result<Stream, OpsError> {
        let buffer = ops.alloc(Self::bytes(facts, n))?;
        let carried_at = Workspace::f32_bytes(n * facts.stream());
        Ok(Stream {
            x: Tensor::new(buffer.clone(), 0, [n, facts.stream()], DType::F32),
            carried: Tensor::new(buffer, carried_at, [n, facts.carried], DType::I32),
        })
    }

    /// That of the first `n` tokens.
    pub fn first(&self, n: usize) -> Stream {
        self.rows(0..n)
    }

    /// That of some tokens.
    pub fn rows(&self, rows: Range<usize>) -> Stream {
        Stream { x: self.x.rows(rows.clone()), carried: self.carried.rows(rows) }
    }

    /// Forgets `rows`: those behind them take their place, so that `left` stay.
    pub fn close_up(&self, rows: Range<usize>, left: usize, ops: &dyn Ops) {
        for to in rows.start..left {
            let from = to + rows.len();
            for part in [&self.x, &self.carried].into_iter().filter(|part| part.dim(1) > 0) {
                ops.copy(&part.rows(from..from + 1), &part.rows(to..to + 1));
            }
        }
    }
}

impl Scratch {
    fn parts(model: &dyn Model, chunk: usize) -> [usize; 5] {
        let (facts, f32s) = (model.facts(), Workspace::f32_bytes);
        let head_x = f32s(HEAD_ROWS * facts.stream());
        let workspace = model.workspace_bytes(chunk).max(head_x);
        let [prompt, steps] = [sweep_rows(model, chunk), chunk.min(STEP_ROWS)].map(|n| Stream::bytes(facts, n));
        [prompt, steps, head_x, f32s(HEAD_ROWS * facts.vocab), workspace]
    }

    /// Device buffers, the host's copy of one position's logits and what a backend rounds activations into.
    pub fn bytes(model: &dyn Model, chunk: usize) -> usize {
        Self::parts(model, chunk).iter().sum::<usize>() + Self::beside_buffers(model, chunk)
    }

    /// The host's part of [`Self::bytes`]: its copy of one position's logits, and what a backend rounds activations into.
    pub fn beside_buffers(model: &dyn Model, chunk: usize) -> usize {
        4 * model.facts().vocab + model.workspace_bytes(chunk.min(ROUNDED_ROWS_MAX)) / 4
    }

    pub fn new(model: &dyn Model, chunk: usize, ops: &dyn Ops) -> Result<Scratch, OpsError> {
        let facts = model.facts();
        let [_, _, head_x, logits, workspace] = Self::parts(model, chunk);
        let tensor = |bytes, shape: [usize; 2]| Ok::<_, OpsError>(Tensor::new(ops.alloc(bytes)?, 0, shape, DType::F32));
        Ok(Scratch {
            prompt: Stream::new(facts, sweep_rows(model, chunk), ops)?,
            steps: Stream::new(facts, chunk.min(STEP_ROWS), ops)?,
            head_x: tensor(head_x, [HEAD_ROWS, facts.stream()])?,
            logits: tensor(logits, [HEAD_ROWS, facts.vocab])?,
            workspace: Workspace::new(ops.alloc(workspace)?),
            logits_host: vec![0.0; facts.vocab],
        })
    }
}
