//! What a person sees on the terminal while the engine works. Nothing is drawn where standard error is no terminal.

mod markdown;
mod tty;

use std::borrow::Cow;
use std::ffi::c_int;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use outpour_engine::{Observer, Progress};
use outpour_store::bytes::Bytes;
use outpour_store::machine::Machine;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use markdown::in_rows;
pub use markdown::{Dimmed, Markdown};
pub use tty::{Settings, Silent, columns, columns_of_notes, forget_typed};

/// Exit code of a program that Ctrl-C ended.
pub const INTERRUPTED: u8 = 130;

/// Of a longer message, only the beginning and the end are shown, in characters.
const MESSAGE_CHARS_MAX: usize = 1200;

/// Set when the user pressed Ctrl-C.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Calls `on` with the number of each signal that asks the process to end, on a thread of its own.
///
/// # Errors
/// When the system allows no handler.
pub fn catch_signals(mut on: impl FnMut(c_int) + Send + 'static) -> anyhow::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("signals cannot be caught")?;
    std::thread::spawn(move || signals.forever().for_each(&mut on));
    Ok(())
}

/// A file that may grow no further (`ulimit -f`) is an error of the write like others, and does not kill the process.
pub fn survive_size_limits() {
    // A signal that is handled makes the write fail; where it cannot be, the system kills as ever.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
}

/// Whether Ctrl-C is handled elsewhere.
static OVERHEARD: AtomicBool = AtomicBool::new(false);
static HARMLESS: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C stop the work and not the process; a second one ends it at once.
///
/// # Errors
/// As [`catch_signals`].
pub fn catch_interrupt() -> anyhow::Result<()> {
    static CAUGHT: AtomicBool = AtomicBool::new(false);
    if CAUGHT.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    catch_signals(|_| {
        if !OVERHEARD.load(Ordering::Relaxed) && (stop() || HARMLESS.load(Ordering::Relaxed)) {
            std::process::exit(INTERRUPTED.into());
        }
    })
}

/// From now on the first Ctrl-C ends the program, which has nothing to finish or to undo.
pub fn end_at_interrupt() {
    HARMLESS.store(true, Ordering::Relaxed);
}

/// Stops the work under way; whether that was asked for before.
pub fn stop() -> bool {
    STOPPED.swap(true, Ordering::Relaxed)
}

/// Forgets that work was stopped: other work begins.
pub fn go_on_again() {
    STOPPED.store(false, Ordering::Relaxed);
}

/// From now on [`catch_interrupt`] does nothing on Ctrl-C: others handle it.
pub fn overhear_interrupts() {
    OVERHEARD.store(true, Ordering::Relaxed);
}

/// Leaves Ctrl-C to the program that was started in this terminal.
///
/// # Errors
/// As [`catch_interrupt`].
pub fn leave_interrupts() -> anyhow::Result<()> {
    overhear_interrupts();
    catch_interrupt()
}

/// Whether the user pressed Ctrl-C.
pub fn stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}

/// Writes text to standard output. That its reader went away is no failure.
///
/// # Errors
/// When it cannot be written for another reason, such as a full drive.
pub fn show(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context(UNWRITTEN),
    }
}

/// What is said when standard output takes nothing more.
pub const UNWRITTEN: &str = "standard output: cannot write";

/// Writes a line to standard error, on a terminal in rows that end between words. Where it cannot be written to, nobody is there
/// to be told.
pub fn note(line: &str) {
    note_as_it_is(&columns_of_notes().map_or(line.into(), |columns| in_rows(line, columns)));
}

/// Writes text that has its rows to standard error.
pub fn note_as_it_is(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A text that comes from a model, a tool or a file as a terminal may show it: with its lines and tabs, but nothing else that
/// moves the cursor, changes colours, or turns the direction of writing.
pub fn printable(text: &str) -> Cow<'_, str> {
    let plain = |c: char| matches!(c, '\n' | '\t') || !(c.is_control() || turns(c));
    if text.chars().all(plain) {
        return text.into();
    }
    text.chars().filter(|&c| c != '\r').map(|c| if plain(c) { c } else { '\u{fffd}' }).collect::<String>().into()
}

/// Whether a character turns the direction of writing, so that a text can look like another one.
pub fn turns(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether styles may be written to a terminal: `NO_COLOR` (no-color.org) and terminals that know none say no.
pub fn styled() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb")
}

