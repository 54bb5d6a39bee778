//! Handles to memory that a backend owns: [`Buffer`], and [`Tensor`], a shaped view into one.
//!
//! Model code passes handles and never sees numbers. Only a backend turns a handle into memory, by asking the
//! [`Memory`] for a host address or by downcasting it to its own type.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::quant::{Q8_BLOCK, Q8_BLOCK_BYTES};

/// Element type of a [`Tensor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: the upper half of an f32.
    Bf16,
    /// Signed 32-bit integers (router choices).
    I32,
    /// Raw bytes (packed weights, whole slots and blocks).
    U8,
    /// Eight bits with an exponent of four: scales only (see [`crate::Code::E4m3`]).
    F8E4m3,
    /// A power of two: scales only (OCP MX 1.0).
    F8E8m0,
    /// Keys and values only, and no tensor: blocks of 32, each a scale of binary16 and 32 signed bytes that it multiplies
    /// (see [`crate::quant::q8_pack`]).
    Q8,
}

impl DType {
    /// Bytes of one element.
    ///
    /// # Panics
    /// For Q8, which has them in blocks only: see [`DType::row_bytes`].
    pub const fn bytes(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::Bf16 => 2,
            DType::U8 | DType::F8E4m3 | DType::F8E8m0 => 1,
            DType::Q8 => panic!("Q8 has no size of one element"),
        }
    }

    /// Bytes of so many consecutive elements, of Q8 in whole blocks.
    pub const fn row_bytes(self, elements: usize) -> usize {
        match self {
            DType::Q8 => elements.div_ceil(Q8_BLOCK) * Q8_BLOCK_BYTES,
            _ => elements * self.bytes(),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::Bf16 => "BF16",
            DType::I32 => "I32",
            DType::U8 => "U8",
            DType::F8E4m3 => "F8_E4M3",
            DType::F8E8m0 => "F8_E8M0",
            DType::Q8 => "Q8",
        })
    }
}

/// Memory owned by a backend; freed when the last handle is dropped.
pub trait Memory: Send + Sync + 'static {
    /// Size in bytes.
    fn bytes(&self) -> usize;
    /// The address, where the host can reach this memory (CPU buffers, pinned and unified memory); valid while the
    /// handle lives. `None` for device memory and for [`Buffer::unbacked`].
    fn host(&self) -> Option<NonNull<u8>>;
    /// For the backend that made it.
    fn as_any(&self) -> &dyn Any;
}

/// A reference-counted handle to backend memory.
#[derive(Clone)]
pub struct Buffer(Arc<dyn Memory>);

impl Buffer {
    /// Wraps a backend's memory.
    pub fn new(memory: impl Memory) -> Self {
        Buffer(Arc::new(memory))
    }

    /// A buffer with a size and no memory: what a model is built on while it is only being measured.
    pub fn unbacked(bytes: usize) -> Self {
        Buffer::new(Unbacked(bytes))
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Host address, if there is one.
    pub fn host(&self) -> Option<NonNull<u8>> {
        self.0.host()
    }

    /// The backend's own view of its memory.
    pub fn memory(&self) -> &dyn Memory {
        &*self.0
    }
}

struct Unbacked(usize);

impl Memory for Unbacked {
    fn bytes(&self) -> usize {
        self.0
    }
    fn host(&self) -> Option<NonNull<u8>> {
        None
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Up to four dimensions, outermost first, stored inline.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    dims: [usize; 4],
    rank: usize,
}

impl Shape {
    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// Number of elements; 1 for rank 0.
    pub fn elements(&self) -> usize {
        self.dims().iter().product()
    }
}

impl From<&[usize]> for Shape {
    /// # Panics
    /// On more than four dimensions, which no tensor of any model has.
    fn from(dims: &[usize]) -> Self {
        assert!(dims.len() <= 4, "a tensor has at most four dimensions, not {}", dims.len());
        let mut shape = Shape { dims: [0; 4], rank: dims.len() };
        shape.dims[..dims.len()].copy_from_slice(dims);
        shape
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Shape::from(&dims[..])
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.dims().fmt(f)
    }
}

/// A contiguous, row-major view into a [`Buffer`]. It may start at any byte: weights are used where the file put them.
#[derive(Clone)]
pub struct Tensor {
    buffer: Buffer,
    offset: usize,
    shape: Shape,
    dtype: DType,
}

impl Tensor {
    /// A view of `shape` at `offset` bytes into `buffer`.
    ///
    /// # Panics
    /// When it does not lie inside the buffer: offsets come from our own layouts, which were checked against the file.
    pub fn new(buffer: Buffer, offset: usize, shape: impl Into<Shape>, dtype: DType) -> Self {
        let shape = shape.into();
        let end = shape.elements().checked_mul(dtype.bytes()).and_then(|bytes| bytes.checked_add(offset));
        assert!(
            end.is_some_and(|end| end <= buffer.bytes()),
            "{shape:?} {dtype} at byte {offset} does not fit a buffer of {} bytes",
            buffer.bytes()
        );
        Tensor { buffer, offset, shape, dtype }
    }

    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    /// The size of dimension `axis`.
    pub fn dim(&self, axis: usize) -> usize {
        self.shape.dims()[axis]
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.elements()
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.bytes()
    }

    /// The buffer it lies in.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// Its first byte within the buffer.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Entries `range` of the first dimension.
    pub fn rows(&self, range: Range<usize>) -> Tensor {
        assert!(range.start <= range.end && range.end <= self.dim(0), "rows {range:?} of {:?}", self.shape);
        let row_bytes: usize = self.dims()[1..].iter().product::<usize>() * self.dtype.bytes();
        let mut shape = self.shape;
        shape.dims[0] = range.len();
        Tensor { buffer: self.buffer.clone(), offset: self.offset + range.start * row_bytes, shape, dtype: self.dtype }
    }

    /// The same elements under another shape.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.elements(), self.elements(), "{:?} cannot be seen as {shape:?}", self.shape);
        Tensor { shape, ..self.clone() }
    }

    /// `bytes` bytes of it, from byte `at` on, as another type and shape.
    pub fn view(&self, at: usize, shape: impl Into<Shape>, dtype: DType) -> Tensor {
        let view = Tensor::new(self.buffer.clone(), self.offset + at, shape, dtype);
        assert!(at + view.bytes() <= self.bytes(), "a view may not leave its tensor");
        view
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}@{}", self.dtype, self.shape, self.offset)
    }
}
