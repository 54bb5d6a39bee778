//! What the user has on disk, read as names → type, shape, file and offset. Never copied to be used.

pub mod gguf;
pub mod safetensors;
mod source;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::checksums::{Checksums, checksum};
use crate::pack::{MANIFEST, Manifest};
use crate::read::whole::{WholeFile, read_whole};
use crate::{NOTICE, Result, StoreError};
pub use gguf::Metadata;
use safetensors::Entry;
pub use source::SourceFile;

/// Largest JSON file of a checkpoint that is read (the largest seen index, of 1T models, has 20 MB).
const JSON_BYTES_MAX: u64 = 256 << 20;
/// Weights in one file, and the list of shards.
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// After which opening is said to take long.
const SLOW: Duration = Duration::from_secs(10);

/// Where releases said how they are quantised before `config.json` did: GPTQ's, AWQ's, modelopt's.
const QUANTIZATION_FILES: [&str; 3] = ["quantize_config.json", "quant_config.json", "hf_quant_config.json"];

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
    /// Length in bytes, without what lies between where there is a stride.
    pub bytes: u64,
    /// Bytes from one element of the first dimension to the next, where others lie between: experts in a pack.
    pub stride: Option<u64>,
}

impl TensorInfo {
    /// Bytes from one element of the first dimension to the next.
    pub fn step(&self) -> u64 {
        self.stride.unwrap_or_else(|| self.bytes / (self.shape.first().copied().unwrap_or(1).max(1) as u64))
    }
}

/// A folder of safetensors files, or a [`Pack`](crate::pack), with its configuration; or GGUF files.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: Value,
    quantization: Option<(&'static str, Value)>,
    pack: Option<Manifest>,
    gguf: Option<Gguf>,
    files: Vec<Arc<SourceFile>>,
    tensors: HashMap<String, TensorInfo>,
    /// Whether nothing is read from this folder any more: see [`SourceFile::is_left_alone`].
    left_alone: Arc<AtomicBool>,
}

/// What GGUF files say beside their tensors.
#[derive(Debug)]
struct Gguf {
    metadata: Metadata,
    generation: Value,
}

impl Checkpoint {
    /// Opens a model: a GGUF file or the folder of one (see [`gguf::find`]); or a folder with `config.json` and
    /// `model.safetensors`, or the shards that `model.safetensors.index.json` lists; or a pack. Only headers are read.
    ///
    /// # Errors
    /// One line that names the file: missing shards, headers that are truncated, overlap or lie about sizes.
    pub fn open(path: &Path) -> Result<Checkpoint> {
        Checkpoint::open_mirrored(path, &[])
    }

    /// [`Checkpoint::open`] of a model that lies in the folders `mirrors` too, on other drives.
    ///
    /// # Errors
    /// As [`Checkpoint::open`] of every folder; and when a mirror's config, files, sizes, headers or weights are others: packs are
    /// compared by their checksums, other files by samples.
    pub fn open_mirrored(path: &Path, mirrors: &[PathBuf]) -> Result<Checkpoint> {
        let mirrors = mirrors.iter().map(|mirror| Checkpoint::open(mirror)).collect::<Result<Vec<_>>>()?;
        let folders: Vec<_> = mirrors.iter().map(|mirror| mirror.dir.canonicalize().ok()).collect();
        if let Some(twice) = (1..mirrors.len()).find(|&i| folders[..i].contains(&folders[i])) {
            let problem = "is given as a mirror twice; give each copy once, every one on a drive of its own".into();
            return Err(StoreError::Malformed { path: mirrors[twice].dir.clone(), problem });
        }
        told_if_slow(path, || Checkpoint::open_beside(path, mirrors))
    }

