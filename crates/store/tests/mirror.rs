//! Reads spread over several drives: the same bytes, the sum of their speeds, another drive for what one fails.

use std::any::Any;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use outpour_store::read::pread::Pread;
use outpour_store::read::{
    self, Completion, Mirror, Read, Reader, ReaderCounts, ReaderKind, Region, RegionMemory, SourceFile,
};

const ALIGN: usize = 64 << 10;

struct Memory(Vec<AtomicU8>);

impl Memory {
    fn region(bytes: usize) -> Arc<Region> {
        Region::new(Memory(std::iter::repeat_with(|| AtomicU8::new(0)).take(bytes + ALIGN).collect()))
    }

    fn first(&self) -> usize {
        self.0.as_ptr().align_offset(ALIGN)
    }
}

impl RegionMemory for Memory {
    fn address(&self) -> NonNull<u8> {
        NonNull::from(&self.0[self.first()]).cast()
    }

    fn bytes(&self) -> usize {
        self.0.len() - ALIGN
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn content(region: &Region, from: usize, bytes: usize) -> Vec<u8> {
    let memory = region.memory().downcast_ref::<Memory>().expect("tests use it");
    memory.0[memory.first() + from..][..bytes].iter().map(|byte| byte.load(Ordering::Relaxed)).collect()
}

/// The same file in so many folders.
fn copies(dir: &Path, drives: usize, write: impl Fn(&mut File)) -> Arc<SourceFile> {
    let path = |drive: usize| dir.join(format!("drive-{drive}/weights"));
    for drive in 0..drives {
        std::fs::create_dir(path(drive).parent().expect("a folder")).expect("made");
        let mut file = File::create(path(drive)).expect("made");
        write(&mut file);
        file.sync_all().expect("on the drive");
    }
    let others = (1..drives).map(|drive| SourceFile::open(&path(drive)).expect("opened")).collect();
    SourceFile::open_with(&path(0), None, others).expect("copies of one file")
}

fn run(reader: &mut dyn Reader, reads: &[Read]) -> Vec<Completion> {
    let mut done = Vec::new();
    reader.submit(reads).expect("taken on");
    while reader.in_flight() > 0 {
        reader.collect(true, &mut done).expect("collected");
    }
    done
}

#[test]
fn every_reader_brings_the_same_bytes_from_several_drives() {
    let dir = tempfile::tempdir().expect("a folder");
    let bytes: Vec<u8> = (0..(9u32 << 20) + 777).map(|i| (i / 5 + i / 4096) as u8).collect();
    let file = copies(dir.path(), 3, |file| file.write_all(&bytes).expect("written"));
    let region = Memory::region(24 << 20);
    for kind in [ReaderKind::Pread, ReaderKind::Uring] {
        let Ok(mut reader) = read::open_mirrored(kind, 3) else {
            println!("SKIPPED: no io_uring here");
            continue;
        };
        assert!(reader.describe().contains("3 drives"));
        reader.register(&region);
        let length = bytes.len().next_multiple_of(file.align());
        let ranges = [(0, length, bytes.len()), (1 << 20, 64 << 10, 64 << 10), (3 << 20, 5 << 20, 5 << 20)];
        let (mut reads, mut at) = (Vec::new(), 0);
        for (tag, (offset, bytes, needed)) in ranges.into_iter().enumerate() {
            let (file, region) = (file.clone(), region.clone());
            reads.push(Read { tag: tag as u64, file, offset: offset as u64, bytes, needed, region, at });
            at += bytes.next_multiple_of(ALIGN);
        }
        let done = run(&mut *reader, &reads);
        assert_eq!(done.len(), 3);
        for completion in done {
            let read = &reads[completion.tag as usize];
            let arrived = completion.result.expect("it came");
            assert!(arrived >= read.needed, "{arrived} of {}", read.needed);
            let expected = &bytes[read.offset as usize..][..read.needed];
            assert!(content(&region, read.at, read.needed) == expected, "other bytes by {}", reader.describe());
        }
        let mut wrong = reads[1].clone();
        wrong.at = 24 << 20;
        assert!(reader.submit(&[reads[0].clone(), wrong]).is_err() && reader.in_flight() == 0);
        reader.unregister(&region);
    }
}

#[test]
fn another_file_is_no_copy() {
    let dir = tempfile::tempdir().expect("a folder");
    let (one, other): (PathBuf, PathBuf) = (dir.path().join("one"), dir.path().join("other"));
    std::fs::write(&one, [1; 5000]).and_then(|()| std::fs::write(&other, [1; 5001])).expect("written");
    let copy = SourceFile::open(&other).expect("opened");
    let error = SourceFile::open_with(&one, None, vec![copy]).expect_err("refused").to_string();
    assert!(error.contains("other: has 5001 bytes") && error.contains("5000"), "{error}");
    // A copy that changes is a change; one that is the same is none.
    let twin = dir.path().join("twin");
    std::fs::copy(&one, &twin).expect("copied");
    let file = SourceFile::open_with(&one, None, vec![SourceFile::open(&twin).expect("opened")]).expect("a copy");
    file.check_unchanged().expect("nothing changed");
    std::fs::write(&twin, [1; 4000]).expect("written");
    assert!(file.check_unchanged().expect_err("it changed").to_string().contains("twin"));
}

/// Drives that give so many bytes a second each, one read after the other, and bring nothing.
struct Timed {
    /// By folder.
    speeds: Vec<f64>,
    busy_until: Vec<Instant>,
    flying: VecDeque<(Instant, Completion)>,
    bytes: Vec<u64>,
    counts: Arc<std::sync::Mutex<Vec<u64>>>,
    fails: Option<usize>,
}

impl Timed {
    fn new(speeds: &[f64], fails: Option<usize>) -> (Box<Timed>, Arc<std::sync::Mutex<Vec<u64>>>) {
        let counts = Arc::new(std::sync::Mutex::new(vec![0; speeds.len()]));
        let timed = Timed {
            speeds: speeds.to_vec(),
            busy_until: vec![Instant::now(); speeds.len()],
            flying: VecDeque::new(),
            bytes: vec![0; speeds.len()],
            counts: counts.clone(),
            fails,
        };
        (Box::new(timed), counts)
    }
}

impl Reader for Timed {
    fn describe(&self) -> String {
        "timed".to_owned()
    }

    fn register(&mut self, _region: &Arc<Region>) {}

    fn unregister(&mut self, _region: &Arc<Region>) {}

    fn submit(&mut self, reads: &[Read]) -> io::Result<()> {
        for read in reads {
            let path = read.file.path().to_string_lossy().into_owned();
            let drive =
                (0..self.speeds.len()).find(|drive| path.contains(&format!("drive-{drive}/"))).expect("a drive");
            let begins = self.busy_until[drive].max(Instant::now());
            let ends = begins + Duration::from_secs_f64(read.bytes as f64 / self.speeds[drive]);
            self.busy_until[drive] = ends;
            self.bytes[drive] += read.bytes as u64;
            let failed = self.fails == Some(drive);
            let result = if failed { Err(io::Error::from_raw_os_error(5)) } else { Ok(read.bytes) };
            self.flying.push_back((ends, Completion { tag: read.tag, result }));
        }
        self.counts.lock().expect("a lock").clone_from(&self.bytes);
        Ok(())
    }

    fn collect(&mut self, wait: bool, done: &mut Vec<Completion>) -> io::Result<()> {
        let first = self.flying.iter().map(|(ends, _)| *ends).min();
        if let (true, Some(first)) = (wait, first) {
            std::thread::sleep(first.saturating_duration_since(Instant::now()));
        }
        let now = Instant::now();
        let (over, flying) = self.flying.drain(..).partition(|(ends, _)| *ends <= now);
        self.flying = flying;
        done.extend(VecDeque::into_iter(over).map(|(_, completion)| completion));
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.flying.len()
    }

    fn counts(&self) -> ReaderCounts {
        ReaderCounts::default()
    }
}

/// Reads of 3 MB, as many at once as a layer's misses.
fn batches(file: &Arc<SourceFile>, region: &Arc<Region>, reader: &mut dyn Reader, count: usize, at_once: usize) -> f64 {
    let bytes = 3 << 20;
    let began = Instant::now();
    for batch in 0..count {
        let read = |i: usize| Read {
            tag: i as u64,
            file: file.clone(),
            offset: ((batch * at_once + i) % 64 * bytes) as u64,
            bytes,
            needed: bytes,
            region: region.clone(),
            at: i * bytes,
        };
        let reads: Vec<Read> = (0..at_once).map(read).collect();
        let done = run(reader, &reads);
        assert!(done.iter().all(|completion| matches!(completion.result, Ok(arrived) if arrived == bytes)));
    }
    (count * at_once * bytes) as f64 / began.elapsed().as_secs_f64()
}

#[test]
fn the_speeds_add_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = copies(dir.path(), 2, |file| file.set_len(64 * (3 << 20)).expect("a hole"));
    let region = Memory::region(32 * (3 << 20));
    for (speeds, at_once) in [([4e8, 4e8], 8), ([3e8, 9e8], 8), ([2e8, 1e9], 24), ([5e8, 5e8], 3)] {
        let (timed, counts) = Timed::new(&speeds, None);
        let mut mirror = Mirror::new(timed, 2);
        // A few to find out how fast they are.
        batches(&file, &region, &mut mirror, 10, at_once);
        let before = counts.lock().expect("a lock").clone();
        let speed = batches(&file, &region, &mut mirror, 24, at_once);
        let after = counts.lock().expect("a lock").clone();
        let [slow, fast] = [after[0] - before[0], after[1] - before[1]];
        let sum: f64 = speeds.iter().sum();
        println!(
            "{speeds:?}, {at_once} reads at once: {:.3} of the sum, {:.2} of the bytes from the second",
            speed / sum,
            fast as f64 / (slow + fast) as f64
        );
        assert!(speed > 0.9 * sum, "{:.3} of the sum of {speeds:?} with {at_once} reads at once", speed / sum);
    }
}

#[test]
fn a_drive_that_fails_is_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = copies(dir.path(), 2, |file| file.set_len(64 * (3 << 20)).expect("a hole"));
    let region = Memory::region(8 * (3 << 20));
    for fails in [0, 1] {
        let (timed, counts) = Timed::new(&[2e9, 2e9], Some(fails));
        let mut mirror = Mirror::new(timed, 2);
        batches(&file, &region, &mut mirror, 30, 8);
        let counts = counts.lock().expect("a lock").clone();
        println!("of {} bytes, {} were asked of the drive that fails", counts[1 - fails], counts[fails]);
        assert!(counts[fails] * 5 < counts[1 - fails], "it is asked again and again: {counts:?}");
        assert!(mirror.counts().retries > 0);
    }
    // A file that no drive gives fails, once.
    let (timed, _) = Timed::new(&[2e9], Some(0));
    let mut mirror = Mirror::new(timed, 1);
    let read = Read { tag: 3, file, offset: 0, bytes: 3 << 20, needed: 3 << 20, region, at: 0 };
    let mut done = run(&mut mirror, &[read]);
    assert_eq!(done.len(), 1);
    assert_eq!(done.remove(0).result.expect_err("no drive gives it").raw_os_error(), Some(5));
}

