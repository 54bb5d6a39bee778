//! Tokens a second before anything is loaded: rehearsed computing, and reading at the drive's measured speed.
//!
//! An answer: `Σ over layers of [trunk + max(read, experts)] + head`, token by token while the memory fills; what reading takes
//! of the processors is added to the experts. A prompt: the same for a sweep, in which every expert that some token chose is read
//! once, if memory holds a layer's; where those are nearly all, reading goes on while the next layer's trunk is computed. How often
//! an expert is found in memory depends on the text; see [`Hits`].

use outpour_model::experts::{EARLY_SHARE, SWEEP_SHARE};
use outpour_store::layout::ExpertId;
use outpour_store::plan::Plan;

use crate::bound::BoundBy;
use crate::inspection::Inspection;
use crate::profile::DriveRate;
use crate::rehearsal::{LayerSeconds, Pass, Rehearsal};

/// What is predicted for.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the answer.
    pub answer_tokens: usize,
    /// Share of a token's experts that this memory holds in the long run, where it is known.
    pub hit_rate: Option<f64>,
}

/// What is predicted.
#[derive(Clone, Copy, Debug)]
pub struct Forecast {
    /// Of answers, when memory has long been full.
    pub decode: Speed,
    /// Of an answer that begins with no expert in memory.
    pub decode_cold: Speed,
    /// Of a prompt, after another one.
    pub prefill: Speed,
    /// Of a prompt that begins with no expert in memory.
    pub prefill_cold: Speed,
}

/// How fast tokens are computed, and why.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// Tokens a second.
    pub tokens_per_second: f64,
    /// What bounds that.
    pub bound_by: BoundBy,
    /// Share of a token's experts that is found in memory.
    pub hit_rate: f64,
    /// Bytes that the drive gives for each token.
    pub read_bytes_per_token: f64,
    /// Seconds of computing for each token, outside the experts.
    pub trunk_seconds: f64,
    /// Seconds of computing experts for each token.
    pub expert_seconds: f64,
    /// Seconds of reading for each token.
    pub read_seconds: f64,
}

/// Predicts a model's speed under a plan.
pub fn forecast(inspection: &Inspection, plan: &Plan, rehearsal: &Rehearsal, drive: &DriveRate, ask: Ask) -> Forecast {
    let hits = Hits::new(inspection, plan, ask.hit_rate);
    let of = |&layer: &usize| inspection.trunk.layers[layer] as f64;
    let streamed = plan.trunk.streamed.iter().map(of).sum();
    let model = Arithmetic { inspection, rehearsal, drive, streamed };
    let fits = plan.expert_slots >= inspection.layout.experts_total();
    let cold = hits.cold(ask.answer_tokens);
    let rows = ask.prompt_tokens.min(inspection.sweep_tokens(plan)).max(1);
    // A sweep finds what the one before left, where there is room beside what it passes through: a layer, and what is read early
    // of the next.
    let layer = (0..inspection.layout.layers()).map(|layer| inspection.layout.experts(layer)).max().unwrap_or(0) as f64;
    let slots = plan.expert_slots as f64;
    let early = slots / EARLY_SHARE as f64;
    let swept = match slots > early + layer {
        _ if fits => 1.0,
        true => slots / inspection.layout.experts_total().max(1) as f64,
        false => 0.0,
    };
    Forecast {
        decode: model.answer(&[hits.warm()]),
        decode_cold: model.answer(&cold),
        prefill: model.prompt(rows, swept, early),
        prefill_cold: model.prompt(rows, 0.0, early),
    }
}

/// How often a token's experts are found in memory, where the least recently used makes room.
#[derive(Clone, Copy, Debug)]
pub struct Hits {
    /// Experts that memory holds.
    slots: f64,
    /// Experts of the model.
    experts: f64,
    /// Experts of one token, in all layers.
    needed: f64,
    curve: Curve,
}

#[derive(Clone, Copy, Debug)]
enum Curve {
    /// The share of the experts held, to this power.
    Power(f64),
    Constant(f64),
}

/// In traces of real models 0.3 of the experts hold 0.57 of the uses: 0.3 to this power.
const POWER: f64 = 0.467;

impl Hits {
    /// Of a model under a plan, where `known` is the share in the long run; without it, as in traces of real models.
    pub fn new(inspection: &Inspection, plan: &Plan, known: Option<f64>) -> Hits {
        let needed = inspection.layout.sparse_layers() * inspection.facts().top_k;
        Hits::of(plan.expert_slots, inspection.layout.experts_total(), needed, known)
    }

    /// For `slots` of `experts`, of which a token needs `needed`.
    fn of(slots: usize, experts: usize, needed: usize, known: Option<f64>) -> Hits {
        let [slots, experts, needed] = [slots, experts, needed].map(|count| count as f64);
        let mut hits = Hits { slots, experts, needed, curve: Curve::Power(POWER) };
        if let Some(known) = known {
            // Through the known point; 0 and 1, and memory for one token or for all, say nothing of other sizes.
            let share = hits.share(slots);
            let between = |x: f64| 0.0 < x && x < 1.0;
            hits.curve = match between(share) && between(known) {
                true => Curve::Power(known.ln() / share.ln()),
                false => Curve::Constant(known),
            };
        }
        hits
    }

