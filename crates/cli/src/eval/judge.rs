//! Whether an answer is what was expected of it.

use anyhow::{Context, Result, bail};
use outpour_text::{Answer, same_json};
use serde_json::{Map, Value, json};

/// What an answer must fulfil: all that is given here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expect {
    /// One of these, but for white space.
    text: Option<Vec<String>>,
    /// The last number said.
    number: Option<f64>,
    /// JSON of this value.
    json: Option<Value>,
    /// These calls of tools: names and arguments.
    calls: Option<Vec<(String, Value)>>,
    /// No call of a tool; so it is wherever none is expected, and this says nothing more.
    no_call: bool,
    /// Each of these, whatever its case.
    contains: Option<Vec<String>>,
    /// A list of so many items.
    items: Option<usize>,
}

/// What became of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// It is what was expected.
    pub right: bool,
    /// Of calls and JSON: it can be read, and calls fit the schemas of their tools.
    pub valid: Option<bool>,
    /// What is not right, or not valid.
    pub problem: Option<String>,
}

impl Expect {
    /// Reads what a line expects: conditions under `expect`, or the bare value under `expected`, which the kind explains.
    ///
    /// # Errors
    /// When it expects nothing, or something unknown.
    pub fn read(object: &Map<String, Value>, kind: Option<&str>) -> Result<Expect> {
        let mut expect = Expect::default();
        match (object.get("expect"), object.get("expected"), kind) {
            (None, Some(calls), Some("tool_call")) => expect.set("calls", calls)?,
            (None, Some(value), Some("json")) => expect.set("json", value)?,
            (Some(text @ Value::String(_)), None, _) | (None, Some(text), _) => expect.set("text", text)?,
            (Some(Value::Object(conditions)), None, _) => {
                conditions.iter().try_for_each(|(key, value)| expect.set(key, value))?;
            }
            (Some(_), Some(_), _) => bail!("has both `expect` and `expected`; give one"),
            _ => bail!("has no `expect`: a text, or an object of what the answer must fulfil"),
        }
        if expect == Expect::default() {
            bail!("has an empty `expect`: nothing could be wrong with an answer");
        }
        Ok(expect)
    }

    fn set(&mut self, key: &str, value: &Value) -> Result<()> {
        let texts = || -> Option<Vec<String>> {
            let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            list.iter().map(|text| text.as_str().map(str::to_owned)).collect()
        };
        let wrong = || format!("has `expect` with {key} {value}, which cannot be expected");
        match key {
            "text" => self.text = Some(texts().filter(|texts| !texts.is_empty()).with_context(wrong)?),
            "number" => self.number = Some(value.as_f64().with_context(wrong)?),
            "json" => self.json = Some(value.clone()),
            "calls" => self.calls = Some(calls(value).with_context(wrong)?),
            "no_call" => self.no_call = value.as_bool().with_context(wrong)?,
            "contains" | "story" => self.contains = Some(texts().with_context(wrong)?),
            "items" => self.items = Some(value.as_u64().with_context(wrong)? as usize),
            _ => bail!("has `expect` with {key:?}; known are text, number, json, calls, no_call, contains and items"),
        }
        Ok(())
    }

