//! Each API says what it should, in the words that its clients read, streamed and whole.

use serde_json::{Value, json};

use crate::common::http::Server;
use crate::{demo, said, serve_demo, serve_streamed, user};

fn weather() -> Value {
    json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
}

/// Joins a field of every delta of chat chunks.
fn joined(chunks: &[Value], field: &str) -> String {
    let deltas = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"][field].as_str());
    deltas.collect()
}

#[test]
fn chat_completions_stream_what_they_say_whole() {
    let server = serve_demo();
    let ask = json!({
        "model": "any", "messages": [user("Tell me a story about a fox.")], "temperature": 0, "max_tokens": 60,
        "stream_options": {"include_usage": true}, "an_unknown_field": {"is": "ignored"},
    });
    let whole = server.ask("/v1/chat/completions", &ask);
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["model"], "any", "any name is served");
    let message = &whole["choices"][0]["message"];
    let thought = message["reasoning_content"].as_str().unwrap_or_default();
    assert!(!said(&whole).is_empty() || !thought.is_empty(), "{whole}");
    let usage = &whole["usage"];
    assert!(usage["completion_tokens"].as_u64().is_some_and(|n| (1..=60).contains(&n)), "{usage}");
    assert_eq!(
        usage["total_tokens"].as_u64(),
        usage["prompt_tokens"].as_u64().zip(usage["completion_tokens"].as_u64()).map(|(a, b)| a + b)
    );

    let chunks = server.events("/v1/chat/completions", &ask);
    assert_eq!(joined(&chunks, "content"), said(&whole));
    assert_eq!(joined(&chunks, "reasoning_content"), thought);
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["id"] == chunks[0]["id"]));
    let finish = |chunk: &Value| chunk["choices"][0]["finish_reason"].clone();
    assert_eq!(finish(&chunks[chunks.len() - 2]), finish(&whole));
    let last = &chunks[chunks.len() - 1];
    assert_eq!(last["usage"]["completion_tokens"], usage["completion_tokens"]);
    assert_eq!(last["choices"], json!([]));

    let without = server.ask(
        "/v1/chat/completions",
        &json!({"messages": [user("Hi")], "max_tokens": 4, "chat_template_kwargs": {"enable_thinking": false}}),
    );
    assert!(without["choices"][0]["message"].get("reasoning_content").is_none(), "{without}");
}

#[test]
fn seeds_stop_strings_and_biases_do_what_they_say() {
    let server = serve_streamed(&[]);
    let ask = |extra: Value| {
        let mut body = json!({"prompt": "Once upon a time", "max_tokens": 24, "temperature": 1.0, "seed": 5});
        body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        server.ask("/v1/completions", &body)["choices"][0].clone()
    };
    let text = |choice: &Value| choice["text"].as_str().expect("a text").to_owned();
    let first = ask(json!({}));
    assert_eq!(text(&first), text(&ask(json!({}))), "the same seed says the same");
    assert_ne!(text(&first), text(&ask(json!({"seed": 6}))));
    assert_eq!(first["finish_reason"], "length");
    let whole = text(&first);
    let stop: String = whole.chars().skip(6).take(2).collect();
    let stopped = ask(json!({"stop": [stop]}));
    assert_eq!(text(&stopped), whole[..whole.find(&stop).expect("it is there")]);
    assert_eq!(stopped["finish_reason"], "stop");
    let tokens = server.ask("/tokenize", &json!({"content": "x"}))["tokens"].clone();
    let id = tokens[0].as_u64().expect("an id");
    let biased = ask(json!({"logit_bias": {id.to_string(): 100}, "temperature": 0}));
    assert_eq!(text(&biased), "x".repeat(24));
}

