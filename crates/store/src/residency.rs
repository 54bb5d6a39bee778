//! Where an expert is, and what to evict. All policy lives here.
//!
//! A slot's life: [`Residency::begin_fill`] gives an expert a slot, evicting if it must; reads fill it; after
//! [`Residency::end_fill`] the expert is resident. A pinned slot is never evicted. What sequences carry comes from the
//! same slab: [`Residency::acquire_state`] takes whole pieces from the experts as a context grows.
//!
//! An expert that is read before anybody asked for it lands in a spare slot ([`Residency::begin_early`]) and evicts nothing
//! that was asked for: it becomes resident when it is ([`Residency::adopt`]), or leaves again ([`Residency::drop_early`]).

mod map;
mod queue;
pub(crate) mod ranking;
mod spares;

use crate::layout::{ExpertId, ExpertLayout};
use crate::read::Region;
use crate::slab::{Slab, SlotId};
use std::cmp::Reverse;
use std::sync::Arc;

pub use map::{Cell, ResidencyMap, Seen};
use queue::Queue;
use ranking::Ranking;
use spares::Spares;

/// Where an expert's weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the memory of a device.
    Device(SlotId),
    /// In host memory.
    Host(SlotId),
    /// Only in its file, or on the way from there.
    Drive,
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Nothing,
    Filling(ExpertId),
    Expert(ExpertId),
    /// An expert that nobody asked for yet. Pinned.
    Early(ExpertId),
    /// Nothing, set aside for such an expert. Pinned.
    Spare,
    State,
}

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Slot {
    holds: Holds,
    pins: u32,
    class: u32,
    /// What its expert is worth; 0 where it is the next to leave.
    worth: u64,
}

/// Experts of one size.
struct Class {
    ranking: Ranking,
    /// Experts that could leave.
    leaving: Queue,
    /// Slots that hold an expert and are not pinned, or are free.
    available: usize,
}

/// Which experts are in memory.
pub struct Residency {
    slab: Slab,
    layout: Arc<ExpertLayout>,
    /// Slot of each expert by its flat index.
    slot_of: Vec<u32>,
    /// Experts of each layer that are in memory.
    resident: Vec<usize>,
    slots: Vec<Slot>,
    /// By size class, those of experts. Those of sequences' states come after them.
    classes: Vec<Class>,
    /// Experts of a class that always find room.
    keep: usize,
    /// By class: slots set aside for experts that are read early.
    spares: Vec<Spares>,
    /// Experts that had to be read since slots were set aside.
    lost: u64,
    /// The same for those who watch.
    map: Arc<ResidencyMap>,
}

impl Residency {
    /// Divides a slab among the layout's size classes: `class_pieces[c]` pieces for class c. The slab's classes after those
    /// are of sequences' states, which start with no piece.
    ///
    /// `keep` experts of each class, those of one token, always find room beside the states.
    pub fn new(mut slab: Slab, layout: Arc<ExpertLayout>, class_pieces: &[usize], keep: usize) -> Residency {
        let experts = layout.experts_total();
        let class = |class| Class {
            ranking: Ranking::new(experts, slab.slots_max()),
            leaving: Queue::new(experts, layout.experts_of_class(class)),
            available: 0,
        };
        let mut classes: Vec<Class> = (0..layout.classes().len()).map(class).collect();
        for (class, &pieces) in class_pieces.iter().enumerate() {
            for _ in 0..pieces {
                if slab.assign(class) {
                    classes[class].available += slab.slots_per_piece(class);
                }
            }
        }
        Residency {
            slot_of: vec![NONE; experts],
            resident: vec![0; layout.layers()],
            slots: vec![Slot { holds: Holds::Nothing, pins: 0, class: 0, worth: 0 }; slab.slots_max()],
            keep,
            spares: classes.iter().map(|_| Spares::new(slab.slots_max())).collect(),
            lost: 0,
            classes,
            map: Arc::new(ResidencyMap::new((0..layout.layers()).map(|layer| layout.experts(layer)).collect())),
            slab,
            layout,
        }
    }

