//! Reading experts before they are asked for: the router of the next layer, applied to the output of this one, mostly
//! names those that it will choose after the layer's attention too. They are read while that attention is computed,
//! and the drive would idle. Where tokens' ids choose (DeepSeek-V4's first layers), that is no guess: those are always read early, the
//! first layer's before anything is computed.
//!
//! Only timing changes. A guess that is wrong costs its bytes, and holds up what is really wanted while it is in flight; so no more
//! is read than arrives by the time the router has chosen, only ranks of the guess that have proved right are believed, and
//! generated tokens go with and without it in turn now and then: what waits less for each expert missing, stays. Experts
//! that are missing only since the guesses' places come out of the cache do not count as such, but what they cost does.
//! A read that is under way is not taken back, as no drive would stop it: since no more is asked for than arrives by then, at most
//! the last guess is still in flight when the router has chosen, and its place is free as soon as it has come.

use outpour_model::experts::{EarlyLimits, StreamStats};

use crate::observe::LayerCost;

/// Whether experts are read before they are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LookaheadMode {
    /// Where it was measured to help.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// What it did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LookaheadStats {
    /// Experts guessed for generated tokens.
    pub guessed: u64,
    /// Those that were chosen then.
    pub right: u64,
    /// The last trial's time blocked for each expert missing, without over with; `None` before there was one.
    pub gain: Option<f64>,
}

/// Generated tokens of a trial at least, with and without, ABBA; and at most, until enough experts were missing.
const TRIAL_TOKENS: u32 = 16;
const TRIAL_TOKENS_MAX: u32 = 128;
/// Experts missing with and without it from which on a trial says something: single waits differ by far.
const TRIAL_MISSING: f64 = 256.0;
/// Generated tokens between two trials.
const SETTLED_TOKENS: u32 = 256;
/// A wait for an expert that is none, so that no gain is without end.
const NO_WAIT_SECONDS: f64 = 20e-6;
/// Of a rank of the guess, the share of right ones from which on it is believed.
const BELIEVED: f64 = 0.5;
/// How much of an average the latest value makes.
const FRESH: f64 = 0.1;

pub(crate) struct Lookahead {
    mode: LookaheadMode,
    stats: LookaheadStats,
    /// The layer that `guess` is for.
    layer: Option<usize>,
    /// `[rows, top_k]`.
    guess: Vec<i32>,
    /// By rank of the guess.
    ranks: Vec<Rank>,
    top_k: usize,
    /// Seconds of a layer in which the drive has nothing to do.
    idle_seconds: f64,
    drive_bytes_per_second: f64,
    trial: Trial,
    /// Whether the present batch reads early, and whether it is of generated tokens.
    on: bool,
    step: bool,
    /// For a prompt: how many rows guessed each expert.
    counts: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Rank {
    guessed: f64,
    right: f64,
}

/// Time blocked, and experts missing, without and with.
#[derive(Default)]
struct Trial {
    tokens: u32,
    blocked_seconds: [f64; 2],
    missing: [f64; 2],
    /// Experts missing in either kind of token because of slots set aside.
    lost: f64,
    /// Tokens left until the next one; while there are, `winner` decides.
    settled: u32,
    winner: bool,
}

impl Lookahead {
    pub fn new(mode: LookaheadMode, top_k: usize) -> Lookahead {
        Lookahead {
            mode,
            stats: LookaheadStats::default(),
            layer: None,
            guess: Vec::with_capacity(top_k),
            // Believed until they prove wrong.
            ranks: vec![Rank { guessed: 4.0, right: 3.0 }; top_k],
            top_k,
            idle_seconds: 0.0,
            drive_bytes_per_second: 0.0,
            trial: Trial::default(),
            on: false,
            step: false,
            counts: Vec::new(),
        }
    }

    pub fn stats(&self) -> LookaheadStats {
        self.stats
    }

