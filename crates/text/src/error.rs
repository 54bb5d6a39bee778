//! What can go wrong with a model's text files, one line each: the file, the fault, the next step.

use std::path::{Path, PathBuf};

/// Why a text file of a model cannot be used, or a text cannot be handled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A file is missing or unreadable.
    #[error("cannot read {}: {source}; check that the model is downloaded completely", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not the JSON it should be.
    #[error("{file}: {source}; download the file again")]
    Json {
        /// The file.
        file: String,
        /// Line, column and fault.
        source: serde_json::Error,
    },
    /// A file contradicts itself or goes past a limit.
    #[error("{file}: {what}; download the file again")]
    Invalid {
        /// The file.
        file: String,
        /// The fault.
        what: String,
    },
    /// A tokenizer setting that this crate does not implement.
    #[error("{file}: {what} is not supported; use another model, or another release of it")]
    Unsupported {
        /// The file.
        file: String,
        /// The setting.
        what: String,
    },
    /// A text longer than [`crate::Tokenizer::TEXT_BYTES_MAX`].
    #[error("the text has {bytes} bytes, more than the {max} that can be tokenized at once; shorten it")]
    TextTooLong {
        /// Length of the text.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A stop string that can never or always match.
    #[error("stop strings: {what}; change the request")]
    Stop {
        /// The fault.
        what: String,
    },
    /// A chat template that does not compile.
    #[error("{file}: line {line}: {what}; repair the template or give another one")]
    TemplateSyntax {
        /// The file.
        file: String,
        /// Line of the template, 0 where unknown.
        line: usize,
        /// The fault.
        what: String,
    },
    /// A chat template that fails on this conversation, or goes past the limit of work or size.
    #[error("{file}: line {line}: {what}; change the conversation or the template")]
    TemplateRender {
        /// The file.
        file: String,
        /// Line of the template, 0 where unknown.
        line: usize,
        /// The fault.
        what: String,
    },
    /// The template called `raise_exception`: it refuses this conversation.
    #[error("{file}: the chat template refuses this conversation: {message}; change the conversation or the template")]
    TemplateRefused {
        /// The file.
        file: String,
        /// The template's own words.
        message: String,
    },
}

impl TextError {
    /// The same for those whom this machine's folders do not concern: a template's file by its name alone.
    pub fn without_folders(self) -> TextError {
        let name = |file: String| match Path::new(&file).file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => file,
        };
        match self {
            TextError::TemplateRender { file, line, what } => {
                TextError::TemplateRender { file: name(file), line, what }
            }
            TextError::TemplateSyntax { file, line, what } => {
                TextError::TemplateSyntax { file: name(file), line, what }
            }
            TextError::TemplateRefused { file, message } => TextError::TemplateRefused { file: name(file), message },
            other => other,
        }
    }

    pub(crate) fn invalid(file: &str, what: impl Into<String>) -> TextError {
        TextError::Invalid { file: file.to_owned(), what: what.into() }
    }

    pub(crate) fn unsupported(file: &str, what: impl Into<String>) -> TextError {
        TextError::Unsupported { file: file.to_owned(), what: what.into() }
    }
}

/// Joins the lines of `text` so that an error stays one line.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
