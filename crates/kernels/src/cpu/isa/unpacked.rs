//! Products with ggml's blocks ([`crate::Format::Ggml`]) and codes of whole numbers ([`crate::Format::Coded`]), over vectors
//! whose lanes are weight rows.
//!
//! The weights of as many rows as a vector has lanes are unpacked to bytes, with a scale and a bias for each group of 16 or 32:
//! the one step that knows how they are stored, side by side ([`strips`](super::strips)) or row by row. The rest is as for affine-quantised weights of eight bits (`affine`): an output is one
//! chain in the order of the groups, whether the bytes are multiplied where they lie ([`lone`]) or transposed ([`tile`], and with tiles [`many`]).

// A tile is indexed by column of fixed number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::mem::MaybeUninit;
use std::ops::Range;

use super::affine::{Bytes, Ints, Part, add_terms, columns_at_once, have_few_bits, rows_of, term};
use super::lone::{Arranged, PARTS_MAX, Terms};
use super::many::{self, Tiles, Unpacked};
use super::outputs::{ask_for_outputs, load, store};
use super::panel::{Ahead, BLOCK, LANES_MAX, Place, Sums, unpack_rows};
use super::tile::Lanes;
use super::{Dots, Packed, UnpackedDots, strips};
use crate::quant::coded::Rows;
use crate::quant::ggml::{Block, SCALES_MAX, of_type};

/// Weights of each row that are unpacked at once, a multiple of every block and strip: with their transposed copy, the rows of a
/// panel stay in the first-level cache.
pub(super) const K_MAX: usize = 512;

/// Groups of a row in a panel: those of a lone activation row's are the most.
const GROUPS_MAX: usize = 64;

/// Activation rows that are multiplied one by one where there are [`Bytes::units`]: as long as that takes less time than unpacking
/// the weights for all of them, side by side or row by row.
const UNIT_COLUMNS: [usize; 2] = [3, 8];

