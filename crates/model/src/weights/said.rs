//! What config.json says of quantisation, held against the tensors: what these do not show, and where the two contradict each other.

use outpour_kernels::quant::coded::WHOLE;
use outpour_kernels::{Code, Coded, Format, Second};
use outpour_store::checkpoint::Checkpoint;
use outpour_store::write::Aligned;
use serde_json::Value;

use super::resolve;
use super::stored::StoredMatrix;
use crate::config::{Config, ModelError};

/// What config.json says of quantisation.
pub fn quantization_config(checkpoint: &Checkpoint) -> &Value {
    let config = checkpoint.config();
    let all = [&config["quantization_config"], &config["text_config"]["quantization_config"]];
    all.into_iter().find(|value| value.is_object()).unwrap_or(&Value::Null)
}

/// Refuses a config whose words on quantisation are none that could be read.
///
/// # Errors
/// Names the key.
pub fn check_form(config: &Config) -> Result<(), ModelError> {
    let keys = ["quantization_config", "quantization"];
    keys.iter().try_for_each(|key| config.part(key).and(config.text().part(key)).map(|_| ()))
}

/// Ways to quantise, as config.json calls them, whose tensors are known.
const METHODS: &[&str] = &["fp8", "compressed-tensors", "modelopt", "gptq", "awq", "mxfp4"];

/// Refuses what tensors do not show: weights in another order, of other numbers, or for rotated activations; what is not known
/// to mean the numbers that we take them for; and what contradicts the tensors. `on_disk` is the tensor of the weights.
///
/// # Errors
/// Names the tensor, the key, and what is supported.
pub fn check(checkpoint: &Checkpoint, name: &str, on_disk: &str, stored: &StoredMatrix) -> Result<(), ModelError> {
    let Format::Coded(coded) = stored.format else { return Ok(()) };
    let config = quantization_config(checkpoint);
    let refused = |what: String, instead: &str| {
        let dir = checkpoint.dir().display();
        Err(ModelError::Tensor(format!("{dir}: tensor {name} is of {what}; supported is {instead}")))
    };
    let said = |key: &str| config[key].as_str();
    if let Some(method) = said("quant_method").filter(|method| !METHODS.contains(method)) {
        return refused(format!("the quantisation {method:?} (quant_method in config.json)"), &METHODS.join(", "));
    }
    if config["transform_config"].as_object().is_some_and(|transforms| !transforms.is_empty()) {
        return refused(
            "weights for transformed activations (transform_config)".into(),
            "none such; take another release",
        );
    }
    let module = name.strip_suffix(".weight").unwrap_or(name);
    let beside = |part: &str| resolve(checkpoint, &format!("{module}.{part}")).is_some();
    if beside("weight_g_idx") {
        return refused("columns in another order (weight_g_idx)".into(), "actorder null or \"static\"");
    }
    for factor in ["pre_quant_scale", "smooth_scale"] {
        if beside(factor) {
            let what = format!("weights for activations that are multiplied first ({module}.{factor})");
            return refused(what, "none such; take another release");
        }
    }
    if coded.code == Code::Gptq && !in_order(checkpoint, &format!("{module}.g_idx"), coded.block[1])? {
        return refused(format!("columns in another order ({module}.g_idx)"), "desc_act false");
    }
    if beside("weight_zero_point") && coded.second == Second::None {
        let what = format!("{coded} with zero points (weight_zero_point)");
        return refused(what, "zero points beside int4 in weight_packed");
    }
    let gptq_or_awq = matches!(coded.code, Code::Gptq | Code::Awq);
    match coded.code {
        Code::Gptq if !matches!(config["desc_act"], Value::Null | Value::Bool(false)) => {
            return refused("columns in another order (desc_act true)".into(), "desc_act false");
        }
        Code::Gptq if said("checkpoint_format").is_some_and(|format| !["gptq", "gptq_v2"].contains(&format)) => {
            let what = format!("GPTQ's checkpoint_format {}", config["checkpoint_format"]);
            return refused(what, "\"gptq\" and \"gptq_v2\"");
        }
        Code::Awq if config["version"].as_str().is_some_and(|version| !version.eq_ignore_ascii_case("gemm")) => {
            return refused(format!("AWQ's version {}", config["version"]), "\"gemm\"");
        }
        Code::Awq if config["zero_point"] == false => {
            return refused("AWQ without zero points (zero_point false), and has qzeros".into(), "zero_point true");
        }
        // `dynamic` has other numbers for some modules.
        _ if gptq_or_awq && !config["dynamic"].is_null() => return Ok(()),
        _ if gptq_or_awq && config["bits"].as_u64().is_some_and(|bits| bits != 4) => {
            return refused(format!("four bits, and config.json says bits {}", config["bits"]), "4 in both");
        }
        _ => {}
    }
    let groups = config["config_groups"].as_object().into_iter().flatten().map(|(_, group)| &group["weights"]);
    let mut contradictions = groups.map(|weights| contradiction(weights, coded, stored.cols)).collect::<Vec<_>>();
    if gptq_or_awq || said("quant_method") == Some("modelopt") {
        contradictions.extend(other_group(config, coded, stored.cols).map(Some));
    }
    // Of several groups one is the matrix's own.
    match contradictions.into_iter().collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().next()) {
        Some(said) => contradicts(checkpoint, on_disk, &stored.to_string(), &said),
        None if said("quant_method").is_some() => Ok(()),
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
    let Some((_, info)) = resolve(checkpoint, name) else { return Ok(true) };
    let file = &checkpoint.files()[info.file];
    let mut memory = Aligned::new(file.align());
    let read = file.read(info.offset, info.bytes as usize, &mut memory);
    let groups = read.map_err(|error| {
        ModelError::Tensor(format!("{}: cannot read tensor {name}: {error}", file.path().display()))
    })?;
    let groups = groups.chunks_exact(4).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]));
    Ok(groups.enumerate().all(|(column, of)| of as usize == column / group as usize))
}

