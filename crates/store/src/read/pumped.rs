//! A reader around a reader, that keeps the drive at work while its owner computes.
//!
//! A reader hands its drive a bounded number of parts at a time, and moves on when it is asked for what came. Its owner may
//! compute for long before that: for the attention of a long prompt, the drive would be through with those parts in a few
//! milliseconds and then stand still. A thread asks in its place.
//!
//! A drive that does not answer at all is waited for no longer than [`PATIENCE`]: its owner is told, and may ask again. What
//! such a drive was asked for may still come, so memory and reader are kept for ever where it did not.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Completion, Read, Reader, ReaderCounts, Region, WAIT_MAX};

/// How long a drive may say nothing while it is waited for. Linux itself gives most drives 30 s before it resets them.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often the reader is asked while nobody else does: 32 parts of 1 MiB keep a drive of 32 GB/s at work for that long.
const PERIOD: Duration = Duration::from_millis(1);

/// Address space of the thread's stack, of which few pages are touched.
const STACK_BYTES: usize = 256 << 10;

/// Reads that the tables hold without growing.
const READS_FORESEEN: usize = 1024;

/// Asks a reader for what came, so that it goes on.
pub struct Pumped {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Reads were sent out, or the thread is to end.
    work: Condvar,
    ending: AtomicBool,
}

struct State {
    inner: Box<dyn Reader>,
    /// Came, and not collected.
    done: Vec<Completion>,
    /// What the inner reader failed at while nobody asked.
    failed: Option<io::Error>,
    patience: Duration,
    /// How long the drive has been waited for in vain.
    silent: Duration,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's life: asks now and then while reads are in flight and their owner does not.
    fn pump(&self) {
        loop {
            let mut state = self.lock();
            while state.inner.in_flight() == 0 {
                if self.ending.load(Ordering::Relaxed) {
                    return;
                }
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            std::thread::sleep(PERIOD);
            if self.ending.load(Ordering::Relaxed) {
                return;
            }
            if let Ok(mut state) = self.state.try_lock() {
                state.ask(false);
            }
        }
    }
}

impl State {
    fn ask(&mut self, wait: bool) {
        let (began, before) = (Instant::now(), self.done.len());
        if let Err(error) = self.inner.collect(wait, &mut self.done) {
            self.failed.get_or_insert(error);
        }
        if self.done.len() > before {
            self.silent = Duration::ZERO;
        } else if wait {
            // A process that was stopped meanwhile has not waited for longer.
            self.silent += began.elapsed().min(WAIT_MAX);
        }
    }

    /// Whether the drive did not answer in time, and has not since.
    fn hangs(&self) -> bool {
        self.silent >= self.patience && self.inner.in_flight() > 0
    }
}

impl Pumped {
    /// Wraps a reader, whose drive may be silent for so long while it is waited for: [`PATIENCE`], but in tests.
    ///
    /// # Errors
    /// When the system has no more threads to give.
    pub fn new(inner: Box<dyn Reader>, patience: Duration) -> io::Result<Pumped> {
        let done = Vec::with_capacity(READS_FORESEEN);
        let state = State { inner, done, failed: None, patience, silent: Duration::ZERO };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), work: Condvar::new(), ending: AtomicBool::new(false) });
        let thread = std::thread::Builder::new().name("outpour-pump".to_owned()).stack_size(STACK_BYTES);
        let pump = Arc::clone(&shared);
        let thread = thread.spawn(move || pump.pump())?;
        Ok(Pumped { shared, thread: Some(thread) })
    }
}

impl Drop for Pumped {
    fn drop(&mut self) {
        {
            let state = self.shared.lock();
            self.shared.ending.store(true, Ordering::Relaxed);
            if state.hangs() {
                // Readers end when their reads have, for these still write into their memory.
                std::mem::forget(Arc::clone(&self.shared));
            }
        }
        self.shared.work.notify_all();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked asks nothing any more, which is all that matters here.
            let _ = thread.join();
        }
    }
}

impl Reader for Pumped {
    fn describe(&self) -> String {
        self.shared.lock().inner.describe()
    }

    fn register(&mut self, region: &Arc<Region>) {
        self.shared.lock().inner.register(region);
    }

    fn unregister(&mut self, region: &Arc<Region>) {
        let mut state = self.shared.lock();
        // One that hangs keeps the region: it would wait for the reads into it.
        if !state.hangs() {
            state.inner.unregister(region);
        }
    }

    fn submit(&mut self, reads: &[Read]) -> io::Result<()> {
        let submitted = self.shared.lock().inner.submit(reads);
        self.shared.work.notify_one();
        submitted
    }

    fn submit_again(&mut self, read: &Read, attempt: usize) -> io::Result<()> {
        let submitted = self.shared.lock().inner.submit_again(read, attempt);
        self.shared.work.notify_one();
        submitted
    }

