//! A terminal for programs that want one.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A text that has not come after so long does not come. Machines that run tests are busy.
const WAIT_MAX: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(30);

/// A program in a terminal of 90 columns and 40 rows, ended with it.
pub struct Terminal {
    /// The name of this terminal's own tmux server.
    server: String,
}

impl Terminal {
    /// Runs a command of the shell; `None`, with a word, where there is no tmux. After its end `ended: ` and its exit code are
    /// shown.
    pub fn run(command: &str, folder: &Path) -> Option<Terminal> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        if Command::new("tmux").arg("-V").output().is_err() {
            println!("skipped: tmux is not installed");
            return None;
        }
        let server = format!("outpour-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let terminal = Terminal { server };
        let script = format!("{command}; echo \"ended: $?\"; cat");
        let made = terminal
            .tmux(&["-f", "/dev/null", "new-session", "-d", "-s", "t", "-x", "90", "-y", "40", "-c"])
            .arg(folder)
            .arg(script)
            .output()
            .expect("tmux runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Some(terminal)
    }

    fn tmux(&self, args: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        // Columns are counted in UTF-8, whatever the locale.
        command.args(["-u", "-L", &self.server]).args(args);
        command
    }

    fn call(&self, args: &[&str]) -> Output {
        let output = self.tmux(args).output().expect("tmux runs");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Types a text, without Return.
    pub fn types(&self, text: &str) {
        self.call(&["send-keys", "-t", "t", "-l", text]);
    }

    /// Types a line.
    pub fn enters(&self, line: &str) {
        self.types(line);
        self.presses("Enter");
    }

    /// Presses a key, by tmux's name of it.
    pub fn presses(&self, key: &str) {
        self.call(&["send-keys", "-t", "t", key]);
    }

    /// Pastes a text, as a terminal does from its clipboard.
    pub fn pastes(&self, text: &str) {
        self.call(&["set-buffer", text]);
        self.call(&["paste-buffer", "-p", "-t", "t"]);
    }

    /// All that was shown so far, with rows that were broken by the terminal joined.
    pub fn screen(&self) -> String {
        String::from_utf8_lossy(&self.call(&["capture-pane", "-p", "-J", "-S", "-", "-t", "t"]).stdout).into_owned()
    }

    /// The same with its styles.
    pub fn styled(&self) -> String {
        String::from_utf8_lossy(&self.call(&["capture-pane", "-p", "-e", "-S", "-", "-t", "t"]).stdout).into_owned()
    }

    /// The process of the program that the shell runs.
    pub fn child(&self) -> String {
        let shell = self.told("#{pane_pid}");
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).expect("its children");
        children.split_whitespace().next().expect("one child").to_owned()
    }

    /// The program that the terminal belongs to at present.
    pub fn foreground(&self) -> String {
        self.told("#{pane_current_command}")
    }

    /// How the terminal takes what is typed, as `stty` says it.
    pub fn settings(&self) -> String {
        let stty = Command::new("stty").args(["-a", "-F", &self.told("#{pane_tty}")]).output().expect("stty runs");
        String::from_utf8_lossy(&stty.stdout).into_owned()
    }

    fn told(&self, format: &str) -> String {
        String::from_utf8_lossy(&self.call(&["display", "-p", "-t", "t", format]).stdout).trim().to_owned()
    }

    /// Waits until `text` was shown `times` times; returns the screen.
    pub fn waits_for(&self, text: &str, times: usize) -> String {
        self.waits(&format!("{text:?}, {times} times,"), |screen| screen.matches(text).count() >= times)
    }

    /// Waits until the screen is as it should be; returns it.
    pub fn waits(&self, what: &str, is_there: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let screen = self.screen();
            if is_there(&screen) {
                return screen;
            }
            assert!(began.elapsed() < WAIT_MAX, "{what} is not shown:\n{screen}");
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]).output();
    }
}
