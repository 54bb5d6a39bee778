//! The loops of every instruction set, over a vector type.
//!
//! Everything here is inlined into functions that enable the instructions: those that [`kernels_of`] makes.

// A tile is indexed by row and column of fixed number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use std::marker::PhantomData;

use half::{bf16, f16};

use super::{Dots, LINE_BYTES, Mix, prefetch};

/// Bytes that hold any vector.
const VECTOR_BYTES_MAX: usize = 64;

/// A vector of f32 and its instructions.
///
/// # Safety
/// All functions: the machine has the instructions, and the addresses hold `N` elements, at any byte.
pub(super) trait Lanes: Copy {
    /// How many f32 it holds.
    const N: usize;
    unsafe fn zero() -> Self;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load_f32(from: *const u8) -> Self;
    unsafe fn load_f16(from: *const u8) -> Self;
    unsafe fn load_bf16(from: *const u8) -> Self;
    unsafe fn store_f32(self, to: *mut u8);
    unsafe fn store_f16(self, to: *mut u8);
    /// `self + a · b`
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    /// The sum of each of four vectors; each in the same order, whichever of the four it is.
    unsafe fn sums(four: [Self; 4]) -> [f32; 4];
    /// Each lane of the first half, twice.
    #[inline(always)]
    unsafe fn twice(self) -> Self {
        let (mut of, mut twice) = ([0f32; VECTOR_BYTES_MAX / 4], [0f32; VECTOR_BYTES_MAX / 4]);
        // SAFETY: the caller's promise; both hold any vector.
        unsafe {
            self.store_f32(of.as_mut_ptr().cast());
            for i in 0..Self::N {
                twice[i] = of[i / 2];
            }
            Self::load_f32(twice.as_ptr().cast())
        }
    }
    /// How many bytes of plain weights are asked for before a lone row is multiplied with them; 0 where the processor foresees as
    /// much as its memory gives.
    #[inline(always)]
    fn ahead() -> usize {
        0
    }
}

/// A storage format of elements that can be loaded as f32 lanes.
pub(super) trait Element: Copy {
    /// Bytes of one.
    const BYTES: usize;
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn load<L: Lanes>(from: *const u8) -> L;
    /// Stores lanes, rounded to nearest even.
    ///
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn store<L: Lanes>(lanes: L, to: *mut u8);
}

#[derive(Clone, Copy)]
pub(super) struct F32;
#[derive(Clone, Copy)]
pub(super) struct F16;
#[derive(Clone, Copy)]
pub(super) struct Bf16;

impl Element for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const u8) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load_f32(from) }
    }
    #[inline(always)]
    unsafe fn store<L: Lanes>(lanes: L, to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { lanes.store_f32(to) }
    }
}

impl Element for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const u8) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load_f16(from) }
    }
    #[inline(always)]
    unsafe fn store<L: Lanes>(lanes: L, to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { lanes.store_f16(to) }
    }
}

impl Element for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const u8) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn store<L: Lanes>(lanes: L, to: *mut u8) {
        let mut values = [0f32; VECTOR_BYTES_MAX / 4];
        // SAFETY: `values` holds any vector; `to` has room for `N` elements, the caller's promise.
        unsafe {
            lanes.store_f32(values.as_mut_ptr().cast());
            for (i, value) in values[..L::N].iter().enumerate() {
                to.cast::<bf16>().add(i).write_unaligned(bf16::from_f32(*value));
            }
        }
    }
}

/// A way to multiply weights with activations, some at a step.
///
/// # Safety
/// All functions: as for [`Lanes`], with `STEP` elements.
pub(super) trait Product: Copy {
    /// Products of a step.
    const STEP: usize;
    /// Bytes of one weight.
    const W_BYTES: usize;
    /// Bytes of one activation.
    const X_BYTES: usize;
    type Sum: Lanes;
    type W: Copy;
    type X: Copy;
    unsafe fn w(from: *const u8) -> Self::W;
    unsafe fn x(from: *const u8) -> Self::X;
    unsafe fn add(sum: Self::Sum, w: Self::W, x: Self::X) -> Self::Sum;
}

/// Weights of format `E`, widened, times f32 activations.
#[derive(Clone, Copy)]
pub(super) struct Widened<L, E>(PhantomData<(L, E)>);

