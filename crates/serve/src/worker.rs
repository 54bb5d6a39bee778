//! The one thread that owns the engine. Requests wait in a queue, run together on the engine's scheduler, and tell their
//! clients of every token. A request whose client is gone is ended; one that finds no memory gives way and comes again.

mod constraint;
mod job;
mod kept;
mod thoughts;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use outpour_engine::{Engine, EngineError, IDLE_INTERVAL, LayerCost, Observer, Progress, SequenceId};
use outpour_model::ModelError;
use outpour_text::Tokenizer;
use tokio::sync::mpsc;

pub(crate) use constraint::{Begins, Constraint};
#[cfg(test)]
pub(crate) use job::Token;
pub(crate) use job::{Ask, Done, Event, Failure, Finish, Score};
pub(crate) use thoughts::{Budget, Marks, Thoughts};

use crate::live::{Live, Recorder};
use crate::metrics::Metrics;
use job::{Choice, Job};
use kept::Kept;
pub use kept::States;

/// Requests that wait at most, beside those that run.
pub(crate) const QUEUE_MAX: usize = 128;
/// Requests that run together at most: as many as one batch of steps takes.
pub(crate) const RUNNING_MAX: usize = 32;
/// Events that a client may be behind.
const EVENTS_MAX: usize = 1024;
/// Room for an answer that a request must find before it begins, in tokens.
const HEADROOM_TOKENS: usize = 256;
/// Progress of a prompt is told this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Writing states takes one in so many parts of the time while requests run.
const WRITES_ONE_IN: u32 = 10;

/// Loads the model; told bytes read and bytes in all.
pub type Loader = Box<dyn FnMut(&mut dyn FnMut(u64, u64) -> ControlFlow<()>) -> Result<Engine, String> + Send>;

/// Whether the model can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Loading,
    Ready,
    /// Its memory was given back; the next request loads it.
    Released,
    Failed(String),
}

/// What both sides see.
pub(crate) struct Shared {
    pub(crate) health: Mutex<Health>,
    pub(crate) metrics: Metrics,
    pub(crate) live: Live,
    queued: AtomicUsize,
    stop: AtomicUsize,
}

/// [`Shared::stop`]: nothing; no new requests; none at all.
const GO_ON: usize = 0;
const DRAIN: usize = 1;
const STOP: usize = 2;

impl Shared {
    pub(crate) fn health(&self) -> Health {
        self.health.lock().map_or_else(|_| Health::Failed("the engine's thread ended".into()), |health| health.clone())
    }

    fn set_health(&self, health: Health) {
        if let Ok(mut at) = self.health.lock() {
            *at = health;
        }
    }
}

/// The way to the worker.
#[derive(Clone)]
pub(crate) struct Door {
    inbox: Sender<Job>,
    pub(crate) shared: Arc<Shared>,
    tokenizer: Arc<Tokenizer>,
}

/// Why a request was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// So many wait already.
    Full(usize),
    /// The server is ending, or its model cannot be loaded.
    Ending,
    /// The stop strings cannot be used.
    Stop(String),
}

impl Door {
    /// Puts a request into the queue. Dropping the receiver ends it.
    pub(crate) fn submit(&self, ask: Ask) -> Result<mpsc::Receiver<Event>, Refused> {
        if self.is_ending() {
            return Err(Refused::Ending);
        }
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let job = Job::new(ask, events, &self.tokenizer).map_err(|error| Refused::Stop(error.to_string()))?;
        let position = self.shared.queued.fetch_add(1, Ordering::Relaxed);
        if position >= QUEUE_MAX {
            self.shared.queued.fetch_sub(1, Ordering::Relaxed);
            self.shared.metrics.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Refused::Full(QUEUE_MAX));
        }
        self.shared.metrics.requests.fetch_add(1, Ordering::Relaxed);
        self.inbox.send(job).map_err(|_| Refused::Ending)?;
        Ok(receiver)
    }

    /// Requests that wait.
    pub(crate) fn queued(&self) -> usize {
        self.shared.queued.load(Ordering::Relaxed)
    }

    /// Whether no more requests are taken.
    pub(crate) fn is_ending(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed) != GO_ON
    }

    /// Takes no more requests; those taken are finished.
    pub(crate) fn drain(&self) {
        self.shared.stop.fetch_max(DRAIN, Ordering::Relaxed);
    }

    /// Ends every request.
    pub(crate) fn stop(&self) {
        self.shared.stop.fetch_max(STOP, Ordering::Relaxed);
    }
}

/// The thread's own.
pub(crate) struct Worker {
    load: Loader,
    engine: Option<Engine>,
    inbox: Receiver<Job>,
    waiting: VecDeque<Job>,
    running: Vec<Job>,
    kept: Kept,
    choice: Choice,
    /// Tells watchers what the engine does.
    recorder: Option<Recorder>,
    shared: Arc<Shared>,
    tokenizer: Arc<Tokenizer>,
    idle_release: Option<Duration>,
    /// When some of a state may go to the drive beside requests.
    next_write: Instant,
}

