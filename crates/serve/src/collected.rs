//! An answer that is sent when it is whole.

use outpour_text::{Answer, Piece, ToolCall};

use crate::error::ApiError;
use crate::ids;
use crate::turn::{Said, Turn};
use crate::worker::{Done, Score};

/// A whole answer.
pub(crate) struct Collected {
    pub(crate) answer: Answer,
    /// The calls, with the names that they are given.
    pub(crate) calls: Vec<(String, ToolCall)>,
    pub(crate) scores: Vec<Score>,
    pub(crate) prompt_scores: Vec<Score>,
    pub(crate) done: Done,
}

impl Collected {
    /// Waits for an answer's end. Names of calls begin with `prefix`.
    pub(crate) async fn new(mut turn: Turn, prefix: &str) -> Result<Collected, ApiError> {
        let (mut answer, mut calls) = (Answer::default(), Vec::new());
        let (mut scores, mut prompt_scores) = (Vec::new(), Vec::new());
        while let Some(said) = turn.next().await? {
            match said {
                Said::Piece(Piece::Call(call)) => {
                    let name = ids::name(prefix);
                    turn.note_call(&name, &call);
                    calls.push((name, call));
                }
                Said::Piece(piece) => answer.add(piece),
                Said::Score(score) => scores.push(score),
                Said::PromptScores(given) => prompt_scores = given,
                Said::Queued(_) | Said::Prompt { .. } => {}
                Said::End(done) => {
                    turn.remember(&done);
                    return Ok(Collected { answer, calls, scores, prompt_scores, done });
                }
            }
        }
        Err(ApiError::unavailable("the answer was broken off"))
    }
}