#[test]
fn the_drive_that_does_not_answer_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = copies(dir.path(), 2, |file| file.set_len(24 << 20).expect("a hole"));
    let region = Memory::region(24 << 20);
    let (timed, _) = Timed::new(&[2e9, 1.0], None);
    let mut mirror = Mirror::new(timed, 2);
    let (bytes, needed) = (24 << 20, 24 << 20);
    mirror.submit(&[Read { tag: 0, file, offset: 0, bytes, needed, region, at: 0 }]).expect("taken on");
    let (began, mut done) = (Instant::now(), Vec::new());
    while !mirror.awaited().is_some_and(|path| path.starts_with(dir.path().join("drive-1"))) {
        assert!(began.elapsed() < Duration::from_secs(60), "{:?} is waited for", mirror.awaited());
        mirror.collect(false, &mut done).expect("collected");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(done.is_empty(), "it is whole only when both drives gave their part");
}

#[test]
fn a_mirrored_reader_may_be_dropped_with_reads_in_flight() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = copies(dir.path(), 2, |file| file.set_len(8 << 20).expect("a hole"));
    let region = Memory::region(8 << 20);
    let mut mirror = Mirror::new(Box::new(Pread::new(2).expect("threads")), 2);
    let (bytes, needed) = (8 << 20, 8 << 20);
    mirror.submit(&[Read { tag: 0, file, offset: 0, bytes, needed, region, at: 0 }]).expect("taken on");
    assert_eq!(mirror.in_flight(), 1);
    drop(mirror);
}
