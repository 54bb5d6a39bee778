//! Answers with calls, as the model said them. Clients send calls back in other words: keys in another order, other white
//! space, no thoughts. Put into the prompt as the model said them, they are the tokens that are computed already.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use outpour_text::{ToolCall, same_json};
use serde_json::Value;

/// Answers remembered at most.
const ANSWERS_MAX: usize = 512;
/// Tokens of all answers remembered at most.
const TOKENS_MAX: usize = 1 << 20;

/// What was said lately.
#[derive(Default)]
pub(crate) struct Replay {
    answers: Mutex<VecDeque<Arc<Remembered>>>,
}

/// An answer with calls.
pub(crate) struct Remembered {
    /// The names that the calls were given, and the calls.
    calls: Vec<(String, ToolCall)>,
    /// The tokens, without the one that ended the answer.
    pub(crate) tokens: Vec<u32>,
}

impl Replay {
    pub(crate) fn remember(&self, calls: Vec<(String, ToolCall)>, tokens: &[u32]) {
        let Ok(mut answers) = self.answers.lock() else { return };
        if calls.is_empty() || tokens.len() > TOKENS_MAX {
            return;
        }
        answers.push_back(Arc::new(Remembered { calls, tokens: tokens.to_vec() }));
        let mut total: usize = answers.iter().map(|answer| answer.tokens.len()).sum();
        while answers.len() > ANSWERS_MAX || total > TOKENS_MAX {
            total -= answers.pop_front().map_or(0, |answer| answer.tokens.len());
        }
    }

    /// The answer that a message of the assistant repeats: one whose calls have the same names and arguments.
    pub(crate) fn find(&self, message: &Value) -> Option<Arc<Remembered>> {
        let calls = message.get("tool_calls")?.as_array()?;
        let answers = self.answers.lock().ok()?;
        answers.iter().rev().find(|answer| answer.is_of(calls)).cloned()
    }
}

impl Remembered {
    fn is_of(&self, calls: &[Value]) -> bool {
        let same = |((id, call), given): (&(String, ToolCall), &Value)| {
            let function = &given["function"];
            given["id"] == **id
                && function["name"] == *call.name
                && same_json(&function["arguments"], &Value::Object(call.arguments.clone()))
        };
        self.calls.len() == calls.len() && self.calls.iter().zip(calls).all(same)
    }
}
