//! From the JSON of `tokenizer.json` to a [`Tokenizer`]; whatever it asks for that is not implemented is refused here.

use crate::added::{Added, AddedSet};
use crate::bpe::{Bpe, Merged, Merges, pair};
use crate::schema::{self, Decoder, Document, Normalizer, Piece, PostProcessor};
use crate::split::Splitter;
use crate::tokenizer::{Form, normalize};
use crate::vocab::{ByteAlphabet, Vocab, byte_letters};
use crate::{TextError, Tokenizer, files};
use serde_json::Value;
use std::collections::{HashMap, HashSet};

impl Tokenizer {
    pub(crate) fn read(file: &str, bytes: &[u8], config: Option<&Value>) -> Result<Tokenizer, TextError> {
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
        let ignore_merges = document.model.ignore_merges;
        let (bpe, (vocab, added_only)) = {
            let known: Known = document.model.vocab.iter().collect();
            (
                build_bpe(file, document.model.merges.len(), document.model.merges.iter(), &known)?,
                build_vocab(file, &known, &added)?,
            )
        };
        drop(document);
        let special = added.iter().filter(|token| token.special).map(|token| token.id).collect();
        let (added_raw, added_normalized) = added_sets(file, added, &normalizer)?;
        let mut tokenizer = Tokenizer {
            vocab,
            bpe,
            ignore_merges,
            splitter,
            normalizer,
            added_raw,
            added_normalized,
            special,
            added_only,
            prefix,
            suffix,
            bos: None,
            eos: Vec::new(),
        };
        tokenizer.name_ends(config);
        Ok(tokenizer)
    }

    /// Takes the tokens that begin and end a text from `tokenizer_config.json`.
    pub(crate) fn name_ends(&mut self, config: Option<&Value>) {
        let named = |key| config.and_then(|config| config.get(key)).and_then(files::token_text);
        self.bos = named("bos_token").and_then(|text| self.token_id(text));
        self.eos = named("eos_token").and_then(|text| self.token_id(text)).into_iter().collect();
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
pub(crate) fn add_from_config(config: Option<&Value>, added: &mut Vec<schema::AddedToken>) {
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

/// The added tokens that are searched in a text as given, and in the normalized one.
pub(crate) fn added_sets(
    file: &str,
    added: Vec<schema::AddedToken>,
    normalizer: &[Form],
) -> Result<(AddedSet, AddedSet), TextError> {
    let (mut raw, mut normalized) = (Vec::new(), Vec::new());
    for token in added {
        if token.single_word {
            return Err(TextError::unsupported(file, format!("the single_word token {:?}", token.content)));
        }
        let schema::AddedToken { id, lstrip, rstrip, special, .. } = token;
        let content = if token.normalized { normalize(normalizer, &token.content).into_owned() } else { token.content };
        let list = if token.normalized { &mut normalized } else { &mut raw };
        list.push(Added { id, content, special, lstrip, rstrip });
    }
    Ok((AddedSet::new(raw), AddedSet::new(normalized)))
}

/// The model's vocabulary as written: letters of [`byte_letters`], not bytes.
pub(crate) type Known<'a> = HashMap<&'a str, u32>;

/// Single bytes, and merges of two tokens each, the first ones first.
pub(crate) fn build_bpe<'a>(
    file: &str,
    count: usize,
    rules: impl Iterator<Item = (&'a str, &'a str)>,
    known: &Known,
) -> Result<Bpe, TextError> {
    let find = |what: &str, token: &str| {
        let missing = || TextError::invalid(file, format!("the {what} {token:?} is not in its vocabulary"));
        known.get(token).copied().ok_or_else(missing)
    };
    let mut byte_ids = [0; 256];
    for (id, letter) in byte_ids.iter_mut().zip(byte_letters()) {
        *id = find("byte", letter.encode_utf8(&mut [0; 4]))?;
    }
    let mut merges = Merges::with_capacity_and_hasher(count, Default::default());
    let mut joined = String::new();
    for ((left, right), rank) in rules.zip(0u32..) {
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let key = pair(find("merged token", left)?, find("merged token", right)?);
        merges.insert(key, Merged { rank, id: find("merged token", &joined)? });
    }
    Ok(Bpe { byte_ids, merges })
}

/// Lays out all tokens; also returns the ids of the added tokens that the model's vocabulary does not have.
pub(crate) fn build_vocab(
    file: &str,
    known: &Known,
    added: &[schema::AddedToken],
) -> Result<(Vocab, HashSet<u32>), TextError> {
    let alphabet = ByteAlphabet::new();
    let mut tokens: Vec<(u32, &str)> = known.iter().map(|(&token, &id)| (id, token)).collect();
    let mut added_only = HashSet::new();
    let mut seen = HashSet::new();
    for token in added {
        let content = token.content.as_str();
        match known.get(content) {
            Some(&id) if id != token.id => {
                let what = format!("the added token {content:?} has the id {} here and {id} there", token.id);
                return Err(TextError::invalid(file, what));
            }
            Some(_) => {}
            None if seen.insert(content) => {
                added_only.insert(token.id);
                tokens.push((token.id, content));
            }
            None => return Err(TextError::invalid(file, format!("the token {content:?} is added twice"))),
        }
    }
    Ok((Vocab::new(file, tokens, &alphabet)?, added_only))
}
