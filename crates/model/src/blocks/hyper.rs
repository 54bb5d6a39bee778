//! Hyper-connections (arXiv 2409.19606, as DeepSeek-V4 and Hunyuan 4 have them): several residual streams of each token, of which a half of a
//! layer reads a mixture, and to each of which its output goes in a share of its own.

use outpour_kernels::{ColumnRun, Hyper, Matrix, Ops, RmsNorm, STREAMS_MAX, Tensor};

use crate::Workspace;
use crate::config::{Config, ModelError};
use crate::weights::Weights;

/// How a half of a layer joins several residual streams.
pub trait Connection: Send + Sync {
    /// x `[n, streams · hidden]` → weights of its streams in the workspace, and into `out` `[n, hidden]` what goes into the half of
    /// a layer, or the head.
    fn collapse(&self, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, out: &Tensor) -> Tensor;

    /// x `[n, streams · hidden]` → of each stream what it keeps, and of out `[n, hidden]` what goes to it, by the weights of
    /// [`Self::collapse`]; out is not used any more.
    fn expand(&self, ops: &dyn Ops, workspace: &mut Workspace, out: &Tensor, weights: &Tensor, x: &Tensor);

    /// Residual streams.
    fn count(&self) -> usize;

    /// Bytes of workspace of either for `n` tokens, the weights included.
    fn workspace_bytes(&self, n: usize) -> usize;
}

/// What makes the weights of streams out of the streams.
pub struct HyperConnection {
    /// Over all streams of a token, without weights.
    norm: RmsNorm,
    mix: Matrix, // [streams, or 2 · streams, or (2 + streams) · streams; streams · hidden]
    hyper: Hyper,
}

impl HyperConnection {
    /// Loads `{prefix}_{fn,base,scale}`: `columns` weights of each token in so many parts.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(
        weights: &mut Weights,
        prefix: &str,
        of: &Streams,
        columns: usize,
        parts: usize,
    ) -> Result<Self, ModelError> {
        let Streams { count, hidden, iterations, eps, behind, norm_eps } = *of;
        let mix = weights.tensor(&format!("{prefix}_fn"), &[columns, count * hidden])?;
        Ok(HyperConnection {
            norm: RmsNorm { weight: None, plus_one: false, eps: norm_eps },
            mix: Matrix::dense(mix).exact(),
            hyper: Hyper {
                streams: count,
                iterations,
                eps,
                behind,
                base: weights.vector(&format!("{prefix}_base"), columns)?,
                scale: weights.vector(&format!("{prefix}_scale"), parts)?,
            },
        })
    }

    /// x as `[n, streams, hidden]`.
    fn streams(&self, x: &Tensor) -> Tensor {
        x.reshape([x.dim(0), self.hyper.streams, x.dim(1) / self.hyper.streams])
    }
}

impl Connection for HyperConnection {
    /// The weights are `[n, columns]`.
    fn collapse(&self, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, out: &Tensor) -> Tensor {
        let n = x.dim(0);
        let weights = workspace.f32([n, self.mix.rows()]); // [n, columns]
        let mark = workspace.mark();
        let normed = workspace.f32([n, self.mix.cols()]); // [n, streams · hidden]
        ops.rms_norm(x, &self.norm, &normed);
        ops.linear(&normed, &self.mix, &weights);
        ops.hyper_weights(&weights, &self.hyper);
        workspace.release(mark);
        ops.hyper_collapse(&self.streams(x), &weights, out);
        weights
    }

    /// x = post ⊗ out + combᵀ · x, or + x where streams are not mixed.
    fn expand(&self, ops: &dyn Ops, _workspace: &mut Workspace, out: &Tensor, weights: &Tensor, x: &Tensor) {
        ops.hyper_expand(out, weights, &self.streams(x));
    }

    fn count(&self) -> usize {
        self.hyper.streams
    }

    fn workspace_bytes(&self, n: usize) -> usize {
        Workspace::f32_bytes(n * self.mix.rows()) + Workspace::f32_bytes(n * self.mix.cols())
    }
}

/// What makes one stream of several behind the layers.
pub enum Mix {
    /// By weights that are made of them.
    Weighted(Box<dyn Connection>),
    /// Their mean (GLM-5.3), of so many.
    Mean(usize),
}

impl Mix {
    /// Residual streams.
    pub fn count(&self) -> usize {
        match self {
            Mix::Weighted(hyper) => hyper.count(),
            Mix::Mean(count) => *count,
        }
    }

    /// x `[n, streams · hidden]` → out `[n, hidden]`.
    pub fn apply(&self, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, out: &Tensor) {
        match self {
            Mix::Weighted(hyper) => {
                hyper.collapse(ops, workspace, x, out);
            }
            Mix::Mean(count) => mean(ops, workspace, x, *count, out),
        }
    }
}

/// The mean of `count` streams: x `[n, count · hidden]` → out `[n, hidden]`. Takes as much workspace as out.
pub fn mean(ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, count: usize, out: &Tensor) {
    let (mark, hidden) = (workspace.mark(), out.dim(1));
    let stream = workspace.f32([out.dim(0), hidden]);
    ops.zero(out);
    for i in 0..count {
        ops.copy_columns(x, &[ColumnRun { from: i * hidden, to: 0, len: hidden }], &stream);
        ops.add(&stream, out);
    }
    ops.scale(out, 1.0 / count as f32, None);
    workspace.release(mark);
}

/// What the config says of the streams.
pub struct Streams {
    /// How many there are.
    pub count: usize,
    hidden: usize,
    iterations: usize,
    eps: f32,
    /// See [`Hyper::behind`].
    pub behind: [f32; 2],
    norm_eps: f32,
}

impl Streams {
    /// Reads `hc_mult`, `hidden_size`, `hc_sinkhorn_iters` and `hc_eps` of the config.
    ///
    /// # Errors
    /// When a key is missing, or makes no sense.
    pub fn read(config: &Config, norm_eps: f32) -> Result<Self, ModelError> {
        let count = config.size_or("hc_mult", 4)?;
        if count > STREAMS_MAX {
            return Err(ModelError::Config(format!("hc_mult {count} is more than {STREAMS_MAX}; download it again")));
        }
        Ok(Streams {
            count,
            hidden: config.size("hidden_size")?,
            iterations: config.size_or("hc_sinkhorn_iters", 20)?,
            eps: config.positive_or("hc_eps", 1e-6)? as f32,
            behind: [2.0, 0.0],
            norm_eps,
        })
    }

    /// Weights of a token: what of each stream goes in, what of the output goes to each stream, and the mixing matrix.
    pub fn columns(&self) -> usize {
        (2 + self.count) * self.count
    }
}
