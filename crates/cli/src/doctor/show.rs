//! The report for people.

use std::fmt::Write;

use outpour_engine::profile::{Product, Profile};
use outpour_kernels::Format;
use outpour_store::bytes::Bytes;

use super::Report;
use super::drive::{Curve, Drives, Sample};
use super::facts::{Memory, Processor, System};

/// Formats and rows of the table of products; --json has all.
const FORMATS: [(Format, &str); 3] = [
    (Format::Bf16, "bf16"),
    (Format::Affine { bits: 8, group: 64 }, "8 bits"),
    (Format::Affine { bits: 4, group: 64 }, "4 bits"),
];
const ROWS: [usize; 3] = [1, 16, 512];

/// The whole report.
pub fn describe(report: &Report) -> String {
    let mut text = String::new();
    processor(&mut text, &report.facts.processor, report.profile.as_ref());
    memory(&mut text, &report.facts.memory, report.profile.as_ref());
    drive(&mut text, &report.drive);
    system(&mut text, &report.facts.system, &report.facts.memory, &report.drive);
    section(&mut text, "Troubles");
    if report.troubles.is_empty() {
        text += "  none\n";
    }
    for trouble in &report.troubles {
        text += &format!("  {}\n    fix: {}\n", trouble.trouble, trouble.fix);
    }
    if !report.unmeasured.is_empty() {
        section(&mut text, "Not measured");
        report.unmeasured.iter().for_each(|why| text += &format!("  {why}\n"));
    }
    if let Some(path) = &report.stored {
        text += &format!("\nStored for `outpour plan` in {}\n", path.display());
    }
    text
}

fn section(text: &mut String, name: &str) {
    *text += &format!("{}{name}\n", if text.is_empty() { "" } else { "\n" });
}

fn line(text: &mut String, name: &str, value: &str) {
    *text += format!("  {name:<18}{value}").trim_end();
    text.push('\n');
}

fn processor(text: &mut String, facts: &Processor, profile: Option<&Profile>) {
    section(text, "Processor");
    line(text, "name", facts.name.as_deref().unwrap_or("unknown"));
    let missing = facts.isa_missing.join(", ");
    let missing = if missing.is_empty() { String::new() } else { format!(" (this processor lacks {missing})") };
    line(text, "instructions", &format!("{}{missing}", facts.isa));
    let quota = facts.cpu_quota.map_or(String::new(), |quota| format!(", time of {quota:.1} by control group"));
    line(text, "threads", &format!("{} on {} CPUs{quota}", facts.threads, facts.cpus_allowed));
    let Some(profile) = profile else { return };
    if let Some(peaks) = &profile.peaks {
        let giga = |value: f64| format!("{:.0}", value / 1e9);
        let (int8, bf16, f32) = (peaks.int8_ops_per_second, peaks.bf16_flops_per_second, peaks.f32_flops_per_second);
        line(
            text,
            "at most",
            &format!("{} Gop/s in int8, {} Gflop/s in bf16, {} in f32", giga(int8), giga(bf16), giga(f32)),
        );
    }
    let mut head = String::new();
    ROWS.iter().for_each(|rows| head += &format!("{:>14}", format!("{rows} row{}", if *rows == 1 { "" } else { "s" })));
    line(text, "products", &head);
    for (format, name) in FORMATS {
        let cells = ROWS.map(|rows| format!("{:>14}", cell(&profile.products, format, rows)));
        line(text, &format!("  {name}"), &cells.concat());
    }
    line(text, "small operation", &format!("{:.1} µs", 1e6 * profile.small_op_seconds));
}

/// GB/s of weights for one row, operations for more.
fn cell(products: &[Product], format: Format, rows: usize) -> String {
    let found = products.iter().find(|product| product.format == format && product.rows == rows);
    found.map_or("–".to_owned(), |product| match rows {
        1 => format!("{:.1} GB/s", product.weight_bytes_per_second / 1e9),
        _ => format!("{:.0} Gop/s", product.ops_per_second / 1e9),
    })
}

fn memory(text: &mut String, facts: &Memory, profile: Option<&Profile>) {
    section(text, "Memory");
    let bytes = |bytes: Option<u64>| bytes.map_or("unknown".to_owned(), |bytes| Bytes(bytes).to_string());
    line(text, "available", &format!("{} of {}", bytes(facts.available_bytes), bytes(facts.total_bytes)));
    if let Some(limit) = facts.cgroup_limit_bytes {
        let free = bytes(facts.cgroup_free_bytes);
        line(text, "control group", &format!("allows {}, {free} of it free", Bytes(limit)));
    }
    line(text, "--ram", &format!("{} unless given", bytes(facts.ram_default_bytes)));
    if let Some(profile) = profile {
        let speed = profile.memory_read_bytes_per_second / 1e9;
        line(text, "reading", &format!("{speed:.1} GB/s by {} threads", profile.threads));
    }
    if let Some(huge_pages) = facts.huge_pages {
        line(text, "huge pages", huge_pages);
    }
}

