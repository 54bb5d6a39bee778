//! `launch`: a coding agent, told where the model is, and the server if none runs. What the agent is told is in its
//! environment, its arguments, or a file of our own: its own configuration is neither written nor hidden.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use outpour_engine::EngineError;
use outpour_store::machine::cache_dir;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::args::{ClientArg, LaunchArgs};
use crate::term;

/// How often a server that loads is asked whether it is ready.
const READY_POLL: Duration = Duration::from_millis(100);
/// A server that is there says so within this time.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// Answers of a server; both are short.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// What clients that insist on a key send where the server wants none.
const NO_KEY: &str = "outpour";
/// A prompt of an agent may take long to compute before the first token comes.
const PATIENCE_MS: u64 = 3_600_000;

/// Where a model is served, and what it is called there.
struct Served {
    url: String,
    api_key: Option<String>,
    model: String,
    context: u64,
}

/// What a client is started with.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    program: &'static str,
    env: Vec<(&'static str, String)>,
    unset: Vec<&'static str>,
    args: Vec<String>,
    /// A file that is written before, for its owner only.
    file: Option<(PathBuf, String)>,
}

/// Starts a client, and a server where a model is given; ends with the client.
///
/// # Errors
/// One line: no server, a client that is not installed.
pub fn launch(args: &LaunchArgs) -> Result<ExitCode> {
    let program = program(args.client);
    if !is_installed(program) {
        let how = match args.client {
            ClientArg::Claude => "npm install -g @anthropic-ai/claude-code",
            ClientArg::Codex => "npm install -g @openai/codex",
            ClientArg::Opencode => "npm install -g opencode-ai",
        };
        bail!("{program} is not installed, or not in PATH: `{how}` installs it");
    }
    let api_key = args.api_key.clone().filter(|key| !key.is_empty());
    let server = args.model.as_deref().map(|model| Server::start(model, args)).transpose()?;
    let url = server.as_ref().map_or_else(|| args.url.trim_end_matches('/').to_owned(), |server| server.url.clone());
    let served = ask(&url, api_key).with_context(|| match &server {
        Some(server) => format!("the server does not answer; its messages are in {}", server.log.display()),
        None => {
            format!("no server answers at {url}: name a model after {program}, or start `outpour serve MODEL` first")
        }
    })?;
    let told = told(args.client, &served, &cache_dir().join("launch"));
    if let Some((path, text)) = &told.file {
        write_private(path, text).with_context(|| format!("{}: cannot be written", path.display()))?;
    }
    let mut command = Command::new(told.program);
    command.args(&told.args).args(&args.args).envs(told.env);
    told.unset.iter().for_each(|name| {
        command.env_remove(name);
    });
    term::leave_interrupts()?;
    let status = command.status().with_context(|| format!("{program} cannot be started"))?;
    drop(server);
    Ok(ExitCode::from(code(status)))
}

/// The exit code of a client, as shells give it.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(1)
}

fn program(client: ClientArg) -> &'static str {
    match client {
        ClientArg::Claude => "claude",
        ClientArg::Codex => "codex",
        ClientArg::Opencode => "opencode",
    }
}

fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// What a client wants to know, in its own words. `dir` is where files of ours go.
fn told(client: ClientArg, served: &Served, dir: &Path) -> Told {
    let Served { url, api_key, model, context } = served;
    let key = || api_key.clone().unwrap_or_else(|| NO_KEY.to_owned());
    let none = Told { program: program(client), env: Vec::new(), unset: Vec::new(), args: Vec::new(), file: None };
    match client {
        // Settings of the command line win over those of the user, whose other settings stay. The header would change with
        // every request, and it stands before everything else, so that no prompt would be found computed.
        ClientArg::Claude => {
            let settings = json!({"env": {
                "ANTHROPIC_BASE_URL": url,
                "ANTHROPIC_AUTH_TOKEN": key(),
                "ANTHROPIC_MODEL": model,
                "ANTHROPIC_DEFAULT_OPUS_MODEL": model,
                "ANTHROPIC_DEFAULT_SONNET_MODEL": model,
                "ANTHROPIC_DEFAULT_HAIKU_MODEL": model,
                "CLAUDE_CODE_SUBAGENT_MODEL": model,
                "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "API_TIMEOUT_MS": PATIENCE_MS.to_string(),
            }});
            let path = dir.join("claude.json");
            let args = vec!["--settings".to_owned(), path.display().to_string()];
            // What the client looks at before it reads settings.
            let env = vec![("ANTHROPIC_BASE_URL", url.clone()), ("ANTHROPIC_AUTH_TOKEN", key())];
            Told { args, env, unset: vec!["ANTHROPIC_API_KEY"], file: Some((path, format!("{settings:#}\n"))), ..none }
        }
        ClientArg::Codex => {
            // A text is written the same in TOML and in JSON.
            let text = |text: &str| Value::from(text).to_string();
            let mut settings = vec![
                ("model".to_owned(), text(model)),
                ("model_provider".to_owned(), text("outpour")),
                ("model_context_window".to_owned(), context.to_string()),
            ];
            let provider = |key: &str| format!("model_providers.outpour.{key}");
            settings.push((provider("name"), text("outpour")));
            settings.push((provider("base_url"), text(&format!("{url}/v1"))));
            settings.push((provider("wire_api"), text("responses")));
            settings.push((provider("stream_idle_timeout_ms"), PATIENCE_MS.to_string()));
            let mut env = Vec::new();
            if let Some(key) = api_key {
                settings.push((provider("env_key"), text("OUTPOUR_API_KEY")));
                env.push(("OUTPOUR_API_KEY", key.clone()));
            }
            let args =
                settings.into_iter().flat_map(|(key, value)| ["-c".to_owned(), format!("{key}={value}")]).collect();
            Told { args, env, ..none }
        }
        ClientArg::Opencode => {
            let output = (context / 4).max(1);
            let config = json!({
                "model": format!("outpour/{model}"),
                "small_model": format!("outpour/{model}"),
                "provider": {"outpour": {
                    "npm": "@ai-sdk/openai-compatible",
                    "name": "outpour",
                    "options": {"baseURL": format!("{url}/v1"), "apiKey": key(), "timeout": PATIENCE_MS},
                    "models": {model: {"name": model, "tool_call": true, "limit": {"context": context, "output": output}}},
                }},
            });
            Told { env: vec![("OPENCODE_CONFIG_CONTENT", config.to_string())], ..none }
        }
    }
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

/// An answer's status and JSON; `null` where it is none.
fn get(url: &str, api_key: Option<&str>) -> Result<(u16, Value)> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(ANSWER_TIME_MAX))
        .http_status_as_error(false)
        // A server on this machine is not behind a proxy.
        .proxy(None)
        .build()
        .into();
    let mut request = agent.get(url);
    if let Some(key) = api_key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let mut response = request.call()?;
    let mut body = Vec::new();
    response.body_mut().as_reader().take(ANSWER_BYTES_MAX).read_to_end(&mut body)?;
    Ok((response.status().as_u16(), serde_json::from_slice(&body).unwrap_or(Value::Null)))
}

/// What is served there.
fn ask(url: &str, api_key: Option<String>) -> Result<Served> {
    let models = match get(&format!("{url}/v1/models"), api_key.as_deref())? {
        (200, models) => models,
        (401, _) => bail!("it wants a key: give --api-key"),
        (status, _) => bail!("it says {status}"),
    };
    let first = &models["data"][0];
    let (Some(model), Some(context)) = (first["id"].as_str(), first["context_length"].as_u64()) else {
        bail!("what answers there is no server of outpour");
    };
    Ok(Served { url: url.to_owned(), api_key, model: model.to_owned(), context })
}

