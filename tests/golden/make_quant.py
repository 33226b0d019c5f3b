#!/usr/bin/env python3
"""Writes quant.json: rows of each tensor type and their values by the `gguf` package. Usage: make_quant.py OUT"""
import json
import sys

import gguf
import numpy as np
from gguf.quants import dequantize

Q = gguf.GGMLQuantizationType
# Type: bytes of a block, places of its half-precision scales.
BLOCKS = {
    "F32": (4, []), "F16": (2, []), "BF16": (2, []), "Q4_0": (18, [0]), "Q4_1": (20, [0, 2]), "Q8_0": (34, [0]),
    "Q6_K": (210, [208]),
}
SCALES = [0.0123, -0.77, 6.1e-5, 5.96e-8, 3.1e-6, 1.0, 0.0, -65504.0]
HALVES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400, 0x3c00, 0xbc00, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x3555]


def row(name, random):
    block_bytes, scales = BLOCKS[name]
    if name == "F32":
        return random.standard_normal(16).astype("<f4").tobytes()
    if name in ("F16", "BF16"):
        finite = [h for h in random.integers(0, 65536, 80) if h & 0x7c00 != 0x7c00 and h & 0x7f80 != 0x7f80]
        return np.array(HALVES + finite, "<u2").tobytes()
    raw = random.integers(0, 256, (len(SCALES), block_bytes), dtype=np.uint8)
    for place, begin in enumerate(scales):
        for i in range(len(SCALES)):
            scale = np.float16(SCALES[(i + place) % len(SCALES)])
            raw[i, begin:begin + 2] = np.frombuffer(scale.tobytes(), np.uint8)
    return raw.tobytes()


def main():
    random = np.random.default_rng(1)
    cases = []
    for name in BLOCKS:
        raw = row(name, random)
        values = dequantize(np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}.get(name, np.uint8)), Q[name])
        values = np.asarray(values, "<f4")
        cases.append({"type": int(Q[name]), "name": name, "row": raw.hex(), "values": values.tobytes().hex()})
    with open(sys.argv[1], "w") as out:
        json.dump(cases, out, indent=0)
        out.write("\n")


main()
