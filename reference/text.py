"""Makes tests/fixtures/text: a small tokenizer, and what Hugging Face makes of texts and conversations.

    python reference/text.py            # rewrites the JSON files of tests/fixtures/text, the same bytes each time

The Rust tests of crates/text read these files and need no Python. `tokenizers` trains the vocabulary and gives the
ids; `transformers` renders the conversations with the two .jinja files, which are written by hand. The text the
vocabulary is trained on is in text_corpus.py, the conversations and small templates are in text_chats.py.
"""

import datetime
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from text_chats import CHATS, HARD_CHATS, SNIPPET_X, SNIPPETS
from text_corpus import STRINGS, training_text

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "text"
VOCAB_SIZE = 1280
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
NOT_SPECIAL = ["<tool_call>", "</tool_call>", "<think>", "</think>"]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NOW = datetime.datetime(2026, 3, 4, 5, 6, 7)


def train() -> Tokenizer:
    """Byte-level BPE, NFC, one digit per token; the added tokens come after the vocabulary, as in Qwen."""
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL) - len(NOT_SPECIAL),
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tok.train_from_iterator(training_text(), trainer)
    tok.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    tok.add_tokens([AddedToken(t, normalized=False, special=False) for t in NOT_SPECIAL])
    return tok


def dumps(value, depth: int = 0) -> str:
    """JSON with one line per case: broken into lines down to the objects that hold a text or a source."""
    holds_cases = lambda v: isinstance(v, list) and v and isinstance(v[0], dict)
    leaf = isinstance(value, dict) and not any(map(holds_cases, value.values()))
    if depth > 4 or leaf or not isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if isinstance(value, list):
        return "[\n" + ",\n".join(dumps(v, depth + 1) for v in value) + "\n]"
    return "{\n" + ",\n".join(f"{json.dumps(k)}: {dumps(v, depth + 1)}" for k, v in value.items()) + "\n}"


def write(name: str, value) -> None:
    text = value if isinstance(value, str) else dumps(value) + "\n"
    (OUT / name).write_text(text, encoding="utf-8", newline="")


def write_tokenizer(tok: Tokenizer) -> None:
    write("tokenizer.json", tok.to_str(pretty=False) + "\n")
    added = {
        str(tok.token_to_id(t)): {
            "content": t,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": t in SPECIAL,
        }
        for t in SPECIAL + NOT_SPECIAL
    }
    write(
        "tokenizer_config.json",
        {
            "added_tokens_decoder": added,
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": 4096,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": None,
        },
    )


def patched(tok: Tokenizer, patch: dict) -> Tokenizer:
    """The tokenizer with some keys of its JSON replaced ("model.ignore_merges" is a path)."""
    doc = json.loads(tok.to_str())
    for path, value in patch.items():
        *parents, last = path.split(".")
        at = doc
        for p in parents:
            at = at[p]
        if last == "added_tokens":
            value = at[last] + value
        at[last] = value
    return Tokenizer.from_str(json.dumps(doc))


def isolated(pattern: str) -> dict:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def byte_level(use_regex: bool = False) -> dict:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def sequence(*steps: dict) -> dict:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def added(id: int, content: str, **flags) -> dict:
    base = {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False}
    return base | {"normalized": False, "special": True} | flags


