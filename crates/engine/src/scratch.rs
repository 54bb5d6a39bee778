//! Buffers for activations, allocated once.

use outpour_kernels::{DType, Ops, OpsError, Tensor};
use outpour_model::{Model, Workspace};

/// Positions whose logits are computed together at most.
pub(crate) const HEAD_ROWS: usize = 8;
/// Rows of a batch of steps at most: tokens of several sequences that are computed together.
pub(crate) const STEP_ROWS: usize = 32;
/// Rows of activations that a backend rounds at a time, and then forgets.
const ROUNDED_ROWS_MAX: usize = 512;

/// Buffers for activations, allocated once.
pub(crate) struct Scratch {
    /// The residual stream of a prompt.
    pub x: Tensor,
    /// That of steps, which are computed between the layers of a prompt.
    pub step_x: Tensor,
    pub head_x: Tensor,
    pub logits: Tensor,
    pub workspace: Workspace,
    pub logits_host: Vec<f32>,
}

impl Scratch {
    fn parts(model: &dyn Model, chunk: usize) -> [usize; 5] {
        let facts = model.facts();
        let workspace = model.workspace_bytes(chunk).max(Workspace::f32_bytes(HEAD_ROWS * facts.hidden));
        let f32s = Workspace::f32_bytes;
        let steps = f32s(chunk.min(STEP_ROWS) * facts.hidden);
        [f32s(chunk * facts.hidden), steps, f32s(HEAD_ROWS * facts.hidden), f32s(HEAD_ROWS * facts.vocab), workspace]
    }

    /// Device buffers, the host's copy of the logits and what a backend rounds activations into.
    pub fn bytes(model: &dyn Model, chunk: usize) -> usize {
        Self::parts(model, chunk).iter().sum::<usize>() + Self::beside_buffers(model, chunk)
    }

    /// The host's part of [`Self::bytes`]: its copy of the logits, and what a backend rounds activations into.
    pub fn beside_buffers(model: &dyn Model, chunk: usize) -> usize {
        4 * HEAD_ROWS * model.facts().vocab + model.workspace_bytes(chunk.min(ROUNDED_ROWS_MAX)) / 4
    }

    pub fn new(model: &dyn Model, chunk: usize, ops: &dyn Ops) -> Result<Scratch, OpsError> {
        let facts = model.facts();
        let [x, step_x, head_x, logits, workspace] = Self::parts(model, chunk);
        let tensor = |bytes, shape: [usize; 2]| Ok::<_, OpsError>(Tensor::new(ops.alloc(bytes)?, 0, shape, DType::F32));
        Ok(Scratch {
            x: tensor(x, [chunk, facts.hidden])?,
            step_x: tensor(step_x, [chunk.min(STEP_ROWS), facts.hidden])?,
            head_x: tensor(head_x, [HEAD_ROWS, facts.hidden])?,
            logits: tensor(logits, [HEAD_ROWS, facts.vocab])?,
            workspace: Workspace::new(ops.alloc(workspace)?),
            logits_host: vec![0.0; HEAD_ROWS * facts.vocab],
        })
    }
}
