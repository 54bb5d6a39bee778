//! Kinds of values and types of tensors, by their numbers.

use crate::checkpoint::{BlockType, StoredType};

/// Kinds of values beside scalars.
pub const TEXT: u32 = 8;
pub const LIST: u32 = 9;
/// The highest number of a tensor's type that is known.
const NUMBER_MAX: u32 = 42;
/// Types that files had once, and that ggml has given up.
const REMOVED: [(u32, &str); 8] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
];

/// What to call a type that is not known.
pub fn unknown(number: u32) -> String {
    match REMOVED.iter().find(|(removed, _)| *removed == number) {
        Some((_, name)) => format!("{name}, which ggml has given up (its number {number})"),
        None => format!("number {number} of ggml, which is not known"),
    }
}

/// Bytes of a scalar of a kind; `None` for texts, lists and what is no kind.
pub fn scalar_bytes(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// The number of a type that is called so.
pub fn type_number(name: &str) -> Option<u32> {
    (0..=NUMBER_MAX).find(|&number| tensor_type(number).is_some_and(|(dtype, ..)| dtype.to_string() == name))
}

/// A tensor's type, the weights of one of its blocks, and the bytes.
pub fn tensor_type(number: u32) -> Option<(StoredType, u64, u64)> {
    let blocks = |name, weights: usize, bytes: usize| {
        Some((StoredType::Blocks(BlockType { name, weights, bytes }), weights as u64, bytes as u64))
    };
    let plain = |name: &str, bytes| Some((StoredType::Other(name.to_owned()), 1, bytes));
    match number {
        0 => Some((StoredType::F32, 1, 4)),
        1 => Some((StoredType::F16, 1, 2)),
        30 => Some((StoredType::Bf16, 1, 2)),
        24 => plain("I8", 1),
        25 => plain("I16", 2),
        26 => plain("I32", 4),
        27 => plain("I64", 8),
        28 => plain("F64", 8),
        2 => blocks("Q4_0", 32, 18),
        3 => blocks("Q4_1", 32, 20),
        6 => blocks("Q5_0", 32, 22),
        7 => blocks("Q5_1", 32, 24),
        8 => blocks("Q8_0", 32, 34),
        9 => blocks("Q8_1", 32, 36),
        10 => blocks("Q2_K", 256, 84),
        11 => blocks("Q3_K", 256, 110),
        12 => blocks("Q4_K", 256, 144),
        13 => blocks("Q5_K", 256, 176),
        14 => blocks("Q6_K", 256, 210),
        15 => blocks("Q8_K", 256, 292),
        16 => blocks("IQ2_XXS", 256, 66),
        17 => blocks("IQ2_XS", 256, 74),
        18 => blocks("IQ3_XXS", 256, 98),
        19 => blocks("IQ1_S", 256, 50),
        20 => blocks("IQ4_NL", 32, 18),
        21 => blocks("IQ3_S", 256, 110),
        22 => blocks("IQ2_S", 256, 82),
        23 => blocks("IQ4_XS", 256, 136),
        29 => blocks("IQ1_M", 256, 56),
        34 => blocks("TQ1_0", 256, 54),
        35 => blocks("TQ2_0", 256, 66),
        39 => blocks("MXFP4", 32, 17),
        40 => blocks("NVFP4", 64, 36),
        41 => blocks("Q1_0", 128, 18),
        42 => blocks("Q2_0", 64, 18),
        _ => None,
    }
}
