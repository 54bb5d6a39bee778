//! A reader whose reads are recorded.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use outpour_store::read::{Completion, Read, Reader, ReaderCounts, Region};

use super::{Row, Timeline};

/// Records each read of `inner`.
pub(super) struct TimedReader {
    inner: Box<dyn Reader>,
    timeline: Timeline,
    /// Reads in flight, by lane.
    lanes: Vec<Option<Flying>>,
}

struct Flying {
    tag: u64,
    since: Instant,
    bytes: usize,
    offset: u64,
    file: String,
}

impl TimedReader {
    pub(super) fn new(inner: Box<dyn Reader>, timeline: Timeline) -> TimedReader {
        TimedReader { inner, timeline, lanes: Vec::new() }
    }

    fn sent(&mut self, read: &Read) {
        let flying = Flying {
            tag: read.tag,
            since: Instant::now(),
            bytes: read.bytes,
            offset: read.offset,
            // Copies have the same name.
            file: read.file.path().to_string_lossy().into_owned(),
        };
        match self.lanes.iter_mut().find(|lane| lane.is_none()) {
            Some(lane) => *lane = Some(flying),
            None => self.lanes.push(Some(flying)),
        }
    }

    fn collected(&mut self, completion: &Completion) {
        let of = |lane: &Option<Flying>| lane.as_ref().is_some_and(|flying| flying.tag == completion.tag);
        let Some(number) = self.lanes.iter().position(of) else { return };
        let Some(Flying { since, bytes, offset, file, .. }) = self.lanes[number].take() else { return };
        let what = if completion.result.is_ok() { "read" } else { "failed read" };
        let file = serde_json::Value::from(file);
        self.timeline.event(Row::Reads(number), since, |line| {
            use std::fmt::Write as _;
            write!(line, "\"{what}\",\"args\":{{\"bytes\":{bytes},\"offset\":{offset},\"file\":{file}}}")
        });
    }
}

impl Reader for TimedReader {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn register(&mut self, region: &Arc<Region>) {
        self.inner.register(region);
    }

    fn unregister(&mut self, region: &Arc<Region>) {
        self.inner.unregister(region);
    }

    fn submit(&mut self, reads: &[Read]) -> io::Result<()> {
        self.inner.submit(reads)?;
        reads.iter().for_each(|read| self.sent(read));
        Ok(())
    }

    fn submit_again(&mut self, read: &Read, attempt: usize) -> io::Result<()> {
        self.inner.submit_again(read, attempt)?;
        self.sent(read);
        Ok(())
    }

    fn copies(&self) -> usize {
        self.inner.copies()
    }

    fn collect(&mut self, wait: bool, done: &mut Vec<Completion>) -> io::Result<()> {
        let before = done.len();
        let collected = self.inner.collect(wait, done);
        done[before..].iter().for_each(|completion| self.collected(completion));
        collected
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }

    fn awaited(&mut self) -> Option<PathBuf> {
        self.inner.awaited()
    }

    fn counts(&self) -> ReaderCounts {
        self.inner.counts()
    }
}
