//! Answers held to a form: whatever a model would rather say, what comes out fits.

#[path = "../../../tests/common/schemas.rs"]
mod schemas;

use outpour_text::{Answer, Calls, Dialect, Grammar, Grammars, Tokenizer, check_schema};
use serde_json::{Value, json};

/// A model that says anything: logits are noise.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// The text that noise says under a grammar, and whether it ended; eagerness to end what can be ended is 1 in `end`.
    fn say(&mut self, tokenizer: &Tokenizer, grammar: &mut Grammar, end: u32, tokens_max: usize) -> (String, bool) {
        let mut ids = Vec::new();
        for _ in 0..tokens_max {
            let mut logits: Vec<f32> = (0..tokenizer.vocab_size()).map(|_| (self.next() % 1000) as f32).collect();
            grammar.mask(&mut logits).expect("a mask");
            let likeliest = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).expect("tokens");
            assert!(logits[likeliest] > f32::NEG_INFINITY, "something can be said");
            let token = if logits[end as usize] > f32::NEG_INFINITY { end } else { likeliest as u32 };
            grammar.accept(token).expect("it was allowed");
            if token == end {
                return (tokenizer.decode(&ids), true);
            }
            ids.push(token);
        }
        (tokenizer.decode(&ids), false)
    }
}

fn tokenizer() -> (Tokenizer, u32) {
    let json = include_bytes!("../../../tests/fixtures/text/tokenizer.json");
    let tokenizer = Tokenizer::from_json(json, None).expect("the fixture");
    let end = tokenizer.token_id("<|im_end|>").expect("a token that ends answers");
    (tokenizer, end)
}

/// Those of bounded length, and numbers, which noise may write with many digits.
fn schemas() -> Vec<Value> {
    let number = json!({"type": "number", "minimum": 0, "maximum": 1});
    let list = json!({"type": "array", "items": number, "minItems": 1, "maxItems": 3});
    [schemas::bounded(), vec![number, list]].concat()
}

#[test]
fn noise_becomes_json_of_every_schema() {
    let (tokenizer, end) = tokenizer();
    let grammars = Grammars::new(&tokenizer, Dialect::Qwen, tokenizer.vocab_size(), &[end]).expect("grammars");
    let (schemas, mut noise, mut ended) = (schemas(), Noise(1), 0);
    assert!(schemas.len() >= 90, "{}", schemas.len());
    for schema in &schemas {
        let mut grammar = grammars.json(schema).unwrap_or_else(|problem| panic!("{schema}: {problem}"));
        let (text, done) = noise.say(&tokenizer, &mut grammar, end, 400);
        if done {
            ended += 1;
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{schema}: {text}: {error}"));
            check_schema(schema, &value).unwrap_or_else(|problem| panic!("{schema}: {text}: {problem}"));
        }
    }
    println!("{ended} of {} answers ended", schemas.len());
    assert!(ended * 100 >= schemas.len() * 99, "{ended} of {} ended", schemas.len());
}