/// Some rows' weights `k..k + len`, unpacked.
#[repr(align(64))]
pub(super) struct Panel {
    /// `[len / group, N]`, or, with a lone activation row, `[N, GROUPS_MAX]`
    scales: [f32; GROUPS_MAX * LANES_MAX],
    biases: [f32; GROUPS_MAX * LANES_MAX],
    /// `[N, K_MAX]`, or, with a lone activation row, a row or all of so many bytes together.
    rows: [u8; K_MAX * LANES_MAX],
    /// `[len / 4, N, 4]`; written before it is read, and not at all for a lone activation row.
    q: MaybeUninit<[u8; K_MAX * LANES_MAX]>,
    sums: Sums,
    /// See [`add_terms`].
    shifted: bool,
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
                (&raw mut (*panel).rows).write_bytes(0, 1);
                (&raw mut (*panel).shifted).write(false);
            }
            room.assume_init_mut()
        }
    }

    fn unpacked(&mut self) -> Unpacked {
        let (scales, biases) = (self.scales.as_ptr(), self.biases.as_ptr());
        Unpacked { q: self.q.as_ptr().cast(), scales, biases, sums: self.sums.at() }
    }

    /// A row that was unpacked row by row.
    #[cfg(test)]
    pub(super) fn row(&self, row: usize) -> &[u8] {
        &self.rows[row * K_MAX..][..K_MAX]
    }

    /// Where weights are unpacked to.
    pub(super) fn q(&mut self) -> *mut u8 {
        self.q.as_mut_ptr().cast()
    }

    pub(super) fn scales_and_biases(&mut self) -> [&mut [f32]; 2] {
        [&mut self.scales, &mut self.biases]
    }

    /// Sets those of a group of all rows.
    #[inline(always)]
    pub(super) unsafe fn set<L: Lanes>(&mut self, group: usize, scale: L, bias: L) {
        debug_assert!((group + 1) * L::N <= self.scales.len());
        // SAFETY: the caller has the instructions, and its group is one of a panel's.
        unsafe {
            scale.store_f32(self.scales.as_mut_ptr().add(group * L::N).cast());
            bias.store_f32(self.biases.as_mut_ptr().add(group * L::N).cast());
        }
    }

    /// Scales and biases from number `at` on.
    #[inline(always)]
    unsafe fn at<L: Lanes>(&self, at: usize) -> (L, L) {
        let (scales, biases) = (&self.scales[at..at + L::N], &self.biases[at..at + L::N]);
        // SAFETY: the caller has the instructions; both are whole vectors.
        unsafe { (L::load_f32(scales.as_ptr().cast()), L::load_f32(biases.as_ptr().cast())) }
    }

    /// Unpacks a place for tiles.
    #[inline(always)]
    unsafe fn fill<B: Bytes, const BITS: usize>(&mut self, g: &UnpackedDots, fill: &Fill, at: Place) {
        let (lanes, base) = (<B::I as Ints>::F::N, base::<B, BITS>());
        // SAFETY: the caller's place is inside what `UnpackedDots` says.
        unsafe {
            if !(fill.strip)(g, at, base, self) {
                (fill.rows)(g, at, To::side_by_side(lanes, base), self);
                let unpacked = Dots { w: self.rows.as_ptr(), w_stride: K_MAX, ..g.dots };
                let within = Place { row: 0, rows: lanes, k: 0, len: at.len };
                unpack_rows::<B::I, 8>(&unpacked, within, self.q());
            }
        }
        self.shifted = B::SHIFTED && have_few_bits(&self.scales[..at.len / g.weights.group() * lanes]);
    }

    /// Unpacks a place of codes.
    #[inline(always)]
    fn fill_coded(&mut self, w: &Rows, group: usize, at: Place, to: To) {
        w.unpack_all(at.row, at.rows, at.k, at.len, &mut self.rows, to.stride);
        for row in 0..at.rows {
            if to.scales[1] == 1 {
                let range = to.at(row, 0)..to.at(row, at.len / group);
                let (scales, biases) = (&mut self.scales[range.clone()], &mut self.biases[range]);
                w.scales_and_biases(at.row + row, at.k, group, to.base, scales, biases);
                continue;
            }
            w.blocks(at.row + row, at.k, at.len, |range, scale, zero| {
                let bias = scale * f32::from(i16::from(to.base) - zero);
                for g in range.start / group..range.end.div_ceil(group) {
                    (self.scales[to.at(row, g)], self.biases[to.at(row, g)]) = (scale, bias);
                }
            });
        }
    }

    /// Unpacks a place of blocks.
    #[inline(always)]
    unsafe fn fill_blocks<T: Block>(&mut self, d: &Dots, at: Place, to: To) {
        let groups = T::WEIGHTS / T::GROUP;
        let row_bytes = at.len / T::WEIGHTS * T::BYTES;
        for row in 0..at.rows {
            let w = d.w.wrapping_add((at.row + row) * d.w_stride + at.k / T::WEIGHTS * T::BYTES);
            // SAFETY: the place is inside `d`.
            let blocks = unsafe { std::slice::from_raw_parts(w, row_bytes) }.chunks_exact(T::BYTES);
            let rows = self.rows[row * to.stride..][..at.len].chunks_exact_mut(T::WEIGHTS);
            for (b, (block, u)) in blocks.zip(rows).enumerate() {
                let (mut scales, mut mins) = ([0.0; SCALES_MAX], [0.0; SCALES_MAX]);
                T::unpack(block, u, &mut scales[..groups], &mut mins[..groups]);
                // Biases, in the place of mins.
                for group in 0..groups {
                    let of_base = scales[group] * f32::from(i16::from(to.base) - i16::from(T::OFFSET));
                    mins[group] = if T::MINS { of_base - mins[group] } else { of_base };
                }
                let at = to.at(row, b * groups);
                if to.scales[1] == 1 {
                    self.scales[at..][..groups].copy_from_slice(&scales[..groups]);
                    self.biases[at..][..groups].copy_from_slice(&mins[..groups]);
                    continue;
                }
                for group in 0..groups {
                    let at = at + group * to.scales[1];
                    (self.scales[at], self.biases[at]) = (scales[group], mins[group]);
                }
            }
        }
    }
}

