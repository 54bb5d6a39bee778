//! Answers held to a form: JSON of a schema, or calls of tools whose arguments fit theirs. Before each token the grammar says
//! which tokens can go on (llguidance's masks); all others get no probability.

use std::fmt::Write as _;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Map, Value, json};

use crate::Tokenizer;
use crate::dialects::Dialect;
use crate::tool_calls::resolve;

/// White space between the parts of JSON: not without end, as a model in doubt may say nothing else.
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

    /// Calls of some of `tools`, one or more of them, or exactly one.
    ///
    /// # Errors
    /// When the dialect's calls cannot be held to a form, or what of a schema cannot.
    pub fn calls(&self, dialect: Dialect, tagged: bool, tools: &[Value], one: bool) -> Result<Grammar, String> {
        if dialect != Dialect::Qwen {
            return Err("calls in the dialect of this model cannot be forced: leave tool_choice at auto".into());
        }
        let more = if one { "" } else { " (SPACE? call)*" };
        let mut lark = format!("start: SPACE? call{more}\nSPACE: /{SPACE}/\n");
        let calls: Vec<String> = (0..tools.len()).map(|i| format!("call_{i}")).collect();
        let _ = writeln!(lark, "call: {}", calls.join(" | "));
        for (i, tool) in tools.iter().enumerate() {
            let function = tool.get("function").unwrap_or(tool);
            let name = function.get("name").and_then(Value::as_str).ok_or("a tool has no name")?;
            let any = json!({"type": "object"});
            let schema = function.get("parameters").filter(|schema| !schema.is_null()).unwrap_or(&any);
            match tagged {
                true => tagged_call(&mut lark, i, name, schema),
                false => json_call(&mut lark, i, name, schema),
            }
        }
        self.compile(lark)
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
            map.insert("x-guidance".into(), json!({"whitespace_pattern": SPACE}));
            Value::Object(map)
        }
        other => other.clone(),
    }
}

/// A text as a literal of the grammar.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

/// `<tool_call>{"name": …, "arguments": …}</tool_call>`
fn json_call(lark: &mut String, i: usize, name: &str, schema: &Value) {
    let head = literal(&format!("<tool_call>\n{{\"name\": {}, \"arguments\": ", Value::from(name)));
    let _ = writeln!(lark, "call_{i}: {head} arguments_{i} {}", literal("}\n</tool_call>"));
    let _ = writeln!(lark, "arguments_{i}: %json {}", spaced(schema));
}

/// `<tool_call><function=…>`, and for each argument `<parameter=…>`, in the order of the schema.
fn tagged_call(lark: &mut String, i: usize, name: &str, schema: &Value) {
    let none = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let mut call = format!("call_{i}: {}", literal(&format!("<tool_call>\n<function={name}>\n")));
    let mut rules = String::new();
    for (k, (key, property)) in properties.iter().enumerate() {
        let optional = if required.contains(&key.as_str()) { "" } else { "?" };
        let _ = write!(call, " parameter_{i}_{k}{optional}");
        let _ = writeln!(rules, "parameter_{i}_{k}: {} value_{i}_{k}", literal(&format!("<parameter={key}>\n")));
        value(&mut rules, &format!("value_{i}_{k}"), property, schema);
    }
    let _ = writeln!(lark, "{call} {}", literal("</function>\n</tool_call>"));
    lark.push_str(&rules);
}

/// An argument's value and the tag behind it: what may be a text is any text, everything else JSON.
fn value(rules: &mut String, name: &str, property: &Value, root: &Value) {
    const END: &str = "\n</parameter>\n";
    let property = resolve(property, root);
    let constant = property.get("const").map(std::slice::from_ref);
    let choices = constant.or(property.get("enum").and_then(Value::as_array).map(Vec::as_slice));
    let written = |choice: &Value| choice.as_str().map_or_else(|| literal(&choice.to_string()), literal);
    let _ = match choices {
        Some(choices) if !choices.is_empty() => {
            let choices: Vec<String> = choices.iter().map(written).collect();
            writeln!(rules, "{name}: ({}) {}", choices.join(" | "), literal(END))
        }
        _ if may_be_text(property, root) => writeln!(rules, "{name}[suffix={}]: /(?s:.*)/", literal(END)),
        _ => {
            let mut property = spaced(property);
            // What a reference means stands at the root.
            for key in ["$defs", "definitions"] {
                if let (Some(map), Some(defs)) = (property.as_object_mut(), root.get(key)) {
                    map.entry(key).or_insert_with(|| defs.clone());
                }
            }
            writeln!(rules, "{name}: {name}_json {}\n{name}_json: %json {property}", literal(END))
        }
    };
}

fn may_be_text(schema: &Value, root: &Value) -> bool {
    let schema = resolve(schema, root);
    let parts =
        ["anyOf", "oneOf", "allOf"].iter().filter_map(|key| schema.get(*key).and_then(Value::as_array)).flatten();
    match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "string"),
        Some(kind) => kind == "string",
        None => {
            let mut parts = parts.peekable();
            parts.peek().is_none() || parts.any(|part| may_be_text(part, root))
        }
    }
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
