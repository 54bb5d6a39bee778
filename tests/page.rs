//! The page at `/` of `serve`, and the view of the machine that it shows: what is sent, and, in a headless Chromium, what is seen.

mod common;
#[path = "page/live.rs"]
mod live;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use common::http::Server;

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/page")
}

/// The small trained model: recurrent states, thoughts, calls of tools.
fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/model")
}

/// Holds a part of its experts.
const RAM: &str = "70M";

fn serve_demo(args: &[&str]) -> Server {
    Server::start(&demo(), &[&["--ram", RAM, "--threads", "2"], args].concat())
}

/// The browser of this machine.
fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let places = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = std::env::split_paths(&places).flat_map(|place| names.map(|name| place.join(name)));
    named.into_iter().chain(found).find(|path| path.is_file())
}

/// A folder with the driver of the browser; `None`, and a word, where it cannot be made.
static DRIVER: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page-driver");
    let installed = std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::copy(here().join("package.json"), folder.join("package.json")))
        .and_then(|_| {
            let mut npm = Command::new("npm");
            npm.args(["install", "--no-audit", "--no-fund", "--prefer-offline", "--prefix"]).arg(&folder);
            npm.stdin(Stdio::null()).output()
        });
    match installed {
        Ok(ran) if ran.status.success() => return Some(folder),
        Ok(ran) => {
            let why = String::from_utf8_lossy(&ran.stderr);
            println!("skipped: npm cannot install playwright-core: {}", why.lines().next().unwrap_or_default());
        }
        Err(why) => println!("skipped: no npm: {why}"),
    }
    None
});

/// Drives the page of a server with a script of this folder.
fn drive(script: &str, server: &Server, args: &[&str]) {
    let Some(chromium) = chromium() else {
        println!("skipped: no chromium (CHROMIUM names one)");
        return;
    };
    let Some(driver) = &*DRIVER else {
        println!("skipped: no driver of the browser");
        return;
    };
    let profile = tempfile::tempdir().expect("a folder");
    let mut node = Command::new("node");
    node.arg(here().join(script)).arg(format!("http://{}/", server.address)).args(args);
    node.env("DRIVER", driver).env("CHROMIUM", &chromium).env("PROFILE", profile.path());
    let ran = node.stdin(Stdio::null()).output().expect("node runs where npm does");
    println!("{}", String::from_utf8_lossy(&ran.stdout));
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn the_page_does_what_it_is_for() {
    // Room for many conversations' states, and for a part of the experts beside them.
    drive("chat.mjs", &Server::start(&demo(), &["--ram", "74M", "--threads", "2"]), &[]);
}

#[test]
fn fingers_reach_everything_on_the_narrowest_screen() {
    drive("phone.mjs", &serve_demo(&[]), &[]);
}

#[test]
fn the_page_asks_for_the_key() {
    drive("lock.mjs", &serve_demo(&["--api-key", "a-key"]), &["a-key"]);
}

#[test]
fn tabs_follow_one_another_and_nothing_is_lost() {
    drive("kept.mjs", &serve_demo(&[]), &[]);
}

#[test]
fn markdown_becomes_nodes_and_nothing_else() {
    drive("markdown.mjs", &serve_demo(&[]), &[]);
}
