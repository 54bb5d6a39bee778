//! A layer's second half: routed experts, or a dense MLP.

use outpour_kernels::{Mlp, Ops, RmsNorm, Tensor};
use outpour_store::StoreError;

use super::mlp;
use super::moe::Moe;
use super::norm::Norm;
use crate::{Batch, Run, Workspace};

/// A layer's second half.
pub enum FeedForward {
    /// One MLP for every token.
    Dense(Mlp),
    /// Experts that the router picks for each token, and a shared one where there is one.
    Sparse(Moe),
    /// An MLP, and experts beside it.
    Beside(Mlp, Beside),
}

/// Experts beside an MLP, which read the residual stream itself, each of both behind norms of its own (Gemma 4).
pub struct Beside {
    /// Of the stream, for the router: `[hidden]`, as all of these.
    pub router_norm: Norm,
    /// Of the stream, for the experts.
    pub pre_norm: RmsNorm,
    /// The experts.
    pub moe: Moe,
    /// Of what they say.
    pub post_norm: RmsNorm,
    /// Of what the MLP says.
    pub mlp_post_norm: RmsNorm,
}

impl Beside {
    /// `out = norm(out) + norm(Σ weight · expert(norm(stream)))`, where out is the MLP's; stream and out `[n, hidden]`.
    fn forward(&self, batch: &Batch, stream: &Tensor, out: &Tensor, run: &mut Run) -> Result<(), StoreError> {
        let shape = [stream.dim(0), stream.dim(1)];
        let [router_x, normed, sum] = [(); 3].map(|()| run.workspace.f32(shape));
        run.ops.rms_norm(out, &self.mlp_post_norm, out);
        self.router_norm.apply(run.ops, stream, &router_x);
        run.ops.rms_norm(stream, &self.pre_norm, &normed);
        run.ops.zero(&sum);
        self.moe.forward_routed(batch, &router_x, &normed, &sum, run)?;
        run.ops.rms_norm(&sum, &self.post_norm, &sum);
        run.ops.add(&sum, out);
        Ok(())
    }
}

impl FeedForward {
    /// `into += feed_forward(x)`: x and into `[n, hidden]`. `stream` `[n, hidden]` is x as it was before its norm.
    ///
    /// # Errors
    /// When an expert cannot be read.
    pub fn forward(
        &self,
        batch: &Batch,
        stream: &Tensor,
        x: &Tensor,
        into: &Tensor,
        run: &mut Run,
    ) -> Result<(), StoreError> {
        match self {
            FeedForward::Dense(dense) => {
                mlp::forward(dense, x, into, run);
                Ok(())
            }
            FeedForward::Sparse(moe) => moe.forward(batch, x, into, run),
            FeedForward::Beside(dense, beside) => {
                let out = mlp::apply(dense, x, run); // [n, hidden]
                beside.forward(batch, stream, &out, run)?;
                run.ops.add(&out, into);
                Ok(())
            }
        }
    }

    fn moe(&self) -> Option<&Moe> {
        match self {
            FeedForward::Dense(_) => None,
            FeedForward::Sparse(moe) | FeedForward::Beside(_, Beside { moe, .. }) => Some(moe),
        }
    }

    /// Experts chosen for each token, where there are any.
    pub fn top_k(&self) -> Option<usize> {
        self.moe().map(Moe::top_k)
    }

    /// Bytes of workspace of [`Self::forward`] for `n` tokens.
    pub fn workspace_bytes(&self, n: usize) -> usize {
        let of_mlp = |mlp: &Mlp| mlp::workspace_bytes(n, mlp.up.cols(), mlp.width());
        match self {
            FeedForward::Dense(dense) => of_mlp(dense),
            FeedForward::Sparse(moe) => moe.workspace_bytes(n),
            FeedForward::Beside(dense, beside) => {
                of_mlp(dense) + 3 * Workspace::f32_bytes(n * dense.up.cols()) + beside.moe.workspace_bytes(n)
            }
        }
    }

    /// What [`Moe::guess`] says behind the norm that stands before it; nothing where there is no router.
    pub fn guess(&self, norm: &Norm, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, experts: &mut Vec<i32>) {
        match self {
            FeedForward::Dense(_) => experts.clear(),
            FeedForward::Sparse(moe) => moe.guess(norm, ops, workspace, x, experts),
            FeedForward::Beside(_, beside) => beside.moe.guess(&beside.router_norm, ops, workspace, x, experts),
        }
    }

    /// What [`Moe::known`] says; nothing where there are no experts.
    pub fn known(&self, ops: &dyn Ops, workspace: &mut Workspace, tokens: &[u32], experts: &mut Vec<i32>) {
        match self.moe() {
            None => experts.clear(),
            Some(moe) => moe.known(ops, workspace, tokens, experts),
        }
    }
}
