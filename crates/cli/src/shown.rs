//! An answer as a person sees it. `chat` on a terminal: its text as Markdown, what was thought and the calls of tools dimmed.
//! Otherwise, and of `run` always, standard output gets the text alone, as it is, and the rest goes to standard error.

use std::io::{self, IsTerminal, Write};

use outpour_text::Piece;

use crate::term::{self, Dimmed, Markdown, printable};

/// How answers are shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// On a terminal, with styles.
    Styled,
    /// On a terminal, without.
    Plain,
    /// The text to standard output, whatever that is, and the rest to standard error, dimmed where that is a terminal.
    Apart,
}

impl Form {
    /// As standard output and the environment ask for.
    pub fn here() -> Form {
        match (io::stdout().is_terminal(), term::styled()) {
            (false, _) => Form::Apart,
            (true, true) => Form::Styled,
            (true, false) => Form::Plain,
        }
    }
}

/// What of an answer came last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Nothing,
    Thoughts,
    Text,
    Call,
}

/// An answer being shown.
pub struct Shown {
    form: Form,
    part: Part,
    markdown: Markdown,
    dimmed: Dimmed,
    /// Whether the line has no end yet.
    open: bool,
}

impl Shown {
    /// Nothing is shown yet.
    pub fn new(form: Form) -> Shown {
        Shown { form, part: Part::Nothing, markdown: Markdown::new(), dimmed: Dimmed::default(), open: false }
    }

    /// Shows a piece.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn piece(&mut self, piece: &Piece) -> io::Result<()> {
        match piece {
            Piece::Thought(text) => {
                self.begin(Part::Thoughts)?;
                self.aside(text)
            }
            Piece::Text(text) => {
                self.begin(Part::Text)?;
                self.open |= !text.is_empty();
                match self.form {
                    Form::Styled => out(&self.markdown.push(text, term::columns())),
                    Form::Plain => out(&printable(text)),
                    Form::Apart if io::stdout().is_terminal() => out(&printable(text)),
                    Form::Apart => out(text),
                }
            }
            Piece::CallBegins(name) => {
                if self.part == Part::Call {
                    // Each has a line of its own.
                    self.begin(Part::Nothing)?;
                }
                self.begin(Part::Call)?;
                self.aside(&format!("calls {name} "))
            }
            Piece::Arguments(text) => self.aside(text),
            Piece::Call(_) => Ok(()),
            Piece::Malformed(problem) => {
                self.begin(Part::Nothing)?;
                term::note(&format!(
                    "The model calls a tool in a way that cannot be read: {}",
                    term::one_line(problem)
                ));
                Ok(())
            }
        }
    }

    /// The answer is complete.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(&mut self) -> io::Result<()> {
        self.begin(Part::Nothing)
    }

    fn begin(&mut self, part: Part) -> io::Result<()> {
        if part == self.part {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.part, part);
        match (self.form, before) {
            (_, Part::Nothing) => {}
            (Form::Styled, Part::Text) => out(&std::mem::replace(&mut self.markdown, Markdown::new()).finish())?,
            (Form::Styled, _) => out(&self.dimmed.finish())?,
            (Form::Plain, _) | (Form::Apart, Part::Text) => out(if self.open { "\n" } else { "" })?,
            (Form::Apart, _) if dims().is_some() => {
                err(&self.dimmed.finish());
                err(if part == Part::Text { "\n" } else { "" });
            }
            (Form::Apart, _) => err("\n"),
        }
        self.open = false;
        let said = |part| matches!(part, Part::Thoughts | Part::Text);
        if self.form != Form::Apart && said(before) && part != Part::Nothing {
            out("\n")?;
        }
        match (self.form, part) {
            (Form::Plain, Part::Thoughts) => out("[thinks]\n"),
            (Form::Plain, Part::Text) if before == Part::Thoughts => out("[answers]\n"),
            _ => Ok(()),
        }
    }

    /// Text that is no part of what is said.
    fn aside(&mut self, text: &str) -> io::Result<()> {
        self.open |= !text.is_empty();
        match self.form {
            Form::Styled => out(&self.dimmed.push(text, term::columns())),
            Form::Plain => out(&printable(text)),
            Form::Apart => {
                match dims() {
                    Some(columns) => err(&self.dimmed.push(text, columns)),
                    None => err(&printable(text)),
                }
                Ok(())
            }
        }
    }
}

fn out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Writes to standard error. Where it cannot be written, nobody is there to be told.
fn err(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Columns of the terminal that standard error is, where it knows styles.
fn dims() -> Option<usize> {
    term::columns_of_notes().filter(|_| term::styled())
}
