//! Flags before `OUTPOUR_*` before the configuration file; completions and the manual page.

use std::path::Path;
use std::process::{Command, Output, Stdio};

struct Configured {
    home: tempfile::TempDir,
}

impl Configured {
    fn with(file: &str) -> Configured {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(home.path().join("outpour")).expect("a folder");
        std::fs::write(home.path().join("outpour/config.toml"), file).expect("a file");
        Configured { home }
    }

    fn outpour(&self, args: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outpour"));
        command.args(args).stdin(Stdio::null()).env("XDG_CONFIG_HOME", self.home.path());
        command.env("XDG_CACHE_HOME", self.home.path().join("cache")).envs(variables.iter().copied());
        command.output().expect("outpour runs")
    }

    /// The --ram that a plan is made for, in MiB.
    fn ram(&self, args: &[&str], variables: &[(&str, &str)]) -> u64 {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/model");
        let plan = ["plan", model.to_str().expect("UTF-8"), "--json", "--drive", "2G", "-p", "8", "-n", "2"];
        let output = self.outpour(&[&plan, args].concat(), variables);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        plan["ram_bytes"].as_u64().expect("bytes") >> 20
    }

    fn refused(&self, args: &[&str], variables: &[(&str, &str)], words: &[&str]) {
        let output = self.outpour(args, variables);
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        for word in words {
            assert!(said.contains(word), "no {word:?} in: {said}");
        }
    }
}

#[test]
fn flags_then_variables_then_the_file() {
    let configured = Configured::with("ram = '150M'\n[plan]\nram = '160M'\n[run]\nram = '1G'\n");
    assert_eq!(configured.ram(&[], &[]), 160);
    assert_eq!(configured.ram(&[], &[("OUTPOUR_RAM", "170M")]), 170);
    assert_eq!(configured.ram(&["--ram", "180M"], &[("OUTPOUR_RAM", "170M")]), 180);
    assert_eq!(Configured::with("ram = '150M'\n[serve]\nram = '1G'\nport = 1\n").ram(&[], &[]), 150);
}

#[test]
fn what_is_wrong_is_said_with_where_it_stands() {
    let file = "config.toml";
    Configured::with("rom = 1\n").refused(&["plan", "demo"], &[], &[file, "rom is no flag"]);
    Configured::with("[serve]\nram = 1\nhsot = 'x'\n").refused(&["plan", "demo"], &[], &[file, "[serve] hsot"]);
    Configured::with("ram =\n").refused(&["plan", "demo"], &[], &[file, "line 1"]);
    Configured::with("ram = 'much'\n").refused(&["plan", "demo"], &[], &["--ram", "much", file]);
    Configured::with("").refused(&["plan", "demo"], &[("OUTPOUR_RAM", "much")], &["--ram", "(in OUTPOUR_RAM)"]);
    Configured::with("").refused(&["plan", "demo", "--ram", "more"], &[("OUTPOUR_RAM", "1G")], &["--ram", "more"]);
    Configured::with("").refused(
        &["run", "demo"],
        &[("OUTPOUR_PRECISE", "perhaps")],
        &["--precise", "OUTPOUR_PRECISE"],
    );
}

#[test]
fn what_is_too_little_is_said_with_where_it_stands() {
    Configured::with("ram = '1'\n").refused(&["plan", "demo"], &[], &["--ram is set in ", "config.toml"]);
    Configured::with("[plan]\nram = '1'\n").refused(&["plan", "demo"], &[], &["--ram is set in ", "config.toml"]);
    Configured::with("").refused(&["plan", "demo"], &[("OUTPOUR_RAM", "1")], &["--ram is set in OUTPOUR_RAM"]);
    let given = Configured::with("ram = '1'\n").outpour(&["plan", "demo", "--ram", "1"], &[]);
    assert!(!String::from_utf8_lossy(&given.stderr).contains("is set"), "{given:?}");
}

#[test]
fn a_flaw_of_the_file_is_said_and_stops_nothing_that_needs_no_flag() {
    let configured = Configured::with("rom = 1\n");
    for args in [&["--version"][..], &["help"], &["help", "run"], &["ls"], &["completions", "bash"]] {
        let ran = configured.outpour(args, &[("HF_HUB_CACHE", "/nowhere")]);
        let said = String::from_utf8(ran.stderr).expect("UTF-8");
        assert!(ran.status.success() && said.contains("rom is no flag"), "{args:?}: {said}");
    }
    configured.refused(&["run"], &[], &["rom is no flag"]);
    configured.refused(&["pull", "a/b"], &[], &["rom is no flag"]);
}

#[test]
fn a_file_that_cannot_be_read_is_named_once() {
    let refused = |configured: &Configured, why: &str| {
        let path = configured.home.path().join("outpour/config.toml");
        let path = path.to_str().expect("UTF-8");
        configured.refused(&["plan", "demo"], &[], &[path, why]);
        let said = String::from_utf8(configured.outpour(&["plan", "demo"], &[]).stderr).expect("UTF-8");
        assert_eq!(said.matches(path).count(), 1, "{said}");
    };
    refused(&Configured::with(&"x".repeat((1 << 20) + 1)), "bytes long");
    refused(&Configured::with("ram =\n"), "line 1");
    refused(&Configured::with("rom = 1\n"), "rom is no flag");
    let configured = Configured::with("");
    let path = configured.home.path().join("outpour/config.toml");
    std::fs::write(&path, [0xff, 0xfe]).expect("a file");
    refused(&configured, "UTF-8");
    std::fs::remove_file(&path).expect("removed");
    std::fs::create_dir(&path).expect("a folder");
    refused(&configured, "is no file");
}

#[test]
fn a_variable_of_no_flag_is_said_and_the_program_goes_on() {
    let output = Configured::with("").outpour(&["completions", "bash"], &[("OUTPOUR_RMA", "1G")]);
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(output.status.success(), "{said}");
    assert!(said.lines().count() == 1 && said.contains("OUTPOUR_RMA") && said.contains("OUTPOUR_RAM?"), "{said}");
}

#[test]
fn shells_and_man_are_told_everything() {
    let configured = Configured::with("");
    let shown = |args: &[&str]| {
        let output = configured.outpour(args, &[]);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = shown(&["completions", shell]);
        assert!(script.contains("prefill-chunk") && script.contains("pull"), "{shell}: {script}");
    }
    let script = shown(&["completions", "bash"]);
    let file = configured.home.path().join("outpour.bash");
    std::fs::write(&file, script).expect("a file");
    let complete =
        "source \"$0\"; COMP_WORDS=(outpour pu); COMP_CWORD=1; _outpour outpour pu outpour; echo \"${COMPREPLY[@]}\"";
    match Command::new("bash").args(["-c", complete]).arg(&file).output() {
        Ok(completed) => assert_eq!(String::from_utf8_lossy(&completed.stdout).trim(), "pull", "{completed:?}"),
        Err(why) => println!("skipped: no bash: {why}"),
    }
    let page = shown(&["man"]);
    assert!(page.starts_with(".ie") && page.contains(".TH outpour 1") && page.contains("outpour\\-pull(1)"), "{page}");
    assert!(shown(&["man", "run"]).contains("\\-\\-prefill\\-chunk"));
    configured.refused(&["man", "rnu"], &[], &["\"rnu\" is no verb"]);
}
