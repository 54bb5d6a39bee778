//! What the instructions of this machine give at most: loops that touch no memory.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::cpu::Isa;

/// What the best instructions of an instruction set give on all threads, weights and activations in registers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// Products of bytes, added up in 32 bits: multiplications and additions in a second.
    pub int8_ops_per_second: f64,
    /// Products of bf16, added up in f32; f32's own where the instruction set has none.
    pub bf16_flops_per_second: f64,
    /// Multiply-adds of f32.
    pub f32_flops_per_second: f64,
}

/// Runs the loops of `isa` on so many threads, about `budget` in all. `None` for plain Rust, which has no best
/// instruction, and where this machine lacks the instructions.
pub fn peaks(isa: Isa, threads: usize, budget: Duration) -> Option<Peaks> {
    let loops = loops(isa)?;
    let rate = |ops: Loop| (0..3).map(|_| slice(ops, threads, budget / 9)).fold(0.0, f64::max);
    let f32_flops_per_second = rate(loops.f32);
    let bf16_flops_per_second = loops.bf16.map_or(f32_flops_per_second, rate);
    Some(Peaks { int8_ops_per_second: rate(loops.int8), bf16_flops_per_second, f32_flops_per_second })
}

/// Does some work, and returns how many multiplications and additions it was.
type Loop = fn() -> u64;

struct Loops {
    int8: Loop,
    bf16: Option<Loop>,
    f32: Loop,
}

/// Multiplications and additions in a second, on all threads for `time`.
fn slice(work: Loop, threads: usize, time: Duration) -> f64 {
    let (total, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                // Once at least, also where the thread came late.
                loop {
                    total.fetch_add(work(), Ordering::Relaxed);
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
    });
    total.into_inner() as f64 / began.elapsed().as_secs_f64().max(1e-9)
}

/// Rounds of a loop between two looks at the clock.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const ROUNDS: u64 = 4096;

/// Defines a loop of `$sums` independent chains, enough to hide the latency of the instruction.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! peak_loop {
    ($name:ident, $features:literal, $sums:literal chains of $ops:literal, $zero:expr, $step:expr) => {
        #[target_feature(enable = $features)]
        pub(super) fn $name() -> u64 {
            let mut sums = [$zero; $sums];
            for _ in 0..ROUNDS {
                for sum in &mut sums {
                    *sum = $step(*sum);
                }
            }
            std::hint::black_box(sums);
            ROUNDS * $sums * $ops
        }
    };
}

#[cfg(target_arch = "x86_64")]
fn loops(isa: Isa) -> Option<Loops> {
    if !Isa::available().any(|here| here == isa) {
        return None;
    }
    // SAFETY: the machine has the instructions of `isa`, here and below.
    let avx512 = || unsafe { x86::avx512_f32() };
    match isa {
        Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512VnniBf16 => Some(Loops {
            // SAFETY: as above.
            int8: if isa == Isa::Amx { || unsafe { x86::amx_int8() } } else { || unsafe { x86::avx512_int8() } },
            // SAFETY: as above.
            bf16: Some(|| unsafe { x86::avx512_bf16() }),
            f32: avx512,
        }),
        // SAFETY: as above.
        Isa::Avx512Vbmi | Isa::Avx512Vnni => {
            // SAFETY: as above.
            Some(Loops { int8: || unsafe { x86::avx512_int8() }, bf16: None, f32: avx512 })
        }
        Isa::AvxVnni => Some(Loops {
            int8: if std::arch::is_x86_feature_detected!("avxvnni") {
                // SAFETY: as above.
                || unsafe { x86::avx_vnni_int8() }
            } else {
                // SAFETY: as above; without AVX-VNNI there is AVX-512's.
                || unsafe { x86::avx512_int8_of_256() }
            },
            bf16: None,
            // SAFETY: as above.
            f32: || unsafe { x86::avx2_f32() },
        }),
        // SAFETY: as above.
        Isa::Avx512 => Some(Loops { int8: || unsafe { x86::avx512_int8_pairs() }, bf16: None, f32: avx512 }),
        Isa::Avx2 => Some(Loops {
            // SAFETY: as above.
            int8: || unsafe { x86::avx2_int8() },
            bf16: None,
            // SAFETY: as above.
            f32: || unsafe { x86::avx2_f32() },
        }),
        Isa::NeonI8mm | Isa::NeonDotprod | Isa::Neon | Isa::Portable => None,
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::*;

    use super::ROUNDS;

    /// What `ldtilecfg` reads: its first palette, and for each of eight tiles 64 bytes in each of 16 rows.
    const WHOLE_TILES: [u8; 64] = {
        let (mut config, mut tile) = ([0; 64], 0);
        config[0] = 1;
        while tile < 8 {
            (config[16 + 2 * tile], config[48 + tile]) = (64, 16);
            tile += 1;
        }
        config
    };

    /// Products of whole tiles, which are zero when they get their shapes: four sums, of two tiles by two.
    ///
    /// # Safety
    /// The machine has AMX-INT8, and permits it.
    pub(super) unsafe fn amx_int8() -> u64 {
        const OPS: u64 = 2 * 16 * 16 * 64;
        // SAFETY: the caller's promise.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "2:",
                "tdpbsud tmm0, tmm4, tmm6",
                "tdpbsud tmm1, tmm4, tmm7",
                "tdpbsud tmm2, tmm5, tmm6",
                "tdpbsud tmm3, tmm5, tmm7",
                "dec {rounds}",
                "jnz 2b",
                "tilerelease",
                config = in(reg) &WHOLE_TILES,
                rounds = inout(reg) ROUNDS => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly),
            );
        }
        ROUNDS * 4 * OPS
    }

    peak_loop!(avx512_f32, "avx512f", 12 chains of 32, _mm512_set1_ps(0.0), |sum| {
        _mm512_fmadd_ps(_mm512_set1_ps(0.5), sum, _mm512_set1_ps(1.0))
    });
    peak_loop!(avx512_int8, "avx512f,avx512bw,avx512vnni", 12 chains of 128, _mm512_set1_epi32(0), |sum| {
        _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(3), _mm512_set1_epi8(5))
    });
    peak_loop!(avx512_int8_of_256, "avx512f,avx512vl,avx512vnni", 12 chains of 64, _mm256_set1_epi32(0), |sum| {
        _mm256_dpbusd_epi32(sum, _mm256_set1_epi8(3), _mm256_set1_epi8(5))
    });
    peak_loop!(avx_vnni_int8, "avx2,avxvnni", 12 chains of 64, _mm256_set1_epi32(0), |sum| {
        _mm256_dpbusd_avx_epi32(sum, _mm256_set1_epi8(3), _mm256_set1_epi8(5))
    });
    peak_loop!(avx512_bf16, "avx512f,avx512bw,avx512bf16", 12 chains of 64, _mm512_set1_ps(0.0), |sum| {
        // SAFETY: vectors of the same size, of any bits.
        let x: __m512bh = unsafe { std::mem::transmute(_mm512_set1_epi16(0x3f00)) };
        _mm512_dpbf16_ps(sum, x, x)
    });
    // The sum is a factor too, or the products would be computed once, before the loop. With weights of few bits, sums stay in 16
    // bits over several products.
    peak_loop!(avx512_int8_pairs, "avx512f,avx512bw", 12 chains of 128, _mm512_set1_epi32(0), |sum| {
        _mm512_add_epi16(sum, _mm512_maddubs_epi16(sum, _mm512_set1_epi8(5)))
    });
    peak_loop!(avx2_f32, "avx2,fma", 10 chains of 16, _mm256_set1_ps(0.0), |sum| {
        _mm256_fmadd_ps(_mm256_set1_ps(0.5), sum, _mm256_set1_ps(1.0))
    });
    peak_loop!(avx2_int8, "avx2", 12 chains of 64, _mm256_set1_epi32(0), |sum| {
        _mm256_add_epi16(sum, _mm256_maddubs_epi16(sum, _mm256_set1_epi8(5)))
    });
}

