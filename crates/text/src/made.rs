//! A tokenizer and chat template made by rule, for a model with random weights: byte-level BPE over words of one to three
//! syllables, as many as the vocabulary holds.
//!
//! Ids: the 256 bytes; syllables such as `ba`; words such as ` ba`, ` baci`, ` bacido`, each a merge of the one before and
//! a syllable; last `<|endoftext|>`, `<|im_start|>` and `<|im_end|>`.

use serde_json::{Map, Value, json};

use crate::vocab::byte_letters;

/// Special tokens, the last ids of the vocabulary.
const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const CONSONANTS: &str = "bcdfghjklmnpqrstvwxz";
const VOWELS: &str = "aeiou";
/// A space, as byte-level tokenizers write it.
const SPACE: &str = "Ġ";
/// White space with its word, as in Qwen's tokenizers.
const SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// ChatML.
const TEMPLATE: &str = "{%- for message in messages %}\n{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n{{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n";

/// Files for a model folder.
#[derive(Clone, Debug)]
pub struct Made {
    /// Names and contents.
    pub files: Vec<(&'static str, String)>,
    /// The tokens that end an answer.
    pub eos: [u32; 2],
}

/// tokenizer.json, tokenizer_config.json, chat_template.jinja and generation_config.json for a vocabulary of `vocab` tokens;
/// `None` where it does not hold the bytes and the special tokens.
pub fn files(vocab: u32) -> Option<Made> {
    let words = (vocab as usize).checked_sub(256 + SPECIAL.len())?;
    let (mut tokens, mut merges) = (Map::new(), Vec::new());
    for letter in byte_letters() {
        tokens.insert(letter.to_string(), json!(tokens.len()));
    }
    for (left, right) in pairs().take(words) {
        tokens.insert(format!("{left}{right}"), json!(tokens.len()));
        merges.push(json!(format!("{left} {right}")));
    }
    let first = tokens.len() as u32;
    let added = SPECIAL.iter().zip(first..).map(|(content, id)| special(id, content)).collect();
    let [endoftext, _, im_end] = [first, first + 1, first + 2];
    let config = json!({
        "bos_token": null,
        "clean_up_tokenization_spaces": false,
        "eos_token": SPECIAL[2],
        "pad_token": SPECIAL[0],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": null,
    });
    let generation = json!({
        "do_sample": true,
        "eos_token_id": [im_end, endoftext],
        "pad_token_id": endoftext,
        "temperature": 1.0,
    });
    let files = vec![
        ("tokenizer.json", tokenizer(tokens, merges, added).to_string()),
        ("tokenizer_config.json", format!("{config:#}\n")),
        ("chat_template.jinja", TEMPLATE.to_owned()),
        ("generation_config.json", format!("{generation:#}\n")),
    ];
    Some(Made { files, eos: [im_end, endoftext] })
}

/// Every token after the bytes, as the two that it is merged from; each is there before it is used.
fn pairs() -> impl Iterator<Item = (String, String)> {
    let halves = || CONSONANTS.chars().flat_map(|c| VOWELS.chars().map(move |v| (c.to_string(), v.to_string())));
    let syllables: Vec<String> = halves().map(|(c, v)| c + &v).collect();
    let ones: Vec<String> = syllables.iter().map(|syllable| format!("{SPACE}{syllable}")).collect();
    let joined = |starts: Vec<String>, ends: Vec<String>| {
        starts.into_iter().flat_map(move |start| ends.clone().into_iter().map(move |end| (start.clone(), end)))
    };
    let twos: Vec<String> = joined(ones.clone(), syllables.clone()).map(|(start, end)| start + &end).collect();
    halves()
        .chain(joined(vec![SPACE.to_owned()], syllables.clone()))
        .chain(joined(ones, syllables.clone()))
        .chain(joined(twos, syllables))
}

fn special(id: u32, content: &str) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": true,
    })
}

fn tokenizer(vocab: Map<String, Value>, merges: Vec<Value>, added: Vec<Value>) -> Value {
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        ]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChatTemplate, Tokenizer};

    fn folder(vocab: u32) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, text) in files(vocab).expect("room for the bytes").files {
            std::fs::write(dir.path().join(name), text).expect("written");
        }
        dir
    }

    #[test]
    fn every_id_has_a_text_that_leads_back_to_it() {
        for vocab in [259, 300, 5_000, 30_000] {
            let dir = folder(vocab);
            let tokenizer = Tokenizer::load(dir.path()).expect("a tokenizer");
            assert_eq!(tokenizer.vocab_size(), vocab as usize);
            for id in 0..vocab {
                let bytes = tokenizer.token_bytes(id).expect("a token");
                if let Ok(text) = std::str::from_utf8(bytes) {
                    assert_eq!(tokenizer.encode(text, true).expect("encodes"), [id], "{text:?}");
                }
            }
            let text = "Why is the sky blue? Größe 漢字 baci bacido\n";
            assert_eq!(tokenizer.decode(&tokenizer.encode(text, false).expect("encodes")), text);
            assert_eq!(tokenizer.eos_ids(), [vocab - 1, vocab - 3]);
        }
    }

    #[test]
    fn a_large_vocabulary_makes_a_modest_file() {
        let made = files(248_320).expect("room");
        assert!(made.files[0].1.len() < 12 << 20, "{} bytes", made.files[0].1.len());
        let began = std::time::Instant::now();
        let tokenizer = Tokenizer::from_json(made.files[0].1.as_bytes(), None).expect("a tokenizer");
        println!("{} bytes, loaded in {:?}", made.files[0].1.len(), began.elapsed());
        assert_eq!(tokenizer.vocab_size(), 248_320);
        // More than all words of three syllables.
        assert!(files(1_200_000).is_some());
        assert!(files(258).is_none());
    }

    #[test]
    fn the_template_is_chatml() {
        let dir = folder(300);
        assert!(ChatTemplate::load(dir.path()).expect("it compiles").is_some());
    }
}