/// A server of our own, which ends when this is dropped.
struct Server {
    child: Child,
    url: String,
    log: PathBuf,
}

impl Server {
    /// Serves a model on a free port, and waits until it is loaded.
    fn start(model: &Path, args: &LaunchArgs) -> Result<Server> {
        let log = cache_dir().join("launch/serve.log");
        let unwritable = || format!("{}: cannot be written", log.display());
        write_private(&log, "").with_context(unwritable)?;
        let messages = File::options().append(true).open(&log).with_context(unwritable)?;
        let mut command = Command::new(std::env::current_exe().context("cannot find the program itself")?);
        command.arg("serve").arg(model).args(["--host", "127.0.0.1", "--port", "0"]);
        if let Some(ram) = args.ram {
            command.args(["--ram", &ram.0.to_string()]);
        }
        if let Some(ctx) = args.ctx {
            command.args(["--ctx", &ctx.to_string()]);
        }
        if let Some(key) = &args.api_key {
            command.env("OUTPOUR_API_KEY", key);
        }
        // In a group of its own, so that Ctrl-C is the client's alone.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(messages).process_group(0);
        term::catch_interrupt()?;
        let mut child = command.spawn().context("the server cannot be started")?;
        let mut url = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut url)?;
        }
        let mut server = Server { child, url: url.trim().to_owned(), log };
        if server.url.is_empty() {
            bail!("the server does not start: {}", server.last_message());
        }
        let steps = term::Steps::start_of("loading");
        let health = format!("{}/health", server.url);
        loop {
            // A server that does not answer for a moment may be busy; one that is gone never will.
            match get(&health, None) {
                Ok((200, _)) => break,
                Ok((_, health)) if health["status"] != "loading" => {
                    bail!(
                        "the server cannot load the model: {}",
                        health["status"].as_str().unwrap_or("it does not say why")
                    )
                }
                _ if server.child.try_wait()?.is_some() => bail!("the server ended: {}", server.last_message()),
                _ if steps.next(&model.display().to_string()).is_break() => return Err(EngineError::Cancelled.into()),
                _ => std::thread::sleep(READY_POLL),
            }
        }
        steps.finish();
        Ok(server)
    }

    fn last_message(&self) -> String {
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        said.lines().last().unwrap_or("it says nothing").trim_start_matches("outpour: ").to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Answers under way end; a server that is gone already needs no signal.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(api_key: Option<&str>) -> Served {
        let (url, model) = ("http://127.0.0.1:1".to_owned(), "org/\"repo\"".to_owned());
        Served { url, api_key: api_key.map(str::to_owned), model, context: 4096 }
    }

    #[test]
    fn keys_stand_in_no_argument() {
        for client in [ClientArg::Claude, ClientArg::Codex, ClientArg::Opencode] {
            let told = told(client, &served(Some("secret")), Path::new("/d"));
            assert!(!told.args.iter().any(|arg| arg.contains("secret")), "{:?}", told.args);
            let file = told.file.map(|(_, text)| text).unwrap_or_default();
            assert!(file.contains("secret") || told.env.iter().any(|(_, value)| value.contains("secret")));
        }
    }

    #[test]
    fn names_are_quoted_in_each_clients_way() {
        let codex = told(ClientArg::Codex, &served(None), Path::new("/d"));
        let model = codex.args.iter().find_map(|arg| arg.strip_prefix("model=")).expect("a model");
        let table: toml::Table = format!("model = {model}").parse().expect("TOML");
        assert_eq!(table["model"].as_str(), Some("org/\"repo\""));
        let opencode = told(ClientArg::Opencode, &served(None), Path::new("/d"));
        let config: Value = serde_json::from_str(&opencode.env[0].1).expect("JSON");
        assert_eq!(config["provider"]["outpour"]["models"]["org/\"repo\""]["limit"]["context"], 4096);
    }
}
