//! `plan`: the size of every buffer for a given `--ram`, before anything is allocated.

use std::process::ExitCode;

use anyhow::Result;
use outpour_engine::Inspection;
use outpour_store::bytes::Bytes;
use outpour_store::plan::Plan;
use serde_json::{Value, json};

use crate::args::PlanArgs;
use crate::{model, term};

/// Shows the plan.
///
/// # Errors
/// When the memory is too small: one line with the minimum and what uses it.
pub fn plan(args: &PlanArgs) -> Result<ExitCode> {
    let inspection = Inspection::open(&args.model, args.load.numerics())?;
    let options = model::options(&args.load, inspection.checkpoint().dir())?;
    let plan = inspection.plan(&options)?;
    let experts = inspection.layout.experts_total();
    term::show(&if args.json { format!("{:#}\n", report(&plan, experts)) } else { describe(&plan, experts) })?;
    Ok(ExitCode::SUCCESS)
}

fn report(plan: &Plan, experts: usize) -> Value {
    let buffers: Vec<Value> = plan.buffers.iter().map(|line| json!({"name": line.name, "bytes": line.bytes})).collect();
    json!({
        "ram_bytes": plan.ram,
        "minimum_ram_bytes": plan.minimum_ram,
        "total_bytes": plan.total(),
        "buffers": buffers,
        "expert_slots": plan.expert_slots,
        "experts": experts,
        "ctx": plan.ctx,
        "context_bytes": plan.context_bytes,
        "prefill_chunk": plan.chunk,
        "slab_pieces": plan.pieces,
        "slab_piece_bytes": plan.piece_bytes,
    })
}

fn describe(plan: &Plan, experts: usize) -> String {
    let show = |bytes: usize| Bytes(bytes as u64).to_string();
    let mut text = String::new();
    for line in &plan.buffers {
        text += &format!("{:>12}  {:>10}\n", line.name, show(line.bytes));
    }
    text += &format!(
        "{:>12}  {:>10}  of {} given; the minimum is {}\n",
        "total",
        show(plan.total()),
        show(plan.ram),
        show(plan.minimum_ram)
    );
    let share = 100.0 * plan.expert_slots as f64 / experts.max(1) as f64;
    text += &format!(
        "The slab holds {} of {experts} experts ({share:.0} %), in {} pieces of {}.\n",
        plan.expert_slots,
        plan.pieces,
        show(plan.piece_bytes)
    );
    text += &format!(
        "A context of {} tokens takes {} of it as it fills; prompts are computed {} tokens at a time.\n",
        plan.ctx,
        show(plan.context_bytes),
        plan.chunk
    );
    text
}
