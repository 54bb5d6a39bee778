//! What both readers share: the reads in flight, cut into parts that the drive works on at the same time.

use std::collections::VecDeque;
use std::io;

use super::{Completion, Read, ReaderCounts};

/// Reads are cut into parts of this size, so that even one expert keeps the drive at depth.
pub(super) const PART_BYTES: usize = 1 << 20;

/// The last part of a read may be larger by half, so that none is much smaller than the others.
pub(super) const PART_BYTES_MAX: usize = PART_BYTES + PART_BYTES / 2;

/// Reads that the tables hold without growing.
const READS_FORESEEN: usize = 1024;

/// How often the kernel may answer EINTR or EAGAIN to parts of one read.
const AGAIN_MAX: u32 = 64;

/// A range of a read, in bytes from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    /// The read, as numbered by [`Flights`].
    pub(super) flight: usize,
    /// First byte.
    pub(super) from: usize,
    /// Byte behind the last.
    pub(super) to: usize,
}

/// A read between submission and collection. Its memory and file stay alive with it.
struct Flight {
    read: Read,
    /// Bytes handed out as parts, from the start.
    issued: usize,
    /// Parts handed out and not over.
    flying: usize,
    /// Where the bytes end: less than `read.bytes` once the end of the file was met.
    end: usize,
    /// Times that a part was tried again at once.
    again: u32,
    error: Option<io::Error>,
}

/// The reads of a reader, from submission to collection.
pub(super) struct Flights {
    slots: Vec<Option<Flight>>,
    free: Vec<usize>,
    /// Not handed out entirely. Only the first may be handed out in part.
    waiting: VecDeque<usize>,
    /// Over, not collected.
    done: VecDeque<usize>,
    counts: ReaderCounts,
    parts_over: u64,
    direct_seen: bool,
    buffered_seen: bool,
}

impl Flights {
    pub(super) fn new() -> Flights {
        Flights {
            slots: Vec::with_capacity(READS_FORESEEN),
            free: Vec::with_capacity(READS_FORESEEN),
            waiting: VecDeque::with_capacity(READS_FORESEEN),
            done: VecDeque::with_capacity(READS_FORESEEN),
            counts: ReaderCounts::default(),
            parts_over: 0,
            direct_seen: false,
            buffered_seen: false,
        }
    }

    /// Takes on all of these reads, or none of them.
    pub(super) fn admit(&mut self, reads: &[Read]) -> io::Result<()> {
        reads.iter().try_for_each(check)?;
        for read in reads {
            self.direct_seen |= read.file.is_direct();
            self.buffered_seen |= !read.file.is_direct();
            let flight = Flight { read: read.clone(), issued: 0, flying: 0, end: read.bytes, again: 0, error: None };
            let id = self.free.pop().unwrap_or_else(|| {
                self.slots.push(None);
                self.slots.len() - 1
            });
            self.slots[id] = Some(flight);
            if read.bytes == 0 { self.finish(id) } else { self.waiting.push_back(id) }
        }
        Ok(())
    }

    /// The next part to read. Reads are served in the order of submission.
    pub(super) fn next_part(&mut self) -> Option<Part> {
        let id = *self.waiting.front()?;
        let flight = self.flight_mut(id);
        let (from, left) = (flight.issued, flight.read.bytes - flight.issued);
        let to = from + if left <= PART_BYTES_MAX { left } else { PART_BYTES };
        flight.issued = to;
        flight.flying += 1;
        if to == flight.read.bytes {
            self.waiting.pop_front();
        }
        Some(Part { flight: id, from, to })
    }

    /// The read that a part belongs to.
    pub(super) fn read(&self, part: Part) -> &Read {
        &self.slots[part.flight].as_ref().expect("a part in flight belongs to a read").read
    }

