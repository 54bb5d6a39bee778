//! How a model's choice of experts would be cached and guessed: measured while it generates text.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outpour_store::residency::ResidencyMap;
use outpour_store::trace::{Policy, Trace, replay, routed};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::observe::{Observer, Progress};
use crate::sample::{Sampler, Sampling};
use crate::session::Session;

/// Share of the choices that only fill the cache of a replay.
const FILLING_SHARE: f64 = 0.25;

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Every layer's choice for every token.
    pub trace: Trace,
    /// Tokens computed.
    pub tokens: usize,
    /// Experts guessed from the output of the layer before, and how many of them were chosen.
    pub guessed: u64,
    /// See [`Self::guessed`].
    pub right: u64,
}

impl Measured {
    /// Share of the experts that a cache of `slots` would have had, once it was filled by the first quarter of the tokens.
    pub fn hit_rate(&self, policy: Policy, slots: usize) -> f64 {
        replay(&self.trace, slots, policy, (self.trace.len() as f64 * FILLING_SHARE) as usize).hit_rate()
    }

    /// Share of the experts that the next layer's router guessed from the output of the layer before it.
    pub fn guess_accuracy(&self) -> f64 {
        self.right as f64 / self.guessed.max(1) as f64
    }
}

/// How much to generate.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// At most so many tokens.
    pub tokens_max: usize,
    /// No further token after this time.
    pub time_max: Duration,
    /// Of the sampling.
    pub seed: u64,
}

/// Generates text from the token `first`, at temperature 1, and notes every choice of experts. `go_on` is told the tokens
/// done, after every layer, and may break off.
///
/// # Errors
/// As [`Engine::tick`]; [`EngineError::Cancelled`] when `go_on` broke off.
pub fn measure(
    engine: &mut Engine,
    first: u32,
    extent: Extent,
    go_on: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Measured, EngineError> {
    let began = Instant::now();
    let sampling = Sampling { temperature: 1.0, seed: extent.seed, ..Sampling::default() };
    let mut sampler = Sampler::new(sampling, engine.facts().vocab);
    let mut watch = Watch { measured: Measured::default(), experts: engine.residency_map(), guess: Vec::new(), go_on };
    let mut session = Session::open(engine);
    let tokens_max = extent.tokens_max.min(engine.plan().ctx);
    let mut generate = |engine: &mut Engine, session: &mut Session, watch: &mut Watch| -> Result<(), EngineError> {
        session.sync(engine, &[first], watch)?;
        while session.tokens().len() < tokens_max && began.elapsed() < extent.time_max {
            session.step(engine, watch, &mut |logits, position| sampler.choose(logits, position))?;
            session.logits(engine, watch)?;
            // A single token of a model with recurrent states is never broken off within.
            if (watch.go_on)(session.tokens().len()).is_break() {
                return Err(EngineError::Cancelled);
            }
        }
        Ok(())
    };
    let done = generate(engine, &mut session, &mut watch);
    watch.measured.tokens = session.tokens().len();
    session.close(engine);
    done.map(|()| watch.measured)
}

/// Notes choices and guesses.
struct Watch<'a> {
    measured: Measured,
    /// Says how many there are.
    experts: Arc<ResidencyMap>,
    /// Of the layer to come.
    guess: Vec<u32>,
    go_on: &'a mut dyn FnMut(usize) -> ControlFlow<()>,
}

impl Observer for Watch<'_> {
    fn routes(&mut self, layer: usize, _: &[u32], choice: &[i32], _: &[f32]) {
        let experts: Vec<u32> = routed(choice, self.experts.layers()[layer]).collect();
        self.measured.trace.push(layer as u32, &experts);
        self.measured.guessed += self.guess.len() as u64;
        self.measured.right += self.guess.iter().filter(|expert| experts.contains(expert)).count() as u64;
        self.guess.clear();
    }

    fn wants_guesses(&self) -> bool {
        true
    }

    fn guess(&mut self, layer: usize, _: &[u32], choice: &[i32]) {
        self.guess.clear();
        self.guess.extend(routed(choice, self.experts.layers()[layer]));
    }

    fn progress(&mut self, progress: Progress) -> ControlFlow<()> {
        (self.go_on)(progress.tokens_done)
    }
}
