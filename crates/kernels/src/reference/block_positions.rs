//! The positions of chosen blocks

use crate::{Tensor, host};

pub(crate) fn block_positions(choice: &Tensor, every: usize, start: usize, out: &Tensor) {
    let &[n, k] = choice.dims() else { panic!("block_positions: choice is [n, k], not {choice:?}") };
    let width = out.dim(1);
    let tail = width == k * every + every - 1 && every > 1;
    assert!(out.dim(0) == n && (tail || width == k * every), "block_positions: out does not fit the choice");
    for i in 0..n {
        let end = start + i + 1;
        let blocks = host::i32s(choice)[i * k..][..k].iter().take_while(|block| **block >= 0);
        let chosen = blocks.flat_map(|&block| block as usize * every..end.min((block as usize + 1) * every));
        let unended = if tail { end / every * every..end } else { 0..0 };
        let positions = chosen.chain(unended).map(|position| position as i32).chain(std::iter::repeat(-1));
        host::i32s_mut(out)[i * width..][..width].iter_mut().zip(positions).for_each(|(out, position)| *out = position);
    }
}
