//! What config.json says of quantisation, held against the tensors: what these do not show, and where the two contradict each other.

use std::fmt;

use outpour_kernels::{Code, Format, Second};
use outpour_store::checkpoint::Checkpoint;
use outpour_store::write::Aligned;
use serde_json::Value;

use super::method::{Matrix, method, methods};
use super::resolve;
use super::stored::StoredMatrix;
use super::vendor;
use crate::config::{Config, ModelError};

/// What is said of quantisation, and where.
#[derive(Clone, Copy)]
pub struct Settings<'c> {
    /// Of `config.json`, of an older release another file beside it.
    pub file: &'static str,
    /// `quantization_config`, or that file; null where there is neither.
    pub said: &'c Value,
}

/// What the files say of quantisation.
pub fn settings(checkpoint: &Checkpoint) -> Settings<'_> {
    let config = checkpoint.config();
    let all = [&config["quantization_config"], &config["text_config"]["quantization_config"]];
    let (file, said) = match all.into_iter().find(|value| value.is_object()) {
        Some(said) => ("config.json", said),
        None => checkpoint.quantization().unwrap_or(("config.json", &Value::Null)),
    };
    Settings { file, said }
}

/// Refuses a config whose words on quantisation are none that could be read.
///
/// # Errors
/// Names the key.
pub fn check_form(config: &Config) -> Result<(), ModelError> {
    let keys = ["quantization_config", "quantization"];
    keys.iter().try_for_each(|key| config.part(key).and(config.text().part(key)).map(|_| ()))
}

