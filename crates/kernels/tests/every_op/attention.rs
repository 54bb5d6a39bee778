//! Keys and values into their blocks, and attention over them.

use proptest::prelude::*;
use proptest::sample::select;

use outpour_kernels::cpu::{Cpu, CpuOptions, Isa};
use outpour_kernels::reference::Reference;
use outpour_kernels::{Attend, DType, Format, KvLayout, Ops, Tensor};

use crate::cases;
use crate::machine::*;

/// A sequence whose KV blocks are full of NaN where nothing was written.
struct Sequence {
    layout: KvLayout,
    blocks: Vec<Tensor>,
}

impl Sequence {
    fn new(layout: KvLayout, positions: usize) -> Self {
        let bytes = layout.k_at.max(layout.v_at) + layout.bytes();
        let block = |_| bytes_tensor(&vec![0xff; bytes], 1, [bytes], DType::U8);
        Sequence { layout, blocks: (0..positions.div_ceil(layout.block_tokens)).map(block).collect() }
    }

    fn write(&self, ops: &dyn Ops, k: &Tensor, v: &Tensor, start: usize) {
        ops.kv_write(k, v, &self.layout, &self.blocks, start);
    }

    fn attend(&self, ops: &dyn Ops, q: &Tensor, attend: &Attend, start: usize) -> Tensor {
        let out = empty([q.dim(0), q.dim(1), self.layout.v_dim]);
        ops.attention(q, attend, &self.layout, &self.blocks, start, &out);
        out
    }

    fn bytes(&self) -> Vec<Vec<u8>> {
        self.blocks.iter().map(to_bytes).collect()
    }
}

#[derive(Clone, Debug)]
struct Case {
    layout: KvLayout,
    group: usize,
    start: usize,
    n: usize,
    window: Option<usize>,
    sinks: bool,
    seed: u64,
}

fn layouts() -> impl Strategy<Value = KvLayout> {
    let dims = select(vec![(16, 16), (24, 24), (128, 128), (24, 16), (7, 33)]);
    let plain = (dims, select(vec![DType::F16, DType::F32, DType::Bf16]));
    let q8 = (select(vec![(32, 32), (64, 96), (96, 64), (128, 128)]), Just(DType::Q8));
    let widths = prop_oneof![3 => plain, 1 => q8];
    (widths, 1usize..=3, select(vec![64, 128]), select(vec![0, 1, 6]), any::<bool>()).prop_map(
        |(((k_dim, v_dim), dtype), heads, block_tokens, k_at, v_in_k)| {
            let v_in_k = v_in_k && v_dim <= k_dim;
            let v_at = if v_in_k { k_at } else { k_at + heads * block_tokens * dtype.row_bytes(k_dim) + 3 };
            KvLayout { dtype, heads, k_dim, v_dim, block_tokens, k_at, v_at, v_in_k }
        },
    )
}

fn case() -> impl Strategy<Value = Case> {
    let short = (select(vec![0usize, 1, 5, 62, 63, 64, 65, 127, 200, 317]), select(vec![1, 2, 9, 17, 65, 90]));
    // Pasts that are computed in segments and merged.
    let long = (select(vec![505usize, 511, 512, 513, 1023, 1600]), select(vec![1, 2, 9, 17]));
    let places = prop_oneof![2 => short, 1 => long];
    let windows = select(vec![None, None, Some(1), Some(24), Some(64), Some(100), Some(1000)]);
    (layouts(), select(vec![1, 2, 3, 8, 21]), places, windows, any::<bool>(), any::<u64>()).prop_map(
        |(layout, group, (start, n), window, sinks, seed)| Case { layout, group, start, n, window, sinks, seed },
    )
}

impl Case {
    /// A sequence of `start + n` random positions, queries for the last n, and how they attend.
    fn make(&self) -> (Sequence, Tensor, Attend) {
        let (layout, positions, mut random) = (self.layout, self.start + self.n, Random(self.seed));
        let sequence = Sequence::new(layout, positions);
        let k = random.tensor([positions, layout.heads, layout.k_dim]);
        let v = random.tensor([positions, layout.heads, layout.v_dim]);
        sequence.write(&Reference, &k, &v, 0);
        let q_heads = layout.heads * self.group;
        let q = random.tensor([self.n, q_heads, layout.k_dim]);
        let sinks = self.sinks.then(|| weight(&mut random, [q_heads], Format::Bf16, 1));
        (sequence, q, Attend { scale: 1.0 / (layout.k_dim as f32).sqrt(), window: self.window, sinks })
    }
}

