//! Text in and out of a language model: [`Tokenizer`] turns text into token ids and back, [`Detokenizer`] prints a
//! stream of ids without ever cutting a character, [`StopStrings`] ends generation at a given text, and
//! [`ChatTemplate`] renders a conversation into the prompt its model was trained on. Everything is decided by the
//! files next to the weights and must equal what Hugging Face's `tokenizers` and `transformers` do with them; a file
//! that asks for something else is refused with a [`TextError`], never guessed at. Here are no weights, no sampling,
//! no tool-call parsing and no HTTP.

#![forbid(unsafe_code)]

mod added;
mod bpe;
mod detokenize;
mod error;
mod files;
pub mod made;
mod python;
mod schema;
mod schema_flat;
mod split;
mod stop;
mod strftime;
mod template;
mod template_env;
mod template_source;
mod tokenizer;
mod tokenizer_load;
mod vocab;

pub use detokenize::Detokenizer;
pub use error::TextError;
pub use stop::{Stop, StopStrings};
pub use template::{ChatRequest, ChatTemplate};
pub use tokenizer::Tokenizer;
