#!/usr/bin/env python3
"""Encodes texts with PyPI's tokenizers and the vocabulary of a GGUF file (pre-tokenizer smollm), on one thread.

Usage: tokenizer_reference.py MODEL.gguf TEXTS.json   (a list of strings; needs the PyPI packages tokenizers and gguf)
Prints {"mb_per_s": speed, "hash": of all ids}.
"""
import json
import os
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
from gguf import GGUFReader  # noqa: E402
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers  # noqa: E402


def read_tokenizer(path):
    fields = GGUFReader(path).fields
    get = lambda key: fields["tokenizer.ggml." + key].contents()
    tokens = get("tokens")
    merges = [tuple(m.split(" ")) for m in get("merges")]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False)
                                  for t, kind in zip(tokens, get("token_type")) if kind == 3])
    return tokenizer


def main():
    tokenizer = read_tokenizer(sys.argv[1])
    with open(sys.argv[2]) as file:
        texts = json.load(file)
    value, seconds = 0xcbf29ce484222325, 0.0
    for text in texts:
        start = time.perf_counter()
        ids = tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids  # the faster way: no offsets
        seconds += time.perf_counter() - start
        for number in ids:
            value = ((value ^ number) * 0x100000001b3) & 0xffffffffffffffff
    size = sum(len(text.encode()) for text in texts)
    print(json.dumps({"mb_per_s": size / 1e6 / seconds, "hash": f"{value:016x}"}))


main()
