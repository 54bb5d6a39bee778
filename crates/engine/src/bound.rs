//! What a drive and a memory allow: the least time that the work just done could have taken.
//!
//! Of a token of an answer, `Σ over layers of [trunk + max(read, experts)] + head`: nothing of a layer's attention can be hidden
//! behind the reads of its experts, because the router comes after it; all of the reading can be hidden behind computing
//! experts, or the other way round. Of a prompt, `max(Σ read, Σ [trunk + experts])`: it uses nearly every expert, so that
//! all of the reading can be hidden behind all of the computing. Where weights outside the experts do not stay in memory, what is
//! read of them is known beforehand: it can be hidden behind anything, and nothing is done before all is read. `read` is the bytes that the drive gave over what it can give with the same byte ranges at depth,
//! measured beside; the other terms are the times that computing really took. Reads that are begun ahead of the router may beat
//! the sum; what was done was possible, and the bound is no more than that.

use std::time::Duration;

use outpour_model::experts::StreamStats;

use crate::observe::LayerCost;

/// A drive that gave so much for so long, of time in which reads were in flight, can give so much.
const SUSTAINED: Duration = Duration::from_millis(500);

/// What a drive gives at most, in bytes a second: as it was measured, and more where it gave more since. What was measured
/// while others used the drive or the processor is too little.
#[derive(Clone, Copy, Debug)]
pub struct DriveLimit {
    bytes_per_second: f64,
    /// Since it was looked at last.
    read_bytes: u64,
    reading: Duration,
}

impl DriveLimit {
    /// A drive that gave so much when it was measured; infinite of a model that reads nothing.
    pub fn measured(bytes_per_second: f64) -> DriveLimit {
        DriveLimit { bytes_per_second, read_bytes: 0, reading: Duration::ZERO }
    }

    /// Bytes a second.
    pub fn bytes_per_second(&self) -> f64 {
        self.bytes_per_second
    }

    /// Takes in what was streamed more.
    pub fn see(&mut self, more: &StreamStats) {
        self.read_bytes += more.read_bytes;
        self.reading += more.reading;
        if self.reading >= SUSTAINED {
            let gave = self.read_bytes as f64 / self.reading.as_secs_f64();
            *self = DriveLimit::measured(self.bytes_per_second.max(gave));
        }
    }
}

/// The costs of every layer of some steps.
#[derive(Clone, Debug, Default)]
pub struct Account {
    layers: Vec<Layer>,
}

#[derive(Clone, Copy, Debug)]
struct Layer {
    /// Whether it was one of a prompt.
    prompt: bool,
    /// Seconds outside the experts.
    trunk: f64,
    /// Seconds of computing experts.
    experts: f64,
    /// Seconds in which nothing could be computed.
    blocked: f64,
    /// All that was read, and what of it was of experts.
    read_bytes: u64,
    expert_bytes: u64,
}

/// What bounds the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoundBy {
    /// Reading experts.
    Drive,
    /// Computing experts.
    Experts,
    /// Computing everything else.
    Trunk,
}

impl BoundBy {
    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            BoundBy::Drive => "drive",
            BoundBy::Experts => "experts",
            BoundBy::Trunk => "trunk",
        }
    }

    /// As part of a sentence.
    pub fn phrase(self) -> &'static str {
        match self {
            BoundBy::Drive => "the drive",
            BoundBy::Experts => "computing experts",
            BoundBy::Trunk => "computing the trunk",
        }
    }

    /// The largest of three times.
    pub(crate) fn largest(drive: f64, experts: f64, trunk: f64) -> BoundBy {
        if drive >= experts && drive >= trunk {
            BoundBy::Drive
        } else if experts >= trunk {
            BoundBy::Experts
        } else {
            BoundBy::Trunk
        }
    }
}

