//! The reader for Linux: one io_uring, a bounded number of parts in the kernel.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode, types};
use rustix::io::Errno;

use super::parts::{Flights, PART_BYTES_MAX, Part, drop_behind};
use super::{Completion, Read, Reader, ReaderCounts, Region, WAIT_MAX};

/// Parts in the kernel at one time, at most. A power of two.
const DEPTH: usize = 32;

/// Regions that can be registered: 256 GiB of memory in regions of 256 MiB.
const REGIONS_MAX: u32 = 1024;

/// How long the kernel may refuse to take parts on for want of memory, with nothing of ours left to complete.
const REFUSALS_MAX: u32 = 1000;
const REFUSAL_PAUSE: Duration = Duration::from_millis(1);

/// The most that reads of buffered files hold in the page cache at one time.
pub const WINDOW_BYTES_MAX: usize = DEPTH * PART_BYTES_MAX;

/// One io_uring.
pub struct Uring {
    ring: IoUring,
    flights: Flights,
    /// What is in the kernel, or on its way there, under this index as user data.
    parts: [Option<InKernel>; DEPTH],
    free: Vec<usize>,
    /// Index: the kernel's number of the buffer. Empty where the kernel has no table of buffers for us.
    registered: Vec<Option<Arc<Region>>>,
    refusals: u32,
}

/// A part that the kernel works on.
#[derive(Clone, Copy)]
struct InKernel {
    part: Part,
    /// The registered buffer that it uses.
    buffer: Option<u16>,
}

/// The system's `iovec`.
#[repr(C)]
struct Iovec {
    base: *mut u8,
    bytes: usize,
}

impl Uring {
    /// Makes a ring.
    ///
    /// # Errors
    /// What the kernel answers where it allows no io_uring: EPERM or ENOSYS in most containers, ENOMEM where the
    /// memlock limit is too small on kernels before 5.12. `Unsupported` on kernels before 5.6.
    pub fn new() -> io::Result<Uring> {
        let ring = IoUring::new(DEPTH as u32)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Read::CODE) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's io_uring cannot read files"));
        }
        let has_table = ring.submitter().register_buffers_sparse(REGIONS_MAX).is_ok();
        Ok(Uring {
            ring,
            flights: Flights::new(),
            parts: [None; DEPTH],
            free: (0..DEPTH).rev().collect(),
            registered: if has_table { vec![None; REGIONS_MAX as usize] } else { Vec::new() },
            refusals: 0,
        })
    }

    /// The kernel's number of this region's buffer.
    fn buffer_of(&self, region: &Arc<Region>) -> Option<u16> {
        let same = |known: &Option<Arc<Region>>| known.as_ref().is_some_and(|known| Arc::ptr_eq(known, region));
        self.registered.iter().position(same).map(|index| index as u16)
    }

    /// Changes one entry of the kernel's table of buffers.
    fn update_buffer(&self, buffer: u16, base: *mut u8, bytes: usize) -> io::Result<()> {
        let iovec = Iovec { base, bytes };
        // SAFETY: `Iovec` has the layout of the system's iovec. The region stays in `registered`, and so alive, for as
        // long as the kernel's table names its memory.
        unsafe {
            let iovecs = std::slice::from_raw_parts((&raw const iovec).cast(), 1);
            self.ring.submitter().register_buffers_update(u32::from(buffer), iovecs, None)
        }
    }

    /// Puts a part into the submission queue, under number `index`.
    fn push(&mut self, index: usize, part: Part) {
        let read = self.flights.read(part);
        let buffer = self.buffer_of(&read.region);
        let fd = types::Fd(read.file.fd().as_raw_fd());
        let (bytes, offset) = ((part.to - part.from) as u32, read.offset + part.from as u64);
        // SAFETY: the read was checked to lie inside its region.
        let target = unsafe { read.region.address().as_ptr().add(read.at + part.from) };
        let entry = match buffer {
            Some(buffer) => opcode::ReadFixed::new(fd, target, bytes, buffer).offset(offset).build(),
            None => opcode::Read::new(fd, target, bytes).offset(offset).build(),
        };
        self.parts[index] = Some(InKernel { part, buffer });
        // SAFETY: file and memory are held by the flight until the part's completion is seen, also by `drop`.
        let pushed = unsafe { self.ring.submission().push(&entry.user_data(index as u64)) };
        assert!(pushed.is_ok(), "the queue has a place for every part");
    }

    /// Hands parts to the kernel until it has enough.
    fn fill(&mut self) {
        while let Some(&index) = self.free.last() {
            let Some(part) = self.flights.next_part() else { return };
            self.free.pop();
            self.push(index, part);
        }
    }

    /// Takes in what the kernel has completed.
    fn reap(&mut self) {
        loop {
            let Some(entry) = self.ring.completion().next() else { return };
            let index = entry.user_data() as usize;
            let InKernel { part, .. } = self.parts[index].take().expect("a completion belongs to a part");
            let result = usize::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()));
            drop_behind(self.flights.read(part), part);
            match self.flights.part_over(part, result) {
                Some(rest) => self.push(index, rest),
                None => self.free.push(index),
            }
        }
    }

    /// Enters the kernel: submits what is queued, and waits for a completion if so asked. `true` where none came in
    /// [`WAIT_MAX`].
    fn enter(&mut self, wait: bool) -> io::Result<bool> {
        let queued = !self.ring.submission().is_empty();
        let wait = wait && self.parts_in_kernel() > 0 && self.ring.completion().is_empty();
        if !queued && !wait {
            return Ok(false);
        }
        let limit = types::Timespec::from(WAIT_MAX);
        let entered = match wait && self.ring.params().is_feature_ext_arg() {
            true => self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&limit)),
            // Kernels before 5.11 wait for as long as it takes.
            false => self.ring.submit_and_wait(usize::from(wait)),
        };
        match entered {
            Ok(_) => self.refusals = 0,
            Err(error) if Errno::from_io_error(&error) == Some(Errno::TIME) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_busy(&error) && self.refusals < REFUSALS_MAX => {
                self.refusals += 1;
                if wait {
                    std::thread::sleep(REFUSAL_PAUSE);
                }
            }
            Err(error) => return Err(error),
        }
        Ok(false)
    }

    fn parts_in_kernel(&self) -> usize {
        DEPTH - self.free.len()
    }

    /// Waits until none of the parts in the kernel is one that `concerns`.
    fn drain(&mut self, concerns: impl Fn(&InKernel) -> bool) -> io::Result<()> {
        while self.parts.iter().flatten().any(&concerns) {
            self.enter(true)?;
            self.reap();
        }
        Ok(())
    }
}

