//! What answers are held to: JSON of a schema, calls of tools.

use std::sync::OnceLock;

use outpour_text::{Calls, Grammar, Grammars, dangling_reference};
use serde_json::{Map, Value, json};

use crate::chat::{Chat, Model};
use crate::error::ApiError;
use crate::worker::{Begins, Constraint};

/// What an answer is held to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Form {
    /// Nothing, but calls of tools that are strict must fit their schemas, and where one call is asked for, no second follows.
    #[default]
    Free,
    /// JSON that fits a schema.
    Json(Value),
    /// At least one call of a tool.
    Calls,
    /// One call of this tool.
    Call(String),
}

/// The grammars of a model: made when the first one is wanted, as that takes a second.
#[derive(Default)]
pub(crate) struct Forms(OnceLock<Result<Grammars, String>>);

impl Forms {
    /// What holds the answer to a prompt to the form that is asked for. `thinking` says that the answer begins with thoughts.
    pub(crate) fn constraint(
        &self,
        model: &Model,
        chat: &Chat,
        thinking: bool,
    ) -> Result<Option<Constraint>, ApiError> {
        let dialect = model.dialect();
        let strict = chat.tools.iter().any(is_strict);
        let one = chat.one_call && !chat.tools.is_empty() && !dialect.ends_with_call();
        if chat.form == Form::Free && !strict {
            // Where a call begins with no token of its own, nothing tells when it begins.
            let marked = model.tokenizer.token_id(dialect.call_mark()).is_some();
            if !(one && marked) {
                return Ok(None);
            }
        }
        let make = || Grammars::new(&model.tokenizer, dialect, model.vocab, &model.stop_tokens);
        let grammars = self.0.get_or_init(make).as_ref().map_err(ApiError::bad)?;
        let grammar = grammar(grammars, model, chat)?;
        let token = |text: &str| {
            let missing = || {
                ApiError::bad(format!(
                    "{text:?} is no token of this model, so that its answers cannot be held to a form"
                ))
            };
            model.tokenizer.token_id(text).ok_or_else(missing)
        };
        let begins = match chat.form {
            Form::Free if one => Begins::First(token(dialect.call_mark())?),
            Form::Free => Begins::Each(token(dialect.call_mark())?),
            _ if thinking => Begins::After(token(dialect.thinking().1)?),
            _ => Begins::Answer,
        };
        Ok(Some(Constraint::new(grammar, begins)))
    }
}

/// Refuses schemas that refer to what is not there: neither could an answer be held to them, nor an argument's type be known.
pub(crate) fn check_references(chat: &Chat) -> Result<(), ApiError> {
    let tools = chat.tools.iter().enumerate();
    let tools = tools.map(|(i, tool)| (format!("tools[{i}]"), &tool["function"]["parameters"]));
    let answer = match &chat.form {
        Form::Json(schema) => Some(("response_format".to_owned(), schema)),
        _ => None,
    };
    for (place, schema) in tools.chain(answer) {
        if let Some(reference) = dangling_reference(schema) {
            let problem = format!("\"$ref\": {reference:?} leads to nothing in its schema");
            return Err(ApiError::field(&place, &problem));
        }
    }
    Ok(())
}

fn is_strict(tool: &Value) -> bool {
    tool["function"]["strict"] == true
}

/// The grammar of a form.
fn grammar(grammars: &Grammars, model: &Model, chat: &Chat) -> Result<Grammar, ApiError> {
    let dialect = model.dialect();
    let template = model.template.as_ref().map_or("", |template| template.source());
    let bad = |field: &'static str| move |problem: String| ApiError::field(field, &problem);
    match &chat.form {
        Form::Json(schema) => grammars.json(schema).map_err(bad("response_format")),
        Form::Calls if chat.tools.is_empty() => {
            Err(ApiError::field("tool_choice", "wants a call, and there are no tools"))
        }
        Form::Calls => {
            let calls = if chat.one_call { Calls::One } else { Calls::Some };
            grammars.calls(dialect, template, &chat.tools, calls).map_err(bad("tools"))
        }
        Form::Call(name) => {
            let named: Vec<Value> =
                chat.tools.iter().filter(|tool| tool["function"]["name"] == **name).cloned().collect();
            if named.is_empty() {
                return Err(ApiError::field("tool_choice", &format!("names {name:?}, which is none of the tools")));
            }
            grammars.calls(dialect, template, &named, Calls::One).map_err(bad("tools"))
        }
        Form::Free => {
            let tools: Vec<Value> = chat
                .tools
                .iter()
                .map(|tool| if is_strict(tool) { tool.clone() } else { any_arguments(tool) })
                .collect();
            let calls = if chat.one_call { Calls::MarkedOne } else { Calls::Marked };
            grammars.calls(dialect, template, &tools, calls).map_err(bad("tools"))
        }
    }
}

/// A tool whose arguments may be anything.
fn any_arguments(tool: &Value) -> Value {
    let mut tool = tool.clone();
    let keys: Map<String, Value> = match tool["function"]["parameters"]["properties"].as_object() {
        Some(properties) => properties.keys().map(|key| (key.clone(), json!({}))).collect(),
        None => Map::new(),
    };
    tool["function"]["parameters"] = json!({"type": "object", "properties": keys});
    tool
}
