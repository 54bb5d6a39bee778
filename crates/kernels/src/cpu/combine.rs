//! `into[token] += weight · parts[row]`, in the order given

use super::Cpu;
use crate::host::{self, Shared};
use crate::{Contribution, Tensor};

/// Split over columns, so that every worker keeps to the order of the contributions.
pub(super) fn combine(cpu: &Cpu, parts: &Tensor, contributions: &[Contribution], into: &Tensor) {
    let (rows, hidden) = host::rows_of(parts);
    let (tokens, width) = host::rows_of(into);
    assert_eq!(hidden, width, "combine: shapes differ");
    for &Contribution { token, row, .. } in contributions {
        let inside = (token as usize) < tokens && (row as usize) < rows;
        assert!(inside, "combine: token {token} of {tokens}, row {row} of {rows}");
    }
    let (parts, into) = (host::f32s(parts), Shared::new(host::f32_address(into)));
    cpu.split(hidden, 12 * contributions.len(), |columns, _| {
        for &Contribution { token, row, weight } in contributions {
            let part = &parts[row as usize * hidden..][columns.clone()];
            // SAFETY: the token was checked, and the columns are this worker's alone.
            let into = unsafe { into.slice_mut(token as usize * hidden + columns.start, columns.len()) };
            for (into, part) in into.iter_mut().zip(part) {
                *into += weight * part;
            }
        }
    });
}
