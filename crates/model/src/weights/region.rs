//! Backend memory that reads land in.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use outpour_kernels::{Buffer, Ops};
use outpour_store::read::{Region, RegionMemory};
use outpour_store::{Result as StoreResult, StoreError};

/// Backend memory that a drive is read into.
pub struct BackendRegion {
    buffer: Buffer,
}

impl RegionMemory for BackendRegion {
    fn address(&self) -> NonNull<u8> {
        self.buffer.host().expect("invariant: checked when the region was made")
    }
    fn bytes(&self) -> usize {
        self.buffer.bytes()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl BackendRegion {
    /// The backend's handle.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }
}

/// Allocates memory that the drive can be read into.
///
/// # Errors
/// When the backend has none.
pub fn allocate_region(ops: &dyn Ops, bytes: usize) -> StoreResult<Arc<Region>> {
    let buffer = ops.alloc_host(bytes).map_err(|why| StoreError::Allocation { bytes, why: why.to_string() })?;
    backend_region(buffer)
}

pub(super) fn backend_region(buffer: Buffer) -> StoreResult<Arc<Region>> {
    if buffer.host().is_none() {
        return Err(StoreError::Allocation {
            bytes: buffer.bytes(),
            why: "the backend's memory cannot be read into".into(),
        });
    }
    Ok(Region::new(BackendRegion { buffer }))
}
