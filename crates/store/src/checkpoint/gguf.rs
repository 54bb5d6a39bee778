//! The GGUF container, versions 2 and 3 (ggml `docs/gguf.md`), little-endian throughout:
//!
//! ```text
//! "GGUF", u32 version, u64 tensors, u64 entries
//! entries ×  text key, u32 kind, value              a text is u64 length, bytes; a list is u32 kind, u64 length, values
//! tensors ×  text name, u32 n, n × u64 dimension, innermost first, u32 type, u64 offset
//! data, from the next multiple of `general.alignment` (32) on; a tensor's offset counts from there
//! ```
//!
//! A model may be split into files `NAME-00001-of-00003.gguf`, of which the first says what the model is.

mod cursor;
mod files;
mod types;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::safetensors::Entry;
use super::source::SourceFile;
use super::{Checkpoint, Gguf, StoredType, TensorInfo, check_overlap, copies};
use crate::read::whole::WholeFile;
use crate::{Result, StoreError};
use cursor::Cursor;
pub use files::{find, is_model, split};
pub use types::type_number;

/// More entries, and more tensors, than any file has.
const ENTRIES_MAX: u64 = 1 << 16;
const TENSORS_MAX: u64 = 1 << 20;
/// Numbers of a list that is kept; longer ones, and lists of texts, are left in the file.
const KEPT_MAX: u64 = 4096;
/// Texts of a list, and their bytes: the largest vocabularies have 262,208 tokens.
const TEXTS_MAX: u64 = 1 << 22;
const TEXTS_BYTES_MAX: u64 = 256 << 20;
/// No model's file is larger (a pebibyte), and sums of sizes below it do not overflow.
const FILE_BYTES_MAX: u64 = 1 << 50;

/// Tensors that are hyper-parameters: what RoPE's frequencies are divided by. Who reads headers alone needs them too.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";
/// The same within the original context (longrope).
pub const ROPE_FACTORS_SHORT: &str = "rope_factors_short.weight";

/// What a file says beside its tensors.
#[derive(Debug)]
pub struct Metadata {
    path: PathBuf,
    values: Map<String, Value>,
    lists: HashMap<String, List>,
}

/// Where a list that was not kept lies.
#[derive(Clone, Copy, Debug)]
struct List {
    kind: u32,
    len: u64,
    at: u64,
}

/// The header of one file.
#[derive(Debug)]
pub struct Header {
    /// What it says beside its tensors.
    pub metadata: Metadata,
    /// Its tensors.
    pub tensors: Vec<(String, Entry)>,
    /// Bytes before the data.
    pub bytes: u64,
}

impl Metadata {
    /// The file that it is of.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value under a key: a number, a switch, a text or a short list of numbers.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// A text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// A whole number, not negative.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    /// Keys and values, lists that are left in the file not among them, in the order of the file.
    pub fn values(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The length of a list, kept or not.
    pub fn list_len(&self, key: &str) -> Option<usize> {
        let kept = || self.get(key)?.as_array().map(Vec::len);
        self.lists.get(key).map(|list| list.len as usize).or_else(kept)
    }

    /// Reads a list of texts.
    ///
    /// # Errors
    /// When the file cannot be read, or is no longer the same, or a text is not UTF-8.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<String>>> {
        let Some(list) = self.lists.get(key).filter(|list| list.kind == types::TEXT) else { return Ok(None) };
        let file = WholeFile::open(&self.path)?;
        let mut cursor = Cursor::new(&file, &self.path, list.at);
        let (mut texts, mut bytes) = (Vec::new(), 0);
        for _ in 0..list.len {
            texts.push(cursor.text(key)?);
            bytes += texts.last().map_or(0, String::len) as u64;
            if bytes > TEXTS_BYTES_MAX {
                return Err(cursor.malformed(format!("the texts of {key} take more than {TEXTS_BYTES_MAX} bytes")));
            }
        }
        Ok(Some(texts))
    }

    /// Reads a list of whole numbers.
    ///
    /// # Errors
    /// When the file cannot be read, or is no longer the same.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.scalars(key, Value::as_i64)
    }

    /// Reads a list of numbers.
    ///
    /// # Errors
    /// As [`Metadata::numbers`].
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.scalars(key, |value| Some(value.as_f64()? as f32))
    }

    fn scalars<T>(&self, key: &str, of: impl Fn(&Value) -> Option<T>) -> Result<Option<Vec<T>>> {
        if let Some(kept) = self.get(key).and_then(Value::as_array) {
            return Ok(kept.iter().map(of).collect());
        }
        let Some(list) = self.lists.get(key).filter(|list| list.len <= TEXTS_MAX) else { return Ok(None) };
        let file = WholeFile::open(&self.path)?;
        let mut cursor = Cursor::new(&file, &self.path, list.at);
        (0..list.len).map(|_| Ok(of(&cursor.scalar(list.kind, key)?))).collect::<Result<_>>()
    }
}

