//! `chat`: a conversation with a model in a terminal. Each line is a message, or a command that begins with `/`. Answers go to
//! standard output as they come, all else to standard error.

mod command;
mod input;
mod process;
mod talk;
mod tools;

use std::collections::HashSet;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};

use anyhow::{Result, bail, ensure};
use outpour_engine::{IDLE_INTERVAL, Snapshots};
use outpour_store::bytes::Bytes;
use outpour_text::{StopStrings, ToolCall};
use serde_json::{Map, Value, json};
use signal_hook::consts::SIGINT;

use crate::args::ChatArgs;
use crate::generation::End;
use crate::shown::{Form, Shown};
use crate::term::{self, Dimmed, INTERRUPTED, Settings, Silent, one_line, printable};
use crate::{model, session};
use command::{COMMANDS, Command, Line};
use input::{Input, Typed};
use talk::{Said, Talk, Words, trouble};
use tools::Tools;

/// Answers to one message that call tools, at most.
const ROUNDS_MAX: usize = 50;
/// Lines of a command's output that are shown; the model is told more.
const LINES_SHOWN: usize = 12;

/// What templates say that can be told whether the model thinks: Qwen's and others', DeepSeek's.
const SWITCHES: [&str; 2] = ["enable_thinking", "thinking is defined"];

/// The model is there.
static LOADED: AtomicBool = AtomicBool::new(false);
/// Waiting for a line, and not for the model.
static AT_PROMPT: AtomicBool = AtomicBool::new(false);
/// Ctrl-C came since the last line or answer: it ends the program when it comes again.
static PRESSED: AtomicBool = AtomicBool::new(false);
/// Asked to end, by a signal that is not Ctrl-C.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Holds a conversation.
///
/// # Errors
/// One line about the model, the flags, the tools or the session's file. What goes wrong later is said, and the conversation goes
/// on.
pub fn chat(args: &ChatArgs) -> Result<ExitCode> {
    let inspection = model::open(&args.model, &args.load)?;
    let checkpoint = inspection.checkpoint();
    let sampling = model::sampling(&inspection, &args.sampling)?;
    let mut options = model::options(&args.load, checkpoint)?;
    options.beside += Snapshots::memory_bytes(inspection.model());
    let plan = inspection.plan(&options)?;
    let tokenizer = model::tokenizer_of(checkpoint)?;
    let Some(template) = model::template(checkpoint, &tokenizer)? else {
        bail!("{}: has no chat template; `outpour run --raw` continues a text", checkpoint.dir().display());
    };
    let tools = args.tools.as_deref().map(Tools::read).transpose()?.unwrap_or_default();
    let system = args.system.as_deref();
    let (file, messages) = match &args.session {
        Some(path) => session::begin(path, system).map(|(file, messages)| (Some(file), messages))?,
        None => (None, system.iter().map(|text| json!({"role": "system", "content": text})).collect()),
    };
    StopStrings::new(args.stop.clone())?;
    let words = Words {
        stop_tokens: model::stop_tokens(&inspection, &tokenizer)?,
        tokenizer,
        template,
        stop: args.stop.clone(),
        tokens_max: args.max_tokens.unwrap_or(usize::MAX),
        sampling,
        tools: tools.schemas(),
    };
    let name = std::fs::canonicalize(checkpoint.dir()).ok();
    let name = name.as_ref().and_then(|dir| dir.file_name()).map_or("model".into(), |name| name.to_string_lossy());
    let greeting = format!(
        "{} · {} of memory · context of {} tokens · /help lists commands, Ctrl-D ends",
        one_line(&name),
        Bytes(plan.ram as u64),
        plan.ctx
    );
    if inspection.skipped()[0] > 0 {
        term::note("This model's vision is not used: it is given text only.");
    }
    catch_signals()?;
    let input = Input::open()?;
    let engine = model::load(inspection, &options, args.load.reader())?;
    let talk = Talk::begin(engine, words, messages, file)?;
    LOADED.store(true, Ordering::Relaxed);
    let chat = Chat { talk, input, tools, always: HashSet::new(), form: Form::here() };
    if chat.input.interactive {
        chat.greet(&greeting);
    }
    chat.run()
}

