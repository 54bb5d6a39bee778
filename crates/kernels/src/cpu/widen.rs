//! A row of a matrix in f32: the bits of [`quant::dequantise`], by this backend's instructions

use super::Cpu;
use super::vectorised::Loop;
use crate::host;
use crate::quant::{self, element};
use crate::{Format, Matrix};

/// Row `row` of `w`, `values.len()` wide.
pub(super) fn widen(cpu: &Cpu, w: &Matrix, row: usize, values: &mut [f32]) {
    assert!(row < w.rows() && values.len() == w.cols(), "a row of {} weights, below {}", w.cols(), w.rows());
    if let Some(rows) = w.coded_rows() {
        return rows.dequantise(row, values, |bytes, scale, values| {
            // SAFETY: the machine has this backend's instructions.
            unsafe { (cpu.kernels.quantised.widen_e4m3)(bytes, scale, values) }
        });
    }
    if w.is_transposed() {
        return quant::dequantise(w, row, values);
    }
    let row_bytes = w.format().row_bytes(w.cols());
    let bytes = &host::bytes(w.data())[row * row_bytes..][..row_bytes];
    match (w.format(), w.scales()) {
        (Format::Affine { bits, group }, [Some(scales), Some(biases)]) => {
            let (group, format) = (usize::from(group), Format::of(scales.dtype()).expect("scales are plain numbers"));
            let numbers = w.cols() / group;
            let of_row = |tensor| &host::bytes(tensor)[row * numbers * format.row_bytes(1)..];
            let [scales, biases] = [of_row(scales), of_row(biases)];
            let numbers = |index| [scales, biases].map(|bytes| element(format, bytes, index));
            cpu.vectorised(Affine { bits, group, bytes, numbers, values });
        }
        (Format::Ggml(_), _) => quant::dequantise(w, row, values),
        (plain, _) => {
            // SAFETY: the row's bytes, and room for as many numbers.
            unsafe { (cpu.kernels.widen.of(plain))(bytes.as_ptr(), values.as_mut_ptr().cast(), values.len()) }
        }
    }
}

/// A row of affine-quantised weights; `numbers` gives a group's scale and bias.
struct Affine<'a, F> {
    bits: u8,
    group: usize,
    bytes: &'a [u8],
    numbers: F,
    values: &'a mut [f32],
}

impl<F: Fn(usize) -> [f32; 2]> Loop for Affine<'_, F> {
    #[inline(always)]
    fn run<const FUSED: bool>(self) {
        match self.bits {
            2 => self.of::<2>(),
            3 => self.of::<3>(),
            4 => self.of::<4>(),
            5 => self.of::<5>(),
            6 => self.of::<6>(),
            _ => self.of::<8>(),
        }
    }
}

impl<F: Fn(usize) -> [f32; 2]> Affine<'_, F> {
    #[inline(always)]
    fn of<const BITS: usize>(self) {
        let packed = self.bytes.chunks_exact(self.group * BITS / 8);
        for (g, (values, packed)) in self.values.chunks_exact_mut(self.group).zip(packed).enumerate() {
            let [scale, bias] = (self.numbers)(g);
            for (eight, packed) in values.as_chunks_mut::<8>().0.iter_mut().zip(packed.as_chunks::<BITS>().0) {
                let mut word = [0; 8];
                word[..BITS].copy_from_slice(packed);
                let (word, mask) = (u64::from_le_bytes(word), (1 << BITS) - 1);
                // All eight in 32 bits, or four of them.
                let halves = [word as u32, (word >> (4 * BITS)) as u32];
                for i in 0..8 {
                    let q = if BITS <= 4 { halves[0] >> (BITS * i) } else { halves[i / 4] >> (BITS * (i % 4)) };
                    eight[i] = scale * (q & mask) as i32 as f32 + bias;
                }
            }
        }
    }
}
