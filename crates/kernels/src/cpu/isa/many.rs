//! Products of quantised weights with many activation rows: a prompt's, where the processor multiplies tiles.
//!
//! A tile instruction multiplies sixteen activation rows, from where they lie, with a part of a panel, as it was unpacked, and
//! leaves an integer for each output. What it adds to them, and in which order, is as `affine` describes, to the bit. Integers pass
//! through memory, some parts at a time, and those of the next parts are computed while these are scaled.

// Tiles are indexed by row of fixed number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::mem::MaybeUninit;
use std::ops::Range;

use super::Dots;
use super::affine::{Bytes, Ints, number, term};
use super::group;
use super::outputs::{load, store};
use super::panel::{BLOCK, LANES_MAX, Place};
use super::tile::Lanes;

/// Activation rows that are multiplied at once.
pub(super) const ROWS: usize = 16;

/// Parts whose integers are in memory before they are scaled.
const PARTS: usize = 2;

/// Panels that are multiplied at once, at most.
const PANELS_MAX: usize = 2;

/// What [`Tiles::configure`] takes: the shapes of eight tiles, as `ldtilecfg` reads them.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(super) struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// Tiles 0 to 3 are sums, 4 and 5 activations, 6 and 7 weights.
    fn of(lanes: usize, part: usize) -> Config {
        let (sums, x, w) = ((ROWS, 4 * lanes), (ROWS, part), (part / 4, 4 * lanes));
        let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for (i, (rows, row_bytes)) in [sums, sums, sums, sums, x, x, w, w].into_iter().enumerate() {
            (config.rows[i], config.row_bytes[i]) = (rows as u8, row_bytes as u16);
        }
        config
    }
}

/// Instructions that multiply tiles of bytes.
///
/// # Safety
/// All functions: the machine has the instructions. Tiles are a thread's own, and have shapes from [`Tiles::configure`] to
/// [`Tiles::release`].
pub(super) trait Tiles {
    /// Whether there are any.
    const KNOWN: bool;
    unsafe fn configure(config: &Config);
    unsafe fn release();
    /// Loads a part's signed activations, [`ROWS`] rows every `x_stride` bytes.
    unsafe fn load<const PART: usize>(x: *const u8, x_stride: usize);
    /// Products of these with unsigned weights, `[part / 4, lanes, 4]`: stores `[ROWS, lanes]` integers. Neighbouring parts and
    /// panels have tiles of their own, so that several products are under way.
    unsafe fn product<const PART: usize, const PANEL: usize>(w: *const u8, to: *mut i32, lanes: usize);
}

/// Of instruction sets without tiles.
pub(super) enum NoTiles {}

impl Tiles for NoTiles {
    const KNOWN: bool = false;
    unsafe fn configure(_: &Config) {
        unreachable!("no tiles")
    }
    unsafe fn release() {
        unreachable!("no tiles")
    }
    unsafe fn load<const PART: usize>(_: *const u8, _: usize) {
        unreachable!("no tiles")
    }
    unsafe fn product<const PART: usize, const PANEL: usize>(_: *const u8, _: *mut i32, _: usize) {
        unreachable!("no tiles")
    }
}

/// Fewer activation rows are multiplied faster by vectors.
const ROWS_MIN: usize = 4 * ROWS;

/// Whether [`tile`] is the fastest way for so many activation rows and groups of so many weights. Those of half a block would
/// leave half of a tile empty, and twice as many integers to be scaled: Q6_K was slower so than with vectors (264 and 343 Gop/s).
#[inline(always)]
pub(super) fn serves<B: Bytes>(rows: usize, group: usize) -> bool {
    B::Tiles::KNOWN && rows >= ROWS_MIN && group >= BLOCK
}

/// Gives this thread's tiles their shapes, for parts of so many weights.
///
/// # Safety
/// The machine has the instructions.
#[inline(always)]
pub(super) unsafe fn begin<B: Bytes>(part: usize) {
    // SAFETY: the caller's promise.
    unsafe { B::Tiles::configure(&Config::of(<B::I as Ints>::F::N, part)) };
}

/// A panel's weights `[len / 4, N, 4]`, of which biases are of what is multiplied, and scales and biases `[len / group, N]`.
#[derive(Clone, Copy)]
pub(super) struct Unpacked {
    pub q: *const u8,
    pub scales: *const f32,
    pub biases: *const f32,
    /// See [`Sums`](super::panel::Sums).
    pub sums: *mut f32,
}

/// The integers of a step, `[parts, P, ROWS, N]`; written before they are read.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Integers(MaybeUninit<[i32; PARTS * PANELS_MAX * ROWS * LANES_MAX]>);