    /// The slab's memory, to register with a reader.
    pub fn regions(&self) -> impl Iterator<Item = &Arc<Region>> {
        self.slab.regions()
    }

    /// Where every expert is and how often it was used, to be read at any time.
    pub fn map(&self) -> &Arc<ResidencyMap> {
        &self.map
    }

    /// A slot's memory.
    pub fn location(&self, slot: SlotId) -> (&Arc<Region>, usize) {
        self.slab.location(slot)
    }

    /// Where an expert is.
    pub fn locate(&self, id: ExpertId) -> Place {
        match self.slot_of[self.layout.index(id)] {
            NONE => Place::Drive,
            slot if self.slots[slot as usize].holds == Holds::Expert(id) => Place::Host(SlotId::from_index(slot)),
            _ => Place::Drive,
        }
    }

    /// Whether all experts of a layer are in memory.
    pub fn is_resident(&self, layer: usize) -> bool {
        self.resident[layer] == self.layout.experts(layer)
    }

    /// Experts of a layer that could be pinned at once, beside those that are.
    pub fn available(&self, layer: usize) -> usize {
        self.classes[self.layout.class(layer)].available
    }

    /// Counts a use of an expert that was asked for by [`Self::pin`], [`Self::begin_fill`] or [`Self::adopt`]. One that is `passing`
    /// is of a prompt that uses more of its layer than can stay.
    pub fn used(&mut self, id: ExpertId, passing: bool) {
        let index = self.layout.index(id);
        self.map.used(index);
        let class = self.layout.class(id.layer as usize);
        let slots = self.slab.slots(class);
        if slots >= self.layout.experts_of_class(class) {
            // Nobody leaves.
            return;
        }
        if self.classes[class].ranking.used(index as u32, slots, passing) {
            self.rank_anew(class);
        }
        let slot = self.slot_of[index];
        if let Some(state) = self.slots.get_mut(slot as usize) {
            state.worth = self.classes[class].ranking.of(index as u32);
            self.queue(SlotId::from_index(slot));
        }
    }

