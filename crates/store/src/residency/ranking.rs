//! Which expert makes room: the one worth least, by the better of two measures.
//!
//! An expert is worth the sum of its uses, of which each counts half as much after a number of further uses, whoever's (LRFU, Lee
//! et al., 2001). Where that number is very small only the last use counts, and the least recently used expert goes. Where it is
//! large, experts stay that are used often. Which of the two reads less depends on the model, the text and the memory: so
//! for each a cache of names follows the uses, and whichever missed less of late decides.

use super::queue::Queue;

/// Uses after which one counts half: so few that the last one outweighs all before.
pub(crate) const RECENCY: f64 = 1.0 / 64.0;
/// The same for those used often, for each expert that memory holds. Of 1 to 32, 3 to 6 missed least.
pub(crate) const FREQUENCY: f64 = 4.0;
/// Uses after which a miss counts half, for each expert that memory holds.
const MEMORY_OF_MISSES: f64 = 8.0;
/// What the other measure must have missed less to take over: this share, and so many misses beside.
const MARGIN: (f64, f64) = (0.03, 16.0);

/// What experts are worth.
pub(crate) struct Worth {
    /// Half-lives since the start, and 1.
    now: f64,
    /// By expert: the binary logarithm of the sum of its uses, where one at the time t weighs 2^t. Older ones need not be touched for
    /// younger ones to weigh more.
    logarithms: Vec<f64>,
}

impl Worth {
    pub(crate) fn new(experts: usize) -> Worth {
        Worth { now: 1.0, logarithms: vec![f64::NEG_INFINITY; experts] }
    }

    /// Counts a use, where one counts half after `half_life` others.
    pub(crate) fn used(&mut self, expert: u32, half_life: f64) {
        self.now += 1.0 / half_life;
        let logarithm = &mut self.logarithms[expert as usize];
        *logarithm = self.now + (1.0 + (*logarithm - self.now).exp2()).log2();
    }

    /// A number that is larger for an expert worth more; 0 for one that was never used.
    pub(crate) fn of(&self, expert: u32) -> u64 {
        // The bits of positive numbers are in their order.
        self.logarithms[expert as usize].max(0.0).to_bits()
    }
}

/// A cache of names under one measure.
struct Contender {
    /// Uses after which one counts half, for so many slots.
    half_life: fn(f64) -> f64,
    worth: Worth,
    /// Experts in it.
    held: Queue,
    /// Of late, while it was full.
    misses: f64,
}

impl Contender {
    fn used(&mut self, expert: u32, slots: usize, passing: bool) {
        self.worth.used(expert, (self.half_life)(slots as f64));
        let worth = self.worth.of(expert);
        if !passing {
            self.misses *= 1.0 - 1.0 / (MEMORY_OF_MISSES * slots as f64);
        }
        if self.held.contains(expert) {
            self.held.set(expert, worth);
            return;
        }
        if passing {
            return;
        }
        self.misses += f64::from(self.held.len() >= slots);
        while self.held.len() >= slots
            && let Some(least) = self.held.first()
        {
            self.held.remove(least);
        }
        self.held.set(expert, worth);
    }
}

/// Experts by what they are worth.
pub(crate) struct Ranking {
    contenders: [Contender; 2],
    leader: usize,
}

impl Ranking {
    /// Of experts with the numbers 0 to `experts`, none of which was used, for a memory of `slots_max` at most.
    pub(crate) fn new(experts: usize, slots_max: usize) -> Ranking {
        let contender = |half_life| Contender {
            half_life,
            worth: Worth::new(experts),
            held: Queue::new(experts, slots_max),
            misses: 0.0,
        };
        Ranking { contenders: [contender(|_| RECENCY), contender(|slots| FREQUENCY * slots)], leader: 0 }
    }

    /// Counts a use, in a memory of `slots` experts; says whether what experts are worth is measured otherwise from now on. One that
    /// only passes through memory, in a prompt's sweep, is worth more by it, and says nothing of the measures.
    pub(crate) fn used(&mut self, expert: u32, slots: usize, passing: bool) -> bool {
        self.contenders.iter_mut().for_each(|contender| contender.used(expert, slots.max(1), passing));
        let [leader, other] = [self.leader, 1 - self.leader].map(|i| self.contenders[i].misses);
        let changes = other + MARGIN.0 * leader + MARGIN.1 < leader;
        self.leader = if changes { 1 - self.leader } else { self.leader };
        changes
    }

    /// A number that is larger for an expert worth more.
    pub(crate) fn of(&self, expert: u32) -> u64 {
        self.contenders[self.leader].worth.of(expert)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Misses of a memory of `slots` that a ranking governs, from the use `from` on.
    fn misses(uses: &[u32], slots: usize, from: usize) -> usize {
        let mut ranking = Ranking::new(1000, 20);
        let mut held: Vec<u32> = Vec::new();
        let mut misses = 0;
        for (i, &expert) in uses.iter().enumerate() {
            ranking.used(expert, slots, false);
            if held.contains(&expert) {
                continue;
            }
            misses += usize::from(i >= from);
            if held.len() == slots {
                let least = (0..slots).min_by_key(|&i| ranking.of(held[i])).expect("slots");
                held.swap_remove(least);
            }
            held.push(expert);
        }
        misses
    }

    #[test]
    fn what_is_used_often_stays_where_that_pays() {
        // Ten experts come again and again, and between them ever new ones: by recency alone all ten would leave each time.
        let round = |n: u32| (0..10).chain((0..20).map(move |i| 10 + (n * 20 + i) % 900));
        let uses: Vec<u32> = (0..200).flat_map(round).collect();
        let (late, rounds) = (uses.len() / 2, 100);
        assert_eq!(misses(&uses, 20, late), rounds * 20);
    }

    #[test]
    fn what_was_used_last_stays_where_that_pays() {
        // Twenty experts for a while, then twenty others, each used five times in a row: what was popular never comes back.
        let uses: Vec<u32> =
            (0..300u32).flat_map(|n| (0..5).flat_map(move |_| (0..20).map(move |i| (n * 20 + i) % 1000))).collect();
        let late = uses.len() / 2;
        assert_eq!(misses(&uses, 20, late), 150 * 20);
    }

    #[test]
    fn a_sweep_says_nothing_of_the_measures() {
        let mut ranking = Ranking::new(1000, 20);
        (0..100_000).for_each(|i| assert!(!ranking.used(i % 1000, 20, true)));
        assert!(ranking.contenders.iter().all(|contender| contender.misses == 0.0 && contender.held.len() == 0));
        assert!(ranking.of(999) > ranking.of(998));
    }
}
