//! `out[i] = table[ids[i]]`

use super::Cpu;
use super::widen::widen;
use crate::host::{self, Shared};
use crate::{Matrix, Tensor};

pub(super) fn embed(cpu: &Cpu, table: &Matrix, ids: &[u32], out: &Tensor) {
    let hidden = table.cols();
    assert_eq!(host::rows_of(out), (ids.len(), hidden), "embed: shapes differ");
    let out = Shared::new(host::f32_address(out));
    let row_bytes = table.format().row_bytes(hidden);
    cpu.split(ids.len(), row_bytes + 4 * hidden, |range, _| {
        for i in range {
            let id = ids[i] as usize;
            assert!(id < table.rows(), "embed: token {id} of a vocabulary of {}", table.rows());
            // SAFETY: row i of `out` belongs to this range alone.
            widen(cpu, table, id, unsafe { out.slice_mut(i * hidden, hidden) });
        }
    });
}
