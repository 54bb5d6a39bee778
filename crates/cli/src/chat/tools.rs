//! Tools: commands of this machine that the model may ask for, as a file describes them. A command is run as it stands there, with
//! arguments in the places kept for them, and never through a shell.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use outpour_store::read::whole::read_whole;
use outpour_text::ToolCall;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::term::turns;

/// Largest file of tools.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Longest name of a tool.
const NAME_CHARS_MAX: usize = 64;
/// How long a command may take, unless its file says otherwise.
const SECONDS_DEFAULT: f64 = 60.0;
/// How long any command may take.
const SECONDS_MAX: f64 = 86_400.0;

/// What a file of tools holds, as errors tell it.
const SHAPE: &str =
    r#"it holds {"tools": [{"name": "NAME", "description": "WHAT", "command": ["PROGRAM", "ARGUMENT"]}]}"#;

/// The tools of a file.
#[derive(Default)]
pub struct Tools(Vec<Tool>);

/// A tool.
struct Tool {
    name: String,
    /// As templates take it.
    schema: Value,
    /// The program, then its arguments.
    command: Vec<Vec<Part>>,
    stdin: bool,
    time_max: Duration,
}

/// A piece of an argument.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// What the model gives for this parameter.
    Parameter(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    tools: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    parameters: Map<String, Value>,
    command: Vec<String>,
    stdin: Option<Stdin>,
    timeout_s: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Stdin {
    Json,
}

/// A command that is ready to be run.
#[derive(Debug, PartialEq)]
pub struct Ready {
    /// The tool's name.
    pub name: String,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// What it reads on standard input.
    pub stdin: Option<String>,
    /// How long it may take.
    pub time_max: Duration,
}

impl Tools {
    /// Reads a file of tools.
    ///
    /// # Errors
    /// Names the file, the tool, and what is wrong with it.
    pub fn read(path: &Path) -> Result<Tools> {
        let shown = path.display();
        let bytes = read_whole(path, FILE_BYTES_MAX)
            .map_err(|error| anyhow!("--tools {error}; name a file of tools: {SHAPE}"))?;
        let file: File = serde_json::from_slice(&bytes)
            .map_err(|error| anyhow!("--tools {shown}: is no file of tools ({error}); {SHAPE}"))?;
        ensure!(!file.tools.is_empty(), "--tools {shown}: has no tools; {SHAPE}");
        let mut tools: Vec<Tool> = Vec::new();
        for entry in file.tools {
            let name = entry.name.clone();
            let tool = Tool::new(entry).with_context(|| format!("--tools {shown}: tool {name:?}"))?;
            ensure!(
                tools.iter().all(|other| other.name != name),
                "--tools {shown}: there are two tools {name:?}; rename one"
            );
            tools.push(tool);
        }
        Ok(Tools(tools))
    }

    /// As templates take them.
    pub fn schemas(&self) -> Vec<Value> {
        self.0.iter().map(|tool| tool.schema.clone()).collect()
    }

    /// Their names.
    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(|tool| tool.name.as_str()).collect()
    }

    /// The command that a call asks for.
    ///
    /// # Errors
    /// What is wrong with the call, in words for the model.
    pub fn ready(&self, call: &ToolCall) -> Result<Ready, String> {
        call.check(&self.schemas())?;
        let tool = self.0.iter().find(|tool| tool.name == call.name);
        let tool = tool.ok_or_else(|| format!("there is no tool {:?}", call.name))?;
        let argv = tool.command.iter().filter_map(|parts| filled(parts, &call.arguments)).collect::<Vec<String>>();
        if argv.iter().any(|argument| argument.contains('\0')) {
            return Err("an argument holds a NUL character, which no command takes".into());
        }
        let stdin = tool.stdin.then(|| Value::Object(call.arguments.clone()).to_string());
        Ok(Ready { name: tool.name.clone(), argv, stdin, time_max: tool.time_max })
    }
}

