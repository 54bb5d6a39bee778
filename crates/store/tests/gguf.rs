//! The GGUF container: what well-formed files say, and what malformed ones get.

use std::path::{Path, PathBuf};

use outpour_store::checkpoint::{Checkpoint, StoredType, gguf};

/// A file, piece by piece.
#[derive(Clone, Default)]
struct File {
    version: u32,
    entries: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: usize,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key)[..], &kind.to_le_bytes(), value].concat()
}

fn list(key: &str, kind: u32, len: u64, values: &[u8]) -> Vec<u8> {
    entry(key, 9, &[&kind.to_le_bytes()[..], &len.to_le_bytes(), values].concat())
}

fn tensor(name: &str, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let dims: Vec<u8> = [&(dims.len() as u32).to_le_bytes()[..]]
        .into_iter()
        .map(<[u8]>::to_vec)
        .chain(dims.iter().map(|dim| dim.to_le_bytes().to_vec()))
        .flatten()
        .collect();
    [&text(name)[..], &dims, &kind.to_le_bytes(), &offset.to_le_bytes()].concat()
}

impl File {
    /// Two tensors, and an entry of every kind.
    fn good() -> File {
        File {
            version: 3,
            entries: vec![
                entry("general.architecture", 8, &text("qwen3moe")),
                entry("a.u8", 0, &[200]),
                entry("a.i8", 1, &[0xff]),
                entry("a.u16", 2, &[1, 1]),
                entry("a.i16", 3, &[0xfe, 0xff]),
                entry("a.u32", 4, &7u32.to_le_bytes()),
                entry("a.i32", 5, &(-7i32).to_le_bytes()),
                entry("a.f32", 6, &1e-6f32.to_le_bytes()),
                entry("a.bool", 7, &[1]),
                entry("a.u64", 10, &u64::MAX.to_le_bytes()),
                entry("a.i64", 11, &i64::MIN.to_le_bytes()),
                entry("a.f64", 12, &0.5f64.to_le_bytes()),
                list("a.numbers", 5, 3, &[1i32, -2, 3].map(i32::to_le_bytes).concat()),
                list("a.texts", 8, 2, &[text("one"), text("")].concat()),
                list("a.long", 0, 5000, &[9; 5000]),
            ],
            tensors: vec![tensor("f", &[4, 2], 0, 0), tensor("q", &[256, 3], 12, 32)],
            data: 32 + 3 * 144,
        }
    }

    fn header(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.entries.len() as u64).to_le_bytes());
        bytes.extend(self.entries.concat());
        bytes.extend(self.tensors.concat());
        bytes
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.resize(bytes.len().next_multiple_of(32) + self.data, 0);
        bytes
    }
}

fn written(dir: &Path, bytes: &[u8]) -> PathBuf {
    let path = dir.join("model.gguf");
    std::fs::write(&path, bytes).expect("a file");
    path
}

fn problem(dir: &Path, bytes: &[u8]) -> String {
    let error = gguf::read_header(&written(dir, bytes)).map(|_| ()).expect_err("a malformed file");
    let line = error.to_string();
    assert!(line.contains("model.gguf: ") && !line.contains('\n'), "{line}");
    line
}

#[test]
fn a_file_says_what_is_in_it() {
    let dir = tempfile::tempdir().expect("a folder");
    for version in [2, 3] {
        let file = File { version, ..File::good() };
        let header = gguf::read_header(&written(dir.path(), &file.bytes())).expect("a header");
        let metadata = &header.metadata;
        assert_eq!(metadata.text("general.architecture"), Some("qwen3moe"));
        let values: Vec<String> = metadata.values().skip(1).map(|(_, value)| value.to_string()).collect();
        let float = f64::from(1e-6f32).to_string().parse::<f64>().expect("a number");
        assert_eq!(metadata.get("a.f32").and_then(serde_json::Value::as_f64), Some(float));
        assert_eq!(values[..6], ["200", "-1", "257", "-2", "7", "-7"]);
        assert_eq!(values[7..], ["true", "18446744073709551615", "-9223372036854775808", "0.5", "[1,-2,3]"]);
        assert_eq!(metadata.texts("a.texts").expect("readable"), Some(vec!["one".to_owned(), String::new()]));
        assert_eq!(metadata.numbers("a.numbers").expect("readable"), Some(vec![1, -2, 3]));
        assert_eq!(metadata.numbers("a.long").expect("readable"), Some(vec![9; 5000]));
        assert_eq!([metadata.list_len("a.long"), metadata.list_len("a.texts")], [Some(5000), Some(2)]);
        let data = file.header().len().next_multiple_of(32) as u64;
        let places: Vec<(&str, Vec<usize>, u64, u64)> = header
            .tensors
            .iter()
            .map(|(name, entry)| (name.as_str(), entry.shape.clone(), entry.offset - data, entry.bytes))
            .collect();
        assert_eq!(places, [("f", vec![2, 4], 0, 32), ("q", vec![3, 256], 32, 3 * 144)]);
        assert!(matches!(header.tensors[1].1.dtype, StoredType::Blocks(blocks) if blocks.name == "Q4_K"));
    }
}

