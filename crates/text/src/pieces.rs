//! Tokenizers of SentencePiece's kind: BPE over characters, where `▁` stands for a space and characters that are no token become
//! their bytes. Read from `tokenizer.model` (sentencepiece `sentencepiece_model.proto`), and from what GGUF files take over of it.

use std::borrow::Cow;
use std::path::Path;

use serde_json::Value;

use crate::added::{Added, AddedSet};
use crate::bpe::{Bpe, Chars, Merged, Merges, Units, pair};
use crate::protobuf::{Field, fields};
use crate::schema::{AddedToken, PreTokenizer};
use crate::split::Splitter;
use crate::tokenizer::Form;
use crate::tokenizer_load::{Known, add_from_config, build_vocab};
use crate::vocab::{SPACE, Written, byte_of};
use crate::{TextError, Tokenizer, files};

/// How spaces are written before a text is split, and which texts get one in front.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Metaspace {
    Always,
    /// Only what begins the whole text.
    First,
    Never,
}

impl Metaspace {
    /// That of a pre-tokenizer, if it has one.
    pub fn of(file: &str, step: Option<&PreTokenizer>) -> Result<Option<Metaspace>, TextError> {
        match step {
            Some(PreTokenizer::Metaspace { replacement, prepend_scheme, add_prefix_space, .. }) => {
                if !replacement.chars().eq([SPACE]) {
                    return Err(TextError::unsupported(file, format!("the replacement of spaces by {replacement:?}")));
                }
                match prepend_scheme.as_deref() {
                    Some("always") => Ok(Some(Metaspace::Always)),
                    Some("first") => Ok(Some(Metaspace::First)),
                    Some("never") => Ok(Some(Metaspace::Never)),
                    Some(scheme) => Err(TextError::unsupported(file, format!("the prepend_scheme {scheme:?}"))),
                    None if *add_prefix_space == Some(false) => Ok(Some(Metaspace::Never)),
                    None => Ok(Some(Metaspace::Always)),
                }
            }
            Some(PreTokenizer::Sequence { pretokenizers }) => {
                let inner = pretokenizers.iter().map(|step| Metaspace::of(file, Some(step)));
                let inner: Vec<Metaspace> = inner.filter_map(Result::transpose).collect::<Result<_, _>>()?;
                match inner[..] {
                    [] => Ok(None),
                    [spaces] if matches!(pretokenizers.first(), Some(PreTokenizer::Metaspace { .. })) => {
                        Ok(Some(spaces))
                    }
                    _ => Err(TextError::unsupported(file, "Metaspace after another step")),
                }
            }
            _ => Ok(None),
        }
    }

    /// `text` with its spaces as `▁`; `begins` if nothing of the whole text is before it.
    pub fn write(self, text: Cow<str>, begins: bool) -> Cow<str> {
        let text = if text.contains(' ') { Cow::Owned(text.replace(' ', "▁")) } else { text };
        let prepends = self == Metaspace::Always || self == Metaspace::First && begins;
        if prepends && !text.starts_with(SPACE) { Cow::Owned(format!("▁{text}")) } else { text }
    }
}

/// Characters that are tokens, and with `byte_fallback` the tokens of bytes.
pub(crate) fn char_units(file: &str, known: &Known, byte_fallback: bool) -> Result<Chars, TextError> {
    let single = |token: &str| token.chars().next().filter(|c| c.len_utf8() == token.len());
    let ids = known.iter().filter_map(|(&token, &id)| Some((single(token)?, id))).collect();
    let bytes = if byte_fallback {
        let mut bytes = Box::new([None; 256]);
        for (&token, &id) in known {
            if let Some(byte) = byte_of(token) {
                bytes[usize::from(byte)] = Some(id);
            }
        }
        let mut found = Box::new([0; 256]);
        for (byte, (found, id)) in found.iter_mut().zip(*bytes).enumerate() {
            let missing = || TextError::invalid(file, format!("the byte {byte:#04x} is not in its vocabulary"));
            *found = id.ok_or_else(missing)?;
        }
        Some(found)
    } else {
        None
    };
    Ok(Chars { ids, bytes, unknown: None, fuse_unknown: true })
}

/// Kinds of pieces, as sentencepiece and GGUF files number them.
pub(crate) mod kind {
    pub const NORMAL: i64 = 1;
    pub const UNKNOWN: i64 = 2;
    pub const CONTROL: i64 = 3;
    /// Texts with an id of their own.
    pub const USER_DEFINED: i64 = 4;
    /// Ids that no text has.
    pub const UNUSED: i64 = 5;
    pub const BYTE: i64 = 6;
}