impl Checkpoint {
    /// The parts of a GGUF model, in order, and of its mirrors. Its config is what [`Checkpoint::describe`] is told.
    pub(super) fn open_gguf(paths: &[PathBuf], mirrors: &[Checkpoint]) -> Result<Checkpoint> {
        let dir = paths[0].parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        let (files, tensors) = (Vec::new(), HashMap::new());
        let left_alone = std::sync::Arc::default();
        let mut checkpoint = Checkpoint {
            dir,
            config: Value::Null,
            quantization: None,
            pack: None,
            gguf: None,
            files,
            tensors,
            left_alone,
        };
        let mut claimed = None;
        for (part, path) in paths.iter().enumerate() {
            let Header { metadata, tensors, .. } = read_header(path)?;
            let number = |key| metadata.number(key);
            let (of, index) = (number("split.count").unwrap_or(1).max(1), number("split.no").unwrap_or(0));
            if (of, index) != (paths.len() as u64, part as u64) {
                let said = index.saturating_add(1);
                let problem =
                    format!("says it is part {said} of {of}, which its name does not; download the parts again");
                return Err(StoreError::Malformed { path: path.clone(), problem });
            }
            if let Some(first) = &checkpoint.gguf {
                check_part(&first.metadata, &metadata)?;
            }
            claimed = claimed.or(number("split.tensors.count"));
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            checkpoint.files.push(SourceFile::open_with(path, None, copies(mirrors, &name)?)?);
            for (name, Entry { dtype, shape, offset, bytes }) in tensors {
                checkpoint.add_tensor(name, TensorInfo { dtype, shape, file: part, offset, bytes, stride: None })?;
            }
            checkpoint.gguf.get_or_insert(Gguf { metadata, generation: Value::Null });
        }
        let found = checkpoint.tensors.len() as u64;
        match claimed.filter(|&claimed| claimed != found) {
            Some(claimed) => {
                let problem =
                    format!("says the model has {claimed} tensors, and its parts hold {found}; download them again");
                Err(StoreError::Malformed { path: paths[0].clone(), problem })
            }
            None => Ok(checkpoint),
        }
    }
}

/// Refuses a part that says something else than the first one: it is another model's, of other weights or in another quantisation.
fn check_part(first: &Metadata, part: &Metadata) -> Result<()> {
    let both = |key: &str, value: &Value| first.get(key).filter(|&own| own != value && key != "split.no").cloned();
    let other = part.values().find_map(|(key, value)| Some((key, value, both(key, value)?)));
    match other {
        None => Ok(()),
        Some((key, value, own)) => {
            let problem = format!(
                "says {key} {value}, and the first part, {}, says {own}: it is of another model, download the parts again",
                first.path().display()
            );
            Err(StoreError::Malformed { path: part.path().to_owned(), problem })
        }
    }
}

/// Reads and checks a file's header.
///
/// # Errors
/// One line that names file and key or tensor: another version, a count or length that the file cannot hold, a tensor whose
/// range leaves the file, overlaps another, or is not of whole blocks.
pub fn read_header(path: &Path) -> Result<Header> {
    read_header_of(path, &|_| Ok(()))
}

/// [`read_header`] of a file whose bytes arrive as they are asked for: `arrive` is told up to where they must be there.
///
/// # Errors
/// As [`read_header`], and those of `arrive`.
pub fn read_header_of(path: &Path, arrive: &dyn Fn(u64) -> Result<()>) -> Result<Header> {
    let malformed = |problem: String| StoreError::Malformed { path: path.to_owned(), problem };
    let file = WholeFile::open(path)?;
    if file.bytes() > FILE_BYTES_MAX {
        return Err(malformed(format!("is {} bytes long, which no model's file is", file.bytes())));
    }
    let mut cursor = Cursor::new(&file, path, 0).arriving(arrive);
    if file.bytes() < 24 || cursor.bytes(4, "its first bytes")? != b"GGUF" {
        return Err(malformed("does not begin as a GGUF file does; download it again".into()));
    }
    match cursor.u32("its version")? {
        2 | 3 => {}
        version @ (0x0200_0000 | 0x0300_0000) => {
            let version = version >> 24;
            return Err(malformed(format!("is a big-endian GGUF file (version {version}); get the little-endian one")));
        }
        version => {
            return Err(malformed(format!(
                "is GGUF of version {version}; supported are 2 and 3: get a newer conversion of the model"
            )));
        }
    }
    let tensors = cursor.count("tensors", TENSORS_MAX, 24)?;
    let entries = cursor.count("entries", ENTRIES_MAX, 12)?;
    let mut metadata = Metadata { path: path.to_owned(), values: Map::new(), lists: HashMap::new() };
    for _ in 0..entries {
        read_entry(&mut cursor, &mut metadata)?;
    }
    let (tensors, bytes) = read_tensors(&mut cursor, &metadata, tensors)?;
    check_overlap(&tensors).map_err(malformed)?;
    Ok(Header { metadata, tensors, bytes })
}

