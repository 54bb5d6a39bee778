//! One mutable timeline of tokens: the only door for callers.

use crate::engine::Engine;
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
    /// what comes after, and computes the rest. Afterwards the logits of the last token are there. `marks` are
    /// positions, such as borders of messages, to which a later timeline may want to go back; a state of keys and
    /// values can go back to any position, and needs none.
    ///
    /// # Errors
    /// As [`Engine::tick`] and [`Engine::enqueue`]; the timeline then holds what was computed.
    pub fn sync(
        &mut self,
        engine: &mut Engine,
        tokens: &[u32],
        _marks: &[usize],
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
        engine.truncate(self.sequence, keep);
        self.tokens.truncate(keep);
        self.extend(engine, &tokens[keep..], false, observer)
    }

    /// Adds tokens and computes them. With `all_logits`, the observer sees the logits after each.
    ///
    /// # Errors
    /// As [`Engine::tick`] and [`Engine::enqueue`].
    pub fn extend(
        &mut self,
        engine: &mut Engine,
        tokens: &[u32],
        all_logits: bool,
        observer: &mut dyn Observer,
    ) -> Result<(), EngineError> {
        engine.enqueue(self.sequence, tokens, all_logits)?;
        self.tokens.extend_from_slice(tokens);
        self.finish(engine, observer)
    }

    /// Waits until all of the sequence's work is done. What could not be computed is forgotten.
    fn finish(&mut self, engine: &mut Engine, observer: &mut dyn Observer) -> Result<(), EngineError> {
        while engine.logits(self.sequence).is_none() {
            match engine.tick(observer) {
                Ok(true) => {}
                Ok(false) => return Err(EngineError::NoTokens),
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
        engine.enqueue(self.sequence, &[token], false)?;
        self.tokens.push(token);
        Ok(token)
    }

    /// A second timeline with the same past.
    ///
    /// # Errors
    /// As [`Engine::tick`], while pending tokens are computed.
    pub fn fork(&mut self, engine: &mut Engine, observer: &mut dyn Observer) -> Result<Session, EngineError> {
        self.finish(engine, observer)?;
        let mut tokens = Vec::with_capacity(engine.plan().ctx);
        tokens.extend_from_slice(&self.tokens);
        Ok(Session { sequence: engine.fork(self.sequence), tokens })
    }
}
