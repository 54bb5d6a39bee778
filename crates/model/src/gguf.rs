//! GGUF files as checkpoints: their metadata as the `config.json` of the family, and their tensors under the names that the
//! family asks for. What llama.cpp's converter (`convert_hf_to_gguf.py`) bakes into tensors is used as it is:
//!
//! | tensor | in the file | used |
//! |---|---|---|
//! | norms of Qwen3-Next, Qwen3.5, Qwen4-Exp, Gemma 3, MiniMax-M3 | the 1 is added | `Norms::plus_one` is off |
//! | `ssm_a` | −exp(A_log), of Ling 3 exp(A_log) | `exponentiated` of `GatedDelta`, `Decay`, `SelectiveScan` |
//! | value heads of the DeltaNet of Qwen3.5 and Qwen4-Exp | tiled over the key heads, in every tensor that has them | `GatedDelta::tiled` |
//! | convolutions, the gate of the shared expert | without dimensions of 1 | see [`same_shape`] |
//! | queries and keys of Llama, Mixtral and Granite | permuted | RoPE turns neighbours: `rope_interleave` |
//! | `kv_b_proj` of latent attention | in two, that of the keys transposed | as MLX's exports have it |
//! | small queries and keys of Qwen4-Exp | in two | as they are |
//! | tables of n-grams, and what their hashes are made of | one tensor; numbers among the metadata | `Hashes::read` |
//! | experts | one tensor for gate, up and down of a layer each | three byte ranges an expert |

mod architectures;
mod assumed;
mod config;
mod names;
mod said;
mod told;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use outpour_store::checkpoint::Checkpoint;

use crate::config::ModelError;
use crate::weights::Declared;
pub(crate) use config::{in_words_of, metadata};
pub use names::on_disk;

/// Opens a model that lies in the folders `mirrors` too, whatever its files are; of GGUF files, makes the config from what
/// they say.
///
/// # Errors
/// As [`Checkpoint::open_mirrored`], and for GGUF files of an architecture that is not supported or that lack a number.
pub fn open(path: &Path, mirrors: &[PathBuf]) -> Result<Checkpoint, ModelError> {
    let mut checkpoint = Checkpoint::open_mirrored(path, mirrors)?;
    if let Some(metadata) = checkpoint.gguf() {
        let config = config::config(metadata, &checkpoint)?;
        let generation = config::generation(metadata);
        checkpoint.describe(config, generation);
    }
    Ok(checkpoint)
}

/// A bias, a scale or an adapter in a GGUF file, which changes what is computed, that is none of the tensors `declared`.
pub fn unread<'c>(checkpoint: &'c Checkpoint, declared: &[Declared]) -> impl Iterator<Item = &'c str> {
    let known: HashSet<String> = declared.iter().flat_map(|declared| on_disk(&declared.name)).collect();
    // Experts are declared together, their biases with them: gpt-oss alone has some.
    let of_experts = checkpoint.config()["model_type"] == "gpt_oss";
    let matters = |name: &str| [".bias", ".scale", ".lora_a", ".lora_b"].iter().any(|suffix| name.ends_with(suffix));
    checkpoint.tensors().map(|(name, _)| name).filter(move |name| {
        checkpoint.gguf().is_some()
            && matters(name)
            && !known.contains(*name)
            && !(of_experts && name.ends_with("_exps.bias"))
    })
}

/// Whether a tensor has the shape expected, but for dimensions of 1, which the converter drops.
pub fn same_shape(on_disk: &[usize], expected: &[usize]) -> bool {
    let without_ones = |shape: &[usize]| shape.iter().copied().filter(|&dim| dim != 1).collect::<Vec<_>>();
    without_ones(on_disk) == without_ones(expected)
}
