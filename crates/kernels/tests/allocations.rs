//! After the first token, the `cpu` backend computes without asking the system for memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use outpour_kernels::cpu::{Cpu, CpuOptions};
use outpour_kernels::{
    Activation, Attend, CausalConv, ColumnRun, Contribution, DType, GatedDelta, KvLayout, Matrix, Mlp, MlpScratch, Ops,
    RmsNorm, Rope, RopePairs, Router, RouterScore, Shape, Tensor,
};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator, counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const HIDDEN: usize = 256;
const HEADS: usize = 2;
const DIM: usize = 64;

/// One layer's buffers and weights, all zeros.
struct Layer {
    cpu: Cpu,
    x: Tensor,
    norm: RmsNorm,
    w: Matrix,
    q: Tensor,
    out: Tensor,
    logits: Tensor,
    choice: Tensor,
    weights: Tensor,
    scratch: MlpScratch,
    mlp: Mlp,
    quantised: Mlp,
    layout: KvLayout,
    blocks: Vec<Tensor>,
    rope: Rope,
    delta: GatedDelta,
    /// `[HEADS, DIM, DIM]`
    state: Tensor,
    conv: CausalConv,
    /// `[3, HIDDEN]`
    conv_tail: Tensor,
}

impl Layer {
    fn new() -> Self {
        let cpu = Cpu::new(CpuOptions { threads: 2, ..CpuOptions::default() }).unwrap();
        let tensor = |shape: Shape, dtype: DType| {
            Tensor::new(cpu.alloc(shape.elements() * dtype.bytes()).unwrap(), 0, shape, dtype)
        };
        let rows = |n: usize| tensor([1, n].into(), DType::F32);
        let matrix = || Matrix::dense(tensor([HIDDEN, HIDDEN].into(), DType::Bf16));
        let quantised = || {
            let scales = || tensor([HIDDEN, HIDDEN / 64].into(), DType::Bf16);
            Matrix::affine(4, 64, tensor([HIDDEN, HIDDEN / 2].into(), DType::U8), scales(), scales())
        };
        let mut layout = KvLayout {
            dtype: DType::F16,
            heads: HEADS,
            k_dim: DIM,
            v_dim: DIM,
            block_tokens: 64,
            k_at: 0,
            v_at: 0,
            v_in_k: false,
        };
        layout.v_at = layout.bytes() / 2;
        Layer {
            x: rows(HIDDEN),
            norm: RmsNorm { weight: Some(tensor([HIDDEN].into(), DType::Bf16)), plus_one: true, eps: 1e-6 },
            w: matrix(),
            q: tensor([1, 4, DIM].into(), DType::F32),
            out: rows(HIDDEN),
            logits: rows(64),
            choice: tensor([1, 8].into(), DType::I32),
            weights: rows(8),
            scratch: MlpScratch { x: rows(HIDDEN), gate: rows(HIDDEN), up: rows(HIDDEN) },
            mlp: Mlp {
                gate: Some(matrix()),
                up: matrix(),
                down: matrix(),
                biases: None,
                activation: Activation::SwiGlu,
            },
            quantised: Mlp {
                gate: Some(quantised()),
                up: quantised(),
                down: quantised(),
                biases: None,
                activation: Activation::SwiGlu,
            },
            layout,
            blocks: (0..4).map(|_| tensor([layout.bytes()].into(), DType::U8)).collect(),
            delta: GatedDelta {
                k_heads: 1,
                v_heads: HEADS,
                k_dim: DIM,
                v_dim: DIM,
                per_channel: false,
                tiled: false,
                a_log: tensor([HEADS].into(), DType::F32),
                exponentiated: false,
                dt_bias: tensor([HEADS].into(), DType::Bf16),
                bound: None,
            },
            state: tensor([HEADS, DIM, DIM].into(), DType::F32),
            conv: CausalConv { weight: tensor([HIDDEN, 4].into(), DType::Bf16), bias: None, silu: true, dilation: 1 },
            conv_tail: tensor([3, HIDDEN].into(), DType::F32),
            rope: Rope { inv_freq: vec![1.0; DIM / 2], first: 0, pairs: RopePairs::Half, scale: 1.0, stretch: None },
            cpu,
        }
    }

    fn token(&self, position: usize) {
        let cpu: &dyn Ops = &self.cpu;
        cpu.embed(&self.w, &[7], &self.x);
        cpu.rms_norm(&self.x, &self.norm, &self.x);
        cpu.linear(&self.x, &self.w, &self.out);
        cpu.rope(&self.q, &[position as u32], &self.rope);
        let (k, v) = (self.out.view(0, [1, HEADS, DIM], DType::F32), self.x.view(0, [1, HEADS, DIM], DType::F32));
        cpu.kv_write(&k, &v, &self.layout, &self.blocks, position);
        let out = self.out.reshape([1, 4, DIM]);
        let attend = Attend { scale: 0.125, window: Some(100), sinks: None };
        cpu.attention(&self.q, &attend, &self.layout, &self.blocks, position, &out);
        cpu.add(&self.out, &self.x);
        let router = Router { renormalise: true, ..Router::new(8, RouterScore::Softmax) };
        cpu.route(&self.logits, &router, &self.choice, &self.weights);
        let mut choice = [0; 32];
        cpu.fetch(&self.choice, &mut choice).wait();
        cpu.mlp(&self.x, &[0], &self.mlp, &self.scratch, &self.out);
        cpu.mlp(&self.x, &[0], &self.quantised, &self.scratch, &self.out);
        cpu.linear(&self.x, &self.quantised.down, &self.out);
        cpu.embed(&self.quantised.up, &[7], &self.x);
        cpu.combine(&self.out, &[Contribution { token: 0, row: 0, weight: 0.5 }], &self.x);
        self.recurrence();
    }

    /// What a layer of Gated DeltaNet has besides.
    fn recurrence(&self) {
        let cpu: &dyn Ops = &self.cpu;
        let (gate, qkv) = (self.out.view(0, [1, 1], DType::F32), self.x.reshape([1, 4 * DIM]));
        let (a, b) = (self.out.view(0, [1, HEADS], DType::F32), self.out.view(64, [1, HEADS], DType::F32));
        cpu.copy_columns(&self.out, &[ColumnRun { from: 0, to: DIM, len: DIM }], &self.x);
        cpu.causal_conv(&self.out, &self.conv, &self.conv_tail, &self.x);
        cpu.gated_delta(&qkv, &a, &b, &self.delta, &self.state, &self.q.view(0, [1, HEADS, DIM], DType::F32));
        cpu.rms_norm_gated(&self.x, &self.out, &self.norm, &self.x);
        cpu.sigmoid_gate(&self.x, &self.out);
        cpu.add_gated(&self.out, &gate, &self.x);
    }
}

#[test]
fn a_token_allocates_nothing() {
    let layer = Layer::new();
    layer.token(0);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for position in 1..200 {
        layer.token(position);
    }
    // The test harness's own threads may allocate a little meanwhile; a token that did would count 199 and more.
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert!(allocations < 20, "{allocations} allocations in 199 tokens");
}
