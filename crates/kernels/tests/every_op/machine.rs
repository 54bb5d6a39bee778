//! What the tests compute with: every backend of this machine, and tensors that end where the readable memory ends.

use std::any::Any;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

use half::{bf16, f16};
use outpour_kernels::cpu::{Cpu, CpuOptions, Isa};
use outpour_kernels::reference::Reference;
use outpour_kernels::{Buffer, DType, Format, Matrix, Memory, Ops, RmsNorm, Shape, Tensor};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

/// A `cpu` backend, and what it was made with.
pub struct Backend {
    pub ops: Cpu,
    pub isa: Isa,
    pub threads: usize,
    pub precise: bool,
}

impl Backend {
    /// Whether activations are rounded to bf16 for products with this format.
    pub fn rounds(&self, format: Format) -> bool {
        matches!(self.isa, Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512VnniBf16) && !self.precise && format == Format::Bf16
    }
}

/// Every instruction set of this machine, with 1, 2 and 3 threads, precise and not; with two threads and not precise where its
/// kernels are all another's and it is not the one that is used.
pub fn backends() -> &'static [Backend] {
    static BACKENDS: OnceLock<Vec<Backend>> = OnceLock::new();
    BACKENDS.get_or_init(|| {
        let mut backends = Vec::new();
        for (i, isa) in Isa::available().enumerate() {
            let mixed = i > 0 && matches!(isa, Isa::Avx512Vbmi | Isa::Avx512VnniBf16);
            for precise in [false, true] {
                for threads in [1, 2, 3] {
                    if mixed && (precise || threads != 2) {
                        continue;
                    }
                    let ops = Cpu::new(CpuOptions { threads, precise, isa: Some(isa) }).expect("it is available");
                    backends.push(Backend { ops, isa, threads, precise });
                }
            }
        }
        backends
    })
}

/// Those that have to give the same bits, together: an instruction set with several numbers of threads.
pub fn backends_alike() -> impl Iterator<Item = &'static [Backend]> {
    backends().chunk_by(|a, b| (a.isa, a.precise) == (b.isa, b.precise))
}

/// Every instruction set with two threads only: for tests where threads are not the point.
pub fn backends_of_two_threads() -> impl Iterator<Item = &'static Backend> {
    backends().iter().filter(|backend| backend.threads == 2)
}

/// Those that add products with quantised weights in the same order, with fused multiply-adds: where weights of eight bits are
/// multiplied as bytes without a sign, or with it, they differ.
pub fn backends_of_one_order(eight_bits: bool) -> Vec<&'static Backend> {
    let isas: &[Isa] = if eight_bits { &[] } else { &[Isa::Avx512, Isa::Avx2] };
    const WITH_VNNI: [Isa; 6] =
        [Isa::Amx, Isa::Avx512Bf16, Isa::Avx512Vbmi, Isa::Avx512VnniBf16, Isa::Avx512Vnni, Isa::AvxVnni];
    const OF_ARM: [Isa; 3] = [Isa::NeonI8mm, Isa::NeonDotprod, Isa::Neon];
    let alike = |isa: Isa| isas.contains(&isa) || WITH_VNNI.contains(&isa) || OF_ARM.contains(&isa);
    backends_of_two_threads().filter(|backend| !backend.precise && alike(backend.isa)).collect()
}

/// Asserts that all of them make the same product.
pub fn assert_one_product(backends: &[&Backend], x: &Tensor, w: &Matrix) {
    let outs = backends.iter().map(|backend| {
        let out = empty([x.dim(0), w.rows()]);
        backend.ops.linear(x, w, &out);
        out
    });
    let outs: Vec<Tensor> = outs.collect();
    for (backend, out) in backends.iter().zip(&outs).skip(1) {
        assert_same_bits(backend, backends[0].isa.name(), out, &outs[0]);
    }
}

/// Memory whose last byte lies before a page that cannot be read: a kernel that reads beyond a tensor crashes.
struct Guarded {
    map: NonNull<u8>,
    mapped: usize,
    bytes: usize,
}

// SAFETY: a mapping belongs to the process.
unsafe impl Send for Guarded {}
// SAFETY: as above.
unsafe impl Sync for Guarded {}

const PAGE: usize = 65536;