/// Where in a panel a place is unpacked to.
#[derive(Clone, Copy)]
pub(super) struct To {
    /// Bytes from one row to the next.
    stride: usize,
    /// The place's first group.
    group: usize,
    /// Scales from one row to the next, and from one group to the next.
    scales: [usize; 2],
    /// What is taken from u before it is multiplied: biases are those of `u - base`.
    base: u8,
}

impl To {
    /// For tiles of so many rows.
    pub(super) fn side_by_side(lanes: usize, base: u8) -> To {
        To { stride: K_MAX, group: 0, scales: [1, lanes], base }
    }

    /// Where the scale of a group of the place lies.
    #[inline(always)]
    fn at(&self, row: usize, group: usize) -> usize {
        row * self.scales[0] + (self.group + group) * self.scales[1]
    }
}

/// What unpacks a place, compiled once and not for each width of a product. Lanes beyond its rows hold whatever is there: their
/// results are not stored.
pub(super) struct Fill {
    /// Row by row: see [`fill`].
    pub rows: unsafe fn(&UnpackedDots, Place, To, &mut Panel),
    /// Side by side, where that is known: see [`strips::fill`].
    pub strip: unsafe fn(&UnpackedDots, Place, u8, &mut Panel) -> bool,
}

/// Unpacks a place row by row.
///
/// # Safety
/// The machine has the instructions; the place is inside what `UnpackedDots` says.
#[inline(always)]
pub(super) unsafe fn fill(d: &UnpackedDots, at: Place, to: To, panel: &mut Panel) {
    #[inline(always)]
    unsafe fn blocks<T: Block>(panel: &mut Panel, d: &Dots, at: Place, to: To) {
        // SAFETY: the caller's promise.
        unsafe { panel.fill_blocks::<T>(d, at, to) }
    }
    match &d.weights {
        // SAFETY: the caller's promise.
        Packed::Ggml(format) => unsafe { of_type!(*format => blocks [] (panel, &d.dots, at, to)) },
        Packed::Coded(rows, group) => panel.fill_coded(rows, *group, at, to),
    }
}

/// All outputs, `P` panels at once: by `C` activation rows, then four, two, one.
///
/// # Safety
/// The machine has the instructions, and the addresses hold what `UnpackedDots` says.
#[inline(always)]
pub(super) unsafe fn dots<B: Bytes, const C: usize, const P: usize>(d: &UnpackedDots, fill: &Fill) {
    // SAFETY: the caller's promise.
    unsafe {
        let most = match &d.weights {
            weights if weights.is_transposed() => 1,
            weights => UNIT_COLUMNS[usize::from(!strips::are_known(weights))],
        };
        if d.dots.columns <= most {
            // Either all of these parts are known or none.
            let mut known = true;
            for (rows, column) in d.dots.one_by_one() {
                known = known && B::units(&d.part(&rows, column));
            }
            if known {
                return;
            }
        }
        match (d.weights.bits(), d.weights.group()) {
            (4, 16) => columns::<B, C, P, 4, 4>(d, fill),
            (4, _) => columns::<B, C, P, 4, 8>(d, fill),
            (5, _) => columns::<B, C, P, 5, 8>(d, fill),
            (6, _) => columns::<B, C, P, 6, 4>(d, fill),
            (_, 16) => columns::<B, C, P, 8, 4>(d, fill),
            _ => columns::<B, C, P, 8, 8>(d, fill),
        }
    }
}

