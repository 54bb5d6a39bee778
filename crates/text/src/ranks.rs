//! Tokenizers whose files list tokens by rank instead of merges: `tiktoken.model` of Kimi, `tekken.json` of Mistral. Two
//! neighbours join where their bytes together are a token, those of the lowest rank first (tiktoken `src/lib.rs`); a word that is a
//! token is taken whole.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;

use crate::bpe::{Bpe, Merged, Merges, Units, pair};
use crate::schema::{AddedToken, Pattern, PreTokenizer};
use crate::split::Splitter;
use crate::tokenizer_load::{Known, add_from_config, added_sets, build_vocab};
use crate::vocab::{ByteAlphabet, Written, byte_letters};
use crate::{TextError, Tokenizer, files};

/// How Kimi's tokenizer cuts a text into words (`tokenization_kimi.py`, `pat_str`): runs of Chinese characters by themselves, the
/// rest as OpenAI's o200k.
pub(crate) const KIMI: &str = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Ids behind Kimi's ranks that are tokens whatever the configuration names: `num_reserved_special_tokens`, and 2 in earlier
/// versions, which change no id.
const KIMI_RESERVED: usize = 256;

/// What both files come to.
struct Ranked<'a> {
    file: &'a str,
    pattern: &'a str,
    /// By rank.
    tokens: Vec<Vec<u8>>,
    /// Id of rank 0.
    first: u32,
    added: Vec<AddedToken>,
}

impl Tokenizer {
    /// Reads a `tiktoken.model`: lines of a token in base64 and its rank, which is its id. `config` is a `tokenizer_config.json`,
    /// which names the tokens behind them.
    ///
    /// # Errors
    /// When it is broken, or no tokenizer of Kimi's.
    pub fn from_tiktoken(file: &str, bytes: &[u8], config: Option<&Value>) -> Result<Tokenizer, TextError> {
        let class = config.and_then(|config| config["tokenizer_class"].as_str());
        if class.is_some_and(|class| class != "TikTokenTokenizer") {
            let what = format!("the tokenizer class {class:?}, whose way to split words is not in its files");
            return Err(TextError::unsupported(file, what));
        }
        let mut tokens: Vec<Vec<u8>> = Vec::new();
        for line in bytes.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()) {
            let broken = || TextError::invalid(file, format!("its line {} is no token and rank", tokens.len() + 1));
            let (token, rank) =
                line.iter().position(|&byte| byte == b' ').map(|at| line.split_at(at)).ok_or_else(broken)?;
            let rank = std::str::from_utf8(rank).ok().and_then(|rank| rank.trim().parse().ok());
            if rank != Some(tokens.len()) {
                return Err(broken());
            }
            tokens.push(STANDARD.decode(token).map_err(|_| broken())?);
        }
        let mut added = Vec::new();
        add_from_config(config, &mut added);
        let reserved = tokens.len()..tokens.len() + KIMI_RESERVED;
        for id in reserved.filter_map(|id| u32::try_from(id).ok()) {
            if !added.iter().any(|token| token.id == id) {
                added.push(control(id, format!("<|reserved_token_{id}|>")));
            }
        }
        build(Ranked { file, pattern: KIMI, tokens, first: 0, added }, config)
    }

    /// Reads a `tekken.json`: ranks begin behind the control tokens, and a text begins with `<s>`.
    ///
    /// # Errors
    /// When it is broken or contradicts itself.
    pub fn from_tekken(file: &str, bytes: &[u8], config: Option<&Value>) -> Result<Tokenizer, TextError> {
        let tekken: Tekken =
            serde_json::from_slice(bytes).map_err(|source| TextError::Json { file: file.to_owned(), source })?;
        let Tekken { config: sizes, mut vocab, special_tokens } = tekken;
        let controls = sizes.default_num_special_tokens;
        let count = sizes.default_vocab_size.checked_sub(controls).filter(|&count| count <= vocab.len());
        let Some(count) = count else {
            let what = format!(
                "it says {} tokens, {controls} of them control tokens, and lists {}",
                sizes.default_vocab_size,
                vocab.len()
            );
            return Err(TextError::invalid(file, what));
        };
        vocab.truncate(count);
        let token = |(rank, entry): (usize, TekkenToken)| {
            let broken = || TextError::invalid(file, format!("its token {rank} is out of order or no base64"));
            if entry.rank == rank { STANDARD.decode(entry.token_bytes).map_err(|_| broken()) } else { Err(broken()) }
        };
        let tokens = vocab.into_iter().enumerate().map(token).collect::<Result<_, _>>()?;
        let mut special: HashMap<usize, String> =
            special_tokens.into_iter().flatten().map(|token| (token.rank, token.token_str)).collect();
        if special.is_empty() {
            special = OLD_CONTROLS.iter().enumerate().map(|(rank, text)| (rank, (*text).to_owned())).collect();
        }
        let named = |id: usize| special.remove(&id).unwrap_or_else(|| format!("<SPECIAL_{id}>"));
        let first = u32::try_from(controls).map_err(|_| TextError::invalid(file, "it has too many tokens"))?;
        let texts: Vec<String> = (0..controls).map(named).collect();
        let added = (0..first).zip(texts).map(|(id, text)| control(id, text)).collect();
        let mut tokenizer = build(Ranked { file, pattern: &sizes.pattern, tokens, first, added }, config)?;
        tokenizer.bos = tokenizer.bos.or_else(|| tokenizer.token_id("<s>"));
        tokenizer.prefix = tokenizer.bos.into_iter().collect();
        if tokenizer.eos.is_empty() {
            tokenizer.eos = tokenizer.token_id("</s>").into_iter().collect();
        }
        Ok(tokenizer)
    }
}