/// `P` panels, whose groups have so many weights, times [`ROWS`] activation rows.
///
/// # Safety
/// [`begin`] was called; the rest is as for the tiles of `affine` and `unpacked`.
#[inline(always)]
pub(super) unsafe fn tile<B: Bytes, const P: usize>(
    d: &Dots,
    panels: [Unpacked; P],
    at: Place,
    c: usize,
    group: usize,
) {
    const { assert!(P <= PANELS_MAX) };
    let (k, lanes, stride, weights) = (d.k, <B::I as Ints>::F::N, d.x_stride, group::part_of(group));
    let parts = at.len / weights;
    let mut steps = [Integers(MaybeUninit::uninit()); 2];
    // SAFETY: columns c..c + ROWS are inside `d`; an activation row holds what `round` writes, a panel what is unpacked, and a
    // step has room for its parts' integers.
    unsafe {
        let x = d.x.add(c * stride);
        let mut sums = [[<B::I as Ints>::F::zero(); ROWS]; P];
        for i in 0..P {
            sums[i] = load(panels[i].sums, at, c);
        }
        multiply::<B, P>(&panels, x.add(at.k), stride, weights, 0..PARTS.min(parts), &mut steps[0]);
        for first in (0..parts).step_by(PARTS) {
            let (next, step) = (first + PARTS, first / PARTS);
            if next < parts {
                let following = next..parts.min(next + PARTS);
                multiply::<B, P>(&panels, x.add(at.k), stride, weights, following, &mut steps[(step + 1) % 2]);
            }
            let integers = steps[step % 2].0.as_ptr().cast::<i32>();
            for p in first..next.min(parts) {
                let (g, index) = (p * weights / group, at.k / weights + p);
                for i in 0..P {
                    let scale = <B::I as Ints>::F::load_f32(panels[i].scales.add(g * lanes).cast());
                    let bias = <B::I as Ints>::F::load_f32(panels[i].biases.add(g * lanes).cast());
                    for j in 0..ROWS {
                        let x = x.add(j * stride);
                        let dots = B::I::load(integers.add((((p - first) * P + i) * ROWS + j) * lanes).cast());
                        let (x_scale, x_sum) = (number(x, k, index), number(x, k + 4 * (k / weights), index));
                        sums[i][j] = sums[i][j].fma(term(dots, scale, bias, x_sum), x_scale);
                    }
                }
            }
        }
        for i in 0..P {
            store(d, panels[i].sums, at.part(i, lanes).0, c, sums[i]);
        }
    }
}

/// The integers of one or two parts of so many weights.
#[inline(always)]
unsafe fn multiply<B: Bytes, const P: usize>(
    panels: &[Unpacked; P],
    x: *const u8,
    x_stride: usize,
    weights: usize,
    parts: Range<usize>,
    to: &mut Integers,
) {
    let to = to.0.as_mut_ptr().cast::<i32>();
    // SAFETY: the caller's parts are inside the panels and the activations, and `to` has room for them.
    unsafe {
        part::<B, 0, P>(panels, x, x_stride, weights, parts.start, to);
        if parts.len() > 1 {
            part::<B, 1, P>(panels, x, x_stride, weights, parts.start, to);
        }
    }
}

