//! `bench`: tokens a second, beside what the drive and the memory allow, measured in the same run.

mod report;

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use outpour_engine::bound::{Account, Bound, DriveLimit};
use outpour_engine::sample::{Sampler, Sampling, uniform};
use outpour_engine::{Engine, EngineError, LayerCost, Observer, Progress, Session};
use outpour_model::experts::StreamStats;
use outpour_store::machine::Machine;
use outpour_store::read::Region;
use outpour_store::residency::ResidencyMap;
use outpour_store::trace::{Policy, Trace, replay_in_room, routed};

use crate::args::BenchArgs;
use crate::model;
use crate::term::{self, INTERRUPTED, stopped};
use crate::watch::TimelineFile;
use report::{Report, Subject};

/// How long the drive is measured before and after each repetition.
const PROBE_TIME: Duration = Duration::from_millis(700);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// A prompt of so many tokens.
    Prompt(usize),
    /// So many tokens, one at a time.
    Generate(usize),
}

impl Test {
    /// As llama-bench names it.
    pub fn name(self) -> String {
        match self {
            Test::Prompt(tokens) => format!("pp{tokens}"),
            Test::Generate(tokens) => format!("tg{tokens}"),
        }
    }

    /// Its tokens.
    pub fn tokens(self) -> usize {
        match self {
            Test::Prompt(tokens) | Test::Generate(tokens) => tokens,
        }
    }

    /// Context that it takes.
    fn context(self) -> usize {
        match self {
            Test::Prompt(tokens) => tokens,
            Test::Generate(tokens) => tokens + 1,
        }
    }
}

/// One repetition of a test.
#[derive(Clone, Copy, Debug)]
pub struct Repetition {
    /// How long it took.
    pub time: Duration,
    /// What it could have taken.
    pub bound: Bound,
    /// What streaming did.
    pub stream: StreamStats,
    /// Bytes that the drive gave, by the kernel's count where it counts.
    pub drive_bytes: u64,
    /// What the drive gives with this model's experts, measured before and after, or what it gave in between where that is more;
    /// `None` where it has none.
    pub drive_limit: Option<f64>,
    /// Whether it gave more than was measured.
    pub limit_raised: bool,
    /// Experts that a cache of the same size would have read, least recently used first out.
    pub lru_misses: u64,
    /// The fewest that any policy could have read.
    pub belady_misses: u64,
}

