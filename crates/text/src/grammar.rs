//! Answers held to a form: JSON of a schema, or calls of tools whose arguments fit theirs. Before each token the grammar says
//! which tokens can go on (llguidance's masks); all others get no probability.

mod braces;
mod calls;

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::Tokenizer;
use crate::dialects::Dialect;

pub use calls::Calls;

/// White space between the parts of JSON, as indented text has it: not without end, as a model in doubt may say nothing else.
const INDENT: &str = "(?:[ \\t]{1,2}|\\r?\\n[ \\t]{0,12})";
/// White space before and between answers and calls.
const SPACE: &str = "[ \\t\\r\\n]{1,24}";

/// Makes grammars over one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
}

impl Grammars {
    /// Grammars over the tokens of `tokenizer`, for a model that writes calls in `dialect`, gives `vocab` logits and
    /// ends its answers with one of `ends`.
    ///
    /// # Errors
    /// When no token ends an answer, or the vocabulary cannot be searched.
    pub fn new(tokenizer: &Tokenizer, dialect: Dialect, vocab: usize, ends: &[u32]) -> Result<Grammars, String> {
        let &end = ends.first().ok_or("no token ends an answer of this model, so that none can be held to a form")?;
        let word = |id: u32| {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            // Control tokens are no text, but for those by which the dialect marks calls.
            let control = tokenizer.is_special(id) && !dialect.marks().any(|mark| mark.as_bytes() == bytes);
            let marker = control.then_some(TokTrie::SPECIAL_TOKEN_MARKER);
            marker.into_iter().chain(bytes.iter().copied()).collect::<Vec<u8>>()
        };
        let words: Vec<Vec<u8>> = (0..vocab as u32).map(word).collect();
        let trie = TokTrie::from(&TokRxInfo::new(vocab as u32, end), &words).with_eos_tokens(ends);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env).map_err(|error| error.to_string())?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Grammars { factory })
    }

    /// Any JSON that fits `schema`.
    ///
    /// # Errors
    /// What of the schema cannot be held to.
    pub fn json(&self, schema: &Value) -> Result<Grammar, String> {
        self.compile(format!("start: SPACE? value\nSPACE: /{SPACE}/\nvalue: %json {}\n", spaced(schema)))
    }

    /// So many calls of `tools`, in the dialect and in the way of it that the chat template teaches, whose text is `template`.
    ///
    /// # Errors
    /// What of a name or a schema cannot be held to.
    pub fn calls(&self, dialect: Dialect, template: &str, tools: &[Value], calls: Calls) -> Result<Grammar, String> {
        self.compile(calls::grammar(dialect, template, tools, calls)?)
    }

    fn compile(&self, lark: String) -> Result<Grammar, String> {
        let parser = self.factory.create_parser(TopLevelGrammar::from_lark(lark));
        let parser = parser.map_err(|error| format!("{error:#}").lines().next().unwrap_or_default().to_owned())?;
        Ok(Grammar { matcher: Matcher::new(Ok(parser)) })
    }
}

/// A schema, with the white space that is allowed.
fn spaced(schema: &Value) -> Value {
    match schema {
        Value::Object(map) => {
            let mut map = map.clone();
            map.insert("x-guidance".into(), json!({"whitespace_pattern": INDENT}));
            Value::Object(map)
        }
        other => other.clone(),
    }
}

/// A text as a literal of the grammar.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

/// A form that one answer is held to.
#[derive(Clone)]
pub struct Grammar {
    matcher: Matcher,
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Grammar")
    }
}

impl Grammar {
    /// Takes all probability from the tokens that cannot come next. When the form is complete only those are left that end an
    /// answer.
    ///
    /// # Errors
    /// When the form takes too much work.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<(), String> {
        let mask = self.matcher.compute_mask_or_eos().map_err(|error| error.to_string())?;
        for (token, logit) in logits.iter_mut().enumerate() {
            if !mask.is_allowed(token as u32) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Notes the token that was chosen.
    ///
    /// # Errors
    /// When it cannot come here.
    pub fn accept(&mut self, token: u32) -> Result<(), String> {
        // A form that cannot go on is over by itself, before the token that ends the answer.
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            return Ok(());
        }
        self.matcher.consume_token(token).map_err(|error| error.to_string())
    }

    /// Whether the form could end here.
    ///
    /// # Errors
    /// When the form takes too much work.
    pub fn is_complete(&mut self) -> Result<bool, String> {
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            return Ok(true);
        }
        self.matcher.is_accepting().map_err(|error| error.to_string())
    }
}
