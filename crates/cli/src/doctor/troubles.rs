//! What makes this machine slower than it could be, and how to mend it. Costs are those of EXPERIMENTS.md.

use outpour_engine::profile::Profile;
use outpour_store::bytes::Bytes;
use serde::Serialize;

use super::drive::{Curve, Drives};
use super::facts::Facts;

/// Of the CPUs, the share that others may take before figures are low.
const LOAD_SHARE_MAX: f64 = 0.5;
/// A drive slower than this is the bound of every model that streams.
const DRIVE_BYTES_PER_SECOND_MIN: f64 = 0.7e9;
/// No model that is worth streaming runs in less.
const RAM_BYTES_MIN: u64 = 1 << 30;
/// How much faster the other reader must be to be worth a word: noise is less.
const READER_RATIO_MIN: f64 = 1.25;

/// A trouble and its fix, one line each.
#[derive(Serialize, Debug, PartialEq)]
pub struct Trouble {
    /// A name that does not change: `huge-pages`.
    pub name: &'static str,
    pub trouble: String,
    pub fix: String,
}

/// All troubles, those of measuring first.
pub fn find(facts: &Facts, drive: &Drives, profile: Option<&Profile>) -> Vec<Trouble> {
    let mut found = Vec::new();
    let mut add = |name, trouble: String, fix: &str| found.push(Trouble { name, trouble, fix: fix.to_owned() });
    processor(facts, &mut add);
    memory(facts, drive, &mut add);
    io_uring(facts, &mut add);
    reads(drive, &mut add);
    if profile.is_some_and(|profile| profile.peaks.is_none()) && !facts.processor.isa_missing.is_empty() {
        let trouble =
            format!("this processor has none of {}: products are plain code", facts.processor.isa_missing.join(", "));
        add("isa", trouble, "in a virtual machine, give it the host's processor (QEMU: -cpu host)");
    }
    found
}

