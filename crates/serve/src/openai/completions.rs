//! `POST /v1/completions`: a text goes on. Evaluations use it, with the probabilities of the prompt itself.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::{Head, finish_reason, timings, usage};
use crate::App;
use crate::chat::{Model, TOP_LOGPROBS_MAX, Wishes, submit};
use crate::collected::Collected;
use crate::error::{Api, ApiError, json_response};
use crate::fields::Fields;
use crate::stream::{Broken, COMMENT, EVENTS, Gone, Out, streamed};
use crate::turn::{Said, Turn};
use crate::worker::{Ask, Score};

/// Tokens of an answer where a request names no number.
const TOKENS_DEFAULT: usize = 16;
/// Prompts in a request.
const PROMPTS_MAX: usize = 64;

/// Goes on with one or several texts.
pub(crate) async fn create(app: Arc<App>, body: Value) -> Result<Response<Body>, ApiError> {
    let fields = Fields::of(&body, "")?;
    let head = Head::new(&app, &fields, "cmpl-", "text_completion")?;
    let echo = fields.flag("echo")?.unwrap_or(false);
    let wishes = wishes(&fields, &app.model)?;
    let prompts = prompts(&fields, &app.model)?;
    let ask = |tokens: &Vec<u32>| Ask {
        prompt_logprobs: echo && wishes.top_logprobs.is_some(),
        // The same prompt may come again, or a longer one.
        marks: if app.model.recurrent { vec![tokens.len() - 1] } else { Vec::new() },
        ..app.model.ask(tokens.clone(), &wishes)
    };
    let begin = |tokens: &Vec<u32>| Ok(Turn::new(submit(&app.door, ask(tokens))?, None, None, tokens.len()));
    let mut turns = prompts.iter().map(begin).collect::<Result<Vec<_>, ApiError>>()?;
    if fields.flag("stream")?.unwrap_or(false) {
        let Some(turn) = turns.pop().filter(|_| turns.is_empty()) else {
            return Err(ApiError::field("prompt", "must be one prompt for a stream"));
        };
        let echo = if echo { prompts[0].clone() } else { Vec::new() };
        let writer = Writer { head, model: app.model.clone(), echo, logprobs: Logprobs::default() };
        return streamed(EVENTS, turn, |turn, out| writer.write(turn, out)).await;
    }
    let (mut choices, mut whole) = (Vec::new(), Vec::new());
    for (index, (turn, tokens)) in turns.into_iter().zip(&prompts).enumerate() {
        let collected = Collected::new(turn).await?;
        let said = if echo { app.model.tokenizer.decode(tokens) } else { String::new() };
        let first = tokens.first().copied().filter(|_| echo);
        let scores = collected.prompt_scores.iter().chain(&collected.scores);
        choices.push(json!({
            "index": index,
            "text": said + &collected.text,
            "logprobs": wishes.top_logprobs.map(|_| Logprobs::default().of(&app.model, first, scores)),
            "finish_reason": finish_reason(collected.done.finish, false),
        }));
        whole.push(collected.done);
    }
    let mut total = whole[0].clone();
    for done in &whole[1..] {
        total.prompt += done.prompt;
        total.cached += done.cached;
        total.generated += done.generated;
        total.answer_time += done.answer_time;
        total.prompt_time += done.prompt_time;
    }
    let body = json!({"choices": choices, "usage": usage(&total), "timings": timings(&total)});
    Ok(json_response(StatusCode::OK, &head.with(body)))
}

fn wishes(fields: &Fields, model: &Model) -> Result<Wishes, ApiError> {
    for key in ["n", "best_of"] {
        if fields.count(key)?.is_some_and(|n| n != 1) {
            return Err(ApiError::field(key, "must be 1: ask again for another answer"));
        }
    }
    if fields.text("suffix")?.is_some_and(|suffix| !suffix.is_empty()) {
        return Err(ApiError::field(
            "suffix",
            "is not supported: put the model's own tokens for the middle into the prompt",
        ));
    }
    let top_logprobs = fields.count("logprobs")?;
    if top_logprobs.is_some_and(|top| top > TOP_LOGPROBS_MAX) {
        return Err(ApiError::field("logprobs", &format!("must be at most {TOP_LOGPROBS_MAX}")));
    }
    let tokens_max = Some(fields.count("max_tokens")?.unwrap_or(TOKENS_DEFAULT));
    Ok(Wishes { tokens_max, stop: fields.texts("stop")?, top_logprobs, ..Wishes::read(fields, model)? })
}

