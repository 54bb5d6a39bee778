//! `out[i] = table[ids[i]]`

use super::Cpu;
use crate::host::{self, Shared};
use crate::{Matrix, Tensor};

pub(super) fn embed(cpu: &Cpu, table: &Matrix, ids: &[u32], out: &Tensor) {
    let hidden = table.cols();
    assert_eq!(host::rows_of(out), (ids.len(), hidden), "embed: shapes differ");
    let (bytes, out) = (host::bytes(table.data()), Shared::new(host::f32_address(out)));
    let (row_bytes, widen) = (table.format().row_bytes(hidden), cpu.kernels.widen.of(table.format()));
    cpu.split(ids.len(), row_bytes + 4 * hidden, |range, _| {
        for i in range {
            let id = ids[i] as usize;
            assert!(id < table.rows(), "embed: token {id} of a vocabulary of {}", table.rows());
            let row = &bytes[id * row_bytes..][..row_bytes];
            // SAFETY: `row` holds `hidden` elements, and row i of `out` belongs to this range alone.
            unsafe { widen(row.as_ptr(), out.at(i * hidden).cast(), hidden) };
        }
    });
}
