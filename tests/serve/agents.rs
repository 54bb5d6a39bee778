//! What coding agents send, and that their later turns compute only what is new.

use outpour_model::synth;
use serde_json::{Value, json};

use crate::common::damage::add_text;
use crate::common::http::Server;
use crate::{said, serve_demo, serve_streamed, user, vocab};

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
    // As a line of the system message it goes, too, and what follows it stays.
    let prompt = |system: Value| {
        let body = json!({"messages": [{"role": "system", "content": system}, user("Hello")]});
        server.ask("/apply-template", &body)["prompt"].clone()
    };
    let with_noise = prompt(json!("x-anthropic-billing-header: cc_version=2.1; cch=ccccc;\nYou help with code."));
    assert_eq!(with_noise, prompt(json!("You help with code.")));
    let mut line = ask("ddddd");
    line["system"] = json!(format!("x-anthropic-billing-header: cch=ddddd;\n\n{}", "You help with code. ".repeat(20)));
    let third = server.ask("/v1/messages", &line);
    assert_eq!(third["usage"]["cache_read_input_tokens"], read, "{third}");
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

/// A small model with random weights and a context of 16,384 tokens; `more` is what its kind adds to the configuration.
fn long_context(more: Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let mut config = json!({
        "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "intermediate_size": 64, "moe_intermediate_size": 64, "num_experts": 16, "num_experts_per_tok": 2, "norm_topk_prob": true,
        "vocab_size": vocab(), "max_position_embeddings": 16384,
    });
    config.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    synth::write(&config, dir.path(), 7).expect("the model is written");
    add_text(dir.path());
    dir
}

/// An agent's prompt of more than 10,000 tokens, a call, and the next request with the call's result: with other noise at its head,
/// and the call in other words, it computes only the result.
#[test]
fn a_second_turn_over_a_long_prompt_computes_only_what_is_new() {
    let attention = json!({"model_type": "qwen3_moe"});
    // Every fourth layer has keys and values, the others a recurrent state.
    let recurrent = json!({
        "model_type": "qwen3_next", "full_attention_interval": 4, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 32,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_value_head_dim": 32, "partial_rotary_factor": 0.25,
        "shared_expert_intermediate_size": 64,
    });
    for more in [attention, recurrent] {
        let model = long_context(more);
        let server = Server::start(model.path(), &["--ram", "200M", "--threads", "2", "--ctx", "16384"]);
        let mut ask: Value = serde_json::from_str(include_str!("recorded/claude_code.json")).expect("JSON");
        let long = "Follow the conventions of the files around you, and verify what you did.\n".repeat(420);
        ask["system"][2]["text"] = long.into();
        ask["thinking"] = json!({"type": "disabled"});
        ask["stream"] = json!(false);
        ask["max_tokens"] = json!(400);
        let place = json!({"type": "object", "additionalProperties": false, "required": ["line", "file"],
            "properties": {"file": {"enum": ["a.rs", "b.rs"]}, "line": {"type": "integer", "minimum": 1, "maximum": 9}}});
        let tools = ask["tools"].as_array_mut().expect("tools");
        tools.push(json!({"name": "Look", "description": "at a line", "input_schema": place}));
        let tokens = server.ask("/v1/messages/count_tokens", &ask)["input_tokens"].as_u64().expect("a count");
        assert!((10_000..16_000).contains(&tokens), "{tokens} tokens");
        let auto = ask.clone();
        ask["tool_choice"] = json!({"type": "tool", "name": "Look"});
        let first = server.ask("/v1/messages", &ask);
        assert_eq!(first["stop_reason"], "tool_use", "{first}");

        let mut next = auto;
        next["max_tokens"] = json!(2);
        next["system"][0]["text"] =
            json!("x-anthropic-billing-header: cc_version=2.1.37.f3a; cc_entrypoint=cli; cch=00000;");
        let call = &first["content"]
            .as_array()
            .expect("blocks")
            .iter()
            .find(|block| block["type"] == "tool_use")
            .expect("a call");
        // As clients do, whose objects have an order of their own.
        let input = json!({"line": call["input"]["line"], "file": call["input"]["file"]});
        let messages = next["messages"].as_array_mut().expect("messages");
        messages.push(json!({"role": "assistant", "content": [{"type": "tool_use", "id": call["id"], "name": "Look", "input": input}]}));
        let result = json!({"type": "tool_result", "tool_use_id": call["id"], "content": "fn main() {}"});
        messages.push(json!({"role": "user", "content": [result]}));
        let second = server.ask("/v1/messages", &next);
        let count = |answer: &Value, key: &str| answer["usage"][key].as_u64().expect("a count");
        let answer = count(&first, "output_tokens");
        let (new, found) = (count(&second, "input_tokens"), count(&second, "cache_read_input_tokens"));
        println!("a prompt of {tokens} tokens; of the next one {found} are found and {new} computed");
        // The template writes past answers without the empty thoughts that the model was given to begin with, so the answer itself is
        // computed anew.
        assert!(
            found + 16 >= tokens && new < answer + 60,
            "of {tokens} tokens {found} are found, and {new} are computed"
        );
    }
}
