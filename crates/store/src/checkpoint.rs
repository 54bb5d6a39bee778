//! What the user has on disk, read as names → type, shape, file and offset. Never copied to be used.

pub mod gguf;
pub mod safetensors;
mod source;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::read::whole::read_whole;
use crate::{Result, StoreError};
pub use gguf::Metadata;
pub use source::SourceFile;

/// Largest JSON file of a checkpoint that is read (the largest seen index, of 1T models, has 20 MB).
const JSON_BYTES_MAX: u64 = 256 << 20;

/// How a tensor's elements are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// Unsigned 32-bit integers, which pack quantised weights.
    U32,
    /// Blocks of weights with scales of their own.
    Blocks(BlockType),
    /// Any other type, by the name the file gives it.
    Other(String),
}

/// A type whose weights come in blocks along the last dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockType {
    /// What ggml calls it.
    pub name: &'static str,
    /// Weights of a block.
    pub weights: usize,
    /// Bytes of a block.
    pub bytes: usize,
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StoredType::F32 => "F32",
            StoredType::F16 => "F16",
            StoredType::Bf16 => "BF16",
            StoredType::U32 => "U32",
            StoredType::Blocks(blocks) => blocks.name,
            StoredType::Other(name) => name,
        })
    }
}

/// Where a tensor lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: StoredType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Index into [`Checkpoint::files`].
    pub file: usize,
    /// First byte within the file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// A folder of safetensors files with its configuration, or GGUF files.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: Value,
    gguf: Option<Gguf>,
    files: Vec<Arc<SourceFile>>,
    tensors: HashMap<String, TensorInfo>,
}

/// What GGUF files say beside their tensors.
#[derive(Debug)]
struct Gguf {
    metadata: Metadata,
    generation: Value,
}

impl Checkpoint {
    /// Opens a model: a GGUF file or the folder of one (see [`gguf::find`]), or a folder with `config.json` and `model.safetensors`, or the shards that
    /// `model.safetensors.index.json` lists. Only headers are read.
    ///
    /// # Errors
    /// One line that names the file: missing shards, headers that are truncated, overlap or lie about sizes.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        if !path.join("config.json").exists()
            && let Some(files) = gguf::find(path)?
        {
            return Checkpoint::open_gguf(&files);
        }
        let dir = model_dir(path)?;
        let config = dir.join("config.json");
        if !config.exists() {
            let problem = "is missing; download it, or give the folder that holds it and the .safetensors files";
            return Err(StoreError::Malformed { path: config, problem: problem.into() });
        }
        let config = read_json(&config)?;
        let (names, listed) = weight_files(&dir)?;
        let mut checkpoint = Checkpoint { dir, config, gguf: None, files: Vec::new(), tensors: HashMap::new() };
        for name in &names {
            let path = checkpoint.dir.join(name);
            checkpoint.add_file(&path, safetensors::read_header(&path)?)?;
        }
        for (tensor, shard) in listed {
            if !checkpoint.tensors.contains_key(&tensor) {
                return Err(checkpoint.malformed(
                    &shard,
                    format!("has no tensor {tensor}, which model.safetensors.index.json places there; download the file again"),
                ));
            }
        }
        Ok(checkpoint)
    }

    /// The parts of a GGUF model, in order. Its config is what [`Self::describe`] is told.
    fn open_gguf(paths: &[PathBuf]) -> Result<Checkpoint> {
        let dir = paths[0].parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        let mut checkpoint =
            Checkpoint { dir, config: Value::Null, gguf: None, files: Vec::new(), tensors: HashMap::new() };
        let mut claimed = None;
        for (part, path) in paths.iter().enumerate() {
            let gguf::Header { metadata, tensors } = gguf::read_header(path)?;
            let number = |key| metadata.number(key);
            let (of, index) = (number("split.count").unwrap_or(1).max(1), number("split.no").unwrap_or(0));
            if (of, index) != (paths.len() as u64, part as u64) {
                let problem =
                    format!("says it is part {} of {of}, which its name does not; download the parts again", index + 1);
                return Err(StoreError::Malformed { path: path.clone(), problem });
            }
            claimed = claimed.or(number("split.tensors.count"));
            checkpoint.add_file(path, tensors)?;
            checkpoint.gguf.get_or_insert(Gguf { metadata, generation: Value::Null });
        }
        let found = checkpoint.tensors.len() as u64;
        match claimed.filter(|&claimed| claimed != found) {
            Some(claimed) => Err(StoreError::Malformed {
                path: paths[0].clone(),
                problem: format!(
                    "says the model has {claimed} tensors, and its parts hold {found}; download them again"
                ),
            }),
            None => Ok(checkpoint),
        }
    }

    fn add_file(&mut self, path: &Path, entries: Vec<(String, safetensors::Entry)>) -> Result<()> {
        let file = self.files.len();
        self.files.push(SourceFile::open(path)?);
        for (name, entry) in entries {
            let info =
                TensorInfo { dtype: entry.dtype, shape: entry.shape, file, offset: entry.offset, bytes: entry.bytes };
            if let Some(earlier) = self.tensors.get(&name) {
                let other = self.files[earlier.file].path().display().to_string();
                return Err(self.malformed(
                    &path.to_string_lossy(),
                    format!("tensor {name} is in {other} already; remove the file that does not belong to this model"),
                ));
            }
            self.tensors.insert(name, info);
        }
        Ok(())
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `config.json`, or of GGUF files what [`Self::describe`] was told.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// What GGUF files say beside their tensors; `None` for safetensors.
    pub fn gguf(&self) -> Option<&Metadata> {
        self.gguf.as_ref().map(|gguf| &gguf.metadata)
    }

    /// Says what the metadata of GGUF files are as `config.json` and `generation_config.json`.
    pub fn describe(&mut self, config: Value, generation: Value) {
        self.config = config;
        if let Some(gguf) = &mut self.gguf {
            gguf.generation = generation;
        }
    }

    /// The weight files.
    pub fn files(&self) -> &[Arc<SourceFile>] {
        &self.files
    }

    /// A tensor by its name on disk.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// All tensors, in no order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// Another JSON file of the folder, such as `generation_config.json`, the only one that GGUF files have; `None` where there
    /// is none.
    ///
    /// # Errors
    /// When it is there and is not a JSON object.
    pub fn json(&self, name: &str) -> Result<Option<Value>> {
        if let Some(gguf) = &self.gguf {
            return Ok((name == "generation_config.json").then(|| gguf.generation.clone()));
        }
        let path = self.dir.join(name);
        if path.exists() { read_json(&path).map(Some) } else { Ok(None) }
    }

    /// Checks that no weight file was replaced or truncated since it was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        self.files.iter().try_for_each(|file| file.check_unchanged())
    }

    /// An error about a file of this checkpoint.
    pub fn malformed(&self, file: &str, problem: String) -> StoreError {
        StoreError::Malformed { path: self.dir.join(file), problem }
    }
}

