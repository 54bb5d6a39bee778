//! Every operation against `reference`: exactly equal where the arithmetic is the same, near where only its order is not.

use proptest::prelude::*;
use proptest::sample::select;

use outpour_kernels::reference::Reference;
use outpour_kernels::{
    Activation, Bias, Contribution, DType, Format, LayerNorm, Matrix, Mlp, MlpScratch, Ops, RmsNorm, Rope, RopePairs,
};
use outpour_kernels::{Router, RouterGroups, RouterScore, Tensor};

use crate::gates::ROUNDED;
use crate::machine::*;
use crate::{cases, formats, tails, widths};

/// Of sums in f32 in another order, relative to the norm of their terms.
const REORDERED: f32 = 1e-5;

/// √Σ (x·w)² of every output of a linear map.
fn norms(x: &Tensor, w: &Matrix) -> Vec<f32> {
    let (x, weights) = (to_f32(x), dequantised(w));
    let norm = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| (x * w) * (x * w)).sum::<f32>().sqrt();
    let row = |x| weights.chunks_exact(w.cols()).map(move |w| norm(x, w));
    x.chunks_exact(w.cols()).flat_map(row).collect()
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn linear(n in 1usize..=20, rows in 1usize..=70, cols in widths(), format in formats(), tail in tails(), seed: u64) {
        let mut random = Random(seed);
        let (x, w) = (random.tensor([n, cols]), matrix(&mut random, rows, cols, format, tail));
        let (exact, of_rounded) = (empty([n, rows]), empty([n, rows]));
        Reference.linear(&x, &w, &exact);
        Reference.linear(&rounded(&x), &w, &of_rounded);
        let norms = norms(&x, &w);
        for backend in backends() {
            let out = empty([n, rows]);
            backend.ops.linear(&x, &w, &out);
            let expected = if backend.rounds(format) { &of_rounded } else { &exact };
            assert_near(backend, &out, expected, |i| REORDERED * norms[i]);
        }
    }

    #[test]
    fn mlp(tokens in 1usize..=9, hidden in widths(), width in select(vec![1, 7, 24, 33, 96]),
           formats in (formats(), formats(), formats()), tail in tails(), kind in mlp_kinds(), seed: u64) {
        let mut random = Random(seed);
        let x = random.tensor([tokens, hidden]);
        let rows: Vec<u32> = (0..1 + random.below(2 * tokens)).map(|_| random.below(tokens) as u32).collect();
        let mlp = Mlp {
            gate: (kind.0 != Activation::Relu2).then(|| matrix(&mut random, width, hidden, formats.0, tail)),
            up: matrix(&mut random, width, hidden, formats.1, tail),
            down: matrix(&mut random, hidden, width, formats.2, tail),
            biases: kind.1.then(|| biases(&mut random, width, hidden)),
            activation: kind.0,
        };
        let n = rows.len();
        let scratch = || MlpScratch { x: empty([n + 1, hidden]), gate: empty([n + 1, width]), up: empty([n + 1, width]) };
        for backend in backends() {
            let (out, composed) = (empty([n, hidden]), empty([n, hidden]));
            backend.ops.mlp(&x, &rows, &mlp, &scratch(), &out);
            mlp_of_operations(backend, &x, &rows, &mlp, &scratch(), &composed);
            assert_same_bits(backend, "mlp, composed", &out, &composed);
            let (expected, tolerance) = mlp_of_reference(backend, &x, &rows, &mlp);
            assert_near(backend, &out, &expected, |i| tolerance[i]);
        }
    }

    #[test]
    fn layer_norm(n in 1usize..=9, d in widths(), format in formats(), tail in tails(), seed: u64) {
        let mut random = Random(seed);
        let x = random.tensor([n, d]);
        let mut part = || weight(&mut random, [d], format, tail);
        let norm = LayerNorm { weight: part(), bias: part(), eps: 1e-6 };
        let expected = empty([n, d]);
        Reference.layer_norm(&x, &norm, &expected);
        for backend in backends_of_two_threads() {
            let out = copy(&x);
            backend.ops.layer_norm(&out, &norm, &out);
            assert_near(backend, &out, &expected, |_| 1e-5);
        }
    }

    #[test]
    fn rms_norm(n in 1usize..=40, d in widths(), format in formats(), tail in tails(), in_place: bool, seed: u64) {
        let mut random = Random(seed);
        let (x, norm) = (random.tensor([n, d]), norm(&mut random, d, format, tail));
        let expected = empty([n, d]);
        Reference.rms_norm(&x, &norm, &expected);
        for backend in backends() {
            let out = if in_place { copy(&x) } else { empty([n, d]) };
            backend.ops.rms_norm(if in_place { &out } else { &x }, &norm, &out);
            let expected_values = to_f32(&expected);
            assert_near(backend, &out, &expected, |i| 4e-6 * expected_values[i].abs());
        }
    }

    /// Rows of several groups, each with weights of its own: as one norm a group.
    #[test]
    fn rms_norm_of_groups(n in 1usize..=9, groups in 1usize..=4, d in widths(), format in formats(), seed: u64) {
        let mut random = Random(seed);
        let x = random.tensor([n, groups, d]);
        let all = weight(&mut random, [groups * d], format, 1);
        let norm = |weight: &Tensor| RmsNorm { weight: Some(weight.clone()), plus_one: false, eps: 1e-5 };
        let every: Vec<&dyn Ops> =
            std::iter::once(&Reference as &dyn Ops).chain(backends_of_two_threads().map(|b| &b.ops as _)).collect();
        for ops in every {
            let out = empty([n, groups, d]);
            ops.rms_norm(&x, &norm(&all), &out);
            for row in 0..n * groups {
                let of = |t: &Tensor| t.reshape([n * groups, d]).rows(row..row + 1);
                let (group, alone) = (row % groups, empty([1, d]));
                ops.rms_norm(&of(&x), &norm(&all.rows(group * d..(group + 1) * d)), &alone);
                prop_assert_eq!(to_bytes(&of(&out)), to_bytes(&alone));
            }
        }
    }

    #[test]
    fn scale_heads(n in 1usize..=9, heads in 1usize..=5, d in select(vec![1, 24, 33]), format in formats(),
                   tail in tails(), start in select(vec![0u32, 1, 63, 100_000]), seed: u64) {
        let mut random = Random(seed);
        let x = random.values(n * heads * d);
        let by = [(); 2].map(|()| weight(&mut random, [heads], format, tail));
        let positions: Vec<u32> = (0..n as u32).map(|i| start + 3 * i).collect();
        let expected = f32_tensor(&x, [n, heads, d]);
        Reference.scale_heads(&expected, &positions, by.each_ref());
        for backend in backends() {
            let out = f32_tensor(&x, [n, heads, d]);
            backend.ops.scale_heads(&out, &positions, by.each_ref());
            assert_same_bits(backend, "scale_heads", &out, &expected);
        }
    }

    #[test]
    fn rope(n in 1usize..=9, heads in 1usize..=5, dim in select(vec![16, 24, 128]), half: bool, part in 0usize..3,
            start in select(vec![0u32, 1, 63, 100_000]), seed: u64) {
        let mut random = Random(seed);
        let x = random.values(n * heads * dim);
        let positions: Vec<u32> = (0..n as u32).map(|i| start + 3 * i).collect();
        let (first, pairs) = [(0, dim / 2), (0, dim / 8), (dim / 4, dim / 4)][part];
        let rope = Rope {
            inv_freq: (0..pairs).map(|i| 10_000f32.powf(-(i as f32) / pairs as f32)).collect(),
            first,
            pairs: if half { RopePairs::Half } else { RopePairs::Interleaved },
            scale: if part == 0 { 1.0 } else { 1.25 },
            stretch: seed.is_multiple_of(2).then(|| weight(&mut random, [pairs], Format::Bf16, 1)),
        };
        let expected = f32_tensor(&x, [n, heads, dim]);
        Reference.rope(&expected, &positions, &rope);
        for backend in backends() {
            let out = f32_tensor(&x, [n, heads, dim]);
            backend.ops.rope(&out, &positions, &rope);
            assert_same_bits(backend, "rope", &out, &expected);
        }
    }

    #[test]
    fn route(n in 1usize..=9, experts in select(vec![1usize, 8, 60, 128, 512]), k in 1usize..=8, kind in routers(),
             ties: bool, seed: u64) {
        let mut random = Random(seed);
        let coarse = |x: f32| if ties { (2.0 * x).round() } else { 4.0 * x };
        let logits: Vec<f32> = random.values(n * experts).into_iter().map(coarse).collect();
        let logits = f32_tensor(&logits, [n, experts]);
        let router = kind.router(&mut random, experts, k);
        let k = router.top_k;
        let (choice, weights) = (i32_tensor([n, k]), empty([n, k]));
        Reference.route(&logits, &router, &choice, &weights);
        for backend in backends() {
            let (choice_here, weights_here) = (i32_tensor([n, k]), empty([n, k]));
            backend.ops.route(&logits, &router, &choice_here, &weights_here);
            prop_assert_eq!(to_bytes(&choice_here), to_bytes(&choice));
            assert_same_bits(backend, "route", &weights_here, &weights);
        }
    }

    #[test]
    fn linear_heads(n in select(vec![1usize, 3, 66]), heads in 1usize..=4, cols in widths(), nope in 1usize..=20,
                    v in 1usize..=20, format in formats(), tail in tails(), seed: u64) {
        let mut random = Random(seed);
        let w = matrix(&mut random, heads * (nope + v), cols, format, tail);
        let (latent, q) = (random.tensor([n, heads, cols]), random.tensor([n, heads, nope]));
        let (values, queries) = (empty([n, heads, v]), empty([n, heads, cols]));
        Reference.linear_heads(&latent, &w, nope, &values);
        Reference.linear_heads_transposed(&q, &w, 0, &queries);
        for backend in backends() {
            let (values_here, queries_here) = (empty([n, heads, v]), empty([n, heads, cols]));
            backend.ops.linear_heads(&latent, &w, nope, &values_here);
            backend.ops.linear_heads_transposed(&q, &w, 0, &queries_here);
            // Factors are at most 2 in size.
            assert_near(backend, &values_here, &values, |_| REORDERED * 4.0 * (cols as f32).sqrt());
            assert_near(backend, &queries_here, &queries, |_| REORDERED * 4.0 * (nope as f32).sqrt());
        }
    }

    #[test]
    fn elementwise(n in 1usize..=9, d in select(vec![1usize, 31, 1000, 9000]), seed: u64) {
        let mut random = Random(seed);
        let (a, b) = (random.tensor([n, d]), random.tensor([n, d]));
        let (added, gated) = (copy(&b), empty([n, d]));
        let (activation, bias) = (activation(&mut random), bias(&mut random, d));
        let biased = copy(&a);
        Reference.add(&a, &added);
        Reference.add_bias(&biased, &bias);
        Reference.glu(&a, &b, activation, &gated);
        for backend in backends() {
            let out = copy(&b);
            backend.ops.add(&a, &out);
            assert_same_bits(backend, "add", &out, &added);
            let (out, as_gate, as_up) = (empty([n, d]), copy(&a), copy(&b));
            backend.ops.glu(&a, &b, activation, &out);
            backend.ops.glu(&as_gate, &b, activation, &as_gate);
            backend.ops.glu(&a, &as_up, activation, &as_up);
            let values = to_f32(&gated);
            assert_near(backend, &out, &gated, |i| ROUNDED * values[i].abs());
            for in_place in [&as_gate, &as_up] {
                assert_same_bits(backend, "glu in place", in_place, &out);
            }
            let out = copy(&a);
            backend.ops.add_bias(&out, &bias);
            assert_same_bits(backend, "add_bias", &out, &biased);
            backend.ops.copy(&a, &out);
            assert_same_bits(backend, "copy", &out, &a);
            let mut fetched = vec![0; out.bytes()];
            backend.ops.fetch(&out, &mut fetched).wait();
            backend.ops.write(&fetched, &as_up);
            assert_same_bits(backend, "fetch and write", &as_up, &a);
        }
    }

    #[test]
    fn embed_and_gather(ids in prop::collection::vec(0u32..50, 1..60), d in widths(), format in formats(),
                        tail in tails(), seed: u64) {
        let mut random = Random(seed);
        let (table, x) = (matrix(&mut random, 50, d, format, tail), random.tensor([50, d]));
        let (embedded, gathered) = (empty([ids.len(), d]), empty([ids.len(), d]));
        Reference.embed(&table, &ids, &embedded);
        Reference.gather(&x, &ids, &gathered);
        for backend in backends() {
            let out = empty([ids.len(), d]);
            backend.ops.embed(&table, &ids, &out);
            assert_same_bits(backend, "embed", &out, &embedded);
            backend.ops.gather(&x, &ids, &out);
            assert_same_bits(backend, "gather", &out, &gathered);
        }
    }

    #[test]
    fn combine(tokens in 1usize..=9, parts in 1usize..=20, hidden in widths(), count in 0usize..60, seed: u64) {
        let mut random = Random(seed);
        let (x, into) = (random.tensor([parts, hidden]), random.values(tokens * hidden));
        let contributions = contributions(&mut random, count, tokens, parts);
        let expected = f32_tensor(&into, [tokens, hidden]);
        Reference.combine(&x, &contributions, &expected);
        for backend in backends() {
            let out = f32_tensor(&into, [tokens, hidden]);
            backend.ops.combine(&x, &contributions, &out);
            assert_same_bits(backend, "combine", &out, &expected);
        }
    }
}

