//! Tokenizer and chat template of GGUF files.

use anyhow::{Context, Result, bail};
use outpour_store::checkpoint::Metadata;
use outpour_text::{ChatTemplate, GgufTokenizer, Tokenizer};
use serde_json::{Map, Value, json};

/// The tokenizer that the metadata describe.
///
/// # Errors
/// When there is none, or it is of a kind that is not supported.
pub fn tokenizer(metadata: &Metadata) -> Result<Tokenizer> {
    let file = metadata.path().display().to_string();
    let text = |key: &str| {
        metadata.text(key).with_context(|| {
            format!("{file}: has no {key}, so it holds no tokenizer; get a conversion of the model that has one")
        })
    };
    let id =
        |name: &str| metadata.number(&format!("tokenizer.ggml.{name}_token_id")).and_then(|id| u32::try_from(id).ok());
    let tokens = metadata.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
    let model = text("tokenizer.ggml.model")?;
    let merges = match metadata.texts("tokenizer.ggml.merges")? {
        None if ["gpt2", "gemma4"].contains(&model) => {
            bail!(
                "{file}: has no tokenizer.ggml.merges, by which a vocabulary of the kind {model} cuts words; download it again"
            )
        }
        merges => merges.unwrap_or_default(),
    };
    let kinds = metadata.numbers("tokenizer.ggml.token_type")?.unwrap_or_default();
    let scores = metadata.floats("tokenizer.ggml.scores")?.unwrap_or_default();
    let eos: Vec<u32> = ["eos", "eot", "eom"].iter().filter_map(|name| id(name)).collect();
    Ok(Tokenizer::from_gguf(&GgufTokenizer {
        model,
        pre: metadata.text("tokenizer.ggml.pre"),
        tokens: &tokens,
        kinds: &kinds,
        merges: &merges,
        scores: &scores,
        add_space: metadata.get("tokenizer.ggml.add_space_prefix") != Some(&Value::Bool(false)),
        bos: id("bos"),
        add_bos: metadata.get("tokenizer.ggml.add_bos_token").and_then(Value::as_bool),
        add_eos: metadata.get("tokenizer.ggml.add_eos_token").and_then(Value::as_bool),
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use outpour_store::checkpoint::gguf;
    use outpour_text::ChatRequest;

    use super::*;

    /// Of a file with BOS, EOS, and a template for conversations with tools beside the default one.
    #[test]
    fn conversations_are_rendered_as_by_transformers() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gguf_chat");
        let metadata = gguf::read_header(&folder.join("chat.gguf")).expect("a header").metadata;
        let tokenizer = tokenizer(&metadata).expect("a tokenizer");
        let template = template(&metadata, &tokenizer).expect("it compiles").expect("a template");
        let expected = std::fs::read(folder.join("chats.json")).expect("cases");
        let expected: Value = serde_json::from_slice(&expected).expect("JSON");
        let ids =
            |key: &str| expected[key].as_array().expect("ids").iter().filter_map(Value::as_u64).collect::<Vec<_>>();
        assert_eq!(tokenizer.bos_id().map(u64::from), expected["bos"].as_u64());
        assert_eq!(tokenizer.eos_ids().iter().map(|&id| u64::from(id)).collect::<Vec<_>>(), ids("eos"));
        let text = tokenizer.encode_raw("x").expect("ids");
        assert_eq!(text.iter().map(|&id| u64::from(id)).collect::<Vec<_>>(), ids("x"));
        let cases = expected["chats"].as_array().expect("cases");
        assert!(cases.len() > 10, "{} cases", cases.len());
        for case in cases {
            let request = ChatRequest {
                messages: case["messages"].as_array().expect("messages").clone(),
                tools: case.get("tools").and_then(Value::as_array).cloned(),
                add_generation_prompt: case.get("add_generation_prompt") == Some(&Value::Bool(true)),
                kwargs: case.get("kwargs").and_then(Value::as_object).cloned().unwrap_or_default(),
                now_s: None,
            };
            let rendered = template.render(&request).map_err(|error| error.to_string());
            match case["expected"].as_str() {
                Some(expected) => assert_eq!(rendered.as_deref(), Ok(expected), "{}", case["name"]),
                None => assert!(rendered.is_err(), "{}: {rendered:?}", case["name"]),
            }
        }
    }
}
