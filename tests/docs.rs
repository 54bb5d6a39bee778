//! The pages of docs/: made pages are what would be made today, links lead somewhere, and what they tell to type is understood.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::http::Server;
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What `outpour ARGS` prints.
fn outpour(args: &[&str]) -> String {
    let done = Command::new(env!("CARGO_BIN_EXE_outpour")).args(args).output().expect("it starts");
    assert!(done.status.success(), "outpour {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("UTF-8")
}

/// Every page of docs/, and those at the root that lead there, by their paths from the root.
fn pages() -> BTreeMap<PathBuf, String> {
    let docs = fs::read_dir(root().join("docs")).expect("docs/").flatten().map(|entry| entry.path());
    let docs = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    let own = ["README.md", "ARCHITECTURE.md"].map(|name| root().join(name));
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("UTF-8");
        (path.strip_prefix(root()).expect("below the root").to_owned(), text)
    };
    docs.chain(own).map(read).collect()
}

/// A page's lines outside of blocks of code, or inside of them.
fn lines(page: &str, of_code: bool) -> impl Iterator<Item = &str> {
    let mut code = false;
    page.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !fence && code == of_code
    })
}

/// The targets of a page's links.
fn links(page: &str) -> Vec<&str> {
    lines(page, false)
        .flat_map(|line| line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)))
        .collect()
}

/// The places of a page that a link can name: its headings, as GitHub and mdbook write them.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = lines(page, false).filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let kept = line.trim_start_matches('#').trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn the_made_pages_are_what_would_be_made_today() {
    let pages = pages();
    let page = |name: &str| pages.get(&Path::new("docs").join(name)).unwrap_or_else(|| panic!("docs/{name}"));
    assert!(*page("cli.md") == outpour(&["cli-page"]), "cargo run --release -p outpour -- cli-page > docs/cli.md");
    let command = "cargo run -p outpour-serve --example http_page > docs/http.md";
    assert!(*page("http.md") == outpour_serve::http_page(), "{command}");
}

#[test]
fn every_page_is_in_the_summary_and_every_link_leads_somewhere() {
    let pages = pages();
    let summary = &pages[Path::new("docs/SUMMARY.md")];
    for page in pages.keys().filter(|page| page.starts_with("docs") && !page.ends_with("SUMMARY.md")) {
        let name = page.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(links(summary).contains(&name.as_str()), "docs/SUMMARY.md lacks {name}");
    }
    let mut checked = 0;
    for (page, text) in &pages {
        for link in links(text).into_iter().filter(|link| !link.contains("://")) {
            let (file, place) = link.split_once('#').map_or((link, None), |(file, place)| (file, Some(place)));
            let path = if file.is_empty() { page.clone() } else { page.with_file_name(file) };
            assert!(root().join(&path).exists(), "{}: {link} leads nowhere", page.display());
            assert!(
                !page.starts_with("docs") || path.starts_with("docs"),
                "{}: {link} leads out of the book",
                page.display()
            );
            if let Some(place) = place {
                let there = pages.get(&path).map(|text| anchors(text)).unwrap_or_default();
                assert!(there.contains(place), "{}: {link} names no heading", page.display());
            }
            checked += 1;
        }
    }
    assert!(checked > 40, "links are where this test looks for them: {checked}");
}

/// Lines of code that begin with `outpour VERB`: the verb is there, and so are the flags.
#[test]
fn what_the_pages_tell_to_type_is_understood() {
    let (mut help, mut checked) = (BTreeMap::new(), 0);
    for (page, text) in pages() {
        for line in lines(&text, true) {
            let line = line.trim_start_matches("$ ").trim_start_matches("cargo run --release -p outpour -- ");
            let typed = line.split('#').next().unwrap_or_default();
            let words: Vec<&str> =
                typed.split_whitespace().take_while(|word| !["|", "&&", ">"].contains(word)).collect();
            let ["outpour", verb, rest @ ..] = words.as_slice() else { continue };
            if verb.starts_with('-') || verb.starts_with('<') || rest.contains(&"[FLAGS]") {
                continue;
            }
            let known: &String = help.entry((*verb).to_owned()).or_insert_with(|| {
                let inner = if *verb == "routes" { rest.first().into_iter().copied().collect() } else { Vec::new() };
                outpour(&[&["help", verb], inner.as_slice()].concat())
            });
            for flag in rest.iter().filter(|word| word.starts_with("--")) {
                let flag = flag.split('=').next().unwrap_or(flag);
                let there = known.split([' ', '\n', ',', '[', ']']).any(|word| word == flag);
                assert!(there, "{}: `{line}`: {verb} knows no {flag}", page.display());
                checked += 1;
            }
        }
    }
    assert!(checked > 20, "commands are where this test looks for them: {checked}");
}

/// Sends every example of docs/http.md to a server of the built-in model.
#[test]
fn every_route_answers_its_example() {
    let server = Server::start(Path::new("demo"), &["--ram", "200M", "--threads", "2"]);
    let text = &pages()[Path::new("docs/http.md")];
    let mut sent = 0;
    for line in lines(text, true) {
        let call = line.strip_prefix("curl http://127.0.0.1:8420").expect("a call of curl");
        let (path, body) = match call.split_once(" -d ") {
            Some((path, body)) => {
                (path, Some(body.strip_prefix('\'').and_then(|body| body.strip_suffix('\'')).expect("quoted")))
            }
            None => (call, None),
        };
        if let Some(body) = body {
            assert!(serde_json::from_str::<Value>(body).is_ok_and(|body| body.is_object()), "{line}");
        }
        let method = if body.is_some() { "POST" } else { "GET" };
        let mut stream = server.open(method, path, &[], body.unwrap_or_default());
        // A stream may have no end.
        let mut status = [0; 12];
        stream.read_exact(&mut status).expect("an answer");
        assert_eq!(String::from_utf8_lossy(&status), "HTTP/1.1 200", "{line}");
        sent += 1;
    }
    assert_eq!(sent, text.lines().filter(|line| line.starts_with("### ")).count(), "one example for each route");
}