#[test]
fn probabilities_of_a_prompt_are_those_of_its_generation() {
    let server = serve_streamed(&[]);
    let first = server.ask(
        "/v1/completions",
        &json!({"prompt": "Once upon", "max_tokens": 8, "temperature": 0, "logprobs": 3, "ignore_eos": true}),
    );
    let generated = &first["choices"][0]["logprobs"];
    let count = |logprobs: &Value| logprobs["tokens"].as_array().map_or(0, Vec::len);
    assert_eq!(count(generated), 8);
    let text = format!("Once upon{}", first["choices"][0]["text"].as_str().expect("a text"));
    // The same tokens as a prompt: as ids, since other tokens may make the same text.
    let prompt = server.ask("/tokenize", &json!({"content": "Once upon"}))["tokens"].as_array().expect("ids").clone();
    let mut ids = prompt.clone();
    for token in generated["tokens"].as_array().expect("tokens") {
        let found = server.ask("/tokenize", &json!({"content": token}))["tokens"].as_array().expect("ids").clone();
        if found.len() != 1 {
            // A token that is no whole text of its own cannot be asked for in this way.
            return;
        }
        ids.extend(found);
    }
    let echoed = server.ask(
        "/v1/completions",
        &json!({"prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": 3, "echo": true, "ignore_eos": true}),
    );
    let logprobs = &echoed["choices"][0]["logprobs"];
    assert!(echoed["choices"][0]["text"].as_str().expect("a text").starts_with(&text));
    assert_eq!(logprobs["token_logprobs"][0], Value::Null);
    assert_eq!(count(logprobs), ids.len() + 1);
    for i in 0..8 {
        assert_eq!(logprobs["token_logprobs"][prompt.len() + i], generated["token_logprobs"][i], "token {i}");
        assert_eq!(logprobs["top_logprobs"][prompt.len() + i], generated["top_logprobs"][i]);
    }
    let chat = server.ask(
        "/v1/chat/completions",
        &json!({"messages": [user("a")], "max_tokens": 5, "logprobs": true, "top_logprobs": 2, "temperature": 0, "ignore_eos": true}),
    );
    let content = chat["choices"][0]["logprobs"]["content"].as_array().expect("probabilities");
    assert_eq!(content.len(), 5);
    for token in content {
        let top = token["top_logprobs"].as_array().expect("alternatives");
        assert_eq!(top.len(), 2);
        assert_eq!(top[0]["logprob"], token["logprob"], "greedy takes the likeliest");
        assert!(token["logprob"].as_f64().is_some_and(|nats| nats <= 0.0));
    }
}

#[test]
fn messages_come_as_named_events_in_order() {
    let server = serve_demo();
    let ask = json!({
        "model": "claude-x", "max_tokens": 40, "temperature": 0,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=12345;"},
            {"type": "text", "text": "You are brief.", "cache_control": {"type": "ephemeral"}},
        ],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "What is 3 + 4?"}]}],
        "tools": [{"name": "weather", "description": "of a city", "input_schema": weather()}],
        "thinking": {"type": "enabled", "budget_tokens": 1024}, "metadata": {"user_id": "u"},
    });
    let whole = server.ask("/v1/messages", &ask);
    assert_eq!((whole["type"].as_str(), whole["role"].as_str()), (Some("message"), Some("assistant")));
    let mut counted = ask.clone();
    counted.as_object_mut().expect("an object").remove("max_tokens");
    let tokens = server.ask("/v1/messages/count_tokens", &counted)["input_tokens"].as_u64().expect("a count");
    let usage = &whole["usage"];
    let input =
        usage["input_tokens"].as_u64().expect("a count") + usage["cache_read_input_tokens"].as_u64().expect("a count");
    assert_eq!(input, tokens);

    let events = server.events("/v1/messages", &ask);
    let kinds: Vec<&str> =
        events.iter().filter_map(|event| event["type"].as_str()).filter(|kind| *kind != "ping").collect();
    assert_eq!(kinds[0], "message_start");
    assert_eq!(kinds[kinds.len() - 2..], ["message_delta", "message_stop"]);
    let mut open = None;
    let (mut blocks, mut at): (Vec<Value>, usize) = (Vec::new(), 0);
    for event in &events {
        match event["type"].as_str().unwrap_or_default() {
            "content_block_start" => {
                assert_eq!((open, event["index"].as_u64()), (None, Some(at as u64)));
                open = Some(at);
                blocks.push(event["content_block"].clone());
            }
            "content_block_delta" => {
                assert_eq!(event["index"].as_u64(), open.map(|at| at as u64));
                for (field, target) in [("text", "text"), ("thinking", "thinking")] {
                    if let Some(more) = event["delta"][field].as_str() {
                        let text = blocks[at][target].as_str().unwrap_or_default().to_owned() + more;
                        blocks[at][target] = text.into();
                    }
                }
            }
            "content_block_stop" => {
                assert_eq!(open.take(), Some(at));
                at += 1;
            }
            _ => {}
        }
    }
    assert_eq!(Value::from(blocks), whole["content"]);
    let delta = &events[events.len() - 2];
    assert_eq!(delta["delta"]["stop_reason"], whole["stop_reason"]);
    assert_eq!(delta["usage"]["output_tokens"], usage["output_tokens"]);
}

