//! Tokenizers of SentencePiece's kind: ids and texts equal to sentencepiece's and Hugging Face's.

mod common;

use std::path::PathBuf;

use common::{ids, none_wrong};
use outpour_text::{Detokenizer, TextError, Tokenizer};
use serde_json::{Value, json};

fn file(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/text_pieces")).join(name)
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(file(name)).expect("a fixture")
}

fn json_of(name: &str) -> Value {
    serde_json::from_slice(&read(name)).expect("JSON")
}

/// What is wrong with how `tokenizer` treats `cases`; control tokens are looked for if `special`.
fn wrong(name: &str, tokenizer: &Tokenizer, cases: &Value, special: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let cases = cases.as_array().expect("cases");
    assert!(cases.len() > 75, "{name} has only {} cases", cases.len());
    for case in cases {
        let (text, expected) = (case["text"].as_str().expect("a text"), ids(&case["ids"]));
        let got = tokenizer.encode(text, special).expect("it is short");
        if got != expected {
            wrong.push(format!("{name}: {text:?}: {got:?} instead of {expected:?}"));
        }
        let decoded = case["decoded"].as_str().expect("a text");
        let mut stream = Detokenizer::new(tokenizer, false);
        let mut streamed: String = expected.iter().map(|&id| stream.push(tokenizer, id).to_owned()).collect();
        streamed.push_str(stream.finish());
        for got in [tokenizer.decode(&expected), streamed] {
            if got != decoded {
                wrong.push(format!("{name}: {expected:?}: {got:?} instead of {decoded:?}"));
            }
        }
    }
    wrong
}

#[test]
fn a_model_is_tokenized_as_sentencepiece_does() {
    let cases = json_of("cases.json");
    let dir = tempfile::tempdir().expect("a folder");
    let mut found = Vec::new();
    for (model, name) in [("tokenizer.model", "sentencepiece"), ("gemma.model", "sentencepiece_gemma")] {
        std::fs::copy(file(model), dir.path().join("tokenizer.model")).expect("a copy");
        let tokenizer = Tokenizer::load(dir.path()).expect("a tokenizer");
        found.extend(wrong(name, &tokenizer, &cases[name], false));
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()), (Some(1), &[2][..]));
        assert_eq!(tokenizer.encode_raw("[INST]").expect("short"), [1, 3], "BOS and a control token");
        assert_eq!(tokenizer.token_id("A").and_then(|id| tokenizer.token_bytes(id)), Some(&b"A"[..]));
    }
    none_wrong(found);
    let bare = json!({"add_bos_token": false});
    let tokenizer = Tokenizer::from_sentencepiece("t", &read("tokenizer.model"), Some(&bare)).expect("a tokenizer");
    assert_eq!(tokenizer.encode_raw("").expect("short"), [0; 0]);
}

/// Mixtral's files, the older and the newer one, and Gemma's.
#[test]
fn byte_fallback_of_tokenizer_json_is_as_hugging_face_does() {
    let cases = json_of("cases.json");
    let metaspace =
        |scheme, split| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let split = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
    let mut found = Vec::new();
    for (name, normalizer, pre_tokenizer) in [
        ("prepend", None, Value::Null),
        ("metaspace-first", Some(Value::Null), metaspace("first", false)),
        ("metaspace-always", Some(Value::Null), metaspace("always", true)),
        ("metaspace-never", Some(Value::Null), metaspace("never", false)),
        ("gemma", Some(replace), split),
    ] {
        let mut document = json_of("tokenizer.json");
        if let Some(normalizer) = normalizer {
            document["normalizer"] = normalizer;
        }
        document["pre_tokenizer"] = pre_tokenizer;
        if name == "gemma" {
            document["decoder"]["decoders"].as_array_mut().expect("steps").truncate(3);
        }
        let tokenizer = Tokenizer::from_json(document.to_string().as_bytes(), None).expect("a tokenizer");
        found.extend(wrong(name, &tokenizer, &cases["tokenizers"][name], true));
    }
    none_wrong(found);
}

#[test]
fn broken_files_are_refused_by_name() {
    let model = read("tokenizer.model");
    let refused = |bytes: &[u8], what: &str| {
        let error = Tokenizer::from_sentencepiece("t.model", bytes, None).expect_err("it is broken").to_string();
        assert!(error.contains("t.model") && error.contains(what), "{error} does not say {what}");
    };
    refused(b"", "no model of sentencepiece");
    refused(&model[..model.len() / 2], "no model of sentencepiece");
    refused(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "no model of sentencepiece");
    // Algorithm 1 in the trainer's part, field 3, and a table of characters in the normalizer's, field 2.
    let at = model.windows(2).rposition(|window| window == [0x18, 2]).expect("the algorithm");
    let mut unigram = model.clone();
    unigram[at + 1] = 1;
    refused(&unigram, "unigram");
    refused(&[&model[..], &[0x1a, 3, 0x12, 1, b'x']].concat(), "table of characters");
    refused(&[&model[..], &[0x1a, 2, 0x20, 1]].concat(), "remove_extra_whitespaces");
    let mut document = json_of("tokenizer.json");
    let json = |document: &Value| -> Result<Tokenizer, TextError> {
        Tokenizer::from_json(document.to_string().as_bytes(), None)
    };
    document["model"]["vocab"].as_object_mut().expect("tokens").remove("<0x41>");
    assert!(json(&document).expect_err("a byte is missing").to_string().contains("0x41"));
    document["pre_tokenizer"] = json!({"type": "Metaspace", "replacement": "_", "prepend_scheme": "first"});
    assert!(json(&document).expect_err("another space").to_string().contains("replacement"));
}
