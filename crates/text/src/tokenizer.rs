//! The tokenizer of a model: text to ids and back, as Hugging Face's `tokenizers` does it for byte-level BPE.

use crate::added::{Added, AddedSet, Part};
use crate::bpe::{Bpe, Merged, Merges, Scratch, pair};
use crate::schema::{self, Decoder, Document, Normalizer, Piece, PostProcessor};
use crate::split::Splitter;
use crate::vocab::{ByteAlphabet, Vocab, byte_letters};
use crate::{TextError, files};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

#[derive(Debug, Clone, Copy)]
enum Form {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
}

/// A byte-level BPE tokenizer. Cheap to share between threads; nothing changes after loading.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    bpe: Bpe,
    /// A word that is a token is taken whole, whatever the merges say.
    ignore_merges: bool,
    splitter: Splitter,
    normalizer: Vec<Form>,
    /// Searched in the text as given.
    added_raw: AddedSet,
    /// Searched in the normalized text.
    added_normalized: AddedSet,
    special: HashSet<u32>,
    /// Ids of added tokens that are not in the model's vocabulary.
    added_only: HashSet<u32>,
    /// What the post-processor puts before and after a text.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    bos: Option<u32>,
    eos: Vec<u32>,
}

impl Tokenizer {
    /// The longest text that [`Tokenizer::encode`] takes, in bytes.
    pub const TEXT_BYTES_MAX: usize = 256 << 20;

    /// Reads `tokenizer.json` of the model directory `dir`, and `tokenizer_config.json`, `special_tokens_map.json`,
    /// `generation_config.json` and `config.json` where they exist, for the tokens that begin and end a text.
    ///
    /// # Errors
    /// A file that is missing, broken or asks for something other than byte-level BPE.
    pub fn load(dir: &Path) -> Result<Tokenizer, TextError> {
        let path = dir.join("tokenizer.json");
        let bytes = files::read(&path, files::TOKENIZER_BYTES_MAX)?;
        let mut config = serde_json::Map::new();
        for name in ["special_tokens_map.json", "tokenizer_config.json"] {
            if let Some(Value::Object(map)) = files::json_optional(&dir.join(name))? {
                config.extend(map);
            }
        }
        let mut tokenizer = Tokenizer::read(&path.display().to_string(), &bytes, Some(&Value::Object(config)))?;
        drop(bytes);
        let model = files::json_optional(&dir.join("config.json"))?;
        let generation = files::json_optional(&dir.join("generation_config.json"))?;
        for ids in [generation.as_ref(), model.as_ref(), model.as_ref().and_then(|model| model.get("text_config"))] {
            if let Some(ids) = ids.and_then(|json| json.get("eos_token_id")).filter(|ids| !ids.is_null()) {
                tokenizer.add_eos(ids);
                break;
            }
        }
        Ok(tokenizer)
    }

