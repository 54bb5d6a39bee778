//! A reader around a reader, that tries reads again that failed, and those that brought other bytes than were written.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::{Completion, Read, Reader, ReaderCounts, Region};

/// How long to wait before each retry of a read, but for wrong bytes of which there are copies: a link that resets or a network
/// file system that stutters is back by then, and a drive that is gone is reported within a quarter of a second.
const BACKOFF: [Duration; 3] = [Duration::from_millis(10), Duration::from_millis(40), Duration::from_millis(160)];

/// Reads that the tables hold without growing.
const READS_FORESEEN: usize = 1024;

/// Tries failed reads again, up to three times, while the others go on.
pub struct Retrying {
    inner: Box<dyn Reader>,
    /// Reads in flight. The inner reader's tags are indices into this.
    slots: Vec<Option<Attempt>>,
    free: Vec<usize>,
    /// Failed reads that wait for their next try.
    waiting: Vec<(Instant, usize)>,
    /// Kept for their memory, empty between calls.
    outgoing: Vec<Read>,
    arrived: Vec<Completion>,
    counts: ReaderCounts,
}

/// A read as the caller submitted it.
struct Attempt {
    read: Read,
    /// Retries so far.
    retries: usize,
    /// How often it brought other bytes than were written.
    mismatches: usize,
}

impl Retrying {
    /// Wraps a reader.
    pub fn new(inner: Box<dyn Reader>) -> Retrying {
        Retrying {
            inner,
            slots: Vec::with_capacity(READS_FORESEEN),
            free: Vec::with_capacity(READS_FORESEEN),
            waiting: Vec::with_capacity(READS_FORESEEN),
            outgoing: Vec::with_capacity(READS_FORESEEN),
            arrived: Vec::with_capacity(READS_FORESEEN),
            counts: ReaderCounts::default(),
        }
    }

    /// Submits again what has waited long enough.
    fn resubmit_due(&mut self, done: &mut Vec<Completion>) {
        if self.waiting.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(position) = self.waiting.iter().position(|&(due, _)| due <= now) {
            let (_, slot) = self.waiting.swap_remove(position);
            let attempt = self.slots[slot].as_mut().expect("a read that waits is in flight");
            attempt.retries += 1;
            self.counts.retries += 1;
            let (read, retries) = (Read { tag: slot as u64, ..attempt.read.clone() }, attempt.retries);
            if let Err(error) = self.inner.submit_again(&read, retries) {
                self.finish(slot, Err(error), done);
            }
        }
    }

    /// Hands a result on, or puts the read aside for another try.
    fn sort(&mut self, completion: Completion, done: &mut Vec<Completion>) {
        let slot = completion.tag as usize;
        let attempt = self.slots[slot].as_mut().expect("a completed read was in flight");
        let result = completion.result.and_then(|bytes| checked(&attempt.read, bytes));
        let wrong = matches!(&result, Err(error) if error.kind() == io::ErrorKind::InvalidData);
        attempt.mismatches += usize::from(wrong);
        let (retries, mismatches) = (attempt.retries, attempt.mismatches);
        if mismatches > 0 && retries > 0 && self.inner.copies() > 1 {
            self.blame(slot, wrong, result.is_ok());
        }
        // Bytes that are wrong twice are wrong on the drive; each copy gets its chance.
        let hopeless = wrong && mismatches > self.inner.copies();
        match result {
            Err(error) if can_heal(&error) && retries < BACKOFF.len() && !hopeless => {
                // Another copy need not be waited for.
                let pause = if wrong && self.inner.copies() > 1 { Duration::ZERO } else { BACKOFF[retries] };
                self.waiting.push((Instant::now() + pause, slot));
            }
            result => self.finish(slot, result, done),
        }
    }

    /// Names the copy that is damaged, once it is known: the one that was asked alone, or the other of two where it was right.
    fn blame(&self, slot: usize, wrong: bool, right: bool) {
        let Attempt { read, retries, .. } = self.slots[slot].as_ref().expect("a completed read was in flight");
        let (asked, copies) = (self.inner.asked(read, *retries), read.file.copies());
        let copies = std::iter::once(&read.file).chain(copies);
        if wrong {
            asked.tell_damaged(read.offset);
        } else if right && copies.clone().count() == 2 {
            copies.filter(|copy| copy.path() != asked.path()).for_each(|copy| copy.tell_damaged(read.offset));
        }
    }

    fn finish(&mut self, slot: usize, result: io::Result<usize>, done: &mut Vec<Completion>) {
        let attempt = self.slots[slot].take().expect("a completed read was in flight");
        self.free.push(slot);
        if let Ok(bytes) = result {
            self.counts.reads += 1;
            self.counts.bytes += bytes as u64;
        }
        done.push(Completion { tag: attempt.read.tag, result });
    }
}

/// Checks what arrived, where it is known what must have.
fn checked(read: &Read, bytes: usize) -> io::Result<usize> {
    let Some(checksums) = read.file.checksums() else { return Ok(bytes) };
    let bytes = bytes.min(read.bytes);
    // What came short of the end of a record could not be checked.
    if (bytes as u64) < (read.bytes as u64).min(read.file.bytes().saturating_sub(read.offset)) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // SAFETY: the read was checked to lie inside its region, whose memory stays valid while `read` holds it. It has
    // completed, and until its caller is told so nothing else writes to where it went.
    let arrived = unsafe {
        let first = read.region.address().as_ptr().add(read.at);
        std::slice::from_raw_parts(first, bytes)
    };
    checksums.check(read.offset, arrived)?;
    Ok(bytes)
}

/// Whether another try may give another result. A wrong address, argument or file stays wrong.
fn can_heal(error: &io::Error) -> bool {
    let hopeless = [Errno::FAULT, Errno::INVAL, Errno::BADF, Errno::ISDIR, Errno::OPNOTSUPP];
    error.kind() != io::ErrorKind::InvalidInput
        && Errno::from_io_error(error).is_none_or(|errno| !hopeless.contains(&errno))
}

impl Reader for Retrying {
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
        for read in reads {
            let slot = self.free.pop().unwrap_or_else(|| {
                self.slots.push(None);
                self.slots.len() - 1
            });
            self.slots[slot] = Some(Attempt { read: read.clone(), retries: 0, mismatches: 0 });
            self.outgoing.push(Read { tag: slot as u64, ..read.clone() });
        }
        let submitted = self.inner.submit(&self.outgoing);
        for read in self.outgoing.drain(..) {
            if submitted.is_err() {
                let slot = read.tag as usize;
                self.slots[slot] = None;
                self.free.push(slot);
            }
        }
        submitted
    }

    fn collect(&mut self, wait: bool, done: &mut Vec<Completion>) -> io::Result<()> {
        let before = done.len();
        loop {
            self.resubmit_due(done);
            let block = wait && done.len() == before && self.inner.in_flight() > 0;
            let mut arrived = std::mem::take(&mut self.arrived);
            let collected = self.inner.collect(block, &mut arrived);
            let silent = block && arrived.is_empty();
            for completion in arrived.drain(..) {
                self.sort(completion, done);
            }
            self.arrived = arrived;
            collected?;
            if !wait || silent || done.len() > before || self.in_flight() == 0 {
                return Ok(());
            }
            let next_due = self.waiting.iter().map(|&(due, _)| due).min();
            if let (0, Some(due)) = (self.inner.in_flight(), next_due) {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn awaited(&mut self) -> Option<PathBuf> {
        self.inner.awaited()
    }

    fn counts(&self) -> ReaderCounts {
        ReaderCounts { retries: self.counts.retries + self.inner.counts().retries, ..self.counts }
    }
}