    /// Notes what became of a part. Returns what must be read once more: the rest of a part that came back short, or
    /// all of it after EINTR and the like.
    pub(super) fn part_over(&mut self, part: Part, result: io::Result<usize>) -> Option<Part> {
        self.parts_over += 1;
        let flight = self.flight_mut(part.flight);
        match result {
            Ok(arrived) => match rest(&flight.read, part, arrived) {
                Rest::Nothing => {}
                Rest::From(from) => return Some(Part { from, ..part }),
                Rest::EndOfFile(end) => {
                    flight.end = flight.end.min(end);
                    self.issue_no_more(part.flight);
                }
            },
            Err(error) if is_passing(&error) && flight.again < AGAIN_MAX => {
                flight.again += 1;
                return Some(part);
            }
            Err(error) => {
                flight.error = Some(error);
                self.issue_no_more(part.flight);
            }
        }
        let flight = self.flight_mut(part.flight);
        flight.flying -= 1;
        if flight.flying == 0 && flight.issued == flight.read.bytes {
            self.finish(part.flight);
        }
        None
    }

    /// A completed read, the oldest first.
    pub(super) fn take_done(&mut self) -> Option<Completion> {
        let id = self.done.pop_front()?;
        let flight = self.slots[id].take().expect("a completed read is kept until it is collected");
        self.free.push(id);
        let (end, needed) = (flight.end, flight.read.needed);
        let result = match flight.error {
            Some(error) => Err(error),
            None if end < needed => {
                let problem = format!("the file ended after {end} of {needed} bytes");
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, problem))
            }
            None => Ok(end),
        };
        Some(Completion { tag: flight.read.tag, result })
    }

    /// Whether a completed read waits to be collected.
    pub(super) fn any_done(&self) -> bool {
        !self.done.is_empty()
    }

    /// Reads submitted and not collected.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Forgets the parts that were not handed out. For the end of a reader: those reads never complete.
    pub(super) fn abandon_waiting(&mut self) {
        self.waiting.clear();
    }

    pub(super) fn counts(&self) -> ReaderCounts {
        self.counts
    }

    /// How often the drive answered, whole reads or not.
    pub(super) fn parts_over(&self) -> u64 {
        self.parts_over
    }

    /// How the files read so far are open.
    pub(super) fn mode(&self) -> &'static str {
        match (self.direct_seen, self.buffered_seen) {
            (true, false) => ", O_DIRECT",
            (false, true) => ", buffered",
            (true, true) => ", O_DIRECT and buffered",
            (false, false) => "",
        }
    }

    fn flight_mut(&mut self, id: usize) -> &mut Flight {
        self.slots[id].as_mut().expect("a part in flight belongs to a read")
    }

    /// The rest of this read is not worth asking for.
    fn issue_no_more(&mut self, id: usize) {
        let flight = self.flight_mut(id);
        if flight.issued < flight.read.bytes {
            flight.issued = flight.read.bytes;
            let first = self.waiting.pop_front();
            assert_eq!(first, Some(id), "only the first waiting read is handed out in part");
        }
    }

    fn finish(&mut self, id: usize) {
        let flight = self.flight_mut(id);
        if flight.error.is_none() && flight.end >= flight.read.needed {
            let bytes = flight.end as u64;
            self.counts.reads += 1;
            self.counts.bytes += bytes;
        }
        self.done.push_back(id);
    }
}

/// Whether the kernel only asks for another try.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// What is left of a part.
#[derive(Debug, PartialEq, Eq)]
enum Rest {
    Nothing,
    /// Go on from this byte of the read.
    From(usize),
    /// The file ends at this byte of the read.
    EndOfFile(usize),
}

/// Finds what is left of `part` after `arrived` bytes of it. Only nothing at all, or the known end of the file, means
/// that the file ended: the kernel may return less for reasons of its own.
fn rest(read: &Read, part: Part, arrived: usize) -> Rest {
    let position = part.from + arrived;
    if position >= part.to {
        return Rest::Nothing;
    }
    if arrived == 0 || read.offset + position as u64 >= read.file.bytes() {
        return Rest::EndOfFile(position);
    }
    let whole = if read.file.is_direct() { arrived - arrived % read.file.align() } else { arrived };
    if whole == 0 { Rest::EndOfFile(position) } else { Rest::From(part.from + whole) }
}

