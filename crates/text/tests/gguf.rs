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
