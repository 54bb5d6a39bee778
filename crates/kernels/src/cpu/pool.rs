//! Threads that share the tasks of one operation: they wait for the next one spinning for some microseconds, then
//! asleep.
//!
//! Operations of a forward pass last 2 to 50 µs and follow each other closely, so waking a sleeping thread for each
//! (5 µs and more) would cost as much as the work; while a drive is read, a spinning thread would only take its
//! core from others. A caller, too, sleeps where a worker's last task takes longer. It never waits for a thread that has not begun: tasks are taken one at a time from a
//! counter, and when none is left the region closes, so on a busy machine a late thread costs nothing.

use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle, Thread};

/// How often a thread looks for work before it sleeps: about 0.1 ms at 20 to 40 ns a look.
const SPINS_MAX: u32 = 4_000;

/// A region's tasks: called with the task's index and the worker's.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// Threads that run tasks together with the caller.
pub(crate) struct Pool {
    shared: Arc<State>,
    workers: Vec<Worker>,
    /// Held by the caller whose region runs.
    caller: Mutex<()>,
}

struct Worker {
    sleeping: Arc<AtomicBool>,
    handle: Option<JoinHandle<()>>,
}

/// What the caller and the workers share. `gate` is the region's number, whether it is open, and how many workers
/// are inside; `job` may be read by a worker only while it is inside.
struct State {
    gate: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    /// Whether a caller sleeps until the last worker is out, and which.
    waits: AtomicBool,
    waiting: Mutex<Option<Thread>>,
}

#[derive(Clone, Copy)]
struct Job {
    task: *const Task<'static>,
    tasks: usize,
}

// SAFETY: `job` is written only by the caller, while no worker is inside and the gate is closed, and read only by
// workers that are inside; the gate orders the two. Its pointer is to a `Sync` closure.
unsafe impl Send for State {}
// SAFETY: as above.
unsafe impl Sync for State {}

const OPEN: u64 = 1 << 16;
const INSIDE: u64 = OPEN - 1;
const REGION: u64 = OPEN << 1;

impl Pool {
    /// A pool of `threads` threads, the caller's included.
    ///
    /// # Panics
    /// On more than 4096 threads.
    pub(crate) fn new(threads: usize) -> std::io::Result<Pool> {
        assert!((1..=4096).contains(&threads), "a pool has 1 to 4096 threads, not {threads}");
        let shared = Arc::new(State {
            gate: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            waiting: Mutex::new(None),
        });
        let mut pool = Pool { shared, workers: Vec::new(), caller: Mutex::new(()) };
        for index in 1..threads {
            let (state, sleeping) = (pool.shared.clone(), Arc::new(AtomicBool::new(false)));
            let flag = sleeping.clone();
            let thread = thread::Builder::new().name(format!("outpour-cpu-{index}"));
            let handle = thread.spawn(move || state.work(index, &flag))?;
            pool.workers.push(Worker { sleeping, handle: Some(handle) });
        }
        Ok(pool)
    }

    /// Threads, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(i, worker)` for every `i < tasks`, each once, on whichever worker is free, and returns when all are
    /// done. Worker 0 is the caller. Allocates nothing.
    ///
    /// # Panics
    /// With a task's own panic. A task may not run another region.
    pub(crate) fn run(&self, tasks: usize, task: &Task) {
        let region = lock(&self.caller);
        if self.workers.is_empty() || tasks <= 1 {
            (0..tasks).for_each(|i| task(i, 0));
            return;
        }
        let state = &*self.shared;
        // SAFETY: only the lifetime changes. No worker uses the pointer after `close` has returned.
        let erased = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        state.open(Job { task: erased, tasks });
        for worker in &self.workers {
            if worker.sleeping.load(Ordering::SeqCst)
                && let Some(handle) = &worker.handle
            {
                handle.thread().unpark();
            }
        }
        state.take_tasks(task, tasks, 0);
        state.close();
        let panic = lock(&state.panic).take();
        drop(region);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in &mut self.workers {
            if let Some(handle) = worker.handle.take() {
                handle.thread().unpark();
                // A worker catches its tasks' panics and has none of its own.
                let _ = handle.join();
            }
        }
    }
}

impl State {
    /// Publishes a job to the workers.
    fn open(&self, job: Job) {
        // SAFETY: the gate is closed with nobody inside, and only the one caller opens it.
        unsafe { *self.job.get() = Some(job) };
        self.next.store(0, Ordering::Relaxed);
        let gate = self.gate.load(Ordering::Relaxed);
        self.gate.store((gate & !INSIDE).wrapping_add(REGION) | OPEN, Ordering::SeqCst);
    }

    /// Lets no more workers in, and waits for those inside.
    fn close(&self) {
        self.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0;
        while self.gate.load(Ordering::SeqCst) & INSIDE != 0 {
            spins += 1;
            if spins < SPINS_MAX {
                spin_loop();
            } else if spins == SPINS_MAX {
                // Look once more after saying so: the last worker either sees whom to wake or is seen by that look.
                *lock(&self.waiting) = Some(thread::current());
                self.waits.store(true, Ordering::SeqCst);
            } else {
                thread::park();
            }
        }
        self.waits.store(false, Ordering::Relaxed);
    }

    /// Counts a worker out, and wakes the caller if it was the last. It may come to that when another region's workers are what
    /// the caller waits for: so it leaves word of who waits to them, and a caller that is woken looks again.
    fn leave(&self) {
        let inside = self.gate.fetch_sub(1, Ordering::SeqCst) & INSIDE;
        if inside == 1
            && self.waits.load(Ordering::SeqCst)
            && let Some(caller) = &*lock(&self.waiting)
        {
            caller.unpark();
        }
    }