pub fn contributions(random: &mut Random, count: usize, tokens: usize, parts: usize) -> Vec<Contribution> {
    let token = |random: &mut Random| random.below(tokens) as u32;
    let one = |_| Contribution { token: token(random), row: random.below(parts) as u32, weight: random.value() };
    (0..count).map(one).collect()
}

/// What draws an MLP's activation, and whether it has biases.
fn mlp_kinds() -> impl Strategy<Value = (Activation, bool)> {
    let activations = select(vec![
        Activation::SwiGlu,
        Activation::SwiGluClamped { alpha: 1.702, limit: 1.5 },
        Activation::SwiGluLimited { limit: 1.5 },
        Activation::GeGlu,
        Activation::Relu2,
        Activation::Product,
    ]);
    (activations, any::<bool>())
}

fn activation(random: &mut Random) -> Activation {
    [
        Activation::SwiGlu,
        Activation::SwiGluClamped { alpha: 1.702, limit: 1.0 },
        Activation::SwiGluLimited { limit: 1.0 },
        Activation::GeGlu,
        Activation::Silu,
        Activation::Relu2,
        Activation::Product,
    ][random.below(7)]
}

/// A bias over `d` columns, its values some apart.
fn bias(random: &mut Random, d: usize) -> Bias {
    let (first, step) = (random.below(3), 1 + random.below(2));
    Bias { values: weight(random, [first + step * d], Format::Bf16, 1), first, step }
}

