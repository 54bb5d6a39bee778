//! `GET /live`: the engine as it works, as server-sent events for whoever watches.
//!
//! The engine's thread leaves numbers where the tasks of watchers find them ([`Recorder`]), a few stores a layer, whether
//! anybody watches or not; it waits for no watcher. What is sent is made by the watcher's task, a few times a second, and
//! only while there is one. A watcher that is slow gets fewer events.
//!
//! | event | what it tells |
//! |---|---|
//! | `model` | first, and whenever the model was loaded anew: its name, `layers` (experts of each), bytes of an expert, `ram` and its buffers in bytes |
//! | `now` | how it is: `state`, `running`, `waiting`, `layer`, `memory_bytes`, and what the drive gives at most, `drive_bytes_per_second`; totals since the model was loaded: `hits`, `misses`, `read_bytes`, `reading_s`, and `generated` since the server was; new since the event before: `steps`, each as [`Step::push`] writes it, and `cells`, as [`push_cells`] does |

mod recorder;

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Response, StatusCode};
use outpour_engine::Engine;
use outpour_store::machine::Machine;
use outpour_store::residency::{Cell, ResidencyMap};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{MissedTickBehavior, interval};

use crate::App;
use crate::error::ApiError;
use crate::stream::{EVENTS, Gone, Out, written_by};
use crate::worker::Health;

pub(crate) use recorder::Recorder;
use recorder::{Step, Steps, Totals};

/// Watchers at most: each of them costs some of the time that the engine computes with.
const WATCHERS_MAX: usize = 8;
/// Events are made this often, where there is news: at most, and unless a watcher asks for fewer.
const EVERY_MS: u64 = 100;
const EVERY_MS_MAX: u64 = 10_000;
/// And this often where there is none.
const QUIET: Duration = Duration::from_secs(1);
/// Uses and reads of an expert between two events, as far as they are told apart.
const COUNT_MAX: u32 = 63;
/// How long the drive is measured for its limit, before the first request.
const PROBE_TIME: Duration = Duration::from_millis(150);

/// What watchers see.
pub(crate) struct Live {
    loaded: Mutex<Option<Arc<Loaded>>>,
    /// Bytes read and in all while a model is loaded.
    loading: [AtomicU64; 2],
    watchers: Arc<Semaphore>,
}

impl Default for Live {
    fn default() -> Live {
        Live { loaded: Mutex::default(), loading: Default::default(), watchers: Arc::new(Semaphore::new(WATCHERS_MAX)) }
    }
}

/// A model in memory.
struct Loaded {
    /// What does not change, as `model` tells it.
    about: Value,
    map: Arc<ResidencyMap>,
    totals: Totals,
    /// Held for as long as it takes to copy a few numbers.
    steps: Mutex<Steps>,
}

impl Live {
    /// So much of the model is read.
    pub(crate) fn loading(&self, read: u64, total: u64) {
        self.loading[0].store(read, Ordering::Relaxed);
        self.loading[1].store(total, Ordering::Relaxed);
    }

    /// A model is loaded: measures its drive, and shows from now on what the recorder is told.
    ///
    /// # Errors
    /// When the drive cannot be read.
    pub(crate) fn record(&self, engine: &mut Engine) -> Result<Recorder, String> {
        let limit = engine.probe_drive_first(PROBE_TIME).map_err(|error| error.to_string())?;
        let limit = limit.map(|speed| speed.bytes_per_second());
        let map = engine.residency_map();
        let (plan, facts) = (engine.plan(), engine.facts());
        let buffers: Vec<Value> =
            plan.buffers.iter().map(|line| json!({"name": line.name, "bytes": line.bytes})).collect();
        let about = json!({
            "family": facts.family, "layers": map.layers(), "top_k": facts.top_k, "vocab": facts.vocab,
            "expert_bytes": engine.expert_bytes(), "expert_slots": plan.expert_slots,
            "ctx": plan.ctx, "ram": plan.ram, "buffers": buffers, "threads": engine.threads(), "describe": engine.describe(),
        });
        let loaded = Arc::new(Loaded { about, map, totals: Totals::new(limit), steps: Mutex::default() });
        self.set(Some(loaded.clone()));
        Ok(Recorder::new(loaded, facts.layers, limit))
    }

    /// The model's memory was given back.
    pub(crate) fn released(&self) {
        self.set(None);
    }

    fn set(&self, loaded: Option<Arc<Loaded>>) {
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = loaded;
    }

    /// Bytes of memory that the model which is loaded may take.
    pub(crate) fn ram(&self) -> Option<u64> {
        self.loaded().and_then(|loaded| loaded.about["ram"].as_u64())
    }

    fn loaded(&self) -> Option<Arc<Loaded>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A response that goes on until its client is gone or the server ends. `query` may ask for fewer events: `every_ms=250`.
pub(crate) fn watch(app: Arc<App>, query: Option<&str>) -> Result<Response<Body>, ApiError> {
    let asked = query.unwrap_or_default().split('&').find_map(|part| part.strip_prefix("every_ms="));
    let every = match asked.map(|every| every.parse().ok().filter(|ms| (EVERY_MS..=EVERY_MS_MAX).contains(ms))) {
        Some(None) => {
            let problem = format!("every_ms is no whole number from {EVERY_MS} to {EVERY_MS_MAX}");
            return Err(ApiError::new(StatusCode::BAD_REQUEST, problem));
        }
        Some(Some(every)) => every,
        None => EVERY_MS,
    };
    let place = app.door.shared.live.watchers.clone().try_acquire_owned().map_err(|_| {
        let problem = format!("{WATCHERS_MAX} watch already: close another page");
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, problem)
    })?;
    Ok(written_by(EVENTS, |out| Watcher::new(app, place).write(Duration::from_millis(every), out)))
}