/// Refuses what tensors do not show: weights in another order, of other numbers, or for rotated activations; what is not known
/// to mean the numbers that we take them for; and what contradicts the tensors. `on_disk` is the tensor of the weights.
///
/// # Errors
/// Names the tensor, the key, and what is supported.
pub fn check(checkpoint: &Checkpoint, name: &str, on_disk: &str, stored: &StoredMatrix) -> Result<(), ModelError> {
    let (Format::Coded(coded), Some(scheme)) = (stored.format, stored.scheme) else { return Ok(()) };
    let of_mlx = checkpoint.config()["quantization"].as_object().filter(|said| said.contains_key("bits"));
    let settings = match of_mlx {
        // What mlx-lm did to the model is said there, and what it was before may still be said beside it.
        Some(_) if scheme.data == "U32" => Settings { file: "config.json", said: &Value::Null },
        _ => settings(checkpoint),
    };
    let Settings { file, said: config } = settings;
    let refused = |what: String, instead: &str| {
        let dir = checkpoint.dir().display();
        Err(ModelError::Tensor(format!("{dir}: tensor {name} is of {what}; supported is {instead}")))
    };
    let said = |key: &str| config[key].as_str();
    let named = &config["quant_method"];
    if !named.is_null() && method(config).is_none() {
        return refused(format!("the quantisation {named} (quant_method in {file})"), &methods().join(", "));
    }
    let full = |key: &&str| config[key].as_object().is_some_and(|transforms| !transforms.is_empty());
    if let Some(key) = ["transform_config", "rotation_config"].into_iter().find(|key| full(key)) {
        return refused(format!("weights for transformed activations ({key})"), "none such; take another release");
    }
    let module = name.strip_suffix(".weight").unwrap_or(name);
    let beside = |part: &str| resolve(checkpoint, &format!("{module}.{part}")).is_some();
    if beside("weight_g_idx") {
        return refused("columns in another order (weight_g_idx)".into(), "actorder null or \"static\"");
    }
    for factor in ["pre_quant_scale", "smooth_scale", "input_rotation"] {
        if beside(factor) {
            let what = format!("weights for activations that are multiplied first ({module}.{factor})");
            return refused(what, "none such; take another release");
        }
    }
    if coded.code == Code::Gptq && !in_order(checkpoint, &format!("{module}.g_idx"), coded.block[1])? {
        return refused(format!("columns in another order ({module}.g_idx)"), "desc_act false");
    }
    for zeros in ["weight_zero_point", "weight_zp"] {
        if coded.second == Second::None && !are_zero(checkpoint, &format!("{module}.{zeros}"))? {
            let what = format!("{coded} with zero points ({zeros})");
            return refused(what, "zero points beside int4 in weight_packed, or such as are 0");
        }
    }
    match coded.code {
        // Where there is a g_idx, that is what counts, and it was looked at.
        Code::Gptq if !beside("g_idx") && !matches!(config["desc_act"], Value::Null | Value::Bool(false)) => {
            let what = format!("columns in another order (desc_act {}, without {module}.g_idx)", config["desc_act"]);
            return refused(what, "desc_act false");
        }
        Code::Gptq if !vendor::is_auto_round(config) => {
            let other = ["checkpoint_format", "format"].into_iter().filter_map(|key| Some((key, said(key)?)));
            if let Some((key, format)) = other.into_iter().find(|(_, format)| !["gptq", "gptq_v2"].contains(format)) {
                return refused(format!("GPTQ's {key} {format:?}"), "\"gptq\" and \"gptq_v2\"");
            }
        }
        Code::Awq if config["zero_point"] == false => {
            return refused("AWQ without zero points (zero_point false), and has qzeros".into(), "zero_point true");
        }
        Code::Awq if method(config) == Some("awq") || method(config).is_none() => {
            let other = ["version", "format"].into_iter().filter_map(|key| Some((key, said(key)?)));
            if let Some((key, order)) = other.into_iter().find(|(_, order)| !order.eq_ignore_ascii_case("gemm")) {
                return refused(format!("AWQ's {key} {order:?}"), "\"gemm\"");
            }
        }
        _ => {}
    }
    let matrix = Matrix { name, rows: stored.rows, cols: stored.cols, scheme, coded };
    if let Some((what, instead)) = vendor::unsupported(config, &matrix) {
        return refused(what, &instead);
    }
    let beside = &Config(checkpoint.config()).text().0["expert_dtype"];
    match matrix.contradiction(config, beside) {
        Some(said) => contradicts(checkpoint, file, on_disk, &stored.to_string(), &said),
        None if said("quant_method").is_some() => Ok(()),
        None if of_mlx.is_some() && scheme.data != "U32" => {
            let said = of_mlx.map_or(&Value::Null, |said| &said["bits"]);
            contradicts(checkpoint, file, on_disk, &stored.to_string(), &format!("bits {said} of MLX (quantization)"))
        }
        None => {
            let mode = match (coded.code, coded.block) {
                (Code::E2m1, [1, 32]) => Mlx { mode: "mxfp4", bits: 4, group: 32 },
                (Code::E2m1, [1, 16]) => Mlx { mode: "nvfp4", bits: 4, group: 16 },
                (Code::E4m3, [1, 32]) => Mlx { mode: "mxfp8", bits: 8, group: 32 },
                _ => return Ok(()),
            };
            check_mlx(checkpoint, on_disk, mode)
        }
    }
}

/// Whether each column's group, where a tensor says which it is, is the one that it lies in.
fn in_order(checkpoint: &Checkpoint, name: &str, group: u32) -> Result<bool, ModelError> {
    let fits = |bytes: &[u8]| {
        let groups = bytes.as_chunks().0.iter().map(|four| u32::from_le_bytes(*four));
        groups.enumerate().all(|(column, of)| of as usize == column / group as usize)
    };
    holds(checkpoint, name, fits)
}

/// Whether all bytes of a tensor, where it is there, are 0.
fn are_zero(checkpoint: &Checkpoint, name: &str) -> Result<bool, ModelError> {
    holds(checkpoint, name, |bytes| bytes.iter().all(|&byte| byte == 0))
}

/// Whether the bytes of a small tensor, where it is there, are as they should be.
fn holds(checkpoint: &Checkpoint, name: &str, are: impl Fn(&[u8]) -> bool) -> Result<bool, ModelError> {
    let Some((_, info)) = resolve(checkpoint, name) else { return Ok(true) };
    let file = &checkpoint.files()[info.file];
    let mut memory = Aligned::new(file.align());
    let read = file.read(info.offset, info.bytes as usize, &mut memory);
    read.map(are)
        .map_err(|error| ModelError::Tensor(format!("{}: cannot read tensor {name}: {error}", file.path().display())))
}

