//! From the JSON of `tokenizer.json` to a [`Tokenizer`]; whatever it asks for that is not implemented is refused here.

use crate::added::{Added, AddedSet};
use crate::bpe::{Bpe, Chars, Merged, Merges, NONE, Units, pair};
use crate::pieces::{Metaspace, char_units};
use crate::schema::{self, Decoder, Document, Normalizer, Pattern, Piece, PostProcessor};
use crate::split::Splitter;
use crate::tokenizer::{Form, normalize};
use crate::vocab::{ByteAlphabet, SPACE, Vocab, Written, byte_letters};
use crate::{TextError, Tokenizer, files};
use serde_json::Value;
use std::collections::{HashMap, HashSet};

impl Tokenizer {
    pub(crate) fn read(file: &str, bytes: &[u8], config: Option<&Value>) -> Result<Tokenizer, TextError> {
        let mut document: Document =
            serde_json::from_slice(bytes).map_err(|source| other_model(file, bytes, source))?;
        check_model(file, &document)?;
        let decoded = Decoded::of(file, document.decoder.as_ref())?;
        let before = document.pre_tokenizer.as_ref();
        let (splitter, metaspace) = match decoded {
            Decoded::Letters => (Splitter::new(file, before)?, None),
            Decoded::Pieces { .. } => (Splitter::of_pieces(file, before)?, Metaspace::of(file, before)?),
        };
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
            let model = &document.model;
            let known: Known = model.vocab.iter().collect();
            let (units, written) = match decoded {
                Decoded::Letters => (byte_units(file, &known)?, Written::Letters(ByteAlphabet::new())),
                Decoded::Pieces { .. } => {
                    let unknown = model.unk_token.as_deref().and_then(|token| known.get(token).copied());
                    let chars = char_units(file, &known, model.byte_fallback)?;
                    (Units::Chars(Chars { unknown, fuse_unknown: model.fuse_unk, ..chars }), Written::Pieces)
                }
            };
            (
                build_bpe(file, units, model.merges.len(), model.merges.iter(), &known)?,
                build_vocab(file, &known, &added, &written)?,
            )
        };
        drop(document);
        let special = added.iter().filter(|token| token.special).map(|token| token.id).collect();
        let (added_raw, added_normalized) = added_sets(file, added, &normalizer)?;
        let mut tokenizer = Tokenizer {
            file: file.to_owned(),
            vocab,
            bpe,
            ignore_merges,
            splitter,
            metaspace,
            normalizer,
            added_raw,
            added_normalized,
            special,
            added_only,
            prefix,
            suffix,
            strips_space: matches!(decoded, Decoded::Pieces { strips_space: true }),
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

/// What is wrong with a file that is no [`Document`]: those of other kinds of tokenizers have other keys.
fn other_model(file: &str, bytes: &[u8], source: serde_json::Error) -> TextError {
    let found: Value = serde_json::from_slice(bytes).unwrap_or_default();
    match found["model"]["type"].as_str().filter(|&kind| kind != "BPE") {
        Some(kind) => TextError::unsupported(file, format!("the tokenizer model {kind:?}")),
        None => TextError::Json { file: file.to_owned(), source },
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
    Ok(())
}

/// What a decoder says of how tokens are written.
#[derive(Clone, Copy)]
enum Decoded {
    /// In letters that stand for bytes.
    Letters,
    /// As SentencePiece does.
    Pieces { strips_space: bool },
}

impl Decoded {
    fn of(file: &str, decoder: Option<&Decoder>) -> Result<Decoded, TextError> {
        let steps = match decoder {
            Some(Decoder::Sequence { decoders }) => decoders.as_slice(),
            step => step.map_or(&[][..], std::slice::from_ref),
        };
        let steps: Vec<&Decoder> = steps.iter().filter(|step| !matches!(step, Decoder::Fuse {})).collect();
        match steps[..] {
            [Decoder::ByteLevel {}] => Ok(Decoded::Letters),
            [
                Decoder::Replace { pattern: Pattern::String(pattern), content },
                Decoder::ByteFallback {},
                ref strip @ ..,
            ] if pattern.chars().eq([SPACE]) && content == " " => match *strip {
                [] => Ok(Decoded::Pieces { strips_space: false }),
                [Decoder::Strip { content, start: 1, stop: 0 }] if content == " " => {
                    Ok(Decoded::Pieces { strips_space: true })
                }
                _ => Err(TextError::unsupported(file, "a decoder that strips more than the first space")),
            },
            _ => Err(TextError::unsupported(file, "a decoder other than ByteLevel, and Replace with ByteFallback")),
        }
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
        Normalizer::Prepend { prepend } => Form::Prepend(prepend.clone()),
        Normalizer::Replace { pattern: Pattern::String(old), content } if !old.is_empty() => {
            Form::Replace(old.clone(), content.clone())
        }
        Normalizer::Replace { .. } => {
            return Err(TextError::unsupported(file, "a normalizer that replaces by pattern"));
        }
        Normalizer::Other => {
            return Err(TextError::unsupported(file, "a normalizer other than NFC, NFD, NFKC, NFKD, Prepend, Replace"));
        }
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

/// Bytes of UTF-8 that begin no character, or none that is assigned: DeepSeek-V2's vocabulary and StarCoder's have no tokens for them.
const NO_CHARACTERS: [u8; 15] =
    [0xc0, 0xc1, 0xf1, 0xf2, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff];

/// Single bytes, which are all tokens, but perhaps for [`NO_CHARACTERS`].
pub(crate) fn byte_units(file: &str, known: &Known) -> Result<Units, TextError> {
    let mut ids = Box::new([NONE; 256]);
    for ((id, letter), byte) in ids.iter_mut().zip(byte_letters()).zip(0u8..=255) {
        let mut utf8 = [0; 4];
        let token = &*letter.encode_utf8(&mut utf8);
        match known.get(token) {
            Some(known) => *id = *known,
            None if NO_CHARACTERS.contains(&byte) => {}
            None => return Err(TextError::invalid(file, format!("the byte {token:?} is not in its vocabulary"))),
        }
    }
    Ok(Units::Bytes(ids))
}

/// Units, and merges of two tokens each, the first ones first.
pub(crate) fn build_bpe<'a>(
    file: &str,
    units: Units,
    count: usize,
    rules: impl Iterator<Item = (&'a str, &'a str)>,
    known: &Known,
) -> Result<Bpe, TextError> {
    let find = |token: &str| {
        let missing = || TextError::invalid(file, format!("the merged token {token:?} is not in its vocabulary"));
        known.get(token).copied().ok_or_else(missing)
    };
    let mut merges = Merges::with_capacity_and_hasher(count, Default::default());
    let mut joined = String::new();
    for ((left, right), rank) in rules.zip(0u32..) {
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let key = pair(find(left)?, find(right)?);
        merges.insert(key, Merged { rank, id: find(&joined)? });
    }
    Ok(Bpe { units, merges })
}

/// Lays out all tokens; also returns the ids of the added tokens that the model's vocabulary does not have.
pub(crate) fn build_vocab(
    file: &str,
    known: &Known,
    added: &[schema::AddedToken],
    written: &Written,
) -> Result<(Vocab, HashSet<u32>), TextError> {
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
    Ok((Vocab::new(file, tokens, written)?, added_only))
}
