//! The sums of a panel's rows and some columns: where they wait for the rows' next panel, and the outputs that they become.

// A tile is indexed by column of fixed number; iterators would hide which.
#![allow(clippy::needless_range_loop)]

use super::panel::{LANES_MAX, Place};
use super::tile::Lanes;
use super::{Dots, LINE_BYTES, prefetch};

/// Sums of a panel's rows and `C` columns over earlier panels, or zeros.
#[inline(always)]
pub(super) unsafe fn load<L: Lanes, const C: usize>(earlier: *const f32, at: Place, c: usize) -> [L; C] {
    // SAFETY: the caller's columns are some that there are sums for.
    unsafe {
        let mut sums = [L::zero(); C];
        if at.k > 0 {
            for j in 0..C {
                sums[j] = L::load_f32(earlier.add((c + j) * L::N).cast());
            }
        }
        sums
    }
}

/// Keeps them for the next panel, or stores the outputs if it was the last. A panel that repeats another has none.
#[inline(always)]
pub(super) unsafe fn store<L: Lanes, const C: usize>(d: &Dots, earlier: *mut f32, at: Place, c: usize, sums: [L; C]) {
    // SAFETY: as for `load`, and they are inside `d`.
    unsafe {
        for j in 0..C {
            if at.k + at.len < d.k {
                sums[j].store_f32(earlier.add((c + j) * L::N).cast());
            } else if at.rows > 0 {
                store_outputs(d, at, c + j, sums[j]);
            }
        }
    }
}

/// Asks for the outputs of `C` columns where [`store`] will write them: lines far apart, for which it would wait.
#[inline(always)]
pub(super) fn ask_for_outputs<const C: usize>(d: &Dots, at: Place, c: usize) {
    if at.k + at.len < d.k {
        return;
    }
    for j in 0..C {
        let out = d.out.wrapping_add((c + j) * d.out_stride + at.row);
        (0..at.rows).step_by(LINE_BYTES / 4).for_each(|row| prefetch(out.wrapping_add(row).cast()));
    }
}

/// The outputs of a column and a place's rows.
#[inline(always)]
pub(super) unsafe fn load_outputs<L: Lanes>(d: &Dots, at: Place, c: usize) -> L {
    // SAFETY: the caller's column is inside `d`; fewer outputs than a vector's are copied.
    unsafe {
        let out = d.out.add(c * d.out_stride + at.row);
        if at.rows == L::N {
            return L::load_f32(out.cast());
        }
        let mut values = [0f32; LANES_MAX];
        std::ptr::copy_nonoverlapping(out, values.as_mut_ptr(), at.rows);
        L::load_f32(values.as_ptr().cast())
    }
}

#[inline(always)]
pub(super) unsafe fn store_outputs<L: Lanes>(d: &Dots, at: Place, c: usize, sums: L) {
    // SAFETY: as for `load_outputs`.
    unsafe {
        let out = d.out.add(c * d.out_stride + at.row);
        if at.rows == L::N {
            return sums.store_f32(out.cast());
        }
        let mut values = [0f32; LANES_MAX];
        sums.store_f32(values.as_mut_ptr().cast());
        std::ptr::copy_nonoverlapping(values.as_ptr(), out, at.rows);
    }
}
