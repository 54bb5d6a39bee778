//! How fast the `cpu` backend multiplies with blocks of every ggml type, beside MLX's four and eight bits, for information:
//! `cargo run --release -p outpour-kernels --example blocks`. One thread, timed by its own processor time, the best of many.

use outpour_kernels::cpu::{Cpu, CpuOptions};
use outpour_kernels::{Buffer, DType, Format, GgmlType, Matrix, Ops, OpsError, Tensor};

const DIM: usize = 2048;
/// Beyond a last-level cache, for one row; for many they are used again and again.
const WEIGHTS_BYTES: usize = 96 << 20;

fn main() -> Result<(), OpsError> {
    let cpu = Cpu::new(CpuOptions { threads: 1, precise: false, isa: None })?;
    println!("{}, {DIM} × {DIM}: GB/s of stored bytes and Gop/s with one row, Gop/s with 128", cpu.describe());
    let buffer = cpu.alloc(WEIGHTS_BYTES)?;
    let mut state = 1u32;
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        half::f16::from_f32((state >> 8) as f32 / (1 << 24) as f32 - 0.5)
    };
    let bytes: Vec<u8> = (0..WEIGHTS_BYTES / 2).flat_map(|_| number().to_le_bytes()).collect();
    cpu.write(&bytes, &Tensor::new(buffer.clone(), 0, [WEIGHTS_BYTES], DType::U8));
    let affine = [4, 8].map(|bits| Format::Affine { bits, group: 64 });
    for format in affine.into_iter().chain(GgmlType::ALL.map(Format::Ggml)) {
        let matrices = matrices(&buffer, format);
        let one = seconds(&cpu, &matrices, 1)?;
        let many = seconds(&cpu, &matrices[..1], 128)?;
        let name = match format {
            Format::Ggml(blocks) => blocks.name().to_owned(),
            other => format!("{other:?}"),
        };
        let ops = 2.0 * (DIM * DIM) as f64 / 1e9;
        let read = matrices[0].bytes() as f64 / 1e9;
        println!("{name:32} {:6.1} {:6.1} {:6.1}", read / one, ops / one, 128.0 * ops / many);
    }
    Ok(())
}

/// As many matrices as the buffer holds.
fn matrices(buffer: &Buffer, format: Format) -> Vec<Matrix> {
    let row_bytes = format.row_bytes(DIM);
    let scales = if let Format::Affine { group, .. } = format { 2 * DIM / usize::from(group) } else { 0 };
    let bytes = DIM * (row_bytes + 2 * scales);
    let matrix = |at: usize| {
        let data = Tensor::new(buffer.clone(), at, [DIM, row_bytes], DType::U8);
        let part =
            |i: usize| Tensor::new(buffer.clone(), at + DIM * (row_bytes + i * scales), [DIM, scales / 2], DType::F16);
        match format {
            Format::Ggml(blocks) => Matrix::ggml(blocks, data),
            Format::Affine { bits, group } => Matrix::affine(bits.into(), group.into(), data, part(0), part(1)),
            plain => panic!("{plain:?} is not measured here"),
        }
    };
    (0..WEIGHTS_BYTES / bytes).map(|i| matrix(i * bytes)).collect()
}

/// Processor time of one product: the least of many.
fn seconds(cpu: &Cpu, matrices: &[Matrix], rows: usize) -> Result<f64, OpsError> {
    let tensor = |shape: [usize; 2]| Ok(Tensor::new(cpu.alloc(4 * shape[0] * shape[1])?, 0, shape, DType::F32));
    let (x, out) = (tensor([rows, DIM])?, tensor([rows, DIM])?);
    let ones: Vec<u8> = (0..rows * DIM).flat_map(|i| ((i % 7) as f32 - 3.0).to_le_bytes()).collect();
    cpu.write(&ones, &x);
    let rounds = if rows == 1 { 3 * matrices.len() } else { 12 };
    let timed = |i: usize| {
        let before = processor_seconds();
        cpu.linear(&x, &matrices[i % matrices.len()], &out);
        processor_seconds() - before
    };
    Ok((0..rounds).map(timed).fold(f64::INFINITY, f64::min))
}

/// What this thread has computed so far.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e9
}
