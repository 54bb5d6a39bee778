//! Loops in plain Rust that the compiler vectorises, compiled once for each instruction set.

// Vectors are arrays indexed by lane; iterators over several of them would hide it.
#![allow(clippy::needless_range_loop)]

use super::{Cpu, Isa};

/// A loop to be inlined into functions that enable instructions: `run` and all that it calls are `#[inline(always)]`.
pub(super) trait Loop {
    /// Runs it. `FUSED` is for [`fma`].
    fn run<const FUSED: bool>(self);
}

impl Cpu {
    /// Runs a loop with the instructions of this backend.
    pub(super) fn vectorised(&self, work: impl Loop) {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a backend is only made with an instruction set that the machine has, here and below.
            Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512Vbmi | Isa::Avx512VnniBf16 | Isa::Avx512Vnni | Isa::Avx512 => unsafe {
                avx512(work)
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::AvxVnni | Isa::Avx2 => unsafe { avx2(work) },
            Isa::NeonI8mm | Isa::NeonDotprod | Isa::Neon => work.run::<true>(),
            _ => work.run::<false>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn avx512(work: impl Loop) {
    work.run::<true>();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2(work: impl Loop) {
    work.run::<true>();
}

/// `a · b + c`: rounded once where the instruction set does so in one instruction, else twice.
#[inline(always)]
pub(super) fn fma<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// `1 / (1 + e^-z)`
#[inline(always)]
pub(super) fn sigmoid(z: f32) -> f32 {
    1.0 / (1.0 + exp(-z))
}

/// Within 2.5e-7 of its value, also near zero, where `1 − 2 / (1 + e^2z)` would cancel: there by its series.
#[inline(always)]
pub(super) fn tanh(z: f32) -> f32 {
    let square = z * z;
    let near = square * (-1.0 / 3.0 + square * (2.0 / 15.0 + square * (-17.0 / 315.0 + square * (62.0 / 2835.0))));
    let far = 1.0 - 2.0 / (1.0 + exp(2.0 * z.abs()));
    if z.abs() < 0.3 { z + z * near } else { far.copysign(z) }
}

/// `z · sigmoid(z)`
#[inline(always)]
pub(super) fn silu(z: f32) -> f32 {
    z / (1.0 + exp(-z))
}

/// e^x within 2 ulp, ∞ and subnormal numbers included: x = n·ln 2 + r, and e^r by a polynomial with the coefficients of
/// Cephes' expf. `f32::exp` is a call that no compiler vectorises, and whose last bit is the system's.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// Adding it leaves an integer in the low bits of the sum: 1.5 · 2^23.
    const ROUND: f32 = 12_582_912.0;
    // Beyond these, e^x is 0 or ∞.
    let x = x.clamp(-105.0, 90.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, the first of few bits, so that its product with n is exact.
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = p * r + coefficient;
    }
    // 2^n in two factors, since n may be beyond the exponents of f32.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
    let power = |n: i32| f32::from_bits(((n + 127) << 23).cast_unsigned());
    (p * (r * r) + r + 1.0) * power(n >> 1) * power(n - (n >> 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_2_ulp() {
        for i in -8_700_000..=8_870_000 {
            let x = i as f32 * 1e-5;
            let (got, expected) = (exp(x), f64::from(x).exp());
            assert!((f64::from(got) - expected).abs() <= 2.0 * 1.2e-7 * expected, "exp({x:e}) is not {got:e}");
        }
        for i in 8_700..=10_500 {
            let (got, expected) = (exp(i as f32 * -1e-2), f64::from(i as f32 * -1e-2).exp());
            let subnormal = 2f64.powi(-149);
            assert!((f64::from(got) - expected).abs() <= 2.4e-7 * expected + subnormal);
        }
        let limits = [0.0, -0.0, 89.0, 1e30, f32::INFINITY, -105.0, -1e30, f32::NEG_INFINITY];
        assert_eq!(limits.map(exp), [1.0, 1.0, f32::INFINITY, f32::INFINITY, f32::INFINITY, 0.0, 0.0, 0.0]);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn tanh_is_near_its_value() {
        for i in 1..=1_200_000 {
            let x = i as f32 * 1e-5;
            let (got, expected) = (tanh(x), f64::from(x).tanh());
            assert!((f64::from(got) - expected).abs() <= 2.5e-7 * expected, "tanh({x:e}) is not {got:e}");
            assert_eq!(tanh(-x), -got);
        }
        assert_eq!([0.0, 1e-30, 30.0, f32::INFINITY, f32::NEG_INFINITY].map(tanh), [0.0, 1e-30, 1.0, 1.0, -1.0]);
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn sigmoid_and_silu_have_their_limits() {
        assert_eq!([0.0, 200.0, f32::INFINITY, -200.0, f32::NEG_INFINITY].map(sigmoid), [0.5, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!([0.0, 200.0, -200.0].map(silu), [0.0, 200.0, 0.0]);
        assert!(sigmoid(f32::NAN).is_nan() && silu(f32::NAN).is_nan());
    }
}