    /// Says anew what a class's experts are worth, but for those that leave next.
    fn rank_anew(&mut self, class: usize) {
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            if let Holds::Expert(id) | Holds::Filling(id) = slot.holds
                && slot.class as usize == class
                && slot.worth > 0
            {
                slot.worth = self.classes[class].ranking.of(self.layout.index(id) as u32);
                self.queue(SlotId::from_index(index as u32));
            }
        }
    }

    /// Has the expert of a slot among those that could leave, with its worth, or not, as it is.
    fn queue(&mut self, slot: SlotId) {
        let Slot { holds, pins, class, worth } = self.slots[slot.index()];
        if let Holds::Expert(id) = holds {
            let (leaving, expert) = (&mut self.classes[class as usize].leaving, self.layout.index(id) as u32);
            if pins == 0 { leaving.set(expert, worth) } else { leaving.remove(expert) }
        }
    }

    /// Keeps a resident expert from being evicted until [`Self::unpin`].
    pub fn pin(&mut self, slot: SlotId) {
        let state = &mut self.slots[slot.index()];
        state.pins += 1;
        if state.pins == 1 {
            self.classes[state.class as usize].available -= 1;
            self.queue(slot);
        }
    }

    /// Slots of a layer's size, whatever they hold.
    pub fn slots(&self, layer: usize) -> usize {
        self.slab.slots(self.layout.class(layer))
    }

    /// Experts of a layer that stay resident when every layer of its size gets the same share, and a sweep passes through so
    /// many other slots.
    pub fn share(&self, layer: usize, passing: usize) -> usize {
        let class = self.layout.class(layer);
        let (slots, experts) = (self.slab.slots(class), self.layout.experts_of_class(class));
        let room = if slots >= experts { slots } else { slots.saturating_sub(passing) };
        room * self.layout.experts(layer) / experts.max(1)
    }

    /// Marks a resident expert as the next one to be evicted.
    pub fn demote(&mut self, slot: SlotId) {
        self.slots[slot.index()].worth = 0;
        self.queue(slot);
    }

    /// Takes one pin back.
    pub fn unpin(&mut self, slot: SlotId) {
        let state = &mut self.slots[slot.index()];
        state.pins -= 1;
        if state.pins == 0 {
            self.classes[state.class as usize].available += 1;
            self.queue(slot);
        }
    }

    /// Gives an expert a slot to be read into, evicting the one worth least if none is free. The slot is
    /// pinned. `None` when every slot of its size is pinned.
    pub fn begin_fill(&mut self, id: ExpertId) -> Option<SlotId> {
        let class = self.layout.class(id.layer as usize);
        let (slot, leaving) = match self.slab.acquire(class) {
            Some(slot) => (slot, None),
            None => self.evict(class).map(|(slot, expert)| (slot, Some(expert)))?,
        };
        self.comes(id, leaving);
        self.slot_of[self.layout.index(id)] = slot.index() as u32;
        self.map.read(self.layout.index(id), Seen::Reading);
        self.slots[slot.index()] = Slot { holds: Holds::Filling(id), pins: 0, class: class as u32, worth: 0 };
        self.pin(slot);
        Some(slot)
    }

    /// The expert's bytes are all there: it is resident, and still pinned.
    pub fn end_fill(&mut self, slot: SlotId) {
        let state = &mut self.slots[slot.index()];
        match state.holds {
            Holds::Filling(id) => {
                state.holds = Holds::Expert(id);
                self.resident[id.layer as usize] += 1;
                self.map.set(self.layout.index(id), Seen::Memory);
            }
            other => unreachable!("invariant: end_fill follows begin_fill, not {other:?}"),
        }
    }

    /// The expert's bytes did not arrive: the slot is free again.
    pub fn abort_fill(&mut self, slot: SlotId) {
        self.unpin(slot);
        self.forget(slot);
        self.slab.release(slot);
    }

    /// Has at most `max` slots of the size of a layer's experts set aside for what is read early. Those beyond go back to the
    /// experts, as soon as they are not in use.
    pub fn set_spares(&mut self, layer: usize, max: usize) {
        let class = self.layout.class(layer);
        self.spares[class].max = max;
        while self.spares[class].slots() > max {
            let Some(slot) = self.spares[class].free.pop() else { break };
            self.release_spare(class, slot);
        }
    }

    /// A slot for an expert that nobody asked for yet: one of those set aside, or one more of the experts worth least, as
    /// long as those of a token still find room. `None` when as many as [`Self::set_spares`] allows are in use.
    pub fn begin_early(&mut self, id: ExpertId) -> Option<SlotId> {
        let class = self.layout.class(id.layer as usize);
        let slot = match self.spares[class].free.pop() {
            Some(slot) => slot,
            None => {
                let room =
                    self.spares[class].used < self.spares[class].max && self.classes[class].available > 2 * self.keep;
                let slot = match room.then(|| self.slab.acquire(class))? {
                    Some(slot) => slot,
                    None => {
                        let (slot, expert) = self.evict(class)?;
                        self.spares[class].leaves(expert);
                        slot
                    }
                };
                self.slots[slot.index()] = Slot { holds: Holds::Spare, pins: 1, class: class as u32, worth: 0 };
                self.classes[class].available -= 1;
                slot
            }
        };
        self.slots[slot.index()].holds = Holds::Early(id);
        self.map.read(self.layout.index(id), Seen::Early);
        self.spares[class].used += 1;
        Some(slot)
    }

    /// Makes a spare slot the one that is filled with an expert, as [`Self::begin_fill`] would: pinned, and used now.
    pub fn adopt(&mut self, slot: SlotId, id: ExpertId) {
        let state = &mut self.slots[slot.index()];
        debug_assert_eq!(state.holds, Holds::Early(id));
        state.holds = Holds::Filling(id);
        self.map.set(self.layout.index(id), Seen::Reading);
        let class = state.class as usize;
        self.slot_of[self.layout.index(id)] = slot.index() as u32;
        self.spares[class].used -= 1;
        self.comes(id, None);
    }

    /// Experts that were asked for and missing, and would not have been if no slots were set aside for what is read early.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn comes(&mut self, id: ExpertId, leaving: Option<u32>) {
        let spares = &mut self.spares[self.layout.class(id.layer as usize)];
        self.lost += u64::from(spares.comes(self.layout.index(id) as u32, leaving));
    }

    /// Forgets what was read early into a slot, which stays set aside if no more are than [`Self::set_spares`] allows.
    pub fn drop_early(&mut self, slot: SlotId) {
        let class = self.slots[slot.index()].class as usize;
        self.spares[class].used -= 1;
        if let Holds::Early(id) = self.slots[slot.index()].holds {
            // It may be on its way to another slot meanwhile, asked for.
            let index = self.layout.index(id);
            if self.slot_of[index] == NONE {
                self.map.set(index, Seen::Drive);
            }
            self.slots[slot.index()].holds = Holds::Spare;
        }
        if self.spares[class].slots() < self.spares[class].max {
            self.spares[class].free.push(slot);
        } else {
            self.release_spare(class, slot);
        }
    }

    /// Gives the spare slots that are not in use back to the experts.
    fn release_spares(&mut self) {
        for class in 0..self.classes.len() {
            while let Some(slot) = self.spares[class].free.pop() {
                self.release_spare(class, slot);
            }
        }
    }

    fn release_spare(&mut self, class: usize, slot: SlotId) {
        self.slots[slot.index()].holds = Holds::Nothing;
        self.slots[slot.index()].pins = 0;
        self.classes[class].available += 1;
        self.slab.release(slot);
    }

    /// Experts that there is room for now, beside the states.
    pub fn expert_slots(&self) -> usize {
        (0..self.classes.len()).map(|class| self.slab.slots(class)).sum()
    }

    /// Evicts every expert that is not pinned.
    pub fn clear(&mut self) {
        self.release_spares();
        for class in 0..self.classes.len() {
            while let Some((slot, _)) = self.evict(class) {
                self.slab.release(slot);
            }
            self.spares[class].forget_lost();
        }
    }

    /// Takes the expert worth least out of its slot.
    fn evict(&mut self, class: usize) -> Option<(SlotId, u32)> {
        let expert = self.classes[class].leaving.first()?;
        let victim = SlotId::from_index(self.slot_of[expert as usize]);
        self.forget(victim);
        Some((victim, expert))
    }

    /// Takes the expert out of a slot and the slot out of its list.
    fn forget(&mut self, slot: SlotId) {
        if let Holds::Expert(id) = self.slots[slot.index()].holds {
            self.resident[id.layer as usize] -= 1;
            let class = self.slots[slot.index()].class as usize;
            self.classes[class].leaving.remove(self.layout.index(id) as u32);
        }
        if let Holds::Expert(id) | Holds::Filling(id) = self.slots[slot.index()].holds {
            self.slot_of[self.layout.index(id)] = NONE;
            self.map.set(self.layout.index(id), Seen::Drive);
        }
        self.slots[slot.index()].holds = Holds::Nothing;
    }

    /// A slot for a part of a sequence's state, of the `kind`-th state class, taken from the experts by the piece if none
    /// is free. `None` when nothing can be evicted.
    pub fn acquire_state(&mut self, kind: usize) -> Option<SlotId> {
        let class = self.classes.len() + kind;
        let slot = match self.slab.acquire(class) {
            Some(slot) => slot,
            None => {
                if !self.slab.assign(class) {
                    self.release_spares();
                    let piece = self.emptiest_piece()?;
                    self.vacate(piece);
                    self.slab.assign(class);
                }
                self.slab.acquire(class)?
            }
        };
        self.slots[slot.index()] = Slot { holds: Holds::State, pins: 1, class: class as u32, worth: 0 };
        Some(slot)
    }

    /// Gives a part of a state back. A piece without any returns to the experts.
    pub fn release_state(&mut self, slot: SlotId) {
        self.slots[slot.index()].holds = Holds::Nothing;
        self.slots[slot.index()].pins = 0;
        self.slab.release(slot);
        let piece = self.slab.piece_of(slot);
        if self.slab.slots_of(piece).all(|slot| self.slots[slot.index()].holds == Holds::Nothing) {
            self.slab.unassign(piece);
            self.assign_to_experts();
        }
    }

    /// Gives an unassigned piece to the largest class.
    fn assign_to_experts(&mut self) {
        let class = self.largest_class();
        if !self.classes.is_empty() && self.slab.assign(class) {
            self.classes[class].available += self.slab.slots_per_piece(class);
        }
    }

    /// Takes the memory of a piece out of the slab, with the experts in it: the one that has the expert worth least. `None`
    /// where those of a token would not find room any more, or something is pinned in every piece.
    pub fn withdraw_piece(&mut self) -> Option<Arc<Region>> {
        self.release_spares();
        let piece = self.emptiest_piece()?;
        self.vacate(piece);
        self.slab.withdraw()
    }

    /// Puts memory in the place of some that was taken out: there is room for more experts.
    pub fn restore_piece(&mut self, region: Arc<Region>) {
        if self.slab.restore(region) {
            self.assign_to_experts();
        }
    }

    /// Bytes of a piece, and how many pieces are taken out.
    pub fn withdrawn(&self) -> (usize, usize) {
        (self.slab.piece_bytes(), self.slab.withdrawn())
    }

    /// The class with the most experts, if there are any: it lends pieces to states and gets them back.
    fn largest_class(&self) -> usize {
        (0..self.classes.len()).max_by_key(|&class| self.layout.experts_of_class(class)).unwrap_or(0)
    }

    /// The piece of the largest class with nothing pinned that has the fewest experts, or where all are full the expert worth least.
    fn emptiest_piece(&self) -> Option<usize> {
        if self.classes.is_empty() {
            return None;
        }
        let class = self.largest_class();
        if self.classes[class].available < self.slab.slots_per_piece(class) + self.keep {
            return None;
        }
        let unpinned = |piece: usize| self.slab.slots_of(piece).all(|slot| self.slots[slot.index()].pins == 0);
        let experts = |piece: usize| {
            self.slab.slots_of(piece).filter(|slot| self.slots[slot.index()].holds != Holds::Nothing).count()
        };
        let roomy = self.slab.pieces_of(class).map(|piece| (experts(piece), Reverse(piece)));
        let roomy =
            roomy.filter(|&(experts, Reverse(piece))| experts < self.slab.slots_per_piece(class) && unpinned(piece));
        if let Some((_, Reverse(piece))) = roomy.min() {
            return Some(piece);
        }
        let piece_of = |expert: u32| self.slab.piece_of(SlotId::from_index(self.slot_of[expert as usize]));
        let leaving = self.classes[class].leaving.iter().map(|(worth, expert)| (worth, piece_of(expert)));
        leaving.filter(|&(_, piece)| unpinned(piece)).min().map(|(_, piece)| piece)
    }

    /// Evicts a piece's experts and takes it from its class.
    fn vacate(&mut self, piece: usize) {
        let class = self.largest_class();
        for slot in self.slab.slots_of(piece) {
            if self.slots[slot.index()].holds != Holds::Nothing {
                self.forget(slot);
                self.slab.release(slot);
            }
        }
        self.classes[class].available -= self.slab.slots_per_piece(class);
        self.slab.unassign(piece);
    }
}
