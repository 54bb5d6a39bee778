//! Affine-quantised weights unpacked to bytes: those of as many rows as a vector has lanes, four of a row to a lane, with
//! their scales and biases.

// A tile is indexed by lane of fixed number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::mem::MaybeUninit;

use super::affine::{Bytes, Ints, have_few_bits};
use super::many::Unpacked;
use super::tile::{self, Bf16, Element, F16, F32, Lanes};
use super::{AffineDots, Dots, LINE_BYTES};
use crate::Format;

/// Weights that are unpacked together: an affine group is one or several.
pub(in crate::cpu) const BLOCK: usize = 32;

/// Most lanes of a vector.
pub(super) const LANES_MAX: usize = 16;

/// Weights of each row that a panel holds at most, a multiple of every group; of several panels a part of it each. They stay in
/// the first-level cache.
pub(super) const K_MAX: usize = 1024;

/// Groups among them.
const GROUPS_MAX: usize = K_MAX / 32;

/// Which of a block's 32 weights comes at place `at` when the block has been unpacked: of 2 and 4 bits, first the lowest
/// bits of all the block's bytes, then the next. Activations take the same order.
#[inline(always)]
pub(super) fn order(bits: usize, at: usize) -> usize {
    let (word, byte) = (at / 4, at % 4);
    match bits {
        2 => 16 * (word % 2) + 4 * byte + word / 2,
        4 => 8 * (word % 4) + 2 * byte + word / 4,
        _ => at,
    }
}

/// A block of 32 weights of each row, from `bits` words to 8, each of four bytes.
#[inline(always)]
unsafe fn unpack<I: Ints, const BITS: usize>(words: &[I]) -> [I; 8] {
    // SAFETY: the caller has the instructions.
    unsafe {
        let mut bytes = [I::splat(0); 8];
        for (j, bytes) in bytes.iter_mut().enumerate() {
            *bytes = match BITS {
                2 => words[j % 2].shr(2 * (j / 2) as u32).and(I::splat(0x0303_0303)),
                4 => words[j % 4].shr(4 * (j / 4) as u32).and(I::splat(0x0f0f_0f0f)),
                8 => words[j],
                _ => spread::<I, BITS>(words, 4 * j * BITS),
            };
        }
        bytes
    }
}

/// Four consecutive weights from bit `at` of the words on, each moved to a byte of its own.
#[inline(always)]
pub(super) unsafe fn spread<I: Ints, const BITS: usize>(words: &[I], at: usize) -> I {
    // SAFETY: the caller has the instructions.
    unsafe {
        let (word, shift) = (at / 32, (at % 32) as u32);
        let mut field = words[word].shr(shift);
        if shift as usize + 4 * BITS > 32 {
            field = field.or(words[word + 1].shl(32 - shift));
        }
        let mut bytes = field.and(I::splat((1 << BITS) - 1));
        for i in 1..4 {
            let mask = ((1u32 << BITS) - 1) << (8 * i);
            bytes = bytes.or(field.shl(((8 - BITS) * i) as u32).and(I::splat(mask as i32)));
        }
        bytes
    }
}

/// Some rows' weights `k..k + len`, unpacked, with their scales and biases: what a tile is computed from.
#[repr(align(64))]
pub(super) struct Panel {
    /// `[len / group, N]`
    scales: [f32; GROUPS_MAX * LANES_MAX],
    biases: [f32; GROUPS_MAX * LANES_MAX],
    /// `[len / 4, N, 4]`; written before it is read, and not at all for a lone activation row.
    pub q: MaybeUninit<[u8; K_MAX * LANES_MAX]>,
    pub sums: Sums,
    /// See [`add_terms`](super::affine::add_terms).
    pub shifted: bool,
}

/// The sums of each column and a panel's rows, `[columns, N]`, until the last part of the rows' weights: the columns' outputs are a power
/// of two apart as a rule, where as many as a tile has drive each other out of a cache. Written before they are read.
#[repr(align(64))]
pub(super) struct Sums(MaybeUninit<[f32; Sums::COLUMNS * LANES_MAX]>);

