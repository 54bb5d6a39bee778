//! `chat` as a person uses it, in a terminal and in a pipe, with the built-in model.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::tmux::Terminal;
use serde_json::{Value, json};
use tempfile::TempDir;

const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/cache");
const PROGRAM: &str = env!("CARGO_BIN_EXE_outpour");
/// Part of the line after each answer.
const COSTS: &str = " · prompt ";

/// `outpour chat demo` in a terminal, in a folder of its own, ready for the first message.
fn open(folder: &TempDir, args: &str) -> Option<Terminal> {
    open_as(folder, "", args)
}

/// The same with further variables of the environment.
fn open_as(folder: &TempDir, variables: &str, args: &str) -> Option<Terminal> {
    let dir = folder.path().display();
    let command =
        format!("XDG_CACHE_HOME={CACHE} XDG_STATE_HOME={dir}/state {variables} {PROGRAM} chat demo --ram 200M {args}");
    let terminal = Terminal::run(&command, folder.path())?;
    terminal.waits_for("/help lists commands", 1);
    Some(terminal)
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn messages(path: &Path) -> Vec<Value> {
    let file: Value = serde_json::from_slice(&fs::read(path).expect("the file")).expect("JSON");
    file["messages"].as_array().expect("messages").clone()
}

/// `outpour ARGS` with lines on standard input.
fn piped(args: &[&str], lines: &str, folder: &Path) -> Output {
    let mut child = Command::new(PROGRAM)
        .args(args)
        .env("XDG_CACHE_HOME", CACHE)
        // Where line editors are asked even if nobody types.
        .env("TERM", "dumb")
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("it is read");
    child.wait_with_output().expect("it ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_conversation_with_its_commands() {
    let folder = folder();
    let Some(terminal) = open(&folder, "--temperature 0") else { return };
    terminal.enters("What is 12 + 30?");
    let screen = terminal.waits_for(COSTS, 1);
    assert!(screen.contains("42") && screen.contains("tok/s"), "{screen}");
    // The thoughts before it are dimmed.
    assert!(terminal.styled().contains("\u{1b}[2m"), "{}", terminal.styled());

    // Three ways to write several rows.
    terminal.enters("\"\"\"What is");
    terminal.enters("10 + 5?\"\"\"");
    terminal.waits_for(COSTS, 2);
    terminal.enters("What is\\");
    terminal.enters("21 + 4?");
    terminal.waits_for(COSTS, 3);
    // Before the line editor is there, the terminal does not mark what is pasted.
    terminal.waits("the next prompt", |screen| screen.trim_end().ends_with("\n>"));
    terminal.pastes("What is\n31 + 6\\\n?");
    terminal.waits_for("31 + 6", 1);
    terminal.presses("Enter");
    terminal.waits_for(COSTS, 4);
    let file = folder.path().join("talk.json");
    terminal.enters("/save talk.json");
    terminal.waits_for("Saved to talk.json", 1);
    let asked = |path: &Path| -> Vec<String> {
        let said = messages(path).into_iter().filter(|message| message["role"] == "user");
        said.map(|message| message["content"].as_str().expect("text").to_owned()).collect()
    };
    assert_eq!(asked(&file), ["What is 12 + 30?", "What is\n10 + 5?", "What is\n21 + 4?", "What is\n31 + 6\\\n?"]);
    assert_eq!(messages(&file).len(), 8);

    terminal.enters("/retry");
    terminal.waits_for(COSTS, 5);
    assert_eq!(messages(&file).len(), 8, "an answer took the place of the last one");
    terminal.enters("/undo");
    terminal.waits_for("Taken back: What is", 1);
    terminal.enters("/undo");
    terminal.waits_for("Taken back: What is", 2);
    terminal.enters("/save");
    terminal.waits_for("Saved to talk.json", 2);
    assert_eq!(asked(&file), ["What is 12 + 30?", "What is\n10 + 5?"]);

    terminal.enters("/clear");
    terminal.waits_for("A new conversation.", 1);
    terminal.enters("/load talk.json");
    terminal.waits_for("it has 4 messages", 1);
    terminal.enters("What is 40 + 8?");
    terminal.waits_for(COSTS, 6);
    assert_eq!(messages(&file).len(), 6, "a conversation that has a file is written after each answer");
    terminal.enters("/clear");
    terminal.enters("/load talk.json");
    terminal.enters("What is 20 + 1?");
    let screen = terminal.waits_for(COSTS, 7);
    // What was computed of it lies beside the file.
    let costs = screen.lines().rfind(|line| line.contains(COSTS)).expect("the line");
    assert!(costs.contains(" kept · "), "{costs}");

    terminal.enters("/system Be brief.");
    terminal.enters("/system");
    terminal.waits_for("\nBe brief.", 1);
    terminal.enters("/think off");
    terminal.enters("What is 50 + 7?");
    terminal.waits_for(COSTS, 8);
    terminal.enters("/save");
    terminal.waits_for("Saved to talk.json", 3);
    let all = messages(&file);
    assert_eq!(all[0], json!({"role": "system", "content": "Be brief."}));
    assert!(all[2].get("reasoning_content").is_some(), "{:#}", all[2]);
    assert!(all[10].get("reasoning_content").is_none(), "it was told not to think: {:#}", all[10]);
    terminal.enters("/stats");
    terminal.waits_for("generated tokens (the model ended)", 1);
    terminal.enters("/nosuch");
    terminal.waits_for("there is no command /nosuch", 1);
    terminal.enters("/load nosuch.json");
    terminal.waits_for("outpour: nosuch.json", 1);
    terminal.enters("/help");
    terminal.waits_for("/retry", 2);
    terminal.enters("/quit");
    terminal.waits_for("ended: 0", 1);

    // The next one knows what was typed, and nobody else does.
    let history = folder.path().join("state/outpour/chat_history");
    assert_eq!(fs::metadata(&history).expect("the history").permissions().mode() & 0o777, 0o600);
    let Some(terminal) = open(&folder, "--session talk.json") else { return };
    terminal.waits_for("it has 11 messages", 1);
    terminal.presses("Up");
    terminal.waits_for("> /quit", 1);
}

/// Such an answer has no end, and the plain code takes minutes to the end of the context.
const ENDLESS: &str = "--backend reference --logit-bias 4087:-100 --logit-bias 4089:-100 --session talk.json";

#[test]
fn ctrl_c_stops_an_answer_and_not_the_program() {
    let folder = folder();
    let Some(terminal) = open(&folder, ENDLESS) else { return };
    // A prompt that is stopped was not said.
    terminal.enters(&"very long ".repeat(200));
    terminal.waits_for("prompt [", 1);
    terminal.presses("C-c");
    terminal.waits_for("Nothing was said", 1);
    terminal.enters("Tell me a story about a fox.");
    // It is shown while it comes.
    let said = |screen: &str| screen.split_once("about a fox.\n").map_or(0, |(_, said)| said.trim().len());
    terminal.waits("some of the story", |screen| !screen.contains("prompt [") && said(screen) > 40);
    terminal.presses("C-c");
    let screen = terminal.waits_for(COSTS, 2);
    assert!(screen.contains("interrupted"), "{screen}");
    let file = folder.path().join("talk.json");
    assert_eq!(messages(&file).len(), 2, "what was said is kept");

    // At the prompt it takes back the line; twice it ends the program, and so does Ctrl-D.
    terminal.types("half a line");
    terminal.presses("C-c");
    terminal.waits_for("Ctrl-C again", 1);
    terminal.types("another");
    terminal.presses("C-c");
    terminal.waits_for("Ctrl-C again", 2);
    terminal.enters("/undo");
    terminal.waits_for("Taken back: Tell me a story", 1);
    terminal.presses("C-c");
    terminal.waits_for("Ctrl-C again", 3);
    terminal.presses("C-c");
    terminal.waits_for("ended: 0", 1);
    assert_eq!(messages(&file).len(), 0);
}

/// Where no line editor reads Ctrl-C as a key.
#[test]
fn on_a_plain_terminal_ctrl_c_is_the_same() {
    let folder = folder();
    let Some(terminal) = open_as(&folder, "TERM=dumb", ENDLESS) else { return };
    for answers in 1..=2 {
        terminal.enters("Tell me a story about a fox.");
        let said = |screen: &str| screen.rsplit_once("about a fox.\n").map_or(0, |(_, said)| said.trim().len());
        terminal.waits("some of the story", |screen| said(screen) > 40);
        terminal.presses("C-c");
        terminal.waits_for(COSTS, answers);
    }
    assert_eq!(messages(&folder.path().join("talk.json")).len(), 4, "what was said is kept");
    terminal.presses("C-c");
    terminal.waits_for("Ctrl-C again", 1);
    // A line in between, and it takes two again.
    terminal.enters("/undo");
    terminal.waits_for("Taken back: Tell me a story", 1);
    terminal.presses("C-c");
    let screen = terminal.waits_for("Ctrl-C again", 2);
    assert!(!screen.contains("ended: "), "{screen}");
    terminal.presses("C-c");
    terminal.waits_for("ended: 130", 1);
}

/// Lines of another program: the next one is answered, and two answers that are stopped in a row end it.
#[test]
fn in_a_pipe_ctrl_c_stops_an_answer_and_twice_the_program() {
    for (lines, code) in [(1, 0), (2, 130)] {
        let folder = folder();
        let mut child = Command::new(PROGRAM)
            .args(["chat", "demo", "--ram", "200M"])
            .args(ENDLESS.split(' '))
            .env("XDG_CACHE_HOME", CACHE)
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let mut stdout = child.stdout.take().expect("a pipe");
        for _ in 0..lines {
            stdin.write_all(b"Tell me a story about a fox.\n").expect("it is read");
            // Of each answer, a beginning; the end of what was stopped before may be read with it.
            let mut said = [0; 60];
            stdout.read_exact(&mut said).expect("an answer");
            let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
            assert!(killed.success());
        }
        drop(stdin);
        let reading = std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        let ran = child.wait_with_output().expect("it ends");
        reading.join().expect("no panic").expect("read");
        let stderr = text(&ran.stderr);
        assert_eq!(ran.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains("Ctrl-C again ends"), "{stderr}");
        assert_eq!(messages(&folder.path().join("talk.json")).len(), 2 * lines, "{stderr}");
    }
}

#[test]
fn a_signal_ends_the_program_and_leaves_the_terminal_as_it_was() {
    let folder = folder();
    let Some(terminal) = open(&folder, "") else { return };
    terminal.types("half a line");
    terminal.waits_for("half a line", 1);
    let killed = Command::new("kill").args(["-TERM", &terminal.child()]).status().expect("kill");
    assert!(killed.success());
    terminal.waits_for("ended: 143", 1);
    // `cat` runs now: what is typed is shown again, and comes back at Return.
    terminal.enters("typed later");
    terminal.waits_for("typed later", 2);
}

/// A tool that writes its arguments to `ran`, and another one that is never allowed.
fn tools(folder: &Path) {
    let file = json!({"tools": [{
        "name": "get_weather", "description": "Get the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Name of the city"}}, "required": ["city"]},
        "command": ["tee", "-a", "ran"], "stdin": "json",
    }]});
    fs::write(folder.join("tools.json"), file.to_string()).expect("written");
}