/// Runs the measurements.
///
/// # Errors
/// About the model, the flags, or a read that failed.
pub fn bench(args: &BenchArgs) -> Result<ExitCode> {
    let prompts = args.prompt.iter().copied().map(Test::Prompt);
    let tests: Vec<Test> =
        prompts.chain(args.generate.iter().copied().map(Test::Generate)).filter(|test| test.tokens() > 0).collect();
    if tests.is_empty() || args.repeat == 0 {
        bail!("nothing to measure: give -p or -n a number above 0, and -r at least 1");
    }
    let inspection = model::open(&args.model, &args.load)?;
    let mut load = args.load.clone();
    load.ctx = load.ctx.or(tests.iter().map(|test| test.context()).max());
    let options = load.options(inspection.probe_bytes())?;
    let mut subject = Subject::new(&args.model, &inspection, args.cold)?;
    term::catch_interrupt()?;
    let probe_bytes = inspection.probe_bytes();
    subject.measure_memory(&options)?;
    let trace = args.trace_out.as_ref().map(|path| TimelineFile::create(path, &inspection)).transpose()?;
    let timeline = trace.as_ref().map(|trace| &trace.timeline);
    let mut engine = model::load_recorded(inspection, &options, args.load.reader(), timeline)?;
    subject.describe_engine(&engine);
    let mut bench = Bench {
        memory: (probe_bytes > 0).then(|| engine.probe_memory(probe_bytes)).transpose()?,
        watch: Watch {
            trace: Trace::default(),
            account: Account::default(),
            given: DriveLimit::measured(0.0),
            experts: engine.residency_map(),
        },
        engine: &mut engine,
        cold: args.cold,
        warm: false,
        seed: 1,
    };
    let progress = term::Steps::start();
    let mut report = Report::default();
    let mut interrupted = false;
    'tests: for &test in &tests {
        let mut repetitions = Vec::with_capacity(args.repeat);
        bench.warm = false;
        for i in 0..args.repeat {
            // Ctrl-C breaks off within the repetition.
            let _ = progress.next(&format!("{} {}/{}", test.name(), i + 1, args.repeat));
            match bench.repeat(test) {
                Ok(repetition) => repetitions.push(repetition),
                Err(EngineError::Cancelled) => {
                    interrupted = true;
                    break 'tests;
                }
                Err(error) => return Err(error.into()),
            }
        }
        report.add(test, &repetitions);
    }
    progress.finish();
    if !report.is_empty() {
        term::show(&report.text(&subject, args.output)?)?;
    }
    trace.map_or(Ok(()), TimelineFile::finish)?;
    Ok(if interrupted { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// A test that ran once.
struct Run {
    time: Duration,
    stream: StreamStats,
    drive_bytes: u64,
    /// Where its routes begin.
    from: usize,
}

struct Bench<'e> {
    engine: &'e mut Engine,
    /// Where reads of the probe go; `None` in a dense model.
    memory: Option<Arc<Region>>,
    watch: Watch,
    cold: bool,
    /// Whether this test has run before.
    warm: bool,
    seed: u64,
}

impl Bench<'_> {
    /// One repetition: with `--cold` from a memory without experts, else after an unmeasured one of the same test.
    fn repeat(&mut self, test: Test) -> Result<Repetition, EngineError> {
        if self.cold {
            self.forget();
        } else if !std::mem::replace(&mut self.warm, true) {
            self.run(test)?;
            self.read_all()?;
        }
        let before = self.probe()?;
        let Run { time, stream, drive_bytes, from } = self.run(test)?;
        let after = self.probe()?;
        let limit = |((bytes, seconds), (more, longer)): ((f64, f64), (f64, f64))| (bytes + more) / (seconds + longer);
        let measured = before.zip(after).map(limit);
        let given = self.watch.given.bytes_per_second();
        let drive_limit = measured.map(|measured| measured.max(given));
        let misses = |policy| replay_in_room(&self.watch.trace, policy, from).misses;
        Ok(Repetition {
            time,
            // Without a limit reading counts as nothing.
            bound: self.watch.account.bound(time, drive_limit.unwrap_or(f64::INFINITY)),
            stream,
            drive_bytes,
            drive_limit,
            limit_raised: drive_limit > measured,
            lru_misses: misses(Policy::Lru),
            belady_misses: misses(Policy::Belady),
        })
    }

    fn forget(&mut self) {
        self.engine.drop_experts();
        self.watch.trace = Trace::default();
        self.watch.trace.room(self.engine.expert_slots());
    }

    /// Where memory has room for all experts they are there, as they are after some use.
    fn read_all(&mut self) -> Result<(), EngineError> {
        if self.engine.read_experts()? {
            for (layer, &experts) in self.engine.residency_map().layers().iter().enumerate() {
                self.watch.trace.push(layer as u32, &(0..experts as u32).collect::<Vec<_>>());
            }
        }
        Ok(())
    }

    /// Bytes and seconds of reading experts, if there are any.
    fn probe(&mut self) -> Result<Option<(f64, f64)>, EngineError> {
        let Some(memory) = &self.memory else { return Ok(None) };
        let speed = self.engine.probe_drive(memory, PROBE_TIME, self.seed)?;
        Ok(Some((speed.bytes as f64, speed.seconds)))
    }

    /// Runs a test once.
    fn run(&mut self, test: Test) -> Result<Run, EngineError> {
        self.seed += 1;
        let vocab = self.engine.facts().vocab;
        self.watch.trace.room(self.engine.expert_slots());
        let mut session = Session::open(self.engine);
        let mut prompt: Vec<u32> = Vec::new();
        let tokens = if let Test::Prompt(tokens) = test { tokens } else { 1 };
        prompt.extend((0..tokens as u64).map(|at| (uniform(self.seed, at) * vocab as f32) as u32));
        if let Test::Generate(_) = test {
            session.sync(self.engine, &prompt, &mut self.watch)?;
            if self.cold {
                self.forget();
            }
        }
        let from = self.watch.trace.len();
        self.watch.account.clear();
        self.watch.given = DriveLimit::measured(0.0);
        let (stream_before, drive_before) = (self.engine.stats().stream, Machine::here().drive_read_bytes());
        let began = Instant::now();
        match test {
            Test::Prompt(_) => session.sync(self.engine, &prompt, &mut self.watch)?,
            Test::Generate(tokens) => {
                let sampling = Sampling { temperature: 1.0, seed: self.seed, ..Sampling::default() };
                let mut sampler = Sampler::new(sampling, vocab);
                for _ in 0..tokens {
                    session.step(self.engine, &mut self.watch, &mut |logits, at| sampler.choose(logits, at))?;
                    self.watch.trace.room(self.engine.expert_slots());
                }
                session.logits(self.engine, &mut self.watch)?;
            }
        }
        let time = began.elapsed();
        let stream = self.engine.stats().stream.since(&stream_before);
        let drive = drive_before.zip(Machine::here().drive_read_bytes()).map(|(from, to)| to - from);
        self.watch.trace.room(self.engine.expert_slots());
        session.close(self.engine);
        Ok(Run { time, stream, drive_bytes: drive.unwrap_or(stream.read_bytes), from })
    }
}

/// Keeps routes and costs.
struct Watch {
    trace: Trace,
    /// Says how many experts there are.
    experts: Arc<ResidencyMap>,
    account: Account,
    /// The most that the drive gave for a while.
    given: DriveLimit,
}

impl Observer for Watch {
    fn routes(&mut self, layer: usize, _: &[u32], choice: &[i32], _: &[f32]) {
        let experts: Vec<u32> = routed(choice, self.experts.layers()[layer]).collect();
        self.trace.push(layer as u32, &experts);
    }

    fn layer(&mut self, cost: &LayerCost) {
        self.account.add(cost);
        self.given.see(&cost.stream);
    }

    fn progress(&mut self, _: Progress) -> ControlFlow<()> {
        if stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