impl Sums {
    /// Columns that there is room for.
    pub(super) const COLUMNS: usize = 512;

    pub(super) fn at(&mut self) -> *mut f32 {
        self.0.as_mut_ptr().cast()
    }
}

/// Where a panel lies in the matrix.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub row: usize,
    pub rows: usize,
    pub k: usize,
    pub len: usize,
}

impl Place {
    /// Part `i` of its rows, when they are parted by so many; and where weights for it are: where nothing is left for it, those of the
    /// first part, of which no output is stored.
    #[inline(always)]
    pub(super) fn part(self, i: usize, lanes: usize) -> (Place, Place) {
        let rows = self.rows.saturating_sub(i * lanes).min(lanes);
        let part = Place { row: self.row + i * lanes, rows, ..self };
        (part, if rows > 0 { part } else { Place { rows: self.rows.min(lanes), ..self } })
    }
}

impl Panel {
    /// Panels where there is room for them: made as values they would be copied.
    pub(super) fn zeroed<const P: usize>(room: &mut MaybeUninit<[Panel; P]>) -> &mut [Panel; P] {
        // SAFETY: zeros are numbers, and the rest of a panel need not be anything.
        unsafe {
            for i in 0..P {
                let panel = room.as_mut_ptr().cast::<Panel>().add(i);
                (&raw mut (*panel).scales).write_bytes(0, 1);
                (&raw mut (*panel).biases).write_bytes(0, 1);
                (&raw mut (*panel).shifted).write(false);
            }
            room.assume_init_mut()
        }
    }

    pub(super) fn unpacked(&mut self) -> Unpacked {
        let (scales, biases) = (self.scales.as_ptr(), self.biases.as_ptr());
        Unpacked { q: self.q.as_ptr().cast(), scales, biases, sums: self.sums.at() }
    }

    #[inline(always)]
    pub(super) unsafe fn scale<L: Lanes>(&self, group: usize) -> L {
        // SAFETY: the caller's group is one of the panel's.
        unsafe { L::load_f32(self.scales.as_ptr().add(group * L::N).cast()) }
    }

    #[inline(always)]
    pub(super) unsafe fn bias<L: Lanes>(&self, group: usize) -> L {
        // SAFETY: the caller's group is one of the panel's.
        unsafe { L::load_f32(self.biases.as_ptr().add(group * L::N).cast()) }
    }

    /// Unpacks a place.
    #[inline(always)]
    pub(super) unsafe fn fill<B: Bytes, const PRECISE: bool>(&mut self, d: &AffineDots, at: Place) {
        // SAFETY: the place is inside `d`.
        unsafe {
            self.fill_scales::<B::I>(d, at);
            let scales = &self.scales[..at.len / d.group * <B::I as Ints>::F::N];
            self.shifted = B::SHIFTED && !PRECISE && have_few_bits(scales);
            if B::SIGNED && !PRECISE && d.bits == 8 {
                self.shift_biases::<<B::I as Ints>::F>(at.len / d.group);
            }
            unpack_all::<B::I>(d, at, self.q.as_mut_ptr().cast());
        }
    }

    /// Makes the biases those of q - 128.
    #[inline(always)]
    unsafe fn shift_biases<L: Lanes>(&mut self, groups: usize) {
        for group in 0..groups {
            // SAFETY: the caller's groups are the panel's.
            unsafe {
                let bias = self.bias::<L>(group).fma(self.scale(group), L::splat(128.0));
                bias.store_f32(self.biases.as_mut_ptr().add(group * L::N).cast());
            }
        }
    }

    /// Scales and biases.
    #[inline(always)]
    unsafe fn fill_scales<I: Ints>(&mut self, d: &AffineDots, at: Place) {
        let [scales, biases] = d.scales;
        // SAFETY: the place is inside `d`.
        unsafe {
            match d.scale_format {
                Format::F32 => {
                    widen::<I, F32>(d, scales, at, &mut self.scales);
                    widen::<I, F32>(d, biases, at, &mut self.biases);
                }
                Format::F16 => {
                    widen::<I, F16>(d, scales, at, &mut self.scales);
                    widen::<I, F16>(d, biases, at, &mut self.biases);
                }
                _ if (at.len / d.group).is_multiple_of(2) => {
                    widen_pairs::<I>(d, scales, at, &mut self.scales);
                    widen_pairs::<I>(d, biases, at, &mut self.biases);
                }
                _ => {
                    widen::<I, Bf16>(d, scales, at, &mut self.scales);
                    widen::<I, Bf16>(d, biases, at, &mut self.biases);
                }
            }
        }
    }
}