/// The least time that the work could have taken, and its parts. All times in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The bound: never more than the time that the work took, as what was done was possible.
    pub seconds: f64,
    /// What the sum says beyond that time: reads that began before the router chose were hidden behind the trunk too.
    pub beyond_seconds: f64,
    /// What sets it.
    pub by: BoundBy,
    /// Computing outside the experts, the head included.
    pub trunk_seconds: f64,
    /// Computing experts, the shared one included.
    pub expert_seconds: f64,
    /// Reading what was read, at the drive's limit.
    pub read_seconds: f64,
    /// Time in which nothing was computed because reads were awaited.
    pub blocked_seconds: f64,
}

impl Account {
    /// An account with room for so many layers, so that none is allocated while it is kept.
    pub fn with_capacity(layers: usize) -> Account {
        Account { layers: Vec::with_capacity(layers) }
    }

    /// Adds a layer.
    pub fn add(&mut self, cost: &LayerCost) {
        let (experts, blocked) = (cost.stream.computing, cost.stream.blocked);
        self.layers.push(Layer {
            prompt: cost.prompt,
            trunk: cost.time.saturating_sub(experts + blocked).as_secs_f64(),
            experts: experts.as_secs_f64(),
            blocked: blocked.as_secs_f64(),
            read_bytes: cost.stream.read_bytes,
            expert_bytes: cost.stream.read_bytes - cost.stream.trunk_bytes,
        });
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.layers.clear();
    }

    /// The bound of work that took `time` in all, on a drive that gives so much.
    pub fn bound(&self, time: Duration, drive_bytes_per_second: f64) -> Bound {
        let sum = |of: fn(&Layer) -> f64| self.layers.iter().map(of).sum::<f64>();
        let (experts, blocked) = (sum(|layer| layer.experts), sum(|layer| layer.blocked));
        // What is not of a layer is of the head, the embedding and the choice of tokens.
        let trunk = (time.as_secs_f64() - experts - blocked).max(sum(|layer| layer.trunk));
        let (mut by_drive, mut by_experts, mut step_read) = (0.0, 0.0, 0.0);
        let (mut prompt_read, mut prompt_trunk, mut prompt_experts) = (0.0, 0.0, 0.0);
        for layer in &self.layers {
            let seconds = |bytes: u64| bytes as f64 / drive_bytes_per_second;
            if layer.prompt {
                prompt_read += seconds(layer.read_bytes);
                prompt_trunk += layer.trunk;
                prompt_experts += layer.experts;
                continue;
            }
            step_read += seconds(layer.read_bytes);
            match seconds(layer.expert_bytes) {
                read if read > layer.experts => by_drive += read,
                _ => by_experts += layer.experts,
            }
        }
        let step_waits = (step_read - (trunk - prompt_trunk) - by_drive - by_experts).max(0.0);
        let steps_by_drive = if step_waits > 0.0 { step_read } else { by_drive };
        let prompt_computing = prompt_trunk + prompt_experts;
        let prompt_waits = (prompt_read - prompt_computing).max(0.0);
        let by = match prompt_waits > 0.0 {
            true => BoundBy::largest(steps_by_drive + prompt_read, by_experts, trunk - prompt_trunk),
            false => BoundBy::largest(steps_by_drive, by_experts + prompt_experts, trunk),
        };
        let sums_to = trunk + by_drive + by_experts + step_waits + prompt_experts + prompt_waits;
        let seconds = sums_to.min(time.as_secs_f64());
        Bound {
            seconds,
            beyond_seconds: sums_to - seconds,
            by,
            trunk_seconds: trunk,
            expert_seconds: experts,
            read_seconds: sum(|layer| layer.read_bytes as f64) / drive_bytes_per_second,
            blocked_seconds: blocked,
        }
    }
}

/// The bound of work that goes on for long, on a drive whose limit is known: what is over is added up.
#[derive(Clone, Debug)]
pub struct Running {
    limit: DriveLimit,
    /// Of the step under way.
    account: Account,
    seconds: f64,
    /// The steps' bounds, added up.
    total: Bound,
    /// Seconds of the bound's steps by what bounds them: drive, experts, trunk.
    by: [f64; 3],
}

