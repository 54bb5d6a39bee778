//! What the `cpu` backend makes of this machine, for information:
//! `cargo run --release -p outpour-kernels --example speed [isa]`, with `isa` as in `describe`.
//!
//! Matrix-vector products are compared with plainly reading as many bytes in the same run, by as many threads.

use std::time::Instant;

use outpour_kernels::cpu::{Cpu, CpuOptions, Isa};
use outpour_kernels::{
    Activation, Attend, Buffer, DType, Format, GatedDelta, KvLayout, Matrix, Mlp, MlpScratch, Ops, OpsError, Shape,
    Tensor,
};

/// Larger than any last-level cache that is likely here.
const WEIGHTS_BYTES: usize = 512 << 20;
const HIDDEN: usize = 2048;

fn main() -> Result<(), OpsError> {
    let name = std::env::args().nth(1);
    let isa = name.as_ref().map(|name| {
        let described =
            |isa: &Isa| cpu(1, Some(*isa), false).is_ok_and(|cpu| cpu.describe().contains(&format!("{name},")));
        Isa::available().find(described).expect("an instruction set of this machine")
    });
    for threads in [1, 2] {
        for precise in [false, true] {
            let cpu = cpu(threads, isa, precise)?;
            println!("{}", cpu.describe());
            matrix_vector(&cpu, threads)?;
            experts(&cpu)?;
            for rows in [16, 128, 512] {
                matrix_matrix(&cpu, rows)?;
            }
            for bits in [4, 8] {
                affine_matrix_vector(&cpu, threads, bits)?;
                affine_experts(&cpu, bits, 2048, 768)?;
                affine_experts(&cpu, bits, 4096, 1024)?;
            }
            for rows in [16, 128, 512] {
                affine_matrix_matrix(&cpu, rows)?;
            }
            for (rows, positions) in [(1, 4096), (512, 4096)] {
                attention(&cpu, rows, positions)?;
            }
            for rows in [1, 512] {
                gated_delta(&cpu, rows)?;
            }
        }
    }
    Ok(())
}

fn cpu(threads: usize, isa: Option<Isa>, precise: bool) -> Result<Cpu, OpsError> {
    Cpu::new(CpuOptions { threads, precise, isa })
}