#[test]
fn per_request_noise_does_not_hide_what_is_computed() {
    let server = serve_demo();
    let ask = |nonce: &str| {
        json!({
            "model": "m", "max_tokens": 4,
            "system": [
                {"type": "text", "text": format!("x-anthropic-billing-header: cc_version=2.1; cch={nonce};")},
                {"type": "text", "text": "You help with code. ".repeat(20)},
            ],
            "messages": [user("Hello")],
        })
    };
    let first = server.ask("/v1/messages", &ask("aaaaa"));
    let second = server.ask("/v1/messages", &ask("bbbbb"));
    assert_eq!(first["usage"]["cache_read_input_tokens"], 0);
    let read = second["usage"]["cache_read_input_tokens"].as_u64().expect("a count");
    assert!(read > 50, "{second}");
}

#[test]
fn a_second_turn_computes_only_what_is_new() {
    let starts: [fn() -> Server; 2] = [serve_demo, || serve_streamed(&[])];
    for start in starts {
        let server = start();
        let long = "The fox and the owl met at the river, and they spoke of many things. ".repeat(12);
        let system = json!({"role": "system", "content": long});
        let ask = |messages: Vec<Value>| {
            let body = json!({
                "messages": messages, "temperature": 0, "max_tokens": 12,
                "chat_template_kwargs": {"enable_thinking": false},
            });
            server.ask("/v1/chat/completions", &body)
        };
        let first = ask(vec![system.clone(), user("Hello there")]);
        let usage = |answer: &Value, key: &str| answer["usage"][key].as_u64().expect("a count");
        let cached =
            |answer: &Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a count");
        assert_eq!(cached(&first), 0);
        let answer = json!({"role": "assistant", "content": said(&first)});
        let turn = vec![system.clone(), user("Hello there"), answer, user("And then?")];
        let second = ask(turn.clone());
        let new = usage(&second, "prompt_tokens") - cached(&second);
        let turn_tokens = usage(&second, "prompt_tokens") - usage(&first, "prompt_tokens");
        assert!(new <= turn_tokens + 16, "{new} tokens are computed for a turn of {turn_tokens}");
        // Another conversation under the same system message finds that.
        let other = ask(vec![system.clone(), user("Something else entirely")]);
        assert!(cached(&other) * 10 >= usage(&other, "prompt_tokens") * 7, "{other}");
        // And what was found says the same as what is computed.
        let body = json!({"messages": turn, "temperature": 0, "max_tokens": 12, "chat_template_kwargs": {"enable_thinking": false}});
        assert_eq!(said(&start().ask("/v1/chat/completions", &body)), said(&second));
    }
}

#[test]
fn responses_come_whole_and_as_events() {
    let server = serve_demo();
    let ask = json!({
        "model": "gpt-x", "instructions": "Be brief.", "temperature": 0, "max_output_tokens": 40, "store": false,
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "You may use tools."}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Tell me a story."}]},
            {"type": "reasoning", "summary": [], "content": null, "encrypted_content": "x"},
            {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{\"city\": \"Oslo\"}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
        ],
        "tools": [
            {"type": "function", "name": "weather", "parameters": weather(), "strict": false},
            {"type": "web_search"},
        ],
        "include": ["reasoning.encrypted_content"], "parallel_tool_calls": false,
    });
    let whole = server.ask("/v1/responses", &ask);
    assert_eq!(whole["object"], "response");
    assert!(["completed", "incomplete"].contains(&whole["status"].as_str().unwrap_or_default()), "{whole}");
    let events = server.events("/v1/responses", &ask);
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(kinds[..2], ["response.created", "response.in_progress"]);
    for (i, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], i);
    }
    let last = &events[events.len() - 1]["response"];
    assert_eq!(last["status"], whole["status"]);
    let texts = |response: &Value| -> Vec<Value> {
        let items = response["output"].as_array().cloned().unwrap_or_default();
        items
            .iter()
            .map(|item| json!([item["type"], item["content"][0]["text"], item["name"], item["arguments"]]))
            .collect()
    };
    assert_eq!(texts(last), texts(&whole));
    let deltas: String = events
        .iter()
        .filter(|e| e["type"] == "response.output_text.delta")
        .filter_map(|e| e["delta"].as_str())
        .collect();
    let message: String = last["output"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|item| item["type"] == "message")
        .filter_map(|item| item["content"][0]["text"].as_str())
        .collect();
    assert_eq!(deltas, message);
    let refused = server.post("/v1/responses", &json!({"input": "a", "previous_response_id": "resp_1"}));
    assert_eq!(refused.status, 400);
}