/// Unpacks all weights of a place.
#[inline(always)]
unsafe fn unpack_all<I: Ints>(d: &AffineDots, at: Place, to: *mut u8) {
    // SAFETY: the place is inside `d`, and `to` the panel's.
    unsafe {
        match d.bits {
            2 => unpack_rows::<I, 2>(&d.dots, at, to),
            3 => unpack_rows::<I, 3>(&d.dots, at, to),
            4 => unpack_rows::<I, 4>(&d.dots, at, to),
            5 => unpack_rows::<I, 5>(&d.dots, at, to),
            6 => unpack_rows::<I, 6>(&d.dots, at, to),
            _ => unpack_rows::<I, 8>(&d.dots, at, to),
        }
    }
}

#[inline(always)]
pub(super) unsafe fn unpack_rows<I: Ints, const BITS: usize>(d: &Dots, at: Place, to: *mut u8) {
    let (blocks, at_once) = (at.len / BLOCK, I::WORDS / BITS);
    let (first_byte, block_bytes) = (at.k * BITS / 8, BLOCK * BITS / 8);
    let rows = rows_at::<I>(at.rows, |row| d.w.wrapping_add((at.row + row) * d.w_stride + first_byte));
    let mut first = 0;
    while first < blocks {
        let n = at_once.min(blocks - first);
        // SAFETY: n blocks from the first on are inside each row of the place, and the panel has room for them.
        unsafe {
            let mut now = rows;
            for lane in 0..I::F::N {
                now[lane] = rows[lane].wrapping_add(first * block_bytes);
            }
            let to = to.add(first * BLOCK * I::F::N);
            if n == at_once {
                let words = I::transposed(&now, at_once * BITS);
                for i in 0..at_once {
                    put(unpack::<I, BITS>(&words[i * BITS..(i + 1) * BITS]), to, i);
                }
            } else {
                let words = I::transposed(&now, n * BITS);
                for i in 0..n {
                    put(unpack::<I, BITS>(&words[i * BITS..(i + 1) * BITS]), to, i);
                }
            }
        }
        first += n;
    }
}

/// Stores block `i` behind `to`.
#[inline(always)]
unsafe fn put<I: Ints>(bytes: [I; 8], to: *mut u8, i: usize) {
    for (word, bytes) in bytes.into_iter().enumerate() {
        // SAFETY: the caller's panel has room for the block.
        unsafe { bytes.store(to.add((8 * i + word) * 4 * I::F::N)) };
    }
}

/// Addresses of the rows of a panel. Lanes beyond its rows repeat the last: their results are not stored.
#[inline(always)]
pub(super) fn rows_at<I: Ints>(rows: usize, row_at: impl Fn(usize) -> *const u8) -> [*const u8; LANES_MAX] {
    let mut at = [row_at(0); LANES_MAX];
    for lane in 1..I::F::N {
        at[lane] = row_at(lane.min(rows - 1));
    }
    at
}

/// The panel's scales or biases, widened, from `[rows, groups]` to `[groups, N]`.
#[inline(always)]
unsafe fn widen<I: Ints, E: Element>(d: &AffineDots, from: *const u8, at: Place, to: &mut [f32]) {
    let (groups, row_groups) = (at.len / d.group, d.dots.k / d.group);
    let mut wide = [[0f32; GROUPS_MAX]; LANES_MAX];
    for row in 0..at.rows {
        let from = from.wrapping_add(((at.row + row) * row_groups + at.k / d.group) * E::BYTES);
        // SAFETY: `groups` elements of this row are inside the tensor, and fit into `wide`.
        unsafe {
            I::prefetch(from.wrapping_add(I::F::N * row_groups * E::BYTES));
            tile::convert::<I::F, E, F32>(from, wide[row].as_mut_ptr().cast(), groups);
        }
    }
    // SAFETY: the caller has the instructions.
    unsafe { transpose::<I, GROUPS_MAX>(&wide, at.rows, groups, to) };
}

