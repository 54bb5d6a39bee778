//! What a cache would have made of a trace.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use super::Trace;
use super::policy::{NEVER, Order, Policy, Use};

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

/// Whom a cache's slots are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All layers together.
    Global,
    /// Each layer has its own share.
    PerLayer,
}

/// What a cache of `slots` experts (global over layers, empty at first) would have hit; steps before `from` fill it and
/// are not counted.
///
/// All experts of a step are held while it runs. Experts for which no slot is left then are used and not kept.
pub fn replay(trace: &Trace, slots: usize, policy: Policy, from: usize) -> Replay {
    replay_by(trace, slots, policy, Scope::Global, from)
}

/// [`replay`] with slots for all layers together, or the same number for each.
pub fn replay_by(trace: &Trace, slots: usize, policy: Policy, scope: Scope, from: usize) -> Replay {
    let uses = uses(trace, policy == Policy::Belady);
    let layers = trace.steps().map(|(layer, _)| layer as usize + 1).max().unwrap_or(0);
    let used: std::collections::BTreeSet<u32> = trace.steps().map(|(layer, _)| layer).collect();
    let mut caches: Vec<Cache> = match scope {
        Scope::Global => vec![Cache::new(policy, slots, uses.experts)],
        Scope::PerLayer => {
            // The first layers get what does not divide.
            let share = |rank: usize| (slots + used.len() - 1 - rank) / used.len();
            let rank = |layer: usize| used.range(..layer as u32).count();
            (0..layers).map(|layer| Cache::new(policy, share(rank(layer)), uses.experts)).collect()
        }
    };
    play(trace, &uses, from, |_, layer, used| caches[if scope == Scope::Global { 0 } else { layer }].step(used))
}

/// [`replay`] with the slots that [`Trace::room`] was told of; none before it was.
pub fn replay_in_room(trace: &Trace, policy: Policy, from: usize) -> Replay {
    let uses = uses(trace, policy == Policy::Belady);
    let most = trace.rooms.iter().map(|&(_, slots)| slots).max().unwrap_or(0);
    let mut cache = Cache::new(policy, most, uses.experts);
    cache.slots = 0;
    let mut rooms = trace.rooms.iter().peekable();
    play(trace, &uses, from, |step, _, used| {
        while let Some(&(_, slots)) = rooms.next_if(|&&(since, _)| since <= step) {
            cache.resize(slots);
        }
        cache.step(used)
    })
}

/// Has `hit` use the experts of every step, told its number, its layer and them, and say how many were there.
fn play(trace: &Trace, uses: &Uses, from: usize, mut hit: impl FnMut(usize, usize, &[Use]) -> usize) -> Replay {
    let mut replay = Replay::default();
    let mut first = 0;
    for (step, (layer, experts)) in trace.steps().enumerate() {
        let end = first + experts.len();
        let hits = hit(step, layer as usize, &uses.all[first..end]);
        first = end;
        if step >= from {
            replay.hits += hits as u64;
            replay.misses += (experts.len() - hits) as u64;
        }
    }
    replay
}

/// What least recently used first out would have hit from step `from` on, with `pins` of the slots set aside for the experts that
/// the steps before used most, each layer's as all others'.
pub fn replay_pinned(trace: &Trace, slots: usize, pins: usize, from: usize) -> Replay {
    let mut counts: HashMap<(u32, u32), u64> = HashMap::new();
    for (layer, experts) in trace.steps().take(from) {
        experts.iter().for_each(|&expert| *counts.entry((layer, expert)).or_default() += 1);
    }
    let mut most: Vec<((u32, u32), u64)> = counts.into_iter().collect();
    most.sort_unstable_by_key(|&(expert, count)| (Reverse(count), expert));
    let pinned: HashSet<(u32, u32)> = most.into_iter().take(pins.min(slots)).map(|(expert, _)| expert).collect();
    let (mut others, mut hits) = (Trace::default(), 0);
    for (step, (layer, experts)) in trace.steps().enumerate() {
        let rest: Vec<u32> = experts.iter().copied().filter(|&expert| !pinned.contains(&(layer, expert))).collect();
        hits += if step >= from { (experts.len() - rest.len()) as u64 } else { 0 };
        others.push(layer, &rest);
    }
    let rest = replay(&others, slots - pinned.len(), Policy::Lru, from);
    Replay { hits: rest.hits + hits, misses: rest.misses }
}

struct Uses {
    all: Vec<Use>,
    /// Different experts.
    experts: usize,
}

/// Every use, with dense numbers for the experts; the future is looked up only where it is wanted.
fn uses(trace: &Trace, with_future: bool) -> Uses {
    let mut numbers = HashMap::new();
    let mut all = Vec::with_capacity(trace.experts.len());
    for (layer, experts) in trace.steps() {
        for &expert in experts {
            let next = numbers.len() as u32;
            let expert = *numbers.entry((layer, expert)).or_insert(next);
            all.push(Use { expert, next_step: NEVER });
        }
    }
    let experts = numbers.len();
    if with_future {
        let mut upcoming = vec![NEVER; experts];
        let mut end = all.len();
        let lengths: Vec<usize> = trace.steps().map(|(_, experts)| experts.len()).collect();
        for (step, length) in lengths.into_iter().enumerate().rev() {
            for used in &mut all[end - length..end] {
                used.next_step = std::mem::replace(&mut upcoming[used.expert as usize], step as u64);
            }
            end -= length;
        }
    }
    Uses { all, experts }
}

struct Cache {
    order: Box<dyn Order>,
    slots: usize,
    /// Experts in it.
    len: usize,
    is_in: Vec<bool>,
    /// The last step that used each expert, counted from 1.
    step_of: Vec<u64>,
    step: u64,
}

impl Cache {
    fn new(policy: Policy, slots: usize, experts: usize) -> Cache {
        Cache {
            order: policy.order(experts, slots),
            slots,
            len: 0,
            is_in: vec![false; experts],
            step_of: vec![0; experts],
            step: 0,
        }
    }

    fn resize(&mut self, slots: usize) {
        self.slots = slots;
        // Between steps nothing is held.
        self.step += 1;
        while self.len > slots && self.evict() {}
    }

    /// Uses the experts of one step; returns how many were there.
    fn step(&mut self, uses: &[Use]) -> usize {
        self.step += 1;
        uses.iter().for_each(|used| self.step_of[used.expert as usize] = self.step);
        let mut hits = 0;
        for &used in uses.iter().filter(|used| self.is_in[used.expert as usize]) {
            hits += 1;
            self.order.used(used, true, true);
        }
        // A use that hit is of this step too, and held: nothing that comes in now can take its place.
        for &used in uses {
            if self.is_in[used.expert as usize] {
                continue;
            }
            let room = self.len < self.slots || self.evict();
            self.order.used(used, false, room);
            self.is_in[used.expert as usize] = room;
            self.len += usize::from(room);
        }
        hits
    }

    fn evict(&mut self) -> bool {
        let (step_of, step) = (&self.step_of, self.step);
        let Some(victim) = self.order.evict(&|expert| step_of[expert as usize] == step) else { return false };
        self.is_in[victim as usize] = false;
        self.len -= 1;
        true
    }
}
