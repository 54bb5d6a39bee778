//! What an answer cost, in words.

use std::time::Duration;

use outpour_engine::Engine;
use outpour_engine::profile::Profile;
use outpour_store::bytes::Bytes;
use outpour_store::machine::Machine;

use crate::generation::{Done, End, Generation};

/// Everything, a line for each thing: the answer and the prompt, memory, experts, bytes read; how near the limits that was.
pub fn lines(engine: &Engine, generation: &Generation, done: &Done) -> Vec<String> {
    let (stats, stream) = (&done.stats, &done.stream);
    let mut lines = Vec::new();
    let mut line = |name: &str, text: String| lines.push(format!("{name:<9} {text}"));
    let seed = match &generation.sampling {
        sampling if sampling.temperature > 0.0 => format!(", seed {}", sampling.seed),
        _ => String::new(),
    };
    let decode = speed(stats.decode_tokens, stats.decode_time);
    line("answer", format!("{} generated tokens ({}), {decode:.1} tok/s{seed}", done.generated, end_of(&done.end)));
    let kept = match found(generation, done) {
        0 => String::new(),
        found => format!(", {found} of them kept"),
    };
    let prefill = speed(stats.prefill_tokens, stats.prefill_time);
    line("prompt", format!("{} tokens{kept}, {prefill:.1} tok/s", generation.tokens.len()));
    let used = Machine::here().resident().map(|resident| format!(", {} used", Bytes(resident.total_bytes())));
    line("memory", format!("{} given{}", Bytes(engine.plan().ram as u64), used.unwrap_or_default()));
    let governor = done.stats.governor;
    if governor.given_back > 0 {
        let [given, taken] = [governor.given_back, governor.taken_again].map(Bytes);
        line(
            "",
            format!("{given} given back to this machine, which was short of it; {taken} of that taken again later"),
        );
    }
    let experts = stream.hits + stream.misses;
    if experts > 0 {
        let waited = 100.0 * (stream.blocked.as_secs_f64() / stats.decode_time.as_secs_f64().max(1e-9)).min(1.0);
        let hits = 100.0 * stream.hits as f64 / experts as f64;
        line("experts", format!("{hits:.0} % of experts hit, {waited:.0} % of decoding waited for the drive"));
    }
    let guesses = stats.lookahead;
    if guesses.guessed > 0 {
        let right = 100.0 * guesses.right as f64 / guesses.guessed as f64;
        let gain = guesses.gain.map_or(String::new(), |gain| match gain {
            gain if gain < 1.0 => format!("; {:.2} times more waiting in a trial", 1.0 / gain.max(0.01)),
            gain => format!("; {gain:.2} times less waiting in a trial"),
        });
        let ahead = format!("{} of {} read ahead of their use", stream.early_used, stream.misses);
        line("", format!("the next layer's guessed right {right:.0} %, {ahead}{gain}"));
    }
    let per_token = done.read_bytes[1] / stats.decode_tokens.max(1) as u64;
    let needed = stream.needed_bytes / stats.decode_tokens.max(1) as u64;
    let of = if needed > 0 { format!(", whose experts are {}", Bytes(needed)) } else { String::new() };
    line("read", format!("{} for the prompt, {} per generated token{of}", Bytes(done.read_bytes[0]), Bytes(per_token)));
    if let Some(floors) = &done.floors {
        // What is read of the trunk is read whoever makes room.
        let trunk = stream.trunk_bytes as f64 / stats.decode_tokens.max(1) as f64;
        let expert = stream.needed_bytes as f64 / experts.max(1) as f64;
        let each = |misses: f64| Bytes((trunk + misses * expert) as u64);
        let of = if floors.tokens < stats.decode_tokens {
            format!(", of the first {} tokens", floors.tokens)
        } else {
            String::new()
        };
        line(
            "",
            format!(
                "{} if the least recently used made room, {} with a known future{of}",
                each(floors.lru),
                each(floors.belady)
            ),
        );
    }
    if stats.decode_tokens > 0 {
        let text = match Profile::load() {
            Ok(Some(profile)) => {
                let (speed, bytes) = (profile.memory_read_bytes_per_second, engine.trunk_token_bytes() + needed);
                let milliseconds = 1e3 * bytes as f64 / speed;
                format!("all that is used, once through memory at {:.1} GB/s, takes {milliseconds:.1} ms", speed / 1e9)
            }
            _ => "what memory allows is not known: `outpour doctor` measures it".to_owned(),
        };
        line("", text);
    }
    if stats.reads_repeated > 0 {
        let repeated = stats.reads_repeated;
        line(
            "",
            format!(
                "{repeated} reads failed or came damaged and were taken again: see to the drive, and `outpour verify`"
            ),
        );
    }
    if let Some(bounds) = &done.bounds {
        let limit = bounds[1].limit().bytes_per_second() / 1e9;
        match stream.reading.as_secs_f64() {
            reading if stream.read_bytes > 0 && reading > 0.0 => {
                let given = stream.read_bytes as f64 / reading / 1e9;
                let beside = match given > limit {
                    true => format!("more than the {limit:.2} that were measured of this drive"),
                    false => format!("this drive gives {limit:.2}"),
                };
                line("", format!("at {given:.2} GB/s; {beside}"));
            }
            _ => line("", format!("nothing for the answer; this drive gives {limit:.2} GB/s")),
        }
        // What of this was the machine, and what was not.
        let mut first = "possible";
        let parts =
            [("prompt", stats.prefill_tokens, stats.prefill_time), ("answer", stats.decode_tokens, stats.decode_time)];
        for ((what, tokens, time), bound) in parts.into_iter().zip(bounds) {
            if let Some(share) = bound.share().filter(|_| tokens > 0) {
                let total = bound.total();
                let by = total.by.phrase();
                line(
                    first,
                    format!("{what}: {:.0} % of what drive, memory and routes allow, bound by {by}", 100.0 * share),
                );
                first = "";
                let each = |seconds: f64| 1e3 * seconds / tokens as f64;
                line(
                    first,
                    format!(
                        "each token: trunk {:.1} ms, experts {:.1}, reading {:.1} at the drive's limit, waited {:.1}; at most {:.1} tok/s",
                        each(total.trunk_seconds),
                        each(total.expert_seconds),
                        // What was done was possible.
                        each(total.read_seconds.min(time.as_secs_f64())),
                        each(total.blocked_seconds),
                        speed(tokens, time) / share.clamp(1e-9, 1.0)
                    ),
                );
            }
        }
    }
    lines
}

/// The line that a conversation shows after each answer, which fits 80 columns. `held` are the tokens of its context now.
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
    if let Some(share) = done.bounds.as_ref().and_then(|[_, answer]| answer.share()) {
        parts.push(format!("{:.0} % of the possible", 100.0 * share));
    }
    parts.push(format!("context {held}/{}", engine.plan().ctx));
    parts.join(" · ")
}

fn speed(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64().max(1e-9)
}

/// Tokens of the prompt that were computed before; of one that was not finished that is not known.
fn found(generation: &Generation, done: &Done) -> usize {
    if done.generated == 0 && matches!(done.end, End::Interrupted | End::Failed(_)) {
        return 0;
    }
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
