//! A generated token allocates nothing, apart from the block of keys and values that every 64th one may take.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{engine, minimum_ram, roomy};
use outpour_engine::sample::{Sampler, Sampling};
use outpour_engine::{Engine, Options, Session};
use outpour_model::state::BLOCK_TOKENS;
use outpour_model::synth;
use outpour_store::read::ReaderKind;
use serde_json::json;

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static BEGUN: Cell<bool> = const { Cell::new(false) };
}

/// Counts an allocation, but for a thread's first: that is of its beginning, which on a busy machine may come late.
fn count() {
    if BEGUN.replace(true) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(at, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of each of `tokens` further steps.
fn allocations(engine: &mut Engine, session: &mut Session, sampler: &mut Sampler, tokens: usize) -> Vec<usize> {
    let mut counts = Vec::with_capacity(tokens);
    for _ in 0..tokens {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        session.step(engine, &mut (), &mut |logits, position| sampler.choose(logits, position)).expect("a token");
        counts.push(ALLOCATIONS.load(Ordering::Relaxed) - before);
    }
    counts
}

#[test]
fn a_token_allocates_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = json!({
        "model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 64, "moe_intermediate_size": 64,
        "num_experts": 32, "num_experts_per_tok": 4, "vocab_size": 500, "max_position_embeddings": 512,
        "mlp_only_layers": [1],
    });
    synth::write(&config, dir.path(), 3).expect("the model is written");
    for precise in [false, true] {
        for (reader, extra) in
            [(ReaderKind::Auto, 100 << 10), (ReaderKind::Pread, 100 << 10), (ReaderKind::Auto, 1 << 30)]
        {
            let options = Options { precise, threads: Some(2), ..roomy() };
            let options = Options { ram: minimum_ram(dir.path(), &options) + extra, ..options };
            let mut engine = engine(dir.path(), &options, reader);
            let sampling =
                Sampling { temperature: 0.9, top_k: 50, top_p: 0.95, repetition_penalty: 1.1, ..Sampling::default() };
            let mut sampler = Sampler::new(sampling, engine.facts().vocab);
            let mut session = Session::open(&mut engine);
            session.sync(&mut engine, &[1, 2, 3, 4, 5], &mut ()).expect("a prompt");
            // The first steps may size buffers; from then on only a new block may allocate.
            allocations(&mut engine, &mut session, &mut sampler, 10);
            let first = session.tokens().len();
            let misses = engine.stats().stream.misses;
            let counts = allocations(&mut engine, &mut session, &mut sampler, 150);
            assert!(extra > 1 << 29 || engine.stats().stream.misses > misses + 100, "experts must be streamed here");
            for (i, &count) in counts.iter().enumerate() {
                // The step that makes token i computes the one before it.
                let takes_block = (first + i - 1).is_multiple_of(BLOCK_TOKENS);
                assert!(count == 0 || takes_block, "step {i} ({reader:?}, precise {precise}) allocated {count} times");
                assert!(count <= 8, "a block took {count} allocations");
            }
        }
    }
}
