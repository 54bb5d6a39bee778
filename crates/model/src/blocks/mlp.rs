//! A dense gated MLP: every token of the batch through one [`Mlp`].

use outpour_kernels::{Activation, Matrix, Mlp, MlpScratch, Tensor};

use crate::config::ModelError;
use crate::weights::Weights;
use crate::{Run, Workspace};

/// What most families call gate, up and down.
pub const NAMES: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

/// Loads `{prefix}.{gate,up,down}_proj.weight`.
///
/// # Errors
/// When a tensor is missing or has another shape.
pub fn load(weights: &mut Weights, prefix: &str, hidden: usize, width: usize) -> Result<Mlp, ModelError> {
    load_with(weights, prefix, hidden, width, Activation::SwiGlu)
}

/// The same with another activation; there is no gate with [`Activation::Relu2`].
///
/// # Errors
/// When a tensor is missing or has another shape.
pub fn load_with(
    weights: &mut Weights,
    prefix: &str,
    hidden: usize,
    width: usize,
    activation: Activation,
) -> Result<Mlp, ModelError> {
    load_named(weights, prefix, NAMES, [hidden, width], activation)
}

/// The same from `{prefix}.{w1,w3,w2}.weight`.
///
/// # Errors
/// When a tensor is missing or has another shape.
pub fn load_numbered(
    weights: &mut Weights,
    prefix: &str,
    hidden: usize,
    width: usize,
    activation: Activation,
) -> Result<Mlp, ModelError> {
    load_named(weights, prefix, ["w1", "w3", "w2"], [hidden, width], activation)
}

/// The same from `{prefix}.{gate_up}.weight`, whose rows of gate come before those of up, and `{prefix}.{down}.weight`.
///
/// # Errors
/// When a tensor is missing or has another shape.
pub fn load_joined(
    weights: &mut Weights,
    prefix: &str,
    [gate_up, down]: [&str; 2],
    [hidden, width]: [usize; 2],
    activation: Activation,
) -> Result<Mlp, ModelError> {
    let joined = weights.matrix(&format!("{prefix}.{gate_up}.weight"), 2 * width, hidden)?;
    Ok(Mlp {
        gate: Some(joined.some_rows(0..width)),
        up: joined.some_rows(width..2 * width),
        down: weights.matrix(&format!("{prefix}.{down}.weight"), hidden, width)?,
        biases: None,
        activation,
    })
}

/// The same from `{prefix}.{gate,up,down}.weight` under names of its own.
///
/// # Errors
/// When a tensor is missing or has another shape.
pub fn load_named(
    weights: &mut Weights,
    prefix: &str,
    [gate, up, down]: [&str; 3],
    [hidden, width]: [usize; 2],
    activation: Activation,
) -> Result<Mlp, ModelError> {
    let mut matrix = |part, rows, cols| -> Result<Matrix, ModelError> {
        weights.matrix(&format!("{prefix}.{part}.weight"), rows, cols)
    };
    Ok(Mlp {
        gate: (activation != Activation::Relu2).then(|| matrix(gate, width, hidden)).transpose()?,
        up: matrix(up, width, hidden)?,
        down: matrix(down, hidden, width)?,
        biases: None,
        activation,
    })
}

/// Bytes of workspace of [`forward`] for `n` tokens.
pub fn workspace_bytes(n: usize, hidden: usize, width: usize) -> usize {
    2 * Workspace::f32_bytes(n * width) + Workspace::f32_bytes(n * hidden)
}

/// Bytes of [`scratch`] for `n` rows.
pub fn scratch_bytes(n: usize, hidden: usize, width: usize) -> usize {
    Workspace::f32_bytes(n * hidden) + 2 * Workspace::f32_bytes(n * width)
}

/// Room for an MLP of this width over `n` rows.
pub fn scratch(workspace: &mut Workspace, n: usize, hidden: usize, width: usize) -> MlpScratch {
    MlpScratch { x: workspace.f32([n, hidden]), gate: workspace.f32([n, width]), up: workspace.f32([n, width]) }
}

/// `into += mlp(x)`: x and into `[n, hidden]`.
pub fn forward(mlp: &Mlp, x: &Tensor, into: &Tensor, run: &mut Run) {
    let out = apply(mlp, x, run);
    run.ops.add(&out, into);
}

/// `mlp(x)` in the workspace: x `[n, hidden]`.
pub fn apply(mlp: &Mlp, x: &Tensor, run: &mut Run) -> Tensor {
    let (n, hidden, width) = (x.dim(0), x.dim(1), mlp.width());
    let gate = run.workspace.f32([n, width]);
    let up = run.workspace.f32([n, width]);
    let out = run.workspace.f32([n, hidden]);
    match &mlp.gate {
        Some(matrix) => run.ops.linears(x, &[(matrix, &gate), (&mlp.up, &up)]),
        None => run.ops.linear(x, &mlp.up, &gate),
    }
    run.ops.glu(&gate, &up, mlp.activation, &gate);
    run.ops.linear(&gate, &mlp.down, &out);
    out
}
