//! The lightning indexer's choice, and attention over what was chosen.

use std::ops::Range;

use proptest::prelude::*;
use proptest::sample::select;

use outpour_kernels::reference::Reference;
use outpour_kernels::{Attend, DType, Format, KvLayout, Ops, Past, PositionBlocks, Seen, Tensor};

use crate::cases;
use crate::machine::*;

/// A cache of `entries` random keys and values.
struct Cache {
    layout: KvLayout,
    blocks: Vec<Tensor>,
}

impl Cache {
    fn new(layout: KvLayout, entries: usize, random: &mut Random) -> Self {
        let bytes = layout.k_at.max(layout.v_at) + layout.bytes();
        let block = |_| bytes_tensor(&vec![0xff; bytes], 1, [bytes], DType::U8);
        let blocks: Vec<Tensor> = (0..entries.div_ceil(layout.block_tokens)).map(block).collect();
        let k = random.tensor([entries, layout.heads, layout.k_dim]);
        let v = random.tensor([entries, layout.heads, layout.v_dim]);
        Reference.kv_write(&k, &v, &layout, &blocks, 0);
        Cache { layout, blocks }
    }

    fn past<'a>(&'a self, seen: Seen<'a>) -> Past<'a> {
        Past { layout: &self.layout, blocks: &self.blocks, seen }
    }
}

fn layout(dtype: DType, heads: usize, k_dim: usize, v_dim: usize, v_in_k: bool) -> KvLayout {
    let v_at = if v_in_k { 6 } else { 6 + heads * 64 * dtype.row_bytes(k_dim) };
    KvLayout { dtype, heads, k_dim, v_dim, block_tokens: 64, k_at: 6, v_at, v_in_k }
}

fn dtypes() -> impl Strategy<Value = DType> {
    select(vec![DType::F16, DType::F32, DType::Bf16, DType::Q8])
}

