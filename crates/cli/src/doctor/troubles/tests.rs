use super::super::drive::Sample;
use super::super::facts::{Memory, Processor, System};
use super::*;

fn facts() -> Facts {
    Facts {
        processor: Processor {
            name: None,
            isa: "avx2",
            isa_missing: vec!["avx512"],
            threads: 4,
            threads_default: 4,
            cpus_allowed: 4,
            cpu_quota: None,
            load: Some(0.1),
        },
        memory: Memory {
            total_bytes: Some(32 << 30),
            available_bytes: Some(30 << 30),
            cgroup_limit_bytes: None,
            cgroup_free_bytes: None,
            ram_default_bytes: Some(28 << 30),
            memlock_limit_bytes: None,
            huge_pages: Some("on request"),
            swap_total_bytes: Some(0),
            swap_used_bytes: Some(0),
            overcommit: Some(0),
        },
        system: System {
            os: "linux",
            kernel: None,
            io_uring: Some(true),
            io_uring_refusal: None,
            io_uring_disabled: Some(0),
            seccomp: false,
        },
    }
}

fn curve(reader: &'static str, bytes_per_second: f64, of_drive: bool) -> Curve {
    let sample = Sample {
        depth: 8,
        bytes_per_second,
        cpu_seconds_per_byte: 3e-11,
        range: [bytes_per_second; 2],
        bytes: 1 << 30,
        drive_bytes: Some(if of_drive { 1 << 30 } else { 0 }),
        of_drive,
    };
    Curve {
        reader,
        direct: true,
        record_bytes: 2 << 20,
        extents: 1,
        samples: vec![sample],
        bursts: Vec::new(),
        sustained: None,
    }
}

fn drive() -> Drives {
    Drives {
        direct: Some(true),
        registered: Some(true),
        limit_bytes_per_second: Some(2e9),
        curves: vec![curve("uring", 2e9, true), curve("pread", 2.1e9, true)],
        ..Drives::default()
    }
}

fn names(facts: &Facts, drive: &Drives) -> Vec<&'static str> {
    let found = find(facts, drive, None);
    for Trouble { trouble, fix, .. } in &found {
        assert!(!trouble.contains('\n') && !fix.contains('\n') && !fix.is_empty(), "{trouble}: {fix}");
    }
    found.iter().map(|trouble| trouble.name).collect()
}

/// The names of the troubles that a change makes.
fn with(change: impl Fn(&mut Facts, &mut Drives)) -> Vec<&'static str> {
    let (mut facts, mut drive) = (facts(), drive());
    change(&mut facts, &mut drive);
    names(&facts, &drive)
}

#[test]
fn a_good_machine_has_none() {
    assert_eq!(names(&facts(), &drive()), [""; 0]);
}

#[test]
fn each_trouble_is_named() {
    assert_eq!(with(|facts, _| facts.processor.load = Some(3.0)), ["busy"]);
    assert_eq!(with(|facts, _| facts.processor.threads = 8), ["threads"]);
    assert_eq!(with(|facts, _| facts.processor.cpu_quota = Some(3.5)), ["cpu-quota"]);
    assert_eq!(with(|facts, _| facts.memory.huge_pages = Some("never")), ["huge-pages"]);
    assert_eq!(with(|facts, _| facts.memory.overcommit = Some(2)), ["overcommit"]);
    assert_eq!(with(|facts, _| facts.memory.swap_total_bytes = Some(1 << 30)), ["swap"]);
    assert_eq!(with(|facts, _| facts.memory.ram_default_bytes = Some(0)), ["memory"]);
    assert_eq!(with(|_, drive| drive.direct = Some(false)), ["direct"]);
    assert_eq!(with(|_, drive| drive.limit_bytes_per_second = Some(2e8)), ["slow-drive"]);
    assert_eq!(with(|_, drive| drive.curves[1] = curve("uring", 9e9, false)), ["page-cache"]);
    assert_eq!(with(|_, drive| drive.curves[1] = curve("pread", 3e9, true)), ["reader"]);
}

#[test]
fn a_cache_that_direct_reads_pass_needs_no_fix() {
    let fix = |direct| {
        let lie = Curve { direct, ..curve("uring", 9e9, false) };
        find(&facts(), &Drives { curves: vec![lie], ..drive() }, None)[0].fix.clone()
    };
    assert!(fix(false).contains("none is needed"));
    assert!(fix(true).contains("tmpfs"));
}

#[test]
fn locked_memory_matters_where_there_is_io_uring_only() {
    let limited = |facts: &mut Facts| facts.memory.memlock_limit_bytes = Some(64 << 10);
    assert_eq!(with(|facts, _| limited(facts)), ["memlock"]);
    assert_eq!(with(|facts, drive| (limited(facts), drive.registered = None).1), [""; 0]);
    assert_eq!(with(|facts, _| facts.memory.memlock_limit_bytes = Some(40 << 30)), [""; 0]);
}

#[test]
fn the_fix_for_io_uring_is_that_of_its_cause() {
    let fix = |disabled, seccomp| {
        let mut facts = facts();
        facts.system.io_uring_refusal = Some("Operation not permitted".into());
        (facts.system.io_uring_disabled, facts.system.seccomp) = (disabled, seccomp);
        let found = find(&facts, &drive(), None);
        assert_eq!(found.len(), 1);
        found[0].fix.clone()
    };
    assert!(fix(Some(2), true).contains("sysctl kernel.io_uring_disabled=0"));
    assert!(fix(Some(0), true).contains("seccomp"));
    assert!(fix(None, false).contains("Linux"));
}
