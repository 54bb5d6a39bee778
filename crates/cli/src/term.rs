//! What a person sees on the terminal while the engine works. Nothing is drawn where standard error is no terminal.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use outpour_engine::{Observer, Progress};
use outpour_store::bytes::Bytes;
use outpour_store::machine::Machine;

/// Set when the user pressed Ctrl-C.
static STOPPED: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(false)));

/// Makes Ctrl-C stop the work and not the process; a second one ends it at once.
///
/// # Errors
/// When the system allows no handler.
pub fn catch_interrupt() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if STOPPED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })?;
    Ok(())
}

/// Whether the user pressed Ctrl-C.
pub fn stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
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
        LoadProgress { bar: bar(1, "loading  [{bar:30}] {msg}"), began: Instant::now() }
    }

    /// Bytes read so far, and in all.
    pub fn read(&self, read: u64, total: u64) {
        let speed = read as f64 / self.began.elapsed().as_secs_f64().max(1e-6) / 1e9;
        self.bar.set_length(total);
        self.bar.set_position(read);
        self.bar.set_message(format!("{} of {}, {speed:.2} GB/s", Bytes(read), Bytes(total)));
    }

    /// Removes the line.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

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
        PromptProgress { bar: bar(1, "prompt   [{bar:30}] {msg}"), began: Instant::now(), read_before }
    }

    /// Removes the line.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for PromptProgress {
    fn progress(&mut self, progress: Progress) -> ControlFlow<()> {
        if stopped() {
            return ControlFlow::Break(());
        }
        if !self.bar.is_hidden() {
            let Progress { tokens_done, tokens_total, batch_tokens, layers_done, layers } = progress;
            let done = tokens_done as f64 + batch_tokens as f64 * layers_done as f64 / layers as f64;
            let seconds = self.began.elapsed().as_secs_f64();
            let left = seconds * (tokens_total as f64 - done) / done.max(1e-9);
            let read = Machine::here().drive_read_bytes().unwrap_or(0).saturating_sub(self.read_before);
            self.bar.set_length((tokens_total * layers) as u64);
            self.bar.set_position((done * layers as f64) as u64);
            self.bar.set_message(format!(
                "{done:.0} of {tokens_total} tokens, {:.1} tok/s, {left:.0} s left, drive {:.2} GB/s",
                done / seconds,
                read as f64 / seconds / 1e9
            ));
        }
        ControlFlow::Continue(())
    }
}

/// Watches for Ctrl-C only.
pub struct Interruptible;

impl Observer for Interruptible {
    fn progress(&mut self, _: Progress) -> ControlFlow<()> {
        if stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