fn drive(text: &mut String, drive: &Drives) {
    section(text, "Drive");
    let name = drive.name.as_deref().unwrap_or("unknown");
    let words = [drive.model.clone(), drive.file_system.clone(), Some(drive.folder.display().to_string())];
    let words: Vec<String> = words.into_iter().flatten().collect();
    line(text, "name", &format!("{name} ({})", words.join(", ")));
    if let Some(bytes) = drive.scratch_bytes {
        let what = format!("a temporary file of {}, removed; name a MODEL to read its experts", Bytes(bytes));
        line(text, "read", &what);
    } else if drive.of_model {
        line(text, "read", "the model's own experts");
    }
    if drive.curves.is_empty() {
        return;
    }
    line(text, "reader", &drive.reader);
    let mut depths: Vec<usize> = drive.curves.iter().flat_map(|curve| &curve.samples).map(|s| s.depth).collect();
    depths.sort_unstable();
    depths.dedup();
    let head: String = depths.iter().map(|depth| format!("{depth:>7}")).collect();
    line(text, "GB/s at depth", &format!("{:<16}{head}", ""));
    for curve in &drive.curves {
        line(text, &format!("  {}", label(curve)), &row(curve, &depths));
    }
    if let Some(sample) = &drive.sequential {
        let speed = format!("{:.2} GB/s, blocks of 1 MiB in order, {} in flight", giga(sample), sample.depth);
        line(text, "sequential", &format!("{speed}{}", if sample.of_drive { "" } else { " (page cache)" }));
    }
    for (sample, curve) in drive.curves.iter().filter_map(|curve| Some((curve.sustained.as_ref()?, curve))) {
        let (depth, size) = (sample.depth, curve.record_bytes as f64 / 1e6);
        let speed = format!("{:.2} GB/s, {depth} experts of {size:.1} MB in flight for a second", giga(sample));
        line(text, "sustained", &speed);
    }
    if let Some(engine) = &drive.engine {
        let (speed, share) = (engine.bytes_per_second / 1e9, 100.0 * engine.share_of_limit);
        let depth = engine.depth;
        line(
            text,
            "as outpour reads",
            &format!("{speed:.2} GB/s, {depth} experts together and then a pause; {share:.0} % of the most"),
        );
    }
}

fn label(curve: &Curve) -> String {
    let direct = if curve.direct { "O_DIRECT" } else { "buffered" };
    format!("{} {direct}", curve.reader)
}

fn row(curve: &Curve, depths: &[usize]) -> String {
    let reads = if curve.extents == 1 { "1 read".to_owned() } else { format!("{} reads", curve.extents) };
    let mut text = format!("{:<16}", format!("{:.1} MB, {reads}", curve.record_bytes as f64 / 1e6));
    for depth in depths {
        let sample = curve.samples.iter().find(|sample| sample.depth == *depth);
        let cell = sample.map_or(String::new(), |s| format!("{:.2}{}", giga(s), if s.of_drive { "" } else { "*" }));
        let _ = write!(text, "{cell:>7}");
    }
    if curve.samples.iter().any(|sample| !sample.of_drive) {
        text += "  * page cache";
    }
    text
}

fn giga(sample: &Sample) -> f64 {
    sample.bytes_per_second / 1e9
}

fn system(text: &mut String, facts: &System, memory: &Memory, drive: &Drives) {
    section(text, "System");
    line(text, "kernel", &format!("{} {}", facts.os, facts.kernel.as_deref().unwrap_or("")));
    if let Some(usable) = facts.io_uring {
        let buffers = match drive.registered {
            Some(true) => ", memory registered",
            Some(false) => ", memory not registered",
            None => "",
        };
        line(text, "io_uring", &format!("{}{buffers}", if usable { "yes" } else { "no" }));
    }
    let limit = memory.memlock_limit_bytes.map_or("without limit".to_owned(), |bytes| Bytes(bytes).to_string());
    line(text, "locked memory", &limit);
    if let Some(kib) = drive.read_ahead_kib {
        line(text, "read-ahead", &format!("{kib} KiB; outpour asks for none"));
    }
    let swap =
        memory.swap_total_bytes.map(|bytes| if bytes == 0 { "none".to_owned() } else { Bytes(bytes).to_string() });
    if let Some(swap) = swap {
        line(text, "swap", &swap);
    }
}
