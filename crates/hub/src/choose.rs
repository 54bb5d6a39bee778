//! Which of a model's files the engine needs.

use std::collections::BTreeMap;
use std::fmt::Write;

use outpour_store::bytes::Bytes;
use outpour_store::checkpoint::gguf;

/// The index of a model's shards.
pub const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
/// Of several quants, the one that is taken unless another is asked for, as llama.cpp and ollama do.
const USUAL_QUANT: &str = "Q4_K_M";
/// Text files that models come with, beside those that end in .json.
const TEXTS: [&str; 4] =
    ["chat_template.jinja", "merges.txt", "tiktoken.model", "additional_chat_templates/tool_use.jinja"];

/// What of a model is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Configuration and texts; and weights, but for the shards that [`INDEX`] names where it is among the files.
    Safetensors(Vec<String>),
    /// The parts of one GGUF model.
    Gguf(GgufModel),
}

/// A model in GGUF files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufModel {
    /// Its path without part number and ending.
    pub stem: String,
    /// Its files, in order.
    pub parts: Vec<String>,
}

impl GgufModel {
    /// `Q4_K_M`, `UD-Q4_K_XL`, `BF16`: what of the name says how weights are stored.
    pub fn quant(&self) -> Option<String> {
        let pieces: Vec<&str> = self.stem.rsplit('/').next()?.split(['-', '.']).collect();
        let at = pieces.iter().rposition(|piece| is_quant(piece))?;
        let dynamic = at > 0 && pieces[at - 1].eq_ignore_ascii_case("UD");
        Some(if dynamic { format!("{}-{}", pieces[at - 1], pieces[at]) } else { pieces[at].to_owned() })
    }

    /// Whether a person who says `quant` may mean this one: it is part of the name, and no letter or digit lies beside it.
    fn is_called(&self, quant: &str) -> bool {
        let (stem, quant) = (self.stem.to_ascii_lowercase(), quant.to_ascii_lowercase());
        let between = |c: Option<char>| c.is_none_or(|c| "-./".contains(c));
        stem.match_indices(&quant).any(|(at, found)| {
            between(stem[..at].chars().next_back()) && between(stem[at + found.len()..].chars().next())
        })
    }

    fn is_exactly(&self, quant: &str) -> bool {
        self.quant().is_some_and(|own| own.eq_ignore_ascii_case(quant))
    }
}

