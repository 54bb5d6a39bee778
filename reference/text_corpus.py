"""The text that the small vocabulary is trained on, and the strings it is tested with."""

import random

WORDS = """
the of and to in is that it was for on are with as his they at be this from have or by one had not but what all were
when we there can an your which their said if do will each about how up out them then she many some so these would
other into has more her two like him see time could no make than first been its who now people my made over did down
only way find use may water long little very after words called just where most know get through back much before go
good new write our used me man too any day same right look think also around another came come work three word must
because does part even place well such here take why things help put years different away again off went old number
great tell men say small every found still between name should home big give air line set own under read last never us
left end along while might next sound below saw something thought both few those always looked show large often
together asked house world going want school important until form food keep children feet land side without boy once
animals life enough took sometimes four head above kind began almost live page got earth need far hand high year mother
light parts country father let night following picture being study second eyes soon times story boys since white days
ever paper hard near sentence better best across during today others however sure means knew try told young miles sun
ways thing whole hear example heard several change answer room sea against top turned learn point city play toward five
using himself usually money seen car morning given trees model memory river stone wind garden window door letter song
bird cat dog horse fish rain snow summer winter evening bread table chair road train ship island mountain forest green
blue red yellow black open close begin start stop move turn walk run talk speak listen sleep dream laugh smile love
friend family sister brother king queen doctor teacher happy quiet slow fast early late clear dark warm cold simple
question idea reason moment minute hour week month number list file code value return function error test data token
layer expert cache disk read write load store engine
""".split()

PROSE = """
The river ran slowly under the old stone bridge, and the children who lived near it knew every fish by name. "What's
the time?" asked the smallest one. "It's late," said her brother; "we'll be home before dark, I think." They didn't
hurry. There were 3 boats, 12 birds and 144 stones to count, and nobody had told them not to. I'm sure you've seen such
an evening: the wind goes quiet, the light turns yellow, then red, and at last someone calls from a window. They'd have
stayed for ever if they could. "Don't you ever get cold?" the teacher wanted to know. "We're never cold," they said.

A model reads the words one after another. Each layer looks at what came before, asks a few experts for help, and writes
its answer back. Most of the experts sleep on the disk until they are needed; only the ones in the cache answer at once.
If memory is small, the engine must choose which to keep. Is that hard? Sometimes. Is it worth it? Yes, because a large
model that runs slowly is better than one that does not run at all.
"""

CODE = '''
def count(words, start=0):
    total = start
    for word in words:
        if word not in ("the", "a"):
            total += 1
    return total

fn main() -> Result<(), Error> {
    let mut list: Vec<u32> = Vec::new();
    for i in 0..10 { list.push(i * 2); }
    println!("{:?}", list);
    Ok(())
}

{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}
'''

OTHER = """
Où est le café? À la maison, près de l'école. Das Mädchen läuft über die Straße. El niño comió mañana. São Paulo é grande.
你好，世界。今天天气很好，我们去公园吧。こんにちは、世界。今日はいい天気ですね。안녕하세요 세계. Привет, мир! Как дела? γειά σου Κόσμε
مرحبا بالعالم שלום עולם नमस्ते दुनिया สวัสดีชาวโลก 🎉🙂👍🚀✨ ❤️ 👩‍👩‍👧 🇨🇭
"""


def training_text():
    """Sentences of common words, the frequent ones first, so that the vocabulary becomes mostly whole words."""
    rng = random.Random(1)
    weights = [1.0 / (i + 40) for i in range(len(WORDS))]
    ends = [".", ".", ".", ",", "?", "!", ";", ":"]
    for _ in range(6000):
        line = rng.choices(WORDS, weights, k=rng.randrange(5, 14))
        yield " " + " ".join(line) + rng.choice(ends) + "\n"  # with a space first: words are tokens with their space
    for text, times in ((PROSE, 20), (CODE, 8), (OTHER, 4)):
        for _ in range(times):
            yield text


