//! A conversation, in whatever API it came, as tokens for the worker.

use std::sync::Arc;

use outpour_engine::sample::Sampling;
use outpour_text::{AnswerStream, ChatRequest, ChatTemplate, Dialect, TextError, Tokenizer, ends_thinking};
use serde_json::{Map, Value, json};

use crate::App;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::forms::Form;
use crate::ids;
use crate::replay::Replay;
use crate::turn::Turn;
use crate::worker::{Ask, Budget, Door, Refused};

/// The text side of a model, and the numbers that requests are checked against.
pub struct Model {
    /// What clients call it.
    pub name: String,
    /// Text to tokens and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Conversations to text, where the model has a template.
    pub template: Option<ChatTemplate>,
    /// Tokens that end an answer.
    pub stop_tokens: Vec<u32>,
    /// How tokens are chosen where a request is silent. Its seed is not used: each request without one gets its own.
    pub sampling: Sampling,
    /// Logits of a position.
    pub vocab: usize,
    /// Tokens of prompt and answer together, at most.
    pub ctx: usize,
    /// Whether states are recurrent, so that they must be saved at borders of messages.
    pub recurrent: bool,
}

/// What is asked for, beside the words.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) sampling: Sampling,
    pub(crate) tokens_max: Option<usize>,
    pub(crate) stop: Vec<String>,
    pub(crate) ignore_eos: bool,
    pub(crate) top_logprobs: Option<usize>,
}

/// A conversation to be answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chat {
    /// As the template takes them.
    pub(crate) messages: Vec<Value>,
    pub(crate) tools: Vec<Value>,
    /// Variables of the template.
    pub(crate) kwargs: Map<String, Value>,
    pub(crate) wishes: Wishes,
    /// Tokens that may be thought.
    pub(crate) budget: Option<usize>,
    /// What the answer is held to.
    pub(crate) form: Form,
}

/// A conversation as text and tokens.
pub(crate) struct Prompt {
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
    marks: Vec<usize>,
}

/// Alternatives of a token that may be asked for.
pub(crate) const TOP_LOGPROBS_MAX: usize = 20;

impl Wishes {
    /// Reads how tokens are to be chosen.
    pub(crate) fn read(fields: &Fields, model: &Model) -> Result<Wishes, ApiError> {
        let number = |key: &str, default: f32| Ok::<f32, ApiError>(fields.number(key)?.map_or(default, |x| x as f32));
        let plain = &model.sampling;
        let repetition = number("repeat_penalty", plain.repetition_penalty)?;
        let sampling = Sampling {
            temperature: number("temperature", plain.temperature)?,
            top_k: fields.integer("top_k")?.map_or(plain.top_k, |k| usize::try_from(k).unwrap_or(0)),
            top_p: number("top_p", plain.top_p)?,
            min_p: number("min_p", plain.min_p)?,
            repetition_penalty: number("repetition_penalty", repetition)?,
            presence_penalty: number("presence_penalty", plain.presence_penalty)?,
            frequency_penalty: number("frequency_penalty", plain.frequency_penalty)?,
            logit_bias: logit_bias(fields, model.vocab)?,
            seed: fields.integer("seed")?.map_or_else(ids::random, |seed| seed as u64),
        };
        sampling.check().map_err(ApiError::bad)?;
        Ok(Wishes { sampling, ignore_eos: fields.flag("ignore_eos")?.unwrap_or(false), ..Wishes::default() })
    }
}

fn logit_bias(fields: &Fields, vocab: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let read = |(token, bias): (&String, &Value)| {
        let token = token.parse().ok().filter(|&token: &u32| (token as usize) < vocab)?;
        Some((token, bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias))? as f32))
    };
    let given = fields.object("logit_bias")?.into_iter().flatten();
    let problem = format!("must be an object of token ids below {vocab} and numbers from -100 to 100");
    given.map(|entry| read(entry).ok_or_else(|| ApiError::field("logit_bias", &problem))).collect()
}

