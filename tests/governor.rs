//! When others need memory, outpour gives some back in time, and takes it again: nobody is killed, and the words are the same.

mod common;

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, path::Path};

use common::group::Group;
use common::random::random_model;
use common::roomy;
use outpour_engine::sample::argmax;
use outpour_engine::{Engine, IDLE_INTERVAL, Options, Session};
use outpour_store::machine::Machine;
use outpour_store::read::ReaderKind;

const MIB: u64 = 1 << 20;
const RAM: u64 = 128 * MIB;
/// The experts, 295 MiB, pass through `RAM`; what others take would not fit beside it.
const LIMIT: u64 = 176 * MIB;
const OTHERS: usize = 6;
const OTHER_BYTES: u64 = 16 * MIB;
const JOIN_EVERY: Duration = Duration::from_millis(600);
/// Enough that the answer outlasts the last of them, also at a thousand a second.
const TOKENS: usize = 3900;

/// A process in the group that holds so much memory: dd cannot write its one block, for nobody reads.
fn other(group: &Group) -> Child {
    let script = format!("dd if=/dev/zero bs={OTHER_BYTES} count=1 2>/dev/null | sleep 600");
    group.command(None, "sh", &["-c", &script]).stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("a shell")
}

/// Ends a process and what it has started.
fn end(process: &mut Child) {
    let killed = Command::new("kill").args(["--", &format!("-{}", process.id())]).status();
    assert!(killed.expect("kill runs").success());
    process.wait().expect("it ends");
}

fn args(model: &str) -> Vec<String> {
    let (ram, tokens) = (RAM.to_string(), TOKENS.to_string());
    let args =
        ["run", model, "Once upon a time", "--raw", "--ignore-eos", "--temperature=0", "--ctx=4096", "--ram", &ram];
    args.into_iter().chain(["-n", &tokens]).map(str::to_owned).collect()
}

fn answer(output: &Output) -> (Vec<u8>, String) {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && stderr.contains(&format!("{TOKENS} generated")), "{:?} {stderr}", output.status);
    (output.stdout.clone(), stderr)
}

#[test]
fn others_get_their_memory() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let model = random_model(dir.path()).to_str().expect("a UTF-8 path").to_owned();
    let Some(group) = Group::new("governor", LIMIT) else {
        println!("SKIPPED: this user may not make memory cgroups; run as root to test the governor");
        return;
    };
    let args = args(&model);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let alone = Command::new(env!("CARGO_BIN_EXE_outpour")).args(&args).output().expect("outpour runs");
    let (expected, summary) = answer(&alone);
    assert!(!summary.contains("given back"), "{summary}");

    let run = group.command(None, env!("CARGO_BIN_EXE_outpour"), &args);
    let running = { run }.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("outpour starts");
    let mut others = Vec::new();
    for _ in 0..OTHERS {
        std::thread::sleep(JOIN_EVERY);
        others.push(other(&group));
    }
    let output = running.wait_with_output().expect("outpour ends");
    let survivors = others.iter_mut().map(|other| usize::from(matches!(other.try_wait(), Ok(None)))).sum::<usize>();
    others.iter_mut().for_each(end);
    let (words, summary) = answer(&output);
    println!("{summary}");
    assert!(words == expected, "other words under pressure");
    assert!(summary.contains("given back"), "{summary}");
    assert_eq!(survivors, OTHERS, "somebody was killed");
}

/// Tells a machine of `total` bytes that so many are free.
fn tell(root: &Path, free: u64) {
    fs::create_dir_all(root.join("proc")).expect("a folder");
    let text = format!("MemTotal: {} kB\nMemAvailable: {} kB\n", 16 << 20, free >> 10);
    fs::write(root.join("proc/meminfo"), text).expect("a file");
}