pub fn biases(random: &mut Random, width: usize, hidden: usize) -> [Bias; 3] {
    [width, width, hidden].map(|d| bias(random, d))
}

/// What draws a router.
#[derive(Clone, Copy, Debug)]
struct RouterKind {
    score: RouterScore,
    bias: bool,
    groups: bool,
    best: usize,
    renormalise: bool,
    scale: f32,
    own: bool,
}

fn routers() -> impl Strategy<Value = RouterKind> {
    let scores = select(vec![
        RouterScore::Softmax,
        RouterScore::SoftmaxOfChosen,
        RouterScore::SparseMixer { jitter: 0.1 },
        RouterScore::Sigmoid,
        RouterScore::SqrtSoftplus,
    ]);
    let scales = (select(vec![1.0, 2.5]), any::<bool>());
    (scores, any::<bool>(), any::<bool>(), 1usize..=2, any::<bool>(), scales).prop_map(
        |(score, bias, groups, best, renormalise, (scale, own))| RouterKind {
            score,
            bias,
            groups,
            best,
            renormalise,
            scale,
            own,
        },
    )
}

impl RouterKind {
    fn router(self, random: &mut Random, experts: usize, k: usize) -> Router {
        let RouterKind { score, bias, groups, best, renormalise, scale, own } = self;
        let groups = (groups && experts.is_multiple_of(4)).then_some(RouterGroups { count: 4, keep: 2, best });
        let candidates = if groups.is_some() { experts / 2 } else { experts };
        let bias = bias.then(|| weight(random, [experts], Format::F32, 0));
        let expert_scale = own.then(|| weight(random, [experts], Format::Bf16, 1));
        Router { top_k: k.min(candidates), score, bias, groups, renormalise, eps: 1e-6, scale, expert_scale }
    }
}