/// The first `groups` numbers of some rows, from `[rows, M]` to `[groups, N]`.
///
/// # Safety
/// The machine has the instructions.
#[inline(always)]
pub(super) unsafe fn transpose<I: Ints, const M: usize>(
    of: &[[f32; M]; LANES_MAX],
    rows: usize,
    groups: usize,
    to: &mut [f32],
) {
    for first in (0..groups).step_by(I::WORDS) {
        let rows = rows_at::<I>(rows, |row| of[row][first..].as_ptr().cast());
        let n = I::WORDS.min(M - first);
        // SAFETY: rows have n numbers from `first` on; `to` has N for each.
        unsafe {
            let words = I::transposed(&rows, n);
            for (i, words) in words[..n].iter().enumerate() {
                words.store(to[(first + i) * I::F::N..][..I::F::N].as_mut_ptr().cast());
            }
        }
    }
}

/// What is read next, of which each part of each tile asks for some, a line at least, so that memory is read while what has been
/// unpacked is multiplied: a processor waits with more lines at once than it has room to note.
pub(super) struct Ahead {
    at: *const u8,
    /// Bytes that are left, and that a part asks for.
    left: usize,
    step: usize,
}

impl Ahead {
    /// So many bytes from `at` on, which need not exist, over so many parts of all tiles together.
    pub(super) fn new(at: *const u8, bytes: usize, parts: usize) -> Self {
        Ahead { at, left: bytes, step: bytes.div_ceil(parts.max(1)).next_multiple_of(LINE_BYTES) }
    }

    /// Asks for what so many parts ask for.
    #[inline(always)]
    pub(super) unsafe fn ask<I: Ints>(&mut self, parts: usize) {
        let bytes = (parts * self.step).min(self.left);
        for byte in (0..bytes).step_by(LINE_BYTES) {
            // SAFETY: the caller has the instructions.
            unsafe { I::prefetch(self.at.wrapping_add(byte)) };
        }
        (self.at, self.left) = (self.at.wrapping_add(bytes), self.left - bytes);
    }
}

/// The same for bf16, an even number in each row: two are transposed as one word, and each half of it is the upper half of
/// an f32. In a product with one activation row, [`widen`] would take as long as the product.
#[inline(always)]
unsafe fn widen_pairs<I: Ints>(d: &AffineDots, from: *const u8, at: Place, to: &mut [f32]) {
    let (pairs, row_groups) = (at.len / d.group / 2, d.dots.k / d.group);
    let row_at = |row: usize| from.wrapping_add(((at.row + row) * row_groups + at.k / d.group) * 2);
    let rows = rows_at::<I>(at.rows, row_at);
    for first in (0..pairs).step_by(I::WORDS) {
        let n = I::WORDS.min(pairs - first);
        // SAFETY: n words from `first` on are inside each row of the tensor; `to` has room for two vectors of each.
        unsafe {
            let mut now = rows;
            for lane in 0..I::F::N {
                now[lane] = rows[lane].wrapping_add(4 * first);
            }
            // Once for each line.
            if first == 0 && (2 * at.k / d.group).is_multiple_of(LINE_BYTES) {
                (0..I::F::N).for_each(|lane| I::prefetch(now[lane].wrapping_add(I::F::N * row_groups * 2)));
            }
            // Of the usual numbers a compiler leaves out what no one asks for.
            let words = match n {
                _ if n == I::WORDS => I::transposed(&now, I::WORDS),
                4 => I::transposed(&now, 4),
                _ => I::transposed(&now, n),
            };
            for i in 0..n {
                let to = to[2 * (first + i) * I::F::N..][..2 * I::F::N].as_mut_ptr();
                words[i].shl(16).store(to.cast());
                words[i].and(I::splat(0xffff_0000_u32.cast_signed())).store(to.add(I::F::N).cast());
            }
        }
    }
}