impl<L: Lanes, E: Element> Product for Widened<L, E> {
    const STEP: usize = L::N;
    const W_BYTES: usize = E::BYTES;
    const X_BYTES: usize = 4;
    type Sum = L;
    type W = L;
    type X = L;
    #[inline(always)]
    unsafe fn w(from: *const u8) -> L {
        // SAFETY: the caller's promise.
        unsafe { E::load(from) }
    }
    #[inline(always)]
    unsafe fn x(from: *const u8) -> L {
        // SAFETY: the caller's promise.
        unsafe { L::load_f32(from) }
    }
    #[inline(always)]
    unsafe fn add(sum: L, w: L, x: L) -> L {
        // SAFETY: the caller's promise.
        unsafe { sum.fma(w, x) }
    }
}

/// The first `len` bytes at `from`, and zeros behind them: what a last, partial vector is loaded from.
#[inline(always)]
pub(super) unsafe fn padded(from: *const u8, len: usize) -> [u8; VECTOR_BYTES_MAX] {
    let mut bytes = [0; VECTOR_BYTES_MAX];
    // SAFETY: the caller has `len` bytes there, fewer than a vector's.
    unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), len) };
    bytes
}

/// Bytes of weights that all activation rows pass over: they stay in a second-level cache.
const ROWS_BYTES: usize = 256 << 10;

/// [`Dots`] in tiles of `R` weight rows by `C` activation rows; what is left of those in pairs, and the last, or the
/// only one of a matrix-vector product, by `ONE` weight rows at once.
///
/// # Safety
/// The machine has the product's instructions, and the addresses hold what `Dots` says.
#[inline(always)]
pub(super) unsafe fn dots<P: Product, const R: usize, const C: usize, const ONE: usize>(d: &Dots) {
    let (rows, ahead) = match d.columns {
        1 => (d.rows, P::Sum::ahead()),
        _ => ((ROWS_BYTES / d.w_stride.max(1)).next_multiple_of(R).max(R), 0),
    };
    for first in (0..d.rows).step_by(rows.max(1)) {
        let w = d.w.wrapping_add(first * d.w_stride);
        let d = &Dots { w, rows: rows.min(d.rows - first), out: d.out.wrapping_add(first), ..*d };
        let mut c = 0;
        while c + C <= d.columns {
            // SAFETY: columns c..c + C are inside; the rest is the caller's promise.
            unsafe { columns::<P, R, C>(d, c, 0) };
            c += C;
        }
        while C > 2 && c + 2 <= d.columns {
            // SAFETY: columns c..c + 2 are inside.
            unsafe { columns::<P, R, 2>(d, c, 0) };
            c += 2;
        }
        if c < d.columns {
            // SAFETY: column c is inside.
            unsafe { columns::<P, ONE, 1>(d, c, ahead) };
        }
    }
}

/// All rows of `C` columns, with weights asked for so many bytes ahead.
#[inline(always)]
unsafe fn columns<P: Product, const R: usize, const C: usize>(d: &Dots, c: usize, ahead: usize) {
    let mut r = 0;
    while r + R <= d.rows {
        // SAFETY: rows r..r + R are inside.
        unsafe { tile::<P, R, C>(d, r, c, ahead) };
        r += R;
    }
    while r < d.rows {
        // SAFETY: row r is inside.
        unsafe { tile::<P, 1, C>(d, r, c, ahead) };
        r += 1;
    }
}

/// `R · C` outputs, each with its own accumulator.
#[inline(always)]
unsafe fn tile<P: Product, const R: usize, const C: usize>(d: &Dots, r: usize, c: usize, ahead: usize) {
    // SAFETY: rows r..r + R and columns c..c + C are inside `d`, and every step or padded rest is inside a row.
    unsafe {
        let w = d.w.add(r * d.w_stride);
        let x = d.x.add(c * d.x_stride);
        let mut sums = [[P::Sum::zero(); C]; R];
        let whole = d.k - d.k % P::STEP;
        let mut k = 0;
        while k < whole {
            if ahead > 0 && (k * P::W_BYTES).is_multiple_of(LINE_BYTES) {
                for i in 0..R {
                    prefetch(w.wrapping_add(i * d.w_stride + k * P::W_BYTES + ahead));
                }
            }
            let mut xs = [P::x(x.add(k * P::X_BYTES)); C];
            for j in 1..C {
                xs[j] = P::x(x.add(j * d.x_stride + k * P::X_BYTES));
            }
            for i in 0..R {
                let w = w.add(i * d.w_stride + k * P::W_BYTES);
                let w = P::w(w);
                for j in 0..C {
                    sums[i][j] = P::add(sums[i][j], w, xs[j]);
                }
            }
            k += P::STEP;
        }
        if whole < d.k {
            let rest = d.k - whole;
            for i in 0..R {
                let w = P::w(padded(w.add(i * d.w_stride + whole * P::W_BYTES), rest * P::W_BYTES).as_ptr());
                for j in 0..C {
                    let x = P::x(padded(x.add(j * d.x_stride + whole * P::X_BYTES), rest * P::X_BYTES).as_ptr());
                    sums[i][j] = P::add(sums[i][j], w, x);
                }
            }
        }
        for j in 0..C {
            let mut four = [P::Sum::zero(); 4];
            for i in 0..R {
                four[i] = sums[i][j];
            }
            let totals = P::Sum::sums(four);
            for (i, total) in totals[..R].iter().enumerate() {
                d.out.add((c + j) * d.out_stride + r + i).write_unaligned(*total);
            }
        }
    }
}

