#!/usr/bin/env python3
"""Copies a GGUF model with YaRN (arXiv 2309.00071) for a longer context than it was trained with.

  stretch_context.py IN.gguf OUT.gguf --factor 4

Nothing is trained: the copy only tells how routing behaves at lengths that the model itself does not reach. Its dense
loss by position, which the harness keeps, tells how far it can be believed.
"""
import argparse
import shutil
import struct

UINT32, FLOAT32, STRING, ARRAY = 4, 6, 8, 9
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
DEFAULT_ALIGNMENT = 32


def unpack(file, layout):
    return struct.unpack(layout, file.read(struct.calcsize(layout)))[0]


def read_string(file):
    return file.read(unpack(file, "<Q"))


def read_value(file, kind):
    if kind == STRING:
        return read_string(file)
    if kind == ARRAY:
        of = unpack(file, "<I")
        return [read_value(file, of) for _ in range(unpack(file, "<Q"))]
    data = file.read(SIZES[kind])
    return struct.unpack("<I", data)[0] if kind == UINT32 else data


def read_metadata(file, count):
    """Key to (kind, value, where the value begins)."""
    out = {}
    for _ in range(count):
        key, kind, at = read_string(file).decode(), unpack(file, "<I"), file.tell()
        out[key] = (kind, read_value(file, kind), at)
    return out


def skip_tensors(file, count):
    for _ in range(count):
        read_string(file)
        file.seek(8 * unpack(file, "<I") + 4 + 8, 1)


def entry(key, kind, value):
    name = key.encode()
    out = struct.pack("<Q", len(name)) + name + struct.pack("<I", kind)
    if kind == STRING:
        return out + struct.pack("<Q", len(value)) + value.encode()
    return out + struct.pack("<f" if kind == FLOAT32 else "<I", value)


def round_up(at, alignment):
    return (at + alignment - 1) // alignment * alignment


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("out")
    parser.add_argument("--factor", type=float, default=4)
    options = parser.parse_args()
    with open(options.source, "rb") as file:
        if file.read(4) != b"GGUF" or unpack(file, "<I") not in (2, 3):
            raise SystemExit(f"{options.source}: not a GGUF file of version 2 or 3")
        tensors, entries = unpack(file, "<Q"), unpack(file, "<Q")
        metadata = read_metadata(file, entries)
        metadata_end = file.tell()
        skip_tensors(file, tensors)
        header_end = file.tell()
        architecture = metadata["general.architecture"][1].decode()
        kind, context, context_at = metadata[architecture + ".context_length"]
        if kind != UINT32 or any(key.startswith(architecture + ".rope.scal") for key in metadata):
            raise SystemExit(f"{options.source}: its context is stretched already, or not a 32-bit number")
        alignment = metadata.get("general.alignment", (UINT32, DEFAULT_ALIGNMENT, 0))[1]
        added = [entry(architecture + ".rope.scaling.type", STRING, "yarn"),
                 entry(architecture + ".rope.scaling.factor", FLOAT32, options.factor),
                 entry(architecture + ".rope.scaling.original_context_length", UINT32, context)]
        file.seek(0)
        header = bytearray(file.read(header_end))
        struct.pack_into("<Q", header, 16, entries + len(added))
        struct.pack_into("<I", header, context_at, int(context * options.factor))
        header[metadata_end:metadata_end] = b"".join(added)
        file.seek(round_up(header_end, alignment))
        with open(options.out, "wb") as out:
            out.write(header.ljust(round_up(len(header), alignment), b"\0"))
            shutil.copyfileobj(file, out)
    print(f"{options.out}: {int(context * options.factor)} tokens, {context} before")


if __name__ == "__main__":
    main()
