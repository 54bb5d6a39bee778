//! What the `cpu` backend makes of this machine, by `outpour_kernels::speed`:
//! `cargo run --release -p outpour-kernels --example speed [isa]`, with `isa` as in `describe`.

use std::time::Duration;

use outpour_kernels::cpu::{Cpu, CpuOptions, Isa};
use outpour_kernels::speed::{self, FORMATS, Weights};
use outpour_kernels::{Ops, OpsError};

/// For each figure.
const BUDGET: Duration = Duration::from_millis(300);
const ROWS: [usize; 4] = [1, 16, 128, 512];
/// Hidden and width of experts: of a 30B model, and of a 397B one.
const EXPERTS: [(usize, usize); 2] = [(2048, 768), (4096, 1024)];
/// Rows and positions.
const ATTENTION: [(usize, usize); 2] = [(1, 4096), (512, 4096)];

fn main() -> Result<(), OpsError> {
    let isa = match std::env::args().nth(1) {
        Some(name) => match Isa::available().find(|isa| isa.name() == name) {
            Some(isa) => Some(isa),
            None => {
                let here: Vec<&str> = Isa::available().map(Isa::name).collect();
                eprintln!("{name}: this machine has {}", here.join(", "));
                std::process::exit(2);
            }
        },
        None => None,
    };
    for threads in [1, 2] {
        for precise in [false, true] {
            measure(&Cpu::new(CpuOptions { threads, precise, isa })?, threads)?;
        }
    }
    Ok(())
}

fn measure(cpu: &Cpu, threads: usize) -> Result<(), OpsError> {
    let weights = Weights::new(cpu, 2 * speed::weights_bytes())?;
    let reading = weights.read_bytes_per_second(threads, BUDGET);
    println!("{}; reading {:.1} GB/s", cpu.describe(), reading / 1e9);
    for format in FORMATS {
        print!("  {format:?}:");
        for rows in ROWS {
            let product = weights.product(format, rows, BUDGET)?;
            let share = 100.0 * product.weight_bytes_per_second / reading;
            match rows {
                1 => print!(" one row {:.1} GB/s ({share:.0} % of reading),", product.weight_bytes_per_second / 1e9),
                _ => print!(" {rows} rows {:.0} Gop/s,", product.ops_per_second / 1e9),
            }
        }
        for (hidden, width) in EXPERTS {
            let experts = weights.experts(format, hidden, width, 1, BUDGET)?;
            print!(" experts of {hidden} × {width} {:.1} GB/s,", experts.weight_bytes_per_second / 1e9);
        }
        println!();
    }
    for (rows, positions) in ATTENTION {
        let attention = weights.attention(rows, positions, BUDGET)?;
        let (flops, kv) = (attention.flops_per_second / 1e9, attention.kv_bytes_per_second / 1e9);
        println!("  attention, {rows} rows at {positions}: {flops:.0} Gflop/s, keys and values once at {kv:.1} GB/s");
    }
    println!("  a small operation: {:.1} µs", 1e6 * speed::small_op_seconds(cpu)?);
    // The weights are states from here on.
    for rows in [1, 512] {
        println!("  gated delta, {rows} rows: {:.1} GB/s of state", weights.delta(rows, BUDGET)? / 1e9);
    }
    Ok(())
}
