//! A layer's second half: routed experts, or a dense MLP.

use outpour_kernels::{Mlp, Ops, RmsNorm, Tensor};
use outpour_store::StoreError;

use super::mlp;
use super::moe::Moe;
use crate::{Batch, Run, Workspace};

/// A layer's second half.
pub enum FeedForward {
    /// One MLP for every token.
    Dense(Mlp),
    /// Experts that the router picks for each token, and a shared one where there is one.
    Sparse(Moe),
}

impl FeedForward {
    /// `into += feed_forward(x)`: x and into `[n, hidden]`.
    ///
    /// # Errors
    /// When an expert cannot be read.
    pub fn forward(&self, batch: &Batch, x: &Tensor, into: &Tensor, run: &mut Run) -> Result<(), StoreError> {
        match self {
            FeedForward::Dense(dense) => {
                mlp::forward(dense, x, into, run);
                Ok(())
            }
            FeedForward::Sparse(moe) => moe.forward(batch, x, into, run),
        }
    }

    /// Experts chosen for each token, where there are any.
    pub fn top_k(&self) -> Option<usize> {
        match self {
            FeedForward::Dense(_) => None,
            FeedForward::Sparse(moe) => Some(moe.top_k()),
        }
    }

    /// Bytes of workspace of [`Self::forward`] for `n` tokens.
    pub fn workspace_bytes(&self, n: usize) -> usize {
        match self {
            FeedForward::Dense(dense) => mlp::workspace_bytes(n, dense.up.cols(), dense.width()),
            FeedForward::Sparse(moe) => moe.workspace_bytes(n),
        }
    }

    /// What [`Moe::guess`] says; nothing where there is no router.
    pub fn guess(&self, norm: &RmsNorm, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, experts: &mut Vec<i32>) {
        match self {
            FeedForward::Dense(_) => experts.clear(),
            FeedForward::Sparse(moe) => moe.guess(norm, ops, workspace, x, experts),
        }
    }
}
