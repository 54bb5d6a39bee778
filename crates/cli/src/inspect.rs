//! `inspect`: what a model is, from its headers.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use outpour_engine::Inspection;
use outpour_store::bytes::Bytes;
use outpour_store::checkpoint::Checkpoint;
use outpour_store::layout::{ExpertId, ExpertLayout};
use outpour_text::ChatTemplate;
use serde_json::{Value, json};

use crate::args::InspectArgs;
use crate::outline::Outline;
use crate::{model, names, term};

/// Shows a model, or what its config says that it will be.
///
/// # Errors
/// One line about the file that is missing or damaged.
pub fn inspect(args: &InspectArgs) -> Result<ExitCode> {
    let outline = Outline::of(&args.model, args.format)?;
    let dir = outline.as_ref().map_or(args.model.as_path(), Outline::dir);
    let report = report(&args.model, &Inspection::open(dir, false)?, outline.is_some())?;
    term::show(&if args.json { format!("{report:#}\n") } else { describe(&report) })?;
    Ok(ExitCode::SUCCESS)
}

/// `estimated`: there is nothing but a config.
fn report(model: &Path, inspection: &Inspection, estimated: bool) -> Result<Value> {
    let (checkpoint, facts, layout) = (inspection.checkpoint(), inspection.facts(), &inspection.layout);
    let sparse_layers: Vec<usize> = (0..layout.layers()).filter(|&layer| layout.experts(layer) > 0).collect();
    let experts_bytes = layout.bytes_total();
    let one_expert = sparse_layers.first().map_or(0, |&layer| expert_bytes(layout, layer));
    let per_token: u64 = sparse_layers.iter().map(|&layer| expert_bytes(layout, layer) * facts.top_k as u64).sum();
    let all_bytes: u64 = checkpoint.tensors().map(|(_, info)| info.bytes).sum();
    let (parameters, read_bytes) = inspection.parameters()?;
    let state = inspection.model().state_layout();
    let [of_trunk, of_experts] = inspection.stored();
    Ok(json!({
        "model": names::called(checkpoint.dir()).map_or_else(|| json!(model), Value::from),
        "estimated": estimated,
        "family": facts.family,
        "architectures": checkpoint.config().get("architectures"),
        "layers": facts.layers,
        "pattern": facts.pattern,
        "legend": facts.legend,
        "hidden_size": facts.hidden,
        "vocab_size": facts.vocab,
        "context_max": facts.context_max,
        "experts_per_layer": sparse_layers.first().map_or(0, |&layer| layout.experts(layer)),
        "sparse_layers": sparse_layers.len(),
        "top_k": facts.top_k,
        "parameters": parameters,
        "bits_per_weight": if parameters == 0 { 0.0 } else { 8.0 * read_bytes as f64 / parameters as f64 },
        "dtypes": dtypes(checkpoint),
        "stored": {"trunk": of_trunk, "experts": of_experts},
        "files": checkpoint.files().len(),
        "total_bytes": all_bytes,
        "trunk_bytes": all_bytes.saturating_sub(experts_bytes + inspection.table_bytes),
        "table_bytes": inspection.table_bytes,
        "experts_bytes": experts_bytes,
        "expert_bytes": one_expert,
        "expert_bytes_per_token": per_token,
        "reads_per_expert": sparse_layers.first().map_or(0, |&layer| {
            layout.place(ExpertId { layer: layer as u32, expert: 0 }, checkpoint.files()).runs().len()
        }),
        "state_bytes_per_token": state.bytes_per_token(),
        "state_bytes_fixed": state.fixed_bytes(),
        "vision_tensors_skipped": inspection.skipped()[0],
        "mtp_tensors_skipped": inspection.skipped()[1],
        "chat_template": template(checkpoint)?,
        "tokenizer": tokenizer(checkpoint),
        "gguf": gguf(checkpoint),
    }))
}

fn expert_bytes(layout: &ExpertLayout, layer: usize) -> u64 {
    layout.expert_bytes(ExpertId { layer: layer as u32, expert: 0 })
}

/// Bytes by type of element.
fn dtypes(checkpoint: &Checkpoint) -> Value {
    let mut bytes = std::collections::BTreeMap::<String, u64>::new();
    for (_, info) in checkpoint.tensors() {
        *bytes.entry(info.dtype.to_string()).or_default() += info.bytes;
    }
    json!(bytes)
}

fn template(checkpoint: &Checkpoint) -> Result<Value> {
    let source = match checkpoint.gguf() {
        Some(metadata) => metadata.text("tokenizer.chat_template").map(str::to_owned),
        None => ChatTemplate::load(checkpoint.dir())?.map(|template| template.source().to_owned()),
    };
    Ok(source.map_or(Value::Null, |source| json!({"bytes": source.len(), "tools": source.contains("tools")})))
}

