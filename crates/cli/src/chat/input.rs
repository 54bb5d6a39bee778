//! Lines that a person types: with a history, on several rows where `"""` or a backslash asks for it, with commands completed.

use std::cell::{Cell, RefCell};
use std::fs::DirBuilder;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use outpour_store::machine::state_dir;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Behavior, Config, Context, Editor, Helper};

use super::command::COMMANDS;
use crate::term;

/// Messages remembered.
const HISTORY_MAX: usize = 1000;
/// What stands around a message of several rows.
const QUOTE: &str = "\"\"\"";

/// What came of reading a line.
pub enum Typed {
    /// A line, of one row or several.
    Line(String),
    /// Ctrl-C; whether anything was typed before it.
    Interrupted {
        /// Nothing was.
        empty: bool,
    },
    /// Ctrl-D, or the end of a file.
    End,
}

/// What is said when the line editor has no terminal to work with.
const UNUSABLE: &str = "the terminal cannot be used";

/// Where lines come from.
pub struct Input {
    config: Config,
    editor: Editor<Rows, DefaultHistory>,
    history: Option<PathBuf>,
    /// A person types them.
    pub interactive: bool,
}

impl Input {
    /// Opens standard input; on a terminal with the history of earlier conversations.
    ///
    /// # Errors
    /// When the terminal cannot be used.
    pub fn open() -> Result<Input> {
        let interactive = io::stdin().is_terminal();
        let behavior = if interactive && !io::stdout().is_terminal() { Behavior::PreferTerm } else { Behavior::Stdio };
        let config =
            Config::builder().max_history_size(HISTORY_MAX)?.history_ignore_dups(true)?.behavior(behavior).build();
        let mut editor = Editor::with_config(config.clone()).context(UNUSABLE)?;
        let history = if interactive { history_file() } else { None };
        if let Some(path) = &history {
            match editor.load_history(path) {
                Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => term::note(&format!("{}: earlier messages cannot be read ({error})", path.display())),
                Ok(()) => {}
            }
        }
        Ok(Input { config, editor, history, interactive })
    }

    /// Reads a message or command.
    ///
    /// # Errors
    /// When the terminal fails.
    pub fn read(&mut self) -> Result<Typed> {
        // What Return was pressed at belongs to a line before.
        self.editor.set_helper(Some(Rows::default()));
        // A terminal without styles is asked even where it types nothing.
        let prompt = if self.interactive { ("> ", "\x1b[1m>\x1b[0m ") } else { ("", "") };
        let typed = match self.editor.readline(&prompt) {
            Err(ReadlineError::Interrupted) => {
                let empty = self.editor.helper().is_none_or(|rows| rows.empty.get());
                return Ok(Typed::Interrupted { empty });
            }
            typed => typed_of(typed)?,
        };
        let Typed::Line(line) = typed else { return Ok(typed) };
        let message = self.editor.helper().map_or(line.clone(), |rows| rows.message(&line));
        self.remember(&message);
        Ok(Typed::Line(message))
    }

    /// Asks a question. What was typed before it was shown is no answer: it stays for the next line, or is forgotten.
    ///
    /// # Errors
    /// When the terminal fails.
    pub fn ask(&mut self, question: &str) -> Result<Typed> {
        term::forget_typed();
        let editor = Editor::<(), DefaultHistory>::with_config(self.config.clone());
        typed_of(editor.context(UNUSABLE)?.readline(question))
    }

    /// Keeps a line for later conversations. That this cannot be done is said once.
    fn remember(&mut self, line: &str) {
        let new = !line.trim().is_empty() && self.editor.add_history_entry(line).unwrap_or(false);
        let Some(path) = self.history.as_ref().filter(|_| new) else { return };
        if let Err(error) = keep(&mut self.editor, path) {
            term::note(&format!(
                "{}: cannot be written ({error}); later conversations will not know this one's lines.",
                path.display()
            ));
            self.history = None;
        }
    }
}

fn typed_of(line: rustyline::Result<String>) -> Result<Typed> {
    match line {
        Ok(line) => Ok(Typed::Line(line)),
        Err(ReadlineError::Interrupted) => Ok(Typed::Interrupted { empty: true }),
        Err(ReadlineError::Eof) => Ok(Typed::End),
        Err(error) => Err(error).context("standard input: cannot read"),
    }
}

