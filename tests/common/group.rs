//! A memory cgroup with programs in it.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A memory cgroup of this test's own, removed at the end.
pub struct Group {
    path: PathBuf,
    v2: bool,
}

impl Group {
    /// `None` where this process may not make one.
    pub fn new(name: &str, limit_bytes: u64) -> Option<Group> {
        let name = format!("outpour-test-{name}-{}", std::process::id());
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let v2 = Path::new("/sys/fs/cgroup");
        let (parent, v2) = if v1.is_dir() { (v1, false) } else { (v2, true) };
        let group = Group { path: parent.join(name), v2 };
        fs::create_dir(&group.path).ok()?;
        let limit = if v2 { "memory.max" } else { "memory.limit_in_bytes" };
        fs::write(group.path.join(limit), limit_bytes.to_string()).ok()?;
        Some(group)
    }

    fn number(&self, v1: &str, v2: &str) -> u64 {
        let file = if self.v2 { v2 } else { v1 };
        let text = fs::read_to_string(self.path.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        text.trim().parse().unwrap_or_else(|_| panic!("{file}: {text}"))
    }

    /// The most that it held.
    pub fn peak_bytes(&self) -> u64 {
        self.number("memory.max_usage_in_bytes", "memory.peak")
    }

    /// How often the limit was hit.
    pub fn limit_hits(&self) -> u64 {
        if !self.v2 {
            return self.number("memory.failcnt", "");
        }
        let events = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        let max = events.lines().find_map(|line| line.strip_prefix("max ")?.trim().parse().ok());
        max.expect("memory.events counts how often the limit was hit")
    }

    /// A program to be started inside, as the user `uid` (who has 64 KiB of lockable memory), or as this one, with a process
    /// group of its own.
    pub fn command(&self, uid: Option<u32>, program: &str, args: &[&str]) -> Command {
        // The shell enters the group, so that nothing of ours is counted before.
        let procs = self.path.join("cgroup.procs");
        let enter = format!("echo $$ > {} && exec \"$0\" \"$@\"", procs.display());
        let mut command = Command::new("sh");
        command.args(["-c", &enter]);
        if let Some(uid) = uid {
            let demote = format!(
                "ulimit -l 64 && exec setpriv --reuid={uid} --regid={uid} --clear-groups --inh-caps=-all -- \"$0\" \"$@\""
            );
            command.args(["sh", "-c", &demote]);
        }
        command.arg(program).args(args).process_group(0);
        command
    }

    /// Runs outpour inside.
    pub fn run(&self, uid: Option<u32>, args: &[&str]) -> Output {
        self.command(uid, env!("CARGO_BIN_EXE_outpour"), args).output().expect("a shell")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}
