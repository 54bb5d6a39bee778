//! Answers taken apart: thoughts, content, calls in both dialects, and what is no call.

use outpour_text::{Answer, AnswerStream, Dialect, Piece, check_schema, ends_thinking, same_json};
use serde_json::{Value, json};

fn tools() -> Vec<Value> {
    let weather = json!({"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "warm": {"type": "boolean"},
        "above": {"type": "number"},
        "unit": {"enum": ["celsius", "fahrenheit", 7]},
        "places": {"type": "array", "items": {"type": "string"}},
        "options": {"type": "object", "additionalProperties": false, "properties": {"wind": {"type": "boolean"}}},
        "note": {"type": ["string", "null"]},
        "since": {"anyOf": [{"type": "integer"}, {"type": "null"}, {"type": "string"}]},
    }});
    vec![
        json!({"type": "function", "function": {"name": "weather", "parameters": weather}}),
        json!({"name": "now", "description": "no wrapper, no parameters"}),
    ]
}

fn parse(text: &str) -> Answer {
    parse_in(Dialect::Qwen, text)
}

/// Takes an answer apart, whole and in pieces.
fn parse_in(dialect: Dialect, text: &str) -> Answer {
    let whole = Answer::parse(dialect, text, false, &tools());
    for pieces in [1, 2, 3, 7] {
        let mut stream = AnswerStream::new(dialect, false, &tools());
        let (mut out, mut answer) = (Vec::new(), Answer::default());
        let chars: Vec<char> = text.chars().collect();
        chars.chunks(pieces).for_each(|piece| stream.push(&piece.iter().collect::<String>(), &mut out));
        stream.finish(&mut out);
        check_told(&out, text);
        out.into_iter().for_each(|piece| answer.add(piece));
        answer.unfinished_reasoning = stream.thinks();
        assert_eq!(answer, whole, "{text:?} in pieces of {pieces} characters");
    }
    whole
}

/// What is told of calls while they come is what they are: names in order, and arguments that are theirs put together.
fn check_told(pieces: &[Piece], text: &str) {
    let mut begun: Vec<(&str, String)> = Vec::new();
    for piece in pieces {
        match piece {
            Piece::CallBegins(name) => begun.push((name, String::new())),
            Piece::Arguments(more) => begun.last_mut().expect("a call has begun").1.push_str(more),
            Piece::Call(call) => {
                let (name, arguments) = begun.remove(0);
                let arguments: Value =
                    serde_json::from_str(&arguments).unwrap_or_else(|error| panic!("{text:?}: {arguments}: {error}"));
                assert_eq!((name, arguments), (call.name.as_str(), Value::Object(call.arguments.clone())), "{text:?}");
            }
            Piece::Malformed(_) => begun.clear(),
            Piece::Thought(_) | Piece::Text(_) => {}
        }
    }
    assert!(begun.is_empty(), "{text:?}: {begun:?} have begun and are neither calls nor malformed");
}

/// The arguments of the one call of an answer with nothing else.
fn arguments(text: &str) -> Value {
    let answer = parse(text);
    assert_eq!((answer.malformed.as_slice(), answer.calls.len()), (&[][..], 1), "{text}");
    Value::Object(answer.calls[0].arguments.clone())
}

/// A call in tags.
fn tagged(name: &str, parameters: &[(&str, &str)]) -> String {
    let parameters: String =
        parameters.iter().map(|(key, value)| format!("<parameter={key}>\n{value}\n</parameter>\n")).collect();
    format!("<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>")
}

#[test]
fn both_dialects_say_the_same() {
    let json = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": 3}}\n</tool_call>";
    let tags = tagged("weather", &[("city", "Oslo"), ("days", "3")]);
    assert_eq!(parse(json), parse(&tags));
    assert_eq!(arguments(json), json!({"city": "Oslo", "days": 3}));
    let tight = "<tool_call><function=weather><parameter=city>Oslo</parameter><parameter=days>3</parameter></function></tool_call>";
    assert_eq!(parse(tight), parse(json));
    assert_eq!(parse(json).calls[0].check(&tools()), Ok(()));
}

