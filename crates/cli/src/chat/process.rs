//! A tool's command being run.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::tools::Ready;
use crate::term;

/// Of longer output, a model is told the beginning. Of standard output and of standard error each.
const OUTPUT_BYTES_MAX: usize = 32 << 10;
/// How often a command is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// How long output is waited for that a command's own commands may have left open.
const REST: Duration = Duration::from_millis(500);

/// What came of a command.
#[derive(Debug)]
pub struct Ended {
    /// What the model is told.
    pub result: String,
    /// The user stopped it.
    pub stopped: bool,
}

/// Runs a command to its end, or until Ctrl-C or its time ends it, and everything it started.
pub fn run(ready: &Ready) -> Ended {
    let ended = |result: String| Ended { result, stopped: false };
    let Some((program, arguments)) = ready.argv.split_first() else { return ended("there is no command".into()) };
    let stdin = if ready.stdin.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut command = Command::new(program);
    // A group of its own does not get this terminal's Ctrl-C, and can be ended as one.
    command.args(arguments).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return ended(format!("{program} cannot be run: {error}")),
    };
    if let (Some(mut pipe), Some(text)) = (child.stdin.take(), ready.stdin.clone()) {
        // A command may end without reading it.
        std::thread::spawn(move || drop(pipe.write_all(text.as_bytes())));
    }
    let outputs = [child.stdout.take().map(Output::collect), child.stderr.take().map(Output::collect)];
    let (status, why) = wait(&mut child, ready.time_max);
    let began = Instant::now();
    while outputs.iter().flatten().any(|output| !output.reader.is_finished()) && began.elapsed() < REST {
        std::thread::sleep(LOOK);
    }
    let [stdout, stderr] = outputs.map(|output| output.map_or(String::new(), Output::text));
    let result = match (why, status) {
        (Some(why), _) => join(&[&format!("({why})"), &stdout, &stderr]),
        (None, Ok(status)) if status.success() && stdout.is_empty() && stderr.is_empty() => "(no output)".into(),
        (None, Ok(status)) if status.success() && stdout.is_empty() => stderr,
        (None, Ok(status)) if status.success() => stdout,
        (None, Ok(status)) => join(&[&format!("({status})"), &stdout, &stderr]),
        (None, Err(error)) => join(&[&format!("(it cannot be waited for: {error})"), &stdout, &stderr]),
    };
    Ended { result, stopped: why.is_some_and(|why| why == STOPPED) }
}

const STOPPED: &str = "stopped by the user";

/// Waits for a command; why it was ended, if it was.
fn wait(child: &mut Child, time_max: Duration) -> (io::Result<ExitStatus>, Option<&'static str>) {
    let began = Instant::now();
    let group = Pid::from_child(child);
    // Where nobody is left in the group, nothing has to be ended.
    let end_group = || {
        let _ = kill_process_group(group, Signal::KILL);
    };
    loop {
        let why = match (term::stopped(), began.elapsed() > time_max) {
            (true, _) => Some(STOPPED),
            (_, true) => Some("stopped: it took too long"),
            _ => None,
        };
        if why.is_some() {
            end_group();
            return (child.wait(), why);
        }
        match child.try_wait() {
            Ok(Some(status)) => {
                end_group();
                return (Ok(status), None);
            }
            Ok(None) => std::thread::sleep(LOOK),
            Err(error) => return (Err(error), None),
        }
    }
}

fn join(parts: &[&str]) -> String {
    let said: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
    said.join("\n")
}

/// What a command writes, as far as it is kept.
struct Output {
    kept: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Output {
    fn collect(mut pipe: impl Read + Send + 'static) -> Output {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let into = kept.clone();
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            // What is too much is read too, as the command would wait for it to be taken.
            while let Ok(read @ 1..) = pipe.read(&mut piece) {
                let mut kept = into.lock().unwrap_or_else(PoisonError::into_inner);
                let room = OUTPUT_BYTES_MAX + 1 - kept.len();
                kept.extend_from_slice(&piece[..read.min(room)]);
            }
        });
        Output { kept, reader }
    }

    fn text(self) -> String {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&kept[..kept.len().min(OUTPUT_BYTES_MAX)]).trim_end().to_owned();
        if kept.len() > OUTPUT_BYTES_MAX { text + "\n(the rest is left out)" } else { text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(argv: &[&str], stdin: Option<&str>, time_max: Duration) -> Ready {
        let argv = argv.iter().map(|&argument| argument.to_owned()).collect();
        Ready { name: "t".into(), argv, stdin: stdin.map(str::to_owned), time_max }
    }

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn a_command_gets_its_arguments_and_no_shell() {
        let ended = run(&ready(&["printf", "%s|", "a b", "$HOME", ";ls", ""], None, LONG));
        assert_eq!(ended.result, "a b|$HOME|;ls||");
        assert!(!ended.stopped);
        assert_eq!(run(&ready(&["cat"], Some("{\"a\":1}"), LONG)).result, "{\"a\":1}");
        assert_eq!(run(&ready(&["cat"], None, LONG)).result, "(no output)");
    }

    #[test]
    fn what_fails_says_so() {
        let ended = run(&ready(&["sh", "-c", "echo out; echo err >&2; exit 3"], None, LONG));
        assert_eq!(ended.result, "(exit status: 3)\nout\nerr");
        let ended = run(&ready(&["/nonexistent/program"], None, LONG));
        assert!(ended.result.starts_with("/nonexistent/program cannot be run: "), "{}", ended.result);
    }

    #[test]
    fn what_takes_too_long_is_ended_with_all_it_started() {
        let script = "echo $$; sleep 600 & echo $!; sleep 600";
        // On a busy machine the script may need longer to come to its second sleep.
        let times = (0..8).map(|i| Duration::from_millis(300 << i));
        let results = times.map(|time_max| run(&ready(&["sh", "-c", script], None, time_max)).result);
        let result = results.into_iter().find(|result| result.lines().count() == 3).expect("both have begun");
        let lines: Vec<&str> = result.lines().collect();
        assert_eq!(lines[0], "(stopped: it took too long)");
        // A zombie has no command line.
        let alive = |pid: &&str| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
        let began = Instant::now();
        while lines[1..].iter().any(alive) {
            assert!(began.elapsed() < Duration::from_secs(60), "{lines:?} live on");
            std::thread::sleep(LOOK);
        }
    }

    #[test]
    fn a_command_that_leaves_another_behind_does_not_hold_up_the_answer() {
        let ended = run(&ready(&["sh", "-c", "sleep 600 & echo done"], None, LONG));
        assert_eq!(ended.result, "done");
    }

    #[test]
    fn long_output_is_cut_and_read_to_its_end() {
        let ended = run(&ready(&["sh", "-c", "yes | head -c 1000000; echo end >&2"], None, LONG));
        assert!(ended.result.ends_with("\n(the rest is left out)"), "{}", ended.result);
        assert!(ended.result.len() < OUTPUT_BYTES_MAX + 100);
    }
}