    fn share(&self, held: f64) -> f64 {
        match held >= self.experts {
            true => 1.0,
            false => ((held - self.needed) / (self.experts - self.needed)).max(0.0),
        }
    }

    /// With so many experts in memory: nothing while they are fewer than one token needs, all where they are all.
    fn rate(&self, held: f64) -> f64 {
        match self.curve {
            Curve::Power(power) => self.share(held).powf(power),
            Curve::Constant(rate) => rate,
        }
    }

    /// In the long run.
    pub fn warm(&self) -> f64 {
        self.rate(self.slots)
    }

    /// Of each of so many tokens, the first of which finds nothing: a memory that holds some experts so far hits as often as
    /// a full one of that size.
    pub fn cold(&self, tokens: usize) -> Vec<f64> {
        let mut held = 0.0;
        let token = |_| {
            let rate = self.rate(held);
            held = (held + (1.0 - rate) * self.needed).min(self.slots);
            rate
        };
        (0..tokens).map(token).collect()
    }
}

/// Seconds, by where they go.
#[derive(Clone, Copy, Debug, Default)]
struct Time {
    trunk: f64,
    experts: f64,
    read: f64,
    read_bytes: f64,
    /// Of layers that wait for the drive, and of those that do not: the longer of reading and computing.
    by_drive: f64,
    by_experts: f64,
}

impl Time {
    /// Adds a layer's reading and computing, of which `last` comes after the last read.
    fn add(&mut self, weight: f64, read: f64, experts: f64, last: f64) {
        self.read += weight * read;
        self.experts += weight * experts;
        if read > 0.0 && read + last > experts {
            self.by_drive += weight * (read + last);
        } else {
            self.by_experts += weight * experts;
        }
    }

    fn seconds(&self) -> f64 {
        self.trunk + self.by_drive + self.by_experts
    }

    /// Adds what of the trunk is read, which nothing is taken to hide.
    fn stream_trunk(&mut self, bytes: f64, bytes_per_second: f64) {
        self.read += bytes / bytes_per_second;
        self.by_drive += bytes / bytes_per_second;
        self.read_bytes += bytes;
    }

    /// However fast bursts are, all of it takes as long as a steady flow.
    fn sustain(&mut self, bytes_per_second: f64) {
        self.by_drive += (self.read_bytes / bytes_per_second - self.seconds()).max(0.0);
    }

    fn speed(&self, tokens: f64, hit_rate: f64) -> Speed {
        Speed {
            tokens_per_second: tokens / self.seconds(),
            bound_by: BoundBy::largest(self.by_drive, self.by_experts, self.trunk),
            hit_rate,
            read_bytes_per_token: self.read_bytes / tokens,
            trunk_seconds: self.trunk / tokens,
            expert_seconds: self.experts / tokens,
            read_seconds: self.read / tokens,
        }
    }
}

struct Arithmetic<'a> {
    inspection: &'a Inspection,
    rehearsal: &'a Rehearsal,
    drive: &'a DriveRate,
    /// Bytes of the trunk that are read anew each time.
    streamed: f64,
}

impl Arithmetic<'_> {
    /// Layers with their times, their number of experts, and an expert's bytes.
    fn layers<'l>(&self, pass: &'l Pass) -> impl Iterator<Item = (LayerSeconds, f64, f64)> + use<'l, '_> {
        let layout = &self.inspection.layout;
        pass.layers.iter().enumerate().map(|(layer, &seconds)| {
            let experts = layout.experts(layer);
            let id = ExpertId { layer: layer as u32, expert: 0 };
            let bytes = if experts > 0 { layout.expert_bytes(id) } else { 0 };
            (seconds, experts as f64, bytes as f64)
        })
    }

    /// Tokens one at a time, each of which finds such a share of its experts.
    fn answer(&self, hit_rates: &[f64]) -> Speed {
        let pass = &self.rehearsal.token;
        let top_k = self.inspection.facts().top_k;
        let mut time = Time::default();
        for &rate in hit_rates {
            time.trunk += pass.head;
            time.stream_trunk(self.streamed, self.drive.steady);
            for (seconds, experts, bytes) in self.layers(pass) {
                time.trunk += seconds.trunk;
                if experts == 0.0 {
                    continue;
                }
                // The shared expert is computed beside the first reads.
                let last = seconds.experts / (top_k + 1) as f64;
                for (missing, chance) in binomial(top_k, 1.0 - rate) {
                    let read = self.drive.burst_seconds(missing, bytes);
                    let reading = missing as f64 * bytes * self.drive.cpu_seconds_per_byte;
                    time.add(chance, read, seconds.experts + reading, last);
                    time.read_bytes += chance * missing as f64 * bytes;
                }
            }
        }
        time.sustain(self.drive.steady);
        let tokens = hit_rates.len() as f64;
        time.speed(tokens, hit_rates.iter().sum::<f64>() / tokens)
    }

    /// A sweep of so many tokens, which may read so many experts of the next layer early.
    fn prompt(&self, rows: usize, hit_rate: f64, early: f64) -> Speed {
        let pass = &self.rehearsal.prompt;
        let top_k = self.inspection.facts().top_k as f64;
        let longer = rows as f64 / pass.rows as f64;
        let mut time = Time { trunk: pass.head, ..Time::default() };
        let mut sweeps = false;
        for (seconds, experts, bytes) in self.layers(pass) {
            let trunk = longer * seconds.trunk;
            time.trunk += trunk;
            if experts == 0.0 {
                sweeps = false;
                continue;
            }
            // Experts that at least one row chose, if rows choose independently.
            let used = experts * (1.0 - (1.0 - top_k / experts).powi(rows as i32));
            let missing_bytes = used * (1.0 - hit_rate) * bytes;
            let computing = longer * seconds.experts + missing_bytes * self.drive.cpu_seconds_per_byte;
            let read = missing_bytes / self.drive.steady;
            let hidden = if sweeps { trunk.min(early * bytes / self.drive.steady).min(read) } else { 0.0 };
            time.add(1.0, read - hidden, computing, computing / used);
            time.read += hidden;
            time.read_bytes += missing_bytes;
            sweeps = used >= SWEEP_SHARE * experts;
        }
        time.stream_trunk(self.streamed, self.drive.steady);
        time.speed(rows as f64, hit_rate)
    }
}