/// A message as one line of bearable length, whatever the names and values in it that came from files.
pub fn one_line(message: &str) -> String {
    let mut line: String = message
        .chars()
        .flat_map(|c| {
            let control = c.is_control();
            control.then(|| c.escape_default()).into_iter().flatten().chain((!control).then_some(c))
        })
        .collect();
    let chars = line.chars().count();
    if chars > MESSAGE_CHARS_MAX {
        let half = MESSAGE_CHARS_MAX / 2;
        let head: String = line.chars().take(half).collect();
        let tail: String = line.chars().skip(chars - half).collect();
        line = format!("{head} … {tail}");
    }
    line
}

fn go_on() -> ControlFlow<()> {
    if stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

fn bar(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr_with_hz(10));
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// The trunk on its way into memory.
pub struct LoadProgress {
    bar: ProgressBar,
    began: Instant,
}

impl LoadProgress {
    /// Begins.
    pub fn start() -> Self {
        LoadProgress { bar: bar(1, "loading [{bar:16}] {msg}"), began: Instant::now() }
    }

    /// Bytes read so far, and in all. Breaks off after Ctrl-C.
    pub fn read(&self, read: u64, total: u64) -> ControlFlow<()> {
        let speed = read as f64 / self.began.elapsed().as_secs_f64().max(1e-6) / 1e9;
        self.bar.set_length(total);
        self.bar.set_position(read);
        self.bar.set_message(format!("{} of {}, {speed:.2} GB/s", Bytes(read), Bytes(total)));
        go_on()
    }

    /// Removes the line.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// A model on its way to the drive, or from it.
pub struct WriteProgress {
    bar: ProgressBar,
    began: Instant,
}

impl WriteProgress {
    /// Begins.
    pub fn start() -> Self {
        WriteProgress::start_of("writing")
    }

    /// Begins something else that is done byte by byte.
    pub fn start_of(what: &'static str) -> Self {
        WriteProgress { bar: bar(1, "{prefix} [{bar:16}] {msg}").with_prefix(what), began: Instant::now() }
    }

    /// Bytes done so far, and in all. Breaks off after Ctrl-C.
    pub fn written(&self, written: u64, total: u64) -> ControlFlow<()> {
        let speed = written as f64 / self.began.elapsed().as_secs_f64().max(1e-6);
        self.bar.set_length(total);
        self.bar.set_position(written);
        let left = total.saturating_sub(written) as f64 / speed.max(1.0);
        self.bar.set_message(format!(
            "{} of {}, {:.2} GB/s, {left:.0} s left",
            Bytes(written),
            Bytes(total),
            speed / 1e9
        ));
        go_on()
    }

    /// Removes the line; gives the time it took, in seconds.
    pub fn finish(self) -> f64 {
        self.bar.finish_and_clear();
        self.began.elapsed().as_secs_f64()
    }
}

/// A model on its way from the hub.
pub struct DownloadProgress {
    bar: ProgressBar,
    began: Instant,
}

impl DownloadProgress {
    /// Begins.
    pub fn start() -> Self {
        DownloadProgress { bar: bar(1, "downloading [{bar:16}] {msg}"), began: Instant::now() }
    }

    /// How far it is. Breaks off after Ctrl-C.
    pub fn show(&self, progress: outpour_hub::Progress) -> ControlFlow<()> {
        let outpour_hub::Progress { there, fetched, total } = progress;
        let speed = fetched as f64 / self.began.elapsed().as_secs_f64().max(1e-6);
        let left = (total.saturating_sub(there) as f64 / speed.max(1.0)) as u64;
        self.bar.set_length(total);
        self.bar.set_position(there);
        self.bar.set_message(format!(
            "{} of {}, {:.1} MB/s, {}:{:02}:{:02} left",
            Bytes(there),
            Bytes(total),
            speed / 1e6,
            left / 3600,
            left / 60 % 60,
            left % 60
        ));
        go_on()
    }

    /// Removes the line; gives the time it took, in seconds.
    pub fn finish(self) -> f64 {
        self.bar.finish_and_clear();
        self.began.elapsed().as_secs_f64()
    }
}

/// Steps of some length, one after the other, with the one under way shown.
pub struct Steps {
    bar: ProgressBar,
}

impl Steps {
    /// Begins.
    pub fn start() -> Self {
        Steps::start_of("measuring")
    }

    /// Begins something else.
    pub fn start_of(what: &'static str) -> Self {
        Steps { bar: bar(1, "{prefix} {msg}").with_prefix(what) }
    }

    /// What comes next. Breaks off after Ctrl-C.
    pub fn next(&self, what: &str) -> ControlFlow<()> {
        self.bar.set_message(what.to_owned());
        self.bar.tick();
        go_on()
    }

    /// Removes the line.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// A prompt that is computed sooner shows no progress.
const PROGRESS_AFTER: Duration = Duration::from_millis(300);

/// The prompt being computed: tokens, speed, time left, and what the drive gives.
pub struct PromptProgress {
    bar: ProgressBar,
    began: Instant,
    read_before: u64,
}

impl PromptProgress {
    /// Begins.
    pub fn start() -> Self {
        let read_before = Machine::here().drive_read_bytes().unwrap_or(0);
        PromptProgress { bar: bar(1, "prompt [{bar:12}] {msg}"), began: Instant::now(), read_before }
    }

    /// Removes the line.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for PromptProgress {
    fn progress(&mut self, progress: Progress) -> ControlFlow<()> {
        if !self.bar.is_hidden() && self.began.elapsed() > PROGRESS_AFTER {
            let Progress { tokens_done, tokens_total, batch_tokens, layers_done, layers, .. } = progress;
            let done = tokens_done as f64 + batch_tokens as f64 * layers_done as f64 / layers as f64;
            let seconds = self.began.elapsed().as_secs_f64();
            let left = seconds * (tokens_total as f64 - done) / done.max(1e-9);
            let read = Machine::here().drive_read_bytes().unwrap_or(0).saturating_sub(self.read_before);
            self.bar.set_length((tokens_total * layers) as u64);
            self.bar.set_position((done * layers as f64) as u64);
            self.bar.set_message(format!(
                "{done:.0}/{tokens_total} tokens {:.1} tok/s {left:.0} s left, {:.2} GB/s",
                done / seconds,
                read as f64 / seconds / 1e9
            ));
        }
        go_on()
    }
}

/// Items of a file being computed: how many, and the time left.
pub struct TaskProgress {
    bar: ProgressBar,
    began: Instant,
    /// Unknown of a pipe.
    items: Option<usize>,
    computed: usize,
    kept: usize,
}

impl TaskProgress {
    /// Begins.
    pub fn start(name: &str, items: Option<usize>) -> Self {
        let bar = bar(items.unwrap_or(0) as u64, "{prefix} [{bar:16}] {msg}").with_prefix(one_line(name));
        TaskProgress { bar, began: Instant::now(), items, computed: 0, kept: 0 }
    }

    /// An item was known already.
    pub fn keep(&mut self) {
        self.kept += 1;
        self.show();
    }

    /// An item was computed.
    pub fn advance(&mut self) {
        self.computed += 1;
        self.show();
    }

    fn show(&self) {
        let done = self.computed + self.kept;
        self.bar.set_position(done as u64);
        self.bar.set_message(match self.items {
            Some(items) => {
                let each = self.began.elapsed().as_secs_f64() / self.computed.max(1) as f64;
                format!("{done}/{items} items, {:.0} s left", each * items.saturating_sub(done) as f64)
            }
            None => format!("{done} items"),
        });
    }
}

impl Drop for TaskProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Watches for Ctrl-C only.
pub struct Interruptible;

impl Observer for Interruptible {
    fn progress(&mut self, _: Progress) -> ControlFlow<()> {
        go_on()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_from_elsewhere_cannot_steer_the_terminal() {
        assert_eq!(printable("a\tb\nüñ 漢"), "a\tb\nüñ 漢");
        assert_eq!(printable("a\u{1b}[2Jb\u{9b}1m\rc\u{202e}d"), "a\u{fffd}[2Jb\u{fffd}1mc\u{fffd}d");
    }

    #[test]
    fn a_message_is_one_line_of_bearable_length() {
        assert_eq!(one_line("tensor a\nb\u{1b}[2J: größer"), "tensor a\\nb\\u{1b}[2J: größer");
        let long = one_line(&format!("begin {} end", "é".repeat(100_000)));
        assert!(long.starts_with("begin é") && long.ends_with("é end") && long.contains(" … "));
        assert!(long.chars().count() < MESSAGE_CHARS_MAX + 10);
    }
}
