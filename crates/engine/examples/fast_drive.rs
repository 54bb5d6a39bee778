//! How near the engine comes to the bound on a steady drive: experts arrive by the clock, at a given rate.
//!
//! `cargo run --release -p outpour-engine --example fast_drive -- MODEL RAM_BYTES read|pretend GB_PER_SECOND...`
//!
//! `pretend` moves no byte, for drives faster than this machine's: the words are noise, for the experts' bytes are others'; the
//! times are not. `read` reads, and holds back what comes before its time, for drives that are slower: so what lookahead gains is seen too.

use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use outpour_engine::bound::Account;
use outpour_engine::sample::argmax;
use outpour_engine::{Engine, Inspection, LayerCost, LookaheadMode, Observer, Options, Session};
use outpour_store::read::{self, Completion, Read, Reader, ReaderCounts, ReaderKind, Region};

const TOKENS: usize = 48;
const PROMPTS: [usize; 3] = [64, 256, 512];
/// From a read's submission to its first byte.
const LATENCY: Duration = Duration::from_micros(80);

/// A reader that completes by the clock; until a rate is set, one that reads.
struct Timed {
    inner: Box<dyn Reader>,
    /// Whether it reads all the same.
    reads: bool,
    /// What has come before its time.
    early: Vec<Completion>,
    bytes_per_second: Arc<AtomicU64>,
    /// When each read is there, in the order of submission.
    flying: VecDeque<(Instant, u64, usize)>,
    /// When the drive will have given all that it was asked for.
    busy_until: Instant,
    counts: ReaderCounts,
}

impl Timed {
    fn rate(&self) -> u64 {
        self.bytes_per_second.load(Ordering::Relaxed)
    }
}

impl Timed {
    /// A read that is due, if it has really come, or waiting for it.
    fn arrived(&mut self, tag: u64, wait: bool) -> io::Result<Option<Completion>> {
        loop {
            self.inner.collect(false, &mut self.early)?;
            if let Some(at) = self.early.iter().position(|completion| completion.tag == tag) {
                return Ok(Some(self.early.swap_remove(at)));
            }
            if !wait {
                return Ok(None);
            }
            self.inner.collect(true, &mut self.early)?;
        }
    }
}

impl Reader for Timed {
    fn describe(&self) -> String {
        format!("by the clock, {:.1} GB/s", self.rate() as f64 / 1e9)
    }

    fn register(&mut self, region: &Arc<Region>) {
        self.inner.register(region);
    }

    fn unregister(&mut self, region: &Arc<Region>) {
        self.inner.unregister(region);
    }

    fn submit(&mut self, reads: &[Read]) -> io::Result<()> {
        let rate = self.rate();
        if rate == 0 {
            return self.inner.submit(reads);
        }
        if self.reads {
            self.inner.submit(reads)?;
        }
        let now = Instant::now();
        for read in reads {
            self.busy_until = self.busy_until.max(now) + Duration::from_secs_f64(read.bytes as f64 / rate as f64);
            self.flying.push_back((self.busy_until + LATENCY, read.tag, read.bytes));
        }
        Ok(())
    }