/// The trait's own definition of `mlp`, which a backend may override.
pub fn mlp_of_operations(backend: &Backend, x: &Tensor, rows: &[u32], mlp: &Mlp, scratch: &MlpScratch, out: &Tensor) {
    let n = rows.len();
    let (inputs, gate, up) = (scratch.x.rows(0..n), scratch.gate.rows(0..n), scratch.up.rows(0..n));
    let biased = |x: &Tensor, w: &Matrix, which: usize, out: &Tensor| {
        backend.ops.linear(x, w, out);
        if let Some(biases) = &mlp.biases {
            backend.ops.add_bias(out, &biases[which]);
        }
    };
    backend.ops.gather(x, rows, &inputs);
    let (first, bias) = mlp.first();
    biased(&inputs, first, bias, &gate);
    if mlp.gate.is_some() {
        biased(&inputs, &mlp.up, 1, &up);
    }
    backend.ops.glu(&gate, &up, mlp.activation, &gate);
    biased(&gate, &mlp.down, 2, out);
}

/// What `reference` makes of an MLP with activations rounded where the backend rounds them, and how far each output may
/// be from it: what reordered sums do to gate and up, and, where that makes a value round to the other side, half a bit
/// of bf16.
fn mlp_of_reference(backend: &Backend, x: &Tensor, rows: &[u32], mlp: &Mlp) -> (Tensor, Vec<f32>) {
    let (n, width, hidden) = (rows.len(), mlp.width(), mlp.up.cols());
    let round = |x: &Tensor, w: &Matrix| if backend.rounds(w.format()) { rounded(x) } else { x.clone() };
    let (inputs, gated, out) = (empty([n, hidden]), empty([n, width]), empty([n, hidden]));
    Reference.gather(x, rows, &inputs);
    let add_bias = |out: &Tensor, which: usize| {
        if let Some(biases) = &mlp.biases {
            Reference.add_bias(out, &biases[which]);
        }
    };
    let half = |w: &Matrix, which: usize| {
        let (input, out) = (round(&inputs, w), empty([n, width]));
        Reference.linear(&input, w, &out);
        add_bias(&out, which);
        (norms(&input, w), out)
    };
    let ((gate_norms, gate), (up_norms, up)) = (half(mlp.first().0, mlp.first().1), half(&mlp.up, 1));
    Reference.glu(&gate, &up, mlp.activation, &gated);
    let entering = round(&gated, &mlp.down);
    Reference.linear(&entering, &mlp.down, &out);
    add_bias(&out, 2);
    let (gate, up, entering_values) = (to_f32(&gate), to_f32(&up), to_f32(&entering));
    let half_a_bit = if backend.rounds(mlp.down.format()) { 1.0 / 256.0 } else { 1e-6 };
    // silu and gelu have slopes of at most 1.2 and are at most |z|; the clamped one takes up + 1; a square's slope is 2z.
    let off = |i: usize| {
        let reordered = 1.2 * gate_norms[i] * (up[i].abs() + 1.0) + gate[i].abs() * up_norms[i] + gate[i].abs();
        REORDERED * reordered + half_a_bit * entering_values[i].abs()
    };
    let (off, norms, down) =
        ((0..n * width).map(off).collect::<Vec<_>>(), norms(&entering, &mlp.down), dequantised(&mlp.down));
    let tolerance = (0..n * hidden).map(|i| {
        let (off, w) = (&off[i / hidden * width..][..width], &down[i % hidden * width..][..width]);
        off.iter().zip(w).map(|(off, w)| off * w.abs()).sum::<f32>() + REORDERED * norms[i]
    });
    (out, tolerance.collect())
}

