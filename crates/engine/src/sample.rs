//! The choice of the next token from its logits. Randomness is a function of (seed, position), so that the same seed
//! gives the same text whatever else runs.

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
        let Scratch { adjusted, candidates } = scratch;
        adjusted.clear();
        adjusted.extend_from_slice(logits);
        self.adjust(adjusted);
        let token = if self.sampling.temperature == 0.0 {
            argmax(adjusted)
        } else {
            self.narrow(adjusted, candidates);
            draw(candidates, uniform(self.sampling.seed, position as u64))
        };
        self.see(&[token]);
        if let Some(count) = self.generated.get_mut(token as usize) {
            *count += 1;
        }
        token
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

    /// Leaves the candidates that top-k, top-p and min-p allow, most likely first.
    fn narrow(&self, adjusted: &[f32], candidates: &mut Vec<(f32, u32)>) {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let by_logit = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        candidates.clear();
        candidates.extend(adjusted.iter().enumerate().map(|(token, &logit)| (logit / temperature, token as u32)));
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, by_logit);
            candidates.truncate(top_k);
        }
        candidates.sort_unstable_by(by_logit);
        let best = candidates[0].0;
        // Probabilities in place of logits, not yet divided by their sum.
        candidates.iter_mut().for_each(|candidate| candidate.0 = (candidate.0 - best).exp());
        if top_p < 1.0 {
            let total: f32 = candidates.iter().map(|candidate| candidate.0).sum();
            let mut sum = 0.0;
            let keep = candidates.iter().take_while(|candidate| {
                let before = sum;
                sum += candidate.0 / total;
                before < top_p
            });
            let keep = keep.count().max(1);
            candidates.truncate(keep);
        }
        // The first has probability 1 before the division, so that min_p compares with it.
        let keep = candidates.iter().take_while(|candidate| candidate.0 >= min_p).count().max(1);
        candidates.truncate(keep);
    }
}

/// The candidate at which the sum of probabilities passes `uniform` of the whole.
fn draw(candidates: &[(f32, u32)], uniform: f32) -> u32 {
    let total: f32 = candidates.iter().map(|candidate| candidate.0).sum();
    let mut left = uniform * total;
    for &(probability, token) in candidates {
        left -= probability;
        if left < 0.0 {
            return token;
        }
    }
    candidates[candidates.len() - 1].1
}

/// The most likely token; of equals, the first.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, &logit) in logits.iter().enumerate() {
        if logit > logits[best] {
            best = token;
        }
    }
    best as u32
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
