//! Ids and texts equal to Hugging Face's.

mod common;

use common::{dir, ids, json, none_wrong, text, tokenizer};
use outpour_text::Tokenizer;
use serde_json::Value;

#[test]
fn encodes_as_hugging_face() {
    let tokenizer = tokenizer();
    let mut wrong = Vec::new();
    for case in json("cases_text.json")["encode"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let expected = ids(&case["ids"]);
        let as_text = case.get("ids_special_as_text").map_or_else(|| expected.clone(), ids);
        for (parse, expected) in [(true, expected), (false, as_text)] {
            let got = tokenizer.encode(text, parse).unwrap();
            if got != expected {
                wrong.push(format!("{text:?} {parse}: {got:?} instead of {expected:?}"));
            }
        }
    }
    none_wrong(wrong);
}

#[test]
fn decodes_as_hugging_face() {
    let tokenizer = tokenizer();
    let cases = json("cases_text.json");
    let mut wrong = Vec::new();
    for case in cases["encode"].as_array().unwrap().iter().chain(cases["decode"].as_array().unwrap()) {
        let ids = ids(&case["ids"]);
        let plain = case["decoded"].as_str().unwrap();
        let skipped = case.get("decoded_skip_special").and_then(Value::as_str).unwrap_or(plain);
        for (skip, expected) in [(false, plain), (true, skipped)] {
            let got = tokenizer.decode_with(&ids, skip);
            if got != expected {
                wrong.push(format!("{ids:?} {skip}: {got:?} instead of {expected:?}"));
            }
        }
        assert_eq!(tokenizer.decode(&ids), plain);
    }
    none_wrong(wrong);
}

/// Other families' pre-tokenizers, normalizers, post-processors and added-token flags on the same vocabulary.
#[test]
fn variants_encode_as_hugging_face() {
    let mut wrong = Vec::new();
    for variant in json("cases_text.json")["variants"].as_array().unwrap() {
        let mut document = json("tokenizer.json");
        for (path, value) in variant["patch"].as_object().unwrap() {
            let at = document.pointer_mut(&format!("/{}", path.replace('.', "/"))).unwrap();
            match (at.as_array_mut(), path.as_str()) {
                (Some(tokens), "added_tokens") => tokens.extend(value.as_array().unwrap().iter().cloned()),
                _ => *at = value.clone(),
            }
        }
        let name = variant["name"].as_str().unwrap();
        let tokenizer = Tokenizer::from_json(document.to_string().as_bytes(), None).unwrap();
        for case in variant["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let expected = ids(&case["ids"]);
            let with_post = case.get("ids_with_post").map_or_else(|| expected.clone(), ids);
            let got = (tokenizer.encode(text, true).unwrap(), tokenizer.encode_raw(text).unwrap());
            if got != (expected.clone(), with_post.clone()) {
                wrong.push(format!("{name}: {text:?}: {got:?} instead of {expected:?} {with_post:?}"));
            }
        }
    }
    none_wrong(wrong);
}

#[test]
fn knows_its_tokens() {
    let tokenizer = tokenizer();
    let size = json("cases_text.json")["vocab_size"].as_u64().unwrap() as usize;
    assert_eq!(tokenizer.vocab_size(), size);
    let end = tokenizer.token_id("<|im_end|>").unwrap();
    assert_eq!(tokenizer.eos_ids(), [end]);
    assert_eq!(tokenizer.bos_id(), None);
    assert_eq!(tokenizer.token_bytes(end), Some(b"<|im_end|>".as_slice()));
    assert!(tokenizer.is_special(end));
    let think = tokenizer.token_id("<think>").unwrap();
    assert!(!tokenizer.is_special(think));
    let the = tokenizer.token_id(" the").unwrap();
    assert_eq!(tokenizer.encode(" the", true).unwrap(), [the]);
    for id in [size as u32, u32::MAX] {
        assert_eq!(tokenizer.token_bytes(id), None);
        assert!(!tokenizer.is_special(id));
        assert_eq!(tokenizer.decode(&[id]), "");
    }
    assert_eq!(tokenizer.token_id("no such token"), None);
    let longest = (0..size as u32).filter_map(|id| tokenizer.token_bytes(id)).map(<[u8]>::len).max();
    assert_eq!(longest, Some(tokenizer.token_bytes_max()));
}

#[test]
fn end_tokens_come_from_all_configurations() {
    let dir_ = tempfile::tempdir().unwrap();
    let at = dir_.path();
    std::fs::copy(dir().join("tokenizer.json"), at.join("tokenizer.json")).unwrap();
    assert!(Tokenizer::load(at).unwrap().eos_ids().is_empty());
    let map = r#"{"eos_token": {"content": "<|im_end|>"}, "bos_token": "<|endoftext|>"}"#;
    std::fs::write(at.join("special_tokens_map.json"), map).unwrap();
    std::fs::write(at.join("config.json"), r#"{"text_config": {"eos_token_id": 7}}"#).unwrap();
    let tokenizer = Tokenizer::load(at).unwrap();
    let end = tokenizer.token_id("<|im_end|>").unwrap();
    assert_eq!(tokenizer.bos_id(), tokenizer.token_id("<|endoftext|>"));
    assert_eq!(tokenizer.eos_ids(), [end, 7]);
    let generation = format!(r#"{{"eos_token_id": [{end}, 9]}}"#);
    std::fs::write(at.join("generation_config.json"), generation).unwrap();
    assert_eq!(Tokenizer::load(at).unwrap().eos_ids(), [end, 9]);
}

/// A token that only `tokenizer_config.json` lists is found too.
#[test]
fn added_tokens_of_the_configuration() {
    let size = tokenizer().vocab_size();
    let config = serde_json::json!({"added_tokens_decoder": {
        (size.to_string()): {"content": "<new>", "special": true},
        "0": {"content": "<think>", "special": true},
    }});
    let tokenizer = Tokenizer::from_json(text("tokenizer.json").as_bytes(), Some(&config)).unwrap();
    assert_eq!(tokenizer.encode("<new>", true).unwrap(), [size as u32]);
    assert!(tokenizer.is_special(size as u32));
    assert!(!tokenizer.is_special(tokenizer.token_id("<think>").unwrap()));
}

/// Texts on which a backtracking pre-tokenizer gives up: a million of the same character.
#[test]
fn long_runs_are_linear() {
    let tokenizer = tokenizer();
    for run in [" ", "a", "\n", " \n", "!", "\u{301}", "é", "<", "<|", "1", "\u{3000}"] {
        let text = run.repeat(1_000_000) + "x";
        let ids = tokenizer.encode(&text, true).unwrap();
        if !run.contains('\u{301}') {
            assert_eq!(tokenizer.decode(&ids), text);
        }
    }
}

/// The same text in any number of threads.
#[test]
fn is_shared_between_threads() {
    let tokenizer = tokenizer();
    let expected = tokenizer.encode("The river ran slowly.", true).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    assert_eq!(tokenizer.encode("The river ran slowly.", true).unwrap(), expected);
                }
            });
        }
    });
}