/// Those of part `PART` behind the first.
#[inline(always)]
unsafe fn part<B: Bytes, const PART: usize, const P: usize>(
    panels: &[Unpacked; P],
    x: *const u8,
    x_stride: usize,
    weights: usize,
    first: usize,
    to: *mut i32,
) {
    let lanes = <B::I as Ints>::F::N;
    // SAFETY: the caller's promise.
    unsafe {
        B::Tiles::load::<PART>(x.add((first + PART) * weights), x_stride);
        let (w, to) = ((first + PART) * weights * lanes, to.add(PART * P * ROWS * lanes));
        B::Tiles::product::<PART, 0>(panels[0].q.add(w), to, lanes);
        if P > 1 {
            B::Tiles::product::<PART, 1>(panels[P - 1].q.add(w), to.add(ROWS * lanes), lanes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::super::portable::OneByOne;
    use super::super::{AffineDots, Packed, UnpackedDots, affine, group, strips, unpacked};
    use super::*;
    use crate::{Format, GgmlType};

    /// The tile instructions as they are described, one byte at a time: registers keep what they hold, and a product takes the
    /// shapes of its tiles.
    enum Emulated {}

    #[derive(Clone)]
    struct Registers {
        config: Config,
        tiles: [[[u8; 64]; 16]; 8],
    }

    thread_local! {
        static REGISTERS: RefCell<Option<Registers>> = const { RefCell::new(None) };
    }

    impl Registers {
        fn shape(&self, tile: usize) -> (usize, usize) {
            let shape = (usize::from(self.config.rows[tile]), usize::from(self.config.row_bytes[tile]));
            assert!((1..=16).contains(&shape.0) && (1..=64).contains(&shape.1), "tile {tile} has no shape");
            shape
        }

        unsafe fn load(&mut self, tile: usize, from: *const u8, stride: usize) {
            let (rows, row_bytes) = self.shape(tile);
            self.tiles[tile] = [[0; 64]; 16];
            for row in 0..rows {
                // SAFETY: the caller has the rows.
                let row_of = unsafe { std::slice::from_raw_parts(from.add(row * stride), row_bytes) };
                self.tiles[tile][row][..row_bytes].copy_from_slice(row_of);
            }
        }

        unsafe fn store(&self, tile: usize, to: *mut u8, stride: usize) {
            let (rows, row_bytes) = self.shape(tile);
            for row in 0..rows {
                // SAFETY: the caller has room for the rows.
                unsafe { to.add(row * stride).copy_from_nonoverlapping(self.tiles[tile][row].as_ptr(), row_bytes) };
            }
        }

        /// `tdpbsud`
        fn add_products(&mut self, sums: usize, x: usize, w: usize) {
            let ((rows, row_bytes), (x_rows, x_bytes), (w_rows, w_bytes)) =
                (self.shape(sums), self.shape(x), self.shape(w));
            assert!(rows == x_rows && row_bytes == w_bytes && x_bytes == 4 * w_rows, "an invalid operation");
            for row in 0..rows {
                for column in (0..row_bytes).step_by(4) {
                    let [a, b, c, d] = std::array::from_fn(|i| self.tiles[sums][row][column + i]);
                    let mut sum = i32::from_le_bytes([a, b, c, d]);
                    for k in 0..x_bytes {
                        let x = self.tiles[x][row][k].cast_signed();
                        sum += i32::from(x) * i32::from(self.tiles[w][k / 4][column + k % 4]);
                    }
                    self.tiles[sums][row][column..column + 4].copy_from_slice(&sum.to_le_bytes());
                }
            }
        }
    }

    impl Tiles for Emulated {
        const KNOWN: bool = true;
        unsafe fn configure(config: &Config) {
            assert_eq!((config.palette, config.start_row, size_of::<Config>()), (1, 0, 64));
            let registers = Registers { config: *config, tiles: [[[0; 64]; 16]; 8] };
            let before = REGISTERS.replace(Some(registers));
            assert!(before.is_none(), "not released");
        }
        unsafe fn release() {
            assert!(REGISTERS.take().is_some(), "released twice");
        }
        unsafe fn load<const PART: usize>(x: *const u8, x_stride: usize) {
            REGISTERS.with_borrow_mut(|registers| {
                // SAFETY: the caller's promise.
                unsafe { registers.as_mut().expect("tiles have no shapes").load(4 + PART % 2, x, x_stride) };
            });
        }
        unsafe fn product<const PART: usize, const PANEL: usize>(w: *const u8, to: *mut i32, lanes: usize) {
            let (sums, w_tile, line) = ((PART + 2 * PANEL) % 4, 6 + (PART + PANEL) % 2, 4 * lanes);
            REGISTERS.with_borrow_mut(|registers| {
                let registers = registers.as_mut().expect("tiles have no shapes");
                // SAFETY: the caller's promise.
                unsafe {
                    registers.load(w_tile, w, line);
                    registers.tiles[sums] = [[0; 64]; 16];
                    registers.add_products(sums, 4 + PART % 2, w_tile);
                    registers.store(sums, to.cast(), line);
                }
            });
        }
    }

    const FILL: unpacked::Fill = unpacked::Fill { rows: unpacked::fill, strip: strips::fill::<<OneByOne as Bytes>::I> };

    /// Plain Rust with tiles.
    struct Tiled;

    impl Bytes for Tiled {
        type I = <OneByOne as Bytes>::I;
        type Tiles = Emulated;
        const SIGNED: bool = false;
        unsafe fn words<const BITS: usize, const WORDS: usize, const C: usize>(
            w: *const u8,
            x: *const u8,
            rows: &[usize; C],
        ) -> [Self::I; C] {
            // SAFETY: the caller's promise.
            unsafe { OneByOne::words::<BITS, WORDS, C>(w, x, rows) }
        }
    }

    fn random_bytes(count: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut byte = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..count).map(|_| byte()).collect()
    }

    /// The outputs of a product of random weights, `w_stride` bytes to a row, with activations rounded for them.
    fn outputs(
        bits: usize,
        group: usize,
        w_stride: usize,
        [rows, columns, k]: [usize; 3],
        run: impl Fn(Dots),
    ) -> Vec<u32> {
        let mut w = random_bytes(rows * w_stride);
        // No f16 among them is infinite or NaN: of NaN, only that it is one is the same.
        w.iter_mut().filter(|byte| **byte & 0x7c == 0x7c).for_each(|byte| *byte ^= 0x40);
        let part = group::part_of(group);
        let x_stride = group::rounded_bytes(k, part);
        let mut x = vec![0u8; columns * x_stride];
        for (i, to) in x.chunks_exact_mut(x_stride).enumerate() {
            let values: Vec<f32> = (0..k).map(|j| ((i * 31 + j * 17) % 101) as f32 - 50.0).collect();
            // SAFETY: a row of so many bytes.
            unsafe { group::round::<<<OneByOne as Bytes>::I as Ints>::F>(&values, bits, part, to.as_mut_ptr()) };
        }
        let mut out = vec![f32::NAN; columns * rows];
        run(Dots {
            w: w.as_ptr(),
            w_stride,
            rows,
            x: x.as_ptr(),
            x_stride,
            columns,
            k,
            out: out.as_mut_ptr(),
            out_stride: rows,
        });
        assert!(out.iter().all(|value| value.is_finite()), "{out:?}");
        out.into_iter().map(f32::to_bits).collect()
    }

    /// Of every row with tiles, of rows behind the last sixteen, of weights in several panels, the last of them short, and of
    /// so many activations that they pass in parts, and of numbers of blocks, and of parts of 64, that are odd.
    const SHAPES: [[usize; 3]; 6] =
        [[11, ROWS_MIN, 256], [8, 83, 1280], [21, 81, 2304], [3, 305, 1024], [5, 80, 1312], [9, 82, 1344]];

    #[test]
    fn tiles_give_the_same_bits_of_affine_weights() {
        for bits in [2, 3, 4, 5, 6, 8] {
            for group in [32, 64, 128] {
                for shape in SHAPES.into_iter().filter(|[.., k]| k.is_multiple_of(group)) {
                    let [rows, _, k] = shape;
                    let scales: Vec<f32> = (0..rows * k / group).map(|i| ((i * 7 % 23) as f32 - 11.0) / 64.0).collect();
                    let biases: Vec<f32> = scales.iter().rev().map(|scale| scale * 3.0 + 0.1).collect();
                    let of = |dots| AffineDots {
                        dots,
                        bits,
                        group,
                        scales: [scales.as_ptr().cast(), biases.as_ptr().cast()],
                        scale_format: Format::F32,
                    };
                    // SAFETY: plain Rust, and the addresses hold what is said of them.
                    let tiled = |dots| unsafe { affine::dots::<Tiled, 2, 2, false>(&of(dots)) };
                    // SAFETY: as above.
                    let plain = |dots| unsafe { affine::dots::<OneByOne, 2, 1, false>(&of(dots)) };
                    let of = |run: &dyn Fn(Dots)| outputs(bits, group, k * bits / 8, shape, run);
                    assert_eq!(of(&tiled), of(&plain), "{bits} bits in groups of {group}, {shape:?}");
                }
            }
        }
        assert!(REGISTERS.take().is_none(), "not released");
    }

    #[test]
    fn tiles_give_the_same_bits_of_blocks() {
        for blocks in [GgmlType::Q4_0, GgmlType::Q8_0, GgmlType::Q4K, GgmlType::Q5K] {
            let fits = |[.., k]: &[usize; 3]| k.is_multiple_of(blocks.block_weights());
            for shape in SHAPES.into_iter().filter(fits) {
                let (group, w_stride) = (blocks.group(), Format::Ggml(blocks).row_bytes(shape[2]));
                let of = |dots| UnpackedDots { dots, weights: Packed::Ggml(blocks) };
                // SAFETY: plain Rust, and the addresses hold what is said of them.
                let tiled = |dots| unsafe { unpacked::dots::<Tiled, 2, 2>(&of(dots), &FILL) };
                // SAFETY: as above.
                let plain = |dots| unsafe { unpacked::dots::<OneByOne, 2, 1>(&of(dots), &FILL) };
                let of = |run: &dyn Fn(Dots)| outputs(8, group, w_stride, shape, run);
                assert_eq!(of(&tiled), of(&plain), "{blocks:?}, {shape:?}");
            }
        }
        assert!(REGISTERS.take().is_none(), "not released");
    }
}
