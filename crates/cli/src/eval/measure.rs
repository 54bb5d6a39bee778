//! A model computing tasks: likelihoods of texts and choices, and answers.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use outpour_engine::sample::argmax;
use outpour_engine::score::{self, log_probability};
use outpour_engine::{Engine, EngineError, Session, Work};
use outpour_text::{Answer, ChatRequest, ChatTemplate, Dialect, Tokenizer, ends_thinking};
use serde_json::{Map, Value, json};

use super::is_interrupt;
use super::items::{Dialog, Prompt, Question, Task, What};
use super::reference::Reference;
use super::results::{Answered, Choice, Likelihood, Outcome, Results, fingerprint};
use crate::term::{self, Interruptible, TaskProgress};

/// What one model did.
pub struct Measured {
    /// The model, its weights and its numbers.
    pub identity: String,
    /// Its folder.
    pub dir: PathBuf,
    /// By task; fewer than there are where the user stopped it.
    pub tasks: Vec<TaskOutcome>,
    /// Whether everything was computed.
    pub finished: bool,
}

/// What became of a task.
#[derive(Default)]
pub struct TaskOutcome {
    /// Its items; more than there are outcomes where the user stopped it.
    pub items: usize,
    /// By item; texts, and answers that persons gave, come before the model's own.
    pub outcomes: Vec<Outcome>,
    /// Tokens of a window of text.
    pub window: usize,
    /// Items whose outcome was known.
    pub kept: usize,
}

/// What is done with the logits of texts beside scoring them.
pub enum Divergence<'a> {
    /// Nothing.
    None,
    /// They are kept.
    Keep(&'a mut Reference),
    /// They are compared with those kept.
    Compare(&'a mut Reference, Apart),
}

/// How far two models are apart.
#[derive(Default)]
pub struct Apart {
    /// Divergence of each token's distribution, in nats.
    pub kl: Vec<f32>,
    /// Tokens for which both find the same one most likely.
    pub agree: usize,
    /// Row that is compared.
    row: Vec<f32>,
}

/// A model at work.
pub struct Measuring<'a> {
    /// The model, its weights and its numbers.
    pub identity: String,
    /// Its folder.
    pub dir: PathBuf,
    /// The model.
    pub engine: Engine,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its template, if it has one.
    pub template: Option<ChatTemplate>,
    /// The tokens that end its answers.
    pub stop_tokens: Vec<u32>,
    /// Tokens of a window of text.
    pub window: usize,
    /// Windows of a text at most.
    pub limit: usize,
    /// Tokens of an answer at most.
    pub answer_tokens_max: usize,
    /// Whether texts of prompts are continued as they stand.
    pub raw: bool,
    /// What is done with logits.
    pub divergence: Divergence<'a>,
    /// What is known already.
    pub results: &'a mut Results,
}

/// Tokens of which those from `from` on are scored.
struct Stretch {
    tokens: Vec<u32>,
    from: usize,
}

/// An item of a file, ready to be computed.
struct Ready<T> {
    line: usize,
    /// Names its content.
    item: String,
    what: T,
}

