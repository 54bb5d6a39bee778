//! What GGUF files say of a model, as [`super::architectures`] ask for it.

use outpour_store::StoreError;
use outpour_store::checkpoint::{Checkpoint, Metadata};
use serde_json::Value;

use crate::config::ModelError;

/// What files say of a model.
pub struct Said<'c> {
    /// Their metadata.
    pub metadata: &'c Metadata,
    /// Their tensors.
    pub checkpoint: &'c Checkpoint,
    /// What keys begin with.
    pub architecture: &'c str,
}

impl Said<'_> {
    /// The value under a key of the architecture.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(&format!("{}.{key}", self.architecture))
    }

    /// A whole number.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    /// A number that has to be there.
    ///
    /// # Errors
    /// Names the key.
    pub fn needed(&self, key: &str) -> Result<u64, ModelError> {
        self.number(key).ok_or_else(|| self.malformed(format!("has no number {}.{key}", self.architecture)))
    }

    /// A problem with the file.
    pub fn malformed(&self, problem: String) -> ModelError {
        ModelError::Store(StoreError::Malformed { path: self.metadata.path().to_owned(), problem })
    }

    /// Layers without those for multi-token prediction.
    ///
    /// # Errors
    /// When it is not said how many there are, or there are fewer tensors.
    pub fn layers(&self) -> Result<u64, ModelError> {
        let (all, tensors) = (self.needed("block_count")?, self.checkpoint.tensors().count());
        if all > tensors as u64 {
            return Err(
                self.malformed(format!("says it has {all} layers, and has {tensors} tensors; download it again"))
            );
        }
        Ok(all.saturating_sub(self.number("nextn_predict_layers").unwrap_or(0)))
    }

    /// Whether the first layer has such a tensor.
    pub fn in_first_layer(&self, tensor: &str) -> bool {
        self.checkpoint.tensor(&format!("blk.0.{tensor}")).is_some()
    }

    /// Whether a layer has experts.
    pub fn is_sparse(&self, layer: u64) -> bool {
        self.checkpoint.tensor(&format!("blk.{layer}.ffn_gate_inp.weight")).is_some()
    }

    /// The dimensions of a layer's tensor, outermost first.
    pub fn shape(&self, layer: u64, tensor: &str) -> Option<&[usize]> {
        Some(&self.checkpoint.tensor(&format!("blk.{layer}.{tensor}"))?.shape)
    }

    /// What a list says of each layer, but for those for multi-token prediction.
    ///
    /// # Errors
    /// When there is no such list, or it says something else.
    pub fn by_layer<T>(&self, key: &str, of: impl Fn(&Value) -> Option<T>) -> Result<Vec<T>, ModelError> {
        let layers = self.layers()?;
        let list = self.get(key).and_then(Value::as_array).filter(|list| list.len() as u64 >= layers);
        let said = list.and_then(|list| list.iter().take(layers as usize).map(of).collect());
        said.ok_or_else(|| {
            self.malformed(format!("has no list {}.{key} that says it of {layers} layers", self.architecture))
        })
    }

    /// Which layers a list marks, by a switch or a number above 0.
    ///
    /// # Errors
    /// As [`Said::by_layer`].
    pub fn marked(&self, key: &str) -> Result<Vec<bool>, ModelError> {
        self.by_layer(key, |mark| mark.as_bool().or_else(|| Some(mark.as_u64()? > 0)))
    }

    /// The one number above 0 that a list gives such layers as `which` says.
    ///
    /// # Errors
    /// As [`Said::by_layer`], and where layers have several.
    pub fn common(&self, key: &str, which: &[bool]) -> Result<u64, ModelError> {
        let numbers = self.by_layer(key, Value::as_u64)?;
        let mut own = numbers.iter().zip(which).filter(|(_, which)| **which).map(|(number, _)| *number);
        let first = own.next().unwrap_or(0);
        match own.all(|number| number == first) {
            true => Ok(first),
            false => Err(self
                .malformed(format!("has layers of several {}.{key}, which no released model has", self.architecture))),
        }
    }
}

/// What a config calls each layer, by marks.
pub fn kinds(marks: &[bool], [unmarked, marked]: [&str; 2]) -> Value {
    marks.iter().map(|&mark| if mark { marked } else { unmarked }).collect()
}