STRINGS = [
    "",
    " ",
    "a",
    "Hello, world!",
    "The river ran slowly under the old stone bridge.",
    " leading and trailing ",
    "two  spaces   three    four",
    "tabs\tand\t\tmore\t",
    "line\nline\n\nline\n\n\n",
    "crlf\r\ncrlf\r\n\r\n mixed \r \n\r",
    "   \n   indented\n\t\tcode  \n",
    " \n \n x",
    "\n\n  y",
    "\u00a0no-break\u00a0\u00a0space\u2003em\u3000ideographic\u200bzero",
    "\u0085next\u2028line\u2029para",
    "1 12 123 1234567890 3.14159 1,000,000 ½ Ⅷ ٣٤ 一二三 ²",
    "I'm you're they'll we've he'd it's don't IT'S WE'LL 'twas rock'n'roll '",
    "the long s: 'ſ and the Kelvin sign: 'K",
    "café cafe\u0301 naïve nai\u0308ve Å A\u030a \u212b",
    "\u0301\u0301 starts with combining; q\u0323\u0307 q\u0307\u0323",
    "Straße ẞ ﬁ ﬀ ĳ Ǆ İ ı",
    "你好，世界。今天天气很好。",
    "こんにちは、世界。カタカナ ｶﾞ ガ が か\u3099",
    "안녕하세요 \u1112\u1161\u11ab\u1100\u1173\u11af",
    "Привет, мир! ЁЛКА ё е\u0308",
    "γειά σου Κόσμε ΣΊΣΥΦΟΣ",
    "مرحبا بالعالم ١٢٣ لا",
    "שלום עולם שָׁלוֹם",
    "नमस्ते दुनिया क्षि",
    "สวัสดีชาวโลก ก็ กำ",
    "Tiếng Việt rất đẹp Tiê\u0301ng",
    "🎉🙂👍🚀 ❤️ ❤",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇨🇭🇩🇪 1️⃣",
    "𝕳𝖊𝖑𝖑𝖔 𐍈 𠀀𠮷 \U0001f9ff",
    "zero\u0000byte \u0001\u001f\u007f bell\u0007",
    "replacement \ufffd bom \ufeff private \ue000 \U0010ffff",
    "soft\u00adhyphen \u202eright-to-left\u202c \u2066x\u2069",
    "def f(x):\n    return x**2 + 1  # square\n",
    "fn main() -> Result<(), Error> { let x: Vec<u32> = vec![1, 2]; }",
    "if (a && b || !c) { d[i++] ^= 0xFF; } // ok?",
    '{"name": "x", "arguments": {"a": [1, 2.5, null, true]}}',
    "SELECT * FROM t WHERE a <> 'b';\n-- end",
    "https://example.com/a/b?c=d&e=f#g user@host.org",
    "snake_case camelCase PascalCase SCREAMING_CASE kebab-case x1y2z3",
    "!!!???...---___***///\\\\\\",
    "a!\n\nb!!\r\n c",
    "“quotes” ‘single’ «guillemets» – — … • ™ ©",
    "$5 €10 £20 ¥30 100% №1 5×3÷2≠7 ∑∫√∞",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "thethethethethethethethethethethethethethethethethethethethe" * 5,
    "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "<|im_end|>",
    "<|im_end|><|im_end|><|endoftext|>",
    "text<|im_end|>text <|im_end|> text",
    "<|im_end <|im_end| <|im_end|>> <<|im_end|>",
    "<think>\nI think\n</think>\n\nAnswer",
    "<tool_call>\n{\"name\": \"x\"}\n</tool_call>",
    "<think><think></think>< think></ think>",
    "cafe<think>\u0301 e\u0301<|im_end|>\u0301",
    "  <|im_start|>  <tool_call>  ",
    "<|IM_END|> <Think>",
    "a" * 300 + " " * 300 + "b\n" * 20,
    " " * 17 + "\n" + " " * 9 + "x" + "\u3000 " * 3,
    "漢字" * 150,
]
