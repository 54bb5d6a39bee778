//! The readers: the same bytes at odd and aligned places, ends of files, many reads, faults, and what they cost.

use std::any::Any;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use outpour_store::machine::Machine;
use outpour_store::read::{
    self, Completion, Read, Reader, ReaderCounts, ReaderKind, Region, RegionMemory, Retrying, SourceFile,
};

const PAGE: usize = 4096;

/// Aligned memory, which the kernel may write to while it is looked at.
struct Block {
    memory: Vec<AtomicU8>,
    first: usize,
    bytes: usize,
    dropped: Arc<AtomicBool>,
}

const BLOCK_ALIGN: usize = 64 << 10;

impl Block {
    fn region(bytes: usize) -> Arc<Region> {
        Block::watched(bytes, Arc::default())
    }

    fn watched(bytes: usize, dropped: Arc<AtomicBool>) -> Arc<Region> {
        let memory: Vec<AtomicU8> = std::iter::repeat_with(|| AtomicU8::new(0xAA)).take(bytes + BLOCK_ALIGN).collect();
        let first = memory.as_ptr().align_offset(BLOCK_ALIGN);
        Region::new(Block { memory, first, bytes, dropped })
    }
}

impl RegionMemory for Block {
    fn address(&self) -> NonNull<u8> {
        NonNull::from(&self.memory[self.first]).cast()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::SeqCst);
    }
}

/// What lies in a region.
fn content(region: &Region, from: usize, bytes: usize) -> Vec<u8> {
    let block = region.memory().downcast_ref::<Block>().expect("tests use blocks");
    block.memory[block.first + from..][..bytes].iter().map(|byte| byte.load(Ordering::Relaxed)).collect()
}

/// The byte that test files hold at `offset`.
fn byte_at(offset: u64) -> u8 {
    let mixed = (offset / 8 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).to_le_bytes()[(offset % 8) as usize]
}

fn expected(offset: u64, bytes: usize) -> Vec<u8> {
    (offset..offset + bytes as u64).map(byte_at).collect()
}

fn write_file(path: &Path, bytes: usize) {
    let mut file = File::create(path).unwrap();
    file.write_all(&expected(0, bytes)).unwrap();
    file.sync_all().unwrap();
}

/// A file of `bytes` bytes and the folder that holds it.
fn source(bytes: usize) -> (tempfile::TempDir, Arc<SourceFile>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    write_file(&path, bytes);
    let source = SourceFile::open(&path).unwrap();
    (folder, source)
}

/// Every reader that this machine has.
fn readers() -> Vec<Box<dyn Reader>> {
    let mut readers = vec![read::open(ReaderKind::Pread).unwrap()];
    match read::open(ReaderKind::Uring) {
        Ok(uring) => readers.push(uring),
        Err(error) => eprintln!("skipped: io_uring is not to be had here ({error})"),
    }
    readers
}

/// The read that brings `bytes` bytes from `offset` on, rounded outwards, to byte `at` of the region.
fn rounded(file: &Arc<SourceFile>, tag: u64, offset: u64, bytes: usize, region: &Arc<Region>, at: usize) -> Read {
    let align = file.align() as u64;
    let first = offset / align * align;
    let end = (offset + bytes as u64).div_ceil(align) * align;
    let needed = (offset + bytes as u64 - first) as usize;
    Read { tag, file: file.clone(), offset: first, bytes: (end - first) as usize, needed, region: region.clone(), at }
}

fn collect_all(reader: &mut dyn Reader) -> Vec<Completion> {
    let mut done = Vec::new();
    while reader.in_flight() > 0 {
        let before = done.len();
        reader.collect(true, &mut done).unwrap();
        assert!(done.len() > before, "a waiting collect brings at least one completion");
    }
    reader.collect(true, &mut done).unwrap();
    done
}