/// The bits of the logits after a prompt and each of so many tokens, with a pause before each.
fn generate(engine: &mut Engine, tokens: usize, pause: Duration) -> Vec<u32> {
    let mut session = Session::open(engine);
    let (mut bits, mut text) = (Vec::new(), (0..200u32).map(|i| (i * i * 31 + 7 * i) % 1000).collect::<Vec<_>>());
    for _ in 0..tokens {
        std::thread::sleep(pause);
        session.sync(engine, &text, &mut ()).unwrap_or_else(|error| panic!("{error}"));
        let logits = session.logits(engine, &mut ()).unwrap_or_else(|error| panic!("{error}"));
        bits.extend(logits.iter().map(|logit| logit.to_bits()));
        text.push(argmax(logits));
    }
    session.close(engine);
    bits
}

#[test]
fn memory_goes_and_comes_back() {
    let (dir, system) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let options = Options { ram: RAM as usize, threads: Some(2), ..roomy() };
    let mut engine = common::engine(&random_model(dir.path()), &options, ReaderKind::Auto);
    let whole = engine.expert_slots();
    let expected = generate(&mut engine, 4, Duration::ZERO);

    tell(system.path(), 4096 * MIB);
    engine.govern(Machine::at(system.path()));
    // Hardly anything is free: all goes but what the experts of a token need.
    tell(system.path(), MIB);
    assert!(generate(&mut engine, 4, Duration::from_millis(300)) == expected, "other words while memory is given back");
    let least = engine.expert_slots();
    assert!(least < whole / 4, "{least} of {whole} slots are left");
    // A context that found no room has some of it again.
    let short = engine.stats().governor;
    assert!(short.given_back > short.taken_again, "{short:?}");

    tell(system.path(), 4096 * MIB);
    // More than the five seconds in which memory must be plenty.
    assert!(
        generate(&mut engine, 24, Duration::from_millis(300))[..expected.len()] == expected[..],
        "other words while memory is taken again"
    );
    let plenty = engine.stats().governor;
    assert!(engine.expert_slots() > least && plenty.taken_again > short.taken_again, "{plenty:?}");
    assert!(plenty.taken_again <= plenty.given_back);
}

/// Nobody asks for anything, and memory is given back all the same.
#[test]
fn idle_memory_goes_and_comes_back() {
    let (dir, system) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let options = Options { ram: RAM as usize, threads: Some(2), ..roomy() };
    let mut engine = common::engine(&random_model(dir.path()), &options, ReaderKind::Auto);
    let expected = generate(&mut engine, 2, Duration::ZERO);
    let whole = engine.expert_slots();
    tell(system.path(), 4096 * MIB);
    engine.govern(Machine::at(system.path()));
    tell(system.path(), MIB);
    std::thread::sleep(IDLE_INTERVAL);
    engine.idle();
    let least = engine.expert_slots();
    assert!(least < whole / 4, "{least} of {whole} slots are left");
    tell(system.path(), 4096 * MIB);
    let begun = Instant::now();
    while engine.expert_slots() == least {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", engine.stats().governor);
        std::thread::sleep(IDLE_INTERVAL);
        engine.idle();
    }
    assert!(generate(&mut engine, 2, Duration::ZERO) == expected, "other words afterwards");
}

/// A context that was promised finds its room, also after memory was given back.
#[test]
fn a_context_takes_what_it_was_promised() {
    let (dir, system) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let options = Options { threads: Some(2), ctx: Some(4096), ..roomy() };
    let model = random_model(dir.path());
    let ram = common::minimum_ram(&model, &options) + (8 << 20);
    let mut engine = common::engine(&model, &Options { ram, ..options }, ReaderKind::Auto);
    tell(system.path(), 4096 * MIB);
    engine.govern(Machine::at(system.path()));
    tell(system.path(), MIB);
    generate(&mut engine, 2, Duration::from_millis(300));
    assert!(engine.stats().governor.given_back > 0);
    let mut session = Session::open(&mut engine);
    let text: Vec<u32> = (0..4096u32).map(|i| (i * i * 31 + 7 * i) % 1000).collect();
    session.sync(&mut engine, &text, &mut ()).unwrap_or_else(|error| panic!("{error}"));
    assert!(engine.stats().governor.taken_again > 0, "{:?}", engine.stats().governor);
    session.close(&mut engine);
}
