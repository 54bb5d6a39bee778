//! Text in and out of a language model: [`Tokenizer`] turns text into token ids and back, [`Detokenizer`] prints a
//! stream of ids without ever cutting a character, [`StopStrings`] ends generation at a given text, [`ChatTemplate`]
//! renders a conversation into the prompt its model was trained on, and [`Answer`] takes what the model says apart into
//! thoughts, content and calls of tools. Everything is decided by the files next to the weights and must equal what
//! Hugging Face's `tokenizers` and `transformers` do with them; a file that asks for something else is refused with a
//! [`TextError`], never guessed at. Here are no weights, no sampling and no HTTP.

#![forbid(unsafe_code)]

mod added;
mod answer;
mod bpe;
mod call_stream;
mod detokenize;
mod dialects;
mod error;
mod files;
mod gguf;
mod grammar;
mod json_schema;
pub mod made;
mod pieces;
mod protobuf;
mod python;
mod ranks;
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
mod tool_calls;
mod tool_responses;
mod vocab;

pub use answer::{Answer, AnswerStream, Piece, ends_thinking};
pub use detokenize::Detokenizer;
pub use dialects::{ANSWER_ENDS, Dialect};
pub use error::TextError;
pub use gguf::GgufTokenizer;
pub use grammar::{Calls, Grammar, Grammars};
pub use json_schema::{check_schema, dangling_reference, same_json};
pub use stop::{Stop, StopStrings};
pub use template::{ChatRequest, ChatTemplate};
pub use tokenizer::Tokenizer;
pub use tool_calls::ToolCall;