impl Guarded {
    fn new(bytes: usize) -> Self {
        let mapped = bytes.next_multiple_of(PAGE) + PAGE;
        // SAFETY: a new mapping, and a guard page at its own end.
        unsafe {
            let map = mmap_anonymous(ptr::null_mut(), mapped, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
            let map = map.expect("a small mapping").cast::<u8>();
            mprotect(map.add(mapped - PAGE).cast(), PAGE, MprotectFlags::empty()).expect("a guard page");
            Guarded { map: NonNull::new(map).expect("not null"), mapped, bytes }
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, which no handle refers to any more.
        let _ = unsafe { munmap(self.map.as_ptr().cast(), self.mapped) };
    }
}

impl Memory for Guarded {
    fn bytes(&self) -> usize {
        self.bytes
    }
    fn host(&self) -> Option<NonNull<u8>> {
        // SAFETY: `bytes` before the guard page is inside the mapping.
        Some(unsafe { self.map.add(self.mapped - PAGE - self.bytes) })
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Bytes that end `tail` bytes before a guard page, so that they begin at any byte.
pub fn bytes_tensor(bytes: &[u8], tail: usize, shape: impl Into<Shape>, dtype: DType) -> Tensor {
    let tensor = Tensor::new(Buffer::new(Guarded::new(bytes.len() + tail)), 0, shape, dtype);
    Reference.write(bytes, &tensor);
    tensor
}

pub fn f32_tensor(values: &[f32], shape: impl Into<Shape>) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    bytes_tensor(&bytes, 0, shape, DType::F32)
}

/// An output: full of NaN, so that an element that was not computed is seen.
pub fn empty(shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    f32_tensor(&vec![f32::NAN; shape.elements()], shape)
}

pub fn i32_tensor(shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    bytes_tensor(&vec![0xff; 4 * shape.elements()], 0, shape, DType::I32)
}

pub fn to_f32(tensor: &Tensor) -> Vec<f32> {
    to_bytes(tensor).chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

pub fn to_bytes(tensor: &Tensor) -> Vec<u8> {
    let mut bytes = vec![0; tensor.bytes()];
    Reference.fetch(tensor, &mut bytes).wait();
    bytes
}

/// f32 values as elements of a format.
pub fn encode(values: &[f32], format: Format) -> Vec<u8> {
    let one = |value: &f32| match format {
        Format::F32 => value.to_le_bytes().to_vec(),
        Format::F16 => f16::from_f32(*value).to_le_bytes().to_vec(),
        Format::Bf16 => bf16::from_f32(*value).to_le_bytes().to_vec(),
        Format::Affine { .. } | Format::Ggml(_) | Format::Coded(_) => panic!("not a format of single elements"),
    };
    values.iter().flat_map(one).collect()
}

pub fn dtype_of(format: Format) -> DType {
    match format {
        Format::F32 => DType::F32,
        Format::F16 => DType::F16,
        Format::Bf16 => DType::Bf16,
        Format::Affine { .. } | Format::Ggml(_) | Format::Coded(_) => DType::U8,
    }
}

/// A matrix of random weights that begins at some byte.
pub fn matrix(random: &mut Random, rows: usize, cols: usize, format: Format, tail: usize) -> Matrix {
    let bytes = encode(&random.values(rows * cols), format);
    Matrix::dense(bytes_tensor(&bytes, tail, [rows, cols], dtype_of(format)))
}

/// A tensor of random weights that begins at some byte.
pub fn weight(random: &mut Random, shape: impl Into<Shape>, format: Format, tail: usize) -> Tensor {
    let shape = shape.into();
    bytes_tensor(&encode(&random.values(shape.elements()), format), tail, shape, dtype_of(format))
}

/// Logarithms of random rates, or, where they are exponentiated, minus the rates: as [`weight`].
pub fn decays_tensor(
    random: &mut Random,
    shape: impl Into<Shape>,
    format: Format,
    tail: usize,
    exponentiated: bool,
) -> Tensor {
    let shape = shape.into();
    let a_log = random.values(shape.elements());
    let stored = if exponentiated { a_log.iter().map(|a| -a.exp()).collect() } else { a_log };
    bytes_tensor(&encode(&stored, format), tail, shape, dtype_of(format))
}

/// A norm over `d` elements of random weights.
pub fn norm(random: &mut Random, d: usize, format: Format, tail: usize) -> RmsNorm {
    let plus_one = random.below(2) == 1;
    let weight = (random.below(4) > 0).then(|| weight(random, [d], format, tail));
    RmsNorm { weight, plus_one, eps: 1e-6 }
}

/// A copy of an f32 tensor: what an operation works on in place.
pub fn copy(tensor: &Tensor) -> Tensor {
    f32_tensor(&to_f32(tensor), tensor.dims())
}

/// The values of a matrix.
pub fn dequantised(w: &Matrix) -> Vec<f32> {
    let bytes = to_bytes(w.data());
    (0..w.rows() * w.cols()).map(|i| outpour_kernels::quant::element(w.format(), &bytes, i)).collect()
}

/// A copy of an f32 tensor, rounded to bf16.
pub fn rounded(x: &Tensor) -> Tensor {
    let values: Vec<f32> = to_f32(x).iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
    f32_tensor(&values, x.dims())
}

/// Random numbers: splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Between -2 and 2, most of them small.
    pub fn value(&mut self) -> f32 {
        let unit = |bits: u64| (bits >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        unit(self.next()) + unit(self.next())
    }

    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    pub fn tensor(&mut self, shape: impl Into<Shape>) -> Tensor {
        let shape = shape.into();
        f32_tensor(&self.values(shape.elements()), shape)
    }
}

/// Asserts equality of every bit.
#[track_caller]
pub fn assert_same_bits(backend: &Backend, what: &str, got: &Tensor, expected: &Tensor) {
    let differs = to_bytes(got).iter().zip(to_bytes(expected)).position(|(a, b)| *a != b);
    assert_eq!(got.dims(), expected.dims());
    if let Some(byte) = differs {
        let (a, b) = (to_f32(got)[byte / 4], to_f32(expected)[byte / 4]);
        panic!("{}: {what}: element {} of {got:?} is {a:e}, not {b:e}", backend.ops.describe(), byte / 4);
    }
}

/// Asserts that every element is as near to what is expected as `tolerance` says for it.
#[track_caller]
pub fn assert_near(backend: &Backend, got: &Tensor, expected: &Tensor, tolerance: impl Fn(usize) -> f32) {
    assert_eq!(got.dims(), expected.dims());
    for (i, (got, expected)) in to_f32(got).into_iter().zip(to_f32(expected)).enumerate() {
        let (error, allowed) = ((got - expected).abs(), tolerance(i));
        let near = error <= allowed;
        assert!(
            near,
            "{}: element {i}: {got:e}, not {expected:e}: off {error:e} > {allowed:e}",
            backend.ops.describe()
        );
    }
}
