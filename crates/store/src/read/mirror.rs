//! A reader of files that lie on several drives. It cuts reads into chunks and gives each to the drive that will have it
//! first, by what the drives were measured to give; what one drive fails to read, another one reads.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::parts::{PART_BYTES, check};
use super::{Completion, Read, Reader, ReaderCounts, Region, SourceFile};

/// Reads are cut into chunks of this size, so that drives end together: a few experts are all that a layer may want. The last
/// may be larger by half.
const CHUNK_BYTES: usize = PART_BYTES / 2;
/// Chunks that a drive works on at one time. The others wait here, so that a drive that stutters holds up no other one:
/// two drives fill the reader's queue of 32.
const FLYING_MAX: usize = 16;
/// How long a drive is left alone after its first failure; twice as long after each further one.
const REST_MIN: Duration = Duration::from_millis(100);
const REST_MAX: Duration = Duration::from_secs(30);
/// What a drive must have given in one go for its speed to be believed.
const MEASURED_BYTES_MIN: usize = 512 << 10;
/// After so much without a pause its speed is taken.
const MEASURED_BYTES_MAX: usize = 32 << 20;
/// Weight of the latest measurement.
const LATEST: f64 = 0.3;
/// How much a drive that got nothing is thought to have gained: so it is tried again some time.
const FORGIVEN: f64 = 1.02;

/// Reads each file from several drives: its own and those of its [`copies`](super::SourceFile::copies).
pub struct Mirror {
    inner: Box<dyn Reader>,
    drives: Vec<Drive>,
    /// Reads in flight.
    reads: Slots<Whole>,
    /// What they are cut into. The inner reader's tags are numbers of these.
    chunks: Slots<Chunk>,
    /// Of which every chunk is over.
    done: VecDeque<Completion>,
    arrived: Vec<Completion>,
    counts: ReaderCounts,
}

struct Whole {
    read: Read,
    chunks_left: usize,
    arrived: usize,
    error: Option<io::Error>,
}

#[derive(Clone, Copy)]
struct Chunk {
    /// Number among [`Mirror::reads`].
    whole: usize,
    /// Range of the read.
    from: usize,
    to: usize,
    drive: usize,
    /// Drives that failed, or are left alone, one bit each.
    failed: u64,
}

impl Chunk {
    fn bytes(&self) -> usize {
        self.to - self.from
    }
}

/// A drive, and the folder on it.
#[derive(Default)]
struct Drive {
    waiting: VecDeque<usize>,
    flying: usize,
    /// Bytes waiting and flying.
    pending: usize,
    /// Bytes a second. Unknown at first.
    speed: Option<f64>,
    /// Since when it works without a pause, and what it gave since.
    busy: Option<(Instant, usize)>,
    failures: u32,
    rests_until: Option<Instant>,
}

impl Drive {
    fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    /// Notes a chunk that came; `observed` if it was waited for, so that the time is right.
    fn gave(&mut self, bytes: usize, observed: bool) {
        self.failures = 0;
        self.rests_until = None;
        let Some((since, given)) = self.busy.as_mut() else { return };
        *given += bytes;
        if self.pending == 0 || *given >= MEASURED_BYTES_MAX {
            if observed && *given >= MEASURED_BYTES_MIN {
                let latest = *given as f64 / since.elapsed().as_secs_f64().max(1e-9);
                self.speed = Some(self.speed.map_or(latest, |speed| speed + LATEST * (latest - speed)));
            }
            self.busy = (self.pending > 0).then(|| (Instant::now(), 0));
        }
    }

    fn failed(&mut self) {
        let rest = REST_MIN.saturating_mul(1 << self.failures.min(16)).min(REST_MAX);
        self.rests_until = Some(Instant::now() + rest);
        self.failures += 1;
        self.busy = None;
    }
}

impl Mirror {
    /// Wraps a reader of one drive. `drives` folders hold the files, the model's own included.
    pub fn new(inner: Box<dyn Reader>, drives: usize) -> Mirror {
        assert!((1..=64).contains(&drives), "a bit for each drive");
        Mirror {
            inner,
            drives: (0..drives).map(|_| Drive::default()).collect(),
            reads: Slots::default(),
            chunks: Slots::default(),
            done: VecDeque::new(),
            arrived: Vec::new(),
            counts: ReaderCounts::default(),
        }
    }