impl Tool {
    fn new(entry: Entry) -> Result<Tool> {
        let named = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        ensure!(
            (1..=NAME_CHARS_MAX).contains(&entry.name.len()) && entry.name.chars().all(named),
            "a name has 1 to {NAME_CHARS_MAX} letters, digits, _ and -"
        );
        let mut parameters = entry.parameters;
        parameters.entry("type").or_insert_with(|| "object".into());
        let properties = parameters.entry("properties").or_insert_with(|| json!({}));
        let Some(properties) = properties.as_object().cloned() else { bail!("properties is no JSON object") };
        ensure!(parameters["type"] == "object", "parameters must be of the type object");
        let command: Vec<Vec<Part>> = entry.command.iter().map(|text| parts(text)).collect::<Result<_>>()?;
        match command.first().map(Vec::as_slice) {
            Some([Part::Text(_)]) => {}
            Some(_) => bail!("its program {:?} is left to the model; write which one it is", entry.command[0]),
            None => bail!("command is empty; write a program and its arguments"),
        }
        for part in command.iter().flatten() {
            if let Part::Parameter(name) = part {
                let problem = "is none of the parameters; write {{ and }} for braces";
                ensure!(properties.contains_key(name), "{{{name}}} {problem}");
            }
        }
        let seconds = entry.timeout_s.unwrap_or(SECONDS_DEFAULT);
        ensure!(
            seconds > 0.0 && seconds <= SECONDS_MAX,
            "timeout_s {seconds} is not above 0 and at most {SECONDS_MAX}"
        );
        let function = json!({"name": entry.name, "description": entry.description, "parameters": parameters});
        Ok(Tool {
            name: entry.name,
            schema: json!({"type": "function", "function": function}),
            command,
            stdin: matches!(entry.stdin, Some(Stdin::Json)),
            time_max: Duration::from_secs_f64(seconds),
        })
    }
}

/// An argument as the file writes it: `{name}` is a parameter, `{{` and `}}` are braces.
fn parts(text: &str) -> Result<Vec<Part>> {
    let (mut parts, mut plain) = (Vec::new(), String::new());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        plain.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            plain.push_str(brace);
            rest = after;
        } else if let Some((name, after)) = rest.split_once('}').filter(|_| brace == "{") {
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Parameter(name.to_owned()));
            rest = after;
        } else {
            bail!("{text:?} has a brace without another; write {{{{ and }}}} for braces");
        }
    }
    plain.push_str(rest);
    if !plain.is_empty() || parts.is_empty() {
        parts.push(Part::Text(plain));
    }
    Ok(parts)
}

/// An argument with what the model gives; `None` where it gives nothing for a parameter in it.
fn filled(parts: &[Part], arguments: &Map<String, Value>) -> Option<String> {
    parts.iter().try_fold(String::new(), |text, part| match part {
        Part::Text(plain) => Some(text + plain),
        Part::Parameter(name) => match arguments.get(name)? {
            Value::Null => None,
            Value::String(value) => Some(text + value),
            value => Some(text + &value.to_string()),
        },
    })
}

impl Ready {
    /// The command as it could be typed into a shell: nothing in it is hidden, whatever its arguments hold.
    pub fn shown(&self) -> String {
        self.argv.iter().map(|argument| quoted(argument)).collect::<Vec<String>>().join(" ")
    }
}