#[test]
fn tools_run_after_a_yes_and_not_after_a_no() {
    let folder = folder();
    tools(folder.path());
    let ran = folder.path().join("ran");
    let args = "--tools tools.json --temperature 0 --session talk.json";
    let Some(terminal) = open(&folder, args) else { return };
    terminal.waits_for("get_weather", 1);
    terminal.enters("What is the weather in Paris?");
    let question = "[a]lways for get_weather:";
    let screen = terminal.waits_for(question, 1);
    assert!(screen.contains("get_weather would run: tee -a ran"), "{screen}");
    assert!(screen.contains("with standard input: {\"city\":\"Paris\"}"), "{screen}");
    assert!(!ran.exists(), "nothing runs before the answer");
    terminal.enters("");
    terminal.waits_for(question, 2);
    terminal.enters("n");
    terminal.waits_for(COSTS, 2);
    assert!(!ran.exists(), "it was not allowed");
    let file = folder.path().join("talk.json");
    let talk = messages(&file);
    assert_eq!(talk[1]["tool_calls"][0]["function"], json!({"name": "get_weather", "arguments": {"city": "Paris"}}));
    assert_eq!(talk[1]["tool_calls"][0]["id"], talk[2]["tool_call_id"]);
    assert_eq!(talk[2]["content"], "The user does not allow this call.");
    assert_eq!(talk[3]["role"], "assistant");

    // A new conversation each time, as the model was made for short ones.
    let ask = |city: &str, questions: usize, answer: &str, costs: usize| {
        terminal.enters("/clear");
        terminal.enters(&format!("What is the weather in {city}?"));
        if !answer.is_empty() {
            terminal.waits_for(question, questions);
            terminal.enters(answer);
        }
        terminal.waits_for(COSTS, costs);
        fs::read_to_string(&ran).expect("it ran")
    };
    assert_eq!(ask("Rome", 3, "y", 4), "{\"city\":\"Rome\"}");
    assert_eq!(ask("Oslo", 4, "a", 6), "{\"city\":\"Rome\"}{\"city\":\"Oslo\"}");
    assert_eq!(ask("Bern", 4, "", 8), "{\"city\":\"Rome\"}{\"city\":\"Oslo\"}{\"city\":\"Bern\"}");
    terminal.enters("/quit");
    terminal.waits_for("ended: 0", 1);
}

