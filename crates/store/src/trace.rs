//! Which experts were used, in order: kept in a file, and replayed against caches of other policies and sizes. The drive is
//! not touched.

pub mod file;
mod policy;
mod replay;

pub use policy::Policy;
pub use replay::{Replay, Scope, replay, replay_by, replay_in_room, replay_pinned};

/// Experts that were used, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    steps: Vec<Step>,
    experts: Vec<u32>,
    /// From which step on memory held so many experts.
    rooms: Vec<(usize, usize)>,
}

/// One layer's use of its experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    layer: u32,
    /// Where its experts end in [`Trace::experts`].
    end: usize,
}

/// The experts among a router's choice, of a layer that has so many: idle ones (LongCat), which have no weights and are never read,
/// have the numbers behind them.
pub fn routed(choice: &[i32], experts: usize) -> impl Iterator<Item = u32> {
    choice.iter().map(|&expert| expert as u32).filter(move |&expert| (expert as usize) < experts)
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

    /// Notes that memory holds so many experts now. Where that is more than was noted last, it counts from there on: a replay is
    /// never of less memory than there was.
    pub fn room(&mut self, slots: usize) {
        match self.rooms.last_mut() {
            Some((_, noted)) if *noted <= slots => *noted = slots,
            _ => self.rooms.push((self.steps.len(), slots)),
        }
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
    fn idle_experts_are_none() {
        assert_eq!(routed(&[3, 8, 0, 7, 9], 8).collect::<Vec<_>>(), [3, 0, 7]);
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
    fn room_that_changes() {
        let mut trace = Trace::default();
        let mut play = |room: usize, experts: &[u32]| {
            trace.room(room);
            experts.iter().for_each(|&expert| trace.push(0, &[expert]));
            [Policy::Lru, Policy::Belady].map(|policy| replay_in_room(&trace, policy, 0).hits)
        };
        assert_eq!(play(3, &[1, 2, 3, 1, 2, 3]), [3, 3]);
        // With one slot left 3 stays, or what is used next.
        assert_eq!(play(1, &[1, 2, 3]), [3, 4]);
        // It grew while these three were used, nobody knows when, and counts as grown before.
        assert_eq!(play(2, &[3, 2, 3]), [6, 8]);
        assert_eq!(replay_in_room(&Trace::default(), Policy::Lru, 0), Replay::default());
    }

    #[test]
    fn what_finds_no_slot_is_not_kept() {
        let wide = trace(&[(0, &[1, 2, 3]), (0, &[1, 2, 3])]);
        for policy in Policy::ALL {
            assert_eq!(hits(&wide, 2, policy), 2, "{}", policy.name());
            assert_eq!(hits(&wide, 0, policy), 0);
            assert_eq!(hits(&wide, 9, policy), 3);
        }
    }

    #[test]
    fn clock_gives_what_was_used_a_second_chance() {
        // 1 was used again, so 2 goes for 3; then 1 and 3 are there.
        assert_eq!(hits(&single(&[1, 2, 1, 3, 1, 3, 2]), 2, Policy::Clock), 3);
        // Without a second use it is first in, first out.
        assert_eq!(hits(&single(&[1, 2, 3, 1, 2, 3]), 2, Policy::Clock), 0);
    }

    #[test]
    fn s3_fifo_lets_what_is_used_once_pass() {
        // Twenty that are used often, then a scan of two hundred, then the twenty again.
        let often: Vec<u32> = (0..20).collect();
        let scan: Vec<u32> = (100..300).collect();
        let pages = single(&[&often[..], &often, &often, &often, &scan, &often].concat());
        assert_eq!(hits(&pages, 40, Policy::S3Fifo), 80);
        assert_eq!(hits(&pages, 40, Policy::Lru), 60);
    }

    #[test]
    fn decayed_counts_forget_what_was_popular() {
        let past: Vec<u32> = vec![1; 150];
        let now: Vec<u32> = [2, 3].repeat(100);
        let pages = single(&[&past[..], &now].concat());
        // By counts since the start 1 never goes, and 2 and 3 take turns in the other slot.
        assert_eq!(hits(&pages, 2, Policy::Lfu), 149);
        assert!(hits(&pages, 2, Policy::DecayedLfu) > 300);
        assert!(hits(&pages, 2, Policy::Adaptive) > 330, "by recency at first, and no worse");
    }

    #[test]
    fn a_layers_own_share_is_its_own() {
        // Layer 0 uses one expert, layer 1 two: with a slot for each layer the second one's take turns.
        let steps = trace(&[(0, &[1]), (1, &[1]), (0, &[1]), (1, &[2]), (0, &[1]), (1, &[1]), (0, &[1]), (1, &[2])]);
        let per_layer = |slots| replay_by(&steps, slots, Policy::Lru, Scope::PerLayer, 0).hits;
        assert_eq!((per_layer(2), per_layer(4), hits(&steps, 3, Policy::Lru)), (3, 5, 5));
    }

    #[test]
    fn steps_before_the_count_only_fill() {
        let trace = single(&[1, 2, 1, 2]);
        assert_eq!(replay(&trace, 2, Policy::Lru, 2), Replay { hits: 2, misses: 0 });
        assert_eq!(replay(&trace, 2, Policy::Lru, 9), Replay::default());
        assert_eq!(replay(&trace, 2, Policy::Lru, 1).hit_rate(), 2.0 / 3.0);
    }

    #[test]
    fn what_was_used_most_is_pinned() {
        // 1 is used most at first. Then 2 and 3 take turns, and 1 comes back once.
        let pages = single(&[1, 1, 2, 2, 3, 2, 3, 1]);
        assert_eq!(replay(&pages, 2, Policy::Lru, 3), Replay { hits: 3, misses: 2 });
        // 2 misses, then 3, 2 and 3 push each other out of the one slot that is left.
        assert_eq!(replay_pinned(&pages, 2, 1, 3), Replay { hits: 2, misses: 3 });
        assert_eq!(replay_pinned(&pages, 2, 0, 3), Replay { hits: 3, misses: 2 });
        // 1 and 2 are all that was used before: 3 never finds room.
        assert_eq!(replay_pinned(&pages, 2, 9, 3), Replay { hits: 3, misses: 2 });
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
                assert!(Policy::ALL.into_iter().all(|policy| hits(&trace, slots, policy) <= belady));
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
        for policy in Policy::ALL {
            let began = std::time::Instant::now();
            hits(&trace, 7680, policy);
            let took = began.elapsed();
            println!("{policy:?}: {took:?}");
            assert!(took.as_secs() < 20, "{policy:?} took {took:?}");
        }
    }
}
