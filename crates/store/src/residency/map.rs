//! Where every expert is and how often it was used, for those who watch: written by the thread that owns the residency, read at
//! any time by any other one, and neither ever waits.

use std::sync::atomic::{AtomicU32, Ordering};

/// Where an expert is, as a watcher tells it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Only in its file.
    Drive = 0,
    /// Asked for, and on its way from there.
    Reading = 1,
    /// In memory.
    Memory = 2,
    /// Read, or being read, before anybody asked for it.
    Early = 3,
}

/// Bits of a cell: where the expert is, then how often it was asked for and how often it was read, which both begin anew at
/// the end of their bits.
const PLACE_BITS: u32 = 2;
const COUNT_BITS: u32 = 15;
const COUNT_MAX: u32 = (1 << COUNT_BITS) - 1;
const READS_AT: u32 = PLACE_BITS + COUNT_BITS;

/// An expert as it was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell(u32);

impl Cell {
    /// Where it is.
    pub fn place(self) -> Seen {
        match self.0 & ((1 << PLACE_BITS) - 1) {
            0 => Seen::Drive,
            1 => Seen::Reading,
            2 => Seen::Memory,
            _ => Seen::Early,
        }
    }

    /// How often it was asked for since it was seen `earlier`, less than 2^15 times ago.
    pub fn uses_since(self, earlier: Cell) -> u32 {
        (self.0 >> PLACE_BITS).wrapping_sub(earlier.0 >> PLACE_BITS) & COUNT_MAX
    }

    /// How often it was read from the drive since it was seen `earlier`, less than 2^15 reads ago.
    pub fn reads_since(self, earlier: Cell) -> u32 {
        (self.0 >> READS_AT).wrapping_sub(earlier.0 >> READS_AT) & COUNT_MAX
    }

    fn at(self, place: Seen) -> Cell {
        Cell(self.0 >> PLACE_BITS << PLACE_BITS | place as u32)
    }

    fn used(self) -> Cell {
        let uses = (self.0 >> PLACE_BITS).wrapping_add(1) & COUNT_MAX;
        Cell(self.0 & !(COUNT_MAX << PLACE_BITS) | uses << PLACE_BITS)
    }

    fn read(self) -> Cell {
        Cell(self.0.wrapping_add(1 << READS_AT))
    }
}

/// A cell for each expert, by its flat index: layer by layer. Each is right by itself; of two, one may be seen earlier.
pub struct ResidencyMap {
    cells: Box<[AtomicU32]>,
    layers: Box<[usize]>,
}

impl ResidencyMap {
    /// Every expert on the drive; `layers[l]` experts in layer l.
    pub(super) fn new(layers: Box<[usize]>) -> ResidencyMap {
        let experts = layers.iter().sum();
        ResidencyMap { cells: (0..experts).map(|_| AtomicU32::new(0)).collect(), layers }
    }

    /// Experts of each layer.
    pub fn layers(&self) -> &[usize] {
        &self.layers
    }

    /// Every expert as it is now.
    pub fn cells(&self) -> impl ExactSizeIterator<Item = Cell> + '_ {
        self.cells.iter().map(|cell| Cell(cell.load(Ordering::Relaxed)))
    }

    /// Only one thread writes, so that a load and a store do.
    fn write(&self, index: usize, to: impl FnOnce(Cell) -> Cell) {
        let cell = &self.cells[index];
        cell.store(to(Cell(cell.load(Ordering::Relaxed))).0, Ordering::Relaxed);
    }

    /// It is at `place` now.
    pub(super) fn set(&self, index: usize, place: Seen) {
        self.write(index, |cell| cell.at(place));
    }

    /// It is asked for, where it is.
    pub(super) fn used(&self, index: usize) {
        self.write(index, Cell::used);
    }

    /// A read of it begins.
    pub(super) fn read(&self, index: usize, place: Seen) {
        self.write(index, |cell| cell.at(place).read());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_on_beyond_the_end_of_their_bits() {
        let almost = Cell(u32::MAX).at(Seen::Reading);
        let later = almost.used().used().at(Seen::Memory);
        assert_eq!((later.place(), later.uses_since(almost), later.reads_since(almost)), (Seen::Memory, 2, 0));
        let later = almost.at(Seen::Drive).read().at(Seen::Early).used();
        assert_eq!((later.place(), later.uses_since(almost), later.reads_since(almost)), (Seen::Early, 1, 1));
        assert_eq!((later.uses_since(later), later.reads_since(later)), (0, 0));
    }
}