    /// Takes a read on and cuts it; `drive` to have it read by one drive as a whole.
    fn admit(&mut self, read: &Read, drive: Option<usize>) {
        let whole = self.reads.add(Whole { read: read.clone(), chunks_left: 0, arrived: 0, error: None });
        let failed = left_alone(read);
        let (mut from, now) = (0, Instant::now());
        loop {
            let left = read.bytes - from;
            let to = from + if drive.is_some() || left <= CHUNK_BYTES / 2 * 3 { left } else { CHUNK_BYTES };
            let number = self.chunks.add(Chunk { whole, from, to, drive: 0, failed });
            self.reads.get(whole).chunks_left += 1;
            let drive = drive.or_else(|| self.soonest(to - from, failed, now)).unwrap_or(0);
            self.assign(number, drive);
            if to == read.bytes {
                return;
            }
            from = to;
        }
    }

    /// The drive that will be through with so many more bytes first, among those that did not fail them; one that rests
    /// only if there is no other.
    fn soonest(&self, bytes: usize, failed: u64, now: Instant) -> Option<usize> {
        let fastest = self.drives.iter().filter_map(|drive| drive.speed).fold(0.0, f64::max);
        let fastest = if fastest > 0.0 { fastest } else { 1.0 };
        let candidates = self.drives.iter().enumerate().filter(|(number, _)| failed & (1 << number) == 0);
        let cost = |drive: &Drive| {
            let seconds = (drive.pending + bytes) as f64 / drive.speed.unwrap_or(fastest).max(1.0);
            (drive.rests(now), seconds)
        };
        let costs = candidates.map(|(number, drive)| (cost(drive), number));
        costs.min_by(|(a, _), (b, _)| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))).map(|(_, number)| number)
    }

    /// The drive whose turn it is at such an attempt.
    fn drive_asked(&self, read: &Read, attempt: usize) -> usize {
        let (drives, left_alone) = ((read.file.copies().len() + 1).min(self.drives.len()), left_alone(read));
        let asked = (0..drives).filter(|drive| left_alone & (1 << drive) == 0);
        let drive = asked.clone().nth(attempt % asked.count().max(1));
        drive.unwrap_or(attempt % drives)
    }

    fn assign(&mut self, number: usize, drive: usize) {
        let chunk = self.chunks.get(number);
        chunk.drive = drive;
        let drive = &mut self.drives[drive];
        drive.waiting.push_back(number);
        drive.pending += chunk.bytes();
    }

    /// Gives every drive work.
    fn send(&mut self) {
        for number in 0..self.drives.len() {
            while self.drives[number].flying < FLYING_MAX
                && let Some(next) = self.drives[number].waiting.pop_front()
            {
                let drive = &mut self.drives[number];
                drive.flying += 1;
                drive.busy.get_or_insert_with(|| (Instant::now(), 0));
                let read = self.chunk_read(next);
                if let Err(error) = self.inner.submit(std::slice::from_ref(&read)) {
                    self.over(Completion { tag: next as u64, result: Err(error) }, false);
                }
            }
        }
    }

    /// A chunk as its drive is asked for it.
    fn chunk_read(&mut self, number: usize) -> Read {
        let chunk = *self.chunks.get(number);
        let read = &self.reads.get(chunk.whole).read;
        let copies = read.file.copies();
        Read {
            tag: number as u64,
            file: if chunk.drive == 0 { read.file.clone() } else { copies[chunk.drive - 1].clone() },
            offset: read.offset + chunk.from as u64,
            bytes: chunk.bytes(),
            needed: read.needed.clamp(chunk.from, chunk.to) - chunk.from,
            region: read.region.clone(),
            at: read.at + chunk.from,
        }
    }

    /// Notes what became of a chunk. What its drive failed goes to another one.
    fn over(&mut self, completion: Completion, observed: bool) {
        let number = completion.tag as usize;
        let chunk = self.chunks.get(number);
        let drive = &mut self.drives[chunk.drive];
        drive.flying -= 1;
        drive.pending -= chunk.bytes();
        match completion.result {
            Ok(bytes) => {
                drive.gave(bytes, observed);
                self.reads.get(chunk.whole).arrived += bytes;
            }
            Err(error) => {
                drive.failed();
                chunk.failed |= 1 << chunk.drive;
                let chunk = *chunk;
                self.counts.retries += 1;
                self.relieve(chunk.drive);
                if let Some(other) = self.soonest(chunk.bytes(), chunk.failed, Instant::now()) {
                    self.assign(number, other);
                    return;
                }
                self.reads.get(chunk.whole).error.get_or_insert(error);
            }
        }
        let Chunk { whole, .. } = self.chunks.remove(number);
        let chunks_left = &mut self.reads.get(whole).chunks_left;
        *chunks_left -= 1;
        if *chunks_left == 0 {
            self.finish(whole);
        }
    }

    /// Hands what waits for a drive to the others.
    fn relieve(&mut self, failed: usize) {
        for number in std::mem::take(&mut self.drives[failed].waiting) {
            let chunk = *self.chunks.get(number);
            self.drives[failed].pending -= chunk.bytes();
            let other = self.soonest(chunk.bytes(), chunk.failed | 1 << failed, Instant::now());
            self.assign(number, other.unwrap_or(failed));
        }
    }

    fn finish(&mut self, whole: usize) {
        let Whole { read, arrived, error, .. } = self.reads.remove(whole);
        if error.is_none() {
            self.counts.reads += 1;
            self.counts.bytes += arrived as u64;
        }
        self.done.push_back(Completion { tag: read.tag, result: error.map_or(Ok(arrived), Err) });
    }

    /// A drive that had nothing to do for long may have become faster.
    fn forgive(&mut self) {
        let fastest = self.drives.iter().filter_map(|drive| drive.speed).fold(0.0, f64::max);
        for drive in self.drives.iter_mut().filter(|drive| drive.pending == 0) {
            drive.speed = drive.speed.map(|speed| (speed * FORGIVEN).min(fastest.max(speed)));
        }
    }
}