    fn copies(&self) -> usize {
        self.shared.lock().inner.copies()
    }

    fn collect(&mut self, wait: bool, done: &mut Vec<Completion>) -> io::Result<()> {
        let mut state = self.shared.lock();
        if wait && state.hangs() {
            state.silent = Duration::ZERO;
        }
        loop {
            let block = wait && state.done.is_empty();
            state.ask(block);
            if !block || !state.done.is_empty() || state.failed.is_some() || state.inner.in_flight() == 0 {
                break;
            }
            if state.hangs() {
                let of = state.inner.awaited().map_or(String::new(), |path| format!(" of {}", path.display()));
                let problem = format!(
                    "the drive{of} has not answered for {} s: see whether it is still connected and mounted, then try again",
                    state.patience.as_secs()
                );
                return Err(io::Error::new(io::ErrorKind::TimedOut, problem));
            }
        }
        done.append(&mut state.done);
        state.failed.take().map_or(Ok(()), Err)
    }

    fn in_flight(&self) -> usize {
        let state = self.shared.lock();
        state.inner.in_flight() + state.done.len()
    }

    fn counts(&self) -> ReaderCounts {
        self.shared.lock().inner.counts()
    }
}

#[cfg(test)]
mod tests {
    use std::any::Any;
    use std::path::Path;
    use std::ptr::NonNull;
    use std::sync::atomic::AtomicUsize;
    use std::time::Instant;

    use super::*;
    use crate::read::{RegionMemory, SourceFile};

    /// Finishes one read each time it is asked, as a drive with room for one would.
    #[derive(Default)]
    struct OneByOne {
        tags: Vec<u64>,
        finished: Arc<AtomicUsize>,
        fails: bool,
    }

    impl Reader for OneByOne {
        fn describe(&self) -> String {
            "one by one".into()
        }

        fn register(&mut self, _: &Arc<Region>) {}

        fn unregister(&mut self, _: &Arc<Region>) {}

        fn submit(&mut self, reads: &[Read]) -> io::Result<()> {
            self.tags.extend(reads.iter().rev().map(|read| read.tag));
            Ok(())
        }

        fn collect(&mut self, _wait: bool, done: &mut Vec<Completion>) -> io::Result<()> {
            if let Some(tag) = self.tags.pop() {
                self.finished.fetch_add(1, Ordering::Relaxed);
                done.push(Completion { tag, result: Ok(1) });
            }
            if self.fails { Err(io::Error::other("it fails")) } else { Ok(()) }
        }

        fn in_flight(&self) -> usize {
            self.tags.len()
        }

        fn counts(&self) -> ReaderCounts {
            ReaderCounts::default()
        }
    }

    struct Nowhere;

    impl RegionMemory for Nowhere {
        fn address(&self) -> NonNull<u8> {
            NonNull::dangling()
        }

        fn bytes(&self) -> usize {
            0
        }

        fn as_any(&self) -> &dyn Any {
            self
        }
    }

    fn reads(count: u64) -> Vec<Read> {
        let file = SourceFile::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).expect("a file");
        let region = Region::new(Nowhere);
        let read =
            |tag| Read { tag, file: file.clone(), offset: 0, bytes: 0, needed: 0, region: region.clone(), at: 0 };
        (0..count).map(read).collect()
    }

    #[test]
    fn reads_go_on_while_nobody_asks() {
        let finished = Arc::new(AtomicUsize::new(0));
        let inner = OneByOne { finished: finished.clone(), ..OneByOne::default() };
        let mut reader = Pumped::new(Box::new(inner), PATIENCE).expect("a thread");
        for _ in 0..2 {
            finished.store(0, Ordering::Relaxed);
            reader.submit(&reads(20)).expect("submitted");
            let began = Instant::now();
            while finished.load(Ordering::Relaxed) < 20 {
                assert!(began.elapsed() < Duration::from_secs(20), "the drive stands still");
                std::thread::sleep(PERIOD);
            }
            assert_eq!(reader.in_flight(), 20, "in flight until they are collected");
            let mut done = Vec::new();
            reader.collect(true, &mut done).expect("collected");
            assert_eq!(done.iter().map(|completion| completion.tag).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
            assert_eq!(reader.in_flight(), 0);
        }
    }

    #[test]
    fn a_failure_is_told_to_who_asks_next() {
        let inner = OneByOne { fails: true, ..OneByOne::default() };
        let mut reader = Pumped::new(Box::new(inner), PATIENCE).expect("a thread");
        reader.submit(&reads(3)).expect("submitted");
        let mut done = Vec::new();
        assert!(reader.collect(true, &mut done).is_err());
        assert!(!done.is_empty(), "what came is there all the same");
        drop(reader);
    }
}
