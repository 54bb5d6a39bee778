//! `tiktoken.model` and `tekken.json`: ids equal to tiktoken's and mistral-common's.

mod common;

use std::path::PathBuf;

use common::{ids, none_wrong};
use outpour_text::Tokenizer;
use serde_json::{Value, json};

fn file(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/text_ranks")).join(name)
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(file(name)).expect("a fixture")
}

fn cases(kind: &str) -> Vec<(String, Vec<u32>)> {
    let all: Value = serde_json::from_slice(&read("cases.json")).expect("JSON");
    let case = |case: &Value| (case["text"].as_str().expect("a text").to_owned(), ids(&case["ids"]));
    all[kind].as_array().expect("cases").iter().map(case).collect()
}

#[test]
fn a_folder_of_kimi_is_tokenized_as_tiktoken_does() {
    let dir = tempfile::tempdir().expect("a folder");
    for name in ["tiktoken.model", "tokenizer_config.json"] {
        std::fs::copy(file(name), dir.path().join(name)).expect("a copy");
    }
    let tokenizer = Tokenizer::load(dir.path()).expect("a tokenizer");
    let mut wrong = Vec::new();
    for (text, expected) in cases("tiktoken") {
        let got = tokenizer.encode(&text, true).expect("it is short");
        if got != expected {
            wrong.push(format!("{text:?}: {got:?} instead of {expected:?}"));
        }
        assert_eq!(tokenizer.decode(&got), text);
    }
    none_wrong(wrong);
    assert_eq!(tokenizer.eos_ids(), [tokenizer.token_id("[EOS]").expect("a token")]);
    let think = tokenizer.token_id("<think>").expect("a token");
    assert!(!tokenizer.is_special(think) && tokenizer.is_special(think - 1), "what the config says of each");
}

#[test]
fn a_tekken_file_is_tokenized_as_mistral_common_does() {
    let tokenizer = Tokenizer::from_tekken("tekken.json", &read("tekken.json"), None).expect("a tokenizer");
    let mut wrong = Vec::new();
    for (text, expected) in cases("tekken") {
        // Control tokens are not found in texts there.
        let got = [tokenizer.bos_id().expect("<s>")].into_iter().chain(tokenizer.encode(&text, false).expect("short"));
        let got: Vec<u32> = got.collect();
        if got != expected {
            wrong.push(format!("{text:?}: {got:?} instead of {expected:?}"));
        }
    }
    none_wrong(wrong);
    assert_eq!(tokenizer.encode_raw("[INST]").expect("short"), [1, 3], "<s> and the token");
    assert_eq!(tokenizer.eos_ids(), [2]);
}

#[test]
fn broken_files_are_refused_by_name() {
    let refused = |result: Result<Tokenizer, outpour_text::TextError>, what: &str| {
        let error = result.expect_err("it is broken").to_string();
        assert!(error.contains(what), "{error} does not say {what}");
    };
    let tiktoken = read("tiktoken.model");
    let class = json!({"tokenizer_class": "QWenTokenizer"});
    refused(Tokenizer::from_tiktoken("t", &tiktoken, Some(&class)), "QWenTokenizer");
    refused(Tokenizer::from_tiktoken("t", b"IQ== 0\nIg== 2\n", None), "line 2");
    refused(Tokenizer::from_tiktoken("t", b"I 0\n", None), "line 1");
    refused(Tokenizer::from_tiktoken("t", b"IQ== 0\nIQ== 1\n", None), "twice");
    refused(Tokenizer::from_tiktoken("t", b"IQ== 0\n", None), "0x00");
    let mut tekken: Value = serde_json::from_slice(&read("tekken.json")).expect("JSON");
    tekken["config"]["default_vocab_size"] = json!(1u64 << 40);
    refused(Tokenizer::from_tekken("t", tekken.to_string().as_bytes(), None), "control tokens");
    tekken["config"]["default_vocab_size"] = json!(400);
    tekken["vocab"][3]["rank"] = json!(4);
    refused(Tokenizer::from_tekken("t", tekken.to_string().as_bytes(), None), "token 3");
}
