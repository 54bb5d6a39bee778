//! Ways to cut a text into words that GGUF files name, against Hugging Face's tokenizers with the patterns of the same models.

use std::fs;
use std::path::Path;

use outpour_text::{GgufTokenizer, Tokenizer};
use serde_json::Value;

const NORMAL: i64 = 1;

fn fixture(path: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(path);
    serde_json::from_slice(&fs::read(path).expect("a fixture")).expect("JSON")
}

#[test]
fn words_are_cut_as_the_models_own_tokenizers_do() {
    let cases = fixture("gguf_text/words.json");
    let list = |key: &str| -> Vec<String> {
        cases[key].as_array().expect("a list").iter().map(|text| text.as_str().expect("a text").to_owned()).collect()
    };
    let (tokens, merges) = (list("tokens"), list("merges"));
    let kinds = vec![NORMAL; tokens.len()];
    let texts = cases["texts"].as_array().expect("texts");
    assert!(texts.len() > 50, "{} texts", texts.len());
    let ways = cases["ids"].as_object().expect("ids");
    for (pre, expected) in ways {
        let tokenizer = Tokenizer::from_gguf(&GgufTokenizer {
            file: "a file",
            model: "gpt2",
            pre: Some(pre),
            tokens: &tokens,
            kinds: &kinds,
            scores: &[],
            add_space: false,
            merges: &merges,
            bos: None,
            add_bos: None,
            add_eos: None,
            eos: &[],
        });
        let tokenizer = tokenizer.unwrap_or_else(|error| panic!("{pre}: {error}"));
        for (text, expected) in texts.iter().zip(expected.as_array().expect("ids of texts")) {
            let text = text.as_str().expect("a text");
            let expected: Vec<u32> =
                expected.as_array().expect("ids").iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect();
            assert_eq!(tokenizer.encode(text, true).expect("ids"), expected, "{pre}: {text:?}");
        }
    }
}

/// Tokens of every kind, and the switches that put BOS and EOS around a text, against llama.cpp's.
#[test]
fn tokens_of_every_kind_are_found_as_llama_cpp_does() {
    let fixture = fixture("gguf_text/tokens.json");
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().map(|text| text.as_str().expect("a text").to_owned()).collect()
    };
    let cases = fixture["cases"].as_array().expect("cases");
    assert!(cases.len() > 100, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let vocab = &fixture["vocabularies"][case["vocabulary"].as_str().expect("a name")];
        let (tokens, merges) = (texts(&vocab["tokens"]), texts(&vocab["merges"]));
        let numbers = |key: &str| vocab[key].as_array().into_iter().flatten();
        let id = |key: &str| vocab[key].as_u64().and_then(|id| u32::try_from(id).ok());
        let tokenizer = Tokenizer::from_gguf(&GgufTokenizer {
            file: "a file",
            model: vocab["model"].as_str().expect("a kind"),
            pre: vocab["pre"].as_str(),
            tokens: &tokens,
            kinds: &numbers("kinds").filter_map(Value::as_i64).collect::<Vec<_>>(),
            scores: &numbers("scores").filter_map(|score| Some(score.as_f64()? as f32)).collect::<Vec<_>>(),
            add_space: true,
            merges: &merges,
            bos: id("bos"),
            add_bos: case["add_bos"].as_bool(),
            add_eos: case["add_eos"].as_bool(),
            eos: &[id("eos").expect("an id")],
        })
        .unwrap_or_else(|error| panic!("{}: {error}", vocab["model"]));
        let text = case["text"].as_str().expect("a text");
        let expected: Vec<u32> =
            case["ids"].as_array().expect("ids").iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect();
        let ids = tokenizer.encode_raw(text).expect("ids");
        if ids != expected {
            wrong.push(format!(
                "{} {:?} {:?} {text:?}: {ids:?} instead of {expected:?}",
                case["vocabulary"], case["add_bos"], case["add_eos"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
