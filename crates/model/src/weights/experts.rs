//! Where a layer's routed experts lie: one by one or stacked, gate and up joined or apart, plain or quantised.

use outpour_kernels::{Activation, DType, Format};
use outpour_store::checkpoint::Checkpoint;
use outpour_store::layout::Extent;

use super::stored::StoredMatrix;
use super::{missing, plain, resolve};
use crate::config::ModelError;

/// The routed experts of one layer.
#[derive(Clone, Debug)]
pub struct ExpertsOf {
    /// Layer of the model.
    pub layer: usize,
    /// Name before `.experts`, such as `model.layers.0.mlp`.
    pub prefix: String,
    /// Experts in the layer.
    pub experts: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of an expert.
    pub width: usize,
    /// Between gate, up and down; with [`Activation::Relu2`] there is no gate.
    pub activation: Activation,
    /// Where `{prefix}.experts.{gate_up_proj,down_proj}` are `[experts, in, out]`, as transformers has them in some families: how
    /// one holds gate and up.
    pub transposed: Option<GateUp>,
}

/// How gate and up share a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateUp {
    /// They do not: each has byte ranges of its own.
    Apart,
    /// Their rows alternate, gate's first.
    Alternate,
    /// All of gate's rows come before all of up's, in columns of both.
    Behind,
}

impl ExpertsOf {
    /// Matrices of an expert.
    pub fn matrices(&self) -> usize {
        if self.activation == Activation::Relu2 { 2 } else { 3 }
    }
}

/// What is needed to see a slot's bytes as an expert.
#[derive(Clone, Copy, Debug)]
pub struct ExpertShape {
    /// Between gate, up and down.
    pub activation: Activation,
    /// How gate, up and down are stored; gate has no rows where there is none.
    pub matrices: [StoredMatrix; 3],
    /// Whether gate and up share a matrix: gate's place then has both, and up's no rows.
    pub gate_up: GateUp,
}

impl ExpertShape {
    /// Byte ranges of an expert: those of gate, of up, of down.
    pub fn parts(&self) -> usize {
        self.matrices.iter().map(StoredMatrix::parts).sum()
    }

    /// Those that are there, with their places.
    pub fn present(&self) -> impl Iterator<Item = (usize, &StoredMatrix)> {
        self.matrices.iter().enumerate().filter(|(_, stored)| stored.rows > 0)
    }

    /// The first part of a matrix.
    pub fn first_part(&self, matrix: usize) -> usize {
        self.matrices[..matrix].iter().map(StoredMatrix::parts).sum()
    }
}

/// Tensors that hold one or two of gate (0), up (1) and down (2) of a layer's experts.
struct Stored {
    /// Name with `{}` for the expert's number; without, experts are stacked.
    name: String,
    /// Which of the three, in order.
    matrices: &'static [usize],
    /// Whether it holds gate and up as one, as gate.
    gate_up: GateUp,
    /// Whether it is `[experts, in, out]`.
    transposed: bool,
}

/// Finds a layer's experts: how they are stored, and the byte ranges of each.
///
/// # Errors
/// When a tensor is missing, or has another shape or a type that is not supported.
pub fn locate(checkpoint: &Checkpoint, of: &ExpertsOf) -> Result<(ExpertShape, Vec<Extent>), ModelError> {
    let stored = Stored::find(checkpoint, of)?;
    let nothing =
        StoredMatrix { rows: 0, cols: 0, format: Format::F32, dtype: DType::F32, scheme: None, transposed: false };
    let mut shape = ExpertShape { activation: of.activation, matrices: [nothing; 3], gate_up: GateUp::Apart };
    for stored in &stored {
        for &matrix in stored.matrices {
            shape.matrices[matrix] = stored.matrix(checkpoint, of, 0)?;
        }
        if stored.gate_up != GateUp::Apart {
            shape.gate_up = stored.gate_up;
        }
    }
    let mut extents = vec![Extent { offset: 0, bytes: 0, file: 0 }; of.experts * shape.parts()];
    for stored in &stored {
        stored.locate(checkpoint, of, &shape, &mut extents)?;
    }
    Ok((shape, extents))
}