/// The same of types whose u has so many bits, and whose groups are so many words of four.
#[inline(always)]
unsafe fn columns<B: Bytes, const C: usize, const P: usize, const BITS: usize, const WORDS: usize>(
    d: &UnpackedDots,
    fill: &Fill,
) {
    let tiled = many::serves::<B>(d.dots.columns, 4 * WORDS);
    let at_once = if tiled { many::ROWS } else { C };
    let columns_max = columns_at_once(&d.dots, at_once);
    if d.dots.columns == 1 && B::knows_rows(8) {
        let mut room = MaybeUninit::uninit();
        let [panel] = Panel::zeroed(&mut room);
        // SAFETY: the caller's promise.
        return unsafe { lone::<B, BITS, WORDS>(d, fill, panel) };
    }
    let mut room = MaybeUninit::uninit();
    let panels = Panel::zeroed(&mut room);
    if tiled {
        // SAFETY: the machine has tiles.
        unsafe { many::begin::<B>(4 * WORDS) };
    }
    for first in (0..d.dots.columns).step_by(columns_max) {
        let x = d.dots.x.wrapping_add(first * d.dots.x_stride);
        let out = d.dots.out.wrapping_add(first * d.dots.out_stride);
        let columns = columns_max.min(d.dots.columns - first);
        let d = &UnpackedDots { dots: Dots { x, columns, out, ..d.dots }, ..*d };
        // SAFETY: these columns are inside the caller's.
        unsafe { all_rows::<B, C, P, BITS, WORDS>(d, fill, panels, tiled) };
    }
    if tiled {
        // SAFETY: as above.
        unsafe { B::Tiles::release() };
    }
}

#[inline(always)]
unsafe fn all_rows<B: Bytes, const C: usize, const P: usize, const BITS: usize, const WORDS: usize>(
    g: &UnpackedDots,
    fill: &Fill,
    panels: &mut [Panel; P],
    tiled: bool,
) {
    let (d, lanes) = (&g.dots, <B::I as Ints>::F::N);
    let (first, row_bytes) = g.weights.rows_at(d);
    let rows_at_once = P * lanes;
    for row in (0..d.rows).step_by(rows_at_once) {
        for k in (0..d.k).step_by(K_MAX) {
            let at = Place { row, rows: rows_at_once.min(d.rows - row), k, len: K_MAX.min(d.k - k) };
            // SAFETY: the place is inside `d`, and so are the columns of each tile.
            unsafe {
                for i in 0..P {
                    panels[i].fill::<B, BITS>(g, fill, at.part(i, lanes).1);
                }
                // What this part of the next panels would be, were their rows one piece.
                let next = first.wrapping_add((row + rows_at_once) * row_bytes + rows_at_once * row_bytes * k / d.k);
                let (groups, tiles) = (at.len / (4 * WORDS), d.columns.div_ceil(if tiled { many::ROWS } else { C }));
                let mut ahead = Ahead::new(next, rows_at_once * row_bytes * at.len / d.k, tiles * groups);
                let mut c = 0;
                while tiled && c + many::ROWS <= d.columns {
                    ahead.ask::<B::I>(groups);
                    many::tile::<B, P>(d, panels.each_mut().map(Panel::unpacked), at, c, 4 * WORDS);
                    c += many::ROWS;
                }
                while c + C <= d.columns {
                    tile::<B, BITS, WORDS, C, P>(d, panels, at, c, &mut ahead);
                    c += C;
                }
                while C > 4 && c + 4 <= d.columns {
                    tile::<B, BITS, WORDS, 4, P>(d, panels, at, c, &mut ahead);
                    c += 4;
                }
                while C > 2 && c + 2 <= d.columns {
                    tile::<B, BITS, WORDS, 2, P>(d, panels, at, c, &mut ahead);
                    c += 2;
                }
                while c < d.columns {
                    tile::<B, BITS, WORDS, 1, P>(d, panels, at, c, &mut ahead);
                    c += 1;
                }
            }
        }
    }
}

/// See [`To::base`].
#[inline(always)]
fn base<B: Bytes, const BITS: usize>() -> u8 {
    if B::SIGNED && BITS == 8 { 128 } else { 0 }
}