/// [`Mix`] in tiles of four columns by `D` vectors.
///
/// # Safety
/// The machine has the lanes' instructions, and the addresses hold what `Mix` says.
#[inline(always)]
pub(super) unsafe fn mix<L: Lanes, E: Element, const D: usize>(m: &Mix) {
    let mut c = 0;
    while c + 4 <= m.columns {
        // SAFETY: columns c..c + 4 are inside.
        unsafe { mix_columns::<L, E, 4, D>(m, c) };
        c += 4;
    }
    while c < m.columns {
        // SAFETY: column c is inside.
        unsafe { mix_columns::<L, E, 1, D>(m, c) };
        c += 1;
    }
}

#[inline(always)]
unsafe fn mix_columns<L: Lanes, E: Element, const C: usize, const D: usize>(m: &Mix, c: usize) {
    let mut d = 0;
    while d + D * L::N <= m.dim {
        // SAFETY: D vectors from d on are inside.
        unsafe { mix_tile::<L, E, C, D>(m, c, d) };
        d += D * L::N;
    }
    while d + L::N <= m.dim {
        // SAFETY: one vector from d on is inside.
        unsafe { mix_tile::<L, E, C, 1>(m, c, d) };
        d += L::N;
    }
    if d < m.dim {
        // SAFETY: fewer elements than a vector's are left, and are inside.
        unsafe { mix_rest::<L, E, C>(m, c, d) };
    }
}

#[inline(always)]
unsafe fn mix_tile<L: Lanes, E: Element, const C: usize, const D: usize>(m: &Mix, c: usize, d: usize) {
    // SAFETY: columns c..c + C and D vectors from element d on are inside `m`.
    unsafe {
        let mut sums = [[L::zero(); D]; C];
        for i in 0..C {
            for j in 0..D {
                sums[i][j] = L::load_f32(m.out.add((c + i) * m.out_stride + d + j * L::N).cast());
            }
        }
        for t in 0..m.terms {
            let v = m.v.add(t * m.v_stride + d * E::BYTES);
            let mut vs = [E::load::<L>(v); D];
            for j in 1..D {
                vs[j] = E::load::<L>(v.add(j * L::N * E::BYTES));
            }
            for i in 0..C {
                let p = L::splat(m.p.add((c + i) * m.p_stride + t).read());
                for j in 0..D {
                    sums[i][j] = sums[i][j].fma(p, vs[j]);
                }
            }
        }
        for i in 0..C {
            for j in 0..D {
                sums[i][j].store_f32(m.out.add((c + i) * m.out_stride + d + j * L::N).cast());
            }
        }
    }
}

/// The last, partial vector of each column.
#[inline(always)]
unsafe fn mix_rest<L: Lanes, E: Element, const C: usize>(m: &Mix, c: usize, d: usize) {
    let rest = m.dim - d;
    // SAFETY: columns c..c + C and elements d..dim are inside `m`; the padded copies hold whole vectors.
    unsafe {
        for i in 0..C {
            let out = m.out.add((c + i) * m.out_stride + d).cast::<u8>();
            let mut sum = L::load_f32(padded(out, rest * 4).as_ptr());
            for t in 0..m.terms {
                let v = E::load::<L>(padded(m.v.add(t * m.v_stride + d * E::BYTES), rest * E::BYTES).as_ptr());
                sum = sum.fma(L::splat(m.p.add((c + i) * m.p_stride + t).read()), v);
            }
            let mut bytes = [0u8; VECTOR_BYTES_MAX];
            sum.store_f32(bytes.as_mut_ptr());
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), out, rest * 4);
        }
    }
}