    /// The lower door of [`Tokenizer::load`]: `bytes` is a `tokenizer.json`, `config` a `tokenizer_config.json`.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn from_json(bytes: &[u8], config: Option<&Value>) -> Result<Tokenizer, TextError> {
        Tokenizer::read("tokenizer.json", bytes, config)
    }

    fn read(file: &str, bytes: &[u8], config: Option<&Value>) -> Result<Tokenizer, TextError> {
        let mut document: Document =
            serde_json::from_slice(bytes).map_err(|source| TextError::Json { file: file.to_owned(), source })?;
        check_model(file, &document)?;
        let splitter = Splitter::new(file, document.pre_tokenizer.as_ref())?;
        let mut normalizer = Vec::new();
        if let Some(step) = &document.normalizer {
            normal_forms(file, step, &mut normalizer)?;
        }
        let (mut prefix, mut suffix) = (Vec::new(), Vec::new());
        if let Some(step) = &document.post_processor {
            post_process(file, step, &mut prefix, &mut suffix)?;
        }
        let mut added = std::mem::take(&mut document.added_tokens);
        add_from_config(config, &mut added);
        let bpe = build_bpe(file, &document.model)?;
        let ignore_merges = document.model.ignore_merges;
        let (vocab, added_only) = build_vocab(file, document.model.vocab, &added)?;
        let special = added.iter().filter(|token| token.special).map(|token| token.id).collect();
        let (mut raw, mut normalized) = (Vec::new(), Vec::new());
        for token in added {
            if token.single_word {
                return Err(TextError::unsupported(file, format!("the single_word token {:?}", token.content)));
            }
            let schema::AddedToken { id, lstrip, rstrip, special, .. } = token;
            let content =
                if token.normalized { normalize(&normalizer, &token.content).into_owned() } else { token.content };
            let list = if token.normalized { &mut normalized } else { &mut raw };
            list.push(Added { id, content, special, lstrip, rstrip });
        }
        let mut tokenizer = Tokenizer {
            vocab,
            bpe,
            ignore_merges,
            splitter,
            normalizer,
            added_raw: AddedSet::new(raw),
            added_normalized: AddedSet::new(normalized),
            special,
            added_only,
            prefix,
            suffix,
            bos: None,
            eos: Vec::new(),
        };
        let named = |key| config.and_then(|config| config.get(key)).and_then(files::token_text);
        tokenizer.bos = named("bos_token").and_then(|text| tokenizer.token_id(text));
        tokenizer.eos = named("eos_token").and_then(|text| tokenizer.token_id(text)).into_iter().collect();
        Ok(tokenizer)
    }

    /// Adds the `eos_token_id` of a configuration: a number or a list.
    fn add_eos(&mut self, ids: &Value) {
        let list = ids.as_array().map_or(std::slice::from_ref(ids), Vec::as_slice);
        for id in list.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()) {
            if !self.eos.contains(&id) {
                self.eos.push(id);
            }
        }
    }

    /// The ids of `text`. With `parse_special`, texts such as `<|im_end|>` become their token, as in
    /// `tokenizer(text, add_special_tokens=False)` of transformers; without it they are tokenized as ordinary text.
    /// Added tokens that are not special (`<think>`) become their token either way.
    ///
    /// # Errors
    /// [`TextError::TextTooLong`] past [`Tokenizer::TEXT_BYTES_MAX`].
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, TextError> {
        if text.len() > Self::TEXT_BYTES_MAX {
            return Err(TextError::TextTooLong { bytes: text.len(), max: Self::TEXT_BYTES_MAX });
        }
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        let mut caches = self.splitter.caches();
        let mut scratch = Scratch::default();
        self.added_raw.split(text, parse_special, |part| match part {
            Part::Token(id) => ids.push(id),
            Part::Text(range) => {
                let text = normalize(&self.normalizer, &text[range]);
                self.added_normalized.split(&text, parse_special, |part| match part {
                    Part::Token(id) => ids.push(id),
                    Part::Text(range) => self.splitter.split(&text[range], &mut caches, &mut |piece| {
                        self.encode_piece(piece.as_bytes(), &mut scratch, &mut ids);
                    }),
                });
            }
        });
        Ok(ids)
    }

    fn encode_piece(&self, piece: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        if self.ignore_merges
            && let Some(id) = self.vocab.find(piece).filter(|id| !self.added_only.contains(id))
        {
            ids.push(id);
        } else {
            self.bpe.encode(piece, scratch, ids);
        }
    }

    /// [`Tokenizer::encode`] with special tokens parsed, between the tokens that the post-processor of
    /// `tokenizer.json` puts around a text (BOS for many models): `tokenizer(text)` of transformers.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_raw(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let mut ids = self.prefix.clone();
        ids.extend(self.encode(text, true)?);
        ids.extend(&self.suffix);
        Ok(ids)
    }

    /// The text of `ids`, special tokens included; bytes that are not UTF-8 become U+FFFD and ids without a token
    /// give no text, as in Hugging Face's `decode`.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.decode_with(ids, false)
    }

    /// [`Tokenizer::decode`], leaving out special tokens if `skip_special`.
    pub fn decode_with(&self, ids: &[u32], skip_special: bool) -> String {
        let kept = ids.iter().filter(|&&id| !(skip_special && self.is_special(id)));
        let bytes: Vec<u8> = kept.filter_map(|&id| self.token_bytes(id)).flatten().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes that the token adds to a text; `None` for an id without a token.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocab.get(id)
    }

    /// Length of the longest token in bytes.
    pub fn token_bytes_max(&self) -> usize {
        self.vocab.longest()
    }

    /// Whether the token is a control token such as `<|im_end|>`.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// The token with exactly this text, added tokens included: `token_id("<|im_end|>")`, `token_id(" the")`.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.vocab.find(text.as_bytes())
    }

    /// One past the highest id; a model may have more output rows than this.
    pub fn vocab_size(&self) -> usize {
        self.vocab.size()
    }

    /// The token that begins a text, if the configuration names one.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// The tokens that end an answer: `eos_token` of the tokenizer, and `eos_token_id` of the generation or model
    /// configuration.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos
    }
}

