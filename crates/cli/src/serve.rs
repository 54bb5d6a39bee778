//! `serve`: a model behind HTTP.

use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use outpour_engine::{Engine, Inspection, Options, Snapshots};
use outpour_model::state::BLOCK_TOKENS;
use outpour_serve::{Access, Loader, Model, States, serve_bytes};
use outpour_store::bytes::Bytes;
use outpour_store::machine::Machine;
use outpour_store::plan::Plan;
use outpour_store::slab;

use crate::args::{LoadArgs, SamplingArgs, ServeArgs};
use crate::{model, names, term};

/// Serves until the process is told to end.
///
/// # Errors
/// One line about the model, the flags or the port, before anything is loaded.
pub fn serve(args: &ServeArgs) -> Result<ExitCode> {
    let inspection = model::open(&args.model, &args.load)?;
    let own_bytes = model::tokenizer_bytes(inspection.checkpoint())
        + serve_bytes(inspection.facts().vocab)
        + model::states_bytes(&args.states, &inspection);
    let options = args.load.options(own_bytes)?;
    model::check_ram(options.ram)?;
    let plan = inspection.plan(&options)?;
    let served = served(&inspection, &plan, args.name.clone())?;
    let access = Access {
        api_key: args.api_key.clone().filter(|key| !key.is_empty()),
        hosts: vec![args.host.clone()],
        origins: args.cors.clone(),
    };
    if let Some(what) = inspection.lossy() {
        term::note(&format!("Lossy: {what}."));
    }
    let layout = inspection.model().state_layout();
    let state = layout.fixed_bytes() + BLOCK_TOKENS * layout.bytes_per_token();
    if args.states.state_dir.is_some() && args.states.state_size.0 < state as u64 {
        term::note(&format!(
            "--state-size {}: no state of this model fits, which takes {} or more, so none is kept.",
            args.states.state_size,
            Bytes(state as u64)
        ));
    }
    drop(inspection);
    let listener = TcpListener::bind((args.host.as_str(), args.port))
        .with_context(|| format!("cannot listen on {} port {}: give another --host or --port", args.host, args.port))?;
    let Bytes(state_bytes_max) = args.states.state_size;
    let states = args.states.state_dir.as_ref().map(|dir| Snapshots::open(dir, state_bytes_max)).transpose()?;
    announce(&listener, args, &served, options.ram)?;
    let states = states.map(|snapshots| States { snapshots, tell: term::note });
    let load = loader(args.model.clone(), args.load.clone(), options);
    outpour_serve::serve(listener, served, access, load, states, args.idle_release)
        .map_err(|problem| anyhow!(problem))?;
    Ok(ExitCode::SUCCESS)
}

/// The text side of a model; clients call it `name`, or as the hub does, or as its folder is called.
///
/// # Errors
/// When its tokenizer or template is missing or damaged.
pub fn served(inspection: &Inspection, plan: &Plan, name: Option<String>) -> Result<Model> {
    let dir = inspection.checkpoint().dir();
    let folder = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let folder = folder.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
    let tokenizer = model::tokenizer_of(inspection.checkpoint())?;
    Ok(Model {
        name: name.or_else(|| names::called(dir)).unwrap_or(folder),
        bytes: inspection.checkpoint().files().iter().map(|file| file.bytes()).sum(),
        format: if inspection.checkpoint().gguf().is_some() { "gguf" } else { "safetensors" },
        family: inspection.facts().family,
        parameters: inspection.parameters()?.0,
        stop_tokens: model::stop_tokens(inspection, &tokenizer)?,
        template: model::template(inspection.checkpoint(), &tokenizer)?,
        tokenizer: Arc::new(tokenizer),
        sampling: model::sampling(inspection, &SamplingArgs::default())?,
        vocab: inspection.facts().vocab,
        ctx: plan.ctx,
        recurrent: !inspection.model().state_layout().goes_back(),
    })
}

/// The server's address on standard output, and how clients are told of it on standard error.
fn announce(listener: &TcpListener, args: &ServeArgs, model: &Model, ram: usize) -> Result<()> {
    let host = if args.host.contains(':') { format!("[{}]", args.host) } else { args.host.clone() };
    let url = format!("http://{host}:{}", listener.local_addr()?.port());
    term::note(&format!(
        "Serving {} with {} of memory and a context of {} tokens. For clients:\n  OPENAI_BASE_URL={url}/v1\n  \
         ANTHROPIC_BASE_URL={url}\n  OLLAMA_HOST={url}",
        model.name,
        Bytes(ram as u64),
        model.ctx
    ));
    if args.api_key.is_none() && args.host != "127.0.0.1" && args.host != "localhost" && args.host != "::1" {
        term::note("Everybody who reaches this port can use it: --api-key lets in only those who have the key.");
    }
    term::show(&format!("{url}\n"))
}

/// Loads the model, at first and whenever its memory was given back.
pub fn loader(path: std::path::PathBuf, flags: LoadArgs, options: Options) -> Loader {
    Box::new(move |go_on| {
        let mut load = || -> Result<Engine> {
            let inspection = model::open(&path, &flags)?;
            // What parsing left on the heap, or an engine before, goes back before the buffers fill.
            slab::trim_heap();
            model::check_ram(options.ram)?;
            let reader = model::open_reader(flags.reader(), inspection.checkpoint().copies())?;
            let mut engine = Engine::load(inspection, &options, reader, go_on)?;
            engine.govern(Machine::here());
            Ok(engine)
        };
        load().map_err(|error| format!("{error:#}"))
    })
}
