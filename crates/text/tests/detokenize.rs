//! A stream of ids printed piece by piece: nothing lost, nothing cut.

mod common;

use common::{Random, ids, json, none_wrong, tokenizer};
use outpour_text::{Detokenizer, Tokenizer};

fn joined(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer, skip_special);
    let mut text = String::new();
    for &id in ids {
        text.push_str(detokenizer.push(tokenizer, id));
    }
    text.push_str(detokenizer.finish());
    text
}

#[test]
fn pieces_join_to_what_hugging_face_decodes() {
    let tokenizer = tokenizer();
    let cases = json("cases_text.json");
    let mut wrong = Vec::new();
    for case in cases["encode"].as_array().unwrap().iter().chain(cases["decode"].as_array().unwrap()) {
        let ids = ids(&case["ids"]);
        let got = joined(&tokenizer, &ids, false);
        if got != case["decoded"].as_str().unwrap() {
            wrong.push(format!("{ids:?}: {got:?}"));
        }
    }
    none_wrong(wrong);
}

#[test]
fn pieces_join_to_decode_for_any_ids() {
    let tokenizer = tokenizer();
    let mut random = Random(1);
    for round in 0..20_000 {
        let end = if round % 2 == 0 { 256 } else { tokenizer.vocab_size() + 2 };
        let ids: Vec<u32> = (0..random.below(12)).map(|_| random.below(end) as u32).collect();
        for skip in [false, true] {
            assert_eq!(joined(&tokenizer, &ids, skip), tokenizer.decode_with(&ids, skip), "{ids:?}");
        }
    }
}

/// The pieces are never shorter than they must be: after each id, what is printed and what whole characters there are
/// agree.
#[test]
fn whole_characters_are_printed_at_once() {
    let tokenizer = tokenizer();
    let mut detokenizer = Detokenizer::new(&tokenizer, false);
    let ids = tokenizer.encode("a é 你 🎉 x", true).unwrap();
    let (mut text, mut bytes) = (String::new(), Vec::new());
    for id in ids {
        text.push_str(detokenizer.push(&tokenizer, id));
        bytes.extend_from_slice(tokenizer.token_bytes(id).unwrap());
        let whole =
            std::str::from_utf8(&bytes).unwrap_or_else(|e| std::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap());
        assert_eq!(text, whole);
    }
    assert_eq!(detokenizer.finish(), "");
}

#[test]
fn a_new_text_begins_after_finish() {
    let tokenizer = tokenizer();
    let mut detokenizer = Detokenizer::new(&tokenizer, true);
    let half = (0..256).find(|&id| tokenizer.token_bytes(id) == Some(&[0xf0])).unwrap();
    assert_eq!(detokenizer.push(&tokenizer, half), "");
    assert_eq!(detokenizer.finish(), "\u{fffd}");
    assert_eq!(detokenizer.finish(), "");
    let a = tokenizer.token_id("a").unwrap();
    assert_eq!(detokenizer.push(&tokenizer, a), "a");
    assert_eq!(detokenizer.push(&tokenizer, tokenizer.eos_ids()[0]), "");
    assert_eq!(detokenizer.push(&tokenizer, u32::MAX), "");
}
