//! The choice of the next token from its logits. Randomness is a function of (seed, position), so that the same seed
//! gives the same text whatever else runs.

use std::cmp::Ordering;

use outpour_kernels::exp;
use serde_json::Value;

/// How the next token is chosen. The defaults choose the most likely one.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the most likely tokens up to this sum of probabilities; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens with at least this share of the most likely one's probability; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen before (arXiv 1909.05858); 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from logits of tokens generated before; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted once for each time a token was generated before; 0 is off.
    pub frequency_penalty: f32,
    /// Added to the logits of tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the randomness.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl Sampling {
    /// The defaults that a model's `generation_config.json` asks for.
    ///
    /// # Errors
    /// Names the key whose value is no number.
    pub fn from_generation_config(config: &Value) -> Result<Sampling, String> {
        let number = |key: &str, default: f32| match config.get(key).filter(|value| !value.is_null()) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .map(|v| v as f32)
                .ok_or(format!("generation_config.json: {key} is {value}, which is no number")),
        };
        let plain = Sampling::default();
        let samples = config.get("do_sample").and_then(Value::as_bool).unwrap_or(config.get("temperature").is_some());
        let sampling = Sampling {
            temperature: if samples { number("temperature", 1.0)? } else { 0.0 },
            top_k: number("top_k", 0.0)? as usize,
            top_p: number("top_p", plain.top_p)?,
            min_p: number("min_p", plain.min_p)?,
            repetition_penalty: number("repetition_penalty", plain.repetition_penalty)?,
            presence_penalty: number("presence_penalty", plain.presence_penalty)?,
            frequency_penalty: number("frequency_penalty", plain.frequency_penalty)?,
            ..plain
        };
        sampling.check().map_err(|problem| format!("generation_config.json: {problem}"))?;
        Ok(sampling)
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// Names the value that makes no sense, and its range.
    pub fn check(&self) -> Result<(), String> {
        let in_range = [
            ("temperature", self.temperature, 0.0..=100.0),
            ("top_p", self.top_p, f32::MIN_POSITIVE..=1.0),
            ("min_p", self.min_p, 0.0..=1.0),
            ("repetition_penalty", self.repetition_penalty, f32::MIN_POSITIVE..=100.0),
            ("presence_penalty", self.presence_penalty, -100.0..=100.0),
            ("frequency_penalty", self.frequency_penalty, -100.0..=100.0),
        ];
        match in_range.iter().find(|(_, value, range)| !range.contains(value)) {
            Some((name, value, range)) if *range.start() == f32::MIN_POSITIVE => {
                Err(format!("{name} {value} is not above 0 and at most {}", range.end()))
            }
            Some((name, value, range)) => {
                Err(format!("{name} {value} is not between {} and {}", range.start(), range.end()))
            }
            None => Ok(()),
        }
    }
}

/// Chooses tokens for one sequence.
pub struct Sampler {
    sampling: Sampling,
    /// How often each token was generated; empty unless a penalty asks for it.
    generated: Vec<u32>,
    /// Whether each token was seen, prompt included; empty unless a penalty asks for it.
    seen: Vec<bool>,
    /// Its own, unless it is lent one for each choice.
    scratch: Scratch,
}

/// Memory for one choice: 12 bytes a token of the vocabulary. Several samplers may share one.
#[derive(Default)]
pub struct Scratch {
    /// Logits after penalties and bias.
    adjusted: Vec<f32>,
    /// Tokens that may be chosen, with their logits.
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler over a vocabulary. Everything it will need is allocated here.
    pub fn new(sampling: Sampling, vocab: usize) -> Self {
        let scratch = Scratch { adjusted: Vec::with_capacity(vocab), candidates: Vec::with_capacity(vocab) };
        Sampler { scratch, ..Sampler::lean(sampling, vocab) }
    }

    /// A sampler that is lent its memory for each choice.
    pub fn lean(sampling: Sampling, vocab: usize) -> Self {
        let counts = sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0;
        let sees = sampling.repetition_penalty != 1.0;
        Sampler {
            generated: vec![0; if counts { vocab } else { 0 }],
            seen: vec![false; if sees { vocab } else { 0 }],
            scratch: Scratch::default(),
            sampling,
        }
    }