/// Converts `n` elements of format `A` to format `B`, rounding to nearest even.
///
/// # Safety
/// The machine has the lanes' instructions; the addresses hold `n` elements.
#[inline(always)]
pub(super) unsafe fn convert<L: Lanes, A: Element, B: Element>(from: *const u8, to: *mut u8, n: usize) {
    let whole = n - n % L::N;
    // SAFETY: whole vectors are inside both ranges; the rest goes through padded copies.
    unsafe {
        for i in (0..whole).step_by(L::N) {
            B::store(A::load::<L>(from.add(i * A::BYTES)), to.add(i * B::BYTES));
        }
        if whole < n {
            let mut bytes = [0u8; VECTOR_BYTES_MAX];
            let rest = padded(from.add(whole * A::BYTES), (n - whole) * A::BYTES);
            B::store(A::load::<L>(rest.as_ptr()), bytes.as_mut_ptr());
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.add(whole * B::BYTES), (n - whole) * B::BYTES);
        }
    }
}

/// Scales some scores and replaces each by its exponential relative to the highest of them and `max`. Returns that
/// highest score and the sum of the exponentials.
///
/// Lane i takes every element of index `i % 16`. The compiler vectorises it with the instructions of the function that
/// it is inlined into. A NaN among the scores reaches the sum.
#[inline(always)]
pub(super) fn softmax(scores: &mut [f32], scale: f32, max: f32) -> (f32, f32) {
    /// Lanes that others are brought together with.
    const HALVES: [usize; 4] = [8, 4, 2, 1];
    let (mut highest, mut sums) = ([max; 16], [0f32; 16]);
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let (chunks, rest) = scores.as_chunks_mut::<16>();
    for chunk in chunks.iter_mut() {
        for i in 0..16 {
            chunk[i] *= scale;
            highest[i] = larger(chunk[i], highest[i]);
        }
    }
    for (score, highest) in rest.iter_mut().zip(&mut highest) {
        *score *= scale;
        *highest = larger(*score, *highest);
    }
    for half in HALVES {
        for i in 0..half {
            highest[i] = larger(highest[i + half], highest[i]);
        }
    }
    let highest = highest[0];
    for chunk in chunks {
        for i in 0..16 {
            chunk[i] = exp(chunk[i] - highest);
            sums[i] += chunk[i];
        }
    }
    for (score, sum) in rest.iter_mut().zip(&mut sums) {
        *score = exp(*score - highest);
        *sum += *score;
    }
    for half in HALVES {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
    }
    (highest, sums[0])
}

/// e^x for x ≤ 0, within 2 ulp, and 0 below e^-87: x = n·ln 2 + r, and e^r by a polynomial with the coefficients of
/// Cephes' expf. `f32::exp` is a call that no compiler vectorises, and took most of the time of attention.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding it leaves an integer in the low bits of the sum: 1.5 · 2^23.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first of few bits, so that its product with n is exact.
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = p * r + coefficient;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1f32.to_bits()));
    let exp = (p * (r * r) + r + 1.0) * power;
    if x < -87.0 { 0.0 } else { exp }
}

/// Reads an f16 at any byte.
#[inline(always)]
pub(super) unsafe fn read_f16(from: *const u8) -> f32 {
    // SAFETY: the caller has two bytes there.
    unsafe { from.cast::<f16>().read_unaligned() }.to_f32()
}

