//! Conversations rendered as transformers renders them.

mod common;

use common::{dir, json as read_json, none_wrong, text};
use outpour_text::{ChatRequest, ChatTemplate, TextError};
use serde_json::{Map, Value, json};

/// 2026-03-04 05:06:07, the time at which the fixtures were rendered.
const NOW_S: i64 = 1_772_600_767;

fn config() -> Map<String, Value> {
    read_json("tokenizer_config.json").as_object().unwrap().clone()
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
        (Err(TextError::TemplateRefused { message, .. }), None, Some(error))
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
    for case in read_json("cases_chat.json")["chats"].as_array().unwrap() {
        let template = if case["template"] == "hard.jinja" { &hard } else { &own };
        if let Some(difference) = difference(template.render(&request(case)), case) {
            wrong.push(format!("{}: {difference}", case["name"]));
        }
    }
    none_wrong(wrong);
}

#[test]
fn snippets_are_rendered_as_by_transformers() {
    let cases = read_json("cases_chat.json");
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

/// Some templates read results of tools from the message with the calls, and what was said behind them too.
#[test]
fn results_of_tools_stand_where_the_template_reads_them() {
    let source = "{% for m in messages %}[{{ m.role }}{% for c in m.tool_calls or [] %} {{ c.function.name }}{% endfor %}\
        {% for r in m.tool_responses or [] %} {{ r.name }}={{ r.response }}{% endfor %}: {{ m.content }}]{% endfor %}";
    let call =
        |id: &str, name: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": {}}});
    let result = |id: &str, text: &str| json!({"role": "tool", "tool_call_id": id, "content": text});
    let messages = vec![
        json!({"role": "user", "content": "?"}),
        json!({"role": "assistant", "content": "", "tool_calls": [call("a", "weather"), call("b", "now")]}),
        result("b", "noon"),
        result("a", "sun"),
        json!({"role": "assistant", "content": "Fine."}),
        json!({"role": "user", "content": "And?"}),
        json!({"role": "assistant", "content": "", "tool_calls": [call("c", "now")]}),
        json!({"role": "tool", "name": "now", "content": "one"}),
    ];
    let render = |source: &str| {
        let template = ChatTemplate::from_source(source, &config()).unwrap();
        template.render(&ChatRequest { messages: messages.clone(), ..ChatRequest::default() }).unwrap()
    };
    assert_eq!(
        render(source),
        "[user: ?][assistant weather now now=noon weather=sun: Fine.][user: And?][assistant now now=one: ]"
    );
    // One that finds the calls of results by itself sees all messages.
    assert_eq!(
        render(&format!("{source}{{# tool_call_id #}}")),
        "[user: ?][assistant weather now: ][tool: noon][tool: sun][assistant: Fine.][user: And?][assistant now: ][tool: one]"
    );
}

/// A refusal is the template's own, and says which template's.
#[test]
fn a_refusal_names_the_template_and_what_to_do() {
    let template = ChatTemplate::from_source("{{ raise_exception('no system message') }}", &Map::new()).unwrap();
    let request = ChatRequest { messages: vec![json!({"role": "user", "content": "hi"})], ..ChatRequest::default() };
    let line = template.render(&request).unwrap_err().to_string();
    assert!(line.starts_with("chat template: ") && line.contains("no system message; change"), "{line}");
}
