//! Gated residual streams (Qwen4-Exp; `transformers` `modeling_qwen4_exp.py`): a half of a layer reads the mean of all streams, each
//! normed and gated element by element, by gates of low rank; its output goes to each of them times a number of the token's.

use outpour_kernels::{Activation, ColumnRun, Matrix, Ops, RmsNorm, Tensor};

use super::hyper::{Connection, mean};
use crate::Workspace;
use crate::config::{Config, ModelError};
use crate::weights::{Norms, Weights};

/// What the config says of the streams.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// How many there are.
    pub count: usize,
    /// Width of each.
    pub hidden: usize,
    /// Rank of the gates.
    rank: usize,
}

impl Sizes {
    /// Reads `hc_count`, `hidden_size` and `hc_lowrank` of the config.
    ///
    /// # Errors
    /// When a key is missing, or makes no sense.
    pub fn read(config: &Config) -> Result<Self, ModelError> {
        let count = config.size_or("hc_count", 4)?;
        match count <= COUNT_MAX {
            true => Ok(Sizes { count, hidden: config.size("hidden_size")?, rank: config.size_or("hc_lowrank", 320)? }),
            false => Err(ModelError::Config(format!("hc_count {count} is more than {COUNT_MAX}; download it again"))),
        }
    }

    /// Columns of one stream, to each of all.
    pub fn repeated(&self) -> Vec<ColumnRun> {
        (0..self.count).map(|stream| ColumnRun { from: 0, to: stream * self.hidden, len: self.hidden }).collect()
    }
}

/// Streams at most.
const COUNT_MAX: usize = 64;

/// The weights of one half's streams.
pub struct GatedResidual {
    sizes: Sizes,
    norm: RmsNorm,          // [streams · hidden], over each stream
    down: Matrix,           // [rank, streams · hidden]
    up: Matrix,             // [streams · hidden, rank]
    inject: Option<Matrix>, // [streams, streams · hidden]
    repeated: Vec<ColumnRun>,
}

impl GatedResidual {
    /// Loads `{prefix}.{hc_norm,input_mix_weight_down,input_mix_weight_up}`, and where something comes back, as it does but before
    /// the head, `{prefix}.block_inject_weight`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(
        weights: &mut Weights,
        prefix: &str,
        sizes: Sizes,
        comes_back: bool,
        norms: Norms,
    ) -> Result<Self, ModelError> {
        let Sizes { count, hidden, rank } = sizes;
        let all = count * hidden;
        let mut matrix = |part: &str, rows, cols| weights.matrix(&format!("{prefix}.{part}.weight"), rows, cols);
        Ok(GatedResidual {
            sizes,
            down: matrix("input_mix_weight_down", rank, all)?,
            up: matrix("input_mix_weight_up", all, rank)?,
            inject: comes_back.then(|| matrix("block_inject_weight", count, all)).transpose()?.map(Matrix::exact),
            norm: norms.load(weights, &format!("{prefix}.hc_norm.weight"), all)?,
            repeated: sizes.repeated(),
        })
    }
}

impl Connection for GatedResidual {
    /// The weights are logits of what goes to each stream, `[n, streams]`.
    fn collapse(&self, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, out: &Tensor) -> Tensor {
        let Sizes { count, hidden, rank } = self.sizes;
        let n = x.dim(0);
        let weights = workspace.f32([n, count]);
        let mark = workspace.mark();
        let [normed, gates] = [(); 2].map(|()| workspace.f32([n, count * hidden]));
        let low = workspace.f32([n, rank]);
        let streams = |t: &Tensor| t.reshape([n, count, hidden]);
        ops.rms_norm(&streams(x), &self.norm, &streams(&normed));
        if let Some(inject) = &self.inject {
            ops.linear(&normed, inject, &weights);
            ops.scale(&weights, 1.0 / count as f32, None);
        }
        ops.linear(&normed, &self.down, &low);
        ops.scale(&low, 1.0 / count as f32, None);
        ops.glu(&low, &low, Activation::Silu, &low);
        ops.linear(&low, &self.up, &gates);
        ops.sigmoid_gate(&normed, &gates);
        mean(ops, workspace, &normed, count, out);
        workspace.release(mark);
        weights
    }

    /// `x_s += 2 · sigmoid(weight_s) · out`
    fn expand(&self, ops: &dyn Ops, workspace: &mut Workspace, out: &Tensor, weights: &Tensor, x: &Tensor) {
        let Sizes { count, hidden, .. } = self.sizes;
        let (n, mark) = (x.dim(0), workspace.mark());
        let repeated = workspace.f32([n, count * hidden]);
        ops.scale(out, 2.0, None);
        ops.copy_columns(out, &self.repeated, &repeated);
        let rows = |t: &Tensor| t.reshape([n * count, t.elements() / (n * count)]);
        ops.add_gated(&rows(&repeated), &rows(weights), &rows(x));
        workspace.release(mark);
    }

    fn count(&self) -> usize {
        self.sizes.count
    }

    fn workspace_bytes(&self, n: usize) -> usize {
        let (Sizes { count, hidden, rank }, f32s) = (self.sizes, Workspace::f32_bytes);
        f32s(n * count) + 2 * f32s(n * count * hidden) + f32s(n * rank) + f32s(n * hidden)
    }
}