/// Shapes beyond what the properties draw: several blocks of rows, several tasks for every thread.
#[test]
fn large_linear() {
    for (n, rows, cols) in [(1, 5000, 96), (1, 30, 9000), (530, 70, 33), (40, 300, 1000)] {
        for format in [Format::Bf16, Format::F16] {
            let mut random = Random(n as u64);
            let (x, w) = (random.tensor([n, cols]), matrix(&mut random, rows, cols, format, 1));
            let (exact, of_rounded) = (empty([n, rows]), empty([n, rows]));
            Reference.linear(&x, &w, &exact);
            Reference.linear(&rounded(&x), &w, &of_rounded);
            let norms = norms(&x, &w);
            for backend in backends_of_two_threads() {
                let out = empty([n, rows]);
                backend.ops.linear(&x, &w, &out);
                let expected = if backend.rounds(format) { &of_rounded } else { &exact };
                assert_near(backend, &out, expected, |i| REORDERED * norms[i]);
            }
        }
    }
}

#[test]
fn equal_scores_go_to_the_lower_index() {
    let logits = f32_tensor(&[1.0, 3.0, 2.0, 3.0, 2.0, 3.0, 2.0], [1, 7]);
    let router = Router { renormalise: true, ..Router::new(5, RouterScore::Softmax) };
    let every: Vec<&dyn Ops> =
        std::iter::once(&Reference as &dyn Ops).chain(backends().iter().map(|b| &b.ops as _)).collect();
    for ops in every {
        let (choice, weights) = (i32_tensor([1, 5]), empty([1, 5]));
        ops.route(&logits, &router, &choice, &weights);
        let chosen: Vec<i32> =
            to_bytes(&choice).chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert_eq!(chosen, [1, 3, 5, 2, 4], "{}", ops.describe());
        assert!((to_f32(&weights).iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
}

#[test]
fn a_router_fed_with_nan_still_chooses_experts_that_exist() {
    let logits = f32_tensor(&[f32::NAN; 6], [1, 6]);
    let router = Router { renormalise: false, ..Router::new(6, RouterScore::Softmax) };
    for backend in backends() {
        let (choice, weights) = (i32_tensor([1, 6]), empty([1, 6]));
        backend.ops.route(&logits, &router, &choice, &weights);
        let mut chosen: Vec<u8> = to_bytes(&choice).chunks_exact(4).map(|b| b[0]).collect();
        chosen.sort_unstable();
        assert_eq!(chosen, [0, 1, 2, 3, 4, 5]);
    }
}

#[test]
#[should_panic(expected = "has no host address")]
fn device_memory_is_refused_by_name() {
    let unbacked = Tensor::new(outpour_kernels::Buffer::unbacked(64), 0, [4, 4], DType::F32);
    backends()[0].ops.add(&unbacked, &empty([4, 4]));
}
