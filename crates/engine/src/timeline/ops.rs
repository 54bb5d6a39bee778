//! Operations that are recorded.

use std::time::Instant;

use outpour_kernels::{
    Activation, Attend, Bias, Buffer, CausalConv, ColumnRun, Compress, Contribution, Fence, GatedDelta, Hyper,
    KvLayout, LayerNorm, LinearAttention, Matrix, Mlp, MlpJob, MlpScratch, Ops, OpsError, Past, PositionBlocks,
    RmsNorm, Rope, Router, SelectiveScan, Tensor,
};

use super::{Row, Timeline};

/// Records each operation of `inner`.
pub(super) struct TimedOps {
    pub(super) inner: Box<dyn Ops>,
    pub(super) timeline: Timeline,
}

/// What an operation is shown with, beside its name.
trait Size {
    fn show(&self) -> String;
}

impl Size for Tensor {
    fn show(&self) -> String {
        format!("{:?}", self.dims())
    }
}

impl Size for Matrix {
    fn show(&self) -> String {
        format!("[{}, {}] {:?}", self.rows(), self.cols(), self.format())
    }
}

impl Size for Mlp {
    fn show(&self) -> String {
        format!("up {} down {}", self.up.show(), self.down.show())
    }
}

impl<T> Size for &[T] {
    fn show(&self) -> String {
        format!("[{}]", self.len())
    }
}

/// Methods that hand their arguments on, and are shown with the sizes of those listed after `:`.
macro_rules! timed {
    ($(fn $name:ident($($argument:ident: $type:ty),*): $($shown:ident),+;)*) => {$(
        fn $name(&self, $($argument: $type),*) {
            let began = Instant::now();
            self.inner.$name($($argument),*);
            self.timeline.event(Row::Ops, began, |line| {
                use std::fmt::Write as _;
                write!(line, concat!("\"", stringify!($name), "\",\"args\":{{"))?;
                let shown = [$((stringify!($shown), $shown.show())),+];
                for (i, (name, size)) in shown.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    write!(line, "{comma}\"{name}\":{}", serde_json::Value::from(size.as_str()))?;
                }
                write!(line, "}}")
            });
        }
    )*};
}

impl Ops for TimedOps {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn threads(&self) -> usize {
        self.inner.threads()
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer, OpsError> {
        self.inner.alloc(bytes)
    }

    fn alloc_host(&self, bytes: usize) -> Result<Buffer, OpsError> {
        self.inner.alloc_host(bytes)
    }

    fn fetch<'a>(&self, src: &Tensor, dst: &'a mut [u8]) -> Fence<'a> {
        self.inner.fetch(src, dst)
    }

    timed! {
        fn write(src: &[u8], dst: &Tensor): dst;
        fn copy(src: &Tensor, dst: &Tensor): dst;
        fn embed(table: &Matrix, ids: &[u32], out: &Tensor): table, out;
        fn look_up(table: &Tensor, below: usize, ids: &[u32], out: &Tensor): out;
        fn gather(x: &Tensor, rows: &[u32], out: &Tensor): out;
        fn rms_norm(x: &Tensor, norm: &RmsNorm, out: &Tensor): x;
        fn layer_norm(x: &Tensor, norm: &LayerNorm, out: &Tensor): x;
        fn rms_norm_gated(x: &Tensor, gate: &Tensor, norm: &RmsNorm, out: &Tensor): x;
        fn sigmoid_gate(x: &Tensor, gate: &Tensor): x;
        fn add_gated(x: &Tensor, gate: &Tensor, into: &Tensor): x;
        fn agreement(x: &Tensor, y: &Tensor, out: &Tensor): x;
        fn zero(x: &Tensor): x;
        fn scale(x: &Tensor, factor: f32, by: Option<&Tensor>): x;
        fn clamp(x: &Tensor, limit: f32): x;
        fn softcap(x: &Tensor, cap: f32): x;
        fn copy_columns(x: &Tensor, runs: &[ColumnRun], out: &Tensor): x, out;
        fn causal_conv(x: &Tensor, conv: &CausalConv, tail: &Tensor, out: &Tensor): x;
        fn selective_scan(
            x_dt: [&Tensor; 2], b_c: [&Tensor; 2], scan: &SelectiveScan, state: &Tensor, out: &Tensor
        ): state, out;
        fn gated_delta(qkv: &Tensor, a: &Tensor, b: &Tensor, delta: &GatedDelta, state: &Tensor, out: &Tensor): qkv, state;
        fn linear_attention(
            qkv: [&Tensor; 3], dt: Option<&Tensor>, attention: &LinearAttention, state: &Tensor, out: &Tensor
        ): state, out;
        fn linear(x: &Tensor, w: &Matrix, out: &Tensor): x, w;
        fn linears(x: &Tensor, products: &[(&Matrix, &Tensor)]): x, products;
        fn linear_heads(x: &Tensor, w: &Matrix, first: usize, out: &Tensor): x, w;
        fn linear_heads_transposed(x: &Tensor, w: &Matrix, first: usize, out: &Tensor): x, w;
        fn add(x: &Tensor, into: &Tensor): x;
        fn add_bias(x: &Tensor, bias: &Bias): x;
        fn glu(gate: &Tensor, up: &Tensor, activation: Activation, out: &Tensor): gate;
        fn rope(x: &Tensor, positions: &[u32], rope: &Rope): x;
        fn kv_write(k: &Tensor, v: &Tensor, layout: &KvLayout, blocks: &[Tensor], start: usize): k;
        fn attention(q: &Tensor, attend: &Attend, layout: &KvLayout, blocks: &[Tensor], start: usize, out: &Tensor): q, blocks;
        fn select(q: &Tensor, weights: &Tensor, keys: &Past, choice: &Tensor): q, choice;
        fn select_blocks(q: &Tensor, keys: &Past, by: PositionBlocks, choice: &Tensor): q, choice;
        fn block_positions(choice: &Tensor, every: usize, start: usize, out: &Tensor): choice, out;
        fn scale_heads(x: &Tensor, positions: &[u32], by: [&Tensor; 2]): x;
        fn sparse_attention(q: &Tensor, attend: &Attend, pasts: &[Past], out: &Tensor): q, pasts;
        fn route(logits: &Tensor, router: &Router, choice: &Tensor, weights: &Tensor): logits;
        fn weigh(logits: &Tensor, router: &Router, choice: &Tensor, weights: &Tensor): logits;
        fn compress(rows: &Tensor, gates: &Tensor, by: &Compress, tail: &Tensor, start: usize, out: &Tensor): rows, out;
        fn hyper_weights(weights: &Tensor, hyper: &Hyper): weights;
        fn hyper_collapse(x: &Tensor, weights: &Tensor, out: &Tensor): x;
        fn hyper_expand(out: &Tensor, weights: &Tensor, x: &Tensor): x;
        fn mlp(x: &Tensor, rows: &[u32], mlp: &Mlp, scratch: &MlpScratch, out: &Tensor): rows, mlp;
        fn mlps(x: &Tensor, tokens: &[u32], jobs: &[MlpJob], scratch: &MlpScratch, parts: &Tensor): jobs;
        fn combine(parts: &Tensor, contributions: &[Contribution], into: &Tensor): parts, into;
    }
}
