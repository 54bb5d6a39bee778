//! The reader that works everywhere: a pool of threads that call pread.

use std::io;
use std::mem::MaybeUninit;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::parts::{Flights, PART_BYTES_MAX, Part, drop_behind};
use super::{Completion, Read, Reader, ReaderCounts, Region, WAIT_MAX};

/// Threads for each drive, and so parts in flight.
const THREADS: usize = 8;

/// Address space of a thread's stack, of which two pages are touched.
const STACK_BYTES: usize = 64 << 10;

/// The most that reads of buffered files hold in the page cache at one time.
pub const WINDOW_BYTES_MAX: usize = THREADS * PART_BYTES_MAX;

/// A pool of threads that call pread.
pub struct Pread {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the pool and its owner share.
struct Shared {
    state: Mutex<State>,
    /// There is a part to read, or the pool ends.
    work: Condvar,
    /// A read has completed.
    completed: Condvar,
}

struct State {
    flights: Flights,
    ending: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pread {
    /// Starts the threads for so many drives.
    ///
    /// # Errors
    /// When the system has no more threads to give.
    pub fn new(drives: usize) -> io::Result<Pread> {
        let state = Mutex::new(State { flights: Flights::new(), ending: false });
        let shared = Arc::new(Shared { state, work: Condvar::new(), completed: Condvar::new() });
        let mut pool = Pread { shared, threads: Vec::with_capacity(drives * THREADS) };
        for _ in 0..drives * THREADS {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new().name("outpour-read".to_owned()).stack_size(STACK_BYTES);
            pool.threads.push(thread.spawn(move || work(&shared))?);
        }
        Ok(pool)
    }
}

impl Drop for Pread {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.ending = true;
            state.flights.abandon_waiting();
        }
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked reads nothing any more, which is all that matters here.
            let _ = thread.join();
        }
    }
}

/// A thread's life: parts, until the pool ends.
fn work(shared: &Shared) {
    let mut state = shared.lock();
    while !state.ending {
        let Some(part) = state.flights.next_part() else {
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        state = read_part(shared, state, part);
        if state.flights.any_done() {
            shared.completed.notify_one();
        }
    }
}

/// Reads one part to its end, with the lock given back meanwhile.
fn read_part<'a>(shared: &'a Shared, mut state: MutexGuard<'a, State>, part: Part) -> MutexGuard<'a, State> {
    let mut next = Some(part);
    while let Some(part) = next {
        let read = state.flights.read(part).clone();
        drop(state);
        let result = pread(&read, part);
        drop_behind(&read, part);
        // Before the read can complete, so that its memory is never freed by this thread.
        drop(read);
        state = shared.lock();
        next = if state.ending { None } else { state.flights.part_over(part, result) };
    }
    state
}

/// One system call: `part` of `read`, or as much of it as the kernel gives.
fn pread(read: &Read, part: Part) -> io::Result<usize> {
    let length = part.to - part.from;
    // SAFETY: the read was checked to lie inside its region, whose memory stays valid while `read` holds it, and parts
    // do not overlap. Nothing is read through the slice.
    let target = unsafe {
        let first = read.region.address().as_ptr().add(read.at + part.from);
        std::slice::from_raw_parts_mut(first.cast::<MaybeUninit<u8>>(), length)
    };
    let (arrived, _) = rustix::io::pread(read.file.fd(), target, read.offset + part.from as u64)?;
    Ok(arrived.len())
}

impl Reader for Pread {
    fn describe(&self) -> String {
        format!("pread, {} threads{}", self.threads.len(), self.shared.lock().flights.mode())
    }

    fn register(&mut self, _region: &Arc<Region>) {}

    fn unregister(&mut self, _region: &Arc<Region>) {}

    fn submit(&mut self, reads: &[Read]) -> io::Result<()> {
        self.shared.lock().flights.admit(reads)?;
        self.shared.work.notify_all();
        Ok(())
    }

    fn collect(&mut self, wait: bool, done: &mut Vec<Completion>) -> io::Result<()> {
        let mut state = self.shared.lock();
        while wait && !state.flights.any_done() && state.flights.len() > 0 {
            let parts_before = state.flights.parts_over();
            let (held, waited) =
                self.shared.completed.wait_timeout(state, WAIT_MAX).unwrap_or_else(PoisonError::into_inner);
            state = held;
            if waited.timed_out() && state.flights.parts_over() == parts_before {
                break;
            }
        }
        while let Some(completion) = state.flights.take_done() {
            done.push(completion);
        }
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.shared.lock().flights.len()
    }

    fn counts(&self) -> ReaderCounts {
        self.shared.lock().flights.counts()
    }
}
