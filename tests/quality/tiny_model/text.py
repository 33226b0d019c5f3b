"""Tokenizer and text of the tiny model: a byte-level BPE of 512 tokens, and files split in training and held-out."""
import glob
import os
import re
from collections import Counter

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCAB = 512
HELD_OUT = 0.05  # the last part of every file


def read_files(folder):
    """[(name, text)] of every .txt file under `folder`, in order of name."""
    names = sorted(glob.glob(os.path.join(folder, "**", "*.txt"), recursive=True))
    texts = [(os.path.basename(n), open(n, encoding="utf-8", errors="replace").read()) for n in names]
    if not texts:
        raise SystemExit(f"{folder}: no .txt file; give a folder of public-domain text with --text")
    return texts


def split(text):
    cut = text.rfind("\n", 0, int(len(text) * (1 - HELD_OUT))) + 1
    return text[:cut], text[cut:]


def pre_tokenizer():
    """What GGUF calls "smollm": digits alone, then GPT-2's words."""
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])


def train_tokenizer(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=SPECIAL, show_progress=False,
                                   initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


class Text:
    """Encoded text with the places where it may be cut: before a token that begins with a blank or a line end."""

    def __init__(self, tokenizer, texts):
        pieces = [np.array(tokenizer.encode(t).ids, dtype=np.int64) for t in texts]
        self.ids = np.concatenate(pieces)
        begins = np.array([(tokenizer.id_to_token(i) or "")[:1] in "\u0120\u010a" for i in range(VOCAB)])
        begins[:len(SPECIAL)] = False
        self.cuts = np.flatnonzero(begins[self.ids])

    def passage(self, rng, length):
        """`length` consecutive tokens, beginning at a cut; and the cuts inside, relative to it."""
        last = np.searchsorted(self.cuts, len(self.ids) - length)
        start = self.cuts[rng.integers(last)]
        low, high = np.searchsorted(self.cuts, [start + 1, start + length])
        return self.ids[start:start + length], self.cuts[low:high] - start


def key_words(texts, count=4000):
    """The most frequent lower-case words of 4 to 9 letters: keys and values that look like the text around them."""
    found = Counter(re.findall(r"\b[a-z]{4,9}\b", " ".join(texts)))
    return [word for word, _ in sorted(found.items(), key=lambda item: (-item[1], item[0]))[:count]]