#[cfg(target_arch = "aarch64")]
fn loops(isa: Isa) -> Option<Loops> {
    use std::arch::is_aarch64_feature_detected as has;
    if isa == Isa::Portable || !Isa::available().any(|here| here == isa) {
        return None;
    }
    let int8: Loop = match isa {
        // SAFETY: the machine has the instructions of `isa`, here and below.
        Isa::NeonI8mm => || unsafe { arm::smmla() },
        // SAFETY: as above.
        Isa::NeonDotprod => || unsafe { arm::sdot() },
        // SAFETY: as above.
        _ => || unsafe { arm::widening() },
    };
    // SAFETY: the processor was asked.
    let bfdot: Loop = || unsafe { arm::bfdot() };
    Some(Loops {
        int8,
        bf16: has!("bf16").then_some(bfdot),
        // SAFETY: every 64-bit Arm processor has these instructions.
        f32: || unsafe { arm::f32() },
    })
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;
    use std::arch::asm;

    use super::ROUNDS;

    peak_loop!(f32, "neon", 16 chains of 8, vdupq_n_f32(0.0), |sum| {
        vfmaq_f32(vdupq_n_f32(1.0), sum, vdupq_n_f32(0.5))
    });
    // The sum is a factor too, or the products would be computed once, before the loop.
    peak_loop!(widening, "neon", 12 chains of 32, vdupq_n_s32(0), |sum| {
        let (x, w) = (vdupq_n_s8(3), vreinterpretq_s8_s32(sum));
        vpadalq_s16(sum, vpaddq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)), vmull_high_s8(w, x)))
    });
    peak_loop!(sdot, "neon,dotprod", 16 chains of 32, vdupq_n_s32(0), |mut sum: int32x4_t| {
        let x = vdupq_n_s8(3);
        // SAFETY: the function enables the instruction, which touches its registers only.
        unsafe {
            asm!("sdot {s:v}.4s, {x:v}.16b, {x:v}.16b", s = inout(vreg) sum, x = in(vreg) x, options(pure, nomem, nostack));
        }
        sum
    });
    peak_loop!(smmla, "neon,i8mm", 16 chains of 64, vdupq_n_s32(0), |mut sum: int32x4_t| {
        let x = vdupq_n_s8(3);
        // SAFETY: the function enables the instruction, which touches its registers only.
        unsafe {
            asm!("smmla {s:v}.4s, {x:v}.16b, {x:v}.16b", s = inout(vreg) sum, x = in(vreg) x, options(pure, nomem, nostack));
        }
        sum
    });
    peak_loop!(bfdot, "neon,bf16", 16 chains of 16, vdupq_n_f32(0.0), |mut sum: float32x4_t| {
        let x = vdupq_n_u16(0x3f00);
        // SAFETY: the function enables the instruction, which touches its registers only.
        unsafe {
            asm!("bfdot {s:v}.4s, {x:v}.8h, {x:v}.8h", s = inout(vreg) sum, x = in(vreg) x, options(pure, nomem, nostack));
        }
        sum
    });
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn loops(_: Isa) -> Option<Loops> {
    None
}
