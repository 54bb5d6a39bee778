//! Downloads from a server that breaks, and what they leave in the cache.

mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use outpour_hub::{Hub, HubError, ModelName, Patience, Progress, Pulled, Settings};
use server::{COMMIT, Fault, File, Random};

const MODEL: &str = "some-org/Some-Model";
const TOKEN: &str = "hf_neverShown";
/// No try is repeated.
const NONE: Patience = Patience { tries: 0, wait: Duration::ZERO, wait_max: Duration::ZERO };
/// Tries are repeated at once.
const AT_ONCE: Patience = Patience { tries: 6, wait: Duration::ZERO, wait_max: Duration::from_secs(1) };

fn name() -> ModelName {
    ModelName::parse(MODEL).expect("a name")
}

/// Two shards of some MB and what comes with them, and files that nobody needs.
fn files() -> Vec<File> {
    let mut random = Random(7);
    let index = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    vec![
        File::new("README.md", b"# read me".to_vec()),
        File::new("config.json", b"{}".to_vec()),
        File::new("empty.json", Vec::new()),
        File::new("tokenizer.json", random.bytes(70_000)),
        File::new("model.safetensors.index.json", index.into()),
        File::new("model-00001-of-00002.safetensors", random.bytes(3_000_000)),
        File::new("model-00002-of-00002.safetensors", random.bytes(2_345_678)),
        File::new("additional_chat_templates/tool_use.jinja", b"{{ messages }}".to_vec()),
        File::new("original/consolidated.00.pth", random.bytes(1000)),
        File::new("pytorch_model.bin", random.bytes(1000)),
    ]
}

fn needed(files: &[File]) -> Vec<File> {
    let unneeded = ["README.md", "original/consolidated.00.pth", "pytorch_model.bin"];
    files.iter().filter(|file| !unneeded.contains(&file.path.as_str())).cloned().collect()
}

fn hub(server: &server::Hub, cache: &Path, patience: Patience) -> Hub {
    let settings = Settings {
        endpoint: server.endpoint(),
        cache: cache.to_owned(),
        token: Some(TOKEN.to_owned()),
        offline: false,
    };
    Hub::new(settings, patience, |_| {}).expect("an address")
}

fn pull(hub: &Hub) -> Result<Pulled, HubError> {
    hub.pull(&name(), &mut |_| ControlFlow::Continue(()))
}

/// The files, links and their contents below a folder, but for locks, which are empty.
fn tree(dir: &Path) -> BTreeSet<(PathBuf, Vec<u8>)> {
    let (mut folders, mut found) = (vec![dir.to_owned()], BTreeSet::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let (path, kind) = (entry.path(), entry.file_type().expect("a kind"));
            let name = path.strip_prefix(dir).expect("below").to_owned();
            if kind.is_symlink() {
                found.insert((name, fs::read_link(&path).expect("a link").into_os_string().into_encoded_bytes()));
            } else if kind.is_dir() {
                folders.push(path);
            } else if !name.starts_with(".locks") && name != Path::new("CACHEDIR.TAG") {
                found.insert((name, fs::read(&path).expect("a file")));
            }
        }
    }
    found
}

/// What the cache holds once everything is there, by the layout's own rules.
fn expected(files: &[File]) -> BTreeSet<(PathBuf, Vec<u8>)> {
    let repo = PathBuf::from("models--some-org--Some-Model");
    let mut tree = BTreeSet::from([(repo.join("refs/main"), COMMIT.into())]);
    for file in files {
        let up = "../".repeat(file.path.matches('/').count() + 2);
        let link = repo.join("snapshots").join(COMMIT).join(&file.path);
        tree.insert((link, format!("{up}blobs/{}", file.etag()).into_bytes()));
        tree.insert((repo.join("blobs").join(file.etag()), file.bytes.clone()));
    }
    tree
}

fn assert_whole(cache: &Path, files: &[File]) {
    let (found, expected) = (tree(cache), expected(files));
    let names = |tree: &BTreeSet<(PathBuf, Vec<u8>)>| tree.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected));
    assert!(found == expected, "contents or links are others");
}

