//! Which expert makes room: the policies.

use std::collections::{BTreeSet, HashSet, VecDeque};

use crate::residency::ranking::{FREQUENCY, Ranking, Worth};

/// Which expert makes room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The least recently used.
    Lru,
    /// The first that a hand, going round, finds not used since it last came by.
    Clock,
    /// S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", 2023): a tenth of the room is for newcomers, of
    /// which only those used again move to the rest; those that come back soon after they left go there at once.
    S3Fifo,
    /// The least often used since the start; of several, the least recently used.
    Lfu,
    /// As [`Policy::Lfu`], where a use counts half as much after four times as many uses as the cache has slots (LRFU, Lee et al.,
    /// 2001).
    DecayedLfu,
    /// [`Policy::Lru`] or [`Policy::DecayedLfu`], whichever missed less of late: the engine's own.
    Adaptive,
    /// The one whose next use is farthest away: no policy hits more (Belady, 1966). It knows the future.
    Belady,
}

impl Policy {
    /// All of them, the one that knows the future last.
    pub const ALL: [Policy; 7] =
        [Policy::Lru, Policy::Clock, Policy::S3Fifo, Policy::Lfu, Policy::DecayedLfu, Policy::Adaptive, Policy::Belady];

    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Policy::Lru => "lru",
            Policy::Clock => "clock",
            Policy::S3Fifo => "s3-fifo",
            Policy::Lfu => "lfu",
            Policy::DecayedLfu => "decayed-lfu",
            Policy::Adaptive => "adaptive",
            Policy::Belady => "belady",
        }
    }

    /// The order in which `experts` experts leave a cache of `slots`.
    pub(super) fn order(self, experts: usize, slots: usize) -> Box<dyn Order> {
        match self {
            Policy::Clock => Box::new(Clock::new(experts)),
            Policy::S3Fifo => Box::new(S3Fifo::new(experts, slots)),
            Policy::Adaptive => Box::new(Adaptive::new(experts, slots)),
            Policy::Lru | Policy::Lfu | Policy::DecayedLfu | Policy::Belady => {
                Box::new(Ranked::new(self, experts, slots))
            }
        }
    }
}

/// A use of an expert.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    /// Dense number of the expert.
    pub expert: u32,
    /// The step in which it is used next, or [`NEVER`].
    pub next_step: u64,
}

/// A step behind every trace's end.
pub(super) const NEVER: u64 = u64::MAX >> 1;

/// The order in which experts leave.
pub(super) trait Order {
    /// A use, of an expert that is in the cache from now on (or not at all, where it found no room).
    fn used(&mut self, used: Use, was_in: bool, is_in: bool);

    /// Takes out the expert that goes first, of those that are not `held`.
    fn evict(&mut self, held: &dyn Fn(u32) -> bool) -> Option<u32>;
}

/// Experts by a key that changes with their own uses only.
struct Ranked {
    policy: Policy,
    slots: usize,
    /// How often each expert was used.
    counts: Vec<u64>,
    worth: Worth,
    keys: Vec<u64>,
    /// Those in the cache, those that go first in front.
    order: BTreeSet<(u64, u32)>,
    clock: u64,
}

impl Ranked {
    fn new(policy: Policy, experts: usize, slots: usize) -> Ranked {
        Ranked {
            policy,
            slots: slots.max(1),
            counts: vec![0; experts],
            worth: Worth::new(experts),
            keys: vec![0; experts],
            order: BTreeSet::new(),
            clock: 0,
        }
    }

    /// Counts a use; gives the expert's key from now on.
    fn count(&mut self, used: Use) -> u64 {
        self.clock += 1;
        match self.policy {
            Policy::Lfu => {
                let count = &mut self.counts[used.expert as usize];
                *count += 1;
                *count << 36 | self.clock
            }
            Policy::DecayedLfu => {
                self.worth.used(used.expert, FREQUENCY * self.slots as f64);
                self.worth.of(used.expert)
            }
            Policy::Belady => NEVER - used.next_step,
            Policy::Lru | Policy::Clock | Policy::S3Fifo | Policy::Adaptive => self.clock,
        }
    }
}

impl Order for Ranked {
    fn used(&mut self, used: Use, was_in: bool, is_in: bool) {
        let key = self.count(used);
        let old = std::mem::replace(&mut self.keys[used.expert as usize], key);
        if was_in {
            self.order.remove(&(old, used.expert));
        }
        if is_in {
            self.order.insert((key, used.expert));
        }
    }

    fn evict(&mut self, held: &dyn Fn(u32) -> bool) -> Option<u32> {
        let first = self.order.iter().find(|(_, expert)| !held(*expert)).copied()?;
        self.order.remove(&first);
        Some(first.1)
    }
}

/// Experts by what they are worth to the engine.
struct Adaptive {
    ranking: Ranking,
    slots: usize,
    /// By expert: what it is worth in the order.
    worth: Vec<u64>,
    order: BTreeSet<(u64, u32)>,
}

