//! Broken files: one line that names the file, never a panic.

mod common;

use common::{Random, dir, json, text};
use outpour_text::{ChatRequest, ChatTemplate, TextError, Tokenizer};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The error is one line with the name in it and something to do.
fn assert_names(error: &TextError, name: &str) {
    let line = error.to_string();
    assert!(!line.contains('\n'), "{line:?} has several lines");
    assert!(line.contains(name), "{line:?} does not name {name:?}");
    assert!(line.contains("; "), "{line:?} does not say what to do");
}

/// A model directory with the fixtures' files.
fn model() -> tempfile::TempDir {
    let at = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        std::fs::copy(dir().join(name), at.path().join(name)).unwrap();
    }
    at
}

fn write(at: &Path, name: &str, text: &str) {
    std::fs::write(at.join(name), text).unwrap();
}

#[test]
fn files_that_are_missing_or_not_json() {
    let at = model();
    let at = at.path();
    std::fs::remove_file(at.join("tokenizer.json")).unwrap();
    assert_names(&Tokenizer::load(at).unwrap_err(), "tokenizer.json");
    for broken in
        ["", "{", "[]", "null", "{}", "{\"model\": 3}", "\u{feff}{}", "{\"model\": {\"vocab\": [], \"merges\": []}}"]
    {
        write(at, "tokenizer.json", broken);
        assert_names(&Tokenizer::load(at).unwrap_err(), "tokenizer.json");
    }
    std::fs::copy(dir().join("tokenizer.json"), at.join("tokenizer.json")).unwrap();
    for name in ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json"] {
        for broken in ["{", "[1]", "7"] {
            write(at, name, broken);
            assert_names(&Tokenizer::load(at).unwrap_err(), name);
        }
        std::fs::remove_file(at.join(name)).unwrap();
    }
    assert!(Tokenizer::load(at).is_ok());
}

#[test]
fn settings_that_are_not_supported_are_named() {
    let cases = [
        ("/model/type", json!("Unigram"), "Unigram"),
        ("/model/dropout", json!(0.1), "dropout"),
        ("/model/end_of_word_suffix", json!("</w>"), "end_of_word_suffix"),
        ("/model/continuing_subword_prefix", json!("##"), "continuing_subword_prefix"),
        ("/decoder", Value::Null, "decoder"),
        ("/decoder", json!({"type": "Metaspace", "replacement": "_"}), "decoder"),
        ("/normalizer", json!({"type": "Lowercase"}), "normalizer"),
        ("/pre_tokenizer", Value::Null, "pre-tokenizer"),
        ("/pre_tokenizer", json!({"type": "Whitespace"}), "pre-tokenizer"),
        ("/pre_tokenizer/pretokenizers/0/behavior", json!("Contiguous"), "Contiguous"),
        ("/pre_tokenizer/pretokenizers/0/pattern", json!({"Regex": "a(?=b)"}), "a(?=b)"),
        ("/pre_tokenizer/pretokenizers/0/pattern", json!({"Regex": "(a"}), "(a"),
        ("/pre_tokenizer/pretokenizers/0/pattern", json!({"Regex": "a?+b"}), "a?+b"),
        ("/pre_tokenizer/pretokenizers/0/pattern", json!({"Regex": "a*"}), "a*"),
        ("/pre_tokenizer/pretokenizers/1/add_prefix_space", json!(true), "add_prefix_space"),
        ("/post_processor", json!({"type": "BertProcessing", "sep": ["a", 1], "cls": ["b", 2]}), "post-processor"),
        ("/added_tokens/0/single_word", json!(true), "single_word"),
    ];
    for (pointer, value, name) in cases {
        let mut document = json("tokenizer.json");
        *document.pointer_mut(pointer).unwrap() = value;
        let error = Tokenizer::from_json(document.to_string().as_bytes(), None).unwrap_err();
        assert!(matches!(error, TextError::Unsupported { .. }), "{error}");
        assert_names(&error, "tokenizer.json");
        assert_names(&error, name);
    }
}

#[test]
fn contradictions_are_named() {
    let cases: [(&str, Value, &str); 7] = [
        ("/added_tokens/0/id", json!(3), "two tokens have the id 3"),
        ("/added_tokens/0/id", json!(u32::MAX), "limit"),
        ("/added_tokens/1/content", json!("<|im_end|>"), "added twice"),
        ("/added_tokens/0/content", json!("a"), "has the id"),
        ("/model/merges/0", json!(["Ġ", "no such token"]), "merged token"),
        ("/model/vocab", json!({}), "the byte"),
        (
            "/post_processor",
            json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}], "special_tokens": {}}),
            "does not define",
        ),
    ];
    for (pointer, value, name) in cases {
        let mut document = json("tokenizer.json");
        *document.pointer_mut(pointer).unwrap() = value;
        let error = Tokenizer::from_json(document.to_string().as_bytes(), None).unwrap_err();
        assert_names(&error, "tokenizer.json");
        assert_names(&error, name);
    }
}