fn contradicts<T>(
    checkpoint: &Checkpoint,
    file: &str,
    on_disk: &str,
    stored: &str,
    said: &str,
) -> Result<T, ModelError> {
    Err(ModelError::Tensor(format!(
        "{}: says {said}, and tensor {on_disk} is stored as {stored}; one of the two is another model's: download both again",
        checkpoint.dir().join(file).display()
    )))
}

/// How MLX has a matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mlx<'a> {
    /// `affine`, `mxfp4`, `nvfp4` or `mxfp8`.
    pub mode: &'a str,
    /// Of a weight.
    pub bits: usize,
    /// Weights that share a scale.
    pub group: usize,
}

impl fmt::Display for Mlx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mode {:?} of {} bits in groups of {}", self.mode, self.bits, self.group)
    }
}

impl<'a> Mlx<'a> {
    /// What an entry of `quantization` says, if it says anything.
    fn said(entry: &'a Value) -> Option<Mlx<'a>> {
        let number = |key: &str| entry[key].as_u64().map(|number| number as usize);
        let mode = entry["mode"].as_str().unwrap_or("affine");
        let (bits, group) = match mode {
            "mxfp4" => (4, 32),
            "nvfp4" => (4, 16),
            "mxfp8" => (8, 32),
            _ => (number("bits")?, 64),
        };
        Some(Mlx { mode, bits: number("bits").unwrap_or(bits), group: number("group_size").unwrap_or(group) })
    }
}

/// Refuses a matrix that is quantised as MLX does, and in no way that `quantization` speaks of: of itself, of all, or, since paths of
/// modules may be called otherwise there, of any other module.
///
/// # Errors
/// Names the tensor, and what is said instead.
pub fn check_mlx(checkpoint: &Checkpoint, on_disk: &str, stored: Mlx) -> Result<(), ModelError> {
    let config = checkpoint.config();
    let Some(said) = config["quantization"].as_object() else {
        // A pack may hold experts in another form than its source.
        let Settings { file, said } = settings(checkpoint);
        let method = said["quant_method"].as_str();
        return match method.filter(|method| checkpoint.pack().is_none() && *method != stored.mode) {
            Some(method) => {
                contradicts(checkpoint, file, on_disk, &stored.to_string(), &format!("quant_method {method:?}"))
            }
            None => Ok(()),
        };
    };
    let own = said.get(on_disk.strip_suffix(".weight").unwrap_or(on_disk)).and_then(Mlx::said);
    let all = || Mlx::said(&config["quantization"]).into_iter().chain(said.values().filter_map(Mlx::said));
    let fits = own.map_or_else(|| all().any(|said| said == stored), |own| own == stored);
    match own.or_else(|| all().next()).filter(|_| !fits) {
        None => Ok(()),
        Some(said) => {
            let said = format!("{said} (quantization)");
            contradicts(checkpoint, "config.json", on_disk, &stored.to_string(), &said)
        }
    }
}

/// Refuses a `weight_block_size` that is not two sizes.
///
/// # Errors
/// Names the tensor.
pub fn check_block_size(checkpoint: &Checkpoint, name: &str) -> Result<(), ModelError> {
    let Settings { file, said } = settings(checkpoint);
    let sizes = &said["weight_block_size"];
    let is_size = |size: &Value| size.as_u64().is_some_and(|size| (1..=u64::from(u32::MAX)).contains(&size));
    match sizes.as_array() {
        None if sizes.is_null() => Ok(()),
        Some(both) if both.len() == 2 && both.iter().all(is_size) => Ok(()),
        _ => Err(ModelError::Tensor(format!(
            "{}: says weight_block_size {sizes} of tensor {name}, and it takes two sizes, as [128, 128]",
            checkpoint.dir().join(file).display()
        ))),
    }
}
