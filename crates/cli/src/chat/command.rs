//! What a line asks for: a message to the model, or a command to the program.

use std::path::PathBuf;

use outpour_store::machine::home_dir;

/// A line.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Nothing but white space.
    Nothing,
    /// To the model.
    Message(String),
    /// To the program.
    Command(Command),
    /// What is wrong with a command.
    Wrong(String),
}

/// A command.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Shows the commands.
    Help,
    /// Begins anew.
    Clear,
    /// Takes back the last message and its answer.
    Undo,
    /// Has the last message answered again.
    Retry,
    /// Writes the conversation to a file, or to the one that it has.
    Save(Option<PathBuf>),
    /// Goes on with the conversation in a file.
    Load(PathBuf),
    /// Shows the system message, or sets it; an empty one removes it.
    System(Option<String>),
    /// Shows whether the model thinks, or sets it.
    Think(Option<String>),
    /// Shows what the last answer cost.
    Stats,
    /// Ends the program.
    Quit,
}

/// Every command, its argument, and what it does.
pub const COMMANDS: [(&str, &str, &str); 10] = [
    ("/help", "", "show this"),
    ("/clear", "", "begin a new conversation; the system message stays"),
    ("/undo", "", "take back the last message and its answer"),
    ("/retry", "", "answer the last message again"),
    ("/save", "[FILE]", "write the conversation to FILE now and after each answer"),
    ("/load", "FILE", "go on with the conversation in FILE"),
    ("/system", "[TEXT]", "show the system message, or set it; \"\" removes it"),
    ("/think", "[on|off|low|medium|high]", "show whether the model thinks before it answers, or set it"),
    ("/stats", "", "show what the last answer cost"),
    ("/quit", "", "end; so does Ctrl-D"),
];

impl Line {
    /// Reads a line as it was typed, of one row or several.
    pub fn parse(line: &str) -> Line {
        let trimmed = line.trim();
        if trimmed.is_empty() {
            return Line::Nothing;
        }
        if !line.starts_with('/') {
            return Line::Message(trimmed.to_owned());
        }
        let (name, argument) = trimmed.split_once(char::is_whitespace).unwrap_or((trimmed, ""));
        let argument = Some(argument.trim()).filter(|argument| !argument.is_empty());
        let command = match (name, argument) {
            ("/help" | "/?", None) => Command::Help,
            ("/clear", None) => Command::Clear,
            ("/undo", None) => Command::Undo,
            ("/retry", None) => Command::Retry,
            ("/save", path) => Command::Save(path.map(file)),
            ("/load", Some(path)) => Command::Load(file(path)),
            ("/load", None) => return Line::Wrong("/load FILE: name the file of the conversation".into()),
            ("/system", text) => {
                Command::System(text.map(|text| if text == "\"\"" { String::new() } else { text.to_owned() }))
            }
            ("/think", how) => Command::Think(how.map(str::to_owned)),
            ("/stats", None) => Command::Stats,
            ("/quit" | "/exit" | "/bye", None) => Command::Quit,
            (name, Some(_)) if COMMANDS.iter().any(|(known, ..)| *known == name) => {
                return Line::Wrong(format!("{name} takes nothing after it"));
            }
            _ => {
                return Line::Wrong(format!(
                    "there is no command {name}; /help lists them, and a message that begins with / needs a space before it"
                ));
            }
        };
        Line::Command(command)
    }
}

/// A file by what was typed: `~/` is the user's own folder, as in a shell.
fn file(typed: &str) -> PathBuf {
    typed.strip_prefix("~/").and_then(|below| Some(home_dir()?.join(below))).unwrap_or_else(|| typed.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_or_commands() {
        let message = |text: &str| Line::Message(text.to_owned());
        assert_eq!(Line::parse(" \n "), Line::Nothing);
        assert_eq!(Line::parse("Hello /help"), message("Hello /help"));
        assert_eq!(Line::parse(" /usr/bin is what?"), message("/usr/bin is what?"));
        assert_eq!(Line::parse("/retry  "), Line::Command(Command::Retry));
        assert_eq!(Line::parse("/save"), Line::Command(Command::Save(None)));
        assert_eq!(Line::parse("/save a b.json"), Line::Command(Command::Save(Some("a b.json".into()))));
        let home = home_dir().expect("a home");
        assert_eq!(Line::parse("/save ~/a.json"), Line::Command(Command::Save(Some(home.join("a.json")))));
        assert_eq!(Line::parse("/load ~/b/c.json"), Line::Command(Command::Load(home.join("b/c.json"))));
        assert_eq!(Line::parse("/load ~b"), Line::Command(Command::Load("~b".into())));
        assert_eq!(Line::parse("/system Be\nbrief."), Line::Command(Command::System(Some("Be\nbrief.".into()))));
        assert_eq!(Line::parse("/system \"\""), Line::Command(Command::System(Some(String::new()))));
        assert_eq!(Line::parse("/think off"), Line::Command(Command::Think(Some("off".into()))));
        for (wrong, says) in
            [("/load", "name the file"), ("/undo 2", "takes nothing"), ("/nosuch", "no command /nosuch")]
        {
            assert!(matches!(Line::parse(wrong), Line::Wrong(problem) if problem.contains(says)), "{wrong}");
        }
    }

    #[test]
    fn every_command_that_help_lists_is_one() {
        for (name, argument, _) in COMMANDS {
            let argument = if argument.is_empty() { "" } else { " x" };
            assert!(matches!(Line::parse(&format!("{name}{argument}")), Line::Command(_)), "{name}");
        }
    }
}