#[test]
fn content_thoughts_and_several_calls() {
    let call = tagged("now", &[]);
    let answer = parse(&format!("<think>\nWhich day?\n</think>\n\nLet me see.\n{call}\n{call}"));
    assert_eq!(answer.reasoning.as_deref(), Some("Which day?"));
    assert_eq!(answer.content, "Let me see.");
    assert_eq!(answer.calls.len(), 2);
    assert!(answer.calls.iter().all(|call| call.check(&tools()).is_ok()));

    let prompt = "<|im_start|>assistant\n<think>\n";
    let thinks = |prompt| ends_thinking(Dialect::Qwen, prompt);
    assert!(thinks(prompt) && !thinks("<think>\n\n</think>\n\n") && !thinks("hello"));
    let answer = Answer::parse(Dialect::Qwen, &format!("a call is {call}\n</think>\n\n4"), true, &tools());
    assert_eq!((answer.content.as_str(), answer.calls.len()), ("4", 0), "what is thought is not called");
    let answer = Answer::parse(Dialect::Qwen, "and so on", true, &[]);
    assert!(answer.unfinished_reasoning && answer.content.is_empty());
    assert_eq!(parse("<think>\n\n</think>\n\nyes"), Answer { content: "yes".into(), ..Answer::default() });
    assert_eq!(parse("about </think> tags").content, "about </think> tags");
}

#[test]
fn texts_take_the_types_of_the_schema() {
    for (key, text, value) in [
        ("city", "42", json!("42")),
        ("city", "true", json!("true")),
        ("days", "3", json!(3)),
        ("days", " 3 ", json!(3)),
        ("days", "three", json!("three")),
        ("days", "3.5", json!("3.5")),
        ("above", "-3.5", json!(-3.5)),
        ("above", "3", json!(3)),
        ("warm", "true", json!(true)),
        ("warm", "False", json!(false)),
        ("warm", "yes", json!("yes")),
        ("unit", "celsius", json!("celsius")),
        ("unit", "7", json!(7)),
        ("places", "[\"Oslo\", \"Bergen\"]", json!(["Oslo", "Bergen"])),
        ("places", "Oslo", json!("Oslo")),
        ("options", "{\"wind\": true}", json!({"wind": true})),
        ("note", "null", json!(null)),
        ("note", "12", json!("12")),
        ("since", "1990", json!(1990)),
        ("since", "None", json!(null)),
        ("since", "May", json!("May")),
        ("unknown", "12", json!("12")),
    ] {
        assert_eq!(arguments(&tagged("weather", &[(key, text)]))[key], value, "{key} {text}");
    }
    assert_eq!(arguments(&tagged("elsewhere", &[("n", "12")])), json!({"n": "12"}), "without a schema it is text");
    let json = "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": \"3\"}}</tool_call>";
    assert_eq!(arguments(json)["days"], json!("3"), "JSON has types, and they are the model's");
    let problem = parse(json).calls[0].check(&tools()).unwrap_err();
    assert!(problem.contains("days") && problem.contains("integer"), "{problem}");
}

