//! The fixtures that `reference/text.py` made.

#![allow(dead_code, reason = "each test uses its own part")]

use outpour_text::Tokenizer;
use serde_json::Value;
use std::path::PathBuf;

pub fn dir() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/text"))
}

pub fn text(name: &str) -> String {
    std::fs::read_to_string(dir().join(name)).expect("fixture")
}

pub fn json(name: &str) -> Value {
    serde_json::from_str(&text(name)).expect("fixture")
}

pub fn tokenizer() -> Tokenizer {
    Tokenizer::load(&dir()).expect("fixture")
}

pub fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("ids")
}

/// Fails with all of `wrong`, so that one run shows every difference.
pub fn none_wrong(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// A small generator of numbers, the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}