impl Stored {
    /// The tensors that hold gate, up and down, as they are named in this checkpoint.
    fn find(checkpoint: &Checkpoint, of: &ExpertsOf) -> Result<Vec<Stored>, ModelError> {
        let prefix = &of.prefix;
        let pick = |stem: &str, matrices| {
            // Mixtral's names, which MiniMax and Kimi took over.
            let numbered = [("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")];
            let numbered = numbered.into_iter().find(|(named, _)| *named == stem).map_or(stem, |(_, w)| w);
            // Granite's.
            let linear = [("gate_up_proj", "input_linear"), ("down_proj", "output_linear")];
            let linear = linear.into_iter().find(|(named, _)| *named == stem).map_or(stem, |(_, linear)| linear);
            let names = [
                format!("{prefix}.experts.{{}}.{stem}.weight"),
                format!("{prefix}.experts.{{}}.{numbered}.weight"),
                format!("{prefix}.experts.{stem}"),
                format!("{prefix}.experts.{stem}.weight"),
                format!("{prefix}.switch_mlp.{stem}.weight"),
                format!("{prefix}.{linear}.weight"),
            ];
            let found = names.into_iter().find(|name| StoredMatrix::is_there(checkpoint, &name.replace("{}", "0")));
            let is_plain = |name: &str| resolve(checkpoint, name).is_some_and(|(_, info)| plain(&info.dtype).is_some());
            found.map(|name| {
                let stacked = checkpoint.gguf().is_none() && name == format!("{prefix}.experts.{stem}");
                let transposed = of.transposed.is_some() && stacked && is_plain(&name);
                Stored { name, matrices, gate_up: GateUp::Apart, transposed }
            })
        };
        let joined = |stored: Stored| match of.transposed.filter(|_| stored.transposed) {
            Some(gate_up) => Stored { matrices: &[0], gate_up, ..stored },
            None if StoredMatrix::alternates(checkpoint, &stored.name) => {
                Stored { matrices: &[0], gate_up: GateUp::Alternate, ..stored }
            }
            None => stored,
        };
        let wanted = match pick("gate_up_proj", &[0, 1]) {
            _ if of.activation == Activation::Relu2 => vec![pick("up_proj", &[1]), pick("down_proj", &[2])],
            Some(stored) => vec![Some(joined(stored)), pick("down_proj", &[2])],
            None => vec![pick("gate_proj", &[0]), pick("up_proj", &[1]), pick("down_proj", &[2])],
        };
        wanted.into_iter().collect::<Option<Vec<_>>>().ok_or_else(|| {
            if checkpoint.gguf().is_some() {
                let names = ["gate_proj", "up_proj", "down_proj"].map(|part| format!("{prefix}.experts.{part}.weight"));
                let absent = names[3 - of.matrices()..].iter().find(|name| resolve(checkpoint, name).is_none());
                return missing(checkpoint, absent.unwrap_or(&names[2]));
            }
            let dir = checkpoint.dir().display();
            ModelError::Tensor(format!("{dir}: has no experts under {prefix}.experts; the download is incomplete, or config.json is another model's"))
        })
    }

    fn one_by_one(&self) -> bool {
        self.name.contains("{}")
    }

    fn name_of(&self, expert: usize) -> String {
        self.name.replace("{}", &expert.to_string())
    }

    /// How one of its matrices is stored for an expert.
    fn matrix(&self, checkpoint: &Checkpoint, of: &ExpertsOf, expert: usize) -> Result<StoredMatrix, ModelError> {
        let (rows, cols) = if self.matrices == [2] { (of.hidden, of.width) } else { (of.width, of.hidden) };
        let stack = [of.experts];
        let stack = if self.one_by_one() { &[][..] } else { &stack[..] };
        let name = self.name_of(expert);
        let rows = if self.gate_up == GateUp::Apart { rows } else { 2 * rows };
        if self.transposed {
            return StoredMatrix::find_transposed(checkpoint, &name, stack, rows, cols);
        }
        let all = StoredMatrix::find(checkpoint, &name, stack, rows * self.matrices.len(), cols)?;
        all.first_rows(rows).ok_or_else(|| {
            ModelError::Tensor(format!(
                "tensor {name} holds gate and up as {all}, which the two share; supported are scales of their own"
            ))
        })
    }

    /// Fills in the extents of its matrices.
    fn locate(
        &self,
        checkpoint: &Checkpoint,
        of: &ExpertsOf,
        shape: &ExpertShape,
        extents: &mut [Extent],
    ) -> Result<(), ModelError> {
        for expert in 0..of.experts {
            let name = self.name_of(expert);
            let matrix = shape.matrices[self.matrices[0]];
            let own = if self.one_by_one() { self.matrix(checkpoint, of, expert)? } else { matrix };
            if own != matrix {
                return Err(ModelError::Tensor(format!(
                    "tensor {name} is stored as {own}, and that of expert 0 in its layer as {matrix}; download it again"
                )));
            }
            for (part, (tensor, bytes)) in matrix.names(&name).zip(matrix.part_bytes()).enumerate() {
                let (_, info) = resolve(checkpoint, &tensor).ok_or_else(|| missing(checkpoint, &tensor))?;
                let Ok(extent_bytes) = u32::try_from(bytes) else {
                    return Err(ModelError::Tensor(format!(
                        "tensor {name}: an expert of {bytes} bytes is larger than 4 GiB"
                    )));
                };
                let first = if self.one_by_one() { 0 } else { expert as u64 * info.step() };
                for (i, &m) in self.matrices.iter().enumerate() {
                    let offset = info.offset + first + (i * bytes) as u64;
                    extents[expert * shape.parts() + shape.first_part(m) + part] =
                        Extent { offset, bytes: extent_bytes, file: info.file as u32 };
                }
            }
        }
        Ok(())
    }
}