fn quoted(argument: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    let odd = |c: char| c.is_control() || turns(c) || c.is_whitespace() && c != ' ';
    if !argument.is_empty() && argument.chars().all(safe) {
        argument.to_owned()
    } else if argument.chars().any(odd) {
        let escaped = argument.chars().map(|c| match c {
            '\n' => "\\n".to_owned(),
            '\t' => "\\t".to_owned(),
            '\\' | '\'' => format!("\\{c}"),
            c if odd(c) => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        });
        format!("$'{}'", escaped.collect::<String>())
    } else {
        format!("'{}'", argument.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &Value) -> Result<Tools> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), content.to_string()).expect("written");
        Tools::read(file.path())
    }

    fn weather() -> Value {
        json!({"tools": [{
            "name": "weather", "description": "The weather",
            "parameters": {"properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]},
            "command": ["curl", "-s", "https://wttr.in/{city}?days={days}", "--city={city}", "{{literal}}", "{city}"],
        }]})
    }

    fn call(arguments: &Value) -> ToolCall {
        ToolCall { name: "weather".into(), arguments: arguments.as_object().expect("an object").clone() }
    }

    #[test]
    fn arguments_go_where_the_file_says() {
        let tools = read(&weather()).expect("tools");
        let ready = tools.ready(&call(&json!({"city": "Paris; rm -rf $HOME", "days": 3}))).expect("it is ready");
        let expected = [
            "curl",
            "-s",
            "https://wttr.in/Paris; rm -rf $HOME?days=3",
            "--city=Paris; rm -rf $HOME",
            "{literal}",
            "Paris; rm -rf $HOME",
        ];
        assert_eq!(ready.argv, expected);
        assert_eq!(ready.stdin, None);
        assert_eq!(ready.time_max, Duration::from_secs(60));
        // An argument with a place for what is not given is left out.
        let ready = tools.ready(&call(&json!({"city": "Bern"}))).expect("it is ready");
        assert_eq!(ready.argv, ["curl", "-s", "--city=Bern", "{literal}", "Bern"]);
    }

    #[test]
    fn calls_that_do_not_fit_are_no_commands() {
        let tools = read(&weather()).expect("tools");
        for (arguments, says) in
            [(json!({}), "city"), (json!({"city": 3}), "city"), (json!({"city": "a\u{0}b"}), "NUL")]
        {
            let problem = tools.ready(&call(&arguments)).expect_err("it does not fit");
            assert!(problem.contains(says), "{problem}");
        }
        let other = ToolCall { name: "other".into(), arguments: Map::new() };
        assert!(tools.ready(&other).expect_err("there is none").contains("no tool"));
    }

    #[test]
    fn standard_input_gets_the_arguments_as_json() {
        let mut file = weather();
        file["tools"][0]["stdin"] = "json".into();
        file["tools"][0]["timeout_s"] = 1.5.into();
        // A tool may go without a description.
        file["tools"][0].as_object_mut().expect("a tool").remove("description");
        let ready = read(&file).expect("tools").ready(&call(&json!({"city": "\"é\""}))).expect("it is ready");
        assert_eq!(ready.stdin.as_deref(), Some(r#"{"city":"\"é\""}"#));
        assert_eq!(ready.time_max, Duration::from_millis(1500));
    }

    #[test]
    fn a_file_that_makes_no_sense_is_refused() {
        let with = |key: &str, value: Value| {
            let mut file = weather();
            file["tools"][0][key] = value;
            file
        };
        let mut twice = weather();
        twice["tools"] = json!([twice["tools"][0], twice["tools"][0]]);
        for (file, says) in [
            (json!([]), "no file of tools"),
            (json!([]), SHAPE),
            (json!({"tools": []}), "has no tools"),
            (with("name", json!("a b")), "letters"),
            (with("command", json!([])), "command is empty"),
            (with("command", json!("curl {city}")), "sequence"),
            (with("command", json!(["{city}"])), "left to the model"),
            (with("command", json!(["a", "{town}"])), "{town}"),
            (with("command", json!(["a", "{city"])), "brace"),
            (with("command", json!(["a", "city}"])), "brace"),
            (with("stdin", json!("yaml")), "yaml"),
            (with("timeout_s", json!(0)), "timeout_s"),
            (with("shell", json!(true)), "shell"),
            (with("parameters", json!({"type": "array"})), "type object"),
            (twice, "two tools"),
        ] {
            let error = read(&file).err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(error.contains("--tools") && error.contains(says), "{says}: {error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_said_with_what_to_write() {
        let error = Tools::read(Path::new("/no/such.json")).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(error.starts_with("--tools /no/such.json") && error.ends_with(SHAPE), "{error}");
    }

    #[test]
    fn what_is_run_is_shown_without_tricks() {
        let ready = |argv: &[&str]| Ready {
            name: "t".into(),
            argv: argv.iter().map(|&argument| argument.to_owned()).collect(),
            stdin: None,
            time_max: Duration::ZERO,
        };
        assert_eq!(ready(&["ls", "-l", "/tmp/a.b"]).shown(), "ls -l /tmp/a.b");
        assert_eq!(ready(&["echo", "", "a b", "it's", "$(reboot)"]).shown(), r"echo '' 'a b' 'it'\''s' '$(reboot)'");
        assert_eq!(ready(&["echo", "a\nb\u{1b}[2J\u{202e}"]).shown(), r"echo $'a\nb\u001b[2J\u202e'");
    }
}
