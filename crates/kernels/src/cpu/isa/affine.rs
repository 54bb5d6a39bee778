//! Products with affine-quantised weights ([`crate::Format::Affine`]), over vectors whose lanes are weight rows.
//!
//! An output is one chain in the order of the weights, whatever the number of rows, of a term for each part of a group: 16, 32 or 64
//! weights. The integer dot product of a part is exact; it is multiplied with the group's scale, its bias times the sum of the
//! rounded activations enters by one multiply-add, and that term times their scale enters the output by one more. How the dot
//! products come about is free: for one activation row, [`lone`] multiplies each weight row where it lies and adds across lanes,
//! for the weights are read once and unpacking them is most of the work; for more, [`tile`] unpacks as many weight rows as a vector
//! has lanes to a panel, four bytes of a row to a lane, that serves all of them. Where a processor multiplies as many vectors at
//! once as it loads, two panels share each load of an activation. Where there are tiles, [`many`] multiplies panels with sixteen
//! rows at once. Everything here is inlined into functions that enable the instructions: those that [`quantised_kernels_of`] makes.

// A tile is indexed by column of fixed number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::mem::MaybeUninit;

use super::group::{self, SHIFT};
use super::lone::{self, Arranged, PARTS_MAX, Stream, Terms};
use super::many::{self, Tiles};
use super::outputs::{ask_for_outputs, load, store};
use super::panel::{Ahead, BLOCK, K_MAX, LANES_MAX, Panel, Place, Sums};
use super::tile::{Bf16, Element, F16, F32, Lanes, padded};
use super::{AffineDots, Dots, UnpackedDots};
use crate::Format;
use crate::quant::coded::Rows;

