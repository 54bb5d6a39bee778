//! The norm before a half of a layer, and before the head, where there is one.

use outpour_kernels::{LayerNorm, Ops, RmsNorm, Tensor};

use crate::config::ModelError;
use crate::weights::{Norms, Weights};

/// A norm over the residual stream.
pub enum Norm {
    /// By the root of the mean square: nearly all families.
    Rms(RmsNorm),
    /// By mean and variance, with a bias (Phi).
    Layer(LayerNorm),
    /// There is none (Qwen4-Exp, whose streams are normed where they are mixed).
    None,
}

impl From<RmsNorm> for Norm {
    fn from(norm: RmsNorm) -> Self {
        Norm::Rms(norm)
    }
}

impl Norm {
    /// Loads `{name}.weight`, and where it is a layer norm `{name}.bias`, each `[elements]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(
        norms: Norms,
        layer_norm: bool,
        weights: &mut Weights,
        name: &str,
        elements: usize,
    ) -> Result<Self, ModelError> {
        let weight = format!("{name}.weight");
        if !layer_norm {
            return norms.load(weights, &weight, elements).map(Norm::Rms);
        }
        Ok(Norm::Layer(LayerNorm {
            weight: weights.norm(&weight, elements, false)?,
            bias: weights.vector(&format!("{name}.bias"), elements)?,
            eps: norms.eps,
        }))
    }

    /// `out = norm(x)`: both `[n, elements]`, perhaps the same.
    pub fn apply(&self, ops: &dyn Ops, x: &Tensor, out: &Tensor) {
        match self {
            Norm::Rms(norm) => ops.rms_norm(x, norm, out),
            Norm::Layer(norm) => ops.layer_norm(x, norm, out),
            Norm::None if is_same(x, out) => {}
            Norm::None => ops.copy(x, out),
        }
    }
}

/// Whether two tensors lie at the same place.
fn is_same(x: &Tensor, out: &Tensor) -> bool {
    x.offset() == out.offset() && std::ptr::addr_eq(x.buffer().memory(), out.buffer().memory())
}
