//! `model_type` → the file that implements it.

use outpour_kernels::DType;
use serde_json::Value;

use crate::Model;
use crate::config::{Config, ModelError};
use crate::qwen3_5_moe::Family::{Qwen3Next, Qwen35};
use crate::qwen3_5_moe::Qwen35Moe;
use crate::qwen3_moe::Qwen3Moe;
use crate::weights::Weights;

type Build = fn(&Config, &mut Weights, DType) -> Result<Box<dyn Model>, ModelError>;

/// A family that can be run.
pub struct Family {
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// Released models.
    pub models: &'static str,
    /// Whether releases stack a layer's experts, gate and up joined, in two tensors without `.weight`.
    pub stacked: bool,
    /// Builds it from config and weights, keeping keys and values in the type given.
    pub build: Build,
}

/// Every family.
pub const FAMILIES: &[Family] = &[
    Family {
        model_type: "qwen3_moe",
        models: "Qwen3-30B-A3B, Qwen3-235B-A22B, Qwen3-Coder",
        stacked: false,
        build: |config, weights, kv| Ok(Box::new(Qwen3Moe::build(config, weights, kv)?)),
    },
    Family {
        model_type: "qwen3_next",
        models: "Qwen3-Next-80B-A3B, Qwen3-Coder-Next",
        stacked: false,
        build: |config, weights, kv| Ok(Box::new(Qwen35Moe::build(Qwen3Next, config, weights, kv)?)),
    },
    Family {
        model_type: "qwen3_5_moe",
        models: "Qwen3.5-35B-A3B, Qwen3.5-122B-A10B, Qwen3.5-397B-A17B",
        stacked: true,
        build: |config, weights, kv| Ok(Box::new(Qwen35Moe::build(Qwen35, config, weights, kv)?)),
    },
    Family {
        model_type: "qwen3_5_moe_text",
        models: "the same without a wrapper",
        stacked: true,
        build: |config, weights, kv| Ok(Box::new(Qwen35Moe::build(Qwen35, config, weights, kv)?)),
    },
];

/// The family that a config names.
///
/// # Errors
/// Names the architecture that is not supported, and those that are.
pub fn family(config: &Config) -> Result<&'static Family, ModelError> {
    let model_type = config.model_type()?;
    let family = FAMILIES.iter().find(|family| family.model_type == model_type).ok_or_else(|| {
        let supported: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
        ModelError::Config(format!(
            "model_type {model_type:?} is not supported; supported are: {}",
            supported.join(", ")
        ))
    })?;
    check_counts(&config.text())?;
    Ok(family)
}

/// Layers, and experts in all layers, beyond which tables would be made for what is no model.
const LAYERS_MAX: usize = 4096;
const EXPERTS_MAX: u64 = 1 << 20;

fn check_counts(config: &Config) -> Result<(), ModelError> {
    let layers = config.size_or("num_hidden_layers", 1)?;
    if layers > LAYERS_MAX {
        return Err(ModelError::Config(format!(
            "num_hidden_layers is {layers}, and at most {LAYERS_MAX} are supported; download it again"
        )));
    }
    for key in ["num_experts", "num_local_experts", "n_routed_experts"] {
        let experts = config.0.get(key).and_then(Value::as_u64).unwrap_or(0);
        if experts.saturating_mul(layers as u64) > EXPERTS_MAX {
            return Err(ModelError::Config(format!(
                "{key} is {experts} in {layers} layers, and at most {EXPERTS_MAX} in all are supported; download it again"
            )));
        }
    }
    Ok(())
}
