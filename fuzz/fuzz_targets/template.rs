//! A chat template: refused, or it renders a conversation or says why not, within its limits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outpour_text::{ChatRequest, ChatTemplate};
use serde_json::{Map, json};

fuzz_target!(|source: &str| {
    let config = json!({"bos_token": "<s>", "eos_token": "</s>"});
    let config: Map<_, _> = config.as_object().cloned().unwrap_or_default();
    let Ok(template) = ChatTemplate::from_source(source, &config) else { return };
    let messages = json!([
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What is the weather?"},
        {"role": "assistant", "content": "", "reasoning_content": "Look.", "tool_calls": [{"type": "function",
            "id": "a", "function": {"name": "weather", "arguments": {"city": "Paris", "days": [1, 2.5, null]}}}]},
        {"role": "tool", "tool_call_id": "a", "content": "rain"},
        {"role": "user", "content": "Thanks 🎉"},
    ]);
    let tools = json!([{"type": "function", "function": {"name": "weather", "description": "x",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]);
    for tools in [None, tools.as_array().cloned()] {
        let request = ChatRequest {
            messages: messages.as_array().cloned().unwrap_or_default(),
            tools,
            add_generation_prompt: true,
            kwargs: Map::new(),
            now_s: Some(1_772_600_000),
        };
        if let Ok(prompt) = template.render(&request) {
            assert!(prompt.len() <= ChatTemplate::OUTPUT_BYTES_MAX);
        }
    }
});