/// Control tokens of files that do not list them (mistral-common, `DEPRECATED_SPECIAL_TOKENS`).
const OLD_CONTROLS: [&str; 20] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];

#[derive(Deserialize)]
struct Tekken {
    config: TekkenSizes,
    vocab: Vec<TekkenToken>,
    special_tokens: Option<Vec<TekkenControl>>,
}

#[derive(Deserialize)]
struct TekkenSizes {
    pattern: String,
    default_vocab_size: usize,
    default_num_special_tokens: usize,
}

#[derive(Deserialize)]
struct TekkenToken {
    rank: usize,
    token_bytes: String,
}

#[derive(Deserialize)]
struct TekkenControl {
    rank: usize,
    token_str: String,
}

fn control(id: u32, content: String) -> AddedToken {
    AddedToken { id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }
}

fn build(ranked: Ranked, config: Option<&Value>) -> Result<Tokenizer, TextError> {
    let Ranked { file, pattern, tokens, first, added } = ranked;
    let letters = byte_letters();
    let written: Vec<String> =
        tokens.iter().map(|token| token.iter().map(|&byte| letters[usize::from(byte)]).collect()).collect();
    let mut known = Known::with_capacity(written.len());
    for (token, id) in written.iter().zip(first..) {
        if known.insert(token, id).is_some() {
            return Err(TextError::invalid(file, format!("the token {token:?} is there twice")));
        }
    }
    let (vocab, added_only) = build_vocab(file, &known, &added, &Written::Letters(ByteAlphabet::new()))?;
    let special = added.iter().filter(|token| token.special).map(|token| token.id).collect();
    let (added_raw, added_normalized) = added_sets(file, added, &[])?;
    let words = PreTokenizer::Split {
        pattern: Pattern::Regex(pattern.to_owned()),
        behavior: "Isolated".to_owned(),
        invert: false,
    };
    let bytes = PreTokenizer::ByteLevel { add_prefix_space: false, use_regex: false };
    let mut tokenizer = Tokenizer {
        file: file.to_owned(),
        vocab,
        bpe: merges(file, &tokens, first)?,
        ignore_merges: true,
        splitter: Splitter::new(file, Some(&PreTokenizer::Sequence { pretokenizers: vec![words, bytes] }))?,
        metaspace: None,
        normalizer: Vec::new(),
        added_raw,
        added_normalized,
        special,
        added_only,
        prefix: Vec::new(),
        suffix: Vec::new(),
        strips_space: false,
        bos: None,
        eos: Vec::new(),
    };
    tokenizer.name_ends(config);
    Ok(tokenizer)
}

/// Every pair of tokens that joins to one, by its rank.
fn merges(file: &str, tokens: &[Vec<u8>], first: u32) -> Result<Bpe, TextError> {
    let ids: HashMap<&[u8], u32> = tokens.iter().map(Vec::as_slice).zip(first..).collect();
    let mut byte_ids = Box::new([0; 256]);
    for (byte, id) in (0..=255u8).zip(byte_ids.iter_mut()) {
        let missing = || TextError::invalid(file, format!("the byte {byte:#04x} is not in its vocabulary"));
        *id = ids.get(&[byte][..]).copied().ok_or_else(missing)?;
    }
    let mut merges = Merges::default();
    for (token, rank) in tokens.iter().zip(0u32..) {
        for at in 1..token.len() {
            let (left, right) = token.split_at(at);
            if let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right)) {
                merges.insert(pair(left, right), Merged { rank, id: first + rank });
            }
        }
    }
    Ok(Bpe { units: Units::Bytes(byte_ids), merges })
}

/// The tokenizer of a folder without `tokenizer.json`, if it has one of the files above.
pub(crate) fn load(dir: &std::path::Path, config: &Value) -> Result<Option<Tokenizer>, TextError> {
    type Read = fn(&str, &[u8], Option<&Value>) -> Result<Tokenizer, TextError>;
    let kinds: [(&str, Read); 2] =
        [("tiktoken.model", Tokenizer::from_tiktoken), ("tekken.json", Tokenizer::from_tekken)];
    let found = kinds.into_iter().map(|(name, read)| (dir.join(name), read)).find(|(path, _)| path.exists());
    let Some((path, read)) = found else { return Ok(None) };
    let bytes = files::read(&path, files::TOKENIZER_BYTES_MAX)?;
    read(&path.display().to_string(), &bytes, Some(config)).map(Some)
}
