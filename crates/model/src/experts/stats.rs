//! What streaming has cost.

use std::ops::AddAssign;
use std::time::Duration;

/// What streaming has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StreamStats {
    /// Experts found in memory.
    pub hits: u64,
    /// Experts read.
    pub misses: u64,
    /// Those of them that would have been in memory if no slots were set aside for what is read early.
    pub lost: u64,
    /// Bytes of the experts used, as stored.
    pub needed_bytes: u64,
    /// Bytes read from the drive, rounding to its alignment included.
    pub read_bytes: u64,
    /// Those of them that are no expert's: of weights that do not stay in memory, and rows of tables.
    pub trunk_bytes: u64,
    /// Experts read before they were asked for.
    pub early: u64,
    /// Those of them that were asked for then; they count among `misses`.
    pub early_used: u64,
    /// Time in which nothing could be computed because reads were awaited.
    pub blocked: Duration,
    /// Time in which reads were in flight.
    pub reading: Duration,
    /// Time of computing experts, the shared one included: from the first request of a layer to its end, less `blocked`.
    pub computing: Duration,
}

impl AddAssign for StreamStats {
    fn add_assign(&mut self, more: StreamStats) {
        self.hits += more.hits;
        self.misses += more.misses;
        self.lost += more.lost;
        self.needed_bytes += more.needed_bytes;
        self.read_bytes += more.read_bytes;
        self.trunk_bytes += more.trunk_bytes;
        self.early += more.early;
        self.early_used += more.early_used;
        self.blocked += more.blocked;
        self.reading += more.reading;
        self.computing += more.computing;
    }
}

impl StreamStats {
    /// What was done since `earlier`.
    pub fn since(&self, earlier: &StreamStats) -> StreamStats {
        StreamStats {
            hits: self.hits - earlier.hits,
            misses: self.misses - earlier.misses,
            lost: self.lost - earlier.lost,
            needed_bytes: self.needed_bytes - earlier.needed_bytes,
            read_bytes: self.read_bytes - earlier.read_bytes,
            trunk_bytes: self.trunk_bytes - earlier.trunk_bytes,
            early: self.early - earlier.early,
            early_used: self.early_used - earlier.early_used,
            blocked: self.blocked - earlier.blocked,
            reading: self.reading - earlier.reading,
            computing: self.computing - earlier.computing,
        }
    }
}
