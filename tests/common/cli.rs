//! Running the program as a user does, within a memory and a time.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Address space that a run may take: one that needs more has believed a number in a damaged file.
const ADDRESS_SPACE_KIB: usize = 4 << 20;
/// A run that takes longer hangs.
const RUN_TIME_MAX: Duration = Duration::from_secs(30);

/// What a run left behind.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// `outpour VERB MODEL ARGS`, with a limited address space.
pub fn command(verb: &str, model: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -v {ADDRESS_SPACE_KIB}; exec \"$0\" \"$@\""));
    command.arg(env!("CARGO_BIN_EXE_outpour")).arg(verb).arg(model).args(args).stdin(Stdio::null());
    // What `doctor` once stored of this machine changes what others say.
    command.env("XDG_CACHE_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"));
    command
}

/// Runs a command to its end.
pub fn run(mut command: Command) -> Ran {
    let (mut stdout, mut stderr) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
    let same = |file: &File| file.try_clone().expect("a second handle");
    let child = command.stdout(same(&stdout)).stderr(same(&stderr)).spawn().expect("the program starts");
    let status = wait(child);
    let whole = |file: &mut File| {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes)).expect("the output is read");
        bytes
    };
    let (stdout, stderr) = (whole(&mut stdout), whole(&mut stderr));
    Ran { status, stdout, stderr: String::from_utf8(stderr).expect("messages are UTF-8") }
}

/// Runs `outpour VERB MODEL ARGS`.
pub fn outpour(verb: &str, model: &Path, args: &[&str]) -> Ran {
    run(command(verb, model, args))
}

/// Waits for a process that must end by itself.
pub fn wait(mut child: Child) -> ExitStatus {
    wait_for(&mut child)
}

/// The same, of a process that is needed afterwards.
pub fn wait_for(child: &mut Child) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("the program is waited for") {
            return status;
        }
        if began.elapsed() > RUN_TIME_MAX {
            let _ = child.kill();
            panic!("the program hangs");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Asserts that a run was refused: exit code 2 and one line that holds all of `names`.
pub fn assert_refused(ran: &Ran, what: &str, names: &[&str]) {
    println!("{what}: {}", ran.stderr.trim_end());
    assert_eq!(ran.status.code(), Some(2), "{what}: {ran:?}");
    assert!(ran.stderr.starts_with("outpour: ") && ran.stderr.ends_with('\n'), "{what}: {}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{what}: {}", ran.stderr);
    for name in names {
        assert!(ran.stderr.contains(name), "{what}: no {name:?} in {}", ran.stderr);
    }
    assert!(ran.stdout.is_empty(), "{what}: wrote {:?}", String::from_utf8_lossy(&ran.stdout));
}
