//! Room for activations: one buffer, allocated once, handed out like a stack.

use outpour_kernels::{Buffer, DType, Shape, Tensor};

/// Alignment of every tensor handed out: one cache line, one AVX-512 register.
const ALIGN: usize = 64;

/// A stack of tensors in one buffer.
pub struct Workspace {
    buffer: Buffer,
    used: usize,
}

/// A height of the stack to come back to.
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

impl Workspace {
    /// A workspace in `buffer`.
    pub fn new(buffer: Buffer) -> Self {
        Workspace { buffer, used: 0 }
    }

    /// Bytes that [`Self::f32`] takes for so many elements.
    pub const fn f32_bytes(elements: usize) -> usize {
        (4 * elements).next_multiple_of(ALIGN)
    }

    /// An uninitialised f32 tensor.
    pub fn f32(&mut self, shape: impl Into<Shape>) -> Tensor {
        self.take(shape.into(), DType::F32)
    }

    /// An uninitialised I32 tensor; takes as much as [`Self::f32`].
    pub fn i32(&mut self, shape: impl Into<Shape>) -> Tensor {
        self.take(shape.into(), DType::I32)
    }

    /// # Panics
    /// When the model's `workspace_bytes` promised too little: an error in the model's file, not in the user's.
    fn take(&mut self, shape: Shape, dtype: DType) -> Tensor {
        let tensor = Tensor::new(self.buffer.clone(), self.used, shape, dtype);
        self.used += tensor.bytes().next_multiple_of(ALIGN);
        tensor
    }

    /// The present height.
    pub fn mark(&self) -> Mark {
        Mark(self.used)
    }

    /// Gives back everything taken since `mark`.
    pub fn release(&mut self, mark: Mark) {
        self.used = mark.0;
    }

    /// Gives everything back.
    pub fn clear(&mut self) {
        self.used = 0;
    }
}
