#!/usr/bin/env python3
"""Writes tokenizer_smollm2.json: token ids by the `tokenizers` package, from the vocabulary of a GGUF file.

Usage: make_tokenizer.py SmolLM2-135M-Instruct.Q4_1.gguf OUT      (needs gguf, tokenizers, jinja2)
"""
import json
import random
import sys

import jinja2
from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

SAMPLES = """The quick brown fox jumps over the lazy dog.
I'm sure they've said it's what we'd do; you'll see, they're here. IT'S I'M DON'T
Straße, naïve café, Ærøskøbing, İstanbul, ﬁne, Å vs A\u030a, e\u0301
Быстрая коричневая лиса перепрыгнула через ленивую собаку.
Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί.
敏捷的棕色狐狸跳过了懒狗。今天是2024年。
素早い茶色の狐がのろまな犬を飛び越える。カタカナ ｶﾀｶﾅ
다람쥐 헌 쳇바퀴에 타고파
الثعلب البني السريع يقفز فوق الكلب الكسول ١٢٣٤٥
השועל החום המהיר קופץ מעל הכלב העצלן
तेज़ भूरी लोमड़ी आलसी कुत्ते पर कूदती है १२३
สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ ๑๒๓
ქართული ენა; Հայերեն; አማርኛ; தமிழ்; বাংলা ভাষা
😀😃👩‍👩‍👧‍👦🏳️‍🌈🇩🇪👍🏽 ok 🤖
0 1 12 123 1234 12345.6789 -1e-10 0xDEADBEEF 3,141,592 2024-02-29T12:34:56Z
½ ¾ ² ³ Ⅷ ⅸ ① ⑳ ㉑ 一二三 ৪৫৬
for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }  // comment
def f(x):\n\tif x is None:\n\t\treturn {'a': [1, 2, 3]}\n\n\n    return x ** 2
<html><body class="x">&nbsp;&lt;tag&gt;</body></html>
{"key": "value", "n": [1, 2.5, null, true], "s": "\\u00e9\\n"}
SELECT * FROM t WHERE a >= 10 AND b <> 'x''y' -- end
https://example.org/path?query=1&other=%20#frag user@example.org
$x^2 + \\frac{1}{2}\\alpha \\leq \\infty$ ∑∫√≠≤≥±×÷ €£¥₿
«quotes» “double” ‘single’ ‹angle› … – — ‐ ‑ • · ¿ ¡ ‽ №
snake_case camelCase PascalCase kebab-case SCREAMING_SNAKE 'tis rock'n'roll o'clock
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
!!!!!!!! ????? ........ ------- ===== ##### ~~~~~ _____ /////
<|im_start|>user\nHello<|im_end|>\n<|endoftext|> <repo_name> <|im_start <|im_end|""".split("\n")
SAMPLES = [s.replace("\\n", "\n").replace("\\t", "\t") for s in SAMPLES]

EDGES = [
    "", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", " \t \n \r\n  x", "x ", "x  ", "x   y", "x\n\n\ny",
    "   leading", "trailing   ", " a  b   c    d", "1 2", "1  2", " 1", "  1", "a1b2c3", "1a", "a 1 b", "12 34",
    "\t1\t", "\u00a0", "a\u00a0b", "\u00a0\u00a0a", "\u2003x", "a\u2028b\u2029c", "\u3000\u3000全角", "\u1680x",
    "a\u180eb", " \u180e ", "\u200b\u200c\u200d", "\ufeffbom", "a\u0085b", "\u0085\u0085b", "\x0b\x0c", "\x00",
    "a\x00b", "\x01\x02\x03\x04\x05\x06\x07\x08", "a\x04b", "\x1c\x1d\x1e\x1f", " \x1c x", "\x7f", "\x80\x81\x9f", "'",
    "''", "'s", "'S", " 's", "'ll'", "'re're", "can't've", "\u2019s", "_'s", "é's", "1's", "\u0301", " \u0301",
    "a\u0301b", "\U0010ffff", "\U000f0000x", "\ue000", "\ufffd", "\ufffe", "\U0001f468\u200d\U0001f469", "🇦🇧🇨", "a🙂b🙂",
    "\u0378", "\ud7ff", "\uac00\u1161", "e" * 300, " " * 300, "\n" * 99, "9" * 99, "ab" * 200, "😀" * 20, "the" * 50,
    "\t \t " * 9,
]


def random_texts(count):
    rng = random.Random(1)
    pools = ["abcdefgh ETAOIN", " \n\t\r\u00a0", "0123456789१२½", "'\"!?.,;:-_(){}<>|", "äöüßéñçø", "жщыйяЁ",
             "的一是不了人我在", "😀🎉👍🏽\u200d", "\u0301\u0300\u200b", "sdmtlvre'"]
    for _ in range(count):
        chosen = rng.sample(pools, rng.randint(1, 4))
        yield "".join(rng.choice(rng.choice(chosen)) for _ in range(rng.randint(1, 60)))


CHATS = [
    [("user", "Hello!")],
    [("system", "Answer in one word."), ("user", "Capital of France?")],
    [("user", "Hi"), ("assistant", "Hello, how can I help?"), ("user", "  Tell me\n\n a joke in 12 words ")],
    [("user", ""), ("assistant", "\n"), ("user", "x")],
]


def main():
    fields = GGUFReader(sys.argv[1]).fields
    get = lambda key: fields["tokenizer." + key].contents()
    tokens, types = get("ggml.tokens"), get("ggml.token_type")
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)},
                                     [tuple(m.split(" ")) for m in get("ggml.merges")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, kind in zip(tokens, types) if kind == 3])

    def encode(text, parse_special):
        tokenizer.encode_special_tokens = not parse_special
        return tokenizer.encode(text, add_special_tokens=False).ids

    texts = SAMPLES + EDGES + [" ".join(SAMPLES[:4]), "\n".join(SAMPLES)] + list(random_texts(150))
    template = jinja2.Environment().from_string(get("chat_template"))
    chats = []
    for chat in CHATS:
        messages = [{"role": role, "content": content} for role, content in chat]
        text = template.render(messages=messages, add_generation_prompt=True)
        chats.append({"messages": messages, "ids": encode(text, True)})
    # One text a line: differences between versions of this file can be read.
    line = lambda x: json.dumps(x, separators=(",", ":"))
    cases = [{"text": t, "ids": encode(t, False)} for t in texts]
    special = [{"text": t, "ids": encode(t, True)} for t in SAMPLES + ["a<|im_end|>b", "<|im_start|><|im_start|>"]]
    with open(sys.argv[2], "w") as out:
        parts = [f'"{name}":[\n' + ",\n".join(map(line, rows)) + "\n]"
                 for name, rows in (("plain", cases), ("special", special), ("chats", chats))]
        out.write("{" + ",\n".join(parts) + "}\n")


main()
