//! Random-weight checkpoints of any supported family, at any size: for trying out, tests and benchmarks. The text they
//! make is noise; their shapes, files and traffic are real.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use outpour_kernels::DType;
use outpour_store::StoreError;
use serde_json::{Map, Value, json};

use crate::config::{Config, ModelError};
use crate::registry;
use crate::weights::{Declared, Weights};

/// Bytes of weights in each shard.
const SHARD_BYTES: u64 = 1 << 30;

/// Writes `config`'s model with random BF16 weights into the folder `dir`: config.json, shards and their index.
///
/// # Errors
/// When the config is of no supported family, or the folder cannot be written.
pub fn write(config: &Value, dir: &Path, seed: u64) -> Result<(), ModelError> {
    let view = Config(config);
    let mut weights = Weights::declare();
    (registry::family(&view)?.build)(&view, &mut weights, DType::F16)?;
    let io = |path: &Path, source| StoreError::Io { path: path.to_owned(), action: "write", source };
    std::fs::create_dir_all(dir).map_err(|source| io(dir, source))?;
    let shards = cut(weights.declared());
    let mut map = Map::new();
    let normals = Normals::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        map.extend(shard.iter().map(|tensor| (tensor.name.clone(), json!(name))));
        let path = dir.join(&name);
        write_shard(&path, shard, &normals, seed).map_err(|source| io(&path, source))?;
    }
    let files =
        [("model.safetensors.index.json", json!({"metadata": {}, "weight_map": map})), ("config.json", config.clone())];
    for (name, value) in files {
        let path = dir.join(name);
        std::fs::write(&path, format!("{value:#}\n")).map_err(|source| io(&path, source))?;
    }
    Ok(())
}

fn bytes(tensor: &Declared) -> u64 {
    2 * tensor.shape.iter().map(|&dim| dim as u64).product::<u64>()
}

/// Tensors in their order, in shards of about [`SHARD_BYTES`].
fn cut(tensors: &[Declared]) -> Vec<&[Declared]> {
    let (mut shards, mut start, mut size) = (Vec::new(), 0, 0);
    for (i, tensor) in tensors.iter().enumerate() {
        if size > 0 && size + bytes(tensor) > SHARD_BYTES {
            shards.push(&tensors[start..i]);
            (start, size) = (i, 0);
        }
        size += bytes(tensor);
    }
    shards.push(&tensors[start..]);
    shards
}

fn write_shard(path: &Path, tensors: &[Declared], normals: &Normals, seed: u64) -> std::io::Result<()> {
    let mut header = Map::new();
    let mut at = 0;
    for tensor in tensors {
        let end = at + bytes(tensor);
        header.insert(tensor.name.clone(), json!({"dtype": "BF16", "shape": tensor.shape, "data_offsets": [at, end]}));
        at = end;
    }
    let header = Value::Object(header).to_string();
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    for tensor in tensors {
        let (mean, deviation) = distribution(tensor);
        let table: Vec<[u8; 2]> =
            normals.0.iter().map(|z| half::bf16::from_f32(mean + deviation * z).to_le_bytes()).collect();
        let mut random = SplitMix(seed ^ name_hash(&tensor.name));
        let mut elements = bytes(tensor) / 2;
        while elements > 0 {
            let bits = random.next();
            for lane in 0..elements.min(5) {
                out.write_all(&table[(bits >> (12 * lane)) as usize % table.len()])?;
            }
            elements -= elements.min(5);
        }
    }
    out.into_inner()?.sync_all()
}

/// Mean and deviation that keep activations finite and choices of experts clear.
fn distribution(tensor: &Declared) -> (f32, f32) {
    match tensor.shape[..] {
        [_] => (1.0, 0.1),
        [.., fan_in] => {
            let gain = match tensor.name.as_str() {
                name if name.contains("embed") => return (0.0, 1.0),
                name if name.ends_with("gate.weight") => 2.0,
                name if name.starts_with("lm_head") => 2.0,
                _ => 1.0,
            };
            (0.0, gain / (fan_in as f32).sqrt())
        }
        [] => (0.0, 1.0),
    }
}

/// 4096 values of a standard normal distribution at evenly spaced quantiles.
struct Normals(Vec<f32>);

impl Normals {
    fn new() -> Self {
        // Inverse of the logistic approximation of the normal distribution: off by less than 0.02, which is no matter.
        let quantile = |p: f32| (p / (1.0 - p)).ln() / 1.702;
        Normals((0..4096).map(|i| quantile((i as f32 + 0.5) / 4096.0)).collect())
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// FNV-1a, so that a tensor's values do not depend on the order of tensors.
fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ byte as u64).wrapping_mul(0x100_0000_01b3))
}
