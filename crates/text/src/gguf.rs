//! Tokenizers as GGUF files hold them: a vocabulary with the kind of each token, merges, and the name of the way to split a
//! text into words (llama.cpp `src/llama-vocab.cpp`). Everything else about them is what Hugging Face's tokenizers of the same
//! models do, whose ids they must give.

use crate::added::AddedSet;
use crate::bpe::{Chars, Units};
use crate::pieces::{Piece, Pieces, char_units, kind};
use crate::ranks::KIMI;
use crate::schema::{AddedToken, Pattern, PreTokenizer};
use crate::split::{GPT2, Splitter};
use crate::tokenizer::Form;
use crate::tokenizer_load::{Known, added_sets, build_bpe, build_vocab, byte_units};
use crate::vocab::{ByteAlphabet, SPACE, Written};
use crate::{TextError, Tokenizer};

/// What a GGUF file says of a tokenizer.
#[derive(Debug)]
pub struct GgufTokenizer<'a> {
    /// The file, for errors.
    pub file: &'a str,
    /// `tokenizer.ggml.model`.
    pub model: &'a str,
    /// `tokenizer.ggml.pre`, of the model `gpt2`.
    pub pre: Option<&'a str>,
    /// `tokenizer.ggml.tokens`, by id.
    pub tokens: &'a [String],
    /// `tokenizer.ggml.token_type`, by id.
    pub kinds: &'a [i64],
    /// `tokenizer.ggml.scores`, by id, of the model `llama`.
    pub scores: &'a [f32],
    /// Whether a text begins with a space of its own, `tokenizer.ggml.add_space_prefix`, of the model `llama`.
    pub add_space: bool,
    /// `tokenizer.ggml.merges`, of the models `gpt2` and `gemma4`: two tokens and a space between them.
    pub merges: &'a [String],
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// Whether a text begins with it, `tokenizer.ggml.add_bos_token`; where that is not said, as llama.cpp takes it.
    pub add_bos: Option<bool>,
    /// Whether it ends with the first of `eos`, `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
    /// Tokens that end an answer.
    pub eos: &'a [u32],
}

/// The model whose tokens have scores instead of merges, `tokenizer.model` taken over.
const SENTENCEPIECE: &str = "llama";
/// The one whose tokens are written in the same way and have merges (Gemma 4).
const GEMMA4: &str = "gemma4";

/// How a text is split into words, by its name in GGUF files.
struct Pre {
    names: &'static [&'static str],
    /// The patterns of the same models' tokenizer.json, one after the other; GPT-2's own where there are none.
    patterns: &'static [&'static str],
    nfc: bool,
    ignore_merges: bool,
}

impl GgufTokenizer<'_> {
    /// What a text begins with.
    fn prefix(&self, default: bool) -> Vec<u32> {
        self.bos.filter(|_| self.add_bos.unwrap_or(default)).into_iter().collect()
    }

    /// What a text ends with.
    fn suffix(&self) -> Vec<u32> {
        self.eos.first().copied().filter(|_| self.add_eos == Some(true)).into_iter().collect()
    }
}