    /// What is expected, in a word.
    pub fn name(&self) -> &'static str {
        match self {
            Expect { calls: Some(_), .. } => "tool calls",
            Expect { json: Some(_), .. } => "json",
            Expect { number: Some(_), .. } => "numbers",
            _ => "texts",
        }
    }

    /// All of it, by which two expectations can be told apart.
    pub fn describe(&self) -> Value {
        json!([self.text, self.number, self.json, self.calls, self.no_call, self.contains, self.items])
    }

    /// Judges an answer. `tools` are those that it could call.
    pub fn judge(&self, answer: &Answer, tools: &[Value]) -> Verdict {
        let json = self.json.as_ref().map(|expected| (expected, read_json(&answer.content)));
        let valid = match (&self.calls, &json) {
            (Some(_), _) => Some(invalid_call(answer, tools)),
            (None, Some((_, read))) => Some(read.is_none().then(|| "the answer is no JSON".to_owned())),
            (None, None) => None,
        };
        let problem = valid.clone().flatten().or_else(|| self.wrong(answer, json));
        Verdict { right: problem.is_none(), valid: valid.map(|problem| problem.is_none()), problem }
    }

    /// The first thing that is not as expected.
    fn wrong(&self, answer: &Answer, json: Option<(&Value, Option<Value>)>) -> Option<String> {
        if answer.unfinished_reasoning {
            return Some("the thoughts have no end".to_owned());
        }
        if let Some(wrong) = self.wrong_call(answer) {
            return Some(wrong);
        }
        let said = normalised(&answer.content);
        if self.text.as_ref().is_some_and(|texts| texts.iter().all(|text| normalised(text) != said)) {
            return Some("the text is another one".to_owned());
        }
        if let Some(number) = self.number {
            match last_number(&answer.content) {
                None => return Some("there is no number".to_owned()),
                Some(said) if (said - number).abs() > 1e-9 * number.abs().max(1.0) => {
                    return Some(format!("the number is {said}, not {number}"));
                }
                Some(_) => {}
            }
        }
        if let Some((expected, Some(read))) =
            json.filter(|(expected, read)| !read.as_ref().is_some_and(|read| same_json(expected, read)))
        {
            return Some(format!("the JSON is {read}, not {expected}"));
        }
        let lower = said.to_lowercase();
        let missing = self.contains.iter().flatten().find(|text| !lower.contains(&normalised(text).to_lowercase()));
        if let Some(missing) = missing {
            return Some(format!("{missing:?} is missing"));
        }
        let count = self.items.map(|items| (items, count_items(&answer.content)));
        count
            .filter(|(items, count)| items != count)
            .map(|(items, count)| format!("there are {count} items, not {items}"))
    }

    fn wrong_call(&self, answer: &Answer) -> Option<String> {
        let expected = self.calls.as_deref().unwrap_or_default();
        if let Some(malformed) = answer.malformed.first() {
            return Some(malformed.clone());
        }
        if answer.calls.len() != expected.len() {
            return Some(format!("{} calls of tools, not {}", answer.calls.len(), expected.len()));
        }
        for (call, (name, arguments)) in answer.calls.iter().zip(expected) {
            if call.name != *name {
                return Some(format!("the tool is {}, not {name}", call.name));
            }
            let said = Value::Object(call.arguments.clone());
            if !same_json(&said, arguments) {
                return Some(format!("the arguments of {name} are {said}, not {arguments}"));
            }
        }
        None
    }
}

/// One call or several: `[name, arguments]` or `{"name", "arguments"}`.
fn calls(value: &Value) -> Option<Vec<(String, Value)>> {
    let one = |call: &Value| -> Option<(String, Value)> {
        let (name, arguments) = match call {
            Value::Array(pair) if pair.len() == 2 => (&pair[0], pair[1].clone()),
            Value::Object(call) => (call.get("name")?, call.get("arguments").cloned().unwrap_or(json!({}))),
            _ => return None,
        };
        arguments.is_object().then_some((name.as_str()?.to_owned(), arguments))
    };
    match value {
        Value::Array(list) if list.first().is_none_or(|first| !first.is_string()) => list.iter().map(one).collect(),
        call => one(call).map(|call| vec![call]),
    }
}

/// Why the calls of an answer cannot be made, if they cannot.
fn invalid_call(answer: &Answer, tools: &[Value]) -> Option<String> {
    if let Some(malformed) = answer.malformed.first() {
        return Some(malformed.clone());
    }
    if answer.calls.is_empty() {
        return Some("no tool is called".to_owned());
    }
    answer.calls.iter().find_map(|call| call.check(tools).err())
}

