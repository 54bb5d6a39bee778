//! The house rules that a program can check.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every Rust file of the workspace, with its path from the root.
fn sources() -> Vec<(String, String)> {
    let (mut folders, mut found) = (vec![root().join("crates"), root().join("tests")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(&path).expect("UTF-8")));
            }
        }
    }
    found.sort();
    assert!(found.len() > 50, "the sources are where this test looks for them");
    found
}

#[test]
fn unsafe_stays_where_it_belongs() {
    let allowed = |name: &str| {
        let places =
            ["crates/kernels/", "crates/store/src/read", "crates/store/src/slab.rs", "crates/store/tests/", "tests/"];
        places.iter().any(|place| name.starts_with(place))
    };
    for (name, text) in sources() {
        let code = |line: &&str| !line.trim_start().starts_with("//") && !line.contains("(unsafe_code)");
        let uses = text
            .lines()
            .filter(code)
            .any(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe"));
        assert!(!uses || allowed(&name), "{name}: unsafe belongs in kernels/ and store/{{slab,read}}");
    }
}

#[test]
fn nothing_is_left_for_later() {
    for (name, text) in sources().into_iter().filter(|(name, _)| name != "tests/tidy.rs") {
        for left in ["todo!(", "unimplemented!(", "dbg!(", "FIXME", "TODO", "#[ignore"] {
            assert!(!text.contains(left), "{name} contains {left}");
        }
    }
}

#[test]
fn the_readme_names_every_crate_and_only_files_that_are_there() {
    let readme = fs::read_to_string(root().join("README.md")).expect("a README");
    let tree = readme.split("## Where things are").nth(1).expect("the file tree");
    for entry in fs::read_dir(root().join("crates")).expect("crates").flatten() {
        let name = format!("{}/", entry.file_name().to_string_lossy());
        assert!(tree.contains(&name), "the README's tree lacks crates/{name}");
        let about = entry.path().join("README.md");
        assert!(
            about.is_file(),
            "{} is missing: a paragraph that says what the crate is and what it is not",
            about.display()
        );
    }
    let names = sources();
    let words = tree
        .split(|c: char| !c.is_alphanumeric() && !"._/".contains(c))
        .filter(|word| word.ends_with(".rs") && *word != ".rs");
    for word in words {
        assert!(names.iter().any(|(name, _)| name.ends_with(&format!("/{word}"))), "the README's tree names {word}");
    }
}

#[test]
fn long_files_say_why() {
    for (name, text) in sources() {
        let lines = text.lines().count();
        assert!(
            lines <= 700 || text.lines().take(12).any(|line| line.contains("long because")),
            "{name} has {lines} lines"
        );
        if lines > 500 {
            println!("{name}: {lines} lines");
        }
    }
}