#[test]
fn malformed_files_are_named_with_what_is_wrong() {
    let dir = tempfile::tempdir().expect("a folder");
    let with = |change: &dyn Fn(&mut File)| {
        let mut file = File::good();
        change(&mut file);
        problem(dir.path(), &file.bytes())
    };
    let cases: Vec<(String, &str)> = vec![
        (problem(dir.path(), b""), "does not begin"),
        (problem(dir.path(), &[b"GGML".as_slice(), &[0; 40]].concat()), "does not begin"),
        (with(&|file| file.version = 1), "version 1"),
        (with(&|file| file.version = 3 << 24), "big-endian"),
        (with(&|file| file.entries.push(File::good().entries.remove(5))), "a.u32 is there twice"),
        (with(&|file| file.entries.push(entry("x", 13, &[]))), "x is of kind 13"),
        (with(&|file| file.entries.push(list("x", 9, 1, &[0; 12]))), "x is a list of kind 9"),
        (with(&|file| file.entries.push(list("x", 4, 1 << 60, &[]))), "1152921504606846976 values of x"),
        (with(&|file| file.entries.push(list("x", 8, 1 << 50, &[]))), "of x, more than it can hold"),
        (with(&|file| file.entries.push(entry("x", 8, &u64::MAX.to_le_bytes()))), "ends within x"),
        (with(&|file| file.entries.push(entry("x", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]))), "x is not UTF-8"),
        (with(&|file| file.entries.push(entry("general.alignment", 4, &[3, 0, 0, 0]))), "general.alignment is 3"),
        (with(&|file| file.entries.push(entry("general.alignment", 4, &[0; 4]))), "general.alignment is 0"),
        (with(&|file| file.tensors.push(tensor("x", &[1; 5], 0, 0))), "x has 5 dimensions"),
        (with(&|file| file.tensors.push(tensor("x", &[1 << 40, 1 << 40], 0, 0))), "x has the dimensions"),
        (with(&|file| file.tensors.push(tensor("x", &[100], 12, 0))), "x has rows of 100, no number of whole blocks"),
        // Found by fuzzing: blocks without a row.
        (with(&|file| file.tensors.push(tensor("x", &[], 12, 0))), "x has rows of 1, no number of whole blocks"),
        (with(&|file| file.tensors.push(tensor("x", &[4], 0, 1 << 40))), "tensor x, F32 [4] at byte 1099511627776"),
        (with(&|file| file.tensors.push(tensor("x", &[4], 0, u64::MAX - 3))), "does not fit"),
        (with(&|file| file.tensors.push(tensor("x", &[256 << 40], 12, 0))), "does not fit"),
        (with(&|file| file.tensors.push(tensor("x", &[4], 0, 16))), "f and x overlap"),
        (with(&|file| file.data -= 1), "tensor q"),
    ];
    for (problem, expected) in cases {
        assert!(problem.contains(expected), "{problem:?} does not say {expected:?}");
    }
}

/// Wherever a header ends, and whatever any of its bytes is, it is read or refused, at once.
#[test]
fn no_header_panics() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = File { entries: File::good().entries[..14].to_vec(), ..File::good() };
    let (whole, header) = (file.bytes(), file.header().len());
    for end in 0..header {
        problem(dir.path(), &whole[..end]);
    }
    for at in 0..header {
        for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            if let Err(error) = gguf::read_header(&written(dir.path(), &bytes)) {
                assert!(!error.to_string().contains('\n'));
            }
        }
    }
}

