//! What the routes of an answer would have read otherwise, beside which its bound is seen: as a replay keeps the experts that were
//! used last, and as one that knows what comes.

use std::sync::Arc;

use outpour_engine::Engine;
use outpour_store::residency::ResidencyMap;
use outpour_store::trace::{Policy, Trace, replay_in_room, routed};

/// Memory of the routes that are kept; what comes behind is not counted.
const ROUTES_BYTES_MAX: usize = 1 << 20;
/// Of a layer's use: two numbers in a [`Trace`].
const STEP_BYTES: usize = 16;

/// The routes of a prompt and its answer, from empty memory on, and as far as there is room for them.
pub struct Chosen {
    trace: Trace,
    bytes: usize,
    /// Says how many experts a layer has.
    experts: Arc<ResidencyMap>,
    /// Where the answer begins.
    from: usize,
    /// Tokens of the answer whose routes are there.
    tokens: usize,
}

/// Experts read for each token of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floors {
    /// Where the least recently used makes room.
    pub lru: f64,
    /// Where what comes last makes room.
    pub belady: f64,
    /// The first tokens, of which this is so.
    pub tokens: usize,
}

impl Chosen {
    /// Nothing yet; `None` where memory is not empty, so that nobody knows what a replay would find in it.
    pub fn new(engine: &mut Engine) -> Option<Chosen> {
        let stream = engine.stats().stream;
        let experts = engine.residency_map();
        let mut trace = Trace::default();
        trace.room(engine.expert_slots());
        (stream.hits + stream.misses == 0).then_some(Chosen { trace, bytes: 0, experts, from: 0, tokens: 0 })
    }

    /// Notes what a layer's router chose.
    pub fn push(&mut self, layer: usize, choice: &[i32]) {
        if !self.is_full() {
            let experts: Vec<u32> = routed(choice, self.experts.layers()[layer]).collect();
            self.bytes += STEP_BYTES + size_of::<u32>() * experts.len().min(self.experts.layers()[layer]);
            self.trace.push(layer as u32, &experts);
        }
    }

    fn is_full(&self) -> bool {
        self.bytes >= ROUTES_BYTES_MAX
    }

    /// The prompt is computed, and memory has room for so many experts: what follows is the answer's.
    pub fn begin_answer(&mut self, slots: usize) {
        self.trace.room(slots);
        self.from = self.trace.len();
    }

    /// A token of the answer is computed, and memory has room for so many experts.
    pub fn end_token(&mut self, slots: usize) {
        self.trace.room(slots);
        self.tokens += usize::from(!self.is_full());
    }

    /// What the same memory would have read; `None` where no token's routes are known.
    pub fn floors(&self) -> Option<Floors> {
        let misses = |policy| replay_in_room(&self.trace, policy, self.from).misses as f64 / self.tokens as f64;
        (self.tokens > 0).then(|| Floors {
            lru: misses(Policy::Lru),
            belady: misses(Policy::Belady),
            tokens: self.tokens,
        })
    }
}
