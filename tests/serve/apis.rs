//! Each API says what it should, in the words that its clients read, streamed and whole.

use serde_json::{Value, json};

use crate::{said, serve_demo, serve_streamed, user};

pub(crate) fn weather() -> Value {
    json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
}

/// Joins a field of every delta of chat chunks.
pub(crate) fn joined(chunks: &[Value], field: &str) -> String {
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

/// While a prompt is computed a stream tells how far it is: as data where that is asked for, else in comments.
#[test]
fn the_way_of_a_prompt_is_told() {
    let server = serve_streamed(&[]);
    let ask = json!({
        "messages": [user(&"The fox and the owl met at the river. ".repeat(120))], "max_tokens": 2, "return_progress": true,
        "stream_options": {"include_usage": true}, "ignore_eos": true,
    });
    let chunks = server.events("/v1/chat/completions", &ask);
    let total = chunks[chunks.len() - 1]["usage"]["prompt_tokens"].as_u64().expect("a count");
    let told = chunks.iter().map(|chunk| &chunk["prompt_progress"]).filter(|progress| progress.is_object());
    let processed: Vec<u64> = told
        .map(|progress| {
            assert_eq!((progress["total"].as_u64(), progress["cache"].as_u64()), (Some(total), Some(0)), "{progress}");
            progress["processed"].as_u64().expect("a count")
        })
        .collect();
    assert!(!processed.is_empty() && processed.is_sorted() && processed[0] == 0, "{processed:?}");
    assert!(processed.iter().all(|done| *done <= total), "{processed:?} of {total}");
    let mut silent = ask.clone();
    silent["return_progress"] = json!(false);
    silent["messages"][0]["content"] = json!("A".to_owned() + ask["messages"][0]["content"].as_str().expect("a text"));
    silent["stream"] = json!(true);
    for path in ["/v1/chat/completions", "/v1/completions", "/v1/responses"] {
        let mut body = silent.clone();
        body["prompt"] = body["messages"][0]["content"].clone();
        body["input"] = body["prompt"].clone();
        let said = server.post(path, &body).body;
        assert!(said.lines().any(|line| line.starts_with(": prompt ") && line.ends_with(" tokens")), "{path}: {said}");
    }
}

/// Tokens of thoughts are those up to the one that ends them, whoever asks; and not more than they may be.
#[test]
fn tokens_of_thoughts_are_counted() {
    let server = serve_demo();
    let ask = |extra: Value| {
        let mut body = json!({
            "messages": [user("What is 3 + 4?")], "temperature": 0, "max_tokens": 200, "logprobs": true,
            "stream_options": {"include_usage": true},
        });
        body.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
        body
    };
    let count = |usage: &Value| usage["completion_tokens_details"]["reasoning_tokens"].as_u64().expect("a count");
    let written = |answer: &Value| {
        let tokens = answer["choices"][0]["logprobs"]["content"].as_array().expect("tokens").clone();
        let end = tokens.iter().position(|token| token["token"] == "</think>");
        end.expect("thoughts have an end") as u64 + 1
    };
    let answer = server.ask("/v1/chat/completions", &ask(json!({})));
    assert!(answer["choices"][0]["message"]["reasoning_content"].is_string(), "{answer}");
    assert_eq!(count(&answer["usage"]), written(&answer), "{answer}");
    let chunks = server.events("/v1/chat/completions", &ask(json!({})));
    assert_eq!(count(&chunks[chunks.len() - 1]["usage"]), written(&answer));
    let body = json!({"input": "What is 3 + 4?", "temperature": 0, "max_output_tokens": 200});
    let response = server.ask("/v1/responses", &body);
    assert_eq!(response["usage"]["output_tokens_details"]["reasoning_tokens"], written(&answer));
    let message =
        server.ask("/v1/messages", &json!({"messages": [user("What is 3 + 4?")], "temperature": 0, "max_tokens": 200}));
    assert_eq!(message["usage"]["output_tokens_details"]["thinking_tokens"], written(&answer));
    for budget in [0, 3] {
        let short = server.ask("/v1/chat/completions", &ask(json!({"thinking_budget": budget})));
        // What ends them is a line break and their mark.
        assert_eq!((count(&short["usage"]), written(&short)), (budget + 2, budget + 2), "{short}");
    }
    let without = server.ask("/v1/chat/completions", &ask(json!({"chat_template_kwargs": {"enable_thinking": false}})));
    assert_eq!(count(&without["usage"]), 0);
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

/// A stop string ends what is said. Thoughts that hold it go on.
#[test]
fn stop_strings_do_not_end_thoughts() {
    let server = serve_demo();
    let ask = |stop: &str| {
        server.ask(
            "/v1/chat/completions",
            &json!({
                "messages": [{"role": "user", "content": "What is 17 + 25?"}], "temperature": 0, "stop": stop,
            }),
        )
    };
    for stop in ["carry", "2"] {
        let answer = ask(stop);
        let said = |field: &str| answer["choices"][0]["message"][field].as_str().expect("a text");
        assert!(said("reasoning_content").ends_with("= 42."), "{answer}");
        assert_eq!(said("content").contains("42"), stop == "carry", "{answer}");
        assert!(!said("content").contains(stop), "{answer}");
    }
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
    // A stream tells the same, one token after the other.
    let chunks = server.events(
        "/v1/completions",
        &json!({"prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": 3, "echo": true, "ignore_eos": true}),
    );
    for field in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        let parts = chunks.iter().filter_map(|chunk| chunk["choices"][0]["logprobs"][field].as_array());
        assert_eq!(Value::from(parts.flatten().cloned().collect::<Vec<Value>>()), logprobs[field], "{field}");
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
    let model = &server.get("/api/tags").json()["models"][0];
    assert_eq!(model["name"], "model");
    assert!(model["size"].as_u64().is_some_and(|bytes| (5 << 20..10 << 20).contains(&bytes)), "{model}");
    assert_eq!(model["details"]["parameter_size"], "13.2M", "{model}");
    // What Open WebUI and others ask before.
    let shown = server.ask("/api/show", &json!({"model": "m"}));
    assert_eq!(shown["capabilities"], json!(["completion", "tools", "thinking"]), "{shown}");
    assert_eq!(
        shown["model_info"]["qwen3_5_moe.context_length"],
        server.get("/v1/models").json()["data"][0]["context_length"]
    );
    assert_eq!(shown["details"], model["details"]);
    let version = server.get("/api/version").json();
    assert!(
        version["version"].as_str().is_some_and(|version| version.split('.').all(|n| n.parse::<u32>().is_ok())),
        "{version}"
    );
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
    let there = &server.get("/api/ps").json()["models"][0];
    assert_eq!(
        (&there["name"], &there["context_length"]),
        (&model["name"], &shown["model_info"]["qwen3_5_moe.context_length"])
    );
    assert!(there["size"].as_u64().is_some_and(|bytes| bytes > 10 << 20), "{there}");
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