/// `P` panels times `C` activation rows.
#[inline(always)]
unsafe fn tile<B: Bytes, const BITS: usize, const WORDS: usize, const C: usize, const P: usize>(
    d: &Dots,
    panels: &mut [Panel; P],
    at: Place,
    c: usize,
    ahead: &mut Ahead,
) {
    let (k, lanes, group, rows) = (d.k, <B::I as Ints>::F::N, 4 * WORDS, rows_of::<B, C>(d.x_stride));
    let shifted = panels.iter().all(|panel| panel.shifted);
    // SAFETY: columns c..c + C are inside `d`; an activation row holds what `round` writes, a panel what is unpacked.
    unsafe {
        ask_for_outputs::<C>(d, at, c);
        let x = d.x.add(c * d.x_stride);
        let mut sums = [[<B::I as Ints>::F::zero(); C]; P];
        for i in 0..P {
            sums[i] = load(panels[i].sums.at(), at, c);
        }
        for g in 0..at.len / group {
            ahead.ask::<B::I>(1);
            let (mut w, mut of) = ([std::ptr::null(); P], [(Lanes::zero(), Lanes::zero()); P]);
            for i in 0..P {
                w[i] = panels[i].q.as_ptr().cast::<u8>().add(g * group * lanes);
                of[i] = panels[i].at(g * lanes);
            }
            let x_scale = x.add(k + 4 * (at.k / group + g));
            let x_sum = x_scale.add(4 * (k / group));
            let part = Part { w, blocks: 1, of, x: x.add(at.k + g * group), x_scale, x_sum };
            add_terms::<B, BITS, WORDS, C, P>(&mut sums, &part, &rows, shifted);
        }
        for i in 0..P {
            store(d, panels[i].sums.at(), at.part(i, lanes).0, c, sums[i]);
        }
    }
}

/// All rows times the only activation row.
#[inline(always)]
unsafe fn lone<B: Bytes, const BITS: usize, const WORDS: usize>(g: &UnpackedDots, fill: &Fill, panel: &mut Panel) {
    let (d, lanes, group) = (&g.dots, <B::I as Ints>::F::N, 4 * WORDS);
    let mut terms = Terms::<PARTS_MAX>::new();
    // Codes whose words lie column by column are unpacked for all rows at once.
    let at_once = if g.weights.is_transposed() { lanes } else { 1 };
    let stride = K_MAX * LANES_MAX / at_once;
    let len_max = GROUPS_MAX * group;
    for k in (0..d.k).step_by(len_max) {
        let len = len_max.min(d.k - k);
        // SAFETY: the activation row has as many; rows and places below are inside `d`, and a panel has room for them.
        unsafe {
            let x = Arranged::new::<B, 8>(d, group, k, len);
            for row in (0..d.rows).step_by(lanes) {
                let rows = lanes.min(d.rows - row);
                for lane in (0..rows).step_by(at_once) {
                    for from in (0..len).step_by(stride) {
                        let (rows, len) = (at_once.min(rows), stride.min(len - from));
                        let at = Place { row: row + lane, rows, k: k + from, len };
                        let to = To { stride, group: from / group, scales: [GROUPS_MAX, 1], base: base::<B, BITS>() };
                        (fill.rows)(g, at, to, panel);
                        for i in 0..rows {
                            lone_row::<B, BITS, WORDS>(panel, i, stride, from..from + len, &x, lane + i, &mut terms);
                        }
                    }
                }
                terms.add::<B::I>(d, Place { row, rows, k, len }, x.scales(len / group));
            }
        }
    }
}

/// The terms of an unpacked row, number `row` of the panel: of weights `range`.
#[inline(always)]
unsafe fn lone_row<B: Bytes, const BITS: usize, const WORDS: usize>(
    panel: &Panel,
    row: usize,
    stride: usize,
    range: Range<usize>,
    x: &Arranged,
    lane: usize,
    terms: &mut Terms<PARTS_MAX>,
) {
    let (lanes, group) = (<B::I as Ints>::F::N, 4 * WORDS);
    // SAFETY: whole vectors are inside the panel's rows, whose bytes behind the range are of an earlier one or zero, and inside
    // the activations.
    unsafe {
        for first in range.clone().step_by(lanes * BLOCK) {
            let u = panel.rows.as_ptr().add(row * stride + first - range.start);
            let dots = if WORDS == 4 {
                B::halves::<BITS>(u, x.blocks(first / BLOCK))
            } else {
                [B::bytes::<BITS>(u, x.blocks(first / BLOCK)), B::I::splat(0)]
            };
            for i in 0..BLOCK / group {
                let g = first / group + i * lanes;
                let (scale, bias) = panel.at(row * GROUPS_MAX + g);
                terms.set(lane, g, term(dots[i], scale, bias, x.sums(g)));
            }
        }
    }
}