/// EAGAIN or EBUSY: the kernel wants memory, or its completions taken in first.
fn is_busy(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy)
}

impl Reader for Uring {
    fn describe(&self) -> String {
        let buffers = if self.registered.iter().any(Option::is_some) { "registered" } else { "plain" };
        format!("uring, depth {DEPTH}{}, {buffers} buffers", self.flights.mode())
    }

    fn register(&mut self, region: &Arc<Region>) {
        let Some(buffer) = self.registered.iter().position(Option::is_none) else { return };
        if self.buffer_of(region).is_some() {
            return;
        }
        // Refused without the right or the memlock limit: reads are plain then.
        if self.update_buffer(buffer as u16, region.address().as_ptr(), region.bytes()).is_ok() {
            self.registered[buffer] = Some(Arc::clone(region));
        }
    }

    fn unregister(&mut self, region: &Arc<Region>) {
        let Some(buffer) = self.buffer_of(region) else { return };
        let drained = self.drain(|part| part.buffer == Some(buffer));
        // The region stays held, and so mapped, where the kernel could not be made to let go of it.
        if drained.is_ok() && self.update_buffer(buffer, std::ptr::null_mut(), 0).is_ok() {
            self.registered[usize::from(buffer)] = None;
        }
    }

    fn submit(&mut self, reads: &[Read]) -> io::Result<()> {
        self.flights.admit(reads)?;
        self.fill();
        // The reads are taken on: a refusal shows when they are collected.
        let _ = self.enter(false);
        Ok(())
    }

    fn collect(&mut self, wait: bool, done: &mut Vec<Completion>) -> io::Result<()> {
        loop {
            self.reap();
            self.fill();
            let block = wait && !self.flights.any_done() && self.flights.len() > 0;
            let entered = self.enter(block);
            if !block {
                while let Some(completion) = self.flights.take_done() {
                    done.push(completion);
                }
                return entered.map(|_| ());
            }
            if entered? {
                return Ok(());
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.flights.len()
    }

    fn counts(&self) -> ReaderCounts {
        self.flights.counts()
    }
}

impl Drop for Uring {
    /// Waits for everything in flight: the kernel would write into freed memory otherwise.
    fn drop(&mut self) {
        self.flights.abandon_waiting();
        if self.drain(|_| true).is_err() {
            // Memory that the kernel may still write to is never freed.
            std::mem::forget(std::mem::replace(&mut self.flights, Flights::new()));
            std::mem::forget(std::mem::take(&mut self.registered));
            return;
        }
        if !self.registered.is_empty() {
            // Closing the ring would do it too, at some later time.
            let _ = self.ring.submitter().unregister_buffers();
        }
    }
}