impl Measuring<'_> {
    /// Computes tasks until they are done, or the user stops it.
    ///
    /// # Errors
    /// When an item does not fit the context or the template, or something failed.
    pub fn run(mut self, tasks: &[Task]) -> Result<(Measured, Option<Apart>)> {
        let (mut done, mut finished) = (Vec::new(), true);
        for task in tasks {
            let mut outcome = TaskOutcome::default();
            let ran = match &task.what {
                What::Text(text) => self.text(&task.file, text, &mut outcome),
                What::Choices(questions, _) => self.choices(&task.file, questions, &mut outcome),
                What::Answers(dialogs, texts) => self.answers(&task.file, dialogs, texts, &mut outcome),
            };
            if outcome.kept > 0 {
                term::note(&format!("{}: {} items were known, and not computed again", task.file, outcome.kept));
            }
            done.push(outcome);
            match ran {
                Err(error) if is_interrupt(&error) => {
                    finished = false;
                    break;
                }
                ran => ran?,
            }
        }
        let apart = match self.divergence {
            Divergence::Compare(_, apart) => Some(apart),
            _ => None,
        };
        Ok((Measured { identity: self.identity, dir: self.dir, tasks: done, finished }, apart))
    }

    fn text(&mut self, file: &str, text: &str, done: &mut TaskOutcome) -> Result<()> {
        done.window = self.window;
        let mut ready = self.ready_text(0, text).with_context(|| file.to_owned())?;
        ready.truncate(self.limit);
        self.announce(ready.iter().map(|ready| &ready.what));
        self.each(file, &ready, done, |own, stretch| own.score(stretch).map(Outcome::Likelihood))
    }

    /// The windows of a text.
    fn ready_text(&self, line: usize, text: &str) -> Result<Vec<Ready<Stretch>>> {
        let tokens = self.tokenizer.encode_raw(text)?;
        crate::model::check_text(&tokens, &self.tokenizer, self.engine.facts())?;
        if tokens.len() < 2 {
            bail!("is a text of a single token, in which nothing can be predicted; give a longer one");
        }
        let stretch = |window: score::Window| {
            let from = window.scored_from - window.tokens.start;
            let stretch = Stretch { tokens: tokens[window.tokens].to_vec(), from };
            Ready { line, item: stretch.name(), what: stretch }
        };
        Ok(score::windows(tokens.len(), self.window).into_iter().map(stretch).collect())
    }

    /// Says what keeping logits takes.
    fn announce<'s>(&self, stretches: impl Iterator<Item = &'s Stretch>) {
        if let Divergence::Keep(reference) = &self.divergence {
            let tokens: usize = stretches.map(|stretch| stretch.tokens.len() - stretch.from).sum();
            let bytes = 4 * tokens * self.engine.facts().vocab;
            term::note(&format!(
                "The logits of {tokens} tokens, {}, are kept in {} until they are compared.",
                outpour_store::bytes::Bytes(bytes as u64),
                reference.dir().display()
            ));
        }
    }

    /// Computes the items that are not known.
    fn each<T>(
        &mut self,
        file: &str,
        ready: &[Ready<T>],
        done: &mut TaskOutcome,
        mut compute: impl FnMut(&mut Self, &T) -> Result<Outcome>,
    ) -> Result<()> {
        done.items += ready.len();
        let mut progress = TaskProgress::start(file, Some(ready.len()));
        for one in ready {
            let known = self.results.get(&self.identity, &one.item).cloned();
            // Two models are compared over all tokens, and logits are not kept beyond a run.
            let compares =
                matches!(known, Some(Outcome::Likelihood(_))) && !matches!(self.divergence, Divergence::None);
            let outcome = match known.filter(|_| !compares) {
                Some(outcome) => {
                    done.kept += 1;
                    progress.keep();
                    outcome
                }
                None => {
                    if term::stopped() {
                        return Err(EngineError::Cancelled.into());
                    }
                    let place = || if one.line > 0 { format!("{file} line {}", one.line) } else { file.to_owned() };
                    let outcome = compute(self, &one.what).with_context(place)?;
                    if !compares {
                        self.results.put(&self.identity, &one.item, (file, one.line), &outcome)?;
                    }
                    progress.advance();
                    outcome
                }
            };
            done.outcomes.push(outcome);
        }
        Ok(())
    }

    /// How likely a stretch of text is; its logits are kept, or compared.
    fn score(&mut self, stretch: &Stretch) -> Result<Likelihood> {
        let Stretch { tokens, from } = stretch;
        let mut likelihood = Likelihood { tokens: tokens.len() - from, ..Likelihood::default() };
        likelihood.bytes =
            tokens[*from..].iter().filter_map(|&id| self.tokenizer.token_bytes(id)).map(<[u8]>::len).sum();
        let mut failed = None;
        let divergence = &mut self.divergence;
        let mut see = |i: usize, logits: &[f32]| {
            likelihood.nats -= log_probability(logits, tokens[from + i]);
            if failed.is_none() {
                failed = divergence.take(tokens[from + i], logits).err();
            }
        };
        let mut session = Session::open(&mut self.engine);
        let context = session.extend(&mut self.engine, &tokens[..*from], Work::Prompt, &mut Interruptible);
        let seen = context.and_then(|()| {
            score::predictions(&mut self.engine, &mut session, &tokens[*from..], &mut Interruptible, &mut see)
        });
        session.close(&mut self.engine);
        seen?;
        failed.map_or(Ok(likelihood), Err)
    }

    fn choices(&mut self, file: &str, questions: &[Question], done: &mut TaskOutcome) -> Result<()> {
        let ready = |question| self.ready_question(question).with_context(|| format!("{file} line {}", question.line));
        let ready: Vec<Ready<Tokens>> = questions.iter().map(ready).collect::<Result<_>>()?;
        let mut session = Session::open(&mut self.engine);
        let ran = self.each(file, &ready, done, |own, tokens| own.choose(&mut session, tokens));
        session.close(&mut self.engine);
        ran
    }

    fn ready_question(&self, question: &Question) -> Result<Ready<Tokens>> {
        let mut prefix = self.tokenizer.encode_raw(&question.prompt)?;
        let whole = |continuation: &String| self.tokenizer.encode_raw(&(question.prompt.clone() + continuation));
        let wholes: Vec<Vec<u32>> = question.continuations.iter().map(whole).collect::<Result<_, _>>()?;
        // Where a choice changes the tokens before it, every choice is scored from there on.
        let shared =
            |whole: &Vec<u32>| whole.iter().zip(&prefix).take_while(|(a, b)| a == b).count().min(whole.len() - 1);
        let at = wholes.iter().map(shared).min().unwrap_or(0);
        prefix.truncate(at);
        let longest = wholes.iter().map(Vec::len).max().unwrap_or(0);
        self.check_fits(&wholes.concat(), longest)?;
        let item =
            json!(["choice", prefix, wholes.iter().map(|whole| &whole[at..]).collect::<Vec<_>>(), question.answer]);
        let tokens = Tokens {
            continuations: wholes.into_iter().map(|whole| whole[at..].to_vec()).collect(),
            bytes: question.continuations.iter().map(|text| text.trim().len().max(1)).collect(),
            answer: question.answer,
            prefix,
        };
        Ok(Ready { line: question.line, item: fingerprint(item.to_string().as_bytes()), what: tokens })
    }

    /// Checks that these are tokens of the model, and that so many fit its context.
    fn check_fits(&self, tokens: &[u32], count: usize) -> Result<()> {
        crate::model::check_text(tokens, &self.tokenizer, self.engine.facts())?;
        let (ctx, ctx_max) = (self.engine.plan().ctx, self.engine.facts().context_max);
        if count > ctx {
            return Err(EngineError::ContextFull { tokens: count, ctx, ctx_max }.into());
        }
        Ok(())
    }

    fn choose(&mut self, session: &mut Session, tokens: &Tokens) -> Result<Outcome> {
        session.sync(&mut self.engine, &tokens.prefix, &mut Interruptible)?;
        let mut nats = Vec::new();
        for continuation in &tokens.continuations {
            nats.push(score::likelihood(&mut self.engine, session, continuation, &mut Interruptible)?.nats);
        }
        let by_length: Vec<f64> = nats.iter().zip(&tokens.bytes).map(|(nats, &bytes)| nats / bytes as f64).collect();
        Ok(Outcome::Choice(Choice {
            right: highest(&nats) == tokens.answer,
            right_by_length: highest(&by_length) == tokens.answer,
            nats,
        }))
    }

    fn answers(
        &mut self,
        file: &str,
        dialogs: &[Dialog],
        texts: &[(usize, String)],
        done: &mut TaskOutcome,
    ) -> Result<()> {
        let place = |line: usize| format!("{file} line {line}");
        let ready = |dialog| self.ready_dialog(dialog).with_context(|| place(dialog.line));
        let prompts: Vec<Ready<Asked>> = dialogs.iter().map(ready).collect::<Result<_>>()?;
        let mut given = Vec::new();
        for (dialog, prompt) in dialogs.iter().zip(&prompts) {
            given.extend(self.ready_given(dialog, &prompt.what).with_context(|| place(dialog.line))?);
        }
        for (line, text) in texts {
            given.extend(self.ready_text(*line, text).with_context(|| place(*line))?);
        }
        if !given.is_empty() {
            self.announce(given.iter().map(|ready: &Ready<Stretch>| &ready.what));
            self.each(file, &given, done, |own, stretch| own.score(stretch).map(Outcome::Likelihood))?;
        }
        let mut session = Session::open(&mut self.engine);
        let ran = self.each(file, &prompts, done, |own, asked| own.answer(&mut session, asked));
        session.close(&mut self.engine);
        ran
    }

    fn ready_dialog<'d>(&self, dialog: &'d Dialog) -> Result<Ready<Asked<'d>>> {
        let (text, tokens) = match &dialog.prompt {
            Prompt::Text(text) if self.raw || self.template.is_none() => {
                (text.clone(), self.tokenizer.encode_raw(text)?)
            }
            Prompt::Text(text) => self.render(dialog, vec![json!({"role": "user", "content": text})], true)?,
            Prompt::Messages(messages) => self.render(dialog, messages.clone(), true)?,
        };
        // At least one token of an answer.
        self.check_fits(&tokens, tokens.len() + 1)?;
        let item =
            json!(["answer", tokens, dialog.kind, dialog.tools, dialog.expect.describe(), self.answer_tokens_max]);
        let item = fingerprint(item.to_string().as_bytes());
        Ok(Ready { line: dialog.line, item, what: Asked { dialog, text, tokens } })
    }

    fn render(&self, dialog: &Dialog, messages: Vec<Value>, add_generation_prompt: bool) -> Result<(String, Vec<u32>)> {
        let Some(template) = &self.template else {
            bail!("the model {} has no chat template for `messages`; give a `prompt`", self.dir.display());
        };
        let thinking = dialog.thinking.map(|thinking| ("enable_thinking".to_owned(), thinking.into()));
        let text = template.render(&ChatRequest {
            messages,
            tools: (!dialog.tools.is_empty()).then(|| dialog.tools.clone()),
            add_generation_prompt,
            kwargs: Map::from_iter(thinking),
            now_s: Some(0),
        })?;
        let tokens = self.tokenizer.encode(&text, true)?;
        Ok((text, tokens))
    }

    /// The answer that a person gave, as the template writes it behind the prompt; none where it writes it elsewhere.
    fn ready_given(&self, dialog: &Dialog, asked: &Asked) -> Result<Option<Ready<Stretch>>> {
        let (Some(given), Prompt::Messages(messages)) = (&dialog.given, &dialog.prompt) else { return Ok(None) };
        let messages = messages.iter().chain([given]).cloned().collect();
        let (whole, _) = self.render(dialog, messages, false)?;
        let Some(answer) = whole.strip_prefix(&asked.text).map(str::trim_end).filter(|answer| !answer.is_empty())
        else {
            return Ok(None);
        };
        let mut tokens = asked.tokens.clone();
        let from = tokens.len();
        tokens.extend(self.tokenizer.encode(answer, true)?);
        self.check_fits(&tokens, tokens.len())?;
        let stretch = Stretch { tokens, from };
        Ok(Some(Ready { line: dialog.line, item: stretch.name(), what: stretch }))
    }

    /// Generates an answer, greedily, and judges it.
    fn answer(&mut self, session: &mut Session, asked: &Asked) -> Result<Outcome> {
        session.sync(&mut self.engine, &asked.tokens, &mut Interruptible)?;
        let (mut tokens, mut ended) = (Vec::new(), false);
        while tokens.len() < self.answer_tokens_max {
            if term::stopped() {
                return Err(EngineError::Cancelled.into());
            }
            let next = session.step(&mut self.engine, &mut Interruptible, &mut |logits, _| argmax(logits));
            let token = match next {
                Err(EngineError::ContextFull { .. }) => break,
                next => next?,
            };
            ended = self.stop_tokens.contains(&token);
            if ended {
                break;
            }
            tokens.push(token);
        }
        let dialect = self.template.as_ref().map_or_else(Dialect::default, |t| Dialect::of_template(t.source()));
        // As `run` shows it, but with the tags by which an answer is taken apart, which some tokenizers call special.
        let is_shown = |&id: &u32| {
            !self.tokenizer.is_special(id) || dialect.marks().any(|mark| self.tokenizer.token_id(mark) == Some(id))
        };
        let shown: Vec<u32> = tokens.iter().copied().filter(is_shown).collect();
        let text = self.tokenizer.decode(&shown);
        let answer = Answer::parse(dialect, &text, ends_thinking(dialect, &asked.text), &asked.dialog.tools);
        let verdict = asked.dialog.expect.judge(&answer, &asked.dialog.tools);
        Ok(Outcome::Answer(Answered {
            kind: asked.dialog.kind.clone(),
            right: verdict.right,
            valid: verdict.valid,
            problem: verdict.problem,
            text,
            tokens: tokens.len(),
            ended,
        }))
    }
}

