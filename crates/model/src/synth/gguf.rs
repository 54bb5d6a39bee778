//! GGUF files of random weights, as llama.cpp's converter would write them: which types and names tensors have, and the header
//! (`outpour_store::checkpoint::gguf`). Every matrix of the trunk and the experts has the type asked for; where its rows are no
//! whole blocks of it, Q8_0 or F32. Embedding and head are Q8_0 beside blocks; routers, norms and convolutions F32.

use std::fmt;
use std::sync::Arc;

use outpour_kernels::GgmlType;
use outpour_store::checkpoint::gguf::type_number;
use serde_json::{Map, Value, json};

use super::format::{Stored, is_router};
use super::routing::{self, Role, Rows};
use super::values::{self, Content};
use crate::config::ModelError;
use crate::gguf::on_disk;
use crate::weights::{Declared, DeclaredKind};

/// What offsets of tensors are multiples of.
pub(super) const ALIGN: u64 = 32;
/// Kinds of tokens.
const NORMAL: u32 = 1;
const CONTROL: u32 = 3;

/// Types of the matrices of GGUF files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufTypes {
    /// F32.
    F32,
    /// F16.
    F16,
    /// BF16.
    Bf16,
    /// Blocks of one type.
    Blocks(GgmlType),
    /// llama.cpp's `Q4_K_M`: the values of attention and the last matrix of each expert are Q6_K in half of the layers, others
    /// Q4_K.
    Q4KM,
}

impl GgufTypes {
    /// Every one.
    pub fn all() -> impl Iterator<Item = GgufTypes> {
        let plain = [GgufTypes::F32, GgufTypes::F16, GgufTypes::Bf16];
        values::made_blocks().map(GgufTypes::Blocks).chain(plain).chain([GgufTypes::Q4KM])
    }

    /// The blocks of a matrix of this name, the first in which its rows are whole.
    fn blocks(self, name: &str, layers: usize) -> [GgmlType; 2] {
        let blocks = match self {
            GgufTypes::Blocks(blocks) => blocks,
            _ if has_more_bits(name, layers) => GgmlType::Q6K,
            _ => GgmlType::Q4K,
        };
        [blocks, GgmlType::Q8_0]
    }

    /// The name of the type, and a random matrix of it.
    fn random(self, name: &str, layers: usize, cols: usize, deviation: f32) -> (&'static str, Content) {
        let mean = 0.0;
        match self {
            GgufTypes::F32 => ("F32", Content::F32 { mean, deviation }),
            GgufTypes::F16 => ("F16", Content::F16 { mean, deviation }),
            GgufTypes::Bf16 => ("BF16", Content::Bf16 { mean, deviation }),
            GgufTypes::Blocks(_) | GgufTypes::Q4KM => {
                let whole = |blocks: &GgmlType| cols.is_multiple_of(blocks.block_weights());
                match self.blocks(name, layers).into_iter().find(whole) {
                    Some(blocks) => (blocks.name(), Content::blocks(blocks, deviation)),
                    None => ("F32", Content::F32 { mean, deviation }),
                }
            }
        }
    }

    /// The same of a matrix whose rows have structure.
    fn rows(self, rows: &Arc<Rows>, cols: usize) -> (&'static str, Content) {
        match self {
            GgufTypes::F16 => ("F16", Content::RowsF16(rows.clone())),
            GgufTypes::Bf16 => ("BF16", Content::RowsBf16(rows.clone())),
            GgufTypes::Blocks(_) | GgufTypes::Q4KM if cols.is_multiple_of(GgmlType::Q8_0.block_weights()) => {
                (GgmlType::Q8_0.name(), Content::RowsQ8_0(rows.clone()))
            }
            _ => ("F32", Content::RowsF32(rows.clone())),
        }
    }
}

impl fmt::Display for GgufTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            GgufTypes::Blocks(blocks) => blocks.name(),
            GgufTypes::Q4KM => "Q4_K_M",
            GgufTypes::F32 => "F32",
            GgufTypes::F16 => "F16",
            GgufTypes::Bf16 => "BF16",
        };
        f.write_str(&name.to_lowercase())
    }
}