/// One read, to its end.
fn read_one(reader: &mut dyn Reader, read: Read) -> io::Result<usize> {
    let tag = read.tag;
    reader.submit(&[read]).unwrap();
    let mut done = collect_all(reader);
    assert_eq!(done.len(), 1);
    let completion = done.remove(0);
    assert_eq!(completion.tag, tag);
    completion.result
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

fn check_random_ranges(file: &Arc<SourceFile>) {
    let total = file.bytes() as usize;
    const SLOT: usize = 4 << 20;
    let region = Block::region(8 * SLOT);
    for mut reader in readers() {
        let mut random = Random(0x5EED);
        for _ in 0..6 {
            let mut wanted = Vec::new();
            for slot in 0..8 {
                let bytes = 1 + random.below([100, 5000, 300_000, 3 << 20][slot % 4]);
                let (offset, at) = (random.below(total - bytes) as u64, slot * SLOT + PAGE * random.below(16));
                wanted.push((offset, bytes, rounded(file, slot as u64 + 70, offset, bytes, &region, at)));
            }
            let reads: Vec<Read> = wanted.iter().map(|(_, _, read)| read.clone()).collect();
            reader.submit(&reads).unwrap();
            for completion in collect_all(reader.as_mut()) {
                let (offset, bytes, read) = &wanted[completion.tag as usize - 70];
                assert!(completion.result.unwrap() >= read.needed);
                let skip = (offset - read.offset) as usize;
                let same = content(&region, read.at + skip, *bytes) == expected(*offset, *bytes);
                assert!(same, "{}: {bytes} bytes at {offset}", reader.describe());
            }
        }
    }
}

#[test]
fn random_ranges_arrive() {
    let (_folder, file) = source((9 << 20) + 12_345);
    check_random_ranges(&file);
}

#[test]
fn random_ranges_arrive_from_memory_file_systems() {
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("skipped: no /dev/shm here");
        return;
    };
    let path = folder.path().join("weights");
    write_file(&path, (5 << 20) + 1);
    check_random_ranges(&SourceFile::open(&path).unwrap());
}

#[test]
fn files_without_direct_reads_work() {
    // A large regular file of the kernel's own, which no system reads directly.
    let path = Path::new("/sys/kernel/btf/vmlinux");
    let (Ok(file), Ok(whole)) = (SourceFile::open(path), std::fs::read(path)) else {
        eprintln!("skipped: no {} here", path.display());
        return;
    };
    assert!(!file.is_direct());
    let region = Block::region(2 << 20);
    for mut reader in readers() {
        let (offset, bytes) = (4097, whole.len().min(1_500_000));
        let read = rounded(&file, 1, offset, bytes, &region, PAGE);
        read_one(reader.as_mut(), read).unwrap();
        assert!(content(&region, PAGE + 1, bytes) == whole[offset as usize..][..bytes]);
        assert!(reader.describe().contains("buffered"), "{}", reader.describe());
    }
}

#[test]
fn the_end_of_the_file_comes_back_short() {
    for bytes in [1, PAGE - 1, PAGE, PAGE + 1, (3 << 20) + 77, (4 << 20) + PAGE] {
        let (_folder, file) = source(bytes);
        let region = Block::region(8 << 20);
        for mut reader in readers() {
            let whole = rounded(&file, 9, 0, bytes, &region, 0);
            assert_eq!(read_one(reader.as_mut(), whole.clone()).unwrap(), bytes);
            assert_eq!(content(&region, 0, bytes), expected(0, bytes));
            let beyond = Read { bytes: whole.bytes + (3 << 20), ..whole.clone() };
            assert_eq!(read_one(reader.as_mut(), beyond.clone()).unwrap(), bytes, "{}", reader.describe());
            let too_much = Read { needed: bytes + 1, ..beyond };
            let error = read_one(reader.as_mut(), too_much).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
            assert_eq!(error.to_string(), format!("the file ended after {bytes} of {} bytes", bytes + 1));
            let behind = Read { offset: 16 << 20, bytes: PAGE, needed: 0, ..whole };
            assert_eq!(read_one(reader.as_mut(), behind).unwrap(), 0);
            assert_eq!(reader.counts().reads, 3);
            assert_eq!(reader.counts().bytes, 2 * bytes as u64);
        }
    }
}

