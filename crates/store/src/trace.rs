//! Which experts were used, in order, and what a cache would have made of it under another policy or size: the drive is
//! not touched.

use std::collections::{BTreeSet, HashMap};

/// Experts that were used, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    steps: Vec<Step>,
    experts: Vec<u32>,
}

/// One layer's use of its experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    layer: u32,
    /// Where its experts end in [`Trace::experts`].
    end: usize,
}

impl Trace {
    /// Adds what a layer used at once, in any order; what comes twice counts once.
    pub fn push(&mut self, layer: u32, experts: &[u32]) {
        let start = self.experts.len();
        self.experts.extend_from_slice(experts);
        self.experts[start..].sort_unstable();
        let mut kept = start;
        for i in start..self.experts.len() {
            if i == start || self.experts[i] != self.experts[kept - 1] {
                self.experts[kept] = self.experts[i];
                kept += 1;
            }
        }
        self.experts.truncate(kept);
        self.steps.push(Step { layer, end: kept });
    }

    /// Every step: the layer, and its experts in ascending order.
    pub fn steps(&self) -> impl Iterator<Item = (u32, &[u32])> {
        let starts = std::iter::once(0).chain(self.steps.iter().map(|step| step.end));
        self.steps.iter().zip(starts).map(|(step, start)| (step.layer, &self.experts[start..step.end]))
    }

    /// Number of steps.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there are no steps.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

/// Which expert makes room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The least recently used.
    Lru,
    /// The least often used since the start; of several, the least recently used.
    Lfu,
    /// The one whose next use is farthest away: no policy hits more (Belady, 1966). It knows the future.
    Belady,
}

/// What a cache did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// Experts found in it.
    pub hits: u64,
    /// Experts that were not.
    pub misses: u64,
}

impl Replay {
    /// Hits as a share of all uses; 0 of none.
    pub fn hit_rate(&self) -> f64 {
        self.hits as f64 / (self.hits + self.misses).max(1) as f64
    }
}

/// What a cache of `slots` experts (global over layers, empty at first) would have hit; steps before `from` fill it and
/// are not counted.
///
/// All experts of a step are held while it runs. Experts for which no slot is left then are used and not kept.
pub fn replay(trace: &Trace, slots: usize, policy: Policy, from: usize) -> Replay {
    let mut cache = Cache::new(trace, slots, policy);
    let mut replay = Replay::default();
    let mut first = 0;
    for (step, (_, experts)) in trace.steps().enumerate() {
        let uses = first..first + experts.len();
        first = uses.end;
        let hits = cache.step(uses);
        if step >= from {
            replay.hits += hits as u64;
            replay.misses += (experts.len() - hits) as u64;
        }
    }
    replay
}

/// A key that no expert outside the cache has.
const ABSENT: u64 = u64::MAX;

struct Cache {
    policy: Policy,
    slots: usize,
    /// Dense number of the expert of each use.
    expert_of: Vec<u32>,
    /// The step in which each use's expert is used again; of Belady only.
    next_step: Vec<u64>,
    /// How often each expert was used.
    counts: Vec<u64>,
    /// Key of each expert in `order`, or [`ABSENT`].
    keys: Vec<u64>,
    /// Experts in the cache, those that make room first in front.
    order: BTreeSet<(u64, u32)>,
    /// Uses so far.
    clock: u64,
    missing: Vec<usize>,
    held: Vec<usize>,
}

impl Cache {
    fn new(trace: &Trace, slots: usize, policy: Policy) -> Cache {
        let (mut numbers, mut expert_of) = (HashMap::new(), Vec::with_capacity(trace.experts.len()));
        for (layer, experts) in trace.steps() {
            for &expert in experts {
                let next = numbers.len() as u32;
                expert_of.push(*numbers.entry((layer, expert)).or_insert(next));
            }
        }
        let next_step = if policy == Policy::Belady { next_steps(trace, &expert_of) } else { Vec::new() };
        Cache {
            policy,
            slots,
            next_step,
            counts: vec![0; numbers.len()],
            keys: vec![ABSENT; numbers.len()],
            order: BTreeSet::new(),
            clock: 0,
            missing: Vec::new(),
            held: Vec::new(),
            expert_of,
        }
    }