/// Whether llama.cpp's mixes give the matrix more bits: in the first and last eighth of the layers, and every third between.
fn has_more_bits(name: &str, layers: usize) -> bool {
    let sensitive = [".self_attn.v_proj.", ".down_proj."].iter().any(|part| name.contains(part));
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    let (eighth, last) = (layers / 8, 7 * layers / 8);
    let is_among = |layer: usize| layer < eighth || layer >= last || (layer - eighth) % 3 == 2;
    sensitive && layer.is_some_and(is_among)
}

/// The tensors that hold what was declared, in files of `model_type`, which [`crate::gguf::metadata`] knows.
pub(super) fn store(
    types: GgufTypes,
    model_type: &str,
    layers: usize,
    declared: &Declared,
    role: &Role,
) -> Vec<Stored> {
    let Declared { name, shape, kind } = declared;
    let named = |name: &str| {
        // The norm before the experts is called in two ways, of which the hybrid models have the first.
        let mut names = on_disk(name);
        let hybrid = model_type.starts_with("qwen3_next") || model_type.starts_with("qwen3_5");
        // What ends otherwise stands for no tensor that files have.
        let is_tensor = |name: &String| [".weight", ".bias"].iter().any(|suffix| name.ends_with(suffix));
        let found = if hybrid { names.next() } else { names.filter(is_tensor).last() };
        found.expect("invariant: gguf::metadata refuses families whose names are not known")
    };
    let matrix = |name: &str, shape: &[usize], deviation: f32| {
        let cols = shape.last().copied().unwrap_or(1);
        let (dtype, content) = types.random(name, layers, cols, deviation);
        Stored { name: named(name), dtype, shape: shape.to_vec(), content }
    };
    let plain = |content: Content| {
        // The converter drops dimensions of 1.
        let shape = shape.iter().copied().filter(|&dim| dim != 1).collect();
        vec![Stored { name: named(name), dtype: "F32", shape, content }]
    };
    match (kind, shape.as_slice(), role) {
        (DeclaredKind::Experts, &[experts, _, width, hidden], &Role::Random { deviation: down, .. }) => {
            let inner = 1.0 / (hidden as f32).sqrt();
            [
                ("gate_proj", [experts, width, hidden], inner),
                ("up_proj", [experts, width, hidden], inner),
                ("down_proj", [experts, hidden, width], down),
            ]
            .map(|(part, shape, deviation)| matrix(&format!("{name}.{part}.weight"), &shape, deviation))
            .into()
        }
        (DeclaredKind::Matrix, _, &Role::Random { deviation, .. }) if !is_router(name) => {
            vec![matrix(name, shape, deviation)]
        }
        (DeclaredKind::Matrix, &[_, cols], Role::Rows(rows)) if !is_router(name) => {
            let (dtype, content) = types.rows(rows, cols);
            vec![Stored { name: named(name), dtype, shape: shape.clone(), content }]
        }
        (_, _, Role::Rows(rows)) => plain(Content::RowsF32(rows.clone())),
        // Files have the 1 added to norms that are stored as their distance from it.
        (DeclaredKind::Norm { .. }, _, _) => plain(Content::F32 { mean: routing::norm_mean(name), deviation: 0.1 }),
        (_, _, &Role::Random { mean, deviation }) if name.ends_with("A_log") => {
            plain(Content::Decay { mean, deviation })
        }
        (_, _, &Role::Random { mean, deviation }) => plain(Content::F32 { mean, deviation }),
    }
}

