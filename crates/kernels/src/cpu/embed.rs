//! `out[i] = table[ids[i]]`

use super::Cpu;
use crate::host::{self, Shared};
use crate::{Matrix, Tensor, quant};

pub(super) fn embed(cpu: &Cpu, table: &Matrix, ids: &[u32], out: &Tensor) {
    let hidden = table.cols();
    assert_eq!(host::rows_of(out), (ids.len(), hidden), "embed: shapes differ");
    let out = Shared::new(host::f32_address(out));
    let row_bytes = table.format().row_bytes(hidden);
    cpu.split(ids.len(), row_bytes + 4 * hidden, |range, _| {
        for i in range {
            let id = ids[i] as usize;
            assert!(id < table.rows(), "embed: token {id} of a vocabulary of {}", table.rows());
            if table.format().is_plain() {
                let row = &host::bytes(table.data())[id * row_bytes..][..row_bytes];
                let widen = cpu.kernels.widen.of(table.format());
                // SAFETY: `row` holds `hidden` elements, and row i of `out` belongs to this range alone.
                unsafe { widen(row.as_ptr(), out.at(i * hidden).cast(), hidden) };
            } else {
                // SAFETY: row i of `out` belongs to this range alone.
                quant::dequantise(table, id, unsafe { out.slice_mut(i * hidden, hidden) });
            }
        }
    });
}