    /// Tells of tokens of the prompt.
    pub fn see(&mut self, tokens: &[u32]) {
        for &token in tokens {
            if let Some(seen) = self.seen.get_mut(token as usize) {
                *seen = true;
            }
        }
    }

    /// Chooses the token at `position` and counts it.
    pub fn choose(&mut self, logits: &[f32], position: usize) -> u32 {
        let mut scratch = std::mem::take(&mut self.scratch);
        let token = self.choose_in(&mut scratch, logits, position);
        self.scratch = scratch;
        token
    }

    /// The same, with memory that it is lent.
    pub fn choose_in(&mut self, scratch: &mut Scratch, logits: &[f32], position: usize) -> u32 {
        let greedy = self.sampling.temperature == 0.0;
        let token = if greedy && !self.adjusts() {
            argmax(logits)
        } else {
            let Scratch { adjusted, candidates } = scratch;
            adjusted.clear();
            adjusted.extend_from_slice(logits);
            self.adjust(adjusted);
            match greedy {
                true => argmax(adjusted),
                false => self.draw(adjusted, candidates, uniform(self.sampling.seed, position as u64)),
            }
        };
        self.see(&[token]);
        if let Some(count) = self.generated.get_mut(token as usize) {
            *count += 1;
        }
        token
    }

    /// Whether penalties or bias change any logit.
    fn adjusts(&self) -> bool {
        !(self.seen.is_empty() && self.generated.is_empty() && self.sampling.logit_bias.is_empty())
    }

    fn adjust(&self, adjusted: &mut [f32]) {
        let Sampling { repetition_penalty, presence_penalty, frequency_penalty, ref logit_bias, .. } = self.sampling;
        for (logit, _) in adjusted.iter_mut().zip(&self.seen).filter(|(_, seen)| **seen) {
            *logit = if *logit > 0.0 { *logit / repetition_penalty } else { *logit * repetition_penalty };
        }
        for (logit, &count) in adjusted.iter_mut().zip(&self.generated).filter(|(_, count)| **count > 0) {
            *logit -= presence_penalty + frequency_penalty * count as f32;
        }
        for &(token, bias) in logit_bias {
            if let Some(logit) = adjusted.get_mut(token as usize) {
                *logit += bias;
            }
        }
    }

    /// Draws a token of those that top-k, top-p and min-p allow. `uniform` is in [0, 1).
    fn draw(&self, logits: &mut [f32], candidates: &mut Vec<(f32, u32)>, uniform: f32) -> u32 {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let best = highest(logits);
        // A token's probability against the most likely one's.
        let weigh = |logit: f32| exp((logit - best) / temperature);
        let keep = |weight: f32| if weight < min_p { 0.0 } else { weight };
        candidates.clear();
        if (1..logits.len()).contains(&top_k) {
            most_likely(logits, top_k, candidates);
            candidates.iter_mut().for_each(|candidate| candidate.0 = weigh(candidate.0));
            cut(candidates, top_p * candidates.iter().map(|candidate| candidate.0).sum::<f32>());
        } else {
            logits.iter_mut().for_each(|logit| *logit = weigh(*logit));
            if top_p >= 1.0 {
                logits.iter_mut().for_each(|weight| *weight = keep(*weight));
                return draw_of(logits, uniform) as u32;
            }
            nucleus(logits, top_p * sum(logits), candidates);
        }
        let weights = &mut logits[..candidates.len()];
        weights.iter_mut().zip(&*candidates).for_each(|(weight, candidate)| *weight = keep(candidate.0));
        candidates[draw_of(weights, uniform)].1
    }
}

/// Numbers that are worked on side by side, which fixes the order of sums.
const LANES: usize = 16;

