//! What makes no sense is refused by its name, with the status and the error object of its API.

use serde_json::{Value, json};

use crate::{serve_streamed, user};

#[test]
fn requests_that_make_no_sense_are_refused_by_name() {
    let server = serve_streamed(&[]);
    let messages = json!([user("Hi")]);
    let image = json!([{"role": "user", "content": [
        {"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:"}},
    ]}]);
    let source = json!({"type": "base64", "media_type": "image/png", "data": ""});
    let block = json!([{"role": "user", "content": [{"type": "image", "source": source}]}]);
    // A call that was cut could not be told from text where its schema refers to nothing.
    let town = json!({"type": "object", "properties": {"town": {"$ref": "#/$defs/town"}}});
    let dangling = json!([{"type": "function", "function": {"name": "weather", "parameters": town}}]);
    let dangling_form = json!({"type": "json_schema", "json_schema": {"name": "town", "schema": town}});
    let cases = [
        ("/v1/chat/completions", json!({}), "messages: is missing"),
        ("/v1/chat/completions", json!({"messages": []}), "must hold at least one message"),
        ("/v1/chat/completions", json!({"messages": "Hi"}), "messages: must be an array"),
        ("/v1/chat/completions", json!({"messages": [{"content": "Hi"}]}), "messages[0].role"),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": 7}]}), "messages[0].content"),
        ("/v1/chat/completions", json!({"messages": messages, "temperature": "hot"}), "temperature"),
        ("/v1/chat/completions", json!({"messages": messages, "temperature": -1}), "temperature"),
        ("/v1/chat/completions", json!({"messages": messages, "max_tokens": 1.5}), "max_tokens"),
        ("/v1/chat/completions", json!({"messages": messages, "stop": [""]}), "stop"),
        ("/v1/chat/completions", json!({"messages": messages, "stop": 3}), "stop"),
        ("/v1/chat/completions", json!({"messages": messages, "stream": "yes"}), "stream"),
        ("/v1/chat/completions", json!({"messages": messages, "n": 2}), "n: must be 1"),
        ("/v1/chat/completions", json!({"messages": messages, "top_logprobs": 50}), "top_logprobs"),
        ("/v1/chat/completions", json!({"messages": messages, "logit_bias": {"99999999": 1}}), "logit_bias"),
        ("/v1/chat/completions", json!({"messages": messages, "tools": [{"type": "function"}]}), "tools[0].function"),
        ("/v1/chat/completions", json!({"messages": image}), "messages[0].content[1]"),
        ("/v1/chat/completions", json!([1]), "no JSON object"),
        ("/v1/completions", json!({"prompt": 3}), "prompt"),
        ("/v1/completions", json!({"prompt": [1, 99_999_999]}), "99999999"),
        ("/v1/completions", json!({"prompt": ""}), "empty"),
        ("/v1/completions", json!({"prompt": "a", "suffix": "b"}), "suffix"),
        (
            "/v1/chat/completions",
            json!({"messages": messages, "max_tokens": 0}),
            "max_tokens: must be a whole number, at least 1",
        ),
        (
            "/v1/chat/completions",
            json!({"messages": messages, "tools": dangling}),
            "tools[0]: \"$ref\": \"#/$defs/town\" leads to nothing",
        ),
        (
            "/v1/chat/completions",
            json!({"messages": messages, "response_format": dangling_form}),
            "response_format: \"$ref\": \"#/$defs/town\"",
        ),
        ("/v1/messages", json!({"messages": messages}), "max_tokens: is missing"),
        (
            "/v1/messages",
            json!({"messages": messages, "max_tokens": 0}),
            "max_tokens: must be a whole number, at least 1",
        ),
        (
            "/v1/messages",
            json!({"messages": messages, "max_tokens": 5, "stop_sequences": "a"}),
            "stop_sequences: must be an array of strings",
        ),
        (
            "/v1/messages",
            json!({"messages": messages, "max_tokens": 5, "thinking": {"type": "enabled"}}),
            "thinking.budget_tokens: is missing",
        ),
        ("/v1/messages", json!({"messages": messages, "max_tokens": 5, "thinking": {"type": "much"}}), "thinking.type"),
        (
            "/v1/messages",
            json!({"messages": messages, "max_tokens": 5, "thinking": true}),
            "thinking: must be an object",
        ),
        ("/v1/messages", json!({"messages": block, "max_tokens": 5}), "messages[0].content[0]"),
        ("/v1/responses", json!({"input": [{"type": "item_reference", "id": "x"}]}), "input[0]"),
        ("/v1/responses", json!({"input": "a", "conversation": "conv_1"}), "conversation"),
        ("/v1/responses", json!({"input": "a", "max_output_tokens": 0}), "max_output_tokens"),
        ("/v1/responses", json!({"input": "a", "prompt": {"id": "x"}}), "prompt"),
        ("/v1/responses", json!({"input": "a", "background": true}), "background"),
        ("/api/chat", json!({"messages": [{"role": "user", "content": "a", "images": ["x"]}]}), "messages[0].images"),
        ("/api/show", json!({"model": 1}), "model: must be a string"),
        ("/tokenize", json!({"content": 1}), "content"),
        ("/detokenize", json!({"tokens": [-1]}), "tokens"),
    ];
    for (path, body, named) in cases {
        let response = server.post(path, &body);
        assert_eq!(response.status, 400, "{path} {body}: {}", response.body);
        let error = response.json();
        let message = match path {
            "/api/chat" | "/api/show" => &error["error"],
            "/v1/messages" => {
                assert_eq!(
                    (error["type"].as_str(), error["error"]["type"].as_str()),
                    (Some("error"), Some("invalid_request_error"))
                );
                &error["error"]["message"]
            }
            _ => {
                assert_eq!(error["error"]["type"], "invalid_request_error");
                &error["error"]["message"]
            }
        };
        assert!(
            message.as_str().is_some_and(|message| message.contains(named)),
            "{path} {body}: {message} names no {named}"
        );
    }
    for body in ["", "{", "{\"messages\": [}", "\u{0}", &"[".repeat(100_000)] {
        let response = server.send("POST", "/v1/chat/completions", &[], body);
        assert_eq!(response.status, 400, "{}", response.body);
    }
    assert_eq!(server.get("/v1/nothing").status, 404);
    assert_eq!(server.get("/v1/models/other").status, 404);
    assert_eq!(server.get("/v1/chat/completions").status, 405);
    assert_eq!(server.post("/v1/embeddings", &json!({})).status, 501);
    let ok: Value = server.ask("/v1/completions", &json!({"prompt": "a", "max_tokens": 2}));
    assert_eq!(ok["usage"]["completion_tokens"], 2, "it still answers");
}

#[test]
fn a_prompt_that_does_not_fit_is_refused_before_it_is_computed() {
    let server = serve_streamed(&["--ctx", "256"]);
    let long = "word ".repeat(400);
    let response = server.post("/v1/chat/completions", &json!({"messages": [user(&long)]}));
    assert_eq!(response.status, 400);
    assert!(response.body.contains("context of 256") && response.body.contains("--ctx"), "{}", response.body);
    let longer = "word ".repeat(500_000);
    let response = server.post("/v1/completions", &json!({"prompt": longer}));
    assert_eq!(response.status, 400, "{}", response.body);
    assert_eq!(server.metric("outpour_prompt_tokens_total"), 0.0);
    let full = server
        .ask("/v1/completions", &json!({"prompt": "a", "ignore_eos": true, "max_tokens": 1000, "temperature": 0}));
    assert_eq!(full["choices"][0]["finish_reason"], "length");
    assert_eq!(full["usage"]["total_tokens"], 256, "the answer ends where the context does");
}