#[test]
fn a_question_is_answered_after_it_was_asked_and_ctrl_c_stops_there() {
    let folder = folder();
    tools(folder.path());
    let Some(terminal) = open(&folder, "--tools tools.json --temperature 0 --session talk.json") else { return };
    // What was typed before the question is no answer to it.
    terminal.types("What is the weather in Paris?\ry\r");
    let asked = terminal.waits_for("[a]lways for get_weather:", 1);
    terminal.presses("C-c");
    terminal.waits("the next prompt", |screen| screen.matches("\n> ").count() > asked.matches("\n> ").count());
    terminal.enters("/quit");
    terminal.waits_for("ended: 0", 1);
    let talk = messages(&folder.path().join("talk.json"));
    assert_eq!(talk[2]["content"], "The user stopped before this call was run.");
    assert!(!folder.path().join("ran").exists());
}

#[test]
fn in_a_pipe_each_line_is_a_message_and_the_answers_are_all_that_comes_out() {
    let folder = folder();
    tools(folder.path());
    let args = ["chat", "demo", "--temperature", "0", "--ram", "200M", "--tools", "tools.json"];
    let ran = piped(&args, "What is the weather in Rome?\n/clear\nWhat is 12 + 30?\n", folder.path());
    let (stdout, stderr) = (text(&ran.stdout), text(&ran.stderr));
    assert!(ran.status.success(), "{stderr}");
    assert!(stdout.contains("42") && !stdout.contains('\u{1b}') && !stdout.contains("<think>"), "{stdout}");
    assert!(!stdout.contains("> "), "nobody is asked for a line: {stdout}");
    assert!(stderr.contains("nobody is there to be asked"), "{stderr}");
    assert!(!folder.path().join("ran").exists());
}