fn tokenizer(checkpoint: &Checkpoint) -> Value {
    if let Some(metadata) = checkpoint.gguf() {
        let kind = [metadata.text("tokenizer.ggml.model"), metadata.text("tokenizer.ggml.pre")];
        let kind: Vec<&str> = kind.into_iter().flatten().collect();
        let Some(vocab) = metadata.list_len("tokenizer.ggml.tokens") else { return Value::Null };
        return json!({"kind": kind.join(" "), "vocab": vocab, "added_tokens": 0});
    }
    let dir = checkpoint.dir();
    let Some(file) = model::glance(dir, "tokenizer.json") else { return Value::Null };
    let vocab = match &file["model"]["vocab"] {
        Value::Object(vocab) => vocab.len(),
        Value::Array(vocab) => vocab.len(),
        _ => 0,
    };
    let added = file["added_tokens"].as_array().map_or(0, Vec::len);
    json!({"kind": file["model"]["type"], "vocab": vocab, "added_tokens": added})
}

/// Everything that a GGUF file says beside its tensors, but for templates and long lists.
fn gguf(checkpoint: &Checkpoint) -> Value {
    let Some(metadata) = checkpoint.gguf() else { return Value::Null };
    let short = |value: &Value| value.as_str().is_none_or(|text| text.len() < 200);
    metadata.values().filter(|(_, value)| short(value)).map(|(key, value)| (key.to_owned(), value.clone())).collect()
}

/// How experts and the rest are stored, what takes most first.
fn stored(report: &Value) -> String {
    let words = |of: &str| {
        let mut all: Vec<(&String, u64)> =
            report[of].as_object().into_iter().flatten().map(|(name, n)| (name, n.as_u64().unwrap_or(0))).collect();
        all.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let names: Vec<&str> = all.into_iter().map(|(name, _)| name.as_str()).collect();
        (!names.is_empty()).then(|| format!("{of} {}", names.join(", ")))
    };
    let all: Vec<String> = ["experts", "trunk"].into_iter().filter_map(words).collect();
    all.join("; ")
}

fn describe(report: &Value) -> String {
    let text = |key: &str| report[key].as_str().map_or_else(|| report[key].to_string(), str::to_owned);
    let bytes = |key: &str| Bytes(report[key].as_u64().unwrap_or(0));
    let tokenizer = match &report["tokenizer"] {
        Value::Null => "none".to_owned(),
        tokenizer => format!(
            "{}, {} tokens and {} added",
            tokenizer["kind"].as_str().unwrap_or("?"),
            tokenizer["vocab"],
            tokenizer["added_tokens"]
        ),
    };
    let template = match &report["chat_template"] {
        Value::Null => "none: use --raw".to_owned(),
        template => {
            format!("{} bytes{}", template["bytes"], if template["tools"] == true { ", with tools" } else { "" })
        }
    };
    let dtypes = report["dtypes"].as_object().into_iter().flatten();
    let dtypes: Vec<String> = dtypes.map(|(name, n)| format!("{} {name}", Bytes(n.as_u64().unwrap_or(0)))).collect();
    let estimated = report["estimated"] == true;
    let lines = [
        ("model", text("model") + if estimated { ", estimated from the config alone" } else { "" }),
        (
            "architecture",
            format!(
                "{}, {} layers, hidden {}, vocabulary {}, context {}",
                text("family"),
                text("layers"),
                text("hidden_size"),
                text("vocab_size"),
                text("context_max")
            ),
        ),
        ("layers", format!("{}  ({})", text("pattern"), text("legend"))),
        (
            "experts",
            format!(
                "{} in each of {} layers, {} for each token",
                text("experts_per_layer"),
                text("sparse_layers"),
                text("top_k")
            ),
        ),
        (
            "parameters",
            format!(
                "{:.2} billion at {:.2} bits ({})",
                report["parameters"].as_f64().unwrap_or(0.0) / 1e9,
                report["bits_per_weight"].as_f64().unwrap_or(0.0),
                dtypes.join(", ")
            ),
        ),
        ("stored", stored(&report["stored"])),
        (
            "bytes",
            format!(
                "{} in {} files: trunk {}, experts {}{}",
                bytes("total_bytes"),
                text("files"),
                bytes("trunk_bytes"),
                bytes("experts_bytes"),
                match report["table_bytes"].as_u64() {
                    None | Some(0) => String::new(),
                    Some(_) => format!(", tables read by row {}", bytes("table_bytes")),
                }
            ),
        ),
        ("one expert", format!("{} in {} reads", bytes("expert_bytes"), text("reads_per_expert"))),
        (
            "each token",
            format!("{} of experts, {} of state", bytes("expert_bytes_per_token"), bytes("state_bytes_per_token")),
        ),
        ("each sequence", format!("{} of state, however short", bytes("state_bytes_fixed"))),
        (
            "left unread",
            format!(
                "{} vision tensors, {} of multi-token prediction",
                text("vision_tensors_skipped"),
                text("mtp_tensors_skipped")
            ),
        ),
        ("tokenizer", tokenizer),
        ("chat template", template),
    ];
    // A config says nothing of what lies beside the weights that are read.
    let beside = |name: &str| ["left unread", "tokenizer", "chat template"].contains(&name);
    let said = lines.into_iter().filter(|(name, _)| !(estimated && beside(name)));
    said.map(|(name, value)| format!("{name:>14}  {value}\n")).collect()
}
