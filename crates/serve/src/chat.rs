//! A conversation, in whatever API it came, as tokens for the worker.

use std::sync::Arc;

use outpour_engine::sample::Sampling;
use outpour_text::{AnswerStream, ChatRequest, ChatTemplate, Dialect, TextError, Tokenizer, ends_thinking};
use serde_json::{Map, Value, json};

use crate::App;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::forms::{Form, check_references};
use crate::ids;
use crate::replay::Replay;
use crate::turn::Turn;
use crate::worker::{Ask, Budget, Door, Marks, Refused, Thoughts};

/// The text side of a model, and the numbers that requests are checked against.
pub struct Model {
    /// What clients call it.
    pub name: String,
    /// Of its files of weights.
    pub bytes: u64,
    /// `safetensors` or `gguf`.
    pub format: &'static str,
    /// What family of models it is of, as its config names it.
    pub family: &'static str,
    /// Its weights, counted one by one.
    pub parameters: u64,
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
    /// Whether a second call of a tool may follow.
    pub(crate) one_call: bool,
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
    /// Whether it writes thoughts.
    pub(crate) fn thinks(&self) -> bool {
        self.template.is_some() && self.tokenizer.token_id(self.dialect().thinking().1).is_some()
    }

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
        if messages.is_empty() {
            return Err(ApiError::bad("the conversation is empty: messages, or input, must hold at least one message"));
        }
        let request = ChatRequest {
            messages: messages.to_vec(),
            tools: (!chat.tools.is_empty()).then(|| chat.tools.clone()),
            add_generation_prompt: answer,
            kwargs: chat.kwargs.clone(),
            now_s: None,
        };
        self.template()?.render(&request).map_err(|error| ApiError::bad(error.without_folders().to_string()))
    }

    /// The tokens of a text.
    pub(crate) fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, ApiError> {
        // Normalisation may shorten a text, to a quarter at most.
        let bytes_max = 4 * self.ctx.saturating_mul(self.tokenizer.token_bytes_max());
        if text.len() > bytes_max {
            return Err(ApiError::bad(format!(
                "the prompt has {} bytes and cannot fit the context of {} tokens: shorten it, or give a larger --ctx",
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
                "the prompt has {tokens} tokens and does not fit the context of {ctx} with room for an answer: shorten it, or give a larger --ctx"
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
    /// the template puts after an answer, or to the token that ended it: of some models another one ends an answer with calls.
    /// `None` where the template shows it otherwise, such as without its thoughts.
    fn place_of(&self, chat: &Chat, message: usize, text: &str) -> Option<(usize, usize)> {
        let before = self.render(chat, &chat.messages[..message], true).ok()?;
        let with = self.render(chat, &chat.messages[..=message], false).ok()?;
        let mark = "\u{1}answer\u{1}";
        let plain = [json!({"role": "user", "content": "?"}), json!({"role": "assistant", "content": mark})];
        let plain = self.render(&Chat::default(), &plain, false).ok()?;
        let plain_end = plain.rsplit_once(mark)?.1;
        let said = with.strip_suffix(plain_end).or_else(|| {
            let mut ends = self.stop_tokens.iter().filter_map(|&id| self.tokenizer.token_bytes(id));
            ends.find_map(|end| with.trim_end().strip_suffix(std::str::from_utf8(end).ok()?))
        })?;
        (said.starts_with(&before) && text.starts_with(&with)).then_some((before.len(), said.len()))
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

    /// What tells thoughts from the rest of an answer, where this model has a token that ends them. `inside` says that the answer
    /// begins with them.
    fn thoughts(&self, inside: bool, budget: Option<usize>) -> Result<Option<Thoughts>, ApiError> {
        let dialect = self.dialect();
        let (open, close) = dialect.thinking();
        let Some(close) = self.tokenizer.token_id(close) else { return Ok(None) };
        // White space at the end of the mark may be one token with what follows.
        let open = self.encode(open.trim_end(), true)?;
        let closing = self.encode(&dialect.thoughts_end(), true)?;
        let budget = budget.map(|tokens| Budget { tokens, closing });
        Ok(Some(Thoughts::new(Marks { open, close, again: dialect.thinks_again() }, inside, budget)))
    }
}

/// How Claude Code begins a line of its system prompt that is another one in every request. It means nothing to a model, and as
/// the prompt's first tokens it would make every prompt a new one.
const BILLING: &str = "x-anthropic-billing-header:";

/// A system prompt without lines at its head that are other ones in every request.
pub(crate) fn without_noise(mut text: &str) -> &str {
    while text.starts_with(BILLING) {
        text = text.split_once('\n').map_or("", |(_, rest)| rest.trim_start());
    }
    text
}

/// A conversation as templates take it: system messages at its head are one message, without noise, and results of calls stand
/// in the order of the calls.
pub(crate) fn normalise(messages: &mut Vec<Value>) {
    let system = messages.iter().take_while(|message| message["role"] == "system").count();
    let texts = messages[..system].iter().filter_map(|message| message["content"].as_str());
    let texts: Vec<&str> = texts.map(without_noise).filter(|text| !text.is_empty()).collect();
    let joined = (!texts.is_empty()).then(|| json!({"role": "system", "content": texts.join("\n\n")}));
    messages.splice(..system, joined);
    order_results(messages);
}

/// Puts the results that follow calls in the order of the calls: clients send them as their tools ended, and many templates show
/// no ids. Where one belongs to none of the calls, they stay as they are.
fn order_results(messages: &mut [Value]) {
    let mut rest = messages;
    while let Some((message, after)) = rest.split_first_mut() {
        let count = after.iter().take_while(|message| message["role"] == "tool").count();
        let (results, after) = after.split_at_mut(count);
        let calls = message["tool_calls"].as_array().map_or(&[][..], Vec::as_slice);
        let place = |result: &Value| calls.iter().position(|call| call["id"] == result["tool_call_id"]);
        if results.iter().all(|result| place(result).is_some()) {
            results.sort_by_key(place);
        }
        rest = after;
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
        let thoughts = model.thoughts(thinking, chat.budget)?;
        check_references(&chat)?;
        let constraint = shared.forms.constraint(model, &chat, thinking)?;
        let prompt_tokens = prompt.tokens.len();
        let ask = Ask { marks: prompt.marks, thoughts, constraint, ..model.ask(prompt.tokens, &chat.wishes) };
        Ok((ask, stream, prompt_tokens))
    });
    let (ask, stream, prompt_tokens) = prepared.await.map_err(|error| ApiError::unavailable(error.to_string()))??;
    Ok(Turn::new(submit(&app.door, ask)?, Some(stream), Some(app.replay.clone()), prompt_tokens))
}

#[cfg(test)]
mod tests {
    use outpour_text::ToolCall;

    use super::*;

    /// A call comes back as the model wrote it, whatever token ends an answer with calls: here another one than others.
    #[test]
    fn a_call_that_comes_back_is_the_model_s_own() {
        let json = include_bytes!("../../../tests/fixtures/text/tokenizer.json");
        let tokenizer = Arc::new(Tokenizer::from_json(json, None).expect("the fixture"));
        let source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\
            {% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }} {{ c.function.arguments | tojson }}</tool_call>{% endfor %}\
            {{ '<|endoftext|>' if m.tool_calls else '<|im_end|>' }}\n{% endfor %}\
            {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
        let template = ChatTemplate::from_source(source, &Map::new()).expect("a template");
        let ends = ["<|im_end|>", "<|endoftext|>"].map(|end| tokenizer.token_id(end).expect("a token"));
        let model = Model {
            name: "model".into(),
            bytes: 0,
            format: "safetensors",
            family: "qwen3_moe",
            parameters: 0,
            vocab: tokenizer.vocab_size(),
            tokenizer,
            template: Some(template),
            stop_tokens: ends.to_vec(),
            sampling: Sampling::default(),
            ctx: 4096,
            recurrent: false,
        };
        let arguments = json!({"city": "Oslo", "days": 3});
        let call = json!({"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": arguments}});
        let messages = vec![
            json!({"role": "user", "content": "How is it?"}),
            json!({"role": "assistant", "content": "", "tool_calls": [call]}),
            json!({"role": "tool", "tool_call_id": "call_1", "content": "sunny"}),
        ];
        let said = "<tool_call>weather  {\"days\":3,  \"city\":\"Oslo\"}</tool_call>";
        let own = model.encode(said, true).expect("tokens");
        let replay = Replay::default();
        let called = ToolCall { name: "weather".into(), arguments: arguments.as_object().expect("an object").clone() };
        replay.remember(vec![("call_1".into(), called)], &own);
        let chat = Chat { messages, ..Chat::default() };
        let prompt = model.prompt(&chat, &replay).expect("a prompt");
        let text = model.tokenizer.decode(&prompt.tokens);
        let begin = "<|im_start|>user\nHow is it?<|im_end|>\n<|im_start|>assistant\n";
        assert!(text.starts_with(&format!("{begin}{said}<|endoftext|>\n<|im_start|>tool\nsunny")), "{text}");
        assert!(prompt.tokens.windows(own.len()).any(|tokens| tokens == own));
    }

    fn ids(messages: &[Value]) -> Vec<&str> {
        messages.iter().filter_map(|message| message["tool_call_id"].as_str()).collect()
    }

    #[test]
    fn results_stand_in_the_order_of_their_calls() {
        let calls = |ids: &[&str]| {
            let calls: Vec<Value> = ids.iter().map(|id| json!({"id": id, "function": {"name": "f"}})).collect();
            json!({"role": "assistant", "content": "", "tool_calls": calls})
        };
        let result = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": id});
        let user = json!({"role": "user", "content": "And?"});
        let mut messages = vec![calls(&["a", "b", "c"]), result("c"), result("a"), result("b"), user.clone()];
        messages.extend([calls(&["e", "d"]), result("d"), result("e")]);
        normalise(&mut messages);
        assert_eq!(ids(&messages), ["a", "b", "c", "e", "d"]);
        assert_eq!((&messages[4], messages.len()), (&user, 8));
        // One that belongs to no call.
        let mut strange = vec![calls(&["a", "b"]), result("b"), result("x"), result("a")];
        normalise(&mut strange);
        assert_eq!(ids(&strange), ["b", "x", "a"]);
        // Without ids they stand as they came.
        let nameless = |content: &str| json!({"role": "tool", "content": content});
        let call = json!({"function": {"name": "f"}});
        let assistant = json!({"role": "assistant", "content": "", "tool_calls": [call, call]});
        let mut plain = vec![assistant, nameless("2"), nameless("1")];
        normalise(&mut plain);
        assert_eq!((&plain[1]["content"], &plain[2]["content"]), (&json!("2"), &json!("1")));
    }
}