fn model_dir(path: &Path) -> Result<PathBuf> {
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    let parent = path.parent().filter(|_| path.is_file() && path.extension().is_some_and(|e| e == "safetensors"));
    match parent {
        Some(parent) if parent.as_os_str().is_empty() => Ok(PathBuf::from(".")),
        Some(parent) => Ok(parent.to_owned()),
        None if path.exists() => Err(StoreError::Malformed {
            path: path.to_owned(),
            problem: "is no model: give a GGUF file, or the folder that holds config.json and the .safetensors files"
                .into(),
        }),
        None => Err(StoreError::Malformed {
            path: path.to_owned(),
            problem:
                "no such folder: give a GGUF file, or the folder that holds config.json and the .safetensors files"
                    .into(),
        }),
    }
}

fn read_json(path: &Path) -> Result<Value> {
    let malformed = |problem: String| StoreError::Malformed { path: path.to_owned(), problem };
    let bytes = read_whole(path, JSON_BYTES_MAX)?;
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| malformed(format!("is not valid JSON: {error}; download it again")))?;
    if value.is_object() { Ok(value) } else { Err(malformed("is not a JSON object; download it again".into())) }
}

type Listed = Vec<(String, String)>;

/// The weight files' names, and the index's tensor → file entries where there is an index.
fn weight_files(dir: &Path) -> Result<(Vec<String>, Listed)> {
    let index_path = dir.join("model.safetensors.index.json");
    let malformed = |path: &Path, problem: String| StoreError::Malformed { path: path.to_owned(), problem };
    if !index_path.exists() {
        let single = "model.safetensors";
        if !dir.join(single).exists() {
            return Err(malformed(
                dir,
                format!("holds neither {single} nor {single}.index.json; download the model's weights"),
            ));
        }
        return Ok((vec![single.to_owned()], Vec::new()));
    }
    let index = read_json(&index_path)?;
    let Some(map) = index.get("weight_map").and_then(Value::as_object) else {
        return Err(malformed(&index_path, "has no weight_map; download the file again".into()));
    };
    let mut listed = Vec::with_capacity(map.len());
    for (tensor, shard) in map {
        match shard.as_str() {
            Some(name) if Path::new(name).file_name().is_some_and(|file| file == name) => {
                listed.push((tensor.clone(), name.to_owned()));
            }
            _ => {
                return Err(malformed(
                    &index_path,
                    format!("weight_map places {tensor} in {shard}, which is no file name; download the file again"),
                ));
            }
        }
    }
    let mut names: Vec<String> = listed.iter().map(|(_, shard)| shard.clone()).collect();
    names.sort();
    names.dedup();
    let missing: Vec<&String> = names.iter().filter(|name| !dir.join(name).exists()).collect();
    if let Some(first) = missing.first() {
        let problem = format!("is missing ({} of {} shards are); download it again", missing.len(), names.len());
        return Err(malformed(&dir.join(first), problem));
    }
    Ok((names, listed))
}

fn check_overlap(entries: &[(String, safetensors::Entry)]) -> Result<(), String> {
    let mut order: Vec<&(String, safetensors::Entry)> = entries.iter().filter(|(_, entry)| entry.bytes > 0).collect();
    order.sort_by_key(|(_, entry)| entry.offset);
    match order.windows(2).find(|pair| pair[0].1.offset + pair[0].1.bytes > pair[1].1.offset) {
        Some(pair) => {
            Err(format!("tensors {} and {} overlap; the file is damaged, download it again", pair[0].0, pair[1].0))
        }
        None => Ok(()),
    }
}
