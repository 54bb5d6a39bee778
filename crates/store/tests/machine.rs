//! Facts about the machine, from made-up trees of /proc and /sys.

use std::fs;

use outpour_store::machine::{self, Cgroup, Machine, Memory, Resident};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// A machine whose files hold what is given here.
struct Tree {
    folder: tempfile::TempDir,
}

impl Tree {
    fn new(files: &[(&str, &str)]) -> Tree {
        let tree = Tree { folder: tempfile::tempdir().unwrap() };
        files.iter().for_each(|(path, text)| tree.write(path, text));
        tree
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn machine(&self) -> Machine {
        Machine::at(self.folder.path())
    }
}

const V2_MOUNT: &str = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
const V1_MOUNTS: &str = "30 25 0:27 / /dev/shm rw - tmpfs tmpfs rw\n\
    32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
    35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

#[test]
fn v2_takes_the_lowest_of_all_ancestors() {
    let tree = Tree::new(&[
        ("proc/self/mountinfo", V2_MOUNT),
        ("proc/self/cgroup", "0::/user.slice/app.scope\n"),
        ("sys/fs/cgroup/user.slice/app.scope/memory.max", "max\n"),
        ("sys/fs/cgroup/user.slice/app.scope/memory.current", "1073741824\n"),
        ("sys/fs/cgroup/user.slice/memory.max", "8589934592\n"),
        ("sys/fs/cgroup/user.slice/memory.high", "max\n"),
        ("sys/fs/cgroup/user.slice/memory.current", "3221225472\n"),
        ("sys/fs/cgroup/user.slice/memory.stat", "anon 1\nfile 9\ninactive_file 536870912\nactive_file 536870912\n"),
        ("sys/fs/cgroup/user.slice/app.scope/cpu.max", "150000 100000\n"),
        ("sys/fs/cgroup/user.slice/cpu.max", "max 100000\n"),
    ]);
    let found = tree.machine().cgroup();
    assert_eq!(
        found,
        Cgroup {
            memory_limit_bytes: Some(8 * GIB),
            memory_used_bytes: Some(3 * GIB),
            memory_free_bytes: Some(6 * GIB),
            cpu_quota: Some(1.5),
        }
    );
    tree.write("sys/fs/cgroup/user.slice/memory.high", "4294967296\n");
    assert_eq!(tree.machine().cgroup().memory_limit_bytes, Some(4 * GIB));
    tree.write("sys/fs/cgroup/user.slice/app.scope/memory.max", "2147483648\n");
    let found = tree.machine().cgroup();
    assert_eq!((found.memory_limit_bytes, found.memory_used_bytes), (Some(2 * GIB), Some(GIB)));
    assert_eq!(found.memory_free_bytes, Some(GIB));
}

#[test]
fn a_full_ancestor_counts_more_than_a_low_limit() {
    let tree = Tree::new(&[
        ("proc/self/mountinfo", V2_MOUNT),
        ("proc/self/cgroup", "0::/a/b\n"),
        ("sys/fs/cgroup/a/b/memory.max", "4294967296"),
        ("sys/fs/cgroup/a/b/memory.current", "0"),
        ("sys/fs/cgroup/a/memory.max", "8589934592"),
        ("sys/fs/cgroup/a/memory.current", "7516192768"),
    ]);
    let found = tree.machine().cgroup();
    assert_eq!((found.memory_limit_bytes, found.memory_free_bytes), (Some(4 * GIB), Some(GIB)));
}

#[test]
fn v2_in_a_container() {
    // With a namespace the group is the root of what is mounted; without one, the mount says what it shows.
    for (group, mounted) in [("/", "/"), ("/docker/abc", "/docker/abc"), ("/../../elsewhere", "/"), ("/x", "/docker")] {
        let mount = V2_MOUNT.replace(" / /sys", &format!(" {mounted} /sys"));
        let tree = Tree::new(&[
            ("proc/self/mountinfo", &mount),
            ("proc/self/cgroup", &format!("0::{group}\n")),
            ("sys/fs/cgroup/memory.max", "2147483648\n"),
        ]);
        let found = tree.machine().cgroup();
        assert_eq!(found.memory_limit_bytes, Some(2 * GIB), "{group} {mounted}");
        assert_eq!((found.memory_used_bytes, found.memory_free_bytes), (None, Some(2 * GIB)));
    }
}

#[test]
fn v1_hierarchies() {
    let tree = Tree::new(&[
        ("proc/self/mountinfo", V1_MOUNTS),
        ("proc/self/cgroup", "4:memory:/jobs/one\n2:cpu,cpuacct:/jobs\n9:name=systemd:/\n0::/\n"),
        ("sys/fs/cgroup/memory/jobs/one/memory.limit_in_bytes", "9223372036854771712\n"),
        ("sys/fs/cgroup/memory/jobs/one/memory.usage_in_bytes", "1048576\n"),
        ("sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", "3221225472\n"),
        ("sys/fs/cgroup/memory/jobs/memory.usage_in_bytes", "2147483648\n"),
        ("sys/fs/cgroup/memory/jobs/memory.stat", "cache 5\ntotal_inactive_file 1073741824\ntotal_active_file 0\n"),
        ("sys/fs/cgroup/cpu,cpuacct/jobs/cpu.cfs_quota_us", "50000\n"),
        ("sys/fs/cgroup/cpu,cpuacct/jobs/cpu.cfs_period_us", "100000\n"),
        ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
        ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
    ]);
    let found = tree.machine().cgroup();
    assert_eq!(
        found,
        Cgroup {
            memory_limit_bytes: Some(3 * GIB),
            memory_used_bytes: Some(2 * GIB),
            memory_free_bytes: Some(2 * GIB),
            cpu_quota: Some(0.5),
        }
    );
    assert_eq!(tree.machine().cpus_usable(), 1);
    // A limit above what a container sees of the tree.
    tree.write("sys/fs/cgroup/memory/jobs/one/memory.stat", "hierarchical_memory_limit 1073741824\n");
    assert_eq!(tree.machine().cgroup().memory_limit_bytes, Some(GIB));
}

#[test]
fn no_limit_is_none() {
    let nothing = Cgroup::default();
    assert_eq!(Tree::new(&[]).machine().cgroup(), nothing);
    let unlimited = [("sys/fs/cgroup/memory.max", "max\n"), ("sys/fs/cgroup/cpu.max", "max 100000\n")];
    let tree = Tree::new(&unlimited);
    tree.write("proc/self/mountinfo", V2_MOUNT);
    tree.write("proc/self/cgroup", "0::/\n");
    assert_eq!(tree.machine().cgroup(), nothing);
    let tree = Tree::new(&[
        ("proc/self/mountinfo", V1_MOUNTS),
        ("proc/self/cgroup", "4:memory:/\n2:cpu:/\n"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854710272\n"),
        ("sys/fs/cgroup/memory/memory.stat", "hierarchical_memory_limit 9223372036854771712\n"),
        ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1"),
        ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000"),
    ]);
    assert_eq!(tree.machine().cgroup(), nothing);
}

#[test]
fn garbage_is_none_and_no_panic() {
    let garbage =
        ["", "\n\n", ":::", "0::", "4:memory", "-1", "99999999999999999999999", "é\\04 - - -", "a b c d e - cgroup2 x"];
    for text in garbage {
        for group in ["0::/\n", "4:memory:/a\n", text] {
            let tree = Tree::new(&[
                ("proc/self/mountinfo", &format!("{V2_MOUNT}{V1_MOUNTS}{text}")),
                ("proc/self/cgroup", group),
                ("proc/self/status", text),
                ("proc/self/io", text),
                ("proc/meminfo", text),
                ("sys/fs/cgroup/memory.max", text),
                ("sys/fs/cgroup/memory.current", text),
                ("sys/fs/cgroup/memory.stat", text),
                ("sys/fs/cgroup/cpu.max", text),
                ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", text),
                ("sys/fs/cgroup/memory/a/memory.stat", &format!("hierarchical_memory_limit {text}")),
                ("sys/dev/block/8:0/queue/rotational", text),
                ("sys/dev/block/8:0/queue/read_ahead_kb", text),
                ("sys/dev/block/8:0/device/model", text),
            ]);
            let machine = tree.machine();
            assert_eq!(machine.cgroup(), Cgroup::default(), "{text:?}");
            assert_eq!((machine.memory(), machine.resident()), (None, None));
            assert_eq!((machine.drive_read_bytes(), machine.default_ram_bytes()), (None, None));
            let drive = machine.drive_by_number(8, 0).unwrap();
            assert_eq!((drive.rotational, drive.read_ahead_kib), (None, None));
            assert!(machine.cpus_usable() >= 1);
        }
        assert_eq!(machine::parse_vm_stat(text), None);
    }
    let huge = "MemTotal: 18446744073709551615 kB\nMemAvailable: 1 kB\n";
    assert_eq!(machine::parse_meminfo(huge), None);
}

#[test]
fn memory_and_resident() {
    let text = "MemTotal:       24684092 kB\nMemFree:  1 kB\nMemAvailable:   24216216 kB\n";
    assert_eq!(
        machine::parse_meminfo(text),
        Some(Memory { total_bytes: 24684092 << 10, available_bytes: 24216216 << 10 })
    );
    let text = "Name:\tx\nVmRSS:\t  9 kB\nRssAnon:\t     152 kB\nRssFile:\t    2080 kB\nRssShmem:\t       8 kB\n";
    let resident = Resident { anonymous_bytes: 152 << 10, file_bytes: 2080 << 10, shared_bytes: 8 << 10 };
    assert_eq!(machine::parse_resident(text), Some(resident));
    assert_eq!(resident.total_bytes(), 2240 << 10);
    let text = "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:        100.\n\
        Pages active:    7.\nPages inactive:    50.\nPages speculative:   3.\nPages purgeable:   1.\n";
    assert_eq!(machine::parse_vm_stat(text), Some(154 * 16384));
}

#[test]
fn default_ram_leaves_a_margin() {
    let tree = Tree::new(&[
        ("proc/meminfo", "MemTotal: 67108864 kB\nMemAvailable: 62914560 kB\n"),
        ("proc/self/status", "RssAnon: 0 kB\nRssFile: 4096 kB\nRssShmem: 0 kB\n"),
    ]);
    let ram = || tree.machine().default_ram_bytes();
    assert_eq!(ram(), Some(58 * GIB), "60 GiB less 2");
    tree.write("proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 10485760 kB\n");
    assert_eq!(ram(), Some(9 * GIB), "10 GiB less a tenth");
    tree.write("proc/meminfo", "MemTotal: 4194304 kB\nMemAvailable: 1048576 kB\n");
    assert_eq!(ram(), Some(768 * MIB), "1 GiB less 256 MiB");
    tree.write("proc/meminfo", "MemTotal: 4194304 kB\nMemAvailable: 102400 kB\n");
    assert_eq!(ram(), Some(0));
    // What this process holds already is its own.
    tree.write("proc/self/status", "RssAnon: 1048576 kB\nRssFile: 4096 kB\nRssShmem: 1048576 kB\n");
    tree.write("proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n");
    assert_eq!(ram(), Some(9 * GIB));
    // A cgroup's limit, less what others in it use; their page cache is free.
    tree.write("proc/self/mountinfo", V2_MOUNT);
    tree.write("proc/self/cgroup", "0::/pod\n");
    tree.write("sys/fs/cgroup/pod/memory.max", "8589934592\n");
    tree.write("sys/fs/cgroup/pod/memory.current", "7516192768\n");
    tree.write("sys/fs/cgroup/pod/memory.stat", "inactive_file 2147483648\nactive_file 1073741824\n");
    assert_eq!(ram(), Some((6 * GIB) - 6 * GIB / 10), "8 GiB, of which others hold 2");
    // More page cache than use, as counters race: never more than the limit and what is our own.
    tree.write("sys/fs/cgroup/pod/memory.current", "0\n");
    tree.write("proc/self/status", "");
    tree.write("proc/meminfo", "");
    assert_eq!(ram(), Some(8 * GIB - 8 * GIB / 10));
}

#[cfg(target_os = "linux")]
#[test]
fn drives() {
    use std::os::unix::fs::symlink;
    let tree = Tree::new(&[
        ("sys/devices/pci/nvme0n1/queue/rotational", "0\n"),
        ("sys/devices/pci/nvme0n1/queue/read_ahead_kb", "128\n"),
        ("sys/devices/pci/nvme0n1/device/model", "Fast Drive 2TB    \n"),
        ("sys/devices/pci/nvme0n1/nvme0n1p2/partition", "2\n"),
        ("sys/devices/virtual/dm-0/queue/rotational", "1\n"),
        ("sys/devices/virtual/dm-0/slaves/nothing", ""),
        ("sys/dev/block/nothing", ""),
    ]);
    let at = |path: &str| tree.folder.path().join(path);
    symlink(at("sys/devices/pci/nvme0n1"), at("sys/dev/block/259:0")).unwrap();
    symlink(at("sys/devices/pci/nvme0n1/nvme0n1p2"), at("sys/dev/block/259:2")).unwrap();
    symlink(at("sys/devices/virtual/dm-0"), at("sys/dev/block/253:0")).unwrap();
    fs::remove_file(at("sys/devices/virtual/dm-0/slaves/nothing")).unwrap();
    symlink(at("sys/devices/pci/nvme0n1/nvme0n1p2"), at("sys/devices/virtual/dm-0/slaves/nvme0n1p2")).unwrap();
    let machine = tree.machine();
    let whole = machine.drive_by_number(259, 0).unwrap();
    assert_eq!((whole.name.as_str(), whole.model.as_deref()), ("nvme0n1", Some("Fast Drive 2TB")));
    assert_eq!((whole.rotational, whole.read_ahead_kib), (Some(false), Some(128)));
    assert_eq!(machine.drive_by_number(259, 2), Some(whole));
    let mapped = machine.drive_by_number(253, 0).unwrap();
    assert_eq!((mapped.name.as_str(), mapped.rotational), ("dm-0", Some(true)));
    assert_eq!(mapped.model.as_deref(), Some("Fast Drive 2TB"), "of the drive below");
    assert_eq!(machine.drive_by_number(1, 1), None);
    assert_eq!(machine.drive("/no/such/file".as_ref()), None);
}

#[test]
fn this_machine_says_something() {
    let machine = Machine::here();
    let memory = machine.memory().unwrap();
    assert!(memory.total_bytes > 64 * MIB && memory.available_bytes <= memory.total_bytes);
    assert!(machine.default_ram_bytes().unwrap() < memory.total_bytes);
    assert!(machine.cpus_usable() >= 1 && machine.cpus_usable() <= machine::cpus_allowed());
    eprintln!(
        "{memory:?} {:?} {:?} memlock {:?}",
        machine.cgroup(),
        machine.resident(),
        machine::memlock_limit_bytes()
    );
    eprintln!("{:?} {:?}", machine.drive(&std::env::current_dir().unwrap()), machine.drive_read_bytes());
    if cfg!(target_os = "linux") {
        let resident = machine.resident().unwrap();
        assert!(resident.anonymous_bytes > 0 && resident.total_bytes() < memory.total_bytes);
    }
}

/// Larger than what else this process may take or give back meanwhile.
static OF_THE_PROGRAM: &[u8] = include_bytes!("../../../demo/model/model.safetensors");

#[test]
#[cfg(target_os = "linux")]
fn pages_of_the_program_leave_and_come_back() {
    let sum = || OF_THE_PROGRAM.iter().map(|&byte| u64::from(byte)).sum::<u64>();
    let held = || Machine::here().resident().expect("Linux tells").file_bytes;
    let (before, read) = (sum(), held());
    outpour_store::slab::drop_program_pages(OF_THE_PROGRAM);
    let left = held();
    assert!(left + OF_THE_PROGRAM.len() as u64 / 2 < read, "{read} bytes of files are held, and {left} afterwards");
    assert_eq!(sum(), before);
}
