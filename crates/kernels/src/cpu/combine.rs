//! `into[token] += weight · parts[row]`, in the order given

use super::Cpu;
use crate::host::{self, Shared};
use crate::{Contribution, Tensor};

/// Split over tokens, whole rows of which are read and written in long runs, or where these are too few over columns: either way a
/// worker keeps to the order of the contributions.
pub(super) fn combine(cpu: &Cpu, parts: &Tensor, contributions: &[Contribution], into: &Tensor) {
    let (rows, hidden) = host::rows_of(parts);
    let (tokens, width) = host::rows_of(into);
    assert_eq!(hidden, width, "combine: shapes differ");
    for &Contribution { token, row, .. } in contributions {
        let inside = (token as usize) < tokens && (row as usize) < rows;
        assert!(inside, "combine: token {token} of {tokens}, row {row} of {rows}");
    }
    let (parts, into) = (host::f32s(parts), Shared::new(host::f32_address(into)));
    let add = |&Contribution { token, row, weight }: &Contribution, first: usize, count: usize| {
        let part = &parts[row as usize * hidden + first..][..count];
        // SAFETY: the token was checked, and these columns of it are this worker's alone.
        let into = unsafe { into.slice_mut(token as usize * hidden + first, count) };
        for (into, part) in into.iter_mut().zip(part) {
            *into += weight * part;
        }
    };
    let bytes = 12 * contributions.len();
    if tokens >= 4 * cpu.threads() {
        cpu.split(tokens, hidden * bytes / tokens, |tokens, _| {
            let own = contributions.iter().filter(|of| tokens.contains(&(of.token as usize)));
            own.for_each(|contribution| add(contribution, 0, hidden));
        });
    } else {
        cpu.split(hidden, bytes, |columns, _| {
            contributions.iter().for_each(|contribution| add(contribution, columns.start, columns.len()));
        });
    }
}
