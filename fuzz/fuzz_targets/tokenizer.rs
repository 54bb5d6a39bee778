//! A tokenizer's file, its kind by the first byte: refused, or it takes texts to ids and back without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outpour_text::{Detokenizer, Tokenizer};

/// Words, signs, letters of several bytes, a control token and white space.
const TEXT: &str = " The river\n\n  ran 12.5 km; don't <|im_end|>\t你好 e\u{301} 👩‍👩‍👧 \u{0}x";

fuzz_target!(|data: &[u8]| {
    let Some((kind, file)) = data.split_first() else { return };
    let read = match kind {
        b'j' => Tokenizer::from_json(file, None),
        b'r' => Tokenizer::from_tiktoken("tiktoken.model", file, None),
        b't' => Tokenizer::from_tekken("tekken.json", file, None),
        b's' => Tokenizer::from_sentencepiece("tokenizer.model", file, None),
        _ => return,
    };
    let Ok(tokenizer) = read else { return };
    let ids = tokenizer.encode(TEXT, true).expect("it is short");
    let mut stream = Detokenizer::new(&tokenizer, false);
    let mut text: String = ids.iter().map(|&id| stream.push(&tokenizer, id).to_owned()).collect();
    text.push_str(stream.finish());
    assert_eq!(text, tokenizer.decode(&ids));
});
