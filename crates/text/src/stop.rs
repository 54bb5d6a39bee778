//! Stop strings: text that ends an answer and is no part of it.

use crate::TextError;

/// What [`StopStrings::push`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop<'a> {
    /// No stop string so far; this much of the text can be shown.
    Emit(&'a str),
    /// A stop string is complete.
    Hit {
        /// The last text to be shown; what the stop string covers is not part of it.
        text_before: &'a str,
        /// Which one, as numbered in [`StopStrings::new`].
        stop: usize,
    },
}

/// Looks for stop strings in a text that arrives in pieces; how it is cut makes no difference. Of several stop
/// strings the one that is complete first counts, of those the one that began first.
#[derive(Debug)]
pub struct StopStrings {
    stops: Vec<String>,
    /// The end of the text so far that may be the beginning of a stop string.
    held: String,
    /// The text given out last.
    out: String,
    hit: Option<usize>,
}

impl StopStrings {
    /// More stop strings than this in a request are refused.
    pub const COUNT_MAX: usize = 64;
    /// Longer stop strings are refused, in bytes.
    pub const BYTES_MAX: usize = 4096;

    /// Looks for any of `stops`; none is fine.
    ///
    /// # Errors
    /// [`TextError::Stop`] for an empty string, or past the limits.
    pub fn new(stops: Vec<String>) -> Result<StopStrings, TextError> {
        let refuse = |what: String| Err(TextError::Stop { what });
        if stops.len() > Self::COUNT_MAX {
            return refuse(format!("{} are more than the {} allowed", stops.len(), Self::COUNT_MAX));
        }
        if let Some(long) = stops.iter().find(|stop| stop.len() > Self::BYTES_MAX) {
            return refuse(format!("one has {} bytes, more than the {} allowed", long.len(), Self::BYTES_MAX));
        }
        if stops.iter().any(String::is_empty) {
            return refuse("one is empty".to_owned());
        }
        Ok(StopStrings { stops, held: String::new(), out: String::new(), hit: None })
    }

    /// Takes the next piece of text. After a hit every call reports the same hit with no text.
    pub fn push(&mut self, piece: &str) -> Stop<'_> {
        self.out.clear();
        if let Some(stop) = self.hit {
            return Stop::Hit { text_before: "", stop };
        }
        self.held.push_str(piece);
        let found = self.stops.iter().enumerate().filter_map(|(i, stop)| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start, i))
        });
        if let Some((_, start, stop)) = found.min() {
            self.out.push_str(&self.held[..start]);
            self.held.clear();
            self.hit = Some(stop);
            return Stop::Hit { text_before: &self.out, stop };
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        self.out.extend(self.held.drain(..self.held.len() - keep));
        Stop::Emit(&self.out)
    }

    /// The text ends: gives what was held back.
    pub fn finish(&mut self) -> &str {
        self.out.clear();
        self.out.push_str(&self.held);
        self.held.clear();
        &self.out
    }
}

/// Length of the longest end of `text` that `stop` begins with, in bytes.
pub(crate) fn overlap(text: &str, stop: &str) -> usize {
    let starts = stop.char_indices().map(|(at, _)| &stop[..at]);
    starts.filter(|start| text.ends_with(start)).map(str::len).max().unwrap_or(0)
}
