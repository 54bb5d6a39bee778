//! A pack: our own optional layout of a model, in which every expert is one aligned record, so that a miss is one read
//! instead of three to nine.
//!
//! A pack is a folder:
//!
//! | file | what |
//! |---|---|
//! | `outpour-pack.json` | the [`Manifest`]: every file with its tensors and checksums. It gets this name when all the others are whole; before, it is `outpour-pack.unfinished.json` |
//! | `config.json`, tokenizer, templates | copies |
//! | `trunk.weights` | every tensor that is no expert |
//! | `layer-000.experts` … | the experts of a layer |
//!
//! `trunk.weights` holds the tensors as they were stored, in the order of the manifest:
//!
//! | bytes | what |
//! |---|---|
//! | at a multiple of 4096, as the manifest says | a tensor, row-major, little-endian |
//! | then, up to the next multiple of 4096 | zeros |
//!
//! A file of experts holds one record for each expert, in ascending order. `r` is the manifest's `record_bytes`, a multiple
//! of 4096:
//!
//! | bytes | what |
//! |---|---|
//! | `r·e …` | expert `e`'s gate: weights, then scales and biases if it is quantised |
//! | behind them | its up, then its down, likewise. Each part is at a multiple of 64 within the record: the manifest's `offset` of the tensor |
//! | then, up to `r·(e+1)` | zeros |
//!
//! Records are checksummed with XXH3 (64 bits, seed 0): `xxh3` in the manifest holds 16 hexadecimal digits for each, in
//! order. The records of a file of experts are its experts, zeros included; those of `trunk.weights` are its tensors, of any
//! other file all of it, cut every 4 MiB; but a tensor of which single rows are read, such as the embedding, is cut as its `cut`
//! in the manifest says, so that a row is checked without much around it.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::checkpoint::safetensors::{FILE_BYTES_MAX, stored_type};
use crate::checkpoint::{TensorInfo, read_json};
use crate::checksums::{Area, Checksums};
use crate::write::ALIGN;
use crate::{Result, StoreError};

/// The manifest of a whole pack.
pub const MANIFEST: &str = "outpour-pack.json";
/// The manifest of a pack that is being written.
pub const UNFINISHED: &str = "outpour-pack.unfinished.json";
/// What parts of an expert are aligned to within its record: a line of the processor's cache.
pub const PART_ALIGN: usize = 64;
/// Records are cut to this size, unless they are experts.
pub(crate) const CUT_BYTES: u64 = 4 << 20;
/// Records of a tensor of which single rows are read, at most: their checksums are 2 MiB, and what is read around a row is little.
const ROW_RECORDS_MAX: u64 = 1 << 18;
/// [`Manifest::experts`] of a pack that requantised nothing.
pub const AS_THEY_WERE: &str = "as they were";
/// Digits of a checksum.
const DIGITS: usize = 16;
/// The version of the layout.
const VERSION: u32 = 1;

/// What a pack holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this layout.
    pub version: u32,
    /// How experts are stored, in words: `as they were`, `affine4 in groups of 64`.
    pub experts: String,
    /// The files that it was made from.
    pub made_from: Vec<Origin>,
    /// Its own files, in the order in which they are written.
    pub files: Vec<PackFile>,
}

/// A weight file that a pack was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Name in its folder.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// Time of modification, in nanoseconds since 1970.
    pub modified: u64,
}

/// A file of a pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackFile {
    /// Name in the pack's folder.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// Of a file of experts: bytes from one to the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_bytes: Option<u64>,
    /// Its tensors, if it holds weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<PackTensor>,
    /// Checksums of its records, 16 hexadecimal digits each; nothing while it is not written.
    pub xxh3: String,
}

/// A tensor of a pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackTensor {
    /// As the model asks for it.
    pub name: String,
    /// As safetensors name it.
    pub dtype: String,
    /// Dimensions, outermost first; in a file of experts the first is their number.
    pub shape: Vec<usize>,
    /// First byte in the file; in a file of experts, in each record.
    pub offset: u64,
    /// Bytes of its records, where single rows of it are read: a power of two, from 4096 up to 4 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<u64>,
}