/// Drives that are not asked for a read any more, a bit each.
fn left_alone(read: &Read) -> u64 {
    let files = std::iter::once(&read.file).chain(read.file.copies());
    files.enumerate().filter(|(_, file)| file.is_left_alone()).fold(0, |bits, (drive, _)| bits | 1 << drive)
}

/// Values by number; a number is used again when its value is gone.
struct Slots<T> {
    places: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    fn add(&mut self, value: T) -> usize {
        let number = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        self.places[number] = Some(value);
        number
    }

    fn get(&mut self, number: usize) -> &mut T {
        self.places[number].as_mut().expect("invariant: a number is used while its read is in flight")
    }

    fn remove(&mut self, number: usize) -> T {
        self.free.push(number);
        self.places[number].take().expect("invariant: a number is used while its read is in flight")
    }

    fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

impl Reader for Mirror {
    fn describe(&self) -> String {
        format!("{}, {} drives", self.inner.describe(), self.drives.len())
    }

    fn register(&mut self, region: &Arc<Region>) {
        self.inner.register(region);
    }

    fn unregister(&mut self, region: &Arc<Region>) {
        self.inner.unregister(region);
    }

    fn submit(&mut self, reads: &[Read]) -> io::Result<()> {
        reads.iter().try_for_each(check)?;
        for read in reads {
            // A file without copies has one drive.
            let only = (read.file.copies().len() + 1 < self.drives.len()).then_some(0);
            self.admit(read, only);
        }
        self.forgive();
        self.send();
        Ok(())
    }

    fn submit_again(&mut self, read: &Read, attempt: usize) -> io::Result<()> {
        check(read)?;
        let drive = self.drive_asked(read, attempt);
        self.admit(read, Some(drive));
        self.send();
        Ok(())
    }

    fn asked<'r>(&self, read: &'r Read, attempt: usize) -> &'r SourceFile {
        match self.drive_asked(read, attempt) {
            0 => &read.file,
            drive => &read.file.copies()[drive - 1],
        }
    }

    fn copies(&self) -> usize {
        self.drives.len()
    }

    fn collect(&mut self, wait: bool, done: &mut Vec<Completion>) -> io::Result<()> {
        loop {
            self.send();
            let block = wait && self.done.is_empty() && self.inner.in_flight() > 0;
            let mut arrived = std::mem::take(&mut self.arrived);
            let collected = self.inner.collect(block, &mut arrived);
            let silent = block && arrived.is_empty();
            for completion in arrived.drain(..) {
                self.over(completion, block);
            }
            self.arrived = arrived;
            collected?;
            if !wait || silent || !self.done.is_empty() || self.in_flight() == 0 {
                done.extend(self.done.drain(..));
                self.send();
                return Ok(());
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.reads.len() + self.done.len()
    }

    fn awaited(&mut self) -> Option<PathBuf> {
        let drive = self.drives.iter().position(|drive| drive.flying > 0)?;
        let chunk = self.chunks.places.iter().flatten().find(|chunk| chunk.drive == drive)?;
        let whole = chunk.whole;
        let file = &self.reads.get(whole).read.file;
        Some(if drive == 0 { file } else { &file.copies()[drive - 1] }.path().to_owned())
    }

    fn counts(&self) -> ReaderCounts {
        ReaderCounts { retries: self.counts.retries + self.inner.counts().retries, ..self.counts }
    }
}