fn read_entry(cursor: &mut Cursor, metadata: &mut Metadata) -> Result<()> {
    let key = cursor.text("a key")?;
    let kind = cursor.u32(&key)?;
    if metadata.values.contains_key(&key) || metadata.lists.contains_key(&key) {
        return Err(cursor.malformed(format!("the key {key} is there twice; download it again")));
    }
    if kind != types::LIST {
        let value = cursor.scalar(kind, &key)?;
        if value.is_null() {
            return Err(cursor.malformed(format!("{key} is no finite number; download it again")));
        }
        metadata.values.insert(key, value);
        return Ok(());
    }
    let kind = cursor.u32(&key)?;
    let size = types::scalar_bytes(kind);
    let len = cursor.count(&format!("values of {key}"), u64::MAX, size.unwrap_or(8))?;
    match size {
        Some(_) if len <= KEPT_MAX => {
            let values = (0..len).map(|_| cursor.scalar(kind, &key)).collect::<Result<_>>()?;
            metadata.values.insert(key, Value::Array(values));
        }
        Some(size) => {
            metadata.lists.insert(key, List { kind, len, at: cursor.at() });
            cursor.skip(len * size);
        }
        None if kind == types::TEXT && len <= TEXTS_MAX => {
            let at = cursor.at();
            for _ in 0..len {
                cursor.skip_text(&key)?;
            }
            metadata.lists.insert(key, List { kind, len, at });
        }
        None if kind == types::TEXT => {
            return Err(
                cursor.malformed(format!("{key} claims {len} texts, more than any model has; download it again"))
            );
        }
        None => {
            return Err(cursor.malformed(format!("{key} is a list of kind {kind}, which is none; download it again")));
        }
    }
    Ok(())
}

/// The tensors, and where the data begin.
fn read_tensors(cursor: &mut Cursor, metadata: &Metadata, count: u64) -> Result<(Vec<(String, Entry)>, u64)> {
    let mut raw = Vec::new();
    for _ in 0..count {
        let name = cursor.text("a tensor's name")?;
        let dims = cursor.u32(&name)?;
        if dims > 4 {
            return Err(cursor.malformed(format!("tensor {name} has {dims} dimensions; download it again")));
        }
        let dims = (0..dims).map(|_| cursor.u64(&name)).collect::<Result<Vec<u64>>>()?;
        raw.push((name.clone(), dims, cursor.u32(&name)?, cursor.u64(&name)?));
    }
    let align = metadata.number("general.alignment").unwrap_or(32);
    if !align.is_power_of_two() || align > 1 << 20 {
        return Err(cursor.malformed(format!("general.alignment is {align}, which is none; download it again")));
    }
    let data_start = cursor.at().next_multiple_of(align);
    let data_bytes = cursor.file_bytes().saturating_sub(data_start);
    let check = |(name, dims, kind, offset): (String, Vec<u64>, u32, u64)| {
        let entry = check(&name, &dims, kind, offset, data_start, data_bytes).map_err(|why| cursor.malformed(why))?;
        Ok((name, entry))
    };
    Ok((raw.into_iter().map(check).collect::<Result<_>>()?, data_start))
}

fn check(name: &str, dims: &[u64], kind: u32, offset: u64, start: u64, data_bytes: u64) -> Result<Entry, String> {
    let elements = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    // GGUF has the innermost dimension first.
    let shape = dims.iter().rev().map(|&dim| usize::try_from(dim)).collect::<Result<_, _>>();
    let (Some(elements), Ok(shape)) = (elements, shape) else {
        return Err(format!("tensor {name} has the dimensions {dims:?}, larger than any; download the file again"));
    };
    let Some((dtype, weights, bytes)) = types::tensor_type(kind) else {
        // Where it lies is known, and how long it is not: it is refused if it is needed.
        let dtype = StoredType::Other(types::unknown(kind));
        return Ok(Entry { dtype, shape, offset: start.saturating_add(offset), bytes: 0 });
    };
    let row = dims.first().copied().unwrap_or(1);
    if !row.is_multiple_of(weights) {
        return Err(format!("tensor {name} has rows of {row}, no number of whole blocks of {dtype}"));
    }
    let end = (elements / weights).checked_mul(bytes).and_then(|bytes| Some((bytes, offset.checked_add(bytes)?)));
    match end {
        Some((bytes, end)) if end <= data_bytes => Ok(Entry { dtype, shape, offset: start + offset, bytes }),
        _ => Err(format!(
            "tensor {name}, {dtype} {shape:?} at byte {offset} of {data_bytes}, does not fit; the file is truncated or damaged, download it again"
        )),
    }
}
