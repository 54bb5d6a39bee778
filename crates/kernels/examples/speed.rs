//! What the `cpu` backend makes of this machine, each figure beside the limit that was measured with it:
//! `cargo run --release -p outpour-kernels --example speed -- [WORD…]`. A word is an instruction set, as in `describe`, or one of
//! several that are measured in turn, a number of threads, `precise`, `ops` for everything beside products, `table` for medians over
//! rounds in which the instruction sets take turns, or a part of the names of the formats that are wanted.

use std::time::Duration;

use outpour_kernels::cpu::{Cpu, CpuOptions, Isa};
use outpour_kernels::quant::coded::WHOLE;
use outpour_kernels::speed::{self, FORMATS, Peaks, Weights};
use outpour_kernels::{Code, Coded, Format, GgmlType, Ops, OpsError, Second};

/// For each figure.
const BUDGET: Duration = Duration::from_millis(150);
const ROWS: [usize; 4] = [16, 32, 128, 512];
/// Of [`table`].
const TABLE_ROWS: usize = 128;
const ROUNDS: usize = 5;
const THREADS_MAX: usize = 4096;
/// Words that say what is measured, and how.
const KINDS: [&str; 3] = ["precise", "ops", "table"];
/// Hidden and width of experts: of a 30B model, and of a 397B one.
const EXPERTS: [(usize, usize); 2] = [(2048, 768), (4096, 1024)];

/// Affine weights beside those of [`FORMATS`], whose groups are of 64.
const BITS: [u8; 6] = [2, 3, 4, 5, 6, 8];
const GROUPS: [u8; 2] = [32, 128];

/// How safetensors files hold weights beside MLX's ways.
const CODED: [(&str, Coded); 7] = [
    ("FP8", Coded { code: Code::E4m3, block: [128, 128], second: Second::None }),
    ("MXFP4", Coded { code: Code::E2m1, block: [1, 32], second: Second::None }),
    ("NVFP4", Coded { code: Code::E2m1, block: [1, 16], second: Second::Times }),
    ("int4", Coded { code: Code::Int4, block: [1, 32], second: Second::None }),
    ("int8", Coded { code: Code::Int8, block: [1, WHOLE], second: Second::None }),
    ("GPTQ", Coded { code: Code::Gptq, block: [1, 128], second: Second::ZerosLessOne }),
    ("AWQ", Coded { code: Code::Awq, block: [1, 128], second: Second::Zeros }),
];

fn main() -> Result<(), OpsError> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let named = |word: &String| Isa::available().find(|isa| word == isa.name());
    let mut isas: Vec<Option<Isa>> = words.iter().filter_map(named).map(Some).collect();
    if isas.is_empty() {
        isas = vec![None];
    }
    let mut threads: Vec<usize> = words.iter().filter_map(|word| word.parse().ok()).collect();
    if threads.is_empty() {
        threads = vec![1, 2];
    }
    let has = |what: &str| words.iter().any(|word| word == what);
    let wanted = |name: &str| {
        let mut parts = words
            .iter()
            .filter(|word| word.parse::<usize>().is_err() && !KINDS.contains(&word.as_str()) && named(word).is_none());
        let first = parts.next();
        first.is_none() && !has("ops") || first.into_iter().chain(parts).any(|part| name.contains(part.as_str()))
    };
    let formats: Vec<(String, Format)> = all().into_iter().filter(|(name, _)| wanted(name)).collect();
    let is_known = |word: &String| match word.parse::<usize>() {
        Ok(threads) => (1..=THREADS_MAX).contains(&threads),
        Err(_) => {
            KINDS.contains(&word.as_str())
                || named(word).is_some()
                || all().iter().any(|(name, _)| name.contains(word.as_str()))
        }
    };
    if let Some(word) = words.iter().find(|word| !is_known(word)) {
        eprintln!("error: {word} is no format, no instruction set of this machine, and not 1 to {THREADS_MAX} threads");
        std::process::exit(2);
    }
    if has("table") {
        return threads.into_iter().try_for_each(|threads| table(&isas, threads, &formats));
    }
    for (threads, isa) in threads.into_iter().flat_map(|threads| isas.iter().map(move |&isa| (threads, isa))) {
        let cpu = Cpu::new(CpuOptions { threads, precise: has("precise"), isa })?;
        let weights = Weights::new(&cpu, 2 * speed::weights_bytes())?;
        let peaks = speed::peaks(cpu.isa(), threads, 4 * BUDGET);
        println!("{}; {}", cpu.describe(), of(peaks));
        products(&weights, threads, peaks, has("precise"), &formats)?;
        if has("ops") {
            operations(&weights, threads, peaks)?;
        }
    }
    Ok(())
}

