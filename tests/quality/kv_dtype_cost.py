#!/usr/bin/env python3
"""What rounding K/V costs: loss of `quality loss --kv_dtype TYPE` minus bf16's, path by path, over the same texts.

usage: kv_dtype_cost.py BF16.jsonl NAME=RESULTS.jsonl...

Prints nats per token with a 95 % bootstrap interval over documents (10,000 draws, fixed seed).
"""
import json
import random
import sys

DRAWS = 10000


def losses(path):
    """(path, document) -> (nats, predictions)."""
    found = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            result = json.loads(line)
            buckets = result["buckets"]
            found[result["path"], result["document"]] = (sum(b["nll"] for b in buckets),
                                                         sum(b["queries"] for b in buckets))
    return found


def per_token(pairs):
    return sum(nats for nats, _ in pairs) / sum(queries for _, queries in pairs)


def main(arguments):
    base = losses(arguments[0])
    print("| type | path | documents | predictions | nats per token | least and most of a document |")
    print("|---|---|---|---|---|---|")
    for argument in arguments[1:]:
        name, path = argument.split("=", 1)
        rounded = losses(path)
        for way in sorted({key[0] for key in rounded}):
            keys = sorted(key for key in rounded if key[0] == way and key in base)
            pairs = [(rounded[key][0] - base[key][0], rounded[key][1]) for key in keys]
            draw = random.Random(1)
            means = sorted(per_token(draw.choices(pairs, k=len(pairs))) for _ in range(DRAWS))
            each = [nats / queries for nats, queries in pairs]
            print(f"| {name} | {way} | {len(pairs)} | {sum(q for _, q in pairs):,} | {per_token(pairs):+.4f} "
                  f"[{means[DRAWS // 40]:+.4f}, {means[-DRAWS // 40]:+.4f}] | {min(each):+.4f}, {max(each):+.4f} |")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1:])