/// Ctrl-C stops the answer under way, and ends the program when it comes twice at the prompt; the line editor reads it as a key,
/// but not of a terminal without one, or where another program asks. Other signals end the program: after the answer, which is
/// kept; at once where none is under way, or when they come again. All do while the model is loaded.
fn catch_signals() -> Result<()> {
    term::overhear_interrupts();
    let settings = Settings::now();
    term::catch_signals(move |signal| {
        let at_prompt = AT_PROMPT.load(Ordering::Relaxed);
        if at_prompt && signal == SIGINT && !PRESSED.swap(true, Ordering::Relaxed) {
            return term::note(&format!("\n{AGAIN}"));
        }
        let loading = !LOADED.load(Ordering::Relaxed);
        if loading || at_prompt || signal != SIGINT && ENDING.swap(true, Ordering::Relaxed) {
            settings.restore();
            if io::stdout().is_terminal() {
                // The line editor asked for pasted text to be marked.
                let _ = term::show("\x1b[?2004l\n");
            }
            std::process::exit(128 + signal);
        }
        term::stop();
    })
}

struct Chat {
    talk: Talk,
    input: Input,
    tools: Tools,
    /// Tools that may be run without being asked about.
    always: HashSet<String>,
    form: Form,
}

/// Whether the conversation goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    End(u8),
}

impl Chat {
    fn greet(&self, greeting: &str) {
        self.tell(greeting);
        let names = self.tools.names();
        if !names.is_empty() {
            self.tell(&format!("It may ask for these tools, and you are asked each time: {}", names.join(", ")));
        }
        if !self.talk.messages().is_empty() {
            self.tell(&format!("The conversation goes on: it has {} messages.", self.talk.messages().len()));
        }
    }

    fn run(mut self) -> Result<ExitCode> {
        let mut interrupted = false;
        let code = loop {
            let typed = at_prompt(&mut self.talk, || self.input.read())?;
            let again = interrupted;
            interrupted = false;
            if self.input.interactive {
                PRESSED.store(false, Ordering::Relaxed);
            }
            let line = match typed {
                Typed::Line(line) => line,
                Typed::End => break 0,
                Typed::Interrupted { empty } if empty && again => break 0,
                Typed::Interrupted { .. } => {
                    interrupted = true;
                    self.tell(AGAIN);
                    continue;
                }
            };
            let next = match Line::parse(&line) {
                Line::Nothing => Ok(Next::GoOn),
                Line::Wrong(problem) => Err(anyhow::anyhow!("{}", one_line(&problem))),
                Line::Message(text) => self.message(&text),
                Line::Command(command) => self.obey(command),
            };
            match next {
                Ok(Next::GoOn) => {}
                Ok(Next::End(code)) => break code,
                Err(error) if self.input.interactive => {
                    term::note(&format!("outpour: {}", one_line(&crate::message(&error))));
                }
                Err(error) => return Err(error),
            }
        };
        self.talk.leave()?;
        Ok(ExitCode::from(code))
    }

    /// Says something that is no answer.
    fn tell(&self, text: &str) {
        if !(term::styled() && io::stderr().is_terminal()) {
            return term::note(text);
        }
        let mut dimmed = Dimmed::default();
        let shown = dimmed.push(text, term::columns()) + &dimmed.finish();
        term::note_as_it_is(shown.trim_end_matches('\n'));
    }

    fn obey(&mut self, command: Command) -> Result<Next> {
        match command {
            Command::Help => {
                for (name, argument, what) in COMMANDS {
                    term::note(&format!("  {:<34} {what}", format!("{name} {argument}")));
                }
                term::note(
                    "  A message of several rows stands between \"\"\" and \"\"\"; or a row that ends in \\ goes on in the next.",
                );
                term::note("  Ctrl-C stops an answer.");
            }
            Command::Clear => {
                self.talk.clear()?;
                self.tell("A new conversation.");
            }
            Command::Undo => match self.talk.take_back() {
                Some(text) => self.tell(&format!("Taken back: {}", beginning(&text))),
                None => self.tell("There is nothing to take back."),
            },
            Command::Retry => {
                let before = self.talk.messages().to_vec();
                ensure!(self.talk.take_back_answer(), "there is no message to be answered again");
                if self.talk.is_greedy() {
                    self.tell("At temperature 0 the answer is the same each time.");
                }
                return self.exchange(before);
            }
            Command::Save(path) => {
                let path = self.talk.save(path)?.display().to_string();
                self.tell(&format!("Saved to {path}, now and after each answer."));
            }
            Command::Load(path) => {
                let shown = path.display().to_string();
                self.talk.load(path)?;
                self.tell(&format!("{shown}: it has {} messages, and goes on from here.", self.talk.messages().len()));
            }
            Command::System(Some(text)) => self.talk.set_system(&text),
            Command::System(None) => match self.talk.system() {
                Some(text) => term::note(&printable(&text)),
                None => self.tell("There is no system message; /system TEXT sets one."),
            },
            Command::Think(how) => self.think(how.as_deref())?,
            Command::Stats => match self.talk.costs() {
                [] => self.tell("Nothing was answered yet."),
                lines => lines.iter().for_each(|line| term::note(line)),
            },
            Command::Quit => return Ok(Next::End(0)),
        }
        Ok(Next::GoOn)
    }

