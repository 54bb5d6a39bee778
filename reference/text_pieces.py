"""Makes tests/fixtures/text_pieces: a small `tokenizer.model`, and what sentencepiece and tokenizers make of texts.

    python reference/text_pieces.py         # rewrites the files, the same bytes each time

sentencepiece trains the vocabulary, on the text of text_corpus.py, as Llama's and Mixtral's was: BPE with bytes for characters that
are no token, no table of characters, a space before each text. `gemma.model` puts no space before a text, and has tokens of its own for
runs of white space. tokenizer.json has the merges that transformers takes from such a model; its variants are Mixtral's
older and newer file, and Gemma's.
"""

import io
import json
import pathlib
import tempfile

import gguf
import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers.convert_slow_tokenizer import generate_merges

from text import EXTRA_STRINGS
from text_corpus import STRINGS, training_text

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "text_pieces"
RUNS = ["\n\n", "\t\t", "▁▁", "▁▁▁", "▁▁▁▁"]
NAMED = ["[INST]", "[/INST]"]
MIXED = ["HelloWorld's 1234567 and 中文和English", "  two before", "▁ is a token's own", "<0x0A> as text", "[INST] hi [/INST]", "a  b   c    d\n\n\te",
    "[INST][/INST]", " [INST]  x", "𝔘𝔫𝔦 ☃ ꙮ", "a\u0300\u0301\u0302", "tail  "]  # fmt: skip


def train(prepend: bool, user: list[str]) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("".join(training_text()).splitlines()), model_writer=model, vocab_size=900, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=prepend, remove_extra_whitespaces=False,
        character_coverage=0.995, split_digits=True, allow_whitespace_only_pieces=True, num_threads=1, minloglevel=2,
        control_symbols=NAMED, user_defined_symbols=user,
    )  # fmt: skip
    return model.getvalue()


def texts() -> list[str]:
    # sentencepiece ends a text at a zero.
    return [text for text in dict.fromkeys([*STRINGS, *EXTRA_STRINGS, *MIXED]) if len(text) < 600 and "\0" not in text]


def of_sentencepiece(model: bytes) -> list[dict]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [dict(text=text, ids=(ids := processor.encode(text)), decoded=processor.decode(ids)) for text in texts()]


def tokenizer_json(model: bytes) -> Tokenizer:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    size = processor.vocab_size()
    vocab = {processor.id_to_piece(id): id for id in range(size)}
    scores = {processor.id_to_piece(id): processor.get_score(id) for id in range(size)}
    merges = generate_merges(vocab, scores)
    tok = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True, dropout=None))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1, right=0)]
    )
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tok.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in ["<unk>", "<s>", "</s>", *NAMED]])
    return tok


def of_tokenizers(tok: Tokenizer) -> list[dict]:
    encode = lambda text: tok.encode(text, add_special_tokens=False).ids
    return [dict(text=text, ids=(ids := encode(text)), decoded=tok.decode(ids, skip_special_tokens=False)) for text in texts()]


def variants(tok: Tokenizer) -> dict[str, list[dict]]:
    cases = {"prepend": of_tokenizers(tok)}
    tok.normalizer = normalizers.Sequence([])
    for scheme, split in (("first", False), ("always", True), ("never", False)):
        tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=split)
        cases[f"metaspace-{scheme}"] = of_tokenizers(tok)
    tok.normalizer = normalizers.Replace(" ", "▁")
    tok.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    cases["gemma"] = of_tokenizers(tok)
    return cases


def write_gguf(model: bytes) -> None:
    """The vocabulary as llama.cpp's converter takes it over (`_create_vocab_sentencepiece`), and no weights."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    kinds = gguf.TokenType
    def kind(id: int) -> int:
        if processor.is_unknown(id): return kinds.UNKNOWN
        if processor.is_control(id): return kinds.CONTROL
        if processor.is_unused(id): return kinds.UNUSED
        return kinds.BYTE if processor.is_byte(id) else kinds.NORMAL  # fmt: skip
    ids = range(processor.vocab_size())
    writer = gguf.GGUFWriter(OUT / "vocab.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([processor.id_to_piece(id) for id in ids])
    writer.add_token_scores([processor.get_score(id) for id in ids])
    writer.add_token_types([kind(id) for id in ids])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_gguf_merged(tok: Tokenizer) -> None:
    """The last of the variants, Gemma's, as llama.cpp's converter takes it over (`Gemma4Model.set_vocab`)."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        tok.save(str(path / "tokenizer.json"))
        ends = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", additional_special_tokens=NAMED)
        ends["tokenizer_class"] = "PreTrainedTokenizerFast"
        (path / "tokenizer_config.json").write_text(json.dumps(ends))
        (path / "config.json").write_text("{}")
        vocab = gguf.LlamaHfVocab(path)
        tokens, scores, kinds = zip(*vocab.all_tokens())
        writer = gguf.GGUFWriter(OUT / "gemma4.gguf", "gemma4")
        writer.add_tokenizer_model("gemma4")
        writer.add_token_list(tokens)
        writer.add_token_scores(scores)
        writer.add_token_types(kinds)
        gguf.SpecialVocab(path, load_merges=True).add_to_gguf(writer)
    writer.add_add_space_prefix(False)
    writer.add_add_bos_token(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    OUT.mkdir(exist_ok=True)
    llama, gemma = train(True, []), train(False, RUNS)
    (OUT / "tokenizer.model").write_bytes(llama)
    (OUT / "gemma.model").write_bytes(gemma)
    tok = tokenizer_json(llama)
    (OUT / "tokenizer.json").write_text(tok.to_str(pretty=False) + "\n", newline="\n")
    cases = dict(sentencepiece=of_sentencepiece(llama), sentencepiece_gemma=of_sentencepiece(gemma), tokenizers=variants(tok))
    text = json.dumps(cases, ensure_ascii=False, indent=None, separators=(",", ":")).replace('},{"text"', '},\n{"text"')
    (OUT / "cases.json").write_text(text + "\n", newline="\n")
    write_gguf(llama)
    write_gguf_merged(tok)


if __name__ == "__main__":
    main()
