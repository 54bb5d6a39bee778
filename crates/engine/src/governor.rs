//! Gives memory back to the machine when others need it, and takes it again when they do not.
//!
//! The planned memory is a ceiling: within it the slab loses and regains whole pieces, between layers. Only speed depends on
//! it, never a result.

use std::time::{Duration, Instant};

use outpour_kernels::Ops;
use outpour_model::ExpertStream;
use outpour_model::weights::allocate_region;
use outpour_store::machine::{Headroom, Machine};

/// How often the system is asked at most, while something is computed.
const INTERVAL: Duration = Duration::from_millis(250);
/// How often it is asked while nothing is: see [`crate::Engine::idle`].
pub const IDLE_INTERVAL: Duration = Duration::from_millis(500);
/// Memory must have been plenty for so long before a piece is taken again.
const CALM: Duration = Duration::from_secs(5);
/// So much of the machine's memory stays free at least, even where the plan left less to others.
const MACHINE_FREE_BYTES_MIN: u64 = 128 << 20;
/// More than this need not be free.
const FREE_BYTES_MAX: u64 = 1 << 30;
/// In percent of the time: where everything waits for memory for longer, it is short though more than the limits is free ...
const STALLED_PERCENT_MAX: f64 = 10.0;
/// ... but not this many times as much. Then who waits are others, within limits of their own.
const STALLED_LIMITS: i64 = 4;

/// What to do with the slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Advice {
    Keep,
    /// Give so many bytes back.
    Shrink(u64),
    /// Take a piece again.
    Grow,
}

/// What was given back and taken again so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GovernorStats {
    /// Bytes given back to the system.
    pub given_back: u64,
    /// Bytes of those that were taken again.
    pub taken_again: u64,
}

/// Watches the machine's memory.
pub(crate) struct Governor {
    machine: Machine,
    limits: Limits,
    asked: Instant,
    calm_since: Option<Instant>,
    stats: GovernorStats,
}

/// Free memory below which the slab shrinks: half of what the plan left to others, within bounds.
#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    machine_bytes: u64,
    group_bytes: u64,
}

impl Limits {
    /// `now` is what is free while this process holds `own` of the `planned` bytes that it may come to hold.
    fn new(now: Headroom, own: u64, planned: u64) -> Limits {
        let to_come = planned.saturating_sub(own);
        let half = |free: Option<u64>| (free.unwrap_or(0).saturating_sub(to_come) / 2).min(FREE_BYTES_MAX);
        Limits {
            machine_bytes: half(now.machine_bytes).max(MACHINE_FREE_BYTES_MIN),
            group_bytes: half(now.group_bytes),
        }
    }

    /// Bytes that are missing to the limits; below 0, bytes that are free beyond them.
    fn missing(&self, now: Headroom) -> i64 {
        let missing = |limit: u64, free: Option<u64>| free.map_or(i64::MIN, |free| limit as i64 - free as i64);
        missing(self.machine_bytes, now.machine_bytes).max(missing(self.group_bytes, now.group_bytes))
    }

    fn advise(&self, now: Headroom, piece_bytes: u64) -> Advice {
        let missing = self.missing(now);
        let limit = self.machine_bytes.max(self.group_bytes) as i64;
        if now.stalled_percent > STALLED_PERCENT_MAX && missing > (1 - STALLED_LIMITS) * limit {
            return Advice::Shrink(missing.max(1) as u64);
        }
        // As much again stays free behind the piece, or it would be given back soon.
        let spare = piece_bytes as i64 + limit;
        match missing {
            1.. => Advice::Shrink(missing as u64),
            _ if missing <= -spare => Advice::Grow,
            _ => Advice::Keep,
        }
    }
}

impl Governor {
    /// One for a process that may come to hold `planned` bytes.
    pub(crate) fn new(machine: Machine, planned: u64) -> Governor {
        let own = machine.resident().map_or(0, |resident| resident.anonymous_bytes + resident.shared_bytes);
        let limits = Limits::new(machine.headroom(), own, planned);
        let stats = GovernorStats::default();
        Governor { machine, limits, asked: Instant::now(), calm_since: None, stats }
    }

