//! Random-weight checkpoints of any supported family, at any size: for trying out, tests and benchmarks. The text they
//! make is noise; their shapes, files and traffic are real, and their choice of experts is like a trained model's.

mod files;
mod format;
mod gguf;
mod routing;
mod values;

use std::ops::ControlFlow;
use std::path::Path;

use outpour_kernels::DType;
use serde_json::{Map, Value, json};

use crate::config::{Config, LAYERS, ModelError};
use crate::families::ling;
use crate::registry;
use crate::weights::{Declared, Weights};
use files::{Shard, Unfinished, gguf_name, part};
pub use format::Format;
use format::{Naming, Stored};
pub use gguf::GgufTypes;
use routing::Roles;
pub use routing::Routing;

/// Parameters beyond which a config is damaged: several hundred times the largest model.
const PARAMETERS_MAX: u128 = 1 << 50;

const CONFIG_FILE: &str = "config.json";

/// A checkpoint to be made: every tensor with its name, type, shape and place.
pub struct Synth {
    config: Value,
    format: Format,
    /// Names and contents of the files beside the weights.
    texts: Vec<(&'static str, String)>,
    /// Of GGUF files.
    metadata: Option<Map<String, Value>>,
    shards: Vec<Shard>,
    seed: u64,
}

impl Synth {
    /// Lays out `config`'s model in a format, with `texts`, its tokenizer's files (name and content), which a GGUF file has among its
    /// metadata; nothing is written.
    ///
    /// # Errors
    /// When the config is of no supported family, or of none that the format has; and when a key or `routing` makes no sense.
    pub fn new(
        config: &Value,
        format: Format,
        texts: Vec<(&'static str, String)>,
        routing: Routing,
        seed: u64,
    ) -> Result<Synth, ModelError> {
        let view = Config(config);
        let family = registry::family(&view)?;
        Naming::check(&view)?;
        let mut weights = Weights::declare();
        let model = family.model(&view, &mut weights, DType::F16)?;
        let (facts, declared) = (model.facts(), weights.declared());
        let elements = |tensor: &Declared| tensor.shape.iter().map(|&dim| dim as u128).product::<u128>();
        let parameters: u128 = declared.iter().map(elements).sum();
        if parameters > PARAMETERS_MAX {
            return Err(ModelError::Config(format!(
                "these sizes make {parameters} parameters, and at most {PARAMETERS_MAX} are supported; download it again"
            )));
        }
        let metadata = match format {
            Format::Gguf(_) => {
                let (_, mut metadata) = crate::gguf::metadata(&view)?;
                metadata.extend(gguf::tokenizer(&texts)?);
                Some(metadata)
            }
            _ => None,
        };
        let roles = Roles::new(declared, facts.layers, facts.hidden, routing, seed)?;
        let naming = Naming::new(format, config, family, facts.layers);
        let stored: Vec<Stored> = declared.iter().flat_map(|tensor| naming.store(tensor, &roles.of(tensor))).collect();
        let mut config = config.clone();
        naming.describe(&mut config, &stored);
        let made = Synth { config, format, texts, metadata, shards: Vec::new(), seed };
        let shards = made.cut(stored, None);
        Ok(Synth { shards, ..made })
    }

    /// The same in files of about so many bytes.
    pub fn in_shards(mut self, shard_bytes: u64) -> Synth {
        let stored = std::mem::take(&mut self.shards).into_iter().flat_map(Shard::into_tensors).collect();
        let shards = self.cut(stored, Some(shard_bytes));
        Synth { shards, ..self }
    }

    /// A GGUF file is whole unless it is asked for otherwise.
    fn cut(&self, stored: Vec<Stored>, shard_bytes: Option<u64>) -> Vec<Shard> {
        match &self.metadata {
            Some(metadata) => Shard::gguf(metadata, stored, shard_bytes.unwrap_or(u64::MAX)),
            None => Shard::cut(stored, !self.format.is_mlx(), shard_bytes.unwrap_or(files::SHARD_BYTES)),
        }
    }

    /// Bytes of all weight files.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(Shard::bytes).sum()
    }

