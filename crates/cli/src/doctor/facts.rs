//! What the system tells without measuring.

use outpour_kernels::cpu::{self, Isa};
use outpour_store::machine::{self, HugePages, Machine};
use outpour_store::read::{self, ReaderKind};
use serde::Serialize;

/// What the system tells.
#[derive(Serialize)]
pub struct Facts {
    pub processor: Processor,
    pub memory: Memory,
    pub system: System,
}

#[derive(Serialize)]
pub struct Processor {
    pub name: Option<String>,
    /// The instruction set that is used.
    pub isa: &'static str,
    /// Those that outpour has faster kernels for, and this processor or its host lacks.
    pub isa_missing: Vec<&'static str>,
    pub threads: usize,
    /// What `threads` is by default.
    pub threads_default: usize,
    /// CPUs that this process may run on.
    pub cpus_allowed: usize,
    /// CPUs' worth of time that the control group allows.
    pub cpu_quota: Option<f64>,
    /// Threads that wanted to run in the last minute, before anything was measured.
    pub load: Option<f64>,
}

#[derive(Serialize)]
pub struct Memory {
    pub total_bytes: Option<u64>,
    pub available_bytes: Option<u64>,
    pub cgroup_limit_bytes: Option<u64>,
    pub cgroup_free_bytes: Option<u64>,
    /// `--ram` where none is given.
    pub ram_default_bytes: Option<u64>,
    /// What may be locked or registered; null is: without limit.
    pub memlock_limit_bytes: Option<u64>,
    /// When the kernel gives huge pages.
    pub huge_pages: Option<&'static str>,
    pub swap_total_bytes: Option<u64>,
    pub swap_used_bytes: Option<u64>,
    pub overcommit: Option<u64>,
}

#[derive(Serialize)]
pub struct System {
    pub os: &'static str,
    pub kernel: Option<String>,
    /// Whether io_uring can be used; null where there is none to use.
    pub io_uring: Option<bool>,
    /// The system's answer where it cannot.
    pub io_uring_refusal: Option<String>,
    /// `kernel.io_uring_disabled`.
    pub io_uring_disabled: Option<u64>,
    /// Whether system calls are filtered, as in containers.
    pub seccomp: bool,
}

impl Facts {
    /// Looks around. `threads` as given.
    pub fn gather(threads: Option<usize>) -> Facts {
        let machine = Machine::here();
        let (system, cgroup, memory) = (machine.system(), machine.cgroup(), machine.memory());
        let threads_default = cpu::default_threads();
        let refusal = match read::open(ReaderKind::Uring) {
            Ok(_) => None,
            Err(why) => Some(why.to_string()),
        };
        let isa = Isa::available().next().unwrap_or(Isa::Portable);
        Facts {
            processor: Processor {
                name: machine.cpu_name(),
                isa: isa.name(),
                isa_missing: missing(),
                threads: threads.unwrap_or(threads_default),
                threads_default,
                cpus_allowed: machine::cpus_allowed(),
                cpu_quota: cgroup.cpu_quota,
                load: system.load,
            },
            memory: Memory {
                total_bytes: memory.map(|memory| memory.total_bytes),
                available_bytes: memory.map(|memory| memory.available_bytes),
                cgroup_limit_bytes: cgroup.memory_limit_bytes,
                cgroup_free_bytes: cgroup.memory_free_bytes,
                ram_default_bytes: machine.default_ram_bytes(),
                memlock_limit_bytes: machine::memlock_limit_bytes().filter(|_| !system.may_lock),
                huge_pages: system.huge_pages.map(|when| match when {
                    HugePages::Always => "always",
                    HugePages::OnRequest => "on request",
                    HugePages::Never => "never",
                }),
                swap_total_bytes: system.swap_total_bytes,
                swap_used_bytes: system.swap_used_bytes,
                overcommit: system.overcommit,
            },
            system: System {
                os: std::env::consts::OS,
                kernel: system.kernel,
                io_uring: cfg!(target_os = "linux").then_some(refusal.is_none()),
                io_uring_refusal: refusal.filter(|_| cfg!(target_os = "linux")),
                io_uring_disabled: system.io_uring_disabled,
                seccomp: system.seccomp,
            },
        }
    }
}

impl Memory {
    /// A share of what may be used by default; `None` where that is plenty or unknown.
    pub fn room_bytes(&self, share: u64) -> Option<usize> {
        let room = usize::try_from(self.ram_default_bytes? / share).ok()?;
        (room < outpour_kernels::speed::weights_bytes()).then_some(room.max(ROOM_BYTES_MIN))
    }
}

/// Room for the largest matrix that is measured, twice.
const ROOM_BYTES_MIN: usize = 32 << 20;

/// Instruction sets of this kind of processor that would be faster than the one that is used.
fn missing() -> Vec<&'static str> {
    let kin: &[Isa] = if cfg!(target_arch = "x86_64") {
        &[Isa::Avx512Vbmi, Isa::Avx512Vnni, Isa::AvxVnni, Isa::Avx512, Isa::Avx2]
    } else if cfg!(target_arch = "aarch64") {
        &[Isa::Neon]
    } else {
        &[]
    };
    let better = |other: &&Isa| Isa::available().all(|here| here != **other);
    kin.iter().take_while(better).map(|other| other.name()).collect()
}