impl Running {
    /// Nothing yet, on a drive that gives so much.
    pub fn new(limit: DriveLimit, layers: usize) -> Running {
        let account = Account::with_capacity(layers);
        let total = Bound {
            seconds: 0.0,
            beyond_seconds: 0.0,
            by: BoundBy::Drive,
            trunk_seconds: 0.0,
            expert_seconds: 0.0,
            read_seconds: 0.0,
            blocked_seconds: 0.0,
        };
        Running { limit, account, seconds: 0.0, total, by: [0.0; 3] }
    }

    /// Adds a layer of the step under way.
    pub fn layer(&mut self, cost: &LayerCost) {
        self.account.add(cost);
        self.limit.see(&cost.stream);
    }

    /// Ends a step that took `time` in all.
    pub fn step(&mut self, time: Duration) {
        let bound = self.account.bound(time, self.limit.bytes_per_second());
        self.account.clear();
        self.seconds += time.as_secs_f64();
        self.by[bound.by as usize] += bound.seconds;
        self.total = Bound {
            seconds: self.total.seconds + bound.seconds,
            beyond_seconds: self.total.beyond_seconds + bound.beyond_seconds,
            by: BoundBy::largest(self.by[0], self.by[1], self.by[2]),
            trunk_seconds: self.total.trunk_seconds + bound.trunk_seconds,
            expert_seconds: self.total.expert_seconds + bound.expert_seconds,
            read_seconds: self.total.read_seconds + bound.read_seconds,
            blocked_seconds: self.total.blocked_seconds + bound.blocked_seconds,
        };
    }

    /// What the drive gives at most.
    pub fn limit(&self) -> DriveLimit {
        self.limit
    }