    /// Writes the model into the folder `dir`. config.json, or the GGUF file, gets its name last of all: without it no folder is taken
    /// for a model. `progress` is told bytes written and bytes in all, and may break off.
    ///
    /// When it breaks off, or anything fails, what was written is removed.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(
        &self,
        dir: &Path,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ModelError> {
        let mut unfinished = Unfinished::begin(dir)?;
        if files::write_weights(&self.shards, &mut unfinished, self.seed, progress)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        self.finish(unfinished)?;
        Ok(ControlFlow::Continue(()))
    }

    fn finish(&self, mut unfinished: Unfinished) -> Result<(), ModelError> {
        if self.metadata.is_some() {
            return unfinished.finish(&gguf_name(0, self.shards.len()));
        }
        for (name, text) in &self.texts {
            unfinished.write(name, text)?;
        }
        unfinished.write("model.safetensors.index.json", &format!("{:#}\n", self.index()))?;
        unfinished.write(&part(CONFIG_FILE), &format!("{:#}\n", self.config))?;
        unfinished.finish(CONFIG_FILE)
    }

    fn index(&self) -> Value {
        let entries =
            self.shards.iter().flat_map(|shard| shard.tensors().map(|tensor| (tensor.name.clone(), json!(shard.name))));
        let total: u64 = self.shards.iter().flat_map(Shard::tensors).map(Stored::bytes).sum();
        json!({"metadata": {"total_size": total}, "weight_map": Value::Object(entries.collect())})
    }
}

/// Writes `config`'s model with random BF16 weights into the folder `dir`.
///
/// # Errors
/// As [`Synth::new`] and [`Synth::write`].
pub fn write(config: &Value, dir: &Path, seed: u64) -> Result<(), ModelError> {
    let synth = Synth::new(config, Format::Bf16, Vec::new(), Routing::default(), seed)?;
    synth.write(dir, &mut |_, _| ControlFlow::Continue(())).map(|_| ())
}

/// Writes the same files with their headers and lengths, and nothing in them: a model that can be inspected and planned,
/// and takes no room on the drive.
///
/// # Errors
/// As [`write()`].
pub fn outline(config: &Value, format: Format, dir: &Path) -> Result<(), ModelError> {
    let synth = Synth::new(config, format, Vec::new(), Routing::default(), 0)?;
    let mut unfinished = Unfinished::begin(dir)?;
    files::outline_weights(&synth.shards, &mut unfinished)?;
    synth.finish(unfinished)
}

/// Cuts a config to its model's first `layers` layers.
///
/// # Errors
/// When it has fewer.
pub fn cut(config: &mut Value, layers: usize) -> Result<(), ModelError> {
    let (key, has) = (Config(config).text().spelling(LAYERS), Config(config).text().size_of(LAYERS)?);
    if layers == 0 || layers > has {
        return Err(ModelError::Config(format!("has {has} layers: --layers takes 1 to {has}, not {layers}")));
    }
    let text = match config.get("text_config").is_some_and(Value::is_object) {
        true => &mut config["text_config"],
        false => config,
    };
    // What the last group of layers is made of follows from the number of all layers.
    if let (Some(group @ 1..), None) = (text.get("layer_group_size").and_then(Value::as_u64), text.get("layer_types")) {
        let kind =
            |layer| if ling::is_latent(layer, has, group as usize) { "full_attention" } else { "linear_attention" };
        text["layer_types"] = (0..has).map(kind).collect();
    }
    text[key] = json!(layers);
    for key in [
        "layer_types",
        "attn_type_list",
        "layers_block_type",
        "mlp_layer_types",
        "indexer_types",
        "compress_ratios",
        "no_rope_layers",
        "kv_source_layers",
        "moe_layer_freq",
        "hybrid_layer_pattern",
    ] {
        if let Some(types) = text.get_mut(key).and_then(Value::as_array_mut) {
            types.truncate(layers);
        }
    }
    for key in ["hybrid_override_pattern", "index_topk_pattern"] {
        if let Some(pattern) = text.get(key).and_then(Value::as_str) {
            text[key] = json!(pattern.chars().take(layers).collect::<String>());
        }
    }
    if let Some(dense) = text.get_mut("mlp_only_layers").and_then(Value::as_array_mut) {
        dense.retain(|layer| layer.as_u64().is_none_or(|layer| layer < layers as u64));
    }
    Ok(())
}