    /// Begins a batch, of generated tokens or the next layers of a prompt. A prompt always reads on: its guesses are counted over many rows, and hardly ever wrong.
    pub fn begin(&mut self, is_step: bool) {
        self.layer = None;
        self.step = is_step;
        self.on = self.top_k > 0
            && match self.mode {
                LookaheadMode::Off => false,
                LookaheadMode::On => true,
                LookaheadMode::Auto => !is_step || self.trial.is_on(),
            };
    }

    /// Whether guesses are wanted for the present batch.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Whether nothing is ever read early.
    pub fn is_off(&self) -> bool {
        self.mode == LookaheadMode::Off
    }

    /// Whether the present batch is of generated tokens.
    pub fn is_step(&self) -> bool {
        self.step
    }

    /// Takes a layer's choices and costs in: `chosen` is `[rows, top_k]`, empty where the layer has no router.
    pub fn learn(&mut self, chosen: &[i32], cost: &LayerCost) {
        if self.layer == Some(cost.layer) && chosen.len() == self.guess.len() {
            for (guess, chosen) in self.guess.chunks(self.top_k).zip(chosen.chunks(self.top_k)) {
                for (rank, expert) in self.ranks.iter_mut().zip(guess) {
                    let right = chosen.contains(expert);
                    rank.guessed += 1.0;
                    rank.right += f64::from(u8::from(right));
                    if self.step {
                        self.stats.guessed += 1;
                        self.stats.right += u64::from(right);
                    }
                }
            }
        }
        let StreamStats { computing, blocked, read_bytes, reading, .. } = cost.stream;
        let idle = cost.time.saturating_sub(computing + blocked).as_secs_f64();
        self.idle_seconds += FRESH * (idle - self.idle_seconds);
        if read_bytes > 0 && !reading.is_zero() {
            let speed = read_bytes as f64 / reading.as_secs_f64();
            self.drive_bytes_per_second += FRESH * (speed - self.drive_bytes_per_second);
        }
    }

    /// Ends a batch; one of generated tokens takes part in trials.
    pub fn end_step(&mut self, stream: &StreamStats) {
        if self.mode == LookaheadMode::Auto
            && self.step
            && self.top_k > 0
            && let Some(gain) = self.trial.end_token(stream)
        {
            self.stats.gain = Some(gain);
        }
    }

    /// The guess for a layer, to be filled by the model; see [`outpour_model::Model::guess`].
    pub fn guess_for(&mut self, layer: usize) -> &mut Vec<i32> {
        self.layer = Some(layer);
        &mut self.guess
    }

    /// What is known for certain of a layer, to be filled by the model; see [`outpour_model::Model::known`]. Nothing is learnt of it.
    pub fn known(&mut self) -> &mut Vec<i32> {
        self.layer = None;
        &mut self.guess
    }

    /// Which experts to read of those that are known, in the order of a sweep.
    pub fn of_known(&mut self, experts: usize) -> impl Iterator<Item = u32> + '_ {
        self.named(experts, 1)
    }

    /// Which experts of a token's guess to read, the likeliest first, and how much of them: what arrives in time, and has a place among
    /// so many `slots`.
    pub fn of_step(&self, expert_bytes: u64, slots: usize) -> (impl Iterator<Item = u32> + '_, EarlyLimits) {
        let ranks = self.ranks.iter().enumerate().filter(|(_, rank)| rank.right >= BELIEVED * rank.guessed);
        let experts = ranks.flat_map(|(rank, _)| self.guess.iter().skip(rank).step_by(self.top_k));
        let arriving = self.idle_seconds * self.drive_bytes_per_second;
        // An expert that has half arrived is half an expert less to wait for.
        let whole = (arriving / expert_bytes.max(1) as f64).round() as usize;
        (
            experts.map(|&expert| expert as u32),
            EarlyLimits { bytes: (whole as u64).saturating_mul(expert_bytes), slots: whole.min(slots) },
        )
    }