/// One who watches.
struct Watcher {
    app: Arc<App>,
    /// What `cells`, `steps` and totals refer to.
    loaded: Option<Arc<Loaded>>,
    /// The map as it was told last.
    told: Vec<Cell>,
    /// Steps that were told.
    steps: u64,
    memory_bytes: u64,
    memory_at: Option<Instant>,
    began: Instant,
    _place: OwnedSemaphorePermit,
}

impl Watcher {
    fn new(app: Arc<App>, place: OwnedSemaphorePermit) -> Watcher {
        Watcher {
            app,
            loaded: None,
            told: Vec::new(),
            steps: 0,
            memory_bytes: 0,
            memory_at: None,
            began: Instant::now(),
            _place: place,
        }
    }

    async fn write(mut self, every: Duration, out: Out) -> Result<(), Gone> {
        let mut clock = interval(every);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut state, mut news, mut sent) = (String::new(), String::new(), None::<Instant>);
        loop {
            tokio::select! {
                _ = clock.tick() => {},
                () = out.closed() => return Ok(()),
            }
            if self.app.door.is_ending() {
                return Ok(());
            }
            if let Some(about) = self.follow() {
                out.event("model", &about).await?;
            }
            let before = std::mem::take(&mut state);
            self.push_state(&mut state);
            news.clear();
            let changed = self.push_news(&mut news) || state != before;
            if changed || sent.is_none_or(|sent| sent.elapsed() >= QUIET) {
                sent = Some(Instant::now());
                let time = self.began.elapsed().as_secs_f64();
                out.text(format!("event: now\ndata: {{\"time_s\":{time:.3},{state}{news}}}\n\n")).await?;
            }
        }
    }

    /// Turns to another model where there is one; returns what to say of it.
    fn follow(&mut self) -> Option<Value> {
        let shared = &self.app.door.shared;
        let loaded = shared.live.loaded();
        let same = match (&loaded, &self.loaded) {
            (Some(new), Some(old)) => Arc::ptr_eq(new, old),
            (None, None) => true,
            _ => false,
        };
        if same {
            return None;
        }
        let about = loaded.as_ref().map(|loaded| {
            let mut about = loaded.about.clone();
            about["name"] = self.app.model.name.clone().into();
            about
        });
        let experts = loaded.as_ref().map_or(0, |loaded| loaded.map.cells().len());
        self.told = vec![Cell::default(); experts];
        self.steps = 0;
        self.loaded = loaded;
        about
    }

    /// Adds how it is, and the totals.
    fn push_state(&mut self, out: &mut String) {
        self.measure_memory();
        let shared = &self.app.door.shared;
        let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let (state, read, total) = match shared.health() {
            Health::Ready => ("ready", 0, 0),
            Health::Released => ("released", 0, 0),
            Health::Failed(_) => ("failed", 0, 0),
            Health::Loading => ("loading", load(&shared.live.loading[0]), load(&shared.live.loading[1])),
        };
        // A String takes everything.
        let _ = write!(
            out,
            "\"state\":\"{state}\",\"loaded_bytes\":{read},\"loading_bytes\":{total},\"running\":{},\"waiting\":{},\
             \"generated\":{},\"memory_bytes\":{}",
            shared.metrics.running.load(Ordering::Relaxed),
            self.app.door.queued(),
            load(&shared.metrics.generated),
            self.memory_bytes
        );
        if let Some(loaded) = &self.loaded {
            loaded.totals.push(out);
        }
    }

    /// Adds the steps and cells that are not told yet. Returns whether there are any.
    fn push_news(&mut self, out: &mut String) -> bool {
        let Some(loaded) = &self.loaded else { return false };
        let steps = loaded.push_steps(&mut self.steps, out);
        push_cells(loaded.map.cells(), &mut self.told, out) || steps
    }

    /// Asks the system what this process holds, once a second.
    fn measure_memory(&mut self) {
        if self.memory_at.is_none_or(|at| at.elapsed() >= QUIET) {
            self.memory_at = Some(Instant::now());
            let resident = Machine::here().resident();
            self.memory_bytes = resident.map_or(0, |resident| resident.anonymous_bytes + resident.shared_bytes);
        }
    }
}

impl Loaded {
    /// Adds the steps that are not told yet; `told` counts them. Returns whether there are any.
    fn push_steps(&self, told: &mut u64, out: &mut String) -> bool {
        let new: Vec<Step> = {
            let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
            let new = steps.since(*told).copied().collect();
            *told = steps.ended;
            new
        };
        out.push_str(",\"steps\":[");
        for (i, step) in new.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            step.push(out);
        }
        out.push(']');
        !new.is_empty()
    }
}

/// Adds the cells that have changed since they were `told`, as pairs of numbers: how many experts further on, counted from
/// the one before (the first from -1); and where it is ([`outpour_store::residency::Seen`]), plus 4 for every time it was
/// asked for since, plus 256 for every time it was read; each up to 63 times. Returns whether there are any.
fn push_cells(now: impl Iterator<Item = Cell>, told: &mut [Cell], out: &mut String) -> bool {
    out.push_str(",\"cells\":[");
    let begin = out.len();
    let mut last = -1;
    for (i, (cell, told)) in now.zip(told).enumerate() {
        if cell == *told {
            continue;
        }
        let counts = cell.uses_since(*told).min(COUNT_MAX) + (COUNT_MAX + 1) * cell.reads_since(*told).min(COUNT_MAX);
        let comma = if out.len() > begin { "," } else { "" };
        let _ = write!(out, "{comma}{},{}", i as i64 - last, cell.place() as u32 + 4 * counts);
        last = i as i64;
        *told = cell;
    }
    let any = out.len() > begin;
    out.push(']');
    any
}
