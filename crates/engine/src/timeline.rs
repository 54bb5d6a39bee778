//! A timeline of every layer, operation and read, in Chrome's trace format: `chrome://tracing` and ui.perfetto.dev open it.
//!
//! Times are those of the calls: a backend that works on behind them shows when work was handed over. Reads are drawn from
//! being sent out to being collected, in as many lanes as are in flight.

mod ops;
mod reader;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use outpour_kernels::Ops;
use outpour_store::read::Reader;

use ops::TimedOps;
use reader::TimedReader;

/// The rows of the drawing.
#[derive(Clone, Copy, Debug)]
enum Row {
    Layers,
    Ops,
    /// Reads, the n-th of those in flight.
    Reads(usize),
}

impl Row {
    fn number(self) -> usize {
        match self {
            Row::Layers => 0,
            Row::Ops => 1,
            Row::Reads(lane) => 2 + lane,
        }
    }
}

/// Records what an engine does. Clones write to the same file.
#[derive(Clone)]
pub struct Timeline {
    began: Instant,
    file: Arc<Mutex<File>>,
}

struct File {
    /// `None` once it is finished.
    out: Option<Box<dyn Write + Send>>,
    /// Kept for its memory.
    line: String,
    /// Lanes of reads that were named so far.
    lanes: usize,
    failed: Option<io::Error>,
}

impl Timeline {
    /// Begins a file.
    pub fn new(out: impl Write + Send + 'static) -> Timeline {
        let file = File { out: Some(Box::new(out)), line: String::new(), lanes: 0, failed: None };
        let timeline = Timeline { began: Instant::now(), file: Arc::new(Mutex::new(file)) };
        let mut file = timeline.file();
        file.line.push('[');
        file.name_row(Row::Layers, "layers");
        file.line.push(',');
        file.name_row(Row::Ops, "operations");
        file.write();
        drop(file);
        timeline
    }

    /// The same operations, each recorded.
    pub(crate) fn ops(&self, inner: Box<dyn Ops>) -> Box<dyn Ops> {
        Box::new(TimedOps { inner, timeline: self.clone() })
    }

    /// The same reader, with each read recorded.
    pub fn reader(&self, inner: Box<dyn Reader>) -> Box<dyn Reader> {
        Box::new(TimedReader::new(inner, self.clone()))
    }

    /// A layer of a batch that took until now.
    pub(crate) fn layer(&self, layer: usize, tokens: usize, began: Instant) {
        self.event(Row::Layers, began, |line| write!(line, "\"layer {layer}\",\"args\":{{\"tokens\":{tokens}}}"));
    }

    /// Ends the file.
    ///
    /// # Errors
    /// When any of it could not be written.
    pub fn finish(&self) -> io::Result<()> {
        let mut file = self.file();
        file.line.push_str("]\n");
        file.write();
        let flushed = file.out.take().map_or(Ok(()), |mut out| out.flush());
        file.failed.take().map_or(flushed, Err)
    }

    /// Writes an event that lasted until now: `name` writes its name in quotes, and may add fields.
    fn event(&self, row: Row, began: Instant, name: impl FnOnce(&mut String) -> std::fmt::Result) {
        let (at, took) = (began.duration_since(self.began), began.elapsed());
        let mut file = self.file();
        if let Row::Reads(lane) = row {
            // A later lane may be the first to end a read.
            for new in file.lanes..=lane {
                file.lanes = new + 1;
                file.line.push(',');
                file.name_row(Row::Reads(new), &format!("reads {new}"));
            }
        }
        let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
        let line = &mut file.line;
        let head = write!(
            line,
            ",\n{{\"ph\":\"X\",\"pid\":1,\"tid\":{},\"ts\":{:.1},\"dur\":{:.1},\"name\":",
            row.number(),
            micros(at),
            micros(took),
        );
        head.and_then(|()| name(line)).expect("invariant: a String takes everything");
        line.push('}');
        file.write();
    }

    /// A thread that panicked left whole lines behind.
    fn file(&self) -> MutexGuard<'_, File> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl File {
    fn name_row(&mut self, row: Row, name: &str) {
        let named = write!(
            self.line,
            "\n{{\"ph\":\"M\",\"pid\":1,\"tid\":{},\"name\":\"thread_name\",\"args\":{{\"name\":\"{name}\"}}}}",
            row.number()
        );
        named.expect("invariant: a String takes everything");
    }

    /// Hands the line on; after the first failure nothing more.
    fn write(&mut self) {
        if let Some(out) = &mut self.out
            && let Err(error) = out.write_all(self.line.as_bytes())
        {
            self.failed = Some(error);
            self.out = None;
        }
        self.line.clear();
    }
}
