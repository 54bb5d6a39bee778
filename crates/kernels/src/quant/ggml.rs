//! The block types of ggml, as GGUF files hold them (`ggml-common.h`): a row of weights is a row of blocks, each with its
//! own scales.
//!
//! Whatever its type, a weight is `scale · q − min`, with a whole number q of at most eight bits, and a scale and perhaps
//! a min for each 16 or 32 weights. `Block` unpacks a block to these: what a weight is worth follows, and products.

pub(crate) mod codebooks;
mod k_quants;
mod plain;

use std::fmt;

pub(crate) use plain::IQ4_VALUES;

/// A block type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // Their names are all there is to say; each is defined where it is unpacked.
pub enum GgmlType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq1S,
    Iq1M,
    Iq2Xxs,
    Iq2Xs,
    Iq2S,
    Iq3Xxs,
    Iq3S,
    Iq4Nl,
    Iq4Xs,
    Tq1_0,
    Tq2_0,
    Mxfp4,
}

/// Most weights of a block.
pub(crate) const WEIGHTS_MAX: usize = 256;
/// Fewest weights that share a scale.
pub(crate) const GROUP_MIN: usize = 16;
/// Most scales of a block.
pub(crate) const SCALES_MAX: usize = WEIGHTS_MAX / GROUP_MIN;

/// How a type's blocks are unpacked: weight i of a block is `scales[i / GROUP] · (u[i] − OFFSET) − mins[i / GROUP]`.
pub(crate) trait Block {
    /// Weights of a block.
    const WEIGHTS: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Weights that share a scale: 16 or 32.
    const GROUP: usize;
    /// Bits of u: 4, 5, 6 or 8.
    const BITS: usize;
    /// What is taken from u.
    const OFFSET: u8;
    /// Whether there are mins; else they are left as they are, and are none.
    const MINS: bool = false;
    /// Unpacks the block at the beginning of `block`.
    fn unpack(block: &[u8], u: &mut [u8], scales: &mut [f32], mins: &mut [f32]);
}

/// Calls `$f::<T, $more>($args)` with T the [`Block`] of a [`GgmlType`].
macro_rules! of_type {
    ($format:expr => $f:ident [$($more:ty),*] ($($args:expr),*)) => {{
        use $crate::quant::ggml::{GgmlType as G, types as t};
        match $format {
            G::Q4_0 => $f::<t::Q4_0 $(, $more)*>($($args),*),
            G::Q4_1 => $f::<t::Q4_1 $(, $more)*>($($args),*),
            G::Q5_0 => $f::<t::Q5_0 $(, $more)*>($($args),*),
            G::Q5_1 => $f::<t::Q5_1 $(, $more)*>($($args),*),
            G::Q8_0 => $f::<t::Q8_0 $(, $more)*>($($args),*),
            G::Q2K => $f::<t::Q2K $(, $more)*>($($args),*),
            G::Q3K => $f::<t::Q3K $(, $more)*>($($args),*),
            G::Q4K => $f::<t::Q4K $(, $more)*>($($args),*),
            G::Q5K => $f::<t::Q5K $(, $more)*>($($args),*),
            G::Q6K => $f::<t::Q6K $(, $more)*>($($args),*),
            G::Iq1S => $f::<t::Iq1S $(, $more)*>($($args),*),
            G::Iq1M => $f::<t::Iq1M $(, $more)*>($($args),*),
            G::Iq2Xxs => $f::<t::Iq2Xxs $(, $more)*>($($args),*),
            G::Iq2Xs => $f::<t::Iq2Xs $(, $more)*>($($args),*),
            G::Iq2S => $f::<t::Iq2S $(, $more)*>($($args),*),
            G::Iq3Xxs => $f::<t::Iq3Xxs $(, $more)*>($($args),*),
            G::Iq3S => $f::<t::Iq3S $(, $more)*>($($args),*),
            G::Iq4Nl => $f::<t::Iq4Nl $(, $more)*>($($args),*),
            G::Iq4Xs => $f::<t::Iq4Xs $(, $more)*>($($args),*),
            G::Tq1_0 => $f::<t::Tq1_0 $(, $more)*>($($args),*),
            G::Tq2_0 => $f::<t::Tq2_0 $(, $more)*>($($args),*),
            G::Mxfp4 => $f::<t::Mxfp4 $(, $more)*>($($args),*),
        }
    }};
}
pub(crate) use of_type;

/// The types as [`Block`]s.
pub(crate) mod types {
    pub(crate) use super::codebooks::{Iq1M, Iq1S, Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs};
    pub(crate) use super::k_quants::{Q2K, Q3K, Q4K, Q5K, Q6K};
    pub(crate) use super::plain::{Iq4Nl, Iq4Xs, Mxfp4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Tq1_0, Tq2_0};
}