/// The tokenizer and template among `texts`, as metadata; empty where there is none.
///
/// # Errors
/// When they are not what `outpour_text::made` makes.
pub(super) fn tokenizer(texts: &[(&str, String)]) -> Result<Map<String, Value>, ModelError> {
    let text = |name: &str| texts.iter().find(|(file, _)| *file == name).map(|(_, text)| text.as_str());
    let damaged = |file: &str, what: &str| ModelError::Config(format!("{file} beside it {what}"));
    let parsed = |file: &'static str| {
        let text = text(file).unwrap_or("{}");
        serde_json::from_str::<Value>(text).map_err(|error| damaged(file, &error.to_string()))
    };
    let (file, generation) = (parsed("tokenizer.json")?, parsed("generation_config.json")?);
    let Some(vocab) = file["model"]["vocab"].as_object() else { return Ok(Map::new()) };
    let added = file["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    let added = added.iter().map(|token| (token["content"].as_str().unwrap_or_default(), &token["id"], CONTROL));
    let mut all = vec![(Value::Null, 0); vocab.len() + added.len()];
    for (token, id, kind) in vocab.iter().map(|(token, id)| (token.as_str(), id, NORMAL)).chain(added) {
        let place = id.as_u64().and_then(|id| all.get_mut(usize::try_from(id).ok()?));
        *place.ok_or_else(|| damaged("tokenizer.json", "has ids beyond its tokens"))? = (json!(token), kind);
    }
    let (tokens, kinds): (Vec<Value>, Vec<u32>) = all.into_iter().unzip();
    let mut metadata = Map::new();
    let mut insert = |key: &str, value: Value| metadata.insert(key.to_owned(), value);
    insert("tokenizer.ggml.model", json!("gpt2"));
    insert("tokenizer.ggml.pre", json!("qwen2"));
    insert("tokenizer.ggml.tokens", Value::Array(tokens));
    insert("tokenizer.ggml.token_type", json!(kinds));
    insert("tokenizer.ggml.merges", file["model"]["merges"].clone());
    insert("tokenizer.ggml.add_bos_token", json!(false));
    let ends = generation["eos_token_id"].as_array().map_or(&[][..], Vec::as_slice);
    for (name, id) in ["eos", "eot"].iter().zip(ends) {
        insert(&format!("tokenizer.ggml.{name}_token_id"), id.clone());
    }
    if let Some(template) = text("chat_template.jinja") {
        insert("tokenizer.chat_template", json!(template));
    }
    Ok(metadata)
}

/// The metadata of part `part` of `parts`, of a model of so many tensors: the first has all.
pub(super) fn of_part(all: &Map<String, Value>, part: usize, parts: usize, tensors: usize) -> Map<String, Value> {
    let mut metadata = if part == 0 { all.clone() } else { Map::new() };
    if parts > 1 {
        for (key, number) in [("no", part), ("count", parts), ("tensors.count", tensors)] {
            metadata.insert(format!("split.{key}"), json!(number));
        }
    }
    metadata
}

/// A file's bytes before its data, and where in the file each tensor begins.
pub(super) fn header(metadata: &Map<String, Value>, tensors: &[Stored]) -> (Vec<u8>, Vec<u64>) {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        write_text(&mut out, key);
        let (kind, bytes) = match (key.as_str(), value.as_u64()) {
            // The only ones that are not u32.
            ("split.no" | "split.count", Some(number)) => (2, (number as u16).to_le_bytes().to_vec()),
            ("split.tensors.count", Some(number)) => (5, (number as u32).to_le_bytes().to_vec()),
            _ => encoded(value),
        };
        out.extend(kind.to_le_bytes());
        out.extend(bytes);
    }
    let (mut at, mut starts) = (0u64, Vec::new());
    for tensor in tensors {
        write_text(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|&dim| out.extend((dim as u64).to_le_bytes()));
        let number = type_number(tensor.dtype).expect("invariant: store() names types of ggml");
        out.extend(number.to_le_bytes());
        out.extend(at.to_le_bytes());
        starts.push(at);
        at = (at + tensor.bytes()).next_multiple_of(ALIGN);
    }
    out.resize(out.len().next_multiple_of(ALIGN as usize), 0);
    let data = out.len() as u64;
    (out, starts.into_iter().map(|start| data + start).collect())
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A value's kind and bytes: whole numbers are u32, others f32, and those of lists i32.
fn encoded(value: &Value) -> (u32, Vec<u8>) {
    match value {
        Value::Bool(flag) => (7, vec![u8::from(*flag)]),
        Value::String(text) => {
            let mut bytes = Vec::new();
            write_text(&mut bytes, text);
            (8, bytes)
        }
        Value::Array(values) => {
            let of = |value: &Value| match encoded(value) {
                (4, bytes) => (5, bytes),
                other => other,
            };
            let mut bytes = values.first().map_or(8, |value| of(value).0).to_le_bytes().to_vec();
            bytes.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| bytes.extend(of(value).1));
            (9, bytes)
        }
        value => match value.as_u64().and_then(|number| u32::try_from(number).ok()) {
            Some(number) => (4, number.to_le_bytes().to_vec()),
            None => (6, (value.as_f64().unwrap_or_default() as f32).to_le_bytes().to_vec()),
        },
    }
}
