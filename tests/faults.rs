//! Reads that fail, stall, come back short or bring other bytes, by the thousand; a drive that is gone, and comes back; one
//! of two that is gone; one that does not answer at all. No wrong logit comes of it, nothing hangs, no session is lost.

mod common;

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{fixture, roomy};
use outpour_engine::sample::argmax;
use outpour_engine::{Engine, EngineError, Inspection, Options, Session, Work};
use outpour_model::synth;
use outpour_store::StoreError;
use outpour_store::read::pread::Pread;
use outpour_store::read::{Completion, Mirror, Read, Reader, ReaderCounts, Region, Retrying};
use serde_json::json;

const EIO: i32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fault {
    Fails,
    Stalls,
    Truncates,
    Corrupts,
}

const ALL: [Fault; 4] = [Fault::Fails, Fault::Stalls, Fault::Truncates, Fault::Corrupts];

/// Corruption is rarer: what is wrong twice is not read again.
const MIXED: [Fault; 7] =
    [Fault::Fails, Fault::Stalls, Fault::Truncates, Fault::Corrupts, Fault::Fails, Fault::Stalls, Fault::Truncates];

/// What goes wrong, set by the test while the reader works.
#[derive(Default)]
struct Schedule {
    /// Of a thousand reads, so many; of these kinds, in turn.
    per_mille: u64,
    kinds: Vec<Fault>,
    /// If any, only reads of files under this folder go wrong.
    ailing: Mutex<Option<PathBuf>>,
    /// Files under this folder cannot be read any more.
    gone: Mutex<Option<PathBuf>>,
    injected: Mutex<HashMap<Fault, u64>>,
    armed: AtomicBool,
}

impl Schedule {
    fn new(kinds: &[Fault], per_mille: u64) -> Arc<Schedule> {
        let schedule = Schedule { per_mille, kinds: kinds.to_vec(), ..Schedule::default() };
        Arc::new(schedule)
    }

    fn total(&self) -> u64 {
        self.injected.lock().expect("a lock").values().sum()
    }

    fn set_gone(&self, folder: Option<&Path>) {
        *self.gone.lock().expect("a lock") = folder.map(Path::to_owned);
    }
}

/// A reader whose reads go wrong on a schedule.
struct Faulty {
    inner: Pread,
    schedule: Arc<Schedule>,
    /// The inner reader's tags are indices into this.
    flying: Vec<Option<(Read, Option<Fault>)>>,
    /// Held back until then.
    late: Vec<(Instant, Completion)>,
    state: u64,
}

impl Faulty {
    fn new(schedule: &Arc<Schedule>, drives: usize) -> Box<Faulty> {
        let inner = Pread::new(drives).expect("threads");
        Box::new(Faulty { inner, schedule: schedule.clone(), flying: Vec::new(), late: Vec::new(), state: 1 })
    }

    fn random(&mut self, below: u64) -> u64 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % below
    }

    fn fault(&mut self, read: &Read) -> Option<Fault> {
        let gone = self.schedule.gone.lock().expect("a lock").clone();
        if gone.is_some_and(|folder| read.file.path().starts_with(folder)) {
            return Some(Fault::Fails);
        }
        let ailing = self.schedule.ailing.lock().expect("a lock").clone();
        if ailing.is_some_and(|folder| !read.file.path().starts_with(folder)) {
            return None;
        }
        let hit = self.random(1000) < self.schedule.per_mille;
        if !hit || !self.schedule.armed.load(Ordering::Relaxed) {
            return None;
        }
        let number = self.random(self.schedule.kinds.len() as u64) as usize;
        let fault = self.schedule.kinds[number];
        *self.schedule.injected.lock().expect("a lock").entry(fault).or_default() += 1;
        Some(fault)
    }

    /// What the caller is told of a read that has ended.
    fn spoil(&mut self, completion: Completion) {
        let slot = &mut self.flying[completion.tag as usize];
        let (read, fault) = slot.take().expect("it was in flight");
        let at = self.random(read.needed as u64) as usize;
        // SAFETY: the read lies inside its region and has ended; its caller is told only afterwards.
        let bytes = unsafe {
            let first = read.region.address().as_ptr().add(read.at);
            std::slice::from_raw_parts_mut(first, read.needed)
        };
        let (mut due, mut result) = (Instant::now(), completion.result);
        match fault {
            None => {}
            Some(Fault::Fails) => {
                bytes[at..].fill(0xEE);
                result = Err(io::Error::from_raw_os_error(EIO));
            }
            Some(Fault::Stalls) => due += Duration::from_millis(at as u64 % 20),
            Some(Fault::Truncates) => {
                bytes[at..].fill(0xAB);
                result = Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ended in a test"));
            }
            Some(Fault::Corrupts) => bytes[at] ^= 1 << (at % 8),
        }
        self.late.push((due, Completion { tag: read.tag, result }));
    }
}