#[test]
fn arguments_may_hold_tags_lines_and_any_character() {
    let code = "fn main() {\n    <b>\"größe\" 大 🌍</b>\n}\n";
    assert_eq!(arguments(&tagged("weather", &[("city", code)]))["city"], json!(code));
    let nested = "<parameter=x>\n1\n</parameter> and </tool_call> and </function>";
    assert_eq!(arguments(&tagged("weather", &[("city", nested), ("days", "1")]))["city"], json!(nested));
    assert_eq!(arguments(&tagged("weather", &[("city", "")]))["city"], json!(""));
    let json = json!({"name": "weather", "arguments": {"city": "</tool_call> \"大\"\n", "options": {"wind": true}}});
    let text = format!("<tool_call>\n{json}\n</tool_call>");
    assert_eq!(arguments(&text), json["arguments"]);
    let text = r#"<tool_call>{"name": "weather", "arguments": "{\"city\": \"Oslo\"}"}</tool_call>"#;
    assert_eq!(arguments(text), json!({"city": "Oslo"}), "arguments as a text of JSON");
    assert_eq!(arguments(r#"<tool_call>{"name": "now"}</tool_call>"#), json!({}));
}

#[test]
fn what_is_no_call_is_named_and_stays_in_the_content() {
    for (text, names) in [
        ("<tool_call>", "empty"),
        ("<tool_call>\n</tool_call>", "JSON"),
        ("<tool_call>{\"name\": \"now\"}", "</tool_call>"),
        ("<tool_call>{\"name\": \"now\", \"arguments\": {}</tool_call>", "JSON"),
        ("<tool_call>{\"arguments\": {}}</tool_call>", "name"),
        ("<tool_call>[]</tool_call>", "name"),
        ("<tool_call>{\"name\": \"now\", \"arguments\": [1]}</tool_call>", "arguments of now"),
        ("<tool_call>{\"name\": \"now\", \"arguments\": \"x\"}</tool_call>", "arguments of now"),
        ("<tool_call>{\"name\": \"now\"} more</tool_call>", "</tool_call>"),
        ("<tool_call><function=now", "<function="),
        ("<tool_call><function=></function></tool_call>", "no name"),
        ("<tool_call><function=now>text</function></tool_call>", "now"),
        ("<tool_call><function=now></function>", "</tool_call>"),
        ("<tool_call><function=now><parameter=a>1</function></tool_call>", "parameter a of now"),
        ("<tool_call><function=now><parameter=a>1</parameter>", "parameter a of now"),
        (
            "<tool_call><function=now><parameter=a>1</parameter><parameter=a>2</parameter></function></tool_call>",
            "a twice",
        ),
    ] {
        let answer = parse(text);
        assert!(answer.calls.is_empty(), "{text}");
        assert!(answer.malformed.len() == 1 && answer.malformed[0].contains(names), "{text}: {:?}", answer.malformed);
        assert_eq!(answer.content, text);
    }
    let answer = parse(&format!("<tool_call>{{ {}", tagged("now", &[])));
    assert_eq!((answer.malformed.len(), answer.calls.len()), (1, 1), "a good call after a bad one is read");
}

#[test]
fn calls_are_checked_against_their_tool() {
    let problem = |text: &str| parse(text).calls[0].check(&tools()).err();
    assert!(problem(&tagged("rain", &[])).is_some_and(|p| p.contains("rain")));
    assert!(problem(&tagged("weather", &[("days", "1")])).is_some_and(|p| p.contains("city: is missing")));
    assert!(problem(&tagged("weather", &[("city", "Oslo"), ("unit", "kelvin")])).is_some_and(|p| p.contains("unit")));
    let nested = tagged("weather", &[("city", "Oslo"), ("options", "{\"rain\": 1}")]);
    assert!(problem(&nested).is_some_and(|p| p.contains("options.rain")));
    let places = tagged("weather", &[("city", "Oslo"), ("places", "[\"a\", 2]")]);
    assert!(problem(&places).is_some_and(|p| p.contains("places[1]")));
}

#[test]
fn schemas_are_checked() {
    let recursive = json!({"$defs": {"tree": {"type": "object", "properties": {"left": {"$ref": "#/$defs/tree"}}}},
        "$ref": "#/$defs/tree"});
    for (schema, good, bad) in [
        (json!({"type": "integer"}), json!(2.0), json!(2.5)),
        (json!({"type": ["integer", "null"]}), json!(null), json!("x")),
        (json!({"minimum": 1, "maximum": 5}), json!(5), json!(6)),
        (json!({"minLength": 2}), json!("大大"), json!("大")),
        (json!({"const": 3}), json!(3.0), json!(4)),
        (json!({"enum": [1, "a", null]}), json!(1.0), json!("b")),
        (json!({"items": {"type": "integer"}, "minItems": 1}), json!([1]), json!([])),
        (json!({"allOf": [{"minimum": 1}, {"maximum": 2}]}), json!(2), json!(3)),
        (json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}), json!(1.5), json!(1)),
        (json!({"additionalProperties": {"type": "string"}}), json!({"a": "b"}), json!({"a": 1})),
        (json!({"properties": {"a": false}}), json!({"b": 1}), json!({"a": 1})),
        (recursive, json!({"left": {"left": {}}}), json!({"left": {"left": 1}})),
    ] {
        assert_eq!(check_schema(&schema, &good), Ok(()), "{schema} {good}");
        assert!(check_schema(&schema, &bad).is_err(), "{schema} {bad}");
    }
    assert_eq!(check_schema(&json!({"$ref": "#"}), &json!(1)), Ok(()), "a schema that is itself ends");
}