fn contradicts<T>(checkpoint: &Checkpoint, on_disk: &str, stored: &str, said: &str) -> Result<T, ModelError> {
    Err(ModelError::Tensor(format!(
        "{}: tensor {on_disk} is stored as {stored}, and config.json says {said}; one of the two is another model's",
        checkpoint.dir().display()
    )))
}

/// What `group_size` says, where that is another than the scales'.
fn other_group(said: &Value, coded: Coded, cols: usize) -> Option<String> {
    let size = said["group_size"].as_i64()?;
    let whole = coded.block[1] == WHOLE;
    let is_it =
        if size > 0 { size as u64 == u64::from(coded.block[1]) || whole && size as usize >= cols } else { whole };
    (!is_it).then(|| format!("group_size {size}"))
}

/// What a group of `config_groups` says (compressed-tensors) that these tensors contradict.
fn contradiction(weights: &Value, coded: Coded, cols: usize) -> Option<String> {
    let zeros = coded.second == Second::Zeros;
    if weights["num_bits"].as_u64().is_some_and(|bits| bits != coded.bits() as u64) {
        return Some(format!("num_bits {}", weights["num_bits"]));
    }
    if weights["symmetric"].as_bool().is_some_and(|symmetric| symmetric == zeros) {
        let beside = if zeros { "" } else { "out" };
        return Some(format!("symmetric {}, and it is with{beside} zero points", weights["symmetric"]));
    }
    if ["group", "dynamic"].iter().any(|order| weights["actorder"] == *order) {
        return Some(format!("actorder {}, and there is no weight_g_idx", weights["actorder"]));
    }
    let grouped = weights["strategy"].as_str().is_none_or(|strategy| ["group", "tensor_group"].contains(&strategy));
    grouped.then(|| other_group(weights, coded, cols)).flatten()
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
    let Some(said) = config["quantization"].as_object() else { return Ok(()) };
    let own = said.get(on_disk.strip_suffix(".weight").unwrap_or(on_disk)).and_then(Mlx::said);
    let all = || Mlx::said(&config["quantization"]).into_iter().chain(said.values().filter_map(Mlx::said));
    let fits = own.map_or_else(|| all().any(|said| said == stored), |own| own == stored);
    match own.or_else(|| all().next()).filter(|_| !fits) {
        None => Ok(()),
        Some(said) => {
            let words = |of: Mlx| format!("mode {:?} of {} bits in groups of {}", of.mode, of.bits, of.group);
            contradicts(checkpoint, on_disk, &words(stored), &format!("{} (quantization)", words(said)))
        }
    }
}

/// Refuses a `weight_block_size` that is not two sizes.
///
/// # Errors
/// Names the tensor.
pub fn check_block_size(checkpoint: &Checkpoint, name: &str) -> Result<(), ModelError> {
    let sizes = &quantization_config(checkpoint)["weight_block_size"];
    let is_size = |size: &Value| size.as_u64().is_some_and(|size| (1..=u64::from(u32::MAX)).contains(&size));
    match sizes.as_array() {
        None if sizes.is_null() => Ok(()),
        Some(both) if both.len() == 2 && both.iter().all(is_size) => Ok(()),
        _ => Err(ModelError::Tensor(format!(
            "{}: tensor {name}: config.json says weight_block_size {sizes}, and it takes two sizes, as [128, 128]",
            checkpoint.dir().display()
        ))),
    }
}
