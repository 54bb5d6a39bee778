//! Quantisation and dequantisation against MLX's own: matrices that `mlx.core.quantize` made, of what, and the values that
//! they stand for.

use std::path::Path;

use outpour_kernels::cpu::{Cpu, CpuOptions};
use outpour_kernels::quant::affine_pack;
use outpour_kernels::reference::Reference;
use outpour_kernels::{DType, Matrix, Ops, Tensor};

const BITS: [usize; 6] = [2, 3, 4, 5, 6, 8];
const ROWS: usize = 2;
const COLS: usize = 256;

/// The data of a NumPy file (version 1.0).
fn npy(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/mlx_affine").join(name);
    let file = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let header = u16::from_le_bytes([file[8], file[9]]) as usize;
    file[10 + header..].to_vec()
}

fn tensor(ops: &dyn Ops, bytes: &[u8], shape: [usize; 2], dtype: DType) -> Tensor {
    let tensor = Tensor::new(ops.alloc(bytes.len()).expect("memory"), 0, shape, dtype);
    ops.write(bytes, &tensor);
    tensor
}

#[test]
fn values_are_those_of_mlx_bit_for_bit() {
    let cpu = Cpu::new(CpuOptions::default()).expect("a backend");
    for ops in [&Reference as &dyn Ops, &cpu] {
        for (group, dtype) in [(32, DType::Bf16), (64, DType::Bf16), (128, DType::F16)] {
            let [packed, scales, biases, values] =
                ["packed", "scales", "biases", "values"].map(|part| npy(&format!("g{group}_{part}.npy")));
            for (i, bits) in BITS.into_iter().enumerate() {
                let of_bits = |all: &[u8]| all[i * all.len() / BITS.len()..(i + 1) * all.len() / BITS.len()].to_vec();
                // Rows are padded to the widest format's.
                let row = of_bits(&packed);
                let data: Vec<u8> =
                    row.chunks(row.len() / ROWS).flat_map(|row| &row[..COLS * bits / 8]).copied().collect();
                let data = tensor(ops, &data, [ROWS, COLS * bits / 8], DType::U8);
                let [scales, biases] =
                    [&scales, &biases].map(|part| tensor(ops, &of_bits(part), [ROWS, COLS / group], dtype));
                let matrix = Matrix::affine(bits, group, data, scales, biases);
                let out = tensor(ops, &[0; 4 * ROWS * COLS], [ROWS, COLS], DType::F32);
                ops.embed(&matrix, &[0, 1], &out);
                let mut got = vec![0; 4 * ROWS * COLS];
                ops.fetch(&out, &mut got).wait();
                assert!(got == of_bits(&values), "{bits} bits in groups of {group} on {}", ops.describe());
            }
        }
    }
}

/// The f32s of a file in another type that holds them all, as stored.
fn stored(floats: &[u8], dtype: DType) -> Vec<u8> {
    let floats = floats.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    match dtype {
        DType::F16 => floats.flat_map(|value| half::f16::from_f32(value).to_le_bytes()).collect(),
        DType::Bf16 => floats.flat_map(|value| half::bf16::from_f32(value).to_le_bytes()).collect(),
        _ => floats.flat_map(f32::to_le_bytes).collect(),
    }
}

#[test]
fn quantised_as_by_mlx_bit_for_bit() {
    const ROWS: usize = 8;
    const COLS: usize = 128;
    for (name, dtype) in [("f32", DType::F32), ("bf16", DType::Bf16), ("f16", DType::F16)] {
        let [source, packed, scales, biases] =
            ["source", "packed", "scales", "biases"].map(|part| npy(&format!("quantise_{name}_{part}.npy")));
        let source = stored(&source, dtype);
        let mut compared = 0;
        for (g, group) in [32, 64, 128].into_iter().enumerate() {
            for (b, bits) in BITS.into_iter().enumerate() {
                let [mut q, mut scale, mut bias] = [const { Vec::new() }; 3];
                affine_pack(bits, group, dtype, &source, [&mut q, &mut scale, &mut bias]);
                let row = |all: &[u8], r: usize, bytes: usize| {
                    let stride = all.len() / (3 * BITS.len() * ROWS);
                    all[((g * BITS.len() + b) * ROWS + r) * stride..][..bytes].to_vec()
                };
                for r in 0..ROWS {
                    let what = format!("row {r} of {name} in {bits} bits, groups of {group}");
                    let own = |made: &[u8]| made[r * made.len() / ROWS..(r + 1) * made.len() / ROWS].to_vec();
                    let floats = |all: &[u8]| stored(&row(all, r, 4 * COLS / group), dtype);
                    assert_eq!(own(&scale), floats(&scales), "scales of {what}");
                    assert_eq!(own(&bias), floats(&biases), "biases of {what}");
                    assert_eq!(own(&q), row(&packed, r, COLS * bits / 8), "{what}");
                    compared += 1;
                }
            }
        }
        assert_eq!(compared, 3 * 6 * ROWS);
    }
}