    /// Sets variables under which templates ask whether, and how much, the model is to think.
    fn think(&mut self, how: Option<&str>) -> Result<()> {
        let template = self.talk.template();
        let switch = SWITCHES.iter().any(|switch| template.contains(switch));
        let effort = template.contains("reasoning_effort");
        ensure!(switch || effort, "this model's chat template has no switch for thoughts");
        let set: Map<String, Value> = match how {
            None => {
                self.tell(&self.talk.thinks());
                return Ok(());
            }
            Some(on @ ("on" | "off")) if switch => {
                let on = Value::Bool(on == "on");
                [("enable_thinking".to_owned(), on.clone()), ("thinking".to_owned(), on)].into_iter().collect()
            }
            Some(level @ ("low" | "medium" | "high")) if effort => {
                [("reasoning_effort".to_owned(), level.into())].into_iter().collect()
            }
            Some(_) => {
                let ways = [(switch, "on or off"), (effort, "low, medium or high")];
                let ways: Vec<&str> = ways.iter().filter(|(is, _)| *is).map(|(_, way)| *way).collect();
                bail!("/think: this model's chat template knows {}", ways.join(", "));
            }
        };
        self.talk.set_kwargs(set);
        Ok(())
    }

    fn message(&mut self, text: &str) -> Result<Next> {
        let before = self.talk.messages().to_vec();
        self.talk.say(text)?;
        self.exchange(before)
    }

    /// Has the model answer, and calls of tools run, until it has nothing more to ask for. Where it says nothing, the messages
    /// are what they were `before`.
    fn exchange(&mut self, before: Vec<Value>) -> Result<Next> {
        for _ in 0..ROUNDS_MAX {
            term::go_on_again();
            let said = {
                let _silent = Silent::begin();
                self.talk.answer(Shown::new(self.form))
            };
            if self.talk.waits() {
                self.talk.set_messages(before.clone());
                if self.input.interactive {
                    self.tell(
                        "Nothing was said, and the conversation is as it was; the up arrow brings your message back.",
                    );
                }
            }
            let said = said?;
            self.tell(&said.costs);
            if self.input.interactive {
                term::note("");
            }
            if let Some(next) = self.ended(&said)? {
                return Ok(next);
            }
            if said.calls.is_empty() {
                return Ok(Next::GoOn);
            }
            if self.tools.names().is_empty() {
                self.tell("The model asks for a tool, and has none: --tools FILE gives it some.");
                return Ok(Next::GoOn);
            }
            if !self.settle(&said.calls)? {
                return Ok(Next::GoOn);
            }
        }
        self.tell(&format!("{ROUNDS_MAX} answers that call tools are enough for one message."));
        Ok(Next::GoOn)
    }

    /// What follows from the way an answer ended, if that is not the next answer or message.
    fn ended(&self, said: &Said) -> Result<Option<Next>> {
        if ENDING.load(Ordering::Relaxed) {
            return Ok(Some(Next::End(INTERRUPTED)));
        }
        if let Some(trouble) = trouble(&said.end) {
            bail!(trouble);
        }
        Ok(match &said.end {
            // Who was to read the answers has gone, which is no failure.
            End::Unwritten(_) => Some(Next::End(0)),
            End::Interrupted if self.input.interactive => Some(Next::GoOn),
            // Of lines that another program writes, two answers in a row.
            End::Interrupted if PRESSED.swap(true, Ordering::Relaxed) => Some(Next::End(INTERRUPTED)),
            End::Interrupted => {
                self.tell("Ctrl-C again ends");
                Some(Next::GoOn)
            }
            _ => {
                PRESSED.store(false, Ordering::Relaxed);
                None
            }
        })
    }