/// Refuses a read that is not wholly inside its region, or that its file cannot be asked for.
pub(super) fn check(read: &Read) -> io::Result<()> {
    let refuse = |problem: String| Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    let Read { offset, bytes, needed, at, .. } = *read;
    let room = read.region.bytes();
    if at.checked_add(bytes).is_none_or(|end| end > room) {
        return refuse(format!("a read of {bytes} bytes to byte {at} of a region of {room} bytes"));
    }
    if offset.checked_add(bytes as u64).is_none_or(|end| end > i64::MAX as u64) || needed > bytes {
        return refuse(format!("a read of {bytes} bytes at byte {offset} of which {needed} are needed"));
    }
    let align = read.file.align();
    let address = read.region.address().as_ptr() as usize + at;
    if read.file.is_direct() && !(offset.is_multiple_of(align as u64) && (bytes | address).is_multiple_of(align)) {
        return refuse(format!("a direct read of {bytes} bytes at byte {offset} that is not aligned to {align}"));
    }
    Ok(())
}

/// Takes a part of a buffered file out of the page cache again, which so holds no more than what is in flight.
pub(super) fn drop_behind(read: &Read, part: Part) {
    #[cfg(target_os = "linux")]
    if !read.file.is_direct() {
        // The kernel drops whole pages only, and they may be larger than the alignment of reads.
        let page = rustix::param::page_size() as u64;
        let first = (read.offset + part.from as u64) / page * page;
        let end = (read.offset + part.to as u64).next_multiple_of(page);
        let bytes = std::num::NonZeroU64::new(end - first);
        // Advice only: what cannot be dropped now, the kernel drops when memory is short.
        let _ = rustix::fs::fadvise(read.file.fd(), first, bytes, rustix::fs::Advice::DontNeed);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (read, part);
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::any::Any;
    use std::ptr::NonNull;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;
    use crate::read::{ReaderKind, Region, RegionMemory, SourceFile};

    struct Bytes(Vec<AtomicU8>);

    impl RegionMemory for Bytes {
        fn address(&self) -> NonNull<u8> {
            NonNull::from(self.0.as_slice()).cast()
        }

        fn bytes(&self) -> usize {
            self.0.len()
        }

        fn as_any(&self) -> &dyn Any {
            self
        }
    }

    fn region(bytes: usize) -> Arc<Region> {
        Region::new(Bytes(std::iter::repeat_with(|| AtomicU8::new(0)).take(bytes).collect()))
    }

    fn holds(region: &Region, bytes: &[u8]) -> bool {
        let memory = &region.memory().downcast_ref::<Bytes>().unwrap().0;
        memory.iter().zip(bytes).all(|(found, wanted)| found.load(Ordering::Relaxed) == *wanted)
    }

    /// A file that is read buffered, whatever the file system can do.
    fn buffered(content: &[u8]) -> (tempfile::TempDir, Arc<SourceFile>) {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).or_else(|_| tempfile::tempdir()).unwrap();
        let path = folder.path().join("weights.buffered");
        std::fs::write(&path, content).unwrap();
        std::fs::File::open(&path).unwrap().sync_all().unwrap();
        let file = SourceFile::open(&path).unwrap();
        assert!(!file.is_direct());
        (folder, file)
    }

    /// Pages of the file in the page cache, or `None` where the tool that tells is missing.
    fn cached_pages(file: &SourceFile) -> Option<usize> {
        let mut tool = std::process::Command::new("fincore");
        let output = tool.args(["--noheadings", "--output", "PAGES"]).arg(file.path()).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    }

    #[test]
    fn buffered_reads_leave_nothing_in_the_page_cache() {
        let content: Vec<u8> = (0..(24u32 << 20) + 5000).map(|i| (i / 7 + i / 4096) as u8).collect();
        for kind in [ReaderKind::Pread, ReaderKind::Uring] {
            let (_folder, file) = buffered(&content);
            let Ok(mut reader) = crate::read::open(kind) else {
                eprintln!("skipped: io_uring is not to be had here");
                continue;
            };
            let region = region(content.len().next_multiple_of(4096));
            let (mut done, bytes) = (Vec::new(), region.bytes());
            let read = Read {
                tag: 0,
                file: file.clone(),
                offset: 0,
                bytes,
                needed: content.len(),
                region: region.clone(),
                at: 0,
            };
            // The file was just written, in large folios that reads may cover in part only.
            assert!(cached_pages(&file).is_none_or(|pages| pages > 5000));
            rustix::fs::fadvise(file.fd(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
            for _ in 0..2 {
                reader.submit(std::slice::from_ref(&read)).unwrap();
                reader.collect(true, &mut done).unwrap();
                assert_eq!(done.pop().unwrap().result.unwrap(), content.len());
                assert!(holds(&region, &content));
                match cached_pages(&file) {
                    Some(pages) => assert!(pages < 64, "{}: {pages} pages stay cached", reader.describe()),
                    None => eprintln!("skipped: no fincore here"),
                }
            }
        }
    }

    #[test]
    fn parts_cover_a_read_and_none_is_small() {
        let (_folder, file) = buffered(&[1; 100]);
        let region = region(8 << 20);
        for bytes in [1, 4096, PART_BYTES, PART_BYTES + 1, PART_BYTES_MAX, PART_BYTES_MAX + 1, 7_077_888, 8 << 20] {
            let mut flights = Flights::new();
            let read = Read { tag: 4, file: file.clone(), offset: 0, bytes, needed: 0, region: region.clone(), at: 0 };
            flights.admit(&[read.clone(), read]).unwrap();
            let parts: Vec<Part> = std::iter::from_fn(|| flights.next_part()).collect();
            let (first, second) = parts.split_at(parts.len() / 2);
            for parts in [first, second] {
                assert_eq!((parts[0].from, parts[parts.len() - 1].to), (0, bytes));
                assert!(parts.windows(2).all(|pair| pair[0].to == pair[1].from));
                assert!(parts.iter().all(|part| (part.to - part.from) * 2 >= PART_BYTES.min(bytes)));
                assert!(parts.iter().all(|part| part.to - part.from <= PART_BYTES_MAX));
            }
            // Out of order, in two pieces each, with interruptions.
            for &part in parts.iter().rev() {
                assert_eq!(flights.part_over(part, Err(io::ErrorKind::Interrupted.into())), Some(part));
                let half = (part.to - part.from) / 2;
                if half > 0 {
                    // Behind the file's end nothing more is asked for.
                    let known_end = part.from + half >= 100;
                    let rest = Part { from: part.from + half, ..part };
                    assert_eq!(flights.part_over(part, Ok(half)), (!known_end).then_some(rest));
                    if known_end {
                        continue;
                    }
                }
                assert_eq!(flights.part_over(part, Ok(part.to - part.from)), None);
            }
            assert!(flights.take_done().unwrap().result.is_ok());
            assert!(flights.take_done().unwrap().result.is_ok());
            assert!(flights.take_done().is_none());
            assert_eq!(flights.len(), 0);
        }
    }

    #[test]
    fn a_failed_part_fails_its_read_alone() {
        let (_folder, file) = buffered(&[1; 100]);
        let region = region(4 << 20);
        let read =
            |tag| Read { tag, file: file.clone(), offset: 0, bytes: 4 << 20, needed: 0, region: region.clone(), at: 0 };
        let mut flights = Flights::new();
        flights.admit(&[read(1), read(2)]).unwrap();
        let (first, second) = (flights.next_part().unwrap(), flights.next_part().unwrap());
        assert_eq!(flights.part_over(second, Err(io::Error::from_raw_os_error(5))), None);
        assert!(!flights.any_done(), "its first part still flies");
        let other = flights.next_part().unwrap();
        assert_ne!(other.flight, first.flight, "no more of it is read");
        assert_eq!(flights.part_over(first, Ok(1 << 20)), None);
        let failed = flights.take_done().unwrap();
        assert_eq!((failed.tag, failed.result.unwrap_err().raw_os_error()), (1, Some(5)));
        assert_eq!(flights.counts(), ReaderCounts::default());
        assert_eq!(flights.len(), 1);
        for _ in 0..AGAIN_MAX {
            assert_eq!(flights.part_over(other, Err(io::ErrorKind::WouldBlock.into())), Some(other));
        }
        assert_eq!(flights.part_over(other, Err(io::ErrorKind::WouldBlock.into())), None);
        assert_eq!(flights.take_done().unwrap().result.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
