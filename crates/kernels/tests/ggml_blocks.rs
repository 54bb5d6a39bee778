//! Dequantisation against gguf-py's: blocks of every type, and the values that they stand for.

use std::path::Path;

use outpour_kernels::cpu::{Cpu, CpuOptions};
use outpour_kernels::reference::Reference;
use outpour_kernels::{DType, GgmlType, Matrix, Ops, Tensor};

/// Blocks of each type in the fixture.
const BLOCKS: usize = 8;

/// The data of a NumPy file (version 1.0).
fn npy(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/gguf_blocks").join(name);
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
fn values_are_those_of_gguf_bit_for_bit() {
    let cpu = Cpu::new(CpuOptions::default()).expect("a backend");
    for ops in [&Reference as &dyn Ops, &cpu] {
        let (packed, values) = (npy("packed.npy"), npy("values.npy"));
        let (mut packed, mut values) = (&packed[..], &values[..]);
        for blocks in GgmlType::ALL {
            let (bytes, weights) = (BLOCKS * blocks.block_bytes(), BLOCKS * blocks.block_weights());
            let (data, rest) = packed.split_at(bytes);
            let (expected, rest_of_values) = values.split_at(4 * weights);
            (packed, values) = (rest, rest_of_values);
            let matrix = Matrix::ggml(blocks, tensor(ops, data, [2, bytes / 2], DType::U8));
            let out = tensor(ops, &vec![0; 4 * weights], [2, weights / 2], DType::F32);
            ops.embed(&matrix, &[0, 1], &out);
            let mut got = vec![0; 4 * weights];
            ops.fetch(&out, &mut got).wait();
            assert!(got == expected, "{blocks} on {}", ops.describe());
        }
        assert!(packed.is_empty() && values.is_empty(), "the fixture holds another type");
    }
}
