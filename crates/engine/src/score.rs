//! How likely a model finds a text, token by token, and how far two models are apart. Logits are f32, everything after
//! them is f64; likelihoods are in nats.

use std::ops::{ControlFlow, Range};

use crate::engine::{Engine, Work};
use crate::error::EngineError;
use crate::observe::{Observer, Progress, SequenceId};
use crate::sample::argmax;
use crate::session::Session;

/// `ln Σ exp(logit)`, and so the logarithm by which a softmax divides.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    max + logits.iter().map(|&logit| (logit as f64 - max).exp()).sum::<f64>().ln()
}

/// The logarithm of a token's probability.
pub fn log_probability(logits: &[f32], token: u32) -> f64 {
    logits[token as usize] as f64 - log_sum_exp(logits)
}

/// Kullback-Leibler divergence `Σ p · ln(p / q)` of the distributions that two rows of logits stand for: what is lost by
/// taking `q` for `p`.
pub fn kl_divergence(p: &[f32], q: &[f32]) -> f64 {
    let (p_sum, q_sum) = (log_sum_exp(p), log_sum_exp(q));
    let term = |(&p, &q): (&f32, &f32)| {
        let (p, q) = (p as f64 - p_sum, q as f64 - q_sum);
        // What p never gives costs nothing, whatever q says.
        if p == f64::NEG_INFINITY { 0.0 } else { p.exp() * (p - q) }
    };
    // Rounding may leave a tiny negative sum for equal rows.
    p.iter().zip(q).map(term).sum::<f64>().max(0.0)
}

/// A stretch of a long text, computed at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its tokens.
    pub tokens: Range<usize>,
    /// First of them that is scored; those before are only its context.
    pub scored_from: usize,
}

/// Cuts a text into windows of at most `window` tokens, each beginning half a window before the end of the one before. Every
/// token but the first is scored once, and with at least half a window before it, as soon as the text is that long.
pub fn windows(tokens: usize, window: usize) -> Vec<Window> {
    let window = window.max(2);
    let (mut windows, mut scored) = (Vec::new(), 1);
    while scored < tokens {
        let start = if windows.is_empty() { 0 } else { scored.saturating_sub(window / 2) };
        let end = tokens.min(start + window);
        windows.push(Window { tokens: start..end, scored_from: scored });
        scored = end;
    }
    windows
}

/// Calls `see(i, logits)` with the logits `[vocab]` that predict `continuation[i]` after a session's tokens, for every i in
/// turn. Afterwards the session holds all of the continuation but its last token.
///
/// # Errors
/// As [`Engine::tick`] and [`Engine::enqueue`].
pub fn predictions(
    engine: &mut Engine,
    session: &mut Session,
    continuation: &[u32],
    observer: &mut dyn Observer,
    see: &mut dyn FnMut(usize, &[f32]),
) -> Result<(), EngineError> {
    let Some((_, before_last)) = continuation.split_last() else { return Ok(()) };
    see(0, session.logits(engine, observer)?);
    if before_last.is_empty() {
        return Ok(());
    }
    let first = session.tokens().len();
    session.extend(engine, before_last, Work::PromptWithLogits, &mut Watch { observer, see, first })
}

/// Shows logits by their place in a continuation.
struct Watch<'a> {
    observer: &'a mut dyn Observer,
    see: &'a mut dyn FnMut(usize, &[f32]),
    /// Position of the continuation's first token.
    first: usize,
}

impl Observer for Watch<'_> {
    fn routes(&mut self, layer: usize, positions: &[u32], choice: &[i32], weights: &[f32]) {
        self.observer.routes(layer, positions, choice, weights);
    }

    fn logits(&mut self, sequence: SequenceId, position: usize, logits: &[f32]) {
        self.observer.logits(sequence, position, logits);
        (self.see)(position - self.first + 1, logits);
    }

    fn progress(&mut self, progress: Progress) -> ControlFlow<()> {
        self.observer.progress(progress)
    }
}

/// How likely a continuation is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Likelihood {
    /// Logarithm of its probability.
    pub nats: f64,
    /// Whether it is what the model says if it always takes the most likely token.
    pub greedy: bool,
}

/// How likely `continuation` is after a session's tokens. The session keeps them, and nothing more.
///
/// # Errors
/// As [`Engine::tick`] and [`Engine::enqueue`], and when a continuation of several tokens finds no memory beside the session.
pub fn likelihood(
    engine: &mut Engine,
    session: &mut Session,
    continuation: &[u32],
    observer: &mut dyn Observer,
) -> Result<Likelihood, EngineError> {
    let mut likelihood = Likelihood { nats: 0.0, greedy: true };
    let mut see = |i: usize, logits: &[f32]| {
        let token = continuation[i];
        likelihood.nats += log_probability(logits, token);
        likelihood.greedy &= argmax(logits) == token;
    };
    if continuation.len() <= 1 {
        predictions(engine, session, continuation, observer, &mut see)?;
    } else {
        // A recurrent state cannot go back behind the continuation, so another session takes it.
        let mut fork = session.fork(engine, observer)?;
        let seen = predictions(engine, &mut fork, continuation, observer, &mut see);
        fork.close(engine);
        seen?;
    }
    Ok(likelihood)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_but_the_first_is_scored_once_with_half_a_window_before_it() {
        for (tokens, window) in [(0, 8), (1, 8), (2, 8), (8, 8), (9, 8), (100, 8), (101, 7), (1000, 64), (5, 2)] {
            let windows = windows(tokens, window);
            let scored: Vec<usize> = windows.iter().flat_map(|w| w.scored_from..w.tokens.end).collect();
            assert_eq!(scored, (1..tokens).collect::<Vec<_>>(), "{tokens} in windows of {window}");
            for one in &windows {
                assert!(one.tokens.len() <= window && one.tokens.start < one.scored_from, "{one:?}");
                assert!(one.scored_from - one.tokens.start >= (window / 2).min(one.scored_from), "{one:?}");
            }
        }
    }

    #[test]
    fn likelihoods_are_those_of_a_softmax() {
        let logits = [1.0f32, 3.0, -2.0, 0.5];
        let sum: f64 = logits.iter().map(|&logit| (logit as f64).exp()).sum();
        for (token, &logit) in logits.iter().enumerate() {
            let expected = ((logit as f64).exp() / sum).ln();
            assert!((log_probability(&logits, token as u32) - expected).abs() < 1e-12);
        }
        assert!((log_sum_exp(&[1000.0, 1000.0]) - (1000.0 + 2f64.ln())).abs() < 1e-9, "large logits do not overflow");
    }

    #[test]
    fn divergence_is_zero_for_equals_and_grows_with_the_difference() {
        let p = [0.0f32, 1.0, 2.0];
        assert_eq!(kl_divergence(&p, &p), 0.0);
        assert!(kl_divergence(&p, &[5.0, 6.0, 7.0]) < 1e-12, "a constant changes nothing");
        let half = [0.5f64.ln() as f32; 2];
        let skewed = [0.25f64.ln() as f32, 0.75f64.ln() as f32];
        let expected = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!((kl_divergence(&half, &skewed) - expected).abs() < 1e-7);
        assert_eq!(kl_divergence(&[0.0, f32::NEG_INFINITY], &[0.0, f32::NEG_INFINITY]), 0.0);
        assert_eq!(kl_divergence(&[0.0, 0.0], &[0.0, f32::NEG_INFINITY]), f64::INFINITY);
    }
}