    pub(crate) fn stats(&self) -> GovernorStats {
        self.stats
    }

    /// Asks the system where that was not done just now, and gives memory back or takes a piece again.
    pub(crate) fn govern(&mut self, experts: &mut ExpertStream, ops: &dyn Ops) {
        if self.asked.elapsed() < INTERVAL {
            return;
        }
        self.asked = Instant::now();
        let (piece_bytes, withdrawn) = experts.residency().withdrawn();
        match self.limits.advise(self.machine.headroom(), piece_bytes as u64) {
            Advice::Keep => self.calm_since = None,
            Advice::Shrink(bytes) => {
                self.calm_since = None;
                let pieces = bytes.div_ceil(piece_bytes.max(1) as u64);
                // What is taken is dropped, and with that given back.
                let taken = (0..pieces).map_while(|_| experts.shrink()).count();
                self.stats.given_back += (taken * piece_bytes) as u64;
            }
            Advice::Grow if withdrawn > 0 => {
                if self.calm_since.get_or_insert(self.asked).elapsed() >= CALM {
                    self.regain(experts, ops);
                }
            }
            Advice::Grow => {}
        }
    }

    /// Takes a piece again. `false` where none is missing, or the system refuses.
    pub(crate) fn regain(&mut self, experts: &mut ExpertStream, ops: &dyn Ops) -> bool {
        let (piece_bytes, withdrawn) = experts.residency().withdrawn();
        if withdrawn == 0 {
            return false;
        }
        let Ok(region) = allocate_region(ops, piece_bytes) else { return false };
        experts.grow(region);
        self.stats.taken_again += piece_bytes as u64;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn free(machine: u64, group: Option<u64>) -> Headroom {
        let group_bytes = group.map(|mib| mib * MIB);
        Headroom { machine_bytes: Some(machine * MIB), group_bytes, stalled_percent: 0.0 }
    }

    #[test]
    fn what_others_grow_by_is_given_back() {
        // 8 GiB free, of which this process takes 6: half of the rest stays free.
        let limits = Limits::new(free(8192, None), 0, 6144 * MIB);
        assert_eq!(limits.machine_bytes, 1024 * MIB);
        assert_eq!(limits.advise(free(2048, None), 256 * MIB), Advice::Keep);
        assert_eq!(limits.advise(free(900, None), 256 * MIB), Advice::Shrink(124 * MIB));
        assert_eq!(limits.advise(free(2304, None), 256 * MIB), Advice::Grow);
        let stalled = |free: Headroom| Headroom { stalled_percent: 20.0, ..free };
        assert_eq!(limits.advise(stalled(free(4000, None)), 256 * MIB), Advice::Shrink(1));
        assert_eq!(limits.advise(stalled(free(8192, None)), 256 * MIB), Advice::Grow);
    }

    #[test]
    fn a_group_that_is_given_whole_is_used_whole() {
        // The group's limit is 5 % above --ram: it is no reason to shrink that little is free.
        let limits = Limits::new(free(8192, Some(1075)), 0, 1024 * MIB);
        assert_eq!(limits.advise(free(7000, Some(51)), 16 * MIB), Advice::Keep);
        assert!(matches!(limits.advise(free(7000, Some(20)), 16 * MIB), Advice::Shrink(_)));
        // More is asked for than is free: only an emergency shrinks it.
        let limits = Limits::new(free(1000, None), 0, 4096 * MIB);
        assert_eq!(limits.machine_bytes, MACHINE_FREE_BYTES_MIN);
    }

    #[test]
    fn a_system_that_tells_nothing_is_left_alone() {
        let limits = Limits::new(Headroom::default(), 0, 4096 * MIB);
        assert!(!matches!(limits.advise(Headroom::default(), MIB), Advice::Shrink(_)));
    }
}