    fn open_beside(path: &Path, mirrors: Vec<Checkpoint>) -> Result<Checkpoint> {
        let has = |name: &str| path.join(name).exists();
        // GGUF files may have the config of the model beside them that they were made from.
        let others = has("config.json") && [SINGLE, INDEX, MANIFEST].into_iter().any(has);
        if !others && let Some(files) = gguf::find(path)? {
            let checkpoint = Checkpoint::open_gguf(&files, &mirrors)?;
            mirrors.iter().try_for_each(|mirror| mirror.check_copy_of(&checkpoint))?;
            return Ok(checkpoint);
        }
        let dir = model_dir(path)?;
        let pack = Manifest::find(&dir)?;
        let config = dir.join("config.json");
        if !config.exists() {
            let problem = if dir.join("params.json").exists() {
                "is missing, and params.json tells of files in Mistral's own layout, which outpour does not read; download the model's \
                 Hugging Face, MLX or GGUF files"
            } else {
                "is missing; download it, or give the folder that holds it and the .safetensors files"
            };
            return Err(StoreError::Malformed { path: config, problem: problem.into() });
        }
        let config = read_json(&config)?;
        let quantization = quantization_beside(&dir, &config)?;
        let (files, tensors, left_alone) = (Vec::new(), HashMap::new(), Arc::default());
        let mut checkpoint = Checkpoint { dir, config, quantization, pack, gguf: None, files, tensors, left_alone };
        match checkpoint.pack.take() {
            Some(mut pack) => {
                checkpoint.add_packed(&mut pack, &mirrors)?;
                checkpoint.pack = Some(pack);
            }
            None => checkpoint.add_safetensors(&mirrors)?,
        }
        mirrors.iter().try_for_each(|mirror| mirror.check_copy_of(&checkpoint))?;
        Ok(checkpoint)
    }

    fn add_safetensors(&mut self, mirrors: &[Checkpoint]) -> Result<()> {
        let (names, listed) = weight_files(&self.dir)?;
        let mut formats: Vec<(&String, String)> = Vec::new();
        for name in &names {
            let path = self.dir.join(name);
            let safetensors::Header { tensors, format } = safetensors::read_header(&path)?;
            self.add_file(&path, tensors, copies(mirrors, name)?)?;
            formats.extend(format.map(|format| (name, format)));
        }
        check_formats(&formats).map_err(|(file, problem)| self.malformed(file, problem))?;
        for (tensor, shard) in listed {
            if !self.tensors.contains_key(&tensor) {
                return Err(self.malformed(
                    &shard,
                    format!("has no tensor {tensor}, which model.safetensors.index.json places there; download the file again"),
                ));
            }
        }
        Ok(())
    }