#[test]
fn ollama_speaks_in_lines() {
    let server = serve_demo();
    assert_eq!(server.get("/api/tags").json()["models"][0]["name"], "model");
    let ask = json!({"model": "m", "messages": [user("Hi")], "options": {"temperature": 0, "num_predict": 12}, "think": false});
    let streamed = server.post("/api/chat", &ask);
    let lines: Vec<Value> = streamed.body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let text: String = lines.iter().filter_map(|line| line["message"]["content"].as_str()).collect();
    let last = &lines[lines.len() - 1];
    assert_eq!(last["done"], true);
    assert!(last["eval_count"].as_u64().is_some_and(|n| n > 0));
    let mut whole = ask.clone();
    whole["stream"] = json!(false);
    assert_eq!(server.ask("/api/chat", &whole)["message"]["content"], text);
    let generated = server.ask(
        "/api/generate",
        &json!({"prompt": "Hi", "stream": false, "think": false, "options": {"temperature": 0, "num_predict": 12}}),
    );
    assert_eq!(generated["response"], text, "the same prompt, through another door");
}

#[test]
fn texts_tokens_and_templates() {
    let server = serve_demo();
    let text = "Größe <|im_start|> 大 🌍";
    let tokens = server.ask("/tokenize", &json!({"content": text}))["tokens"].clone();
    assert_eq!(server.ask("/detokenize", &json!({"tokens": tokens}))["content"], text);
    let apart = server.ask("/tokenize", &json!({"content": "<|im_start|>", "parse_special": false}));
    assert!(apart["tokens"].as_array().is_some_and(|tokens| tokens.len() > 1));
    let prompt = server.ask("/apply-template", &json!({"messages": [user("Hi")]}));
    assert!(prompt["prompt"].as_str().is_some_and(|text| text.contains("<|im_start|>user\nHi<|im_end|>")), "{prompt}");
}

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
}

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

/// Requests of coding agents in their real shapes: long system prompts, tools, thoughts, results, fields that nobody documents.
#[test]
fn requests_of_coding_agents_are_answered() {
    let server = serve_demo();
    let mut claude: Value = serde_json::from_str(include_str!("recorded/claude_code.json")).expect("JSON");
    let events = server.events("/v1/messages?beta=true", &claude);
    assert_eq!(events[0]["type"], "message_start");
    assert_eq!(events[events.len() - 1]["type"], "message_stop");
    // The next turn brings other noise, and finds what is computed.
    claude["system"][0]["text"] =
        json!("x-anthropic-billing-header: cc_version=2.1.37.f3a; cc_entrypoint=cli; cch=00000;");
    let again = &server.events("/v1/messages?beta=true", &claude)[0]["message"]["usage"];
    let count = |key: &str| again[key].as_u64().expect("a count");
    assert!(count("input_tokens") < 40 && count("cache_read_input_tokens") > 500, "{again}");

    let codex: Value = serde_json::from_str(include_str!("recorded/codex.json")).expect("JSON");
    let events = server.events("/v1/responses", &codex);
    assert_eq!(events[0]["type"], "response.created");
    let last = events[events.len() - 1]["type"].as_str().unwrap_or_default();
    assert!(["response.completed", "response.incomplete"].contains(&last), "{last}");
}
