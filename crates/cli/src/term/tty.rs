//! The terminal itself: how wide it is, and what it does with what is typed.

use std::io;

use rustix::termios::{
    LocalModes, OptionalActions, QueueSelector, Termios, tcflush, tcgetattr, tcgetwinsize, tcsetattr,
};

/// Columns where nobody says how many there are.
const COLUMNS_DEFAULT: usize = 80;

/// Columns of the terminal that standard output is.
pub fn columns() -> usize {
    let size = tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
    size.filter(|&columns| columns > 0).unwrap_or(COLUMNS_DEFAULT)
}

/// Columns of the terminal that standard error is; `None` where it is none.
pub fn columns_of_notes() -> Option<usize> {
    let size = tcgetwinsize(io::stderr()).ok().map(|size| usize::from(size.ws_col));
    size.filter(|&columns| columns > 0)
}

/// How the terminal that standard input is takes what is typed.
#[derive(Clone)]
pub struct Settings(Option<Termios>);

impl Settings {
    /// Those of now; nothing where standard input is no terminal.
    pub fn now() -> Settings {
        Settings(tcgetattr(io::stdin()).ok())
    }

    /// Puts them back. Where that fails the terminal is gone.
    pub fn restore(&self) {
        if let Some(settings) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, settings);
        }
    }
}

/// While it lives, what is typed is not shown: it would stand in the middle of an answer.
pub struct Silent(Settings);

impl Silent {
    /// From now on.
    pub fn begin() -> Silent {
        let before = Settings::now();
        let mut silent = before.clone();
        if let Some(settings) = &mut silent.0 {
            settings.local_modes.remove(LocalModes::ECHO);
        }
        silent.restore();
        Silent(before)
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.0.restore();
    }
}

/// Forgets what was typed and not read: no question was to be seen then.
pub fn forget_typed() {
    let _ = tcflush(io::stdin(), QueueSelector::IFlush);
}
