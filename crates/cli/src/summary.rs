//! What an answer cost, in words.

use std::time::Duration;

use outpour_engine::Engine;
use outpour_engine::bound::Running;
use outpour_store::bytes::Bytes;
use outpour_store::machine::Machine;

use crate::generation::{Done, End, Generation};

/// Everything: tokens, speed, memory, hits, bytes read; memory given back; how near the limits that was.
pub fn lines(engine: &Engine, generation: &Generation, done: &Done) -> Vec<String> {
    let mut lines = vec![costs(engine, generation, done)];
    let governor = done.stats.governor;
    if governor.given_back > 0 {
        let [given, taken] = [governor.given_back, governor.taken_again].map(Bytes);
        lines.push(format!(
            "Memory was short on this machine: {given} given back to it, {taken} of that taken again later."
        ));
    }
    lines.extend(done.bounds.as_ref().and_then(|bounds| of_the_bound(done, bounds)));
    lines
}

/// The line that a conversation shows after each answer. `held` are the tokens of its context now.
pub fn short(engine: &Engine, generation: &Generation, done: &Done, held: usize) -> String {
    let stats = &done.stats;
    let end = match done.end {
        End::Model => String::new(),
        _ => format!("{} · ", end_of(&done.end)),
    };
    let speed = match stats.decode_tokens {
        0 => String::new(),
        tokens => format!(", {:.1} tok/s", speed(tokens, stats.decode_time)),
    };
    let mut parts = vec![format!("{end}{} tokens{speed}", done.generated)];
    let kept = match found(generation, done) {
        0 => String::new(),
        kept => format!(", {kept} kept"),
    };
    parts.push(format!("prompt {}{kept}", generation.tokens.len()));
    parts.push(format!("read {}", Bytes(done.read_bytes.iter().sum())));
    if let Some(share) = done.bounds.as_ref().and_then(|[_, answer]| answer.share()) {
        parts.push(format!("{:.0} % of the bound", 100.0 * share));
    }
    parts.push(format!("context {held}/{}", engine.plan().ctx));
    parts.join(" · ")
}

fn speed(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64().max(1e-9)
}

/// Tokens of the prompt that were computed before.
fn found(generation: &Generation, done: &Done) -> usize {
    generation.tokens.len() - done.stats.prefill_tokens.min(generation.tokens.len())
}

fn end_of(end: &End) -> &'static str {
    match end {
        End::Model => "the model ended",
        End::StopString => "stop string",
        End::Length => "-n reached",
        End::ContextFull => "context full (raise --ctx)",
        End::Interrupted => "interrupted",
        End::Unwritten(_) => "output closed",
        End::Failed(_) => "failed",
    }
}

/// One line: tokens, speed, memory, hits, bytes read.
fn costs(engine: &Engine, generation: &Generation, done: &Done) -> String {
    let stats = &done.stats;
    let used =
        Machine::here().resident().map_or("unknown".to_owned(), |resident| Bytes(resident.total_bytes()).to_string());
    let experts = done.stream.hits + done.stream.misses;
    let hits = match experts {
        0 => "no experts".to_owned(),
        _ => {
            let waited = 100.0 * done.stream.blocked.as_secs_f64() / stats.decode_time.as_secs_f64().max(1e-9);
            let hits = 100.0 * done.stream.hits as f64 / experts as f64;
            format!("{hits:.0} % of experts hit, {waited:.0} % of decoding waited for the drive")
        }
    };
    let sampling = &generation.sampling;
    let seed = if sampling.temperature > 0.0 { format!(" · seed {}", sampling.seed) } else { String::new() };
    let found = match found(generation, done) {
        0 => String::new(),
        found => format!(" ({found} of them kept)"),
    };
    format!(
        "{} prompt{found} + {} generated tokens ({}) · prefill {:.1} tok/s, decode {:.1} tok/s · RAM {} given, {used} used · {hits} · \
         read {} for the prompt, {} per generated token{seed}",
        generation.tokens.len(),
        done.generated,
        end_of(&done.end),
        speed(stats.prefill_tokens, stats.prefill_time),
        speed(stats.decode_tokens, stats.decode_time),
        Bytes(engine.plan().ram as u64),
        Bytes(done.read_bytes[0]),
        Bytes(done.read_bytes[1] / stats.decode_tokens.max(1) as u64),
    )
}

/// What of this was the machine, and what was not: a line for the prompt and the answer.
fn of_the_bound(done: &Done, bounds: &[Running; 2]) -> Option<String> {
    let parts: Vec<String> = ["prompt", "answer"]
        .iter()
        .zip(bounds)
        .filter_map(|(name, bound)| Some((name, bound, bound.share()?)))
        .map(|(name, bound, share)| format!("{name} {:.0} % (bound by {})", 100.0 * share, bound.bound_by().phrase()))
        .collect();
    if parts.is_empty() {
        return None;
    }
    let stream = &done.stream;
    let given = match stream.reading.as_secs_f64() {
        reading if stream.read_bytes > 0 && reading > 0.0 => format!("{:.2}", stream.read_bytes as f64 / reading / 1e9),
        _ => "nothing".to_owned(),
    };
    let guesses = done.stats.lookahead;
    let lookahead = match guesses.guessed {
        0 => String::new(),
        guessed => {
            let gain = guesses.gain.map_or(String::new(), |gain| format!(", {gain:.2} times less waiting in a trial"));
            format!(
                " · the next layer's experts guessed right {:.0} %, {} of {} read ahead of their use{gain}",
                100.0 * guesses.right as f64 / guessed as f64,
                stream.early_used,
                stream.misses,
            )
        }
    };
    Some(format!(
        "Of what this drive, this RAM and these routes allow: {} · the answer's reads came at {given} of the {:.2} GB/s that the \
         drive gave at the start{lookahead}",
        parts.join(", "),
        bounds[0].drive_bytes_per_second() / 1e9,
    ))
}