#[test]
fn chat_and_run_go_on_with_the_same_file_and_say_the_same() {
    let folder = folder();
    let turns = ["What is 12 + 30?", "What is 10 + 5?", "What is 40 + 8?"];
    let args = |verb: &'static str, file: &'static str| {
        [verb, "demo", "--temperature", "0", "--ram", "200M", "--session", file]
    };
    for turn in turns {
        let ran = piped(&args("run", "run.json"), turn, folder.path());
        assert!(ran.status.success(), "{}", text(&ran.stderr));
    }
    let ran = piped(&args("chat", "chat.json"), &turns.join("\n"), folder.path());
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let ran = piped(&args("chat", "both.json"), turns[0], folder.path());
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let ran = piped(&args("run", "both.json"), turns[1], folder.path());
    assert!(text(&ran.stderr).contains("of them kept"), "{}", text(&ran.stderr));
    let ran = piped(&args("chat", "both.json"), turns[2], folder.path());
    assert!(text(&ran.stderr).contains(" kept · "), "{}", text(&ran.stderr));
    let said = messages(&folder.path().join("run.json"));
    assert_eq!(said.len(), 6);
    assert_eq!(messages(&folder.path().join("chat.json")), said);
    assert_eq!(messages(&folder.path().join("both.json")), said);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_loaded() {
    let folder = folder();
    let chat = |args: &[&str]| piped(&[&["chat", "demo"], args].concat(), "", folder.path());
    fs::write(folder.path().join("no.json"), "{}").expect("written");
    fs::write(folder.path().join("tools.json"), r#"{"tools": [{"name": "a", "description": "", "command": ["{x}"]}]}"#)
        .expect("written");
    for (args, says) in [
        (&["--tools", "tools.json"][..], "tool \"a\""),
        (&["--tools", "nosuch.json"], "nosuch.json"),
        (&["--session", "no.json"], "holds no conversation"),
        (&["--stop", ""], "stop"),
    ] {
        let ran = chat(args);
        let stderr = text(&ran.stderr);
        assert_eq!(ran.status.code(), Some(2), "{stderr}");
        assert!(stderr.lines().count() == 1 && stderr.contains(says), "{args:?}: {stderr}");
    }
    // What goes wrong in a conversation that nobody follows ends it.
    let ran = piped(&["chat", "demo", "--ram", "200M"], "/load nosuch.json\nHello\n", folder.path());
    assert_eq!(ran.status.code(), Some(2), "{}", text(&ran.stderr));
    assert!(ran.stdout.is_empty());
}

#[test]
fn run_says_the_answer_and_thinks_elsewhere() {
    let folder = folder();
    let args = ["run", "demo", "--temperature", "0", "--ram", "200M"];
    let prompt = "What is 348 plus 277?";
    let ran = piped(&args, prompt, folder.path());
    let (stdout, stderr) = (text(&ran.stdout), text(&ran.stderr));
    assert!(ran.status.success(), "{stderr}");
    let answer = piped(&[&["chat"], &args[1..]].concat(), &format!("{prompt}\n"), folder.path());
    assert_eq!(stdout, text(&answer.stdout), "as chat says it");
    assert!(stdout.contains("625") && !stdout.contains("think>"), "{stdout}");
    let thoughts = stderr.lines().next().unwrap_or_default();
    assert!(!thoughts.is_empty() && !thoughts.starts_with("answer ") && !stderr.contains('\u{1b}'), "{stderr}");
    assert!(text(&answer.stderr).contains(thoughts), "{thoughts}");
    // All of it is text where no template says what thoughts are.
    let raw = piped(
        &[&args[..], &["--raw", "-n", "120"]].concat(),
        "<|im_start|>user\nWhat is 348 plus 277?<|im_end|>\n<|im_start|>assistant\n<think>\n",
        folder.path(),
    );
    assert!(raw.status.success() && text(&raw.stdout).contains("</think>"), "{}", text(&raw.stdout));
    // Where thoughts were all that came, nothing is answered, and that is said.
    let cut = piped(&[&args[..], &["-n", "3"]].concat(), prompt, folder.path());
    assert!(cut.status.success() && cut.stdout.is_empty(), "{}", text(&cut.stdout));
    assert!(text(&cut.stderr).contains("still thinking"), "{}", text(&cut.stderr));
}

#[test]
fn messages_of_parts_or_of_nothing_are_taken_back_like_others() {
    let folder = folder();
    let parts = json!([{"type": "text", "text": "One"}, {"type": "image_url"}, {"type": "text", "text": "and two"}]);
    let talk: Vec<Value> = [Value::Null, parts]
        .into_iter()
        .flat_map(|content| {
            [json!({"role": "user", "content": content}), json!({"role": "assistant", "content": "Yes."})]
        })
        .collect();
    let file = folder.path().join("talk.json");
    fs::write(&file, json!({"messages": talk}).to_string()).expect("written");
    let ran =
        piped(&["chat", "demo", "--ram", "200M", "--session", "talk.json"], "/undo\n/undo\n/undo\n", folder.path());
    let stderr = text(&ran.stderr);
    assert!(ran.status.success(), "{stderr}");
    let said: Vec<&str> =
        stderr.lines().filter(|line| line.contains("aken back") || line.contains("take back")).collect();
    assert_eq!(said, ["Taken back: One\\nand two", "Taken back: ", "There is nothing to take back."]);
    assert!(messages(&file).is_empty());
}

/// Ten times, for the editor takes the terminal again while the process is on its way to be stopped.
#[test]
fn after_ctrl_z_and_fg_the_line_editor_is_there_again() {
    let folder = folder();
    if Command::new("bash").arg("--version").output().is_err() {
        println!("skipped: bash is not installed");
        return;
    }
    let Some(terminal) = Terminal::run("PS1='shell: ' bash --norc --noprofile -i", folder.path()) else { return };
    let dir = folder.path().display();
    terminal.enters(&format!("XDG_CACHE_HOME={CACHE} XDG_STATE_HOME={dir}/state {PROGRAM} chat demo --ram 200M"));
    terminal.waits_for("Ctrl-D ends", 1);
    terminal.waits("a prompt", |screen| screen.trim_end().ends_with("\n>"));
    terminal.types("half");
    for times in 1..=10 {
        terminal.presses("C-z");
        terminal.waits("the shell's prompt", |screen| {
            screen.matches("Stopped").count() == times && screen.trim_end().ends_with("\nshell:")
        });
        terminal.enters("fg");
        // Shown by the editor, which redraws what was typed.
        terminal.waits("the line that was begun", |screen| {
            screen.trim_end().ends_with("\n> half") && terminal.foreground() == "outpour"
        });
        let began = std::time::Instant::now();
        while !terminal.settings().contains("-icanon") {
            assert!(began.elapsed() < std::time::Duration::from_secs(60), "{times}: {}", terminal.settings());
        }
    }
    terminal.presses("C-u");
    terminal.enters("/undo");
    terminal.waits_for("There is nothing to take back.", 1);
}

#[test]
fn a_conversation_is_open_once_at_a_time() {
    let folder = folder();
    let Some(first) = open(&folder, "--session talk.json --temperature 0") else { return };
    let args = |verb, file| [verb, "demo", "--ram", "200M", "--temperature", "0", "--session", file];
    for verb in ["chat", "run"] {
        let second = piped(&args(verb, "talk.json"), "Hello\n", folder.path());
        let stderr = text(&second.stderr);
        assert_eq!(second.status.code(), Some(2), "{stderr}");
        assert!(stderr.lines().count() == 1 && stderr.contains("talk.json: another outpour has"), "{stderr}");
    }
    fs::write(folder.path().join("other.json"), r#"{"messages": []}"#).expect("written");
    let lines = "/load talk.json\nHello\n";
    fs::write(folder.path().join("talk.json"), r#"{"messages": []}"#).expect("written");
    let second = piped(&args("chat", "other.json"), lines, folder.path());
    assert_eq!(second.status.code(), Some(2), "{}", text(&second.stderr));
    assert!(second.stdout.is_empty() && text(&second.stderr).contains("another outpour has"));
    // It is free again once the first one has another file, and where that was killed.
    first.enters("/save first.json");
    first.waits_for("Saved to first.json", 1);
    assert!(piped(&args("chat", "talk.json"), "What is 12 + 30?\n", folder.path()).status.success());
    let killed = Command::new("kill").args(["-KILL", &first.child()]).status().expect("kill");
    assert!(killed.success());
    first.waits_for("ended: 137", 1);
    assert!(piped(&args("run", "first.json"), "What is 12 + 30?", folder.path()).status.success());
    let mut left: Vec<_> = fs::read_dir(folder.path()).expect("a folder").flatten().map(|e| e.file_name()).collect();
    left.retain(|name| name.to_string_lossy().ends_with(".lock"));
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_reader_that_has_gone_ends_a_conversation_without_a_word() {
    let folder = folder();
    let chat = format!(
        "printf 'Tell me a story.\\nTell me another.\\n' | {PROGRAM} chat demo --ram 200M | head -c 1 >/dev/null; \
         echo ${{PIPESTATUS[1]}}"
    );
    let mut command = Command::new("bash");
    let ran = command.args(["-c", &chat]).env("XDG_CACHE_HOME", CACHE).current_dir(folder.path()).output();
    let Ok(ran) = ran else { return println!("skipped: bash is not installed") };
    assert_eq!(text(&ran.stdout).trim(), "0", "{}", text(&ran.stderr));
    assert!(!text(&ran.stderr).contains("outpour: "), "{}", text(&ran.stderr));
}