/// `Q4_0`, `IQ2_XXS`, `TQ1_0`, `F16`, `BF16`, `MXFP4`.
fn is_quant(piece: &str) -> bool {
    let upper = piece.to_ascii_uppercase();
    let rest = ["MXFP", "NVFP", "BF", "TQ", "IQ", "Q", "F"].iter().find_map(|kind| upper.strip_prefix(kind));
    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// The GGUF models among these files, those that lack parts and projectors of images not among them.
pub fn gguf_models<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<GgufModel> {
    let mut found = BTreeMap::<(String, u32), Vec<String>>::new();
    for path in paths {
        if !gguf::is_model(path.as_ref()) {
            continue;
        }
        let (stem, parts) = match gguf::split(path) {
            Some((stem, _, parts)) => (stem, parts),
            None => (&path[..path.len() - ".gguf".len()], 1),
        };
        found.entry((stem.to_owned(), parts)).or_default().push(path.to_owned());
    }
    let whole = found.into_iter().filter(|((_, count), parts)| *count as usize == parts.len());
    whole
        .map(|((stem, _), mut parts)| {
            parts.sort();
            GgufModel { stem, parts }
        })
        .collect()
}

/// The one that is meant.
///
/// # Errors
/// Says which there are.
pub fn choose_gguf(
    models: Vec<GgufModel>,
    quant: Option<&str>,
    bytes: &dyn Fn(&str) -> u64,
) -> Result<GgufModel, String> {
    let list = |models: &[GgufModel]| {
        models.iter().fold(String::new(), |mut text, model| {
            let size = Bytes(model.parts.iter().map(|part| bytes(part)).sum());
            let separator = if text.is_empty() { "" } else { ", " };
            // Writing to a text cannot fail.
            let _ = write!(text, "{separator}{} ({size})", model.quant().as_deref().unwrap_or(&model.stem));
            text
        })
    };
    let wanted = quant.unwrap_or(USUAL_QUANT);
    let matching =
        |fits: &dyn Fn(&GgufModel) -> bool| models.iter().filter(|model| fits(model)).cloned().collect::<Vec<_>>();
    let exact = matching(&|model| model.is_exactly(wanted));
    let mut called = if exact.is_empty() { matching(&|model| model.is_called(wanted)) } else { exact };
    match (quant, called.len(), models.len()) {
        (_, 1, _) => Ok(called.remove(0)),
        (None, 0, 1) => Ok(models[0].clone()),
        (Some(quant), 0, 0) => Err(format!("has no GGUF files, of which :{quant} could be one; leave :{quant} out")),
        (Some(quant), 0, _) => Err(format!("has no {quant}; it has {}", list(&models))),
        (_, 0, _) => Err(format!("has several quants: add one to the name, as in :Q4_K_M; it has {}", list(&models))),
        _ => Err(format!(
            "has several files called {wanted}: {}",
            called.iter().map(|model| model.stem.as_str()).collect::<Vec<_>>().join(", ")
        )),
    }
}

/// What the engine needs of a model that has these files.
///
/// # Errors
/// When nothing is what it reads, or `quant` is not there, or several could be meant.
pub fn choose(paths: &[&str], quant: Option<&str>, bytes: &dyn Fn(&str) -> u64) -> Result<Choice, String> {
    let has = |name: &str| paths.contains(&name);
    if quant.is_none() && has("config.json") && (has(INDEX) || has(SINGLE)) {
        let wanted = |path: &&&str| {
            let top = !path.contains('/');
            let other_index = path.ends_with(".index.json") && **path != INDEX;
            let only_tokenizer = **path == "tokenizer.model" && !has("tokenizer.json");
            TEXTS.contains(*path)
                || only_tokenizer
                || top && path.ends_with(".json") && !other_index
                || **path == SINGLE && !has(INDEX)
        };
        return Ok(Choice::Safetensors(paths.iter().filter(wanted).map(|path| (*path).to_owned()).collect()));
    }
    let models = gguf_models(paths.iter().copied());
    if models.is_empty() && quant.is_none() {
        return Err("has neither config.json with .safetensors files nor .gguf files: outpour cannot run it".into());
    }
    choose_gguf(models, quant, bytes).map(Choice::Gguf)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_SIZES: &dyn Fn(&str) -> u64 = &|_| 0;

    fn gguf(paths: &[&str], quant: Option<&str>) -> Result<Vec<String>, String> {
        match choose(paths, quant, NO_SIZES)? {
            Choice::Gguf(model) => Ok(model.parts),
            Choice::Safetensors(paths) => panic!("{paths:?}"),
        }
    }

    /// The lists are those of repositories on the hub, shortened.
    #[test]
    fn only_what_is_needed_of_safetensors() {
        let mixtral = [
            ".gitattributes",
            "README.md",
            "config.json",
            "consolidated.00.pt",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            INDEX,
            "special_tokens_map.json",
            "pytorch_model.bin.index.json",
            "pytorch_model-00001-of-00002.bin",
            "tokenizer.json",
            "tokenizer.model",
            "tokenizer_config.json",
            "original/params.json",
            "original/consolidated.00.pth",
            "modeling_x.py",
            "chat_template.jinja",
            "consolidated.safetensors",
            "onnx/model.onnx",
            "model.safetensors",
            "logo.png",
        ];
        let Choice::Safetensors(chosen) = choose(&mixtral, None, NO_SIZES).expect("a model") else { panic!() };
        let expected = [
            "config.json",
            "generation_config.json",
            INDEX,
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
        ];
        assert_eq!(chosen, expected);
        let Choice::Safetensors(chosen) = choose(&["config.json", SINGLE], None, NO_SIZES).expect("one") else {
            panic!()
        };
        assert_eq!(chosen, ["config.json", SINGLE]);
        let sentencepiece = ["config.json", SINGLE, "tokenizer.model"];
        assert_eq!(
            choose(&sentencepiece, None, NO_SIZES),
            Ok(Choice::Safetensors(sentencepiece.map(String::from).into()))
        );
        assert!(choose(&["config.json", "pytorch_model.bin"], None, NO_SIZES).expect_err("none").contains("neither"));
        assert!(choose(&mixtral, Some("Q4_K_M"), NO_SIZES).expect_err("none").contains("has no GGUF files"));
    }

    #[test]
    fn a_quant_is_found_by_its_name() {
        let unsloth = [
            "README.md",
            "config.json",
            "X-30B-Q4_K_M.gguf",
            "X-30B-Q4_K_S.gguf",
            "X-30B-UD-Q4_K_XL.gguf",
            "X-30B-IQ4_XS.gguf",
            "mmproj-F16.gguf",
            "imatrix_unsloth.gguf",
            "BF16/X-30B-BF16-00001-of-00002.gguf",
            "BF16/X-30B-BF16-00002-of-00002.gguf",
            "Q8_0/X-30B-Q8_0-00001-of-00003.gguf",
            "Q8_0/X-30B-Q8_0-00003-of-00003.gguf",
        ];
        assert_eq!(gguf(&unsloth, None).expect("the usual"), ["X-30B-Q4_K_M.gguf"]);
        assert_eq!(gguf(&unsloth, Some("q4_k_s")).expect("it"), ["X-30B-Q4_K_S.gguf"]);
        assert_eq!(gguf(&unsloth, Some("UD-Q4_K_XL")).expect("it"), ["X-30B-UD-Q4_K_XL.gguf"]);
        assert_eq!(gguf(&unsloth, Some("Q4_K_XL")).expect("it"), ["X-30B-UD-Q4_K_XL.gguf"]);
        assert_eq!(
            gguf(&unsloth, Some("BF16")).expect("both parts"),
            ["BF16/X-30B-BF16-00001-of-00002.gguf", "BF16/X-30B-BF16-00002-of-00002.gguf"]
        );
        let lacking = gguf(&unsloth, Some("Q8_0")).expect_err("a part is missing");
        assert!(
            lacking.contains("has no Q8_0; it has BF16 (0 B), IQ4_XS") && lacking.contains("UD-Q4_K_XL"),
            "{lacking}"
        );
        assert!(gguf(&unsloth, Some("Q4_K")).is_err(), "Q4_K is not Q4_K_M");
        let two = ["a-Q2_K.gguf", "a-Q3_K_S.gguf"];
        assert!(gguf(&two, None).expect_err("which").contains("as in :Q4_K_M; it has Q2_K (0 B), Q3_K_S (0 B)"));
        assert_eq!(gguf(&["a.gguf"], None).expect("the only one"), ["a.gguf"]);
        assert_eq!(gguf(&["gpt-oss-20b-MXFP4.gguf"], Some("mxfp4")).expect("it"), ["gpt-oss-20b-MXFP4.gguf"]);
        let twice = ["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"];
        assert!(gguf(&twice, None).expect_err("which").contains("several files called Q4_K_M"));
    }
}
