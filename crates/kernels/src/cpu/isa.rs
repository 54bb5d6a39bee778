//! The inner loops, one set for each instruction set, chosen when the backend is made.
//!
//! [`tile`] holds the loops, written once over a vector type, `affine` those of quantised weights and [`recurrence`] those of states; `avx2` (with `avx_vnni`),
//! `avx512` (with `vnni` and `amx`), `neon` (with `neon_dot`) and `portable` hold the vectors and instantiate the loops with their instructions enabled. What
//! every set keeps to: an output element has one accumulator vector, filled in the order of the reduced dimension and
//! summed in one fixed order, whatever the tile it is computed in.

mod affine;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx_vnni;
#[cfg(target_arch = "x86_64")]
mod by_word;
#[cfg(target_arch = "x86_64")]
mod e4m3_rows;
pub(super) mod group;
mod lone;
mod many;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_dot;
mod outputs;
mod panel;
mod portable;
pub(super) mod recurrence;
mod strips;
mod tile;
#[cfg(target_arch = "x86_64")]
mod unit_rows;
#[cfg(target_arch = "x86_64")]
mod units;
mod unpacked;
#[cfg(target_arch = "x86_64")]
mod vnni;
#[cfg(target_arch = "x86_64")]
mod ymm;

use std::ops::Range;

use panel::LANES_MAX;
use recurrence::Recurrence;

use crate::quant::coded::Rows;
use crate::{Format, GgmlType};

/// An instruction set that the `cpu` backend has kernels for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// AVX-512 (F, BW, DQ, VL) with products of bytes (VNNI), moves of bits and bytes (VBMI), and products of bfloat16 pairs:
    /// Zen 4 and later ones, and Sapphire Rapids, which multiplies f32 faster.
    Avx512Bf16,
    /// The same, and tiles of bytes (AMX-INT8) where the system lets a process have them, with the same bits: for products of many
    /// activation rows with quantised weights. They are no faster than vectors, which are taken unless it is asked for.
    Amx,
    /// [`Isa::Avx512Bf16`] without the last: Ice Lake, Tiger Lake, Rocket Lake, and Sapphire Rapids unless another is asked for.
    Avx512Vbmi,
    /// AVX-512 with products of bytes and of bfloat16 pairs, but without VBMI: Cooper Lake.
    Avx512VnniBf16,
    /// AVX-512 with products of bytes alone: Cascade Lake.
    Avx512Vnni,
    /// AVX2 as below, with products of bytes in vectors of 256 bits: AVX-VNNI (Alder Lake and later ones, Zen 5), or AVX-512's.
    AvxVnni,
    /// AVX-512 (F, BW, DQ, VL): Skylake's servers.
    Avx512,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// Advanced SIMD of 64-bit Arm, with products of bytes for four rows at once (i8mm): most processors since Armv8.6, Apple's
    /// since the M2.
    NeonI8mm,
    /// With products of bytes (dotprod): most since Armv8.2.
    NeonDotprod,
    /// Advanced SIMD of 64-bit Arm.
    Neon,
    /// What the compiler makes of plain Rust.
    Portable,
}

impl Isa {
    /// All of them, best first where pairs of bfloat16 are multiplied fast.
    const ALL: [Isa; 12] = [
        Isa::Avx512Bf16,
        Isa::Amx,
        Isa::Avx512Vbmi,
        Isa::Avx512VnniBf16,
        Isa::Avx512Vnni,
        Isa::AvxVnni,
        Isa::Avx512,
        Isa::Avx2,
        Isa::NeonI8mm,
        Isa::NeonDotprod,
        Isa::Neon,
        Isa::Portable,
    ];

    /// What this machine can run, best first.
    pub fn available() -> impl Iterator<Item = Isa> {
        Isa::in_order(&Features::here()).filter(|isa| isa.runs_here())
    }