/// Whatever happens to the bytes of the file, loading ends in a tokenizer that works or in an error.
#[test]
fn damaged_tokenizers_do_not_panic() {
    let good = text("tokenizer.json").into_bytes();
    let mut random = Random(5);
    for round in 0..300 {
        let mut bytes = good.clone();
        if round % 3 == 0 {
            bytes.truncate(random.below(good.len()));
        }
        for _ in 0..random.below(4) {
            let at = random.below(bytes.len().max(1));
            if let Some(byte) = bytes.get_mut(at) {
                *byte = b"\"0[]{}:,x9"[random.below(10)];
            }
        }
        match Tokenizer::from_json(&bytes, None) {
            Ok(tokenizer) => {
                let ids = tokenizer.encode("Hello, 世界 <|im_end|> 123", true).unwrap();
                tokenizer.decode(&ids);
            }
            Err(error) => assert_names(&error, "tokenizer.json"),
        }
    }
}

#[test]
fn templates_are_found_in_their_order() {
    let at = model();
    let at = at.path();
    let user: Value = json!({"role": "user", "content": "hi"});
    let render = |tools: Option<Vec<Value>>| {
        let request = ChatRequest { messages: vec![user.clone()], tools, ..ChatRequest::default() };
        ChatTemplate::load(at).unwrap().map(|template| template.render(&request).unwrap())
    };
    assert_eq!(render(None).as_deref(), Some("<|im_start|>user\nhi<|im_end|>\n"));
    write(at, "chat_template.json", r#"{"chat_template": "from json {{ eos_token }}"}"#);
    std::fs::remove_file(at.join("chat_template.jinja")).unwrap();
    assert_eq!(render(None).as_deref(), Some("from json <|im_end|>"));
    std::fs::remove_file(at.join("chat_template.json")).unwrap();
    assert_eq!(render(None), None);
    write(at, "tokenizer_config.json", r#"{"chat_template": "text {{ bos_token }}", "bos_token": {"content": "<s>"}}"#);
    assert_eq!(render(None).as_deref(), Some("text <s>"));
    let list =
        r#"{"chat_template": [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]}"#;
    write(at, "tokenizer_config.json", list);
    assert_eq!(render(None).as_deref(), Some("plain"));
    assert_eq!(render(Some(vec![])).as_deref(), Some("tools"));
}

#[test]
fn broken_templates_are_named() {
    let at = model();
    let at = at.path();
    write(at, "chat_template.jinja", "fine\n{% if %}");
    let error = ChatTemplate::load(at).unwrap_err();
    assert!(matches!(error, TextError::TemplateSyntax { line: 2, .. }), "{error}");
    assert_names(&error, "chat_template.jinja");
    for broken in ["{{", "{% for x in %}", "{% endif %}", "{{ 'a }}", "{% generation %}", "{{ x | nofilter }}{% raw %}"]
    {
        write(at, "chat_template.jinja", broken);
        match ChatTemplate::load(at) {
            Err(error) => assert_names(&error, "chat_template.jinja"),
            Ok(template) => assert!(template.is_some()),
        }
    }
    std::fs::write(at.join("chat_template.jinja"), [0xff, 0xfe]).unwrap();
    assert_names(&ChatTemplate::load(at).unwrap_err(), "chat_template.jinja");
    std::fs::remove_file(at.join("chat_template.jinja")).unwrap();
    for (name, broken) in [
        ("chat_template.json", "{}"),
        ("chat_template.json", "[]"),
        ("chat_template.json", r#"{"chat_template": 3}"#),
        ("tokenizer_config.json", r#"{"chat_template": [{"name": "rag", "template": "x"}]}"#),
    ] {
        write(at, name, broken);
        assert_names(&ChatTemplate::load(at).unwrap_err(), name);
        std::fs::remove_file(at.join(name)).unwrap();
    }
}

/// A template that never ends, or writes without end, stops with an error in reasonable time and memory.
#[test]
fn templates_have_limits() {
    let messages = vec![json!({"role": "user", "content": "x".repeat(1000)})];
    let nested = (0..1000).fold(String::new(), |text, _| text + "[") + &"]".repeat(1000);
    for source in [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set ns = namespace(s='xx') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "{{ 'x' * 100000000000 }}",
        "{% for i in range(99999) %}{{ messages[0].content }}{% endfor %}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(300) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(l=1) %}{% for i in range(300) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l | tojson }}",
        "{{ messages | tojson(indent=1000000) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ strftime_now('%Q') }}",
        "{{ messages.nope.nope }}",
        nested.as_str(),
        "{{ namespace | tojson }}",
    ] {
        let request = ChatRequest { messages: messages.clone(), ..ChatRequest::default() };
        match ChatTemplate::from_source(source, &Map::new()).and_then(|template| template.render(&request)) {
            Ok(text) => assert_eq!(text, nested),
            Err(error) => assert_names(&error, "chat template"),
        }
    }
}

#[test]
fn a_request_cannot_hide_the_conversation() {
    let template = ChatTemplate::load(&dir()).unwrap().unwrap();
    let mut request = ChatRequest { messages: vec![json!({"role": "user", "content": "a"})], ..Default::default() };
    request.kwargs.insert("messages".to_owned(), json!([]));
    assert_names(&template.render(&request).unwrap_err(), "messages");
    request.kwargs.clear();
    for messages in [vec![], vec![json!(3)], vec![json!({})], vec![json!("text")]] {
        request.messages = messages;
        match template.render(&request) {
            Ok(text) => assert!(text.is_ascii()),
            Err(error) => assert!(!error.to_string().contains('\n')),
        }
    }
}