#[test]
fn noise_becomes_calls_that_fit_their_tools() {
    let (tokenizer, end) = tokenizer();
    let grammars = Grammars::new(&tokenizer, Dialect::Qwen, tokenizer.vocab_size(), &[end]).expect("grammars");
    let tools = [
        json!({"type": "function", "function": {"name": "weather", "parameters": {
            "type": "object", "additionalProperties": false, "required": ["city", "days"],
            "properties": {
                "city": {"enum": ["Oslo", "Bergen"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9},
                "place": {"$ref": "#/$defs/place"},
            },
            "$defs": {"place": {"type": "object", "additionalProperties": false, "properties": {"x": {"type": "boolean"}}}},
        }}}),
        json!({"name": "now"}),
    ];
    // What of a template's text tells the ways of a dialect apart.
    let ways = [
        (Dialect::Qwen, ""),
        (Dialect::Qwen, "<function="),
        (Dialect::Glm, ""),
        (Dialect::DeepSeek, ""),
        (Dialect::DeepSeek, "```json"),
        (Dialect::Dsml, ""),
        (Dialect::Kimi, ""),
        (Dialect::MiniMax, ""),
        (Dialect::Mistral, ""),
        (Dialect::Mistral, "[ARGS]"),
        (Dialect::Llama, ""),
        (Dialect::Harmony, ""),
        (Dialect::Gemma, ""),
    ];
    let mut noise = Noise(2);
    for (dialect, template) in ways {
        let mut several = 0;
        for round in 0..80 {
            // Noise never chooses to end, so that of some calls there is no end: it ends what may end.
            let (tools_given, calls) = match round % 4 {
                0 => (&tools[..1], Calls::One),
                1 => (&tools[..1], Calls::Some),
                2 => (&tools[..1], Calls::MarkedOne),
                _ => (&tools[..1], Calls::Marked),
            };
            let mut grammar = grammars.calls(dialect, template, tools_given, calls).expect("a grammar");
            let (text, done) = noise.say(&tokenizer, &mut grammar, end, 700);
            // Of gpt-oss one mark begins thoughts, too; and of calls without end some are too long.
            let said = ["analysis", "final", "commentary"].iter().any(|c| text.ends_with(&format!("{c}<|message|>")));
            if dialect == Dialect::Harmony && (said || !done) || calls != Calls::One && !done {
                assert!(calls != Calls::One || text.contains("analysis"), "{dialect:?} {template}: {text}");
                continue;
            }
            assert!(done, "{dialect:?} {template}: {text}");
            let answer = Answer::parse(dialect, &text, false, &tools);
            assert_eq!(answer.content, "", "{dialect:?} {template} {text}: {:?}", answer.malformed);
            assert!(
                answer.calls.len() == 1 || !answer.calls.is_empty() && matches!(calls, Calls::Some | Calls::Marked),
                "{dialect:?}: {text}"
            );
            for call in &answer.calls {
                assert_eq!(call.check(&tools), Ok(()), "{dialect:?} {template}: {text}");
            }
            several += usize::from(round % 4 == 0);
        }
        assert!(several >= 5, "{dialect:?} {template}: {several} single calls were said");
        let nameless = [json!({"name": "no \"name\""})];
        assert!(grammars.calls(dialect, template, &nameless, Calls::One).is_err());
    }
    let nonsense = grammars.json(&json!({"type": "no such type"}));
    assert!(nonsense.is_err_and(|problem| problem.lines().count() == 1));
}

/// Gemma's values are held to their schema by rules of our own.
#[test]
fn noise_becomes_values_as_gemma_writes_them() {
    let (tokenizer, end) = tokenizer();
    let grammars = Grammars::new(&tokenizer, Dialect::Gemma, tokenizer.vocab_size(), &[end]).expect("grammars");
    let (mut noise, mut ended, mut all) = (Noise(3), 0, 0);
    let bounded = schemas().into_iter().filter(|schema| !schema.to_string().contains("pattern"));
    for (i, schema) in bounded.filter(|schema| !schema.to_string().contains("date")).enumerate() {
        let optional = json!({
            "type": "object", "additionalProperties": false, "required": if i % 2 == 0 { json!(["v"]) } else { json!([]) },
            "properties": {"v": schema, "w": {"type": "boolean"}, "a": {"type": "string", "minLength": 1, "maxLength": 9}},
            "$defs": schema.get("$defs").cloned().unwrap_or(json!({})),
        });
        let tools = [json!({"name": "tool", "parameters": optional})];
        let mut grammar =
            grammars.calls(Dialect::Gemma, "", &tools, Calls::One).unwrap_or_else(|p| panic!("{schema}: {p}"));
        let (text, done) = noise.say(&tokenizer, &mut grammar, end, 400);
        all += 1;
        if done {
            ended += 1;
            let answer = Answer::parse(Dialect::Gemma, &text, false, &tools);
            assert_eq!((answer.calls.len(), answer.content.as_str()), (1, ""), "{text}: {:?}", answer.malformed);
            assert_eq!(answer.calls[0].check(&tools), Ok(()), "{schema}: {text}");
        }
    }
    assert!(all >= 40 && ended * 100 >= all * 99, "{ended} of {all} ended");
    // What is not bounded is allowed all the same: any value, and a text up to its closing token.
    for (value, said) in [
        (json!({"type": "string"}), "<|\"|>a {b} < c<|\"|>"),
        (json!({}), "{x:[1,<|\"|>y<|\"|>,{}],z:true}"),
        (json!({"type": "array"}), "[null,-2.5]"),
    ] {
        let tools =
            [json!({"name": "tool", "parameters": {"type": "object", "properties": {"v": value}, "required": ["v"]}})];
        let mut grammar = grammars.calls(Dialect::Gemma, "", &tools, Calls::One).expect("a grammar");
        let text = format!("<|tool_call>call:tool{{v:{said}}}<tool_call|>");
        for token in tokenizer.encode(&text, true).expect("tokens") {
            grammar.accept(token).unwrap_or_else(|problem| panic!("{text}: {problem}"));
        }
        assert!(grammar.is_complete().expect("no trouble"), "{text}");
    }
}
