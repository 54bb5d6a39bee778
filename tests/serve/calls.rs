//! Calls of tools, in every dialect and every API.

use serde_json::{Value, json};

use crate::apis::{joined, weather};
use crate::common::http::Server;
use crate::{demo, said, serve_demo, user};

/// A model whose template teaches another dialect than its training did: what it is made to say is in that dialect, and fits.
#[test]
fn calls_are_forced_in_every_dialect() {
    let marks = [
        "<arg_key>",
        "<minimax:tool_call>",
        "｜DSML｜",
        "<｜tool▁calls▁begin｜>",
        "<|tool_calls_section_begin|>",
        "<|channel|>",
        "[TOOL_CALLS]",
        "[TOOL_CALLS] [ARGS]",
        "<tool_call>",
        "<tool_call> <function=",
        "<|python_tag|>",
        "<|tool_call>",
    ];
    let place = json!({
        "type": "object", "additionalProperties": false, "required": ["city", "days"],
        "properties": {"city": {"enum": ["Oslo", "Bergen"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    });
    let tools = json!([
        {"type": "function", "function": {"name": "weather", "parameters": place}},
        {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}, "additionalProperties": false}}},
    ]);
    for mark in marks {
        let dir = tempfile::tempdir().expect("a folder");
        for file in std::fs::read_dir(demo()).expect("the demo model").flatten() {
            std::fs::copy(file.path(), dir.path().join(file.file_name())).expect("a copy");
        }
        let template = format!(
            "{{# {mark} #}}{{% for m in messages %}}{{{{ m.role }}}}: {{{{ m.content }}}}\n{{% endfor %}}assistant:"
        );
        std::fs::write(dir.path().join("chat_template.jinja"), template).expect("written");
        let server = Server::start(dir.path(), &["--ram", "200M", "--threads", "2"]);
        for (choice, names) in [
            (json!("required"), &["weather", "now"][..]),
            (json!({"type": "function", "function": {"name": "weather"}}), &["weather"][..]),
        ] {
            let body = json!({
                "messages": [user("How is the weather in Oslo?")], "temperature": 0.8, "seed": 1, "max_tokens": 200, "tools": tools,
                "tool_choice": choice, "parallel_tool_calls": false,
            });
            let answer = server.ask("/v1/chat/completions", &body);
            let said = &answer["choices"][0];
            // Of gpt-oss thoughts may come first, and of a model that was trained otherwise have no end.
            if mark == "<|channel|>" && said["finish_reason"] == "length" {
                continue;
            }
            let calls = said["message"]["tool_calls"].as_array().unwrap_or_else(|| panic!("{mark}: {answer}"));
            assert_eq!(calls.len(), 1, "{mark}: {answer}");
            for call in calls {
                let call = &call["function"];
                let name = call["name"].as_str().expect("a name");
                assert!(names.contains(&name), "{mark}: {answer}");
                let arguments: Value = serde_json::from_str(call["arguments"].as_str().expect("a text")).expect("JSON");
                let schema = if name == "weather" { place.clone() } else { tools[1]["function"]["parameters"].clone() };
                outpour_text::check_schema(&schema, &arguments).unwrap_or_else(|problem| panic!("{mark}: {problem}"));
            }
            let call = &calls[0]["function"];
            calls_come_as_they_are_made(&server, &body, call);
        }
    }
}

/// Streamed, a call comes in parts, which put together are the call of the whole answer; in every API.
fn calls_come_as_they_are_made(server: &Server, chat: &Value, call: &Value) {
    let chunks = server.events("/v1/chat/completions", chat);
    let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0]).collect();
    let names: Vec<&Value> = deltas.iter().map(|delta| &delta["function"]["name"]).filter(|n| n.is_string()).collect();
    assert_eq!(names, [&call["name"]]);
    let arguments: Vec<&str> = deltas.iter().filter_map(|delta| delta["function"]["arguments"].as_str()).collect();
    assert_eq!(arguments.concat(), call["arguments"]);
    let parts = arguments.iter().filter(|part| !part.is_empty()).count();
    assert!(parts > 1 || call["arguments"] == "{}", "{call}: {arguments:?}");
    assert_eq!(chunks[chunks.len() - 1]["choices"][0]["finish_reason"], "tool_calls");

    let mut body = chat.clone();
    body["input"] = body["messages"].take();
    body["max_output_tokens"] = body["max_tokens"].take();
    let tools = chat["tools"].as_array().expect("tools").iter().map(|tool| {
        let mut tool = tool["function"].clone();
        tool["type"] = json!("function");
        tool
    });
    body["tools"] = tools.collect();
    let events = server.events("/v1/responses", &body);
    let of = |kind: &str| events.iter().filter(|event| event["type"] == kind).collect::<Vec<_>>();
    let deltas = of("response.function_call_arguments.delta");
    let told: String = deltas.iter().filter_map(|event| event["delta"].as_str()).collect();
    let done = of("response.function_call_arguments.done");
    assert_eq!(
        (done.len(), &done[0]["arguments"], done[0]["arguments"].as_str()),
        (1, &call["arguments"], Some(&*told))
    );
    assert!(deltas.len() > 1 || told == "{}");
    let items = &events[events.len() - 1]["response"]["output"];
    let item = items.as_array().into_iter().flatten().find(|item| item["type"] == "function_call").expect("a call");
    assert_eq!((&item["arguments"], &item["name"]), (&call["arguments"], &call["name"]));

    let mut body = chat.clone();
    body["tool_choice"] = match chat["tool_choice"].as_str() {
        Some(_) => json!({"type": "any", "disable_parallel_tool_use": true}),
        None => json!({"type": "tool", "name": "weather"}),
    };
    let tools = chat["tools"].as_array().expect("tools").iter().map(|tool| &tool["function"]);
    body["tools"] = tools.map(|tool| json!({"name": tool["name"], "input_schema": tool["parameters"]})).collect();
    let events = server.events("/v1/messages", &body);
    let begun = events.iter().find(|event| event["content_block"]["type"] == "tool_use").expect("a call");
    assert_eq!(begun["content_block"]["name"], call["name"]);
    let told: String = events.iter().filter_map(|event| event["delta"]["partial_json"].as_str()).collect();
    assert_eq!(told, call["arguments"].as_str().expect("a text"));
}

/// An answer that is cut within a call tells what it began, and calls it none.
#[test]
fn a_call_that_is_cut_is_no_call() {
    let server = serve_demo();
    let tool = json!({"type": "function", "function": {"name": "weather", "parameters": weather()}});
    let whole = json!({
        "messages": [user("How is the weather in Oslo?")], "temperature": 0, "max_tokens": 200, "tools": [tool],
        "tool_choice": "required", "chat_template_kwargs": {"enable_thinking": false}, "parallel_tool_calls": false,
    });
    let tokens = server.ask("/v1/chat/completions", &whole)["usage"]["completion_tokens"].as_u64().expect("a count");
    let mut cut = whole.clone();
    cut["max_tokens"] = json!(tokens - 6);
    let answer = server.ask("/v1/chat/completions", &cut);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert!(answer["choices"][0]["message"]["tool_calls"].is_null(), "{answer}");
    let chunks = server.events("/v1/chat/completions", &cut);
    assert_eq!(chunks[chunks.len() - 1]["choices"][0]["finish_reason"], "length");
    assert_eq!(joined(&chunks, "content"), said(&answer));
}