#[test]
fn a_truncated_file_is_an_unexpected_end() {
    for mut reader in readers() {
        let (folder, file) = source(6 << 20);
        let region = Block::region(6 << 20);
        let read = rounded(&file, 3, 0, 6 << 20, &region, 0);
        let shortened = File::options().write(true).open(folder.path().join("weights")).unwrap();
        for left in [(2 << 20) + 100, 100, 0] {
            shortened.set_len(left).unwrap();
            let error = read_one(reader.as_mut(), read.clone()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
        }
        assert!(file.check_unchanged().is_err());
        assert_eq!(reader.counts(), ReaderCounts { reads: 0, bytes: 0, retries: 9 });
    }
}

#[test]
fn what_cannot_be_read_is_refused_as_a_whole() {
    let (_folder, file) = source(1 << 20);
    let region = Block::region(1 << 20);
    let good = rounded(&file, 1, 0, PAGE, &region, 0);
    let mut bad = vec![
        Read { at: 1 << 20, ..good.clone() },
        Read { at: usize::MAX - PAGE + 1, ..good.clone() },
        Read { bytes: (1 << 20) + PAGE, ..good.clone() },
        Read { needed: PAGE + 1, ..good.clone() },
        Read { offset: u64::MAX - 4095, ..good.clone() },
        Read { offset: i64::MAX as u64 - 4095, ..good.clone() },
    ];
    if file.is_direct() {
        bad.push(Read { offset: 1, ..good.clone() });
        bad.push(Read { at: 256, ..good.clone() });
        bad.push(Read { bytes: PAGE - 1, needed: 0, ..good.clone() });
    }
    for mut reader in readers() {
        for bad in &bad {
            let error = reader.submit(&[good.clone(), bad.clone()]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(!error.to_string().contains('\n'));
            assert_eq!(reader.in_flight(), 0);
        }
        let nothing = Read { bytes: 0, needed: 0, ..good.clone() };
        assert_eq!(read_one(reader.as_mut(), nothing).unwrap(), 0);
        assert_eq!(read_one(reader.as_mut(), good.clone()).unwrap(), PAGE);
    }
}

#[test]
fn many_more_reads_than_the_queue_holds() {
    const READS: usize = 1500;
    let total = 8 << 20;
    let (_folder, file) = source(total);
    for mut reader in readers() {
        let region = Block::region(READS * PAGE + (4 << 20));
        let mut random = Random(77);
        let mut reads: Vec<Read> = (0..READS)
            .map(|i| {
                let offset = random.below(total - PAGE) as u64 / 4096 * 4096;
                rounded(&file, i as u64, offset, PAGE, &region, i * PAGE)
            })
            .collect();
        reads.push(rounded(&file, READS as u64, 0, 4 << 20, &region, READS * PAGE));
        let (first, second) = reads.split_at(700);
        reader.submit(first).unwrap();
        let mut done = Vec::new();
        reader.collect(false, &mut done).unwrap();
        reader.submit(second).unwrap();
        assert_eq!(reader.in_flight(), reads.len() - done.len());
        done.extend(collect_all(reader.as_mut()));
        let mut tags: Vec<u64> = done.iter().map(|completion| completion.tag).collect();
        tags.sort_unstable();
        assert_eq!(tags, (0..=READS as u64).collect::<Vec<_>>());
        for read in &reads {
            assert!(content(&region, read.at, read.bytes) == expected(read.offset, read.bytes), "{}", read.tag);
        }
        let bytes = reads.iter().map(|read| read.bytes as u64).sum();
        assert_eq!(reader.counts(), ReaderCounts { reads: reads.len() as u64, bytes, retries: 0 });
    }
}

#[test]
fn dropping_a_reader_waits_for_what_is_in_flight() {
    let (_folder, file) = source(32 << 20);
    for registered in [false, true] {
        for mut reader in readers() {
            let dropped = Arc::new(AtomicBool::new(false));
            let region = Block::watched(32 << 20, dropped.clone());
            if registered {
                reader.register(&region);
            }
            let reads: Vec<Read> = (0..8).map(|i| rounded(&file, i, 0, 32 << 20, &region, 0)).collect();
            reader.submit(&reads).unwrap();
            drop(reads);
            drop(reader);
            assert!(!dropped.load(Ordering::SeqCst));
            assert_eq!(Arc::strong_count(&region), 1, "nothing holds the memory any more");
            let before = content(&region, 0, 32 << 20);
            std::thread::sleep(Duration::from_millis(50));
            assert!(before == content(&region, 0, 32 << 20), "nothing writes to it any more");
            drop(region);
            assert!(dropped.load(Ordering::SeqCst));
        }
    }
    assert_eq!(Arc::strong_count(&file), 1);
}

#[test]
fn memory_lives_until_its_reads_are_collected() {
    let (_folder, file) = source(4 << 20);
    for mut reader in readers() {
        let dropped = Arc::new(AtomicBool::new(false));
        let region = Block::watched(4 << 20, dropped.clone());
        reader.submit(&[rounded(&file, 5, 0, 4 << 20, &region, 0)]).unwrap();
        drop(region);
        assert!(!dropped.load(Ordering::SeqCst));
        assert_eq!(collect_all(reader.as_mut()).len(), 1);
        assert!(dropped.load(Ordering::SeqCst));
    }
}

#[test]
fn registered_memory_gives_the_same_bytes() {
    let (_folder, file) = source(4 << 20);
    for mut reader in readers() {
        let regions: Vec<Arc<Region>> = (0..5).map(|_| Block::region(4 << 20)).collect();
        for region in &regions {
            reader.register(region);
            reader.register(region);
        }
        eprintln!("{}", reader.describe());
        for turn in 0..3 {
            for (i, region) in regions.iter().enumerate() {
                let offset = 4096 * (turn + i as u64) + 5;
                reader.submit(&[rounded(&file, 0, offset, 3 << 20, region, 0)]).unwrap();
                // Some are unregistered with the read in flight, and some registered again.
                if i == 1 || turn == 1 {
                    reader.unregister(region);
                }
                let done = collect_all(reader.as_mut());
                done.into_iter().for_each(|completion| assert!(completion.result.is_ok()));
                let skip = offset as usize % file.align();
                assert!(content(region, skip, 3 << 20) == expected(offset, 3 << 20));
                if i == 2 {
                    reader.register(region);
                }
            }
        }
        regions.iter().for_each(|region| reader.unregister(region));
        assert!(regions.iter().all(|region| Arc::strong_count(region) == 1), "given back whole");
        assert!(!reader.describe().contains("registered"));
    }
}

#[test]
fn a_reader_may_move_between_threads() {
    let (_folder, file) = source(8 << 20);
    let region = Block::region(8 << 20);
    for mut reader in readers() {
        let read = rounded(&file, 1, 0, 8 << 20, &region, 0);
        let mut reader = std::thread::spawn(move || {
            reader.submit(&[read]).unwrap();
            reader
        })
        .join()
        .unwrap();
        let done = collect_all(reader.as_mut());
        assert_eq!(done[0].result.as_ref().unwrap(), &(8 << 20), "the thread that submitted is gone");
        assert!(content(&region, 0, 8 << 20) == expected(0, 8 << 20));
    }
}

#[test]
fn direct_reads_come_from_the_drive() {
    let machine = Machine::here();
    let (_folder, file) = source(16 << 20);
    let Some(mut before) = machine.drive_read_bytes() else {
        eprintln!("skipped: the kernel does not count read_bytes");
        return;
    };
    if !file.is_direct() || machine.drive(file.path()).is_none() {
        eprintln!("skipped: the folder for temporary files is not on a drive that is read directly");
        return;
    }
    let region = Block::region(16 << 20);
    for mut reader in readers() {
        assert_eq!(read_one(reader.as_mut(), rounded(&file, 1, 0, 16 << 20, &region, 0)).unwrap(), 16 << 20);
        let after = machine.drive_read_bytes().unwrap();
        assert!(after - before >= 16 << 20, "{}: only {} bytes came from the drive", reader.describe(), after - before);
        before = after;
        assert!(reader.describe().contains("O_DIRECT"));
    }
}

/// A reader whose reads fail on a schedule, by offset.
#[derive(Default)]
struct Faulty {
    flying: VecDeque<Read>,
    /// For a read at offset `n`: the n-th schedule, one outcome per try. Behind its end reads succeed.
    schedules: Vec<VecDeque<io::Error>>,
    tries: Arc<AtomicUsize>,
}

impl Reader for Faulty {
    fn describe(&self) -> String {
        "faulty".to_owned()
    }

    fn register(&mut self, _region: &Arc<Region>) {}

    fn unregister(&mut self, _region: &Arc<Region>) {}

    fn submit(&mut self, reads: &[Read]) -> io::Result<()> {
        if reads.iter().any(|read| read.needed == 13) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        self.tries.fetch_add(reads.len(), Ordering::Relaxed);
        self.flying.extend(reads.iter().cloned());
        Ok(())
    }

    fn collect(&mut self, _wait: bool, done: &mut Vec<Completion>) -> io::Result<()> {
        for read in self.flying.drain(..) {
            let fault = self.schedules.get_mut(read.offset as usize).and_then(VecDeque::pop_front);
            done.push(Completion { tag: read.tag, result: fault.map_or(Ok(read.bytes), Err) });
        }
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.flying.len()
    }

    fn counts(&self) -> ReaderCounts {
        ReaderCounts::default()
    }
}

const EIO: i32 = 5;
const EBADF: i32 = 9;
const EAGAIN: i32 = 11;
const EFAULT: i32 = 14;
const EINVAL: i32 = 22;

fn faults(errnos: &[i32]) -> VecDeque<io::Error> {
    errnos.iter().map(|&errno| io::Error::from_raw_os_error(errno)).collect()
}

#[test]
fn failed_reads_are_tried_again() {
    let (_folder, file) = source(PAGE);
    let region = Block::region(PAGE);
    let mut schedules = vec![
        faults(&[]),
        faults(&[EIO, EAGAIN]),
        faults(&[EIO, EIO, EIO]),
        faults(&[EIO, EIO, EIO, EIO]),
        faults(&[EFAULT]),
        faults(&[EIO, EBADF]),
        faults(&[EINVAL]),
    ];
    schedules.push(VecDeque::from([io::Error::from(io::ErrorKind::UnexpectedEof)]));
    let tries = Arc::new(AtomicUsize::new(0));
    let mut reader = Retrying::new(Box::new(Faulty { schedules, tries: tries.clone(), ..Faulty::default() }));
    let read = |i: u64| Read { offset: i, ..rounded(&file, 1000 + i, 0, PAGE, &region, 0) };
    let reads: Vec<Read> = (0..8).map(read).collect();
    let start = Instant::now();
    reader.submit(&reads).unwrap();
    assert_eq!(reader.in_flight(), 8);

    let mut done = Vec::new();
    reader.collect(true, &mut done).unwrap();
    let mut tags: Vec<u64> = done.iter().map(|completion| completion.tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, [1000, 1004, 1006], "what succeeds or cannot heal does not wait for the others");
    assert!(start.elapsed() < Duration::from_millis(9), "{:?}", start.elapsed());
    done.extend(collect_all(&mut reader));
    assert!(start.elapsed() >= Duration::from_millis(10 + 40 + 160), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());

    done.sort_by_key(|completion| completion.tag);
    let errno = |i: usize| done[i].result.as_ref().err().and_then(io::Error::raw_os_error);
    let errnos: Vec<Option<i32>> = (0..8).map(errno).collect();
    assert_eq!(errnos, [None, None, None, Some(EIO), Some(EFAULT), Some(EBADF), Some(EINVAL), None]);
    assert!([0, 1, 2, 7].iter().all(|&i| matches!(done[i].result, Ok(PAGE))));
    assert_eq!(reader.counts(), ReaderCounts { reads: 4, bytes: 4 * PAGE as u64, retries: 2 + 3 + 3 + 1 + 1 });
    assert_eq!(tries.load(Ordering::Relaxed), 8 + 10);
    assert_eq!(reader.in_flight(), 0);
}

#[test]
fn a_refused_submission_leaves_nothing_in_flight() {
    let (_folder, file) = source(PAGE);
    let region = Block::region(PAGE);
    let mut reader = Retrying::new(Box::new(Faulty::default()));
    let good = rounded(&file, 1, 0, PAGE, &region, 0);
    assert!(reader.submit(&[good.clone(), Read { needed: 13, ..good.clone() }]).is_err());
    assert_eq!(reader.in_flight(), 0);
    assert_eq!(Arc::strong_count(&region), 2, "held by `good` alone");
    reader.submit(&[good]).unwrap();
    assert_eq!(collect_all(&mut reader).len(), 1);
}

#[test]
fn collecting_without_waiting_does_not_wait_for_retries() {
    let (_folder, file) = source(PAGE);
    let region = Block::region(PAGE);
    let mut reader = Retrying::new(Box::new(Faulty { schedules: vec![faults(&[EIO, EIO, EIO])], ..Faulty::default() }));
    reader.submit(&[rounded(&file, 1, 0, PAGE, &region, 0)]).unwrap();
    let (start, mut done) = (Instant::now(), Vec::new());
    for _ in 0..100 {
        reader.collect(false, &mut done).unwrap();
    }
    assert!(start.elapsed() < Duration::from_millis(200) && done.is_empty());
    assert_eq!(reader.in_flight(), 1);
    assert!(collect_all(&mut reader)[0].result.is_ok());
}

// What follows measures the whole process, so it runs in one of its own.

/// Runs the test `name` of this file in a child process, or says that this is the child.
fn is_child(name: &str) -> bool {
    if std::env::var_os("OUTPOUR_TEST_CHILD").is_some_and(|child| child == name) {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env("OUTPOUR_TEST_CHILD", name)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    eprintln!("{said}");
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
    false
}

mod counting {
    //! An allocator that counts.
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::sync::atomic::{AtomicUsize, Ordering};

    pub static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

    struct Counting;

    // SAFETY: everything is passed on to the system's allocator.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
            // SAFETY: as the caller promises.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            // SAFETY: as the caller promises.
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;
}

#[test]
fn nothing_is_allocated_in_steady_state() {
    if !is_child("nothing_is_allocated_in_steady_state") {
        return;
    }
    let (_folder, file) = source(8 << 20);
    let region = Block::region(8 << 20);
    let mut readers = readers();
    for reader in &mut readers {
        let reads: Vec<Read> = (0..200).map(|i| rounded(&file, i, 4096 * i, 3 << 20, &region, 0)).collect();
        let mut done = Vec::with_capacity(reads.len());
        reader.register(&region);
        for turn in 0..6 {
            let before = counting::ALLOCATIONS.load(Ordering::SeqCst);
            reader.submit(&reads[..40]).unwrap();
            reader.submit(&reads[40..]).unwrap();
            while reader.in_flight() > 0 {
                reader.collect(true, &mut done).unwrap();
            }
            let allocations = counting::ALLOCATIONS.load(Ordering::SeqCst) - before;
            assert_eq!(done.len(), reads.len());
            done.clear();
            assert!(turn == 0 || allocations == 0, "{}: {allocations} allocations", reader.describe());
        }
    }
}

#[test]
fn readers_hold_little_memory() {
    if !is_child("readers_hold_little_memory") {
        return;
    }
    let machine = Machine::here();
    let Some(_) = machine.resident() else {
        eprintln!("skipped: the kernel does not tell the resident memory");
        return;
    };
    let (_folder, file) = source(8 << 20);
    let region = Block::region(8 << 20);
    for kind in [ReaderKind::Pread, ReaderKind::Uring] {
        let before = machine.resident().unwrap().anonymous_bytes;
        let Ok(mut reader) = read::open(kind) else { continue };
        for _ in 0..20 {
            read_one(reader.as_mut(), rounded(&file, 0, 0, 8 << 20, &region, 0)).unwrap();
        }
        let held = machine.resident().unwrap().anonymous_bytes.saturating_sub(before);
        eprintln!("{}: {} KiB", reader.describe(), held >> 10);
        assert!(held < 1 << 20, "{}: {held} bytes", reader.describe());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn an_ordinary_user_reads_without_registration() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    if !is_child("an_ordinary_user_reads_without_registration") {
        return;
    }
    setrlimit(Resource::Memlock, Rlimit { current: Some(64 << 10), maximum: Some(64 << 10) }).unwrap();
    let mut rights = capabilities(None).unwrap();
    rights.effective = CapabilitySet::empty();
    set_capabilities(None, rights).unwrap();
    let (_folder, file) = source(4 << 20);
    for mut reader in readers() {
        let region = Block::region(4 << 20);
        reader.register(&region);
        read_one(reader.as_mut(), rounded(&file, 1, 77, 3 << 20, &region, 0)).unwrap();
        assert!(content(&region, 77, 3 << 20) == expected(77, 3 << 20));
        assert!(!reader.describe().contains("registered"), "{}", reader.describe());
        reader.unregister(&region);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn without_a_ring_there_is_the_pool() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    if !is_child("without_a_ring_there_is_the_pool") {
        return;
    }
    let (_folder, file) = source(1 << 20);
    let region = Block::region(1 << 20);
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), maximum: most }).unwrap();
    assert!(read::open(ReaderKind::Uring).is_err(), "a ring is a file, and no file may be opened");
    let mut reader = read::open(ReaderKind::Auto).unwrap();
    assert_eq!(read_one(reader.as_mut(), rounded(&file, 1, 0, 1 << 20, &region, 0)).unwrap(), 1 << 20);
    assert!(reader.describe().starts_with("pread"));
    drop(reader);
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    assert!(content(&region, 0, 1 << 20) == expected(0, 1 << 20));
}