/// How a tensor of so many bytes is cut into records, of which single rows are read.
pub(crate) fn row_cut(bytes: u64) -> u64 {
    let cuts = std::iter::successors(Some(ALIGN as u64), |cut| Some(2 * cut));
    cuts.take_while(|&cut| cut < CUT_BYTES).find(|cut| bytes.div_ceil(*cut) <= ROW_RECORDS_MAX).unwrap_or(CUT_BYTES)
}

impl Manifest {
    /// How experts are stored, where that is not as they were.
    pub fn requantised(&self) -> Option<&str> {
        (self.experts != AS_THEY_WERE).then_some(&self.experts)
    }

    /// A manifest of files that are still to be written.
    pub(crate) fn new(experts: String, made_from: Vec<Origin>, files: Vec<PackFile>) -> Manifest {
        Manifest { version: VERSION, experts, made_from, files }
    }

    /// The manifest of the pack in `dir`; `None` where there is none.
    ///
    /// # Errors
    /// When it is damaged, of another version, or of a pack that is not whole.
    pub fn find(dir: &Path) -> Result<Option<Manifest>> {
        let path = dir.join(MANIFEST);
        if path.exists() {
            return Manifest::read(&path, true).map(Some);
        }
        if dir.join(UNFINISHED).exists() {
            let problem = "holds a pack that is not finished: run the same `outpour pack` again, which goes on where it was, or remove the folder";
            return Err(StoreError::Malformed { path: dir.to_owned(), problem: problem.into() });
        }
        Ok(None)
    }

    /// Reads a manifest and checks every number in it. `whole`: all files must be written.
    pub(crate) fn read(path: &Path, whole: bool) -> Result<Manifest> {
        let malformed = |problem: String| StoreError::Malformed {
            path: path.to_owned(),
            problem: format!("{problem}; pack the model again, into a new folder"),
        };
        let value = read_json(path).map_err(|error| match error {
            StoreError::Malformed { .. } => malformed("is no manifest of a pack: it is damaged".into()),
            other => other,
        })?;
        if value["version"].as_u64().is_some_and(|version| version != u64::from(VERSION)) {
            return Err(malformed(format!("is of version {}, and this outpour reads {VERSION}", value["version"])));
        }
        let manifest: Manifest =
            serde_json::from_value(value).map_err(|error| malformed(format!("is no manifest of a pack: {error}")))?;
        let mut names = HashSet::new();
        for file in &manifest.files {
            let problem = |problem: String| malformed(format!("{}: {problem}", file.name));
            let plain = Path::new(&file.name).file_name().is_some_and(|name| name == file.name.as_str());
            if !plain || !names.insert(&file.name) {
                return Err(problem("is no file name, or comes twice".into()));
            }
            file.check(whole).map_err(problem)?;
        }
        Ok(manifest)
    }

    /// The same with nothing written.
    pub(crate) fn plan(&self) -> Manifest {
        let mut plan = self.clone();
        plan.files.iter_mut().for_each(|file| file.xxh3.clear());
        plan
    }
}

impl PackTensor {
    /// Bytes of all of it; `None` where its type is unknown or the number is none.
    fn bytes(&self) -> Option<u64> {
        let elements = self.shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim as u64))?;
        let bits = elements.checked_mul(stored_type(&self.dtype).1?)?;
        Some(bits.div_ceil(8)).filter(|&bytes| bytes <= FILE_BYTES_MAX)
    }
}

impl PackFile {
    /// Whether it was written to its end.
    pub(crate) fn is_written(&self) -> bool {
        !self.xxh3.is_empty()
    }

    /// What its records lie in.
    fn areas(&self) -> impl Iterator<Item = Area> {
        let by_tensor = self.record_bytes.is_none();
        let of_tensor = |tensor: &PackTensor| Area {
            offset: tensor.offset,
            bytes: tensor.bytes().unwrap_or(0),
            step: tensor.cut.unwrap_or(CUT_BYTES),
        };
        let whole = Area { offset: 0, bytes: self.bytes, step: self.record_bytes.unwrap_or(CUT_BYTES) };
        let whole = (!by_tensor || self.tensors.is_empty()).then_some(whole);
        self.tensors.iter().filter(move |_| by_tensor).map(of_tensor).chain(whole)
    }

