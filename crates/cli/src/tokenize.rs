//! `tokenize`: the tokens of a text.

use std::process::ExitCode;

use anyhow::Result;
use outpour_text::Tokenizer;
use serde_json::json;

use crate::args::TokenizeArgs;
use crate::{model, term};

/// Shows the tokens of a text, special tokens in it recognised.
///
/// # Errors
/// When the model has no tokenizer, or one that is damaged.
pub fn tokenize(args: &TokenizeArgs) -> Result<ExitCode> {
    let tokenizer = model::tokenizer(&args.model)?;
    let ids = tokenizer.encode(&model::prompt(args.text.as_deref(), Tokenizer::TEXT_BYTES_MAX)?, true)?;
    let piece = |&id: &u32| String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap_or_default()).into_owned();
    if args.json {
        let pieces: Vec<String> = ids.iter().map(piece).collect();
        term::show(&format!("{}\n", json!({"ids": ids, "pieces": pieces})))?;
        return Ok(ExitCode::SUCCESS);
    }
    let lines: String = ids.iter().map(|id| format!("{id:>8}  {:?}\n", piece(id))).collect();
    term::show(&format!("{lines}{} tokens\n", ids.len()))?;
    Ok(ExitCode::SUCCESS)
}
