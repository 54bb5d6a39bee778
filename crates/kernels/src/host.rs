//! Host memory for the backends that compute there, and how a handle becomes a slice.
//!
//! The backend runs its operations one after the other, and its callers keep inputs and outputs apart (see
//! [`crate::Ops`]); a drive writes only to slots that no operation has been given. On that contract rest the slices
//! that the helpers below lend. A helper's slice is never kept beyond the operation that asked for it.

use std::any::Any;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::OpsError;
use crate::tensor::{DType, Memory, Tensor};

const PAGE: usize = 4096;
const HUGE_PAGE: usize = 2 << 20;

/// Bytes of all [`HostMemory`] there is.
static ALLOCATED_BYTES: AtomicUsize = AtomicUsize::new(0);

/// Bytes of buffers that backends of this process hold in host memory.
pub fn allocated_bytes() -> usize {
    ALLOCATED_BYTES.load(Ordering::Relaxed)
}

/// Anonymous memory of this process: zeroed, page-aligned, counted by the system page by page as it is first touched.
/// From 2 MiB on it begins at a huge-page border and asks for huge pages, which lie within it entirely or not at all.
pub struct HostMemory {
    start: NonNull<u8>,
    bytes: usize,
    mapped: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread, and HostMemory has no other state.
unsafe impl Send for HostMemory {}
// SAFETY: as above; what may be read and written when is the contract of `Ops`.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// Maps `bytes` bytes, and touches none.
    pub fn new(bytes: usize) -> Result<Self, OpsError> {
        let page = rustix::param::page_size().max(PAGE);
        let align = if bytes >= HUGE_PAGE { HUGE_PAGE.max(page) } else { page };
        let why_not = |why: String| OpsError::OutOfMemory { bytes, why };
        let mapped = bytes.max(1).checked_next_multiple_of(page);
        let asked = mapped.and_then(|mapped| mapped.checked_add(align - page));
        let (Some(mapped), Some(asked)) = (mapped, asked) else {
            return Err(why_not("larger than the address space".into()));
        };
        // SAFETY: a new mapping at an address of the system's choice touches nothing that exists.
        let whole =
            unsafe { mmap_anonymous(ptr::null_mut(), asked, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) };
        let whole = whole.map_err(|errno| why_not(errno.to_string()))?.cast::<u8>();
        let before = whole.addr().next_multiple_of(align) - whole.addr();
        let start = whole.wrapping_add(before);
        unmap(whole, before);
        unmap(start.wrapping_add(mapped), asked - mapped - before);
        let memory = HostMemory { start: NonNull::new(start).expect("mmap returns no null"), bytes, mapped };
        ALLOCATED_BYTES.fetch_add(bytes, Ordering::Relaxed);
        memory.ask_for_huge_pages();
        Ok(memory)
    }