    /// A worker's life.
    fn work(&self, index: usize, sleeping: &AtomicBool) {
        let mut done = 0;
        while let Some(region) = self.next_region(done, sleeping) {
            done = region;
            let Some(job) = self.enter(region) else { continue };
            // SAFETY: this worker is inside, so the caller of the region still holds the closure.
            let task = unsafe { &*job.task };
            self.take_tasks(task, job.tasks, index);
            self.leave();
        }
    }

    /// Waits for a region after `done` to open; `None` when the pool is dropped.
    fn next_region(&self, done: u64, sleeping: &AtomicBool) -> Option<u64> {
        let mut spins = 0;
        loop {
            let gate = self.gate.load(Ordering::SeqCst);
            if gate & OPEN != 0 && gate / REGION != done {
                sleeping.store(false, Ordering::Relaxed);
                return Some(gate / REGION);
            }
            if self.stop.load(Ordering::SeqCst) {
                return None;
            }
            spins += 1;
            if spins < SPINS_MAX {
                spin_loop();
            } else if spins == SPINS_MAX {
                // Look once more after saying so: a caller either sees the flag or is seen by that look.
                sleeping.store(true, Ordering::SeqCst);
            } else {
                thread::park();
            }
        }
    }

    /// Counts this worker in, if `region` is still open.
    fn enter(&self, region: u64) -> Option<Job> {
        let mut gate = self.gate.load(Ordering::Relaxed);
        while gate & OPEN != 0 && gate / REGION == region {
            match self.gate.compare_exchange_weak(gate, gate + 1, Ordering::AcqRel, Ordering::Relaxed) {
                // SAFETY: inside an open region, `job` is set and not written.
                Ok(_) => return unsafe { *self.job.get() },
                Err(now) => gate = now,
            }
        }
        None
    }

    /// Runs tasks until none is left. After a panic no further task begins.
    fn take_tasks(&self, task: &Task, tasks: usize, worker: usize) {
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let i = self.next.fetch_add(1, Ordering::Relaxed);
                if i >= tasks {
                    return;
                }
                task(i, worker);
            }
        }));
        if let Err(panic) = result {
            self.next.store(tasks, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(panic);
        }
    }
}

/// Locks, also after a panic: what these locks guard is whole at every moment.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads).unwrap();
            for tasks in [0, 1, 2, 3, 17, 1000] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..20 {
                    pool.run(tasks, &|i, worker| {
                        assert!(worker < threads);
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    });
                }
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 20));
            }
        }
    }

    #[test]
    fn sleeping_workers_wake() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..5 {
            thread::sleep(std::time::Duration::from_millis(20));
            let ran = [const { AtomicUsize::new(0) }; 3];
            // Three tasks that wait for each other: all three threads have to come.
            let here = AtomicUsize::new(0);
            pool.run(3, &|_, worker| {
                ran[worker].fetch_add(1, Ordering::Relaxed);
                here.fetch_add(1, Ordering::SeqCst);
                while here.load(Ordering::SeqCst) < 3 {
                    thread::yield_now();
                }
            });
            assert!(ran.iter().all(|ran| ran.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn a_caller_sleeps_until_the_last_worker_is_out() {
        let pool = Pool::new(2).unwrap();
        for _ in 0..20 {
            let (here, slow) = (AtomicUsize::new(0), AtomicUsize::new(0));
            pool.run(2, &|_, worker| {
                // Both threads come, and the caller has nothing left to do.
                here.fetch_add(1, Ordering::SeqCst);
                while here.load(Ordering::SeqCst) < 2 {
                    spin_loop();
                }
                if worker == 1 {
                    thread::sleep(std::time::Duration::from_millis(5));
                    slow.fetch_add(1, Ordering::SeqCst);
                }
            });
            assert_eq!(slow.into_inner(), 1);
        }
    }

    #[test]
    fn a_late_worker_leaves_word_of_who_waits() {
        let pool = Pool::new(1).unwrap();
        let state = &pool.shared;
        *lock(&state.waiting) = Some(thread::current());
        state.waits.store(true, Ordering::SeqCst);
        // The last worker of the region before, which comes to it only now, and then the one that is waited for.
        for _ in 0..2 {
            state.gate.fetch_add(1, Ordering::SeqCst);
            state.leave();
            assert!(lock(&state.waiting).is_some(), "nobody would be woken");
            thread::park();
        }
    }

    #[test]
    fn short_regions_in_quick_succession() {
        let pool = Pool::new(4).unwrap();
        let sum = AtomicUsize::new(0);
        for _ in 0..20_000 {
            pool.run(4, &|i, _| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
        }
        assert_eq!(sum.load(Ordering::Relaxed), 20_000 * 6);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        for threads in [1, 2, 3] {
            let pool = Pool::new(threads).unwrap();
            for bad in [0, 5, 99] {
                let result = catch_unwind(AssertUnwindSafe(|| {
                    pool.run(100, &|i, _| assert_ne!(i, bad, "task {i}"));
                }));
                let payload = result.expect_err("the panic is carried to the caller");
                assert!(payload.downcast_ref::<String>().is_some_and(|text| text.contains(&format!("task {bad}"))));
            }
            let ran = AtomicUsize::new(0);
            pool.run(100, &|_, _| {
                ran.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(ran.load(Ordering::Relaxed), 100);
        }
    }

    #[test]
    fn callers_on_two_threads_take_turns() {
        let pool = Pool::new(2).unwrap();
        let sum = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        pool.run(3, &|i, _| {
                            sum.fetch_add(i, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(sum.load(Ordering::Relaxed), 3000);
    }
}
