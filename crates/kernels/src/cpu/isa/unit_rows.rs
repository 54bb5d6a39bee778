//! Products of ggml's blocks and of codes with a lone activation row, unit by unit: sixteen groups are unpacked in registers, in
//! whatever order costs least, and the activations are put into the same order beforehand.
//!
//! What a group adds, and in which order, is as `unpacked` describes: the same integers, the same scales and biases, the same bits.
//! Everything here is inlined into functions that enable the instructions.

use std::mem::MaybeUninit;

use super::Dots;
use super::affine::{Ints, term};
use super::lone::{Stream, Terms};
use super::panel::{BLOCK, Place};
use super::tile::Lanes;

/// Groups of a unit: lanes of a vector, whatever the instruction set.
pub(super) const GROUPS: usize = 16;

/// Groups of a row whose terms are kept until they are added: rows are read from end to end where they have no more.
pub(super) const GROUPS_MAX: usize = 256;

/// Places for a row's terms: no power of two, so that rows do not fall on each other in a cache.
const TERMS: usize = GROUPS_MAX + GROUPS;

/// Weights that units are taken from.
///
/// # Safety
/// All functions: the machine has the instructions; unit `k` of row `row` is inside the weights, and nothing else is read.
pub(super) trait Source {
    /// Sixteen integers.
    type I: Ints;
    /// Weights that share a scale: 16 or 32.
    const GROUP: usize;
    /// Bytes from a unit to the one behind it.
    const BYTES: usize;
    /// Where the unit from weight `k` on begins.
    fn at(&self, row: usize, k: usize) -> *const u8;
    /// Puts the activations of a unit into the order in which `dots` takes them.
    unsafe fn arrange(_x: *mut u8) {}
    /// Says that units of weights `k..k + len` of a row come next.
    unsafe fn begin(&mut self, _row: usize, _k: usize, _len: usize) {}
    /// The dot product of each group of the unit from weight `k` on, with activations at `x`.
    unsafe fn dots(&self, row: usize, k: usize, x: *const u8) -> Self::I;
    /// The scale and the bias of each.
    unsafe fn scales(&self, row: usize, k: usize) -> [<Self::I as Ints>::F; 2];
}

/// All rows, from the first byte of each to its last. The last unit of a row ends with it: where it meets the one before, some
/// groups are computed twice.
///
/// # Safety
/// The machine has the instructions, and the addresses hold what `Dots` says.
#[inline(always)]
pub(super) unsafe fn rows<S: Source>(d: &Dots, mut source: S) {
    let (unit, mut terms, mut k) = (GROUPS * S::GROUP, Terms::<TERMS>::new(), 0);
    let mut x = Activations::new();
    let end = source.at(d.rows - 1, d.k - unit).wrapping_add(S::BYTES);
    // SAFETY: the caller has the instructions.
    let stream = unsafe { Stream::new::<S::I>(source.at(0, 0)..end) };
    while k < d.k {
        let len = part(d.k - k, unit);
        // SAFETY: the caller's promise; the part is a unit at least.
        unsafe {
            x.fill::<S>(d, k, len);
            for row in (0..d.rows).step_by(GROUPS) {
                let rows = GROUPS.min(d.rows - row);
                for lane in 0..rows {
                    source.begin(row + lane, k, len);
                    for i in 0..len.div_ceil(unit) {
                        let first = (i * unit).min(len - unit);
                        stream.ask::<S::I>(source.at(row + lane, k + first), S::BYTES);
                        let dots = source.dots(row + lane, k + first, x.q.as_ptr().cast::<u8>().add(i * unit));
                        let [scale, bias] = source.scales(row + lane, k + first);
                        let g = first / S::GROUP;
                        terms.set(lane, g, term::<S::I>(dots, scale, bias, x.sums(g)));
                    }
                }
                terms.add::<S::I>(d, Place { row, rows, k, len }, x.scales(len / S::GROUP));
            }
        }
        k += len;
    }
}

/// The weights of a row that come next, of so many that are left: none are left behind that are fewer than a unit.
fn part(left: usize, unit: usize) -> usize {
    let most = GROUPS_MAX / GROUPS * unit;
    match left {
        _ if left <= most => left,
        _ if left - most < unit => most - unit,
        _ => most,
    }
}

/// Activations `x[k..k + len]` as they are taken; written before they are read.
#[repr(align(64))]
struct Activations {
    /// Unit by unit, arranged.
    q: MaybeUninit<[u8; GROUPS_MAX * BLOCK]>,
    /// The scale of each group's, and their sum.
    scales: MaybeUninit<[f32; GROUPS_MAX]>,
    sums: MaybeUninit<[f32; GROUPS_MAX]>,
}

impl Activations {
    fn new() -> Self {
        Activations { q: MaybeUninit::uninit(), scales: MaybeUninit::uninit(), sums: MaybeUninit::uninit() }
    }

    #[inline(always)]
    unsafe fn fill<S: Source>(&mut self, d: &Dots, k: usize, len: usize) {
        let unit = GROUPS * S::GROUP;
        // SAFETY: the caller's row is what `round` makes for groups of so many weights; a part has at most `GROUPS_MAX`.
        unsafe {
            for i in 0..len.div_ceil(unit) {
                let from = d.x.add(k + (i * unit).min(len - unit));
                let to = self.q.as_mut_ptr().cast::<u8>().add(i * unit);
                std::ptr::copy_nonoverlapping(from, to, unit);
                S::arrange(to);
            }
            let scales = d.x.add(d.k + 4 * (k / S::GROUP));
            let sums = scales.add(4 * (d.k / S::GROUP));
            self.scales.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(scales, 4 * (len / S::GROUP));
            self.sums.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(sums, 4 * (len / S::GROUP));
        }
    }

    /// The scales of so many groups, which are filled.
    #[inline(always)]
    unsafe fn scales(&self, groups: usize) -> &[f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.scales.as_ptr().cast(), groups) }
    }

    /// The sums of a unit's groups, from group `first` on, which are filled.
    #[inline(always)]
    unsafe fn sums<L: Lanes>(&self, first: usize) -> L {
        // SAFETY: the caller has the instructions; a vector is inside.
        unsafe { L::load_f32(self.sums.as_ptr().cast::<f32>().add(first).cast()) }
    }
}
