//! Work on many pieces by a few threads: while one waits for the drive, others compute.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::Result;

/// Threads that work.
const THREADS: usize = 4;
/// How often the caller is asked whether to go on.
const TICK: Duration = Duration::from_millis(50);

/// Does `work` for every number below `count`, about in order, each thread with a memory of its own from `memory`. Between,
/// `tick` may break off: then what was begun is finished, and the rest left.
///
/// # Errors
/// The first that `work` met.
pub(crate) fn each<M>(
    count: usize,
    memory: impl Fn() -> M + Sync,
    work: impl Fn(usize, &mut M) -> Result<()> + Sync,
    tick: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let run = || {
        let mut memory = memory();
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                break;
            }
            let worked = work(number, &mut memory);
            if worked.is_err() {
                stop.store(true, Ordering::Relaxed);
                return worked;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let (sender, results) = mpsc::channel();
        let run = &run;
        let threads: Vec<_> = (0..THREADS.min(count))
            .map(|_| {
                let sender = sender.clone();
                scope.spawn(move || drop(sender.send(run())))
            })
            .collect();
        drop(sender);
        let (mut flow, mut result) = (ControlFlow::Continue(()), Ok(()));
        loop {
            match results.recv_timeout(TICK) {
                Ok(worked) => result = result.and(worked),
                Err(RecvTimeoutError::Timeout) if flow.is_continue() => flow = tick(),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if flow.is_break() {
                stop.store(true, Ordering::Relaxed);
            }
        }
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        result.map(|()| flow)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::StoreError;

    #[test]
    fn every_number_once_and_the_first_error_ends_it() {
        let sum = AtomicU64::new(0);
        let add = |number: usize, (): &mut ()| {
            sum.fetch_add(number as u64, Ordering::Relaxed);
            Ok(())
        };
        let go_on = &mut || ControlFlow::Continue(());
        assert_eq!(each(1000, || (), add, go_on).expect("no error"), ControlFlow::Continue(()));
        assert_eq!(sum.load(Ordering::Relaxed), 999 * 500);
        assert_eq!(each(0, || (), add, go_on).expect("no error"), ControlFlow::Continue(()));
        let fail = |number: usize, (): &mut ()| match number {
            500 => Err(StoreError::Other("five hundred".to_owned())),
            _ => Ok(()),
        };
        let error = each(1000, || (), fail, go_on).expect_err("one failed");
        assert_eq!(error.to_string(), "five hundred");
        let slow = |_: usize, (): &mut ()| {
            std::thread::sleep(TICK / 5);
            sum.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        sum.store(0, Ordering::Relaxed);
        let flow = each(1000, || (), slow, &mut || ControlFlow::Break(())).expect("no error");
        assert!(flow.is_break() && sum.load(Ordering::Relaxed) < 200);
    }
}