    /// Runs the calls that the user allows, and tells the model what came of them; whether it may go on.
    fn settle(&mut self, calls: &[(String, ToolCall)]) -> Result<bool> {
        let mut stopped = false;
        for (id, call) in calls {
            let result = if stopped { NOT_RUN.to_owned() } else { self.settle_one(call, &mut stopped)? };
            self.talk.result(id, &call.name, &result);
        }
        Ok(!stopped)
    }

    fn settle_one(&mut self, call: &ToolCall, stopped: &mut bool) -> Result<String> {
        let ready = match self.tools.ready(call) {
            Ok(ready) => ready,
            Err(problem) => {
                self.tell(&format!("The call does not fit: {}", one_line(&problem)));
                return Ok(problem);
            }
        };
        term::note(&format!("{} would run: {}", ready.name, ready.shown()));
        if let Some(stdin) = &ready.stdin {
            term::note(&format!("  with standard input: {}", printable(stdin)));
        }
        if !self.always.contains(&ready.name) {
            match self.allowed(&ready.name)? {
                Allowed::Yes => {}
                Allowed::Always => drop(self.always.insert(ready.name.clone())),
                Allowed::No => return Ok("The user does not allow this call.".into()),
                Allowed::Stop => {
                    *stopped = true;
                    return Ok(NOT_RUN.into());
                }
            }
        }
        term::go_on_again();
        let ended = {
            let _silent = Silent::begin();
            process::run(&ready)
        };
        *stopped = ended.stopped;
        let lines: Vec<&str> = ended.result.lines().collect();
        lines.iter().take(LINES_SHOWN).for_each(|line| self.tell(&format!("  {}", printable(line))));
        if lines.len() > LINES_SHOWN {
            self.tell(&format!("  … {} more lines", lines.len() - LINES_SHOWN));
        }
        Ok(ended.result)
    }

    fn allowed(&mut self, name: &str) -> Result<Allowed> {
        if !self.input.interactive {
            self.tell("It is not run: nobody is there to be asked.");
            return Ok(Allowed::No);
        }
        loop {
            let question = format!("Run it? [y]es, [n]o, [a]lways for {name}: ");
            let typed = match at_prompt(&mut self.talk, || self.input.ask(&question))? {
                Typed::Line(line) => line,
                Typed::Interrupted { .. } | Typed::End => return Ok(Allowed::Stop),
            };
            PRESSED.store(false, Ordering::Relaxed);
            match typed.trim().to_lowercase().as_str() {
                "y" | "yes" => return Ok(Allowed::Yes),
                "n" | "no" => return Ok(Allowed::No),
                "a" | "always" => return Ok(Allowed::Always),
                _ => {}
            }
        }
    }
}

/// What the user says to a call.
enum Allowed {
    Yes,
    No,
    Always,
    /// Ctrl-C: neither this call nor the answer goes on.
    Stop,
}

const AGAIN: &str = "Ctrl-C again, or Ctrl-D, ends";
const NOT_RUN: &str = "The user stopped before this call was run.";

/// Waits for what is typed, and meanwhile gives memory back that others need.
fn at_prompt<T>(talk: &mut Talk, read: impl FnOnce() -> Result<T>) -> Result<T> {
    AT_PROMPT.store(true, Ordering::Relaxed);
    // The editor reads on the main thread, for Ctrl-Z: the system stops the process in the thread that signals it if that is the
    // main one. From another one the editor would go on, and take the terminal again, before it has stopped.
    let typed = std::thread::scope(|scope| {
        let (reading, read_to_the_end) = mpsc::channel::<()>();
        scope.spawn(move || {
            while read_to_the_end.recv_timeout(IDLE_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                talk.idle();
            }
        });
        let typed = read();
        drop(reading);
        typed
    });
    AT_PROMPT.store(false, Ordering::Relaxed);
    typed
}

/// The beginning of a message, in a line.
fn beginning(text: &str) -> String {
    const CHARS: usize = 60;
    let line = one_line(text);
    if line.chars().count() <= CHARS { line } else { line.chars().take(CHARS).chain(['…']).collect() }
}