/// A worker and the way to it.
pub(crate) fn worker(
    load: Loader,
    tokenizer: Arc<Tokenizer>,
    states: Option<States>,
    idle_release: Option<Duration>,
) -> (Worker, Door) {
    let (sender, inbox) = channel();
    let shared = Arc::new(Shared {
        health: Mutex::new(Health::Loading),
        metrics: Metrics::default(),
        live: Live::default(),
        queued: AtomicUsize::new(0),
        stop: AtomicUsize::new(GO_ON),
    });
    let worker = Worker {
        load,
        engine: None,
        inbox,
        waiting: VecDeque::new(),
        running: Vec::new(),
        kept: Kept::new(states),
        choice: Choice::default(),
        recorder: None,
        shared: shared.clone(),
        tokenizer: tokenizer.clone(),
        idle_release,
        next_write: Instant::now(),
    };
    (worker, Door { inbox: sender, shared, tokenizer })
}

impl Worker {
    /// Serves until every door is closed, or the model cannot be loaded.
    ///
    /// # Errors
    /// Why the model could not be loaded.
    pub(crate) fn run(mut self) -> Result<(), String> {
        let mut loaded = self.ensure_loaded();
        while loaded.is_ok() && self.receive() {
            loaded = self.ensure_loaded();
            if loaded.is_ok() {
                self.admit();
                self.tick();
                self.advance();
                self.keep_on_drive();
                self.note();
            }
        }
        if let Err(problem) = &loaded {
            self.shared.stop.store(STOP, Ordering::Relaxed);
            self.shared.set_health(Health::Failed(problem.clone()));
            self.waiting.extend(self.inbox.try_iter());
            self.end_all(problem);
        }
        loaded
    }

