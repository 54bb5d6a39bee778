//! The tokenizer of a model: text to ids and back, as Hugging Face's `tokenizers` does it for BPE of bytes, and of characters
//! with bytes for those that are no token.

use crate::added::{AddedSet, Part};
use crate::bpe::{Bpe, Scratch};
use crate::pieces::{self, Metaspace};
use crate::split::Splitter;
use crate::vocab::Vocab;
use crate::{TextError, files, ranks};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Steps of a normalizer.
#[derive(Debug, Clone)]
pub(crate) enum Form {
    Nfc,
    Nfd,
    Nfkc,
    Nfkd,
    /// Before a text that is not empty.
    Prepend(String),
    /// One text by another.
    Replace(String, String),
}

/// A BPE tokenizer. Cheap to share between threads; nothing changes after loading.
#[derive(Debug)]
pub struct Tokenizer {
    /// What it was read from.
    pub(crate) file: String,
    pub(crate) vocab: Vocab,
    pub(crate) bpe: Bpe,
    /// A word that is a token is taken whole, whatever the merges say.
    pub(crate) ignore_merges: bool,
    pub(crate) splitter: Splitter,
    /// How spaces are written before a text is split.
    pub(crate) metaspace: Option<Metaspace>,
    pub(crate) normalizer: Vec<Form>,
    /// Searched in the text as given.
    pub(crate) added_raw: AddedSet,
    /// Searched in the normalized text.
    pub(crate) added_normalized: AddedSet,
    pub(crate) special: HashSet<u32>,
    /// Ids of added tokens that are not in the model's vocabulary.
    pub(crate) added_only: HashSet<u32>,
    /// What the post-processor puts before and after a text.
    pub(crate) prefix: Vec<u32>,
    pub(crate) suffix: Vec<u32>,
    /// A decoded text loses the space that it begins with: [`Tokenizer::encode`] put it there.
    pub(crate) strips_space: bool,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Vec<u32>,
}

impl Tokenizer {
    /// The longest text that [`Tokenizer::encode`] takes, in bytes.
    pub const TEXT_BYTES_MAX: usize = 256 << 20;

    /// Reads `tokenizer.json` of the model directory `dir`, or its `tiktoken.model`, `tekken.json` or `tokenizer.model`, and `tokenizer_config.json`, `special_tokens_map.json`,
    /// `generation_config.json` and `config.json` where they exist, for the tokens that begin and end a text.
    ///
    /// # Errors
    /// A file that is missing, broken or asks for something other than such BPE.
    pub fn load(dir: &Path) -> Result<Tokenizer, TextError> {
        let path = dir.join("tokenizer.json");
        let mut config = serde_json::Map::new();
        for name in ["special_tokens_map.json", "tokenizer_config.json"] {
            if let Some(Value::Object(map)) = files::json_optional(&dir.join(name))? {
                config.extend(map);
            }
        }
        let config = Value::Object(config);
        let other = if path.exists() { None } else { ranks::load(dir, &config)?.or(pieces::load(dir, &config)?) };
        let mut tokenizer = match other {
            Some(tokenizer) => tokenizer,
            None => {
                let bytes = files::read(&path, files::TOKENIZER_BYTES_MAX)?;
                Tokenizer::read(&path.display().to_string(), &bytes, Some(&config))?
            }
        };
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

    /// What it was read from, to name in errors.
    pub fn file(&self) -> &str {
        &self.file
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
        let mut scratch = Scratch::default();
        self.added_raw.split(text, parse_special, |part| match part {
            Part::Token(id) => ids.push(id),
            Part::Text(range) => {
                let begins = range.start == 0;
                let text = normalize(&self.normalizer, &text[range]);
                self.added_normalized.split(&text, parse_special, |part| match part {
                    Part::Token(id) => ids.push(id),
                    Part::Text(range) => {
                        let begins = begins && range.start == 0;
                        let text = Cow::Borrowed(&text[range]);
                        let text = self.metaspace.as_ref().map_or(text.clone(), |spaces| spaces.write(text, begins));
                        self.splitter.split(&text, &mut |piece| self.encode_piece(piece, &mut scratch, &mut ids));
                    }
                });
            }
        });
        Ok(ids)
    }

    fn encode_piece(&self, piece: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        if self.ignore_merges
            && let Some(id) = self.vocab.find(piece.as_bytes()).filter(|id| !self.added_only.contains(id))
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
    /// give no text, as in Hugging Face's `decode`. (Of a run of single bytes that are not UTF-8 as a whole, Hugging Face's
    /// gives up every byte, and this only those that are not.)
    pub fn decode(&self, ids: &[u32]) -> String {
        self.decode_with(ids, false)
    }

    /// [`Tokenizer::decode`], leaving out special tokens if `skip_special`.
    pub fn decode_with(&self, ids: &[u32], skip_special: bool) -> String {
        let kept = ids.iter().filter(|&&id| !(skip_special && self.is_special(id)));
        let bytes: Vec<u8> = kept.filter_map(|&id| self.token_bytes(id)).flatten().copied().collect();
        let stripped = bytes.strip_prefix(b" ").filter(|_| self.strips_space);
        String::from_utf8_lossy(stripped.unwrap_or(&bytes)).into_owned()
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

/// `text` in the given forms, one after another.
pub(crate) fn normalize<'a>(forms: &[Form], text: &'a str) -> Cow<'a, str> {
    let mut text = Cow::Borrowed(text);
    for form in forms {
        text = match form {
            Form::Nfc if is_nfc_quick(text.chars()) == IsNormalized::Yes => continue,
            Form::Nfc => text.nfc().collect(),
            Form::Nfd => text.nfd().collect(),
            Form::Nfkc => text.nfkc().collect(),
            Form::Nfkd => text.nfkd().collect(),
            Form::Prepend(_) if text.is_empty() => continue,
            Form::Prepend(before) => Cow::Owned(format!("{before}{text}")),
            Form::Replace(old, new) => Cow::Owned(text.replace(old.as_str(), new)),
        };
    }
    text
}