/// A text, several, or the same as token ids.
fn prompts(fields: &Fields, model: &Model) -> Result<Vec<Vec<u32>>, ApiError> {
    let given = fields.required("prompt", fields.value("prompt"))?;
    let problem = || ApiError::field("prompt", "must be a string, an array of strings, or token ids");
    let text = |text: &str| model.tokenizer.encode_raw(text).map_err(|error| ApiError::bad(error.to_string()));
    let ids = |list: &Vec<Value>| {
        let id = |id: &Value| {
            let id = id.as_u64().ok_or_else(problem)?;
            let outside =
                || ApiError::field("prompt", &format!("token id {id} is outside the vocabulary of {}", model.vocab));
            u32::try_from(id).ok().filter(|&id| (id as usize) < model.vocab).ok_or_else(outside)
        };
        list.iter().map(id).collect::<Result<Vec<u32>, ApiError>>()
    };
    let one = |prompt: &Value| match prompt {
        Value::String(prompt) => text(prompt),
        Value::Array(list) => ids(list),
        _ => Err(problem()),
    };
    let prompts = match given {
        Value::Array(list) if list.first().is_some_and(|first| !first.is_number()) => {
            if list.len() > PROMPTS_MAX {
                return Err(ApiError::field("prompt", &format!("must be at most {PROMPTS_MAX} prompts")));
            }
            list.iter().map(one).collect::<Result<Vec<_>, _>>()?
        }
        one_prompt => vec![one(one_prompt)?],
    };
    prompts.iter().try_for_each(|tokens| model.check_length(tokens.len()))?;
    Ok(prompts)
}

/// The probabilities of tokens of a text, as far as they are told.
#[derive(Default)]
struct Logprobs {
    /// Where in the text the next token begins, in characters.
    offset: usize,
}

impl Logprobs {
    /// Those of the next tokens. Of a prompt's very `first` token there is none.
    fn of<'a>(&mut self, model: &Model, first: Option<u32>, scores: impl IntoIterator<Item = &'a Score>) -> Value {
        let (mut tokens, mut logprobs, mut top, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut add = |token: u32, score: Option<&Score>| {
            let text = model.tokenizer.decode(&[token]);
            let alternatives = |score: &Score| {
                let one = |&(token, logprob): &(u32, f64)| (model.tokenizer.decode(&[token]), logprob.into());
                score.top.iter().map(one).collect::<Map<String, Value>>()
            };
            offsets.push(self.offset);
            self.offset += text.chars().count();
            tokens.push(text);
            logprobs.push(score.map(|score| score.logprob));
            top.push(score.map(alternatives));
        };
        first.into_iter().for_each(|token| add(token, None));
        scores.into_iter().for_each(|score| add(score.token, Some(score)));
        json!({"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets})
    }
}

/// Writes a text as chunks.
struct Writer {
    head: Head,
    model: Arc<Model>,
    /// What the stream repeats of its prompt: nothing, or all of it.
    echo: Vec<u32>,
    logprobs: Logprobs,
}

impl Writer {
    fn chunk(&self, text: &str, logprobs: Value, finish: Value) -> Value {
        let choice = json!({"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish});
        self.head.with(json!({"choices": [choice]}))
    }

    async fn write(mut self, mut turn: Turn, out: Out) -> Result<(), Gone> {
        if !self.echo.is_empty() {
            let said = self.model.tokenizer.decode(&self.echo);
            out.data(&self.chunk(&said, Value::Null, Value::Null)).await?;
        }
        loop {
            match out.next(&mut turn, COMMENT).await {
                Ok(Some(Said::Text(text))) => out.data(&self.chunk(&text, Value::Null, Value::Null)).await?,
                Ok(Some(Said::PromptScores(scores))) => {
                    let logprobs = self.logprobs.of(&self.model, self.echo.first().copied(), &scores);
                    out.data(&self.chunk("", logprobs, Value::Null)).await?;
                }
                Ok(Some(Said::Score(score))) => {
                    let logprobs = self.logprobs.of(&self.model, None, [&score]);
                    out.data(&self.chunk("", logprobs, Value::Null)).await?;
                }
                Ok(Some(Said::Queued(position))) => out.text(format!(": waiting, place {position}\n\n")).await?,
                Ok(Some(Said::Prompt { done, total, .. })) => {
                    out.text(format!(": prompt {done} of {total} tokens\n\n")).await?;
                }
                Ok(Some(Said::End(done))) => {
                    let mut last = self.chunk("", Value::Null, finish_reason(done.finish, false).into());
                    last["usage"] = usage(&done);
                    last["timings"] = timings(&done);
                    out.data(&last).await?;
                    return out.text("data: [DONE]\n\n").await;
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(Broken::Gone) => return Ok(()),
                Err(Broken::Failed(error)) => return out.data(&error.body(Api::OpenAi)).await,
            }
        }
    }
}