    fn collect(&mut self, wait: bool, done: &mut Vec<Completion>) -> io::Result<()> {
        if self.rate() == 0 {
            return self.inner.collect(wait, done);
        }
        if let (true, Some((due, ..))) = (wait, self.flying.front()) {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        let now = Instant::now();
        while let Some(&(_, tag, bytes)) = self.flying.front().filter(|(due, ..)| *due <= now) {
            let completion = match self.reads {
                true => self.arrived(tag, wait)?,
                false => Some(Completion { tag, result: Ok(bytes) }),
            };
            let Some(completion) = completion else { break };
            self.flying.pop_front();
            self.counts.reads += 1;
            self.counts.bytes += bytes as u64;
            done.push(completion);
        }
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight().max(self.flying.len())
    }

    fn counts(&self) -> ReaderCounts {
        self.counts
    }
}

struct Costs(Account);

impl Observer for Costs {
    fn layer(&mut self, cost: &LayerCost) {
        self.0.add(cost);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let usage = "give MODEL RAM_BYTES read|pretend GB_PER_SECOND...";
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [model, ram, how @ ("read" | "pretend"), rates @ ..] = &args[..] else { return Err(usage.into()) };
    let rates =
        rates.iter().map(|rate| Ok(rate.parse::<f64>()? * 1e9)).collect::<Result<Vec<f64>, Box<dyn Error>>>()?;
    println!("| GB/s | test | tok/s | GB/s reached | % of the bound | bound by |\n|---|---|---|---|---|---|");
    // Prompts read on into the next layer. The bound of an answer is without guesses; with them it may be passed.
    for (lookahead, tests) in
        [(LookaheadMode::Auto, &PROMPTS[..]), (LookaheadMode::Off, &[1]), (LookaheadMode::On, &[1])]
    {
        let options = Options { ram: ram.parse()?, ctx: Some(1024), lookahead, ..Options::default() };
        let bytes_per_second = Arc::new(AtomicU64::new(0));
        let mut engine = load(Path::new(model), &options, *how == "read", &bytes_per_second)?;
        if *how == "pretend" {
            // Slots keep what is read now: where nothing was, nothing would be computed, and tokens would choose alike.
            let mut session = Session::open(&mut engine);
            let text = text(&engine, PROMPTS[PROMPTS.len() - 1]);
            session.sync(&mut engine, &text, &mut ())?;
            session.close(&mut engine);
        }
        for &rate in &rates {
            bytes_per_second.store(rate as u64, Ordering::Relaxed);
            for &prompt in tests {
                measure(&mut engine, rate, prompt, if prompt == 1 { TOKENS } else { 0 }, lookahead)?;
            }
        }
    }
    Ok(())
}

fn load(
    model: &Path,
    options: &Options,
    reads: bool,
    bytes_per_second: &Arc<AtomicU64>,
) -> Result<Engine, Box<dyn Error>> {
    let reader = Timed {
        inner: read::open(ReaderKind::Auto)?,
        reads,
        early: Vec::new(),
        bytes_per_second: bytes_per_second.clone(),
        flying: VecDeque::new(),
        busy_until: Instant::now(),
        counts: ReaderCounts::default(),
    };
    let inspection = Inspection::open(model, false)?;
    Ok(Engine::load(inspection, options, Box::new(reader), &mut |_, _| ControlFlow::Continue(()))?)
}

/// So many tokens.
fn text(engine: &Engine, tokens: usize) -> Vec<u32> {
    (0..tokens).map(|i| ((i * i * 31 + 7 * i + 3) % engine.facts().vocab) as u32).collect()
}

/// A prompt of so many tokens from a cold start, or so many tokens of an answer behind it.
fn measure(
    engine: &mut Engine,
    rate: f64,
    prompt: usize,
    tokens: usize,
    lookahead: LookaheadMode,
) -> Result<(), Box<dyn Error>> {
    let (vocab, mut text) = (engine.facts().vocab, text(engine, prompt));
    let mut session = Session::open(engine);
    if tokens > 0 {
        session.sync(engine, &text, &mut ())?;
    }
    engine.drop_experts();
    let (mut costs, before, began) = (Costs(Account::default()), engine.stats().stream, Instant::now());
    for _ in 0..tokens.max(1) {
        if tokens > 0 {
            // Words of noise soon repeat themselves; these do not.
            let next = argmax(session.logits(engine, &mut costs)?) as usize + text.len() * 7919 % 97;
            text.push((next % vocab) as u32);
        }
        session.sync(engine, &text, &mut costs)?;
    }
    session.logits(engine, &mut costs)?;
    let time = began.elapsed();
    let stream = engine.stats().stream.since(&before);
    session.close(engine);
    let bound = costs.0.bound(time, rate);
    println!(
        "| {:.2} | {} | {:.1} | {:.2} | {:.0} | {} |",
        rate / 1e9,
        if tokens > 0 { format!("tg{tokens}, lookahead {lookahead:?}") } else { format!("pp{prompt}") },
        tokens.max(prompt) as f64 / time.as_secs_f64(),
        stream.read_bytes as f64 / time.as_secs_f64() / 1e9,
        100.0 * bound.seconds / time.as_secs_f64(),
        bound.by.name(),
    );
    Ok(())
}