def variants() -> list[dict]:
    """Other families' settings on the same vocabulary: pre-tokenizers, normalizers, added-token flags."""
    bos = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    eos = {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}
    a, b = ({"Sequence": {"id": i, "type_id": 0}} for i in "AB")
    eot, end = VOCAB_SIZE - 7, VOCAB_SIZE - 5
    specials = {
        "<|endoftext|>": {"id": "<|endoftext|>", "ids": [eot], "tokens": ["<|endoftext|>"]},
        "<|im_end|>": {"id": "<|im_end|>", "ids": [end], "tokens": ["<|im_end|>"]},
    }
    template = {"type": "TemplateProcessing", "single": [bos, a, eos], "pair": [bos, a, b], "special_tokens": specials}
    cased = (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    cjk_first = sequence(
        isolated(r"\p{N}{1,3}"),
        isolated("[一-龥぀-ゟ゠-ヿ]+"),
        isolated(r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
        byte_level(),
    )
    strips = [
        added(VOCAB_SIZE, "<left>", lstrip=True),
        added(VOCAB_SIZE + 1, "<right>", rstrip=True),
        added(VOCAB_SIZE + 2, "<think>deep", special=False),
        added(VOCAB_SIZE + 3, "caf\u00e9!", normalized=True, special=False),
        added(VOCAB_SIZE + 4, "   ", special=False),
    ]
    return [
        {"name": "template post-processor", "patch": {"post_processor": template}},
        {"name": "byte-level post-processor", "patch": {"post_processor": byte_level()}},
        {"name": "GPT-2 split", "patch": {"pre_tokenizer": byte_level(use_regex=True), "normalizer": None}},
        {"name": "cased split", "patch": {"pre_tokenizer": sequence(isolated(cased), byte_level())}},
        {
            "name": "three splits",
            "patch": {"pre_tokenizer": cjk_first, "normalizer": {"type": "Sequence", "normalizers": []}},
        },
        {
            "name": "digits",
            "patch": {
                "pre_tokenizer": sequence({"type": "Digits", "individual_digits": True}, byte_level(use_regex=True)),
                "normalizer": {"type": "NFKC"},
            },
        },
        {
            "name": "digit runs",
            "patch": {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": False}, byte_level())},
        },
        {
            "name": "literal split, removed",
            "patch": {
                "pre_tokenizer": sequence(
                    {"type": "Split", "pattern": {"String": "(a"}, "behavior": "Removed", "invert": False},
                    {"type": "Split", "pattern": {"Regex": r"\w+|[^\w\s]+"}, "behavior": "Removed", "invert": True},
                    byte_level(),
                )
            },
        },
        {"name": "ignore_merges", "patch": {"model.ignore_merges": True}},
        {"name": "added-token flags", "patch": {"added_tokens": strips}},
    ]


EXTRA_STRINGS = [
    "one  <left>  two  <right>  three",
    "<right> \n <left><right> x <left>",
    "<think>deeper <think> deep<think>deep",
    "a café! cafe\u0301! x",
    "a    b   c  d       e",
    "sum(a, (ab)",
]


def text_cases(tok: Tokenizer) -> dict:
    literal = Tokenizer.from_str(tok.to_str())
    literal.encode_special_tokens = True
    encode = []
    for text in STRINGS:
        ids = tok.encode(text, add_special_tokens=False).ids
        case = {"text": text, "ids": ids}
        as_text = literal.encode(text, add_special_tokens=False).ids
        if as_text != ids:
            case["ids_special_as_text"] = as_text
        case["decoded"] = tok.decode(ids, skip_special_tokens=False)
        case["decoded_skip_special"] = tok.decode(ids, skip_special_tokens=True)
        if case["decoded_skip_special"] == case["decoded"]:
            del case["decoded_skip_special"]
        encode.append(case)
    rng = random.Random(7)
    decode = []
    for length in [1, 1, 2, 3, 5, 8, 13, 21, 40]:
        for high in (256, VOCAB_SIZE + 3):  # single bytes, and everything with three ids past the end
            ids = [rng.randrange(high) for _ in range(length)]
            if length > 2:
                ids[rng.randrange(length)] = VOCAB_SIZE - rng.randrange(1, 8)
            both = [tok.decode(ids, skip_special_tokens=s) for s in (False, True)]
            decode.append({"ids": ids, "decoded": both[0], "decoded_skip_special": both[1]})
    out = variants()
    for v in out:
        other = patched(tok, v["patch"])
        texts = (STRINGS[::3] if v["name"] != "added-token flags" else STRINGS[::12]) + EXTRA_STRINGS
        v["cases"] = [
            {
                "text": t,
                "ids": other.encode(t, add_special_tokens=False).ids,
                "ids_with_post": other.encode(t, add_special_tokens=True).ids,
            }
            for t in texts
        ]
        for c in v["cases"]:
            if c["ids_with_post"] == c["ids"]:
                del c["ids_with_post"]
    return {"vocab_size": tok.get_vocab_size(), "encode": encode, "decode": decode, "variants": out}


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def render(hf, case: dict, template: str | None) -> dict:
    kwargs = dict(case.get("kwargs", {}))
    try:
        expected = hf.apply_chat_template(
            case["messages"],
            tools=case.get("tools"),
            add_generation_prompt=case.get("add_generation_prompt", False),
            chat_template=template,
            tokenize=False,
            **kwargs,
        )
        return {"expected": expected}
    except Exception as e:  # a template may refuse; the kind of the refusal is what the Rust test compares
        return {"error": f"{type(e).__name__}: {e}"}


def chat_cases(hf) -> dict:
    hard = (OUT / "hard.jinja").read_text(encoding="utf-8")
    chats = [c | {"template": "chat_template.jinja"} | render(hf, c, None) for c in CHATS]
    chats += [c | {"template": "hard.jinja"} | render(hf, c, hard) for c in HARD_CHATS]
    snippets = []
    for source in SNIPPETS:
        case = {"messages": CHATS[1]["messages"], "kwargs": {"x": SNIPPET_X}}
        snippets.append({"source": source} | render(hf, case, source))
    shared = {"messages": CHATS[1]["messages"], "x": SNIPPET_X}
    return {"now": "2026-03-04T05:06:07", "chats": chats, "snippets": {"context": shared, "cases": snippets}}


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    tok = train()
    assert tok.get_vocab_size() == VOCAB_SIZE, tok.get_vocab_size()
    write_tokenizer(tok)
    write("cases_text.json", text_cases(tok))
    chat_template_utils.datetime = FixedClock
    hf = AutoTokenizer.from_pretrained(OUT)
    for text in STRINGS:  # transformers and tokenizers must agree before Rust is compared with either
        assert hf(text, add_special_tokens=False)["input_ids"] == tok.encode(text, add_special_tokens=False).ids, text
    write("cases_chat.json", chat_cases(hf))
    sizes = {p.name: p.stat().st_size for p in sorted(OUT.iterdir())}
    print(sizes, sum(sizes.values()))


if __name__ == "__main__":
    main()
