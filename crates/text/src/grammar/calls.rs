//! Grammars of calls of tools, as each dialect writes them. What they allow the dialect's reader takes apart (`dialects`).

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::braces::Braces;
use super::{SPACE, literal, spaced};
use crate::dialects::Dialect;
use crate::tool_calls::resolve;

/// How many calls a grammar allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// Exactly one.
    One,
    /// One or more.
    Some,
    /// What follows one mark of the dialect: see [`Dialect::call_mark`].
    Marked,
    /// The same, but one call even where the mark begins a block of them.
    MarkedOne,
}

/// How a dialect writes calls around the arguments.
struct Form {
    /// Before all calls and behind them: of dialects that write calls as a block.
    block: Option<(&'static str, &'static str)>,
    /// Between calls, where there may be several outside a block; `None` where there may not.
    between: Option<&'static str>,
    /// What may come before, as a rule.
    before: Option<&'static str>,
    arguments: Arguments,
}

enum Arguments {
    /// JSON between two texts, of which the first has the name in the place of `{}`, and a number in that of `#`.
    Json(&'static str, &'static str),
    /// An argument at a time.
    Tagged(Tags),
    /// As Gemma does, between two texts, of which the first has the name in the place of `{}`.
    Braces(&'static str, &'static str),
}

/// Texts around a call and each of its arguments: `{}` is the name.
struct Tags {
    begin: &'static str,
    end: &'static str,
    /// Before the value of an argument that is a text, and of one that is JSON.
    text: &'static str,
    json: &'static str,
    value_end: &'static str,
}

/// White space that may stand between calls.
const LOOSE: &str = "SPACE?";

/// The form that a template with this text teaches.
fn form(dialect: Dialect, template: &str) -> Form {
    let plain = |arguments| Form { block: None, between: Some(LOOSE), before: None, arguments };
    let block = |open, close, arguments| Form { block: Some((open, close)), ..plain(arguments) };
    let tags = |begin, end, text, json, value_end| Arguments::Tagged(Tags { begin, end, text, json, value_end });
    match dialect {
        Dialect::Qwen if template.contains("<function=") => plain(tags(
            "<tool_call>\n<function={}>\n",
            "</function>\n</tool_call>",
            "<parameter={}>\n",
            "<parameter={}>\n",
            "\n</parameter>\n",
        )),
        Dialect::Qwen => plain(Arguments::Json("<tool_call>\n{\"name\": \"{}\", \"arguments\": ", "}\n</tool_call>")),
        Dialect::Glm => {
            let key = "<arg_key>{}</arg_key>\n<arg_value>";
            plain(tags("<tool_call>{}\n", "</tool_call>", key, key, "</arg_value>\n"))
        }
        Dialect::DeepSeek => {
            let (open, close) = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>");
            // V3 and R1 write what kind of tool it is, and a fence; V3.1 neither.
            let arguments = match template.contains("```json") {
                true => Arguments::Json(
                    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}\n```json\n",
                    "\n```<｜tool▁call▁end｜>",
                ),
                false => Arguments::Json("<｜tool▁call▁begin｜>{}<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
            };
            block(open, close, arguments)
        }
        Dialect::Dsml => block(
            "<｜DSML｜function_calls>\n",
            "</｜DSML｜function_calls>",
            tags(
                "<｜DSML｜invoke name=\"{}\">\n",
                "</｜DSML｜invoke>\n",
                "<｜DSML｜parameter name=\"{}\" string=\"true\">",
                "<｜DSML｜parameter name=\"{}\" string=\"false\">",
                "</｜DSML｜parameter>\n",
            ),
        ),
        Dialect::MiniMax => {
            let parameter = "<parameter name=\"{}\">";
            let arguments = tags("<invoke name=\"{}\">\n", "</invoke>\n", parameter, parameter, "</parameter>\n");
            block("<minimax:tool_call>\n", "</minimax:tool_call>", arguments)
        }
        Dialect::Kimi => block(
            "<|tool_calls_section_begin|>",
            "<|tool_calls_section_end|>",
            Arguments::Json("<|tool_call_begin|>functions.{}:#<|tool_call_argument_begin|>", "<|tool_call_end|>"),
        ),
        Dialect::Mistral if template.contains("[ARGS]") => plain(Arguments::Json("[TOOL_CALLS]{}[ARGS]", "")),
        Dialect::Mistral => Form {
            between: Some("\", \""),
            ..block("[TOOL_CALLS][", "]", Arguments::Json("{\"name\": \"{}\", \"arguments\": ", "}"))
        },
        Dialect::Llama => {
            Form { between: Some("\"; \""), ..plain(Arguments::Json("{\"name\": \"{}\", \"parameters\": ", "}")) }
        }
        Dialect::Gemma => plain(Arguments::Braces("<|tool_call>call:{}", "<tool_call|>")),
        // The token that ends a call ends the answer.
        Dialect::Harmony => Form {
            between: None,
            before: Some("thoughts"),
            ..plain(Arguments::Json("<|channel|>commentary to=functions.{} <|constrain|>json<|message|>", ""))
        },
    }
}