    /// All of them, best first for a processor with these.
    fn in_order(has: &Features) -> impl Iterator<Item = Isa> + use<> {
        let first = has.slow_pairs.then_some(Isa::Avx512Vbmi);
        first.into_iter().chain(Isa::ALL.into_iter().filter(move |isa| Some(*isa) != first))
    }

    fn runs_here(self) -> bool {
        // Asked for last: leave to use tiles costs a process room for their state.
        self.runs_with(&Features::here()) && (self != Isa::Amx || leave_for_tiles())
    }

    /// Whether a processor with these can run its kernels.
    fn runs_with(self, has: &Features) -> bool {
        match self {
            Isa::Avx2 => has.avx2,
            Isa::AvxVnni => Isa::Avx2.runs_with(has) && (has.avx_vnni || Isa::Avx512Vnni.runs_with(has)),
            Isa::Avx512 => has.avx512 && Isa::Avx2.runs_with(has),
            Isa::Avx512Vnni => has.avx512_vnni && Isa::Avx512.runs_with(has),
            Isa::Avx512VnniBf16 => has.avx512_bf16 && Isa::Avx512Vnni.runs_with(has),
            Isa::Avx512Vbmi => has.avx512_vbmi && Isa::Avx512Vnni.runs_with(has),
            Isa::Avx512Bf16 => has.avx512_bf16 && Isa::Avx512Vbmi.runs_with(has),
            Isa::Amx => has.amx && Isa::Avx512Bf16.runs_with(has),
            Isa::NeonI8mm => has.i8mm && Isa::NeonDotprod.runs_with(has),
            Isa::NeonDotprod => has.dotprod && Isa::Neon.runs_with(has),
            Isa::Neon => has.neon,
            Isa::Portable => true,
        }
    }

    /// Its kernels, where this machine can run them.
    pub(super) fn kernels(self) -> Option<Kernels> {
        if !self.runs_here() {
            return None;
        }
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Some(avx512::with_tiles()),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Some(avx512::with_bf16()),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vbmi => Some(avx512::with_vbmi()),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512VnniBf16 => Some(avx512::with_vnni_and_bf16()),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Some(avx512::with_vnni()),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Some(avx_vnni::kernels()),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Some(avx512::kernels()),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Some(avx2::kernels()),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => Some(neon_dot::with_i8mm()),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDotprod => Some(neon_dot::with_dotprod()),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Some(neon::kernels()),
            Isa::Portable => Some(portable::kernels()),
            #[allow(unreachable_patterns)]
            _ => None,
        }
    }

    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Amx => "amx",
            Isa::Avx512Bf16 => "avx512-bf16",
            Isa::Avx512Vbmi => "avx512-vbmi",
            Isa::Avx512VnniBf16 => "avx512-vnni-bf16",
            Isa::Avx512Vnni => "avx512-vnni",
            Isa::AvxVnni => "avx-vnni",
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::NeonI8mm => "neon-i8mm",
            Isa::NeonDotprod => "neon-dotprod",
            Isa::Neon => "neon",
            Isa::Portable => "portable",
        }
    }
}

