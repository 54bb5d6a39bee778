//! Slots set aside for experts that are read early, and what the cache loses by them.

use std::collections::VecDeque;

use crate::slab::SlotId;

/// Those of one size class.
pub(super) struct Spares {
    pub free: Vec<SlotId>,
    /// Those in use.
    pub used: usize,
    /// So many stay set aside.
    pub max: usize,
    /// Experts that would still be in memory if no slot were set aside, the one that left first in front.
    lost: VecDeque<u32>,
}

impl Spares {
    pub fn new(slots_max: usize) -> Spares {
        // A slot is set aside in the middle of a token, where nothing may be allocated.
        Spares { free: Vec::with_capacity(slots_max), used: 0, max: 0, lost: VecDeque::with_capacity(slots_max + 1) }
    }

    /// Slots that are set aside now.
    pub fn slots(&self) -> usize {
        self.used + self.free.len()
    }

    /// An expert leaves memory: with `max` more slots it would not yet.
    pub fn leaves(&mut self, expert: u32) {
        self.lost.push_back(expert);
        while self.lost.len() > self.max {
            self.lost.pop_front();
        }
    }

    /// An expert comes into memory, for which another leaves or none. Whether it would be there already if no slot were set
    /// aside.
    pub fn comes(&mut self, expert: u32, leaving: Option<u32>) -> bool {
        let lost = self.lost.iter().position(|&lost| lost == expert);
        match (lost, leaving) {
            (Some(index), _) => drop(self.lost.remove(index)),
            // Then too one would leave.
            (None, None) => drop(self.lost.pop_front()),
            (None, Some(_)) => {}
        }
        if let Some(leaving) = leaving {
            self.leaves(leaving);
        }
        lost.is_some()
    }

    /// Forgets what would still be in memory.
    pub fn forget_lost(&mut self) {
        self.lost.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_what_a_larger_cache_would_hold() {
        let mut spares = Spares::new(8);
        spares.max = 2;
        // A least recently used cache of four slots, two of them set aside: 0 and 1 leave for 2 and 3, and come again.
        for expert in [0, 1] {
            assert!(!spares.comes(expert, None));
        }
        for (expert, leaving, lost) in [(2, 0, false), (3, 1, false), (0, 2, true), (1, 3, true), (4, 0, false)] {
            assert_eq!(spares.comes(expert, Some(leaving)), lost, "{expert}");
        }
        // Four slots would hold 3, 0, 1 and 4: 2 had to leave for 4.
        assert!(!spares.comes(2, Some(1)));
        // The two slots come back and are filled: the four hold 4, 2, 5 and 6, and nothing is lost any more.
        spares.max = 0;
        for expert in [5, 6] {
            assert!(!spares.comes(expert, None));
        }
        assert!(!spares.comes(0, Some(4)) && !spares.comes(1, Some(2)));
    }
}