#[test]
fn values_are_compared_by_what_they_are_worth() {
    assert!(same_json(&json!({"a": 1, "b": [2.0]}), &json!({"b": [2], "a": 1.0})));
    for (a, b) in [(json!(1), json!("1")), (json!({"a": null}), json!({})), (json!([1, 2]), json!([2, 1]))] {
        assert!(!same_json(&a, &b), "{a} {b}");
    }
}

/// Two calls as each dialect writes them, with thoughts and words before.
const DIALECTS: [(Dialect, &str); 11] = [
    (
        Dialect::Glm,
        "<think>Oslo?</think>Let me see.\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n<tool_call>now</tool_call>",
    ),
    (
        Dialect::DeepSeek,
        "<think>Oslo?</think>Let me see.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": \"Oslo\", \"days\": 3}<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    (
        Dialect::DeepSeek,
        "<think>Oslo?</think>Let me see.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"city\": \"Oslo\", \"days\": 3}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    (
        Dialect::Dsml,
        "<think>Oslo?</think>Let me see.\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"weather\">\n<｜DSML｜parameter name=\"city\" string=\"true\">Oslo</｜DSML｜parameter>\n<｜DSML｜parameter name=\"days\" string=\"false\">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke name=\"now\">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
    ),
    (
        Dialect::Kimi,
        "<think>Oslo?</think>Let me see.<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{\"city\": \"Oslo\", \"days\": 3}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
    ),
    (
        Dialect::MiniMax,
        "<think>Oslo?</think>Let me see.\n<minimax:tool_call>\n<invoke name=\"weather\">\n<parameter name=\"city\">Oslo</parameter>\n<parameter name=\"days\">3</parameter>\n</invoke>\n<invoke name=\"now\">\n</invoke>\n</minimax:tool_call>",
    ),
    (
        Dialect::Mistral,
        "[THINK]Oslo?[/THINK]Let me see.[TOOL_CALLS][{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\", \"days\": 3}}, {\"name\": \"now\", \"arguments\": {}}]",
    ),
    (
        Dialect::Mistral,
        "[THINK]Oslo?[/THINK]Let me see.[TOOL_CALLS]weather[ARGS]{\"city\": \"Oslo\", \"days\": 3}[TOOL_CALLS]now[ARGS]{}",
    ),
    (
        Dialect::Llama,
        "<think>Oslo?</think>Let me see.<|python_tag|>{\"name\": \"weather\", \"parameters\": {\"city\": \"Oslo\", \"days\": 3}}; {\"name\": \"now\", \"parameters\": {}}",
    ),
    (
        Dialect::Harmony,
        "<|channel|>analysis<|message|>Oslo?<|end|><|start|>assistant<|channel|>commentary<|message|>Let me see.<|end|><|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{\"city\": \"Oslo\", \"days\": 3}<|call|><|start|>assistant<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}",
    ),
    (
        Dialect::Gemma,
        "<|channel>thought\nOslo?\n<channel|>Let me see.<|tool_call>call:weather{city:<|\"|>Oslo<|\"|>,days:3}<tool_call|><|tool_call>call:now{}<tool_call|>",
    ),
];

#[test]
fn every_dialect_says_the_same() {
    for (dialect, text) in DIALECTS {
        let answer = parse_in(dialect, text);
        assert_eq!(answer.reasoning.as_deref(), Some("Oslo?"), "{dialect:?}");
        assert_eq!(answer.content, "Let me see.", "{dialect:?}");
        assert_eq!(answer.malformed, [""; 0], "{dialect:?}");
        let calls: Vec<(&str, Value)> =
            answer.calls.iter().map(|call| (call.name.as_str(), Value::Object(call.arguments.clone()))).collect();
        assert_eq!(calls, [("weather", json!({"city": "Oslo", "days": 3})), ("now", json!({}))], "{dialect:?}");
        // Cut anywhere, it says nothing that is not there, and what it cannot read is content.
        for cut in (0..text.len()).filter(|&cut| text.is_char_boundary(cut)) {
            let part = parse_in(dialect, &text[..cut]);
            assert!(
                part.calls.len() <= 2 && part.calls.iter().all(|call| call.check(&tools()).is_ok()),
                "{dialect:?} cut at {cut}"
            );
        }
    }
}

