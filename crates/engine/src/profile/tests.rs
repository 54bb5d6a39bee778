use super::*;

fn product(format: Format, rows: usize, seconds: f64) -> Product {
    let ops = 2.0 * rows as f64 * PRODUCT_WEIGHTS;
    Product { format, rows, weight_bytes_per_second: 1e9, ops_per_second: ops / seconds }
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
        // Four rows a little faster than one, as noise makes them.
        products: vec![
            product(Format::Bf16, 1, 4e-4),
            product(Format::Bf16, 4, 3.9e-4),
            product(Format::Bf16, 64, 4e-3),
            product(FOUR_BITS, 1, 1e-4),
            product(FOUR_BITS, 64, 2e-3),
        ],
        precise_products: Vec::new(),
        experts: vec![product(FOUR_BITS, 1, 2e-4)],
        small_op_seconds: 1e-6,
        delta: vec![Delta { rows: 1, state_bytes_per_second: 1e10 }],
        attention: vec![Attention { rows: 1, positions: 4096, kv_bytes_per_second: 1e10, flops_per_second: 1e10 }],
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
    for cut in ["", "{", "[]", "{}", "null", r#"{"version": 1}"#, &whole[..whole.len() / 2], "\0\u{1}garbage"] {
        let line = refusal(cut);
        assert!(line.contains("machine.json") && line.contains("damaged") && !line.contains('\n'), "{cut:?}: {line}");
    }
    let unknown = whole.replace("affine4g64", "affine7g64");
    assert!(refusal(&unknown).contains("affine7g64"));
    let newer = refusal(&whole.replacen("\"version\":1", "\"version\":99", 1));
    assert!(newer.contains("version 99, not 1") && newer.contains("outpour doctor"), "{newer}");
    // Damage is mended by the next measurement.
    profile().save_to(&path).unwrap();
    assert_eq!(Profile::read(&path).unwrap(), Some(profile()));
}

#[test]
fn figures_of_another_machine_are_told_apart() {
    let mismatch = |cpu, isa, threads| profile().mismatch(cpu, isa, threads);
    assert_eq!(mismatch("A processor", "avx2", 4), None);
    assert!(mismatch("Another", "avx2", 4).unwrap().contains("another processor (A processor, avx2; here Another"));
    assert!(mismatch("A processor", "avx512", 4).unwrap().contains("avx512"));
    assert_eq!(mismatch("A processor", "avx2", 2).unwrap(), "was measured with 4 threads, not 2");
}

#[test]
fn formats_keep_their_names() {
    for format in outpour_kernels::speed::FORMATS {
        let stored = serde_json::to_string(&product(format, 1, 1.0)).unwrap();
        assert_eq!(serde_json::from_str::<Product>(&stored).unwrap().format, format, "{stored}");
    }
}

#[test]
fn products_take_longer_with_rows_and_with_weights() {
    let profile = profile();
    for format in [Format::Bf16, FOUR_BITS] {
        let mut last = 0.0;
        for rows in 1..2000 {
            let seconds = profile.product_seconds(format, rows, 2048, 2048);
            assert!(seconds >= last && seconds.is_finite(), "{rows} rows: {seconds} after {last}");
            last = seconds;
        }
        for rows in [1, 3, 64, 5000] {
            let of = |m| profile.product_seconds(format, rows, m, 2048);
            assert!(of(1) < of(128) && of(128) < of(2048) && of(2048) < of(100_000));
            assert!(of(1) >= profile.small_op_seconds);
        }
    }
}

#[test]
fn products_take_what_was_measured() {
    let profile = profile();
    let near = |found: f64, known: f64| assert!((found / known - 1.0).abs() < 1e-6, "{found} is not {known}");
    near(profile.product_seconds(Format::Bf16, 1, 2048, 2048), 4e-4);
    near(profile.product_seconds(Format::Bf16, 64, 2048, 2048), 4e-3);
    near(profile.product_seconds(Format::Bf16, 640, 2048, 2048), 1e-6 + 10.0 * (4e-3 - 1e-6));
    // Half the weights: half of what is not the fixed cost.
    near(profile.product_seconds(FOUR_BITS, 1, 1024, 2048), 1e-6 + (1e-4 - 1e-6) / 2.0);
    // Between 1 and 64 rows, in proportion to the logarithms: at 8 the geometric mean.
    near(profile.product_seconds(FOUR_BITS, 8, 2048, 2048), 1e-6 + ((1e-4 - 1e-6) * (2e-3 - 1e-6f64)).sqrt());
    // Groups of 128 were not measured, those of 64 were.
    let other = Format::Affine { bits: 4, group: 128 };
    near(profile.product_seconds(other, 1, 2048, 2048), 1e-4);
    assert_eq!(profile.product_seconds(Format::Bf16, 0, 2048, 2048), 0.0);
    assert_eq!(Profile { products: Vec::new(), ..profile }.product_seconds(Format::Bf16, 1, 2048, 2048), 0.0);
}

#[test]
fn depth_is_interpolated() {
    let drive = drive("a", "/a");
    let at = |depth| drive.bytes_per_second(depth);
    assert_eq!([at(0), at(1), at(2), at(4), at(32), at(100)], [1e9, 1e9, 2e9, 3e9, 4e9, 4e9]);
    assert!((1..40).all(|depth| at(depth) <= at(depth + 1)));
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
