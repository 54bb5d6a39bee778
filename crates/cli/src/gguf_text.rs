//! Tokenizer and chat template of GGUF files.

use anyhow::{Context, Result};
use outpour_store::checkpoint::Metadata;
use outpour_text::{ChatTemplate, GgufTokenizer, Tokenizer};
use serde_json::{Map, Value, json};

/// The tokenizer that the metadata describe.
///
/// # Errors
/// When there is none, or it is of a kind that is not supported.
pub fn tokenizer(metadata: &Metadata) -> Result<Tokenizer> {
    let file = metadata.path().display().to_string();
    let text = |key: &str| metadata.text(key).with_context(|| format!("{file}: has no {key}: it holds no tokenizer"));
    let id =
        |name: &str| metadata.number(&format!("tokenizer.ggml.{name}_token_id")).and_then(|id| u32::try_from(id).ok());
    let tokens = metadata.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
    let merges = metadata.texts("tokenizer.ggml.merges")?.unwrap_or_default();
    let kinds = metadata.numbers("tokenizer.ggml.token_type")?.unwrap_or_default();
    let scores = metadata.floats("tokenizer.ggml.scores")?.unwrap_or_default();
    let eos: Vec<u32> = ["eos", "eot", "eom"].iter().filter_map(|name| id(name)).collect();
    Ok(Tokenizer::from_gguf(&GgufTokenizer {
        model: text("tokenizer.ggml.model")?,
        pre: metadata.text("tokenizer.ggml.pre"),
        tokens: &tokens,
        kinds: &kinds,
        merges: &merges,
        scores: &scores,
        add_space: metadata.get("tokenizer.ggml.add_space_prefix") != Some(&Value::Bool(false)),
        bos: id("bos"),
        add_bos: metadata.get("tokenizer.ggml.add_bos_token") == Some(&Value::Bool(true)),
        eos: &eos,
        file: &file,
    })?)
}

/// Memory of a loaded tokenizer for each token: what was measured of one from tokenizer.json.
const BYTES_PER_TOKEN: usize = 96;

/// Bytes that [`tokenizer`] will take.
pub fn tokenizer_bytes(metadata: &Metadata) -> usize {
    metadata.list_len("tokenizer.ggml.tokens").unwrap_or(0).saturating_mul(BYTES_PER_TOKEN)
}

/// The chat template, if there is one.
///
/// # Errors
/// When it does not compile.
pub fn template(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>> {
    let Some(default) = metadata.text("tokenizer.chat_template") else { return Ok(None) };
    let mut special = Map::new();
    for name in ["bos", "eos", "unknown", "padding"] {
        let id = metadata.number(&format!("tokenizer.ggml.{name}_token_id")).and_then(|id| u32::try_from(id).ok());
        if let Some(bytes) = id.and_then(|id| tokenizer.token_bytes(id)) {
            let key = match name {
                "unknown" => "unk_token".to_owned(),
                "padding" => "pad_token".to_owned(),
                name => format!("{name}_token"),
            };
            special.insert(key, json!(String::from_utf8_lossy(bytes)));
        }
    }
    let file = metadata.path().display().to_string();
    let tool_use = metadata.text("tokenizer.chat_template.tool_use");
    Ok(Some(ChatTemplate::of_file(&file, default, tool_use, &special)?))
}
