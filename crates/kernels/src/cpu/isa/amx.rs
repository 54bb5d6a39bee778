//! AMX: tiles of sixteen rows of 64 bytes. Products of bytes alone; the floating-point ones add in another order than vectors do.
//!
//! A product of 16 × 64 activations with 64 × 16 weights takes 16 cycles of the tile unit, one of 16 × 32 with 32 × 16 as many,
//! where `vpdpbusd` takes 128 and 64 of both vector ports; what is left for these is scaling the integers.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::sync::LazyLock;

use super::many::{Config, Tiles};

/// Whether the system lets this process use tiles, on a processor that has them. Linux is asked for that once: threads that
/// exist then and later ones may.
pub(super) fn is_permitted() -> bool {
    static PERMITTED: LazyLock<bool> = LazyLock::new(ask);
    *PERMITTED
}

/// Whether the processor has AMX-TILE and AMX-INT8, and the system saves tiles' state.
pub(super) fn is_known() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    const TILE_AND_INT8: u32 = 3 << 24;
    const TILE_STATE: u64 = 3 << 17;
    let has = |bits: u32, all: u32| bits & all == all;
    if __cpuid(0).eax < 7 || !has(__cpuid(1).ecx, OSXSAVE) || !has(__cpuid_count(7, 0).edx, TILE_AND_INT8) {
        return false;
    }
    // SAFETY: OSXSAVE says that there is the instruction.
    unsafe { _xgetbv(0) & TILE_STATE == TILE_STATE }
}

/// Asks Linux for the state of tiles, which is large, and which signal handlers need room for.
#[cfg(target_os = "linux")]
fn ask() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let refused: isize;
    // SAFETY: the call takes two numbers, and changes nothing but the process's permission.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => refused,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    refused == 0
}

#[cfg(not(target_os = "linux"))]
fn ask() -> bool {
    false
}

/// The instructions.
pub(super) enum Amx {}

impl Tiles for Amx {
    const KNOWN: bool = true;

    #[inline(always)]
    unsafe fn configure(config: &Config) {
        // SAFETY: the machine has the instruction, and the shapes are 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) config, options(nostack, readonly, preserves_flags)) }
    }

    #[inline(always)]
    unsafe fn release() {
        // SAFETY: the machine has the instruction.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) }
    }

    #[inline(always)]
    unsafe fn load<const PART: usize>(x: *const u8, x_stride: usize) {
        // SAFETY: the machine has the instruction, tiles have their shapes, and addresses hold them: the caller's promise.
        unsafe {
            asm!(
                "tileloadd tmm{tile}, [{x} + {x_stride}]",
                tile = const 4 + PART % 2,
                x = in(reg) x,
                x_stride = in(reg) x_stride,
                out("tmm4") _, out("tmm5") _,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn product<const PART: usize, const PANEL: usize>(w: *const u8, to: *mut i32, lanes: usize) {
        // SAFETY: as above.
        unsafe {
            asm!(
                "tileloadd tmm{w_tile}, [{w} + {line}]",
                "tilezero tmm{sums}",
                "tdpbsud tmm{sums}, tmm{x_tile}, tmm{w_tile}",
                "tilestored [{to} + {line}], tmm{sums}",
                sums = const (PART + 2 * PANEL) % 4,
                x_tile = const 4 + PART % 2,
                w_tile = const 6 + (PART + PANEL) % 2,
                w = in(reg) w,
                to = in(reg) to,
                line = in(reg) 4 * lanes,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        }
    }
}