/// The file of the history. Only its owner may read it, as rustyline makes it.
fn history_file() -> Option<PathBuf> {
    Some(state_dir()?.join("chat_history"))
}

fn keep(editor: &mut Editor<Rows, DefaultHistory>, path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    Ok(editor.append_history(path)?)
}

/// Knows when a message is complete.
#[derive(Default)]
struct Rows {
    /// Texts up to a backslash at which Return was pressed.
    continued: RefCell<Vec<String>>,
    empty: Cell<bool>,
}

impl Rows {
    /// Whether a text goes on in the next row.
    fn goes_on(&self, text: &str) -> bool {
        if let Some(quoted) = text.trim_start().strip_prefix(QUOTE) {
            return !quoted.trim_end().ends_with(QUOTE);
        }
        let backslashes = text.len() - text.trim_end_matches('\\').len();
        backslashes % 2 == 1
    }

    /// Whether a message is complete at which Return was pressed.
    fn is_complete(&self, text: &str) -> bool {
        let goes_on = self.goes_on(text);
        if goes_on && text.ends_with('\\') {
            self.continued.borrow_mut().push(text.to_owned());
        }
        !goes_on
    }

    /// What a text says without its quotes, and without backslashes at which Return was pressed; those in a text that was
    /// pasted are its own.
    fn message(&self, text: &str) -> String {
        if let Some(quoted) = text.trim_start().strip_prefix(QUOTE) {
            let quoted = quoted.trim_end();
            // A space keeps what looks like a command a message.
            return format!(" {}", quoted.strip_suffix(QUOTE).unwrap_or(quoted).trim_matches('\n'));
        }
        let mut at: Vec<usize> =
            self.continued.borrow().iter().filter(|part| text.starts_with(*part)).map(String::len).collect();
        at.sort_unstable();
        at.dedup();
        let mut message = text.to_owned();
        for end in at.into_iter().rev().filter(|&end| text[end..].starts_with('\n')) {
            message.remove(end - 1);
        }
        message
    }
}

impl Validator for Rows {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        let complete = self.is_complete(context.input());
        Ok(if complete { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

impl Hinter for Rows {
    type Hint = String;

    fn hint(&self, line: &str, _: usize, _: &Context<'_>) -> Option<String> {
        self.empty.set(line.is_empty());
        None
    }
}

impl Highlighter for Rows {}

impl Completer for Rows {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let typed = &line[..pos];
        let fits = COMMANDS.iter().filter(|(name, ..)| typed.starts_with('/') && name.starts_with(typed));
        Ok((
            0,
            fits.map(|(name, argument, _)| if argument.is_empty() { (*name).to_owned() } else { format!("{name} ") })
                .collect(),
        ))
    }
}

impl Helper for Rows {}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message typed row by row, with Return after each.
    fn typed(rows: &[&str]) -> Option<String> {
        let helper = Rows::default();
        let mut text = String::new();
        for (i, row) in rows.iter().enumerate() {
            text.push_str(row);
            if helper.is_complete(&text) {
                return (i + 1 == rows.len()).then(|| helper.message(&text));
            }
            text.push('\n');
        }
        None
    }

    #[test]
    fn a_message_ends_where_it_should() {
        assert_eq!(typed(&["Hello"]).as_deref(), Some("Hello"));
        assert_eq!(typed(&["one\\", "two\\", "three"]).as_deref(), Some("one\ntwo\nthree"));
        assert_eq!(typed(&["one\\\\"]).as_deref(), Some("one\\\\"));
        assert_eq!(typed(&["\"\"\"one", "", "two\"\"\""]).as_deref(), Some(" one\n\ntwo"));
        assert_eq!(typed(&["\"\"\"", "one \\", "/help", "\"\"\""]).as_deref(), Some(" one \\\n/help"));
        assert_eq!(typed(&["\"\"\"one\"\"\""]).as_deref(), Some(" one"));
        assert_eq!(typed(&["\"\"\""]), None);
        // Pasted at once, a backslash is part of the text.
        assert_eq!(typed(&["cc -O2 \\\n  a.c"]).as_deref(), Some("cc -O2 \\\n  a.c"));
    }
}