/// Few queries and many, of tiles one behind the other and of segments side by side, each by a backend whose scratch holds nothing
/// yet: as the reference, and each query as alone.
#[test]
fn attention_of_few_and_of_many_queries() {
    let of_widths = |dtype| [(32, 64, false), (96, 64, false), (96, 64, true)].map(|widths| (dtype, widths));
    let layouts = [DType::F16, DType::Bf16, DType::Q8].into_iter().flat_map(of_widths);
    // Heads, queries of each, the first position and how many.
    let shapes =
        [(1, 1, 1023, 16), (1, 1, 1023, 17), (1, 1, 1023, 65), (2, 8, 1023, 9), (1, 80, 700, 2), (3, 2, 0, 64)];
    for (dtype, (k_dim, v_dim, v_in_k)) in layouts {
        for (i, (heads, group, start, n)) in shapes.into_iter().enumerate() {
            let (block_tokens, k_at) = (64, 6);
            let v_at = if v_in_k { k_at } else { k_at + heads * block_tokens * dtype.row_bytes(k_dim) };
            let layout = KvLayout { dtype, heads, k_dim, v_dim, block_tokens, k_at, v_at, v_in_k };
            for window in [None, Some(100)] {
                let case = Case { layout, group, start, n, window, sinks: false, seed: i as u64 };
                let (sequence, q, attend) = case.make();
                let expected = sequence.attend(&Reference, &q, &attend, start);
                for threads in [1, 3] {
                    let fresh = || {
                        let (isa, precise) = (Isa::available().next().expect("plain Rust is"), false);
                        let ops = Cpu::new(CpuOptions { threads, precise, isa: Some(isa) }).expect("it is available");
                        Backend { ops, isa, threads, precise }
                    };
                    let backend = fresh();
                    let whole = sequence.attend(&backend.ops, &q, &attend, start);
                    assert_near(&backend, &whole, &expected, |_| 1e-5);
                    for row in [0, n / 2, n - 1] {
                        let (backend, row) = (fresh(), row..row + 1);
                        let alone = sequence.attend(&backend.ops, &q.rows(row.clone()), &attend, start + row.start);
                        assert_same_bits(&backend, &format!("alone, {case:?}"), &alone, &whole.rows(row));
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn kv_write(layout in layouts(), start in select(vec![0usize, 1, 63, 100]), n in 1usize..90, seed: u64) {
        let mut random = Random(seed);
        let k = random.tensor([n, layout.heads, layout.k_dim]);
        let v = random.tensor([n, layout.heads, layout.v_dim]);
        let expected = Sequence::new(layout, start + n);
        expected.write(&Reference, &k, &v, start);
        for backend in backends() {
            let written = Sequence::new(layout, start + n);
            written.write(&backend.ops, &k, &v, start);
            prop_assert_eq!(written.bytes(), expected.bytes());
        }
    }

    #[test]
    fn attention(case in case()) {
        let (sequence, q, attend) = case.make();
        let expected = sequence.attend(&Reference, &q, &attend, case.start);
        for backend in backends() {
            // Values are at most 2 in size, and the weights' sum is 1.
            assert_near(backend, &sequence.attend(&backend.ops, &q, &attend, case.start), &expected, |_| 1e-5);
        }
    }

    /// A query's output has the same bits alone (as in decode), among others (as in prefill), in other chunks, and with
    /// other numbers of threads.
    #[test]
    fn attention_is_batch_invariant(case in case(), cut in 0usize..90) {
        let (sequence, q, attend) = case.make();
        let cut = cut.min(case.n);
        for backends in backends_alike() {
            let whole = sequence.attend(&backends[0].ops, &q, &attend, case.start);
            for backend in &backends[1..] {
                assert_same_bits(backend, "threads", &sequence.attend(&backend.ops, &q, &attend, case.start), &whole);
            }
            let backend = &backends[backends.len() / 2];
            for rows in [0..cut, cut..case.n] {
                let part = sequence.attend(&backend.ops, &q.rows(rows.clone()), &attend, case.start + rows.start);
                assert_same_bits(backend, "two chunks", &part, &whole.rows(rows));
            }
            for row in 0..case.n {
                let alone = sequence.attend(&backend.ops, &q.rows(row..row + 1), &attend, case.start + row);
                assert_same_bits(backend, "alone", &alone, &whole.rows(row..row + 1));
            }
        }
    }

    /// Nor does it depend on the size of the KV blocks.
    #[test]
    fn attention_does_not_depend_on_blocks(case in case()) {
        let v_at = if case.layout.v_in_k { case.layout.k_at } else { 1 << 20 };
        let wide = Case { layout: KvLayout { block_tokens: 192, v_at, ..case.layout }, ..case.clone() };
        let ((sequence, q, attend), (in_wide_blocks, ..)) = (case.make(), wide.make());
        for backend in backends_of_two_threads() {
            let out = in_wide_blocks.attend(&backend.ops, &q, &attend, case.start);
            assert_same_bits(backend, "blocks of 192", &out, &sequence.attend(&backend.ops, &q, &attend, case.start));
        }
    }

    /// Blocks that lie wholly behind the window may be gone: positions then count from the first one that is there. What is left
    /// behind it may be anything.
    #[test]
    fn attention_reads_no_block_behind_its_window(case in case()) {
        let Some(window) = case.window else { return Ok(()) };
        let (sequence, q, attend) = case.make();
        let gone = (case.start + 1).saturating_sub(window) / case.layout.block_tokens;
        let (left, start) = (sequence.blocks[gone..].to_vec(), case.start - gone * case.layout.block_tokens);
        let shorter = Sequence { layout: case.layout, blocks: left };
        for backend in backends_of_two_threads() {
            let whole = sequence.attend(&backend.ops, &q, &attend, case.start);
            assert_same_bits(backend, "fewer blocks", &shorter.attend(&backend.ops, &q, &attend, start), &whole);
        }
        let of_two = backends_of_two_threads().map(|backend| (backend, sequence.attend(&backend.ops, &q, &attend, case.start)));
        let before: Vec<_> = of_two.collect();
        let behind = (case.start + 1).saturating_sub(window);
        let anything = |width| f32_tensor(&vec![f32::NAN; behind * case.layout.heads * width], [behind, case.layout.heads, width]);
        sequence.write(&Reference, &anything(case.layout.k_dim), &anything(case.layout.v_dim), 0);
        for (backend, whole) in before {
            assert_same_bits(backend, "NaN behind it", &sequence.attend(&backend.ops, &q, &attend, case.start), &whole);
        }
    }
}