    fn stopping(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed) == STOP
    }

    fn ensure_loaded(&mut self) -> Result<(), String> {
        if self.engine.is_none() {
            self.shared.set_health(Health::Loading);
            let shared = self.shared.clone();
            let go_on = |shared: &Shared| match shared.stop.load(Ordering::Relaxed) {
                STOP => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            };
            let mut engine = (self.load)(&mut |read, total| {
                shared.live.loading(read, total);
                go_on(&shared)
            })?;
            self.recorder = Some(self.shared.live.record(&mut engine)?);
            self.engine = Some(engine);
            self.shared.set_health(Health::Ready);
        }
        Ok(())
    }

    /// Takes in new requests, waiting for one where nothing runs. `false` when none can come any more.
    fn receive(&mut self) -> bool {
        if self.stopping() {
            self.waiting.extend(self.inbox.try_iter());
            self.end_all("the server is ending");
        }
        if self.running.is_empty() && self.waiting.is_empty() {
            // What is not on the drive yet goes there while nobody waits.
            while self.inbox_is_empty() && self.write_state() {}
        }
        if self.running.is_empty() && self.waiting.is_empty() {
            match self.wait() {
                Ok(job) => self.waiting.push_back(job),
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => {
                    self.release();
                    return self.receive();
                }
            }
        }
        loop {
            match self.inbox.try_recv() {
                Ok(job) => self.waiting.push_back(job),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return true,
            }
        }
    }

    /// Waits for a request, no longer than until the engine's memory is to be released; meanwhile others may need some of it.
    fn wait(&mut self) -> Result<Job, RecvTimeoutError> {
        let Some(engine) = &mut self.engine else {
            return self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected);
        };
        let began = Instant::now();
        loop {
            let left = self.idle_release.map(|idle| idle.saturating_sub(began.elapsed()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(RecvTimeoutError::Timeout);
            }
            match self.inbox.recv_timeout(left.map_or(IDLE_INTERVAL, |left| left.min(IDLE_INTERVAL))) {
                Err(RecvTimeoutError::Timeout) => engine.idle(),
                received => return received,
            }
        }
    }

    /// Whether no new request is there; one that is waits from now on.
    fn inbox_is_empty(&mut self) -> bool {
        match self.inbox.try_recv() {
            Ok(job) => self.waiting.push_back(job),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => return true,
        }
        false
    }

    /// Writes some of a state to the drive. `false` where all are there.
    fn write_state(&mut self) -> bool {
        self.engine.as_ref().is_some_and(|engine| self.kept.write_next(engine))
    }

    /// The same beside requests, of whose time it takes a tenth.
    fn keep_on_drive(&mut self) {
        let began = Instant::now();
        if began >= self.next_write && self.write_state() {
            self.next_write = began + WRITES_ONE_IN * began.elapsed();
        }
    }

    /// Gives the engine's memory back.
    fn release(&mut self) {
        self.kept.forget_memory();
        self.engine = None;
        self.recorder = None;
        self.shared.live.released();
        self.shared.set_health(Health::Released);
    }

    fn end_all(&mut self, why: &str) {
        self.shared.queued.fetch_sub(self.waiting.len(), Ordering::Relaxed);
        for mut job in self.waiting.drain(..).chain(self.running.drain(..)) {
            job.fail(Failure::Unavailable(why.to_owned()));
            if let (Some(engine), Some(sequence)) = (&mut self.engine, job.sequence) {
                engine.close_sequence(sequence);
            }
        }
    }

    /// Begins waiting requests, in order, as memory allows.
    fn admit(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        let gone = |job: &Job| job.events.is_closed();
        let before = self.waiting.len();
        self.waiting.retain(|job| !gone(job));
        let room = (engine.slab_bytes() / 2).max(engine.state_bytes(engine.plan().ctx));
        let need = |engine: &Engine, job: &Job| engine.state_bytes(job.tokens.len() + job.left().min(HEADROOM_TOKENS));
        while let Some(job) = self.waiting.front() {
            let used: usize = self.running.iter().map(|job| need(engine, job)).sum();
            let fits = used + need(engine, job) <= room;
            if self.running.len() >= RUNNING_MAX || (!fits && !self.running.is_empty()) {
                break;
            }
            self.kept.shrink(engine, room.saturating_sub(used + need(engine, job)), job);
            let Some(mut job) = self.waiting.pop_front() else { break };
            match job.start(engine, &mut self.kept) {
                Ok(()) => self.running.push(job),
                Err(error) => job.fail(Failure::of(&error)),
            }
        }
        self.shared.queued.fetch_sub(before - self.waiting.len(), Ordering::Relaxed);
        for (position, job) in self.waiting.iter_mut().enumerate() {
            job.tell_position(position + 1);
        }
    }

    fn tick(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        let mut watch = Watch { running: &mut self.running, recorder: self.recorder.as_mut(), shared: &self.shared };
        let ticked = engine.tick(&mut watch);
        if let Some(recorder) = &mut self.recorder {
            recorder.ticked(&engine.stats());
        }
        let Err(error) = ticked else { return };
        let struck: Vec<SequenceId> = engine.struck().collect();
        if matches!(error, EngineError::Model(ModelError::NoRoom)) {
            struck.first().iter().for_each(|&&sequence| self.make_room(sequence));
            return;
        }
        for job in self.running.extract_if(.., |job| job.sequence.is_some_and(|id| struck.contains(&id))) {
            let mut job = job;
            job.fail(Failure::of(&error));
            job.sequence.into_iter().for_each(|sequence| engine.close_sequence(sequence));
        }
    }

    /// Frees memory for a sequence that found none: what is kept for later goes first, then the request that came last begins
    /// anew when there is room. The same tokens come again, as randomness is a function of seed and position.
    fn make_room(&mut self, sequence: SequenceId) {
        let Some(engine) = &mut self.engine else { return };
        if self.kept.drop_oldest(engine) {
            return;
        }
        let alone = self.running.len() == 1;
        let last = self.running.pop();
        let Some(mut job) = last else { return };
        debug_assert!(!alone || job.sequence == Some(sequence));
        job.sequence.take().into_iter().for_each(|sequence| engine.close_sequence(sequence));
        if alone {
            job.end(Finish::ContextFull);
        } else {
            job.give_way();
            self.shared.queued.fetch_add(1, Ordering::Relaxed);
            self.waiting.push_front(job);
        }
    }

    /// Goes on with every request whose logits are there, and ends those whose clients are gone.
    fn advance(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        let mut at = 0;
        while at < self.running.len() {
            let job = &mut self.running[at];
            match job.advance(engine, &mut self.kept, &self.tokenizer, &self.shared.metrics, &mut self.choice) {
                ControlFlow::Continue(()) => at += 1,
                ControlFlow::Break(()) => {
                    let job = self.running.remove(at);
                    job.close(engine, &mut self.kept);
                }
            }
        }
    }

    fn note(&mut self) {
        if let Some(engine) = &self.engine {
            self.shared.metrics.note(engine.stats(), self.running.len(), self.kept.len(), self.kept.drive_bytes());
        }
    }
}

/// Watches the engine for the sake of its requests.
struct Watch<'a> {
    running: &'a mut Vec<Job>,
    recorder: Option<&'a mut Recorder>,
    shared: &'a Shared,
}

impl Observer for Watch<'_> {
    fn logits(&mut self, sequence: SequenceId, position: usize, logits: &[f32]) {
        if let Some(job) = self.running.iter_mut().find(|job| job.sequence == Some(sequence)) {
            job.see_prompt_logits(position, logits);
        }
    }

    fn layer(&mut self, cost: &LayerCost) {
        if let Some(recorder) = &mut self.recorder {
            recorder.layer(cost);
        }
    }

    fn progress(&mut self, progress: Progress) -> ControlFlow<()> {
        if self.shared.stop.load(Ordering::Relaxed) == STOP {
            return ControlFlow::Break(());
        }
        match self.running.iter_mut().find(|job| job.sequence == Some(progress.sequence)) {
            Some(job) => job.tell_progress(&progress, Instant::now(), PROGRESS_EVERY),
            None => ControlFlow::Continue(()),
        }
    }
}