    /// The bound as a share of the time that it took: 1 is as fast as it can be; `None` before the first step.
    pub fn share(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.total.seconds / self.seconds)
    }

    /// The bounds of all steps together; what bounds most of them.
    pub fn total(&self) -> &Bound {
        &self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(time: u64, computing: u64, blocked: u64, read_bytes: u64) -> LayerCost {
        let ms = Duration::from_millis;
        let stream =
            StreamStats { read_bytes, computing: ms(computing), blocked: ms(blocked), ..StreamStats::default() };
        LayerCost { layer: 0, batch_tokens: 1, prompt: false, time: ms(time), stream }
    }

    #[test]
    fn a_running_bound_adds_up_its_steps() {
        let mut running = Running::new(DriveLimit::measured(1e6), 2);
        assert!(running.share().is_none());
        running.layer(&cost(10, 2, 4, 6_000)); // bound: trunk 4, reading 6
        running.step(Duration::from_millis(20)); // and 10 outside the layers
        running.layer(&cost(10, 7, 1, 1_000)); // bound: trunk 2, experts 7
        running.step(Duration::from_millis(20)); // and 10 outside
        let share = running.share().expect("two steps");
        assert!((share - (20.0 + 19.0) / 40.0).abs() < 1e-9, "{share}");
        assert_eq!(running.total().by, BoundBy::Trunk);
    }

    #[test]
    fn a_drive_that_gives_more_than_was_measured_can_give_it() {
        let mut running = Running::new(DriveLimit::measured(1e5), 1);
        let reads = |cost: LayerCost, reading| {
            let stream = StreamStats { reading: Duration::from_millis(reading), ..cost.stream };
            LayerCost { stream, ..cost }
        };
        // Reading takes ten times as long as it is said to have taken: what was done was possible, and no more is claimed.
        for _ in 0..4 {
            running.layer(&reads(cost(110, 10, 90, 100_000), 100));
            running.step(Duration::from_millis(110));
        }
        assert!((running.share().expect("steps") - 1.0).abs() < 1e-9, "{:?}", running.share());
        assert_eq!(running.limit().bytes_per_second(), 1e5, "not for long enough");
        running.layer(&reads(cost(110, 10, 90, 100_000), 100));
        assert_eq!(running.limit().bytes_per_second(), 1e6);
        running.step(Duration::from_millis(110));
        // A slower second takes nothing back.
        for _ in 0..2 {
            running.layer(&reads(cost(510, 10, 490, 100_000), 500));
            running.step(Duration::from_millis(510));
        }
        assert_eq!(running.limit().bytes_per_second(), 1e6);
        // Of the slow steps, 10 ms of the trunk and 100 of reading were needed.
        let share = running.share().expect("steps");
        assert!((share - (5.0 * 110.0 + 2.0 * 110.0) / (5.0 * 110.0 + 2.0 * 510.0)).abs() < 1e-9, "{share}");
    }

    #[test]
    fn each_layer_hides_the_shorter_of_reading_and_computing() {
        let mut account = Account::default();
        account.add(&cost(10, 2, 4, 6_000)); // trunk 4, reading 6 beside experts 2
        account.add(&cost(10, 7, 1, 1_000)); // trunk 2, experts 7 beside reading 1
        let bound = account.bound(Duration::from_millis(23), 1e6);
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        near(bound.trunk_seconds, 0.009); // 3 of them outside the layers
        near(bound.expert_seconds, 0.009);
        near(bound.read_seconds, 0.007);
        near(bound.blocked_seconds, 0.005);
        near(bound.seconds, 0.009 + 0.006 + 0.007);
        near(bound.beyond_seconds, 0.0);
        assert_eq!(bound.by, BoundBy::Trunk);
        // Reads ahead of the router, or a drive that was measured while others used it: no bound is above what was done.
        let beaten = account.bound(Duration::from_millis(23), 1e5);
        assert_eq!(beaten.by, BoundBy::Drive);
        near(beaten.seconds, 0.023);
        near(beaten.beyond_seconds, 0.009 + 0.060 + 0.010 - 0.023);
    }

    #[test]
    fn what_is_read_of_the_trunk_hides_behind_all_computing() {
        let streamed = |cost: LayerCost, trunk_bytes| {
            let read_bytes = cost.stream.read_bytes + trunk_bytes;
            LayerCost { stream: StreamStats { read_bytes, trunk_bytes, ..cost.stream }, ..cost }
        };
        let mut account = Account::default();
        account.add(&streamed(cost(10, 2, 4, 6_000), 2_000)); // trunk 4, reading 6 beside experts 2, and 2 beside anything
        account.add(&streamed(cost(10, 7, 1, 1_000), 2_000)); // trunk 2, experts 7 beside reading 1, and 2 beside anything
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        let bound = account.bound(Duration::from_millis(30), 1e6);
        near(bound.read_seconds, 0.011);
        near(bound.seconds, 0.016 + 0.006 + 0.007); // of 30, 5 waited and 9 were experts'
        assert_eq!(bound.by, BoundBy::Trunk);
        // On a drive that takes longer than all that, nothing but reading counts.
        account.add(&streamed(cost(60, 0, 60, 0), 49_000));
        let bound = account.bound(Duration::from_millis(90), 1e6);
        near(bound.seconds, 0.060);
        assert_eq!(bound.by, BoundBy::Drive);
    }

    #[test]
    fn a_prompt_hides_the_shorter_of_all_reading_and_all_computing() {
        let mut account = Account::default();
        account.add(&LayerCost { prompt: true, ..cost(10, 2, 4, 9_000) }); // trunk 4, experts 2
        account.add(&LayerCost { prompt: true, ..cost(10, 7, 1, 2_000) }); // trunk 2, experts 7
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        let bound = account.bound(Duration::from_millis(23), 1e6); // 3 of them outside the layers
        near(bound.seconds, 0.003 + 0.015); // 11 of reading are less
        assert_eq!(bound.by, BoundBy::Experts);
        let bound = account.bound(Duration::from_millis(23), 0.5e6);
        near(bound.seconds, 0.023);
        near(bound.beyond_seconds, 0.002);
        assert_eq!(bound.by, BoundBy::Drive);
    }
}
