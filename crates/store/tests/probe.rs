//! The probe's figures, over readers whose speed is known.

use std::any::Any;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU8;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use outpour_store::layout::ExpertLayout;
use outpour_store::probe::{self, Flow, Order, ReadSpeed, Scratch};
use outpour_store::read::{self, Completion, Read, Reader, ReaderCounts, ReaderKind, Region, RegionMemory, SourceFile};

const RECORD_BYTES: u32 = 256 << 10;
const RECORDS: usize = 32;

/// Memory from the first byte on that direct reads can use.
struct Bytes(Vec<AtomicU8>);

/// The largest alignment that direct reads here are likely to ask for.
const ALIGN: usize = 64 << 10;

impl Bytes {
    fn aligned(&self) -> &[AtomicU8] {
        let from = self.0.as_ptr().addr().next_multiple_of(ALIGN) - self.0.as_ptr().addr();
        &self.0[from..self.0.len() - (ALIGN - from)]
    }
}

impl RegionMemory for Bytes {
    fn address(&self) -> NonNull<u8> {
        NonNull::from(self.aligned()).cast()
    }

    fn bytes(&self) -> usize {
        self.aligned().len()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Room for so many records.
fn memory(records: usize) -> Vec<Arc<Region>> {
    let bytes = records * (RECORD_BYTES as usize);
    vec![Region::new(Bytes(std::iter::repeat_with(AtomicU8::default).take(bytes + ALIGN).collect()))]
}

/// When a read is over.
#[derive(Clone, Copy)]
enum Timing {
    /// So long after it was sent out, whatever else flies.
    Latency(Duration),
    /// When those before it are, and so many bytes a second later.
    Rate(f64),
}

/// Brings nothing, in a known time.
struct Timed {
    timing: Timing,
    flying: VecDeque<(Instant, Read)>,
    free_from: Instant,
    /// Fails the read at this place of the order of submission.
    fails_at: Option<usize>,
    sent: Arc<Mutex<Vec<Read>>>,
    /// The most that flew at once.
    deepest: usize,
}

impl Timed {
    fn new(timing: Timing) -> Timed {
        let (flying, sent) = (VecDeque::new(), Arc::default());
        Timed { timing, flying, free_from: Instant::now(), fails_at: None, sent, deepest: 0 }
    }
}

impl Reader for Timed {
    fn describe(&self) -> String {
        "timed".into()
    }

    fn register(&mut self, _: &Arc<Region>) {}

    fn unregister(&mut self, _: &Arc<Region>) {}

    fn submit(&mut self, reads: &[Read]) -> io::Result<()> {
        for read in reads {
            let now = Instant::now();
            let due = match self.timing {
                Timing::Latency(latency) => now + latency,
                Timing::Rate(rate) => self.free_from.max(now) + Duration::from_secs_f64(read.bytes as f64 / rate),
            };
            self.free_from = due;
            let taken = self.flying.iter().any(|(_, other)| other.at == read.at);
            assert!(!taken, "two reads into the same memory");
            self.flying.push_back((due, read.clone()));
            self.sent.lock().unwrap().push(read.clone());
        }
        self.deepest = self.deepest.max(self.flying.len());
        Ok(())
    }

    fn collect(&mut self, wait: bool, done: &mut Vec<Completion>) -> io::Result<()> {
        if let Some((due, _)) = self.flying.front().filter(|_| wait) {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        while let Some((_, read)) = self.flying.pop_front_if(|(due, _)| *due <= Instant::now()) {
            let fails = self.fails_at == Some(0);
            self.fails_at = self.fails_at.and_then(|left| left.checked_sub(1));
            let result = if fails { Err(io::Error::from_raw_os_error(5)) } else { Ok(read.bytes) };
            done.push(Completion { tag: read.tag, result });
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

/// A file with records, on the drive that the sources lie on.
fn file() -> (tempfile::TempDir, Arc<SourceFile>, ExpertLayout) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = folder.path().join("weights");
    std::fs::File::create(&path).unwrap().set_len(u64::from(RECORD_BYTES) * RECORDS as u64).unwrap();
    let file = SourceFile::open(&path).unwrap();
    let layout = probe::records(&file, RECORD_BYTES);
    assert_eq!(layout.experts_total(), RECORDS);
    (folder, file, layout)
}

fn measure(reader: &mut Timed, flow: Flow, budget_ms: u64) -> ReadSpeed {
    let depth = flow.depth();
    let (_folder, file, layout) = file();
    let budget = Duration::from_millis(budget_ms);
    probe::record_reads(&[file], &layout, reader, &memory(depth), (flow, Order::Random(3)), budget).unwrap()
}

#[test]
fn a_known_rate_is_found() {
    const RATE: f64 = 50e6;
    let mut reader = Timed::new(Timing::Rate(RATE));
    let speed = measure(&mut reader, Flow::Steady(4), 300);
    let found = speed.bytes_per_second();
    assert!(found <= 1.01 * RATE, "{found} bytes a second of {RATE}");
    assert!(found > 0.8 * RATE, "{found} bytes a second of {RATE}");
    assert_eq!(speed.bytes, speed.records * u64::from(RECORD_BYTES));
    assert_eq!(speed.needed_bytes, speed.bytes);
    assert_eq!(reader.deepest, 4);
}

#[test]
fn depth_counts_where_the_drive_has_latency() {
    let mut alone = Timed::new(Timing::Latency(Duration::from_millis(20)));
    let mut eight = Timed::new(Timing::Latency(Duration::from_millis(20)));
    let ratio = measure(&mut eight, Flow::Steady(8), 200).bytes_per_second()
        / measure(&mut alone, Flow::Steady(1), 200).bytes_per_second();
    assert!((5.0..12.0).contains(&ratio), "eight in flight are {ratio} times as fast as one");
    assert_eq!((alone.deepest, eight.deepest), (1, 8));
}

#[test]
fn bursts_wait_for_their_last_read() {
    // Each record takes 10 ms, wherever it is in the queue.
    let timed = || Timed::new(Timing::Rate(f64::from(RECORD_BYTES) / 10e-3));
    let (mut bursts, mut steady) = (timed(), timed());
    // A burst of 80 ms, a pause of as many, and time for another burst.
    let speed = measure(&mut bursts, Flow::Bursts(8), 200);
    assert_eq!((speed.records, bursts.deepest), (16, 8));
    assert!((0.15..0.20).contains(&speed.seconds), "{} seconds in flight", speed.seconds);
    let speed = measure(&mut steady, Flow::Steady(8), 200);
    // Those in flight at the end are waited for.
    assert!((24..=29).contains(&speed.records), "{} records", speed.records);
}

#[test]
fn no_expert_is_read_twice_before_all_were() {
    let mut reader = Timed::new(Timing::Rate(1e9));
    let sent = reader.sent.clone();
    let speed = measure(&mut reader, Flow::Steady(3), 60);
    let offsets: Vec<u64> = sent.lock().unwrap().iter().map(|read| read.offset).collect();
    assert_eq!(offsets.len() as u64, speed.records);
    assert!(offsets.len() > RECORDS, "all were read at least once: {}", offsets.len());
    let rounds: Vec<&[u64]> = offsets.chunks(RECORDS).collect();
    for round in &rounds {
        assert_eq!(round.iter().collect::<HashSet<_>>().len(), round.len());
    }
    assert!(!offsets.is_sorted(), "they come in no order");
    assert!(rounds[0][..rounds[1].len()] != *rounds[1], "nor twice in the same");
}

#[test]
fn in_order_means_in_order() {
    let (_folder, file, layout) = file();
    let mut reader = Timed::new(Timing::Rate(2e9));
    let sent = reader.sent.clone();
    let budget = Duration::ZERO;
    let speed =
        probe::record_reads(&[file], &layout, &mut reader, &memory(2), (Flow::Steady(2), Order::Sequential), budget)
            .unwrap();
    assert_eq!(speed.records, 2, "the shortest budget reads something");
    assert_eq!(sent.lock().unwrap().iter().map(|read| read.offset).collect::<Vec<_>>(), [0, u64::from(RECORD_BYTES)]);
}

#[test]
fn what_no_drive_gave_is_told_apart() {
    let mut reader = Timed::new(Timing::Rate(1e9));
    let speed = measure(&mut reader, Flow::Steady(4), 100);
    if speed.drive_bytes.is_none() {
        eprintln!("skipped: the system does not count what comes from drives");
        return;
    }
    assert!(!speed.is_of_the_drive(), "{speed:?}");
    let counted = |drive_bytes| ReadSpeed { drive_bytes, ..speed };
    assert!(counted(Some(speed.bytes)).is_of_the_drive());
    assert!(counted(None).is_of_the_drive());
    assert!(!counted(Some(speed.bytes / 2)).is_of_the_drive());
}

#[test]
fn a_failed_read_names_the_file_and_leaves_nothing_in_flight() {
    let (folder, file, layout) = file();
    let mut reader = Timed { fails_at: Some(5), ..Timed::new(Timing::Rate(1e9)) };
    let budget = Duration::from_secs(5);
    let error = probe::record_reads(
        std::slice::from_ref(&file),
        &layout,
        &mut reader,
        &memory(4),
        (Flow::Steady(4), Order::Random(1)),
        budget,
    );
    let message = error.unwrap_err().to_string();
    assert!(message.contains(folder.path().to_str().unwrap()) && message.contains("could not be read"), "{message}");
    assert_eq!(reader.in_flight(), 0);
    let too_deep =
        probe::record_reads(&[file], &layout, &mut reader, &memory(4), (Flow::Steady(5), Order::Random(1)), budget);
    assert!(too_deep.unwrap_err().to_string().contains("holds 4 experts"));
}

#[test]
fn a_scratch_file_is_real_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let below = folder.path().join("made/on/demand");
    let left = |below: &Path| std::fs::read_dir(below).unwrap().count();
    let mut seen = 0;
    let scratch = Scratch::make(&below, 9 << 20, &mut |written| {
        seen = written;
        ControlFlow::Continue(())
    });
    let scratch = scratch.unwrap().expect("nobody broke off");
    assert_eq!((seen, scratch.file.bytes(), left(&below)), (9 << 20, 9 << 20, 0));
    let layout = scratch.records(RECORD_BYTES);
    let mut reader = read::open(ReaderKind::Pread).unwrap();
    let memory = memory(5);
    let files = [scratch.file.clone()];
    let budget = Duration::from_millis(20);
    let speed =
        probe::record_reads(&files, &layout, &mut *reader, &memory, (Flow::Steady(4), Order::Random(1)), budget)
            .unwrap();
    assert!(speed.bytes > 0 && speed.seconds > 0.0);
    let on_a_drive = outpour_store::machine::Machine::here().drive(&below).is_some();
    if scratch.file.is_direct() && on_a_drive {
        assert!(speed.is_of_the_drive(), "direct reads come from the drive: {speed:?}");
    }
    let stopped = Scratch::make(&below, 9 << 20, &mut |_| ControlFlow::Break(()));
    assert!(stopped.unwrap().is_none());
    assert_eq!(left(&below), 0);
    assert!(probe::free_bytes(&below.join("not/there")).is_some_and(|bytes| bytes > 0));
}