/// Every number of successes in `n` trials, with its chance, where one succeeds by the chance `p`.
fn binomial(n: usize, p: f64) -> impl Iterator<Item = (usize, f64)> {
    // C(n, k), from one k to the next.
    let mut ways = 1.0;
    (0..=n).map(move |k| {
        let chance = ways * p.powi(k as i32) * (1.0 - p).powi((n - k) as i32);
        ways *= (n - k) as f64 / (k + 1) as f64;
        (k, chance)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, known: f64) {
        assert!((found - known).abs() < 1e-3, "{found} is not {known}");
    }

    #[test]
    fn hits_follow_the_traces() {
        let at = |slots| Hits::of(slots, 6144, 0, None).warm();
        near(at(0), 0.0);
        near(at(6144 * 3 / 10), 0.57);
        near(at(6144), 1.0);
        // Less than one token needs is worth nothing.
        near(Hits::of(380, 6144, 384, None).warm(), 0.0);
        near(Hits::of(6144, 6144, 6144, None).warm(), 1.0);
    }

    #[test]
    fn a_known_share_bends_the_curve_through_it() {
        let hits = Hits::of(1500, 6144, 384, Some(0.7));
        near(hits.warm(), 0.7);
        assert!(hits.rate(900.0) < 0.7 && hits.rate(900.0) > Hits::of(1500, 6144, 384, None).rate(900.0));
        for (slots, known) in [(100, 0.3), (6144, 0.4), (1500, 0.0), (1500, 1.0)] {
            let hits = Hits::of(slots, 6144, 384, Some(known));
            near(hits.warm(), known);
            near(hits.cold(3)[0], known);
        }
    }

    #[test]
    fn a_cold_memory_fills() {
        let hits = Hits::of(1000, 6144, 384, None);
        let cold = hits.cold(400);
        assert_eq!(cold[0], 0.0);
        assert!(cold.is_sorted());
        near(cold[399], hits.warm());
        // No more was read than fits before the first expert is read twice.
        let read = |tokens: usize| cold[..tokens].iter().map(|rate| (1.0 - rate) * 384.0).sum::<f64>();
        let full = cold.iter().position(|&rate| rate == hits.warm()).expect("it fills");
        assert!(read(full) >= 1000.0 && read(full - 1) < 1000.0, "{} of {full}", read(full));
    }

    #[test]
    fn chances_add_up() {
        for (n, p) in [(8, 0.0), (8, 1.0), (10, 0.43), (1, 0.5)] {
            near(binomial(n, p).map(|(_, chance)| chance).sum(), 1.0);
            near(binomial(n, p).map(|(k, chance)| k as f64 * chance).sum(), n as f64 * p);
        }
        assert_eq!(binomial(0, 0.3).count(), 1);
    }

    #[test]
    fn a_layer_takes_the_longer_of_reading_and_computing() {
        let mut time = Time { trunk: 1.0, ..Time::default() };
        time.add(1.0, 5.0, 2.0, 0.5);
        time.add(0.5, 1.0, 4.0, 1.0);
        time.add(1.0, 0.0, 1.0, 1.0);
        let speed = time.speed(2.0, 0.25);
        near(speed.tokens_per_second, 2.0 / (1.0 + 5.5 + 2.0 + 1.0));
        near(speed.read_seconds, 5.5 / 2.0);
        near(speed.expert_seconds, 5.0 / 2.0);
        assert_eq!(speed.bound_by, BoundBy::Drive);
    }
}
