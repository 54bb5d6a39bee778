//! Answers held to a form that the request asks for.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::common::http::Server;
use crate::common::schemas;
use crate::{said, serve_demo, serve_streamed, user};

#[test]
fn answers_are_held_to_the_form_that_is_asked_for() {
    let starts: [fn() -> Server; 2] = [serve_demo, || serve_streamed(&[])];
    for start in starts {
        let server = start();
        let schema = json!({
            "type": "object", "additionalProperties": false, "required": ["name", "age"],
            "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
        });
        for temperature in [0.0, 1.0] {
            let body = json!({
                "messages": [user("Who are you?")], "temperature": temperature, "seed": 1, "max_tokens": 300, "thinking_budget": 20,
                "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": true}},
            });
            let answer = server.ask("/v1/chat/completions", &body);
            assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
            let value: Value = serde_json::from_str(said(&answer)).unwrap_or_else(|error| panic!("{error}: {answer}"));
            outpour_text::check_schema(&schema, &value).unwrap_or_else(|problem| panic!("{problem}: {value}"));
        }
        let weather = json!({
            "type": "object", "additionalProperties": false, "required": ["city"],
            "properties": {"city": {"enum": ["Oslo", "Bergen"]}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
        });
        let body = json!({
            "messages": [user("Tell me a story.")], "temperature": 0, "max_tokens": 300, "thinking_budget": 20,
            "tools": [{"type": "function", "function": {"name": "weather", "parameters": weather}}],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
        });
        let answer = server.ask("/v1/chat/completions", &body);
        let call = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
        assert_eq!(
            (call["name"].as_str(), answer["choices"][0]["finish_reason"].as_str()),
            (Some("weather"), Some("tool_calls")),
            "{answer}"
        );
        let arguments: Value = serde_json::from_str(call["arguments"].as_str().expect("a text")).expect("JSON");
        outpour_text::check_schema(&weather, &arguments).unwrap_or_else(|problem| panic!("{problem}: {arguments}"));

        // The call comes back in other words, and what the model said is found all the same.
        let assistant = &answer["choices"][0]["message"];
        let mut next = body.clone();
        let spaced = json!({"role": "assistant", "content": null, "tool_calls": [{
            "id": assistant["tool_calls"][0]["id"], "type": "function",
            "function": {"name": "weather", "arguments": serde_json::to_string_pretty(&arguments).expect("JSON")},
        }]});
        next["messages"] = json!([user("Tell me a story."), spaced, {"role": "tool", "tool_call_id": assistant["tool_calls"][0]["id"], "content": "sunny"}]);
        next["tool_choice"] = json!("auto");
        let second = server.ask("/v1/chat/completions", &next);
        let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count");
        let before = answer["usage"]["total_tokens"].as_u64().expect("a count");
        assert!(cached + 2 >= before, "of {before} tokens {cached} are found: {second}");
    }
    let server = serve_streamed(&[]);
    for (body, named) in [
        (json!({"messages": [user("a")], "response_format": {"type": "xml"}}), "response_format.type"),
        (json!({"messages": [user("a")], "response_format": {"type": "json_schema"}}), "response_format"),
        (json!({"messages": [user("a")], "tool_choice": "required"}), "tool_choice"),
        (
            json!({"messages": [user("a")], "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}}),
            "response_format",
        ),
    ] {
        let refused = server.post("/v1/chat/completions", &body);
        assert_eq!(refused.status, 400, "{body}: {}", refused.body);
        assert_eq!(refused.json()["error"]["param"], named, "{body}");
    }
    // What docs/http.md says cannot be held to is refused by its name, however deep.
    for (key, value) in [
        ("not", json!({"type": "null"})),
        ("if", json!({"type": "null"})),
        ("then", json!({"type": "null"})),
        ("else", json!({"type": "null"})),
        ("uniqueItems", json!(true)),
        ("contains", json!({})),
        ("propertyNames", json!({})),
        ("dependentSchemas", json!({})),
        ("dependentRequired", json!({})),
        ("unevaluatedItems", json!(false)),
        ("unevaluatedProperties", json!(false)),
    ] {
        let schema = json!({"type": "object", "properties": {"list": {"type": "array", key: value}}});
        let format = json!({"type": "json_schema", "json_schema": {"schema": schema}});
        let refused = server.post("/v1/chat/completions", &json!({"messages": [user("a")], "response_format": format}));
        assert!(refused.status == 400 && refused.body.contains(&format!("{key}\\\"")), "{key}: {}", refused.body);
    }
}

/// A model that would call without end calls once where one call is asked for, and chooses itself whether it does.
#[test]
fn one_call_is_one_call() {
    let server = serve_demo();
    let mark = server.ask("/tokenize", &json!({"content": "<tool_call>"}))["tokens"][0].clone();
    let tool = json!({"name": "weather", "strict": true, "parameters": {
        "type": "object", "additionalProperties": false, "required": ["city"], "properties": {"city": {"enum": ["Oslo", "Bergen"]}},
    }});
    let mut body = json!({
        "messages": [user("How is the weather in Oslo?")], "temperature": 0, "max_tokens": 300, "tools": [{"type": "function", "function": tool}],
        "chat_template_kwargs": {"enable_thinking": false}, "logit_bias": {mark.to_string(): 100},
    });
    let calls = |answer: &Value| answer["choices"][0]["message"]["tool_calls"].as_array().map_or(0, Vec::len);
    assert!(calls(&server.ask("/v1/chat/completions", &body)) > 2);
    body["parallel_tool_calls"] = json!(false);
    let answer = server.ask("/v1/chat/completions", &body);
    assert_eq!((calls(&answer), &answer["choices"][0]["finish_reason"]), (1, &json!("tool_calls")), "{answer}");
    body["logit_bias"] = json!({mark.to_string(): -100});
    let answer = server.ask("/v1/chat/completions", &body);
    assert_eq!((calls(&answer), &answer["choices"][0]["finish_reason"]), (0, &json!("stop")), "{answer}");
}

/// Every schema of bounded values, asked of a model that was trained and of one that was not: what is finished fits, as a
/// validator of others says, and nearly all is finished.
#[test]
fn answers_fit() {
    let schemas = schemas::bounded();
    assert!(schemas.len() >= 100);
    let starts: [fn() -> Server; 2] = [serve_demo, || serve_streamed(&[])];
    for start in starts {
        let server = start();
        let (next, finished) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = || {
            while let Some(schema) = schemas.get(next.fetch_add(1, Ordering::Relaxed)) {
                finished.fetch_add(usize::from(fits(&server, schema)), Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(work))));
        let finished = finished.into_inner();
        println!("{finished} of {} answers are finished, and fit", schemas.len());
        assert!(finished * 100 >= schemas.len() * 99, "{finished} of {} are finished", schemas.len());
    }
}

/// Whether an answer in this form is finished; it must fit then.
fn fits(server: &Server, schema: &Value) -> bool {
    let body = json!({
        "messages": [user("Say something.")], "temperature": 1.0, "seed": 7, "max_tokens": 500,
        "chat_template_kwargs": {"enable_thinking": false},
        "response_format": {"type": "json_schema", "json_schema": {"name": "form", "schema": schema, "strict": true}},
    });
    let answer = server.ask("/v1/chat/completions", &body);
    if answer["choices"][0]["finish_reason"] != "stop" {
        println!("not finished: {schema}: {}", said(&answer));
        return false;
    }
    let value: Value =
        serde_json::from_str(said(&answer)).unwrap_or_else(|error| panic!("{error}: {schema}: {answer}"));
    let validator = jsonschema::validator_for(schema).expect("a schema");
    validator.validate(&value).unwrap_or_else(|problem| panic!("{problem}: {schema}: {value}"));
    true
}