#[test]
fn a_type_that_is_not_known_is_left_to_those_who_need_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut file = File::good();
    file.tensors.push(tensor("x", &[4], 99, 0));
    let header = gguf::read_header(&written(dir.path(), &file.bytes())).expect("a header");
    assert_eq!(header.tensors[2].1.dtype, StoredType::Other("number 99 of ggml, which is not known".into()));
}

#[test]
fn parts_make_one_model() {
    let dir = tempfile::tempdir().expect("a folder");
    let part = |number: u16, tensors: Vec<Vec<u8>>, claimed: i32| File {
        version: 3,
        entries: vec![
            entry("split.no", 2, &number.to_le_bytes()),
            entry("split.count", 2, &2u16.to_le_bytes()),
            entry("split.tensors.count", 5, &claimed.to_le_bytes()),
        ],
        tensors,
        data: 32,
    };
    let write = |number: u16, of: u16, file: &File| {
        std::fs::write(dir.path().join(format!("m-{number:05}-of-{of:05}.gguf")), file.bytes()).expect("a file");
    };
    let problem = |path: &Path| Checkpoint::open(path).map(|_| ()).expect_err("no model").to_string();
    let (first, second) = (part(0, vec![tensor("a", &[4], 0, 0)], 2), part(1, vec![tensor("b", &[4], 0, 0)], 2));
    write(1, 2, &first);
    assert!(problem(dir.path()).contains("m-00002-of-00002.gguf: is missing (1 of 2 parts are)"));
    write(2, 2, &second);
    for path in [dir.path().to_owned(), dir.path().join("m-00002-of-00002.gguf")] {
        let checkpoint = Checkpoint::open(&path).expect("a model");
        assert_eq!(
            [checkpoint.tensor("a").map(|t| t.file), checkpoint.tensor("b").map(|t| t.file)],
            [Some(0), Some(1)]
        );
    }
    write(2, 2, &first);
    assert!(problem(dir.path()).contains("says it is part 1 of 2"));
    write(2, 2, &part(1, vec![tensor("a", &[4], 0, 0)], 2));
    assert!(problem(dir.path()).contains("tensor a is in"));
    // A part that says what it is of, as some programs write all of them.
    let named = |name: &str, number: u16, claimed: i32, tensors| {
        let mut part = part(number, tensors, claimed);
        let file_type = if name == "other quant" { 7u32 } else { 15 };
        part.entries.extend([
            entry("general.architecture", 8, &text(if name == "other kind" { "qwen3moe" } else { "olmoe" })),
            entry("general.name", 8, &text(if name == "other name" { "B" } else { "A" })),
            entry("general.file_type", 4, &file_type.to_le_bytes()),
        ]);
        part
    };
    write(1, 2, &named("", 0, 2, vec![tensor("a", &[4], 0, 0)]));
    let second = |name: &str, claimed: i32| named(name, 1, claimed, vec![tensor("b", &[4], 0, 0)]);
    write(2, 2, &second("", 2));
    Checkpoint::open(dir.path()).expect("one model");
    for (name, claimed, key) in [
        ("other kind", 2, "general.architecture \"qwen3moe\""),
        ("other name", 2, "general.name \"B\""),
        ("other quant", 2, "general.file_type 7"),
        ("", 3, "split.tensors.count 3"),
    ] {
        write(2, 2, &second(name, claimed));
        let problem = problem(dir.path());
        assert!(problem.contains(&format!("m-00002-of-00002.gguf: says {key}, and the first part")), "{problem}");
        assert!(problem.contains("m-00001-of-00002.gguf, says") && !problem.contains('\n'), "{problem}");
    }
    write(1, 2, &first);
    write(2, 2, &part(1, vec![], 2));
    assert!(problem(dir.path()).contains("has 2 tensors, and its parts hold 1"));
    std::fs::write(dir.path().join("other.gguf"), first.bytes()).expect("a file");
    assert!(problem(dir.path()).contains("holds 2 models"));
    assert!(problem(&dir.path().join("none.gguf")).contains("no such folder: give a GGUF file"));
}
