//! Conversations rendered as transformers renders them.

mod common;

use common::{dir, json, none_wrong, text};
use outpour_text::{ChatRequest, ChatTemplate, TextError};
use serde_json::{Map, Value};

/// 2026-03-04 05:06:07, the time at which the fixtures were rendered.
const NOW_S: i64 = 1_772_600_767;

fn config() -> Map<String, Value> {
    json("tokenizer_config.json").as_object().unwrap().clone()
}

fn request(case: &Value) -> ChatRequest {
    ChatRequest {
        messages: case["messages"].as_array().unwrap().clone(),
        tools: case.get("tools").map(|tools| tools.as_array().unwrap().clone()),
        add_generation_prompt: case.get("add_generation_prompt").is_some_and(|yes| yes == true),
        kwargs: case.get("kwargs").map(|kwargs| kwargs.as_object().unwrap().clone()).unwrap_or_default(),
        now_s: Some(NOW_S),
    }
}

/// What differs from the fixture, if anything. A refusal must give the template's own words, any other error of
/// Python's must be an error here.
fn difference(got: Result<String, TextError>, case: &Value) -> Option<String> {
    match (got, case.get("expected").and_then(Value::as_str), case.get("error").and_then(Value::as_str)) {
        (Ok(got), Some(expected), _) if got == expected => None,
        (Err(TextError::TemplateRefused { message }), None, Some(error))
            if error == format!("TemplateError: {message}") =>
        {
            None
        }
        (Err(TextError::TemplateRender { .. }), None, Some(error)) if !error.starts_with("TemplateError") => None,
        (got, expected, error) => Some(format!("{got:?}\n  instead of {expected:?} {error:?}")),
    }
}

#[test]
fn conversations_are_rendered_as_by_transformers() {
    let own = ChatTemplate::load(&dir()).unwrap().unwrap();
    let hard = ChatTemplate::from_source(&text("hard.jinja"), &config()).unwrap();
    let mut wrong = Vec::new();
    for case in json("cases_chat.json")["chats"].as_array().unwrap() {
        let template = if case["template"] == "hard.jinja" { &hard } else { &own };
        if let Some(difference) = difference(template.render(&request(case)), case) {
            wrong.push(format!("{}: {difference}", case["name"]));
        }
    }
    none_wrong(wrong);
}

#[test]
fn snippets_are_rendered_as_by_transformers() {
    let cases = json("cases_chat.json");
    let context = &cases["snippets"]["context"];
    let mut wrong = Vec::new();
    for case in cases["snippets"]["cases"].as_array().unwrap() {
        let source = case["source"].as_str().unwrap();
        let request = ChatRequest {
            messages: context["messages"].as_array().unwrap().clone(),
            kwargs: [("x".to_owned(), context["x"].clone())].into_iter().collect(),
            now_s: Some(NOW_S),
            ..ChatRequest::default()
        };
        let got = ChatTemplate::from_source(source, &config()).and_then(|template| template.render(&request));
        if let Some(difference) = difference(got, case) {
            wrong.push(format!("{source}: {difference}"));
        }
    }
    none_wrong(wrong);
}
