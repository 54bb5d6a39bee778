//! Stop strings in a text that arrives in pieces.

mod common;

use common::Random;
use outpour_text::{Stop, StopStrings, TextError};

/// The text that is shown when `text` arrives in pieces of these lengths (the last one again and again), and the stop
/// string that ended it.
fn shown(stops: &[&str], text: &str, mut next_len: impl FnMut() -> usize) -> (String, Option<usize>) {
    let mut strings = StopStrings::new(stops.iter().map(|&stop| stop.to_owned()).collect()).unwrap();
    let mut out = String::new();
    let chars: Vec<char> = text.chars().collect();
    let mut rest = chars.as_slice();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(next_len().clamp(1, rest.len()));
        rest = after;
        match strings.push(&piece.iter().collect::<String>()) {
            Stop::Emit(text) => out.push_str(text),
            Stop::Hit { text_before, stop } => {
                out.push_str(text_before);
                assert_eq!(strings.push("more"), Stop::Hit { text_before: "", stop });
                assert_eq!(strings.finish(), "");
                return (out, Some(stop));
            }
        }
    }
    out.push_str(strings.finish());
    (out, None)
}

#[test]
fn text_before_the_stop_is_shown() {
    for (stops, text, expected, hit) in [
        (&["END"][..], "abc END def", "abc ", Some(0)),
        (&["END"], "abc EN", "abc EN", None),
        (&["END"], "ENENDx", "EN", Some(0)),
        (&["END"], "END", "", Some(0)),
        (&[], "anything", "anything", None),
        (&["abcd", "bc"], "xabcd", "xa", Some(1)),
        (&["\n\n", "."], "one\ntwo\n\nthree.", "one\ntwo", Some(0)),
        (&["aab"], "aaaab", "aa", Some(0)),
        (&["é!", "你好"], "é 你 é你好", "é 你 é", Some(1)),
        (&["b", "ab"], "xab", "x", Some(1)),
    ] {
        for len in 1..8 {
            assert_eq!(shown(stops, text, || len), (expected.to_owned(), hit), "{text:?} by {len}");
        }
    }
}

/// However a text is cut, the result is that of one character after another.
#[test]
fn the_cut_makes_no_difference() {
    let mut random = Random(3);
    for _ in 0..20_000 {
        let word = |end: usize, random: &mut Random| -> String {
            (0..=random.below(end)).map(|_| ['a', 'b', 'é'][random.below(3)]).collect()
        };
        let stops: Vec<String> = (0..random.below(4)).map(|_| word(4, &mut random)).collect();
        let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
        let text = word(12, &mut random);
        let one_by_one = shown(&stops, &text, || 1);
        assert_eq!(shown(&stops, &text, || 1 + random.below(5)), one_by_one, "{stops:?} {text:?}");
        assert_eq!(shown(&stops, &text, || 100), one_by_one, "{stops:?} {text:?}");
    }
}

/// Only what may be the beginning of a stop string is held back.
#[test]
fn holds_back_as_little_as_it_can() {
    let mut strings = StopStrings::new(vec!["</s>".to_owned(), "user:".to_owned()]).unwrap();
    assert_eq!(strings.push("hello <"), Stop::Emit("hello "));
    assert_eq!(strings.push("b"), Stop::Emit("<b"));
    assert_eq!(strings.push(" u"), Stop::Emit(" "));
    assert_eq!(strings.push("se"), Stop::Emit(""));
    assert_eq!(strings.push("use"), Stop::Emit("use"));
    assert_eq!(strings.push("r:"), Stop::Hit { text_before: "", stop: 1 });
}

#[test]
fn impossible_stop_strings_are_refused() {
    let refused = |stops: Vec<String>| matches!(StopStrings::new(stops), Err(TextError::Stop { .. }));
    assert!(refused(vec![String::new()]));
    assert!(refused(vec!["x".repeat(StopStrings::BYTES_MAX + 1)]));
    assert!(refused(vec!["x".to_owned(); StopStrings::COUNT_MAX + 1]));
}