fn chosen(choice: &Tensor) -> Vec<i32> {
    to_bytes(choice).chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Small whole numbers: sums are exact in any order, so that every backend finds the same scores, and many are equal.
fn whole(random: &mut Random, shape: impl Into<outpour_kernels::Shape>) -> Tensor {
    let shape = shape.into();
    let values: Vec<f32> = (0..shape.elements()).map(|_| random.below(5) as f32 - 2.0).collect();
    f32_tensor(&values, shape)
}

/// What a search for the best entries is given.
struct Search {
    cache: Cache,
    q: Tensor,
    weights: Tensor,
    start: usize,
    every: usize,
    top_k: usize,
}

impl Search {
    fn of_whole_numbers(n: usize, heads: usize, start: usize, every: usize, top_k: usize, seed: u64) -> Search {
        let mut random = Random(seed);
        let layout = layout(DType::F16, 1, 24, 24, true);
        let cache = Cache::new(layout, ((start + n) / every).max(1), &mut random);
        let keys = whole(&mut random, [((start + n) / every).max(1), 1, 24]);
        Reference.kv_write(&keys, &keys, &layout, &cache.blocks, 0);
        let (q, weights) = (whole(&mut random, [n, heads, 24]), whole(&mut random, [n, heads]));
        Search { cache, q, weights, start, every, top_k }
    }

    fn run(&self, ops: &dyn Ops, rows: Range<usize>) -> Tensor {
        let choice = i32_tensor([rows.len(), self.top_k]);
        let (q, weights) = (self.q.rows(rows.clone()), self.weights.rows(rows.clone()));
        let keys = self.cache.past(Seen::Ended { start: self.start + rows.start, every: self.every });
        ops.select(&q, &weights, &keys, &choice);
        choice
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn select_takes_the_best_and_of_equals_the_earliest(
        n in select(vec![1usize, 2, 9, 70]), heads in 1usize..5, start in select(vec![0usize, 5, 63, 200, 700]),
        every in select(vec![1usize, 4]), top_k in select(vec![1usize, 7, 16, 300]), seed: u64, cut in 0usize..70
    ) {
        let search = Search::of_whole_numbers(n, heads, start, every, top_k, seed);
        let expected = search.run(&Reference, 0..n);
        for (row, chosen) in chosen(&expected).chunks(top_k).enumerate() {
            let seen = (start + row + 1) / every;
            prop_assert!(chosen.iter().all(|&entry| entry < seen as i32));
            prop_assert_eq!(chosen.iter().filter(|&&entry| entry >= 0).count(), seen.min(top_k));
        }
        for backend in backends() {
            prop_assert_eq!(chosen(&search.run(&backend.ops, 0..n)), chosen(&expected));
            let cut = cut.min(n);
            let parts = [0..cut, cut..n].map(|rows| chosen(&search.run(&backend.ops, rows))).concat();
            prop_assert_eq!(parts, chosen(&expected), "in two parts");
        }
    }

    /// Random keys of every type: the same choice alone, among others, and with other numbers of threads; and scores that
    /// are no worse than the reference's.
    #[test]
    fn select_is_batch_invariant(dtype in dtypes(), n in 1usize..40, start in select(vec![100usize, 600]), seed: u64) {
        let mut random = Random(seed);
        let cache = Cache::new(layout(dtype, 1, 32, 32, true), start + n, &mut random);
        let (q, weights) = (random.tensor([n, 6, 32]), random.tensor([n, 6]));
        let search = Search { cache, q, weights, start, every: 1, top_k: 33 };
        let reference = chosen(&search.run(&Reference, 0..n));
        for backends in backends_alike() {
            let all = chosen(&search.run(&backends[0].ops, 0..n));
            let same = all.iter().filter(|entry| reference.contains(entry)).count();
            prop_assert!(same * 50 >= all.len() * 49, "{same} of {} as the reference has them", all.len());
            for backend in backends {
                prop_assert_eq!(&chosen(&search.run(&backend.ops, 0..n)), &all);
                let alone = (0..n).flat_map(|row| chosen(&search.run(&backend.ops, row..row + 1)));
                prop_assert_eq!(alone.collect::<Vec<_>>(), all.clone());
            }
        }
    }

    /// Small whole numbers, of which many are equal: every backend finds the reference's blocks, whole, in two parts and one by
    /// one; the last ones are always among them.
    #[test]
    fn select_blocks(
        n in select(vec![1usize, 2, 9, 70]), heads in 1usize..5, start in select(vec![0usize, 5, 63, 200, 700]),
        every in select(vec![1usize, 8, 24, 128]), local in 0usize..3, top_k in select(vec![3usize, 7, 16]),
        dtype in dtypes(), seed: u64, cut in 0usize..70
    ) {
        let mut random = Random(seed);
        let layout = layout(dtype, 1, 32, 32, true);
        let cache = Cache::new(layout, start + n, &mut random);
        // What 8 bits hold only nearly is equal in all backends too, but the sums of its products are not.
        if dtype != DType::Q8 {
            let keys = whole(&mut random, [start + n, 1, 32]);
            Reference.kv_write(&keys, &keys, &layout, &cache.blocks, 0);
        }
        let (q, by) = (whole(&mut random, [n, heads, 32]), PositionBlocks { every, local });
        let run = |ops: &dyn Ops, rows: Range<usize>| {
            let choice = i32_tensor([heads, rows.len(), top_k]);
            let keys = cache.past(Seen::Ended { start: start + rows.start, every: 1 });
            ops.select_blocks(&q.rows(rows), &keys, by, &choice);
            choice
        };
        let of_head = |choice: &Tensor, head: usize| chosen(&choice.rows(head..head + 1));
        let expected = run(&Reference, 0..n);
        for (i, row) in chosen(&expected).chunks(top_k).enumerate() {
            let count = (start + i % n + 1).div_ceil(every);
            prop_assert_eq!(row.iter().filter(|&&block| block >= 0).count(), count.min(top_k));
            prop_assert!((count.saturating_sub(local)..count).all(|block| row.contains(&(block as i32))));
            prop_assert!(row.windows(2).all(|pair| pair[0] < pair[1] || pair[1] == -1));
        }
        let cut = cut.min(n);
        for backends in backends_alike() {
            let all = run(&backends[0].ops, 0..n);
            if dtype != DType::Q8 {
                prop_assert_eq!(chosen(&all), chosen(&expected));
            }
            for backend in backends {
                prop_assert_eq!(chosen(&run(&backend.ops, 0..n)), chosen(&all));
                let parts = [0..cut, cut..n].map(|rows| run(&backend.ops, rows));
                let ones: Vec<Tensor> = (0..n).map(|row| run(&backend.ops, row..row + 1)).collect();
                for head in 0..heads {
                    let of = |parts: &[Tensor]| parts.iter().flat_map(|part| of_head(part, head)).collect::<Vec<_>>();
                    prop_assert_eq!(of(&parts), of_head(&all, head), "in two parts");
                    prop_assert_eq!(of(&ones), of_head(&all, head), "one by one");
                }
            }
        }
    }

    #[test]
    fn block_positions(n in 1usize..20, start in 0usize..100, every in select(vec![1usize, 4, 7]), tail: bool, seed: u64) {
        let mut random = Random(seed);
        let blocks = |row: usize| {
            // With a tail only blocks that have ended, else those up to the query's own.
            let seen = if tail { (start + row + 1) / every } else { (start + row + 1).div_ceil(every) };
            let mut blocks: Vec<i32> = (0..seen as i32).filter(|_| random.below(2) == 1).take(5).collect();
            blocks.resize(5, -1);
            blocks
        };
        let rows: Vec<Vec<i32>> = (0..n).map(blocks).collect();
        let choice = i32_tensor([n, 5]);
        Reference.write(&rows.concat().into_iter().flat_map(i32::to_le_bytes).collect::<Vec<u8>>(), &choice);
        let width = if tail { 6 * every - 1 } else { 5 * every };
        let every_op: Vec<&dyn Ops> = [&Reference as &dyn Ops].into_iter().chain(backends().iter().map(|b| &b.ops as _)).collect();
        for ops in every_op {
            let out = i32_tensor([n, width]);
            ops.block_positions(&choice, every, start, &out);
            for (i, (got, blocks)) in chosen(&out).chunks(width).zip(&rows).enumerate() {
                let own = start + i;
                let is_seen = |p: &usize| {
                    blocks.contains(&((p / every) as i32)) || tail && p / every == (own + 1) / every
                };
                let mut expected: Vec<i32> = (0..=own).filter(is_seen).map(|p| p as i32).collect();
                expected.resize(width, -1);
                prop_assert_eq!(got, &expected[..]);
            }
        }
    }

    #[test]
    fn sparse_attention(
        dtype in dtypes(), (heads, group) in select(vec![(1usize, 1usize), (1, 40), (2, 3)]), n in 1usize..20,
        start in select(vec![0usize, 30, 200]), (v_dim, v_in_k) in select(vec![(32, true), (64, true), (32, false)]),
        every in select(vec![4usize, 16]), sinks: bool, seed: u64
    ) {
        let mut random = Random(seed);
        let layout = layout(dtype, heads, 64, v_dim, v_in_k);
        let near = Cache::new(layout, start + n, &mut random);
        let far = Cache::new(layout, (start + n) / every + 1, &mut random);
        let choice = i32_tensor([n, 9]);
        let rows = (0..n).flat_map(|row| {
            let seen = (start + row + 1) / every;
            let mut entries: Vec<i32> = (0..seen as i32).filter(|_| random.below(2) == 1).take(9).collect();
            entries.resize(9, -1);
            entries
        });
        Reference.write(&rows.flat_map(i32::to_le_bytes).collect::<Vec<u8>>(), &choice);
        let q = random.tensor([n, heads * group, 64]);
        let sinks = sinks.then(|| weight(&mut random, [heads * group], Format::Bf16, 1));
        let attend = Attend { scale: 0.125, window: None, sinks };
        let run = |ops: &dyn Ops, rows: Range<usize>| {
            let (start, choice) = (start + rows.start, choice.rows(rows.clone()));
            let pasts = [
                near.past(Seen::Window { start, window: 24 }),
                far.past(Seen::Chosen(&choice)),
                far.past(Seen::Ended { start, every }),
            ];
            let out = empty([rows.len(), heads * group, v_dim]);
            ops.sparse_attention(&q.rows(rows), &attend, &pasts, &out);
            out
        };
        let expected = run(&Reference, 0..n);
        for backends in backends_alike() {
            let whole = run(&backends[0].ops, 0..n);
            assert_near(&backends[0], &whole, &expected, |_| 2e-5);
            for backend in backends {
                assert_same_bits(backend, "threads", &run(&backend.ops, 0..n), &whole);
                for row in 0..n {
                    assert_same_bits(backend, "alone", &run(&backend.ops, row..row + 1), &whole.rows(row..row + 1));
                }
            }
        }
    }

    /// Over one cache and all of the past it is plain attention.
    #[test]
    fn sparse_attention_to_everything_is_attention(n in 1usize..90, start in select(vec![0usize, 5, 100]), seed: u64) {
        let mut random = Random(seed);
        let cache = Cache::new(layout(DType::F16, 1, 48, 32, true), start + n, &mut random);
        let q = random.tensor([n, 5, 48]);
        let attend = Attend { scale: 0.15, window: None, sinks: None };
        for backend in backends_of_two_threads() {
            let (plain, sparse) = (empty([n, 5, 32]), empty([n, 5, 32]));
            backend.ops.attention(&q, &attend, &cache.layout, &cache.blocks, start, &plain);
            let pasts = [cache.past(Seen::Ended { start, every: 1 })];
            backend.ops.sparse_attention(&q, &attend, &pasts, &sparse);
            assert_same_bits(backend, "everything", &sparse, &plain);
        }
    }
}