    /// Uses the experts of one step; returns how many were there.
    fn step(&mut self, uses: std::ops::Range<usize>) -> usize {
        // Out of the order, so that they make room for nothing.
        let (mut missing, mut held) = (std::mem::take(&mut self.missing), std::mem::take(&mut self.held));
        for at in uses {
            let expert = self.expert_of[at];
            match std::mem::replace(&mut self.keys[expert as usize], ABSENT) {
                ABSENT => missing.push(at),
                key => {
                    self.order.remove(&(key, expert));
                    held.push(at);
                }
            }
        }
        let hits = held.len();
        for at in missing.drain(..) {
            if held.len() + self.order.len() >= self.slots {
                let Some((_, victim)) = self.order.pop_first() else {
                    self.count(at);
                    continue;
                };
                self.keys[victim as usize] = ABSENT;
            }
            held.push(at);
        }
        for at in held.drain(..) {
            let expert = self.expert_of[at];
            let key = self.count(at);
            self.keys[expert as usize] = key;
            self.order.insert((key, expert));
        }
        (self.missing, self.held) = (missing, held);
        hits
    }

    /// Counts a use; gives the expert's place in the order from now on.
    fn count(&mut self, at: usize) -> u64 {
        let count = &mut self.counts[self.expert_of[at] as usize];
        *count += 1;
        self.clock += 1;
        match self.policy {
            Policy::Lru => self.clock,
            Policy::Lfu => *count << 36 | self.clock,
            Policy::Belady => NEVER - self.next_step[at],
        }
    }
}

/// A step behind every trace's end.
const NEVER: u64 = u64::MAX >> 1;