impl Model {
    fn template(&self) -> Result<&ChatTemplate, ApiError> {
        let missing = "this model has no chat template: use /v1/completions";
        self.template.as_ref().ok_or_else(|| ApiError::bad(missing))
    }

    /// How it writes thoughts and calls.
    pub(crate) fn dialect(&self) -> Dialect {
        self.template.as_ref().map_or_else(Dialect::default, |template| Dialect::of_template(template.source()))
    }

    /// The conversation as text.
    pub(crate) fn render(&self, chat: &Chat, messages: &[Value], answer: bool) -> Result<String, ApiError> {
        let request = ChatRequest {
            messages: messages.to_vec(),
            tools: (!chat.tools.is_empty()).then(|| chat.tools.clone()),
            add_generation_prompt: answer,
            kwargs: chat.kwargs.clone(),
            now_s: None,
        };
        self.template()?.render(&request).map_err(|error| ApiError::bad(error.to_string()))
    }

    /// The tokens of a text.
    pub(crate) fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, ApiError> {
        // Normalisation may shorten a text, to a quarter at most.
        let bytes_max = 4 * self.ctx.saturating_mul(self.tokenizer.token_bytes_max());
        if text.len() > bytes_max {
            return Err(ApiError::bad(format!(
                "the prompt has {} bytes and cannot fit the context of {} tokens: shorten it, or start the server with a larger --ctx",
                text.len(),
                self.ctx
            )));
        }
        self.tokenizer.encode(text, special).map_err(|error: TextError| ApiError::bad(error.to_string()))
    }

    /// The conversation as tokens, with the places to which later ones may want to go back. What the model said itself in
    /// answers with calls stands there in its own tokens.
    pub(crate) fn prompt(&self, chat: &Chat, replay: &Replay) -> Result<Prompt, ApiError> {
        let text = self.render(chat, &chat.messages, true)?;
        let tokens = self.splice(chat, &text, replay)?;
        self.check_length(tokens.len())?;
        let marks = if self.recurrent { self.marks(chat, &tokens)? } else { Vec::new() };
        Ok(Prompt { text, tokens, marks })
    }

    pub(crate) fn check_length(&self, tokens: usize) -> Result<(), ApiError> {
        if tokens == 0 {
            return Err(ApiError::bad("the prompt is empty: give at least one token"));
        }
        if tokens >= self.ctx {
            let ctx = self.ctx;
            return Err(ApiError::bad(format!(
                "the prompt has {tokens} tokens and does not fit the context of {ctx} with room for an answer: shorten it, or start the server with a larger --ctx"
            )));
        }
        Ok(())
    }

    /// Ends of what other conversations share with this one: its system message and tools; and all of its messages, before
    /// the beginning of the answer.
    fn marks(&self, chat: &Chat, tokens: &[u32]) -> Result<Vec<usize>, ApiError> {
        let system = chat.messages.iter().take_while(|message| message["role"] == "system").count();
        let mut short = chat.messages[..system].to_vec();
        short.push(json!({"role": "user", "content": "\u{1}"}));
        let whole = (chat.messages.as_slice(), false);
        let mut marks = Vec::new();
        for (messages, answer) in [(short.as_slice(), true), whole] {
            // A template may refuse a conversation that is cut; then there is no mark.
            let Ok(text) = self.render(chat, messages, answer) else { continue };
            let other = self.encode(&text, true)?;
            marks.push(other.iter().zip(tokens).take_while(|(a, b)| a == b).count());
        }
        marks.sort_unstable();
        marks.dedup();
        Ok(marks)
    }

    /// The tokens of the rendered conversation, with answers that are remembered in their own.
    fn splice(&self, chat: &Chat, text: &str, replay: &Replay) -> Result<Vec<u32>, ApiError> {
        let mut tokens = Vec::new();
        let mut at = 0;
        for (i, message) in chat.messages.iter().enumerate() {
            let Some(remembered) = replay.find(message) else { continue };
            if let Some((from, to)) = self.place_of(chat, i, text).filter(|(from, _)| *from >= at) {
                tokens.extend(self.encode(&text[at..from], true)?);
                tokens.extend_from_slice(&remembered.tokens);
                at = to;
            }
        }
        tokens.extend(self.encode(&text[at..], true)?);
        Ok(tokens)
    }