/// Without white space at the ends, and with one blank for each run of it.
fn normalised(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The answer as JSON, with or without the fences of Markdown.
fn read_json(content: &str) -> Option<Value> {
    let content = content.trim();
    let fenced = content.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    let inner = fenced.map(|inner| inner.trim_start_matches("json")).unwrap_or(content);
    serde_json::from_str(inner).ok()
}

/// The last number of a text, which may have commas between its thousands.
fn last_number(text: &str) -> Option<f64> {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let end = bytes.iter().rposition(u8::is_ascii_digit)? + 1;
    let mut start = end;
    while start > 0
        && (is_digit(start - 1) || (matches!(bytes[start - 1], b'.' | b',') && start > 1 && is_digit(start - 2)))
    {
        start -= 1;
    }
    let number = text[start..end].replace(',', "");
    let negative = start > 0
        && bytes[start - 1] == b'-'
        && (start == 1 || bytes[start - 2].is_ascii_whitespace() || matches!(bytes[start - 2], b'(' | b'='));
    let value: f64 = number.parse().ok()?;
    Some(if negative { -value } else { value })
}

/// How many items a list has: its lines with a number or a bullet, or what commas and "and" divide.
fn count_items(text: &str) -> usize {
    let is_item = |line: &&str| {
        let line = line.trim_start();
        let after_number = line.trim_start_matches(|c: char| c.is_ascii_digit());
        let numbered = after_number.len() < line.len() && after_number.starts_with(['.', ')']);
        numbered || ["- ", "* ", "• "].iter().any(|bullet| line.starts_with(bullet))
    };
    match text.lines().filter(is_item).count() {
        0 => text.replace(" and ", ", ").split([',', '\n']).filter(|item| !item.trim().is_empty()).count(),
        lines => lines,
    }
}

#[cfg(test)]
mod tests {
    use outpour_text::Dialect;

    use super::*;

    fn expect(conditions: Value) -> Expect {
        let line = json!({"expect": conditions});
        Expect::read(line.as_object().expect("an object"), None).expect("conditions")
    }

    fn judged(conditions: Value, answer: &str) -> Verdict {
        let tools =
            [json!({"name": "add", "parameters": {"properties": {"x": {"type": "integer"}}, "required": ["x"]}})];
        expect(conditions).judge(&Answer::parse(Dialect::Qwen, answer, false, &tools), &tools)
    }

    #[test]
    fn texts_numbers_and_json_are_compared_by_what_they_say() {
        for (conditions, right, wrong) in [
            (json!("4 apples"), " 4\n apples ", "four apples"),
            (json!({"text": ["yes", "Yes."]}), "Yes.", "no"),
            (json!({"number": 12}), "5 + 7 = 12.", "12 is 7 + 5"),
            (json!({"number": 1234.5}), "It is 1,234.5 metres.", "1,234.4"),
            (json!({"number": -3}), "4 - 7 = -3", "4-3"),
            (json!({"json": {"a": 1, "b": ["x"]}}), "```json\n{\"b\": [\"x\"], \"a\": 1.0}\n```", "{\"a\": 1}"),
            (
                json!({"contains": ["Fox"]}),
                "<think>\nA hare.\n</think>\nA fox ran.",
                "<think>\nA fox.\n</think>\nA hare.",
            ),
            (json!({"items": 3}), "1. a\n2. b\n3. c", "1. a\n2. b"),
            (json!({"items": 3}), "Apple, pear and plum.", "Apple and pear."),
            (json!({"items": 2}), "- a\n- b", "a"),
        ] {
            assert!(judged(conditions.clone(), right).right, "{conditions}: {right}");
            let verdict = judged(conditions.clone(), wrong);
            assert!(!verdict.right && verdict.problem.is_some(), "{conditions}: {wrong}");
        }
    }

    #[test]
    fn calls_are_valid_right_or_neither() {
        let call = |name: &str, x: &str| {
            format!("<tool_call>\n<function={name}>\n<parameter=x>\n{x}\n</parameter>\n</function>\n</tool_call>")
        };
        let conditions = json!({"calls": [["add", {"x": 3}]]});
        let verdict =
            |answer: &str| (judged(conditions.clone(), answer).valid, judged(conditions.clone(), answer).right);
        assert_eq!(verdict(&call("add", "3")), (Some(true), true));
        assert_eq!(verdict(&call("add", "4")), (Some(true), false));
        assert_eq!(verdict(&call("add", "three")), (Some(false), false));
        assert_eq!(verdict(&call("sub", "3")), (Some(false), false));
        assert_eq!(verdict(&(call("add", "3") + &call("add", "3"))), (Some(true), false));
        assert_eq!(verdict("It is 3."), (Some(false), false));
        assert!(!judged(json!({"text": "3"}), &(call("add", "3") + "3")).right, "a call that nobody expects");
        assert!(!judged(json!({"no_call": true}), "<tool_call>").right);
        assert!(judged(json!({"no_call": true}), "I cannot.").right);
    }

    #[test]
    fn bare_values_are_explained_by_the_kind() {
        let read = |line: Value| {
            let kind = line["kind"].as_str().map(str::to_owned);
            Expect::read(line.as_object().expect("an object"), kind.as_deref())
        };
        let call = json!({"name": "add", "arguments": {"x": 3}});
        let calls = expect(json!({"calls": [["add", {"x": 3}]]}));
        assert_eq!(read(json!({"kind": "tool_call", "expected": call})).ok(), Some(calls.clone()));
        assert_eq!(read(json!({"kind": "tool_call", "expected": [call]})).ok(), Some(calls));
        assert_eq!(
            read(json!({"kind": "json", "expected": {"text": 1}})).ok(),
            Some(expect(json!({"json": {"text": 1}})))
        );
        assert_eq!(read(json!({"expected": "yes"})).ok(), Some(expect(json!("yes"))));
        for line in [
            json!({}),
            json!({"expect": {}}),
            json!({"expect": 3}),
            json!({"expect": {"mood": "good"}}),
            json!({"expect": {"number": "3"}}),
            json!({"expect": {"calls": [["add"]]}}),
            json!({"expect": "a", "expected": "b"}),
            json!({"kind": "tool_call", "expected": "add"}),
        ] {
            assert!(read(line.clone()).is_err(), "{line}");
        }
    }
}