fn one_line(error: &HubError, words: &[&str]) {
    let line = error.to_string();
    assert!(!line.contains('\n') && !line.contains(TOKEN) && line.contains(MODEL), "{line}");
    for word in words {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
}

#[test]
fn what_is_needed_comes_and_nothing_else_and_only_once() {
    let server = server::Hub::start(MODEL, files());
    let cache = tempfile::tempdir().expect("a folder");
    let hub = hub(&server, cache.path(), NONE);
    assert_eq!(hub.find(&name()).expect("none"), None);
    let mut last = Progress { there: 0, fetched: 0, total: 0 };
    let pulled = hub.pull(&name(), &mut |progress| {
        last = progress;
        ControlFlow::Continue(())
    });
    let pulled = pulled.expect("it comes");
    assert_whole(cache.path(), &needed(&files()));
    assert_eq!(pulled.path, cache.path().join("models--some-org--Some-Model/snapshots").join(COMMIT));
    assert_eq!(pulled.files, needed(&files()).len());
    assert_eq!(hub.find(&name()).expect("it"), Some(pulled.path.clone()));
    assert!(last.there <= last.total);
    server.take_requests();
    server.take_sent();
    let again = pull(&hub).expect("it is there");
    assert_eq!((again.fetched, again.bytes), (0, pulled.bytes));
    let requests = server.take_requests();
    assert_eq!(requests.len(), 1, "only the list is asked for again: {requests:?}");
    assert!(cache.path().join("CACHEDIR.TAG").exists());
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let server = server::Hub::start(MODEL, files());
    let cache = tempfile::tempdir().expect("a folder");
    pull(&hub(&server, cache.path(), NONE)).expect("it comes");
    let requests = server.take_requests();
    let [cdn, own] = [true, false].map(|cdn| requests.iter().filter(|request| request.cdn == cdn).collect::<Vec<_>>());
    assert!(cdn.len() == 2 && own.len() > 8, "{requests:?}");
    assert!(cdn.iter().all(|request| request.authorization.is_none()), "{cdn:?}");
    let said = format!("Bearer {TOKEN}");
    assert!(own.iter().all(|request| request.authorization.as_deref() == Some(said.as_str())), "{own:?}");
}

#[test]
fn servers_that_do_not_tell_hashes_in_the_list_tell_them_in_headers() {
    let server = server::Hub::start(MODEL, files());
    server.be_terse();
    let cache = tempfile::tempdir().expect("a folder");
    let pulled = pull(&hub(&server, cache.path(), NONE)).expect("it comes");
    assert_whole(cache.path(), &needed(&files()));
    assert!(pulled.bytes > 5_000_000);
    assert!(server.take_requests().iter().all(|request| request.authorization.is_none() == request.cdn));
}

/// Cuts every answer of the large files' host at a random point, `cuts` times.
fn cut(server: &server::Hub, cuts: usize, seed: u64) {
    let (mut left, mut random) = (cuts, Random(seed));
    server.break_with(move |request| {
        if !request.cdn || left == 0 {
            return None;
        }
        left -= 1;
        Some(Fault::Cut((random.next() % 130_000) as usize))
    });
}

#[test]
fn downloads_that_break_off_go_on_in_the_next_run() {
    let server = server::Hub::start(MODEL, files());
    let cache = tempfile::tempdir().expect("a folder");
    cut(&server, 64, 1);
    let mut broken = 0;
    let pulled = loop {
        // Every run is a new one, as after a kill: it knows only what lies in the cache.
        match pull(&hub(&server, cache.path(), NONE)) {
            Ok(pulled) => break pulled,
            Err(error) => {
                assert!(matches!(error, HubError::Network { .. }), "{error}");
                one_line(&error, &["does not answer", "what is downloaded stays"]);
                broken += 1;
            }
        }
    };
    assert!(broken >= 30, "{broken} runs broke off");
    let requests = server.take_requests();
    let cuts = requests.iter().filter(|request| request.cdn && request.from.is_some()).count();
    assert!(cuts >= 50, "{cuts} went on in the middle");
    // Nothing that lay in the cache is asked for again: the first byte wanted of a file only ever moves on.
    let mut wanted = BTreeMap::new();
    for request in requests.iter().filter(|request| request.cdn) {
        let (before, now) = (wanted.entry(&request.target).or_insert(0), request.from.unwrap_or(0));
        assert!(*before <= now, "{} from {now} after {before}", request.target);
        *before = now;
    }
    assert_eq!(wanted.len(), 2, "{wanted:?}");
    assert_whole(cache.path(), &needed(&files()));
    assert!(pulled.fetched < pulled.bytes, "the last run fetched {} of {}", pulled.fetched, pulled.bytes);
}

#[test]
fn downloads_that_break_off_go_on_in_the_same_run() {
    let server = server::Hub::start(MODEL, files());
    let cache = tempfile::tempdir().expect("a folder");
    cut(&server, 60, 2);
    pull(&hub(&server, cache.path(), AT_ONCE)).expect("it comes in the end");
    let requests = server.take_requests();
    assert!(requests.iter().filter(|request| request.cdn).count() >= 50, "{}", requests.len());
    assert_whole(cache.path(), &needed(&files()));
}

#[test]
fn a_server_that_brings_nothing_is_given_up() {
    let server = server::Hub::start(MODEL, files());
    let cache = tempfile::tempdir().expect("a folder");
    server.break_with(|request| request.cdn.then_some(Fault::Cut(0)));
    let error = pull(&hub(&server, cache.path(), AT_ONCE)).expect_err("nothing comes");
    one_line(&error, &["does not answer", "run the same command again"]);
    server.break_with(|request| request.cdn.then(|| Fault::Status(503, Vec::new())));
    let error = pull(&hub(&server, cache.path(), AT_ONCE)).expect_err("nothing comes");
    one_line(&error, &["says 503", "try again later"]);
}

#[test]
fn what_was_damaged_meanwhile_is_fetched_anew_and_what_comes_wrong_is_refused() {
    let server = server::Hub::start(MODEL, files());
    let cache = tempfile::tempdir().expect("a folder");
    let large = files().into_iter().find(|file| file.large).expect("one");
    let blobs = cache.path().join("models--some-org--Some-Model/blobs");
    fs::create_dir_all(&blobs).expect("a folder");
    let incomplete = blobs.join(format!("{}.incomplete", large.sha256()));
    // As after a loss of power: the length is there, the bytes are not.
    fs::write(&incomplete, vec![0; 1_000_000]).expect("it is written");
    pull(&hub(&server, cache.path(), NONE)).expect("it comes");
    assert_whole(cache.path(), &needed(&files()));
    assert!(server.take_requests().iter().any(|request| request.cdn && request.from == Some(1_000_000)));

    // One that is longer than the file, and one that is whole.
    for left in [[large.bytes.clone(), b"more".to_vec()].concat(), large.bytes.clone()] {
        fs::remove_file(blobs.join(large.sha256())).expect("it is there");
        fs::write(&incomplete, left).expect("it is written");
        pull(&hub(&server, cache.path(), NONE)).expect("it comes");
        assert_whole(cache.path(), &needed(&files()));
    }

    let other = tempfile::tempdir().expect("a folder");
    server.break_with(|request| request.cdn.then_some(Fault::Flip));
    let error = pull(&hub(&server, other.path(), NONE)).expect_err("it is another file");
    assert!(matches!(error, HubError::WrongHash { .. }), "{error}");
    one_line(&error, &["another hash", "was removed"]);
    let left = tree(other.path());
    assert!(left.iter().all(|(name, _)| !name.ends_with(large.sha256())), "it is not there under its name");
    assert!(!left.iter().any(|(name, _)| name.ends_with("refs/main")), "the version is not the newest yet");
    assert_eq!(hub(&server, other.path(), NONE).find(&name()).expect("none"), None);
    server.break_with(|_| None);
    pull(&hub(&server, other.path(), NONE)).expect("it comes");
    assert_whole(other.path(), &needed(&files()));
}

#[test]
fn a_server_without_ranges_sends_all_of_it_again() {
    let server = server::Hub::start(MODEL, files());
    let cache = tempfile::tempdir().expect("a folder");
    let mut answered = 0;
    server.break_with(move |request| {
        if !request.cdn {
            return None;
        }
        answered += 1;
        Some(if answered < 9 { Fault::Cut(100_000) } else { Fault::Whole })
    });
    pull(&hub(&server, cache.path(), AT_ONCE)).expect("it comes");
    assert_whole(cache.path(), &needed(&files()));
}

#[test]
fn refusals_are_said_plainly() {
    let server = server::Hub::start(MODEL, files());
    let cache = tempfile::tempdir().expect("a folder");
    let refused = |status: u16, headers: &'static [(&'static str, &'static str)], on_cdn: bool| {
        server.break_with(move |request| {
            let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            (request.cdn == on_cdn).then_some(Fault::Status(status, headers))
        });
        pull(&hub(&server, cache.path(), AT_ONCE)).expect_err("it is refused")
    };
    one_line(
        &refused(401, &[("X-Error-Code", "RepoNotFound")], false),
        &["says 401", "check HF_TOKEN", "check the name"],
    );
    one_line(&refused(403, &[("X-Error-Code", "GatedRepo")], false), &["says 403", "gated", "accept its conditions"]);
    one_line(&refused(401, &[("X-Error-Code", "GatedRepo")], false), &["gated", "HF_TOKEN"]);
    one_line(&refused(403, &[], true), &["says 403", "may not read it"]);
    one_line(
        &refused(404, &[("X-Error-Code", "RepoNotFound")], false),
        &["says 404", "no such model", "ORG/REPO:QUANT"],
    );
    one_line(&refused(429, &[("Retry-After", "3600")], true), &["says 429", "in 3600 s;", "what is downloaded stays"]);
    one_line(&refused(302, &[("Location", "ftp://x/y")], false), &["answers as no hub does", "HF_ENDPOINT"]);
    one_line(&refused(200, &[], false), &["answers as no hub does"]);
    assert_eq!(hub(&server, cache.path(), NONE).find(&name()).expect("none"), None);

    // A server that asks for a short wait gets it.
    let mut asked = 0;
    server.break_with(move |request| {
        asked += usize::from(request.cdn);
        (request.cdn && asked < 4).then(|| Fault::Status(429, vec![("Retry-After", "0".to_owned())]))
    });
    pull(&hub(&server, cache.path(), AT_ONCE)).expect("it comes");
    assert_whole(cache.path(), &needed(&files()));
    let mut settings = Settings {
        endpoint: "http://127.0.0.1:9".to_owned(),
        cache: cache.path().to_owned(),
        token: None,
        offline: false,
    };
    let silent = Hub::new(settings.clone(), NONE, |_| {}).expect("an address");
    one_line(&pull(&silent).expect_err("nobody is there"), &["127.0.0.1:9 does not answer", "HF_ENDPOINT"]);
    settings.offline = true;
    let offline = Hub::new(settings.clone(), NONE, |_| {}).expect("an address");
    one_line(&pull(&offline).expect_err("it may not ask"), &["--offline", "outpour pull some-org/Some-Model"]);
    settings.token = Some("hf_a\nb".to_owned());
    let error = Hub::new(settings.clone(), NONE, |_| {}).err().expect("no token").to_string();
    assert!(error.contains("HF_TOKEN") && !error.contains("hf_a"), "{error}");
    settings.endpoint = "huggingface".to_owned();
    assert!(Hub::new(settings, NONE, |_| {}).err().expect("no address").to_string().contains("HF_ENDPOINT"));
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    for path in ["../../../escaped.json", "/tmp/escaped.json", "a/../../../../escaped.json"] {
        let server = server::Hub::start(MODEL, files());
        server.change(|files| files.push(File::new(path, b"{}".to_vec())));
        let cache = tempfile::tempdir().expect("a folder");
        one_line(
            &pull(&hub(&server, cache.path(), NONE)).expect_err("it is refused"),
            &["leads out of", "HF_ENDPOINT"],
        );
        assert_eq!(tree(cache.path()), BTreeSet::new());
    }
    let server = server::Hub::start(MODEL, files());
    server.change(|files| files[4].bytes = br#"{"weight_map": {"a": "../../x.safetensors"}}"#.to_vec());
    let cache = tempfile::tempdir().expect("a folder");
    let error = pull(&hub(&server, cache.path(), NONE)).expect_err("it is refused").to_string();
    assert!(error.contains("is no file name"), "{error}");
}

#[test]
fn the_caller_may_break_off_at_any_time() {
    let server = server::Hub::start(MODEL, files());
    let cache = tempfile::tempdir().expect("a folder");
    server.break_with(|request| {
        if request.cdn {
            std::thread::sleep(Duration::from_millis(500));
        }
        None
    });
    let stopped = hub(&server, cache.path(), NONE).pull(&name(), &mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(HubError::Stopped { stays: true })));
    server.break_with(|_| None);
    pull(&hub(&server, cache.path(), NONE)).expect("it goes on");
    assert_whole(cache.path(), &needed(&files()));
}