/// A tensor of small random numbers.
fn tensor(cpu: &Cpu, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor, OpsError> {
    let shape = shape.into();
    let tensor = Tensor::new(cpu.alloc(shape.elements() * dtype.bytes())?, 0, shape, dtype);
    let mut state = 1u32;
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let bytes: Vec<u8> = match dtype {
        DType::F32 => (0..shape.elements()).flat_map(|_| number().to_le_bytes()).collect(),
        DType::F16 => (0..shape.elements()).flat_map(|_| half::f16::from_f32(number()).to_le_bytes()).collect(),
        _ => (0..shape.elements()).flat_map(|_| half::bf16::from_f32(number()).to_le_bytes()).collect(),
    };
    cpu.write(&bytes, &tensor);
    Ok(tensor)
}

/// The best time of each, in seconds, taken in turn: others use this machine too.
fn best<const N: usize>(rounds: usize, mut work: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut best = [f64::INFINITY; N];
    for _ in 0..rounds {
        for (best, work) in best.iter_mut().zip(&mut work) {
            let start = Instant::now();
            work();
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }
    best
}

fn weights(cpu: &Cpu) -> Result<Tensor, OpsError> {
    tensor(cpu, [WEIGHTS_BYTES / 2 / HIDDEN, HIDDEN], DType::Bf16)
}

fn matrix_vector(cpu: &Cpu, threads: usize) -> Result<(), OpsError> {
    let weights = weights(cpu)?;
    let all = Matrix::dense(weights.clone());
    let (x, out) = (tensor(cpu, [1, HIDDEN], DType::F32)?, tensor(cpu, [1, all.rows()], DType::F32)?);
    let layer_rows = 2048;
    let layers: Vec<Matrix> = (0..all.rows() / layer_rows)
        .map(|i| Matrix::dense(weights.rows(i * layer_rows..(i + 1) * layer_rows)))
        .collect();
    let layer_out = tensor(cpu, [1, layer_rows], DType::F32)?;
    let [read, whole, by_layer] = best(
        15,
        [&mut || read(weights.buffer(), threads), &mut || cpu.linear(&x, &all, &out), &mut || {
            layers.iter().for_each(|w| cpu.linear(&x, w, &layer_out))
        }],
    );
    let gb = WEIGHTS_BYTES as f64 / 1e9;
    println!(
        "  matrix-vector, bf16: {:.1} GB/s whole ({:.0} %), {:.1} GB/s in pieces of 8 MiB ({:.0} %); reading {:.1} GB/s",
        gb / whole,
        100.0 * read / whole,
        gb / by_layer,
        100.0 * read / by_layer,
        gb / read
    );
    Ok(())
}

/// Reads every byte of a buffer once.
fn read(buffer: &Buffer, threads: usize) {
    let start = buffer.host().expect("host memory");
    // SAFETY: the buffer's own bytes, which nobody writes now; mappings are page-aligned.
    let words = unsafe { std::slice::from_raw_parts(start.as_ptr().cast::<u64>(), buffer.bytes() / 8) };
    std::thread::scope(|scope| {
        for part in words.chunks(words.len().div_ceil(threads)) {
            scope.spawn(move || {
                let mut sums = [0u64; 16];
                for chunk in part.as_chunks::<16>().0 {
                    for i in 0..16 {
                        sums[i] = sums[i].wrapping_add(chunk[i]);
                    }
                }
                std::hint::black_box(sums);
            });
        }
    });
}

/// One token through many experts of 2048 × 768, as in a 30B model of 128 experts a layer.
fn experts(cpu: &Cpu) -> Result<(), OpsError> {
    let weights = weights(cpu)?;
    let width = 768;
    let expert_bytes = 3 * width * HIDDEN * 2;
    let view = |at, rows, cols| Matrix::dense(weights.view(at, [rows, cols], DType::Bf16));
    let experts: Vec<Mlp> = (0..WEIGHTS_BYTES / expert_bytes)
        .map(|i| Mlp {
            gate: Some(view(i * expert_bytes, width, HIDDEN)),
            up: view(i * expert_bytes + expert_bytes / 3, width, HIDDEN),
            down: view(i * expert_bytes + 2 * (expert_bytes / 3), HIDDEN, width),
            biases: None,
            activation: Activation::SwiGlu,
        })
        .collect();
    let (x, out) = (tensor(cpu, [1, HIDDEN], DType::F32)?, tensor(cpu, [1, HIDDEN], DType::F32)?);
    let scratch = MlpScratch {
        x: tensor(cpu, [1, HIDDEN], DType::F32)?,
        gate: tensor(cpu, [1, width], DType::F32)?,
        up: tensor(cpu, [1, width], DType::F32)?,
    };
    let [time] = best(15, [&mut || experts.iter().for_each(|expert| cpu.mlp(&x, &[0], expert, &scratch, &out))]);
    let bytes = (experts.len() * expert_bytes) as f64;
    println!(
        "  experts of 9.4 MB, one row: {:.1} GB/s, {:.0} µs each",
        bytes / time / 1e9,
        1e6 * time / experts.len() as f64
    );
    Ok(())
}

fn matrix_matrix(cpu: &Cpu, rows: usize) -> Result<(), OpsError> {
    print!("  linear, {rows} rows by 2048 × 2048:");
    for format in [Format::Bf16, Format::F16, Format::F32] {
        let dtype = match format {
            Format::Bf16 => DType::Bf16,
            Format::F16 => DType::F16,
            Format::F32 | Format::Affine { .. } => DType::F32,
        };
        let w = Matrix::dense(tensor(cpu, [2048, HIDDEN], dtype)?);
        let (x, out) = (tensor(cpu, [rows, HIDDEN], DType::F32)?, tensor(cpu, [rows, 2048], DType::F32)?);
        let [time] = best(9, [&mut || cpu.linear(&x, &w, &out)]);
        print!(" {:.0} Gflop/s {dtype},", 2.0 * (rows * 2048 * HIDDEN) as f64 / time / 1e9);
    }
    println!();
    Ok(())
}

/// Affine-quantised weights in groups of 64 with scales of bf16, one matrix behind the other in one buffer, as
/// checkpoints have them: weights, scales, biases.
struct Affine {
    buffer: Buffer,
    bits: usize,
    used: usize,
}

impl Affine {
    fn new(cpu: &Cpu, bits: usize, bytes: usize) -> Result<Self, OpsError> {
        Ok(Affine { buffer: tensor(cpu, [bytes / 2], DType::Bf16)?.buffer().clone(), bits, used: 0 })
    }

    fn matrix(&mut self, rows: usize, cols: usize) -> Matrix {
        let mut next = |columns, dtype: DType| {
            let tensor = Tensor::new(self.buffer.clone(), self.used, [rows, columns], dtype);
            self.used += tensor.bytes();
            tensor
        };
        let data = next(cols * self.bits / 8, DType::U8);
        Matrix::affine(self.bits, 64, data, next(cols / 64, DType::Bf16), next(cols / 64, DType::Bf16))
    }
}

fn affine_matrix_vector(cpu: &Cpu, threads: usize, bits: usize) -> Result<(), OpsError> {
    let mut weights = Affine::new(cpu, bits, WEIGHTS_BYTES)?;
    let rows = WEIGHTS_BYTES / 2 / (HIDDEN * bits / 8 + HIDDEN / 16);
    let whole = weights.matrix(rows, HIDDEN);
    let x = tensor(cpu, [1, HIDDEN], DType::F32)?;
    let out = tensor(cpu, [1, rows], DType::F32)?;
    let layer_rows = 2048;
    let layers: Vec<Matrix> = (0..rows / layer_rows).map(|_| weights.matrix(layer_rows, HIDDEN)).collect();
    let layer_out = tensor(cpu, [1, layer_rows], DType::F32)?;
    let [read, whole_time, by_layer] = best(
        15,
        [&mut || read(&weights.buffer, threads), &mut || cpu.linear(&x, &whole, &out), &mut || {
            layers.iter().for_each(|w| cpu.linear(&x, w, &layer_out))
        }],
    );
    let gb = |bytes: usize, time: f64| bytes as f64 / 1e9 / time;
    let reading = gb(WEIGHTS_BYTES, read);
    let (whole, by_layer) = (gb(whole.bytes(), whole_time), gb(layers.iter().map(Matrix::bytes).sum(), by_layer));
    println!(
        "  matrix-vector, {bits} bits: {whole:.1} GB/s whole ({:.0} %), {by_layer:.1} GB/s by 2048 rows ({:.0} %); \
         reading {reading:.1} GB/s",
        100.0 * whole / reading,
        100.0 * by_layer / reading,
    );
    Ok(())
}

/// One token through many experts.
fn affine_experts(cpu: &Cpu, bits: usize, hidden: usize, width: usize) -> Result<(), OpsError> {
    let mut weights = Affine::new(cpu, bits, WEIGHTS_BYTES)?;
    let expert_bytes = 3 * width * hidden * (2 * bits + 1) / 16;
    let mut experts = Vec::new();
    for _ in 0..WEIGHTS_BYTES / expert_bytes {
        let (gate, up, down) =
            (weights.matrix(width, hidden), weights.matrix(width, hidden), weights.matrix(hidden, width));
        experts.push(Mlp { gate: Some(gate), up, down, biases: None, activation: Activation::SwiGlu });
    }
    let (x, out) = (tensor(cpu, [1, hidden], DType::F32)?, tensor(cpu, [1, hidden], DType::F32)?);
    let scratch = MlpScratch {
        x: tensor(cpu, [1, hidden], DType::F32)?,
        gate: tensor(cpu, [1, width], DType::F32)?,
        up: tensor(cpu, [1, width], DType::F32)?,
    };
    let [time] = best(15, [&mut || experts.iter().for_each(|expert| cpu.mlp(&x, &[0], expert, &scratch, &out))]);
    println!(
        "  experts of {hidden} × {width}, {bits} bits, one row: {:.1} GB/s, {:.0} µs each",
        (experts.len() * expert_bytes) as f64 / time / 1e9,
        1e6 * time / experts.len() as f64
    );
    Ok(())
}

fn affine_matrix_matrix(cpu: &Cpu, rows: usize) -> Result<(), OpsError> {
    print!("  linear, {rows} rows by 2048 × 2048, affine:");
    for bits in [2, 3, 4, 5, 6, 8] {
        let w = Affine::new(cpu, bits, 2048 * (HIDDEN * bits / 8 + HIDDEN / 16))?.matrix(2048, HIDDEN);
        let (x, out) = (tensor(cpu, [rows, HIDDEN], DType::F32)?, tensor(cpu, [rows, 2048], DType::F32)?);
        let [time] = best(9, [&mut || cpu.linear(&x, &w, &out)]);
        print!(" {:.0} Gop/s at {bits} bits,", 2.0 * (rows * 2048 * HIDDEN) as f64 / time / 1e9);
    }
    println!();
    Ok(())
}

/// 32 query heads on 4 kv heads of 128.
fn attention(cpu: &Cpu, rows: usize, positions: usize) -> Result<(), OpsError> {
    let mut layout = KvLayout {
        dtype: DType::F16,
        heads: 4,
        k_dim: 128,
        v_dim: 128,
        block_tokens: 64,
        k_at: 0,
        v_at: 0,
        v_in_k: false,
    };
    layout.v_at = layout.bytes() / 2;
    let blocks: Result<Vec<Tensor>, OpsError> =
        (0..positions / 64).map(|_| tensor(cpu, [layout.bytes() / 2], DType::F16)).collect();
    let blocks = blocks?;
    let (q, out) = (tensor(cpu, [rows, 32, 128], DType::F32)?, tensor(cpu, [rows, 32, 128], DType::F32)?);
    let attend = Attend { scale: 0.09, window: None, sinks: None };
    let [time] = best(5, [&mut || cpu.attention(&q, &attend, &layout, &blocks, positions - rows, &out)]);
    let seen = (positions - rows) as f64 + (rows as f64 + 1.0) / 2.0;
    println!(
        "  attention, {rows} rows at {positions}: {:.2} ms, {:.0} Gflop/s, keys and values read at {:.1} GB/s or more",
        1e3 * time,
        4.0 * 128.0 * 32.0 * rows as f64 * seen / time / 1e9,
        (positions * 4 * 256 * 2) as f64 / time / 1e9
    );
    Ok(())
}

/// 16 key heads and 64 value heads of 128 × 128, as in a layer of Qwen3.5-397B, for more layers than a cache holds.
fn gated_delta(cpu: &Cpu, rows: usize) -> Result<(), OpsError> {
    let (k_heads, v_heads, dim) = (16, 64, 128);
    let weight = || tensor(cpu, [v_heads], DType::F32);
    let (a_log, dt_bias) = (weight()?, weight()?);
    let delta = GatedDelta { k_heads, v_heads, k_dim: dim, v_dim: dim, per_channel: false, a_log, dt_bias };
    let states: Result<Vec<Tensor>, OpsError> =
        (0..if rows == 1 { 32 } else { 2 }).map(|_| tensor(cpu, [v_heads, dim, dim], DType::F32)).collect();
    let states = states?;
    let qkv = tensor(cpu, [rows, (2 * k_heads + v_heads) * dim], DType::F32)?;
    let (a, b) = (tensor(cpu, [rows, v_heads], DType::F32)?, tensor(cpu, [rows, v_heads], DType::F32)?);
    let out = tensor(cpu, [rows, v_heads, dim], DType::F32)?;
    let [time] = best(5, [&mut || states.iter().for_each(|state| cpu.gated_delta(&qkv, &a, &b, &delta, state, &out))]);
    let (time, bytes) = (time / states.len() as f64, states[0].bytes());
    print!("  gated delta, {rows} rows: {:.2} ms a layer", 1e3 * time);
    if rows == 1 {
        // Read and written.
        print!(", state moved at {:.1} GB/s", 2.0 * bytes as f64 / time / 1e9);
    }
    println!();
    Ok(())
}
