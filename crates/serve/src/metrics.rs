//! Counters in Prometheus' text format.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use outpour_engine::Stats;

/// Upper bounds of a time's buckets, in seconds.
const TIME_BUCKETS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0, 600.0];

/// What the server counts.
#[derive(Default)]
pub(crate) struct Metrics {
    pub(crate) requests: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    pub(crate) generated: AtomicU64,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    pub(crate) running: AtomicUsize,
    kept: AtomicUsize,
    kept_bytes: AtomicU64,
    first_token: Histogram,
    engine: Mutex<Stats>,
}

#[derive(Default)]
struct Histogram {
    buckets: [AtomicU64; TIME_BUCKETS.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Histogram {
    fn add(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        for (bucket, _) in self.buckets.iter().zip(TIME_BUCKETS).filter(|(_, bound)| seconds <= *bound) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    fn show(&self, name: &str, help: &str, out: &mut String) {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (bucket, bound) in self.buckets.iter().zip(TIME_BUCKETS) {
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {}", load(bucket));
        }
        let (count, sum) = (load(&self.count), load(&self.sum_us) as f64 / 1e6);
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}");
    }
}

impl Metrics {
    /// A prompt is computed.
    pub(crate) fn prompt(&self, tokens: usize, cached: usize, first_token: Duration) {
        self.prompt_tokens.fetch_add(tokens as u64, Ordering::Relaxed);
        self.cached_tokens.fetch_add(cached as u64, Ordering::Relaxed);
        self.first_token.add(first_token);
    }

    /// How the engine stands.
    pub(crate) fn note(&self, stats: Stats, running: usize, kept: usize, kept_bytes: u64) {
        self.running.store(running, Ordering::Relaxed);
        self.kept.store(kept, Ordering::Relaxed);
        self.kept_bytes.store(kept_bytes, Ordering::Relaxed);
        if let Ok(mut engine) = self.engine.lock() {
            *engine = stats;
        }
    }

    /// All of it as text.
    pub(crate) fn show(&self, waiting: usize) -> String {
        let mut out = String::new();
        let mut line = |name: &str, kind: &str, help: &str, value: f64| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        let count = |value: &AtomicU64| value.load(Ordering::Relaxed) as f64;
        let stats = self.engine.lock().map(|stats| *stats).unwrap_or_default();
        let stream = stats.stream;
        line("outpour_requests_total", "counter", "Requests taken.", count(&self.requests));
        line(
            "outpour_requests_refused_total",
            "counter",
            "Requests refused because the queue was full.",
            count(&self.refused),
        );
        line("outpour_requests_cancelled_total", "counter", "Requests whose client went away.", count(&self.cancelled));
        line("outpour_requests_running", "gauge", "Requests that run.", self.running.load(Ordering::Relaxed) as f64);
        line("outpour_requests_waiting", "gauge", "Requests that wait.", waiting as f64);
        line(
            "outpour_states_kept",
            "gauge",
            "States kept for prompts to come.",
            self.kept.load(Ordering::Relaxed) as f64,
        );
        line("outpour_state_dir_bytes", "gauge", "States on the drive.", count(&self.kept_bytes));
        line("outpour_prompt_tokens_total", "counter", "Tokens of prompts.", count(&self.prompt_tokens));
        line(
            "outpour_cached_tokens_total",
            "counter",
            "Tokens of prompts that were found computed.",
            count(&self.cached_tokens),
        );
        line("outpour_generated_tokens_total", "counter", "Tokens generated.", count(&self.generated));
        line("outpour_expert_hits_total", "counter", "Experts found in memory.", stream.hits as f64);
        line("outpour_expert_misses_total", "counter", "Experts read from the drive.", stream.misses as f64);
        line("outpour_read_bytes_total", "counter", "Bytes read from the drive.", stream.read_bytes as f64);
        line(
            "outpour_read_blocked_seconds_total",
            "counter",
            "Time that waited for the drive.",
            stream.blocked.as_secs_f64(),
        );
        line(
            "outpour_memory_given_back_bytes",
            "gauge",
            "Memory given back to the machine because others needed it.",
            (stats.governor.given_back - stats.governor.taken_again) as f64,
        );
        line("outpour_prefill_seconds_total", "counter", "Time of prompts.", stats.prefill_time.as_secs_f64());
        line("outpour_decode_seconds_total", "counter", "Time of generated tokens.", stats.decode_time.as_secs_f64());
        self.first_token.show("outpour_first_token_seconds", "From a request to its first token.", &mut out);
        out
    }
}