/// Of Llama 3, GLM-4 and others.
const DIGITS_BY_THREE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Of Qwen2 and others.
const DIGITS_BY_ONE: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const KNOWN: &[Pre] = &[
    Pre { names: &["gpt-2", "olmo"], patterns: &[], nfc: false, ignore_merges: false },
    Pre { names: &["refact", "starcoder", "smollm"], patterns: &[r"\p{N}", GPT2], nfc: false, ignore_merges: false },
    Pre { names: &["qwen2", "hunyuan"], patterns: &[DIGITS_BY_ONE], nfc: true, ignore_merges: false },
    Pre {
        names: &["solar-open", "bailingmoe", "bailingmoe2"],
        patterns: &[DIGITS_BY_ONE],
        nfc: false,
        ignore_merges: false,
    },
    Pre {
        names: &["exaone-moe"],
        patterns: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        ],
        nfc: false,
        ignore_merges: false,
    },
    Pre {
        names: &["deepseek-llm"],
        patterns: &[
            r"[\r\n]",
            r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
            r"\s+$",
            "[一-龥ࠀ-一가-퟿]+",
            r"\p{N}+",
        ],
        nfc: false,
        ignore_merges: false,
    },
    Pre {
        names: &["qwen35"],
        patterns: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        nfc: true,
        ignore_merges: false,
    },
    Pre {
        names: &["llama-bpe", "llama-v3", "llama3", "lfm2", "pixtral"],
        patterns: &[DIGITS_BY_THREE],
        nfc: false,
        ignore_merges: true,
    },
    Pre { names: &["chatglm-bpe", "dbrx"], patterns: &[DIGITS_BY_THREE], nfc: false, ignore_merges: false },
    Pre { names: &["glm4", "glm5"], patterns: &[DIGITS_BY_THREE], nfc: false, ignore_merges: true },
    Pre {
        names: &["deepseek-v3", "joyai-llm", "hunyuan-dense", "hy_v4"],
        patterns: &[
            r"\p{N}{1,3}",
            "[一-龥぀-ゟ゠-ヿ]+",
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
        ],
        nfc: false,
        ignore_merges: false,
    },
    Pre {
        names: &["gpt-4o", "llama4", "minimax-m2", "kanana2"],
        patterns: &[
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        nfc: false,
        ignore_merges: false,
    },
    Pre { names: &["kimi-k2"], patterns: &[KIMI], nfc: false, ignore_merges: false },
    Pre {
        names: &["tekken"],
        patterns: &[
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        nfc: false,
        ignore_merges: true,
    },
];

impl Pre {
    /// Whether a text begins with BOS where files do not say it: Llama 3's and Mistral's.
    fn begins(&self) -> bool {
        ["llama-bpe", "tekken"].iter().any(|name| self.names.contains(name))
    }

    fn named(file: &str, name: &str) -> Result<&'static Pre, TextError> {
        KNOWN.iter().find(|pre| pre.names.contains(&name)).ok_or_else(|| {
            let known: Vec<&str> = KNOWN.iter().flat_map(|pre| pre.names).copied().collect();
            let what = format!("the pre-tokenizer {name:?} (known are {})", known.join(", "));
            TextError::unsupported(file, what)
        })
    }

    fn splitter(&self, file: &str) -> Result<Splitter, TextError> {
        let bytes = PreTokenizer::ByteLevel { add_prefix_space: false, use_regex: self.patterns.is_empty() };
        let splits = self.patterns.iter().map(|&pattern| PreTokenizer::Split {
            pattern: Pattern::Regex(pattern.to_owned()),
            behavior: "Isolated".to_owned(),
            invert: false,
        });
        let pretokenizers = splits.chain([bytes]).collect();
        Splitter::new(file, Some(&PreTokenizer::Sequence { pretokenizers }))
    }
}

/// Merges as pairs of tokens.
fn pairs<'a>(file: &str, merges: &'a [String]) -> Result<Vec<(&'a str, &'a str)>, TextError> {
    let no_pair = |merge| TextError::invalid(file, format!("the merge {merge:?} is no pair"));
    merges.iter().map(|merge| merge.split_once(' ').ok_or_else(|| no_pair(merge))).collect()
}

impl Tokenizer {
    /// Makes the tokenizer that a GGUF file describes.
    ///
    /// # Errors
    /// When it is no byte-level BPE, splits words in a way that is not known, or contradicts itself.
    pub fn from_gguf(gguf: &GgufTokenizer) -> Result<Tokenizer, TextError> {
        let &GgufTokenizer { file, tokens, kinds, merges, .. } = gguf;
        if !kinds.is_empty() && kinds.len() != tokens.len() {
            let what = format!("it has {} kinds of {} tokens", kinds.len(), tokens.len());
            return Err(TextError::invalid(file, what));
        }
        match gguf.model {
            SENTENCEPIECE => return Tokenizer::from_gguf_pieces(gguf),
            GEMMA4 => return Tokenizer::from_gguf_merged_pieces(gguf),
            "gpt2" => {}
            other => {
                let what = match other {
                    "bert" => " (WordPiece: a model that embeds texts and writes none)",
                    "t5" => " (Unigram)",
                    "none" | "no_vocab" => " (the file was made without its vocabulary)",
                    _ => "",
                };
                let known = ["gpt2", SENTENCEPIECE, GEMMA4].join(", ");
                let what = format!("the tokenizer model {other:?}{what}, beside {known},");
                return Err(TextError::unsupported(file, what));
            }
        }
        let pre = Pre::named(file, gguf.pre.unwrap_or_default())?;
        let kind_of = |id: usize| kinds.get(id).copied().unwrap_or_default();
        let id = |index: usize| u32::try_from(index).map_err(|_| TextError::invalid(file, "it has too many tokens"));
        let (mut known, mut added) = (Known::with_capacity(tokens.len()), Vec::new());
        for (index, token) in tokens.iter().enumerate() {
            match kind_of(index) {
                kind::UNUSED => {}
                kind::CONTROL | kind::USER_DEFINED | kind::UNKNOWN => added.push(AddedToken {
                    id: id(index)?,
                    content: token.clone(),
                    single_word: false,
                    lstrip: false,
                    rstrip: false,
                    normalized: false,
                    special: kind_of(index) != kind::USER_DEFINED,
                }),
                _ => {
                    if known.insert(token, id(index)?).is_some() {
                        return Err(TextError::invalid(file, format!("the token {token:?} is there twice")));
                    }
                }
            }
        }
        let merges = pairs(file, merges)?;
        let bpe = build_bpe(file, byte_units(file, &known)?, merges.len(), merges.into_iter(), &known)?;
        let (vocab, added_only) = build_vocab(file, &known, &added, &Written::Letters(ByteAlphabet::new()))?;
        let special = added.iter().filter(|token| token.special).map(|token| token.id).collect();
        let normalizer = if pre.nfc { vec![Form::Nfc] } else { Vec::new() };
        let (added_raw, added_normalized): (AddedSet, AddedSet) = added_sets(file, added, &normalizer)?;
        Ok(Tokenizer {
            file: file.to_owned(),
            vocab,
            bpe,
            ignore_merges: pre.ignore_merges,
            splitter: pre.splitter(file)?,
            metaspace: None,
            normalizer,
            added_raw,
            added_normalized,
            special,
            added_only,
            prefix: gguf.prefix(pre.begins()),
            suffix: gguf.suffix(),
            strips_space: false,
            bos: gguf.bos,
            eos: gguf.eos.to_vec(),
        })
    }

