//! How long the choice of a token takes: `cargo run --release -p outpour-engine --example sampling -- [VOCABULARY]`.
//!
//! Logits are normally distributed, but for a few that stand out, as a model's do; or they are all alike, which is the worst that
//! top-p can meet. Of all choices a quarter were faster than the time printed.

use std::time::Instant;

use outpour_engine::sample::{Sampler, Sampling, uniform};

const CHOICES: usize = 400;
/// Sets of logits that take turns: together they fit no cache but the last.
const SETS: usize = 8;
/// Of logits.
const DEVIATION: f32 = 2.5;
/// Logits that stand out, each lower than the one before by this.
const HIGH: usize = 64;
const STEP: f32 = 0.25;

fn main() -> Result<(), String> {
    let vocabulary = match std::env::args().nth(1) {
        None => 151_936,
        Some(word) => word.parse().map_err(|_| format!("{word}: a vocabulary is a number of tokens"))?,
    };
    if vocabulary == 0 {
        return Err("0: a vocabulary has a token at least".to_owned());
    }
    for high in [HIGH, 0] {
        println!("of {vocabulary} logits {high} stand out:");
        measure(&(0..SETS as u64).map(|seed| logits(seed, vocabulary, high)).collect::<Vec<_>>());
    }
    Ok(())
}

fn measure(sets: &[Vec<f32>]) {
    let plain = Sampling::default();
    let drawn = Sampling { temperature: 0.7, seed: 1, ..plain.clone() };
    for (name, sampling) in [
        ("the most likely", plain),
        ("temperature 0.7", drawn.clone()),
        ("temperature 0.7, top-p 0.9", Sampling { top_p: 0.9, ..drawn.clone() }),
        ("temperature 0.7, top-k 20, top-p 0.8", Sampling { top_k: 20, top_p: 0.8, ..drawn.clone() }),
        ("temperature 0.7, min-p 0.05, penalty 1.1", Sampling { min_p: 0.05, repetition_penalty: 1.1, ..drawn }),
    ] {
        let mut sampler = Sampler::new(sampling, sets[0].len());
        let mut times = Vec::with_capacity(CHOICES);
        let mut tokens = 0;
        for position in 0..CHOICES {
            let start = Instant::now();
            tokens += u64::from(sampler.choose(&sets[position % SETS], position));
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        println!("  {name}: {:.0} µs (mean token {})", 1e6 * times[CHOICES / 4], tokens / CHOICES as u64);
    }
}

/// Twelve uniform numbers added are nearly normal.
fn logits(seed: u64, vocabulary: usize, high: usize) -> Vec<f32> {
    let normal = |token: usize| (0..12).map(|i| uniform(seed, (12 * token + i) as u64)).sum::<f32>() - 6.0;
    let mut logits: Vec<f32> = (0..vocabulary).map(|token| DEVIATION * normal(token)).collect();
    for rank in 0..high {
        let token = (uniform(!seed, rank as u64) * vocabulary as f32) as usize;
        logits[token.min(vocabulary - 1)] = 10.0 * DEVIATION - STEP * rank as f32;
    }
    logits
}