/// A vector of 32-bit integers with as many lanes as [`Ints::F`].
///
/// # Safety
/// All functions: the machine has the instructions, and the addresses hold a vector, at any byte.
pub(super) trait Ints: Copy {
    type F: Lanes;
    /// Words that [`Ints::transposed`] takes from each row at most, at least 8 and at most 16.
    const WORDS: usize;
    unsafe fn splat(value: i32) -> Self;
    unsafe fn load(from: *const u8) -> Self;
    unsafe fn store(self, to: *mut u8);
    unsafe fn and(self, other: Self) -> Self;
    unsafe fn or(self, other: Self) -> Self;
    unsafe fn xor(self, other: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn shl(self, bits: u32) -> Self;
    /// Shifts zeros in.
    unsafe fn shr(self, bits: u32) -> Self;
    unsafe fn to_f32(self) -> Self::F;
    /// The same bits.
    unsafe fn as_f32(self) -> Self::F;
    /// The number of binary16 in the lower half of each lane.
    unsafe fn lower_f16(self) -> Self::F;
    /// What a table has at the place that each byte, below 16, says.
    unsafe fn look_up(self, table: &[u8; 16]) -> Self;
    /// The even lanes of both vectors, and the odd ones.
    unsafe fn unzip(self, other: Self) -> (Self, Self);
    /// How many bytes of a lone row's weights are asked for before they are multiplied; 0 where the processor foresees as much
    /// as its memory gives.
    #[inline(always)]
    fn ahead() -> usize {
        0
    }
    /// Asks for the cache line at an address, which need not exist.
    unsafe fn prefetch(at: *const u8);
    /// The first `words` little-endian words at each of the first `N` addresses: vector i holds the i-th of each.
    /// Reads nothing behind them.
    unsafe fn transposed(rows: &[*const u8; LANES_MAX], words: usize) -> [Self; 16];
}

/// How an instruction set multiplies bytes. Activations are no byte of -128.
///
/// # Safety
/// As for [`Ints`].
pub(super) trait Bytes {
    type I: Ints;
    /// What multiplies with many activation rows.
    type Tiles: Tiles;
    /// Whether weights of eight bits are multiplied as q - 128, because the sums of the instruction's products hold no
    /// larger ones. Their biases are then of that.
    const SIGNED: bool;
    /// Whether [`Bytes::row`] knows weights of so many bits; where it does those of eight, [`Bytes::bytes`] and
    /// [`Bytes::halves`] are known too.
    fn knows_rows(_bits: usize) -> bool {
        false
    }
    /// Puts the activations of `N` blocks in the order in which [`Bytes::row`] takes them.
    unsafe fn arrange<const BITS: usize>(_x: *mut u8) {}
    /// Dot products of `N` blocks of a weight row with those at `x`, one to a lane; those of the upper half may be left out if
    /// they are zero.
    unsafe fn row<const BITS: usize, const HALF: bool>(_w: *const u8, _x: *const u8) -> Self::I {
        unreachable!("no rows of {BITS} bits")
    }
    /// The same of weights that lie in a byte each, of `BITS` bits or fewer, and of activations as they are.
    unsafe fn bytes<const BITS: usize>(_w: *const u8, _x: *const u8) -> Self::I {
        unreachable!("no rows of bytes")
    }
    /// The same of each half of a block.
    unsafe fn halves<const BITS: usize>(_w: *const u8, _x: *const u8) -> [Self::I; 2] {
        unreachable!("no rows of bytes")
    }
    /// Computes a product of unpacked weights with one activation row, as [`unpacked`](super::unpacked) does; or says that it cannot.
    unsafe fn units(_d: &UnpackedDots) -> bool {
        false
    }
    /// See [`QuantisedKernels::e4m3`](super::QuantisedKernels::e4m3).
    unsafe fn e4m3(_d: &Dots, _rows: &Rows) -> bool {
        false
    }
    /// The same value, of which the compiler knows no more: see [`rows_of`].
    #[inline(always)]
    fn hidden(value: usize) -> usize {
        value
    }
    /// Dot products of so many words of weights, unpacked at `w`, with those at `x`, so many bytes further for each of `rows`: 8
    /// words are a block.
    unsafe fn words<const BITS: usize, const WORDS: usize, const C: usize>(
        w: *const u8,
        x: *const u8,
        rows: &[usize; C],
    ) -> [Self::I; C];
    /// Whether products of any number of words may be added to another number than zero at no cost: see [`add_terms`].
    const SHIFTED: bool = false;
    /// The same of as many panels as are multiplied at once, added to `sums`.
    #[inline(always)]
    unsafe fn words_of<const BITS: usize, const WORDS: usize, const C: usize, const P: usize>(
        w: &[*const u8; P],
        x: *const u8,
        rows: &[usize; C],
        mut sums: [[Self::I; C]; P],
    ) -> [[Self::I; C]; P] {
        // SAFETY: the caller's promise.
        unsafe {
            for i in 0..P {
                let dots = Self::words::<BITS, WORDS, C>(w[i], x, rows);
                for j in 0..C {
                    sums[i][j] = sums[i][j].add(dots[j]);
                }
            }
        }
        sums
    }
}

/// A part of the weights of `P` panels, and where those activations lie that it is multiplied with, of the first of some rows.
pub(super) struct Part<L, const P: usize> {
    pub w: [*const u8; P],
    /// One block, two, or one of which `WORDS` says that it is a half.
    pub blocks: usize,
    /// The scales and biases of its group.
    pub of: [(L, L); P],
    pub x: *const u8,
    pub x_scale: *const u8,
    pub x_sum: *const u8,
}

/// Adds a part's terms to the outputs of `P` panels and `C` activation rows: `WORDS` words of four weights each in every block.
///
/// Where sums of integers may begin with any number, and all scales have 22 bits at most, `shifted` lets them begin with the bits of
/// [`SHIFT`]: then the bits of a sum are those of SHIFT + sum as f32, for that is the next number with each unit, and adding
/// SHIFT · scale, which is exact, negated, to its product with the scale leaves the same as the product of the sum, rounded
/// once: no instruction has to make an f32 of an integer.
///
/// # Safety
/// As for [`Bytes::words_of`].
#[inline(always)]
pub(super) unsafe fn add_terms<B: Bytes, const BITS: usize, const WORDS: usize, const C: usize, const P: usize>(
    sums: &mut [[<B::I as Ints>::F; C]; P],
    part: &Part<<B::I as Ints>::F, P>,
    rows: &[usize; C],
    shifted: bool,
) {
    debug_assert!(part.blocks == 1 || part.blocks == 2 && WORDS == 8);
    // SAFETY: the caller's promise.
    unsafe {
        let mut dots = [[B::I::splat(if shifted { SHIFT.to_bits().cast_signed() } else { 0 }); C]; P];
        if B::SHIFTED && part.blocks == 2 {
            dots = B::words_of::<BITS, 16, C, P>(&part.w, part.x, rows, dots);
        } else {
            for b in 0..part.blocks {
                let w = part.w.map(|w| w.wrapping_add(b * BLOCK * <B::I as Ints>::F::N));
                dots = B::words_of::<BITS, WORDS, C, P>(&w, part.x.add(b * BLOCK), rows, dots);
            }
        }
        for i in 0..P {
            let (scale, bias) = part.of[i];
            let shift = scale.mul(Lanes::splat(-SHIFT));
            for j in 0..C {
                let (dots, x_sum) = (dots[i][j], number(part.x_sum, rows[j], 0));
                let term = if shifted {
                    shift.fma(dots.as_f32(), scale).fma(bias, x_sum)
                } else {
                    term(dots, scale, bias, x_sum)
                };
                sums[i][j] = sums[i][j].fma(term, number(part.x_scale, rows[j], 0));
            }
        }
    }
}

/// Whether SHIFT times each of these scales is exact: see [`add_terms`].
#[inline(always)]
pub(super) fn have_few_bits(scales: &[f32]) -> bool {
    let mut others = 0;
    for scale in scales {
        let bits = scale.to_bits();
        others |= (bits & 3) | u32::from(bits & !SIGN > LARGEST.to_bits());
    }
    others == 0
}

/// The sign of an f32.
const SIGN: u32 = 1 << 31;

/// Somewhat larger scales times [`SHIFT`] are infinite.
const LARGEST: f32 = 1e31;

/// f32 number `index` behind `bytes` bytes of an activation row, in all lanes.
#[inline(always)]
pub(super) unsafe fn number<L: Lanes>(row: *const u8, bytes: usize, index: usize) -> L {
    // SAFETY: the caller's row holds it.
    unsafe { L::splat(row.add(bytes).cast::<f32>().add(index).read_unaligned()) }
}

/// How far `C` activation rows are from the first. Odd multiples of the stride are values of their own: there are registers for
/// these, and addresses take twice, four and eight times as much of a register. With a register for each row's weights, scales and
/// sums a product of blocks took a quarter longer.
#[inline(always)]
pub(super) fn rows_of<B: Bytes, const C: usize>(stride: usize) -> [usize; C] {
    let mut rows = [0; C];
    for j in 1..C {
        rows[j] = if j.is_multiple_of(2) { 2 * rows[j / 2] } else { B::hidden(j * stride) };
    }
    rows
}

/// `P` panels times `C` activation rows of int8.
#[inline(always)]
unsafe fn rounded_tile<B: Bytes, const BITS: usize, const C: usize, const P: usize>(
    d: &AffineDots,
    panels: &mut [Panel; P],
    at: Place,
    c: usize,
    ahead: &mut Ahead,
) {
    let (k, lanes, weights) = (d.dots.k, <B::I as Ints>::F::N, group::part_of(d.group));
    let rows = rows_of::<B, C>(d.dots.x_stride);
    let shifted = panels.iter().all(|panel| panel.shifted);
    // SAFETY: columns c..c + C are inside `d`; an activation row holds what `round` writes, a panel what is unpacked.
    unsafe {
        ask_for_outputs::<C>(&d.dots, at, c);
        let x = d.dots.x.add(c * d.dots.x_stride);
        let mut sums = [[<B::I as Ints>::F::zero(); C]; P];
        for i in 0..P {
            sums[i] = load(panels[i].sums.at(), at, c);
        }
        for first in (0..at.len).step_by(weights) {
            ahead.ask::<B::I>(1);
            let (mut w, mut of) = ([std::ptr::null(); P], [(Lanes::zero(), Lanes::zero()); P]);
            for i in 0..P {
                w[i] = panels[i].q.as_ptr().cast::<u8>().add(first * lanes);
                of[i] = (panels[i].scale(first / d.group), panels[i].bias(first / d.group));
            }
            let x_scale = x.add(k + 4 * ((at.k + first) / weights));
            let x_sum = x_scale.add(4 * (k / weights));
            let part = Part { w, blocks: weights / BLOCK, of, x: x.add(at.k + first), x_scale, x_sum };
            add_terms::<B, BITS, 8, C, P>(&mut sums, &part, &rows, shifted);
        }
        for i in 0..P {
            store(&d.dots, panels[i].sums.at(), at.part(i, lanes).0, c, sums[i]);
        }
    }
}

/// A panel times `C` activation rows of f32: each group in two sums, of its even places and of its odd ones.
#[inline(always)]
unsafe fn precise_tile<I: Ints, const C: usize>(d: &AffineDots, p: &mut Panel, at: Place, c: usize) {
    let lanes = I::F::N;
    // SAFETY: as for `rounded_tile`, with rows that `sum` writes.
    unsafe {
        let x = d.dots.x.add(c * d.dots.x_stride);
        let earlier = p.sums.at();
        let mut sums = load::<I::F, C>(earlier, at, c);
        for g in 0..at.len / d.group {
            let mut parts = [[I::F::zero(); C]; 2];
            for word in g * d.group / 4..(g + 1) * d.group / 4 {
                let four = I::load(p.q.as_ptr().cast::<u8>().add(word * 4 * lanes));
                for byte in 0..4 {
                    let w = four.shr(8 * byte as u32).and(I::splat(0xff)).to_f32();
                    for j in 0..C {
                        let x = number(x.add(j * d.dots.x_stride), 0, at.k + 4 * word + byte);
                        parts[byte % 2][j] = parts[byte % 2][j].fma(w, x);
                    }
                }
            }
            let (scale, bias) = (p.scale(g), p.bias(g));
            for j in 0..C {
                let x_sum = number(x.add(j * d.dots.x_stride), 4 * d.dots.k, at.k / d.group + g);
                sums[j] = sums[j].fma(parts[0][j], scale).fma(parts[1][j], scale).fma(bias, x_sum);
            }
        }
        store(&d.dots, earlier, at, c, sums);
    }
}

/// Bytes of activations that pass over a panel: they stay in a second-level cache while all panels of a task do.
const X_BYTES_MAX: usize = 384 << 10;

/// Columns that pass over a panel, of which `at_once` are multiplied at once: about as many each time.
pub(super) fn columns_at_once(d: &Dots, at_once: usize) -> usize {
    let most = (X_BYTES_MAX / d.x_stride).next_multiple_of(at_once).max(4 * at_once);
    let most = most.min(Sums::COLUMNS / at_once * at_once);
    d.columns.div_ceil(d.columns.div_ceil(most).max(1)).next_multiple_of(at_once).max(at_once)
}

/// All outputs, `P` panels at once: by `C` activation rows, then four, two, one.
///
/// # Safety
/// The machine has the instructions, and the addresses hold what `AffineDots` says.
#[inline(always)]
pub(super) unsafe fn dots<B: Bytes, const C: usize, const P: usize, const PRECISE: bool>(d: &AffineDots) {
    if d.dots.columns == 1 && !PRECISE && B::knows_rows(d.bits) {
        // SAFETY: the caller's promise.
        return unsafe { lone_of::<B>(d) };
    }
    let tiled = !PRECISE && many::serves::<B>(d.dots.columns, d.group);
    let at_once = if tiled { many::ROWS } else { C };
    let columns_max = columns_at_once(&d.dots, at_once);
    let mut room = MaybeUninit::uninit();
    let panels = Panel::zeroed(&mut room);
    if tiled {
        // SAFETY: the machine has tiles.
        unsafe { many::begin::<B>(group::part_of(d.group)) };
    }
    for first in (0..d.dots.columns).step_by(columns_max) {
        let x = d.dots.x.wrapping_add(first * d.dots.x_stride);
        let out = d.dots.out.wrapping_add(first * d.dots.out_stride);
        let columns = columns_max.min(d.dots.columns - first);
        let d = &AffineDots { dots: Dots { x, columns, out, ..d.dots }, ..*d };
        // SAFETY: these columns are inside the caller's.
        unsafe { all_rows::<B, C, P, PRECISE>(d, panels, tiled) };
    }
    if tiled {
        // SAFETY: as above.
        unsafe { B::Tiles::release() };
    }
}

#[inline(always)]
unsafe fn all_rows<B: Bytes, const C: usize, const P: usize, const PRECISE: bool>(
    d: &AffineDots,
    panels: &mut [Panel; P],
    tiled: bool,
) {
    let lanes = <B::I as Ints>::F::N;
    let (rows_at_once, k_at_once) = (P * lanes, K_MAX / P);
    for row in (0..d.dots.rows).step_by(rows_at_once) {
        for k in (0..d.dots.k).step_by(k_at_once) {
            let at = Place { row, rows: rows_at_once.min(d.dots.rows - row), k, len: k_at_once.min(d.dots.k - k) };
            // SAFETY: the place is inside `d`, and so are the columns of each tile.
            unsafe {
                for i in 0..P {
                    panels[i].fill::<B, PRECISE>(d, at.part(i, lanes).1);
                }
                // What this part of the next panels would be, were their rows one piece.
                let bytes = rows_at_once * at.len * d.bits / 8;
                let next =
                    d.dots.w.wrapping_add((row + rows_at_once) * d.dots.w_stride + rows_at_once * k * d.bits / 8);
                let tiles = d.dots.columns.div_ceil(if tiled { many::ROWS } else { C });
                let parts = at.len / group::part_of(d.group);
                let mut ahead = Ahead::new(next, bytes, tiles * parts);
                let mut c = 0;
                while tiled && c + many::ROWS <= d.dots.columns {
                    ahead.ask::<B::I>(parts);
                    many::tile::<B, P>(&d.dots, panels.each_mut().map(Panel::unpacked), at, c, d.group);
                    c += many::ROWS;
                }
                while c + C <= d.dots.columns {
                    tile::<B, C, P, PRECISE>(d, panels, at, c, &mut ahead);
                    c += C;
                }
                while C > 4 && c + 4 <= d.dots.columns {
                    tile::<B, 4, P, PRECISE>(d, panels, at, c, &mut ahead);
                    c += 4;
                }
                while C > 2 && c + 2 <= d.dots.columns {
                    tile::<B, 2, P, PRECISE>(d, panels, at, c, &mut ahead);
                    c += 2;
                }
                while c < d.dots.columns {
                    tile::<B, 1, P, PRECISE>(d, panels, at, c, &mut ahead);
                    c += 1;
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn tile<B: Bytes, const C: usize, const P: usize, const PRECISE: bool>(
    d: &AffineDots,
    panels: &mut [Panel; P],
    at: Place,
    c: usize,
    ahead: &mut Ahead,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match d.bits {
            _ if PRECISE => {
                ahead.ask::<B::I>(at.len / group::part_of(d.group));
                for i in 0..P {
                    precise_tile::<B::I, C>(d, &mut panels[i], at.part(i, <B::I as Ints>::F::N).0, c);
                }
            }
            2 => rounded_tile::<B, 2, C, P>(d, panels, at, c, ahead),
            3 => rounded_tile::<B, 3, C, P>(d, panels, at, c, ahead),
            4 => rounded_tile::<B, 4, C, P>(d, panels, at, c, ahead),
            5 => rounded_tile::<B, 5, C, P>(d, panels, at, c, ahead),
            6 => rounded_tile::<B, 6, C, P>(d, panels, at, c, ahead),
            _ => rounded_tile::<B, 8, C, P>(d, panels, at, c, ahead),
        }
    }
}

#[inline(always)]
unsafe fn lone_of<B: Bytes>(d: &AffineDots) {
    // SAFETY: the caller's promise.
    unsafe {
        match d.bits {
            2 => lone_in::<B, 2>(d),
            3 => lone_in::<B, 3>(d),
            4 => lone_in::<B, 4>(d),
            5 => lone_in::<B, 5>(d),
            6 => lone_in::<B, 6>(d),
            _ => lone_in::<B, 8>(d),
        }
    }
}

#[inline(always)]
unsafe fn lone_in<B: Bytes, const BITS: usize>(d: &AffineDots) {
    // SAFETY: the caller's promise.
    unsafe {
        match d.group {
            32 => lone::<B, BITS, 1, 1>(d),
            64 => lone::<B, BITS, 2, 1>(d),
            _ => lone::<B, BITS, 2, 2>(d),
        }
    }
}

/// Bytes of scales that are asked for before a lone row's weights: those of sixteen rows of 4096 weights.
const SCALES_FIRST: usize = 2048;

/// All rows times the only activation row, with `PER` blocks to a part and `PARTS` of these to a group.
#[inline(always)]
unsafe fn lone<B: Bytes, const BITS: usize, const PER: usize, const PARTS: usize>(d: &AffineDots) {
    debug_assert_eq!([PER * BLOCK, PER * PARTS * BLOCK], [group::part_of(d.group), d.group]);
    let (lanes, w) = (<B::I as Ints>::F::N, &d.dots);
    let end = w.w.wrapping_add(w.rows * w.w_stride);
    // SAFETY: the caller has the instructions.
    let stream = unsafe {
        let first_rows = lanes.min(w.rows) * (w.k / d.group) * d.scale_format.row_bytes(1);
        d.scales.iter().for_each(|scales| lone::ask::<B::I>(*scales, first_rows.min(SCALES_FIRST)));
        Stream::new::<B::I>(w.w..end)
    };
    let mut terms = Terms::<PARTS_MAX>::new();
    for k in (0..w.k).step_by(lone::K_MAX) {
        let len = lone::K_MAX.min(w.k - k);
        // SAFETY: the activation row has as many; rows, blocks and places below are inside `d`.
        unsafe {
            let x = Arranged::new::<B, BITS>(w, PER * BLOCK, k, len);
            for row in (0..w.rows).step_by(lanes) {
                let rows = lanes.min(w.rows - row);
                for lane in 0..rows {
                    let at = w.w.add((row + lane) * w.w_stride + k * BITS / 8);
                    // Far apart as they are, processors do not foresee scales and biases.
                    let ahead = ((row + lane + lanes) * (w.k / d.group) + k / d.group) * d.scale_format.row_bytes(1);
                    let bytes = len / d.group * d.scale_format.row_bytes(1);
                    let bytes = if row + lane + lanes < w.rows { bytes } else { 0 };
                    d.scales.iter().for_each(|scales| lone::ask::<B::I>(scales.wrapping_add(ahead), bytes));
                    let (blocks, unit) = (len / BLOCK, PER * lanes);
                    let index = (row + lane) * (w.k / d.group) + k / d.group;
                    let whole = blocks / unit * unit;
                    for first in (0..whole).step_by(unit) {
                        let part = first / PER;
                        let of = match PARTS {
                            1 => whole_scales_and_biases(d, index + part),
                            // A part of a vector is left over.
                            _ => each::<_, PARTS>(scales_and_biases(d, index + part / PARTS)),
                        };
                        let dots = lone_part::<B, BITS, PER, true>(at, end, &x, first, blocks, &stream);
                        terms.set(lane, part, lone_term::<B, BITS>(dots, of, x.sums(part)));
                    }
                    if whole < blocks {
                        let part = whole / PER;
                        let of = each::<_, PARTS>(scales_and_biases(d, index + part / PARTS));
                        let dots = lone_part::<B, BITS, PER, false>(at, end, &x, whole, blocks, &stream);
                        terms.set(lane, part, lone_term::<B, BITS>(dots, of, x.sums(part)));
                    }
                }
                terms.add::<B::I>(w, Place { row, rows, k, len }, x.scales(len / (PER * BLOCK)));
            }
        }
    }
}

/// Groups' numbers for each of their parts, one or two.
#[inline(always)]
unsafe fn each<L: Lanes, const PARTS: usize>(of: [L; 2]) -> [L; 2] {
    const { assert!(matches!(PARTS, 1 | 2)) };
    // SAFETY: the caller has the instructions.
    unsafe { if PARTS == 1 { of } else { [of[0].twice(), of[1].twice()] } }
}

/// What parts add to their outputs, before the scales of their activations.
#[inline(always)]
unsafe fn lone_term<B: Bytes, const BITS: usize>(
    dots: B::I,
    [scale, mut bias]: [<B::I as Ints>::F; 2],
    x_sum: <B::I as Ints>::F,
) -> <B::I as Ints>::F {
    // SAFETY: the caller has the instructions.
    unsafe {
        if B::SIGNED && BITS == 8 {
            bias = bias.fma(scale, Lanes::splat(128.0));
        }
        term(dots, scale, bias, x_sum)
    }
}

/// What a part adds to its output, before the scale of its activations: its dot product times the scale of the weights, and their
/// bias times the activations' sum. A product of zero is 0, not -0, as where sums are shifted.
#[inline(always)]
pub(super) unsafe fn term<I: Ints>(dots: I, scale: I::F, bias: I::F, x_sum: I::F) -> I::F {
    // SAFETY: the caller has the instructions.
    unsafe { I::F::zero().fma(dots.to_f32(), scale).fma(bias, x_sum) }
}

/// The dot products of `N` parts from block `first` of `blocks` on: all of them inside the row, if `WHOLE`.
#[inline(always)]
unsafe fn lone_part<B: Bytes, const BITS: usize, const PER: usize, const WHOLE: bool>(
    w: *const u8,
    end: *const u8,
    x: &Arranged,
    first: usize,
    blocks: usize,
    stream: &Stream,
) -> B::I {
    let lanes = <B::I as Ints>::F::N;
    // SAFETY: the caller's promise; the blocks are inside the row.
    unsafe {
        let mut dots = [B::I::splat(0); 2];
        for i in 0..PER {
            let bytes = lanes * BLOCK * BITS / 8;
            stream.ask::<B::I>(w.wrapping_add(first * BLOCK * BITS / 8 + i * bytes), bytes);
            if WHOLE {
                let at = first + i * lanes;
                dots[i] = B::row::<BITS, false>(w.add(at * BLOCK * BITS / 8), x.blocks(at));
            } else if first + i * lanes < blocks {
                dots[i] = lone::unit::<B, BITS>(w, end, x, first + i * lanes, blocks);
            }
        }
        if PER == 1 {
            return dots[0];
        }
        let (even, odd) = dots[0].unzip(dots[1]);
        even.add(odd)
    }
}

/// `N` scales and as many biases from number `index` on, all inside the tensors.
#[inline(always)]
unsafe fn whole_scales_and_biases<L: Lanes>(d: &AffineDots, index: usize) -> [L; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        match d.scale_format {
            Format::F32 => [F32::load(d.scales[0].add(4 * index)), F32::load(d.scales[1].add(4 * index))],
            Format::F16 => [F16::load(d.scales[0].add(2 * index)), F16::load(d.scales[1].add(2 * index))],
            _ => [Bf16::load(d.scales[0].add(2 * index)), Bf16::load(d.scales[1].add(2 * index))],
        }
    }
}

/// `N` scales and as many biases from number `index` on, with zeros behind the tensors' last.
#[inline(always)]
unsafe fn scales_and_biases<L: Lanes>(d: &AffineDots, index: usize) -> [L; 2] {
    // SAFETY: the caller's number is one of the tensors'.
    unsafe {
        match d.scale_format {
            Format::F32 => [some::<L, F32>(d, d.scales[0], index), some::<L, F32>(d, d.scales[1], index)],
            Format::F16 => [some::<L, F16>(d, d.scales[0], index), some::<L, F16>(d, d.scales[1], index)],
            _ => [some::<L, Bf16>(d, d.scales[0], index), some::<L, Bf16>(d, d.scales[1], index)],
        }
    }
}

#[inline(always)]
unsafe fn some<L: Lanes, E: Element>(d: &AffineDots, from: *const u8, index: usize) -> L {
    let rest = d.dots.rows * (d.dots.k / d.group) - index;
    // SAFETY: the caller's promise; where there is no whole vector it is copied.
    unsafe {
        let from = from.add(index * E::BYTES);
        if rest >= L::N { E::load(from) } else { E::load(padded(from, rest * E::BYTES).as_ptr()) }
    }
}

/// The products of one instruction set with activations of int8: `rounded`, `unpacked` and `rows` of [`QuantisedKernels`](super::QuantisedKernels).
macro_rules! rounded_kernels_of {
    ($bytes:ty, $rounded:literal by $panels:literal $(, $features:literal)?) => {{
        use $crate::cpu::isa::{AffineDots, UnpackedDots, affine, panel, strips, tile, unpacked};

        $(#[target_feature(enable = $features)])?
        unsafe fn rounded(d: &AffineDots) {
            // SAFETY: the caller's promise, here and below.
            unsafe { affine::dots::<$bytes, $rounded, $panels, false>(d) }
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn unpacked(d: &UnpackedDots) {
            // SAFETY: as above.
            unsafe { unpacked::dots::<$bytes, $rounded, $panels>(d, &unpacked::Fill { rows, strip }) }
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn rows(d: &UnpackedDots, at: panel::Place, to: unpacked::To, panel: &mut unpacked::Panel) {
            // SAFETY: as above.
            unsafe { unpacked::fill(d, at, to, panel) }
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn strip(d: &UnpackedDots, at: panel::Place, base: u8, panel: &mut unpacked::Panel) -> bool {
            // SAFETY: as above.
            unsafe { strips::fill::<<$bytes as affine::Bytes>::I>(d, at, base, panel) }
        }
        let rows = $panels * <<<$bytes as affine::Bytes>::I as affine::Ints>::F as tile::Lanes>::N;
        (rounded as unsafe fn(&AffineDots), unpacked as unsafe fn(&UnpackedDots), rows)
    }};
}
pub(super) use rounded_kernels_of;

/// Makes the products of one instruction set with quantised weights: `$bytes` multiplies, so many
/// activation rows at once, rounded by so many panels or precise by one, in functions that enable the instructions given.
macro_rules! quantised_kernels_of {
    ($bytes:ty, rounded: $rounded:literal by $panels:literal, precise: $precise:literal $(, $features:literal)?) => {{
        use $crate::cpu::isa::affine::rounded_kernels_of;
        use $crate::cpu::isa::{AffineDots, Dots, QuantisedKernels, affine, group};
        use $crate::quant::coded;

        let (rounded, unpacked, rows) = rounded_kernels_of!($bytes, $rounded by $panels $(, $features)?);
        $(#[target_feature(enable = $features)])?
        unsafe fn precise(d: &AffineDots) {
            // SAFETY: as above.
            unsafe { affine::dots::<$bytes, $precise, 1, true>(d) }
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn e4m3(d: &Dots, rows: &coded::Rows) -> bool {
            // SAFETY: as above.
            unsafe { <$bytes as affine::Bytes>::e4m3(d, rows) }
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn widen_e4m3(bytes: &[u8], scale: f32, values: &mut [f32]) {
            coded::widen_e4m3(bytes, scale, values);
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn round(x: &[f32], bits: usize, part: usize, to: *mut u8) {
            // SAFETY: as above.
            unsafe { group::round::<<<$bytes as affine::Bytes>::I as affine::Ints>::F>(x, bits, part, to) }
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn sum(x: &[f32], bits: usize, group: usize, to: *mut u8) {
            // SAFETY: as above.
            unsafe { group::sum(x, bits, group, to) }
        }
        QuantisedKernels { rounded, precise, unpacked, e4m3, widen_e4m3, round, sum, rows }
    }};
}
pub(super) use quantised_kernels_of;

#[cfg(test)]
mod tests {
    use super::have_few_bits;

    #[test]
    fn few_bits_are_22_and_not_too_large() {
        let numbers = |last: u32| f32::from_bits(1.5f32.to_bits() | last);
        assert!(
            have_few_bits(&[])
                && have_few_bits(&[0.0, -0.0, numbers(4), -numbers(4), f32::from_bits(8), 2f32.powi(102)])
        );
        for bad in
            [numbers(1), -numbers(2), f32::from_bits(1), 1.1e31, -2e38, f32::INFINITY, f32::NEG_INFINITY, f32::NAN]
        {
            assert!(!have_few_bits(&[1.0, bad, 0.5]), "{bad:e}");
        }
    }
}