/// Folds numbers in lanes, which the compiler makes vectors of, and gives what is in these.
fn lanes(numbers: &[f32], start: f32, fold: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut lanes = [start; LANES];
    let (whole, rest) = numbers.as_chunks::<LANES>();
    for chunk in whole {
        lanes = std::array::from_fn(|lane| fold(lanes[lane], chunk[lane]));
    }
    lanes.iter_mut().zip(rest).for_each(|(lane, &number)| *lane = fold(*lane, number));
    lanes
}

fn sum(numbers: &[f32]) -> f32 {
    lanes(numbers, 0.0, |a, b| a + b).iter().sum()
}

/// The highest number; those that are no numbers are none.
fn highest(numbers: &[f32]) -> f32 {
    let higher = |a, b| if b > a { b } else { a };
    lanes(numbers, f32::NEG_INFINITY, higher).into_iter().fold(f32::NEG_INFINITY, higher)
}

/// Numbers of which the highest is looked at first: most of a large vocabulary's stretches have none that is high enough.
const LOOKED_AT: usize = 256;

/// Highest first; of equals, the first in the vocabulary.
fn by_likelihood(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// The `k` tokens of the highest logits, in order.
fn most_likely(logits: &[f32], k: usize, candidates: &mut Vec<(f32, u32)>) {
    // The k-th of those that were seen: of the others none is wanted that is not higher.
    let mut floor = f32::NEG_INFINITY;
    for (first, stretch) in (0..).step_by(LOOKED_AT).zip(logits.chunks(LOOKED_AT)) {
        if highest(stretch) <= floor {
            continue;
        }
        for (token, &logit) in (first..).zip(stretch) {
            if logit > floor {
                candidates.push((logit, token));
                if candidates.len() == 2 * k {
                    candidates.select_nth_unstable_by(k - 1, by_likelihood);
                    candidates.truncate(k);
                    floor = candidates[k - 1].0;
                }
            }
        }
    }
    candidates.sort_unstable_by(by_likelihood);
    candidates.truncate(k);
}

/// The most likely tokens whose weights together are at least `wanted`, in order.
fn nucleus(weights: &[f32], wanted: f32, candidates: &mut Vec<(f32, u32)>) {
    // Of a large vocabulary few are likely, so that few are sorted.
    for least in [1.0 / 16.0, 1.0 / 256.0, 1.0 / 4096.0, f32::MIN_POSITIVE] {
        candidates.clear();
        for (first, stretch) in (0..).step_by(LOOKED_AT).zip(weights.chunks(LOOKED_AT)) {
            if highest(stretch) >= least {
                candidates.extend(stretch.iter().copied().zip(first..).filter(|(weight, _)| *weight >= least));
            }
        }
        if candidates.iter().map(|candidate| candidate.0).sum::<f32>() >= wanted {
            break;
        }
    }
    candidates.sort_unstable_by(by_likelihood);
    cut(candidates, wanted);
}

/// Leaves as many of the first candidates as have `wanted` together; at least one.
fn cut(candidates: &mut Vec<(f32, u32)>, wanted: f32) {
    let mut sum = 0.0;
    let keep = candidates.iter().take_while(|candidate| {
        let before = sum;
        sum += candidate.0;
        before < wanted
    });
    let keep = keep.count().max(1);
    candidates.truncate(keep);
}

/// Which of the weights the sum passes `uniform` of the whole at: first the stretch of them is looked for, then the weight.
fn draw_of(weights: &[f32], uniform: f32) -> usize {
    const STRETCH: usize = 512;
    let mut left = uniform * sum(weights);
    // The last with any weight, where rounding lets the sum pass nowhere.
    let mut chosen = (0, left);
    for (i, stretch) in weights.chunks(STRETCH).enumerate() {
        let whole = sum(stretch);
        if whole > 0.0 {
            chosen = (i * STRETCH, left);
            if left < whole {
                break;
            }
        }
        left -= whole;
    }
    let (from, mut left) = chosen;
    let mut at = from;
    for (i, &weight) in weights.iter().enumerate().skip(from).take(STRETCH).filter(|(_, weight)| **weight > 0.0) {
        at = i;
        left -= weight;
        if left < 0.0 {
            break;
        }
    }
    at
}

/// The most likely token; of equals, the first.
pub fn argmax(logits: &[f32]) -> u32 {
    let (mut best, mut first) = (f32::NEG_INFINITY, 0);
    for (i, stretch) in logits.chunks(LOOKED_AT).enumerate() {
        let highest = highest(stretch);
        if highest > best {
            (best, first) = (highest, i * LOOKED_AT);
        }
    }
    let stretch = &logits[first..logits.len().min(first + LOOKED_AT)];
    (first + stretch.iter().position(|&logit| logit == best).unwrap_or(0)) as u32
}

/// A number in [0, 1) that depends on seed and position alone (two rounds of SplitMix64's mixer).
pub fn uniform(seed: u64, position: u64) -> f32 {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let bits =
        mix(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)).wrapping_add(position.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    (bits >> 40) as f32 / (1u64 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 3.0, 2.0, 3.0, -1.0];

    fn choose(sampling: Sampling, logits: &[f32], position: usize) -> u32 {
        Sampler::new(sampling, logits.len()).choose(logits, position)
    }

    /// How often each token is chosen over many positions.
    fn shares(sampling: Sampling) -> Vec<f32> {
        let mut counts = vec![0.0; LOGITS.len()];
        (0..20_000).for_each(|position| counts[choose(sampling.clone(), &LOGITS, position) as usize] += 1.0 / 20_000.0);
        counts
    }

    fn softmax(logits: &[f32]) -> Vec<f32> {
        let total: f32 = logits.iter().map(|l| l.exp()).sum();
        logits.iter().map(|l| l.exp() / total).collect()
    }

    fn close(a: &[f32], b: &[f32]) {
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 0.015), "{a:?} is not {b:?}");
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(choose(Sampling::default(), &LOGITS, 0), 1);
        assert_eq!(argmax(&[f32::NEG_INFINITY, -3.0]), 1);
        let mut many = vec![-1.0; 1000];
        for highest in [999, 700, 257, 256, 255, 3] {
            many[highest] = 2.0;
            assert_eq!(argmax(&many), highest as u32);
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        close(&shares(Sampling { temperature: 1.0, ..Default::default() }), &softmax(&LOGITS));
        let halved: Vec<f32> = LOGITS.iter().map(|l| l / 2.0).collect();
        close(&shares(Sampling { temperature: 2.0, ..Default::default() }), &softmax(&halved));
    }

    #[test]
    fn filters_keep_what_they_say() {
        let warm = Sampling { temperature: 1.0, ..Default::default() };
        close(&shares(Sampling { top_k: 2, ..warm.clone() }), &[0.0, 0.5, 0.0, 0.5, 0.0]);
        close(&shares(Sampling { top_p: 0.5, ..warm.clone() }), &[0.0, 0.5, 0.0, 0.5, 0.0]);
        close(&shares(Sampling { top_p: 0.1, ..warm.clone() }), &[0.0, 1.0, 0.0, 0.0, 0.0]);
        let p = softmax(&[3.0, 2.0, 3.0]);
        close(&shares(Sampling { min_p: 0.3, ..warm }), &[0.0, p[0], p[1], p[2], 0.0]);
    }

    /// Tokens that may be chosen, with their probabilities, by sorting all.
    fn allowed(sampling: &Sampling, logits: &[f32]) -> Vec<(u32, f64)> {
        let weight = |logit: f32| (f64::from(logit) / f64::from(sampling.temperature)).exp();
        let mut all: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|&logit| weight(logit))).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all.truncate(if sampling.top_k == 0 { all.len() } else { sampling.top_k });
        let total: f64 = all.iter().map(|(_, weight)| weight).sum();
        let mut sum = 0.0;
        all.retain(|(_, weight)| {
            let before = sum;
            sum += weight / total;
            before < f64::from(sampling.top_p)
        });
        let least = all[0].1 * f64::from(sampling.min_p);
        all.retain(|(_, weight)| *weight >= least);
        let total: f64 = all.iter().map(|(_, weight)| weight).sum();
        all.into_iter().map(|(token, weight)| (token, weight / total)).collect()
    }

    #[test]
    fn large_vocabularies_are_drawn_from_as_small_ones() {
        let spread = [3.0, 12.0];
        let logits = spread.map(|spread| (0..5_001).map(|i| spread * uniform(i, 3)).collect::<Vec<f32>>());
        let plain = Sampling { temperature: 0.7, ..Default::default() };
        let samplings = [
            plain.clone(),
            Sampling { top_k: 20, top_p: 0.95, ..plain.clone() },
            Sampling { top_k: 3000, ..plain.clone() },
            Sampling { top_p: 0.5, ..plain.clone() },
            Sampling { top_p: 0.999, min_p: 0.1, ..plain.clone() },
            Sampling { min_p: 0.05, ..plain },
        ];
        for logits in &logits {
            for sampling in &samplings {
                let allowed = allowed(sampling, logits);
                let (mut sampler, mut counts) = (Sampler::new(sampling.clone(), logits.len()), vec![0; logits.len()]);
                let draws = 2000;
                (0..draws).for_each(|position| counts[sampler.choose(logits, position) as usize] += 1);
                let drawn: usize = allowed.iter().map(|(token, _)| counts[*token as usize]).sum();
                // A token at the border may be rounded to either side of it.
                assert!(drawn + 4 >= draws, "{sampling:?}: {drawn} of {draws} are of {} allowed", allowed.len());
                // The more likely half, within four standard deviations.
                let half = &allowed[..allowed.len().div_ceil(2)];
                let share: f64 = half.iter().map(|(_, probability)| probability).sum();
                let drawn: usize = half.iter().map(|(token, _)| counts[*token as usize]).sum();
                let error = (drawn as f64 / draws as f64 - share).abs();
                assert!(error <= 4.0 * (0.25 / draws as f64).sqrt(), "{sampling:?}: {drawn} of {draws}, not {share}");
            }
        }
    }

    #[test]
    fn penalties_and_bias_change_the_choice() {
        let mut sampler = Sampler::new(Sampling { presence_penalty: 2.0, ..Default::default() }, 5);
        assert_eq!([0, 1, 2].map(|position| sampler.choose(&LOGITS, position)), [1, 3, 2]);
        let mut sampler = Sampler::new(Sampling { repetition_penalty: 2.0, ..Default::default() }, 5);
        sampler.see(&[1, 3]);
        assert_eq!(sampler.choose(&LOGITS, 0), 2);
        let mut sampler = Sampler::new(Sampling { frequency_penalty: 0.6, ..Default::default() }, 5);
        assert_eq!([0, 1, 2, 3, 4].map(|position| sampler.choose(&LOGITS, position)), [1, 3, 1, 3, 2]);
        let biased = Sampling { logit_bias: vec![(4, 10.0), (99, 50.0)], ..Default::default() };
        assert_eq!(choose(biased, &LOGITS, 0), 4);
    }

    #[test]
    fn randomness_depends_on_seed_and_position_alone() {
        let with_seed = |seed| Sampling { temperature: 1.5, seed, ..Default::default() };
        let run = |seed| (0..50).map(|position| choose(with_seed(seed), &LOGITS, position)).collect::<Vec<_>>();
        let mut one = Sampler::new(with_seed(7), 5);
        assert_eq!(run(7), (0..50).map(|position| one.choose(&LOGITS, position)).collect::<Vec<_>>());
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let config = serde_json::json!({"temperature": "hot"});
        assert!(Sampling::from_generation_config(&config).is_err_and(|e| e.contains("temperature")));
        let config = serde_json::json!({"do_sample": true, "top_p": 1.5});
        assert!(Sampling::from_generation_config(&config).is_err_and(|e| e.contains("top_p")));
        let config = serde_json::json!({"do_sample": false, "temperature": 0.7});
        assert_eq!(Sampling::from_generation_config(&config).map(|s| s.temperature), Ok(0.0));
    }
}