    fn from_gguf_merged_pieces(gguf: &GgufTokenizer) -> Result<Tokenizer, TextError> {
        const UNKNOWN: &str = "<unk>";
        let &GgufTokenizer { file, tokens, kinds, merges, .. } = gguf;
        let (mut known, mut added) = (Known::with_capacity(tokens.len()), Vec::new());
        for ((token, id), kind) in tokens.iter().zip(0u32..).zip(kinds.iter().copied()) {
            if kind == kind::UNUSED {
                continue;
            }
            if known.insert(token, id).is_some() {
                return Err(TextError::invalid(file, format!("the token {token:?} is there twice")));
            }
            if [kind::CONTROL, kind::USER_DEFINED, kind::UNKNOWN].contains(&kind) {
                let special = kind != kind::USER_DEFINED;
                added.push(AddedToken { id, content: token.clone(), special, ..AddedToken::default() });
            }
        }
        let has_bytes = kinds.contains(&kind::BYTE);
        let chars = Chars { unknown: known.get(UNKNOWN).copied(), ..char_units(file, &known, has_bytes)? };
        let bpe = build_bpe(file, Units::Chars(chars), merges.len(), pairs(file, merges)?.into_iter(), &known)?;
        let (vocab, added_only) = build_vocab(file, &known, &added, &Written::Pieces)?;
        let special = added.iter().filter(|token| token.special).map(|token| token.id).collect();
        let normalizer = vec![Form::Replace(" ".to_owned(), SPACE.to_string())];
        let (added_raw, added_normalized) = added_sets(file, added, &normalizer)?;
        Ok(Tokenizer {
            file: file.to_owned(),
            vocab,
            bpe,
            ignore_merges: false,
            splitter: Splitter::of_pieces(file, None)?,
            metaspace: None,
            normalizer,
            added_raw,
            added_normalized,
            special,
            added_only,
            prefix: gguf.prefix(true),
            suffix: gguf.suffix(),
            strips_space: false,
            bos: gguf.bos,
            eos: gguf.eos.to_vec(),
        })
    }

    fn from_gguf_pieces(gguf: &GgufTokenizer) -> Result<Tokenizer, TextError> {
        let &GgufTokenizer { file, tokens, kinds, scores, .. } = gguf;
        if scores.len() != tokens.len() || kinds.len() != tokens.len() {
            let what = format!("it has {} kinds and {} scores of {} tokens", kinds.len(), scores.len(), tokens.len());
            return Err(TextError::invalid(file, what));
        }
        let pieces = tokens.iter().zip(scores).zip(kinds);
        let pieces = pieces.map(|((text, &score), &kind)| Piece { text, score, kind }).collect();
        let read = Pieces { file, pieces, prepends_space: gguf.add_space, bos: gguf.bos, eos: None };
        let mut tokenizer = read.tokenizer(None)?;
        tokenizer.prefix = gguf.prefix(true);
        tokenizer.suffix = gguf.suffix();
        tokenizer.eos = gguf.eos.to_vec();
        Ok(tokenizer)
    }
}