    #[cfg(target_os = "linux")]
    fn ask_for_huge_pages(&self) {
        if self.mapped >= HUGE_PAGE {
            // SAFETY: the range is this mapping. The advice is a wish: without huge pages it is only slower.
            let _ = unsafe {
                rustix::mm::madvise(self.start.as_ptr().cast(), self.mapped, rustix::mm::Advice::LinuxHugepage)
            };
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn ask_for_huge_pages(&self) {}
}

/// Gives back a part of a mapping. The system refuses only what was never mapped.
fn unmap(start: *mut u8, bytes: usize) {
    if bytes > 0 {
        // SAFETY: the callers pass page-aligned parts of their own mapping that no handle refers to.
        let result = unsafe { munmap(start.cast(), bytes) };
        debug_assert!(result.is_ok(), "munmap of {bytes} bytes: {result:?}");
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        ALLOCATED_BYTES.fetch_sub(self.bytes, Ordering::Relaxed);
        unmap(self.start.as_ptr(), self.mapped);
    }
}

impl Memory for HostMemory {
    fn bytes(&self) -> usize {
        self.bytes
    }
    fn host(&self) -> Option<NonNull<u8>> {
        Some(self.start)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Where a tensor begins.
///
/// # Panics
/// If the host cannot reach it.
pub(crate) fn address(tensor: &Tensor) -> *mut u8 {
    let Some(start) = tensor.buffer().host() else {
        panic!("{tensor:?} has no host address, but was given to a backend that computes on the host");
    };
    // A tensor lies inside its buffer: `Tensor::new` asserts it.
    start.as_ptr().wrapping_add(tensor.offset())
}

fn typed<T>(tensor: &Tensor, dtype: DType) -> *mut T {
    assert_eq!(tensor.dtype(), dtype, "{tensor:?} should be {dtype}");
    let start = address(tensor).cast::<T>();
    assert!(start.is_aligned(), "{tensor:?} is not aligned to its elements");
    start
}

/// Where an f32 tensor begins; its elements are aligned.
pub(crate) fn f32_address(tensor: &Tensor) -> *mut f32 {
    typed(tensor, DType::F32)
}

/// The bytes of a tensor.
pub(crate) fn bytes(tensor: &Tensor) -> &[u8] {
    // SAFETY: the range lies in a buffer that the handle keeps alive; nobody writes it during the operation.
    unsafe { std::slice::from_raw_parts(address(tensor), tensor.bytes()) }
}

/// The bytes of an output.
#[allow(clippy::mut_from_ref)]
pub(crate) fn bytes_mut(tensor: &Tensor) -> &mut [u8] {
    // SAFETY: as for `bytes`; the operation is the only one to have this output, and lends it once.
    unsafe { std::slice::from_raw_parts_mut(address(tensor), tensor.bytes()) }
}

/// The elements of an f32 tensor.
pub(crate) fn f32s(tensor: &Tensor) -> &[f32] {
    // SAFETY: aligned (`typed`), inside a living buffer; nobody writes it during the operation.
    unsafe { std::slice::from_raw_parts(f32_address(tensor), tensor.elements()) }
}

/// The elements of an f32 output.
#[allow(clippy::mut_from_ref)]
pub(crate) fn f32s_mut(tensor: &Tensor) -> &mut [f32] {
    // SAFETY: as for `f32s`; the operation is the only one to have this output, and lends it once.
    unsafe { std::slice::from_raw_parts_mut(f32_address(tensor), tensor.elements()) }
}

/// The elements of an I32 tensor.
pub(crate) fn i32s(tensor: &Tensor) -> &[i32] {
    // SAFETY: as for `f32s`.
    unsafe { std::slice::from_raw_parts(typed(tensor, DType::I32), tensor.elements()) }
}

/// The elements of an I32 output.
#[allow(clippy::mut_from_ref)]
pub(crate) fn i32s_mut(tensor: &Tensor) -> &mut [i32] {
    // SAFETY: as for `f32s_mut`.
    unsafe { std::slice::from_raw_parts_mut(typed(tensor, DType::I32), tensor.elements()) }
}

/// A tensor seen as rows of its last dimension: how many, and how wide.
pub(crate) fn rows_of(tensor: &Tensor) -> (usize, usize) {
    let (width, outer) = tensor.dims().split_last().expect("a tensor of rows has a last dimension");
    (outer.iter().product(), *width)
}

/// A pointer that the workers of one operation share, each for elements that are its own.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(*mut T);

// SAFETY: only an address; every use of it is an unsafe call that promises disjoint elements.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Shares `start`.
    pub(crate) fn new(start: *mut T) -> Self {
        Shared(start)
    }

    /// The address of element `at`.
    pub(crate) fn at(self, at: usize) -> *mut T {
        self.0.wrapping_add(at)
    }

    /// The same from row `row` of so many elements on.
    pub(crate) fn rows(self, row: usize, width: usize) -> Self {
        Shared(self.at(row * width))
    }

    /// Elements `at..at + len`, to read.
    ///
    /// # Safety
    /// They are inside one living allocation, and nobody writes them while the slice lives.
    pub(crate) unsafe fn slice<'a>(self, at: usize, len: usize) -> &'a [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.at(at), len) }
    }

    /// Elements `at..at + len`, to write.
    ///
    /// # Safety
    /// They are inside one living allocation, and no one else reads or writes them while the slice lives.
    pub(crate) unsafe fn slice_mut<'a>(self, at: usize, len: usize) -> &'a mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.at(at), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zeroed_aligned_and_no_larger_than_asked() {
        let page = rustix::param::page_size().max(PAGE);
        for bytes in [0, 1, 4096, 5000, HUGE_PAGE - 1, HUGE_PAGE, 3 * HUGE_PAGE + 5] {
            let memory = HostMemory::new(bytes).unwrap();
            assert_eq!(memory.bytes(), bytes);
            assert_eq!(memory.mapped, bytes.max(1).next_multiple_of(page));
            let align = if bytes >= HUGE_PAGE { HUGE_PAGE } else { page };
            assert_eq!(memory.host().unwrap().addr().get() % align, 0);
            // SAFETY: the memory's own bytes.
            let slice = unsafe { std::slice::from_raw_parts_mut(memory.start.as_ptr(), bytes) };
            assert!(slice.iter().all(|&byte| byte == 0));
            slice.fill(1);
        }
    }

    #[test]
    fn what_cannot_be_had_is_an_error() {
        for bytes in [usize::MAX, usize::MAX - HUGE_PAGE, 1 << 60] {
            assert!(matches!(HostMemory::new(bytes), Err(OpsError::OutOfMemory { bytes: b, .. }) if b == bytes));
        }
    }

    /// Resident bytes of this process.
    #[cfg(target_os = "linux")]
    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
        pages * rustix::param::page_size()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_counts_when_it_is_used() {
        const BYTES: usize = 256 << 20;
        let before = resident();
        let memory = HostMemory::new(BYTES).unwrap();
        assert!(resident() < before + BYTES / 4, "allocating touches nothing");
        // SAFETY: the memory's own bytes.
        unsafe { memory.start.as_ptr().write_bytes(1, BYTES) };
        assert!(resident() > before + BYTES / 2);
        drop(memory);
        assert!(resident() < before + BYTES / 4, "dropping gives it back");
    }
}