impl Divergence<'_> {
    /// Takes the row of logits that predicts a token.
    fn take(&mut self, token: u32, logits: &[f32]) -> Result<()> {
        match self {
            Divergence::None => {}
            Divergence::Keep(reference) => reference.push(token, logits)?,
            Divergence::Compare(reference, apart) => {
                reference.next(token, &mut apart.row, logits.len())?;
                apart.kl.push(score::kl_divergence(&apart.row, logits) as f32);
                apart.agree += usize::from(argmax(&apart.row) == argmax(logits));
            }
        }
        Ok(())
    }
}

impl Stretch {
    /// Names its content.
    fn name(&self) -> String {
        fingerprint(json!(["likelihood", self.tokens, self.from]).to_string().as_bytes())
    }
}

/// A question in tokens.
struct Tokens {
    prefix: Vec<u32>,
    continuations: Vec<Vec<u32>>,
    /// Length of each choice as text.
    bytes: Vec<usize>,
    answer: usize,
}

/// A prompt, as text and in tokens.
struct Asked<'d> {
    dialog: &'d Dialog,
    text: String,
    tokens: Vec<u32>,
}

/// The place of the largest value; of equals, the first.
fn highest(values: &[f64]) -> usize {
    let mut best = 0;
    for (i, &value) in values.iter().enumerate() {
        if value > values[best] {
            best = i;
        }
    }
    best
}