#[test]
fn several_at_once_fetch_everything_once() {
    let server = server::Hub::start(MODEL, files());
    let cache = tempfile::tempdir().expect("a folder");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| pull(&hub(&server, cache.path(), NONE)).expect("it comes"));
        }
    });
    assert_whole(cache.path(), &needed(&files()));
    assert_eq!(server.take_requests().iter().filter(|request| request.cdn).count(), 2, "each large file once");
}

/// A file system of so many bytes in memory, until it is dropped.
struct SmallDrive(tempfile::TempDir);

impl SmallDrive {
    fn mount(bytes: u64) -> Option<SmallDrive> {
        let folder = tempfile::tempdir().expect("a folder");
        let size = format!("size={bytes}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        if mount.is_ok_and(|mount| mount.status.success()) {
            return Some(SmallDrive(folder));
        }
        println!("skipped: a small file system can be mounted by root only");
        None
    }
}

impl Drop for SmallDrive {
    fn drop(&mut self) {
        // What stays mounted is empty once the folder's files are gone.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_drive_that_is_too_small_is_noticed_before_anything_comes() {
    let Some(drive) = SmallDrive::mount(3 << 20) else { return };
    let server = server::Hub::start(MODEL, files());
    let error = pull(&hub(&server, drive.0.path(), NONE)).expect_err("it does not fit");
    assert!(matches!(error, HubError::NoSpace { .. }), "{error}");
    one_line(&error, &["needs 5.", "are free there", "HF_HUB_CACHE"]);
    assert!(!server.take_requests().iter().any(|request| request.cdn), "no weights were asked for");
}

#[test]
fn a_drive_that_becomes_full_keeps_what_came() {
    let Some(drive) = SmallDrive::mount(8 << 20) else { return };
    let server = server::Hub::start(MODEL, files());
    let filler = drive.0.path().join("filler");
    let fill = filler.clone();
    server.break_with(move |request| {
        if request.cdn && !fill.exists() {
            fs::write(&fill, vec![1; 5 << 20]).expect("it fits");
        }
        None
    });
    let error = pull(&hub(&server, drive.0.path(), NONE)).expect_err("it is full");
    assert!(matches!(error, HubError::Full { .. }), "{error}");
    one_line(&error, &["is full", "run the same command again"]);
    fs::remove_file(&filler).expect("it is there");
    server.break_with(|_| None);
    server.take_sent();
    let pulled = pull(&hub(&server, drive.0.path(), NONE)).expect("it goes on");
    assert_whole(drive.0.path(), &needed(&files()));
    assert!(pulled.fetched < pulled.bytes, "nothing of what came was lost: {pulled:?}");
}

/// A GGUF file with so many tokens, and data behind its header.
fn gguf(tokens: u32) -> (Vec<u8>, u64) {
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(2u64.to_le_bytes());
    text(&mut bytes, "tokenizer.ggml.tokens");
    // A list (9) of texts (8), then one of 32-bit numbers (5), which is left out when the header is read.
    bytes.extend(9u32.to_le_bytes());
    bytes.extend(8u32.to_le_bytes());
    bytes.extend(u64::from(tokens).to_le_bytes());
    (0..tokens).for_each(|token| text(&mut bytes, &format!("token {token}")));
    text(&mut bytes, "tokenizer.ggml.token_type");
    bytes.extend(9u32.to_le_bytes());
    bytes.extend(5u32.to_le_bytes());
    bytes.extend(u64::from(tokens).to_le_bytes());
    (0..tokens).for_each(|token| bytes.extend((1 + token % 3).to_le_bytes()));
    text(&mut bytes, "weight");
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(1_000_000u64.to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    let header = bytes.len() as u64;
    bytes.extend(Random(3).bytes(4_000_000));
    (bytes, header)
}

#[test]
fn a_long_header_arrives_whole_in_few_requests_and_without_data() {
    let (bytes, header) = gguf(60_000);
    assert!(header > 1 << 20);
    let server = server::Hub::start(MODEL, vec![File::new("model-Q8_0.gguf", bytes.clone())]);
    let cache = tempfile::tempdir().expect("a folder");
    let mut asked = 0;
    server.break_with(move |request| {
        asked += usize::from(request.cdn);
        // Of the requests for the header, some break off or find the server busy.
        match asked {
            2 if request.cdn => Some(Fault::Cut(1000)),
            3 if request.cdn => Some(Fault::Status(500, Vec::new())),
            _ => None,
        }
    });
    let outline =
        hub(&server, cache.path(), AT_ONCE).outline(&name(), &mut |_| ControlFlow::Continue(())).expect("headers");
    let file = fs::read(&outline.path).expect("a file");
    assert_eq!(file.len(), bytes.len());
    assert!(file[..header as usize] == bytes[..header as usize], "the header is another");
    let there = outline.header_bytes as usize;
    assert!(there as u64 >= header && there < 2 * header as usize + (512 << 10), "{there} of {header}");
    assert!(file[there..].iter().all(|&byte| byte == 0));
    assert_eq!(
        (outline.weights_bytes, server.take_requests().iter().filter(|request| request.cdn).count()),
        (bytes.len() as u64, 4)
    );
    let folder = outline.path.clone();
    drop(outline);
    assert!(!folder.exists());
}

#[test]
fn headers_that_break_off_go_on_from_there() {
    let (bytes, header) = gguf(60_000);
    let server = server::Hub::start(MODEL, vec![File::new("model-Q8_0.gguf", bytes.clone())]);
    let cache = tempfile::tempdir().expect("a folder");
    // Far less than is asked for at a time: no request brings all of it.
    server.break_with(|request| request.cdn.then_some(Fault::Cut(40_000)));
    let outline =
        hub(&server, cache.path(), AT_ONCE).outline(&name(), &mut |_| ControlFlow::Continue(())).expect("headers");
    let file = fs::read(&outline.path).expect("a file");
    assert!(file[..header as usize] == bytes[..header as usize], "the header is another");
    let wanted: Vec<u64> = server.take_requests().iter().filter(|r| r.cdn).map(|r| r.from.unwrap_or(0)).collect();
    assert!(wanted.len() > 20 && wanted.is_sorted_by(|a, b| a < b), "what had come was asked for again: {wanted:?}");
    // Where nothing comes it is given up, and what came of headers does not stay.
    server.break_with(|request| request.cdn.then_some(Fault::Cut(0)));
    let given_up = hub(&server, cache.path(), AT_ONCE).outline(&name(), &mut |_| ControlFlow::Continue(()));
    let error = given_up.expect_err("nothing comes");
    one_line(&error, &["does not answer", "run the same command again"]);
    assert!(!error.to_string().contains("stays"), "{error}");
    assert!(matches!(error, HubError::Network { .. }), "{error:?}");
}