    fn add_packed(&mut self, pack: &mut Manifest, mirrors: &[Checkpoint]) -> Result<()> {
        for packed in pack.files.iter_mut().filter(|packed| !packed.tensors.is_empty()) {
            let path = self.dir.join(&packed.name);
            let file = self.files.len();
            let source = SourceFile::open_among(
                &path,
                Some(packed.checksums()),
                copies(mirrors, &packed.name)?,
                &self.left_alone,
            )?;
            // From here on they are with the file, as numbers.
            packed.xxh3 = String::new();
            if source.bytes() != packed.bytes {
                let problem = format!(
                    "has {} bytes, and {MANIFEST} says {}; it is truncated or another pack's: remove the pack, and pack the model again",
                    source.bytes(),
                    packed.bytes
                );
                return Err(StoreError::Malformed { path, problem });
            }
            self.files.push(source);
            for (name, mut info) in packed.tensor_infos() {
                info.file = file;
                self.add_tensor(name, info)?;
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path, entries: Vec<(String, Entry)>, copies: Vec<Arc<SourceFile>>) -> Result<()> {
        let file = self.files.len();
        self.files.push(SourceFile::open_with(path, None, copies)?);
        for (name, Entry { dtype, shape, offset, bytes }) in entries {
            self.add_tensor(name, TensorInfo { dtype, shape, file, offset, bytes, stride: None })?;
        }
        Ok(())
    }

    fn add_tensor(&mut self, name: String, info: TensorInfo) -> Result<()> {
        if let Some(earlier) = self.tensors.get(&name) {
            let problem = if earlier.file == info.file {
                format!("has tensor {name} twice; download or make it again")
            } else {
                let other = self.files[earlier.file].path().display();
                format!("tensor {name} is in {other} already; remove the file that does not belong to this model")
            };
            return Err(StoreError::Malformed { path: self.files[info.file].path().to_owned(), problem });
        }
        self.tensors.insert(name, info);
        Ok(())
    }

    /// Refuses a mirror that is another model, or the same folder.
    fn check_copy_of(&self, model: &Checkpoint) -> Result<()> {
        let problem = if self.config != model.config {
            "its config.json is another"
        } else if self.quantization != model.quantization {
            "its settings of quantisation are others"
        } else if self.tensors != model.tensors || self.files.len() != model.files.len() {
            "its files have other headers"
        } else if self.dir.canonicalize().ok() == model.dir.canonicalize().ok() {
            "it is the same folder"
        } else {
            return self.check_contents_of(model);
        };
        let problem = format!("is no mirror of {}: {problem}; give a copy on another drive", model.dir.display());
        Err(StoreError::Malformed { path: self.dir.clone(), problem })
    }

    /// Refuses a mirror whose files have the model's headers and other weights: packs by their checksums, others by samples.
    fn check_contents_of(&self, model: &Checkpoint) -> Result<()> {
        for (number, (own, theirs)) in self.files.iter().zip(&model.files).enumerate() {
            let same = match (own.checksums(), theirs.checksums()) {
                (Some(own), Some(theirs)) => own == theirs,
                _ => self.samples(number)? == model.samples(number)?,
            };
            if !same {
                let problem = format!(
                    "holds other weights than {}: it is of another model, or damaged; copy the file again, or leave this --mirror out",
                    theirs.path().display()
                );
                return Err(StoreError::Malformed { path: own.path().to_owned(), problem });
            }
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

    /// A file beside `config.json` that says how the model is quantised, where that says nothing, and what it says.
    pub fn quantization(&self) -> Option<(&'static str, &Value)> {
        self.quantization.as_ref().map(|(file, said)| (*file, said))
    }

    /// The manifest, of a pack; the checksums of its weights are with their files.
    pub fn pack(&self) -> Option<&Manifest> {
        self.pack.as_ref()
    }

    /// Folders that hold the model, this one included.
    pub fn copies(&self) -> usize {
        1 + self.files.iter().map(|file| file.copies().len()).min().unwrap_or(0)
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

    /// A name for the model and its weights: of its config, and of the size, the time and samples of every file. A file that was
    /// copied or written anew has another time, so that its model has another name, though it may be the same.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn fingerprint(&self) -> Result<u64> {
        let mut content = self.config().to_string().into_bytes();
        content.extend(self.quantization().into_iter().flat_map(|(_, said)| said.to_string().into_bytes()));
        for (number, file) in self.files.iter().enumerate() {
            let modified = file.modified().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            content.extend(modified.map_or(0, |time| time.as_nanos()).to_le_bytes());
            content.extend(file.bytes().to_le_bytes());
            content.extend(self.samples(number)?);
        }
        Ok(checksum(&content))
    }

    /// Bytes out of a weight file: at places all over it, and from the middle of a tensor of each type and shape, so that a
    /// model whose experts alone, or whose attention alone, was trained further differs in some.
    fn samples(&self, file: usize) -> Result<Vec<u8>> {
        const SAMPLES: u64 = 16;
        const SAMPLE_BYTES: u64 = 4096;
        let whole = WholeFile::open(self.files[file].path())?;
        let even = (1..=SAMPLES).map(|sample| whole.bytes().saturating_sub(SAMPLE_BYTES) / SAMPLES * sample);
        let mut kinds = BTreeMap::new();
        for info in self.tensors.values().filter(|info| info.file == file) {
            let middle = info.offset + info.bytes / 2;
            let kind = kinds.entry((info.dtype.to_string(), &info.shape)).or_insert(middle);
            *kind = middle.min(*kind);
        }
        let mut samples = Vec::new();
        for at in even.chain(kinds.values().copied()) {
            let at = at.min(whole.bytes());
            samples.extend(whole.read_at(at, SAMPLE_BYTES.min(whole.bytes() - at) as usize)?);
        }
        Ok(samples)
    }

    /// Memory that the checksums of its files and of their mirrors take.
    pub fn checksum_bytes(&self) -> usize {
        let files = self.files.iter().flat_map(|file| std::iter::once(file).chain(file.copies()));
        files.filter_map(|file| file.checksums()).map(Checksums::bytes).sum()
    }

    /// An error about a file of this checkpoint.
    pub fn malformed(&self, file: &str, problem: String) -> StoreError {
        StoreError::Malformed { path: self.dir.join(file), problem }
    }
}

/// What a file beside `config.json` says of quantisation, where that says nothing.
fn quantization_beside(dir: &Path, config: &Value) -> Result<Option<(&'static str, Value)>> {
    let all = [config, &config["text_config"]];
    if all.iter().any(|part| ["quantization_config", "quantization"].iter().any(|key| !part[key].is_null())) {
        return Ok(None);
    }
    let Some(name) = QUANTIZATION_FILES.into_iter().find(|name| dir.join(name).exists()) else { return Ok(None) };
    let mut said = read_json(&dir.join(name))?;
    // modelopt's file also says who made it.
    let said = if said["quantization"].is_object() { said["quantization"].take() } else { said };
    Ok(Some((name, said)))
}

/// The files of this name in mirrors.
fn copies(mirrors: &[Checkpoint], name: &str) -> Result<Vec<Arc<SourceFile>>> {
    let of = |mirror: &Checkpoint| {
        let found = mirror.files.iter().find(|file| file.path().file_name().is_some_and(|own| own == name));
        found.cloned().ok_or_else(|| mirror.malformed(name, "is missing in the mirror; copy it there".into()))
    };
    mirrors.iter().map(of).collect()
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

pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let malformed = |problem: String| StoreError::Malformed { path: path.to_owned(), problem };
    let bytes = read_whole(path, JSON_BYTES_MAX)?;
    let value: Value =
        parse_json(&bytes).map_err(|error| malformed(format!("is not valid JSON: {error}; download it again")))?;
    if value.is_object() { Ok(value) } else { Err(malformed("is not a JSON object; download it again".into())) }
}

/// Says so where opening takes long: a drive that does not answer holds whoever reads from it.
fn told_if_slow<T>(path: &Path, open: impl FnOnce() -> T) -> T {
    let (opened, waits) = mpsc::channel::<()>();
    let path = path.to_owned();
    let watch = thread::spawn(move || {
        if waits.recv_timeout(SLOW) == Err(RecvTimeoutError::Timeout)
            && let Some(notice) = NOTICE.get()
        {
            let seconds = SLOW.as_secs();
            notice(&format!(
                "{}: is not opened after {seconds} s, and waited for; see whether its drive is still connected and mounted",
                path.display()
            ));
        }
    });
    let result = open();
    drop(opened);
    // It ends now, and had nothing to say.
    let _ = watch.join();
    result
}

/// A `config.json`. Python writes infinity as a word that JSON lacks (`time_step_limit` of Nemotron); it is read as that text.
///
/// # Errors
/// When it is no JSON otherwise.
pub fn parse_json(bytes: &[u8]) -> serde_json::Result<Value> {
    const WORD: &[u8] = b"Infinity";
    serde_json::from_slice(bytes).or_else(|error| {
        let (mut quoted, mut at, mut within_text) = (Vec::with_capacity(bytes.len() + 64), 0, false);
        while at < bytes.len() {
            let taken = match &bytes[at..] {
                rest if !within_text && rest.starts_with(WORD) => WORD.len(),
                [b'\\', _, ..] => 2,
                _ => 1,
            };
            within_text ^= bytes[at] == b'"';
            let quote: &[u8] = if taken == WORD.len() { b"\"" } else { b"" };
            quoted.extend([quote, &bytes[at..at + taken], quote].concat());
            at += taken;
        }
        serde_json::from_slice(&quoted).map_err(|_| error)
    })
}

/// Tensors, and the shards that they lie in.
pub type Listed = Vec<(String, String)>;

/// Whether a folder holds `config.json` and every safetensors file of the model; their bytes are not looked at.
pub fn is_whole(dir: &Path) -> bool {
    dir.join("config.json").exists() && weight_files(dir).is_ok()
}

/// The weight files' names, and the index's tensor → file entries where there is an index.
fn weight_files(dir: &Path) -> Result<(Vec<String>, Listed)> {
    let index_path = dir.join(INDEX);
    let malformed = |path: &Path, problem: String| StoreError::Malformed { path: path.to_owned(), problem };
    if !index_path.exists() {
        if !dir.join(SINGLE).exists() {
            let problem = format!("holds neither {SINGLE} nor {INDEX}, and no GGUF file; download the model's weights");
            return Err(malformed(dir, problem));
        }
        return Ok((vec![SINGLE.to_owned()], Vec::new()));
    }
    let (names, listed) = shards(&index_path)?;
    let missing: Vec<&String> = names.iter().filter(|name| !dir.join(name).exists()).collect();
    if let Some(first) = missing.first() {
        let problem = format!("is missing ({} of {} shards are); download it again", missing.len(), names.len());
        return Err(malformed(&dir.join(first), problem));
    }
    Ok((names, listed))
}

/// The shards that a `model.safetensors.index.json` names, and its tensor → shard entries.
///
/// # Errors
/// When it is no such file, or a shard's name is no file name.
pub fn shards(index_path: &Path) -> Result<(Vec<String>, Listed)> {
    let malformed = |problem: String| StoreError::Malformed { path: index_path.to_owned(), problem };
    let index = read_json(index_path)?;
    let Some(map) = index.get("weight_map").and_then(Value::as_object) else {
        return Err(malformed("has no weight_map; download the file again".into()));
    };
    let mut listed = Vec::with_capacity(map.len());
    for (tensor, shard) in map {
        match shard.as_str() {
            Some(name) if Path::new(name).file_name().is_some_and(|file| file == name) => {
                listed.push((tensor.clone(), name.to_owned()));
            }
            _ => {
                return Err(malformed(format!(
                    "weight_map places {tensor} in {shard}, which is no file name; download the file again"
                )));
            }
        }
    }
    let mut names: Vec<String> = listed.iter().map(|(_, shard)| shard.clone()).collect();
    names.sort();
    names.dedup();
    Ok((names, listed))
}

/// Refuses shards of one series, `STEM-00001-of-00003`, that say they are of different programs: what these make of a model has the same
/// names and shapes, and not always the same values.
fn check_formats<'n>(formats: &[(&'n String, String)]) -> Result<(), (&'n str, String)> {
    fn series(name: &str) -> Option<(&str, &str)> {
        let (part, count) = name.rsplit_once("-of-")?;
        Some((part.rsplit_once('-')?.0, count))
    }
    for (name, format) in formats {
        let others = |(other, theirs): &&(&String, String)| theirs != format && series(other) == series(name);
        if let Some((first, other)) = formats.iter().find(others).filter(|_| series(name).is_some()) {
            let problem = format!(
                "says it is of the format {format:?}, and {first} of {other:?}: one of the two is of another conversion of the model, download the shards again"
            );
            return Err((name, problem));
        }
    }
    Ok(())
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