/// Whether the system lets this process use tiles.
fn leave_for_tiles() -> bool {
    #[cfg(target_arch = "x86_64")]
    return amx::is_permitted();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// What a processor has, of what instruction sets are told apart by.
#[derive(Clone, Copy, Debug, Default)]
struct Features {
    /// With FMA and F16C.
    avx2: bool,
    avx_vnni: bool,
    /// F, BW, DQ and VL.
    avx512: bool,
    avx512_vnni: bool,
    avx512_vbmi: bool,
    avx512_bf16: bool,
    /// Products of bfloat16 pairs take longer than those of f32, as was measured on Emerald Rapids.
    slow_pairs: bool,
    /// Tiles of bytes.
    amx: bool,
    neon: bool,
    dotprod: bool,
    i8mm: bool,
}

impl Features {
    #[cfg(target_arch = "x86_64")]
    fn here() -> Features {
        use std::arch::is_x86_feature_detected as has;
        Features {
            avx2: has!("avx2") && has!("fma") && has!("f16c"),
            avx_vnni: has!("avxvnni"),
            avx512: has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl"),
            avx512_vnni: has!("avx512vnni"),
            avx512_vbmi: has!("avx512vbmi"),
            avx512_bf16: has!("avx512bf16"),
            slow_pairs: has!("avx512bf16") && has!("avx512vbmi") && avx2::is_intel(),
            amx: amx::is_known(),
            ..Features::default()
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn here() -> Features {
        use std::arch::is_aarch64_feature_detected as has;
        Features { neon: true, dotprod: has!("dotprod"), i8mm: has!("i8mm"), ..Features::default() }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn here() -> Features {
        Features::default()
    }
}

/// Bytes that a processor brings into its caches at once.
pub(crate) const LINE_BYTES: usize = 64;

/// Asks for a line, to be in the second-level cache soon. Any address will do.
#[inline(always)]
pub(crate) fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: part of every x86-64; a hint, which reads nothing.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a hint, which reads nothing.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{at}]", at = in(reg) at, options(readonly, nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}

/// Dot products of rows with rows: `out[c · out_stride + r] = Σ_k w[r][k] · x[c][k]`.
///
/// Weights, f32 or bf16 activations, and outputs lie at any byte; strides of `w` and `x` are in bytes, of `out` in
/// elements.
#[derive(Clone, Copy)]
pub(super) struct Dots {
    pub w: *const u8,
    pub w_stride: usize,
    pub rows: usize,
    pub x: *const u8,
    pub x_stride: usize,
    pub columns: usize,
    pub k: usize,
    pub out: *mut f32,
    pub out_stride: usize,
}

impl Dots {
    /// Few activation rows are multiplied one by one with as many weight rows at once as stay in a second-level cache: rows of
    /// weights, and the activation row.
    fn one_by_one(&self) -> impl Iterator<Item = (Range<usize>, usize)> + use<> {
        const BYTES: usize = 64 << 10;
        let (rows, columns) = (self.rows, self.columns);
        let at_once = match columns {
            1 => rows,
            _ => (BYTES / self.w_stride.max(1)).max(1).next_multiple_of(LANES_MAX),
        };
        let parts = (0..rows).step_by(at_once.max(1)).map(move |first| first..rows.min(first + at_once));
        parts.flat_map(move |rows| (0..columns).map(move |column| (rows.clone(), column)))
    }

    /// Some weight rows with one activation row.
    fn part(&self, rows: &Range<usize>, column: usize) -> Dots {
        Dots {
            w: self.w.wrapping_add(rows.start * self.w_stride),
            rows: rows.len(),
            x: self.x.wrapping_add(column * self.x_stride),
            columns: 1,
            out: self.out.wrapping_add(column * self.out_stride + rows.start),
            ..*self
        }
    }
}

/// [`Dots`] of affine-quantised weights: `w[r][k] = scale · q + bias`, with scales and biases `[rows, k / group]`.
/// Activation rows are what [`QuantisedKernels`] makes of them.
#[derive(Clone, Copy)]
pub(super) struct AffineDots {
    pub dots: Dots,
    pub bits: usize,
    pub group: usize,
    /// Scales and biases of the first row, at any byte.
    pub scales: [*const u8; 2],
    /// F32, F16 or BF16.
    pub scale_format: Format,
}

/// [`Dots`] of weights that are unpacked to bytes. Activation rows are what [`group::round`] makes of them for eight bits and
/// the weights' groups; k is a multiple of their blocks.
#[derive(Clone, Copy)]
pub(super) struct UnpackedDots<'a> {
    pub dots: Dots,
    pub weights: Packed<'a>,
}

/// What is unpacked.
#[derive(Clone, Copy)]
pub(super) enum Packed<'a> {
    /// ggml's blocks, rows of which lie at `Dots::w`.
    Ggml(GgmlType),
    /// Codes, from the first row of `Dots` on, with scales for 16 or 32 of them; `Dots::w` says nothing.
    Coded(Rows<'a>, usize),
}

impl UnpackedDots<'_> {
    /// Some weight rows with one activation row.
    fn part(&self, rows: &Range<usize>, column: usize) -> Self {
        let weights = match self.weights {
            Packed::Ggml(blocks) => Packed::Ggml(blocks),
            Packed::Coded(coded, group) => Packed::Coded(coded.from(rows.start), group),
        };
        UnpackedDots { dots: self.dots.part(rows, column), weights }
    }
}

impl Packed<'_> {
    /// Bits of what a weight is unpacked to: 4, 5, 6 or 8.
    pub fn bits(&self) -> usize {
        match self {
            Packed::Ggml(blocks) => blocks.bits(),
            Packed::Coded(rows, _) => rows.coded.unpacked_bits(),
        }
    }

    /// Where the first row begins and how far the next one is, where rows lie one behind the other; else nowhere.
    fn rows_at(&self, d: &Dots) -> (*const u8, usize) {
        match self {
            Packed::Ggml(_) => (d.w, d.w_stride),
            Packed::Coded(rows, _) if rows.coded.is_transposed() => (rows.data.as_ptr(), 0),
            Packed::Coded(rows, _) => {
                let row_bytes = rows.shape[1] * rows.coded.bits() / 8;
                (rows.data.as_ptr().wrapping_add(rows.first * row_bytes), rows.step * row_bytes)
            }
        }
    }

    /// Whether rows lie side by side, not one behind the other.
    pub fn is_transposed(&self) -> bool {
        matches!(self, Packed::Coded(rows, _) if rows.coded.is_transposed())
    }

    /// Weights that share a scale: 16 or 32.
    pub fn group(&self) -> usize {
        match self {
            Packed::Ggml(blocks) => blocks.group(),
            Packed::Coded(_, group) => *group,
        }
    }
}