fn check_model(file: &str, document: &Document) -> Result<(), TextError> {
    let model = &document.model;
    if let Some(kind) = model.kind.as_deref().filter(|&kind| kind != "BPE") {
        return Err(TextError::unsupported(file, format!("the tokenizer model {kind:?}")));
    }
    if model.dropout.is_some_and(|p| p != 0.0) {
        return Err(TextError::unsupported(file, "BPE dropout"));
    }
    for (key, affix) in [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if affix.as_deref().is_some_and(|affix| !affix.is_empty()) {
            return Err(TextError::unsupported(file, key));
        }
    }
    fn is_byte_level(decoder: &Decoder) -> bool {
        match decoder {
            Decoder::ByteLevel {} => true,
            Decoder::Sequence { decoders } => {
                decoders.iter().filter(|d| !matches!(d, Decoder::Fuse {})).count() == 1
                    && decoders.first().is_some_and(is_byte_level)
            }
            _ => false,
        }
    }
    match &document.decoder {
        Some(decoder) if is_byte_level(decoder) => Ok(()),
        _ => Err(TextError::unsupported(file, "a decoder other than ByteLevel")),
    }
}

fn normal_forms(file: &str, step: &Normalizer, forms: &mut Vec<Form>) -> Result<(), TextError> {
    forms.push(match step {
        Normalizer::Nfc => Form::Nfc,
        Normalizer::Nfd => Form::Nfd,
        Normalizer::Nfkc => Form::Nfkc,
        Normalizer::Nfkd => Form::Nfkd,
        Normalizer::Sequence { normalizers } => {
            return normalizers.iter().try_for_each(|step| normal_forms(file, step, forms));
        }
        Normalizer::Other => return Err(TextError::unsupported(file, "a normalizer other than NFC, NFD, NFKC, NFKD")),
    });
    Ok(())
}

fn normalize<'a>(forms: &[Form], text: &'a str) -> Cow<'a, str> {
    let mut text = Cow::Borrowed(text);
    for form in forms {
        text = match form {
            Form::Nfc if is_nfc_quick(text.chars()) == IsNormalized::Yes => continue,
            Form::Nfc => text.nfc().collect(),
            Form::Nfd => text.nfd().collect(),
            Form::Nfkc => text.nfkc().collect(),
            Form::Nfkd => text.nfkd().collect(),
        };
    }
    text
}