    /// What of it is read and written at a time: an expert, or at most 4 MiB, which are whole records.
    pub(crate) fn pieces(&self) -> Vec<Area> {
        let pieces = |area: Area| {
            let cut = Area { step: self.record_bytes.unwrap_or(CUT_BYTES), ..area };
            cut.records().map(move |piece| Area { offset: piece.start, bytes: piece.end - piece.start, ..area })
        };
        self.areas().flat_map(pieces).collect()
    }

    /// What its bytes must be.
    pub(crate) fn checksums(&self) -> Checksums {
        let digits = |i: usize| self.xxh3.get(i * DIGITS..(i + 1) * DIGITS);
        let sum = |i: usize| {
            digits(i).and_then(|text| u64::from_str_radix(text, 16).ok()).expect("invariant: checked when it was read")
        };
        Checksums::new(self.areas(), (0..self.xxh3.len() / DIGITS).map(sum).collect())
    }

    /// Notes the checksums of its records.
    pub(crate) fn written(&mut self, sums: &[u64]) {
        self.xxh3 = sums.iter().map(|sum| format!("{sum:016x}")).collect();
    }

    /// What the reader of a checkpoint wants to know of its tensors; the number of the file is the caller's.
    pub(crate) fn tensor_infos(&self) -> impl Iterator<Item = (String, TensorInfo)> {
        self.tensors.iter().map(|tensor| {
            let info = TensorInfo {
                dtype: stored_type(&tensor.dtype).0,
                shape: tensor.shape.clone(),
                file: 0,
                offset: tensor.offset,
                bytes: tensor.bytes().unwrap_or(0),
                stride: self.record_bytes,
            };
            (tensor.name.clone(), info)
        })
    }

    fn check(&self, whole: bool) -> Result<(), String> {
        if self.bytes > FILE_BYTES_MAX {
            return Err(format!("has {} bytes, which no model's file has", self.bytes));
        }
        let ranges = self.tensors.iter().map(|tensor| self.check_tensor(tensor)).collect::<Result<Vec<_>, _>>()?;
        if let Some(pair) = ranges.windows(2).find(|pair| pair[0].end > pair[1].start) {
            return Err(format!("tensors overlap at byte {}", pair[1].start));
        }
        if self.record_bytes.is_some() && self.tensors.is_empty() {
            return Err("has records of experts and no tensors".into());
        }
        if self.xxh3.is_empty() && !whole {
            return Ok(());
        }
        let records: u64 = self.areas().map(|area| area.count()).sum();
        let digits = self.xxh3.bytes().all(|digit| digit.is_ascii_hexdigit());
        match digits && self.xxh3.len() as u64 == DIGITS as u64 * records {
            true => Ok(()),
            false => Err(format!("has {} digits of checksums for {records} records", self.xxh3.len())),
        }
    }

    /// Where a tensor lies, in the file or in each record.
    fn check_tensor(&self, tensor: &PackTensor) -> Result<Range<u64>, String> {
        let PackTensor { name, dtype, shape, offset, cut } = tensor;
        if cut.is_some_and(|cut| !cut.is_power_of_two() || !(ALIGN as u64..=CUT_BYTES).contains(&cut)) {
            return Err(format!("tensor {name} is cut into records of {} bytes", cut.unwrap_or(0)));
        }
        let Some(bytes) = tensor.bytes().filter(|_| *offset <= FILE_BYTES_MAX) else {
            return Err(format!("tensor {name} of {dtype} {shape:?} at byte {offset} is of no known type or size"));
        };
        let Some(record_bytes) = self.record_bytes else {
            return match offset + bytes <= self.bytes {
                true => Ok(*offset..offset + bytes),
                false => Err(format!("tensor {name} ends at byte {} of {}", offset + bytes, self.bytes)),
            };
        };
        let experts = shape.first().copied().unwrap_or(0) as u64;
        let aligned = record_bytes > 0 && record_bytes.is_multiple_of(ALIGN as u64);
        if !aligned || experts == 0 || experts.checked_mul(record_bytes) != Some(self.bytes) {
            return Err(format!("tensor {name} of {shape:?} does not fit records of {record_bytes} bytes"));
        }
        let own = bytes / experts;
        match offset + own <= record_bytes && bytes.is_multiple_of(experts) {
            true => Ok(*offset..offset + own),
            false => Err(format!("tensor {name} ends at byte {} of a record of {record_bytes}", offset + own)),
        }
    }
}
