use super::*;

fn product(format: Format, rows: usize, ops_per_second: f64) -> Product {
    Product { format, rows, weight_bytes_per_second: 1e9, ops_per_second }
}

fn drive(name: &str, folder: &str) -> DriveSpeed {
    DriveSpeed {
        drive: name.into(),
        model: Some("A drive".into()),
        folder: folder.into(),
        of_model: false,
        record_bytes: 2_502_656,
        extents: 1,
        reader: "uring".into(),
        direct: true,
        depths: vec![
            DepthSpeed { depth: 1, bytes_per_second: 1e9 },
            DepthSpeed { depth: 4, bytes_per_second: 3e9 },
            DepthSpeed { depth: 32, bytes_per_second: 4e9 },
        ],
        bursts: vec![
            DepthSpeed { depth: 1, bytes_per_second: 1e9 },
            DepthSpeed { depth: 4, bytes_per_second: 2e9 },
            DepthSpeed { depth: 8, bytes_per_second: 2.5e9 },
        ],
        sustained_bytes_per_second: 2.8e9,
        cpu_seconds_per_byte: 3e-11,
        limit_bytes_per_second: 4e9,
        sequential_bytes_per_second: None,
    }
}

const FOUR_BITS: Format = Format::Affine { bits: 4, group: 64 };

fn profile() -> Profile {
    Profile {
        version: VERSION,
        measured_at: 1,
        quick: false,
        cpu: "A processor".into(),
        isa: "avx2".into(),
        threads: 4,
        memory_read_bytes_per_second: 2e10,
        peaks: None,
        products: vec![product(Format::Bf16, 1, 2e10), product(FOUR_BITS, 64, 4e11)],
        small_op_seconds: 1e-6,
        drives: vec![drive("nvme0n1", "/cache")],
    }
}

#[test]
fn it_comes_back_as_it_was_stored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made/on/demand/machine.json");
    assert_eq!(Profile::read(&path).unwrap(), None);
    profile().save_to(&path).unwrap();
    assert_eq!(Profile::read(&path).unwrap(), Some(profile()));
    let names = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["machine.json"], "nothing half-written stays");
}

#[test]
fn drives_of_earlier_measurements_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("machine.json");
    let of = |drives| Profile { drives, ..profile() };
    of(vec![drive("a", "/a"), drive("b", "/b"), drive("b", "/b")]).save_to(&path).unwrap();
    let again = DriveSpeed { limit_bytes_per_second: 1e9, ..drive("b", "/b") };
    of(vec![again.clone()]).save_to(&path).unwrap();
    assert_eq!(Profile::read(&path).unwrap().unwrap().drives, [again.clone(), drive("a", "/a")]);
    // Another processor's are another machine's.
    Profile { cpu: "Another".into(), ..of(vec![again.clone()]) }.save_to(&path).unwrap();
    assert_eq!(Profile::read(&path).unwrap().unwrap().drives, [again]);
}

#[test]
fn what_is_damaged_or_old_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("machine.json");
    let refusal = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Profile::read(&path).unwrap_err().to_string()
    };
    let whole = serde_json::to_string(&profile()).unwrap();
    let bare = format!("{{\"version\": {VERSION}}}");
    for cut in ["", "{", "[]", "{}", "null", bare.as_str(), &whole[..whole.len() / 2], "\0\u{1}garbage"] {
        let line = refusal(cut);
        assert!(line.contains("machine.json") && line.contains("damaged") && !line.contains('\n'), "{cut:?}: {line}");
    }
    let unknown = whole.replace("affine4g64", "affine7g64");
    assert!(refusal(&unknown).contains("affine7g64"));
    let newer = refusal(&whole.replacen(&format!("\"version\":{VERSION}"), "\"version\":99", 1));
    assert!(newer.contains(&format!("version 99, not {VERSION}")) && newer.contains("outpour doctor"), "{newer}");
    // Damage is mended by the next measurement.
    profile().save_to(&path).unwrap();
    assert_eq!(Profile::read(&path).unwrap(), Some(profile()));
}

#[test]
fn figures_of_another_machine_are_told_apart() {
    assert_eq!(profile().mismatch("A processor"), None);
    let mismatch = profile().mismatch("Another").unwrap();
    assert!(mismatch.contains("another machine (with A processor; here is Another)"), "{mismatch}");
}

#[test]
fn formats_keep_their_names() {
    for format in outpour_kernels::speed::FORMATS {
        let stored = serde_json::to_string(&product(format, 1, 1.0)).unwrap();
        assert_eq!(serde_json::from_str::<Product>(&stored).unwrap().format, format, "{stored}");
    }
}

#[test]
fn bursts_are_interpolated() {
    let rate = drive("a", "/a").rate();
    assert_eq!((rate.steady, rate.cpu_seconds_per_byte), (2.8e9, 3e-11));
    let at = |experts| rate.burst_bytes_per_second(experts);
    assert_eq!([at(0), at(1), at(2), at(4), at(8), at(100)], [1e9, 1e9, 1.5e9, 2e9, 2.5e9, 2.5e9]);
    assert!((rate.burst_seconds(4, 1e6) - 4e6 / 2e9).abs() < 1e-12);
    assert_eq!(rate.burst_seconds(0, 1e6), 0.0);
    assert_eq!(DriveRate::constant(2e9).burst_bytes_per_second(3), 2e9);
}

#[test]
fn the_drive_of_a_path() {
    let small = DriveSpeed { record_bytes: 1_003_520, ..drive("a", "/cache") };
    let buffered = DriveSpeed { direct: false, ..drive("a", "/cache") };
    let pread = DriveSpeed { reader: "pread".into(), ..drive("a", "/cache") };
    let own = DriveSpeed { of_model: true, record_bytes: 9 << 20, ..drive("a", "/models/x") };
    let drives = vec![buffered, pread, small, drive("a", "/cache"), own.clone(), drive("b", "/other")];
    let profile = Profile { drives, ..profile() };
    let found = |path: &str, drive| profile.drive_named(Path::new(path), drive);
    assert_eq!(found("/models/x", Some("a")), Some(&own));
    assert_eq!(found("/models/x", None), Some(&own), "its folder is enough");
    assert_eq!(found("/models/y", Some("a")), Some(&drive("a", "/cache")));
    assert_eq!(found("/models/y", Some("b")), Some(&drive("b", "/other")));
    assert_eq!(found("/models/y", Some("c")), None);
    assert_eq!(found("/models/y", None), None);
}
