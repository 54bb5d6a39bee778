//! The safetensors container: `u64` little-endian header length n, n bytes of JSON
//! `{name: {dtype, shape, data_offsets: [begin, end]}, "__metadata__": …}`, then the data. Offsets count from the
//! byte behind the header, which need not be aligned to anything.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Error, MapAccess, Visitor};
use serde_json::Value;

use super::{StoredType, check_overlap};
use crate::read::whole::WholeFile;
use crate::{Result, StoreError};

/// The format's own limit.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// No model's file is larger (a pebibyte), and sums of sizes below it do not overflow.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 50;

/// One tensor of a header.
#[derive(Debug)]
pub struct Entry {
    /// Element type.
    pub dtype: StoredType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// First byte within the file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// What a header says.
#[derive(Debug)]
pub struct Header {
    /// Its tensors, in the order of the file.
    pub tensors: Vec<(String, Entry)>,
    /// `format` of its `__metadata__`: what wrote it, and whose tensors they are (`pt`, `mlx`).
    pub format: Option<String>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object of dtype, shape and data_offsets")]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// Reads and checks a file's header.
///
/// # Errors
/// A truncated or overlong header, invalid JSON, a tensor whose range leaves the file, overlaps another, or does not
/// fit its shape: one line that names file and tensor.
pub fn read_header(path: &Path) -> Result<Header> {
    let malformed = |problem: String| StoreError::Malformed { path: path.to_owned(), problem };
    let file = WholeFile::open(path)?;
    if file.bytes() < 8 {
        return Err(malformed(format!(
            "is {} bytes long, which is no safetensors file; download it again",
            file.bytes()
        )));
    }
    if file.bytes() > FILE_BYTES_MAX {
        return Err(malformed(format!("is {} bytes long, which no model's file is", file.bytes())));
    }
    let mut length = [0; 8];
    length.copy_from_slice(&file.read_at(0, 8)?);
    let header_bytes = u64::from_le_bytes(length);
    if header_bytes > HEADER_BYTES_MAX || header_bytes > file.bytes() - 8 {
        let problem = format!(
            "its header claims {header_bytes} bytes of {}; it is truncated or no safetensors file, download it again",
            file.bytes()
        );
        return Err(malformed(problem));
    }
    let header = file.read_at(8, header_bytes as usize)?;
    let Raw { entries, format } = serde_json::from_slice(&header)
        .map_err(|error| malformed(format!("its header is not valid: {error}; download it again")))?;
    let data_start = 8 + header_bytes;
    let data_bytes = file.bytes() - data_start;
    let tensors: Vec<(String, Entry)> = entries
        .into_iter()
        .map(|(name, raw)| {
            let entry = check(&name, raw, data_start, data_bytes).map_err(malformed)?;
            Ok((name, entry))
        })
        .collect::<Result<_>>()?;
    check_overlap(&tensors).map_err(malformed)?;
    Ok(Header { tensors, format })
}

fn check(name: &str, raw: RawEntry, data_start: u64, data_bytes: u64) -> Result<Entry, String> {
    let [begin, end] = raw.data_offsets;
    if begin > end || end > data_bytes {
        return Err(format!(
            "tensor {name} lies at bytes {begin}..{end} of {data_bytes}; the file is truncated or damaged, download it again"
        ));
    }
    let (dtype, bits) = stored_type(&raw.dtype);
    let elements = raw.shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    let shape = raw.shape.iter().map(|&dim| usize::try_from(dim)).collect::<Result<_, _>>();
    let (Some(elements), Ok(shape)) = (elements, shape) else {
        return Err(format!("tensor {name} has the shape {:?}, larger than any; download the file again", raw.shape));
    };
    let expected = bits.map(|bits| elements.checked_mul(bits).map(|bits| bits.div_ceil(8)));
    if expected.is_some_and(|expected| expected != Some(end - begin)) {
        return Err(format!(
            "tensor {name} has {} bytes, which does not fit {} {:?}; download the file again",
            end - begin,
            raw.dtype,
            raw.shape
        ));
    }
    Ok(Entry { dtype, shape, offset: data_start + begin, bytes: end - begin })
}

/// The type and, where it is known, the bits of one element.
pub(crate) fn stored_type(name: &str) -> (StoredType, Option<u64>) {
    match name {
        "F32" => (StoredType::F32, Some(32)),
        "F16" => (StoredType::F16, Some(16)),
        "BF16" => (StoredType::Bf16, Some(16)),
        "U32" => (StoredType::U32, Some(32)),
        other => {
            let bits = match other {
                "F64" | "I64" | "U64" => Some(64),
                "I32" => Some(32),
                "I16" | "U16" => Some(16),
                "I8" | "U8" | "BOOL" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => Some(8),
                _ => None,
            };
            (StoredType::Other(other.to_owned()), bits)
        }
    }
}

/// The header in file order, refusing a name that comes twice.
struct Raw {
    entries: Vec<(String, RawEntry)>,
    format: Option<String>,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Raw;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
                let (mut entries, mut seen, mut format) = (Vec::new(), HashSet::new(), None);
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        // Whatever else it is, is nobody's business here.
                        format = map.next_value::<Value>()?["format"].as_str().map(str::to_owned);
                        continue;
                    }
                    let problem = |what: fmt::Arguments| A::Error::custom(format_args!("tensor {name}: {what}"));
                    if !seen.insert(name.clone()) {
                        return Err(problem(format_args!("comes twice")));
                    }
                    let entry = map.next_value().map_err(|error| problem(format_args!("{error}")))?;
                    entries.push((name, entry));
                }
                Ok(Raw { entries, format })
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
