//! `routes replay`: what a cache would have made of recorded routes, by policy and size.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use outpour_store::bytes::Bytes;
use outpour_store::trace::file::{self, Shape};
use outpour_store::trace::{Policy, Scope, Trace, replay_by, replay_pinned};
use serde_json::json;

use crate::args::{ReplayArgs, TableForm};
use crate::term;

/// Replays a file of routes.
///
/// # Errors
/// About the file or the flags.
pub fn replay(args: &ReplayArgs) -> Result<ExitCode> {
    let (shape, trace) = file::read(&args.routes)?;
    if trace.is_empty() {
        bail!("{}: holds no routes", args.routes.display());
    }
    let sizes = sizes(args, &shape)?;
    let policies =
        if args.policy.is_empty() { Policy::ALL.to_vec() } else { args.policy.iter().map(|p| p.policy()).collect() };
    let scopes = args.scope.map_or(vec![Scope::Global, Scope::PerLayer], |scope| vec![scope.scope()]);
    let from = (trace.len() as f64 * args.skip / 100.0) as usize;
    if from >= trace.len() {
        bail!("--skip {}: leaves no step of {} to be counted; give less", args.skip, trace.len());
    }
    let mut rows = Vec::new();
    for &policy in &policies {
        for &scope in &scopes {
            let rates = sizes.iter().map(|&slots| replay_by(&trace, slots, policy, scope, from).hit_rate()).collect();
            rows.push(Row { policy: policy.name().to_owned(), scope, rates });
        }
    }
    for &percent in &args.pin {
        let pins = |slots: usize| (slots as f64 * percent / 100.0).round() as usize;
        let rates = sizes.iter().map(|&slots| replay_pinned(&trace, slots, pins(slots), from).hit_rate()).collect();
        rows.push(Row { policy: format!("lru-{percent}-pinned"), scope: Scope::Global, rates });
    }
    term::show(&match args.output {
        TableForm::Md => markdown(&shape, &trace, from, &sizes, &rows),
        TableForm::Json => json(&shape, &trace, &sizes, &rows)?,
    })?;
    Ok(ExitCode::SUCCESS)
}

struct Row {
    policy: String,
    scope: Scope,
    /// Hits as shares, by size.
    rates: Vec<f64>,
}

impl Row {
    fn scope(&self) -> &'static str {
        match self.scope {
            Scope::Global => "global",
            Scope::PerLayer => "per-layer",
        }
    }
}

/// Slots of the caches asked for: at least one each, and no more than there are experts.
fn sizes(args: &ReplayArgs, shape: &Shape) -> Result<Vec<usize>> {
    if args.ram.is_empty() {
        let slots = |&percent: &f64| match (shape.experts as f64 * percent / 100.0).round() as usize {
            0 => bail!("--share {percent}: does not hold one of {} experts", shape.experts),
            slots => Ok(slots),
        };
        return args.share.iter().map(slots).collect();
    }
    if shape.expert_bytes == 0 {
        bail!("{}: does not tell how large an expert is: give --share instead of --ram", args.routes.display());
    }
    let slots = |&Bytes(ram): &Bytes| match (ram / shape.expert_bytes) as usize {
        0 => bail!("--ram {}: does not hold one expert of {}", Bytes(ram), Bytes(shape.expert_bytes)),
        slots => Ok(slots.min(shape.experts)),
    };
    args.ram.iter().map(slots).collect()
}

fn markdown(shape: &Shape, trace: &Trace, from: usize, sizes: &[usize], rows: &[Row]) -> String {
    let uses: usize = trace.steps().skip(from).map(|(_, experts)| experts.len()).sum();
    let mut text = format!(
        "{uses} uses of {} experts in {} layers, after {from} steps that fill the memory; hits in % of uses, by experts that \
         fit:\n\n| policy | slots |",
        shape.experts, shape.layers
    );
    for &slots in sizes {
        let memory = match shape.expert_bytes {
            0 => String::new(),
            bytes => format!(", {}", Bytes(bytes * slots as u64)),
        };
        let _ = write!(text, " {slots} ({:.0} %{memory}) |", 100.0 * slots as f64 / shape.experts.max(1) as f64);
    }
    text += "\n|---|---|";
    sizes.iter().for_each(|_| text += "---:|");
    text.push('\n');
    for row in rows {
        let _ = write!(text, "| {} | {} |", row.policy, row.scope());
        row.rates.iter().for_each(|rate| text += &format!(" {:.1} |", 100.0 * rate));
        text.push('\n');
    }
    text
}

fn json(shape: &Shape, trace: &Trace, sizes: &[usize], rows: &[Row]) -> Result<String> {
    let rows = rows.iter().flat_map(|row| {
        sizes.iter().zip(&row.rates).map(move |(&slots, &rate)| {
            json!({
                "policy": row.policy,
                "scope": row.scope(),
                "slots": slots,
                "ram_bytes": shape.expert_bytes * slots as u64,
                "hit_rate": rate,
            })
        })
    });
    let all = json!({ "model": shape, "steps": trace.len(), "replays": rows.collect::<Vec<_>>() });
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}
