//! One mutable timeline of tokens: the only door for callers.

use std::io::{Read, Write};

use outpour_model::ModelError;

use crate::engine::{Engine, Work};
use crate::error::EngineError;
use crate::observe::{Observer, SequenceId};

/// A timeline: tokens, some computed, some pending.
pub struct Session {
    sequence: SequenceId,
    tokens: Vec<u32>,
}

impl Session {
    /// An empty timeline. Give it back with [`Session::close`].
    pub fn open(engine: &mut Engine) -> Session {
        let tokens = Vec::with_capacity(engine.plan().ctx);
        Session { sequence: engine.open_sequence(), tokens }
    }

    /// Ends the timeline and frees its memory.
    pub fn close(self, engine: &mut Engine) {
        engine.close_sequence(self.sequence);
    }

    /// The tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Makes the timeline `tokens`, computing only what is new: reuses what it shares with the present one, forgets
    /// what comes after, and computes the rest. Afterwards the logits of the last token are there.
    ///
    /// # Errors
    /// As [`Engine::tick`] and [`Engine::enqueue`]; the timeline then holds what was computed.
    pub fn sync(
        &mut self,
        engine: &mut Engine,
        tokens: &[u32],
        observer: &mut dyn Observer,
    ) -> Result<(), EngineError> {
        if tokens.is_empty() {
            return Err(EngineError::NoTokens);
        }
        let shared = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let complete = shared == tokens.len() && shared == self.tokens.len();
        if complete && engine.logits(self.sequence).is_some() {
            return Ok(());
        }
        // The last token is computed anew where only its logits are missing.
        let keep = shared.min(tokens.len() - 1).min(engine.tokens_done(self.sequence));
        let keep = engine.truncate(self.sequence, keep);
        self.tokens.truncate(keep);
        self.extend(engine, &tokens[keep..], Work::Prompt, observer)
    }

    /// Adds tokens of a prompt and computes them.
    ///
    /// # Errors
    /// As [`Engine::tick`] and [`Engine::enqueue`].
    pub fn extend(
        &mut self,
        engine: &mut Engine,
        tokens: &[u32],
        work: Work,
        observer: &mut dyn Observer,
    ) -> Result<(), EngineError> {
        engine.enqueue(self.sequence, tokens, work)?;
        self.tokens.extend_from_slice(tokens);
        self.finish(engine, observer)
    }

    /// Waits until all of the sequence's work is done. What could not be computed is forgotten. An error that struck others is
    /// theirs: it comes again when they wait.
    fn finish(&mut self, engine: &mut Engine, observer: &mut dyn Observer) -> Result<(), EngineError> {
        while engine.logits(self.sequence).is_none() {
            match engine.tick(observer) {
                Ok(true) => {}
                Ok(false) => return Err(EngineError::NoTokens),
                Err(_) if engine.struck().all(|struck| struck != self.sequence) => {}
                Err(error) => {
                    let done = engine.tokens_done(self.sequence);
                    engine.truncate(self.sequence, done);
                    self.tokens.truncate(done);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Logits `[vocab]` after the last token, computing what is pending.
    ///
    /// # Errors
    /// As [`Engine::tick`].
    pub fn logits<'e>(
        &mut self,
        engine: &'e mut Engine,
        observer: &mut dyn Observer,
    ) -> Result<&'e [f32], EngineError> {
        self.finish(engine, observer)?;
        engine.logits(self.sequence).ok_or(EngineError::NoTokens)
    }

    /// Gives the next token: computes what is pending, lets `choose` pick from the logits `[vocab]` and the position
    /// of the token to come, and appends its choice, which stays pending until it is needed.
    ///
    /// # Errors
    /// As [`Engine::tick`]; [`EngineError::ContextFull`] when no further token fits.
    pub fn step(
        &mut self,
        engine: &mut Engine,
        observer: &mut dyn Observer,
        choose: &mut dyn FnMut(&[f32], usize) -> u32,
    ) -> Result<u32, EngineError> {
        let position = self.tokens.len();
        let token = choose(self.logits(engine, observer)?, position);
        engine.enqueue(self.sequence, &[token], Work::Step)?;
        self.tokens.push(token);
        Ok(token)
    }

    /// Writes the timeline: its tokens, then its state.
    ///
    /// # Errors
    /// When `out` does, or tokens are pending: [`Session::logits`] computes them.
    pub fn save(&self, engine: &Engine, out: &mut dyn Write) -> std::io::Result<()> {
        let done = engine.tokens_done(self.sequence);
        out.write_all(&(done as u64).to_le_bytes())?;
        self.tokens[..done].iter().try_for_each(|token| out.write_all(&token.to_le_bytes()))?;
        engine.save(self.sequence, out)
    }

    /// Reads back what [`Session::save`] wrote.
    ///
    /// # Errors
    /// When it is damaged, of another model or numerics, or does not fit the context.
    pub fn restore(engine: &mut Engine, input: &mut dyn Read) -> Result<Session, EngineError> {
        let damaged = |error: std::io::Error| {
            EngineError::Model(ModelError::State(format!("the saved session is damaged ({error}): start anew")))
        };
        let mut count = [0; 8];
        input.read_exact(&mut count).map_err(damaged)?;
        let (count, ctx) = (u64::from_le_bytes(count), engine.plan().ctx);
        if count > ctx as u64 {
            let problem =
                format!("the saved session claims {count} tokens, more than --ctx {ctx}: raise --ctx, or start anew");
            return Err(ModelError::State(problem).into());
        }
        let mut session = Session::open(engine);
        let mut read = || -> Result<(), EngineError> {
            let mut token = [0; 4];
            for _ in 0..count {
                input.read_exact(&mut token).map_err(damaged)?;
                session.tokens.push(u32::from_le_bytes(token));
            }
            engine.restore(session.sequence, input)?;
            if engine.tokens_done(session.sequence) != session.tokens.len() {
                return Err(ModelError::State(
                    "the saved session is damaged (its state holds other tokens): start anew".into(),
                )
                .into());
            }
            Ok(())
        };
        match read() {
            Ok(()) => Ok(session),
            Err(error) => {
                session.close(engine);
                Err(error)
            }
        }
    }

    /// A second timeline with the same past.
    ///
    /// # Errors
    /// As [`Engine::tick`], while pending tokens are computed.
    pub fn fork(&mut self, engine: &mut Engine, observer: &mut dyn Observer) -> Result<Session, EngineError> {
        self.finish(engine, observer)?;
        let mut tokens = Vec::with_capacity(engine.plan().ctx);
        tokens.extend_from_slice(&self.tokens);
        Ok(Session { sequence: engine.fork(self.sequence)?, tokens })
    }
}