impl Reader for Faulty {
    fn describe(&self) -> String {
        "faulty".to_owned()
    }

    fn register(&mut self, _region: &Arc<Region>) {}

    fn unregister(&mut self, _region: &Arc<Region>) {}

    fn submit(&mut self, reads: &[Read]) -> io::Result<()> {
        for read in reads {
            let fault = self.fault(read);
            let free = self.flying.iter().position(Option::is_none).unwrap_or_else(|| {
                self.flying.push(None);
                self.flying.len() - 1
            });
            self.flying[free] = Some((read.clone(), fault));
            self.inner.submit(&[Read { tag: free as u64, ..read.clone() }])?;
        }
        Ok(())
    }

    fn collect(&mut self, wait: bool, done: &mut Vec<Completion>) -> io::Result<()> {
        loop {
            let mut arrived = Vec::new();
            self.inner.collect(wait && self.late.is_empty(), &mut arrived)?;
            arrived.into_iter().for_each(|completion| self.spoil(completion));
            let (now, before) = (Instant::now(), done.len());
            let (due, later) = std::mem::take(&mut self.late).into_iter().partition(|(due, _)| *due <= now);
            self.late = later;
            done.extend(Vec::into_iter(due).map(|(_, completion)| completion));
            if !wait || done.len() > before || self.in_flight() == 0 {
                return Ok(());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn in_flight(&self) -> usize {
        self.flying.iter().flatten().count() + self.late.len()
    }

    fn counts(&self) -> ReaderCounts {
        self.inner.counts()
    }
}

/// Layers of 512 experts of 12 KiB: hundreds of reads at once.
fn many_experts(dir: &Path, layers: usize, vocab: usize) {
    let config = json!({
        "model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": layers, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 64, "moe_intermediate_size": 32,
        "num_experts": 512, "num_experts_per_tok": 12, "norm_topk_prob": true, "vocab_size": vocab,
        "max_position_embeddings": 512,
    });
    synth::write(&config, dir, 7).expect("the model is written");
}

fn packed(model: &Path, out: &Path) {
    let inspection = Inspection::open(model, false).unwrap_or_else(|error| panic!("{error}"));
    inspection.pack(None, out, &mut |_, _| ControlFlow::Continue(())).unwrap_or_else(|error| panic!("{error}"));
}

fn load(model: &Path, mirrors: &[PathBuf], reader: Box<dyn Reader>) -> Engine {
    load_within(roomy().ram, model, mirrors, reader)
}

fn load_within(ram: usize, model: &Path, mirrors: &[PathBuf], reader: Box<dyn Reader>) -> Engine {
    let inspection = Inspection::open_mirrored(model, mirrors, false).unwrap_or_else(|error| panic!("{error}"));
    let options = Options { ram, threads: Some(2), ctx: Some(256), ..roomy() };
    Engine::load(inspection, &options, reader, &mut |_, _| ControlFlow::Continue(()))
        .unwrap_or_else(|error| panic!("{error}"))
}

fn prompt(engine: &Engine) -> Vec<u32> {
    (0..96u32).map(|i| (i * i * 31 + 7 * i + 3) % engine.facts().vocab as u32).collect()
}

/// A prompt, then greedy tokens, with every expert read anew for each; the logits' bits after each. Steps that fail are
/// taken again in the same session; their number.
fn generate(engine: &mut Engine, tokens: usize) -> (Vec<u32>, u64) {
    let mut session = Session::open(engine);
    let (mut bits, mut failed, mut text) = (Vec::new(), 0, prompt(engine));
    for _ in 0..tokens {
        loop {
            let step = Instant::now();
            engine.drop_experts();
            let computed = session.sync(engine, &text, &mut ());
            assert!(step.elapsed() < Duration::from_secs(20), "a step hangs");
            match computed {
                Ok(()) => break,
                Err(EngineError::Store(StoreError::Read { path, what, .. })) => {
                    let starts = ["expert ", "model.layers.", "the embedding of token "];
                    let named = starts.iter().any(|start| what.starts_with(start));
                    assert!(named && path.is_absolute(), "{what} of {}", path.display());
                    failed += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        let logits = session.logits(engine, &mut ()).unwrap_or_else(|error| panic!("{error}"));
        bits.extend(logits.iter().map(|logit| logit.to_bits()));
        text.push(argmax(logits));
    }
    session.close(engine);
    (bits, failed)
}

/// Texts of a pack until so many faults were injected, all with the same logits: their number, the faults, and steps that failed.
fn texts_in_spite_of_faults(pack: &Path, faults_wanted: u64, seed: u64) -> (u64, HashMap<Fault, u64>, u64) {
    let schedule = Schedule::new(&MIXED, 200);
    let faulty = Faulty { state: seed, ..*Faulty::new(&schedule, 1) };
    let mut engine = load(pack, &[], Box::new(Retrying::new(Box::new(faulty))));
    let (expected, _) = generate(&mut engine, 3);
    assert_eq!(schedule.total(), 0);
    schedule.armed.store(true, Ordering::Relaxed);
    let (mut runs, mut failed) = (0, 0);
    while schedule.total() < faults_wanted {
        let (bits, failures) = generate(&mut engine, 3);
        assert!(bits == expected, "wrong logits after {} faults", schedule.total());
        (runs, failed) = (runs + 1, failed + failures);
    }
    let injected = schedule.injected.lock().expect("a lock").clone();
    (runs, injected, failed)
}

#[test]
fn ten_thousand_faults_and_no_wrong_logit() {
    let dir = tempfile::tempdir().expect("a folder");
    many_experts(&dir.path().join("model"), 2, 300);
    let recurrent = fixture("qwen3_next_mlx_mixed");
    // Most of the time is waiting until a read is tried again, so several texts wait together.
    for (model, engines, faults_wanted) in [(dir.path().join("model"), 4, 10_000), (recurrent, 1, 200)] {
        let out = dir.path().join(format!("pack-{faults_wanted}"));
        packed(&model, &out);
        let all = std::thread::scope(|scope| {
            let out = &out;
            let one = |seed| scope.spawn(move || texts_in_spite_of_faults(out, faults_wanted / engines, seed));
            let running: Vec<_> = (1..=engines).map(one).collect();
            running.into_iter().map(|thread| thread.join().expect("no wrong logit")).collect::<Vec<_>>()
        });
        let injected = |kind: &Fault| all.iter().map(|(_, injected, _)| injected[kind]).sum::<u64>();
        let (runs, failed) = all.iter().fold((0, 0), |(runs, failed), (r, _, f)| (runs + r, failed + f));
        let injected = ALL.map(|kind| (kind, injected(&kind)));
        println!("{runs} texts with {injected:?}; {failed} steps failed and were taken again");
        assert!(injected.iter().all(|(_, count)| *count > faults_wanted / 12), "{injected:?}");
        assert!(failed > 0 || faults_wanted < 1000, "no step failed: what retries do not mend was not tested");
    }
}

/// Weights of layers that do not stay in memory are read for every token, and so are rows of the embedding: what fails there
/// loses no session either.
#[test]
fn a_trunk_passes_through_memory_in_spite_of_faults() {
    let dir = tempfile::tempdir().expect("a folder");
    many_experts(&dir.path().join("model"), 6, 20_000);
    let out = dir.path().join("pack");
    packed(&dir.path().join("model"), &out);
    let ram = common::minimum_ram(&out, &Options { threads: Some(2), ctx: Some(256), ..roomy() });
    let schedule = Schedule::new(&[Fault::Fails, Fault::Stalls, Fault::Truncates], 250);
    let mut engine = load_within(ram, &out, &[], Box::new(Retrying::new(Faulty::new(&schedule, 1))));
    assert!(!engine.plan().trunk.streamed.is_empty() && engine.plan().trunk.rows > 0);
    let (expected, _) = generate(&mut engine, 2);
    schedule.armed.store(true, Ordering::Relaxed);
    let mut failed = 0;
    for _ in 0..6 {
        let (bits, failures) = generate(&mut engine, 2);
        assert!(bits == expected, "wrong logits after {} faults", schedule.total());
        failed += failures;
    }
    assert!(failed > 0 && schedule.total() > 500, "{failed} steps failed of {} faults", schedule.total());
}

/// Without checksums, in place, the same corruption shows: so it is real, and it is they that find it.
#[test]
fn without_checksums_corruption_is_not_seen() {
    let dir = tempfile::tempdir().expect("a folder");
    many_experts(dir.path(), 2, 300);
    let schedule = Schedule::new(&[Fault::Corrupts], 300);
    let mut engine = load(dir.path(), &[], Box::new(Retrying::new(Faulty::new(&schedule, 1))));
    let (expected, _) = generate(&mut engine, 3);
    schedule.armed.store(true, Ordering::Relaxed);
    let (bits, failed) = generate(&mut engine, 3);
    assert!(schedule.total() > 50 && failed == 0);
    assert!(bits != expected, "{} corruptions changed no logit", schedule.total());
}

/// A reader whose drive, while `silent`, takes reads on and says nothing of them.
struct Mute {
    inner: Pread,
    silent: Arc<AtomicBool>,
    held: Vec<Completion>,
}

impl Reader for Mute {
    fn describe(&self) -> String {
        "mute".to_owned()
    }

    fn register(&mut self, _region: &Arc<Region>) {}

    fn unregister(&mut self, _region: &Arc<Region>) {}

    fn submit(&mut self, reads: &[Read]) -> io::Result<()> {
        self.inner.submit(reads)
    }

    fn collect(&mut self, wait: bool, done: &mut Vec<Completion>) -> io::Result<()> {
        self.inner.collect(wait && self.held.is_empty(), &mut self.held)?;
        if self.silent.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(if wait { 20 } else { 0 }));
        } else {
            done.append(&mut self.held);
        }
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.held.len()
    }

    fn counts(&self) -> ReaderCounts {
        self.inner.counts()
    }
}

fn mute(silent: &Arc<AtomicBool>) -> Box<dyn Reader> {
    let inner = Pread::new(1).expect("threads");
    Box::new(Retrying::new(Box::new(Mute { inner, silent: silent.clone(), held: Vec::new() })))
}

/// A drive that never answers is given up with an error that names what it was asked for, again and again; when it answers
/// after all, the same session goes on, and what came late is in nobody's way.
#[test]
fn a_drive_that_does_not_answer() {
    let dir = tempfile::tempdir().expect("a folder");
    many_experts(&dir.path().join("model"), 6, 20_000);
    let pack = dir.path().join("pack");
    packed(&dir.path().join("model"), &pack);
    let options = Options { threads: Some(2), ctx: Some(256), ..roomy() };
    let least = common::minimum_ram(&pack, &options);
    // With all of the trunk in memory, and with layers and rows of the embedding that are read for every token.
    for ram in [options.ram, least] {
        let silent = Arc::new(AtomicBool::new(false));
        let inspection = Inspection::open(&pack, false).unwrap_or_else(|error| panic!("{error}"));
        let options = Options { ram, patience: Duration::from_millis(200), ..options };
        let mut engine = Engine::load(inspection, &options, mute(&silent), &mut |_, _| ControlFlow::Continue(()))
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(engine.plan().trunk.streamed.is_empty(), ram != least);
        let (expected, _) = generate(&mut engine, 3);
        let text = prompt(&engine);
        let mut session = Session::open(&mut engine);
        for round in 0..3 {
            // The last token is computed anew.
            let text = &text[..text.len() - round];
            engine.drop_experts();
            silent.store(true, Ordering::Relaxed);
            for _ in 0..3 {
                let problem = session.sync(&mut engine, text, &mut ()).expect_err("nothing was read").to_string();
                assert!(problem.contains("has not answered for") && problem.contains("try again"), "{problem}");
                assert!(ram == least || problem.contains("expert "), "round {round}: {problem}");
            }
            silent.store(false, Ordering::Relaxed);
            let began = Instant::now();
            while let Err(error) = session.sync(&mut engine, text, &mut ()) {
                assert!(began.elapsed() < Duration::from_secs(20), "round {round}: {error}");
            }
        }
        session.close(&mut engine);
        let (bits, failed) = generate(&mut engine, 3);
        assert!(bits == expected && failed == 0, "other logits after the drive came back; {failed} steps failed");
        // The engine ends, though reads never do.
        silent.store(true, Ordering::Relaxed);
        engine.drop_experts();
        let mut session = Session::open(&mut engine);
        assert!(session.sync(&mut engine, &text, &mut ()).is_err());
    }
}

#[test]
fn a_drive_that_disappears_and_comes_back() {
    let dir = tempfile::tempdir().expect("a folder");
    many_experts(dir.path(), 2, 300);
    let schedule = Schedule::new(&ALL, 0);
    let mut engine = load(dir.path(), &[], Box::new(Retrying::new(Faulty::new(&schedule, 1))));
    let (expected, _) = generate(&mut engine, 3);
    let vocab = engine.facts().vocab;
    let prompt = prompt(&engine);
    let mut session = Session::open(&mut engine);
    session.extend(&mut engine, &prompt, Work::Prompt, &mut ()).unwrap_or_else(|error| panic!("{error}"));
    let next = argmax(session.logits(&mut engine, &mut ()).unwrap_or_else(|error| panic!("{error}")));
    schedule.set_gone(Some(dir.path()));
    for _ in 0..3 {
        engine.drop_experts();
        let began = Instant::now();
        let gone = session.extend(&mut engine, &[next], Work::Step, &mut ());
        let message = gone.expect_err("the drive is gone").to_string();
        assert!(began.elapsed() < Duration::from_secs(2), "reported after {:?}", began.elapsed());
        assert!(
            message.contains("expert ") && message.contains("of layer 0") && message.contains(".safetensors"),
            "{message}"
        );
        assert_eq!(session.tokens(), prompt, "the session keeps its past");
    }
    schedule.set_gone(None);
    session.extend(&mut engine, &[next], Work::Step, &mut ()).unwrap_or_else(|error| panic!("{error}"));
    let logits = session.logits(&mut engine, &mut ()).unwrap_or_else(|error| panic!("{error}"));
    let bits: Vec<u32> = logits.iter().map(|logit| logit.to_bits()).collect();
    assert_eq!(bits, expected[vocab..2 * vocab], "and goes on with the right logits");
}

#[test]
fn one_of_two_drives_is_enough() {
    let dir = tempfile::tempdir().expect("a folder");
    let (model, own, other) = (dir.path().join("model"), dir.path().join("own"), dir.path().join("other"));
    many_experts(&model, 2, 300);
    packed(&model, &own);
    std::fs::create_dir(&other).expect("a folder");
    for entry in std::fs::read_dir(&own).expect("the pack").flatten() {
        std::fs::copy(entry.path(), other.join(entry.file_name())).expect("copied");
    }
    let schedule = Schedule::new(&ALL, 300);
    let mirror = Mirror::new(Faulty::new(&schedule, 2), 2);
    let mut engine = load(&own, std::slice::from_ref(&other), Box::new(Retrying::new(Box::new(mirror))));
    let (expected, _) = generate(&mut engine, 3);
    for gone in [None, Some(&own), Some(&other), None] {
        schedule.set_gone(gone.map(PathBuf::as_path));
        let (bits, failed) = generate(&mut engine, 3);
        assert!(bits == expected && failed == 0, "{failed} steps failed without {gone:?}");
    }
    schedule.armed.store(true, Ordering::Relaxed);
    for turn in 0.. {
        if schedule.total() >= 1000 {
            break;
        }
        // Either drive goes wrong often, never both: so no step may fail.
        *schedule.ailing.lock().expect("a lock") = Some([&own, &other][turn % 2].clone());
        let (bits, failed) = generate(&mut engine, 3);
        assert!(bits == expected && failed == 0, "{failed} steps failed after {} faults", schedule.total());
    }
    println!("with two drives: {:?}", schedule.injected.lock().expect("a lock"));
    schedule.armed.store(false, Ordering::Relaxed);
    schedule.set_gone(Some(dir.path()));
    engine.drop_experts();
    let mut session = Session::open(&mut engine);
    assert!(session.sync(&mut engine, &[1, 2, 3], &mut ()).is_err(), "both are gone");
    schedule.set_gone(None);
    assert!(session.sync(&mut engine, &[1, 2, 3], &mut ()).is_ok());
}
