//! The JSON shape of `tokenizer.json`, as far as this crate reads it. Unknown kinds of a step end up in `Other` and
//! are refused by name later.

use crate::schema_flat::{Entries, Merges};
use serde::Deserialize;
use std::collections::HashMap;

#[derive(Deserialize)]
pub(crate) struct Document {
    #[serde(default)]
    pub added_tokens: Vec<AddedToken>,
    pub normalizer: Option<Normalizer>,
    pub pre_tokenizer: Option<PreTokenizer>,
    pub post_processor: Option<PostProcessor>,
    pub decoder: Option<Decoder>,
    pub model: Model,
}

#[derive(Deserialize, Default)]
pub(crate) struct AddedToken {
    pub id: u32,
    pub content: String,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    #[serde(default)]
    pub normalized: bool,
    #[serde(default)]
    pub special: bool,
}

#[derive(Deserialize)]
pub(crate) struct Model {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub dropout: Option<f64>,
    pub continuing_subword_prefix: Option<String>,
    pub end_of_word_suffix: Option<String>,
    pub unk_token: Option<String>,
    #[serde(default)]
    pub fuse_unk: bool,
    #[serde(default)]
    pub byte_fallback: bool,
    #[serde(default)]
    pub ignore_merges: bool,
    pub vocab: Entries,
    pub merges: Merges,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
pub(crate) enum Normalizer {
    #[serde(rename = "NFC")]
    Nfc,
    #[serde(rename = "NFD")]
    Nfd,
    #[serde(rename = "NFKC")]
    Nfkc,
    #[serde(rename = "NFKD")]
    Nfkd,
    Prepend {
        prepend: String,
    },
    Replace {
        pattern: Pattern,
        content: String,
    },
    Sequence {
        normalizers: Vec<Normalizer>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize, Clone, Debug)]
pub(crate) enum Pattern {
    String(String),
    Regex(String),
}

#[derive(Deserialize)]
#[serde(tag = "type")]
pub(crate) enum PreTokenizer {
    ByteLevel {
        #[serde(default)]
        add_prefix_space: bool,
        #[serde(default = "yes")]
        use_regex: bool,
    },
    Digits {
        individual_digits: bool,
    },
    Metaspace {
        replacement: String,
        /// `always`, `first` or `never`.
        prepend_scheme: Option<String>,
        /// What files said before there was a scheme.
        add_prefix_space: Option<bool>,
        #[serde(default = "yes")]
        split: bool,
    },
    Sequence {
        pretokenizers: Vec<PreTokenizer>,
    },
    Split {
        pattern: Pattern,
        behavior: String,
        #[serde(default)]
        invert: bool,
    },
    #[serde(other)]
    Other,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(tag = "type")]
pub(crate) enum PostProcessor {
    ByteLevel {},
    Sequence {
        processors: Vec<PostProcessor>,
    },
    TemplateProcessing {
        single: Vec<Piece>,
        special_tokens: HashMap<String, SpecialIds>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
pub(crate) enum Piece {
    Sequence { id: String },
    SpecialToken { id: String },
}

#[derive(Deserialize)]
pub(crate) struct SpecialIds {
    pub ids: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
pub(crate) enum Decoder {
    ByteLevel {},
    Sequence {
        decoders: Vec<Decoder>,
    },
    Fuse {},
    ByteFallback {},
    Replace {
        pattern: Pattern,
        content: String,
    },
    Strip {
        content: String,
        start: usize,
        stop: usize,
    },
    #[serde(other)]
    Other,
}