/// Makes `kernels()` of a vector type: the loops above, in functions that enable the instructions given. `dots` is the
/// tile, weight rows by activation rows; `by_one` the weight rows that are taken at once with one activation row; `mix`
/// how many vectors of four weighted sums are. Tiles are as large as the registers; no number of rows is above four.
///
/// `affine` names what multiplies bytes, and the activation rows that quantised weights are multiplied with at once, as
/// int8 and as f32.
macro_rules! kernels_of {
    ($lanes:ty, dots: $rows:literal by $columns:literal, by_one: $one:literal, mix: $mix:literal,
     affine: $bytes:ty, $rounded:literal by $panels:literal, $precise:literal $(, $features:literal)?) => {
        /// The kernels of this instruction set.
        pub(super) fn kernels() -> $crate::cpu::isa::Kernels {
            use $crate::cpu::isa::affine::quantised_kernels_of;
            use $crate::cpu::isa::tile::{self, Bf16, F16, F32, Widened};
            use $crate::cpu::isa::recurrence::{self, Passage, Recall, Recurrence};
            use $crate::cpu::isa::{ByFormat, Dots, Kernels, Mix};

            $(#[target_feature(enable = $features)])?
            unsafe fn dots<E: tile::Element>(d: &Dots) {
                // SAFETY: the caller's promise, here and below.
                unsafe { tile::dots::<Widened<$lanes, E>, $rows, $columns, $one>(d) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn mix<E: tile::Element>(m: &Mix) {
                // SAFETY: as above.
                unsafe { tile::mix::<$lanes, E, $mix>(m) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn convert<A: tile::Element, B: tile::Element>(from: *const u8, to: *mut u8, n: usize) {
                // SAFETY: as above.
                unsafe { tile::convert::<$lanes, A, B>(from, to, n) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn softmax(scores: &mut [f32], scale: f32, max: f32) -> (f32, f32) {
                tile::softmax(scores, scale, max)
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn recall(of: Recall) {
                // SAFETY: as above.
                unsafe { recurrence::recall::<$lanes>(of) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn pass(of: Passage) {
                // SAFETY: as above.
                unsafe { recurrence::pass::<$lanes>(of) }
            }
            Kernels {
                dots: ByFormat { f32: dots::<F32>, f16: dots::<F16>, bf16: dots::<Bf16> },
                bf16: None,
                quantised: quantised_kernels_of!($bytes, rounded: $rounded by $panels, precise: $precise $(, $features)?),
                mix: ByFormat { f32: mix::<F32>, f16: mix::<F16>, bf16: mix::<Bf16> },
                widen: ByFormat { f32: convert::<F32, F32>, f16: convert::<F16, F32>, bf16: convert::<Bf16, F32> },
                narrow: ByFormat { f32: convert::<F32, F32>, f16: convert::<F32, F16>, bf16: convert::<F32, Bf16> },
                softmax,
                recurrence: Recurrence { recall, pass },
            }
        }
    };
}
pub(super) use kernels_of;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::portable::Plain;

    #[test]
    fn lanes_of_the_first_half_are_there_twice() {
        let values: [f32; VECTOR_BYTES_MAX / 4] = std::array::from_fn(|i| i as f32);
        let mut twice = values;
        // SAFETY: plain Rust runs everywhere; both hold any vector.
        unsafe { Plain::load_f32(values.as_ptr().cast()).twice().store_f32(twice.as_mut_ptr().cast()) };
        (0..Plain::N).for_each(|i| assert_eq!(twice[i], values[i / 2], "{i}"));
    }

    #[test]
    fn softmax_finds_the_highest_wherever_it_is() {
        for len in 1..=64 {
            for place in 0..=len {
                // Behind the last, it is that of the scores before.
                let max = if place == len { 900.0 } else { -700.0 };
                let score = |i: usize| if i == place { 400.0 } else { (i % 7) as f32 - 300.0 };
                let mut scores: Vec<f32> = (0..len).map(score).collect();
                let (highest, sum) = softmax(&mut scores, 2.0, max);
                assert_eq!(highest, if place == len { 900.0 } else { 800.0 }, "{place} of {len}");
                assert_eq!(sum, if place == len { 0.0 } else { 1.0 }, "{place} of {len}");
                if place < len {
                    let mut scores: Vec<f32> = (0..len).map(|i| if i == place { f32::NAN } else { score(i) }).collect();
                    assert!(softmax(&mut scores, 2.0, max).1.is_nan(), "{place} of {len}");
                }
            }
        }
    }

    #[test]
    fn exp_is_within_2_ulp() {
        for i in 0..=8_700_000 {
            let x = i as f32 * -1e-5;
            let (got, expected) = (exp(x), f64::from(x).exp());
            assert!((f64::from(got) - expected).abs() <= 2.0 * 1.2e-7 * expected, "exp({x:e}) is not {got:e}");
        }
        assert_eq!([exp(0.0), exp(-0.0), exp(-88.0), exp(-1e30), exp(f32::NEG_INFINITY)], [1.0, 1.0, 0.0, 0.0, 0.0]);
        assert!(exp(f32::NAN).is_nan());
    }
}
