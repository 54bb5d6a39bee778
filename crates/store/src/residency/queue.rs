//! Experts by what they are worth, the one worth least in front.

/// Place of an expert that is not in the queue.
const ABSENT: u32 = u32::MAX;

/// A binary heap that knows where each of its experts is, so that one can change what it is worth, or leave from the middle: each
/// takes as long as the logarithm of their number, and allocates nothing.
pub(super) struct Queue {
    /// Worth and number. None is less than the one at half its place.
    heap: Vec<(u64, u32)>,
    /// By number.
    places: Vec<u32>,
}

impl Queue {
    /// Empty, for experts with the numbers 0 to `experts`, `held_max` of them at a time.
    pub fn new(experts: usize, held_max: usize) -> Queue {
        Queue { heap: Vec::with_capacity(held_max.min(experts)), places: vec![ABSENT; experts] }
    }

    pub fn len(&self) -> usize {
        self.heap.len()
    }

    pub fn contains(&self, expert: u32) -> bool {
        self.places[expert as usize] != ABSENT
    }

    /// The expert worth least; of several the one with the lowest number.
    pub fn first(&self) -> Option<u32> {
        self.heap.first().map(|&(_, expert)| expert)
    }

    /// All of them and what they are worth, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.heap.iter().copied()
    }

    /// Has an expert in the queue, with this worth.
    pub fn set(&mut self, expert: u32, worth: u64) {
        let at = match self.places[expert as usize] {
            ABSENT => {
                self.heap.push((worth, expert));
                self.heap.len() - 1
            }
            at => {
                self.heap[at as usize].0 = worth;
                at as usize
            }
        };
        let at = self.rise(at);
        self.sink(at);
    }

    /// Takes an expert out, if it is there.
    pub fn remove(&mut self, expert: u32) {
        let at = std::mem::replace(&mut self.places[expert as usize], ABSENT);
        if at == ABSENT {
            return;
        }
        self.heap.swap_remove(at as usize);
        if (at as usize) < self.heap.len() {
            let at = self.rise(at as usize);
            self.sink(at);
        }
    }

    /// Moves what is at a place to the front until nothing greater is before it.
    fn rise(&mut self, mut at: usize) -> usize {
        let moved = self.heap[at];
        while at > 0 && moved < self.heap[(at - 1) / 2] {
            self.put(at, self.heap[(at - 1) / 2]);
            at = (at - 1) / 2;
        }
        self.put(at, moved);
        at
    }

    /// Moves what is at a place back until nothing less is behind it.
    fn sink(&mut self, mut at: usize) {
        let moved = self.heap[at];
        while let Some(child) = (2 * at + 1..self.heap.len().min(2 * at + 3)).min_by_key(|&child| self.heap[child])
            && self.heap[child] < moved
        {
            self.put(at, self.heap[child]);
            at = child;
        }
        self.put(at, moved);
    }

    fn put(&mut self, at: usize, what: (u64, u32)) {
        self.heap[at] = what;
        self.places[what.1 as usize] = at as u32;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_one_worth_least_is_in_front_whatever_changes() {
        let mut queue = Queue::new(50, 50);
        let mut plain: BTreeMap<u32, u64> = BTreeMap::new();
        let mut random = 7u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (expert, worth) = ((random >> 33) as u32 % 50, (random >> 50) % 30);
            if worth < 10 {
                queue.remove(expert);
                plain.remove(&expert);
            } else {
                queue.set(expert, worth);
                plain.insert(expert, worth);
            }
            let least = plain.iter().min_by_key(|&(&expert, &worth)| (worth, expert));
            assert_eq!(queue.first(), least.map(|(&expert, _)| expert));
            assert_eq!((queue.len(), queue.contains(expert)), (plain.len(), plain.contains_key(&expert)));
        }
    }
}
