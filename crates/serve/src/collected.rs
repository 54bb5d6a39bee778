//! An answer that is sent when it is whole.

use std::collections::VecDeque;

use outpour_text::ToolCall;

use crate::error::ApiError;
use crate::turn::{Said, Turn};
use crate::worker::{Done, Score};

/// A whole answer.
pub(crate) struct Collected {
    /// What is said.
    pub(crate) text: String,
    /// What was thought before, if anything.
    pub(crate) thought: Option<String>,
    pub(crate) calls: Vec<Called>,
    pub(crate) scores: Vec<Score>,
    pub(crate) prompt_scores: Vec<Score>,
    pub(crate) done: Done,
}

/// A call of a tool.
pub(crate) struct Called {
    pub(crate) id: String,
    pub(crate) call: ToolCall,
    /// Its arguments as a stream tells them: the JSON that the model wrote.
    pub(crate) arguments: String,
}

impl Collected {
    /// Waits for an answer's end.
    pub(crate) async fn new(mut turn: Turn) -> Result<Collected, ApiError> {
        let (mut text, mut thought) = (String::new(), None);
        let (mut begun, mut calls): (VecDeque<(String, String)>, _) = (VecDeque::new(), Vec::new());
        let (mut scores, mut prompt_scores) = (Vec::new(), Vec::new());
        while let Some(said) = turn.next().await? {
            match said {
                Said::Text(more) => text.push_str(&more),
                Said::Thought(more) => thought.get_or_insert_with(String::new).push_str(&more),
                Said::CallBegins { id, .. } => begun.push_back((id, String::new())),
                Said::Arguments(more) => {
                    begun.back_mut().into_iter().for_each(|(_, arguments)| arguments.push_str(&more))
                }
                Said::Call(call) => {
                    calls.extend(begun.pop_front().map(|(id, arguments)| Called { id, call, arguments }));
                }
                Said::Malformed => begun.clear(),
                Said::Score(score) => scores.push(score),
                Said::PromptScores(given) => prompt_scores = given,
                Said::Queued(_) | Said::Prompt { .. } => {}
                Said::End(done) => {
                    turn.remember(&done);
                    return Ok(Collected { text, thought, calls, scores, prompt_scores, done });
                }
            }
        }
        Err(ApiError::unavailable("the answer was broken off"))
    }
}