/// Collects what the post-processor puts before and after a single text.
fn post_process(
    file: &str,
    step: &PostProcessor,
    prefix: &mut Vec<u32>,
    suffix: &mut Vec<u32>,
) -> Result<(), TextError> {
    match step {
        PostProcessor::ByteLevel {} => Ok(()),
        PostProcessor::Sequence { processors } => {
            processors.iter().try_for_each(|step| post_process(file, step, prefix, suffix))
        }
        PostProcessor::Other => {
            Err(TextError::unsupported(file, "a post-processor other than ByteLevel and TemplateProcessing"))
        }
        PostProcessor::TemplateProcessing { single, special_tokens } => {
            let (mut before, mut after, mut texts) = (Vec::new(), Vec::new(), 0);
            for piece in single {
                match piece {
                    Piece::Sequence { id } if id == "A" => texts += 1,
                    Piece::Sequence { id } => {
                        return Err(TextError::invalid(file, format!("its post-processor has a sequence {id:?}")));
                    }
                    Piece::SpecialToken { id } => {
                        let Some(token) = special_tokens.get(id) else {
                            return Err(TextError::invalid(file, format!("its post-processor does not define {id:?}")));
                        };
                        (if texts == 0 { &mut before } else { &mut after }).extend(&token.ids);
                    }
                }
            }
            if texts != 1 {
                return Err(TextError::invalid(file, "its post-processor does not place the text once"));
            }
            prefix.splice(0..0, before);
            suffix.extend(after);
            Ok(())
        }
    }
}

/// Adds the tokens that only `tokenizer_config.json` lists.
fn add_from_config(config: Option<&Value>, added: &mut Vec<schema::AddedToken>) {
    let listed = config.and_then(|config| config.get("added_tokens_decoder")).and_then(Value::as_object);
    for (id, token) in listed.into_iter().flatten() {
        let (Ok(id), Some(content)) = (id.parse(), token.get("content").and_then(Value::as_str)) else { continue };
        if added.iter().any(|known| known.content == content) {
            continue;
        }
        let flag = |key| token.get(key).and_then(Value::as_bool).unwrap_or(false);
        added.push(schema::AddedToken {
            id,
            content: content.to_owned(),
            single_word: flag("single_word"),
            lstrip: flag("lstrip"),
            rstrip: flag("rstrip"),
            normalized: flag("normalized"),
            special: flag("special"),
        });
    }
}

fn build_bpe(file: &str, model: &schema::Model) -> Result<Bpe, TextError> {
    let missing =
        |what: &str, token: &str| TextError::invalid(file, format!("{what} {token:?} is not in its vocabulary"));
    let mut byte_ids = [0; 256];
    for (id, letter) in byte_ids.iter_mut().zip(byte_letters()) {
        *id = *model.vocab.get(&letter.to_string()).ok_or_else(|| missing("the byte", &letter.to_string()))?;
    }
    let mut merges = Merges::with_capacity_and_hasher(model.merges.len(), Default::default());
    for (schema::Merge(left, right), rank) in model.merges.iter().zip(0u32..) {
        let find = |token: &str| model.vocab.get(token).copied().ok_or_else(|| missing("the merged token", token));
        let merged = Merged { rank, id: find(&format!("{left}{right}"))? };
        merges.insert(pair(find(left)?, find(right)?), merged);
    }
    Ok(Bpe { byte_ids, merges })
}

/// Lays out all tokens; also returns the ids of the added tokens that the model's vocabulary does not have.
fn build_vocab(
    file: &str,
    model: HashMap<String, u32>,
    added: &[schema::AddedToken],
) -> Result<(Vocab, HashSet<u32>), TextError> {
    let alphabet = ByteAlphabet::new();
    let mut added_only = HashSet::new();
    let mut tokens = Vec::with_capacity(model.len() + added.len());
    let mut seen = HashSet::new();
    for token in added {
        match model.get(&token.content) {
            Some(&id) if id != token.id => {
                let what = format!("the added token {:?} has the id {} here and {id} there", token.content, token.id);
                return Err(TextError::invalid(file, what));
            }
            Some(_) => {}
            None if seen.insert(&token.content) => {
                added_only.insert(token.id);
                tokens.push((token.id, alphabet.decode(&token.content)));
            }
            None => return Err(TextError::invalid(file, format!("the token {:?} is added twice", token.content))),
        }
    }
    tokens.extend(model.into_iter().map(|(text, id)| (id, alphabet.decode(&text))));
    Ok((Vocab::new(file, tokens)?, added_only))
}