    /// Which experts of a prompt's guesses to read, in the order of a sweep: those that several rows name.
    pub fn of_prompt(&mut self, experts: usize) -> impl Iterator<Item = u32> + '_ {
        self.named(experts, 2)
    }

    /// Experts that so many places of the guess name.
    fn named(&mut self, experts: usize, least: u32) -> impl Iterator<Item = u32> + '_ {
        self.counts.clear();
        self.counts.resize(experts, 0);
        // Beyond those are experts that have no weights.
        let named = self.guess.iter().filter(|&&expert| (expert as usize) < experts);
        named.for_each(|&expert| self.counts[expert as usize] += 1);
        self.counts.iter().enumerate().filter(move |&(_, &count)| count >= least).map(|(expert, _)| expert as u32)
    }
}

impl Trial {
    fn is_on(&self) -> bool {
        if self.settled > 0 { self.winner } else { matches!(self.tokens % 4, 1 | 2) }
    }

    /// The gain, when a trial ends with this token.
    fn end_token(&mut self, stream: &StreamStats) -> Option<f64> {
        if self.settled > 0 {
            self.settled -= 1;
            return None;
        }
        let on = usize::from(self.is_on());
        self.blocked_seconds[on] += stream.blocked.as_secs_f64();
        self.missing[on] += stream.misses as f64;
        self.lost += stream.lost as f64;
        self.tokens += 1;
        let enough = self.missing.iter().all(|&experts| experts >= TRIAL_MISSING);
        let most = if enough { TRIAL_TOKENS } else { TRIAL_TOKENS_MAX };
        if !self.tokens.is_multiple_of(4) || self.tokens < most {
            return None;
        }
        // What tokens with it wait in all, they wait for what would be missing without it.
        self.missing[1] -= self.lost;
        let waited = |on: usize| self.blocked_seconds[on] / self.missing[on].max(1.0);
        let gain = waited(0).max(NO_WAIT_SECONDS) / waited(1).max(NO_WAIT_SECONDS);
        *self = Trial { settled: SETTLED_TOKENS, winner: enough && gain > 1.0, ..Trial::default() };
        enough.then_some(gain)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Experts that a token misses.
    const MISSING: u64 = 40;

    /// A token that waits so long for each of them.
    fn token(lookahead: &mut Lookahead, blocked_ms: u64) {
        let blocked = Duration::from_millis(blocked_ms * MISSING);
        lookahead.end_step(&StreamStats { misses: MISSING, blocked, ..StreamStats::default() });
    }

    #[test]
    fn a_trial_decides_by_what_is_waited_for_an_expert() {
        for (with, without) in [(5, 10), (10, 5)] {
            let mut lookahead = Lookahead::new(LookaheadMode::Auto, 2);
            let mut tried = [0, 0];
            for _ in 0..TRIAL_TOKENS {
                lookahead.begin(true);
                tried[usize::from(lookahead.is_on())] += 1;
                let waited = if lookahead.is_on() { with } else { without };
                token(&mut lookahead, waited);
            }
            assert_eq!(tried, [TRIAL_TOKENS / 2; 2]);
            for _ in 0..SETTLED_TOKENS {
                lookahead.begin(true);
                assert_eq!(lookahead.is_on(), with < without);
                token(&mut lookahead, 1);
            }
            let gain = lookahead.stats().gain.expect("a trial has ended");
            assert!((gain - without as f64 / with as f64).abs() < 1e-9, "{gain}");
        }
    }

    #[test]
    fn experts_missing_for_its_places_are_no_gain() {
        let mut lookahead = Lookahead::new(LookaheadMode::Auto, 2);
        for _ in 0..TRIAL_TOKENS {
            lookahead.begin(true);
            // Each expert is waited for a little less, but a quarter more are missing.
            let (misses, lost, blocked) = if lookahead.is_on() { (50, 10, 95) } else { (40, 0, 80) };
            let blocked = Duration::from_millis(blocked);
            lookahead.end_step(&StreamStats { misses, lost, blocked, ..StreamStats::default() });
        }
        let gain = lookahead.stats().gain.expect("a trial has ended");
        assert!((gain - 80.0 / 95.0).abs() < 1e-9, "{gain}");
        lookahead.begin(true);
        assert!(!lookahead.is_on());
    }

    #[test]
    fn a_gain_has_an_end() {
        let mut lookahead = Lookahead::new(LookaheadMode::Auto, 2);
        for _ in 0..TRIAL_TOKENS {
            lookahead.begin(true);
            let waited = if lookahead.is_on() { 0 } else { 2 };
            token(&mut lookahead, waited);
        }
        let gain = lookahead.stats().gain.expect("a trial has ended");
        assert!((gain - 100.0).abs() < 1e-9, "{gain}");
    }

    #[test]
    fn nothing_is_read_early_where_nothing_is_missing() {
        let mut lookahead = Lookahead::new(LookaheadMode::Auto, 2);
        for _ in 0..TRIAL_TOKENS_MAX {
            lookahead.begin(true);
            lookahead.end_step(&StreamStats::default());
        }
        lookahead.begin(true);
        assert!(!lookahead.is_on() && lookahead.stats().gain.is_none());
        lookahead.begin(false);
        assert!(lookahead.is_on(), "a prompt always reads on");
    }

    #[test]
    fn a_trial_lasts_until_enough_experts_were_missing_and_leaves_prompts_out() {
        let mut lookahead = Lookahead::new(LookaheadMode::Auto, 2);
        let blocked = Duration::from_millis(10);
        let mut tokens = 0;
        while lookahead.stats().gain.is_none() {
            lookahead.begin(false);
            lookahead.end_step(&StreamStats { misses: 900, blocked: 900 * blocked, ..StreamStats::default() });
            lookahead.begin(true);
            let waited = if lookahead.is_on() { blocked } else { 2 * blocked };
            lookahead.end_step(&StreamStats { misses: 8, blocked: 8 * waited, ..StreamStats::default() });
            tokens += 1;
            assert!(tokens <= TRIAL_TOKENS_MAX);
        }
        assert_eq!(tokens, 64, "256 missing either way, eight a token");
        let gain = lookahead.stats().gain.expect("it has ended");
        assert!((gain - 2.0).abs() < 1e-9, "{gain}");
    }

    #[test]
    fn ranks_that_prove_wrong_are_not_believed_and_no_more_is_read_than_arrives() {
        let mut lookahead = Lookahead::new(LookaheadMode::On, 3);
        let ms = Duration::from_millis;
        // The drive gives 1000 bytes a ms, and a layer leaves it 4 ms to itself.
        let stream = StreamStats {
            computing: ms(2),
            blocked: ms(3),
            read_bytes: 5000,
            reading: ms(5),
            ..StreamStats::default()
        };
        for _ in 0..100 {
            lookahead.begin(true);
            lookahead.guess_for(1).splice(.., [7, 8, 9]);
            lookahead.learn(&[7, 1, 9], &LayerCost { layer: 1, batch_tokens: 1, prompt: false, time: ms(9), stream });
        }
        lookahead.guess_for(2).splice(.., [4, 5, 6]);
        let (experts, limits) = lookahead.of_step(2000, 3);
        assert_eq!(experts.collect::<Vec<_>>(), [4, 6]);
        assert_eq!(limits, EarlyLimits { bytes: 4000, slots: 2 }, "two arrive in time");
        assert_eq!(lookahead.of_step(2000, 1).1.slots, 1, "more have no place");
        assert_eq!((lookahead.stats().guessed, lookahead.stats().right), (300, 200));
        lookahead.guess_for(2).splice(.., [4, 5, 6, 5, 6, 1]);
        assert_eq!(lookahead.of_prompt(8).collect::<Vec<_>>(), [5, 6]);
    }
}