/// For each use, the step in which its expert is used next, or [`NEVER`].
fn next_steps(trace: &Trace, expert_of: &[u32]) -> Vec<u64> {
    let experts = expert_of.iter().max().map_or(0, |&last| last as usize + 1);
    let (mut upcoming, mut next) = (vec![NEVER; experts], vec![NEVER; expert_of.len()]);
    let mut start = expert_of.len();
    let lengths: Vec<usize> = trace.steps().map(|(_, experts)| experts.len()).collect();
    for (step, length) in lengths.into_iter().enumerate().rev() {
        let uses = start - length..start;
        start = uses.start;
        for at in uses {
            next[at] = std::mem::replace(&mut upcoming[expert_of[at] as usize], step as u64);
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(steps: &[(u32, &[u32])]) -> Trace {
        let mut trace = Trace::default();
        steps.iter().for_each(|(layer, experts)| trace.push(*layer, experts));
        trace
    }

    fn single(experts: &[u32]) -> Trace {
        let mut trace = Trace::default();
        experts.iter().for_each(|&expert| trace.push(0, &[expert]));
        trace
    }

    fn hits(trace: &Trace, slots: usize, policy: Policy) -> u64 {
        let replay = replay(trace, slots, policy, 0);
        assert_eq!((replay.hits + replay.misses) as usize, trace.experts.len());
        replay.hits
    }

    #[test]
    fn steps_are_sorted_and_counted_once() {
        let trace = trace(&[(3, &[7, 2, 7]), (4, &[]), (5, &[1])]);
        let steps: Vec<_> = trace.steps().collect();
        assert_eq!(steps, [(3, &[2, 7][..]), (4, &[][..]), (5, &[1][..])]);
        assert_eq!((trace.len(), trace.is_empty()), (3, false));
    }

    /// The textbook's reference string, three page frames: 8 hits of 20 by LRU, 11 at best.
    #[test]
    fn the_textbooks_pages() {
        let pages = single(&[7, 0, 1, 2, 0, 3, 0, 4, 2, 3, 0, 3, 2, 1, 2, 0, 1, 7, 0, 1]);
        assert_eq!(hits(&pages, 3, Policy::Lru), 8);
        assert_eq!(hits(&pages, 3, Policy::Belady), 11);
    }

    #[test]
    fn lfu_keeps_what_is_used_often_and_lru_what_was_used_last() {
        // 1 comes three times; then 2 and 3 pass by; then 1 again.
        let often = single(&[1, 1, 1, 2, 3, 1]);
        assert_eq!(hits(&often, 2, Policy::Lfu), 3);
        assert_eq!(hits(&often, 2, Policy::Lru), 2);
        // Equal counts: the older one, 1, goes for 3.
        assert_eq!(hits(&single(&[1, 2, 3, 2]), 2, Policy::Lfu), 1);
        assert_eq!(hits(&single(&[1, 2, 3, 1]), 2, Policy::Lfu), 0);
        // Counts outlive the stay: 1 has two uses when it comes back, and stays before 3.
        assert_eq!(hits(&single(&[1, 2, 2, 2, 3, 1, 3]), 2, Policy::Lfu), 2);
    }

    #[test]
    fn a_steps_experts_are_held_while_it_runs() {
        // 1 is the oldest when step {1, 3} begins, and may not make room for 3.
        let steps = trace(&[(0, &[1, 2]), (0, &[1, 3]), (0, &[1])]);
        assert_eq!(hits(&steps, 2, Policy::Lru), 2);
        // Layers do not share experts.
        assert_eq!(hits(&trace(&[(0, &[1]), (1, &[1]), (0, &[1])]), 2, Policy::Lru), 1);
    }

    #[test]
    fn what_finds_no_slot_is_not_kept() {
        let wide = trace(&[(0, &[1, 2, 3]), (0, &[1, 2, 3])]);
        for policy in [Policy::Lru, Policy::Lfu, Policy::Belady] {
            assert_eq!(hits(&wide, 2, policy), 2);
            assert_eq!(hits(&wide, 0, policy), 0);
            assert_eq!(hits(&wide, 9, policy), 3);
        }
    }

    #[test]
    fn steps_before_the_count_only_fill() {
        let trace = single(&[1, 2, 1, 2]);
        assert_eq!(replay(&trace, 2, Policy::Lru, 2), Replay { hits: 2, misses: 0 });
        assert_eq!(replay(&trace, 2, Policy::Lru, 9), Replay::default());
        assert_eq!(replay(&trace, 2, Policy::Lru, 1).hit_rate(), 2.0 / 3.0);
    }

    /// Tries every choice of what to evict.
    fn best(steps: &[Vec<u32>], slots: usize, cached: u32) -> u64 {
        let Some((step, rest)) = steps.split_first() else { return 0 };
        let wanted = step.iter().fold(0u32, |set, expert| set | 1 << expert);
        let hits = (cached & wanted).count_ones() as u64;
        let others = cached & !wanted;
        let room = slots.saturating_sub(wanted.count_ones() as usize);
        let mut most = 0;
        let mut kept = others;
        loop {
            if kept.count_ones() as usize <= room {
                most = most.max(best(rest, slots, kept | wanted));
            }
            if kept == 0 {
                return hits + most;
            }
            kept = (kept - 1) & others;
        }
    }

    #[test]
    fn belady_is_the_best_of_all() {
        let mut state = 1u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for slots in 2..=4 {
            for _ in 0..60 {
                let step = |random: &mut dyn FnMut(u64) -> u64| {
                    let mut experts: Vec<u32> = (0..1 + random(2)).map(|_| random(6) as u32).collect();
                    experts.sort_unstable();
                    experts.dedup();
                    experts
                };
                let steps: Vec<Vec<u32>> = (0..9).map(|_| step(&mut random)).collect();
                let mut trace = Trace::default();
                steps.iter().for_each(|experts| trace.push(0, experts));
                let belady = hits(&trace, slots, Policy::Belady);
                assert_eq!(belady, best(&steps, slots, 0), "{steps:?} in {slots} slots");
                assert!(hits(&trace, slots, Policy::Lru) <= belady && hits(&trace, slots, Policy::Lfu) <= belady);
            }
        }
    }

    #[test]
    fn a_long_trace_is_replayed_fast() {
        let mut trace = Trace::default();
        for step in 0..60_000u32 {
            let experts: Vec<u32> = (0..10).map(|i| (step / 60 * 7 + i * i * 13) % 512).collect();
            trace.push(step % 60, &experts);
        }
        for policy in [Policy::Lru, Policy::Lfu, Policy::Belady] {
            let began = std::time::Instant::now();
            hits(&trace, 7680, policy);
            let took = began.elapsed();
            println!("{policy:?}: {took:?}");
            assert!(took.as_secs() < 20, "{policy:?} took {took:?}");
        }
    }
}