#[test]
fn arguments_are_told_before_a_call_is_whole() {
    for (dialect, text) in DIALECTS {
        // A long city, of which only some has come.
        let long = "Oslo by the fjord, ".repeat(20);
        let upto = text.find("Oslo\"").or(text.find("Oslo<")).expect("a city");
        let mut stream = AnswerStream::new(dialect, false, &tools());
        let mut out = Vec::new();
        stream.push(&format!("{}{long}", &text[..upto]), &mut out);
        let begun = out.iter().any(|piece| *piece == Piece::CallBegins("weather".into()));
        let told: String = out
            .iter()
            .filter_map(|piece| if let Piece::Arguments(more) = piece { Some(more.as_str()) } else { None })
            .collect();
        assert!(begun && told.contains(&long[..long.len() - 30]), "{dialect:?}: {told:?}");
        assert!(told.starts_with("{\"city\""), "{dialect:?}: {told}");
        assert!(!out.iter().any(|piece| matches!(piece, Piece::Call(_))), "{dialect:?}");
    }
    // Names behind arguments are told when all is there.
    let turned = "<tool_call>{\"arguments\": {\"city\": \"Oslo\"}, \"name\": \"weather\"}</tool_call>";
    assert_eq!(parse(turned).calls.len(), 1);
    // A tool of Llama's that there is not is content, and nothing of it a call.
    let mut out = Vec::new();
    AnswerStream::new(Dialect::Llama, false, &tools()).push("{\"name\": \"rain\", \"parameters\": {\"a\": 1", &mut out);
    assert_eq!(out, []);
}

#[test]
fn gemma_writes_values_of_every_kind() {
    let text = "<|tool_call>call:weather{city:<|\"|>{a:1, \"b\"} <tool_call|> \n大<|\"|>,options:{wind:true,<|\"|>a key<|\"|>:null},places:[<|\"|>Oslo<|\"|>,<|\"|><|\"|>], above : -1.5e3,note:None}<tool_call|>";
    let answer = parse_in(Dialect::Gemma, text);
    assert_eq!((answer.malformed.as_slice(), answer.calls.len()), (&[][..], 1));
    let expected = json!({
        "city": "{a:1, \"b\"} <tool_call|> \n大", "options": {"wind": true, "a key": null}, "places": ["Oslo", ""], "above": -1.5e3,
        "note": null,
    });
    assert_eq!(Value::Object(answer.calls[0].arguments.clone()), expected);
    for wrong in [
        "<|tool_call>weather{}<tool_call|>",
        "<|tool_call>call:{}<tool_call|>",
        "<|tool_call>call:now{a}<tool_call|>",
        "<|tool_call>call:now{a:b}<tool_call|>",
        "<|tool_call>call:now{a:[1}<tool_call|>",
        "<|tool_call>call:now{}",
    ] {
        let answer = parse_in(Dialect::Gemma, wrong);
        assert_eq!((answer.calls.len(), answer.malformed.len(), answer.content.as_str()), (0, 1, wrong));
    }
}

#[test]
fn dialects_are_told_by_their_templates() {
    for (source, dialect) in [
        ("<tool_call>\n<function=", Dialect::Qwen),
        ("<tool_call>{name}<arg_key>", Dialect::Glm),
        ("{{'<｜tool▁calls▁begin｜>'}}", Dialect::DeepSeek),
        ("<｜DSML｜invoke", Dialect::Dsml),
        ("<|tool_calls_section_begin|>", Dialect::Kimi),
        ("<minimax:tool_call>", Dialect::MiniMax),
        ("[TOOL_CALLS]", Dialect::Mistral),
        ("<|python_tag|>", Dialect::Llama),
        ("<|start|>assistant<|channel|>final", Dialect::Harmony),
        ("{{ '<|tool_call>call:' ~ name ~ '{' }}", Dialect::Gemma),
        ("nothing of tools", Dialect::Qwen),
    ] {
        assert_eq!(Dialect::of_template(source), dialect, "{source}");
    }
    let content = "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>";
    let answer = parse_in(Dialect::Harmony, content);
    assert_eq!((answer.content.as_str(), answer.reasoning.as_deref()), ("Yes.", Some("a")));
    let json = "{\"name\": \"Oslo\", \"size\": 3}";
    assert_eq!(parse_in(Dialect::Llama, json).content, json, "an object that names no tool is content");
}