/// The grammar of calls of `tools`.
///
/// # Errors
/// When a tool has no name, or a name that the dialect cannot write.
pub(super) fn grammar(dialect: Dialect, template: &str, tools: &[Value], calls: Calls) -> Result<String, String> {
    let form = form(dialect, template);
    let mut lark = String::new();
    let numbers = 0..tools.len();
    let _ = writeln!(lark, "call: {}", numbers.map(|i| format!("call_{i}")).collect::<Vec<String>>().join(" | "));
    for (i, tool) in tools.iter().enumerate() {
        call(&mut lark, &form, i, tool)?;
    }
    let marked = matches!(calls, Calls::Marked | Calls::MarkedOne);
    let several = match (&form, calls) {
        (Form { between: Some(between), .. }, Calls::Some) => format!(" ({between} call)*"),
        // What one mark begins is a whole block, or a single call.
        (Form { between: Some(between), block: Some(_), .. }, Calls::Marked) => format!(" ({between} call)*"),
        _ => String::new(),
    };
    let body = match form.block {
        Some((open, close)) => format!("{} call{several} {}", literal(open), literal(close)),
        None => format!("call{several}"),
    };
    let start = match form.before {
        Some(_) if marked => format!("{body} | said"),
        None if marked && dialect == Dialect::Llama => format!("{} {body}", literal(dialect.call_mark())),
        Some(before) => format!("{before}? {body}"),
        None => format!("SPACE? {body}"),
    };
    if form.before.is_some() {
        let thoughts = ["<|channel|>analysis<|message|>", "<|end|><|start|>assistant"].map(literal);
        let _ = writeln!(lark, "thoughts: {} thought\nthought[suffix={}]: /(?s:.*)/", thoughts[0], thoughts[1]);
        let said =
            ["analysis", "final", "commentary"].map(|channel| literal(&format!("<|channel|>{channel}<|message|>")));
        let _ = writeln!(lark, "said: {}", said.join(" | "));
    }
    Ok(format!("start: {start}\nSPACE: /{SPACE}/\nNUMBER: /[0-9]{{1,3}}/\n{lark}"))
}

fn call(lark: &mut String, form: &Form, i: usize, tool: &Value) -> Result<(), String> {
    let function = tool.get("function").unwrap_or(tool);
    let name = function.get("name").and_then(Value::as_str).ok_or("a tool has no name")?;
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || "\"\\<>{}[]".contains(c)) {
        return Err(format!("a call of a tool with the name {name:?} cannot be held to a form: rename it"));
    }
    let any = json!({"type": "object"});
    let schema = function.get("parameters").filter(|schema| !schema.is_null()).unwrap_or(&any);
    match &form.arguments {
        Arguments::Json(begin, end) => {
            // A number that the model chooses stands between two parts.
            let parts: Vec<String> = begin.split('#').map(|part| literal(&part.replace("{}", name))).collect();
            let begin = parts.join(" NUMBER ");
            let end = if end.is_empty() { String::new() } else { literal(end) };
            let _ = writeln!(lark, "call_{i}: {begin} arguments_{i} {end}");
            let _ = writeln!(lark, "arguments_{i}: %json {}", spaced(schema));
        }
        Arguments::Tagged(tags) => tagged_call(lark, tags, i, name, schema),
        Arguments::Braces(begin, end) => {
            let mut rules = String::new();
            let arguments = Braces::new(&mut rules, schema, format!("value_{i}")).arguments()?;
            let begin = literal(&begin.replace("{}", name));
            let _ = writeln!(lark, "call_{i}: {begin} {arguments} {}", literal(end));
            lark.push_str(&rules);
        }
    }
    Ok(())
}

/// A call with its arguments in the order of the schema.
fn tagged_call(lark: &mut String, tags: &Tags, i: usize, name: &str, schema: &Value) {
    let none = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let mut call = format!("call_{i}: {}", literal(&tags.begin.replace("{}", name)));
    let mut rules = String::new();
    for (k, (key, property)) in properties.iter().enumerate() {
        let optional = if required.contains(&key.as_str()) { "" } else { "?" };
        let _ = write!(call, " parameter_{i}_{k}{optional}");
        parameter(&mut rules, tags, &format!("{i}_{k}"), key, (property, schema));
    }
    let _ = writeln!(lark, "{call} {}", literal(tags.end));
    lark.push_str(&rules);
}

/// An argument: what may be a text is any text, everything else JSON.
fn parameter(rules: &mut String, tags: &Tags, id: &str, key: &str, (property, root): (&Value, &Value)) {
    let property = resolve(property, root);
    let constant = property.get("const").map(std::slice::from_ref);
    let choices = constant.or(property.get("enum").and_then(Value::as_array).map(Vec::as_slice));
    let end = literal(tags.value_end);
    let [text, json] = [tags.text, tags.json].map(|begin| literal(&begin.replace("{}", key)));
    let _ = match choices.filter(|choices| !choices.is_empty()) {
        Some(choices) => {
            let written = |choice: &Value| match choice.as_str() {
                Some(choice) => format!("{text} {}", literal(choice)),
                None => format!("{json} {}", literal(&choice.to_string())),
            };
            let choices: Vec<String> = choices.iter().map(written).collect();
            writeln!(rules, "parameter_{id}: ({}) {end}", choices.join(" | "))
        }
        None if may_be_text(property, root) => {
            writeln!(rules, "parameter_{id}: {text} value_{id}\nvalue_{id}[suffix={end}]: /(?s:.*)/")
        }
        None => {
            let mut property = spaced(property);
            // What a reference means stands at the root.
            for key in ["$defs", "definitions"] {
                if let (Some(map), Some(defs)) = (property.as_object_mut(), root.get(key)) {
                    map.entry(key).or_insert_with(|| defs.clone());
                }
            }
            writeln!(rules, "parameter_{id}: {json} value_{id} {end}\nvalue_{id}: %json {property}")
        }
    };
}

fn may_be_text(schema: &Value, root: &Value) -> bool {
    let schema = resolve(schema, root);
    let parts =
        ["anyOf", "oneOf", "allOf"].iter().filter_map(|key| schema.get(*key).and_then(Value::as_array)).flatten();
    match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "string"),
        Some(kind) => kind == "string",
        None => {
            let mut parts = parts.peekable();
            parts.peek().is_none() || parts.any(|part| may_be_text(part, root))
        }
    }
}
