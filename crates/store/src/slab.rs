//! The memory for experts and for sequences: pieces of at most 256 MiB, or of one larger slot, each cut into slots of one size class. A piece
//! can pass from one class to another, or be given back to the system, only as a whole and only while it is empty.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use crate::Result;
use crate::read::Region;

/// Largest piece of several slots.
pub const PIECE_BYTES_MAX: usize = 256 << 20;
/// Largest slot: io_uring registers no larger buffers.
pub const SLOT_BYTES_MAX: usize = 1 << 30;

/// A slot of the slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(u32);

/// Pieces of memory, cut into slots.
pub struct Slab {
    pieces: Vec<Piece>,
    piece_bytes: usize,
    /// Slot size of each class.
    classes: Vec<usize>,
    /// Free slots of each class. The first is taken first, so that the last pieces stay empty as long as they can.
    free: Vec<BinaryHeap<Reverse<SlotId>>>,
    /// Pieces of no class.
    unassigned: Vec<usize>,
    /// Pieces whose memory the system has.
    withdrawn: Vec<usize>,
    /// Slot numbers set aside for each piece: as many as its smallest class could cut.
    stride: usize,
}

struct Piece {
    /// `None` while the system has it.
    region: Option<Arc<Region>>,
    class: Option<usize>,
}

impl Slab {
    /// A slab of `pieces` pieces of `piece_bytes` bytes from `allocate`, for slots of these sizes.
    ///
    /// # Errors
    /// What `allocate` answers.
    pub fn new(
        pieces: usize,
        piece_bytes: usize,
        classes: &[usize],
        mut allocate: impl FnMut(usize) -> Result<Arc<Region>>,
    ) -> Result<Slab> {
        assert!(piece_bytes <= SLOT_BYTES_MAX && classes.iter().all(|&class| 0 < class && class <= piece_bytes));
        let stride = classes.iter().map(|class| piece_bytes / class).max().unwrap_or(0);
        let regions: Vec<Arc<Region>> = (0..pieces).map(|_| allocate(piece_bytes)).collect::<Result<_>>()?;
        Ok(Slab {
            pieces: regions.into_iter().map(|region| Piece { region: Some(region), class: None }).collect(),
            piece_bytes,
            classes: classes.to_vec(),
            free: classes.iter().map(|class| BinaryHeap::with_capacity(pieces * (piece_bytes / class))).collect(),
            unassigned: (0..pieces).rev().collect(),
            withdrawn: Vec::with_capacity(pieces),
            stride,
        })
    }

    /// Slot numbers are below this.
    pub fn slots_max(&self) -> usize {
        self.pieces.len() * self.stride
    }

    /// Number of size classes.
    pub fn classes(&self) -> usize {
        self.classes.len()
    }

    /// Slots that a piece of this class has.
    pub fn slots_per_piece(&self, class: usize) -> usize {
        self.piece_bytes / self.classes[class]
    }

    /// The pieces' memory.
    pub fn regions(&self) -> impl Iterator<Item = &Arc<Region>> {
        self.pieces.iter().filter_map(|piece| piece.region.as_ref())
    }

    /// Slots of a class, free or not.
    pub fn slots(&self, class: usize) -> usize {
        self.pieces.iter().filter(|piece| piece.class == Some(class)).count() * self.slots_per_piece(class)
    }

    /// A free slot of a class, if there is one.
    pub fn acquire(&mut self, class: usize) -> Option<SlotId> {
        self.free[class].pop().map(|Reverse(slot)| slot)
    }

    /// Gives a slot back.
    pub fn release(&mut self, slot: SlotId) {
        if let Some(class) = self.pieces[self.piece_of(slot)].class {
            self.free[class].push(Reverse(slot));
        }
    }

