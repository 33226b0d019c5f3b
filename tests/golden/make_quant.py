#!/usr/bin/env python3
"""Writes quant.json: rows of each tensor type and their values by other implementations. Usage: make_quant.py OUT

GGUF's types by PyPI's gguf package, float8_e4m3fn by torch.  (needs gguf, numpy, torch)
"""
import base64
import json
import sys

import gguf
import numpy as np
import torch
from gguf.quants import dequantize

Q = gguf.GGMLQuantizationType
# Type: bytes of a block, places of its half-precision scales.
BLOCKS = {
    "F32": (4, []), "F16": (2, []), "BF16": (2, []), "Q4_0": (18, [0]), "Q4_1": (20, [0, 2]), "Q5_0": (22, [0]),
    "Q5_1": (24, [0, 2]), "Q8_0": (34, [0]), "Q4_K": (144, [0, 2]), "Q5_K": (176, [0, 2]), "Q6_K": (210, [208]),
}
# Ordinary, subnormal, smallest, largest, and zeros of both signs.
SCALES = [0.0123, -0.77, 6.1e-5, 5.96e-8, 3.1e-6, 1.0, 0.0, -65504.0, 65504.0, -0.0]
FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1.17e-38, 3.4028235e38, -3.4028235e38, 1 / 3, 65504.0, 2**-24]
HALVES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400, 0x3c00, 0xbc00, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x3555]


def row(name, random):
    block_bytes, scales = BLOCKS[name]
    if name == "F32":
        return np.concatenate([FLOATS, random.standard_normal(16)]).astype("<f4").tobytes()
    if name in ("F16", "BF16"):
        finite = [h for h in random.integers(0, 65536, 80) if h & 0x7c00 != 0x7c00 and h & 0x7f80 != 0x7f80]
        return np.array(HALVES + finite, "<u2").tobytes()
    raw = random.integers(0, 256, (len(SCALES) + 2, block_bytes), dtype=np.uint8)
    raw[-2], raw[-1] = 0, 255  # all quants, sub-scales and sub-minima at their least and largest
    for place, begin in enumerate(scales):
        for i in range(len(raw)):
            scale = np.float16(SCALES[(i + 3 * place) % len(SCALES)])
            raw[i, begin:begin + 2] = np.frombuffer(scale.tobytes(), np.uint8)
    return raw.tobytes()


def case(name, number, raw, values):
    encode = lambda data: base64.b64encode(data).decode()
    return {"type": number, "name": name, "row": encode(raw), "values": encode(np.asarray(values, "<f4").tobytes())}


def main():
    random = np.random.default_rng(1)
    cases = []
    for name in BLOCKS:
        raw = row(name, random)
        values = dequantize(np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}.get(name, np.uint8)), Q[name])
        assert name in ("F16", "BF16") or np.isfinite(values).all()
        cases.append(case(name, int(Q[name]), raw, values))
    codes = bytes(range(256))
    floats = torch.frombuffer(bytearray(codes), dtype=torch.float8_e4m3fn).float().numpy()
    cases.append(case("F8_E4M3", 0x10000, codes, floats))
    with open(sys.argv[1], "w") as out:
        json.dump(cases, out, indent=0)
        out.write("\n")


main()
