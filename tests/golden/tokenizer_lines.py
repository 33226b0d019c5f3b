"""Lines of text that are hard on tokenizers. tokenizer_lines.h makes the same ones in C++ from the same pools."""

POOLS = {
    "english": "the of and to in is was that for it with as his on be at by had not are but from or have an they which"
               " one you were all her would there their we him been has when who will no more if out so up said what"
               " its about than into them can only other time new some could these two may first then do any like"
               " over such our man me even most made after also did many off before must well back through".split(),
    "spaced": [" the", " quick", " brown", " Fox", " jumps", " over", " LAZY", " dog", ", and", ". The", "; but",
               ": so", " it's", " I'm", " don't", " WE'LL", " you've", " they'd", " 'tis", " rock'n'roll", " x's", "'S",
               "'re"],
    "latin": ["Straße", " naïve", " café", "Ærø", " İstanbul", "ﬁne", "Å", "Ångström", "e\u0301", "a\u030a\u0323",
              " ñandú", "čšž", " Łódź", " Việt", "Nguyễn", " œuvre", "ȘȚ", "ǆ", "ﬀ", "ſ", "ı"],
    "cyrillic": ["Быстрая", " лиса", " перепрыгнула", "через", " ленивую", "собаку", "Ёж", "їґє", " ћирилица", "җөү"],
    "greek": ["Η", " γρήγορη", " αλεπού", "πηδάει", "Σίσυφος", "ΰ", "ἄνθρωπος", " ϗ", "ᾳ"],
    "cjk": ["敏捷", "的", "棕色", "狐狸", "跳过了", "懒狗", "。", "，", "今天是", "年", "素早い", "カタカナ", "ｶﾀｶﾅ", "ひらがな", "ー",
            "、", "「", "」", "다람쥐", " 헌", " 쳇바퀴에", "한", "가", "\u1112\u1161\u11ab", "㋐", "豈", "𠮷", "々"],
    "rtl": ["الثعلب", " البني", " السريع", "يقفز", "١٢٣", "،", "؟", "ـ", "َّ", "שלום", " עולם", "שׁ", "פּ", "\u200f",
            "\u202b", "\u202c"],
    "indic": ["तेज़", " भूरी", " लोमड़ी", "कुत्ते", "क़", "१२३", "தமிழ்", " বাংলা", "ভাষা", "ௐ", "ਪੰਜਾਬੀ", "ગુજરાતી",
              "ಕನ್ನಡ", "മലയാളം", "తెలుగు", "සිංහල"],
    "other": ["สุนัข", "จิ้งจอก", "กระโดด", "๑๒๓", "ქართული", " ენა", "Հայերեն", "አማርኛ", "ភាសា", "ខ្មែរ", "မြန်မာ",
              "བོད", "ᠮᠣᠩᠭᠣᠯ", "ᏣᎳᎩ", "ᐃᓄᒃᑎᑐᑦ", "ߒߞߏ", "𐌰𐌱", "𓀀", "𝔘𝔫𝔦", "𝟘𝟙"],
    "emoji": ["😀", " 😃", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "🇦🇧🇨", "👍🏽", "🤖", "❤️", "☺", "🧑🏿‍🚀", "1️⃣", "#️⃣",
              "🏴\U000e0067\U000e0062\U000e007f", "\u200d", "\ufe0f", "🏽"],
    "digits": ["0", "1", "12", "123", "1234", "12345", " 7", " 42", "3.14", "1e-10", "0xFF", "2024-02-29", "1,000,000",
               "½", "²", "Ⅷ", "①", "㉑", "৪৫৬", "一", "٣", "9" * 40],
    "code": ["for (int i = 0; i < n; ++i) {", " sum += a[i];", "}\n", "def f(x):\n", "\treturn x ** 2\n",
             "    if x is None:\n", "#include <vector>\n", "std::vector<int>", "->", "=>", "!=", "&&", "||", "/*", "*/",
             "//", "$x", "@a", "\\n", "\\u00e9", "<b>", "</b>", "&lt;", "{{", "}}", "[[", "]]", "();", "snake_case",
             "camelCase", "ABC", "#!/bin/sh", "SELECT * FROM t", "\"k\": [1, null]", "'x''y'", "`ls`", "%s", "~", "^"],
    "space": [" ", "  ", "   ", "        ", "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r", " \n", "\n ", "\u00a0",
              "\u2003", "\u2028", "\u2029", "\u3000", "\u1680", "\u0085", "\u205f", "\u202f", " " * 37, "\n" * 9,
              "\x0b", "\x0c"],
    "control": ["\x00", "\x01", "\x02\x03", "\x08", "\x1b[0m", "\x1c", "\x1f", "\x7f", "\x80", "\x9f", "\u00ad",
                "\u180e", "\u200b", "\u200c", "\u2060", "\ufeff", "\ufffd", "\ufffe", "\ue000", "\U0010ffff", "\ufff9",
                "\u0378"],
    "marks": ["\u0301", "\u0323", "\u0300\u0301", "\u0345", "\u05b0\u05c1", "\u3099", "\u093c", "\u0f71\u0f72",
              "\u20dd", "a\u0315\u0300", "q\u0307\u0323", "\u1e9b\u0323", "\u212b", "\u2126", "\u0958", "\u0344",
              "\u1100\u1161\u11a8", "\uac00\u11a8"],
    "punctuation": ["!", "?!", "...", "…", "–", "—", "“", "”", "‘", "’s", "«", "»", "¿", "•", "№", "€", "£", "∑", "√",
                    "≤", "→", "_", "__", "--", "====", "###", "***", " (", ") ", "\"", "'", "''", ";", ":", "/", "|"],
    "special": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_", "<|eot_id|>", "<think>", "</think>",
                " <think> ", "<s>", "</s>", "<unk>", "<pad>", "<0x0A>", "<0x41>", "<extra>", " <extra>", "<extra> ",
                "▁", "▁▁", "Ġ", "ĠĊ", "▁the"],
    "runs": ["a" * 30, "ab" * 20, "the" * 12, "e" * 61, "😀" * 5, "\u0301" * 6, "的" * 9, " x" * 10, "=" * 33, "\t " * 5],
}
COUNT, SEED, MASK = 20400, 20261124, (1 << 64) - 1


class Random:
    """SplitMix64."""

    def __init__(self, seed):
        self.state = seed

    def below(self, n):
        self.state = (self.state + 0x9e3779b97f4a7c15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xbf58476d1ce4e5b9) & MASK
        z = ((z ^ (z >> 27)) * 0x94d049bb133111eb) & MASK
        return (z ^ (z >> 31)) % n


def lines(count=COUNT):
    pools = list(POOLS.values())
    rng = Random(SEED)
    for _ in range(count):
        if rng.below(16) == 0:
            yield bytes(rng.below(256) for _ in range(rng.below(64))).decode("utf-8", "replace")
            continue
        chosen = [pools[rng.below(len(pools))] for _ in range(1 + rng.below(4))]
        text = ""
        for _ in range(1 + rng.below(20)):
            pool = chosen[rng.below(len(chosen))]
            text += pool[rng.below(len(pool))]
        yield text
