//! The engine's side: what it has done, left where watchers find it.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outpour_engine::bound::{Account, Bound, DriveLimit};
use outpour_engine::{LayerCost, Stats};
use outpour_model::experts::StreamStats;

use super::Loaded;

/// Steps that are kept for watchers to come.
const STEPS_KEPT: usize = 240;

/// What was done since the model was loaded. One thread writes.
pub(super) struct Totals {
    hits: AtomicU64,
    misses: AtomicU64,
    read_bytes: AtomicU64,
    /// Time in which reads were in flight.
    reading_us: AtomicU64,
    /// Bytes that were given back to the machine because others needed them.
    given_back: AtomicU64,
    /// The layer that was computed last.
    layer: AtomicU64,
    /// What the drive gives at most, in bytes a second: as it was measured, or more where it gave more since. 0 of a model that
    /// reads nothing.
    drive: AtomicU64,
}

impl Totals {
    /// Nothing yet, of a model whose drive gives so many bytes a second.
    pub(super) fn new(drive: Option<f64>) -> Totals {
        let [hits, misses, read_bytes, reading_us, given_back, layer] = Default::default();
        let drive = AtomicU64::new(drive.map_or(0, |drive| drive as u64));
        Totals { hits, misses, read_bytes, reading_us, given_back, layer, drive }
    }

    /// Adds the fields of `now`.
    pub(super) fn push(&self, out: &mut String) {
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        // A String takes everything.
        let _ = write!(
            out,
            ",\"hits\":{},\"misses\":{},\"read_bytes\":{},\"reading_s\":{:.4},\"given_back_bytes\":{},\"layer\":{},\
             \"drive_bytes_per_second\":{}",
            load(&self.hits),
            load(&self.misses),
            load(&self.read_bytes),
            load(&self.reading_us) as f64 / 1e6,
            load(&self.given_back),
            load(&self.layer),
            load(&self.drive),
        );
    }

    fn add(&self, cost: &LayerCost) {
        let add = |value: &AtomicU64, more: u64| value.store(value.load(Ordering::Relaxed) + more, Ordering::Relaxed);
        add(&self.hits, cost.stream.hits);
        add(&self.misses, cost.stream.misses);
        add(&self.read_bytes, cost.stream.read_bytes);
        add(&self.reading_us, cost.stream.reading.as_micros() as u64);
        self.layer.store(cost.layer as u64, Ordering::Relaxed);
    }

    /// The exact ones: reads may also end between two layers.
    fn set(&self, stats: &Stats) {
        let stream = &stats.stream;
        self.hits.store(stream.hits, Ordering::Relaxed);
        self.misses.store(stream.misses, Ordering::Relaxed);
        self.read_bytes.store(stream.read_bytes, Ordering::Relaxed);
        self.reading_us.store(stream.reading.as_micros() as u64, Ordering::Relaxed);
        self.given_back.store(stats.governor.given_back - stats.governor.taken_again, Ordering::Relaxed);
    }
}

/// A batch that went through all layers: a step of answers, or a chunk of a prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step {
    prompt: bool,
    tokens: usize,
    time_s: f64,
    trunk_s: f64,
    experts_s: f64,
    blocked_s: f64,
    /// The least time that it could have taken.
    bound_s: f64,
    read_bytes: u64,
    hits: u64,
    misses: u64,
}

impl Step {
    /// Writes `[prompt, tokens, time, trunk, experts, blocked, bound, read bytes, hits, misses]`: times in microseconds, and 1
    /// for a prompt.
    pub(super) fn push(&self, out: &mut String) {
        let micros = |seconds: f64| (seconds * 1e6).round() as u64;
        // A String takes everything.
        let _ = write!(
            out,
            "[{},{},{},{},{},{},{},{},{},{}]",
            u8::from(self.prompt),
            self.tokens,
            micros(self.time_s),
            micros(self.trunk_s),
            micros(self.experts_s),
            micros(self.blocked_s),
            micros(self.bound_s),
            self.read_bytes,
            self.hits,
            self.misses
        );
    }
}

/// The last steps.
#[derive(Default)]
pub(super) struct Steps {
    /// All that ended so far.
    pub(super) ended: u64,
    last: VecDeque<Step>,
}

impl Steps {
    fn push(&mut self, step: Step) {
        if self.last.len() == STEPS_KEPT {
            self.last.pop_front();
        }
        self.last.push_back(step);
        self.ended += 1;
    }

    /// Those that ended after the first `told`, as far as they are kept.
    pub(super) fn since(&self, told: u64) -> impl Iterator<Item = &Step> {
        let new = (self.ended - told).min(self.last.len() as u64) as usize;
        self.last.range(self.last.len() - new..)
    }
}

/// A batch on its way.
struct Batch {
    account: Account,
    tokens: usize,
    read_bytes: u64,
    hits: u64,
    misses: u64,
    /// Whether all layers are computed.
    whole: bool,
}