    /// The pieces of a class.
    pub fn pieces_of(&self, class: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.pieces.len()).filter(move |&piece| self.pieces[piece].class == Some(class))
    }

    /// Cuts an unassigned piece for a class. `false` where none is left.
    pub fn assign(&mut self, class: usize) -> bool {
        let Some(piece) = self.unassigned.pop() else { return false };
        self.pieces[piece].class = Some(class);
        let slots = self.slots_per_piece(class);
        self.free[class].extend((0..slots).map(|i| Reverse(SlotId((piece * self.stride + i) as u32))));
        true
    }

    /// Takes a piece, whose slots are all free, from its class.
    pub fn unassign(&mut self, piece: usize) {
        if let Some(class) = self.pieces[piece].class.take() {
            let stride = self.stride;
            let before = self.free[class].len();
            self.free[class].retain(|Reverse(slot)| slot.0 as usize / stride != piece);
            assert_eq!(before - self.free[class].len(), self.slots_per_piece(class), "the piece is not empty");
            self.unassigned.push(piece);
        }
    }

    /// Takes an unassigned piece's memory out of the slab, if there is one.
    pub fn withdraw(&mut self) -> Option<Arc<Region>> {
        let piece = self.unassigned.pop()?;
        self.withdrawn.push(piece);
        self.pieces[piece].region.take()
    }

    /// Puts memory in the place of some that was taken out: the piece is unassigned. `false` where none is missing.
    pub fn restore(&mut self, region: Arc<Region>) -> bool {
        assert_eq!(region.bytes(), self.piece_bytes, "a piece of another size");
        let Some(piece) = self.withdrawn.pop() else { return false };
        self.pieces[piece].region = Some(region);
        self.unassigned.push(piece);
        true
    }

    /// Pieces whose memory is taken out.
    pub fn withdrawn(&self) -> usize {
        self.withdrawn.len()
    }

    /// Bytes of a piece.
    pub fn piece_bytes(&self) -> usize {
        self.piece_bytes
    }

    /// The piece that a slot lies in.
    pub fn piece_of(&self, slot: SlotId) -> usize {
        slot.0 as usize / self.stride
    }

    /// The slots of a piece under its class.
    pub fn slots_of(&self, piece: usize) -> impl Iterator<Item = SlotId> + use<> {
        let slots = self.pieces[piece].class.map_or(0, |class| self.slots_per_piece(class));
        let first = piece * self.stride;
        (first..first + slots).map(|i| SlotId(i as u32))
    }

    /// A slot's memory: the piece's region and the first byte within it.
    pub fn location(&self, slot: SlotId) -> (&Arc<Region>, usize) {
        let piece = &self.pieces[self.piece_of(slot)];
        let class = piece.class.expect("invariant: a slot in use lies in a piece with a class");
        let region = piece.region.as_ref().expect("invariant: and so has memory");
        (region, slot.0 as usize % self.stride * self.classes[class])
    }
}

impl SlotId {
    pub(crate) fn from_index(index: u32) -> SlotId {
        SlotId(index)
    }

    /// A dense number below [`Slab::slots_max`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Has pages of the program's own file that hold these bytes leave this process; they come back when they are read.
///
/// Where they lie elsewhere than in a file that is mapped to be read only, nothing happens.
pub fn drop_program_pages(bytes: &'static [u8]) {
    #[cfg(target_os = "linux")]
    {
        let page = rustix::param::page_size();
        let skipped = bytes.as_ptr().align_offset(page).min(bytes.len());
        let whole = &bytes[skipped..];
        let (first, length) = (whole.as_ptr() as usize, whole.len() / page * page);
        if length == 0
            || !std::fs::read_to_string("/proc/self/maps").is_ok_and(|maps| is_of_a_file(&maps, first, length))
        {
            return;
        }
        // SAFETY: the range lies in a private mapping that nobody can write to, and plain bytes are as the file has them: what is
        // dropped is read from there again.
        let advised =
            unsafe { rustix::mm::madvise(whole.as_ptr().cast_mut().cast(), length, rustix::mm::Advice::LinuxDontNeed) };
        // It saves memory, and no more.
        let _ = advised;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = bytes;
}

/// Whether `/proc/self/maps` says of all these bytes that they are a file's, mapped to be read only.
#[cfg(target_os = "linux")]
fn is_of_a_file(maps: &str, first: usize, length: usize) -> bool {
    maps.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace();
        let number = |digits: &str| usize::from_str_radix(digits, 16).ok();
        let range = fields.next().and_then(|range| range.split_once('-'));
        let range = range.and_then(|(from, to)| Some(number(from)?..number(to)?));
        let read_only = matches!(fields.next(), Some("r--p" | "r-xp"));
        let inode = fields.nth(2);
        read_only
            && inode.is_some_and(|inode| inode != "0")
            && range.is_some_and(|range| range.start <= first && first + length <= range.end)
    })
}

/// Gives what the heap holds free back to the system, where its allocator can.
pub fn trim_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> i32;
        }
        // SAFETY: glibc's malloc_trim takes any number and touches only memory that the heap holds free.
        unsafe { malloc_trim(0) };
    }
}