/// One token of a `tokenizer.model`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece<'a> {
    pub text: &'a str,
    pub score: f32,
    pub kind: i64,
}

/// What a `tokenizer.model` comes to.
#[derive(Debug)]
pub(crate) struct Pieces<'a> {
    pub file: &'a str,
    /// By id.
    pub pieces: Vec<Piece<'a>>,
    /// A space is put before every text.
    pub prepends_space: bool,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
}

impl<'a> Pieces<'a> {
    /// Reads the protocol buffer.
    fn read(file: &'a str, bytes: &'a [u8]) -> Result<Pieces<'a>, TextError> {
        let broken = || TextError::invalid(file, "it is no model of sentencepiece");
        let (mut pieces, mut algorithm, mut prepends_space) = (Vec::new(), 1, true);
        let (mut bos, mut eos) = (1, 2);
        for part in fields(bytes) {
            match part.ok_or_else(broken)? {
                (1, Field::Bytes(message)) => {
                    let mut piece = Piece { text: "", score: 0.0, kind: kind::NORMAL };
                    for field in fields(message) {
                        match field.ok_or_else(broken)? {
                            (1, Field::Bytes(text)) => piece.text = std::str::from_utf8(text).map_err(|_| broken())?,
                            (2, Field::Fixed32(bits)) => piece.score = f32::from_bits(bits),
                            (3, Field::Varint(kind)) => piece.kind = i64::from_ne_bytes(kind.to_ne_bytes()),
                            _ => {}
                        }
                    }
                    pieces.push(piece);
                }
                (2, Field::Bytes(trainer)) => {
                    for field in fields(trainer) {
                        match field.ok_or_else(broken)? {
                            (3, Field::Varint(kind)) => algorithm = kind,
                            (24, Field::Varint(1)) => {
                                return Err(TextError::unsupported(file, "treat_whitespace_as_suffix"));
                            }
                            (41, Field::Varint(id)) => bos = id,
                            (42, Field::Varint(id)) => eos = id,
                            _ => {}
                        }
                    }
                }
                (3, Field::Bytes(normalizer)) => {
                    let mut extra = true;
                    for field in fields(normalizer) {
                        match field.ok_or_else(broken)? {
                            (2, Field::Bytes(map)) if !map.is_empty() => {
                                return Err(TextError::unsupported(file, "a table of characters (only identity is)"));
                            }
                            (3, Field::Varint(value)) => prepends_space = value != 0,
                            (4, Field::Varint(value)) => extra = value != 0,
                            (5, Field::Varint(0)) => {
                                return Err(TextError::unsupported(file, "spaces that are not escaped"));
                            }
                            _ => {}
                        }
                    }
                    if extra {
                        return Err(TextError::unsupported(file, "remove_extra_whitespaces"));
                    }
                }
                _ => {}
            }
        }
        match algorithm {
            _ if pieces.is_empty() => Err(broken()),
            2 => {
                let id = |id: u64| u32::try_from(id).ok().filter(|&id| (id as usize) < pieces.len());
                let (bos, eos) = (id(bos), id(eos));
                Ok(Pieces { file, pieces, prepends_space, bos, eos })
            }
            1 => Err(TextError::unsupported(file, "the unigram model of sentencepiece (its BPE is)")),
            _ => Err(TextError::unsupported(file, "a model of words or characters")),
        }
    }

    /// Every pair of pieces that joins to one, the highest scores first.
    fn merges(&self, known: &Known) -> Merges {
        let mut scores: Vec<f32> = self.pieces.iter().map(|piece| piece.score).collect();
        scores.sort_unstable_by(|a, b| b.total_cmp(a));
        scores.dedup();
        let mut merges = Merges::default();
        for (piece, id) in self.pieces.iter().zip(0u32..).filter(|(piece, _)| piece.kind == kind::NORMAL) {
            let rank = scores.partition_point(|score| score.total_cmp(&piece.score).is_gt()) as u32;
            for (at, _) in piece.text.char_indices().skip(1) {
                let (left, right) = piece.text.split_at(at);
                if let (Some(&left), Some(&right)) = (known.get(left), known.get(right)) {
                    merges.insert(pair(left, right), Merged { rank, id });
                }
            }
        }
        merges
    }

    /// The tokenizer, with the tokens that `config`, a `tokenizer_config.json`, adds.
    pub fn tokenizer(&self, config: Option<&Value>) -> Result<Tokenizer, TextError> {
        let file = self.file;
        let (mut known, mut added, mut unknown) = (Known::with_capacity(self.pieces.len()), Vec::new(), None);
        let mut user_defined = Vec::new();
        let mut has_bytes = false;
        for (piece, id) in self.pieces.iter().zip(0u32..) {
            has_bytes |= piece.kind == kind::BYTE;
            match piece.kind {
                kind::NORMAL | kind::BYTE if known.insert(piece.text, id).is_some() => {
                    return Err(TextError::invalid(file, format!("the token {:?} is there twice", piece.text)));
                }
                kind::NORMAL | kind::BYTE => {}
                kind::CONTROL | kind::UNKNOWN | kind::USER_DEFINED => {
                    if piece.kind == kind::UNKNOWN {
                        unknown = Some(id);
                    }
                    let special = piece.kind != kind::USER_DEFINED;
                    if !special {
                        user_defined.push((id, piece.text.replace(' ', "▁")));
                    }
                    let content = piece.text.to_owned();
                    let flags = AddedToken { id, content, special, ..AddedToken::default() };
                    added.push(flags);
                }
                _ => {}
            }
        }
        let from_file = added.len();
        add_from_config(config, &mut added);
        for token in &added[from_file..] {
            if token.single_word {
                return Err(TextError::unsupported(file, format!("the single_word token {:?}", token.content)));
            }
        }
        let chars = char_units(file, &known, has_bytes)?;
        let (vocab, added_only) = build_vocab(file, &known, &added, &Written::Pieces)?;
        let special = added.iter().filter(|token| token.special).map(|token| token.id).collect();
        let plain = |(id, content)| Added { id, content, special: false, lstrip: false, rstrip: false };
        let raw = added.into_iter().enumerate().filter(|&(i, ref token)| i >= from_file || token.special);
        let raw = raw.map(|(_, token)| {
            let AddedToken { id, content, lstrip, rstrip, special, .. } = token;
            Added { id, content, special, lstrip, rstrip }
        });
        let prepend = Form::Prepend(SPACE.to_string());
        let mut tokenizer = Tokenizer {
            file: file.to_owned(),
            bpe: Bpe { units: Units::Chars(Chars { unknown, ..chars }), merges: self.merges(&known) },
            vocab,
            ignore_merges: false,
            splitter: Splitter::of_pieces(file, None)?,
            metaspace: None,
            normalizer: (self.prepends_space.then_some(prepend).into_iter())
                .chain([Form::Replace(" ".to_owned(), SPACE.to_string())])
                .collect(),
            added_raw: AddedSet::new(raw.collect()),
            // These are found in a text whose spaces are written already.
            added_normalized: AddedSet::new(user_defined.into_iter().map(plain).collect()),
            special,
            added_only,
            prefix: Vec::new(),
            suffix: Vec::new(),
            strips_space: self.prepends_space,
            bos: None,
            eos: Vec::new(),
        };
        tokenizer.name_ends(config);
        tokenizer.bos = tokenizer.bos.or(self.bos);
        if tokenizer.eos.is_empty() {
            tokenizer.eos = self.eos.into_iter().collect();
        }
        Ok(tokenizer)
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.model` of sentencepiece: its BPE, without a table of characters. `config` is a `tokenizer_config.json`,
    /// which may add tokens, and say that texts do not begin with BOS (`add_bos_token`).
    ///
    /// # Errors
    /// When it is broken, a unigram model, or changes texts before it splits them.
    pub fn from_sentencepiece(file: &str, bytes: &[u8], config: Option<&Value>) -> Result<Tokenizer, TextError> {
        let mut tokenizer = Pieces::read(file, bytes)?.tokenizer(config)?;
        let adds = config.and_then(|config| config.get("add_bos_token")) != Some(&Value::Bool(false));
        tokenizer.prefix = tokenizer.bos.filter(|_| adds).into_iter().collect();
        Ok(tokenizer)
    }
}

/// The tokenizer of a folder that has only a `tokenizer.model`.
pub(crate) fn load(dir: &Path, config: &Value) -> Result<Option<Tokenizer>, TextError> {
    let path = dir.join("tokenizer.model");
    if !path.exists() {
        return Ok(None);
    }
    let bytes = files::read(&path, files::TOKENIZER_BYTES_MAX)?;
    Tokenizer::from_sentencepiece(&path.display().to_string(), &bytes, Some(config)).map(Some)
}