/// Weighted sums of rows: `out[c · out_stride + d] += Σ_t p[c · p_stride + t] · v[t][d]`, in ascending t.
#[derive(Clone, Copy)]
pub(super) struct Mix {
    pub p: *const f32,
    pub p_stride: usize,
    pub columns: usize,
    pub v: *const u8,
    pub v_stride: usize,
    pub terms: usize,
    pub dim: usize,
    pub out: *mut f32,
    pub out_stride: usize,
}

/// Converts elements: (from, to, how many).
pub(super) type Convert = unsafe fn(*const u8, *mut u8, usize);

/// One function for each plain [`Format`].
#[derive(Clone, Copy)]
pub(super) struct ByFormat<F> {
    f32: F,
    f16: F,
    bf16: F,
}

impl<F: Copy> ByFormat<F> {
    pub(super) fn of(&self, format: Format) -> F {
        match format {
            Format::F32 => self.f32,
            Format::F16 => self.f16,
            Format::Bf16 => self.bf16,
            Format::Affine { .. } | Format::Ggml(_) | Format::Coded(_) => {
                panic!("quantised weights have kernels of their own")
            }
        }
    }
}

/// The kernels of one instruction set. All are unsafe: the machine must have the instructions, and the addresses must
/// hold what the argument says.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    /// Dot products with f32 activations.
    pub dots: ByFormat<unsafe fn(&Dots)>,
    /// Dot products of bf16 weights with bf16 activations, where the instruction set multiplies them, and what rounds
    /// f32 activations to them.
    pub bf16: Option<Bf16Kernels>,
    /// Dot products with quantised weights.
    pub quantised: QuantisedKernels,
    /// Weighted sums.
    pub mix: ByFormat<unsafe fn(&Mix)>,
    /// A step of a softmax: see [`tile::softmax`].
    pub softmax: unsafe fn(&mut [f32], f32, f32) -> (f32, f32),
    /// Recurrent states.
    pub recurrence: Recurrence,
    /// Elements of a format to f32: (from, to, how many).
    pub widen: ByFormat<Convert>,
    /// f32 to elements of a format, rounding to nearest even: (from, to, how many).
    pub narrow: ByFormat<Convert>,
}