impl Adaptive {
    fn new(experts: usize, slots: usize) -> Adaptive {
        Adaptive { ranking: Ranking::new(experts, slots), slots, worth: vec![0; experts], order: BTreeSet::new() }
    }

    fn put(&mut self, expert: u32) {
        self.worth[expert as usize] = self.ranking.of(expert);
        self.order.insert((self.worth[expert as usize], expert));
    }
}

impl Order for Adaptive {
    fn used(&mut self, used: Use, was_in: bool, is_in: bool) {
        if was_in {
            self.order.remove(&(self.worth[used.expert as usize], used.expert));
        }
        if self.ranking.used(used.expert, self.slots, false) {
            std::mem::take(&mut self.order).into_iter().for_each(|(_, expert)| self.put(expert));
        }
        if is_in {
            self.put(used.expert);
        }
    }

    fn evict(&mut self, held: &dyn Fn(u32) -> bool) -> Option<u32> {
        let first = self.order.iter().find(|(_, expert)| !held(*expert)).copied()?;
        self.order.remove(&first);
        Some(first.1)
    }
}

/// A ring of experts, and whether each was used since the hand came by.
struct Clock {
    /// Front: where the hand is.
    ring: VecDeque<u32>,
    used: Vec<bool>,
}

impl Clock {
    fn new(experts: usize) -> Clock {
        Clock { ring: VecDeque::new(), used: vec![false; experts] }
    }
}

impl Order for Clock {
    fn used(&mut self, used: Use, was_in: bool, is_in: bool) {
        if was_in {
            self.used[used.expert as usize] = true;
        } else if is_in {
            self.used[used.expert as usize] = false;
            self.ring.push_back(used.expert);
        }
    }

    fn evict(&mut self, held: &dyn Fn(u32) -> bool) -> Option<u32> {
        // Twice round: the first time may only forget the uses.
        for _ in 0..2 * self.ring.len() {
            let expert = self.ring.pop_front()?;
            if held(expert) || std::mem::take(&mut self.used[expert as usize]) {
                self.ring.push_back(expert);
            } else {
                return Some(expert);
            }
        }
        None
    }
}

/// Newcomers, the others, and the names of newcomers that left unused.
struct S3Fifo {
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    ghosts: VecDeque<u32>,
    is_ghost: HashSet<u32>,
    uses: Vec<u8>,
    small_max: usize,
    ghosts_max: usize,
}

impl S3Fifo {
    fn new(experts: usize, slots: usize) -> S3Fifo {
        S3Fifo {
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: VecDeque::new(),
            is_ghost: HashSet::new(),
            uses: vec![0; experts],
            small_max: (slots / 10).max(1),
            ghosts_max: slots - slots / 10,
        }
    }

    fn remember(&mut self, expert: u32) {
        if self.is_ghost.insert(expert) {
            self.ghosts.push_back(expert);
        }
        while self.ghosts.len() > self.ghosts_max {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.is_ghost.remove(&oldest);
            }
        }
    }

    /// The first of the newcomers that goes; those used more than once move on.
    fn evict_small(&mut self, held: &dyn Fn(u32) -> bool) -> Option<u32> {
        for _ in 0..self.small.len() {
            let expert = self.small.pop_front()?;
            if held(expert) {
                self.small.push_back(expert);
            } else if self.uses[expert as usize] > 1 {
                self.uses[expert as usize] = 0;
                self.main.push_back(expert);
            } else {
                self.remember(expert);
                return Some(expert);
            }
        }
        None
    }

    fn evict_main(&mut self, held: &dyn Fn(u32) -> bool) -> Option<u32> {
        for _ in 0..4 * self.main.len() {
            let expert = self.main.pop_front()?;
            let uses = &mut self.uses[expert as usize];
            if held(expert) {
                self.main.push_back(expert);
            } else if *uses > 0 {
                *uses -= 1;
                self.main.push_back(expert);
            } else {
                return Some(expert);
            }
        }
        None
    }
}

impl Order for S3Fifo {
    fn used(&mut self, used: Use, was_in: bool, is_in: bool) {
        let expert = used.expert;
        if was_in {
            let uses = &mut self.uses[expert as usize];
            *uses = (*uses + 1).min(3);
        } else if is_in {
            self.uses[expert as usize] = 0;
            if self.is_ghost.remove(&expert) {
                self.ghosts.retain(|&ghost| ghost != expert);
                self.main.push_back(expert);
            } else {
                self.small.push_back(expert);
            }
        }
    }

    fn evict(&mut self, held: &dyn Fn(u32) -> bool) -> Option<u32> {
        if self.small.len() >= self.small_max
            && let Some(expert) = self.evict_small(held)
        {
            return Some(expert);
        }
        self.evict_main(held).or_else(|| self.evict_small(held))
    }
}