/// One row and [`TABLE_ROWS`] of every format on every instruction set in turn, beside what memory gave in the same round, and
/// instructions before the first.
fn table(isas: &[Option<Isa>], threads: usize, formats: &[(String, Format)]) -> Result<(), OpsError> {
    let of = |&isa: &Option<Isa>| Cpu::new(CpuOptions { threads, precise: false, isa });
    let cpus: Vec<Cpu> = isas.iter().map(of).collect::<Result<_, _>>()?;
    let Some(first) = cpus.first() else { return Ok(()) };
    let weights = Weights::new(first, 2 * speed::weights_bytes())?;
    let peaks: Vec<Option<Peaks>> = cpus.iter().map(|cpu| speed::peaks(cpu.isa(), threads, 4 * BUDGET)).collect();
    for (cpu, &peaks) in cpus.iter().zip(&peaks) {
        println!("{}; {}", cpu.describe(), crate::of(peaks));
    }
    for (name, format) in formats {
        print!("| {name} |");
        let mut rounds = vec![[const { Vec::new() }; 4]; cpus.len()];
        for _ in 0..ROUNDS {
            for (of_isa, (cpu, &peaks)) in rounds.iter_mut().zip(cpus.iter().zip(&peaks)) {
                let weights = weights.with(cpu);
                let reading = weights.read_bytes_per_second(threads, BUDGET / 4);
                let row = weights.product(*format, 1, BUDGET / 4)?.weight_bytes_per_second;
                let many = weights.product(*format, TABLE_ROWS, BUDGET / 3)?.ops_per_second;
                let most = peaks.map_or(f64::NAN, |peaks| peak(*format, peaks, false));
                let figures = [row / 1e9, 100.0 * row / reading, many / 1e9, 100.0 * many / most];
                of_isa.iter_mut().zip(figures).for_each(|(all, figure)| all.push(figure));
            }
        }
        for [row, share, many, share_of_peak] in rounds.into_iter().map(|figures| figures.map(median)) {
            print!(" {row:.1} ({share:.0} %), {many:.0} ({share_of_peak:.0} %) |");
        }
        println!();
    }
    Ok(())
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// What bounds products of many rows.
fn peak(format: Format, peaks: Peaks, precise: bool) -> f64 {
    match format {
        Format::F32 | Format::F16 => peaks.f32_flops_per_second,
        Format::Bf16 if !precise => peaks.bf16_flops_per_second,
        Format::Coded(Coded { code: Code::E4m3, .. }) => peaks.f32_flops_per_second,
        _ if precise => peaks.f32_flops_per_second,
        _ => peaks.int8_ops_per_second,
    }
}

/// Every format, and what it is called.
fn all() -> Vec<(String, Format)> {
    let other_groups = GROUPS.into_iter().flat_map(|group| BITS.map(|bits| Format::Affine { bits, group }));
    let affine = FORMATS.into_iter().chain(other_groups).map(|format| match format {
        Format::Affine { bits, group } => (format!("affine{bits}-g{group}"), format),
        plain => (format!("{plain:?}"), plain),
    });
    let ggml = GgmlType::ALL.map(|blocks| (blocks.name().to_owned(), Format::Ggml(blocks)));
    let coded = CODED.map(|(name, coded)| (name.to_owned(), Format::Coded(coded)));
    affine.chain(ggml).chain(coded).collect()
}

fn of(peaks: Option<Peaks>) -> String {
    let Some(peaks) = peaks else { return "no loops for its peaks".to_owned() };
    let [int8, bf16, f32] =
        [peaks.int8_ops_per_second, peaks.bf16_flops_per_second, peaks.f32_flops_per_second].map(|peak| peak / 1e9);
    format!("int8 {int8:.0} Gop/s, bf16 {bf16:.0} and f32 {f32:.0} Gflop/s at most")
}

fn products(
    weights: &Weights,
    threads: usize,
    peaks: Option<Peaks>,
    precise: bool,
    formats: &[(String, Format)],
) -> Result<(), OpsError> {
    for (name, format) in formats {
        // Memory is shared with other machines: its speed is taken before and after.
        let before = weights.read_bytes_per_second(threads, BUDGET);
        let row = weights.product(*format, 1, 2 * BUDGET)?.weight_bytes_per_second;
        let reading = (before + weights.read_bytes_per_second(threads, BUDGET)) / 2.0;
        let share = 100.0 * row / reading;
        print!("{name:>12}: one row {:5.1} GB/s of {:4.1} ({share:3.0} %); rows", row / 1e9, reading / 1e9);
        let peak = peaks.map(|peaks| peak(*format, peaks, precise));
        for rows in ROWS {
            let ops = weights.product(*format, rows, BUDGET)?.ops_per_second;
            let share = peak.map(|peak| format!(" ({:2.0} %)", 100.0 * ops / peak)).unwrap_or_default();
            print!(" {rows}: {:4.0}{share}", ops / 1e9);
        }
        print!(" Gop/s; experts");
        for (hidden, width) in EXPERTS {
            let experts = weights.experts(*format, hidden, width, 1, BUDGET)?.weight_bytes_per_second;
            print!(" {:4.1} ({:3.0} %)", experts / 1e9, 100.0 * experts / reading);
        }
        println!(" GB/s");
    }
    Ok(())
}

/// Of one row at a long context, and of a prompt's many.
const OPERATIONS: [(usize, usize); 3] = [(1, 4096), (1, 32768), (512, 4096)];

fn operations(weights: &Weights, threads: usize, peaks: Option<Peaks>) -> Result<(), OpsError> {
    println!("a small operation: {:.1} µs", 1e6 * speed::small_op_seconds(weights.ops())?);
    for (rows, positions) in OPERATIONS {
        let reading = weights.read_bytes_per_second(threads, BUDGET);
        for of in weights.operations(rows, positions, BUDGET)? {
            let (bytes, flops) = (of.bytes / of.seconds, of.flops / of.seconds);
            print!("{}: {:.1} µs", of.name, 1e6 * of.seconds);
            if bytes > 0.0 {
                print!(", {:.1} GB/s ({:.0} % of reading)", bytes / 1e9, 100.0 * bytes / reading);
            }
            if let (true, Some(peaks)) = (flops > 0.0, peaks) {
                print!(
                    ", {:.0} Gflop/s ({:.0} % of f32's peak)",
                    flops / 1e9,
                    100.0 * flops / peaks.f32_flops_per_second
                );
            }
            println!();
        }
    }
    Ok(())
}