    /// Where in the rendered conversation an answer stands: from behind the beginning that it was generated after, to what
    /// the template puts after an answer. `None` where the template shows it otherwise, such as without its thoughts.
    fn place_of(&self, chat: &Chat, message: usize, text: &str) -> Option<(usize, usize)> {
        let before = self.render(chat, &chat.messages[..message], true).ok()?;
        let with = self.render(chat, &chat.messages[..=message], false).ok()?;
        let mark = "\u{1}answer\u{1}";
        let plain = [json!({"role": "user", "content": "?"}), json!({"role": "assistant", "content": mark})];
        let plain = self.render(&Chat::default(), &plain, false).ok()?;
        let end = plain.rsplit_once(mark)?.1;
        let fits = with.starts_with(&before) && text.starts_with(&with) && with.ends_with(end);
        (fits && before.len() + end.len() <= with.len()).then(|| (before.len(), with.len() - end.len()))
    }

    /// What the worker is asked for.
    pub(crate) fn ask(&self, tokens: Vec<u32>, wishes: &Wishes) -> Ask {
        let room = self.ctx - tokens.len().min(self.ctx);
        let marks = self.dialect().marks();
        Ask {
            tokens,
            sampling: wishes.sampling.clone(),
            tokens_max: wishes.tokens_max.unwrap_or(room).min(room),
            stop_tokens: if wishes.ignore_eos { Vec::new() } else { self.stop_tokens.clone() },
            stop: wishes.stop.clone(),
            shown: marks.filter_map(|mark| self.tokenizer.token_id(mark)).collect(),
            top_logprobs: wishes.top_logprobs,
            ..Ask::default()
        }
    }

    fn budget(&self, tokens: usize) -> Result<Option<Budget>, ApiError> {
        let (_, close) = self.dialect().thinking();
        let Some(id) = self.tokenizer.token_id(close) else { return Ok(None) };
        let closing = self.encode(&format!("\n{close}\n\n"), true)?;
        Ok(Some(Budget { tokens, close: id, closing }))
    }
}

/// Sends a request to the worker.
pub(crate) fn submit(door: &Door, ask: Ask) -> Result<tokio::sync::mpsc::Receiver<crate::worker::Event>, ApiError> {
    door.submit(ask).map_err(|refused| match refused {
        Refused::Full(max) => ApiError::new(
            axum::http::StatusCode::TOO_MANY_REQUESTS,
            format!("{max} requests wait already: send it again later"),
        ),
        Refused::Ending => ApiError::unavailable("the server is ending, or its model cannot be loaded"),
        Refused::Stop(problem) => ApiError { param: Some("stop".into()), ..ApiError::bad(problem) },
    })
}

/// Begins the answer to a conversation. Rendering and tokenizing may take a while, and so have a thread of their own.
pub(crate) async fn begin(app: &Arc<App>, chat: Chat) -> Result<Turn, ApiError> {
    let shared = app.clone();
    let prepared = tokio::task::spawn_blocking(move || {
        let model = &shared.model;
        let prompt = model.prompt(&chat, &shared.replay)?;
        let thinking = ends_thinking(model.dialect(), &prompt.text);
        let stream = AnswerStream::new(model.dialect(), thinking, &chat.tools);
        let budget = chat.budget.filter(|_| thinking).map(|tokens| model.budget(tokens)).transpose()?.flatten();
        let constraint = shared.forms.constraint(model, &chat, thinking)?;
        let prompt_tokens = prompt.tokens.len();
        let ask = Ask { marks: prompt.marks, budget, constraint, ..model.ask(prompt.tokens, &chat.wishes) };
        Ok((ask, stream, prompt_tokens))
    });
    let (ask, stream, prompt_tokens) = prepared.await.map_err(|error| ApiError::unavailable(error.to_string()))??;
    Ok(Turn::new(submit(&app.door, ask)?, Some(stream), Some(app.replay.clone()), prompt_tokens))
}