type Add<'a> = &'a mut dyn FnMut(&'static str, String, &str);

fn processor(facts: &Facts, add: Add) {
    let processor = &facts.processor;
    if let Some(load) = processor.load.filter(|load| *load > LOAD_SHARE_MAX * processor.cpus_allowed as f64) {
        let trouble = format!(
            "others are at work: {load:.1} threads on average for {} CPUs; figures are low",
            processor.cpus_allowed
        );
        add("busy", trouble, "end them, and run `outpour doctor` again");
    }
    if processor.threads > processor.threads_default {
        let trouble =
            format!("{} threads share {} cores and wait for each other", processor.threads, processor.threads_default);
        add("threads", trouble, "give no --threads, or fewer");
    }
    if let Some(quota) = processor.cpu_quota.filter(|quota| *quota < processor.threads as f64) {
        let trouble = format!(
            "the control group allows {quota:.1} CPUs' time to {} threads: all of them stall when it is spent",
            processor.threads
        );
        add(
            "cpu-quota",
            trouble,
            "raise the limit (docker --cpus, cpu.max), or give --threads with a whole number below it",
        );
    }
}

fn memory(facts: &Facts, drive: &Drives, add: Add) {
    let memory = &facts.memory;
    if let Some(ram) = memory.ram_default_bytes.filter(|&ram| ram < RAM_BYTES_MIN) {
        let limit = memory
            .cgroup_limit_bytes
            .map_or(String::new(), |limit| format!(" of the {} that the control group allows", Bytes(limit)));
        let trouble = format!("only {} are left for --ram by default{limit}", Bytes(ram));
        add("memory", trouble, "end other programs, raise the limit (docker --memory, memory.max), or give --ram");
    }
    if memory.huge_pages == Some("never") {
        let trouble = "huge pages are off: reads took 2.9 times as long without them where it was measured";
        let fix = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled";
        add("huge-pages", trouble.to_owned(), fix);
    }
    let too_little = memory.memlock_limit_bytes.filter(|limit| memory.ram_default_bytes.is_none_or(|ram| *limit < ram));
    if let Some(limit) = too_little.filter(|_| drive.registered.is_some()) {
        let trouble = format!(
            "{} may be locked (ulimit -l): memory cannot be registered with io_uring, and reads take a third more CPU time, \
             without huge pages three times as much and 10 % longer",
            Bytes(limit)
        );
        let fix = "add `* - memlock unlimited` to /etc/security/limits.conf and log in again; in a service LimitMEMLOCK=infinity; \
                   for docker --ulimit memlock=-1";
        add("memlock", trouble, fix);
    }
    if memory.overcommit == Some(2) {
        let trouble =
            "the kernel refuses memory beyond its limit of promises (vm.overcommit_memory is 2), even where it is free";
        add("overcommit", trouble.to_owned(), "sudo sysctl vm.overcommit_memory=0, or give a lower --ram");
    }
    if let Some(total) = memory.swap_total_bytes.filter(|&total| total > 0) {
        let used = Bytes(memory.swap_used_bytes.unwrap_or(0));
        let trouble = format!(
            "swap is on ({}, {used} in use): experts that are swapped out come back slower than from their file",
            Bytes(total)
        );
        add("swap", trouble, "sudo swapoff -a, or sudo sysctl vm.swappiness=1; else a lower --ram");
    }
}

fn io_uring(facts: &Facts, add: Add) {
    let system = &facts.system;
    let Some(refusal) = &system.io_uring_refusal else { return };
    let cost = "reads go through threads, at up to 8 % less speed and 2.6 times the CPU time";
    let (why, fix) = match system.io_uring_disabled {
        Some(1 | 2) => ("kernel.io_uring_disabled forbids it", "sudo sysctl kernel.io_uring_disabled=0"),
        _ if system.seccomp => (
            "a filter of system calls forbids it, as containers have",
            "for docker --security-opt seccomp=FILE with a profile that allows io_uring_setup, io_uring_enter and io_uring_register",
        ),
        _ => (refusal.as_str(), "use Linux 5.13 or later with CONFIG_IO_URING"),
    };
    add("io-uring", format!("io_uring cannot be used ({why}): {cost}"), fix);
}

fn reads(drive: &Drives, add: Add) {
    let file_system = drive.file_system.as_deref().unwrap_or("this file system");
    if drive.direct == Some(false) {
        let trouble = format!("{file_system} refuses O_DIRECT: experts are copied through the page cache");
        add("direct", trouble, "keep models on ext4, XFS or Btrfs on a local drive");
    }
    if let Some(direct) = drive.lies_of_the_cache() {
        let trouble = "some reads came from memory, not from a drive, as the kernel's counters show: those figures are not stored";
        let fix = if direct {
            "name a model on a local drive: a file system in memory (tmpfs) or over the network has no drive to measure"
        } else {
            "none is needed: outpour reads past the page cache"
        };
        add("page-cache", trouble.to_owned(), fix);
    }
    let Some(limit) = drive.limit_bytes_per_second else { return };
    if limit < DRIVE_BYTES_PER_SECOND_MIN {
        let turns = if drive.rotational == Some(true) { ", and says that it turns" } else { "" };
        let trouble = format!("the drive gives {:.2} GB/s at most{turns}: every token waits for it", limit / 1e9);
        add("slow-drive", trouble, "keep models on an NVMe drive in the machine itself");
    }
    if let Some((ratio, depth)) = other_reader(drive).filter(|(ratio, _)| *ratio > READER_RATIO_MIN) {
        let trouble = format!("with {depth} experts in flight, pread reads {ratio:.2} times as fast as io_uring here");
        add("reader", trouble, "try --reader pread");
    }
}

/// How much faster pread is than io_uring, where both were measured alike.
fn other_reader(drive: &Drives) -> Option<(f64, usize)> {
    let curve = |reader: &str, size: Option<u64>| {
        let fits = |curve: &&Curve| {
            curve.reader == reader
                && Some(curve.direct) == drive.direct
                && size.is_none_or(|size| size == curve.record_bytes)
        };
        drive.curves.iter().find(fits)
    };
    let pread = curve("pread", None)?;
    let uring = curve("uring", Some(pread.record_bytes))?;
    let depth = 8;
    let at = |curve: &Curve| curve.samples.iter().find(|sample| sample.depth == depth && sample.of_drive).copied();
    Some((at(pread)?.bytes_per_second / at(uring)?.bytes_per_second, depth))
}

#[cfg(test)]
mod tests;