/// See [`Kernels::bf16`].
#[derive(Clone, Copy)]
pub(super) struct Bf16Kernels {
    pub dots: unsafe fn(&Dots),
    pub round: Convert,
}

/// Makes a row of activations what a product takes: (activations, bits of the weights, their part for `round` or group for `sum`, to).
pub(super) type Group = unsafe fn(&[f32], usize, usize, *mut u8);

/// Products with quantised weights.
#[derive(Clone, Copy)]
pub(super) struct QuantisedKernels {
    /// With activations that `round` made.
    pub rounded: unsafe fn(&AffineDots),
    /// With activations that `sum` made.
    pub precise: unsafe fn(&AffineDots),
    /// Of weights that are unpacked, with activations that `round` made.
    pub unpacked: unsafe fn(&UnpackedDots),
    /// Of rows of E4M3, whatever `Dots::w` says, with one row of f32 activations, without widening them to memory first; or says
    /// that it cannot.
    pub e4m3: unsafe fn(&Dots, &Rows) -> bool,
    /// Widens E4M3, times a scale: see [`widen_e4m3`](crate::quant::coded::widen_e4m3).
    pub widen_e4m3: unsafe fn(&[u8], f32, &mut [f32]),
    /// To int8: see [`group::round`].
    pub round: Group,
    /// In f32: see [`group::sum`].
    pub sum: Group,
    /// Weight rows that `rounded` and `unpacked` compute together, with several activation rows.
    pub rows: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(has: Features) -> Isa {
        Isa::in_order(&has).find(|isa| isa.runs_with(&has)).expect("plain Rust runs everywhere")
    }

    #[test]
    fn each_generation_gets_the_best_that_it_can_run() {
        let haswell = Features { avx2: true, ..Features::default() };
        let alder_lake = Features { avx_vnni: true, ..haswell };
        let skylake_server = Features { avx512: true, ..haswell };
        let cascade_lake = Features { avx512_vnni: true, ..skylake_server };
        let cooper_lake = Features { avx512_bf16: true, ..cascade_lake };
        let ice_lake = Features { avx512_vbmi: true, ..cascade_lake };
        let zen4 = Features { avx512_bf16: true, ..ice_lake };
        let zen5 = Features { avx_vnni: true, ..zen4 };
        let sapphire_rapids = Features { amx: true, slow_pairs: true, ..zen5 };
        let cortex_a53 = Features { neon: true, ..Features::default() };
        let apple_m1 = Features { dotprod: true, ..cortex_a53 };
        let apple_m2 = Features { i8mm: true, ..apple_m1 };
        for (has, isa) in [
            (cortex_a53, Isa::Neon),
            (apple_m1, Isa::NeonDotprod),
            (apple_m2, Isa::NeonI8mm),
            (Features::default(), Isa::Portable),
            (haswell, Isa::Avx2),
            (alder_lake, Isa::AvxVnni),
            (skylake_server, Isa::Avx512),
            (cascade_lake, Isa::Avx512Vnni),
            (cooper_lake, Isa::Avx512VnniBf16),
            (ice_lake, Isa::Avx512Vbmi),
            (zen4, Isa::Avx512Bf16),
            (zen5, Isa::Avx512Bf16),
            (sapphire_rapids, Isa::Avx512Vbmi),
        ] {
            assert_eq!(best(has), isa, "{has:?}");
        }
        // Cannon Lake has VBMI without VNNI, and none of its kernels' products.
        assert_eq!(best(Features { avx512_vbmi: true, ..skylake_server }), Isa::Avx512);
    }
}