impl Batch {
    fn new(layers: usize) -> Batch {
        Batch { account: Account::with_capacity(layers), tokens: 0, read_bytes: 0, hits: 0, misses: 0, whole: false }
    }

    fn add(&mut self, cost: &LayerCost, layers: usize) {
        if cost.layer == 0 {
            self.account.clear();
            (self.read_bytes, self.hits, self.misses) = (0, 0, 0);
        }
        self.account.add(cost);
        self.tokens = cost.batch_tokens;
        self.read_bytes += cost.stream.read_bytes;
        self.hits += cost.stream.hits;
        self.misses += cost.stream.misses;
        self.whole = cost.layer + 1 == layers;
    }

    fn step(&self, prompt: bool, time: Duration, drive_bytes_per_second: f64) -> Step {
        let Bound { seconds, trunk_seconds, expert_seconds, blocked_seconds, .. } =
            self.account.bound(time, drive_bytes_per_second);
        Step {
            prompt,
            tokens: self.tokens,
            time_s: time.as_secs_f64(),
            trunk_s: trunk_seconds,
            experts_s: expert_seconds,
            blocked_s: blocked_seconds,
            bound_s: seconds,
            read_bytes: self.read_bytes,
            hits: self.hits,
            misses: self.misses,
        }
    }
}

/// What the engine's thread tells of its work.
pub(crate) struct Recorder {
    loaded: Arc<Loaded>,
    layers: usize,
    /// Steps of answers, and the chunk of a prompt: one of each may be under way.
    batches: [Batch; 2],
    /// Times of answers and of prompts when the last tick ended.
    times: [Duration; 2],
    limit: DriveLimit,
    /// Streaming when the last tick ended.
    streamed: StreamStats,
    /// Steps that a watcher was in the way of.
    late: Vec<Step>,
}

impl Recorder {
    /// Of a model whose drive gives so many bytes a second; `None` of one that reads nothing.
    pub(super) fn new(loaded: Arc<Loaded>, layers: usize, drive: Option<f64>) -> Recorder {
        Recorder {
            loaded,
            layers,
            batches: [(); 2].map(|()| Batch::new(layers)),
            times: [Duration::ZERO; 2],
            limit: DriveLimit::measured(drive.unwrap_or(f64::INFINITY)),
            streamed: StreamStats::default(),
            late: Vec::with_capacity(STEPS_KEPT),
        }
    }

    /// A layer is computed.
    pub(crate) fn layer(&mut self, cost: &LayerCost) {
        self.loaded.totals.add(cost);
        self.batches[usize::from(cost.prompt)].add(cost, self.layers);
    }

    /// The engine has ended a turn: what it computed to the end is told.
    pub(crate) fn ticked(&mut self, stats: &Stats) {
        self.loaded.totals.set(stats);
        self.limit.see(&stats.stream.since(&self.streamed));
        self.streamed = stats.stream;
        let drive = self.limit.bytes_per_second();
        if drive.is_finite() {
            self.loaded.totals.drive.store(drive as u64, Ordering::Relaxed);
        }
        let times = [stats.decode_time, stats.prefill_time];
        let took = [times[0] - self.times[0], times[1] - self.times[1]];
        self.times = times;
        let both = self.batches.iter().all(|batch| batch.whole);
        for (prompt, batch) in self.batches.iter_mut().enumerate() {
            // A short prompt may be computed among steps: its part of the time is that of a prompt all the same.
            let time = if both { took[prompt] } else { took[0] + took[1] };
            if std::mem::take(&mut batch.whole) && !time.is_zero() && self.late.len() < STEPS_KEPT {
                self.late.push(batch.step(prompt == 1, time, drive));
            }
        }
        // Whoever looks at them just now has them in a moment.
        if let Ok(mut steps) = self.loaded.steps.try_lock() {
            self.late.drain(..).for_each(|step| steps.push(step));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_is_told_every_step_once_and_what_is_kept() {
        let step = |tokens| Step {
            prompt: false,
            tokens,
            time_s: 0.002,
            trunk_s: 0.001,
            experts_s: 0.0004,
            blocked_s: 0.0006,
            bound_s: 0.0015,
            read_bytes: 4096,
            hits: 3,
            misses: 1,
        };
        let mut steps = Steps::default();
        (0..3).for_each(|tokens| steps.push(step(tokens)));
        let told = |steps: &Steps, from| steps.since(from).map(|step| step.tokens).collect::<Vec<_>>();
        assert_eq!(told(&steps, 0), [0, 1, 2]);
        assert_eq!(told(&steps, 2), [2]);
        assert!(told(&steps, 3).is_empty());
        (3..3 + STEPS_KEPT).for_each(|tokens| steps.push(step(tokens)));
        let all = told(&steps, 1);
        assert_eq!((all.len(), all[0]), (STEPS_KEPT, 3), "the oldest are gone");
        let mut text = String::new();
        step(7).push(&mut text);
        assert_eq!(text, "[0,7,2000,1000,400,600,1500,4096,3,1]");
    }
}