impl GgmlType {
    /// All of them.
    pub const ALL: [GgmlType; 22] = [
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::Q8_0,
        GgmlType::Q2K,
        GgmlType::Q3K,
        GgmlType::Q4K,
        GgmlType::Q5K,
        GgmlType::Q6K,
        GgmlType::Iq1S,
        GgmlType::Iq1M,
        GgmlType::Iq2Xxs,
        GgmlType::Iq2Xs,
        GgmlType::Iq2S,
        GgmlType::Iq3Xxs,
        GgmlType::Iq3S,
        GgmlType::Iq4Nl,
        GgmlType::Iq4Xs,
        GgmlType::Tq1_0,
        GgmlType::Tq2_0,
        GgmlType::Mxfp4,
    ];

    /// The type that ggml calls so.
    pub fn named(name: &str) -> Option<GgmlType> {
        GgmlType::ALL.into_iter().find(|format| format.name() == name)
    }

    /// What ggml calls it.
    pub const fn name(self) -> &'static str {
        match self {
            GgmlType::Q4_0 => "Q4_0",
            GgmlType::Q4_1 => "Q4_1",
            GgmlType::Q5_0 => "Q5_0",
            GgmlType::Q5_1 => "Q5_1",
            GgmlType::Q8_0 => "Q8_0",
            GgmlType::Q2K => "Q2_K",
            GgmlType::Q3K => "Q3_K",
            GgmlType::Q4K => "Q4_K",
            GgmlType::Q5K => "Q5_K",
            GgmlType::Q6K => "Q6_K",
            GgmlType::Iq1S => "IQ1_S",
            GgmlType::Iq1M => "IQ1_M",
            GgmlType::Iq2Xxs => "IQ2_XXS",
            GgmlType::Iq2Xs => "IQ2_XS",
            GgmlType::Iq2S => "IQ2_S",
            GgmlType::Iq3Xxs => "IQ3_XXS",
            GgmlType::Iq3S => "IQ3_S",
            GgmlType::Iq4Nl => "IQ4_NL",
            GgmlType::Iq4Xs => "IQ4_XS",
            GgmlType::Tq1_0 => "TQ1_0",
            GgmlType::Tq2_0 => "TQ2_0",
            GgmlType::Mxfp4 => "MXFP4",
        }
    }

    /// Weights of a block; every row is some whole blocks.
    pub const fn block_weights(self) -> usize {
        const fn weights<B: Block>() -> usize {
            B::WEIGHTS
        }
        of_type!(self => weights [] ())
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        const fn bytes<B: Block>() -> usize {
            B::BYTES
        }
        of_type!(self => bytes [] ())
    }

    /// Weights that share a scale: 16 or 32.
    pub(crate) const fn group(self) -> usize {
        const fn group<B: Block>() -> usize {
            B::GROUP
        }
        of_type!(self => group [] ())
    }

    /// Bits of what a weight is unpacked to: 4, 5, 6 or 8.
    pub(crate) const fn bits(self) -> usize {
        const fn bits<B: Block>() -> usize {
            B::BITS
        }
        of_type!(self => bits [] ())
    }

    /// What a row of blocks is worth.
    ///
    /// # Panics
    /// When the row is not of as many whole blocks as there are values.
    pub fn dequantise(self, row: &[u8], values: &mut [f32]) {
        fn all<B: Block>(row: &[u8], values: &mut [f32]) {
            let blocks = row.chunks_exact(B::BYTES).zip(values.chunks_exact_mut(B::WEIGHTS));
            blocks.for_each(|(block, values)| dequantise::<B>(block, values));
        }
        assert_eq!(row.len() / self.block_bytes() * self.block_weights(), values.len(), "whole blocks of {self}");
        of_type!(self => all [] (row, values));
    }
}

/// What a block is worth, each weight rounded after the product and after the difference, as ggml's own are.
fn dequantise<B: Block>(block: &[u8], values: &mut [f32]) {
    let (mut u, mut scales, mut mins) = ([0; WEIGHTS_MAX], [0.0; SCALES_MAX], [0.0; SCALES_MAX]);
    B::unpack(block, &mut u[..B::WEIGHTS], &mut scales[..B::WEIGHTS / B::GROUP], &mut mins[..B::WEIGHTS / B::GROUP]);
    for (i, value) in values.iter_mut().enumerate() {
        let q = f32::from(i16::from(u[i]) - i16::from(B::OFFSET));
        let product = scales[i / B::GROUP] * q;
        *value = if B::MINS { product - mins[i / B::GROUP] } else { product };
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A number of binary16 at byte `at`.
#[inline(always)]
fn f16(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// `N` bytes from byte `at` on.
#[inline(always)]
fn bytes<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..].first_chunk().expect("a block has as many bytes as its type says")
}
